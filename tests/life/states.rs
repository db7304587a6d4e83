//! 1: the states of a backup.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use crate::support::bytes::pattern;
use crate::support::daemon::until;
use crate::world::{MIB, World, everywhere};

/// A backup is `creating` from the moment its command is accepted, and `available` when its chunks, its manifest and
/// its record are durable. Until then `info.json` is there and `image` is not. While it is being restored it is
/// `restoring`, and readable; afterwards `available` again.
#[test]
fn a_backup_is_creating_then_available_and_restoring_while_it_is_restored() {
    everywhere(|world| {
        let bytes = pattern(1, 64 * MIB);
        world.fill("v", &bytes);
        let pairs = world.accepted_pairs("backup", &world.volume("v"));
        let id = pairs[1].strip_prefix("backup=").unwrap();
        let mut seen = Vec::new();
        let look = |seen: &mut Vec<String>, end: &str| {
            // In this order: an image that is there belongs to a backup that is available from then on.
            let is_there = world.daemon.image(id).exists();
            let status = world.daemon.info(id)["status"].as_str().unwrap().to_owned();
            assert!(!is_there || status == "available" || status == "restoring", "{status}");
            if seen.last() != Some(&status) {
                seen.push(status.clone());
            }
            (status == end).then_some(())
        };
        until("the backup", || look(&mut seen, "available"));
        assert_eq!(seen, ["creating", "available"]);
        assert!(world.image(id) == bytes);
        let restored = world.name("restored");
        let job = world.daemon.accepted("restore", &format!("{id} --name {restored}\n"), "job");
        seen.clear();
        until("the restore", || look(&mut seen, "available"));
        assert_eq!(seen, ["restoring", "available"]);
        world.daemon.done(&job);
        assert!(world.bytes("restored").unwrap() == bytes);
    });
}

/// A backup that fails is `error`; `fail_reason` says why in plain words. It holds nothing: no snapshot, no place in a
/// quota, and nothing leans on it.
#[test]
fn a_backup_that_fails_says_why() {
    let world = World::files("");
    world.fill("v", &pattern(2, 128 * MIB));
    let writer = OpenOptions::new().write(true).open(world.path("v")).unwrap();
    let pairs = world.accepted_pairs("backup", &format!("{} --force", world.volume("v")));
    let id = pairs[1].strip_prefix("backup=").unwrap();
    // Without snapshots a file that changes while it is read, and read again, is no backup.
    let number = pairs[2].strip_prefix("job=").unwrap();
    let mut seed = 3;
    let job = until("the failure", || {
        seed += 1;
        writer.write_all_at(&pattern(seed, 4096), 127 * MIB as u64).unwrap();
        let job = world.daemon.job(number);
        (job["state"] != "queued" && job["state"] != "running").then_some(job)
    });
    assert_eq!(job["state"], "failed", "{job}");
    let info = world.daemon.info(id);
    assert_eq!(info["status"], "error");
    assert!(info["fail_reason"].as_str().unwrap().contains("written to"), "{info}");
    assert!(!world.daemon.image(id).exists());
    drop(writer);
    let next = world.backup("v", "--incremental");
    assert_eq!(world.daemon.info(&next)["parent_id"], serde_json::Value::Null);
    world.delete(&[id]);
}

/// A delete makes a backup `deleting`, durably, before anything goes. If the source does not answer, so that our snapshot
/// cannot be removed, it is `error_deleting` with a `fail_reason`; `delete` may be repeated, and `reset-state` makes it
/// `available` again.
#[cfg(feature = "rbd")]
#[test]
fn a_delete_that_cannot_remove_the_snapshot_may_be_repeated() {
    let world = World::images_to_break();
    let bytes = pattern(5, MIB);
    world.fill("v", &bytes);
    let id = world.backup("v", "");
    world.cluster().stop_osd();
    for attempt in 0..2 {
        let job = world.daemon.accepted("delete", &format!("{id}\n"), "job");
        let job = world.daemon.ended(&job);
        assert_eq!(job["state"], "failed", "{job}");
        let info = world.daemon.info(&id);
        assert_eq!(info["status"], "error_deleting", "attempt {attempt}");
        assert!(info["fail_reason"].as_str().unwrap().contains("rbd"), "{info}");
        assert!(!world.daemon.image(&id).exists());
        if attempt == 0 {
            world.accepted_pairs("reset-state", &id);
            assert!(world.image(&id) == bytes);
        }
    }
    world.cluster().start_osd();
    world.delete(&[&id]);
    assert!(!world.is_there(&id));
    assert!(world.own_snapshots("v").is_empty());
}
