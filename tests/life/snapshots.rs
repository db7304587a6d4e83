//! 4: backups of snapshots that users made. Directories have none.

use rustix::io::Errno;
use serde_json::json;

use crate::world::{MIB, World, changed, with_hole};

/// `--snapshot S` backs up a snapshot of this volume, as `S` or `VOLUME@S`: `snapshot_id` is `VOLUME@S`,
/// `data_timestamp` the time at which it was made, and the content is of that time, whatever the volume holds now. The
/// snapshot is somebody else's: it is never removed, not by a delete either.
#[test]
fn a_snapshot_is_backed_up_as_it_is_and_left_alone() {
    let world = World::images("");
    let then = with_hole(1, 4 * MIB);
    world.fill("v", &then);
    world.client(json!({"op": "snapshot", "name": world.name("v"), "snapshot": "mine"}));
    world.client(json!({"op": "close", "name": world.name("v")}));
    world.fill("v", &changed(&then, 2));
    let held = world.hold_open("v");
    let id = world.backup("v", "--snapshot mine --name of-mine");
    let again = world.backup("v", &format!("--snapshot {}@mine", world.name("v")));
    drop(held);
    for id in [&id, &again] {
        assert!(world.image(id) == then);
        let info = world.daemon.info(id);
        assert_eq!(info["snapshot_id"], format!("{}@mine", world.name("v")));
        assert!(info["data_timestamp"].as_str() < info["created_at"].as_str(), "{info}");
    }
    assert_eq!(world.daemon.info(&id)["data_timestamp"], world.daemon.info(&again)["data_timestamp"]);
    world.delete(&[&id, &again]);
    assert_eq!(world.snapshots("v"), ["mine"]);
}

/// A snapshot of another volume is `InvalidSnapshot`; one that is not there `SnapshotNotFound`.
#[test]
fn a_snapshot_of_another_volume_is_refused() {
    let world = World::images("");
    for name in ["v", "other"] {
        world.fill(name, &with_hole(3, MIB));
    }
    world.client(json!({"op": "snapshot", "name": world.name("other"), "snapshot": "theirs"}));
    let volume = world.volume("v");
    let line = format!("{volume} --snapshot theirs\n");
    world.daemon.refused("backup", &line, Errno::NOENT, "SnapshotNotFound");
    let line = format!("{volume} --snapshot {}@theirs\n", world.name("other"));
    world.daemon.refused("backup", &line, Errno::INVAL, "InvalidSnapshot");
}

/// An incremental backup of a snapshot leans on the latest backup whose data is older than the snapshot, not on the
/// latest one there is.
#[test]
fn the_parent_of_a_snapshot_is_older_than_the_snapshot() {
    let world = World::images("");
    let states: Vec<_> = (0..3).map(|day| changed(&with_hole(4, 4 * MIB), day)).collect();
    world.fill("v", &states[0]);
    let first = world.backup("v", "");
    world.fill("v", &states[1]);
    world.client(json!({"op": "snapshot", "name": world.name("v"), "snapshot": "between"}));
    world.client(json!({"op": "close", "name": world.name("v")}));
    world.fill("v", &states[2]);
    let latest = world.backup("v", "--incremental");
    let between = world.backup("v", "--incremental --snapshot between");
    assert_eq!(world.daemon.info(&between)["parent_id"], first.as_str());
    assert_eq!(world.daemon.info(&latest)["parent_id"], first.as_str());
    assert!(world.image(&between) == states[1] && world.image(&latest) == states[2]);
    // The latest one by its data is still the parent of what comes.
    let next = world.backup("v", "--incremental");
    assert_eq!(world.daemon.info(&next)["parent_id"], latest.as_str());
    assert!(world.image(&next) == states[2]);
    assert_eq!(world.own_snapshots("v").len(), 1);
}

/// A volume that was removed and made again under its name is another volume: its first incremental is a full backup, and
/// deleting a backup of the old one does not touch the snapshots on the new one.
#[test]
fn a_volume_made_again_under_its_name_is_another_volume() {
    let world = World::images("");
    let old = with_hole(6, 2 * MIB);
    world.fill("v", &old);
    let of_old = world.backup("v", "");
    world.cluster().rbd(&["snap", "purge", "--no-progress", &world.name("v")]);
    world.client(json!({"op": "close", "name": world.name("v")}));
    world.cluster().rbd(&["rm", "--no-progress", &world.name("v")]);
    let new = with_hole(7, 3 * MIB);
    world.fill("v", &new);
    let first = world.backup("v", "--incremental");
    assert_eq!(world.daemon.info(&first)["is_incremental"], false);
    let base = world.own_snapshots("v");
    assert_eq!(base.len(), 1);
    world.delete(&[&of_old]);
    assert_eq!(world.own_snapshots("v"), base);
    let mut world = world;
    world.daemon.stop();
    world.daemon.serve();
    let next = world.backup("v", "--incremental");
    assert_eq!(world.daemon.info(&next)["parent_id"], first.as_str());
    assert!(world.image(&next) == new && world.image(&first) == new);
}
