//! Objects as files below one directory.
//!
//! `tmp/` holds what is being written and is cleared at the start by the one writer. Open files are kept, a bounded
//! number of them: packs are read in many small pieces.

use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use super::{ObjectEntry, ObjectError, ObjectKind, ObjectName, ObjectStore, ObjectWriter};
use crate::sysio::{PathError, atomic};

/// Well below the usual limit of 1,024 descriptors, and enough for the packs that one reader is in.
const OPEN_FILES_MAX: NonZeroUsize = NonZeroUsize::new(128).unwrap();

const TEMPORARY_FOLDER: &str = "tmp";

pub struct DirectoryStore {
    root: PathBuf,
    open_files: Mutex<LruCache<ObjectName, Arc<File>>>,
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
        Self { root: root.to_owned(), open_files: Mutex::new(LruCache::new(OPEN_FILES_MAX)) }
    }

    /// Removes what killed writers left. Only the one writer may do that.
    pub fn clear_temporary(&self) -> Result<(), ObjectError> {
        atomic::clear_folder(&self.temporary_folder()).map_err(|source| ObjectError::Folder { source })
    }

    fn temporary_folder(&self) -> PathBuf {
        self.root.join(TEMPORARY_FOLDER)
    }

    fn path(&self, name: ObjectName) -> PathBuf {
        self.root.join(name.to_string())
    }

    fn file(&self, name: ObjectName) -> Result<Arc<File>, ObjectError> {
        let mut open_files = self.open_files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open_files.get(&name) {
            return Ok(Arc::clone(file));
        }
        drop(open_files);
        let path = self.path(name);
        let file = File::open(&path).map_err(|error| failed(name, PathError::new("open", &path, error)))?;
        let file = Arc::new(file);
        // Records are replaced under their name: a kept descriptor would show the old one.
        if !matches!(name, ObjectName::Record(_)) {
            open_files = self.open_files.lock().unwrap_or_else(PoisonError::into_inner);
            open_files.put(name, Arc::clone(&file));
        }
        Ok(file)
    }

    fn list_folder(
        &self,
        folder: &Path,
        kind: ObjectKind,
        entries: &mut Vec<ObjectEntry>,
    ) -> Result<(), PathError> {
        let list_error = |error| PathError::new("list", folder, error);
        for entry in fs::read_dir(folder).map_err(list_error)? {
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
                entries.push(ObjectEntry { name, length: metadata.len() });
            }
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
        let path = self.path(name);
        if let Some(folder) = path.parent() {
            atomic::create_folder(folder).map_err(|source| ObjectError::Io { name, source })?;
        }
        let file = atomic::NewFile::create(&self.temporary_folder(), &path)
            .map_err(|source| ObjectError::Io { name, source })?;
        Ok(Box::new(FileWriter { name, file }))
    }

    fn replace(&self, name: ObjectName, bytes: &[u8]) -> Result<(), ObjectError> {
        atomic::replace(&self.temporary_folder(), &self.path(name), bytes)
            .map_err(|source| ObjectError::Io { name, source })
    }

    fn read(&self, name: ObjectName, offset: u64, into: &mut [u8]) -> Result<(), ObjectError> {
        let file = self.file(name)?;
        file.read_exact_at(into, offset).map_err(|error| {
            if error.kind() == std::io::ErrorKind::UnexpectedEof {
                let length = file.metadata().map_or(0, |metadata| metadata.len());
                return ObjectError::Truncated { name, length, wanted_end: offset + into.len() as u64 };
            }
            ObjectError::Io { name, source: PathError::new("read", &self.path(name), error) }
        })
    }

    fn length(&self, name: ObjectName) -> Result<u64, ObjectError> {
        let path = self.path(name);
        fs::metadata(&path)
            .map(|metadata| metadata.len())
            .map_err(|error| failed(name, PathError::new("look at", &path, error)))
    }

    fn list(&self, kind: ObjectKind) -> Result<Vec<ObjectEntry>, ObjectError> {
        let mut entries = Vec::new();
        self.list_folder(&self.root.join(kind.folder()), kind, &mut entries)
            .map_err(|source| ObjectError::Folder { source })?;
        Ok(entries)
    }

    fn remove(&self, name: ObjectName) -> Result<(), ObjectError> {
        self.open_files.lock().unwrap_or_else(PoisonError::into_inner).pop(&name);
        atomic::remove(&self.path(name)).map_err(|source| ObjectError::Io { name, source })
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
