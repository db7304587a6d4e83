//! A repository that somebody made to do harm. At worst its own backups cannot be read: no volume, no snapshot and no
//! file outside of it is touched, and neither memory nor time is taken without a bound.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a failed expectation is a failed test, and files are made without care on purpose"
)]

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use amberfs::catalog::{BackupRecord, BackupStatus, ManifestReference, RestoreTarget, SnapshotReference};
use amberfs::format::codec::{Codec, Compression};
use amberfs::format::manifest::{
    self, HEAD_LENGTH, ManifestExtent, PageReference, ROOT_LENGTH_MAX, Tail, Target, checksum, encode_leaf,
    encode_references,
};
use amberfs::format::pack::{PackEntry, encode_footer, encode_head};
use amberfs::jobs::{JobControl, JobEnd, JobQueue, JobQueueOptions, JobState, JobSubject, Slot, Stop};
use amberfs::objects::ObjectName;
use amberfs::operations::Requester;
use amberfs::repository::{Location, Repository, RepositoryOptions};
use amberfs::source::Source;
use amberfs::source::dir::DirSource;
use amberfs::store::{ManifestWriter, StoreError};
use amberfs::types::{BackupId, ByteRange, ChunkId, ManifestId, PackId, RefusalKind};

mod support;

use support::bytes::pattern;
use support::daemon::until;
use support::engine::{Engine, Nobody, file_names, full, mark, over, restore};

const SIZE: usize = 1 << 20;
/// A repository with a backup of the volume `v`, and beside `v` the volume `precious`.
struct Victim {
    folder: tempfile::TempDir,
    source: Arc<DirSource>,
    backup: BackupId,
}

impl Victim {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let volumes = folder.path().join("volumes");
        std::fs::create_dir(&volumes).unwrap();
        std::fs::write(volumes.join("v.raw"), pattern(1, SIZE)).unwrap();
        std::fs::write(volumes.join("precious.raw"), pattern(2, SIZE)).unwrap();
        let source = Arc::new(DirSource::open("local".parse().unwrap(), volumes).unwrap());
        let mut victim = Self { folder, source, backup: BackupId::random() };
        victim.backup = victim.open().backup(full("v")).id;
        victim
    }

    fn repository(&self) -> PathBuf {
        self.folder.path().join("repository")
    }

    fn volumes(&self) -> PathBuf {
        self.folder.path().join("volumes")
    }

    fn open(&self) -> Engine {
        Engine::open(&self.repository(), vec![Arc::clone(&self.source) as Arc<dyn Source>])
    }

    fn open_repository(&self) -> Repository {
        let options =
            RepositoryOptions { index: None, compression: Compression::None, cache_bytes: 16 << 20 };
        Repository::open(&Location::Directory(self.repository()), &options).unwrap()
    }

    /// Writes something else into a record, as its maker can.
    fn forge(&self, id: BackupId, change: impl FnOnce(&mut BackupRecord)) {
        self.open_repository().catalog().update(id, change).unwrap();
    }

    /// A target that the restore of the backup would have.
    fn target(&self, volume: &str) -> RestoreTarget {
        RestoreTarget {
            source: "local".parse().unwrap(),
            volume: volume.parse().unwrap(),
            is_new: true,
            final_name: Some("named".parse().unwrap()),
            any_name: false,
            size_bytes: SIZE as u64,
            volume_type: None,
            instance: None,
            durable_bytes: 0,
            scratch: None,
            new_xfs_uuid: None,
            is_abandoned: false,
            skip_damaged: false,
            skipped: Default::default(),
        }
    }

    fn temporary_name(&self) -> String {
        format!("restore_backup_{}", self.backup)
    }

    /// What tells the volume `precious` from others of its name; a backup's record says it of the volume it is of.
    fn instance(&self) -> String {
        self.source.volume(&"precious".parse().unwrap()).unwrap().instance
    }

    /// Starts on the repository, and waits until what was begun has ended in some way.
    fn start(&self) -> Engine {
        let engine = self.open();
        until("the start to be done with the record", || {
            let record = engine.operations.repository().catalog().get(self.backup)?;
            let is_done = record.restore_target.is_none() && record.status != BackupStatus::Restoring;
            is_done.then_some(())
        });
        engine
    }

    fn assert_unharmed(&self, engine: &Engine) {
        let precious = std::fs::read(self.volumes().join("precious.raw")).unwrap();
        assert!(precious == pattern(2, SIZE), "a volume was written to");
        assert_eq!(mark(&self.volumes().join("precious.raw")), None);
        let outside = file_names(self.folder.path());
        assert_eq!(outside, ["repository", "volumes"]);
        assert!(engine.image(self.backup) == pattern(1, SIZE), "the backup is still one");
        assert_eq!(
            engine.operations.repository().catalog().get(self.backup).unwrap().status,
            BackupStatus::Available
        );
    }
}

