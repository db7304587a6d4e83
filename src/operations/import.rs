//! Import: brings a backup back by its exported record, as long as its manifests and chunks are in the repository.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};

use super::access::not_authorized;
use super::backup::check_texts;
use super::depths::Depths;
use super::{Operations, Requester};
use crate::catalog::{BackupRecord, BackupStatus};
use crate::types::{BackupId, ByteRange, Refusal, RefusalKind};

impl Operations {
    /// Adds backups by their records, parents first, and returns their ids in the order of the records.
    pub fn import(
        self: &Arc<Self>,
        requester: &Requester,
        records: &[String],
    ) -> Result<Vec<BackupId>, Refusal> {
        self.check_writable()?;
        let _accepting = self.accepting.lock().unwrap_or_else(PoisonError::into_inner);
        let records = self.plan_import(requester, records)?;
        let ids = records.iter().map(|record| record.id).collect();
        let mut added: Vec<BackupId> = Vec::new();
        for record in parents_first(records) {
            let id = record.id;
            if let Err(refusal) = self.import_one(record) {
                // All or none. Nothing can lean on them yet but those that go before them.
                for id in added.iter().rev() {
                    self.repository.catalog().remove(*id)?;
                }
                return Err(refusal);
            }
            added.push(id);
        }
        Ok(ids)
    }

    /// Reads the records and checks all that does not need the data.
    fn plan_import(&self, requester: &Requester, texts: &[String]) -> Result<Vec<BackupRecord>, Refusal> {
        let catalog = self.repository.catalog();
        let mut ids = HashSet::new();
        let mut records = Vec::new();
        for text in texts {
            let record = BackupRecord::decode(format!("{text}\n").as_bytes());
            let record = record.map_err(|error| invalid(format!("the text is no intact record: {error}")))?;
            let id = record.id;
            if !requester.owns(&record.project) {
                return Err(not_authorized(format!("backup {id} does not belong to a project of yours")));
            }
            if catalog.get(id).is_some() || self.repository.has_record(id)? {
                let sentence = format!("backup {id} exists; it was left as it is");
                return Err(Refusal::new(RefusalKind::BackupExists, sentence));
            }
            if !ids.insert(id) {
                return Err(invalid(format!("backup {id} is there twice")));
            }
            check_texts(record.name.as_deref(), record.description.as_deref(), &record.properties)
                .map_err(|refusal| invalid(format!("the record of backup {id}: {}", refusal.sentence)))?;
            if record.manifest.is_none() {
                return Err(invalid(format!("backup {id} was not finished when its record was exported")));
            }
            records.push(record);
        }
        for record in &records {
            let parent = record.parent_id.filter(|parent| !ids.contains(parent));
            let is_going = |parent: &BackupRecord| {
                matches!(parent.status, BackupStatus::Deleting | BackupStatus::ErrorDeleting)
            };
            let stays = |parent: &BackupId| catalog.get(*parent).is_some_and(|parent| !is_going(&parent));
            if let Some(parent) = parent.filter(|parent| !stays(parent)) {
                return Err(invalid(format!(
                    "backup {} leans on backup {parent}, which is not there or being deleted; import that one too",
                    record.id
                )));
            }
        }
        self.check_import_quota(&records)?;
        Ok(records)
    }

    fn check_import_quota(&self, records: &[BackupRecord]) -> Result<(), Refusal> {
        let mut sizes: HashMap<_, Vec<u64>> = HashMap::new();
        for record in records {
            sizes.entry(&record.project).or_default().push(record.size_bytes);
        }
        for (name, sizes) in sizes {
            // A project that is not configured here has no limits here either.
            if let Some(project) = self.project_named(name) {
                self.check_backups_quota(project, &sizes)?;
            }
        }
        Ok(())
    }

    fn import_one(self: &Arc<Self>, record: BackupRecord) -> Result<(), Refusal> {
        let id = record.id;
        let image = self.check_data_is_there(&record).map_err(|refusal| invalid(refusal.sentence))?;
        let about = image.about()?;
        let original = BackupRecord::decode(&about).map_err(|error| {
            invalid(format!("the manifest of backup {id} holds no intact record: {error}"))
        })?;
        if image.size_bytes() != record.size_bytes || !original.is_of_same_backup(&record) {
            return Err(invalid(format!(
                "the record of backup {id} was altered: its manifest says otherwise"
            )));
        }
        let allocated_bytes = image.allocated_bytes(ByteRange::new(0, image.size_bytes()))?;
        self.repository.catalog().insert(BackupRecord {
            // Whatever was being done with it when it was exported is not being done here.
            status: BackupStatus::Available,
            fail_reason: None,
            restore_target: None,
            // Nobody here has verified it.
            image_sha256: None,
            last_verified_at: None,
            damage: None,
            allocated_bytes,
            // What is removed here is never what a text from outside names.
            retired_manifests: Vec::new(),
            ..record
        })?;
        Ok(())
    }
}

/// Orders records so that none comes before the one it leans on. Of those that lean on each other in a circle the manifests
/// will say that they were altered.
fn parents_first(mut records: Vec<BackupRecord>) -> Vec<BackupRecord> {
    let parents: HashMap<_, _> = records.iter().map(|record| (record.id, record.parent_id)).collect();
    let mut depths = Depths::default();
    records.sort_by_cached_key(|record| depths.of(record.id, |id| *parents.get(&id)?));
    records
}

fn invalid(sentence: String) -> Refusal {
    Refusal::new(RefusalKind::InvalidRecord, sentence)
}
