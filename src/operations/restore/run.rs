//! The job of a restore.

use std::sync::Arc;
use std::thread;

use super::super::Operations;
use super::super::xfs_uuid::{VolumeDevice, WithNewUuids};
use super::compare::Comparison;
use super::contents::{DiskToRestore, with_new_uuids};
use super::resume::{Found, patiently};
use super::target::{Reservation, Target, with_type};
use super::write::{self, DataRanges, Filling};
use crate::catalog::{DamagedRanges, RestoreTarget};
use crate::jobs::{JobControl, JobEnd, Stop};
use crate::scratch::Taken;
use crate::source::{SourceError, VolumeWriter};
use crate::sysio::device::ReadAt;
use crate::types::{BackupId, Refusal, RefusalKind, VolumeName};

/// On a volume that is not, or not completely, what its backup was.
const MARK_KEY: &str = "amberfs.restore";
const INCOMPLETE: &str = "incomplete";
/// Where its backup was damaged it has zeros.
const DAMAGED: &str = "damaged";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beginning {
    /// Nothing was written yet.
    Fresh,
    /// An earlier process may have written something.
    Resumed {
        /// The journal of this machine has it, too: it is not only the repository that says so.
        is_remembered: bool,
    },
}

/// What is written.
#[derive(Clone, Copy)]
struct Contents<'a> {
    /// As it is in the repository.
    original: &'a DiskToRestore,
    disk: &'a dyn ReadAt,
    /// What of it is changed on the way.
    new_uuids: Option<&'a WithNewUuids>,
}

/// A queued or running restore. However it ends, the backup is available afterwards; but for a shutdown, which leaves
/// everything to the next start.
pub(super) struct RestoreJob {
    operations: Arc<Operations>,
    id: BackupId,
    target: Target,
    beginning: Beginning,
    has_ended: bool,
    reservation: Option<Reservation>,
    /// Keeps the scratch image still that is restored, if one is.
    taken: Option<Taken>,
}

impl RestoreJob {
    pub(super) fn new(
        operations: Arc<Operations>,
        id: BackupId,
        target: Target,
        reservation: Reservation,
        taken: Option<Taken>,
        beginning: Beginning,
    ) -> Self {
        let reservation = Some(reservation);
        Self { operations, id, target, beginning, has_ended: false, reservation, taken }
    }

