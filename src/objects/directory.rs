//! Objects as files below one directory.
//!
//! `tmp/` holds what is being written and is cleared at the start by the one writer. Open files are kept, a bounded
//! number of them: packs are read in many small pieces.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::io::Read;
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::{ObjectEntry, ObjectError, ObjectKind, ObjectName, ObjectStamp, ObjectStore, ObjectWriter};
use crate::sysio::{PathError, atomic, clock};

/// Well below the usual limit of 1,024 descriptors, and enough for the packs that one reader is in.
const OPEN_FILES_MAX: NonZeroUsize = NonZeroUsize::new(128).unwrap();

const TEMPORARY_FOLDER: &str = "tmp";
const HEADER: &str = "repository";

/// No file system that anybody uses has times as coarse as this.
const SAME_TIME_SECONDS: i64 = 3;

pub struct DirectoryStore {
    root: PathBuf,
    open_files: Mutex<OpenFiles>,
    /// Folders whose own names this process knows to be durable.
    durable_folders: Mutex<HashSet<PathBuf>>,
}

struct OpenFiles {
    by_name: LruCache<ObjectName, Arc<File>>,
    /// How many objects were removed or replaced: what was opened before the last of them may be an old one.
    changes: u64,
}

impl DirectoryStore {
    /// Makes the folders of an empty store.
    pub fn create(root: &Path) -> Result<Self, ObjectError> {
        let folders = ObjectKind::ALL.map(ObjectKind::folder).into_iter().chain([TEMPORARY_FOLDER]);
        for folder in folders {
            atomic::create_folder(&root.join(folder)).map_err(|source| ObjectError::Folder { source })?;
        }
        Ok(Self::open(root))
    }

    pub fn open(root: &Path) -> Self {
        let open_files = OpenFiles { by_name: LruCache::new(OPEN_FILES_MAX), changes: 0 };
        let durable_folders = Mutex::default();
        Self { root: root.to_owned(), open_files: Mutex::new(open_files), durable_folders }
    }

    /// Makes the names of all objects durable, before anybody counts on them: a writer that was killed may have named
    /// some and not have come to sync the folder. Only the one writer may do that.
    pub fn sync_names(&self) -> Result<(), ObjectError> {
        let sync = || -> Result<(), PathError> {
            for folder in ObjectKind::ALL.map(|kind| self.root.join(kind.folder())) {
                // A copy of a store may lack its empty folders.
                atomic::create_folder(&folder)?;
                for pack_folder in pack_folders(&folder)? {
                    atomic::sync_folder(&pack_folder)?;
                }
                atomic::sync_folder(&folder)?;
            }
            atomic::sync_folder(&self.root)
        };
        sync().map_err(|source| ObjectError::Folder { source })
    }

    /// Removes what killed writers left, and makes the folder for it should a copy of the store lack it. Only the
    /// one writer may do that.
    pub fn clear_temporary(&self) -> Result<(), ObjectError> {
        let folder = self.temporary_folder();
        let cleared = atomic::create_folder(&folder).and_then(|()| atomic::clear_folder(&folder));
        cleared.map_err(|source| ObjectError::Folder { source })
    }

    fn temporary_folder(&self) -> PathBuf {
        self.root.join(TEMPORARY_FOLDER)
    }

    fn path(&self, name: ObjectName) -> PathBuf {
        self.root.join(name.to_string())
    }

    /// Returns the path of an object that is to be made, with its folder there.
    fn path_in_folder(&self, name: ObjectName) -> Result<PathBuf, ObjectError> {
        let path = self.path(name);
        if let Some(folder) = path.parent() {
            self.ensure_folder(folder).map_err(|source| ObjectError::Io { name, source })?;
        }
        Ok(path)
    }

    /// Nobody goes on before the folder's own name is durable, whoever made it.
    fn ensure_folder(&self, folder: &Path) -> Result<(), PathError> {
        let mut durable_folders = self.durable_folders.lock().unwrap_or_else(PoisonError::into_inner);
        if !durable_folders.contains(folder) {
            if let Some(parent) = folder.parent() {
                atomic::create_folder(parent)?;
            }
            atomic::ensure_folder(folder)?;
            durable_folders.insert(folder.to_owned());
        }
        Ok(())
    }

    fn file(&self, name: ObjectName) -> Result<Arc<File>, ObjectError> {
        let mut open_files = self.open_files();
        if let Some(file) = open_files.by_name.get(&name) {
            return Ok(Arc::clone(file));
        }
        let changes = open_files.changes;
        drop(open_files);
        let file = Arc::new(self.open_file(name)?);
        // Records change often and are read once: none is kept.
        if !matches!(name, ObjectName::Record(_)) {
            open_files = self.open_files();
            if open_files.changes == changes {
                open_files.by_name.put(name, Arc::clone(&file));
            }
        }
        Ok(file)
    }

