//! The daemon as a process: signals, unmounts, kills, a second daemon on one repository, and what the next start finds.
//! Volumes are files, so no Ceph is needed.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a failed expectation is a failed test"
)]

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::io::Errno;
use support::daemon::{Daemon, until};

/// A daemon over a directory of images.
struct Local {
    daemon: Daemon,
    volumes: tempfile::TempDir,
}

impl Local {
    fn start(more: &str) -> Self {
        Self::start_with("", more)
    }

    fn start_with(repository_lines: &str, more: &str) -> Self {
        let volumes = tempfile::tempdir().unwrap();
        let source =
            format!("{more}\n[source.local]\ntype = \"dir\"\npath = \"{}\"\n", volumes.path().display());
        Self { daemon: Daemon::start_with(repository_lines, &source), volumes }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.volumes.path().join(name)
    }

    /// Makes a volume of bytes that do not repeat.
    fn volume(&self, name: &str, mib: usize) -> Vec<u8> {
        let mut state = name.len() as u64 + 1;
        let bytes: Vec<u8> = (0..mib << 20)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                state.to_le_bytes()[7]
            })
            .collect();
        let mut file = File::create(self.path(&format!("{name}.raw"))).unwrap();
        file.write_all(&bytes).unwrap();
        bytes
    }
}

fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn sigterm_ends_the_daemon_in_order_and_the_next_start_has_every_backup() {
    let mut local = Local::start("");
    let bytes = local.volume("v", 8);
    let id = local.daemon.backup("v --name one");
    local.daemon.stop();
    local.daemon.serve();
    assert!(fs::read(local.daemon.image(&id)).unwrap() == bytes);
}

#[test]
fn a_stop_in_the_middle_of_a_backup_leaves_nothing_available_that_does_not_read_back() {
    for second_signal in [false, true] {
        let mut local = Local::start("");
        let bytes = local.volume("v", 96);
        let id = local.daemon.accepted("backup", "v\n", "backup");
        local.daemon.terminate();
        if second_signal {
            // The process ends at once, or has ended already.
            local.daemon.terminate();
        }
        local.daemon.wait();
        local.daemon.serve();
        let info = until("a settled state", || {
            let info = local.daemon.info(&id);
            (info["status"] != "creating").then_some(info)
        });
        match info["status"].as_str().unwrap() {
            "available" => assert!(fs::read(local.daemon.image(&id)).unwrap() == bytes),
            "error" => {
                assert!(info["fail_reason"].as_str().is_some_and(|reason| !reason.is_empty()));
                assert!(!local.daemon.image(&id).exists(), "there is an image of a failed backup");
            }
            other => panic!("the backup is {other}"),
        }
        let id = local.daemon.backup("v --name after");
        assert!(fs::read(local.daemon.image(&id)).unwrap() == bytes, "the next backup works");
        assert_eq!(entries(&local.daemon.folder().join("repository/tmp")), Vec::<String>::new());
    }
}

#[test]
fn kills_at_any_moment_lose_no_available_backup() {
    let mut local = Local::start("");
    let mut bytes = local.volume("v", 24);
    let mut available = vec![(local.daemon.backup("v"), bytes.clone())];
    for round in 0..8_u64 {
        // A change that is different each time, at another place.
        let change = vec![u8::try_from(round + 1).unwrap(); 700_000];
        let offset = round * 2_900_000 + 13;
        let file = OpenOptions::new().write(true).open(local.path("v.raw")).unwrap();
        file.write_all_at(&change, offset).unwrap();
        drop(file);
        bytes[offset as usize..][..change.len()].copy_from_slice(&change);
        let answer = local.daemon.say("backup", "v --incremental\n").answer;
        let value = |key| answer.split_whitespace().find_map(|pair| pair.strip_prefix(key)).unwrap();
        let (id, job) = (value("backup=").to_owned(), value("job="));
        // The kill meets the job a little later each time.
        until("the moment of the kill", || {
            let done = local.daemon.job(job);
            let reached = done["bytes_done"].as_u64().unwrap() >= round << 21;
            (reached || done["state"] != "running" && done["state"] != "queued").then_some(())
        });
        local.daemon.kill();
        if round % 2 == 1 {
            fs::remove_dir_all(local.daemon.folder().join("repository/index")).unwrap();
        }
        local.daemon.serve();
        if local.daemon.info(&id)["status"] == "available" {
            available.push((id, bytes.clone()));
        } else {
            assert!(!local.daemon.image(&id).exists());
        }
        for (id, bytes) in &available {
            assert!(
                fs::read(local.daemon.image(id)).unwrap() == *bytes,
                "backup {id} differs after kill {round}"
            );
        }
    }
}

