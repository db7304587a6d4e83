//! Open files and folders. What is open stays as it was opened: an image outlives its backup here, and a text is
//! the text of the moment it was opened. Only the events go on.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::VfsError;
use super::control_file::{OpenControl, copy};
use super::files::OpenInner;
use super::listing::OpenFolder;
use super::scratch::OpenScratch;
use crate::catalog::BackupRecord;
use crate::contents::{Part, Place};
use crate::image::Image;
use crate::jobs::EventReader;
use crate::scratch::ScratchImage;
use crate::sysio::device::{self, ReadAt};
use crate::types::{BackupId, ByteRange, ScratchId};

/// Something open.
#[derive(Clone)]
pub(super) enum Open {
    Image(Arc<OpenImage>),
    Text(Arc<str>),
    Events(Arc<EventReader>),
    Control(Arc<OpenControl>),
    /// A partition or a logical volume of a backup.
    Part(Arc<OpenPart>),
    Scratch(Arc<OpenScratch>),
    /// A file inside a backup.
    Inner(Arc<OpenInner>),
    Folder(Arc<OpenFolder>),
}

/// An image that is open; all its openings share one.
pub(super) struct OpenImage {
    pub(super) record: Arc<BackupRecord>,
    image: Arc<Image>,
    /// The first failed read is told of, and not each time somebody tries again.
    reported: AtomicBool,
}

/// What to look for behind an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    Data,
    Hole,
}

pub(super) struct HandleTable {
    last: AtomicU64,
    open: RwLock<Openings>,
}

#[derive(Default)]
struct Openings {
    by_handle: HashMap<u64, Open>,
    /// Open images and how often each is.
    images: HashMap<BackupId, (Arc<OpenImage>, u64)>,
}

impl HandleTable {
    pub(super) fn new() -> Self {
        Self { last: AtomicU64::new(0), open: RwLock::default() }
    }

    /// Keeps something open until its handle is closed.
    pub(super) fn insert(&self, open: Open) -> u64 {
        let handle = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let mut openings = self.write();
        if let Some(image) = open.backup_image() {
            openings.images.entry(image.record.id).or_insert_with(|| (Arc::clone(image), 0)).1 += 1;
        }
        openings.by_handle.insert(handle, open);
        handle
    }

    pub(super) fn close(&self, handle: u64) {
        let mut openings = self.write();
        let mut last = None;
        let closed = openings.by_handle.remove(&handle);
        if let Some(image) = closed.as_ref().and_then(Open::backup_image) {
            let id = image.record.id;
            if let Some((_, count)) = openings.images.get_mut(&id) {
                *count -= 1;
                if *count == 0 {
                    last = openings.images.remove(&id);
                }
            }
        }
        // Behind the lock: the last one may remove files.
        drop(openings);
        drop((closed, last));
    }

    pub(super) fn get(&self, handle: u64) -> Result<Open, VfsError> {
        self.read().by_handle.get(&handle).cloned().ok_or(VfsError::BadHandle { handle })
    }

    /// Returns an image that somebody has open, its backup deleted or not.
    pub(super) fn image(&self, id: BackupId) -> Option<Arc<OpenImage>> {
        self.read().images.get(&id).map(|(image, _)| Arc::clone(image))
    }

    /// Returns a scratch image that somebody has open, removed or not.
    pub(super) fn scratch(&self, id: ScratchId) -> Option<Arc<ScratchImage>> {
        let openings = self.read();
        openings.by_handle.values().find_map(|open| match open {
            Open::Scratch(open) if open.image().about().id == id => Some(Arc::clone(open.image())),
            _ => None,
        })
    }

    pub(super) fn count(&self) -> usize {
        self.read().by_handle.len()
    }

    fn read(&self) -> RwLockReadGuard<'_, Openings> {
        self.open.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Openings> {
        self.open.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// The image of the backup that this is a part of. It stays as long as this is open.
    fn backup_image(&self) -> Option<&Arc<OpenImage>> {
        match self {
            Self::Image(image) => Some(image),
            Self::Part(part) => Some(&part.image),
            Self::Inner(inner) => Some(inner.image()),
            Self::Text(_) | Self::Events(_) | Self::Control(_) | Self::Scratch(_) | Self::Folder(_) => None,
        }
    }

    /// Fills `into` from an offset and returns how many bytes there are before the end.
    pub(super) fn read(&self, handle: u64, offset: u64, into: &mut [u8]) -> Result<usize, VfsError> {
        match self {
            Self::Image(image) => image.read(offset, into),
            Self::Text(text) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                Ok(copy(text.as_bytes().get(start..).unwrap_or_default(), into))
            }
            Self::Events(reader) => reader.read(offset, into).map_err(|source| VfsError::Events { source }),
            Self::Control(control) => Ok(control.read(offset, into)),
            Self::Scratch(scratch) => scratch.read(offset, into),
            Self::Part(part) => part.read(offset, into),
            Self::Inner(inner) => inner.read(offset, into),
            Self::Folder(_) => Err(VfsError::BadHandle { handle }),
        }
    }

