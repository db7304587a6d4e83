//! Which names are in which folder. What [`Vfs::child_of`] finds is what [`Vfs::children_of`] lists.

use std::collections::BTreeSet;

use super::links::{LATEST, link_names};
use super::listing::Children;
use super::names;
use super::node::{Node, NodeKind};
use super::{CONTROL_FILES, Vfs, VfsError};
use crate::types::{BackupId, SourceName, VolumeName};

/// What is in the root, sorted.
const ROOT_CHILDREN: [(&str, Node); 7] = [
    ("README", Node::Readme),
    ("backups", Node::BackupsFolder),
    ("control", Node::ControlFolder),
    ("events", Node::Events),
    ("jobs", Node::JobsFolder),
    ("status.json", Node::Status),
    ("volumes", Node::VolumesFolder),
];

impl Vfs {
    /// Finds a name in a folder.
    pub(super) fn child_of(&self, folder: &Node, name: &str) -> Result<Node, VfsError> {
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
                self.volume_called(source, name).map(|volume| Node::VolumeFolder(source.clone(), volume))
            }
            Node::VolumeFolder(source, volume) => self.link_called(source, volume, name),
            Node::BackupsFolder => {
                let id: Option<BackupId> = name.parse().ok();
                id.filter(|id| self.repository.catalog().get(*id).is_some()).map(Node::BackupFolder)
            }
            Node::BackupFolder(id) => named(&self.backup_children(*id)?, name),
            Node::JobsFolder => {
                // One job has one name: `07` is none.
                let job = name.parse().ok().filter(|job| *name == format!("{job}"));
                job.filter(|job| self.jobs.report(*job).is_some()).map(Node::Job)
            }
            Node::Readme
            | Node::Status
            | Node::Events
            | Node::Control(_)
            | Node::BackupLink(_)
            | Node::LatestLink(..)
            | Node::Image(_)
            | Node::Info(_)
            | Node::Record(_)
            | Node::Job(_) => return Err(VfsError::NotAFolder),
        };
        found.ok_or(VfsError::NotFound)
    }

    /// Lists a folder as it is now.
    pub(super) fn children_of(&self, folder: &Node) -> Result<Children, VfsError> {
        let catalog = self.repository.catalog();
        Ok(match folder {
            Node::Root => Children::named(ROOT_CHILDREN),
            Node::ControlFolder => Children::named(CONTROL_FILES.map(|file| (file, Node::Control(file)))),
            Node::VolumesFolder => {
                let with_backups = catalog.volumes().into_iter().map(|(source, _)| source);
                let sources: BTreeSet<_> = self.volumes.sources().cloned().chain(with_backups).collect();
                Children::named(
                    sources.into_iter().map(|source| (source.to_string(), Node::SourceFolder(source))),
                )
            }
            Node::SourceFolder(source) => Children::Volumes(source.clone(), self.volumes_of(source)),
            Node::VolumeFolder(source, volume) => {
                let links = link_names(catalog.of_volume(source, volume));
                let latest = catalog.latest(source, volume);
                let latest = latest.map(|_| Node::LatestLink(source.clone(), volume.clone()));
                let links = links.into_iter().map(|(name, id)| (name, Node::BackupLink(id)));
                Children::named(links.chain(latest.map(|latest| (LATEST.to_owned(), latest))))
            }
            Node::BackupsFolder => {
                Children::Backups(catalog.all().into_iter().map(|record| record.id).collect())
            }
            Node::BackupFolder(id) => Children::named(self.backup_children(*id)?),
            Node::JobsFolder => {
                Children::Jobs(self.jobs.reports().into_iter().map(|report| report.id).collect())
            }
            Node::Readme
            | Node::Status
            | Node::Events
            | Node::Control(_)
            | Node::BackupLink(_)
            | Node::LatestLink(..)
            | Node::Image(_)
            | Node::Info(_)
            | Node::Record(_)
            | Node::Job(_) => return Err(VfsError::NotAFolder),
        })
    }

    pub(super) fn link_target_of(&self, node: &Node) -> Result<String, VfsError> {
        let id = match node {
            Node::BackupLink(id) => *id,
            Node::LatestLink(source, volume) => {
                self.repository.catalog().latest(source, volume).ok_or(VfsError::NotFound)?.id
            }
            _ => return Err(VfsError::NotALink),
        };
        debug_assert_eq!(node.kind(), NodeKind::Link);
        Ok(format!("../../../backups/{id}"))
    }

    fn backup_children(&self, id: BackupId) -> Result<Vec<(&'static str, Node)>, VfsError> {
        let record = self.record(id)?;
        let image = record.status.is_readable().then_some(("image", Node::Image(id)));
        let texts = [("info.json", Node::Info(id)), ("record", Node::Record(id))];
        Ok(image.into_iter().chain(texts).collect())
    }

    fn has_source(&self, source: &SourceName) -> bool {
        self.volumes.sources().any(|configured| configured == source)
            || self.repository.catalog().volumes().iter().any(|(with_backups, _)| with_backups == source)
    }

    /// Returns the volumes that a source has, or has backups of, sorted.
    fn volumes_of(&self, source: &SourceName) -> Vec<VolumeName> {
        let mut volumes = self.volumes.names(source).to_vec();
        let with_backups = self.repository.catalog().volumes();
        volumes.extend(with_backups.into_iter().filter(|(of, _)| of == source).map(|(_, volume)| volume));
        volumes.sort();
        volumes.dedup();
        volumes
    }

    fn volume_called(&self, source: &SourceName, file_name: &str) -> Option<VolumeName> {
        if !file_name.contains(names::CUT) {
            let volume: VolumeName = names::decode(file_name)?.parse().ok()?;
            let has_backups = !self.repository.catalog().of_volume(source, &volume).is_empty();
            return (has_backups || self.volumes.contains(source, &volume)).then_some(volume);
        }
        // A name that was cut is found by trying all.
        let mut volumes = self.volumes_of(source).into_iter();
        volumes.find(|volume| names::encode(volume.as_str()) == file_name)
    }

    fn link_called(&self, source: &SourceName, volume: &VolumeName, name: &str) -> Option<Node> {
        let catalog = self.repository.catalog();
        if name == LATEST {
            return catalog.latest(source, volume).map(|_| Node::LatestLink(source.clone(), volume.clone()));
        }
        let mut links = link_names(catalog.of_volume(source, volume)).into_iter();
        links.find(|(link, _)| link == name).map(|(_, id)| Node::BackupLink(id))
    }
}

fn named(children: &[(&'static str, Node)], name: &str) -> Option<Node> {
    children.iter().find(|(child, _)| *child == name).map(|(_, node)| node.clone())
}
