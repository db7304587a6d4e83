//! A repair takes what is missing from where it still is, proves it, and leaves everything else alone.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a failed expectation is a failed test, and files are damaged on purpose"
)]
#![allow(dead_code, reason = "the history of the tests of damage has more than is used here")]

mod support;

#[path = "damage/history.rs"]
mod history;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use amberfs::check::{CheckError, RepairReport, Watch, repair};
use amberfs::objects::ObjectName;
use amberfs::source::dir::DirSource;
use amberfs::source::{Source, Sources};
use amberfs::types::ChunkId;

use history::{History, flip_bit, truncate};
use support::checked::{brute_force, check_full, damaged_paths, hurt_ranges, location, options, watch};
use support::tree;

fn sources(history: &History) -> Sources {
    let volumes = history.repository().parent().unwrap().join("volumes");
    let source = DirSource::open("local".parse().unwrap(), volumes).unwrap();
    Sources::new(vec![Arc::new(source) as Arc<dyn Source>])
}

fn repair_from(history: &History, sources: &Sources, other: Option<&Path>) -> RepairReport {
    let other = other.map(location);
    let report =
        repair(&location(&history.repository()), &options(), sources, other.as_ref(), &watch()).unwrap();
    // What it says is what a check says, and what reading says.
    let again = check_full(&history.repository());
    assert_eq!((&report.after.hurt, &report.after.damaged), (&again.hurt, &again.damaged));
    assert_eq!(hurt_ranges(&again), brute_force(&history.repository()));
    report
}

/// Everything is whole again, and stays so without the index.
fn assert_repaired(history: &History, report: &RepairReport, what: &str) {
    assert!(!report.before.is_sound() && report.after.is_sound(), "{what}: {report:?}");
    for without_index in [false, true] {
        if without_index {
            history.delete_index();
        }
        history.assert_whole(&history.open());
    }
}

type Damage = Box<dyn Fn(&History)>;

fn none() -> Sources {
    Sources::new(Vec::new())
}

#[test]
fn chunks_come_back_from_what_the_volume_has_now() {
    let whole = History::new();
    let newest = &whole.images[2];
    let mut repaired = 0;
    for (number, (pack, entries)) in whole.packs().into_iter().enumerate() {
        for entry in entries {
            let history = History::new();
            flip_bit(&history.path(ObjectName::Pack(pack)), entry.offset as usize + 3);
            let report = repair_from(&history, &sources(&history), None);
            let grid = newest.chunks(history::CHUNK).any(|chunk| ChunkId::of(chunk) == entry.id);
            // Small changes that were gathered are still on the volume, too.
            if grid || number > 0 {
                assert_repaired(&history, &report, &entry.id.to_string());
                assert_eq!(report.chunks.values().sum::<u64>(), 1);
                assert_eq!(report.repaired[0].what, format!("chunk {}", entry.id));
                assert!(!history.path(ObjectName::Pack(pack)).exists(), "it was emptied");
                repaired += 1;
            } else {
                assert_eq!(report.after, report.before, "what cannot be repaired is left as it is");
                assert_eq!(report.repaired, []);
            }
        }
    }
    assert!(repaired >= 8, "{repaired}");
}

#[test]
fn a_lost_pack_comes_back_as_far_as_the_volume_has_it() {
    let history = History::new();
    for (pack, _) in history.packs() {
        std::fs::remove_file(history.path(ObjectName::Pack(pack))).unwrap();
    }
    let report = repair_from(&history, &sources(&history), None);
    let bytes = |hurt: &[amberfs::check::HurtBackup]| hurt.iter().map(|hurt| hurt.hurt_bytes).sum::<u64>();
    assert!(bytes(&report.after.hurt) < bytes(&report.before.hurt) / 2);
    // What reads back is right.
    let engine = history.open();
    (0..3).for_each(|number| drop(history.read(&engine, number)));
}

