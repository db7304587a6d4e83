//! What `identify` says of file systems and containers that their own programs made: the same as `blkid`.

use std::path::Path;
use std::process::Command;

use amberfs::contents::{identify, partitions};
use tempfile::tempdir;

use super::{Loop, device, run, sparse, write_at};

const MIB: u64 = 1 << 20;

/// Type, UUID and label as `blkid` prints them.
fn by_blkid(image: &Path) -> Option<(String, Option<String>, Option<String>)> {
    let value = |tag: &str| {
        let output =
            Command::new("blkid").args(["-p", "-s", tag, "-o", "value"]).arg(image).output().unwrap();
        // 2: nothing found.
        assert!(matches!(output.status.code(), Some(0 | 2)), "{}: {output:?}", image.display());
        let value = String::from_utf8(output.stdout).unwrap().trim_end().to_owned();
        (!value.is_empty()).then_some(value)
    };
    value("TYPE").map(|kind| (kind, value("UUID"), value("LABEL")))
}

fn assert_as_blkid(image: &Path, kind: &str) {
    let ours = identify(&device(image)).unwrap();
    let ours = ours.map(|content| (content.kind.name().to_owned(), content.uuid, content.label));
    assert_eq!(ours, by_blkid(image), "{}", image.display());
    assert_eq!(ours.map(|(kind, _, _)| kind).as_deref(), Some(kind), "{}", image.display());
}

/// A program with its arguments, the size of the image in MiB, and what it makes.
const PROGRAMS: [(&str, u64, &str); 27] = [
    ("mkfs.ext2 -q -L ext2", 16, "ext2"),
    ("mkfs.ext3 -q -L ext3", 16, "ext3"),
    ("mkfs.ext4 -q", 16, "ext4"),
    ("mkfs.ext4 -q -L sixteen-letters-", 16, "ext4"),
    ("mkfs.ext4 -q -b 1024 -O ^has_journal", 16, "ext4"),
    ("mke2fs -q -O journal_dev", 16, "jbd"),
    ("mkfs.xfs -q -L twelve-chars", 320, "xfs"),
    ("mkfs.xfs -q -m crc=0", 320, "xfs"),
    ("mkfs.btrfs -q -L butter", 128, "btrfs"),
    ("mkfs.vfat -F 12 -n TWELVE", 4, "vfat"),
    ("mkfs.vfat -F 12", 4, "vfat"),
    ("mkfs.vfat -F 16 -n SIXTEEN", 32, "vfat"),
    ("mkfs.vfat -F 32 -n THIRTY-TWO", 64, "vfat"),
    ("mkfs.vfat -F 32 -S 4096", 300, "vfat"),
    ("mkfs.vfat -F 32 -s 8", 300, "vfat"),
    ("mkfs.exfat -L \u{e4}xfat", 16, "exfat"),
    ("mkfs.exfat", 16, "exfat"),
    ("mkfs.ntfs -q -F -f -L windows", 16, "ntfs"),
    ("mkfs.ntfs -q -F -f -c 65536", 16, "ntfs"),
    ("mkfs.f2fs -q -l flash", 64, "f2fs"),
    ("mkswap -L swap", 16, "swap"),
    ("mkswap -p 65536", 16, "swap"),
    ("mkswap -p 8192", 16, "swap"),
    (
        "cryptsetup luksFormat -q --type luks1 --pbkdf-force-iterations 1000 --key-file /etc/hostname",
        32,
        "crypto_LUKS",
    ),
    (
        "cryptsetup luksFormat -q --type luks2 --label sealed --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /etc/hostname",
        32,
        "crypto_LUKS",
    ),
    ("mkfs.ext4 -q -O 64bit,metadata_csum -b 4096", 16, "ext4"),
    ("mkfs.vfat -F 16", 32, "vfat"),
];

#[test]
fn file_systems_and_containers_are_known_as_blkid_knows_them() {
    let folder = tempdir().unwrap();
    for (number, (command, mebibytes, kind)) in PROGRAMS.into_iter().enumerate() {
        let image = sparse(folder.path(), &format!("{number} {kind}"), mebibytes * MIB);
        let mut words: Vec<&str> = command.split(' ').collect();
        words.push(image.to_str().unwrap());
        run(words[0], &words[1..]);
        assert_as_blkid(&image, kind);
        // Whatever the first sector ends with, it is no partition table.
        assert_eq!(partitions(&device(&image)).unwrap(), None, "{command}");
        std::fs::remove_file(&image).unwrap();
    }
}

#[test]
fn images_of_folders_are_known_as_blkid_knows_them() {
    let folder = tempdir().unwrap();
    let files = folder.path().join("files");
    std::fs::create_dir(&files).unwrap();
    std::fs::write(files.join("file"), "text").unwrap();
    let (files, at) =
        (files.to_str().unwrap(), |name: &str| folder.path().join(name).to_str().unwrap().to_owned());
    run("mksquashfs", [files, &at("squashfs"), "-quiet", "-no-progress"]);
    run("mkfs.erofs", ["-T0", "-U", "11111111-2222-3333-4444-555555555555", &at("erofs"), files]);
    run("genisoimage", ["-quiet", "-V", "a label", "-o", &at("iso9660"), files]);
    run("genisoimage", ["-quiet", "-J", "-R", "-V", "Joliet label", "-o", &at("joliet"), files]);
    let kinds = ["squashfs", "erofs", "iso9660"].map(|kind| (kind, kind));
    for (name, kind) in kinds.into_iter().chain([("joliet", "iso9660")]) {
        assert_as_blkid(&folder.path().join(name), kind);
    }
}

#[test]
fn physical_volumes_are_known_as_blkid_knows_them() {
    let folder = tempdir().unwrap();
    let image = sparse(folder.path(), "pv", 16 * MIB);
    let attached = Loop::attach(&image, 512);
    super::lvm::lvm("pvcreate", &[&attached.0], &[&attached.0]);
    drop(attached);
    assert_as_blkid(&image, "LVM2_member");
}

/// `mdadm` makes none without the kernel's driver; `blkid` says that these are right.
#[test]
fn members_of_arrays_are_known_as_blkid_knows_them() {
    let folder = tempdir().unwrap();
    for sector in [0_u64, 8, 16 * MIB / 512 - 16] {
        let image = sparse(folder.path(), &format!("raid at {sector}"), 16 * MIB);
        run("mkfs.ext4", ["-q".as_ref(), image.as_os_str()]);
        let mut superblock = [0; 256];
        superblock[..8].copy_from_slice(&[0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0]);
        superblock[16..32].copy_from_slice(&[0x3c; 16]);
        superblock[32..38].copy_from_slice(b"host:0");
        superblock[144..152].copy_from_slice(&sector.to_le_bytes());
        write_at(&image, sector * 512, &superblock);
        assert_as_blkid(&image, "linux_raid_member");
    }
}

#[test]
fn nothing_is_known_of_zeros_and_of_noise() {
    let folder = tempdir().unwrap();
    for size in [0, 1, 512, 4096, 65536, 70_000, MIB] {
        assert_eq!(identify(&device(&sparse(folder.path(), "zeros", size))).unwrap(), None);
        let noise = folder.path().join("noise");
        std::fs::write(&noise, crate::support::bytes::pattern(size, size as usize)).unwrap();
        assert_eq!(identify(&device(&noise)).unwrap(), None);
    }
}
