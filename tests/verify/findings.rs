//! Damage of every kind: the backups that it concerns are errors and say where, the others stay available.

use std::collections::BTreeSet;

use amberfs::catalog::BackupStatus;
use amberfs::format::manifest::{TAIL_LENGTH, Tail, decode_references};
use amberfs::jobs::JobState;
use amberfs::objects::ObjectName;
use amberfs::operations::{Requester, VerifyRequest};
use amberfs::types::{ByteRange, ChunkId, PackId, RefusalKind};

use crate::history::{History, flip_bit, truncate};
use crate::support::engine::{Engine, full, incremental};
use crate::work::{all, assert_right, damaged, in_blocks, one, record, verify, wait_for_all};

/// The grain in which the history reads its images.
const PROBE: u64 = 4096;

/// Verifies all: errors are those, and only those, of which something is damaged, and they say what.
fn assert_found(history: &History, engine: &Engine, expected: &[Vec<ByteRange>]) {
    verify(engine, &all());
    for (number, expected) in expected.iter().enumerate() {
        let record = record(engine, history.backups[number]);
        let found = in_blocks(&damaged(&record), PROBE);
        assert_eq!(&found, expected, "backup {number}: {:?}", record.fail_reason);
        let is_right = expected.is_empty();
        let status = if is_right { BackupStatus::Available } else { BackupStatus::Error };
        assert_eq!((record.status, record.damage.is_none()), (status, is_right), "backup {number}");
        assert_eq!(record.fail_reason.is_none(), is_right);
        assert!(record.last_verified_at.is_some(), "all of it was read");
        assert_eq!(record.image_sha256.is_some(), is_right);
        if let Some(damage) = &record.damage {
            let exact: u64 = damaged(&record).iter().map(|range| range.len()).sum();
            assert_eq!(damage.ranges.bytes, exact, "few enough to be listed one by one");
            let reason = record.fail_reason.clone().unwrap();
            assert!(reason.starts_with(&format!("damaged: {}", damage.ranges)), "{reason}");
        }
    }
}

/// What reading in small pieces cannot read is what a verification finds.
fn assert_found_what_cannot_be_read(history: &History, engine: &Engine) -> Vec<Vec<ByteRange>> {
    let unreadable: Vec<_> = (0..3).map(|number| history.read(engine, number).unreadable).collect();
    assert_found(history, engine, &unreadable);
    unreadable
}

fn pack_path(history: &History, pack: PackId) -> std::path::PathBuf {
    history.path(ObjectName::Pack(pack))
}

#[test]
fn nothing_is_found_where_nothing_is_wrong_and_the_sha256_is_that_of_the_image() {
    let history = History::new();
    let engine = history.open();
    assert_found(&history, &engine, &[vec![], vec![], vec![]]);
    for (number, image) in history.images.iter().enumerate() {
        // A chunk's id is the SHA-256 of its bytes, too.
        let expected = ChunkId::of(image).to_string();
        assert_eq!(record(&engine, history.backups[number]).image_sha256, Some(expected));
    }
}

#[test]
fn a_flipped_bit_in_a_chunk_is_found_in_all_backups_that_need_it_and_nowhere_else() {
    let packs = History::new().packs();
    for (number, (pack, entries)) in packs.iter().enumerate() {
        for entry in [entries.first().unwrap(), entries.last().unwrap()] {
            let history = History::new();
            // The engine has it open, and in the kernel's memory; or not.
            let before = (number == 0).then(|| history.open());
            flip_bit(&pack_path(&history, *pack), entry.offset as usize + entry.stored_length as usize / 2);
            let engine = before.unwrap_or_else(|| history.open());
            let expected = history.ranges_of(&BTreeSet::from([entry.id]));
            assert!(expected.iter().any(|ranges| !ranges.is_empty()));
            assert_found(&history, &engine, &expected);
            assert_eq!(assert_found_what_cannot_be_read(&history, &engine), expected, "and again");
        }
    }
}

#[test]
fn packs_that_are_gone_or_cut_off_and_lists_that_are_damaged_cost_all_their_chunks() {
    let packs = History::new().packs();
    for (pack, entries) in &packs {
        for kind in ["missing", "cut", "list"] {
            for is_open in [true, false] {
                let history = History::new();
                let path = pack_path(&history, *pack);
                let length = std::fs::metadata(&path).unwrap().len();
                let before = is_open.then(|| history.open());
                match kind {
                    "missing" => std::fs::remove_file(&path).unwrap(),
                    "cut" => truncate(&path, length - 1),
                    _ => flip_bit(&path, usize::try_from(length).unwrap() - 64 - 20),
                }
                if !is_open && kind == "list" {
                    // With the index the daemon would not look at the list.
                    history.delete_index();
                }
                let engine = before.unwrap_or_else(|| history.open());
                let chunks: BTreeSet<ChunkId> = entries.iter().map(|entry| entry.id).collect();
                assert_found(&history, &engine, &history.ranges_of(&chunks));
            }
        }
    }
}

