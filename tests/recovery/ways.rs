//! The ways from a backup to the files of a partition. Each is one function; a new one is one more line in `WAYS`.

use std::any::Any;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use crate::support::attach::{Export, Mounted, run, text};
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

impl Shown {
    fn mounted(mounted: Mounted) -> Self {
        Self { root: mounted.path().to_owned(), by_kernel: true, _until: Box::new(mounted) }
    }

    fn folder(root: PathBuf, by_kernel: bool) -> Self {
        Self { root, by_kernel, _until: Box::new(()) }
    }
}

/// Returns nothing for a partition that the way is not for.
pub type Way = fn(&World, &Backup, &Partition) -> Option<Shown>;

const FULL: &str = "monday";
const MIDDLE: &str = "tuesday";
/// The end of the chain, which is there so that the chain has a middle.
const END: &str = "wednesday";

/// With the backups that each is tried on: those that write a whole volume are slow, and are tried on one.
pub const WAYS: &[(&str, &[&str], Way)] = &[
    ("a copy of the image, on a loop device", &[FULL, MIDDLE, END], copied_image),
    ("a copy of the partition's image", &[FULL, MIDDLE], copied_partition),
    ("the files, read by amberfs itself", &[FULL, MIDDLE, END], files_folder),
    ("amberfs files cp", &[MIDDLE], files_cp),
    ("amberfs files mount", &[FULL, MIDDLE], files_mount),
    ("a scratch image, on a loop device", &[FULL, MIDDLE], scratch_disk),
    ("a partition of a scratch image, on a loop device", &[FULL, MIDDLE], scratch_partition),
    (
        "restored to RBD, given another XFS UUID there, attached as a virtual machine does",
        &[FULL],
        restored_volume,
    ),
    ("restored to RBD with new UUIDs, beside its source", &[MIDDLE], restored_with_new_uuids),
    ("a scratch image that was changed, restored to RBD", &[MIDDLE], restored_from_scratch),
];

fn look_folder(world: &World, partition: &Partition) -> PathBuf {
    world.work().join(format!("look-{}", partition.label))
}

/// Shows a FAT, which this kernel does not mount, by mtools.
fn shown_fat(world: &World, image: &Path, partition: &Partition) -> Shown {
    let folder = look_folder(world, partition);
    let _ = fs::remove_dir_all(&folder);
    Shown::folder(fat_files(image, partition.range.offset, &folder), false)
}

/// Shows a partition of a whole disk that may be written to.
fn writable_disk(world: &World, image: &Path, partition: &Partition) -> Shown {
    if partition.kind == Kind::Fat {
        return shown_fat(world, image, partition);
    }
    let folder = look_folder(world, partition);
    assert!(
        partition.is_dirty(image, &folder),
        "{} has nothing to replay: the test is too easy",
        partition.label
    );
    Shown::mounted(partition.mount_replayed(image, &folder))
}

