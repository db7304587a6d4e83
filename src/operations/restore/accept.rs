//! Takes a restore command: everything that can be refused is refused here, and the target is settled.

use std::collections::hash_map::Entry;
use std::sync::{Arc, PoisonError};

use super::super::{Operations, Requester, VolumeType};
use super::run::RestoreJob;
use super::{RestoreAccepted, RestoreRequest, RunningTarget};
use crate::catalog::{BackupRecord, BackupStatus, Project, RestoreTarget};
use crate::jobs::{JobSubject, Slot};
use crate::source::{Source, SourceError, VolumeInfo};
use crate::sysio::clock;
use crate::types::{Refusal, RefusalKind, SourceName, VolumeMetadata, VolumeName};

/// So much of a name stays when the time is appended: the whole then fits into the 255 bytes of a file name, with its
/// ending.
const STEM_BYTES_MAX: usize = 220;

/// Where a restore will write.
pub(super) enum Target {
    /// A new volume, and the name that it gets in the end.
    New {
        source: Arc<dyn Source>,
        name: VolumeName,
        metadata: VolumeMetadata,
    },
    Existing {
        source: Arc<dyn Source>,
        volume: VolumeInfo,
    },
}

impl Target {
    pub(super) fn source(&self) -> &Arc<dyn Source> {
        match self {
            Self::New { source, .. } | Self::Existing { source, .. } => source,
        }
    }

    /// The volume's name when the restore has ended well.
    pub(super) fn name(&self) -> &VolumeName {
        match self {
            Self::New { name, .. } => name,
            Self::Existing { volume, .. } => &volume.name,
        }
    }

    fn key(&self) -> (SourceName, VolumeName) {
        (self.source().name().clone(), self.name().clone())
    }
}

/// Keeps a name for a restore until it has ended.
pub(super) struct Reservation {
    operations: Arc<Operations>,
    key: (SourceName, VolumeName),
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.operations.lock_targets().remove(&self.key);
    }
}

impl Operations {
    /// Checks that a restore would not be refused now.
    pub fn check_restore(&self, requester: &Requester, request: &RestoreRequest) -> Result<(), Refusal> {
        self.check_writable()?;
        let record = self.restorable(requester, request)?;
        let target = self.settle_target(requester, request, &record)?;
        self.check_target_quota(requester, &target, &record)
    }

    /// Settles the target and queues the job that fills it.
    pub fn restore(
        self: &Arc<Self>,
        requester: &Requester,
        request: &RestoreRequest,
    ) -> Result<RestoreAccepted, Refusal> {
        self.check_writable()?;
        let _accepting = self.accepting.lock().unwrap_or_else(PoisonError::into_inner);
        let record = self.restorable(requester, request)?;
        let target = self.settle_target(requester, request, &record)?;
        self.check_target_quota(requester, &target, &record)?;
        let temporary_name = temporary_name(&record)?;
        let running = RunningTarget { temporary_name: temporary_name.clone(), size_bytes: record.size_bytes };
        let reservation = self.reserve_target(&target, running)?;
        let id = record.id;
        let subject = JobSubject {
            backup: Some(id.to_string()),
            volume: Some(format!("{}/{}", target.source().name(), target.name())),
            project: record.project.to_string(),
        };
        let written = match &target {
            Target::New { .. } => temporary_name.clone(),
            Target::Existing { volume, .. } => volume.name.clone(),
        };
        self.repository.catalog().update(id, |record| {
            record.status = BackupStatus::Restoring;
            record.restore_target = Some(RestoreTarget {
                source: target.source().name().clone(),
                volume: written,
                is_new: matches!(target, Target::New { .. }),
            });
        })?;
        let (source, volume) = target.key();
        let job = RestoreJob::new(Arc::clone(self), id, target, temporary_name, request, reservation);
        match self.jobs.submit("restore", subject, Slot::Operation, move |control| job.run(control)) {
            Ok(job) => Ok(RestoreAccepted { backup: id, job, source, volume }),
            // The job was dropped, and put the record right.
            Err(error) => Err(error.into()),
        }
    }

