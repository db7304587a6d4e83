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
        "{location} is open for writing in another process; end that daemon first, or leave --repair out: `amberfs backup verify` finds damage beside it"
    )]
    InUse { location: String },

    #[error("a thread ended before its work was done: this is a fault in amberfs")]
    ThreadEnded,

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
