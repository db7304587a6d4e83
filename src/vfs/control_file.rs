//! Control files: what is written is run, what is read is the answer.
//!
//! A write that ends in a line feed, or is short, is complete and run at once. Other writes are pieces of a longer text,
//! as programs with buffers write it, and are kept until the text ends or the file is closed. Running may take as
//! long as a source takes to answer, so it is handed out as an [`Execution`], to be run where that hurts nobody.
//!
//! Accepted writes to one opening are answered one behind the other until somebody reads; a refused one is answered
//! alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::VfsError;
use crate::types::RefusalKind;

/// The control files there are, sorted.
pub const CONTROL_FILES: [&str; 12] = [
    "backup",
    "cancel",
    "delete",
    "flatten",
    "gc",
    "import",
    "reset-state",
    "restore",
    "scratch",
    "set",
    "verify",
    "xfs-uuid",
];

/// Who wrote a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
}

/// What came of the commands of one write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandOutcome {
    /// What the file then reads as, line ends included.
    pub answer: String,
    /// Set when the write is to fail; nothing has been changed then.
    pub refusal: Option<RefusalKind>,
}

/// Runs commands. Calls may come from several threads and may block until the source answers.
pub trait CommandRunner: Send + Sync {
    /// Runs the lines that were written to a control file, all or none. `file` is one of [`CONTROL_FILES`].
    fn run(&self, file: &str, caller: Caller, text: &[u8]) -> CommandOutcome;
}

/// What is not longer than this less one byte is no piece of a longer text: no buffer is smaller.
const PIECE_BYTES_MIN: usize = 4096;
/// So long may commands be that are written in pieces.
pub const TEXT_BYTES_MAX: usize = 1 << 20;
/// And so long records that are imported together: after a total loss there may be ten thousand.
const RECORDS_BYTES_MAX: usize = 16 << 20;

/// Of so many files and users the last answers are kept, and no more than so many bytes of them.
const ANSWERS_MAX: usize = 256;
const ANSWERS_BYTES_MAX: usize = 4 << 20;

/// What all control files share.
pub(super) struct ControlFiles {
    runner: Arc<dyn CommandRunner>,
    answers: Mutex<Answers>,
}

/// The last answer of each file to each user.
struct Answers {
    by_file_and_uid: LruCache<(&'static str, u32), Arc<str>>,
    bytes: usize,
}

impl ControlFiles {
    pub(super) fn new(runner: Arc<dyn CommandRunner>) -> Self {
        let answers = Answers { by_file_and_uid: LruCache::unbounded(), bytes: 0 };
        Self { runner, answers: Mutex::new(answers) }
    }

    fn keep(&self, file: &'static str, uid: u32, answer: Arc<str>) {
        let mut answers = lock(&self.answers);
        answers.bytes += answer.len();
        if let Some((_, replaced)) = answers.by_file_and_uid.push((file, uid), answer) {
            answers.bytes = answers.bytes.saturating_sub(replaced.len());
        }
        while answers.by_file_and_uid.len() > ANSWERS_MAX || answers.bytes > ANSWERS_BYTES_MAX {
            let Some((_, oldest)) = answers.by_file_and_uid.pop_lru() else { break };
            answers.bytes = answers.bytes.saturating_sub(oldest.len());
        }
    }

    fn last(&self, file: &'static str, uid: u32) -> Option<Arc<str>> {
        lock(&self.answers).by_file_and_uid.get(&(file, uid)).cloned()
    }
}

/// One opening of a control file.
pub(super) struct OpenControl {
    file: &'static str,
    /// Who opened it.
    uid: u32,
    files: Arc<ControlFiles>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Pieces of a text that has not ended.
    text: Vec<u8>,
    /// A piece of the text was lost: what follows it is not run either.
    is_too_long: bool,
    answer: Option<Arc<str>>,
    /// Was there a command in this opening? Else it reads as the user's last one.
    has_run: bool,
    /// More answers are put behind this one: it is one of accepted commands, and nobody has read it yet.
    can_grow: bool,
    /// Where the file's position is after the last write.
    written_to: u64,
    /// The position at which the answer begins for its reader.
    reads_from: Option<u64>,
}

impl State {
    /// Returns the answer with those before it that nobody has read: a shell's `printf` writes every line by itself.
    fn grown(&self, answer: String, is_accepted: bool) -> Arc<str> {
        let before = self.answer.as_deref().filter(|_| self.can_grow && is_accepted).unwrap_or_default();
        if before.is_empty() || before.len() + answer.len() > TEXT_BYTES_MAX {
            return answer.into();
        }
        format!("{before}{answer}").into()
    }
}

/// What a write came to.
pub enum Written {
    /// It is in the file: a scratch image.
    Stored,
    /// Kept, as a piece of a longer text.
    Piece,
    /// To be run; the write succeeds or fails with it.
    Complete(Execution),
}

impl OpenControl {
    pub(super) fn new(file: &'static str, uid: u32, files: Arc<ControlFiles>) -> Self {
        Self { file, uid, files, state: Mutex::new(State::default()) }
    }

