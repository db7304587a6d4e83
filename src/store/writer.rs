//! Writes chunks into packs.
//!
//! [`WriteSession::prepare`] hashes and compresses and may run on many threads; [`ChunkWriter::add`] is called in
//! image order, so that what is read together lies together. A full pack is synced and published by a thread of
//! its own while the next one is filled. Chunks of packs that are not published yet are known to this writer only.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, bounded};

use super::collection::Pins;
use super::{ChunkStore, StoreError, metrics};
use crate::format::codec::{self, Codec};
use crate::format::pack::{self, PackEntry};
use crate::objects::{ObjectName, ObjectWriter};
use crate::types::{ChunkId, PackId};

/// A pack is closed with so many chunks, however small: a list may have four times as many.
const PACK_ENTRIES_MAX: usize = 1 << 18;

/// Packs that may wait for their sync; each holds its dirty pages in the kernel only.
const UNPUBLISHED_MAX: usize = 2;

/// A chunk that is ready to be added.
pub struct PreparedChunk {
    pub id: ChunkId,
    pub plain_length: u32,
    stored: Stored,
}

enum Stored {
    /// The repository has the chunk already.
    Before(PackId),
    New(Codec, Vec<u8>),
}

/// What a writer added to the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteStats {
    pub pack_count: u64,
    pub pack_bytes: u64,
    pub chunk_count: u64,
    /// Plain bytes of the new chunks.
    pub plain_bytes: u64,
}

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A job that stores chunks. What it counts on and what it writes is not collected as garbage while it lasts: until
/// its manifest, which says from then on what is needed, is published.
pub struct WriteSession {
    store: Arc<ChunkStore>,
    pins: Pins,
}

impl WriteSession {
    /// Begins a session of the store's. Packs are looked at anew.
    pub(super) fn begin(store: &Arc<ChunkStore>) -> Arc<Self> {
        store.trust.begin_round();
        Arc::new(Self { store: Arc::clone(store), pins: store.collection.pins() })
    }

    /// Hashes a chunk and compresses it unless the repository has it.
    pub fn prepare(&self, plain: &[u8]) -> Result<PreparedChunk, StoreError> {
        let id = ChunkId::of(plain);
        let plain_length = u32::try_from(plain.len()).unwrap_or(u32::MAX);
        if let Some(pack) = self.counted_on(id)? {
            return Ok(PreparedChunk { id, plain_length, stored: Stored::Before(pack) });
        }
        // Compressed into a buffer that is kept, so that a prepared chunk holds no more than it needs.
        let stored = SCRATCH.with_borrow_mut(|scratch| {
            let codec = codec::compress(self.store.compression, plain, scratch);
            Stored::New(codec, scratch.clone())
        });
        Ok(PreparedChunk { id, plain_length, stored })
    }

    /// Says whether this job may count on a chunk being there.
    pub fn contains(&self, id: ChunkId) -> Result<bool, StoreError> {
        Ok(self.counted_on(id)?.is_some())
    }

    /// Returns a pack that has the chunk and keeps it, as far as can be told without reading it.
    fn counted_on(&self, id: ChunkId) -> Result<Option<PackId>, StoreError> {
        let mut packs = self.store.trusted_packs(id)?;
        Ok(packs.find(|pack| self.pins.pin(*pack)))
    }

    /// Keeps a pack from being collected; `false` when it is going already.
    pub(super) fn pin(&self, pack: PackId) -> bool {
        self.pins.pin(pack)
    }

    /// Starts writing. One writer belongs to one job.
    pub fn writer(self: &Arc<Self>) -> ChunkWriter {
        let unpublished = Arc::new(Mutex::new(HashSet::new()));
        let (full_packs, receiver) = bounded::<FullPack>(UNPUBLISHED_MAX);
        let session = Arc::clone(self);
        let known = Arc::clone(&unpublished);
        let job = tracing::Span::current();
        let publisher = std::thread::spawn(move || {
            let _entered = job.enter();
            // The first error ends the loop and with it the channel: nothing is published behind a failed sync.
            receiver.into_iter().try_for_each(|pack| pack.publish(&session, &known))
        });
        ChunkWriter {
            session: Arc::clone(self),
            open: None,
            unpublished,
            publisher: Some((full_packs, publisher)),
            counted_on: HashSet::new(),
            stats: WriteStats::default(),
        }
    }
}

/// The thread that syncs full packs.
type Publisher = JoinHandle<Result<(), StoreError>>;

pub struct ChunkWriter {
    session: Arc<WriteSession>,
    open: Option<OpenPack>,
    /// Chunks in the open pack and in those that wait for their sync.
    unpublished: Arc<Mutex<HashSet<ChunkId>>>,
    publisher: Option<(Sender<FullPack>, Publisher)>,
    /// Packs of earlier backups whose chunks are not stored again.
    counted_on: HashSet<PackId>,
    stats: WriteStats,
}

