//! One writer, and readers beside it that see what it does: real daemons on one repository, and what the writer does to
//! packs and manifests under a reader's hands.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a failed expectation is a failed test"
)]

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use amberfs::format::codec::Compression;
use amberfs::objects::ObjectName;
use amberfs::repository::{Location, Repository, RepositoryOptions};
use amberfs::source::Source;
use amberfs::source::dir::DirSource;
use amberfs::types::{ManifestId, PackId};
use amberfs::vfs::CONTROL_FILES;
use rustix::io::Errno;
use support::bytes::pattern;
use support::daemon::{Daemon, until};
use support::engine::{Engine, full, incremental};

const EACH_SECOND: &str = "refresh_seconds = 1\n";

/// A writer over a directory of images.
struct World {
    writer: Daemon,
    volumes: tempfile::TempDir,
    sections: String,
}

impl World {
    fn start() -> Self {
        let volumes = tempfile::tempdir().unwrap();
        let sections = format!("[source.local]\ntype = \"dir\"\npath = \"{}\"\n", volumes.path().display());
        Self { writer: Daemon::start(&sections), volumes, sections }
    }

    /// Makes or overwrites a volume.
    fn volume(&self, name: &str, seed: u64, length: usize) -> Vec<u8> {
        let bytes = pattern(seed, length);
        fs::write(self.volumes.path().join(format!("{name}.raw")), &bytes).unwrap();
        bytes
    }

    /// A daemon that is not started yet, on the writer's repository.
    fn another(&self, repository_lines: &str) -> Daemon {
        self.writer.beside(repository_lines, &self.sections)
    }

    fn reader(&self) -> Daemon {
        let mut reader = self.another(EACH_SECOND);
        reader.serve();
        assert_eq!(reader.status()["repository"]["read_only"], true);
        reader
    }
}

fn sees_image(reader: &Daemon, id: &str, bytes: &[u8]) {
    let seen = until("the image at the reader", || fs::read(reader.image(id)).ok());
    assert!(seen == bytes, "backup {id} reads differently at the reader");
}

#[test]
fn a_reader_sees_backups_come_change_and_go_without_a_restart() {
    let world = World::start();
    let reader = world.reader();
    let bytes = world.volume("v", 1, 3 << 20);
    let first = world.writer.backup("v --name first");
    sees_image(&reader, &first, &bytes);
    let changed = world.volume("v", 2, 3 << 20);
    let second = world.writer.backup("v --incremental --name second");
    sees_image(&reader, &second, &changed);
    assert_eq!(fs::read(reader.mount().join("volumes/local/v/latest/image")).unwrap(), changed);

    world.writer.accepted("set", &format!("{second} --name renamed\n"), "backup");
    until("the new name", || (reader.info(&second)["name"] == "renamed").then_some(()));
    assert!(reader.mount().join("volumes/local/v/renamed").exists());
    assert!(!reader.mount().join("volumes/local/v/second").exists());

    // It leans on nothing any more, and the manifest that it had is gone: what is open and what is opened can be read.
    let open = File::open(reader.image(&second)).unwrap();
    let job = world.writer.accepted("flatten", &format!("{second}\n"), "job");
    world.writer.done(&job);
    until("a full backup", || (reader.info(&second)["is_incremental"] == false).then_some(()));
    sees_image(&reader, &second, &changed);
    drop(open);

    let job = world.writer.accepted("delete", &format!("{first}\n"), "job");
    world.writer.done(&job);
    until("the end of the backup", || (!reader.mount().join("backups").join(&first).exists()).then_some(()));
    assert!(!reader.mount().join("volumes/local/v/first").exists());
    let events = reader.events();
    let event = |id: &str, status: &str| {
        let found =
            events.lines().filter(|line| line.contains(id)).any(|line| line.contains(&format!("{status:?}")));
        assert!(found, "no event {status} of {id} in {events}");
    };
    event(&first, "available");
    event(&first, "deleted");
    event(&second, "available");
    sees_image(&reader, &second, &changed);
}

