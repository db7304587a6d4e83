//! Inodes of ext2, ext3 and ext4.

use super::bytes::{le16, le32};
use super::ext_map::BlockMap;
use crate::files::metadata::{DeviceNumber, FileKind, FileMetadata, FileTime};

const FLAG_ENCRYPTED: u32 = 0x800;
const FLAG_HUGE_FILE: u32 = 0x4_0000;
const FLAG_EXTENTS: u32 = 0x8_0000;
const FLAG_INLINE_DATA: u32 = 0x1000_0000;
/// What every inode has; what is behind has its own length.
const OLD_BYTES: usize = 128;
const BLOCK_AT: usize = 0x28;
const BLOCK_BYTES: usize = 60;
const SECTOR_BYTES: u64 = 512;

pub struct ExtInode {
    pub number: u32,
    bytes: Vec<u8>,
}

impl ExtInode {
    pub fn new(number: u32, bytes: Vec<u8>) -> Self {
        Self { number, bytes }
    }

    pub fn kind(&self) -> Option<FileKind> {
        Some(match le16(&self.bytes, 0) >> 12 {
            0x1 => FileKind::Fifo,
            0x2 => FileKind::CharDevice,
            0x4 => FileKind::Folder,
            0x6 => FileKind::BlockDevice,
            0x8 => FileKind::File,
            0xa => FileKind::Link,
            0xc => FileKind::Socket,
            _ => return None,
        })
    }

    pub fn size_bytes(&self) -> u64 {
        u64::from(le32(&self.bytes, 0x6c)) << 32 | u64::from(le32(&self.bytes, 4))
    }

    pub fn map(&self, block_bytes: u64) -> BlockMap {
        BlockMap { block_bytes, root: self.block_field().to_vec(), has_extents: self.has(FLAG_EXTENTS) }
    }

    /// A short target stands in the inode itself.
    pub fn short_target(&self) -> Option<&[u8]> {
        let length = usize::try_from(self.size_bytes()).ok().filter(|length| *length < BLOCK_BYTES)?;
        if self.has(FLAG_EXTENTS | FLAG_INLINE_DATA) {
            return None;
        }
        self.block_field().get(..length)
    }

    /// Why its content cannot be read, though it is in order.
    pub fn unreadable(&self) -> Option<&'static str> {
        if self.has(FLAG_ENCRYPTED) {
            Some("it is encrypted")
        } else if self.has(FLAG_INLINE_DATA) {
            Some("it is kept inside its inode (inline_data)")
        } else {
            None
        }
    }

    pub fn metadata(&self, kind: FileKind, block_bytes: u64) -> FileMetadata {
        let wide = |low, high| u32::from(le16(&self.bytes, low)) | u32::from(le16(&self.bytes, high)) << 16;
        let blocks = u64::from(le32(&self.bytes, 0x1c)) | u64::from(le16(&self.bytes, 0x74)) << 32;
        let unit = if self.has(FLAG_HUGE_FILE) { block_bytes } else { SECTOR_BYTES };
        let has_number = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
        FileMetadata {
            kind,
            size_bytes: if has_number { 0 } else { self.size_bytes() },
            allocated_bytes: Some(blocks.saturating_mul(unit)),
            mode: le16(&self.bytes, 0) & 0o7777,
            uid: wide(2, 0x78),
            gid: wide(0x18, 0x7a),
            links: Some(u32::from(le16(&self.bytes, 0x1a))),
            modified: self.time(0x10, 0x88),
            accessed: Some(self.time(8, 0x8c)),
            changed: Some(self.time(0xc, 0x84)),
            created: self.has_field(0x94).then(|| self.time(0x90, 0x94)),
            number: Some(self.number.into()),
            device: has_number.then(|| self.device_number()),
        }
    }

    /// Seconds since 1970, signed, with two more bits above them and the nanoseconds where the inode is large enough.
    fn time(&self, seconds_at: usize, extra_at: usize) -> FileTime {
        let seconds = i64::from(le32(&self.bytes, seconds_at).cast_signed());
        let extra = if self.has_field(extra_at) { le32(&self.bytes, extra_at) } else { 0 };
        FileTime { seconds: seconds + (i64::from(extra & 3) << 32), nanoseconds: extra >> 2 }
    }

    fn has_field(&self, at: usize) -> bool {
        self.bytes.len() > OLD_BYTES && at + 4 <= OLD_BYTES + usize::from(le16(&self.bytes, 0x80))
    }

    /// In 16 bits, or in 32 where that is too little.
    fn device_number(&self) -> DeviceNumber {
        let (old, new) = (le32(&self.bytes, BLOCK_AT), le32(&self.bytes, BLOCK_AT + 4));
        if old != 0 {
            return DeviceNumber { major: old >> 8 & 0xff, minor: old & 0xff };
        }
        DeviceNumber { major: new >> 8 & 0xfff, minor: new & 0xff | new >> 12 & 0xf_ff00 }
    }

    fn block_field(&self) -> &[u8] {
        self.bytes.get(BLOCK_AT..BLOCK_AT + BLOCK_BYTES).unwrap_or_default()
    }

    fn has(&self, flags: u32) -> bool {
        le32(&self.bytes, 0x20) & flags != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inode(fields: &[(usize, u32)]) -> ExtInode {
        let mut bytes = vec![0; 256];
        bytes[0x80] = 32;
        for (at, value) in fields {
            bytes[*at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        ExtInode::new(12, bytes)
    }

    #[test]
    fn times_before_1970_and_behind_2038_are_told() {
        let time = |seconds: i64| {
            let low = u32::try_from(seconds & 0xffff_ffff).unwrap();
            let above = u32::try_from((seconds - i64::from(low.cast_signed())) >> 32).unwrap();
            inode(&[(0x10, low), (0x88, above | 123_456_789 << 2)]).time(0x10, 0x88)
        };
        for seconds in [-1, -(1 << 31), 0, (1 << 31) - 1, 1 << 31, 4_102_444_800, (1 << 33) + 5] {
            assert_eq!(time(seconds), FileTime { seconds, nanoseconds: 123_456_789 });
        }
    }

    #[test]
    fn numbers_of_devices_are_told_in_both_forms() {
        let number = |fields| inode(fields).device_number();
        assert_eq!(number(&[(BLOCK_AT, 0x103)]), DeviceNumber { major: 1, minor: 3 });
        // The kernel's new_encode_dev(300, 70000).
        let packed = 70_000 & 0xff | 300 << 8 | (70_000 & !0xff) << 12;
        assert_eq!(number(&[(BLOCK_AT + 4, packed)]), DeviceNumber { major: 300, minor: 70_000 });
    }
}
