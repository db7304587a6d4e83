//! Lays the extents of a chain over each other for one region.

use std::sync::Arc;

use super::REGION_BYTES;
use crate::format::manifest::{ManifestExtent, Target};
use crate::store::{ManifestReader, StoreError, Visited};
use crate::types::{ByteRange, sentence};

/// A region in sectors has an eighth of that. A bound for the memory of whoever reads what somebody else wrote.
const PIECES_MAX: usize = 1 << 16;

/// Returns the segments of a region, ascending, without gaps. `layers` are newest first.
///
/// A layer hides everything below it beyond its own end: a volume that shrank and grew again reads zeros there,
/// not what an older backup had.
pub(super) fn resolve(
    layers: &[ManifestReader],
    region: ByteRange,
) -> Result<Vec<ManifestExtent>, StoreError> {
    let mut overlay = Overlay::new(region);
    for (depth, layer) in layers.iter().enumerate() {
        overlay.hide_beyond(layer.size_bytes());
        let Some(hull) = overlay.hull() else { break };
        let mut lower = overlay.begin_layer();
        let mut visited = 0;
        layer
            .visit(hull, |extent| {
                lower.lay(extent);
                visited += 1;
                visited < PIECES_MAX
            })
            // Somebody else may hold the error too, when both waited for one page: then its words have to do.
            .map_err(|error| {
                Arc::try_unwrap(error).unwrap_or_else(|error| StoreError::ManifestCorrupt {
                    id: layer.id(),
                    why: sentence(&error),
                })
            })?;
        lower.finish();
        if visited == PIECES_MAX || overlay.piece_count() > PIECES_MAX {
            let why = format!("it cuts {region} into more than {PIECES_MAX} pieces");
            return Err(StoreError::ManifestCorrupt { id: layer.id(), why });
        }
        if depth + 1 == layers.len()
            && let Some(gap) = overlay.hull()
        {
            return Err(StoreError::ManifestGap { id: layer.id(), range: gap });
        }
    }
    Ok(overlay.into_segments())
}

/// What can be said of a region.
#[derive(Debug)]
pub struct Readable {
    /// Ascending, without overlaps.
    pub segments: Vec<ManifestExtent>,
    /// What no manifest tells any more: the rest of the region, ascending.
    pub lost: Vec<(ByteRange, Arc<StoreError>)>,
}

/// Resolves a region as far as its manifests can be read. `layers` are newest first.
///
/// A damaged page hides what is below it: nobody knows what it said. Where newer layers lie over it, it is not missed.
pub fn resolve_what_is_there(layers: &[ManifestReader], region: ByteRange) -> Readable {
    let mut overlay = Overlay::new(region);
    let mut lost = Vec::new();
    let regions = usize::try_from(region.len().div_ceil(REGION_BYTES)).unwrap_or(usize::MAX).max(1);
    let pieces_max = PIECES_MAX.saturating_mul(regions);
    for layer in layers {
        overlay.hide_beyond(layer.size_bytes());
        let Some(hull) = overlay.hull() else { break };
        let mut lower = overlay.begin_layer();
        let mut visited_pieces = 0;
        layer.visit_what_is_there(hull, |visited| {
            visited_pieces += 1;
            // No image that is read has so many: see `resolve`.
            if visited_pieces > pieces_max {
                return;
            }
            match visited {
                Visited::Extent(extent) => lower.lay(extent),
                Visited::Lost { range, error } => {
                    lower.cover(range, |_, covered| lost.push((covered, Arc::clone(&error))));
                }
            }
        });
        lower.finish();
        if visited_pieces > pieces_max || overlay.piece_count() > pieces_max {
            let why = format!("it cuts {region} into more than {pieces_max} pieces");
            let error = Arc::new(StoreError::ManifestCorrupt { id: layer.id(), why });
            return Readable { segments: Vec::new(), lost: vec![(region, error)] };
        }
    }
    if let Some(oldest) = layers.last() {
        let gap = |range| (range, Arc::new(StoreError::ManifestGap { id: oldest.id(), range }));
        lost.extend(std::mem::take(&mut overlay.open).into_iter().map(gap));
    }
    lost.sort_by_key(|(range, _)| range.start());
    Readable { segments: overlay.into_segments(), lost }
}

/// Returns the part of an extent that covers `range`, which lies within it.
pub(super) fn cut(extent: &ManifestExtent, range: ByteRange) -> ManifestExtent {
    let target = match extent.target {
        Target::Zero => Target::Zero,
        Target::Chunk { id, offset } => {
            let skipped = u32::try_from(range.start() - extent.range.start()).unwrap_or(u32::MAX);
            Target::Chunk { id, offset: offset.saturating_add(skipped) }
        }
    };
    ManifestExtent { range, target }
}

