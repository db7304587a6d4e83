//! What `src/objects/mod.rs` promises, held against every implementation: each claim is a function over a fixture.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation is a failed test"
)]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use amberfs::objects::{
    DirectoryStore, MeasuredStore, ObjectEntry, ObjectError, ObjectKind, ObjectName, ObjectStore,
};
use amberfs::types::{BackupId, ManifestId, PackId};

use support::bytes::pattern;
use support::daemon::until;

/// An empty store, and what can be done to it behind its back.
trait Fixture {
    fn store(&self) -> &dyn ObjectStore;

    /// Opens the same store again, as another process would.
    fn open_again(&self) -> Arc<dyn ObjectStore>;

    /// Puts something there under a name that no object has.
    fn put_foreign(&self, name: &str);

    /// Everything that is there, whatever it is named.
    fn everything(&self) -> BTreeSet<String>;
}

struct DirectoryFixture {
    folder: tempfile::TempDir,
    store: Box<dyn ObjectStore>,
}

impl DirectoryFixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = DirectoryStore::create(folder.path()).unwrap();
        Self { folder, store: Box::new(store) }
    }

    /// One that is counted.
    fn measured() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = MeasuredStore::new(DirectoryStore::create(folder.path()).unwrap());
        Self { folder, store: Box::new(store) }
    }
}

impl Fixture for DirectoryFixture {
    fn store(&self) -> &dyn ObjectStore {
        self.store.as_ref()
    }

    fn open_again(&self) -> Arc<dyn ObjectStore> {
        Arc::new(DirectoryStore::open(self.folder.path()))
    }

    fn put_foreign(&self, name: &str) {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::File::create(path).unwrap();
    }

    fn everything(&self) -> BTreeSet<String> {
        support::tree::files(self.folder.path()).into_keys().collect()
    }
}

macro_rules! claims {
    ($($claim:ident)*) => {
        mod directory {
            $(#[test]
            fn $claim() {
                super::$claim(&super::DirectoryFixture::new());
            })*
        }

        mod measured {
            $(#[test]
            fn $claim() {
                super::$claim(&super::DirectoryFixture::measured());
            })*
        }
    };
}

claims! {
    an_object_is_read_in_any_ranges
    an_object_is_there_when_it_is_finished_and_not_before
    a_taken_name_is_refused_and_the_object_untouched
    of_many_writers_of_one_name_one_wins
    an_unfinished_writer_leaves_nothing
    a_read_past_the_end_is_truncated
    what_is_not_there_is_missing
    replace_puts_the_new_object_in_place_of_any_old_one
    readers_see_the_old_object_or_the_new_one_whole
    a_listing_has_each_object_of_its_kind_and_nothing_else
    an_empty_store_lists_nothing
    a_listing_tells_an_object_that_was_replaced_from_one_that_was_not
    remove_is_not_an_error_twice_and_the_object_is_gone
    a_removed_object_is_gone_for_readers_that_were_reading_it
    a_whole_object_is_read_up_to_its_bound
}

fn pack() -> ObjectName {
    ObjectName::Pack(PackId::random())
}

fn one_of_each_kind() -> [ObjectName; 4] {
    let (manifest, record) = (ManifestId::random(), BackupId::random());
    [ObjectName::Header, pack(), ObjectName::Manifest(manifest), ObjectName::Record(record)]
}

fn read(store: &dyn ObjectStore, name: ObjectName, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0xa5; length];
    store.read(name, offset, &mut bytes).unwrap();
    bytes
}

fn names(store: &dyn ObjectStore, kind: ObjectKind) -> BTreeSet<ObjectName> {
    let entries = store.list(kind).unwrap();
    let names: BTreeSet<_> = entries.iter().map(|entry| entry.name).collect();
    assert_eq!(names.len(), entries.len(), "a name is listed twice");
    names
}

