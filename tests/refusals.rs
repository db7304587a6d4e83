//! Every refusal of backup, restore and cancel: its name and sentence, and that nothing has changed.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a failed expectation is a failed test, and volumes are plain files"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};
use std::thread;

use amberfs::catalog::{BackupRecord, BackupStatus, Quota};
use amberfs::jobs::JobState;
use amberfs::operations::{BackupRequest, Requester, RestoreRequest};
use amberfs::source::Source;
use amberfs::source::dir::DirSource;
use amberfs::types::{GIB, Refusal, RefusalKind};

use support::bytes::pattern;
use support::engine::{Engine, full, incremental};
use support::file_system::{self, Kind};
use support::tree;

struct World {
    folder: PathBuf,
    engine: Engine,
}

/// Everything that a refused command may not change.
#[derive(PartialEq, Debug)]
struct State {
    records: BTreeMap<String, String>,
    repository: BTreeSet<String>,
    volumes: BTreeMap<String, (u64, std::time::SystemTime)>,
    jobs: usize,
}

impl World {
    fn new(folder: &Path, quota: Quota) -> Self {
        Self::with_sources(folder, quota, &["local"])
    }

    fn with_sources(folder: &Path, quota: Quota, names: &[&str]) -> Self {
        let sources = names.iter().map(|name| {
            std::fs::create_dir_all(folder.join(name)).unwrap();
            Arc::new(DirSource::open(name.parse().unwrap(), folder.join(name)).unwrap()) as Arc<dyn Source>
        });
        let engine = Engine::open_with_quota(&folder.join("repository"), sources.collect(), quota);
        Self { folder: folder.to_owned(), engine }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.join("local").join(file)
    }

    fn volume(&self, file: &str, bytes: &[u8]) {
        std::fs::write(self.path(file), bytes).unwrap();
    }

    fn sparse(&self, file: &str, size: u64) {
        std::fs::File::create(self.path(file)).unwrap().set_len(size).unwrap();
    }

    fn state(&self) -> State {
        let repository = self.engine.operations.repository();
        let records = repository
            .catalog()
            .all()
            .into_iter()
            .map(|record| (record.id.to_string(), record.encode().unwrap()));
        let mut volumes = BTreeMap::new();
        for source in self.engine.operations.sources().iter() {
            let folder = self.folder.join(source.name().as_str());
            for entry in std::fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                let metadata = entry.metadata().unwrap();
                let name = format!("{}/{}", source.name(), entry.file_name().display());
                volumes.insert(name, (metadata.len(), metadata.modified().unwrap()));
            }
        }
        let files = tree::files(&self.folder.join("repository")).into_keys();
        State {
            records: records.collect(),
            repository: files.filter(|name| !name.starts_with("index/")).collect(),
            volumes,
            jobs: self.engine.operations.jobs().reports().len(),
        }
    }

    /// Refused by the check and by the command itself, in the same words, and nothing has changed.
    fn refused_backup(&self, request: &BackupRequest) -> Refusal {
        let before = self.state();
        let refusal = self.engine.operations.backup(&Requester::OPERATOR, request).unwrap_err();
        assert_eq!(self.state(), before, "{refusal}");
        refusal
    }

    fn refused_restore(&self, request: &RestoreRequest) -> Refusal {
        let before = self.state();
        let checked = self.engine.operations.check_restore(&Requester::OPERATOR, request).unwrap_err();
        let refusal = self.engine.operations.restore(&Requester::OPERATOR, request).unwrap_err();
        assert_eq!(self.state(), before, "{refusal}");
        assert_eq!(checked, refusal);
        refusal
    }

    fn wait(&self, job: amberfs::jobs::JobId) -> JobState {
        self.engine.operations.jobs().wait(job).unwrap().state
    }
}

fn assert_refused(refusal: &Refusal, kind: RefusalKind, words: &[&str]) {
    assert_eq!(refusal.kind, kind, "{refusal}");
    for word in words {
        assert!(refusal.sentence.contains(word), "{refusal}: {word:?} is not in it");
    }
}

