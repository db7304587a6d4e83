//! Records, and everything that is kept locally, come back from what the repository still has; nothing else is touched.
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

use std::collections::BTreeMap;
use std::process::Command;

use amberfs::catalog::{BackupRecord, BackupStatus};
use amberfs::check::{CheckError, RebuildReport, rebuild};
use amberfs::objects::ObjectName;
use amberfs::operations::Requester;
use amberfs::types::{BackupId, ManifestId};

use history::{History, flip_bit};
use support::checked::{brute_force, check_full, location, options, watch};
use support::tree;

fn rebuilt(history: &History) -> RebuildReport {
    rebuild(&location(&history.repository()), &options(), false, &watch()).unwrap()
}

/// Returns the backups that have a record again, and why the others have none.
fn outcome(report: &RebuildReport) -> (Vec<BackupId>, BTreeMap<BackupId, String>) {
    let (mut rebuilt, mut left_out) = (Vec::new(), BTreeMap::new());
    for backup in &report.backups {
        match &backup.left_out {
            None => rebuilt.push(backup.record.id),
            Some(why) => {
                left_out.insert(backup.record.id, why.clone());
            }
        }
    }
    (rebuilt, left_out)
}

fn remove_record(history: &History, number: usize) {
    std::fs::remove_file(history.path(ObjectName::Record(history.backups[number]))).unwrap();
}

fn flatten(history: &History, number: usize) {
    let engine = history.open();
    let id = history.backups[number].to_string();
    let accepted = engine.operations.flatten(&Requester::OPERATOR, &id).unwrap();
    engine.operations.jobs().wait(accepted.job).unwrap();
    engine.close();
    assert_eq!(history.record(number).parent_id, None);
}

#[test]
fn records_come_back_from_the_manifests_whichever_are_lost() {
    for lost in 1..8_u32 {
        let history = History::new();
        let before: Vec<BackupRecord> = (0..3).map(|number| history.record(number)).collect();
        let is_lost = |number: usize| lost & (1 << number) != 0;
        (0..3).filter(|number| is_lost(*number)).for_each(|number| remove_record(&history, number));
        let files = tree::files(&history.repository().join("records"));
        let report = rebuilt(&history);
        let expected: Vec<BackupId> =
            (0..3).filter(|number| is_lost(*number)).map(|number| history.backups[number]).collect();
        assert_eq!(outcome(&report), (expected, BTreeMap::new()));
        assert_eq!(report.existing + u64::from(lost.count_ones()), 3);
        for (path, bytes) in files {
            let now = std::fs::read(history.repository().join("records").join(&path)).unwrap();
            assert_eq!(now, bytes, "a record that was there was touched");
        }
        for (number, before) in before.iter().enumerate() {
            let after = history.record(number);
            let known = BackupRecord {
                updated_at: after.updated_at,
                object_count: after.object_count,
                ..before.clone()
            };
            assert_eq!(after, known, "backup {number}");
        }
        let engine = history.open();
        history.assert_whole(&engine);
        history.assert_backed_up_again(engine);
        assert!(check_full(&history.repository()).is_sound());
        assert_eq!(rebuilt(&history).backups, [], "there is nothing left to do");
    }
}

#[test]
fn a_lost_manifest_costs_its_backup_and_those_that_lean_on_it() {
    for all_records in [false, true] {
        for number in 0..3 {
            let history = History::new();
            std::fs::remove_file(history.path(history.manifest(number))).unwrap();
            if all_records {
                (0..3).for_each(|number| remove_record(&history, number));
            }
            let before = tree::files(&history.repository().join("records"));
            let (rebuilt, left_out) = outcome(&rebuilt(&history));
            if all_records {
                assert_eq!(rebuilt, history.backups[..number]);
                let leaning: Vec<BackupId> = left_out.keys().copied().collect();
                let mut expected = history.backups[number + 1..].to_vec();
                expected.sort_unstable();
                assert_eq!(leaning, expected);
                let parent = history.backups[number].to_string();
                assert!(number == 2 || left_out.values().any(|why| why.contains(&parent)), "{left_out:?}");
            } else {
                assert_eq!((rebuilt.len(), left_out.len()), (0, 0));
                assert_eq!(tree::files(&history.repository().join("records")), before, "nothing is touched");
                let hurt: Vec<BackupId> =
                    check_full(&history.repository()).hurt.iter().map(|hurt| hurt.id).collect();
                assert_eq!(hurt, history.backups[number..]);
            }
            let engine = history.open();
            for kept in 0..number {
                assert_eq!(history.read(&engine, kept).unreadable, []);
            }
        }
    }
}

