//! LVM inside backups, without a device mapper: two guests made from one template, looked into side by side. Needs root.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation is a failed test"
)]

mod support;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;
use serde_json::Value;

use support::attach::{Loop, run, text};
use support::bytes::pattern;
use support::daemon::Daemon;
use support::guest::disk::{Kind, uuid};
use support::guest::listing::{Fields, differences, list};
use support::guest::lvm::{GROUP, LvmGuest, Volume, lvm, lvm_pair};

const TENANT: u32 = 4321;
const MIB: u64 = 1 << 20;

/// A daemon that lets a tenant in, with the two guests as volumes `guest-0` and `guest-1`.
struct World {
    guests: [LvmGuest; 2],
    /// Of `guest-0` and `guest-1`.
    backups: [String; 2],
    daemon: Daemon,
    folder: tempfile::TempDir,
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn succeeds(output: Output) -> String {
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Compares two ranges of files, without holding them in memory.
fn assert_same(one: (&Path, u64), two: (&Path, u64), length: u64) {
    let skip = format!("{}:{}", one.1, two.1);
    run("cmp", &["-i", &skip, "-n", &length.to_string(), text(one.0), text(two.0)]);
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let volumes = folder.path().join("volumes");
        fs::create_dir(&volumes).unwrap();
        let guests = lvm_pair(folder.path());
        for guest in &guests {
            fs::rename(&guest.image, volumes.join(guest.image.file_name().unwrap())).unwrap();
        }
        let guests =
            guests.map(|guest| LvmGuest { image: volumes.join(guest.image.file_name().unwrap()), ..guest });
        let daemon = Daemon::start(&format!(
            "[mount]\nallow_other = true\n[source.local]\ntype = \"dir\"\npath = \"{}\"\n\
             [project.rented]\nsources = [\"local\"]\nuid = {TENANT}\ngid = {TENANT}\n",
            volumes.display()
        ));
        let backups = ["monday", "tuesday"].map(|name| {
            let guest = if name == "monday" { "guest-0" } else { "guest-1" };
            daemon.backup(&format!("{guest} --name {name}"))
        });
        Self { guests, backups, daemon, folder }
    }

    /// Makes a volume of the bare physical volume of the first guest.
    fn bare(&self, name: &str) -> PathBuf {
        let partition = self.partitions(0).join(self.guests[0].partition.to_string());
        let volume = self.volume(name);
        run("cp", &["--sparse=always", "--no-preserve=all", text(&partition), text(&volume)]);
        volume
    }

    fn volume(&self, name: &str) -> PathBuf {
        self.folder.path().join("volumes").join(format!("{name}.raw"))
    }

    fn backup_folder(&self, backup: &str) -> PathBuf {
        self.daemon.mount().join("backups").join(backup)
    }

    fn partitions(&self, guest: usize) -> PathBuf {
        self.backup_folder(&self.backups[guest]).join("partitions")
    }

    fn volumes(&self, guest: usize) -> PathBuf {
        self.partitions(guest).join(format!("{}.lvm", self.guests[guest].partition))
    }

    fn cli(&self, arguments: &[&str]) -> String {
        succeeds(self.daemon.cli(arguments))
    }

    /// Runs a command that is refused, and returns the sentence.
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.daemon.cli(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        said(&output)
    }

    fn as_user(&self, user: u32, script: &str) -> Output {
        Command::new("setpriv")
            .args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()])
            .args(["bash", "-c", script])
            .current_dir(self.daemon.mount())
            .output()
            .unwrap()
    }

    fn scratch(&self, line: &str) -> PathBuf {
        let name = self.daemon.accepted("scratch", &format!("{line}\n"), "scratch");
        self.daemon.mount().join("scratch").join(name)
    }

    /// Returns the folder of the logical volumes of a scratch image, and the volume of a name.
    fn volume_of<'a>(&'a self, scratch: &Path, name: &str) -> (PathBuf, &'a Volume) {
        let guest = &self.guests[0];
        let volume = guest.volumes.iter().find(|volume| volume.name == name).unwrap();
        (PathBuf::from(format!("{}.partitions/{}.lvm", scratch.display(), guest.partition)), volume)
    }
}

