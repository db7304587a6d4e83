//! Finds chunks in a pack whose list of chunks is damaged or cut off. What is found is proved by its SHA-256, so that
//! guesses about where a chunk may begin cost time and nothing else.
//!
//! First each entry of the list is tried by itself: a flipped bit costs one of them. Then what lies between the chunks
//! that were found that way is read as chunks that follow each other: zstd frames say how long they are; of chunks
//! that are stored as they are, the lengths of those that are wanted are tried.

use std::collections::BTreeSet;
use std::ops::Range;

use super::StoreError;
use crate::format::codec::{self, Codec, FRAME_MAGIC};
use crate::format::header::CHUNK_SIZE_MAX;
use crate::format::pack::{self, ENTRY_LENGTH, HEAD_LENGTH, PackEntry, TAIL_LENGTH};
use crate::objects::{ObjectError, ObjectName, ObjectStore};
use crate::types::{ChunkId, PackId};

/// Four times what a pack is filled to: the whole of one is held in memory.
pub const SALVAGE_LENGTH_MAX: u64 = 4 * pack::LENGTH_TARGET;
/// So many entries in a row that cannot be ones: there begin the chunks.
const IMPLAUSIBLE_MAX: usize = 64;
/// So many times the length of the pack is hashed at most.
const HASHED_MAX: u64 = 8;
const READ_LENGTH: usize = 64 << 10;

/// Calls `found` with each wanted chunk that is whole in the pack, with its bytes. `lengths` are those that wanted
/// chunks may have.
pub fn salvage<E: From<StoreError>>(
    objects: &dyn ObjectStore,
    id: PackId,
    lengths: &[u32],
    is_wanted: impl Fn(ChunkId) -> bool,
    mut found: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let bytes = read(objects, id)?;
    let budget = HASHED_MAX * bytes.len() as u64;
    let mut pack = DamagedPack { bytes: &bytes, lengths, is_wanted: &is_wanted, budget, plain: Vec::new() };
    let mut known = Vec::new();
    for entry in pack.plausible_entries() {
        if let Some(range) = pack.entry_range(&entry).filter(|_| pack.holds(&entry)) {
            known.push(range);
            if is_wanted(entry.id) {
                found(&pack.plain)?;
            }
        }
    }
    for gap in gaps(known, bytes.len()) {
        let mut explained = gap.start;
        let mut starts = BTreeSet::from([gap.start]);
        while let Some(start) = starts.pop_first().filter(|_| pack.budget > 0) {
            let Some(rest) = bytes.get(start..gap.end).filter(|rest| !rest.is_empty()) else { continue };
            let (length, is_wanted) = pack.chunk_at(rest);
            if is_wanted {
                found(&pack.plain)?;
            }
            match length {
                Some(length) => {
                    pack.backwards(explained..start, &mut found)?;
                    explained = start + length;
                    starts = BTreeSet::from([explained]);
                }
                None => starts.extend(pack.next_starts(rest).map(|offset| start + offset)),
            }
        }
        pack.backwards(explained..gap.end, &mut found)?;
    }
    Ok(())
}

/// Reads a pack as far as it can be read; the rest is zeros.
fn read(objects: &dyn ObjectStore, id: PackId) -> Result<Vec<u8>, StoreError> {
    let name = ObjectName::Pack(id);
    let length = objects.length(name)?;
    if length > SALVAGE_LENGTH_MAX {
        return Err(ObjectError::TooLong { name, length, length_max: SALVAGE_LENGTH_MAX }.into());
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    let mut offset = 0;
    for piece in bytes.chunks_mut(READ_LENGTH) {
        if objects.read(name, offset, piece).is_err() {
            piece.fill(0);
        }
        offset += piece.len() as u64;
    }
    Ok(bytes)
}

struct DamagedPack<'a, F> {
    bytes: &'a [u8],
    lengths: &'a [u32],
    is_wanted: &'a F,
    /// Bytes that may still be hashed.
    budget: u64,
    /// The chunk that was looked at last.
    plain: Vec<u8>,
}

