//! FAT with 12, 16 and 32 bits, and exFAT. Their labels are entries of the root directory.

use std::io;

use super::{Content, Kind, Probed};
use crate::contents::bytes::{array, byte, has, le16, le32, text, utf16};

/// Programs put the label first; this much of a root directory is looked at.
const ROOT_BYTES_MAX: usize = 64 << 10;

const ENTRY_BYTES: usize = 32;

/// Attributes of an entry: volume label, folder, and all four that mark a part of a long name.
const VOLUME_LABEL: u8 = 0x08;
const FOLDER: u8 = 0x10;
const LONG_NAME: u8 = 0x0f;

/// Types of an exFAT entry.
const EXFAT_LABEL: u8 = 0x83;
const EXFAT_END: u8 = 0;

/// Where the root directory stands, and how much of it to read.
struct Root {
    offset: u64,
    length: usize,
}

struct Layout {
    root: Root,
    serial_at: usize,
}

pub(super) fn fat(probed: &Probed<'_>) -> io::Result<Option<Content>> {
    let Some(Layout { root, serial_at }) = fat_layout(&probed.head) else { return Ok(None) };
    let directory = probed.read(root.offset, root.length)?;
    let label =
        directory.chunks_exact(ENTRY_BYTES).take_while(|entry| entry.first() != Some(&0)).find_map(fat_label);
    Ok(Some(Content { kind: Kind::Fat, uuid: serial(&probed.head, serial_at), label }))
}

/// Checks the boot sector as strictly as Linux does: half a sector of anything must not become a FAT.
fn fat_layout(head: &[u8]) -> Option<Layout> {
    let sector = u64::from(le16(head, 11)?);
    let cluster_sectors = u64::from(byte(head, 13)?);
    let reserved = u64::from(le16(head, 14)?);
    let tables = u64::from(byte(head, 16)?);
    let media = byte(head, 21)?;
    let is_valid = has(head, 510, &[0x55, 0xaa])
        && matches!(byte(head, 0)?, 0xeb | 0xe9)
        && (512..=4096).contains(&sector)
        && sector.is_power_of_two()
        && cluster_sectors.is_power_of_two()
        && reserved > 0
        && (1..=2).contains(&tables)
        && (media == 0xf0 || media >= 0xf8);
    if !is_valid {
        return None;
    }
    let table_sectors = u64::from(le16(head, 22)?);
    if table_sectors > 0 {
        let offset = (reserved + tables * table_sectors) * sector;
        let length = usize::from(le16(head, 17)?) * ENTRY_BYTES;
        return Some(Layout { root: Root { offset, length: length.min(ROOT_BYTES_MAX) }, serial_at: 39 });
    }
    let data = reserved + tables * u64::from(le32(head, 36)?);
    let cluster = u64::from(le32(head, 44)?).checked_sub(2)?;
    let offset = (data + cluster * cluster_sectors) * sector;
    let length = usize::try_from(cluster_sectors * sector).ok()?;
    Some(Layout { root: Root { offset, length: length.min(ROOT_BYTES_MAX) }, serial_at: 67 })
}

fn fat_label(entry: &[u8]) -> Option<String> {
    let attributes = byte(entry, 11)?;
    let is_label =
        attributes & (VOLUME_LABEL | FOLDER) == VOLUME_LABEL && attributes & LONG_NAME != LONG_NAME;
    let is_deleted = byte(entry, 0)? == 0xe5;
    let has_cluster = le16(entry, 20)? != 0 || le16(entry, 26)? != 0;
    (is_label && !is_deleted && !has_cluster).then(|| text(entry, 0, 11))?
}

pub(super) fn exfat(probed: &Probed<'_>) -> io::Result<Option<Content>> {
    let head = &probed.head;
    if !has(head, 3, b"EXFAT   ") {
        return Ok(None);
    }
    let Some(root) = exfat_root(head) else { return Ok(None) };
    let directory = probed.read(root.offset, root.length)?;
    let mut entries =
        directory.chunks_exact(ENTRY_BYTES).take_while(|entry| entry.first() != Some(&EXFAT_END));
    let label = entries.find(|entry| entry.first() == Some(&EXFAT_LABEL)).and_then(exfat_label);
    Ok(Some(Content { kind: Kind::ExFat, uuid: serial(head, 100), label }))
}

/// Only the first cluster of the root directory is looked at.
fn exfat_root(head: &[u8]) -> Option<Root> {
    let (sector_shift, cluster_shift) = (u32::from(byte(head, 108)?), u32::from(byte(head, 109)?));
    if !(9..=12).contains(&sector_shift) || sector_shift + cluster_shift > 25 {
        return None;
    }
    let cluster = u64::from(le32(head, 96)?).checked_sub(2)?;
    let sector = u64::from(le32(head, 88)?) + (cluster << cluster_shift);
    let length = 1 << (sector_shift + cluster_shift);
    Some(Root { offset: sector << sector_shift, length: ROOT_BYTES_MAX.min(length) })
}

fn exfat_label(entry: &[u8]) -> Option<String> {
    let units = usize::from(byte(entry, 1)?).min(11);
    utf16(entry.get(2..2 + 2 * units)?, true)
}

/// Returns the serial number as `blkid` prints it, as `AB12-CD34`.
fn serial(head: &[u8], at: usize) -> Option<String> {
    let number = u32::from_le_bytes(array(head, at)?);
    (number != 0).then(|| format!("{:04X}-{:04X}", number >> 16, number & 0xffff))
}
