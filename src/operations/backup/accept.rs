//! Takes a backup command: everything that can be refused is refused here, and the snapshot is made.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use super::super::select::VolumeSelection;
use super::super::{Operations, Requester, WithoutParent};
use super::run::BackupJob;
use super::{BackupAccepted, BackupRequest};
use crate::catalog::{BackupRecord, BackupStatus, DiffCheck, SnapshotReference};
use crate::jobs::{JobSubject, Slot};
use crate::source::{Consistency, InUse, Snapshot};
use crate::sysio::clock;
use crate::types::{BackupId, Refusal, RefusalKind, SnapshotName, Timestamp, gib_rounded_up, sentence};

/// A longer one would not fit into a record with everything else at its longest.
const TEXT_LENGTH_MAX: usize = 4096;
const PROPERTIES_MAX: usize = 256;

impl Operations {
    /// Makes the snapshot and queues the job that copies it.
    pub fn backup(
        self: &Arc<Self>,
        requester: &Requester,
        request: &BackupRequest,
    ) -> Result<BackupAccepted, Refusal> {
        self.check_writable()?;
        check_texts(request.name.as_deref(), request.description.as_deref(), &request.properties)?;
        let selection = self.select_volume(requester, &request.volume)?;
        let id = BackupId::random();
        self.reserve(id, requester, request, &selection)?;
        match self.snapshot_and_submit(id, request, &selection) {
            Ok(accepted) => Ok(accepted),
            Err(refusal) => {
                // Refused: nothing has been changed.
                self.forget_backup(id);
                Err(refusal)
            }
        }
    }

    /// Checks that a backup would be refused for nothing that can be known without making its snapshot.
    pub fn check_backup(&self, requester: &Requester, request: &BackupRequest) -> Result<(), Refusal> {
        self.check_writable()?;
        check_texts(request.name.as_deref(), request.description.as_deref(), &request.properties)?;
        let selection = self.select_volume(requester, &request.volume)?;
        let project = self.project_of(requester, selection.source.name())?;
        self.check_backup_quota(project, selection.volume.size_bytes)?;
        if let Some(snapshot) = &request.snapshot {
            self.open_named_snapshot(snapshot, &selection)?;
        } else if selection.volume.in_use && !request.force {
            return Err(in_use(&selection));
        }
        Ok(())
    }

    /// Puts the backup into the catalog as `creating`, so that it counts in the quota.
    fn reserve(
        &self,
        id: BackupId,
        requester: &Requester,
        request: &BackupRequest,
        selection: &VolumeSelection,
    ) -> Result<(), Refusal> {
        let VolumeSelection { source, volume } = selection;
        let _accepting = self.accepting.lock().unwrap_or_else(PoisonError::into_inner);
        let project = self.project_of(requester, source.name())?;
        self.check_backup_quota(project, volume.size_bytes)?;
        let now = clock::now();
        self.repository.catalog().insert(BackupRecord {
            id,
            name: request.name.clone(),
            description: request.description.clone(),
            project: project.name.clone(),
            status: BackupStatus::Creating,
            fail_reason: None,
            volume_id: volume.id.clone(),
            volume_name: volume.name.clone(),
            source: source.name().clone(),
            size_bytes: volume.size_bytes,
            stored_bytes: 0,
            object_count: 0,
            availability_zone: None,
            parent_id: None,
            snapshot_id: None,
            created_at: now,
            updated_at: now,
            data_timestamp: now,
            properties: request.properties.clone(),
            volume_metadata: volume.metadata.clone(),
            image_sha256: None,
            last_verified_at: None,
            allocated_bytes: 0,
            manifest: None,
            snapshot: None,
            restore_target: None,
            protected: request.protect,
            retired_manifests: Vec::new(),
            diff_check: DiffCheck::default(),
            damage: None,
        })?;
        Ok(())
    }

    fn snapshot_and_submit(
        self: &Arc<Self>,
        id: BackupId,
        request: &BackupRequest,
        selection: &VolumeSelection,
    ) -> Result<BackupAccepted, Refusal> {
        let (snapshot, snapshot_id) = match &request.snapshot {
            Some(name) => {
                let snapshot = self.open_named_snapshot(name, selection)?;
                let snapshot_id = format!("{}@{}", selection.volume.name, snapshot.info().name);
                (snapshot, Some(snapshot_id))
            }
            None => (self.make_snapshot(id, request, selection)?, None),
        };
        let ours = snapshot_id.is_none();
        let reference = reference_to(snapshot.as_ref(), ours);
        let result = self.complete_record(id, request, snapshot.as_ref(), &reference, snapshot_id);
        let result = result.and_then(|record| {
            let accepted = self.submit_backup(&record, Some(snapshot))?;
            Ok(accepted)
        });
        if result.is_err()
            && ours
            && let Some(reference) = reference
        {
            self.remove_snapshot(selection.source.as_ref(), &selection.volume.name, &reference);
        }
        result
    }

