//! A pack: chunks one behind the other, and a footer that lists them.
//!
//! ```text
//! head    16  magic "AMBRPACK", version u16, zeros
//! chunks   *  stored bytes, in the order they were added
//! entries 48n id [32], offset u32, stored length u32, plain length u32, codec u8, zeros [3]
//! tail    64  magic "AMBRPEND", version u16, zeros u16, entry count u32, length of the chunks u64, zeros u64,
//!             SHA-256 of the entries and of the tail before it [32]
//! ```
//!
//! The tail is at the end so that a pack can be written streaming, and read backwards with two reads.

use super::FormatError;
use super::bytes::{Cursor, sha256};
use super::codec::Codec;
use super::header::CHUNK_SIZE_MAX;
use crate::types::ChunkId;

const WHAT: &str = "pack";
const VERSION: u16 = 1;
const HEAD_MAGIC: &[u8; 8] = b"AMBRPACK";
const TAIL_MAGIC: &[u8; 8] = b"AMBRPEND";

pub const HEAD_LENGTH: u64 = 16;
pub const ENTRY_LENGTH: usize = 48;
pub const TAIL_LENGTH: usize = 64;

/// A pack is closed when its chunks reach this; offsets then fit into 32 bits with room to spare.
pub const LENGTH_TARGET: u64 = 32 << 20;
/// More entries than a full pack of the smallest chunks can have: a bound for the memory of a decode.
const ENTRY_COUNT_MAX: u32 = 1 << 20;

/// One chunk in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackEntry {
    pub id: ChunkId,
    /// From the start of the pack.
    pub offset: u32,
    pub stored_length: u32,
    pub plain_length: u32,
    pub codec: Codec,
}

/// Returns the first bytes of a pack.
pub fn encode_head() -> [u8; HEAD_LENGTH as usize] {
    let mut head = [0; HEAD_LENGTH as usize];
    let (magic, rest) = head.split_at_mut(8);
    magic.copy_from_slice(HEAD_MAGIC);
    let (version, _) = rest.split_at_mut(2);
    version.copy_from_slice(&VERSION.to_le_bytes());
    head
}

/// Returns what stands behind the chunks of a pack: the entries and the tail.
pub fn encode_footer(entries: &[PackEntry], chunks_end: u64) -> Vec<u8> {
    let mut footer = Vec::with_capacity(entries.len() * ENTRY_LENGTH + TAIL_LENGTH);
    for entry in entries {
        footer.extend_from_slice(entry.id.as_bytes());
        footer.extend_from_slice(&entry.offset.to_le_bytes());
        footer.extend_from_slice(&entry.stored_length.to_le_bytes());
        footer.extend_from_slice(&entry.plain_length.to_le_bytes());
        footer.extend_from_slice(&[entry.codec as u8, 0, 0, 0]);
    }
    footer.extend_from_slice(TAIL_MAGIC);
    footer.extend_from_slice(&VERSION.to_le_bytes());
    footer.extend_from_slice(&[0; 2]);
    footer.extend_from_slice(&u32::try_from(entries.len()).unwrap_or(u32::MAX).to_le_bytes());
    footer.extend_from_slice(&chunks_end.to_le_bytes());
    footer.extend_from_slice(&[0; 8]);
    let digest = sha256(&footer);
    footer.extend_from_slice(&digest);
    footer
}

/// The last [`TAIL_LENGTH`] bytes of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackTail {
    entry_count: u32,
    chunks_end: u64,
}

impl PackTail {
    /// Reads a tail of a pack of this length; its checksum is checked with the entries.
    pub fn decode(tail: &[u8], pack_length: u64) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(tail, WHAT);
        if &cursor.array()? != TAIL_MAGIC {
            return Err(FormatError::WrongMagic { wanted: "a whole pack" });
        }
        let version = cursor.u16()?;
        if version != VERSION {
            let found = u32::from(version);
            return Err(FormatError::UnsupportedVersion { what: WHAT, found, newest_known: VERSION.into() });
        }
        cursor.u16()?;
        let tail = Self { entry_count: cursor.u32()?, chunks_end: cursor.u64()? };
        let footer_length = tail.footer_length();
        if tail.entry_count > ENTRY_COUNT_MAX
            || tail.chunks_end.checked_add(footer_length) != Some(pack_length)
        {
            return Err(FormatError::malformed(WHAT, "its lengths do not add up"));
        }
        Ok(tail)
    }

    /// Where the entries start.
    pub fn chunks_end(self) -> u64 {
        self.chunks_end
    }

    /// Bytes of the entries and the tail.
    pub fn footer_length(self) -> u64 {
        u64::from(self.entry_count) * ENTRY_LENGTH as u64 + TAIL_LENGTH as u64
    }
}