    fn restorable(
        &self,
        requester: &Requester,
        request: &RestoreRequest,
    ) -> Result<Arc<BackupRecord>, Refusal> {
        let record = self.select_backup(requester, &request.backup)?;
        if record.status != BackupStatus::Available {
            let sentence =
                format!("backup {} is {}; only an available one can be restored", record.id, record.status);
            return Err(Refusal::new(RefusalKind::InvalidState, sentence));
        }
        Ok(record)
    }

    fn settle_target(
        &self,
        requester: &Requester,
        request: &RestoreRequest,
        record: &BackupRecord,
    ) -> Result<Target, Refusal> {
        let volume_type = self.volume_type(request)?;
        let Some(to) = &request.to else {
            return self.settle_new(requester, request, record, volume_type, None);
        };
        if request.name.is_some() {
            let sentence = "--to and --name both name the volume; give one of them";
            return Err(Refusal::new(RefusalKind::InvalidInput, sentence));
        }
        match self.select_volume(requester, to) {
            Ok(existing) => self.settle_existing(request, record, existing.source, existing.volume),
            Err(refusal) if refusal.kind == RefusalKind::VolumeNotFound => {
                self.settle_new(requester, request, record, volume_type, Some(to))
            }
            Err(refusal) => Err(refusal),
        }
    }

    fn settle_existing(
        &self,
        request: &RestoreRequest,
        record: &BackupRecord,
        source: Arc<dyn Source>,
        volume: VolumeInfo,
    ) -> Result<Target, Refusal> {
        let what = format!("volume {:?} in source {}", volume.name.as_str(), source.name());
        if !request.force {
            let sentence = format!("{what} exists; --force overwrites it");
            return Err(Refusal::new(RefusalKind::VolumeExists, sentence));
        }
        if volume.size_bytes < record.size_bytes {
            let sentence = format!(
                "{what} has {} bytes, backup {} has {}; grow the volume or restore to a new one",
                volume.size_bytes, record.id, record.size_bytes
            );
            return Err(Refusal::new(RefusalKind::VolumeTooSmall, sentence));
        }
        if volume.in_use {
            let sentence = format!("{what} is open for writing; detach it first");
            return Err(Refusal::new(RefusalKind::VolumeInUse, sentence));
        }
        Ok(Target::Existing { source, volume })
    }

    /// Settles a new volume: in the source and under the name that the request gives, else the backup's.
    fn settle_new(
        &self,
        requester: &Requester,
        request: &RestoreRequest,
        record: &BackupRecord,
        volume_type: Option<&VolumeType>,
        to: Option<&str>,
    ) -> Result<Target, Refusal> {
        let qualified = to.and_then(|to| self.qualified(to));
        let to_source = qualified.as_ref().map(|(source, _)| source.name().clone());
        let to_name =
            qualified.map(|(_, name)| name).map_or_else(|| to.map(str::to_owned), |name| Some(name.into()));
        let source = self.target_source(request, record, volume_type, to_source)?;
        self.project_for_volume(requester, record, source.name())?;
        let named = to_name.or_else(|| request.name.clone());
        let name = match named {
            Some(name) => {
                let name = parse_volume_name(&name)?;
                if exists(source.as_ref(), &name)? {
                    let sentence = format!("a volume {:?} exists in source {}", name.as_str(), source.name());
                    return Err(Refusal::new(RefusalKind::VolumeExists, sentence));
                }
                name
            }
            None => self.free_name(source.as_ref(), &record.volume_name)?,
        };
        let metadata = with_type(record.volume_metadata.clone(), volume_type);
        Ok(Target::New { source: Arc::clone(source), name, metadata })
    }

    fn target_source(
        &self,
        request: &RestoreRequest,
        record: &BackupRecord,
        volume_type: Option<&VolumeType>,
        to_source: Option<SourceName>,
    ) -> Result<&Arc<dyn Source>, Refusal> {
        let asked: Option<SourceName> = match &request.source {
            Some(name) => Some(
                name.parse().map_err(|error| Refusal::new(RefusalKind::InvalidInput, format!("{error}")))?,
            ),
            None => None,
        };
        let of_type = volume_type.and_then(|volume_type| volume_type.source.clone());
        let wanted = to_source.or(asked).or(of_type);
        let name = wanted.as_ref().unwrap_or(&record.source);
        self.sources.get(name).ok_or_else(|| {
            let all: Vec<_> = self.sources.iter().map(|source| source.name().to_string()).collect();
            let sentence = format!("there is no source {name}; --source takes one of {}", all.join(", "));
            Refusal::new(RefusalKind::InvalidInput, sentence)
        })
    }

