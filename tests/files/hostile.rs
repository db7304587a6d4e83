//! Images that were changed at random places: whatever they do to a reader ends its worker and nothing else.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use amberfs::files::{Answer, FileKind, FilePath, FileSystemKind, Request, WorkerProcess};
use amberfs::sysio::device::ReadAt;

use crate::images::Workshop;

const MEMORY_BYTES: u64 = 384 << 20;
/// Of one request. An image that makes a reader loop costs as long.
const DEADLINE: Duration = Duration::from_millis(1500);
/// Requests about one image; a listing goes on for as long as there are entries.
const REQUESTS_MAX: usize = 60;
const BLOCK: usize = 512;

/// Numbers that look random and are the same each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }
}

/// An image in memory, with some bytes changed.
struct Mutated<'a> {
    base: &'a [u8],
    changes: Vec<(u64, u8)>,
}

impl<'a> Mutated<'a> {
    /// Changes places where there is something already: that is metadata, mostly.
    fn new(base: &'a [u8], used: &[usize], random: &mut Random) -> Self {
        let mut changes = Vec::new();
        for _ in 0..=random.below(6) {
            let at = used[random.below(used.len())] * BLOCK + random.below(BLOCK / 4) * 4;
            let value = match random.below(4) {
                0 => [0xff; 4],
                1 => [0; 4],
                2 => u32::try_from(random.below(70_000)).unwrap().to_le_bytes(),
                _ => u32::try_from(random.next() >> 32).unwrap().to_be_bytes(),
            };
            let width = [1, 2, 4][random.below(3)];
            changes.extend((at as u64..).zip(value).take(width));
        }
        Self { base, changes }
    }
}

impl ReadAt for Mutated<'_> {
    fn size_bytes(&self) -> u64 {
        self.base.len() as u64
    }

    fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let part = self.base.get(start..).and_then(|rest| rest.get(..into.len()));
        into.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        for (at, byte) in &self.changes {
            let within =
                at.checked_sub(offset).and_then(|within| into.get_mut(usize::try_from(within).unwrap()));
            if let Some(changed) = within {
                *changed = *byte;
            }
        }
        Ok(())
    }
}

/// Looks at everything that can be reached with a bounded number of requests. False when the worker was lost.
fn walk(worker: &mut WorkerProcess, image: &Mutated<'_>, kind: FileSystemKind) -> bool {
    let size_bytes = image.size_bytes();
    let open = Request::Open { kind, size_bytes, cache_bytes: 16 << 20 };
    if worker.ask(&open, image, DEADLINE).is_err() {
        return false;
    }
    let mut requests = vec![Request::List { path: FilePath::root(), from: 0 }];
    let mut done = 0;
    while let Some(request) = requests.pop() {
        done += 1;
        if done > REQUESTS_MAX {
            break;
        }
        let Ok(outcome) = worker.ask(&request, image, DEADLINE) else { return false };
        if kind == FileSystemKind::Ext
            && let Answer::Refused(refusal) = &outcome.answer
        {
            // Its reader is our own.
            assert!(!refusal.why.contains("its reader gave up"), "{request:?}: {}", refusal.why);
        }
        match (request, outcome.answer) {
            (Request::List { path, .. }, Answer::Page(page)) => {
                if let Some(next) = page.next {
                    requests.push(Request::List { path: path.clone(), from: next });
                }
                for entry in page.entries.into_iter().take(40) {
                    let Ok(path) = path.join(&entry.name) else { continue };
                    requests.push(match entry.kind {
                        FileKind::Folder => Request::List { path: path.clone(), from: 0 },
                        FileKind::Link => Request::ReadLink { path: path.clone() },
                        _ => Request::Read { path: path.clone(), offset: 0, length: 100_000 },
                    });
                    requests.push(Request::Metadata { path });
                }
            }
            (Request::Metadata { path }, Answer::Metadata(metadata))
                if metadata.kind == FileKind::File && metadata.size_bytes > 1 << 20 =>
            {
                requests.push(Request::Read { path, offset: metadata.size_bytes - 1, length: 10 });
            }
            _ => {}
        }
    }
    true
}

/// Gives one worker after the other `count` images.
fn survive(base: &Path, kind: FileSystemKind, seed: u64, count: usize) {
    let base = fs::read(base).unwrap();
    let used: Vec<usize> = (0..base.len() / BLOCK)
        .filter(|block| base[block * BLOCK..][..BLOCK].iter().any(|byte| *byte != 0))
        .collect();
    let spawn = || {
        let program = Path::new(env!("CARGO_BIN_EXE_amberfs"));
        let mut worker = WorkerProcess::spawn(program, MEMORY_BYTES).unwrap();
        worker.wait_ready(Duration::from_secs(300)).unwrap();
        worker
    };
    let (mut worker, mut random) = (spawn(), Random(seed));
    let untouched = Mutated { base: &base, changes: Vec::new() };
    assert!(walk(&mut worker, &untouched, kind), "the image is good before it is changed");
    let list = Request::List { path: FilePath::root(), from: 0 };
    let listed = worker.ask(&list, &untouched, DEADLINE).unwrap().answer;
    assert!(matches!(&listed, Answer::Page(page) if page.entries.len() > 1), "{listed:?}");
    let (mut lost, started) = (0, Instant::now());
    for number in 0..count {
        let image = Mutated::new(&base, &used, &mut random);
        if !walk(&mut worker, &image, kind) {
            lost += 1;
            worker = spawn();
        }
        if number % 100 == 0 {
            let status = fs::read_to_string(format!("/proc/{}/status", worker.id())).unwrap();
            let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
            let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
            assert!(peak * 1024 < MEMORY_BYTES, "{peak} kB");
        }
    }
    assert!(walk(&mut worker, &untouched, kind), "a good image is read after all of them");
    let lost_max = match kind {
        FileSystemKind::Ext => count / 100,
        FileSystemKind::Xfs | FileSystemKind::Fat => count / 10,
    };
    assert!(lost <= lost_max, "{lost} workers of {count} were lost");
    eprintln!("{kind:?}: {count} images, {lost} workers lost, {:.0?}", started.elapsed());
}