impl<F: Fn(ChunkId) -> bool> DamagedPack<'_, F> {
    /// Returns what may be entries, from the last one on.
    fn plausible_entries(&self) -> Vec<PackEntry> {
        let end = self.bytes.len().saturating_sub(TAIL_LENGTH);
        let mut entries = Vec::new();
        let mut implausible = 0;
        for entry in self.bytes.get(..end).unwrap_or_default().rchunks_exact(ENTRY_LENGTH) {
            let decoded = entry.first_chunk().map(|entry| pack::decode_entry(entry, end as u64));
            match decoded {
                Some(Ok(entry)) => {
                    entries.push(entry);
                    implausible = 0;
                }
                _ => implausible += 1,
            }
            if implausible > IMPLAUSIBLE_MAX {
                break;
            }
        }
        entries
    }

    fn entry_range(&self, entry: &PackEntry) -> Option<Range<usize>> {
        let start = entry.offset as usize;
        let range = start..start.checked_add(entry.stored_length as usize)?;
        self.bytes.get(range.clone()).map(|_| range)
    }

    /// Is the chunk where the entry says?
    fn holds(&mut self, entry: &PackEntry) -> bool {
        let Some(stored) = self.entry_range(entry).and_then(|range| self.bytes.get(range)) else {
            return false;
        };
        // A wrong length would use up what may be hashed.
        let declared = match entry.codec {
            Codec::Zstd => codec::frame_at(stored).map(|(_, plain_length)| plain_length),
            Codec::Raw => Some(entry.stored_length.into()),
        };
        if declared != Some(entry.plain_length.into()) || !self.spend(entry.plain_length.into()) {
            return false;
        }
        self.plain.resize(entry.plain_length as usize, 0);
        codec::decompress(entry.codec, stored, &mut self.plain).is_ok()
            && ChunkId::of(&self.plain) == entry.id
    }

    /// Looks for a chunk at the start of these bytes: how long it is as it is stored, and whether it is wanted.
    fn chunk_at(&mut self, bytes: &[u8]) -> (Option<usize>, bool) {
        if let Some((length, plain_length)) = codec::frame_at(bytes)
            && plain_length <= CHUNK_SIZE_MAX
            && self.spend(plain_length)
            && let Some(frame) = bytes.get(..length)
        {
            self.plain.resize(usize::try_from(plain_length).unwrap_or(usize::MAX), 0);
            if codec::decompress(Codec::Zstd, frame, &mut self.plain).is_ok() {
                return (Some(length), (self.is_wanted)(ChunkId::of(&self.plain)));
            }
        }
        for length in self.lengths {
            let Some(raw) = bytes.get(..*length as usize) else { continue };
            if self.spend((*length).into()) && (self.is_wanted)(ChunkId::of(raw)) {
                self.plain.clear();
                self.plain.extend_from_slice(raw);
                return (Some(raw.len()), true);
            }
        }
        (None, false)
    }

    /// Looks for chunks stored as they are that end where the range ends, one before the other: where the first one begins is
    /// not known behind a damaged frame.
    fn backwards<E>(
        &mut self,
        range: Range<usize>,
        found: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut end = range.end;
        'chunks: loop {
            for length in self.lengths {
                let start = end.checked_sub(*length as usize).filter(|start| *start >= range.start);
                let Some(raw) = start.and_then(|start| self.bytes.get(start..end)) else { continue };
                if !raw.is_empty() && self.spend((*length).into()) && (self.is_wanted)(ChunkId::of(raw)) {
                    found(raw)?;
                    end -= raw.len();
                    continue 'chunks;
                }
            }
            return Ok(());
        }
    }

    /// Returns where the next chunk may begin when none was found at the start of these bytes.
    fn next_starts(&self, bytes: &[u8]) -> impl Iterator<Item = usize> {
        let is_frame = |window: &[u8]| window == FRAME_MAGIC.as_slice();
        let behind = bytes.get(1..).unwrap_or_default();
        let frame = behind.windows(FRAME_MAGIC.len()).position(is_frame).map(|offset| offset + 1);
        frame.into_iter().chain(self.lengths.iter().map(|length| *length as usize))
    }

    fn spend(&mut self, bytes: u64) -> bool {
        let is_there = self.budget >= bytes;
        self.budget = self.budget.saturating_sub(bytes.max(1));
        is_there
    }
}

