//! Verify: reads all that a backup consists of, as the repository has it now, and says what is not right.
//!
//! ```text
//! record      read again and compared with what is known
//! manifests   every page of each manifest of the chain
//! image       every chunk that it needs, in image order, each copy; compared with the snapshot if that is wanted
//! outcome     -> `last_verified_at`, `image_sha256`, `damage`, `status`
//! ```
//!
//! It holds nothing up: it reads at a rate that all verifications share, waits in a line of its own, and stops at once.
//! How far it is, is remembered beside the index, so that the next daemon goes on there.

mod accept;
mod outcome;
mod progress;
mod run;
mod schedule;
mod walk;

use crate::jobs::JobId;
use crate::types::{BackupId, ByteRate, MIB, TimeSpan, Timestamp};

pub use schedule::VerifySchedule;

/// How verifications are held back, and which are made without being asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyOptions {
    /// Of all verifications together that have no rate of their own.
    pub rate: ByteRate,
    /// So many run at once.
    pub parallel: usize,
    /// Each backup is verified once in this time.
    pub schedule: Option<TimeSpan>,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self { rate: ByteRate::per_second(100 * MIB), parallel: 1, schedule: None }
    }
}

/// What a user asks for: these backups, or those of a volume, or all that are his.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VerifyRequest {
    pub backups: Vec<String>,
    pub volume: Option<String>,
    pub all: bool,
    /// Of them, those that were not verified since.
    pub not_since: Option<Timestamp>,
    /// Compare with the snapshots that the backups are of.
    pub against_source: bool,
    /// In the place of the rate that all share.
    pub rate: Option<ByteRate>,
}

/// A verification that is queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyAccepted {
    pub backup: BackupId,
    pub job: JobId,
}
