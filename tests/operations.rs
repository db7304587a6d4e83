//! Backups and restores from the command to their end, also the bad ones: cancelled, failed, written to meanwhile.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a failed expectation is a failed test, and volumes are plain files"
)]

mod support;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use amberfs::catalog::{BackupRecord, BackupStatus};
use amberfs::jobs::{JobId, JobReport, JobState};
use amberfs::operations::{BackupRequest, Requester, RestoreRequest};
use amberfs::source::Source;
use amberfs::types::{BackupId, ByteRange, GIB, KIB, RefusalKind};

use support::bytes::pattern;
use support::engine::{Engine, file_names, full, incremental, mark, over, restore};
use support::file_system::{self, Folder, Kind};
use support::gated::{GatedSource, Gates};
use support::tree;

struct World {
    engine: Engine,
    gates: Arc<Gates>,
    source: Arc<dyn Source>,
    folder: Folder,
}

impl World {
    fn new(kind: Kind) -> Self {
        let folder = file_system::folder(kind);
        std::fs::create_dir(folder.path().join("volumes")).unwrap();
        let (source, gates) = GatedSource::open(&folder.path().join("volumes"));
        let engine = Engine::open(&folder.path().join("repository"), vec![Arc::clone(&source)]);
        Self { engine, gates, source, folder }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join("volumes").join(file)
    }

    fn volume(&self, file: &str, bytes: &[u8]) {
        std::fs::write(self.path(file), bytes).unwrap();
    }

    /// All files in the source, snapshots too.
    fn files(&self) -> Vec<String> {
        file_names(&self.folder.path().join("volumes"))
    }

    fn repository_files(&self) -> Vec<String> {
        let files = tree::files(&self.folder.path().join("repository")).into_keys();
        files.filter(|name| !name.starts_with("index/") && name != "lock" && name != "repository").collect()
    }

    fn record(&self, id: BackupId) -> Option<Arc<BackupRecord>> {
        self.engine.operations.repository().catalog().get(id)
    }

    fn wait(&self, job: JobId) -> JobReport {
        self.engine.operations.jobs().wait(job).unwrap()
    }

    fn cancel(&self, job: JobId) {
        self.engine.operations.cancel(&Requester::OPERATOR, &job.to_string()).unwrap();
    }

    fn state(&self, job: JobId) -> JobState {
        self.engine.operations.jobs().report(job).unwrap().state
    }
}

#[test]
fn of_a_cancelled_backup_nothing_remains() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        let world = World::new(kind);
        world.volume("v", &pattern(1, 9 << 20));
        world.gates.reads.close();
        let accepted = world.engine.operations.backup(&Requester::OPERATOR, &full("v")).unwrap();
        world.gates.reads.wait_until_waiting(1);
        assert_eq!(world.state(accepted.job), JobState::Running);
        assert_eq!(world.record(accepted.backup).unwrap().status, BackupStatus::Creating);
        assert!(
            world.engine.operations.repository().image(accepted.backup).is_err(),
            "no image before it is available"
        );
        assert_eq!(world.files().len(), if kind == Kind::Xfs { 2 } else { 1 }, "the snapshot");
        world.cancel(accepted.job);
        world.gates.reads.open();
        let report = world.wait(accepted.job);
        assert_eq!((report.state, report.error), (JobState::Cancelled, None));
        assert!(world.record(accepted.backup).is_none());
        assert_eq!(world.files(), ["v"]);
        assert_eq!(world.repository_files(), [] as [&str; 0]);
        // Nothing is held any more either.
        OpenOptions::new().write(true).open(world.path("v")).unwrap();
        world.engine.backup(full("v"));
    }
}

