//! Every file of an image, compared with the kernel's view of it: clean, and cut off in the middle of work.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use amberfs::files::{FilePath, FileSystemKind, FilesError};

use crate::compare::{Tells, compare};
use crate::images::{Workshop, run};
use crate::open;

const MIB: u64 = 1 << 20;
/// What `populate.py` makes at least.
const FILES_MIN: usize = 2900;

const EXT: Tells = Tells { inodes: true, devices: true };
const XFS: Tells = EXT;
/// The crate forgets the number of a device node whose inode it replays.
const XFS_REPLAYED: Tells = Tells { devices: false, ..XFS };

/// Compares a clean image.
fn clean(mkfs: &[&str], size_bytes: u64, kind: FileSystemKind, tells: Tells) {
    let workshop = Workshop::new();
    let image = workshop.populated(mkfs, size_bytes);
    compare_with_kernel(&workshop, &image, &image, kind, tells);
}

/// Compares an image whose journal is dirty with a copy that the kernel has replayed.
fn cut_off(mkfs: &[&str], size_bytes: u64, kind: FileSystemKind, tells: Tells) {
    let workshop = Workshop::new();
    let image = workshop.populated_and_cut_off(mkfs, size_bytes);
    let dirty = match kind {
        FileSystemKind::Xfs => run("xfs_logprint", &["-t", image.to_str().unwrap()]).contains("DIRTY"),
        _ => run("dumpe2fs", &["-h", image.to_str().unwrap()]).contains("needs_recovery"),
    };
    assert!(dirty, "there is nothing to replay");
    let replayed = workshop.copy(&image, "replayed");
    drop(workshop.mount(&replayed, "loop,noatime"));
    compare_with_kernel(&workshop, &image, &replayed, kind, tells);
}

fn compare_with_kernel(
    workshop: &Workshop,
    image: &Path,
    kernels: &Path,
    kind: FileSystemKind,
    tells: Tells,
) {
    let mounted = workshop.mount(kernels, "loop,ro");
    let count = compare(&open(image, kind), &mounted.folder, tells);
    assert!(count > FILES_MIN, "only {count} files were compared");
}

#[test]
fn ext4_is_read_as_the_kernel_reads_it() {
    clean(&["mkfs.ext4", "-q", "-F"], 200 * MIB, FileSystemKind::Ext, EXT);
}

#[test]
fn ext4_that_was_cut_off_is_read_as_if_replayed() {
    cut_off(&["mkfs.ext4", "-q", "-F"], 200 * MIB, FileSystemKind::Ext, EXT);
}

#[test]
fn ext4_without_checksums_is_replayed_with_small_blocks_and_with_large_numbers() {
    let features = "^metadata_csum,^flex_bg";
    cut_off(&["mkfs.ext4", "-q", "-F", "-O", features], 200 * MIB, FileSystemKind::Ext, EXT);
    let features = "^metadata_csum,^64bit,^flex_bg,^dir_index";
    cut_off(&["mkfs.ext4", "-q", "-F", "-b", "1024", "-O", features], 200 * MIB, FileSystemKind::Ext, EXT);
}

#[test]
fn ext4_with_clusters_scattered_descriptors_and_old_inodes_is_read() {
    clean(&["mkfs.ext4", "-q", "-F", "-O", "bigalloc"], 300 * MIB, FileSystemKind::Ext, EXT);
    let features = "meta_bg,^resize_inode";
    clean(&["mkfs.ext4", "-q", "-F", "-O", features, "-g", "8192"], 300 * MIB, FileSystemKind::Ext, EXT);
    clean(&["mkfs.ext4", "-q", "-F", "-I", "128", "-b", "2048"], 200 * MIB, FileSystemKind::Ext, EXT);
}

#[test]
fn ext3_that_was_cut_off_and_ext2_are_read() {
    cut_off(&["mkfs.ext3", "-q", "-F"], 200 * MIB, FileSystemKind::Ext, EXT);
    clean(&["mkfs.ext2", "-q", "-F", "-b", "1024"], 200 * MIB, FileSystemKind::Ext, EXT);
}

