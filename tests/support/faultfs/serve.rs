//! The kernel's requests, answered from the disk in memory.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::disk::Stat;
use super::{Shared, StepKind, Way};

/// The kernel asks for everything each time.
const NO_TIME: Duration = Duration::ZERO;

/// Folders as they were when they were opened.
#[derive(Default)]
pub(super) struct Listings {
    by_handle: BTreeMap<u64, Vec<(OsString, u64, bool)>>,
    last: u64,
}

pub(super) struct Server {
    shared: Arc<Mutex<Shared>>,
}

impl Server {
    pub(super) fn new(shared: Arc<Mutex<Shared>>) -> Self {
        Self { shared }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at something, unless it is over.
    fn look<T>(&self, look: impl FnOnce(&Shared) -> Result<T, Errno>) -> Result<T, Errno> {
        let shared = self.lock();
        shared.alive()?;
        look(&shared)
    }

    /// A step that is done or not done.
    fn change<T>(
        &self,
        kind: StepKind,
        what: impl FnOnce(&Shared) -> String,
        change: impl FnOnce(&mut Shared) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let mut shared = self.lock();
        let what = what(&shared);
        match shared.step(kind, what)? {
            Way::Whole => change(&mut shared),
            Way::HalfThen(error) => Err(error),
            Way::DropDirty => Err(Errno::EIO),
        }
    }
}

fn name_in(shared: &Shared, folder: INodeNo, name: &OsStr) -> String {
    format!("{}/{}", shared.disk.path(folder.0), name.to_string_lossy())
}

fn attributes(stat: &Stat) -> FileAttr {
    FileAttr {
        ino: INodeNo(stat.inode),
        size: stat.size,
        blocks: stat.size.div_ceil(512),
        atime: stat.changed,
        mtime: stat.changed,
        ctime: stat.changed,
        crtime: stat.changed,
        kind: if stat.is_folder { FileType::Directory } else { FileType::RegularFile },
        perm: (stat.mode & 0o7777) as u16,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn reply_entry(reply: ReplyEntry, stat: Result<Stat, Errno>) {
    match stat {
        Ok(stat) => reply.entry(&NO_TIME, &attributes(&stat), Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn reply_empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Server {
    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        reply_entry(reply, self.look(|shared| shared.disk.stat(shared.disk.lookup(parent.0, name)?)));
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.look(|shared| shared.disk.stat(inode.0)) {
            Ok(stat) => reply.attr(&NO_TIME, &attributes(&stat)),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let sized = size.map_or(Ok(()), |size| {
            let what = |shared: &Shared| format!("set size {size} {}", shared.disk.path(inode.0));
            self.change(StepKind::SetSize, what, |shared| shared.disk.set_size(inode.0, size))
        });
        let stat = sized.and_then(|()| {
            self.lock().alive()?;
            if let Some(mode) = mode {
                self.lock().disk.set_mode(inode.0, mode);
            }
            self.look(|shared| shared.disk.stat(inode.0))
        });
        match stat {
            Ok(stat) => reply.attr(&NO_TIME, &attributes(&stat)),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let what = |shared: &Shared| format!("make folder {}", name_in(shared, parent, name));
        let made = self.change(StepKind::MakeFolder, what, |shared| {
            let inode = shared.disk.make_folder(parent.0, name, mode & !umask)?;
            shared.disk.stat(inode)
        });
        reply_entry(reply, made);
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let what = |shared: &Shared| format!("remove {}", name_in(shared, parent, name));
        let removed = self.change(StepKind::Remove, what, |shared| shared.disk.unlink(parent.0, name));
        reply_empty(reply, removed);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let what = |shared: &Shared| format!("remove folder {}", name_in(shared, parent, name));
        let removed = self.change(StepKind::Remove, what, |shared| shared.disk.remove_folder(parent.0, name));
        reply_empty(reply, removed);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let what = |shared: &Shared| {
            let (from, to) = (name_in(shared, parent, name), name_in(shared, new_parent, new_name));
            format!("rename {from} {to} ({flags})")
        };
        let renamed = self.change(StepKind::Rename, what, |shared| {
            let (from, to) = ((parent.0, name), (new_parent.0, new_name));
            if flags.contains(RenameFlags::RENAME_EXCHANGE) {
                return shared.disk.exchange(from, to);
            }
            if flags.contains(RenameFlags::RENAME_NOREPLACE) && shared.disk.lookup(to.0, to.1).is_ok() {
                return Err(Errno::EEXIST);
            }
            shared.disk.rename(from, to)
        });
        reply_empty(reply, renamed);
    }

    fn open(&self, _request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.look(|shared| shared.disk.stat(inode.0)) {
            Ok(_) => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let what = |shared: &Shared| format!("create {}", name_in(shared, parent, name));
        let created = self.change(StepKind::Create, what, |shared| {
            let inode = shared.disk.create(parent.0, name, mode & !umask)?;
            shared.disk.stat(inode)
        });
        match created {
            Ok(stat) => {
                let (attributes, flags) = (attributes(&stat), FopenFlags::FOPEN_DIRECT_IO);
                reply.created(&NO_TIME, &attributes, Generation(0), FileHandle(0), flags);
            }
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.look(|shared| shared.disk.read(inode.0, offset, size as usize)) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        bytes: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut shared = self.lock();
        let what = format!("write {offset}+{} {}", bytes.len(), shared.disk.path(inode.0));
        let written = shared.step(StepKind::Write, what).and_then(|way| match way {
            Way::HalfThen(error) => {
                shared.disk.write(inode.0, offset, &bytes[..bytes.len() / 2])?;
                Err(error)
            }
            Way::Whole | Way::DropDirty => shared.disk.write(inode.0, offset, bytes),
        });
        match written {
            Ok(()) => reply.written(bytes.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    fn fsync(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        let mut shared = self.lock();
        let what = format!("sync {}", shared.disk.path(inode.0));
        let synced = shared.step(StepKind::Sync, what).and_then(|way| match way {
            Way::Whole => shared.disk.sync(inode.0),
            Way::DropDirty | Way::HalfThen(_) => {
                shared.disk.drop_dirty(inode.0);
                Err(Errno::EIO)
            }
        });
        reply_empty(reply, synced);
    }

    fn opendir(&self, _request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.look(|shared| shared.disk.list(inode.0)) {
            Ok(entries) => {
                let listings = &mut self.lock().listings;
                listings.last += 1;
                let handle = listings.last;
                listings.by_handle.insert(handle, entries);
                reply.opened(FileHandle(handle), FopenFlags::empty());
            }
            Err(error) => reply.error(error),
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let shared = self.lock();
        if let Err(error) = shared.alive() {
            return reply.error(error);
        }
        let entries = shared.listings.by_handle.get(&handle.0).cloned().unwrap_or_default();
        for (number, (name, inode, is_folder)) in entries.into_iter().enumerate().skip(offset as usize) {
            let kind = if is_folder { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(inode), number as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.lock().listings.by_handle.remove(&handle.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        let what = |shared: &Shared| format!("sync folder {}/", shared.disk.path(inode.0));
        let synced = self.change(StepKind::SyncFolder, what, |shared| shared.disk.sync_folder(inode.0));
        reply_empty(reply, synced);
    }

    fn setxattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        name: &OsStr,
        value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let what = |shared: &Shared| format!("set {} {}", name.to_string_lossy(), shared.disk.path(inode.0));
        let set = |shared: &mut Shared| shared.disk.set_attribute(inode.0, name, Some(value));
        reply_empty(reply, self.change(StepKind::Attribute, what, set));
    }

    fn getxattr(&self, _request: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match self.look(|shared| shared.disk.attribute(inode.0, name)) {
            Ok(value) if size == 0 => reply.size(value.len() as u32),
            Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
            Ok(value) => reply.data(&value),
            Err(error) => reply.error(error),
        }
    }

    fn removexattr(&self, _request: &Request, inode: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        // Nothing to be removed is no step.
        if let Err(error) = self.look(|shared| shared.disk.attribute(inode.0, name)) {
            return reply.error(error);
        }
        let what =
            |shared: &Shared| format!("unset {} {}", name.to_string_lossy(), shared.disk.path(inode.0));
        let unset = |shared: &mut Shared| shared.disk.set_attribute(inode.0, name, None);
        reply_empty(reply, self.change(StepKind::Attribute, what, unset));
    }
}
