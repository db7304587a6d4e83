//! What is inside a disk: partitions and logical volumes as images of their own, and the files in them.
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
use crate::contents::{self, Content, ContentsError, DiskContents, PartName, Partition, Place};
use crate::files::{FileSystemKind, FileTree, FileTrees};
use crate::repository::Repository;
use crate::sysio::device::ReadAt;
use crate::types::{BackupId, ScratchId};

/// Of so many backups it is remembered what is inside.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// What takes more memory than this, as only LVM metadata of many thousand segments do, is looked for each time.
const WEIGHT_BYTES_MAX: usize = 64 << 10;

/// So many file systems stay open; processes that read them are fewer.
const TREES: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// So many lines a disk gets in the log.
const REMARKS_MAX: usize = 20;

const TABLE: &str = "table.json";
const FILES_ENDING: &str = ".files";
const GROUP_ENDING: &str = ".lvm";

/// A whole disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Disk {
    Backup(BackupId),
    Scratch(ScratchId),
}

/// What was found in a disk.
pub(super) enum Inside {
    /// It cannot be read.
    Nothing,
    Contents(DiskContents),
    /// It has a table that makes no sense.
    BadTable,
}

impl Inside {
    fn contents(&self) -> Option<&DiskContents> {
        match self {
            Self::Contents(contents) => Some(contents),
            Self::Nothing | Self::BadTable => None,
        }
    }

    fn has_partitions(&self) -> bool {
        match self {
            Self::Nothing => false,
            Self::Contents(contents) => contents.table.is_some(),
            Self::BadTable => true,
        }
    }

    /// Is the disk itself, or the partition, a physical volume whose group can be read?
    fn has_group(&self, partition: Option<u32>) -> bool {
        self.contents().is_some_and(|contents| contents.logical_volumes(partition).is_some())
    }

    fn file_system(&self, part: &PartName) -> Option<FileSystemKind> {
        readable_kind(self.contents()?.content(part)?)
    }

    fn weight_bytes(&self) -> usize {
        self.contents().map_or(0, DiskContents::weight_bytes)
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
    /// With the number of writes to the scratch image before the look.
    of_scratch: Mutex<LruCache<ScratchId, (u64, Arc<Inside>)>>,
    trees: Mutex<LruCache<FilesPlace, Arc<FileTree>>>,
    file_trees: Arc<FileTrees>,
}

impl Insides {
    pub(super) fn new(file_trees: Arc<FileTrees>) -> Self {
        Self {
            of_backups: Mutex::new(LruCache::new(REMEMBERED)),
            of_scratch: Mutex::new(LruCache::new(REMEMBERED)),
            trees: Mutex::new(LruCache::new(TREES)),
            file_trees,
        }
    }
}

impl Vfs {
    fn inside(&self, disk: Disk) -> Arc<Inside> {
        let id = match disk {
            Disk::Backup(id) => id,
            Disk::Scratch(id) => return self.inside_scratch(id),
        };
        if let Some(inside) = lock(&self.insides.of_backups).get(&id) {
            return Arc::clone(inside);
        }
        // What cannot be read now is asked for again.
        let Ok(image) = self.open_image(id) else { return Arc::new(Inside::Nothing) };
        let inside = Arc::new(look_into(image.image().as_ref(), &disk, true));
        let is_read = !matches!(*inside, Inside::Nothing);
        if is_read && inside.weight_bytes() <= WEIGHT_BYTES_MAX {
            lock(&self.insides.of_backups).put(id, Arc::clone(&inside));
        }
        inside
    }

    /// Looks again when somebody has written since. What makes no sense is told of at the first look only: the rest is
    /// the writer's own doing.
    fn inside_scratch(&self, id: ScratchId) -> Arc<Inside> {
        let Ok(image) = self.scratch_image(id) else { return Arc::new(Inside::Nothing) };
        let writes = image.writes();
        let known = lock(&self.insides.of_scratch).get(&id).cloned();
        let is_first = known.is_none();
        if let Some((at, inside)) = known
            && at == writes
        {
            return inside;
        }
        let inside = Arc::new(look_into(image.as_ref(), &Disk::Scratch(id), is_first));
        if inside.weight_bytes() <= WEIGHT_BYTES_MAX {
            lock(&self.insides.of_scratch).put(id, (writes, Arc::clone(&inside)));
        }
        inside
    }

    /// Returns what a backup's folder has beside the image itself: the folder of its partitions, or of its files, or of its
    /// logical volumes.
    pub(super) fn inside_of_backup(&self, backup: BackupId, as_root: bool) -> Vec<(&'static str, Node)> {
        let disk = Disk::Backup(backup);
        let inside = self.inside(disk);
        let mut children = Vec::new();
        if inside.has_partitions() {
            children.push(("partitions", Node::PartitionsFolder(disk)));
        }
        if inside.has_group(None) {
            children.push(("lvm", Node::GroupFolder(disk, None)));
        }
        let part = PartName::default();
        if inside.file_system(&part).is_some() {
            children.push(("files", Node::files_root(FilesPlace { backup, part }, as_root)));
        }
        children
    }

    pub(super) fn has_partitions(&self, disk: Disk) -> bool {
        self.inside(disk).has_partitions()
    }

