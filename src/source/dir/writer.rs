//! A volume's file open for writing. After a failed sync nothing more is written: what the kernel dropped then is
//! not written again by trying again.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::place::{Found, Place};
use super::snapshot::emit_data;
use crate::source::{EmitExtent, Extent, ExtentKind, SourceError, VolumeWriter};
use crate::sysio::{attribute, holes, lease, open_file_lock};
use crate::types::{ByteRange, VolumeName};

/// Written where holes cannot be made.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

pub(super) struct FileWriter {
    place: Arc<Place>,
    path: PathBuf,
    file: File,
    size_bytes: u64,
    /// The name is new and may not survive a power cut yet.
    name_is_new: AtomicBool,
    sync_failed: AtomicBool,
}

impl FileWriter {
    /// Makes a file of zeros that nobody but its owner can read.
    pub(super) fn create(
        place: &Arc<Place>,
        name: &VolumeName,
        file_name: &str,
        size_bytes: u64,
    ) -> Result<Self, SourceError> {
        let path = place.path(file_name);
        let created = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = match created {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(place.exists(name)),
            created => created.map_err(place.io("make", &path))?,
        };
        let prepared = lock(place, name, &path, &file)
            .and_then(|()| file.set_len(size_bytes).map_err(place.io("set the size of", &path)));
        if let Err(error) = prepared {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove a volume that could not be made");
            }
            return Err(error);
        }
        Ok(Self::new(place, path, file, size_bytes, true))
    }

    pub(super) fn open(place: &Arc<Place>, found: &Found) -> Result<Self, SourceError> {
        // Does not wait for a lease to be given back: somebody reads the volume and counts on it.
        let mut options = OpenOptions::new();
        let file = match lease::open_without_waiting(options.read(true).write(true), &found.path) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(place.in_use(&found.name, "a program that reads it keeps it from being changed"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(place.not_found(&found.name));
            }
            opened => opened.map_err(place.io("open for writing", &found.path))?,
        };
        lock(place, &found.name, &found.path, &file)?;
        // After a sync that failed the kernel may show what never came to the disk, also to a process that knows nothing of it.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        let size_bytes = file.metadata().map_err(place.io("look at", &found.path))?.len();
        Ok(Self::new(place, found.path.clone(), file, size_bytes, false))
    }

    fn new(place: &Arc<Place>, path: PathBuf, file: File, size_bytes: u64, name_is_new: bool) -> Self {
        Self {
            place: Arc::clone(place),
            path,
            file,
            size_bytes,
            name_is_new: AtomicBool::new(name_is_new),
            sync_failed: AtomicBool::new(false),
        }
    }

    /// Refuses what reaches beyond the end, and everything after a failed sync.
    fn check(&self, action: &str, range: ByteRange) -> Result<(), SourceError> {
        let refused = |why| Err(self.failed(action, range, io::Error::new(io::ErrorKind::InvalidInput, why)));
        if self.sync_failed.load(Ordering::Relaxed) {
            return refused("an earlier sync of the volume failed");
        }
        if range.end() > self.size_bytes {
            return refused("the volume ends before");
        }
        Ok(())
    }

    fn failed(&self, action: &str, range: ByteRange, error: io::Error) -> SourceError {
        self.place.io(&format!("{action} {range} of"), &self.path)(error)
    }

    fn synced(&self, result: Result<(), SourceError>) -> Result<(), SourceError> {
        if result.is_err() {
            self.sync_failed.store(true, Ordering::Relaxed);
            self.place.distrusted.add(&self.file);
        }
        result
    }
}

impl VolumeWriter for FileWriter {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read(&self, range: ByteRange, into: &mut [u8]) -> Result<(), SourceError> {
        self.check("read", range)?;
        if self.place.distrusted.contains(&self.file) {
            let error = io::Error::other(
                "a sync of the volume failed, and what the kernel shows may not be on the disk",
            );
            return Err(self.failed("read", range, error));
        }
        if range.len() != into.len() as u64 {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "the buffer has another length");
            return Err(self.failed("read", range, error));
        }
        self.file.read_exact_at(into, range.start()).map_err(|error| self.failed("read", range, error))
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), SourceError> {
        let range = ByteRange::new(offset, bytes.len() as u64);
        self.check("write", range)?;
        self.file.write_all_at(bytes, offset).map_err(|error| self.failed("write", range, error))
    }

    fn zero(&self, range: ByteRange) -> Result<(), SourceError> {
        self.check("zero", range)?;
        let failed = |error| self.failed("zero", range, error);
        if holes::punch(&self.file, range.start(), range.len()).map_err(failed)? {
            return Ok(());
        }
        for piece in range.split_on_grid(ZEROS.len() as u64) {
            let length = usize::try_from(piece.len()).unwrap_or(ZEROS.len());
            let zeros = ZEROS.get(..length).unwrap_or(&ZEROS);
            self.file.write_all_at(zeros, piece.start()).map_err(failed)?;
        }
        Ok(())
    }

    fn allocated(&self, emit: &mut EmitExtent<'_>) -> Result<(), SourceError> {
        if self.place.distrusted.contains(&self.file) {
            // What looks like a hole may not be one on the disk.
            return emit(Extent { range: ByteRange::new(0, self.size_bytes), kind: ExtentKind::Data });
        }
        let failed = |error| self.place.io("find the data of", &self.path)(error);
        emit_data(&self.file, self.size_bytes, failed, emit)
    }

    fn flush(&self) -> Result<(), SourceError> {
        self.check("sync", ByteRange::new(0, 0))?;
        self.synced(self.file.sync_all().map_err(self.place.io("sync", &self.path)))?;
        if self.name_is_new.load(Ordering::Relaxed) {
            self.synced(self.place.sync())?;
            self.name_is_new.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    fn set_mark(&self, key: &str, value: Option<&str>) -> Result<(), SourceError> {
        self.check("mark", ByteRange::new(0, 0))?;
        let marked = match value {
            Some(value) => attribute::set(&self.file, key, value),
            None => attribute::remove(&self.file, key),
        };
        let action = format!("change the extended attribute \"user.{key}\" of");
        marked.map_err(self.place.io(&action, &self.path))?;
        self.synced(self.file.sync_all().map_err(self.place.io("sync", &self.path)))
    }

    fn mark(&self, key: &str) -> Result<Option<String>, SourceError> {
        let action = format!("read the extended attribute \"user.{key}\" of");
        attribute::get(&self.file, key).map_err(self.place.io(&action, &self.path))
    }
}

/// Keeps two writers of ours apart, in one process or in several; others are seen by what they have open.
fn lock(place: &Place, name: &VolumeName, path: &Path, file: &File) -> Result<(), SourceError> {
    if open_file_lock::try_lock(file).map_err(place.io("lock", path))? {
        return Ok(());
    }
    Err(place.in_use(name, "a program has locked it"))
}
