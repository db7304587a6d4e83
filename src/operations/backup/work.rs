//! Turns a span into what goes into the repository: reads it, finds zeros, compares, hashes and compresses.

use std::sync::{Arc, Mutex, PoisonError};

use super::super::differing::differing;
use super::super::zeros::is_zero;
use super::plan::{Piece, PieceKind, Span};
use crate::format::manifest::{ManifestExtent, Target};
use crate::image::Image;
use crate::metrics::Counter;
use crate::source::Snapshot;
use crate::store::{PreparedChunk, StoreError, WriteSession};
use crate::types::{ByteRange, ChunkId, Refusal, RefusalKind};

/// What one range of the snapshot became.
pub(super) enum Item {
    Zero(ByteRange),
    /// A chunk of its own: a whole block of the chunk grid.
    Chunk(ByteRange, PreparedChunk),
    /// A small change, to be gathered with others into one chunk.
    Change(ByteRange, Vec<u8>),
}

/// What all threads of one job share.
pub(super) struct Worker<'a> {
    pub(super) snapshot: &'a dyn Snapshot,
    pub(super) session: &'a WriteSession,
    pub(super) parent: Option<&'a Image>,
    pub(super) chunk_size: u64,
    pub(super) bytes_read: Arc<Counter>,
    /// The first range that differs from the parent though the source did not say so.
    pub(super) missed: Mutex<Option<ByteRange>>,
}