fn assert_lists(guest: &LvmGuest, volume: &Volume, root: &Path, fields: Fields) {
    let different = differences(&guest.lists[volume.name], &list(root), fields);
    assert!(different.is_empty(), "{}: {different:#?}", root.display());
}

#[test]
fn two_guests_with_the_same_names_and_uuids_are_mounted_at_once_and_leave_nothing() {
    let world = World::new();
    let mut mounted = Vec::new();
    for (guest, backup) in world.guests.iter().zip(["monday", "tuesday"]) {
        for volume in &guest.volumes {
            let folder = world.folder.path().join(format!("{backup}-{}", volume.name));
            fs::create_dir(&folder).unwrap();
            let partition = guest.partition.to_string();
            let chosen = ["--partition", &partition, "--lv", volume.name];
            let arguments = [&["files", "mount", backup][..], &chosen, &[text(&folder)]].concat();
            world.cli(&arguments);
            mounted.push((guest, volume, folder));
        }
    }
    for (guest, volume, folder) in &mounted {
        assert_lists(guest, volume, folder, Fields::All);
        let error = fs::write(folder.join("new"), "x").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::ROFS.raw_os_error()));
    }
    for (_, _, folder) in &mounted {
        world.cli(&["files", "umount", text(folder)]);
    }
    assert!(entries(&world.daemon.mount().join("scratch")).is_empty());
    let loops = run("losetup", &["--list", "--noheadings", "--output", "BACK-FILE"]);
    assert!(!loops.contains(text(&world.daemon.mount())), "{loops}");

    // Several could be meant: the answer names them.
    let folder = &mounted[0].2;
    let sentence = world.refused(&["files", "mount", "monday", text(folder)]);
    assert!(sentence.contains("--partition and --lv") && sentence.contains("2/home (ext4)"), "{sentence}");
    let sentence = world.refused(&["files", "mount", "monday", "--partition", "2", text(folder)]);
    assert!(sentence.contains("--lv") && sentence.contains("2/root (xfs)"), "{sentence}");
    let sentence = world.refused(&["files", "mount", "monday", "--lv", "swap", text(folder)]);
    assert!(sentence.contains("no logical volume swap; there are home, root"), "{sentence}");
    // A name that only one partition has is enough, and the only file system of a bare disk needs no name.
    world.cli(&["files", "mount", "monday", "--lv", "home", text(folder)]);
    assert_lists(&world.guests[0], &world.guests[0].volumes[1], folder, Fields::All);
    world.cli(&["files", "umount", text(folder)]);
}

#[test]
fn each_logical_volume_is_an_image_and_a_folder_of_files() {
    let world = World::new();
    for (number, guest) in world.guests.iter().enumerate() {
        let folder = world.volumes(number);
        assert_eq!(entries(&folder), ["home", "home.files", "root", "root.files", "table.json"]);
        let table = json(&folder.join("table.json"));
        assert_eq!(table["name"], GROUP);
        assert_eq!(fs::metadata(folder.join("table.json")).unwrap().mode() & 0o7777, 0o440);
        for volume in &guest.volumes {
            let image = folder.join(volume.name);
            let metadata = fs::metadata(&image).unwrap();
            assert_eq!(metadata.len(), volume.range.length);
            assert_eq!((metadata.mode() & 0o7777, metadata.uid()), (0o440, TENANT));
            assert_same((&image, 0), (&guest.image, volume.range.offset), volume.range.length);
            let error = OpenOptions::new().write(true).open(&image).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(Errno::ROFS.raw_os_error()));
            // Owners and times are shown, too, but a hard link is a file of its own here.
            assert_lists(guest, volume, &folder.join(format!("{}.files", volume.name)), Fields::Shown);

            let listed = table["logical_volumes"].as_array().unwrap();
            let listed = listed.iter().find(|one| one["name"] == volume.name).unwrap();
            let device = Loop::with(&guest.image, Some(volume.range), &["-r"]);
            assert_eq!(listed["file_system_uuid"], uuid(device.device()));
            assert_eq!(listed["file_system"], if volume.kind == Kind::Xfs { "xfs" } else { "ext4" });
            assert_eq!(
                (&listed["size_bytes"], &listed["unreadable"]),
                (&volume.range.length.into(), &Value::Null)
            );
        }
    }
    assert_eq!(world.cli(&["files", "cat", "monday:2/root:/hostname"]), "guest-0\n");
    assert_eq!(world.cli(&["files", "cat", "tuesday:2/home:/hostname"]), "guest-1\n");
    let sentence = world.refused(&["files", "ls", "monday:2:/"]);
    assert!(sentence.contains("there are files in 2/home, 2/root: name one"), "{sentence}");

    // Whose backup it is reads all of it, and nobody else anything.
    let folder = format!("backups/{}/partitions/2.lvm", world.backups[0]);
    let look =
        format!("cd {folder} && ls && cat root.files/hostname && head -c 4 root && grep name table.json");
    let seen = succeeds(world.as_user(TENANT, &look));
    assert!(seen.contains("home.files\n") && seen.contains("guest-0\nXFSB"), "{seen}");
    assert!(!world.as_user(5555, &look).status.success());
}

