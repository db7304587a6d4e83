//! File systems with one superblock at one place.

use std::io;

use super::{Content, Kind, Probed};
use crate::contents::bytes::{array, be16, byte, has, le16, le32, text, utf16, uuid};

/// Features with which a file system is still ext2, and still ext3; one with any other is ext4.
const EXT_READ_ONLY_OLD: u32 = 0x7;
const EXT_INCOMPATIBLE_EXT2: u32 = 0x12;
const EXT_INCOMPATIBLE_EXT3: u32 = 0x16;
const EXT_HAS_JOURNAL: u32 = 0x4;
const EXT_IS_JOURNAL: u32 = 0x8;

pub(super) fn xfs(probed: &Probed<'_>) -> io::Result<Option<Content>> {
    let head = &probed.head;
    let is_version_known = be16(head, 100).is_some_and(|version| matches!(version & 0xf, 4 | 5));
    let is_sector_size = be16(head, 102).is_some_and(|size| size >= 512 && size.is_power_of_two());
    if !has(head, 0, b"XFSB") || !is_version_known || !is_sector_size {
        return Ok(None);
    }
    Ok(Some(Content { kind: Kind::Xfs, uuid: uuid(head, 32), label: text(head, 108, 12) }))
}

pub(super) fn ext(probed: &Probed<'_>) -> io::Result<Option<Content>> {
    Ok(probed.head.get(1024..).and_then(ext_superblock))
}

fn ext_superblock(superblock: &[u8]) -> Option<Content> {
    if le16(superblock, 56)? != 0xef53 {
        return None;
    }
    let compatible = le32(superblock, 92)?;
    let incompatible = le32(superblock, 96)?;
    let is_old = le32(superblock, 100)? & !EXT_READ_ONLY_OLD == 0;
    let has_journal = compatible & EXT_HAS_JOURNAL != 0;
    let kind = if incompatible & EXT_IS_JOURNAL != 0 {
        Kind::Jbd
    } else if is_old && !has_journal && incompatible & !EXT_INCOMPATIBLE_EXT2 == 0 {
        Kind::Ext2
    } else if is_old && has_journal && incompatible & !EXT_INCOMPATIBLE_EXT3 == 0 {
        Kind::Ext3
    } else {
        Kind::Ext4
    };
    Some(Content { kind, uuid: uuid(superblock, 104), label: text(superblock, 120, 16) })
}

pub(super) fn squashfs(probed: &Probed<'_>) -> io::Result<Option<Content>> {
    let is_squashfs = has(&probed.head, 0, b"hsqs") && le16(&probed.head, 28) == Some(4);
    Ok(is_squashfs.then_some(Content { kind: Kind::Squashfs, uuid: None, label: None }))
}

pub(super) fn erofs(probed: &Probed<'_>) -> io::Result<Option<Content>> {
    let head = &probed.head;
    if le32(head, 1024) != Some(0xe0f5_e1e2) {
        return Ok(None);
    }
    Ok(Some(Content { kind: Kind::Erofs, uuid: uuid(head, 1024 + 48), label: text(head, 1024 + 64, 16) }))
}

pub(super) fn f2fs(probed: &Probed<'_>) -> io::Result<Option<Content>> {
    let head = &probed.head;
    if le32(head, 1024) != Some(0xf2f5_2010) {
        return Ok(None);
    }
    let label = head.get(1024 + 124..1024 + 124 + 1024).and_then(|field| utf16(field, true));
    Ok(Some(Content { kind: Kind::F2fs, uuid: uuid(head, 1024 + 108), label }))
}

pub(super) fn iso9660(probed: &Probed<'_>) -> io::Result<Option<Content>> {
    let descriptor = probed.head.get(32768..).unwrap_or_default();
    if !has(descriptor, 1, b"CD001") || byte(descriptor, 0) != Some(1) {
        return Ok(None);
    }
    // Of the last change, or else of the creation.
    let uuid = iso_date(descriptor, 830).or_else(|| iso_date(descriptor, 813));
    Ok(Some(Content { kind: Kind::Iso9660, uuid, label: text(descriptor, 40, 32) }))
}

/// Returns a date of sixteen digits with hyphens between its parts; `None` for one that was not set.
fn iso_date(descriptor: &[u8], at: usize) -> Option<String> {
    let digits: [u8; 16] = array(descriptor, at)?;
    if !digits.iter().all(u8::is_ascii_digit) || digits.iter().all(|digit| *digit == b'0') {
        return None;
    }
    let (year, rest) = digits.split_at_checked(4)?;
    let parts = std::iter::once(year).chain(rest.chunks(2));
    Some(parts.map(String::from_utf8_lossy).collect::<Vec<_>>().join("-"))
}

pub(super) fn btrfs(probed: &Probed<'_>) -> io::Result<Option<Content>> {
    let superblock = probed.read(64 << 10, 1024)?;
    if !has(&superblock, 64, b"_BHRfS_M") {
        return Ok(None);
    }
    Ok(Some(Content { kind: Kind::Btrfs, uuid: uuid(&superblock, 32), label: text(&superblock, 299, 256) }))
}
