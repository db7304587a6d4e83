//! Damaged, cut and missing packs.

use std::collections::BTreeSet;

use amberfs::objects::{ObjectError, ObjectName};
use amberfs::store::StoreError;
use amberfs::types::ChunkId;

use crate::history::{CHUNK, History, flip_bit, truncate};
use crate::support::bytes::pattern;
use crate::support::engine::Engine;

fn ids(entries: &[amberfs::format::pack::PackEntry]) -> BTreeSet<ChunkId> {
    entries.iter().map(|entry| entry.id).collect()
}

/// Just the ranges of these chunks cannot be read, and all errors are the expected one.
fn assert_lost(
    history: &History,
    engine: &Engine,
    chunks: &BTreeSet<ChunkId>,
    is_expected: impl Fn(&StoreError) -> bool,
) {
    for (number, expected) in history.ranges_of(chunks).into_iter().enumerate() {
        let reading = history.read(engine, number);
        assert_eq!(reading.unreadable, expected, "image {number}");
        for error in reading.errors {
            assert!(is_expected(&error), "{error}: {error:?}");
        }
    }
}

#[test]
fn a_flipped_bit_costs_the_bytes_of_its_chunk_and_they_are_stored_again() {
    let whole = History::new();
    for (pack, entries) in whole.packs() {
        for entry in [entries[0], entries[entries.len() - 1]] {
            let history = History::new();
            let path = history.path(ObjectName::Pack(pack));
            flip_bit(&path, (entry.offset + entry.stored_length / 2) as usize);
            let engine = history.open();
            let lost = BTreeSet::from([entry.id]);
            assert!(!history.ranges_of(&lost).concat().is_empty());
            assert_lost(
                &history,
                &engine,
                &lost,
                |error| matches!(error, StoreError::ChunkCorrupt { id, pack: of, .. } if (*id, *of) == (entry.id, pack)),
            );
            history.assert_backed_up_again(engine);
        }
    }
}

#[test]
fn a_bit_anywhere_outside_the_chunks_costs_nothing() {
    for place in ["head", "entry", "tail"] {
        let history = History::new();
        let (pack, entries) = history.packs().remove(0);
        let path = history.path(ObjectName::Pack(pack));
        let length = std::fs::metadata(&path).unwrap().len() as usize;
        flip_bit(
            &path,
            match place {
                "head" => 3,
                "entry" => length - 64 - 48 * entries.len() + 5,
                _ => length - 50,
            },
        );
        let engine = history.open();
        history.assert_whole(&engine);
        // The footer is needed when the index is lost: what is backed up from now on does not count on it.
        history.assert_backed_up_again(engine);
    }
}

#[test]
fn without_the_index_a_damaged_footer_costs_the_pack() {
    let history = History::new();
    let (pack, entries) = history.packs().remove(0);
    let path = history.path(ObjectName::Pack(pack));
    let length = std::fs::metadata(&path).unwrap().len() as usize;
    flip_bit(&path, length - 1);
    history.delete_index();
    let engine = history.open();
    let is_missing = |error: &StoreError| matches!(error, StoreError::ChunkMissing { .. });
    assert_lost(&history, &engine, &ids(&entries), is_missing);
    history.assert_backed_up_again(engine);
}

#[test]
fn a_pack_that_is_gone_or_cut_at_the_start_costs_its_chunks() {
    for length in [None, Some(0), Some(10), Some(100_000)] {
        for number in 0..3 {
            for incremental in [false, true] {
                let history = History::new();
                let (pack, entries) = history.packs().remove(number);
                let path = history.path(ObjectName::Pack(pack));
                match length {
                    None => std::fs::remove_file(&path).unwrap(),
                    Some(length) => truncate(&path, length.min(std::fs::metadata(&path).unwrap().len() - 1)),
                }
                let engine = history.open();
                let is_missing = |error: &StoreError| matches!(error, StoreError::ChunkMissing { .. });
                assert_lost(&history, &engine, &ids(&entries), is_missing);
                if incremental {
                    history.assert_incremental_is_whole(engine);
                } else {
                    history.assert_backed_up_again(engine);
                }
            }
        }
    }
}

/// Nobody has read anything: the backup itself has to notice.
#[test]
fn a_pack_that_goes_or_is_cut_while_the_repository_is_open_is_not_counted_on() {
    for length in [None, Some(0), Some(100_000)] {
        for incremental in [false, true] {
            for read_before in [false, true] {
                let history = History::new();
                let (pack, _) = history.packs().remove(0);
                let path = history.path(ObjectName::Pack(pack));
                let engine = history.open();
                if read_before {
                    history.assert_whole(&engine);
                    // That a pack was there for an earlier backup says nothing for the next one.
                    engine.backup(crate::support::engine::full("v"));
                }
                match length {
                    None => std::fs::remove_file(&path).unwrap(),
                    Some(length) => truncate(&path, length),
                }
                if incremental {
                    history.assert_incremental_is_whole(engine);
                } else {
                    history.assert_backed_up_again(engine);
                }
            }
        }
    }
}

