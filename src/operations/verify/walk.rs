//! Reads an image in its order, past all caches: each chunk, each of its copies.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;

use super::progress::Found;
use crate::format::image_hash::ImageHash;
use crate::format::manifest::{ManifestExtent, Target};
use crate::image::{Image, Part};
use crate::operations::zeros::is_zero;
use crate::source::Snapshot;
use crate::store::{ChunkStore, Examination, StoreError};
use crate::types::{ByteRange, ChunkId, Refusal, sentence};

/// Chunks that were examined a moment ago are not examined again for each small piece of them.
const RECENT_BYTES: u64 = 8 << 20;
/// The grain in which an image is compared with its snapshot.
const COMPARED_BLOCK: u64 = 4096;

/// The bytes of a chunk, or why there are none.
type Examined = Result<Arc<Vec<u8>>, Arc<StoreError>>;

pub(super) struct Walk<'a> {
    image: &'a Image,
    examination: Examination<'a>,
    recent: LruCache<ChunkId, Examined>,
    snapshot: Option<&'a dyn Snapshot>,
    /// Of the image below the position; `None` when it is not wanted, or not known any more.
    pub(super) hash: Option<ImageHash>,
    pub(super) found: Found,
    /// Read since it was last asked.
    read_bytes: u64,
    /// What the snapshot has where the image is being read.
    there: Vec<u8>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        image: &'a Image,
        store: &'a ChunkStore,
        chunk_size: u64,
        snapshot: Option<&'a dyn Snapshot>,
        hash: Option<ImageHash>,
        found: Found,
    ) -> Self {
        let count = usize::try_from(RECENT_BYTES / chunk_size.max(1)).unwrap_or(0);
        let recent = LruCache::new(NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN));
        let examination = store.examination();
        Self { image, examination, recent, snapshot, hash, found, read_bytes: 0, there: Vec::new() }
    }

    /// Returns how many bytes were read since this was last asked.
    pub(super) fn take_read_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.read_bytes)
    }

    /// Reads a range of a few MiB. An error is of this machine or the source; what is wrong with the image is noted.
    pub(super) fn range(&mut self, range: ByteRange) -> Result<(), Refusal> {
        if let Some(snapshot) = self.snapshot {
            self.there.resize(length_of(range), 0);
            snapshot.read(&[range], &mut self.there)?;
            if !is_zero(&self.there) {
                self.read_bytes += range.len();
            }
        }
        for part in self.image.parts(range) {
            match part {
                Part::Unknown(gap, error) => self.damaged(gap, &error)?,
                Part::Extent(extent) => self.extent(range, &extent)?,
            }
        }
        Ok(())
    }

    fn extent(&mut self, around: ByteRange, extent: &ManifestExtent) -> Result<(), Refusal> {
        let Target::Chunk { id, offset } = extent.target else {
            if let Some(hash) = &mut self.hash {
                hash.add_zeros(extent.range.len());
            }
            self.compare(around, extent.range, None);
            return Ok(());
        };
        let chunk = match self.chunk(id) {
            Ok(chunk) => chunk,
            Err(error) => return self.damaged(extent.range, &error),
        };
        let start = offset as usize;
        let Some(bytes) = chunk.get(start..start.saturating_add(length_of(extent.range))) else {
            let why = format!("{} reach beyond the end of chunk {id}", extent.range);
            let manifest = self.image.manifests().first().map(|layer| layer.id());
            return match manifest {
                Some(id) => self.damaged(extent.range, &Arc::new(StoreError::ManifestCorrupt { id, why })),
                None => Ok(()),
            };
        };
        if let Some(hash) = &mut self.hash {
            hash.add(bytes);
        }
        self.compare(around, extent.range, Some(bytes));
        Ok(())
    }

    fn chunk(&mut self, id: ChunkId) -> Examined {
        if let Some(known) = self.recent.get(&id) {
            return known.clone();
        }
        let mut plain = Vec::new();
        let examined = match self.examination.examine(id, &mut plain) {
            Ok(examined) => {
                self.read_bytes += examined.read_bytes;
                Ok(Arc::new(plain))
            }
            Err(error) => Err(Arc::new(error)),
        };
        self.recent.put(id, examined.clone());
        examined
    }

    fn damaged(&mut self, range: ByteRange, error: &Arc<StoreError>) -> Result<(), Refusal> {
        if !error.is_damage() {
            return Err(Refusal::from(Arc::clone(error)));
        }
        self.hash = None;
        self.found.damaged.add(range);
        self.found.cause.get_or_insert_with(|| sentence(error.as_ref()));
        Ok(())
    }

    /// Compares a part of the image, `None` for zeros, with the snapshot.
    fn compare(&mut self, around: ByteRange, part: ByteRange, bytes: Option<&[u8]>) {
        if self.snapshot.is_none() {
            return;
        }
        for block in part.split_on_grid(COMPARED_BLOCK) {
            let there = slice(&self.there, around, block);
            let is_same = match bytes {
                Some(bytes) => slice(bytes, part, block) == there,
                None => is_zero(there),
            };
            if !is_same {
                self.found.damaged.add(block);
                self.found.differing_bytes += block.len();
                let different = || "the snapshot of the volume has other bytes there".to_owned();
                self.found.cause.get_or_insert_with(different);
            }
        }
    }
}

/// Returns the bytes of a part of a range.
fn slice(bytes: &[u8], of: ByteRange, part: ByteRange) -> &[u8] {
    let start = length_of(ByteRange::between(of.start(), part.start()));
    bytes.get(start..start + length_of(part)).unwrap_or_default()
}

fn length_of(range: ByteRange) -> usize {
    usize::try_from(range.len()).unwrap_or(usize::MAX)
}
