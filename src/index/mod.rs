//! Chunk id -> place in a pack. A cache of the pack footers in sled, which may be lost at any time.
//!
//! - One sled key holds a bucket of chunks, all whose ids start with the same 16 bits, and is only ever appended
//!   to: one key per chunk costs 20 times the memory and a quarter of the speed (docs/architecture.md).
//! - Packs have numbers here, never used again. A pack's number is written before its chunks and marked complete
//!   behind them, so that a kill in between leaves a pack to be indexed again, never a chunk that points into
//!   another pack.
//! - Whatever goes wrong when opening, a panic of sled included, the database is thrown away: it is rebuilt from
//!   the footers.

mod bucket;
mod database;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError, RwLock};

use crate::format::pack::PackEntry;
use crate::types::{ChunkId, PackId, RepositoryId};

pub use bucket::ChunkPlace;
use bucket::{BucketEntry, PackNumber};
use database::Database;

#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error("the index in {path}")]
    Database {
        path: String,
        #[source]
        source: sled::Error,
    },

    #[error("the index in {path} cannot be used: {why}")]
    Unusable { path: String, why: String },
}

/// A pack as the index knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexedPack {
    pub length: u64,
    pub chunk_count: u32,
    /// All its chunks are in the index.
    pub complete: bool,
}

/// Buckets are compacted when one in so many chunks is of a forgotten pack.
const FORGOTTEN_SHARE_MAX: u64 = 4;

/// Bytes, and counts, of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexStats {
    pub pack_count: u64,
    pub chunk_count: u64,
    pub pack_bytes: u64,
}

pub struct ChunkIndex {
    database: Database,
    packs: RwLock<PackTable>,
    /// One inserter at a time, so that numbers are given out once.
    inserting: Mutex<()>,
}

#[derive(Default)]
struct PackTable {
    by_number: HashMap<PackNumber, PackId>,
    by_id: HashMap<PackId, (PackNumber, IndexedPack)>,
    next: PackNumber,
}

impl ChunkIndex {
    /// Opens the index of this repository in a folder; begins an empty one when there is none that can be used.
    pub fn open(folder: &Path, repository: RepositoryId, cache_bytes: u64) -> Result<Self, IndexError> {
        let database = Database::open_or_begin(folder, repository, cache_bytes)?;
        let mut table = PackTable::default();
        for (number, id, pack) in database.packs()? {
            table.by_number.insert(number, id);
            table.by_id.insert(id, (number, pack));
            table.next = table.next.max(number.next());
        }
        // Numbers of forgotten packs are not used again either: chunks that name them are passed over.
        table.next = table.next.max(database.next_number()?);
        Ok(Self { database, packs: RwLock::new(table), inserting: Mutex::new(()) })
    }

    /// Returns the packs that the index knows.
    pub fn packs(&self) -> HashMap<PackId, IndexedPack> {
        let table = self.packs.read().unwrap_or_else(PoisonError::into_inner);
        table.by_id.iter().map(|(id, (_, pack))| (*id, *pack)).collect()
    }

    /// Returns one pack as the index knows it.
    pub fn pack(&self, id: PackId) -> Option<IndexedPack> {
        let table = self.packs.read().unwrap_or_else(PoisonError::into_inner);
        table.by_id.get(&id).map(|(_, pack)| *pack)
    }

    pub fn stats(&self) -> IndexStats {
        let table = self.packs.read().unwrap_or_else(PoisonError::into_inner);
        let mut stats = IndexStats { pack_count: 0, chunk_count: 0, pack_bytes: 0 };
        for (_, pack) in table.by_id.values() {
            stats.pack_count += 1;
            stats.chunk_count += u64::from(pack.chunk_count);
            stats.pack_bytes += pack.length;
        }
        stats
    }

    /// Adds a pack that is durable in the repository. Adding one again does no harm.
    pub fn insert_pack(&self, id: PackId, length: u64, entries: &[PackEntry]) -> Result<(), IndexError> {
        let _inserting = self.inserting.lock().unwrap_or_else(PoisonError::into_inner);
        let chunk_count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        let mut pack = IndexedPack { length, chunk_count, complete: false };
        let is_known = self.pack(id).is_some();
        let number = self.number_of(id, pack)?;
        for entry in entries {
            let entry = BucketEntry::new(number, entry);
            // Otherwise a pack that is added at every start would make its buckets longer each time.
            if !is_known || !self.database.has(&entry)? {
                self.database.append(&entry)?;
            }
        }
        pack.complete = true;
        self.database.put_pack(number, id, pack)?;
        self.packs.write().unwrap_or_else(PoisonError::into_inner).by_id.insert(id, (number, pack));
        Ok(())
    }

    fn number_of(&self, id: PackId, pack: IndexedPack) -> Result<PackNumber, IndexError> {
        let number = {
            let mut table = self.packs.write().unwrap_or_else(PoisonError::into_inner);
            if let Some((number, _)) = table.by_id.get(&id) {
                return Ok(*number);
            }
            let number = table.next;
            table.next = number.next();
            number
        };
        self.database.put_pack(number, id, pack)?;
        let mut table = self.packs.write().unwrap_or_else(PoisonError::into_inner);
        table.by_number.insert(number, id);
        table.by_id.insert(id, (number, pack));
        Ok(number)
    }