#[test]
fn a_backup_whose_data_is_not_all_there_is_left_out() {
    let history = History::new();
    // The packs of the incrementals have few chunks.
    let (pack, _) = history.packs().pop().unwrap();
    let hurt: Vec<BackupId> = {
        std::fs::remove_file(history.path(ObjectName::Pack(pack))).unwrap();
        brute_force(&history.repository()).keys().copied().collect()
    };
    assert!(!hurt.is_empty() && hurt.len() < 3);
    (0..3).for_each(|number| remove_record(&history, number));
    let (rebuilt, left_out) = outcome(&rebuilt(&history));
    assert_eq!(left_out.keys().copied().collect::<Vec<_>>(), hurt);
    assert_eq!(rebuilt.len() + hurt.len(), 3);
    assert!(
        left_out.values().all(|why| why.contains("is in no pack") || why.contains("leans on")),
        "{left_out:?}"
    );
    assert_eq!(brute_force(&history.repository()), BTreeMap::new(), "what has a record reads back");
}

#[test]
fn a_dry_run_writes_nothing_and_a_rebuild_needs_the_repository_for_itself() {
    let history = History::new();
    remove_record(&history, 1);
    let engine = history.open();
    let before = tree::files(&history.repository());
    let report = rebuild(&location(&history.repository()), &options(), true, &watch()).unwrap();
    assert_eq!(outcome(&report).0, [history.backups[1]]);
    assert_eq!(tree::files(&history.repository()), before);
    let refused = rebuild(&location(&history.repository()), &options(), false, &watch());
    assert!(matches!(refused, Err(CheckError::InUse { .. })), "{refused:?}");
    engine.close();
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_amberfs"))
            .args(["repo", "rebuild", "-f", "json", "--repo"])
            .arg(history.repository())
            .args(arguments)
            .output()
            .unwrap();
        let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), rows[0]["Result"].clone())
    };
    assert_eq!(run(&["--dry-run"]), (Some(0), "would be rebuilt".into()));
    assert_eq!(run(&[]), (Some(0), "rebuilt".into()));
    history.assert_whole(&history.open());
}

/// The manifest that a backup had before it was flattened may still be there, since somebody reads it.
#[test]
fn a_flattened_backup_comes_back_flattened() {
    for old_is_there in [false, true] {
        for below_is_there in [false, true] {
            let history = History::new();
            let old = history.manifest(1);
            let bytes = std::fs::read(history.path(old)).unwrap();
            let full = history.manifest(0);
            flatten(&history, 1);
            let record = history.record(1);
            if old_is_there {
                std::fs::write(history.path(old), bytes).unwrap();
            }
            (0..3).for_each(|number| remove_record(&history, number));
            if !below_is_there {
                std::fs::remove_file(history.path(full)).unwrap();
            }
            let (mut rebuilt, left_out) = outcome(&rebuilt(&history));
            rebuilt.sort_unstable();
            let mut expected = history.backups[usize::from(!below_is_there)..].to_vec();
            expected.sort_unstable();
            assert_eq!((rebuilt, left_out), (expected, BTreeMap::new()));
            let again = history.record(1);
            assert_eq!((again.manifest, again.parent_id), (record.manifest, None));
            assert_eq!(again.stored_bytes, record.stored_bytes);
            let engine = history.open();
            for number in usize::from(!below_is_there)..3 {
                assert_eq!(history.read(&engine, number).unreadable, []);
            }
        }
    }
}

