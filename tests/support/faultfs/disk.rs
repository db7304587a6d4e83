//! What is on the disk, twice: as the running kernel shows it, and as a power cut would leave it. No fault is decided
//! here.
//!
//! The model is as strict as POSIX allows: bytes, sizes and attributes are durable by a sync of their file, names by a
//! sync of their folder, and nothing else makes anything durable. One thing is as on every file system with a
//! journal: a file that was renamed into another folder is not there twice.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::SystemTime;

use fuser::Errno;

use crate::support::bytes::Numbers;

pub const ROOT: u64 = 1;

/// What is torn or lost is torn or lost in blocks of this size.
const BLOCK: usize = 4096;

type Names = BTreeMap<OsString, u64>;

/// What a restart finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survival {
    /// All that the kernel had: only the process died.
    Everything,
    /// What was synced, and nothing else.
    SyncedOnly,
    /// All names, but of what was not synced zeros, or nothing: renames may come to the disk before the data.
    NamesWithoutData { seed: u64 },
    /// Of what was not synced some blocks, some sizes, and all names or none.
    Torn { seed: u64 },
}

#[derive(Clone)]
pub struct Disk {
    nodes: BTreeMap<u64, Node>,
    next: u64,
}

#[derive(Clone)]
enum Node {
    File(FileNode),
    Folder(FolderNode),
}

#[derive(Clone)]
struct FileNode {
    current: Content,
    durable: Content,
    /// Blocks that a failed sync has dropped: the kernel shows them, and believes that they are on the disk.
    dropped: BTreeSet<usize>,
    mode: u32,
    changed: SystemTime,
}

#[derive(Clone, Default)]
struct Content {
    bytes: Arc<Vec<u8>>,
    attributes: BTreeMap<OsString, Vec<u8>>,
}

#[derive(Clone)]
struct FolderNode {
    current: Names,
    durable: Names,
    mode: u32,
    changed: SystemTime,
}

/// What `stat` tells.
pub struct Stat {
    pub inode: u64,
    pub is_folder: bool,
    pub size: u64,
    pub mode: u32,
    pub changed: SystemTime,
}

impl Disk {
    pub fn new() -> Self {
        let mut disk = Self { nodes: BTreeMap::new(), next: ROOT };
        disk.add_folder(0o755);
        disk
    }

    fn add(&mut self, node: Node) -> u64 {
        let inode = self.next;
        self.next += 1;
        self.nodes.insert(inode, node);
        inode
    }

    fn add_folder(&mut self, mode: u32) -> u64 {
        let (current, durable) = (Names::new(), Names::new());
        self.add(Node::Folder(FolderNode { current, durable, mode, changed: SystemTime::now() }))
    }

    fn folder(&self, inode: u64) -> Result<&FolderNode, Errno> {
        match self.nodes.get(&inode) {
            Some(Node::Folder(folder)) => Ok(folder),
            Some(Node::File(_)) => Err(Errno::ENOTDIR),
            None => Err(Errno::ENOENT),
        }
    }

    fn folder_mut(&mut self, inode: u64) -> Result<&mut FolderNode, Errno> {
        match self.nodes.get_mut(&inode) {
            Some(Node::Folder(folder)) => {
                folder.changed = SystemTime::now();
                Ok(folder)
            }
            Some(Node::File(_)) => Err(Errno::ENOTDIR),
            None => Err(Errno::ENOENT),
        }
    }

