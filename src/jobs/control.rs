//! The line between a job and whoever watches it: progress goes out, a wish to stop comes in. Never blocks the job.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use super::rate::{RecentRate, SAMPLE_EVERY};
use crate::types::Refusal;

/// Why a job is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// Somebody wants it gone: nothing of it may remain.
    #[error("the job was cancelled")]
    Cancelled,
    /// The daemon ends: what was done so far may be kept, the next start goes on.
    #[error("the daemon is shutting down")]
    Shutdown,
}

/// How a job ends that does not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobEnd {
    Failed(Refusal),
    Stopped(Stop),
}

impl From<Refusal> for JobEnd {
    fn from(refusal: Refusal) -> Self {
        Self::Failed(refusal)
    }
}

impl From<Stop> for JobEnd {
    fn from(stop: Stop) -> Self {
        Self::Stopped(stop)
    }
}

/// A job's view of itself. Clones are the same job; all calls are cheap and may come from many threads.
#[derive(Debug, Clone, Default)]
pub struct JobControl {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    bytes_total: AtomicU64,
    bytes_done: AtomicU64,
    /// 0: go on; otherwise a `Stop`.
    stop: AtomicU8,
    result: Mutex<Option<serde_json::Value>>,
    warning: Mutex<Option<String>>,
    running: OnceLock<Running>,
}

#[derive(Debug)]
struct Running {
    since: Instant,
    /// Milliseconds after `since` when the next sample is due: keeps the lock out of most calls.
    sample_due_millis: AtomicU64,
    recent: Mutex<RecentRate>,
}

const CANCELLED: u8 = 1;
const SHUTDOWN: u8 = 2;

impl JobControl {
    /// Returns the control of no queue's job: for work that is done in the caller's own thread.
    pub fn detached() -> Self {
        let control = Self::default();
        control.started(Instant::now());
        control
    }

    /// Says how much there is to do in all. May be said again when more is known.
    pub fn set_total(&self, bytes: u64) {
        self.shared.bytes_total.store(bytes, Ordering::Relaxed);
    }

    pub fn add_done(&self, bytes: u64) {
        let done = self.shared.bytes_done.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if let Some(running) = self.shared.running.get() {
            running.sample(Instant::now(), done);
        }
    }

    /// Says in a sentence what whoever looks at the job has to know though it ends well. The last one stands.
    pub fn warn(&self, sentence: String) {
        *self.shared.warning.lock().unwrap_or_else(PoisonError::into_inner) = Some(sentence);
    }

    pub(super) fn warning(&self) -> Option<String> {
        self.shared.warning.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says whether to go on. To be asked often: a job that does not ask cannot be stopped.
    pub fn checkpoint(&self) -> Result<(), Stop> {
        match self.shared.stop.load(Ordering::Relaxed) {
            0 => Ok(()),
            CANCELLED => Err(Stop::Cancelled),
            _ => Err(Stop::Shutdown),
        }
    }

    pub fn bytes_total(&self) -> u64 {
        self.shared.bytes_total.load(Ordering::Relaxed)
    }

    pub fn bytes_done(&self) -> u64 {
        self.shared.bytes_done.load(Ordering::Relaxed)
    }

    /// Says what the job found or did: a small object of JSON.
    pub fn set_result(&self, result: serde_json::Value) {
        *self.shared.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
    }

    pub(super) fn result(&self) -> Option<serde_json::Value> {
        self.shared.result.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the job to stop. The first reason stands.
    pub fn stop(&self, reason: Stop) {
        let reason = match reason {
            Stop::Cancelled => CANCELLED,
            Stop::Shutdown => SHUTDOWN,
        };
        // A failure means that another reason came first, and that one stands.
        let _first_reason =
            self.shared.stop.compare_exchange(0, reason, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn started(&self, now: Instant) {
        self.shared.running.get_or_init(|| Running {
            since: now,
            sample_due_millis: AtomicU64::new(0),
            recent: Mutex::new(RecentRate::starting_at(now)),
        });
    }

    pub(super) fn recent_bytes_per_second(&self, now: Instant) -> u64 {
        self.shared.running.get().map_or(0, |running| {
            running.recent.lock().unwrap_or_else(PoisonError::into_inner).per_second(now, self.bytes_done())
        })
    }
}

impl Running {
    fn sample(&self, now: Instant, done: u64) {
        let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let age = millis(now.saturating_duration_since(self.since));
        if age < self.sample_due_millis.load(Ordering::Relaxed) {
            return;
        }
        // Another thread that holds the lock takes the same sample.
        if let Ok(mut recent) = self.recent.try_lock() {
            recent.sample(now, done);
            self.sample_due_millis.store(age.saturating_add(millis(SAMPLE_EVERY)), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_of_several_threads_adds_up_and_the_first_stop_stands() {
        let control = JobControl::detached();
        control.set_total(8000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| control.add_done(2)));
            }
        });
        assert_eq!((control.bytes_done(), control.bytes_total()), (8000, 8000));
        assert_eq!(control.checkpoint(), Ok(()));
        control.stop(Stop::Cancelled);
        control.stop(Stop::Shutdown);
        assert_eq!(control.clone().checkpoint(), Err(Stop::Cancelled));
    }
}
