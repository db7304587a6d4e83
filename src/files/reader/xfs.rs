//! XFS, by the crate `rust-fs-xfs`, which replays the log in memory.
//!
//! The content of files is read here and not by the crate, from the device below the replayed log. XFS logs metadata only,
//! so that is where all content is; and the crate (0.14.2) replays the making of an inode chunk even when the chunk was
//! freed later, which put inodes over the content of files that had been given the blocks since.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;

use fs_core::BlockRead;
use fs_xfs::dir::DirEntry;
use fs_xfs::extent::Extent;
use fs_xfs::inode::{FileType, Format, Inode, Timestamp};
use fs_xfs::{Error, Filesystem};
use lru::LruCache;

use super::FileReader;
use super::content::{Run, read_runs};
use super::device::Device;
use super::open_files::Places;
use super::xfs_link::read_remote;
use crate::files::metadata::{DeviceNumber, FileKind, FileMetadata, FileTime, FolderEntry};
use crate::files::path::FilePath;
use crate::files::protocol::{Page, Refusal, RefusalKind};
use crate::sysio::device::ReadAt;

/// Paths whose inode's number is known.
const KNOWN_PATHS: usize = 4096;
const OPEN_FILES: usize = 16;
/// The crate reads a folder as a whole: each of these holds all its entries, and all of them together no more than these,
/// but for a single one that has more.
const OPEN_FOLDERS: usize = 4;
const OPEN_ENTRIES_MAX: usize = 1 << 19;

pub struct XfsReader {
    device: Arc<Device>,
    file_system: Filesystem,
    numbers: LruCache<Vec<u8>, u64>,
    files: Places<OpenFile>,
    listings: LruCache<Vec<u8>, Vec<DirEntry>>,
}

/// An inode, and the bytes that it was read from.
struct Record {
    inode: Inode,
    raw: Vec<u8>,
}

/// Where the content of a file is.
struct OpenFile {
    size_bytes: u64,
    /// Sorted by place in the file.
    extents: Vec<Extent>,
}

struct Bytes(Arc<Device>);

impl BlockRead for Bytes {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> fs_core::Result<()> {
        self.0.read_exact_at(offset, into).map_err(fs_core::Error::Io)
    }

    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }
}

impl XfsReader {
    pub fn mount(device: Arc<Device>) -> Result<Self, Refusal> {
        // Without the crate's own cache: the device has one, and data does not push metadata out of it.
        let bytes = Arc::new(Bytes(Arc::clone(&device)));
        let file_system = Filesystem::mount_with_cache(bytes, 0).map_err(refusal)?;
        Ok(Self {
            device,
            file_system,
            numbers: LruCache::new(NonZeroUsize::new(KNOWN_PATHS).unwrap_or(NonZeroUsize::MIN)),
            files: Places::new(OPEN_FILES),
            listings: LruCache::new(NonZeroUsize::new(OPEN_FOLDERS).unwrap_or(NonZeroUsize::MIN)),
        })
    }

    fn record(&self, number: u64) -> Result<Record, Refusal> {
        let (inode, raw) = self.file_system.read_inode_raw(number).map_err(refusal)?;
        Ok(Record { inode, raw })
    }

    /// Looks a path up, from the nearest folder above it whose number is known.
    fn look_up(&mut self, path: &FilePath) -> Result<Record, Refusal> {
        let mut unknown = Vec::new();
        let mut known = Some(path.clone());
        let mut number = self.file_system.superblock().rootino;
        while let Some(path) = known {
            if let Some(found) = self.numbers.get(path.as_bytes()) {
                number = *found;
                break;
            }
            known = path.split_last().map(|(folder, _)| folder);
            unknown.push(path);
        }
        for path in unknown.iter().rev() {
            let Some((_, name)) = path.split_last() else { continue };
            let folder = self.record(number)?;
            let found = self.file_system.lookup(&folder.inode, &folder.raw, name).map_err(refusal)?;
            number = found.ino;
            self.numbers.put(path.as_bytes().to_vec(), number);
        }
        self.record(number)
    }

