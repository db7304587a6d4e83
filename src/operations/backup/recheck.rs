//! What of a volume is read and compared again though the source says that it has not changed.
//!
//! A source that forgets a change would spoil every later backup of the chain, and nobody would notice: RBD's fast
//! diff has done so more than once. So each incremental looks at three things, none of which costs much:
//!
//! - *neighbours*: blocks right before and behind what has changed, where a diff that is cut short errs;
//! - *a sample*: blocks spread over the volume at random, most of them where the parent has data;
//! - *the rolling re-read*: a window that begins where that of the backup before ended. It goes round the volume within
//!   `reread_within` backups, so that no error stays for longer.
//!
//! In bytes, of a volume of `V`: at most `max(1 MiB, V / reread_within)` for the window and, of `sample_blocks`, as many as
//! fit into `max(256 KiB, V / 2048)`. Holes cost a source next to nothing.

use std::collections::VecDeque;

use crate::image::Image;
use crate::types::{BackupId, ByteRange, KIB, MIB};

/// What is compared at a time, and the grid of it.
const BLOCK_BYTES: u64 = 64 * KIB;
/// A small volume is gone through in fewer backups.
const WINDOW_BYTES_MIN: u64 = MIB;
/// The sample is a part of the volume like this at most, so that an incremental costs what has changed.
const SAMPLED_PART: u64 = 2048;
/// Fewer would hardly be a sample.
const SAMPLE_BLOCKS_MIN: u64 = 4;
/// One in so many blocks of the sample is taken anywhere, in holes too.
const ANYWHERE_EACH: u64 = 4;
/// So much more is looked at while the source is under suspicion.
const SUSPICION_FACTOR: u64 = 16;

/// How far a source's word on what has changed is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiffTrust {
    /// Every part of a volume is read again within so many incremental backups; 0 switches that off.
    pub reread_within: u64,
    /// So many blocks of 64 KiB are read again in each incremental backup, at most; 0 switches that off.
    pub sample_blocks: u64,
}

impl Default for DiffTrust {
    fn default() -> Self {
        Self { reread_within: 1024, sample_blocks: 16 }
    }
}

/// What one incremental backup looks at again.
pub(super) struct Rechecks {
    size_bytes: u64,
    /// The window and the sample: ascending, without overlaps, and still ahead.
    ranges: VecDeque<ByteRange>,
    neighbours_max: u64,
    neighbours_taken: u64,
    window_end: u64,
}

/// Where to look.
pub(super) struct Recheck<'a> {
    pub(super) id: BackupId,
    pub(super) parent: &'a Image,
    pub(super) size_bytes: u64,
    /// Where the window of the backup before ended.
    pub(super) window_start: u64,
    pub(super) is_suspicious: bool,
}

impl DiffTrust {
    pub(super) fn rechecks(self, recheck: &Recheck<'_>) -> Rechecks {
        let factor = if recheck.is_suspicious { SUSPICION_FACTOR } else { 1 };
        let blocks = self.sample_blocks_in(recheck.size_bytes).saturating_mul(factor);
        let neighbours_max = blocks / 2;
        let window_bytes = self.window_bytes(recheck.size_bytes).saturating_mul(factor);
        let (window, window_end) = window(recheck.size_bytes, recheck.window_start, window_bytes);
        let mut ranges = sample(recheck, blocks - neighbours_max);
        ranges.extend(window);
        Rechecks {
            size_bytes: recheck.size_bytes,
            ranges: merged(ranges).into(),
            neighbours_max,
            neighbours_taken: 0,
            window_end,
        }
    }

    fn sample_blocks_in(self, size_bytes: u64) -> u64 {
        let blocks = (size_bytes / SAMPLED_PART / BLOCK_BYTES).max(SAMPLE_BLOCKS_MIN);
        blocks.min(self.sample_blocks)
    }

    fn window_bytes(self, size_bytes: u64) -> u64 {
        match self.reread_within {
            0 => 0,
            // Rounded up: the last of them gets to the end.
            within => size_bytes.div_ceil(within).next_multiple_of(BLOCK_BYTES).max(WINDOW_BYTES_MIN),
        }
    }
}

impl Rechecks {
    /// Where the window of the next backup begins.
    pub(super) fn window_end(&self) -> u64 {
        self.window_end
    }

    /// Returns what to look at in a range that the source says nothing of, ascending and without overlaps. The gaps
    /// come in ascending order; `behind` and `before` say whether there is a change at their ends.
    pub(super) fn within(&mut self, gap: ByteRange, behind: bool, before: bool) -> Vec<ByteRange> {
        let mut ranges = Vec::new();
        while let Some(next) = self.ranges.front().copied().filter(|next| next.start() < gap.end()) {
            let part = next.intersection(gap);
            if !part.is_empty() {
                ranges.push(part);
            }
            if next.end() > gap.end() {
                break;
            }
            self.ranges.pop_front();
        }
        if behind {
            let block = gap.below(gap.start().saturating_add(BLOCK_BYTES));
            ranges.extend(self.neighbour(block));
        }
        if before {
            let start = gap.end().saturating_sub(BLOCK_BYTES).max(gap.start());
            ranges.extend(self.neighbour(ByteRange::between(start, gap.end())));
        }
        merged(ranges)
    }

    /// Takes a neighbour if there is one left at this place: they are spread over the volume, with two for the first
    /// change wherever it is.
    fn neighbour(&mut self, block: ByteRange) -> Option<ByteRange> {
        let at_once = self.neighbours_max.min(2);
        let rest = u128::from(self.neighbours_max - at_once) * u128::from(block.start());
        let by_now = u128::from(at_once) + rest / u128::from(self.size_bytes.max(1));
        let is_taken = !block.is_empty() && u128::from(self.neighbours_taken) < by_now;
        self.neighbours_taken += u64::from(is_taken);
        is_taken.then_some(block)
    }
}