fn an_object_is_read_in_any_ranges(fixture: &dyn Fixture) {
    let store = fixture.store();
    let bytes = pattern(1, 100_001);
    for name in one_of_each_kind() {
        let mut writer = store.create(name).unwrap();
        for piece in [&bytes[..1], &bytes[1..1], &bytes[1..70_000], &bytes[70_000..]] {
            writer.append(piece).unwrap();
        }
        writer.finish().unwrap();
        for store in [store, fixture.open_again().as_ref()] {
            assert_eq!(store.length(name).unwrap(), 100_001);
            for (offset, length) in [(0, 100_001), (0, 0), (1, 1), (69_999, 2), (100_000, 1), (100_001, 0)] {
                assert_eq!(read(store, name, offset as u64, length), bytes[offset..offset + length]);
            }
        }
    }
    store.put(pack(), b"").unwrap();
}

fn an_object_is_there_when_it_is_finished_and_not_before(fixture: &dyn Fixture) {
    for name in one_of_each_kind() {
        let mut writer = fixture.store().create(name).unwrap();
        writer.append(b"some bytes").unwrap();
        for store in [fixture.store(), fixture.open_again().as_ref()] {
            assert!(matches!(store.length(name), Err(ObjectError::Missing { name: n }) if n == name));
            assert!(
                matches!(store.read(name, 0, &mut [0]), Err(ObjectError::Missing { name: n }) if n == name)
            );
            assert!(ObjectKind::ALL.iter().all(|kind| names(store, *kind).is_empty()
                || name == ObjectName::Header
                || !names(store, *kind).contains(&name)));
        }
        writer.finish().unwrap();
        assert_eq!(read(fixture.open_again().as_ref(), name, 0, 10), b"some bytes");
        assert_eq!(read(fixture.store(), name, 0, 10), b"some bytes");
    }
}

fn a_taken_name_is_refused_and_the_object_untouched(fixture: &dyn Fixture) {
    for name in one_of_each_kind() {
        fixture.store().put(name, b"first").unwrap();
        let before = fixture.everything();
        let refused = fixture.store().put(name, b"the second one");
        assert!(matches!(refused, Err(ObjectError::Exists { name: n }) if n == name));
        assert_eq!(fixture.everything(), before, "the refused one leaves something");
        for store in [fixture.store(), fixture.open_again().as_ref()] {
            assert_eq!(store.length(name).unwrap(), 5);
            assert_eq!(read(store, name, 0, 5), b"first");
        }
    }
}

