//! Which ranges of an image differ from a snapshot, or hold anything at all.
//!
//! Two passes where the object map can be trusted: whole objects first, which is a look at the map however large the
//! image, and then exactly, on the dirty ranges only. Else one exact pass, which visits every object. Either way a
//! window at a time: what is kept of a diff is bounded, however much has changed.
//!
//! The invariant: what is emitted as `Zero` reads as zeros. A hole in a clone may show its parent's bytes, so holes
//! below the parent's overlap are emitted as `Data`.

use std::sync::Arc;

use super::connection::Connection;
use super::librbd::{Diff, DiffExtent, Image};
use crate::source::{EmitExtent, Extent, ExtentKind, SourceError};
use crate::types::{ByteRange, GIB, VolumeName};

/// A window's extents take 24 bytes each: 24 MiB at most.
const WINDOW_EXTENTS_MAX: usize = 1 << 20;
const WHOLE_WINDOW: u64 = 1024 * GIB;
const EXACT_WINDOW: u64 = 64 * GIB;
/// librbd visits ten objects at a time: a gap of so many clean ones costs less than a call of its own.
const GAP_OBJECTS: u64 = 16;

/// One enumeration: of what differs from `base`, or, without one, of what there is.
pub struct Enumeration<'a> {
    pub connection: &'a Connection,
    pub volume: &'a VolumeName,
    pub image: &'a Arc<Image>,
    /// The name of a snapshot.
    pub base: Option<&'a str>,
    /// Below this, the object maps can be trusted to tell which objects there is something to be said of.
    pub fast_below: u64,
    /// Holes below this may show a parent's bytes.
    pub overlap: u64,
    /// The bytes of an object set: the smallest window, in which even the most fragmented diff has its place.
    pub period: u64,
}

impl Enumeration<'_> {
    /// Emits the extents below `size`, in ascending order, without overlaps.
    pub fn run(&self, size: u64, emit: &mut EmitExtent<'_>) -> Result<(), SourceError> {
        let fast_end = self.fast_below.min(size);
        // An object of which only a part can be trusted is looked at.
        let fast_end = if fast_end < size { fast_end - fast_end % self.period } else { size };
        self.dirty_objects(ByteRange::new(0, fast_end), emit)?;
        self.windows(ByteRange::between(fast_end, size), false, emit)
    }

    fn dirty_objects(&self, range: ByteRange, emit: &mut EmitExtent<'_>) -> Result<(), SourceError> {
        let gap = self.period.saturating_mul(GAP_OBJECTS);
        let mut pending = ByteRange::between(range.start(), range.start());
        self.windows(range, true, &mut |dirty| {
            if pending.is_empty() {
                pending = dirty.range;
            } else if dirty.range.start() - pending.end() <= gap {
                pending = ByteRange::between(pending.start(), dirty.range.end());
            } else {
                self.windows(pending, false, emit)?;
                pending = dirty.range;
            }
            Ok(())
        })?;
        self.windows(pending, false, emit)
    }

    fn windows(&self, range: ByteRange, whole: bool, emit: &mut EmitExtent<'_>) -> Result<(), SourceError> {
        let widest = if whole { WHOLE_WINDOW } else { EXACT_WINDOW };
        let mut width = widest;
        let mut rest = range;
        while !rest.is_empty() {
            // Ends of windows lie on ends of object sets, so that no object is visited twice.
            let end = rest.start().saturating_add(width);
            let end = if end < rest.end() { end - end % self.period } else { end };
            let window = rest.below(end.max(rest.start() + 1));
            match self.diff(window, whole)? {
                Diff::TooMany if width > self.period => width = (width / 16).max(self.period),
                Diff::TooMany => {
                    return Err(self.connection.refused(format!(
                        "the diff of {window} of volume {:?} has more extents than an object can have",
                        self.volume.as_str()
                    )));
                }
                Diff::Extents(extents) => {
                    in_order(extents, window).try_for_each(|extent| self.emit(extent, emit))?;
                    rest = ByteRange::between(window.end(), rest.end());
                    width = width.saturating_mul(2).min(widest);
                }
            }
        }
        Ok(())
    }

    fn diff(&self, window: ByteRange, whole: bool) -> Result<Diff, SourceError> {
        let image = Arc::clone(self.image);
        let base = self.base.map(str::to_owned);
        let doing = format!("comparing {window} of volume {:?}", self.volume.as_str());
        self.connection.call_io(&doing, move |_| {
            image.diff(base.as_deref(), window.start(), window.len(), whole, WINDOW_EXTENTS_MAX)
        })
    }

    fn emit(&self, extent: Extent, emit: &mut EmitExtent<'_>) -> Result<(), SourceError> {
        if extent.kind == ExtentKind::Data {
            return emit(extent);
        }
        let doubtful = extent.range.below(self.overlap);
        if !doubtful.is_empty() {
            emit(Extent { range: doubtful, kind: ExtentKind::Data })?;
        }
        let certain = ByteRange::between(extent.range.start().max(self.overlap), extent.range.end());
        // Without a base, what reads as zeros is not there at all.
        if certain.is_empty() || self.base.is_none() {
            return Ok(());
        }
        emit(Extent { range: certain, kind: ExtentKind::Zero })
    }
}

/// Returns the extents of a window sorted, cut to it, and neighbours of one kind joined. The order within an
/// object set is librbd's own affair. Where extents overlap, which is not to be expected, data wins.
fn in_order(mut extents: Vec<DiffExtent>, window: ByteRange) -> impl Iterator<Item = Extent> {
    extents.sort_unstable_by_key(|extent| (extent.offset, !extent.exists));
    let mut merged: Vec<Extent> = Vec::with_capacity(extents.len());
    for extent in extents {
        let range = ByteRange::new(extent.offset, extent.length).intersection(window);
        let kind = if extent.exists { ExtentKind::Data } else { ExtentKind::Zero };
        if range.is_empty() {
            continue;
        }
        match merged.last_mut() {
            Some(last)
                if range.start() < last.range.end()
                    || (range.start() == last.range.end() && last.kind == kind) =>
            {
                if last.kind != kind {
                    last.kind = ExtentKind::Data;
                }
                let end = last.range.end().max(range.end());
                last.range = ByteRange::between(last.range.start(), end);
            }
            _ => merged.push(Extent { range, kind }),
        }
    }
    merged.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(offset: u64, length: u64, exists: bool) -> DiffExtent {
        DiffExtent { offset, length, exists }
    }

    #[test]
    fn striped_extents_are_put_in_order_and_joined() {
        let extents =
            vec![raw(8, 4, true), raw(0, 4, true), raw(20, 4, false), raw(4, 4, true), raw(24, 100, false)];
        let extents: Vec<_> = in_order(extents, ByteRange::new(2, 60)).collect();
        assert_eq!(
            extents,
            [
                Extent { range: ByteRange::between(2, 12), kind: ExtentKind::Data },
                Extent { range: ByteRange::between(20, 62), kind: ExtentKind::Zero }
            ]
        );
    }

    #[test]
    fn overlapping_extents_are_one_of_data() {
        let extents: Vec<_> =
            in_order(vec![raw(0, 10, false), raw(5, 10, true)], ByteRange::new(0, 100)).collect();
        assert_eq!(extents, [Extent { range: ByteRange::between(0, 15), kind: ExtentKind::Data }]);
    }
}
