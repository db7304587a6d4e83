//! File systems of a chosen kind, mounted from a file for a test and always unmounted after it. Needs root.
//!
//! Tests that watch who has a file open must not run while a program is started: until its exec the child holds a
//! copy of every open file. So file systems are made while no test that uses one runs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use rustix::mount::UnmountFlags;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Has leases, no reflinks.
    Ext4,
    /// Has leases and reflinks.
    Xfs,
    /// Has neither holes nor reflinks nor extended attributes.
    Ramfs,
}

/// A file system, unmounted and detached from its loop device on drop.
pub struct FileSystem {
    mountpoint: PathBuf,
    _folder: tempfile::TempDir,
}

/// An empty folder of a file system.
pub struct Folder {
    path: PathBuf,
    // Dropped in this order: the file system waits until nobody is left who uses one.
    user: Option<RwLockReadGuard<'static, ()>>,
    _file_system: Arc<FileSystem>,
}

/// Held for reading by tests on a file system, and for writing by what they cannot bear beside them.
static USERS: RwLock<()> = RwLock::new(());

static SHARED: [Mutex<Weak<FileSystem>>; 3] = [const { Mutex::new(Weak::new()) }; 3];

/// Waits until no other test of this process is on a file system, and keeps them away.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    USERS.write().unwrap_or_else(PoisonError::into_inner)
}

/// Returns an empty folder on a file system that several tests share. One at a time for a thread.
pub fn folder(kind: Kind) -> Folder {
    let mut shared = SHARED[kind as usize].lock().unwrap_or_else(PoisonError::into_inner);
    let file_system = shared.upgrade().unwrap_or_else(|| {
        let file_system = Arc::new(FileSystem::mount(kind, 1 << 30));
        *shared = Arc::downgrade(&file_system);
        file_system
    });
    drop(shared);
    let user = USERS.read().unwrap_or_else(PoisonError::into_inner);
    Folder::new(file_system, Some(user))
}

/// Returns an empty folder on a file system of its own, for a test that runs alone.
pub fn small_folder(kind: Kind, bytes: u64) -> Folder {
    Folder::new(Arc::new(FileSystem::mount_among_users(kind, bytes)), None)
}

impl FileSystem {
    fn mount(kind: Kind, bytes: u64) -> Self {
        let _alone = alone();
        Self::mount_among_users(kind, bytes)
    }

    fn mount_among_users(kind: Kind, bytes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (image, mountpoint) = (folder.path().join("image"), folder.path().join("mount"));
        std::fs::create_dir(&mountpoint).unwrap();
        std::fs::File::create(&image).unwrap().set_len(bytes).unwrap();
        match kind {
            Kind::Ext4 => run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image)),
            Kind::Xfs => run(Command::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]).arg(&image)),
            Kind::Ramfs => {}
        }
        match kind {
            Kind::Ext4 | Kind::Xfs => {
                run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mountpoint));
            }
            Kind::Ramfs => run(Command::new("mount").args(["-t", "ramfs", "none"]).arg(&mountpoint)),
        }
        Self { mountpoint, _folder: folder }
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        // Lazily: whatever a failed test left open may not keep the mount in the table. The loop device goes with
        // the last file that is open on it. By a system call: other tests may run, so no program is started.
        let unmounted = rustix::mount::unmount(&self.mountpoint, UnmountFlags::DETACH);
        assert!(
            std::thread::panicking() || unmounted.is_ok(),
            "{} is still mounted",
            self.mountpoint.display()
        );
    }
}

impl Folder {
    fn new(file_system: Arc<FileSystem>, user: Option<RwLockReadGuard<'static, ()>>) -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let path = file_system.mountpoint.join(format!("folder-{number}"));
        std::fs::create_dir(&path).unwrap();
        Self { path, user, _file_system: file_system }
    }

    /// Lets others run alone beside this folder: for a test that does so itself.
    pub fn released(mut self) -> Self {
        self.user = None;
        self
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
