//! Keeps the index true to the packs: it is only a cache of their footers.

use std::collections::HashSet;

use super::{ChunkStore, StoreError};
use crate::format::FormatError;
use crate::format::pack::{self, PackEntry, PackTail, TAIL_LENGTH};
use crate::objects::{ObjectEntry, ObjectError, ObjectKind, ObjectName, ObjectStore};
use crate::types::PackId;

impl ChunkStore {
    /// Adds the packs that the index does not know, and forgets those that are gone or have another length.
    ///
    /// A pack that cannot be read is reported and left out: what only it holds is missing until it is repaired,
    /// and everything else is not affected.
    pub fn index_new_packs(&self) -> Result<(), StoreError> {
        let known = self.index.packs();
        let mut there = HashSet::new();
        let mut added = 0_u64;
        for (id, length) in self.list_packs()? {
            there.insert(id);
            let indexed = known.get(&id);
            if indexed.is_some_and(|pack| pack.complete && pack.length == length) {
                continue;
            }
            if indexed.is_some_and(|pack| pack.length != length) {
                self.index.forget_pack(id)?;
            }
            added += u64::from(self.index_pack(id, length)?);
        }
        let gone: Vec<_> = known.keys().filter(|id| !there.contains(id)).collect();
        for id in &gone {
            self.index.forget_pack(**id)?;
        }
        if added > 0 || !gone.is_empty() {
            tracing::info!(
                added,
                forgotten = gone.len(),
                packs = there.len(),
                "the index was brought up to date"
            );
            self.index.flush()?;
        }
        Ok(())
    }

    /// Adds every pack again, also those that the index believes to know.
    pub(super) fn index_all_packs(&self) -> Result<(), StoreError> {
        for (id, length) in self.list_packs()? {
            self.index_pack(id, length)?;
        }
        Ok(())
    }

    fn list_packs(&self) -> Result<Vec<(PackId, u64)>, StoreError> {
        let entries = self.objects.list(ObjectKind::Pack)?;
        Ok(entries
            .into_iter()
            .filter_map(|ObjectEntry { name, length, .. }| match name {
                ObjectName::Pack(id) => Some((id, length)),
                _ => None,
            })
            .collect())
    }

    fn index_pack(&self, id: PackId, length: u64) -> Result<bool, StoreError> {
        match read_footer(self.objects.as_ref(), id, length) {
            Ok(entries) => {
                self.index.insert_pack(id, length, &entries)?;
                if let Err(ObjectError::Missing { .. }) = self.objects.length(ObjectName::Pack(id)) {
                    // Collected as garbage since it was listed.
                    self.index.forget_pack(id)?;
                    return Ok(false);
                }
                Ok(true)
            }
            // Removed since it was listed.
            Err(StoreError::Object(ObjectError::Missing { .. })) => Ok(false),
            Err(error) => {
                tracing::error!(pack = %id, error = %error, cause = ?std::error::Error::source(&error).map(ToString::to_string),
                    "a pack cannot be read: backups that need its chunks cannot be read where they do");
                Ok(false)
            }
        }
    }
}

/// Reads the list of a pack's chunks.
pub(super) fn read_footer(
    objects: &dyn ObjectStore,
    id: PackId,
    length: u64,
) -> Result<Vec<PackEntry>, StoreError> {
    let name = ObjectName::Pack(id);
    let format = |source| StoreError::Format { name, source };
    let tail_position = length
        .checked_sub(TAIL_LENGTH as u64)
        .ok_or_else(|| format(FormatError::TooShort { what: "pack" }))?;
    let mut tail = [0; TAIL_LENGTH];
    objects.read(name, tail_position, &mut tail)?;
    let tail = PackTail::decode(&tail, length).map_err(format)?;
    // Bounded by the decoder: at most 2^20 entries of 48 bytes.
    let mut footer = vec![0; usize::try_from(tail.footer_length()).unwrap_or(usize::MAX)];
    objects.read(name, tail.chunks_end(), &mut footer)?;
    pack::decode_footer(tail, &footer).map_err(format)
}
