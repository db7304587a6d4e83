//! The queue: runs each job on a thread of its own, as many at once as allowed, in the order they came. Work is
//! run, dropped and waited for outside the lock, so a job may use the queue itself.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::JobError;
use super::changes::{Changes, JournalFailure, JournalState};
use super::control::{JobControl, JobEnd, Stop};
use super::events::EventObserver;
use super::journal::{Entry, Journal};
use super::metrics;
use super::report::{JobId, JobReport, JobSubject};
use super::table::{Slot, Start, Table, Work};
use crate::types::{Refusal, RefusalKind};

/// How often the progress of running jobs is told.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub struct JobQueueOptions {
    /// Operations that may run at once; at least one.
    pub operations_max: usize,
    /// Ended jobs that can still be looked at: how many, and for how long.
    pub finished_kept: usize,
    pub finished_kept_seconds: u64,
}

pub struct JobQueue {
    shared: Arc<Shared>,
    /// The thread that tells of progress ends when this is dropped.
    _ticking: Option<Sender<()>>,
}

struct Shared {
    /// Held from the first trace of a change of a job's state until the change is in the table. Taken before `table`,
    /// which is never held during I/O: who looks at jobs does not wait for a disk.
    changes: Mutex<Changes>,
    journal_state: JournalState,
    table: Mutex<Table>,
    job_ended: Condvar,
}

impl JobQueue {
    /// Makes a queue that remembers nothing.
    pub fn new(options: JobQueueOptions) -> Self {
        Self { shared: Shared::new(Table::new(options), Changes::default()), _ticking: None }
    }

    /// Makes a queue that remembers ended jobs and all numbers in a state folder, and tells an observer what happens.
    ///
    /// What the daemon before this one did not finish is queued as it was, but waits to be [`resume`](Self::resume)d
    /// or for [`end_unresumed`](Self::end_unresumed).
    pub fn open(options: JobQueueOptions, state_folder: &Path, observer: Arc<dyn EventObserver>) -> Self {
        let mut table = Table::new(options);
        let journal = Journal::open(state_folder, |entry| match entry {
            Entry::Job(report) => table.restore(*report),
            Entry::LastId { last_id } => table.restore_last_id(last_id),
        });
        let mut changes = Changes { journal: Some(journal), observer: Some(observer), ..Changes::default() };
        changes.compact(table.holdings());
        let shared = Shared::new(table, changes);
        let (ticking, ended) = crossbeam_channel::bounded(0);
        let shared_of_ticks = Arc::clone(&shared);
        let tick = move || shared_of_ticks.tell_progress_until(&ended);
        if let Err(error) = thread::Builder::new().name("job-progress".to_owned()).spawn(tick) {
            tracing::warn!(%error, "no thread tells of the jobs' progress: events have their states only");
        }
        Self { shared, _ticking: Some(ticking) }
    }

    /// Sets how many unhurried jobs may run at once, in the place of one.
    pub fn allow_unhurried(&self, running_max: usize) {
        self.shared.lock().allow_unhurried(running_max);
        Shared::start_next(&self.shared);
    }

    /// Queues a job; it starts as soon as its slot allows. Its number is durable when this returns.
    ///
    /// Work that is stopped while it is queued is dropped unrun, before the job counts as ended: what must be
    /// put right then belongs into the `Drop` of something it holds.
    pub fn submit(
        &self,
        kind: &'static str,
        subject: JobSubject,
        slot: Slot,
        work: impl FnOnce(&JobControl) -> Result<(), JobEnd> + Send + 'static,
    ) -> Result<JobId, JobError> {
        let number = |table: &mut Table| table.number(kind, subject);
        self.accept(slot, Box::new(work), number)
    }

    /// Queues a job that the daemon before this one left unfinished, found by its kind and backup, under the number
    /// that it had; under a new one when there is no such job.
    pub fn resume(
        &self,
        kind: &'static str,
        subject: JobSubject,
        slot: Slot,
        work: impl FnOnce(&JobControl) -> Result<(), JobEnd> + Send + 'static,
    ) -> Result<JobId, JobError> {
        let number = |table: &mut Table| match table.left_report(kind, &subject)? {
            Some(report) => Ok(report),
            None => table.number(kind, subject),
        };
        self.accept(slot, Box::new(work), number)
    }

