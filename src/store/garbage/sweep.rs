//! Removes packs that nothing needs, and writes those again in which little is needed.

use std::collections::HashSet;
use std::sync::Arc;

use super::mark::PackMark;
use super::{GarbageError, Run};
use crate::format::pack::PackEntry;
use crate::index::ChunkPlace;
use crate::objects::ObjectName;
use crate::store::pack_index::read_footer;
use crate::store::{ChunkWriter, StoreError, WriteSession};
use crate::types::{ChunkId, PackId};

/// Needed bytes that are moved before the packs that they are moved from go: the room that a collection needs.
const BATCH_BYTES: u64 = 256 << 20;

/// And so many chunks, however small: their ids are held.
const BATCH_CHUNKS: usize = 100_000;

/// Packs on their way to new ones.
struct Batch {
    session: Arc<WriteSession>,
    writer: ChunkWriter,
    going: Vec<PackMark>,
    /// Checked, and in its new packs when they are durable.
    moved: HashSet<ChunkId>,
    moved_bytes: u64,
}

/// Why a pack stays.
enum Stays {
    /// A needed chunk in it is damaged and nowhere else.
    Damaged,
    Failed(GarbageError),
}

impl<E: Into<GarbageError>> From<E> for Stays {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Run<'_> {
    pub(super) fn sweep(&mut self) -> Result<(), GarbageError> {
        let packs = std::mem::take(&mut self.packs.0);
        let (mut dead, mut sparse) = (Vec::new(), Vec::new());
        for pack in packs {
            if pack.is_unreadable {
                self.report.packs_damaged += 1;
            } else if !pack.is_needed() {
                dead.push(pack);
            } else if pack.is_used_below(self.options.rewrite_below_percent) {
                sparse.push(pack);
            } else {
                self.report.garbage_left_bytes += pack.garbage_bytes();
            }
        }
        if self.options.dry_run {
            self.count(&dead, &sparse);
            return Ok(());
        }
        self.control.set_total(dead.iter().chain(&sparse).map(|pack| pack.length).sum());
        for manifest in std::mem::take(&mut self.abandoned) {
            self.control.checkpoint()?;
            self.store.objects.remove(ObjectName::Manifest(manifest)).map_err(StoreError::from)?;
        }
        // First: it makes room for what is written again.
        for pack in dead {
            self.control.checkpoint()?;
            if !self.condemn(&pack) {
                continue;
            }
            self.remove(pack.id)?;
            self.report.packs_removed += 1;
            self.report.freed_bytes += pack.length;
            self.control.add_done(pack.length);
        }
        self.rewrite(sparse)?;
        self.finish()
    }

    fn count(&mut self, dead: &[PackMark], sparse: &[PackMark]) {
        self.report.packs_removed = dead.len() as u64;
        self.report.packs_rewritten = sparse.len() as u64;
        let dead_bytes: u64 = dead.iter().map(|pack| pack.length).sum();
        self.report.freed_bytes = dead_bytes + sparse.iter().map(PackMark::garbage_bytes).sum::<u64>();
        self.report.moved_bytes = sparse.iter().map(|pack| pack.first_bytes).sum();
    }

    /// From here on nobody counts on the pack; `false` when somebody does, and it stays.
    fn condemn(&mut self, pack: &PackMark) -> bool {
        let is_condemned = self.collecting.condemn(pack.id);
        if !is_condemned {
            self.report.packs_in_use += 1;
            self.report.garbage_left_bytes += pack.garbage_bytes();
        }
        is_condemned
    }

    /// Removes a pack; readers that have looked its chunks up before look again.
    fn remove(&self, pack: PackId) -> Result<(), GarbageError> {
        self.collecting.remove(pack);
        self.store.index.forget_pack(pack).map_err(StoreError::from)?;
        self.store.objects.remove(ObjectName::Pack(pack)).map_err(StoreError::from)?;
        Ok(())
    }

    fn rewrite(&mut self, sparse: Vec<PackMark>) -> Result<(), GarbageError> {
        let mut batch = self.begin_batch();
        for pack in sparse {
            self.control.checkpoint()?;
            if !self.condemn(&pack) {
                continue;
            }
            match self.move_chunks(&pack, &mut batch) {
                Ok(()) => batch.going.push(pack),
                Err(Stays::Damaged) => {
                    self.collecting.pardon(pack.id);
                    self.report.packs_damaged += 1;
                    self.report.garbage_left_bytes += pack.garbage_bytes();
                }
                Err(Stays::Failed(error)) => return Err(error),
            }
            if batch.moved_bytes >= BATCH_BYTES || batch.moved.len() >= BATCH_CHUNKS {
                self.end_batch(batch)?;
                batch = self.begin_batch();
            }
        }
        self.end_batch(batch)
    }

