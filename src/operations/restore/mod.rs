//! Restore: a backup's bytes into a new volume, or over an existing one.
//!
//! A new volume fills under `restore_backup_<backup id>` and gets its final name when it is complete and flushed.
//! An existing one carries the mark `amberfs.restore=incomplete` from before the first write until after the flush.

mod accept;
mod run;
mod write;

use std::collections::HashMap;

use crate::jobs::JobId;
use crate::types::{BackupId, SourceName, VolumeName};

/// What a user asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RestoreRequest {
    pub backup: String,
    pub to: Option<String>,
    pub name: Option<String>,
    pub source: Option<String>,
    pub volume_type: Option<String>,
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

/// Volumes that running restores write to, by the names that they have when all went well.
pub(super) type Targets = HashMap<(SourceName, VolumeName), RunningTarget>;

/// How a volume of a running restore is called meanwhile, and what it will use.
#[derive(Debug, Clone)]
pub(super) struct RunningTarget {
    pub(super) temporary_name: VolumeName,
    pub(super) size_bytes: u64,
}
