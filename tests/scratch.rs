//! Scratch images through the real daemon and the kernel: writable, bounded, kept if asked, and never a change to
//! the backup under them. Needs root.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation is a failed test"
)]

mod support;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::process::Command;

use rustix::io::Errno;
use serde_json::Value;

use support::bytes::pattern;
use support::daemon::Daemon;

const MIB: usize = 1 << 20;

/// A daemon with one volume, `disk`, of 8 MiB and a bit, and a backup of it called `monday`.
struct World {
    daemon: Daemon,
    volumes: tempfile::TempDir,
    bytes: Vec<u8>,
    backup: String,
}

impl World {
    fn new(limits: &str) -> Self {
        let volumes = tempfile::tempdir().unwrap();
        let bytes = pattern(7, 8 * MIB + 512);
        fs::write(volumes.path().join("disk.raw"), &bytes).unwrap();
        let daemon = Daemon::start(&Self::sections(&volumes, limits));
        let backup = daemon.backup("disk --name monday");
        Self { daemon, volumes, bytes, backup }
    }

    fn sections(volumes: &tempfile::TempDir, limits: &str) -> String {
        format!(
            "[limits]\n{limits}\n[source.local]\ntype = \"dir\"\npath = \"{}\"\n",
            volumes.path().display()
        )
    }

    fn scratch(&self, name: &str) -> PathBuf {
        self.daemon.mount().join("scratch").join(name)
    }

    fn make(&self, line: &str) -> File {
        let name = self.daemon.accepted("scratch", &format!("{line}\n"), "scratch");
        self.open(&name)
    }

    fn open(&self, name: &str) -> File {
        OpenOptions::new().read(true).write(true).open(self.scratch(name)).unwrap()
    }

    fn written_bytes(&self, name: &str) -> u64 {
        let info = fs::read(self.scratch(&format!("{name}.json"))).unwrap();
        let info: Value = serde_json::from_slice(&info).unwrap();
        info["written_bytes"].as_u64().unwrap()
    }

    fn assert_backup_is_as_it_was(&self) {
        assert_eq!(fs::read(self.daemon.image(&self.backup)).unwrap(), self.bytes);
    }
}

fn contents(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Everything is in one file system's terms: `fallocate` and `punch` as the tools do it.
fn punch(world: &World, name: &str, offset: usize, length: usize) {
    let status = Command::new("fallocate")
        .args(["-p", "-o", &offset.to_string(), "-l", &length.to_string()])
        .arg(world.scratch(name))
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn what_is_written_to_a_scratch_image_is_there_and_the_backup_stays_as_it_is() {
    let world = World::new("");
    let file = world.make("monday --name try");
    let mut model = world.bytes.clone();
    assert_eq!(contents(&file), model, "it begins as the backup");
    for (offset, length) in [(0, 1), (4095, 2), (5 * MIB + 77, 300_000), (8 * MIB, 512)] {
        let bytes = pattern(offset as u64 + 1, length);
        file.write_all_at(&bytes, offset as u64).unwrap();
        model[offset..offset + length].copy_from_slice(&bytes);
    }
    punch(&world, "try", MIB + 5, 2 * MIB);
    model[MIB + 5..3 * MIB + 5].fill(0);
    file.sync_all().unwrap();
    assert_eq!(contents(&file), model);
    assert_eq!(contents(&world.open("try")), model, "through another opening too");
    world.assert_backup_is_as_it_was();
}

#[test]
fn a_scratch_image_has_the_size_of_its_backup_and_keeps_it() {
    let world = World::new("");
    let file = world.make("monday --name try");
    let metadata = file.metadata().unwrap();
    assert_eq!(metadata.len(), world.bytes.len() as u64);
    assert_eq!(metadata.mode() & 0o7777, 0o640);
    assert!(metadata.blocks() > 0);
    // As on a disk: nothing behind the end, and `>` empties nothing.
    let error = file.write_all_at(&[1, 2], metadata.len() - 1).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::NOSPC.raw_os_error()));
    assert_eq!(file.set_len(5).unwrap_err().raw_os_error(), Some(Errno::INVAL.raw_os_error()));
    drop(File::create(world.scratch("try")).unwrap());
    assert_eq!(contents(&file), world.bytes);
    for made in [File::create_new(world.scratch("other")), File::create_new(world.scratch("x.json"))] {
        assert_eq!(made.unwrap_err().raw_os_error(), Some(Errno::ROFS.raw_os_error()));
    }
}

