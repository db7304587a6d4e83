//! Which packs a new backup may count on. A chunk that is in the index is not stored again, so what the index says
//! must hold: otherwise a backup becomes available and cannot be read.
//!
//! A pack is looked at, its length and its footer, before a job counts on its first chunk. One in which anything
//! was found missing or damaged, then or by a reader, is not counted on any more: its chunks are stored again by
//! whoever has them. Reading goes on trying it. A flipped bit in a chunk that nobody has read since is not seen.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::pack_index::read_footer;
use super::{ChunkStore, StoreError};
use crate::index::ChunkPlace;
use crate::objects::{ObjectError, ObjectName};
use crate::types::{ChunkId, PackId};

/// What is known of the packs in this process. Bounded by the packs that there are.
#[derive(Default)]
pub(super) struct Trust {
    /// Grows with every job: what was looked at for an earlier one is looked at again.
    round: AtomicU64,
    packs: Mutex<KnownPacks>,
}

#[derive(Default)]
struct KnownPacks {
    looked_at: HashMap<PackId, u64>,
    damaged: HashSet<PackId>,
}

impl Trust {
    pub(super) fn begin_round(&self) {
        self.round.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn is_damaged(&self, pack: PackId) -> bool {
        self.packs().damaged.contains(&pack)
    }

    /// Returns whether this is new.
    pub(super) fn note_damaged(&self, pack: PackId) -> bool {
        self.packs().damaged.insert(pack)
    }

    fn packs(&self) -> MutexGuard<'_, KnownPacks> {
        self.packs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ChunkStore {
    /// Returns a pack that has the chunk as far as can be told without reading it; `None` when it has to be stored.
    pub(super) fn trusted_pack(&self, id: ChunkId) -> Result<Option<PackId>, StoreError> {
        let places = self.index.places(id)?;
        Ok(places.into_iter().map(|place| place.pack).find(|pack| self.is_trusted(*pack)))
    }

    fn is_trusted(&self, pack: PackId) -> bool {
        let round = self.trust.round.load(Ordering::Relaxed);
        {
            let known = self.trust.packs();
            if known.damaged.contains(&pack) {
                return false;
            }
            if known.looked_at.get(&pack) == Some(&round) {
                return true;
            }
        }
        if let Err(error) = self.look_at(pack) {
            self.distrust(pack, &error);
            return false;
        }
        self.trust.packs().looked_at.insert(pack, round);
        true
    }

    /// Is the pack there, as long as it was, and does its footer list its chunks?
    fn look_at(&self, pack: PackId) -> Result<(), StoreError> {
        let name = ObjectName::Pack(pack);
        // By its name: a descriptor that was kept reads a removed object, too.
        let length = self.objects.length(name)?;
        let indexed = self.index.pack(pack).map_or(length, |pack| pack.length);
        if length != indexed {
            return Err(ObjectError::Truncated { name, length, wanted_end: indexed }.into());
        }
        read_footer(self.objects.as_ref(), pack, length).map(drop)
    }

    /// New backups count on this pack no more.
    pub(super) fn distrust(&self, pack: PackId, error: &StoreError) {
        if self.trust.note_damaged(pack) {
            let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            tracing::error!(pack = %pack, cause, "{error}: what new backups need of this pack is stored again");
        }
    }

    /// Puts the places that are likely to be good first.
    pub(super) fn best_first(&self, places: &mut [ChunkPlace]) {
        if places.len() > 1 {
            places.sort_by_key(|place| self.trust.is_damaged(place.pack));
        }
    }
}
