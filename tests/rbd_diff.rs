//! RBD's diffs, held against the bytes: whatever was done to an image between two snapshots, applying what
//! `changed_since` emits to the old bytes gives the new ones, and what `allocated` leaves out is zeros.

#![cfg(feature = "rbd")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a failed expectation is a failed test"
)]

mod support;

use std::time::Instant;

use amberfs::source::{Changes, Extent, ExtentKind, Snapshot, SnapshotInfo, Source};
use amberfs::types::{ByteRange, GIB, KIB, MIB, VolumeName};
use serde_json::json;
use support::ceph::{BACKUP_USER, CephCluster, Driver};

fn changes(snapshot: &dyn Snapshot, base: &SnapshotInfo) -> (Changes, Vec<Extent>) {
    let mut extents = Vec::new();
    let changes = snapshot.changed_since(base, &mut |extent| {
        extents.push(extent);
        Ok(())
    });
    (changes.unwrap(), ordered(extents, snapshot.info().size_bytes))
}

fn allocated(snapshot: &dyn Snapshot) -> Vec<Extent> {
    let mut extents = Vec::new();
    let emitted = snapshot.allocated(&mut |extent| {
        extents.push(extent);
        Ok(())
    });
    emitted.unwrap();
    ordered(extents, snapshot.info().size_bytes)
}

/// Checks the contract of `EmitExtent`.
fn ordered(extents: Vec<Extent>, size: u64) -> Vec<Extent> {
    for pair in extents.windows(2) {
        assert!(pair[0].range.end() <= pair[1].range.start(), "{pair:?}");
    }
    assert!(
        extents.iter().all(|extent| !extent.range.is_empty() && extent.range.end() <= size),
        "{extents:?}"
    );
    extents
}

fn read_all(snapshot: &dyn Snapshot) -> Vec<u8> {
    let size = snapshot.info().size_bytes;
    let mut bytes = vec![0xee; usize::try_from(size).unwrap()];
    snapshot.read(&[ByteRange::new(0, size)], &mut bytes).unwrap();
    bytes
}

fn slice(range: ByteRange) -> std::ops::Range<usize> {
    usize::try_from(range.start()).unwrap()..usize::try_from(range.end()).unwrap()
}

/// Returns the new bytes as an incremental backup would make them.
fn apply(old: &[u8], extents: &[Extent], new: &[u8]) -> Vec<u8> {
    let mut bytes = old.to_vec();
    bytes.resize(new.len(), 0);
    for extent in extents {
        let range = slice(extent.range);
        match extent.kind {
            ExtentKind::Data => bytes[range.clone()].copy_from_slice(&new[range]),
            ExtentKind::Zero => bytes[range].fill(0),
        }
    }
    bytes
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).position(|(a, b)| a != b)
}

/// A small reproducible generator; the seed is printed with every failure.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        if end == 0 { 0 } else { self.0 % end }
    }

    /// Offsets and lengths on and off every boundary that matters.
    fn range(&mut self, size: u64, object: u64) -> (u64, u64) {
        let grid = [1, 512, 4096, object][self.below(4) as usize];
        let offset = self.below(size / grid + 1) * grid;
        let longest = [100, 5000, object, 3 * object][self.below(4) as usize];
        let length = (self.below(longest) + 1).next_multiple_of(grid);
        let offset = offset.min(size);
        (offset, length.min(size - offset))
    }
}

/// One kind of image.
#[derive(Debug, Clone, Copy)]
struct Kind {
    features: u64,
    order: u64,
    stripe: Option<(u64, u64)>,
    clone: bool,
}

const ALL: u64 = 61;
const LAYERING: u64 = 1;
const KINDS: [Kind; 9] = [
    Kind { features: ALL, order: 16, stripe: None, clone: false },
    Kind { features: LAYERING, order: 16, stripe: None, clone: false },
    Kind { features: ALL, order: 12, stripe: None, clone: false },
    Kind { features: ALL, order: 16, stripe: Some((4096, 3)), clone: false },
    Kind { features: LAYERING, order: 14, stripe: Some((512, 5)), clone: false },
    Kind { features: ALL, order: 16, stripe: None, clone: true },
    Kind { features: LAYERING, order: 16, stripe: None, clone: true },
    // Without deep-flatten, snapshots keep their parent when the head is flattened.
    Kind { features: ALL & !32, order: 15, stripe: None, clone: true },
    Kind { features: ALL, order: 22, stripe: None, clone: true },
];

