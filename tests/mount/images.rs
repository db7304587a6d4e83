//! Images: the bytes of the volume for every program, and writable for none.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::process::Command;

use amberfs::catalog::BackupStatus;
use amberfs::types::BackupId;

use super::support::bytes::{Numbers, pattern};
use super::support::hand_made::{CHUNK, HandMade, Recipe};
use super::{Mounted, run};

/// Data, a hole of some MiB, more data, and an end that is on no boundary.
fn volume() -> Vec<u8> {
    let mut image = vec![0; 12 << 20];
    image[..3 << 20].copy_from_slice(&pattern(1, 3 << 20));
    image[(8 << 20)..(8 << 20) + 5 * CHUNK].copy_from_slice(&pattern(2, 5 * CHUNK));
    image.extend_from_slice(&pattern(3, 12_345));
    image
}

struct Fixture {
    mounted: Mounted,
    id: BackupId,
    volume: Vec<u8>,
    /// The volume in a file outside of the mount.
    original: PathBuf,
}

fn fixture(volume: Vec<u8>) -> Fixture {
    let hand_made = HandMade::new();
    let id = hand_made.full(&Recipe::named("first"), &volume);
    let mounted = Mounted::new(hand_made);
    let original = mounted.scratch("original");
    #[allow(clippy::disallowed_methods, reason = "a file of a test")]
    fs::write(&original, &volume).unwrap();
    Fixture { mounted, id, volume, original }
}

impl Fixture {
    fn image(&self) -> PathBuf {
        self.mounted.path(format!("backups/{}/image", self.id))
    }
}

#[test]
fn every_way_of_reading_gives_the_bytes_of_the_volume() {
    let fixture = fixture(volume());
    let (image, original) = (fixture.image(), &fixture.original);
    run(Command::new("cmp").arg(&image).arg(original));
    let linked = fixture.mounted.path("volumes/local/vol/latest/image");
    run(Command::new("cmp").arg(&linked).arg(original));
    let copy = fixture.mounted.scratch("copy");
    for arguments in [&["bs=1M"][..], &["bs=4096", "iflag=direct"], &["bs=7777"], &["bs=4M", "iflag=direct"]]
    {
        let mut dd = Command::new("dd");
        dd.arg(format!("if={}", image.display())).arg(format!("of={}", copy.display())).args(arguments);
        run(&mut dd);
        run(Command::new("cmp").arg(&copy).arg(original));
    }
    fixture.mounted.python(&format!(
        "import mmap\n\
         with open('backups/{id}/image','rb') as f, open('{original}','rb') as o:\n\
         \x20m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)\n\
         \x20assert m[:] == o.read()\n\
         \x20p = mmap.mmap(f.fileno(), 0, flags=mmap.MAP_PRIVATE)\n\
         \x20p[0:3] = b'abc'\n",
        id = fixture.id,
        original = original.display()
    ));
}

#[test]
fn holes_stay_holes() {
    let fixture = fixture(volume());
    let stat = fs::metadata(fixture.image()).unwrap();
    assert_eq!(stat.size(), fixture.volume.len() as u64);
    let data = (3 << 20) + 5 * CHUNK + 12_345;
    assert_eq!(stat.blocks(), data.div_ceil(512) as u64);
    assert_eq!((stat.mtime(), stat.ctime(), stat.atime()), (1_700_000_000, 1_700_000_000, 1_700_000_000));
    let copy = fixture.mounted.scratch("copy");
    for sparse in ["always", "auto"] {
        run(Command::new("cp").arg(format!("--sparse={sparse}")).arg(fixture.image()).arg(&copy));
        run(Command::new("cmp").arg(&copy).arg(&fixture.original));
        let kib = fs::metadata(&copy).unwrap().blocks() / 2;
        assert!(kib < (data as u64 >> 10) + 300, "{kib} KiB for {data} bytes of data, {sparse}");
        fs::remove_file(&copy).unwrap();
    }
    let du = run(Command::new("du").arg("--block-size=1").arg(fixture.image()));
    assert!(du.starts_with(&format!("{}\t", data.div_ceil(512) * 512)), "{du}");
    let found = fixture.mounted.python(&format!(
        "import os, errno\n\
         fd = os.open('backups/{}/image', os.O_RDONLY)\n\
         end = os.fstat(fd).st_size\n\
         def seek(offset, how):\n\
         \x20try: return os.lseek(fd, offset, how)\n\
         \x20except OSError as e: return errno.errorcode[e.errno]\n\
         D, H = os.SEEK_DATA, os.SEEK_HOLE\n\
         print(seek(0, D), seek(0, H), seek(4 << 20, D), seek(8 << 20, H), seek(12 << 20, H) == end,\n\
         \x20seek(end - 1, D) == end - 1, seek(end, D), seek(end, H), seek(end + 5, H), os.lseek(fd, 0, 2) == end)",
        fixture.id
    ));
    let hole = (8 << 20) + 5 * CHUNK;
    assert_eq!(found, format!("0 {} {} {hole} True True ENXIO ENXIO ENXIO True\n", 3 << 20, 8 << 20));
}

