//! Volumes that are raw image files in one directory.
//!
//! A volume is a regular file, or a symbolic link to one. Where the file system has reflinks a snapshot is one;
//! elsewhere it is the file itself, kept from being written to by a read lease. Nothing of a volume is kept
//! outside the directory, and a kill at any moment leaves no file of ours that is not whole.

mod frozen;
mod names;
mod place;
mod snapshot;
mod writer;

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use self::place::{Found, Place};
use self::snapshot::{FileSnapshot, OpenedFile, Protection, Stamp};
use self::writer::FileWriter;
use super::{InUse, Snapshot, SnapshotInfo, Source, SourceError, VolumeInfo, VolumeWriter};
use crate::sysio::lease::{self, LeaseError, ReadLease};
use crate::sysio::rename;
use crate::types::{SnapshotName, SourceName, VolumeId, VolumeMetadata, VolumeName};

/// A directory of raw image files.
pub struct DirSource {
    place: Arc<Place>,
}

/// Who else may write to a file.
enum Writers {
    /// There are none while the lease is held.
    None(ReadLease),
    /// Somebody has it open for writing.
    Some,
    /// The file system has no leases, or gives us none: who writes cannot be known.
    Unknown,
}

impl DirSource {
    /// Opens a directory that is there and can be listed.
    pub fn open(name: SourceName, path: impl Into<PathBuf>) -> Result<Self, SourceError> {
        let source = Self { place: Arc::new(Place::new(name, path.into())) };
        source.place.file_names()?;
        Ok(source)
    }

    /// Opens a volume for reading and says, with the file open, whether it can change.
    fn open_for_reading(&self, found: &Found) -> Result<(File, Writers), SourceError> {
        let file = match lease::open_without_waiting(OpenOptions::new().read(true), &found.path) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(self.place.in_use(&found.name, "another program holds a lease on it"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(self.place.not_found(&found.name));
            }
            opened => opened.map_err(self.place.io("open", &found.path))?,
        };
        let writers = match ReadLease::take(&file) {
            Ok(lease) => Writers::None(lease),
            Err(LeaseError::OpenForWriting) => Writers::Some,
            Err(LeaseError::Unsupported(_)) => Writers::Unknown,
        };
        Ok((file, writers))
    }

    fn snapshot_of_the_file_itself(
        &self,
        found: Found,
        file: File,
        writers: Writers,
        snapshot: &SnapshotName,
    ) -> Result<Box<dyn Snapshot>, SourceError> {
        if !matches!(writers, Writers::None(_)) {
            // Written back, the pages of mappings are clean: the next write through one changes the file's times.
            file.sync_data().map_err(self.place.io("sync", &found.path))?;
        }
        let metadata = file.metadata().map_err(self.place.io("look at", &found.path))?;
        let created_at = SystemTime::now();
        let info = SnapshotInfo {
            name: snapshot.clone(),
            id: frozen::snapshot_id(metadata.ino(), created_at),
            created_at,
            size_bytes: metadata.len(),
        };
        let protection = match writers {
            Writers::None(lease) => Protection::Leased { lease, _held: self.place.held.add(&metadata) },
            Writers::Some | Writers::Unknown => Protection::Watched { at_first: Stamp::of(&metadata) },
        };
        let opened = OpenedFile { volume: found.name, path: found.path, file, info };
        Ok(Box::new(FileSnapshot::new(&self.place, opened, protection)))
    }
}

/// The file's number alone would be given to another file when this one is removed.
fn instance(metadata: &Metadata) -> String {
    let birth = metadata.created().ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    format!("{}-{}", metadata.ino(), birth.map_or(0, |birth| birth.as_nanos()))
}

impl Source for DirSource {
    fn name(&self) -> &SourceName {
        &self.place.source_name
    }

