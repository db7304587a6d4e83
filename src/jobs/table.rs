//! The state behind the queue's lock: which jobs there are, who waits, who runs. Starts nothing and waits for
//! nothing itself. Every job is in one lane's line, or counted as running there, or has ended.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use super::control::{JobControl, JobEnd, Stop};
use super::rate::per_second;
use super::report::{JobId, JobReport, JobState, JobSubject};
use super::{JobError, JobQueueOptions};
use crate::types::{Refusal, RefusalKind, Timestamp};

pub(super) type Work = Box<dyn FnOnce(&JobControl) -> Result<(), JobEnd> + Send>;

/// Where a job waits its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// Counts against the operations that may run at once, and waits in order.
    Operation,
    /// Does not wait for operations: for jobs that are short or that nobody should queue behind a backup.
    Free,
}

/// Free jobs have a line of their own, so that a thousand deletes are not a thousand threads.
const FREE_RUNNING_MAX: usize = 32;

/// Queued and running ones: what a mistaken loop in a script may pile up.
const UNFINISHED_MAX: usize = 10_000;

pub(super) struct Table {
    options: JobQueueOptions,
    last_id: u64,
    jobs: BTreeMap<JobId, Job>,
    operations: Lane,
    free: Lane,
    /// In the order of their ends.
    ended: VecDeque<JobId>,
    pub(super) shutting_down: bool,
}

struct Job {
    kind: &'static str,
    subject: JobSubject,
    slot: Slot,
    state: JobState,
    control: JobControl,
    work: Option<Work>,
    queued_at: Timestamp,
    started_at: Option<Timestamp>,
    ended_at: Option<Timestamp>,
    started: Option<Instant>,
    ended: Option<Instant>,
    error: Option<Refusal>,
    /// Kept while somebody waits for it.
    waiters: usize,
}

struct Lane {
    running_max: usize,
    running: usize,
    waiting: VecDeque<JobId>,
}

/// A job whose turn has come.
pub(super) struct Start {
    pub(super) id: JobId,
    pub(super) control: JobControl,
    pub(super) work: Work,
}

impl Table {
    pub(super) fn new(options: JobQueueOptions) -> Self {
        let lane = |running_max| Lane { running_max, running: 0, waiting: VecDeque::new() };
        Self {
            operations: lane(options.operations_max.max(1)),
            free: lane(FREE_RUNNING_MAX),
            options,
            last_id: 0,
            jobs: BTreeMap::new(),
            ended: VecDeque::new(),
            shutting_down: false,
        }
    }

    pub(super) fn add(
        &mut self,
        kind: &'static str,
        subject: JobSubject,
        slot: Slot,
        work: Work,
    ) -> Result<JobId, JobError> {
        if self.shutting_down {
            return Err(JobError::ShuttingDown);
        }
        let unfinished = self.jobs.len() - self.ended.len();
        if unfinished >= UNFINISHED_MAX {
            return Err(JobError::QueueFull { unfinished });
        }
        self.last_id += 1;
        let id = JobId(self.last_id);
        let job = Job {
            kind,
            subject,
            slot,
            state: JobState::Queued,
            control: JobControl::default(),
            work: Some(work),
            queued_at: Timestamp::from_system_time(SystemTime::now()),
            started_at: None,
            ended_at: None,
            started: None,
            ended: None,
            error: None,
            waiters: 0,
        };
        self.jobs.insert(id, job);
        self.lane(slot).waiting.push_back(id);
        Ok(id)
    }

    /// Takes the jobs whose turn has come; they count as running from here on.
    pub(super) fn take_startable(&mut self) -> Vec<Start> {
        let now = Instant::now();
        let mut starts = Vec::new();
        for lane in [&mut self.operations, &mut self.free] {
            while lane.running < lane.running_max {
                let Some(id) = lane.waiting.pop_front() else { break };
                let Some(job) = self.jobs.get_mut(&id) else { continue };
                let Some(work) = job.work.take() else { continue };
                job.state = JobState::Running;
                job.started = Some(now);
                job.started_at = Some(Timestamp::from_system_time(SystemTime::now()));
                job.control.started(now);
                lane.running += 1;
                starts.push(Start { id, control: job.control.clone(), work });
            }
        }
        starts
    }

    /// Asks a job to stop. Returns the work of one that was only queued: it will never run.
    pub(super) fn stop(&mut self, id: JobId, reason: Stop) -> Result<Option<Work>, JobError> {
        let job = self.jobs.get_mut(&id).ok_or(JobError::NotFound { id })?;
        if job.state.has_ended() {
            return Err(JobError::Ended { id, state: job.state });
        }
        job.control.stop(reason);
        let (work, slot) = (job.work.take(), job.slot);
        if work.is_some() {
            self.lane(slot).waiting.retain(|waiting| *waiting != id);
        }
        Ok(work)
    }

