//! The state behind the queue's lock: which jobs there are, who waits, who runs. Starts nothing and waits for
//! nothing itself. Every job is in one lane's line, or counted as running there, or was left by the daemon before this
//! one, or has ended.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use super::changes::Holdings;
use super::control::{JobControl, JobEnd, Stop};
use super::rate::per_second;
use super::report::{JobId, JobReport, JobState, JobSubject};
use super::{JobError, JobQueueOptions};
use crate::sysio::clock;
use crate::types::{Refusal, RefusalKind};

pub(super) type Work = Box<dyn FnOnce(&JobControl) -> Result<(), JobEnd> + Send>;

/// Where a job waits its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// Counts against the operations that may run at once, and waits in order.
    Operation,
    /// Does not wait for operations: for jobs that are short or that nobody should queue behind a backup.
    Free,
    /// In a line of their own, one at a time unless more are [allowed](super::JobQueue::allow_unhurried): for long jobs
    /// that nobody waits for.
    Unhurried,
}

/// Free jobs have a line of their own, so that a thousand deletes are not a thousand threads.
const FREE_RUNNING_MAX: usize = 32;

/// Queued and running ones: what a mistaken loop in a script may pile up.
const UNFINISHED_MAX: usize = 10_000;

pub(super) struct Table {
    options: JobQueueOptions,
    last_id: JobId,
    jobs: BTreeMap<JobId, Job>,
    operations: Lane,
    free: Lane,
    unhurried: Lane,
    /// Unfinished jobs of the daemon before this one that nobody has taken up again yet.
    left: BTreeSet<JobId>,
    /// In the order of their ends.
    ended: VecDeque<JobId>,
    pub(super) shutting_down: bool,
}

struct Job {
    /// As it was when its state changed last; what goes on since is in `control`.
    report: JobReport,
    slot: Slot,
    control: JobControl,
    work: Option<Work>,
    started: Option<Instant>,
    ended: Option<Instant>,
    /// Stopped because the daemon ends: the next one may go on with it.
    is_interrupted: bool,
    /// Kept while somebody waits for it.
    waiters: usize,
    /// What was done of it when that was last told.
    told_bytes_done: u64,
}

struct Lane {
    running_max: usize,
    running: usize,
    /// By number: a job that is taken up again goes before those that came later.
    waiting: BTreeSet<JobId>,
}

/// A job whose turn has come.
pub(super) struct Start {
    pub(super) report: JobReport,
    pub(super) control: JobControl,
    pub(super) work: Work,
}

impl Table {
    pub(super) fn new(options: JobQueueOptions) -> Self {
        let lane = |running_max| Lane { running_max, running: 0, waiting: BTreeSet::new() };
        Self {
            operations: lane(options.operations_max.max(1)),
            free: lane(FREE_RUNNING_MAX),
            unhurried: lane(1),
            options,
            last_id: JobId(0),
            jobs: BTreeMap::new(),
            left: BTreeSet::new(),
            ended: VecDeque::new(),
            shutting_down: false,
        }
    }

    /// Takes over a job from the journal, as one of its lines says; the last one holds.
    pub(super) fn restore(&mut self, mut report: JobReport) {
        let id = report.id;
        self.restore_last_id(id);
        self.left.remove(&id);
        if self.jobs.remove(&id).is_some_and(|job| job.ended.is_some()) {
            self.ended.retain(|ended| *ended != id);
        }
        let now = Instant::now();
        let mut ended = None;
        if report.state.has_ended() {
            let ended_at = report.ended_at.unwrap_or(report.queued_at).to_system_time();
            let age = SystemTime::now().duration_since(ended_at).unwrap_or_default();
            ended = Some(now.checked_sub(age).unwrap_or(now));
            self.ended.push_back(id);
        } else if self.left.len() < UNFINISHED_MAX {
            report.state = JobState::Queued;
            self.left.insert(id);
        } else {
            return;
        }
        self.jobs.insert(id, Job { ended, ..Job::new(report, Slot::Free, None) });
        self.forget_old(now);
    }

    /// Sets how many unhurried jobs may run at once; at least one.
    pub(super) fn allow_unhurried(&mut self, running_max: usize) {
        self.unhurried.running_max = running_max.max(1);
    }

