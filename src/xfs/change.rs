//! Writes a plan, in an order in which a kill at any moment leaves what a later run finishes:
//!
//! 1. the first superblock gets the mark and "in progress", and keeps the old UUID;
//! 2. the log; 3. the other superblocks; each in any order within itself;
//! 4. the first superblock gets the new UUID and loses the mark.
//!
//! Between these the device is synced. No write is larger than what changes, none tears below 512 bytes, and each sector is
//! either as it was or as it will be: by the checksums a later run knows which.

use std::iter::Peekable;

use uuid::Uuid;

use crate::sysio::device::WriteAt;

use super::bytes::{put, uuid_at};
use super::check::check_after;
use super::error::{Refused, XfsError};
use super::log::{BLOCK_BYTES, HEADER_CRC_AT, HEADER_UUID_AT, HeaderChange, PayloadChange, is_header};
use super::plan::{Plan, plan};
use super::stamp::{finished, marked};
use super::superblock::{SECTOR_BYTES, UUID_AT, read};

/// So much of the log is read at once where something changes in it.
const BATCH_BLOCKS: u32 = 512;

/// Gives the XFS on `device` the UUID `new`, after finishing an earlier change if one was cut off, and reads all of it back.
///
/// Returns the last plan. It may be killed at any time, and is then run again, with any UUID.
pub fn change(device: &dyn WriteAt, new: Uuid) -> Result<Plan, XfsError> {
    let first = plan(device, new)?;
    first.apply(device)?;
    check_after(device, &first)?;
    if first.new_uuid == new {
        return Ok(first);
    }
    let second = plan(device, new)?;
    second.apply(device)?;
    check_after(device, &second)?;
    Ok(second)
}

impl Plan {
    /// Writes the plan to the device it was made of, or to an exact copy; refused, with nothing written, where
    /// the first superblock is another one by now. Durable when it returns. `check` says whether all is as it should be.
    pub fn apply(&self, target: &dyn WriteAt) -> Result<(), XfsError> {
        if self.is_empty() {
            return Ok(());
        }
        let sector = &self.superblock.sector;
        if target.size_bytes() < sector.len() as u64 || read(target, 0, sector.len())? != *sector {
            return Err(Refused::Changed.into());
        }
        if !self.finishes_earlier {
            write_superblock(target, 0, &marked(&self.superblock, self.new.uuid))?;
            sync(target)?;
        }
        self.write_log(target)?;
        sync(target)?;
        self.write_groups(target)?;
        sync(target)?;
        write_superblock(target, 0, &finished(&self.superblock, &self.new))?;
        sync(target)
    }

    fn write_log(&self, target: &dyn WriteAt) -> Result<(), XfsError> {
        let mut headers = self.log.headers.iter().peekable();
        let mut payload = self.log.payload.iter().peekable();
        loop {
            let next = [headers.peek().map(|change| change.block), payload.peek().map(|change| change.block)];
            let Some(first) = next.into_iter().flatten().min() else { return Ok(()) };
            let count = BATCH_BLOCKS.min(self.superblock.log_blocks - first);
            let offset = self.superblock.log_start + u64::from(first) * BLOCK_BYTES as u64;
            let before = read(target, offset, count as usize * BLOCK_BYTES)?;
            let mut after = before.clone();
            let mut batch = Batch { first, end: first + count, bytes: &mut after };
            batch.change_headers(&mut headers, self)?;
            batch.change_payload(&mut payload);
            write_differing(target, offset, &before, &after)?;
        }
    }

    fn write_groups(&self, target: &dyn WriteAt) -> Result<(), XfsError> {
        let superblock = &self.superblock;
        for group in 1..self.groups {
            // Groups that only the log knows of are there when its last mount came that far.
            let Ok(mut sector) = superblock.read_group(target, group)? else {
                if group >= superblock.groups {
                    continue;
                }
                return Err(XfsError::Unsound {
                    what: format!("the superblock of group {group} was changed"),
                });
            };
            if uuid_at(&sector, UUID_AT) == self.old.uuid {
                self.new.put_on(&mut sector, superblock.version);
                write_superblock(target, superblock.group_offset(group), &sector)?;
            }
        }
        Ok(())
    }
}

/// Some blocks of the log while they change.
struct Batch<'a> {
    first: u32,
    end: u32,
    bytes: &'a mut [u8],
}

impl Batch<'_> {
    fn change_headers<'c>(
        &mut self,
        headers: &mut Peekable<impl Iterator<Item = &'c HeaderChange>>,
        plan: &Plan,
    ) -> Result<(), XfsError> {
        while let Some(change) = headers.next_if(|change| change.block < self.end) {
            let at = (change.block - self.first) as usize * BLOCK_BYTES;
            let Some(block) = self.bytes.get_mut(at..at + BLOCK_BYTES) else { continue };
            let found = uuid_at(block, HEADER_UUID_AT);
            if !is_header(block) || found != plan.old.uuid && found != plan.new.uuid {
                let what = format!("block {} of the log was changed while its UUID was", change.block);
                return Err(XfsError::Unsound { what });
            }
            put(block, HEADER_UUID_AT, &plan.new.uuid);
            put(block, HEADER_CRC_AT, &change.crc);
        }
        Ok(())
    }

    fn change_payload<'c>(&mut self, payload: &mut Peekable<impl Iterator<Item = &'c PayloadChange>>) {
        while let Some(change) = payload.next_if(|change| change.block < self.end) {
            let at = (change.block - self.first) as usize * BLOCK_BYTES + usize::from(change.at);
            put(self.bytes, at, change.bytes());
        }
    }
}

/// Writes the blocks that differ, neighbours together, and no other.
fn write_differing(target: &dyn WriteAt, offset: u64, before: &[u8], after: &[u8]) -> Result<(), XfsError> {
    let differs: Vec<bool> =
        before.chunks(BLOCK_BYTES).zip(after.chunks(BLOCK_BYTES)).map(|(old, new)| old != new).collect();
    let mut block = 0;
    for run in differs.chunk_by(|one, next| one == next) {
        let at = block * BLOCK_BYTES;
        block += run.len();
        if run.first() == Some(&true)
            && let Some(bytes) = after.get(at..block * BLOCK_BYTES)
        {
            write(target, offset + at as u64, bytes)?;
        }
    }
    Ok(())
}

/// Writes the part of a superblock's sector that holds its fields, the checksum and the mark: one write that does not tear.
fn write_superblock(target: &dyn WriteAt, offset: u64, sector: &[u8]) -> Result<(), XfsError> {
    write(target, offset, sector.get(..SECTOR_BYTES).unwrap_or(sector))
}

fn write(target: &dyn WriteAt, offset: u64, bytes: &[u8]) -> Result<(), XfsError> {
    let length = bytes.len();
    target.write_all_at(offset, bytes).map_err(|source| XfsError::Io {
        action: "write",
        offset,
        length,
        source,
    })
}

fn sync(target: &dyn WriteAt) -> Result<(), XfsError> {
    target.sync().map_err(|source| XfsError::Io { action: "sync", offset: 0, length: 0, source })
}
