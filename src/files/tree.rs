//! The files of one file system.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use super::error::FilesError;
use super::metadata::{FileMetadata, FileSystemKind, FolderEntry};
use super::path::FilePath;
use super::process::{Outcome, WorkerFailure};
use super::protocol::{Answer, Page, Refusal, RefusalKind, Request, TRANSFER_BYTES_MAX};
use super::trees::{FileTrees, Worker};
use crate::sysio::device::ReadAt;

/// Workers that one file system may lose within `FAILURES_WITHIN`; then it is left alone until the first is forgotten.
const FAILURES_MAX: usize = 5;
const FAILURES_WITHIN: Duration = Duration::from_secs(60);
/// More than any folder has; a listing of a damaged one ends.
const FOLDER_ENTRIES_MAX: usize = 1 << 26;
/// Of a worker's memory, the part that holds bytes of the device.
const CACHE_PART: u64 = 8;

/// The files of one file system, read-only, as of the moment of the backup, with its journal or log replayed.
///
/// One request is answered at a time; others wait.
pub struct FileTree {
    trees: Arc<FileTrees>,
    device: Arc<dyn ReadAt>,
    kind: FileSystemKind,
    state: Mutex<TreeState>,
}

#[derive(Default)]
struct TreeState {
    worker: Option<Worker>,
    /// When workers were lost, the oldest first.
    failures: VecDeque<Instant>,
}

impl FileTree {
    pub(super) fn new(trees: Arc<FileTrees>, device: Arc<dyn ReadAt>, kind: FileSystemKind) -> Self {
        Self { trees, device, kind, state: Mutex::default() }
    }

    pub fn kind(&self) -> FileSystemKind {
        self.kind
    }

    /// Looks a file up; of a link, the link itself.
    pub fn metadata(&self, path: &FilePath) -> Result<FileMetadata, FilesError> {
        match self.ask(path, &Request::Metadata { path: path.clone() })? {
            Answer::Metadata(metadata) => Ok(metadata),
            _ => Err(self.wrong_answer(path)),
        }
    }

    /// Visits the entries of a folder, in the order of the file system, from a position on: 0, or the `next` of an
    /// entry. A position stays good for as long as the image is the same.
    pub fn list(
        &self,
        path: &FilePath,
        from: u64,
        visit: &mut dyn FnMut(FolderEntry) -> ControlFlow<()>,
    ) -> Result<(), FilesError> {
        let (mut position, mut count) = (from, 0);
        while count < FOLDER_ENTRIES_MAX {
            let Page { entries, next, .. } = self.page(path, position)?;
            // An empty page counts, too.
            count += entries.len().max(1);
            for entry in entries {
                if visit(entry).is_break() {
                    return Ok(());
                }
            }
            match next {
                None => return Ok(()),
                Some(next) if next > position => position = next,
                Some(_) => return Err(self.wrong_answer(path)),
            }
        }
        let why = format!("a folder of more than {FOLDER_ENTRIES_MAX} entries");
        Err(FilesError::Damaged { path: path.clone(), why })
    }

    fn page(&self, path: &FilePath, from: u64) -> Result<Page, FilesError> {
        match self.ask(path, &Request::List { path: path.clone(), from })? {
            Answer::Page(page) => Ok(page),
            _ => Err(self.wrong_answer(path)),
        }
    }

    /// Returns what a link says, at most `PATH_BYTES_MAX` bytes of anything.
    pub fn read_link(&self, path: &FilePath) -> Result<Vec<u8>, FilesError> {
        match self.ask(path, &Request::ReadLink { path: path.clone() })? {
            Answer::Target(target) => Ok(target),
            _ => Err(self.wrong_answer(path)),
        }
    }

