//! Claims about snapshots.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use amberfs::source::{Changes, Consistency, ExtentKind, InUse, SourceError};
use amberfs::types::ByteRange;

use crate::support::bytes::pattern;
use crate::{Fixture, assert_same, extents, only_data, read_all, snapshot_name, snapshot_of, volume};

pub fn a_snapshot_has_the_bytes_of_its_moment_whoever_writes_later(fixture: &dyn Fixture) {
    let (before, after) = (pattern(1, 300_000), pattern(2, 300_000));
    fixture.make("v", 300_000, &[(0, &before)]);
    let snapshot = snapshot_of(fixture, "v");
    assert_eq!(snapshot.consistency(), fixture.consistency().0);
    assert_eq!(snapshot.info().size_bytes, 300_000);
    let has_written = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            // A held volume makes its user wait here until the snapshot is dropped, and the kernel tells this
            // process so by a signal, which it must survive.
            fixture.write("v", 0, &after);
            has_written.store(true, Ordering::SeqCst);
        });
        if snapshot.consistency() == Consistency::Frozen {
            while !has_written.load(Ordering::SeqCst) {
                thread::yield_now();
            }
        }
        for _ in 0..50 {
            assert_same(&read_all(&*snapshot).unwrap(), &before);
        }
        snapshot.confirm().unwrap();
        if snapshot.consistency() == Consistency::Held {
            assert!(!has_written.load(Ordering::SeqCst));
        }
        drop(snapshot);
    });
    assert_same(&fixture.content("v"), &after);
    let later = fixture.source().create_snapshot(&volume("v"), &snapshot_name("later"), InUse::Refuse);
    assert_same(&read_all(&*later.unwrap()).unwrap(), &after);
}

pub fn a_snapshot_of_any_size_is_exact(fixture: &dyn Fixture) {
    for size in [0_usize, 1, 511, 512, 513, 4095, 4097, 1_000_003] {
        let (name, bytes) = (format!("v{size}"), pattern(size as u64, size));
        fixture.make(&name, size as u64, &[(0, &bytes)]);
        let snapshot = snapshot_of(fixture, &name);
        assert_eq!(snapshot.info().size_bytes, size as u64);
        assert_same(&read_all(&*snapshot).unwrap(), &bytes);
        let found = extents(size as u64, |emit| snapshot.allocated(emit));
        assert_same(&only_data(&bytes, &found), &bytes);
        snapshot.confirm().unwrap();
    }
}

pub fn a_snapshot_reads_many_ranges_in_any_order_and_refuses_wrong_ones(fixture: &dyn Fixture) {
    let bytes = pattern(3, 100_001);
    fixture.make("v", 100_001, &[(0, &bytes)]);
    let snapshot = snapshot_of(fixture, "v");
    let ranges = [(100_000, 1), (0, 0), (513, 70_000), (0, 512), (100_001, 0), (7, 9)];
    let expected: Vec<u8> =
        ranges.iter().flat_map(|(start, len)| &bytes[*start..start + len]).copied().collect();
    let ranges = ranges.map(|(start, len)| ByteRange::new(start as u64, len as u64));
    let mut into = vec![0; expected.len()];
    snapshot.read(&ranges, &mut into).unwrap();
    assert_same(&into, &expected);
    snapshot.read(&[], &mut []).unwrap();
    for wrong in [ByteRange::new(0, 9), ByteRange::new(0, 11), ByteRange::new(99_992, 10)] {
        assert!(snapshot.read(&[wrong], &mut [0; 10]).is_err(), "{wrong}");
    }
    snapshot.confirm().unwrap();
}

pub fn what_is_not_allocated_reads_as_zeros(fixture: &dyn Fixture) {
    let size = (64 << 20) + 513;
    let bytes = pattern(4, 5000);
    let places = [0, 3_000_001, 33 << 20, size - 5000];
    let pieces = places.map(|place| (place, &bytes[..]));
    fixture.make("v", size, &pieces);
    let snapshot = snapshot_of(fixture, "v");
    let found = extents(size, |emit| snapshot.allocated(emit));
    let all = read_all(&*snapshot).unwrap();
    assert_same(&only_data(&all, &found), &all);
    for place in places {
        assert_same(&all[usize::try_from(place).unwrap()..][..5000], &bytes);
    }
    let data: u64 = found.iter().map(|extent| extent.range.len()).sum();
    assert!(data < size, "all {size} bytes are called data");
    fixture.make("empty", 32 << 20, &[]);
    let snapshot =
        fixture.source().create_snapshot(&volume("empty"), &snapshot_name("s"), InUse::Refuse).unwrap();
    let found = extents(32 << 20, |emit| snapshot.allocated(emit));
    assert!(found.iter().all(|extent| extent.kind == ExtentKind::Zero), "{found:?}");
}

