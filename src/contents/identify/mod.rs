//! What lies in a device: which file system or container, its UUID and its label, as `blkid` prints them.
//!
//! Few small reads of fixed places. Where a device carries the marks of several, the first one of `PROBES` counts: containers
//! before what may lie in them, as `blkid` does.

mod containers;
mod fat;
mod file_systems;
mod ntfs;

use std::io;

use super::bytes::read_up_to;
use crate::sysio::device::ReadAt;

/// The head of a device holds the marks of nearly everything.
const HEAD_BYTES: usize = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    BitLocker,
    Btrfs,
    Erofs,
    ExFat,
    Ext2,
    Ext3,
    Ext4,
    F2fs,
    Fat,
    Iso9660,
    /// A journal of ext3 or ext4 on a device of its own.
    Jbd,
    Luks,
    LvmPhysicalVolume,
    Mdraid,
    Ntfs,
    Squashfs,
    Swap,
    Xfs,
}

impl Kind {
    /// Returns the word that `blkid` prints as `TYPE`.
    pub fn name(self) -> &'static str {
        match self {
            Self::BitLocker => "BitLocker",
            Self::Btrfs => "btrfs",
            Self::Erofs => "erofs",
            Self::ExFat => "exfat",
            Self::Ext2 => "ext2",
            Self::Ext3 => "ext3",
            Self::Ext4 => "ext4",
            Self::F2fs => "f2fs",
            Self::Fat => "vfat",
            Self::Iso9660 => "iso9660",
            Self::Jbd => "jbd",
            Self::Luks => "crypto_LUKS",
            Self::LvmPhysicalVolume => "LVM2_member",
            Self::Mdraid => "linux_raid_member",
            Self::Ntfs => "ntfs",
            Self::Squashfs => "squashfs",
            Self::Swap => "swap",
            Self::Xfs => "xfs",
        }
    }

    /// Does its mark stand where an MBR would be? Then the sector is no MBR, whatever it ends with.
    pub(super) fn is_in_first_sector(self) -> bool {
        matches!(
            self,
            Self::BitLocker | Self::ExFat | Self::Fat | Self::Luks | Self::Ntfs | Self::Squashfs | Self::Xfs
        )
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    pub kind: Kind,
    /// As `blkid` prints `UUID`: `AB12-CD34` of a FAT, a date of an ISO image.
    pub uuid: Option<String>,
    pub label: Option<String>,
}

/// A device whose head was read.
struct Probed<'a> {
    device: &'a dyn ReadAt,
    head: Vec<u8>,
}

impl Probed<'_> {
    /// Reads `length` bytes at `offset`; fewer where the device ends.
    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        read_up_to(self.device, offset, length)
    }
}

/// Answers `Ok(None)` for what is not its kind.
type Probe = fn(&Probed<'_>) -> io::Result<Option<Content>>;

const PROBES: [Probe; 15] = [
    containers::mdraid,
    containers::lvm_physical_volume,
    containers::luks,
    containers::bitlocker,
    containers::swap,
    file_systems::xfs,
    file_systems::ext,
    file_systems::squashfs,
    file_systems::erofs,
    file_systems::f2fs,
    ntfs::ntfs,
    fat::exfat,
    fat::fat,
    file_systems::iso9660,
    file_systems::btrfs,
];

/// Says what lies in a device; `None` when nothing is known of it.
///
/// # Errors
///
/// The device's.
pub fn identify(device: &dyn ReadAt) -> io::Result<Option<Content>> {
    let probed = Probed { device, head: read_up_to(device, 0, HEAD_BYTES)? };
    for probe in PROBES {
        if let Some(content) = probe(&probed)? {
            return Ok(Some(content));
        }
    }
    Ok(None)
}