#[test]
fn everything_comes_back_from_another_repository() {
    let whole = History::new();
    let other = whole.repository();
    let mut cases: Vec<(String, Damage)> = Vec::new();
    for (pack, entries) in whole.packs() {
        let name = ObjectName::Pack(pack);
        let length = std::fs::metadata(whole.path(name)).unwrap().len();
        for place in [1, entries[0].offset as u64 + 9, length - 70, length - 1] {
            let damage = move |history: &History| flip_bit(&history.path(name), place as usize);
            cases.push((format!("{name}, byte {place}"), Box::new(damage)));
        }
        cases.push((
            format!("{name} is cut"),
            Box::new(move |history| truncate(&history.path(name), length / 2)),
        ));
        cases.push((
            format!("{name} is gone"),
            Box::new(move |history| std::fs::remove_file(history.path(name)).unwrap()),
        ));
    }
    for number in 0..3 {
        let (manifest, record) = (whole.manifest(number), ObjectName::Record(whole.backups[number]));
        let length = std::fs::metadata(whole.path(manifest)).unwrap().len() as usize;
        for place in [3, 30, length / 2, length - 1] {
            let damage = move |history: &History| flip_bit(&history.path(manifest), place);
            cases.push((format!("manifest {number}, byte {place}"), Box::new(damage)));
        }
        cases.push((
            format!("manifest {number} is gone"),
            Box::new(move |history| std::fs::remove_file(history.path(manifest)).unwrap()),
        ));
        cases.push((
            format!("record {number}"),
            Box::new(move |history| flip_bit(&history.path(record), 300)),
        ));
        if number < 2 {
            cases.push((
                format!("record {number} is gone"),
                Box::new(move |history| std::fs::remove_file(history.path(record)).unwrap()),
            ));
        }
    }
    for (what, damage) in cases {
        let history = History::new();
        let before = tree::files(&history.repository());
        damage(&history);
        let report = repair_from(&history, &none(), Some(&other));
        assert_repaired(&history, &report, &what);
        let damaged: BTreeSet<String> = damaged_paths(&report.before).into_iter().collect();
        let after = tree::files(&history.repository());
        for (path, bytes) in before {
            let is_object =
                ["packs/", "manifests/", "records/", "repository"].iter().any(|kind| path.starts_with(kind));
            let may_change = damaged.contains(&path)
                || what.contains(" is gone") && !history.repository().join(&path).exists();
            if is_object && !may_change {
                assert!(after.get(&path) == Some(&bytes), "{what}: {path} was changed");
            }
        }
        assert!(tree::files(&other).len() == tree::files(&whole.repository()).len());
    }
}

#[test]
fn a_pack_without_its_list_gives_its_chunks_all_the_same() {
    for index_is_there in [false, true] {
        for (pack, entries) in History::new().packs() {
            let name = ObjectName::Pack(pack);
            let length = std::fs::metadata(History::new().path(name)).unwrap().len();
            let list = length - 64 - 48 * entries.len() as u64;
            for place in [list + 3, list + 33, length - 60, length - 1] {
                let history = History::new();
                flip_bit(&history.path(name), place as usize);
                if !index_is_there {
                    history.delete_index();
                }
                let report = repair_from(&history, &none(), None);
                assert_repaired(&history, &report, &format!("byte {place} of {length}"));
            }
            let history = History::new();
            truncate(&history.path(name), list);
            history.delete_index();
            let report = repair_from(&history, &none(), None);
            assert_repaired(&history, &report, "cut");
        }
    }
}

#[test]
fn a_damaged_record_comes_back_from_its_manifest_and_is_kept() {
    for number in 0..3 {
        let history = History::new();
        let path = history.path(ObjectName::Record(history.backups[number]));
        flip_bit(&path, 300);
        let damaged = std::fs::read(&path).unwrap();
        let report = repair_from(&history, &none(), None);
        assert_repaired(&history, &report, &format!("record {number}"));
        let kept = tree::files(&history.repository().join("index-state/replaced"));
        assert_eq!(kept.values().collect::<Vec<_>>(), [&damaged]);
    }
    // All at once: each needs those that it leans on.
    let history = History::new();
    (0..3).for_each(|number| flip_bit(&history.path(ObjectName::Record(history.backups[number])), 300));
    assert_repaired(&history, &repair_from(&history, &none(), None), "all records");
    // One that a newer amberfs wrote is not damaged.
    let history = History::new();
    let path = history.path(ObjectName::Record(history.backups[2]));
    let text = std::fs::read_to_string(&path).unwrap().replacen("amberfs-record 1 ", "amberfs-record 2 ", 1);
    std::fs::write(&path, &text).unwrap();
    let report = repair(&location(&history.repository()), &options(), &none(), None, &watch()).unwrap();
    assert_eq!(report.repaired, []);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn a_repair_needs_the_repository_for_itself() {
    let history = History::new();
    let engine = history.open();
    let before = tree::files(&history.repository());
    let refused = repair(&location(&history.repository()), &options(), &none(), None, &watch());
    assert!(matches!(refused, Err(CheckError::InUse { .. })), "{refused:?}");
    assert_eq!(tree::files(&history.repository()), before);
    drop(engine);
}

#[test]
fn a_repair_that_is_stopped_leaves_what_was_there_and_can_be_begun_again() {
    let whole = History::new();
    for at in ["packs", "manifests", "backups", "chunks of the other repository"] {
        let history = History::new();
        for (pack, entries) in history.packs() {
            flip_bit(&history.path(ObjectName::Pack(pack)), entries[0].offset as usize);
        }
        flip_bit(&history.path(history.manifest(1)), 30);
        let before = tree::files(&history.repository());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let tell = move |what: &'static str, _, _| {
            if what == at {
                stopped.store(true, Ordering::SeqCst);
            }
        };
        let other = location(&whole.repository());
        let watch = Watch::new(stop, Box::new(tell));
        let result = repair(&location(&history.repository()), &options(), &none(), Some(&other), &watch);
        assert!(matches!(result, Err(CheckError::Stopped)), "{at}: {result:?}");
        let after = tree::files(&history.repository());
        let manifest = history.manifest(1).to_string();
        for (path, bytes) in
            before.iter().filter(|(path, _)| path.starts_with("packs/") || path.starts_with("records/"))
        {
            assert!(after.get(path) == Some(bytes), "{at}: {path}");
        }
        assert!(after.contains_key(&manifest));
        let report = repair_from(&history, &none(), Some(&whole.repository()));
        assert_repaired(&history, &report, at);
    }
}

