//! A logical volume as a device: its offsets are mapped to those of the physical volume below.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::sysio::device::{ReadAt, WriteAt, check_within};

/// Where the bytes of a logical volume are on its physical volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapping {
    /// Where each segment starts in the logical volume.
    segments: Vec<(u64, Stripes)>,
    size_bytes: u64,
}

/// A segment: `stripe_bytes` from each of its pieces in turn. In a linear one there is one piece, and one stripe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stripes {
    pub(super) length: u64,
    pub(super) stripe_bytes: u64,
    /// Where each piece starts on the physical volume.
    pub(super) starts: Vec<u64>,
}

impl Mapping {
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Adds a segment behind the last one. The caller has checked that it lies on the physical volume.
    pub(super) fn push(&mut self, stripes: Stripes) {
        let start = self.size_bytes;
        self.size_bytes += stripes.length;
        self.segments.push((start, stripes));
    }

    /// Returns where an offset lies, and how many bytes from there on are in one piece.
    fn place(&self, offset: u64) -> Option<(u64, u64)> {
        let behind = self.segments.partition_point(|(start, _)| *start <= offset);
        let (start, segment) = self.segments.get(behind.checked_sub(1)?)?;
        let within = offset.checked_sub(*start).filter(|within| *within < segment.length)?;
        let (stripe, rest) = (within / segment.stripe_bytes, within % segment.stripe_bytes);
        let count = segment.starts.len() as u64;
        let piece = segment.starts.get(usize::try_from(stripe % count).ok()?)?;
        Some((piece + stripe / count * segment.stripe_bytes + rest, segment.stripe_bytes - rest))
    }

    /// Returns where a range lies, one run of bytes for each piece of each segment: start and length.
    pub(crate) fn runs(&self, range: Range<u64>) -> impl Iterator<Item = (u64, u64)> {
        self.pieces(range).map(|piece| (piece.place.start, piece.place.end - piece.place.start))
    }

    /// How many pieces there are in all segments.
    pub(crate) fn piece_count(&self) -> usize {
        self.segments.iter().map(|(_, segment)| segment.starts.len()).sum()
    }

    /// Returns the pieces in which a range lies, segment after segment; empty ones are left out.
    fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = Piece<'_>> {
        let first = self.segments.partition_point(|(start, segment)| start + segment.length <= range.start);
        let segments = self.segments.get(first..).unwrap_or_default();
        let overlapping = segments.iter().take_while({
            let end = range.end;
            move |(start, _)| *start < end
        });
        overlapping.flat_map(move |(start, segment)| {
            let from = range.start.saturating_sub(*start);
            let to = range.end.saturating_sub(*start).min(segment.length);
            let pieces = segment.starts.iter().zip(0..).map(move |(at, column)| {
                let place = at + segment.in_column(column, from)..at + segment.in_column(column, to);
                Piece { segment, segment_start: *start, column, at: *at, place }
            });
            pieces.filter(|piece| !piece.place.is_empty())
        })
    }
}

/// A part of a range that is in one run on the physical volume.
struct Piece<'a> {
    segment: &'a Stripes,
    /// In the logical volume.
    segment_start: u64,
    /// Which of the segment's pieces it is in, and where that starts on the physical volume.
    column: u64,
    at: u64,
    /// On the physical volume.
    place: Range<u64>,
}

impl Piece<'_> {
    /// Returns the offset in the logical volume of one on the physical volume.
    fn offset_of(&self, place: u64) -> u64 {
        let (row, rest) =
            ((place - self.at) / self.segment.stripe_bytes, (place - self.at) % self.segment.stripe_bytes);
        let stripe = row * self.segment.starts.len() as u64 + self.column;
        self.segment_start + stripe * self.segment.stripe_bytes + rest
    }
}

impl Stripes {
    /// How many of the first `length` bytes of the segment are in this piece of it.
    fn in_column(&self, column: u64, length: u64) -> u64 {
        let row_bytes = self.stripe_bytes.saturating_mul(self.starts.len() as u64);
        let rest = (length % row_bytes).saturating_sub(column.saturating_mul(self.stripe_bytes));
        length / row_bytes * self.stripe_bytes + rest.min(self.stripe_bytes)
    }
}

/// The logical volume of `mapping` on the physical volume `device`.
pub struct Mapped<D> {
    device: D,
    mapping: Arc<Mapping>,
}

impl<D: ReadAt> Mapped<D> {
    pub fn new(device: D, mapping: impl Into<Arc<Mapping>>) -> Self {
        Self { device, mapping: mapping.into() }
    }

    /// Says where an offset lies, and how many of `wanted` bytes are there in one piece.
    fn place(&self, offset: u64, wanted: usize) -> io::Result<(u64, usize)> {
        let (at, available) = self.mapping.place(offset).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok((at, usize::try_from(available).map_or(wanted, |available| available.min(wanted))))
    }

