//! What is inside a disk, through the real daemon and the kernel: partitions, files, other XFS UUIDs. Needs root.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation is a failed test"
)]

mod support;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::io::Errno;
use serde_json::Value;

use support::daemon::{Daemon, until};

const TENANT: u32 = 4321;
const MIB: u64 = 1 << 20;

/// Where the partitions of the disk are: ext4, XFS, and one with nothing in it.
const EXT4: (u64, u64) = (MIB, 64 * MIB);
const XFS: (u64, u64) = (65 * MIB, 320 * MIB);
const NOTHING: (u64, u64) = (385 * MIB, 4 * MIB);

const MAKE: &str = r#"
    set -eu
    truncate -s 392M "$1"
    sgdisk -n1:1M:+64M -n2:65M:+320M -n3:385M:+4M -c2:root "$1" >/dev/null
    mkdir -p "$2"
    part() { losetup --find --show -o "$1" --sizelimit "$2" "$3"; }
    fill() {
        mount "$1" "$2"
        mkdir "$2/etc" "$2/home"; echo "root of $3" > "$2/etc/motd"; echo secret > "$2/etc/shadow"; chmod 600 "$2/etc/shadow"
        chown 1000:1000 "$2/home"; ln -s /etc/motd "$2/motd"; mknod "$2/null" c 1 3; cp /bin/ls "$2/suid"; chmod 4755 "$2/suid"
        printf 'x' > "$2/$(printf 'not\xffutf8')"; ln "$2/etc/motd" "$2/home/hard"
        umount "$2"
    }
    device=$(part 1048576 67108864 "$1"); mkfs.ext4 -q "$device"; fill "$device" "$2" ext4; losetup -d "$device"
    device=$(part 68157440 335544320 "$1"); mkfs.xfs -q "$device"; fill "$device" "$2" xfs; losetup -d "$device"
"#;

fn sh(script: &str, arguments: &[&Path]) -> Output {
    Command::new("bash").args(["-c", script, "bash"]).args(arguments).output().unwrap()
}

fn succeeds(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A daemon that lets a tenant in, with one volume, `disk`, that has partitions, and a backup of it called `monday`.
struct World {
    daemon: Daemon,
    folder: tempfile::TempDir,
    backup: String,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("volumes")).unwrap();
        let disk = folder.path().join("volumes/disk.raw");
        succeeds(sh(MAKE, &[&disk, &folder.path().join("made")]));
        let sections = format!(
            "[mount]\nallow_other = true\n[source.local]\ntype = \"dir\"\npath = \"{}\"\n\
             [project.rented]\nsources = [\"local\"]\nuid = {TENANT}\ngid = {TENANT}\n",
            folder.path().join("volumes").display()
        );
        let daemon = Daemon::start(&sections);
        let backup = daemon.backup("disk --name monday");
        Self { daemon, folder, backup }
    }

    fn volume(&self, name: &str) -> PathBuf {
        self.folder.path().join("volumes").join(name)
    }

    fn partitions(&self) -> PathBuf {
        self.daemon.mount().join("backups").join(&self.backup).join("partitions")
    }

    /// Runs a script as a user, in the root of the mount.
    fn as_user(&self, user: u32, script: &str) -> Output {
        Command::new("setpriv")
            .args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()])
            .args(["bash", "-c", script])
            .current_dir(self.daemon.mount())
            .output()
            .unwrap()
    }

    fn cli(&self, arguments: &[&str]) -> String {
        succeeds(self.daemon.cli(arguments))
    }

    /// Says what `xfs_db` finds as the UUID of every group of the XFS in the second partition of a disk.
    fn uuids(&self, disk: &Path) -> Vec<String> {
        let script = r#"
            device=$(losetup -r --find --show -o 68157440 --sizelimit 335544320 "$1"); trap 'losetup -d "$device"' EXIT
            for group in 0 1 2 3; do xfs_db -r -c "sb $group" -c "print uuid" "$device"; done | sed 's/.*= //'
        "#;
        succeeds(sh(script, &[disk])).lines().map(str::to_owned).collect()
    }
}