/// Returns what lies between the chunks that are known, behind the head of the pack.
fn gaps(mut known: Vec<Range<usize>>, end: usize) -> Vec<Range<usize>> {
    known.sort_unstable_by_key(|range| range.start);
    let mut gaps = Vec::new();
    let mut from = HEAD_LENGTH as usize;
    for range in known {
        if from < range.start {
            gaps.push(from..range.start);
        }
        from = from.max(range.end);
    }
    if from < end {
        gaps.push(from..end);
    }
    gaps
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::format::codec::Compression;
    use crate::objects::DirectoryStore;

    /// A pack of chunks that shrink and chunks that do not, by turns.
    fn pack(chunks: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = pack::encode_head().to_vec();
        let mut entries = Vec::new();
        for plain in chunks {
            let mut stored = Vec::new();
            let codec = codec::compress(Compression::Zstd { level: 1 }, plain, &mut stored);
            entries.push(PackEntry {
                id: ChunkId::of(plain),
                offset: bytes.len() as u32,
                stored_length: stored.len() as u32,
                plain_length: plain.len() as u32,
                codec,
            });
            bytes.extend_from_slice(&stored);
        }
        let footer = pack::encode_footer(&entries, bytes.len() as u64);
        bytes.extend_from_slice(&footer);
        bytes
    }

    fn chunks() -> Vec<Vec<u8>> {
        let mut state = 7_u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_le_bytes()[7]
        };
        let plain = |n: u8| vec![n; 4000 + usize::from(n)];
        (0..12).map(|n| if n % 3 == 0 { plain(n) } else { (0..4096).map(|_| noise()).collect() }).collect()
    }

    fn salvaged(bytes: &[u8], wanted: &[Vec<u8>]) -> HashSet<ChunkId> {
        let folder = tempfile::tempdir().unwrap();
        let objects: &dyn ObjectStore = &DirectoryStore::create(folder.path()).unwrap();
        let id = PackId::random();
        objects.put(ObjectName::Pack(id), bytes).unwrap();
        let wanted: HashSet<ChunkId> = wanted.iter().map(|plain| ChunkId::of(plain)).collect();
        let mut found = HashSet::new();
        let is_wanted = |id: ChunkId| wanted.contains(&id);
        salvage(objects, id, &[4096], is_wanted, |plain| {
            found.insert(ChunkId::of(plain));
            Ok::<_, StoreError>(())
        })
        .unwrap();
        assert!(found.is_subset(&wanted));
        found
    }

    #[test]
    fn a_flipped_bit_in_the_list_costs_no_chunk() {
        let (chunks, whole) = (chunks(), pack(&chunks()));
        for position in (whole.len() - 64 - 12 * 48..whole.len()).step_by(7) {
            let mut bytes = whole.clone();
            bytes[position] ^= 4;
            let found = salvaged(&bytes, &chunks);
            let lost: Vec<usize> =
                (0..12).filter(|number| !found.contains(&ChunkId::of(&chunks[*number]))).collect();
            assert_eq!(lost, [0; 0], "byte {position} of {}", whole.len());
        }
    }

    #[test]
    fn a_cut_costs_what_is_cut_off() {
        let (chunks, whole) = (chunks(), pack(&chunks()));
        let end = whole.len() - 64 - 12 * 48;
        assert_eq!(salvaged(&whole[..end], &chunks).len(), 12);
        assert_eq!(salvaged(&whole[..end + 100], &chunks).len(), 12);
        assert_eq!(salvaged(&whole[..end - 1], &chunks).len(), 11);
        assert_eq!(salvaged(&whole[..10], &chunks).len(), 0);
    }

    #[test]
    fn without_the_list_a_damaged_chunk_costs_itself() {
        let (chunks, whole) = (chunks(), pack(&chunks()));
        let end = whole.len() - 64 - 12 * 48;
        for position in [20, 3000, end / 2, end - 5] {
            let mut bytes = whole[..end].to_vec();
            bytes[position] ^= 4;
            assert_eq!(salvaged(&bytes, &chunks).len(), 11, "byte {position}");
        }
    }
}
