//! `amberfs mount --daemon`: starts this program again without a terminal, and waits until it serves the mount.
//!
//! A process that has threads cannot fork; one that starts anew can. Until it is ready the new process has the
//! caller's standard error, so that what hinders it is seen. Then it logs to a file.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use super::DaemonError;

/// Set for the process that is to serve.
const DETACHED: &str = "AMBERFS_DETACHED";
/// What it writes to standard output when the mount is ready.
const READY: &str = "ready";
/// Where a detached daemon logs, unless `AMBERFS_LOG_FILE` names another file.
const LOG_PATH: &str = "/var/log/amberfs.log";

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
    let log = std::env::var_os("AMBERFS_LOG_FILE");
    let log = log.as_deref().map_or(Path::new(LOG_PATH), Path::new);
    let file = OpenOptions::new().append(true).create(true).open(log);
    let file = file.or_else(|_| OpenOptions::new().append(true).open("/dev/null"));
    let file = file.map_err(failed("open /dev/null"))?;
    writeln!(std::io::stdout(), "{READY}").map_err(failed("answer the caller"))?;
    rustix::stdio::dup2_stdout(&file).map_err(|error| failed("leave the terminal")(error.into()))?;
    rustix::stdio::dup2_stderr(&file).map_err(|error| failed("leave the terminal")(error.into()))
}
