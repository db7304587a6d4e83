//! The tree without a kernel: nodes, attributes, handles. Shows what the catalog, the sources and the jobs are at
//! the moment, and changes nothing but by the commands that are written to control files.
//!
//! Callers name things as the kernel does: by inode, which [`Vfs::lookup`] makes known and [`Vfs::forget`] gives back,
//! and by the handle of something open. A new file or folder of the tree is one variant of [`Node`] and what the
//! compiler then asks for.

mod attributes;
mod control_file;
mod documents;
mod error;
mod files;
mod handles;
mod health;
mod holders;
mod inodes;
mod inquiry;
mod insides;
mod links;
mod listing;
mod metrics;
mod names;
mod node;
mod owners;
mod quotas;
mod scratch;
mod tree;
mod viewer;
mod volumes;

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

pub use attributes::Attributes;
pub use control_file::{CONTROL_FILES, Caller, CommandOutcome, CommandRunner, Execution, Written};
pub use error::VfsError;
pub use handles::Seek;
pub use inodes::ROOT_INODE;
pub use listing::ListedEntry;
pub use node::{Node, NodeKind};
pub use owners::Owner;
pub use quotas::UseCounter;
pub use volumes::ListingTimes;

use crate::catalog::{BackupRecord, Project};
use crate::files::{FileTrees, FilesError};
use crate::jobs::{EventLog, JobQueue};
use crate::operations::Operations;
use crate::repository::{Repository, RepositoryError};
use crate::scratch::ScratchImages;
use crate::source::Sources;
use crate::sysio::clock;
use crate::types::{BackupId, ByteRange, Timestamp};
use control_file::{ControlFiles, OpenControl};
use handles::{HandleTable, Open, OpenImage, OpenPart};
use health::HealthMemory;
use inodes::InodeTable;
use insides::{Disk, Insides};
use listing::OpenFolder;
use owners::Owners;
use quotas::Quotas;
use viewer::Viewer;
use volumes::VolumeListings;

/// What a tree shows.
pub struct VfsParts {
    pub repository: Arc<Repository>,
    pub scratch: Arc<ScratchImages>,
    pub sources: Sources,
    pub jobs: Arc<JobQueue>,
    pub events: Arc<EventLog>,
    pub projects: Vec<Project>,
    pub quotas: Arc<dyn UseCounter>,
    /// Who owns what belongs to no project.
    pub operator: Owner,
    /// The group that may write commands.
    pub control_group: u32,
    pub runner: Arc<dyn CommandRunner>,
    pub listing_times: ListingTimes,
    /// Reads the files inside backups.
    pub file_trees: Arc<FileTrees>,
    /// Does the kernel check owners and modes? Where it does, others than root are to be let in to what is inside a
    /// backup that they may read.
    pub checks_permissions: bool,
}

impl VfsParts {
    /// Takes the parts from the operations that the commands run; the operator is who runs this process, and the control
    /// files are his group's.
    pub fn new(
        operations: &Arc<Operations>,
        events: Arc<EventLog>,
        runner: Arc<dyn CommandRunner>,
        file_trees: Arc<FileTrees>,
    ) -> Self {
        let operator =
            Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
        let quotas: Arc<dyn UseCounter> = operations.clone();
        Self {
            repository: Arc::clone(operations.repository()),
            scratch: Arc::clone(operations.scratch()),
            sources: operations.sources().clone(),
            jobs: Arc::clone(operations.jobs()),
            events,
            projects: operations.projects().to_vec(),
            quotas,
            operator,
            control_group: operator.gid,
            runner,
            listing_times: ListingTimes::default(),
            file_trees,
            checks_permissions: false,
        }
    }
}

pub struct Vfs {
    repository: Arc<Repository>,
    scratch: Arc<ScratchImages>,
    jobs: Arc<JobQueue>,
    events: Arc<EventLog>,
    volumes: VolumeListings,
    quotas: Quotas,
    health: HealthMemory,
    owners: Owners,
    control_group: u32,
    control_files: Arc<ControlFiles>,
    inodes: InodeTable,
    handles: Arc<HandleTable>,
    insides: Insides,
    checks_permissions: bool,
    started_at: Timestamp,
}

/// What a name leads to.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    pub inode: u64,
    pub attributes: Attributes,
    pub name_cached_for: Duration,
    pub attributes_cached_for: Duration,
}

