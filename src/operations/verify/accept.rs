//! Takes a verify command: which backups, in which order, and their jobs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::progress::Progress;
use super::run::VerifyJob;
use super::{VerifyAccepted, VerifyRequest};
use crate::catalog::{BackupRecord, BackupStatus};
use crate::jobs::{JobControl, JobId, JobSubject, Slot};
use crate::operations::{Operations, Requester};
use crate::source::Snapshot;
use crate::types::{BackupId, Refusal, RefusalKind};

/// So many backups of a volume are verified because one of them was found damaged.
const RELATIVES_MAX: usize = 1000;

/// So many may wait at once: the queue is there for backups and restores, too.
const VERIFICATIONS_MAX: usize = 5000;

impl Operations {
    /// Checks that a verification would not be refused now.
    pub fn check_verify(&self, requester: &Requester, request: &VerifyRequest) -> Result<(), Refusal> {
        self.check_writable()?;
        self.plan_verify(requester, request).map(drop)
    }

    /// Queues a verification of each backup that is asked for, the stalest first. One that is being verified keeps
    /// its job.
    pub fn verify(
        self: &Arc<Self>,
        requester: &Requester,
        request: &VerifyRequest,
    ) -> Result<Vec<VerifyAccepted>, Refusal> {
        self.check_writable()?;
        let under_way = self.unfinished_verifications();
        let planned = self.plan_verify(requester, request)?;
        if under_way.len() + planned.len() > VERIFICATIONS_MAX {
            let sentence = format!(
                "{} verifications wait already, and with these {} there would be more than {VERIFICATIONS_MAX}; name fewer, or set [verify] schedule in the configuration",
                under_way.len(),
                planned.len()
            );
            return Err(Refusal::new(RefusalKind::InvalidState, sentence));
        }
        let mut accepted = Vec::new();
        for record in planned {
            let progress = Progress {
                against_source: request.against_source,
                rate: request.rate,
                ..Progress::new(record.id)
            };
            let job = match under_way.get(&record.id.to_string()) {
                Some(job) if !request.against_source => *job,
                _ => self.queue_verification(&record, progress)?,
            };
            accepted.push(VerifyAccepted { backup: record.id, job });
        }
        Ok(accepted)
    }

    fn plan_verify(
        &self,
        requester: &Requester,
        request: &VerifyRequest,
    ) -> Result<Vec<Arc<BackupRecord>>, Refusal> {
        let mut planned = Vec::new();
        for backup in &request.backups {
            let record = self.select_backup(requester, backup)?;
            check_verifiable(&record)?;
            if request.against_source {
                self.recorded_snapshot(&record)?;
            }
            planned.push(record);
        }
        let mut others = self.repository.catalog().all();
        others.retain(|record| {
            requester.owns(&record.project)
                && check_verifiable(record).is_ok()
                && (!request.against_source || record.snapshot.is_some())
        });
        match &request.volume {
            Some(volume) => planned.extend(of_volume(others, volume)?),
            None if request.all => planned.extend(others),
            None => {}
        }
        let mut seen = HashSet::new();
        planned.retain(|record| seen.insert(record.id));
        if let Some(cutoff) = request.not_since {
            planned.retain(|record| record.last_verified_at.is_none_or(|verified| verified < cutoff));
        }
        planned.sort_by_key(|record| (record.last_verified_at, record.created_at, record.id));
        Ok(planned)
    }

    /// Queues one verification, unless the backup is being verified already.
    pub(super) fn verify_one(
        self: &Arc<Self>,
        record: &BackupRecord,
        progress: Progress,
    ) -> Result<JobId, Refusal> {
        match self.unfinished_verifications().get(&record.id.to_string()) {
            Some(job) => Ok(*job),
            None => self.queue_verification(record, progress),
        }
    }

    fn queue_verification(
        self: &Arc<Self>,
        record: &BackupRecord,
        progress: Progress,
    ) -> Result<JobId, Refusal> {
        if progress != Progress::new(record.id) {
            // What was asked for is to be known after a restart.
            progress.save(&self.repository);
        }
        let (subject, job) = self.verify_job(record, progress);
        Ok(self
            .jobs
            .submit("verify", subject, Slot::Unhurried, move |control: &JobControl| job.run(control))?)
    }

    /// Goes on with the verifications that the daemon before this one did not end.
    pub(in super::super) fn resume_verifications(self: &Arc<Self>) {
        let catalog = self.repository.catalog();
        let mut left = Progress::left(&self.repository);
        let known: HashSet<BackupId> = left.iter().map(|progress| progress.backup).collect();
        for job in self.jobs.unfinished_before().iter().filter(|job| job.kind == "verify") {
            let id: Option<BackupId> = job.backup.as_ref().and_then(|id| id.parse().ok());
            left.extend(id.filter(|id| !known.contains(id)).map(Progress::new));
        }
        for progress in left {
            let Some(record) = catalog.get(progress.backup).filter(|record| check_verifiable(record).is_ok())
            else {
                progress.remove(&self.repository);
                continue;
            };
            let position = progress.position;
            let (subject, job) = self.verify_job(&record, progress);
            let run = move |control: &JobControl| job.run(control);
            match self.jobs.resume("verify", subject, Slot::Unhurried, run) {
                Ok(job) => tracing::info!(backup = %record.id, %job, position, "the verification goes on"),
                Err(error) => {
                    tracing::warn!(backup = %record.id, %error, "the verification does not go on");
                }
            }
        }
    }

