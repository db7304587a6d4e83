//! Keeps the view of a daemon that may only read close to what the writer does.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::DaemonError;
use crate::repository::Repository;

/// A thread that looks again and again; it ends when this is dropped.
pub(super) struct Refresher {
    _ends: Sender<()>,
}

impl Refresher {
    /// Starts looking every so many seconds. There is nothing to look at for the writer, and 0 is never.
    pub(super) fn start(repository: &Arc<Repository>, seconds: u64) -> Result<Option<Self>, DaemonError> {
        if !repository.is_read_only() || seconds == 0 {
            return Ok(None);
        }
        let repository = Arc::clone(repository);
        let (ends, ended) = bounded::<()>(0);
        let mut is_failing = false;
        let look = move || {
            while ended.recv_timeout(Duration::from_secs(seconds)) == Err(RecvTimeoutError::Timeout) {
                let refreshed = repository.refresh();
                // Told once: the next one finds most likely the same.
                if let (Err(error), false) = (&refreshed, is_failing) {
                    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
                    tracing::error!(cause, "{error}: what the writer does is not seen");
                }
                is_failing = refreshed.is_err();
            }
        };
        let started = std::thread::Builder::new().name("refresh".to_owned()).spawn(look);
        started
            .map_err(|source| DaemonError::Io { what: "start the thread that follows the writer", source })?;
        Ok(Some(Self { _ends: ends }))
    }
}
