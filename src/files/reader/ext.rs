//! ext2, ext3 and ext4, by the crate `ext4-view`, which replays journals with checksums in memory; `ext_journal` replays
//! the others.
//!
//! The crate tells neither inode numbers nor numbers of links, blocks and devices, nor extended attributes; and a file
//! with a time before 1970 or after 2038 is damaged to it.

use std::error::Error;
use std::num::NonZeroUsize;
use std::sync::Arc;

use ext4_view::{Ext4, Ext4Error, Ext4Read, File, FileType, Metadata, Path, ReadDir};
use lru::LruCache;

use super::FileReader;
use super::device::Device;
use super::ext_journal::Replayed;
use super::open_files::Places;
use crate::files::metadata::{FileKind, FileMetadata, FileTime, FolderEntry};
use crate::files::path::FilePath;
use crate::files::protocol::{Page, Refusal, RefusalKind};
use crate::sysio::device::ReadAt;

/// Folders that are known to be folders, so that their links need not be looked for again.
const KNOWN_FOLDERS: usize = 1024;
const OPEN_FILES: usize = 32;
const OPEN_FOLDERS: usize = 8;

pub struct ExtReader {
    file_system: Ext4,
    folders: LruCache<Vec<u8>, ()>,
    files: Places<File>,
    listings: Places<ReadDir>,
}

/// The device, and what was replayed here.
struct Bytes {
    device: Arc<Device>,
    replayed: Option<Replayed>,
}

impl Ext4Read for Bytes {
    fn read(&mut self, start: u64, into: &mut [u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        match &self.replayed {
            Some(replayed) => Ok(replayed.read(&self.device, start, into)?),
            None => Ok(self.device.read_exact_at(start, into)?),
        }
    }
}

/// Mounts a file system, with a replay of our own where the crate has none.
fn load(device: Arc<Device>) -> Result<Ext4, Ext4Error> {
    let bytes = Bytes { device: Arc::clone(&device), replayed: None };
    let refused = match Ext4::load(Box::new(bytes)) {
        Err(error @ Ext4Error::Incompatible(_)) => error,
        other => return other,
    };
    match Replayed::load(&device) {
        Ok(Some(replayed)) => Ext4::load(Box::new(Bytes { device, replayed: Some(replayed) })),
        Ok(None) => Err(refused),
        Err(error) => Err(Ext4Error::Io(Box::new(error))),
    }
}

impl ExtReader {
    pub fn mount(device: Arc<Device>) -> Result<Self, Refusal> {
        Ok(Self {
            file_system: load(device).map_err(refusal)?,
            folders: LruCache::new(NonZeroUsize::new(KNOWN_FOLDERS).unwrap_or(NonZeroUsize::MIN)),
            files: Places::new(OPEN_FILES),
            listings: Places::new(OPEN_FOLDERS),
        })
    }

    /// Looks a path up. The crate follows links between the names of a path; it never meets one, since every folder on
    /// the way is looked up first.
    fn look_up(&mut self, path: &FilePath) -> Result<Metadata, Refusal> {
        let mut unknown = Vec::new();
        let mut above = path.split_last().map(|(folder, _)| folder);
        while let Some(folder) = above.filter(|folder| self.folders.get(folder.as_bytes()).is_none()) {
            above = folder.split_last().map(|(folder, _)| folder);
            unknown.push(folder);
        }
        for folder in unknown.into_iter().rev() {
            if !self.stat(&folder)?.is_dir() {
                return Err(RefusalKind::NotAFolder.into());
            }
            self.folders.put(folder.as_bytes().to_vec(), ());
        }
        self.stat(path)
    }

    fn stat(&self, path: &FilePath) -> Result<Metadata, Refusal> {
        self.file_system.symlink_metadata(Path::new(&absolute(path))).map_err(refusal)
    }

    fn open(&mut self, path: &FilePath, offset: u64) -> Result<Option<File>, Refusal> {
        let metadata = self.look_up(path)?;
        match kind(metadata.file_type()) {
            FileKind::File => {}
            FileKind::Folder => return Err(RefusalKind::IsAFolder.into()),
            _ => return Err(RefusalKind::NotAFile.into()),
        }
        // Going to a place takes a step for each block before it, were it behind the end or not.
        if offset >= metadata.len() {
            return Ok(None);
        }
        let mut file = self.file_system.open(Path::new(&absolute(path))).map_err(refusal)?;
        if offset > 0 {
            file.seek_to(offset).map_err(refusal)?;
        }
        Ok(Some(file))
    }

