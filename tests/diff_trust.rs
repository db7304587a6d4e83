//! Sources that forget to say what has changed, and how that is found out.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a failed expectation is a failed test"
)]

mod support;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use amberfs::catalog::BackupRecord;
use amberfs::operations::DiffTrust;
use amberfs::types::{ByteRange, KIB, MIB};
use support::bytes::pattern;
use support::engine::{Engine, full, incremental};
use support::tracking::{Tracking, TrackingSource};

const OFF: DiffTrust = DiffTrust { reread_within: 0, sample_blocks: 0 };
const SAMPLE_ONLY: DiffTrust = DiffTrust { reread_within: 0, sample_blocks: 16 };

/// A volume in a source that may lie about it, and its backups.
struct World {
    engine: Engine,
    tracking: Arc<Tracking>,
    bytes: Vec<u8>,
    volume: PathBuf,
    repository: PathBuf,
    _folder: tempfile::TempDir,
}

impl World {
    fn start(trust: DiffTrust, mib: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (volumes, repository) = (folder.path().join("volumes"), folder.path().join("repository"));
        fs::create_dir(&volumes).unwrap();
        let (source, tracking) = TrackingSource::open(&volumes);
        let engine = Engine::open_with(&repository, vec![source], 15, |options| options.diff_trust = trust);
        let bytes = pattern(1, mib << 20);
        let volume = volumes.join("v.raw");
        let world = Self { engine, tracking, bytes, volume, repository, _folder: folder };
        fs::write(&world.volume, &world.bytes).unwrap();
        world
    }

    /// Makes a full backup, which nobody can lie about.
    fn full(&self) {
        self.engine.backup(full("v"));
    }

    fn change(&mut self, offset: u64, length: u64) {
        let range = usize::try_from(offset).unwrap()..usize::try_from(offset + length).unwrap();
        self.bytes[range].iter_mut().for_each(|byte| *byte ^= 0x5a);
        fs::write(&self.volume, &self.bytes).unwrap();
    }

    /// Changes a range without the source saying so.
    fn change_unseen(&mut self, offset: u64, length: u64) {
        self.change(offset, length);
        self.tracking.hide(ByteRange::new(offset, length));
    }

    /// Makes an incremental backup; returns its record and whether it is right.
    fn incremental(&self) -> (Arc<BackupRecord>, bool) {
        let record = self.engine.backup(incremental("v"));
        assert!(record.is_incremental());
        let is_right = self.engine.image(record.id) == self.bytes;
        (record, is_right)
    }

    fn diffs(&self) -> u64 {
        self.tracking.diffs.swap(0, Ordering::Relaxed)
    }
}

#[test]
fn without_any_check_a_diff_that_leaves_something_out_spoils_the_backup() {
    let mut world = World::start(OFF, 8);
    world.full();
    world.change(2 * MIB, 8 * KIB);
    world.change_unseen(2 * MIB + 8 * KIB, 4 * KIB);
    let (record, is_right) = world.incremental();
    assert_eq!((record.diff_check.misses, is_right), (0, false), "the tests below would show nothing");
}

#[test]
fn a_change_that_is_cut_off_a_diff_is_found_beside_what_it_tells_and_the_backup_is_right() {
    for unseen in [2 * MIB + 8 * KIB, 2 * MIB - 4 * KIB] {
        let mut world = World::start(SAMPLE_ONLY, 8);
        world.full();
        world.change(2 * MIB, 8 * KIB);
        world.change_unseen(unseen, 4 * KIB);
        let (record, is_right) = world.incremental();
        assert!(is_right, "unseen at {unseen}");
        assert_eq!(record.diff_check.misses, 1);
    }
}

#[test]
fn a_source_that_was_wrong_is_not_asked_the_next_time_and_watched_closely_for_a_while() {
    let mut world = World::start(SAMPLE_ONLY, 64);
    world.full();
    world.change(2 * MIB, 8 * KIB);
    world.change_unseen(2 * MIB + 8 * KIB, 4 * KIB);
    let (_, is_right) = world.incremental();
    assert!(is_right);
    world.tracking.hide_nothing();
    world.diffs();

    // Far from anything that is told.
    world.change_unseen(40 * MIB, 4 * KIB);
    let (record, is_right) = world.incremental();
    assert_eq!((world.diffs(), record.diff_check.misses, is_right), (0, 0, true));
    let mut read = Vec::new();
    for _ in 0..8 {
        world.change(2 * MIB, 4 * KIB);
        world.tracking.bytes_read.store(0, Ordering::Relaxed);
        let (record, is_right) = world.incremental();
        assert_eq!((world.diffs(), record.diff_check.misses, is_right), (1, 0, true));
        read.push(world.tracking.bytes_read.load(Ordering::Relaxed) - 4 * KIB);
    }
    // Of eight backups the first remembers the miss at first, and then none does.
    assert!(read[..6].iter().all(|read| *read > 8 * 64 * KIB), "{read:?}");
    assert!(read[7] <= 4 * 64 * KIB, "{read:?}");
}

