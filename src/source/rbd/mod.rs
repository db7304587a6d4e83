//! Volumes that are RBD images of one pool, or of one namespace in it.
//!
//! The connection is the `ceph` crate's; `librbd` is our own thin binding on top of it, and the only unsafe code.
//! Snapshots are known by name and id together: one that was removed and made again is another one, and a diff from
//! it would be silently empty.

mod connection;
mod description;
mod extents;
mod librbd;
mod private_conf;
mod snapshot;
mod transfer;
mod writer;

use std::io;
use std::sync::Arc;

pub use connection::RbdOptions;

use self::connection::Connection;
use self::librbd::{FEATURE_EXCLUSIVE_LOCK, Failure, Image};
use self::snapshot::RbdSnapshot;
use self::writer::{OpenWriters, RbdWriter};
use super::{InUse, Snapshot, SnapshotInfo, Source, SourceError, VolumeInfo, VolumeWriter};
use crate::types::{SnapshotName, SourceName, VolumeId, VolumeMetadata, VolumeName};

/// One pool of a Ceph cluster. Connects when it is first asked for something.
pub struct RbdSource {
    connection: Arc<Connection>,
    writers: Arc<OpenWriters>,
}

impl RbdSource {
    /// Does not connect: a cluster that is away when the daemon starts is no reason not to start.
    pub fn new(options: RbdOptions) -> Self {
        Self { connection: Arc::new(Connection::new(options)), writers: Arc::default() }
    }

