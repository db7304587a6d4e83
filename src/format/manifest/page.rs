//! A leaf page: extents in image order, and the ids of the chunks that they name.
//!
//! ```text
//! extent count u32, id count u32, length of the packed extents u32, their length unpacked u32
//! ids [32] each
//! packed extents: zstd, or as they are when that is no longer; for each extent, as LEB128 numbers:
//!     bytes between the end of the extent before (of the page's first: from offset 0) and its start
//!     length
//!     0 for zeros, else 1 + the number of its chunk's id in this page
//!     for a chunk: offset in the chunk
//! ```

use super::super::FormatError;
use super::super::bytes::{Cursor, put_varint};
use super::super::codec::{self, Codec, Compression};
use super::super::header::CHUNK_SIZE_MAX;
use super::WHAT;
use crate::types::{ByteRange, ChunkId};

/// 64 MiB of an image in chunks of 64 KiB, about 35 KiB of page.
pub const EXTENTS_PER_LEAF: usize = 1024;

/// Four numbers of at most ten bytes.
const EXTENT_LENGTH_MAX: usize = 40;

/// Where the bytes of an extent come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Zero,
    Chunk { id: ChunkId, offset: u32 },
}

/// A run of bytes of the image. A chunk's run lies within the chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestExtent {
    pub range: ByteRange,
    pub target: Target,
}

impl ManifestExtent {
    /// Does another extent go on just where this one ends, in the image and in the chunk? Then both are one.
    pub fn is_continued_by(&self, next: &Self) -> bool {
        if self.range.end() != next.range.start() {
            return false;
        }
        match (self.target, next.target) {
            (Target::Zero, Target::Zero) => true,
            (Target::Chunk { id, offset }, Target::Chunk { id: next_id, offset: next_offset }) => {
                id == next_id && u64::from(offset) + self.range.len() == u64::from(next_offset)
            }
            _ => false,
        }
    }
}

/// The extents of one page, ascending, without overlaps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leaf {
    pub extents: Vec<ManifestExtent>,
}

impl Leaf {
    /// Returns the extents that meet a range.
    pub fn overlapping(&self, range: ByteRange) -> &[ManifestExtent] {
        let first = self.extents.partition_point(|extent| extent.range.end() <= range.start());
        let behind = self.extents.partition_point(|extent| extent.range.start() < range.end());
        self.extents.get(first..behind).unwrap_or_default()
    }
}

/// Encodes a page; the extents are ascending and do not overlap.
pub fn encode_leaf(extents: &[ManifestExtent]) -> Vec<u8> {
    let mut ids: Vec<ChunkId> = Vec::new();
    let mut plain = Vec::with_capacity(extents.len() * 8);
    let mut end = 0;
    for extent in extents {
        put_varint(&mut plain, extent.range.start() - end);
        put_varint(&mut plain, extent.range.len());
        end = extent.range.end();
        match extent.target {
            Target::Zero => put_varint(&mut plain, 0),
            Target::Chunk { id, offset } => {
                // Runs of one chunk follow each other in an incremental: looking at the last few ids finds them.
                let number = ids.iter().rposition(|known| *known == id).unwrap_or_else(|| {
                    ids.push(id);
                    ids.len() - 1
                });
                put_varint(&mut plain, number as u64 + 1);
                put_varint(&mut plain, offset.into());
            }
        }
    }
    let mut packed = Vec::new();
    codec::compress(Compression::Zstd { level: 3 }, &plain, &mut packed);
    let mut page = Vec::with_capacity(16 + ids.len() * 32 + packed.len());
    for count in [extents.len(), ids.len(), packed.len(), plain.len()] {
        page.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
    }
    ids.iter().for_each(|id| page.extend_from_slice(id.as_bytes()));
    page.extend_from_slice(&packed);
    page
}

