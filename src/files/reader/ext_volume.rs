//! An ext2, ext3 or ext4 as a whole: its superblock, its groups, its inodes.

use std::io;
use std::sync::Arc;

use super::bytes::{le16, le32};
use super::device::Device;
use super::ext_inode::ExtInode;
use super::ext_journal::Replayed;
use crate::files::protocol::Refusal;
use crate::sysio::device::ReadAt;

const SUPERBLOCK_AT: u64 = 1024;
const SUPERBLOCK_BYTES: usize = 1024;
const MAGIC: u16 = 0xef53;
const LOG_BLOCK_BYTES_MAX: u32 = 6;

const FEATURE_FILE_TYPE: u32 = 0x2;
const FEATURE_RECOVER: u32 = 0x4;
const FEATURE_META_BG: u32 = 0x10;
const FEATURE_64BIT: u32 = 0x80;
/// Those above; extents, multiple mount protection, flexible groups, attributes in inodes, a seed of checksums, large
/// folders, and those that only some files have: inline data, encryption, names without case.
const FEATURES: u32 = 0x3_e7d6;
const FEATURE_SPARSE_SUPER: u32 = 0x1;

pub struct ExtVolume {
    device: Arc<Device>,
    replayed: Option<Replayed>,
    pub block_bytes: u64,
    superblock: Vec<u8>,
    descriptor_bytes: u64,
    inode_bytes: u64,
}

impl ExtVolume {
    pub fn mount(device: Arc<Device>) -> Result<Self, Refusal> {
        let mut superblock = vec![0; SUPERBLOCK_BYTES];
        device.read_exact_at(SUPERBLOCK_AT, &mut superblock).map_err(Refusal::damaged)?;
        let log = le32(&superblock, 0x18);
        if le16(&superblock, 0x38) != MAGIC || log > LOG_BLOCK_BYTES_MAX {
            return Err(Refusal::damaged("there is no superblock of ext2, ext3 or ext4"));
        }
        let features = le32(&superblock, 0x60);
        if features & !FEATURES != 0 {
            return Err(Refusal::unsupported(format_args!("features {:#x}", features & !FEATURES)));
        }
        let inode_bytes = if le32(&superblock, 0x4c) == 0 { 128 } else { le16(&superblock, 0x58) };
        let descriptor_bytes = if features & FEATURE_64BIT == 0 { 32 } else { le16(&superblock, 0xfe) };
        let block_bytes = 1024_u64 << log;
        let is_sound = le32(&superblock, 0x28) > 0
            && le32(&superblock, 0x20) > 0
            && (128..=block_bytes).contains(&inode_bytes.into())
            && (32..=block_bytes).contains(&descriptor_bytes.into());
        if !is_sound {
            return Err(Refusal::damaged("the superblock contradicts itself"));
        }
        let mut volume = Self {
            device,
            replayed: None,
            block_bytes,
            superblock,
            descriptor_bytes: descriptor_bytes.into(),
            inode_bytes: inode_bytes.into(),
        };
        if volume.has(FEATURE_RECOVER) {
            volume.replay()?;
        }
        Ok(volume)
    }

    fn replay(&mut self) -> Result<(), Refusal> {
        let number = le32(&self.superblock, 0xe0);
        if number == 0 && le32(&self.superblock, 0xe4) != 0 {
            return Err(Refusal::unsupported("its journal, which is to be replayed, is on another device"));
        }
        let inode = self.inode(number)?;
        let map = inode.map(self.block_bytes);
        let replayed = Replayed::load(&*self.device, map, inode.size_bytes()).map_err(Refusal::damaged)?;
        let unknown = || Refusal::unsupported("its journal is of a kind that is not known here");
        self.replayed = Some(replayed.ok_or_else(unknown)?);
        // The superblock may be in the journal itself.
        let mut superblock = vec![0; SUPERBLOCK_BYTES];
        self.read_exact_at(SUPERBLOCK_AT, &mut superblock).map_err(Refusal::damaged)?;
        for fixed in [0x18_usize, 0x20, 0x28, 0x4c] {
            if le32(&superblock, fixed) != le32(&self.superblock, fixed) {
                return Err(Refusal::damaged("the superblock in the journal is another one"));
            }
        }
        self.superblock = superblock;
        Ok(())
    }

