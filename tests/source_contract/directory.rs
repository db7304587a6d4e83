//! Directories of image files: the fixture, and claims that only they make.

use std::any::Any;
use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;

use amberfs::source::dir::DirSource;
use amberfs::source::{Consistency, ExtentKind, InUse, Source, SourceError};
use amberfs::types::{ByteRange, VolumeMetadata};

use crate::support::bytes::pattern;
use crate::support::file_system::{Folder, Kind, alone, folder, small_folder};
use crate::{Fixture, assert_same, extents, read_all, snapshot_name, snapshot_of, volume, written};

pub struct Directory {
    kind: Kind,
    source: DirSource,
    folder: Folder,
}

impl Directory {
    pub fn on(kind: Kind) -> Self {
        Self::of(kind, folder(kind))
    }

    fn of(kind: Kind, folder: Folder) -> Self {
        let source = DirSource::open("here".parse().unwrap(), folder.path()).unwrap();
        Self { kind, source, folder }
    }

    fn path(&self, file_name: &str) -> PathBuf {
        self.folder.path().join(file_name)
    }

    fn file(&self, name: &str) -> PathBuf {
        let endings = [".raw", ".img", ""];
        let paths = endings.map(|ending| self.path(&format!("{name}{ending}")));
        paths.into_iter().find(|path| path.is_file()).unwrap()
    }

    fn listed(&self) -> Vec<String> {
        self.source.list().unwrap().iter().map(ToString::to_string).collect()
    }
}

impl Fixture for Directory {
    fn source(&self) -> &dyn Source {
        &self.source
    }

    fn make(&self, name: &str, size_bytes: u64, pieces: &[(u64, &[u8])]) {
        put(&self.path(&format!("{name}.raw")), size_bytes, pieces);
    }

    fn write(&self, name: &str, offset: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(self.file(name)).unwrap();
        file.write_all_at(bytes, offset).unwrap();
    }

    fn open_for_writing(&self, name: &str) -> Box<dyn Any> {
        Box::new(OpenOptions::new().write(true).open(self.file(name)).unwrap())
    }

    fn content(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.file(name)).unwrap()
    }

    fn mark(&self, name: &str, key: &str) -> Option<String> {
        let mut value = [0; 100];
        let file = File::open(self.file(name)).unwrap();
        let length = rustix::fs::fgetxattr(file, format!("user.{key}"), &mut value[..]).ok()?;
        Some(String::from_utf8(value[..length].to_vec()).unwrap())
    }

    fn consistency(&self) -> (Consistency, Consistency) {
        match self.kind {
            Kind::Xfs => (Consistency::Frozen, Consistency::Frozen),
            Kind::Ext4 | Kind::Ramfs => (Consistency::Held, Consistency::Unprotected),
        }
    }

    fn everything(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| format!("{:?}", entry.unwrap().file_name())).collect();
        names.sort();
        names
    }

    fn hard_names(&self) -> Vec<String> {
        let short =
            ["a b", " ", "\"quoted' \\", "-rf", ".hidden", "...", "\u{fc}\u{1f600}", "new\nline", "%41", "*"];
        let long = [250, 251, 252, 255].map(|length| "x".repeat(length));
        short.into_iter().map(str::to_owned).chain(long).collect()
    }

    fn impossible_names(&self) -> Vec<String> {
        let long = "x".repeat(256);
        ["a/b", "/", "../v", ".", "..", ".amberfs-snapshot-x", &long].map(str::to_owned).to_vec()
    }
}

fn put(path: &Path, size_bytes: u64, pieces: &[(u64, &[u8])]) {
    let file = File::create_new(path).unwrap();
    file.set_len(size_bytes).unwrap();
    for (offset, bytes) in pieces {
        file.write_all_at(bytes, *offset).unwrap();
    }
}