    fn open_folder(&mut self, path: &FilePath, from: u64) -> Result<ReadDir, Refusal> {
        if !self.look_up(path)?.is_dir() {
            return Err(RefusalKind::NotAFolder.into());
        }
        let mut listing = self.file_system.read_dir(Path::new(&absolute(path))).map_err(refusal)?;
        for _ in 0..from {
            match listing.next() {
                Some(entry) => entry.map_err(refusal)?,
                None => break,
            };
        }
        Ok(listing)
    }
}

impl FileReader for ExtReader {
    fn metadata(&mut self, path: &FilePath) -> Result<FileMetadata, Refusal> {
        let metadata = self.look_up(path)?;
        let time = |time: ext4_view::Timestamp| FileTime {
            seconds: time.seconds(),
            nanoseconds: time.nanoseconds(),
        };
        Ok(FileMetadata {
            kind: kind(metadata.file_type()),
            size_bytes: metadata.len(),
            allocated_bytes: None,
            mode: metadata.mode(),
            uid: metadata.uid(),
            gid: metadata.gid(),
            links: None,
            modified: time(metadata.modified()),
            accessed: Some(time(metadata.accessed())),
            changed: None,
            created: metadata.created().map(time),
            number: None,
            device: None,
        })
    }

    fn list(&mut self, path: &FilePath, from: u64) -> Result<Page, Refusal> {
        let mut listing = match self.listings.take(path.as_bytes(), from) {
            Some(listing) => listing,
            None => self.open_folder(path, from)?,
        };
        let mut page = Page::default();
        let mut position = from;
        while page.has_room() {
            let entry = match listing.next() {
                Some(Ok(entry)) => entry,
                // What comes before the damage is shown; the next page meets it again.
                Some(Err(_)) if position > from => {
                    page.next = Some(position);
                    return Ok(page);
                }
                Some(Err(error)) => return Err(refusal(error)),
                None => return Ok(page),
            };
            position += 1;
            let file_type = entry.file_type().map_err(refusal)?;
            page.add(FolderEntry {
                name: entry.file_name().as_ref().to_vec(),
                kind: kind(file_type),
                number: None,
                next: position,
            });
        }
        self.listings.put(path.as_bytes(), position, listing);
        page.next = Some(position);
        Ok(page)
    }

    fn read_link(&mut self, path: &FilePath) -> Result<Vec<u8>, Refusal> {
        if !self.look_up(path)?.is_symlink() {
            return Err(RefusalKind::NotALink.into());
        }
        let target = self.file_system.read_link(Path::new(&absolute(path))).map_err(refusal)?;
        Ok(target.as_ref().to_vec())
    }

    fn read(&mut self, path: &FilePath, offset: u64, into: &mut [u8]) -> Result<usize, Refusal> {
        let file = match self.files.take(path.as_bytes(), offset) {
            Some(file) => Some(file),
            None => self.open(path, offset)?,
        };
        let Some(mut file) = file else { return Ok(0) };
        let mut done = 0;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match file.read_bytes(rest).map_err(refusal)? {
                0 => break,
                read => done += read,
            }
        }
        self.files.put(path.as_bytes(), offset + done as u64, file);
        Ok(done)
    }
}

fn absolute(path: &FilePath) -> Vec<u8> {
    [b"/", path.as_bytes()].concat()
}

fn kind(file_type: FileType) -> FileKind {
    match file_type {
        FileType::Regular => FileKind::File,
        FileType::Directory => FileKind::Folder,
        FileType::Symlink => FileKind::Link,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::CharacterDevice => FileKind::CharDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
    }
}

fn refusal(error: Ext4Error) -> Refusal {
    match error {
        Ext4Error::NotFound => RefusalKind::NotFound.into(),
        Ext4Error::NotADirectory => RefusalKind::NotAFolder.into(),
        Ext4Error::IsADirectory => RefusalKind::IsAFolder.into(),
        Ext4Error::IsASpecialFile => RefusalKind::NotAFile.into(),
        Ext4Error::NotASymlink => RefusalKind::NotALink.into(),
        Ext4Error::Encrypted => Refusal::unsupported("it is encrypted"),
        Ext4Error::Incompatible(why) => Refusal::unsupported(why),
        other => Refusal::damaged(other),
    }
}
