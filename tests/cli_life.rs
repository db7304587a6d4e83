//! The command line over the life of backups, through a real daemon on a directory of images; and at a real terminal.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a failed expectation is a failed test, and volumes are plain files"
)]

mod support;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use support::bytes::pattern;
use support::daemon::Daemon;
use support::tree;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

struct World {
    daemon: Daemon,
    volumes: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let volumes = tempfile::tempdir().unwrap();
        let source = format!("[source.local]\ntype = \"dir\"\npath = \"{}\"\n", volumes.path().display());
        Self { daemon: Daemon::start(&source), volumes }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.volumes.path().join(format!("{name}.raw"))
    }

    fn fill(&self, name: &str, seed: u64) -> Vec<u8> {
        let mut bytes = pattern(1, 256 * KIB);
        bytes[100 * KIB..][..5000].copy_from_slice(&pattern(seed, 5000));
        fs::write(self.path(name), &bytes).unwrap();
        bytes
    }

    /// Backs up a chain, one backup a name; returns the bytes of each.
    fn chain(&self, volume: &str, names: &[&str]) -> Vec<Vec<u8>> {
        let back_up = |(seed, name): (u64, &&str)| {
            let bytes = self.fill(volume, seed);
            self.ok(&["backup", "create", volume, "--incremental", "--name", name]);
            bytes
        };
        (2..).zip(names).map(back_up).collect()
    }

    /// Runs a command that ends well; returns its standard output.
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.daemon.cli(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", errors(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that is refused or fails; returns its standard error.
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.daemon.cli(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", errors(&output));
        assert!(output.stdout.is_empty(), "{arguments:?}");
        errors(&output)
    }

    fn show(&self, backup: &str) -> Value {
        serde_json::from_str(&self.ok(&["backup", "show", backup, "-f", "json"])).unwrap()
    }

    fn image(&self, backup: &str) -> Vec<u8> {
        fs::read(self.daemon.image(self.show(backup)["id"].as_str().unwrap())).unwrap()
    }

    /// The names of all backups, the newest first.
    fn names(&self) -> Vec<String> {
        let list = self.ok(&["backup", "list", "-f", "value", "-c", "Name"]);
        list.lines().map(str::to_owned).collect()
    }
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn several_backups_are_deleted_in_whatever_order_they_are_named_or_none_of_them() {
    let world = World::new();
    world.chain("v", &["a", "b", "c"]);
    let refusal = world.refused(&["backup", "delete", "c", "a"]);
    assert!(refusal.starts_with("error: BackupHasDependents: Incremental backups exist"), "{refusal}");
    let refusal = world.refused(&["backup", "delete", "c", "nothing"]);
    assert!(refusal.starts_with("error: BackupNotFound: "), "{refusal}");
    assert_eq!(world.names(), ["c", "b", "a"]);

    assert_eq!(world.ok(&["backup", "delete", "a", "c", "b"]), "");
    assert_eq!(world.names(), [] as [&str; 0]);

    world.chain("v", &["d"]);
    let output = world.daemon.cli(&["backup", "delete", "d", "--no-wait"]);
    let note = errors(&output);
    let job = note.trim_end().rsplit(' ').next().unwrap();
    assert_eq!(note, format!("job {job} is accepted: amberfs job watch {job}\n"));
    world.ok(&["job", "watch", job]);
    assert_eq!(world.names(), [] as [&str; 0]);
}

#[test]
fn what_may_be_set_is_set_and_unset() {
    let world = World::new();
    world.fill("v", 2);
    world.ok(&["backup", "create", "v", "--name", "old", "--protect", "--property", "k=v"]);
    let refusal = world.refused(&["backup", "delete", "--force", "old"]);
    assert!(refusal.contains("protected"), "{refusal}");

    world.ok(&["backup", "set", "old", "--name", "new", "--no-protect", "--property", "x=1"]);
    world.ok(&["backup", "unset", "new", "--property", "k"]);
    let backup = world.show("new");
    assert_eq!(
        (&backup["protected"], &backup["properties"]),
        (&Value::from(false), &serde_json::json!({"x": "1"}))
    );
    let refusal = world.refused(&["backup", "unset", "new", "--property", "k"]);
    assert!(refusal.starts_with("error: InvalidInput: "), "{refusal}");

    world.ok(&["backup", "set", "new", "--name", "newer", "--state", "error"]);
    assert_eq!(world.show("newer")["status"], "error");
    let refusal = world.refused(&["backup", "export", "newer"]);
    assert!(refusal.starts_with("error: InvalidState: "), "{refusal}");
    world.ok(&["backup", "reset-state", "newer"]);
    assert_eq!(world.show("newer")["status"], "available");
    world.ok(&["backup", "reset-state", "newer", "--state", "error"]);
    world.ok(&["backup", "set", "newer", "--state", "available"]);
    assert_eq!(world.show("newer")["status"], "available");
}

#[test]
fn a_flattened_backup_is_full_and_what_it_leaned_on_may_go() {
    let world = World::new();
    let bytes = world.chain("v", &["a", "b"]);
    assert_eq!(world.ok(&["backup", "flatten", "b"]), "");
    world.ok(&["backup", "delete", "a"]);
    assert_eq!(world.show("b")["is_incremental"], false);
    assert!(world.image("b") == bytes[1]);
    let refusal = world.refused(&["backup", "flatten", "b"]);
    assert!(refusal.starts_with("error: InvalidState: "), "{refusal}");
}

#[test]
fn a_volume_may_be_the_second_operand_of_restore_as_in_openstack() {
    let world = World::new();
    let bytes = world.chain("v", &["a", "b"]);
    world.ok(&["backup", "restore", "a", "again"]);
    assert!(fs::read(world.path("again")).unwrap() == bytes[0]);
    let refusal = world.refused(&["backup", "restore", "b", "again"]);
    assert!(refusal.starts_with("error: VolumeExists: "), "{refusal}");
    assert!(fs::read(world.path("again")).unwrap() == bytes[0]);
    world.ok(&["backup", "restore", "--force", "b", "again"]);
    assert!(fs::read(world.path("again")).unwrap() == bytes[1]);
}

#[test]
fn exported_records_bring_backups_back_all_of_them_or_none() {
    let mut world = World::new();
    let bytes = world.chain("v", &["a", "b", "c"]);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for name in ["a", "b"] {
        world.ok(&["backup", "export", name, &file(name)]);
    }
    let record = world.ok(&["backup", "record", "export", "c"]);
    let refusal = world.refused(&["backup", "import", &file("b")]);
    assert!(refusal.starts_with("error: BackupExists: "), "{refusal}");

    world.daemon.stop();
    for name in tree::files(&world.daemon.folder().join("repository/records")).keys() {
        fs::remove_file(world.daemon.folder().join("repository/records").join(name)).unwrap();
    }
    world.daemon.serve();
    assert_eq!(world.names(), [] as [&str; 0]);
    fs::write(file("damaged"), record.replace("\"c\"", "\"x\"")).unwrap();
    let refusal = world.refused(&["backup", "import", &file("a"), &file("b"), &file("damaged")]);
    assert!(refusal.starts_with("error: InvalidRecord: "), "{refusal}");
    assert_eq!(world.names(), [] as [&str; 0]);

    // What leans on the other first.
    let columns = ["-f", "value", "-c", "Name", "-c", "Status"];
    let imported = world.ok(&[&["backup", "import", &file("b"), &file("a")], columns.as_slice()].concat());
    assert_eq!(imported, "b available\na available\n");
    let mut import = Command::new(env!("CARGO_BIN_EXE_amberfs"))
        .args(["backup", "record", "import", "--mount"])
        .arg(world.daemon.mount())
        .args(columns)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    import.stdin.take().unwrap().write_all(record.as_bytes()).unwrap();
    let output = import.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"c available\n"[..]));
    for (name, bytes) in ["a", "b", "c"].iter().zip(&bytes) {
        assert!(world.image(name) == *bytes, "{name}");
    }
    let refusal = world.refused(&["backup", "import"]);
    assert!(refusal.starts_with("error: InvalidRecord: there is no record"), "{refusal}");
}

