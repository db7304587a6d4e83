//! Whose those parts of the tree are that several projects may share.

use std::sync::Arc;

use super::Vfs;
use super::insides::Disk;
use super::node::Node;
use super::owners::Owner;
use super::viewer::Viewer;
use crate::catalog::BackupRecord;
use crate::types::{SourceName, VolumeName};

impl Vfs {
    /// A source is held by the projects that have it; one that no project has, by those with backups from it.
    pub(super) fn holders_of_source(&self, source: &SourceName) -> Vec<Owner> {
        match self.owners.source(source) {
            [] => {
                let all = self.repository.catalog().all();
                self.owners.backups(all.iter().filter(|record| record.source == *source))
            }
            holders => holders.to_vec(),
        }
    }

    /// A volume is held by the projects with backups of it; one without backups by those that have its source.
    pub(super) fn holders_of_volume(&self, source: &SourceName, volume: &VolumeName) -> Vec<Owner> {
        let backups = self.repository.catalog().of_volume(source, volume);
        if backups.is_empty() {
            return self.owners.source(source).to_vec();
        }
        self.owners.backups(&backups)
    }

    /// Returns those of a volume's backups that the viewer may know of, oldest data first.
    pub(super) fn backups_for(
        &self,
        viewer: &Viewer,
        source: &SourceName,
        volume: &VolumeName,
    ) -> Vec<Arc<BackupRecord>> {
        let mut backups = self.repository.catalog().of_volume(source, volume);
        backups.retain(|record| self.is_for(viewer, record));
        backups
    }

    /// Says whether a name leads here for some of those who may look into its folder, and not for others. The kernel
    /// must not take it for granted then: it would tell one user what another one has found.
    pub(super) fn depends_on_viewer(&self, node: &Node) -> bool {
        match node {
            Node::BackupFolder(_)
            | Node::Job(_)
            | Node::Quota(_)
            | Node::Scratch(_)
            | Node::ScratchInfo(_)
            | Node::PartitionsFolder(Disk::Scratch(_))
            | Node::GroupFolder(Disk::Scratch(_), None) => self.owners.are_several(),
            Node::VolumeFolder(source, volume) => {
                let holders = self.holders_of_source(source);
                holders.len() > 1 || holders != self.holders_of_volume(source, volume)
            }
            Node::BackupLink(id) | Node::LatestLink(id) => self
                .record(*id)
                .is_ok_and(|record| self.holders_of_volume(&record.source, &record.volume_name).len() > 1),
            Node::Root
            | Node::Readme
            | Node::Status
            | Node::Metrics
            | Node::Events
            | Node::ControlFolder
            | Node::Control(_)
            | Node::VolumesFolder
            | Node::SourceFolder(_)
            | Node::BackupsFolder
            | Node::Image(_)
            | Node::Info(_)
            | Node::Record(_)
            | Node::JobsFolder
            | Node::QuotasFolder
            | Node::ScratchFolder
            | Node::PartitionsFolder(Disk::Backup(_))
            | Node::GroupFolder(Disk::Backup(_), None)
            | Node::GroupFolder(_, Some(_))
            | Node::Part(..)
            | Node::PartitionTable(_)
            | Node::GroupTable(..)
            | Node::Inner(_) => false,
        }
    }

    pub(super) fn is_for(&self, viewer: &Viewer, record: &BackupRecord) -> bool {
        viewer.sees(self.owners.project(&record.project))
    }
}
