//! A virtual machine's disk that is in use: a Debian system on ext4 and XFS partitions, mounted by this kernel from a
//! raw file or from an RBD image, with programs that write to it. Needs root.

pub mod contents;
pub mod disk;
pub mod listing;
pub mod lvm;
pub mod writers;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[allow(unused_imports, reason = "every test target uses a part of it")]
pub use disk::{Disk, Kind, Layout, Partition};
use listing::{Fields, Listing};
use writers::Writer;

use crate::support::attach::{Export, Mounted, run, text};

/// The folder of each file system that is written to all the time; no list has it.
pub const BUSY: &str = "busy";

/// What must be found in every copy of the disk that is taken from now on until the next change.
pub struct Moment {
    /// By the partition's number.
    pub lists: BTreeMap<u32, Listing>,
    /// How much of the writers' work was durable, by the partition's number.
    rounds: BTreeMap<u32, u64>,
}

/// Ends its writers, unmounts, and detaches, in this order, whatever happened.
pub struct Guest {
    writers: BTreeMap<u32, Writer>,
    mounted: BTreeMap<u32, Mounted>,
    export: Option<Export>,
    pub partitions: Vec<Partition>,
    /// The newest lists; what is unchanged is not read again.
    lists: BTreeMap<u32, Listing>,
    day: u64,
    folder: tempfile::TempDir,
}

impl Guest {
    /// Puts a copy of the disk at `image` and starts the guest on it.
    pub fn on_file(disk: &Disk, image: &Path) -> Self {
        run("cp", &["--sparse=always", "--reflink=auto", text(&disk.image()), text(image)]);
        Self::start(disk, image, tempfile::tempdir().unwrap())
    }

    /// Puts a copy of the disk into a new RBD image and starts the guest on it, as a client that holds its lock.
    #[cfg(feature = "rbd")]
    pub fn on_rbd(disk: &Disk, cluster: &crate::support::ceph::CephCluster, name: &str) -> Self {
        let features = "layering,exclusive-lock,object-map,fast-diff,deep-flatten";
        cluster.rbd(&["import", "--no-progress", "--image-feature", features, text(&disk.image()), name]);
        let folder = tempfile::tempdir().unwrap();
        let export = Export::rbd(cluster, name, &folder.path().join("disk"), true);
        let mut guest = Self::start(disk, export.file(), folder);
        guest.export = Some(export);
        guest
    }

    fn start(disk: &Disk, image: &Path, folder: tempfile::TempDir) -> Self {
        let mut guest = Self {
            writers: BTreeMap::new(),
            mounted: BTreeMap::new(),
            export: None,
            partitions: disk.partitions.clone(),
            lists: disk.lists.clone(),
            day: 0,
            folder,
        };
        for partition in disk.partitions.iter().filter(|partition| partition.kind != Kind::Fat) {
            let device = partition.attach(image, &["--direct-io=on"]);
            let mountpoint = guest.folder.path().join(partition.label);
            // As a machine mounts it: an XFS with this UUID is now in use.
            guest.mounted.insert(partition.number, Mounted::new(device, &mountpoint, "rw"));
        }
        guest
    }

    pub fn partition(&self, label: &str) -> &Partition {
        self.partitions.iter().find(|partition| partition.label == label).unwrap()
    }

    /// Returns where the guest itself has a partition mounted.
    pub fn mountpoint(&self, number: u32) -> &Path {
        self.mounted.get(&number).unwrap().path()
    }

    /// Starts the programs that write to the root and home file systems, and waits until they have.
    pub fn start_writers(&mut self) {
        for (number, mounted) in &self.mounted {
            if self.partition("boot").number != *number {
                self.writers.insert(*number, Writer::start(&mounted.path().join(BUSY)));
            }
        }
        self.wait_for_writers();
    }

    /// Waits until every writer has done more than it had.
    fn wait_for_writers(&self) {
        self.writers.values().for_each(Writer::wait_for_more);
    }

    /// Lets a day pass for the user: files come, go and change in every file system but EFI's.
    pub fn pass_a_day(&mut self) {
        self.day += 1;
        for mounted in self.mounted.values() {
            contents::change(mounted.path(), self.day);
        }
    }

    /// Syncs every file system, tells what is in them, and lets the writers do more than that, durably. What they did is
    /// then in the logs alone, and so is what `sync -f` wrote of an XFS: an image without its replay lacks it.
    pub fn sync_and_list(&mut self) -> Moment {
        for (number, mounted) in &self.mounted {
            run("sync", &["-f", text(mounted.path())]);
            let list = self.lists.get_mut(number).unwrap();
            *list = listing::list_again(mounted.path(), list);
        }
        self.wait_for_writers();
        let rounds = self.writers.iter().map(|(number, writer)| (*number, writer.rounds())).collect();
        Moment { lists: self.lists.clone(), rounds }
    }

    /// Compares everything below `root`, which is some view of a partition, with what was there, and panics with the
    /// first differences.
    pub fn check(&self, moment: &Moment, root: &Path, partition: &Partition) {
        self.check_fields(moment, root, partition, Fields::Shown);
    }

    /// Compares owners, times and hard links, too: for a view by the kernel.
    pub fn check_mounted(&self, moment: &Moment, root: &Path, partition: &Partition) {
        self.check_fields(moment, root, partition, Fields::All);
    }

    fn check_fields(&self, moment: &Moment, root: &Path, partition: &Partition, fields: Fields) {
        let fields = if partition.kind == Kind::Fat { Fields::Bytes } else { fields };
        let expected = moment.lists.get(&partition.number).unwrap();
        let different = listing::differences(expected, &listing::list(root), fields);
        let first: Vec<_> = different.iter().take(5).cloned().collect();
        assert!(
            different.is_empty(),
            "{} of {} paths of {} differ in {}:\n{}",
            different.len(),
            expected.len(),
            partition.label,
            root.display(),
            first.join("\n")
        );
        if let Some(rounds) = moment.rounds.get(&partition.number) {
            writers::check(&root.join(BUSY), *rounds, self.folder.path());
        }
    }

    /// Lets the programs come to their end; the file systems stay mounted.
    pub fn stop_writers(&mut self) {
        self.writers.clear();
    }

    /// Ends the writers, and shuts the guest down in order.
    pub fn stop(self) {}
}

/// Copies the files out of a FAT file system in an image, by mtools.
pub fn fat_files(image: &Path, offset: u64, to: &Path) -> PathBuf {
    fs::create_dir_all(to).unwrap();
    let source = format!("{}@@{offset}", text(image));
    let copied = Command::new("mcopy")
        .env("MTOOLS_SKIP_CHECK", "1")
        .args(["-s", "-n", "-m", "-i", &source, "::/EFI", text(to)])
        .output()
        .unwrap();
    assert!(copied.status.success(), "mcopy: {}", String::from_utf8_lossy(&copied.stderr));
    to.to_owned()
}
