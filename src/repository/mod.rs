//! A repository, opened and locked: the chunk store, the catalog and the images over one object store.
//!
//! One process writes to a directory repository at a time, and holds the lock `lock` for as long as it has it
//! open. Whoever comes second reads only, with an index of its own in a temporary folder, and follows what the writer
//! does (`follow`).
//!
//! Locks inside the process, and what may be held together (a lock may be taken while one above it is held):
//!
//! | rank | lock | held while |
//! |---|---|---|
//! | 1 | `catalog.changing` | one record is changed and synced |
//! | 2 | `catalog.backups` | a field is looked at; never during I/O |
//! | 3 | `index.inserting` | one pack is indexed |
//! | 4 | `index.packs` | a number is looked up; never during I/O |
//! | 5 | shards of the caches | a value is looked up; never while it is loaded |
//!
//! The observer of the catalog is told under rank 1 and takes a lock of its own, under which it takes no other.

mod error;
mod follow;
mod links;
mod location;

use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

pub use error::RepositoryError;
use follow::Following;
pub use location::Location;

use crate::catalog::{Catalog, ManifestReference};
use crate::format::codec::Compression;
use crate::format::document;
use crate::format::header::{Compatibility, RepositoryHeader};
use crate::image::{Image, ImageCaches};
use crate::index::ChunkIndex;
use crate::objects::{
    DirectoryStore, ForeignFile, MeasuredStore, ObjectError, ObjectKind, ObjectName, ObjectStore,
};
use crate::store::ChunkStore;
use crate::sysio::lock::{self, FileLock};
use crate::sysio::space::{self, Space};
use crate::sysio::{atomic, clock};
use crate::types::{BackupId, ByteSize, ManifestId, RepositoryId};

/// So many images stay open: each holds the roots of its chain's manifests.
const OPEN_IMAGES_MAX: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// The file whose lock the one writer holds.
const LOCK: &str = "lock";

/// How a repository is opened.
#[derive(Debug, Clone)]
pub struct RepositoryOptions {
    /// Where the index is; by default in the repository's own directory.
    pub index: Option<PathBuf>,
    pub compression: Compression,
    /// Bytes of memory for decoded chunks, manifest pages and the index together.
    pub cache_bytes: u64,
}

pub struct Repository {
    header: RepositoryHeader,
    location: String,
    store: Arc<ChunkStore>,
    catalog: Catalog,
    caches: Arc<ImageCaches>,
    state_folder: PathBuf,
    images: Mutex<LruCache<ManifestId, Arc<Image>>>,
    /// `None` when it is open for reading only.
    write_lock: Option<FileLock>,
    following: Following,
    /// The index of a reader, removed with it. Declared last: the index in it is closed before.
    _temporary_index: Option<TemporaryFolder>,
}