    /// Did an earlier process begin it?
    pub(super) fn is_resumed(&self) -> bool {
        matches!(self.beginning, Beginning::Resumed { .. })
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    pub(super) fn run(mut self, control: &JobControl) -> Result<(), JobEnd> {
        let result = self.restore(control);
        self.has_ended = true;
        match &result {
            Ok(()) => self.operations.end_restore(self.id, Some(&self.target.stored)),
            Err(JobEnd::Stopped(Stop::Shutdown)) => {
                self.leave_taken();
                tracing::info!(backup = %self.id, "the restore was stopped; it goes on at the next start");
            }
            Err(JobEnd::Stopped(Stop::Cancelled)) => self.operations.give_up_restore(self.id),
            Err(JobEnd::Failed(refusal)) => {
                tracing::warn!(backup = %self.id, volume = %self.target.name(), %refusal, "the restore failed");
                self.operations.give_up_restore(self.id);
            }
        }
        result
    }

    fn restore(&mut self, control: &JobControl) -> Result<(), JobEnd> {
        let original = self.operations.disk_to_restore(self.id, &self.target.stored)?;
        let result = self.restore_disk(&original, control);
        let skipped = &self.target.stored.skipped;
        if !skipped.is_empty() {
            let sentence = format!("backup {} is damaged: zeros were written to {skipped}", self.id);
            tracing::warn!(volume = %self.target.name(), "{sentence}");
            control.warn(sentence);
        }
        let damaged = original.damaged();
        if damaged.is_empty() {
            return result;
        }
        // All of it is to be known, and whether others are affected.
        self.operations.verify_soon(self.id);
        match result {
            Err(JobEnd::Failed(refusal)) if !self.target.stored.skip_damaged => {
                let sentence = format!(
                    "backup {} is damaged: {damaged} cannot be read: {}; there may be more, which `amberfs backup verify` finds, and --skip-damaged restores the rest",
                    self.id, refusal.sentence
                );
                Err(Refusal::new(RefusalKind::Failed, sentence).into())
            }
            result => result,
        }
    }

    fn restore_disk(&mut self, original: &DiskToRestore, control: &JobControl) -> Result<(), JobEnd> {
        let new_uuids = with_new_uuids(original, &self.target.stored)?;
        let disk = new_uuids.as_ref().map_or_else(|| original.device(), WithNewUuids::disk);
        let contents = Contents { original, disk: disk.as_ref(), new_uuids: new_uuids.as_ref() };
        control.set_total(contents.disk.size_bytes());
        if self.target.stored.is_new {
            self.fill_new(contents, control)
        } else {
            self.overwrite(contents, control)
        }
    }

    fn fill_new(&mut self, contents: Contents<'_>, control: &JobControl) -> Result<(), JobEnd> {
        let found = match self.beginning {
            Beginning::Fresh => Found::Nothing,
            Beginning::Resumed { .. } => self.find_new(control)?,
        };
        let writer = match found {
            // A kill may have come between the name and its sync.
            Found::Named => {
                return Ok(self.target.source.sync_name(self.target.name()).map_err(Refusal::from)?);
            }
            Found::Unfinished(writer) => writer,
            Found::Nothing => self.make_new(control)?,
        };
        let from = self.target.stored.durable_bytes;
        self.fill(contents, writer.as_ref(), &Comparison::none(), from, control)?;
        if !self.target.stored.skipped.is_empty() {
            writer.set_mark(MARK_KEY, Some(DAMAGED)).map_err(Refusal::from)?;
        }
        drop(writer);
        match self.name_new() {
            Ok(()) => Ok(()),
            // Complete it is. The source may have renamed it, and not have come to say so.
            Err(refusal) => match self.find_new(control) {
                Ok(Found::Named) => {
                    Ok(self.target.source.sync_name(self.target.name()).map_err(Refusal::from)?)
                }
                Ok(Found::Unfinished(_) | Found::Nothing) | Err(_) => Err(refusal.into()),
            },
        }
    }

    fn make_new(&mut self, control: &JobControl) -> Result<Box<dyn VolumeWriter>, JobEnd> {
        if self.target.stored.instance.is_some() {
            tracing::info!(backup = %self.id, volume = %self.target.stored.volume, "the volume of the interrupted restore is gone or another one; it begins anew");
            self.update_target(|target| {
                (target.instance, target.durable_bytes, target.skipped) = Default::default();
            })?;
        }
        let Target { source, stored } = &self.target;
        // What an earlier try under this name left, if anything.
        match self.beginning {
            Beginning::Fresh => source.remove_volume(&stored.volume).map_err(Refusal::from)?,
            Beginning::Resumed { .. } => patiently(control, || source.remove_volume(&stored.volume))?,
        }
        let volume_type = self.operations.volume_type(stored.volume_type.as_ref())?;
        let record = self.operations.record(self.id)?;
        let metadata = with_type(record.volume_metadata.clone(), volume_type);
        let created = source.create_volume(&stored.volume, stored.size_bytes, &metadata);
        let writer = created.map_err(Refusal::from)?;
        let instance = source.volume(&stored.volume).map_err(Refusal::from)?.instance;
        self.update_target(|target| target.instance = Some(instance))?;
        Ok(writer)
    }

    /// Gives the complete volume its final name.
    fn name_new(&mut self) -> Result<(), Refusal> {
        let source = Arc::clone(&self.target.source);
        match source.rename_volume(&self.target.stored.volume, self.target.name()) {
            Err(SourceError::VolumeExists { .. }) if self.target.stored.any_name => {
                let other = self.operations.free_name(source.as_ref(), self.target.name())?;
                // A start that finds the volume under this name must know that it is the one.
                self.update_target(|target| target.final_name = Some(other))?;
                Ok(source.rename_volume(&self.target.stored.volume, self.target.name())?)
            }
            renamed => Ok(renamed?),
        }
    }

    /// Makes an existing volume equal to the backup, and zero behind its end.
    fn overwrite(&mut self, contents: Contents<'_>, control: &JobControl) -> Result<(), JobEnd> {
        let image = contents.disk;
        let writer = self.open_existing(self.beginning, control)?;
        if let Beginning::Resumed { is_remembered: false } = self.beginning {
            check_marked(self.target.name(), writer.as_ref())?;
        }
        if writer.size_bytes() < image.size_bytes() {
            let sentence = format!("volume {} was made smaller than the backup", self.target.name());
            return Err(Refusal::new(RefusalKind::VolumeTooSmall, sentence).into());
        }
        // What an earlier process wrote may have been written over since: looked at, not trusted.
        let compared_below = self.target.stored.durable_bytes;
        let comparison = Comparison::decide(image, writer.as_ref(), compared_below, control)?;
        writer.set_mark(MARK_KEY, Some(INCOMPLETE)).map_err(Refusal::from)?;
        write::zero_holes(image, writer.as_ref(), control)?;
        // All of it is read again.
        self.target.stored.skipped = DamagedRanges::default();
        self.fill(contents, writer.as_ref(), &comparison, 0, control)?;
        let mark = (!self.target.stored.skipped.is_empty()).then_some(DAMAGED);
        writer.set_mark(MARK_KEY, mark).map_err(Refusal::from)?;
        Ok(())
    }

    /// Writes the image's data from an offset on, step by step, and makes each step durable.
    fn fill(
        &mut self,
        contents: Contents<'_>,
        writer: &dyn VolumeWriter,
        comparison: &Comparison,
        from: u64,
        control: &JobControl,
    ) -> Result<(), JobEnd> {
        let operations = Arc::clone(&self.operations);
        let skips = self.target.stored.skip_damaged;
        let image = contents.disk;
        let filling = Filling { image, writer, budget: &operations.budget, control, comparison };
        let mut ranges = DataRanges::starting_at(image, from);
        control.add_done(from);
        // What an earlier process skipped lies before `from`.
        let before = self.target.stored.skipped.clone();
        let skipped = || {
            let mut skipped = before.clone();
            if !skips {
                return skipped;
            }
            skipped.append(&contents.original.damaged());
            skipped
        };
        let check_skipped = |skipped: &DamagedRanges| match skipped.is_empty() {
            true => Ok(()),
            // What is not there at all is not damaged.
            false => operations.check_repository_is_there(),
        };
        loop {
            let is_last = filling.step(&mut ranges, operations.options.restore_step_bytes)?;
            writer.flush().map_err(Refusal::from)?;
            if is_last {
                let skipped = skipped();
                check_skipped(&skipped)?;
                if self.target.stored.skipped != skipped {
                    self.update_target(|target| target.skipped = skipped)?;
                }
                let volume = VolumeDevice(writer);
                return Ok(contents.new_uuids.map_or(Ok(()), |new_uuids| new_uuids.check(&volume))?);
            }
            self.update_target(|target| {
                (target.durable_bytes, target.skipped) = (ranges.position(), skipped());
            })?;
        }
    }

    /// Nobody writes to the scratch image before the next start goes on with the restore.
    fn leave_taken(&mut self) {
        if let Some(taken) = self.taken.take() {
            taken.for_good();
        }
    }

    /// Changes what the next start would go on from, durably.
    fn update_target(&mut self, change: impl FnOnce(&mut RestoreTarget)) -> Result<(), Refusal> {
        change(&mut self.target.stored);
        let stored = self.target.stored.clone();
        self.operations
            .repository
            .catalog()
            .update(self.id, |record| record.restore_target = Some(stored))?;
        Ok(())
    }
}

/// Refuses to go on overwriting a volume of which nothing but the repository says that it was begun: whoever can write
/// there could name any volume.
fn check_marked(name: &VolumeName, writer: &dyn VolumeWriter) -> Result<(), Refusal> {
    if writer.mark(MARK_KEY).map_err(Refusal::from)?.as_deref() == Some(INCOMPLETE) {
        return Ok(());
    }
    let sentence = format!(
        "volume {:?} bears no mark of a restore that was begun, and this machine remembers none: it was left as it is; restore again",
        name.as_str()
    );
    Err(Refusal::new(RefusalKind::InvalidState, sentence))
}

impl Drop for RestoreJob {
    /// Of one that was never run, or met a fault in amberfs.
    fn drop(&mut self) {
        let has_panicked = thread::panicking();
        if self.has_ended {
            return;
        }
        if self.operations.is_shutting_down() && !has_panicked {
            self.leave_taken();
            return;
        }
        if !self.target.stored.is_new || (self.beginning == Beginning::Fresh && !has_panicked) {
            self.operations.end_restore(self.id, Some(&self.target.stored));
            return;
        }
        self.operations.abandon_restore(self.id);
        let (operations, id, reservation) = (Arc::clone(&self.operations), self.id, self.reservation.take());
        // A cluster may take its time to let the volume go, and whoever cancels does not wait for that.
        let removal = thread::Builder::new().name(format!("restore-{id}")).spawn(move || {
            operations.give_up_restore(id);
            drop(reservation);
        });
        if let Err(error) = removal {
            tracing::error!(backup = %id, %error, "no thread could be started to remove the volume of a restore; the next start removes it");
        }
    }
}
