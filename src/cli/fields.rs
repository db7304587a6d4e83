//! One JSON object of the tree (`info.json`, `jobs/ID`), with its fields in the contract's order.
//!
//! A field that is missing is null, and one that this version does not know is kept: daemon and command line may be
//! of different versions.

use serde_json::{Map, Value};

/// A backup's fields, in the order in which they are shown.
pub const BACKUP_FIELDS: [&str; 28] = [
    "id",
    "name",
    "description",
    "project",
    "status",
    "fail_reason",
    "volume_id",
    "volume_name",
    "source",
    "size",
    "size_bytes",
    "stored_bytes",
    "object_count",
    "container",
    "availability_zone",
    "is_incremental",
    "parent_id",
    "has_dependent_backups",
    "snapshot_id",
    "created_at",
    "updated_at",
    "data_timestamp",
    "properties",
    "volume_metadata",
    "image_sha256",
    "last_verified_at",
    "protected",
    "damage",
];

/// A job's fields, in the order in which they are shown.
pub const JOB_FIELDS: [&str; 15] = [
    "id",
    "kind",
    "state",
    "backup",
    "volume",
    "project",
    "bytes_done",
    "bytes_total",
    "bytes_per_second",
    "queued_at",
    "started_at",
    "ended_at",
    "error",
    "result",
    "warning",
];

#[derive(Debug, Clone, PartialEq)]
pub struct Fields(Map<String, Value>);

impl Fields {
    /// Reads one JSON object; the error is serde's sentence.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map(Self).map_err(|error| format!("it is not a JSON object: {error}"))
    }

    pub fn value(&self, name: &str) -> &Value {
        self.0.get(name).unwrap_or(&Value::Null)
    }

    /// Returns a text field; empty when it is null.
    pub fn text(&self, name: &str) -> &str {
        self.value(name).as_str().unwrap_or_default()
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        self.value(name).as_u64()
    }

    /// Returns `SOURCE/NAME` of the volume that a backup is of.
    pub fn volume(&self) -> String {
        format!("{}/{}", self.text("source"), self.text("volume_name"))
    }

    /// Does `volume` name the volume that this backup is of?
    pub fn is_of_volume(&self, volume: &str) -> bool {
        self.text("volume_name") == volume || self.text("volume_id") == volume || self.volume() == volume
    }

    /// Returns the known fields in their order, and then the others.
    pub fn ordered(&self, known: &[&str]) -> Vec<(String, Value)> {
        let first = known.iter().map(|name| ((*name).to_owned(), self.value(name).clone()));
        let others = self.0.iter().filter(|(name, _)| !known.contains(&name.as_str()));
        first.chain(others.map(|(name, value)| (name.clone(), value.clone()))).collect()
    }
}
