//! What can go wrong at a source.

use std::io;

use crate::types::{SnapshotName, SourceName, VolumeName};

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("no volume {volume:?} in source {source_name}", volume = .volume.as_str())]
    VolumeNotFound { source_name: SourceName, volume: VolumeName },

    #[error("volume {volume:?} in source {source_name} has no snapshot {snapshot:?}", volume = .volume.as_str(), snapshot = .snapshot.as_str())]
    SnapshotNotFound { source_name: SourceName, volume: VolumeName, snapshot: SnapshotName },

    #[error("a volume {volume:?} exists in source {source_name}", volume = .volume.as_str())]
    VolumeExists { source_name: SourceName, volume: VolumeName },

    #[error("volume {volume:?} in source {source_name} is in use: {by}", volume = .volume.as_str())]
    VolumeInUse { source_name: SourceName, volume: VolumeName, by: String },

    /// The bytes that were read are not of one point in time.
    #[error("volume {volume:?} in source {source_name} was written to while it was read: {how}", volume = .volume.as_str())]
    Changed { source_name: SourceName, volume: VolumeName, how: String },

    #[error("source {source_name} cannot hold a volume named {volume:?}: {reason}", volume = .volume.as_str())]
    InvalidName { source_name: SourceName, volume: VolumeName, reason: String },

    /// The source does not answer, or does not let us in. Trying again later may help.
    #[error("source {source_name} is not available: {what}")]
    Unavailable { source_name: SourceName, what: String },

    #[error("source {source_name}: {what}")]
    Io {
        source_name: SourceName,
        what: String,
        #[source]
        source: io::Error,
    },

    /// The receiver of extents stopped the enumeration.
    #[error("stopped")]
    Stopped,
}
