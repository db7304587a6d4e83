//! What a backup leaves behind: its record when it ends badly, and the snapshots at the source.
//!
//! The snapshot of a volume's newest whole backup stays, as the base of the next incremental, and so do those
//! of backups that are being made. Every other snapshot of ours goes; others' are never touched.

use std::collections::HashSet;

use super::Operations;
use crate::catalog::{BackupRecord, BackupStatus, SnapshotReference};
use crate::jobs::{JobEnd, Stop};
use crate::source::{SnapshotInfo, Source};
use crate::types::{BackupId, Refusal, SnapshotName, VolumeName, sentence};

impl Operations {
    /// Puts right a backup whose job did not end well.
    pub(super) fn end_backup(&self, id: BackupId, end: &JobEnd) {
        let Some(record) = self.repository.catalog().get(id) else { return };
        match end {
            JobEnd::Failed(refusal) => self.fail_backup(&record, refusal.to_string()),
            JobEnd::Stopped(Stop::Cancelled) => {
                // A manifest that could not be removed is known by the record alone.
                if self.remove_own_snapshot(&record) && record.retired_manifests.is_empty() {
                    self.forget_backup(id);
                } else {
                    self.forget_later(id);
                }
            }
            JobEnd::Stopped(Stop::Shutdown) if record.snapshot.is_some() => {
                // Its snapshot outlives us: the next start goes on with it.
                tracing::info!(backup = %id, "stopped; it is resumed at the next start");
            }
            JobEnd::Stopped(Stop::Shutdown) => {
                let reason = "the daemon was stopped, and the volume's state of that moment is gone with it";
                self.fail_backup(&record, reason.to_owned());
            }
        }
    }

    /// Marks a backup as failed and removes its snapshot.
    pub(super) fn fail_backup(&self, record: &BackupRecord, reason: String) {
        tracing::warn!(backup = %record.id, volume = %record.volume_name, reason, "the backup failed");
        self.remove_own_snapshot(record);
        let updated = self.repository.catalog().update(record.id, |record| {
            // One that is being deleted stays so.
            if record.status == BackupStatus::Creating {
                record.status = BackupStatus::Error;
                record.fail_reason = Some(reason);
            }
            record.snapshot = None;
        });
        if let Err(error) = updated {
            tracing::error!(backup = %record.id, error = sentence(&error), "the backup cannot be marked as failed");
        }
    }

    /// Removes the record of a backup that is not to be.
    pub(super) fn forget_backup(&self, id: BackupId) {
        if let Err(error) = self.repository.catalog().remove(id) {
            tracing::error!(backup = %id, error = sentence(&error), "the record of a cancelled backup cannot be removed");
        }
    }

    /// Takes a backup that is not to be out of sight. Its record says that there is a snapshot to be removed: the next
    /// start does that.
    fn forget_later(&self, id: BackupId) {
        let catalog = self.repository.catalog();
        match catalog.update(id, |record| record.status = BackupStatus::Deleting) {
            Ok(_) => catalog.hide(id),
            Err(error) => {
                tracing::error!(backup = %id, error = sentence(&error), "the record of a cancelled backup cannot be changed");
            }
        }
    }

    /// Returns whether there is none any more.
    fn remove_own_snapshot(&self, record: &BackupRecord) -> bool {
        // A record that calls another one ours is none that amberfs wrote.
        let is_ours = |snapshot: &&SnapshotReference| snapshot.ours && self.is_own_name(&snapshot.name);
        let Some(reference) = record.snapshot.as_ref().filter(is_ours) else { return true };
        let source = self.sources.get(&record.source);
        source.is_none_or(|source| self.remove_snapshot(source.as_ref(), &record.volume_name, reference))
    }

    /// Removes a snapshot of ours and says whether it is gone; a failure is told and otherwise harmless, the next
    /// backup tries again.
    pub(super) fn remove_snapshot(
        &self,
        source: &dyn Source,
        volume: &VolumeName,
        snapshot: &SnapshotReference,
    ) -> bool {
        let info = SnapshotInfo {
            name: snapshot.name.clone(),
            id: snapshot.id,
            created_at: snapshot.created_at.to_system_time(),
            size_bytes: snapshot.size_bytes,
        };
        let removed = source.remove_snapshot(volume, &info);
        if let Err(error) = &removed {
            tracing::warn!(volume = %volume, snapshot = %info.name, error = sentence(error), "a snapshot cannot be removed");
        }
        removed.is_ok()
    }

    /// Removes the snapshots of a backup's volume that nobody needs any more.
    pub(super) fn clean_up_snapshots_of(&self, id: BackupId) {
        let result = self.record(id).and_then(|record| self.clean_up_snapshots(&record));
        if let Err(refusal) = result {
            tracing::warn!(backup = %id, %refusal, "old snapshots could not be removed; the next backup tries again");
        }
    }

    pub(super) fn clean_up_snapshots(&self, of: &BackupRecord) -> Result<(), Refusal> {
        let source = self.source(of)?;
        source.finish_removals(&of.volume_name, &self.snapshot_prefix())?;
        let there = source.snapshots(&of.volume_name)?;
        let needed = self.needed_snapshots(of, source.as_ref());
        for snapshot in there {
            if self.is_own_name(&snapshot.name) && !needed.contains(&snapshot.name) {
                source.remove_snapshot(&of.volume_name, &snapshot)?;
                tracing::debug!(volume = %of.volume_name, snapshot = %snapshot.name, "removed a snapshot that nobody needs");
            }
        }
        let catalog = self.repository.catalog();
        for record in catalog.of_volume_id(&of.source, &of.volume_id) {
            let gone = record.snapshot.as_ref().is_some_and(|held| held.ours && !needed.contains(&held.name));
            if gone {
                catalog.update(record.id, |record| record.snapshot = None)?;
            }
        }
        Ok(())
    }

    /// Returns the names of our snapshots that have to stay on a volume.
    fn needed_snapshots(&self, of: &BackupRecord, source: &dyn Source) -> HashSet<SnapshotName> {
        let catalog = self.repository.catalog();
        // Another volume may have the name by now, and its backups need what is on it.
        let mut records = catalog.of_volume_id(&of.source, &of.volume_id);
        records.extend(catalog.of_volume(&of.source, &of.volume_name));
        records.sort_by_key(|record| (record.data_timestamp, record.id));
        let creating = records.iter().filter(|record| record.status == BackupStatus::Creating);
        let mut needed: HashSet<_> =
            creating.clone().filter_map(|record| self.snapshot_name(record.id).ok()).collect();
        // Of one whose record cannot be read, it is what a repair takes its data from.
        needed.extend(catalog.unreadable().into_iter().filter_map(|id| self.snapshot_name(id).ok()));
        // The source is asked what changed since the parent's, for as long as the backup is being made.
        let parents = creating.filter_map(|record| catalog.get(record.parent_id?));
        needed.extend(parents.filter_map(|parent| Some(parent.snapshot.as_ref()?.name.clone())));
        if source.tracks_changes() {
            let mut projects = HashSet::new();
            // Newest first: the first whole one of each project is the parent of the project's next incremental. Of one
            // that is damaged and newer, the snapshot may be all that has its data.
            for record in records.iter().rev().filter(|record| record.has_image()) {
                let volume = (&record.project, &record.volume_id);
                if !projects.contains(&volume) {
                    needed.extend(record.snapshot.iter().map(|snapshot| snapshot.name.clone()));
                }
                if record.is_whole() {
                    projects.insert(volume);
                }
            }
        }
        needed
    }
}
