//! Partition tables: which one a disk has, and the partitions in it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Serialize;

use super::bytes::{has, read_up_to};
use super::identify::identify;
use super::{ContentsError, gpt, mbr};
use crate::sysio::device::{ReadAt, Window};

/// The highest number of a partition. Linux gives a disk 256 device numbers, the first of which is the whole disk.
pub(super) const NUMBER_MAX: u32 = 255;

/// Sizes of a sector that tables are written for, the likelier one first.
pub(super) const SECTOR_SIZES: [u32; 2] = [512, 4096];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TableKind {
    Gpt,
    Mbr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub kind: TableKind,
    /// 512 or 4096. An MBR does not tell: it is the size with which more of its partitions make sense.
    pub sector_bytes: u32,
    /// As `blkid` prints `PTUUID`: a UUID, or the eight digits of an MBR's disk signature.
    pub uuid: Option<String>,
    /// The GPT at the start is damaged, and its copy at the end was read.
    pub from_backup_header: bool,
    /// In ascending order of their numbers. All lie within the device; they may overlap.
    pub partitions: Vec<Partition>,
    /// One sentence for each entry that was left out or cut, for the log.
    pub remarks: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// As Linux numbers it: 1 to 255, logical ones from 5.
    pub number: u32,
    /// In bytes from the start of the device.
    pub start: u64,
    /// In bytes; not zero.
    pub length: u64,
    /// A GUID in capitals, or as in `0x83`.
    pub type_id: String,
    pub type_name: Option<&'static str>,
    /// GPT only.
    pub name: Option<String>,
    /// As `blkid` prints `PARTUUID`.
    pub uuid: Option<String>,
    /// The active one of an MBR; of a GPT, one with the attribute for starting an old BIOS.
    pub is_bootable: bool,
}

impl Partition {
    /// Returns the partition as a device of its own.
    pub fn window<D: ReadAt>(&self, disk: D) -> Window<D> {
        Window::new(disk, self.start, self.length)
    }
}

/// Reads the partition table of a disk. `None` when it has none: a bare file system, or nothing.
///
/// What reaches beyond the end is treated as Linux treats it: a partition of a GPT is left out, one of an MBR is cut.
/// The rest of the table is shown, even where Linux takes a GPT for invalid because its disk has shrunk.
///
/// # Errors
///
/// `Malformed` for a table that cannot be right: a GPT of which neither header is valid, or logical partitions
/// that go in a circle.
pub fn partitions(device: &dyn ReadAt) -> Result<Option<Table>, ContentsError> {
    // Both crates were given bytes for which they should not panic. Should they, it costs this table only.
    catch_unwind(AssertUnwindSafe(|| read(device)))
        .unwrap_or_else(|_| Err(ContentsError::table("it could not be decoded")))
}

fn read(device: &dyn ReadAt) -> Result<Option<Table>, ContentsError> {
    let sector = read_up_to(device, 0, mbr::SECTOR_BYTES)?;
    if sector.len() < mbr::SECTOR_BYTES {
        return Ok(None);
    }
    // Where this cannot be told, the table still can.
    let content = identify(device).ok().flatten();
    if mbr::is_protective(&sector) {
        return match gpt::read(device, &sector) {
            // Of an earlier table only the first sector is left: the whole disk was given to something else.
            Err(_) if content.is_some() => Ok(None),
            table => table.map(Some),
        };
    }
    if has(&sector, 510, &[0x55, 0xaa]) {
        // The boot sector of a file system ends like an MBR, and what stands at the place of the entries is its program.
        let is_boot_sector = content.as_ref().is_some_and(|content| content.kind.is_in_first_sector());
        return if is_boot_sector { Ok(None) } else { mbr::read(device, &sector, content.is_some()) };
    }
    if content.is_some() {
        return Ok(None);
    }
    // The first sectors of a disk were overwritten: the copy at the end may have survived.
    Ok(gpt::read(device, &sector).ok())
}