    fn accept(
        &self,
        slot: Slot,
        work: Work,
        number: impl FnOnce(&mut Table) -> Result<JobReport, JobError>,
    ) -> Result<JobId, JobError> {
        let shared = &self.shared;
        // Declared behind the work: refused work is dropped when no lock is held.
        let mut changes = shared.changes();
        let report = number(&mut shared.lock())?;
        let id = report.id;
        changes.accepted(&report, || shared.lock().holdings())?;
        shared.lock().add(report, slot, work);
        drop(changes);
        Shared::start_next(shared);
        Ok(id)
    }

    /// Returns the jobs that the daemon before this one left unfinished and that were not resumed so far.
    pub fn unfinished_before(&self) -> Vec<JobReport> {
        self.shared.lock().left_reports(Instant::now())
    }

    /// Ends the jobs that were left unfinished and not resumed: as done those that `is_done` knows to be, the others
    /// as failed. Nothing when the queue is ending: the next daemon may still resume them.
    pub fn end_unresumed(&self, is_done: impl Fn(&JobReport) -> bool) {
        for report in self.unfinished_before() {
            if self.shared.lock().shutting_down {
                return;
            }
            let failed = || Refusal::new(RefusalKind::Failed, "the daemon ended while the job ran");
            let end = if is_done(&report) { Ok(()) } else { Err(JobEnd::Failed(failed())) };
            self.shared.end(report.id, end);
        }
    }

    pub fn report(&self, id: JobId) -> Option<JobReport> {
        let now = Instant::now();
        let mut table = self.shared.lock();
        table.forget_old(now);
        table.report(id, now)
    }

    /// Returns all jobs that are known, by id.
    pub fn reports(&self) -> Vec<JobReport> {
        let now = Instant::now();
        let mut table = self.shared.lock();
        table.forget_old(now);
        table.reports(now)
    }

    /// Says what is wrong with the journal of jobs, if it could not be written to when that was last tried: no job is
    /// taken then.
    pub fn journal_failure(&self) -> Option<JournalFailure> {
        self.shared.journal_state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks a job to stop. A queued one has ended when this returns, a running one ends at its next checkpoint.
    pub fn cancel(&self, id: JobId) -> Result<(), JobError> {
        let unrun = self.shared.lock().stop(id, Stop::Cancelled)?;
        if let Some(work) = unrun {
            self.shared.drop_unrun(id, work, Stop::Cancelled);
        }
        Ok(())
    }

    /// Waits until the job has ended.
    pub fn wait(&self, id: JobId) -> Result<JobReport, JobError> {
        let mut table = self.shared.lock();
        table.add_waiter(id)?;
        let report = loop {
            match table.report(id, Instant::now()) {
                Some(report) if !report.state.has_ended() => table = self.shared.wait(table, None),
                report => break report,
            }
        };
        table.remove_waiter(id);
        report.ok_or(JobError::NotFound { id })
    }

    /// Ends the queue: no job is taken or started any more, running ones are asked to stop. Returns how many
    /// still run at the deadline.
    pub fn stop_all(&self, deadline: Instant) -> usize {
        self.shared.refuse_and_stop_all();
        let mut table = self.shared.lock();
        while table.unfinished() > 0 && Instant::now() < deadline {
            table = self.shared.wait(table, Some(deadline));
        }
        table.running()
    }
}

impl Drop for JobQueue {
    /// Nobody can ask for the jobs any more, so none is left to run unseen.
    fn drop(&mut self) {
        self.shared.refuse_and_stop_all();
    }
}

impl Shared {
    fn new(table: Table, changes: Changes) -> Arc<Self> {
        crate::metrics::register("jobs", metrics::write);
        let journal_state = Arc::clone(&changes.journal_state);
        let (changes, table) = (Mutex::new(changes), Mutex::new(table));
        Arc::new(Self { changes, journal_state, table, job_ended: Condvar::new() })
    }

    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // The table's own code cannot leave it half changed, and no foreign code runs under the lock.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells how far the jobs are, about once a second, until the queue is dropped.
    fn tell_progress_until(&self, dropped: &Receiver<()>) {
        while dropped.recv_timeout(PROGRESS_EVERY) == Err(RecvTimeoutError::Timeout) {
            let changes = self.changes();
            let progressed = self.lock().progressed(Instant::now());
            progressed.into_iter().for_each(|report| changes.progressed(report));
        }
    }

