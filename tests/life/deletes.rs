//! 5: delete, flatten, protect.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

use crate::support::bytes::pattern;
use crate::support::daemon::until;
use crate::support::tree;
use crate::world::{MIB, changed, everywhere, with_hole};

/// A backup that others lean on is not deleted: `BackupHasDependents`, and nothing has changed. Several backups of one
/// command may come in any order; each goes before the one it leans on.
#[test]
fn a_chain_is_deleted_from_its_end_in_whatever_order_it_is_named() {
    everywhere(|world| {
        let mut bytes = with_hole(1, 2 * MIB);
        let mut chain = Vec::new();
        for day in 0..4 {
            world.fill("v", &bytes);
            chain.push(world.backup("v", "--incremental"));
            bytes = changed(&bytes, day + 10);
        }
        let refuse = |backups: String| {
            let sentence = world.daemon.refused("delete", &backups, Errno::NOTEMPTY, "BackupHasDependents");
            assert!(sentence.starts_with("Incremental backups exist for this backup."), "{sentence}");
        };
        refuse(format!("{}\n", chain[0]));
        refuse(format!("{} {}\n", chain[1], chain[0]));
        refuse(format!("{}\n{}\n", chain[3], chain[1]));
        for id in &chain {
            assert_eq!(world.daemon.info(id)["status"], "available");
        }
        world.delete(&[&chain[2], &chain[3]]);
        assert!(!world.is_there(&chain[2]) && !world.is_there(&chain[3]));
        assert_eq!(world.daemon.info(&chain[1])["has_dependent_backups"], false);
        world.delete(&[&chain[0], &chain[1]]);
        assert_eq!(fs::read_dir(world.daemon.mount().join("backups")).unwrap().count(), 0);
        assert!(world.own_snapshots("v").is_empty(), "of deleted backups no snapshot is left");
        let repository = tree::files(&world.daemon.folder().join("repository"));
        let left: Vec<_> = repository.keys().filter(|name| name.starts_with("records/")).collect();
        assert!(left.is_empty(), "{left:?}");
        let left: Vec<_> = repository.keys().filter(|name| name.starts_with("manifests/")).collect();
        assert!(left.is_empty(), "{left:?}");
    });
}

/// A file that is open stays readable when its backup is deleted, also when the backups below it go, too.
#[test]
fn what_is_open_is_read_to_its_end() {
    everywhere(|world| {
        let first = with_hole(2, 6 * MIB);
        world.fill("v", &first);
        let full = world.backup("v", "");
        let second = changed(&first, 3);
        world.fill("v", &second);
        let incremental = world.backup("v", "--incremental");
        let open = File::open(world.daemon.image(&incremental)).unwrap();
        world.delete(&[&full, &incremental]);
        assert!(!world.is_there(&incremental));
        let mut read = vec![0; second.len()];
        open.read_exact_at(&mut read, 0).unwrap();
        assert!(read == second);
        let manifests = world.daemon.folder().join("repository/manifests");
        assert_ne!(fs::read_dir(&manifests).unwrap().count(), 0, "they are still needed");
        drop(open);
        until("the manifests to go", || (tree::files(&manifests).is_empty()).then_some(()));
        until("the records to go", || {
            tree::files(&world.daemon.folder().join("repository/records")).is_empty().then_some(())
        });
    });
}

