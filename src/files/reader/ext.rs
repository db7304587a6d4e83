//! ext2, ext3 and ext4.
//!
//! Read here and not by a crate: `ext4-view` 1.0 takes extents that were never written for data, and for longer than they
//! are; finds files damaged that have a large hole, or a time outside of 1970 to 2038; and replays no journal without
//! checksums. Checksums of metadata are not looked at: the image below is verified.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;

use super::FileReader;
use super::bytes::{le16, le32};
use super::content::read_runs;
use super::device::Device;
use super::ext_inode::ExtInode;
use super::ext_volume::ExtVolume;
use crate::files::metadata::{FileKind, FileMetadata, FolderEntry};
use crate::files::path::{FilePath, PATH_BYTES_MAX};
use crate::files::protocol::{Page, Refusal, RefusalKind};
use crate::sysio::device::ReadAt;

const ROOT: u32 = 2;
/// Paths whose inode's number is known.
const KNOWN_PATHS: usize = 4096;
/// Folders whose names are kept, so that looking up each of them does not read all of it each time; and what all these
/// names may take of the worker's memory.
const KNOWN_FOLDERS: usize = 6;
const KNOWN_NAMES_BYTES_MAX: usize = 32 << 20;
/// What a name takes beyond its bytes: its place in the map, and what the allocator rounds up.
const KNOWN_NAME_BYTES: usize = 96;
const ENTRY_HEADER_BYTES: usize = 8;

pub struct ExtReader {
    volume: ExtVolume,
    numbers: LruCache<Vec<u8>, u32>,
    folders: LruCache<u32, Names>,
}

/// The names of a folder, or as many as there is room for.
#[derive(Default)]
struct Names {
    numbers: HashMap<Vec<u8>, u32>,
    bytes: usize,
}

impl Names {
    /// The first of two equal names counts.
    fn add(&mut self, name: &[u8], number: u32) {
        if self.is_whole() && !self.numbers.contains_key(name) {
            self.bytes += name.len() + KNOWN_NAME_BYTES;
            self.numbers.insert(name.to_vec(), number);
        }
    }

    fn is_whole(&self) -> bool {
        self.bytes <= KNOWN_NAMES_BYTES_MAX
    }
}

/// An entry of a folder's block.
struct RawEntry<'a> {
    number: u32,
    name: &'a [u8],
    kind: Option<FileKind>,
    /// Of what follows, in the block.
    next: usize,
}

impl ExtReader {
    pub fn mount(device: Arc<Device>) -> Result<Self, Refusal> {
        Ok(Self {
            volume: ExtVolume::mount(device)?,
            numbers: LruCache::new(NonZeroUsize::new(KNOWN_PATHS).unwrap_or(NonZeroUsize::MIN)),
            folders: LruCache::new(NonZeroUsize::new(KNOWN_FOLDERS).unwrap_or(NonZeroUsize::MIN)),
        })
    }

    /// Looks a path up, from the nearest folder above it whose number is known.
    fn look_up(&mut self, path: &FilePath) -> Result<ExtInode, Refusal> {
        let mut unknown = Vec::new();
        let (mut above, mut number) = (Some(path.clone()), ROOT);
        while let Some(path) = above {
            if let Some(found) = self.numbers.get(path.as_bytes()) {
                number = *found;
                break;
            }
            above = path.split_last().map(|(folder, _)| folder);
            unknown.push(path);
        }
        for path in unknown.iter().rev() {
            let Some((_, name)) = path.split_last() else { continue };
            number = self.find(number, name)?;
            self.numbers.put(path.as_bytes().to_vec(), number);
        }
        self.volume.inode(number)
    }

    fn find(&mut self, folder: u32, name: &[u8]) -> Result<u32, Refusal> {
        if let Some(names) = self.folders.get(&folder) {
            return names.numbers.get(name).copied().ok_or_else(|| RefusalKind::NotFound.into());
        }
        let inode = self.folder(self.volume.inode(folder)?)?;
        let (mut names, mut found) = (Names::default(), None);
        self.walk(&inode, 0, |entry, _| {
            if entry.name == name && found.is_none() {
                found = Some(entry.number);
            }
            names.add(entry.name, entry.number);
            Ok(names.is_whole() || found.is_none())
        })?;
        if names.is_whole() {
            self.keep(folder, names);
        }
        found.ok_or_else(|| RefusalKind::NotFound.into())
    }

    fn keep(&mut self, folder: u32, names: Names) {
        self.folders.put(folder, names);
        while self.folders.iter().map(|(_, names)| names.bytes).sum::<usize>() > KNOWN_NAMES_BYTES_MAX {
            self.folders.pop_lru();
        }
    }

    fn folder(&self, inode: ExtInode) -> Result<ExtInode, Refusal> {
        match (inode.kind(), inode.unreadable()) {
            (Some(FileKind::Folder), None) => Ok(inode),
            (Some(FileKind::Folder), Some(why)) => Err(Refusal::unsupported(why)),
            _ => Err(RefusalKind::NotAFolder.into()),
        }
    }