fn restore(backup: impl ToString) -> RestoreRequest {
    RestoreRequest { backup: backup.to_string(), ..RestoreRequest::default() }
}

fn restore_to(backup: impl ToString, to: &str, force: bool) -> RestoreRequest {
    RestoreRequest { to: Some(to.to_owned()), force, ..restore(backup) }
}

const NO_QUOTA: Quota = Quota { backups: -1, backup_gigabytes: -1, volumes: -1, gigabytes: -1 };

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_volume_that_is_not_there_is_not_found() {
    let folder = temporary();
    let world = World::new(folder.path(), NO_QUOTA);
    world.volume("v.raw", b"bytes");
    for name in [
        "missing",
        "local/missing",
        "other/v",
        "v/",
        "/v",
        "../repository/repository",
        "amber\nfs",
        &"x".repeat(300),
    ] {
        assert_refused(&world.refused_backup(&full(name)), RefusalKind::VolumeNotFound, &["volume list"]);
        assert_eq!(
            world.engine.operations.check_backup(&Requester::OPERATOR, &full(name)).unwrap_err().kind,
            RefusalKind::VolumeNotFound
        );
    }
    assert_refused(&world.refused_backup(&full("")), RefusalKind::VolumeNotFound, &[]);
}

#[test]
fn a_volume_that_two_sources_have_is_ambiguous_unless_its_source_is_named() {
    let folder = temporary();
    let world = World::with_sources(folder.path(), NO_QUOTA, &["local", "other"]);
    world.volume("v.raw", b"local");
    std::fs::write(folder.path().join("other/v.img"), b"other").unwrap();
    let refusal = world.refused_backup(&full("v"));
    assert_refused(&refusal, RefusalKind::AmbiguousName, &["local/v", "other/v"]);
    let local = world.engine.backup(full("local/v"));
    let other = world.engine.backup(full("other/v"));
    assert_eq!(world.engine.image(local.id), b"local");
    assert_eq!(world.engine.image(other.id), b"other");
    let by_id = world.engine.backup(full(local.volume_id.as_str()));
    assert_eq!((&by_id.source, &by_id.volume_name), (&local.source, &local.volume_name));
    assert_refused(
        &world.refused_restore(&restore("v@latest")),
        RefusalKind::AmbiguousName,
        &["local/v", "other/v"],
    );
    assert_refused(
        &world.refused_restore(&restore_to(local.id, "v", true)),
        RefusalKind::AmbiguousName,
        &["local/v"],
    );
    assert_eq!(world.engine.restore(restore("other/v@latest")).split('-').next(), Some("v"));
}

#[test]
fn backups_are_found_by_id_prefix_name_and_volume() {
    let folder = temporary();
    let world = World::new(folder.path(), NO_QUOTA);
    world.volume("v.raw", b"bytes");
    let named = |name: &str| world.engine.backup(BackupRequest { name: Some(name.to_owned()), ..full("v") });
    let one = named("nightly");
    let two = named("weekly");
    let twice = named("weekly");
    let catalog = world.engine.operations.repository().catalog();
    for text in [&one.id.to_string(), &one.id.to_string()[..8], &one.id.to_string()[..20], "nightly"] {
        assert_eq!(catalog.select(text, |_| true).unwrap().id, one.id);
    }
    for text in ["v@latest", "local/v@latest", &format!("{}@latest", one.volume_id)] {
        assert_eq!(catalog.select(text, |_| true).unwrap().id, twice.id);
    }
    for text in [
        &one.id.to_string()[..7],
        "",
        "night",
        "nightly2",
        "w@latest",
        "@latest",
        "00000000-0000-0000-0000-000000000000",
        &one.id.to_string().to_uppercase(),
    ] {
        assert_refused(&world.refused_restore(&restore(text)), RefusalKind::BackupNotFound, &["backup list"]);
    }
    let refusal = world.refused_restore(&restore("weekly"));
    assert_refused(&refusal, RefusalKind::AmbiguousName, &[&two.id.to_string(), &twice.id.to_string()]);
}