impl Repository {
    /// Makes an empty repository in a directory that does not exist or is empty.
    pub fn create(location: &Location, chunk_size: ByteSize) -> Result<RepositoryHeader, RepositoryError> {
        let Location::Directory(path) = location;
        match std::fs::read_dir(path).map(|mut entries| entries.next().is_some()) {
            Ok(true) => return Err(RepositoryError::NotEmpty { path: path.clone() }),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(RepositoryError::Io { path: path.clone(), source: error });
            }
            Ok(false) | Err(_) => {}
        }
        let header = RepositoryHeader::new(RepositoryId::random(), clock::now(), chunk_size)?;
        let text = header.encode()?;
        let objects: Arc<dyn ObjectStore> = Arc::new(DirectoryStore::create(path)?);
        // Last: a folder without it is not a repository.
        objects.put(ObjectName::Header, text.as_bytes())?;
        Ok(header)
    }

    /// Reads the header alone.
    pub fn read_header(location: &Location) -> Result<RepositoryHeader, RepositoryError> {
        let Location::Directory(path) = location;
        read_header(&DirectoryStore::open(path), path)
    }

    /// Counts the objects of each kind: name of the kind, how many, bytes.
    pub fn count_objects(location: &Location) -> Result<Vec<(&'static str, u64, u64)>, RepositoryError> {
        let Location::Directory(path) = location;
        let objects = DirectoryStore::open(path);
        let mut counts = Vec::new();
        for kind in ObjectKind::ALL {
            let entries = objects.list(kind)?;
            let bytes = entries.iter().map(|entry| entry.length).sum();
            counts.push((kind.folder(), entries.len() as u64, bytes));
        }
        Ok(counts)
    }

    /// Opens a repository, for writing when nobody else does and its format allows it.
    pub fn open(location: &Location, options: &RepositoryOptions) -> Result<Self, RepositoryError> {
        let Location::Directory(path) = location;
        let header = read_header(&DirectoryStore::open(path), path)?;
        let write_lock = match header.compatibility()? {
            Compatibility::ReadWrite => take_write_lock(path)?,
            Compatibility::ReadOnly => None,
        };
        Self::open_with(location, options, header, write_lock)
    }

    /// Opens a repository for reading only, whether somebody writes to it or not.
    pub fn open_read_only(location: &Location, options: &RepositoryOptions) -> Result<Self, RepositoryError> {
        let Location::Directory(path) = location;
        let header = read_header(&DirectoryStore::open(path), path)?;
        header.compatibility()?;
        Self::open_with(location, options, header, None)
    }

    fn open_with(
        location: &Location,
        options: &RepositoryOptions,
        header: RepositoryHeader,
        write_lock: Option<FileLock>,
    ) -> Result<Self, RepositoryError> {
        let Location::Directory(path) = location;
        let directory = DirectoryStore::open(path);
        if write_lock.is_some() {
            links::refuse_linked_objects(path)?;
            directory.clear_temporary()?;
            // Before the records and packs are looked at: what is seen from here on is durable.
            directory.sync_names()?;
        }
        let temporary_index = if write_lock.is_some() { None } else { Some(TemporaryFolder::create()?) };
        let index_path = match &temporary_index {
            Some(folder) => folder.path.join("index"),
            None => index_path(location, options),
        };
        if options.index.is_none() {
            links::refuse_links(&index_path)?;
            links::refuse_links(&state_folder_beside(&index_path))?;
        }
        atomic::create_folder(&index_path)?;
        let index = ChunkIndex::open(&index_path, header.id, options.cache_bytes / 8)?;
        let objects: Arc<dyn ObjectStore> = Arc::new(MeasuredStore::new(directory));
        let location = objects.location();
        let catalog = Catalog::load(Arc::clone(&objects))?;
        let state_folder = state_folder_beside(&index_path);
        // A reader leaves the writer's state alone.
        let remembered_in = write_lock.as_ref().map(|_| state_folder.as_path());
        let cache_bytes = options.cache_bytes / 4 * 3;
        let store =
            ChunkStore::open(Arc::clone(&objects), index, options.compression, cache_bytes, remembered_in)?;
        if write_lock.is_none() {
            store.follow_another_writer();
        }
        Ok(Self {
            header,
            location,
            store,
            catalog,
            state_folder,
            caches: ImageCaches::new(options.cache_bytes / 8),
            images: Mutex::new(LruCache::new(OPEN_IMAGES_MAX)),
            following: Following::new(path.join(LOCK)),
            write_lock,
            _temporary_index: temporary_index,
        })
    }

    /// Returns the objects of a repository, and an empty index for them that goes when it is dropped.
    pub fn open_objects(location: &Location, cache_bytes: u64) -> Result<ObjectsAndIndex, RepositoryError> {
        let Location::Directory(path) = location;
        let directory = DirectoryStore::open(path);
        let header = read_header(&directory, path)?;
        header.compatibility()?;
        let folder = TemporaryFolder::create()?;
        let index_path = folder.path.join("index");
        atomic::create_folder(&index_path)?;
        let index = ChunkIndex::open(&index_path, header.id, cache_bytes)?;
        Ok(ObjectsAndIndex { header, objects: Arc::new(directory), index, folder })
    }

    /// Lists what is in a repository's folder and is none of its objects, at most `max` of it.
    pub fn foreign_files(
        location: &Location,
        options: &RepositoryOptions,
        max: usize,
    ) -> Result<Vec<ForeignFile>, RepositoryError> {
        let Location::Directory(path) = location;
        let index = index_path(location, options);
        let own = [path.join("lock"), path.join("index"), state_folder_beside(&path.join("index"))];
        let own: Vec<PathBuf> = own.into_iter().chain([state_folder_beside(&index), index]).collect();
        let names: Vec<&OsStr> = own
            .iter()
            .filter_map(|own| own.strip_prefix(path).ok()?.components().next())
            .map(Component::as_os_str)
            .collect();
        Ok(DirectoryStore::open(path).foreign_files(&names, max)?)
    }

    /// Runs `then` with the state folder while nobody has the repository open for writing; `None` when somebody does.
    pub fn while_unused<T>(
        location: &Location,
        options: &RepositoryOptions,
        then: impl FnOnce(&Path) -> T,
    ) -> Result<Option<T>, RepositoryError> {
        let Location::Directory(path) = location;
        let lock = take_write_lock(path)?;
        Ok(lock.map(|_held| then(&state_folder_beside(&index_path(location, options)))))
    }

    pub fn header(&self) -> &RepositoryHeader {
        &self.header
    }

    /// Says where the repository is, as in the configuration.
    pub fn location(&self) -> &str {
        &self.location
    }

    pub fn is_read_only(&self) -> bool {
        self.write_lock.is_none()
    }

    /// Returns the room on the repository's disk, and an error when the repository is not there any more. May take as long
    /// as a file server that does not answer.
    pub fn space(&self) -> Result<Space, RepositoryError> {
        let Location::Directory(path) = self.location.parse()?;
        // Where a file system was mounted, its folder is still there when it is not.
        self.objects().length(ObjectName::Header)?;
        space::of(&path).map_err(|source| RepositoryError::Io { path, source })
    }

    /// Where this machine remembers what is no part of the repository, beside the index. It may be lost at any time.
    pub fn state_folder(&self) -> &Path {
        &self.state_folder
    }

    pub fn chunk_size(&self) -> u64 {
        self.header.chunk_size.0
    }

    pub fn store(&self) -> &Arc<ChunkStore> {
        &self.store
    }

    pub fn objects(&self) -> &Arc<dyn ObjectStore> {
        self.store.objects()
    }

    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Opens the image of a backup whose manifest is published.
    pub fn image(&self, id: BackupId) -> Result<Arc<Image>, RepositoryError> {
        let mut chain = self.catalog.chain(id)?;
        loop {
            let opened = self.image_of(&chain);
            if opened.is_err() {
                // The writer may have put another manifest in the place of one of these.
                self.refresh_at_need();
            }
            // A backup of the chain may have been flattened in between, and the manifest that it had may have gone
            // just before the image began to use it. Each time there is less of the chain.
            let now = self.catalog.chain(id)?;
            if now == chain {
                return opened;
            }
            if let Some(newest) = chain.first() {
                let stale = self.images.lock().unwrap_or_else(PoisonError::into_inner).pop(&newest.id);
                // Behind the lock: it may be the last one that reads a manifest which is to go.
                drop(stale);
            }
            chain = now;
        }
    }

    fn image_of(&self, chain: &[ManifestReference]) -> Result<Arc<Image>, RepositoryError> {
        let newest = chain.first().map(|manifest| manifest.id);
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = newest.and_then(|newest| images.get(&newest)) {
            return Ok(Arc::clone(image));
        }
        drop(images);
        let image = Arc::new(self.open_image(chain)?);
        if let Some(newest) = newest {
            images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
            let evicted = images.push(newest, Arc::clone(&image));
            drop(images);
            drop(evicted);
        }
        Ok(image)
    }

    /// Is there a record of this backup, one that is being deleted included?
    pub fn has_record(&self, id: BackupId) -> Result<bool, RepositoryError> {
        match self.objects().length(ObjectName::Record(id)) {
            Ok(_) => Ok(true),
            Err(ObjectError::Missing { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes manifests that no backup has any more, as soon as no open image reads them, and then runs `then`.
    ///
    /// A failure is told and leaves the manifest; `then` is not run, so that the next start can try again.
    pub fn retire_manifests(&self, manifests: Vec<ManifestId>, then: impl FnOnce() + Send + 'static) {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        let is_affected = |image: &Image| manifests.iter().any(|manifest| image.has_manifest(*manifest));
        let affected: Vec<_> =
            images.iter().filter(|(_, image)| is_affected(image)).map(|(newest, _)| *newest).collect();
        // Dropped behind the lock: the last one may remove manifests right there.
        let dropped: Vec<_> = affected.iter().filter_map(|newest| images.pop(newest)).collect();
        drop(images);
        let objects = Arc::clone(self.objects());
        self.caches.when_unused(manifests.clone(), move || {
            for manifest in manifests {
                if let Err(error) = objects.remove(ObjectName::Manifest(manifest)) {
                    tracing::error!(%manifest, %error, "a manifest cannot be removed; the next start tries again");
                    return;
                }
            }
            then();
        });
        drop(dropped);
    }

    /// Opens the image of a backup with caches of its own: what is read of its manifests is what the repository has now.
    pub fn open_image_apart(&self, id: BackupId, cache_bytes: u64) -> Result<Image, RepositoryError> {
        loop {
            let chain = self.catalog.chain(id)?;
            for manifest in &chain {
                self.objects().forget_kept(ObjectName::Manifest(manifest.id));
            }
            let opened = Image::open(Arc::clone(&self.store), self.caches.apart(cache_bytes), &chain);
            // As in `image`: one of the chain may just have been flattened.
            if opened.is_ok() || self.catalog.chain(id)? == chain {
                return Ok(opened?);
            }
        }
    }

    /// Opens the image of a chain of manifests, newest first.
    pub fn open_image(&self, chain: &[ManifestReference]) -> Result<Image, RepositoryError> {
        Ok(Image::open(Arc::clone(&self.store), Arc::clone(&self.caches), chain)?)
    }
}

/// The objects of a repository, without what is known of them.
pub struct ObjectsAndIndex {
    pub header: RepositoryHeader,
    pub objects: Arc<dyn ObjectStore>,
    /// Empty.
    pub index: ChunkIndex,
    /// Declared last: the index in it is closed before it goes.
    pub folder: TemporaryFolder,
}

fn index_path(location: &Location, options: &RepositoryOptions) -> PathBuf {
    let Location::Directory(path) = location;
    options.index.clone().unwrap_or_else(|| path.join("index"))
}

fn read_header(objects: &DirectoryStore, path: &Path) -> Result<RepositoryHeader, RepositoryError> {
    let objects: &dyn ObjectStore = objects;
    match objects.read_whole(ObjectName::Header, document::LENGTH_MAX) {
        Ok(bytes) => Ok(RepositoryHeader::decode(&bytes)?),
        Err(ObjectError::Missing { .. }) => Err(RepositoryError::NotARepository { path: path.to_owned() }),
        Err(error) => Err(error.into()),
    }
}

/// Takes the lock of the one writer; `None` when another has it, or the file system is read-only for us.
fn take_write_lock(path: &Path) -> Result<Option<FileLock>, RepositoryError> {
    match lock::try_lock(&path.join(LOCK)) {
        Ok(lock) => Ok(lock),
        Err(error) if is_read_only(&error.source) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn state_folder_beside(index: &Path) -> PathBuf {
    let mut path = index.as_os_str().to_owned();
    path.push("-state");
    PathBuf::from(path)
}

fn is_read_only(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::PermissionDenied)
}

/// A folder that is removed with everything in it.
pub struct TemporaryFolder {
    path: PathBuf,
    /// Held for as long as somebody uses it: one that nobody holds was left by a killed process.
    _lock: Option<FileLock>,
}

const TEMPORARY_INDEX: &str = "amberfs-index-";

impl TemporaryFolder {
    fn create() -> Result<Self, RepositoryError> {
        Self::remove_left();
        let path = std::env::temp_dir().join(format!("{TEMPORARY_INDEX}{}", RepositoryId::random()));
        std::fs::create_dir(&path).map_err(|source| RepositoryError::Io { path: path.clone(), source })?;
        let lock = lock::try_lock(&path.join(LOCK))?;
        Ok(Self { path, _lock: lock })
    }

    /// Removes the folders of processes that were killed.
    fn remove_left() {
        let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
        let own = rustix::process::geteuid().as_raw();
        for entry in entries.flatten() {
            let is_one = entry.file_name().to_str().is_some_and(|name| name.starts_with(TEMPORARY_INDEX));
            let is_ours = |lock: &Path| {
                std::fs::symlink_metadata(lock).is_ok_and(|file| file.is_file() && file.uid() == own)
            };
            let lock = entry.path().join(LOCK);
            // One without a lock is being made.
            if is_one && is_ours(&lock) && lock::try_lock(&lock).is_ok_and(|lock| lock.is_some()) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
