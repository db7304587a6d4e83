//! Quotas: checked before anything is made, while [`Operations::accepting`] is held.
//!
//! What is used is counted from the catalog and the sources each time, so nothing has to be given back. What is shown
//! is counted as what is checked.

use super::Operations;
use crate::catalog::Project;
use crate::source::{Source, SourceError};
use crate::types::{ProjectName, Refusal, RefusalKind, VolumeName, gib_rounded_up};

/// What a project's backups use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackupUse {
    pub count: u64,
    /// Sizes of the volumes, each rounded up.
    pub gigabytes: u64,
}

/// What the volumes in a project's sources use, those included that running restores are about to make.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VolumeUse {
    pub count: u64,
    /// Sizes of the volumes, each rounded up.
    pub gigabytes: u64,
}

/// Looking at each volume may take long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sizes {
    Counted,
    /// `gigabytes` is not to be used.
    LeftOut,
}

impl Operations {
    /// Refuses a backup that would go over the limits of its project.
    pub(super) fn check_backup_quota(&self, project: &Project, size_bytes: u64) -> Result<(), Refusal> {
        self.check_backups_quota(project, &[size_bytes])
    }

    /// Refuses several backups that together would go over the limits of their project.
    pub(super) fn check_backups_quota(&self, project: &Project, sizes_bytes: &[u64]) -> Result<(), Refusal> {
        let BackupUse { count, gigabytes } = self.backup_use(&project.name);
        if exceeds(project.quota.backups, count + sizes_bytes.len() as u64) {
            let sentence = format!("Maximum number of backups allowed ({}) exceeded", project.quota.backups);
            return Err(Refusal::new(RefusalKind::VolumeBackupLimitExceeded, sentence));
        }
        let requested: u64 = sizes_bytes.iter().map(|bytes| gib_rounded_up(*bytes)).sum();
        match exceeds(project.quota.backup_gigabytes, gigabytes + requested) {
            true => Err(too_many_backup_gigabytes(project, requested, gigabytes)),
            false => Ok(()),
        }
    }

    /// Refuses a backup that is counted already, and turns out to be larger by some gigabytes.
    pub(super) fn check_backup_growth(
        &self,
        project: &Project,
        more: u64,
        size_bytes: u64,
    ) -> Result<(), Refusal> {
        let gigabytes = self.backup_use(&project.name).gigabytes;
        let requested = gib_rounded_up(size_bytes);
        match exceeds(project.quota.backup_gigabytes, gigabytes + more) {
            true => Err(too_many_backup_gigabytes(project, requested, gigabytes + more - requested)),
            false => Ok(()),
        }
    }

    /// Counts the backups of a project, in whatever state they are.
    pub fn backup_use(&self, project: &ProjectName) -> BackupUse {
        let all = self.repository.catalog().all();
        let own = all.iter().filter(|record| record.project == *project && !record.holds_nothing());
        own.fold(BackupUse::default(), |used, record| BackupUse {
            count: used.count + 1,
            gigabytes: used.gigabytes + gib_rounded_up(record.size_bytes),
        })
    }

    /// Counts the volumes of a project and their sizes: asks its sources for each volume, as long as they take.
    pub fn volume_use(&self, project: &Project) -> Result<VolumeUse, Refusal> {
        self.count_volumes(project, Sizes::Counted)
    }

    fn count_volumes(&self, project: &Project, sizes: Sizes) -> Result<VolumeUse, Refusal> {
        // Looked at before the sources are listed: what ends in between is counted by its name.
        let running = self.lock_targets().clone();
        let mut used = VolumeUse::default();
        for source in project.sources.iter().filter_map(|name| self.sources.get(name)) {
            let names = source.list()?;
            let to_come = running.iter().filter(|((of, name), target)| {
                of == source.name() && !names.contains(name) && !names.contains(&target.temporary_name)
            });
            for (_, target) in to_come {
                used.count += 1;
                used.gigabytes += gib_rounded_up(target.size_bytes);
            }
            used.count += names.len() as u64;
            for name in names.iter().filter(|_| sizes == Sizes::Counted) {
                let restoring = running
                    .iter()
                    .find(|((of, _), target)| of == source.name() && target.temporary_name == *name);
                used.gigabytes += match restoring {
                    // It may just be getting its size, or its name.
                    Some((_, target)) => gib_rounded_up(target.size_bytes),
                    None => gib_rounded_up(size_of(source.as_ref(), name)?),
                };
            }
        }
        Ok(used)
    }

    /// Refuses a new volume that would go over the limits of its project. All volumes in the project's sources
    /// count, and the ones that running restores are about to make.
    pub(super) fn check_volume_quota(&self, project: &Project, size_bytes: u64) -> Result<(), Refusal> {
        let quota = project.quota;
        if quota.volumes < 0 && quota.gigabytes < 0 {
            return Ok(());
        }
        let sizes = if quota.gigabytes < 0 { Sizes::LeftOut } else { Sizes::Counted };
        let VolumeUse { count, gigabytes } = self.count_volumes(project, sizes)?;
        if exceeds(quota.volumes, count + 1) {
            let sentence = format!("Maximum number of volumes allowed ({}) exceeded", quota.volumes);
            return Err(Refusal::new(RefusalKind::VolumeLimitExceeded, sentence));
        }
        let requested = gib_rounded_up(size_bytes);
        if exceeds(quota.gigabytes, gigabytes + requested) {
            let sentence = format!(
                "Requested volume or snapshot exceeds allowed gigabytes quota. Requested {requested}G, quota is {}G and {gigabytes}G has been consumed.",
                quota.gigabytes
            );
            return Err(Refusal::new(RefusalKind::VolumeSizeExceedsAvailableQuota, sentence));
        }
        Ok(())
    }
}

/// Returns a volume's size in bytes. One that was removed since the listing uses nothing, nor does one that cannot be made
/// sense of: it must not stop all restores.
fn size_of(source: &dyn Source, name: &VolumeName) -> Result<u64, SourceError> {
    match source.size_bytes(name) {
        Ok(bytes) => Ok(bytes),
        Err(error @ SourceError::Unavailable { .. }) => Err(error),
        Err(_) => Ok(0),
    }
}

fn too_many_backup_gigabytes(project: &Project, requested: u64, consumed: u64) -> Refusal {
    let sentence = format!(
        "Requested backup exceeds allowed Backup gigabytes quota. Requested {requested}G, quota is {}G and {consumed}G has been consumed.",
        project.quota.backup_gigabytes
    );
    Refusal::new(RefusalKind::VolumeBackupSizeExceedsAvailableQuota, sentence)
}

/// A negative limit is none.
fn exceeds(limit: i64, wanted: u64) -> bool {
    u64::try_from(limit).is_ok_and(|limit| wanted > limit)
}
