//! Which blocks of a scratch image were written to: two bits a block, in a sparse file.
//!
//! The file is changed with each write, so that a daemon that is killed loses nothing that was acknowledged: the
//! kernel has it. What a power cut leaves of it is another matter, since it may reach the disk before the data that it
//! speaks of. So a second file has the map as it was at the last sync, and counts after the machine has restarted.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use crate::sysio::holes;

/// As much as file systems write at once; a smaller write reads the rest of its block from the backup.
pub(super) const BLOCK_BYTES: u64 = 4096;

const BLOCKS_PER_BYTE: u64 = 4;

/// The map is synced, and looked through, in pages of this many bytes: a page tells of 64 MiB.
const PAGE_BYTES: u64 = 4096;

/// So many changed pages are remembered until the next sync: those of 1 TiB.
const CHANGED_PAGES_MAX: usize = 16_384;

/// Where a block's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the backup: nobody wrote to it.
    Backup,
    /// Nowhere: it was discarded and reads as zeros.
    Zero,
    /// In the scratch file.
    Scratch,
}

impl Place {
    fn bits(self) -> u8 {
        match self {
            Self::Backup => 0,
            Self::Zero => 1,
            Self::Scratch => 2,
        }
    }

    fn of_bits(bits: u8) -> io::Result<Self> {
        match bits & 3 {
            0 => Ok(Self::Backup),
            1 => Ok(Self::Zero),
            2 => Ok(Self::Scratch),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the map of the scratch image is damaged")),
        }
    }
}

pub(super) struct BlockMap {
    now: File,
    synced: File,
    blocks: u64,
    /// Pages that differ from what is in `synced`.
    changed: Mutex<BTreeSet<u64>>,
}

impl BlockMap {
    /// Takes the map's two files, which say the same, for so many blocks.
    pub(super) fn new(now: File, synced: File, blocks: u64) -> io::Result<Self> {
        let length = blocks.div_ceil(BLOCKS_PER_BYTE);
        now.set_len(length)?;
        synced.set_len(length)?;
        Ok(Self { now, synced, blocks, changed: Mutex::default() })
    }

    /// Calls `visit` with the runs of blocks that are at one place, ascending, without gaps.
    pub(super) fn runs(
        &self,
        blocks: Range<u64>,
        mut visit: impl FnMut(Place, Range<u64>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.runs_while(blocks, |place, run| visit(place, run).map(|()| true))
    }

    /// Calls `visit` with runs until it returns `false`.
    fn runs_while(
        &self,
        blocks: Range<u64>,
        mut visit: impl FnMut(Place, Range<u64>) -> io::Result<bool>,
    ) -> io::Result<()> {
        let mut run: Option<(Place, Range<u64>)> = None;
        let mut page = Vec::new();
        let mut block = blocks.start;
        while block < blocks.end {
            // One page of the map at a time.
            let page_end = (block / BLOCKS_PER_BYTE / PAGE_BYTES + 1) * PAGE_BYTES * BLOCKS_PER_BYTE;
            let end = page_end.min(blocks.end);
            let first_byte = block / BLOCKS_PER_BYTE;
            let length = (end - 1) / BLOCKS_PER_BYTE - first_byte + 1;
            page.resize(usize::try_from(length).unwrap_or_default(), 0);
            self.now.read_exact_at(&mut page, first_byte)?;
            while block < end {
                let byte = page.get(index(block / BLOCKS_PER_BYTE - first_byte)).copied().unwrap_or_default();
                let place = Place::of_bits(byte >> shift(block))?;
                match &mut run {
                    Some((of_run, range)) if *of_run == place => range.end = block + 1,
                    _ => {
                        if let Some((place, range)) = run.replace((place, block..block + 1))
                            && !visit(place, range)?
                        {
                            return Ok(());
                        }
                    }
                }
                block += 1;
            }
        }
        run.map_or(Ok(()), |(place, range)| visit(place, range).map(drop))
    }

    /// Returns the next run of blocks, in `blocks`, that were written to or discarded.
    pub(super) fn next_changed(&self, blocks: Range<u64>) -> io::Result<Option<(Place, Range<u64>)>> {
        let mut from = blocks.start;
        while from < blocks.end {
            let (start, end) = (from / BLOCKS_PER_BYTE, blocks.end.div_ceil(BLOCKS_PER_BYTE));
            // What was never written of the map is a hole of it: a terabyte without a write is one step.
            let Some(data) = holes::next_data(&self.now, start, end)? else { return Ok(None) };
            from = from.max(data.start * BLOCKS_PER_BYTE);
            let page_end = ((from / BLOCKS_PER_BYTE) / PAGE_BYTES + 1) * PAGE_BYTES * BLOCKS_PER_BYTE;
            let end = page_end.min(blocks.end);
            let mut found = None;
            self.runs_while(from..end, |place, run| {
                if place != Place::Backup {
                    found = Some((place, run));
                }
                Ok(place == Place::Backup)
            })?;
            if found.is_some() {
                return Ok(found);
            }
            from = end;
        }
        Ok(None)
    }

    /// Says where blocks are from now on. Not to be called by two threads at once.
    pub(super) fn set(&self, blocks: Range<u64>, place: Place) -> io::Result<()> {
        debug_assert!(blocks.end <= self.blocks);
        let mut block = blocks.start;
        let mut page = Vec::new();
        while block < blocks.end {
            let page_number = block / BLOCKS_PER_BYTE / PAGE_BYTES;
            let end = ((page_number + 1) * PAGE_BYTES * BLOCKS_PER_BYTE).min(blocks.end);
            let first_byte = block / BLOCKS_PER_BYTE;
            let length = (end - 1) / BLOCKS_PER_BYTE - first_byte + 1;
            page.resize(index(length), 0);
            self.now.read_exact_at(&mut page, first_byte)?;
            for block in block..end {
                if let Some(byte) = page.get_mut(index(block / BLOCKS_PER_BYTE - first_byte)) {
                    *byte = (*byte & !(3 << shift(block))) | (place.bits() << shift(block));
                }
            }
            self.note_changed(page_number);
            self.now.write_all_at(&page, first_byte)?;
            block = end;
        }
        Ok(())
    }

    fn note_changed(&self, page: u64) {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).insert(page);
    }

