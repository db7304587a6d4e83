//! fuser's callbacks, each handed to the tree and answered on every path. Decides nothing.
//!
//! A fault in a callback is caught: the caller gets an I/O error from the reply that is dropped, and the thread
//! lives on.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenAccMode, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::errno::errno;
use super::requests::Operation;
use super::server::{
    Server, caller, guarded, guarded_until_answered, reply_attributes, reply_done, reply_entry, reply_list,
    reply_list_with_attributes, reply_open, reply_read,
};
use crate::types::ByteRange;
use crate::vfs::{Access, Allocation, Seek, VfsError};

/// Requests of readahead and the like that the kernel sends without waiting for the ones before.
const BACKGROUND_MAX: u16 = 64;

/// Used if the kernel has them: direct reads in parallel, lookups in parallel, attributes with listings, and files
/// that can be mapped though the kernel caches nothing of them (scratch images).
const CAPABILITIES: [InitFlags; 5] = [
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
];

impl Filesystem for Server {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for capability in CAPABILITIES {
            if config.add_capabilities(capability).is_err() {
                tracing::info!(?capability, "this kernel does not have a FUSE capability");
            }
        }
        if config.set_max_background(BACKGROUND_MAX).is_err() {
            tracing::warn!("the kernel keeps its own limit of background requests");
        }
        Ok(())
    }

    fn lookup(&self, request: &Request, folder: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (caller, name) = (caller(request), name.to_owned());
        self.answer(Operation::Lookup, folder, move |vfs| reply_entry(vfs, caller, folder, &name, reply));
    }

    fn forget(&self, _request: &Request, inode: INodeNo, lookups: u64) {
        guarded(Operation::Forget, || self.vfs.forget(inode.0, lookups));
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        self.answer(Operation::Getattr, inode, move |vfs| reply_attributes(vfs, inode, reply));
    }

    fn setattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
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
        // What `>` and `touch` do to a control file or a scratch image means nothing and is accepted.
        let changes_owner = mode.is_some() || uid.is_some() || gid.is_some();
        let writable = self.vfs.check_writable(inode.0);
        guarded(Operation::Setattr, || match writable.and_then(|()| self.vfs.check_size(inode.0, size)) {
            Ok(()) if !changes_owner => reply_attributes(&self.vfs, inode, reply),
            Ok(()) => reply.error(Errno::EROFS),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn readlink(&self, _request: &Request, inode: INodeNo, reply: ReplyData) {
        self.answer(Operation::Readlink, inode, move |vfs| match vfs.link_target(inode.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let access = match flags.acc_mode() {
            OpenAccMode::O_RDONLY => Access::Read,
            OpenAccMode::O_WRONLY | OpenAccMode::O_RDWR => Access::Write,
        };
        let uid = request.uid();
        self.answer(Operation::Open, inode, move |vfs| reply_open(vfs, inode, access, uid, reply));
    }

    fn read(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.answer(Operation::Read, inode, move |vfs| reply_read(vfs, handle, offset, size, reply));
    }

    fn write(
        &self,
        request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        bytes: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        guarded_until_answered(Operation::Write, |timer| {
            self.write_to(timer, handle.0, caller(request), offset, bytes, reply)
        });
    }

    fn flush(
        &self,
        request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        guarded_until_answered(Operation::Flush, |timer| self.finish_writing(timer, handle, request, reply));
    }

    fn fsync(
        &self,
        request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        guarded_until_answered(Operation::Fsync, |timer| self.sync(timer, handle, request, reply));
    }

    fn release(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        guarded(Operation::Release, || {
            self.vfs.close(handle.0);
            reply.ok();
        });
    }

    fn lseek(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let seek = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            // The kernel does all others itself.
            _ => return reply.error(Errno::EINVAL),
        };
        // A negative offset is as much outside of the file as one behind its end.
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        guarded(Operation::Lseek, || match self.vfs.seek(handle.0, offset, seek) {
            Ok(found) => reply.offset(i64::try_from(found).unwrap_or(i64::MAX)),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn opendir(&self, request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        guarded(Operation::Opendir, || match self.vfs.open_folder(caller(request), inode.0) {
            // Not to be cached: each who opens it gets a listing of his own.
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn readdir(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        position: u64,
        reply: ReplyDirectory,
    ) {
        self.answer(Operation::Readdir, inode, move |vfs| reply_list(vfs, handle, position, reply));
    }

    fn readdirplus(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        position: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.answer(Operation::Readdirplus, inode, move |vfs| {
            reply_list_with_attributes(vfs, handle, position, reply);
        });
    }

    fn releasedir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        guarded(Operation::Releasedir, || {
            self.vfs.close(handle.0);
            reply.ok();
        });
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    /// Asked only when the kernel does not check permissions itself.
    fn access(&self, _request: &Request, inode: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        guarded(Operation::Access, || match self.vfs.check_writable(inode.0) {
            Err(error) if mask.contains(AccessFlags::W_OK) => reply.error(errno(&error)),
            _ => reply.ok(),
        });
    }

    fn unlink(&self, request: &Request, folder: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        // Every name that can be removed is UTF-8.
        let name = name.to_str().ok_or(VfsError::NotFound);
        guarded(Operation::Unlink, || {
            reply_done(name.and_then(|name| self.vfs.remove(caller(request), folder.0, name)), reply);
        });
    }

    fn fallocate(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let range = ByteRange::new(offset, length);
        guarded_until_answered(Operation::Fallocate, |timer| {
            self.allocate(timer, handle, range, allocation(mode), reply)
        });
    }

    // Nobody makes or moves anything in the tree.

    fn create(
        &self,
        _request: &Request,
        _folder: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mknod(
        &self,
        _request: &Request,
        _folder: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _device: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mkdir(
        &self,
        _request: &Request,
        _folder: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _request: &Request, _folder: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn symlink(
        &self,
        _request: &Request,
        _folder: INodeNo,
        _name: &OsStr,
        _target: &Path,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn link(&self, _request: &Request, _inode: INodeNo, _folder: INodeNo, _name: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn rename(
        &self,
        _request: &Request,
        _folder: INodeNo,
        _name: &OsStr,
        _new_folder: INodeNo,
        _new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    // ENOSYS tells the kernel not to ask again; it then does what it does for file systems without these.

    fn setxattr(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn getxattr(&self, _request: &Request, _inode: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _request: &Request, _inode: INodeNo, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn removexattr(&self, _request: &Request, _inode: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn poll(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _input: &[u8],
        _output_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _from: INodeNo,
        _from_handle: FileHandle,
        _from_offset: u64,
        _to: INodeNo,
        _to_handle: FileHandle,
        _to_offset: u64,
        _length: u64,
        _flags: fuser::CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }
}

/// Returns what a mode of `fallocate` asks for, if it is something that a disk can do.
fn allocation(mode: i32) -> Option<Allocation> {
    const ZEROES: i32 = libc::FALLOC_FL_ZERO_RANGE;
    const PUNCHES: i32 = libc::FALLOC_FL_PUNCH_HOLE;
    match mode & !libc::FALLOC_FL_KEEP_SIZE {
        0 => Some(Allocation::Reserve),
        ZEROES | PUNCHES => Some(Allocation::Zero),
        _ => None,
    }
}
