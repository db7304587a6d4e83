//! What file systems may lie in, and swap space.

use std::io;

use super::{Content, Kind, Probed};
use crate::contents::bytes::{be16, has, le32, le64, text, uuid};
use crate::contents::lvm::label;

/// Sizes of a page for which swap space is made; its mark ends with the first page.
const PAGE_BYTES: [usize; 5] = [4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10];

/// A member of an array with metadata 1.0 (at the end), 1.1 (at the start) or 1.2 (4 KiB behind that).
pub(super) fn mdraid(probed: &Probed<'_>) -> io::Result<Option<Content>> {
    let sectors = probed.device.size_bytes() / 512;
    let at_end = sectors.saturating_sub(16) & !7;
    for sector in [0, 8, at_end] {
        // What lies at the start can be told even if the end cannot be read.
        let Ok(superblock) = probed.read(sector * 512, 256) else { continue };
        // Behind the magic: the major version. The superblock knows its own place.
        let is_valid = le32(&superblock, 0) == Some(0xa92b_4efc)
            && le32(&superblock, 4) == Some(1)
            && le64(&superblock, 144) == Some(sector);
        if is_valid {
            let (uuid, label) = (uuid(&superblock, 16), text(&superblock, 32, 32));
            return Ok(Some(Content { kind: Kind::Mdraid, uuid, label }));
        }
    }
    Ok(None)
}

pub(super) fn lvm_physical_volume(probed: &Probed<'_>) -> io::Result<Option<Content>> {
    let found = label::find(&probed.head);
    Ok(found.map(|found| Content { kind: Kind::LvmPhysicalVolume, uuid: Some(found.uuid), label: None }))
}

pub(super) fn luks(probed: &Probed<'_>) -> io::Result<Option<Content>> {
    let head = &probed.head;
    let label = match be16(head, 6) {
        _ if !has(head, 0, b"LUKS\xba\xbe") => return Ok(None),
        Some(1) => None,
        Some(2) => text(head, 24, 48),
        _ => return Ok(None),
    };
    Ok(Some(Content { kind: Kind::Luks, uuid: text(head, 168, 40), label }))
}

pub(super) fn bitlocker(probed: &Probed<'_>) -> io::Result<Option<Content>> {
    let is_bitlocker = has(&probed.head, 3, b"-FVE-FS-");
    Ok(is_bitlocker.then_some(Content { kind: Kind::BitLocker, uuid: None, label: None }))
}

pub(super) fn swap(probed: &Probed<'_>) -> io::Result<Option<Content>> {
    let head = &probed.head;
    let is_swap = PAGE_BYTES.iter().any(|page| has(head, page - 10, b"SWAPSPACE2"));
    if !is_swap || le32(head, 1024) != Some(1) {
        return Ok(None);
    }
    Ok(Some(Content { kind: Kind::Swap, uuid: uuid(head, 1036), label: text(head, 1052, 16) }))
}
