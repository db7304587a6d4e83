//! A backup's fields as users see them: `info.json` and `amberfs backup show`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{BackupDamage, BackupRecord};
use crate::format::record::BackupStatus;
use crate::types::{
    BackupId, ProjectName, SourceName, Timestamp, VolumeId, VolumeMetadata, VolumeName, gib_rounded_up,
};

/// The fields of the contract, in its order. A field that does not apply is null.
#[derive(Debug, Serialize)]
pub struct BackupInfo<'a> {
    id: BackupId,
    name: Option<&'a str>,
    description: Option<&'a str>,
    project: &'a ProjectName,
    status: BackupStatus,
    fail_reason: Option<&'a str>,
    volume_id: &'a VolumeId,
    volume_name: &'a VolumeName,
    source: &'a SourceName,
    size: u64,
    size_bytes: u64,
    stored_bytes: u64,
    object_count: u64,
    container: &'a str,
    availability_zone: Option<&'a str>,
    is_incremental: bool,
    parent_id: Option<BackupId>,
    has_dependent_backups: bool,
    snapshot_id: Option<&'a str>,
    created_at: Timestamp,
    updated_at: Timestamp,
    data_timestamp: Timestamp,
    properties: &'a BTreeMap<String, String>,
    volume_metadata: &'a VolumeMetadata,
    image_sha256: Option<&'a str>,
    last_verified_at: Option<Timestamp>,
    protected: bool,
    damage: Option<&'a BackupDamage>,
}

impl<'a> BackupInfo<'a> {
    /// `container` is the repository's location.
    pub fn new(record: &'a BackupRecord, has_dependent_backups: bool, container: &'a str) -> Self {
        Self {
            id: record.id,
            name: record.name.as_deref(),
            description: record.description.as_deref(),
            project: &record.project,
            status: record.status,
            fail_reason: record.fail_reason.as_deref(),
            volume_id: &record.volume_id,
            volume_name: &record.volume_name,
            source: &record.source,
            size: gib_rounded_up(record.size_bytes),
            size_bytes: record.size_bytes,
            stored_bytes: record.stored_bytes,
            object_count: record.object_count,
            container,
            availability_zone: record.availability_zone.as_deref(),
            is_incremental: record.is_incremental(),
            parent_id: record.parent_id,
            has_dependent_backups,
            snapshot_id: record.snapshot_id.as_deref(),
            created_at: record.created_at,
            updated_at: record.updated_at,
            data_timestamp: record.data_timestamp,
            properties: &record.properties,
            volume_metadata: &record.volume_metadata,
            image_sha256: record.image_sha256.as_deref(),
            last_verified_at: record.last_verified_at,
            protected: record.protected,
            damage: record.damage.as_ref(),
        }
    }

    /// Returns the fields as one JSON object and a line feed.
    pub fn to_json(&self) -> String {
        let mut json = serde_json::to_string_pretty(self).unwrap_or_default();
        json.push('\n');
        json
    }
}
