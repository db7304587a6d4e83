//! What a check found, bounded: lists say how much they leave out.

use crate::types::{BackupId, ByteRange, Timestamp};

/// So many ranges of one backup are listed.
pub(super) const RANGES_MAX: usize = 1000;
/// So many damaged places of one object are listed, and so many reasons why a backup is hurt.
pub(super) const PLACES_MAX: usize = 16;

/// What there is in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CheckCounts {
    pub packs: u64,
    pub pack_bytes: u64,
    /// In all packs; a chunk in two packs counts twice.
    pub chunks: u64,
    pub manifests: u64,
    pub records: u64,
    /// Backups that have data.
    pub backups: u64,
}

/// A backup that does not read back as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HurtBackup {
    pub id: BackupId,
    pub name: Option<String>,
    /// `SOURCE/VOLUME`; nothing when neither its record nor its manifest tells.
    pub volume: Option<String>,
    pub data_timestamp: Option<Timestamp>,
    pub size_bytes: u64,
    /// Bytes of the image that cannot be read.
    pub hurt_bytes: u64,
    /// Where they are, ascending; the first of them when there are many.
    pub ranges: Vec<ByteRange>,
    pub ranges_left_out: u64,
    pub why: Vec<String>,
}

impl HurtBackup {
    /// Adds a range behind those before it.
    pub(super) fn add(&mut self, range: ByteRange) {
        self.hurt_bytes += range.len();
        let is_full = self.ranges.len() >= RANGES_MAX;
        match self.ranges.last_mut() {
            Some(last) if last.end() == range.start() && self.ranges_left_out == 0 => {
                *last = ByteRange::between(last.start(), range.end());
            }
            _ if is_full => self.ranges_left_out += 1,
            _ => self.ranges.push(range),
        }
    }

    pub(super) fn because(&mut self, why: impl FnOnce() -> String) {
        if self.why.len() < PLACES_MAX {
            let why = why();
            if !self.why.contains(&why) {
                self.why.push(why);
            }
        }
    }
}

/// A damaged place in an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedPlace {
    /// In the object; nothing when it is the object as a whole.
    pub range: Option<ByteRange>,
    pub why: String,
}

/// An object that is not what it was written as, or is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedObject {
    /// Below the repository's root.
    pub path: String,
    pub places: Vec<DamagedPlace>,
    pub places_left_out: u64,
}

impl DamagedObject {
    pub(super) fn new(path: String) -> Self {
        Self { path, places: Vec::new(), places_left_out: 0 }
    }

    pub(super) fn add(&mut self, range: Option<ByteRange>, why: String) {
        if self.places.len() < PLACES_MAX {
            self.places.push(DamagedPlace { range, why });
        } else {
            self.places_left_out += 1;
        }
    }
}

/// What is there and belongs to nothing. It hurts nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    pub path: String,
    pub bytes: u64,
    pub why: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckReport {
    pub counts: CheckCounts,
    pub hurt: Vec<HurtBackup>,
    pub damaged: Vec<DamagedObject>,
    pub strays: Vec<Stray>,
    /// Packs in which no manifest needs anything.
    pub unused_packs: u64,
    pub unused_bytes: u64,
    /// Backups with data of which every byte is there.
    pub whole: Vec<BackupId>,
}

impl CheckReport {
    pub fn is_sound(&self) -> bool {
        self.hurt.is_empty() && self.damaged.is_empty()
    }
}