#[test]
fn a_volume_is_called_without_its_ending_and_found_with_it() {
    let directory = Directory::on(Kind::Ext4);
    for (file_name, size_bytes) in [("a.raw", 1), ("b.img", 2), ("c", 3), ("d.raw", 4), ("d.img", 5)] {
        put(&directory.path(file_name), size_bytes, &[]);
    }
    assert_eq!(directory.listed(), ["a", "b", "c", "d.img", "d.raw"]);
    let names = [("a", "a", 1), ("a.raw", "a", 1), ("b.img", "b", 2), ("c", "c", 3), ("d.raw", "d.raw", 4)];
    for (asked_for, name, size_bytes) in names {
        let info = directory.source.volume(&volume(asked_for)).unwrap();
        assert_eq!((info.name.as_str(), info.size_bytes), (name, size_bytes));
    }
    for missing in ["d", "c.raw", "a.img"] {
        let error = directory.source.volume(&volume(missing)).err();
        assert!(matches!(error, Some(SourceError::VolumeNotFound { .. })), "{missing}");
    }
    for taken in ["a", "a.raw", "a.img", "b", "c", "d", "d.img"] {
        let error = directory.source.create_volume(&volume(taken), 1, &VolumeMetadata::default()).err();
        assert!(matches!(error, Some(SourceError::VolumeExists { .. })), "{taken}");
        let error = directory.source.rename_volume(&volume("a"), &volume(taken)).err();
        assert!(matches!(error, Some(SourceError::VolumeExists { .. })), "{taken}");
    }
}

#[test]
fn a_rename_keeps_the_ending() {
    let directory = Directory::on(Kind::Ext4);
    for (from, to, expected) in
        [("a.raw", "x", "x.raw"), ("a.img", "x", "x.img"), ("a", "x", "x"), ("a.raw", "x.img", "x.img")]
    {
        put(&directory.path(from), 1, &[]);
        directory.source.rename_volume(&volume("a"), &volume(to)).unwrap();
        assert_eq!(directory.everything(), [format!("{expected:?}")]);
        directory.source.remove_volume(&volume("x")).unwrap();
    }
}

#[test]
fn only_files_and_links_to_files_are_volumes() {
    let directory = Directory::on(Kind::Ext4);
    let elsewhere = tempfile::NamedTempFile::new().unwrap();
    let bytes = pattern(1, 5000);
    elsewhere.as_file().write_all_at(&bytes, 0).unwrap();
    let elsewhere = elsewhere.into_temp_path();
    symlink(&elsewhere, directory.path("linked.raw")).unwrap();
    symlink("nowhere", directory.path("dangling.raw")).unwrap();
    symlink("/dev/null", directory.path("device.raw")).unwrap();
    symlink("loop.raw", directory.path("loop.raw")).unwrap();
    std::fs::create_dir(directory.path("folder.raw")).unwrap();
    std::os::unix::net::UnixListener::bind(directory.path("socket.raw")).unwrap();
    let fifo = directory.path("fifo.raw");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    put(&directory.path(".amberfs-snapshot-x"), 1, &[]);
    put(&directory.folder.path().join(std::ffi::OsStr::from_bytes(b"latin-\xfc.raw")), 1, &[]);
    assert_eq!(directory.listed(), ["linked"]);
    for name in ["dangling", "device", "loop", "folder", "socket", "fifo"] {
        let error = directory.source.open_volume(&volume(name)).err();
        assert!(matches!(error, Some(SourceError::VolumeNotFound { .. })), "{name}");
        directory.source.remove_volume(&volume(name)).unwrap();
    }
    let snapshot = snapshot_of(&directory, "linked");
    assert_same(&read_all(&*snapshot).unwrap(), &bytes);
    drop(snapshot);
    directory.source.open_volume(&volume("linked")).unwrap().write(0, &[1]).unwrap();
    directory.source.rename_volume(&volume("linked"), &volume("moved")).unwrap();
    directory.source.remove_volume(&volume("moved")).unwrap();
    assert_eq!(std::fs::read(&elsewhere).unwrap()[0], 1);
    assert_eq!(directory.listed(), [""; 0]);
}

#[test]
fn a_snapshot_survives_the_removal_of_its_file() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        let directory = Directory::on(kind);
        let bytes = pattern(2, 100_000);
        directory.make("v", 100_000, &[(0, &bytes)]);
        let snapshot = snapshot_of(&directory, "v");
        directory.source.remove_volume(&volume("v")).unwrap();
        assert_eq!(directory.everything(), [""; 0]);
        assert_same(&read_all(&*snapshot).unwrap(), &bytes);
        snapshot.confirm().unwrap();
    }
}

