//! Puts results in image order into packs and a manifest.
//!
//! Small changes are gathered, in image order, into chunks of their own: many small changes make few chunks,
//! compress together and are read back together. A gathered chunk's id is known when it is full, so the extents
//! behind its first change wait for it.

use super::work::Item;
use crate::catalog::ManifestReference;
use crate::format::manifest::{ManifestExtent, Target};
use crate::store::{ChunkWriter, ManifestWriter, StoreError, WriteSession, WriteStats};
use crate::types::ByteRange;

/// So many extents may wait for a gathered chunk: bounds the memory of an image with few changes and many holes.
const WAITING_MAX: usize = 8192;

pub(super) struct Assembler<'a> {
    session: &'a WriteSession,
    chunk_size: usize,
    chunks: ChunkWriter,
    manifest: ManifestWriter,
    gathered: Vec<u8>,
    waiting: Vec<Waiting>,
}

enum Waiting {
    Known(ManifestExtent),
    /// At this offset in the chunk that is being gathered.
    Gathered(ByteRange, u32),
}

impl<'a> Assembler<'a> {
    pub(super) fn new(
        session: &'a WriteSession,
        chunk_size: u64,
        chunks: ChunkWriter,
        manifest: ManifestWriter,
    ) -> Self {
        let chunk_size = usize::try_from(chunk_size).unwrap_or(usize::MAX);
        Self { session, chunk_size, chunks, manifest, gathered: Vec::new(), waiting: Vec::new() }
    }

    pub(super) fn add(&mut self, item: Item) -> Result<(), StoreError> {
        match item {
            Item::Zero(range) => self.known(ManifestExtent { range, target: Target::Zero }),
            Item::Chunk(range, chunk) => {
                let target = Target::Chunk { id: chunk.id, offset: 0 };
                self.chunks.add(chunk)?;
                self.known(ManifestExtent { range, target })
            }
            Item::Change(range, bytes) => self.gather(range, &bytes),
        }
    }

    fn known(&mut self, extent: ManifestExtent) -> Result<(), StoreError> {
        if self.waiting.is_empty() {
            return self.manifest.add(extent);
        }
        self.waiting.push(Waiting::Known(extent));
        if self.waiting.len() >= WAITING_MAX { self.close_gathered() } else { Ok(()) }
    }

    fn gather(&mut self, range: ByteRange, bytes: &[u8]) -> Result<(), StoreError> {
        if self.gathered.len() + bytes.len() > self.chunk_size || self.waiting.len() >= WAITING_MAX {
            self.close_gathered()?;
        }
        // Below the chunk size, which is at most 4 MiB.
        let offset = u32::try_from(self.gathered.len()).unwrap_or(u32::MAX);
        self.waiting.push(Waiting::Gathered(range, offset));
        self.gathered.extend_from_slice(bytes);
        Ok(())
    }

    fn close_gathered(&mut self) -> Result<(), StoreError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let chunk = self.session.prepare(&self.gathered)?;
        let id = chunk.id;
        self.chunks.add(chunk)?;
        self.gathered.clear();
        for waiting in self.waiting.drain(..) {
            self.manifest.add(match waiting {
                Waiting::Known(extent) => extent,
                Waiting::Gathered(range, offset) => {
                    ManifestExtent { range, target: Target::Chunk { id, offset } }
                }
            })?;
        }
        Ok(())
    }

    /// Makes everything durable: the packs first, then the manifest that names their chunks.
    pub(super) fn finish(
        mut self,
        about: impl FnOnce(WriteStats) -> Result<String, StoreError>,
    ) -> Result<(ManifestReference, WriteStats), StoreError> {
        self.close_gathered()?;
        let stats = self.chunks.finish()?;
        let about = about(stats)?;
        Ok((self.manifest.finish(&about)?, stats))
    }
}