    fn open_file(&self, name: ObjectName) -> Result<File, ObjectError> {
        let path = self.path(name);
        File::open(&path).map_err(|error| failed(name, PathError::new("open", &path, error)))
    }

    fn open_files(&self) -> MutexGuard<'_, OpenFiles> {
        self.open_files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called behind every change, so that no reader goes on with what it opened before.
    fn forget_open_file(&self, name: ObjectName) {
        let mut open_files = self.open_files();
        open_files.by_name.pop(&name);
        open_files.changes += 1;
    }

    fn list_folder(
        &self,
        folder: &Path,
        kind: ObjectKind,
        entries: &mut Vec<ObjectEntry>,
    ) -> Result<(), PathError> {
        let list_error = |error| PathError::new("list", folder, error);
        let folder_entries = match fs::read_dir(folder) {
            // A copy of a store may lack its empty folders.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            folder_entries => folder_entries.map_err(list_error)?,
        };
        for entry in folder_entries {
            let entry = entry.map_err(list_error)?;
            let metadata = match entry.metadata() {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                metadata => metadata.map_err(|error| PathError::new("look at", &entry.path(), error))?,
            };
            let name = entry.file_name();
            if metadata.is_dir() && kind == ObjectKind::Pack && name.len() == 2 {
                self.list_folder(&entry.path(), kind, entries)?;
                continue;
            }
            let Some(Ok(name)) = name.to_str().map(|id| kind.parse_id(id)) else { continue };
            if metadata.is_file() && self.path(name) == entry.path() {
                entries.push(ObjectEntry { name, length: metadata.len(), stamp: stamp(&metadata) });
            }
        }
        Ok(())
    }
}

/// Returns the folders in a folder of objects: packs are spread over them.
fn pack_folders(folder: &Path) -> Result<Vec<PathBuf>, PathError> {
    let failed = |error| PathError::new("list", folder, error);
    let mut folders = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().is_ok_and(|file_type| file_type.is_dir()) {
            folders.push(entry.path());
        }
    }
    Ok(folders)
}

/// An object is replaced by a rename: the new one is another file. Files get numbers that others had, but not at the
/// same time, as far as the file system tells times apart.
fn stamp(metadata: &Metadata) -> ObjectStamp {
    let mut hasher = DefaultHasher::new();
    let changed = (metadata.ctime(), metadata.ctime_nsec(), metadata.mtime(), metadata.mtime_nsec());
    (metadata.ino(), metadata.len(), changed).hash(&mut hasher);
    let age_seconds = clock::now().as_micros() / 1_000_000 - metadata.ctime();
    if age_seconds < SAME_TIME_SECONDS {
        // It may be replaced again at what the file system will call the same time.
        RandomState::new().hash_one(()).hash(&mut hasher);
    }
    ObjectStamp::new(hasher.finish())
}

/// Something in a store's folder that is no object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignFile {
    /// Below the root of the store.
    pub path: PathBuf,
    /// Of a folder, 0.
    pub length: u64,
}

impl DirectoryStore {
    /// Lists what is in the store's folders and is no object, and what lies beside them under names that are not in
    /// `known`. At most `max`.
    pub fn foreign_files(&self, known: &[&OsStr], max: usize) -> Result<Vec<ForeignFile>, ObjectError> {
        let mut foreign = Vec::new();
        let listed = self.list_foreign(&self.root, &mut foreign, max, |name, is_folder| {
            let is_folder_of_objects = ObjectKind::ALL.iter().any(|kind| name == kind.folder());
            known.contains(&name)
                || if is_folder { is_folder_of_objects || name == TEMPORARY_FOLDER } else { name == HEADER }
        });
        listed.map_err(|source| ObjectError::Folder { source })?;
        for kind in ObjectKind::ALL {
            self.list_foreign_of(kind, &self.root.join(kind.folder()), &mut foreign, max)
                .map_err(|source| ObjectError::Folder { source })?;
        }
        foreign.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(foreign)
    }

    fn list_foreign_of(
        &self,
        kind: ObjectKind,
        folder: &Path,
        foreign: &mut Vec<ForeignFile>,
        max: usize,
    ) -> Result<(), PathError> {
        let mut folders = Vec::new();
        let is_root = kind == ObjectKind::Pack && folder.ends_with(kind.folder());
        self.list_foreign(folder, foreign, max, |name, is_folder| {
            if is_folder && is_root && name.len() == 2 {
                folders.push(folder.join(name));
                return true;
            }
            let object = name.to_str().and_then(|id| kind.parse_id(id).ok());
            !is_folder && object.is_some_and(|object| self.path(object) == folder.join(name))
        })?;
        folders.iter().try_for_each(|folder| self.list_foreign_of(kind, folder, foreign, max))
    }

