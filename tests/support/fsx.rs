//! Random operations on a file or block device of a fixed size, held against a model in memory: what `fsx` does, for
//! images, which cannot be truncated. It goes on over a crash of whoever serves the file.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::bytes::{Numbers, pattern};

/// The longest single operation, in bytes.
const LONGEST: u64 = 256 << 10;
/// Of O_DIRECT, enough for any sector.
const ALIGNMENT: u64 = 4096;

/// What may be done besides pread, pwrite and fsync.
#[derive(Debug, Clone, Copy)]
pub struct Allowed {
    pub punch: bool,
    pub mmap: bool,
    /// Reads and writes past the page cache, in whole blocks.
    pub direct: bool,
}

impl Allowed {
    pub const ALL: Self = Self { punch: true, mmap: true, direct: true };
}

/// What a file has to hold.
pub struct Fsx {
    bytes: Vec<u8>,
    /// What was surely durable at the last sync.
    synced: Vec<u8>,
    /// Writes since then, the oldest first: any part of each may be lost in a crash.
    unsynced: Vec<(usize, Vec<u8>)>,
    numbers: Numbers,
    allowed: Allowed,
    /// Operations done, for the messages.
    done: u64,
}

#[derive(Debug)]
pub enum Failure {
    /// The system refused an operation: the server is gone, or wrong.
    Io { operation: String, error: io::Error },
    /// The file does not hold what was written to it.
    Wrong { operation: String, at: u64, expected: u8, found: u8 },
}

struct Files {
    buffered: File,
    direct: Option<File>,
}

