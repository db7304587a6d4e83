//! An RBD image, open for writing by us alone.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::connection::Connection;
use super::extents::Enumeration;
use super::librbd::Image;
use super::snapshot::Layout;
use super::transfer::Transfer;
use crate::source::{EmitExtent, SourceError, VolumeWriter};
use crate::types::{ByteRange, VolumeName};

/// The ids of the images that this source has open for writing. Their watchers are ours, so the cluster cannot tell
/// one writer of ours from another.
#[derive(Default)]
pub struct OpenWriters(Mutex<BTreeSet<String>>);

impl OpenWriters {
    fn set(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn contains(&self, image_id: &str) -> bool {
        self.set().contains(image_id)
    }

    /// Claims the image, or returns none when it is claimed.
    pub fn claim(self: &Arc<Self>, image_id: String) -> Option<Claim> {
        let claimed = self.set().insert(image_id.clone());
        claimed.then(|| Claim { writers: Arc::clone(self), image_id })
    }
}

/// One image in [`OpenWriters`], taken out when dropped.
pub struct Claim {
    writers: Arc<OpenWriters>,
    image_id: String,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.writers.set().remove(&self.image_id);
    }
}

pub struct RbdWriter {
    connection: Arc<Connection>,
    volume: VolumeName,
    size_bytes: u64,
    // Closed before the claim is given up.
    image: Arc<Image>,
    _claim: Claim,
    /// The volume, for errors.
    title: String,
}

impl RbdWriter {
    pub fn new(
        connection: Arc<Connection>,
        volume: VolumeName,
        size_bytes: u64,
        image: Image,
        claim: Claim,
    ) -> Self {
        let title = format!("volume {:?}", volume.as_str());
        Self { connection, volume, size_bytes, image: Arc::new(image), _claim: claim, title }
    }

    fn transfer(&self) -> Transfer<'_> {
        Transfer { connection: &self.connection, image: &self.image, of: &self.title }
    }

    fn check_within(&self, range: ByteRange, doing: &str) -> Result<(), SourceError> {
        if range.end() <= self.size_bytes {
            return Ok(());
        }
        Err(self
            .connection
            .refused(format!("{doing} {}: {range} reach beyond its {} bytes", self.title, self.size_bytes)))
    }
}

impl VolumeWriter for RbdWriter {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read(&self, range: ByteRange, into: &mut [u8]) -> Result<(), SourceError> {
        self.check_within(range, "reading")?;
        self.transfer().read(&[range], into)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), SourceError> {
        self.check_within(ByteRange::new(offset, bytes.len() as u64), "writing")?;
        self.transfer().write(offset, bytes)
    }

    fn zero(&self, range: ByteRange) -> Result<(), SourceError> {
        self.check_within(range, "zeroing")?;
        self.transfer().zero(range)
    }

    fn allocated(&self, emit: &mut EmitExtent<'_>) -> Result<(), SourceError> {
        let image = Arc::clone(&self.image);
        let layout =
            self.connection.call_io(&format!("looking at {}", self.title), move |_| Layout::of(&image))?;
        let enumeration = Enumeration {
            connection: &self.connection,
            volume: &self.volume,
            image: &self.image,
            base: None,
            fast_below: layout.fast_below,
            overlap: layout.overlap,
            period: layout.period,
        };
        enumeration.run(self.size_bytes, emit)
    }

    fn flush(&self) -> Result<(), SourceError> {
        self.transfer().flush()
    }

    fn set_mark(&self, key: &str, value: Option<&str>) -> Result<(), SourceError> {
        let image = Arc::clone(&self.image);
        let (key, value) = (key.to_owned(), value.map(str::to_owned));
        let doing = format!("marking {} with {key}", self.title);
        self.connection.call_io(&doing, move |_| match value {
            Some(value) => image.set_metadata(&key, &value),
            None => match image.remove_metadata(&key) {
                Err(failure) if failure.errno == libc::ENOENT => Ok(()),
                removed => removed,
            },
        })
    }

    fn mark(&self, key: &str) -> Result<Option<String>, SourceError> {
        let (image, wanted) = (Arc::clone(&self.image), key.to_owned());
        let doing = format!("reading the mark {key} of {}", self.title);
        self.connection.call_io(&doing, move |_| match image.metadata(&wanted) {
            Err(failure) if failure.errno == libc::ENOENT => Ok(None),
            found => found.map(Some),
        })
    }
}
