//! One record of the log: header, extended headers, and a payload in which the first word of each block was moved
//! into the headers to make room for the cycle number (`xlog_pack_data` in the kernel's `xfs_log.c`).

use super::super::bytes::{be32_at, be64_at, le32_at, put, uuid_at};
use super::ring::BLOCK_BYTES;

const MAGIC: u32 = 0xfeed_babe;
pub(in super::super) const HEADER_CRC_AT: usize = 32;
pub(in super::super) const HEADER_UUID_AT: usize = 304;
const CYCLE_DATA_AT: usize = 44;
const EXTENDED_CYCLE_DATA_AT: usize = 4;
/// An extended header is the cycle number and its words; the rest of its block is not part of the checksum.
const EXTENDED_BYTES: usize = 260;
/// Words that one header holds, and so blocks of payload that it serves: 32 KiB.
const WORDS: usize = 64;
/// XLOG_MAX_RECORD_BSIZE.
const BYTES_MAX: u32 = 256 << 10;
/// The header's structure as 64-bit and as 32-bit machines have it: the checksum covers its padding.
const HEADER_BYTES: [usize; 2] = [328, 324];

pub(in super::super) fn is_header(block: &[u8]) -> bool {
    be32_at(block, 0) == MAGIC
}

/// The fields of a record's first block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    version: u32,
    pub(super) length: u32,
    pub(super) lsn: u64,
    pub(super) tail_lsn: u64,
    pub(super) crc: u32,
    pub(super) operations: u32,
    pub(super) format: u32,
    pub(super) uuid: [u8; 16],
    size: u32,
}

impl Header {
    pub(super) fn decode(block: &[u8]) -> Option<Self> {
        is_header(block).then(|| Self {
            version: be32_at(block, 8),
            length: be32_at(block, 12),
            lsn: be64_at(block, 16),
            tail_lsn: be64_at(block, 24),
            crc: le32_at(block, HEADER_CRC_AT),
            operations: be32_at(block, 40),
            format: be32_at(block, 300),
            uuid: uuid_at(block, HEADER_UUID_AT),
            size: be32_at(block, 320),
        })
    }

    /// Blocks that only bound what a mount must not read any more have headers without a payload.
    pub(super) fn is_filler(&self) -> bool {
        self.length == 0
    }

    /// Could the record be one, by its numbers?
    pub(super) fn is_plausible(&self) -> bool {
        matches!(self.version, 1 | 2) && (1..=BYTES_MAX).contains(&self.length) && self.size <= BYTES_MAX
    }

    /// Do the headers have a word for each block of the payload? mkfs.xfs with a stripe unit above 32 KiB, before 6.x, made one
    /// that has not; its payload is one operation that says "unmounted".
    pub(super) fn covers_payload(&self) -> bool {
        self.payload_blocks() as usize <= self.header_blocks() as usize * WORDS
    }

    pub(super) fn header_blocks(&self) -> u32 {
        if self.version & 2 == 0 { 1 } else { self.size.div_ceil(32 << 10).max(1) }
    }

    fn payload_blocks(&self) -> u32 {
        self.length.div_ceil(BLOCK_BYTES as u32)
    }

    pub(super) fn all_blocks(&self) -> u32 {
        self.header_blocks() + self.payload_blocks()
    }
}

/// A whole record in memory.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) header: Header,
    /// As on the disk.
    pub(super) bytes: Vec<u8>,
}

impl Record {
    /// Which of the two structures the checksum in the header was made with; none when it was made of other bytes.
    pub(super) fn matching_header_bytes(&self) -> Option<usize> {
        HEADER_BYTES
            .into_iter()
            .find(|header_bytes| self.crc(*header_bytes) == le32_at(&self.bytes, HEADER_CRC_AT))
    }

    /// `xlog_cksum`: the header with zeros for the checksum itself, the extended headers, the payload.
    pub(super) fn crc(&self, header_bytes: usize) -> u32 {
        let part = |from: usize, to: usize| self.bytes.get(from..to).unwrap_or(&[]);
        let mut crc = crc32c::crc32c(part(0, HEADER_CRC_AT));
        crc = crc32c::crc32c_append(crc, &[0; 4]);
        crc = crc32c::crc32c_append(crc, part(HEADER_CRC_AT + 4, header_bytes));
        // As many extended headers as the payload needs, which may be fewer than there are.
        for block in 1..self.header.payload_blocks().div_ceil(WORDS as u32) as usize {
            let at = block * BLOCK_BYTES;
            crc = crc32c::crc32c_append(crc, part(at, at + EXTENDED_BYTES));
        }
        let payload = self.payload_at();
        crc32c::crc32c_append(crc, part(payload, payload + self.header.length as usize))
    }

    pub(super) fn set_uuid(&mut self, uuid: [u8; 16]) {
        put(&mut self.bytes, HEADER_UUID_AT, &uuid);
    }

    pub(super) fn set_crc(&mut self, header_bytes: usize) {
        let crc = self.crc(header_bytes);
        put(&mut self.bytes, HEADER_CRC_AT, &crc.to_le_bytes());
    }

    fn payload_at(&self) -> usize {
        self.header.header_blocks() as usize * BLOCK_BYTES
    }

    /// Returns where in the record the byte at `at` of the unpacked payload is kept.
    pub(super) fn place(&self, at: usize) -> usize {
        let (block, within) = (at / BLOCK_BYTES, at % BLOCK_BYTES);
        if within >= 4 {
            return self.payload_at() + at;
        }
        let (header, word) = (block / WORDS, block % WORDS);
        let words_at = if header == 0 { CYCLE_DATA_AT } else { EXTENDED_CYCLE_DATA_AT };
        header * BLOCK_BYTES + words_at + 4 * word + within
    }

    /// Returns the payload with each block's first word back in its place.
    pub(super) fn unpacked(&self) -> Vec<u8> {
        let at = self.payload_at();
        let mut payload = self.bytes.get(at..).unwrap_or(&[]).to_vec();
        for block in 0..self.header.payload_blocks() as usize {
            let from = self.place(block * BLOCK_BYTES);
            if let Some(word) = self.bytes.get(from..from + 4) {
                put(&mut payload, block * BLOCK_BYTES, word);
            }
        }
        payload.truncate(self.header.length as usize);
        payload
    }
}
