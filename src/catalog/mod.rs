//! Which backups, chains, projects and quotas there are.
//!
//! A change is durable in the repository before anybody sees it here. The catalog is read from the records at the
//! start and from nowhere else, and again and again where another process writes them.

mod info;
mod project;
mod refresh;
mod retention;
mod select;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard};

pub use crate::format::damage::{BackupDamage, DamagedRanges};
pub use crate::format::record::{
    BackupRecord, BackupStatus, DiffCheck, ManifestReference, RestoreTarget, SnapshotReference,
};
pub use info::BackupInfo;
pub use project::{Project, Quota};
pub use refresh::{RecordChanges, read_record};
pub use retention::{
    Retention, RetentionAction, RetentionCandidate, RetentionDecision, RetentionReason, RetentionRule,
};

use refresh::Seen;

use crate::format::FormatError;
use crate::jobs::{BackupEvent, Event, EventObserver};
use crate::objects::{ObjectError, ObjectName, ObjectStore};
use crate::sysio::clock;
use crate::types::{BackupId, SourceName, VolumeId, VolumeName};

#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("no backup {id}")]
    NotFound { id: BackupId },

    /// The chain of a backup is not whole: its image cannot be read.
    #[error("backup {id} leans on backup {parent}, which is not there or not readable")]
    BrokenChain { id: BackupId, parent: BackupId },

    #[error("the record of backup {id}")]
    Format {
        id: BackupId,
        #[source]
        source: FormatError,
    },

    #[error(transparent)]
    Object(#[from] ObjectError),
}

/// The longest chain that is followed: a bound for whoever reads a repository that somebody else wrote.
const CHAIN_LENGTH_MAX: usize = 100_000;

/// What is told of a backup that is gone. Its record never says so.
const DELETED: &str = "deleted";

pub struct Catalog {
    objects: Arc<dyn ObjectStore>,
    backups: RwLock<Backups>,
    /// What the records were at the last look. Of those that could not be read it is not known what they lean on.
    seen: Mutex<Seen>,
    /// Serialises changes: read, modify, write durably, show.
    changing: Mutex<()>,
    /// Told of each new state when it is durable and before anybody sees it.
    observer: OnceLock<Arc<dyn EventObserver>>,
}

#[derive(Default)]
struct Backups {
    by_id: BTreeMap<BackupId, Arc<BackupRecord>>,
    by_volume: HashMap<(SourceName, VolumeName), BTreeSet<BackupId>>,
    children: HashMap<BackupId, BTreeSet<BackupId>>,
}

impl Backups {
    fn insert(&mut self, record: Arc<BackupRecord>) {
        self.remove(record.id);
        let volume = (record.source.clone(), record.volume_name.clone());
        self.by_volume.entry(volume).or_default().insert(record.id);
        if let Some(parent) = record.parent_id.filter(|_| !record.holds_nothing()) {
            self.children.entry(parent).or_default().insert(record.id);
        }
        self.by_id.insert(record.id, record);
    }

    fn remove(&mut self, id: BackupId) {
        let Some(record) = self.by_id.remove(&id) else { return };
        let volume = (record.source.clone(), record.volume_name.clone());
        if let Some(ids) = self.by_volume.get_mut(&volume) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_volume.remove(&volume);
            }
        }
        if let Some(parent) = record.parent_id
            && let Some(children) = self.children.get_mut(&parent)
        {
            children.remove(&id);
            if children.is_empty() {
                self.children.remove(&parent);
            }
        }
    }
}

impl Catalog {
    /// Reads all records. One that cannot be read is reported and left out; the others are not affected.
    pub fn load(objects: Arc<dyn ObjectStore>) -> Result<Self, CatalogError> {
        let catalog = Self {
            objects,
            backups: RwLock::default(),
            seen: Mutex::default(),
            changing: Mutex::new(()),
            observer: OnceLock::new(),
        };
        catalog.take_in(catalog.look()?);
        Ok(catalog)
    }

    /// Sets who is told of each change of a backup's state from now on. The first one stays.
    pub fn set_observer(&self, observer: Arc<dyn EventObserver>) {
        // A failure means that there is one already.
        let _first = self.observer.set(observer);
    }

