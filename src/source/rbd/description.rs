//! What an image says of itself: its metadata, its snapshots, who holds it.

use std::collections::BTreeMap;

use super::librbd::{CreateOptions, Failure, Image, Pool};
use crate::source::SnapshotInfo;
use crate::types::{SnapshotName, VolumeMetadata};

/// The features that an image can be given when it is made, and their bits. The others follow from other options
/// (`striping`, `data-pool`) or describe a passing state (`operations`, `migrating`, ...).
const SETTABLE_FEATURES: [(&str, u64); 6] = [
    ("layering", 1 << 0),
    ("exclusive-lock", EXCLUSIVE_LOCK),
    ("object-map", OBJECT_MAP),
    ("fast-diff", FAST_DIFF),
    ("deep-flatten", 1 << 5),
    ("journaling", JOURNALING),
];
const OTHER_FEATURES: [(&str, u64); 6] = [
    ("striping", 1 << 1),
    ("data-pool", 1 << 7),
    ("operations", 1 << 8),
    ("migrating", 1 << 9),
    ("non-primary", 1 << 10),
    ("dirty-cache", 1 << 11),
];
const EXCLUSIVE_LOCK: u64 = super::librbd::FEATURE_EXCLUSIVE_LOCK;
const OBJECT_MAP: u64 = 1 << 3;
const FAST_DIFF: u64 = super::librbd::FEATURE_FAST_DIFF;
const JOURNALING: u64 = 1 << 6;
/// All settable ones but journaling: Ceph's own default.
const DEFAULT_FEATURES: u64 = 61;

const METADATA_PAGE: u64 = 64;
/// No image has more than a few dozen; this only ends a list that never does.
const METADATA_PAGES_MAX: usize = 10_000;

/// Image-meta of ours says nothing of the volume.
const OUR_KEYS: &str = "amberfs.";
const ENCRYPTION_KEYS: [&str; 2] = ["encryption_key_id", "rbd_encryption_key_id"];

/// Returns all that a backup keeps of an image.
pub fn metadata(image: &Image) -> Result<VolumeMetadata, Failure> {
    let image_meta = image_meta(image)?;
    let features = image.features()?;
    let object_size = image.object_size()?;
    let stripe_unit = image.stripe_unit()?;
    let stripe_count = image.stripe_count()?;
    let named = SETTABLE_FEATURES.iter().chain(&OTHER_FEATURES);
    Ok(VolumeMetadata {
        encryption_key_id: ENCRYPTION_KEYS.iter().find_map(|key| image_meta.get(*key).cloned()),
        image_meta,
        features: named.filter(|(_, bit)| features & bit != 0).map(|(name, _)| (*name).to_owned()).collect(),
        object_size: Some(object_size),
        stripe_unit: Some(stripe_unit),
        stripe_count: Some(stripe_count),
        data_pool: data_pool(image, features)?,
    })
}

fn image_meta(image: &Image) -> Result<BTreeMap<String, String>, Failure> {
    let mut all = BTreeMap::new();
    let mut last = String::new();
    for _ in 0..METADATA_PAGES_MAX {
        let page = image.metadata_page(&last, METADATA_PAGE)?;
        let Some((key, _)) = page.last() else { break };
        last.clone_from(key);
        all.extend(page.into_iter().filter(|(key, _)| !key.starts_with(OUR_KEYS)));
    }
    Ok(all)
}

fn data_pool(image: &Image, features: u64) -> Result<Option<String>, Failure> {
    if features & (1 << 7) == 0 {
        return Ok(None);
    }
    image.pool().pool_name(image.data_pool_id()?).map(Some)
}

/// Returns how to make an image with this metadata; what this cluster cannot follow is left out.
pub fn create_options(pool: &Pool, metadata: &VolumeMetadata) -> CreateOptions {
    let wanted = |name: &str| metadata.features.iter().any(|feature| feature == name);
    let mut features: u64 =
        SETTABLE_FEATURES.iter().filter(|(name, _)| wanted(name)).map(|(_, bit)| bit).sum();
    if features == 0 {
        features = DEFAULT_FEATURES;
    }
    // Each needs the one before it.
    if features & FAST_DIFF != 0 {
        features |= OBJECT_MAP;
    }
    if features & (OBJECT_MAP | JOURNALING) != 0 {
        features |= EXCLUSIVE_LOCK;
    }
    // RBD's limits: 4 KiB to 32 MiB.
    let object_size =
        metadata.object_size.filter(|size| size.is_power_of_two() && (12..=25).contains(&size.ilog2()));
    let stripe_unit_and_count = match (metadata.stripe_unit, metadata.stripe_count) {
        // A stripe of one whole object is what an image has anyway.
        (Some(unit), Some(count)) if count > 1 || metadata.object_size.is_some_and(|size| size != unit) => {
            Some((unit, count))
        }
        _ => None,
    };
    let data_pool = metadata.data_pool.clone().filter(|name| {
        let exists = pool.pool_id(name).is_some();
        if !exists {
            tracing::warn!(
                data_pool = name,
                "the cluster has no such pool: the volume's data goes into its own"
            );
        }
        exists
    });
    CreateOptions {
        features,
        order: object_size.map(|size| size.ilog2().into()),
        stripe_unit_and_count,
        data_pool,
    }
}

/// Gives the image the metadata's image-meta.
pub fn set_image_meta(image: &Image, metadata: &VolumeMetadata) -> Result<(), Failure> {
    for (key, value) in &metadata.image_meta {
        image.set_metadata(key, value)?;
    }
    match &metadata.encryption_key_id {
        Some(id) if !ENCRYPTION_KEYS.iter().any(|key| metadata.image_meta.contains_key(*key)) => {
            image.set_metadata(ENCRYPTION_KEYS[0], id)
        }
        _ => Ok(()),
    }
}

/// Returns the snapshots that users made, oldest first.
pub fn snapshots(image: &Image) -> Result<Vec<SnapshotInfo>, Failure> {
    let mut infos = Vec::new();
    for entry in image.snapshots()?.into_iter().filter(|entry| entry.is_users) {
        let Ok(name) = SnapshotName::try_from(entry.name) else { continue };
        let created_at = image.snapshot_time(entry.id)?;
        infos.push(SnapshotInfo { name, id: entry.id, created_at, size_bytes: entry.size });
    }
    Ok(infos)
}

/// Says who else has the image open for writing: other connections than this one, of this host too. Whoever locked it
/// by hand (`rbd lock add`) says that it is in use, too.
pub fn other_writer(image: &Image) -> Result<Option<String>, Failure> {
    let ours = image.pool().client_id();
    if let Some(other) = image.watchers()?.into_iter().find(|watcher| watcher.client_id != ours) {
        return Ok(Some(format!("client.{} at {} has it open", other.client_id, other.address)));
    }
    // librbd takes and gives back its own lock by itself; one whose owner does not watch the image is of a dead client.
    let by_hand = image.lockers()?.into_iter().find(|locker| !locker.cookie.starts_with("auto "));
    Ok(by_hand.map(|locker| format!("{} holds the lock {:?} on it", locker.client, locker.cookie)))
}
