//! RBD as a source, on a real cluster, with Ceph's own tools as the oracle.

#![cfg(feature = "rbd")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a failed expectation is a failed test"
)]

mod support;

use std::collections::BTreeMap;
use std::time::SystemTime;

use amberfs::source::rbd::{RbdOptions, RbdSource};
use amberfs::source::{Changes, Consistency, InUse, Snapshot, Source, SourceError, VolumeWriter};
use amberfs::types::{ByteRange, KIB, MIB, SnapshotName, VolumeMetadata, VolumeName};
use serde_json::json;
use support::ceph::{BACKUP_USER, CephCluster, DATA_POOL, RESTORE_USER};

fn volume(name: &str) -> VolumeName {
    name.parse().unwrap()
}

fn snapshot(name: &str) -> SnapshotName {
    name.parse().unwrap()
}

fn read(snapshot: &dyn Snapshot, range: ByteRange) -> Vec<u8> {
    let mut bytes = vec![0xee; usize::try_from(range.len()).unwrap()];
    snapshot.read(&[range], &mut bytes).unwrap();
    bytes
}

fn read_all(snapshot: &dyn Snapshot) -> Vec<u8> {
    read(snapshot, ByteRange::new(0, snapshot.info().size_bytes))
}

fn pattern(length: u64, seed: u8) -> Vec<u8> {
    (0..length).map(|i| (i.wrapping_mul(31) >> 3) as u8 ^ seed | 1).collect()
}

#[test]
fn the_backup_user_can_do_all_that_a_backup_needs_and_no_more() {
    let cluster = CephCluster::shared();
    let mut vm = cluster.driver();
    let source = cluster.source(BACKUP_USER);
    vm.create("needs", 20 * MIB + 513);
    vm.write("needs", MIB, 3 * MIB, 1);
    let before = SystemTime::now();

    let first = source.create_snapshot(&volume("needs"), &snapshot("amberfs-1"), InUse::Accept).unwrap();
    assert_eq!(first.consistency(), Consistency::Frozen);
    assert_eq!(first.info().size_bytes, 20 * MIB + 513);
    let age = first.info().created_at.duration_since(before).unwrap_or_default();
    assert!(age.as_secs() < 60, "{age:?}");
    assert_eq!(read_all(&*first), cluster.export("needs@amberfs-1"));

    vm.write("needs", 5 * MIB, 100, 2);
    let second = source.create_snapshot(&volume("needs"), &snapshot("amberfs-2"), InUse::Accept).unwrap();
    let mut extents = Vec::new();
    let changes = second.changed_since(first.info(), &mut |extent| {
        extents.push(extent.range);
        Ok(())
    });
    assert_eq!(changes.unwrap(), Changes::Known);
    assert_eq!(extents.last().unwrap().end(), 5 * MIB + 100);
    assert!(extents.iter().map(|range| range.len()).sum::<u64>() <= MIB + 100, "{extents:?}");
    second.confirm().unwrap();

    source.remove_snapshot(&volume("needs"), first.info()).unwrap();
    source.remove_snapshot(&volume("needs"), first.info()).unwrap();
    let left: Vec<_> =
        source.snapshots(&volume("needs")).unwrap().into_iter().map(|info| info.name).collect();
    assert_eq!(left, [snapshot("amberfs-2")]);

    // Not while the VM runs: what the holder of an image's lock is asked to do, it does with its own rights.
    vm.run(json!({"op": "close", "name": "needs"}));
    for refused in [
        source.create_volume(&volume("not-allowed"), MIB, &VolumeMetadata::default()).err().unwrap(),
        source.rename_volume(&volume("needs"), &volume("needs-2")).unwrap_err(),
        source
            .open_volume(&volume("needs"))
            .and_then(|w| w.write(0, b"no").and_then(|()| w.flush()))
            .unwrap_err(),
    ] {
        let sentence = refused.to_string();
        assert!(sentence.contains("client.amberfs-backup may not do this"), "{sentence}");
        assert!(matches!(refused, SourceError::Unavailable { .. }), "{sentence}");
    }
    source.remove_volume(&volume("needs")).unwrap_err();
    assert!(source.list().unwrap().contains(&volume("needs")));
    assert!(!source.list().unwrap().contains(&volume("not-allowed")));
}

