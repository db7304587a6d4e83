//! What a verification says of a backup: durable in its record, and in words.

use std::sync::Arc;

use super::progress::{Found, Progress};
use super::run::VerifyJob;
use crate::catalog::{BackupDamage, BackupRecord, BackupStatus};
use crate::jobs::{JobEnd, Stop};
use crate::objects::ObjectName;
use crate::operations::Operations;
use crate::sysio::clock;
use crate::types::{ByteRange, Refusal, RefusalKind};

impl VerifyJob {
    /// Writes the outcome into the record; fails when anything is not right. `sha256` is the image's, when it is known.
    pub(super) fn conclude(&mut self, sha256: Option<String>) -> Result<(), JobEnd> {
        let operations = Arc::clone(&self.operations);
        if !self.progress.found.damaged.is_empty() {
            operations.check_repository_is_there()?;
        }
        let mut sentence = None;
        let updated = operations.repository.catalog().try_update(self.progress.backup, |record| {
            if super::accept::check_verifiable(record).is_err() {
                return Err(JobEnd::Stopped(Stop::Cancelled));
            }
            compare_hashes(record, sha256.as_ref(), &mut self.progress.found);
            sentence = apply(record, &self.progress, sha256);
            Ok(())
        });
        updated?;
        let found = &self.progress.found;
        if (!found.damaged.is_empty() || found.concerns_others) && !self.progress.follows {
            operations.verify_relatives(self.progress.backup, &self.progress);
        }
        let Some(sentence) = sentence else { return Ok(()) };
        tracing::error!(backup = %self.progress.backup, "{sentence}");
        Err(Refusal::new(RefusalKind::Failed, sentence).into())
    }
}

impl Operations {
    /// A repository that is gone altogether says nothing of a single backup.
    pub(in crate::operations) fn check_repository_is_there(&self) -> Result<(), Refusal> {
        self.repository.objects().forget_kept(ObjectName::Header);
        match self.repository.objects().length(ObjectName::Header) {
            Ok(_) => Ok(()),
            Err(error) => {
                let sentence =
                    format!("the repository {} cannot be read: {error}", self.repository.location());
                Err(Refusal::new(RefusalKind::Failed, sentence))
            }
        }
    }
}

impl From<crate::catalog::CatalogError> for JobEnd {
    fn from(error: crate::catalog::CatalogError) -> Self {
        match error {
            crate::catalog::CatalogError::NotFound { .. } => Self::Stopped(Stop::Cancelled),
            error => Self::Failed(Refusal::from(error)),
        }
    }
}

/// An image never changes: another SHA-256 than that of an earlier verification is damage, wherever it is.
fn compare_hashes(record: &BackupRecord, sha256: Option<&String>, found: &mut Found) {
    let (Some(now), Some(before)) = (sha256, &record.image_sha256) else { return };
    if now != before && found.damaged.is_empty() {
        found.damaged.add(ByteRange::new(0, record.size_bytes));
        found.cause =
            Some(format!("the SHA-256 of the image is {now}, and was {before} when it was verified before"));
    }
}

/// Changes the record as what was found demands, and says what is wrong.
fn apply(record: &mut BackupRecord, progress: &Progress, sha256: Option<String>) -> Option<String> {
    let now = clock::now();
    let found = &progress.found;
    record.last_verified_at = Some(now);
    let before = record.damage.take();
    let differed = before.as_ref().is_some_and(|damage| damage.differs_from_source);
    let id = record.id;
    if found.damaged.is_empty() && (!differed || progress.against_source) {
        record.image_sha256 = record.image_sha256.take().or(sha256);
        if before.is_some() && before_was_damage(record) {
            record.fail_reason = None;
            if record.status == BackupStatus::Error {
                record.status = BackupStatus::Available;
            }
        }
        let also = found.beside.join("; ");
        return (!also.is_empty()).then(|| format!("the image of backup {id} is right, but {also}"));
    }
    let found_at = before.as_ref().map_or(now, |damage| damage.found_at);
    let (ranges, cause) = match before {
        // It can be read, and is what it was when it was found to be another one than the snapshot.
        Some(damage) if found.damaged.is_empty() => (
            damage.ranges,
            "they differ from the volume's snapshot, as an earlier comparison found".to_owned(),
        ),
        _ => (found.damaged.clone(), found.cause.clone().unwrap_or_default()),
    };
    let differs_from_source = found.differing_bytes > 0 || (differed && !progress.against_source);
    let reason = format!("damaged: {ranges}: {cause}");
    // A restore that is under way goes on, and the backup is in error behind it.
    if record.status != BackupStatus::Error || before_was_damage(record) {
        record.fail_reason = Some(reason);
    }
    if record.status == BackupStatus::Available {
        record.status = BackupStatus::Error;
    }
    record.damage = Some(BackupDamage { found_at, ranges: ranges.clone(), differs_from_source });
    let mut sentence = format!(
        "backup {id} is damaged: {ranges} are not right: {cause}; the rest is. `amberfs backup restore --skip-damaged` restores the rest, and a new backup of the volume stores again what that still has"
    );
    for also in &found.beside {
        sentence.push_str("; ");
        sentence.push_str(also);
    }
    Some(sentence)
}

/// Is the reason of its state that of an earlier verification?
fn before_was_damage(record: &BackupRecord) -> bool {
    record.fail_reason.as_ref().is_some_and(|reason| reason.starts_with("damaged: "))
}
