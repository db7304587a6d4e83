//! Chunks by id: packs over objects, found through the index, and checked against their SHA-256 on every load.
//!
//! A chunk is written once, into a pack; it can be loaded as soon as its pack is published. Manifests, which say
//! what chunks an image is made of, are written and read here too: they are paged like packs are.

mod buffer;
mod cache;
mod collection;
mod damage;
mod error;
mod examine;
mod follow;
mod garbage;
mod manifest_reader;
mod manifest_writer;
mod metrics;
mod pack_check;
mod pack_index;
mod salvage;
mod trust;
mod writer;

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

pub use buffer::PooledBytes;
pub use cache::{CacheStats, LoadingCache};
pub use damage::{FoundDamage, KnownDamage, remember_damage};
pub use error::StoreError;
pub use examine::{Examination, Examined};
pub use garbage::{GarbageError, GarbageOptions, GarbageReport, Judgement};
pub use manifest_reader::{ManifestReader, PageCache, Visited};
pub use manifest_writer::ManifestWriter;
pub use pack_check::{CheckedPack, Depth, PackDamage, check_pack};
pub use salvage::{SALVAGE_LENGTH_MAX, salvage};
pub use writer::{ChunkWriter, PreparedChunk, WriteSession, WriteStats};

use buffer::BufferPool;
use collection::Collection;
use damage::DamageLog;
use follow::Following;
use trust::Trust;

use crate::format::codec::{self, Compression};
use crate::index::{ChunkIndex, ChunkPlace, IndexStats};
use crate::objects::{ObjectName, ObjectStore};
use crate::types::ChunkId;

/// A chunk is looked up again when its packs went meanwhile: each time by another garbage collection.
const LOOKUPS_MAX: usize = 4;

/// So many damaged chunks are remembered, so that each is reported once.
const REPORTED_MAX: usize = 10_000;

/// The bytes of a chunk, checked.
pub type ChunkBytes = Arc<PooledBytes>;

