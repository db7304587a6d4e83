//! Logs made by hand, with a logged superblock split at places where real ones rarely are: what the survey changes
//! must be exactly what is in the same log made with the new UUID.

use std::io;

use crate::sysio::device::ReadAt;

use super::super::bytes::put;
use super::super::error::{Refused, XfsError};
use super::super::stamp::Stamp;
use super::super::superblock::{SECTOR_BYTES, Superblock};
use super::record::{Header, Record};
use super::ring::BLOCK_BYTES;
use super::survey::{Survey, Transition, survey};

const OLD: [u8; 16] = [0xaa; 16];
const NEW: [u8; 16] = [0xbb; 16];
const LOG_BLOCKS: u32 = 160;
const IMAGE_BYTES: usize = 384;
/// As many as the device has room for, and as the logged superblock names.
const GROUPS: u32 = 3;
const START: u8 = 1;
const COMMIT: u8 = 2;
const CONTINUES: u8 = 4;
const CONTINUED: u8 = 8;

struct Memory(Vec<u8>);

impl ReadAt for Memory {
    fn size_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        into.copy_from_slice(&self.0[offset as usize..][..into.len()]);
        Ok(())
    }
}

fn superblock() -> Superblock {
    let mut sector = vec![0; SECTOR_BYTES];
    put(&mut sector, 32, &OLD);
    let (groups_max, group_bytes) = (GROUPS, 16 << 20);
    Superblock {
        sector,
        version: 5,
        groups: 1,
        groups_max,
        group_bytes,
        log_start: 0,
        log_blocks: LOG_BLOCKS,
    }
}

/// What is logged of a superblock: its first three chunks.
fn image(uuid: [u8; 16]) -> Vec<u8> {
    let mut image: Vec<u8> = (0..IMAGE_BYTES).map(|at| at as u8 | 0x10).collect();
    put(&mut image, 32, &uuid);
    put(&mut image, 88, &GROUPS.to_be_bytes());
    let (bit, metadata) = if uuid == OLD { (0, [0; 16]) } else { (4, OLD) };
    put(&mut image, 216, &[0, 0, 0, 0x0b | bit]);
    put(&mut image, 248, &metadata);
    image
}

fn operation(id: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
    let mut operation = [id.to_be_bytes(), (bytes.len() as u32).to_be_bytes(), [0x69, flags, 0, 0]].concat();
    operation.extend(bytes);
    operation
}

/// A buffer's description: one sector at block 0 of the device, of which three chunks follow.
fn description() -> Vec<u8> {
    let mut description = vec![0; 24];
    put(&mut description, 0, &0x123c_u16.to_le_bytes());
    put(&mut description, 2, &2_u16.to_le_bytes());
    put(&mut description, 6, &1_u16.to_le_bytes());
    put(&mut description, 16, &1_u32.to_le_bytes());
    put(&mut description, 20, &7_u32.to_le_bytes());
    description
}

/// The operations of one transaction, in the records that they come in.
struct Split {
    /// Bytes of somebody else's in front, which shift all behind them.
    before: usize,
    description_at: usize,
    image_at: usize,
}

impl Split {
    fn records(&self, uuid: [u8; 16]) -> Vec<Vec<Vec<u8>>> {
        let (description, image) = (description(), image(uuid));
        let (description_head, description_rest) = description.split_at(self.description_at);
        let (image_head, image_rest) = image.split_at(self.image_at);
        let header = [&0x5452_414e_u32.to_le_bytes()[..], &[0; 12]].concat();
        vec![
            vec![
                operation(99, 0, &vec![0x77; self.before]),
                operation(7, START, &[]),
                operation(8, START, &[]),
                operation(7, 0, &header),
                operation(8, CONTINUES, &header[..8]),
                operation(7, CONTINUES, description_head),
            ],
            vec![
                // Another transaction comes in between.
                operation(8, CONTINUED, &header[8..]),
                operation(8, 0, &[0x3b, 0x12, 1, 0, 9, 9, 9, 9]),
                operation(7, CONTINUED, description_rest),
                operation(99, 0, &vec![0x66; self.before]),
                operation(7, CONTINUES, image_head),
                operation(8, COMMIT, &[]),
            ],
            vec![operation(7, CONTINUED, image_rest), operation(7, COMMIT, &[])],
        ]
    }

