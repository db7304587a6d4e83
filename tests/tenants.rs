//! The daemon for several users: quotas as each project sees them, and a daemon that an ordinary user runs for himself.
//! Needs root, to become others.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a failed expectation is a failed test"
)]

mod support;

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};
use support::bytes::pattern;
use support::daemon::{Daemon, until};

const A: u32 = 5001;
const B: u32 = 5002;

/// A command that runs as a user with a group of his own, and nothing of root's environment.
fn as_user(user: u32, program: &str) -> Command {
    let mut command = Command::new("env");
    in_place_of(&mut command, user, program);
    command
}

/// Has a command go on as a program of this user.
fn in_place_of(command: &mut Command, user: u32, program: &str) {
    command.args(["setpriv".to_owned(), format!("--reuid={user}"), format!("--regid={user}")]);
    command.args(["--clear-groups", program]).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
}

fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A daemon that lets others in, with a source for each of two projects, and a volume in each.
struct Shared {
    daemon: Daemon,
    folder: tempfile::TempDir,
}

impl Shared {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut sections = String::from("[mount]\nallow_other = true\ncontrol_group = \"nogroup\"\n");
        for (project, user) in [("a", A), ("b", B)] {
            let volumes = folder.path().join(project);
            fs::create_dir(&volumes).unwrap();
            let mut volume = File::create(volumes.join("vol.raw")).unwrap();
            volume.write_all(&pattern(user.into(), 3 << 20)).unwrap();
            sections.push_str(&format!(
                "[source.of-{project}]\ntype = \"dir\"\npath = \"{}\"\n\
                 [project.{project}]\nsources = [\"of-{project}\"]\nuid = {user}\ngid = {user}\n\
                 quota = {{ backups = 7, gigabytes = 8 }}\n",
                volumes.display()
            ));
        }
        let daemon = Daemon::start(&sections);
        // Others than root have to come as far as the mount.
        fs::set_permissions(daemon.folder(), Permissions::from_mode(0o755)).unwrap();
        Self { daemon, folder }
    }

    fn cat(&self, user: u32, path: &str) -> Output {
        as_user(user, "cat").arg(self.daemon.mount().join(path)).output().unwrap()
    }

    fn quota(&self, user: u32, project: &str) -> Value {
        let output = self.cat(user, &format!("quotas/{project}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

#[test]
fn a_project_reads_what_it_uses_the_moment_that_it_uses_it() {
    let shared = Shared::start();
    let expected = |backups, volumes| {
        json!({
            "project": "a",
            "backups": { "limit": 7, "used": backups },
            "backup_gigabytes": { "limit": -1, "used": backups },
            "volumes": { "limit": -1, "used": volumes },
            "gigabytes": { "limit": 8, "used": volumes },
        })
    };
    // What is stored is proved where it is more than one backup's.
    let used = || {
        let mut quota = shared.quota(A, "a");
        assert!(quota.as_object_mut().unwrap().remove("stored_bytes").unwrap().is_u64());
        quota
    };
    assert_eq!(used(), expected(0, 1));
    shared.daemon.backup("of-a/vol --name one");
    assert_eq!(used(), expected(1, 1));
    shared.daemon.restore("one --name two");
    assert_eq!(used(), expected(1, 2));
    assert_eq!(shared.quota(B, "b")["backups"]["used"], 0, "what another project uses does not count");
    let path = shared.daemon.mount().join("quotas/a");
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!((metadata.mode() & 0o777, metadata.uid(), metadata.gid()), (0o440, A, A));
    assert!(!shared.cat(B, "quotas/a").status.success());
    let list = |user| succeeds(as_user(user, "ls").arg(shared.daemon.mount().join("quotas")));
    assert_eq!([list(A), list(B), list(0)], ["a\n", "b\n", "a\nb\n"]);

    // A source that does not answer is not one that is empty.
    let volumes = |name| shared.folder.path().join(name);
    succeeds(Command::new("mv").args([volumes("a"), volumes("away")]));
    let quota = until("the source to be missed", || {
        Some(shared.quota(A, "a")).filter(|quota| quota["volumes"]["used"].is_null())
    });
    assert_eq!([&quota["gigabytes"]["used"], &quota["backups"]["used"]], [&Value::Null, &json!(1)]);
    succeeds(Command::new("mv").args([volumes("away"), volumes("a")]));
    until("the source to answer", || (used() == expected(1, 2)).then_some(()));
}

#[test]
fn a_mount_lets_others_in_only_when_it_is_configured_to() {
    let volumes = tempfile::tempdir().unwrap();
    let path = volumes.path().display();
    let daemon = Daemon::start(&format!("[source.local]\ntype = \"dir\"\npath = \"{path}\"\n"));
    fs::set_permissions(daemon.folder(), Permissions::from_mode(0o755)).unwrap();
    let output = as_user(A, "ls").arg(daemon.mount()).output().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty());
}

#[test]
fn nobody_reads_in_the_repository_what_the_mount_does_not_tell_him() {
    let shared = Shared::start();
    shared.daemon.backup("of-a/vol --name one");
    let repository = shared.daemon.folder().join("repository");
    let open_to_others = ["-mindepth", "1", "-perm", "/077"];
    assert_eq!(succeeds(Command::new("find").arg(&repository).args(open_to_others)), "");
}

#[test]
fn the_control_files_are_of_the_group_that_the_configuration_names() {
    let shared = Shared::start();
    let control = fs::metadata(shared.daemon.mount().join("control/backup")).unwrap();
    assert_eq!((control.mode() & 0o777, control.uid(), control.gid()), (0o660, 0, 65534));
}

/// An ordinary user with a home in which his volumes, his repository and his mount are.
///
/// In a mount namespace of its own, where everybody may open the FUSE device as on any desktop and server: in the
/// containers that tests run in only root may.
struct Home {
    folder: tempfile::TempDir,
    /// Keeps the namespace; ends with its standard input.
    namespace: Child,
}

/// `nobody`: fusermount3 serves users that have a name only.
const USER: u32 = 65534;

const NAMESPACE: &str = "set -e; mount -t tmpfs -o mode=755 tmpfs \"$1\"; mknod -m 666 \"$1/fuse\" c 10 229; \
                         mount --bind \"$1/fuse\" /dev/fuse; echo ready; cat";

impl Home {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        chown(folder.path(), Some(USER), Some(USER)).unwrap();
        for name in ["v", "mnt", "dev"] {
            fs::create_dir(folder.path().join(name)).unwrap();
            chown(folder.path().join(name), Some(USER), Some(USER)).unwrap();
        }
        let mut namespace = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", NAMESPACE, "sh"])
            .arg(folder.path().join("dev"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        namespace.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        Self { folder, namespace }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn volume(&self, name: &str, bytes: &[u8]) {
        let path = self.path("v").join(name);
        File::create(&path).unwrap().write_all(bytes).unwrap();
        chown(&path, Some(USER), Some(USER)).unwrap();
    }

    /// A command in the namespace, in the home.
    fn command(&self, user: u32, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.namespace.id()));
        command.arg(format!("--wdns={}", self.folder.path().display()));
        in_place_of(&mut command, user, program);
        command.env("HOME", self.folder.path()).env("AMBERFS_MOUNT", self.path("mnt"));
        command
    }

    fn amberfs(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(USER, env!("CARGO_BIN_EXE_amberfs"));
        command.args(arguments);
        command
    }

    fn mount(&self, more: &[&str]) -> Command {
        let mut command = self.amberfs(&["mount", "--repo", "r", "--volumes", "v", "mnt"]);
        command.args(more);
        command
    }

    /// Starts a daemon in the foreground and waits until it serves.
    fn serve(&self) -> Child {
        let mut process = self.mount(&[]).stdout(Stdio::null()).spawn().unwrap();
        until("the mount", || {
            assert_eq!(process.try_wait().unwrap(), None, "the daemon ended");
            self.read("mnt/status.json")
        });
        process
    }

    /// Reads a file as the user, who alone may.
    fn read(&self, path: &str) -> Option<Vec<u8>> {
        let output = self.command(USER, "cat").arg(path).output().unwrap();
        output.status.success().then_some(output.stdout)
    }

    fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string(format!("/proc/{}/mounts", self.namespace.id())).unwrap();
        mounts.lines().any(|line| line.split(' ').nth(1) == self.path("mnt").to_str())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.is_mounted() {
            // A daemon ends when it is unmounted.
            let _ = self.command(0, "umount").args(["--lazy", "mnt"]).status();
        }
        drop(self.namespace.stdin.take());
        let _ = self.namespace.wait();
    }
}

#[test]
fn an_ordinary_user_backs_up_and_restores_his_own_volumes() {
    let home = Home::new();
    let bytes = pattern(1, 2 << 20);
    home.volume("vol.raw", &bytes);
    succeeds(&mut home.mount(&["--daemon"]));
    let shown = succeeds(&mut home.amberfs(&["backup", "create", "vol", "--name", "one", "-f", "json"]));
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["status"], &shown["project"]), (&json!("available"), &json!("default")));
    assert!(home.read("mnt/volumes/local/vol/latest/image").unwrap() == bytes);
    let stat = ["-Lc", "%a %u %g", "mnt/volumes/local/vol/one"];
    let stat = succeeds(home.command(USER, "stat").args(stat));
    assert_eq!(stat, format!("550 {USER} {USER}\n"), "what he makes is his");
    succeeds(&mut home.amberfs(&["backup", "restore", "one", "--name", "again"]));
    assert!(fs::read(home.path("v/again.raw")).unwrap() == bytes);
    assert_eq!(fs::metadata(home.path("v/again.raw")).unwrap().uid(), USER);
    let root = home.command(0, "ls").arg("mnt").output().unwrap();
    assert!(!root.status.success(), "root, who is somebody else, comes in");
    succeeds(&mut home.amberfs(&["umount"]));
    assert!(!home.is_mounted());
    // Where /var/log is root's, the log is in his home.
    let log = fs::read_to_string(home.path(".local/state/amberfs/amberfs.log")).unwrap();
    assert!(log.contains("ended"), "{log}");

    succeeds(home.mount(&["--daemon"]).env("XDG_STATE_HOME", home.path("state")));
    assert!(home.read("mnt/volumes/local/vol/one/image").unwrap() == bytes, "it is there after a restart");
    succeeds(&mut home.amberfs(&["umount"]));
    assert!(fs::read_to_string(home.path("state/amberfs.log")).unwrap().contains("ended"));
}

#[test]
fn an_ordinary_user_who_starts_again_after_a_kill_is_served() {
    let home = Home::new();
    let bytes = pattern(2, 1 << 20);
    home.volume("vol.raw", &bytes);
    let mut process = home.serve();
    succeeds(&mut home.amberfs(&["backup", "create", "vol"]));
    // The commands before it have become the daemon.
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(home.is_mounted(), "a kill leaves the mount");
    let mut process = home.serve();
    assert!(home.read("mnt/volumes/local/vol/latest/image").unwrap() == bytes);
    let pid = rustix::process::Pid::from_child(&process);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = until("the end of the daemon", || process.try_wait().unwrap());
    assert!(status.success());
    assert!(!home.is_mounted());
}
