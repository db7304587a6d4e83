//! The first pass: every pack is read, and what is good in it goes into an index of its own. From then on a chunk is
//! good if, and only if, it is in that index: nothing else has to be remembered of chunks, however many there are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::report::{DamagedObject, PLACES_MAX};
use super::{CheckError, Watch};
use crate::objects::{ObjectEntry, ObjectError, ObjectKind, ObjectName};
use crate::repository::ObjectsAndIndex;
use crate::store::{CheckedPack, Depth, FoundDamage, StoreError, check_pack};
use crate::types::{ByteRange, ChunkId, PackId, sentence};

/// Of so many damaged chunks it is known which pack has them. More are found damaged all the same.
const DAMAGED_CHUNKS_MAX: usize = 100_000;
/// Packs that come and go while they are read: more turns than a collection beside us can cause.
const TURNS_MAX: usize = 8;

/// A pack as it was found.
pub(super) struct PackState {
    pub(super) length: u64,
    pub(super) chunk_count: u64,
    /// A manifest names a chunk in it.
    pub(super) is_used: bool,
    pub(super) damage: Option<Box<PackDamageReport>>,
}

/// What is wrong with a pack.
pub(super) struct PackDamageReport {
    pub(super) object: DamagedObject,
    /// Nothing of it can be found without its list of chunks.
    pub(super) is_unlisted: bool,
    chunks: Vec<(ChunkId, String)>,
    why: Option<String>,
}

pub(super) struct Packs {
    opened: ObjectsAndIndex,
    depth: Depth,
    pub(super) known: BTreeMap<PackId, PackState>,
    /// Which pack has a damaged copy of a chunk.
    pub(super) damaged_chunks: HashMap<ChunkId, PackId>,
}

impl Packs {
    pub(super) fn new(opened: ObjectsAndIndex, depth: Depth) -> Self {
        Self { opened, depth, known: BTreeMap::new(), damaged_chunks: HashMap::new() }
    }

    /// Is this much of a chunk in a pack, and good? A pack that has it is used.
    pub(super) fn has(&mut self, id: ChunkId, end: u64) -> Result<bool, CheckError> {
        let mut is_there = false;
        for place in self.opened.index.places(id)? {
            is_there |= u64::from(place.plain_length) >= end;
            if let Some(pack) = self.known.get_mut(&place.pack) {
                pack.is_used = true;
            }
        }
        Ok(is_there)
    }

    /// Reads the packs that were not read before. Those that are gone meanwhile, collected or rewritten, are
    /// forgotten, and what took their place is read.
    pub(super) fn read_new(&mut self, watch: &Watch) -> Result<(), CheckError> {
        for _ in 0..TURNS_MAX {
            let listed: BTreeMap<PackId, u64> = self.list()?.into_iter().collect();
            let gone: Vec<PackId> =
                self.known.keys().filter(|id| !listed.contains_key(id)).copied().collect();
            for id in gone {
                self.known.remove(&id);
                self.opened.index.forget_pack(id)?;
            }
            let new: Vec<(PackId, u64)> =
                listed.into_iter().filter(|(id, _)| !self.known.contains_key(id)).collect();
            if new.is_empty() {
                break;
            }
            self.read(&new, watch)?;
        }
        self.known.values_mut().for_each(|pack| pack.is_used = false);
        Ok(())
    }

    /// Is a chunk in a pack of which nothing is damaged?
    pub(super) fn is_in_sound_pack(&self, id: ChunkId) -> Result<bool, CheckError> {
        let is_sound = |pack| self.known.get(&pack).is_some_and(|state| state.damage.is_none());
        Ok(self.opened.index.places(id)?.iter().any(|place| is_sound(place.pack)))
    }

    /// Could the pack's list of chunks not be read?
    pub(super) fn is_unlisted(&self, pack: PackId) -> bool {
        let damage = self.known.get(&pack).and_then(|state| state.damage.as_ref());
        damage.is_some_and(|damage| damage.is_unlisted)
    }

    /// Was this chunk in this pack damaged?
    pub(super) fn was_damaged(&self, pack: PackId, chunk: ChunkId) -> bool {
        let damage = self.known.get(&pack).and_then(|state| state.damage.as_ref());
        damage.is_some_and(|damage| damage.chunks.iter().any(|(id, _)| *id == chunk))
    }

    /// Are there other packs than were read?
    pub(super) fn has_changed(&self) -> Result<bool, CheckError> {
        let listed: BTreeSet<PackId> = self.list()?.into_iter().map(|(id, _)| id).collect();
        Ok(!self.known.keys().eq(listed.iter()))
    }

