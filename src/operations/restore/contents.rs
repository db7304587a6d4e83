//! What a restore writes: a backup's image or a scratch image, each XFS in it with a new UUID if that was asked for.

use std::sync::Arc;

use super::super::Operations;
use super::super::xfs_uuid::WithNewUuids;
use crate::catalog::{DamagedRanges, RestoreTarget};
use crate::image::Salvage;
use crate::scratch::{ScratchImage, Taken};
use crate::sysio::device::ReadAt;
use crate::types::{BackupId, Refusal, RefusalKind};

/// What is restored, before anything is changed on the way.
pub(super) enum DiskToRestore {
    Backup(Arc<Salvage>),
    Scratch(Arc<ScratchImage>),
}

impl DiskToRestore {
    pub(super) fn device(&self) -> Arc<dyn ReadAt> {
        match self {
            Self::Backup(salvage) => Arc::clone(salvage) as _,
            Self::Scratch(image) => Arc::clone(image) as _,
        }
    }

    /// Returns where damage was met so far.
    pub(super) fn damaged(&self) -> DamagedRanges {
        match self {
            Self::Backup(salvage) => salvage.damaged(),
            Self::Scratch(_) => DamagedRanges::default(),
        }
    }
}

pub(super) fn with_new_uuids(
    disk: &DiskToRestore,
    target: &RestoreTarget,
) -> Result<Option<WithNewUuids>, Refusal> {
    target.new_xfs_uuid.map(|seed| WithNewUuids::new(disk.device(), seed)).transpose()
}

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
        if target.new_xfs_uuid.is_none() {
            return Ok(None);
        }
        with_new_uuids(&self.disk_to_restore(id, target)?, target)
    }

    /// Returns the disk as it is.
    pub(super) fn disk_to_restore(
        &self,
        id: BackupId,
        target: &RestoreTarget,
    ) -> Result<DiskToRestore, Refusal> {
        let Some(scratch) = target.scratch else {
            let image = self.repository.image(id)?;
            let salvage = match target.skip_damaged {
                true => Salvage::skipping(image),
                false => Salvage::refusing(image),
            };
            return Ok(DiskToRestore::Backup(Arc::new(salvage)));
        };
        match self.scratch.by_id(scratch) {
            Some(image) => Ok(DiskToRestore::Scratch(image)),
            None => {
                let sentence = "the scratch image that was being restored is gone";
                Err(Refusal::new(RefusalKind::ScratchNotFound, sentence))
            }
        }
    }
}