impl Worker<'_> {
    /// Works one span; `buffer` is kept from span to span.
    pub(super) fn run(&self, span: &Span, buffer: &mut Vec<u8>) -> Result<Vec<Item>, Refusal> {
        let is_read = |piece: &&Piece| piece.kind.is_read();
        let ranges: Vec<ByteRange> = span.pieces.iter().filter(is_read).map(|piece| piece.range).collect();
        let length = usize::try_from(span.data_bytes).unwrap_or(usize::MAX);
        if buffer.len() < length {
            buffer.resize(length, 0);
        }
        let (mut data, _) = buffer.split_at_mut(length);
        if !ranges.is_empty() {
            self.snapshot.read(&ranges, data)?;
            self.bytes_read.add(span.data_bytes);
        }
        let mut items = Vec::new();
        for piece in &span.pieces {
            match piece.kind {
                PieceKind::Zero => items.push(Item::Zero(piece.range)),
                PieceKind::CompareZero => self.compare_zero(piece.range, &mut items)?,
                PieceKind::Store | PieceKind::Compare | PieceKind::Check => {
                    let (bytes, rest) = std::mem::take(&mut data).split_at_mut(length_of(piece.range));
                    data = rest;
                    self.data(piece, bytes, &mut items)?;
                }
            }
        }
        Ok(items)
    }

    fn data(&self, piece: &Piece, bytes: &[u8], items: &mut Vec<Item>) -> Result<(), Refusal> {
        let mut rest = bytes;
        for block in piece.range.split_on_grid(self.chunk_size) {
            let (bytes, behind) = rest.split_at(length_of(block));
            rest = behind;
            match (piece.kind, self.parent) {
                (PieceKind::Compare, Some(parent)) => self.compare(parent, block, bytes, items)?,
                (PieceKind::Check, Some(parent)) => self.check(parent, block, bytes, items)?,
                _ => self.store(block, bytes, items)?,
            }
        }
        Ok(())
    }

    fn store(&self, range: ByteRange, bytes: &[u8], items: &mut Vec<Item>) -> Result<(), Refusal> {
        if is_zero(bytes) {
            items.push(Item::Zero(range));
        } else if self.is_whole_block(range) {
            items.push(Item::Chunk(range, self.session.prepare(bytes)?));
        } else {
            items.push(Item::Change(range, bytes.to_vec()));
        }
        Ok(())
    }

    /// A block of the chunk grid, or the image's last one.
    fn is_whole_block(&self, range: ByteRange) -> bool {
        range.start().is_multiple_of(self.chunk_size)
            && (range.len() == self.chunk_size || range.end() == self.snapshot.info().size_bytes)
    }

    /// Stores what differs from the parent in one block of the chunk grid.
    fn compare(
        &self,
        parent: &Image,
        block: ByteRange,
        bytes: &[u8],
        items: &mut Vec<Item>,
    ) -> Result<(), Refusal> {
        if is_zero(bytes) {
            return self.compare_zero(block, items);
        }
        // Where the parent's chunks are not there any more, the block is stored again: that heals the parent, too.
        let Some(segments) = self.intact_segments(parent, block)? else {
            return self.store(block, bytes, items);
        };
        if is_one_chunk_of(&segments, block, bytes) {
            return Ok(());
        }
        let mut old = vec![0; bytes.len()];
        // Beyond the parent's end there are zeros. What cannot be read any more is stored again, whole.
        if parent.read(block.start(), &mut old).is_err() {
            return self.store(block, bytes, items);
        }
        let changes = differing(block, bytes, &old);
        let changed: u64 = changes.iter().map(|change| change.len()).sum();
        // A block of its own reads faster than many changes, and costs little more from here on.
        if changed > block.len() / 4 * 3 {
            return self.store(block, bytes, items);
        }
        for change in changes {
            let start = length_of(ByteRange::between(block.start(), change.start()));
            let bytes = bytes.get(start..start + length_of(change)).unwrap_or_default();
            self.store(change, bytes, items)?;
        }
        Ok(())
    }

    /// Sees that a block of which the source says nothing is as it was. If it is not, nothing that the source says of
    /// this volume can be counted on.
    fn check(
        &self,
        parent: &Image,
        block: ByteRange,
        bytes: &[u8],
        items: &mut Vec<Item>,
    ) -> Result<(), Refusal> {
        let Some(segments) = self.intact_segments(parent, block)? else {
            return self.store(block, bytes, items);
        };
        if is_one_chunk_of(&segments, block, bytes) {
            return Ok(());
        }
        let mut old = vec![0; bytes.len()];
        if parent.read(block.start(), &mut old).is_err() {
            return self.store(block, bytes, items);
        }
        match differing(block, bytes, &old).first() {
            None => Ok(()),
            Some(change) => Err(self.note_missed(*change)),
        }
    }

    fn note_missed(&self, range: ByteRange) -> Refusal {
        self.missed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(range);
        let sentence = format!("{range} have changed, and the source did not say so");
        Refusal::new(RefusalKind::Failed, sentence)
    }

    /// Returns the range that stopped the work, if it was one that the source had not told of.
    pub(super) fn into_missed(self) -> Option<ByteRange> {
        self.missed.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what the parent has in a block, or nothing when not all of it can be counted on: bytes that are still
    /// in the cache may be gone from the repository.
    fn intact_segments(
        &self,
        parent: &Image,
        block: ByteRange,
    ) -> Result<Option<Vec<ManifestExtent>>, Refusal> {
        let mut segments = Vec::new();
        if parent.segments(block, |segment| segments.push(segment)).is_err() {
            return Ok(None);
        }
        for segment in &segments {
            if let Target::Chunk { id, .. } = segment.target
                && !self.session.contains(id)?
            {
                return Ok(None);
            }
        }
        Ok(Some(segments))
    }

    /// Notes zeros where the parent has something else.
    fn compare_zero(&self, range: ByteRange, items: &mut Vec<Item>) -> Result<(), Refusal> {
        let Some(parent) = self.parent else {
            items.push(Item::Zero(range));
            return Ok(());
        };
        let mut from = range.start();
        while from < range.end() {
            match next_run(parent, from) {
                Ok(Some(data)) if data.start() < range.end() => {
                    items.push(Item::Zero(data.below(range.end())));
                    from = data.end();
                }
                Ok(_) => break,
                // What the parent has there is not known: zeros it is in any case.
                Err(_) => {
                    items.push(Item::Zero(ByteRange::between(from, range.end())));
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Returns the next run of data from here on.
fn next_run(image: &Image, from: u64) -> Result<Option<ByteRange>, Arc<StoreError>> {
    let Some(data) = image.next_data(from)? else { return Ok(None) };
    Ok(Some(ByteRange::between(data, image.next_hole(data)?)))
}

/// Is the block one whole chunk with just these bytes? Then nothing has to be loaded.
fn is_one_chunk_of(segments: &[ManifestExtent], block: ByteRange, bytes: &[u8]) -> bool {
    // An id that is the hash of just these bytes is of a chunk that has just these bytes.
    matches!(segments, [ManifestExtent { range, target: Target::Chunk { id, offset: 0 } }]
        if *range == block && ChunkId::of(bytes) == *id)
}

/// The length of a range that lies within a buffer.
fn length_of(range: ByteRange) -> usize {
    usize::try_from(range.len()).unwrap_or(usize::MAX)
}
