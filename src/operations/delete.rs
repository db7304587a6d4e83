//! Delete: refused while others lean on the backup, and finished by the next start if this one ends first.
//!
//! `deleting` is durable before anything goes. Then the snapshot at the source goes, then the manifests (or when the
//! last image that reads them is closed), and the record last. Chunks are left to the garbage collection.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};

use crossbeam_channel::Receiver;

use super::depths::Depths;
use super::{Operations, Requester};
use crate::catalog::{BackupRecord, BackupStatus};
use crate::jobs::{JobControl, JobEnd, JobId, JobSubject, Slot, Stop};
use crate::source::SourceError;
use crate::types::{BackupId, Refusal, RefusalKind, sentence};

/// So many of the backups that lean on another are named.
const DEPENDENTS_NAMED: usize = 5;

/// What a user asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteRequest {
    pub backup: String,
    /// Also when it is being made or restored.
    pub force: bool,
}

/// A delete that is queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeleteAccepted {
    pub backup: BackupId,
    pub job: JobId,
}

impl Operations {
    /// Queues the jobs that delete these backups, all or none of them. Returns one answer for each request.
    pub fn delete(
        self: &Arc<Self>,
        requester: &Requester,
        requests: &[DeleteRequest],
    ) -> Result<Vec<DeleteAccepted>, Refusal> {
        self.check_writable()?;
        let _accepting = self.accepting.lock().unwrap_or_else(PoisonError::into_inner);
        let (planned, asked) = self.plan_delete(requester, requests)?;
        let mut jobs = HashMap::new();
        // None begins before all are accepted. Dropped on the way out, it cancels those that were.
        let (accept, accepted) = crossbeam_channel::bounded(planned.len());
        for record in &planned {
            match self.submit_delete(record, accepted.clone()) {
                Ok(job) => drop(jobs.insert(record.id, job)),
                Err(refusal) => {
                    // Whoever is refused finds nothing changed.
                    drop(accept);
                    jobs.values().for_each(|job| drop(self.jobs.wait(*job)));
                    return Err(refusal);
                }
            }
        }
        for _ in &planned {
            // There is room for all, whether the jobs have begun to wait or not.
            let _ = accept.try_send(());
        }
        let answer = |id: &BackupId| Some(DeleteAccepted { backup: *id, job: *jobs.get(id)? });
        Ok(asked.iter().filter_map(answer).collect())
    }

    /// Returns each backup once, what leans on others before them, and the ids in the order of the requests.
    fn plan_delete(
        &self,
        requester: &Requester,
        requests: &[DeleteRequest],
    ) -> Result<(Vec<Arc<BackupRecord>>, Vec<BackupId>), Refusal> {
        if let Some(id) = self.repository.catalog().unreadable().first() {
            return Err(invalid_state(format!(
                "the record of backup {id} cannot be read, so that what it leans on is not known; repair records/{id}, or move it out of the repository, and start the daemon again"
            )));
        }
        let select = |request: &DeleteRequest| self.select_backup(requester, &request.backup);
        let selected = requests.iter().map(select).collect::<Result<Vec<_>, _>>()?;
        let going: HashSet<BackupId> = selected.iter().map(|record| record.id).collect();
        let mut planned: HashMap<BackupId, Arc<BackupRecord>> = HashMap::new();
        for (record, request) in selected.iter().zip(requests) {
            check_state(record, request.force)?;
            self.check_no_dependents(record.id, &going)?;
            self.check_no_scratch(record.id)?;
            planned.insert(record.id, Arc::clone(record));
        }
        let asked = selected.iter().map(|record| record.id).collect();
        Ok((self.dependents_first(planned.into_values().collect()), asked))
    }

    /// Orders backups so that each comes before the one it leans on.
    pub(super) fn dependents_first(&self, mut records: Vec<Arc<BackupRecord>>) -> Vec<Arc<BackupRecord>> {
        let catalog = self.repository.catalog();
        let mut depths = Depths::default();
        records.sort_by_cached_key(|record| {
            std::cmp::Reverse(depths.of(record.id, |id| catalog.get(id)?.parent_id))
        });
        records
    }

