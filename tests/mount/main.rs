//! The tree through a real kernel mount, looked at with the programs that people use. Needs root and /dev/fuse.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation is a failed test"
)]

#[path = "../support/mod.rs"]
mod support;

mod commands;
mod images;
mod owners;
mod sessions;
mod texts;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use amberfs::fuse::{self, FuseOptions, FuseSession};
use amberfs::source::Source;
use amberfs::vfs::{Vfs, VfsParts};
use support::hand_made::HandMade;
use support::vfs_tree::{self, Echo};

/// A mounted tree over a hand-made repository; unmounted on drop, whatever is still open in it.
struct Mounted {
    // Dropped in this order: the mount before its directory.
    session: FuseSession,
    root: PathBuf,
    runner: Arc<Echo>,
    hand_made: HandMade,
    folder: tempfile::TempDir,
}

impl Mounted {
    fn new(hand_made: HandMade) -> Self {
        Self::with_sources(hand_made, Vec::new())
    }

    fn with_sources(hand_made: HandMade, sources: Vec<Arc<dyn Source>>) -> Self {
        let runner = Arc::new(Echo::default());
        let parts = vfs_tree::parts(&hand_made, sources, Arc::clone(&runner));
        Self::with_parts(hand_made, runner, parts)
    }

    fn with_parts(hand_made: HandMade, runner: Arc<Echo>, parts: VfsParts) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Others than root have to come as far as the mount.
        run(Command::new("chmod").arg("755").arg(folder.path()));
        let root = folder.path().join("mount");
        std::fs::create_dir(&root).unwrap();
        let session = fuse::mount(Vfs::new(parts), options(&root)).unwrap();
        Self { session, root, runner, hand_made, folder }
    }

    fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// A path outside of the mount.
    fn scratch(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a shell script in the root of the mount, which must succeed, and returns what it prints.
    fn sh(&self, script: &str) -> String {
        let output = self.try_sh(script);
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn try_sh(&self, script: &str) -> Output {
        // bash, as its messages for error numbers are the known ones.
        Command::new("bash").arg("-c").arg(script).current_dir(&self.root).output().unwrap()
    }

    /// Runs a script that must fail with this message of an error number.
    fn fails(&self, script: &str, message: &str) {
        let output = self.try_sh(script);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{script} succeeds");
        assert!(errors.contains(message), "{script}: {errors}");
    }

    /// Runs a Python program with the mount's root as its working directory.
    fn python(&self, program: &str) -> String {
        let output = Command::new("python3").arg("-c").arg(program).current_dir(&self.root).output().unwrap();
        assert!(output.status.success(), "{program}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

fn options(mountpoint: &Path) -> FuseOptions {
    FuseOptions { mountpoint: mountpoint.to_owned(), allow_other: true }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