#[test]
fn a_disk_that_is_a_physical_volume_itself_has_its_logical_volumes_beside_its_image() {
    let world = World::new();
    let disk = world.bare("bare");
    // A snapshot, as LVM writes it, which no device mapper was asked for.
    let attached = Loop::new(&disk, None);
    let description = world.folder.path().join("text");
    lvm(attached.device(), &["vgcfgbackup", "-f", text(&description), GROUP]);
    let volume = |name: &str, id: u32, segment: &str| {
        format!(
            "{name} {{ id = \"AAAAAA-AAAA-AAAA-AAAA-AAAA-AAAA-AA{id:04}\" status = [\"READ\", \"WRITE\", \"VISIBLE\"] flags = []\n\
             segment_count = 1 segment1 {{ start_extent = 0 {segment} }} }}\n"
        )
    };
    let snapshot =
        "extent_count = 16 type = \"snapshot\" chunk_size = 8 origin = \"home\" cow_store = \"snap\"";
    let store = "extent_count = 1 type = \"striped\" stripe_count = 1 stripes = [\"pv0\", 94]";
    let added = volume("snapshot0", 1, snapshot) + &volume("snap", 2, store);
    let described = fs::read_to_string(&description).unwrap();
    let described = described.replace("\tlogical_volumes {\n", &format!("\tlogical_volumes {{\n{added}"));
    fs::write(&description, described).unwrap();
    lvm(attached.device(), &["vgcfgrestore", "--force", "-f", text(&description), GROUP]);
    drop(attached);

    let backup = world.backup_folder(&world.daemon.backup("bare --name bare"));
    assert_eq!(entries(&backup), ["image", "info.json", "lvm", "record"]);
    let folder = backup.join("lvm");
    assert_eq!(entries(&folder), ["home", "home.files", "root", "root.files", "table.json"]);
    let guest = &world.guests[0];
    for volume in &guest.volumes {
        let image = folder.join(volume.name);
        assert_same((&image, 0), (&guest.image, volume.range.offset), volume.range.length);
        assert_lists(guest, volume, &folder.join(format!("{}.files", volume.name)), Fields::Shown);
    }
    let table = json(&folder.join("table.json"));
    let snap = table["logical_volumes"].as_array().unwrap().iter().find(|one| one["name"] == "snap").unwrap();
    assert!(snap["unreadable"].as_str().unwrap().contains("snapshot"), "{snap}");

    assert_eq!(world.cli(&["files", "cat", "bare:lvm/home:/hostname"]), "guest-0\n");
    let sentence = world.refused(&["files", "ls", "bare:/"]);
    assert!(sentence.contains("there are files in lvm/home, lvm/root: name one"), "{sentence}");
    let mountpoint = world.folder.path().join("mountpoint");
    fs::create_dir(&mountpoint).unwrap();
    let sentence = world.refused(&["files", "mount", "bare", "--lv", "snap", text(&mountpoint)]);
    assert!(sentence.contains("snapshot"), "{sentence}");
    world.cli(&["files", "mount", "bare", "--lv", "root", text(&mountpoint)]);
    assert_lists(guest, &guest.volumes[0], &mountpoint, Fields::All);
    world.cli(&["files", "umount", text(&mountpoint)]);

    let scratch = world.scratch("bare --name try");
    let home = PathBuf::from(format!("{}.lvm/home", scratch.display()));
    OpenOptions::new().write(true).open(&home).unwrap().write_all_at(b"new boot block", 0).unwrap();
    let changed =
        run("bash", &["-c", &format!("cmp -l {} {}/image | wc -l", scratch.display(), backup.display())]);
    assert_eq!(changed.trim(), "14");
    world.daemon.refused("scratch", "bare --name x.lvm\n", Errno::INVAL, "InvalidInput");
}

