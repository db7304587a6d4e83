//! What was found damaged in the packs, remembered over a restart: a new backup never counts on it, and whoever asks
//! is told of it.
//!
//! A file of JSON lines in the state folder. It may be lost at any time: the next verify finds the same again. A pack
//! in which anything is damaged is not counted on at all: where one sector went, its neighbours go next.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::sysio::{PathError, atomic, clock};
use crate::types::{ChunkId, PackId, Timestamp};

/// So many damaged chunks are remembered one by one; of packs with more, that they are damaged.
const CHUNKS_MAX: usize = 100_000;
/// A longer line is none of ours.
const LINE_BYTES_MAX: u64 = 4096;

/// One place that does not hold what it should.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownDamage {
    pub pack: PackId,
    /// In hexadecimal; null when it is the pack: missing, cut off, or its list of chunks damaged.
    pub chunk: Option<String>,
    pub why: String,
    pub found_at: Timestamp,
}

/// The damaged places of one pack; the key `None` is the pack itself.
type DamagedPack = BTreeMap<Option<ChunkId>, KnownDamage>;

#[derive(Default)]
pub(super) struct DamageLog {
    folder: Option<PathBuf>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    packs: HashMap<PackId, DamagedPack>,
    count: usize,
}

impl Known {
    fn insert(&mut self, pack: PackId, chunk: Option<ChunkId>, damage: KnownDamage) -> bool {
        let places = self.packs.entry(pack).or_default();
        if places.contains_key(&chunk) || (!places.is_empty() && self.count >= CHUNKS_MAX) {
            return false;
        }
        places.insert(chunk, damage);
        self.count += 1;
        true
    }

    /// In the order of the packs.
    fn all(&self) -> Vec<KnownDamage> {
        let mut all: Vec<_> = self.packs.values().flat_map(|places| places.values().cloned()).collect();
        all.sort_by(|one, other| (one.pack, &one.chunk).cmp(&(other.pack, &other.chunk)));
        all
    }

    fn remove(&mut self, pack: PackId, chunk: Option<ChunkId>) -> bool {
        let Some(places) = self.packs.get_mut(&pack) else { return false };
        let was_there = places.remove(&chunk).is_some();
        if places.is_empty() {
            self.packs.remove(&pack);
        }
        self.count -= usize::from(was_there);
        was_there
    }
}

impl DamageLog {
    /// Reads what the daemon before this one found. Without a folder nothing is remembered over a restart.
    pub(super) fn open(folder: Option<&Path>) -> Self {
        let log = Self { folder: folder.map(Path::to_owned), known: Mutex::default() };
        if let Err(error) = log.read() {
            let cause = error.source.to_string();
            tracing::warn!(cause, "{error}: damage that was found before is to be found again");
        }
        log
    }

