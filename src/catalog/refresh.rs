//! What the records are now. Whoever writes to a repository changes its catalog itself; whoever only reads beside a
//! writer looks again from time to time. Both begin with a first look.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError};

use super::{BackupRecord, Catalog, CatalogError, DELETED};
use crate::format::{FormatError, document};
use crate::objects::{ObjectError, ObjectKind, ObjectName, ObjectStamp, ObjectStore};
use crate::types::BackupId;

/// What was found of the records when they were last looked at.
#[derive(Default)]
pub(super) struct Seen {
    stamps: HashMap<BackupId, ObjectStamp>,
    unreadable: BTreeSet<BackupId>,
}

/// What differs between the records and what the catalog shows.
#[derive(Default)]
pub struct RecordChanges {
    changed: Vec<(BackupRecord, ObjectStamp)>,
    /// With their stamps where there is no use in trying again.
    unreadable: Vec<(BackupId, Option<ObjectStamp>)>,
    gone: Vec<BackupId>,
}

impl RecordChanges {
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.unreadable.is_empty() && self.gone.is_empty()
    }
}

impl Catalog {
    /// Reads the records that are new or changed since the last look, and finds out which are gone.
    ///
    /// One that cannot be read is reported, once, and left as it was; the others are not affected.
    pub fn look(&self) -> Result<RecordChanges, CatalogError> {
        let mut changes = RecordChanges::default();
        let mut there = BTreeSet::new();
        let entries = self.objects.list(ObjectKind::Record)?;
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in entries {
            let ObjectName::Record(id) = entry.name else { continue };
            there.insert(id);
            if seen.stamps.get(&id) == Some(&entry.stamp) {
                continue;
            }
            match read_record(self.objects.as_ref(), id) {
                Ok(record) => changes.changed.push((record, entry.stamp)),
                // Removed since it was listed: the next look finds it gone.
                Err(CatalogError::Object(ObjectError::Missing { .. })) => {}
                Err(error) => {
                    if !seen.unreadable.contains(&id) {
                        report(id, &error);
                    }
                    let is_final = matches!(error, CatalogError::Format { .. });
                    changes.unreadable.push((id, is_final.then_some(entry.stamp)));
                }
            }
        }
        drop(seen);
        changes.gone = self.read().by_id.keys().filter(|id| !there.contains(id)).copied().collect();
        self.forget_unreadable(&there);
        Ok(changes)
    }

    /// One that could not be read and is gone stands in nobody's way any more.
    fn forget_unreadable(&self, there: &BTreeSet<BackupId>) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.unreadable.retain(|id| there.contains(id));
        seen.stamps.retain(|id, _| there.contains(id));
    }

    /// Shows what a look has found: all of it at once, so that no backup is seen before the one that it leans on.
    pub fn take_in(&self, changes: RecordChanges) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, stamp) in changes.unreadable {
            seen.unreadable.insert(id);
            seen.stamps.extend(stamp.map(|stamp| (id, stamp)));
        }
        let mut changed = Vec::with_capacity(changes.changed.len());
        for (record, stamp) in changes.changed {
            seen.unreadable.remove(&record.id);
            seen.stamps.insert(record.id, stamp);
            self.tell_change(&record);
            changed.push(Arc::new(record));
        }
        drop(seen);
        let gone: Vec<_> = changes.gone.into_iter().filter_map(|id| self.get(id)).collect();
        gone.iter().for_each(|record| self.tell(record, DELETED));
        let mut backups = self.backups.write().unwrap_or_else(PoisonError::into_inner);
        gone.iter().for_each(|record| backups.remove(record.id));
        changed.into_iter().for_each(|record| backups.insert(record));
    }

    /// Returns the backups whose records could not be read when they were last looked at.
    pub fn unreadable(&self) -> Vec<BackupId> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.unreadable.iter().copied().collect()
    }
}

fn report(id: BackupId, error: &CatalogError) {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    tracing::error!(backup = %id, cause, "{error}: the backup is not shown as it is now");
}

/// Reads one record from the repository.
pub fn read_record(objects: &dyn ObjectStore, id: BackupId) -> Result<BackupRecord, CatalogError> {
    let bytes = objects.read_whole(ObjectName::Record(id), document::LENGTH_MAX)?;
    let record = BackupRecord::decode(&bytes).map_err(|source| CatalogError::Format { id, source })?;
    if record.id != id {
        let why = format!("it is the record of backup {}", record.id);
        return Err(CatalogError::Format {
            id,
            source: FormatError::Malformed { what: "backup record", why },
        });
    }
    Ok(record)
}