/// What somebody wants to open a file for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// What somebody wants of a range of a file, other than its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocation {
    /// That it reads as zeros, its space given back.
    Zero,
    /// That there is room for it.
    Reserve,
}

/// How the kernel may keep what it reads from a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caching {
    /// For good: it never changes.
    Keep,
    /// Not at all: every read asks, and the end is where a read gets nothing.
    Direct,
}

#[derive(Debug, Clone, Copy)]
pub struct Opened {
    pub handle: u64,
    pub caching: Caching,
}

impl Vfs {
    pub fn new(parts: VfsParts) -> Arc<Self> {
        Arc::new(Self {
            health: HealthMemory::new(&parts.repository, parts.listing_times.deadline),
            repository: parts.repository,
            scratch: parts.scratch,
            jobs: parts.jobs,
            events: parts.events,
            volumes: VolumeListings::new(&parts.sources, parts.listing_times),
            quotas: Quotas::new(&parts.projects, parts.quotas, parts.listing_times),
            owners: Owners::new(parts.operator, &parts.projects),
            control_group: parts.control_group,
            control_files: Arc::new(ControlFiles::new(parts.runner)),
            inodes: InodeTable::new(),
            handles: Arc::new(HandleTable::new()),
            insides: Insides::new(parts.file_trees),
            checks_permissions: parts.checks_permissions,
            started_at: clock::now(),
        })
    }

    /// Finds a name in a folder, as far as the caller may know of it, and makes its inode known: to be given back with
    /// [`forget`](Self::forget).
    pub fn lookup(&self, caller: Caller, folder: u64, name: &OsStr) -> Result<Entry, VfsError> {
        let folder = self.inodes.node(folder)?;
        let node = self.child_of(&self.viewer(caller), &folder, name)?;
        self.known_entry(&node)
    }

    fn viewer(&self, caller: Caller) -> Viewer {
        Viewer::new(caller, self.owners.operator)
    }

    fn known_entry(&self, node: &Node) -> Result<Entry, VfsError> {
        let attributes = self.attributes_of(node)?;
        Ok(Entry {
            inode: self.inodes.remember(node.clone()),
            attributes,
            name_cached_for: self.name_cached_for(node),
            attributes_cached_for: node.attributes_cached_for(),
        })
    }

    /// Of what nothing but its kind is known: the kernel is to remember nothing of it.
    fn unknown_entry(&self, node: &Node) -> Entry {
        Entry {
            inode: self.inodes.remember(node.clone()),
            attributes: Attributes::unknown(node.kind(), self.owners.operator),
            name_cached_for: Duration::ZERO,
            attributes_cached_for: Duration::ZERO,
        }
    }

    fn name_cached_for(&self, node: &Node) -> Duration {
        if self.depends_on_viewer(node) { Duration::ZERO } else { node.name_cached_for() }
    }

    /// Takes back that many lookups of an inode.
    pub fn forget(&self, inode: u64, lookups: u64) {
        self.inodes.forget(inode, lookups);
    }

    /// Returns the attributes of an inode, and for how long they hold.
    pub fn attributes(&self, inode: u64) -> Result<(Attributes, Duration), VfsError> {
        let node = self.inodes.node(inode)?;
        Ok((self.attributes_of(&node)?, node.attributes_cached_for()))
    }

    /// Says whether a file can be written to, by anybody: only control files and scratch images can.
    pub fn check_writable(&self, inode: u64) -> Result<(), VfsError> {
        match *self.inodes.node(inode)? {
            Node::Control(_) | Node::Scratch(_) | Node::Part(Disk::Scratch(_), _) => Ok(()),
            _ => Err(VfsError::ReadOnly),
        }
    }

    pub fn link_target(&self, inode: u64) -> Result<Vec<u8>, VfsError> {
        self.link_target_of(&*self.inodes.node(inode)?)
    }

