//! A cluster that is away, keeps us out, or stops in the middle: every call ends in time with a sentence that says
//! what to look at, and the source works again when the cluster does.

#![cfg(feature = "rbd")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a failed expectation is a failed test"
)]

mod support;

use std::fs;
use std::time::{Duration, Instant};

use amberfs::source::rbd::{RbdOptions, RbdSource};
use amberfs::source::{InUse, Source, SourceError};
use amberfs::types::{ByteRange, MIB, VolumeMetadata, VolumeName};
use support::ceph::{BACKUP_USER, CephCluster, RESTORE_USER};

const LIMIT: Duration = Duration::from_secs(2);

/// Returns the sentence of an `Unavailable` that came in time: one limit for the request, and some for cleaning up.
fn unavailable<T>(doing: &str, call: impl FnOnce() -> Result<T, SourceError>) -> String {
    let started = Instant::now();
    let Err(error) = call() else { panic!("{doing} succeeded") };
    let elapsed = started.elapsed();
    assert!(elapsed < LIMIT * 5, "{doing} took {elapsed:?}");
    assert!(matches!(error, SourceError::Unavailable { .. }), "{doing}: {error:?}");
    error.to_string()
}

fn options(cluster: &CephCluster) -> RbdOptions {
    RbdOptions { timeout: LIMIT, ..cluster.options(BACKUP_USER) }
}

