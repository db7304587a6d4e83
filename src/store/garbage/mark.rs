//! Finds out which chunks of which packs are needed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::live::{Claim, Full, LiveSet, Part};
use super::{FindLost, GarbageError, Judge, Judgement, Run};
use crate::format::manifest::Target;
use crate::objects::{ObjectError, ObjectKind, ObjectName};
use crate::store::manifest_reader::{ManifestReader, PageCache};
use crate::store::pack_index::read_footer;
use crate::store::{ChunkStore, StoreError};
use crate::types::{ByteRange, ManifestId, PackId};

/// Each manifest is read once, from its start to its end: its pages are of no use afterwards.
const PAGE_CACHE_BYTES: u64 = 1 << 20;
/// Parts are not made smaller than this: 2^16 parts of all ids.
const PART_BITS_MAX: u32 = 16;
/// Ids that are always held at once, however little memory is allowed.
const PRINTS_MIN: usize = 4096;

/// A pack that was there at the beginning.
pub(super) struct PackMark {
    pub(super) id: PackId,
    pub(super) length: u64,
    /// Its list of chunks cannot be read.
    pub(super) is_unreadable: bool,
    /// By the number of the chunk in its list.
    pub(super) first: Bits,
    pub(super) again: Bits,
    /// Stored bytes of the chunks in `first`.
    pub(super) first_bytes: u64,
    /// Bytes of all chunks, needed or not.
    pub(super) chunk_bytes: u64,
}

impl PackMark {
    /// Bytes of chunks that nobody needs here.
    pub(super) fn garbage_bytes(&self) -> u64 {
        self.chunk_bytes.saturating_sub(self.first_bytes)
    }

    pub(super) fn is_used_below(&self, percent: u64) -> bool {
        self.first_bytes.saturating_mul(100) < self.chunk_bytes.saturating_mul(percent)
    }

    pub(super) fn is_needed(&self) -> bool {
        self.is_unreadable || self.first.any() || self.again.any()
    }
}

/// A growing set of small numbers.
#[derive(Default)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    fn set(&mut self, number: usize) {
        if self.0.len() <= number / 64 {
            self.0.resize(number / 64 + 1, 0);
        }
        if let Some(word) = self.0.get_mut(number / 64) {
            *word |= 1 << (number % 64);
        }
    }

    pub(super) fn has(&self, number: usize) -> bool {
        self.0.get(number / 64).is_some_and(|word| word & (1 << (number % 64)) != 0)
    }

    fn any(&self) -> bool {
        self.0.iter().any(|word| *word != 0)
    }
}

/// All packs that were there at the beginning, in the order in which they claim chunks.
pub(super) struct PackMarks(pub(super) Vec<PackMark>);

impl PackMarks {
    pub(super) fn list(store: &ChunkStore) -> Result<Self, StoreError> {
        let mut packs = Vec::new();
        for entry in store.objects.list(ObjectKind::Pack)? {
            let ObjectName::Pack(id) = entry.name else { continue };
            packs.push(PackMark {
                id,
                length: entry.length,
                is_unreadable: false,
                first: Bits::default(),
                again: Bits::default(),
                first_bytes: 0,
                chunk_bytes: 0,
            });
        }
        // Of two copies the one in the sounder pack is kept.
        packs.sort_by_key(|pack| (store.trust.is_damaged(pack.id), pack.id));
        Ok(Self(packs))
    }

    pub(super) fn count(&self) -> u64 {
        self.0.len() as u64
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|pack| pack.length).sum()
    }
}

