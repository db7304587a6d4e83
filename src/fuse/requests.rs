//! What is counted of the kernel's requests: how many of each kind, how long they took, and what they were refused with.

use std::sync::atomic::{AtomicU64, Ordering};

use fuser::Errno;

use crate::metrics::{Counter, Histogram, Kind, LATENCY, MetricsText, Timer};

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Lookup,
    Forget,
    Getattr,
    Setattr,
    Readlink,
    Open,
    Read,
    Write,
    Flush,
    Fsync,
    Release,
    Lseek,
    Opendir,
    Readdir,
    Readdirplus,
    Releasedir,
    Access,
    Unlink,
    Fallocate,
}

/// In the order of the operations.
const NAMES: [&str; 19] = [
    "lookup",
    "forget",
    "getattr",
    "setattr",
    "readlink",
    "open",
    "read",
    "write",
    "flush",
    "fsync",
    "release",
    "lseek",
    "opendir",
    "readdir",
    "readdirplus",
    "releasedir",
    "access",
    "unlink",
    "fallocate",
];

static SECONDS: [Histogram; NAMES.len()] = [const { Histogram::new(LATENCY) }; NAMES.len()];
static BYTES_READ: Counter = Counter::new();
static FAULTS: Counter = Counter::new();

impl Operation {
    pub(super) fn name(self) -> &'static str {
        NAMES.get(self as usize).copied().unwrap_or_default()
    }

    /// Measures a request until what is returned is dropped, which is when it is answered.
    pub(super) fn start(self) -> Option<Timer> {
        tracing::debug!(operation = self.name(), "request");
        SECONDS.get(self as usize).map(Histogram::start)
    }
}

/// The errors that requests are answered with, by number; those of Linux end at 133.
static ERRORS: [AtomicU64; 134] = [const { AtomicU64::new(0) }; 134];

/// The names of those that `errno.rs` chooses.
const ERROR_NAMES: [(i32, &str); 21] = [
    (libc::ENOENT, "ENOENT"),
    (libc::EIO, "EIO"),
    (libc::ENXIO, "ENXIO"),
    (libc::EBADF, "EBADF"),
    (libc::EACCES, "EACCES"),
    (libc::EBUSY, "EBUSY"),
    (libc::EEXIST, "EEXIST"),
    (libc::ENOTDIR, "ENOTDIR"),
    (libc::EISDIR, "EISDIR"),
    (libc::EINVAL, "EINVAL"),
    (libc::EFBIG, "EFBIG"),
    (libc::ENOSPC, "ENOSPC"),
    (libc::EROFS, "EROFS"),
    (libc::ENAMETOOLONG, "ENAMETOOLONG"),
    (libc::ENOTEMPTY, "ENOTEMPTY"),
    (libc::EOPNOTSUPP, "EOPNOTSUPP"),
    (libc::EHOSTUNREACH, "EHOSTUNREACH"),
    (libc::ESTALE, "ESTALE"),
    (libc::EDQUOT, "EDQUOT"),
    (libc::ENOSYS, "ENOSYS"),
    (libc::EPERM, "EPERM"),
];

pub(super) fn count_error(errno: Errno) {
    let count = usize::try_from(errno.code()).ok().and_then(|number| ERRORS.get(number));
    if let Some(count) = count {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

pub(super) fn count_bytes_read(bytes: usize) {
    BYTES_READ.add(bytes as u64);
}

/// Counts a request that met a fault in amberfs; its caller gets EIO.
pub(super) fn count_fault() {
    FAULTS.increment();
    count_error(Errno::EIO);
}

pub(super) fn write(text: &mut MetricsText) {
    let help = "Time from a request of the kernel to its answer.";
    let mut seconds = text.family("amberfs_fuse_request_seconds", Kind::Histogram, help);
    for (name, histogram) in NAMES.iter().zip(&SECONDS) {
        seconds.histogram(&[("operation", name)], histogram);
    }
    let help = "Requests that were answered with an error; ENOENT and the refusals of commands are everyday.";
    let mut errors = text.family("amberfs_fuse_errors_total", Kind::Counter, help);
    for (number, count) in (0..).zip(&ERRORS) {
        let count = count.load(Ordering::Relaxed);
        let name = ERROR_NAMES.iter().find(|(named, _)| *named == number).map(|(_, name)| *name);
        // The one to alert on is there from the start.
        if count > 0 || number == libc::EIO {
            errors.sample(&[("errno", name.unwrap_or(&number.to_string()))], count);
        }
    }
    let help = "Bytes given to readers of files in the tree; what the kernel had cached is not counted.";
    text.counter("amberfs_fuse_read_bytes_total", help, &BYTES_READ);
    let help = "Requests that met a fault in amberfs itself.";
    text.counter("amberfs_fuse_faults_total", help, &FAULTS);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operation_has_its_own_name() {
        let all = [(Operation::Lookup, "lookup"), (Operation::Read, "read"), (Operation::Flush, "flush")];
        for (operation, name) in all.into_iter().chain([(Operation::Fallocate, "fallocate")]) {
            assert_eq!(operation.name(), name);
        }
        assert_eq!(Operation::Fallocate as usize + 1, NAMES.len());
    }
}