/// Returns the window, which may go on at the beginning of the volume, and where the next one begins.
fn window(size_bytes: u64, start: u64, bytes: u64) -> (Vec<ByteRange>, u64) {
    // The volume may have shrunk.
    let start = if start < size_bytes { start - start % BLOCK_BYTES } else { 0 };
    if bytes >= size_bytes {
        return (vec![ByteRange::new(0, size_bytes)], 0);
    }
    let first = ByteRange::new(start, bytes).below(size_bytes);
    let rest = ByteRange::new(0, bytes - first.len());
    let end = if rest.is_empty() { first.end() % size_bytes } else { rest.end() };
    (vec![first, rest], if bytes == 0 { start } else { end })
}

fn sample(recheck: &Recheck<'_>, blocks: u64) -> Vec<ByteRange> {
    let mut numbers = Numbers::of(recheck.id);
    let slice = recheck.size_bytes.checked_div(blocks).unwrap_or(0);
    let block_of = |number: u64| {
        let offset = number * slice + numbers.below(slice);
        let data = match number.is_multiple_of(ANYWHERE_EACH) {
            true => None,
            false => data_at(recheck.parent, offset),
        };
        let block = ByteRange::new(data.unwrap_or(offset), 1).rounded_out(BLOCK_BYTES);
        block.below(recheck.size_bytes)
    };
    (0..blocks).map(block_of).collect()
}

/// Returns where the parent has data, from an offset on or else from the beginning; what is damaged is not looked into.
fn data_at(parent: &Image, offset: u64) -> Option<u64> {
    parent.next_data(offset).ok()?.or_else(|| parent.next_data(0).ok().flatten())
}

/// Sorts ranges and joins those that meet.
fn merged(mut ranges: Vec<ByteRange>) -> Vec<ByteRange> {
    ranges.sort_unstable();
    let mut merged: Vec<ByteRange> = Vec::with_capacity(ranges.len());
    for range in ranges.into_iter().filter(|range| !range.is_empty()) {
        match merged.last_mut() {
            Some(last) if range.start() <= last.end() => {
                *last = ByteRange::between(last.start(), last.end().max(range.end()));
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// Numbers at random that are the same for the same backup (splitmix64): what was looked at can be told later.
struct Numbers(u64);

impl Numbers {
    fn of(id: BackupId) -> Self {
        let fold = |state: u64, byte: &u8| state.rotate_left(8) ^ u64::from(*byte);
        Self(id.as_bytes().iter().fold(0, fold))
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rechecks(size_bytes: u64, ranges: &[ByteRange], neighbours_max: u64) -> Rechecks {
        let ranges = merged(ranges.to_vec()).into();
        Rechecks { size_bytes, ranges, neighbours_max, neighbours_taken: 0, window_end: 0 }
    }

    #[test]
    fn the_window_goes_round_a_volume_of_any_size_within_the_promised_number_of_backups() {
        for (size, within) in
            [(1 << 30, 512), ((5 << 30) + 4711, 7), (3 << 20, 512), (100, 3), ((1 << 40) + 1, 512)]
        {
            let trust = DiffTrust { reread_within: within, sample_blocks: 0 };
            let (mut start, mut seen) = (0, Vec::new());
            for _ in 0..within {
                let (ranges, end) = window(size, start, trust.window_bytes(size));
                seen.extend(ranges);
                start = end;
            }
            assert_eq!(merged(seen), [ByteRange::new(0, size)], "{size} within {within}");
        }
        assert_eq!(window(1 << 30, 5 << 20, 0).1, 5 << 20, "switched off it stays where it is");
    }

    #[test]
    fn what_is_looked_at_stays_within_its_part_of_the_volume() {
        let trust = DiffTrust::default();
        for (size, part) in [(1 << 30, 400), (100 << 30, 400), (1 << 44, 500)] {
            let bytes = trust.window_bytes(size) + trust.sample_blocks_in(size) * BLOCK_BYTES;
            assert!(bytes <= size / part, "{bytes} of {size}");
        }
        assert_eq!(DiffTrust { reread_within: 0, sample_blocks: 0 }.sample_blocks_in(1 << 40), 0);
    }

    #[test]
    fn gaps_get_their_part_of_the_ranges_and_their_neighbours() {
        let range = ByteRange::between;
        let mut rechecks = rechecks(1 << 30, &[range(100, 200), range(150, 300), range(400_000, 800_000)], 2);
        // Between two changes the blocks at both ends, and what there is of the window.
        assert_eq!(rechecks.within(range(0, 120), false, false), [range(100, 120)]);
        let ranges = rechecks.within(range(130, 500_000), true, true);
        assert_eq!(ranges, [range(130, 65_666), range(400_000, 500_000)]);
        // Both neighbours are taken.
        assert_eq!(rechecks.within(range(600_000, 1 << 30), true, false), [range(600_000, 800_000)]);
    }

    #[test]
    fn neighbours_are_spread_over_the_volume() {
        let size = 1 << 30;
        let mut rechecks = rechecks(size, &[], 8);
        let mut taken = Vec::new();
        for number in 0..1024 {
            let gap = ByteRange::new(number << 20, 900_000);
            taken.extend(rechecks.within(gap, true, true));
        }
        assert!((7..=8).contains(&taken.len()), "{taken:?}");
        assert!(taken.iter().all(|block| block.len() == BLOCK_BYTES));
        assert!(taken.iter().filter(|block| block.start() >= size / 2).count() >= 3, "{taken:?}");
    }
}
