//! Leases: while a read lease is held, the kernel lets nobody open the file for writing or cut it; while a write lease
//! is held, nobody opens it at all.
//!
//! Whoever comes waits in its open until the lease is given back, for `/proc/sys/fs/lease-break-time` seconds
//! at most; then the kernel takes the lease away. So bytes that were read while the read lease was there *afterwards*
//! are bytes of one point in time, and bytes that are written while the write lease is there are nobody else's.
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
pub struct ReadLease(Lease);

impl ReadLease {
    /// Takes a lease on a file that was opened for reading only.
    pub fn take(file: &File) -> Result<Self, LeaseError> {
        Lease::take(file, Kind::Read).map(Self).map_err(|error| {
            if error.kind() == io::ErrorKind::WouldBlock {
                LeaseError::OpenForWriting
            } else {
                LeaseError::Unsupported(error)
            }
        })
    }

    /// Says whether the lease is still there: nobody has written since it was taken, though somebody may wait to.
    pub fn is_held(&self) -> bool {
        self.0.is_held()
    }
}

/// A write lease on an open file, given back on drop.
#[derive(Debug)]
pub struct WriteLease(Lease);

impl WriteLease {
    /// Takes a lease on a file that was opened for reading and writing.
    ///
    /// `WouldBlock` when somebody else has it open, be it for reading only; any other error means that there is no lease
    /// to be had: the file system has none, or the file is somebody else's and we have no CAP_LEASE.
    pub fn take(file: &File) -> io::Result<Self> {
        Lease::take(file, Kind::Write).map(Self)
    }

    /// Says whether the lease is still there: nobody else has opened the file since it was taken, though somebody may wait
    /// to.
    pub fn is_held(&self) -> bool {
        self.0.is_held()
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Read,
    Write,
}

impl Kind {
    fn number(self) -> libc::c_int {
        match self {
            Self::Read => libc::F_RDLCK,
            Self::Write => libc::F_WRLCK,
        }
    }

    /// As it is called in `/proc/PID/fdinfo`.
    fn name(self) -> &'static str {
        match self {
            Self::Read => " READ ",
            Self::Write => " WRITE ",
        }
    }
}

#[derive(Debug)]
struct Lease {
    /// The same open file as the one given, so the lease belongs to both.
    file: OwnedFd,
    kind: Kind,
    breaking: AtomicBool,
}

impl Lease {
    fn take(file: &File, kind: Kind) -> io::Result<Self> {
        let file = OwnedFd::from(file.try_clone()?);
        // The signal is chosen first: somebody may come the moment that the lease is there.
        fcntl(&file, F_SETSIG, BREAK_SIGNAL)?;
        fcntl(&file, libc::F_SETLEASE, kind.number())?;
        Ok(Self { file, kind, breaking: AtomicBool::new(false) })
    }

    fn is_held(&self) -> bool {
        if !self.breaking.load(Ordering::Relaxed) {
            if fcntl(&self.file, libc::F_GETLEASE, 0).is_ok_and(|lease| lease == self.kind.number()) {
                return true;
            }
            self.breaking.store(true, Ordering::Relaxed);
        }
        // F_GETLEASE says what the lease is to become as soon as somebody waits. This list has it until he goes on.
        self.fdinfo().is_ok_and(|text| is_listed(&text, self.kind))
    }

    fn fdinfo(&self) -> io::Result<String> {
        use io::Read;
        let path = format!("/proc/self/fdinfo/{}", self.file.as_raw_fd());
        let mut text = String::new();
        File::open(path)?.take(FDINFO_BYTES_MAX).read_to_string(&mut text)?;
        Ok(text)
    }
}

/// A write lease that was not given back to a reader in time is listed still, as a read lease.
fn is_listed(fdinfo: &str, kind: Kind) -> bool {
    let mut leases = fdinfo.lines().filter(|line| line.starts_with("lock:") && line.contains(" LEASE "));
    leases.any(|line| line.contains(" BREAKING ") || line.contains(kind.name()))
}

impl Drop for Lease {
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
            while fcntl(&lease.0.file, libc::F_GETLEASE, 0).unwrap() == libc::F_RDLCK {
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

    #[test]
    fn a_write_lease_is_refused_while_anybody_else_has_the_file_open_and_keeps_readers_away() {
        let path = file_of(b"abc").into_temp_path();
        let open = || OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let reader = File::open(&path).unwrap();
        assert_eq!(WriteLease::take(&open()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(reader);
        let lease = WriteLease::take(&open()).unwrap();
        assert!(lease.is_held());
        let refused = open_without_waiting(OpenOptions::new().read(true), &path);
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(lease.is_held(), "somebody waiting is nobody who has it open");
        drop(lease);
        File::open(&path).unwrap();
    }

    #[test]
    fn a_lease_that_the_kernel_took_away_is_not_held() {
        let path = file_of(b"abc").into_temp_path();
        let lease =
            WriteLease::take(&OpenOptions::new().read(true).write(true).open(&path).unwrap()).unwrap();
        fcntl(&lease.0.file, libc::F_SETLEASE, libc::F_UNLCK).unwrap();
        assert!(!lease.is_held());
        for (state, kind, is_there) in [
            ("ACTIVE    WRITE", Kind::Write, true),
            ("BREAKING  READ", Kind::Write, true),
            ("BREAKING  UNLCK", Kind::Write, true),
            // A reader waited for long enough.
            ("ACTIVE    READ", Kind::Write, false),
            ("ACTIVE    READ", Kind::Read, true),
            ("BREAKING  UNLCK", Kind::Read, true),
        ] {
            let text = format!("pos:\t0\nlock:\t1: LEASE  {state} 19783 fe:00:5488881 0 EOF\n");
            assert_eq!(is_listed(&text, kind), is_there, "{state} {kind:?}");
        }
        assert!(!is_listed("pos:\t0\n", Kind::Read));
    }
}
