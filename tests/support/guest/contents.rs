//! What is in the guest's file systems.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{FileType, Mode};

use crate::support::attach::{run, text};
use crate::support::bytes::{Numbers, pattern};

/// Parts of this machine's own system: a real Debian's files, without a network.
const PARTS: [&str; 11] = [
    "/etc/alternatives",
    "/etc/default",
    "/etc/init.d",
    "/etc/os-release",
    "/etc/systemd",
    "/usr/sbin",
    "/usr/share/perl",
    "/usr/share/zoneinfo",
    "/usr/share/doc/git",
    "/usr/share/doc/util-linux",
    "/var/lib/dpkg",
];

/// The folder of a whole Debian system, made by debootstrap, that is to be taken instead.
const TREE: &str = "AMBERFS_TEST_DEBIAN";

pub fn put(path: &Path, bytes: &[u8]) {
    File::create(path).unwrap().write_all(bytes).unwrap();
}

/// A Debian system with what is special about a root file system.
pub fn root(root: &Path) {
    if let Some(tree) = std::env::var_os(TREE) {
        copy(Path::new(&tree).join(".").as_path(), root);
    } else {
        for part in PARTS.map(Path::new).iter().filter(|part| part.exists()) {
            let folder = root.join(part.parent().unwrap().strip_prefix("/").unwrap());
            fs::create_dir_all(&folder).unwrap();
            copy(part, &folder);
        }
    }
    let special = root.join("special");
    fs::create_dir(&special).unwrap();
    links(&special);
    odd_names(&special);
    nodes(&special);
    shapes(&special);
    database(&special.join("orders.db"));
}

/// People's files: many small ones, a repository, a database.
pub fn home(root: &Path) {
    let project = root.join("project");
    fs::create_dir(&project).unwrap();
    git_init(&project);
    for commit in 0..3_u64 {
        for file in 0..40_u64 {
            put(&project.join(format!("source-{file}.txt")), &pattern(commit * 40 + file, 2000));
        }
        git(&project, &["add", "."]);
        git(&project, &["commit", "-q", "-m", &format!("commit {commit}")]);
    }
    git(&project, &["gc", "-q"]);
    // One folder with so many names that it has an index, and many folders with few.
    let mail = root.join("mail");
    fs::create_dir(&mail).unwrap();
    for number in 0..3000_u64 {
        put(
            &mail.join(format!("{number:05}.host,S={number}:2,S")),
            &pattern(number, 100 + number as usize % 3000),
        );
    }
    for folder in 0..60_u64 {
        let path = root.join(format!("photos/{}/{folder}", folder % 7));
        fs::create_dir_all(&path).unwrap();
        put(&path.join("picture"), &pattern(folder + 5000, 40_000));
    }
    links(root);
    odd_names(root);
    shapes(root);
    database(&root.join("notes.db"));
}

pub fn boot(root: &Path) {
    put(&root.join("vmlinuz-6.1"), &pattern(61, 8 << 20));
    put(&root.join("initrd.img-6.1"), &pattern(62, 20 << 20));
    fs::create_dir_all(root.join("grub/i386-pc")).unwrap();
    put(&root.join("grub/grub.cfg"), b"set timeout=5\n");
    symlink("vmlinuz-6.1", root.join("vmlinuz")).unwrap();
}

