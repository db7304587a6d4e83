//! The main job on real data: an XFS with a real file tree on an RBD image of a real cluster, backed up six times
//! through the mount while its files change, and every backup held against `rbd export` of the snapshot of its moment.

#![cfg(feature = "rbd")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a failed expectation is a failed test"
)]

mod support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::io::Errno;
use serde_json::json;
use support::ceph::{BACKUP_USER, CephCluster, POOL, RESTORE_USER};
use support::daemon::{Daemon, until};

/// The smallest XFS that mkfs.xfs makes is 300 MB.
const SIZE: &str = "320M";

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Two sources over one pool, each with just the rights that README gives it.
fn sections(cluster: &CephCluster) -> String {
    let source = |name: &str, user: &str| {
        let conf = cluster.conf();
        format!(
            "[source.{name}]\ntype = \"rbd\"\nconf = \"{}\"\nuser = \"{user}\"\npool = \"{POOL}\"\ntimeout_seconds = 30\n",
            conf.display()
        )
    };
    source("rbd", BACKUP_USER) + &source("restore", RESTORE_USER)
}

/// A mounted image file, unmounted and detached on drop.
struct Mounted {
    device: String,
    mountpoint: PathBuf,
}

impl Mounted {
    fn new(image: &Path, mountpoint: &Path, losetup: &[&str], options: &str) -> Self {
        fs::create_dir_all(mountpoint).unwrap();
        let device = run("losetup", &[losetup, &["-f", "--show", text(image)]].concat()).trim().to_owned();
        let mounted = Self { device, mountpoint: mountpoint.to_owned() };
        run("mount", &["-o", options, &mounted.device, text(mountpoint)]);
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.mountpoint).status();
        let _ = Command::new("losetup").args(["-d", &self.device]).status();
    }
}

/// What a user did on the n-th day.
fn change_files(root: &Path, day: usize) {
    let docs = Path::new("/usr/share/doc");
    if day == 0 {
        for name in ["libc6", "bash", "coreutils", "util-linux", "git"] {
            if docs.join(name).exists() {
                run("cp", &["-rL", text(&docs.join(name)), text(root)]);
            }
        }
        run("cp", &["-L", "/usr/bin/git", text(&root.join("program"))]);
    }
    let noise: Vec<u8> = (0..500_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::create_dir(root.join(format!("day-{day}"))).unwrap();
    let mut file = File::create(root.join(format!("day-{day}/noise"))).unwrap();
    std::io::Write::write_all(&mut file, &noise[day * 1000..]).unwrap();
    file.sync_all().unwrap();
    if day > 1 {
        fs::remove_file(root.join(format!("day-{}/noise", day - 2))).unwrap();
    }
}

fn listing(root: &Path) -> String {
    run("sh", &["-c", &format!("cd '{}' && find . -type f | sort | xargs -d '\\n' sha256sum", text(root))])
}

#[test]
fn an_xfs_is_backed_up_day_by_day_and_every_day_is_read_back() {
    let cluster = CephCluster::shared();
    let daemon = Daemon::start(&sections(cluster));
    let work = daemon.folder().join("work");
    fs::create_dir(&work).unwrap();
    let local = work.join("fs.img");
    run("truncate", &["-s", SIZE, text(&local)]);
    run("mkfs.xfs", &["-q", text(&local)]);
    let mut driver = cluster.driver();
    driver.create("fs1", 320 << 20);

    let mut days: Vec<(String, PathBuf, String)> = Vec::new();
    for day in 0..6 {
        let mounted = Mounted::new(&local, &work.join("live"), &[], "rw");
        change_files(&work.join("live"), day);
        let files = listing(&work.join("live"));
        drop(mounted);
        driver.run(json!({"op": "write_file", "name": "fs1", "path": local}));
        driver.run(json!({"op": "close", "name": "fs1"}));
        let incremental = if day == 0 { "" } else { "--incremental" };
        let id = daemon.backup(&format!("rbd/fs1 {incremental} --name day-{day}"));
        let info = daemon.info(&id);
        assert_eq!(info["is_incremental"], day > 0);
        assert_eq!(info["parent_id"], days.last().map_or(json!(null), |(parent, ..)| json!(parent)));
        // The snapshot of that moment is the base of the next incremental: it is there.
        let snapshots = cluster.rbd_json(&["snap", "ls", "fs1"]);
        assert_eq!(snapshots.as_array().unwrap().len(), 1, "only the newest snapshot stays: {snapshots}");
        let export = work.join(format!("export-{day}"));
        let spec = format!("fs1@{}", snapshots[0]["name"].as_str().unwrap());
        cluster.rbd(&["export", "--no-progress", &spec, text(&export)]);
        days.push((id, export, files));
        for (id, export, _) in &days {
            run("cmp", &[text(&daemon.image(id)), text(export)]);
        }
    }
    // An incremental stores what changed, not the volume.
    let stored = |day: usize| daemon.info(&days[day].0)["stored_bytes"].as_u64().unwrap();
    assert!(stored(3) < stored(0) / 3, "{} of {}", stored(3), stored(0));

    every_tool_reads_them(&daemon, &work, &days);
    the_middle_one_is_restored(&daemon, cluster, &work, &days[3]);
}

fn every_tool_reads_them(daemon: &Daemon, work: &Path, days: &[(String, PathBuf, String)]) {
    let (id, export, _) = &days[4];
    let image = daemon.image(id);
    run(
        "dd",
        &[&format!("if={}", text(&image)), &format!("of={}", text(&work.join("dd"))), "bs=1M", "status=none"],
    );
    run("cmp", &[text(&work.join("dd")), text(export)]);
    run(
        "dd",
        &[
            &format!("if={}", text(&image)),
            &format!("of={}", text(&work.join("direct"))),
            "bs=1M",
            "iflag=direct",
            "status=none",
        ],
    );
    run("cmp", &[text(&work.join("direct")), text(export)]);
    run("cp", &["--sparse=always", text(&image), text(&work.join("cp"))]);
    run("cmp", &[text(&work.join("cp")), text(export)]);
    for (id, _, files) in days {
        let mounted =
            Mounted::new(&daemon.image(id), &work.join("look"), &["-r", "--direct-io=on"], "ro,nouuid");
        assert_eq!(listing(&work.join("look")), *files, "the files of {id} differ");
        drop(mounted);
    }
}

fn the_middle_one_is_restored(
    daemon: &Daemon,
    cluster: &CephCluster,
    work: &Path,
    (id, export, _): &(String, PathBuf, String),
) {
    // The user that may only back up is refused by Ceph, and nothing is left of the try.
    let said = daemon.say("restore", &format!("{id} --name refused\n"));
    if said.write.is_ok() {
        let job =
            said.answer.split_whitespace().find_map(|pair| pair.strip_prefix("job=")).unwrap().to_owned();
        assert_eq!(daemon.ended(&job)["state"], "failed");
    }
    daemon.restore(&format!("{id} --source restore --name fs1-restored"));
    let restored = work.join("restored-new");
    cluster.rbd(&["export", "--no-progress", "fs1-restored", text(&restored)]);
    run("cmp", &[text(&restored), text(export)]);
    let all = cluster.rbd_json(&["ls"]);
    let names: Vec<_> = all.as_array().unwrap().iter().filter_map(|name| name.as_str()).collect();
    assert!(names.contains(&"fs1-restored"));
    assert!(!names.iter().any(|name| *name == "refused" || name.starts_with("restore_backup_")), "{names:?}");

    // As sparse as the backup: whole objects that are holes in the image do not exist.
    let used = cluster.rbd_json(&["du", "fs1-restored"])["images"][0]["used_size"].as_u64().unwrap();
    let objects_with_data = holes_of(&daemon.image(id), 4 << 20);
    assert!(
        used <= objects_with_data * (4 << 20),
        "{used} bytes used, {objects_with_data} objects have data"
    );

    // Over the volume itself, once nobody has it open.
    daemon.refused("restore", &format!("{id} --to restore/fs1\n"), Errno::EXIST, "VolumeExists");
    daemon.restore(&format!("{id} --to restore/fs1 --force"));
    let restored = work.join("restored-over");
    cluster.rbd(&["export", "--no-progress", "fs1", text(&restored)]);
    run("cmp", &[text(&restored), text(export)]);
}

/// Counts the blocks of an image that are not wholly in a hole.
fn holes_of(image: &Path, block: u64) -> u64 {
    let file = File::open(image).unwrap();
    let mut blocks = std::collections::BTreeSet::new();
    let mut from = 0;
    while let Ok(data) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(from)) {
        from = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(data)).unwrap();
        blocks.extend(data / block..=(from - 1) / block);
    }
    blocks.len() as u64
}

