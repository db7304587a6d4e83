//! A view of files, compared with the kernel's view of the same file system.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;

use amberfs::files::{FileKind, FileMetadata, FilePath, FileTree, FilesError, FolderEntry};

/// What a file system's reader can tell beyond what all can.
#[derive(Clone, Copy)]
pub struct Tells {
    /// Numbers, links, times of change.
    pub inodes: bool,
    /// Of device nodes.
    pub devices: bool,
}

/// Everything below a folder, all pages of it.
pub fn entries(tree: &FileTree, path: &FilePath) -> Result<Vec<FolderEntry>, FilesError> {
    let mut entries = Vec::new();
    tree.list(path, 0, &mut |entry| {
        entries.push(entry);
        ControlFlow::Continue(())
    })?;
    Ok(entries)
}

/// Lists a folder in parts of some entries, none of which is as long as a page.
pub fn assert_goes_on_anywhere(tree: &FileTree, path: &FilePath) {
    let whole = entries(tree, path).unwrap();
    assert!(whole.len() > 800, "several pages");
    for length in [9, 100, 300] {
        let mut parts: Vec<FolderEntry> = Vec::new();
        loop {
            let (from, before) = (parts.last().map_or(0, |entry| entry.next), parts.len());
            tree.list(path, from, &mut |entry| {
                parts.push(entry);
                if parts.len() < before + length { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })
            .unwrap();
            if parts.len() == before {
                break;
            }
        }
        assert!(parts == whole, "{path} is listed differently in parts of {length}");
    }
}

/// Compares everything, and returns how many files there were.
pub fn compare(tree: &FileTree, kernel: &Path, tells: Tells) -> usize {
    compare_file(tree, &FilePath::root(), kernel, tells);
    compare_folder(tree, &FilePath::root(), kernel, tells)
}

fn compare_folder(tree: &FileTree, path: &FilePath, kernel: &Path, tells: Tells) -> usize {
    let mut ours = BTreeMap::new();
    for entry in entries(tree, path).unwrap() {
        assert!(ours.insert(entry.name.clone(), entry).is_none(), "{path} lists a name twice");
    }
    let mut count = 0;
    for entry in fs::read_dir(kernel).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        let here = path.join(name.as_bytes()).unwrap();
        let listed = ours.remove(name.as_bytes()).unwrap_or_else(|| panic!("{here} is not listed"));
        let metadata = compare_file(tree, &here, &entry.path(), tells);
        assert_eq!(listed.kind, metadata.kind, "{here}");
        assert_eq!(listed.number, metadata.number, "{here}");
        count += 1;
        if metadata.kind == FileKind::Folder {
            count += compare_folder(tree, &here, &entry.path(), tells);
        }
    }
    assert!(ours.is_empty(), "{path} lists what the kernel does not: {:?}", ours.keys());
    count
}

fn compare_file(tree: &FileTree, path: &FilePath, kernel: &Path, tells: Tells) -> FileMetadata {
    let ours = tree.metadata(path).unwrap();
    let theirs = fs::symlink_metadata(kernel).unwrap();
    assert_eq!(ours.kind, kind(&theirs), "{path}");
    assert_eq!(u32::from(ours.mode), theirs.mode() & 0o7777, "{path}");
    assert_eq!((ours.uid, ours.gid), (theirs.uid(), theirs.gid()), "{path}");
    let modified = (ours.modified.seconds, i64::from(ours.modified.nanoseconds));
    assert_eq!(modified, (theirs.mtime(), theirs.mtime_nsec()), "{path}");
    if !matches!(ours.kind, FileKind::CharDevice | FileKind::BlockDevice) {
        assert_eq!(ours.size_bytes, theirs.size(), "{path}");
    }
    if tells.inodes {
        assert_eq!(ours.number, Some(theirs.ino()), "{path}");
        assert_eq!(ours.links.map(u64::from), Some(theirs.nlink()), "{path}");
        let changed = ours.changed.unwrap();
        assert_eq!((changed.seconds, i64::from(changed.nanoseconds)), (theirs.ctime(), theirs.ctime_nsec()));
    }
    if tells.devices {
        let device = ours.device.map_or(0, |device| libc::makedev(device.major, device.minor));
        assert_eq!(device, theirs.rdev(), "{path}");
    }
    match ours.kind {
        FileKind::File => compare_content(tree, path, kernel, theirs.size()),
        FileKind::Link => {
            let target = fs::read_link(kernel).unwrap();
            assert_eq!(tree.read_link(path).unwrap(), target.as_os_str().as_bytes(), "{path}");
            assert!(matches!(tree.read(path, 0, &mut [0]), Err(FilesError::NotAFile { .. })), "{path}");
            let below = path.join(b"x").unwrap();
            assert!(matches!(tree.metadata(&below), Err(FilesError::NotAFolder { .. })), "{path}");
        }
        FileKind::Folder => {
            assert!(matches!(tree.read(path, 0, &mut [0]), Err(FilesError::IsAFolder { .. })), "{path}");
        }
        _ => assert!(matches!(tree.read(path, 0, &mut [0]), Err(FilesError::NotAFile { .. })), "{path}"),
    }
    ours
}

fn compare_content(tree: &FileTree, path: &FilePath, kernel: &Path, size: u64) {
    let file = File::open(kernel).unwrap();
    let (mut ours, mut theirs) = (vec![0; 3 << 20], vec![0; 3 << 20]);
    let mut offset = 0;
    loop {
        let read = tree.read(path, offset, &mut ours).unwrap();
        let wanted = usize::try_from((size - offset).min(theirs.len() as u64)).unwrap();
        file.read_exact_at(&mut theirs[..wanted], offset).unwrap();
        assert_eq!(read, wanted, "{path} at {offset}");
        assert!(ours[..read] == theirs[..read], "{path} differs behind {offset}");
        offset += read as u64;
        if offset == size {
            break;
        }
    }
    // Backwards, and across the end.
    for offset in [size.saturating_sub(7), size / 2, size / 3] {
        let wanted = usize::try_from((size - offset).min(5000)).unwrap();
        assert_eq!(tree.read(path, offset, &mut ours[..5000]).unwrap(), wanted, "{path} at {offset}");
        file.read_exact_at(&mut theirs[..wanted], offset).unwrap();
        assert!(ours[..wanted] == theirs[..wanted], "{path} differs at {offset}");
    }
    assert_eq!(tree.read(path, size, &mut ours).unwrap(), 0);
    assert_eq!(tree.read(path, u64::MAX, &mut ours).unwrap(), 0);
}

fn kind(metadata: &fs::Metadata) -> FileKind {
    let file_type = metadata.file_type();
    match () {
        () if file_type.is_dir() => FileKind::Folder,
        () if file_type.is_symlink() => FileKind::Link,
        () if file_type.is_fifo() => FileKind::Fifo,
        () if file_type.is_socket() => FileKind::Socket,
        () if file_type.is_char_device() => FileKind::CharDevice,
        () if file_type.is_block_device() => FileKind::BlockDevice,
        () => FileKind::File,
    }
}
