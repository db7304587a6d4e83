//! 9 and 10: changing what is known of a backup, and carrying its record elsewhere.

use std::fs;
use std::process::Command;

use rustix::io::Errno;

use crate::support::bytes::pattern;
use crate::support::tree;
use crate::world::{MIB, World, changed, everywhere, with_hole};

/// `set` changes name, description, properties and protection, and nothing else. A name that is taken is no error, as
/// with volumes in OpenStack. An empty text takes a field away; `unset` (`--remove-property`) takes properties away, and
/// is refused when there is no such property.
#[test]
fn what_a_user_may_change_is_changed_durably() {
    let mut world = World::files("");
    world.fill("v", &pattern(1, MIB));
    let id = world.backup("v", "--name old --property a=1 --property b=2");
    let before = world.daemon.info(&id);
    world.accepted_pairs(
        "set",
        &format!("{id} --name 'new name' --description text --property b=3 --property c=4"),
    );
    world.accepted_pairs("set", "'new name' --remove-property a");
    let sentence =
        world.daemon.refused("set", &format!("{id} --remove-property a\n"), Errno::INVAL, "InvalidInput");
    assert!(sentence.contains("\"a\""), "{sentence}");
    world.daemon.stop();
    world.daemon.serve();
    let after = world.daemon.info(&id);
    assert_eq!(after["name"], "new name");
    assert_eq!(after["description"], "text");
    assert_eq!(after["properties"], serde_json::json!({"b": "3", "c": "4"}));
    let folder = world.daemon.mount().join("volumes/local").join(world.name("v"));
    assert!(folder.join("new name").exists() && !folder.join("old").exists());
    for field in ["id", "status", "size_bytes", "created_at", "data_timestamp", "stored_bytes", "volume_id"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    world.accepted_pairs("set", &format!("{id} --name '' --description '' --no-property --property x=y"));
    let cleared = world.daemon.info(&id);
    assert_eq!(
        (&cleared["name"], &cleared["description"]),
        (&serde_json::Value::Null, &serde_json::Value::Null)
    );
    assert_eq!(cleared["properties"], serde_json::json!({"x": "y"}));
}

/// `reset-state` makes a backup `available` or `error`. `available` is refused (`InvalidState`) when the backup's data
/// is not all there. On a `restoring` backup it cancels the restore first.
#[test]
fn a_state_is_reset_to_what_is_true() {
    everywhere(|world| {
        let bytes = with_hole(2, 4 * MIB);
        world.fill("v", &bytes);
        let id = world.backup("v", "");
        world.accepted_pairs("reset-state", &format!("{id} --state error"));
        let info = world.daemon.info(&id);
        assert_eq!(info["status"], "error");
        assert!(info["fail_reason"].as_str().unwrap().contains("reset-state"), "{info}");
        assert!(!world.daemon.image(&id).exists());
        world.daemon.refused("restore", &format!("{id}\n"), Errno::BUSY, "InvalidState");
        world.accepted_pairs("reset-state", &id);
        let info = world.daemon.info(&id);
        assert_eq!((&info["status"], &info["fail_reason"]), (&"available".into(), &serde_json::Value::Null));
        assert!(world.image(&id) == bytes);
    });
    let mut world = World::files("");
    world.fill("v", &pattern(3, 4 * MIB));
    let id = world.backup("v", "");
    world.accepted_pairs("reset-state", &format!("{id} error"));
    world.daemon.stop();
    let packs = world.daemon.folder().join("repository/packs");
    for pack in tree::files(&packs).keys() {
        fs::remove_file(packs.join(pack)).unwrap();
    }
    world.daemon.serve();
    let sentence =
        world.daemon.refused("reset-state", &format!("{id} available\n"), Errno::BUSY, "InvalidState");
    assert!(sentence.contains("not all there"), "{sentence}");
    assert_eq!(world.daemon.info(&id)["status"], "error");
}

/// `reset-state` on a `restoring` backup cancels the restore: no volume is left under its final name.
#[test]
fn a_reset_cancels_the_restore() {
    everywhere(|world| {
        world.fill("v", &pattern(4, 128 * MIB));
        let id = world.backup("v", "");
        let job = world.daemon.accepted("restore", &format!("{id} --name {}\n", world.name("r")), "job");
        world.accepted_pairs("reset-state", &id);
        assert_eq!(world.daemon.info(&id)["status"], "available");
        assert_eq!(
            world.daemon.ended(&job)["state"],
            "cancelled",
            "it was restored too fast to be cancelled"
        );
        assert_eq!(world.volumes(), [world.name("v")]);
    });
}

/// The exported record (`backups/ID/record`) brings a backup back after every local state is lost, as long as the
/// repository's chunks and manifests are there, in this daemon or in another one over the same repository. Records of
/// a chain may come in any order in one write; one whose parent is missing is refused (`InvalidRecord`).
#[test]
fn records_bring_backups_back_after_a_total_loss_of_local_state() {
    everywhere(|world| {
        let states = [with_hole(5, 3 * MIB), changed(&with_hole(5, 3 * MIB), 6)];
        let mut records = Vec::new();
        let mut ids = Vec::new();
        for bytes in &states {
            world.fill("v", bytes);
            let id = world.backup("v", "--incremental --property kept=yes");
            records.push(
                fs::read_to_string(world.daemon.mount().join("backups").join(&id).join("record")).unwrap(),
            );
            ids.push(id);
        }
        let infos: Vec<_> = ids.iter().map(|id| world.daemon.info(id)).collect();
        world.daemon.stop();
        let repository = world.daemon.folder().join("repository");
        for lost in ["records", "index", "index-state"] {
            let _ = fs::remove_dir_all(repository.join(lost));
        }
        world.daemon.serve();
        assert!(!world.is_there(&ids[0]));
        let sentence = world.daemon.refused("import", &records[1], Errno::INVAL, "InvalidRecord");
        assert!(sentence.contains(&ids[0]), "{sentence}");
        let pairs = world.accepted_pairs("import", &format!("{}{}", records[1], records[0].trim_end()));
        assert_eq!(pairs.iter().filter(|pair| pair.starts_with("backup=")).count(), 2);
        for ((id, bytes), before) in ids.iter().zip(&states).zip(&infos) {
            assert!(world.image(id) == *bytes);
            let mut after = world.daemon.info(id);
            after["updated_at"] = before["updated_at"].clone();
            assert_eq!(after["has_dependent_backups"], *id == ids[0]);
            after["has_dependent_backups"] = before["has_dependent_backups"].clone();
            assert_eq!(after, *before);
        }
        let next = world.backup("v", "--incremental");
        assert_eq!(world.daemon.info(&next)["parent_id"], ids[1].as_str());
        assert!(world.image(&next) == states[1]);
    });
}

/// An import is refused when the id exists (`BackupExists`), and the existing backup survives; when the record was
/// altered, its checksum or its manifest says so (`InvalidRecord`); and when its data is not there.
#[test]
fn an_import_changes_no_backup_that_exists_and_believes_no_altered_record() {
    let world = World::files("");
    let bytes = with_hole(7, MIB);
    world.fill("v", &bytes);
    let id = world.backup("v", "--name precious");
    let path = world.daemon.mount().join("backups").join(&id).join("record");
    let record = fs::read_to_string(path).unwrap();
    world.daemon.refused("import", &record, Errno::EXIST, "BackupExists");
    let altered = record.replace("precious", "worthless");
    world.daemon.refused("import", &altered, Errno::INVAL, "InvalidRecord");
    assert!(world.image(&id) == bytes);
    assert_eq!(world.daemon.info(&id)["name"], "precious");
    world.delete(&[&id]);
    let sentence = world.daemon.refused("import", &record, Errno::INVAL, "InvalidRecord");
    assert!(sentence.contains("not all there"), "the manifest has gone with the backup: {sentence}");
    // One that was altered by somebody who can compute a checksum.
    let id = world.backup("v", "");
    let path = world.daemon.mount().join("backups").join(&id).join("record");
    let record = fs::read_to_string(&path).unwrap();
    let json = record.trim_end().splitn(5, ' ').nth(4).unwrap();
    let size = format!("\"size_bytes\":{}", bytes.len());
    let forgeries = [
        json.replace(&world.name("v"), &world.name("w")),
        json.replace(&size, "\"size_bytes\":4096"),
        json.replace("\"snapshot\":null", "\"snapshot\":{\"name\":\"a\",\"id\":1,\"size_bytes\":1,\"created_at\":\"2026-01-01T00:00:00.000000Z\",\"ours\":true}"),
    ];
    let forgeries = forgeries.map(|forged| {
        assert_ne!(forged, json);
        signed(&forged)
    });
    let record_file = world.daemon.folder().join("repository/records").join(&id);
    let mut world = world;
    world.daemon.stop();
    fs::remove_file(record_file).unwrap();
    world.daemon.serve();
    for forged in forgeries {
        let sentence = world.daemon.refused("import", &forged, Errno::INVAL, "InvalidRecord");
        assert!(sentence.contains("altered"), "{sentence}");
    }
    world.accepted_pairs("import", record.trim_end());
    assert!(world.image(&id) == bytes);
}

/// Returns a record with a right checksum, as somebody makes it who has read docs/format.md.
fn signed(json: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("json"), json).unwrap();
    let sum = Command::new("sha256sum").arg(folder.path().join("json")).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap()[..64].to_owned();
    format!("amberfs-record 1 {} {sum} {json}\n", json.len())
}