    pub fn inode(&self, number: u32) -> Result<ExtInode, Refusal> {
        let per_group = le32(&self.superblock, 0x28);
        let index = number.checked_sub(1).filter(|index| *index < le32(&self.superblock, 0));
        let index = index.ok_or_else(|| Refusal::damaged(format_args!("there is no inode {number}")))?;
        let table = self.inode_table(index / per_group).map_err(Refusal::damaged)?;
        let place = table
            .checked_mul(self.block_bytes)
            .and_then(|at| at.checked_add(u64::from(index % per_group) * self.inode_bytes));
        let place = place.ok_or_else(|| Refusal::damaged("a table of inodes is nowhere"))?;
        let mut bytes = vec![0; usize::try_from(self.inode_bytes).unwrap_or(0)];
        self.read_exact_at(place, &mut bytes).map_err(Refusal::damaged)?;
        Ok(ExtInode::new(number, bytes))
    }

    /// Says whether a folder says what kind of file an entry is.
    pub fn has_file_types(&self) -> bool {
        self.has(FEATURE_FILE_TYPE)
    }

    fn has(&self, feature: u32) -> bool {
        le32(&self.superblock, 0x60) & feature != 0
    }

    fn inode_table(&self, group: u32) -> io::Result<u64> {
        let per_block = self.block_bytes / self.descriptor_bytes;
        let (block, index) = (u64::from(group) / per_block, u64::from(group) % per_block);
        let first = u64::from(le32(&self.superblock, 0x14));
        let block = if self.has(FEATURE_META_BG) && block >= u64::from(le32(&self.superblock, 0x104)) {
            // With the first of the groups that it describes.
            let group = block * per_block;
            let start = group.checked_mul(u64::from(le32(&self.superblock, 0x20)));
            // With blocks of 1 KiB and clusters of several, the first group's superblock is in its second block.
            let is_shifted = group == 0 && first == 0 && self.block_bytes == SUPERBLOCK_AT;
            first
                .saturating_add(start.ok_or(io::ErrorKind::InvalidData)?)
                .saturating_add(u64::from(self.has_superblock(group)) + u64::from(is_shifted))
        } else {
            SUPERBLOCK_AT / self.block_bytes + 1 + block
        };
        let place = block.checked_mul(self.block_bytes).ok_or(io::ErrorKind::InvalidData)?;
        let mut descriptor = vec![0; usize::try_from(self.descriptor_bytes).unwrap_or(0)];
        self.read_exact_at(place.saturating_add(index * self.descriptor_bytes), &mut descriptor)?;
        let high = if self.descriptor_bytes >= 64 { u64::from(le32(&descriptor, 0x28)) } else { 0 };
        Ok(high << 32 | u64::from(le32(&descriptor, 8)))
    }

    /// With sparse superblocks: the groups 0, 1, and the powers of 3, 5 and 7.
    fn has_superblock(&self, group: u64) -> bool {
        let is_power = |base: u64| {
            std::iter::successors(Some(base), |power| power.checked_mul(base))
                .take_while(|power| *power <= group)
                .any(|power| power == group)
        };
        le32(&self.superblock, 0x64) & FEATURE_SPARSE_SUPER == 0
            || group <= 1
            || [3, 5, 7].into_iter().any(is_power)
    }
}

/// The device with the journal over it.
impl ReadAt for ExtVolume {
    fn size_bytes(&self) -> u64 {
        self.device.size_bytes()
    }

    fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        match &self.replayed {
            Some(replayed) => replayed.read(&*self.device, offset, into),
            None => self.device.read_exact_at(offset, into),
        }
    }
}