#[test]
fn volumes_are_listed_and_described() {
    let cluster = CephCluster::shared();
    let mut driver = cluster.driver();
    driver.run(json!({"op": "namespace", "name": "tenant"}));
    let source = RbdSource::new(RbdOptions { namespace: "tenant".into(), ..cluster.options(BACKUP_USER) });
    let names = ["\u{fc}ber \u{1f600}", "-x", ".x", "a b", "a\nb", "a/b@c", "\"quoted'"];
    assert_eq!(source.list().unwrap(), []);
    for name in names {
        driver.run(json!({"op": "create", "namespace": "tenant", "name": name, "size": 1, "features": 61, "order": 22}));
    }
    let mut sorted: Vec<_> = names.into_iter().map(volume).collect();
    sorted.sort();
    assert_eq!(source.list().unwrap(), sorted);
    for name in &sorted {
        assert_eq!(source.volume(name).unwrap().size_bytes, 1, "{name}");
    }
    // The pool's own images are another source's.
    assert!(matches!(source.volume(&volume("needs")), Err(SourceError::VolumeNotFound { .. })));

    driver.run(
        json!({"op": "create", "name": "described", "size": 5 * MIB, "features": 1 | 2 | 4, "order": 20,
        "stripe_unit": 65536, "stripe_count": 4, "data_pool": DATA_POOL}),
    );
    for number in 0..200 {
        driver.run(json!({"op": "set_meta", "name": "described", "key": format!("key-{number}"), "value": "x".repeat(number)}));
    }
    driver.run(json!({"op": "set_meta", "name": "described", "key": "encryption_key_id", "value": "4711"}));
    driver
        .run(json!({"op": "set_meta", "name": "described", "key": "amberfs.restore", "value": "incomplete"}));
    let id = driver.run(json!({"op": "id", "name": "described"}));
    driver.run(json!({"op": "close", "name": "described"}));
    let info = cluster.source(BACKUP_USER).volume(&volume("described")).unwrap();
    assert_eq!(info.id.as_str(), id["ok"].as_str().unwrap());
    assert!(!info.in_use);
    let metadata = info.metadata;
    assert_eq!(metadata.object_size, Some(MIB));
    assert_eq!((metadata.stripe_unit, metadata.stripe_count), (Some(65536), Some(4)));
    assert_eq!(metadata.data_pool.as_deref(), Some(DATA_POOL));
    assert_eq!(metadata.encryption_key_id.as_deref(), Some("4711"));
    assert_eq!(metadata.features, ["layering", "exclusive-lock", "striping", "data-pool"]);
    assert_eq!(metadata.image_meta.len(), 201);
    assert_eq!(metadata.image_meta["key-199"].len(), 199);
}

#[test]
fn odd_sizes_are_read_to_their_last_byte() {
    let cluster = CephCluster::shared();
    let mut driver = cluster.driver();
    let source = cluster.source(BACKUP_USER);
    for size in [0, 1, 511, 513, 4 * MIB + 1] {
        let name = format!("odd-{size}");
        driver.create(&name, size);
        if size > 0 {
            driver.write(&name, size - 1, 1, 42);
        }
        let taken = source.create_snapshot(&volume(&name), &snapshot("s"), InUse::Accept).unwrap();
        assert_eq!(read_all(&*taken), driver.read(&name, Some("s")), "{name}");
        let mut last = 0;
        taken
            .allocated(&mut |extent| {
                last = extent.range.end();
                Ok(())
            })
            .unwrap();
        assert_eq!(last, size);
        assert!(taken.read(&[ByteRange::new(size, 1)], &mut [0]).is_err());
    }
}

#[test]
fn many_ranges_are_read_into_their_places() {
    let cluster = CephCluster::shared();
    let mut driver = cluster.driver();
    let source = cluster.source(BACKUP_USER);
    driver.create("ranges", 64 * MIB);
    driver.write("ranges", 0, 50 * MIB, 5);
    let taken = source.create_snapshot(&volume("ranges"), &snapshot("s"), InUse::Accept).unwrap();
    let truth = cluster.export("ranges@s");
    assert_eq!(truth.len() as u64, 64 * MIB);
    // Small and large, backwards, one twice, one empty.
    let mut ranges: Vec<_> = (0..300).map(|i| ByteRange::new((300 - i) * 150_001, 1 + i * 7)).collect();
    ranges.extend([ByteRange::new(MIB - 1, 40 * MIB), ByteRange::new(9, 0), ByteRange::new(0, 64 * MIB)]);
    let expected: Vec<u8> =
        ranges.iter().flat_map(|r| truth[r.start() as usize..r.end() as usize].iter().copied()).collect();
    let mut bytes = vec![0xee; expected.len()];
    taken.read(&ranges, &mut bytes).unwrap();
    assert!(bytes == expected);
    // From several threads at once.
    std::thread::scope(|scope| {
        for part in 0..4 {
            let (taken, truth) = (&taken, &truth);
            scope.spawn(move || {
                let range = ByteRange::new(part * 16 * MIB, 16 * MIB);
                assert!(read(&**taken, range) == truth[range.start() as usize..range.end() as usize]);
            });
        }
    });
    let mut short = [0; 10];
    assert!(taken.read(&[ByteRange::new(0, 11)], &mut short).is_err());
    assert!(taken.read(&[ByteRange::new(0, 9)], &mut short).is_err());
}

