//! Verifies without being asked for, the stalest backup first, one at a time.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::progress::Progress;
use crate::catalog::BackupRecord;
use crate::operations::Operations;
use crate::sysio::clock;
use crate::types::{BackupId, Timestamp};

/// How often it looks whether a backup is due, at most.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// A thread that verifies what is due. Dropped, it ends when it is not waiting for a job.
pub struct VerifySchedule {
    _running: Option<Sender<()>>,
}

impl VerifySchedule {
    /// Starts it, if the options have a schedule and the repository can be written to.
    pub fn start(operations: &Arc<Operations>) -> Self {
        let idle = Self { _running: None };
        let Some(schedule) = operations.options.verify.schedule else { return idle };
        if operations.repository.is_read_only() {
            return idle;
        }
        // A backup is due when half of the time has passed: the other half is for reading it, and those that are due at
        // the same time.
        let due_after = schedule.to_duration() / 2;
        let (running, ended) = bounded(0);
        let operations = Arc::downgrade(operations);
        let run = move || verify_what_is_due(&operations, due_after, &ended);
        match thread::Builder::new().name("verify-schedule".to_owned()).spawn(run) {
            Ok(_) => Self { _running: Some(running) },
            Err(error) => {
                tracing::error!(%error, "no thread could be started to verify backups by the schedule");
                idle
            }
        }
    }
}

fn verify_what_is_due(operations: &Weak<Operations>, due_after: Duration, ended: &Receiver<()>) {
    let look_every = LOOK_EVERY.min(due_after);
    let mut tried = HashSet::new();
    loop {
        // A message never comes: it is disconnected in the end.
        if ended.recv_timeout(look_every) != Err(crossbeam_channel::RecvTimeoutError::Timeout) {
            return;
        }
        while let Some(operations) = operations.upgrade().filter(|operations| !operations.is_shutting_down())
        {
            if !operations.verify_stalest(due_after, &mut tried) {
                break;
            }
        }
    }
}

impl Operations {
    /// Verifies the stalest backup, if it is due, and waits for that. Says whether to look again at once.
    ///
    /// One that was cancelled, or could not come to its end, keeps nobody from being verified: it is tried again when all
    /// others had their turn.
    fn verify_stalest(self: &Arc<Self>, due_after: Duration, tried: &mut HashSet<BackupId>) -> bool {
        let due_before = Timestamp::from_system_time(clock::now().to_system_time() - due_after);
        let age = |record: &BackupRecord| record.last_verified_at.unwrap_or(record.created_at);
        let mut due = self.repository.catalog().all();
        due.retain(|record| record.has_image() && age(record) < due_before);
        let stalest = due.iter().filter(|record| !tried.contains(&record.id));
        let Some(record) = stalest.min_by_key(|record| (age(record), record.id)) else {
            tried.clear();
            return false;
        };
        tried.insert(record.id);
        let job = match self.verify_one(record, Progress::new(record.id)) {
            Ok(job) => job,
            Err(refusal) => {
                tracing::warn!(backup = %record.id, %refusal, "a backup that is due is not verified");
                return false;
            }
        };
        self.jobs.wait(job).is_ok()
    }
}