    fn verify_job(self: &Arc<Self>, record: &BackupRecord, progress: Progress) -> (JobSubject, VerifyJob) {
        let subject = JobSubject {
            backup: Some(record.id.to_string()),
            volume: Some(format!("{}/{}", record.source, record.volume_name)),
            project: record.project.to_string(),
        };
        (subject, VerifyJob::new(Arc::clone(self), progress))
    }

    /// Returns the jobs of the backups that are being verified, or wait for it.
    fn unfinished_verifications(&self) -> HashMap<String, JobId> {
        let reports = self.jobs.reports().into_iter();
        let unfinished = reports.filter(|report| report.kind == "verify" && !report.state.has_ended());
        unfinished.filter_map(|report| Some((report.backup?, report.id))).collect()
    }

    /// Verifies a backup because something of it could not be read, unless that is known.
    pub(in super::super) fn verify_soon(self: &Arc<Self>, id: BackupId) {
        let Some(record) = self.repository.catalog().get(id) else { return };
        let is_known = record.damage.is_some();
        if is_known || self.repository.is_read_only() || check_verifiable(&record).is_err() {
            return;
        }
        if let Err(refusal) = self.verify_one(&record, Progress::new(id)) {
            tracing::warn!(backup = %id, %refusal, "a backup that may be damaged is not verified");
        }
    }

    /// Verifies the backups that share chunks and manifests with one that was found damaged, and are not known to be.
    pub(super) fn verify_relatives(self: &Arc<Self>, id: BackupId, progress: &Progress) {
        let under_way = self.unfinished_verifications();
        let mut relatives = self.relatives(id);
        relatives.retain(|record| !under_way.contains_key(&record.id.to_string()));
        for record in relatives {
            let follow = Progress { follows: true, rate: progress.rate, ..Progress::new(record.id) };
            if let Err(refusal) = self.queue_verification(&record, follow) {
                tracing::warn!(backup = %record.id, %refusal, "a backup that may be damaged is not verified");
                return;
            }
        }
    }

    /// Returns the backups of the same full one that are whole as far as is known.
    fn relatives(&self, id: BackupId) -> Vec<Arc<BackupRecord>> {
        let catalog = self.repository.catalog();
        let mut seen = HashSet::new();
        let mut root = id;
        while let Some(parent) = catalog.get(root).and_then(|record| record.parent_id) {
            if !seen.insert(root) {
                break;
            }
            root = parent;
        }
        seen.clear();
        let (mut waiting, mut relatives) = (vec![root], Vec::new());
        while let Some(next) = waiting.pop() {
            if !seen.insert(next) || seen.len() > RELATIVES_MAX {
                continue;
            }
            relatives.extend(catalog.get(next).filter(|record| next != id && record.is_whole()));
            waiting.extend(catalog.dependents(next).iter().map(|record| record.id));
        }
        relatives
    }

    /// Opens the snapshot that a backup is of.
    pub(super) fn recorded_snapshot(&self, record: &BackupRecord) -> Result<Box<dyn Snapshot>, Refusal> {
        let gone = || {
            let sentence = format!(
                "the snapshot that backup {} is of is not there any more: there is nothing to compare it with",
                record.id
            );
            Refusal::new(RefusalKind::SnapshotNotFound, sentence)
        };
        let reference = record.snapshot.as_ref().ok_or_else(gone)?;
        let snapshot = self.source(record)?.open_snapshot(&record.volume_name, &reference.name)?;
        if snapshot.info().id == reference.id && snapshot.info().size_bytes == record.size_bytes {
            Ok(snapshot)
        } else {
            Err(gone())
        }
    }
}

/// Refuses a backup that has no data, or is going.
pub(super) fn check_verifiable(record: &BackupRecord) -> Result<(), Refusal> {
    let is_staying =
        matches!(record.status, BackupStatus::Available | BackupStatus::Restoring | BackupStatus::Error);
    if is_staying && record.manifest.is_some() {
        return Ok(());
    }
    let what = if is_staying { "holds no data".to_owned() } else { format!("is {}", record.status) };
    let sentence = format!("backup {} {what}: there is nothing to verify", record.id);
    Err(Refusal::new(RefusalKind::InvalidState, sentence))
}

/// Returns those of one volume: `SOURCE/NAME`, `NAME` or its id.
fn of_volume(mut records: Vec<Arc<BackupRecord>>, text: &str) -> Result<Vec<Arc<BackupRecord>>, Refusal> {
    let full_name = |record: &BackupRecord| format!("{}/{}", record.source, record.volume_name);
    if records.iter().any(|record| full_name(record) == text) {
        records.retain(|record| full_name(record) == text);
        return Ok(records);
    }
    records.retain(|record| record.volume_name.as_str() == text || record.volume_id.as_str() == text);
    let mut names: Vec<String> = records.iter().map(|record| full_name(record)).collect();
    names.sort();
    names.dedup();
    match names.as_slice() {
        [] => {
            let sentence = format!("no volume {text:?} has a backup that could be verified");
            Err(Refusal::new(RefusalKind::VolumeNotFound, sentence))
        }
        [_] => Ok(records),
        several => {
            let sentence = format!("{text:?} means more than one volume: {}", several.join(", "));
            Err(Refusal::new(RefusalKind::AmbiguousName, sentence))
        }
    }
}
