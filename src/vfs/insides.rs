//! What is inside a disk: partitions as images of their own, and the files in them.
//!
//! A backup's disk never changes, so what was found in it is remembered; a scratch image is looked into each time.

use std::borrow::Cow;
use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::attributes::{Attributes, STAT_BLOCK_BYTES};
use super::documents::Document;
use super::files::FilesPlace;
use super::handles::HandleTable;
use super::node::Node;
use super::{Vfs, VfsError};
use crate::contents::{self, Content, ContentsError, Partition, Table};
use crate::files::{FileSystemKind, FileTree, FileTrees};
use crate::repository::Repository;
use crate::sysio::device::{ReadAt, Window};
use crate::types::{BackupId, ScratchId};

/// Of so many backups it is remembered what is inside.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// So many file systems stay open; processes that read them are fewer.
const TREES: NonZeroUsize = NonZeroUsize::new(64).unwrap();

const TABLE: &str = "table.json";
const FILES_ENDING: &str = ".files";

/// A whole disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Disk {
    Backup(BackupId),
    Scratch(ScratchId),
}

/// What was found in a disk.
pub(super) enum Inside {
    Nothing,
    /// No table: the disk itself is one file system, or whatever else is known of it.
    Whole(Content),
    Partitions(Table, Vec<Option<Content>>),
    /// It has a table that makes no sense.
    BadTable,
}

impl Inside {
    fn partition(&self, number: u32) -> Option<(&Partition, Option<&Content>)> {
        let Self::Partitions(table, found) = self else { return None };
        let at = table.partitions.iter().position(|partition| partition.number == number)?;
        Some((table.partitions.get(at)?, found.get(at)?.as_ref()))
    }

    fn file_system(&self, partition: Option<u32>) -> Option<FileSystemKind> {
        let content = match (partition, self) {
            (None, Self::Whole(content)) => content,
            (Some(number), inside) => inside.partition(number)?.1?,
            _ => return None,
        };
        readable_kind(content)
    }
}

/// Returns how the files of a file system are read; `None` when nothing here can.
fn readable_kind(content: &Content) -> Option<FileSystemKind> {
    match content.kind {
        contents::Kind::Ext2 | contents::Kind::Ext3 | contents::Kind::Ext4 => Some(FileSystemKind::Ext),
        contents::Kind::Xfs => Some(FileSystemKind::Xfs),
        contents::Kind::Fat => Some(FileSystemKind::Fat),
        _ => None,
    }
}

/// What is remembered of disks.
pub(super) struct Insides {
    of_backups: Mutex<LruCache<BackupId, Arc<Inside>>>,
    trees: Mutex<LruCache<FilesPlace, Arc<FileTree>>>,
    file_trees: Arc<FileTrees>,
}

impl Insides {
    pub(super) fn new(file_trees: Arc<FileTrees>) -> Self {
        Self {
            of_backups: Mutex::new(LruCache::new(REMEMBERED)),
            trees: Mutex::new(LruCache::new(TREES)),
            file_trees,
        }
    }
}

impl Vfs {
    fn inside(&self, disk: Disk) -> Arc<Inside> {
        let id = match disk {
            Disk::Backup(id) => id,
            Disk::Scratch(id) => {
                let image = self.scratch_image(id);
                let inside = image.ok().and_then(|image| look_into(image.as_ref(), &disk));
                return Arc::new(inside.unwrap_or(Inside::Nothing));
            }
        };
        if let Some(inside) = lock(&self.insides.of_backups).get(&id) {
            return Arc::clone(inside);
        }
        // What cannot be read now is asked for again.
        let image = self.open_image(id).ok();
        let Some(inside) = image.and_then(|image| look_into(image.image().as_ref(), &disk)) else {
            return Arc::new(Inside::Nothing);
        };
        let inside = Arc::new(inside);
        lock(&self.insides.of_backups).put(id, Arc::clone(&inside));
        inside
    }

    /// Returns what a backup's folder, or a scratch image, has beside the image itself: the folder of its partitions, or of
    /// its files.
    pub(super) fn inside_of_backup(&self, id: BackupId, as_root: bool) -> Vec<(&'static str, Node)> {
        match &*self.inside(Disk::Backup(id)) {
            Inside::Partitions(..) | Inside::BadTable => {
                vec![("partitions", Node::PartitionsFolder(Disk::Backup(id)))]
            }
            inside if inside.file_system(None).is_some() => {
                let place = FilesPlace { backup: id, partition: None };
                vec![("files", Node::files_root(place, as_root))]
            }
            Inside::Nothing | Inside::Whole(_) => Vec::new(),
        }
    }

    pub(super) fn has_partitions(&self, disk: Disk) -> bool {
        matches!(*self.inside(disk), Inside::Partitions(..) | Inside::BadTable)
    }