/// Reads a page whose checksum was found right; `range` is what its reference says it spans.
pub fn decode_leaf(page: &[u8], range: ByteRange) -> Result<Leaf, FormatError> {
    let mut cursor = Cursor::new(page, WHAT);
    let (extent_count, id_count) = (cursor.u32()? as usize, cursor.u32()? as usize);
    let (packed_length, plain_length) = (cursor.u32()? as usize, cursor.u32()? as usize);
    if extent_count > EXTENTS_PER_LEAF
        || id_count > extent_count
        || plain_length > extent_count * EXTENT_LENGTH_MAX
    {
        return Err(FormatError::malformed(WHAT, "a page has more than it can hold"));
    }
    let mut ids = Vec::with_capacity(id_count);
    for _ in 0..id_count {
        ids.push(ChunkId::from_bytes(cursor.array()?));
    }
    let packed = cursor.take(packed_length)?;
    cursor.finish()?;
    let codec = if packed_length == plain_length { Codec::Raw } else { Codec::Zstd };
    let mut plain = vec![0; plain_length];
    codec::decompress(codec, packed, &mut plain)?;

    let mut cursor = Cursor::new(&plain, WHAT);
    let mut extents = Vec::with_capacity(extent_count);
    let mut end = 0_u64;
    for _ in 0..extent_count {
        let extent = decode_extent(&mut cursor, &ids, end)?;
        end = extent.range.end();
        extents.push(extent);
    }
    cursor.finish()?;
    let spanned = extents.first().map_or(0, |extent| extent.range.start());
    if ByteRange::between(spanned, end) != range {
        return Err(FormatError::malformed(WHAT, "a page spans another range than its reference says"));
    }
    Ok(Leaf { extents })
}

fn decode_extent(cursor: &mut Cursor<'_>, ids: &[ChunkId], end: u64) -> Result<ManifestExtent, FormatError> {
    let malformed = |why: &str| FormatError::malformed(WHAT, why);
    let start =
        end.checked_add(cursor.varint()?).ok_or_else(|| malformed("an extent starts beyond 64 bits"))?;
    let length = cursor.varint()?;
    if length == 0 || start.checked_add(length).is_none() {
        return Err(malformed("an extent is empty or ends beyond 64 bits"));
    }
    let range = ByteRange::new(start, length);
    let number = cursor.varint()?;
    let Some(number) = number.checked_sub(1) else {
        return Ok(ManifestExtent { range, target: Target::Zero });
    };
    let id = usize::try_from(number).ok().and_then(|number| ids.get(number));
    let id = *id.ok_or_else(|| malformed("an extent names a chunk that its page does not list"))?;
    let offset = cursor.varint()?;
    if offset.checked_add(length).is_none_or(|end| end > CHUNK_SIZE_MAX) {
        return Err(malformed("an extent reaches beyond the largest chunk"));
    }
    let offset = u32::try_from(offset).map_err(|_| malformed("an offset in a chunk is too large"))?;
    Ok(ManifestExtent { range, target: Target::Chunk { id, offset } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extents() -> Vec<ManifestExtent> {
        let chunk = |n: u8, offset| Target::Chunk { id: ChunkId::of(&[n]), offset };
        vec![
            ManifestExtent { range: ByteRange::new(512, 512), target: chunk(1, 0) },
            ManifestExtent { range: ByteRange::new(1024, 1 << 40), target: Target::Zero },
            ManifestExtent { range: ByteRange::new(1 << 41, 4096), target: chunk(1, 512) },
            ManifestExtent { range: ByteRange::new(1 << 42, 100), target: chunk(2, 0) },
        ]
    }

    #[test]
    fn a_page_is_read_back_and_finds_what_overlaps() {
        let page = encode_leaf(&extents());
        let span = ByteRange::between(512, (1 << 42) + 100);
        let leaf = decode_leaf(&page, span).unwrap();
        assert_eq!(leaf.extents, extents());
        assert_eq!(leaf.overlapping(ByteRange::between(0, 512)), []);
        assert_eq!(leaf.overlapping(ByteRange::between(1000, 1025)), &extents()[..2]);
        assert_eq!(leaf.overlapping(ByteRange::between(1 << 42, u64::MAX)), &extents()[3..]);
        assert!(decode_leaf(&page, ByteRange::between(0, 512)).is_err());
    }

    #[test]
    fn no_bytes_make_the_decoder_panic() {
        let page = encode_leaf(&extents());
        let span = ByteRange::between(512, (1 << 42) + 100);
        for position in 0..page.len() {
            for bit in 0..8 {
                let mut bytes = page.clone();
                bytes[position] ^= 1 << bit;
                let _ = decode_leaf(&bytes, span);
            }
            assert!(decode_leaf(&page[..position], span).is_err());
        }
    }
}
