//! A repository and sources with operations over them, in this process and without a mount.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use amberfs::catalog::{BackupRecord, Project, Quota};
use amberfs::format::codec::Compression;
use amberfs::jobs::{Event, EventObserver, JobQueue, JobQueueOptions, JobState};
use amberfs::operations::{
    BackupRequest, DiffTrust, Operations, OperationsOptions, RESTORE_STEP_BYTES, Requester, RestoreRequest,
    VerifyOptions, WithoutParent,
};
use amberfs::repository::{Location, Repository, RepositoryOptions};
use amberfs::source::{Source, Sources};
use amberfs::types::{BackupId, ByteSize};

pub struct Engine {
    pub operations: Arc<Operations>,
    repository: PathBuf,
}

impl Engine {
    /// Opens the repository in this directory, and makes it when there is none.
    pub fn open(repository: &Path, sources: Vec<Arc<dyn Source>>) -> Self {
        Self::open_with_quota(repository, sources, Quota::default())
    }

    pub fn open_with_quota(repository: &Path, sources: Vec<Arc<dyn Source>>, quota: Quota) -> Self {
        Self::open_with(repository, sources, 15, |options| options.projects[0].quota = quota)
    }

    /// Opens it as a daemon does that has been here before: the jobs that it left unfinished are remembered.
    pub fn open_remembering(repository: &Path, sources: Vec<Arc<dyn Source>>) -> Self {
        let queue = |options, state_folder: &Path| JobQueue::open(options, state_folder, Arc::new(Nobody));
        Self::open_with_queue(repository, sources, 15, |_| {}, queue)
    }

    /// Opens it with other options, and so many operations at once.
    pub fn open_with(
        repository: &Path,
        sources: Vec<Arc<dyn Source>>,
        operations_max: usize,
        change: impl FnOnce(&mut OperationsOptions),
    ) -> Self {
        let queue = |options, _: &Path| JobQueue::new(options);
        Self::open_with_queue(repository, sources, operations_max, change, queue)
    }

    fn open_with_queue(
        repository: &Path,
        sources: Vec<Arc<dyn Source>>,
        operations_max: usize,
        change: impl FnOnce(&mut OperationsOptions),
        queue: impl FnOnce(JobQueueOptions, &Path) -> JobQueue,
    ) -> Self {
        let location = Location::Directory(repository.to_owned());
        if !repository.join("repository").exists() {
            Repository::create(&location, ByteSize(64 << 10)).unwrap();
        }
        let options = RepositoryOptions {
            index: None,
            compression: Compression::Zstd { level: 1 },
            cache_bytes: 64 << 20,
        };
        let opened = Arc::new(Repository::open(&location, &options).unwrap());
        let project = Project {
            name: "default".parse().unwrap(),
            sources: sources.iter().map(|source| source.name().clone()).collect(),
            uid: 0,
            gid: 0,
            quota: Quota::default(),
        };
        let jobs = JobQueueOptions { operations_max, finished_kept: 1000, finished_kept_seconds: 3600 };
        let jobs = Arc::new(queue(jobs, opened.state_folder()));
        let mut options = OperationsOptions {
            projects: vec![project],
            volume_types: Default::default(),
            without_parent: WithoutParent::TakeFull,
            memory_bytes: 256 << 20,
            diff_trust: DiffTrust::default(),
            restore_step_bytes: RESTORE_STEP_BYTES,
            verify: VerifyOptions::default(),
        };
        change(&mut options);
        let scratch = amberfs::scratch::ScratchImages::open(&opened, 1 << 30).unwrap();
        let operations = Operations::new(opened, Sources::new(sources), jobs, scratch, options);
        operations.recover();
        Self { operations, repository: repository.to_owned() }
    }

    /// Ends the jobs, as the daemon does, and lets the repository go.
    pub fn close(self) -> PathBuf {
        self.repository.clone()
    }

    /// Backs up and waits; the backup is available.
    pub fn backup(&self, request: BackupRequest) -> Arc<BackupRecord> {
        let accepted = self.operations.backup(&Requester::OPERATOR, &request).unwrap();
        let report = self.operations.jobs().wait(accepted.job).unwrap();
        assert_eq!((report.state, report.error), (JobState::Done, None));
        self.operations.repository().catalog().get(accepted.backup).unwrap()
    }

    /// Restores and waits; returns the name of the volume.
    pub fn restore(&self, request: RestoreRequest) -> String {
        let accepted = self.operations.restore(&Requester::OPERATOR, &request).unwrap();
        let report = self.operations.jobs().wait(accepted.job).unwrap();
        assert_eq!((report.state, report.error), (JobState::Done, None));
        accepted.volume.to_string()
    }

    /// Reads a whole image.
    pub fn image(&self, id: BackupId) -> Vec<u8> {
        let image = self.operations.repository().image(id).unwrap();
        let mut bytes = vec![0xa5; usize::try_from(image.size_bytes()).unwrap() + 1];
        let length = image.read(0, &mut bytes).unwrap();
        bytes.truncate(length);
        assert_eq!(length as u64, image.size_bytes());
        bytes
    }
}

/// Is told of jobs, and does not care.
pub struct Nobody;

impl EventObserver for Nobody {
    fn observe(&self, _event: Event<'_>) {}
}

impl Drop for Engine {
    fn drop(&mut self) {
        let left = self.operations.shut_down(Instant::now() + Duration::from_secs(30));
        assert!(left == 0 || std::thread::panicking(), "a job does not stop");
    }
}

pub fn full(volume: &str) -> BackupRequest {
    BackupRequest { volume: volume.to_owned(), ..BackupRequest::default() }
}

pub fn incremental(volume: &str) -> BackupRequest {
    BackupRequest { incremental: true, ..full(volume) }
}

/// Asks for a restore to a new volume.
pub fn restore(id: BackupId) -> RestoreRequest {
    RestoreRequest { backup: id.to_string(), ..RestoreRequest::default() }
}

/// Asks for a restore over a volume that exists.
pub fn over(id: BackupId, to: &str) -> RestoreRequest {
    RestoreRequest { to: Some(to.to_owned()), force: true, ..restore(id) }
}

/// Returns the mark of a restore that is not complete on a file.
pub fn mark(path: &Path) -> Option<Vec<u8>> {
    let mut value = [0; 100];
    let length = rustix::fs::getxattr(path, "user.amberfs.restore", &mut value[..]).ok()?;
    Some(value[..length].to_vec())
}

/// Lists the names in a folder, sorted.
pub fn file_names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