    fn read(&self) -> Result<(), PathError> {
        let Some(path) = self.path() else { return Ok(()) };
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(|error| PathError::new("open", &path, error))?,
        };
        let mut reader = BufReader::new(file);
        let mut known = self.known();
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
            if read.map_err(|error| PathError::new("read", &path, error))? == 0 {
                return Ok(());
            }
            // A torn line is of damage that is found again.
            let Ok(damage) = serde_json::from_slice::<KnownDamage>(&line) else { continue };
            match damage.chunk.as_deref().map(str::parse).transpose() {
                Ok(chunk) => known.insert(damage.pack, chunk, damage),
                Err(_) => continue,
            };
        }
    }

    fn path(&self) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join("damage"))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_damaged(&self, pack: PackId) -> bool {
        self.known().packs.contains_key(&pack)
    }

    /// Is just this known to be damaged?
    pub(super) fn has(&self, pack: PackId, chunk: Option<ChunkId>) -> bool {
        self.known().packs.get(&pack).is_some_and(|places| places.contains_key(&chunk))
    }

    /// Returns everything that is known, in the order of the packs.
    pub(super) fn all(&self) -> Vec<KnownDamage> {
        self.known().all()
    }

    /// Remembers a damaged place; returns whether it is the first one of its pack.
    pub(super) fn note(&self, pack: PackId, chunk: Option<ChunkId>, why: String) -> bool {
        let damage = KnownDamage { pack, chunk: chunk.map(|id| id.to_string()), why, found_at: clock::now() };
        let mut known = self.known();
        let is_first = !known.packs.contains_key(&pack);
        if known.insert(pack, chunk, damage.clone())
            && let Err(error) = self.append(&damage)
        {
            tracing::warn!(cause = %error.source, "{error}: the damage may be forgotten at the next start");
        }
        is_first
    }

    fn append(&self, damage: &KnownDamage) -> Result<(), PathError> {
        let Some((folder, path)) = self.folder.as_ref().zip(self.path()) else { return Ok(()) };
        let failed = |error| PathError::new("write", &path, error);
        atomic::create_folder(folder)?;
        let line = encode(damage).map_err(failed)?;
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
        file.write_all(&line).map_err(failed)
    }

    /// Forgets one place: it was read again and is right.
    pub(super) fn clear(&self, pack: PackId, chunk: Option<ChunkId>) {
        self.forget(|known| known.remove(pack, chunk));
    }

    /// Forgets packs that are gone.
    pub(super) fn forget_packs(&self, is_gone: impl Fn(PackId) -> bool) {
        self.forget(|known| {
            let before = known.packs.len();
            known.packs.retain(|pack, _| !is_gone(*pack));
            known.count = known.packs.values().map(BTreeMap::len).sum();
            known.packs.len() < before
        });
    }

    fn forget(&self, change: impl FnOnce(&mut Known) -> bool) {
        let mut known = self.known();
        // Under the lock: what is found meanwhile is added behind this.
        if change(&mut known)
            && let Err(error) = self.rewrite(&known)
        {
            tracing::warn!(cause = %error.source, "{error}: damage that is no more may be told of after the next start");
        }
    }

    fn rewrite(&self, known: &Known) -> Result<(), PathError> {
        let Some((folder, path)) = self.folder.as_ref().zip(self.path()) else { return Ok(()) };
        let mut lines = Vec::new();
        for damage in known.all() {
            lines.extend(encode(&damage).map_err(|error| PathError::new("write", &path, error))?);
        }
        let temporary = folder.join("tmp");
        atomic::create_folder(&temporary)?;
        atomic::replace(&temporary, &path, &lines)
    }
}

/// What a check of the whole repository found of one place; without a chunk it is the pack itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundDamage {
    pub pack: PackId,
    pub chunk: Option<ChunkId>,
    pub why: String,
}

/// Puts what a check of the whole repository found into the memory in this folder, for the next daemon: packs of
/// which nothing was found are forgotten there. Only while nobody else has the repository open for writing.
pub fn remember_damage(folder: &Path, found: &[FoundDamage]) {
    let log = DamageLog::open(Some(folder));
    let packs: HashSet<PackId> = found.iter().map(|damage| damage.pack).collect();
    log.forget_packs(|pack| !packs.contains(&pack));
    for FoundDamage { pack, chunk, why } in found {
        log.note(*pack, *chunk, why.clone());
    }
}

fn encode(damage: &KnownDamage) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(damage)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_known_after_a_restart_until_it_was_read_right_again() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (PackId::random(), PackId::random());
        let (first, second) = (ChunkId::of(b"1"), ChunkId::of(b"2"));
        let log = DamageLog::open(Some(folder.path()));
        assert!(log.note(one, Some(first), "x".to_owned()), "the pack was good so far");
        assert!(!log.note(one, Some(second), "y".to_owned()));
        assert!(log.note(other, None, "missing".to_owned()));
        let known = log.all();
        assert_eq!(known.len(), 3);
        let log = DamageLog::open(Some(folder.path()));
        assert_eq!(log.all(), known);
        log.clear(one, Some(first));
        assert!(log.is_damaged(one), "its second chunk is damaged still");
        log.clear(one, Some(second));
        assert!(!log.is_damaged(one));
        log.forget_packs(|pack| pack == other);
        assert_eq!(log.all(), []);
        assert_eq!(DamageLog::open(Some(folder.path())).all(), []);
    }

    #[test]
    fn a_torn_or_foreign_line_hides_none_of_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let log = DamageLog::open(Some(folder.path()));
        log.note(PackId::random(), None, "x".to_owned());
        let path = folder.path().join("damage");
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"pack\":\n\xff\xff\n").unwrap();
        file.write_all(&vec![b'x'; 10_000]).unwrap();
        file.write_all(b"\n").unwrap();
        log.note(PackId::random(), None, "y".to_owned());
        assert_eq!(DamageLog::open(Some(folder.path())).all(), log.all());
    }
}
