//! Claims about making, filling, renaming and removing volumes.

use std::thread;

use amberfs::source::{InUse, SourceError};
use amberfs::types::{ByteRange, VolumeMetadata};

use crate::support::bytes::{Numbers, pattern};
use crate::{
    Fixture, assert_same, extents, only_data, read_all, snapshot_name, snapshot_of, volume, written,
};

pub fn a_new_volume_reads_as_zeros_and_takes_what_is_written(fixture: &dyn Fixture) {
    for size in [0_u64, 1, 511, 513, (5 << 20) + 1] {
        let name = format!("v{size}");
        let metadata = VolumeMetadata { object_size: Some(1 << 22), ..VolumeMetadata::default() };
        let writer = fixture.source().create_volume(&volume(&name), size, &metadata).unwrap();
        assert_eq!(writer.size_bytes(), size);
        assert_same(&written(&*writer), &vec![0; usize::try_from(size).unwrap()]);
        let bytes = pattern(size, usize::try_from(size).unwrap());
        writer.write(0, &bytes).unwrap();
        writer.flush().unwrap();
        assert_same(&written(&*writer), &bytes);
        drop(writer);
        assert_same(&fixture.content(&name), &bytes);
        assert_same(&read_all(&*snapshot_of(fixture, &name)).unwrap(), &bytes);
    }
}

pub fn any_mixture_of_writes_and_zeros_is_exact(fixture: &dyn Fixture) {
    let size = 2_000_003_u64;
    let writer = fixture.source().create_volume(&volume("v"), size, &VolumeMetadata::default()).unwrap();
    let mut model = vec![0; usize::try_from(size).unwrap()];
    let mut numbers = Numbers::new(1);
    for turn in 0..300 {
        let start = numbers.below(size);
        // Short ones at odd places, and long ones that cover whole blocks.
        let length = numbers.below(if turn % 3 == 0 { 400_000 } else { 600 }).min(size - start);
        let range = usize::try_from(start).unwrap()..usize::try_from(start + length).unwrap();
        if turn % 2 == 0 {
            let bytes = pattern(turn, range.len());
            writer.write(start, &bytes).unwrap();
            model[range].copy_from_slice(&bytes);
        } else {
            writer.zero(ByteRange::new(start, length)).unwrap();
            model[range].fill(0);
        }
    }
    assert_same(&written(&*writer), &model);
    writer.flush().unwrap();
    drop(writer);
    assert_same(&fixture.content("v"), &model);
    let writer = fixture.source().open_volume(&volume("v")).unwrap();
    writer.zero(ByteRange::new(0, size)).unwrap();
    assert!(written(&*writer).iter().all(|byte| *byte == 0));
    assert_eq!(writer.size_bytes(), size);
}

pub fn nothing_reaches_beyond_the_end(fixture: &dyn Fixture) {
    let bytes = pattern(2, 1000);
    fixture.make("v", 1000, &[(0, &bytes)]);
    let writer = fixture.source().open_volume(&volume("v")).unwrap();
    assert!(writer.write(999, &[1, 2]).is_err());
    assert!(writer.write(1001, &[1]).is_err());
    assert!(writer.zero(ByteRange::new(0, 1001)).is_err());
    assert!(writer.read(ByteRange::new(999, 2), &mut [0; 2]).is_err());
    assert!(writer.read(ByteRange::new(0, 1), &mut [0; 2]).is_err());
    writer.write(1000, &[]).unwrap();
    writer.zero(ByteRange::new(1000, 0)).unwrap();
    drop(writer);
    assert_same(&fixture.content("v"), &bytes);
}

pub fn a_taken_name_is_refused_and_its_volume_untouched(fixture: &dyn Fixture) {
    let bytes = pattern(3, 1000);
    fixture.make("v", 1000, &[(0, &bytes)]);
    let before = fixture.everything();
    let refused = fixture.source().create_volume(&volume("v"), 5, &VolumeMetadata::default());
    assert!(matches!(refused.err(), Some(SourceError::VolumeExists { .. })));
    assert_eq!(fixture.everything(), before);
    assert_same(&fixture.content("v"), &bytes);
}

pub fn an_existing_volume_is_opened_for_writing(fixture: &dyn Fixture) {
    let mut bytes = pattern(4, 100_000);
    fixture.make("v", 100_000, &[(0, &bytes)]);
    let missing = fixture.source().open_volume(&volume("missing"));
    assert!(matches!(missing.err(), Some(SourceError::VolumeNotFound { .. })));
    let writer = fixture.source().open_volume(&volume("v")).unwrap();
    assert_eq!(writer.size_bytes(), 100_000);
    assert_same(&written(&*writer), &bytes);
    writer.write(511, &[7; 514]).unwrap();
    writer.flush().unwrap();
    bytes[511..1025].fill(7);
    drop(writer);
    assert_same(&fixture.content("v"), &bytes);
}

