//! Repairs what can be repaired, from where the same bytes are.
//!
//! Records and manifests first, since they say which chunks are needed: from another repository, and a record from its
//! manifest. Then each chunk that a backup needs and no pack has whole: from a pack whose list of chunks is damaged,
//! from another repository, from a snapshot at the source, or from what the volume has now. A SHA-256 proves each. What
//! is found is stored as a backup stores it, in new packs. A damaged object is replaced whole, and what it was is kept
//! in the state folder; a damaged pack goes when nothing needs it any more. A repair that is cut off anywhere
//! leaves what was there, and what it has added by then.

mod chunks;
mod documents;
mod evacuate;
mod origins;
mod wanted;

use std::collections::BTreeMap;
use std::path::Path;

use super::report::CheckReport;
use super::{CheckError, Checker, Depth, Watch, open_for_writing};
use crate::catalog::{BackupDamage, BackupRecord, BackupStatus};
use crate::repository::{Location, Repository, RepositoryOptions};
use crate::source::Sources;
use crate::store::remember_damage;
use crate::types::BackupId;
use wanted::Wanted;

/// So many single repairs are told.
const TOLD_MAX: usize = 1000;

/// Something that was put right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// A path below the repository's root, or `chunk ID`.
    pub what: String,
    pub from: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RepairReport {
    pub before: CheckReport,
    pub after: CheckReport,
    /// The first of them when there are many.
    pub repaired: Vec<Repaired>,
    pub repaired_left_out: u64,
    /// Chunks that were found again, by where.
    pub chunks: BTreeMap<String, u64>,
    /// What could not be looked into, and why.
    pub notes: Vec<String>,
}

impl RepairReport {
    /// How much was put right.
    fn count(&self) -> u64 {
        self.repaired.len() as u64 + self.repaired_left_out
    }

    fn add(&mut self, what: String, from: &str) {
        if self.repaired.len() < TOLD_MAX {
            self.repaired.push(Repaired { what, from: from.to_owned() });
        } else {
            self.repaired_left_out += 1;
        }
    }

    fn note(&mut self, note: String) {
        if self.notes.len() < TOLD_MAX && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

/// Checks the repository, and repairs it from its sources and from another repository. Refused while somebody else
/// has it open for writing.
pub fn repair(
    location: &Location,
    options: &RepositoryOptions,
    sources: &Sources,
    from: Option<&Location>,
    watch: &Watch,
) -> Result<RepairReport, CheckError> {
    // The lock is held from here on.
    let repository = open_for_writing(location, options)?;
    let other = from.map(|from| Repository::open_read_only(from, options)).transpose()?;
    let mut checker = Checker::open_with(repository.objects(), location, options, Depth::Everything)?;
    let mut wanted = Wanted::new(repository.chunk_size());
    let before = checker.run(watch, &mut |manifest, extent| wanted.add(manifest, extent))?;
    // What is stored from here on counts on nothing that is damaged.
    repository.store().note_damage(&checker.packs.found_damage());
    let mut repair = Repair { repository: &repository, other: other.as_ref(), sources, watch, checker };
    let mut report = RepairReport { after: before.clone(), before, ..RepairReport::default() };
    if repair.documents(&mut report)? {
        wanted = Wanted::new(repository.chunk_size());
        report.after = repair.checker.look(watch, &mut |manifest, extent| wanted.add(manifest, extent))?;
    }
    if !wanted.is_empty() {
        repair.chunks(&mut wanted, &mut report)?;
        report.after = repair.checker.look(watch, &mut |_, _| {})?;
    }
    if repair.evacuate(&mut report)? {
        report.after = repair.checker.look(watch, &mut |_, _| {})?;
    }
    repair.remember();
    // What a verification has found so far may be mended: it begins anew.
    let _ = std::fs::remove_dir_all(repository.state_folder().join("verify"));
    repair.end_errors(&report.after.whole)?;
    Ok(report)
}

struct Repair<'a> {
    repository: &'a Repository,
    other: Option<&'a Repository>,
    sources: &'a Sources,
    watch: &'a Watch,
    checker: Checker,
}

impl Repair<'_> {
    /// Where damaged documents are kept that were replaced.
    fn replaced_folder(&self) -> std::path::PathBuf {
        self.repository.state_folder().join("replaced")
    }

    /// Backups that were in error because they were damaged are available again when all of them can be read.
    fn end_errors(&self, whole: &[BackupId]) -> Result<(), CheckError> {
        let catalog = self.repository.catalog();
        for id in whole {
            let is_mended = |record: &BackupRecord| {
                let is_told =
                    record.fail_reason.as_ref().is_some_and(|reason| reason.starts_with("damaged: "));
                // Another SHA-256 than before, or than the source's bytes, is nothing that a check would see.
                let is_seen = |damage: &BackupDamage| {
                    !damage.differs_from_source && damage.ranges.bytes < record.size_bytes
                };
                record.is_damaged() && is_told && record.damage.as_ref().is_some_and(is_seen)
            };
            if catalog.get(*id).is_some_and(|record| is_mended(&record)) {
                catalog.update(*id, |record| {
                    record.status = BackupStatus::Available;
                    (record.damage, record.fail_reason) = (None, None);
                })?;
            }
        }
        Ok(())
    }

    /// What is damaged still, for the next daemon.
    fn remember(&self) {
        let folder: &Path = self.repository.state_folder();
        remember_damage(folder, &self.checker.packs.found_damage());
    }
}