#[test]
fn each_partition_is_an_image_of_its_own() {
    let world = World::new();
    let disk = fs::read(world.volume("disk.raw")).unwrap();
    for (number, (start, length)) in [(1, EXT4), (2, XFS), (3, NOTHING)] {
        let image = world.partitions().join(number.to_string());
        let expected = &disk[start as usize..(start + length) as usize];
        assert!(fs::read(&image).unwrap() == expected, "partition {number}");
        let metadata = fs::metadata(&image).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.len()), (0o440, TENANT, length));
        let error = OpenOptions::new().write(true).open(&image).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::ROFS.raw_os_error()));
    }
    let table: Value =
        serde_json::from_slice(&fs::read(world.partitions().join("table.json")).unwrap()).unwrap();
    assert_eq!(table["table"], "gpt");
    let found: Vec<_> =
        table["partitions"].as_array().unwrap().iter().map(|one| &one["file_system"]).collect();
    assert_eq!(found, [&Value::from("ext4"), &Value::from("xfs"), &Value::Null]);
    assert_eq!(table["partitions"][1]["name"], "root");
    assert_eq!(table["partitions"][1]["file_system_uuid"], world.uuids(&world.volume("disk.raw"))[0]);
    let names = world.as_user(0, &format!("ls backups/{}/partitions", world.backup));
    assert_eq!(succeeds(names), "1\n1.files\n2\n2.files\n3\ntable.json\n");
}

#[test]
fn the_names_of_one_file_are_one_file_so_that_a_copy_keeps_hard_links() {
    let world = World::new();
    for number in [1, 2] {
        let files = world.partitions().join(format!("{number}.files"));
        // By a listing, by a lookup, and by what the kernel remembers.
        let script = r#"
            set -eu
            cp -a "$1" "$2"; ls -i "$1/etc" "$1/home" >/dev/null
            for root in "$1" "$2"; do
              [ "$root/etc/motd" -ef "$root/home/hard" ]; [ "$(stat -c %h "$root/home/hard")" = 2 ]
              [ "$(cat "$root/home/hard")" = "$(cat "$root/etc/motd")" ]; [ ! "$root/etc/motd" -ef "$root/etc/shadow" ]
            done
            tar -C "$1" -cf - etc home | tar -tvf - | grep -c 'link to'
        "#;
        let copy = world.folder.path().join(format!("copy-{number}"));
        assert_eq!(succeeds(sh(script, &[&files, &copy])), "1\n");
    }
}

#[test]
fn a_table_that_makes_no_sense_gives_an_empty_folder_and_a_line_in_the_log() {
    let world = World::new();
    let disk = world.volume("bad.raw");
    fs::copy(world.volume("disk.raw"), &disk).unwrap();
    let file = OpenOptions::new().write(true).open(&disk).unwrap();
    let end = file.metadata().unwrap().len();
    // Both headers, the checksums no longer right.
    for header in [512, end - 512] {
        file.write_all_at(&[0xff; 16], header + 40).unwrap();
    }
    drop(file);
    let backup = world.daemon.backup("bad --name bad");
    let folder = world.daemon.mount().join("backups").join(&backup);
    assert_eq!(fs::read_dir(folder.join("partitions")).unwrap().count(), 0);
    assert!(world.daemon.log().contains("partition table"), "{}", world.daemon.log());
    // A disk without a table has no such folder.
    fs::write(world.volume("plain.raw"), [7; 100_000]).unwrap();
    let backup = world.daemon.backup("plain --name plain");
    assert!(!world.daemon.mount().join("backups").join(&backup).join("partitions").exists());
}

