//! The transactions in the payloads of records: operation headers, and items whose regions go on from one record to the next
//! (`xlog_recover_process_ophdr`, `xlog_recover_add_to_trans` and `xlog_recover_add_to_cont_trans` in the kernel's
//! `xfs_log_recover.c`). Several transactions may be interleaved.

use std::collections::HashMap;

use super::super::bytes::{be32_at, le32_at, u8_at};
use super::super::error::Refused;
use super::items::{Item, LoggedPart};

const OPERATION_HEADER_BYTES: usize = 12;
const TRANSACTION_CLIENT: u8 = 0x69;
const LOG_CLIENT: u8 = 0xaa;
const START: u8 = 0x01;
const COMMIT: u8 = 0x02;
const CONTINUES: u8 = 0x04;
const CONTINUED: u8 = 0x08;
const END: u8 = 0x10;
const UNMOUNT: u8 = 0x20;
const TRANSACTION_HEADER_BYTES: usize = 16;
/// "TRAN", as the machine that wrote it has it.
const TRANSACTION_MAGIC: u32 = 0x5452_414e;
/// Far more than a kernel has under way at once: it gathers them, and writes a few checkpoints at a time.
const OPEN_MAX: usize = 4096;

/// The operations of a record contradict each other or its length.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// What the payload of one record holds.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) parts: Vec<LoggedPart>,
    /// The file system was unmounted with this record: nothing is left to be replayed.
    pub(super) is_unmount: bool,
}

#[derive(Debug, Default)]
enum Transaction {
    /// The part of its own header that came so far, which says nothing that we want.
    #[default]
    Started,
    Item(Item),
}

/// The transactions that are under way between two records.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    open: HashMap<u32, Transaction>,
}

impl Transactions {
    /// Gives up on all that have begun: a record in the middle is lost, and no mount replays what goes over it.
    pub(super) fn forget(&mut self) {
        self.open.clear();
    }

    /// Takes the next record's unpacked payload.
    pub(super) fn take(
        &mut self,
        payload: &[u8],
        operations: u32,
        is_superblock: impl Fn(u64) -> bool + Copy,
    ) -> Result<Result<Contents, Malformed>, Refused> {
        let mut contents = Contents::default();
        let mut at = 0;
        // Each operation takes 12 bytes at least, whatever their number is said to be.
        for _ in 0..operations {
            let Some(header) = payload.get(at..at + OPERATION_HEADER_BYTES) else { break };
            let begin = at + OPERATION_HEADER_BYTES;
            let bytes =
                begin.checked_add(be32_at(header, 4) as usize).and_then(|end| payload.get(begin..end));
            let Some(bytes) = bytes else { return Ok(Err(Malformed)) };
            let (client, flags) = (u8_at(header, 8), u8_at(header, 9));
            if client != TRANSACTION_CLIENT && client != LOG_CLIENT {
                return Ok(Err(Malformed));
            }
            contents.is_unmount |= flags & UNMOUNT != 0;
            match self.operation(be32_at(header, 0), flags, begin, bytes, is_superblock) {
                Ok(part) => contents.parts.extend(part),
                Err(Malformed) => return Ok(Err(Malformed)),
            }
            if self.open.len() > OPEN_MAX {
                return Err(Refused::LogTangled {
                    what: "thousands of transactions have begun and not ended",
                });
            }
            at = begin + bytes.len();
        }
        Ok(Ok(contents))
    }

    fn operation(
        &mut self,
        id: u32,
        flags: u8,
        at: usize,
        bytes: &[u8],
        is_superblock: impl Fn(u64) -> bool,
    ) -> Result<Option<LoggedPart>, Malformed> {
        if flags & START != 0 {
            self.open.insert(id, Transaction::Started);
            return Ok(None);
        }
        if flags & (COMMIT | UNMOUNT) != 0 {
            self.open.remove(&id);
            return Ok(None);
        }
        // What goes on from before the oldest record is passed over, by a mount too.
        let Some(transaction) = self.open.get_mut(&id) else { return Ok(None) };
        // A piece in the middle of a region is both continued and continues.
        let kind = if flags & CONTINUED != 0 { flags & !CONTINUES } else { flags } & !END;
        match kind {
            0 | CONTINUES => transaction.add(at, bytes, is_superblock),
            CONTINUED => transaction.extend(at, bytes, is_superblock),
            _ => Err(Malformed),
        }
    }
}

impl Transaction {
    fn add(
        &mut self,
        at: usize,
        bytes: &[u8],
        is_superblock: impl Fn(u64) -> bool,
    ) -> Result<Option<LoggedPart>, Malformed> {
        if bytes.is_empty() {
            return Ok(None);
        }
        match self {
            Self::Started => {
                let is_header = bytes.len() <= TRANSACTION_HEADER_BYTES
                    && (bytes.len() < 4 || le32_at(bytes, 0) == TRANSACTION_MAGIC);
                if !is_header {
                    return Err(Malformed);
                }
                if bytes.len() == TRANSACTION_HEADER_BYTES {
                    *self = Self::Item(Item::default());
                }
                Ok(None)
            }
            Self::Item(item) => {
                if item.has_all_regions() {
                    *item = Item::default();
                }
                item.begin_region(at, bytes, is_superblock).ok_or(Malformed)
            }
        }
    }

    fn extend(
        &mut self,
        at: usize,
        bytes: &[u8],
        is_superblock: impl Fn(u64) -> bool,
    ) -> Result<Option<LoggedPart>, Malformed> {
        match self {
            Self::Started => {
                // The rest of the transaction's header, which was split over two records.
                *self = Self::Item(Item::default());
                Ok(None)
            }
            Self::Item(item) if item.has_begun() => Ok(item.extend_region(at, bytes, is_superblock)),
            // The transaction's header was whole, and is continued by nothing: an empty piece.
            Self::Item(_) if bytes.is_empty() => Ok(None),
            Self::Item(_) => Err(Malformed),
        }
    }
}
