//! A tree over a hand-made repository: sources that list what a test wants, and commands that do nothing.

use std::sync::{Arc, Condvar, Mutex};

use amberfs::catalog::{Project, Quota};
use amberfs::files::{FileTrees, FileTreesOptions};
use amberfs::jobs::{EventLog, JobQueue, JobQueueOptions};
use amberfs::operations::{BackupUse, VolumeUse};
use amberfs::scratch::ScratchImages;
use amberfs::source::{
    InUse, Snapshot, SnapshotInfo, Source, SourceError, Sources, VolumeInfo, VolumeWriter,
};
use amberfs::types::{RefusalKind, SnapshotName, SourceName, VolumeMetadata, VolumeName};
use amberfs::vfs::{Caller, CommandOutcome, CommandRunner, ListingTimes, Owner, UseCounter, Vfs, VfsParts};

use super::hand_made::HandMade;

/// The uid and gid of the project `tenant`.
pub const TENANT: u32 = 4321;

/// A source that has names and nothing behind them, and that can stop answering.
pub struct NamedVolumes {
    name: SourceName,
    volumes: Mutex<Result<Vec<VolumeName>, String>>,
    hangs: Mutex<bool>,
    answers: Condvar,
}

impl NamedVolumes {
    pub fn new(name: &str, volumes: impl IntoIterator<Item = impl AsRef<str>>) -> Arc<Self> {
        let source = Self {
            name: name.parse().unwrap(),
            volumes: Mutex::new(Ok(Vec::new())),
            hangs: Mutex::new(false),
            answers: Condvar::new(),
        };
        source.set(volumes);
        Arc::new(source)
    }

    pub fn set(&self, volumes: impl IntoIterator<Item = impl AsRef<str>>) {
        let volumes = volumes.into_iter().map(|name| name.as_ref().parse().unwrap()).collect();
        *self.volumes.lock().unwrap() = Ok(volumes);
    }

    pub fn fail(&self, why: &str) {
        *self.volumes.lock().unwrap() = Err(why.to_owned());
    }

    /// Lets nobody wait for ever: see `Drop` of the guard.
    pub fn hang(self: &Arc<Self>) -> Hanging {
        *self.hangs.lock().unwrap() = true;
        Hanging(Arc::clone(self))
    }
}

/// While it lives the source does not answer.
pub struct Hanging(Arc<NamedVolumes>);

impl Drop for Hanging {
    fn drop(&mut self) {
        *self.0.hangs.lock().unwrap() = false;
        self.0.answers.notify_all();
    }
}

impl Source for NamedVolumes {
    fn name(&self) -> &SourceName {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "names"
    }

    fn list(&self) -> Result<Vec<VolumeName>, SourceError> {
        drop(self.answers.wait_while(self.hangs.lock().unwrap(), |hangs| *hangs).unwrap());
        self.volumes.lock().unwrap().clone().map_err(|what| self.unavailable(what))
    }

    fn volume(&self, _: &VolumeName) -> Result<VolumeInfo, SourceError> {
        Err(self.unavailable("names only".to_owned()))
    }

    fn create_snapshot(
        &self,
        _: &VolumeName,
        _: &SnapshotName,
        _: InUse,
    ) -> Result<Box<dyn Snapshot>, SourceError> {
        Err(self.unavailable("names only".to_owned()))
    }

    fn open_snapshot(&self, _: &VolumeName, _: &SnapshotName) -> Result<Box<dyn Snapshot>, SourceError> {
        Err(self.unavailable("names only".to_owned()))
    }

    fn snapshots(&self, _: &VolumeName) -> Result<Vec<SnapshotInfo>, SourceError> {
        Ok(Vec::new())
    }

    fn remove_snapshot(&self, _: &VolumeName, _: &SnapshotInfo) -> Result<(), SourceError> {
        Ok(())
    }

    fn create_volume(
        &self,
        _: &VolumeName,
        _: u64,
        _: &VolumeMetadata,
    ) -> Result<Box<dyn VolumeWriter>, SourceError> {
        Err(self.unavailable("names only".to_owned()))
    }

    fn open_volume(&self, _: &VolumeName) -> Result<Box<dyn VolumeWriter>, SourceError> {
        Err(self.unavailable("names only".to_owned()))
    }

    fn check_new_name(&self, _: &VolumeName) -> Result<(), SourceError> {
        Err(self.unavailable("names only".to_owned()))
    }