#[test]
fn texts_that_are_too_long_or_empty_are_invalid() {
    let folder = temporary();
    let world = World::new(folder.path(), NO_QUOTA);
    world.volume("v.raw", b"bytes");
    let long = "x".repeat(4097);
    let properties =
        |count: usize, length: usize| (0..count).map(|n| (n.to_string(), "x".repeat(length))).collect();
    for request in [
        BackupRequest { name: Some(String::new()), ..full("v") },
        BackupRequest { name: Some(long.clone()), ..full("v") },
        BackupRequest { description: Some(long), ..full("v") },
        BackupRequest { properties: properties(257, 1), ..full("v") },
        BackupRequest { properties: properties(1, 2048), ..full("v") },
    ] {
        assert_refused(&world.refused_backup(&request), RefusalKind::InvalidInput, &[]);
    }
    // The longest that is taken fits into a record.
    let longest = BackupRequest {
        name: Some("\u{1}".repeat(4096)),
        description: Some("\"".repeat(4096)),
        properties: properties(256, 2045),
        ..full("v")
    };
    let record = world.engine.backup(longest);
    assert_eq!(BackupRecord::decode(record.encode().unwrap().as_bytes()).unwrap(), *record);
}

#[test]
fn snapshots_that_are_not_there_or_of_another_volume_are_refused() {
    let folder = temporary();
    let world = World::new(folder.path(), NO_QUOTA);
    world.volume("v.raw", b"bytes");
    let of = |snapshot: &str| BackupRequest { snapshot: Some(snapshot.to_owned()), ..full("v") };
    for name in ["missing", "v@missing", "local/v@missing"] {
        assert_refused(&world.refused_backup(&of(name)), RefusalKind::SnapshotNotFound, &["missing"]);
    }
    for name in ["w@snapshot", "other/v@snapshot", ""] {
        assert_refused(&world.refused_backup(&of(name)), RefusalKind::InvalidSnapshot, &[]);
    }
}

#[test]
fn too_many_backups_are_refused_in_openstacks_words() {
    let folder = temporary();
    let world = World::new(folder.path(), Quota { backups: 2, ..NO_QUOTA });
    world.volume("v.raw", b"bytes");
    world.engine.backup(full("v"));
    world.engine.backup(incremental("v"));
    let refusal = world.refused_backup(&full("v"));
    assert_refused(&refusal, RefusalKind::VolumeBackupLimitExceeded, &[]);
    assert_eq!(refusal.sentence, "Maximum number of backups allowed (2) exceeded");
    assert_eq!(world.engine.operations.check_backup(&Requester::OPERATOR, &full("v")).unwrap_err(), refusal);
}

#[test]
fn too_many_gigabytes_are_refused_in_openstacks_words() {
    let folder = temporary();
    let world = World::new(folder.path(), Quota { backup_gigabytes: 0, ..NO_QUOTA });
    world.sparse("v.raw", 10 * GIB);
    let refusal = world.refused_backup(&full("v"));
    assert_refused(&refusal, RefusalKind::VolumeBackupSizeExceedsAvailableQuota, &[]);
    assert_eq!(
        refusal.sentence,
        "Requested backup exceeds allowed Backup gigabytes quota. Requested 10G, quota is 0G and 0G has been consumed."
    );

    let folder = temporary();
    let world = World::new(folder.path(), Quota { backup_gigabytes: 4, ..NO_QUOTA });
    world.sparse("v.raw", 2 * GIB + 1);
    world.sparse("w.raw", GIB);
    world.engine.backup(full("v"));
    let refusal = world.refused_backup(&full("v"));
    assert_eq!(
        refusal.sentence,
        "Requested backup exceeds allowed Backup gigabytes quota. Requested 3G, quota is 4G and 3G has been consumed."
    );
    world.engine.backup(full("w"));
}

