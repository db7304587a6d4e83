//! Which names are in which folder, for whom. What [`Vfs::child_of`] finds is what [`Vfs::children_of`] lists.
//!
//! What belongs to others is not listed. Who asks for it by its name is told that there is no such thing when a user
//! has given that name, and that it is not his when the name is an id or a number. The names of sources are no secret.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::sync::Arc;

use super::links::{LATEST, link_names};
use super::listing::Children;
use super::names;
use super::node::Node;
use super::viewer::Viewer;
use super::{CONTROL_FILES, Vfs, VfsError};
use crate::catalog::BackupRecord;
use crate::jobs::JobId;
use crate::types::{BackupId, ProjectName, SourceName, VolumeName};

/// What is in the root, sorted.
const ROOT_CHILDREN: [(&str, Node); 10] = [
    ("README", Node::Readme),
    ("backups", Node::BackupsFolder),
    ("control", Node::ControlFolder),
    ("events", Node::Events),
    ("jobs", Node::JobsFolder),
    ("metrics", Node::Metrics),
    ("quotas", Node::QuotasFolder),
    ("scratch", Node::ScratchFolder),
    ("status.json", Node::Status),
    ("volumes", Node::VolumesFolder),
];

impl Vfs {
    /// Finds a name in a folder.
    pub(super) fn child_of(&self, viewer: &Viewer, folder: &Node, name: &OsStr) -> Result<Node, VfsError> {
        if let Node::Inner(inner) = folder {
            return self.inner_child(inner, name);
        }
        // Every name that is not of a file system inside a backup is UTF-8.
        self.named_child_of(viewer, folder, name.to_str().ok_or(VfsError::NotFound)?)
    }

    fn named_child_of(&self, viewer: &Viewer, folder: &Node, name: &str) -> Result<Node, VfsError> {
        let found = match folder {
            Node::Root => named(&ROOT_CHILDREN, name),
            Node::ControlFolder => {
                CONTROL_FILES.iter().find(|file| **file == name).map(|file| Node::Control(file))
            }
            Node::VolumesFolder => {
                let source: Option<SourceName> = name.parse().ok();
                source.filter(|source| self.has_source(source)).map(Node::SourceFolder)
            }
            Node::SourceFolder(source) => {
                let volume = self.volume_called(viewer, source, name);
                volume.map(|volume| Node::VolumeFolder(source.clone(), volume))
            }
            Node::VolumeFolder(source, volume) => {
                let mut links = volume_links(self.backups_for(viewer, source, volume)).into_iter();
                links.find(|(link, _)| link == name).map(|(_, link)| link)
            }
            Node::BackupsFolder => {
                let id: BackupId = name.parse().map_err(|_| VfsError::NotFound)?;
                let is_visible = self.is_for(viewer, self.record(id)?.as_ref());
                Some(of_ones_own(is_visible, Node::BackupFolder(id))?)
            }
            Node::BackupFolder(id) => self.backup_child(viewer, *id, name)?,
            Node::JobsFolder => {
                // One job has one name: `07` is none.
                let job: Option<JobId> = name.parse().ok().filter(|job| *name == format!("{job}"));
                let report = job.and_then(|job| self.jobs.report(job)).ok_or(VfsError::NotFound)?;
                let is_visible = viewer.sees(self.owners.project_named(&report.project));
                Some(of_ones_own(is_visible, Node::Job(report.id))?)
            }
            Node::QuotasFolder => {
                let mut projects = self.quotas_for(viewer);
                projects.find(|project| project.as_str() == name).map(|project| Node::Quota(project.clone()))
            }
            Node::ScratchFolder => self.scratch_called(viewer, name),
            Node::PartitionsFolder(disk) => {
                called(self.partition_children(*disk, self.sees_as_root(viewer)), name)
            }
            Node::GroupFolder(disk, partition) => {
                called(self.group_children(*disk, *partition, self.sees_as_root(viewer)), name)
            }
            Node::Readme
            | Node::Status
            | Node::Metrics
            | Node::Events
            | Node::Control(_)
            | Node::BackupLink(_)
            | Node::LatestLink(_)
            | Node::Image(_)
            | Node::Info(_)
            | Node::Record(_)
            | Node::Job(_)
            | Node::Quota(_)
            | Node::Scratch(_)
            | Node::ScratchInfo(_)
            | Node::Part(..)
            | Node::PartitionTable(_)
            | Node::GroupTable(..)
            | Node::Inner(_) => return Err(VfsError::NotAFolder),
        };
        found.ok_or(VfsError::NotFound)
    }