    fn log(&self, uuid: [u8; 16], first_block: u32) -> Vec<u8> {
        let mut log = vec![0; LOG_BLOCKS as usize * BLOCK_BYTES];
        let mut position = 0;
        for operations in self.records(uuid) {
            let bytes = record(uuid, first_block, position, &operations);
            for block in bytes.chunks(BLOCK_BYTES) {
                let at = (first_block + position) % LOG_BLOCKS;
                let mut block = block.to_vec();
                // Behind the end of the ring, payload has the next cycle's number.
                if first_block + position >= LOG_BLOCKS && !block.starts_with(&[0xfe, 0xed]) {
                    put(&mut block, 0, &2_u32.to_be_bytes());
                }
                put(&mut log, at as usize * BLOCK_BYTES, &block);
                position += 1;
            }
        }
        log
    }
}

fn record(uuid: [u8; 16], first_block: u32, position: u32, operations: &[Vec<u8>]) -> Vec<u8> {
    let mut payload = operations.concat();
    payload.resize(payload.len().next_multiple_of(BLOCK_BYTES), 0);
    let blocks = payload.len() / BLOCK_BYTES;
    let header_blocks = blocks.div_ceil(64);
    let absolute = first_block + position;
    let cycle = 1 + absolute / LOG_BLOCKS;
    let mut bytes = vec![0; header_blocks * BLOCK_BYTES];
    put(&mut bytes, 0, &0xfeed_babe_u32.to_be_bytes());
    put(&mut bytes, 4, &cycle.to_be_bytes());
    put(&mut bytes, 8, &2_u32.to_be_bytes());
    put(&mut bytes, 12, &(payload.len() as u32).to_be_bytes());
    put(&mut bytes, 16, &cycle.to_be_bytes());
    put(&mut bytes, 20, &(absolute % LOG_BLOCKS).to_be_bytes());
    put(&mut bytes, 24, &1_u32.to_be_bytes());
    put(&mut bytes, 28, &first_block.to_be_bytes());
    put(&mut bytes, 40, &(operations.len() as u32).to_be_bytes());
    put(&mut bytes, 300, &1_u32.to_be_bytes());
    put(&mut bytes, 304, &uuid);
    put(&mut bytes, 320, &(header_blocks as u32 * 32768).to_be_bytes());
    for block in 0..blocks {
        let word = payload[block * BLOCK_BYTES..][..4].to_vec();
        let at = block / 64 * BLOCK_BYTES + if block < 64 { 44 } else { 4 } + block % 64 * 4;
        put(&mut bytes, at, &word);
        let absolute = absolute as usize + header_blocks + block;
        put(&mut payload, block * BLOCK_BYTES, &(1 + absolute as u32 / LOG_BLOCKS).to_be_bytes());
    }
    for header in 1..header_blocks {
        let cycle = 1 + (absolute + header as u32) / LOG_BLOCKS;
        put(&mut bytes, header * BLOCK_BYTES, &cycle.to_be_bytes());
    }
    let header_part: Vec<u8> = [&bytes[..328]]
        .into_iter()
        .chain((1..header_blocks).map(|at| &bytes[at * 512..][..260]))
        .flatten()
        .copied()
        .collect();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header_part), &payload);
    put(&mut bytes, 32, &crc.to_le_bytes());
    bytes.extend(payload);
    bytes
}

fn try_survey(log: &[u8], is_unfinished: bool) -> Result<Survey, XfsError> {
    let superblock = superblock();
    let old = Stamp::of(&superblock);
    survey(&Memory(log.to_vec()), &superblock, Transition { old, new: old.with_uuid(NEW), is_unfinished })
}

fn surveyed(log: &[u8], is_unfinished: bool) -> Survey {
    try_survey(log, is_unfinished).unwrap()
}

fn changed(log: &[u8], is_unfinished: bool) -> Vec<u8> {
    let survey = surveyed(log, is_unfinished);
    let mut after = log.to_vec();
    for change in &survey.changes.headers {
        put(&mut after, change.block as usize * BLOCK_BYTES + 304, &NEW);
        put(&mut after, change.block as usize * BLOCK_BYTES + 32, &change.crc);
    }
    for change in &survey.changes.payload {
        put(&mut after, change.block as usize * BLOCK_BYTES + usize::from(change.at), change.bytes());
    }
    after
}