#[test]
fn quotas_are_exact_under_concurrent_backups() {
    let folder = temporary();
    for (quota, expected) in
        [(Quota { backups: 7, ..NO_QUOTA }, 7), (Quota { backup_gigabytes: 5, ..NO_QUOTA }, 5)]
    {
        let world = World::new(&folder.path().join(expected.to_string()), quota);
        for number in 0..4 {
            world.volume(&format!("v{number}"), &pattern(number, 100_000));
        }
        let barrier = Barrier::new(20);
        let results: Vec<_> = thread::scope(|scope| {
            let (world, barrier) = (&world, &barrier);
            let commands: Vec<_> = (0..20)
                .map(|number| {
                    scope.spawn(move || {
                        barrier.wait();
                        world
                            .engine
                            .operations
                            .backup(&Requester::OPERATOR, &full(&format!("v{}", number % 4)))
                    })
                })
                .collect();
            commands.into_iter().map(|command| command.join().unwrap()).collect()
        });
        let accepted: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
        assert_eq!(accepted.len(), expected);
        for accepted in &accepted {
            assert_eq!(world.wait(accepted.job), JobState::Done);
        }
        let records = world.engine.operations.repository().catalog().all();
        assert_eq!(records.len(), expected, "the refused ones leave no record");
        assert!(records.iter().all(|record| record.status == BackupStatus::Available));
        assert_eq!(std::fs::read_dir(world.folder.join("repository/records")).unwrap().count(), expected);
    }
}

#[test]
fn quotas_are_exact_under_concurrent_restores() {
    let folder = temporary();
    for (quota, expected) in [(Quota { volumes: 9, ..NO_QUOTA }, 8), (Quota { gigabytes: 6, ..NO_QUOTA }, 5)]
    {
        let world = World::new(&folder.path().join(expected.to_string()), quota);
        world.volume("v", &pattern(1, 100_000));
        let backups: Vec<_> = (0..20).map(|_| world.engine.backup(full("v")).id).collect();
        let barrier = Barrier::new(20);
        let results: Vec<_> = thread::scope(|scope| {
            let (world, barrier) = (&world, &barrier);
            let commands: Vec<_> = backups
                .iter()
                .enumerate()
                .map(|(number, id)| {
                    let request = RestoreRequest { name: Some(format!("new-{number}")), ..restore(id) };
                    scope.spawn(move || {
                        barrier.wait();
                        world.engine.operations.restore(&Requester::OPERATOR, &request)
                    })
                })
                .collect();
            commands.into_iter().map(|command| command.join().unwrap()).collect()
        });
        for accepted in results.iter().flatten() {
            assert_eq!(world.wait(accepted.job), JobState::Done);
        }
        assert_eq!(results.iter().flatten().count(), expected);
        assert_eq!(std::fs::read_dir(world.folder.join("local")).unwrap().count(), expected + 1);
        for refusal in results.iter().filter_map(|result| result.as_ref().err()) {
            let kind = if quota.volumes > 0 {
                RefusalKind::VolumeLimitExceeded
            } else {
                RefusalKind::VolumeSizeExceedsAvailableQuota
            };
            assert_refused(refusal, kind, &[]);
        }
    }
}

#[test]
fn a_restore_over_the_quota_of_volumes_says_how_much_over() {
    let folder = temporary();
    let world = World::new(folder.path(), Quota { volumes: 2, gigabytes: 5, ..NO_QUOTA });
    world.sparse("v", 3 * GIB);
    let id = world.engine.backup(full("v")).id;
    let refusal = world.refused_restore(&restore(id));
    assert_refused(
        &refusal,
        RefusalKind::VolumeSizeExceedsAvailableQuota,
        &["Requested 3G, quota is 5G and 3G has been consumed."],
    );
    world.volume("w", b"w");
    assert_refused(&world.refused_restore(&restore(id)), RefusalKind::VolumeLimitExceeded, &["(2)"]);
    // What overwrites a volume makes none.
    assert_eq!(world.engine.restore(restore_to(id, "v", true)), "v");
}

