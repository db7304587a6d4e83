//! `repo check` names exactly what is hurt: the backups, the ranges of their images, and the objects of the repository.
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
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use amberfs::check::{CheckError, Depth, Watch, check_and_remember};
use amberfs::format::manifest::{TAIL_LENGTH, Tail};
use amberfs::objects::ObjectName;
use amberfs::operations::{DeleteRequest, Requester};
use amberfs::types::{BackupId, ByteRange};
use serde_json::Value;

use history::{History, flip_bit, truncate};
use support::bytes::pattern;
use support::checked::{
    brute_force, check_full, check_quick, damaged_paths, hurt_ranges, location, options, watch,
};
use support::engine::full;
use support::hand_made::{CHUNK, HandMade, Recipe};

/// The check says of every backup what reading it says, and names these objects and no others.
fn assert_named(repository: &Path, objects: &[ObjectName], what: &str) {
    let report = check_full(repository);
    assert_eq!(hurt_ranges(&report), brute_force(repository), "{what}");
    let expected: Vec<String> = objects.iter().map(ToString::to_string).collect();
    assert_eq!(damaged_paths(&report), expected, "{what}");
    assert_eq!(report.is_sound(), report.hurt.is_empty() && objects.is_empty());
    let (hurt, whole) = (report.hurt.len(), report.whole.len());
    assert_eq!((hurt + whole) as u64, report.counts.backups, "{what}");
}

#[test]
fn a_sound_repository_is_called_sound() {
    let history = History::new();
    assert_named(&history.repository(), &[], "nothing");
    let report = check_full(&history.repository());
    assert_eq!((report.counts.packs, report.counts.manifests, report.counts.records), (3, 3, 3));
    assert_eq!((report.strays, report.unused_packs), (vec![], 0));
    assert!(check_quick(&history.repository()).is_sound());
}

#[test]
fn a_flipped_bit_in_any_place_of_a_pack_is_named_with_what_it_hurts() {
    let whole = History::new();
    for (pack, entries) in whole.packs() {
        let name = ObjectName::Pack(pack);
        let length = std::fs::metadata(whole.path(name)).unwrap().len() as usize;
        let list = length - 64 - 48 * entries.len();
        let mut places = vec![2, 9, list + 5, list + 34, length - 60, length - 50, length - 1];
        places.extend(entries.iter().map(|entry| (entry.offset + entry.stored_length / 2) as usize));
        for place in places {
            let history = History::new();
            flip_bit(&history.path(name), place);
            assert_named(&history.repository(), &[name], &format!("byte {place} of {length}"));
            let quick = check_quick(&history.repository());
            assert_eq!(
                quick.is_sound(),
                (16..list).contains(&place),
                "a quick check reads no chunk: {place}"
            );
        }
    }
}

#[test]
fn a_pack_that_is_cut_or_gone_is_missed_where_it_was_needed() {
    for (pack, _) in History::new().packs() {
        let name = ObjectName::Pack(pack);
        for length in [0, 15, 100, 30_000] {
            let history = History::new();
            let before = std::fs::metadata(history.path(name)).unwrap().len();
            truncate(&history.path(name), length.min(before - 1));
            assert_named(&history.repository(), &[name], &format!("cut to {length}"));
        }
        let history = History::new();
        std::fs::remove_file(history.path(name)).unwrap();
        // Nothing tells its name any more.
        assert_named(&history.repository(), &[], "gone");
        assert!(!check_quick(&history.repository()).is_sound());
    }
}

