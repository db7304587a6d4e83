//! From the configuration to the layers: repository, sources, operations.

use std::path::Path;
use std::sync::Arc;

use super::config::{Config, GroupConfig, SourceConfig, WithoutParentConfig};
use super::{DaemonError, MountOptions};
use crate::catalog::{Project, Quota};
use crate::format::header::CHUNK_SIZE_DEFAULT;
use crate::jobs::{EventLog, JobQueue, JobQueueOptions};
use crate::operations::{
    DiffTrust, Operations, OperationsOptions, RESTORE_STEP_BYTES, VerifyOptions, VolumeType, WithoutParent,
};
use crate::repository::{Location, Repository, RepositoryError, RepositoryOptions};
use crate::scratch::ScratchImages;
use crate::source::dir::DirSource;
use crate::source::{Source, Sources};
use crate::sysio::group;
use crate::types::{ByteSize, ProjectName, SourceName};

/// Opens the repository of the configuration. One that `--repo` names is made when there is none: the embedded
/// default needs no preparation.
pub(super) fn open_repository(
    config: &Config,
    options: &MountOptions,
) -> Result<Arc<Repository>, DaemonError> {
    let location: Location = config.repository.url.parse()?;
    let repository_options = repository_options(config)?;
    let opened = match Repository::open(&location, &repository_options) {
        Err(RepositoryError::NotARepository { path }) if options.repo.is_some() && is_new(&path) => {
            Repository::create(&location, ByteSize(CHUNK_SIZE_DEFAULT))?;
            tracing::info!(repository = %location, "made a new repository");
            Repository::open(&location, &repository_options)?
        }
        opened => opened?,
    };
    if opened.is_read_only() {
        let writer = opened.writer().map(|writer| writer.to_string());
        tracing::warn!(repository = %location, writer, "open for reading only: another daemon writes to it, or it cannot be written to");
    }
    Ok(Arc::new(opened))
}

pub(super) fn repository_options(config: &Config) -> Result<RepositoryOptions, DaemonError> {
    Ok(RepositoryOptions {
        index: config.repository.index.clone(),
        compression: config.compression()?,
        cache_bytes: config.repository.cache.0,
    })
}

fn is_new(path: &Path) -> bool {
    std::fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none())
}

/// Opens the log of what happens and lets the catalog write to it.
pub(super) fn events(repository: &Repository) -> Arc<EventLog> {
    let events = EventLog::open(repository.state_folder());
    repository.catalog().set_observer(Arc::clone(&events) as _);
    events
}

pub(super) fn operations(
    config: &Config,
    repository: Arc<Repository>,
    events: &Arc<EventLog>,
) -> Result<Arc<Operations>, DaemonError> {
    let sources = sources(config)?;
    let job_options = JobQueueOptions {
        operations_max: config.limits.max_operations,
        finished_kept: config.limits.finished_jobs,
        finished_kept_seconds: config.limits.finished_jobs_seconds,
    };
    let jobs = JobQueue::open(job_options, repository.state_folder(), Arc::clone(events) as _);
    let volume_types = config.volume_type.iter().map(|(name, volume_type)| {
        let volume_type = volume_type.clone();
        let volume_type = VolumeType {
            source: volume_type.source,
            data_pool: volume_type.data_pool,
            object_size: volume_type.object_size,
            features: volume_type.features,
        };
        (name.clone(), volume_type)
    });
    let options = OperationsOptions {
        projects: projects(config)?,
        volume_types: volume_types.collect(),
        without_parent: match config.incremental_without_parent {
            WithoutParentConfig::Full => WithoutParent::TakeFull,
            WithoutParentConfig::Fail => WithoutParent::Refuse,
        },
        memory_bytes: config.limits.memory.0,
        diff_trust: DiffTrust {
            reread_within: config.trust.reread_within,
            sample_blocks: config.trust.sample_blocks,
        },
        restore_step_bytes: RESTORE_STEP_BYTES,
        verify: VerifyOptions {
            rate: config.verify.rate,
            parallel: config.verify.parallel,
            schedule: config.verify.schedule,
        },
    };
    let scratch = ScratchImages::open(&repository, config.limits.scratch.0)?;
    Ok(Operations::new(repository, Sources::new(sources), Arc::new(jobs), scratch, options))
}

