//! References from page to page, and the tail that everything hangs from.

use super::super::FormatError;
use super::super::bytes::{Cursor, sha256};
use super::{HEAD_LENGTH, VERSION, WHAT};
use crate::types::ByteRange;

/// 64 KiB of references.
pub const REFERENCES_PER_BRANCH: usize = 1024;
/// 16 PiB in chunks of 64 KiB: a bound for the memory of whoever reads a root.
pub const ROOT_LENGTH_MAX: u64 = 16 << 20;
const REFERENCE_LENGTH: usize = 64;
/// A page of ids and packed extents, with room.
const PAGE_LENGTH_MAX: u32 = 1 << 20;

pub const TAIL_LENGTH: usize = 160;
const TAIL_MAGIC: &[u8; 8] = b"AMBRMEND";

/// Where a page is, what part of the image it spans, and what its bytes must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageReference {
    pub range: ByteRange,
    pub position: u64,
    pub length: u32,
    /// Extents, or references, in the page.
    pub count: u32,
    pub sha256: [u8; 32],
}

/// Encodes a branch or a root.
pub fn encode_references(references: &[PageReference]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(references.len() * REFERENCE_LENGTH);
    for reference in references {
        for number in [reference.range.start(), reference.range.end(), reference.position] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&reference.length.to_le_bytes());
        bytes.extend_from_slice(&reference.count.to_le_bytes());
        bytes.extend_from_slice(&reference.sha256);
    }
    bytes
}

/// Reads a branch or a root whose checksum was found right.
pub fn decode_references(bytes: &[u8]) -> Result<Vec<PageReference>, FormatError> {
    let mut cursor = Cursor::new(bytes, WHAT);
    let mut references = Vec::with_capacity(bytes.len() / REFERENCE_LENGTH);
    let mut end_before = 0;
    for _ in 0..bytes.len() / REFERENCE_LENGTH {
        let (start, end, position) = (cursor.u64()?, cursor.u64()?, cursor.u64()?);
        let (length, count, sha256) = (cursor.u32()?, cursor.u32()?, cursor.array()?);
        if start < end_before || end <= start || length > PAGE_LENGTH_MAX {
            return Err(FormatError::malformed(WHAT, "its pages are not in order or too long"));
        }
        end_before = end;
        let range = ByteRange::between(start, end);
        references.push(PageReference { range, position, length, count, sha256 });
    }
    cursor.finish()?;
    Ok(references)
}

/// Reads a branch whose checksum was found right; `range` is what its reference says it spans.
///
/// So no extent can be reached in two ways, and a walk over a manifest takes no longer than the manifest is.
pub fn decode_branch(bytes: &[u8], range: ByteRange) -> Result<Vec<PageReference>, FormatError> {
    let references = decode_references(bytes)?;
    let spanned = match (references.first(), references.last()) {
        (Some(first), Some(last)) => ByteRange::between(first.range.start(), last.range.end()),
        _ => ByteRange::new(0, 0),
    };
    if references.len() > REFERENCES_PER_BRANCH || spanned != range {
        return Err(FormatError::malformed(WHAT, "a page spans another range than its reference says"));
    }
    Ok(references)
}

/// The last [`TAIL_LENGTH`] bytes of a manifest.
///
/// ```text
/// magic "AMBRMEND", version u16, zeros [6], image size u64, extent count u64, bytes in chunks u64,
/// root place u64, root length u64, about place u64, about length u64, zeros u64,
/// SHA-256 of the root [32], SHA-256 of the about [32], first 16 bytes of the SHA-256 of the tail before them [16]
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    pub size_bytes: u64,
    pub extent_count: u64,
    /// Bytes of the image that this manifest takes from chunks.
    pub chunk_bytes: u64,
    pub root_position: u64,
    pub root_length: u64,
    pub about_position: u64,
    pub about_length: u64,
    pub root_sha256: [u8; 32],
    pub about_sha256: [u8; 32],
}

