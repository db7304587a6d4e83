//! One writer at a time: an advisory lock on a file, given back by the kernel when its holder dies.
//!
//! The file says who holds it, for people. Nothing is decided by what it says: a holder that has died may have left it.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::{PathError, clock, process};
use crate::types::Timestamp;

/// Longer than any text that is written here.
const TEXT_BYTES_MAX: u64 = 4096;

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockHolder {
    pub host: String,
    pub pid: u32,
    pub since: Timestamp,
    /// With the host's and the process's number it tells the holder from any other process.
    #[serde(default)]
    boot_id: Option<String>,
    #[serde(default)]
    started_ticks: Option<u64>,
}

impl LockHolder {
    fn this_process() -> Self {
        let pid = std::process::id();
        Self {
            host: process::host_name().unwrap_or_default(),
            pid,
            since: clock::now(),
            boot_id: process::boot_id(),
            started_ticks: process::started_ticks(pid),
        }
    }

    /// Is the process known to be gone? Of another machine's it is not known.
    fn has_died(&self) -> bool {
        if self.boot_id == process::boot_id() {
            return self.started_ticks != process::started_ticks(self.pid);
        }
        process::host_name().is_some_and(|host| host == self.host)
    }
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} on {:?}, since {}", self.pid, self.host, self.since)
    }
}

/// Holds the lock until dropped.
#[derive(Debug)]
pub struct FileLock {
    file: File,
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Who comes next finds out by the lock itself; the text only is not to name the wrong one for long.
        let _ = self.file.set_len(0);
    }
}

/// Takes the lock, or returns `None` when somebody else holds it. A link is refused: a file would be made where it ends.
pub fn try_lock(path: &Path) -> Result<Option<FileLock>, PathError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(|error| PathError::new("open", path, error))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            let lock = FileLock { file };
            lock.sign();
            Ok(Some(lock))
        }
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(PathError::new("lock", path, error)),
    }
}

impl FileLock {
    /// Writes who holds it. A disk that is full keeps nobody from holding it.
    fn sign(&self) {
        let text = serde_json::to_string(&LockHolder::this_process()).unwrap_or_default();
        let written = self.file.set_len(0).and_then(|()| self.file.write_all_at(text.as_bytes(), 0));
        if let Err(error) = written {
            tracing::warn!(%error, "the lock does not say who holds it");
        }
    }
}

/// Returns who holds a lock that is held, as far as its file tells and that process may still be there.
pub fn holder(path: &Path) -> Option<LockHolder> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(TEXT_BYTES_MAX).read_to_end(&mut text).ok()?;
    let holder: LockHolder = serde_json::from_slice(&text).ok()?;
    (!holder.has_died()).then_some(holder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_has_one_holder_and_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = try_lock(&path).unwrap();
        assert!(first.is_some());
        assert!(try_lock(&path).unwrap().is_none());
        assert_eq!(holder(&path).map(|holder| holder.pid), Some(std::process::id()));
        drop(first);
        assert_eq!(holder(&path), None);
        assert!(try_lock(&path).unwrap().is_some());
    }

    #[test]
    fn what_a_dead_holder_left_names_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let mut left = LockHolder::this_process();
        let write = |left: &LockHolder| {
            let file = File::create(&path).unwrap();
            file.write_all_at(&serde_json::to_vec(left).unwrap(), 0).unwrap();
        };
        write(&left);
        assert_eq!(holder(&path).as_ref(), Some(&left));
        // Another process has that number now.
        left.started_ticks = left.started_ticks.map(|ticks| ticks + 1);
        write(&left);
        assert_eq!(holder(&path), None);
        // The machine was started again since.
        left = LockHolder { boot_id: Some("before".to_owned()), ..LockHolder::this_process() };
        write(&left);
        assert_eq!(holder(&path), None);
        // Of another machine's processes nothing is known.
        left.host.push('x');
        write(&left);
        assert_eq!(holder(&path), Some(left));
        File::create(&path).unwrap().write_all_at(b"{\"host\"", 0).unwrap();
        assert_eq!(holder(&path), None, "half a text");
    }
}
