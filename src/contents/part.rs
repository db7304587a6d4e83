//! The parts of a disk: itself, its partitions, and the logical volumes in either.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::lvm::{Mapped, Mapping};
use crate::sysio::device::{ReadAt, Window, WriteAt};

/// Which part of a disk: without anything, the disk itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct PartName {
    pub partition: Option<u32>,
    /// A logical volume of LVM, on the partition or on the bare disk.
    pub logical_volume: Option<Arc<str>>,
}

impl PartName {
    pub fn partition(number: u32) -> Self {
        Self { partition: Some(number), logical_volume: None }
    }

    pub fn logical_volume(partition: Option<u32>, name: &str) -> Self {
        Self { partition, logical_volume: Some(name.into()) }
    }
}

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.logical_volume, self.partition) {
            (None, None) => write!(f, "the disk"),
            (None, Some(number)) => write!(f, "partition {number}"),
            (Some(name), None) => write!(f, "logical volume {name}"),
            (Some(name), Some(number)) => write!(f, "logical volume {name} of partition {number}"),
        }
    }
}

/// Where a part lies in its disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub(super) start: u64,
    pub(super) length: u64,
    /// Of a logical volume: where it lies on the physical volume, which is the part from `start` on.
    pub(super) mapping: Option<Arc<Mapping>>,
}

impl Place {
    /// The place of the disk itself.
    pub fn whole(size_bytes: u64) -> Self {
        Self { start: 0, length: size_bytes, mapping: None }
    }

    pub fn size_bytes(&self) -> u64 {
        self.mapping.as_ref().map_or(self.length, |mapping| mapping.size_bytes())
    }

    /// Returns the part as a device of its own.
    pub fn of<D: ReadAt>(&self, disk: D) -> Part<D> {
        let window = Window::new(disk, self.start, self.length);
        match &self.mapping {
            None => Part::Window(window),
            Some(mapping) => Part::LogicalVolume(Mapped::new(window, Arc::clone(mapping))),
        }
    }

    /// Returns where in the disk a range of the part lies, in few runs: start and length.
    pub fn runs(&self, range: Range<u64>) -> Vec<(u64, u64)> {
        match &self.mapping {
            None => vec![(self.start + range.start, range.end.saturating_sub(range.start))],
            Some(mapping) => {
                mapping.runs(range).map(|(start, length)| (self.start + start, length)).collect()
            }
        }
    }
}

/// A part of a disk as a device.
pub enum Part<D> {
    Window(Window<D>),
    LogicalVolume(Mapped<Window<D>>),
}

impl<D: ReadAt> Part<D> {
    fn device(&self) -> &dyn ReadAt {
        match self {
            Self::Window(window) => window,
            Self::LogicalVolume(mapped) => mapped,
        }
    }
}

impl<D: ReadAt> ReadAt for Part<D> {
    fn size_bytes(&self) -> u64 {
        self.device().size_bytes()
    }

    fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.device().read_exact_at(offset, into)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.device().next_data(offset)
    }

    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        self.device().next_hole(offset)
    }
}

impl<D: WriteAt> WriteAt for Part<D> {
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Window(window) => window.write_all_at(offset, bytes),
            Self::LogicalVolume(mapped) => mapped.write_all_at(offset, bytes),
        }
    }

    fn sync(&self) -> io::Result<()> {
        match self {
            Self::Window(window) => window.sync(),
            Self::LogicalVolume(mapped) => mapped.sync(),
        }
    }
}
