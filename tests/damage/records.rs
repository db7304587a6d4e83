//! Damaged, cut and missing records, and the header.

use amberfs::catalog::CatalogError;
use amberfs::format::FormatError;
use amberfs::format::codec::Compression;
use amberfs::objects::ObjectName;
use amberfs::repository::{Location, Repository, RepositoryError, RepositoryOptions};

use crate::history::{History, flip_bit, truncate};

/// What is done to a file, and what to call it.
type Damage = (&'static str, fn(&std::path::Path));

fn damages() -> [Damage; 5] {
    [
        ("deleted", |path| std::fs::remove_file(path).unwrap()),
        ("empty", |path| truncate(path, 0)),
        ("cut", |path| truncate(path, std::fs::metadata(path).unwrap().len() - 2)),
        ("flipped", |path| flip_bit(path, 150)),
        ("garbage", |path| std::fs::write(path, [0xff; 5000]).unwrap()),
    ]
}

#[test]
fn a_lost_record_costs_its_backup_and_those_that_lean_on_it() {
    for (what, damage) in damages() {
        for number in 0..3 {
            let history = History::new();
            damage(&history.path(ObjectName::Record(history.backups[number])));
            let engine = history.open();
            let repository = engine.operations.repository();
            assert_eq!(repository.catalog().count(), 2, "{what}: the others are listed");
            for kept in 0..number {
                assert_eq!(history.read(&engine, kept).unreadable, []);
            }
            let lost = history.backups[number];
            let error = repository.image(lost).err().unwrap();
            assert!(
                matches!(error, RepositoryError::Catalog(CatalogError::NotFound { id }) if id == lost),
                "{error:?}"
            );
            for leaning in &history.backups[number + 1..] {
                let error = repository.image(*leaning).err().unwrap();
                let RepositoryError::Catalog(CatalogError::BrokenChain { id, parent }) = error else {
                    panic!("{error}")
                };
                assert_eq!((id, parent), (*leaning, lost));
            }
            let record = history.assert_incremental_is_whole(engine);
            assert_eq!(
                record.parent_id,
                number.checked_sub(1).map(|number| history.backups[number]),
                "{what}"
            );
            history.assert_backed_up_again(history.open());
        }
    }
}

#[test]
fn a_record_under_another_name_is_not_believed() {
    let history = History::new();
    let [first, last] = [0, 2].map(|number| history.path(ObjectName::Record(history.backups[number])));
    std::fs::rename(first, last).unwrap();
    let engine = history.open();
    let records = engine.operations.repository().catalog().all();
    assert_eq!(records.iter().map(|record| record.id).collect::<Vec<_>>(), [history.backups[1]]);
}

#[test]
fn without_its_header_a_folder_is_not_opened_and_not_changed() {
    for (what, damage) in damages() {
        let history = History::new();
        damage(&history.path(ObjectName::Header));
        let before = crate::support::tree::files(&history.repository());
        let options = RepositoryOptions { index: None, compression: Compression::None, cache_bytes: 1 << 20 };
        let error = Repository::open(&Location::Directory(history.repository()), &options).err().unwrap();
        match what {
            "deleted" => assert!(matches!(error, RepositoryError::NotARepository { .. }), "{error:?}"),
            "cut" => {
                assert!(matches!(error, RepositoryError::Format(FormatError::TooShort { .. })), "{error:?}")
            }
            "flipped" => {
                assert!(matches!(error, RepositoryError::Format(FormatError::Checksum { .. })), "{error:?}")
            }
            _ => {
                assert!(matches!(error, RepositoryError::Format(FormatError::WrongMagic { .. })), "{error:?}")
            }
        }
        assert!(crate::support::tree::files(&history.repository()) == before, "{what}");
        assert!(
            Repository::create(&Location::Directory(history.repository()), amberfs::types::ByteSize(65_536))
                .is_err()
        );
    }
}

#[test]
fn folders_that_a_copy_lacks_are_empty_ones() {
    let history = History::new();
    for folder in ["tmp", "index", "packs", "manifests", "records"] {
        std::fs::remove_dir_all(history.repository().join(folder)).unwrap();
    }
    let engine = history.open();
    assert_eq!(engine.operations.repository().catalog().count(), 0);
    history.assert_backed_up_again(engine);
}
