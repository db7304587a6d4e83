//! Replays the journal of ext3 and ext4 in memory.
//!
//! The rules are those of `fs/jbd2/recovery.c`: transactions count from the first to the last that has a commit block; of
//! each block the newest copy counts, unless the block was revoked in that transaction or a later one. Checksums are not looked at: a commit block is written
//! when the blocks before it are durable, but for the asynchronous and the fast commits, which are refused.

use std::collections::HashMap;
use std::io;

use super::bytes::{be16, be32};
use super::ext_map::BlockMap;
use crate::sysio::device::ReadAt;

const MAGIC: u32 = 0xc03b_3998;
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const SUPERBLOCK_V1: u32 = 3;
const SUPERBLOCK_V2: u32 = 4;
const REVOKE: u32 = 5;
const HEADER_BYTES: usize = 12;

const FEATURE_REVOKE: u32 = 0x1;
const FEATURE_64BIT: u32 = 0x2;
const FEATURE_CHECKSUM_V2: u32 = 0x8;
const FEATURE_CHECKSUM_V3: u32 = 0x10;
const FEATURES: u32 = FEATURE_REVOKE | FEATURE_64BIT | FEATURE_CHECKSUM_V2 | FEATURE_CHECKSUM_V3;

const TAG_ESCAPED: u16 = 0x1;
const TAG_SAME_UUID: u16 = 0x2;
const TAG_LAST: u16 = 0x8;
const UUID_BYTES: usize = 16;

/// Where the newest copy of a block is.
#[derive(Debug, Clone, Copy)]
struct Copy {
    at: u64,
    /// Its first four bytes looked like a block of the journal, and were taken out.
    escaped: bool,
}

/// What the journal holds, over the device: a device on which nothing is left to replay.
pub struct Replayed {
    block_bytes: u64,
    copies: HashMap<u64, Copy>,
}

impl Replayed {
    /// Reads the journal in a file of `size_bytes`; none when it is of a kind that is not known here.
    pub fn load(device: &dyn ReadAt, map: BlockMap, size_bytes: u64) -> io::Result<Option<Self>> {
        let block_bytes = map.block_bytes;
        let Some(journal) = Journal::load(device, map, size_bytes / block_bytes)? else { return Ok(None) };
        Ok(Some(Self { block_bytes, copies: journal.replay(device)? }))
    }

    pub fn read(&self, device: &dyn ReadAt, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let (mut position, mut rest) = (offset, into);
        while !rest.is_empty() {
            let (block, within) = (position / self.block_bytes, position % self.block_bytes);
            let copy = self.copies.get(&block);
            let blocks = if copy.is_some() { 1 } else { self.untouched_from(block, rest.len()) };
            let length = usize::try_from(blocks * self.block_bytes - within).unwrap_or(usize::MAX);
            let (part, behind) = rest.split_at_mut(length.min(rest.len()));
            match copy {
                None => device.read_exact_at(position, part)?,
                Some(copy) => {
                    device.read_exact_at(copy.at * self.block_bytes + within, part)?;
                    if copy.escaped {
                        put(part, position, block * self.block_bytes, &MAGIC.to_be_bytes());
                    }
                }
            }
            position += part.len() as u64;
            rest = behind;
        }
        Ok(())
    }

    /// Counts the blocks that the journal does not hold, as far as they are of interest.
    fn untouched_from(&self, block: u64, bytes: usize) -> u64 {
        let wanted = bytes as u64 / self.block_bytes + 2;
        let end = (block + 1..block + wanted).find(|block| self.copies.contains_key(block));
        end.unwrap_or(block + wanted) - block
    }
}

/// Puts bytes that belong at `at` into a part of the device that begins at `start`.
fn put(part: &mut [u8], start: u64, at: u64, bytes: &[u8]) {
    for (at, byte) in (at..).zip(bytes) {
        if let Some(index) = position_within(part.len(), start, at)
            && let Some(to) = part.get_mut(index)
        {
            *to = *byte;
        }
    }
}

fn position_within(length: usize, start: u64, at: u64) -> Option<usize> {
    usize::try_from(at.checked_sub(start)?).ok().filter(|index| *index < length)
}

struct Journal {
    map: BlockMap,
    /// The first block of the ring, and the one behind its last.
    first: u64,
    end: u64,
    start: u64,
    sequence: u32,
    features: u32,
}

