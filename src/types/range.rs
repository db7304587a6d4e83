//! A range of bytes. Empty ranges are allowed; ranges that leave the number space cannot be made.

use std::fmt;

/// `length` bytes from `offset`. `offset + length` never overflows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteRange {
    offset: u64,
    length: u64,
}

impl ByteRange {
    /// Returns the range, cut off at the end of the number space.
    pub const fn new(offset: u64, length: u64) -> Self {
        let room = u64::MAX - offset;
        Self { offset, length: if length > room { room } else { length } }
    }

    /// Returns the range between two offsets; empty when they are not in order.
    pub const fn between(start: u64, end: u64) -> Self {
        Self { offset: start, length: end.saturating_sub(start) }
    }

    pub const fn start(self) -> u64 {
        self.offset
    }

    pub const fn len(self) -> u64 {
        self.length
    }

    /// The first offset behind the range.
    pub const fn end(self) -> u64 {
        self.offset + self.length
    }

    pub const fn is_empty(self) -> bool {
        self.length == 0
    }

    pub const fn contains(self, offset: u64) -> bool {
        self.offset <= offset && offset < self.end()
    }

    /// Returns what both ranges cover; empty when they do not meet.
    pub fn intersection(self, other: Self) -> Self {
        Self::between(self.offset.max(other.offset), self.end().min(other.end()))
    }

    /// Returns the part below `end`.
    pub fn below(self, end: u64) -> Self {
        Self::between(self.offset, self.end().min(end))
    }

    /// Returns the smallest range of whole blocks around this one.
    pub fn rounded_out(self, block: u64) -> Self {
        let start = self.offset - self.offset % block;
        match self.end().checked_next_multiple_of(block) {
            Some(end) => Self::between(start, end),
            None => Self::between(start, u64::MAX),
        }
    }

    /// Cuts the range where multiples of `grid` lie in it.
    pub fn split_on_grid(self, grid: u64) -> impl Iterator<Item = Self> {
        let mut rest = self;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let boundary = (rest.offset / grid).saturating_add(1).saturating_mul(grid);
            let piece = rest.below(boundary);
            rest = Self::between(piece.end(), rest.end());
            Some(piece)
        })
    }
}

impl fmt::Debug for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.offset, self.end())
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {} to {}", self.offset, self.end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_never_leaves_the_number_space() {
        assert_eq!(ByteRange::new(u64::MAX - 1, 10).end(), u64::MAX);
        assert_eq!(ByteRange::new(u64::MAX - 1, 1).rounded_out(512).end(), u64::MAX);
    }

    #[test]
    fn splitting_on_a_grid_loses_nothing() {
        let pieces: Vec<_> = ByteRange::new(100, 1000).split_on_grid(512).collect();
        assert_eq!(
            pieces,
            [ByteRange::between(100, 512), ByteRange::between(512, 1024), ByteRange::between(1024, 1100)]
        );
        assert_eq!(ByteRange::new(5, 0).split_on_grid(512).count(), 0);
    }
}
