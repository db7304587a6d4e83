//! Scratch images: made at once, since nothing is copied.

use std::sync::{Arc, PoisonError};

use super::{Operations, Requester};
use crate::catalog::BackupRecord;
use crate::scratch::{NAME_BYTES_MAX, NewScratch, SCRATCH_IMAGES_MAX, ScratchError, ScratchImage};
use crate::types::{BackupId, Refusal, RefusalKind, sentence};

/// What a user asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScratchRequest {
    pub backup: String,
    /// Without it, the backup's name or id.
    pub name: Option<String>,
    /// Is it to be there again when the daemon was restarted?
    pub keep: bool,
}

/// A scratch image that is in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScratchAccepted {
    pub backup: BackupId,
    pub name: String,
}

impl Operations {
    /// Checks that a scratch image would not be refused now.
    pub fn check_scratch(&self, requester: &Requester, request: &ScratchRequest) -> Result<(), Refusal> {
        let record = self.select_backup(requester, &request.backup)?;
        check_readable(&record)?;
        self.check_can_keep(request)?;
        match &request.name {
            Some(name) => Ok(self.scratch.check_new(name)?),
            None => Ok(()),
        }
    }

    /// Makes a scratch image over a backup.
    pub fn scratch_image(
        &self,
        requester: &Requester,
        request: &ScratchRequest,
    ) -> Result<ScratchAccepted, Refusal> {
        // A delete looks for scratch images under this lock.
        let _accepting = self.accepting.lock().unwrap_or_else(PoisonError::into_inner);
        let record = self.select_backup(requester, &request.backup)?;
        check_readable(&record)?;
        self.check_can_keep(request)?;
        let name = match &request.name {
            Some(name) => name.clone(),
            None => self.free_scratch_name(&record)?,
        };
        let new = NewScratch {
            name: name.clone(),
            backup: record.id,
            project: record.project.clone(),
            backup_allocated_bytes: record.allocated_bytes,
            keep: request.keep,
        };
        self.scratch.create(new, self.repository.image(record.id)?)?;
        Ok(ScratchAccepted { backup: record.id, name })
    }

    /// What a daemon that only reads the repository has beside it goes with it.
    fn check_can_keep(&self, request: &ScratchRequest) -> Result<(), Refusal> {
        if request.keep { self.check_writable() } else { Ok(()) }
    }

    /// The backup's name, or its id when it has none that will do; with a number behind it when that is taken.
    fn free_scratch_name(&self, record: &BackupRecord) -> Result<String, Refusal> {
        let own = record.name.as_deref().filter(|name| name.len() + 4 <= NAME_BYTES_MAX);
        let own = own.map(|name| name.replace('/', "_")).unwrap_or_else(|| record.id.to_string());
        // A name that a backup can have and a file cannot.
        let is_invalid = matches!(self.scratch.check_new(&own), Err(ScratchError::InvalidName { .. }));
        let own = if is_invalid { record.id.to_string() } else { own };
        let numbered = (2..SCRATCH_IMAGES_MAX + 2).map(|number| format!("{own}-{number}"));
        let mut refusal = None;
        for name in std::iter::once(own.clone()).chain(numbered) {
            match self.scratch.check_new(&name) {
                Ok(()) => return Ok(name),
                Err(ScratchError::Exists { .. }) => {}
                Err(error) => refusal = Some(error),
            }
        }
        Err(refusal.unwrap_or(ScratchError::TooMany).into())
    }

    /// Finds a scratch image of the requester's projects.
    pub(super) fn own_scratch(
        &self,
        requester: &Requester,
        name: &str,
    ) -> Result<Arc<ScratchImage>, Refusal> {
        let image = self.scratch.get(name)?;
        if !requester.owns(&image.about().project) {
            return Err(ScratchError::NotFound { name: name.to_owned() }.into());
        }
        Ok(image)
    }

    /// Refuses to delete what a scratch image is a view of.
    pub(super) fn check_no_scratch(&self, backup: BackupId) -> Result<(), Refusal> {
        let over = self.scratch.over(backup);
        let Some(name) = over.first() else { return Ok(()) };
        let sentence = format!(
            "scratch image {name:?} is a view of backup {backup}; remove it first (rm scratch/{name}, or amberfs scratch delete)"
        );
        Err(Refusal::new(RefusalKind::InvalidState, sentence))
    }
}

fn check_readable(record: &BackupRecord) -> Result<(), Refusal> {
    if record.has_image() {
        return Ok(());
    }
    let sentence =
        format!("backup {} is {}; only one that can be read can be looked into", record.id, record.status);
    Err(Refusal::new(RefusalKind::InvalidState, sentence))
}

impl From<ScratchError> for Refusal {
    fn from(error: ScratchError) -> Self {
        let kind = match &error {
            ScratchError::NotFound { .. } => RefusalKind::ScratchNotFound,
            ScratchError::Exists { .. } => RefusalKind::ScratchExists,
            ScratchError::InvalidName { .. } => RefusalKind::InvalidInput,
            ScratchError::TooMany | ScratchError::Busy { .. } => RefusalKind::InvalidState,
            ScratchError::Path(_) | ScratchError::Repository(_) => RefusalKind::Failed,
        };
        Self::new(kind, sentence(&error))
    }
}