    /// Opens a file, for the user who will find his last answer in it when it is a control file.
    pub fn open(&self, inode: u64, access: Access, uid: u32) -> Result<Opened, VfsError> {
        let node = self.inodes.node(inode)?;
        if node.kind() == NodeKind::Folder {
            return Err(VfsError::IsAFolder);
        }
        if access == Access::Write {
            self.check_writable(inode)?;
        }
        let (open, caching) = match *node {
            Node::Control(file) => {
                let open = OpenControl::new(file, uid, Arc::clone(&self.control_files));
                (Open::Control(Arc::new(open)), Caching::Direct)
            }
            Node::Image(id) => (Open::Image(self.open_image(id)?), Caching::Keep),
            Node::Scratch(id) => {
                (Open::Scratch(Arc::new(self.open_scratch(id, None, access)?)), Caching::Direct)
            }
            Node::Part(Disk::Scratch(id), ref part) => {
                let place = self.place(Disk::Scratch(id), part)?;
                (Open::Scratch(Arc::new(self.open_scratch(id, Some(place), access)?)), Caching::Direct)
            }
            Node::Part(Disk::Backup(id), ref part) => {
                let place = self.place(Disk::Backup(id), part)?;
                (Open::Part(Arc::new(OpenPart::new(self.open_image(id)?, &place))), Caching::Keep)
            }
            Node::Inner(ref inner) => (Open::Inner(Arc::new(self.open_inner(inner)?)), Caching::Keep),
            Node::Events => (Open::Events(Arc::new(self.events.reader())), Caching::Direct),
            ref text => {
                let caching = if *text == Node::Readme { Caching::Keep } else { Caching::Direct };
                (Open::Text(self.document(text)?.text.into()), caching)
            }
        };
        Ok(Opened { handle: self.handles.insert(open), caching })
    }

    /// Opens a folder, to be listed; it lists what the caller may know of.
    pub fn open_folder(&self, caller: Caller, inode: u64) -> Result<u64, VfsError> {
        let node = self.inodes.node(inode)?;
        if node.kind() != NodeKind::Folder {
            return Err(VfsError::NotAFolder);
        }
        let folder = OpenFolder::new(node, self.viewer(caller).settled());
        Ok(self.handles.insert(Open::Folder(Arc::new(folder))))
    }

    /// Removes a name from a folder: only scratch images can be removed, by whom they belong to.
    pub fn remove(&self, caller: Caller, folder: u64, name: &str) -> Result<(), VfsError> {
        match *self.inodes.node(folder)? {
            Node::ScratchFolder => self.remove_scratch(caller, name),
            _ => Err(VfsError::ReadOnly),
        }
    }

    /// Says whether requests about this inode may take long: the files inside a backup are read by a process of their own,
    /// which a hostile image can keep busy.
    pub fn may_take_long(&self, inode: u64) -> bool {
        self.inodes.node(inode).is_ok_and(|node| matches!(*node, Node::Inner(_)))
    }

    pub fn close(&self, handle: u64) {
        self.handles.close(handle);
    }

    /// Fills `into` from an offset and returns how many bytes there are before the end.
    pub fn read(&self, handle: u64, offset: u64, into: &mut [u8]) -> Result<usize, VfsError> {
        self.handles.get(handle)?.read(handle, offset, into)
    }

    /// Returns the next offset of data, or of a hole, at or behind an offset; the end is a hole.
    pub fn seek(&self, handle: u64, offset: u64, seek: Seek) -> Result<u64, VfsError> {
        self.handles.get(handle)?.seek(handle, offset, seek)
    }

    /// Takes what is written to a control file.
    pub fn write(&self, handle: u64, caller: Caller, offset: u64, bytes: &[u8]) -> Result<Written, VfsError> {
        match self.handles.get(handle)? {
            Open::Control(control) => control.write(caller, offset, bytes),
            Open::Scratch(scratch) => scratch.write(offset, bytes).map(|()| Written::Stored),
            Open::Image(_)
            | Open::Part(_)
            | Open::Inner(_)
            | Open::Text(_)
            | Open::Events(_)
            | Open::Folder(_) => Err(VfsError::ReadOnly),
        }
    }

    /// Makes a range of an open file read as zeros, or sees that there is room for it.
    pub fn allocate(
        &self,
        handle: u64,
        range: ByteRange,
        allocation: Option<Allocation>,
    ) -> Result<(), VfsError> {
        match (self.handles.get(handle)?, allocation) {
            (Open::Scratch(scratch), Some(allocation)) => scratch.allocate(range, allocation),
            _ => Err(VfsError::NotSupported),
        }
    }

    /// Refuses a size that a file cannot get. An empty one is what `>` asks for before it writes, and means nothing
    /// here, as on a block device.
    pub fn check_size(&self, inode: u64, wanted: Option<u64>) -> Result<(), VfsError> {
        let node = self.inodes.node(inode)?;
        if !matches!(*node, Node::Scratch(_) | Node::Part(..)) {
            return Ok(());
        }
        match wanted {
            None | Some(0) => Ok(()),
            Some(size) if size == self.attributes_of(&node)?.size_bytes => Ok(()),
            Some(_) => Err(VfsError::FixedSize),
        }
    }