#[test]
fn a_file_that_changes_under_an_unprotected_snapshot_is_noticed() {
    let directory = Directory::on(Kind::Ext4);
    let name = volume("v");
    for how in ["write", "cut"] {
        directory.make("v", 8192, &[(0, &pattern(3, 8192))]);
        let user = OpenOptions::new().write(true).open(directory.file("v")).unwrap();
        let snapshot = directory.source.create_snapshot(&name, &snapshot_name("s"), InUse::Accept).unwrap();
        assert_eq!(snapshot.consistency(), Consistency::Unprotected);
        snapshot.confirm().unwrap();
        match how {
            "write" => user.write_all_at(b"x", 100).unwrap(),
            _ => user.set_len(100).unwrap(),
        }
        assert!(matches!(snapshot.confirm(), Err(SourceError::Changed { .. })), "{how}");
        if how == "cut" {
            assert!(matches!(read_all(&*snapshot), Err(SourceError::Changed { .. })));
        }
        directory.source.remove_volume(&name).unwrap();
    }
}

#[test]
fn a_held_volume_that_is_taken_away_is_an_error_forever() {
    let directory = Directory::of(Kind::Ext4, folder(Kind::Ext4).released());
    let _alone = alone();
    let _one_second = LeaseBreakTime::of_one_second();
    for how in ["write", "cut"] {
        let bytes = pattern(4, 300_000);
        directory.make(how, 300_000, &[(0, &bytes)]);
        let snapshot = snapshot_of(&directory, how);
        assert_same(&read_all(&*snapshot).unwrap(), &bytes);
        thread::scope(|scope| {
            let writer = scope.spawn(|| match how {
                "write" => directory.write(how, 0, b"written after a second"),
                _ => drop(File::create(directory.file(how)).unwrap()),
            });
            // Until the kernel lets the writer go on, every read is good; then none is.
            let error = loop {
                match read_all(&*snapshot) {
                    Ok(read) => assert_same(&read, &bytes),
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, SourceError::Changed { .. }), "{error}");
            writer.join().unwrap();
        });
        assert!(matches!(read_all(&*snapshot), Err(SourceError::Changed { .. })));
        assert!(matches!(snapshot.confirm(), Err(SourceError::Changed { .. })));
        assert!(matches!(snapshot.allocated(&mut |_| Ok(())), Err(SourceError::Changed { .. })));
    }
}

#[test]
fn a_restore_does_not_disturb_a_snapshot_that_holds_its_target() {
    let directory = Directory::on(Kind::Ext4);
    let bytes = pattern(5, 10_000);
    directory.make("v", 10_000, &[(0, &bytes)]);
    let (first, second) = (snapshot_of(&directory, "v"), snapshot_of(&directory, "v"));
    let other_source = DirSource::open("other".parse().unwrap(), directory.folder.path()).unwrap();
    for source in [&directory.source, &other_source] {
        let refused = source.open_volume(&volume("v")).err();
        assert!(matches!(refused, Some(SourceError::VolumeInUse { .. })), "{refused:?}");
    }
    drop(first);
    assert!(directory.source.open_volume(&volume("v")).is_err());
    assert_same(&read_all(&*second).unwrap(), &bytes);
    second.confirm().unwrap();
    drop(second);
    assert!(directory.source.open_volume(&volume("v")).is_ok());
}

