//! Garbage collection as a job: says which manifests are needed, and leaves the rest to the store.

use std::collections::HashSet;
use std::sync::Arc;

use super::access::not_authorized;
use super::{Operations, Requester};
use crate::catalog::{BackupRecord, BackupStatus};
use crate::format::document;
use crate::jobs::{JobControl, JobEnd, JobId, JobSubject, Slot};
use crate::objects::{ObjectError, ObjectName};
use crate::store::{GarbageError, GarbageOptions, Judgement, ManifestReader, StoreError};
use crate::types::{BackupId, ManifestId, Refusal, RefusalKind, sentence};

/// The kind of the job.
const KIND: &str = "gc";

/// A pack is written again when less than this share of it is needed, in percent: at most half of a repository is
/// garbage then, and no byte is moved more than once for each time that as many are freed.
pub const REWRITE_BELOW_PERCENT: u64 = 50;

/// The collection may take this share of the memory of all jobs.
const MEMORY_SHARE: u64 = 4;

/// A garbage collection that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcRequest {
    /// Only find out what would be removed.
    pub dry_run: bool,
    pub rewrite_below_percent: u64,
}

impl Operations {
    /// Checks that a garbage collection would not be refused now.
    pub fn check_gc(&self, requester: &Requester) -> Result<(), Refusal> {
        if !requester.is_operator() {
            let sentence = "the garbage of a repository is collected by its operator: as root, or as the user of the daemon";
            return Err(not_authorized(sentence.to_owned()));
        }
        self.check_writable()?;
        let running = self.jobs.reports().into_iter().find(|job| job.kind == KIND && !job.state.has_ended());
        if let Some(job) = running {
            let sentence =
                format!("job {} collects garbage already; wait until it has ended, or cancel it", job.id);
            return Err(Refusal::new(RefusalKind::InvalidState, sentence));
        }
        Ok(())
    }

    /// Queues a garbage collection.
    pub fn gc(self: &Arc<Self>, requester: &Requester, request: GcRequest) -> Result<JobId, Refusal> {
        self.check_gc(requester)?;
        let subject = JobSubject { backup: None, volume: None, project: String::new() };
        let operations = Arc::clone(self);
        let work = move |control: &JobControl| operations.run_gc(request, control);
        Ok(self.jobs.submit(KIND, subject, Slot::Free, work)?)
    }

    fn run_gc(&self, request: GcRequest, control: &JobControl) -> Result<(), JobEnd> {
        let memory_bytes = self.budget.bytes_max() / MEMORY_SHARE;
        let _lease = self.budget.acquire(memory_bytes, control)?;
        let options = GarbageOptions {
            memory_bytes,
            rewrite_below_percent: request.rewrite_below_percent,
            dry_run: request.dry_run,
        };
        let collected = self.repository.store().collect_garbage(
            &options,
            &mut |manifest| self.judge(manifest),
            &|seen| self.lost_manifest(seen),
            control,
        );
        let report = collected.map_err(|error| match error {
            GarbageError::Stopped(stop) => JobEnd::Stopped(stop),
            error @ GarbageError::UnreadableManifest { .. } => {
                let advice = "see `amberfs repo check`; repair it, or delete its backup";
                Refusal::new(RefusalKind::Failed, format!("{}; {advice}", sentence(&error))).into()
            }
            error => Refusal::new(RefusalKind::Failed, sentence(&error)).into(),
        })?;
        tracing::info!(
            packs_removed = report.packs_removed,
            packs_rewritten = report.packs_rewritten,
            freed_bytes = report.freed_bytes,
            garbage_left_bytes = report.garbage_left_bytes,
            dry_run = report.dry_run,
            "garbage was collected"
        );
        control.set_result(serde_json::to_value(&report).unwrap_or_default());
        Ok(())
    }

    /// A manifest is needed unless it is known to be left over: its backup's record is there, names others, and nobody
    /// works on that backup. One whose record is lost is needed most of all.
    fn judge(&self, manifest: &ManifestReader) -> Result<Judgement, StoreError> {
        let name = ObjectName::Manifest(manifest.id());
        let about = BackupRecord::decode(&manifest.about()?);
        let about = about.map_err(|source| StoreError::Format { name, source })?;
        // Before the record is read: a job that ends in between has written it by then.
        if self.backups_worked_on().contains(&about.id) {
            return Ok(Judgement::Needed);
        }
        // From the repository: a change that is told as failed may have been made all the same.
        let record =
            match self.repository.objects().read_whole(ObjectName::Record(about.id), document::LENGTH_MAX) {
                Ok(record) => record,
                Err(ObjectError::Missing { .. }) => return Ok(Judgement::WithoutRecord),
                Err(error) => return Err(error.into()),
            };
        let Ok(record) = BackupRecord::decode(&record) else { return Ok(Judgement::WithoutRecord) };
        let is_named = record.manifest.as_ref().is_some_and(|named| named.id == manifest.id())
            || record.retired_manifests.contains(&manifest.id());
        if is_named {
            return Ok(Judgement::Needed);
        }
        // Where the one that is named is gone, this may be all that there is of the backup.
        let named = record.manifest.as_ref().map(|named| ObjectName::Manifest(named.id));
        let is_there = match named.map(|named| self.repository.objects().length(named)) {
            None | Some(Ok(_)) => true,
            Some(Err(ObjectError::Missing { .. })) => false,
            Some(Err(error)) => return Err(error.into()),
        };
        Ok(if is_there { Judgement::Abandoned } else { Judgement::Needed })
    }

    /// A manifest that a record names and that is gone takes the knowledge with it of what its backup needs.
    fn lost_manifest(&self, seen: &HashSet<ManifestId>) -> Result<Option<ManifestId>, StoreError> {
        let catalog = self.repository.catalog();
        let wanted = |id: BackupId| {
            let record = catalog.get(id)?;
            let is_going = matches!(record.status, BackupStatus::Deleting | BackupStatus::ErrorDeleting);
            record.manifest.as_ref().filter(|_| !is_going).map(|manifest| manifest.id)
        };
        for record in catalog.all() {
            let Some(manifest) = wanted(record.id).filter(|manifest| !seen.contains(manifest)) else {
                continue;
            };
            match self.repository.objects().length(ObjectName::Manifest(manifest)) {
                // Published since it was looked for: its session has pinned what it needs.
                Ok(_) => {}
                // Flattened or deleted in between it has another one, or none.
                Err(ObjectError::Missing { .. }) if wanted(record.id) != Some(manifest) => {}
                Err(ObjectError::Missing { .. }) => return Ok(Some(manifest)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    fn backups_worked_on(&self) -> HashSet<BackupId> {
        let unfinished = self.jobs.reports().into_iter().filter(|job| !job.state.has_ended());
        unfinished.filter_map(|job| job.backup?.parse().ok()).collect()
    }
}
