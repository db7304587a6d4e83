//! A file system in memory whose every durable step is counted and can be made to fail, to tear, or to be the last
//! one before a kill or a power cut.
//!
//! A step is a request that changes what is on the disk, or makes a change durable: create, write, set a size, an
//! attribute, rename, remove, make a folder, sync a file, sync a folder. The kernel caches nothing, so the requests are
//! the system calls of whoever uses the file system, in their order.

mod disk;
mod serve;

use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::{BackgroundSession, Config, Errno, MountOption};
use rustix::mount::UnmountFlags;

pub use disk::{Disk, Survival};

/// What happens at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails, and nothing of it is done.
    Eio,
    Enospc,
    /// Half of a write is done, and then it fails. Any other step just fails.
    TornWrite,
    /// A sync fails once, and the kernel forgets what was dirty: later syncs succeed and prove nothing. Any other step
    /// is let through.
    SyncFailed,
    /// Neither this step nor anything after it happens: the process was killed, or the power failed.
    Cut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepKind {
    Create,
    Write,
    SetSize,
    Attribute,
    Rename,
    Remove,
    MakeFolder,
    Sync,
    SyncFolder,
}

/// One step, as it is told when a case fails.
#[derive(Debug, Clone)]
pub struct Step {
    pub kind: StepKind,
    pub what: String,
}

pub struct FaultFs {
    shared: Arc<Mutex<Shared>>,
    mountpoint: tempfile::TempDir,
    _session: BackgroundSession,
}

struct Shared {
    disk: Disk,
    steps: Vec<Step>,
    plan: Option<(usize, Fault)>,
    /// Nothing happens any more.
    is_cut: bool,
    /// Told when the cut comes.
    on_cut: Option<Box<dyn FnOnce() + Send>>,
    listings: serve::Listings,
}

impl FaultFs {
    pub fn mount(disk: Disk) -> Self {
        let mountpoint = tempfile::tempdir().unwrap();
        let shared = Shared {
            disk,
            steps: Vec::new(),
            plan: None,
            is_cut: false,
            on_cut: None,
            listings: serve::Listings::default(),
        };
        let shared = Arc::new(Mutex::new(shared));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("faultfs".to_owned())];
        let server = serve::Server::new(Arc::clone(&shared));
        let session = fuser::spawn_mount(server, mountpoint.path(), &config).unwrap();
        Self { shared, mountpoint, _session: session }
    }

    pub fn path(&self) -> &Path {
        self.mountpoint.path()
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the steps from here on, and lets a fault happen at one of them: the first is step 0.
    pub fn arm(&self, plan: Option<(usize, Fault)>) {
        let mut shared = self.lock();
        shared.steps.clear();
        shared.plan = plan;
    }

    /// Sends something when the cut has come.
    pub fn tell_cut<T: Send + 'static>(&self, channel: Sender<T>, message: T) {
        // Nobody may be waiting any more.
        self.lock().on_cut = Some(Box::new(move || drop(channel.send(message))));
    }

    /// The steps since the file system was armed.
    pub fn steps(&self) -> Vec<Step> {
        self.lock().steps.clone()
    }

    pub fn is_cut(&self) -> bool {
        self.lock().is_cut
    }

    /// Whether the process is dead, for what is on other file systems.
    pub fn watch(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move || shared.lock().unwrap_or_else(PoisonError::into_inner).is_cut
    }

    /// From now on nothing happens any more.
    pub fn cut(&self) {
        self.lock().cut();
    }

    /// What is on the disk for a restart.
    pub fn disk_after(&self, survival: Survival) -> Disk {
        self.lock().disk.after(survival)
    }
}

impl Drop for FaultFs {
    fn drop(&mut self) {
        // Lazily: what died may have something open still.
        let path: PathBuf = self.mountpoint.path().to_owned();
        let unmounted = rustix::mount::unmount(&path, UnmountFlags::DETACH);
        assert!(unmounted.is_ok() || std::thread::panicking(), "{} is still mounted", path.display());
    }
}

/// How a step goes on.
enum Way {
    Whole,
    HalfThen(Errno),
    DropDirty,
}

impl Shared {
    fn cut(&mut self) {
        self.is_cut = true;
        if let Some(tell) = self.on_cut.take() {
            tell();
        }
    }

    /// Refuses everything after the cut.
    fn alive(&self) -> Result<(), Errno> {
        if self.is_cut { Err(Errno::EIO) } else { Ok(()) }
    }

    fn step(&mut self, kind: StepKind, what: String) -> Result<Way, Errno> {
        self.alive()?;
        let number = self.steps.len();
        self.steps.push(Step { kind, what });
        let fault = self.plan.filter(|(at, _)| *at == number).map(|(_, fault)| fault);
        match fault {
            None => Ok(Way::Whole),
            Some(Fault::Eio) => Err(Errno::EIO),
            Some(Fault::Enospc) => Err(Errno::ENOSPC),
            Some(Fault::TornWrite) if kind == StepKind::Write => Ok(Way::HalfThen(Errno::EIO)),
            Some(Fault::TornWrite) => Err(Errno::EIO),
            Some(Fault::SyncFailed) if kind == StepKind::Sync => Ok(Way::DropDirty),
            Some(Fault::SyncFailed) => Ok(Way::Whole),
            Some(Fault::Cut) => {
                self.cut();
                Err(Errno::EIO)
            }
        }
    }
}
