//! Why the daemon does not start.

use std::io;
use std::path::PathBuf;

use crate::check::CheckError;
use crate::fuse::FuseError;
use crate::repository::RepositoryError;
use crate::scratch::ScratchError;
use crate::source::SourceError;

#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error("cannot read {path}; without a configuration file, --repo DIR and --volumes DIR are all that is needed", path = .path.display())]
    ConfigUnreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error("the configuration {path} cannot be used: {why}", path = .path.display())]
    Config { path: PathBuf, why: String },

    #[error("the configuration cannot be used: {why}")]
    InvalidConfig { why: String },

    #[error(transparent)]
    Repository(#[from] RepositoryError),

    #[error(transparent)]
    Check(#[from] CheckError),

    #[error(transparent)]
    Scratch(#[from] ScratchError),

    #[error(transparent)]
    Source(#[from] SourceError),

    #[error(transparent)]
    Fuse(#[from] FuseError),

    #[error("cannot {what}")]
    Io {
        what: &'static str,
        #[source]
        source: io::Error,
    },

    /// The detached process said on standard error why it did not start.
    #[error("the daemon did not start")]
    DetachedFailed,
}