fn make(driver: &mut Driver, name: &str, kind: Kind, random: &mut Random) -> u64 {
    let size =
        ((1 << kind.order) * (8 + random.below(20)) + random.below(2) * random.below(5000)).min(20 * MIB);
    let mut create =
        json!({"op": "create", "name": name, "size": size, "features": kind.features, "order": kind.order});
    if let Some((unit, count)) = kind.stripe {
        create["features"] = json!(kind.features | 2);
        create["stripe_unit"] = json!(unit);
        create["stripe_count"] = json!(count);
    }
    if !kind.clone {
        driver.run(create);
        return size;
    }
    let parent = format!("{name}-parent");
    create["name"] = json!(parent);
    driver.run(create);
    for _ in 0..6 {
        let (offset, length) = random.range(size, 1 << kind.order);
        driver.write(&parent, offset, length, 1 + random.below(1000));
    }
    driver.snapshot(&parent, "origin");
    driver.run(json!({"op": "clone", "parent": parent, "snapshot": "origin", "name": name, "features": kind.features, "order": kind.order}));
    size
}

/// Does one random thing to the image and returns its size.
fn step(driver: &mut Driver, name: &str, size: u64, kind: Kind, random: &mut Random) -> u64 {
    let (offset, length) = random.range(size, 1 << kind.order);
    let range = |op: &str| json!({"op": op, "name": name, "offset": offset, "length": length});
    let resize = |size: u64| json!({"op": "resize", "name": name, "size": size});
    match random.below(24) {
        0..=8 if length > 0 => driver.write(name, offset, length, 1 + random.below(1 << 30)),
        9 if length > 0 => driver.write(name, offset, length, 0),
        10..=13 if length > 0 => drop(driver.run(range("discard"))),
        14..=16 if length > 0 => drop(driver.run(range("write_zeroes"))),
        17 => {
            let to = random.below(size);
            driver.run(resize(to));
            return to;
        }
        18 => {
            let to = size + random.below(5 << kind.order);
            driver.run(resize(to));
            return to;
        }
        // Away and back: what was there must read as zeros.
        19..=20 => {
            driver.run(resize(random.below(size)));
            driver.run(resize(size));
        }
        21 if kind.clone && random.below(4) == 0 => {
            // Refused when it was flattened already.
            driver.try_run(&json!({"op": "flatten", "name": name}));
        }
        _ => {}
    }
    size
}

#[test]
fn a_diff_applied_to_the_old_bytes_gives_the_new_ones() {
    let cluster = CephCluster::shared();
    let mut driver = cluster.driver();
    let source = cluster.source(BACKUP_USER);
    let images: u64 = std::env::var("AMBERFS_FUZZ_IMAGES").map_or(9, |number| number.parse().unwrap());
    let first: u64 = std::env::var("AMBERFS_FUZZ_SEED").map_or(1, |number| number.parse().unwrap());
    let (mut compared, mut unchanged) = (0, 0);
    for seed in first..first + images {
        let kind = KINDS[(seed % KINDS.len() as u64) as usize];
        let context = format!("AMBERFS_FUZZ_SEED={seed} {kind:?}");
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let name = format!("fuzz-{seed}");
        let volume: VolumeName = name.parse().unwrap();
        let mut size = make(&mut driver, &name, kind, &mut random);
        // Every snapshot's bytes as Ceph's binding saw them when it was made.
        let mut history: Vec<(SnapshotInfo, Vec<u8>)> = Vec::new();
        for round in 0..5 {
            for _ in 0..=random.below(6) {
                size = step(&mut driver, &name, size, kind, &mut random);
            }
            let snapshot = format!("s{round}");
            driver.snapshot(&name, &snapshot);
            let truth = driver.read(&name, Some(&snapshot));
            let opened = source.open_snapshot(&volume, &snapshot.parse().unwrap()).unwrap();
            assert_eq!(opened.info().size_bytes, truth.len() as u64, "{context} {snapshot}");
            assert_eq!(first_difference(&read_all(&*opened), &truth), None, "{context} {snapshot}: read");

            let full = apply(&[], &allocated(&*opened), &truth);
            assert_eq!(first_difference(&full, &truth), None, "{context} {snapshot}: allocated");
            for (base, old) in &history {
                let (known, extents) = changes(&*opened, base);
                assert_eq!(known, Changes::Known, "{context}");
                let made = apply(old, &extents, &truth);
                let difference = first_difference(&made, &truth);
                assert_eq!(difference, None, "{context} {} -> {snapshot}: {extents:?}", base.name);
                compared += 1;
                unchanged += usize::from(extents.is_empty());
            }
            opened.confirm().unwrap();
            history.push((opened.info().clone(), truth));
            // A snapshot in between that goes away must not cost a change.
            if history.len() > 2 && random.below(3) == 0 {
                let (gone, _) = history.remove(random.below(history.len() as u64 - 1) as usize);
                source.remove_snapshot(&volume, &gone).unwrap();
            }
        }
        driver.run(json!({"op": "close", "name": name}));
    }
    println!("{compared} diffs compared, {unchanged} of them empty");
    assert!(unchanged < compared / 2);
}

