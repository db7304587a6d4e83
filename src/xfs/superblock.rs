//! The superblock as the kernel's `xfs_format.h` (struct xfs_dsb) has it: decoded, with every number that is used
//! checked against the others and the device.

use std::io;

use uuid::Uuid;

use crate::sysio::device::ReadAt;

use super::bytes::{be16_at, be32_at, be64_at, le32_at, put, u8_at, uuid_at};
use super::error::{Refused, XfsError};

/// The smallest sector, and the part of a superblock's sector that holds all of its fields.
pub(super) const SECTOR_BYTES: usize = 512;
const MAGIC: &[u8; 4] = b"XFSB";
pub(super) const UUID_AT: usize = 32;
pub(super) const GROUPS_AT: usize = 88;
const LABEL_AT: usize = 108;
pub(super) const IN_PROGRESS_AT: usize = 126;
const INCOMPAT_AT: usize = 216;
/// The byte of the big-endian `sb_features_incompat` with the bits below.
pub(super) const INCOMPAT_LOW_AT: usize = INCOMPAT_AT + 3;
pub(super) const META_UUID_BIT: u8 = 0x4;
const NEEDS_REPAIR_BIT: u32 = 0x10;
/// METADIR, ZONED and the gaps of zones: with them comes a realtime section with superblocks of its own.
const REALTIME_BITS: u32 = 0x700;
/// FTYPE, SPINODES, META_UUID, BIGTIME, NEEDSREPAIR, NREXT64, EXCHRANGE, PARENT.
const KNOWN_INCOMPAT: u32 = 0xff;
/// FINOBT, RMAPBT, REFLINK, INOBTCNT.
const KNOWN_RO_COMPAT: u32 = 0xf;
/// Logged extended attributes.
const KNOWN_LOG_INCOMPAT: u32 = 0x1;
const CRC_AT: usize = 224;
pub(super) const META_UUID_AT: usize = 248;

const GROUP_BYTES_MIN: u64 = 16 << 20;
const GROUP_BYTES_MAX: u64 = 1 << 40;
/// 16 TiB in groups of the smallest size; looking at each takes seconds.
const GROUPS_MAX: u32 = 1 << 20;
/// What XFS itself allows (XFS_MAX_LOG_BYTES).
const LOG_BYTES_MAX: u64 = 1 << 31;

/// What can be said of an XFS by its first sector alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub uuid: Uuid,
    /// Empty when there is none.
    pub label: String,
    /// 4, or 5 (with checksums).
    pub version: u16,
    pub size_bytes: u64,
    /// Refused by every kernel until the operation that left it so, a UUID change perhaps, is ended.
    pub is_in_progress: bool,
}

/// Says what XFS is there, if any; believes nothing but the magic number.
pub fn identify(device: &dyn ReadAt) -> io::Result<Option<Identity>> {
    if device.size_bytes() < SECTOR_BYTES as u64 {
        return Ok(None);
    }
    let mut sector = [0; SECTOR_BYTES];
    device.read_exact_at(0, &mut sector)?;
    Ok(sector.starts_with(MAGIC).then(|| {
        let label = sector.get(LABEL_AT..LABEL_AT + 12).unwrap_or(&[]);
        let label = label.split(|byte| *byte == 0).next().unwrap_or(&[]);
        Identity {
            uuid: Uuid::from_bytes(uuid_at(&sector, UUID_AT)),
            label: String::from_utf8_lossy(label).into_owned(),
            version: be16_at(&sector, 100) & 0xf,
            size_bytes: be64_at(&sector, 8).saturating_mul(be32_at(&sector, 4).into()),
            is_in_progress: u8_at(&sector, IN_PROGRESS_AT) != 0,
        }
    }))
}

/// The primary superblock of a file system whose UUID could be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Superblock {
    /// One sector, as it is on the disk.
    pub(super) sector: Vec<u8>,
    pub(super) version: u16,
    pub(super) groups: u32,
    /// How many groups, the last one perhaps a short one, the device has room for: so far the file system can grow.
    pub(super) groups_max: u32,
    pub(super) group_bytes: u64,
    pub(super) log_start: u64,
    /// In blocks of 512 bytes.
    pub(super) log_blocks: u32,
}

