//! Quotas: checked before anything is made, while [`Operations::accepting`] is held.
//!
//! What is used is counted from the catalog and the sources each time, so nothing has to be given back.

use super::Operations;
use crate::catalog::Project;
use crate::types::{ProjectName, Refusal, RefusalKind, gib_rounded_up};

impl Operations {
    /// Refuses a backup that would go over the limits of its project.
    pub(super) fn check_backup_quota(&self, project: &Project, size_bytes: u64) -> Result<(), Refusal> {
        self.check_backups_quota(project, &[size_bytes])
    }

    /// Refuses several backups that together would go over the limits of their project.
    pub(super) fn check_backups_quota(&self, project: &Project, sizes_bytes: &[u64]) -> Result<(), Refusal> {
        let (count, gigabytes) = self.backups_of(&project.name);
        if exceeds(project.quota.backups, count + sizes_bytes.len() as u64) {
            let sentence = format!("Maximum number of backups allowed ({}) exceeded", project.quota.backups);
            return Err(Refusal::new(RefusalKind::VolumeBackupLimitExceeded, sentence));
        }
        let requested: u64 = sizes_bytes.iter().map(|bytes| gib_rounded_up(*bytes)).sum();
        if exceeds(project.quota.backup_gigabytes, gigabytes + requested) {
            let sentence = format!(
                "Requested backup exceeds allowed Backup gigabytes quota. Requested {requested}G, quota is {}G and {gigabytes}G has been consumed.",
                project.quota.backup_gigabytes
            );
            return Err(Refusal::new(RefusalKind::VolumeBackupSizeExceedsAvailableQuota, sentence));
        }
        Ok(())
    }

    fn backups_of(&self, project: &ProjectName) -> (u64, u64) {
        let all = self.repository.catalog().all();
        let own = all.iter().filter(|record| record.project == *project && !record.holds_nothing());
        own.fold((0, 0), |(count, gigabytes), record| {
            (count + 1, gigabytes + gib_rounded_up(record.size_bytes))
        })
    }

    /// Refuses a new volume that would go over the limits of its project. All volumes in the project's sources
    /// count, and the ones that running restores are about to make.
    pub(super) fn check_volume_quota(&self, project: &Project, size_bytes: u64) -> Result<(), Refusal> {
        let quota = project.quota;
        if quota.volumes < 0 && quota.gigabytes < 0 {
            return Ok(());
        }
        // Looked at before the sources are listed: what ends in between is counted by its name.
        let running = self.lock_targets().clone();
        let (mut count, mut gigabytes) = (0, 0);
        for source in project.sources.iter().filter_map(|name| self.sources.get(name)) {
            let names = source.list()?;
            let to_come = running.iter().filter(|((of, name), target)| {
                of == source.name() && !names.contains(name) && !names.contains(&target.temporary_name)
            });
            for (_, target) in to_come {
                count += 1;
                gigabytes += gib_rounded_up(target.size_bytes);
            }
            count += names.len() as u64;
            if quota.gigabytes >= 0 {
                for name in names {
                    let restoring = running.values().find(|target| target.temporary_name == name);
                    gigabytes += match restoring {
                        // It may just be getting its size, or its name.
                        Some(target) => gib_rounded_up(target.size_bytes),
                        // A volume that was removed since the listing uses nothing.
                        None => source.volume(&name).map_or(0, |volume| gib_rounded_up(volume.size_bytes)),
                    };
                }
            }
        }
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

/// A negative limit is none.
fn exceeds(limit: i64, wanted: u64) -> bool {
    u64::try_from(limit).is_ok_and(|limit| wanted > limit)
}
