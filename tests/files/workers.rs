//! What a worker may do, and what becomes of a request when its worker is lost.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use amberfs::files::{FilePath, FileSystemKind, FileTree, FileTrees, FileTreesOptions, FilesError};
use amberfs::sysio::device::{FileDevice, ReadAt};
use rustix::process::{Pid, Signal, kill_process};

use crate::images::{Workshop, run};
use crate::{open, options};

const CONTENT_BYTES: usize = 8 << 20;

/// An ext4 with one file, and that file's content.
fn image(workshop: &Workshop) -> (PathBuf, Vec<u8>) {
    let content: Vec<u8> =
        (0..CONTENT_BYTES as u32 / 4).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let folder = workshop.path("folder");
    fs::create_dir_all(&folder).unwrap();
    File::create(folder.join("file")).unwrap().write_all(&content).unwrap();
    (workshop.make(&["mkfs.ext4", "-q", "-F", "-d", folder.to_str().unwrap()], 64 << 20), content)
}

fn read_all(tree: &FileTree) -> Result<Vec<u8>, FilesError> {
    let mut bytes = vec![0; CONTENT_BYTES + 1];
    let read = tree.read(&FilePath::new(b"file").unwrap(), 0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}

fn stat(tree: &FileTree) -> Result<u64, FilesError> {
    Ok(tree.metadata(&FilePath::new(b"file").unwrap())?.size_bytes)
}

/// Waits for something that happens soon, and fails when it does not.
fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let started = Instant::now();
    while !happened() {
        assert!(started.elapsed() < Duration::from_secs(60), "{what} did not happen");
        std::thread::yield_now();
    }
}

fn kill(id: u32) {
    kill_process(Pid::from_raw(i32::try_from(id).unwrap()).unwrap(), Signal::KILL).unwrap();
}

/// A device that does something at the `countdown`th read from now on.
struct Troubled {
    inner: FileDevice,
    countdown: AtomicU64,
    victim: AtomicU32,
    fails_at: AtomicU64,
}

impl Troubled {
    fn new(image: &Path) -> Arc<Self> {
        Arc::new(Self {
            inner: FileDevice::open(image).unwrap(),
            countdown: AtomicU64::new(u64::MAX),
            victim: AtomicU32::new(0),
            fails_at: AtomicU64::new(u64::MAX),
        })
    }
}

impl ReadAt for Troubled {
    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }

    fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        if self.countdown.fetch_sub(1, Ordering::Relaxed) == 1 {
            kill(self.victim.load(Ordering::Relaxed));
        }
        if offset + into.len() as u64 > self.fails_at.load(Ordering::Relaxed) {
            return Err(io::Error::other("a bad place"));
        }
        self.inner.read_exact_at(offset, into)
    }
}

