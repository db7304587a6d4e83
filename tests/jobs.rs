//! What is remembered of jobs from one daemon to the next, and `events`, as processes see both. Volumes are files, so no
//! Ceph is needed; file systems are mounted, so root is.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a failed expectation is a failed test"
)]

mod support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;
use support::daemon::{Daemon, PATIENCE, until};
use support::file_system::{self, Kind};

/// So slow that a backup of `SLOW_MIB` is met while it runs, and runs for some seconds.
const SLOW: &str = "compression = \"zstd:19\"";
const SLOW_MIB: usize = 32;

fn daemon_over(volumes: &Path, repository_lines: &str) -> Daemon {
    let source = format!("[source.local]\ntype = \"dir\"\npath = \"{}\"", volumes.display());
    Daemon::start_with(repository_lines, &source)
}

/// Makes a volume of bytes that do not repeat and are hard work to compress: there are four different ones.
fn volume(folder: &Path, mib: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let bytes: Vec<u8> = (0..mib << 20)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_le_bytes()[7] & 0x03
        })
        .collect();
    let mut file = File::create(folder.join("v.raw")).unwrap();
    file.write_all(&bytes).unwrap();
    bytes
}

/// `tail -f`, and what it has printed.
struct Tail {
    process: Child,
    lines: Receiver<String>,
}

