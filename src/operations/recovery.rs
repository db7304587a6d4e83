//! The start after a stop or a crash: goes on with what can be resumed, and puts right what cannot.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};

use crossbeam_channel::Sender;

use super::Operations;
use crate::catalog::{BackupRecord, BackupStatus};
use crate::jobs::JobReport;
use crate::types::BackupId;

impl Operations {
    /// Goes on with backups that were `creating`, with restores and with deletes, and removes snapshots of ours that
    /// nobody needs.
    ///
    /// Called once, before any command. Sources that cannot be reached do not stop it.
    pub fn recover(self: &Arc<Self>) {
        if self.repository.is_read_only() {
            return;
        }
        let (mut given_up, mut deleting) = (Vec::new(), Vec::new());
        for record in self.repository.catalog().all() {
            match record.status {
                BackupStatus::Creating => {
                    self.remove_retired_manifests(&record);
                    self.resume_backup(&record);
                }
                BackupStatus::Restoring => {
                    self.remove_retired_manifests(&record);
                    if let Err(refusal) = self.resume_restore(&record) {
                        tracing::warn!(backup = %record.id, reason = refusal.sentence, "an interrupted restore is given up");
                        given_up.push(record);
                    }
                }
                BackupStatus::Deleting => deleting.push(record),
                _ => {
                    self.remove_retired_manifests(&record);
                    // Its source did not answer when the volume of its restore was to go.
                    if record.restore_target.is_some() {
                        given_up.push(record);
                    }
                }
            }
        }
        // After those that go on: a name is theirs first.
        let given_up: Vec<_> =
            given_up.into_iter().map(|record| (record.id, self.keep_names_of(&record))).collect();
        for record in self.dependents_first(deleting) {
            self.finish_delete(&record);
        }
        self.resume_verifications();
        let (running, ended) = crossbeam_channel::bounded(0);
        *self.recovering.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
        let operations = Arc::clone(self);
        // A source may take its time to answer, or not answer at all.
        std::thread::spawn(move || {
            // First: whoever waits for one of them must not wait for a source.
            operations.end_unresumed_jobs();
            for (id, names) in given_up {
                operations.give_up_restore(id);
                drop(names);
            }
            operations.remove_stray_snapshots();
            drop(operations);
            drop::<Sender<()>>(running);
        });
    }

    fn resume_backup(self: &Arc<Self>, record: &BackupRecord) {
        if record.snapshot.is_none() {
            let reason = "the daemon ended while the backup was made, and the volume's state of that moment is gone with it";
            self.fail_backup(record, reason.to_owned());
            return;
        }
        if record.snapshot.as_ref().is_some_and(|snapshot| snapshot.ours && !self.is_own_name(&snapshot.name))
        {
            self.fail_backup(record, "its record names a snapshot that amberfs has not made".to_owned());
            return;
        }
        match self.submit_backup(record, None) {
            Ok(accepted) => tracing::info!(backup = %record.id, job = %accepted.job, "resumed"),
            Err(refusal) => self.fail_backup(record, refusal.to_string()),
        }
    }

    /// Ends what the journal of jobs calls unfinished and nobody has gone on with.
    fn end_unresumed_jobs(&self) {
        if !self.is_shutting_down() {
            self.jobs.end_unresumed(|job| self.was_done(job));
        }
    }

    /// Did the daemon end between a job's last step and the note of its end?
    fn was_done(&self, job: &JobReport) -> bool {
        let id: Option<BackupId> = job.backup.as_ref().and_then(|id| id.parse().ok());
        let Some(id) = id else { return false };
        let record = self.repository.catalog().get(id);
        match &*job.kind {
            "backup" => record.is_some_and(|record| record.has_image()),
            "delete" => record.is_none() && self.repository.has_record(id).is_ok_and(|there| !there),
            "flatten" => record.is_some_and(|record| !record.is_incremental()),
            _ => false,
        }
    }

    fn finish_delete(self: &Arc<Self>, record: &BackupRecord) {
        match self.resume_delete(record) {
            Ok(job) => tracing::info!(backup = %record.id, %job, "the delete goes on"),
            Err(refusal) => tracing::error!(backup = %record.id, %refusal, "the delete cannot go on"),
        }
    }

    fn remove_stray_snapshots(&self) {
        let mut volumes = HashSet::new();
        for record in self.repository.catalog().all() {
            let volume = (record.source.clone(), record.volume_name.clone());
            if self.sources.get(&record.source).is_some()
                && !self.is_shutting_down()
                && volumes.insert(volume)
            {
                self.clean_up_snapshots_of(record.id);
            }
        }
    }
}