    /// Has so much changed that it is time to sync?
    pub(super) fn wants_sync(&self) -> bool {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).len() >= CHANGED_PAGES_MAX
    }

    /// Takes the pages that changed since the last time, as they are now. Not while somebody changes the map.
    pub(super) fn take_changed(&self) -> io::Result<ChangedPages> {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        let length = self.blocks.div_ceil(BLOCKS_PER_BYTE);
        let mut pages = Vec::with_capacity(changed.len());
        for page in changed.iter() {
            let start = page * PAGE_BYTES;
            let mut bytes = vec![0; index(PAGE_BYTES.min(length.saturating_sub(start)))];
            self.now.read_exact_at(&mut bytes, start)?;
            pages.push((start, bytes));
        }
        changed.clear();
        Ok(ChangedPages(pages))
    }

    /// Makes these pages durable: after the data that they speak of.
    pub(super) fn publish(&self, pages: &ChangedPages) -> io::Result<()> {
        for (start, bytes) in &pages.0 {
            self.synced.write_all_at(bytes, *start)?;
        }
        self.synced.sync_data()
    }
}

/// Pages of the map as they were at one moment.
pub(super) struct ChangedPages(Vec<(u64, Vec<u8>)>);

fn shift(block: u64) -> u32 {
    (block % BLOCKS_PER_BYTE) as u32 * 2
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(blocks: u64) -> BlockMap {
        BlockMap::new(tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap(), blocks).unwrap()
    }

    fn runs(map: &BlockMap, blocks: Range<u64>) -> Vec<(Place, Range<u64>)> {
        let mut runs = Vec::new();
        map.runs(blocks, |place, run| {
            runs.push((place, run));
            Ok(())
        })
        .unwrap();
        runs
    }

    #[test]
    fn what_was_set_is_found_across_bytes_and_pages() {
        // Three pages and a bit.
        let map = map(3 * 16_384 + 5);
        map.set(16_380..32_770, Place::Scratch).unwrap();
        map.set(20_001..20_003, Place::Zero).unwrap();
        let expected = [
            (Place::Backup, 0..16_380),
            (Place::Scratch, 16_380..20_001),
            (Place::Zero, 20_001..20_003),
            (Place::Scratch, 20_003..32_770),
            (Place::Backup, 32_770..3 * 16_384 + 5),
        ];
        assert_eq!(runs(&map, 0..3 * 16_384 + 5), expected);
        assert_eq!(map.next_changed(0..49_000).unwrap(), Some((Place::Scratch, 16_380..16_384)));
        assert_eq!(map.next_changed(20_001..49_000).unwrap(), Some((Place::Zero, 20_001..20_003)));
        assert_eq!(map.next_changed(32_770..49_157).unwrap(), None);
    }

    #[test]
    fn what_is_published_is_what_was_taken() {
        let map = map(40_000);
        map.set(1..2, Place::Scratch).unwrap();
        let taken = map.take_changed().unwrap();
        map.set(2..3, Place::Scratch).unwrap();
        map.publish(&taken).unwrap();
        let mut byte = [0];
        map.synced.read_exact_at(&mut byte, 0).unwrap();
        assert_eq!(byte, [0b1000]);
        map.publish(&map.take_changed().unwrap()).unwrap();
        map.synced.read_exact_at(&mut byte, 0).unwrap();
        assert_eq!(byte, [0b10_1000]);
    }
}
