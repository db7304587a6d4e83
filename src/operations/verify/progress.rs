//! How far a verification is, in a file beside the index that may be lost at any time.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::catalog::DamagedRanges;
use crate::repository::Repository;
use crate::sysio::{PathError, atomic};
use crate::types::{BackupId, ByteRate};

/// A longer file is none of ours.
const LENGTH_MAX: u64 = 1 << 20;

/// What is to be verified, and what was found below a position.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Progress {
    pub(super) backup: BackupId,
    pub(super) against_source: bool,
    pub(super) rate: Option<ByteRate>,
    /// Were others found damaged, and is this one verified for that? Then it asks for no more.
    pub(super) follows: bool,
    /// The image was read below this offset.
    pub(super) position: u64,
    /// The state of its SHA-256 there; null when it is not known.
    pub(super) hash: Option<String>,
    pub(super) found: Found,
}

/// What is not right.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Found {
    /// Bytes that cannot be read, or differ from the snapshot.
    pub(super) damaged: DamagedRanges,
    /// So many of them differ from the snapshot.
    pub(super) differing_bytes: u64,
    /// The first reason.
    pub(super) cause: Option<String>,
    /// What is wrong beside the image, a sentence each.
    pub(super) beside: Vec<String>,
    /// Something that only other backups of the chain need is damaged.
    pub(super) concerns_others: bool,
}

impl Progress {
    pub(super) fn new(backup: BackupId) -> Self {
        Self {
            backup,
            against_source: false,
            rate: None,
            follows: false,
            position: 0,
            hash: None,
            found: Found::default(),
        }
    }

    fn path(&self, repository: &Repository) -> PathBuf {
        let kind = if self.against_source { ".source" } else { "" };
        folder(repository).join(format!("{}{kind}", self.backup))
    }

    /// Remembers it; a failure is told, and costs no more than that the next daemon begins anew.
    pub(super) fn save(&self, repository: &Repository) {
        if let Err(error) = self.try_save(repository) {
            tracing::warn!(cause = %error.source, "{error}: after a restart the verification begins anew");
        }
    }

    fn try_save(&self, repository: &Repository) -> Result<(), PathError> {
        let path = self.path(repository);
        let text = serde_json::to_vec(self).map_err(|error| PathError::new("encode", &path, error))?;
        let temporary = repository.state_folder().join("tmp");
        atomic::create_folder(&temporary)?;
        atomic::create_folder(&folder(repository))?;
        atomic::replace(&temporary, &path, &text)
    }

    /// Forgets it: the verification has ended.
    pub(super) fn remove(&self, repository: &Repository) {
        if let Err(error) = atomic::remove(&self.path(repository)) {
            tracing::warn!(cause = %error.source, "{error}: after a restart it is verified again");
        }
    }

    /// Returns the verifications that the daemon before this one did not end.
    pub(super) fn left(repository: &Repository) -> Vec<Self> {
        // No folder, none left.
        let Ok(entries) = std::fs::read_dir(folder(repository)) else { return Vec::new() };
        entries.filter_map(|entry| read(&entry.ok()?.path())).collect()
    }
}

fn folder(repository: &Repository) -> PathBuf {
    repository.state_folder().join("verify")
}

fn read(path: &Path) -> Option<Progress> {
    if std::fs::metadata(path).ok()?.len() > LENGTH_MAX {
        return None;
    }
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}