    /// Runs a call that needs the pool and names one volume.
    fn on_volume<T: Send + 'static>(
        &self,
        volume: &VolumeName,
        doing: &str,
        call: impl FnOnce(&Arc<librbd::Pool>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, SourceError> {
        let pool = self.connection.pool()?;
        let doing = format!("{doing} volume {:?}", volume.as_str());
        let done = self.connection.call(&doing, move |_| call(&pool))?;
        done.map_err(|failure| self.connection.volume_error(volume, &doing, failure))
    }

    fn in_use(&self, volume: &VolumeName, by: impl Into<String>) -> SourceError {
        SourceError::VolumeInUse { source_name: self.name().clone(), volume: volume.clone(), by: by.into() }
    }

    fn invalid_name(&self, volume: &VolumeName, reason: &str) -> SourceError {
        SourceError::InvalidName {
            source_name: self.name().clone(),
            volume: volume.clone(),
            reason: reason.into(),
        }
    }

    /// Refuses names that librbd would take, but that no command of Ceph's could ever name again.
    fn check_name_characters(&self, volume: &VolumeName) -> Result<(), SourceError> {
        if volume.as_str().contains(['/', '@']) {
            return Err(self.invalid_name(volume, "RBD image names cannot hold `/` or `@`"));
        }
        Ok(())
    }

    /// Refuses a snapshot whose name is taken or bad, or of a volume that is in use when it must not be.
    fn check_new_snapshot(
        &self,
        volume: &VolumeName,
        snapshot: &SnapshotName,
        in_use: InUse,
    ) -> Result<(), SourceError> {
        if snapshot.as_str().contains(['/', '@']) {
            return Err(self.invalid_name(volume, "RBD snapshot names cannot hold `/` or `@`"));
        }
        let (name, writers) = (volume.clone(), Arc::clone(&self.writers));
        let (holder, snapshots) = self.on_volume(volume, "looking at", move |pool| {
            let image = Image::open_read_only(pool, name.as_str())?;
            Ok((holder(&image, &writers)?, description::snapshots(&image)?))
        })?;
        if let (InUse::Refuse, Some(by)) = (in_use, holder) {
            return Err(self.in_use(volume, by));
        }
        if snapshots.iter().any(|info| info.name == *snapshot) {
            return Err(SourceError::Io {
                source_name: self.name().clone(),
                what: format!("volume {:?} has a snapshot {:?} already", volume.as_str(), snapshot.as_str()),
                source: io::Error::from(io::ErrorKind::AlreadyExists),
            });
        }
        Ok(())
    }

    fn make_snapshot(&self, volume: &VolumeName, snapshot: &SnapshotName) -> Result<(), SourceError> {
        let pool = self.connection.pool()?;
        let doing = format!("snapshotting volume {:?}", volume.as_str());
        let (name, wanted) = (volume.clone(), snapshot.clone());
        let made = self
            .connection
            .call(&doing, move |_| Image::open(&pool, name.as_str())?.create_snapshot(wanted.as_str()))?;
        made.map_err(|failure| match failure.errno {
            // What librbd makes of a notification that was not answered in time.
            libc::EBADMSG => {
                self.connection.unavailable(format!("the clients of volume {:?} were not reached in time", volume.as_str()))
            }
            libc::EROFS => self.connection.unavailable(format!(
                "the client that holds the exclusive lock of volume {:?} is dead, and client.{} may not blocklist it: compare its caps with those in README",
                volume.as_str(),
                self.connection.options().user
            )),
            // Not the volume: its name was just looked up.
            libc::EEXIST => self.connection.io(&doing, failure),
            _ => self.connection.volume_error(volume, &doing, failure),
        })
    }

    fn remove_half_made(&self, volume: &VolumeName, snapshot: &SnapshotName) {
        let removed = self.snapshots(volume).and_then(|snapshots| {
            match snapshots.iter().find(|info| info.name == *snapshot) {
                Some(info) => self.remove_snapshot(volume, info),
                None => Ok(()),
            }
        });
        if let Err(error) = removed {
            let (volume, snapshot) = (volume.as_str(), snapshot.as_str());
            tracing::warn!(volume, snapshot, %error, "a half-made snapshot may be left behind");
        }
    }

    /// Opens a volume for writing by us alone, and sees to it that it stays so as far as RBD can.
    fn open_writer(&self, name: &VolumeName) -> Result<RbdWriter, SourceError> {
        let id = self.on_volume(name, "looking up", {
            let name = name.clone();
            move |pool| Image::open_read_only(pool, name.as_str())?.id()
        })?;
        let Some(claim) = self.writers.claim(id) else {
            return Err(self.in_use(name, "amberfs writes to it"));
        };
        let opened = self.on_volume(name, "opening", {
            let name = name.clone();
            move |pool| open_alone(pool, name.as_str())
        })?;
        match opened {
            Opened::Alone(image, size) => {
                let connection = Arc::clone(&self.connection);
                Ok(RbdWriter::new(connection, name.clone(), size, image, claim))
            }
            Opened::Held(by) => Err(self.in_use(name, by)),
        }
    }

    fn remove(&self, name: &VolumeName) -> Result<(), SourceError> {
        let pool = self.connection.pool()?;
        let volume = name.clone();
        let doing = format!("removing volume {:?}", name.as_str());
        match self.connection.call(&doing, move |beats| pool.remove(volume.as_str(), beats))? {
            Ok(()) | Err(Failure { errno: libc::ENOENT, .. }) => Ok(()),
            // Of a client that died, the cluster still believes so for half a minute.
            Err(Failure { errno: libc::EBUSY, .. }) => {
                Err(self.in_use(name, "a client has it open, or had it open until it died"))
            }
            Err(failure) if failure.errno == libc::ENOTEMPTY => {
                Err(self.connection.io(&format!("{doing}: it has snapshots"), failure))
            }
            Err(failure) => Err(self.connection.io(&doing, failure)),
        }
    }
}

/// An image that only we have open for writing, and its size; or who else has it.
enum Opened {
    Alone(Image, u64),
    Held(String),
}

/// Says who has the image open for writing, us included.
fn holder(image: &Image, writers: &OpenWriters) -> Result<Option<String>, Failure> {
    if writers.contains(&image.id()?) {
        return Ok(Some("amberfs writes to it".into()));
    }
    description::other_writer(image)
}

fn open_alone(pool: &Arc<librbd::Pool>, name: &str) -> Result<Opened, Failure> {
    let image = Image::open(pool, name)?;
    if let Some(by) = description::other_writer(&image)? {
        return Ok(Opened::Held(by));
    }
    if image.features()? & FEATURE_EXCLUSIVE_LOCK != 0 {
        match image.acquire_lock() {
            Ok(()) => {}
            Err(Failure { errno: libc::EROFS | libc::EBUSY | libc::EAGAIN, .. }) => {
                return Ok(Opened::Held("another client holds its exclusive lock".into()));
            }
            Err(failure) => return Err(failure),
        }
        // Somebody may have opened it in between. Whoever comes later finds the lock taken.
        if let Some(by) = description::other_writer(&image)? {
            return Ok(Opened::Held(by));
        }
    }
    let size = image.size()?;
    Ok(Opened::Alone(image, size))
}

impl Source for RbdSource {
    fn name(&self) -> &SourceName {
        &self.connection.options().name
    }

