//! Why a command is refused: the names of the contract (interface, "Control files"), one place for all of them.

use std::fmt;

/// The names that the contract gives to refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    InvalidInput,
    VolumeNotFound,
    SnapshotNotFound,
    BackupNotFound,
    JobNotFound,
    VolumeTypeNotFound,
    AmbiguousName,
    VolumeInUse,
    InvalidSnapshot,
    BackupHasDependents,
    InvalidState,
    VolumeBackupLimitExceeded,
    VolumeBackupSizeExceedsAvailableQuota,
    VolumeLimitExceeded,
    VolumeSizeExceedsAvailableQuota,
    VolumeExists,
    VolumeTooSmall,
    NotAuthorized,
    ReadOnly,
    BackupExists,
    InvalidRecord,
    /// The source cannot be reached or refuses us: not the command's fault, and worth trying again.
    SourceUnavailable,
    /// The repository or this machine failed: the sentence names the object and the cause.
    Failed,
}

impl RefusalKind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::InvalidInput => "InvalidInput",
            Self::VolumeNotFound => "VolumeNotFound",
            Self::SnapshotNotFound => "SnapshotNotFound",
            Self::BackupNotFound => "BackupNotFound",
            Self::JobNotFound => "JobNotFound",
            Self::VolumeTypeNotFound => "VolumeTypeNotFound",
            Self::AmbiguousName => "AmbiguousName",
            Self::VolumeInUse => "VolumeInUse",
            Self::InvalidSnapshot => "InvalidSnapshot",
            Self::BackupHasDependents => "BackupHasDependents",
            Self::InvalidState => "InvalidState",
            Self::VolumeBackupLimitExceeded => "VolumeBackupLimitExceeded",
            Self::VolumeBackupSizeExceedsAvailableQuota => "VolumeBackupSizeExceedsAvailableQuota",
            Self::VolumeLimitExceeded => "VolumeLimitExceeded",
            Self::VolumeSizeExceedsAvailableQuota => "VolumeSizeExceedsAvailableQuota",
            Self::VolumeExists => "VolumeExists",
            Self::VolumeTooSmall => "VolumeTooSmall",
            Self::NotAuthorized => "NotAuthorized",
            Self::ReadOnly => "ReadOnly",
            Self::BackupExists => "BackupExists",
            Self::InvalidRecord => "InvalidRecord",
            Self::SourceUnavailable => "SourceUnavailable",
            Self::Failed => "Failed",
        }
    }
}

/// A refused command, or a failed job: `NAME: sentence`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub kind: RefusalKind,
    /// One sentence that names what, where and why, and what to do.
    pub sentence: String,
}

impl Refusal {
    pub fn new(kind: RefusalKind, sentence: impl Into<String>) -> Self {
        Self { kind, sentence: sentence.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line whatever the sentence holds: it stands in answers and in jobs/ID.
        write!(f, "{}: {}", self.kind.name(), self.sentence.replace('\n', " "))
    }
}

impl std::error::Error for Refusal {}
