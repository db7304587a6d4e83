//! Which packs a new backup may count on. A chunk that is in the index is not stored again, so what the index says
//! must hold: otherwise a backup becomes available and cannot be read.
//!
//! A pack is looked at, its length and its footer, before a job counts on its first chunk. One in which anything
//! was found missing or damaged, then or by a reader, is not counted on any more: its chunks are stored again by
//! whoever has them. Reading goes on trying it. A flipped bit in a chunk that nobody has read since is not seen:
//! verifying is what finds it. What was found is remembered over a restart.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::damage::DamageLog;
use super::pack_index::read_footer;
use super::{ChunkStore, FoundDamage, KnownDamage, StoreError};
use crate::index::ChunkPlace;
use crate::objects::{ObjectError, ObjectName};
use crate::types::{ChunkId, PackId, sentence};

/// What is known of the packs. Bounded by the packs that there are.
#[derive(Default)]
pub(super) struct Trust {
    /// Grows with every job: what was looked at for an earlier one is looked at again.
    round: AtomicU64,
    looked_at: Mutex<HashMap<PackId, u64>>,
    damage: DamageLog,
}

impl Trust {
    pub(super) fn new(damage: DamageLog) -> Self {
        Self { damage, ..Self::default() }
    }

    pub(super) fn begin_round(&self) {
        self.round.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn is_damaged(&self, pack: PackId) -> bool {
        self.damage.is_damaged(pack)
    }

    fn looked_at(&self) -> MutexGuard<'_, HashMap<PackId, u64>> {
        self.looked_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ChunkStore {
    /// Returns the packs that have the chunk as far as can be told without reading it; when there is none, it has to
    /// be stored.
    pub(super) fn trusted_packs(&self, id: ChunkId) -> Result<impl Iterator<Item = PackId>, StoreError> {
        let places = self.index.places(id)?;
        Ok(places.into_iter().map(|place| place.pack).filter(|pack| self.is_trusted(*pack)))
    }

    fn is_trusted(&self, pack: PackId) -> bool {
        !self.trust.is_damaged(pack) && self.was_looked_at(pack)
    }

    /// Says whether a chunk is there as far as can be told without reading it: in a pack that is whole, and not known
    /// to be damaged itself.
    pub fn is_there(&self, id: ChunkId) -> Result<bool, StoreError> {
        let places = self.index.places(id)?;
        Ok(places.into_iter().any(|place| {
            !self.trust.damage.has(place.pack, Some(id))
                && !self.trust.damage.has(place.pack, None)
                && self.was_looked_at(place.pack)
        }))
    }

    /// Looks at a pack, unless that was done since the round began.
    fn was_looked_at(&self, pack: PackId) -> bool {
        let round = self.trust.round.load(Ordering::Relaxed);
        if self.trust.looked_at().get(&pack) == Some(&round) {
            return true;
        }
        if let Err(error) = self.look_at(pack) {
            if self.index.pack(pack).is_none() {
                // Collected as garbage since it was looked up.
                return false;
            }
            self.distrust(pack, None, &error);
            return false;
        }
        self.trust.looked_at().insert(pack, round);
        true
    }

    /// Is the pack there, as long as it was, and does its footer list its chunks?
    pub(super) fn look_at(&self, pack: PackId) -> Result<(), StoreError> {
        let name = ObjectName::Pack(pack);
        // By its name: a descriptor that was kept reads a removed object, too.
        let length = self.objects.length(name)?;
        let indexed = self.index.pack(pack).map_or(length, |pack| pack.length);
        if length != indexed {
            return Err(ObjectError::Truncated { name, length, wanted_end: indexed }.into());
        }
        read_footer(self.objects.as_ref(), pack, length).map(drop)
    }

    /// New backups count on this pack no more: a chunk in it, or the pack itself, is not what it should be.
    pub(super) fn distrust(&self, pack: PackId, chunk: Option<ChunkId>, error: &StoreError) {
        if !error.is_damage() || self.is_unreachable(error) {
            tracing::warn!(pack = %pack, "{error}: it is not counted on for now");
            return;
        }
        let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        if self.trust.damage.note(pack, chunk, sentence(error)) {
            tracing::error!(pack = %pack, cause, "{error}: what new backups need of this pack is stored again");
        }
    }

    /// Is the pack missing because nothing of the repository is there?
    fn is_unreachable(&self, error: &StoreError) -> bool {
        matches!(error, StoreError::Object(ObjectError::Missing { .. }))
            && self.objects.length(ObjectName::Header).is_err()
    }

    /// Returns what is known to be damaged and still there.
    pub fn known_damage(&self) -> Vec<KnownDamage> {
        self.trust.damage.all()
    }

    /// What a check of the whole repository found: new backups do not count on it.
    pub fn note_damage(&self, found: &[FoundDamage]) {
        for FoundDamage { pack, chunk, why } in found {
            self.trust.damage.note(*pack, *chunk, why.clone());
        }
    }

    /// A chunk was read from a pack and is right.
    pub(super) fn trust_again(&self, pack: PackId, chunk: ChunkId) {
        if !self.trust.is_damaged(pack) {
            return;
        }
        self.trust.damage.clear(pack, Some(chunk));
        if self.trust.is_damaged(pack) && self.look_at(pack).is_ok() {
            self.trust.damage.clear(pack, None);
        }
    }

    /// Forgets the damage of packs that are gone.
    pub(super) fn forget_damage(&self, is_gone: impl Fn(PackId) -> bool) {
        self.trust.damage.forget_packs(is_gone);
    }

    /// Puts the places that are likely to be good first.
    pub(super) fn best_first(&self, places: &mut [ChunkPlace]) {
        if places.len() > 1 {
            places.sort_by_key(|place| self.trust.is_damaged(place.pack));
        }
    }
}