    /// Waits for the end of some job.
    fn wait<'a>(&self, table: MutexGuard<'a, Table>, deadline: Option<Instant>) -> MutexGuard<'a, Table> {
        match deadline {
            None => self.job_ended.wait(table).unwrap_or_else(PoisonError::into_inner),
            Some(deadline) => {
                let timeout = deadline.saturating_duration_since(Instant::now());
                self.job_ended.wait_timeout(table, timeout).unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }

    fn start_next(shared: &Arc<Self>) {
        let mut changes = shared.changes();
        let starts = shared.lock().take_startable();
        for start in &starts {
            changes.started(&start.report, || shared.lock().holdings());
        }
        drop(changes);
        for Start { report, control, work } in starts {
            let id = report.id;
            let shared_of_job = Arc::clone(shared);
            // Told whatever is left out of the log: a warning says whose it is.
            let span = tracing::error_span!("job", id = %id, kind = %report.kind, backup = report.backup);
            let run = move || {
                let _entered = span.enter();
                tracing::info!(volume = report.volume, "the job runs");
                let end = catch_unwind(AssertUnwindSafe(|| work(&control)))
                    .unwrap_or_else(|panic| Err(JobEnd::Failed(panicked(panic.as_ref()))));
                shared_of_job.end(id, end);
                Self::start_next(&shared_of_job);
            };
            if let Err(error) = thread::Builder::new().name(format!("job-{id}")).spawn(run) {
                let sentence = format!("no thread could be started for the job: {error}");
                shared.end(id, Err(JobEnd::Failed(Refusal::new(RefusalKind::Failed, sentence))));
            }
        }
    }

    fn end(&self, id: JobId, end: Result<(), JobEnd>) {
        let mut changes = self.changes();
        let Some(report) = self.lock().ending(id, &end) else { return };
        // The next daemon may go on with it: for whoever looks later the job has not ended.
        let is_interrupted = end == Err(JobEnd::Stopped(Stop::Shutdown));
        if !is_interrupted {
            changes.ended(&report, || self.lock().holdings());
            metrics::count_end(&report);
            tell_end(&report);
        }
        self.lock().end(report, is_interrupted);
        drop(changes);
        self.job_ended.notify_all();
    }

    fn drop_unrun(&self, id: JobId, work: Work, reason: Stop) {
        let end = match catch_unwind(AssertUnwindSafe(|| drop(work))) {
            Ok(()) => JobEnd::Stopped(reason),
            Err(panic) => JobEnd::Failed(panicked(panic.as_ref())),
        };
        self.end(id, Err(end));
    }

    fn refuse_and_stop_all(&self) {
        // Behind a job that is being accepted: it is in the table then, and stopped with the others.
        let changes = self.changes();
        let (unrun, left) = self.lock().stop_all();
        drop(changes);
        for id in left {
            self.end(id, Err(JobEnd::Stopped(Stop::Shutdown)));
        }
        for (id, work) in unrun {
            self.drop_unrun(id, work, Stop::Shutdown);
        }
    }
}

fn tell_end(report: &JobReport) {
    let JobReport { id, kind, state, bytes_done, error, .. } = report;
    match error {
        Some(error) => tracing::warn!(job = %id, %kind, %state, bytes_done, %error, "the job ended"),
        None => tracing::info!(job = %id, %kind, %state, bytes_done, "the job ended"),
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Refusal {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    Refusal::new(RefusalKind::Failed, format!("the job met a fault in amberfs: {message}"))
}

#[cfg(test)]
mod tests;
