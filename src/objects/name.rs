//! Object names: one folder per kind, packs spread over 256 folders so that none grows too long.

use std::fmt;
use std::str::FromStr;

use crate::types::{BackupId, IdError, ManifestId, PackId};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    Pack,
    Manifest,
    Record,
}

impl ObjectKind {
    pub const ALL: [Self; 3] = [Self::Pack, Self::Manifest, Self::Record];

    /// The folder that holds objects of this kind.
    pub const fn folder(self) -> &'static str {
        match self {
            Self::Pack => "packs",
            Self::Manifest => "manifests",
            Self::Record => "records",
        }
    }

    /// Reads the last part of a name.
    pub fn parse_id(self, id: &str) -> Result<ObjectName, IdError> {
        Ok(match self {
            Self::Pack => ObjectName::Pack(PackId::from_str(id)?),
            Self::Manifest => ObjectName::Manifest(ManifestId::from_str(id)?),
            Self::Record => ObjectName::Record(BackupId::from_str(id)?),
        })
    }
}

/// The name of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectName {
    /// The one object that makes a folder a repository.
    Header,
    Pack(PackId),
    Manifest(ManifestId),
    Record(BackupId),
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("repository"),
            Self::Pack(id) => write!(f, "packs/{:02x}/{id}", id.as_bytes()[0]),
            Self::Manifest(id) => write!(f, "manifests/{id}"),
            Self::Record(id) => write!(f, "records/{id}"),
        }
    }
}
