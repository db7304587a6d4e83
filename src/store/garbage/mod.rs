//! Garbage collection: removes what no manifest needs, beside backups, restores and open images.
//!
//! - *What is needed* is what the manifests name that are there, and nothing else: neither the index nor the catalog is
//!   asked. A manifest that cannot be read, or is lost, ends the collection before anything is
//!   removed.
//! - *What may go* is a pack that was there when the collection began, and that no session counts on or wrote
//!   (`store/collection.rs`): manifests that are published too late to be seen are of such sessions, or name chunks
//!   that another manifest named before (a flatten's).
//! - *Packs with little left in them* are written again: each chunk that is needed is checked, written to a new pack,
//!   synced, indexed, and read back before the old pack goes. A copy of a chunk is only dropped for another one that was
//!   read and found right.
//! - A kill at any point leaves both packs, or the new one. Memory: 9 bytes for each needed chunk of the part of all ids
//!   that is looked at, two bits for each chunk in a pack; there are as many parts as the memory allowed makes necessary.

mod live;
mod mark;
mod sweep;

use std::collections::HashSet;
use std::sync::Arc;

use serde::Serialize;

use super::collection::Collecting;
use super::manifest_reader::ManifestReader;
use super::{ChunkStore, StoreError};
use crate::jobs::{JobControl, Stop};
use crate::types::ManifestId;
use mark::PackMarks;

#[derive(Debug, thiserror::Error)]
pub enum GarbageError {
    #[error("a garbage collection is running already")]
    AlreadyRunning,

    /// What it names is not known, so nothing can be called garbage.
    #[error("manifest {id} cannot be read, so it is not known what is needed; nothing was removed")]
    UnreadableManifest {
        id: ManifestId,
        #[source]
        source: Arc<StoreError>,
    },

    #[error(transparent)]
    Store(#[from] StoreError),

    #[error(transparent)]
    Stopped(#[from] Stop),
}

impl From<Arc<StoreError>> for GarbageError {
    fn from(error: Arc<StoreError>) -> Self {
        Self::Store(Arc::try_unwrap(error).unwrap_or(StoreError::Stopped))
    }
}

/// How a collection is made.
#[derive(Debug, Clone, Copy)]
pub struct GarbageOptions {
    /// Bytes of memory for the ids of needed chunks.
    pub memory_bytes: u64,
    /// A pack is written again when less than this share of its bytes is needed, in percent.
    pub rewrite_below_percent: u64,
    /// Only count.
    pub dry_run: bool,
}

/// Whether a manifest is needed, for whoever knows the records.
pub type Judge<'a> = dyn FnMut(&ManifestReader) -> Result<Judgement, StoreError> + 'a;

/// Returns a manifest that is needed and neither among those that were seen nor in the repository.
pub type FindLost<'a> = dyn Fn(&HashSet<ManifestId>) -> Result<Option<ManifestId>, StoreError> + 'a;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    Needed,
    /// Needed, though no record is there that names it.
    WithoutRecord,
    /// Left by a job that was cut off: to be removed.
    Abandoned,
}

/// What was found and done. Bytes are those of packs in the repository; of a dry run, what would be done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GarbageReport {
    pub dry_run: bool,
    pub packs: u64,
    pub pack_bytes: u64,
    pub manifests: u64,
    pub manifests_without_record: u64,
    pub manifests_removed: u64,
    /// Different chunks that manifests need.
    pub chunks_needed: u64,
    pub packs_removed: u64,
    pub packs_rewritten: u64,
    /// Less bytes than before.
    pub freed_bytes: u64,
    /// Needed bytes of rewritten packs.
    pub moved_bytes: u64,
    /// Packs with garbage that running jobs count on or wrote.
    pub packs_in_use: u64,
    /// Packs that cannot be read, or have damaged chunks that are needed and nowhere else: left as they are.
    pub packs_damaged: u64,
    /// Bytes that nothing needs, in packs that stay: too little to be worth it, or packs that are in use.
    pub garbage_left_bytes: u64,
}

impl ChunkStore {
    /// Removes what no manifest needs.
    pub fn collect_garbage(
        self: &Arc<Self>,
        options: &GarbageOptions,
        judge: &mut Judge<'_>,
        find_lost: &FindLost<'_>,
        control: &JobControl,
    ) -> Result<GarbageReport, GarbageError> {
        let collecting = self.collection.begin().ok_or(GarbageError::AlreadyRunning)?;
        // Behind the beginning: see `Collection::begin`.
        let packs = PackMarks::list(self)?;
        let report = GarbageReport {
            dry_run: options.dry_run,
            packs: packs.count(),
            pack_bytes: packs.bytes(),
            ..GarbageReport::default()
        };
        let mut run = Run { store: self, collecting, options, control, packs, abandoned: Vec::new(), report };
        run.mark(judge, find_lost)?;
        run.sweep()?;
        Ok(run.report)
    }
}

/// One collection.
struct Run<'a> {
    store: &'a Arc<ChunkStore>,
    collecting: Collecting,
    options: &'a GarbageOptions,
    control: &'a JobControl,
    packs: PackMarks,
    abandoned: Vec<ManifestId>,
    report: GarbageReport,
}
