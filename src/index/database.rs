//! sled, and everything that is special about it. Nothing else in amberfs knows the name.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::bucket::{self, BucketEntry, PackNumber};
use super::{IndexError, IndexedPack};
use crate::types::{ChunkId, PackId, RepositoryId};

/// Changes when the meaning of keys or values does; an index of another version is thrown away.
const VERSION: u32 = 1;
const OWNER_KEY: &[u8] = b"owner";
const FORGOTTEN_KEY: &[u8] = b"forgotten-chunks";
const NEXT_NUMBER_KEY: &[u8] = b"next-pack-number";

/// Five seconds in all: the lock of another process stays longer, and then it is an error.
const LOCK_TRIES: u32 = 100;
const LOCK_TRIED_EVERY: Duration = Duration::from_millis(50);

pub(super) struct Database {
    path: PathBuf,
    /// Taken out on drop and never before.
    open: Option<Open>,
}

struct Open {
    database: sled::Db,
    buckets: sled::Tree,
    packs: sled::Tree,
}

impl Database {
    /// Opens the database, or moves it aside and begins an empty one when that fails or it is another
    /// repository's.
    pub(super) fn open_or_begin(
        path: &Path,
        repository: RepositoryId,
        cache_bytes: u64,
    ) -> Result<Self, IndexError> {
        let why = match Self::open_unlocked(path, cache_bytes) {
            Ok(database) => match database.claim(repository) {
                Ok(true) => return Ok(database),
                Ok(false) => "it is of another repository or version".to_owned(),
                Err(error) => error.to_string(),
            },
            Err(error @ IndexError::Database { source: sled::Error::Io(_), .. }) if is_locked(&error) => {
                return Err(error);
            }
            Err(error) => format!(
                "{error}: {}",
                std::error::Error::source(&error).map_or(String::new(), ToString::to_string)
            ),
        };
        tracing::warn!(index = %path.display(), why, "the index cannot be used and is built anew");
        discard(path)?;
        let database = Self::open(path, cache_bytes)?;
        match database.claim(repository)? {
            true => Ok(database),
            false => Err(database.unusable("an empty index has an owner")),
        }
    }

    /// Opens the database; one that is locked is tried again for a while: sled's own threads may keep the lock for a
    /// moment after it was closed.
    fn open_unlocked(path: &Path, cache_bytes: u64) -> Result<Self, IndexError> {
        for _ in 0..LOCK_TRIES {
            match Self::open(path, cache_bytes) {
                Err(error) if is_locked(&error) => thread::sleep(LOCK_TRIED_EVERY),
                opened => return opened,
            }
        }
        Self::open(path, cache_bytes)
    }

    fn open(path: &Path, cache_bytes: u64) -> Result<Self, IndexError> {
        remove_unfinished_snapshots(path);
        let failed = |source| IndexError::Database { path: path.display().to_string(), source };
        // sled asserts on some damaged files.
        let opened = catch_unwind(AssertUnwindSafe(|| -> sled::Result<Open> {
            let database = sled::Config::new().path(path).cache_capacity(cache_bytes).open()?;
            let buckets = database.open_tree("buckets")?;
            buckets.set_merge_operator(append);
            let packs = database.open_tree("packs")?;
            Ok(Open { database, buckets, packs })
        }));
        match opened {
            Ok(Ok(open)) => Ok(Self { path: path.to_owned(), open: Some(open) }),
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(IndexError::Unusable {
                path: path.display().to_string(),
                why: "the database panicked when it was opened".to_owned(),
            }),
        }
    }

