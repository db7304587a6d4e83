//! The queue: runs each job on a thread of its own, as many at once as allowed, in the order they came. Work is
//! run, dropped and waited for outside the lock, so a job may use the queue itself.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use super::JobError;
use super::control::{JobControl, JobEnd, Stop};
use super::report::{JobId, JobReport, JobSubject};
use super::table::{Slot, Start, Table, Work};
use crate::types::{Refusal, RefusalKind};

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
}

struct Shared {
    table: Mutex<Table>,
    job_ended: Condvar,
}

impl JobQueue {
    pub fn new(options: JobQueueOptions) -> Self {
        let shared = Shared { table: Mutex::new(Table::new(options)), job_ended: Condvar::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Queues a job; it starts as soon as its slot allows.
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
        let id = self.shared.lock().add(kind, subject, slot, Box::new(work))?;
        Shared::start_next(&self.shared);
        Ok(id)
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
    fn lock(&self) -> MutexGuard<'_, Table> {
        // The table's own code cannot leave it half changed, and no foreign code runs under the lock.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
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
        let starts = shared.lock().take_startable();
        for Start { id, control, work } in starts {
            let shared_of_job = Arc::clone(shared);
            let run = move || {
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
        self.lock().end(id, end);
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
        let unrun = self.lock().stop_all();
        for (id, work) in unrun {
            self.drop_unrun(id, work, Stop::Shutdown);
        }
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
