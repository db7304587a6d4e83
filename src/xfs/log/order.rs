//! Which part of the log a mount would replay, and whether it could.
//!
//! A snapshot of a file system in use may have records at the head that were under way: a mount cuts off what begins with the first
//! unsound one of the last eight (`xlog_verify_head`), and so do we. From the tail that the last one left names, up to it,
//! all must be sound and without a gap. What is older is never looked at again.

use std::collections::VecDeque;

use uuid::Uuid;

use super::super::error::Refused;

/// XLOG_MAX_ICLOGS: so many records can be under way at once.
const UNDER_WAY_MAX: usize = 8;

#[derive(Debug, Clone, Copy)]
struct Seen {
    /// In blocks from where the walk around the ring began, at the oldest.
    position: u32,
    tail: u32,
    is_sound: bool,
    is_unmount: bool,
    /// The last thing before it that no mount gets over.
    last_break: Option<u32>,
}

/// The records of a log, told in the order of the walk around it.
#[derive(Debug)]
pub(super) struct Order {
    first_block: u32,
    blocks: u32,
    recent: VecDeque<Seen>,
    last_break: Option<u32>,
    last_foreign: Option<(u32, Uuid)>,
}

impl Order {
    pub(super) fn new(first_block: u32, blocks: u32) -> Self {
        Self { first_block, blocks, recent: VecDeque::new(), last_break: None, last_foreign: None }
    }

    pub(super) fn sound(&mut self, position: u32, tail_lsn: u64, is_unmount: bool) {
        self.push(position, tail_lsn, true, is_unmount);
    }

    /// Takes a record that is not sound, or the end of one behind which another should begin and does not.
    pub(super) fn broken(&mut self, position: u32, tail_lsn: u64) {
        self.push(position, tail_lsn, false, false);
        self.last_break = Some(position);
    }

    /// Takes a record of another file system.
    pub(super) fn foreign(&mut self, position: u32, uuid: Uuid) {
        self.last_foreign = Some((position, uuid));
    }

    /// Says whether there is anything to be replayed.
    pub(super) fn finish(&self) -> Result<bool, Refused> {
        let Some(newest) = self.recent.back() else { return self.without_records() };
        let older = self.recent.len().saturating_sub(UNDER_WAY_MAX);
        let cut = (older..self.recent.len()).find(|index| {
            self.recent.get(*index).is_some_and(|seen| !seen.is_sound && seen.position >= newest.tail)
        });
        let left = self.recent.iter().take(cut.unwrap_or(self.recent.len()));
        // Where all since the last mount is cut off, the unmount before it is what is left.
        let head = left
            .rev()
            .find(|seen| seen.is_sound)
            .filter(|seen| seen.position >= newest.tail || seen.is_unmount);
        let Some(head) = head else {
            return Err(Refused::TornLog { block: self.block(newest.position) });
        };
        if let Some(position) = head.last_break.filter(|position| *position >= head.tail) {
            return Err(Refused::TornLog { block: self.block(position) });
        }
        match self.last_foreign {
            Some((position, found)) if position >= head.tail => {
                Err(Refused::ForeignLog { found, block: self.block(position) })
            }
            _ => Ok(!head.is_unmount),
        }
    }

    /// A log that was never written is fine; one of somebody else is not.
    fn without_records(&self) -> Result<bool, Refused> {
        match self.last_foreign {
            Some((position, found)) => Err(Refused::ForeignLog { found, block: self.block(position) }),
            None => Ok(false),
        }
    }

    fn push(&mut self, position: u32, tail_lsn: u64, is_sound: bool, is_unmount: bool) {
        if self.recent.len() > UNDER_WAY_MAX {
            self.recent.pop_front();
        }
        // The low half of an LSN is the block at which its record begins.
        let tail_block = (tail_lsn & u64::from(u32::MAX)) % u64::from(self.blocks);
        let tail = (tail_block + u64::from(self.blocks - self.first_block)) % u64::from(self.blocks);
        let tail = u32::try_from(tail).unwrap_or(0);
        self.recent.push_back(Seen { position, tail, is_sound, is_unmount, last_break: self.last_break });
    }

    fn block(&self, position: u32) -> u64 {
        (u64::from(self.first_block) + u64::from(position)) % u64::from(self.blocks)
    }
}
