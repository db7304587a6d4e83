//! Takes a restore command: everything that can be refused is refused here, and the target is settled.

use std::sync::{Arc, PoisonError};

use uuid::Uuid;

use super::super::{Operations, Requester, VolumeType};
use super::run::{Beginning, RestoreJob};
use super::target::Target;
use super::{RestoreAccepted, RestoreRequest};
use crate::catalog::{BackupRecord, BackupStatus, DamagedRanges, Project, RestoreTarget};
use crate::jobs::{JobControl, JobId, JobSubject, Slot};
use crate::source::{Source, SourceError, VolumeInfo};
use crate::sysio::clock;
use crate::types::{BackupId, Refusal, RefusalKind, SourceName, VolumeName};

/// So much of a name stays when the time is appended: the whole then fits into the 255 bytes of a file name, with its
/// ending.
const STEM_BYTES_MAX: usize = 220;

/// A new volume is called so, and the backup's id behind it, while it fills.
const TEMPORARY_PREFIX: &str = "restore_backup_";

impl Operations {
    /// Checks that a restore would not be refused now.
    pub fn check_restore(&self, requester: &Requester, request: &RestoreRequest) -> Result<(), Refusal> {
        self.check_writable()?;
        let record = self.restorable(requester, request)?;
        let target = self.settle_target(requester, request, &record)?;
        self.check_target_quota(requester, &target, &record)?;
        self.check_target_free(&target)?;
        self.prepare_contents(record.id, &target.stored).map(drop)
    }

    /// Settles the target and queues the job that fills it.
    pub fn restore(
        self: &Arc<Self>,
        requester: &Requester,
        request: &RestoreRequest,
    ) -> Result<RestoreAccepted, Refusal> {
        self.check_writable()?;
        // Reads logs of file systems, and must not keep others waiting; looked at once more below.
        let contents = {
            let record = self.restorable(requester, request)?;
            let target = self.settle_target(requester, request, &record)?;
            self.check_target_quota(requester, &target, &record)?;
            let taken = self.take_scratch(&target.stored)?;
            let new_uuids = self.prepare_contents(record.id, &target.stored)?;
            (target.stored.new_xfs_uuid, taken, new_uuids)
        };
        let (seed, taken, new_uuids) = contents;
        // One restore after the other asks the sources, and what they use is counted for it; nobody else waits for that.
        let _counting = self.counting_volumes.lock().unwrap_or_else(PoisonError::into_inner);
        let record = self.restorable(requester, request)?;
        let mut target = self.settle_target(requester, request, &record)?;
        target.stored.new_xfs_uuid = seed;
        self.check_target_quota(requester, &target, &record)?;
        let reservation = self.reserve_target(&target)?;
        let id = record.id;
        let accepting = self.accepting.lock().unwrap_or_else(PoisonError::into_inner);
        self.repository.catalog().try_update(id, |record| {
            check_restorable(record, request)?;
            record.status = BackupStatus::Restoring;
            record.restore_target = Some(target.stored.clone());
            Ok::<_, Refusal>(())
        })?;
        drop(accepting);
        let (source, volume) = target.key();
        let stored = target.stored.clone();
        let job = RestoreJob::new(Arc::clone(self), id, target, reservation, taken, Beginning::Fresh);
        let xfs_uuids = new_uuids.map(|new_uuids| new_uuids.uuids()).unwrap_or_default();
        match self.submit_restore(&record, job) {
            Ok(job) => Ok(RestoreAccepted { backup: id, job, source, volume, xfs_uuids }),
            Err(refusal) => {
                // The queue may have ended: the job then left the record for the next start.
                self.end_restore(id, Some(&stored));
                Err(refusal)
            }
        }
    }

    pub(super) fn submit_restore(
        self: &Arc<Self>,
        record: &BackupRecord,
        job: RestoreJob,
    ) -> Result<JobId, Refusal> {
        let (source, volume) = job.target().key();
        let subject = JobSubject {
            backup: Some(record.id.to_string()),
            volume: Some(format!("{source}/{volume}")),
            project: record.project.to_string(),
        };
        let is_resumed = job.is_resumed();
        let run = move |control: &JobControl| job.run(control);
        Ok(match is_resumed {
            true => self.jobs.resume("restore", subject, Slot::Operation, run)?,
            false => self.jobs.submit("restore", subject, Slot::Operation, run)?,
        })
    }

    fn restorable(
        &self,
        requester: &Requester,
        request: &RestoreRequest,
    ) -> Result<Arc<BackupRecord>, Refusal> {
        let record = match &request.from_scratch {
            None => self.select_backup(requester, &request.backup)?,
            Some(name) => {
                let image = self.own_scratch(requester, name)?;
                self.select_backup(requester, &image.about().backup.to_string())?
            }
        };
        check_restorable(&record, request)?;
        Ok(record)
    }

    /// Settles where to write, and what.
    fn settle_target(
        &self,
        requester: &Requester,
        request: &RestoreRequest,
        record: &BackupRecord,
    ) -> Result<Target, Refusal> {
        let mut target = self.settle_volume(requester, request, record)?;
        if let Some(name) = &request.from_scratch {
            target.stored.scratch = Some(self.own_scratch(requester, name)?.about().id);
        }
        target.stored.new_xfs_uuid = request.new_xfs_uuid.then(Uuid::new_v4);
        Ok(target)
    }