#[test]
fn a_flipped_bit_in_any_place_of_a_manifest_is_named_with_what_it_hurts() {
    for number in 0..3 {
        let name = History::new().manifest(number);
        let bytes = std::fs::read(History::new().path(name)).unwrap();
        let length = bytes.len();
        let tail = Tail::decode(&bytes[length - TAIL_LENGTH..], length as u64).unwrap();
        let (root, about) = (tail.root_position as usize, tail.about_position as usize);
        // Head, leaf, branch, root, record, tail.
        for place in [1, 12, 20, root - 70, root - 10, root + 3, about + 30, length - 150, length - 1] {
            let history = History::new();
            flip_bit(&history.path(name), place);
            assert_named(&history.repository(), &[name], &format!("manifest {number}, byte {place}"));
            assert!(!check_quick(&history.repository()).is_sound(), "all pages are read");
        }
        for cut in [0, 100, length - 1] {
            let history = History::new();
            truncate(&history.path(name), cut as u64);
            assert_named(&history.repository(), &[name], &format!("manifest {number} cut to {cut}"));
        }
        let history = History::new();
        std::fs::remove_file(history.path(name)).unwrap();
        assert_named(&history.repository(), &[name], &format!("manifest {number} is gone"));
    }
}

/// A page of an older layer that is hidden by a newer backup hurts the older one only, however large the image is.
#[test]
fn a_lost_page_hurts_no_backup_that_has_newer_bytes_there() {
    const GRAIN: usize = 4096;
    let made = HandMade::new();
    let mut image = vec![0; 5000 * GRAIN];
    for block in (0..5000).step_by(2) {
        image[block * GRAIN..(block + 1) * GRAIN].copy_from_slice(&pattern(block as u64, GRAIN));
    }
    let pieces: Vec<(usize, &[u8])> =
        image.chunks(GRAIN).enumerate().map(|(n, piece)| (n * GRAIN, piece)).collect();
    // By hand as an incremental, so that each block is an extent of its own; what it leans on is hidden altogether.
    let below = made.full(&Recipe::default(), &vec![0; image.len()]);
    let older = made.incremental(
        &Recipe { parent: Some(below), data_at: 1_700_000_100, ..Recipe::default() },
        image.len(),
        &pieces,
    );
    let change = pattern(77, CHUNK);
    let changes: Vec<(usize, &[u8])> = (0..60).map(|n| (n * 2 * CHUNK, &change[..])).collect();
    let newer = Recipe { parent: Some(older), data_at: 1_700_000_200, ..Recipe::default() };
    let newer = made.incremental(&newer, image.len(), &changes);
    let manifest = made.repository.catalog().get(older).unwrap().manifest.clone().unwrap();
    let name = ObjectName::Manifest(manifest.id);
    let folder = made.close();
    let repository = folder.path().join("repository");
    assert_named(&repository, &[], "nothing");
    let whole = std::fs::read(repository.join(name.to_string())).unwrap();
    for place in [whole.len() - TAIL_LENGTH - 2000, whole.len() / 2, 1000] {
        std::fs::write(repository.join(name.to_string()), &whole).unwrap();
        flip_bit(&repository.join(name.to_string()), place);
        assert_named(&repository, &[name], &format!("byte {place}"));
    }
    let hurt = hurt_ranges(&check_full(&repository));
    let bytes =
        |id: BackupId| hurt.get(&id).map_or(0, |ranges| ranges.iter().map(|range| range.len()).sum::<u64>());
    assert!(bytes(older) > bytes(newer) && bytes(newer) > 0 && bytes(below) == 0, "{hurt:?}");
}

#[test]
fn a_damaged_record_hurts_its_backup_and_those_that_lean_on_it() {
    for number in 0..3 {
        let history = History::new();
        let name = ObjectName::Record(history.backups[number]);
        flip_bit(&history.path(name), 200);
        let report = check_full(&history.repository());
        let ids: Vec<BackupId> = report.hurt.iter().map(|hurt| hurt.id).collect();
        assert_eq!(ids, history.backups[number..], "in the order of their data");
        assert_eq!(damaged_paths(&report), [name.to_string()]);
        assert_eq!(report.whole.len(), number);
        let whole = ByteRange::new(0, history.images[number].len() as u64);
        assert!(hurt_ranges(&report).values().all(|ranges| ranges == &[whole]));
    }
}