    fn leans_on_itself(&self, id: BackupId) -> bool {
        let catalog = self.repository.catalog();
        let parent_of = |id: &BackupId| catalog.get(*id)?.parent_id;
        // A circle that it is not in has an end, too.
        std::iter::successors(parent_of(&id), parent_of).take(catalog.count()).any(|parent| parent == id)
    }

    /// Refuses when a backup leans on this one that is neither being deleted nor about to be.
    fn check_no_dependents(&self, id: BackupId, going: &HashSet<BackupId>) -> Result<(), Refusal> {
        let stays = |dependent: &Arc<BackupRecord>| {
            dependent.status != BackupStatus::Deleting && !going.contains(&dependent.id)
        };
        let mut staying = self.repository.catalog().dependents(id);
        staying.retain(stays);
        if staying.is_empty() {
            return Ok(());
        }
        let named: Vec<String> =
            staying.iter().take(DEPENDENTS_NAMED).map(|record| record.id.to_string()).collect();
        let more = if staying.len() > named.len() { ", ..." } else { "" };
        // The first sentence is OpenStack's.
        let sentence = format!(
            "Incremental backups exist for this backup. On {id} lean {}{more}; delete or flatten them first",
            named.join(", ")
        );
        Err(Refusal::new(RefusalKind::BackupHasDependents, sentence))
    }

    /// Marks the backup as `deleting` and queues the job.
    fn submit_delete(
        self: &Arc<Self>,
        record: &BackupRecord,
        accepted: Receiver<()>,
    ) -> Result<JobId, Refusal> {
        let (subject, job) = self.delete_job(record, Some(accepted))?;
        Ok(self.jobs.submit("delete", subject, Slot::Free, move |control| job.run(control))?)
    }

    /// Queues the job of a delete that the daemon before this one did not finish, under the number that it had.
    pub(super) fn resume_delete(self: &Arc<Self>, record: &BackupRecord) -> Result<JobId, Refusal> {
        let (subject, job) = self.delete_job(record, None)?;
        Ok(self.jobs.resume("delete", subject, Slot::Free, move |control| job.run(control))?)
    }

    fn delete_job(
        self: &Arc<Self>,
        record: &BackupRecord,
        accepted: Option<Receiver<()>>,
    ) -> Result<(JobSubject, DeleteJob), Refusal> {
        // What is being done with it is cancelled by the job, and cleans up behind itself first.
        self.mark_deleting(record.id, record.status)?;
        let subject = JobSubject {
            backup: Some(record.id.to_string()),
            volume: Some(format!("{}/{}", record.source, record.volume_name)),
            project: record.project.to_string(),
        };
        let (before, fail_reason) = match record.status {
            // Some of it may be gone already.
            BackupStatus::Deleting => {
                (BackupStatus::ErrorDeleting, Some("its delete was cut off and then cancelled".to_owned()))
            }
            BackupStatus::Restoring => (record.status_at_rest(), record.fail_reason.clone()),
            status => (status, record.fail_reason.clone()),
        };
        let operations = Arc::clone(self);
        Ok((subject, DeleteJob { operations, id: record.id, accepted, before, fail_reason, ended: false }))
    }

    fn mark_deleting(&self, id: BackupId, before: BackupStatus) -> Result<(), Refusal> {
        self.repository.catalog().try_update(id, |record| {
            if record.status != before {
                return Err(invalid_state(format!(
                    "backup {id} has just become {}; try again",
                    record.status
                )));
            }
            if record.protected && before != BackupStatus::Deleting {
                return Err(is_protected(id));
            }
            record.status = BackupStatus::Deleting;
            record.fail_reason = None;
            Ok(())
        })?;
        Ok(())
    }

    /// Ends a restore that the daemon before this one began: its unfinished volume goes before the record that knows it.
    fn end_restore_of_deleted(&self, id: BackupId) -> Result<(), Refusal> {
        let is_left =
            || self.repository.catalog().get(id).is_some_and(|record| record.restore_target.is_some());
        if is_left() {
            self.give_up_restore(id);
        }
        if is_left() {
            let sentence = "the volume that a restore of it had begun cannot be removed; delete the backup again when its source answers";
            return Err(Refusal::new(RefusalKind::SourceUnavailable, sentence));
        }
        Ok(())
    }