    /// Returns the next offset of data, or of a hole; the end is a hole.
    pub(super) fn seek(&self, handle: u64, offset: u64, seek: Seek) -> Result<u64, VfsError> {
        match self {
            Self::Image(image) => image.seek(offset, seek),
            Self::Scratch(scratch) => scratch.seek(offset, seek),
            Self::Part(part) => part.seek(offset, seek),
            Self::Inner(inner) => inner.seek(offset, seek),
            Self::Text(text) => {
                let end = text.len() as u64;
                let found = if seek == Seek::Data { offset } else { end };
                if offset < end { Ok(found) } else { Err(VfsError::NothingBehind) }
            }
            Self::Events(_) | Self::Control(_) | Self::Folder(_) => Err(VfsError::BadHandle { handle }),
        }
    }
}

/// A partition or a logical volume of an image that is open.
pub(super) struct OpenPart {
    image: Arc<OpenImage>,
    part: Part<Arc<OpenImage>>,
}

impl OpenPart {
    pub(super) fn new(image: Arc<OpenImage>, place: &Place) -> Self {
        Self { part: place.of(Arc::clone(&image)), image }
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<usize, VfsError> {
        let length = ByteRange::new(offset, into.len() as u64).below(self.part.size_bytes()).len();
        let length = usize::try_from(length).unwrap_or(into.len());
        self.part.read_exact_at(offset, into.get_mut(..length).unwrap_or_default()).map_err(of_image)?;
        Ok(length)
    }

    fn seek(&self, offset: u64, seek: Seek) -> Result<u64, VfsError> {
        if offset >= self.part.size_bytes() {
            return Err(VfsError::NothingBehind);
        }
        let found = match seek {
            Seek::Data => self.part.next_data(offset),
            Seek::Hole => self.part.next_hole(offset).map(Some),
        };
        found.map_err(of_image)?.ok_or(VfsError::NothingBehind)
    }
}

/// Returns the error that the image gave to a part of it.
fn of_image(error: io::Error) -> VfsError {
    error.downcast().unwrap_or_else(|source| VfsError::Part { source })
}

impl ReadAt for OpenImage {
    fn size_bytes(&self) -> u64 {
        self.image.size_bytes()
    }

    fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        device::check_within(self.size_bytes(), offset, into.len(), io::ErrorKind::UnexpectedEof)?;
        self.read(offset, into).map(drop).map_err(io::Error::other)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        match self.seek(offset, Seek::Data) {
            Ok(found) => Ok(Some(found)),
            Err(VfsError::NothingBehind) => Ok(None),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        match self.seek(offset, Seek::Hole) {
            Err(VfsError::NothingBehind) => Ok(self.size_bytes()),
            found => found.map_err(io::Error::other),
        }
    }
}

impl OpenImage {
    pub(super) fn image(&self) -> &Arc<Image> {
        &self.image
    }

    pub(super) fn new(record: Arc<BackupRecord>, image: Arc<Image>) -> Self {
        Self { record, image, reported: AtomicBool::new(false) }
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<usize, VfsError> {
        self.image.read(offset, into).map_err(|source| self.failed(offset, source))
    }

    fn seek(&self, offset: u64, seek: Seek) -> Result<u64, VfsError> {
        if offset >= self.image.size_bytes() {
            return Err(VfsError::NothingBehind);
        }
        let found = match seek {
            Seek::Data => Image::next_data(&self.image, offset),
            Seek::Hole => Image::next_hole(&self.image, offset).map(Some),
        };
        found.map_err(|source| self.failed(offset, source))?.ok_or(VfsError::NothingBehind)
    }

    fn failed(&self, offset: u64, source: Arc<crate::store::StoreError>) -> VfsError {
        let id = self.record.id;
        if !self.reported.swap(true, Ordering::Relaxed) {
            let volume = format!("{}/{}", self.record.source, self.record.volume_name);
            tracing::error!(backup = %id, volume, offset, %source, "an image cannot be read there");
        }
        VfsError::Read { id, offset, source }
    }
}