#[test]
fn what_is_written_to_a_logical_volume_of_a_scratch_image_changes_its_disk_there_and_nowhere_else() {
    let world = World::new();
    let scratch = world.scratch("monday --name try");
    let (folder, home) = world.volume_of(&scratch, "home");
    assert_eq!(entries(&folder), ["home", "root", "table.json"]);
    let open = |path: &Path| OpenOptions::new().read(true).write(true).open(path).unwrap();
    let (file, disk) = (open(&folder.join("home")), open(&scratch));
    assert_eq!(fs::metadata(folder.join("home")).unwrap().mode() & 0o7777, 0o640);

    // The gap between two writes is not touched; at the end there is no more room than on a disk.
    let bytes = pattern(3, MIB as usize + 77);
    let end = home.range.length;
    for offset in [12_345, end - bytes.len() as u64] {
        file.write_all_at(&bytes, offset).unwrap();
    }
    let error = file.write_all_at(&bytes, end - 5).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::NOSPC.raw_os_error()));
    file.sync_all().unwrap();
    let mut through_disk = vec![0; bytes.len()];
    disk.read_exact_at(&mut through_disk, home.range.offset + 12_345).unwrap();
    assert!(through_disk == bytes, "another place of the disk was written");

    // And the other way round, with nothing cached between; and a discard.
    disk.write_all_at(b"through the disk", home.range.offset + 20 * MIB).unwrap();
    let mut seen = [0; 16];
    file.read_exact_at(&mut seen, 20 * MIB).unwrap();
    assert_eq!(&seen, b"through the disk");
    fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 13_000, 500_000).unwrap();
    let (mut hole, mut expected) = (vec![1; bytes.len()], bytes.clone());
    expected[13_000 - 12_345..13_000 - 12_345 + 500_000].fill(0);
    disk.read_exact_at(&mut hole, home.range.offset + 12_345).unwrap();
    assert!(hole == expected, "another place of the disk was discarded");

    // Everything else is as it was, and so is the backup.
    let image = world.partitions(0).join("../image");
    let behind = home.range.offset + end;
    assert_same((&scratch, 0), (&image, 0), home.range.offset + 12_345);
    assert_same((&scratch, behind), (&image, behind), fs::metadata(&image).unwrap().len() - behind);
    let between = (12_345 + bytes.len() as u64, 20 * MIB);
    let (from, length) = (home.range.offset + between.0, between.1 - between.0);
    assert_same((&scratch, from), (&image, from), length);
    assert_same((&image, 0), (&world.guests[0].image, 0), fs::metadata(&image).unwrap().len());
}

