//! A file or block device for ourselves: refused while somebody else uses it, and kept from others until we are done.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::device::{FileDevice, ReadAt, WriteAt};
use super::lease::{WriteLease, open_without_waiting};

/// A regular file or a block device that nobody else is to use meanwhile.
///
/// Whoever opens the file waits until this is dropped, for `/proc/sys/fs/lease-break-time` seconds at most. After that
/// nothing is written any more. A block device is claimed, as a mount does, and cannot be mounted.
pub struct ExclusiveFile {
    device: FileDevice,
    /// Block devices have none.
    lease: Option<WriteLease>,
}

/// Opens a regular file or a block device for reading and writing.
///
/// `ResourceBusy` when it is mounted, or a file that somebody else has open (a loop device, a program, for reading too), or
/// of which that cannot be told; `InvalidInput` when it is neither a regular file nor a block device.
pub fn open(path: &Path) -> io::Result<ExclusiveFile> {
    open_named(&name(path)?)
}

/// Holds on to what the path means now, without opening it: another path may mean something else later.
fn name(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)
}

fn open_named(name: &File) -> io::Result<ExclusiveFile> {
    let file_type = name.metadata()?.file_type();
    let path = PathBuf::from(format!("/proc/self/fd/{}", name.as_raw_fd()));
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    if file_type.is_block_device() {
        // The kernel lets nobody else claim it meanwhile: a mount does.
        let file = options.custom_flags(libc::O_EXCL).open(path).map_err(|error| match error.kind() {
            io::ErrorKind::ResourceBusy => {
                busy("it is mounted, or in use by another block device or program")
            }
            _ => error,
        })?;
        return Ok(ExclusiveFile { device: FileDevice::new(file)?, lease: None });
    }
    if !file_type.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is neither a file nor a block device"));
    }
    let file = open_without_waiting(&mut options, &path).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => {
            busy("somebody holds a lease on it, as a backup of it does that is being made")
        }
        _ => error,
    })?;
    let lease = Some(lease(&file)?);
    Ok(ExclusiveFile { device: FileDevice::new(file)?, lease })
}

fn lease(file: &File) -> io::Result<WriteLease> {
    WriteLease::take(file).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => busy("a program, or a loop device, has it open"),
        // Where there are no leases, who else uses it is not known.
        _ => busy(format!(
            "it cannot be told whether somebody uses it, as no lease can be taken on it ({error}): \
             run this as its owner or as root, or on a copy in a local file system"
        )),
    })
}

fn busy(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::ResourceBusy, why.into())
}

impl ReadAt for ExclusiveFile {
    fn size_bytes(&self) -> u64 {
        self.device.size_bytes()
    }

    fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.device.read_exact_at(offset, into)
    }
}

impl WriteAt for ExclusiveFile {
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        // What another may have mounted by now is not changed below it.
        if self.lease.as_ref().is_some_and(|lease| !lease.is_held()) {
            return Err(busy(
                "somebody else has opened it, after waiting for as long as the kernel lets him",
            ));
        }
        self.device.write_all_at(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.device.sync()
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "what a test writes need not be durable")]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::thread;
    use std::time::{Duration, Instant};

    use rustix::thread::CapabilitySet;

    use super::super::lease::ReadLease;
    use super::*;

    /// Another test that starts a program has all descriptors twice for a moment.
    fn open_at_last(path: &Path) -> ExclusiveFile {
        let start = Instant::now();
        loop {
            match open(path) {
                Err(error)
                    if error.kind() == io::ErrorKind::ResourceBusy
                        && start.elapsed() < Duration::from_secs(10) =>
                {
                    thread::yield_now();
                }
                opened => return opened.unwrap(),
            }
        }
    }

    fn kind_of_refusal(path: &Path) -> io::ErrorKind {
        open(path).err().unwrap().kind()
    }

    #[test]
    fn a_file_that_somebody_has_open_for_writing_or_reading_is_not_opened() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // The test's own descriptor is open for writing.
        assert_eq!(kind_of_refusal(file.path()), io::ErrorKind::ResourceBusy);
        let path = file.into_temp_path();
        let reader = File::open(&path).unwrap();
        assert_eq!(kind_of_refusal(&path), io::ErrorKind::ResourceBusy);
        drop(reader);
        open_at_last(&path);
        assert_eq!(kind_of_refusal(Path::new("/dev/null")), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_file_that_a_backup_reads_is_busy_and_not_waited_for() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let reader = File::open(&path).unwrap();
        let lease = ReadLease::take(&reader).unwrap();
        assert_eq!(kind_of_refusal(&path), io::ErrorKind::ResourceBusy);
        drop((lease, reader));
        open_at_last(&path);
    }

    #[test]
    fn nobody_else_opens_the_file_until_it_is_dropped() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        fs::write(&path, b"before").unwrap();
        let held = open_at_last(&path);
        let refused = open_without_waiting(OpenOptions::new().read(true), &path);
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        held.write_all_at(0, b"after!").unwrap();
        held.sync().unwrap();
        drop(held);
        assert_eq!(fs::read(&path).unwrap(), b"after!");
    }

    #[test]
    fn nothing_is_written_once_the_lease_is_gone() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        fs::write(&path, b"before").unwrap();
        let held = open_at_last(&path);
        // As the kernel does when somebody has waited for long enough: the lease belongs to the open file.
        let taken_away = WriteLease::take(held.device.file()).unwrap();
        drop(taken_away);
        assert_eq!(held.write_all_at(0, b"after!").unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        assert_eq!(fs::read(&path).unwrap(), b"before");
    }

    #[test]
    fn a_link_that_is_turned_meanwhile_does_not_lead_to_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second, link] = ["first", "second", "link"].map(|name| folder.path().join(name));
        fs::write(&first, b"first!").unwrap();
        fs::write(&second, b"second").unwrap();
        symlink(&first, &link).unwrap();
        let name = name(&link).unwrap();
        fs::remove_file(&link).unwrap();
        symlink(&second, &link).unwrap();
        open_named(&name).unwrap().write_all_at(0, b"change").unwrap();
        assert_eq!(
            (fs::read(&first).unwrap(), fs::read(&second).unwrap()),
            (b"change".to_vec(), b"second".to_vec())
        );
    }

    #[test]
    fn a_file_whose_users_cannot_be_known_is_busy() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        chown(&path, Some(65534), None).unwrap();
        // Capabilities are a thread's own.
        let as_a_stranger = || {
            let mut capabilities = rustix::thread::capabilities(None).unwrap();
            capabilities.effective.remove(CapabilitySet::LEASE);
            rustix::thread::set_capabilities(None, capabilities).unwrap();
            open(&path).err().unwrap()
        };
        let error = thread::scope(|scope| scope.spawn(as_a_stranger).join().unwrap());
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        assert!(error.to_string().contains("cannot be told"), "{error}");
        open_at_last(&path);
    }
}