    fn file(&self, inode: u64) -> Result<&FileNode, Errno> {
        match self.nodes.get(&inode) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Folder(_)) => Err(Errno::EISDIR),
            None => Err(Errno::ENOENT),
        }
    }

    fn file_mut(&mut self, inode: u64) -> Result<&mut FileNode, Errno> {
        match self.nodes.get_mut(&inode) {
            Some(Node::File(file)) => {
                file.changed = SystemTime::now();
                Ok(file)
            }
            Some(Node::Folder(_)) => Err(Errno::EISDIR),
            None => Err(Errno::ENOENT),
        }
    }

    pub fn stat(&self, inode: u64) -> Result<Stat, Errno> {
        Ok(match self.nodes.get(&inode).ok_or(Errno::ENOENT)? {
            Node::File(file) => Stat {
                inode,
                is_folder: false,
                size: file.current.bytes.len() as u64,
                mode: file.mode,
                changed: file.changed,
            },
            Node::Folder(folder) => {
                Stat { inode, is_folder: true, size: 0, mode: folder.mode, changed: folder.changed }
            }
        })
    }

    pub fn lookup(&self, folder: u64, name: &OsStr) -> Result<u64, Errno> {
        self.folder(folder)?.current.get(name).copied().ok_or(Errno::ENOENT)
    }

    pub fn list(&self, folder: u64) -> Result<Vec<(OsString, u64, bool)>, Errno> {
        let names = self.folder(folder)?.current.iter();
        let is_folder = |inode| matches!(self.nodes.get(inode), Some(Node::Folder(_)));
        Ok(names.map(|(name, inode)| (name.clone(), *inode, is_folder(inode))).collect())
    }

    /// Where a node is in the tree that the kernel shows, for whoever reads a list of steps.
    pub fn path(&self, wanted: u64) -> String {
        let mut path = String::new();
        let mut inode = wanted;
        while inode != ROOT {
            let Some((folder, name)) = self.nodes.iter().find_map(|(folder, node)| match node {
                Node::Folder(names) => {
                    let found = names.current.iter().find(|(_, found)| **found == inode);
                    found.map(|(name, _)| (*folder, name))
                }
                Node::File(_) => None,
            }) else {
                return format!("#{wanted}{path}");
            };
            path = format!("/{}{path}", name.to_string_lossy());
            inode = folder;
        }
        path
    }

    pub fn create(&mut self, folder: u64, name: &OsStr, mode: u32) -> Result<u64, Errno> {
        self.check_new(folder, name)?;
        let (current, durable, dropped) = Default::default();
        let file = FileNode { current, durable, dropped, mode, changed: SystemTime::now() };
        let inode = self.add(Node::File(file));
        self.folder_mut(folder)?.current.insert(name.to_owned(), inode);
        Ok(inode)
    }

    pub fn make_folder(&mut self, folder: u64, name: &OsStr, mode: u32) -> Result<u64, Errno> {
        self.check_new(folder, name)?;
        let inode = self.add_folder(mode);
        self.folder_mut(folder)?.current.insert(name.to_owned(), inode);
        Ok(inode)
    }

    fn check_new(&self, folder: u64, name: &OsStr) -> Result<(), Errno> {
        match self.folder(folder)?.current.contains_key(name) {
            true => Err(Errno::EEXIST),
            false => Ok(()),
        }
    }

    pub fn unlink(&mut self, folder: u64, name: &OsStr) -> Result<(), Errno> {
        let inode = self.lookup(folder, name)?;
        self.file(inode)?;
        self.folder_mut(folder)?.current.remove(name);
        Ok(())
    }

    pub fn remove_folder(&mut self, folder: u64, name: &OsStr) -> Result<(), Errno> {
        let inode = self.lookup(folder, name)?;
        if !self.folder(inode)?.current.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.folder_mut(folder)?.current.remove(name);
        Ok(())
    }

    pub fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr)) -> Result<(), Errno> {
        let inode = self.lookup(from.0, from.1)?;
        self.folder_mut(from.0)?.current.remove(from.1);
        self.folder_mut(to.0)?.current.insert(to.1.to_owned(), inode);
        Ok(())
    }

    pub fn exchange(&mut self, from: (u64, &OsStr), to: (u64, &OsStr)) -> Result<(), Errno> {
        let (one, other) = (self.lookup(from.0, from.1)?, self.lookup(to.0, to.1)?);
        self.folder_mut(from.0)?.current.insert(from.1.to_owned(), other);
        self.folder_mut(to.0)?.current.insert(to.1.to_owned(), one);
        Ok(())
    }

    pub fn read(&self, inode: u64, offset: u64, length: usize) -> Result<Vec<u8>, Errno> {
        let bytes = &self.file(inode)?.current.bytes;
        let start = usize::try_from(offset).unwrap().min(bytes.len());
        Ok(bytes[start..(start + length).min(bytes.len())].to_vec())
    }

    pub fn write(&mut self, inode: u64, offset: u64, new: &[u8]) -> Result<(), Errno> {
        let file = self.file_mut(inode)?;
        let bytes = Arc::make_mut(&mut file.current.bytes);
        let start = usize::try_from(offset).unwrap();
        let end = start + new.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(new);
        // Dirty again, so that the next sync writes them.
        file.dropped.retain(|block| !(start / BLOCK..end.div_ceil(BLOCK)).contains(block));
        Ok(())
    }

    pub fn set_size(&mut self, inode: u64, size: u64) -> Result<(), Errno> {
        let size = usize::try_from(size).unwrap();
        Arc::make_mut(&mut self.file_mut(inode)?.current.bytes).resize(size, 0);
        Ok(())
    }

    pub fn set_mode(&mut self, inode: u64, mode: u32) {
        match self.nodes.get_mut(&inode) {
            Some(Node::File(file)) => file.mode = mode,
            Some(Node::Folder(folder)) => folder.mode = mode,
            None => {}
        }
    }

    pub fn attribute(&self, inode: u64, name: &OsStr) -> Result<Vec<u8>, Errno> {
        self.file(inode)?.current.attributes.get(name).cloned().ok_or(Errno::ENODATA)
    }

    pub fn set_attribute(&mut self, inode: u64, name: &OsStr, value: Option<&[u8]>) -> Result<(), Errno> {
        let attributes = &mut self.file_mut(inode)?.current.attributes;
        match value {
            Some(value) => drop(attributes.insert(name.to_owned(), value.to_vec())),
            None => drop(attributes.remove(name).ok_or(Errno::ENODATA)?),
        }
        Ok(())
    }

    /// Makes a file durable, but for what an earlier sync has dropped.
    pub fn sync(&mut self, inode: u64) -> Result<(), Errno> {
        let file = self.file_mut(inode)?;
        let mut durable = file.current.clone();
        if !file.dropped.is_empty() {
            let bytes = Arc::make_mut(&mut durable.bytes);
            for block in &file.dropped {
                copy_block(&file.durable.bytes, bytes, *block);
            }
        }
        file.durable = durable;
        Ok(())
    }

    /// A sync that failed: what was dirty counts as clean, and never comes to the disk unless it is written again.
    pub fn drop_dirty(&mut self, inode: u64) {
        let Ok(file) = self.file_mut(inode) else { return };
        let blocks = file.current.bytes.len().div_ceil(BLOCK);
        let differs =
            |block: &usize| block_of(&file.current.bytes, *block) != block_of(&file.durable.bytes, *block);
        let dropped: Vec<_> = (0..blocks).filter(differs).collect();
        file.dropped.extend(dropped);
    }

    /// Makes the names in a folder durable.
    pub fn sync_folder(&mut self, inode: u64) -> Result<(), Errno> {
        let names = self.folder(inode)?.current.clone();
        let here: BTreeSet<u64> = names.values().copied().collect();
        self.folder_mut(inode)?.durable = names;
        for (other, node) in &mut self.nodes {
            if let Node::Folder(folder) = node
                && *other != inode
            {
                let current: BTreeSet<u64> = folder.current.values().copied().collect();
                folder.durable.retain(|_, moved| !here.contains(moved) || current.contains(moved));
            }
        }
        Ok(())
    }

    /// Returns the disk as a restart finds it.
    pub fn after(&self, survival: Survival) -> Self {
        let mut numbers = match survival {
            Survival::Everything => return self.clone(),
            Survival::SyncedOnly => Numbers::new(0),
            Survival::NamesWithoutData { seed } | Survival::Torn { seed } => Numbers::new(seed),
        };
        let keeps_names = match survival {
            Survival::Everything | Survival::NamesWithoutData { .. } => true,
            Survival::SyncedOnly => false,
            Survival::Torn { .. } => numbers.below(2) == 0,
        };
        let mut survived = self.clone();
        for node in survived.nodes.values_mut() {
            match node {
                Node::Folder(folder) if keeps_names => folder.durable.clone_from(&folder.current),
                Node::Folder(folder) => folder.current.clone_from(&folder.durable),
                Node::File(file) => {
                    match survival {
                        Survival::NamesWithoutData { .. } if numbers.below(2) == 0 => {
                            let size = file.current.bytes.len();
                            Arc::make_mut(&mut file.durable.bytes).resize(size, 0);
                        }
                        Survival::Torn { .. } => file.tear(&mut numbers),
                        _ => {}
                    }
                    file.current = file.durable.clone();
                    file.dropped.clear();
                }
            }
        }
        survived
    }
}

