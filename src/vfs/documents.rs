//! The small texts of the tree. Each is made when it is opened, so that a reader sees one consistent document, and
//! when its length is asked for.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;

use super::health::{Health, Problem, health};
use super::node::Node;
use super::owners::Owner;
use super::{Vfs, VfsError};
use crate::catalog::BackupInfo;
use crate::jobs::JobId;
use crate::sysio::lock::LockHolder;
use crate::types::{BackupId, ProjectName, RepositoryId, Timestamp};

const README: &str = include_str!("readme.txt");

/// A text and what `stat` says of it.
pub(super) struct Document {
    pub(super) text: Cow<'static, str>,
    pub(super) mode: u16,
    pub(super) owner: Owner,
    pub(super) time: SystemTime,
}

impl Vfs {
    pub(super) fn document(&self, node: &Node) -> Result<Document, VfsError> {
        let operator = self.owners.operator;
        match node {
            Node::Readme => {
                let text = Cow::Borrowed(README);
                Ok(Document { text, mode: 0o444, owner: operator, time: self.started_at.into() })
            }
            Node::Status => {
                let text = Cow::Owned(line(&self.status()));
                Ok(Document { text, mode: 0o440, owner: operator, time: crate::sysio::clock::now().into() })
            }
            Node::Metrics => {
                let text = Cow::Owned(self.metrics());
                Ok(Document { text, mode: 0o440, owner: operator, time: crate::sysio::clock::now().into() })
            }
            Node::Info(id) => self.info(*id),
            Node::Record(id) => self.exported_record(*id),
            Node::Job(id) => self.job(*id),
            Node::Quota(project) => self.quota(project),
            Node::ScratchInfo(id) => self.scratch_info(*id),
            Node::PartitionTable(disk) => self.partition_table(*disk),
            Node::GroupTable(disk, partition) => self.group_table(*disk, *partition),
            Node::Events
            | Node::Control(_)
            | Node::Image(_)
            | Node::Scratch(_)
            | Node::Part(..)
            | Node::Inner(_) => Err(VfsError::NotFound),
            Node::BackupLink(_) | Node::LatestLink(_) => Err(VfsError::NotFound),
            Node::Root
            | Node::ControlFolder
            | Node::VolumesFolder
            | Node::SourceFolder(_)
            | Node::VolumeFolder(..)
            | Node::BackupsFolder
            | Node::BackupFolder(_)
            | Node::JobsFolder
            | Node::QuotasFolder
            | Node::ScratchFolder
            | Node::PartitionsFolder(_)
            | Node::GroupFolder(..) => Err(VfsError::IsAFolder),
        }
    }

    fn info(&self, id: BackupId) -> Result<Document, VfsError> {
        let record = self.record(id)?;
        let has_dependents = self.repository.catalog().has_dependents(id);
        let info = BackupInfo::new(&record, has_dependents, self.repository.location());
        let owner = self.owners.project(&record.project);
        Ok(Document { text: Cow::Owned(info.to_json()), mode: 0o440, owner, time: record.updated_at.into() })
    }

    fn exported_record(&self, id: BackupId) -> Result<Document, VfsError> {
        let record = self.record(id)?;
        let text = record.encode().map_err(|source| VfsError::Record { id, source })?;
        let owner = self.owners.project(&record.project);
        Ok(Document { text: Cow::Owned(text), mode: 0o440, owner, time: record.updated_at.into() })
    }

    fn job(&self, id: JobId) -> Result<Document, VfsError> {
        let report = self.jobs.report(id).ok_or(VfsError::NotFound)?;
        let time = report.ended_at.or(report.started_at).unwrap_or(report.queued_at);
        let owner = self.owners.project_named(&report.project);
        Ok(Document { text: Cow::Owned(line(&report)), mode: 0o440, owner, time: time.into() })
    }

    fn quota(&self, project: &ProjectName) -> Result<Document, VfsError> {
        // Restores make volumes, and take their place in the quota from the moment they are accepted.
        let reports = self.jobs.reports();
        let changed_at = reports.iter().map(|report| report.ended_at.unwrap_or(report.queued_at)).max();
        let report = self.quotas.report(project, changed_at).ok_or(VfsError::NotFound)?;
        let (owner, time) = (self.owners.project(project), crate::sysio::clock::now());
        Ok(Document { text: Cow::Owned(line(&report)), mode: 0o440, owner, time: time.into() })
    }

