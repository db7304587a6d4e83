//! Reads a pack whole, past index and caches, and says what in it is not what it should be.

use super::StoreError;
use super::pack_index::read_footer;
use crate::format::codec;
use crate::format::header::CHUNK_SIZE_MAX;
use crate::format::pack::{self, HEAD_LENGTH, PackEntry};
use crate::objects::{ObjectError, ObjectName, ObjectStore};
use crate::types::{ChunkId, PackId, sentence};

/// How closely a pack is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Its first bytes and its list of chunks.
    Structure,
    /// Every chunk in it as well.
    Everything,
}

/// A chunk in a pack that is not what its id says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackDamage {
    pub entry: PackEntry,
    pub why: String,
}

/// A pack whose list of chunks could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedPack {
    /// Good chunks; those that are listed, when only the structure was looked at.
    pub good: Vec<PackEntry>,
    pub damaged: Vec<PackDamage>,
    /// Why its first bytes are not those of a pack. That hurts nobody who reads chunks.
    pub head: Option<String>,
}

/// Checks a pack. `read` is told the bytes that were read, as they are, and stops the check with `false`.
///
/// An error when its list of chunks cannot be read, `Missing` when the pack is gone, and `Stopped`.
pub fn check_pack(
    objects: &dyn ObjectStore,
    id: PackId,
    length: u64,
    depth: Depth,
    mut read: impl FnMut(u64) -> bool,
) -> Result<CheckedPack, StoreError> {
    let entries = read_footer(objects, id, length)?;
    let mut checked = CheckedPack { good: Vec::new(), damaged: Vec::new(), head: None };
    checked.head = check_head(objects, id)?;
    if depth == Depth::Structure {
        checked.good = entries;
        return if read(length) { Ok(checked) } else { Err(StoreError::Stopped) };
    }
    let (mut stored, mut plain) = (Vec::new(), Vec::new());
    let mut counted = 0;
    for entry in entries {
        match decode(objects, id, &entry, &mut stored, &mut plain) {
            Ok(()) => checked.good.push(entry),
            Err(error @ StoreError::Object(ObjectError::Missing { .. })) => return Err(error),
            Err(error) => checked.damaged.push(PackDamage { entry, why: sentence(&error) }),
        }
        counted += u64::from(entry.stored_length);
        if !read(entry.stored_length.into()) {
            return Err(StoreError::Stopped);
        }
    }
    if read(length.saturating_sub(counted)) { Ok(checked) } else { Err(StoreError::Stopped) }
}

fn check_head(objects: &dyn ObjectStore, id: PackId) -> Result<Option<String>, StoreError> {
    let mut head = [0; HEAD_LENGTH as usize];
    match objects.read(ObjectName::Pack(id), 0, &mut head) {
        Ok(()) if head == pack::encode_head() => Ok(None),
        Ok(()) => Ok(Some(format!("the {HEAD_LENGTH} bytes at 0 are not those that a pack starts with"))),
        Err(error @ ObjectError::Missing { .. }) => Err(error.into()),
        Err(error) => Ok(Some(sentence(&StoreError::from(error)))),
    }
}

/// Reads one chunk from where a pack lists it and checks it; `plain` then has its bytes.
pub(super) fn decode(
    objects: &dyn ObjectStore,
    pack: PackId,
    entry: &PackEntry,
    stored: &mut Vec<u8>,
    plain: &mut Vec<u8>,
) -> Result<(), StoreError> {
    let corrupt = |why: String| StoreError::ChunkCorrupt { id: entry.id, pack, why };
    // A bound for memory, whoever wrote the list: a chunk is never longer as it is stored.
    if u64::from(entry.stored_length) > CHUNK_SIZE_MAX {
        return Err(corrupt(format!("its stored length is {} bytes", entry.stored_length)));
    }
    stored.resize(entry.stored_length as usize, 0);
    plain.resize(entry.plain_length as usize, 0);
    objects.read(ObjectName::Pack(pack), entry.offset.into(), stored)?;
    codec::decompress(entry.codec, stored, plain).map_err(|error| corrupt(error.to_string()))?;
    if ChunkId::of(plain) != entry.id {
        return Err(corrupt("its bytes have another SHA-256".to_owned()));
    }
    Ok(())
}