impl Superblock {
    /// Reads and checks the primary one. Whether it is in progress is the caller's question.
    pub(super) fn read(device: &dyn ReadAt) -> Result<Self, XfsError> {
        let device_bytes = device.size_bytes();
        if device_bytes < SECTOR_BYTES as u64 {
            return Err(XfsError::NotXfs { why: "it is shorter than a superblock" });
        }
        let head = read(device, 0, SECTOR_BYTES)?;
        if !head.starts_with(MAGIC) {
            return Err(XfsError::NotXfs { why: "it does not begin with the magic number of an XFS" });
        }
        let version = be16_at(&head, 100) & 0xf;
        if version != 4 && version != 5 {
            return Err(Refused::UnsupportedVersion { found: version }.into());
        }
        let sector_bytes = be16_at(&head, 102);
        if !sector_bytes.is_power_of_two() || !(512..=32768).contains(&sector_bytes) {
            return Err(damaged(format!("a sector size of {sector_bytes}")).into());
        }
        if device_bytes < u64::from(sector_bytes) {
            return Err(XfsError::NotXfs { why: "it is shorter than a superblock" });
        }
        let sector = read(device, 0, sector_bytes.into())?;
        if version == 5 && !has_sound_crc(&sector) {
            return Err(damaged("its checksum does not match".to_owned()).into());
        }
        if version == 5 {
            check_features(&sector)?;
        }
        Ok(Self::decode(sector, version, device_bytes)?)
    }

    fn decode(sector: Vec<u8>, version: u16, device_bytes: u64) -> Result<Self, Refused> {
        let block_bytes = be32_at(&sector, 4);
        if !block_bytes.is_power_of_two() || !(512..=65536).contains(&block_bytes) {
            return Err(damaged(format!("a block size of {block_bytes}")));
        }
        if block_bytes < sector.len() as u32 {
            return Err(damaged("blocks smaller than sectors".to_owned()));
        }
        let blocks = be64_at(&sector, 8);
        let (group_blocks, groups) = (be32_at(&sector, 84), be32_at(&sector, GROUPS_AT));
        let block_bytes = u64::from(block_bytes);
        let group_bytes = u64::from(group_blocks) * block_bytes;
        // The last group may be short: a volume can be grown by a little.
        let all_blocks = u64::from(groups) * u64::from(group_blocks);
        if !(GROUP_BYTES_MIN..=GROUP_BYTES_MAX).contains(&group_bytes)
            || groups == 0
            || groups > GROUPS_MAX
            || blocks > all_blocks
            || blocks <= all_blocks - u64::from(group_blocks)
        {
            return Err(damaged(format!("{blocks} blocks in {groups} groups of {group_blocks}")));
        }
        let size_bytes = blocks.saturating_mul(block_bytes);
        if size_bytes > device_bytes {
            return Err(Refused::BeyondDevice { size_bytes, device_bytes });
        }
        if be64_at(&sector, 16) != 0 || be64_at(&sector, 24) != 0 {
            return Err(Refused::Realtime);
        }
        let (log_start, log_blocks) = log_place(&sector, block_bytes, group_blocks, blocks)?;
        let room = u32::try_from(device_bytes.div_ceil(group_bytes)).unwrap_or(u32::MAX);
        let groups_max = room.min(GROUPS_MAX);
        Ok(Self { sector, version, groups, groups_max, group_bytes, log_start, log_blocks })
    }

    pub(super) fn uuid(&self) -> [u8; 16] {
        uuid_at(&self.sector, UUID_AT)
    }

    pub(super) fn is_in_progress(&self) -> bool {
        u8_at(&self.sector, IN_PROGRESS_AT) != 0
    }

    /// Where the superblock of a group is, in bytes; beyond every device where a u64 does not hold it.
    pub(super) fn group_offset(&self, group: u32) -> u64 {
        u64::from(group).saturating_mul(self.group_bytes)
    }

    /// Is this block of 512 bytes where a superblock is, of a group that the file system has or could have after growing?
    pub(super) fn is_superblock_place(&self, block: u64) -> bool {
        let group_blocks = self.group_bytes / SECTOR_BYTES as u64;
        block.is_multiple_of(group_blocks) && block / group_blocks < u64::from(GROUPS_MAX)
    }

