//! Packs with damage in them.
#![allow(clippy::disallowed_methods, reason = "files are damaged on purpose")]
#![allow(clippy::indexing_slicing, reason = "a failed expectation is a failed test")]

use std::path::Path;

use amberfs::format::pack::{PackTail, TAIL_LENGTH, decode_footer};
use amberfs::types::ChunkId;

/// Damages the chunk with these bytes in a pack.
pub fn flip_chunk(pack: &Path, plain: &[u8]) {
    let bytes = std::fs::read(pack).unwrap();
    let tail = PackTail::decode(bytes.last_chunk::<TAIL_LENGTH>().unwrap(), bytes.len() as u64).unwrap();
    let entries = decode_footer(tail, &bytes[usize::try_from(tail.chunks_end()).unwrap()..]).unwrap();
    let entry = entries.iter().find(|entry| entry.id == ChunkId::of(plain)).unwrap();
    let mut bytes = bytes;
    bytes[entry.offset as usize + entry.stored_length as usize / 2] ^= 0x10;
    // In place, as a disk does it: whoever has the file open sees it.
    std::fs::write(pack, bytes).unwrap();
}