fn partition_image(world: &World, backup: &Backup, partition: &Partition) -> PathBuf {
    world.daemon.mount().join(format!("backups/{}/partitions/{}", backup.id, partition.number))
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

fn copied_partition(world: &World, backup: &Backup, partition: &Partition) -> Option<Shown> {
    let copy = world.work().join(format!("copy-{}", partition.label));
    let image = partition_image(world, backup, partition);
    run("cp", &["--sparse=always", "--no-preserve=mode", text(&image), text(&copy)]);
    let shown = writable_disk(world, &copy, &partition.alone());
    // The loop device holds it.
    fs::remove_file(copy).unwrap();
    Some(shown)
}

fn files_folder(world: &World, backup: &Backup, partition: &Partition) -> Option<Shown> {
    let image = partition_image(world, backup, partition);
    Some(Shown::folder(image.with_extension("files"), false))
}

/// Runs the command line, which has to succeed.
fn amberfs(world: &World, arguments: &[&str]) {
    let output = world.daemon.cli(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn files_cp(world: &World, backup: &Backup, partition: &Partition) -> Option<Shown> {
    // Each of the large file systems has a sparse file of 6 GiB, whose zeros are all read: one is enough.
    if partition.label == "home" {
        return None;
    }
    let folder = look_folder(world, partition);
    let _ = fs::remove_dir_all(&folder);
    amberfs(world, &["files", "cp", &format!("{}:{}:/", backup.id, partition.number), text(&folder)]);
    // A copy has owners, times and hard links of its own: those that it is to have.
    Some(Shown::folder(folder, true))
}

/// Unmounts what the command line has mounted.
struct FilesMounted {
    folder: PathBuf,
}

impl Drop for FilesMounted {
    fn drop(&mut self) {
        let umount = |program: &str, arguments: &[&str]| {
            let status = Command::new(program).args(arguments).arg(&self.folder).status();
            status.is_ok_and(|status| status.success())
        };
        if !umount(env!("CARGO_BIN_EXE_amberfs"), &["files", "umount"]) {
            umount("umount", &["-l"]);
            assert!(std::thread::panicking(), "amberfs files umount has failed");
        }
    }
}

fn files_mount(world: &World, backup: &Backup, partition: &Partition) -> Option<Shown> {
    if partition.kind == Kind::Fat {
        return None;
    }
    let folder = world.work().join("files-mounted");
    fs::create_dir_all(&folder).unwrap();
    amberfs(
        world,
        &["files", "mount", &backup.id, "--partition", &partition.number.to_string(), text(&folder)],
    );
    let _until = Box::new(FilesMounted { folder: folder.clone() });
    Some(Shown { root: folder, by_kernel: true, _until })
}

/// Returns a scratch image over a backup, new or made before for the same purpose.
fn scratch(world: &World, backup: &Backup, purpose: &str) -> PathBuf {
    let name = format!("{purpose}-{}", backup.name);
    let image = world.daemon.mount().join("scratch").join(&name);
    if !image.exists() {
        world.daemon.accepted("scratch", &format!("{} --name {name}\n", backup.id), "scratch");
    }
    image
}

fn scratch_disk(world: &World, backup: &Backup, partition: &Partition) -> Option<Shown> {
    Some(writable_disk(world, &scratch(world, backup, "disk"), partition))
}

fn scratch_partition(world: &World, backup: &Backup, partition: &Partition) -> Option<Shown> {
    let partitions = scratch(world, backup, "partitions").with_extension("partitions");
    Some(writable_disk(world, &partitions.join(partition.number.to_string()), &partition.alone()))
}

/// For what a volume is restored whose XFS then gets another UUID.
const CHANGED_IN_PLACE: &str = "recovered";

/// Restores to a volume of its own, unless that was done, and attaches it.
fn restored(world: &World, what: &str, backup: &Backup, purpose: &str) -> Rc<Export> {
    let name = format!("{}-{purpose}-{}", world.volume, backup.name);
    let restore = || {
        world.daemon.restore(&format!("{what} --source restore --name {name}"));
        if purpose == CHANGED_IN_PLACE {
            world.daemon.accepted("xfs-uuid", &format!("restore/{name}\n"), "new_uuid");
        }
        Rc::new(Export::rbd(world.cluster, &name, &world.work().join(&name), true))
    };
    Rc::clone(world.restored.borrow_mut().entry(name.clone()).or_insert_with(restore))
}

/// Unmounted before it is detached: a tuple is dropped from its front.
fn attached(mut shown: Shown, export: Rc<Export>) -> Shown {
    shown._until = Box::new((shown._until, export));
    shown
}

/// A volume that was restored as it is and given another UUID where it lies, through librbd.
fn restored_volume(world: &World, backup: &Backup, partition: &Partition) -> Option<Shown> {
    let export = restored(world, &backup.id, backup, CHANGED_IN_PLACE);
    Some(mounted_beside_the_source(world, partition, export))
}

fn restored_with_new_uuids(world: &World, backup: &Backup, partition: &Partition) -> Option<Shown> {
    let export = restored(world, &format!("{} --new-xfs-uuid", backup.id), backup, "renewed");
    Some(mounted_beside_the_source(world, partition, export))
}

fn mounted_beside_the_source(world: &World, partition: &Partition, export: Rc<Export>) -> Shown {
    if partition.kind == Kind::Fat {
        return attached(shown_fat(world, export.file(), partition), export);
    }
    // The source's XFS is mounted by the guest: without a UUID of its own, this one could not be.
    let mounted = partition.mount(export.file(), &look_folder(world, partition), "rw");
    attached(Shown::mounted(mounted), export)
}

const REPAIRED: &str = "repaired";

fn restored_from_scratch(world: &World, backup: &Backup, partition: &Partition) -> Option<Shown> {
    if partition.kind != Kind::Xfs {
        return None;
    }
    let image = scratch(world, backup, "repair");
    let folder = look_folder(world, partition);
    let changed = partition.mount_replayed(&image, &folder);
    fs::write(changed.path().join(REPAIRED), backup.name).unwrap();
    drop(changed);
    let name = image.file_name().unwrap().to_str().unwrap();
    let export = restored(world, &format!("--from-scratch {name}"), backup, "repaired");
    let mounted = partition.mount_replayed(export.file(), &folder);
    assert_eq!(fs::read_to_string(mounted.path().join(REPAIRED)).unwrap(), backup.name);
    // Nothing else is new.
    fs::remove_file(mounted.path().join(REPAIRED)).unwrap();
    Some(attached(Shown::mounted(mounted), export))
}

/// Takes away what the ways have kept of a backup.
pub fn forget(world: &World, backup: &Backup) {
    let _ = fs::remove_file(copy_of(world, backup));
    for purpose in ["disk", "partitions", "repair"] {
        let _ = fs::remove_file(world.daemon.mount().join(format!("scratch/{purpose}-{}", backup.name)));
    }
    for partition in &world.guest.partitions {
        let _ = fs::remove_dir_all(look_folder(world, partition));
    }
    for (name, export) in std::mem::take(&mut *world.restored.borrow_mut()) {
        drop(export);
        world.cluster.rbd(&["rm", "--no-progress", &name]);
    }
}