    /// Reads the sector of another group's superblock, and says what is wrong with it.
    pub(super) fn read_group(
        &self,
        device: &dyn ReadAt,
        group: u32,
    ) -> Result<Result<Vec<u8>, &'static str>, XfsError> {
        let offset = self.group_offset(group);
        if offset.saturating_add(self.sector.len() as u64) > device.size_bytes() {
            return Ok(Err("it lies beyond the end of the device"));
        }
        let sector = read(device, offset, self.sector.len())?;
        Ok(if !sector.starts_with(MAGIC) {
            Err("it has no magic number")
        } else if be16_at(&sector, 100) & 0xf != self.version {
            Err("it is of another version")
        } else if self.version == 5 && !has_sound_crc(&sector) {
            Err("its checksum does not match")
        } else {
            Ok(sector)
        })
    }
}

/// Puts the checksum into a superblock that was changed; version 4 has none.
pub(super) fn seal(sector: &mut [u8], version: u16) {
    if version == 5 {
        let crc = crc(sector);
        put(sector, CRC_AT, &crc.to_le_bytes());
    }
}

fn has_sound_crc(sector: &[u8]) -> bool {
    crc(sector) == le32_at(sector, CRC_AT)
}

/// CRC32C of the sector with zeros for the checksum itself.
fn crc(sector: &[u8]) -> u32 {
    let (before, rest) = sector.split_at_checked(CRC_AT).unwrap_or((sector, &[]));
    let crc = crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]);
    crc32c::crc32c_append(crc, rest.get(4..).unwrap_or(&[]))
}

fn check_features(sector: &[u8]) -> Result<(), Refused> {
    let incompat = be32_at(sector, INCOMPAT_AT);
    if incompat & NEEDS_REPAIR_BIT != 0 {
        return Err(Refused::NeedsRepair);
    }
    if incompat & REALTIME_BITS != 0 {
        return Err(Refused::Realtime);
    }
    // Features that are merely compatible cannot concern us, by their definition.
    for (set, at, known) in [
        ("incompatible", INCOMPAT_AT, KNOWN_INCOMPAT),
        ("read-only compatible", 212, KNOWN_RO_COMPAT),
        ("log-incompatible", 220, KNOWN_LOG_INCOMPAT),
    ] {
        let bits = be32_at(sector, at) & !known;
        if bits != 0 {
            return Err(Refused::UnknownFeatures { set, bits });
        }
    }
    Ok(())
}

/// Returns where the log begins, in bytes, and its length in blocks of 512 bytes.
fn log_place(sector: &[u8], block_bytes: u64, group_blocks: u32, blocks: u64) -> Result<(u64, u32), Refused> {
    let address = be64_at(sector, 48);
    if address == 0 {
        return Err(Refused::ExternalLog);
    }
    let group_bits = u32::from(u8_at(sector, 124));
    if group_bits > 31 || u64::from(group_blocks).next_power_of_two() != 1 << group_bits {
        return Err(damaged(format!("groups of {group_blocks} blocks in addresses of {group_bits} bits")));
    }
    let (group, within) = (address >> group_bits, address & ((1 << group_bits) - 1));
    let length = u64::from(be32_at(sector, 96));
    let log_bytes = length * block_bytes;
    let first = group.checked_mul(group_blocks.into()).and_then(|start| start.checked_add(within));
    let Some(first) = first.filter(|first| {
        length > 0
            && log_bytes <= LOG_BYTES_MAX
            && within + length <= u64::from(group_blocks)
            && first.checked_add(length).is_some_and(|end| end <= blocks)
    }) else {
        return Err(damaged(format!("a log of {length} blocks at {address:#x}")));
    };
    let log_blocks = u32::try_from(log_bytes / SECTOR_BYTES as u64).unwrap_or(u32::MAX);
    Ok((first.saturating_mul(block_bytes), log_blocks))
}

fn damaged(why: String) -> Refused {
    Refused::Damaged { why }
}

/// Reads a part of the device; the length is never one from the disk that was not checked.
pub(super) fn read(device: &dyn ReadAt, offset: u64, length: usize) -> Result<Vec<u8>, XfsError> {
    let mut bytes = vec![0; length];
    device.read_exact_at(offset, &mut bytes).map_err(|source| XfsError::Io {
        action: "read",
        offset,
        length,
        source,
    })?;
    Ok(bytes)
}
