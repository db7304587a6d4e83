//! RBD through the mount, where it is odd or broken: names, sizes, a huge image, restores from and to directories, and
//! clusters that do not answer.

#![cfg(feature = "rbd")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a failed expectation is a failed test"
)]

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::io::Errno;
use serde_json::json;
use support::ceph::{CephCluster, POOL, RESTORE_USER};
use support::daemon::{Daemon, until};

fn rbd_section(name: &str, conf: &Path, user: &str, pool: &str, timeout_seconds: u64) -> String {
    format!(
        "[source.{name}]\ntype = \"rbd\"\nconf = \"{}\"\nuser = \"{user}\"\npool = \"{pool}\"\ntimeout_seconds = {timeout_seconds}\n",
        conf.display()
    )
}

fn quoted(text: &str) -> String {
    shlex::try_quote(text).unwrap().into_owned()
}

#[test]
fn volumes_of_any_name_and_size_are_backed_up_and_restored() {
    let cluster = CephCluster::shared();
    let daemon = Daemon::start(&rbd_section("rbd", &cluster.conf(), RESTORE_USER, POOL, 30));
    let mut driver = cluster.driver();
    // librbd's own object for an image's name takes some of the 255 bytes that a name may have here.
    let long = "n".repeat(200);
    let names =
        ["with space", "it's \"quoted\"", "\u{fc}n\u{ef}c\u{f6}de \u{1f600}", ".dot", "-dash", "%41", &long];
    let sizes = [0_u64, 1, 511, 513, 4096, 1_000_003, 3 << 20];
    for (name, size) in names.iter().zip(sizes) {
        driver.create(name, size);
        driver.write(name, 0, size.min(5000), 3);
        driver.run(json!({"op": "close", "name": name}));
        let bytes = driver.read(name, None);
        let id = daemon.backup(&quoted(&format!("rbd/{name}")));
        assert!(fs::read(daemon.image(&id)).unwrap() == bytes, "{name:?}");
        assert_eq!(fs::metadata(daemon.image(&id)).unwrap().len(), size);
        driver.write(name, size / 2, size.min(10), 4);
        driver.run(json!({"op": "close", "name": name}));
        let changed = driver.read(name, None);
        let second = daemon.backup(&format!("--incremental {}", quoted(&format!("rbd/{name}"))));
        assert!(fs::read(daemon.image(&second)).unwrap() == changed, "{name:?}");
        daemon.restore(&format!("{id} --to {} --force", quoted(&format!("rbd/{name}"))));
        assert!(driver.read(name, None) == bytes, "{name:?}");
    }
    let listed = fs::read_dir(daemon.mount().join("volumes/rbd")).unwrap().count();
    assert!(listed >= names.len());
}

#[test]
fn a_directory_backup_is_restored_to_rbd_and_the_other_way_round() {
    let cluster = CephCluster::shared();
    let volumes = tempfile::tempdir().unwrap();
    let sections = rbd_section("rbd", &cluster.conf(), RESTORE_USER, POOL, 30)
        + &format!("[source.local]\ntype = \"dir\"\npath = \"{}\"\n", volumes.path().display());
    let daemon = Daemon::start(&sections);
    let file = File::create(volumes.path().join("from-file.raw")).unwrap();
    file.set_len(20_000_001).unwrap();
    file.write_all_at(&[7; 100_000], 5_000_000).unwrap();
    drop(file);
    let id = daemon.backup("local/from-file");
    daemon.restore(&format!("{id} --source rbd"));
    let bytes = fs::read(volumes.path().join("from-file.raw")).unwrap();
    assert!(cluster.export("from-file") == bytes);

    let id = daemon.backup("rbd/from-file --name back");
    daemon.restore(&format!("{id} --source local --name from-rbd"));
    assert!(fs::read(volumes.path().join("from-rbd.raw")).unwrap() == bytes);
    let allocated =
        std::os::unix::fs::MetadataExt::blocks(&fs::metadata(volumes.path().join("from-rbd.raw")).unwrap());
    assert!(allocated * 512 < 1 << 20, "the restored file is not sparse");
    // The name is free in neither source now: the second restore takes another one.
    daemon.restore(&id);
    let names = cluster.rbd_json(&["ls"]);
    assert!(
        names.as_array().unwrap().iter().any(|name| name.as_str().unwrap().starts_with("from-file-2")),
        "{names}"
    );
    // A name that two sources have is ambiguous, and both are named.
    let sentence = daemon.refused("backup", "from-file\n", Errno::INVAL, "AmbiguousName");
    assert!(sentence.contains("rbd/from-file") && sentence.contains("local/from-file"), "{sentence}");
}