    fn make_snapshot(
        &self,
        id: BackupId,
        request: &BackupRequest,
        selection: &VolumeSelection,
    ) -> Result<Box<dyn Snapshot>, Refusal> {
        let VolumeSelection { source, volume } = selection;
        let name = self.snapshot_name(id)?;
        let in_use = if request.force { InUse::Accept } else { InUse::Refuse };
        Ok(source.create_snapshot(&volume.name, &name, in_use)?)
    }

    /// Opens a snapshot that the user names: of this volume, as `SNAPSHOT` or `VOLUME@SNAPSHOT`.
    fn open_named_snapshot(
        &self,
        text: &str,
        selection: &VolumeSelection,
    ) -> Result<Box<dyn Snapshot>, Refusal> {
        let VolumeSelection { source, volume } = selection;
        let invalid = |sentence: String| Refusal::new(RefusalKind::InvalidSnapshot, sentence);
        let name: SnapshotName = text.parse().map_err(|error| invalid(format!("{error}")))?;
        let error = match source.open_snapshot(&volume.name, &name) {
            Ok(snapshot) => return Ok(snapshot),
            Err(error) => error,
        };
        let Some((of_volume, snapshot)) = text.rsplit_once('@') else { return Err(error.into()) };
        let qualified = format!("{}/{}", source.name(), volume.name);
        if of_volume != volume.name.as_str() && of_volume != qualified {
            let sentence = format!("snapshot {text:?} is of volume {of_volume:?}, not of {qualified:?}");
            return Err(invalid(sentence));
        }
        let name: SnapshotName = snapshot.parse().map_err(|error| invalid(format!("{error}")))?;
        Ok(source.open_snapshot(&volume.name, &name)?)
    }

    /// Adds to the record what the snapshot says, and the parent.
    fn complete_record(
        &self,
        id: BackupId,
        request: &BackupRequest,
        snapshot: &dyn Snapshot,
        reference: &Option<SnapshotReference>,
        snapshot_id: Option<String>,
    ) -> Result<Arc<BackupRecord>, Refusal> {
        let catalog = self.repository.catalog();
        let data_timestamp = Timestamp::from_system_time(snapshot.info().created_at);
        // The parent that is found must not be deleted before the record says that it is one.
        let _accepting = self.accepting.lock().unwrap_or_else(PoisonError::into_inner);
        let record = catalog.get(id).ok_or(crate::catalog::CatalogError::NotFound { id })?;
        self.check_snapshot_quota(&record, snapshot.info().size_bytes)?;
        let parent = if request.incremental { self.parent_of(&record, data_timestamp) } else { None };
        if request.incremental && parent.is_none() && self.options.without_parent == WithoutParent::Refuse {
            let sentence = format!(
                "volume {:?} has no available backup that an incremental one could lean on; take a full one first",
                record.volume_name.as_str()
            );
            return Err(Refusal::new(RefusalKind::InvalidInput, sentence));
        }
        let record = catalog.update(id, |record| {
            record.size_bytes = snapshot.info().size_bytes;
            record.volume_metadata = snapshot.metadata().clone();
            record.data_timestamp = data_timestamp;
            record.parent_id = parent;
            record.snapshot_id = snapshot_id;
            record.snapshot.clone_from(reference);
        })?;
        Ok(record)
    }

    /// A snapshot may be larger than the volume is now, which the quota was checked for.
    fn check_snapshot_quota(&self, record: &BackupRecord, size_bytes: u64) -> Result<(), Refusal> {
        let more = gib_rounded_up(size_bytes).saturating_sub(gib_rounded_up(record.size_bytes));
        match self.project_named(&record.project) {
            Some(project) if more > 0 => self.check_backup_growth(project, more, size_bytes),
            _ => Ok(()),
        }
    }

    /// Rule 3: the volume's latest available backup of the same project whose data is older.
    fn parent_of(&self, record: &BackupRecord, data_timestamp: Timestamp) -> Option<BackupId> {
        let candidates = self.repository.catalog().of_volume_id(&record.source, &record.volume_id);
        let parent = candidates.into_iter().rfind(|candidate| {
            candidate.is_whole()
                && candidate.project == record.project
                && candidate.data_timestamp < data_timestamp
                && self.can_be_leaned_on(candidate.id)
        });
        parent.map(|parent| parent.id)
    }