#[test]
fn a_volume_somebody_writes_to_is_in_use() {
    let cluster = CephCluster::shared();
    let mut vm = cluster.driver();
    let (backup, restore) = (cluster.source(BACKUP_USER), cluster.source(RESTORE_USER));
    for (name, features) in [("held", 61), ("held-plain", 1)] {
        vm.run(json!({"op": "create", "name": name, "size": 8 * MIB, "features": features, "order": 22}));
        assert!(!backup.volume(&volume(name)).unwrap().in_use, "{name}");
        vm.write(name, 0, 4096, 1);
        assert!(backup.volume(&volume(name)).unwrap().in_use, "{name}");
        let refused = backup.create_snapshot(&volume(name), &snapshot("s"), InUse::Refuse).err().unwrap();
        assert!(matches!(refused, SourceError::VolumeInUse { .. }), "{refused}");
        assert_eq!(backup.snapshots(&volume(name)).unwrap(), []);
        let refused = restore.open_volume(&volume(name)).err().unwrap();
        assert!(matches!(refused, SourceError::VolumeInUse { .. }), "{refused}");
        let refused = restore.remove_volume(&volume(name)).unwrap_err();
        assert!(matches!(refused, SourceError::VolumeInUse { .. }), "{refused}");
        // The snapshot of a volume in use goes by way of who holds its lock.
        backup.create_snapshot(&volume(name), &snapshot("s"), InUse::Accept).unwrap();

        vm.run(json!({"op": "close", "name": name}));
        assert!(!backup.volume(&volume(name)).unwrap().in_use, "{name}");
        backup.create_snapshot(&volume(name), &snapshot("s2"), InUse::Refuse).unwrap();
        let writer = restore.open_volume(&volume(name)).unwrap();
        assert!(backup.volume(&volume(name)).unwrap().in_use, "{name}: by amberfs, seen by another client");
        assert!(restore.volume(&volume(name)).unwrap().in_use, "{name}: by amberfs, seen by itself");
        let refused = restore.open_volume(&volume(name)).err().unwrap();
        assert!(matches!(refused, SourceError::VolumeInUse { .. }), "{refused}");
        if features != 1 {
            let taken = vm.try_run(&json!({"op": "lock", "name": name}));
            assert!(taken.get("error").is_some(), "somebody else got the exclusive lock: {taken}");
            vm.run(json!({"op": "close", "name": name}));
        }
        drop(writer);
        drop(restore.open_volume(&volume(name)).unwrap());
    }
}

#[test]
fn snapshots_that_cannot_be_are_refused_and_leave_nothing() {
    let cluster = CephCluster::shared();
    let mut driver = cluster.driver();
    let source = cluster.source(BACKUP_USER);
    driver.create("refusals", MIB);
    driver.snapshot("refusals", "theirs");
    driver.run(json!({"op": "protect", "name": "refusals", "snapshot": "theirs"}));
    let theirs = source.snapshots(&volume("refusals")).unwrap();
    let again =
        source.create_snapshot(&volume("refusals"), &snapshot("theirs"), InUse::Accept).err().unwrap();
    assert!(again.to_string().contains("has a snapshot \"theirs\" already"), "{again}");
    let slash = source.create_snapshot(&volume("refusals"), &snapshot("a/b"), InUse::Accept).err().unwrap();
    assert!(matches!(slash, SourceError::InvalidName { .. }), "{slash}");
    let protected = source.remove_snapshot(&volume("refusals"), &theirs[0]).unwrap_err();
    assert!(protected.to_string().contains("is protected"), "{protected}");
    assert_eq!(source.snapshots(&volume("refusals")).unwrap(), theirs);

    assert!(matches!(
        source.open_snapshot(&volume("refusals"), &snapshot("none")).err().unwrap(),
        SourceError::SnapshotNotFound { .. }
    ));
    for missing in [
        source.create_snapshot(&volume("none"), &snapshot("s"), InUse::Accept).err().unwrap(),
        source.open_snapshot(&volume("none"), &snapshot("s")).err().unwrap(),
        source.snapshots(&volume("none")).unwrap_err(),
        source.volume(&volume("none")).unwrap_err(),
        source.open_volume(&volume("none")).err().unwrap(),
    ] {
        assert!(matches!(missing, SourceError::VolumeNotFound { .. }), "{missing}");
    }
    source.remove_snapshot(&volume("none"), &theirs[0]).unwrap();
}