pub fn a_volume_in_use_is_not_opened_for_writing(fixture: &dyn Fixture) {
    fixture.make("v", 1000, &[]);
    let (source, name) = (fixture.source(), volume("v"));
    let is_in_use = || matches!(source.open_volume(&name).err(), Some(SourceError::VolumeInUse { .. }));
    let user = fixture.open_for_writing("v");
    assert!(is_in_use());
    drop(user);
    let ours = source.open_volume(&name).unwrap();
    assert!(is_in_use());
    assert!(source.volume(&name).unwrap().in_use);
    let refused = source.create_snapshot(&name, &snapshot_name("s"), InUse::Refuse);
    assert!(matches!(refused.err(), Some(SourceError::VolumeInUse { .. })));
    drop(ours);
    let new = source.create_volume(&volume("new"), 1000, &VolumeMetadata::default()).unwrap();
    let refused = source.open_volume(&volume("new"));
    assert!(matches!(refused.err(), Some(SourceError::VolumeInUse { .. })));
    drop(new);
    assert!(source.open_volume(&name).is_ok());
}

pub fn several_threads_write_one_volume(fixture: &dyn Fixture) {
    let size = 8 << 20;
    let bytes = pattern(5, size);
    let writer =
        fixture.source().create_volume(&volume("v"), size as u64, &VolumeMetadata::default()).unwrap();
    thread::scope(|scope| {
        for number in 0..4 {
            let (writer, bytes) = (&*writer, &bytes);
            scope.spawn(move || {
                for (place, piece) in
                    bytes.chunks(50_001).enumerate().filter(|(place, _)| place % 4 == number)
                {
                    writer.zero(ByteRange::new((place * 50_001) as u64, piece.len() as u64)).unwrap();
                    writer.write((place * 50_001) as u64, piece).unwrap();
                }
                writer.flush().unwrap();
            });
        }
    });
    drop(writer);
    assert_same(&fixture.content("v"), &bytes);
}

pub fn what_a_writer_does_not_call_allocated_is_zero(fixture: &dyn Fixture) {
    let size = (64 << 20) + 5;
    let bytes = pattern(6, 20_000);
    fixture.make("v", size, &[(1, &bytes), (40 << 20, &bytes)]);
    let writer = fixture.source().open_volume(&volume("v")).unwrap();
    writer.write(size - 5, &[9; 5]).unwrap();
    let found = extents(size, |emit| writer.allocated(emit));
    let all = written(&*writer);
    assert_same(&only_data(&all, &found), &all);
    assert!(found.iter().map(|extent| extent.range.len()).sum::<u64>() < size);
    let stopped = writer.allocated(&mut |_| Err(SourceError::Stopped));
    assert!(matches!(stopped, Err(SourceError::Stopped)));
}

pub fn a_mark_is_set_replaced_and_taken_away(fixture: &dyn Fixture) {
    fixture.make("v", 1000, &[]);
    let writer = fixture.source().open_volume(&volume("v")).unwrap();
    let key = "amberfs.restore";
    writer.set_mark(key, None).unwrap();
    writer.set_mark(key, Some("incomplete")).unwrap();
    assert_eq!(fixture.mark("v", key).as_deref(), Some("incomplete"));
    writer.set_mark(key, Some("more")).unwrap();
    assert_eq!(fixture.mark("v", key).as_deref(), Some("more"));
    writer.set_mark(key, None).unwrap();
    assert_eq!(fixture.mark("v", key), None);
}

pub fn a_renamed_volume_keeps_its_bytes(fixture: &dyn Fixture) {
    let source = fixture.source();
    let [temporary, name] = ["restore_backup_1", "v"].map(volume);
    let writer = source.create_volume(&temporary, 3000, &VolumeMetadata::default()).unwrap();
    let bytes = pattern(7, 3000);
    writer.write(0, &bytes).unwrap();
    writer.flush().unwrap();
    drop(writer);
    source.rename_volume(&temporary, &name).unwrap();
    assert_eq!(source.list().unwrap(), std::slice::from_ref(&name));
    assert_same(&fixture.content("v"), &bytes);
    let missing = source.rename_volume(&temporary, &volume("w"));
    assert!(matches!(missing.err(), Some(SourceError::VolumeNotFound { .. })));
    assert_eq!(source.list().unwrap(), [name]);
}

pub fn a_rename_onto_a_taken_name_changes_nothing(fixture: &dyn Fixture) {
    let (v, w) = (pattern(8, 1000), pattern(9, 2000));
    fixture.make("v", 1000, &[(0, &v)]);
    fixture.make("w", 2000, &[(0, &w)]);
    let before = fixture.everything();
    let refused = fixture.source().rename_volume(&volume("v"), &volume("w"));
    assert!(matches!(refused.err(), Some(SourceError::VolumeExists { .. })));
    assert_eq!(fixture.everything(), before);
    assert_same(&fixture.content("v"), &v);
    assert_same(&fixture.content("w"), &w);
}

pub fn a_volume_can_be_removed_twice(fixture: &dyn Fixture) {
    fixture.make("v", 1000, &[]);
    fixture.make("w", 1000, &[]);
    let (source, name) = (fixture.source(), volume("v"));
    source.remove_volume(&name).unwrap();
    source.remove_volume(&name).unwrap();
    assert_eq!(source.list().unwrap(), [volume("w")]);
    let gone = source.volume(&name);
    assert!(matches!(gone.err(), Some(SourceError::VolumeNotFound { .. })));
    drop(source.create_volume(&name, 5, &VolumeMetadata::default()).unwrap());
    assert_eq!(source.volume(&name).unwrap().size_bytes, 5);
}
