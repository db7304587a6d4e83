//! Set and reset-state: what may be changed of a backup by hand. Its data never changes.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use super::backup::check_texts;
use super::{Operations, Requester};
use crate::catalog::{BackupRecord, BackupStatus};
use crate::types::{BackupId, Refusal, RefusalKind};

/// What a user asks for. `None` leaves a field as it is, an empty text takes it away.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SetRequest {
    pub backup: String,
    pub name: Option<String>,
    pub description: Option<String>,
    /// All properties go before some are added.
    pub clear_properties: bool,
    pub properties: BTreeMap<String, String>,
    pub removed_properties: Vec<String>,
    pub protected: Option<bool>,
}

impl Operations {
    /// Checks that a change would not be refused now.
    pub fn check_set(&self, requester: &Requester, request: &SetRequest) -> Result<(), Refusal> {
        self.check_writable()?;
        let record = self.select_backup(requester, &request.backup)?;
        apply(request, &mut BackupRecord::clone(&record))
    }

    /// Changes the fields of a backup that are the user's own.
    pub fn set(&self, requester: &Requester, request: &SetRequest) -> Result<BackupId, Refusal> {
        self.check_writable()?;
        let record = self.select_backup(requester, &request.backup)?;
        self.repository.catalog().try_update(record.id, |record| apply(request, record))?;
        Ok(record.id)
    }

    /// Checks that a reset would not be refused now.
    pub fn check_reset_state(
        &self,
        requester: &Requester,
        backup: &str,
        status: BackupStatus,
    ) -> Result<(), Refusal> {
        self.check_writable()?;
        let record = self.select_backup(requester, backup)?;
        check_resettable(&record)?;
        if status == BackupStatus::Available {
            check_not_damaged(&record)?;
            self.check_data_is_there(&record)?;
        }
        Ok(())
    }

    /// Makes a backup `available`, if its data is all there, or `error`. A restore of it is cancelled.
    pub fn reset_state(
        self: &Arc<Self>,
        requester: &Requester,
        backup: &str,
        status: BackupStatus,
    ) -> Result<BackupId, Refusal> {
        self.check_writable()?;
        let record = self.select_backup(requester, backup)?;
        check_resettable(&record)?;
        let id = record.id;
        self.stop_jobs_of(id);
        let _accepting = self.accepting.lock().unwrap_or_else(PoisonError::into_inner);
        let record = self.record(id)?;
        check_resettable(&record)?;
        if status == BackupStatus::Available {
            check_not_damaged(&record)?;
            self.check_data_is_there(&record)?;
        }
        self.repository.catalog().try_update(id, |record| {
            check_resettable(record)?;
            if status == BackupStatus::Available {
                check_not_damaged(record)?;
            }
            record.status = status;
            if record.damage.is_none() {
                record.fail_reason =
                    (status == BackupStatus::Error).then(|| "it was set to error by reset-state".to_owned());
            }
            Ok::<_, Refusal>(())
        })?;
        Ok(id)
    }
}

fn apply(request: &SetRequest, record: &mut BackupRecord) -> Result<(), Refusal> {
    if record.status == BackupStatus::Deleting {
        let sentence = format!("backup {} is being deleted", record.id);
        return Err(Refusal::new(RefusalKind::InvalidState, sentence));
    }
    if let Some(name) = &request.name {
        record.name = (!name.is_empty()).then(|| name.clone());
    }
    if let Some(description) = &request.description {
        record.description = (!description.is_empty()).then(|| description.clone());
    }
    if request.clear_properties {
        record.properties.clear();
    }
    for key in &request.removed_properties {
        if record.properties.remove(key).is_none() {
            let sentence = format!("backup {} has no property {key:?}", record.id);
            return Err(Refusal::new(RefusalKind::InvalidInput, sentence));
        }
    }
    record.properties.extend(request.properties.clone());
    if let Some(protected) = request.protected {
        record.protected = protected;
    }
    check_texts(record.name.as_deref(), record.description.as_deref(), &record.properties)
}

/// Only a verification says that damage is no more.
fn check_not_damaged(record: &BackupRecord) -> Result<(), Refusal> {
    let Some(damage) = &record.damage else { return Ok(()) };
    let id = record.id;
    let sentence = format!(
        "backup {id} is damaged: {} could not be read on {}; `amberfs backup verify {id}` makes it available when all of it is right again",
        damage.ranges, damage.found_at
    );
    Err(Refusal::new(RefusalKind::InvalidState, sentence))
}

fn check_resettable(record: &BackupRecord) -> Result<(), Refusal> {
    let id = record.id;
    let sentence = match record.status {
        BackupStatus::Available
        | BackupStatus::Restoring
        | BackupStatus::Error
        | BackupStatus::ErrorDeleting => return Ok(()),
        BackupStatus::Creating => {
            format!("backup {id} is being made; `amberfs backup delete --force {id}` cancels that")
        }
        BackupStatus::Deleting => format!("backup {id} is being deleted"),
    };
    Err(Refusal::new(RefusalKind::InvalidState, sentence))
}