#[test]
fn a_reader_refuses_every_command_that_writes_and_says_who_may() {
    let world = World::start();
    let reader = world.reader();
    world.volume("v", 1, 1 << 20);
    let id = world.writer.backup("v");
    until("the backup", || fs::metadata(reader.image(&id)).ok());
    let lines = |file: &str| match file {
        "backup" => "v\n".to_owned(),
        "cancel" => "1\n".to_owned(),
        "gc" => "\n".to_owned(),
        "import" => fs::read_to_string(reader.mount().join("backups").join(&id).join("record")).unwrap(),
        "set" => format!("{id} --name x\n"),
        "scratch" => format!("{id} --name x --keep\n"),
        _ => format!("{id}\n"),
    };
    let pid = format!("process {} on", world.writer.pid());
    // An UUID is changed in a volume, or in a scratch image, which this daemon keeps for itself.
    for file in CONTROL_FILES.into_iter().filter(|file| *file != "xfs-uuid") {
        let sentence = reader.refused(file, &lines(file), Errno::ROFS, "ReadOnly");
        assert!(sentence.contains(&pid), "{file}: {sentence}");
    }
    let status = reader.status();
    assert_eq!(status["repository"]["writer"]["pid"], world.writer.pid());
    assert_eq!(world.writer.status()["repository"]["writer"], serde_json::Value::Null);
    assert!(reader.log().contains(&pid), "{}", reader.log());
}

#[test]
fn a_killed_writer_leaves_no_lock_and_the_next_daemon_writes_while_a_reader_goes_on_reading() {
    let mut world = World::start();
    let reader = world.reader();
    let bytes = world.volume("v", 1, 3 << 20);
    let first = world.writer.backup("v");
    sees_image(&reader, &first, &bytes);
    world.writer.kill();
    // The file still has the text of the dead one.
    assert!(fs::metadata(world.writer.folder().join("repository/lock")).unwrap().len() > 0);
    assert_eq!(reader.status()["repository"]["writer"], serde_json::Value::Null);
    let sentence = reader.refused("backup", "v\n", Errno::ROFS, "ReadOnly");
    assert!(!sentence.contains("process"), "{sentence}");
    sees_image(&reader, &first, &bytes);

    let mut third = world.another("");
    third.serve();
    assert_eq!(third.status()["repository"]["read_only"], false);
    assert_eq!(reader.status()["repository"]["writer"]["pid"], third.pid());
    let changed = world.volume("v", 2, 3 << 20);
    let second = third.backup("v --incremental");
    sees_image(&reader, &second, &changed);
    assert_eq!(reader.status()["repository"]["read_only"], true, "a reader stays one");
}

#[test]
fn of_daemons_that_start_at_the_same_instant_exactly_one_writes() {
    let mut world = World::start();
    world.volume("v", 1, 1 << 20);
    let id = world.writer.backup("v");
    world.writer.kill();
    let mut daemons: Vec<_> = (0..3).map(|_| world.another("")).collect();
    for round in 0..8 {
        daemons.iter_mut().for_each(Daemon::launch);
        daemons.iter_mut().for_each(Daemon::wait_until_serving);
        let writers = daemons.iter().filter(|daemon| daemon.status()["repository"]["read_only"] == false);
        assert_eq!(writers.count(), 1, "round {round}");
        assert!(daemons.iter().all(|daemon| fs::metadata(daemon.image(&id)).is_ok()));
        for daemon in &mut daemons {
            if round % 2 == 0 { daemon.kill() } else { daemon.stop() }
        }
    }
}

#[test]
fn a_reader_that_starts_while_a_backup_is_made_sees_it_when_it_is_whole() {
    let world = World::start();
    let bytes = world.volume("v", 1, 64 << 20);
    let id = world.writer.accepted("backup", "v\n", "backup");
    let reader = world.reader();
    let info = until("the backup", || {
        // First: it may become available in between.
        let has_image = reader.image(&id).exists();
        let info = fs::read(reader.mount().join("backups").join(&id).join("info.json")).ok()?;
        let info: serde_json::Value = serde_json::from_slice(&info).unwrap();
        assert!(info["status"] == "available" || !has_image);
        (info["status"] == "available").then_some(info)
    });
    assert_eq!(info["id"], id);
    sees_image(&reader, &id, &bytes);
}

/// Names, lengths and times of all files below a folder.
fn marks(folder: &Path) -> Vec<(PathBuf, u64, i64, i64)> {
    let mut marks = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::metadata(&path).unwrap();
        if metadata.is_dir() {
            marks.extend(self::marks(&path));
        }
        marks.push((path, metadata.len(), metadata.mtime(), metadata.mtime_nsec()));
    }
    marks.sort();
    marks
}

#[test]
fn a_reader_touches_nothing_that_is_the_writers() {
    let world = World::start();
    world.volume("v", 1, 1 << 20);
    let id = world.writer.backup("v");
    world.writer.accepted("scratch", &format!("{id} --name kept --keep\n"), "scratch");
    // The writer's files stand still while it is stopped like this; its lock stays its own.
    world.writer.pause();
    let before = marks(&world.writer.folder().join("repository"));
    let mut reader = world.reader();
    assert!(fs::read(reader.image(&id)).is_ok());
    assert!(!reader.mount().join("scratch/kept").exists());
    reader.stop();
    assert_eq!(marks(&world.writer.folder().join("repository")), before);
    world.writer.go_on();
    assert!(world.writer.mount().join("scratch/kept").exists());
}

