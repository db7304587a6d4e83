//! A repository, opened and locked: the chunk store, the catalog and the images over one object store.
//!
//! One process writes to a directory repository at a time, and holds the lock `lock` for as long as it has it
//! open. Whoever comes second reads only, with an index of its own in a temporary folder.
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
mod links;
mod location;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

pub use error::RepositoryError;
pub use location::Location;

use crate::catalog::{Catalog, ManifestReference};
use crate::format::codec::Compression;
use crate::format::document;
use crate::format::header::{Compatibility, RepositoryHeader};
use crate::image::{Image, ImageCaches};
use crate::index::ChunkIndex;
use crate::objects::{DirectoryStore, ObjectError, ObjectKind, ObjectName, ObjectStore};
use crate::store::ChunkStore;
use crate::sysio::lock::{self, FileLock};
use crate::sysio::{atomic, clock};
use crate::types::{BackupId, ByteSize, ManifestId, RepositoryId};

/// So many images stay open: each holds the roots of its chain's manifests.
const OPEN_IMAGES_MAX: NonZeroUsize = NonZeroUsize::new(64).unwrap();

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
        let directory = DirectoryStore::open(path);
        let header = read_header(&directory, path)?;
        let write_lock = match header.compatibility()? {
            Compatibility::ReadWrite => take_write_lock(path)?,
            Compatibility::ReadOnly => None,
        };
        if write_lock.is_some() {
            directory.clear_temporary()?;
        }
        let temporary_index = if write_lock.is_some() { None } else { Some(TemporaryFolder::create()?) };
        let index_path = match (&temporary_index, &options.index) {
            (Some(folder), _) => folder.path.join("index"),
            (None, Some(path)) => path.clone(),
            (None, None) => path.join("index"),
        };
        if options.index.is_none() {
            links::refuse_links(&index_path)?;
            links::refuse_links(&state_folder_beside(&index_path))?;
        }
        atomic::create_folder(&index_path)?;
        let index = ChunkIndex::open(&index_path, header.id, options.cache_bytes / 8)?;
        let objects: Arc<dyn ObjectStore> = Arc::new(directory);
        let location = objects.location();
        let catalog = Catalog::load(Arc::clone(&objects))?;
        let store =
            ChunkStore::open(Arc::clone(&objects), index, options.compression, options.cache_bytes / 4 * 3)?;
        Ok(Self {
            header,
            location,
            store,
            catalog,
            state_folder: state_folder_beside(&index_path),
            caches: ImageCaches::new(options.cache_bytes / 8),
            images: Mutex::new(LruCache::new(OPEN_IMAGES_MAX)),
            write_lock,
            _temporary_index: temporary_index,
        })
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

    /// Opens the image of a chain of manifests, newest first.
    pub fn open_image(&self, chain: &[ManifestReference]) -> Result<Image, RepositoryError> {
        Ok(Image::open(Arc::clone(&self.store), Arc::clone(&self.caches), chain)?)
    }
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
    match lock::try_lock(&path.join("lock")) {
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
struct TemporaryFolder {
    path: PathBuf,
}

impl TemporaryFolder {
    fn create() -> Result<Self, RepositoryError> {
        let path = std::env::temp_dir().join(format!("amberfs-index-{}", RepositoryId::random()));
        std::fs::create_dir(&path).map_err(|source| RepositoryError::Io { path: path.clone(), source })?;
        Ok(Self { path })
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