impl Fsx {
    /// Takes what the file holds now as right. The same seed makes the same operations.
    pub fn new(path: &Path, seed: u64, allowed: Allowed) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut bytes =
            vec![0; usize::try_from(rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))?).unwrap()];
        file.read_exact_at(&mut bytes, 0)?;
        let synced = bytes.clone();
        Ok(Self { bytes, synced, unsynced: Vec::new(), numbers: Numbers::new(seed), allowed, done: 0 })
    }

    /// Opens the file and does so many operations; at the end everything is read and compared, nothing synced. After
    /// a failure of the system's, `after_crash` comes first.
    pub fn run(&mut self, path: &Path, operations: u64) -> Result<(), Failure> {
        let open = |flags: i32| OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
        let opened = |result: io::Result<File>| {
            result.map_err(|error| Failure::Io { operation: "open".into(), error })
        };
        let direct = if self.allowed.direct { Some(opened(open(libc::O_DIRECT))?) } else { None };
        let files = Files { buffered: opened(open(0))?, direct };
        for _ in 0..operations {
            self.done += 1;
            self.operation(&files)?;
        }
        self.check(&files.buffered, "the end")
    }

    /// Makes everything durable: a crash after this loses nothing.
    pub fn sync(&mut self, path: &Path) -> Result<(), Failure> {
        let synced = OpenOptions::new().write(true).open(path).and_then(|file| file.sync_all());
        synced.map_err(|error| Failure::Io { operation: "fsync".into(), error })?;
        self.all_is_synced();
        Ok(())
    }

    /// Compares the file with what a crash may have left of it, and goes on from there: every byte is what it was at
    /// the last sync, or what one of the writes since then made of it.
    pub fn after_crash(&mut self, path: &Path) -> Result<(), Failure> {
        let mut found = vec![0; self.bytes.len()];
        let read = File::open(path).and_then(|file| file.read_exact_at(&mut found, 0));
        read.map_err(|error| Failure::Io { operation: "reading after the crash".into(), error })?;
        for (at, (now, synced)) in found.iter().zip(&self.synced).enumerate() {
            let written = |(start, bytes): &(usize, Vec<u8>)| {
                at.checked_sub(*start).and_then(|offset| bytes.get(offset)) == Some(now)
            };
            if now != synced && !self.unsynced.iter().any(written) {
                let operation = format!("the crash after {} operations", self.done);
                return Err(Failure::Wrong { operation, at: at as u64, expected: *synced, found: *now });
            }
        }
        // What is seen after a crash stays.
        self.bytes = found;
        self.all_is_synced();
        Ok(())
    }

    /// As `after_crash`, when what was acknowledged outlives the server's end: only the operation that failed may have been
    /// done in part.
    pub fn after_kill(&mut self, path: &Path) -> Result<(), Failure> {
        self.synced.clone_from(&self.bytes);
        self.unsynced.drain(..self.unsynced.len().saturating_sub(1));
        self.after_crash(path)
    }

    /// Compares all of it with the file.
    pub fn compare(&self, path: &Path) -> Result<(), Failure> {
        let file = File::open(path).map_err(|error| Failure::Io { operation: "open".into(), error })?;
        self.check(&file, "compare")
    }

    fn all_is_synced(&mut self) {
        self.unsynced.clear();
        self.synced.clone_from(&self.bytes);
    }

    /// Returns a range that is not empty: often aligned, often short, sometimes at the very end.
    fn range(&mut self, alignment: u64) -> Range<usize> {
        let size = self.bytes.len() as u64;
        let longest = [512, 5000, 70_000, LONGEST][self.numbers.below(4) as usize].min(size).max(alignment);
        let length =
            (1 + self.numbers.below(longest)).next_multiple_of(alignment).min(size / alignment * alignment);
        let offset = match self.numbers.below(8) {
            0 => size - length,
            _ => self.numbers.below(size - length + 1),
        };
        let offset = offset / alignment * alignment;
        offset as usize..(offset + length) as usize
    }

    fn operation(&mut self, files: &Files) -> Result<(), Failure> {
        let alignment = [1, 1, 512, 4096][self.numbers.below(4) as usize];
        match self.numbers.below(100) {
            0..30 => self.write(&files.buffered, alignment, false),
            30..60 => self.read(&files.buffered, alignment, false),
            60..70 if self.allowed.punch => self.punch(&files.buffered, alignment),
            70..80 if self.allowed.mmap => self.read_mapped(&files.buffered),
            80..88 if self.allowed.direct => self.write(files.direct.as_ref().unwrap(), ALIGNMENT, true),
            88..96 if self.allowed.direct => self.read(files.direct.as_ref().unwrap(), ALIGNMENT, true),
            96..98 => self.fsync(&files.buffered),
            _ => Ok(()),
        }
    }

    fn write(&mut self, file: &File, alignment: u64, direct: bool) -> Result<(), Failure> {
        let range = self.range(alignment);
        let bytes = match self.numbers.below(5) {
            0 => vec![0; range.len()],
            _ => pattern(self.numbers.next(), range.len()),
        };
        let operation = self.named(if direct { "direct pwrite" } else { "pwrite" }, &range);
        // Noted before: one that fails may have been done in part.
        self.unsynced.push((range.start, bytes.clone()));
        let mut buffer = Aligned::new(range.len());
        buffer.bytes().copy_from_slice(&bytes);
        let written = file.write_all_at(buffer.bytes(), range.start as u64);
        written.map_err(|error| Failure::Io { operation, error })?;
        self.bytes.get_mut(range).unwrap().copy_from_slice(&bytes);
        Ok(())
    }

    fn read(&mut self, file: &File, alignment: u64, direct: bool) -> Result<(), Failure> {
        let range = self.range(alignment);
        let operation = self.named(if direct { "direct pread" } else { "pread" }, &range);
        let mut buffer = Aligned::new(range.len());
        let read = file.read_exact_at(buffer.bytes(), range.start as u64);
        read.map_err(|error| Failure::Io { operation: operation.clone(), error })?;
        self.compare_range(&operation, range, buffer.bytes())
    }

    fn punch(&mut self, file: &File, alignment: u64) -> Result<(), Failure> {
        // Block devices punch whole sectors only.
        let range = self.range(alignment.max(512));
        let operation = self.named("punch", &range);
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.unsynced.push((range.start, vec![0; range.len()]));
        let punched = rustix::fs::fallocate(file, flags, range.start as u64, range.len() as u64);
        punched.map_err(|error: Errno| Failure::Io { operation, error: error.into() })?;
        self.bytes.get_mut(range).unwrap().fill(0);
        Ok(())
    }

    fn read_mapped(&mut self, file: &File) -> Result<(), Failure> {
        let range = self.range(ALIGNMENT);
        let operation = self.named("mmap", &range);
        let found =
            mapped(file, &range).map_err(|error| Failure::Io { operation: operation.clone(), error })?;
        self.compare_range(&operation, range, &found)
    }

    fn fsync(&mut self, file: &File) -> Result<(), Failure> {
        let synced = if self.numbers.below(2) == 0 { file.sync_all() } else { file.sync_data() };
        synced.map_err(|error| Failure::Io { operation: self.named("fsync", &(0..0)), error })?;
        self.all_is_synced();
        Ok(())
    }

    fn named(&self, what: &str, range: &Range<usize>) -> String {
        format!("operation {}: {what} of {} bytes at {}", self.done, range.len(), range.start)
    }

    fn check(&self, file: &File, operation: &str) -> Result<(), Failure> {
        let mut found = vec![0; self.bytes.len()];
        let read = file.read_exact_at(&mut found, 0);
        read.map_err(|error| Failure::Io { operation: operation.to_owned(), error })?;
        self.compare_range(operation, 0..found.len(), &found)
    }

    fn compare_range(&self, operation: &str, range: Range<usize>, found: &[u8]) -> Result<(), Failure> {
        let expected = self.bytes.get(range.clone()).unwrap();
        if expected == found {
            return Ok(());
        }
        let wrong = expected.iter().zip(found).position(|(expected, found)| expected != found).unwrap();
        Err(Failure::Wrong {
            operation: operation.to_owned(),
            at: (range.start + wrong) as u64,
            expected: *expected.get(wrong).unwrap(),
            found: *found.get(wrong).unwrap(),
        })
    }
}

/// Bytes that O_DIRECT accepts.
struct Aligned {
    storage: Vec<u8>,
    range: Range<usize>,
}

impl Aligned {
    fn new(length: usize) -> Self {
        let storage = vec![0; length + ALIGNMENT as usize];
        let start = storage.as_ptr().align_offset(ALIGNMENT as usize);
        Self { storage, range: start..start + length }
    }

    fn bytes(&mut self) -> &mut [u8] {
        self.storage.get_mut(self.range.clone()).unwrap()
    }
}

/// Reads a part of a file that starts on a page through a shared mapping.
#[allow(unsafe_code, reason = "nothing wraps mmap without unsafe, since a file can change under it")]
fn mapped(file: &File, range: &Range<usize>) -> io::Result<Vec<u8>> {
    use std::os::fd::AsRawFd;
    let offset = libc::off_t::try_from(range.start).unwrap();
    // SAFETY: a new mapping that nobody else has; its address and length are those that are copied and unmapped below.
    unsafe {
        let flags = libc::MAP_SHARED;
        let map =
            libc::mmap(std::ptr::null_mut(), range.len(), libc::PROT_READ, flags, file.as_raw_fd(), offset);
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mut bytes = vec![0; range.len()];
        // Not a slice: the file may change while it is copied.
        std::ptr::copy_nonoverlapping(map.cast::<u8>(), bytes.as_mut_ptr(), range.len());
        libc::munmap(map, range.len());
        Ok(bytes)
    }
}