pub fn an_error_of_the_receiver_stops_the_enumeration(fixture: &dyn Fixture) {
    let bytes = pattern(5, 4096);
    fixture.make("v", 40 << 20, &[(0, &bytes), (20 << 20, &bytes)]);
    let snapshot = snapshot_of(fixture, "v");
    let mut received = 0;
    let stopped = snapshot.allocated(&mut |_| {
        received += 1;
        Err(SourceError::Stopped)
    });
    assert!(matches!(stopped, Err(SourceError::Stopped)));
    assert_eq!(received, 1);
}

pub fn a_volume_in_use_is_refused_unless_accepted(fixture: &dyn Fixture) {
    let bytes = pattern(6, 20_000);
    fixture.make("v", 20_000, &[(0, &bytes)]);
    let (source, name) = (fixture.source(), volume("v"));
    assert!(!source.volume(&name).unwrap().in_use);
    let user = fixture.open_for_writing("v");
    assert!(source.volume(&name).unwrap().in_use);
    let before = fixture.everything();
    let refused = source.create_snapshot(&name, &snapshot_name("s"), InUse::Refuse);
    assert!(matches!(refused.err(), Some(SourceError::VolumeInUse { .. })));
    assert_eq!(fixture.everything(), before);
    let snapshot = source.create_snapshot(&name, &snapshot_name("s"), InUse::Accept).unwrap();
    assert_eq!(snapshot.consistency(), fixture.consistency().1);
    assert_same(&read_all(&*snapshot).unwrap(), &bytes);
    snapshot.confirm().unwrap();
    drop(user);
    assert!(!source.volume(&name).unwrap().in_use);
}

pub fn a_snapshot_of_no_volume_leaves_nothing(fixture: &dyn Fixture) {
    let (source, name) = (fixture.source(), volume("missing"));
    let before = fixture.everything();
    let create = source.create_snapshot(&name, &snapshot_name("s"), InUse::Accept);
    let open = source.open_snapshot(&name, &snapshot_name("s"));
    let list = source.snapshots(&name);
    for error in [create.err(), open.err(), list.err()] {
        assert!(matches!(error, Some(SourceError::VolumeNotFound { .. })), "{error:?}");
    }
    assert_eq!(fixture.everything(), before);
}

pub fn a_frozen_snapshot_is_listed_opened_again_and_removed(fixture: &dyn Fixture) {
    let (before, after) = (pattern(7, 70_000), pattern(8, 70_000));
    fixture.make("v", 70_000, &[(0, &before)]);
    let (source, name) = (fixture.source(), volume("v"));
    let [first, second] = ["first/of all", "second 100%"].map(snapshot_name);
    let missing = source.open_snapshot(&name, &first);
    assert!(matches!(missing.err(), Some(SourceError::SnapshotNotFound { .. })));
    let snapshot = source.create_snapshot(&name, &first, InUse::Refuse).unwrap();
    let info = snapshot.info().clone();
    drop(snapshot);
    if !fixture.freezes() {
        // It is gone with its reader, and there is nothing to remove.
        assert_eq!(source.snapshots(&name).unwrap(), []);
        assert!(source.open_snapshot(&name, &first).is_err());
        return source.remove_snapshot(&name, &info).unwrap();
    }
    fixture.write("v", 0, &after);
    drop(source.create_snapshot(&name, &second, InUse::Refuse).unwrap());
    let listed = source.snapshots(&name).unwrap();
    assert_eq!(listed[0], info);
    assert_eq!(listed.iter().map(|info| &info.name).collect::<Vec<_>>(), [&first, &second]);
    for (listed, bytes) in listed.iter().zip([&before, &after]) {
        let snapshot = source.open_snapshot(&name, &listed.name).unwrap();
        assert_eq!(snapshot.info(), listed);
        assert_eq!(snapshot.consistency(), Consistency::Frozen);
        assert_same(&read_all(&*snapshot).unwrap(), bytes);
        snapshot.confirm().unwrap();
    }
    assert_eq!(source.list().unwrap(), std::slice::from_ref(&name));
    source.remove_snapshot(&name, &info).unwrap();
    source.remove_snapshot(&name, &info).unwrap();
    assert_eq!(source.snapshots(&name).unwrap(), listed[1..]);
    source.remove_snapshot(&name, &listed[1]).unwrap();
    assert_same(&fixture.content("v"), &after);
    // Of a volume that is gone there is nothing to remove.
    source.remove_snapshot(&volume("missing"), &info).unwrap();
}