    /// Forgets a pack that the repository does not have any more: its chunks are not found from now on.
    pub fn forget_pack(&self, id: PackId) -> Result<(), IndexError> {
        let mut table = self.packs.write().unwrap_or_else(PoisonError::into_inner);
        if let Some((number, pack)) = table.by_id.remove(&id) {
            table.by_number.remove(&number);
            self.database.remove_pack(number, table.next, pack.chunk_count.into())?;
        }
        Ok(())
    }

    /// Returns all places of a chunk: the same chunk can be in several packs.
    pub fn places(&self, id: ChunkId) -> Result<Vec<ChunkPlace>, IndexError> {
        let Some(bucket) = self.database.bucket(id)? else { return Ok(Vec::new()) };
        let table = self.packs.read().unwrap_or_else(PoisonError::into_inner);
        let entries = bucket::find(&bucket, id);
        let mut places: Vec<ChunkPlace> = Vec::new();
        for entry in entries {
            // A number that is not in the table is of a pack that is gone.
            let Some(pack) = table.by_number.get(&entry.pack) else { continue };
            let place = entry.place(*pack);
            if !places.contains(&place) {
                places.push(place);
            }
        }
        Ok(places)
    }

    pub fn contains(&self, id: ChunkId) -> Result<bool, IndexError> {
        self.places(id).map(|places| !places.is_empty())
    }

    /// Takes the chunks of forgotten packs out of the buckets, when they have become many: buckets are only appended to,
    /// and would grow with each pack that comes and goes.
    ///
    /// Others add and look up meanwhile: a pack has its number in the table before any of its chunks is in a bucket.
    pub fn compact(&self, goes_on: impl Fn() -> bool) -> Result<(), IndexError> {
        let forgotten = self.database.forgotten_chunks()?;
        if forgotten * FORGOTTEN_SHARE_MAX < self.stats().chunk_count {
            return Ok(());
        }
        let is_known = |number: PackNumber| {
            let table = self.packs.read().unwrap_or_else(PoisonError::into_inner);
            table.by_number.contains_key(&number)
        };
        self.database.compact(is_known, goes_on)
    }

    /// Makes all that was inserted durable. Only saves time at the next start.
    pub fn flush(&self) -> Result<(), IndexError> {
        self.database.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::codec::Codec;

    fn entries(count: u32) -> Vec<PackEntry> {
        (0..count)
            .map(|n| PackEntry {
                id: ChunkId::of(&n.to_le_bytes()),
                offset: 16 + n,
                stored_length: 1,
                plain_length: 65_536,
                codec: Codec::Zstd,
            })
            .collect()
    }

    fn open(folder: &Path, repository: RepositoryId) -> ChunkIndex {
        ChunkIndex::open(folder, repository, 1 << 20).unwrap()
    }

    #[test]
    fn chunks_are_found_again_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let repository = RepositoryId::random();
        let pack = PackId::random();
        let index = open(folder.path(), repository);
        index.insert_pack(pack, 5000, &entries(1000)).unwrap();
        index.insert_pack(pack, 5000, &entries(1000)).unwrap();
        drop(index);
        let index = open(folder.path(), repository);
        assert_eq!(index.packs()[&pack], IndexedPack { length: 5000, chunk_count: 1000, complete: true });
        for entry in entries(1000) {
            let places = index.places(entry.id).unwrap();
            assert_eq!(places.len(), 1);
            assert_eq!((places[0].pack, places[0].offset), (pack, entry.offset));
        }
        assert!(!index.contains(ChunkId::of(b"no such chunk")).unwrap());
    }

    #[test]
    fn chunks_of_a_forgotten_pack_are_not_found_and_its_number_is_not_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let repository = RepositoryId::random();
        let index = open(folder.path(), repository);
        let gone = PackId::random();
        index.insert_pack(gone, 1, &entries(1)).unwrap();
        index.forget_pack(gone).unwrap();
        drop(index);
        let index = open(folder.path(), repository);
        let other = PackId::random();
        index.insert_pack(other, 1, &entries(2)[1..]).unwrap();
        assert_eq!(index.places(entries(1)[0].id).unwrap(), []);
    }

    #[test]
    fn an_index_of_another_repository_or_a_broken_one_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let index = open(folder.path(), RepositoryId::random());
        index.insert_pack(PackId::random(), 1, &entries(10)).unwrap();
        drop(index);
        let repository = RepositoryId::random();
        let index = open(folder.path(), repository);
        assert!(index.packs().is_empty());
        assert!(!index.contains(entries(1)[0].id).unwrap());
        index.insert_pack(PackId::random(), 1, &entries(10)).unwrap();
        drop(index);
        for name in ["db", "conf"] {
            #[expect(clippy::disallowed_methods, reason = "damages a file on purpose")]
            std::fs::write(folder.path().join(name), vec![0xa5; 10_000]).unwrap();
            let index = open(folder.path(), repository);
            assert!(index.packs().is_empty(), "{name}");
            index.insert_pack(PackId::random(), 1, &entries(10)).unwrap();
        }
    }
}
