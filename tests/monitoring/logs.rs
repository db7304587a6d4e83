//! The log: whose job a line is of, a line for each event, nothing secret, and what journald wants.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use serde_json::Value;

use super::Watched;
#[cfg(feature = "rbd")]
use super::support::daemon::Daemon;
use super::support::daemon::{Started, until};

#[test]
fn each_line_of_a_job_in_json_names_the_job_and_its_backup() {
    let mut watched = Watched::start();
    watched.volume("v", 1, 1 << 20);
    watched.daemon.stop();
    let old = watched.daemon.log().len();
    watched.daemon.serve_with(|command| {
        command.args(["--log-format", "json"]);
    });
    let id = watched.daemon.backup("v");
    watched.daemon.stop();
    let log = watched.daemon.log()[old..].to_owned();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of_job: Vec<_> = lines.iter().filter(|line| line["span"]["name"] == "job").collect();
    assert!(of_job.len() >= 2, "{log}");
    for line in &of_job {
        assert_eq!((&line["span"]["backup"], &line["span"]["kind"]), (&id.as_str().into(), &"backup".into()));
        assert!(line["timestamp"].is_string() && line["level"] == "INFO", "{line}");
    }
    assert!(of_job.iter().any(|line| line["message"] == "the job ended" && line["state"] == "done"), "{log}");
}

#[test]
fn a_name_with_a_line_feed_forges_no_line() {
    let watched = Watched::start();
    let mountpoint = watched.daemon.folder().join("m\n2026-01-01T00:00:00Z ERROR amberfs: forged");
    fs::create_dir(&mountpoint).unwrap();
    let log = watched.daemon.folder().join("other-log");
    let mut command = Command::new(env!("CARGO_BIN_EXE_amberfs"));
    command.args(["mount", "--repo"]).arg(watched.daemon.folder().join("other"));
    command.arg("--volumes").arg(watched.volumes.path()).stderr(fs::File::create(&log).unwrap());
    let mut other = Started::new(&mut command, &mountpoint);
    until("the mount", || fs::read(mountpoint.join("status.json")).ok());
    rustix::mount::unmount(&mountpoint, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert!(other.wait().success());
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("forged"), "the name was not told at all: {log}");
    assert!(!log.lines().any(|line| line.starts_with("2026-01-01")), "{log}");
}

#[test]
fn journald_gets_priorities_and_no_times() {
    let mut watched = Watched::start();
    watched.daemon.stop();
    let stream = fs::metadata(watched.daemon.folder().join("log")).unwrap();
    // Another file than standard error says nothing: the variable is inherited by whoever is started by a service.
    for (inode, is_journal) in [(stream.ino(), true), (stream.ino() + 1, false)] {
        let old = watched.daemon.log().len();
        let stream = format!("{}:{inode}", stream.dev());
        watched.daemon.serve_with(|command| {
            command.env("JOURNAL_STREAM", stream).env("AMBERFS_LOG", "debug");
        });
        watched.daemon.stop();
        let log = watched.daemon.log()[old..].to_owned();
        assert!(log.contains("serving"), "{log}");
        for line in log.lines() {
            let priority = ["<3>", "<4>", "<6>", "<7>"].iter().any(|prefix| line.starts_with(prefix));
            assert_eq!((priority, line.starts_with("20")), (is_journal, !is_journal), "{line}");
        }
        assert_eq!(log.lines().any(|line| line.starts_with("<6>") && line.contains("serving")), is_journal);
        assert_eq!(log.lines().any(|line| line.starts_with("<7>") && line.contains("request")), is_journal);
    }
}

#[test]
fn what_the_log_is_to_tell_is_not_silently_misunderstood() {
    let mut watched = Watched::start();
    watched.daemon.stop();
    let old = watched.daemon.log().len();
    watched.daemon.serve_with(|command| {
        command.env("AMBERFS_LOG", "amberfs=loud");
    });
    // It is told behind the first answer.
    let log = until("the log to say that it serves", || {
        let log = watched.daemon.log()[old..].to_owned();
        log.contains("serving").then_some(log)
    });
    assert!(log.contains("WARN") && log.contains("AMBERFS_LOG"), "{log}");
    watched.daemon.stop();
    let old = watched.daemon.log().len();
    watched.daemon.serve_with(|command| {
        command.env("AMBERFS_LOG", "warn");
    });
    assert_eq!(watched.daemon.log()[old..], *"");
}

/// A key in the configuration of Ceph and one in a keyring, and a cluster that is not there.
#[cfg(feature = "rbd")]
#[test]
fn no_key_is_in_the_log_nor_in_anything_that_is_shown() {
    const KEYS: [&str; 2] =
        ["AQBSZWNyZXRrZXlvbmUxMjM0NTY3ODkwYWJjZA==", "AQBSZWNyZXRrZXl0d28xMjM0NTY3ODkwYWJjZA=="];
    let folder = tempfile::tempdir().unwrap();
    let (conf, keyring) = (folder.path().join("ceph.conf"), folder.path().join("keyring"));
    let text = |keyring: &str| {
        format!(
            "[global]\nmon_host = v1:127.0.0.1:1\n[client.inline]\nkey = {}\n[client.ring]\nkeyring = {keyring}\n",
            KEYS[0]
        )
    };
    fs::write(&conf, text(&keyring.display().to_string())).unwrap();
    fs::write(&keyring, format!("[client.ring]\nkey = {}\n", KEYS[1])).unwrap();
    let sections = ["inline", "ring", "missing"].map(|user| {
        format!(
            "[source.{user}]\ntype = \"rbd\"\nconf = \"{}\"\nuser = \"{user}\"\npool = \"p\"\ntimeout_seconds = 1\n",
            conf.display()
        )
    });
    let mut daemon = Daemon::start(&sections.concat());
    daemon.stop();
    daemon.serve_with(|command| {
        command.env("AMBERFS_LOG", "trace");
    });
    let mut shown = String::new();
    for user in ["inline", "ring", "missing"] {
        let said = daemon.say("backup", &format!("{user}/v\n"));
        assert!(said.write.is_err(), "{}", said.answer);
        shown += &said.answer;
        fs::read_dir(daemon.mount().join("volumes").join(user)).unwrap().for_each(drop);
    }
    for name in ["status.json", "metrics", "events"] {
        shown += &fs::read_to_string(daemon.mount().join(name)).unwrap();
    }
    daemon.stop();
    shown += &daemon.log();
    for told in ["client.inline", "client.ring", "client.missing"] {
        assert!(shown.contains(told), "nothing is told of {told}: {shown}");
    }
    for key in KEYS {
        assert!(!shown.contains(key), "{shown}");
        // Nor a part of it.
        assert!(!shown.contains(&key[3..24]), "{shown}");
    }
}