impl Run<'_> {
    /// Marks part by part; begins again with smaller parts when one is too large.
    pub(super) fn mark(
        &mut self,
        judge: &mut Judge<'_>,
        find_lost: &FindLost<'_>,
    ) -> Result<(), GarbageError> {
        let mut judged = HashMap::new();
        let prints_max = self.prints_max();
        let mut bits = self.first_bits(prints_max);
        let mut number = 0;
        while number < 1 << bits {
            let part = Part { bits, number };
            let mut live = LiveSet::new(part, prints_max);
            match self.read_manifests(&mut live, &mut judged, judge)? {
                Ok(()) => {}
                Err(Full) if bits < PART_BITS_MAX => {
                    // The parts before this one are done: their halves are, too.
                    (bits, number) = (bits + 1, number * 2);
                    continue;
                }
                Err(Full) => {
                    let why = "there is not enough memory for the garbage collection; raise limits.memory";
                    return Err(StoreError::NoMemory { why }.into());
                }
            }
            live.seal();
            self.mark_packs(&mut live)?;
            self.report.chunks_needed += live.count();
            number += 1;
        }
        if let Some(id) = find_lost(&judged.keys().copied().collect())? {
            let name = ObjectName::Manifest(id);
            let source = Arc::new(ObjectError::Missing { name }.into());
            return Err(GarbageError::UnreadableManifest { id, source });
        }
        self.report.manifests = judged.len() as u64;
        let count = |wanted| judged.values().filter(|judgement| **judgement == wanted).count() as u64;
        self.report.manifests_without_record = count(Judgement::WithoutRecord);
        self.report.manifests_removed = count(Judgement::Abandoned);
        let is_abandoned = |(id, judgement)| (judgement == Judgement::Abandoned).then_some(id);
        self.abandoned = judged.into_iter().filter_map(is_abandoned).collect();
        Ok(())
    }

    fn prints_max(&self) -> usize {
        let prints = self.options.memory_bytes / LiveSet::BYTES_PER_CHUNK;
        usize::try_from(prints).unwrap_or(usize::MAX).max(PRINTS_MIN)
    }

    /// As many parts as are likely to be enough.
    fn first_bits(&self, prints_max: usize) -> u32 {
        let chunks = self.store.index.stats().chunk_count;
        let parts = chunks.div_ceil((prints_max as u64 / 2).max(1)).next_power_of_two();
        parts.trailing_zeros().min(PART_BITS_MAX)
    }

    /// Reads all manifests, those included that are published meanwhile.
    fn read_manifests(
        &self,
        live: &mut LiveSet,
        judged: &mut HashMap<ManifestId, Judgement>,
        judge: &mut Judge<'_>,
    ) -> Result<Result<(), Full>, GarbageError> {
        let cache = Arc::new(PageCache::new(PAGE_CACHE_BYTES));
        let mut seen = HashSet::new();
        loop {
            let before = seen.len();
            for id in self.list_manifests()? {
                self.control.checkpoint()?;
                if !seen.insert(id) {
                    continue;
                }
                let read = self.read_manifest(&cache, id, live, judged, judge);
                match read {
                    Ok(Ok(())) => {}
                    Ok(Err(full)) => return Ok(Err(full)),
                    Err(source) if self.has_gone(id)? => {
                        tracing::debug!(manifest = %id, error = %source, "a manifest went while it was read");
                        judged.remove(&id);
                    }
                    Err(source) => return Err(GarbageError::UnreadableManifest { id, source }),
                }
            }
            if seen.len() == before {
                return Ok(Ok(()));
            }
        }
    }

    fn list_manifests(&self) -> Result<Vec<ManifestId>, StoreError> {
        let entries = self.store.objects.list(ObjectKind::Manifest)?;
        let manifest = |name| if let ObjectName::Manifest(id) = name { Some(id) } else { None };
        Ok(entries.into_iter().filter_map(|entry| manifest(entry.name)).collect())
    }

    fn has_gone(&self, id: ManifestId) -> Result<bool, StoreError> {
        match self.store.objects.length(ObjectName::Manifest(id)) {
            Ok(_) => Ok(false),
            Err(ObjectError::Missing { .. }) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    fn read_manifest(
        &self,
        cache: &Arc<PageCache>,
        id: ManifestId,
        live: &mut LiveSet,
        judged: &mut HashMap<ManifestId, Judgement>,
        judge: &mut Judge<'_>,
    ) -> Result<Result<(), Full>, Arc<StoreError>> {
        let objects = Arc::clone(&self.store.objects);
        let (manifest, _) = ManifestReader::open_unreferenced(objects, Arc::clone(cache), id)?;
        let judgement = match judged.get(&id) {
            Some(judgement) => *judgement,
            None => {
                let judgement = judge(&manifest)?;
                judged.insert(id, judgement);
                judgement
            }
        };
        if judgement == Judgement::Abandoned {
            return Ok(Ok(()));
        }
        let mut inserted = Ok(());
        manifest.visit(ByteRange::new(0, u64::MAX), |extent| {
            if let Target::Chunk { id, .. } = extent.target {
                inserted = live.insert(id);
            }
            inserted.is_ok()
        })?;
        Ok(inserted)
    }

    fn mark_packs(&mut self, live: &mut LiveSet) -> Result<(), GarbageError> {
        for pack in &mut self.packs.0 {
            self.control.checkpoint()?;
            if pack.is_unreadable {
                continue;
            }
            let entries = match read_footer(self.store.objects.as_ref(), pack.id, pack.length) {
                Ok(entries) => entries,
                Err(error) => {
                    self.store.distrust(pack.id, None, &error);
                    pack.is_unreadable = true;
                    continue;
                }
            };
            pack.chunk_bytes = entries.iter().map(|entry| u64::from(entry.stored_length)).sum();
            for (number, entry) in entries.iter().enumerate() {
                match live.claim(entry.id) {
                    Claim::Elsewhere | Claim::Dead => {}
                    Claim::First => {
                        pack.first.set(number);
                        pack.first_bytes += u64::from(entry.stored_length);
                    }
                    Claim::Again => pack.again.set(number),
                }
            }
        }
        Ok(())
    }
}