    fn read(&self) -> RwLockReadGuard<'_, Backups> {
        self.backups.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, id: BackupId) -> Option<Arc<BackupRecord>> {
        self.read().by_id.get(&id).cloned()
    }

    /// Returns all backups, in the order of their ids.
    pub fn all(&self) -> Vec<Arc<BackupRecord>> {
        self.read().by_id.values().cloned().collect()
    }

    pub fn count(&self) -> usize {
        self.read().by_id.len()
    }

    /// Returns the backups of a volume by its name, oldest data first.
    pub fn of_volume(&self, source: &SourceName, volume: &VolumeName) -> Vec<Arc<BackupRecord>> {
        let backups = self.read();
        let ids = backups.by_volume.get(&(source.clone(), volume.clone()));
        let mut records: Vec<_> =
            ids.into_iter().flatten().filter_map(|id| backups.by_id.get(id).cloned()).collect();
        records.sort_by_key(|record| (record.data_timestamp, record.id));
        records
    }

    /// Returns the volumes that have backups, by name.
    pub fn volumes(&self) -> Vec<(SourceName, VolumeName)> {
        self.read().by_volume.keys().cloned().collect()
    }

    /// Returns the whole backup of a volume whose data is the newest.
    pub fn latest(&self, source: &SourceName, volume: &VolumeName) -> Option<Arc<BackupRecord>> {
        self.of_volume(source, volume).into_iter().rfind(|record| record.is_whole())
    }

    /// Returns the backups of one volume of a source, by the volume's id, oldest data first.
    pub fn of_volume_id(&self, source: &SourceName, volume: &VolumeId) -> Vec<Arc<BackupRecord>> {
        let backups = self.read();
        let mut records: Vec<_> = backups
            .by_id
            .values()
            .filter(|record| record.source == *source && record.volume_id == *volume)
            .cloned()
            .collect();
        records.sort_by_key(|record| (record.data_timestamp, record.id));
        records
    }

    /// Returns the backups that lean on this one directly.
    pub fn dependents(&self, id: BackupId) -> Vec<Arc<BackupRecord>> {
        let backups = self.read();
        let ids = backups.children.get(&id).into_iter().flatten();
        ids.filter_map(|id| backups.by_id.get(id).cloned()).collect()
    }

    pub fn has_dependents(&self, id: BackupId) -> bool {
        self.read().children.contains_key(&id)
    }

    /// Returns the manifests that make up a backup's image, its own first, a full backup's last.
    pub fn chain(&self, id: BackupId) -> Result<Vec<ManifestReference>, CatalogError> {
        let backups = self.read();
        let mut record = backups.by_id.get(&id).ok_or(CatalogError::NotFound { id })?;
        let mut chain = Vec::new();
        // A longer one goes round in a circle.
        let length_max = CHAIN_LENGTH_MAX.min(backups.by_id.len());
        loop {
            let broken = || CatalogError::BrokenChain { id, parent: record.id };
            let manifest = record.manifest.as_ref().filter(|_| chain.len() < length_max);
            chain.push(manifest.ok_or_else(broken)?.clone());
            let Some(parent) = record.parent_id else { return Ok(chain) };
            record = backups.by_id.get(&parent).ok_or(CatalogError::BrokenChain { id, parent })?;
        }
    }

    /// Adds a backup, durably.
    pub fn insert(&self, record: BackupRecord) -> Result<Arc<BackupRecord>, CatalogError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.publish(record)
    }

    /// Changes a backup, durably; `updated_at` is set.
    pub fn update(
        &self,
        id: BackupId,
        change: impl FnOnce(&mut BackupRecord),
    ) -> Result<Arc<BackupRecord>, CatalogError> {
        self.try_update(id, |record| {
            change(record);
            Ok(())
        })
    }

    /// Changes a backup, durably, unless `change` refuses: what that looks at in the catalog cannot change meanwhile.
    pub fn try_update<E: From<CatalogError>>(
        &self,
        id: BackupId,
        change: impl FnOnce(&mut BackupRecord) -> Result<(), E>,
    ) -> Result<Arc<BackupRecord>, E> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let record = self.get(id).ok_or(CatalogError::NotFound { id })?;
        let mut record = BackupRecord::clone(&record);
        change(&mut record)?;
        record.updated_at = clock::now();
        Ok(self.publish(record)?)
    }

    /// Reads a backup's record again and compares it with what is known here.
    pub fn check_stored(&self, id: BackupId) -> Result<(), CatalogError> {
        // Nobody replaces it meanwhile.
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.get(id).ok_or(CatalogError::NotFound { id })?;
        self.objects.forget_kept(ObjectName::Record(id));
        if read_record(self.objects.as_ref(), id)? == *known {
            return Ok(());
        }
        let why = "it is another one than it was when it was written".to_owned();
        Err(CatalogError::Format { id, source: FormatError::Malformed { what: "backup record", why } })
    }

    fn publish(&self, record: BackupRecord) -> Result<Arc<BackupRecord>, CatalogError> {
        let id = record.id;
        let text = record.encode().map_err(|source| CatalogError::Format { id, source })?;
        self.objects.replace(ObjectName::Record(id), text.as_bytes())?;
        self.tell_change(&record);
        let record = Arc::new(record);
        self.backups.write().unwrap_or_else(PoisonError::into_inner).insert(Arc::clone(&record));
        Ok(record)
    }

    /// Tells of a record that is to be shown, if it brings another state.
    fn tell_change(&self, record: &BackupRecord) {
        if self.get(record.id).is_none_or(|before| before.status != record.status) {
            self.tell(record, record.status.as_str());
        }
    }

    fn tell(&self, record: &BackupRecord, status: &'static str) {
        let Some(observer) = self.observer.get() else { return };
        observer.observe(Event::Backup(&BackupEvent {
            backup: record.id.to_string(),
            status,
            project: record.project.to_string(),
            volume: format!("{}/{}", record.source, record.volume_name),
            name: record.name.clone(),
            fail_reason: record.fail_reason.clone(),
        }));
    }

    /// Takes a backup out of sight; its record stays, for whoever goes on with it after a restart.
    pub fn hide(&self, id: BackupId) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.forget(id);
    }

    /// Removes a backup's record, durably.
    pub fn remove(&self, id: BackupId) -> Result<(), CatalogError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.objects.remove(ObjectName::Record(id))?;
        self.forget(id);
        Ok(())
    }

    fn forget(&self, id: BackupId) {
        if let Some(record) = self.get(id) {
            self.tell(&record, DELETED);
        }
        self.backups.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}