fn source(folder: &Path) -> Vec<std::sync::Arc<dyn Source>> {
    vec![std::sync::Arc::new(DirSource::open("local".parse().unwrap(), folder).unwrap())]
}

fn open_reader(repository: &Path) -> Repository {
    let options = RepositoryOptions { index: None, compression: Compression::None, cache_bytes: 64 << 20 };
    let reader = Repository::open(&Location::Directory(repository.to_owned()), &options).unwrap();
    assert!(reader.is_read_only());
    reader
}

fn packs(repository: &Path) -> Vec<PathBuf> {
    let files = marks(&repository.join("packs")).into_iter().map(|(path, ..)| path);
    files.filter(|path| path.is_file()).collect()
}

/// What the writer's garbage collection does, as a reader sees it: the same chunks in another pack.
fn move_chunks(repository: &Path) {
    for pack in packs(repository) {
        let id = PackId::random();
        let folder = repository.join(format!("packs/{:02x}", id.as_bytes()[0]));
        fs::create_dir_all(&folder).unwrap();
        fs::copy(&pack, folder.join(id.to_string())).unwrap();
        fs::remove_file(pack).unwrap();
    }
}

/// Makes a store let go of the files that it keeps open: what they held is gone for it then.
fn let_go_of_files(repository: &Path, reader: &Repository) {
    for _ in 0..200 {
        let id = ManifestId::random();
        fs::write(repository.join(format!("manifests/{id}")), b"x").unwrap();
        reader.objects().read(ObjectName::Manifest(id), 0, &mut [0]).unwrap();
        fs::remove_file(repository.join(format!("manifests/{id}"))).unwrap();
    }
}

#[test]
fn a_reader_finds_chunks_that_were_moved_into_other_packs() {
    let folder = tempfile::tempdir().unwrap();
    let (volumes, repository) = (folder.path().join("volumes"), folder.path().join("repository"));
    fs::create_dir(&volumes).unwrap();
    let bytes = pattern(7, 3 << 20);
    fs::write(volumes.join("v.raw"), &bytes).unwrap();
    let engine = Engine::open(&repository, source(&volumes));
    let id = engine.backup(full("v")).id;
    let reader = open_reader(&repository);
    let image = reader.image(id).unwrap();
    for turn in 0..3 {
        move_chunks(&repository);
        let_go_of_files(&repository, &reader);
        let mut read = vec![0; 1 << 20];
        image.read(turn << 20, &mut read).unwrap();
        assert!(read == bytes[(turn as usize) << 20..][..1 << 20], "turn {turn}");
    }
    // What is nowhere is an error, and stays one until it is there again.
    let gone: Vec<_> = packs(&repository).into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect();
    gone.iter().for_each(|(_, path)| fs::remove_file(path).unwrap());
    drop((image, reader));
    let reader = open_reader(&repository);
    let image = reader.image(id).unwrap();
    assert!(image.read(0, &mut [0; 4096]).is_err());
    gone.iter().for_each(|(bytes, path)| fs::write(path, bytes).unwrap());
    until("the chunk is found again", || image.read(0, &mut [0; 4096]).ok());
}

#[test]
fn a_reader_that_has_not_looked_yet_opens_a_backup_whose_manifest_was_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (volumes, repository) = (folder.path().join("volumes"), folder.path().join("repository"));
    fs::create_dir(&volumes).unwrap();
    let mut bytes = pattern(7, 3 << 20);
    fs::write(volumes.join("v.raw"), &bytes).unwrap();
    let engine = Engine::open(&repository, source(&volumes));
    engine.backup(full("v"));
    bytes[1 << 20..][..4096].fill(9);
    let file = File::options().write(true).open(volumes.join("v.raw")).unwrap();
    file.write_all_at(&[9; 4096], 1 << 20).unwrap();
    drop(file);
    let id = engine.backup(incremental("v")).id;
    let reader = open_reader(&repository);
    let requester = amberfs::operations::Requester::OPERATOR;
    let flattened = engine.operations.flatten(&requester, &id.to_string()).unwrap();
    engine.operations.jobs().wait(flattened.job).unwrap();
    let image = reader.image(id).unwrap();
    let mut read = vec![0; bytes.len()];
    image.read(0, &mut read).unwrap();
    assert!(read == bytes);
    assert!(!reader.catalog().get(id).unwrap().is_incremental());
}