impl Tail {
    pub fn encode(&self) -> Vec<u8> {
        let mut tail = Vec::with_capacity(TAIL_LENGTH);
        tail.extend_from_slice(TAIL_MAGIC);
        tail.extend_from_slice(&VERSION.to_le_bytes());
        tail.extend_from_slice(&[0; 6]);
        for number in [
            self.size_bytes,
            self.extent_count,
            self.chunk_bytes,
            self.root_position,
            self.root_length,
            self.about_position,
            self.about_length,
            0,
        ] {
            tail.extend_from_slice(&number.to_le_bytes());
        }
        tail.extend_from_slice(&self.root_sha256);
        tail.extend_from_slice(&self.about_sha256);
        let digest = sha256(&tail);
        tail.extend_from_slice(&digest[..16]);
        tail
    }

    /// Reads the tail of a manifest of this length.
    pub fn decode(tail: &[u8], manifest_length: u64) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(tail, WHAT);
        if &cursor.array()? != TAIL_MAGIC {
            return Err(FormatError::WrongMagic { wanted: "a whole manifest" });
        }
        let version = cursor.u16()?;
        if version != VERSION {
            let found = u32::from(version);
            return Err(FormatError::UnsupportedVersion { what: WHAT, found, newest_known: VERSION.into() });
        }
        cursor.array::<6>()?;
        let mut numbers = [0; 8];
        for number in &mut numbers {
            *number = cursor.u64()?;
        }
        let [
            size_bytes,
            extent_count,
            chunk_bytes,
            root_position,
            root_length,
            about_position,
            about_length,
            _,
        ] = numbers;
        let (root_sha256, about_sha256) = (cursor.array()?, cursor.array()?);
        let digest = cursor.array::<16>()?;
        cursor.finish()?;
        let checked = tail.len().checked_sub(16).and_then(|length| tail.get(..length)).unwrap_or_default();
        if sha256(checked)[..16] != digest {
            return Err(FormatError::Checksum { what: WHAT });
        }
        let root_end = root_position.checked_add(root_length);
        let about_end = about_position.checked_add(about_length);
        if root_position < HEAD_LENGTH
            || root_length > ROOT_LENGTH_MAX
            || root_end != Some(about_position)
            || about_end.and_then(|end| end.checked_add(TAIL_LENGTH as u64)) != Some(manifest_length)
        {
            return Err(FormatError::malformed(WHAT, "its lengths do not add up"));
        }
        Ok(Self {
            size_bytes,
            extent_count,
            chunk_bytes,
            root_position,
            root_length,
            about_position,
            about_length,
            root_sha256,
            about_sha256,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_read_back_and_any_changed_byte_is_noticed() {
        let tail = Tail {
            size_bytes: 1 << 42,
            extent_count: 7,
            chunk_bytes: 1 << 30,
            root_position: 100,
            root_length: 64,
            about_position: 164,
            about_length: 10,
            root_sha256: [1; 32],
            about_sha256: [2; 32],
        };
        let bytes = tail.encode();
        assert_eq!(bytes.len(), TAIL_LENGTH);
        let manifest_length = 174 + TAIL_LENGTH as u64;
        assert_eq!(Tail::decode(&bytes, manifest_length), Ok(tail));
        assert!(Tail::decode(&bytes, manifest_length + 1).is_err());
        for position in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[position] ^= 1;
            assert!(Tail::decode(&bytes, manifest_length).is_err(), "byte {position}");
        }
    }

    #[test]
    fn references_out_of_order_are_refused() {
        let reference = |start, end| PageReference {
            range: ByteRange::between(start, end),
            position: 16,
            length: 100,
            count: 1,
            sha256: [0; 32],
        };
        let good = [reference(0, 10), reference(10, 20)];
        assert_eq!(decode_references(&encode_references(&good)).unwrap(), good);
        assert!(decode_references(&encode_references(&[good[1], good[0]])).is_err());
        assert!(decode_references(&encode_references(&good)[1..]).is_err());
        let branch = encode_references(&good);
        assert_eq!(decode_branch(&branch, ByteRange::between(0, 20)).unwrap(), good);
        for (start, end) in [(0, 10), (5, 20), (0, 21), (10, 20)] {
            assert!(decode_branch(&branch, ByteRange::between(start, end)).is_err(), "{start} to {end}");
        }
    }
}
