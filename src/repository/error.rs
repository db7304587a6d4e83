//! Why a repository cannot be made or opened.

use std::io;
use std::path::PathBuf;

use crate::catalog::CatalogError;
use crate::format::FormatError;
use crate::index::IndexError;
use crate::objects::ObjectError;
use crate::store::StoreError;
use crate::sysio::PathError;

#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    #[error("{path} holds no amberfs repository; `amberfs repo init --repo {path}` makes one in an empty directory", path = .path.display())]
    NotARepository { path: PathBuf },

    #[error("{path} is not empty: a repository is made in a directory that does not exist or is empty", path = .path.display())]
    NotEmpty { path: PathBuf },

    #[error("{url:?} is no repository this amberfs can open: write dir:/ABSOLUTE/PATH")]
    UnknownLocation { url: String },

    #[error("{path} is a link, which amberfs makes none of, and would write to what it leads to; remove it, or name another place with `index` in the configuration", path = .path.display())]
    Link { path: PathBuf },

    #[error("cannot use {path}", path = .path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error(transparent)]
    Path(#[from] PathError),

    #[error(transparent)]
    Format(#[from] FormatError),

    #[error(transparent)]
    Object(#[from] ObjectError),

    #[error(transparent)]
    Index(#[from] IndexError),

    #[error(transparent)]
    Store(#[from] StoreError),

    #[error(transparent)]
    Catalog(#[from] CatalogError),
}
