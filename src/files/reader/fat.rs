//! FAT12, FAT16 and FAT32, by the crate `fatfs`: EFI partitions.
//!
//! FAT has neither owners nor modes nor links, and its times are in no time zone: they are shown as UTC.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::num::NonZeroUsize;
use std::sync::Arc;

use fatfs::{Date, DateTime, Dir, DirEntry, File, FileAttributes, FileSystem, FsOptions};
use lru::LruCache;

use super::FileReader;
use super::device::Device;
use super::open_files::Places;
use crate::files::metadata::{FileKind, FileMetadata, FileTime, FolderEntry};
use crate::files::path::FilePath;
use crate::files::protocol::{Page, Refusal, RefusalKind};
use crate::sysio::device::ReadAt;

const KNOWN_ENTRIES: usize = 1024;
const OPEN_FILES: usize = 32;
/// Places in folders: where the last pages begin and end.
const OPEN_PLACES: usize = 16;
/// 2 MiB of 32 bytes each; a chain of clusters that has more leads back into itself.
const FOLDER_ENTRIES_MAX: u64 = 65_536;

/// What the kernel shows by default.
const FOLDER_MODE: u16 = 0o755;
const FILE_MODE: u16 = 0o755;
const READ_ONLY_MODE: u16 = 0o555;

type Entry = DirEntry<'static, Disk>;

pub struct FatReader {
    /// For ever, as its files and folders borrow it: there is one in the life of a worker, but for one that panicked.
    file_system: &'static FileSystem<Disk>,
    entries: LruCache<Vec<u8>, Entry>,
    files: Places<File<'static, Disk>>,
    listings: Places<fatfs::DirIter<'static, Disk>>,
}

/// The device with a position, as `fatfs` wants it.
#[derive(Clone)]
struct Disk {
    device: Arc<Device>,
    position: u64,
}

impl Read for Disk {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(self.device.size_bytes().saturating_sub(self.position));
        let length = into.len().min(rest.unwrap_or(usize::MAX));
        let Some(into) = into.get_mut(..length) else { return Ok(0) };
        self.device.read_exact_at(self.position, into)?;
        self.position += length as u64;
        Ok(length)
    }
}

impl Seek for Disk {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.device.size_bytes().checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

/// Asked for by `fatfs`; nothing is ever written.
impl Write for Disk {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl FatReader {
    pub fn mount(device: Arc<Device>) -> Result<Self, Refusal> {
        let file_system = FileSystem::new(Disk { device, position: 0 }, FsOptions::new()).map_err(refusal)?;
        Ok(Self {
            file_system: Box::leak(Box::new(file_system)),
            entries: LruCache::new(NonZeroUsize::new(KNOWN_ENTRIES).unwrap_or(NonZeroUsize::MIN)),
            files: Places::new(OPEN_FILES),
            listings: Places::new(OPEN_PLACES),
        })
    }

    /// Looks a path up; none for the root, which has no entry.
    fn look_up(&mut self, path: &FilePath) -> Result<Option<Entry>, Refusal> {
        if let Some(entry) = self.entries.get(path.as_bytes()) {
            return Ok(Some(entry.clone()));
        }
        let mut found = None;
        let mut here = FilePath::root();
        for name in path.names() {
            here = here.join(name).map_err(Refusal::damaged)?;
            found = Some(match self.entries.get(here.as_bytes()) {
                Some(entry) => entry.clone(),
                None => {
                    let entry = find(&self.folder(found.as_ref())?, name)?;
                    self.entries.put(here.as_bytes().to_vec(), entry.clone());
                    entry
                }
            });
        }
        Ok(found)
    }

    /// The entries from a position on. The kernel asks for those behind the last that it had room for, which is seldom
    /// where a page ended: it is found from the beginning of the page before, or its end.
    fn entries_from(&mut self, path: &FilePath, from: u64) -> Result<fatfs::DirIter<'static, Disk>, Refusal> {
        let (at, mut entries) = match self.listings.nearest(path.as_bytes(), from) {
            Some((at, entries)) => (at, entries.clone()),
            None => {
                let entry = self.look_up(path)?;
                (0, self.folder(entry.as_ref())?.iter())
            }
        };
        for _ in at..from {
            if entries.next().is_none() {
                break;
            }
        }
        self.keep(path, from, entries.clone());
        Ok(entries)
    }

    fn keep(&mut self, path: &FilePath, position: u64, entries: fatfs::DirIter<'static, Disk>) {
        if !self.listings.has(path.as_bytes(), position) {
            self.listings.put(path.as_bytes(), position, entries);
        }
    }

    fn folder(&self, entry: Option<&Entry>) -> Result<Dir<'static, Disk>, Refusal> {
        match entry {
            None => Ok(self.file_system.root_dir()),
            Some(entry) if entry.is_dir() => Ok(entry.to_dir()),
            Some(_) => Err(RefusalKind::NotAFolder.into()),
        }
    }
}

/// Finds a name as it stands, or else in other letters of the case, as the kernel does.
fn find(folder: &Dir<'static, Disk>, name: &[u8]) -> Result<Entry, Refusal> {
    let name = str::from_utf8(name).map_err(|_| RefusalKind::NotFound)?;
    let upper = name.to_uppercase();
    let mut similar = None;
    for entry in folder.iter().take(usize::try_from(FOLDER_ENTRIES_MAX).unwrap_or(usize::MAX)) {
        let entry = entry.map_err(refusal)?;
        let found = entry.file_name();
        if found == name {
            return Ok(entry);
        }
        if similar.is_none() && found.to_uppercase() == upper {
            similar = Some(entry);
        }
    }
    similar.ok_or_else(|| RefusalKind::NotFound.into())
}