impl Journal {
    fn load(device: &dyn ReadAt, map: BlockMap, blocks: u64) -> io::Result<Option<Self>> {
        let block = read_block(device, &map, 0)?;
        let (kind, start) = (be32(&block, 4), be32(&block, 0x1c));
        let features = be32(&block, 0x28);
        let features = if kind == SUPERBLOCK_V2 { features } else { 0 };
        let (first, end) = (u64::from(be32(&block, 0x14)), u64::from(be32(&block, 0x10)));
        let is_sound = be32(&block, 0) == MAGIC
            && matches!(kind, SUPERBLOCK_V1 | SUPERBLOCK_V2)
            && u64::from(be32(&block, 0xc)) == map.block_bytes
            && first > 0
            && first < end
            && end <= blocks
            && (u64::from(start) == 0 || (first..end).contains(&u64::from(start)));
        if !is_sound {
            let why = "the superblock of the journal contradicts itself";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        if features & !FEATURES != 0 {
            return Ok(None);
        }
        let sequence = be32(&block, 0x18);
        Ok(Some(Self { map, first, end, start: start.into(), sequence, features }))
    }

    fn next(&self, block: u64) -> u64 {
        if block + 1 < self.end { block + 1 } else { self.first }
    }

    /// Twice over the journal: what was revoked, and where it ends, is known only at its end.
    fn replay(&self, device: &dyn ReadAt) -> io::Result<HashMap<u64, Copy>> {
        let (mut revoked, mut copies) = (HashMap::new(), HashMap::new());
        if self.start == 0 {
            return Ok(copies);
        }
        let end = self.walk(
            device,
            None,
            |_, _, _| Ok(()),
            |block, sequence| {
                revoked.insert(block, sequence);
            },
        )?;
        let found = |tag: &Tag, at: u64, sequence: u32| {
            // Sequences wrap.
            let is_newer = |by: &u32| 0 < sequence.wrapping_sub(*by).cast_signed();
            if revoked.get(&tag.block).is_none_or(is_newer) {
                copies.insert(tag.block, Copy { at: place(device, &self.map, at)?, escaped: tag.escaped });
            }
            Ok(())
        };
        self.walk(device, Some(end), found, |_, _| {})?;
        Ok(copies)
    }

    /// Visits the blocks of whole transactions, and returns the sequence number behind the last one. What a transaction
    /// revoked is known when it is walked, whether it is whole or not; so is `until` for the second walk.
    fn walk(
        &self,
        device: &dyn ReadAt,
        until: Option<u32>,
        mut found: impl FnMut(&Tag, u64, u32) -> io::Result<()>,
        mut revoked: impl FnMut(u64, u32),
    ) -> io::Result<u32> {
        let (mut at, mut sequence) = (self.start, self.sequence);
        let mut pending = Vec::new();
        let mut seen = 0;
        while seen < self.end && until != Some(sequence) {
            let block = read_block(device, &self.map, at)?;
            if be32(&block, 0) != MAGIC || be32(&block, 8) != sequence {
                break;
            }
            seen += 1;
            at = self.next(at);
            match be32(&block, 4) {
                DESCRIPTOR => {
                    for tag in self.tags(&block) {
                        found(&tag, at, sequence)?;
                        seen += 1;
                        at = self.next(at);
                    }
                }
                REVOKE => pending.extend(self.revoked(&block)),
                COMMIT => {
                    for block in pending.drain(..) {
                        revoked(block, sequence);
                    }
                    sequence = sequence.wrapping_add(1);
                }
                _ => break,
            }
        }
        Ok(sequence)
    }

    fn has(&self, feature: u32) -> bool {
        self.features & feature != 0
    }

    /// Without the checksum at the end of the block.
    fn body<'a>(&self, block: &'a [u8]) -> &'a [u8] {
        let tail = if self.has(FEATURE_CHECKSUM_V2 | FEATURE_CHECKSUM_V3) { 4 } else { 0 };
        block.get(..block.len().saturating_sub(tail)).unwrap_or_default()
    }

    fn tags(&self, block: &[u8]) -> Vec<Tag> {
        let (block, is_64bit) = (self.body(block), self.has(FEATURE_64BIT));
        let tag_bytes = match (self.has(FEATURE_CHECKSUM_V3), self.has(FEATURE_CHECKSUM_V2)) {
            (true, _) => 16,
            (false, has_v2) => 8 + if is_64bit { 4 } else { 0 } + if has_v2 { 2 } else { 0 },
        };
        let (mut at, mut tags) = (HEADER_BYTES, Vec::new());
        while at + tag_bytes <= block.len() {
            let flags = be16(block, at + 6);
            let high = if is_64bit { u64::from(be32(block, at + 8)) << 32 } else { 0 };
            let number = high | u64::from(be32(block, at));
            tags.push(Tag { block: number, escaped: flags & TAG_ESCAPED != 0 });
            at += tag_bytes + if flags & TAG_SAME_UUID == 0 { UUID_BYTES } else { 0 };
            if flags & TAG_LAST != 0 {
                break;
            }
        }
        tags
    }

    fn revoked(&self, block: &[u8]) -> Vec<u64> {
        let block = self.body(block);
        let used = usize::try_from(be32(block, HEADER_BYTES)).unwrap_or(0).min(block.len());
        let entries = block.get(HEADER_BYTES + 4..used).unwrap_or_default();
        if self.has(FEATURE_64BIT) {
            let number = |entry: &[u8]| u64::from(be32(entry, 0)) << 32 | u64::from(be32(entry, 4));
            entries.chunks_exact(8).map(number).collect()
        } else {
            entries.chunks_exact(4).map(|entry| u64::from(be32(entry, 0))).collect()
        }
    }
}

/// Returns the block of the device that a block of the journal is in.
fn place(device: &dyn ReadAt, map: &BlockMap, block: u64) -> io::Result<u64> {
    map.run_at(device, block)?.start.ok_or_else(|| io::Error::other("the journal has a hole"))
}

fn read_block(device: &dyn ReadAt, map: &BlockMap, block: u64) -> io::Result<Vec<u8>> {
    let offset = place(device, map, block)?.checked_mul(map.block_bytes).ok_or(io::ErrorKind::InvalidData)?;
    let mut bytes = vec![0; usize::try_from(map.block_bytes).unwrap_or(0)];
    device.read_exact_at(offset, &mut bytes)?;
    Ok(bytes)
}

/// A block that a descriptor announces.
struct Tag {
    block: u64,
    escaped: bool,
}
