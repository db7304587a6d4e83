//! A verification holds nobody up, stops at once, and goes on where it was.

use std::path::PathBuf;
use std::sync::Arc;

use amberfs::format::image_hash::ImageHash;
use amberfs::jobs::{JobId, JobReport, JobState};
use amberfs::objects::ObjectName;
use amberfs::operations::{DeleteRequest, Requester};
use amberfs::source::Source;
use amberfs::source::dir::DirSource;
use amberfs::types::BackupId;

use crate::history::{History, flip_bit};
use crate::support::bytes::pattern;
use crate::support::daemon::until;
use crate::support::engine::{Engine, full};
use crate::support::tree;
use crate::work::{assert_right, one, record, slowly};

const STEP: usize = 4 << 20;

/// One backup of three steps that cannot be compressed.
struct World {
    folder: tempfile::TempDir,
    bytes: Vec<u8>,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("volumes")).unwrap();
        let bytes = pattern(1, 3 * STEP);
        std::fs::write(folder.path().join("volumes/v.raw"), &bytes).unwrap();
        Self { folder, bytes }
    }

    fn open(&self) -> Engine {
        let source = DirSource::open("local".parse().unwrap(), self.folder.path().join("volumes")).unwrap();
        let sources = vec![Arc::new(source) as Arc<dyn Source>];
        Engine::open_with(&self.folder.path().join("repository"), sources, 1, |_| ())
    }

    fn sha256(&self) -> String {
        let mut hash = ImageHash::new();
        hash.add(&self.bytes);
        hash.finish()
    }

    /// The pack that has the beginning of the image.
    fn pack(&self) -> PathBuf {
        let packs = self.folder.path().join("repository/packs");
        let [pack] = Vec::from_iter(tree::files(&packs).into_keys()).try_into().unwrap();
        packs.join(pack)
    }

    fn progress_file(&self, id: BackupId) -> PathBuf {
        self.folder.path().join("repository/index-state/verify").join(id.to_string())
    }
}

fn begin(engine: &Engine, id: BackupId, bytes_per_second: u64) -> JobId {
    let request = slowly(id, bytes_per_second);
    engine.operations.verify(&Requester::OPERATOR, &request).unwrap()[0].job
}

fn report(engine: &Engine, job: JobId) -> JobReport {
    engine.operations.jobs().report(job).unwrap()
}

fn wait_for_first_step(engine: &Engine, job: JobId) {
    until("the first step", || (report(engine, job).bytes_done >= STEP as u64).then_some(()));
}

#[test]
fn it_goes_on_where_the_daemon_before_was_and_the_sha256_is_that_of_the_whole() {
    let world = World::new();
    let engine = world.open();
    let id = engine.backup(full("v")).id;
    let job = begin(&engine, id, 8 << 20);
    wait_for_first_step(&engine, job);
    engine.close();
    let progress: serde_json::Value =
        serde_json::from_slice(&std::fs::read(world.progress_file(id)).unwrap()).unwrap();
    assert!(progress["position"].as_u64().unwrap() >= STEP as u64, "{progress}");
    // What was read is not read again: this is for the next one to find.
    flip_bit(&world.pack(), 1000);
    let engine = world.open();
    let jobs = engine.operations.jobs();
    let resumed = jobs.reports().into_iter().find(|report| report.kind == "verify").unwrap().id;
    let report = jobs.wait(resumed).unwrap();
    assert_eq!((report.state, report.error), (JobState::Done, None));
    assert_eq!(record(&engine, id).image_sha256, Some(world.sha256()));
    assert!(!world.progress_file(id).exists());
    let again = engine.operations.verify(&Requester::OPERATOR, &one(id)).unwrap()[0].job;
    assert_eq!(jobs.wait(again).unwrap().state, JobState::Failed);
    flip_bit(&world.pack(), 1000);
    assert_right(&engine, id);
}

#[test]
fn a_backup_does_not_wait_for_it_and_a_second_verification_does() {
    let world = World::new();
    let engine = world.open();
    let id = engine.backup(full("v")).id;
    let job = begin(&engine, id, 4 << 20);
    wait_for_first_step(&engine, job);
    // There is one place for operations.
    let other = engine.backup(full("v")).id;
    assert_eq!(report(&engine, job).state, JobState::Running);
    let second = engine.operations.verify(&Requester::OPERATOR, &one(other)).unwrap()[0].job;
    assert_eq!(report(&engine, second).state, JobState::Queued);
    let same = engine.operations.verify(&Requester::OPERATOR, &one(id)).unwrap()[0].job;
    assert_eq!(same, job, "it is being verified already");
    engine.operations.cancel(&Requester::OPERATOR, &job.to_string()).unwrap();
    assert_eq!(engine.operations.jobs().wait(job).unwrap().state, JobState::Cancelled);
    assert_eq!(record(&engine, id).last_verified_at, None);
    assert!(!world.progress_file(id).exists());
    assert_eq!(engine.operations.jobs().wait(second).unwrap().state, JobState::Done);
}

#[test]
fn a_delete_of_the_backup_ends_it() {
    let world = World::new();
    let engine = world.open();
    let id = engine.backup(full("v")).id;
    // The first step alone would take an hour.
    let job = begin(&engine, id, 1000);
    until("the start", || (report(&engine, job).state == JobState::Running).then_some(()));
    let request = DeleteRequest { backup: id.to_string(), force: false };
    let delete = engine.operations.delete(&Requester::OPERATOR, &[request]).unwrap()[0].job;
    assert_eq!(engine.operations.jobs().wait(delete).unwrap().state, JobState::Done);
    assert_eq!(report(&engine, job).state, JobState::Cancelled);
    assert!(engine.operations.repository().catalog().get(id).is_none());
    assert!(!world.progress_file(id).exists());
}

#[test]
fn a_flatten_meanwhile_is_no_damage() {
    let history = History::new();
    let engine = history.open();
    let id = history.backups[1];
    // 16 KiB a second: the manifests that it reads are gone long before its end.
    let job = begin(&engine, history.backups[2], 100 << 10);
    until("the start", || (report(&engine, job).state == JobState::Running).then_some(()));
    let old = history.manifest(1);
    let flatten = engine.operations.flatten(&Requester::OPERATOR, &id.to_string()).unwrap().job;
    assert_eq!(engine.operations.jobs().wait(flatten).unwrap().state, JobState::Done);
    assert_eq!(engine.operations.jobs().wait(job).unwrap().state, JobState::Done);
    let ObjectName::Manifest(_) = old else { panic!("{old}") };
    until("the end of the old manifest", || (!history.path(old).exists()).then_some(()));
    assert_right(&engine, id);
}
