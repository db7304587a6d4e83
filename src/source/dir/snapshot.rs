//! A volume's file at one point in time. The file stays open, so renaming or removing it does no harm. What was
//! read counts only after a look at whatever protects the file: bytes of two points in time are an error.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;

use super::place::{HeldFile, Place};
use crate::source::{
    Changes, Consistency, EmitExtent, Extent, ExtentKind, Snapshot, SnapshotInfo, SourceError,
};
use crate::sysio::holes;
use crate::sysio::lease::ReadLease;
use crate::types::{ByteRange, VolumeMetadata, VolumeName};

pub(super) struct FileSnapshot {
    place: Arc<Place>,
    opened: OpenedFile,
    metadata: VolumeMetadata,
    protection: Protection,
}

/// A file that is read as a snapshot.
pub(super) struct OpenedFile {
    pub(super) volume: VolumeName,
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) info: SnapshotInfo,
}

pub(super) enum Protection {
    /// Nobody writes to a snapshot's file: the time of its last change is that of its making.
    Frozen,
    Leased {
        lease: ReadLease,
        /// Keeps restores of ours away; dropped after the lease.
        _held: HeldFile,
    },
    Watched {
        at_first: Stamp,
    },
}

/// What a write changes, unless it comes through a mapping that was dirty already.
#[derive(PartialEq, Eq)]
pub(super) struct Stamp {
    size_bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            size_bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl FileSnapshot {
    pub(super) fn new(place: &Arc<Place>, opened: OpenedFile, protection: Protection) -> Self {
        Self { place: Arc::clone(place), opened, metadata: VolumeMetadata::default(), protection }
    }

    /// Says whether what was read up to now stands. Of a watched file only `confirm` tells.
    fn check_protection(&self) -> Result<(), SourceError> {
        match &self.protection {
            Protection::Leased { lease, .. } if !lease.is_held() => {
                Err(self.place.changed(&self.opened.volume, "a program has opened it for writing"))
            }
            _ => Ok(()),
        }
    }

    fn read_error(&self, range: ByteRange, error: io::Error) -> SourceError {
        if error.kind() == io::ErrorKind::UnexpectedEof && !matches!(self.protection, Protection::Frozen) {
            return self.place.changed(&self.opened.volume, "it was cut short");
        }
        self.place.io(&format!("read {range} of"), &self.opened.path)(error)
    }
}

impl Snapshot for FileSnapshot {
    fn info(&self) -> &SnapshotInfo {
        &self.opened.info
    }

    fn consistency(&self) -> Consistency {
        match self.protection {
            Protection::Frozen => Consistency::Frozen,
            Protection::Leased { .. } => Consistency::Held,
            Protection::Watched { .. } => Consistency::Unprotected,
        }
    }

    fn metadata(&self) -> &VolumeMetadata {
        &self.metadata
    }

    fn allocated(&self, emit: &mut EmitExtent<'_>) -> Result<(), SourceError> {
        let failed = |error| self.place.io("find the data of", &self.opened.path)(error);
        emit_data(&self.opened.file, self.opened.info.size_bytes, failed, emit)?;
        // Holes count as read, too.
        self.check_protection()
    }

    fn changed_since(
        &self,
        _base: &SnapshotInfo,
        _emit: &mut EmitExtent<'_>,
    ) -> Result<Changes, SourceError> {
        Ok(Changes::Unknown)
    }

    fn read(&self, ranges: &[ByteRange], into: &mut [u8]) -> Result<(), SourceError> {
        let mut rest = into;
        for range in ranges {
            let length = usize::try_from(range.len()).unwrap_or(usize::MAX);
            let within = range.end() <= self.opened.info.size_bytes;
            let Some((bytes, behind)) = rest.split_at_mut_checked(length).filter(|_| within) else {
                return Err(self.read_error(*range, io::ErrorKind::InvalidInput.into()));
            };
            if let Err(error) = self.opened.file.read_exact_at(bytes, range.start()) {
                self.check_protection()?;
                return Err(self.read_error(*range, error));
            }
            rest = behind;
        }
        if !rest.is_empty() {
            let asked_for = ByteRange::new(0, 0);
            return Err(self.read_error(asked_for, io::ErrorKind::InvalidInput.into()));
        }
        self.check_protection()
    }

    fn confirm(&self) -> Result<(), SourceError> {
        self.check_protection()?;
        let metadata = self.opened.file.metadata().map_err(self.place.io("look at", &self.opened.path))?;
        let unchanged = match &self.protection {
            Protection::Leased { .. } => true,
            Protection::Frozen => {
                metadata.len() == self.opened.info.size_bytes
                    && metadata.modified().is_ok_and(|time| time == self.opened.info.created_at)
            }
            Protection::Watched { at_first } => *at_first == Stamp::of(&metadata),
        };
        if unchanged { Ok(()) } else { Err(self.place.changed(&self.opened.volume, "the file has changed")) }
    }
}

/// Emits the data of a file's first bytes.
pub(super) fn emit_data(
    file: &File,
    size_bytes: u64,
    failed: impl Fn(io::Error) -> SourceError,
    emit: &mut EmitExtent<'_>,
) -> Result<(), SourceError> {
    let mut from = 0;
    // Every turn moves on: a run of data is never empty.
    while let Some(data) = holes::next_data(file, from, size_bytes).map_err(&failed)? {
        from = data.end;
        emit(Extent { range: ByteRange::between(data.start, data.end), kind: ExtentKind::Data })?;
    }
    Ok(())
}