#[test]
fn fifteen_run_and_a_queued_one_is_cancelled_without_having_run() {
    let world = World::new(Kind::Xfs);
    world.volume("v", &pattern(1, 100_000));
    world.gates.reads.close();
    let accepted: Vec<_> =
        (0..17).map(|_| world.engine.operations.backup(&Requester::OPERATOR, &full("v")).unwrap()).collect();
    world.gates.reads.wait_until_waiting(15);
    let states: Vec<_> = accepted.iter().map(|accepted| world.state(accepted.job)).collect();
    assert_eq!(states[..15], [JobState::Running; 15]);
    assert_eq!(states[15..], [JobState::Queued; 2]);
    world.cancel(accepted[15].job);
    assert_eq!(world.state(accepted[15].job), JobState::Cancelled);
    assert!(world.record(accepted[15].backup).is_none());
    assert_eq!(world.files().len(), 1 + 16, "its snapshot is gone, those of the others are not");
    world.gates.reads.open();
    for accepted in accepted.iter().filter(|one| one.job != accepted[15].job) {
        assert_eq!(world.wait(accepted.job).state, JobState::Done);
        assert_eq!(world.engine.image(accepted.backup), pattern(1, 100_000));
    }
    assert_eq!(world.files(), ["v"]);
}

#[test]
fn a_failed_backup_is_an_error_that_says_why_and_nothing_leans_on_it() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        let world = World::new(kind);
        world.volume("v", &pattern(1, 300_000));
        let first = world.engine.backup(full("v"));
        let before = world.repository_files();
        world.volume("v", &pattern(2, 300_000));
        world.gates.reads.fail(true);
        let accepted = world.engine.operations.backup(&Requester::OPERATOR, &incremental("v")).unwrap();
        let report = world.wait(accepted.job);
        assert_eq!(
            (report.state, report.error.as_ref().unwrap().kind),
            (JobState::Failed, RefusalKind::Failed)
        );
        world.gates.reads.fail(false);
        let record = world.record(accepted.backup).unwrap();
        assert_eq!(record.status, BackupStatus::Error);
        let reason = record.fail_reason.clone().unwrap();
        assert_eq!(reason, report.error.unwrap().to_string());
        assert!(reason.contains("the disk fails") && reason.contains("os error 5"), "{reason}");
        assert_eq!((record.manifest.clone(), record.snapshot.clone()), (None, None));
        assert_eq!(world.files(), ["v"]);
        assert_eq!(world.repository_files().len(), before.len() + 1, "its record");
        assert!(world.engine.operations.repository().image(record.id).is_err());
        let next = world.engine.backup(incremental("v"));
        assert_eq!(next.parent_id, Some(first.id));
        assert_eq!(world.engine.image(next.id), pattern(2, 300_000));
        assert_eq!(world.engine.image(first.id), pattern(1, 300_000));
    }
}

#[test]
fn a_restore_that_does_not_end_well_leaves_no_volume() {
    let world = World::new(Kind::Ext4);
    // One write of 4 MiB more than there are threads: it waits when all the others are under way.
    let threads = thread::available_parallelism().unwrap().get() + 2;
    let bytes = pattern(1, (threads + 1) * (4 << 20));
    world.volume("v", &bytes);
    let id = world.engine.backup(full("v")).id;
    std::fs::remove_file(world.path("v")).unwrap();
    for fails in [false, true] {
        world.gates.writes.close();
        let accepted = world.engine.operations.restore(&Requester::OPERATOR, &restore(id)).unwrap();
        assert_eq!(accepted.volume.as_str(), "v");
        world.gates.writes.wait_until_waiting(threads);
        assert_eq!(world.record(id).unwrap().status, BackupStatus::Restoring);
        assert_eq!(world.files(), [format!("restore_backup_{id}.raw")], "nothing under the final name");
        let again = world.engine.operations.restore(&Requester::OPERATOR, &restore(id)).unwrap_err();
        assert_eq!(again.kind, RefusalKind::InvalidState);
        if fails {
            world.gates.writes.fail(true);
        } else {
            world.cancel(accepted.job);
        }
        world.gates.writes.open();
        let state = world.wait(accepted.job).state;
        world.gates.writes.fail(false);
        assert_eq!(state, if fails { JobState::Failed } else { JobState::Cancelled });
        assert_eq!(world.files(), [] as [&str; 0]);
        let record = world.record(id).unwrap();
        assert_eq!((record.status, &record.restore_target), (BackupStatus::Available, &None));
    }
    assert_eq!(world.engine.restore(restore(id)), "v");
    assert_eq!(std::fs::read(world.path("v.raw")).unwrap(), bytes);
    assert_eq!(world.files(), ["v.raw"]);
}