    /// Asks all to stop and takes no more. Returns the work that will never run.
    pub(super) fn stop_all(&mut self) -> Vec<(JobId, Work)> {
        self.shutting_down = true;
        let unfinished: Vec<_> =
            self.jobs.iter().filter(|(_, job)| !job.state.has_ended()).map(|(id, _)| *id).collect();
        let stop = |id| self.stop(id, Stop::Shutdown).ok().flatten().map(|work| (id, work));
        unfinished.into_iter().filter_map(stop).collect()
    }

    pub(super) fn end(&mut self, id: JobId, end: Result<(), JobEnd>) {
        let Some(job) = self.jobs.get_mut(&id).filter(|job| !job.state.has_ended()) else { return };
        let was_running = job.state == JobState::Running;
        (job.state, job.error) = match end {
            Ok(()) => (JobState::Done, None),
            Err(JobEnd::Failed(refusal)) => (JobState::Failed, Some(refusal)),
            Err(JobEnd::Stopped(Stop::Cancelled)) => (JobState::Cancelled, None),
            Err(JobEnd::Stopped(Stop::Shutdown)) => {
                (JobState::Cancelled, Some(Refusal::new(RefusalKind::Failed, Stop::Shutdown.to_string())))
            }
        };
        job.ended = Some(Instant::now());
        job.ended_at = Some(Timestamp::from_system_time(SystemTime::now()));
        let slot = job.slot;
        if was_running {
            self.lane(slot).running -= 1;
        }
        self.ended.push_back(id);
        self.forget_old(Instant::now());
    }

    pub(super) fn report(&self, id: JobId, now: Instant) -> Option<JobReport> {
        self.jobs.get(&id).map(|job| job.report(id, now))
    }

    pub(super) fn reports(&self, now: Instant) -> Vec<JobReport> {
        self.jobs.iter().map(|(id, job)| job.report(*id, now)).collect()
    }

    pub(super) fn running(&self) -> usize {
        self.operations.running + self.free.running
    }

    pub(super) fn unfinished(&self) -> usize {
        self.jobs.len() - self.ended.len()
    }

    pub(super) fn add_waiter(&mut self, id: JobId) -> Result<(), JobError> {
        self.jobs.get_mut(&id).map(|job| job.waiters += 1).ok_or(JobError::NotFound { id })
    }

    #[cfg(test)]
    pub(super) fn waiters(&self, id: JobId) -> usize {
        self.jobs.get(&id).map_or(0, |job| job.waiters)
    }

    pub(super) fn remove_waiter(&mut self, id: JobId) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.waiters = job.waiters.saturating_sub(1);
        }
    }

    /// Forgets ended jobs that are too many or too old, the oldest first.
    pub(super) fn forget_old(&mut self, now: Instant) {
        let kept_for = Duration::from_secs(self.options.finished_kept_seconds);
        while let Some(id) = self.ended.front() {
            let job = self.jobs.get(id);
            let too_many = self.ended.len() > self.options.finished_kept;
            let ended = job.and_then(|job| job.ended);
            let too_old = ended.is_some_and(|ended| now.saturating_duration_since(ended) > kept_for);
            if job.is_some_and(|job| job.waiters > 0) || !(too_many || too_old) {
                return;
            }
            self.jobs.remove(id);
            self.ended.pop_front();
        }
    }

    fn lane(&mut self, slot: Slot) -> &mut Lane {
        match slot {
            Slot::Operation => &mut self.operations,
            Slot::Free => &mut self.free,
        }
    }
}

impl Job {
    fn report(&self, id: JobId, now: Instant) -> JobReport {
        let bytes_per_second = match (self.started, self.ended) {
            (Some(started), Some(ended)) => {
                per_second(self.control.bytes_done(), ended.saturating_duration_since(started))
            }
            _ => self.control.recent_bytes_per_second(now),
        };
        JobReport {
            id,
            kind: self.kind,
            state: self.state,
            backup: self.subject.backup.clone(),
            volume: self.subject.volume.clone(),
            project: self.subject.project.clone(),
            bytes_done: self.control.bytes_done(),
            bytes_total: self.control.bytes_total(),
            bytes_per_second,
            queued_at: self.queued_at,
            started_at: self.started_at,
            ended_at: self.ended_at,
            error: self.error.clone(),
        }
    }
}
