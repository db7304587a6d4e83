//! A mounted amberfs, from the mount to its end, whoever ends it.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use fuser::{Config, MountOption, Session, SessionACL, SessionUnmounter};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::FuseError;
use super::mountpoint::{self, Device};
use super::server::Server;
use crate::vfs::Vfs;

/// What stands in the mount table in front of the mountpoint, and behind `fuse.` as its type.
const NAME: &str = "amberfs";

const DEVICE: &str = "/dev/fuse";

/// More than cores, as some wait for the disk.
const THREADS_MIN: usize = 4;

/// So long an unmount waits for the requests that are under way.
const UNMOUNT_WAITS: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct FuseOptions {
    /// An empty directory.
    pub mountpoint: PathBuf,
    /// Let other users than the daemon's in; the kernel then checks owners and modes.
    pub allow_other: bool,
}

/// A mounted amberfs. Dropped, it is unmounted, lazily when somebody uses it.
pub struct FuseSession {
    mountpoint: PathBuf,
    device: Option<Device>,
    unmounter: Mutex<SessionUnmounter>,
    ended: Receiver<()>,
}

/// What an unmount came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmounted {
    /// Nobody uses the file system any more.
    Gone,
    /// It is out of the tree, but somebody has something of it open and is served until he closes it or we end.
    InUse,
}

/// Mounts the tree; it is served when this returns.
pub fn mount(vfs: Arc<Vfs>, options: FuseOptions) -> Result<FuseSession, FuseError> {
    let mountpoint = mountpoint::prepare(&options.mountpoint)?;
    let server = Server::new(vfs).map_err(|source| FuseError::Threads { source })?;
    let failed = |source| FuseError::Mount { path: mountpoint.clone(), source };
    let mut session = Session::new(server, &mountpoint, &config(&options)).map_err(failed)?;
    let unmounter = Mutex::new(session.unmount_callable());
    let (serving, ended) = bounded::<()>(0);
    let serve = move || {
        if let Err(error) = session.run() {
            tracing::error!(%error, "serving the mount ended with an error");
        }
        drop(serving);
    };
    std::thread::Builder::new()
        .name("fuse".to_owned())
        .spawn(serve)
        .map_err(|source| FuseError::Threads { source })?;
    let device = mountpoint::device(&mountpoint).ok();
    if let Some(device) = device {
        mountpoint::raise_read_ahead(device);
    }
    Ok(FuseSession { mountpoint, device, unmounter, ended })
}

fn config(options: &FuseOptions) -> Config {
    let mut config = Config::default();
    // fuser's `Subtype` reaches the kernel only through fusermount3; written like this it always does.
    let subtype = MountOption::CUSTOM(format!("subtype={NAME}"));
    config.mount_options = vec![MountOption::FSName(NAME.to_owned()), subtype, MountOption::NoAtime];
    if options.allow_other {
        config.mount_options.push(MountOption::DefaultPermissions);
        config.acl = SessionACL::All;
    }
    let cores = std::thread::available_parallelism().map_or(THREADS_MIN, std::num::NonZero::get);
    config.n_threads = Some(cores.max(THREADS_MIN));
    // Who got the device from fusermount3 may not be let to open it himself: then all threads share what he got.
    config.clone_fd = OpenOptions::new().read(true).write(true).open(DEVICE).is_ok();
    config
}

impl FuseSession {
    /// Returns a channel that is disconnected when the file system is unmounted, by us or from outside. Nothing is sent
    /// in it.
    pub fn unmounted(&self) -> &Receiver<()> {
        &self.ended
    }

    /// Unmounts, lazily when somebody uses the file system, and waits for the requests that are under way.
    pub fn unmount(&self) -> Unmounted {
        self.leave();
        match self.ended.recv_timeout(UNMOUNT_WAITS) {
            Err(crossbeam_channel::RecvTimeoutError::Disconnected) => Unmounted::Gone,
            _ => {
                tracing::warn!(mountpoint = %self.mountpoint.display(), "unmounted, but something in it is still open");
                Unmounted::InUse
            }
        }
    }

    /// Takes the mount out of the tree. By its path, so it must still be ours.
    fn leave(&self) {
        let is_ours = self.device.is_none_or(|device| mountpoint::is_mounted(&self.mountpoint, device));
        if !is_ours || self.has_ended() {
            return;
        }
        let unmount = |flags| rustix::mount::unmount(&self.mountpoint, flags | UnmountFlags::NOFOLLOW);
        let left = match unmount(UnmountFlags::empty()) {
            Err(Errno::BUSY) => unmount(UnmountFlags::DETACH),
            left => left,
        };
        let left = match left {
            // Who is not root needs fusermount3, which fuser calls.
            Err(Errno::PERM) => self.unmounter.lock().unwrap_or_else(PoisonError::into_inner).unmount(),
            left => left.map_err(Into::into),
        };
        if let Err(error) = left {
            tracing::warn!(mountpoint = %self.mountpoint.display(), %error, "cannot unmount");
        }
    }

    fn has_ended(&self) -> bool {
        self.ended.try_recv() == Err(crossbeam_channel::TryRecvError::Disconnected)
    }
}

impl Drop for FuseSession {
    fn drop(&mut self) {
        self.leave();
    }
}