/// What is known of a region so far, and what is still open.
struct Overlay {
    segments: Vec<ManifestExtent>,
    /// Ascending, without overlaps.
    open: Vec<ByteRange>,
}

impl Overlay {
    fn new(region: ByteRange) -> Self {
        let open = if region.is_empty() { Vec::new() } else { vec![region] };
        Self { segments: Vec::new(), open }
    }

    fn hull(&self) -> Option<ByteRange> {
        Some(ByteRange::between(self.open.first()?.start(), self.open.last()?.end()))
    }

    fn piece_count(&self) -> usize {
        self.segments.len() + self.open.len()
    }

    fn hide_beyond(&mut self, end: u64) {
        while let Some(last) = self.open.pop_if(|last| last.end() > end) {
            let zero = ByteRange::between(last.start().max(end), last.end());
            self.segments.push(ManifestExtent { range: zero, target: Target::Zero });
            if last.start() < end {
                self.open.push(last.below(end));
            }
        }
    }

    fn begin_layer(&mut self) -> LayerOverlay<'_> {
        let open = std::mem::take(&mut self.open);
        LayerOverlay { overlay: self, open: open.into_iter().peekable() }
    }

    fn into_segments(mut self) -> Vec<ManifestExtent> {
        self.segments.sort_unstable_by_key(|segment| segment.range.start());
        self.segments
    }
}

/// Lays one layer's extents, which come in ascending order, under what is known: two sorted lists in one pass.
struct LayerOverlay<'a> {
    overlay: &'a mut Overlay,
    open: std::iter::Peekable<std::vec::IntoIter<ByteRange>>,
}

impl LayerOverlay<'_> {
    fn lay(&mut self, extent: &ManifestExtent) {
        self.cover(extent.range, |segments, covered| segments.push(cut(extent, covered)));
    }

    /// Takes a range out of what is open, and calls `keep` with each part of it that was.
    fn cover(&mut self, range: ByteRange, mut keep: impl FnMut(&mut Vec<ManifestExtent>, ByteRange)) {
        while let Some(open) = self.open.peek_mut() {
            if range.end() <= open.start() {
                return;
            }
            let covered = open.intersection(range);
            let before = open.below(range.start());
            if !before.is_empty() {
                self.overlay.open.push(before);
            }
            if !covered.is_empty() {
                keep(&mut self.overlay.segments, covered);
            }
            if open.end() > range.end() {
                *open = ByteRange::between(range.end().max(open.start()), open.end());
                return;
            }
            self.open.next();
        }
    }

    fn finish(self) {
        self.overlay.open.extend(self.open);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ChunkId;

    fn extent(start: u64, end: u64, chunk: u8) -> ManifestExtent {
        let target = Target::Chunk { id: ChunkId::of(&[chunk]), offset: 0 };
        ManifestExtent { range: ByteRange::between(start, end), target }
    }

    fn lay(overlay: &mut Overlay, extents: &[ManifestExtent]) {
        let mut layer = overlay.begin_layer();
        extents.iter().for_each(|extent| layer.lay(extent));
        layer.finish();
    }

    #[test]
    fn newer_extents_cut_older_ones() {
        let mut overlay = Overlay::new(ByteRange::between(0, 100));
        lay(&mut overlay, &[extent(10, 20, 1), extent(30, 40, 1)]);
        assert_eq!(overlay.open, [(0, 10), (20, 30), (40, 100)].map(|(a, b)| ByteRange::between(a, b)));
        lay(&mut overlay, &[extent(15, 35, 2), extent(90, 95, 2)]);
        lay(&mut overlay, &[extent(0, 100, 3)]);
        assert!(overlay.open.is_empty());
        let segments = overlay.into_segments();
        let ends: Vec<_> = segments.iter().map(|segment| segment.range.end()).collect();
        assert_eq!(ends, [10, 20, 30, 40, 90, 95, 100]);
        let Target::Chunk { id, offset } = segments[2].target else { panic!("a chunk is expected") };
        assert_eq!((id, offset), (ChunkId::of(&[2]), 5), "the part from 20 of an extent from 15");
    }

    #[test]
    fn nothing_shines_through_beyond_the_end_of_a_newer_layer() {
        let mut overlay = Overlay::new(ByteRange::between(0, 100));
        lay(&mut overlay, &[extent(90, 100, 1)]);
        overlay.hide_beyond(50);
        lay(&mut overlay, &[extent(0, 100, 2)]);
        let segments = overlay.into_segments();
        let zero = segments.iter().find(|segment| segment.target == Target::Zero);
        assert_eq!(zero.map(|segment| segment.range), Some(ByteRange::between(50, 90)));
        assert_eq!(segments.len(), 3);
    }
}