#[test]
fn a_volume_is_made_as_its_metadata_says() {
    let cluster = CephCluster::shared();
    let mut driver = cluster.driver();
    let source = cluster.source(RESTORE_USER);
    let metadata = VolumeMetadata {
        image_meta: BTreeMap::from([("owner".into(), "me".into())]),
        features: vec![
            "layering".into(),
            "fast-diff".into(),
            "striping".into(),
            "operations".into(),
            "unheard-of".into(),
        ],
        object_size: Some(MIB),
        stripe_unit: Some(64 * KIB),
        stripe_count: Some(3),
        data_pool: Some(DATA_POOL.into()),
        encryption_key_id: Some("4711".into()),
    };
    drop(source.create_volume(&volume("made"), 10 * MIB + 1, &metadata).unwrap());
    let made = source.volume(&volume("made")).unwrap();
    assert_eq!(made.size_bytes, 10 * MIB + 1);
    assert_eq!(
        made.metadata.features,
        ["layering", "exclusive-lock", "object-map", "fast-diff", "striping", "data-pool"]
    );
    assert_eq!(made.metadata.object_size, Some(MIB));
    assert_eq!((made.metadata.stripe_unit, made.metadata.stripe_count), (Some(64 * KIB), Some(3)));
    assert_eq!(made.metadata.data_pool.as_deref(), Some(DATA_POOL));
    assert_eq!(made.metadata.encryption_key_id.as_deref(), Some("4711"));
    assert_eq!(made.metadata.image_meta["owner"], "me");
    // Made from what was read, it is the same again.
    drop(source.create_volume(&volume("made-again"), 1, &made.metadata).unwrap());
    assert_eq!(source.volume(&volume("made-again")).unwrap().metadata, made.metadata);

    let unknown =
        VolumeMetadata { data_pool: Some("nowhere".into()), object_size: Some(12345), ..Default::default() };
    drop(source.create_volume(&volume("made-plain"), 1, &unknown).unwrap());
    let plain = cluster.rbd_json(&["info", "made-plain"]);
    assert_eq!(
        plain["features"],
        json!(["layering", "exclusive-lock", "object-map", "fast-diff", "deep-flatten"])
    );

    let exists = source.create_volume(&volume("made"), 1, &metadata).err().unwrap();
    assert!(matches!(exists, SourceError::VolumeExists { .. }), "{exists}");
    assert_eq!(source.volume(&volume("made")).unwrap().size_bytes, 10 * MIB + 1);
    for bad in ["a/b", "a@b", &"x".repeat(4000)] {
        let refused = source.create_volume(&volume(bad), 1, &VolumeMetadata::default()).err().unwrap();
        assert!(matches!(refused, SourceError::InvalidName { .. }), "{refused}");
        let refused = source.rename_volume(&volume("made"), &volume(bad)).unwrap_err();
        assert!(matches!(refused, SourceError::InvalidName { .. }), "{refused}");
    }

    // Renamed also while it is open for writing, as a restore does it.
    let writer = source.open_volume(&volume("made")).unwrap();
    let taken = source.rename_volume(&volume("made"), &volume("made-again")).unwrap_err();
    assert!(matches!(taken, SourceError::VolumeExists { .. }), "{taken}");
    source.rename_volume(&volume("made"), &volume("renamed \u{fc}")).unwrap();
    writer.write(0, b"still open").unwrap();
    writer.flush().unwrap();
    drop(writer);
    assert!(driver.read("renamed \u{fc}", None).starts_with(b"still open"));
    let gone = source.rename_volume(&volume("made"), &volume("x")).unwrap_err();
    assert!(matches!(gone, SourceError::VolumeNotFound { .. }), "{gone}");

    source.remove_volume(&volume("renamed \u{fc}")).unwrap();
    source.remove_volume(&volume("renamed \u{fc}")).unwrap();
    driver.snapshot("made-again", "s");
    driver.run(json!({"op": "close", "name": "made-again"}));
    let refused = source.remove_volume(&volume("made-again")).unwrap_err();
    assert!(refused.to_string().contains("it has snapshots"), "{refused}");
}

