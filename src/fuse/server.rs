//! Answers requests with what the tree says. Each reply is answered on every path, or dropped, which answers EIO.
//!
//! Reads are answered by the thread that takes them, from a buffer that it keeps. They have no time limit of their
//! own: the kernel does not tell of readers that give up, so what limits a read is the object store's own limit.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use fuser::{
    FileHandle, Generation, INodeNo, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyWrite, Request,
};

use super::attributes::{file_attributes, file_type};
use super::errno::errno;
use super::pool::TaskPool;
use crate::vfs::{Caller, Entry, Execution, Vfs, VfsError, Written};

/// Inodes that are forgotten come back as what they were: see `vfs::inodes`.
pub(super) const GENERATION: Generation = Generation(0);

thread_local! {
    /// As long as the longest read so far, which is what the kernel asks for at once: 1 MiB.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(super) struct Server {
    pub(super) vfs: Arc<Vfs>,
    pool: TaskPool,
}

impl Server {
    pub(super) fn new(vfs: Arc<Vfs>) -> io::Result<Self> {
        Ok(Self { vfs, pool: TaskPool::start()? })
    }

    pub(super) fn lookup_entry(
        &self,
        caller: Caller,
        folder: INodeNo,
        name: &OsStr,
    ) -> Result<Entry, VfsError> {
        // Every name of the tree is UTF-8.
        self.vfs.lookup(caller, folder.0, name.to_str().ok_or(VfsError::NotFound)?)
    }

    pub(super) fn read_into_buffer(&self, handle: u64, offset: u64, size: u32, reply: ReplyData) {
        BUFFER.with_borrow_mut(|buffer| {
            let size = size as usize;
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            let into = buffer.get_mut(..size).unwrap_or_default();
            match self.vfs.read(handle, offset, into) {
                Ok(length) => reply.data(into.get(..length).unwrap_or_default()),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    pub(super) fn list(&self, handle: u64, position: u64, mut reply: ReplyDirectory) {
        let listed = self.vfs.list(handle, position, |entry, inode| {
            !reply.add(INodeNo(inode), entry.next, file_type(entry.node.kind()), entry.name)
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    pub(super) fn list_with_attributes(&self, handle: u64, position: u64, mut reply: ReplyDirectoryPlus) {
        let listed = self.vfs.list_with_attributes(handle, position, |listed, entry| {
            let attributes = file_attributes(entry.inode, &entry.attributes);
            // One time serves both here: the shorter one.
            let cached_for = entry.name_cached_for.min(entry.attributes_cached_for);
            let inode = INodeNo(entry.inode);
            !reply.add(inode, listed.next, listed.name, &cached_for, &attributes, GENERATION)
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    pub(super) fn write_to(&self, handle: u64, caller: Caller, offset: u64, bytes: &[u8], reply: ReplyWrite) {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        match self.vfs.write(handle, caller, offset, bytes) {
            Ok(Written::Stored | Written::Piece) => reply.written(length),
            Ok(Written::Complete(execution)) => self.pool.run(move || match execution.run() {
                Ok(()) => reply.written(length),
                Err(error) => reply.error(errno(&error)),
            }),
            Err(error) => reply.error(errno(&error)),
        }
    }

    pub(super) fn finish_writing(&self, handle: FileHandle, request: &Request, reply: ReplyEmpty) {
        match self.vfs.flush(handle.0, caller(request)) {
            None => reply.ok(),
            Some(execution) => self.pool.run(move || match execution.run() {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(&error)),
            }),
        }
    }

    /// Runs what commands are left, and makes durable what was written.
    pub(super) fn sync(&self, handle: FileHandle, request: &Request, reply: ReplyEmpty) {
        let (vfs, commands) = (Arc::clone(&self.vfs), self.vfs.flush(handle.0, caller(request)));
        self.pool.run(move || {
            let run = commands.map_or(Ok(()), Execution::run);
            reply_done(run.and_then(|()| vfs.sync(handle.0)), reply);
        });
    }

    pub(super) fn reply_attributes(&self, inode: INodeNo, reply: ReplyAttr) {
        match self.vfs.attributes(inode.0) {
            Ok((attributes, cached_for)) => reply.attr(&cached_for, &file_attributes(inode.0, &attributes)),
            Err(error) => reply.error(errno(&error)),
        }
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
pub(super) fn guarded(what: &'static str, callback: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(callback)).is_err() {
        tracing::error!(what, "a request met a fault; the caller gets an I/O error");
    }
}
