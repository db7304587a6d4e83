//! A writable image over one that never changes. What is written goes to a sparse file, at its own offset, in
//! blocks of 4 KiB; the map says which blocks are there.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::map::{BLOCK_BYTES, BlockMap, Place};
use super::space::Space;
use crate::sysio::device::{self, ReadAt, WriteAt};
use crate::sysio::holes;
use crate::types::ByteRange;

/// What is discarded at once, while nobody writes: what one page of the map tells of.
const PIECE_BYTES: u64 = 64 << 20;

pub(super) struct Overlay {
    base: Arc<dyn ReadAt>,
    data: File,
    map: BlockMap,
    space: Arc<Space>,
    /// Writes and discards so far.
    writes: AtomicU64,
    /// Held while blocks are written, with the bytes that this image has taken of the space. Readers need no lock: the
    /// bytes of a block are there before the map says so.
    held_bytes: Mutex<u64>,
    /// Held while something is made durable: the one who comes second waits for the first. Says whether that has failed:
    /// the kernel may have dropped what it could not write, so no later sync may succeed.
    syncing: Mutex<bool>,
}

impl Overlay {
    pub(super) fn new(
        base: Arc<dyn ReadAt>,
        data: File,
        map: BlockMap,
        space: Arc<Space>,
    ) -> io::Result<Self> {
        let blocks = base.size_bytes().div_ceil(BLOCK_BYTES);
        let mut held = 0;
        let mut from = 0;
        while let Some((place, run)) = map.next_changed(from..blocks)? {
            from = run.end;
            if place == Place::Scratch {
                held += (run.end - run.start) * BLOCK_BYTES;
            }
        }
        space.take_anyway(held);
        let (held_bytes, syncing) = (Mutex::new(held), Mutex::new(false));
        Ok(Self { base, data, map, space, writes: AtomicU64::new(0), held_bytes, syncing })
    }

    /// Bytes that were written, in whole blocks.
    pub(super) fn held_bytes(&self) -> u64 {
        *self.writing()
    }

    /// How often it was written to since it was opened.
    pub(super) fn writes(&self) -> u64 {
        self.writes.load(Ordering::Acquire)
    }

    /// When something was last written.
    pub(super) fn changed_at(&self) -> io::Result<SystemTime> {
        self.data.metadata()?.modified()
    }

    /// Makes a range read as zeros, and gives its space back.
    pub(super) fn discard(&self, range: ByteRange) -> io::Result<()> {
        let range = range.below(self.size_bytes());
        let mut from = range.start();
        while from < range.end() {
            // What reads as zeros already is passed by, so that to discard a large sparse disk is little work.
            from = match self.next_data(from)? {
                Some(data) if data < range.end() => data,
                _ => break,
            };
            let piece_end = (from / PIECE_BYTES + 1) * PIECE_BYTES;
            let piece = ByteRange::between(from, piece_end.min(range.end()));
            self.discard_piece(piece)?;
            if self.map.wants_sync() {
                self.sync()?;
            }
            from = piece.end();
        }
        Ok(())
    }

    fn discard_piece(&self, range: ByteRange) -> io::Result<()> {
        // The last block may be cut by the end of the image: to the end means the whole of it.
        let end_block = match range.end() == self.size_bytes() {
            true => range.end().div_ceil(BLOCK_BYTES),
            false => range.end() / BLOCK_BYTES,
        };
        let whole = range.start().div_ceil(BLOCK_BYTES)..end_block;
        if whole.is_empty() {
            return self.write_zeros(range);
        }
        let inner = ByteRange::between(whole.start * BLOCK_BYTES, (whole.end * BLOCK_BYTES).min(range.end()));
        self.write_zeros(ByteRange::between(range.start(), inner.start()))?;
        self.discard_blocks(whole)?;
        self.write_zeros(ByteRange::between(inner.end(), range.end()))
    }

