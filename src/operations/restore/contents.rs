//! What a restore writes: a backup's image or a scratch image, each XFS in it with a new UUID if that was asked for.

use std::sync::Arc;

use super::super::Operations;
use super::super::xfs_uuid::WithNewUuids;
use crate::catalog::RestoreTarget;
use crate::scratch::Taken;
use crate::sysio::device::ReadAt;
use crate::types::{BackupId, Refusal, RefusalKind};

impl Operations {
    /// Takes the scratch image that is to be restored, if one is, so that nobody writes to it meanwhile. It is kept from now
    /// on, and durable as it is: a restore that goes on after a stop or a power cut finds it the same.
    pub(super) fn take_scratch(&self, target: &RestoreTarget) -> Result<Option<Taken>, Refusal> {
        let Some(id) = target.scratch else { return Ok(None) };
        let image = self.scratch.by_id(id).ok_or_else(|| {
            let sentence = "the scratch image that was to be restored is gone; make another one";
            Refusal::new(RefusalKind::ScratchNotFound, sentence)
        })?;
        let taken = image.take("being restored")?;
        image.keep()?;
        Ok(Some(taken))
    }

    /// Computes the changes of the UUIDs that a restore is to make, if it is to make any.
    pub(super) fn prepare_contents(
        &self,
        id: BackupId,
        target: &RestoreTarget,
    ) -> Result<Option<WithNewUuids>, Refusal> {
        let Some(seed) = target.new_xfs_uuid else { return Ok(None) };
        Ok(Some(WithNewUuids::new(self.disk_to_restore(id, target)?, seed)?))
    }

    /// Returns the disk as it is.
    pub(super) fn disk_to_restore(
        &self,
        id: BackupId,
        target: &RestoreTarget,
    ) -> Result<Arc<dyn ReadAt>, Refusal> {
        let Some(scratch) = target.scratch else { return Ok(self.repository.image(id)?) };
        match self.scratch.by_id(scratch) {
            Some(image) => Ok(image),
            None => {
                let sentence = "the scratch image that was being restored is gone";
                Err(Refusal::new(RefusalKind::ScratchNotFound, sentence))
            }
        }
    }
}
