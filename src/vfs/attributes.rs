//! What `stat` says of a node.

use std::time::SystemTime;

use super::node::{Node, NodeKind};
use super::owners::Owner;
use super::tree::link_target;
use super::{Vfs, VfsError};
use crate::catalog::BackupRecord;
use crate::scratch::ScratchImage;
use crate::sysio::device::ReadAt;
use crate::types::Timestamp;

/// A good read of an image: several chunks, and as much as one FUSE request carries.
const IMAGE_BLOCK_BYTES: u32 = 1 << 20;
const TEXT_BLOCK_BYTES: u32 = 4096;

/// The unit of `st_blocks`, whatever the block size.
pub(super) const STAT_BLOCK_BYTES: u64 = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    pub kind: NodeKind,
    pub size_bytes: u64,
    /// In units of 512 bytes.
    pub blocks: u64,
    pub block_bytes: u32,
    pub mode: u16,
    pub owner: Owner,
    /// Names that the file has, as far as its own file system says.
    pub links: u32,
    /// Of a device node inside a backup: its major and minor number.
    pub device: Option<(u32, u32)>,
    /// Of the last change, and of everything else that a file has a time of.
    pub time: SystemTime,
}

impl Vfs {
    pub(super) fn attributes_of(&self, node: &Node) -> Result<Attributes, VfsError> {
        let operator = self.owners.operator;
        match node {
            Node::Root
            | Node::ControlFolder
            | Node::VolumesFolder
            | Node::BackupsFolder
            | Node::JobsFolder
            | Node::QuotasFolder => Ok(folder(0o555, operator, self.started_at)),
            // Everybody removes his own here, and nothing else, as in /tmp. What is made here, control/scratch makes.
            Node::ScratchFolder => Ok(folder(0o1777, operator, self.started_at)),
            Node::SourceFolder(source) => Ok(self.held(&self.holders_of_source(source))),
            Node::VolumeFolder(source, volume) => Ok(self.held(&self.holders_of_volume(source, volume))),
            Node::BackupFolder(id) => {
                let record = self.record(*id)?;
                Ok(folder(0o550, self.owners.project(&record.project), record.updated_at))
            }
            Node::BackupLink(id) => {
                let record = self.record(*id)?;
                Ok(self.link(&record, record.created_at))
            }
            Node::LatestLink(id) => {
                let record = self.record(*id)?;
                Ok(self.link(&record, record.updated_at))
            }
            Node::Image(id) => self.image_record(*id).map(|record| self.image(&record)),
            Node::Scratch(id) => self.scratch_attributes(*id),
            Node::PartitionsFolder(disk) | Node::GroupFolder(disk, _) => {
                let of_disk = self.disk_attributes(*disk)?;
                Ok(folder(0o550, of_disk.owner, of_disk.time))
            }
            Node::Part(disk, part) => self.part_attributes(*disk, part),
            Node::Inner(inner) => self.inner_attributes(inner),
            Node::Events => Ok(text(self.events.length(), 0o440, operator, self.events.last_at())),
            Node::Control(_) => {
                let owner = Owner { gid: self.control_group, ..operator };
                Ok(text(0, 0o660, owner, self.started_at))
            }
            Node::Readme
            | Node::Status
            | Node::Metrics
            | Node::Info(_)
            | Node::Record(_)
            | Node::Job(_)
            | Node::Quota(_)
            | Node::ScratchInfo(_)
            | Node::PartitionTable(_)
            | Node::GroupTable(..) => {
                let document = self.document(node)?;
                Ok(text(document.text.len() as u64, document.mode, document.owner, document.time))
            }
        }
    }

    /// What several hold together is open to everybody, and shows to each what is his.
    fn held(&self, holders: &[Owner]) -> Attributes {
        let (mode, owner) = match holders {
            [] => (0o550, self.owners.operator),
            [one] => (0o550, *one),
            [_, _, ..] => (0o555, self.owners.operator),
        };
        folder(mode, owner, self.started_at)
    }

    fn link(&self, record: &BackupRecord, time: Timestamp) -> Attributes {
        let target = link_target(record.id);
        text(target.len() as u64, 0o777, self.owners.project(&record.project), time).of_kind(NodeKind::Link)
    }

    pub(super) fn image(&self, record: &BackupRecord) -> Attributes {
        Attributes {
            kind: NodeKind::File,
            size_bytes: record.size_bytes,
            blocks: record.allocated_bytes.div_ceil(STAT_BLOCK_BYTES),
            block_bytes: IMAGE_BLOCK_BYTES,
            mode: 0o440,
            owner: self.owners.project(&record.project),
            links: 1,
            device: None,
            time: record.data_timestamp.to_system_time(),
        }
    }
}

impl Attributes {
    /// Of what nothing but its kind is known.
    pub(super) fn unknown(kind: NodeKind, owner: Owner) -> Self {
        text(0, 0, owner, SystemTime::UNIX_EPOCH).of_kind(kind)
    }

    pub(super) fn of_scratch(image: &ScratchImage, owner: Owner) -> Self {
        Self {
            kind: NodeKind::File,
            size_bytes: image.size_bytes(),
            // Not only what was written: programs take a file without blocks for one hole.
            blocks: image.allocated_bytes().div_ceil(STAT_BLOCK_BYTES),
            block_bytes: IMAGE_BLOCK_BYTES,
            mode: 0o640,
            owner,
            links: 1,
            device: None,
            time: image.changed_at(),
        }
    }

    /// The attributes of a part of a disk.
    pub(super) fn of_part(self, length: u64, blocks: u64) -> Self {
        Self { size_bytes: length, blocks, ..self }
    }

    fn of_kind(self, kind: NodeKind) -> Self {
        Self { kind, ..self }
    }
}

pub(super) fn folder(mode: u16, owner: Owner, time: impl Into<SystemTime>) -> Attributes {
    text(0, mode, owner, time).of_kind(NodeKind::Folder)
}

fn text(length: u64, mode: u16, owner: Owner, time: impl Into<SystemTime>) -> Attributes {
    Attributes {
        kind: NodeKind::File,
        size_bytes: length,
        blocks: length.div_ceil(STAT_BLOCK_BYTES),
        block_bytes: TEXT_BLOCK_BYTES,
        mode,
        owner,
        links: 1,
        device: None,
        time: time.into(),
    }
}
