//! Scratch images under load: fsx and fio on partitions and the whole disk, through loop devices and file systems, over
//! the daemon's death, and over a limit that is reached. Needs root.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation is a failed test"
)]

mod support;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use support::attach::{Loop, Mounted, Range, run, text};
use support::bytes::pattern;
use support::daemon::{Daemon, until};
use support::fio;
use support::fsx::{Allowed, Failure, Fsx};
use support::guest::Kind;
use support::guest::disk::make_file_system;

const MIB: u64 = 1 << 20;

/// The first partition; the second follows.
const FIRST: Range = Range { offset: MIB, length: 4 * MIB };

/// Who reads a mapping when the daemon dies is killed (SIGBUS), as with any disk that fails.
const NO_MMAP: Allowed = Allowed { mmap: false, ..Allowed::ALL };

/// A daemon with a volume with two partitions, `disk`, and a backup of it called `monday`.
struct World {
    daemon: Daemon,
    backup: String,
    sha256: String,
    second: Range,
    volumes: tempfile::TempDir,
}

impl World {
    /// The second partition has this length.
    fn new(second: u64, limits: &str) -> Self {
        let volumes = tempfile::tempdir().unwrap();
        let disk = volumes.path().join("disk.raw");
        let second = Range { offset: 5 * MIB, length: second };
        let file = File::create(&disk).unwrap();
        file.set_len(second.offset + second.length + MIB).unwrap();
        // Something is there before: not all of it is written over.
        file.write_all_at(&pattern(3, 5 * MIB as usize), 2 * MIB).unwrap();
        drop(file);
        let arguments = ["-n", "1:0:+4M", "-n", &format!("2:0:+{}M", second.length / MIB)].map(str::to_owned);
        run("sgdisk", &[&arguments[..], &[text(&disk).to_owned()]].concat());
        let path = volumes.path().display();
        let sections = format!("[limits]\n{limits}\n[source.local]\ntype = \"dir\"\npath = \"{path}\"\n");
        let daemon = Daemon::start(&sections);
        let backup = daemon.backup("disk --name monday");
        let sha256 = sha256(&disk);
        Self { daemon, backup, sha256, second, volumes }
    }

    /// Makes a scratch image that is kept, and returns its file.
    fn scratch(&self, name: &str) -> PathBuf {
        self.daemon.accepted("scratch", &format!("monday --name {name} --keep\n"), "scratch");
        self.daemon.mount().join("scratch").join(name)
    }

    /// Kills the daemon while something works that must write to scratch images, and starts it again when that has ended.
    fn kill_under(&mut self, work: impl FnOnce() + Send) {
        let state = self.daemon.folder().join("repository/index-state/scratch");
        let mut seen = BTreeSet::from([last_write(&state)]);
        std::thread::scope(|scope| {
            let working = scope.spawn(work);
            until("writes", || {
                seen.insert(last_write(&state));
                (seen.len() > 10 || working.is_finished()).then_some(())
            });
            self.daemon.kill();
        });
        self.daemon.serve();
    }

    fn assert_backup_is_as_it_was(&self) {
        assert_eq!(sha256(&self.daemon.image(&self.backup)), self.sha256);
    }
}

/// Returns when something was last written to any scratch image.
fn last_write(state: &Path) -> (i64, i64) {
    let images = fs::read_dir(state).unwrap().map(|image| image.unwrap().path().join("data"));
    let written = images.map(|data| {
        let data = fs::metadata(data).unwrap();
        (data.mtime(), data.mtime_nsec())
    });
    written.max().unwrap()
}

fn sha256(path: &Path) -> String {
    run("sha256sum", &[text(path)]).split(' ').next().unwrap().to_owned()
}

fn partition(image: &Path, number: u32) -> PathBuf {
    image.with_extension("partitions").join(number.to_string())
}

fn bytes(path: &Path, part: Range) -> Vec<u8> {
    let mut bytes = vec![0; part.length as usize];
    File::open(path).unwrap().read_exact_at(&mut bytes, part.offset).unwrap();
    bytes
}