#[test]
fn a_worker_has_a_socket_and_nothing_else() {
    let workshop = Workshop::new();
    // Something that every careless child would inherit.
    let leaked = File::open("/etc/hostname").unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    let tree = open(&image(&workshop).0, FileSystemKind::Ext);
    assert_eq!(stat(&tree).unwrap(), CONTENT_BYTES as u64);
    let process = PathBuf::from(format!("/proc/{}", tree.worker_id().unwrap()));

    let descriptors: Vec<_> =
        fs::read_dir(process.join("fd")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(descriptors.len(), 1, "{descriptors:?}");
    assert!(fs::read_link(&descriptors[0]).unwrap().to_str().unwrap().starts_with("socket:"));
    assert_eq!(fs::read(process.join("environ")).unwrap(), b"");
    assert_eq!(fs::read_link(process.join("cwd")).unwrap(), Path::new("/"));

    let status = fs::read_to_string(process.join("status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(field("Uid:"), "65534 65534 65534 65534");
    assert_eq!(field("Gid:"), "65534 65534 65534 65534");
    assert_eq!(field("Groups:"), "");
    assert_eq!(field("Threads:"), "1");
    assert_eq!(field("NoNewPrivs:"), "1");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }

    let limits = fs::read_to_string(process.join("limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    };
    let memory = options().memory_bytes;
    assert_eq!(limit("Max address space"), format!("{memory} {memory}"));
    for name in ["Max core file size", "Max file size", "Max open files", "Max processes"] {
        assert_eq!(limit(name), "0 0", "{name}");
    }
}

#[test]
fn a_worker_that_is_killed_is_replaced_and_the_next_read_is_right() {
    let workshop = Workshop::new();
    let (image, content) = image(&workshop);
    let device = Troubled::new(&image);
    let tree =
        FileTrees::new(options()).unwrap().open(Arc::clone(&device) as Arc<dyn ReadAt>, FileSystemKind::Ext);
    stat(&tree).unwrap();
    let first = tree.worker_id().unwrap();

    device.victim.store(first, Ordering::Relaxed);
    device.countdown.store(3, Ordering::Relaxed);
    assert!(read_all(&tree).unwrap() == content, "killed in the middle of a read");
    let second = tree.worker_id().unwrap();
    assert_ne!(first, second);
    assert!(!Path::new(&format!("/proc/{first}")).exists(), "nothing of it is left");

    kill(second);
    assert!(read_all(&tree).unwrap() == content, "killed between two reads");
    assert_ne!(tree.worker_id().unwrap(), second);
}

#[test]
fn a_device_that_fails_is_told_as_such_and_all_is_well_when_it_is() {
    let workshop = Workshop::new();
    let (image, content) = image(&workshop);
    let device = Troubled::new(&image);
    let tree =
        FileTrees::new(options()).unwrap().open(Arc::clone(&device) as Arc<dyn ReadAt>, FileSystemKind::Ext);

    device.fails_at.store(0, Ordering::Relaxed);
    for _ in 0..10 {
        assert!(matches!(stat(&tree), Err(FilesError::Device { .. })));
    }
    device.fails_at.store(u64::MAX, Ordering::Relaxed);
    assert_eq!(stat(&tree).unwrap(), CONTENT_BYTES as u64);

    // From the middle of the file on; what is before stays readable, though it is read ahead.
    let debugfs = run("debugfs", &["-R", "blocks /file", image.to_str().unwrap()]);
    let blocks: Vec<u64> = debugfs.split_whitespace().map(|block| block.parse().unwrap()).collect();
    let half = blocks.len() / 2;
    device.fails_at.store(blocks[half] * (CONTENT_BYTES / blocks.len()) as u64, Ordering::Relaxed);
    let mut part = vec![0; CONTENT_BYTES / 2];
    let file = FilePath::new(b"file").unwrap();
    assert!(matches!(read_all(&tree), Err(FilesError::Device { .. })));
    assert_eq!(tree.read(&file, 0, &mut part).unwrap(), part.len());
    assert!(part == content[..part.len()]);
    device.fails_at.store(u64::MAX, Ordering::Relaxed);
    assert!(read_all(&tree).unwrap() == content);
}

#[test]
fn there_are_never_more_workers_than_allowed_and_idle_ones_end() {
    let workshop = Workshop::new();
    let (image, _) = image(&workshop);
    let idle = Duration::from_millis(500);
    let trees = FileTrees::new(FileTreesOptions { workers_max: 2, idle, ..options() }).unwrap();
    let opened: Vec<_> = (0..4)
        .map(|_| trees.open(Arc::new(FileDevice::open(&image).unwrap()), FileSystemKind::Ext))
        .collect();
    std::thread::scope(|scope| {
        for tree in &opened {
            scope.spawn(move || {
                for _ in 0..5 {
                    assert_eq!(stat(tree).unwrap(), CONTENT_BYTES as u64);
                }
            });
        }
    });
    let running = || opened.iter().filter_map(|tree| tree.worker_id()).collect::<Vec<_>>();
    assert!(running().len() <= 2, "{:?}", running());
    let ids = running();
    wait_until("the end of idle workers", || running().is_empty());
    wait_until("the end of their processes", || {
        ids.iter().all(|id| !Path::new(&format!("/proc/{id}")).exists())
    });
    assert_eq!(stat(&opened[0]).unwrap(), CONTENT_BYTES as u64);
}

/// A tree may be let go of while another looks for a worker to end: nobody may wait for himself then.
#[test]
fn file_systems_are_opened_and_closed_while_others_wait_for_a_place() {
    let workshop = Workshop::new();
    let (image, _) = image(&workshop);
    let trees = FileTrees::new(FileTreesOptions { workers_max: 1, ..options() }).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    let device = Arc::new(FileDevice::open(&image).unwrap());
                    let tree = trees.open(device, FileSystemKind::Ext);
                    assert_eq!(stat(&tree).unwrap(), CONTENT_BYTES as u64);
                }
            });
        }
    });
}