impl FileNode {
    /// Some of what is not durable becomes it.
    fn tear(&mut self, numbers: &mut Numbers) {
        if Arc::ptr_eq(&self.current.bytes, &self.durable.bytes) {
            return;
        }
        let mut bytes = self.durable.bytes.to_vec();
        if numbers.below(2) == 0 {
            bytes.resize(self.current.bytes.len(), 0);
        }
        for block in 0..bytes.len().div_ceil(BLOCK) {
            if !self.dropped.contains(&block) && numbers.below(2) == 0 {
                copy_block(&self.current.bytes, &mut bytes, block);
            }
        }
        self.durable.bytes = Arc::new(bytes);
    }
}

fn block_of(bytes: &[u8], block: usize) -> &[u8] {
    let start = (block * BLOCK).min(bytes.len());
    &bytes[start..(start + BLOCK).min(bytes.len())]
}

/// Copies one block; what `from` does not have is zeros. The length of `to` stays.
fn copy_block(from: &[u8], to: &mut [u8], block: usize) {
    let from = block_of(from, block);
    let start = (block * BLOCK).min(to.len());
    let end = (start + BLOCK).min(to.len());
    let to = &mut to[start..end];
    let length = from.len().min(to.len());
    to[..length].copy_from_slice(&from[..length]);
    to[length..].fill(0);
}
