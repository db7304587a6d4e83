//! A backup's record: the fields of the contract, and what amberfs needs to go on with it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::FormatError;
use super::damage::{BackupDamage, DamagedRanges};
use super::document::{self, DocumentKind};
use crate::types::{
    BackupId, ManifestId, ProjectName, ScratchId, SnapshotName, SourceName, Timestamp, VolumeId,
    VolumeMetadata, VolumeName,
};

const KIND: DocumentKind = DocumentKind { magic: "amberfs-record", what: "backup record", version: 1 };

/// The states of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupStatus {
    Creating,
    Available,
    Restoring,
    Deleting,
    Error,
    ErrorDeleting,
}

impl BackupStatus {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Available => "available",
            Self::Restoring => "restoring",
            Self::Deleting => "deleting",
            Self::Error => "error",
            Self::ErrorDeleting => "error_deleting",
        }
    }

    /// Is the whole image durable and readable?
    pub const fn is_readable(self) -> bool {
        matches!(self, Self::Available | Self::Restoring)
    }
}

impl std::fmt::Display for BackupStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which manifest object holds the extents, and what its bytes must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestReference {
    pub id: ManifestId,
    pub length: u64,
    /// SHA-256, in hexadecimal, of the manifest's tail, which holds the checksums of everything else in it.
    pub tail_sha256: String,
}

/// A snapshot at the source: the base of the next incremental, or what a running backup reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotReference {
    pub name: SnapshotName,
    pub id: u64,
    pub size_bytes: u64,
    pub created_at: Timestamp,
    /// Made by amberfs, which removes it when nobody needs it any more. Others' are never touched.
    pub ours: bool,
}

/// One backup, whole: what `records/ID` holds and what `backups/ID/record` exports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupRecord {
    pub id: BackupId,
    pub name: Option<String>,
    pub description: Option<String>,
    pub project: ProjectName,
    pub status: BackupStatus,
    pub fail_reason: Option<String>,
    pub volume_id: VolumeId,
    pub volume_name: VolumeName,
    pub source: SourceName,
    pub size_bytes: u64,
    /// New bytes that this backup added to the repository.
    pub stored_bytes: u64,
    /// Objects that this backup added to the repository.
    pub object_count: u64,
    pub availability_zone: Option<String>,
    pub parent_id: Option<BackupId>,
    /// The snapshot that the user named; null when amberfs made one.
    pub snapshot_id: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub data_timestamp: Timestamp,
    pub properties: BTreeMap<String, String>,
    pub volume_metadata: VolumeMetadata,
    pub image_sha256: Option<String>,
    pub last_verified_at: Option<Timestamp>,

    /// Bytes of the image that are not holes, the whole chain resolved.
    pub allocated_bytes: u64,
    /// Set when the backup becomes available.
    pub manifest: Option<ManifestReference>,
    /// The snapshot at the source that belongs to this backup, while there is one.
    pub snapshot: Option<SnapshotReference>,
    /// While `restoring`: what is being filled, so that a start after a stop or a crash can go on.
    pub restore_target: Option<RestoreTarget>,
    /// Never deleted or pruned, until that is taken back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub protected: bool,
    /// Manifests that this backup had before it was flattened, until they are removed: an image that is open may
    /// still need them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retired_manifests: Vec<ManifestId>,
    /// How far the source's word on what had changed was looked into.
    #[serde(default, skip_serializing_if = "DiffCheck::is_none")]
    pub diff_check: DiffCheck,
    /// What the last verification found wrong; null when that was nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<BackupDamage>,
}

/// What an incremental backup found of what the source calls unchanged. The next one of the volume goes on from there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffCheck {
    /// The rolling re-read ended at this offset.
    #[serde(default)]
    pub reread_until: u64,
    /// How often something had changed that the source had not told.
    #[serde(default)]
    pub misses: u32,
}

impl DiffCheck {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Where a restore writes, and all that a later start needs to go on with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreTarget {
    pub source: SourceName,
    pub volume: VolumeName,
    /// A new volume, under its temporary name: removed when the restore does not end well.
    pub is_new: bool,
    /// The name that a new volume gets in the end.
    #[serde(default)]
    pub final_name: Option<VolumeName>,
    /// Nobody asked for that name: another one will do when it is taken in the end.
    #[serde(default)]
    pub any_name: bool,
    /// Of a new volume.
    #[serde(default)]
    pub size_bytes: u64,
    #[serde(default)]
    pub volume_type: Option<String>,
    /// Tells the volume from another one under its name; null until a new one is made.
    #[serde(default)]
    pub instance: Option<String>,
    /// What the image has below this offset is durable in the volume.
    #[serde(default)]
    pub durable_bytes: u64,
    /// The scratch image that is restored, in the place of the backup that it is a view of.
    #[serde(default)]
    pub scratch: Option<ScratchId>,
    /// Each XFS gets a new UUID that follows from this one.
    #[serde(default)]
    pub new_xfs_uuid: Option<Uuid>,
    /// The restore was cancelled or has failed: all that is left to do is to remove the new volume.
    #[serde(default)]
    pub is_abandoned: bool,
    /// Zeros are written where the backup cannot be read.
    #[serde(default)]
    pub skip_damaged: bool,
    /// Where that was done, below `durable_bytes`.
    #[serde(default)]
    pub skipped: DamagedRanges,
}

impl BackupRecord {
    pub fn is_incremental(&self) -> bool {
        self.parent_id.is_some()
    }

    /// Can its whole image be read, as far as is known?
    pub fn is_whole(&self) -> bool {
        self.status.is_readable() && self.damage.is_none()
    }

    /// Is there an image of it to look into? It may be damaged in places, which are then errors.
    pub fn has_image(&self) -> bool {
        self.status.is_readable() || self.is_damaged()
    }

    /// Is it an error because it is damaged, and for no other reason?
    pub fn is_damaged(&self) -> bool {
        self.status == BackupStatus::Error && self.damage.is_some() && self.manifest.is_some()
    }

    /// What it is when nothing is being done with it any more.
    pub fn status_at_rest(&self) -> BackupStatus {
        if self.damage.is_some() { BackupStatus::Error } else { BackupStatus::Available }
    }

    /// Did it fail before it had any data? Then it needs no parent, and counts in no quota.
    pub fn holds_nothing(&self) -> bool {
        let has_failed =
            matches!(self.status, BackupStatus::Error | BackupStatus::Deleting | BackupStatus::ErrorDeleting);
        has_failed && self.manifest.is_none()
    }

    /// Does a record, which may have been altered, have the fields that never change as this one, which its manifest was
    /// written with?
    pub fn is_of_same_backup(&self, record: &Self) -> bool {
        self.id == record.id
            && self.project == record.project
            && self.source == record.source
            && self.volume_id == record.volume_id
            && self.volume_name == record.volume_name
            && self.size_bytes == record.size_bytes
            && self.parent_id == record.parent_id
            && self.snapshot_id == record.snapshot_id
            && self.created_at == record.created_at
            && self.data_timestamp == record.data_timestamp
            && self.volume_metadata == record.volume_metadata
            // The base of the next incremental: a wrong one would make that one wrong.
            && (record.snapshot.is_none() || record.snapshot == self.snapshot)
    }

    pub fn encode(&self) -> Result<String, FormatError> {
        document::encode(KIND, self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        document::decode(KIND, bytes)
    }
}