#[test]
fn xfs_is_read_as_the_kernel_reads_it() {
    clean(&["mkfs.xfs", "-q", "-f"], 400 * MIB, FileSystemKind::Xfs, XFS);
}

#[test]
fn xfs_with_another_uuid_is_read_with_its_long_links() {
    for mkfs in [&["mkfs.xfs", "-q", "-f"][..], &["mkfs.xfs", "-q", "-f", "-b", "size=1024"]] {
        let workshop = Workshop::new();
        let image = workshop.make(mkfs, 400 * MIB);
        let mounted = workshop.mount(&image, "loop");
        for length in [100, 400, 983, 1000, 1023] {
            let target = "a folder/".repeat(120);
            std::os::unix::fs::symlink(&target[..length], mounted.folder.join(length.to_string())).unwrap();
        }
        drop(mounted);
        run("xfs_admin", &["-U", "generate", image.to_str().unwrap()]);
        let mounted = workshop.mount(&image, "loop,ro");
        assert_eq!(compare(&open(&image, FileSystemKind::Xfs), &mounted.folder, XFS), 5);
    }
}

#[test]
fn an_ext4_journal_that_is_elsewhere_and_one_that_is_damaged_are_told_apart() {
    let workshop = Workshop::new();
    let image = workshop.make(&["mkfs.ext4", "-q", "-F"], 64 * MIB);
    let mounted = workshop.mount(&image, "loop");
    File::create(mounted.folder.join("file")).unwrap();
    let image = workshop.cut_off(&image, &mounted);
    drop(mounted);
    let root = FilePath::root();
    assert!(
        open(&image, FileSystemKind::Ext).metadata(&root).is_ok(),
        "the image is good before it is changed"
    );

    let changed = |name, at: u64, bytes: &[u8]| {
        let copy = workshop.copy(&image, name);
        File::options().write(true).open(&copy).unwrap().write_all_at(bytes, at).unwrap();
        open(&copy, FileSystemKind::Ext).metadata(&root).unwrap_err()
    };
    // No inode for it, but a device.
    let elsewhere = changed("elsewhere", 1024 + 0xe0, &[0, 0, 0, 0, 1, 8, 0, 0]);
    assert!(matches!(elsewhere, FilesError::Unsupported { .. }), "{elsewhere}");
    let name = image.to_str().unwrap();
    let block: u64 = run("debugfs", &["-R", "bmap <8> 0", name]).trim().parse().unwrap();
    let size = run("dumpe2fs", &["-h", name]);
    let size = size.lines().find_map(|line| line.strip_prefix("Block size:")).unwrap();
    let damaged = changed("damaged", block * size.trim().parse::<u64>().unwrap(), &[0; 64]);
    assert!(matches!(damaged, FilesError::Damaged { .. }), "{damaged}");
}

/// The kernel stops listing wherever its buffer is full.
#[test]
fn a_listing_goes_on_behind_any_entry() {
    for (mkfs, kind) in [
        (&["mkfs.ext4", "-q", "-F"][..], FileSystemKind::Ext),
        (&["mkfs.xfs", "-q", "-f"], FileSystemKind::Xfs),
    ] {
        let workshop = Workshop::new();
        let image = workshop.make(mkfs, 400 * MIB);
        let mounted = workshop.mount(&image, "loop");
        for number in 0..1000 {
            File::create(mounted.folder.join(format!("file {number}"))).unwrap();
        }
        drop(mounted);
        crate::compare::assert_goes_on_anywhere(&open(&image, kind), &FilePath::root());
    }
}

#[test]
fn xfs_that_was_cut_off_is_read_as_if_replayed() {
    cut_off(&["mkfs.xfs", "-q", "-f"], 400 * MIB, FileSystemKind::Xfs, XFS_REPLAYED);
}

#[test]
fn xfs_with_small_blocks_and_large_folder_blocks_is_read_and_replayed() {
    let mkfs = ["mkfs.xfs", "-q", "-f", "-b", "size=1024", "-n", "size=8192", "-m", "bigtime=0,rmapbt=1"];
    cut_off(&mkfs, 400 * MIB, FileSystemKind::Xfs, XFS_REPLAYED);
}
