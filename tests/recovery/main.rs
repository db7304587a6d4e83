//! Somebody lost a file: a Debian system on an RBD image is backed up while it is written to, and every file that it
//! had synced comes back by every way that there is, from the full backup, the middle of the chain, and its end.

#![cfg(feature = "rbd")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a failed expectation is a failed test"
)]

#[path = "../support/mod.rs"]
mod support;

mod ways;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use rustix::io::Errno;
use serde_json::json;
use support::attach::Export;
use support::ceph::{BACKUP_USER, CephCluster, POOL, RESTORE_USER};
use support::daemon::Daemon;
use support::guest::{Disk, Guest, Layout, Moment};

/// A guest and its backups. Dropped in this order: who reads an image before who serves it.
struct World {
    /// The image of the guest: each test has its own.
    volume: &'static str,
    /// Restored volumes that are attached, by their names.
    restored: RefCell<BTreeMap<String, Rc<Export>>>,
    guest: Guest,
    daemon: Daemon,
    cluster: &'static CephCluster,
}

struct Backup {
    id: String,
    name: &'static str,
    moment: Moment,
}

/// Two sources over one pool, each with just the rights that README gives it.
fn sections(cluster: &CephCluster) -> String {
    let source = |name: &str, user: &str| {
        let conf = cluster.conf();
        let conf = conf.display();
        format!("[source.{name}]\ntype = \"rbd\"\nconf = \"{conf}\"\nuser = \"{user}\"\npool = \"{POOL}\"\n")
    };
    source("rbd", BACKUP_USER) + &source("restore", RESTORE_USER)
}

impl World {
    fn new(volume: &'static str, layout: Layout) -> Self {
        let cluster = CephCluster::shared();
        let daemon = Daemon::start(&sections(cluster));
        let disk = Disk::make(layout);
        let mut guest = Guest::on_rbd(&disk, cluster, volume);
        guest.start_writers();
        guest.pass_a_day();
        Self { volume, restored: RefCell::default(), guest, daemon, cluster }
    }

    /// A folder for what a test makes.
    fn work(&self) -> PathBuf {
        self.daemon.folder().to_owned()
    }

    /// Backs the guest up at a moment that it has synced something; users and programs go on while the backup is made.
    fn back_up(&mut self, name: &'static str, options: &str) -> Backup {
        let moment = self.guest.sync_and_list();
        let volume = self.volume;
        let said = self.daemon.say("backup", &format!("rbd/{volume} --force --name {name} {options}\n"));
        assert!(said.write.is_ok(), "{}", said.answer);
        self.guest.pass_a_day();
        let value = |key| said.answer.split_whitespace().find_map(|pair| pair.strip_prefix(key)).unwrap();
        self.daemon.done(value("job="));
        Backup { id: value("backup=").to_owned(), name, moment }
    }
}

#[test]
fn every_file_that_a_running_guest_had_synced_comes_back_by_every_way() {
    let mut world = World::new("guest", Layout::Gpt);
    world.daemon.refused("backup", "rbd/guest\n", Errno::BUSY, "VolumeInUse");
    let backups = [
        world.back_up("monday", ""),
        world.back_up("tuesday", "--incremental"),
        world.back_up("wednesday", "--incremental"),
    ];
    world.guest.stop_writers();
    let info = backups.each_ref().map(|backup| world.daemon.info(&backup.id));
    assert_eq!(info.each_ref().map(|info| info["is_incremental"] == true), [false, true, true]);
    let [first, middle, last] = &backups;
    assert_eq!(info[2]["parent_id"], json!(middle.id));

    let started = Instant::now();
    for backup in [first, middle, last] {
        for (name, _, way) in ways::WAYS.iter().filter(|(_, backups, _)| backups.contains(&backup.name)) {
            for partition in &world.guest.partitions {
                let Some(shown) = way(&world, backup, partition) else { continue };
                eprintln!("{:?} {} {} {name}", started.elapsed(), backup.name, partition.label);
                match shown.by_kernel {
                    true => world.guest.check_mounted(&backup.moment, &shown.root, partition),
                    false => world.guest.check(&backup.moment, &shown.root, partition),
                }
            }
        }
        ways::forget(&world, backup);
    }
}