    fn kind(&self) -> &'static str {
        "rbd"
    }

    fn tracks_changes(&self) -> bool {
        true
    }

    fn list(&self) -> Result<Vec<VolumeName>, SourceError> {
        let pool = self.connection.pool()?;
        let images = self.connection.call_io("listing the images", move |_| pool.images())?;
        let mut names = Vec::with_capacity(images.len());
        for image in images {
            match image.map_err(drop).and_then(|name| VolumeName::try_from(name).map_err(drop)) {
                Ok(name) => names.push(name),
                Err(()) => {
                    tracing::warn!(source = %self.name(), "an image whose name is no UTF-8 text is left out")
                }
            }
        }
        names.sort();
        Ok(names)
    }

    fn volume(&self, name: &VolumeName) -> Result<VolumeInfo, SourceError> {
        let (volume, writers) = (name.clone(), Arc::clone(&self.writers));
        let (id, size_bytes, in_use, metadata) = self.on_volume(name, "looking at", move |pool| {
            let image = Image::open_read_only(pool, volume.as_str())?;
            let in_use = holder(&image, &writers)?.is_some();
            Ok((image.id()?, image.size()?, in_use, description::metadata(&image)?))
        })?;
        let instance = id.clone();
        Ok(VolumeInfo { name: name.clone(), id: VolumeId::new(id), instance, size_bytes, in_use, metadata })
    }