    fn settle_volume(
        &self,
        requester: &Requester,
        request: &RestoreRequest,
        record: &BackupRecord,
    ) -> Result<Target, Refusal> {
        let volume_type = self.volume_type(request.volume_type.as_ref())?;
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
        if request.size_bytes.is_some() {
            let sentence = format!("{what} exists and keeps its size; --size is for a new volume");
            return Err(Refusal::new(RefusalKind::InvalidInput, sentence));
        }
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
        let stored = RestoreTarget {
            source: source.name().clone(),
            volume: volume.name,
            is_new: false,
            final_name: None,
            any_name: false,
            size_bytes: volume.size_bytes,
            volume_type: None,
            instance: Some(volume.instance),
            durable_bytes: 0,
            scratch: None,
            new_xfs_uuid: None,
            is_abandoned: false,
            skip_damaged: request.skip_damaged,
            skipped: DamagedRanges::default(),
        };
        Ok(Target { source, stored })
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
        let size_bytes = new_size(request, record)?;
        let named = to_name.or_else(|| request.name.clone());
        let any_name = named.is_none();
        let name = match named {
            Some(name) => {
                let name = parse_volume_name(&name)?;
                if name.as_str().starts_with(TEMPORARY_PREFIX) {
                    let sentence = format!(
                        "names that start with {TEMPORARY_PREFIX} are those of volumes that restores are filling"
                    );
                    return Err(Refusal::new(RefusalKind::InvalidInput, sentence));
                }
                if exists(source.as_ref(), &name)? {
                    let sentence = format!("a volume {:?} exists in source {}", name.as_str(), source.name());
                    return Err(Refusal::new(RefusalKind::VolumeExists, sentence));
                }
                name
            }
            None => self.free_name(source.as_ref(), &record.volume_name)?,
        };
        let stored = RestoreTarget {
            source: source.name().clone(),
            volume: parse_volume_name(&temporary_name(record.id))?,
            is_new: true,
            final_name: Some(name),
            any_name,
            size_bytes,
            volume_type: request.volume_type.clone(),
            instance: None,
            durable_bytes: 0,
            scratch: None,
            new_xfs_uuid: None,
            is_abandoned: false,
            skip_damaged: request.skip_damaged,
            skipped: DamagedRanges::default(),
        };
        Ok(Target { source: Arc::clone(source), stored })
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

    pub(super) fn volume_type(&self, name: Option<&String>) -> Result<Option<&VolumeType>, Refusal> {
        let Some(name) = name else { return Ok(None) };
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
        if !target.stored.is_new {
            return Ok(());
        }
        let project = self.project_for_volume(requester, record, target.source.name())?;
        self.check_volume_quota(project, target.stored.size_bytes)
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
}

/// The name of a new volume while it fills.
fn temporary_name(id: BackupId) -> String {
    format!("{TEMPORARY_PREFIX}{id}")
}

/// Is this what a restore of that backup calls the volume that it makes? No other is ever removed.
pub(super) fn is_temporary_name(id: BackupId, name: &VolumeName) -> bool {
    name.as_str() == temporary_name(id)
}

/// The size of a new volume: that of the backup unless a larger one is wanted.
fn new_size(request: &RestoreRequest, record: &BackupRecord) -> Result<u64, Refusal> {
    let wanted = request.size_bytes.unwrap_or(record.size_bytes);
    if wanted < record.size_bytes {
        let sentence = format!(
            "--size is {wanted} bytes, backup {} has {}; give a size that is not smaller, or none",
            record.id, record.size_bytes
        );
        return Err(Refusal::new(RefusalKind::VolumeTooSmall, sentence));
    }
    Ok(wanted)
}

/// Of a damaged backup what is left is restored when that is asked for; a scratch image over it may have the rest.
fn check_restorable(record: &BackupRecord, request: &RestoreRequest) -> Result<(), Refusal> {
    let takes_damaged = request.skip_damaged || request.from_scratch.is_some();
    if record.status == BackupStatus::Available || record.is_damaged() && takes_damaged {
        return Ok(());
    }
    if let Some(damage) = record.damage.as_ref().filter(|_| record.is_damaged()) {
        let sentence = format!(
            "backup {} is damaged: {} are not right; --skip-damaged restores the rest and writes zeros where it cannot be read",
            record.id, damage.ranges
        );
        return Err(Refusal::new(RefusalKind::InvalidState, sentence));
    }
    let sentence =
        format!("backup {} is {}; only an available one can be restored", record.id, record.status);
    Err(Refusal::new(RefusalKind::InvalidState, sentence))
}

fn parse_volume_name(name: &str) -> Result<VolumeName, Refusal> {
    name.parse().map_err(|error| Refusal::new(RefusalKind::InvalidInput, format!("{error}")))
}

/// Refuses a name that no volume can have there.
fn exists(source: &dyn Source, name: &VolumeName) -> Result<bool, Refusal> {
    match source.check_new_name(name) {
        Ok(()) => Ok(false),
        Err(SourceError::VolumeExists { .. }) => Ok(true),
        Err(error) => Err(error.into()),
    }
}
