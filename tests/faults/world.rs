//! An engine whose repository, state and, as a rule, volumes are on the file system that faults, put together as the
//! daemon does it.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use amberfs::catalog::{Project, Quota};
use amberfs::format::codec::Compression;
use amberfs::jobs::{EventLog, JobId, JobQueue, JobQueueOptions, JobState};
use amberfs::operations::{
    BackupRequest, DiffTrust, Operations, OperationsOptions, Requester, VerifyOptions, WithoutParent,
};
use amberfs::repository::{Location, Repository, RepositoryOptions};
use amberfs::scratch::ScratchImages;
use amberfs::source::Sources;
use amberfs::types::{BackupId, ByteSize, Refusal};

use crate::severed::SeveredSource;
use crate::support::faultfs::{Disk, FaultFs};

/// A volume has a few chunks of this size.
const CHUNK_BYTES: u64 = 16 << 10;

/// A restore of a whole volume makes several steps of this size durable.
const RESTORE_STEP_BYTES: u64 = 32 << 10;

/// Longer than anything takes here, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the parts of a world are that need not be on the file system that faults.
pub struct Places {
    /// `None`: on the file system that faults.
    pub index: Option<tempfile::TempDir>,
    pub volumes: Option<PathBuf>,
}

pub struct World {
    pub fs: FaultFs,
    volumes: PathBuf,
    index: PathBuf,
}

/// One life of the daemon's process.
pub struct Life {
    pub operations: Arc<Operations>,
}

impl World {
    pub fn mount(disk: Disk, places: &Places) -> Self {
        let fs = FaultFs::mount(disk);
        let index = places.index.as_ref().map_or(fs.path().to_owned(), |folder| folder.path().to_owned());
        let volumes = places.volumes.clone().unwrap_or_else(|| fs.path().join("volumes"));
        Self { volumes, index: index.join("index"), fs }
    }

    /// Makes an empty repository, and a folder for volumes.
    pub fn found(&self) {
        if !self.volumes.exists() {
            fs::create_dir(&self.volumes).unwrap();
        }
        fs::create_dir(self.fs.path().join("state")).unwrap();
        Repository::create(&self.location(), ByteSize(CHUNK_BYTES)).unwrap();
        File::open(self.fs.path()).unwrap().sync_all().unwrap();
    }

    fn location(&self) -> Location {
        Location::Directory(self.fs.path().join("repository"))
    }

    pub fn volumes(&self) -> &Path {
        &self.volumes
    }

    /// Makes a volume, or writes over one, durably.
    pub fn fill(&self, volume: &str, bytes: &[u8]) {
        let mut file = File::create(self.volumes.join(volume)).unwrap();
        file.write_all(bytes).unwrap();
        file.sync_all().unwrap();
        File::open(&self.volumes).unwrap().sync_all().unwrap();
    }

    /// Starts the daemon's process, its recovery included.
    pub fn start(&self) -> Result<Life, String> {
        let options = RepositoryOptions {
            index: Some(self.index.clone()),
            compression: Compression::Zstd { level: 1 },
            cache_bytes: 16 << 20,
        };
        let opened = Repository::open(&self.location(), &options);
        let repository = Arc::new(opened.map_err(|error| told_with_causes(&error))?);
        let state = self.fs.path().join("state");
        let events = EventLog::open(&state);
        repository.catalog().set_observer(Arc::clone(&events) as _);
        let options =
            JobQueueOptions { operations_max: 15, finished_kept: 1000, finished_kept_seconds: 3600 };
        let jobs = Arc::new(JobQueue::open(options, &state, events));
        let source =
            SeveredSource::open(&self.volumes, self.fs.watch()).map_err(|error| error.to_string())?;
        let project = Project {
            name: "default".parse().unwrap(),
            sources: vec![source.name().clone()],
            uid: 0,
            gid: 0,
            quota: Quota::default(),
        };
        let options = OperationsOptions {
            projects: vec![project],
            volume_types: Default::default(),
            without_parent: WithoutParent::TakeFull,
            memory_bytes: 64 << 20,
            restore_step_bytes: RESTORE_STEP_BYTES,
            diff_trust: DiffTrust::default(),
            verify: VerifyOptions::default(),
        };
        let scratch = ScratchImages::open(&repository, 1 << 30).map_err(|error| error.to_string())?;
        let operations = Operations::new(repository, Sources::new(vec![source]), jobs, scratch, options);
        operations.recover();
        Ok(Life { operations })
    }
}

/// How a command ended, as its caller was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    Done,
    Failed(String),
    Refused(String),
    /// Nothing: the process died.
    Nothing,
    /// That it will be done; then the process died.
    Accepted,
}

/// What a command was answered: the jobs to wait for.
pub type Answer = Result<Vec<JobId>, Refusal>;

impl Life {
    /// Runs a command to its end, or until the cut.
    pub fn run(
        &self,
        world: &World,
        command: impl FnOnce(&Arc<Operations>) -> Answer + Send + 'static,
    ) -> Told {
        let (sender, receiver) = channel();
        world.fs.tell_cut(sender.clone(), Told::Nothing);
        let operations = Arc::clone(&self.operations);
        thread::spawn(move || {
            let told = match command(&operations) {
                Err(refusal) => Told::Refused(refusal.to_string()),
                Ok(jobs) => wait_for(&operations, &jobs),
            };
            drop(operations);
            // Nobody hears it after the cut.
            let _ = sender.send(told);
        });
        let told = receiver.recv_timeout(PATIENCE).expect("the command does not end");
        if world.fs.is_cut() { Told::Nothing } else { told }
    }

    /// Backs up a volume and waits.
    pub fn backup(&self, request: BackupRequest) -> Result<BackupId, String> {
        let accepted =
            self.operations.backup(&Requester::OPERATOR, &request).map_err(|refusal| refusal.to_string())?;
        match wait_for(&self.operations, &[accepted.job]) {
            Told::Done => Ok(accepted.backup),
            told => Err(format!("{told:?}")),
        }
    }

    /// Waits until nothing is under way any more, or the cut has come.
    pub fn wait_until_settled(&self, world: &World) {
        let deadline = Instant::now() + PATIENCE;
        let is_busy = || self.operations.jobs().reports().iter().any(|job| !job.state.has_ended());
        while !world.fs.is_cut() && is_busy() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends the process in order, or what is left of it after a cut.
    pub fn end(self) {
        let left = self.operations.shut_down(Instant::now() + PATIENCE);
        assert!(left == 0 || thread::panicking(), "a job does not stop");
        let weak = Arc::downgrade(&self.operations);
        drop(self);
        // Threads that are about to end hold it still, and with it the lock of the index.
        let deadline = Instant::now() + PATIENCE;
        while weak.strong_count() > 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(weak.strong_count(), 0, "somebody holds the engine");
    }
}

fn told_with_causes(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        told = format!("{told}: {error}");
        cause = error.source();
    }
    told
}

fn wait_for(operations: &Operations, jobs: &[JobId]) -> Told {
    let mut told = Told::Done;
    for job in jobs {
        let report = operations.jobs().wait(*job).unwrap();
        if report.state != JobState::Done {
            let error = report.error.map(|error| error.to_string()).unwrap_or_default();
            told = Told::Failed(format!("{}: {error}", report.state));
        }
    }
    told
}