    fn volume_type(&self, request: &RestoreRequest) -> Result<Option<&VolumeType>, Refusal> {
        let Some(name) = &request.volume_type else { return Ok(None) };
        let found = self.options.volume_types.get(name);
        found.map(Some).ok_or_else(|| {
            let all: Vec<_> = self.options.volume_types.keys().map(String::as_str).collect();
            let known = if all.is_empty() { "none is configured".to_owned() } else { all.join(", ") };
            let sentence = format!("there is no volume type {name:?}: {known}");
            Refusal::new(RefusalKind::VolumeTypeNotFound, sentence)
        })
    }

    /// Rule 7: the source volume's name when that is free, else that name with the time appended.
    pub(super) fn free_name(&self, source: &dyn Source, wanted: &VolumeName) -> Result<VolumeName, Refusal> {
        if self.is_free(source, wanted)? {
            return Ok(wanted.clone());
        }
        let time = clock::now().to_string().replace(['-', ':'], "");
        let stem: String = wanted
            .as_str()
            .char_indices()
            .take_while(|(start, c)| start + c.len_utf8() <= STEM_BYTES_MAX)
            .map(|(_, c)| c)
            .collect();
        let name = parse_volume_name(&format!("{stem}-{time}"))?;
        if self.is_free(source, &name)? {
            return Ok(name);
        }
        let sentence = format!(
            "the names {:?} and {:?} are taken; give one with --name",
            wanted.as_str(),
            name.as_str()
        );
        Err(Refusal::new(RefusalKind::VolumeExists, sentence))
    }

    fn is_free(&self, source: &dyn Source, name: &VolumeName) -> Result<bool, Refusal> {
        let reserved = self.lock_targets().contains_key(&(source.name().clone(), name.clone()));
        Ok(!reserved && !exists(source, name)?)
    }

    fn check_target_quota(
        &self,
        requester: &Requester,
        target: &Target,
        record: &BackupRecord,
    ) -> Result<(), Refusal> {
        match target {
            Target::New { source, .. } => {
                let project = self.project_for_volume(requester, record, source.name())?;
                self.check_volume_quota(project, record.size_bytes)
            }
            Target::Existing { .. } => Ok(()),
        }
    }

    /// Returns the project that a new volume in a source counts for: the backup's own if it has the source.
    fn project_for_volume(
        &self,
        requester: &Requester,
        record: &BackupRecord,
        source: &SourceName,
    ) -> Result<&Project, Refusal> {
        match self.project_named(&record.project).filter(|project| project.sources.contains(source)) {
            Some(own) => Ok(own),
            None => self.project_of(requester, source),
        }
    }

    fn reserve_target(
        self: &Arc<Self>,
        target: &Target,
        running: RunningTarget,
    ) -> Result<Reservation, Refusal> {
        let key = target.key();
        match self.lock_targets().entry(key.clone()) {
            Entry::Vacant(vacant) => drop(vacant.insert(running)),
            Entry::Occupied(_) => {
                let sentence =
                    format!("volume {:?} in source {} is being restored to", key.1.as_str(), key.0);
                return Err(Refusal::new(RefusalKind::InvalidState, sentence));
            }
        }
        Ok(Reservation { operations: Arc::clone(self), key })
    }
}

/// The name of a new volume while it fills.
fn temporary_name(record: &BackupRecord) -> Result<VolumeName, Refusal> {
    parse_volume_name(&format!("restore_backup_{}", record.id))
}

fn parse_volume_name(name: &str) -> Result<VolumeName, Refusal> {
    name.parse().map_err(|error| Refusal::new(RefusalKind::InvalidInput, format!("{error}")))
}

fn exists(source: &dyn Source, name: &VolumeName) -> Result<bool, Refusal> {
    match source.volume(name) {
        Ok(_) => Ok(true),
        Err(SourceError::VolumeNotFound { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn with_type(mut metadata: VolumeMetadata, volume_type: Option<&VolumeType>) -> VolumeMetadata {
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
