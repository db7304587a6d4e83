//! What of an image cannot be given back: in a backup's record, and in that of a restore which left it out.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::types::{ByteRange, Timestamp};

/// So many ranges are kept one by one; of the others, how many bytes they are.
pub const RANGES_MAX: usize = 64;
/// So many ranges are named in a sentence.
const RANGES_NAMED: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedRange {
    pub start: u64,
    /// The first byte behind it.
    pub end: u64,
}

/// Ranges of an image, ascending: the first of them one by one, and how many bytes all are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedRanges {
    pub bytes: u64,
    /// At most [`RANGES_MAX`].
    pub ranges: Vec<DamagedRange>,
}

impl DamagedRanges {
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Adds a range behind those that are there.
    pub fn add(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        self.bytes += range.len();
        let count = self.ranges.len();
        match self.ranges.last_mut() {
            Some(last) if last.end == range.start() => last.end = range.end(),
            _ if count < RANGES_MAX => {
                self.ranges.push(DamagedRange { start: range.start(), end: range.end() });
            }
            _ => {}
        }
    }

    /// Adds ranges that all lie behind those that are there.
    pub fn append(&mut self, later: &Self) {
        let listed: u64 = later.ranges.iter().map(|range| range.end.saturating_sub(range.start)).sum();
        for range in &later.ranges {
            self.add(ByteRange::between(range.start, range.end));
        }
        self.bytes += later.bytes.saturating_sub(listed);
    }
}

impl fmt::Display for DamagedRanges {
    /// `131072 bytes (0 to 65536, 131072 to 196608)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes (", self.bytes)?;
        let mut named = 0;
        for (number, range) in self.ranges.iter().take(RANGES_NAMED).enumerate() {
            let comma = if number > 0 { ", " } else { "" };
            write!(f, "{comma}{} to {}", range.start, range.end)?;
            named += range.end.saturating_sub(range.start);
        }
        let more = if named < self.bytes { ", ..." } else { "" };
        write!(f, "{more})")
    }
}

/// What a verification found wrong with an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupDamage {
    pub found_at: Timestamp,
    #[serde(flatten)]
    pub ranges: DamagedRanges,
    /// These bytes can be read and are not what the volume's snapshot has: only a comparison with the snapshot finds
    /// that they are right.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub differs_from_source: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_range_and_what_is_not_listed_is_counted() {
        let mut damage = DamagedRanges::default();
        assert!(damage.is_empty());
        damage.add(ByteRange::between(0, 10));
        damage.add(ByteRange::between(10, 20));
        damage.add(ByteRange::between(30, 31));
        assert_eq!(damage.to_string(), "21 bytes (0 to 20, 30 to 31)");
        for number in 2..100 {
            damage.add(ByteRange::new(number * 100, 1));
        }
        assert_eq!((damage.bytes, damage.ranges.len()), (21 + 98, RANGES_MAX));
        assert_eq!(
            damage.to_string(),
            "119 bytes (0 to 20, 30 to 31, 200 to 201, 300 to 301, 400 to 401, ...)"
        );
        let mut both = DamagedRanges::default();
        both.add(ByteRange::between(0, 5));
        let mut later = DamagedRanges::default();
        (0..70).for_each(|number| later.add(ByteRange::new(1000 + number * 10, 2)));
        both.append(&later);
        assert_eq!((both.bytes, both.ranges.len()), (145, RANGES_MAX));
    }
}
