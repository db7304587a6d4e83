//! Where volumes live. A [`Source`] lists volumes, takes [`Snapshot`]s of them, and makes and fills volumes through
//! [`VolumeWriter`]s. Knows nothing of backups.
//!
//! `tests/source_contract/` holds directories to what is written here; RBD is held to it by `tests/rbd_source.rs`,
//! `rbd_diff.rs` and `rbd_faults.rs`, which do not share that suite yet.

mod error;
mod registry;

pub mod dir;
#[cfg(feature = "rbd")]
pub mod rbd;

pub use error::SourceError;
pub use registry::Sources;

use std::time::SystemTime;

use crate::types::{ByteRange, SnapshotName, SourceName, VolumeId, VolumeMetadata, VolumeName};

/// One volume as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeInfo {
    pub name: VolumeName,
    pub id: VolumeId,
    /// Tells this very volume from any other that has its name before or after it; a new name does not change it.
    pub instance: String,
    pub size_bytes: u64,
    /// Somebody has it open for writing.
    pub in_use: bool,
    pub metadata: VolumeMetadata,
}

/// Names one snapshot for good: a snapshot removed and made again under the same name has another id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    pub name: SnapshotName,
    pub id: u64,
    pub created_at: SystemTime,
    pub size_bytes: u64,
}

/// May a volume that is open for writing be snapshotted?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InUse {
    /// No: `VolumeInUse`.
    Refuse,
    /// Yes: the snapshot is crash-consistent.
    Accept,
}

/// A range of a snapshot and what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub range: ByteRange,
    pub kind: ExtentKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentKind {
    /// Anything, zeros too: it must be read.
    Data,
    /// Reads as zeros for certain.
    Zero,
}

/// What [`Snapshot::changed_since`] could say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changes {
    /// Everything outside the emitted extents is as it was in the base (within the smaller of the two sizes), or
    /// reads as zeros (beyond the base's end).
    Known,
    /// The source cannot tell: nothing was emitted, everything must be compared.
    Unknown,
}

/// How far a snapshot is one point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// The source froze it; it outlives this process and can be opened again by name.
    Frozen,
    /// The volume itself, kept from being written to while the snapshot lives; [`Snapshot::confirm`] tells.
    Held,
    /// The volume itself, which others may write to: whoever reads it must read it twice and compare.
    Unprotected,
}

/// Receives extents in ascending order, without overlaps. An error stops the enumeration and is passed on.
pub type EmitExtent<'a> = dyn FnMut(Extent) -> Result<(), SourceError> + 'a;

/// A place where volumes live.
///
/// All calls may block on the network, and end within the source's time limit with
/// [`SourceError::Unavailable`] when it does not answer. Calls may come from several threads.
pub trait Source: Send + Sync {
    fn name(&self) -> &SourceName;

    /// `dir` or `rbd`.
    fn kind(&self) -> &'static str;

    /// Can [`Snapshot::changed_since`] ever say more than `Unknown`? If not, no snapshot is kept as a base.
    fn tracks_changes(&self) -> bool {
        false
    }

    /// Lists the volumes' names, sorted.
    fn list(&self) -> Result<Vec<VolumeName>, SourceError>;

    /// Describes one volume, by name.
    fn volume(&self, name: &VolumeName) -> Result<VolumeInfo, SourceError>;

    /// Makes a snapshot of the volume as it is at this moment and opens it.
    ///
    /// An error leaves no snapshot behind.
    fn create_snapshot(
        &self,
        volume: &VolumeName,
        snapshot: &SnapshotName,
        in_use: InUse,
    ) -> Result<Box<dyn Snapshot>, SourceError>;

    /// Opens a frozen snapshot, ours or somebody else's.
    fn open_snapshot(
        &self,
        volume: &VolumeName,
        snapshot: &SnapshotName,
    ) -> Result<Box<dyn Snapshot>, SourceError>;

    /// Lists the frozen snapshots of a volume, oldest first.
    fn snapshots(&self, volume: &VolumeName) -> Result<Vec<SnapshotInfo>, SourceError>;

    /// Removes a snapshot if it is there and has this id; otherwise does nothing.
    fn remove_snapshot(&self, volume: &VolumeName, snapshot: &SnapshotInfo) -> Result<(), SourceError>;