#[test]
fn of_two_manifests_that_differ_none_is_taken() {
    let history = History::new();
    let old = history.manifest(1);
    let old_bytes = std::fs::read(history.path(old)).unwrap();
    flatten(&history, 1);
    std::fs::write(history.path(old), old_bytes).unwrap();
    let parent = history.record(0);
    // The parent as it never was: the old manifest gives another image now than the flattened one.
    let other = History::new().record(2).manifest.unwrap();
    let copy = History::new();
    flatten(&copy, 2);
    let flat = copy.record(2).manifest.unwrap();
    assert_ne!(flat, other);
    let name = ObjectName::Manifest(flat.id);
    std::fs::copy(copy.path(name), history.path(name)).unwrap();
    let altered = BackupRecord { manifest: Some(flat), ..parent };
    std::fs::write(history.path(ObjectName::Record(altered.id)), altered.encode().unwrap()).unwrap();
    remove_record(&history, 1);
    let (rebuilt, left_out) = outcome(&rebuilt(&history));
    assert_eq!(rebuilt, []);
    let why = &left_out[&history.backups[1]];
    assert!(why.contains("say different things of bytes"), "{why}");
}

#[test]
fn a_manifest_that_a_record_gives_up_is_never_taken() {
    for status in [BackupStatus::Creating, BackupStatus::Error, BackupStatus::Available] {
        let history = History::new();
        let record = history.record(2);
        let manifest = record.manifest.clone().unwrap().id;
        // Of a backup that was being made, or of another one that names it.
        let (id, number) =
            if status == BackupStatus::Available { (history.backups[1], 1) } else { (record.id, 2) };
        let giving_up = BackupRecord { retired_manifests: vec![manifest], ..history.record(number) };
        let giving_up = match status {
            BackupStatus::Available => giving_up,
            _ => BackupRecord { status, manifest: None, ..giving_up },
        };
        remove_record(&history, 2);
        std::fs::write(history.path(ObjectName::Record(id)), giving_up.encode().unwrap()).unwrap();
        let before = tree::files(&history.repository().join("records"));
        assert_eq!(rebuilt(&history).backups, []);
        assert_eq!(tree::files(&history.repository().join("records")), before);
    }
}

#[test]
fn a_record_that_cannot_be_read_stays_and_so_does_a_manifest_without_a_record_in_it() {
    let history = History::new();
    let path = history.path(ObjectName::Record(history.backups[1]));
    flip_bit(&path, 200);
    let damaged = std::fs::read(&path).unwrap();
    let stray = ObjectName::Manifest(ManifestId::random());
    std::fs::write(history.path(stray), b"no manifest").unwrap();
    let report = rebuilt(&history);
    assert_eq!(report.backups, []);
    let named: Vec<&str> = report.unreadable.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(named, [ObjectName::Record(history.backups[1]).to_string(), stray.to_string()]);
    assert_eq!(std::fs::read(&path).unwrap(), damaged);
}

#[test]
fn everything_local_may_be_deleted_each_alone_and_all_together() {
    for lost in [
        &["index"][..],
        &["index-state"],
        &["index", "index-state"],
        &["index", "index-state", "tmp", "lock"],
    ] {
        let history = History::new();
        history.open().close();
        for name in lost {
            let path = history.repository().join(name);
            if path.is_dir() {
                std::fs::remove_dir_all(path).unwrap();
            } else if path.exists() {
                std::fs::remove_file(path).unwrap();
            }
        }
        let engine = history.open();
        assert!(!engine.operations.repository().is_read_only());
        assert_eq!(engine.operations.repository().catalog().count(), 3);
        history.assert_whole(&engine);
        history.assert_backed_up_again(engine);
    }
}
