//! Files and block devices that somebody else uses are not opened for a change.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use amberfs::sysio::device::{ReadAt, WriteAt};
use amberfs::sysio::exclusive::{self, ExclusiveFile};

use super::volume::{Mount, Volume, run, text};

/// Detached on drop.
struct Loop(String);

impl Loop {
    fn new(options: &[&str], path: &Path) -> Self {
        let arguments = [&["-f", "--show"], options, &[text(path)]].concat();
        Self(run("losetup", &arguments).trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run("losetup", &["-d", &self.0]);
    }
}

/// The kernel lets go of a file a moment after it was detached.
fn open_at_last(path: &Path) -> ExclusiveFile {
    let start = Instant::now();
    loop {
        match exclusive::open(path) {
            Err(error)
                if error.kind() == ErrorKind::ResourceBusy && start.elapsed() < Duration::from_secs(30) =>
            {
                thread::yield_now();
            }
            opened => return opened.unwrap(),
        }
    }
}

fn refusal(path: &Path) -> ErrorKind {
    exclusive::open(path).err().unwrap().kind()
}

#[test]
fn a_file_that_is_attached_is_busy_also_when_it_is_only_read() {
    let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    File::create(&path).unwrap().set_len(1 << 20).unwrap();
    for options in [&["-r"][..], &[]] {
        let attached = Loop::new(options, &path);
        assert_eq!(refusal(&path), ErrorKind::ResourceBusy, "{options:?}");
        drop(attached);
        open_at_last(&path);
    }
}

#[test]
fn a_file_that_is_mounted_read_only_is_busy() {
    let volume = Volume::make(&[]);
    let mounted = Mount::new(&volume.path, "ro");
    assert_eq!(refusal(&volume.path), ErrorKind::ResourceBusy);
    drop(mounted);
    open_at_last(&volume.path);
}

#[test]
fn a_block_device_is_claimed_by_one_at_a_time() {
    let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let attached = Loop::new(&[], &path);
    let device = Path::new(&attached.0);
    let held = exclusive::open(device).unwrap();
    held.write_all_at(0, b"abc").unwrap();
    held.sync().unwrap();
    assert_eq!((held.size_bytes(), refusal(device)), (1 << 20, ErrorKind::ResourceBusy));
    drop(held);
    drop(exclusive::open(device).unwrap());
    drop(attached);
    assert!(fs::read(&path).unwrap().starts_with(b"abc"));
}