#[test]
fn the_whole_disk_and_its_partitions_are_written_to_at_the_same_time() {
    let world = World::new(4 * MIB, "");
    let image = world.scratch("try");
    let [mut first, mut second] = [(1, 11), (2, 12)]
        .map(|(number, seed)| Fsx::new(&partition(&image, number), seed, Allowed::ALL).unwrap());
    // The first partition by its own name; the second as a part of the whole disk, through the page cache.
    let device = Loop::new(&image, Some(world.second));
    std::thread::scope(|scope| {
        scope.spawn(|| first.run(&partition(&image, 1), 1500).unwrap());
        scope.spawn(|| second.run(device.device(), 1500).unwrap());
    });
    second.sync(device.device()).unwrap();
    // Each is found where the other looks.
    first.compare(Loop::with(&image, Some(FIRST), &["-r", "--direct-io=on"]).device()).unwrap();
    second.compare(&partition(&image, 2)).unwrap();
    drop(device);

    let table = bytes(&image, Range { offset: 0, length: MIB });
    let mut whole = Fsx::new(&image, 13, Allowed::ALL).unwrap();
    whole.run(&image, 1500).unwrap();
    whole.compare(&image).unwrap();
    // Written over, the table was no more; with it, the partitions are there again.
    assert!(!partition(&image, 1).exists());
    File::options().write(true).open(&image).unwrap().write_all_at(&table, 0).unwrap();
    for (number, part) in [(1, FIRST), (2, world.second)] {
        let alone = bytes(&partition(&image, number), Range { offset: 0, ..part });
        assert!(alone == bytes(&image, part), "partition {number}");
    }
    world.assert_backup_is_as_it_was();
}

#[test]
fn every_block_that_fio_wrote_is_there_after_the_daemon_was_killed() {
    let mut world = World::new(16 * MIB, "");
    let image = world.scratch("try");
    let second = partition(&image, 2);
    fio::write_and_verify(&partition(&image, 1), FIRST.length, true).unwrap();
    fio::write_and_verify(&second, world.second.length, false).unwrap();
    world.daemon.kill();
    world.daemon.serve();
    fio::verify(&partition(&image, 1), FIRST.length).unwrap();
    fio::verify(&second, world.second.length).unwrap();
    let device = Loop::with(&image, Some(world.second), &["--direct-io=on"]);
    fio::verify(device.device(), world.second.length).unwrap();
    fio::write_and_verify(device.device(), world.second.length, true).unwrap();
    world.assert_backup_is_as_it_was();
}

#[test]
fn nothing_that_was_acknowledged_is_lost_when_the_daemon_is_killed() {
    let mut world = World::new(4 * MIB, "");
    let image = world.scratch("try");
    let names = [1, 2].map(|number| partition(&image, number));
    let mut both = [0, 1].map(|at| Fsx::new(&names[at], 21 + at as u64, NO_MMAP).unwrap());
    for _ in 0..4 {
        world.kill_under(|| {
            std::thread::scope(|scope| {
                for (fsx, name) in both.iter_mut().zip(&names) {
                    scope.spawn(|| {
                        let ended = fsx.run(name, u64::MAX);
                        assert!(matches!(ended, Err(Failure::Io { .. })), "{ended:?}");
                    });
                }
            });
        });
        for (fsx, name) in both.iter_mut().zip(&names) {
            fsx.after_kill(name).unwrap();
            fsx.run(name, 150).unwrap();
        }
        // While nobody works, nothing at all is lost, synced or not.
        world.daemon.kill();
        world.daemon.serve();
        both.iter().zip(&names).for_each(|(fsx, name)| fsx.compare(name).unwrap());
    }
    let mut whole = Fsx::new(&image, 23, Allowed::ALL).unwrap();
    whole.run(&image, 200).unwrap();
    world.daemon.stop();
    world.daemon.serve();
    whole.compare(&image).unwrap();
    world.assert_backup_is_as_it_was();
}

fn is_clean(kind: Kind, device: &Path) {
    match kind {
        Kind::Xfs => run("xfs_repair", &["-n", text(device)]),
        _ => run("e2fsck", &["-fn", text(device)]),
    };
}