#[test]
fn changes_are_as_exact_as_what_was_written() {
    let cluster = CephCluster::shared();
    let mut driver = cluster.driver();
    let source = cluster.source(BACKUP_USER);
    let volume: VolumeName = "exact".parse().unwrap();
    driver.create("exact", 64 * MIB);
    driver.write("exact", 0, 40 * MIB, 1);
    driver.snapshot("exact", "a");
    driver.write("exact", 5 * MIB + 4096, 4096, 2);
    driver.write("exact", 9 * MIB + 7, 100, 3);
    driver.run(json!({"op": "discard", "name": "exact", "offset": 16 * MIB, "length": 8 * MIB}));
    driver.snapshot("exact", "b");
    let base = source.snapshots(&volume).unwrap().remove(0);
    let snapshot = source.open_snapshot(&volume, &"b".parse().unwrap()).unwrap();
    let extent = |start, length, kind| Extent { range: ByteRange::new(start, length), kind };
    assert_eq!(
        changes(&*snapshot, &base).1,
        [
            extent(5 * MIB + 4096, 4096, ExtentKind::Data),
            extent(9 * MIB + 7, 100, ExtentKind::Data),
            extent(16 * MIB, 8 * MIB, ExtentKind::Zero)
        ]
    );
}

#[test]
fn a_base_made_again_under_its_name_is_no_base() {
    let cluster = CephCluster::shared();
    let mut driver = cluster.driver();
    let source = cluster.source(BACKUP_USER);
    let volume: VolumeName = "again".parse().unwrap();
    driver.create("again", 8 * MIB);
    driver.snapshot("again", "base");
    let base = source.snapshots(&volume).unwrap().remove(0);
    driver.write("again", 0, 4096, 1);
    driver.run(json!({"op": "remove_snapshot", "name": "again", "snapshot": "base"}));
    driver.snapshot("again", "base");
    driver.snapshot("again", "now");
    let snapshot = source.open_snapshot(&volume, &"now".parse().unwrap()).unwrap();
    assert_eq!(changes(&*snapshot, &base), (Changes::Unknown, vec![]));

    // And removing what is not there under this id leaves the other one alone.
    source.remove_snapshot(&volume, &base).unwrap();
    assert_eq!(source.snapshots(&volume).unwrap().len(), 2);
    driver.run(json!({"op": "remove_snapshot", "name": "again", "snapshot": "base"}));
    assert_eq!(changes(&*snapshot, &base), (Changes::Unknown, vec![]));
    driver.run(json!({"op": "remove_snapshot", "name": "again", "snapshot": "now"}));
    snapshot.confirm().unwrap_err();
}

#[test]
fn what_a_clone_lost_of_its_parent_is_emitted() {
    let cluster = CephCluster::shared();
    let mut driver = cluster.driver();
    let source = cluster.source(BACKUP_USER);
    for (name, flatten) in [("orphan", false), ("orphan-flat", true)] {
        let parent = format!("{name}-parent");
        driver.create(&parent, 16 * MIB);
        driver.write(&parent, 0, 16 * MIB, 7);
        driver.snapshot(&parent, "origin");
        driver.run(json!({"op": "clone", "parent": parent, "snapshot": "origin", "name": name, "features": ALL & !32, "order": 22}));
        shrink_and_grow(&mut driver, &source, name, flatten);
    }
}

/// librbd's fast-diff loses it: the volume has no object there in the two later snapshots, and that they are
/// different from the first one is forgotten with the end of the smaller one.
#[test]
fn regression_what_a_smaller_snapshot_in_between_lost_is_emitted() {
    let cluster = CephCluster::shared();
    let mut driver = cluster.driver();
    driver.create("shrunk", 16 * MIB);
    driver.write("shrunk", 0, 16 * MIB, 7);
    shrink_and_grow(&mut driver, &cluster.source(BACKUP_USER), "shrunk", false);
}

