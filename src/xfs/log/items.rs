//! One logged item of a transaction, region by region; what of it is a superblock.
//!
//! The first region says what the item is. Of a buffer it gives the place on the disk and a bitmap of the chunks of 128
//! bytes that were logged; each run of chunks is a region behind it (`xlog_recover_do_reg_buffer` in the kernel's
//! `xfs_buf_item_recover.c`). Any region may come in pieces, over several records.

use super::super::bytes::{le16_at, le32_at, le64_at};

const BUFFER: u16 = 0x123c;
const CHUNK_BYTES: usize = 128;
/// struct xfs_buf_log_format up to its bitmap, and the longest bitmap: a buffer of 64 KiB.
const BITMAP_AT: usize = 20;
const BITMAP_WORDS_MAX: usize = 17;
const DESCRIPTION_BYTES_MAX: usize = BITMAP_AT + 4 * BITMAP_WORDS_MAX;
/// XLOG_MAX_REGIONS_IN_ITEM.
const REGIONS_MAX: u16 = 257;

/// Bytes of a superblock in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LoggedPart {
    /// In the record's unpacked payload.
    pub(super) payload_at: usize,
    pub(super) superblock_at: usize,
    pub(super) length: usize,
}

#[derive(Debug, Default, Clone)]
pub(super) struct Item {
    description: Vec<u8>,
    regions: u16,
    /// Regions that have begun.
    begun: u16,
    /// Of the current region, behind the description.
    length: usize,
    /// The chunk that the current region begins with; none behind the last one.
    chunk: Option<usize>,
}

impl Item {
    /// Takes the beginning of the next region. None when no such region can follow.
    pub(super) fn begin_region(
        &mut self,
        at: usize,
        bytes: &[u8],
        is_superblock: impl Fn(u64) -> bool,
    ) -> Option<Option<LoggedPart>> {
        match self.begun {
            0 => {
                self.regions = le16_at(bytes, 2);
                if bytes.len() < 4 || self.regions == 0 || self.regions > REGIONS_MAX {
                    return None;
                }
            }
            begun if begun >= self.regions => return None,
            1 => self.chunk = self.next_run(0).map(|(chunk, _)| chunk),
            _ => self.skip_run(),
        }
        self.begun += 1;
        self.length = 0;
        Some(self.extend_region(at, bytes, is_superblock))
    }

    /// Takes more of the current region.
    pub(super) fn extend_region(
        &mut self,
        at: usize,
        bytes: &[u8],
        is_superblock: impl Fn(u64) -> bool,
    ) -> Option<LoggedPart> {
        if self.begun <= 1 {
            let room = DESCRIPTION_BYTES_MAX.saturating_sub(self.description.len());
            self.description.extend(bytes.iter().take(room));
            return None;
        }
        let superblock_at = self.chunk? * CHUNK_BYTES + self.length;
        self.length += bytes.len();
        let is_wanted = self.is_buffer() && is_superblock(le64_at(&self.description, 8));
        is_wanted.then_some(LoggedPart { payload_at: at, superblock_at, length: bytes.len() })
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun > 0
    }

    pub(super) fn has_all_regions(&self) -> bool {
        self.begun > 0 && self.begun == self.regions
    }

    fn is_buffer(&self) -> bool {
        le16_at(&self.description, 0) == BUFFER
    }

    /// Goes to the run of chunks behind the region that has ended, which may be shorter than its run.
    fn skip_run(&mut self) {
        let Some(chunk) = self.chunk else { return };
        let run = self.next_run(chunk).map_or(0, |(_, chunks)| chunks);
        let chunks = run.min(self.length / CHUNK_BYTES);
        self.chunk = self.next_run(chunk + chunks).map(|(chunk, _)| chunk);
    }

    /// Returns the first logged chunk from `from` on, and how many follow without a gap.
    fn next_run(&self, from: usize) -> Option<(usize, usize)> {
        let words = (le32_at(&self.description, 16) as usize).min(BITMAP_WORDS_MAX);
        let is_logged = |chunk: usize| {
            chunk < words * 32
                && le32_at(&self.description, BITMAP_AT + chunk / 32 * 4) >> (chunk % 32) & 1 == 1
        };
        let first = (from..words * 32).find(|chunk| is_logged(*chunk))?;
        let chunks = (first..words * 32).take_while(|chunk| is_logged(*chunk)).count();
        Some((first, chunks))
    }
}