/// fsx and fio on files of a file system on a scratch image whose daemon is killed.
fn file_system_survives(kind: Kind, options: &[&str]) {
    let mut world = World::new(320 * MIB, "");
    let image = world.scratch("try");
    let folder = world.volumes.path().join("mounted");
    let [file, blocks] = ["file", "blocks"].map(|name| folder.join(name));
    let attach = || Loop::with(&partition(&image, 2), None, options);
    let device = attach();
    make_file_system(kind, device.device(), "try", 512);
    let mounted = Mounted::new(device, &folder, "rw");
    for name in [&file, &blocks] {
        fs::write(name, pattern(31, 4 * MIB as usize)).unwrap();
    }
    let mut fsx = Fsx::new(&file, 32, NO_MMAP).unwrap();
    fsx.run(&file, 500).unwrap();
    // Not by name: the file's folder entry is to be durable, too.
    run("sync", &["-f", text(&folder)]);
    fsx.sync(&file).unwrap();
    fio::write_and_verify(&blocks, 4 * MIB, true).unwrap();
    world.kill_under(|| {
        let ended = fsx.run(&file, u64::MAX);
        assert!(matches!(ended, Err(Failure::Io { .. })), "{ended:?}");
    });
    drop(mounted);

    let mounted = Mounted::new(attach(), &folder, "rw");
    fsx.after_crash(&file).unwrap();
    fio::verify(&blocks, 4 * MIB).unwrap();
    fsx.run(&file, 300).unwrap();
    drop(mounted);
    // The same file system, as a part of the whole disk.
    let device = Loop::with(&image, Some(world.second), options);
    is_clean(kind, device.device());
    let mounted = Mounted::new(device, &folder, "ro");
    fsx.compare(&file).unwrap();
    drop(mounted);
    world.assert_backup_is_as_it_was();
}

#[test]
fn an_ext4_on_a_scratch_image_loses_nothing_that_it_had_synced_when_the_daemon_is_killed() {
    file_system_survives(Kind::Ext4, &[]);
}

#[test]
fn an_xfs_on_a_scratch_image_loses_nothing_that_it_had_synced_when_the_daemon_is_killed() {
    file_system_survives(Kind::Xfs, &["--direct-io=on"]);
}

#[test]
fn a_full_scratch_space_is_a_clean_error_and_hurts_nothing_else() {
    let world = World::new(320 * MIB, "scratch = \"24MiB\"");
    let [full, other] = ["full", "other"].map(|name| world.scratch(name));
    fs::write(partition(&other, 1), pattern(40, FIRST.length as usize)).unwrap();
    fio::write_and_verify(&partition(&other, 1), FIRST.length, true).unwrap();
    let mut fsx = Fsx::new(&partition(&other, 1), 41, Allowed { punch: false, ..Allowed::ALL }).unwrap();

    let folder = world.volumes.path().join("mounted");
    let device = Loop::with(&partition(&full, 2), None, &["--direct-io=on"]);
    make_file_system(Kind::Ext4, device.device(), "full", 512);
    let mounted = Mounted::new(device, &folder, "rw");
    let output = Command::new("dd")
        .args([
            "if=/dev/urandom",
            "bs=1M",
            "count=64",
            "conv=fsync",
            &format!("of={}", text(&folder.join("big"))),
        ])
        .output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "64 MiB went into 24: {said}");
    assert!(
        ["Input/output error", "No space left", "Read-only"].iter().any(|why| said.contains(why)),
        "{said}"
    );
    drop(mounted);
    let said = fio::write_and_verify(&partition(&full, 1), FIRST.length, true).unwrap_err();
    assert!(said.contains("No space left on device"), "{said}");

    // Whoever has his room already writes on in it; backups are made, and read.
    fsx.run(&partition(&other, 1), 300).unwrap();
    world.assert_backup_is_as_it_was();
    world.daemon.backup("disk --name tuesday --incremental");
    // Thrown away, it makes room again.
    fs::remove_file(&full).unwrap();
    until("room", || fio::write_and_verify(&partition(&other, 2), 12 * MIB, true).ok());
    fsx.compare(&partition(&other, 1)).unwrap();
    world.assert_backup_is_as_it_was();
}