#[test]
fn pruning_flattens_what_stays_deletes_what_no_rule_keeps_and_does_nothing_the_second_time() {
    let world = World::new();
    let bytes = world.chain("v", &["a", "b", "c", "d", "e"]);
    world.ok(&["backup", "set", "b", "--protect"]);
    let other = world.chain("w", &["other"]);
    let prune = ["backup", "prune", "--keep-last", "2", "-f", "value", "-c", "Name", "-c", "Action"];
    let planned = "e keep\nd flatten\nc delete\nb flatten\na delete\nother keep\n";
    assert_eq!(world.ok(&[prune.as_slice(), &["--dry-run"]].concat()), planned);
    assert_eq!(world.names().len(), 6, "nothing is done yet");
    assert_eq!(world.ok(&prune), planned);
    assert_eq!(world.names(), ["other", "e", "d", "b"]);
    assert_eq!(world.ok(&prune), "e keep\nd keep\nb keep\nother keep\n");
    for (name, bytes) in [("b", &bytes[1]), ("d", &bytes[3]), ("e", &bytes[4]), ("other", &other[0])] {
        assert!(world.image(name) == *bytes, "{name}");
    }
    assert_eq!(world.show("e")["parent_id"], world.show("d")["id"]);
}

#[test]
fn when_a_flatten_fails_nothing_of_that_volume_is_deleted_and_the_others_are_pruned() {
    let world = World::new();
    let manifests = world.daemon.folder().join("repository/manifests");
    world.chain("bad", &["a"]);
    let of_full = tree::files(&manifests);
    world.chain("bad", &["b", "c"]);
    world.chain("good", &["x", "y", "z"]);
    for name in of_full.keys() {
        fs::write(manifests.join(name), "damaged").unwrap();
    }
    let columns = ["-f", "value", "-c", "Name", "-c", "Action", "-c", "Reason"];
    let prune = [&["backup", "prune", "--keep-last", "1"], columns.as_slice()].concat();
    let output = world.daemon.cli(&prune);
    assert_eq!(output.status.code(), Some(1));
    let others = "a backup of its volume could not be flattened";
    let expected = format!(
        "c failed it could not be flattened\nb failed {others}\na failed {others}\n\
         z flatten last\ny delete no rule keeps it\nx delete no rule keeps it\n"
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    let errors = errors(&output);
    assert!(errors.contains(" failed: ") && errors.contains("nothing of this volume is deleted"), "{errors}");
    assert!(errors.ends_with("error: 3 of 6 backups failed to be pruned.\n"), "{errors}");
    assert_eq!(world.names(), ["z", "c", "b", "a"]);
}

#[test]
fn a_quota_is_shown_with_what_is_used_of_it() {
    let world = World::new();
    world.chain("v", &["a", "b"]);
    let shown = world.ok(&["quota", "show", "-f", "value"]);
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines[..2], ["backups 2 -1", "backup_gigabytes 2 -1"], "{shown}");
    let stored: u64 =
        lines[4].strip_prefix("stored_bytes ").unwrap().strip_suffix(" -1").unwrap().parse().unwrap();
    assert!((200_000..300_000).contains(&stored), "what both have is stored once: {shown}");
}