    /// Reads a folder, unless its entries are known. The kernel asks for those behind the last that it had room for, which
    /// is seldom where a page ended.
    fn open_folder(&mut self, path: &FilePath) -> Result<(), Refusal> {
        if self.listings.get(path.as_bytes()).is_some() {
            return Ok(());
        }
        let folder = self.look_up(path)?;
        if !folder.inode.is_dir() {
            return Err(RefusalKind::NotAFolder.into());
        }
        let entries = self.file_system.read_dir(&folder.inode, &folder.raw).map_err(refusal)?;
        self.listings.put(path.as_bytes().to_vec(), entries);
        let sum = |listings: &LruCache<Vec<u8>, Vec<DirEntry>>| {
            listings.iter().map(|(_, entries)| entries.len()).sum::<usize>()
        };
        while self.listings.len() > 1 && sum(&self.listings) > OPEN_ENTRIES_MAX {
            self.listings.pop_lru();
        }
        Ok(())
    }

    fn open_file(&mut self, path: &FilePath) -> Result<OpenFile, Refusal> {
        let record = self.look_up(path)?;
        match inode_kind(&record.inode)? {
            FileKind::File => {}
            FileKind::Folder => return Err(RefusalKind::IsAFolder.into()),
            _ => return Err(RefusalKind::NotAFile.into()),
        }
        let mut extents = self.file_system.data_extents(&record.inode, &record.raw).map_err(refusal)?;
        extents.sort_by_key(|extent| extent.startoff);
        Ok(OpenFile { size_bytes: record.inode.size, extents })
    }

    fn read_content(&self, file: &OpenFile, offset: u64, into: &mut [u8]) -> Result<usize, Refusal> {
        let superblock = self.file_system.superblock();
        let sizes = (file.size_bytes, u64::from(superblock.blocksize));
        let read = |block, within, part: &mut [u8]| {
            self.device.read_exact_at(superblock.fsblock_offset(block).saturating_add(within), part)
        };
        read_runs(sizes, offset, into, |block| Ok(run_at(&file.extents, block)), read)
    }

    fn entry_kind(&self, entry: &DirEntry) -> Result<FileKind, Refusal> {
        match entry.ftype {
            Some(file_type) => Ok(kind(file_type)),
            None => inode_kind(&self.record(entry.ino)?.inode),
        }
    }

    /// A device node holds its number in place of data, in the packing of System V: 14 bits and 18 bits.
    fn device_number(&self, record: &Record) -> Option<DeviceNumber> {
        if record.inode.format != Format::Dev {
            return None;
        }
        let (start, _) = record.inode.data_fork_range(record.raw.len());
        let (bytes, _) = record.raw.get(start..)?.split_first_chunk()?;
        let packed = u32::from_be_bytes(*bytes);
        Some(DeviceNumber { major: packed >> 18, minor: packed & 0x3_ffff })
    }
}

impl FileReader for XfsReader {
    fn metadata(&mut self, path: &FilePath) -> Result<FileMetadata, Refusal> {
        let record = self.look_up(path)?;
        let inode = &record.inode;
        let kind = inode_kind(inode)?;
        let has_number = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
        let block_bytes = u64::from(self.file_system.superblock().blocksize);
        Ok(FileMetadata {
            kind,
            size_bytes: inode.size,
            allocated_bytes: Some(inode.nblocks.saturating_mul(block_bytes)),
            mode: inode.permissions() & 0o7777,
            uid: inode.uid,
            gid: inode.gid,
            links: Some(inode.nlink),
            modified: time(inode.mtime),
            accessed: Some(time(inode.atime)),
            changed: Some(time(inode.ctime)),
            created: (inode.version >= 3).then(|| time(inode.crtime)),
            number: Some(inode.ino),
            device: self.device_number(&record).filter(|_| has_number),
        })
    }