    /// Writes zeros: to less than a block.
    fn write_zeros(&self, range: ByteRange) -> io::Result<()> {
        let mut zeros = [0; 2 * BLOCK_BYTES as usize];
        match zeros.get_mut(..usize::try_from(range.len()).unwrap_or(usize::MAX)) {
            Some([]) => Ok(()),
            Some(zeros) => self.write_all_at(range.start(), zeros),
            None => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn discard_blocks(&self, blocks: Range<u64>) -> io::Result<()> {
        let mut held = self.writing();
        let freed = self.count(&blocks, Place::Scratch)? * BLOCK_BYTES;
        // The map first: what a kill leaves in between is a block of the file that nobody reads.
        self.map.set(blocks.clone(), Place::Zero)?;
        self.writes.fetch_add(1, Ordering::AcqRel);
        *held = held.saturating_sub(freed);
        self.space.give_back(freed);
        if freed > 0 {
            let length = (blocks.end - blocks.start) * BLOCK_BYTES;
            holes::punch(&self.data, blocks.start * BLOCK_BYTES, length)?;
        }
        Ok(())
    }

    fn count(&self, blocks: &Range<u64>, wanted: Place) -> io::Result<u64> {
        let mut count = 0;
        self.map.runs(blocks.clone(), |place, run| {
            if place == wanted {
                count += run.end - run.start;
            }
            Ok(())
        })?;
        Ok(count)
    }

    fn writing(&self) -> MutexGuard<'_, u64> {
        self.held_bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what a write makes of the blocks that it touches: its bytes, with what else is in the first and the
    /// last one of them. `None` when it needs nothing of them: it covers them, or they are in the file already.
    fn merged(&self, offset: u64, bytes: &[u8], blocks: &Range<u64>) -> io::Result<Option<(u64, Vec<u8>)>> {
        let size_bytes = self.size_bytes();
        let start = blocks.start * BLOCK_BYTES;
        let end = (blocks.end * BLOCK_BYTES).min(size_bytes);
        let write_end = offset + bytes.len() as u64;
        let needs = |block: u64, is_partial: bool| -> io::Result<bool> {
            Ok(is_partial && self.count(&(block..block + 1), Place::Scratch)? == 0)
        };
        let last = blocks.end - 1;
        let last_start = last * BLOCK_BYTES;
        let head = needs(blocks.start, offset > start || (blocks.start == last && write_end < end))?;
        let tail = blocks.start != last && needs(last, write_end < end)?;
        if !head && !tail {
            return Ok(None);
        }
        let start = if head { start } else { offset };
        let end = if tail || (head && blocks.start == last) { end } else { write_end };
        let mut merged = vec![0; length(end - start)];
        if head {
            let head_end = (start + BLOCK_BYTES).min(size_bytes);
            let into = merged.get_mut(..length(head_end.min(end) - start)).unwrap_or_default();
            self.read_exact_at(start, into)?;
        }
        if tail {
            let into = merged.get_mut(length(last_start - start)..).unwrap_or_default();
            self.read_exact_at(last_start, into)?;
        }
        let at = length(offset - start);
        if let Some(into) = merged.get_mut(at..at + bytes.len()) {
            into.copy_from_slice(bytes);
        }
        Ok(Some((start, merged)))
    }
}

impl ReadAt for Overlay {
    fn size_bytes(&self) -> u64 {
        self.base.size_bytes()
    }

    fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        device::check_within(self.size_bytes(), offset, into.len(), io::ErrorKind::UnexpectedEof)?;
        let end = offset + into.len() as u64;
        let mut rest = into;
        let mut position = offset;
        self.map.runs(offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES), |place, run| {
            let run_end = (run.end * BLOCK_BYTES).min(end);
            let (part, behind) = std::mem::take(&mut rest).split_at_mut(length(run_end - position));
            match place {
                Place::Backup => self.base.read_exact_at(position, part)?,
                Place::Zero => part.fill(0),
                Place::Scratch => self.data.read_exact_at(part, position)?,
            }
            (rest, position) = (behind, run_end);
            Ok(())
        })
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        let blocks = self.size_bytes().div_ceil(BLOCK_BYTES);
        let mut from = offset;
        while from < self.size_bytes() {
            let in_base = self.base.next_data(from)?;
            let changed = self.map.next_changed(from / BLOCK_BYTES..blocks)?;
            match changed {
                Some((Place::Zero, run)) if in_base.is_some_and(|data| data < run.start * BLOCK_BYTES) => {
                    return Ok(in_base);
                }
                Some((Place::Zero, run)) => from = run.end * BLOCK_BYTES,
                Some((_, run)) => {
                    let written = (run.start * BLOCK_BYTES).max(from);
                    return Ok(Some(in_base.map_or(written, |data| data.min(written))));
                }
                None => return Ok(in_base),
            }
        }
        Ok(None)
    }

    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        let size_bytes = self.size_bytes();
        let blocks = size_bytes.div_ceil(BLOCK_BYTES);
        let mut from = offset;
        while from < size_bytes {
            let changed = self.map.next_changed(from / BLOCK_BYTES..blocks)?;
            let run = changed.as_ref().map(|(_, run)| run.start * BLOCK_BYTES..run.end * BLOCK_BYTES);
            let run_start = run.as_ref().map_or(size_bytes, |run| run.start.max(from));
            if run_start > from {
                let hole = self.base.next_hole(from)?;
                if hole < run_start {
                    return Ok(hole);
                }
            }
            match changed {
                Some((Place::Zero, _)) => return Ok(run_start),
                _ => from = run.map_or(size_bytes, |run| run.end),
            }
        }
        Ok(size_bytes)
    }
}

impl WriteAt for Overlay {
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        device::check_within(self.size_bytes(), offset, bytes.len(), io::ErrorKind::WriteZero)?;
        if bytes.is_empty() {
            return Ok(());
        }
        let blocks = offset / BLOCK_BYTES..(offset + bytes.len() as u64).div_ceil(BLOCK_BYTES);
        let mut held = self.writing();
        let there = self.count(&blocks, Place::Scratch)?;
        let new = (blocks.end - blocks.start - there) * BLOCK_BYTES;
        self.space.take(new)?;
        let written = (|| {
            match self.merged(offset, bytes, &blocks)? {
                Some((start, merged)) => self.data.write_all_at(&merged, start)?,
                None => self.data.write_all_at(bytes, offset)?,
            }
            if new > 0 { self.map.set(blocks.clone(), Place::Scratch) } else { Ok(()) }
        })();
        self.writes.fetch_add(1, Ordering::AcqRel);
        // A write that failed may have got as far as some of the blocks.
        let taken = match &written {
            Ok(()) => new,
            Err(_) => {
                let now = self.count(&blocks, Place::Scratch).unwrap_or(there);
                (now.saturating_sub(there) * BLOCK_BYTES).min(new)
            }
        };
        *held += taken;
        self.space.give_back(new - taken);
        drop(held);
        written?;
        // What is remembered until the next sync is bounded.
        if self.map.wants_sync() { self.sync() } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        let mut has_failed = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        if *has_failed {
            return Err(io::Error::other("the scratch file could not be synced before"));
        }
        let writing = self.writing();
        let changed = self.map.take_changed()?;
        drop(writing);
        let synced = self.data.sync_data().and_then(|()| self.map.publish(&changed));
        *has_failed = synced.is_err();
        synced
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        self.space.give_back(self.held_bytes());
    }
}

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
