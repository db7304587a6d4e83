//! How far a check is, and whether it is to go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::CheckError;

/// Told from several threads.
pub type Tell = dyn Fn(&'static str, u64, u64) + Send + Sync;

/// Watches over a long run.
pub struct Watch {
    stop: Arc<AtomicBool>,
    tell: Box<Tell>,
}

impl Watch {
    /// `tell` is called with what is being done, and how much of how much of it is done.
    pub fn new(stop: Arc<AtomicBool>, tell: Box<Tell>) -> Self {
        Self { stop, tell }
    }

    pub(super) fn tell(&self, what: &'static str, done: u64, total: u64) {
        (self.tell)(what, done, total);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// An error when the run is to stop.
    pub(super) fn checkpoint(&self) -> Result<(), CheckError> {
        if self.is_stopped() { Err(CheckError::Stopped) } else { Ok(()) }
    }
}