#[test]
fn scratch_images_hold_no_more_than_their_limit_and_what_is_thrown_away_makes_room() {
    let world = World::new("scratch = \"2MiB\"");
    let first = world.make("monday --name first");
    let second = world.make("monday --name second");
    first.write_all_at(&vec![1; MIB], 0).unwrap();
    second.write_all_at(&vec![2; MIB], 0).unwrap();
    let error = second.write_all_at(&[3; 4096], 4 * MIB as u64).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::NOSPC.raw_os_error()));
    // What is there can be written over.
    second.write_all_at(&vec![4; MIB], 0).unwrap();
    assert_eq!(world.written_bytes("second"), MIB as u64);
    punch(&world, "second", 0, 4096);
    second.write_all_at(&[3; 4096], 4 * MIB as u64).unwrap();
    fs::remove_file(world.scratch("first")).unwrap();
    // Still open, it can be read and written, and takes its room until it is closed.
    first.write_all_at(&[9; 4096], 0).unwrap();
    assert_eq!(contents(&first)[..4096], [9; 4096]);
    assert!(second.write_all_at(&vec![5; MIB], 6 * MIB as u64).is_err());
    drop(first);
    support::daemon::until("room", || second.write_all_at(&vec![5; MIB], 6 * MIB as u64).ok());
    world.assert_backup_is_as_it_was();
}

#[test]
fn a_kept_scratch_image_survives_the_daemon_s_end_and_its_death_and_the_others_do_not() {
    let mut world = World::new("");
    let (kept, other) = (world.make("monday --name kept --keep"), world.make("monday --name other"));
    let mut model = world.bytes.clone();
    let mut write = |file: &File, offset: usize, byte: u8| {
        file.write_all_at(&[byte; 5000], offset as u64).unwrap();
        model[offset..offset + 5000].fill(byte);
    };
    write(&kept, 100, 1);
    kept.sync_all().unwrap();
    // Acknowledged and not synced: a death of the process does not lose it.
    write(&kept, 3 * MIB, 2);
    other.write_all_at(b"gone", 0).unwrap();
    drop((kept, other));
    punch(&world, "kept", 5 * MIB, 8192);
    model[5 * MIB..5 * MIB + 8192].fill(0);
    world.daemon.kill();
    world.daemon.serve();
    assert_eq!(contents(&world.open("kept")), model);
    assert!(!world.scratch("other").exists());
    // And in order.
    world.daemon.stop();
    world.daemon.serve();
    assert_eq!(contents(&world.open("kept")), model);
    fs::remove_file(world.scratch("kept")).unwrap();
    world.daemon.kill();
    world.daemon.serve();
    assert!(!world.scratch("kept").exists());
    let state = world.daemon.folder().join("repository/index-state/scratch");
    assert_eq!(fs::read_dir(state).unwrap().count(), 0, "nothing of any is left");
    world.assert_backup_is_as_it_was();
}

#[test]
fn a_backup_is_not_deleted_under_a_scratch_image() {
    let world = World::new("");
    let file = world.make("monday");
    assert!(world.scratch("monday").exists(), "it is called as its backup");
    let sentence = world.daemon.refused("delete", "monday --force\n", Errno::BUSY, "InvalidState");
    assert!(sentence.contains("rm scratch/monday"), "{sentence}");
    drop(file);
    fs::remove_file(world.scratch("monday")).unwrap();
    let job = world.daemon.accepted("delete", "monday\n", "job");
    world.daemon.done(&job);
}

