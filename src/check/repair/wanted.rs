//! Chunks that are needed and not there, and where in which images their bytes are.

use std::collections::{BTreeSet, HashMap};

use crate::format::manifest::{ManifestExtent, Target};
use crate::types::{ByteRange, ChunkId, ManifestId};

/// So many chunks are repaired in one run, and so many places of them are remembered: about 400 MB at most.
const CHUNKS_MAX: usize = 1 << 20;
const PIECES_MAX: usize = 4 << 20;
/// The same bytes of a chunk may be in many places: so many of them are tried.
const SAME_BYTES_MAX: usize = 8;
/// So many lengths of chunks are tried where their lengths are not known.
const LENGTHS_MAX: usize = 16;

/// A part of a chunk, and where it is in the image of the backup that has the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) manifest: ManifestId,
    pub(super) range: ByteRange,
    /// In the chunk.
    pub(super) offset: u32,
}

impl Piece {
    fn end(&self) -> u64 {
        u64::from(self.offset) + self.range.len()
    }
}

pub(super) struct Wanted {
    pieces: HashMap<ChunkId, Vec<Piece>>,
    piece_count: usize,
    chunk_size: u32,
    /// There are more than one run can take.
    pub(super) is_cut: bool,
}

impl Wanted {
    pub(super) fn new(chunk_size: u64) -> Self {
        let chunk_size = u32::try_from(chunk_size).unwrap_or(u32::MAX);
        Self { pieces: HashMap::new(), piece_count: 0, chunk_size, is_cut: false }
    }

    pub(super) fn add(&mut self, manifest: ManifestId, extent: &ManifestExtent) {
        let Target::Chunk { id, offset } = extent.target else { return };
        if self.piece_count >= PIECES_MAX
            || (self.pieces.len() >= CHUNKS_MAX && !self.pieces.contains_key(&id))
        {
            self.is_cut = true;
            return;
        }
        let pieces = self.pieces.entry(id).or_default();
        if pieces.iter().filter(|piece| piece.offset == offset).count() < SAME_BYTES_MAX {
            pieces.push(Piece { manifest, range: extent.range, offset });
            self.piece_count += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(super) fn contains(&self, id: ChunkId) -> bool {
        self.pieces.contains_key(&id)
    }

    pub(super) fn remove(&mut self, id: ChunkId) {
        self.pieces.remove(&id);
    }

    pub(super) fn ids(&self) -> Vec<ChunkId> {
        self.pieces.keys().copied().collect()
    }

    pub(super) fn pieces(&self, id: ChunkId) -> &[Piece] {
        self.pieces.get(&id).map_or(&[], Vec::as_slice)
    }

    /// Returns lengths that wanted chunks have, the usual ones first.
    pub(super) fn lengths(&self) -> Vec<u32> {
        let mut counts: HashMap<u32, usize> = HashMap::from([(self.chunk_size, usize::MAX / 2)]);
        for pieces in self.pieces.values() {
            let end = pieces.iter().map(Piece::end).max().unwrap_or(0);
            *counts.entry(u32::try_from(end).unwrap_or(u32::MAX)).or_default() += 1;
        }
        let by_count: BTreeSet<(usize, u32)> =
            counts.into_iter().map(|(length, count)| (count, length)).collect();
        by_count.into_iter().rev().map(|(_, length)| length).take(LENGTHS_MAX).collect()
    }
}

/// Chooses pieces that give a whole chunk, each byte once, in the order of the chunk; nothing when some of it is
/// missing.
pub(super) fn put_together(pieces: impl Iterator<Item = Piece>) -> Option<Vec<ByteRange>> {
    let mut pieces: Vec<Piece> = pieces.collect();
    pieces.sort_by_key(|piece| (piece.offset, std::cmp::Reverse(piece.end())));
    let end = pieces.iter().map(Piece::end).max()?;
    let (mut ranges, mut covered) = (Vec::new(), 0);
    for piece in pieces {
        let offset = u64::from(piece.offset);
        if offset > covered {
            return None;
        }
        if piece.end() > covered {
            let start = piece.range.start() + (covered - offset);
            ranges.push(ByteRange::between(start, piece.range.end()));
            covered = piece.end();
        }
    }
    (covered == end).then_some(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(offset: u32, start: u64, length: u64) -> Piece {
        Piece { manifest: ManifestId::from_bytes([0; 16]), range: ByteRange::new(start, length), offset }
    }

    #[test]
    fn pieces_give_each_byte_of_a_chunk_once() {
        let pieces = [piece(512, 9000, 512), piece(0, 100, 512), piece(256, 7000, 300), piece(0, 5000, 100)];
        let ranges = put_together(pieces.into_iter()).unwrap();
        let expected = [ByteRange::new(100, 512), ByteRange::new(7256, 44), ByteRange::new(9044, 468)];
        assert_eq!(ranges, expected);
        assert_eq!(put_together([piece(0, 0, 10), piece(11, 20, 10)].into_iter()), None);
        assert_eq!(put_together([piece(5, 0, 10)].into_iter()), None);
        assert_eq!(put_together([].into_iter()), None);
    }
}
