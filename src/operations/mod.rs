//! What amberfs does: backup, restore, delete and the rest of a backup's life. Each plans and refuses first, while the command waits, and then runs as
//! a job.
//!
//! A command that is refused has changed nothing. A job that fails leaves what its operation's rules say, and the
//! next start of the daemon puts right what a crash left: see [`recovery`].

mod access;
mod backup;
mod cancel;
mod cleanup;
mod completeness;
mod delete;
mod depths;
mod differing;
mod flatten;
mod gc;
mod import;
mod metrics;
mod quota;
mod recovery;
mod refusal;
mod restore;
mod scratch;
mod select;
mod set;
mod stored;
mod verify;
mod xfs_uuid;
mod zeros;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crossbeam_channel::Receiver;

pub use access::Requester;
pub use backup::{BackupAccepted, BackupRequest, DiffTrust};
pub use delete::{DeleteAccepted, DeleteRequest};
pub use flatten::FlattenAccepted;
pub use gc::{GcRequest, REWRITE_BELOW_PERCENT};
pub use quota::{BackupUse, VolumeUse};
use restore::Targets;
pub use restore::{RestoreAccepted, RestoreRequest};
pub use scratch::{ScratchAccepted, ScratchRequest};
pub use select::VolumeSelection;
pub use set::SetRequest;
pub use verify::{VerifyAccepted, VerifyOptions, VerifyRequest, VerifySchedule};
pub use xfs_uuid::{XfsUuidChange, XfsUuidRequest, change_xfs_uuid_of_file, is_path};

use crate::catalog::Project;
use crate::jobs::{Budget, JobQueue, Pace};
use crate::repository::Repository;
use crate::scratch::ScratchImages;
use crate::source::Sources;
use crate::types::{ByteSize, Refusal, RefusalKind, SourceName};

/// What volumes that a restore makes are to be like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeType {
    pub source: Option<SourceName>,
    pub data_pool: Option<String>,
    pub object_size: Option<ByteSize>,
    pub features: Option<Vec<String>>,
}

/// An incremental backup of a volume that has no backup to lean on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WithoutParent {
    TakeFull,
    Refuse,
}

#[derive(Debug, Clone)]
pub struct OperationsOptions {
    pub projects: Vec<Project>,
    pub volume_types: BTreeMap<String, VolumeType>,
    pub without_parent: WithoutParent,
    pub memory_bytes: u64,
    pub diff_trust: DiffTrust,
    /// A restore makes its progress durable every so many bytes of data.
    pub restore_step_bytes: u64,
    pub verify: VerifyOptions,
}

/// A step that costs little beside what is written in it, and not much to write again.
pub const RESTORE_STEP_BYTES: u64 = 256 << 20;

pub struct Operations {
    repository: Arc<Repository>,
    sources: Sources,
    jobs: Arc<JobQueue>,
    scratch: Arc<ScratchImages>,
    options: OperationsOptions,
    /// Shared by all jobs: bytes that are being read, compressed or written.
    budget: Budget,
    /// Shared by all verifications that have no rate of their own.
    verify_pace: Pace,
    /// Held from the check of a quota until what was checked is in the catalog.
    accepting: Mutex<()>,
    /// Held from the count of a project's volumes until what was counted for is in `targets`. Taken before `accepting`.
    counting_volumes: Mutex<()>,
    /// Names that running restores will give to volumes.
    targets: Mutex<Targets>,
    shutting_down: AtomicBool,
    /// Disconnected when the work of the start has ended.
    recovering: Mutex<Option<Receiver<()>>>,
}

impl Operations {
    pub fn new(
        repository: Arc<Repository>,
        sources: Sources,
        jobs: Arc<JobQueue>,
        scratch: Arc<ScratchImages>,
        options: OperationsOptions,
    ) -> Arc<Self> {
        crate::metrics::register("operations", metrics::write);
        let budget = Budget::new(options.memory_bytes);
        let verify_pace = Pace::new(options.verify.rate.limit());
        jobs.allow_unhurried(options.verify.parallel);
        Arc::new(Self {
            repository,
            sources,
            jobs,
            scratch,
            options,
            budget,
            verify_pace,
            accepting: Mutex::new(()),
            counting_volumes: Mutex::new(()),
            targets: Mutex::default(),
            shutting_down: AtomicBool::new(false),
            recovering: Mutex::new(None),
        })
    }

    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    pub fn jobs(&self) -> &Arc<JobQueue> {
        &self.jobs
    }

    pub fn scratch(&self) -> &Arc<ScratchImages> {
        &self.scratch
    }

    pub fn projects(&self) -> &[Project] {
        &self.options.projects
    }

    /// Stops all jobs and waits for them until the deadline. Nothing is accepted any more.
    pub fn shut_down(&self, deadline: Instant) -> usize {
        self.shutting_down.store(true, Ordering::Release);
        let running = self.jobs.stop_all(deadline);
        let recovering = self.recovering.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(recovering) = recovering {
            // Ends by being disconnected.
            let _ = recovering.recv_deadline(deadline);
        }
        self.scratch.close();
        running
    }

    fn is_shutting_down(&self) -> bool {
        self.shutting_down.load(Ordering::Acquire)
    }

    fn check_writable(&self) -> Result<(), Refusal> {
        if self.is_shutting_down() {
            let sentence = "the daemon is ending; give the command again when it was started again";
            return Err(Refusal::new(RefusalKind::InvalidState, sentence));
        }
        if self.repository.is_read_only() {
            let location = self.repository.location();
            let why = match self.repository.writer() {
                Some(writer) => format!("another daemon writes to it ({writer})"),
                None => "another daemon wrote to it when this one started, or it cannot be written to; what is to be written needs a daemon that is started without another one beside it".to_owned(),
            };
            let sentence = format!("the repository {location} is open for reading only: {why}");
            return Err(Refusal::new(RefusalKind::ReadOnly, sentence));
        }
        Ok(())
    }

    fn lock_targets(&self) -> MutexGuard<'_, Targets> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
