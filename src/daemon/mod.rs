//! The daemon: puts the layers together, serves the mount, and ends in order.
//!
//! Start: configuration, repository (locked), sources, recovery of what a crash left, mount. End, by a signal or
//! because somebody unmounts: jobs are stopped, the mount goes, the index is flushed, the lock is given back. A
//! second signal ends the process at once, which is a crash like any other: see `operations::recovery`.

mod assemble;
mod config;
mod detach;
mod error;
mod logging;
mod options;
mod refresh;
mod repository;
mod serve;
mod service;

use std::path::Path;

pub use config::Config;
pub use error::DaemonError;
pub use logging::LogFormat;
pub use options::{MountOptions, RepoCheckOptions, RepoInfoOptions, RepoInitOptions, RepoRebuildOptions};
pub use repository::{repo_check, repo_rebuild, repo_repair};
use rustix::fs::Mode;

use crate::format::header::{CHUNK_SIZE_DEFAULT, RepositoryHeader};
use crate::repository::{Location, Repository};
use crate::sysio::allocator;
use crate::types::ByteSize;

/// Runs the daemon until it is told to end; with `daemon` returns when the detached process serves the mount.
pub fn mount(options: &MountOptions) -> Result<(), DaemonError> {
    if options.daemon && !detach::is_detached() {
        return detach::spawn();
    }
    allocator::limit_arenas();
    keep_private();
    logging::start(options.log_format);
    serve::run(options)
}

/// What `repo init` made, or `repo info` found.
#[derive(Debug)]
pub struct RepositorySummary {
    pub location: String,
    pub header: RepositoryHeader,
    /// Objects and their bytes, as they are listed: packs, manifests, records.
    pub objects: Vec<(&'static str, u64, u64)>,
}

/// Makes an empty repository.
pub fn repo_init(options: &RepoInitOptions) -> Result<RepositorySummary, DaemonError> {
    let location = location(options.config.as_deref(), options.repo.as_deref())?;
    keep_private();
    let chunk_size = options.chunk_size.unwrap_or(ByteSize(CHUNK_SIZE_DEFAULT));
    Repository::create(&location, chunk_size)?;
    summary(&location)
}

/// Looks at a repository without opening it for writing: a daemon may be using it.
pub fn repo_info(options: &RepoInfoOptions) -> Result<RepositorySummary, DaemonError> {
    summary(&location(options.config.as_deref(), options.repo.as_deref())?)
}

/// What this process makes from now on, nobody else may read: records, logs and the index hold names of all projects, and
/// a repository beside the mount would tell what the mount does not.
fn keep_private() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

fn location(config: Option<&Path>, repo: Option<&Path>) -> Result<Location, DaemonError> {
    Ok(Config::load(config, repo)?.repository.url.parse::<Location>()?)
}

fn summary(location: &Location) -> Result<RepositorySummary, DaemonError> {
    let header = Repository::read_header(location)?;
    let objects = Repository::count_objects(location)?;
    Ok(RepositorySummary { location: location.to_string(), header, objects })
}