fn shrink_and_grow(driver: &mut Driver, source: &dyn Source, name: &str, flatten: bool) {
    driver.snapshot(name, "before");
    driver.run(json!({"op": "resize", "name": name, "size": 6 * MIB}));
    driver.snapshot(name, "between");
    driver.run(json!({"op": "resize", "name": name, "size": 16 * MIB}));
    if flatten {
        driver.run(json!({"op": "flatten", "name": name}));
    }
    driver.snapshot(name, "after");
    let volume: VolumeName = name.parse().unwrap();
    let bases = source.snapshots(&volume).unwrap();
    let snapshot = source.open_snapshot(&volume, &"after".parse().unwrap()).unwrap();
    let new = driver.read(name, Some("after"));
    for base in &bases[..2] {
        let old = driver.read(name, Some(base.name.as_str()));
        let extents = changes(&*snapshot, base).1;
        assert_eq!(
            first_difference(&apply(&old, &extents, &new), &new),
            None,
            "{name}@{}: {extents:?}",
            base.name
        );
        // What was kept, flattened or not, is not emitted.
        assert!(extents.iter().all(|extent| extent.range.start() >= 6 * MIB), "{name}: {extents:?}");
    }
    assert!(driver.read(name, Some("before"))[7 << 20..] != new[7 << 20..], "nothing was lost");
}

#[test]
fn an_object_map_flagged_invalid_is_not_trusted() {
    let cluster = CephCluster::shared();
    let mut driver = cluster.driver();
    let source = cluster.source(BACKUP_USER);
    let volume: VolumeName = "distrust".parse().unwrap();
    driver.create("distrust", 32 * MIB);
    driver.write("distrust", 0, MIB, 1);
    driver.snapshot("distrust", "a");
    driver.write("distrust", 20 * MIB, 4096, 2);
    driver.snapshot("distrust", "b");
    let id = driver.run(json!({"op": "id", "name": "distrust"}))["ok"].as_str().unwrap().to_owned();
    driver.run(json!({"op": "close", "name": "distrust"}));
    let snapshots = source.snapshots(&volume).unwrap();

    // The map of b is made to say what that of a says: nothing at 20 MiB.
    let maps: Vec<_> = snapshots.iter().map(|s| format!("rbd_object_map.{id}.{:016x}", s.id)).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    cluster.rados(&["get", &maps[0], file.path().to_str().unwrap()]);
    cluster.rados(&["put", &maps[1], file.path().to_str().unwrap()]);
    let sees_the_change = || {
        let snapshot = source.open_snapshot(&volume, &"b".parse().unwrap()).unwrap();
        let (known, extents) = changes(&*snapshot, &snapshots[0]);
        assert_eq!(known, Changes::Known);
        let seen = |extents: &[Extent]| extents.iter().any(|extent| extent.range.contains(20 * MIB));
        (seen(&extents), seen(&allocated(&*snapshot)))
    };
    assert_eq!(sees_the_change(), (false, false), "the map was not looked at: this test shows nothing");
    driver.run(json!({"op": "set_flags", "name": id, "snapshot_id": snapshots[1].id, "flags": 3}));
    assert_eq!(sees_the_change(), (true, true));
}

#[test]
fn four_sparse_tebibytes_are_listed_in_a_moment() {
    let cluster = CephCluster::shared();
    let mut driver = cluster.driver();
    let source = cluster.source(BACKUP_USER);
    let volume: VolumeName = "huge".parse().unwrap();
    driver.create("huge", 4096 * GIB);
    let spots = [0, 77 * GIB + 4096, 1023 * GIB, 4096 * GIB - 512];
    for offset in spots {
        driver.write("huge", offset, 512, offset + 1);
    }
    driver.snapshot("huge", "a");
    driver.write("huge", 3000 * GIB, 4 * KIB, 9);
    driver.snapshot("huge", "b");
    let base = source.snapshots(&volume).unwrap().remove(0);
    let snapshot = source.open_snapshot(&volume, &"b".parse().unwrap()).unwrap();

    let started = Instant::now();
    let extents = allocated(&*snapshot);
    let (_, changed) = changes(&*snapshot, &base);
    let elapsed = started.elapsed();
    assert!(
        spots.iter().all(|spot| extents.iter().any(|extent| extent.range.contains(*spot))),
        "{extents:?}"
    );
    assert_eq!(changed.len(), 1, "{changed:?}");
    assert_eq!(changed[0].range, ByteRange::new(3000 * GIB, 4 * KIB));
    // An exact pass over every object would take a minute and more.
    assert!(elapsed.as_secs() < 10, "{elapsed:?}");
    println!("allocated and changed_since of 4 TiB: {elapsed:?}");
}
