//! Replays in memory the journals that `ext4-view` does not: those without checksums, of ext3 and of every ext4 that
//! was made without `metadata_csum`.
//!
//! The rules are those of `fs/jbd2/recovery.c`: transactions count from the first to the last that has a commit block; of
//! each block the newest copy counts, unless the block was revoked in that transaction or a later one.

use std::collections::HashMap;
use std::io;

use super::device::Device;
use super::ext_map::BlockMap;
use crate::sysio::device::ReadAt;

const SUPERBLOCK: u64 = 1024;
const INCOMPAT_AT: u64 = SUPERBLOCK + 0x60;
const RECOVERY: u8 = 0x4;

const MAGIC: u32 = 0xc03b_3998;
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const SUPERBLOCK_V2: u32 = 4;
const REVOKE: u32 = 5;
const HEADER_BYTES: usize = 12;

const FEATURE_REVOKE: u32 = 0x1;
const FEATURE_64BIT: u32 = 0x2;

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
    /// Reads the journal; none when this is not a journal that is known here.
    pub fn load(device: &Device) -> io::Result<Option<Self>> {
        let Some(map) = BlockMap::of_journal(device)? else { return Ok(None) };
        let Some(journal) = Journal::load(device, map)? else { return Ok(None) };
        Ok(Some(Self { block_bytes: journal.map.block_bytes(), copies: journal.replay(device)? }))
    }

    pub fn read(&self, device: &Device, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let (mut position, mut rest) = (offset, into);
        while !rest.is_empty() {
            let (block, within) = (position / self.block_bytes, position % self.block_bytes);
            let length = usize::try_from(self.block_bytes - within).unwrap_or(usize::MAX).min(rest.len());
            let (part, behind) = rest.split_at_mut(length);
            match self.copies.get(&block) {
                None => device.read_exact_at(position, part)?,
                Some(copy) => {
                    device.read_exact_at(copy.at * self.block_bytes + within, part)?;
                    if copy.escaped {
                        put(part, position, block * self.block_bytes, &MAGIC.to_be_bytes());
                    }
                }
            }
            // So that the crate looks for nothing to replay.
            if let Some(byte) = position_within(part.len(), position, INCOMPAT_AT)
                && let Some(byte) = part.get_mut(byte)
            {
                *byte &= !RECOVERY;
            }
            position += length as u64;
            rest = behind;
        }
        Ok(())
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
    is_64bit: bool,
}

impl Journal {
    fn load(device: &Device, map: BlockMap) -> io::Result<Option<Self>> {
        let block = map.read(device, 0)?;
        let (kind, start) = (be32(&block, 4), be32(&block, 0x1c));
        let features = be32(&block, 0x28);
        let is_known = features & !(FEATURE_REVOKE | FEATURE_64BIT) == 0;
        let has_features = kind == SUPERBLOCK_V2;
        let (first, end) = (u64::from(be32(&block, 0x14)), u64::from(be32(&block, 0x10)));
        let is_sound = be32(&block, 0) == MAGIC
            && u64::from(be32(&block, 0xc)) == map.block_bytes()
            && first > 0
            && first < end
            && end <= map.blocks()
            && (u64::from(start) == 0 || (first..end).contains(&u64::from(start)));
        if !is_sound || (has_features && !is_known) {
            return Ok(None);
        }
        let is_64bit = has_features && features & FEATURE_64BIT != 0;
        let sequence = be32(&block, 0x18);
        Ok(Some(Self { map, first, end, start: start.into(), sequence, is_64bit }))
    }

    fn next(&self, block: u64) -> u64 {
        if block + 1 < self.end { block + 1 } else { self.first }
    }

    /// Twice over the journal: what was revoked, and where it ends, is known only at its end.
    fn replay(&self, device: &Device) -> io::Result<HashMap<u64, Copy>> {
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
                copies.insert(tag.block, Copy { at: self.map.place(device, at)?, escaped: tag.escaped });
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
        device: &Device,
        until: Option<u32>,
        mut found: impl FnMut(&Tag, u64, u32) -> io::Result<()>,
        mut revoked: impl FnMut(u64, u32),
    ) -> io::Result<u32> {
        let (mut at, mut sequence) = (self.start, self.sequence);
        let mut pending = Vec::new();
        let mut seen = 0;
        while seen < self.end && until != Some(sequence) {
            let block = self.map.read(device, at)?;
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

    fn tags(&self, block: &[u8]) -> Vec<Tag> {
        let tag_bytes = if self.is_64bit { 12 } else { 8 };
        let (mut at, mut tags) = (HEADER_BYTES, Vec::new());
        while at + tag_bytes <= block.len() {
            let flags = be16(block, at + 6);
            let high = if self.is_64bit { u64::from(be32(block, at + 8)) << 32 } else { 0 };
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
        let used = usize::try_from(be32(block, HEADER_BYTES)).unwrap_or(0).min(block.len());
        let entries = block.get(HEADER_BYTES + 4..used).unwrap_or_default();
        if self.is_64bit {
            let number = |entry: &[u8]| u64::from(be32(entry, 0)) << 32 | u64::from(be32(entry, 4));
            entries.chunks_exact(8).map(number).collect()
        } else {
            entries.chunks_exact(4).map(|entry| u64::from(be32(entry, 0))).collect()
        }
    }
}

/// A block that a descriptor announces.
struct Tag {
    block: u64,
    escaped: bool,
}

/// Zero where there is nothing.
fn be32(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..).and_then(|rest| rest.split_first_chunk());
    found.map_or(0, |(value, _)| u32::from_be_bytes(*value))
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    let found = bytes.get(at..).and_then(|rest| rest.split_first_chunk());
    found.map_or(0, |(value, _)| u16::from_be_bytes(*value))
}