    /// Is its chain whole? A backup that leans on one that cannot be opened could not be opened either.
    fn can_be_leaned_on(&self, id: BackupId) -> bool {
        let opened = self.repository.image(id);
        if let Err(error) = &opened {
            let cause = sentence(error);
            tracing::warn!(backup = %id, cause, "the backup cannot be opened: no new one leans on it");
        }
        opened.is_ok()
    }

    /// Queues the job of a `creating` backup. Without a snapshot it is one that the daemon before this one began: the
    /// job has the number that it had, and opens the snapshot in the record.
    pub(in super::super) fn submit_backup(
        self: &Arc<Self>,
        record: &BackupRecord,
        snapshot: Option<Box<dyn Snapshot>>,
    ) -> Result<BackupAccepted, Refusal> {
        let subject = JobSubject {
            backup: Some(record.id.to_string()),
            volume: Some(format!("{}/{}", record.source, record.volume_name)),
            project: record.project.to_string(),
        };
        let is_resumed = snapshot.is_none();
        let job = BackupJob::new(Arc::clone(self), record.id, snapshot);
        let job = if is_resumed {
            self.jobs.resume("backup", subject, Slot::Operation, move |control| job.run(control))?
        } else {
            self.jobs.submit("backup", subject, Slot::Operation, move |control| job.run(control))?
        };
        Ok(BackupAccepted { backup: record.id, job, is_incremental: record.is_incremental() })
    }

    /// The name of our snapshot for a backup: it says whose it is, so that nobody else's is ever removed.
    pub(in super::super) fn snapshot_name(&self, id: BackupId) -> Result<SnapshotName, Refusal> {
        let name = format!("{}{id}", self.snapshot_prefix());
        name.parse().map_err(|error| Refusal::new(RefusalKind::Failed, format!("{error}")))
    }

    /// Is this the name of a snapshot that this repository has made?
    pub(in super::super) fn is_own_name(&self, name: &SnapshotName) -> bool {
        name.as_str().starts_with(&self.snapshot_prefix())
    }

    /// What the names of this repository's snapshots start with.
    pub(in super::super) fn snapshot_prefix(&self) -> String {
        let repository = self.repository.header().id.to_string();
        let short = repository.get(..8).unwrap_or(&repository);
        format!("amberfs.{short}.")
    }
}

fn in_use(selection: &VolumeSelection) -> Refusal {
    let VolumeSelection { source, volume } = selection;
    let sentence = format!(
        "volume {:?} in source {} is open for writing; --force backs it up as a power cut would leave it",
        volume.name.as_str(),
        source.name()
    );
    Refusal::new(RefusalKind::VolumeInUse, sentence)
}

/// Returns what can be opened again after a restart; nothing for a snapshot that lives in this process only.
fn reference_to(snapshot: &dyn Snapshot, ours: bool) -> Option<SnapshotReference> {
    let info = snapshot.info();
    (snapshot.consistency() == Consistency::Frozen).then(|| SnapshotReference {
        name: info.name.clone(),
        id: info.id,
        size_bytes: info.size_bytes,
        created_at: Timestamp::from_system_time(info.created_at),
        ours,
    })
}

/// Refuses names, descriptions and properties that a record cannot hold.
pub(in super::super) fn check_texts(
    name: Option<&str>,
    description: Option<&str>,
    properties: &BTreeMap<String, String>,
) -> Result<(), Refusal> {
    let refuse = |what: &str, limit: usize| {
        let sentence = format!("the {what} is longer than {limit} bytes");
        Err(Refusal::new(RefusalKind::InvalidInput, sentence))
    };
    if name.is_some_and(str::is_empty) {
        return Err(Refusal::new(RefusalKind::InvalidInput, "the name is empty"));
    }
    if name.is_some_and(|name| name.len() > TEXT_LENGTH_MAX) {
        return refuse("name", TEXT_LENGTH_MAX);
    }
    if description.is_some_and(|text| text.len() > TEXT_LENGTH_MAX) {
        return refuse("description", TEXT_LENGTH_MAX);
    }
    if properties.len() > PROPERTIES_MAX {
        let sentence = format!("there are more than {PROPERTIES_MAX} properties");
        return Err(Refusal::new(RefusalKind::InvalidInput, sentence));
    }
    if properties.iter().any(|(key, value)| key.len() + value.len() > TEXT_LENGTH_MAX / 2) {
        return refuse("longest property", TEXT_LENGTH_MAX / 2);
    }
    Ok(())
}