thread_local! {
    /// Stored bytes on their way to the decoder; at most a chunk's.
    static STORED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub struct ChunkStore {
    objects: Arc<dyn ObjectStore>,
    index: ChunkIndex,
    cache: LoadingCache<ChunkId, ChunkBytes>,
    buffers: Arc<BufferPool>,
    compression: Compression,
    reported: Mutex<HashSet<ChunkId>>,
    trust: Trust,
    collection: Arc<Collection>,
    /// The whole index was read again after a chunk was not found: once is enough.
    reindexed: AtomicBool,
    following: Following,
}

impl ChunkStore {
    /// Takes the parts together and brings the index up to date with the packs that are there. What is found damaged
    /// is remembered in the state folder, if there is one.
    pub fn open(
        objects: Arc<dyn ObjectStore>,
        index: ChunkIndex,
        compression: Compression,
        cache_bytes: u64,
        state_folder: Option<&Path>,
    ) -> Result<Arc<Self>, StoreError> {
        let store = Self {
            objects,
            index,
            cache: LoadingCache::new(cache_bytes, |chunk: &ChunkBytes| chunk.memory_bytes()),
            buffers: Arc::default(),
            compression,
            reported: Mutex::new(HashSet::new()),
            trust: Trust::new(DamageLog::open(state_folder)),
            collection: Arc::default(),
            reindexed: AtomicBool::new(false),
            following: Following::default(),
        };
        crate::metrics::register("store", metrics::write);
        store.index_new_packs()?;
        Ok(Arc::new(store))
    }

    pub fn objects(&self) -> &Arc<dyn ObjectStore> {
        &self.objects
    }

    pub fn index_stats(&self) -> IndexStats {
        self.index.stats()
    }

    pub fn cache_stats(&self) -> CacheStats {
        self.cache.stats()
    }

    /// Makes the index durable: the next start has less to do.
    pub fn flush_index(&self) -> Result<(), StoreError> {
        self.index.flush().map_err(StoreError::from)
    }

    /// Looks at packs anew from here on: for whoever counts on chunks and writes none.
    pub fn look_again(&self) {
        self.trust.begin_round();
    }

    /// Says whether a new backup might count on this chunk being there. One that does begins a [session](Self::session).
    pub fn contains(&self, id: ChunkId) -> Result<bool, StoreError> {
        Ok(self.trusted_packs(id)?.next().is_some())
    }

    /// Begins a job that stores chunks or counts on them.
    pub fn session(self: &Arc<Self>) -> Arc<WriteSession> {
        WriteSession::begin(self)
    }

    /// Returns how many bytes a chunk takes in its pack; nothing when no pack has it.
    pub fn stored_length(&self, id: ChunkId) -> Result<Option<u64>, StoreError> {
        let places = self.index.places(id)?;
        Ok(places.first().map(|place| place.stored_length.into()))
    }

    /// Returns the bytes of a chunk, whose SHA-256 was checked in this process.
    ///
    /// Several readers of one chunk cause one load. A damaged chunk is an error, unless it is in another pack too.
    pub fn load(&self, id: ChunkId) -> Result<ChunkBytes, Arc<StoreError>> {
        self.cache.get_or_load(id, || {
            self.try_places(id, |place| {
                let mut plain = self.buffers.take(place.plain_length as usize);
                self.decode(id, place, plain.as_mut_slice())?;
                Ok(Arc::new(plain))
            })
        })
    }

    /// Fills `into` with a whole chunk, checked as by [`load`](Self::load); `false` when it has another length.
    ///
    /// Who reads all of a chunk seldom comes back soon, and the kernel keeps what it has read: the chunk is decoded
    /// to where it is wanted, and the cache is left to those who read in small pieces.
    pub fn load_whole(&self, id: ChunkId, into: &mut [u8]) -> Result<bool, Arc<StoreError>> {
        if let Some(chunk) = self.cache.get(&id) {
            let whole = chunk.len() == into.len();
            if whole {
                into.copy_from_slice(&chunk);
            }
            return Ok(whole);
        }
        let loaded = self.try_places(id, |place| {
            let whole = place.plain_length as usize == into.len();
            if whole {
                self.decode(id, place, into)?;
            }
            Ok(whole)
        });
        loaded.map_err(Arc::new)
    }

    /// Tries the places of a chunk one after the other until one is good, and looks for others when none is.
    fn try_places<T>(
        &self,
        id: ChunkId,
        mut load: impl FnMut(&ChunkPlace) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let since = Instant::now();
        let mut result = self.try_known_places(id, &mut load);
        if result.as_ref().is_err_and(|error| self.has_followed(error, since)) {
            result = self.try_known_places(id, &mut load);
        }
        if matches!(result, Err(StoreError::ChunkMissing { .. })) {
            self.index_everything_once(id)?;
            result = self.try_known_places(id, &mut load);
        }
        if let Err(error) = &result {
            metrics::READS_DAMAGED.increment();
            self.report(id, error);
        }
        result
    }

    fn try_known_places<T>(
        &self,
        id: ChunkId,
        load: &mut impl FnMut(&ChunkPlace) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let (mut failure, mut moved) = (StoreError::ChunkMissing { id }, None);
        let mut tried = Vec::new();
        for _ in 0..LOOKUPS_MAX {
            let mut places = self.index.places(id)?;
            places.retain(|place| !tried.contains(place));
            if places.is_empty() {
                break;
            }
            self.best_first(&mut places);
            for place in places {
                match load(&place) {
                    Ok(loaded) => return Ok(loaded),
                    Err(error) if self.has_moved(&error) => moved = Some(error),
                    // Collected as garbage since it was looked up: a chunk that is needed is in another pack by now.
                    Err(_) if self.index.pack(place.pack).is_none() => {}
                    Err(error) => {
                        self.report(id, &error);
                        self.distrust(place.pack, Some(id), &error);
                        failure = error;
                    }
                }
                tried.push(place);
            }
        }
        Err(moved.unwrap_or(failure))
    }

    /// Fills `plain`, which has the chunk's length, and checks it.
    fn decode(&self, id: ChunkId, place: &ChunkPlace, plain: &mut [u8]) -> Result<(), StoreError> {
        STORED.with_borrow_mut(|stored| {
            stored.resize(place.stored_length as usize, 0);
            self.objects.read(ObjectName::Pack(place.pack), place.offset.into(), stored)?;
            self.check(id, place, stored, plain)
        })
    }

    /// Fills `plain`, which has the chunk's length, from the bytes that are stored at a place, and checks it.
    fn check(
        &self,
        id: ChunkId,
        place: &ChunkPlace,
        stored: &[u8],
        plain: &mut [u8],
    ) -> Result<(), StoreError> {
        let corrupt = |why: String| StoreError::ChunkCorrupt { id, pack: place.pack, why };
        codec::decompress(place.codec, stored, plain).map_err(|error| corrupt(error.to_string()))?;
        if ChunkId::of(plain) != id {
            return Err(corrupt("its bytes have another SHA-256".to_owned()));
        }
        metrics::LOADED.add(place.plain_length);
        Ok(())
    }

    /// Reads all footers again when a chunk that a manifest names is not in the index: the index may have lost it.
    fn index_everything_once(&self, id: ChunkId) -> Result<(), StoreError> {
        if self.reindexed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        tracing::warn!(chunk = %id, "a chunk is not in the index: all packs are indexed again");
        self.index_all_packs()
    }

    fn report(&self, id: ChunkId, error: &StoreError) {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.len() < REPORTED_MAX && reported.insert(id) {
            let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            tracing::error!(chunk = %id, cause, "{error}");
        }
    }
}