/// A program that says what a worker says when it is ready, and then does something else.
fn impostor(workshop: &Workshop, then: &str) -> FileTreesOptions {
    let greeting = concat!("amberfs file-reader ", env!("CARGO_PKG_VERSION"), " 2");
    let program = workshop.path("impostor");
    let length = greeting.len();
    let script = format!("#!/bin/sh\nprintf '\\040\\{length:o}\\000\\000\\000{greeting}' >&0\n{then}\n");
    File::create(&program).unwrap().write_all(script.as_bytes()).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    FileTreesOptions { program, deadline: Duration::from_secs(1), ..options() }
}

#[test]
fn a_worker_that_never_answers_is_ended_and_not_started_for_ever() {
    let workshop = Workshop::new();
    let (image, _) = image(&workshop);
    let count = workshop.path("starts");
    let options = impostor(&workshop, &format!("echo >> {}; exec /bin/sleep 1000", count.display()));
    let tree = FileTrees::new(options)
        .unwrap()
        .open(Arc::new(FileDevice::open(&image).unwrap()), FileSystemKind::Ext);
    let (told, results) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (tree, told) = (&tree, told.clone());
            scope.spawn(move || told.send(stat(tree).unwrap_err()).unwrap());
        }
    });
    let errors: Vec<_> = results.try_iter().collect();
    let (timed_out, waited): (Vec<_>, Vec<_>) =
        errors.iter().partition(|error| matches!(error, FilesError::TimedOut { .. }));
    assert_eq!(timed_out.len(), 1, "{errors:?}");
    let is_left_alone = |error: &&FilesError| matches!(error, FilesError::TooManyFailures { .. });
    assert!(waited.iter().all(is_left_alone), "those that waited: {waited:?}");
    for _ in 0..100 {
        assert!(matches!(stat(&tree), Err(FilesError::TooManyFailures { .. })));
    }
    assert_eq!(fs::read(&count).unwrap().len(), 1, "one start in all");
    assert_eq!(tree.worker_id(), None);
}

#[test]
fn a_worker_that_talks_nonsense_is_ended() {
    let workshop = Workshop::new();
    let (image, _) = image(&workshop);
    let device = || Arc::new(FileDevice::open(&image).unwrap());
    for (then, what) in [
        ("printf '\\377\\001\\000\\000\\000x' >&0; exec /bin/sleep 1000", "no answer"),
        ("printf '\\060\\000\\000\\000\\377' >&0; exec /bin/sleep 1000", "more than it may"),
        ("printf '\\065\\000\\000\\000\\000' >&0; exec /bin/sleep 1000", "what it was not asked"),
        ("printf '\\041\\001\\000\\000\\000x' >&0; exec /bin/sleep 1000", "no place"),
        ("kill -SEGV $$", "signal 11"),
        ("exit 7", "status 7"),
    ] {
        let tree = FileTrees::new(impostor(&workshop, then)).unwrap().open(device(), FileSystemKind::Ext);
        let error = stat(&tree).unwrap_err();
        assert!(error.to_string().contains(what), "{then}: {error}");
    }
    let options = FileTreesOptions { program: PathBuf::from("/bin/echo"), ..options() };
    let tree = FileTrees::new(options).unwrap().open(device(), FileSystemKind::Ext);
    assert!(matches!(stat(&tree), Err(FilesError::Start(_))));
}

/// A measurement: `cargo test --release --test files -- --ignored --nocapture how_fast`.
#[test]
#[ignore = "a measurement"]
fn how_fast_a_large_file_is_read() {
    let workshop = Workshop::new();
    let folder = workshop.path("folder");
    fs::create_dir_all(&folder).unwrap();
    let bytes: u64 = 400 << 20;
    File::create(folder.join("file")).unwrap().write_all(&vec![7; bytes as usize]).unwrap();
    let image = workshop.make(&["mkfs.ext4", "-q", "-F", "-d", folder.to_str().unwrap()], 600 << 20);
    let tree = open(&image, FileSystemKind::Ext);
    let file = FilePath::new(b"file").unwrap();
    let mut into = vec![0; 1 << 20];
    for _ in 0..2 {
        let started = Instant::now();
        for offset in (0..bytes).step_by(1 << 20) {
            assert_eq!(tree.read(&file, offset, &mut into).unwrap(), 1 << 20);
        }
        eprintln!("{:.0} MB/s", bytes as f64 / 1e6 / started.elapsed().as_secs_f64());
    }
}
