//! Open files and folders. What is open stays as it was opened: an image outlives its backup here, and a text is
//! the text of the moment it was opened. Only the events go on.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::VfsError;
use super::control_file::{OpenControl, copy};
use super::files::OpenInner;
use super::listing::OpenFolder;
use super::scratch::OpenScratch;
use crate::catalog::BackupRecord;
use crate::image::Image;
use crate::jobs::EventReader;
use crate::scratch::ScratchImage;
use crate::types::{BackupId, ScratchId};

/// Something open.
#[derive(Clone)]
pub(super) enum Open {
    Image(Arc<OpenImage>),
    Text(Arc<str>),
    Events(Arc<EventReader>),
    Control(Arc<OpenControl>),
    /// A partition of a backup.
    Partition(Arc<OpenPartition>),
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
            Self::Partition(partition) => Some(&partition.image),
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
            Self::Partition(partition) => partition.read(offset, into),
            Self::Inner(inner) => inner.read(offset, into),
            Self::Folder(_) => Err(VfsError::BadHandle { handle }),
        }
    }

    /// Returns the next offset of data, or of a hole; the end is a hole.
    pub(super) fn seek(&self, handle: u64, offset: u64, seek: Seek) -> Result<u64, VfsError> {
        match self {
            Self::Image(image) => image.seek(offset, seek),
            Self::Scratch(scratch) => scratch.seek(offset, seek),
            Self::Partition(partition) => partition.seek(offset, seek),
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

/// A partition of an image that is open.
pub(super) struct OpenPartition {
    image: Arc<OpenImage>,
    start: u64,
    end: u64,
}

impl OpenPartition {
    /// Takes the part of an image that begins at `start`; what would lie behind its end is left out.
    pub(super) fn new(image: Arc<OpenImage>, start: u64, length: u64) -> Self {
        let end = start.saturating_add(length).min(image.image.size_bytes());
        Self { image, start, end }
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<usize, VfsError> {
        let from = self.start.saturating_add(offset);
        let length = usize::try_from(self.end.saturating_sub(from)).unwrap_or(usize::MAX).min(into.len());
        self.image.read(from, into.get_mut(..length).unwrap_or_default())
    }

    fn seek(&self, offset: u64, seek: Seek) -> Result<u64, VfsError> {
        let from = self.start.saturating_add(offset);
        if from >= self.end {
            return Err(VfsError::NothingBehind);
        }
        match (self.image.seek(from, seek), seek) {
            (Ok(found), _) if found < self.end => Ok(found - self.start),
            (Ok(_), Seek::Hole) => Ok(self.end - self.start),
            (Ok(_), Seek::Data) => Err(VfsError::NothingBehind),
            (Err(error), _) => Err(error),
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
            Seek::Data => self.image.next_data(offset),
            Seek::Hole => self.image.next_hole(offset).map(Some),
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