    /// Returns the first offset from `offset` on that `find` finds in one of the pieces, which it is given.
    ///
    /// Piece by piece and not stripe by stripe: a terabyte in stripes of 4 KiB has very many of these.
    fn first(
        &self,
        offset: u64,
        find: impl Fn(&Range<u64>) -> io::Result<Option<u64>>,
    ) -> io::Result<Option<u64>> {
        let mut first: Option<u64> = None;
        for piece in self.mapping.pieces(offset..self.size_bytes()) {
            // In the segments that follow there is nothing nearer.
            if first.is_some_and(|first| first < piece.segment_start) {
                break;
            }
            let found = find(&piece.place)?.filter(|place| piece.place.contains(place));
            let found = found.map(|place| piece.offset_of(place));
            first = first.into_iter().chain(found).min();
        }
        Ok(first)
    }
}

impl<D: ReadAt> ReadAt for Mapped<D> {
    fn size_bytes(&self) -> u64 {
        self.mapping.size_bytes()
    }

    fn read_exact_at(&self, mut offset: u64, mut into: &mut [u8]) -> io::Result<()> {
        check_within(self.size_bytes(), offset, into.len(), io::ErrorKind::UnexpectedEof)?;
        while !into.is_empty() {
            let (at, length) = self.place(offset, into.len())?;
            let (part, rest) = into.split_at_mut(length);
            self.device.read_exact_at(at, part)?;
            (offset, into) = (offset + length as u64, rest);
        }
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.first(offset, |place| self.device.next_data(place.start))
    }

    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        let found = self.first(offset, |place| self.device.next_hole(place.start).map(Some))?;
        Ok(found.unwrap_or_else(|| self.size_bytes()))
    }
}

impl<D: WriteAt> WriteAt for Mapped<D> {
    fn write_all_at(&self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        check_within(self.size_bytes(), offset, bytes.len(), io::ErrorKind::WriteZero)?;
        while !bytes.is_empty() {
            let (at, length) = self.place(offset, bytes.len())?;
            let (part, rest) = bytes.split_at(length);
            self.device.write_all_at(at, part)?;
            (offset, bytes) = (offset + length as u64, rest);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.device.sync()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::sysio::device::FileDevice;
    use crate::sysio::holes;

    const KIB: u64 = 1 << 10;

    /// Three stripes of 4 KiB, then one piece.
    fn mapping() -> Mapping {
        let mut mapping = Mapping::default();
        let starts = vec![100 * KIB, 0, 60 * KIB];
        mapping.push(Stripes { length: 48 * KIB, stripe_bytes: 4 * KIB, starts });
        mapping.push(Stripes { length: 20 * KIB, stripe_bytes: 20 * KIB, starts: vec![32 * KIB] });
        mapping
    }

    /// A file whose holes are known.
    struct Sparse(File);

    impl ReadAt for Sparse {
        fn size_bytes(&self) -> u64 {
            128 * KIB
        }

        fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
            self.0.read_exact_at(into, offset)
        }

        fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
            Ok(holes::next_data(&self.0, offset, self.size_bytes())?.map(|data| data.start))
        }

        fn next_hole(&self, offset: u64) -> io::Result<u64> {
            let data = holes::next_data(&self.0, offset, self.size_bytes())?;
            Ok(data.filter(|data| data.start == offset).map_or(offset, |data| data.end))
        }
    }

    #[test]
    fn holes_of_a_logical_volume_are_found_as_its_stripes_lie() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(128 * KIB).unwrap();
        // On the device: stripes 1 and 4 of the segment, and the end of the last piece.
        for place in [0, 4 * KIB, 48 * KIB] {
            file.write_all_at(&[1; 4096], place).unwrap();
        }
        let mapped = Mapped::new(Sparse(file), mapping());
        let mut expected = [false; 17];
        for block in [1, 4, 16] {
            expected[block] = true;
        }
        for block in 0..17 {
            let here = block as u64 * 4 * KIB;
            let after =
                |wanted: bool| (block..17).find(|at| expected[*at] == wanted).map(|at| at as u64 * 4 * KIB);
            assert_eq!(mapped.next_data(here).unwrap(), after(true), "data behind block {block}");
            assert_eq!(
                mapped.next_hole(here).unwrap(),
                after(false).unwrap_or(68 * KIB),
                "hole behind {block}"
            );
        }
        assert_eq!(mapped.next_data(68 * KIB).unwrap(), None);
    }

    #[test]
    fn the_runs_of_a_range_are_where_its_bytes_are_read() {
        let mapping = mapping();
        for (start, end) in [(0, 68), (5, 6), (3, 30), (47, 49), (48, 68), (10, 10)] {
            let mut places: Vec<u64> = (start * KIB..end * KIB)
                .step_by(512)
                .map(|offset| mapping.place(offset).unwrap().0)
                .collect();
            places.sort_unstable();
            let mut runs: Vec<u64> = mapping
                .runs(start * KIB..end * KIB)
                .flat_map(|(place, length)| (place..place + length).step_by(512))
                .collect();
            runs.sort_unstable();
            assert_eq!(runs, places, "{start}..{end}");
        }
        assert_eq!(mapping.runs(0..68 * KIB).count(), 4);
    }

    #[test]
    fn a_device_without_holes_has_none_in_its_logical_volumes() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(128 * KIB).unwrap();
        let mapped = Mapped::new(FileDevice::new(file).unwrap(), mapping());
        assert_eq!(mapped.next_data(5000).unwrap(), Some(5000));
        assert_eq!(mapped.next_hole(5000).unwrap(), 68 * KIB);
    }
}