#[test]
fn holes_of_a_logical_volume_are_found() {
    let world = World::new();
    let home = &world.guests[0].volumes[1];
    let image = File::open(world.volumes(0).join("home")).unwrap();
    let disk = File::open(world.partitions(0).join("../image")).unwrap();
    let mut position = 0;
    let mut count = 0;
    while let Ok(data) = seek(&image, SeekFrom::Data(position)) {
        let hole = seek(&image, SeekFrom::Hole(data)).unwrap();
        let start = home.range.offset;
        assert_eq!(seek(&disk, SeekFrom::Data(start + position)).unwrap(), start + data);
        let in_disk = seek(&disk, SeekFrom::Hole(start + data)).unwrap() - start;
        assert_eq!(hole, in_disk.min(home.range.length));
        (position, count) = (hole, count + 1);
    }
    assert!(count > 2, "the volume has no holes: the test is too easy");
}

#[test]
fn an_xfs_in_a_logical_volume_gets_another_uuid_where_it_is_named_and_on_the_way_into_a_volume() {
    let world = World::new();
    let guest = &world.guests[0];
    let root = &guest.volumes[0];
    let old = {
        let device = Loop::with(&guest.image, Some(root.range), &["-r"]);
        uuid(device.device())
    };
    let scratch = world.scratch("monday --name try");
    let sentence =
        world.daemon.refused("xfs-uuid", "scratch/try --partition 2\n", Errno::INVAL, "InvalidInput");
    assert!(sentence.contains("--lv: home, root; nothing was changed"), "{sentence}");
    let sentence = world.daemon.refused("xfs-uuid", "scratch/try --lv home\n", Errno::INVAL, "InvalidInput");
    assert!(sentence.contains("logical volume home of partition 2 holds ext4, not XFS"), "{sentence}");
    let new = world.daemon.accepted("xfs-uuid", "scratch/try --partition 2 --lv root\n", "new_uuid");
    let (folder, _) = world.volume_of(&scratch, "root");
    let device = Loop::with(&folder.join("root"), None, &["-r"]);
    assert_eq!(uuid(device.device()), new);
    assert_ne!(new, old);
    drop(device);
    let said = world.cli(&["xfs-uuid", "scratch/try", "--lv", "root", "--uuid", &old]);
    assert!(said.contains(&format!("logical volume root of partition 2: {new} is now {old}")), "{said}");

    let said = world.daemon.say("restore", "monday --name beside --new-xfs-uuid\n");
    let pairs: Vec<&str> = said.answer.split_whitespace().collect();
    let value = |key: &str| {
        pairs.iter().find_map(|pair| pair.strip_prefix(key)).unwrap_or_else(|| panic!("{pairs:?}"))
    };
    let new = value("xfs_uuid.2.root=");
    world.daemon.done(value("job="));
    let restored = world.volume("beside");
    let folder = world.folder.path().join("beside");
    let device = Loop::new(&restored, Some(root.range));
    assert_eq!(uuid(device.device()), new);
    // Beside the original, without nouuid.
    let original = Loop::new(&guest.image, Some(root.range));
    let original = support::attach::Mounted::new(original, &world.folder.path().join("original"), "rw");
    let restored = support::attach::Mounted::new(device, &folder, "rw");
    assert_lists(guest, root, restored.path(), Fields::All);
    drop((restored, original));
}

#[test]
fn metadata_that_make_no_sense_give_no_folder_and_a_line_in_the_log() {
    let world = World::new();
    let disk = OpenOptions::new().write(true).open(world.bare("broken")).unwrap();
    // Behind the label and the header of the area, which stay: every text in it.
    disk.write_all_at(&vec![b'x'; MIB as usize - 8192], 8192).unwrap();
    disk.write_all_at(&vec![b'x'; 4096 - 512], 4096 + 512).unwrap();
    drop(disk);
    let id = world.daemon.backup("broken --name broken");
    let backup = world.backup_folder(&id);
    for _ in 0..3 {
        assert_eq!(entries(&backup), ["image", "info.json", "record"]);
    }
    let log = world.daemon.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("LVM metadata is malformed")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(lines[0].contains(&id), "{log}");
    let mountpoint = world.folder.path().join("mountpoint");
    fs::create_dir(&mountpoint).unwrap();
    let sentence = world.refused(&["files", "mount", "broken", "--lv", "root", text(&mountpoint)]);
    assert!(sentence.contains("LVM metadata is malformed"), "{sentence}");
}