    /// Makes the database this repository's when it is empty; returns whether it is now.
    fn claim(&self, repository: RepositoryId) -> Result<bool, IndexError> {
        let mut owner = repository.as_bytes().to_vec();
        owner.extend_from_slice(&VERSION.to_le_bytes());
        let is_empty = self.check(|open| Ok(open.packs.is_empty() && open.buckets.is_empty()))?;
        match self.check(|open| open.database.get(OWNER_KEY))? {
            Some(found) => Ok(found == owner),
            None if is_empty => {
                self.check(|open| open.database.insert(OWNER_KEY, owner.as_slice()))?;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    pub(super) fn packs(&self) -> Result<Vec<(PackNumber, PackId, IndexedPack)>, IndexError> {
        let mut packs = Vec::new();
        let mut items = self.check(|open| Ok(open.packs.iter()))?;
        while let Some((key, value)) = self.check(|_| items.next().transpose())? {
            let pack =
                decode_pack(&key, &value).ok_or_else(|| self.unusable("a pack's entry is malformed"))?;
            packs.push(pack);
        }
        Ok(packs)
    }

    pub(super) fn next_number(&self) -> Result<PackNumber, IndexError> {
        let number = self.check(|open| open.database.get(NEXT_NUMBER_KEY))?;
        let number = number.and_then(|bytes| bytes.as_ref().try_into().ok()).map_or(0, u32::from_le_bytes);
        Ok(PackNumber(number))
    }

    pub(super) fn put_pack(
        &self,
        number: PackNumber,
        id: PackId,
        pack: IndexedPack,
    ) -> Result<(), IndexError> {
        let mut value = id.as_bytes().to_vec();
        value.extend_from_slice(&pack.length.to_le_bytes());
        value.extend_from_slice(&pack.chunk_count.to_le_bytes());
        value.push(pack.complete.into());
        self.check(|open| open.packs.insert(number.0.to_be_bytes(), value.as_slice())).map(drop)
    }

    pub(super) fn remove_pack(
        &self,
        number: PackNumber,
        next: PackNumber,
        chunk_count: u64,
    ) -> Result<(), IndexError> {
        self.check(|open| open.database.insert(NEXT_NUMBER_KEY, &next.0.to_le_bytes()))?;
        let forgotten = self.forgotten_chunks()?.saturating_add(chunk_count);
        self.check(|open| open.database.insert(FORGOTTEN_KEY, &forgotten.to_le_bytes()))?;
        self.check(|open| open.packs.remove(number.0.to_be_bytes())).map(drop)
    }

    /// How many chunks of forgotten packs the buckets hold.
    pub(super) fn forgotten_chunks(&self) -> Result<u64, IndexError> {
        let count = self.check(|open| open.database.get(FORGOTTEN_KEY))?;
        Ok(count.and_then(|bytes| bytes.as_ref().try_into().ok()).map_or(0, u64::from_le_bytes))
    }

    /// Takes the entries of packs that are not known any more out of all buckets.
    pub(super) fn compact(
        &self,
        is_known: impl Fn(PackNumber) -> bool,
        goes_on: impl Fn() -> bool,
    ) -> Result<(), IndexError> {
        let mut keys = self.check(|open| Ok(open.buckets.iter().keys()))?;
        while let Some(key) = self.check(|_| keys.next().transpose())? {
            if !goes_on() {
                return Ok(());
            }
            self.check(|open| {
                open.buckets.update_and_fetch(&key, |bucket| Some(bucket::retain(bucket?, &is_known)))
            })?;
        }
        self.check(|open| open.database.insert(FORGOTTEN_KEY, &0_u64.to_le_bytes())).map(drop)
    }

    pub(super) fn append(&self, entry: &BucketEntry) -> Result<(), IndexError> {
        self.check(|open| open.buckets.merge(entry.key(), entry.encode())).map(drop)
    }

    pub(super) fn has(&self, entry: &BucketEntry) -> Result<bool, IndexError> {
        let bucket = self.check(|open| open.buckets.get(entry.key()))?;
        Ok(bucket.is_some_and(|bucket| bucket::holds(&bucket, entry)))
    }

    pub(super) fn bucket(&self, id: ChunkId) -> Result<Option<sled::IVec>, IndexError> {
        self.check(|open| open.buckets.get(bucket::key_of(id)))
    }

    pub(super) fn flush(&self) -> Result<(), IndexError> {
        self.check(|open| open.database.flush()).map(drop)
    }

    /// Runs one call of sled; a panic in it is an error.
    fn check<T>(&self, call: impl FnOnce(&Open) -> sled::Result<T>) -> Result<T, IndexError> {
        let open = self.open.as_ref().ok_or_else(|| self.unusable("the database is closed"))?;
        match catch_unwind(AssertUnwindSafe(|| call(open))) {
            Ok(result) => result
                .map_err(|source| IndexError::Database { path: self.path.display().to_string(), source }),
            Err(_) => Err(self.unusable("the database panicked")),
        }
    }

    fn unusable(&self, why: &str) -> IndexError {
        IndexError::Unusable { path: self.path.display().to_string(), why: why.to_owned() }
    }
}

impl Drop for Database {
    /// sled panics when its last sync fails, and whoever drops the repository has done nothing wrong.
    fn drop(&mut self) {
        let open = self.open.take();
        if catch_unwind(AssertUnwindSafe(|| drop(open))).is_err() {
            tracing::warn!(index = %self.path.display(), "the index could not be closed in order; the next start looks at it again");
        }
    }
}

/// The merge operator of buckets: the new entry goes behind the old ones.
fn append(_key: &[u8], old: Option<&[u8]>, entry: &[u8]) -> Option<Vec<u8>> {
    let mut bucket = Vec::with_capacity(old.map_or(0, <[u8]>::len) + entry.len());
    bucket.extend_from_slice(old.unwrap_or_default());
    bucket.extend_from_slice(entry);
    Some(bucket)
}

fn decode_pack(key: &[u8], value: &[u8]) -> Option<(PackNumber, PackId, IndexedPack)> {
    let number = u32::from_be_bytes(key.try_into().ok()?);
    let (id, rest) = value.split_first_chunk::<16>()?;
    let (length, rest) = rest.split_first_chunk::<8>()?;
    let (chunk_count, rest) = rest.split_first_chunk::<4>()?;
    let pack = IndexedPack {
        length: u64::from_le_bytes(*length),
        chunk_count: u32::from_le_bytes(*chunk_count),
        complete: rest == [1],
    };
    Some((PackNumber(number), PackId::from_bytes(*id), pack))
}

/// A kill while sled opens leaves `snap.N.generating`, after which it refuses to open.
fn remove_unfinished_snapshots(path: &Path) {
    let Ok(entries) = fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "generating") {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Another process has it open: throwing it away would pull it from under that one.
fn is_locked(error: &IndexError) -> bool {
    matches!(error, IndexError::Database { source: sled::Error::Io(error), .. }
        if error.kind() == std::io::ErrorKind::WouldBlock || error.to_string().contains("could not acquire lock"))
}

/// Removes an unusable database: sled's own files and nothing else, should the folder hold more. It holds nothing
/// that the packs do not.
fn discard(path: &Path) -> Result<(), IndexError> {
    let unusable = |error: std::io::Error| IndexError::Unusable {
        path: path.display().to_string(),
        why: format!("it cannot be removed: {error}"),
    };
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(unusable)?,
    };
    for entry in entries {
        let entry = entry.map_err(unusable)?;
        let name = entry.file_name();
        match name.to_str() {
            Some("db" | "conf") => fs::remove_file(entry.path()).map_err(unusable)?,
            Some("blobs") => fs::remove_dir_all(entry.path()).map_err(unusable)?,
            Some(name) if name.starts_with("snap.") => fs::remove_file(entry.path()).map_err(unusable)?,
            _ => {}
        }
    }
    Ok(())
}