/// A record says which volume an interrupted restore was making, and that one is removed: never another.
#[test]
fn a_record_cannot_have_a_volume_removed() {
    for status in [BackupStatus::Restoring, BackupStatus::Available, BackupStatus::Error] {
        for (is_abandoned, instance) in [(true, false), (false, false), (false, true)] {
            let victim = Victim::new();
            let instance = instance.then(|| victim.instance());
            victim.forge(victim.backup, |record| {
                record.status = status;
                let target = victim.target("precious");
                record.restore_target = Some(RestoreTarget { is_abandoned, instance, ..target });
            });
            let engine = victim.start();
            if status == BackupStatus::Error {
                engine
                    .operations
                    .repository()
                    .catalog()
                    .update(victim.backup, |record| record.status = BackupStatus::Available)
                    .unwrap();
            }
            victim.assert_unharmed(&engine);
            assert_eq!(file_names(&victim.volumes()), ["precious.raw", "v.raw"]);
        }
    }
}

/// A restore over an existing volume goes on after a crash when the volume has the mark of it, or this machine remembers it.
/// What only the repository says is not enough.
#[test]
fn a_record_cannot_have_a_volume_overwritten() {
    for final_name in [None, Some("precious")] {
        let victim = Victim::new();
        victim.forge(victim.backup, |record| {
            record.status = BackupStatus::Restoring;
            record.restore_target = Some(RestoreTarget {
                is_new: false,
                instance: Some(victim.instance()),
                final_name: final_name.map(|name| name.parse().unwrap()),
                ..victim.target("precious")
            });
        });
        let engine = victim.start();
        victim.assert_unharmed(&engine);
        assert_eq!(file_names(&victim.volumes()), ["precious.raw", "v.raw"]);
        // Asked for, it is done.
        engine.restore(over(victim.backup, "precious"));
        assert!(std::fs::read(victim.volumes().join("precious.raw")).unwrap() == pattern(1, SIZE));
    }
}

/// One that this machine remembers goes on, though the volume has no mark yet: of another backup, or to another volume, is not
/// it.
#[test]
fn a_restore_that_this_machine_remembers_goes_on_without_a_mark() {
    for (volume, is_it) in [("local/precious", true), ("local/other", false)] {
        let victim = Victim::new();
        victim.forge(victim.backup, |record| {
            record.status = BackupStatus::Restoring;
            record.restore_target = Some(RestoreTarget {
                is_new: false,
                instance: Some(victim.instance()),
                final_name: None,
                ..victim.target("precious")
            });
        });
        let repository = victim.open_repository();
        let options = JobQueueOptions { operations_max: 1, finished_kept: 10, finished_kept_seconds: 10 };
        let queue = JobQueue::open(options, repository.state_folder(), Arc::new(Nobody));
        drop(repository);
        let subject = JobSubject {
            backup: Some(victim.backup.to_string()),
            volume: Some(volume.to_owned()),
            project: "default".to_owned(),
        };
        let until_stopped = |control: &JobControl| {
            until("the end of the daemon", || control.checkpoint().err());
            Err(JobEnd::Stopped(Stop::Shutdown))
        };
        queue.submit("restore", subject, Slot::Operation, until_stopped).unwrap();
        assert_eq!(queue.stop_all(Instant::now() + Duration::from_secs(30)), 0);
        drop(queue);
        let sources = vec![Arc::clone(&victim.source) as Arc<dyn Source>];
        let engine = Engine::open_remembering(&victim.repository(), sources);
        until("the restore to end", || {
            let record = engine.operations.repository().catalog().get(victim.backup)?;
            (record.status == BackupStatus::Available).then_some(())
        });
        let expected = pattern(if is_it { 1 } else { 2 }, SIZE);
        assert!(std::fs::read(victim.volumes().join("precious.raw")).unwrap() == expected, "{volume}");
    }
}

