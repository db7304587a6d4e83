//! MBR partition tables. `mbrman` decodes sectors; the chain of logical partitions is walked here as Linux walks it.
//!
//! `mbrman::MBR::read_from` is not used: it refuses chains that are not in the order of the disk, which `fdisk` makes,
//! numbers links without a partition, which Linux does not, and follows as many links as a hostile disk has room for.

use std::collections::BTreeSet;
use std::io::Cursor;

use mbrman::{MBRHeader, MBRPartitionEntry};

use super::bytes::{has, le32, read_up_to};
use super::identify::identify;
use super::table::{NUMBER_MAX, Partition, SECTOR_SIZES, Table, TableKind};
use super::{ContentsError, type_names};
use crate::sysio::device::ReadAt;

pub(super) const SECTOR_BYTES: usize = 512;

/// Where the four entries stand, and how long one is.
const ENTRIES_AT: usize = 446;
const ENTRY_BYTES: usize = 16;

/// Type of the entry that keeps programs that know no GPT from taking the disk for empty.
const PROTECTIVE: u8 = 0xee;

/// Number of the first logical partition.
const LOGICAL_FIRST: u32 = 5;

/// Partitions that are looked into to find out the size of a sector.
const LOOKED_AT_MAX: usize = 16;

/// Links one after the other without a partition, after which Linux gives up.
const EMPTY_LINKS_MAX: u32 = 100;

/// Does this sector announce a GPT?
pub(super) fn is_protective(sector: &[u8]) -> bool {
    has(sector, 510, &[0x55, 0xaa]) && protective_entry(sector).is_some()
}

/// Returns the last sector of the disk for which a protective MBR was made, if it is one and tells.
pub(super) fn protected_end(sector: &[u8]) -> Option<u64> {
    let entry = protective_entry(sector)?;
    let (start, sectors) = (le32(entry, 8)?, le32(entry, 12)?);
    (start == 1 && sectors != u32::MAX).then(|| u64::from(sectors))
}

fn protective_entry(sector: &[u8]) -> Option<&[u8]> {
    let entries = sector.get(ENTRIES_AT..)?.chunks_exact(ENTRY_BYTES).take(4);
    entries.into_iter().find(|entry| entry.get(4) == Some(&PROTECTIVE))
}

/// Reads the table in the first sector. `None` when that holds none, or an empty one that is no more than the boot
/// program of a file system.
pub(super) fn read(
    device: &dyn ReadAt,
    sector: &[u8],
    has_content: bool,
) -> Result<Option<Table>, ContentsError> {
    // What it refuses, Linux refuses too: a flag that is neither that of an active partition nor zero.
    let Ok(header) = MBRHeader::read_from(&mut Cursor::new(sector)) else { return Ok(None) };
    let is_empty = header.iter().all(|(_, entry)| !is_used(entry));
    if is_empty && (has_content || header.disk_signature == [0; 4]) {
        return Ok(None);
    }
    let mut tables = Vec::new();
    for table in SECTOR_SIZES.map(|sector_bytes| table(device, &header, sector_bytes)) {
        let share = table.as_ref().map_or(0.0, |table| sensible_share(device, table));
        tables.push((share, table));
        if share >= 1.0 {
            break;
        }
    }
    // Of equal ones the first: another size must make more sense, also when that one is an error.
    let best = tables.into_iter().reduce(|best, other| if other.0 > best.0 { other } else { best });
    best.map(|(_, table)| table).transpose()
}

/// Returns of how many partitions, at most 1.0 for all, it is seen that they are in the right place. With sectors of the
/// wrong size they are not.
fn sensible_share(device: &dyn ReadAt, table: &Table) -> f32 {
    // What lies beyond the end does not make sense either.
    let (mut sensible, mut all) = (0_u16, table.remarks.len() as u16);
    for partition in table.partitions.iter().take(LOOKED_AT_MAX) {
        // The sector through which a logical partition was found is in the right place.
        let is_sensible =
            partition.number >= LOGICAL_FIRST || matches!(identify(&partition.window(device)), Ok(Some(_)));
        (sensible, all) = (sensible + u16::from(is_sensible), all + 1);
    }
    if all == 0 { 0.0 } else { f32::from(sensible) / f32::from(all) }
}

