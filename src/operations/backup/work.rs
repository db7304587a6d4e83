//! Turns a span into what goes into the repository: reads it, finds zeros, compares, hashes and compresses.

use super::super::zeros::is_zero;
use super::plan::{Piece, PieceKind, Span};
use crate::format::manifest::Target;
use crate::image::Image;
use crate::source::Snapshot;
use crate::store::{ChunkStore, PreparedChunk};
use crate::types::{ByteRange, ChunkId, Refusal};

/// The grain of a comparison with the parent: a page of a database, a block of a file system.
const COMPARED_BLOCK: u64 = 4096;

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
    pub(super) store: &'a ChunkStore,
    pub(super) parent: Option<&'a Image>,
    pub(super) chunk_size: u64,
}

impl Worker<'_> {
    /// Works one span; `buffer` is kept from span to span.
    pub(super) fn run(&self, span: &Span, buffer: &mut Vec<u8>) -> Result<Vec<Item>, Refusal> {
        let is_data = |piece: &&Piece| matches!(piece.kind, PieceKind::Store | PieceKind::Compare);
        let ranges: Vec<ByteRange> = span.pieces.iter().filter(is_data).map(|piece| piece.range).collect();
        let length = usize::try_from(span.data_bytes).unwrap_or(usize::MAX);
        if buffer.len() < length {
            buffer.resize(length, 0);
        }
        let (mut data, _) = buffer.split_at_mut(length);
        if !ranges.is_empty() {
            self.snapshot.read(&ranges, data)?;
        }
        let mut items = Vec::new();
        for piece in &span.pieces {
            match piece.kind {
                PieceKind::Zero => items.push(Item::Zero(piece.range)),
                PieceKind::CompareZero => self.compare_zero(piece.range, &mut items)?,
                PieceKind::Store | PieceKind::Compare => {
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
                _ => self.store(block, bytes, items)?,
            }
        }
        Ok(())
    }

    fn store(&self, range: ByteRange, bytes: &[u8], items: &mut Vec<Item>) -> Result<(), Refusal> {
        if is_zero(bytes) {
            items.push(Item::Zero(range));
        } else if self.is_whole_block(range) {
            items.push(Item::Chunk(range, self.store.prepare(bytes)?));
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
        if same_chunk(parent, block, bytes) {
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

    /// Notes zeros where the parent has something else.
    fn compare_zero(&self, range: ByteRange, items: &mut Vec<Item>) -> Result<(), Refusal> {
        let Some(parent) = self.parent else {
            items.push(Item::Zero(range));
            return Ok(());
        };
        let mut from = range.start();
        while let Some(data) = parent.next_data(from)?.filter(|data| *data < range.end()) {
            let end = parent.next_hole(data)?.min(range.end());
            items.push(Item::Zero(ByteRange::between(data, end)));
            from = end;
        }
        Ok(())
    }
}

/// Has the parent just this chunk here? Then nothing has to be loaded. An error only means that it is not known.
fn same_chunk(parent: &Image, block: ByteRange, bytes: &[u8]) -> bool {
    let mut segments = 0;
    let mut found = None;
    let visited = parent.segments(block, |segment| {
        segments += 1;
        found = Some(segment);
    });
    let Some(segment) = found.filter(|_| visited.is_ok() && segments == 1) else { return false };
    // An id that is the hash of just these bytes is of a chunk that has just these bytes.
    matches!(segment.target, Target::Chunk { id, offset: 0 } if segment.range == block && ChunkId::of(bytes) == id)
}

/// Returns the runs of blocks that differ, as ranges of the image.
fn differing(block: ByteRange, new: &[u8], old: &[u8]) -> Vec<ByteRange> {
    let step = length_of(ByteRange::new(0, COMPARED_BLOCK));
    let mut changes: Vec<ByteRange> = Vec::new();
    let mut start = block.start();
    for (new, old) in new.chunks(step).zip(old.chunks(step)) {
        let range = ByteRange::new(start, new.len() as u64);
        start = range.end();
        if new == old {
            continue;
        }
        match changes.last_mut() {
            Some(last) if last.end() == range.start() => {
                *last = ByteRange::between(last.start(), range.end())
            }
            _ => changes.push(range),
        }
    }
    changes
}

/// The length of a range that lies within a buffer.
fn length_of(range: ByteRange) -> usize {
    usize::try_from(range.len()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_named() {
        let old = vec![0; 5 * 4096 + 100];
        let mut new = old.clone();
        let block = ByteRange::new(65_536, new.len() as u64);
        assert_eq!(differing(block, &new, &old), []);
        new[4096] = 1;
        new[8192] = 1;
        new[5 * 4096 + 99] = 1;
        let expected = [ByteRange::new(65_536 + 4096, 8192), ByteRange::new(65_536 + 5 * 4096, 100)];
        assert_eq!(differing(block, &new, &old), expected);
    }
}