fn of_many_writers_of_one_name_one_wins(fixture: &dyn Fixture) {
    let name = pack();
    let store = fixture.open_again();
    let results: Vec<_> = thread::scope(|scope| {
        let writers: Vec<_> = (0..8_u8)
            .map(|n| {
                let store = &store;
                scope.spawn(move || (n, store.put(name, &[n; 1000])))
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let winners: Vec<u8> = results.iter().filter(|(_, result)| result.is_ok()).map(|(n, _)| *n).collect();
    assert_eq!(winners.len(), 1);
    assert!(results.iter().all(|(_, result)| matches!(result, Ok(()) | Err(ObjectError::Exists { .. }))));
    assert_eq!(read(fixture.store(), name, 0, 1000), [winners[0]; 1000]);
}

fn an_unfinished_writer_leaves_nothing(fixture: &dyn Fixture) {
    for name in one_of_each_kind() {
        let before = fixture.everything();
        let mut writer = fixture.store().create(name).unwrap();
        writer.append(&pattern(1, 100_000)).unwrap();
        drop(writer);
        assert_eq!(fixture.everything(), before);
        assert!(matches!(fixture.store().length(name), Err(ObjectError::Missing { .. })));
        fixture.store().put(name, b"the name is free").unwrap();
    }
}

fn a_read_past_the_end_is_truncated(fixture: &dyn Fixture) {
    for name in one_of_each_kind() {
        fixture.store().put(name, b"0123456789").unwrap();
        for (offset, length) in [(0_u64, 11_usize), (9, 2), (10, 1), (1000, 1), (u64::MAX / 2, 1)] {
            let error = fixture.store().read(name, offset, &mut vec![0; length]).unwrap_err();
            let ObjectError::Truncated { name: of, length: actual, wanted_end } = error else {
                panic!("{error}")
            };
            assert_eq!((of, actual, wanted_end), (name, 10, offset + length as u64));
        }
    }
}

fn what_is_not_there_is_missing(fixture: &dyn Fixture) {
    for name in one_of_each_kind() {
        let is_missing = |error: ObjectError| matches!(error, ObjectError::Missing { name: n } if n == name);
        assert!(is_missing(fixture.store().length(name).unwrap_err()));
        assert!(is_missing(fixture.store().read(name, 0, &mut [0]).unwrap_err()));
        assert!(is_missing(fixture.store().read_whole(name, 10).unwrap_err()));
        fixture.store().put(name, b"x").unwrap();
        assert_eq!(read(fixture.store(), name, 0, 1), b"x", "that it was missing is not remembered");
    }
}

fn replace_puts_the_new_object_in_place_of_any_old_one(fixture: &dyn Fixture) {
    for name in one_of_each_kind() {
        for bytes in [&b"first"[..], b"a longer second one", b"3"] {
            fixture.store().replace(name, bytes).unwrap();
            for store in [fixture.store(), fixture.open_again().as_ref()] {
                assert_eq!(store.length(name).unwrap(), bytes.len() as u64);
                // Read and kept open, so that the next turn meets a descriptor of the old one.
                assert_eq!(read(store, name, 0, bytes.len()), bytes);
                assert_eq!(store.read_whole(name, 100).unwrap(), bytes);
            }
        }
    }
    assert_eq!(fixture.everything().len(), 4, "{:?}", fixture.everything());
}

fn readers_see_the_old_object_or_the_new_one_whole(fixture: &dyn Fixture) {
    let name = ObjectName::Record(BackupId::random());
    let versions = [vec![1_u8; 10], vec![2; 30_000], vec![3; 2000]];
    let store = fixture.open_again();
    store.replace(name, &versions[0]).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            let reader = fixture.open_again();
            let (done, versions) = (&done, &versions);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let bytes = reader.read_whole(name, 1 << 20).unwrap();
                    assert!(
                        versions.contains(&bytes),
                        "{} bytes, the first is {:?}",
                        bytes.len(),
                        bytes.first()
                    );
                }
            });
        }
        let replaced = (0..300).try_for_each(|turn| store.replace(name, &versions[turn % 3]));
        done.store(true, Ordering::Relaxed);
        replaced.unwrap();
    });
}

fn a_listing_has_each_object_of_its_kind_and_nothing_else(fixture: &dyn Fixture) {
    let store = fixture.store();
    let objects: Vec<_> =
        (0..20).flat_map(|_| one_of_each_kind()).filter(|name| *name != ObjectName::Header).collect();
    for (length, name) in objects.iter().enumerate() {
        store.put(*name, &vec![1; length]).unwrap();
    }
    let id = PackId::random();
    let elsewhere = format!("packs/{:02x}/{id}", id.as_bytes()[0] ^ 1);
    let upper = BackupId::random().to_string().to_uppercase();
    let folder = format!("records/{}/x", BackupId::random());
    for foreign in [
        "packs/README",
        "packs/zz/README",
        "packs/00/.hidden",
        "manifests/lost+found/x",
        "records/.nfs0001",
        "records/a b \u{fc}",
        "stranger",
        &format!("packs/{id}"),
        &elsewhere,
        &format!("records/{upper}"),
        &folder,
    ] {
        fixture.put_foreign(foreign);
    }
    for store in [store, fixture.open_again().as_ref()] {
        let listed = ObjectKind::ALL.iter().flat_map(|kind| store.list(*kind).unwrap());
        let mut listed: Vec<_> = listed.map(|ObjectEntry { name, length, .. }| (length, name)).collect();
        listed.sort();
        let expected: Vec<_> =
            objects.iter().enumerate().map(|(length, name)| (length as u64, *name)).collect();
        assert_eq!(listed, expected);
    }
    for kind in ObjectKind::ALL {
        assert_eq!(names(store, kind).len(), 20);
    }
}