    /// Fills `into` as far as the file reaches, and returns how much that is. Holes read as zeros.
    pub fn read(&self, path: &FilePath, offset: u64, into: &mut [u8]) -> Result<usize, FilesError> {
        let mut done = 0;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let length = rest.len().min(TRANSFER_BYTES_MAX);
            let Some(offset) = offset.checked_add(done as u64) else { break };
            let request = Request::Read { path: path.clone(), offset, length };
            let Answer::Data(bytes) = self.ask(path, &request)? else { return Err(self.wrong_answer(path)) };
            let Some(part) = rest.get_mut(..bytes.len()).filter(|part| part.len() <= length) else {
                return Err(self.wrong_answer(path));
            };
            part.copy_from_slice(&bytes);
            done += bytes.len();
            if bytes.len() < length {
                break;
            }
        }
        Ok(done)
    }

    /// The process that reads this file system, when there is one and it is idle; for looking at it.
    pub fn worker_id(&self) -> Option<u32> {
        Some(self.try_state()?.worker.as_ref()?.process.id())
    }

    pub(super) fn idle_since(&self) -> Option<Instant> {
        Some(self.try_state()?.worker.as_ref()?.used)
    }

    /// Takes the worker away if nobody uses it and nobody has since `before`.
    pub(super) fn take_idle_worker(&self, before: Instant) -> Option<Worker> {
        let mut state = self.try_state()?;
        state.worker.take_if(|worker| worker.used <= before)
    }

    fn ask(&self, path: &FilePath, request: &Request) -> Result<Answer, FilesError> {
        let result = self.ask_worker(&mut self.state(), path, request);
        self.trees.tell_idle();
        let outcome = result?;
        match outcome.answer {
            Answer::Refused(refusal) => Err(refused(path, refusal, outcome.device_error)),
            answer => Ok(answer),
        }
    }

    fn ask_worker(
        &self,
        state: &mut TreeState,
        path: &FilePath,
        request: &Request,
    ) -> Result<Outcome, FilesError> {
        let limit = self.trees.options().deadline;
        loop {
            let (mut worker, is_new) = match state.worker.take() {
                Some(worker) => (worker, false),
                None => (self.start(state, path)?, true),
            };
            let failure = match worker.process.ask(request, &*self.device, limit) {
                Ok(outcome) => {
                    worker.used = Instant::now();
                    state.worker = Some(worker);
                    return Ok(outcome);
                }
                Err(failure) => failure,
            };
            drop(worker);
            state.failures.push_back(Instant::now());
            // One that had answered before may have been ended by somebody else, or have grown: a new one may do it.
            if is_new || !matches!(failure, WorkerFailure::Ended(_)) {
                return Err(failed(path, failure, limit));
            }
        }
    }

    fn start(&self, state: &mut TreeState, path: &FilePath) -> Result<Worker, FilesError> {
        state.check_failures(Instant::now())?;
        let mut worker = self.trees.start()?;
        let options = self.trees.options();
        let open = Request::Open {
            kind: self.kind,
            size_bytes: self.device.size_bytes(),
            cache_bytes: options.memory_bytes / CACHE_PART,
        };
        match worker.process.ask(&open, &*self.device, options.deadline) {
            Ok(Outcome { answer: Answer::Opened, .. }) => Ok(worker),
            Ok(_) => Err(self.wrong_answer(path)),
            Err(failure) => {
                state.failures.push_back(Instant::now());
                Err(failed(path, failure, options.deadline))
            }
        }
    }

    /// A worker that answers another question than it was asked is a worker that went wrong.
    fn wrong_answer(&self, path: &FilePath) -> FilesError {
        let mut state = self.state();
        state.worker = None;
        state.failures.push_back(Instant::now());
        FilesError::WorkerEnded { path: path.clone(), how: "answered what it was not asked".to_owned() }
    }

    fn state(&self) -> MutexGuard<'_, TreeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_state(&self) -> Option<MutexGuard<'_, TreeState>> {
        match self.state.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl TreeState {
    fn check_failures(&mut self, now: Instant) -> Result<(), FilesError> {
        while self.failures.front().is_some_and(|at| now.duration_since(*at) >= FAILURES_WITHIN) {
            self.failures.pop_front();
        }
        match self.failures.front() {
            Some(first) if self.failures.len() >= FAILURES_MAX => Err(FilesError::TooManyFailures {
                failures: self.failures.len(),
                wait: FAILURES_WITHIN.saturating_sub(now.duration_since(*first)),
            }),
            _ => Ok(()),
        }
    }
}

fn failed(path: &FilePath, failure: WorkerFailure, limit: Duration) -> FilesError {
    let path = path.clone();
    match failure {
        WorkerFailure::TimedOut => FilesError::TimedOut { path, limit },
        WorkerFailure::Ended(how) => FilesError::WorkerEnded { path, how },
        WorkerFailure::Broke(how) => FilesError::WorkerEnded { path, how: how.to_owned() },
    }
}

fn refused(path: &FilePath, refusal: Refusal, device_error: Option<std::io::Error>) -> FilesError {
    let path = path.clone();
    match (refusal.kind, device_error) {
        (RefusalKind::NotFound, None) => FilesError::NotFound { path },
        (RefusalKind::NotAFolder, None) => FilesError::NotAFolder { path },
        (RefusalKind::IsAFolder, None) => FilesError::IsAFolder { path },
        (RefusalKind::NotAFile, None) => FilesError::NotAFile { path },
        (RefusalKind::NotALink, None) => FilesError::NotALink { path },
        (RefusalKind::Damaged, None) => FilesError::Damaged { path, why: refusal.why },
        (RefusalKind::Unsupported, None) => FilesError::Unsupported { why: refusal.why },
        // Whatever a crate makes of a device that fails, it is no fact about the file system.
        (_, Some(source)) => FilesError::Device { path, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_that_makes_its_reader_fail_is_left_alone_for_a_while() {
        let now = Instant::now();
        let mut state = TreeState::default();
        for second in 0..FAILURES_MAX as u64 {
            assert!(state.check_failures(now + Duration::from_secs(second)).is_ok());
            state.failures.push_back(now + Duration::from_secs(second));
        }
        let wait = match state.check_failures(now + Duration::from_secs(20)) {
            Err(FilesError::TooManyFailures { wait, .. }) => wait,
            other => panic!("{other:?}"),
        };
        assert_eq!(wait, Duration::from_secs(40));
        assert!(state.check_failures(now + Duration::from_secs(60)).is_ok(), "the first is forgotten");
    }
}
