//! What a change of the UUID changes in a superblock, and the mark that an unfinished one leaves in the first.

use uuid::Uuid;

use super::bytes::{le32_at, put, u8_at, uuid_at};
use super::superblock::{
    IN_PROGRESS_AT, INCOMPAT_LOW_AT, META_UUID_AT, META_UUID_BIT, Superblock, UUID_AT, seal,
};

/// The fields of a superblock by which a file system is known: its UUID, and on version 5 the one that all its other
/// metadata is stamped with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) uuid: [u8; 16],
    /// None on version 4, where no other metadata is stamped.
    metadata: Option<MetadataStamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct MetadataStamp {
    /// Is `sb_meta_uuid` to be looked at, or is it `sb_uuid` that the metadata has?
    is_separate: bool,
    uuid: [u8; 16],
}

impl Stamp {
    pub(super) fn of(superblock: &Superblock) -> Self {
        let sector = &superblock.sector;
        let metadata = (superblock.version == 5).then(|| MetadataStamp {
            is_separate: u8_at(sector, INCOMPAT_LOW_AT) & META_UUID_BIT != 0,
            uuid: uuid_at(sector, META_UUID_AT),
        });
        Self { uuid: uuid_at(sector, UUID_AT), metadata }
    }

    /// The same file system under another UUID. Where that is what its metadata has, no separate one is needed.
    pub(super) fn with_uuid(self, uuid: [u8; 16]) -> Self {
        let metadata = self.metadata.map(|metadata| {
            let stamped = if metadata.is_separate { metadata.uuid } else { self.uuid };
            let is_separate = stamped != uuid;
            // The kernel ignores the field where it is not separate; zeros are what mkfs leaves there.
            MetadataStamp { is_separate, uuid: if is_separate { stamped } else { [0; 16] } }
        });
        if uuid == self.uuid { self } else { Self { uuid, metadata } }
    }

    /// Returns what the byte at `at` of a superblock becomes.
    pub(super) fn stamped(&self, at: usize, byte: u8) -> u8 {
        if let Some(own) = at.checked_sub(UUID_AT).and_then(|index| self.uuid.get(index)) {
            return *own;
        }
        let Some(metadata) = &self.metadata else { return byte };
        if at == INCOMPAT_LOW_AT {
            let bit = if metadata.is_separate { META_UUID_BIT } else { 0 };
            return byte & !META_UUID_BIT | bit;
        }
        at.checked_sub(META_UUID_AT).and_then(|index| metadata.uuid.get(index)).copied().unwrap_or(byte)
    }

    /// Stamps a superblock's sector, and makes its checksum right.
    pub(super) fn put_on(&self, sector: &mut [u8], version: u16) {
        for (at, byte) in sector.iter_mut().enumerate() {
            *byte = self.stamped(at, *byte);
        }
        seal(sector, version);
    }
}

/// Where nothing of a superblock is, in the first 512 bytes, which a disk writes whole or not at all.
const MARK_AT: usize = 448;
const MARK_BYTES: usize = 64;
const MARK_MAGIC: &[u8; 16] = b"amberfs xfs-uuid";

/// Returns the superblock with the mark of a change that has begun: from here on no kernel mounts it.
pub(super) fn marked(superblock: &Superblock, new: [u8; 16]) -> Vec<u8> {
    let mut mark = [0; MARK_BYTES];
    put(&mut mark, 0, MARK_MAGIC);
    put(&mut mark, 16, &new);
    put(&mut mark, 32, &superblock.uuid());
    let crc = crc32c::crc32c(mark.get(..60).unwrap_or(&[]));
    put(&mut mark, 60, &crc.to_le_bytes());
    let mut sector = superblock.sector.clone();
    put(&mut sector, MARK_AT, &mark);
    put(&mut sector, IN_PROGRESS_AT, &[1]);
    seal(&mut sector, superblock.version);
    sector
}

/// Returns the superblock under its new UUID, without the mark.
pub(super) fn finished(superblock: &Superblock, new: &Stamp) -> Vec<u8> {
    let mut sector = superblock.sector.clone();
    put(&mut sector, IN_PROGRESS_AT, &[0]);
    put(&mut sector, MARK_AT, &[0; MARK_BYTES]);
    new.put_on(&mut sector, superblock.version);
    sector
}

/// Returns the UUID that an unfinished change of ours was going to; none if nobody, or somebody else, is at it.
pub(super) fn unfinished(superblock: &Superblock) -> Option<Uuid> {
    let mark = superblock.sector.get(MARK_AT..MARK_AT + MARK_BYTES)?;
    let is_ours = superblock.is_in_progress()
        && mark.starts_with(MARK_MAGIC)
        && crc32c::crc32c(mark.get(..60)?) == le32_at(mark, 60)
        && uuid_at(mark, 32) == superblock.uuid();
    is_ours.then(|| Uuid::from_bytes(uuid_at(mark, 16)))
}
