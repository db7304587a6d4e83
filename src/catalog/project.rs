//! Projects: tenants that own sources and backups, and what they may use.

use serde::Deserialize;

use crate::types::{ProjectName, SourceName};

/// Limits of one project; -1 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quota {
    pub backups: i64,
    pub backup_gigabytes: i64,
    pub volumes: i64,
    pub gigabytes: i64,
}

impl Default for Quota {
    fn default() -> Self {
        Self { backups: -1, backup_gigabytes: -1, volumes: -1, gigabytes: -1 }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    pub name: ProjectName,
    pub sources: Vec<SourceName>,
    /// Owner and group of the project's part of the tree.
    pub uid: u32,
    pub gid: u32,
    pub quota: Quota,
}