#[test]
fn many_readers_at_any_offset_read_the_same() {
    let fixture = fixture(volume());
    std::thread::scope(|scope| {
        for seed in 0..8 {
            let fixture = &fixture;
            scope.spawn(move || {
                let file = File::open(fixture.image()).unwrap();
                let mut numbers = Numbers::new(seed);
                for _ in 0..200 {
                    let offset = numbers.below(fixture.volume.len() as u64 + 1000);
                    let mut bytes = vec![0xa5; numbers.below(300_000) as usize];
                    let mut length = 0;
                    while length < bytes.len() {
                        match file.read_at(&mut bytes[length..], offset + length as u64).unwrap() {
                            0 => break,
                            more => length += more,
                        }
                    }
                    let start = (offset as usize).min(fixture.volume.len());
                    let end = (start + bytes.len()).min(fixture.volume.len());
                    assert!(bytes[..length] == fixture.volume[start..end], "{length} bytes at {offset}");
                }
            });
        }
    });
}

#[test]
fn a_damaged_chunk_is_an_error_where_it_is_and_nowhere_else() {
    let fixture = fixture(volume());
    // The bytes do not compress, so this is in the first chunk.
    fixture.mounted.hand_made.damage_pack(30_000);
    let image = format!("backups/{}/image", fixture.id);
    fixture.mounted.fails(&format!("dd if={image} bs=4096 count=1"), "Input/output error");
    fixture.mounted.fails(&format!("dd if={image} bs=1M count=1 iflag=direct"), "Input/output error");
    fixture.mounted.fails(&format!("cat {image} > /dev/null"), "Input/output error");
    let skip = format!("cmp --ignore-initial={CHUNK} {image} {}", fixture.original.display());
    fixture.mounted.sh(&skip);
}

#[test]
fn nobody_writes_to_an_image_or_changes_the_tree() {
    let fixture = fixture(volume());
    let folder = format!("backups/{}", fixture.id);
    for script in [
        "echo x > F/image",
        "echo x >> F/image",
        "exec 3<> F/image",
        "dd if=/dev/zero of=F/image conv=notrunc count=1",
        "truncate -s 0 F/image",
        "touch F/image",
        "chmod 600 F/image",
        "chown 1 F/image",
        "rm -f F/image",
        "mv F/image F/other",
        "ln F/image F/other",
        "ln -s x F/other",
        "mkdir F/other",
        "mkfifo F/other",
        "echo x > F/other",
        "echo x > F/info.json",
        "rmdir F",
        "rm -f README",
        "echo x > README",
        "echo x > status.json",
        "mkdir volumes/local/new",
        "rm -f volumes/local/vol/latest",
        "chmod 777 control/backup",
    ] {
        fixture.mounted.fails(&script.replace('F', &folder), "Read-only file system");
    }
    run(Command::new("cmp").arg(fixture.image()).arg(&fixture.original));
}

#[test]
fn an_open_image_is_read_to_its_end_after_its_backup_is_deleted() {
    let fixture = fixture(volume());
    let mut file = File::open(fixture.image()).unwrap();
    fixture.mounted.hand_made.set_status(fixture.id, BackupStatus::Deleting);
    fixture.mounted.hand_made.delete(fixture.id);
    // What the kernel takes for granted of a name is old after a second.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while fixture.image().exists() {
        assert!(std::time::Instant::now() < deadline, "the image is still in the tree");
        std::thread::yield_now();
    }
    assert_eq!(file.metadata().unwrap().len(), fixture.volume.len() as u64);
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert!(bytes == fixture.volume);
    assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), fixture.volume.len() as u64);
}

/// Detached on drop, whatever happened.
struct LoopDevice(String);

impl LoopDevice {
    fn new(arguments: &[&str], file: &std::path::Path) -> Self {
        let mut losetup = Command::new("losetup");
        Self(run(losetup.args(["-r", "--find", "--show"]).args(arguments).arg(file)).trim().to_owned())
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let detached = Command::new("losetup").arg("-d").arg(&self.0).status();
        assert!(std::thread::panicking() || detached.unwrap().success(), "{} is still there", self.0);
    }
}

#[test]
fn a_file_system_in_an_image_is_found_and_mounted_through_a_loop_device() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file-system");
    File::create(&file).unwrap().set_len(16 << 20).unwrap();
    let uuid = "6d2b1c8e-3f4a-4c55-9a57-0c1d2e3f4a5b";
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-U", uuid, "-L", "amber"]).arg(&file));
    let fixture = fixture(fs::read(&file).unwrap());
    for arguments in [&["--direct-io=on"][..], &[]] {
        let device = LoopDevice::new(arguments, &fixture.image());
        let found = run(Command::new("blkid").args(["-p", "-o", "export"]).arg(&device.0));
        assert!(found.contains(&format!("UUID={uuid}")) && found.contains("TYPE=ext4"), "{found}");
        let mut cmp = Command::new("cmp");
        run(cmp.arg(&device.0).arg(&fixture.original));
        let mountpoint = fixture.mounted.scratch("inner");
        fs::create_dir_all(&mountpoint).unwrap();
        run(Command::new("mount").args(["-o", "ro"]).arg(&device.0).arg(&mountpoint));
        let has_files = mountpoint.join("lost+found").is_dir();
        run(Command::new("umount").arg(&mountpoint));
        assert!(has_files);
    }
}
