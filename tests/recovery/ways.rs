//! The ways from a backup to the files of a partition. Each is one function; a new one is one more line in `WAYS`.

use std::any::Any;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::support::attach::{Export, run, text};
use crate::support::guest::{Kind, Partition, fat_files};
use crate::{Backup, World};

/// The files of a partition, seen by one of the ways until this is dropped.
pub struct Shown {
    pub root: PathBuf,
    /// Owners, times and hard links are to be compared as well.
    pub by_kernel: bool,
    /// What shows them.
    _until: Box<dyn Any>,
}

/// Returns nothing for a partition that the way is not for.
pub type Way = fn(&World, &Backup, &Partition) -> Option<Shown>;

pub const WAYS: &[(&str, Way)] = &[
    ("a copy of the image, on a loop device", copied_image),
    ("restored to RBD, attached as a virtual machine does", restored_volume),
];

/// Shows a partition of a whole disk that may be written to: FAT, which this kernel does not mount, by mtools.
fn writable_disk(world: &World, image: &Path, partition: &Partition) -> Shown {
    let folder = world.work().join(format!("look-{}", partition.label));
    if partition.kind == Kind::Fat {
        let _ = fs::remove_dir_all(&folder);
        let root = fat_files(image, partition.range.offset, &folder);
        return Shown { root, by_kernel: false, _until: Box::new(()) };
    }
    assert!(
        partition.is_dirty(image, &folder),
        "{} has nothing to replay: the test is too easy",
        partition.label
    );
    let mounted = partition.mount_replayed(image, &folder);
    Shown { root: mounted.path().to_owned(), by_kernel: true, _until: Box::new(mounted) }
}

fn copy_of(world: &World, backup: &Backup) -> PathBuf {
    world.work().join(format!("copy-{}", backup.name))
}

fn copied_image(world: &World, backup: &Backup, partition: &Partition) -> Option<Shown> {
    let copy = copy_of(world, backup);
    if !copy.exists() {
        run("cp", &["--sparse=always", text(&world.daemon.image(&backup.id)), text(&copy)]);
    }
    Some(writable_disk(world, &copy, partition))
}

fn restored_name(world: &World, backup: &Backup) -> String {
    format!("{}-recovered-{}", world.volume, backup.name)
}

fn restored_volume(world: &World, backup: &Backup, partition: &Partition) -> Option<Shown> {
    let export = Rc::clone(world.restored.borrow_mut().entry(backup.id.clone()).or_insert_with(|| {
        let name = restored_name(world, backup);
        world.daemon.restore(&format!("{} --source restore --name {name}", backup.id));
        Rc::new(Export::rbd(world.cluster, &name, &world.work().join(&name), true))
    }));
    let mut shown = writable_disk(world, export.file(), partition);
    // Unmounted before it is detached: a tuple is dropped from its front.
    shown._until = Box::new((shown._until, export));
    Some(shown)
}

/// Takes away what the ways have kept of a backup.
pub fn forget(world: &World, backup: &Backup) {
    let _ = fs::remove_file(copy_of(world, backup));
    if world.restored.borrow_mut().remove(&backup.id).is_some() {
        world.cluster.rbd(&["rm", "--no-progress", &restored_name(world, backup)]);
    }
}
