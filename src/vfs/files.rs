//! The files inside a backup, as a part of the tree: read-only, as their file system has them.
//!
//! Owners and modes are those inside. Where the kernel checks them, a user who may read the backup could read only
//! what they let him; so others than root are shown the permission to read as well. The folder that the files begin
//! in is another one for root than for others, so that what the kernel remembers of one is not shown to the other.

use std::ffi::OsStr;
use std::hash::{Hash, Hasher};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::attributes::{Attributes, STAT_BLOCK_BYTES};
use super::handles::{OpenImage, Seek};
use super::insides::Disk;
use super::node::Node;
use super::owners::Owner;
use super::viewer::Viewer;
use super::{Vfs, VfsError};
use crate::contents::PartName;
use crate::files::{FileKind, FileMetadata, FilePath, FilePathError, FileTime, FileTree, FilesError};
use crate::types::BackupId;

/// A good read of a file inside a backup.
const BLOCK_BYTES: u32 = 1 << 17;

/// What root is shown stands as it is; others are let in too.
const READ: u16 = 0o444;
const READ_AND_ENTER: u16 = 0o555;

/// Which file system: that of a bare backup, of a partition, or of a logical volume.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FilesPlace {
    pub backup: BackupId,
    pub part: PartName,
}

/// A file, folder or whatever else there is in a file system inside a backup.
#[derive(Debug, Clone)]
pub struct InnerFile {
    pub place: FilesPlace,
    /// Is it shown as root sees it?
    pub as_root: bool,
    /// One of its paths.
    pub path: FilePath,
    pub kind: FileKind,
    /// Its inode's number inside, where there are inodes.
    pub number: Option<u64>,
}

/// Two names of one file are the same file, so that `cp -a`, `tar` and `du` see its hard links. Folders have one path,
/// which leads back to where they are.
impl PartialEq for InnerFile {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for InnerFile {}

impl Hash for InnerFile {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl InnerFile {
    fn identity(&self) -> (&FilesPlace, bool, FileKind, Result<u64, &FilePath>) {
        let number = self.number.filter(|_| self.kind != FileKind::Folder);
        (&self.place, self.as_root, self.kind, number.ok_or(&self.path))
    }

    /// Returns the folder that it is in.
    pub(super) fn parent(&self) -> Node {
        match self.path.split_last() {
            Some((path, _)) => Node::Inner(Self { path, kind: FileKind::Folder, ..self.clone() }),
            None => Node::folder_of_part(Disk::Backup(self.place.backup), &self.place.part),
        }
    }

    fn child(&self, name: &[u8], kind: FileKind, number: Option<u64>) -> Result<Self, VfsError> {
        let path = self.path.join(name).map_err(|error| match error {
            FilePathError::TooLong | FilePathError::NameTooLong => VfsError::NameTooLong,
            FilePathError::Nul | FilePathError::Parent => VfsError::NotFound,
        })?;
        Ok(Self { path, kind, number, ..self.clone() })
    }