/// Without a project in the configuration there is one, `default`, which has all sources, no limits, and the
/// daemon's user as its owner.
fn projects(config: &Config) -> Result<Vec<Project>, DaemonError> {
    let invalid = |error: crate::types::NameError| DaemonError::InvalidConfig { why: error.to_string() };
    if config.project.is_empty() {
        return Ok(vec![Project {
            name: "default".parse().map_err(invalid)?,
            sources: config
                .source
                .keys()
                .map(|name| name.parse())
                .collect::<Result<_, _>>()
                .map_err(invalid)?,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            quota: Quota::default(),
        }]);
    }
    let project = |(name, project): (&String, &super::config::ProjectConfig)| {
        let name: ProjectName = name.parse().map_err(invalid)?;
        let sources = project.sources.clone();
        let uid = project.uid.unwrap_or_else(|| rustix::process::getuid().as_raw());
        let gid = project.gid.unwrap_or_else(|| rustix::process::getgid().as_raw());
        Ok(Project { name, sources, uid, gid, quota: project.quota })
    };
    config.project.iter().map(project).collect()
}

/// Returns the group that may write commands, if the configuration names one.
pub(super) fn control_group(config: &Config) -> Result<Option<u32>, DaemonError> {
    let name = match &config.mount.control_group {
        None => return Ok(None),
        Some(GroupConfig::Id(id)) => return Ok(Some(*id)),
        Some(GroupConfig::Name(name)) => name,
    };
    if let Ok(id) = name.parse() {
        return Ok(Some(id));
    }
    let found =
        group::id_of(name).map_err(|source| DaemonError::Io { what: "look up a group with getent", source });
    match found? {
        Some(id) => Ok(Some(id)),
        None => {
            let why = format!(
                "mount.control_group is {name:?}, and there is no such group: make it, or name another"
            );
            Err(DaemonError::InvalidConfig { why })
        }
    }
}

fn sources(config: &Config) -> Result<Vec<Arc<dyn Source>>, DaemonError> {
    config.source.iter().map(|(name, source)| open_source(name, source)).collect()
}

/// Opens the sources that can be opened; returns why the others cannot.
pub(super) fn sources_that_are_there(config: &Config) -> (Sources, Vec<String>) {
    let (mut sources, mut notes) = (Vec::new(), Vec::new());
    for (name, source) in &config.source {
        match open_source(name, source) {
            Ok(source) => sources.push(source),
            Err(error) => notes.push(format!("source {name} cannot be used: {error}")),
        }
    }
    (Sources::new(sources), notes)
}

fn open_source(name: &str, source: &SourceConfig) -> Result<Arc<dyn Source>, DaemonError> {
    let name: SourceName =
        name.parse().map_err(|error| DaemonError::InvalidConfig { why: format!("{error}") })?;
    match source {
        SourceConfig::Dir { path } => Ok(Arc::new(DirSource::open(name, path)?)),
        SourceConfig::Rbd { .. } => rbd_source(name, source),
    }
}

#[cfg(feature = "rbd")]
fn rbd_source(name: SourceName, config: &SourceConfig) -> Result<Arc<dyn Source>, DaemonError> {
    use crate::source::rbd::{RbdOptions, RbdSource};
    let SourceConfig::Rbd { conf, user, pool, namespace, timeout_seconds } = config else {
        return Err(DaemonError::InvalidConfig { why: format!("source {name} is not of type rbd") });
    };
    Ok(Arc::new(RbdSource::new(RbdOptions {
        name,
        conf: conf.clone(),
        user: user.clone(),
        pool: pool.clone(),
        namespace: namespace.clone(),
        timeout: std::time::Duration::from_secs(*timeout_seconds),
    })))
}

#[cfg(not(feature = "rbd"))]
fn rbd_source(name: SourceName, _config: &SourceConfig) -> Result<Arc<dyn Source>, DaemonError> {
    let why = format!("source {name} is of type rbd, and this amberfs was built without it");
    Err(DaemonError::InvalidConfig { why })
}