    fn rename_volume(&self, _: &VolumeName, _: &VolumeName) -> Result<(), SourceError> {
        Err(self.unavailable("names only".to_owned()))
    }

    fn remove_volume(&self, _: &VolumeName) -> Result<(), SourceError> {
        Err(self.unavailable("names only".to_owned()))
    }
}

impl NamedVolumes {
    fn unavailable(&self, what: String) -> SourceError {
        SourceError::Unavailable { source_name: self.name.clone(), what }
    }
}

/// Answers what it was told; a line that begins with `refuse` is refused, one that begins with `wait` waits until it
/// is let go.
#[derive(Default)]
pub struct Echo {
    pub calls: Mutex<Vec<(String, u32, Vec<u8>)>>,
    let_go: Mutex<bool>,
    changed: Condvar,
}

impl Echo {
    pub fn let_go(&self) {
        *self.let_go.lock().unwrap() = true;
        self.changed.notify_all();
    }

    pub fn wait_for_calls(&self, count: usize) {
        let calls = self.calls.lock().unwrap();
        drop(self.changed.wait_while(calls, |calls| calls.len() < count).unwrap());
    }
}

impl CommandRunner for Echo {
    fn run(&self, file: &str, caller: Caller, text: &[u8]) -> CommandOutcome {
        self.calls.lock().unwrap().push((file.to_owned(), caller.uid, text.to_vec()));
        self.changed.notify_all();
        let text = String::from_utf8_lossy(text);
        if text.starts_with("wait") {
            drop(self.changed.wait_while(self.let_go.lock().unwrap(), |let_go| !*let_go).unwrap());
        }
        match text.strip_prefix("refuse ") {
            Some(_) => CommandOutcome {
                answer: "error: VolumeInUse: it is in use\n".to_owned(),
                refusal: Some(RefusalKind::VolumeInUse),
            },
            None => {
                let answer = text.lines().map(|line| format!("ok {file}='{line}'\n")).collect();
                CommandOutcome { answer, refusal: None }
            }
        }
    }
}

/// A project without limits that has one source.
pub fn project(name: &str, source: &str, id: u32) -> Project {
    Project {
        name: name.parse().unwrap(),
        sources: vec![source.parse().unwrap()],
        uid: id,
        gid: id,
        quota: Quota::default(),
    }
}

pub fn projects() -> Vec<Project> {
    vec![project("default", "local", 0), project("tenant", "rented", TENANT)]
}

pub fn jobs() -> Arc<JobQueue> {
    let options = JobQueueOptions { operations_max: 1, finished_kept: 100_000, finished_kept_seconds: 3600 };
    Arc::new(JobQueue::new(options))
}

/// Counts nothing; the volumes' use is not known.
pub struct NothingUsed;

impl UseCounter for NothingUsed {
    fn backup_use(&self, _: &Project) -> BackupUse {
        BackupUse::default()
    }

    fn volume_use(&self, _: &Project) -> Result<VolumeUse, String> {
        Err("nothing is counted".to_owned())
    }

    fn stored_bytes(&self, _: &Project) -> Result<u64, String> {
        Ok(0)
    }
}

/// Takes the parts of a tree together; times are short, so that tests are.
pub fn parts(hand_made: &HandMade, sources: Vec<Arc<dyn Source>>, runner: Arc<Echo>) -> VfsParts {
    let short = std::time::Duration::from_millis(300);
    VfsParts {
        repository: Arc::clone(&hand_made.repository),
        scratch: ScratchImages::open(&hand_made.repository, 1 << 30).unwrap(),
        sources: Sources::new(sources),
        jobs: jobs(),
        events: EventLog::open(hand_made.repository.state_folder()),
        projects: projects(),
        quotas: Arc::new(NothingUsed),
        operator: Owner { uid: 0, gid: 0 },
        control_group: 0,
        runner,
        file_trees: FileTrees::new(FileTreesOptions::new(env!("CARGO_BIN_EXE_amberfs").into())).unwrap(),
        checks_permissions: true,
        listing_times: ListingTimes { fresh: std::time::Duration::ZERO, deadline: short },
    }
}

pub fn tree(hand_made: &HandMade, sources: Vec<Arc<dyn Source>>) -> Arc<Vfs> {
    Vfs::new(parts(hand_made, sources, Arc::default()))
}