    pub(super) fn restore_last_id(&mut self, id: JobId) {
        self.last_id = self.last_id.max(id);
    }

    /// Gives a new job its number, once and for all. It is known when it is [`add`](Self::add)ed.
    pub(super) fn number(&mut self, kind: &'static str, subject: JobSubject) -> Result<JobReport, JobError> {
        self.check_open()?;
        let unfinished = self.unfinished() + self.left.len();
        if unfinished >= UNFINISHED_MAX {
            return Err(JobError::QueueFull { unfinished });
        }
        self.last_id = JobId(self.last_id.0 + 1);
        Ok(JobReport::queued(self.last_id, kind, subject))
    }

    /// Returns the left job of this kind and backup, the last one if there are several, as it will be queued.
    pub(super) fn left_report(
        &self,
        kind: &'static str,
        subject: &JobSubject,
    ) -> Result<Option<JobReport>, JobError> {
        self.check_open()?;
        let is_it = |report: &JobReport| report.kind == kind && report.backup == subject.backup;
        let mut left = self.left.iter().rev().filter_map(|id| self.jobs.get(id));
        let again = |JobReport { id, queued_at, .. }| JobReport {
            queued_at,
            ..JobReport::queued(id, kind, subject.clone())
        };
        Ok(left.find(|job| is_it(&job.report)).map(|job| again(job.report.clone())))
    }

    fn check_open(&self) -> Result<(), JobError> {
        if self.shutting_down { Err(JobError::ShuttingDown) } else { Ok(()) }
    }

    /// Puts a job into its line: a new one, or one that was left.
    pub(super) fn add(&mut self, report: JobReport, slot: Slot, work: Work) {
        let id = report.id;
        let mut job = Job::new(report, slot, Some(work));
        if self.left.remove(&id)
            && let Some(left) = self.jobs.remove(&id)
        {
            // Somebody may have asked it to stop, or wait for it.
            (job.control, job.waiters) = (left.control, left.waiters);
        }
        self.jobs.insert(id, job);
        self.lane(slot).waiting.insert(id);
    }

    /// Returns the left jobs as they are shown.
    pub(super) fn left_reports(&self, now: Instant) -> Vec<JobReport> {
        self.left.iter().filter_map(|id| self.report(*id, now)).collect()
    }

    /// Takes the jobs whose turn has come; they count as running from here on.
    pub(super) fn take_startable(&mut self) -> Vec<Start> {
        let now = Instant::now();
        let mut starts = Vec::new();
        for lane in [&mut self.operations, &mut self.free, &mut self.unhurried] {
            while lane.running < lane.running_max {
                let Some(id) = lane.waiting.pop_first() else { break };
                let Some(job) = self.jobs.get_mut(&id) else { continue };
                let Some(work) = job.work.take() else { continue };
                job.report.state = JobState::Running;
                job.report.started_at = Some(clock::now());
                job.started = Some(now);
                job.control.started(now);
                lane.running += 1;
                starts.push(Start { report: job.report(now), control: job.control.clone(), work });
            }
        }
        starts
    }

    /// Asks a job to stop. Returns the work of one that was only queued: it will never run.
    pub(super) fn stop(&mut self, id: JobId, reason: Stop) -> Result<Option<Work>, JobError> {
        let job = self.jobs.get_mut(&id).ok_or(JobError::NotFound { id })?;
        if job.report.state.has_ended() {
            return Err(JobError::Ended { id, state: job.report.state });
        }
        job.control.stop(reason);
        let (work, slot) = (job.work.take(), job.slot);
        if work.is_some() {
            self.lane(slot).waiting.remove(&id);
        }
        Ok(work)
    }

    /// Asks all to stop and takes no more. Returns the work that will never run, and the jobs that were left.
    pub(super) fn stop_all(&mut self) -> (Vec<(JobId, Work)>, BTreeSet<JobId>) {
        self.shutting_down = true;
        let is_unfinished = |(_, job): &(&JobId, &Job)| !job.report.state.has_ended();
        let unfinished: Vec<_> = self.jobs.iter().filter(is_unfinished).map(|(id, _)| *id).collect();
        let stop = |id| self.stop(id, Stop::Shutdown).ok().flatten().map(|work| (id, work));
        (unfinished.into_iter().filter_map(stop).collect(), self.left.clone())
    }