/// Names lead nowhere else.
#[test]
fn a_record_cannot_name_a_file_outside_of_its_source() {
    let victim = Victim::new();
    for name in ["../escaped", "..", "a/../../escaped", "/tmp/amberfs-escaped", ".amberfs-snapshot-x"] {
        victim.forge(victim.backup, |record| {
            record.status = BackupStatus::Restoring;
            record.restore_target = Some(RestoreTarget {
                final_name: Some(name.parse().unwrap()),
                ..victim.target(&victim.temporary_name())
            });
        });
        let engine = victim.start();
        victim.assert_unharmed(&engine);
        assert_eq!(file_names(&victim.volumes()), ["precious.raw", "v.raw"], "{name}");
        drop(engine);
        victim.forge(victim.backup, |record| record.volume_name = name.parse().unwrap());
        let engine = victim.open();
        let refused = engine.operations.restore(&Requester::OPERATOR, &restore(victim.backup)).unwrap_err();
        assert_eq!(refused.kind, RefusalKind::InvalidInput, "{name}: {}", refused.sentence);
        victim.assert_unharmed(&engine);
    }
    assert!(!Path::new("/tmp/amberfs-escaped").exists());
}

/// Only snapshots with a name that amberfs gives are ever removed, whatever a record calls ours.
#[test]
fn a_record_cannot_have_a_foreign_snapshot_removed() {
    let victim = Victim::new();
    let made = snapshot_by_hand(&victim, "foreign");
    for status in [BackupStatus::Creating, BackupStatus::Deleting, BackupStatus::ErrorDeleting] {
        victim.forge(victim.backup, |record| {
            record.status = status;
            record.snapshot = Some(made.clone());
        });
        let engine = victim.open();
        if status == BackupStatus::Creating {
            until("the start to be done with the record", || {
                let record = engine.operations.repository().catalog().get(victim.backup)?;
                (record.status == BackupStatus::Error).then_some(())
            });
        }
        engine.close();
        let there = victim.source.snapshots(&"v".parse().unwrap()).unwrap();
        assert_eq!(there.len(), 1, "{status}: it is gone");
        if status == BackupStatus::Deleting {
            break;
        }
    }
}

/// Makes a frozen snapshot of `v` without a file system that can.
fn snapshot_by_hand(victim: &Victim, name: &str) -> SnapshotReference {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(b"v.raw");
    let volume: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    std::fs::copy(
        victim.volumes().join("v.raw"),
        victim.volumes().join(format!(".amberfs-snapshot-{volume}-{name}")),
    )
    .unwrap();
    let found = victim.source.snapshots(&"v".parse().unwrap()).unwrap();
    let [info] = found.as_slice() else { panic!("{found:?}") };
    SnapshotReference {
        name: info.name.clone(),
        id: info.id,
        size_bytes: info.size_bytes,
        created_at: amberfs::types::Timestamp::from_system_time(info.created_at),
        ours: true,
    }
}

/// A repository that comes with links where amberfs writes is not opened, and nothing is written or removed there.
#[test]
fn links_do_not_lead_out_of_a_repository() {
    for link in ["tmp", "lock", "index", "index/db", "index-state", "index-state/events"] {
        let victim = Victim::new();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("file"), "precious").unwrap();
        let path = victim.repository().join(link);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = std::fs::remove_dir_all(&path);
        let _ = std::fs::remove_file(&path);
        let leads_to = if matches!(link, "tmp" | "index" | "index-state") {
            outside.path().to_owned()
        } else {
            outside.path().join(if link == "lock" { "made" } else { "file" })
        };
        symlink(leads_to, &path).unwrap();
        let options =
            RepositoryOptions { index: None, compression: Compression::None, cache_bytes: 16 << 20 };
        let opened = Repository::open(&Location::Directory(victim.repository()), &options);
        assert!(opened.is_err(), "{link}: it was opened");
        assert_eq!(file_names(outside.path()), ["file"], "{link}");
        assert_eq!(std::fs::read(outside.path().join("file")).unwrap(), b"precious", "{link}");
    }
}