#[test]
fn what_cannot_be_a_scratch_image_is_refused() {
    let world = World::new("");
    drop(world.make("monday --name try"));
    let refused = |line: &str, errno, name: &str| world.daemon.refused("scratch", line, errno, name);
    refused("monday --name try\n", Errno::EXIST, "ScratchExists");
    refused("tuesday\n", Errno::NOENT, "BackupNotFound");
    for name in ["a/b", "..", "x.json", "x.partitions"] {
        refused(&format!("monday --name {name}\n"), Errno::INVAL, "InvalidInput");
    }
    refused(&format!("monday --name {}\n", "x".repeat(201)), Errno::INVAL, "InvalidInput");
    // One that is wrong refuses all of a write.
    refused("monday --name new\nmonday --name try\n", Errno::EXIST, "ScratchExists");
    assert!(!world.scratch("new").exists());
    // Without a name there is always a free one.
    for expected in ["monday", "monday-2", "monday-3"] {
        assert_eq!(world.daemon.accepted("scratch", "monday\n", "scratch"), expected);
    }
}

#[test]
fn the_command_line_makes_lists_and_throws_away() {
    let world = World::new("");
    let made = world.daemon.cli(&["scratch", "create", "monday", "--name", "try"]);
    let path = String::from_utf8(made.stdout).unwrap();
    assert_eq!(PathBuf::from(path.trim_end()), world.scratch("try"));
    world.open("try").write_all_at(&[1; 4096], 0).unwrap();
    let columns = ["-c", "Name", "-c", "Backup", "-c", "Written", "-c", "Keep"];
    let listed = world.daemon.cli(&[&["scratch", "list", "-f", "value"], &columns[..]].concat());
    let expected = format!("try {} 4096 False\n", world.backup);
    assert_eq!(String::from_utf8(listed.stdout).unwrap(), expected);
    assert!(world.daemon.cli(&["scratch", "delete", "try"]).status.success());
    assert!(!world.scratch("try").exists());
    let again = world.daemon.cli(&["scratch", "delete", "try"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8(again.stderr).unwrap().contains("ScratchNotFound"));
    drop(world.volumes);
}

#[test]
fn a_file_system_s_journal_is_replayed_in_a_scratch_image() {
    let world = tempfile::tempdir().unwrap();
    let script = r#"
        set -eu
        mkdir "$1/volumes" "$1/live" "$1/mnt"
        truncate -s 400M "$1/volumes/disk.raw" "$1/live.raw"
        mkfs.xfs -q "$1/live.raw"
        mount -o loop "$1/live.raw" "$1/live"
        mkdir "$1/live/folder"; for n in $(seq 50); do echo "$n" > "$1/live/folder/$n"; done
        sync -f "$1/live"
        cp --sparse=always "$1/live.raw" "$1/volumes/disk.raw"
        umount "$1/live"
    "#;
    let sh = |script: &str, arguments: &[&std::ffi::OsStr]| {
        let output = Command::new("bash").args(["-c", script, "bash"]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let folder = world.path().as_os_str();
    sh(script, &[folder]);
    let volumes = world.path().join("volumes");
    let sections = format!("[source.local]\ntype = \"dir\"\npath = \"{}\"\n", volumes.display());
    let daemon = Daemon::start(&sections);
    let backup = daemon.backup("disk --name dirty");
    daemon.accepted("scratch", "dirty --name try\n", "scratch");
    let script = r#"
        set -eu
        device=$(losetup --direct-io=on --find --show "$2")
        trap 'umount "$1/mnt" 2>/dev/null || true; losetup -d "$device"' EXIT
        mount "$device" "$1/mnt"
        cat $(ls -v "$1"/mnt/folder/*) ; echo new > "$1/mnt/new"; umount "$1/mnt"
        xfs_repair -n "$device" >/dev/null 2>&1
        mount -o ro "$device" "$1/mnt"; cat "$1/mnt/new"
    "#;
    let seen = sh(script, &[folder, daemon.mount().join("scratch/try").as_os_str()]);
    let expected: String = (1..=50).map(|n| format!("{n}\n")).chain(["new\n".to_owned()]).collect();
    assert_eq!(seen, expected);
    assert_eq!(fs::read(daemon.image(&backup)).unwrap(), fs::read(volumes.join("disk.raw")).unwrap());
}