    /// Stops what is being done with a backup and waits until it has ended.
    pub(super) fn stop_jobs_of(&self, id: BackupId) {
        for job in self.unfinished_jobs_of(id, &["backup", "restore", "flatten", "verify"]) {
            // It may have ended in between.
            let _ = self.jobs.cancel(job);
            let _ = self.jobs.wait(job);
        }
    }

    fn unfinished_jobs_of(&self, id: BackupId, kinds: &[&str]) -> Vec<JobId> {
        let id = id.to_string();
        let mut reports = self.jobs.reports();
        reports.retain(|report| {
            report.backup.as_ref() == Some(&id) && !report.state.has_ended() && kinds.contains(&&*report.kind)
        });
        reports.iter().map(|report| report.id).collect()
    }

    /// Removes what a `deleting` backup has: snapshot, manifests, record.
    fn remove_backup(self: &Arc<Self>, record: &BackupRecord) -> Result<(), Refusal> {
        self.remove_snapshots_of_deleted(record)?;
        let catalog = self.repository.catalog();
        let manifests: Vec<_> = record
            .manifest
            .iter()
            .map(|manifest| manifest.id)
            .chain(record.retired_manifests.iter().copied())
            .collect();
        if manifests.is_empty() {
            return Ok(catalog.remove(record.id)?);
        }
        catalog.hide(record.id);
        let (repository, id) = (Arc::clone(&self.repository), record.id);
        self.repository.retire_manifests(manifests, move || {
            if let Err(error) = repository.catalog().remove(id) {
                tracing::error!(backup = %id, error = sentence(&error), "the record of a deleted backup cannot be removed; the next start tries again");
            }
        });
        Ok(())
    }

