//! Backup: a snapshot is made while the command waits, and copied by a job.
//!
//! ```text
//! plan (one thread)      extents of the snapshot -> spans of at most 4 MiB of data, in image order
//! work (several threads) span -> read, find zeros, hash, look up, compress
//! assemble (the job)     results in image order -> packs and manifest -> synced -> record
//! ```
//!
//! The bytes of everything between plan and assemble are leased from a budget that all jobs share.

mod accept;
mod assemble;
mod copy;
mod diff;
mod plan;
mod recheck;
mod run;
mod work;

pub(super) use accept::check_texts;
pub use recheck::DiffTrust;

use std::collections::BTreeMap;

use crate::jobs::JobId;
use crate::types::BackupId;

/// What a user asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BackupRequest {
    pub volume: String,
    pub name: Option<String>,
    pub description: Option<String>,
    pub incremental: bool,
    pub force: bool,
    pub snapshot: Option<String>,
    pub properties: BTreeMap<String, String>,
    /// Never to be deleted or pruned.
    pub protect: bool,
}

/// A backup that is `creating`, and the job that fills it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupAccepted {
    pub backup: BackupId,
    pub job: JobId,
    pub is_incremental: bool,
}
