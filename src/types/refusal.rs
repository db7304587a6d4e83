//! Why a command is refused: the names of the contract (interface, "Control files"), one place for all of them.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as NameError, StrDeserializer};

/// The names that the contract gives to refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
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
    ScratchNotFound,
    ScratchExists,
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
            Self::ScratchNotFound => "ScratchNotFound",
            Self::ScratchExists => "ScratchExists",
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

impl FromStr for Refusal {
    type Err = String;

    /// Reads what `Display` writes.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, sentence) = text.split_once(": ").ok_or_else(|| format!("{text:?} is no refusal"))?;
        let name: StrDeserializer<'_, NameError> = name.into_deserializer();
        let kind = RefusalKind::deserialize(name).map_err(|error| error.to_string())?;
        Ok(Self::new(kind, sentence))
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_read_as_it_was_written() {
        for kind in [RefusalKind::Failed, RefusalKind::VolumeBackupSizeExceedsAvailableQuota] {
            let refusal = Refusal::new(kind, "no space: 0 bytes are left");
            assert_eq!(refusal.to_string().parse(), Ok(refusal));
        }
        assert!("Unheard: of".parse::<Refusal>().is_err());
    }
}
