//! The log as a ring of blocks of 512 bytes, read through a window.

use crate::sysio::device::ReadAt;

use super::super::error::XfsError;
use super::super::superblock::Superblock;

pub(in super::super) const BLOCK_BYTES: usize = 512;
/// Larger than any record, so that most of them are read once.
const WINDOW_BLOCKS: u32 = 2048;

pub(super) struct Ring<'a> {
    device: &'a dyn ReadAt,
    start: u64,
    pub(super) blocks: u32,
    window: Vec<u8>,
    window_first: u32,
}

impl<'a> Ring<'a> {
    pub(super) fn new(device: &'a dyn ReadAt, superblock: &Superblock) -> Self {
        let (start, blocks) = (superblock.log_start, superblock.log_blocks);
        Self { device, start, blocks, window: Vec::new(), window_first: 0 }
    }

    /// Returns `count` blocks from `first` on, those from the start of the log behind those at its end.
    pub(super) fn blocks(&mut self, first: u32, count: u32) -> Result<&[u8], XfsError> {
        let count = count.min(WINDOW_BLOCKS).min(self.blocks);
        let first = self.wrapped(first.into());
        let length = count as usize * BLOCK_BYTES;
        let at = (first >= self.window_first)
            .then(|| (first - self.window_first) as usize * BLOCK_BYTES)
            .filter(|at| at + length <= self.window.len());
        let at = match at {
            Some(at) => at,
            None => {
                self.load(first)?;
                0
            }
        };
        Ok(self.window.get(at..at + length).unwrap_or(&[]))
    }

    /// Returns the number of the block that many blocks from the start, going round.
    pub(super) fn wrapped(&self, block: u64) -> u32 {
        u32::try_from(block % u64::from(self.blocks)).unwrap_or(0)
    }

    fn load(&mut self, first: u32) -> Result<(), XfsError> {
        let count = WINDOW_BLOCKS.min(self.blocks);
        let before_end = count.min(self.blocks - first);
        self.window.resize(count as usize * BLOCK_BYTES, 0);
        self.window_first = first;
        let (head, wrapped) = self.window.split_at_mut(before_end as usize * BLOCK_BYTES);
        let head_at = self.start + u64::from(first) * BLOCK_BYTES as u64;
        let read =
            read_into(self.device, head_at, head).and_then(|()| read_into(self.device, self.start, wrapped));
        if read.is_err() {
            self.window.clear();
        }
        read
    }
}

fn read_into(device: &dyn ReadAt, offset: u64, into: &mut [u8]) -> Result<(), XfsError> {
    let length = into.len();
    if length == 0 {
        return Ok(());
    }
    device.read_exact_at(offset, into).map_err(|source| XfsError::Io {
        action: "read",
        offset,
        length,
        source,
    })
}