#[test]
fn a_restore_takes_the_volumes_name_when_it_is_free_and_another_when_it_is_not() {
    let folder = temporary();
    let world = World::new(folder.path(), NO_QUOTA);
    let bytes = pattern(1, 200_000);
    world.volume("v.raw", &bytes);
    let id = world.engine.backup(full("v")).id;
    let name = world.engine.restore(restore(id));
    let time = name.strip_prefix("v-").unwrap();
    assert!(time.len() > 15 && time.starts_with("20") && time.contains('T') && time.ends_with('Z'), "{name}");
    assert_eq!(std::fs::read(world.path(&format!("{name}.raw"))).unwrap(), bytes);
    std::fs::remove_file(world.path("v.raw")).unwrap();
    assert_eq!(world.engine.restore(restore(id)), "v");
    assert_eq!(std::fs::read(world.path("v.raw")).unwrap(), bytes);
    let named = RestoreRequest { name: Some("a name".to_owned()), ..restore(id) };
    assert_eq!(world.engine.restore(named.clone()), "a name");
    assert_refused(&world.refused_restore(&named), RefusalKind::VolumeExists, &["a name"]);
    assert_refused(
        &world.refused_restore(&RestoreRequest { force: true, ..named }),
        RefusalKind::VolumeExists,
        &[],
    );
    // A target that does not exist is a new volume.
    assert_eq!(world.engine.restore(restore_to(id, "local/to", false)), "to");
    for name in ["a/b", "..", ".amberfs-x", &"x".repeat(256), ""] {
        let request = RestoreRequest { name: Some(name.to_owned()), ..restore(id) };
        assert_refused(&world.refused_restore(&request), RefusalKind::InvalidInput, &[]);
    }
}

#[test]
fn requests_that_make_no_sense_are_invalid() {
    let folder = temporary();
    let world = World::with_sources(folder.path(), NO_QUOTA, &["local", "other"]);
    world.volume("v", b"bytes");
    let id = world.engine.backup(full("v")).id;
    let both = RestoreRequest { name: Some("x".to_owned()), ..restore_to(id, "y", true) };
    assert_refused(&world.refused_restore(&both), RefusalKind::InvalidInput, &["--to", "--name"]);
    for name in ["nowhere", "a b"] {
        let request = RestoreRequest { source: Some(name.to_owned()), ..restore(id) };
        assert_refused(&world.refused_restore(&request), RefusalKind::InvalidInput, &[name]);
    }
    let of_type = RestoreRequest { volume_type: Some("fast".to_owned()), ..restore(id) };
    assert_refused(&world.refused_restore(&of_type), RefusalKind::VolumeTypeNotFound, &["fast"]);
    assert_eq!(world.engine.restore(RestoreRequest { source: Some("other".to_owned()), ..restore(id) }), "v");
    assert_eq!(std::fs::read(folder.path().join("other/v.raw")).unwrap(), b"bytes");
}

#[test]
fn an_existing_target_needs_force_and_room() {
    let folder = temporary();
    let world = World::new(folder.path(), NO_QUOTA);
    world.volume("v", &pattern(1, 1000));
    let id = world.engine.backup(full("v")).id;
    world.volume("small", &[7; 999]);
    world.volume("large", &[7; 5000]);
    for to in ["v", "local/v", "small", "large"] {
        assert_refused(
            &world.refused_restore(&restore_to(id, to, false)),
            RefusalKind::VolumeExists,
            &["--force"],
        );
    }
    assert_refused(
        &world.refused_restore(&restore_to(id, "small", true)),
        RefusalKind::VolumeTooSmall,
        &["999", "1000"],
    );
    assert_eq!(world.engine.restore(restore_to(id, "large", true)), "large");
    let mut expected = pattern(1, 1000);
    expected.resize(5000, 0);
    assert_eq!(std::fs::read(world.path("large")).unwrap(), expected);
}

