//! Images of file systems, made by the real tools and filled through the kernel.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// Runs a command that must do it, and returns what it says.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().expect(program);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}{complained}");
    said
}

/// A file system in a file, mounted by the kernel until it is dropped.
pub struct Mounted {
    pub folder: PathBuf,
}

impl Mounted {
    pub fn new(image: &Path, folder: &Path, options: &str) -> Self {
        fs::create_dir_all(folder).unwrap();
        run("mount", &["-o", options, image.to_str().unwrap(), folder.to_str().unwrap()]);
        Self { folder: folder.to_owned() }
    }

    pub fn path(&self) -> &str {
        self.folder.to_str().unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let status = Command::new("umount").arg(&self.folder).status();
        assert!(status.is_ok_and(|status| status.success()) || std::thread::panicking(), "cannot unmount");
    }
}

/// A folder for images and mounts.
pub struct Workshop {
    folder: TempDir,
}

impl Workshop {
    pub fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn make(&self, mkfs: &[&str], size_bytes: u64) -> PathBuf {
        let image = self.path("image");
        let _ = fs::remove_file(&image);
        File::create(&image).unwrap().set_len(size_bytes).unwrap();
        let (program, arguments) = mkfs.split_first().unwrap();
        run(program, &[arguments, &[image.to_str().unwrap()]].concat());
        image
    }

    pub fn copy(&self, image: &Path, name: &str) -> PathBuf {
        let copy = self.path(name);
        run("cp", &["--sparse=always", image.to_str().unwrap(), copy.to_str().unwrap()]);
        copy
    }

    pub fn mount(&self, image: &Path, options: &str) -> Mounted {
        Mounted::new(image, &self.path("mount"), options)
    }

    /// An image with everything that `populate.py` makes, unmounted in order.
    pub fn populated(&self, mkfs: &[&str], size_bytes: u64) -> PathBuf {
        let image = self.make(mkfs, size_bytes);
        populate(&self.mount(&image, "loop"), &[]);
        image
    }

    /// As if the power had failed: what was synced since stands in the journal or log only.
    pub fn populated_and_cut_off(&self, mkfs: &[&str], size_bytes: u64) -> PathBuf {
        let image = self.make(mkfs, size_bytes);
        let mounted = self.mount(&image, "loop");
        populate(&mounted, &[]);
        run("sync", &["-f", mounted.path()]);
        populate(&mounted, &["journal"]);
        self.cut_off(&image, &mounted)
    }

    /// Stops the file system at once, with the journal written and nothing else, and returns what the image was then:
    /// ext4 writes more when it is unmounted.
    pub fn cut_off(&self, image: &Path, mounted: &Mounted) -> PathBuf {
        run("xfs_io", &["-x", "-c", "shutdown -f", mounted.path()]);
        self.copy(image, "cut-off")
    }
}

fn populate(mounted: &Mounted, what: &[&str]) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/files/populate.py");
    run("python3", &[&[script, mounted.path()], what].concat());
}