/// Zeroes ranges on and off every boundary and holds the volume against a plain copy of it.
fn zero_and_compare(writer: &dyn VolumeWriter, mut model: Vec<u8>) -> Vec<u8> {
    let size = model.len() as u64;
    for (offset, length) in [
        (1, 1),
        (511, 514),
        (4096, 4096),
        (70_000, 10_000),
        (MIB - 1, 2),
        (3 * MIB + 5, 60 * KIB),
        (5 * MIB, 64 * KIB),
        (6 * MIB + 100, 9 * MIB),
        (16 * MIB, 4 * MIB),
        (size - 7, 7),
        (123, 0),
    ] {
        writer.zero(ByteRange::new(offset, length)).unwrap();
        model[offset as usize..(offset + length) as usize].fill(0);
        let mut bytes = vec![0xee; model.len()];
        writer.read(ByteRange::new(0, size), &mut bytes).unwrap();
        assert!(bytes == model, "after zeroing {length} bytes at {offset}");
    }
    model
}

#[test]
fn zeroed_ranges_read_as_zeros_whatever_was_there() {
    let cluster = CephCluster::shared();
    let mut driver = cluster.driver();
    let source = cluster.source(RESTORE_USER);
    let size = 24 * MIB + 777;
    let content = pattern(size, 3);

    let writer = source.create_volume(&volume("zeroed"), size, &VolumeMetadata::default()).unwrap();
    writer.write(0, &content).unwrap();
    let model = zero_and_compare(&*writer, content.clone());
    writer.flush().unwrap();
    let mut extents = Vec::new();
    writer
        .allocated(&mut |extent| {
            extents.push(extent.range);
            Ok(())
        })
        .unwrap();
    let covered = |at: u64| extents.iter().any(|range| range.contains(at));
    assert!(!covered(17 * MIB), "zeroing gave no space back: {extents:?}");
    assert!(model.iter().enumerate().all(|(at, byte)| *byte == 0 || covered(at as u64)));
    drop(writer);
    assert!(cluster.export("zeroed") == model);

    // A clone: what is taken away must not show the parent's bytes again.
    driver.snapshot("zeroed", "origin");
    driver.run(json!({"op": "clone", "parent": "zeroed", "snapshot": "origin", "name": "zeroed-clone", "features": 61, "order": 22}));
    let writer = source.open_volume(&volume("zeroed-clone")).unwrap();
    assert_eq!(writer.size_bytes(), size);
    let cloned = zero_and_compare(&*writer, model);
    writer.flush().unwrap();
    drop(writer);
    assert!(cluster.export("zeroed-clone") == cloned);
}

#[test]
fn what_several_threads_write_is_there() {
    let cluster = CephCluster::shared();
    let source = cluster.source(RESTORE_USER);
    let writer = source.create_volume(&volume("parallel"), 32 * MIB + 3, &VolumeMetadata::default()).unwrap();
    let content = pattern(32 * MIB + 3, 9);
    std::thread::scope(|scope| {
        for part in 0..8_usize {
            let (writer, content) = (&writer, &content);
            scope.spawn(move || {
                // Pieces of an odd length, each thread its own.
                for (number, piece) in
                    content.chunks(100_003).enumerate().filter(|(number, _)| number % 8 == part)
                {
                    writer.write(number as u64 * 100_003, piece).unwrap();
                }
            });
        }
    });
    writer.write(32 * MIB, b"XYZ").unwrap();
    writer.flush().unwrap();
    assert!(writer.write(32 * MIB + 1, b"XYZ").is_err());
    assert!(writer.zero(ByteRange::new(32 * MIB, 4)).is_err());
    writer.set_mark("amberfs.restore", Some("incomplete")).unwrap();
    assert_eq!(cluster.rbd(&["image-meta", "get", "parallel", "amberfs.restore"]), b"incomplete\n");
    assert!(source.volume(&volume("parallel")).unwrap().metadata.image_meta.is_empty());
    writer.set_mark("amberfs.restore", None).unwrap();
    writer.set_mark("amberfs.restore", None).unwrap();
    assert!(cluster.rbd(&["image-meta", "list", "parallel"]).starts_with(b"There are 0 metadata"));
    drop(writer);
    let exported = cluster.export("parallel");
    assert!(exported[..32 << 20] == content[..32 << 20] && exported.ends_with(b"XYZ"));
}