    /// Lists a folder as it is now, as far as the viewer may know of it.
    pub(super) fn children_of(&self, viewer: &Viewer, folder: &Node) -> Result<Children, VfsError> {
        let catalog = self.repository.catalog();
        Ok(match folder {
            Node::Root => Children::named(ROOT_CHILDREN),
            Node::ControlFolder => Children::named(CONTROL_FILES.map(|file| (file, Node::Control(file)))),
            Node::VolumesFolder => {
                let with_backups = catalog.volumes().into_iter().map(|(source, _)| source);
                let mut sources: BTreeSet<_> = self.volumes.sources().cloned().chain(with_backups).collect();
                sources.retain(|source| viewer.sees_one_of(&self.holders_of_source(source)));
                Children::named(
                    sources.into_iter().map(|source| (source.to_string(), Node::SourceFolder(source))),
                )
            }
            Node::SourceFolder(source) => Children::Volumes(source.clone(), self.volumes_of(viewer, source)),
            Node::VolumeFolder(source, volume) => {
                Children::named(volume_links(self.backups_for(viewer, source, volume)))
            }
            Node::BackupsFolder => {
                let mut backups = catalog.all();
                backups.retain(|record| self.is_for(viewer, record));
                Children::Backups(backups.into_iter().map(|record| record.id).collect())
            }
            Node::BackupFolder(id) => Children::named(self.backup_children(viewer, *id)?),
            Node::JobsFolder => {
                let mut reports = self.jobs.reports();
                reports.retain(|report| viewer.sees(self.owners.project_named(&report.project)));
                Children::Jobs(reports.into_iter().map(|report| report.id).collect())
            }
            Node::QuotasFolder => Children::named(
                self.quotas_for(viewer).map(|project| (project.to_string(), Node::Quota(project.clone()))),
            ),
            Node::ScratchFolder => Children::named(self.scratch_children(viewer)),
            Node::PartitionsFolder(disk) => {
                Children::named(self.partition_children(*disk, self.sees_as_root(viewer)))
            }
            Node::GroupFolder(disk, partition) => {
                Children::named(self.group_children(*disk, *partition, self.sees_as_root(viewer)))
            }
            Node::Inner(inner) => Children::Inner(inner.clone(), self.tree(&inner.place)?),
            Node::Readme
            | Node::Status
            | Node::Metrics
            | Node::Events
            | Node::Control(_)
            | Node::BackupLink(_)
            | Node::LatestLink(_)
            | Node::Image(_)
            | Node::Info(_)
            | Node::Record(_)
            | Node::Job(_)
            | Node::Quota(_)
            | Node::Scratch(_)
            | Node::ScratchInfo(_)
            | Node::Part(..)
            | Node::PartitionTable(_)
            | Node::GroupTable(..) => return Err(VfsError::NotAFolder),
        })
    }

    pub(super) fn link_target_of(&self, node: &Node) -> Result<Vec<u8>, VfsError> {
        match node {
            Node::BackupLink(id) | Node::LatestLink(id) => Ok(link_target(*id).into_bytes()),
            Node::Inner(inner) => self.inner_link_target(inner),
            _ => Err(VfsError::NotALink),
        }
    }

    /// What every backup has is found without a look into its disk.
    fn backup_child(&self, viewer: &Viewer, id: BackupId, name: &str) -> Result<Option<Node>, VfsError> {
        let has_image = self.record(id)?.has_image();
        Ok(match name {
            "info.json" => Some(Node::Info(id)),
            "record" => Some(Node::Record(id)),
            _ if !has_image => None,
            "image" => Some(Node::Image(id)),
            _ => named(&self.inside_of_backup(id, self.sees_as_root(viewer)), name),
        })
    }

