//! What the service manager is told: that the mount answers, that it ends, and, as long as the mount answers, that the
//! daemon lives.

use std::fs;
use std::path::{Path, PathBuf};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::DaemonError;
use crate::sysio::service_manager;

/// A file of the tree whose attributes the kernel asks for each time, and which costs little to look at.
const PROBED: &str = "events";

/// Looks into the mount, and tells that the daemon is ready. What is returned is to be kept for as long as the mount is
/// to be watched over.
pub(super) fn ready(mountpoint: &Path) -> Result<Option<Watchdog>, DaemonError> {
    match fs::metadata(mountpoint.join(PROBED)) {
        Ok(_) => tell(&format!("READY=1\nSTATUS=serving {}", mountpoint.display())),
        // Somebody may have unmounted it already, which ends the daemon in order.
        Err(error) => {
            tracing::warn!(%error, "the mount does not answer: the service manager is not told of it")
        }
    }
    let failed = |source| DaemonError::Io { what: "start the thread that watches over the mount", source };
    Watchdog::start(mountpoint.to_owned()).map_err(failed)
}

pub(super) fn stopping(status: &str) {
    tell(&format!("STOPPING=1\nSTATUS={status}"));
}

/// A service manager that does not hear us is no reason not to serve.
fn tell(state: &str) {
    if let Err(error) = service_manager::notify(state) {
        tracing::warn!(%error, "the service manager cannot be told of the daemon's state");
    }
}

/// A thread that tells the service manager that the daemon lives. When the mount stops answering it does not come back
/// from looking at it, and the service manager starts the daemon again.
pub(super) struct Watchdog {
    /// The thread ends when this is dropped.
    _watching: Sender<()>,
}

impl Watchdog {
    fn start(mountpoint: PathBuf) -> std::io::Result<Option<Self>> {
        let Some(interval) = service_manager::watchdog_interval() else { return Ok(None) };
        let (watching, ended) = bounded(0);
        let watch = move || {
            while ended.recv_timeout(interval / 3) == Err(RecvTimeoutError::Timeout) {
                // An error is an answer, too: whoever unmounts ends the daemon in another way.
                let _answered = fs::metadata(mountpoint.join(PROBED));
                tell("WATCHDOG=1");
            }
        };
        std::thread::Builder::new().name("watchdog".to_owned()).spawn(watch)?;
        Ok(Some(Self { _watching: watching }))
    }
}
