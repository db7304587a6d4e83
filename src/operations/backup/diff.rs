//! How far a source is believed when it says what has changed, and what follows when it was wrong.

use super::super::Operations;
use super::plan::Strategy;
use super::recheck::Recheck;
use crate::catalog::{BackupRecord, DiffCheck};
use crate::image::Image;
use crate::source::SnapshotInfo;
use crate::types::ByteRange;

/// So many backups of a volume remember that the source was wrong about it.
const REMEMBERED_BACKUPS: usize = 8;

/// What the backups of a volume before say of its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Suspicion {
    None,
    /// It was wrong lately: more is looked at.
    Suspected,
    /// It was wrong the last time: it is not asked.
    Convicted,
}

impl Operations {
    /// Returns what a backup begins with: the window of the rolling re-read goes on where the parent's ended.
    pub(super) fn diff_check_before(&self, record: &BackupRecord) -> DiffCheck {
        let parent = record.parent_id.and_then(|parent| self.repository.catalog().get(parent));
        let reread_until = parent.map_or(0, |parent| parent.diff_check.reread_until);
        DiffCheck { reread_until, misses: 0 }
    }

    /// Returns how an incremental backup is made that the source may say something about.
    pub(super) fn changes_strategy<'a>(
        &self,
        record: &BackupRecord,
        parent: &Image,
        base: &'a SnapshotInfo,
        check: &mut DiffCheck,
    ) -> Strategy<'a> {
        let suspicion = self.suspicion(record);
        if suspicion == Suspicion::Convicted {
            return Strategy::Compare;
        }
        let rechecks = self.options.diff_trust.rechecks(&Recheck {
            id: record.id,
            parent,
            size_bytes: record.size_bytes,
            window_start: check.reread_until,
            is_suspicious: suspicion == Suspicion::Suspected,
        });
        check.reread_until = rechecks.window_end();
        Strategy::Changes { base, rechecks }
    }

    fn suspicion(&self, record: &BackupRecord) -> Suspicion {
        let backups = self.repository.catalog().of_volume_id(&record.source, &record.volume_id);
        let before = backups
            .iter()
            .rev()
            .filter(|backup| backup.status.is_readable() && backup.data_timestamp < record.data_timestamp);
        let found = before.take(REMEMBERED_BACKUPS).position(|backup| backup.diff_check.misses > 0);
        match found {
            None => Suspicion::None,
            Some(0) => Suspicion::Convicted,
            Some(_) => Suspicion::Suspected,
        }
    }

    pub(super) fn report_missed_change(&self, record: &BackupRecord, missed: ByteRange) {
        let parent = record.parent_id.map(|parent| parent.to_string());
        tracing::error!(
            source = %record.source, volume = %record.volume_name, backup = %record.id, parent, start = missed.start(), end = missed.end(),
            "the source did not say that {missed} of the volume have changed, this time or for an earlier backup: everything is compared now, and the next time. This backup will be right; incremental ones between the last full backup and this one may hold older bytes there"
        );
    }
}
