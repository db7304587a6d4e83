//! What is inside a disk: partition tables, file systems and volume groups that real programs made, compared with what
//! `sfdisk`, `partx`, `blkid` and LVM say, and thousands of damaged ones.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a failed expectation is a failed test, and images are made as they come"
)]

mod file_systems;
mod hostile;
mod lvm;
mod tables;

#[path = "../support/mod.rs"]
mod support;

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use amberfs::sysio::device::FileDevice;

/// Runs a program that must succeed, and returns what it printed.
fn run<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let output = command.output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `sfdisk` with a script.
fn sfdisk(image: &Path, script: &str) {
    let shell = format!("printf '%s' '{script}' | sfdisk -q '{}'", image.display());
    run("sh", ["-c", &shell]);
}

fn sparse(folder: &Path, name: &str, size_bytes: u64) -> PathBuf {
    let path = folder.join(name);
    File::create(&path).unwrap().set_len(size_bytes).unwrap();
    path
}

fn write_at(image: &Path, offset: u64, bytes: &[u8]) {
    File::options().write(true).open(image).unwrap().write_all_at(bytes, offset).unwrap();
}

fn device(image: &Path) -> FileDevice {
    FileDevice::open(image).unwrap()
}

/// A loop device, detached on drop.
struct Loop(String);

impl Loop {
    fn attach(image: &Path, sector_bytes: u32) -> Self {
        let sector = format!("--sector-size={sector_bytes}");
        let path = run("losetup", ["--find".as_ref(), "--show".as_ref(), sector.as_ref(), image.as_os_str()]);
        Self(path.trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}