#[test]
fn a_pack_that_is_cut_or_gone_while_it_is_read_has_its_own_errors() {
    let history = History::new();
    let (pack, entries) = history.packs().remove(0);
    let name = ObjectName::Pack(pack);
    let engine = history.open();
    truncate(&history.path(name), 100_000);
    let lost = entries
        .iter()
        .filter(|entry| entry.offset + entry.stored_length > 100_000)
        .map(|entry| entry.id)
        .collect();
    assert_lost(
        &history,
        &engine,
        &lost,
        |error| matches!(error, StoreError::Object(ObjectError::Truncated { name: of, length: 100_000, .. }) if *of == name),
    );

    let history = History::new();
    let engine = history.open();
    // Not by the store, which would forget its descriptor: none is open yet.
    std::fs::remove_file(history.path(name)).unwrap();
    assert_lost(
        &history,
        &engine,
        &ids(&entries),
        |error| matches!(error, StoreError::Object(ObjectError::Missing { name: of }) if *of == name),
    );
}

#[test]
fn a_chunk_that_two_packs_have_is_read_from_the_good_one() {
    let bytes = pattern(77, CHUNK);
    let id = ChunkId::of(&bytes);
    for damaged in [vec![0], vec![1], vec![0, 1]] {
        for gone in [false, true] {
            let history = History::new();
            let before: BTreeSet<_> = history.packs().into_iter().map(|(pack, _)| pack).collect();
            let engine = history.open();
            let store = engine.operations.repository().store();
            let sessions = [store.session(), store.session()];
            let mut writers = sessions.each_ref().map(|session| session.writer());
            for (writer, session) in writers.iter_mut().zip(&sessions) {
                writer.add(session.prepare(&bytes).unwrap()).unwrap();
            }
            for writer in writers {
                assert_eq!(writer.finish().unwrap().chunk_count, 1);
            }
            drop(sessions);
            engine.close();
            let packs: Vec<_> =
                history.packs().into_iter().filter(|(pack, _)| !before.contains(pack)).collect();
            assert_eq!(packs.len(), 2);
            for number in &damaged {
                let (pack, entries) = &packs[*number];
                let path = history.path(ObjectName::Pack(*pack));
                if gone {
                    std::fs::remove_file(&path).unwrap();
                } else {
                    flip_bit(&path, entries[0].offset as usize);
                }
            }
            let engine = history.open();
            let store = engine.operations.repository().store();
            let loaded = store.load(id);
            assert_eq!(loaded.is_ok(), damaged.len() == 1, "{damaged:?}");
            if let Ok(loaded) = loaded {
                assert_eq!(loaded[..], bytes[..]);
                assert!(store.contains(id).unwrap(), "the good one counts");
            } else {
                assert!(!store.contains(id).unwrap(), "none counts");
            }
            history.assert_whole(&engine);
        }
    }
}

#[test]
fn a_writer_that_counted_on_a_pack_does_not_finish_when_it_is_found_damaged_meanwhile() {
    let history = History::new();
    let (pack, entries) = history.packs().remove(0);
    let engine = history.open();
    let store = engine.operations.repository().store();
    let bytes = &history.images[0][..CHUNK];
    let id = ChunkId::of(bytes);
    let entry = entries.iter().find(|entry| entry.id == id).unwrap();
    for is_damaged in [false, true] {
        let session = store.session();
        let mut writer = session.writer();
        writer.add(session.prepare(bytes).unwrap()).unwrap();
        if is_damaged {
            flip_bit(&history.path(ObjectName::Pack(pack)), entry.offset as usize);
            assert!(store.load(id).is_err());
        }
        let finished = writer.finish();
        if is_damaged {
            let error = finished.unwrap_err();
            assert!(matches!(error, StoreError::PackDamaged { pack: of } if of == pack), "{error:?}");
        } else {
            assert_eq!(finished.unwrap().chunk_count, 0, "it is there already");
        }
    }
    let session = store.session();
    let mut writer = session.writer();
    writer.add(session.prepare(bytes).unwrap()).unwrap();
    assert_eq!(writer.finish().unwrap().chunk_count, 1, "the next one stores it again");
    assert_eq!(store.load(id).unwrap()[..], *bytes);
}
