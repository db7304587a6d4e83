//! What a path of the tree is. A node says what, not where it is in memory: two nodes that are equal are one inode.

use std::time::Duration;

use crate::jobs::JobId;
use crate::types::{BackupId, SourceName, VolumeName};

/// One file, folder or link of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Node {
    Root,
    Readme,
    Status,
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
    /// The link to a volume's newest readable backup.
    LatestLink(SourceName, VolumeName),
    BackupsFolder,
    BackupFolder(BackupId),
    Image(BackupId),
    Info(BackupId),
    Record(BackupId),
    JobsFolder,
    Job(JobId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    Folder,
    File,
    Link,
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
            | Self::JobsFolder => NodeKind::Folder,
            Self::BackupLink(_) | Self::LatestLink(..) => NodeKind::Link,
            Self::Readme
            | Self::Status
            | Self::Events
            | Self::Control(_)
            | Self::Image(_)
            | Self::Info(_)
            | Self::Record(_)
            | Self::Job(_) => NodeKind::File,
        }
    }

    /// Returns the folder that a folder is in. What is no folder is not asked.
    pub fn parent(&self) -> Self {
        debug_assert_eq!(self.kind(), NodeKind::Folder);
        match self {
            Self::SourceFolder(_) => Self::VolumesFolder,
            Self::VolumeFolder(source, _) => Self::SourceFolder(source.clone()),
            Self::BackupFolder(_) => Self::BackupsFolder,
            _ => Self::Root,
        }
    }

    /// How long the kernel may take it for granted that the name leads here.
    pub fn name_cached_for(&self) -> Duration {
        match self {
            Self::Root
            | Self::Readme
            | Self::Status
            | Self::Events
            | Self::ControlFolder
            | Self::Control(_)
            | Self::VolumesFolder
            | Self::BackupsFolder
            | Self::JobsFolder => LONG,
            Self::SourceFolder(_) | Self::VolumeFolder(..) | Self::Job(_) => SHORT,
            // Who has seen a delete end, or a name change, finds it so at once.
            Self::BackupLink(_)
            | Self::LatestLink(..)
            | Self::BackupFolder(_)
            | Self::Image(_)
            | Self::Info(_)
            | Self::Record(_) => Duration::ZERO,
        }
    }

    /// How long the kernel may take size, owner and times for granted.
    pub fn attributes_cached_for(&self) -> Duration {
        match self {
            // An image never changes; that it is gone is found out by its name.
            Self::Readme | Self::Image(_) => LONG,
            Self::Root
            | Self::ControlFolder
            | Self::VolumesFolder
            | Self::SourceFolder(_)
            | Self::VolumeFolder(..)
            | Self::BackupLink(_)
            | Self::LatestLink(..)
            | Self::BackupsFolder
            | Self::BackupFolder(_)
            | Self::JobsFolder => SHORT,
            // Their length is that of a text which is made anew each time; a control file's is what was written
            // to it in the kernel's opinion, and nothing in ours.
            // Who follows the events with tail looks at their length again and again.
            Self::Events
            | Self::Status
            | Self::Control(_)
            | Self::Info(_)
            | Self::Record(_)
            | Self::Job(_) => Duration::ZERO,
        }
    }
}