impl ChunkWriter {
    /// Adds a chunk unless it is there. It is durable when [`finish`](Self::finish) has returned.
    pub fn add(&mut self, chunk: PreparedChunk) -> Result<(), StoreError> {
        let (codec, stored) = match chunk.stored {
            Stored::Before(pack) => {
                metrics::DEDUPLICATED.add(chunk.plain_length);
                self.counted_on.insert(pack);
                return Ok(());
            }
            Stored::New(codec, stored) => (codec, stored),
        };
        if lock(&self.unpublished).contains(&chunk.id) {
            metrics::DEDUPLICATED.add(chunk.plain_length);
            return Ok(());
        }
        // Another writer may have been faster.
        if let Some(pack) = self.session.counted_on(chunk.id)? {
            metrics::DEDUPLICATED.add(chunk.plain_length);
            self.counted_on.insert(pack);
            return Ok(());
        }
        self.append(chunk.id, chunk.plain_length, codec, &stored)?;
        metrics::STORED.add(chunk.plain_length);
        Ok(())
    }

    /// Adds a chunk as it is stored in another pack, whatever packs have it.
    pub(super) fn add_stored(&mut self, entry: &PackEntry, stored: &[u8]) -> Result<(), StoreError> {
        if lock(&self.unpublished).contains(&entry.id) {
            return Ok(());
        }
        self.append(entry.id, entry.plain_length, entry.codec, stored)
    }

    fn append(
        &mut self,
        id: ChunkId,
        plain_length: u32,
        codec: Codec,
        stored: &[u8],
    ) -> Result<(), StoreError> {
        let pack = match &mut self.open {
            Some(pack) => pack,
            None => self.open.insert(OpenPack::create(&self.session.store)?),
        };
        pack.append(id, plain_length, codec, stored)?;
        lock(&self.unpublished).insert(id);
        self.stats.chunk_count += 1;
        self.stats.plain_bytes += u64::from(plain_length);
        if pack.length >= pack::LENGTH_TARGET || pack.entries.len() >= PACK_ENTRIES_MAX {
            self.close_pack()?;
        }
        Ok(())
    }

    fn close_pack(&mut self) -> Result<(), StoreError> {
        let Some(pack) = self.open.take() else { return Ok(()) };
        let full = pack.close()?;
        self.stats.pack_count += 1;
        self.stats.pack_bytes += full.length;
        let sent = self.publisher.as_ref().map(|(full_packs, _)| full_packs.send(full));
        match sent {
            Some(Ok(())) => Ok(()),
            // The publisher ended with an error: that one is the one to tell.
            _ => self.join_publisher().and(Err(StoreError::Stopped)),
        }
    }

    fn join_publisher(&mut self) -> Result<(), StoreError> {
        match self.publisher.take() {
            Some((full_packs, publisher)) => {
                drop(full_packs);
                publisher.join().unwrap_or(Err(StoreError::Stopped))
            }
            None => Err(StoreError::Stopped),
        }
    }

    /// Returns when all that was added is durable and in the index. `PackDamaged` when a pack with chunks that were
    /// not stored again for its sake was found damaged meanwhile.
    pub fn finish(mut self) -> Result<WriteStats, StoreError> {
        self.close_pack()?;
        self.join_publisher()?;
        match self.counted_on.iter().find(|pack| self.session.store.trust.is_damaged(**pack)) {
            Some(pack) => Err(StoreError::PackDamaged { pack: *pack }),
            None => Ok(self.stats),
        }
    }
}

impl Drop for ChunkWriter {
    /// Lets full packs be published, which only makes the next try cheaper; the open one leaves nothing.
    fn drop(&mut self) {
        let _ = self.join_publisher();
    }
}

struct OpenPack {
    id: PackId,
    object: Box<dyn ObjectWriter>,
    entries: Vec<PackEntry>,
    length: u64,
}

impl OpenPack {
    fn create(store: &ChunkStore) -> Result<Self, StoreError> {
        let id = PackId::random();
        let mut object = store.objects.create(ObjectName::Pack(id))?;
        object.append(&pack::encode_head())?;
        Ok(Self { id, object, entries: Vec::new(), length: pack::HEAD_LENGTH })
    }

    fn append(
        &mut self,
        id: ChunkId,
        plain_length: u32,
        codec: Codec,
        stored: &[u8],
    ) -> Result<(), StoreError> {
        // A pack is closed long before its offsets leave 32 bits.
        let offset = u32::try_from(self.length).map_err(|_| StoreError::Stopped)?;
        let stored_length = u32::try_from(stored.len()).map_err(|_| StoreError::Stopped)?;
        self.object.append(stored)?;
        self.entries.push(PackEntry { id, offset, stored_length, plain_length, codec });
        self.length += u64::from(stored_length);
        Ok(())
    }

    fn close(mut self) -> Result<FullPack, StoreError> {
        let footer = pack::encode_footer(&self.entries, self.length);
        self.object.append(&footer)?;
        let length = self.length + footer.len() as u64;
        Ok(FullPack { id: self.id, object: self.object, entries: self.entries, length })
    }
}

/// A pack that is written and not yet synced.
struct FullPack {
    id: PackId,
    object: Box<dyn ObjectWriter>,
    entries: Vec<PackEntry>,
    length: u64,
}

impl FullPack {
    fn publish(
        self,
        session: &WriteSession,
        unpublished: &Mutex<HashSet<ChunkId>>,
    ) -> Result<(), StoreError> {
        // Before it can be seen, and taken for garbage.
        session.pins.pin(self.id);
        self.object.finish()?;
        session.store.index.insert_pack(self.id, self.length, &self.entries)?;
        let mut unpublished = lock(unpublished);
        for entry in &self.entries {
            unpublished.remove(&entry.id);
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
