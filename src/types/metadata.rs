//! What a source says of a volume beyond its bytes, kept in the backup and used again by a restore.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A volume's properties. All are `None` or empty for a volume in a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeMetadata {
    /// The RBD image-meta as it is, keys of ours (`amberfs.`) left out.
    pub image_meta: BTreeMap<String, String>,
    /// RBD feature names: `layering`, `exclusive-lock`, `object-map`, `fast-diff`, `deep-flatten`, ...
    pub features: Vec<String>,
    /// Bytes of one RADOS object.
    pub object_size: Option<u64>,
    /// Bytes, and objects, of a stripe.
    pub stripe_unit: Option<u64>,
    pub stripe_count: Option<u64>,
    pub data_pool: Option<String>,
    /// Kept as it was, for volumes that were encrypted before they reached us.
    pub encryption_key_id: Option<String>,
}
