//! A logical volume as a device: its offsets are mapped to those of the physical volume below.

use std::io;

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
}

/// The logical volume of `mapping` on the physical volume `device`.
pub struct Mapped<D> {
    device: D,
    mapping: Mapping,
}

impl<D: ReadAt> Mapped<D> {
    pub fn new(device: D, mapping: Mapping) -> Self {
        Self { device, mapping }
    }

    /// Says where an offset lies, and how many of `wanted` bytes are there in one piece.
    fn place(&self, offset: u64, wanted: usize) -> io::Result<(u64, usize)> {
        let (at, available) = self.mapping.place(offset).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok((at, usize::try_from(available).map_or(wanted, |available| available.min(wanted))))
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
