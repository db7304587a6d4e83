//! What is remembered of the jobs from one daemon to the next: a file of JSON lines, each a job as it was when its
//! state changed; of several lines of one job the last one holds.
//!
//! Lines are appended, and the file is written anew when most of it is out of date. A line that is torn or damaged is
//! passed over, and a file that is lost costs the numbers and the ended jobs, nothing else.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::report::{JobId, JobReport};
use super::state_folder;
use crate::sysio::{PathError, atomic};

/// A longer line is none of ours.
const LINE_BYTES_MAX: usize = 64 << 10;

/// A smaller file is not worth being written anew.
const COMPACTED_FROM_BYTES: u64 = 64 << 10;

/// The file may hold so many times what it holds in the end.
const GROWTH: u64 = 4;

/// The largest number that every reader of JSON gets exactly. A larger one in the file is damage.
const ID_MAX: u64 = 1 << 53;

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Entry {
    Job(Box<JobReport>),
    /// The last number that was given, though its job may be forgotten.
    LastId {
        last_id: JobId,
    },
}

pub(super) struct Journal {
    folder: PathBuf,
    path: PathBuf,
    /// `None` when it cannot be gone on with: before the next line it is written anew.
    file: Option<File>,
    length: u64,
    /// At this length it is written anew.
    compacted_at: u64,
}

impl Journal {
    /// Reads what the journal of a state folder holds. [`rewrite`](Self::rewrite) is to be called before lines are
    /// appended.
    pub(super) fn open(folder: &Path, visit: impl FnMut(Entry)) -> Self {
        let journal = Self {
            folder: folder.to_owned(),
            path: folder.join("jobs"),
            file: None,
            length: 0,
            compacted_at: 0,
        };
        let read = state_folder::prepare(folder).and_then(|()| journal.read(visit));
        if let Err(error) = read {
            let cause = error.source.to_string();
            tracing::warn!(cause, "{error}: ended jobs and their numbers may be forgotten");
        }
        journal
    }

    fn read(&self, mut visit: impl FnMut(Entry)) -> Result<(), PathError> {
        let failed = |action| move |error| PathError::new(action, &self.path, error);
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(failed("open"))?,
        };
        let mut reader = BufReader::new(file);
        let (mut line, mut damaged) = (Vec::new(), 0);
        while next_line(&mut reader, &mut line).map_err(failed("read"))? {
            match serde_json::from_slice(&line) {
                Ok(entry) if is_plausible(&entry) => visit(entry),
                _ => damaged += 1,
            }
        }
        if damaged > 0 {
            tracing::warn!(path = %self.path.display(), damaged, "lines of the journal of jobs are damaged");
        }
        Ok(())
    }

    /// Must the journal be written anew before the next line?
    pub(super) fn is_outgrown(&self) -> bool {
        self.file.is_none() || self.length >= self.compacted_at
    }

    /// Writes the journal anew. After a failure the one on the disk is what it was.
    pub(super) fn rewrite(&mut self, last_id: JobId, reports: &[JobReport]) -> Result<(), PathError> {
        let mut text = Vec::new();
        write_line(&mut text, &Entry::LastId { last_id });
        reports.iter().for_each(|report| write_line(&mut text, report));
        state_folder::make(&self.folder)?;
        let replaced = atomic::replace(&state_folder::temporary(&self.folder), &self.path, &text);
        // Whether it was published or not, the old file is not known to be the one under the name.
        self.file = None;
        replaced?;
        let file = OpenOptions::new().write(true).open(&self.path);
        self.file = Some(file.map_err(|error| PathError::new("open", &self.path, error))?);
        self.length = text.len() as u64;
        self.compacted_at = (self.length * GROWTH).max(COMPACTED_FROM_BYTES);
        Ok(())
    }

    /// Appends a job as it is now. `sync`: the line is durable when this returns.
    pub(super) fn append(&mut self, report: &JobReport, sync: bool) -> Result<(), PathError> {
        let mut line = Vec::new();
        write_line(&mut line, report);
        let appended = self.write(&line, sync);
        if appended.is_err() {
            // The kernel may have dropped what was not synced, and a part of the line may be there.
            self.file = None;
        }
        appended
    }

    fn write(&mut self, line: &[u8], sync: bool) -> Result<(), PathError> {
        let path = &self.path;
        let failed = |action| move |error| PathError::new(action, path, error);
        let file = self.file.as_ref().ok_or_else(|| failed("write")(io::ErrorKind::NotConnected.into()))?;
        file.write_all_at(line, self.length).map_err(failed("write"))?;
        if sync {
            file.sync_data().map_err(failed("sync"))?;
        }
        self.length += line.len() as u64;
        Ok(())
    }
}

fn is_plausible(entry: &Entry) -> bool {
    match entry {
        Entry::Job(report) => (1..=ID_MAX).contains(&report.id.0),
        Entry::LastId { last_id } => last_id.0 <= ID_MAX,
    }
}

fn write_line(text: &mut Vec<u8>, value: &impl Serialize) {
    // Cannot fail: it is written to memory, and its keys are strings.
    text.extend(serde_json::to_vec(value).unwrap_or_default());
    text.push(b'\n');
}

/// Reads a line, without its end; says whether there was one. One that is too long comes in parts that are damaged.
fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let read = reader.by_ref().take(LINE_BYTES_MAX as u64).read_until(b'\n', line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok(read > 0)
}

#[cfg(test)]
mod tests;
