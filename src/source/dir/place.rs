//! The directory itself: its files, its errors, and which of its files are being read as snapshots.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::names;
use crate::source::SourceError;
use crate::sysio::rename;
use crate::types::{SourceName, VolumeName};

pub(super) struct Place {
    pub(super) source_name: SourceName,
    pub(super) folder: PathBuf,
    pub(super) held: HeldFiles,
    pub(super) distrusted: DistrustedFiles,
    warned_of_name: AtomicBool,
}

/// A volume that is there.
pub(super) struct Found {
    /// As it is listed, however it was asked for.
    pub(super) name: VolumeName,
    pub(super) file_name: String,
    pub(super) path: PathBuf,
}

impl Place {
    pub(super) fn new(source_name: SourceName, folder: PathBuf) -> Self {
        let (held, distrusted) = (HeldFiles::default(), DistrustedFiles::default());
        Self { source_name, folder, held, distrusted, warned_of_name: AtomicBool::new(false) }
    }

    pub(super) fn path(&self, file_name: &str) -> PathBuf {
        self.folder.join(file_name)
    }

    /// Returns the names of all files that can be volumes.
    pub(super) fn file_names(&self) -> Result<BTreeSet<String>, SourceError> {
        let unavailable = |error| self.unavailable(error);
        let mut file_names = BTreeSet::new();
        for entry in std::fs::read_dir(&self.folder).map_err(unavailable)? {
            let entry = entry.map_err(unavailable)?;
            if !is_volume_file(&entry.path()) {
                continue;
            }
            match entry.file_name().into_string() {
                Ok(name) if name.starts_with(names::RESERVED) => {}
                Ok(name) => {
                    file_names.insert(name);
                }
                Err(name) => {
                    if !self.warned_of_name.swap(true, Ordering::Relaxed) {
                        let folder = self.folder.display();
                        tracing::warn!(?name, %folder, "files whose names are not UTF-8 are not volumes");
                    }
                }
            }
        }
        Ok(file_names)
    }

    /// Finds a volume by its name, or by its full file name.
    pub(super) fn find(&self, name: &VolumeName) -> Result<Found, SourceError> {
        self.check(name)?;
        let exists = |file_name: &str| is_volume_file(&self.path(file_name));
        let mut files: Vec<_> = names::candidates(name.as_str()).filter(|file| exists(file)).collect();
        let exact = files.iter().any(|file| file == name.as_str());
        if files.is_empty() {
            self.check_reachable()?;
        }
        if files.is_empty() || (files.len() > 1 && !exact) {
            return Err(self.not_found(name));
        }
        let file_name = files.swap_remove(0);
        let listed_name = names::volume_name(&file_name, exists).parse();
        let path = self.path(&file_name);
        Ok(Found { name: listed_name.unwrap_or_else(|_| name.clone()), file_name, path })
    }

    /// Tells a volume that is gone from a directory that is.
    fn check_reachable(&self) -> Result<(), SourceError> {
        std::fs::read_dir(&self.folder).map(drop).map_err(|error| self.unavailable(error))
    }

    fn unavailable(&self, error: io::Error) -> SourceError {
        let what = format!("cannot list {}: {error}", self.folder.display());
        SourceError::Unavailable { source_name: self.source_name.clone(), what }
    }

    pub(super) fn check(&self, name: &VolumeName) -> Result<(), SourceError> {
        names::check(name.as_str()).map_err(|reason| self.invalid_name(name, reason))
    }

    /// Refuses a new file that would take a volume's name away, or have it already.
    pub(super) fn check_free(&self, name: &VolumeName, file_name: &str) -> Result<(), SourceError> {
        for rival in names::rivals(file_name).filter(|rival| rival.len() <= names::FILE_NAME_BYTES_MAX) {
            let path = self.path(&rival);
            match std::fs::symlink_metadata(&path) {
                Ok(_) if rival == file_name || is_volume_file(&path) => return Err(self.exists(name)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(self.io("look at", &path)(error)),
            }
        }
        Ok(())
    }

    /// Makes the names in the directory durable.
    pub(super) fn sync(&self) -> Result<(), SourceError> {
        rename::sync_folder(&self.folder).map_err(self.io("sync", &self.folder))
    }

    /// Returns what makes an error of ours of the system's: "cannot ACTION PATH".
    pub(super) fn io<'a>(
        &'a self,
        action: &'a str,
        path: &'a Path,
    ) -> impl Fn(io::Error) -> SourceError + Copy + 'a {
        move |source| SourceError::Io {
            source_name: self.source_name.clone(),
            what: format!("cannot {action} {}", path.display()),
            source,
        }
    }

    pub(super) fn not_found(&self, volume: &VolumeName) -> SourceError {
        SourceError::VolumeNotFound { source_name: self.source_name.clone(), volume: volume.clone() }
    }

    pub(super) fn exists(&self, volume: &VolumeName) -> SourceError {
        SourceError::VolumeExists { source_name: self.source_name.clone(), volume: volume.clone() }
    }

    pub(super) fn in_use(&self, volume: &VolumeName, by: &str) -> SourceError {
        let source_name = self.source_name.clone();
        SourceError::VolumeInUse { source_name, volume: volume.clone(), by: by.to_owned() }
    }

    pub(super) fn changed(&self, volume: &VolumeName, how: &str) -> SourceError {
        let source_name = self.source_name.clone();
        SourceError::Changed { source_name, volume: volume.clone(), how: how.to_owned() }
    }

    pub(super) fn invalid_name(&self, volume: &VolumeName, reason: &str) -> SourceError {
        let source_name = self.source_name.clone();
        SourceError::InvalidName { source_name, volume: volume.clone(), reason: reason.to_owned() }
    }
}

/// A regular file, or a link that ends at one. What cannot be looked at is none.
fn is_volume_file(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
}

/// The files that snapshots of this process hold leases on.
#[derive(Clone, Default)]
pub(super) struct HeldFiles {
    counts: Arc<Mutex<BTreeMap<FileId, usize>>>,
}

/// Device and inode.
type FileId = (u64, u64);

/// Files that a sync of ours failed on. The kernel goes on showing what it has dropped then, and a later sync that
/// succeeds says nothing of it: what they seem to hold is not to be left as it is.
#[derive(Default)]
pub(super) struct DistrustedFiles {
    ids: Mutex<BTreeSet<FileId>>,
}

impl DistrustedFiles {
    pub(super) fn add(&self, file: &File) {
        if let Ok(metadata) = file.metadata() {
            self.lock().insert((metadata.dev(), metadata.ino()));
        }
    }

    pub(super) fn contains(&self, file: &File) -> bool {
        let ids = self.lock();
        !ids.is_empty()
            && file.metadata().is_ok_and(|metadata| ids.contains(&(metadata.dev(), metadata.ino())))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<FileId>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One snapshot's entry, taken out on drop.
pub(super) struct HeldFile {
    files: HeldFiles,
    id: FileId,
}

impl HeldFiles {
    pub(super) fn add(&self, metadata: &Metadata) -> HeldFile {
        let id = (metadata.dev(), metadata.ino());
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default() += 1;
        HeldFile { files: self.clone(), id }
    }

    pub(super) fn contains(&self, metadata: &Metadata) -> bool {
        let id = (metadata.dev(), metadata.ino());
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&id)
    }
}

impl Drop for HeldFile {
    fn drop(&mut self) {
        let mut counts = self.files.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.id);
            }
        }
    }
}
