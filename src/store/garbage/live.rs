//! Which chunks are needed, in bounded memory: the first 64 bits of their ids, sorted, of a part of all ids at a time.
//!
//! Two ids that begin with the same 64 bits are taken for one, which keeps a chunk that nobody needs (once in some
//! hundred repositories of 100 million chunks) and never loses one.

use crate::types::ChunkId;

/// The ids whose first bits are a given number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) bits: u32,
    pub(super) number: u64,
}

impl Part {
    fn has(self, print: u64) -> bool {
        print.checked_shr(u64::BITS - self.bits).unwrap_or(0) == self.number
    }
}

/// More ids than there is memory for: smaller parts are needed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// What a copy of a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// Of another part: asked for when its turn comes.
    Elsewhere,
    Dead,
    /// The first copy of a chunk that is needed.
    First,
    /// A copy of a chunk that is needed and in an earlier pack, too.
    Again,
}

pub(super) struct LiveSet {
    part: Part,
    prints: Vec<u64>,
    prints_max: usize,
    /// One bit for each print, when all are there.
    claimed: Vec<u64>,
}

impl LiveSet {
    /// Memory of one id, its bit included, rounded up.
    pub(super) const BYTES_PER_CHUNK: u64 = 9;

    pub(super) fn new(part: Part, prints_max: usize) -> Self {
        Self { part, prints: Vec::with_capacity(prints_max), prints_max, claimed: Vec::new() }
    }

    pub(super) fn insert(&mut self, id: ChunkId) -> Result<(), Full> {
        let print = print(id);
        // What was gathered into one chunk is named many times in a row.
        if !self.part.has(print) || self.prints.last() == Some(&print) {
            return Ok(());
        }
        if self.prints.len() >= self.prints_max {
            self.sort();
            // Sorting again for a few more would take for ever.
            if self.prints.len() > self.prints_max / 4 * 3 {
                return Err(Full);
            }
        }
        self.prints.push(print);
        Ok(())
    }

    fn sort(&mut self) {
        self.prints.sort_unstable();
        self.prints.dedup();
    }

    /// All that is needed has been inserted.
    pub(super) fn seal(&mut self) {
        self.sort();
        self.claimed = vec![0; self.prints.len().div_ceil(64)];
    }

    /// Says what the next copy of a chunk is.
    pub(super) fn claim(&mut self, id: ChunkId) -> Claim {
        let print = print(id);
        if !self.part.has(print) {
            return Claim::Elsewhere;
        }
        let Ok(at) = self.prints.binary_search(&print) else { return Claim::Dead };
        let Some(word) = self.claimed.get_mut(at / 64) else { return Claim::First };
        let bit = 1 << (at % 64);
        let was_claimed = *word & bit != 0;
        *word |= bit;
        if was_claimed { Claim::Again } else { Claim::First }
    }

    /// How many chunks of this part are needed.
    pub(super) fn count(&self) -> u64 {
        self.prints.len() as u64
    }
}

fn print(id: ChunkId) -> u64 {
    let (first, _) = id.as_bytes().split_first_chunk().unwrap_or((&[0; 8], &[]));
    u64::from_be_bytes(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> ChunkId {
        ChunkId::of(&number.to_le_bytes())
    }

    #[test]
    fn each_chunk_is_claimed_once_in_its_part_and_what_was_not_inserted_is_dead() {
        for bits in [0, 1, 3] {
            let mut needed = 0;
            let mut claims = vec![Vec::new(); 2000];
            for number in 0..1 << bits {
                let mut live = LiveSet::new(Part { bits, number }, 1000);
                (0..3000).for_each(|n| live.insert(id(n % 500)).unwrap());
                live.seal();
                for n in (1..1000).chain(1..1000) {
                    claims[n as usize].push(live.claim(id(n)));
                }
                needed += live.count();
            }
            assert_eq!(needed, 500);
            for (n, claims) in claims.iter_mut().enumerate().take(1000).skip(1) {
                claims.retain(|claim| *claim != Claim::Elsewhere);
                let expected = if n < 500 { [Claim::First, Claim::Again] } else { [Claim::Dead; 2] };
                assert_eq!(*claims, expected, "{n} in {bits} bits");
            }
        }
    }

    #[test]
    fn too_many_for_the_memory_are_told_and_repetitions_are_not_too_many() {
        let all = Part { bits: 0, number: 0 };
        let mut live = LiveSet::new(all, 100);
        assert!((0..100_000).all(|n| live.insert(id(n % 70)).is_ok()));
        let mut live = LiveSet::new(all, 100);
        assert!((0..200).any(|n| live.insert(id(n)).is_err()));
    }
}
