//! What stands in a tree, and what is different in another.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::BUSY;

/// Of longer files, which are sparse, the first and the last MiB are read.
const WHOLE: u64 = 1 << 30;
const END: usize = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `f`, `d`, `l`, `c`, `b`, `p`, `s`, as `find -type` has it.
    pub kind: char,
    /// Bytes of a file; 0 of anything else.
    pub size: u64,
    /// Permissions, with set-uid, set-gid and sticky.
    pub mode: u32,
    pub target: Option<OsString>,
    /// Of device nodes.
    pub device: u64,
    pub sha256: String,
    pub owner: (u32, u32),
    pub modified: (i64, i64),
    /// Hard links of a file.
    pub links: u64,
    /// Inode, and time of its last change: what has the same two in the same file system is the same.
    version: (u64, i64, i64),
}

/// Every path below a root, without the root, the folder that is written to, and fsck's.
pub type Listing = BTreeMap<PathBuf, Entry>;

/// How much of an entry has to be the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fields {
    /// What FAT has: kind, size, contents.
    Bytes,
    /// And mode, link target, device number.
    Shown,
    /// And owner, time of modification, number of links.
    All,
}

pub fn list(root: &Path) -> Listing {
    list_again(root, &Listing::new())
}

/// Lists a file system that was listed before, and reads only what has changed since.
pub fn list_again(root: &Path, before: &Listing) -> Listing {
    let mut listing = Listing::new();
    walk(root, Path::new(""), before, &mut listing);
    listing
}

fn walk(root: &Path, folder: &Path, before: &Listing, listing: &mut Listing) {
    let path = root.join(folder);
    let names = fs::read_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for name in names {
        let relative = folder.join(name.unwrap().file_name());
        if relative == Path::new(BUSY) || relative == Path::new("lost+found") {
            continue;
        }
        let entry = entry(&root.join(&relative), before.get(&relative));
        let is_folder = entry.kind == 'd';
        listing.insert(relative.clone(), entry);
        if is_folder {
            walk(root, &relative, before, listing);
        }
    }
}

fn entry(path: &Path, before: Option<&Entry>) -> Entry {
    let found = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let kind = kind(&found);
    let version = (found.ino(), found.ctime(), found.ctime_nsec());
    let known = before.filter(|before| before.version == version && before.size == found.len());
    let sha256 = match known {
        Some(before) => before.sha256.clone(),
        None if kind == 'f' => digest(path, found.len()),
        None => String::new(),
    };
    Entry {
        kind,
        size: if kind == 'f' { found.len() } else { 0 },
        mode: found.mode() & 0o7777,
        target: (kind == 'l').then(|| fs::read_link(path).unwrap().into_os_string()),
        device: if matches!(kind, 'c' | 'b') { found.rdev() } else { 0 },
        sha256,
        owner: (found.uid(), found.gid()),
        modified: (found.mtime(), found.mtime_nsec()),
        links: if kind == 'f' { found.nlink() } else { 0 },
        version,
    }
}

fn kind(found: &Metadata) -> char {
    let kind = found.file_type();
    let kinds = [
        (kind.is_file(), 'f'),
        (kind.is_dir(), 'd'),
        (kind.is_symlink(), 'l'),
        (kind.is_char_device(), 'c'),
        (kind.is_block_device(), 'b'),
        (kind.is_fifo(), 'p'),
    ];
    kinds.iter().find(|(is, _)| *is).map_or('s', |(_, letter)| *letter)
}

fn digest(path: &Path, size: u64) -> String {
    let read = || -> std::io::Result<Sha256> {
        let mut file = File::open(path)?;
        let mut sha256 = Sha256::new();
        // Thousands of files are small.
        let mut buffer = vec![0; END.min(size as usize + 1)];
        if size > WHOLE {
            for offset in [0, size - END as u64] {
                file.read_exact_at(&mut buffer, offset)?;
                sha256.update(&buffer);
            }
            return Ok(sha256);
        }
        loop {
            let got = file.read(&mut buffer)?;
            if got == 0 {
                return Ok(sha256);
            }
            sha256.update(buffer.get(..got).unwrap());
        }
    };
    let sha256 = read().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    sha256.finalize().iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Returns a sentence for each path that is missing, different, or there without being expected.
pub fn differences(expected: &Listing, found: &Listing, fields: Fields) -> Vec<String> {
    let mut sentences = Vec::new();
    for (path, entry) in expected {
        match found.get(path) {
            None => sentences.push(format!("{path:?} is missing")),
            Some(other) if of(entry, fields) != of(other, fields) => {
                sentences.push(format!("{path:?} was {entry:?} and is {other:?}"));
            }
            Some(_) => {}
        }
    }
    let unexpected = found.keys().filter(|path| !expected.contains_key(*path));
    sentences.extend(unexpected.map(|path| format!("{path:?} was not there")));
    sentences
}

/// Makes everything equal that is not compared.
fn of(entry: &Entry, fields: Fields) -> Entry {
    let mut entry = entry.clone();
    entry.version = (0, 0, 0);
    if fields != Fields::All {
        (entry.owner, entry.modified, entry.links) = ((0, 0), (0, 0), 0);
    }
    if fields == Fields::Bytes {
        entry.mode = 0;
    }
    entry
}
