//! Answers requests with what the tree says. Each reply is answered on every path, or dropped, which answers EIO.
//!
//! Reads of images are answered by the thread that takes them, from a buffer that it keeps. They have no time limit of
//! their own: the kernel does not tell of readers that give up, so what limits a read is the object store's own limit.
//! Files inside backups, commands and syncs have threads of their own, since they may take long.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use fuser::{
    FileHandle, FopenFlags, Generation, INodeNo, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request,
};

use super::attributes::{file_attributes, file_type};
use super::errno::errno;
use super::pool::TaskPool;
use super::requests::{self, Operation, count_bytes_read};
use crate::metrics::{Timer, register};
use crate::types::ByteRange;
use crate::vfs::{Access, Allocation, Caching, Caller, Vfs, VfsError, Written};

/// Inodes that are forgotten come back as what they were: see `vfs::inodes`.
pub(super) const GENERATION: Generation = Generation(0);

/// The kernel has one writer at a time in each control file, so no more commands come at once than there are
/// control files, and closing files.
const COMMANDS_WAITING_MAX: usize = 64;
/// As many as programs wait for files inside backups.
const INNER_WAITING_MAX: usize = 4096;
/// Beyond, who wants to sync waits where the kernel is answered.
const SYNCS_WAITING_MAX: usize = 64;

thread_local! {
    /// As long as the longest read so far, which is what the kernel asks for at once: 1 MiB.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(super) struct Server {
    pub(super) vfs: Arc<Vfs>,
    /// Run commands.
    pool: TaskPool,
    /// Read files inside backups.
    inner_files: TaskPool,
    /// Make scratch images durable, and discard parts of them.
    syncs: TaskPool,
}

impl Server {
    pub(super) fn new(vfs: Arc<Vfs>) -> io::Result<Self> {
        register("fuse", requests::write);
        let pool = TaskPool::start("command", COMMANDS_WAITING_MAX)?;
        let inner_files = TaskPool::start("inner", INNER_WAITING_MAX)?;
        Ok(Self { vfs, pool, inner_files, syncs: TaskPool::start("sync", SYNCS_WAITING_MAX)? })
    }

    /// Answers a request about an inode: here and now, or by a thread that may wait when it is about a file inside a backup.
    pub(super) fn answer(
        &self,
        operation: Operation,
        inode: INodeNo,
        answer: impl FnOnce(&Vfs) + Send + 'static,
    ) {
        if self.vfs.may_take_long(inode.0) {
            let (vfs, timer) = (Arc::clone(&self.vfs), operation.start());
            self.inner_files.run(move || {
                let _timer = timer;
                answer(&vfs);
            });
        } else {
            guarded(operation, || answer(&self.vfs));
        }
    }

    pub(super) fn write_to(
        &self,
        timer: Option<Timer>,
        handle: u64,
        caller: Caller,
        offset: u64,
        bytes: &[u8],
        reply: ReplyWrite,
    ) {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        match self.vfs.write(handle, caller, offset, bytes) {
            Ok(Written::Stored | Written::Piece) => reply.written(length),
            Ok(Written::Complete(execution)) => self.pool.run(move || {
                let _timer = timer;
                match execution.run() {
                    Ok(()) => reply.written(length),
                    Err(error) => reply.error(errno(&error)),
                }
            }),
            Err(error) => reply.error(errno(&error)),
        }
    }

    pub(super) fn finish_writing(
        &self,
        timer: Option<Timer>,
        handle: FileHandle,
        request: &Request,
        reply: ReplyEmpty,
    ) {
        match self.vfs.flush(handle.0, caller(request)) {
            None => reply.ok(),
            Some(execution) => self.pool.run(move || {
                let _timer = timer;
                reply_done(execution.run(), reply);
            }),
        }
    }

    /// Runs what commands are left, and makes durable what was written.
    pub(super) fn sync(
        &self,
        timer: Option<Timer>,
        handle: FileHandle,
        request: &Request,
        reply: ReplyEmpty,
    ) {
        if !self.vfs.wants_sync(handle.0) {
            return self.finish_writing(timer, handle, request, reply);
        }
        let vfs = Arc::clone(&self.vfs);
        self.syncs.run_or_wait(move || {
            let _timer = timer;
            reply_done(vfs.sync(handle.0), reply);
        });
    }