pub fn a_snapshot_made_again_under_its_name_is_another(fixture: &dyn Fixture) {
    if !fixture.freezes() {
        return;
    }
    fixture.make("v", 4096, &[(0, &pattern(9, 4096))]);
    let (source, name) = (fixture.source(), volume("v"));
    let old = snapshot_of(fixture, "v").info().clone();
    source.remove_snapshot(&name, &old).unwrap();
    let new = snapshot_of(fixture, "v").info().clone();
    assert_ne!(old.id, new.id);
    source.remove_snapshot(&name, &old).unwrap();
    assert_eq!(source.snapshots(&name).unwrap(), [new]);
}

pub fn a_taken_snapshot_name_is_an_error_and_the_old_one_stays(fixture: &dyn Fixture) {
    if !fixture.freezes() {
        return;
    }
    let bytes = pattern(10, 5000);
    fixture.make("v", 5000, &[(0, &bytes)]);
    let old = snapshot_of(fixture, "v");
    fixture.write("v", 0, &pattern(11, 5000));
    let before = fixture.everything();
    let refused = fixture.source().create_snapshot(&volume("v"), &snapshot_name("s"), InUse::Refuse);
    assert!(refused.is_err());
    assert_eq!(fixture.everything(), before);
    let reopened = fixture.source().open_snapshot(&volume("v"), &snapshot_name("s")).unwrap();
    assert_eq!(reopened.info(), old.info());
    assert_same(&read_all(&*reopened).unwrap(), &bytes);
}

pub fn what_is_not_called_changed_is_as_it_was(fixture: &dyn Fixture) {
    let size = 20 << 20;
    let bytes = pattern(12, 9 << 20);
    fixture.make("v", size, &[(0, &bytes)]);
    let (source, name) = (fixture.source(), volume("v"));
    let base = source.create_snapshot(&name, &snapshot_name("base"), InUse::Refuse).unwrap();
    let (base_info, base_bytes) = (base.info().clone(), read_all(&*base).unwrap());
    drop(base);
    for (number, place) in [513_u64, 5 << 20, 19 << 20].into_iter().enumerate() {
        fixture.write("v", place, &pattern(100 + number as u64, 3000));
    }
    let snapshot = source.create_snapshot(&name, &snapshot_name("next"), InUse::Refuse).unwrap();
    let mut changes = None;
    let found = extents(size, |emit| {
        changes = Some(snapshot.changed_since(&base_info, emit)?);
        Ok(())
    });
    if changes == Some(Changes::Unknown) {
        return assert_eq!(found, []);
    }
    let now = read_all(&*snapshot).unwrap();
    let mut merged = base_bytes;
    for extent in found {
        let range =
            usize::try_from(extent.range.start()).unwrap()..usize::try_from(extent.range.end()).unwrap();
        match extent.kind {
            ExtentKind::Data => merged[range.clone()].copy_from_slice(&now[range]),
            ExtentKind::Zero => merged[range].fill(0),
        }
    }
    assert_same(&merged, &now);
    source.remove_snapshot(&name, &base_info).unwrap();
    let gone = snapshot.changed_since(&base_info, &mut |_| panic!("changes since what is gone"));
    assert_eq!(gone.unwrap(), Changes::Unknown);
}

pub fn several_threads_read_one_snapshot(fixture: &dyn Fixture) {
    let bytes = pattern(13, 4 << 20);
    fixture.make("v", 4 << 20, &[(0, &bytes)]);
    let snapshot = snapshot_of(fixture, "v");
    thread::scope(|scope| {
        for number in 0..4_u64 {
            let (snapshot, bytes) = (&*snapshot, &bytes);
            scope.spawn(move || {
                for piece in ByteRange::new(number << 20, 1 << 20).split_on_grid(60_000) {
                    let mut into = vec![0; usize::try_from(piece.len()).unwrap()];
                    snapshot.read(&[piece], &mut into).unwrap();
                    assert_same(&into, &bytes[usize::try_from(piece.start()).unwrap()..][..into.len()]);
                }
                assert!(!extents(4 << 20, |emit| snapshot.allocated(emit)).is_empty());
            });
        }
    });
    snapshot.confirm().unwrap();
}

pub fn a_snapshot_survives_its_volumes_new_name(fixture: &dyn Fixture) {
    let bytes = pattern(14, 50_000);
    fixture.make("v", 50_000, &[(0, &bytes)]);
    let snapshot = snapshot_of(fixture, "v");
    fixture.source().rename_volume(&volume("v"), &volume("w")).unwrap();
    assert_same(&read_all(&*snapshot).unwrap(), &bytes);
    snapshot.confirm().unwrap();
    if fixture.freezes() {
        assert_eq!(fixture.source().snapshots(&volume("w")).unwrap(), [snapshot.info().clone()]);
    }
}
