//! What `amberfs mount` and `amberfs repo` are asked for: values that are parsed, and not yet looked up.

use std::path::PathBuf;

use super::LogFormat;
use crate::types::ByteSize;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    pub config: Option<PathBuf>,
    /// Directory of the repository; goes before the configuration's.
    pub repo: Option<PathBuf>,
    /// Directory of images, served as the source `local`.
    pub volumes: Option<PathBuf>,
    pub mountpoint: PathBuf,
    /// Detach when the mount is ready.
    pub daemon: bool,
    pub allow_other: bool,
    pub log_format: LogFormat,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoInitOptions {
    pub config: Option<PathBuf>,
    pub repo: Option<PathBuf>,
    pub chunk_size: Option<ByteSize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoInfoOptions {
    pub config: Option<PathBuf>,
    pub repo: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoCheckOptions {
    pub config: Option<PathBuf>,
    pub repo: Option<PathBuf>,
    /// Directory of images, looked into as the source `local` by a repair.
    pub volumes: Option<PathBuf>,
    /// Read no chunk.
    pub quick: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoRebuildOptions {
    pub config: Option<PathBuf>,
    pub repo: Option<PathBuf>,
    pub dry_run: bool,
}