/// Runs `amberfs backup create VOLUME` at a terminal, with Ctrl-C at the progress bar and this answer.
fn at_a_terminal(world: &World, volume: &str, answer: &str) -> (Option<i32>, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/terminal.py");
    let output = Command::new("python3")
        .arg(script)
        .args([answer, env!("CARGO_BIN_EXE_amberfs"), "backup", "create", volume])
        .env("AMBERFS_MOUNT", world.daemon.mount())
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{}", errors(&output));
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn ctrl_c_at_the_progress_bar_asks_whether_to_cancel() {
    let mut world = World::new();
    // So slow that a job is still running when the question is answered.
    world.daemon.stop();
    let configuration = world.daemon.folder().join("amberfs.toml");
    let text = fs::read_to_string(&configuration).unwrap();
    fs::write(&configuration, text.replace("[repository]", "[repository]\ncompression = \"zstd:19\""))
        .unwrap();
    world.daemon.serve();
    let bytes = pattern(7, 48 * MIB);
    fs::write(world.path("v"), &bytes).unwrap();

    let (status, shown) = at_a_terminal(&world, "v", "y\r");
    assert_eq!(status, Some(1), "{shown}");
    assert!(shown.contains("MiB") && shown.contains("error: job 1 was cancelled"), "{shown}");
    assert_eq!(world.names(), [] as [&str; 0]);
    assert_eq!(fs::read_dir(world.volumes.path()).unwrap().count(), 1, "no snapshot is left");

    let (status, shown) = at_a_terminal(&world, "v", "\\x03");
    assert_eq!(status, Some(1), "{shown}");
    assert_eq!(world.daemon.job("2")["state"], "running", "leaving does not end the job");
    world.ok(&["job", "cancel", "2"]);
    assert_eq!(world.daemon.ended("2")["state"], "cancelled");

    let (status, shown) = at_a_terminal(&world, "v", "n\r");
    assert_eq!(status, Some(0), "{shown}");
    assert!(shown.contains("Cancel job 3?") && shown.contains("job 3: backup local/v done"), "{shown}");
    let id = world.ok(&["backup", "list", "-f", "value", "-c", "ID"]);
    assert!(fs::read(world.daemon.image(id.trim_end())).unwrap() == bytes);
}