#[test]
fn an_unmount_from_outside_ends_the_daemon() {
    let mut local = Local::start("");
    let output = local.daemon.cli(&["umount"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(local.daemon.wait().success());
    assert!(!local.daemon.is_mounted());
}

#[test]
fn a_second_daemon_on_one_repository_reads_and_does_not_write() {
    let local = Local::start("");
    let bytes = local.volume("v", 4);
    let id = local.daemon.backup("v");
    let mountpoint = tempfile::tempdir().unwrap();
    let mut second = Command::new(env!("CARGO_BIN_EXE_amberfs"))
        .args(["mount", "--repo"])
        .arg(local.daemon.folder().join("repository"))
        .arg("--volumes")
        .arg(local.volumes.path())
        .arg(mountpoint.path())
        .spawn()
        .unwrap();
    until("the second mount", || fs::read(mountpoint.path().join("status.json")).ok());
    assert!(fs::read(mountpoint.path().join(format!("backups/{id}/image"))).unwrap() == bytes);
    let written = OpenOptions::new()
        .write(true)
        .open(mountpoint.path().join("control/backup"))
        .unwrap()
        .write_all(b"v\n");
    assert_eq!(written.unwrap_err().raw_os_error(), Some(Errno::ROFS.raw_os_error()));
    let answer = fs::read_to_string(mountpoint.path().join("control/backup")).unwrap();
    assert!(answer.starts_with("error: ReadOnly: "), "{answer}");
    let umount = Command::new("umount").arg(mountpoint.path()).status().unwrap();
    assert!(umount.success());
    assert!(until("the end of the second daemon", || second.try_wait().unwrap()).success());
}

#[test]
fn a_start_that_cannot_be_says_why_and_leaves_nothing_mounted() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["mnt", "volumes", "full"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    File::create(folder.path().join("full/file")).unwrap();
    let start = |repo: &str, volumes: &str, mnt: &str| {
        let path = |name: &str| folder.path().join(name);
        let output = Command::new(env!("CARGO_BIN_EXE_amberfs"))
            .arg("mount")
            .arg("--repo")
            .arg(path(repo))
            .arg("--volumes")
            .arg(path(volumes))
            .arg(path(mnt))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(start("full", "volumes", "mnt").contains("holds no amberfs repository"));
    assert!(start("repo", "nosuch", "mnt").contains("nosuch"));
    assert!(start("repo", "volumes", "nosuch").contains("nosuch"));
    assert!(start("repo", "volumes", "full").contains("full"));
}

#[test]
fn the_command_line_does_the_whole_job() {
    let local = Local::start("");
    let bytes = local.volume("my volume", 2);
    let run = |arguments: &[&str]| {
        let output = local.daemon.cli(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let show = run(&[
        "backup",
        "create",
        "my volume",
        "--name",
        "a name",
        "--description",
        "x 'y'",
        "--property",
        "k=v",
        "-f",
        "json",
    ]);
    let backup: serde_json::Value = serde_json::from_str(&show).unwrap();
    assert_eq!((&backup["status"], &backup["description"]), (&"available".into(), &"x 'y'".into()));
    assert_eq!(backup["properties"]["k"], "v");
    run(&["backup", "create", "local/my volume", "--incremental", "--name", "second"]);
    assert!(run(&["backup", "list", "-f", "value", "-c", "Name"]).lines().eq(["second", "a name"]));
    run(&["backup", "restore", "a name", "--name=-restored-"]);
    assert!(fs::read(local.path("-restored-.raw")).unwrap() == bytes);
    run(&["backup", "restore", "second", "--to", "local/-restored-", "--force"]);
    assert!(run(&["volume", "list", "-f", "value", "-c", "Name"]).contains("my volume"));
    assert_eq!(run(&["job", "list", "-f", "value", "-c", "State"]), "done\n".repeat(4));

    let refused = local.daemon.cli(&["backup", "create", "nosuch"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("VolumeNotFound"));
    assert_eq!(local.daemon.cli(&["backup", "create"]).status.code(), Some(2));
}

#[test]
fn memory_stays_below_the_limits_however_large_the_volume_and_however_many_the_backups() {
    let local = Local::start_with("cache = \"64MiB\"", "[limits]\nmemory = \"64MiB\"\nmax_operations = 4\n");
    let names: Vec<String> = (0..4).map(|n| format!("v{}", "x".repeat(n))).collect();
    for name in &names {
        local.volume(name, 96);
    }
    for round in 0..8 {
        let option = if round == 0 { "" } else { " --incremental" };
        let lines: String = names.iter().map(|name| format!("{name}{option}\n")).collect();
        let said = local.daemon.say("backup", &lines);
        assert!(said.write.is_ok(), "{}", said.answer);
        for line in said.answer.lines() {
            let job = line.split_whitespace().find_map(|pair| pair.strip_prefix("job=")).unwrap();
            local.daemon.done(job);
        }
        for name in &names {
            // A part of each block of the chunk grid: the next comparison loads every chunk.
            let file = OpenOptions::new().write(true).open(local.path(&format!("{name}.raw"))).unwrap();
            for block in 0..96 << 4 {
                file.write_all_at(&[round + 1; 512], (block << 16) + 5).unwrap();
            }
        }
    }
    let status = fs::read_to_string(format!("/proc/{}/status", local.daemon.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    // The limit of what is under way, the cache, and what any process needs: code, stacks, buffers of requests.
    assert!(peak_kib < (64 + 64 + 150) << 10, "{peak_kib} KiB resident at the peak");
}
