//! What a scratch image says of itself: `about.json` in its folder. It may be lost without harm to any backup.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::sysio::{PathError, atomic};
use crate::types::{BackupId, ProjectName, ScratchId, Timestamp};

pub(super) const FILE: &str = "about.json";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    pub id: ScratchId,
    pub name: String,
    pub backup: BackupId,
    pub project: ProjectName,
    /// Is it there again after a restart?
    pub keep: bool,
    pub size_bytes: u64,
    /// Bytes of the backup's image that are not holes.
    pub backup_allocated_bytes: u64,
    pub created_at: Timestamp,
    /// Which start of the machine wrote to it last.
    pub boot_id: Option<String>,
}

impl About {
    pub(super) fn read(folder: &Path) -> Result<Self, PathError> {
        let path = folder.join(FILE);
        let text = std::fs::read(&path).map_err(|error| PathError::new("read", &path, error))?;
        serde_json::from_slice(&text).map_err(|error| PathError::new("understand", &path, error))
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), PathError> {
        let path = folder.join(FILE);
        let text = serde_json::to_vec_pretty(self).map_err(|error| PathError::new("write", &path, error))?;
        atomic::replace(folder, &path, &text)
    }
}
