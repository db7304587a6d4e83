//! The directory that an amberfs is mounted on: checked before, tuned after, and left without asking the mounted
//! file system anything, which may not answer any more.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::FuseError;

/// Dead mounts that may lie over each other on one directory.
const STALE_MAX: usize = 16;

/// What the kernel reads ahead of a sequential reader: enough requests of 1 MiB that every core decodes, and not so
/// much that a reader who stops early has read far more than he wanted.
const READ_AHEAD_KIB: u32 = 4096;

/// A device number, which every mount has one of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Device {
    major: u32,
    minor: u32,
}

/// Detaches what dead daemons left, and returns the path of a directory that can be mounted on.
pub(super) fn prepare(path: &Path) -> Result<PathBuf, FuseError> {
    for _ in 0..STALE_MAX {
        // Opened, not looked at: of a mount whose daemon was killed a moment ago the kernel still knows the attributes.
        match fs::read_dir(path) {
            Err(error) if error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error()) => detach_stale(path)?,
            _ => break,
        }
    }
    let failed = |source| FuseError::Mountpoint { path: path.to_owned(), source };
    if !fs::metadata(path).map_err(failed)?.is_dir() {
        return Err(FuseError::NotADirectory { path: path.to_owned() });
    }
    if fs::read_dir(path).map_err(failed)?.next().is_some() {
        return Err(FuseError::NotEmpty { path: path.to_owned() });
    }
    fs::canonicalize(path).map_err(failed)
}

fn detach_stale(path: &Path) -> Result<(), FuseError> {
    tracing::warn!(mountpoint = %path.display(), "detaching what a dead daemon left mounted");
    let detached = match rustix::mount::unmount(path, UnmountFlags::DETACH) {
        Err(Errno::PERM) => detach_as_user(path),
        detached => detached.map_err(Into::into),
    };
    detached.map_err(|source| FuseError::Stale { path: path.to_owned(), source })
}

/// Detaches what this user has mounted; fusermount3 is the set-user-id program that may.
fn detach_as_user(path: &Path) -> io::Result<()> {
    let output = Command::new("fusermount3").args(["-u", "-z", "--"]).arg(path).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Returns the device of what is mounted, when it answers.
pub(super) fn device(path: &Path) -> io::Result<Device> {
    let number = fs::metadata(path)?.dev();
    Ok(Device { major: rustix::fs::major(number), minor: rustix::fs::minor(number) })
}

/// Is this device still what is mounted there? Does not ask the daemon, which may be the caller.
pub(super) fn is_mounted(path: &Path, device: Device) -> bool {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    match rustix::fs::statx(CWD, path, flags, StatxFlags::TYPE) {
        Ok(found) => device == Device { major: found.stx_dev_major, minor: found.stx_dev_minor },
        // Cut off from its daemon, it is mounted all the same.
        Err(error) => error == Errno::NOTCONN,
    }
}

/// Lets the kernel read ahead far enough to keep all cores busy. The kernel offers 128 KiB when mounting, and takes more
/// from root only.
pub(super) fn raise_read_ahead(device: Device) {
    let path = format!("/sys/class/bdi/{}:{}/read_ahead_kb", device.major, device.minor);
    let written = OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| file.write_all(READ_AHEAD_KIB.to_string().as_bytes()));
    if let Err(error) = written {
        tracing::info!(path, %error, "the kernel reads images ahead by 128 KiB only: sequential reading is slower");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_directory_is_mounted_on() {
        let folder = tempfile::tempdir().unwrap();
        assert!(prepare(folder.path()).is_ok());
        let file = folder.path().join("file");
        fs::File::create(&file).unwrap();
        assert!(matches!(prepare(&file), Err(FuseError::NotADirectory { .. })));
        assert!(matches!(prepare(folder.path()), Err(FuseError::NotEmpty { .. })));
        assert!(matches!(prepare(&folder.path().join("none")), Err(FuseError::Mountpoint { .. })));
    }
}
