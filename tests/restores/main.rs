//! Restores: interrupted and resumed, over volumes that hold most of the data, larger than the backup, of a type, and
//! many at once. Directories with held-up writes in this process; RBD and memory through the real daemon.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a failed expectation is a failed test, and volumes are plain files"
)]

mod compare;
mod limits;
#[cfg(feature = "rbd")]
mod rbd;
mod resume;
mod sizes;

#[path = "../support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use amberfs::catalog::{BackupRecord, BackupStatus};
use amberfs::jobs::{JobId, JobReport};
use amberfs::operations::{OperationsOptions, Requester, RestoreAccepted, RestoreRequest};
use amberfs::source::Source;
use amberfs::types::{BackupId, MIB};

use support::engine::{Engine, file_names, mark, over, restore};
use support::file_system::{self, Folder, Kind};
use support::gated::{GatedSource, Gates};

/// A step of two writes.
const STEP: u64 = 8 * MIB;

/// A directory of volumes and a repository over it, which are closed and opened again.
struct World {
    engine: Option<Engine>,
    gates: Arc<Gates>,
    source: Arc<dyn Source>,
    folder: Folder,
}

impl World {
    fn new() -> Self {
        let folder = file_system::folder(Kind::Xfs);
        std::fs::create_dir(folder.path().join("volumes")).unwrap();
        let (source, gates) = GatedSource::open(&folder.path().join("volumes"));
        let mut world = Self { engine: None, gates, source, folder };
        world.open(15, |_| {});
        world
    }

    fn open(&mut self, operations_max: usize, change: impl FnOnce(&mut OperationsOptions)) {
        let repository = self.folder.path().join("repository");
        let engine =
            Engine::open_with(&repository, vec![Arc::clone(&self.source)], operations_max, |options| {
                options.restore_step_bytes = STEP;
                change(options);
            });
        self.engine = Some(engine);
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    /// Ends the daemon's part of this process while writes are held up, and forgets what was counted.
    fn stop(&mut self) {
        let engine = self.engine.take().unwrap();
        engine.operations.shut_down(Instant::now());
        self.gates.writes.open();
        engine.close();
        self.gates.bytes_read.store(0, Ordering::Relaxed);
        self.gates.bytes_written.store(0, Ordering::Relaxed);
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join("volumes").join(file)
    }

    fn volume(&self, file: &str, bytes: &[u8]) {
        std::fs::write(self.path(file), bytes).unwrap();
    }

    fn files(&self) -> Vec<String> {
        file_names(&self.folder.path().join("volumes"))
    }

    fn record(&self, id: BackupId) -> Arc<BackupRecord> {
        self.engine().operations.repository().catalog().get(id).unwrap()
    }

    fn accept(&self, request: &RestoreRequest) -> RestoreAccepted {
        self.engine().operations.restore(&Requester::OPERATOR, request).unwrap()
    }

    fn wait(&self, job: JobId) -> JobReport {
        self.engine().operations.jobs().wait(job).unwrap()
    }

    fn cancel(&self, job: JobId) {
        self.engine().operations.cancel(&Requester::OPERATOR, &job.to_string()).unwrap();
    }

    /// Waits for the end of the restore that goes on with a backup, if there is one.
    fn resumed(&self, id: BackupId) -> Option<JobReport> {
        let id = id.to_string();
        let reports = self.engine().operations.jobs().reports();
        let report = reports.into_iter().find(|report| report.backup.as_ref() == Some(&id))?;
        assert_eq!(report.kind, "restore");
        Some(self.wait(report.id))
    }

    /// Begins a restore and stops everything when two steps of it are durable and a third is under way.
    fn interrupted(&mut self, request: &RestoreRequest) -> BackupId {
        self.gates.writes.close_after(5);
        let id = self.accept(request).backup;
        self.gates.writes.wait_until_waiting(1);
        self.stop();
        id
    }

    fn bytes_written(&self) -> u64 {
        self.gates.bytes_written.load(Ordering::Relaxed)
    }

    fn assert_available(&self, id: BackupId) {
        let record = self.record(id);
        assert_eq!((record.status, &record.restore_target), (BackupStatus::Available, &None));
    }
}

impl Drop for World {
    /// The file system is shared with other tests, and small.
    fn drop(&mut self) {
        self.gates.writes.open();
        self.gates.reads.open();
        drop(self.engine.take());
        let _ = std::fs::remove_dir_all(self.folder.path());
    }
}
