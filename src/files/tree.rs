//! The files of one file system.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use super::error::FilesError;
use super::metadata::{FileMetadata, FileSystemKind, FolderEntry};
use super::path::FilePath;
use super::process::{Clock, Outcome, WorkerFailure};
use super::protocol::{Answer, Page, Refusal, RefusalKind, Request, TRANSFER_BYTES_MAX};
use super::trees::{FileTrees, Worker};
use super::turns::{Turns, WAITING_MAX};
use crate::sysio::device::ReadAt;

/// Workers that one file system may lose within `FAILURES_WITHIN`; then it is left alone until the first is forgotten.
/// One that took too long counts as all of them: five of those would take longer, and hold a thread each time.
const FAILURES_MAX: usize = 5;
const FAILURES_WITHIN: Duration = Duration::from_secs(60);
/// More than any folder has; a listing of a damaged one ends.
const FOLDER_ENTRIES_MAX: usize = 1 << 26;
/// Of a worker's memory, the part that holds bytes of the device.
const CACHE_PART: u64 = 8;

/// The files of one file system, read-only, as of the moment of the backup, with its journal or log replayed.
///
/// One request is answered at a time; others wait, but few (`WAITING_MAX`) for one that takes longer than some seconds.
pub struct FileTree {
    trees: Arc<FileTrees>,
    device: Arc<dyn ReadAt>,
    kind: FileSystemKind,
    turns: Turns,
    /// Locked by who has the turn, or has found it free.
    state: Mutex<TreeState>,
}

#[derive(Default)]
struct TreeState {
    worker: Option<Worker>,
    /// When workers were lost, the oldest first.
    failures: VecDeque<Instant>,
    /// When the last one took too long.
    timed_out: Option<Instant>,
}

impl FileTree {
    pub(super) fn new(trees: Arc<FileTrees>, device: Arc<dyn ReadAt>, kind: FileSystemKind) -> Self {
        Self { trees, device, kind, turns: Turns::default(), state: Mutex::default() }
    }

    pub fn kind(&self) -> FileSystemKind {
        self.kind
    }

    /// Looks a file up; of a link, the link itself.
    pub fn metadata(&self, path: &FilePath) -> Result<FileMetadata, FilesError> {
        let request = Request::Metadata { path: path.clone() };
        self.ask(path, &request, &mut self.clock(), |answer| match answer {
            Answer::Metadata(metadata) => Some(metadata),
            _ => None,
        })
    }

    /// Visits the entries of a folder, in the order of the file system, from a position on: 0, or the `next` of an
    /// entry. A position stays good for as long as the image is the same. All of it has the time of one request.
    pub fn list(
        &self,
        path: &FilePath,
        from: u64,
        visit: &mut dyn FnMut(FolderEntry) -> ControlFlow<()>,
    ) -> Result<(), FilesError> {
        let mut clock = self.clock();
        let (mut position, mut count) = (from, 0);
        while count < FOLDER_ENTRIES_MAX {
            let Page { entries, next, .. } = self.page(path, position, &mut clock)?;
            // An empty page counts, too.
            count += entries.len().max(1);
            if clock.pause(|| entries.into_iter().try_for_each(&mut *visit)).is_break() {
                return Ok(());
            }
            let Some(next) = next else { return Ok(()) };
            position = next;
        }
        let why = format!("a folder of more than {FOLDER_ENTRIES_MAX} entries");
        Err(FilesError::Damaged { path: path.clone(), why })
    }

    fn page(&self, path: &FilePath, from: u64, clock: &mut Clock) -> Result<Page, FilesError> {
        self.ask(path, &Request::List { path: path.clone(), from }, clock, |answer| match answer {
            Answer::Page(page) if page.next.is_none_or(|next| next > from) => Some(page),
            _ => None,
        })
    }

    /// Returns what a link says, at most `PATH_BYTES_MAX` bytes of anything.
    pub fn read_link(&self, path: &FilePath) -> Result<Vec<u8>, FilesError> {
        let request = Request::ReadLink { path: path.clone() };
        self.ask(path, &request, &mut self.clock(), |answer| match answer {
            Answer::Target(target) => Some(target),
            _ => None,
        })
    }

