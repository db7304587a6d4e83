//! Images as block devices, with the system's own tools: loop devices, kernel mounts, RBD images through
//! qemu-storage-daemon. Each is taken away on drop, also when its test panics. Needs root.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal};

use super::daemon::until;

/// Runs a program that must succeed, and returns what it printed.
pub fn run<A: AsRef<OsStr>>(program: &str, arguments: &[A]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let arguments: Vec<_> = arguments.iter().map(AsRef::as_ref).collect();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A part of an image, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub offset: u64,
    pub length: u64,
}

/// A loop device, detached on drop.
pub struct Loop {
    device: PathBuf,
}

impl Loop {
    /// Attaches an image, or a part of it, for writing.
    pub fn new(image: &Path, part: Option<Range>) -> Self {
        Self::with(image, part, &[])
    }

    /// Attaches with more of losetup's options: `-r`, `--direct-io=on`, `-b 4096`.
    pub fn with(image: &Path, part: Option<Range>, options: &[&str]) -> Self {
        let mut losetup = Command::new("losetup");
        losetup.args(["-f", "--show"]).args(options);
        if let Some(Range { offset, length }) = part {
            losetup.args(["-o", &offset.to_string(), "--sizelimit", &length.to_string()]);
        }
        let output = losetup.arg(image).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", image.display());
        Self { device: String::from_utf8(output.stdout).unwrap().trim().into() }
    }

    pub fn device(&self) -> &Path {
        &self.device
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.device).status();
    }
}

/// A mounted loop device, unmounted and detached on drop.
pub struct Mounted {
    mountpoint: PathBuf,
    device: Loop,
}

impl Mounted {
    pub fn new(device: Loop, mountpoint: &Path, options: &str) -> Self {
        Self::try_new(device, mountpoint, options).unwrap_or_else(|said| panic!("mount -o {options}: {said}"))
    }

    /// Fails with what `mount` said.
    pub fn try_new(device: Loop, mountpoint: &Path, options: &str) -> Result<Self, String> {
        fs::create_dir_all(mountpoint).unwrap();
        let mount = Command::new("mount").args(["-o", options]).arg(device.device()).arg(mountpoint).output();
        let mount = mount.unwrap();
        match mount.status.success() {
            true => Ok(Self { mountpoint: mountpoint.to_owned(), device }),
            false => Err(String::from_utf8_lossy(&mount.stderr).into_owned()),
        }
    }

    pub fn path(&self) -> &Path {
        &self.mountpoint
    }

    pub fn device(&self) -> &Path {
        self.device.device()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let umount = |options: &[&str]| {
            let output = Command::new("umount").args(options).arg(&self.mountpoint).output();
            output.is_ok_and(|output| output.status.success())
        };
        // Lazily when somebody still has a file open: no mount may outlive its test.
        if !umount(&[]) {
            umount(&["-l"]);
        }
    }
}

/// An image as a file, by qemu-storage-daemon. It ends in order on drop.
pub struct Export {
    process: Child,
    file: PathBuf,
}

impl Export {
    /// Shows an RBD image as `file`, which must not exist: a client that holds the image's lock, if it may write, as a
    /// virtual machine does.
    #[cfg(feature = "rbd")]
    pub fn rbd(cluster: &super::ceph::CephCluster, image: &str, file: &Path, writable: bool) -> Self {
        let (pool, conf) = (super::ceph::POOL, cluster.conf());
        let driver = format!("driver=rbd,pool={pool},image={image},conf={},discard=unmap", conf.display());
        Self::new(&driver, file, writable)
    }

    /// Shows what one of qemu's drivers reads, with its options.
    pub fn new(driver: &str, file: &Path, writable: bool) -> Self {
        File::create_new(file).unwrap();
        let (read_only, writable) = if writable { ("off", "on") } else { ("on", "off") };
        let path = file.display();
        let process = Command::new("qemu-storage-daemon")
            .args(["--blockdev", &format!("node-name=image,{driver},read-only={read_only}")])
            .arg("--export")
            .arg(format!("type=fuse,id=export,node-name=image,mountpoint={path},writable={writable}"))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut export = Self { process, file: file.to_owned() };
        until("qemu-storage-daemon", || {
            let ended = export.process.try_wait().unwrap();
            assert!(ended.is_none(), "qemu-storage-daemon ended with {ended:?}");
            (fs::metadata(&export.file).ok()?.len() > 0).then_some(())
        });
        export
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Ends it at once, as a crash does. What it had not written is lost.
    pub fn kill(mut self) {
        self.process.kill().unwrap();
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        // In order, so that what it has cached reaches the image. A signal to one that was killed finds it still there,
        // since nobody has waited for it.
        let pid = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw);
        let _ = rustix::process::kill_process(pid.unwrap(), Signal::TERM);
        let _ = self.process.wait();
        let _ = rustix::mount::unmount(&self.file, UnmountFlags::DETACH);
        let _ = fs::remove_file(&self.file);
    }
}