impl Tail {
    fn follow(path: &Path) -> Self {
        let mut process = Command::new("tail")
            .args(["-n", "+1", "-s", "0.05", "-f"])
            .arg(path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).for_each(|line| {
                // Nobody listens when the test has ended.
                let _ = sender.send(line);
            });
        });
        Self { process, lines }
    }

    fn next(&self) -> Value {
        serde_json::from_str(&self.lines.recv_timeout(PATIENCE).unwrap()).unwrap()
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Returns what a line tells, in short: `backup available`, `delete done`, `progress`.
fn told(line: &Value) -> String {
    match text(line, "event") {
        "backup" => format!("backup {}", text(line, "status")),
        "job" => format!("{} {}", text(line, "kind"), text(line, "state")),
        other => other.to_owned(),
    }
}

fn events(daemon: &Daemon) -> Vec<Value> {
    let text = fs::read_to_string(daemon.mount().join("events")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Starts a backup and waits until a part of it is done; returns the ids of the backup and the job.
fn running_backup(daemon: &Daemon) -> (String, String) {
    let said = daemon.say("backup", "v --force\n");
    let value =
        |key| said.answer.split_whitespace().find_map(|pair| pair.strip_prefix(key)).unwrap().to_owned();
    let (backup, job) = (value("backup="), value("job="));
    until("progress", || (daemon.job(&job)["bytes_done"].as_u64()? > 0).then_some(()));
    (backup, job)
}

/// `events` has one JSON line for each new state of a backup (and `deleted`) and of a job, and about once a second for a
/// running job's progress, in the order of the changes. It can be followed with `tail -f`.
#[test]
fn tail_sees_the_life_of_a_backup_line_by_line() {
    let volumes = tempfile::tempdir().unwrap();
    volume(volumes.path(), SLOW_MIB);
    let daemon = daemon_over(volumes.path(), SLOW);
    let path = daemon.mount().join("events");
    let tail = Tail::follow(&path);
    let id = daemon.backup("v --name first");
    let delete = daemon.accepted("delete", &format!("{id}\n"), "job");
    daemon.done(&delete);
    let (mut seen, mut progress, mut last_time) = (Vec::new(), Vec::new(), String::new());
    while seen.last().is_none_or(|last| last != "delete done") {
        let line = tail.next();
        assert_eq!(text(&line, "backup"), id);
        assert!(*text(&line, "time") >= *last_time, "{line}");
        text(&line, "time").clone_into(&mut last_time);
        match told(&line).as_str() {
            "progress" => {
                assert_eq!(seen.last().unwrap(), "backup running");
                progress.push(line["bytes_done"].as_u64().unwrap());
            }
            told => seen.push(told.to_owned()),
        }
    }
    let expected = [
        "backup creating",
        "backup queued",
        "backup running",
        "backup available",
        "backup done",
        "backup deleting",
        "delete queued",
        "delete running",
        "backup deleted",
        "delete done",
    ];
    assert_eq!(seen, expected);
    assert!(!progress.is_empty() && progress.is_sorted(), "{progress:?}");
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(metadata.len(), fs::read(&path).unwrap().len() as u64);
    assert_eq!(metadata.mode() & 0o7777, 0o440);
}

/// Jobs outlive the daemon. A number is durable before it is told, and never given again; `jobs/ID` of an ended job is
/// there after a restart, within `limits.finished_jobs` and `finished_jobs_seconds`.
#[test]
fn an_ended_job_is_there_after_a_restart_and_its_number_is_not_given_again() {
    let volumes = tempfile::tempdir().unwrap();
    volume(volumes.path(), 1);
    let mut daemon = daemon_over(volumes.path(), "");
    let first = daemon.accepted("backup", "v --force\n", "job");
    daemon.done(&first);
    let (job, before) = (daemon.job(&first), events(&daemon));
    daemon.stop();
    daemon.serve();
    assert_eq!(daemon.job(&first), job);
    daemon.kill();
    daemon.serve();
    assert_eq!(daemon.job(&first), job);
    assert_eq!(events(&daemon), before);
    let second = daemon.accepted("backup", "v --force\n", "job");
    assert_eq!((first.as_str(), second.as_str()), ("1", "2"));
    daemon.done(&second);
    assert_eq!(events(&daemon)[..before.len()], before[..]);
    daemon.stop();
    fs::remove_dir_all(daemon.folder().join("repository/index-state")).unwrap();
    daemon.serve();
    assert!(!daemon.mount().join("jobs").join(&first).exists());
    assert_eq!(daemon.accepted("backup", "v --force\n", "job"), "1");
}

/// A backup, restore or delete that the next daemon goes on with keeps its job's number.
#[test]
fn a_killed_backup_goes_on_under_its_number() {
    let volumes = file_system::small_folder(Kind::Xfs, 512 << 20);
    File::create(volumes.path().join("v.raw")).unwrap().set_len(512).unwrap();
    let mut daemon = daemon_over(volumes.path(), SLOW);
    daemon.backup("v --force");
    let bytes = volume(volumes.path(), SLOW_MIB);
    let (backup, job) = running_backup(&daemon);
    daemon.kill();
    daemon.serve();
    daemon.done(&job);
    assert_eq!((job.as_str(), text(&daemon.info(&backup), "status")), ("2", "available"));
    assert!(fs::read(daemon.image(&backup)).unwrap() == bytes);
    let of_job = |line: &Value| (line["id"].as_u64() == job.parse().ok()).then(|| told(line));
    let states: Vec<_> = events(&daemon).iter().filter_map(of_job).collect();
    let expected = ["backup queued", "backup running", "backup queued", "backup running", "backup done"];
    assert_eq!(states, expected);
}

/// Another job that was unfinished becomes `failed` ("the daemon ended while the job ran"), or `done` if its work was
/// complete.
#[test]
fn a_killed_backup_without_a_snapshot_has_failed_and_so_has_its_job() {
    let volumes = file_system::small_folder(Kind::Ext4, 128 << 20);
    volume(volumes.path(), SLOW_MIB);
    let mut daemon = daemon_over(volumes.path(), SLOW);
    let (backup, job) = running_backup(&daemon);
    daemon.kill();
    daemon.serve();
    let ended = daemon.ended(&job);
    assert_eq!(text(&ended, "state"), "failed");
    assert_eq!(text(&ended, "error"), "Failed: the daemon ended while the job ran");
    assert_eq!(text(&daemon.info(&backup), "status"), "error");
}