#[test]
fn a_volume_that_a_client_writes_to_is_refused_without_force_and_does_not_change_its_backup() {
    let cluster = CephCluster::shared();
    let daemon = Daemon::start(&sections(cluster));
    let mut client = cluster.driver();
    client.create("busy", 64 << 20);
    for chunk in 0..16 {
        client.write("busy", chunk << 22, 1 << 22, chunk + 1);
    }
    client.run(json!({"op": "flush", "name": "busy"}));
    let sentence = daemon.refused("backup", "rbd/busy\n", Errno::BUSY, "VolumeInUse");
    assert!(sentence.contains("busy"), "{sentence}");
    assert_eq!(fs::read_dir(daemon.mount().join("backups")).unwrap().count(), 0, "nothing has been changed");

    let before = client.read("busy", None);
    let job = daemon.accepted("backup", "rbd/busy --force --name snap\n", "job");
    // The client goes on writing while the backup runs.
    for chunk in 0..16 {
        client.write("busy", chunk << 22, 1 << 22, chunk + 100);
    }
    daemon.done(&job);
    let backup = daemon.mount().join("volumes/rbd/busy/snap/image");
    assert!(fs::read(backup).unwrap() == before, "the backup is not of the moment of the command");
}

#[test]
fn a_killed_daemon_resumes_the_backup_it_was_making_and_leaves_no_snapshot_behind() {
    let cluster = CephCluster::shared();
    let mut daemon = Daemon::start(&sections(cluster));
    let mut client = cluster.driver();
    client.create("resumed", 256 << 20);
    for chunk in 0..64 {
        client.write("resumed", chunk << 22, 1 << 22, chunk + 1);
    }
    client.run(json!({"op": "close", "name": "resumed"}));
    let bytes = client.read("resumed", None);
    let id = daemon.accepted("backup", "rbd/resumed --name one\n", "backup");
    daemon.kill();
    // Written after the snapshot: the resumed backup must not see it.
    client.write("resumed", 0, 1 << 22, 999);
    client.run(json!({"op": "close", "name": "resumed"}));
    daemon.serve();
    until("the resumed backup", || {
        let info = daemon.info(&id);
        assert_ne!(info["status"], "error", "{info}");
        (info["status"] == "available").then_some(())
    });
    assert!(fs::read(daemon.image(&id)).unwrap() == bytes, "the resumed backup is not of its moment");
    daemon.backup("rbd/resumed --incremental --name two");
    until("one snapshot", || {
        (cluster.rbd_json(&["snap", "ls", "resumed"]).as_array().unwrap().len() == 1).then_some(())
    });
    daemon.stop();
}