#[test]
fn who_may_read_the_backup_reads_every_file_in_it_and_root_sees_the_modes_as_they_are() {
    let world = World::new();
    for (number, kind) in [(1, "ext4"), (2, "xfs")] {
        let files = format!("backups/{}/partitions/{number}.files", world.backup);
        let read = format!(
            "cd {files} && cat etc/motd etc/shadow && ls home && grep -r secret etc && tar cf /dev/null etc"
        );
        // The kernel hears of it from root first, and from the tenant between.
        let modes = format!("stat -c '%a %u %n' {files}/etc/shadow {files}/home {files}/suid");
        let of_root = succeeds(world.as_user(0, &modes));
        let seen = succeeds(world.as_user(TENANT, &read));
        assert!(seen.starts_with(&format!("root of {kind}\nsecret\n")), "{seen}");
        let of_tenant = succeeds(world.as_user(TENANT, &modes));
        assert_eq!(
            succeeds(world.as_user(0, &modes)),
            of_root,
            "what a tenant has seen changes nothing for root"
        );
        assert!(of_root.starts_with("600 0 ") && of_root.contains("\n4755 0 "), "{of_root}");
        assert!(of_tenant.starts_with("644 0 "), "{of_tenant}");
        for (user, script) in [
            (5555, read.clone()),
            (TENANT, format!("echo x > {files}/etc/motd")),
            (0, format!("rm {files}/etc/motd")),
        ] {
            assert!(!world.as_user(user, &script).status.success(), "{user}: {script}");
        }
        assert!(!world.as_user(0, &format!("cat {files}/null")).status.success(), "a device is not opened");
        // The set-user-id bit is shown and means nothing.
        let run = format!("{files}/suid -d . && findmnt -no OPTIONS -T {files}");
        assert!(succeeds(world.as_user(0, &run)).contains("nosuid"));
    }
}