/// A chunk that is said to take gigabytes in its pack is none: nobody takes memory for it.
#[test]
fn a_chunk_is_not_read_that_is_longer_than_a_chunk_can_be() {
    let victim = Victim::new();
    let id = ChunkId::of(b"whatever");
    let entry =
        PackEntry { id, offset: 16, stored_length: 3 << 30, plain_length: 65_536, codec: Codec::Zstd };
    let pack = PackId::random();
    let path = victim.repository().join(ObjectName::Pack(pack).to_string());
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file = File::create(&path).unwrap();
    // A hole costs its maker nothing.
    let chunks_end = 16 + (3_u64 << 30);
    std::io::Write::write_all(&mut file, &encode_head()).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &encode_footer(&[entry], chunks_end), chunks_end)
        .unwrap();
    let repository = victim.open_repository();
    let error = repository.store().load(id).unwrap_err();
    assert!(matches!(*error, StoreError::ChunkMissing { .. }), "{error}");
    drop(repository);
    victim.assert_unharmed(&victim.open());
}

/// Puts a manifest into the repository and names it in the record of the backup.
fn forge_manifest(victim: &Victim, bytes: &[u8]) -> ManifestReference {
    let id = ManifestId::random();
    std::fs::write(victim.repository().join(ObjectName::Manifest(id).to_string()), bytes).unwrap();
    let digest = checksum(&bytes[bytes.len() - manifest::TAIL_LENGTH..]);
    let tail_sha256 = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let reference = ManifestReference { id, length: bytes.len() as u64, tail_sha256 };
    victim.forge(victim.backup, |record| record.manifest = Some(reference.clone()));
    reference
}

/// Appends a page and returns a reference to it.
fn page(body: &mut Vec<u8>, range: ByteRange, page: &[u8]) -> PageReference {
    let (position, length) = (body.len() as u64, page.len() as u32);
    body.extend_from_slice(page);
    PageReference { range, position, length, count: 1, sha256: checksum(page) }
}

fn with_root(mut body: Vec<u8>, size_bytes: u64, root: &[PageReference]) -> Vec<u8> {
    let (root_position, root) = (body.len() as u64, encode_references(root));
    body.extend_from_slice(&root);
    let tail = Tail {
        size_bytes,
        extent_count: 1,
        chunk_bytes: 0,
        root_position,
        root_length: root.len() as u64,
        about_position: body.len() as u64,
        about_length: 0,
        root_sha256: checksum(&root),
        about_sha256: checksum(&[]),
    };
    body.extend_from_slice(&tail.encode());
    body
}

/// A manifest of a megabyte in which a billion ways lead to one page is refused, not walked through.
#[test]
fn no_page_of_a_manifest_is_reached_in_two_ways() {
    let victim = Victim::new();
    let mut body = vec![0; HEAD_LENGTH as usize];
    let zero = ManifestExtent { range: ByteRange::new(0, SIZE as u64), target: Target::Zero };
    let leaf = page(&mut body, zero.range, &encode_leaf(&[zero]));
    // Each of these says that it spans a few bytes; what it leads to spans everything.
    let branch = page(&mut body, zero.range, &encode_references(&[leaf]));
    let root: Vec<_> = (0..16_384)
        .map(|number| PageReference { range: ByteRange::new(number * 64, 64), ..branch })
        .collect();
    forge_manifest(&victim, &with_root(body, SIZE as u64, &root));
    let engine = victim.open();
    let image = engine.operations.repository().image(victim.backup).unwrap();
    let error = image.read(0, &mut vec![0; SIZE]).unwrap_err();
    assert!(error.to_string().contains("is damaged"), "{error}");
}