#[test]
fn damaged_manifests_cost_what_only_they_tell() {
    for number in 0..3 {
        for place in ["leaf", "branch", "root", "tail", "cut", "missing"] {
            let history = History::new();
            let path = history.path(history.manifest(number));
            let bytes = std::fs::read(&path).unwrap();
            let tail = Tail::decode(bytes.last_chunk::<TAIL_LENGTH>().unwrap(), bytes.len() as u64).unwrap();
            let root = usize::try_from(tail.root_position).unwrap();
            let references =
                decode_references(&bytes[root..root + usize::try_from(tail.root_length).unwrap()]).unwrap();
            match place {
                "leaf" => flip_bit(&path, 16 + 20),
                "branch" => flip_bit(&path, usize::try_from(references[0].position).unwrap() + 5),
                "root" => flip_bit(&path, root + 9),
                "tail" => flip_bit(&path, bytes.len() - 30),
                "cut" => truncate(&path, 200),
                _ => std::fs::remove_file(&path).unwrap(),
            }
            let engine = history.open();
            if matches!(place, "leaf" | "branch") {
                let found = assert_found_what_cannot_be_read(&history, &engine);
                assert!(found[..number].iter().all(Vec::is_empty) && !found[number].is_empty(), "{found:?}");
            } else {
                let whole = in_blocks(&[ByteRange::new(0, history.images[0].len() as u64)], PROBE);
                let expected: Vec<_> =
                    (0..3).map(|of| if of < number { vec![] } else { whole.clone() }).collect();
                assert_found(&history, &engine, &expected);
            }
        }
    }
}

#[test]
fn what_is_wrong_beside_the_image_fails_the_verification_and_not_the_backup() {
    for place in ["head", "about"] {
        let history = History::new();
        let path = history.path(history.manifest(1));
        let bytes = std::fs::read(&path).unwrap();
        let tail = Tail::decode(bytes.last_chunk::<TAIL_LENGTH>().unwrap(), bytes.len() as u64).unwrap();
        let position = if place == "head" { 12 } else { usize::try_from(tail.about_position).unwrap() + 5 };
        flip_bit(&path, position);
        let engine = history.open();
        let reports = verify(&engine, &one(history.backups[1]));
        let sentence = reports[0].error.as_ref().unwrap().sentence.clone();
        assert!(sentence.contains("the image of backup") && sentence.contains("manifest"), "{sentence}");
        let record = record(&engine, history.backups[1]);
        assert_eq!((record.status, &record.damage), (BackupStatus::Available, &None));
        assert!(record.image_sha256.is_some());
        // For the second incremental it is only part of the chain.
        assert_right(&engine, history.backups[2]);
    }
}

#[test]
fn a_damaged_record_is_written_again_by_the_daemon_that_knows_it() {
    for kind in ["flipped", "cut", "missing"] {
        let history = History::new();
        let engine = history.open();
        let path = history.path(ObjectName::Record(history.backups[1]));
        match kind {
            "flipped" => flip_bit(&path, 200),
            "cut" => truncate(&path, 100),
            _ => std::fs::remove_file(&path).unwrap(),
        }
        let reports = verify(&engine, &all());
        for (report, state) in reports.iter().map(|report| (report, report.state)) {
            let is_it = report.backup == Some(history.backups[1].to_string());
            assert_eq!(state, if is_it { JobState::Failed } else { JobState::Done });
            assert!(!is_it || report.error.as_ref().unwrap().sentence.contains("its record"), "{report:?}");
        }
        assert_right(&engine, history.backups[1]);
        engine.close();
        let engine = history.open();
        assert_eq!(record(&engine, history.backups[1]).status, BackupStatus::Available);
    }
}

