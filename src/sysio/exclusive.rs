//! A file or block device for ourselves: refused while somebody else writes to it, or has it mounted.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::device::FileDevice;
use super::lease::{LeaseError, ReadLease, open_without_waiting};

/// Opens a regular file or a block device for reading and writing.
///
/// `ResourceBusy` when it is mounted, attached to a loop device or open for writing; `InvalidInput` when it is neither
/// a regular file nor a block device.
pub fn open(path: &Path) -> io::Result<FileDevice> {
    let file = open_without_waiting(OpenOptions::new().read(true), path)?;
    let file_type = file.metadata()?.file_type();
    if file_type.is_block_device() {
        drop(file);
        // The kernel lets nobody else claim it meanwhile: a mount does.
        let exclusive = OpenOptions::new().read(true).write(true).custom_flags(libc::O_EXCL).open(path)?;
        return FileDevice::new(exclusive);
    }
    if !file_type.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is neither a file nor a block device"));
    }
    check_no_writer(&file)?;
    FileDevice::new(open_without_waiting(OpenOptions::new().read(true).write(true), path)?)
}

/// A loop device has its file open for writing too.
fn check_no_writer(file: &File) -> io::Result<()> {
    match ReadLease::take(file) {
        Err(LeaseError::OpenForWriting) => {
            let why = "a program, or a loop device, has it open for writing";
            Err(io::Error::new(io::ErrorKind::ResourceBusy, why))
        }
        // Where there are no leases, who else writes is not known.
        Ok(_) | Err(LeaseError::Unsupported(_)) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_somebody_writes_to_is_not_opened() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // The test's own descriptor is open for writing.
        assert_eq!(open(file.path()).err().unwrap().kind(), io::ErrorKind::ResourceBusy);
        let path = file.into_temp_path();
        open(&path).unwrap();
        assert_eq!(open(Path::new("/dev/null")).err().unwrap().kind(), io::ErrorKind::InvalidInput);
    }
}
