//! NTFS. Its label is an attribute of the fourth record of the master file table.

use std::io;

use super::{Content, Kind, Probed};
use crate::contents::bytes::{byte, has, le16, le32, le64, utf16};

/// The record of `$Volume`, and the type of the attribute that holds the label.
const VOLUME_RECORD: u64 = 3;
const VOLUME_NAME: u32 = 0x60;

const RECORD_BYTES_MAX: u64 = 4096;

pub(super) fn ntfs(probed: &Probed<'_>) -> io::Result<Option<Content>> {
    let head = &probed.head;
    if !has(head, 3, b"NTFS    ") || !has(head, 510, &[0x55, 0xaa]) {
        return Ok(None);
    }
    let label = match volume_record(head) {
        Some((offset, length)) => volume_name(&probed.read(offset, length)?),
        None => None,
    };
    let serial = le64(head, 72).filter(|serial| *serial != 0);
    Ok(Some(Content { kind: Kind::Ntfs, uuid: serial.map(|serial| format!("{serial:016X}")), label }))
}

/// Returns where the record of `$Volume` stands, and its length.
fn volume_record(head: &[u8]) -> Option<(u64, usize)> {
    let sector = u64::from(le16(head, 11)?);
    let cluster = sector.checked_mul(power_or_count(byte(head, 13)?))?;
    // A negative number is that of a power of two, in bytes; a positive one counts clusters.
    let record = match byte(head, 64)? {
        clusters @ 1..=0x7f => cluster.checked_mul(clusters.into())?,
        power => 1_u64.checked_shl(256 - u32::from(power))?,
    };
    if !(256..=RECORD_BYTES_MAX).contains(&record) {
        return None;
    }
    let offset = le64(head, 48)?.checked_mul(cluster)?.checked_add(VOLUME_RECORD * record)?;
    Some((offset, usize::try_from(record).ok()?))
}

/// Sectors of a cluster: large ones are given as a negative power of two.
fn power_or_count(sectors: u8) -> u64 {
    if sectors <= 0x80 { sectors.into() } else { 1_u64.checked_shl(256 - u32::from(sectors)).unwrap_or(0) }
}

fn volume_name(record: &[u8]) -> Option<String> {
    if !has(record, 0, b"FILE") {
        return None;
    }
    let mut at = usize::from(le16(record, 20)?);
    loop {
        let (kind, length) = (le32(record, at)?, le32(record, at + 4)?);
        if kind == VOLUME_NAME {
            let start = at + usize::from(le16(record, at + 20)?);
            let length = usize::try_from(le32(record, at + 16)?).ok()?;
            return utf16(record.get(start..start.checked_add(length)?)?, true);
        }
        if kind > VOLUME_NAME || length < 24 {
            return None;
        }
        // The record ends the loop: a field beyond it is none.
        at = at.checked_add(usize::try_from(length).ok()?)?;
    }
}
