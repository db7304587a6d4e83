//! Extended attributes of files, in the `user.` namespace.

use std::fs::File;
use std::io;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// Sets `user.KEY`, in the place of whatever is there.
pub fn set(file: &File, key: &str, value: &str) -> io::Result<()> {
    let name = format!("user.{key}");
    Ok(rustix::fs::fsetxattr(file, name, value.as_bytes(), XattrFlags::empty())?)
}

/// Removes `user.KEY`; not an error when it is not there.
pub fn remove(file: &File, key: &str) -> io::Result<()> {
    match rustix::fs::fremovexattr(file, format!("user.{key}")) {
        Ok(()) | Err(Errno::NODATA) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