    fn backup_children(&self, viewer: &Viewer, id: BackupId) -> Result<Vec<(&'static str, Node)>, VfsError> {
        let mut children = Vec::new();
        let has_image = self.record(id)?.has_image();
        children.extend(has_image.then_some(("image", Node::Image(id))));
        children.extend([("info.json", Node::Info(id)), ("record", Node::Record(id))]);
        if has_image {
            children.extend(self.inside_of_backup(id, self.sees_as_root(viewer)));
        }
        Ok(children)
    }

    fn quotas_for(&self, viewer: &Viewer) -> impl Iterator<Item = &ProjectName> {
        self.quotas.projects().filter(|project| viewer.sees(self.owners.project(project)))
    }

    fn has_source(&self, source: &SourceName) -> bool {
        self.volumes.sources().any(|configured| configured == source)
            || self.repository.catalog().volumes().iter().any(|(with_backups, _)| with_backups == source)
    }

    /// Returns the volumes that a source has, or has backups of, as far as the viewer may know of them, sorted.
    fn volumes_of(&self, viewer: &Viewer, source: &SourceName) -> Vec<VolumeName> {
        let all = self.repository.catalog().all();
        let mut with_backups: HashMap<&VolumeName, bool> = HashMap::new();
        for record in all.iter().filter(|record| record.source == *source) {
            *with_backups.entry(&record.volume_name).or_default() |= self.is_for(viewer, record);
        }
        let mut volumes = Vec::new();
        if viewer.sees_one_of(self.owners.source(source)) {
            let names = self.volumes.names(source);
            volumes.extend(names.iter().filter(|name| !with_backups.contains_key(name)).cloned());
        }
        let visible = with_backups.into_iter().filter(|(_, is_visible)| *is_visible);
        volumes.extend(visible.map(|(volume, _)| volume.clone()));
        volumes.sort();
        volumes
    }

    fn volume_called(&self, viewer: &Viewer, source: &SourceName, file_name: &str) -> Option<VolumeName> {
        if !file_name.contains(names::CUT) {
            let volume: VolumeName = names::decode(file_name)?.parse().ok()?;
            let has_backups = !self.repository.catalog().of_volume(source, &volume).is_empty();
            let is_there = has_backups || self.volumes.contains(source, &volume);
            let is_visible = is_there && viewer.sees_one_of(&self.holders_of_volume(source, &volume));
            return is_visible.then_some(volume);
        }
        // A name that was cut is found by trying all.
        let mut volumes = self.volumes_of(viewer, source).into_iter();
        volumes.find(|volume| names::encode(volume.as_str()) == file_name)
    }
}

/// Returns what links to a volume's backup leads to.
pub(super) fn link_target(id: BackupId) -> String {
    format!("../../../backups/{id}")
}

/// Returns the links in a volume's folder to these of its backups, of which the oldest data are the first.
fn volume_links(backups: Vec<Arc<BackupRecord>>) -> Vec<(String, Node)> {
    let latest = backups.iter().rfind(|record| record.is_whole());
    let latest = latest.map(|record| (LATEST.to_owned(), Node::LatestLink(record.id)));
    let links = link_names(backups).into_iter().map(|(name, id)| (name, Node::BackupLink(id)));
    links.chain(latest).collect()
}

fn of_ones_own(is_visible: bool, node: Node) -> Result<Node, VfsError> {
    if is_visible { Ok(node) } else { Err(VfsError::NotYours) }
}

fn called(children: Vec<(String, Node)>, name: &str) -> Option<Node> {
    children.into_iter().find(|(child, _)| child == name).map(|(_, node)| node)
}

fn named(children: &[(&'static str, Node)], name: &str) -> Option<Node> {
    children.iter().find(|(child, _)| *child == name).map(|(_, node)| node.clone())
}
