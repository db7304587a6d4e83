//! The service manager that started this process, where one did: systemd's protocol of `sd_notify(3)`, which is a datagram
//! to a socket that the environment names. Too little for a crate.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Tells the service manager: `READY=1`, `STOPPING=1`, `WATCHDOG=1`, `STATUS=...`, one a line. Nothing without one.
pub fn notify(state: &str) -> io::Result<()> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(socket) => notify_at(&socket, state),
        None => Ok(()),
    }
}

fn notify_at(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

/// Returns how often at least the service manager wants to hear `WATCHDOG=1` of this process, if it does.
pub fn watchdog_interval() -> Option<Duration> {
    let number = |variable| std::env::var(variable).ok()?.parse::<u64>().ok();
    let is_for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    number("WATCHDOG_USEC").filter(|micros| is_for_us && *micros > 0).map(Duration::from_micros)
}

/// Does standard error go to systemd's journal? `JOURNAL_STREAM` names the file that did when the process was started.
pub fn logs_to_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(rustix::stdio::stderr())
        .is_ok_and(|file| named == format!("{}:{}", file.st_dev, file.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_manager_hears_at_a_path_and_at_an_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("amberfs-test-{}", uuid::Uuid::new_v4());
        let at_path = UnixDatagram::bind(&path).unwrap();
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let at_name = UnixDatagram::bind_addr(&address).unwrap();
        for (socket, named) in [(at_path, path.into_os_string()), (at_name, format!("@{name}").into())] {
            notify_at(&named, "READY=1\nSTATUS=x").unwrap();
            let mut heard = [0; 100];
            let length = socket.recv(&mut heard).unwrap();
            assert_eq!(&heard[..length], b"READY=1\nSTATUS=x");
        }
        assert!(notify_at(OsStr::new("/nonexistent/notify"), "READY=1").is_err());
    }
}