    pub(super) fn partition_children(&self, disk: Disk, as_root: bool) -> Vec<(String, Node)> {
        let inside = self.inside(disk);
        let Inside::Partitions(table, _) = &*inside else { return Vec::new() };
        let mut children = Vec::new();
        for Partition { number, .. } in &table.partitions {
            children.push((number.to_string(), Node::Partition(disk, *number)));
            if let Disk::Backup(backup) = disk
                && inside.file_system(Some(*number)).is_some()
            {
                let place = FilesPlace { backup, partition: Some(*number) };
                children.push((format!("{number}{FILES_ENDING}"), Node::files_root(place, as_root)));
            }
        }
        children.push((TABLE.to_owned(), Node::PartitionTable(disk)));
        children
    }

    pub(super) fn partition_child(&self, disk: Disk, as_root: bool, name: &str) -> Option<Node> {
        self.partition_children(disk, as_root)
            .into_iter()
            .find(|(child, _)| child == name)
            .map(|(_, node)| node)
    }

    /// Returns where a partition begins in its disk, and how long it is.
    pub(super) fn partition_bounds(&self, disk: Disk, number: u32) -> Result<(u64, u64), VfsError> {
        let inside = self.inside(disk);
        let (partition, _) = inside.partition(number).ok_or(VfsError::NotFound)?;
        Ok((partition.start, partition.length))
    }

    pub(super) fn partition_attributes(&self, disk: Disk, number: u32) -> Result<Attributes, VfsError> {
        let (_, length) = self.partition_bounds(disk, number)?;
        let whole = self.disk_attributes(disk)?;
        // How much of it is allocated would cost a walk over its extents: as much as the disk has, at most.
        let blocks = whole.blocks.min(length.div_ceil(STAT_BLOCK_BYTES));
        Ok(whole.of_part(length, blocks))
    }

    /// Returns the attributes of the image of a disk.
    pub(super) fn disk_attributes(&self, disk: Disk) -> Result<Attributes, VfsError> {
        match disk {
            Disk::Backup(id) => Ok(self.image(self.image_record(id)?.as_ref())),
            Disk::Scratch(id) => self.scratch_attributes(id),
        }
    }

    pub(super) fn partition_table(&self, disk: Disk) -> Result<Document, VfsError> {
        let inside = self.inside(disk);
        let Inside::Partitions(table, found) = &*inside else { return Err(VfsError::NotFound) };
        let text = contents::table_json(table, found);
        let of_disk = self.disk_attributes(disk)?;
        Ok(Document { text: Cow::Owned(text), mode: 0o440, owner: of_disk.owner, time: of_disk.time })
    }

    /// Opens the file system that is at a place.
    pub(super) fn tree(&self, place: FilesPlace) -> Result<Arc<FileTree>, VfsError> {
        if let Some(tree) = lock(&self.insides.trees).get(&place) {
            return Ok(Arc::clone(tree));
        }
        let disk = Disk::Backup(place.backup);
        let kind = self.inside(disk).file_system(place.partition).ok_or(VfsError::NotFound)?;
        let device = BackupDevice {
            repository: Arc::clone(&self.repository),
            handles: Arc::clone(&self.handles),
            backup: place.backup,
            size_bytes: self.image_record(place.backup)?.size_bytes,
        };
        let device: Arc<dyn ReadAt> = match place.partition {
            None => Arc::new(device),
            Some(number) => {
                let (start, length) = self.partition_bounds(disk, number)?;
                Arc::new(Window::new(device, start, length))
            }
        };
        let tree = self.insides.file_trees.open(device, kind);
        let mut trees = lock(&self.insides.trees);
        // Somebody else may have been faster.
        let tree = Arc::clone(trees.get_or_insert(place, || tree));
        Ok(tree)
    }
}

/// A backup's disk, opened anew for each read: a file system that stays open must not keep the manifests of a backup
/// that is deleted. As long as a file of it is open, the image is too.
struct BackupDevice {
    repository: Arc<Repository>,
    handles: Arc<HandleTable>,
    backup: BackupId,
    size_bytes: u64,
}

impl ReadAt for BackupDevice {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        if let Some(open) = self.handles.image(self.backup) {
            return open.image().read_exact_at(offset, into);
        }
        self.repository.image(self.backup).map_err(io::Error::other)?.read_exact_at(offset, into)
    }
}

/// Looks into a disk; `None` when it cannot be read. What makes no sense is told of once here; the rest of the tree goes on.
fn look_into(device: &dyn ReadAt, disk: &Disk) -> Option<Inside> {
    let unreadable = |error: &io::Error| tracing::warn!(?disk, %error, "what is inside cannot be read");
    match contents::partitions(device) {
        Ok(Some(table)) => {
            for remark in &table.remarks {
                tracing::warn!(?disk, remark, "a partition is not as its table says");
            }
            let found = contents::identify_all(device, &table);
            Some(Inside::Partitions(table, found))
        }
        Ok(None) => match contents::identify(device) {
            Ok(found) => Some(found.map_or(Inside::Nothing, Inside::Whole)),
            Err(error) => {
                unreadable(&error);
                None
            }
        },
        Err(ContentsError::Io(error)) => {
            unreadable(&error);
            None
        }
        Err(error @ ContentsError::Malformed { .. }) => {
            tracing::warn!(?disk, %error, "the partition table cannot be read, so there are no partitions");
            Some(Inside::BadTable)
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