    fn list(&mut self, path: &FilePath, from: u64) -> Result<Page, Refusal> {
        self.open_folder(path)?;
        let entries = self.listings.peek(path.as_bytes()).map(Vec::as_slice).unwrap_or_default();
        let mut page = Page::default();
        let behind = entries.iter().skip(usize::try_from(from).unwrap_or(usize::MAX));
        for (position, entry) in (from..u64::MAX).zip(behind) {
            if !page.has_room() {
                page.next = Some(position);
                break;
            }
            let kind = self.entry_kind(entry)?;
            let name = entry.name.clone();
            page.add(FolderEntry { name, kind, number: Some(entry.ino), next: position + 1 });
        }
        // Who lists a folder asks for each of its files next.
        for entry in &page.entries {
            if let (Ok(path), Some(number)) = (path.join(&entry.name), entry.number) {
                self.numbers.put(path.as_bytes().to_vec(), number);
            }
        }
        Ok(page)
    }

    fn read_link(&mut self, path: &FilePath) -> Result<Vec<u8>, Refusal> {
        let record = self.look_up(path)?;
        if !record.inode.is_symlink() {
            return Err(RefusalKind::NotALink.into());
        }
        let (inode, raw) = (&record.inode, &record.raw);
        match inode.format {
            Format::Local => self.file_system.read_link(inode, raw).map_err(refusal),
            _ => read_remote(&self.file_system, inode, raw),
        }
    }

    fn read(&mut self, path: &FilePath, offset: u64, into: &mut [u8]) -> Result<usize, Refusal> {
        let file = match self.files.take(path.as_bytes(), 0) {
            Some(file) => file,
            None => self.open_file(path)?,
        };
        let read = self.read_content(&file, offset, into);
        self.files.put(path.as_bytes(), 0, file);
        read
    }
}

/// Finds what is at a block of a file, up to the end of the extent or the hole.
fn run_at(extents: &[Extent], block: u64) -> Run {
    let behind = extents.partition_point(|extent| extent.startoff <= block);
    let extent = behind.checked_sub(1).and_then(|index| extents.get(index));
    if let Some(extent) = extent.filter(|extent| block - extent.startoff < extent.blockcount) {
        let within = block - extent.startoff;
        let start = (!extent.is_unwritten()).then(|| extent.startblock.saturating_add(within));
        return Run { start, blocks: extent.blockcount - within };
    }
    let next = extents.get(behind).map_or(u64::MAX, |extent| extent.startoff);
    Run { start: None, blocks: next - block }
}

fn inode_kind(inode: &Inode) -> Result<FileKind, Refusal> {
    inode.file_type().map(kind).ok_or_else(|| Refusal::damaged("an inode of no known type"))
}

fn kind(file_type: FileType) -> FileKind {
    match file_type {
        FileType::Regular => FileKind::File,
        FileType::Directory => FileKind::Folder,
        FileType::Symlink => FileKind::Link,
        FileType::CharDevice => FileKind::CharDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
    }
}

fn time(time: Timestamp) -> FileTime {
    FileTime { seconds: time.sec, nanoseconds: time.nsec }
}

pub fn refusal(error: Error) -> Refusal {
    match error {
        Error::NotFound => RefusalKind::NotFound.into(),
        Error::NotADirectory => RefusalKind::NotAFolder.into(),
        Error::NotAFile => RefusalKind::NotAFile.into(),
        Error::UnsupportedFeature(why) => Refusal::unsupported(why),
        error @ Error::RealtimeDeviceAbsent { .. } => Refusal::unsupported(error),
        other => Refusal::damaged(io::Error::other(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_end_where_extents_and_holes_do() {
        let extent = |startoff, startblock, blockcount, unwritten| Extent {
            startoff,
            startblock,
            blockcount,
            unwritten,
        };
        let extents = [extent(2, 100, 3, false), extent(5, 200, 2, true), extent(9, 300, 1, false)];
        let at = |block| {
            let run = run_at(&extents, block);
            (run.start, run.blocks)
        };
        assert_eq!(at(0), (None, 2));
        assert_eq!(at(2), (Some(100), 3));
        assert_eq!(at(4), (Some(102), 1));
        assert_eq!(at(6), (None, 1), "never written");
        assert_eq!(at(7), (None, 2));
        assert_eq!(at(9), (Some(300), 1));
        assert_eq!(at(10), (None, u64::MAX - 10));
    }
}
