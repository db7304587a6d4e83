//! Looks for wanted chunks where they may be, and stores them again.

use super::origins::Origins;
use super::wanted::Wanted;
use super::{Repair, RepairReport};
use crate::check::CheckError;
use crate::objects::ObjectName;
use crate::store::{ChunkWriter, StoreError, WriteSession, salvage};
use crate::types::{ChunkId, sentence};

/// Takes what was found: checks it once more, stores it, and wants it no more.
pub(super) struct Stores<'a> {
    session: &'a WriteSession,
    writer: ChunkWriter,
    pub(super) wanted: &'a mut Wanted,
    pub(super) report: &'a mut RepairReport,
}

impl Stores<'_> {
    /// Is this a wanted chunk? Then it is stored. `from` says where it was.
    pub(super) fn take(&mut self, plain: &[u8], from: &str) -> Result<bool, StoreError> {
        let id = ChunkId::of(plain);
        if !self.wanted.contains(id) {
            return Ok(false);
        }
        self.writer.add(self.session.prepare(plain)?)?;
        self.wanted.remove(id);
        self.report.add(format!("chunk {id}"), from);
        *self.report.chunks.entry(from.to_owned()).or_default() += 1;
        Ok(true)
    }
}

impl Repair<'_> {
    /// Finds what it can of the wanted chunks. Durable when it returns.
    pub(super) fn chunks(
        &mut self,
        wanted: &mut Wanted,
        report: &mut RepairReport,
    ) -> Result<(), CheckError> {
        if wanted.is_cut {
            report.note("more is missing than one run takes; run the repair again for the rest".to_owned());
        }
        // First of all: what is damaged is not counted on when its chunks are stored again.
        let listed_elsewhere = self.examine(wanted)?;
        let session = self.repository.store().session();
        let mut stores = Stores { session: &session, writer: session.writer(), wanted, report };
        self.take_from_index(&listed_elsewhere, &mut stores)?;
        self.search_damaged_packs(&mut stores)?;
        self.search_other_repository(&mut stores)?;
        Origins::new(self).look(&mut stores)?;
        match stores.writer.finish() {
            // The packs are durable; what it counted on is looked up once more by the check that follows.
            Ok(_) | Err(StoreError::PackDamaged { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads all that the index of the daemon knows of these chunks: of a pack whose list is damaged since, it may know
    /// the places still. Returns those that are there.
    fn examine(&self, wanted: &Wanted) -> Result<Vec<ChunkId>, CheckError> {
        let mut plain = Vec::new();
        let mut there = Vec::new();
        for id in wanted.ids() {
            self.watch.checkpoint()?;
            if self.repository.store().examine(id, &mut plain).is_ok() {
                there.push(id);
            }
        }
        Ok(there)
    }

    fn take_from_index(&self, there: &[ChunkId], stores: &mut Stores<'_>) -> Result<(), CheckError> {
        let mut plain = Vec::new();
        for id in there {
            self.watch.checkpoint()?;
            if self.repository.store().examine(*id, &mut plain).is_ok() {
                stores.take(&plain, "a pack whose list of chunks is damaged")?;
            }
        }
        Ok(())
    }

    fn search_damaged_packs(&self, stores: &mut Stores<'_>) -> Result<(), CheckError> {
        let lengths = stores.wanted.lengths();
        for (id, pack) in &self.checker.packs.known {
            self.watch.checkpoint()?;
            if stores.wanted.is_empty() || !pack.damage.as_ref().is_some_and(|damage| damage.is_unlisted) {
                continue;
            }
            let name = ObjectName::Pack(*id).to_string();
            let mut found: Vec<Vec<u8>> = Vec::new();
            // What is found waits for the end of one pack: at most four times the bytes of a full one.
            let salvaged = salvage::<StoreError>(
                self.repository.objects().as_ref(),
                *id,
                &lengths,
                |chunk| stores.wanted.contains(chunk),
                |plain| {
                    found.push(plain.to_vec());
                    Ok(())
                },
            );
            if let Err(error) = salvaged {
                stores.report.note(format!("{name} cannot be searched: {}", sentence(&error)));
            }
            for plain in found {
                stores.take(&plain, &format!("{name}, without its list of chunks"))?;
            }
        }
        Ok(())
    }

    fn search_other_repository(&self, stores: &mut Stores<'_>) -> Result<(), CheckError> {
        let Some(other) = self.other else { return Ok(()) };
        let ids = stores.wanted.ids();
        let total = ids.len() as u64;
        for (done, id) in ids.into_iter().enumerate() {
            self.watch.checkpoint()?;
            self.watch.tell("chunks of the other repository", done as u64, total);
            // Not there, or damaged there as well: elsewhere, then.
            if let Ok(chunk) = other.store().load(id) {
                stores.take(&chunk, other.location())?;
            }
        }
        Ok(())
    }
}