#[test]
fn four_tebibytes_with_a_few_written_spots_cost_what_was_written() {
    let cluster = CephCluster::shared();
    let sections = "[repository]\ncache = \"64MiB\"\n[limits]\nmemory = \"64MiB\"\n".to_owned()
        + &rbd_section("rbd", &cluster.conf(), RESTORE_USER, POOL, 60);
    let daemon = Daemon::start(&sections);
    let mut driver = cluster.driver();
    let size = 4_u64 << 40;
    driver.create("huge", size);
    let spots = [0, 1 << 30, (1 << 40) + 12_345, (3 << 40) + 777, size - 4096];
    for (seed, spot) in (1..).zip(spots) {
        driver.write("huge", spot, 4096, seed);
    }
    driver.run(json!({"op": "close", "name": "huge"}));
    let full = daemon.backup("rbd/huge");
    driver.write("huge", (2 << 40) + 99, 5000, 9);
    driver.run(json!({"op": "close", "name": "huge"}));
    let incremental = daemon.backup("rbd/huge --incremental");
    let info = daemon.info(&incremental);
    assert_eq!(info["is_incremental"], true);
    // 5,000 bytes that do not compress, a manifest, a footer.
    assert!(info["stored_bytes"].as_u64().unwrap() < 10_000, "{info}");
    let changed = {
        let image = File::open(daemon.image(&incremental)).unwrap();
        let mut bytes = vec![0; 5000];
        image.read_exact_at(&mut bytes, (2 << 40) + 99).unwrap();
        bytes
    };
    assert!(changed.iter().any(|byte| *byte != 0));
    let image = File::open(daemon.image(&full)).unwrap();
    assert_eq!(image.metadata().unwrap().len(), size);
    let mut spots_found = 0;
    let mut from = 0;
    while let Ok(data) = rustix::fs::seek(&image, rustix::fs::SeekFrom::Data(from)) {
        from = rustix::fs::seek(&image, rustix::fs::SeekFrom::Hole(data)).unwrap();
        spots_found += 1;
    }
    assert_eq!(spots_found, spots.len());
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kib < (64 + 64 + 150) << 10, "{peak_kib} KiB resident at the peak");
}

#[test]
fn a_cluster_that_does_not_answer_is_an_error_and_hinders_nothing_else() {
    let cluster = CephCluster::shared();
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("volumes")).unwrap();
    File::create(folder.path().join("volumes/v.raw")).unwrap().set_len(1 << 20).unwrap();
    let nowhere = folder.path().join("nowhere.conf");
    std::io::Write::write_all(
        &mut File::create(&nowhere).unwrap(),
        // A port of the discard service: nobody listens.
        b"[global]\nmon_host = [v2:127.0.0.1:9]\nkeyring = /dev/null\nauth_client_required = none\n",
    )
    .unwrap();
    let sections = rbd_section("nowhere", &nowhere, "x", POOL, 3)
        + &rbd_section("nopool", &cluster.conf(), RESTORE_USER, "no-such-pool", 10)
        + &rbd_section("nokey", &cluster.conf(), "no-such-user", POOL, 10)
        + &format!(
            "[source.local]\ntype = \"dir\"\npath = \"{}\"\n",
            folder.path().join("volumes").display()
        );
    let daemon = Daemon::start(&sections);
    for source in ["nowhere", "nopool", "nokey"] {
        let sentence =
            daemon.refused("backup", &format!("{source}/v\n"), Errno::HOSTUNREACH, "SourceUnavailable");
        assert!(sentence.contains(source), "{sentence}");
    }
    assert_eq!(fs::read_dir(daemon.mount().join("backups")).unwrap().count(), 0);
    // The listing shows what answers, and ends.
    assert_eq!(fs::read_dir(daemon.mount().join("volumes/local")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(daemon.mount().join("volumes/nowhere")).unwrap().count(), 0);
    daemon.backup("local/v");
}

#[test]
fn an_osd_that_stops_in_the_middle_of_a_backup_and_comes_back_costs_no_backup() {
    // A cluster of its own: this test breaks it.
    let cluster = CephCluster::start();
    let daemon = Daemon::start(&rbd_section("rbd", &cluster.conf(), RESTORE_USER, POOL, 8));
    let mut driver = cluster.driver();
    driver.create("v", 256 << 20);
    for chunk in 0..64 {
        driver.write("v", chunk << 22, 1 << 22, chunk + 1);
    }
    driver.run(json!({"op": "close", "name": "v"}));
    let bytes = driver.read("v", None);
    let said = daemon.say("backup", "rbd/v --name first\n");
    assert!(said.write.is_ok(), "{}", said.answer);
    let value = |key: &str| {
        said.answer.split_whitespace().find_map(|pair| pair.strip_prefix(key)).unwrap().to_owned()
    };
    let (id, job) = (value("backup="), value("job="));
    until("some progress", || (daemon.job(&job)["bytes_done"].as_u64().unwrap() > 0).then_some(()));
    cluster.stop_osd();
    // It pauses, and after the time limit it fails; it does not hang, and nothing wrong is available.
    let ended = daemon.ended(&job);
    let info = daemon.info(&id);
    match ended["state"].as_str().unwrap() {
        "done" => assert_eq!(info["status"], "available"),
        "failed" => {
            assert_eq!(info["status"], "error");
            assert!(info["fail_reason"].as_str().unwrap().contains("SourceUnavailable"), "{info}");
            assert!(!daemon.image(&id).exists());
        }
        other => panic!("the job is {other}"),
    }
    cluster.start_osd();
    let id = until("a backup that is accepted", || {
        let said = daemon.say("backup", "rbd/v --force --name second\n");
        said.write.is_ok().then_some(said.answer)
    });
    let job = id.split_whitespace().find_map(|pair| pair.strip_prefix("job=")).unwrap();
    daemon.done(job);
    assert!(fs::read(daemon.mount().join("volumes/rbd/v/second/image")).unwrap() == bytes);
    // The failed backup's snapshot goes too, now that the cluster answers again.
    until("one snapshot", || {
        (cluster.rbd_json(&["snap", "ls", "v"]).as_array().unwrap().len() == 1).then_some(())
    });
}