    /// Visits the entries from a place on that is behind one, with the place behind each, until it returns false.
    fn walk(
        &self,
        folder: &ExtInode,
        from: u64,
        mut visit: impl FnMut(&RawEntry<'_>, u64) -> Result<bool, Refusal>,
    ) -> Result<(), Refusal> {
        let block_bytes = self.volume.block_bytes;
        let mut block = vec![0; usize::try_from(block_bytes).unwrap_or(0)];
        let mut start = from - from % block_bytes;
        let mut at = usize::try_from(from % block_bytes).unwrap_or(0);
        while start < folder.size_bytes() {
            let read = self.read_content(folder, start, &mut block)?;
            // A folder consists of whole blocks; a hole in it has no entries.
            if read == block.len() && le16(&block, 4) != 0 {
                while at < block.len() {
                    let entry = self.entry(&block, at)?;
                    at = entry.next;
                    if entry.number != 0 && !visit(&entry, start + at as u64)? {
                        return Ok(());
                    }
                }
            }
            at = 0;
            start += block_bytes;
        }
        Ok(())
    }

    fn entry<'a>(&self, block: &'a [u8], at: usize) -> Result<RawEntry<'a>, Refusal> {
        let damaged = || Refusal::damaged("an entry of a folder reaches beyond its block");
        let length = match usize::from(le16(block, at + 4)) {
            // Of the largest blocks the length does not fit.
            0 | 0xffff if block.len() == 1 << 16 => block.len() - at,
            length => length,
        };
        let has_types = self.volume.has_file_types();
        let name_bytes = le16(block, at + 6);
        let name_bytes = usize::from(if has_types { name_bytes & 0xff } else { name_bytes });
        let (name, next) = (at + ENTRY_HEADER_BYTES, at + length);
        if length < ENTRY_HEADER_BYTES + name_bytes || next > block.len() {
            return Err(damaged());
        }
        let kind = block.get(at + 7).filter(|_| has_types).and_then(|code| entry_kind(*code));
        let name = block.get(name..name + name_bytes).ok_or_else(damaged)?;
        Ok(RawEntry { number: le32(block, at), name, kind, next })
    }

    fn read_content(&self, inode: &ExtInode, offset: u64, into: &mut [u8]) -> Result<usize, Refusal> {
        let block_bytes = self.volume.block_bytes;
        let map = inode.map(block_bytes);
        let read = |block: u64, within, part: &mut [u8]| {
            let start = block.saturating_mul(block_bytes).saturating_add(within);
            self.volume.read_exact_at(start, part)
        };
        let run_at = |block| map.run_at(&self.volume, block).map_err(Refusal::damaged);
        read_runs((inode.size_bytes(), block_bytes), offset, into, run_at, read)
    }
}

impl FileReader for ExtReader {
    fn metadata(&mut self, path: &FilePath) -> Result<FileMetadata, Refusal> {
        let inode = self.look_up(path)?;
        Ok(inode.metadata(kind(&inode)?, self.volume.block_bytes))
    }

    fn list(&mut self, path: &FilePath, from: u64) -> Result<Page, Refusal> {
        let inode = self.look_up(path)?;
        let folder = self.folder(inode)?;
        let mut page = Page::default();
        let result = self.walk(&folder, from, |entry, next| {
            let kind = match entry.kind {
                Some(kind) => kind,
                None => kind(&self.volume.inode(entry.number)?)?,
            };
            let number = Some(entry.number.into());
            page.add(FolderEntry { name: entry.name.to_vec(), kind, number, next });
            if !page.has_room() {
                page.next = Some(next);
            }
            Ok(page.next.is_none())
        });
        match (result, page.entries.last()) {
            // What comes before the damage is shown; the next page meets it again.
            (Err(_), Some(last)) => page.next = Some(last.next),
            (Err(refusal), None) => return Err(refusal),
            (Ok(()), _) => {}
        }
        // Who lists a folder asks for each of its files next.
        for entry in &page.entries {
            if let (Ok(path), Some(number)) = (path.join(&entry.name), entry.number)
                && let Ok(number) = u32::try_from(number)
            {
                self.numbers.put(path.as_bytes().to_vec(), number);
            }
        }
        Ok(page)
    }

    fn read_link(&mut self, path: &FilePath) -> Result<Vec<u8>, Refusal> {
        let inode = self.look_up(path)?;
        if kind(&inode)? != FileKind::Link {
            return Err(RefusalKind::NotALink.into());
        }
        if let Some(why) = inode.unreadable() {
            return Err(Refusal::unsupported(why));
        }
        if let Some(target) = inode.short_target() {
            return Ok(target.to_vec());
        }
        if inode.size_bytes() > PATH_BYTES_MAX as u64 {
            return Err(Refusal::damaged("the target of a link is longer than a path"));
        }
        let mut target = vec![0; usize::try_from(inode.size_bytes()).unwrap_or(0)];
        self.read_content(&inode, 0, &mut target)?;
        Ok(target)
    }

    fn read(&mut self, path: &FilePath, offset: u64, into: &mut [u8]) -> Result<usize, Refusal> {
        let inode = self.look_up(path)?;
        match kind(&inode)? {
            FileKind::File => {}
            FileKind::Folder => return Err(RefusalKind::IsAFolder.into()),
            _ => return Err(RefusalKind::NotAFile.into()),
        }
        match inode.unreadable() {
            Some(why) => Err(Refusal::unsupported(why)),
            None => self.read_content(&inode, offset, into),
        }
    }
}

fn kind(inode: &ExtInode) -> Result<FileKind, Refusal> {
    inode.kind().ok_or_else(|| Refusal::damaged(format_args!("inode {} is of no known type", inode.number)))
}

fn entry_kind(code: u8) -> Option<FileKind> {
    Some(match code {
        1 => FileKind::File,
        2 => FileKind::Folder,
        3 => FileKind::CharDevice,
        4 => FileKind::BlockDevice,
        5 => FileKind::Fifo,
        6 => FileKind::Socket,
        7 => FileKind::Link,
        _ => return None,
    })
}
