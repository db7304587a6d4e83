//! Errors of the layers below, as users see them: with the contract's name and the whole chain of causes.

use std::io;
use std::sync::Arc;

use crate::catalog::CatalogError;
use crate::jobs::JobError;
use crate::repository::RepositoryError;
use crate::source::SourceError;
use crate::store::StoreError;
use crate::types::{Refusal, RefusalKind, sentence};

/// What a backup or a scratch image cannot give.
pub(super) fn unreadable(error: io::Error) -> Refusal {
    Refusal::new(RefusalKind::Failed, sentence(&error))
}

impl From<SourceError> for Refusal {
    fn from(error: SourceError) -> Self {
        let kind = match &error {
            SourceError::VolumeNotFound { .. } => RefusalKind::VolumeNotFound,
            SourceError::SnapshotNotFound { .. } => RefusalKind::SnapshotNotFound,
            SourceError::VolumeExists { .. } => RefusalKind::VolumeExists,
            SourceError::VolumeInUse { .. } => RefusalKind::VolumeInUse,
            SourceError::InvalidName { .. } => RefusalKind::InvalidInput,
            SourceError::Unavailable { .. } => RefusalKind::SourceUnavailable,
            SourceError::Changed { .. } | SourceError::Io { .. } | SourceError::Stopped => {
                RefusalKind::Failed
            }
        };
        Self::new(kind, sentence(&error))
    }
}

impl From<CatalogError> for Refusal {
    fn from(error: CatalogError) -> Self {
        let kind = match &error {
            CatalogError::NotFound { .. } => RefusalKind::BackupNotFound,
            CatalogError::BrokenChain { .. } => RefusalKind::InvalidState,
            CatalogError::Format { .. } | CatalogError::Object(_) => RefusalKind::Failed,
        };
        Self::new(kind, sentence(&error))
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::new(RefusalKind::Failed, sentence(&error))
    }
}

impl From<Arc<StoreError>> for Refusal {
    fn from(error: Arc<StoreError>) -> Self {
        Self::new(RefusalKind::Failed, sentence(error.as_ref()))
    }
}

impl From<RepositoryError> for Refusal {
    fn from(error: RepositoryError) -> Self {
        match error {
            RepositoryError::Catalog(error) => error.into(),
            error => Self::new(RefusalKind::Failed, sentence(&error)),
        }
    }
}

impl From<JobError> for Refusal {
    fn from(error: JobError) -> Self {
        let kind = match error {
            JobError::NotFound { .. } => RefusalKind::JobNotFound,
            JobError::NotKept { .. } => RefusalKind::Failed,
            JobError::Ended { .. } | JobError::QueueFull { .. } | JobError::ShuttingDown => {
                RefusalKind::InvalidState
            }
        };
        Self::new(kind, sentence(&error))
    }
}
