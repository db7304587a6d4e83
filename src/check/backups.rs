//! The third pass: what damage costs each backup. A chunk or a page that newer layers lie over costs it nothing.

use std::collections::{BTreeMap, HashSet};

use super::manifests::{Lookup, Manifests};
use super::packs::Packs;
use super::report::HurtBackup;
use super::{CheckError, Watch};
use crate::catalog::{BackupRecord, BackupStatus, CatalogError, ManifestReference, read_record};
use crate::format::manifest::{ManifestExtent, Target};
use crate::image;
use crate::objects::{ObjectEntry, ObjectError, ObjectKind, ObjectName, ObjectStore};
use crate::types::{BackupId, ByteRange, ManifestId, sentence};

/// The longest chain that is followed: a bound for records that anybody may have written.
const CHAIN_LENGTH_MAX: usize = 100_000;
/// So much of an image is resolved at once.
const STEP_BYTES: u64 = 64 << 20;

/// All records, read anew.
#[derive(Default)]
pub(super) struct Records {
    pub(super) readable: BTreeMap<BackupId, BackupRecord>,
    /// With the reason.
    pub(super) unreadable: BTreeMap<BackupId, String>,
}

impl Records {
    pub(super) fn read(objects: &dyn ObjectStore) -> Result<Self, CheckError> {
        let mut records = Self::default();
        for ObjectEntry { name, .. } in objects.list(ObjectKind::Record)? {
            let ObjectName::Record(id) = name else { continue };
            match read_record(objects, id) {
                Ok(record) => {
                    records.readable.insert(id, record);
                }
                // Deleted since the list was made.
                Err(CatalogError::Object(ObjectError::Missing { .. })) => {}
                Err(error) => {
                    records.unreadable.insert(id, sentence(&error));
                }
            }
        }
        Ok(records)
    }

    /// Returns the manifests that records name, those that are on their way out included.
    pub(super) fn named_manifests(&self) -> HashSet<ManifestId> {
        let named = |record: &BackupRecord| {
            let own = record.manifest.as_ref().map(|manifest| manifest.id);
            own.into_iter().chain(record.retired_manifests.iter().copied()).collect::<Vec<_>>()
        };
        self.readable.values().flat_map(named).collect()
    }

    /// Returns the backups that must read back.
    pub(super) fn with_data(&self) -> impl Iterator<Item = &BackupRecord> {
        self.readable.values().filter(|record| must_read_back(record))
    }

    pub(super) fn has(&self, id: BackupId) -> bool {
        self.readable.contains_key(&id) || self.unreadable.contains_key(&id)
    }

    /// Returns the manifests of a backup's chain, newest first, or why there are not all of them.
    fn chain(&self, of: &BackupRecord) -> Result<Vec<ManifestReference>, String> {
        let (mut record, mut chain) = (of, Vec::new());
        loop {
            let manifest = record.manifest.as_ref().filter(|_| chain.len() < CHAIN_LENGTH_MAX);
            let Some(manifest) = manifest else {
                return Err(format!("backup {}, on which it leans, has no data", record.id));
            };
            chain.push(manifest.clone());
            let Some(parent) = record.parent_id else { return Ok(chain) };
            record = self.readable.get(&parent).ok_or_else(|| {
                let how = if self.unreadable.contains_key(&parent) { "cannot be read" } else { "is missing" };
                format!("the record of backup {parent}, on which it leans, {how}")
            })?;
        }
    }
}

/// A backup that is being made has nothing yet, one that is being deleted may have lost some of it.
fn must_read_back(record: &BackupRecord) -> bool {
    let status =
        matches!(record.status, BackupStatus::Available | BackupStatus::Restoring | BackupStatus::Error);
    status && record.manifest.is_some()
}

/// Describes a backup of which nothing is known to be hurt yet.
pub(super) fn unhurt(record: &BackupRecord) -> HurtBackup {
    HurtBackup {
        id: record.id,
        name: record.name.clone(),
        volume: Some(format!("{}/{}", record.source, record.volume_name)),
        data_timestamp: Some(record.data_timestamp),
        size_bytes: record.size_bytes,
        hurt_bytes: 0,
        ranges: Vec::new(),
        ranges_left_out: 0,
        why: Vec::new(),
    }
}

/// Returns what of a backup cannot be read; nothing when it is whole.
pub(super) fn examine(
    record: &BackupRecord,
    records: &Records,
    manifests: &Manifests,
    packs: &mut Packs,
    watch: &Watch,
) -> Result<Option<HurtBackup>, CheckError> {
    let mut hurt = unhurt(record);
    let chain = match openable_chain(record, records, manifests) {
        Ok(chain) => chain,
        Err(why) => {
            hurt.add(ByteRange::new(0, record.size_bytes));
            hurt.because(|| why);
            return Ok(Some(hurt));
        }
    };
    let state = |manifest: &ManifestReference| manifests.known.get(&manifest.id);
    let is_whole = chain.iter().all(|manifest| state(manifest).is_some_and(|state| !state.is_hurt))
        && chain.last().and_then(state).is_some_and(|state| state.covers_image);
    if is_whole {
        return Ok(None);
    }
    let layers = match manifests.open_chain(&chain) {
        Ok(layers) => layers,
        // Deleted or flattened meanwhile, as a second look will find, or lost.
        Err(error) => {
            hurt.add(ByteRange::new(0, record.size_bytes));
            hurt.because(|| error.to_string());
            return Ok(Some(hurt));
        }
    };
    let mut lookup = Lookup::default();
    for piece in ByteRange::new(0, record.size_bytes).split_on_grid(STEP_BYTES) {
        watch.checkpoint()?;
        let readable = image::resolve_what_is_there(&layers, piece);
        let mut lost: Vec<_> = readable.lost.into_iter().map(|(range, _)| range).collect();
        if !lost.is_empty() {
            hurt.because(|| "a manifest of its chain does not tell any more what is there".to_owned());
        }
        for segment in readable.segments {
            if !lookup.has(packs, &segment)? {
                hurt.because(|| missing(&segment, packs));
                lost.push(segment.range);
            }
        }
        lost.sort_unstable();
        lost.into_iter().for_each(|range| hurt.add(range));
    }
    Ok(Some(hurt).filter(|hurt| hurt.hurt_bytes > 0))
}

/// Returns the chain when each of its manifests is there, opens, and is the one that the record means.
fn openable_chain(
    record: &BackupRecord,
    records: &Records,
    manifests: &Manifests,
) -> Result<Vec<ManifestReference>, String> {
    let chain = records.chain(record)?;
    for manifest in &chain {
        let name = ObjectName::Manifest(manifest.id);
        let state = manifests.known.get(&manifest.id).ok_or_else(|| format!("{name} is missing"))?;
        match &state.reference {
            None => return Err(format!("{name} cannot be opened: {}", state.why)),
            Some(reference) if reference != manifest => {
                return Err(format!("{name} is another one than the record names"));
            }
            Some(_) => {}
        }
    }
    Ok(chain)
}

fn missing(segment: &ManifestExtent, packs: &Packs) -> String {
    let Target::Chunk { id, .. } = segment.target else { return String::new() };
    match packs.damaged_chunks.get(&id) {
        Some(pack) => format!("chunk {id} is damaged in {}", ObjectName::Pack(*pack)),
        None => format!("chunk {id} is in no pack that can be read"),
    }
}