#[test]
fn files_are_listed_written_and_copied_by_the_command_line() {
    let world = World::new();
    assert_eq!(
        world.cli(&["files", "cat", "monday:2:/etc/motd", "monday:1:motd"]),
        "root of xfs\nroot of ext4\n"
    );
    let listed = world.cli(&["files", "ls", "monday:2:/etc"]);
    assert_eq!(listed, "motd\nshadow\n");
    let target = world.folder.path().join("copied");
    fs::create_dir(&target).unwrap();
    world.cli(&["files", "cp", "monday:2:/etc", "monday:2:/motd", target.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(target.join("etc/shadow")).unwrap(), "secret\n");
    assert_eq!(fs::metadata(target.join("etc/shadow")).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(fs::read_link(target.join("motd")).unwrap(), Path::new("/etc/motd"));
    let refused = world.daemon.cli(&["files", "ls", "monday:/etc"]);
    assert_eq!(refused.status.code(), Some(1));
    let sentence = String::from_utf8(refused.stderr).unwrap();
    assert!(sentence.contains("partitions 1, 2"), "{sentence}");
}

#[test]
fn two_copies_of_one_guest_are_mounted_at_once_and_leave_nothing() {
    let world = World::new();
    let script = r#"
        set -eu
        export AMBERFS_MOUNT=$1; shift
        one=$2/one; two=$2/two; mkdir "$one" "$two"; amberfs=$1
        trap 'umount "$one" "$two" 2>/dev/null || true' EXIT
        "$amberfs" files mount monday --partition 2 "$one"; "$amberfs" files mount monday --partition 2 "$two"
        cat "$one/etc/motd" "$two/etc/motd"; ls "$AMBERFS_MOUNT/scratch"
        ! touch "$one/new" 2>/dev/null
        "$amberfs" files umount "$one"; umount "$two"
    "#;
    let arguments =
        [world.daemon.mount(), PathBuf::from(env!("CARGO_BIN_EXE_amberfs")), world.folder.path().to_owned()];
    let seen = succeeds(sh(script, &arguments.each_ref().map(PathBuf::as_path)));
    assert_eq!(seen, "root of xfs\nroot of xfs\n");
    // They go when the kernel gets to it after an unmount that is not ours; others on this machine have theirs.
    let ours = world.daemon.mount();
    until("the end of the loop devices", || {
        let loops = Command::new("losetup").args(["-nO", "BACK-FILE"]).output().unwrap().stdout;
        (!String::from_utf8(loops).unwrap().contains(ours.to_str().unwrap())).then_some(())
    });
    // Nothing is over the backup any more.
    let job = world.daemon.accepted("delete", "monday\n", "job");
    world.daemon.done(&job);
}

#[test]
fn an_xfs_gets_another_uuid_in_a_scratch_image_a_volume_and_a_file() {
    let world = World::new();
    let old = world.uuids(&world.volume("disk.raw"));
    let all = |uuid: &str| vec![uuid.to_owned(); 4];
    assert_eq!(old, all(&old[0]));
    world.daemon.accepted("scratch", "monday --name try\n", "scratch");
    let scratch = world.daemon.mount().join("scratch/try");
    let planned = world.daemon.accepted("xfs-uuid", "scratch/try --dry-run\n", "old_uuid");
    assert_eq!(planned, old[0]);
    assert_eq!(world.uuids(&scratch), old, "a dry run changes nothing");
    let new = world.daemon.accepted("xfs-uuid", "scratch/try\n", "new_uuid");
    assert_eq!(world.uuids(&scratch), all(&new));
    // In a volume, chosen; and back again.
    world.daemon.restore("monday --name other");
    let chosen = "11111111-2222-4333-8444-555555555555";
    let said = world.cli(&["xfs-uuid", "local/other", "--uuid", chosen, "--partition", "2"]);
    assert_eq!(said, format!("partition 2: {} is now {chosen}\n", old[0]));
    assert_eq!(world.uuids(&world.volume("other.raw")), all(chosen));
    world.cli(&["xfs-uuid", "local/other", "--uuid", &old[0]]);
    assert!(fs::read(world.volume("other.raw")).unwrap() == fs::read(world.volume("disk.raw")).unwrap());
    // In a file, without the daemon.
    let file = world.volume("other.raw");
    world.cli(&["xfs-uuid", file.to_str().unwrap()]);
    assert_ne!(world.uuids(&file), old);
    assert_eq!(world.uuids(&world.daemon.image(&world.backup)), old, "the backup is as it was");
}

#[test]
fn what_cannot_get_another_uuid_is_refused_and_stays_as_it_is() {
    let world = World::new();
    let before = fs::read(world.volume("disk.raw")).unwrap();
    let refused = |line: &str, errno, name: &str| world.daemon.refused("xfs-uuid", line, errno, name);
    let sentence = refused("local/disk --partition 1\n", Errno::INVAL, "InvalidInput");
    assert!(sentence.contains("ext4") && sentence.contains("nothing was changed"), "{sentence}");
    refused("local/disk --partition 7\n", Errno::INVAL, "InvalidInput");
    refused("local/disk --uuid nonsense\n", Errno::INVAL, "InvalidInput");
    refused("scratch/none\n", Errno::NOENT, "ScratchNotFound");
    refused("/nowhere/disk.raw\n", Errno::NOENT, "VolumeNotFound");
    // In use: as a loop device, and as a scratch image that is open for writing.
    let script = r#"
        device=$(losetup --find --show "$2"); trap 'losetup -d "$device"' EXIT
        for target in "$2" local/disk; do "$1" xfs-uuid "$target" && exit 1; done; exit 0
    "#;
    let mut command = Command::new("bash");
    command.args(["-c", script, "bash", env!("CARGO_BIN_EXE_amberfs")]).arg(world.volume("disk.raw"));
    let output = command.env("AMBERFS_MOUNT", world.daemon.mount()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(errors.matches("VolumeInUse").count(), 2, "{errors}");
    world.daemon.accepted("scratch", "monday --name try\n", "scratch");
    let open = OpenOptions::new().write(true).open(world.daemon.mount().join("scratch/try")).unwrap();
    refused("scratch/try\n", Errno::BUSY, "InvalidState");
    drop(open);
    assert!(fs::read(world.volume("disk.raw")).unwrap() == before);
}

#[test]
fn a_restore_with_new_uuids_mounts_beside_its_original_and_is_otherwise_the_same() {
    let world = World::new();
    let said = world.daemon.say("restore", "monday --name twin --new-xfs-uuid\n");
    let value = |key: &str| {
        let pair = said.answer.split_whitespace().find_map(|pair| pair.strip_prefix(key));
        pair.unwrap_or_else(|| panic!("no {key} in {:?}", said.answer)).to_owned()
    };
    world.daemon.done(&value("job="));
    let new = value("xfs_uuid.2=");
    assert_eq!(world.uuids(&world.volume("twin.raw")), vec![new; 4]);
    let (disk, twin) = (world.volume("disk.raw"), world.volume("twin.raw"));
    let outside = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        [bytes[..XFS.0 as usize].to_vec(), bytes[(XFS.0 + XFS.1) as usize..].to_vec()]
    };
    assert!(outside(&disk) == outside(&twin), "only the XFS differs");
    let script = r#"
        set -eu
        one=$3/one; two=$3/two; mkdir "$one" "$two"
        trap 'umount "$one" "$two" 2>/dev/null || true' EXIT
        mount -o loop,offset=68157440,sizelimit=335544320 "$1" "$one"
        mount -o loop,offset=68157440,sizelimit=335544320 "$2" "$two"
        diff -r --no-dereference -x null "$one" "$two"
    "#;
    succeeds(sh(script, &[&disk, &twin, world.folder.path()]));
    // Over an existing volume too, and refused where there is no XFS.
    world.daemon.restore("monday --to local/twin --force --new-xfs-uuid");
    fs::write(world.volume("plain.raw"), [7; 100_000]).unwrap();
    world.daemon.backup("plain --name plain");
    world.daemon.refused("restore", "plain --new-xfs-uuid\n", Errno::INVAL, "InvalidInput");
}

#[test]
fn a_scratch_image_is_restored_as_it_now_is() {
    let world = World::new();
    world.daemon.accepted("scratch", "monday --name try\n", "scratch");
    let scratch = world.daemon.mount().join("scratch/try");
    let partition = world.daemon.mount().join("scratch/try.partitions/1");
    let script = r#"
        set -eu
        device=$(losetup --find --show --direct-io=on "$1"); trap 'umount "$2" || true; losetup -d "$device"' EXIT
        mkdir "$2"; mount "$device" "$2"; echo repaired > "$2/etc/motd"; sync -f "$2"
    "#;
    succeeds(sh(script, &[&partition, &world.folder.path().join("repair")]));
    let open = OpenOptions::new().write(true).open(&scratch).unwrap();
    let sentence =
        world.daemon.refused("restore", "--from-scratch try --name fixed\n", Errno::BUSY, "InvalidState");
    assert!(sentence.contains("open for writing"), "{sentence}");
    drop(open);
    world.daemon.restore("--from-scratch try --name fixed");
    assert!(fs::read(world.volume("fixed.raw")).unwrap() == fs::read(&scratch).unwrap());
    assert!(fs::read(world.volume("fixed.raw")).unwrap() != fs::read(world.volume("disk.raw")).unwrap());
    // With both at once; the scratch image itself stays as it is.
    let before = world.uuids(&scratch);
    world.daemon.restore("--from-scratch try --name fixed-twin --new-xfs-uuid");
    assert_ne!(world.uuids(&world.volume("fixed-twin.raw")), before);
    assert_eq!(world.uuids(&scratch), before);
    world.daemon.refused("restore", "--from-scratch none\n", Errno::NOENT, "ScratchNotFound");
    world.daemon.refused("restore", "monday --from-scratch try\n", Errno::INVAL, "InvalidInput");
}

#[test]
fn a_restore_of_a_scratch_image_that_a_death_interrupts_goes_on_with_the_same_bytes_and_uuids() {
    let mut world = World::new();
    world.daemon.accepted("scratch", "monday --name try\n", "scratch");
    let scratch = world.daemon.mount().join("scratch/try");
    let file = OpenOptions::new().write(true).open(&scratch).unwrap();
    file.write_all_at(&[7; 100_000], NOTHING.0 + 5).unwrap();
    drop(file);
    let new =
        world.daemon.accepted("restore", "--from-scratch try --name fixed --new-xfs-uuid\n", "xfs_uuid.2");
    world.daemon.kill();
    world.daemon.serve();
    let volume = world.volume("fixed.raw");
    support::daemon::until("the restored volume", || volume.exists().then_some(()));
    assert_eq!(world.uuids(&volume), vec![new; 4]);
    let outside = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        [bytes[..XFS.0 as usize].to_vec(), bytes[(XFS.0 + XFS.1) as usize..].to_vec()]
    };
    assert!(
        outside(&volume) == outside(&scratch),
        "what was written is in it, and the scratch image is still there"
    );
    assert!(outside(&volume) != outside(&world.volume("disk.raw")));
}