fn an_empty_store_lists_nothing(fixture: &dyn Fixture) {
    for kind in ObjectKind::ALL {
        assert_eq!(fixture.store().list(kind).unwrap(), []);
    }
}

fn a_listing_tells_an_object_that_was_replaced_from_one_that_was_not(fixture: &dyn Fixture) {
    let (replaced, untouched) =
        (ObjectName::Record(BackupId::random()), ObjectName::Record(BackupId::random()));
    let store = fixture.store();
    store.put(replaced, b"old").unwrap();
    store.put(untouched, b"old").unwrap();
    let reader = fixture.open_again();
    let stamp = |name| {
        let entries = reader.list(ObjectKind::Record).unwrap();
        entries.into_iter().find(|entry| entry.name == name).unwrap().stamp
    };
    let mut before = stamp(replaced);
    // As quickly as it goes, with as many bytes each time.
    for turn in 0..200_u8 {
        store.replace(replaced, &[turn; 3]).unwrap();
        let now = stamp(replaced);
        assert_ne!(now, before, "turn {turn}");
        before = now;
    }
    until("a stamp that stays", || (stamp(untouched) == stamp(untouched)).then_some(()));
    assert_eq!(stamp(untouched), stamp(untouched));
    assert_ne!(stamp(untouched), stamp(replaced));
}

fn remove_is_not_an_error_twice_and_the_object_is_gone(fixture: &dyn Fixture) {
    for name in one_of_each_kind() {
        fixture.store().remove(name).unwrap();
        fixture.store().put(name, b"x").unwrap();
        let other = ObjectName::Record(BackupId::random());
        fixture.store().put(other, b"other").unwrap();
        fixture.store().remove(name).unwrap();
        fixture.store().remove(name).unwrap();
        for store in [fixture.store(), fixture.open_again().as_ref()] {
            assert!(matches!(store.length(name), Err(ObjectError::Missing { .. })));
            assert!(ObjectKind::ALL.iter().all(|kind| !names(store, *kind).contains(&name)));
            assert_eq!(read(store, other, 0, 5), b"other");
        }
        fixture.store().put(name, b"again").unwrap();
        assert_eq!(read(fixture.store(), name, 0, 5), b"again");
    }
}

/// No descriptor that a reader keeps may bring a removed object back, whenever the reader opened it.
fn a_removed_object_is_gone_for_readers_that_were_reading_it(fixture: &dyn Fixture) {
    for turn in 0..400 {
        let name = pack();
        let store = fixture.store();
        store.put(name, b"0123456789").unwrap();
        let again = fixture.open_again();
        let done = AtomicBool::new(false);
        if turn % 2 == 0 {
            assert_eq!(read(again.as_ref(), name, 0, 10), b"0123456789");
        }
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut bytes = [0; 10];
                while !done.load(Ordering::Relaxed) && again.read(name, 0, &mut bytes).is_ok() {
                    assert_eq!(&bytes, b"0123456789");
                }
            });
            again.remove(name).unwrap();
            // A stale descriptor would keep the reader in its loop: it looks again after the removal.
            for _ in 0..1000 {
                if reader.is_finished() {
                    break;
                }
                thread::yield_now();
            }
            let after = again.read(name, 0, &mut [0; 10]);
            done.store(true, Ordering::Relaxed);
            assert!(matches!(after, Err(ObjectError::Missing { .. })), "turn {turn}: {after:?}");
        });
    }
}

fn a_whole_object_is_read_up_to_its_bound(fixture: &dyn Fixture) {
    for name in one_of_each_kind() {
        fixture.store().put(name, b"0123456789").unwrap();
        assert_eq!(fixture.store().read_whole(name, 10).unwrap(), b"0123456789");
        let error = fixture.store().read_whole(name, 9).unwrap_err();
        assert!(matches!(error, ObjectError::TooLong { name: n, length: 10, length_max: 9 } if n == name));
    }
}