#[test]
fn a_final_name_that_is_taken_meanwhile_is_not_overwritten() {
    let world = World::new(Kind::Ext4);
    world.volume("v", &pattern(1, 300_000));
    let id = world.engine.backup(full("v")).id;
    std::fs::remove_file(world.path("v")).unwrap();
    for named in [false, true] {
        world.gates.writes.close();
        let request = RestoreRequest { name: named.then(|| "v".to_owned()), ..restore(id) };
        let accepted = world.engine.operations.restore(&Requester::OPERATOR, &request).unwrap();
        world.gates.writes.wait_until_waiting(1);
        world.volume("v", b"somebody else's");
        world.gates.writes.open();
        let report = world.wait(accepted.job);
        if named {
            assert_eq!(report.error.unwrap().kind, RefusalKind::VolumeExists);
        } else {
            assert_eq!(report.state, JobState::Done);
        }
        assert_eq!(std::fs::read(world.path("v")).unwrap(), b"somebody else's");
        std::fs::remove_file(world.path("v")).unwrap();
        let files = world.files();
        assert_eq!(files.len(), 1, "{files:?}");
        assert!(files[0].starts_with("v-20"), "{files:?}");
        assert_eq!(std::fs::read(world.path(&files[0])).unwrap(), pattern(1, 300_000));
    }
}

#[test]
fn an_overwritten_volume_is_marked_until_a_restore_ends_well() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        let world = World::new(kind);
        let mut bytes = vec![0; 9 << 20];
        bytes[1 << 20..3 << 20].copy_from_slice(&pattern(1, 2 << 20));
        world.volume("v", &bytes);
        let id = world.engine.backup(full("v")).id;
        for fails in [false, true] {
            // What the restore before may have written right would not be written again.
            world.volume("v", &pattern(2, 10 << 20));
            world.gates.writes.close();
            let accepted = world.engine.operations.restore(&Requester::OPERATOR, &over(id, "v")).unwrap();
            world.gates.writes.wait_until_waiting(1);
            assert_eq!(mark(&world.path("v")).unwrap(), b"incomplete", "from before the first write");
            if fails {
                world.gates.writes.fail(true);
            } else {
                world.cancel(accepted.job);
            }
            world.gates.writes.open();
            assert!(matches!(world.wait(accepted.job).state, JobState::Cancelled | JobState::Failed));
            world.gates.writes.fail(false);
            assert_eq!(mark(&world.path("v")).unwrap(), b"incomplete");
            assert_eq!(world.record(id).unwrap().status, BackupStatus::Available);
        }
        world.engine.restore(over(id, "v"));
        assert_eq!(mark(&world.path("v")), None);
        bytes.resize(10 << 20, 0);
        assert!(std::fs::read(world.path("v")).unwrap() == bytes, "zeros beyond the backup's end");
        assert_eq!(world.files(), ["v"]);
    }
}

