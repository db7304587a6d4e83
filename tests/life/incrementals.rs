//! 3: what an incremental backup leans on, and what it costs.

use std::collections::BTreeSet;
use std::thread;

use rustix::io::Errno;

use crate::support::bytes::{Numbers, pattern};
use crate::world::{MIB, World, changed, everywhere, with_hole};

/// With `--incremental` a backup leans on the volume's latest `available` backup of the same project whose
/// `data_timestamp` is older than its own: `parent_id` names it. With none, a full backup is taken and the answer
/// says `is_incremental=false`, or it is refused (`InvalidInput`) when `incremental_without_parent = "fail"`.
#[test]
fn the_parent_is_the_latest_available_backup() {
    everywhere(|world| {
        let first = with_hole(1, 4 * MIB);
        world.fill("v", &first);
        let line = format!("{} --incremental", world.volume("v"));
        let pairs = world.accepted_pairs("backup", &line);
        assert!(pairs.contains(&"is_incremental=false".to_owned()), "{pairs:?}");
        let full = pairs[1].strip_prefix("backup=").unwrap().to_owned();
        world.daemon.done(pairs[2].strip_prefix("job=").unwrap());
        assert_eq!(world.daemon.info(&full)["is_incremental"], false);
        let second = changed(&first, 2);
        world.fill("v", &second);
        let one = world.backup("v", "--incremental");
        let two = world.backup("v", "--incremental");
        assert_eq!(world.daemon.info(&one)["parent_id"], full.as_str());
        assert_eq!(world.daemon.info(&two)["parent_id"], one.as_str());
        assert!(world.image(&full) == first && world.image(&one) == second && world.image(&two) == second);
    });
    let strict = World::files("incremental_without_parent = \"fail\"");
    strict.fill("v", &pattern(1, MIB));
    let line = format!("{} --incremental\n", strict.volume("v"));
    let sentence = strict.daemon.refused("backup", &line, Errno::INVAL, "InvalidInput");
    assert!(sentence.contains("full"), "{sentence}");
    strict.backup("v", "");
    strict.backup("v", "--incremental");
}

/// When the latest backup is deleted, the next incremental leans on the one before it. The base of the source's diff
/// is gone then, as it is when somebody removes our snapshot: contents are compared, and what is stored is just as
/// small.
#[test]
fn an_incremental_after_the_latest_was_deleted_is_exact_and_small() {
    everywhere(|world| {
        let mut bytes = with_hole(3, 8 * MIB);
        world.fill("v", &bytes);
        let full = world.backup("v", "");
        bytes = changed(&bytes, 4);
        world.fill("v", &bytes);
        let latest = world.backup("v", "--incremental");
        world.delete(&[&latest]);
        assert!(world.own_snapshots("v").is_empty(), "the deleted backup's snapshot has gone with it");
        bytes[7 * MIB..7 * MIB + 100].fill(7);
        world.fill("v", &bytes);
        let next = world.backup("v", "--incremental");
        let info = world.daemon.info(&next);
        assert_eq!(info["parent_id"], full.as_str());
        assert!(world.image(&next) == bytes);
        assert!(info["stored_bytes"].as_u64().unwrap() < 200_000, "{info}");
        #[cfg(feature = "rbd")]
        if world.is_rbd() {
            for snapshot in world.own_snapshots("v") {
                world.cluster().rbd(&["snap", "rm", &format!("{}@{snapshot}", world.name("v"))]);
            }
            bytes[MIB..MIB + 100].fill(9);
            world.fill("v", &bytes);
            let after = world.backup("v", "--incremental");
            let info = world.daemon.info(&after);
            assert_eq!(info["parent_id"], next.as_str());
            assert!(world.image(&after) == bytes);
            assert!(info["stored_bytes"].as_u64().unwrap() < 200_000, "{info}");
        }
    });
}

/// A backup in state `error` is never a parent.
#[test]
fn a_backup_in_error_is_no_parent() {
    everywhere(|world| {
        let bytes = with_hole(5, 2 * MIB);
        world.fill("v", &bytes);
        let good = world.backup("v", "");
        let bad = world.backup("v", "--incremental");
        world.accepted_pairs("reset-state", &format!("{bad} error"));
        let next = world.backup("v", "--incremental");
        assert_eq!(world.daemon.info(&next)["parent_id"], good.as_str());
        assert!(world.image(&next) == bytes);
    });
}

