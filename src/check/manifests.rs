//! The second pass: every manifest is read, all its pages, and each chunk that it names is looked up.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::packs::Packs;
use super::report::DamagedObject;
use super::{CheckError, Watch};
use crate::catalog::{BackupRecord, ManifestReference};
use crate::format::manifest::{ManifestExtent, Target};
use crate::objects::{ObjectEntry, ObjectError, ObjectKind, ObjectName, ObjectStore};
use crate::store::{ManifestReader, PageCache, StoreError, Visited};
use crate::types::{ByteRange, ChunkId, ManifestId, sentence};

/// Pages are read once, from one end to the other.
const PAGE_CACHE_BYTES: u64 = 16 << 20;
/// So many extents lie between two looks at whether to go on.
const CHECKPOINT_EVERY: u64 = 4096;

/// A manifest as it was found.
pub(super) struct ManifestState {
    pub(super) length: u64,
    /// What a record that names it has; nothing when it cannot be opened.
    pub(super) reference: Option<ManifestReference>,
    /// Why it cannot be opened.
    pub(super) why: String,
    /// Some of what it says is lost, or some of the chunks that it names are.
    pub(super) is_hurt: bool,
    /// It leaves no gap in the image, as a full backup's must not.
    pub(super) covers_image: bool,
    pub(super) object: Option<Box<DamagedObject>>,
    /// The record in it, of a manifest that no record names.
    pub(super) about: Option<Box<BackupRecord>>,
}

/// Is told of each extent that needs a chunk which is not there.
pub(super) type Wants<'a> = dyn FnMut(ManifestId, &ManifestExtent) + 'a;

pub(super) struct Manifests {
    objects: Arc<dyn ObjectStore>,
    pub(super) known: BTreeMap<ManifestId, ManifestState>,
}

impl Manifests {
    pub(super) fn new(objects: Arc<dyn ObjectStore>) -> Self {
        Self { objects, known: BTreeMap::new() }
    }

    pub(super) fn list(&self) -> Result<BTreeMap<ManifestId, u64>, CheckError> {
        let entries = self.objects.list(ObjectKind::Manifest)?;
        let manifest = |ObjectEntry { name, length, .. }| match name {
            ObjectName::Manifest(id) => Some((id, length)),
            _ => None,
        };
        Ok(entries.into_iter().filter_map(manifest).collect())
    }

    /// Reads these manifests anew. Some are `named` by records.
    pub(super) fn read(
        &mut self,
        listed: &BTreeMap<ManifestId, u64>,
        named: &HashSet<ManifestId>,
        packs: &mut Packs,
        watch: &Watch,
        wants: &mut Wants<'_>,
    ) -> Result<(), CheckError> {
        self.known.clear();
        let total: u64 = listed.values().sum();
        let mut done = 0;
        for (id, length) in listed {
            watch.tell("manifests", done, total);
            if let Some(mut state) = self.read_one(*id, *length, packs, watch, wants)? {
                state.about = state.about.filter(|_| !named.contains(id));
                self.known.insert(*id, state);
            }
            done += length;
        }
        watch.tell("manifests", total, total);
        Ok(())
    }

    fn read_one(
        &self,
        id: ManifestId,
        length: u64,
        packs: &mut Packs,
        watch: &Watch,
        wants: &mut Wants<'_>,
    ) -> Result<Option<ManifestState>, CheckError> {
        let mut object = DamagedObject::new(ObjectName::Manifest(id).to_string());
        let mut state = ManifestState {
            length,
            reference: None,
            why: String::new(),
            is_hurt: true,
            covers_image: false,
            object: None,
            about: None,
        };
        let (reader, reference) = match self.open(id) {
            Ok(opened) => opened,
            // Of a backup that was deleted since the list was made; a record that names it will miss it.
            Err(StoreError::Object(ObjectError::Missing { .. })) => return Ok(None),
            Err(error) => {
                state.why = sentence(&error);
                object.add(None, state.why.clone());
                state.object = Some(Box::new(object));
                return Ok(Some(state));
            }
        };
        state.reference = Some(reference);
        if let Err(error) = reader.check_head() {
            object.add(Some(ByteRange::new(0, crate::format::manifest::HEAD_LENGTH)), sentence(&error));
        }
        match about(&reader) {
            Ok(record) => state.about = Some(Box::new(record)),
            Err(why) => object.add(None, why),
        }
        (state.is_hurt, state.covers_image) = walk(&reader, &mut object, packs, watch, wants)?;
        if !object.places.is_empty() {
            state.object = Some(Box::new(object));
        }
        Ok(Some(state))
    }

