//! Empties damaged packs: what is good in them is stored again elsewhere, and they go. Otherwise the damage would be
//! found again for ever, and no new backup would count on their neighbours.

use super::{Repair, RepairReport};
use crate::check::CheckError;
use crate::format::pack::PackEntry;
use crate::objects::{ObjectKind, ObjectName};
use crate::store::{Depth, StoreError, check_pack};
use crate::types::PackId;

impl Repair<'_> {
    /// Empties the damaged packs, unless somebody may still need what is damaged. Returns whether there were any.
    pub(super) fn evacuate(&mut self, report: &mut RepairReport) -> Result<bool, CheckError> {
        let damaged: Vec<PackId> = self
            .checker
            .packs
            .known
            .iter()
            .filter(|(_, pack)| pack.damage.is_some())
            .map(|(id, _)| *id)
            .collect();
        // While a manifest cannot be read, nobody knows what it needs.
        let packs_only =
            report.after.damaged.iter().all(|object| object.path.starts_with(ObjectKind::Pack.folder()));
        if damaged.is_empty() || !packs_only || !report.after.hurt.is_empty() {
            return Ok(false);
        }
        for id in &damaged {
            self.store_again(*id)?;
        }
        // Reads the new packs: what they have is good.
        self.checker.packs.read_new(self.watch)?;
        for id in damaged {
            if self.is_dispensable(id)? {
                self.repository.objects().remove(ObjectName::Pack(id))?;
                report.add(
                    ObjectName::Pack(id).to_string(),
                    "other packs, which have all that is needed of it",
                );
            }
        }
        Ok(true)
    }

    /// Stores the good chunks of a pack in another one.
    fn store_again(&self, id: PackId) -> Result<(), CheckError> {
        let session = self.repository.store().session();
        let mut writer = session.writer();
        for entry in self.good_entries(id)?.unwrap_or_default() {
            self.watch.checkpoint()?;
            // The pack was found damaged: what only it has is stored again.
            let chunk = self.repository.store().load(entry.id);
            if let Ok(chunk) = chunk {
                writer.add(session.prepare(&chunk)?)?;
            }
        }
        match writer.finish() {
            Ok(_) | Err(StoreError::PackDamaged { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the chunks of a pack that were good when it was checked; nothing when its list cannot be read now.
    fn good_entries(&self, id: PackId) -> Result<Option<Vec<PackEntry>>, CheckError> {
        if self.checker.packs.is_unlisted(id) {
            return Ok(Some(Vec::new()));
        }
        let objects = self.repository.objects().as_ref();
        let length = objects.length(ObjectName::Pack(id))?;
        match check_pack(objects, id, length, Depth::Structure, |_| !self.watch.is_stopped()) {
            Ok(mut pack) => {
                pack.good.retain(|entry| !self.checker.packs.was_damaged(id, entry.id));
                Ok(Some(pack.good))
            }
            Err(StoreError::Stopped) => Err(CheckError::Stopped),
            Err(_) => Ok(None),
        }
    }

    /// Are all its good chunks in sound packs? What was good and cannot be read any more has to be somewhere else, too.
    fn is_dispensable(&self, id: PackId) -> Result<bool, CheckError> {
        let Some(entries) = self.good_entries(id)? else { return Ok(false) };
        for entry in entries {
            if !self.checker.packs.is_in_sound_pack(entry.id)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
