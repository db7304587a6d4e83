//! Reading beside another process that writes: its garbage collection moves chunks into other packs and removes the old
//! ones, and nobody tells.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{ChunkStore, StoreError};
use crate::objects::{ObjectError, ObjectName};

/// A chunk that is nowhere, asked for again and again, makes the packs be listed so often.
const LISTED_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Whether somebody else writes, and when that was last looked at.
#[derive(Default)]
pub(super) struct Following {
    is_on: AtomicBool,
    listed_at: Mutex<Option<Instant>>,
}

impl ChunkStore {
    /// From now on a chunk that is not where it was is looked for in packs that another process has made since.
    pub fn follow_another_writer(&self) {
        self.following.is_on.store(true, Ordering::Relaxed);
    }

    /// Was the pack removed by the other process, its chunks being elsewhere now?
    pub(super) fn has_moved(&self, error: &StoreError) -> bool {
        let is_gone = matches!(error, StoreError::Object(ObjectError::Missing { name: ObjectName::Pack(_) }));
        is_gone && self.following.is_on.load(Ordering::Relaxed)
    }

    /// Says whether it is worth trying again to load a chunk after this error: the packs were listed since.
    pub(super) fn has_followed(&self, error: &StoreError, since: Instant) -> bool {
        let has_moved = self.has_moved(error);
        let is_missing = matches!(error, StoreError::ChunkMissing { .. });
        let is_worth_it = has_moved || (is_missing && self.following.is_on.load(Ordering::Relaxed));
        if !is_worth_it {
            return false;
        }
        let mut listed_at = self.following.listed_at.lock().unwrap_or_else(PoisonError::into_inner);
        if listed_at.is_some_and(|listed_at| listed_at >= since) {
            return true;
        }
        // A pack vanishes once: it is forgotten then. A chunk may be nowhere for good.
        if !has_moved && listed_at.is_some_and(|listed_at| listed_at.elapsed() < LISTED_AGAIN_AFTER) {
            return false;
        }
        let listed = self.index_new_packs();
        *listed_at = Some(Instant::now());
        if let Err(error) = &listed {
            tracing::warn!(%error, "the packs cannot be listed again");
        }
        listed.is_ok()
    }
}