    /// Fills `into` as far as the file reaches, and returns how much that is. Holes read as zeros.
    pub fn read(&self, path: &FilePath, offset: u64, into: &mut [u8]) -> Result<usize, FilesError> {
        let mut done = 0;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let length = rest.len().min(TRANSFER_BYTES_MAX);
            let Some(offset) = offset.checked_add(done as u64) else { break };
            let request = Request::Read { path: path.clone(), offset, length };
            let read = self.ask(path, &request, &mut self.clock(), |answer| {
                let Answer::Data(bytes) = answer else { return None };
                let part = rest.get_mut(..length)?.get_mut(..bytes.len())?;
                part.copy_from_slice(&bytes);
                Some(bytes.len())
            })?;
            done += read;
            if read < length {
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

    /// Asks one request; `accept` returns none of an answer that is none to it. The clock stands still while others are
    /// waited for.
    fn ask<T>(
        &self,
        path: &FilePath,
        request: &Request,
        clock: &mut Clock,
        accept: impl FnOnce(Answer) -> Option<T>,
    ) -> Result<T, FilesError> {
        let turn = clock.pause(|| self.turns.take()).ok_or_else(|| FilesError::Busy {
            why: format!(
                "a request to this file system takes long, and {WAITING_MAX} others wait for its end"
            ),
        })?;
        let mut state = self.state();
        let result = self.ask_worker(&mut state, path, request, clock);
        let result = result.and_then(|outcome| match outcome.answer {
            Answer::Refused(refusal) => Err(refused(path, refusal, outcome.device_error)),
            answer => accept(answer).ok_or_else(|| state.wrong_answer(path)),
        });
        drop(state);
        drop(turn);
        self.trees.tell_idle();
        result
    }

    fn ask_worker(
        &self,
        state: &mut TreeState,
        path: &FilePath,
        request: &Request,
        clock: &mut Clock,
    ) -> Result<Outcome, FilesError> {
        let limit = self.trees.options().deadline;
        loop {
            let (mut worker, is_new) = match state.worker.take() {
                Some(worker) => (worker, false),
                None => (clock.pause(|| self.start(state, path))?, true),
            };
            if clock.remaining().is_err() {
                // Others took the time: the worker is not to blame.
                state.worker = Some(worker);
                return Err(FilesError::TimedOut { path: path.clone(), limit });
            }
            let failure = match worker.process.ask_within(request, &*self.device, clock) {
                Ok(outcome) => {
                    worker.used = Instant::now();
                    state.worker = Some(worker);
                    return Ok(outcome);
                }
                Err(failure) => failure,
            };
            drop(worker);
            state.count(&failure);
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
            Ok(_) => Err(state.wrong_answer(path)),
            Err(failure) => {
                state.count(&failure);
                Err(failed(path, failure, options.deadline))
            }
        }
    }

    fn clock(&self) -> Clock {
        Clock::new(self.trees.options().deadline)
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
    /// A worker that answers another question than it was asked is a worker that went wrong.
    fn wrong_answer(&mut self, path: &FilePath) -> FilesError {
        self.worker = None;
        self.failures.push_back(Instant::now());
        FilesError::WorkerEnded { path: path.clone(), how: "answered what it was not asked".to_owned() }
    }

    fn count(&mut self, failure: &WorkerFailure) {
        let now = Instant::now();
        match failure {
            WorkerFailure::TimedOut => self.timed_out = Some(now),
            WorkerFailure::Ended(_) | WorkerFailure::Broke(_) => self.failures.push_back(now),
        }
    }

    fn check_failures(&mut self, now: Instant) -> Result<(), FilesError> {
        while self.failures.front().is_some_and(|at| now.duration_since(*at) >= FAILURES_WITHIN) {
            self.failures.pop_front();
        }
        let first = self.failures.front().filter(|_| self.failures.len() >= FAILURES_MAX);
        let wait = |since: &Instant| FAILURES_WITHIN.saturating_sub(now.duration_since(*since));
        let wait = first.into_iter().chain(&self.timed_out).map(wait).max().unwrap_or_default();
        if wait.is_zero() { Ok(()) } else { Err(FilesError::TooManyFailures { wait }) }
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
    match refusal.kind {
        RefusalKind::NotFound => FilesError::NotFound { path },
        RefusalKind::NotAFolder => FilesError::NotAFolder { path },
        RefusalKind::IsAFolder => FilesError::IsAFolder { path },
        RefusalKind::NotAFile => FilesError::NotAFile { path },
        RefusalKind::NotALink => FilesError::NotALink { path },
        RefusalKind::Damaged => FilesError::Damaged { path, why: refusal.why },
        RefusalKind::Unsupported => FilesError::Unsupported { why: refusal.why },
        RefusalKind::DeviceFailed => {
            let unknown = || std::io::Error::other("its reader says so, and nothing more is known");
            FilesError::Device { path, source: device_error.unwrap_or_else(unknown) }
        }
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

    #[test]
    fn a_file_system_that_makes_its_reader_take_too_long_is_left_alone_at_once_however_long_that_is() {
        let mut state = TreeState::default();
        state.count(&WorkerFailure::TimedOut);
        let now = state.timed_out.unwrap();
        let wait = match state.check_failures(now + FAILURES_WITHIN / 4) {
            Err(FilesError::TooManyFailures { wait }) => wait,
            other => panic!("{other:?}"),
        };
        assert_eq!(wait, FAILURES_WITHIN * 3 / 4);
        assert!(state.check_failures(now + FAILURES_WITHIN).is_ok(), "that is forgotten, too");
    }
}
