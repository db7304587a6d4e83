//! What becomes of a change of a job's state besides the table: its line in the journal and its event. One change at
//! a time, so that the lines are in the order of the changes.

use std::sync::{Arc, Mutex, PoisonError};

use super::JobError;
use super::events::{Event, EventObserver};
use super::journal::Journal;
use super::report::{JobId, JobReport};
use crate::sysio::{PathError, clock};
use crate::types::Timestamp;

/// What the journal is to hold: the last number, and the jobs, those that have ended in the order of their ends.
pub(super) type Holdings = (JobId, Vec<JobReport>);

/// Since when the journal cannot be written to, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalFailure {
    pub since: Timestamp,
    pub sentence: String,
}

/// What was wrong with the journal when it was written to last. Behind a lock of its own, which is never held during I/O.
pub(super) type JournalState = Arc<Mutex<Option<JournalFailure>>>;

/// Nothing here does anything in a queue without a journal and without an observer.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) journal: Option<Journal>,
    pub(super) observer: Option<Arc<dyn EventObserver>>,
    pub(super) journal_state: JournalState,
}

impl Changes {
    /// Writes the journal anew, without what is out of date. If that fails it is tried again before the next line.
    pub(super) fn compact(&mut self, holdings: Holdings) {
        let Some(journal) = &mut self.journal else { return };
        let rewritten = journal.rewrite(holdings.0, &holdings.1);
        self.remember(&rewritten);
        if let Err(error) = rewritten {
            let cause = error.source.to_string();
            tracing::warn!(cause, "{error}: no job is taken until it works again");
        }
    }

    /// Makes an accepted job's number durable. `holdings` is what there was before.
    pub(super) fn accepted(
        &mut self,
        report: &JobReport,
        holdings: impl FnOnce() -> Holdings,
    ) -> Result<(), JobError> {
        self.note(report, true, holdings).map_err(|error| {
            let sentence = format!("{error}: {}", error.source);
            JobError::NotKept { sentence }
        })?;
        self.observe(report);
        Ok(())
    }

    /// Notes that a job runs: not waited for, since a job that was only queued is put right in the same way.
    pub(super) fn started(&mut self, report: &JobReport, holdings: impl FnOnce() -> Holdings) {
        self.note_or_tell(report, false, holdings);
        self.observe(report);
    }

    /// Makes a job's end durable.
    pub(super) fn ended(&mut self, report: &JobReport, holdings: impl FnOnce() -> Holdings) {
        self.note_or_tell(report, true, holdings);
        self.observe(report);
    }

    pub(super) fn progressed(&self, report: JobReport) {
        if let Some(observer) = &self.observer {
            observer.observe(Event::Progress(&report.into()));
        }
    }

    fn observe(&self, report: &JobReport) {
        if let Some(observer) = &self.observer {
            observer.observe(Event::Job(report));
        }
    }

    fn note(
        &mut self,
        report: &JobReport,
        sync: bool,
        holdings: impl FnOnce() -> Holdings,
    ) -> Result<(), PathError> {
        let Some(journal) = &mut self.journal else { return Ok(()) };
        let mut noted = Ok(());
        if journal.is_outgrown() {
            let (last_id, reports) = holdings();
            noted = journal.rewrite(last_id, &reports);
        }
        let noted = noted.and_then(|()| journal.append(report, sync));
        self.remember(&noted);
        noted
    }

    fn remember(&self, written: &Result<(), PathError>) {
        let mut state = self.journal_state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = written.as_ref().err().map(|error| {
            let since = state.as_ref().map_or_else(clock::now, |failure| failure.since);
            JournalFailure { since, sentence: format!("{error}: {}", error.source) }
        });
    }

    fn note_or_tell(&mut self, report: &JobReport, sync: bool, holdings: impl FnOnce() -> Holdings) {
        if let Err(error) = self.note(report, sync, holdings) {
            let cause = error.source.to_string();
            tracing::error!(job = %report.id, state = %report.state, cause, "{error}: after a restart the job is not shown as it is");
        }
    }
}
