//! The daemon as a service of systemd: what it tells the service manager and when, and the unit file.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use super::Watched;
use super::support::daemon::PATIENCE;

/// The service manager's end.
struct Manager {
    socket: UnixDatagram,
    path: std::path::PathBuf,
}

impl Manager {
    fn new(folder: &Path) -> Self {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, path }
    }

    fn hear(&self) -> String {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    fn hear_nothing(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        let heard = self.socket.recv(&mut [0; 4096]);
        heard.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }
}

fn has(message: &str, line: &str) -> bool {
    message.lines().any(|told| told == line)
}

#[test]
fn it_is_ready_when_the_mount_answers_and_stopping_when_it_ends() {
    let mut watched = Watched::start();
    watched.daemon.stop();
    let manager = Manager::new(watched.daemon.folder());
    let mut process = watched.daemon.spawn(|command| {
        command.env("NOTIFY_SOCKET", &manager.path);
    });
    let ready = manager.hear();
    // At once, and not after a while.
    let status = fs::read_to_string(watched.daemon.mount().join("status.json"));
    assert!(status.is_ok_and(|status| status.contains("\"health\"")), "{}", watched.daemon.log());
    assert!(has(&ready, "READY=1") && ready.contains("STATUS=serving "), "{ready}");
    let pid = i32::try_from(process.process.id()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(has(&manager.hear(), "STOPPING=1"));
    assert!(process.wait().success());
    assert!(manager.hear_nothing());
}

#[test]
fn a_start_that_fails_is_never_ready() {
    let mut watched = Watched::start();
    watched.daemon.stop();
    fs::write(watched.daemon.mount().join("in-the-way"), "").unwrap();
    let manager = Manager::new(watched.daemon.folder());
    let mut process = watched.daemon.spawn(|command| {
        command.env("NOTIFY_SOCKET", &manager.path);
    });
    assert!(!process.wait().success());
    assert!(manager.hear_nothing());
}

#[test]
fn the_watchdog_hears_that_the_mount_answers() {
    let mut watched = Watched::start();
    watched.daemon.stop();
    let manager = Manager::new(watched.daemon.folder());
    watched.daemon.serve_with(|command| {
        command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "300000");
    });
    assert!(has(&manager.hear(), "READY=1"));
    for _ in 0..3 {
        assert_eq!(manager.hear(), "WATCHDOG=1");
    }
    watched.daemon.stop();
}

#[test]
fn the_unit_is_one_that_systemd_takes() {
    let unit = fs::read_to_string("scripts/amberfs.service").unwrap();
    assert!(unit.contains("\nType=notify\n"));
    // They give a service a mount namespace of its own, in which nobody else sees the mount.
    for option in [
        "PrivateTmp=",
        "ProtectSystem=",
        "ProtectHome=",
        "PrivateDevices=",
        "ProtectKernel",
        "ReadWritePaths=",
    ] {
        assert!(!unit.lines().any(|line| line.starts_with(option)), "{option}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("amberfs.service");
    fs::write(&path, unit.replace("/usr/local/bin/amberfs", env!("CARGO_BIN_EXE_amberfs"))).unwrap();
    match Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output() {
        Ok(output) => {
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() && told.is_empty(), "{told}");
        }
        Err(error) => eprintln!("systemd-analyze is not asked: {error}"),
    }
}