    /// Returns a job as it will be when it has ended; nothing if it has already.
    pub(super) fn ending(&self, id: JobId, end: &Result<(), JobEnd>) -> Option<JobReport> {
        let job = self.jobs.get(&id).filter(|job| !job.report.state.has_ended())?;
        let now = Instant::now();
        let mut report = job.report(now);
        (report.state, report.error) = match end {
            Ok(()) => (JobState::Done, None),
            Err(JobEnd::Failed(refusal)) => (JobState::Failed, Some(refusal.clone())),
            Err(JobEnd::Stopped(Stop::Cancelled)) => (JobState::Cancelled, None),
            Err(JobEnd::Stopped(Stop::Shutdown)) => {
                (JobState::Cancelled, Some(Refusal::new(RefusalKind::Failed, Stop::Shutdown.to_string())))
            }
        };
        report.ended_at = Some(clock::now());
        report.bytes_per_second = job
            .started
            .map_or(0, |started| per_second(report.bytes_done, now.saturating_duration_since(started)));
        Some(report)
    }

    /// Ends a job, as [`ending`](Self::ending) said.
    pub(super) fn end(&mut self, report: JobReport, is_interrupted: bool) {
        let id = report.id;
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let was_running = job.report.state == JobState::Running;
        (job.report, job.is_interrupted) = (report, is_interrupted);
        let now = Instant::now();
        job.ended = Some(now);
        let slot = job.slot;
        if was_running {
            self.lane(slot).running -= 1;
        }
        self.left.remove(&id);
        self.ended.push_back(id);
        self.forget_old(now);
    }

    pub(super) fn report(&self, id: JobId, now: Instant) -> Option<JobReport> {
        self.jobs.get(&id).map(|job| job.report(now))
    }

    pub(super) fn reports(&self, now: Instant) -> Vec<JobReport> {
        self.jobs.values().map(|job| job.report(now)).collect()
    }

    /// Returns what the journal is to hold.
    pub(super) fn holdings(&self) -> Holdings {
        let now = Instant::now();
        let ended = self.ended.iter().filter_map(|id| self.jobs.get(id));
        let unfinished = self.jobs.values().filter(|job| job.ended.is_none());
        (self.last_id, ended.chain(unfinished).map(|job| job.report_for_journal(now)).collect())
    }

    /// Returns the running jobs that have got further since they were asked about last.
    pub(super) fn progressed(&mut self, now: Instant) -> Vec<JobReport> {
        let running = self.jobs.values_mut().filter(|job| job.report.state == JobState::Running);
        let progress = |job: &mut Job| {
            let bytes_done = job.control.bytes_done();
            let told = std::mem::replace(&mut job.told_bytes_done, bytes_done);
            (told != bytes_done).then(|| job.report(now))
        };
        running.filter_map(progress).collect()
    }

    pub(super) fn running(&self) -> usize {
        self.operations.running + self.free.running + self.unhurried.running
    }

    /// How many are queued or running. Those that were left are neither.
    pub(super) fn unfinished(&self) -> usize {
        self.jobs.len() - self.ended.len() - self.left.len()
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
            Slot::Unhurried => &mut self.unhurried,
        }
    }
}

impl Job {
    fn new(report: JobReport, slot: Slot, work: Option<Work>) -> Self {
        Self {
            report,
            slot,
            control: JobControl::default(),
            work,
            started: None,
            ended: None,
            is_interrupted: false,
            waiters: 0,
            told_bytes_done: 0,
        }
    }

    fn report(&self, now: Instant) -> JobReport {
        let mut report = self.report.clone();
        if self.ended.is_none() {
            report.bytes_done = self.control.bytes_done();
            report.bytes_total = self.control.bytes_total();
            report.bytes_per_second = self.control.recent_bytes_per_second(now);
            report.result = self.control.result();
            report.warning = self.control.warning();
        }
        report
    }

    /// What was stopped because the daemon ends stays unfinished for the next one.
    fn report_for_journal(&self, now: Instant) -> JobReport {
        let report = self.report(now);
        if !self.is_interrupted {
            return report;
        }
        JobReport { state: JobState::Queued, ended_at: None, error: None, ..report }
    }
}
