//! A bucket: the chunks whose ids start with the same 16 bits, 46 bytes each, in the order they were added.
//!
//! `rest of the id [30], pack number u32, offset u32, stored length u32, plain length u24, codec u8`

use crate::format::codec::Codec;
use crate::format::header::CHUNK_SIZE_MAX;
use crate::format::pack::PackEntry;
use crate::types::{ChunkId, PackId};

const KEY_LENGTH: usize = 2;
const REST_LENGTH: usize = 32 - KEY_LENGTH;
const ENTRY_LENGTH: usize = REST_LENGTH + 16;

/// Where a chunk is, and how it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkPlace {
    pub pack: PackId,
    pub offset: u32,
    pub stored_length: u32,
    pub plain_length: u32,
    pub codec: Codec,
}

/// Stands for a pack in this index only; given out once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) struct PackNumber(pub(super) u32);

impl PackNumber {
    pub(super) fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

pub(super) struct BucketEntry {
    id: ChunkId,
    pub(super) pack: PackNumber,
    offset: u32,
    stored_length: u32,
    plain_length: u32,
    codec: Codec,
}

impl BucketEntry {
    pub(super) fn new(pack: PackNumber, entry: &PackEntry) -> Self {
        let PackEntry { id, offset, stored_length, plain_length, codec } = *entry;
        Self { id, pack, offset, stored_length, plain_length, codec }
    }

    pub(super) fn place(&self, pack: PackId) -> ChunkPlace {
        let Self { offset, stored_length, plain_length, codec, .. } = *self;
        ChunkPlace { pack, offset, stored_length, plain_length, codec }
    }

    pub(super) fn key(&self) -> [u8; KEY_LENGTH] {
        key_of(self.id)
    }

    pub(super) fn encode(&self) -> [u8; ENTRY_LENGTH] {
        let (_, rest) = self.id.as_bytes().split_at(KEY_LENGTH);
        // Chunks are at most 4 MiB long, so the top byte of the plain length is free.
        let length_and_codec = self.plain_length | u32::from(self.codec as u8) << 24;
        let mut bytes = [0; ENTRY_LENGTH];
        let (id, numbers) = bytes.split_at_mut(REST_LENGTH);
        id.copy_from_slice(rest);
        let values = [self.pack.0, self.offset, self.stored_length, length_and_codec];
        for (into, value) in numbers.chunks_exact_mut(4).zip(values) {
            into.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    fn decode(id: ChunkId, entry: &[u8; ENTRY_LENGTH]) -> Option<Self> {
        let (_, numbers) = entry.split_at(REST_LENGTH);
        let mut values = [0; 4];
        for (value, bytes) in values.iter_mut().zip(numbers.as_chunks::<4>().0) {
            *value = u32::from_le_bytes(*bytes);
        }
        let [pack, offset, stored_length, length_and_codec] = values;
        let codec = Codec::from_byte(length_and_codec.to_le_bytes()[3])?;
        let plain_length = length_and_codec & 0x00ff_ffff;
        // Readers take so much memory before they see a byte, and the index may lie where others write.
        if u64::from(plain_length) > CHUNK_SIZE_MAX || stored_length > plain_length {
            return None;
        }
        Some(Self { id, pack: PackNumber(pack), offset, stored_length, plain_length, codec })
    }
}

pub(super) fn key_of(id: ChunkId) -> [u8; KEY_LENGTH] {
    let [first, second, ..] = *id.as_bytes();
    [first, second]
}

/// Returns whether just this entry is in its bucket.
pub(super) fn holds(bucket: &[u8], entry: &BucketEntry) -> bool {
    bucket.as_chunks::<ENTRY_LENGTH>().0.contains(&entry.encode())
}

/// Returns a bucket without the entries of packs that are not known.
pub(super) fn retain(bucket: &[u8], is_known: impl Fn(PackNumber) -> bool) -> Vec<u8> {
    let entries = bucket.as_chunks::<ENTRY_LENGTH>().0.iter();
    entries.filter(|entry| is_known(pack_of(entry))).flatten().copied().collect()
}

fn pack_of(entry: &[u8; ENTRY_LENGTH]) -> PackNumber {
    let (_, numbers) = entry.split_at(REST_LENGTH);
    PackNumber(numbers.first_chunk().map_or(u32::MAX, |bytes| u32::from_le_bytes(*bytes)))
}

/// Returns the entries of one chunk in its bucket. What cannot be read is passed over: the bytes of a chunk are
/// checked in the end, wherever they come from.
pub(super) fn find(bucket: &[u8], id: ChunkId) -> impl Iterator<Item = BucketEntry> + '_ {
    let entries = bucket.as_chunks::<ENTRY_LENGTH>().0.iter();
    entries
        .filter(move |entry| id.as_bytes().get(KEY_LENGTH..) == entry.get(..REST_LENGTH))
        .filter_map(move |entry| BucketEntry::decode(id, entry))
}