#[test]
fn a_volume_in_use_is_backed_up_with_force_only_and_never_restored_to() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        let folder = file_system::folder(kind);
        let world = World::new(folder.path(), NO_QUOTA);
        let bytes = pattern(1, 300_000);
        world.volume("v", &bytes);
        let id = world.engine.backup(full("v")).id;
        let user = std::fs::OpenOptions::new().write(true).open(world.path("v")).unwrap();
        let refusal = world.refused_backup(&full("v"));
        assert_refused(&refusal, RefusalKind::VolumeInUse, &["v"]);
        assert_eq!(
            world.engine.operations.check_backup(&Requester::OPERATOR, &full("v")).unwrap_err().kind,
            RefusalKind::VolumeInUse
        );
        let forced = world.engine.backup(BackupRequest { force: true, ..full("v") });
        assert_eq!(world.engine.image(forced.id), bytes);
        assert_refused(
            &world.refused_restore(&restore_to(id, "v", true)),
            RefusalKind::VolumeInUse,
            &["detach"],
        );
        drop(user);
        assert_eq!(world.engine.restore(restore_to(id, "v", true)), "v");
    }
}

#[test]
fn a_second_opener_reads_and_changes_nothing() {
    let folder = temporary();
    let world = World::new(folder.path(), NO_QUOTA);
    let bytes = pattern(1, 300_000);
    world.volume("v", &bytes);
    let record = world.engine.backup(full("v"));
    let reader = World::new(folder.path(), NO_QUOTA);
    assert!(reader.engine.operations.repository().is_read_only());
    assert_eq!(reader.engine.image(record.id), bytes);
    assert_refused(&reader.refused_backup(&full("v")), RefusalKind::ReadOnly, &["another daemon"]);
    assert_refused(&reader.refused_backup(&full("missing")), RefusalKind::ReadOnly, &[]);
    assert_refused(&reader.refused_restore(&restore(record.id)), RefusalKind::ReadOnly, &[]);
    assert_refused(&reader.refused_restore(&restore_to(record.id, "v", true)), RefusalKind::ReadOnly, &[]);
    // The writer is not disturbed, and whoever comes when it is gone writes.
    world.engine.backup(incremental("v"));
    let World { engine, folder: path } = world;
    engine.close();
    reader.engine.close();
    let next = World::new(&path, NO_QUOTA);
    assert!(!next.engine.operations.repository().is_read_only());
    next.engine.backup(incremental("v"));
}

#[test]
fn backups_in_another_state_are_not_restored() {
    let folder = temporary();
    let world = World::new(folder.path(), NO_QUOTA);
    world.volume("v", b"bytes");
    let id = world.engine.backup(full("v")).id;
    let catalog = world.engine.operations.repository().catalog();
    for status in [
        BackupStatus::Creating,
        BackupStatus::Restoring,
        BackupStatus::Deleting,
        BackupStatus::Error,
        BackupStatus::ErrorDeleting,
    ] {
        catalog.update(id, |record| record.status = status).unwrap();
        assert_refused(&world.refused_restore(&restore(id)), RefusalKind::InvalidState, &[status.as_str()]);
    }
}

#[test]
fn jobs_that_are_not_there_or_have_ended_are_not_cancelled() {
    let folder = temporary();
    let world = World::new(folder.path(), NO_QUOTA);
    world.volume("v", b"bytes");
    let accepted = world.engine.operations.backup(&Requester::OPERATOR, &full("v")).unwrap();
    assert_eq!(world.wait(accepted.job), JobState::Done);
    let operations = &world.engine.operations;
    let before = world.state();
    for (job, kind) in [
        ("999", RefusalKind::JobNotFound),
        ("", RefusalKind::JobNotFound),
        ("-1", RefusalKind::JobNotFound),
        ("x", RefusalKind::JobNotFound),
        (&accepted.job.to_string(), RefusalKind::InvalidState),
    ] {
        assert_refused(&operations.check_cancel(&Requester::OPERATOR, job).unwrap_err(), kind, &[job]);
        assert_refused(&operations.cancel(&Requester::OPERATOR, job).unwrap_err(), kind, &[]);
    }
    assert_eq!(world.state(), before);
}
