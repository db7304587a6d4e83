//! `amberfs mount --daemon`: starts this program again without a terminal, and waits until it serves the mount.
//!
//! A process that has threads cannot fork; one that starts anew can. Until it is ready the new process has the
//! caller's standard error, so that what hinders it is seen. Then it logs to a file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::DaemonError;

/// Set for the process that is to serve.
const DETACHED: &str = "AMBERFS_DETACHED";
/// What it writes to standard output when the mount is ready.
const READY: &str = "ready";
/// Where a detached daemon logs, unless `AMBERFS_LOG_FILE` names another file or its user may not write there.
const LOG_PATH: &str = "/var/log/amberfs.log";
/// Where it logs then: below `XDG_STATE_HOME`, or below the user's home.
const STATE_LOG_PATH: &str = "amberfs.log";
const HOME_LOG_PATH: &str = ".local/state/amberfs/amberfs.log";

pub(super) fn is_detached() -> bool {
    std::env::var_os(DETACHED).is_some()
}

/// Starts the detached process; returns when the mount is ready, or with an error when it will not be.
pub(super) fn spawn() -> Result<(), DaemonError> {
    let failed = |what| move |source| DaemonError::Io { what, source };
    let program = std::env::current_exe().map_err(failed("find this program"))?;
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(DETACHED, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed("start the daemon"))?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).map_err(failed("hear from the daemon"))?;
    }
    if line.trim_end() == READY {
        return Ok(());
    }
    let _ = child.wait();
    Err(DaemonError::DetachedFailed)
}

/// Tells the caller that the mount is ready, and lets go of its terminal.
pub(super) fn report_ready() -> Result<(), DaemonError> {
    let failed = |what| move |source: std::io::Error| DaemonError::Io { what, source };
    // Fails only for the leader of a process group, which has no terminal to lose.
    let _ = rustix::process::setsid();
    let file = match log_paths().iter().find_map(|path| open_log(path).ok()) {
        Some(file) => file,
        None => OpenOptions::new().append(true).open("/dev/null").map_err(failed("open /dev/null"))?,
    };
    writeln!(std::io::stdout(), "{READY}").map_err(failed("answer the caller"))?;
    rustix::stdio::dup2_stdout(&file).map_err(|error| failed("leave the terminal")(error.into()))?;
    rustix::stdio::dup2_stderr(&file).map_err(|error| failed("leave the terminal")(error.into()))
}

/// Returns where to log, the best place first.
fn log_paths() -> Vec<PathBuf> {
    let path_in = |variable| std::env::var_os(variable).map(PathBuf::from);
    if let Some(named) = path_in("AMBERFS_LOG_FILE") {
        return vec![named];
    }
    // A relative path is none, says the standard of these variables.
    let state = path_in("XDG_STATE_HOME").filter(|path| path.is_absolute());
    let state = state.map(|path| path.join(STATE_LOG_PATH));
    let home = path_in("HOME").filter(|path| path.is_absolute()).map(|path| path.join(HOME_LOG_PATH));
    [Some(PathBuf::from(LOG_PATH)), state, home].into_iter().flatten().collect()
}

fn open_log(path: &Path) -> io::Result<File> {
    let open = || OpenOptions::new().append(true).create(true).open(path);
    match (open(), path.parent()) {
        (Err(error), Some(folder)) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(folder)?;
            open()
        }
        (opened, _) => opened,
    }
}
