//! GUID partition tables. `gptman` decodes headers and entries; where they may stand and how much is read is decided here.
//!
//! `gptman::GPT::find_from` is not used: it allocates what a header asks for before it has looked at the size of the
//! disk, asserts what a hostile header can contradict, and looks for the copy of the header in the last sector only.

use std::io::{self, Cursor, Read};

use gptman::{GPTHeader, GPTPartitionEntry};
use uuid::Uuid;

use super::bytes::{le32, read_up_to};
use super::table::{NUMBER_MAX, Partition, SECTOR_SIZES, Table, TableKind};
use super::{ContentsError, mbr, type_names};
use crate::sysio::device::ReadAt;

/// What every known program writes, and the only size that Linux accepts.
const ENTRY_BYTES: u32 = 128;

/// Eight times what programs write unless they are told otherwise.
const ENTRIES_MAX: u32 = 1024;

/// Attribute 2: a BIOS may start from this partition.
const LEGACY_BOOTABLE: u64 = 1 << 2;

struct Found {
    header: GPTHeader,
    entries: Vec<GPTPartitionEntry>,
    sector_bytes: u32,
}

/// Reads the primary table, or else the copy: where the primary header, or the protective MBR, or the end of the disk says.
pub(super) fn read(device: &dyn ReadAt, first_sector: &[u8]) -> Result<Table, ContentsError> {
    let mut copies = Vec::new();
    let mut why = Vec::new();
    for sector_bytes in SECTOR_SIZES {
        let header = header_at(device, 1, sector_bytes);
        if let Ok(header) = &header {
            copies.push((header.backup_lba, sector_bytes));
        }
        match header.and_then(|header| with_entries(device, header, sector_bytes)) {
            Ok(found) => return Ok(table(device, found, false)),
            Err(reason) => why.push(format!("for sectors of {sector_bytes} bytes, {reason}")),
        }
    }
    for sector_bytes in SECTOR_SIZES {
        let last = (device.size_bytes() / u64::from(sector_bytes)).saturating_sub(1);
        copies.push((last, sector_bytes));
        // A disk that has grown has the copy at its old end.
        copies.extend(mbr::protected_end(first_sector).map(|last| (last, sector_bytes)));
    }
    for (lba, sector_bytes) in copies.into_iter().filter(|(lba, _)| *lba > 1) {
        let found = header_at(device, lba, sector_bytes)
            .and_then(|header| with_entries(device, header, sector_bytes));
        if let Ok(found) = found {
            return Ok(table(device, found, true));
        }
    }
    let why = why.join("; ");
    Err(ContentsError::table(format!(
        "it is a GPT without a valid header, and no valid copy was found: {why}"
    )))
}

fn header_at(device: &dyn ReadAt, lba: u64, sector_bytes: u32) -> Result<GPTHeader, String> {
    let offset = lba.checked_mul(sector_bytes.into()).ok_or("the header is beyond the end")?;
    let bytes = read_up_to(device, offset, 512).map_err(|error| error.to_string())?;
    // `gptman` asserts that the length is this one.
    if le32(&bytes, 12) != Some(92) {
        return Err("there is no header".to_owned());
    }
    let header =
        GPTHeader::read_from(&mut Cursor::new(&bytes)).map_err(|error| format!("header: {error}"))?;
    // Under `primary_lba` the crate has the header's own place, whichever of the two it is.
    if header.primary_lba != lba {
        return Err(format!(
            "the header in sector {lba} says that it is that of sector {}",
            header.primary_lba
        ));
    }
    Ok(header)
}

fn with_entries(device: &dyn ReadAt, header: GPTHeader, sector_bytes: u32) -> Result<Found, String> {
    let count = header.number_of_partition_entries;
    if header.size_of_partition_entry != ENTRY_BYTES || !(1..=ENTRIES_MAX).contains(&count) {
        let size = header.size_of_partition_entry;
        return Err(format!("{count} entries of {size} bytes are not supported"));
    }
    let offset = header
        .partition_entry_lba
        .checked_mul(sector_bytes.into())
        .ok_or("the entries are beyond the end")?;
    let length = count as usize * ENTRY_BYTES as usize;
    let bytes = read_up_to(device, offset, length).map_err(|error| error.to_string())?;
    if bytes.len() < length {
        return Err("the entries reach beyond the end".to_owned());
    }
    // The crate reads more than it decodes: as much as its own structure takes in memory.
    let entries = bytes
        .chunks_exact(ENTRY_BYTES as usize)
        .map(|entry| GPTPartitionEntry::read_from(&mut entry.chain(io::repeat(0))))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("entries: {error}"))?;
    if header.generate_partition_entry_array_crc32(&entries) != header.partition_entry_array_crc32 {
        return Err("the checksum of the entries is wrong".to_owned());
    }
    Ok(Found { header, entries, sector_bytes })
}

fn table(device: &dyn ReadAt, found: Found, from_backup_header: bool) -> Table {
    let mut partitions = Vec::new();
    let mut remarks = Vec::new();
    for (number, entry) in (1..).zip(&found.entries).filter(|(_, entry)| entry.is_used()) {
        match partition(device.size_bytes(), found.sector_bytes, number, entry) {
            Ok(partition) => partitions.push(partition),
            Err(why) => remarks.push(format!("partition {number} is left out: {why}")),
        }
    }
    Table {
        kind: TableKind::Gpt,
        sector_bytes: found.sector_bytes,
        uuid: guid(found.header.disk_guid).map(|guid| guid.hyphenated().to_string()),
        from_backup_header,
        partitions,
        remarks,
    }
}

fn partition(
    size_bytes: u64,
    sector_bytes: u32,
    number: u32,
    entry: &GPTPartitionEntry,
) -> Result<Partition, &'static str> {
    if number > NUMBER_MAX {
        return Err("Linux numbers partitions up to 255");
    }
    if entry.starting_lba == 0 {
        return Err("it starts in the first sector, which is that of the table");
    }
    let beyond = "it reaches beyond the end of the disk";
    // Not by the crate, which adds one to the last number there is.
    let sectors = entry.ending_lba.checked_sub(entry.starting_lba).ok_or("it ends before it starts")?;
    let sectors = sectors.checked_add(1).ok_or(beyond)?;
    let start = entry.starting_lba.checked_mul(sector_bytes.into()).ok_or(beyond)?;
    let length = sectors.checked_mul(sector_bytes.into()).ok_or(beyond)?;
    if start.checked_add(length).is_none_or(|end| end > size_bytes) {
        return Err(beyond);
    }
    let type_id = Uuid::from_bytes_le(entry.partition_type_guid).hyphenated().to_string().to_uppercase();
    let name = entry.partition_name.as_str();
    Ok(Partition {
        number,
        start,
        length,
        type_name: type_names::of_gpt(&type_id),
        type_id,
        name: (!name.is_empty()).then(|| name.to_owned()),
        uuid: guid(entry.unique_partition_guid).map(|guid| guid.hyphenated().to_string()),
        is_bootable: entry.attribute_bits & LEGACY_BOOTABLE != 0,
    })
}

fn guid(bytes: [u8; 16]) -> Option<Uuid> {
    let guid = Uuid::from_bytes_le(bytes);
    (!guid.is_nil()).then_some(guid)
}