#[test]
fn volumes_of_any_name_are_backed_up_and_restored() {
    let world = World::new(Kind::Xfs);
    let long = "\u{e4}".repeat(127) + "x";
    let names = [
        "a b",
        "quo'te\"s",
        "\u{fc}\u{1f600}",
        ".dot",
        "-dash",
        "--force",
        "new\nline",
        "tab\t",
        "a%2Fb",
        "$(x)",
        "\\",
        "a@latest",
        "~",
        &long,
    ];
    for (number, name) in names.into_iter().enumerate() {
        let bytes = pattern(number as u64, 70_000 + number);
        world.volume(name, &bytes);
        let record = world.engine.backup(full(name));
        assert_eq!(record.volume_name.as_str(), name);
        assert_eq!(world.engine.image(record.id), bytes);
        assert_eq!(world.engine.backup(incremental(&format!("local/{name}"))).parent_id, Some(record.id));
        std::fs::remove_file(world.path(name)).unwrap();
        assert_eq!(world.engine.restore(restore(record.id)), name);
        let restored = world.source.volume(&name.parse().unwrap()).unwrap();
        assert_eq!(restored.size_bytes, bytes.len() as u64);
        let again = world.engine.backup(full(name));
        assert_eq!(world.engine.image(again.id), bytes);
    }
}

#[test]
fn sizes_are_exact_to_the_byte() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        let world = World::new(kind);
        let sizes = [0, 1, 511, 513, 65_535, 65_537, 4096, 0, 200_001, 7];
        let mut images = Vec::new();
        for (number, size) in sizes.into_iter().enumerate() {
            let bytes = pattern(number as u64, size);
            world.volume("v", &bytes);
            let record = world.engine.backup(if number == 0 { full("v") } else { incremental("v") });
            assert_eq!((record.size_bytes, record.is_incremental()), (size as u64, number > 0));
            images.push((record.id, bytes));
            let alone = world.engine.backup(full("v"));
            images.push((alone.id, pattern(number as u64, size)));
        }
        for (number, (id, bytes)) in images.iter().enumerate() {
            assert!(world.engine.image(*id) == *bytes, "{number}");
            let request = RestoreRequest { name: Some(format!("r{number}")), ..restore(*id) };
            world.engine.restore(request);
            assert!(std::fs::read(world.path(&format!("r{number}.raw"))).unwrap() == *bytes, "{number}");
        }
    }
}

#[test]
fn what_a_volume_lost_when_it_shrank_does_not_come_back() {
    let world = World::new(Kind::Ext4);
    let mut bytes = pattern(1, 400_000);
    world.volume("v", &bytes);
    world.engine.backup(full("v"));
    bytes.truncate(100_001);
    world.volume("v", &bytes);
    world.engine.backup(incremental("v"));
    OpenOptions::new().write(true).open(world.path("v")).unwrap().set_len(500_000).unwrap();
    bytes.resize(500_000, 0);
    let record = world.engine.backup(incremental("v"));
    assert!(world.engine.image(record.id) == bytes);
    assert_eq!(record.stored_bytes, record.manifest.clone().unwrap().length, "nothing but zeros is new");
}

