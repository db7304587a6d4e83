//! Where a restore writes, and the name that is kept for it meanwhile.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::{Operations, VolumeType};
use crate::catalog::RestoreTarget;
use crate::source::Source;
use crate::types::{Refusal, RefusalKind, SourceName, VolumeMetadata, VolumeName};

/// Where a restore writes, as the backup's record has it, and the source of that name.
pub(super) struct Target {
    pub(super) source: Arc<dyn Source>,
    pub(super) stored: RestoreTarget,
}

impl Target {
    /// The volume's name when the restore has ended well.
    pub(super) fn name(&self) -> &VolumeName {
        self.stored.final_name.as_ref().unwrap_or(&self.stored.volume)
    }

    pub(super) fn key(&self) -> (SourceName, VolumeName) {
        (self.source.name().clone(), self.name().clone())
    }
}

/// Volumes that restores write to, by the names that they have when all went well.
pub(in super::super) type Targets = HashMap<(SourceName, VolumeName), RunningTarget>;

/// How a volume of a queued or running restore is called meanwhile, and what it will use.
#[derive(Debug, Clone)]
pub(in super::super) struct RunningTarget {
    pub(in super::super) temporary_name: VolumeName,
    pub(in super::super) size_bytes: u64,
}

/// Keeps a name for a restore until it has ended.
pub(in super::super) struct Reservation {
    operations: Arc<Operations>,
    key: (SourceName, VolumeName),
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.operations.lock_targets().remove(&self.key);
    }
}

impl Operations {
    /// Refuses a target that another restore writes to, or will make.
    pub(super) fn check_target_free(&self, target: &Target) -> Result<(), Refusal> {
        check_free(&self.lock_targets(), target)
    }

    pub(super) fn reserve_target(self: &Arc<Self>, target: &Target) -> Result<Reservation, Refusal> {
        let key = target.key();
        let running = RunningTarget {
            temporary_name: target.stored.volume.clone(),
            size_bytes: target.stored.size_bytes,
        };
        let mut targets = self.lock_targets();
        check_free(&targets, target)?;
        targets.insert(key.clone(), running);
        drop(targets);
        Ok(Reservation { operations: Arc::clone(self), key })
    }
}

fn check_free(targets: &Targets, target: &Target) -> Result<(), Refusal> {
    let key = target.key();
    if targets.contains_key(&key) {
        let sentence = format!("volume {:?} in source {} is being restored to", key.1.as_str(), key.0);
        return Err(Refusal::new(RefusalKind::InvalidState, sentence));
    }
    // That of a restore which was cancelled may still be going.
    let mut others = targets.iter().filter(|((source, _), _)| *source == key.0);
    if others.any(|(_, other)| other.temporary_name == target.stored.volume) {
        let sentence = format!(
            "volume {:?} of an earlier restore is being removed from source {}; try again in a minute",
            target.stored.volume.as_str(),
            key.0
        );
        return Err(Refusal::new(RefusalKind::InvalidState, sentence));
    }
    Ok(())
}

/// Returns what a new volume is to be like: the volume that was backed up, unless its type says otherwise.
pub(super) fn with_type(mut metadata: VolumeMetadata, volume_type: Option<&VolumeType>) -> VolumeMetadata {
    let Some(volume_type) = volume_type else { return metadata };
    if let Some(data_pool) = &volume_type.data_pool {
        metadata.data_pool = (!data_pool.is_empty()).then(|| data_pool.clone());
    }
    if let Some(object_size) = volume_type.object_size {
        metadata.object_size = Some(object_size.0);
        // The source volume's striping need not fit into objects of another size.
        (metadata.stripe_unit, metadata.stripe_count) = (None, None);
    }
    if let Some(features) = &volume_type.features {
        metadata.features.clone_from(features);
    }
    metadata
}