    fn remove_snapshots_of_deleted(&self, record: &BackupRecord) -> Result<(), Refusal> {
        let Some(source) = self.sources.get(&record.source) else {
            tracing::warn!(backup = %record.id, source = %record.source, "the source of a deleted backup is not configured: a snapshot of ours may be left there");
            return Ok(());
        };
        match source.volume(&record.volume_name) {
            Ok(_) => self.clean_up_snapshots(record),
            Err(SourceError::VolumeNotFound { .. } | SourceError::InvalidName { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn check_state(record: &BackupRecord, force: bool) -> Result<(), Refusal> {
    let id = record.id;
    if record.protected {
        return Err(is_protected(id));
    }
    match record.status {
        BackupStatus::Available | BackupStatus::Error | BackupStatus::ErrorDeleting => Ok(()),
        BackupStatus::Creating | BackupStatus::Restoring if force => Ok(()),
        BackupStatus::Creating | BackupStatus::Restoring => Err(invalid_state(format!(
            "backup {id} is {}; wait until that is done, or give --force to cancel it",
            record.status
        ))),
        BackupStatus::Deleting => Err(invalid_state(format!("backup {id} is being deleted already"))),
    }
}

fn is_protected(id: BackupId) -> Refusal {
    invalid_state(format!("backup {id} is protected; `amberfs backup set --no-protect {id}` first"))
}

fn invalid_state(sentence: String) -> Refusal {
    Refusal::new(RefusalKind::InvalidState, sentence)
}

/// A queued or running delete.
struct DeleteJob {
    operations: Arc<Operations>,
    id: BackupId,
    /// Says when the whole command is accepted; disconnected when it was refused.
    accepted: Option<Receiver<()>>,
    /// What the backup is again when the delete is cancelled, and why.
    before: BackupStatus,
    fail_reason: Option<String>,
    ended: bool,
}

impl DeleteJob {
    fn run(mut self, control: &JobControl) -> Result<(), JobEnd> {
        let result = self.delete(control);
        self.ended = true;
        match &result {
            Ok(()) => {}
            Err(JobEnd::Failed(refusal)) if refusal.kind == RefusalKind::BackupHasDependents => {
                self.set_status(self.before, self.fail_reason.clone());
            }
            Err(JobEnd::Failed(refusal)) => {
                self.set_status(BackupStatus::ErrorDeleting, Some(refusal.to_string()));
            }
            Err(JobEnd::Stopped(stop)) => self.stopped(*stop),
        }
        result
    }

    fn delete(&mut self, control: &JobControl) -> Result<(), JobEnd> {
        let operations = Arc::clone(&self.operations);
        if self.accepted.as_ref().is_some_and(|accepted| accepted.recv().is_err()) {
            return Err(Stop::Cancelled.into());
        }
        operations.stop_jobs_of(self.id);
        let catalog = operations.repository.catalog();
        operations.end_restore_of_deleted(self.id)?;
        // A backup that was being made is gone with its job.
        let Some(record) = catalog.get(self.id) else { return Ok(()) };
        if self.before == BackupStatus::Creating {
            // Its job failed before it could be stopped: there is no way back to before.
            self.before = BackupStatus::Error;
            self.fail_reason = Some("its job failed before it could be stopped".to_owned());
        }
        control.checkpoint()?;
        if record.status != BackupStatus::Deleting {
            let _accepting = operations.accepting.lock().unwrap_or_else(PoisonError::into_inner);
            operations.check_no_dependents(self.id, &HashSet::new())?;
            operations.check_no_scratch(self.id)?;
            operations.mark_deleting(self.id, record.status)?;
        }
        self.wait_for_dependents(control)?;
        let record = operations.record(self.id)?;
        Ok(operations.remove_backup(&record)?)
    }

    /// Waits for the backups that lean on this one and are being deleted too.
    fn wait_for_dependents(&self, control: &JobControl) -> Result<(), JobEnd> {
        let operations = &self.operations;
        if operations.leans_on_itself(self.id) {
            // Each of them would wait for the others.
            let sentence =
                "by way of others it leans on itself, as no backup of amberfs does; remove their records";
            return Err(Refusal::new(RefusalKind::BackupHasDependents, sentence).into());
        }
        loop {
            control.checkpoint()?;
            operations.check_no_dependents(self.id, &HashSet::new())?;
            let dependents = operations.repository.catalog().dependents(self.id);
            let jobs: Vec<_> = dependents
                .iter()
                .flat_map(|record| operations.unfinished_jobs_of(record.id, &["delete"]))
                .collect();
            if dependents.is_empty() {
                return Ok(());
            }
            if jobs.is_empty() && operations.repository.catalog().has_dependents(self.id) {
                let sentence = "a backup that leans on it is half deleted; delete that one again first";
                return Err(Refusal::new(RefusalKind::BackupHasDependents, sentence).into());
            }
            for job in jobs {
                let _ = operations.jobs.wait(job);
            }
        }
    }

    fn stopped(&self, stop: Stop) {
        match stop {
            // Deleted it will be: by the next start.
            Stop::Shutdown => {}
            Stop::Cancelled => self.set_status(self.before, self.fail_reason.clone()),
        }
    }

    fn set_status(&self, status: BackupStatus, fail_reason: Option<String>) {
        let updated = self.operations.repository.catalog().update(self.id, |record| {
            if record.status == BackupStatus::Deleting {
                record.status = status;
                record.fail_reason = fail_reason;
            }
        });
        if let Err(error) = updated {
            tracing::error!(backup = %self.id, error = sentence(&error), "the state of a backup that could not be deleted cannot be set");
        }
    }
}

impl Drop for DeleteJob {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if std::thread::panicking() {
            let reason = "the job met a fault in amberfs".to_owned();
            self.set_status(BackupStatus::ErrorDeleting, Some(reason));
            return;
        }
        // Nobody was told that it would be done.
        let was_refused = self.accepted.as_ref().is_some_and(|accepted| accepted.try_recv().is_err());
        let goes_on = self.operations.is_shutting_down() && !was_refused;
        self.stopped(if goes_on { Stop::Shutdown } else { Stop::Cancelled });
    }
}
