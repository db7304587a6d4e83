//! Extended attributes of files, in the `user.` namespace.

use std::fs::File;
use std::io;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

const VALUE_BYTES_MAX: usize = 256;

/// Sets `user.KEY`, in the place of whatever is there.
pub fn set(file: &File, key: &str, value: &str) -> io::Result<()> {
    let name = format!("user.{key}");
    Ok(rustix::fs::fsetxattr(file, name, value.as_bytes(), XattrFlags::empty())?)
}

/// Returns `user.KEY`; none when it is not there, is no text, or is longer than any of ours.
pub fn get(file: &File, key: &str) -> io::Result<Option<String>> {
    let mut value = [0; VALUE_BYTES_MAX];
    match rustix::fs::fgetxattr(file, format!("user.{key}"), &mut value) {
        Ok(length) => Ok(value.get(..length).and_then(|value| String::from_utf8(value.to_vec()).ok())),
        Err(Errno::NODATA | Errno::RANGE) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Removes `user.KEY`; not an error when it is not there.
pub fn remove(file: &File, key: &str) -> io::Result<()> {
    match rustix::fs::fremovexattr(file, format!("user.{key}")) {
        Ok(()) | Err(Errno::NODATA) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