#[test]
fn a_sparse_volume_of_4_tib_costs_what_is_in_it() {
    let world = World::new(Kind::Xfs);
    let size = 4 << 40;
    let file = File::create(world.path("v")).unwrap();
    file.set_len(size).unwrap();
    let places = [0, 5 * GIB + 12_345, 2 << 40, size - 10_000];
    for (number, place) in places.into_iter().enumerate() {
        file.write_all_at(&pattern(number as u64, 10_000), place).unwrap();
    }
    drop(file);
    let first = world.engine.backup(full("v"));
    let read = world.gates.bytes_read.swap(0, Ordering::Relaxed);
    assert!(read <= 6 * 64 * KIB, "{read}");
    assert!(first.stored_bytes < 50_000, "{}", first.stored_bytes);
    assert!(first.allocated_bytes <= 6 * 64 * KIB, "{}", first.allocated_bytes);
    let file = OpenOptions::new().write(true).open(world.path("v")).unwrap();
    file.write_all_at(&pattern(9, 10_000), 3 << 40).unwrap();
    rustix::fs::fallocate(
        &file,
        rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE,
        2 << 40,
        65_536,
    )
    .unwrap();
    drop(file);
    let second = world.engine.backup(incremental("v"));
    let read = world.gates.bytes_read.swap(0, Ordering::Relaxed);
    assert!(read <= 6 * 64 * KIB, "{read}");
    assert!(second.stored_bytes < 20_000, "{}", second.stored_bytes);
    let repository = world.engine.operations.repository();
    for (id, expected) in [
        (
            first.id,
            [
                (places[0], Some(0)),
                (places[1], Some(1)),
                (places[2], Some(2)),
                (places[3], Some(3)),
                (3 << 40, None),
            ],
        ),
        (
            second.id,
            [
                (places[0], Some(0)),
                (places[1], Some(1)),
                (places[2], None),
                (places[3], Some(3)),
                (3 << 40, Some(9)),
            ],
        ),
    ] {
        let image = repository.image(id).unwrap();
        assert_eq!(image.size_bytes(), size);
        for (place, seed) in expected {
            let mut bytes = vec![0xa5; 10_000];
            assert_eq!(image.read(place, &mut bytes).unwrap(), 10_000);
            assert!(bytes == seed.map_or(vec![0; 10_000], |seed| pattern(seed, 10_000)), "{place}");
        }
        let mut runs = 0;
        let mut from = 0;
        while let Some(data) = image.next_data(from).unwrap() {
            from = image.next_hole(data).unwrap();
            runs += 1;
        }
        assert!(runs <= 5, "{runs}");
        let allocated = image.allocated_bytes(ByteRange::new(0, size)).unwrap();
        assert_eq!(allocated, repository.catalog().get(id).unwrap().allocated_bytes);
        let name = world.engine.restore(RestoreRequest { name: Some(format!("r-{id}")), ..restore(id) });
        let metadata = std::fs::metadata(world.path(&format!("{name}.raw"))).unwrap();
        assert_eq!(metadata.len(), size);
        assert!(metadata.blocks() * 512 < 2 << 20, "{}", metadata.blocks());
    }
}

/// Rule 3: the latest available backup of the volume whose data is older.
#[test]
fn the_parent_is_the_latest_available_backup_with_older_data() {
    let world = World::new(Kind::Xfs);
    world.volume("v", &pattern(1, 300_000));
    world.volume("w", &pattern(2, 300_000));
    let alone = world.engine.backup(incremental("v"));
    assert!(!alone.is_incremental(), "there is no parent");
    world.engine.backup(full("w"));
    let second = world.engine.backup(incremental("v"));
    assert_eq!(second.parent_id, Some(alone.id));
    assert!(second.data_timestamp > alone.data_timestamp && second.data_timestamp >= second.created_at);
    let catalog = world.engine.operations.repository().catalog();
    for status in [BackupStatus::Error, BackupStatus::Deleting, BackupStatus::Creating] {
        catalog.update(second.id, |record| record.status = status).unwrap();
        let next = world.engine.backup(incremental("v"));
        assert!(next.parent_id.is_some_and(|parent| parent != second.id), "{status}");
    }
    let newest = catalog.latest(&alone.source, &alone.volume_name).unwrap();
    assert_eq!(world.engine.backup(incremental("v")).parent_id, Some(newest.id));
    // One whose data is of the future is no parent.
    let future = world.engine.backup(full("v"));
    let time = amberfs::types::Timestamp::from_micros(future.data_timestamp.as_micros() + 3_600_000_000);
    catalog.update(future.id, |record| record.data_timestamp = time).unwrap();
    let last = world.engine.backup(incremental("v"));
    assert_ne!(last.parent_id, Some(future.id));
    assert_eq!(world.engine.image(last.id), pattern(1, 300_000));
    // Another project's backups are not leaned on.
    catalog.update(last.id, |record| record.project = "other".parse().unwrap()).unwrap();
    assert_ne!(world.engine.backup(incremental("v")).parent_id, Some(last.id));
}