    fn scratch_status(&self) -> ScratchStatus {
        let (used_bytes, limit_bytes) = self.scratch.use_of_space();
        ScratchStatus { images: self.scratch.all().len(), used_bytes, limit_bytes }
    }

    fn status(&self) -> Status<'_> {
        let catalog = self.repository.catalog();
        let mut backups = BTreeMap::new();
        for record in catalog.all() {
            *backups.entry(record.status.as_str()).or_default() += 1;
        }
        let mut jobs = BTreeMap::new();
        for report in self.jobs.reports() {
            *jobs.entry(report.state.to_string()).or_default() += 1;
        }
        let problems = self.problems();
        let sources: Vec<_> = self
            .volumes
            .states()
            .map(|state| SourceStatus { name: state.name.to_string(), kind: state.kind, error: state.error })
            .collect();
        let index = self.repository.store().index_stats();
        let chunks = self.repository.store().cache_stats();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            health: health(&problems),
            problems,
            pid: std::process::id(),
            started_at: self.started_at,
            repository: RepositoryStatus {
                id: self.repository.header().id,
                location: self.repository.location(),
                read_only: self.repository.is_read_only(),
                writer: self.repository.writer().map(WriterStatus::from),
                chunk_size: self.repository.chunk_size(),
            },
            index: IndexStatus {
                packs: index.pack_count,
                chunks: index.chunk_count,
                pack_bytes: index.pack_bytes,
            },
            caches: Caches {
                chunks: ChunkCache { hits: chunks.hits, loads: chunks.loads, bytes: chunks.bytes },
            },
            scratch: self.scratch_status(),
            counts: Counts { backups, jobs, inodes: self.inodes.count(), open_files: self.handles.count() },
            sources,
        }
    }
}

/// Returns the value as one line of JSON.
pub(super) fn line(value: &impl Serialize) -> String {
    let mut json = serde_json::to_string(value).unwrap_or_default();
    json.push('\n');
    json
}

#[derive(Serialize)]
struct Status<'a> {
    version: &'static str,
    health: Health,
    /// Why the health is not `ok`.
    problems: Vec<Problem>,
    /// Of the daemon, so that who unmounts can wait for its end.
    pid: u32,
    started_at: Timestamp,
    repository: RepositoryStatus<'a>,
    index: IndexStatus,
    caches: Caches,
    scratch: ScratchStatus,
    counts: Counts,
    sources: Vec<SourceStatus>,
}

#[derive(Serialize)]
struct RepositoryStatus<'a> {
    id: RepositoryId,
    location: &'a str,
    read_only: bool,
    /// Who writes, where that is another process and known.
    writer: Option<WriterStatus>,
    chunk_size: u64,
}

#[derive(Serialize)]
struct WriterStatus {
    host: String,
    pid: u32,
    since: Timestamp,
}

impl From<LockHolder> for WriterStatus {
    fn from(holder: LockHolder) -> Self {
        Self { host: holder.host, pid: holder.pid, since: holder.since }
    }
}

#[derive(Serialize)]
struct IndexStatus {
    packs: u64,
    chunks: u64,
    pack_bytes: u64,
}

#[derive(Serialize)]
struct Caches {
    chunks: ChunkCache,
}

#[derive(Serialize)]
struct ScratchStatus {
    images: usize,
    used_bytes: u64,
    limit_bytes: u64,
}

#[derive(Serialize)]
struct ChunkCache {
    hits: u64,
    loads: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct Counts {
    /// By status, and by state.
    backups: BTreeMap<&'static str, u64>,
    jobs: BTreeMap<String, u64>,
    inodes: usize,
    open_files: usize,
}

#[derive(Serialize)]
struct SourceStatus {
    name: String,
    kind: &'static str,
    /// Why its volumes could not be listed when that was last tried.
    error: Option<String>,
}