/// A `creating` or `restoring` backup is deleted with `--force` only (`InvalidState` without): its job is cancelled. Of
/// a backup that was being made nothing remains, neither a record nor a snapshot.
#[test]
fn a_backup_that_is_being_made_is_cancelled_with_force() {
    everywhere(|world| {
        world.fill("v", &pattern(4, 96 * MIB));
        for is_killed in [false, true] {
            let pairs = world.accepted_pairs("backup", &world.volume("v"));
            let id = pairs[1].strip_prefix("backup=").unwrap();
            let said = world.daemon.say("delete", &format!("{id}\n"));
            let Err(error) = said.write else {
                panic!("it was made too fast to be deleted: {}", said.answer)
            };
            assert_eq!(error.raw_os_error(), Some(Errno::BUSY.raw_os_error()), "{}", said.answer);
            assert!(said.answer.starts_with("error: InvalidState: "), "{}", said.answer);
            let job = world.daemon.accepted("delete", &format!("--force {id}\n"), "job");
            if is_killed {
                // What was accepted is done, whatever becomes of the daemon.
                world.daemon.kill();
                world.daemon.serve();
            }
            world.daemon.done(&job);
            assert!(!world.is_there(id));
            let made = world.daemon.ended(pairs[2].strip_prefix("job=").unwrap());
            let expected = if is_killed { made["state"].clone() } else { "cancelled".into() };
            assert_eq!(made["state"], expected, "{made}");
            assert_ne!(made["state"], "done", "{made}");
            assert!(world.own_snapshots("v").is_empty());
            assert_eq!(world.volumes(), [world.name("v")], "no snapshot beside the volume");
        }
    });
}

/// `flatten` makes an incremental backup a full one by a manifest of its own: no chunk is copied and the source is not
/// asked. The backup reads as before, those that lean on it too, and those below it may be deleted.
#[test]
fn a_flattened_backup_needs_nobody() {
    everywhere(|world| {
        let mut states = vec![with_hole(5, 4 * MIB)];
        for day in 0..3 {
            let next = changed(&states[day], 20 + day as u64);
            states.push(next);
        }
        let mut chain = Vec::new();
        for bytes in &states {
            world.fill("v", bytes);
            chain.push(world.backup("v", "--incremental"));
        }
        let repository = world.daemon.folder().join("repository");
        let packs = tree::files(&repository.join("packs"));
        let open = File::open(world.daemon.image(&chain[3])).unwrap();
        world.flatten(&chain[2]);
        let info = world.daemon.info(&chain[2]);
        assert_eq!((&info["is_incremental"], &info["parent_id"]), (&false.into(), &serde_json::Value::Null));
        assert!(tree::files(&repository.join("packs")) == packs, "no chunk is copied");
        let sentence =
            world.daemon.refused("flatten", &format!("{}\n", chain[2]), Errno::BUSY, "InvalidState");
        assert!(sentence.contains("full"), "{sentence}");
        world.delete(&[&chain[0], &chain[1]]);
        for day in [2, 3] {
            assert!(world.image(&chain[day]) == states[day], "day {day}");
        }
        let mut read = vec![0; states[3].len()];
        open.read_exact_at(&mut read, 0).unwrap();
        assert!(read == states[3], "what was open before");
        drop(open);
        world.daemon.stop();
        world.daemon.serve();
        for day in [2, 3] {
            assert!(world.image(&chain[day]) == states[day], "day {day}, after a restart");
        }
        until("the manifests that nobody has", || {
            (tree::files(&repository.join("manifests")).len() == 2).then_some(())
        });
        world.fill("v", &states[0]);
        let next = world.backup("v", "--incremental");
        assert_eq!(world.daemon.info(&next)["parent_id"], chain[3].as_str());
        assert!(world.image(&next) == states[0]);
    });
}

/// A backup that was made with `--protect`, or `set --protect`, is never deleted or pruned (`InvalidState`), with
/// `--force` neither, until `set --no-protect`.
#[test]
fn a_protected_backup_stays() {
    everywhere(|world| {
        world.fill("v", &pattern(6, MIB));
        let id = world.backup("v", "--protect");
        assert_eq!(world.daemon.info(&id)["protected"], true);
        for line in [format!("{id}\n"), format!("{id} --force\n")] {
            let sentence = world.daemon.refused("delete", &line, Errno::BUSY, "InvalidState");
            assert!(sentence.contains("--no-protect"), "{sentence}");
        }
        world.accepted_pairs("set", &format!("{id} --no-protect"));
        world.accepted_pairs("set", &format!("{id} --protect"));
        world.daemon.refused("delete", &format!("{id}\n"), Errno::BUSY, "InvalidState");
        world.accepted_pairs("set", &format!("{id} --no-protect"));
        world.delete(&[&id]);
        assert!(!world.is_there(&id));
    });
}
