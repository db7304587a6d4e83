//! The content of a file from the runs of blocks that it is made of.

use std::io;

use crate::files::protocol::Refusal;

/// Blocks of a file that lie together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first block on the device, as the file system counts; none where there is nothing, or nothing was ever written.
    pub start: Option<u64>,
    /// At least one.
    pub blocks: u64,
}

/// Fills `into` from a file of that size as far as it reaches. `run_at` finds the run that begins at a block of the file;
/// `read` reads from a place within a block of the device on.
pub fn read_runs(
    (size_bytes, block_bytes): (u64, u64),
    offset: u64,
    into: &mut [u8],
    mut run_at: impl FnMut(u64) -> Result<Run, Refusal>,
    read: impl Fn(u64, u64, &mut [u8]) -> io::Result<()>,
) -> Result<usize, Refusal> {
    let length = usize::try_from(size_bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
    let length = length.min(into.len());
    let (mut position, mut rest) = (offset, into.get_mut(..length).unwrap_or_default());
    while !rest.is_empty() {
        let (block, within) = (position / block_bytes, position % block_bytes);
        let run = run_at(block)?;
        let run_bytes = run.blocks.max(1).saturating_mul(block_bytes) - within;
        let part_bytes = rest.len().min(usize::try_from(run_bytes).unwrap_or(usize::MAX));
        let (part, behind) = rest.split_at_mut(part_bytes);
        match run.start {
            Some(start) => read(start, within, part).map_err(Refusal::damaged)?,
            None => part.fill(0),
        }
        position = position.saturating_add(part_bytes as u64);
        rest = behind;
    }
    Ok(length)
}
