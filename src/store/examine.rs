//! Looks at what the repository has now, past all caches: what a cache has may be gone from the disk.

use super::{ChunkStore, StoreError};
use crate::types::ChunkId;

/// What the repository has of a chunk. At least one of its copies is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Examined {
    /// Bytes read from packs.
    pub read_bytes: u64,
    /// Copies of the chunk that are in packs and damaged.
    pub damaged_copies: u32,
}

impl ChunkStore {
    /// Reads every copy of a chunk and checks it; `plain` then has the chunk's bytes.
    ///
    /// Damaged copies are remembered, and those that are right again are forgotten. An error when none is good: that
    /// of the first.
    pub fn examine(&self, id: ChunkId, plain: &mut Vec<u8>) -> Result<Examined, StoreError> {
        let mut examined = Examined { read_bytes: 0, damaged_copies: 0 };
        let (mut is_good, mut first_error) = (false, None);
        let mut copy = Vec::new();
        for place in self.index.places(id)? {
            copy.resize(place.plain_length as usize, 0);
            examined.read_bytes += u64::from(place.stored_length);
            match self.decode(id, &place, &mut copy) {
                Ok(()) => {
                    self.trust_again(place.pack, id);
                    is_good = true;
                    std::mem::swap(plain, &mut copy);
                }
                // Collected as garbage since it was looked up.
                Err(_) if self.index.pack(place.pack).is_none() => return self.examine(id, plain),
                Err(error) => {
                    self.report(id, &error);
                    self.distrust(place.pack, Some(id), &error);
                    examined.damaged_copies += 1;
                    first_error.get_or_insert(error);
                }
            }
        }
        if is_good {
            return Ok(examined);
        }
        let error = first_error.unwrap_or(StoreError::ChunkMissing { id });
        self.report(id, &error);
        Err(error)
    }
}
