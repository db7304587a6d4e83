//! `amberfs umount`: unmounts an amberfs, and nothing else.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use serde_json::Value;

use super::error::CliError;
use super::mount_table;

/// The mount leaves the table with the call, but for a daemon that is mounted in several namespaces.
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// Jobs that a stop meets in the middle of a request take a while.
const ENDED_WITHIN: Duration = Duration::from_secs(30);
const POLLED_EVERY: Duration = Duration::from_millis(20);

pub fn run(named: Option<PathBuf>) -> Result<(), CliError> {
    let mounts = mount_table::amberfs_mounts()?;
    let directory = match named {
        Some(named) => named,
        None => only(&mounts)?,
    };
    let path = resolved(&directory)?;
    let count = |mounts: &[PathBuf]| mounts.iter().filter(|mount| **mount == path).count();
    let before = count(&mounts);
    let failed = |why: String| CliError::Unmount { path: path.clone(), why };
    if before == 0 {
        return Err(failed("no amberfs is mounted there".to_owned()));
    }
    let daemon = daemon_pid(&path);
    match unmount(&path, UnmountFlags::NOFOLLOW) {
        Ok(()) => {}
        Err(Errno::BUSY) => {
            let why = "it is in use: a file in it is open, or a shell stands in it";
            let path = path.to_string_lossy();
            let quoted = shlex::try_quote(&path).unwrap_or_default();
            return Err(failed(format!("{why}; `fuser -vm {quoted}` names them")));
        }
        Err(Errno::PERM) => as_user(&path).map_err(failed)?,
        Err(errno) => return Err(failed(errno.to_string())),
    }
    let deadline = Instant::now() + GONE_WITHIN;
    while count(&mount_table::amberfs_mounts()?) >= before {
        if Instant::now() >= deadline {
            return Err(failed(format!("it is still mounted after {} seconds", GONE_WITHIN.as_secs())));
        }
        thread::sleep(POLLED_EVERY);
    }
    wait_for_end_of(daemon);
    Ok(())
}

/// Returns who serves the mount; `None` when it does not answer any more, or is not ours to read.
fn daemon_pid(path: &Path) -> Option<u64> {
    let status: Value = serde_json::from_slice(&fs::read(path.join("status.json")).ok()?).ok()?;
    status.get("pid")?.as_u64()
}

/// Waits until the daemon has let go of its repository, so that the next `amberfs mount` gets it. One that takes long
/// to stop its jobs is left to it.
fn wait_for_end_of(daemon: Option<u64>) {
    let Some(pid) = daemon else { return };
    let is_daemon = || {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        // The name of a process that has ended and that nobody has waited for yet is still there, its memory is not.
        name.trim_end() == "amberfs" && fs::read_link(format!("/proc/{pid}/exe")).is_ok()
    };
    let deadline = Instant::now() + ENDED_WITHIN;
    while is_daemon() && Instant::now() < deadline {
        thread::sleep(POLLED_EVERY);
    }
}

fn only(mounts: &[PathBuf]) -> Result<PathBuf, CliError> {
    match mounts {
        [] => Err(CliError::NoMount),
        [mount] => Ok(mount.clone()),
        _ => Err(CliError::SeveralMounts(mounts.to_vec())),
    }
}

/// Returns the path as the mount table has it, without looking into the mount itself: its daemon may be dead.
fn resolved(directory: &Path) -> Result<PathBuf, CliError> {
    let failed = |source| CliError::Io { what: "look at", path: directory.to_owned(), source };
    let absolute = std::path::absolute(directory).map_err(failed)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) if fs::symlink_metadata(&absolute).is_ok_and(|m| m.is_symlink()) => {
            let target = fs::read_link(parent.join(name)).map_err(failed)?;
            fs::canonicalize(parent.join(target)).map_err(failed)
        }
        (Some(parent), Some(name)) => Ok(fs::canonicalize(parent).map_err(failed)?.join(name)),
        _ => fs::canonicalize(&absolute).map_err(failed),
    }
}

/// Unmounts what this user has mounted; fusermount3 is the set-user-id program that may.
fn as_user(path: &Path) -> Result<(), String> {
    let output = Command::new("fusermount3").arg("-u").arg("--").arg(path).output();
    let output = output.map_err(|error| format!("it takes root, or fusermount3: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}