    fn begin_batch(&self) -> Batch {
        let session = self.store.session();
        let writer = session.writer();
        Batch { session, writer, going: Vec::new(), moved: HashSet::new(), moved_bytes: 0 }
    }

    /// Writes the needed chunks of a pack to the batch's new ones.
    fn move_chunks(&self, pack: &PackMark, batch: &mut Batch) -> Result<(), Stays> {
        let (mut stored, mut plain) = (Vec::new(), Vec::new());
        let entries = read_footer(self.store.objects.as_ref(), pack.id, pack.length)?;
        for (number, entry) in entries.into_iter().enumerate() {
            let is_again = pack.again.has(number);
            if (!is_again && !pack.first.has(number)) || batch.moved.contains(&entry.id) {
                continue;
            }
            self.control.checkpoint()?;
            if is_again && self.has_good_copy(entry.id, pack.id, &batch.session, &mut plain)? {
                continue;
            }
            match self.read_chunk(pack.id, &entry, &mut stored, &mut plain) {
                Ok(()) => {
                    batch.writer.add_stored(&entry, &stored)?;
                    batch.moved.insert(entry.id);
                    batch.moved_bytes += u64::from(entry.stored_length);
                }
                Err(error) => {
                    self.store.distrust(pack.id, Some(entry.id), &error);
                    if !self.has_good_copy(entry.id, pack.id, &batch.session, &mut plain)? {
                        return Err(Stays::Damaged);
                    }
                }
            }
        }
        Ok(())
    }

    /// Is there another pack that has the chunk, as was just read, and that stays?
    fn has_good_copy(
        &self,
        id: ChunkId,
        besides: PackId,
        session: &WriteSession,
        plain: &mut Vec<u8>,
    ) -> Result<bool, StoreError> {
        let places = self.store.index.places(id)?;
        Ok(places.into_iter().filter(|place| place.pack != besides).any(|place| {
            plain.resize(place.plain_length as usize, 0);
            session.pin(place.pack) && self.store.decode(id, &place, plain).is_ok()
        }))
    }

    /// Reads a chunk as it is stored, and checks it.
    fn read_chunk(
        &self,
        pack: PackId,
        entry: &PackEntry,
        stored: &mut Vec<u8>,
        plain: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        stored.resize(entry.stored_length as usize, 0);
        plain.resize(entry.plain_length as usize, 0);
        self.store.objects.read(ObjectName::Pack(pack), entry.offset.into(), stored)?;
        let PackEntry { id, offset, stored_length, plain_length, codec } = *entry;
        self.store.check(id, &ChunkPlace { pack, offset, stored_length, plain_length, codec }, stored, plain)
    }

    /// Makes the new packs durable, reads back what was moved, and lets the old packs go.
    fn end_batch(&mut self, batch: Batch) -> Result<(), GarbageError> {
        let Batch { session, writer, going, moved, moved_bytes } = batch;
        let written = writer.finish()?;
        let going_ids: Vec<PackId> = going.iter().map(|pack| pack.id).collect();
        let mut plain = Vec::new();
        for id in moved {
            self.control.checkpoint()?;
            let places = self.store.index.places(id).map_err(StoreError::from)?;
            let mut new = places.into_iter().filter(|place| !going_ids.contains(&place.pack));
            let is_there = new.any(|place| {
                plain.resize(place.plain_length as usize, 0);
                self.store.decode(id, &place, &mut plain).is_ok()
            });
            if !is_there {
                // Nothing has gone yet, and nothing goes.
                return Err(StoreError::ChunkMissing { id }.into());
            }
        }
        for pack in going {
            self.remove(pack.id)?;
            self.report.packs_rewritten += 1;
            self.report.freed_bytes += pack.length;
            self.control.add_done(pack.length);
        }
        drop(session);
        self.report.moved_bytes += moved_bytes;
        self.report.freed_bytes = self.report.freed_bytes.saturating_sub(written.pack_bytes);
        Ok(())
    }

    fn finish(&self) -> Result<(), GarbageError> {
        let packs = self.store.index.packs();
        self.store.forget_damage(|pack| !packs.contains_key(&pack));
        let control = self.control;
        self.store.index.compact(|| control.checkpoint().is_ok()).map_err(StoreError::from)?;
        Ok(self.store.index.flush().map_err(StoreError::from)?)
    }
}
