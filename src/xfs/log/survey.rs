//! Goes around the log once, and says what changes in it.

use uuid::Uuid;

use crate::sysio::device::ReadAt;

use super::super::bytes::le32_at;
use super::super::error::{Refused, XfsError};
use super::super::stamp::Stamp;
use super::super::superblock::{GROUPS_AT, Superblock, UUID_AT};
use super::changes::LogChanges;
use super::items::LoggedPart;
use super::order::Order;
use super::record::{HEADER_CRC_AT, Header, Record};
use super::ring::{BLOCK_BYTES, Ring};
use super::transactions::{Contents, Transactions};

/// XLOG_FMT_LINUX_LE: items are written as the machine has them in memory.
const LITTLE_ENDIAN: u32 = 1;
/// Blocks looked at in one step for the newest record.
const STEP_BLOCKS: u32 = 2048;

/// From which stamp to which the log goes.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Transition {
    pub(in super::super) old: Stamp,
    pub(in super::super) new: Stamp,
    /// Some of it may have gone there already, sector by sector.
    pub(in super::super) is_unfinished: bool,
}

#[derive(Debug, Default)]
pub(in super::super) struct Survey {
    pub(in super::super) changes: LogChanges,
    /// Headers of this file system.
    pub(in super::super) records: u64,
    /// Headers of others, in the part that no mount looks at.
    pub(in super::super) foreign_records: u64,
    pub(in super::super) logged_superblocks: u64,
    /// The largest number of groups that a logged superblock names: there may be more than the one on the disk says.
    pub(in super::super) groups: u32,
    /// A mount has something to replay.
    pub(in super::super) is_dirty: bool,
}

pub(in super::super) fn survey(
    device: &dyn ReadAt,
    superblock: &Superblock,
    transition: Transition,
) -> Result<Survey, XfsError> {
    let mut ring = Ring::new(device, superblock);
    let newest = newest_record(&mut ring, &transition)?;
    let blocks = ring.blocks;
    let first = ring.wrapped(u64::from(newest) + 1);
    let mut surveyor = Surveyor {
        superblock,
        transition,
        transactions: Transactions::default(),
        order: Order::new(first, blocks),
        expected: None,
        highest_lsn: 0,
        // A sound log takes as much as it is long; one that was made to cost time ends here.
        bytes_left: u64::from(blocks) * BLOCK_BYTES as u64 * 4 + (64 << 20),
        groups: [0; 4],
        survey: Survey::default(),
    };
    let mut position = 0;
    while position < blocks {
        let block = ring.wrapped(u64::from(first) + u64::from(position));
        let header = Header::decode(ring.blocks(block, 1)?);
        position += match header {
            Some(header) => surveyor.header(&mut ring, position, block, header)?,
            None => 1,
        };
    }
    let mut survey = surveyor.survey;
    survey.is_dirty = surveyor.order.finish()?;
    survey.changes.finish();
    Ok(survey)
}

/// Returns the block of the record with the highest LSN: behind it is the oldest.
fn newest_record(ring: &mut Ring<'_>, transition: &Transition) -> Result<u32, XfsError> {
    let mut newest = None;
    for first in (0..ring.blocks).step_by(STEP_BLOCKS as usize) {
        let count = STEP_BLOCKS.min(ring.blocks - first);
        for (block, bytes) in (first..).zip(ring.blocks(first, count)?.chunks_exact(BLOCK_BYTES)) {
            let lsn = Header::decode(bytes)
                .filter(|header| transition.knows(header.uuid) && header.is_plausible())
                .filter(|header| header.lsn & u64::from(u32::MAX) == u64::from(block))
                .map(|header| (header.lsn, block));
            newest = newest.max(lsn);
        }
    }
    Ok(newest.map_or(ring.blocks - 1, |(_, block)| block))
}

impl Transition {
    fn knows(&self, uuid: [u8; 16]) -> bool {
        uuid == self.old.uuid || self.is_unfinished && uuid == self.new.uuid
    }
}

/// What can be said of a record.
enum State {
    Sound {
        is_unmount: bool,
    },
    /// It has no checksum.
    Unchecked {
        is_unmount: bool,
    },
    Unsound,
}