impl FileReader for FatReader {
    fn metadata(&mut self, path: &FilePath) -> Result<FileMetadata, Refusal> {
        let entry = self.look_up(path)?;
        let kind = entry.as_ref().map_or(FileKind::Folder, entry_kind);
        let read_only =
            entry.as_ref().is_some_and(|entry| entry.attributes().contains(FileAttributes::READ_ONLY));
        Ok(FileMetadata {
            kind,
            size_bytes: entry.as_ref().map_or(0, DirEntry::len),
            allocated_bytes: None,
            mode: match kind {
                FileKind::Folder => FOLDER_MODE,
                _ if read_only => READ_ONLY_MODE,
                _ => FILE_MODE,
            },
            uid: 0,
            gid: 0,
            links: Some(1),
            // The root has no entry, so nobody knows.
            modified: entry
                .as_ref()
                .map_or(FileTime { seconds: 0, nanoseconds: 0 }, |entry| time(entry.modified())),
            accessed: entry
                .as_ref()
                .map(|entry| FileTime { seconds: days(entry.accessed()) * 86_400, nanoseconds: 0 }),
            changed: None,
            created: entry.as_ref().map(|entry| time(entry.created())),
            number: None,
            device: None,
        })
    }

    fn list(&mut self, path: &FilePath, from: u64) -> Result<Page, Refusal> {
        if from > FOLDER_ENTRIES_MAX {
            return Err(Refusal::damaged("a folder has more entries than FAT has room for"));
        }
        let mut entries = self.entries_from(path, from)?;
        let mut page = Page::default();
        let mut position = from;
        while page.has_room() {
            let entry = match entries.next() {
                Some(Ok(entry)) => entry,
                Some(Err(_)) if position > from => {
                    page.next = Some(position);
                    return Ok(page);
                }
                Some(Err(error)) => return Err(refusal(error)),
                None => return Ok(page),
            };
            position += 1;
            let name = entry.file_name().into_bytes();
            let kind = entry_kind(&entry);
            // Who lists a folder asks for each of its files next.
            if let Ok(path) = path.join(&name) {
                self.entries.put(path.as_bytes().to_vec(), entry);
            }
            page.add(FolderEntry { name, kind, number: None, next: position });
        }
        self.keep(path, position, entries);
        page.next = Some(position);
        Ok(page)
    }

    fn read_link(&mut self, path: &FilePath) -> Result<Vec<u8>, Refusal> {
        self.look_up(path)?;
        Err(RefusalKind::NotALink.into())
    }

    fn read(&mut self, path: &FilePath, offset: u64, into: &mut [u8]) -> Result<usize, Refusal> {
        let entry = self.look_up(path)?.filter(|entry| !entry.is_dir()).ok_or(RefusalKind::IsAFolder)?;
        let length = usize::try_from(entry.len().saturating_sub(offset)).unwrap_or(usize::MAX);
        let length = length.min(into.len());
        let Some(into) = into.get_mut(..length).filter(|into| !into.is_empty()) else { return Ok(0) };
        let mut file = match self.files.take(path.as_bytes(), offset) {
            Some(file) => file,
            None => {
                let mut file = entry.to_file();
                file.seek(SeekFrom::Start(offset)).map_err(refusal)?;
                file
            }
        };
        // The chain of clusters may end before the file does.
        file.read_exact(into).map_err(refusal)?;
        self.files.put(path.as_bytes(), offset + length as u64, file);
        Ok(length)
    }
}

fn entry_kind(entry: &Entry) -> FileKind {
    if entry.is_dir() { FileKind::Folder } else { FileKind::File }
}

fn time(time: DateTime) -> FileTime {
    let (hour, minute, second) = (time.time.hour, time.time.min, time.time.sec);
    let seconds = i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second);
    FileTime {
        seconds: days(time.date) * 86_400 + seconds,
        nanoseconds: u32::from(time.time.millis) * 1_000_000,
    }
}

/// Days since 1970 of a date from 1980 to 2107; what is no date counts as the nearest one.
fn days(date: Date) -> i64 {
    let (year, month) = (i64::from(date.year), usize::from(date.month.clamp(1, 12)));
    let leap = |year: i64| i64::from(year % 4 == 0 && (year % 100 != 0 || year % 400 == 0));
    let before: i64 = (1970..year).map(|year| 365 + leap(year)).sum();
    let february = 28 + leap(year);
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    before + months.iter().take(month - 1).sum::<i64>() + i64::from(date.day.max(1)) - 1
}

fn refusal(error: io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::NotFound => RefusalKind::NotFound.into(),
        _ => Refusal::damaged(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_over_leap_years() {
        assert_eq!(days(Date { year: 1980, month: 1, day: 1 }), 3652);
        assert_eq!(days(Date { year: 2000, month: 3, day: 1 }), 11_017);
        assert_eq!(days(Date { year: 2024, month: 2, day: 29 }), 19_782);
        assert_eq!(days(Date { year: 2107, month: 12, day: 31 }), 50_402);
        assert_eq!(days(Date { year: 2024, month: 0, day: 0 }), days(Date { year: 2024, month: 1, day: 1 }));
    }
}