    fn list(&self) -> Result<Vec<(PackId, u64)>, CheckError> {
        let entries = self.opened.objects.list(ObjectKind::Pack)?;
        let pack = |ObjectEntry { name, length, .. }| match name {
            ObjectName::Pack(id) => Some((id, length)),
            _ => None,
        };
        Ok(entries.into_iter().filter_map(pack).collect())
    }

    fn read(&mut self, packs: &[(PackId, u64)], watch: &Watch) -> Result<(), CheckError> {
        let total: u64 = packs.iter().map(|(_, length)| length).sum();
        let (next, done) = (Mutex::new(packs.iter()), AtomicU64::new(0));
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let (objects, depth) = (Arc::clone(&self.opened.objects), self.depth);
        let one_after_the_other = |results: &crossbeam_channel::Sender<_>| {
            loop {
                let taken = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((id, length)) = taken.copied() else { return };
                let checked = check_pack(objects.as_ref(), id, length, depth, |bytes| {
                    let done = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
                    watch.tell("packs", done.min(total), total);
                    !watch.is_stopped()
                });
                // Nobody listens any more after an error.
                if watch.is_stopped() || results.send((id, length, checked)).is_err() {
                    return;
                }
            }
        };
        std::thread::scope(|scope| {
            // A list may be long: few wait at a time.
            let (sender, results) = crossbeam_channel::bounded(threads);
            for _ in 0..threads {
                let sender = sender.clone();
                scope.spawn(move || one_after_the_other(&sender));
            }
            drop(sender);
            results.into_iter().try_for_each(|(id, length, checked)| self.keep(id, length, checked))
        })?;
        watch.checkpoint()
    }

    fn keep(
        &mut self,
        id: PackId,
        length: u64,
        checked: Result<CheckedPack, StoreError>,
    ) -> Result<(), CheckError> {
        let mut state = PackState { length, chunk_count: 0, is_used: false, damage: None };
        match checked {
            Ok(pack) => {
                state.chunk_count = (pack.good.len() + pack.damaged.len()) as u64;
                self.opened.index.insert_pack(id, length, &pack.good)?;
                state.damage = self.damage_of(id, pack);
            }
            // It went while we came to it.
            Err(StoreError::Object(ObjectError::Missing { .. })) => return Ok(()),
            Err(error @ StoreError::Stopped) => return Err(error.into()),
            Err(error) => {
                let why = sentence(&error);
                let mut object = DamagedObject::new(ObjectName::Pack(id).to_string());
                object.add(None, format!("its list of chunks cannot be read: {why}"));
                let why = Some(why);
                state.damage =
                    Some(Box::new(PackDamageReport { object, is_unlisted: true, chunks: Vec::new(), why }));
            }
        }
        self.known.insert(id, state);
        Ok(())
    }

    fn damage_of(&mut self, id: PackId, pack: CheckedPack) -> Option<Box<PackDamageReport>> {
        if pack.damaged.is_empty() && pack.head.is_none() {
            return None;
        }
        let mut object = DamagedObject::new(ObjectName::Pack(id).to_string());
        let why = pack.head.clone();
        if let Some(head) = pack.head {
            object.add(Some(ByteRange::new(0, crate::format::pack::HEAD_LENGTH)), head);
        }
        let mut chunks = Vec::new();
        for damage in pack.damaged {
            let entry = damage.entry;
            if self.damaged_chunks.len() < DAMAGED_CHUNKS_MAX {
                self.damaged_chunks.insert(entry.id, id);
            }
            if chunks.len() < PLACES_MAX {
                chunks.push((entry.id, damage.why.clone()));
            }
            object.add(Some(ByteRange::new(entry.offset.into(), entry.stored_length.into())), damage.why);
        }
        Some(Box::new(PackDamageReport { object, is_unlisted: false, chunks, why }))
    }

    /// Returns what is damaged, for the memory of the next daemon.
    pub(super) fn found_damage(&self) -> Vec<FoundDamage> {
        let mut found = Vec::new();
        for (pack, state) in &self.known {
            let Some(damage) = &state.damage else { continue };
            let place = |chunk, why: &String| FoundDamage { pack: *pack, chunk, why: why.clone() };
            found.extend(damage.why.iter().map(|why| place(None, why)));
            found.extend(damage.chunks.iter().map(|(chunk, why)| place(Some(*chunk), why)));
        }
        found
    }
}