    fn create_snapshot(
        &self,
        volume: &VolumeName,
        snapshot: &SnapshotName,
        in_use: InUse,
    ) -> Result<Box<dyn Snapshot>, SourceError> {
        self.check_new_snapshot(volume, snapshot, in_use)?;
        let made = self.make_snapshot(volume, snapshot).and_then(|()| self.open_snapshot(volume, snapshot));
        let another_was_first = matches!(&made, Err(SourceError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists);
        if made.is_err() && !another_was_first {
            // Also when making it failed: librbd may have given up on a snapshot that came to be.
            self.remove_half_made(volume, snapshot);
        }
        made
    }

    fn open_snapshot(
        &self,
        volume: &VolumeName,
        snapshot: &SnapshotName,
    ) -> Result<Box<dyn Snapshot>, SourceError> {
        let opened = self.on_volume(volume, "opening a snapshot of", {
            let (connection, volume, snapshot) =
                (Arc::clone(&self.connection), volume.clone(), snapshot.clone());
            move |pool| RbdSnapshot::open(pool, &connection, &volume, snapshot.as_str())
        })?;
        match opened {
            Some(snapshot) => Ok(Box::new(snapshot)),
            None => Err(SourceError::SnapshotNotFound {
                source_name: self.name().clone(),
                volume: volume.clone(),
                snapshot: snapshot.clone(),
            }),
        }
    }

    fn snapshots(&self, volume: &VolumeName) -> Result<Vec<SnapshotInfo>, SourceError> {
        let name = volume.clone();
        self.on_volume(volume, "listing the snapshots of", move |pool| {
            description::snapshots(&Image::open_read_only(pool, name.as_str())?)
        })
    }

    fn remove_snapshot(&self, volume: &VolumeName, snapshot: &SnapshotInfo) -> Result<(), SourceError> {
        let (name, id) = (volume.clone(), snapshot.id);
        let wanted = snapshot.name.clone();
        let removed = self.on_volume(volume, "removing a snapshot of", move |pool| {
            let image = Image::open_read_only(pool, name.as_str())?;
            if !description::snapshots(&image)?.iter().any(|info| info.id == id && info.name == wanted) {
                return Ok(Removal::NotThere);
            }
            if image.is_protected(wanted.as_str())? {
                return Ok(Removal::Protected);
            }
            drop(image);
            match Image::open(pool, name.as_str())?.remove_snapshot(id) {
                Ok(()) => Ok(Removal::Done),
                Err(Failure { errno: libc::ENOENT, .. }) => Ok(Removal::NotThere),
                Err(failure) => Err(failure),
            }
        });
        match removed {
            Ok(Removal::Done | Removal::NotThere) | Err(SourceError::VolumeNotFound { .. }) => Ok(()),
            Ok(Removal::Protected) => Err(SourceError::Io {
                source_name: self.name().clone(),
                what: format!(
                    "snapshot {:?} of volume {:?} is protected: `rbd snap unprotect` it first",
                    snapshot.name.as_str(),
                    volume.as_str()
                ),
                source: io::Error::from_raw_os_error(libc::EBUSY),
            }),
            Err(error) => Err(error),
        }
    }

    fn finish_removals(&self, volume: &VolumeName, prefix: &str) -> Result<(), SourceError> {
        let (name, prefix) = (volume.clone(), prefix.to_owned());
        self.on_volume(volume, "removing snapshots of", move |pool| {
            let entries = Image::open_read_only(pool, name.as_str())?.snapshots()?;
            let is_ours = |name: &String| name.starts_with(&prefix);
            for entry in
                entries.into_iter().filter(|entry| entry.name_before_removal.as_ref().is_some_and(is_ours))
            {
                match Image::open(pool, name.as_str())?.remove_snapshot(entry.id) {
                    // Somebody made a clone of it: it goes with the clone.
                    Ok(()) | Err(Failure { errno: libc::ENOENT | libc::EBUSY, .. }) => {}
                    Err(failure) => return Err(failure),
                }
            }
            Ok(())
        })
    }

    fn create_volume(
        &self,
        name: &VolumeName,
        size_bytes: u64,
        metadata: &VolumeMetadata,
    ) -> Result<Box<dyn VolumeWriter>, SourceError> {
        self.check_name_characters(name)?;
        self.on_volume(name, "creating", {
            let (name, metadata) = (name.clone(), metadata.clone());
            move |pool| {
                let options = description::create_options(pool, &metadata);
                pool.create(name.as_str(), size_bytes, &options)
            }
        })?;
        // From here on the volume is ours, and an error takes it away again.
        let filled = self.on_volume(name, "setting the image-meta of", {
            let (name, metadata) = (name.clone(), metadata.clone());
            move |pool| description::set_image_meta(&Image::open(pool, name.as_str())?, &metadata)
        });
        match filled.and_then(|()| self.open_writer(name)) {
            Ok(writer) => Ok(Box::new(writer)),
            Err(error) => {
                if let Err(left) = self.remove(name) {
                    tracing::warn!(volume = name.as_str(), error = %left, "an empty volume is left behind");
                }
                Err(error)
            }
        }
    }

    fn open_volume(&self, name: &VolumeName) -> Result<Box<dyn VolumeWriter>, SourceError> {
        Ok(Box::new(self.open_writer(name)?))
    }

    fn rename_volume(&self, from: &VolumeName, to: &VolumeName) -> Result<(), SourceError> {
        self.check_name_characters(to)?;
        let pool = self.connection.pool()?;
        let doing = format!("renaming volume {:?} to {:?}", from.as_str(), to.as_str());
        let (old, new) = (from.clone(), to.clone());
        let renamed = self.connection.call(&doing, move |_| pool.rename(old.as_str(), new.as_str()))?;
        renamed.map_err(|failure| match failure.errno {
            libc::ENOENT => self.connection.volume_error(from, &doing, failure),
            _ => self.connection.volume_error(to, &doing, failure),
        })
    }

    fn check_new_name(&self, name: &VolumeName) -> Result<(), SourceError> {
        self.check_name_characters(name)?;
        match self.volume(name) {
            Ok(_) => {
                let source_name = self.name().clone();
                Err(SourceError::VolumeExists { source_name, volume: name.clone() })
            }
            Err(SourceError::VolumeNotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn remove_volume(&self, name: &VolumeName) -> Result<(), SourceError> {
        self.remove(name)
    }
}

/// What became of a snapshot that was to be removed.
enum Removal {
    Done,
    NotThere,
    Protected,
}