    /// Is there anything that could be made durable?
    pub fn wants_sync(&self, handle: u64) -> bool {
        matches!(self.handles.get(handle), Ok(Open::Scratch(_)))
    }

    /// Makes durable what was written to an open file. May take as long as the disk takes.
    pub fn sync(&self, handle: u64) -> Result<(), VfsError> {
        match self.handles.get(handle)? {
            Open::Scratch(scratch) => scratch.sync(),
            _ => Ok(()),
        }
    }

    /// Returns the commands that are left to be run when a file is closed.
    pub fn flush(&self, handle: u64, caller: Caller) -> Option<Execution> {
        match self.handles.get(handle) {
            Ok(Open::Control(control)) => control.close(caller),
            _ => None,
        }
    }

    /// Calls `visit` with an open folder's entries from a position on, each with its inode's number, until it returns
    /// `false`, which says that this one is to come again.
    pub fn list(
        &self,
        handle: u64,
        position: u64,
        mut visit: impl FnMut(ListedEntry<'_>, u64) -> bool,
    ) -> Result<(), VfsError> {
        self.folder(handle)?.list(self, position, |entry| {
            let inode = self.inodes.number(entry.node);
            visit(entry, inode)
        })
    }

    /// Lists as [`list`](Self::list) does and looks up each entry that `visit` takes.
    pub fn list_with_attributes(
        &self,
        handle: u64,
        position: u64,
        mut visit: impl FnMut(ListedEntry<'_>, Entry) -> bool,
    ) -> Result<(), VfsError> {
        self.folder(handle)?.list(self, position, |listed| {
            let entry = match self.known_entry(listed.node) {
                Ok(entry) => entry,
                // Gone since the snapshot: left out.
                Err(VfsError::NotFound | VfsError::Inner(FilesError::NotFound { .. })) => return true,
                // It is there, and who asks for it by its name hears what is wrong with it.
                Err(_) => self.unknown_entry(listed.node),
            };
            // The kernel counts no lookup of the folder itself and the one above it.
            let is_dots = listed.name == "." || listed.name == "..";
            let taken = visit(listed, entry);
            if !taken || is_dots {
                self.forget(entry.inode, 1);
            }
            taken
        })
    }

    fn folder(&self, handle: u64) -> Result<Arc<OpenFolder>, VfsError> {
        match self.handles.get(handle)? {
            Open::Folder(folder) => Ok(folder),
            _ => Err(VfsError::BadHandle { handle }),
        }
    }

    fn record(&self, id: BackupId) -> Result<Arc<BackupRecord>, VfsError> {
        self.repository.catalog().get(id).ok_or(VfsError::NotFound)
    }

    /// Returns the record of a backup whose image is in the tree, or still open somewhere.
    fn image_record(&self, id: BackupId) -> Result<Arc<BackupRecord>, VfsError> {
        match self.record(id) {
            Ok(record) if record.has_image() => Ok(record),
            _ => self.handles.image(id).map(|open| Arc::clone(&open.record)).ok_or(VfsError::NotFound),
        }
    }

    /// Another process that writes may have flattened the backup, and does not keep the manifests that it had for us.
    fn is_still_its_image(&self, id: BackupId, open: &OpenImage) -> bool {
        let has_another = || self.repository.image(id).is_ok_and(|now| !Arc::ptr_eq(&now, open.image()));
        !self.repository.is_read_only() || !has_another()
    }

    fn open_image(&self, id: BackupId) -> Result<Arc<OpenImage>, VfsError> {
        if let Some(open) = self.handles.image(id).filter(|open| self.is_still_its_image(id, open)) {
            return Ok(open);
        }
        let record = self.image_record(id)?;
        match self.repository.image(id) {
            Ok(image) => Ok(Arc::new(OpenImage::new(record, image))),
            Err(source) if self.record(id).is_ok() => Err(open_error(id, source)),
            // Deleted meanwhile.
            Err(_) => Err(VfsError::NotFound),
        }
    }
}

fn open_error(id: BackupId, source: RepositoryError) -> VfsError {
    tracing::error!(backup = %id, %source, "an image cannot be opened");
    VfsError::Open { id, source }
}
