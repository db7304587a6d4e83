//! What changes in the log, kept small: eight bytes for a record, and the few bytes that change in a logged superblock.
//! A log of 2 GiB has at most two million records, and so needs 16 MiB of memory; one of 64 MiB needs less than 1 MiB.

use super::super::error::Refused;
use super::record::{HEADER_CRC_AT, HEADER_UUID_AT, Record};
use super::ring::BLOCK_BYTES;

/// More logged superblocks than any log holds that a kernel of the last fifteen years wrote; 24 MiB of memory.
const PAYLOAD_CHANGES_MAX: usize = 1 << 20;

/// A header gets the new UUID, and this checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct HeaderChange {
    /// From the start of the log, in blocks of 512 bytes.
    pub(in super::super) block: u32,
    pub(in super::super) crc: [u8; 4],
}

/// A few bytes within one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct PayloadChange {
    pub(in super::super) block: u32,
    pub(in super::super) at: u16,
    length: u8,
    bytes: [u8; 16],
}

impl PayloadChange {
    pub(in super::super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length.into()).unwrap_or(&[])
    }
}

/// All changes of a log; after `finish` in the order of its blocks.
#[derive(Debug, Default)]
pub(in super::super) struct LogChanges {
    pub(in super::super) headers: Vec<HeaderChange>,
    pub(in super::super) payload: Vec<PayloadChange>,
}

impl LogChanges {
    pub(super) fn add_header(&mut self, block: u32, crc: [u8; 4]) {
        self.headers.push(HeaderChange { block, crc });
    }

    /// Notes what differs between a record and its successor, which begins at the same block of the ring.
    pub(super) fn add_difference(
        &mut self,
        before: &[u8],
        after: &Record,
        block_of: impl Fn(usize) -> u32,
    ) -> Result<(), Refused> {
        let mut pairs = before.iter().zip(&after.bytes).enumerate().peekable();
        while let Some((at, (old, new))) = pairs.next() {
            if old == new || is_header_field(at) {
                continue;
            }
            let mut change = PayloadChange {
                block: block_of(at / BLOCK_BYTES),
                at: (at % BLOCK_BYTES) as u16,
                length: 0,
                bytes: [0; 16],
            };
            change.push(*new);
            while let Some((_, (_, new))) = pairs.next_if(|(next, (old, new))| {
                old != new
                    && !next.is_multiple_of(BLOCK_BYTES)
                    && !is_header_field(*next)
                    && change.has_room()
            }) {
                change.push(*new);
            }
            if self.payload.len() == PAYLOAD_CHANGES_MAX {
                return Err(Refused::LogTangled { what: "hundreds of thousands of logged superblocks" });
            }
            self.payload.push(change);
        }
        Ok(())
    }

    pub(super) fn finish(&mut self) {
        self.headers.sort_unstable_by_key(|change| change.block);
        self.payload.sort_unstable_by_key(|change| (change.block, change.at));
    }

    pub(in super::super) fn is_empty(&self) -> bool {
        self.headers.is_empty() && self.payload.is_empty()
    }
}

impl PayloadChange {
    fn has_room(&self) -> bool {
        usize::from(self.length) < self.bytes.len()
    }

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(usize::from(self.length)) {
            *place = byte;
            self.length += 1;
        }
    }
}

/// Is it one of the two fields that a `HeaderChange` sets?
fn is_header_field(at: usize) -> bool {
    (HEADER_CRC_AT..HEADER_CRC_AT + 4).contains(&at) || (HEADER_UUID_AT..HEADER_UUID_AT + 16).contains(&at)
}
