//! Where the blocks of a journal are: the few structures of ext2, ext3 and ext4 that lead there.

use std::io;

use super::device::Device;
use crate::sysio::device::ReadAt;

const SUPERBLOCK: u64 = 1024;
const SUPERBLOCK_BYTES: usize = 1024;
const MAGIC: u16 = 0xef53;
const INCOMPAT_64BIT: u32 = 0x80;
const EXTENTS_FLAG: u32 = 0x8_0000;
const EXTENT_MAGIC: u16 = 0xf30a;
const EXTENT_DEPTH_MAX: u16 = 5;
/// 40 GiB of the smallest blocks: the longest journal that mke2fs makes.
const JOURNAL_BLOCKS_MAX: u64 = 40 << 20;
/// Blocks that an inode names itself.
const DIRECT: u64 = 12;

/// The blocks of the journal's inode, looked up one by one.
pub struct BlockMap {
    block_bytes: u64,
    blocks: u64,
    /// `i_block` of the inode.
    root: Vec<u8>,
    has_extents: bool,
}

impl BlockMap {
    /// None when the journal is elsewhere, or the structures make no sense.
    pub fn of_journal(device: &Device) -> io::Result<Option<Self>> {
        let superblock = read(device, SUPERBLOCK, SUPERBLOCK_BYTES)?;
        let log = le32(&superblock, 0x18);
        if le16(&superblock, 0x38) != MAGIC || log > 6 {
            return Ok(None);
        }
        let block_bytes = 1024_u64 << log;
        let number = u64::from(le32(&superblock, 0xe0));
        if number == 0 || number > u64::from(le32(&superblock, 0x28)) {
            return Ok(None);
        }
        let descriptor = (u64::from(le32(&superblock, 0x14)) + 1) * block_bytes;
        let descriptor = read(device, descriptor, 64)?;
        let is_64bit = le32(&superblock, 0x60) & INCOMPAT_64BIT != 0;
        let high = if is_64bit { u64::from(le32(&descriptor, 0x28)) << 32 } else { 0 };
        let table = high | u64::from(le32(&descriptor, 8));
        let inode_bytes = if le32(&superblock, 0x4c) == 0 { 128 } else { u64::from(le16(&superblock, 0x58)) };
        let place = table.checked_mul(block_bytes).and_then(|at| at.checked_add((number - 1) * inode_bytes));
        let inode = read(device, place.ok_or(io::ErrorKind::InvalidData)?, 128)?;
        let size = u64::from(le32(&inode, 0x6c)) << 32 | u64::from(le32(&inode, 4));
        Ok(Some(Self {
            block_bytes,
            blocks: (size / block_bytes).min(JOURNAL_BLOCKS_MAX),
            root: inode.get(0x28..0x64).unwrap_or_default().to_vec(),
            has_extents: le32(&inode, 0x20) & EXTENTS_FLAG != 0,
        }))
    }

    pub fn block_bytes(&self) -> u64 {
        self.block_bytes
    }

    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Reads a block of the journal.
    pub fn read(&self, device: &Device, block: u64) -> io::Result<Vec<u8>> {
        self.read_block(device, self.place(device, block)?)
    }

    /// Returns the block of the device that a block of the journal is in.
    pub fn place(&self, device: &Device, block: u64) -> io::Result<u64> {
        let place =
            if self.has_extents { self.by_extents(device, block) } else { self.by_pointers(device, block) };
        place?.filter(|place| *place != 0).ok_or_else(|| io::Error::other("the journal has a hole"))
    }

    fn read_block(&self, device: &Device, block: u64) -> io::Result<Vec<u8>> {
        let offset = block.checked_mul(self.block_bytes).ok_or(io::ErrorKind::InvalidData)?;
        read(device, offset, usize::try_from(self.block_bytes).unwrap_or(0))
    }

    fn by_extents(&self, device: &Device, block: u64) -> io::Result<Option<u64>> {
        let mut node = self.root.clone();
        for _ in 0..=EXTENT_DEPTH_MAX {
            if le16(&node, 0) != EXTENT_MAGIC {
                break;
            }
            let (count, depth) = (usize::from(le16(&node, 2)), le16(&node, 6));
            // The last that does not begin behind the block.
            let entries = node.get(12..).unwrap_or_default().chunks_exact(12).take(count);
            let Some(entry) = entries.take_while(|entry| u64::from(le32(entry, 0)) <= block).last() else {
                break;
            };
            if depth == 0 {
                let start = u64::from(le16(entry, 6)) << 32 | u64::from(le32(entry, 8));
                let within = block - u64::from(le32(entry, 0));
                return Ok((within < u64::from(le16(entry, 4))).then_some(start + within));
            }
            let child = u64::from(le16(entry, 8)) << 32 | u64::from(le32(entry, 4));
            node = self.read_block(device, child)?;
        }
        Ok(None)
    }

    fn by_pointers(&self, device: &Device, block: u64) -> io::Result<Option<u64>> {
        let index = |number: u64| usize::try_from(number).unwrap_or(usize::MAX).saturating_mul(4);
        if block < DIRECT {
            return Ok(Some(u64::from(le32(&self.root, index(block)))));
        }
        let fanout = self.block_bytes / 4;
        let (mut rest, mut covered) = (block - DIRECT, fanout);
        for level in 0..3 {
            if rest >= covered {
                rest -= covered;
                covered = covered.saturating_mul(fanout);
                continue;
            }
            let mut place = u64::from(le32(&self.root, index(DIRECT + level)));
            while covered > 1 && place != 0 {
                covered /= fanout;
                place = u64::from(le32(&self.read_block(device, place)?, index(rest / covered)));
                rest %= covered;
            }
            return Ok(Some(place));
        }
        Ok(None)
    }
}

fn read(device: &Device, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    device.read_exact_at(offset, &mut bytes)?;
    Ok(bytes)
}

/// Zero where there is nothing.
fn le32(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..).and_then(|rest| rest.split_first_chunk());
    found.map_or(0, |(value, _)| u32::from_le_bytes(*value))
}

fn le16(bytes: &[u8], at: usize) -> u16 {
    let found = bytes.get(at..).and_then(|rest| rest.split_first_chunk());
    found.map_or(0, |(value, _)| u16::from_le_bytes(*value))
}