#[test]
fn the_command_repairs_and_says_what_it_did() {
    let history = History::new();
    let (pack, entries) = history.packs().pop().unwrap();
    flip_bit(&history.path(ObjectName::Pack(pack)), entries[0].offset as usize);
    let volumes = history.repository().parent().unwrap().join("volumes");
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_amberfs"))
            .args(["repo", "check", "-f", "json", "--repo"])
            .arg(history.repository())
            .args(arguments)
            .output()
            .unwrap();
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), said, String::from_utf8(output.stderr).unwrap())
    };
    let (status, said, error) = run(&["--repair"]);
    assert_eq!(
        (status, &said["sound"], &said["repaired"][0]),
        (Some(1), &false.into(), &serde_json::Value::Null)
    );
    assert!(error.contains("source local, which has volume v, is not configured"), "{error}");
    let (status, said, error) = run(&["--repair", "--volumes", volumes.to_str().unwrap()]);
    assert_eq!((status, &said["sound"]), (Some(0), &true.into()), "{error}");
    assert_eq!(said["repaired"][0]["what"], format!("chunk {}", entries[0].id));
    let expected: BTreeMap<&str, u64> = BTreeMap::from([("local/v as it is now", 1)]);
    assert_eq!(said["repaired_chunks"], serde_json::to_value(expected).unwrap());
    assert_eq!(run(&[]).0, Some(0));
}

#[cfg(feature = "rbd")]
mod rbd {
    use std::sync::Arc;

    use amberfs::check::repair;
    use amberfs::operations::BackupRequest;
    use amberfs::source::{Source, Sources};

    use crate::support::ceph::{BACKUP_USER, CephCluster};
    use crate::support::checked::{check_full, location, options, watch};
    use crate::support::engine::{Engine, full};
    use crate::support::tree;

    #[test]
    fn chunks_come_back_from_the_snapshot_of_a_volume_that_has_changed_since() {
        let cluster = CephCluster::shared();
        let mut driver = cluster.driver();
        driver.create("repaired", 8 << 20);
        driver.write("repaired", 0, 6 << 20, 1);
        let folder = tempfile::tempdir().unwrap();
        let repository = folder.path().join("repository");
        let source = || vec![Arc::new(cluster.source(BACKUP_USER)) as Arc<dyn Source>];
        let engine = Engine::open(&repository, source());
        let id = engine.backup(BackupRequest { force: true, ..full("repaired") }).id;
        let image = engine.image(id);
        engine.close();
        driver.write("repaired", 0, 6 << 20, 2);
        let snapshots = cluster.rbd_json(&["snap", "ls", "repaired"]);
        for (path, _) in tree::files(&repository.join("packs")) {
            std::fs::remove_file(repository.join("packs").join(path)).unwrap();
        }
        let sources = Sources::new(source());
        let report = repair(&location(&repository), &options(), &sources, None, &watch()).unwrap();
        assert!(!report.before.is_sound() && report.after.is_sound(), "{report:?}");
        assert!(
            report.chunks.keys().all(|from| from.starts_with("snapshot amberfs.")),
            "{:?}",
            report.chunks
        );
        assert!(check_full(&repository).is_sound());
        assert_eq!(cluster.rbd_json(&["snap", "ls", "repaired"]), snapshots, "no snapshot came or went");
        let engine = Engine::open(&repository, source());
        assert!(engine.image(id) == image);
    }
}