/// A volume that grew or shrank since its last backup can be backed up incrementally. What it lost when it shrank does
/// not come back when it grows again: that reads as zeros.
#[test]
fn a_volume_that_grows_and_shrinks_is_exact_at_each_backup() {
    everywhere(|world| {
        let states = [
            pattern(1, 4 * MIB),
            [pattern(1, 4 * MIB), pattern(2, MIB + 512)].concat(),
            pattern(1, 2 * MIB + 512),
            [pattern(1, 2 * MIB + 512), vec![0; 3 * MIB]].concat(),
            [pattern(1, MIB), vec![0; 6 * MIB], pattern(3, 10 * 1024)].concat(),
        ];
        let mut taken = Vec::new();
        for bytes in &states {
            world.fill("v", bytes);
            taken.push(world.backup("v", "--incremental"));
        }
        for (id, bytes) in taken.iter().zip(&states) {
            assert!(world.image(id) == *bytes, "{}", world.daemon.info(id));
        }
    });
}

/// Data that was zeroed or discarded between two backups is zero in the second, in its image and in a volume that is
/// restored from it; so is a hole that is larger than any buffer.
#[test]
fn zeroed_data_and_large_holes_are_restored_as_they_were() {
    everywhere(|world| {
        let mut bytes = pattern(1, 48 * MIB);
        bytes[2 * MIB..47 * MIB].fill(0);
        world.fill("v", &bytes);
        let full = world.backup("v", "");
        let mut zeroed = bytes.clone();
        zeroed[MIB..MIB + 300_000].fill(0);
        zeroed[47 * MIB + 100..47 * MIB + 5000].fill(0);
        world.fill("v", &zeroed);
        let incremental = world.backup("v", "--incremental");
        for (id, bytes, name) in [(&full, &bytes, "from-full"), (&incremental, &zeroed, "from-incremental")] {
            assert!(world.image(id) == *bytes);
            world.daemon.restore(&format!("{id} --name {}", world.name(name)));
            assert!(world.bytes(name).unwrap() == *bytes, "{name}");
        }
    });
}

/// `has_dependent_backups` is derived from the backups that there are, never counted: it is right whatever is made and
/// deleted at once.
#[test]
fn dependents_are_exact_under_concurrent_creates_and_deletes() {
    everywhere(|world| {
        let bytes = with_hole(6, MIB);
        world.fill("v", &bytes);
        world.backup("v", "");
        let deleted: BTreeSet<String> = thread::scope(|scope| {
            let world = &*world;
            let makers = (0..4).map(|_| {
                scope.spawn(move || {
                    for _ in 0..5 {
                        let said =
                            world.daemon.say("backup", &format!("{} --incremental\n", world.volume("v")));
                        assert!(said.write.is_ok(), "{}", said.answer);
                    }
                    BTreeSet::new()
                })
            });
            let deleters = (0..2u64).map(|seed| {
                scope.spawn(move || {
                    let mut numbers = Numbers::new(seed);
                    let mut deleted = BTreeSet::new();
                    while deleted.len() < 4 {
                        let ids = ids(world);
                        let id = ids[usize::try_from(numbers.below(ids.len() as u64)).unwrap()].clone();
                        // Refused when it is being made or leaned on; that is the point.
                        if ids.len() > 1 && world.daemon.say("delete", &format!("{id}\n")).write.is_ok() {
                            deleted.insert(id);
                        }
                    }
                    deleted
                })
            });
            let all: Vec<_> = makers.chain(deleters).collect();
            all.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        for job in std::fs::read_dir(world.daemon.mount().join("jobs")).unwrap() {
            world.daemon.done(job.unwrap().file_name().to_str().unwrap());
        }
        let left = ids(world);
        assert!(left.iter().all(|id| !deleted.contains(id)));
        let infos: Vec<_> = left.iter().map(|id| world.daemon.info(id)).collect();
        for info in &infos {
            let dependents = infos.iter().filter(|other| other["parent_id"] == info["id"]).count();
            assert_eq!(info["has_dependent_backups"], dependents > 0, "{info}");
            assert_eq!(info["status"], "available", "{info}");
            assert!(world.image(info["id"].as_str().unwrap()) == bytes);
        }
    });
}

fn ids(world: &World) -> Vec<String> {
    let entries = std::fs::read_dir(world.daemon.mount().join("backups")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
