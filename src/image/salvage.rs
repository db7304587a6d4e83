//! What can be read of a damaged image: each range is zeros, in a chunk, or not known.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Image, REGION_BYTES, length_of, region_around, resolve};
use crate::format::damage::DamagedRanges;
use crate::format::manifest::{ManifestExtent, Target};
use crate::store::{ManifestReader, StoreError};
use crate::sysio::device::{self, ReadAt};
use crate::types::ByteRange;

/// So many ranges that were left out are remembered one by one.
const SKIPPED_RANGES_MAX: usize = 65_536;

/// A part of an image, and where its bytes come from.
#[derive(Debug, Clone)]
pub enum Part {
    Extent(ManifestExtent),
    /// A manifest that would tell is damaged.
    Unknown(ByteRange, Arc<StoreError>),
}

impl Part {
    pub fn range(&self) -> ByteRange {
        match self {
            Self::Extent(extent) => extent.range,
            Self::Unknown(range, _) => *range,
        }
    }

    fn is_hole(&self) -> bool {
        matches!(self, Self::Extent(ManifestExtent { target: Target::Zero, .. }))
    }
}

impl Image {
    /// Returns the parts of a range, ascending, without gaps. The range should not be long: all are returned at once.
    pub fn parts(&self, range: ByteRange) -> Vec<Part> {
        let readable = resolve::resolve_what_is_there(&self.layers, range.below(self.size_bytes));
        let mut parts: Vec<Part> = readable.segments.into_iter().map(Part::Extent).collect();
        parts.extend(readable.lost.into_iter().map(|(range, error)| Part::Unknown(range, error)));
        parts.sort_by_key(|part| part.range().start());
        parts
    }

    /// The manifests that the image is made of, its own first.
    pub fn manifests(&self) -> &[ManifestReader] {
        &self.layers
    }

    /// Returns the first part from here on that is no hole, from `offset` on.
    fn next_part(&self, offset: u64) -> Option<ByteRange> {
        let mut from = offset;
        while from < self.size_bytes {
            let candidate = self.first_chunk_of_any_layer(from)?;
            let rest = ByteRange::between(candidate, region_around(candidate).end());
            if let Some(part) = self.parts(rest).iter().find(|part| !part.is_hole()) {
                return Some(part.range());
            }
            from = rest.end();
        }
        None
    }
}

/// An image of which zeros are read where it is damaged, if that is wanted, and which knows where that was.
pub struct Salvage {
    image: Arc<Image>,
    /// Errors are errors if not.
    skips: bool,
    damaged: Mutex<Damaged>,
}

/// Ranges by their starts, without overlaps.
#[derive(Default)]
struct Damaged {
    ranges: BTreeMap<u64, u64>,
    first_error: Option<Arc<StoreError>>,
}

impl Damaged {
    fn note(&mut self, range: ByteRange, error: &Arc<StoreError>) {
        self.first_error.get_or_insert_with(|| Arc::clone(error));
        let (mut start, mut end) = (range.start(), range.end());
        // All that touch it become one with it.
        while let Some((before, before_end)) = self.ranges.range(..=end).next_back().map(|(a, b)| (*a, *b)) {
            if before_end < start {
                break;
            }
            self.ranges.remove(&before);
            (start, end) = (start.min(before), end.max(before_end));
        }
        if self.ranges.len() < SKIPPED_RANGES_MAX {
            self.ranges.insert(start, end);
        }
    }
}

impl Salvage {
    /// Reads zeros where the image is damaged.
    pub fn skipping(image: Arc<Image>) -> Self {
        Self { image, skips: true, damaged: Mutex::default() }
    }

    /// Fails where the image is damaged, and knows where that was.
    pub fn refusing(image: Arc<Image>) -> Self {
        Self { image, skips: false, damaged: Mutex::default() }
    }

    /// Returns where damage was met so far.
    pub fn damaged(&self) -> DamagedRanges {
        let mut ranges = DamagedRanges::default();
        self.lock().ranges.iter().for_each(|(start, end)| ranges.add(ByteRange::between(*start, *end)));
        ranges
    }

    /// Returns the error that was met first.
    pub fn first_error(&self) -> Option<Arc<StoreError>> {
        self.lock().first_error.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Damaged> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what can be read, part by part, and zeros for the rest; the last error, if there was one, or the first that is no
    /// damage.
    fn read_parts(&self, offset: u64, into: &mut [u8]) -> Option<Arc<StoreError>> {
        let mut last_error = None;
        let mut rest = into;
        for piece in ByteRange::new(offset, rest.len() as u64).split_on_grid(REGION_BYTES) {
            for part in self.image.parts(piece) {
                let (bytes, behind) = rest.split_at_mut(length_of(part.range()));
                let read = match &part {
                    Part::Extent(extent) => self.image.read_segment(extent, extent.range, bytes),
                    Part::Unknown(_, error) => Err(Arc::clone(error)),
                };
                if let Err(error) = read {
                    // This machine fails, and nothing is said of what is stored: no zeros stand for that.
                    if !error.is_damage() {
                        return Some(error);
                    }
                    bytes.fill(0);
                    self.lock().note(part.range(), &error);
                    last_error = Some(error);
                }
                rest = behind;
            }
        }
        last_error
    }
}

impl ReadAt for Salvage {
    fn size_bytes(&self) -> u64 {
        self.image.size_bytes()
    }

    fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        device::check_within(self.size_bytes(), offset, into.len(), io::ErrorKind::UnexpectedEof)?;
        if self.image.read(offset, into).is_ok() {
            return Ok(());
        }
        match self.read_parts(offset, into) {
            Some(error) if !self.skips || !error.is_damage() => Err(io::Error::other(error)),
            _ => Ok(()),
        }
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        match Image::next_data(&self.image, offset) {
            Ok(data) => Ok(data),
            Err(error) if !error.is_damage() => Err(io::Error::other(error)),
            Err(_) => Ok(self.image.next_part(offset).map(|part| part.start().max(offset))),
        }
    }

    /// What is not known is no hole: zeros have to be written there, too.
    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        match Image::next_hole(&self.image, offset) {
            Ok(hole) => return Ok(hole),
            Err(error) if !error.is_damage() => return Err(io::Error::other(error)),
            Err(_) => {}
        }
        for piece in ByteRange::between(offset, self.size_bytes()).split_on_grid(REGION_BYTES) {
            if let Some(hole) = self.image.parts(piece).iter().find(|part| part.is_hole()) {
                return Ok(hole.range().start());
            }
        }
        Ok(self.size_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ChunkId;

    #[test]
    fn ranges_that_touch_are_one_and_none_counts_twice() {
        let mut damaged = Damaged::default();
        let error = Arc::new(StoreError::ChunkMissing { id: ChunkId::of(b"x") });
        for (start, end) in [(10, 20), (40, 50), (15, 18), (20, 30), (5, 12), (29, 41), (60, 61)] {
            damaged.note(ByteRange::between(start, end), &error);
        }
        assert_eq!(Vec::from_iter(damaged.ranges), [(5, 50), (60, 61)]);
    }
}