#[test]
fn whoever_cannot_connect_is_told_what_to_do() {
    let cluster = CephCluster::shared();
    let folder = tempfile::tempdir().unwrap();
    let conf = fs::read_to_string(cluster.conf()).unwrap();
    let with_conf = |name: &str, text: String| {
        let path = folder.path().join(name);
        fs::File::create(&path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
            .unwrap();
        RbdOptions { conf: path, ..options(cluster) }
    };
    let says = |options: RbdOptions, words: &[&str]| {
        let conf = options.conf.display().to_string();
        let source = RbdSource::new(options);
        let sentence = unavailable(words[0], || source.list());
        for word in words.iter().chain([&conf.as_str()]) {
            assert!(sentence.contains(word), "{word:?} is not in: {sentence}");
        }
    };
    // Nobody listens there.
    let away: String = conf
        .lines()
        .map(|line| {
            if line.starts_with("mon_host") {
                "mon_host = [v2:127.0.0.1:9]\n".into()
            } else {
                format!("{line}\n")
            }
        })
        .collect();
    says(with_conf("away.conf", away), &["no monitor", "client.amberfs-backup", "mon_host"]);
    says(RbdOptions { pool: "none".into(), ..options(cluster) }, &["no pool \"none\""]);
    says(RbdOptions { namespace: "none".into(), ..options(cluster) }, &["no namespace \"none\"", "\"rbd\""]);
    says(RbdOptions { conf: "/nonexistent/ceph.conf".into(), ..options(cluster) }, &["cannot be read"]);
    says(
        RbdOptions { user: "nobody".into(), ..options(cluster) },
        &["refuses client.nobody", "ceph auth get client.nobody"],
    );
    let keyring = folder.path().join("wrong.keyring");
    let wrong = "[client.amberfs-backup]\n\tkey = AQAAAAAAAAAAABAAAAAAAAAAAAAAAAAAAAAAAA==\n";
    fs::File::create(&keyring)
        .and_then(|mut file| std::io::Write::write_all(&mut file, wrong.as_bytes()))
        .unwrap();
    let conf_with = |keyring: &str| format!("{conf}\n[client.amberfs-backup]\nkeyring = {keyring}\n");
    says(with_conf("wrong.conf", conf_with(keyring.to_str().unwrap())), &["refuses client.amberfs-backup"]);
    says(
        with_conf("keyless.conf", conf_with("/nonexistent/keyring")),
        &["refuses client.amberfs-backup", "keyring"],
    );
    // None of the copies of the configuration is left.
    let source = RbdSource::new(RbdOptions { user: "client.amberfs-backup".into(), ..options(cluster) });
    source.list().unwrap();
}

#[test]
fn failed_connections_leave_nothing_behind() {
    let cluster = CephCluster::shared();
    let source = RbdSource::new(RbdOptions { user: "nobody".into(), ..options(cluster) });
    let threads = || fs::read_dir("/proc/self/task").unwrap().count();
    source.list().unwrap_err();
    let before = threads();
    for _ in 0..20 {
        source.list().unwrap_err();
    }
    let after = threads();
    // Other tests of this binary connect meanwhile; twenty leaked connections would be a hundred threads.
    assert!(after < before + 40, "{before} threads became {after}");
}

#[test]
fn a_stopped_osd_ends_every_call_and_a_started_one_mends_all() {
    let cluster = CephCluster::start();
    let name: &VolumeName = &"v".parse().unwrap();
    let mut driver = cluster.driver();
    driver.create("v", 256 * MIB);
    driver.write("v", 0, 64 * MIB, 1);
    driver.snapshot("v", "s");
    let truth = driver.read("v", Some("s"));
    drop(driver);
    let backup = &RbdSource::new(options(&cluster));
    let restore = &RbdSource::new(RbdOptions { user: RESTORE_USER.into(), ..options(&cluster) });
    let snapshot = backup.open_snapshot(name, &"s".parse().unwrap()).unwrap();
    let base = snapshot.info().clone();
    let writer = restore.create_volume(&"w".parse().unwrap(), 64 * MIB, &VolumeMetadata::default()).unwrap();
    writer.write(0, &[7; 4096]).unwrap();

    cluster.stop_osd();
    let mut bytes = vec![0; 64 << 20];
    let sentence = unavailable("read", || snapshot.read(&[ByteRange::new(0, 64 * MIB)], &mut bytes));
    assert!(sentence.contains("ceph -s") && sentence.contains("\"rbd\""), "{sentence}");
    std::thread::scope(|scope| {
        scope.spawn(|| unavailable("list", || backup.list()));
        scope.spawn(|| unavailable("volume", || backup.volume(name)));
        scope.spawn(|| unavailable("allocated", || snapshot.allocated(&mut |_| Ok(()))));
        scope.spawn(|| unavailable("changed_since", || snapshot.changed_since(&base, &mut |_| Ok(()))));
        scope.spawn(|| unavailable("confirm", || snapshot.confirm()));
        let taken = "t".parse().unwrap();
        scope.spawn(move || {
            unavailable("create_snapshot", || backup.create_snapshot(name, &taken, InUse::Accept))
        });
        let created = "x".parse().unwrap();
        let metadata = VolumeMetadata::default();
        scope.spawn(move || unavailable("create_volume", || restore.create_volume(&created, 1, &metadata)));
        scope.spawn(|| unavailable("remove_volume", || restore.remove_volume(name)));
        scope.spawn(|| {
            unavailable("write", || writer.write(0, &[8; 4096]).and_then(|()| writer.flush()));
            unavailable("zero", || writer.zero(ByteRange::new(0, 8 * MIB)).and_then(|()| writer.flush()));
            unavailable("set_mark", || writer.set_mark("k", Some("v")));
        });
    });

    // A pause shorter than the limit is only a pause.
    let patient = RbdSource::new(RbdOptions { timeout: Duration::from_secs(60), ..options(&cluster) });
    let reader = std::thread::spawn(move || {
        let snapshot = patient.open_snapshot(&"v".parse().unwrap(), &"s".parse().unwrap())?;
        let mut bytes = vec![0; 64 << 20];
        snapshot.read(&[ByteRange::new(0, 64 * MIB)], &mut bytes)?;
        Ok::<_, SourceError>(bytes)
    });
    cluster.start_osd();
    assert!(reader.join().unwrap().unwrap() == truth[..64 << 20]);
    snapshot.read(&[ByteRange::new(0, 64 * MIB)], &mut bytes).unwrap();
    assert!(bytes == truth[..64 << 20]);
    assert_eq!(backup.snapshots(name).unwrap(), [base]);
    assert!(backup.list().unwrap().contains(name));
    writer.write(0, &[9; 4096]).unwrap();
    writer.flush().unwrap();
    drop(writer);
    assert!(cluster.export("w")[..4096] == [9; 4096]);
}

#[test]
fn a_client_that_was_shut_out_comes_back() {
    let cluster = CephCluster::start();
    let mut driver = cluster.driver();
    driver.create("v", MIB);
    let restore = RbdSource::new(RbdOptions { user: RESTORE_USER.into(), ..options(&cluster) });
    let name: VolumeName = "v".parse().unwrap();
    driver.run(serde_json::json!({"op": "close", "name": "v"}));
    let writer = restore.open_volume(&name).unwrap();
    let status = cluster.rbd_json(&["status", "v"]);
    let address = status["watchers"][0]["address"].as_str().unwrap();
    cluster.ceph(&["osd", "blocklist", "add", address]);
    let sentence = unavailable("write", || writer.write(0, &[1; 4096]).and_then(|()| writer.flush()));
    assert!(sentence.contains("blocklist"), "{sentence}");
    drop(writer);
    assert_eq!(restore.list().unwrap(), [name]);
}