    /// Finishes removals of snapshots whose names begin like this, which a kill cut off in the middle.
    fn finish_removals(&self, _volume: &VolumeName, _prefix: &str) -> Result<(), SourceError> {
        Ok(())
    }

    /// Makes a volume that reads as zeros and opens it for writing. `VolumeExists` when the name is taken.
    ///
    /// `metadata` is followed as far as this source can; what it does not know is left out.
    fn create_volume(
        &self,
        name: &VolumeName,
        size_bytes: u64,
        metadata: &VolumeMetadata,
    ) -> Result<Box<dyn VolumeWriter>, SourceError>;

    /// Opens an existing volume for writing; `VolumeInUse` when anybody else has it open for writing.
    fn open_volume(&self, name: &VolumeName) -> Result<Box<dyn VolumeWriter>, SourceError>;

    /// Refuses a name that no new volume can have here: `VolumeExists` when it is taken, else `InvalidName`.
    fn check_new_name(&self, name: &VolumeName) -> Result<(), SourceError>;

    /// Returns the size of a volume, in bytes, without disturbing anybody who uses it.
    fn size_bytes(&self, name: &VolumeName) -> Result<u64, SourceError> {
        Ok(self.volume(name)?.size_bytes)
    }

    /// Renames a volume durably; `VolumeExists` when the new name is taken, and then nothing has changed.
    fn rename_volume(&self, from: &VolumeName, to: &VolumeName) -> Result<(), SourceError>;

    /// Makes a volume's name durable that an earlier process may have given it without coming to say so.
    fn sync_name(&self, _name: &VolumeName) -> Result<(), SourceError> {
        Ok(())
    }

    /// Removes a volume; not an error when it is not there.
    fn remove_volume(&self, name: &VolumeName) -> Result<(), SourceError>;
}

/// A volume at one point in time, readable until dropped. Dropping it removes no frozen snapshot.
pub trait Snapshot: Send + Sync {
    fn info(&self) -> &SnapshotInfo;

    fn consistency(&self) -> Consistency;

    /// The volume's metadata when the snapshot was opened.
    fn metadata(&self) -> &VolumeMetadata;

    /// Emits what may hold something other than zeros; everything else reads as zeros.
    fn allocated(&self, emit: &mut EmitExtent<'_>) -> Result<(), SourceError>;

    /// Emits what differs from `base`, an older frozen snapshot of the same volume. See [`Changes`].
    ///
    /// `Unknown` also when the base is gone or was made again under its name.
    fn changed_since(&self, base: &SnapshotInfo, emit: &mut EmitExtent<'_>) -> Result<Changes, SourceError>;

    /// Fills `into` with the bytes of the ranges, one behind the other; the lengths must add up to `into.len()`,
    /// and no range may reach beyond the end. The ranges are read concurrently where that is faster.
    fn read(&self, ranges: &[ByteRange], into: &mut [u8]) -> Result<(), SourceError>;

    /// Says whether all that was read so far is of one point in time; `Changed` when somebody wrote meanwhile.
    ///
    /// Of an `Unprotected` snapshot it can only say that no change was noticed.
    fn confirm(&self) -> Result<(), SourceError>;
}

/// A volume open for writing by us alone. Calls may come from several threads, on ranges that do not overlap.
pub trait VolumeWriter: Send + Sync {
    fn size_bytes(&self) -> u64;

    fn read(&self, range: ByteRange, into: &mut [u8]) -> Result<(), SourceError>;

    /// Writes within the size.
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), SourceError>;

    /// Makes the range read as zeros, giving space back where the source can.
    fn zero(&self, range: ByteRange) -> Result<(), SourceError>;

    /// Emits what may hold something other than zeros; everything else reads as zeros. `emit` may write to the
    /// volume, below the end of the extent that it was given.
    fn allocated(&self, emit: &mut EmitExtent<'_>) -> Result<(), SourceError>;

    /// Makes all that was written durable.
    fn flush(&self) -> Result<(), SourceError>;

    /// Marks the volume (`Some`) or takes the mark away (`None`), durably: image-meta on RBD, a `user.` extended
    /// attribute on a file.
    fn set_mark(&self, key: &str, value: Option<&str>) -> Result<(), SourceError>;

    /// Returns what the volume is marked with.
    fn mark(&self, key: &str) -> Result<Option<String>, SourceError>;
}
