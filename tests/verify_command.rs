//! Verifying through the daemon and the command line: what a user sees of it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a failed expectation is a failed test, and files are damaged on purpose"
)]

mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use rustix::io::Errno;
use serde_json::Value;

use support::bytes::pattern;
use support::daemon::{Daemon, until};
use support::damaged_pack::flip_chunk;
use support::tree;

const CHUNK: usize = 64 << 10;
const SIZE: usize = 8 << 20;

struct World {
    daemon: Daemon,
    volumes: tempfile::TempDir,
    source: String,
}

impl World {
    fn new() -> Self {
        let volumes = tempfile::tempdir().unwrap();
        let source = format!("[source.local]\ntype = \"dir\"\npath = \"{}\"\n", volumes.path().display());
        fs::write(volumes.path().join("v.raw"), pattern(1, SIZE)).unwrap();
        Self { daemon: Daemon::start(&source), volumes, source }
    }

    /// The only pack.
    fn pack(&self) -> PathBuf {
        let packs = self.daemon.folder().join("repository/packs");
        let [pack] = Vec::from_iter(tree::files(&packs).into_keys()).try_into().unwrap();
        packs.join(pack)
    }

    fn flip(&self, chunk: usize) {
        flip_chunk(&self.pack(), &pattern(1, SIZE)[chunk * CHUNK..][..CHUNK]);
    }

    fn ok(&self, arguments: &[&str]) -> (String, String) {
        let output = self.daemon.cli(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", errors(&output));
        (String::from_utf8(output.stdout.clone()).unwrap(), errors(&output))
    }

    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.daemon.cli(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", errors(&output));
        errors(&output)
    }
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_command_names_what_is_damaged_and_the_rest_of_the_backup_can_be_had() {
    let world = World::new();
    let id = world.daemon.backup("v --name good");
    world.ok(&["backup", "verify", "good", "--rate", "none"]);
    let info = world.daemon.info(&id);
    assert!(info["last_verified_at"].is_string() && info["image_sha256"].is_string(), "{info}");
    assert_eq!((info["damage"].clone(), info["status"].clone()), (Value::Null, "available".into()));

    world.flip(2);
    world.flip(3);
    let (start, end) = (2 * CHUNK, 4 * CHUNK);
    let said = world.fails(&["backup", "verify", "--all", "--rate", "0"]);
    assert!(said.contains(&format!("131072 bytes ({start} to {end})")), "{said}");
    assert!(said.contains("1 of 1 backups did not verify"), "{said}");
    let info = world.daemon.info(&id);
    assert_eq!(info["status"], "error");
    assert_eq!(info["damage"]["bytes"], 131_072);
    assert_eq!(info["damage"]["ranges"][0]["start"], start);
    assert_eq!(info["damage"]["ranges"][0]["end"], end);
    let (list, _) = world.ok(&["backup", "list", "--long", "-f", "json"]);
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list[0]["Damaged Bytes"], 131_072, "{list}");

    // The image is still in the tree: an error where it is damaged, and right elsewhere.
    let image = fs::File::open(world.daemon.image(&id)).unwrap();
    let mut bytes = vec![0; CHUNK];
    image.read_exact_at(&mut bytes, end as u64).unwrap();
    assert!(bytes == pattern(1, SIZE)[end..end + CHUNK]);
    let error = image.read_exact_at(&mut bytes, start as u64).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()));
    assert!(!world.daemon.mount().join("volumes/local/v.raw/latest").exists(), "it is nobody's latest");
    drop(image);

    world.daemon.refused("reset-state", "good\n", Errno::BUSY, "InvalidState");
    world.daemon.refused("restore", "good --name x\n", Errno::BUSY, "InvalidState");
    let (_, said) = world.ok(&["backup", "restore", "good", "--name", "rest", "--skip-damaged"]);
    assert!(said.contains("warning") && said.contains(&format!("({start} to {end})")), "{said}");
    let mut expected = pattern(1, SIZE);
    expected[start..end].fill(0);
    assert!(fs::read(world.volumes.path().join("rest.raw")).unwrap() == expected);

    // A new backup of the same bytes brings what was lost.
    world.daemon.backup("v --name again");
    world.ok(&["backup", "verify", "good", "again", "--rate", "none"]);
    let info = world.daemon.info(&id);
    assert_eq!((info["damage"].clone(), info["status"].clone()), (Value::Null, "available".into()));
    assert!(fs::read(world.daemon.image(&id)).unwrap() == pattern(1, SIZE));
    let printed = Command::new("sha256sum").arg(world.daemon.image(&id)).output().unwrap().stdout;
    assert_eq!(String::from_utf8(printed).unwrap().split(' ').next(), info["image_sha256"].as_str());
}

#[test]
fn after_a_kill_it_goes_on_under_its_number_and_lines_are_understood_as_on_the_command_line() {
    let mut world = World::new();
    let id = world.daemon.backup("v");
    world.daemon.refused("verify", "\n", Errno::INVAL, "InvalidInput");
    world.daemon.refused("verify", "--rate fast --all\n", Errno::INVAL, "InvalidInput");
    world.daemon.refused("verify", "--older-than soon\n", Errno::INVAL, "InvalidInput");
    world.daemon.refused("verify", "unheard-of\n", Errno::NOENT, "BackupNotFound");
    world.daemon.refused("verify", &format!("{id} --against-source\n"), Errno::NOENT, "SnapshotNotFound");
    let said = world.daemon.say("verify", "--older-than 2000-01-01T00:00:00Z --volume v\n");
    assert!(said.write.is_ok() && said.answer.contains("job="), "never verified is older: {}", said.answer);
    let line = format!("{id} --rate 4MiB\n");
    until("the end of the first", || {
        let jobs = fs::read_dir(world.daemon.mount().join("jobs")).unwrap();
        jobs.for_each(|job| drop(world.daemon.ended(job.unwrap().file_name().to_str().unwrap())));
        Some(())
    });
    let job = world.daemon.accepted("verify", &line, "job");
    until("half of it", || (world.daemon.job(&job)["bytes_done"].as_u64()? >= 4 << 20).then_some(()));
    world.daemon.kill();
    world.daemon.serve();
    let before = world.daemon.info(&id)["last_verified_at"].clone();
    world.daemon.done(&job);
    assert_ne!(world.daemon.info(&id)["last_verified_at"], before);
    let (_, said) = world.ok(&["backup", "verify", "--older-than", "1h"]);
    assert!(said.contains("no backup is to be verified"), "{said}");
}

#[test]
fn by_the_schedule_every_backup_is_verified_and_after_a_restart_too() {
    let mut world = World::new();
    let ids = [world.daemon.backup("v --name one"), world.daemon.backup("v --name two")];
    let verified_at = |world: &World, id: &str| world.daemon.info(id)["last_verified_at"].clone();
    assert!(ids.iter().all(|id| verified_at(&world, id).is_null()), "there is no schedule by default");
    world.daemon.stop();
    world.daemon.configure(&format!("[verify]\nschedule = \"2s\"\nrate = \"none\"\n{}", world.source));
    world.daemon.serve();
    for id in &ids {
        until("the first verification", || (!verified_at(&world, id).is_null()).then_some(()));
    }
    let before = ids.each_ref().map(|id| verified_at(&world, id));
    world.daemon.stop();
    world.daemon.serve();
    for (id, before) in ids.iter().zip(before) {
        until("the next verification", || (verified_at(&world, id) != before).then_some(()));
    }
}