    /// Makes a range read as zeros, or sees that there is room for it: on a large disk that takes a while.
    pub(super) fn allocate(
        &self,
        timer: Option<Timer>,
        handle: FileHandle,
        range: ByteRange,
        allocation: Option<Allocation>,
        reply: ReplyEmpty,
    ) {
        let vfs = Arc::clone(&self.vfs);
        self.syncs.run_or_wait(move || {
            let _timer = timer;
            reply_done(vfs.allocate(handle.0, range, allocation), reply);
        });
    }
}

pub(super) fn reply_entry(vfs: &Vfs, caller: Caller, folder: INodeNo, name: &OsStr, reply: ReplyEntry) {
    match vfs.lookup(caller, folder.0, name) {
        Ok(entry) => {
            let attributes = file_attributes(entry.inode, &entry.attributes);
            let times = (&entry.attributes_cached_for, &entry.name_cached_for);
            reply.entry_with_ttls(times.0, times.1, &attributes, GENERATION);
        }
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn reply_attributes(vfs: &Vfs, inode: INodeNo, reply: ReplyAttr) {
    match vfs.attributes(inode.0) {
        Ok((attributes, cached_for)) => reply.attr(&cached_for, &file_attributes(inode.0, &attributes)),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn reply_open(vfs: &Vfs, inode: INodeNo, access: Access, uid: u32, reply: ReplyOpen) {
    match vfs.open(inode.0, access, uid) {
        Ok(opened) => {
            let flags = match opened.caching {
                Caching::Keep => FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH,
                Caching::Direct => FopenFlags::FOPEN_DIRECT_IO,
            };
            reply.opened(FileHandle(opened.handle), flags);
        }
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn reply_read(vfs: &Vfs, handle: FileHandle, offset: u64, size: u32, reply: ReplyData) {
    BUFFER.with_borrow_mut(|buffer| {
        let size = size as usize;
        if buffer.len() < size {
            buffer.resize(size, 0);
        }
        let into = buffer.get_mut(..size).unwrap_or_default();
        match vfs.read(handle.0, offset, into) {
            Ok(length) => {
                count_bytes_read(length);
                reply.data(into.get(..length).unwrap_or_default());
            }
            Err(error) => reply.error(errno(&error)),
        }
    });
}

pub(super) fn reply_list(vfs: &Vfs, handle: FileHandle, position: u64, mut reply: ReplyDirectory) {
    let mut has_entries = false;
    let listed = vfs.list(handle.0, position, |entry, inode| {
        let is_full = reply.add(INodeNo(inode), entry.next, file_type(entry.node.kind()), entry.name);
        has_entries |= !is_full;
        !is_full
    });
    match listed {
        Ok(()) => reply.ok(),
        // What was found before is not lost; who goes on behind it meets the error.
        Err(_) if has_entries => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn reply_list_with_attributes(
    vfs: &Vfs,
    handle: FileHandle,
    position: u64,
    mut reply: ReplyDirectoryPlus,
) {
    let mut has_entries = false;
    let listed = vfs.list_with_attributes(handle.0, position, |listed, entry| {
        let attributes = file_attributes(entry.inode, &entry.attributes);
        // One time serves both here: the shorter one.
        let cached_for = entry.name_cached_for.min(entry.attributes_cached_for);
        let inode = INodeNo(entry.inode);
        let is_full = reply.add(inode, listed.next, listed.name, &cached_for, &attributes, GENERATION);
        has_entries |= !is_full;
        !is_full
    });
    match listed {
        Ok(()) => reply.ok(),
        Err(_) if has_entries => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn reply_done(done: Result<(), VfsError>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid() }
}

/// Runs a callback that may have a fault. Its reply is dropped then, which answers EIO.
pub(super) fn guarded(operation: Operation, callback: impl FnOnce()) {
    guarded_until_answered(operation, |_timer| callback());
}

/// Does the same for one that may hand its reply on to another thread: the request takes as long as the callback, or
/// whom it hands it to, keeps the timer.
pub(super) fn guarded_until_answered(operation: Operation, callback: impl FnOnce(Option<Timer>)) {
    let timer = operation.start();
    if catch_unwind(AssertUnwindSafe(|| callback(timer))).is_err() {
        requests::count_fault();
        let request = operation.name();
        tracing::error!(request, "a request met a fault; the caller gets an I/O error");
    }
}
