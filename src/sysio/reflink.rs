//! Reflinks: a copy of a file at one instant that shares its blocks. The copy has no name until it is complete,
//! so a kill at any moment leaves nothing behind.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

/// Clones a file into one without a name, on the folder's file system. `None` where reflinks do not exist.
pub fn clone_unnamed(folder: &Path, source: &File) -> io::Result<Option<File>> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let clone = match rustix::fs::open(folder, flags, Mode::RUSR) {
        Ok(clone) => File::from(clone),
        // Folders of file systems that do not know the flag are opened as folders, which cannot be written.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match rustix::fs::ioctl_ficlone(&clone, source) {
        Ok(()) => Ok(Some(clone)),
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS | Errno::TXTBSY) => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Gives an unnamed file its name; `AlreadyExists` when it is taken.
pub fn give_name(file: &File, name: &Path) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // The way that needs no capability: open(2), O_TMPFILE.
    let open_file = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::linkat(CWD, open_file, CWD, name, AtFlags::SYMLINK_FOLLOW)?)
}