/// Reads the entries and the tail, the bytes from `tail.chunks_end()` on.
pub fn decode_footer(tail: PackTail, footer: &[u8]) -> Result<Vec<PackEntry>, FormatError> {
    let (checked, digest) = footer.split_last_chunk::<32>().ok_or(FormatError::TooShort { what: WHAT })?;
    if footer.len() as u64 != tail.footer_length() || sha256(checked) != *digest {
        return Err(FormatError::Checksum { what: WHAT });
    }
    let mut cursor = Cursor::new(checked, WHAT);
    let mut entries = Vec::with_capacity(tail.entry_count as usize);
    for _ in 0..tail.entry_count {
        entries.push(take_entry(&mut cursor, tail.chunks_end)?);
    }
    Ok(entries)
}

/// Reads one entry of a list whose checksum is wrong, so that nothing of it is to be believed; the chunks of the pack
/// end below `chunks_end`.
pub fn decode_entry(entry: &[u8; ENTRY_LENGTH], chunks_end: u64) -> Result<PackEntry, FormatError> {
    take_entry(&mut Cursor::new(entry, WHAT), chunks_end)
}

fn take_entry(cursor: &mut Cursor<'_>, chunks_end: u64) -> Result<PackEntry, FormatError> {
    let id = ChunkId::from_bytes(cursor.array()?);
    let (offset, stored_length, plain_length) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
    let codec = cursor.u8()?;
    cursor.array::<3>()?;
    let codec = Codec::from_byte(codec)
        .ok_or_else(|| FormatError::malformed(WHAT, format!("chunk {id} has the unknown codec {codec}")))?;
    let end = u64::from(offset) + u64::from(stored_length);
    if u64::from(offset) < HEAD_LENGTH
        || end > chunks_end
        || u64::from(plain_length) > CHUNK_SIZE_MAX
        // What does not shrink is stored as it is. Readers take memory for what is stored, too.
        || stored_length > plain_length
    {
        return Err(FormatError::malformed(
            WHAT,
            format!("chunk {id} is not within the pack, or longer than a chunk can be"),
        ));
    }
    Ok(PackEntry { id, offset, stored_length, plain_length, codec })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<PackEntry> {
        (0..3)
            .map(|n| PackEntry {
                id: ChunkId::of(&[n]),
                offset: 16 + u32::from(n) * 10,
                stored_length: 10,
                plain_length: 20,
                codec: if n == 1 { Codec::Raw } else { Codec::Zstd },
            })
            .collect()
    }

    fn decode(footer: &[u8], pack_length: u64) -> Result<Vec<PackEntry>, FormatError> {
        let tail = footer.last_chunk::<TAIL_LENGTH>().ok_or(FormatError::TooShort { what: WHAT })?;
        decode_footer(PackTail::decode(tail, pack_length)?, footer)
    }

    #[test]
    fn a_footer_is_read_back_and_any_changed_byte_is_noticed() {
        let footer = encode_footer(&entries(), 46);
        let pack_length = 46 + footer.len() as u64;
        assert_eq!(decode(&footer, pack_length).unwrap(), entries());
        for position in 0..footer.len() {
            let mut bytes = footer.clone();
            bytes[position] ^= 1;
            assert!(decode(&bytes, pack_length).is_err(), "byte {position}");
        }
        assert!(decode(&footer, pack_length - 1).is_err());
    }

    #[test]
    fn an_entry_outside_the_pack_is_refused() {
        let footer = encode_footer(&entries(), 45);
        assert!(decode(&footer, 45 + footer.len() as u64).is_err());
    }
}
