//! Restore: a backup's bytes into a new volume, or over an existing one.
//!
//! A new volume fills under `restore_backup_<backup id>` and gets its final name when it is complete and flushed.
//! An existing one carries the mark `amberfs.restore=incomplete` from before the first write until after the flush.
//!
//! The backup's record says where a restore writes and how much of that is durable; a start after a stop or a crash
//! goes on from there.

mod accept;
mod compare;
mod resume;
mod run;
mod target;
mod write;

pub(super) use resume::patiently;

use crate::jobs::JobId;
use crate::types::{BackupId, SourceName, VolumeName};

pub(super) use target::Targets;

/// What a user asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RestoreRequest {
    pub backup: String,
    pub to: Option<String>,
    pub name: Option<String>,
    pub source: Option<String>,
    pub volume_type: Option<String>,
    /// Of a new volume; without it, the backup's.
    pub size_bytes: Option<u64>,
    pub force: bool,
}

/// A restore that is queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreAccepted {
    pub backup: BackupId,
    pub job: JobId,
    pub source: SourceName,
    pub volume: VolumeName,
}
