//! A restore that a stop or a crash interrupted: goes on, or is given up.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::super::Operations;
use super::accept::is_temporary_name;
use super::run::{Beginning, RestoreJob};
use super::target::{Reservation, Target};
use crate::catalog::{BackupRecord, BackupStatus, CatalogError, RestoreTarget};
use crate::jobs::{JobControl, JobEnd};
use crate::source::{Source, SourceError, VolumeWriter};
use crate::types::{BackupId, Refusal, RefusalKind, VolumeName, sentence};

/// Twice what a cluster needs to forget a client that died.
const DEAD_CLIENT_PATIENCE: Duration = Duration::from_secs(60);
/// After a power cut a cluster needs longer than we do to start.
const START_PATIENCE: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_secs(1);

/// What there is of the new volume that an earlier process made.
pub(super) enum Found {
    Unfinished(Box<dyn VolumeWriter>),
    /// It is complete and has its final name.
    Named,
    /// It is gone, or another volume has its name.
    Nothing,
}

/// Calls the source until what passes by itself has passed: what a client that died holds, and a cluster's own start.
pub(in super::super) fn patiently<T>(
    control: &JobControl,
    mut call: impl FnMut() -> Result<T, SourceError>,
) -> Result<T, JobEnd> {
    let began = Instant::now();
    loop {
        let error = match call() {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let patience = match &error {
            SourceError::VolumeInUse { .. } => DEAD_CLIENT_PATIENCE,
            SourceError::Unavailable { .. } => START_PATIENCE,
            _ => Duration::ZERO,
        };
        if began.elapsed() >= patience {
            return Err(Refusal::from(error).into());
        }
        control.checkpoint()?;
        thread::sleep(PAUSE);
    }
}

impl RestoreJob {
    /// Looks for the new volume that an earlier process made, and opens it if it is to be filled further.
    pub(super) fn find_new(&self, control: &JobControl) -> Result<Found, JobEnd> {
        let Target { source, stored } = self.target();
        let Some(instance) = &stored.instance else { return Ok(Found::Nothing) };
        let is_ours = |name: &VolumeName| match source.volume(name) {
            Ok(volume) => Ok(volume.instance == *instance && volume.size_bytes == stored.size_bytes),
            Err(SourceError::VolumeNotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        };
        patiently(control, || {
            if is_ours(&stored.volume)? {
                return Ok(Found::Unfinished(source.open_volume(&stored.volume)?));
            }
            Ok(if is_ours(self.target().name())? { Found::Named } else { Found::Nothing })
        })
    }

    /// Opens the existing volume that the command named, if it still is that one; patiently when an earlier process of
    /// ours may still be believed to have it.
    pub(super) fn open_existing(
        &self,
        beginning: Beginning,
        control: &JobControl,
    ) -> Result<Box<dyn VolumeWriter>, JobEnd> {
        let Target { source, stored } = self.target();
        let open = || {
            let is_same = Some(source.volume(&stored.volume)?.instance) == stored.instance;
            if is_same { source.open_volume(&stored.volume).map(Some) } else { Ok(None) }
        };
        let writer = match beginning {
            Beginning::Fresh => open().map_err(Refusal::from)?,
            Beginning::Resumed { .. } => patiently(control, open)?,
        };
        writer.ok_or_else(|| {
            let sentence = format!(
                "volume {:?} in source {} is another one than it was when the restore was accepted; restore again",
                stored.volume.as_str(),
                source.name()
            );
            Refusal::new(RefusalKind::InvalidState, sentence).into()
        })
    }
}

impl Operations {
    /// Queues a restore again that an earlier process had taken.
    ///
    /// Asks no source: names and quotas are kept for it before any command is taken. An error says why it cannot go
    /// on, and nothing has changed then.
    pub(in super::super) fn resume_restore(self: &Arc<Self>, record: &BackupRecord) -> Result<(), Refusal> {
        let cannot = |why: &str| Refusal::new(RefusalKind::Failed, why);
        let stored = record.restore_target.clone().ok_or_else(|| cannot("its target is not known"))?;
        if stored.is_abandoned {
            return Err(cannot("it was cancelled or had failed"));
        }
        if stored.final_name.is_none() && (stored.is_new || stored.instance.is_none()) {
            return Err(cannot("an older amberfs began it"));
        }
        if stored.is_new && !is_temporary_name(record.id, &stored.volume) {
            return Err(cannot("its record names a volume that no restore of it makes"));
        }
        let source = self.sources.get(&stored.source).ok_or_else(|| {
            cannot(&format!("source {} is not in the configuration any more", stored.source))
        })?;
        let target = Target { source: Arc::clone(source), stored };
        let taken = self.take_scratch(&target.stored)?;
        let reservation = self.reserve_target(&target)?;
        let beginning = Beginning::Resumed { is_remembered: self.is_remembered(record.id, &target) };
        let job = RestoreJob::new(Arc::clone(self), record.id, target, reservation, taken, beginning);
        match self.submit_restore(record, job) {
            Ok(job) => tracing::info!(backup = %record.id, %job, "the restore goes on"),
            // The job was dropped, and put things right.
            Err(refusal) => tracing::warn!(backup = %record.id, %refusal, "the restore cannot go on"),
        }
        Ok(())
    }

    /// Does this machine remember that a restore of this backup to this volume was not finished?
    fn is_remembered(&self, id: BackupId, target: &Target) -> bool {
        let (source, volume) = target.key();
        let (backup, volume) = (id.to_string(), format!("{source}/{volume}"));
        self.jobs.unfinished_before().iter().any(|job| {
            &*job.kind == "restore"
                && job.backup.as_ref() == Some(&backup)
                && job.volume.as_ref() == Some(&volume)
        })
    }

    /// Keeps the names of a restore that does not go on, so that none begins that has the same temporary volume.
    pub(in super::super) fn keep_names_of(self: &Arc<Self>, record: &BackupRecord) -> Option<Reservation> {
        let stored = record.restore_target.clone()?;
        let source = Arc::clone(self.sources.get(&stored.source)?);
        self.reserve_target(&Target { source, stored }).ok()
    }

    /// Ends a restore that does not go on: its unfinished new volume goes, and the backup is available again.
    ///
    /// Until the volume is gone, or that is given up, the backup stays `restoring`: no second restore may use its
    /// temporary name.
    pub(in super::super) fn give_up_restore(&self, id: BackupId) {
        let target = self.repository.catalog().get(id).and_then(|record| record.restore_target.clone());
        // A record that names another volume is none of ours, and that volume is not ours to remove.
        let is_ours = |target: &&RestoreTarget| target.is_new && is_temporary_name(id, &target.volume);
        if let Some(target) = target.as_ref().filter(is_ours) {
            self.abandon_restore(id);
            let source = self.sources.get(&target.source);
            let is_gone = source.is_none_or(|source| self.remove_patiently(source.as_ref(), &target.volume));
            if !is_gone {
                // The next start tries again.
                self.end_restore_later(id);
                return;
            }
        }
        self.end_restore(id, target.as_ref());
    }

    /// Sees to it that no later start goes on with the restore.
    pub(super) fn abandon_restore(&self, id: BackupId) {
        let updated = self.repository.catalog().update(id, |record| {
            if let Some(target) = &mut record.restore_target {
                target.is_abandoned = true;
            }
        });
        if let Err(error) = updated {
            tracing::error!(backup = %id, error = sentence(&error), "the restore cannot be marked as given up");
        }
    }

    /// The backup is not being restored any more, but what the restore made is still there, and remembered.
    fn end_restore_later(&self, id: BackupId) {
        if self.is_shutting_down() {
            return;
        }
        let updated = self.repository.catalog().update(id, |record| {
            if record.status == BackupStatus::Restoring {
                record.status = record.status_at_rest();
            }
        });
        if let Err(error) = updated {
            tracing::error!(backup = %id, error = sentence(&error), "the backup cannot be made available again");
        }
    }

    /// The backup is not being restored any more, however that went.
    ///
    /// Not another restore of it that may have begun since.
    pub(super) fn end_restore(&self, id: BackupId, target: Option<&RestoreTarget>) {
        let place = |target: &RestoreTarget| (target.source.clone(), target.volume.clone());
        let updated = self.repository.catalog().update(id, |record| {
            if record.restore_target.as_ref().map(place) != target.map(place) {
                return;
            }
            if record.status == BackupStatus::Restoring {
                record.status = record.status_at_rest();
            }
            record.restore_target = None;
        });
        match updated {
            // One that was deleted meanwhile needs nothing.
            Ok(_) | Err(CatalogError::NotFound { .. }) => {}
            Err(error) => {
                tracing::error!(backup = %id, error = sentence(&error), "the backup cannot be made available again");
            }
        }
    }

    /// Removes a volume and says whether it is gone. A cluster believes for half a minute that a client which died has
    /// it open.
    fn remove_patiently(&self, source: &dyn Source, volume: &VolumeName) -> bool {
        let deadline = Instant::now() + DEAD_CLIENT_PATIENCE;
        loop {
            match source.remove_volume(volume) {
                Ok(()) => return true,
                Err(SourceError::VolumeInUse { .. })
                    if Instant::now() < deadline && !self.is_shutting_down() =>
                {
                    thread::sleep(PAUSE);
                }
                Err(error) => {
                    let error = sentence(&error);
                    tracing::warn!(volume = %volume, error, "the volume of a restore that does not go on cannot be removed");
                    return false;
                }
            }
        }
    }
}