fn table(device: &dyn ReadAt, header: &MBRHeader, sector_bytes: u32) -> Result<Table, ContentsError> {
    let signature = u32::from_le_bytes(header.disk_signature);
    let mut walk = Walk { device, sector_bytes, signature, partitions: Vec::new(), remarks: Vec::new() };
    for (number, entry) in (1..).zip(header.iter().map(|(_, entry)| entry)) {
        if is_used(entry) && !entry.is_extended() {
            walk.add(number, u64::from(entry.starting_lba), entry);
        }
    }
    let mut next = LOGICAL_FIRST;
    for (_, entry) in header.iter().filter(|(_, entry)| is_used(entry) && entry.is_extended()) {
        next = walk.extended(entry, next)?;
    }
    Ok(Table {
        kind: TableKind::Mbr,
        sector_bytes,
        uuid: (signature != 0).then(|| format!("{signature:08x}")),
        from_backup_header: false,
        partitions: walk.partitions,
        remarks: walk.remarks,
    })
}

fn is_used(entry: &MBRPartitionEntry) -> bool {
    entry.is_used() && entry.sectors > 0
}

struct Walk<'a> {
    device: &'a dyn ReadAt,
    sector_bytes: u32,
    signature: u32,
    partitions: Vec<Partition>,
    remarks: Vec<String>,
}

impl Walk<'_> {
    /// Adds the partition of an entry that starts at sector `lba`, unless it lies beyond the end.
    fn add(&mut self, number: u32, lba: u64, entry: &MBRPartitionEntry) {
        let sector_bytes = u64::from(self.sector_bytes);
        // Both are of a few more than 32 bits.
        let (start, wanted) = (lba * sector_bytes, u64::from(entry.sectors) * sector_bytes);
        let available = self.device.size_bytes().saturating_sub(start);
        if available == 0 {
            self.remarks
                .push(format!("partition {number} is left out: it starts beyond the end of the disk"));
            return;
        }
        if available < wanted {
            self.remarks.push(format!("partition {number} is cut at the end of the disk, as Linux does"));
        }
        self.partitions.push(Partition {
            number,
            start,
            length: wanted.min(available),
            type_id: format!("{:#04x}", entry.sys),
            type_name: type_names::of_mbr(entry.sys),
            name: None,
            uuid: (self.signature != 0).then(|| format!("{:08x}-{number:02x}", self.signature)),
            is_bootable: entry.is_active(),
        });
    }

    /// Adds the logical partitions of an extended one. Returns the next free number.
    ///
    /// A link that cannot be decoded ends the chain, and what came before it stays; so does Linux.
    fn extended(&mut self, extended: &MBRPartitionEntry, mut next: u32) -> Result<u32, ContentsError> {
        let first = u64::from(extended.starting_lba);
        let (mut lba, mut empty_links, mut seen) = (first, 0, BTreeSet::new());
        while next <= NUMBER_MAX && empty_links < EMPTY_LINKS_MAX {
            if !seen.insert(lba) {
                return Err(ContentsError::table("its logical partitions go in a circle"));
            }
            let Some([data, link]) = self.link(lba)? else { break };
            empty_links += 1;
            if is_used(&data) && !data.is_extended() {
                self.add(next, lba + u64::from(data.starting_lba), &data);
                (next, empty_links) = (next + 1, 0);
            }
            if !is_used(&link) || !link.is_extended() {
                break;
            }
            lba = first + u64::from(link.starting_lba);
        }
        Ok(next)
    }

    /// Decodes the sector of a logical partition: its entry, and that of the next link.
    fn link(&self, lba: u64) -> Result<Option<[MBRPartitionEntry; 2]>, ContentsError> {
        let mut sector = read_up_to(self.device, lba * u64::from(self.sector_bytes), SECTOR_BYTES)?;
        // The third and the fourth entry are not used, and sometimes hold garbage.
        if let Some(unused) = sector.get_mut(ENTRIES_AT + 2 * ENTRY_BYTES..ENTRIES_AT + 4 * ENTRY_BYTES) {
            unused.fill(0);
        }
        let header = MBRHeader::read_from(&mut Cursor::new(&sector)).ok();
        Ok(header.map(|header| [header.partition_1, header.partition_2]))
    }
}