#[test]
fn a_volume_that_another_program_locked_is_in_use() {
    let directory = Directory::on(Kind::Ext4);
    directory.make("v", 1000, &[]);
    let locked = File::open(directory.file("v")).unwrap();
    rustix::fs::flock(&locked, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let refused = directory.source.open_volume(&volume("v")).err();
    assert!(matches!(refused, Some(SourceError::VolumeInUse { .. })), "{refused:?}");
    drop(locked);
    assert!(directory.source.open_volume(&volume("v")).is_ok());
}

#[test]
fn snapshots_go_where_their_volume_goes() {
    let directory = Directory::on(Kind::Xfs);
    for name in ["v", "w"] {
        directory.make(name, 1000, &[(0, &pattern(6, 1000))]);
        drop(snapshot_of(&directory, name));
    }
    let info = directory.source.snapshots(&volume("v")).unwrap();
    directory.source.rename_volume(&volume("v"), &volume("x")).unwrap();
    assert_eq!(directory.source.snapshots(&volume("x")).unwrap(), info);
    directory.make("v", 5, &[]);
    assert_eq!(directory.source.snapshots(&volume("v")).unwrap(), []);
    directory.source.remove_volume(&volume("x")).unwrap();
    assert_eq!(directory.listed(), ["v", "w"]);
    assert_eq!(directory.everything().len(), 3);
    // A file that its user removed leaves its snapshots; whoever knows them can still remove them.
    let info = directory.source.snapshots(&volume("w")).unwrap();
    std::fs::remove_file(directory.file("w")).unwrap();
    directory.source.remove_snapshot(&volume("w"), &info[0]).unwrap();
    assert_eq!(directory.everything().len(), 1);
}

#[test]
fn a_full_disk_is_an_error_that_names_the_file() {
    let _alone = alone();
    let directory = Directory::of(Kind::Ext4, small_folder(Kind::Ext4, 16 << 20));
    let writer = directory.source.create_volume(&volume("v"), 1 << 30, &VolumeMetadata::default()).unwrap();
    let bytes = pattern(7, 1 << 20);
    let mut written = (0..64).map(|number| writer.write(number << 20, &bytes).and_then(|()| writer.flush()));
    let Some(Err(error)) = written.find(Result::is_err) else { panic!("64 MiB fit into 16") };
    let SourceError::Io { what, source, .. } = error else { panic!("{error}") };
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
    assert!(what.contains(directory.file("v").to_str().unwrap()), "{what}");
}

#[test]
fn a_file_system_without_holes_or_attributes_is_written_in_full_and_says_so() {
    let directory = Directory::on(Kind::Ramfs);
    let writer = directory.source.create_volume(&volume("v"), 300_000, &VolumeMetadata::default()).unwrap();
    let mut bytes = pattern(8, 300_000);
    writer.write(0, &bytes).unwrap();
    writer.zero(ByteRange::new(511, 200_001)).unwrap();
    bytes[511..200_512].fill(0);
    writer.flush().unwrap();
    assert_same(&written(&*writer), &bytes);
    let found = extents(300_000, |emit| writer.allocated(emit));
    assert!(found.iter().all(|extent| extent.kind == ExtentKind::Data));
    assert_eq!(found.iter().map(|extent| extent.range.len()).sum::<u64>(), 300_000);
    let error = writer.set_mark("amberfs.restore", Some("incomplete")).unwrap_err();
    assert!(error.to_string().contains("extended attribute \"user.amberfs.restore\""), "{error}");
    drop(writer);
    assert_same(&read_all(&*snapshot_of(&directory, "v")).unwrap(), &bytes);
}

#[test]
fn a_volume_that_cannot_have_its_size_leaves_nothing() {
    let directory = Directory::on(Kind::Ext4);
    // 16 TiB is the largest file of ext4 with blocks of 4 KiB.
    let too_large = directory.source.create_volume(&volume("v"), 1 << 45, &VolumeMetadata::default());
    assert!(matches!(too_large.err(), Some(SourceError::Io { .. })));
    assert_eq!(directory.everything(), [""; 0]);
}

#[test]
fn zeroing_gives_the_space_back() {
    let directory = Directory::on(Kind::Ext4);
    directory.make("v", 1 << 20, &[(0, &pattern(9, 1 << 20))]);
    let writer = directory.source.open_volume(&volume("v")).unwrap();
    writer.zero(ByteRange::new(0, 1 << 20)).unwrap();
    assert_eq!(extents(1 << 20, |emit| writer.allocated(emit)), []);
}

#[test]
fn a_directory_that_is_gone_is_unavailable_and_not_empty() {
    let missing = DirSource::open("here".parse().unwrap(), "/nowhere/at/all");
    assert!(matches!(missing.err(), Some(SourceError::Unavailable { .. })));
    let folder = tempfile::tempdir().unwrap();
    let source = DirSource::open("here".parse().unwrap(), folder.path()).unwrap();
    drop(folder);
    assert!(matches!(source.list().err(), Some(SourceError::Unavailable { .. })));
    assert!(matches!(source.volume(&volume("v")).err(), Some(SourceError::Unavailable { .. })));
    assert!(matches!(source.remove_volume(&volume("v")).err(), Some(SourceError::Unavailable { .. })));
}

/// The time that the kernel gives to a holder of a lease, put back on drop.
struct LeaseBreakTime {
    before: Vec<u8>,
}

impl LeaseBreakTime {
    const PATH: &str = "/proc/sys/fs/lease-break-time";

    fn of_one_second() -> Self {
        let before = std::fs::read(Self::PATH).unwrap();
        OpenOptions::new().write(true).open(Self::PATH).unwrap().write_all_at(b"1\n", 0).unwrap();
        Self { before }
    }
}

impl Drop for LeaseBreakTime {
    fn drop(&mut self) {
        let file = OpenOptions::new().write(true).open(Self::PATH).unwrap();
        file.write_all_at(&self.before, 0).unwrap();
    }
}