#[test]
fn a_diff_that_tells_next_to_nothing_is_found_out_by_the_sample_at_once() {
    let mut world = World::start(SAMPLE_ONLY, 8);
    world.full();
    world.change_unseen(0, 8 * MIB - 4 * KIB);
    let (record, is_right) = world.incremental();
    assert_eq!((record.diff_check.misses, is_right), (1, true));
}

#[test]
fn whatever_a_diff_leaves_out_is_found_within_the_promised_number_of_backups() {
    const WITHIN: u64 = 6;
    for unseen in [0, 5 * MIB + 12 * KIB, 12 * MIB - 4 * KIB] {
        let mut world = World::start(DiffTrust { reread_within: WITHIN, sample_blocks: 0 }, 12);
        world.full();
        // The window is somewhere in the volume by then.
        for _ in 0..unseen / MIB % 4 {
            world.incremental();
        }
        world.change_unseen(unseen, 4 * KIB);
        let is_found = (0..WITHIN).any(|number| {
            let (record, is_right) = world.incremental();
            assert_eq!(is_right, record.diff_check.misses > 0, "backup {number}");
            is_right
        });
        assert!(is_found, "unseen at {unseen}");
        world.tracking.hide_nothing();
        assert!(world.incremental().1, "what was found stays right");
    }
}

#[test]
fn a_parent_that_is_damaged_is_stored_again_and_the_source_is_not_blamed() {
    let mut world = World::start(DiffTrust { reread_within: 1, sample_blocks: 0 }, 4);
    world.full();
    let packs = support::tree::files(&world.repository.join("packs"));
    for pack in packs.keys() {
        fs::remove_file(world.repository.join("packs").join(pack)).unwrap();
    }
    world.change(2 * MIB, 4 * KIB);
    let (record, is_right) = world.incremental();
    assert_eq!((record.diff_check.misses, is_right), (0, true));
}

#[test]
fn an_incremental_of_one_percent_reads_little_more_than_that() {
    let mut world = World::start(DiffTrust::default(), 512);
    world.full();
    let changed = 512 * MIB / 100;
    for number in 0..changed / (4 * KIB) {
        let offset = usize::try_from(number * 400 * KIB).unwrap();
        world.bytes[offset] ^= 1;
    }
    fs::write(&world.volume, &world.bytes).unwrap();
    world.tracking.bytes_read.store(0, Ordering::Relaxed);
    let (record, is_right) = world.incremental();
    let read = world.tracking.bytes_read.load(Ordering::Relaxed);
    assert_eq!((record.diff_check.misses, is_right), (0, true));
    assert!(read > changed && read * 10 <= changed * 13, "{read} bytes read of {changed}");
}

#[cfg(feature = "rbd")]
mod rbd {
    use serde_json::json;

    use super::*;
    use support::ceph::{CephCluster, RESTORE_USER};

    /// What clients that died have done to object maps: the map says that an object is as it was at the last snapshot.
    #[test]
    fn an_object_map_of_rbd_that_forgot_a_write_is_found_out() {
        let cluster = CephCluster::shared();
        let folder = tempfile::tempdir().unwrap();
        let open = |trust: DiffTrust| {
            let source: Arc<dyn amberfs::source::Source> = Arc::new(cluster.source(RESTORE_USER));
            let repository = folder.path().join("repository");
            Engine::open_with(&repository, vec![source], 15, |options| options.diff_trust = trust)
        };
        let mut driver = cluster.driver();
        driver.create("forgetful", 32 * MIB);
        driver.write("forgetful", 0, 32 * MIB, 1);
        let id = driver.run(json!({"op": "id", "name": "forgetful"}))["ok"].as_str().unwrap().to_owned();
        let close = json!({"op": "close", "name": "forgetful"});
        driver.run(close.clone());
        let engine = open(OFF);
        engine.backup(full("forgetful"));

        let map = format!("rbd_object_map.{id}");
        let file = tempfile::NamedTempFile::new().unwrap();
        cluster.rados(&["get", &map, file.path().to_str().unwrap()]);
        driver.write("forgetful", 21 * MIB, 4096, 2);
        driver.run(close);
        cluster.rados(&["put", &map, file.path().to_str().unwrap()]);
        let bytes = driver.read("forgetful", None);
        let spoilt = engine.backup(incremental("forgetful"));
        assert!(engine.image(spoilt.id) != bytes, "the map was not looked at: this test shows nothing");
        drop(engine);

        let engine = open(DiffTrust { reread_within: 4, sample_blocks: 0 });
        let found = (0..4).find_map(|_| {
            let record = engine.backup(incremental("forgetful"));
            (record.diff_check.misses > 0).then_some(record.id)
        });
        assert!(engine.image(found.unwrap()) == bytes);
    }
}
