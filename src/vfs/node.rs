//! What a path of the tree is. A node says what, not where it is in memory: two nodes that are equal are one inode.

use std::time::Duration;

use super::files::{FilesPlace, InnerFile};
use super::insides::Disk;
use crate::contents::PartName;
use crate::files::{FileKind, FilePath};
use crate::jobs::JobId;
use crate::types::{BackupId, ProjectName, ScratchId, SourceName, VolumeName};

/// One file, folder or link of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Node {
    Root,
    Readme,
    Status,
    /// Numbers for whoever watches over it.
    Metrics,
    /// One line for each thing that happens.
    Events,
    ControlFolder,
    /// A control file, by a name of [`CONTROL_FILES`](super::CONTROL_FILES).
    Control(&'static str),
    VolumesFolder,
    SourceFolder(SourceName),
    VolumeFolder(SourceName, VolumeName),
    /// The link of one backup in its volume's folder.
    BackupLink(BackupId),
    /// The link to a backup that is its volume's newest readable one, for whoever sees it.
    LatestLink(BackupId),
    BackupsFolder,
    BackupFolder(BackupId),
    Image(BackupId),
    Info(BackupId),
    Record(BackupId),
    JobsFolder,
    Job(JobId),
    QuotasFolder,
    /// What a project uses of its limits.
    Quota(ProjectName),
    ScratchFolder,
    /// A scratch image: one that is made again under its name is another file.
    Scratch(ScratchId),
    /// What it is a view of, and what was written to it.
    ScratchInfo(ScratchId),
    /// The folder of a disk's partitions.
    PartitionsFolder(Disk),
    /// What a disk's partition table says.
    PartitionTable(Disk),
    /// The folder of the logical volumes that are in a partition, or in the disk itself.
    GroupFolder(Disk, Option<u32>),
    /// What LVM's metadata there says.
    GroupTable(Disk, Option<u32>),
    /// A partition or a logical volume.
    Part(Disk, PartName),
    /// A file or folder of a file system inside a backup.
    Inner(InnerFile),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    Folder,
    File,
    Link,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

impl From<FileKind> for NodeKind {
    fn from(kind: FileKind) -> Self {
        match kind {
            FileKind::File => Self::File,
            FileKind::Folder => Self::Folder,
            FileKind::Link => Self::Link,
            FileKind::Fifo => Self::Fifo,
            FileKind::Socket => Self::Socket,
            FileKind::CharDevice => Self::CharDevice,
            FileKind::BlockDevice => Self::BlockDevice,
        }
    }
}

/// What comes and goes is asked for again after this time.
const SHORT: Duration = Duration::from_secs(1);
/// What stays as it is while the daemon runs.
const LONG: Duration = Duration::from_secs(3600);

impl Node {
    pub fn kind(&self) -> NodeKind {
        match self {
            Self::Root
            | Self::ControlFolder
            | Self::VolumesFolder
            | Self::SourceFolder(_)
            | Self::VolumeFolder(..)
            | Self::BackupsFolder
            | Self::BackupFolder(_)
            | Self::JobsFolder
            | Self::QuotasFolder
            | Self::ScratchFolder
            | Self::PartitionsFolder(_)
            | Self::GroupFolder(..) => NodeKind::Folder,
            Self::BackupLink(_) | Self::LatestLink(_) => NodeKind::Link,
            Self::Readme
            | Self::Status
            | Self::Metrics
            | Self::Events
            | Self::Control(_)
            | Self::Image(_)
            | Self::Info(_)
            | Self::Record(_)
            | Self::Job(_)
            | Self::Quota(_)
            | Self::Scratch(_)
            | Self::ScratchInfo(_)
            | Self::Part(..)
            | Self::GroupTable(..)
            | Self::PartitionTable(_) => NodeKind::File,
            Self::Inner(inner) => inner.kind.into(),
        }
    }

    /// Returns the folder that a folder is in. What is no folder is not asked.
    pub fn parent(&self) -> Self {
        debug_assert_eq!(self.kind(), NodeKind::Folder);
        match self {
            Self::SourceFolder(_) => Self::VolumesFolder,
            Self::VolumeFolder(source, _) => Self::SourceFolder(source.clone()),
            Self::BackupFolder(_) => Self::BackupsFolder,
            Self::PartitionsFolder(disk) | Self::GroupFolder(disk, None) => Self::folder_of_disk(*disk),
            Self::GroupFolder(disk, Some(_)) => Self::PartitionsFolder(*disk),
            Self::Inner(inner) => inner.parent(),
            _ => Self::Root,
        }
    }

    /// How long the kernel may take it for granted that the name leads here, for whoever may look into the folder.
    pub fn name_cached_for(&self) -> Duration {
        match self {
            Self::Root
            | Self::Readme
            | Self::Status
            | Self::Metrics
            | Self::Events
            | Self::ControlFolder
            | Self::Control(_)
            | Self::VolumesFolder
            | Self::BackupsFolder
            | Self::JobsFolder
            | Self::QuotasFolder
            | Self::ScratchFolder => LONG,
            Self::SourceFolder(_) | Self::VolumeFolder(..) | Self::Job(_) | Self::Quota(_) => SHORT,
            // Who has seen a delete end, or a name change, finds it so at once.
            Self::BackupLink(_)
            | Self::LatestLink(_)
            | Self::BackupFolder(_)
            | Self::Image(_)
            | Self::Info(_)
            | Self::Record(_)
            | Self::Scratch(_)
            | Self::ScratchInfo(_)
            | Self::PartitionsFolder(_)
            | Self::PartitionTable(_)
            | Self::GroupFolder(..)
            | Self::GroupTable(..)
            | Self::Part(Disk::Scratch(_), _) => Duration::ZERO,
            Self::Part(Disk::Backup(_), _) => LONG,
            // Who is root sees another folder there than who is not.
            Self::Inner(inner) if inner.path.is_root() => Duration::ZERO,
            Self::Inner(_) => LONG,
        }
    }

    /// How long the kernel may take size, owner and times for granted.
    pub fn attributes_cached_for(&self) -> Duration {
        match self {
            // An image never changes; that it is gone is found out by its name.
            Self::Readme | Self::Image(_) | Self::Part(Disk::Backup(_), _) | Self::Inner(_) => LONG,
            Self::Root
            | Self::ControlFolder
            | Self::VolumesFolder
            | Self::SourceFolder(_)
            | Self::VolumeFolder(..)
            | Self::BackupLink(_)
            | Self::LatestLink(_)
            | Self::BackupsFolder
            | Self::BackupFolder(_)
            | Self::JobsFolder
            | Self::QuotasFolder
            | Self::ScratchFolder
            | Self::Scratch(_)
            | Self::PartitionsFolder(_)
            | Self::GroupFolder(..)
            | Self::Part(Disk::Scratch(_), _) => SHORT,
            // Their length is that of a text which is made anew each time; a control file's is what was written
            // to it in the kernel's opinion, and nothing in ours.
            // Who follows the events with tail looks at their length again and again.
            Self::Events
            | Self::Status
            | Self::Metrics
            | Self::Control(_)
            | Self::Info(_)
            | Self::Record(_)
            | Self::Job(_)
            | Self::Quota(_)
            | Self::ScratchInfo(_)
            | Self::PartitionTable(_)
            | Self::GroupTable(..) => Duration::ZERO,
        }
    }

    /// The folder that the image of a part is in.
    pub(super) fn folder_of_part(disk: Disk, part: &PartName) -> Self {
        match (&part.logical_volume, part.partition) {
            (Some(_), partition) => Self::GroupFolder(disk, partition),
            (None, Some(_)) => Self::PartitionsFolder(disk),
            (None, None) => Self::folder_of_disk(disk),
        }
    }

    fn folder_of_disk(disk: Disk) -> Self {
        match disk {
            Disk::Backup(id) => Self::BackupFolder(id),
            Disk::Scratch(_) => Self::ScratchFolder,
        }
    }

    /// The root of the files at a place, as root sees it or as others do.
    pub(super) fn files_root(place: FilesPlace, as_root: bool) -> Self {
        let path = FilePath::root();
        Self::Inner(InnerFile { place, as_root, path, kind: FileKind::Folder, number: None })
    }
}