/// A folder with some of everything, small.
fn contents(workshop: &Workshop) -> String {
    let folder = workshop.path("contents");
    fs::create_dir_all(folder.join("deep/er")).unwrap();
    fs::create_dir_all(folder.join("many")).unwrap();
    for number in 0..150 {
        fs::copy("/etc/hostname", folder.join(format!("many/a file with a name of some length {number}")))
            .unwrap();
    }
    fs::copy("/etc/services", folder.join("deep/er/services")).unwrap();
    std::os::unix::fs::symlink("deep/er", folder.join("short")).unwrap();
    std::os::unix::fs::symlink("x/".repeat(90), folder.join("long")).unwrap();
    folder.to_str().unwrap().to_owned()
}

#[test]
fn ten_thousand_changed_ext_images_do_no_harm() {
    for (features, blocks, seed) in [
        ("metadata_csum", "4096", 1),
        ("^metadata_csum,^64bit", "1024", 2),
        ("^extent,^64bit,^metadata_csum", "1024", 3),
    ] {
        let workshop = Workshop::new();
        let folder = contents(&workshop);
        let image =
            workshop.make(&["mkfs.ext4", "-q", "-F", "-b", blocks, "-O", features, "-d", &folder], 8 << 20);
        survive(&image, FileSystemKind::Ext, seed, 3400);
    }
}

#[test]
fn changed_images_with_a_journal_to_replay_do_no_harm() {
    for (mkfs, kind, size, seed) in [
        (&["mkfs.ext4", "-q", "-F", "-b", "1024"][..], FileSystemKind::Ext, 16_u64 << 20, 8),
        (&["mkfs.ext3", "-q", "-F", "-b", "1024"], FileSystemKind::Ext, 16 << 20, 9),
        (&["mkfs.xfs", "--unsupported", "-q", "-f"], FileSystemKind::Xfs, 32 << 20, 10),
    ] {
        let workshop = Workshop::new();
        let folder = contents(&workshop);
        let image = workshop.make(mkfs, size);
        let mounted = workshop.mount(&image, "loop");
        crate::images::run("cp", &["-r", &folder, mounted.path()]);
        crate::images::run("cp", &["-r", &folder, &format!("{}/again", mounted.path())]);
        let image = workshop.cut_off(&image, &mounted);
        drop(mounted);
        survive(&image, kind, seed, 700);
    }
}

#[test]
fn changed_xfs_images_do_no_harm() {
    for (crc, seed) in [("1", 4), ("0", 5)] {
        let workshop = Workshop::new();
        let folder = contents(&workshop);
        let version = format!("crc={crc}{}", if crc == "0" { ",finobt=0,rmapbt=0,reflink=0" } else { "" });
        let prototype = workshop.path("prototype");
        let lines = format!(
            "/dev/null\n0 0\nd--755 0 0\nservices ---644 0 0 {folder}/deep/er/services\nlink l--777 0 0 somewhere\nfolder d--755 0 0\n{}$\n$\n",
            (0..60).map(|number| format!("a-file-{number} ---644 0 0 /etc/hostname\n")).collect::<String>()
        );
        io::Write::write_all(&mut fs::File::create(&prototype).unwrap(), lines.as_bytes()).unwrap();
        let mkfs =
            ["mkfs.xfs", "--unsupported", "-q", "-f", "-m", &version, "-p", prototype.to_str().unwrap()];
        let image = workshop.make(&mkfs, 32 << 20);
        survive(&image, FileSystemKind::Xfs, seed, 1500);
    }
}

#[test]
fn changed_fat_images_do_no_harm() {
    for (width, size, seed) in [("12", 4_u64 << 20, 6), ("32", 64 << 20, 7)] {
        let workshop = Workshop::new();
        let folder = contents(&workshop);
        let image = workshop.make(&["mkfs.vfat", "-F", width], size);
        let many = format!("{folder}/many");
        let deep = format!("{folder}/deep");
        crate::images::run("mcopy", &["-i", image.to_str().unwrap(), "-s", "-Q", &many, &deep, "::/"]);
        survive(&image, FileSystemKind::Fat, seed, 1500);
    }
}