#[test]
fn a_lost_record_is_told_by_the_manifest_that_is_left() {
    let history = History::new();
    for id in &history.backups {
        std::fs::remove_file(history.path(ObjectName::Record(*id))).unwrap();
    }
    let report = check_full(&history.repository());
    assert_eq!(hurt_ranges(&report).len(), 3);
    assert!(report.hurt.iter().all(|hurt| hurt.why[0].contains("repo rebuild")), "{:?}", report.hurt);
    assert_eq!(report.hurt[0].volume.as_deref(), Some("local/v"));
    assert_eq!(report.unused_packs, 0, "what such a manifest needs is not garbage");
}

#[test]
fn what_belongs_to_nothing_is_listed_and_hurts_nobody() {
    let history = History::new();
    let engine = history.open();
    let newest = history.backups[2];
    let request = DeleteRequest { backup: newest.to_string(), force: false };
    let accepted = engine.operations.delete(&Requester::OPERATOR, &[request]).unwrap();
    engine.operations.jobs().wait(accepted[0].job).unwrap();
    engine.close();
    let repository = history.repository();
    let (pack, _) = history.packs().remove(0);
    std::fs::write(repository.join("notes.txt"), "x").unwrap();
    std::fs::write(repository.join("packs/strange"), "xy").unwrap();
    std::fs::create_dir_all(repository.join("packs/zz/deeper")).unwrap();
    std::fs::write(repository.join("records/README"), "xyz").unwrap();
    // The name of an object, in a folder where no object is.
    std::fs::write(repository.join(format!("packs/{pack}")), "xyzz").unwrap();
    let named = history.manifest(1);
    let copy = ObjectName::Manifest("aaaaaaaa-0000-4000-8000-000000000000".parse().unwrap());
    std::fs::copy(history.path(named), history.path(copy)).unwrap();
    let report = check_full(&repository);
    assert!(report.is_sound(), "{report:?}");
    let strays: BTreeMap<String, u64> =
        report.strays.iter().map(|stray| (stray.path.clone(), stray.bytes)).collect();
    let unused: Vec<_> = report.strays.iter().filter(|stray| stray.why.contains("repo gc")).collect();
    assert_eq!(unused.len() as u64, report.unused_packs);
    assert_eq!(unused.iter().map(|stray| stray.bytes).sum::<u64>(), report.unused_bytes);
    assert_eq!(report.unused_packs, 1, "that of the deleted backup");
    let rest: Vec<_> = strays.keys().filter(|path| unused.iter().all(|stray| stray.path != **path)).collect();
    let misplaced = format!("packs/{pack}");
    let mut expected = vec!["notes.txt", "packs/strange", "packs/zz/deeper", "records/README", &misplaced];
    let copy = copy.to_string();
    expected.push(&copy);
    expected.sort_unstable();
    assert_eq!(rest, expected);
    assert_eq!(strays["records/README"], 3);
}

#[test]
fn a_check_beside_a_daemon_disturbs_nobody_and_one_alone_lets_the_next_daemon_know() {
    let history = History::new();
    let (pack, entries) = history.packs().remove(0);
    let repository = history.repository();
    let run = || check_and_remember(&location(&repository), &options(), Depth::Everything, &watch()).unwrap();
    let place = entries[3].offset as usize;
    flip_bit(&history.path(ObjectName::Pack(pack)), place);
    let engine = history.open();
    let (report, is_remembered) = run();
    assert!(!report.is_sound() && !is_remembered);
    assert!(!engine.operations.repository().is_read_only());
    assert_eq!(engine.operations.repository().store().known_damage(), []);
    engine.backup(full("v"));
    engine.close();
    let (_, is_remembered) = run();
    assert!(is_remembered);
    let engine = history.open();
    assert!(!engine.operations.repository().is_read_only());
    let known = engine.operations.repository().store().known_damage();
    assert_eq!(known.len(), 1);
    assert_eq!((known[0].pack, known[0].chunk.clone()), (pack, Some(entries[3].id.to_string())));
    engine.close();
    flip_bit(&history.path(ObjectName::Pack(pack)), place);
    assert!(run().0.is_sound());
    assert_eq!(history.open().operations.repository().store().known_damage(), [], "it is right again");
}