    pub(super) fn write(
        self: &Arc<Self>,
        caller: Caller,
        offset: u64,
        bytes: &[u8],
    ) -> Result<Written, VfsError> {
        let mut state = lock(&self.state);
        let bytes_max = if self.file == "import" { RECORDS_BYTES_MAX } else { TEXT_BYTES_MAX };
        state.is_too_long |= state.text.len() + bytes.len() > bytes_max;
        if state.is_too_long {
            state.text = Vec::new();
            return Err(VfsError::CommandsTooLong { bytes_max });
        }
        state.text.extend_from_slice(bytes);
        let position = offset.saturating_add(bytes.len() as u64);
        if bytes.len() >= PIECE_BYTES_MIN && !bytes.ends_with(b"\n") {
            state.written_to = position;
            return Ok(Written::Piece);
        }
        let positions = Positions { failed: offset, succeeded: position };
        Ok(Written::Complete(self.execution(&mut state, caller, positions)))
    }

    /// Returns what is left to be run when the file is closed.
    pub(super) fn close(self: &Arc<Self>, caller: Caller) -> Option<Execution> {
        let mut state = lock(&self.state);
        let positions = Positions { failed: state.written_to, succeeded: state.written_to };
        (!state.text.is_empty()).then(|| self.execution(&mut state, caller, positions))
    }

    fn execution(self: &Arc<Self>, state: &mut State, caller: Caller, positions: Positions) -> Execution {
        Execution { open: Arc::clone(self), caller, positions, text: std::mem::take(&mut state.text) }
    }

    /// Fills `into` with the answer and returns how much of it there is; nothing at its end, whatever the offset.
    ///
    /// The writer of a command reads its answer from where the write left the file's position, or from 0 when it
    /// went back there.
    pub(super) fn read(&self, offset: u64, into: &mut [u8]) -> usize {
        let mut state = lock(&self.state);
        if !state.has_run && offset == 0 {
            state.answer = self.files.last(self.file, self.uid);
        }
        let from = match state.reads_from {
            _ if offset < state.written_to => 0,
            Some(from) => from,
            None => state.written_to,
        };
        state.reads_from = Some(from);
        state.can_grow = false;
        let answer = state.answer.as_deref().unwrap_or_default().as_bytes();
        let start = usize::try_from(offset.saturating_sub(from)).unwrap_or(usize::MAX);
        let rest = answer.get(start..).unwrap_or_default();
        copy(rest, into)
    }
}

/// Where the kernel leaves the file's position: a write that fails does not move it.
#[derive(Clone, Copy)]
struct Positions {
    failed: u64,
    succeeded: u64,
}

/// Commands that are to be run.
pub struct Execution {
    open: Arc<OpenControl>,
    caller: Caller,
    positions: Positions,
    text: Vec<u8>,
}

impl Execution {
    /// Runs the commands and keeps their answer. Blocks until they are accepted or refused.
    pub fn run(self) -> Result<(), VfsError> {
        let Self { open, caller, positions, text } = self;
        let runner = &open.files.runner;
        let outcome = catch_unwind(AssertUnwindSafe(|| runner.run(open.file, caller, &text)));
        let CommandOutcome { answer, refusal } = outcome.unwrap_or_else(|_| fault());
        let mut state = lock(&open.state);
        let answer = state.grown(answer, refusal.is_none());
        state.can_grow = refusal.is_none();
        state.answer = Some(Arc::clone(&answer));
        state.has_run = true;
        state.reads_from = None;
        state.written_to = if refusal.is_some() { positions.failed } else { positions.succeeded };
        drop(state);
        open.files.keep(open.file, caller.uid, answer);
        match refusal {
            Some(kind) => Err(VfsError::Refused { kind }),
            None => Ok(()),
        }
    }
}

fn fault() -> CommandOutcome {
    let kind = RefusalKind::Failed;
    CommandOutcome {
        answer: format!("error: {}: the command met a fault in amberfs; its log says more\n", kind.name()),
        refusal: Some(kind),
    }
}

/// Copies what fits and returns how much that is.
pub(super) fn copy(from: &[u8], into: &mut [u8]) -> usize {
    let length = from.len().min(into.len());
    if let (Some(into), Some(from)) = (into.get_mut(..length), from.get(..length)) {
        into.copy_from_slice(from);
    }
    length
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
