//! The job of a restore.

use std::sync::Arc;

use super::super::Operations;
use super::super::refusal::sentence;
use super::RestoreRequest;
use super::accept::{Reservation, Target};
use super::write;
use crate::catalog::BackupStatus;
use crate::image::Image;
use crate::jobs::{JobControl, JobEnd};
use crate::source::{Source, SourceError};
use crate::types::{BackupId, Refusal, VolumeMetadata, VolumeName};

/// On a volume that is not, or not completely, what its backup was.
const MARK_KEY: &str = "amberfs.restore";
const MARK_VALUE: &str = "incomplete";

/// A queued or running restore. Dropped, run or unrun, it leaves the backup available.
pub(super) struct RestoreJob {
    operations: Arc<Operations>,
    id: BackupId,
    target: Target,
    temporary_name: VolumeName,
    /// The name was not asked for: another one will do when it is taken in the end.
    any_name: bool,
    _reservation: Reservation,
}

impl RestoreJob {
    pub(super) fn new(
        operations: Arc<Operations>,
        id: BackupId,
        target: Target,
        temporary_name: VolumeName,
        request: &RestoreRequest,
        reservation: Reservation,
    ) -> Self {
        let any_name = request.to.is_none() && request.name.is_none();
        Self { operations, id, target, temporary_name, any_name, _reservation: reservation }
    }

    pub(super) fn run(self, control: &JobControl) -> Result<(), JobEnd> {
        let image = self.operations.repository.image(self.id).map_err(Refusal::from)?;
        control.set_total(image.size_bytes());
        match &self.target {
            Target::New { source, name, metadata } => {
                let filled = self.fill_new(source.as_ref(), metadata, &image, control);
                let named = filled.and_then(|()| Ok(self.name(source.as_ref(), name)?));
                if named.is_err() {
                    self.remove_temporary(source.as_ref());
                }
                named
            }
            Target::Existing { source, volume } => {
                self.overwrite(source.as_ref(), &volume.name, &image, control)
            }
        }
    }

    fn fill_new(
        &self,
        source: &dyn Source,
        metadata: &VolumeMetadata,
        image: &Image,
        control: &JobControl,
    ) -> Result<(), JobEnd> {
        // What an earlier try under this name left, if anything.
        source.remove_volume(&self.temporary_name).map_err(Refusal::from)?;
        let created = source.create_volume(&self.temporary_name, image.size_bytes(), metadata);
        let writer = created.map_err(Refusal::from)?;
        write::write_data(image, writer.as_ref(), &self.operations.budget, control)?;
        writer.flush().map_err(Refusal::from)?;
        Ok(())
    }

    /// Gives the complete volume its final name.
    fn name(&self, source: &dyn Source, name: &VolumeName) -> Result<(), Refusal> {
        match source.rename_volume(&self.temporary_name, name) {
            Err(SourceError::VolumeExists { .. }) if self.any_name => {
                let other = self.operations.free_name(source, name)?;
                Ok(source.rename_volume(&self.temporary_name, &other)?)
            }
            renamed => Ok(renamed?),
        }
    }

    fn remove_temporary(&self, source: &dyn Source) {
        if let Err(error) = source.remove_volume(&self.temporary_name) {
            tracing::warn!(volume = %self.temporary_name, error = sentence(&error), "the volume of a failed restore cannot be removed");
        }
    }

    /// Makes an existing volume equal to the backup, and zero behind its end.
    fn overwrite(
        &self,
        source: &dyn Source,
        name: &VolumeName,
        image: &Image,
        control: &JobControl,
    ) -> Result<(), JobEnd> {
        let writer = source.open_volume(name).map_err(Refusal::from)?;
        writer.set_mark(MARK_KEY, Some(MARK_VALUE)).map_err(Refusal::from)?;
        write::zero_holes(image, writer.as_ref(), control)?;
        write::write_data(image, writer.as_ref(), &self.operations.budget, control)?;
        writer.flush().map_err(Refusal::from)?;
        writer.set_mark(MARK_KEY, None).map_err(Refusal::from)?;
        Ok(())
    }
}

impl Drop for RestoreJob {
    fn drop(&mut self) {
        self.operations.end_restore(self.id);
    }
}

impl Operations {
    /// The backup is not being restored any more, however that went.
    pub(in super::super) fn end_restore(&self, id: BackupId) {
        let updated = self.repository.catalog().update(id, |record| {
            if record.status == BackupStatus::Restoring {
                record.status = BackupStatus::Available;
            }
            record.restore_target = None;
        });
        if let Err(error) = updated {
            tracing::error!(backup = %id, error = sentence(&error), "the backup cannot be made available again");
        }
    }
}