    fn kind(&self) -> &'static str {
        "dir"
    }

    fn list(&self) -> Result<Vec<VolumeName>, SourceError> {
        let names = names::volume_names(&self.place.file_names()?);
        Ok(names.into_iter().filter_map(|name| name.parse().ok()).collect())
    }

    fn volume(&self, name: &VolumeName) -> Result<VolumeInfo, SourceError> {
        let found = self.place.find(name)?;
        let (file, writers) = match self.open_for_reading(&found) {
            Ok((file, writers)) => (Some(file), writers),
            Err(SourceError::VolumeInUse { .. }) => (None, Writers::Some),
            Err(error) => return Err(error),
        };
        let metadata = match file {
            Some(file) => file.metadata(),
            None => std::fs::metadata(&found.path),
        };
        let metadata = metadata.map_err(self.place.io("look at", &found.path))?;
        Ok(VolumeInfo {
            id: VolumeId::derived(self.place.source_name.as_str(), found.name.as_str()),
            name: found.name,
            instance: instance(&metadata),
            size_bytes: metadata.len(),
            in_use: matches!(writers, Writers::Some),
            metadata: VolumeMetadata::default(),
        })
    }

    fn create_snapshot(
        &self,
        volume: &VolumeName,
        snapshot: &SnapshotName,
        in_use: InUse,
    ) -> Result<Box<dyn Snapshot>, SourceError> {
        let found = self.place.find(volume)?;
        let (file, writers) = self.open_for_reading(&found)?;
        if matches!(writers, Writers::Some) && in_use == InUse::Refuse {
            return Err(self.place.in_use(&found.name, "a program has it open for writing"));
        }
        if let Some(opened) = frozen::create(&self.place, &found, &file, snapshot)? {
            return Ok(Box::new(FileSnapshot::new(&self.place, opened, Protection::Frozen)));
        }
        self.snapshot_of_the_file_itself(found, file, writers, snapshot)
    }

    fn open_snapshot(
        &self,
        volume: &VolumeName,
        snapshot: &SnapshotName,
    ) -> Result<Box<dyn Snapshot>, SourceError> {
        let found = self.place.find(volume)?;
        let opened = frozen::open(&self.place, &found, snapshot)?;
        Ok(Box::new(FileSnapshot::new(&self.place, opened, Protection::Frozen)))
    }

    fn snapshots(&self, volume: &VolumeName) -> Result<Vec<SnapshotInfo>, SourceError> {
        let found = self.place.find(volume)?;
        frozen::list(&self.place, &found.file_name)
    }

    /// Also when the volume itself is gone: its snapshots are files of their own.
    fn remove_snapshot(&self, volume: &VolumeName, snapshot: &SnapshotInfo) -> Result<(), SourceError> {
        self.place.check(volume)?;
        for file_name in names::candidates(volume.as_str()) {
            frozen::remove(&self.place, &file_name, snapshot)?;
        }
        Ok(())
    }

    fn create_volume(
        &self,
        name: &VolumeName,
        size_bytes: u64,
        _metadata: &VolumeMetadata,
    ) -> Result<Box<dyn VolumeWriter>, SourceError> {
        self.place.check(name)?;
        let file_name = names::new_file_name(name.as_str(), ".raw");
        self.place.check_free(name, &file_name)?;
        Ok(Box::new(FileWriter::create(&self.place, name, &file_name, size_bytes)?))
    }

    fn open_volume(&self, name: &VolumeName) -> Result<Box<dyn VolumeWriter>, SourceError> {
        let found = self.place.find(name)?;
        let (file, writers) = self.open_for_reading(&found)?;
        if matches!(writers, Writers::Some) {
            return Err(self.place.in_use(&found.name, "a program has it open for writing"));
        }
        let metadata = file.metadata().map_err(self.place.io("look at", &found.path))?;
        // To open it for writing would break the lease of our own snapshot.
        if self.place.held.contains(&metadata) {
            return Err(self.place.in_use(&found.name, "it is being backed up"));
        }
        // Our own lease would keep ourselves out.
        drop((writers, file));
        Ok(Box::new(FileWriter::open(&self.place, &found)?))
    }

    fn check_new_name(&self, name: &VolumeName) -> Result<(), SourceError> {
        self.place.check(name)?;
        self.place.check_free(name, &names::new_file_name(name.as_str(), ".raw"))
    }

    /// Takes no lease, which a program that opens the file for writing would have to wait for.
    fn size_bytes(&self, name: &VolumeName) -> Result<u64, SourceError> {
        let found = self.place.find(name)?;
        let metadata = std::fs::metadata(&found.path).map_err(self.place.io("look at", &found.path))?;
        Ok(metadata.len())
    }

    fn rename_volume(&self, from: &VolumeName, to: &VolumeName) -> Result<(), SourceError> {
        self.place.check(to)?;
        let found = self.place.find(from)?;
        let file_name = names::new_file_name(to.as_str(), names::ending(&found.file_name));
        self.place.check_free(to, &file_name)?;
        match rename::rename_no_replace(&found.path, &self.place.path(&file_name)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(self.place.exists(to));
            }
            renamed => renamed.map_err(self.place.io("rename", &found.path))?,
        }
        let kept =
            frozen::rename_all(&self.place, &found.file_name, &file_name).and_then(|()| self.place.sync());
        if kept.is_err() {
            // Whoever is told that it failed must not find it renamed at the next start.
            let taken_back = rename::rename_no_replace(&self.place.path(&file_name), &found.path)
                .map_err(self.place.io("rename", &found.path))
                .and_then(|()| frozen::rename_all(&self.place, &file_name, &found.file_name))
                .and_then(|()| self.place.sync());
            if let Err(error) = taken_back {
                tracing::error!(volume = %to, %error, "a rename that failed cannot be undone for certain");
            }
        }
        kept
    }

    fn sync_name(&self, _name: &VolumeName) -> Result<(), SourceError> {
        self.place.sync()
    }

    /// Its snapshots go with it: without it nobody can open them.
    fn remove_volume(&self, name: &VolumeName) -> Result<(), SourceError> {
        let found = match self.place.find(name) {
            Err(SourceError::VolumeNotFound { .. }) => return Ok(()),
            found => found?,
        };
        match std::fs::remove_file(&found.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed.map_err(self.place.io("remove", &found.path))?,
        }
        for snapshot in frozen::list(&self.place, &found.file_name)? {
            frozen::remove(&self.place, &found.file_name, &snapshot)?;
        }
        self.place.sync()
    }
}
