//! Restore: a backup's bytes into a new volume, or over an existing one.
//!
//! A new volume fills under `restore_backup_<backup id>` and gets its final name when it is complete and flushed.
//! An existing one carries the mark `amberfs.restore=incomplete` from before the first write until after the flush.
//!
//! The backup's record says where a restore writes and how much of that is durable; a start after a stop or a crash
//! goes on from there.

mod accept;
mod compare;
mod contents;
mod resume;
mod run;
mod target;
mod write;

pub(super) use resume::patiently;

use uuid::Uuid;

use crate::contents::PartName;
use crate::jobs::JobId;
use crate::types::{BackupId, SourceName, VolumeName};

pub(super) use target::Targets;

/// What a user asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RestoreRequest {
    /// Empty when `from_scratch` says what to restore.
    pub backup: String,
    /// A scratch image to restore, in the place of the backup that it is a view of.
    pub from_scratch: Option<String>,
    pub to: Option<String>,
    pub name: Option<String>,
    pub source: Option<String>,
    pub volume_type: Option<String>,
    /// Of a new volume; without it, the backup's.
    pub size_bytes: Option<u64>,
    pub force: bool,
    /// Give each XFS a new UUID on the way, so that it can be mounted beside the one that was backed up.
    pub new_xfs_uuid: bool,
    /// Write zeros where the backup is damaged, in the place of failing.
    pub skip_damaged: bool,
}

/// A restore that is queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreAccepted {
    pub backup: BackupId,
    pub job: JobId,
    pub source: SourceName,
    pub volume: VolumeName,
    /// The new UUIDs of its XFS.
    pub xfs_uuids: Vec<(PartName, Uuid)>,
}
