//! RBD: what a new volume is like, and restores that a killed daemon left.

use serde_json::{Value, json};

use crate::support::ceph::{CephCluster, DATA_POOL, POOL, RESTORE_USER};
use crate::support::daemon::{Daemon, until};

const MIB: u64 = 1 << 20;

fn section(cluster: &CephCluster) -> String {
    format!(
        "[source.rbd]\ntype = \"rbd\"\nconf = \"{}\"\nuser = \"{RESTORE_USER}\"\npool = \"{POOL}\"\ntimeout_seconds = 30\n",
        cluster.conf().display()
    )
}

fn info(cluster: &CephCluster, image: &str) -> Value {
    cluster.rbd_json(&["info", image])
}

fn features(info: &Value) -> Vec<&str> {
    info["features"].as_array().unwrap().iter().map(|feature| feature.as_str().unwrap()).collect()
}

/// Restored RBD volumes have the features, object size, striping and image-meta of the source volume unless `--type` says
/// otherwise. A backup of a file gets the pool's defaults.
#[test]
fn a_new_volume_is_like_the_one_that_was_backed_up_unless_its_type_says_otherwise() {
    let cluster = CephCluster::shared();
    let types = format!(
        "[volume_type.fast]\nsource = \"rbd\"\ndata_pool = \"{DATA_POOL}\"\nobject_size = \"1MiB\"\nfeatures = [\"layering\", \"exclusive-lock\"]\n[volume_type.plain]\ndata_pool = \"\"\n"
    );
    let daemon = Daemon::start(&(section(cluster) + &types));
    let mut driver = cluster.driver();
    driver.run(json!({"op": "create", "name": "typed", "size": 10 * MIB + 512, "features": 61, "order": 23,
        "stripe_unit": 65536, "stripe_count": 4, "data_pool": DATA_POOL}));
    driver.write("typed", 0, 5 * MIB, 1);
    driver.write("typed", 10 * MIB, 512, 2);
    driver.run(json!({"op": "close", "name": "typed"}));
    cluster.rbd(&["image-meta", "set", "typed", "owner", "somebody"]);
    cluster.rbd(&["image-meta", "set", "typed", "encryption_key_id", "key-1"]);
    let bytes = driver.read("typed", None);
    let source = info(cluster, "typed");
    let id = daemon.backup("rbd/typed");
    let meta = json!({"owner": "somebody", "encryption_key_id": "key-1"});

    daemon.restore(&format!("{id} --name like"));
    let like = info(cluster, "like");
    for field in ["size", "object_size", "order", "data_pool", "stripe_unit", "stripe_count"] {
        assert_eq!(like[field], source[field], "{field}: {like}");
    }
    assert_eq!((&source["stripe_count"], features(&like)), (&json!(4), features(&source)));
    assert_eq!(cluster.rbd_json(&["image-meta", "list", "like"]), meta);
    assert!(cluster.export("like") == bytes);

    daemon.restore(&format!("{id} --name fast --type fast --size 20MiB"));
    let fast = info(cluster, "fast");
    assert_eq!((&fast["object_size"], &fast["data_pool"]), (&json!(MIB), &json!(DATA_POOL)));
    assert_eq!(features(&fast), ["layering", "exclusive-lock", "data-pool"]);
    assert_eq!(fast["size"], 20 * MIB);
    assert_eq!(cluster.rbd_json(&["image-meta", "list", "fast"]), meta);
    let mut larger = bytes.clone();
    larger.resize(20 << 20, 0);
    assert!(cluster.export("fast") == larger);

    daemon.restore(&format!("{id} --name plain --type plain"));
    let plain = info(cluster, "plain");
    assert_eq!((plain.get("data_pool"), &plain["object_size"]), (None, &source["object_size"]));
    assert!(cluster.export("plain") == bytes);
}

/// A daemon whose restore of 320 MiB was killed in the middle.
fn killed(name: &str, line: impl Fn(&str) -> String) -> (&'static CephCluster, Daemon, String, Vec<u8>) {
    let cluster = CephCluster::shared();
    let mut daemon = Daemon::start(&section(cluster));
    let mut driver = cluster.driver();
    driver.create(name, 320 * MIB);
    for chunk in 0..80 {
        driver.write(name, chunk << 22, 1 << 22, chunk + 1);
    }
    driver.run(json!({"op": "close", "name": name}));
    let bytes = driver.read(name, None);
    let id = daemon.backup(&format!("rbd/{name}"));
    let over = format!("{name}-over");
    driver.create(&over, 321 * MIB);
    driver.write(&over, 0, 1 << 22, 1000);
    driver.run(json!({"op": "close", "name": over}));
    let job = daemon.accepted("restore", &line(&id), "job");
    until("some progress", || (daemon.job(&job)["bytes_done"].as_u64().unwrap() > 40 * MIB).then_some(()));
    assert_eq!(daemon.job(&job)["state"], "running");
    daemon.kill();
    (cluster, daemon, id, bytes)
}

fn names(cluster: &CephCluster) -> Vec<String> {
    serde_json::from_value(cluster.rbd_json(&["ls"])).unwrap()
}

fn until_available(daemon: &Daemon, id: &str) {
    until("the end of the restore", || (daemon.info(id)["status"] == "available").then_some(()));
    assert_eq!(daemon.job("1")["state"], "done", "{}", daemon.log());
}

#[test]
fn a_killed_daemon_fills_on_the_very_volume_that_it_had_begun() {
    let (cluster, mut daemon, id, bytes) = killed("killed", |id| format!("{id} --name killed-new\n"));
    let temporary = format!("restore_backup_{id}");
    let begun = info(cluster, &temporary)["id"].clone();
    assert!(!names(cluster).iter().any(|name| name == "killed-new"));
    daemon.serve();
    assert_eq!(daemon.info(&id)["status"], "restoring");
    let line = format!("{id}\n");
    daemon.refused("restore", &line, rustix::io::Errno::BUSY, "InvalidState");
    until_available(&daemon, &id);
    assert_eq!(info(cluster, "killed-new")["id"], begun);
    assert!(cluster.export("killed-new") == bytes);
    assert!(!names(cluster).contains(&temporary));
}

#[test]
fn a_killed_daemon_goes_on_over_an_existing_volume_and_takes_the_mark_away_at_the_end() {
    let (cluster, mut daemon, id, bytes) =
        killed("killed2", |id| format!("{id} --to rbd/killed2-over --force\n"));
    let is_marked = || {
        let listed = cluster.rbd(&["image-meta", "list", "killed2-over"]);
        String::from_utf8(listed)
            .unwrap()
            .lines()
            .any(|line| line.split_whitespace().eq(["amberfs.restore", "incomplete"]))
    };
    assert!(is_marked());
    daemon.serve();
    until_available(&daemon, &id);
    assert!(!is_marked());
    let mut expected = bytes;
    expected.resize(321 << 20, 0);
    assert!(cluster.export("killed2-over") == expected);
}

#[test]
fn a_restore_that_was_killed_and_then_cancelled_leaves_no_volume() {
    let (cluster, mut daemon, id, _) = killed("killed3", |id| format!("{id} --name killed3-new\n"));
    daemon.serve();
    // The restore's, after the backup's.
    daemon.accepted("cancel", "2\n", "job");
    assert_eq!(daemon.ended("2")["state"], "cancelled");
    until("the end of the restore", || (daemon.info(&id)["status"] == "available").then_some(()));
    let left: Vec<_> = names(cluster)
        .into_iter()
        .filter(|name| name.starts_with("killed3-new") || *name == format!("restore_backup_{id}"))
        .collect();
    assert_eq!(left, [] as [&str; 0]);
}