pub fn efi(root: &Path) {
    for folder in ["EFI/BOOT", "EFI/debian"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    put(&root.join("EFI/BOOT/BOOTX64.EFI"), &pattern(71, 900_000));
    put(&root.join("EFI/debian/grubx64.efi"), &pattern(72, 2_500_001));
    put(&root.join("EFI/debian/A longer name than eight and three.cfg"), b"search.fs_uuid root\n");
    put(&root.join("EFI/debian/empty"), b"");
}

/// What a user did on the n-th day, from 1: files new, gone, renamed, shorter, longer, changed inside.
pub fn change(root: &Path, day: u64) {
    let today = root.join(format!("day-{day}"));
    fs::create_dir(&today).unwrap();
    for number in 0..200_u64 {
        put(&today.join(format!("new-{number}")), &pattern(day * 1000 + number, 3000));
    }
    put(&today.join("large"), &pattern(day, 3 << 20));
    if day > 1 {
        let yesterday = root.join(format!("day-{}", day - 1));
        for number in 0..100 {
            fs::remove_file(yesterday.join(format!("new-{number}"))).unwrap();
        }
        rustix::fs::rename(yesterday.join("new-150"), today.join("moved")).unwrap();
        let large = File::options().write(true).open(yesterday.join("large")).unwrap();
        large.write_all_at(&pattern(day + 100, 5000), 1_234_567).unwrap();
        large.set_len((5 << 20) - 17).unwrap();
        let shorter = File::options().write(true).open(yesterday.join("new-160")).unwrap();
        shorter.set_len(1000).unwrap();
        fs::set_permissions(yesterday.join("new-170"), PermissionsExt::from_mode(0o600)).unwrap();
    }
}

/// Copies without caring for what vanishes meanwhile: the machine is in use.
fn copy(from: &Path, to: &Path) {
    let _ = Command::new("cp").arg("-a").arg(from).arg(to).output().unwrap();
}

fn links(root: &Path) {
    let folder = root.join("links");
    fs::create_dir(&folder).unwrap();
    put(&folder.join("file"), b"linked");
    fs::hard_link(folder.join("file"), folder.join("hard")).unwrap();
    symlink("file", folder.join("short")).unwrap();
    symlink("/nowhere/at all", folder.join("dangling")).unwrap();
    // Too long for the inode, in ext4 and in XFS.
    for length in [59, 60, 300, 1000] {
        symlink("x/".repeat(length / 2), folder.join(format!("long-{length}"))).unwrap();
    }
    symlink("..", folder.join("up")).unwrap();
}

fn odd_names(root: &Path) {
    let folder = root.join("odd");
    fs::create_dir(&folder).unwrap();
    let long = "n".repeat(255);
    let names: [&[u8]; 10] = [
        b"-rf",
        b" space at both ends ",
        b"new\nline",
        b"tab\tand\\backslash",
        b"'single' \"double\" $(true)",
        b"not \xff\xfe UTF-8",
        "gr\u{fc}\u{df}e \u{65e5}\u{672c}".as_bytes(),
        b"%41",
        b"~",
        long.as_bytes(),
    ];
    for (number, name) in names.iter().enumerate() {
        put(&folder.join(OsStr::from_bytes(name)), &pattern(number as u64, number * 1000));
    }
    fs::create_dir_all(folder.join("deep/".repeat(40))).unwrap();
}

fn nodes(root: &Path) {
    let folder = root.join("nodes");
    fs::create_dir(&folder).unwrap();
    let make = |name: &str, kind: FileType, device: (u32, u32)| {
        let device = rustix::fs::makedev(device.0, device.1);
        rustix::fs::mknodat(rustix::fs::CWD, folder.join(name), kind, Mode::from_raw_mode(0o640), device)
            .unwrap();
    };
    make("null", FileType::CharacterDevice, (1, 3));
    make("disk", FileType::BlockDevice, (259, 70_000));
    make("fifo", FileType::Fifo, (0, 0));
    make("socket", FileType::Socket, (0, 0));
    for (name, mode) in [("set-uid", 0o4755), ("set-gid", 0o2755), ("closed", 0o000)] {
        put(&folder.join(name), b"#!/bin/sh\nid\n");
        fs::set_permissions(folder.join(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    fs::create_dir(folder.join("sticky")).unwrap();
    fs::set_permissions(folder.join("sticky"), PermissionsExt::from_mode(0o1777)).unwrap();
    rustix::fs::chown(folder.join("set-gid"), Some(rustix::fs::Uid::from_raw(1234)), None).unwrap();
}

/// Sparse, large and fragmented files.
fn shapes(root: &Path) {
    let folder = root.join("shapes");
    fs::create_dir(&folder).unwrap();
    put(&folder.join("large"), &pattern(81, 24 << 20));
    let sparse = File::create(folder.join("sparse")).unwrap();
    for place in 0..16_u64 {
        sparse.write_all_at(&pattern(place, 5000), place * 3_333_333).unwrap();
    }
    sparse.set_len(60 << 20).unwrap();
    // Longer than 32 bits can say.
    let huge = File::create(folder.join("huge")).unwrap();
    huge.write_all_at(b"first", 0).unwrap();
    huge.write_all_at(b"last", (6 << 30) - 4).unwrap();
    // Two files that grow in turn, durably each time, lie in many pieces.
    let files = [1, 2].map(|number| File::create(folder.join(format!("pieces-{number}"))).unwrap());
    let mut numbers = Numbers::new(82);
    for piece in 0..60_u64 {
        for file in &files {
            file.write_all_at(&pattern(numbers.next(), 20_000), piece * 20_000).unwrap();
            file.sync_data().unwrap();
        }
    }
    put(&folder.join("empty"), b"");
    let allocated = File::create(folder.join("allocated")).unwrap();
    rustix::fs::fallocate(&allocated, rustix::fs::FallocateFlags::empty(), 0, 2 << 20).unwrap();
    allocated.write_all_at(b"in the middle of what was never written", 1 << 20).unwrap();
}

fn database(path: &Path) {
    let rows = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000)";
    let sql = format!(
        "create table t(i integer primary key, v text); insert into t {rows} select i, hex(i * i) from n;"
    );
    run("sqlite3", &[text(path), &sql]);
}

pub fn git_init(folder: &Path) {
    run("git", &["init", "-q", "-b", "main", text(folder)]);
    for (key, value) in [("user.name", "guest"), ("user.email", "guest@example.org"), ("gc.auto", "0")] {
        git(folder, &["config", key, value]);
    }
}

pub fn git(folder: &Path, arguments: &[&str]) -> String {
    // Whoever the copy belongs to.
    let trust = ["-c", "safe.directory=*", "-C", text(folder)];
    run("git", &[&trust, arguments].concat())
}
