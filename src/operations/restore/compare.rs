//! Whether what a volume holds already is worth looking at before it is written over.
//!
//! Reading costs about half of what writing does, so comparing pays as long as most of the volume is right. A sample
//! decides at first, and what is found on the way decides again and again.

use std::sync::{Mutex, PoisonError};

use super::super::differing::COMPARED_BLOCK;
use super::super::refusal::unreadable;
use crate::jobs::{JobControl, JobEnd};
use crate::source::VolumeWriter;
use crate::sysio::device::ReadAt;
use crate::types::{ByteRange, MIB};

/// So many blocks are looked at, spread over the image.
const SAMPLES: u64 = 64;

/// After so many compared bytes it is decided again.
const STRETCH_BYTES: u64 = 64 * MIB;

/// Which ranges are compared. All threads of one restore share it.
pub(super) struct Comparison {
    /// Below this, everything.
    always_below: u64,
    state: Mutex<State>,
}

struct State {
    goes_on: bool,
    compared_bytes: u64,
    differing_bytes: u64,
}

impl Comparison {
    fn new(always_below: u64, goes_on: bool) -> Self {
        let state = State { goes_on, compared_bytes: 0, differing_bytes: 0 };
        Self { always_below, state: Mutex::new(state) }
    }

    /// Nothing is compared: there is nothing yet.
    pub(super) fn none() -> Self {
        Self::new(0, false)
    }

    /// Looks at a sample of the image's data. What cannot be read in the volume counts as different.
    pub(super) fn decide(
        image: &dyn ReadAt,
        writer: &dyn VolumeWriter,
        always_below: u64,
        control: &JobControl,
    ) -> Result<Self, JobEnd> {
        let slice = (image.size_bytes() / SAMPLES).max(1);
        let (mut wanted, mut there) = (vec![0; COMPARED_BLOCK], vec![0; COMPARED_BLOCK]);
        let (mut taken, mut equal) = (0_u64, 0_u64);
        for number in 0..SAMPLES {
            control.checkpoint()?;
            let offset = number.saturating_mul(slice).saturating_add(random_below(slice));
            let Some(data) = image.next_data(offset).map_err(unreadable)? else { break };
            let block = ByteRange::new(data, 1).rounded_out(COMPARED_BLOCK as u64).below(image.size_bytes());
            let length = usize::try_from(block.len()).unwrap_or(COMPARED_BLOCK);
            wanted.resize(length, 0);
            there.resize(length, 0);
            image.read_exact_at(block.start(), &mut wanted).map_err(unreadable)?;
            taken += 1;
            if writer.read(block, &mut there).is_ok() && wanted == there {
                equal += 1;
            }
        }
        Ok(Self::new(always_below, taken > 0 && equal * 2 >= taken))
    }

    pub(super) fn wants(&self, range: ByteRange) -> bool {
        range.start() < self.always_below || self.state.lock().unwrap_or_else(PoisonError::into_inner).goes_on
    }

    /// Notes what a comparison found.
    pub(super) fn note(&self, compared_bytes: u64, differing_bytes: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.compared_bytes += compared_bytes;
        state.differing_bytes += differing_bytes;
        if state.compared_bytes >= STRETCH_BYTES {
            state.goes_on &= state.differing_bytes * 2 <= state.compared_bytes;
            (state.compared_bytes, state.differing_bytes) = (0, 0);
        }
    }
}

fn random_below(bound: u64) -> u64 {
    let (number, _) = uuid::Uuid::new_v4().as_u64_pair();
    number % bound.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_that_differs_mostly_ends_the_comparison_but_not_below_the_bound() {
        let comparison = Comparison::new(100, true);
        comparison.note(STRETCH_BYTES, STRETCH_BYTES / 2);
        assert!(comparison.wants(ByteRange::new(100, 1)), "half is not most");
        comparison.note(STRETCH_BYTES - 1, STRETCH_BYTES - 1);
        assert!(comparison.wants(ByteRange::new(100, 1)), "the stretch is not over");
        comparison.note(1, 1);
        assert!(!comparison.wants(ByteRange::new(100, 1)));
        assert!(comparison.wants(ByteRange::new(99, 1)));
        comparison.note(STRETCH_BYTES, 0);
        assert!(!comparison.wants(ByteRange::new(100, 1)), "given up for the rest");
    }
}