#[test]
fn two_backups_of_one_volume_at_once_are_both_right() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        let world = World::new(kind);
        let bytes = pattern(1, 5 << 20);
        world.volume("v", &bytes);
        world.gates.reads.close();
        let both = [full("v"), incremental("v")]
            .map(|request| world.engine.operations.backup(&Requester::OPERATOR, &request).unwrap());
        assert!(!both[1].is_incremental, "the first one is not available yet");
        world.gates.reads.wait_until_waiting(2);
        world.gates.reads.open();
        for accepted in &both {
            assert_eq!(world.wait(accepted.job).state, JobState::Done);
            assert!(world.engine.image(accepted.backup) == bytes);
        }
        assert_eq!(world.files(), ["v"]);
        assert_eq!(
            world.engine.backup(incremental("v")).stored_bytes,
            world.engine.backup(incremental("v")).stored_bytes
        );
    }
}

#[test]
fn on_a_file_system_with_reflinks_the_volume_is_written_to_meanwhile() {
    let world = World::new(Kind::Xfs);
    let before = pattern(1, 9 << 20);
    world.volume("v", &before);
    world.gates.reads.close();
    let accepted = world.engine.operations.backup(&Requester::OPERATOR, &full("v")).unwrap();
    world.gates.reads.wait_until_waiting(1);
    world.volume("v", &pattern(2, 9 << 20));
    world.gates.reads.open();
    assert_eq!(world.wait(accepted.job).state, JobState::Done);
    assert!(world.engine.image(accepted.backup) == before);
}

#[test]
fn without_reflinks_a_writer_waits_until_the_backup_is_done() {
    let world = World::new(Kind::Ext4);
    let before = pattern(1, 9 << 20);
    world.volume("v", &before);
    let inode = std::fs::metadata(world.path("v")).unwrap().ino().to_string();
    world.gates.reads.close();
    let accepted = world.engine.operations.backup(&Requester::OPERATOR, &full("v")).unwrap();
    world.gates.reads.wait_until_waiting(1);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            OpenOptions::new().write(true).open(world.path("v")).unwrap().write_all_at(&[7; 100], 0).unwrap()
        });
        let waits = |line: &str| {
            line.contains("LEASE") && line.contains("BREAKING") && line.contains(&format!(":{inode} "))
        };
        while !std::fs::read_to_string("/proc/locks").unwrap().lines().any(waits) {
            thread::yield_now();
        }
        assert!(!writer.is_finished());
        world.gates.reads.open();
        assert_eq!(world.wait(accepted.job).state, JobState::Done);
        assert!(world.engine.image(accepted.backup) == before);
        writer.join().unwrap();
    });
    assert_eq!(std::fs::read(world.path("v")).unwrap()[..100], [7; 100]);
}

#[test]
fn a_volume_in_use_that_changes_while_it_is_read_is_no_backup() {
    let world = World::new(Kind::Ext4);
    world.volume("v", &pattern(1, 9 << 20));
    let user = OpenOptions::new().write(true).open(world.path("v")).unwrap();
    for turn in 0..2 {
        world.gates.reads.close();
        let accepted = world
            .engine
            .operations
            .backup(&Requester::OPERATOR, &BackupRequest { force: true, ..full("v") })
            .unwrap();
        world.gates.reads.wait_until_waiting(1);
        if turn == 0 {
            user.write_all_at(&[7; 100], 8 << 20).unwrap();
        }
        world.gates.reads.open();
        let report = world.wait(accepted.job);
        let record = world.record(accepted.backup).unwrap();
        if turn == 0 {
            assert_eq!((report.state, record.status), (JobState::Failed, BackupStatus::Error));
            assert!(
                record.fail_reason.clone().unwrap().contains("written to while"),
                "{:?}",
                record.fail_reason
            );
        } else {
            assert_eq!((report.state, record.status), (JobState::Done, BackupStatus::Available));
            assert!(world.engine.image(record.id) == std::fs::read(world.path("v")).unwrap());
        }
    }
}