fn splits() -> impl Iterator<Item = Split> {
    let befores = (0..SECTOR_BYTES).step_by(36).chain([32_000, 32_404, 32_600, 32_764]);
    befores.flat_map(|before| {
        (4..=IMAGE_BYTES).step_by(20).map(move |image_at| Split {
            before,
            description_at: 4 + image_at / 20,
            image_at,
        })
    })
}

#[test]
fn a_logged_superblock_is_found_wherever_it_is_split() {
    for split in splits() {
        for first_block in [0, LOG_BLOCKS - 3] {
            let (old, new) = (split.log(OLD, first_block), split.log(NEW, first_block));
            let Split { before, image_at, .. } = split;
            assert!(
                changed(&old, false) == new,
                "{before} bytes before, image at {image_at}, block {first_block}"
            );
            let survey = surveyed(&old, false);
            assert_eq!(
                (survey.records, survey.logged_superblocks, survey.groups, survey.is_dirty),
                (3, 1, 3, true)
            );
        }
    }
}

#[test]
fn any_mixture_of_old_and_new_sectors_is_finished() {
    let mut dice = 88_172_645_463_325_252_u64;
    for split in splits() {
        let (old, new) = (split.log(OLD, 100), split.log(NEW, 100));
        for _ in 0..3 {
            let mixed: Vec<u8> = old
                .chunks(BLOCK_BYTES)
                .zip(new.chunks(BLOCK_BYTES))
                .flat_map(|(old, new)| {
                    dice ^= dice << 13;
                    dice ^= dice >> 7;
                    dice ^= dice << 17;
                    if dice.is_multiple_of(2) { old } else { new }
                })
                .copied()
                .collect();
            let Split { before, image_at, .. } = split;
            assert!(changed(&mixed, true) == new, "{before} bytes before, image at {image_at}");
        }
    }
}

#[test]
fn a_chunk_that_was_not_logged_is_not_changed() {
    // Only the second chunk: the feature bit and the first half of the metadata's UUID.
    let mut description = description();
    put(&mut description, 20, &2_u32.to_le_bytes());
    let log = |uuid: [u8; 16]| log_of(uuid, &description, &image(uuid)[128..256]);
    assert!(changed(&log(OLD), false) == log(NEW));
}

/// A log of one record, with one logged superblock.
fn log_of(uuid: [u8; 16], description: &[u8], chunks: &[u8]) -> Vec<u8> {
    let header = [&0x5452_414e_u32.to_le_bytes()[..], &[0; 12]].concat();
    let operations = [
        operation(7, START, &[]),
        operation(7, 0, &header),
        operation(7, 0, description),
        operation(7, 0, chunks),
        operation(7, COMMIT, &[]),
    ];
    let mut log = record(uuid, 0, 0, &operations);
    log.resize(LOG_BLOCKS as usize * BLOCK_BYTES, 0);
    log
}

#[test]
fn a_logged_superblock_with_more_groups_than_the_device_has_room_for_is_refused() {
    let log = |groups: u32| {
        let mut image = image(OLD);
        put(&mut image, 88, &groups.to_be_bytes());
        log_of(OLD, &description(), &image)
    };
    assert_eq!(surveyed(&log(GROUPS), false).groups, GROUPS);
    for groups in [GROUPS + 1, 1 << 20, u32::MAX] {
        match try_survey(&log(groups), false) {
            Err(XfsError::Refused(refused)) => {
                assert_eq!(refused, Refused::LoggedGroups { block: 0, groups, room: GROUPS });
            }
            other => panic!("{groups}: {other:?}"),
        }
    }
}

#[test]
fn a_group_whose_place_no_number_holds_is_beyond_the_device() {
    let superblock = Superblock { group_bytes: 1 << 40, ..superblock() };
    let found = superblock.read_group(&Memory(vec![0; 4096]), u32::MAX).unwrap();
    assert_eq!(found, Err("it lies beyond the end of the device"));
}

#[test]
fn checksums_of_both_header_sizes_are_known() {
    let mut bytes = record(OLD, 0, 0, &[operation(1, START, &[])]);
    let header = Header::decode(&bytes).unwrap();
    assert_eq!(Record { header, bytes: bytes.clone() }.matching_header_bytes(), Some(328));
    let mut record = Record { header, bytes: bytes.clone() };
    put(&mut record.bytes, 324, &[1, 2, 3, 4]);
    record.set_crc(324);
    assert_eq!(record.matching_header_bytes(), Some(324));
    put(&mut bytes, 600, &[1]);
    assert_eq!(Record { header, bytes }.matching_header_bytes(), None);
}
