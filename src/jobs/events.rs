//! What happens, line by line: `MOUNT/events`. One JSON object for each change of a backup's or a job's state, in the
//! order of the changes, and for the progress of a running job.
//!
//! The lines are in a file that is cut to its newer half when it has grown too long. Nothing depends on it: what
//! cannot be written is told once and left out.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::report::{JobId, JobReport};
use super::state_folder;
use crate::sysio::{PathError, atomic, clock};
use crate::types::Timestamp;

/// Some ten thousand jobs; a follower that was away for less misses nothing.
const BYTES_MAX: u64 = 16 << 20;

/// Something that happened, with the fields of its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A backup has another state, or is gone.
    Backup(&'a BackupEvent),
    /// A job has another state.
    Job(&'a JobReport),
    /// A running job has got further.
    Progress(&'a ProgressEvent),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackupEvent {
    pub backup: String,
    /// As in `info.json`, or `deleted`.
    pub status: &'static str,
    pub project: String,
    /// `SOURCE/NAME`.
    pub volume: String,
    pub name: Option<String>,
    pub fail_reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProgressEvent {
    pub job: JobId,
    pub backup: Option<String>,
    pub bytes_done: u64,
    pub bytes_total: u64,
    pub bytes_per_second: u64,
}

impl From<JobReport> for ProgressEvent {
    fn from(report: JobReport) -> Self {
        let JobReport { id: job, backup, bytes_done, bytes_total, bytes_per_second, .. } = report;
        Self { job, backup, bytes_done, bytes_total, bytes_per_second }
    }
}

/// Whoever is told what happens, in the order in which it does, and before anybody sees it.
pub trait EventObserver: Send + Sync {
    /// Called under a lock of the caller's: short, and without calling back.
    fn observe(&self, event: Event<'_>);
}

/// The file of the events, and whoever reads it.
pub struct EventLog {
    folder: PathBuf,
    path: PathBuf,
    bytes_max: u64,
    state: Mutex<State>,
}

struct State {
    /// `None` when it could not be opened: tried again with the next line.
    file: Option<Arc<File>>,
    length: u64,
    /// Bytes that were cut off the beginning while this process had it open.
    cut_bytes: u64,
    last_at: Timestamp,
    /// A failure is told once and not with each line.
    is_failing: bool,
}

/// An open `events` file. Bytes keep their offsets for a reader while others are cut off before them.
pub struct EventReader {
    log: Arc<EventLog>,
    /// What had been cut off when the reader was at offset 0.
    cut_bytes: AtomicU64,
}

#[derive(Serialize)]
struct Line<'a, T> {
    time: Timestamp,
    event: &'static str,
    #[serde(flatten)]
    fields: &'a T,
}

impl EventLog {
    /// Goes on with the file in a state folder; nothing that is wrong there stops anybody.
    pub fn open(folder: &Path) -> Arc<Self> {
        Self::with_limit(folder, BYTES_MAX)
    }

    fn with_limit(folder: &Path, bytes_max: u64) -> Arc<Self> {
        let state = State { file: None, length: 0, cut_bytes: 0, last_at: clock::now(), is_failing: false };
        let path = folder.join("events");
        let log = Self { folder: folder.to_owned(), path, bytes_max, state: Mutex::new(state) };
        let mut state = log.lock();
        let opened = state_folder::prepare(&log.folder).and_then(|()| log.reopen(&mut state));
        log.tell(&mut state, opened);
        drop(state);
        Arc::new(log)
    }

    pub fn length(&self) -> u64 {
        self.lock().length
    }

    /// Returns the time of the last line, or of the start when there was none since.
    pub fn last_at(&self) -> Timestamp {
        self.lock().last_at
    }

    pub fn reader(self: &Arc<Self>) -> EventReader {
        let cut_bytes = AtomicU64::new(self.lock().cut_bytes);
        EventReader { log: Arc::clone(self), cut_bytes }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append<T: Serialize>(&self, event: &'static str, fields: &T) {
        let mut state = self.lock();
        let time = clock::now();
        let mut line = serde_json::to_string(&Line { time, event, fields }).unwrap_or_default();
        line.push('\n');
        let written = self.write(&mut state, line.as_bytes());
        if written.is_ok() {
            state.last_at = time;
        }
        self.tell(&mut state, written);
    }

    fn write(&self, state: &mut State, line: &[u8]) -> Result<(), PathError> {
        if state.file.is_none() {
            self.reopen(state)?;
        }
        if state.length + line.len() as u64 > self.bytes_max {
            self.cut(state)?;
        }
        let Some(file) = &state.file else { return Ok(()) };
        // At the end of the last whole line: a line of which a part was written is overwritten by the next one.
        file.write_all_at(line, state.length).map_err(|error| PathError::new("write", &self.path, error))?;
        state.length += line.len() as u64;
        Ok(())
    }

    /// Opens the file and finds the end of its last whole line: a kill may have left a part of one behind it.
    fn reopen(&self, state: &mut State) -> Result<(), PathError> {
        state_folder::make(&self.folder)?;
        let failed = |action| move |error| PathError::new(action, &self.path, error);
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&self.path).map_err(failed("open"))?;
        let length = file.metadata().map_err(failed("look at"))?.len();
        let tail_start = length.saturating_sub(self.bytes_max / 2);
        let tail = read_between(&file, tail_start, length).map_err(failed("read"))?;
        let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |position| position as u64 + 1);
        let end = if whole == 0 { 0 } else { tail_start + whole };
        if end < length {
            file.set_len(end).map_err(failed("shorten"))?;
        }
        state.file = Some(Arc::new(file));
        state.length = end;
        Ok(())
    }

    /// Keeps the newer half, from the beginning of a line on.
    fn cut(&self, state: &mut State) -> Result<(), PathError> {
        let Some(file) = &state.file else { return Ok(()) };
        let middle = state.length.saturating_sub(self.bytes_max / 2);
        let newer = read_between(file, middle, state.length)
            .map_err(|error| PathError::new("read", &self.path, error))?;
        let line_start = newer.iter().position(|byte| *byte == b'\n').map_or(newer.len(), |end| end + 1);
        let kept = newer.get(line_start..).unwrap_or_default();
        state_folder::make(&self.folder)?;
        atomic::replace(&state_folder::temporary(&self.folder), &self.path, kept)?;
        let cut_bytes = state.cut_bytes + state.length - kept.len() as u64;
        // The old file is not written to any more, whatever becomes of the new one.
        state.file = None;
        self.reopen(state)?;
        state.cut_bytes = cut_bytes;
        Ok(())
    }

    fn tell(&self, state: &mut State, result: Result<(), PathError>) {
        match result {
            Ok(()) => state.is_failing = false,
            Err(error) => {
                if !std::mem::replace(&mut state.is_failing, true) {
                    let cause = error.source.to_string();
                    tracing::warn!(cause, "{error}: events are left out until it works again");
                }
            }
        }
    }
}

impl EventObserver for EventLog {
    fn observe(&self, event: Event<'_>) {
        match event {
            Event::Backup(fields) => self.append("backup", fields),
            Event::Job(fields) => self.append("job", fields),
            Event::Progress(fields) => self.append("progress", fields),
        }
    }
}

impl EventReader {
    /// Fills `into` from an offset and returns how many bytes there are before the end.
    ///
    /// Who reads so slowly that what he wants has been cut off meets the end there; from offset 0 he begins anew with
    /// what there is, as `tail -f` does when it finds the file shorter than it was.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let state = self.log.lock();
        if offset == 0 && self.cut_bytes.load(Ordering::Relaxed) < state.cut_bytes {
            self.cut_bytes.store(state.cut_bytes, Ordering::Relaxed);
        }
        let wanted = self.cut_bytes.load(Ordering::Relaxed).saturating_add(offset);
        let (Some(file), Some(start)) = (state.file.clone(), wanted.checked_sub(state.cut_bytes)) else {
            return Ok(0);
        };
        let left = usize::try_from(state.length.saturating_sub(start)).unwrap_or(usize::MAX);
        drop(state);
        let length = left.min(into.len());
        let into = into.get_mut(..length).unwrap_or_default();
        file.read_exact_at(into, start)?;
        Ok(length)
    }
}

fn read_between(file: &File, start: u64, end: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(end.saturating_sub(start)).unwrap_or(0)];
    file.read_exact_at(&mut bytes, start)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