#[test]
fn a_damaged_backup_is_no_parent_and_is_healed_by_a_later_backup_of_the_same_bytes() {
    let history = History::new();
    let engine = history.open();
    let (pack, entries) = history.packs().swap_remove(0);
    flip_bit(&pack_path(&history, pack), entries[0].offset as usize + 3);
    verify(&engine, &all());
    let is_damaged = |id| record(&engine, id).is_damaged();
    let damaged_ones: Vec<_> = history.backups.iter().copied().filter(|id| is_damaged(*id)).collect();
    assert!(damaged_ones.contains(&history.backups[2]), "the newest needs the chunk");
    for id in &damaged_ones {
        let refused =
            engine.operations.reset_state(&Requester::OPERATOR, &id.to_string(), BackupStatus::Available);
        let refusal = refused.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::InvalidState);
        assert!(refusal.sentence.contains("is damaged: "), "{}", refusal.sentence);
    }
    let next = engine.backup(incremental("v"));
    assert!(next.parent_id.is_none_or(|parent| !damaged_ones.contains(&parent)), "{:?}", next.parent_id);
    // It is known after a restart, too.
    engine.close();
    let engine = history.open();
    assert!(damaged_ones.iter().all(|id| record(&engine, *id).is_damaged()));
    engine.backup(full("v"));
    for id in damaged_ones {
        let record = assert_right(&engine, id);
        assert_eq!(record.fail_reason, None);
    }
    history.assert_whole(&engine);
}

#[test]
fn another_sha256_than_that_of_an_earlier_verification_is_damage() {
    let history = History::new();
    let engine = history.open();
    let id = history.backups[0];
    let right = assert_right(&engine, id).image_sha256.clone();
    let catalog = engine.operations.repository().catalog();
    catalog.update(id, |record| record.image_sha256 = Some("0".repeat(64))).unwrap();
    let report = verify(&engine, &one(id)).swap_remove(0);
    let sentence = report.error.unwrap().sentence;
    assert!(sentence.contains("SHA-256") && sentence.contains(&right.clone().unwrap()), "{sentence}");
    let found = record(&engine, id);
    assert_eq!(damaged(&found), [ByteRange::new(0, history.images[0].len() as u64)]);
    assert_eq!(found.status, BackupStatus::Error);
    catalog.update(id, |record| record.image_sha256 = right).unwrap();
    assert_right(&engine, id);
}

#[test]
fn the_others_of_a_chain_are_verified_when_one_is_found_damaged() {
    let history = History::new();
    let engine = history.open();
    let (pack, entries) = history.packs().swap_remove(0);
    flip_bit(&pack_path(&history, pack), entries[0].offset as usize + 3);
    let expected = history.ranges_of(&BTreeSet::from([entries[0].id]));
    // Only the newest is asked for.
    verify(&engine, &one(history.backups[2]));
    wait_for_all(&engine);
    for (id, expected) in history.backups.iter().zip(expected) {
        assert_eq!(in_blocks(&damaged(&record(&engine, *id)), PROBE), expected);
    }
    let verified = engine.operations.jobs().reports();
    assert_eq!(verified.iter().filter(|report| report.kind == "verify").count(), 3, "each once");
}

#[test]
fn a_repository_that_is_gone_altogether_says_nothing_of_its_backups() {
    let history = History::new();
    let engine = history.open();
    let away = history.repository().with_extension("away");
    std::fs::rename(history.repository(), &away).unwrap();
    let report = verify(&engine, &one(history.backups[0])).swap_remove(0);
    assert_eq!(report.state, JobState::Failed);
    let sentence = report.error.unwrap().sentence;
    assert!(sentence.contains("cannot be read"), "{sentence}");
    // What the daemon remembers of itself was made again.
    std::fs::remove_dir_all(history.repository()).unwrap();
    std::fs::rename(&away, history.repository()).unwrap();
    let found = record(&engine, history.backups[0]);
    assert_eq!((found.status, &found.damage), (BackupStatus::Available, &None));
}

#[test]
fn the_stalest_are_first_and_those_that_were_verified_since_are_left_out() {
    let history = History::new();
    let engine = history.open();
    let [oldest, middle, newest] = [history.backups[0], history.backups[1], history.backups[2]];
    let ids = |request: &VerifyRequest| -> Vec<_> {
        let accepted = engine.operations.verify(&Requester::OPERATOR, request).unwrap();
        wait_for_all(&engine);
        accepted.iter().map(|one| one.backup).collect()
    };
    assert_eq!(ids(&one(oldest)), [oldest]);
    assert_eq!(ids(&all()), [middle, newest, oldest], "those that were never verified are the stalest");
    let cutoff = record(&engine, newest).last_verified_at;
    assert_eq!(ids(&VerifyRequest { not_since: cutoff, ..all() }), [middle]);
    let of_volume = VerifyRequest { volume: Some("local/v".to_owned()), all: false, ..all() };
    assert_eq!(ids(&of_volume), [newest, oldest, middle]);
    let unknown = VerifyRequest { volume: Some("w".to_owned()), all: false, ..all() };
    let refusal = engine.operations.verify(&Requester::OPERATOR, &unknown).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::VolumeNotFound);
}
