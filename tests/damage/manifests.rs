//! Damaged, cut and missing manifests.

use std::sync::Arc;

use amberfs::format::manifest::{TAIL_LENGTH, Tail};
use amberfs::image::Image;
use amberfs::objects::{ObjectError, ObjectName};
use amberfs::repository::RepositoryError;
use amberfs::store::StoreError;

use crate::history::{History, flip_bit, truncate};
use crate::support::engine::Engine;

fn open_image(history: &History, engine: &Engine, number: usize) -> Result<Arc<Image>, RepositoryError> {
    engine.operations.repository().image(history.backups[number])
}

fn manifest_id(name: ObjectName) -> amberfs::types::ManifestId {
    let ObjectName::Manifest(id) = name else { panic!("{name} is no manifest") };
    id
}

/// The backup and those that lean on it cannot be opened; the ones before it read as ever, and new ones are whole.
fn assert_chain_is_lost_from(history: History, number: usize, is_expected: impl Fn(&StoreError) -> bool) {
    let engine = history.open();
    for lost in number..3 {
        let Err(RepositoryError::Store(error)) = open_image(&history, &engine, lost) else {
            panic!("image {lost} opens")
        };
        assert!(is_expected(&error), "{error:?}");
    }
    for kept in 0..number {
        assert_eq!(history.read(&engine, kept).unreadable, []);
    }
    let record = history.assert_incremental_is_whole(engine);
    assert_eq!(
        record.parent_id,
        number.checked_sub(1).map(|number| history.backups[number]),
        "the newest whole one"
    );
    history.assert_backed_up_again(history.open());
}

#[test]
fn a_manifest_that_is_gone_is_missing() {
    for number in 0..3 {
        let history = History::new();
        let name = history.manifest(number);
        std::fs::remove_file(history.path(name)).unwrap();
        assert_chain_is_lost_from(
            history,
            number,
            |error| matches!(error, StoreError::Object(ObjectError::Missing { name: of }) if *of == name),
        );
    }
}

#[test]
fn a_manifest_that_was_cut_is_truncated() {
    for number in 0..3 {
        for length in [0, 10, 200] {
            let history = History::new();
            let name = history.manifest(number);
            truncate(&history.path(name), length);
            assert_chain_is_lost_from(
                history,
                number,
                |error| matches!(error, StoreError::Object(ObjectError::Truncated { name: of, length: l, .. }) if (*of, *l) == (name, length)),
            );
        }
    }
}

#[test]
fn a_flipped_bit_in_tail_or_root_is_noticed_when_the_image_is_opened() {
    for number in 0..3 {
        for place in ["tail", "root"] {
            let history = History::new();
            let name = history.manifest(number);
            let path = history.path(name);
            let bytes = std::fs::read(&path).unwrap();
            let tail = Tail::decode(bytes.last_chunk::<TAIL_LENGTH>().unwrap(), bytes.len() as u64).unwrap();
            flip_bit(&path, if place == "tail" { bytes.len() - 30 } else { tail.root_position as usize + 9 });
            assert_chain_is_lost_from(
                history,
                number,
                |error| matches!(error, StoreError::ManifestCorrupt { id, .. } if *id == manifest_id(name)),
            );
        }
    }
}

#[test]
fn a_flipped_bit_in_the_head_or_the_copy_of_the_record_costs_no_byte() {
    let history = History::new();
    for number in 0..3 {
        let path = history.path(history.manifest(number));
        let bytes = std::fs::read(&path).unwrap();
        let tail = Tail::decode(bytes.last_chunk::<TAIL_LENGTH>().unwrap(), bytes.len() as u64).unwrap();
        flip_bit(&path, 12);
        flip_bit(&path, tail.about_position as usize + 5);
    }
    let engine = history.open();
    history.assert_whole(&engine);
    history.assert_incremental_is_whole(engine);
}

/// A leaf of the full backup: what the incrementals brought themselves can still be read.
#[test]
fn a_flipped_bit_in_a_leaf_costs_what_only_the_leaf_tells() {
    let history = History::new();
    let name = history.manifest(0);
    flip_bit(&history.path(name), 16 + 20);
    let engine = history.open();
    for number in 0..3 {
        let reading = history.read(&engine, number);
        for error in &reading.errors {
            assert!(
                matches!(**error, StoreError::ManifestCorrupt { id, .. } if id == manifest_id(name)),
                "{error:?}"
            );
        }
        let size = history.images[number].len() as u64;
        let lost: u64 = reading.unreadable.iter().map(|range| range.below(size).len()).sum();
        if number == 0 {
            assert_eq!(lost, size);
        } else {
            // A whole chunk and a change within 5000 bytes, and what was zeroed.
            let own = [(64 << 10) + 3 * 4096, 4096].map(|bytes| size - number as u64 * bytes);
            assert!(lost >= own[0] && lost <= own[1], "{lost} of {size} in image {number}: {own:?}");
        }
    }
    let record = history.assert_incremental_is_whole(engine);
    assert_eq!(record.parent_id, Some(history.backups[2]), "its chain opens");
    history.assert_backed_up_again(history.open());
}

#[test]
fn a_leaf_of_an_incremental_costs_what_the_chain_has_there() {
    let history = History::new();
    let name = history.manifest(2);
    flip_bit(&history.path(name), 16 + 20);
    let engine = history.open();
    for kept in 0..2 {
        assert_eq!(history.read(&engine, kept).unreadable, []);
    }
    let reading = history.read(&engine, 2);
    assert!(!reading.errors.is_empty());
    for error in &reading.errors {
        assert!(
            matches!(**error, StoreError::ManifestCorrupt { id, .. } if id == manifest_id(name)),
            "{error:?}"
        );
    }
    history.assert_incremental_is_whole(engine);
}
