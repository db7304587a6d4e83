//! Read leases: while one is held, the kernel lets nobody open the file for writing or cut it.
//!
//! A writer that comes waits in its open until the lease is given back, for `/proc/sys/fs/lease-break-time` seconds
//! at most; then the kernel takes the lease away. So bytes that were read while the lease was there *afterwards*
//! are bytes of one point in time.
#![expect(unsafe_code, reason = "no crate wraps fcntl's lease commands")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// The kernel tells the holder by a signal that a writer waits, by default with SIGIO, which kills the process.
/// SIGURG is ignored unless somebody asks for it, and asking the lease itself tells as much.
const BREAK_SIGNAL: libc::c_int = libc::SIGURG;

/// `F_SETSIG` of `asm-generic/fcntl.h`, which the `libc` crate lacks for glibc.
const F_SETSIG: libc::c_int = 10;

/// Longer than any answer about one file: some lines, one of them for the lease.
const FDINFO_BYTES_MAX: u64 = 64 * 1024;

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    #[error("the file is open for writing")]
    OpenForWriting,
    /// The file system has none, or the file is somebody else's and we have no CAP_LEASE.
    #[error("no lease can be taken on the file")]
    Unsupported(#[source] io::Error),
}

/// A read lease on an open file, given back on drop.
#[derive(Debug)]
pub struct ReadLease {
    /// The same open file as the one given, so the lease belongs to both.
    file: OwnedFd,
    breaking: AtomicBool,
}

impl ReadLease {
    /// Takes a lease on a file that was opened for reading only.
    pub fn take(file: &File) -> Result<Self, LeaseError> {
        let file = OwnedFd::from(file.try_clone().map_err(LeaseError::Unsupported)?);
        // The signal is chosen first: a writer may come the moment that the lease is there.
        fcntl(&file, F_SETSIG, BREAK_SIGNAL).map_err(LeaseError::Unsupported)?;
        match fcntl(&file, libc::F_SETLEASE, libc::F_RDLCK) {
            Ok(_) => Ok(Self { file, breaking: AtomicBool::new(false) }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(LeaseError::OpenForWriting),
            Err(error) => Err(LeaseError::Unsupported(error)),
        }
    }

    /// Says whether the lease is still there: nobody has written since it was taken, though somebody may wait to.
    pub fn is_held(&self) -> bool {
        if !self.breaking.load(Ordering::Relaxed) {
            if fcntl(&self.file, libc::F_GETLEASE, 0).is_ok_and(|lease| lease == libc::F_RDLCK) {
                return true;
            }
            self.breaking.store(true, Ordering::Relaxed);
        }
        // F_GETLEASE says "none" as soon as a writer waits. This list has the lease until the writer goes on.
        self.is_listed().unwrap_or(false)
    }

    fn is_listed(&self) -> io::Result<bool> {
        use io::Read;
        let path = format!("/proc/self/fdinfo/{}", self.file.as_raw_fd());
        let mut text = String::new();
        File::open(path)?.take(FDINFO_BYTES_MAX).read_to_string(&mut text)?;
        Ok(text.lines().any(|line| line.starts_with("lock:") && line.contains(" LEASE ")))
    }
}

impl Drop for ReadLease {
    fn drop(&mut self) {
        // An error means that the kernel took the lease away: there is none to give back.
        let _taken_away = fcntl(&self.file, libc::F_SETLEASE, libc::F_UNLCK);
    }
}

/// Opens a file, and never waits: neither for the other end of a pipe nor for a lease to be given back, which is
/// `WouldBlock`.
pub fn open_without_waiting(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options.custom_flags(libc::O_NONBLOCK).open(path)
}

fn fcntl(file: &OwnedFd, command: libc::c_int, argument: libc::c_int) -> io::Result<libc::c_int> {
    // SAFETY: the descriptor is open as long as `file` is borrowed, and the commands used here take an integer and
    // touch no memory of ours.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, argument) } {
        -1 => Err(io::Error::last_os_error()),
        answer => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::thread;

    use super::*;

    fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn a_file_that_is_open_for_writing_gives_no_lease() {
        let file = file_of(b"abc");
        let reader = File::open(file.path()).unwrap();
        assert!(matches!(ReadLease::take(&reader), Err(LeaseError::OpenForWriting)));
        let path = file.into_temp_path();
        assert!(ReadLease::take(&reader).unwrap().is_held());
        drop(path);
    }

    #[test]
    fn a_writer_waits_until_the_lease_is_given_back_and_the_process_survives_the_kernels_signal() {
        let path = file_of(b"before").into_temp_path();
        let reader = File::open(&path).unwrap();
        let lease = ReadLease::take(&reader).unwrap();
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut file = OpenOptions::new().write(true).open(&path).unwrap();
                file.write_all(b"after!").unwrap();
            });
            while fcntl(&lease.file, libc::F_GETLEASE, 0).unwrap() == libc::F_RDLCK {
                thread::yield_now();
            }
            assert!(lease.is_held());
            assert_eq!(io::read_to_string(&reader).unwrap(), "before");
            assert!(lease.is_held() && !writer.is_finished());
            drop(lease);
            writer.join().unwrap();
        });
        assert_eq!(std::fs::read(&path).unwrap(), b"after!");
    }

    #[test]
    fn a_writer_that_does_not_wait_is_sent_away_and_the_lease_stays() {
        let path = file_of(b"abc").into_temp_path();
        let reader = File::open(&path).unwrap();
        let lease = ReadLease::take(&reader).unwrap();
        let refused = open_without_waiting(OpenOptions::new().write(true), &path);
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(lease.is_held());
    }
}