struct Surveyor<'a> {
    superblock: &'a Superblock,
    transition: Transition,
    transactions: Transactions,
    order: Order,
    /// Where the next record has to begin: behind the last one, when that was sound.
    expected: Option<u32>,
    highest_lsn: u64,
    bytes_left: u64,
    /// `sb_agcount` of the last logged superblock, which may come in parts.
    groups: [u8; 4],
    survey: Survey,
}

impl Surveyor<'_> {
    /// Takes the header that is here, and returns by how many blocks to go on.
    fn header(
        &mut self,
        ring: &mut Ring<'_>,
        position: u32,
        block: u32,
        header: Header,
    ) -> Result<u32, XfsError> {
        // A write that never came leaves a gap, and in it what was there in an earlier round.
        let is_older = header.lsn < self.highest_lsn;
        if let Some(expected) = self.expected.take()
            && (position != expected || is_older)
        {
            self.order.broken(expected, header.tail_lsn);
            self.transactions.forget();
        }
        if !self.transition.knows(header.uuid) {
            self.survey.foreign_records += 1;
            self.order.foreign(position, Uuid::from_bytes(header.uuid));
            self.transactions.forget();
            return Ok(1);
        }
        self.survey.records += 1;
        if header.is_filler() {
            self.change_header(block, &header, header.crc);
            return Ok(1);
        }
        if is_older {
            self.transactions.forget();
        }
        self.highest_lsn = self.highest_lsn.max(header.lsn);
        let (state, blocks) = self.record(ring, block, header)?;
        if is_older {
            self.transactions.forget();
            return Ok(blocks);
        }
        match state {
            State::Unsound => {
                self.order.broken(position, header.tail_lsn);
                self.transactions.forget();
            }
            State::Unchecked { is_unmount } => self.order.sound(position, header.tail_lsn, is_unmount),
            State::Sound { is_unmount } => {
                self.order.sound(position, header.tail_lsn, is_unmount);
                self.expected = Some(position + blocks);
            }
        }
        Ok(blocks)
    }

    fn record(&mut self, ring: &mut Ring<'_>, block: u32, header: Header) -> Result<(State, u32), XfsError> {
        let blocks = header.all_blocks();
        if !header.is_plausible() || blocks > ring.blocks {
            self.change_header(block, &header, header.crc);
            return Ok((State::Unsound, 1));
        }
        let left = self.bytes_left.checked_sub(u64::from(blocks) * BLOCK_BYTES as u64);
        self.bytes_left = left.ok_or(Refused::LogTangled { what: "its records overlap many times" })?;
        let record = Record { header, bytes: ring.blocks(block, blocks)?.to_vec() };
        let block_of = |index: usize| ring.wrapped(u64::from(block) + index as u64);
        if header.crc == 0 {
            let contents = self.unchecked_contents(&record)?;
            self.change(record, &contents.parts, None, block, block_of)?;
            return Ok((State::Unchecked { is_unmount: contents.is_unmount }, 1));
        }
        let Some((contents, header_bytes)) = self.sound_contents(&record)? else {
            // Only the UUID changes, so that it is as unsound as before: a mount looks at that even where it replays nothing.
            self.change_header(block, &header, header.crc);
            return Ok((State::Unsound, 1));
        };
        if header.format != LITTLE_ENDIAN {
            return Err(Refused::LogByteOrder { format: header.format }.into());
        }
        self.change(record, &contents.parts, Some(header_bytes), block, block_of)?;
        Ok((State::Sound { is_unmount: contents.is_unmount }, blocks))
    }

    /// mkfs.xfs, xfs_repair and kernels before 3.8 write no checksums. On version 5 no such record is ever replayed.
    fn unchecked_contents(&mut self, record: &Record) -> Result<Contents, Refused> {
        let header = record.header;
        let payload = record.unpacked();
        let is_place = |place| self.superblock.is_superblock_place(place);
        let contents = if self.superblock.version == 4 && header.covers_payload() {
            self.transactions.take(&payload, header.operations, is_place)?
        } else {
            Transactions::default().take(&payload, header.operations.min(1), is_place)?
        };
        Ok(contents.unwrap_or_default())
    }

    /// Returns what the record holds and how its checksum was made, if it is whole: as it is, or with each
    /// of its sectors taken back to the state in which its header is.
    fn sound_contents(&mut self, record: &Record) -> Result<Option<(Contents, usize)>, XfsError> {
        let header = record.header;
        if !header.covers_payload() {
            return Ok(None);
        }
        let is_place = |place| self.superblock.is_superblock_place(place);
        let contents = self.transactions.take(&record.unpacked(), header.operations, is_place)?;
        let Ok(contents) = contents else { return Ok(None) };
        let mut header_bytes = record.matching_header_bytes();
        if self.transition.is_unfinished && !contents.parts.is_empty() {
            for stamp in [self.transition.old, self.transition.new] {
                header_bytes = header_bytes.or_else(|| {
                    let mut whole = record.clone();
                    stamp_parts(&mut whole, &contents.parts, &stamp);
                    whole.matching_header_bytes()
                });
            }
        }
        Ok(header_bytes.map(|header_bytes| (contents, header_bytes)))
    }

    fn change(
        &mut self,
        mut record: Record,
        parts: &[LoggedPart],
        header_bytes: Option<usize>,
        block: u32,
        block_of: impl Fn(usize) -> u32,
    ) -> Result<(), XfsError> {
        let header = record.header;
        if !parts.is_empty() {
            self.look_at(&record, parts, block)?;
            let before = record.bytes.clone();
            stamp_parts(&mut record, parts, &self.transition.new);
            self.survey.changes.add_difference(&before, &record, block_of)?;
        }
        if let Some(header_bytes) = header_bytes {
            record.set_uuid(self.transition.new.uuid);
            record.set_crc(header_bytes);
        }
        self.change_header(block, &header, le32_at(&record.bytes, HEADER_CRC_AT));
        Ok(())
    }

    fn change_header(&mut self, block: u32, header: &Header, crc: u32) {
        if header.uuid != self.transition.new.uuid || header.crc != crc {
            self.survey.changes.add_header(block, crc.to_le_bytes());
        }
    }

    /// Checks the UUIDs of logged superblocks, and notes how many groups they name.
    fn look_at(&mut self, record: &Record, parts: &[LoggedPart], block: u32) -> Result<(), Refused> {
        for part in parts {
            for (at, byte) in bytes_of(record, part) {
                let is_known = |uuid: [u8; 16]| {
                    at.checked_sub(UUID_AT).and_then(|index| uuid.get(index)).is_none_or(|own| *own == byte)
                };
                let Transition { old, new, is_unfinished } = &self.transition;
                if !(is_known(old.uuid) || *is_unfinished && is_known(new.uuid)) {
                    return Err(Refused::LoggedUuid { block: block.into() });
                }
                if let Some(place) = at.checked_sub(GROUPS_AT).and_then(|index| self.groups.get_mut(index)) {
                    *place = byte;
                    if at == GROUPS_AT + 3 {
                        self.note_groups(u32::from_be_bytes(self.groups), block)?;
                    }
                }
                self.survey.logged_superblocks += u64::from(at == UUID_AT);
            }
        }
        Ok(())
    }

    /// Each of the groups will be looked at: there must not be more of them than a growth can have made.
    fn note_groups(&mut self, groups: u32, block: u32) -> Result<(), Refused> {
        let room = self.superblock.groups_max;
        if groups > room {
            return Err(Refused::LoggedGroups { block: block.into(), groups, room });
        }
        self.survey.groups = self.survey.groups.max(groups);
        Ok(())
    }
}

/// The bytes of a part of a superblock, each with its place in the superblock.
fn bytes_of(record: &Record, part: &LoggedPart) -> impl Iterator<Item = (usize, u8)> {
    (0..part.length).filter_map(move |index| {
        record
            .bytes
            .get(record.place(part.payload_at + index))
            .map(|byte| (part.superblock_at + index, *byte))
    })
}

fn stamp_parts(record: &mut Record, parts: &[LoggedPart], stamp: &Stamp) {
    for part in parts {
        for index in 0..part.length {
            let place = record.place(part.payload_at + index);
            if let Some(byte) = record.bytes.get_mut(place) {
                *byte = stamp.stamped(part.superblock_at + index, *byte);
            }
        }
    }
}