/// Backups that lean on each other a thousand times, each with the longest root there can be, are not held in memory.
#[test]
fn the_roots_of_a_chain_are_bounded_together() {
    let victim = Victim::new();
    let count = ROOT_LENGTH_MAX / 64;
    let reference =
        PageReference { range: ByteRange::new(0, 1), position: 16, length: 1, count: 1, sha256: [0; 32] };
    let root: Vec<_> =
        (0..count).map(|number| PageReference { range: ByteRange::new(number, 1), ..reference }).collect();
    forge_manifest(&victim, &with_root(vec![0; 16], SIZE as u64, &root));
    let repository = victim.open_repository();
    repository.image(victim.backup).unwrap();
    let mut newest = BackupRecord::clone(&repository.catalog().get(victim.backup).unwrap());
    for _ in 0..10 {
        newest = BackupRecord { id: BackupId::random(), parent_id: Some(newest.id), ..newest };
        repository.catalog().insert(newest.clone()).unwrap();
    }
    let chain = repository.catalog().chain(newest.id).unwrap();
    let error = repository.open_image(&chain).err().unwrap();
    assert!(error.to_string().contains("the roots of the manifests"), "{error}");
}

/// An image that is cut into single bytes is refused where it is, and read elsewhere.
#[test]
fn a_region_in_millions_of_pieces_is_refused() {
    let victim = Victim::new();
    let repository = victim.open_repository();
    let region = 4_u64 << 20;
    let mut writer = ManifestWriter::create(repository.objects().as_ref(), 2 * region).unwrap();
    let target = Target::Chunk { id: ChunkId::of(b"no chunk"), offset: 0 };
    let mut add = |range, target| writer.add(ManifestExtent { range, target }).unwrap();
    add(ByteRange::new(0, region), Target::Zero);
    (region..region + 70_000).for_each(|at| add(ByteRange::new(at, 1), target));
    add(ByteRange::between(region + 70_000, 2 * region), Target::Zero);
    let reference = writer.finish("about").unwrap();
    drop(repository);
    victim.forge(victim.backup, |record| record.manifest = Some(reference));
    let repository = victim.open_repository();
    let image = repository.image(victim.backup).unwrap();
    let mut bytes = vec![1; 4096];
    let error = image.read(2 * region - 4096, &mut bytes).map(drop);
    assert!(error.is_ok(), "what is beside them can be read");
    let error = image.segments(ByteRange::new(region, region), |_| {}).unwrap_err();
    assert!(error.to_string().contains("pieces"), "{error}");
    assert_eq!(image.read(0, &mut bytes).unwrap(), 4096);
    assert_eq!(bytes, [0; 4096]);
}

/// Records that lean on each other in a circle, in any state, are not followed for ever: the start ends, and others are
/// backed up, read and deleted.
#[test]
fn circles_of_records_have_an_end() {
    let victim = Victim::new();
    let repository = victim.open_repository();
    let template = BackupRecord::clone(&repository.catalog().get(victim.backup).unwrap());
    for status in [BackupStatus::Available, BackupStatus::Deleting, BackupStatus::Restoring] {
        let ids: Vec<BackupId> = (0..40).map(|_| BackupId::random()).collect();
        for (number, id) in ids.iter().enumerate() {
            let parent_id = Some(ids[(number + 1) % ids.len()]);
            let volume_name = "circle".parse().unwrap();
            let record = BackupRecord { id: *id, parent_id, status, volume_name, ..template.clone() };
            repository.catalog().insert(record).unwrap();
        }
        let error = repository.image(ids[0]).err().unwrap();
        assert!(error.to_string().contains("leans on"), "{error}");
    }
    drop(repository);
    let engine = victim.open();
    let jobs = engine.operations.jobs();
    until("the jobs of the circle to end", || {
        jobs.reports().iter().all(|job| job.state.has_ended()).then_some(())
    });
    let deletes: Vec<_> = jobs.reports().into_iter().filter(|job| job.kind == "delete").collect();
    assert_eq!(deletes.len(), 40, "{deletes:?}");
    assert!(deletes.iter().all(|job| job.state == JobState::Failed), "{deletes:?}");
    let again = engine.backup(full("precious")).id;
    assert!(engine.image(again) == pattern(2, SIZE));
    let request = amberfs::operations::DeleteRequest { backup: again.to_string(), force: false };
    let accepted = engine.operations.delete(&Requester::OPERATOR, &[request]).unwrap();
    assert_eq!(jobs.wait(accepted[0].job).unwrap().state, JobState::Done);
}