#[test]
fn a_backup_that_is_made_and_deleted_beside_the_check_is_no_damage() {
    let history = History::new();
    let engine = history.open();
    let turns = AtomicBool::new(false);
    let operations = Arc::clone(&engine.operations);
    let newest = history.backups[2];
    let tell = move |what: &'static str, done: u64, _| {
        // Between the lists and the manifests: what was listed goes, and something new comes.
        if what == "manifests" && done == 0 && !turns.swap(true, Ordering::SeqCst) {
            let request = DeleteRequest { backup: newest.to_string(), force: false };
            let deleted = operations.delete(&Requester::OPERATOR, &[request]).unwrap();
            operations.jobs().wait(deleted[0].job).unwrap();
            let made = operations.backup(&Requester::OPERATOR, &full("v")).unwrap();
            operations.jobs().wait(made.job).unwrap();
        }
    };
    let watch = Watch::new(Arc::new(AtomicBool::new(false)), Box::new(tell));
    let (report, is_remembered) =
        check_and_remember(&location(&history.repository()), &options(), Depth::Everything, &watch).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.counts.backups, 3);
    assert!(!is_remembered, "a daemon has the repository");
}

#[test]
fn a_check_that_is_stopped_leaves_nothing() {
    let history = History::new();
    for at in ["packs", "manifests", "backups"] {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        flip_bit(&history.path(ObjectName::Pack(history.packs()[0].0)), 100);
        let tell = move |what: &'static str, _, _| {
            if what == at {
                stopped.store(true, Ordering::SeqCst);
            }
        };
        let result = check_and_remember(
            &location(&history.repository()),
            &options(),
            Depth::Everything,
            &Watch::new(stop, Box::new(tell)),
        );
        // The last of them may come too late to stop anything.
        let is_stopped = matches!(result, Err(CheckError::Stopped));
        assert!(is_stopped || at == "backups", "{at}: {result:?}");
        assert_eq!(history.repository().join("index-state/damage").exists(), !is_stopped, "{at}");
    }
}

fn amberfs(arguments: &[&str], repository: &Path) -> (Option<i32>, Value, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_amberfs"))
        .args(arguments)
        .arg("--repo")
        .arg(repository)
        .args(["-f", "json"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or(Value::Null), said)
}

#[test]
fn the_command_says_it_in_json_and_by_its_exit_status() {
    let history = History::new();
    let repository = history.repository();
    let (status, said, _) = amberfs(&["repo", "check"], &repository);
    assert_eq!((status, &said["sound"], &said["level"]), (Some(0), &true.into(), &"full".into()));
    let (pack, entries) = history.packs().remove(0);
    let name = ObjectName::Pack(pack);
    flip_bit(&history.path(name), entries[0].offset as usize);
    let (status, said, error) = amberfs(&["repo", "check"], &repository);
    assert_eq!((status, &said["sound"]), (Some(1), &false.into()));
    assert!(error.contains("3 backups are hurt; 1 objects"), "{error}");
    let expected = hurt_ranges(&check_full(&repository));
    let hurt = said["hurt_backups"].as_array().unwrap();
    assert_eq!(hurt.len(), expected.len());
    for hurt in hurt {
        let id: BackupId = hurt["id"].as_str().unwrap().parse().unwrap();
        assert_eq!(hurt["ranges"][0]["start"], expected[&id][0].start());
        assert_eq!(hurt["ranges"][0]["end"], expected[&id][0].end());
    }
    let damaged = &said["damaged_objects"][0];
    assert_eq!(
        (damaged["path"].as_str().unwrap(), &damaged["places"][0]["range"]["start"]),
        (&*name.to_string(), &entries[0].offset.into())
    );
    let (status, said, _) = amberfs(&["repo", "check", "--quick"], &repository);
    assert_eq!((status, &said["level"]), (Some(0), &"quick".into()), "a quick check reads no chunk");
    let table = Command::new(env!("CARGO_BIN_EXE_amberfs"))
        .args(["repo", "check", "--repo"])
        .arg(&repository)
        .output();
    let table = String::from_utf8(table.unwrap().stdout).unwrap();
    assert!(table.contains(&name.to_string()) && table.contains(&history.backups[1].to_string()), "{table}");
}
