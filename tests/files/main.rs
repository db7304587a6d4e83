//! The files inside images that the real tools made, compared with the kernel's view, and what hostile images and
//! lost workers do: nothing but an error. Needs root and loop devices.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a failed expectation is a failed test"
)]

mod compare;
mod fat;
mod hostile;
mod images;
mod kernel_view;
mod workers;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use amberfs::files::{FileSystemKind, FileTree, FileTrees, FileTreesOptions};
use amberfs::sysio::device::FileDevice;

fn options() -> FileTreesOptions {
    // The machine may be busy with other tests: nothing here is about how fast it is.
    let deadline = Duration::from_secs(300);
    FileTreesOptions { deadline, ..FileTreesOptions::new(PathBuf::from(env!("CARGO_BIN_EXE_amberfs"))) }
}

fn open(image: &Path, kind: FileSystemKind) -> Arc<FileTree> {
    FileTrees::new(options()).unwrap().open(Arc::new(FileDevice::open(image).unwrap()), kind)
}