    fn open(&self, id: ManifestId) -> Result<(ManifestReader, ManifestReference), StoreError> {
        // Of its own: each page comes from the disk.
        let cache = Arc::new(PageCache::new(PAGE_CACHE_BYTES));
        ManifestReader::open_unreferenced(Arc::clone(&self.objects), cache, id)
    }

    /// Opens the manifests of a chain that were found to open, newest first.
    pub(super) fn open_chain(&self, chain: &[ManifestReference]) -> Result<Vec<ManifestReader>, StoreError> {
        let cache = Arc::new(PageCache::new(PAGE_CACHE_BYTES));
        let open = |reference| ManifestReader::open(Arc::clone(&self.objects), Arc::clone(&cache), reference);
        chain.iter().map(open).collect()
    }
}

fn about(reader: &ManifestReader) -> Result<BackupRecord, String> {
    let unreadable =
        |error: &dyn std::error::Error| format!("the record in it cannot be read: {}", sentence(error));
    let text = reader.about().map_err(|error| unreadable(&error))?;
    BackupRecord::decode(&text).map_err(|error| unreadable(&error))
}

/// Walks over all extents; returns whether anything is missing of what they say and name, and whether they leave no
/// gap.
fn walk(
    reader: &ManifestReader,
    object: &mut DamagedObject,
    packs: &mut Packs,
    watch: &Watch,
    wants: &mut Wants<'_>,
) -> Result<(bool, bool), CheckError> {
    let mut lookup = Lookup::default();
    let (mut is_hurt, mut covered, mut count) = (false, 0, 0_u64);
    let mut result = Ok(());
    reader.visit_what_is_there(ByteRange::new(0, u64::MAX), |visited| {
        if result.is_err() {
            return;
        }
        let range = match visited {
            Visited::Extent(extent) => {
                match lookup.has(packs, extent) {
                    Ok(true) => {}
                    Ok(false) => {
                        is_hurt = true;
                        wants(reader.id(), extent);
                    }
                    Err(error) => result = Err(error),
                }
                extent.range
            }
            Visited::Lost { range, error } => {
                is_hurt = true;
                object.add(
                    None,
                    format!("what it says of {range} of the image is lost: {}", sentence(&*error)),
                );
                range
            }
        };
        if range.start() <= covered {
            covered = range.end();
        }
        count += 1;
        if count.is_multiple_of(CHECKPOINT_EVERY) && result.is_ok() {
            result = watch.checkpoint();
        }
    });
    result?;
    watch.checkpoint()?;
    Ok((is_hurt, covered >= reader.size_bytes()))
}

/// Looks chunks up, the one that was asked for last not again: runs of small changes are in one chunk.
#[derive(Default)]
pub(super) struct Lookup {
    last: Option<(ChunkId, u64)>,
}

impl Lookup {
    /// Is what an extent names there? Zeros always are.
    pub(super) fn has(&mut self, packs: &mut Packs, extent: &ManifestExtent) -> Result<bool, CheckError> {
        let Target::Chunk { id, offset } = extent.target else { return Ok(true) };
        let end = u64::from(offset) + extent.range.len();
        if let Some((last, good_end)) = self.last
            && last == id
            && end <= good_end
        {
            return Ok(true);
        }
        let is_there = packs.has(id, end)?;
        self.last = is_there.then_some((id, end));
        Ok(is_there)
    }
}