    /// Calls `visit` with the entries of the folder from a position on, until it returns `false`.
    pub(super) fn list(
        &self,
        tree: &FileTree,
        position: u64,
        mut visit: impl FnMut(&[u8], &Node, u64) -> bool,
    ) -> Result<(), VfsError> {
        let listed = tree.list(&self.path, position, &mut |entry| {
            // A path that is too long for the kernel leads nowhere.
            let Ok(child) = self.child(&entry.name, entry.kind, entry.number) else {
                return ControlFlow::Continue(());
            };
            let takes_more = visit(&entry.name, &Node::Inner(child), entry.next);
            if takes_more { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        Ok(listed.map_err(reported)?)
    }
}

impl Vfs {
    /// Is what is inside a backup shown to this viewer with its own modes only?
    pub(super) fn sees_as_root(&self, viewer: &Viewer) -> bool {
        !self.checks_permissions || viewer.is_root()
    }

    pub(super) fn inner_child(&self, folder: &InnerFile, name: &OsStr) -> Result<Node, VfsError> {
        if folder.kind != FileKind::Folder {
            return Err(VfsError::NotAFolder);
        }
        let child = folder.child(name.as_bytes(), FileKind::File, None)?;
        let metadata = self.tree(&folder.place)?.metadata(&child.path).map_err(reported)?;
        Ok(Node::Inner(InnerFile { kind: metadata.kind, number: metadata.number, ..child }))
    }

    pub(super) fn inner_attributes(&self, inner: &InnerFile) -> Result<Attributes, VfsError> {
        let of_disk = self.disk_attributes(Disk::Backup(inner.place.backup))?;
        if inner.path.is_root() {
            // Without a look inside: to list a backup starts no process.
            return Ok(super::attributes::folder(0o550, of_disk.owner, of_disk.time));
        }
        let metadata = self.tree(&inner.place)?.metadata(&inner.path).map_err(reported)?;
        Ok(attributes(&metadata, inner.as_root))
    }

    pub(super) fn inner_link_target(&self, inner: &InnerFile) -> Result<Vec<u8>, VfsError> {
        Ok(self.tree(&inner.place)?.read_link(&inner.path).map_err(reported)?)
    }

    pub(super) fn open_inner(&self, inner: &InnerFile) -> Result<OpenInner, VfsError> {
        if inner.kind != FileKind::File {
            return Err(VfsError::NotOpened);
        }
        let tree = self.tree(&inner.place)?;
        let image = self.open_image(inner.place.backup)?;
        let size_bytes = tree.metadata(&inner.path).map_err(reported)?.size_bytes;
        Ok(OpenInner { tree, path: inner.path.clone(), size_bytes, image })
    }
}

fn attributes(metadata: &FileMetadata, as_root: bool) -> Attributes {
    let shown_too = match metadata.kind {
        _ if as_root => 0,
        FileKind::Folder => READ_AND_ENTER,
        _ => READ,
    };
    Attributes {
        kind: metadata.kind.into(),
        size_bytes: metadata.size_bytes,
        blocks: metadata.allocated_bytes.unwrap_or(metadata.size_bytes).div_ceil(STAT_BLOCK_BYTES),
        block_bytes: BLOCK_BYTES,
        mode: metadata.mode | shown_too,
        owner: Owner { uid: metadata.uid, gid: metadata.gid },
        links: metadata.links.unwrap_or(1),
        device: metadata.device.map(|device| (device.major, device.minor)),
        time: time(metadata.modified),
    }
}

/// A time that the kernel cannot take is the beginning.
fn time(time: FileTime) -> SystemTime {
    let since = Duration::new(time.seconds.unsigned_abs(), 0);
    let whole = match time.seconds {
        0.. => SystemTime::UNIX_EPOCH.checked_add(since),
        _ => SystemTime::UNIX_EPOCH.checked_sub(since),
    };
    let exact = whole.and_then(|whole| whole.checked_add(Duration::from_nanos(time.nanoseconds.into())));
    exact.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Tells the operator what is wrong with a file system, which its reader sees as an I/O error.
fn reported(error: FilesError) -> FilesError {
    if error.is_failure() {
        tracing::warn!(%error, "a file inside a backup cannot be read");
    }
    error
}

/// An open file inside a backup.
pub(super) struct OpenInner {
    tree: Arc<FileTree>,
    path: FilePath,
    size_bytes: u64,
    /// Kept open with it: it stays readable when its backup is deleted.
    image: Arc<OpenImage>,
}

impl OpenInner {
    pub(super) fn image(&self) -> &Arc<OpenImage> {
        &self.image
    }

    pub(super) fn read(&self, offset: u64, into: &mut [u8]) -> Result<usize, VfsError> {
        if offset >= self.size_bytes {
            return Ok(0);
        }
        Ok(self.tree.read(&self.path, offset, into).map_err(reported)?)
    }

    /// Holes are not known: all of it is data.
    pub(super) fn seek(&self, offset: u64, seek: Seek) -> Result<u64, VfsError> {
        match seek {
            _ if offset >= self.size_bytes => Err(VfsError::NothingBehind),
            Seek::Data => Ok(offset),
            Seek::Hole => Ok(self.size_bytes),
        }
    }
}