    pub(super) fn has_group(&self, disk: Disk, partition: Option<u32>) -> bool {
        self.inside(disk).has_group(partition)
    }

    pub(super) fn partition_children(&self, disk: Disk, as_root: bool) -> Vec<(String, Node)> {
        let inside = self.inside(disk);
        let table = inside.contents().and_then(|contents| contents.table.as_ref());
        let Some(table) = table else { return Vec::new() };
        let mut children = Vec::new();
        for Partition { number, .. } in &table.partitions {
            children.extend(part_children(&inside, disk, PartName::partition(*number), as_root));
            if inside.has_group(Some(*number)) {
                children.push((format!("{number}{GROUP_ENDING}"), Node::GroupFolder(disk, Some(*number))));
            }
        }
        children.push((TABLE.to_owned(), Node::PartitionTable(disk)));
        children
    }

    /// Returns what is in the folder of the logical volumes of a partition, or of the disk itself.
    pub(super) fn group_children(
        &self,
        disk: Disk,
        partition: Option<u32>,
        as_root: bool,
    ) -> Vec<(String, Node)> {
        let inside = self.inside(disk);
        let names = inside.contents().and_then(|contents| contents.logical_volumes(partition));
        let Some(names) = names else { return Vec::new() };
        let volumes = names.into_iter().flat_map(|name| {
            part_children(&inside, disk, PartName::logical_volume(partition, name), as_root)
        });
        volumes.chain([(TABLE.to_owned(), Node::GroupTable(disk, partition))]).collect()
    }

    /// Returns where a part lies in its disk.
    pub(super) fn place(&self, disk: Disk, part: &PartName) -> Result<Place, VfsError> {
        let inside = self.inside(disk);
        inside.contents().and_then(|contents| contents.place(part)).ok_or(VfsError::NotFound)
    }

    pub(super) fn part_attributes(&self, disk: Disk, part: &PartName) -> Result<Attributes, VfsError> {
        let length = self.place(disk, part)?.size_bytes();
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
        let text = self.inside(disk).contents().and_then(DiskContents::table_json);
        self.table_document(disk, text)
    }

    pub(super) fn group_table(&self, disk: Disk, partition: Option<u32>) -> Result<Document, VfsError> {
        let text = self.inside(disk).contents().and_then(|contents| contents.group_json(partition));
        self.table_document(disk, text)
    }

    fn table_document(&self, disk: Disk, text: Option<String>) -> Result<Document, VfsError> {
        let text = Cow::Owned(text.ok_or(VfsError::NotFound)?);
        let of_disk = self.disk_attributes(disk)?;
        Ok(Document { text, mode: 0o440, owner: of_disk.owner, time: of_disk.time })
    }

    /// Opens the file system that is at a place.
    pub(super) fn tree(&self, place: &FilesPlace) -> Result<Arc<FileTree>, VfsError> {
        if let Some(tree) = lock(&self.insides.trees).get(place) {
            return Ok(Arc::clone(tree));
        }
        let disk = Disk::Backup(place.backup);
        let kind = self.inside(disk).file_system(&place.part).ok_or(VfsError::NotFound)?;
        let device = BackupDevice {
            repository: Arc::clone(&self.repository),
            handles: Arc::clone(&self.handles),
            backup: place.backup,
            size_bytes: self.image_record(place.backup)?.size_bytes,
        };
        let device = self.place(disk, &place.part)?.of(device);
        let tree = self.insides.file_trees.open(Arc::new(device), kind);
        let mut trees = lock(&self.insides.trees);
        // Somebody else may have been faster.
        let tree = Arc::clone(trees.get_or_insert(place.clone(), || tree));
        Ok(tree)
    }
}

/// Returns the image of a part and, in a backup, the folder of its files.
fn part_children(inside: &Inside, disk: Disk, part: PartName, as_root: bool) -> Vec<(String, Node)> {
    let name = match (&part.logical_volume, part.partition) {
        (Some(name), _) => name.to_string(),
        (None, number) => number.unwrap_or_default().to_string(),
    };
    let mut children = vec![(name.clone(), Node::Part(disk, part.clone()))];
    if let Disk::Backup(backup) = disk
        && inside.file_system(&part).is_some()
    {
        let files = Node::files_root(FilesPlace { backup, part }, as_root);
        children.push((format!("{name}{FILES_ENDING}"), files));
    }
    children
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

/// Looks into a disk. What makes no sense is told of here, if it is to be; the rest of the tree goes on.
fn look_into(device: &dyn ReadAt, disk: &Disk, tells: bool) -> Inside {
    match contents::look_into(device) {
        Ok(contents) => {
            for remark in contents.remarks().into_iter().take(if tells { REMARKS_MAX } else { 0 }) {
                tracing::warn!(?disk, remark, "what is inside is not as it should be");
            }
            Inside::Contents(contents)
        }
        Err(error @ ContentsError::Io(_)) => {
            tracing::warn!(?disk, %error, "what is inside cannot be read");
            Inside::Nothing
        }
        Err(error) => {
            if tells {
                tracing::warn!(?disk, %error, "the partition table cannot be read, so there are no partitions");
            }
            Inside::BadTable
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
