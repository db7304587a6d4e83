//! A repository that is open for reading only, beside the one writer: sees what that does.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Repository, RepositoryError};
use crate::objects::ObjectName;
use crate::sysio::lock::{self, LockHolder};

/// What cannot be found makes the repository be looked at so often.
const NEEDED_AGAIN_AFTER: Duration = Duration::from_secs(1);

pub(super) struct Following {
    lock_path: PathBuf,
    /// Held while the repository is looked at, so that looks do not overtake each other.
    refreshed_at: Mutex<Option<Instant>>,
}

impl Following {
    pub(super) fn new(lock_path: PathBuf) -> Self {
        Self { lock_path, refreshed_at: Mutex::new(None) }
    }
}

impl Repository {
    /// Takes in what another process has done to the repository since the last time. The one writer has nothing to take
    /// in.
    ///
    /// Packs are looked for when records have changed, and before these are shown: what is in sight can be read. Packs
    /// that come and go otherwise, as chunks move, are found when a chunk is missed.
    pub fn refresh(&self) -> Result<(), RepositoryError> {
        if !self.is_read_only() {
            return Ok(());
        }
        let mut refreshed_at = self.following.refreshed_at.lock().unwrap_or_else(PoisonError::into_inner);
        let refreshed = self.take_in_changes();
        *refreshed_at = Some(Instant::now());
        refreshed
    }

    fn take_in_changes(&self) -> Result<(), RepositoryError> {
        let changes = self.catalog.look()?;
        // A repository that is not there has no backups either: they are not gone.
        self.objects().length(ObjectName::Header)?;
        if !changes.is_empty() {
            self.store.index_new_packs()?;
            self.catalog.take_in(changes);
        }
        Ok(())
    }

    /// Does the same for somebody who did not find what the catalog speaks of, unless it was done just now.
    pub(super) fn refresh_at_need(&self) {
        if !self.is_read_only() {
            return;
        }
        let refreshed_at = *self.following.refreshed_at.lock().unwrap_or_else(PoisonError::into_inner);
        if refreshed_at.is_some_and(|at| at.elapsed() < NEEDED_AGAIN_AFTER) {
            return;
        }
        if let Err(error) = self.refresh() {
            tracing::warn!(%error, "the repository cannot be looked at again");
        }
    }

    /// Returns who writes to the repository, as far as that is known; for who may only read.
    pub fn writer(&self) -> Option<LockHolder> {
        if self.is_read_only() { lock::holder(&self.following.lock_path) } else { None }
    }
}
