//! Looks at what the repository has now, past all caches: what a cache has may be gone from the disk.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::{ChunkStore, StoreError};
use crate::index::ChunkPlace;
use crate::objects::ObjectName;
use crate::types::{ChunkId, PackId};

/// Packs are rewritten by the garbage collector: so often a chunk is looked for again when it has moved.
const MOVES_MAX: usize = 3;

/// What the repository has of a chunk. At least one of its copies is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Examined {
    /// Bytes read from packs.
    pub read_bytes: u64,
    /// Copies of the chunk that are in packs and damaged.
    pub damaged_copies: u32,
}

/// Many chunks examined one after the other, with the packs that they are in: a chunk that only a damaged list of
/// chunks names is lost with the index.
pub struct Examination<'a> {
    store: &'a ChunkStore,
    /// Which packs are there, as long as they were, with their lists of chunks. Bounded by the packs that there are.
    whole: HashMap<PackId, bool>,
}

impl Examination<'_> {
    /// Examines a chunk as [`ChunkStore::examine`] does. A copy in a pack whose list of chunks is damaged is none.
    pub fn examine(&mut self, id: ChunkId, plain: &mut Vec<u8>) -> Result<Examined, StoreError> {
        let Self { store, whole } = self;
        store.examine_where(id, plain, |pack| match whole.entry(pack) {
            // The error was told when it was found.
            Entry::Occupied(known) if !known.get() => Err(StoreError::PackDamaged { pack }),
            Entry::Occupied(_) => Ok(()),
            Entry::Vacant(unknown) => {
                store.objects.forget_kept(ObjectName::Pack(pack));
                let looked = store.look_at(pack);
                // An error of this machine says nothing of the pack.
                if looked.as_ref().err().is_none_or(StoreError::is_damage) {
                    unknown.insert(looked.is_ok());
                }
                looked
            }
        })
    }
}

impl ChunkStore {
    /// Begins to examine the chunks of a backup, and the packs that they are in.
    pub fn examination(&self) -> Examination<'_> {
        Examination { store: self, whole: HashMap::new() }
    }

    /// Reads every copy of a chunk and checks it; `plain` then has the chunk's bytes.
    ///
    /// Damaged copies are remembered, and those that are right again are forgotten. An error when none is good: that
    /// of the first.
    pub fn examine(&self, id: ChunkId, plain: &mut Vec<u8>) -> Result<Examined, StoreError> {
        self.examine_where(id, plain, |_| Ok(()))
    }

    fn examine_where(
        &self,
        id: ChunkId,
        plain: &mut Vec<u8>,
        mut check_pack: impl FnMut(PackId) -> Result<(), StoreError>,
    ) -> Result<Examined, StoreError> {
        let mut places = self.places_or_reindex(id)?;
        for _ in 0..MOVES_MAX {
            let result = self.examine_places(id, &places, plain, &mut check_pack);
            if result.is_ok() {
                return result;
            }
            let now = self.index.places(id)?;
            if now == places {
                return result;
            }
            places = now;
        }
        self.examine_places(id, &places, plain, &mut check_pack)
    }

    /// Returns where a chunk is; looks into all packs, once, when the index does not know.
    pub(super) fn places_or_reindex(&self, id: ChunkId) -> Result<Vec<ChunkPlace>, StoreError> {
        let places = self.index.places(id)?;
        if !places.is_empty() {
            return Ok(places);
        }
        self.index_everything_once(id)?;
        Ok(self.index.places(id)?)
    }

    fn examine_places(
        &self,
        id: ChunkId,
        places: &[ChunkPlace],
        plain: &mut Vec<u8>,
        check_pack: &mut impl FnMut(PackId) -> Result<(), StoreError>,
    ) -> Result<Examined, StoreError> {
        let mut examined = Examined { read_bytes: 0, damaged_copies: 0 };
        let (mut is_good, mut first_error) = (false, None);
        let mut copy = Vec::new();
        for place in places {
            let mut failed = |chunk, error: StoreError| {
                // What is gone because it was collected, or is elsewhere by now, is no damage.
                if self.index.places(id).is_ok_and(|now| now.contains(place)) {
                    self.report(id, &error);
                    self.distrust(place.pack, chunk, &error);
                    examined.damaged_copies += 1;
                }
                first_error.get_or_insert(error);
            };
            if let Err(error) = check_pack(place.pack) {
                failed(None, error);
                continue;
            }
            copy.resize(place.plain_length as usize, 0);
            match self.decode(id, place, &mut copy) {
                Ok(()) => {
                    self.trust_again(place.pack, id);
                    is_good = true;
                    std::mem::swap(plain, &mut copy);
                }
                Err(error) => failed(Some(id), error),
            }
            examined.read_bytes += u64::from(place.stored_length);
        }
        if is_good {
            return Ok(examined);
        }
        let error = first_error.unwrap_or(StoreError::ChunkMissing { id });
        self.report(id, &error);
        Err(error)
    }
}