    fn list_foreign(
        &self,
        folder: &Path,
        foreign: &mut Vec<ForeignFile>,
        max: usize,
        mut is_known: impl FnMut(&OsStr, bool) -> bool,
    ) -> Result<(), PathError> {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(|error| PathError::new("list", folder, error))?,
        };
        for entry in entries {
            let entry = entry.map_err(|error| PathError::new("list", folder, error))?;
            let Ok(metadata) = entry.metadata() else { continue };
            if is_known(&entry.file_name(), metadata.is_dir()) || foreign.len() >= max {
                continue;
            }
            let path = entry.path().strip_prefix(&self.root).map_or_else(|_| entry.path(), Path::to_owned);
            let length = if metadata.is_dir() { 0 } else { metadata.len() };
            foreign.push(ForeignFile { path, length });
        }
        Ok(())
    }
}

fn failed(name: ObjectName, source: PathError) -> ObjectError {
    if source.is_not_found() {
        ObjectError::Missing { name }
    } else if source.already_exists() {
        ObjectError::Exists { name }
    } else {
        ObjectError::Io { name, source }
    }
}

impl ObjectStore for DirectoryStore {
    fn location(&self) -> String {
        format!("dir:{}", self.root.display())
    }

    fn create(&self, name: ObjectName) -> Result<Box<dyn ObjectWriter>, ObjectError> {
        let path = self.path_in_folder(name)?;
        let file = atomic::NewFile::create(&self.temporary_folder(), &path)
            .map_err(|source| ObjectError::Io { name, source })?;
        Ok(Box::new(FileWriter { name, file }))
    }

    fn replace(&self, name: ObjectName, bytes: &[u8]) -> Result<(), ObjectError> {
        let replaced = atomic::replace(&self.temporary_folder(), &self.path_in_folder(name)?, bytes);
        self.forget_open_file(name);
        replaced.map_err(|source| ObjectError::Io { name, source })
    }

    fn read(&self, name: ObjectName, offset: u64, into: &mut [u8]) -> Result<(), ObjectError> {
        let file = self.file(name)?;
        file.read_exact_at(into, offset).map_err(|error| {
            let wanted_end = offset.saturating_add(into.len() as u64);
            match file.metadata().map(|metadata| metadata.len()) {
                Ok(length) if length < wanted_end => ObjectError::Truncated { name, length, wanted_end },
                _ => ObjectError::Io { name, source: PathError::new("read", &self.path(name), error) },
            }
        })
    }

    fn read_whole(&self, name: ObjectName, length_max: u64) -> Result<Vec<u8>, ObjectError> {
        let failed =
            |error| ObjectError::Io { name, source: PathError::new("read", &self.path(name), error) };
        // Opened anew: one open file is one object, whatever is put in its place meanwhile.
        let file = self.open_file(name)?;
        let length = file.metadata().map_err(failed)?.len();
        if length > length_max {
            return Err(ObjectError::TooLong { name, length, length_max });
        }
        let mut bytes = Vec::new();
        file.take(length_max).read_to_end(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }

    fn length(&self, name: ObjectName) -> Result<u64, ObjectError> {
        let path = self.path(name);
        fs::metadata(&path)
            .map(|metadata| metadata.len())
            .map_err(|error| failed(name, PathError::new("look at", &path, error)))
    }

    fn forget_kept(&self, name: ObjectName) {
        // By its name: a file that is kept open may be of an object that is gone.
        self.open_files().by_name.pop(&name);
        if let Ok(file) = self.file(name) {
            // Nothing depends on it: without it a page in memory hides what the disk has lost.
            let _ = rustix::fs::fadvise(&*file, 0, None, rustix::fs::Advice::DontNeed);
        }
    }

    fn list(&self, kind: ObjectKind) -> Result<Vec<ObjectEntry>, ObjectError> {
        let mut entries = Vec::new();
        self.list_folder(&self.root.join(kind.folder()), kind, &mut entries)
            .map_err(|source| ObjectError::Folder { source })?;
        Ok(entries)
    }

    fn remove(&self, name: ObjectName) -> Result<(), ObjectError> {
        let removed = atomic::remove(&self.path(name));
        self.forget_open_file(name);
        removed.map_err(|source| ObjectError::Io { name, source })
    }
}

struct FileWriter {
    name: ObjectName,
    file: atomic::NewFile,
}

impl ObjectWriter for FileWriter {
    fn append(&mut self, bytes: &[u8]) -> Result<(), ObjectError> {
        self.file.append(bytes).map_err(|source| ObjectError::Io { name: self.name, source })
    }

    fn finish(self: Box<Self>) -> Result<(), ObjectError> {
        self.file.finish().map_err(|source| failed(self.name, source))
    }
}
