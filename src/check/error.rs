//! Why a check, a repair or a rebuild did not come to its end. What is damaged in the repository is no error here.

use crate::catalog::CatalogError;
use crate::index::IndexError;
use crate::objects::ObjectError;
use crate::repository::RepositoryError;
use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The user wants no more of it. What was done so far stays.
    #[error("stopped before the end; what was found or repaired so far is not told")]
    Stopped,

    #[error(
        "{location} cannot be written to: a daemon has it open, or its file system is read-only. End that daemon first; beside it, `amberfs backup verify` finds damage and `--dry-run` shows what a rebuild would do"
    )]
    InUse { location: String },

    #[error(transparent)]
    Repository(#[from] RepositoryError),

    #[error(transparent)]
    Object(#[from] ObjectError),

    #[error(transparent)]
    Index(#[from] IndexError),

    #[error(transparent)]
    Store(#[from] StoreError),

    #[error(transparent)]
    Catalog(#[from] CatalogError),
}
