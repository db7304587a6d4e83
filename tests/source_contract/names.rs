//! Claims about names and what is said of a volume.

use amberfs::source::{InUse, SourceError};
use amberfs::types::{ByteRange, VolumeMetadata};

use crate::{Fixture, assert_same, read_all, snapshot_name, volume};

pub fn volumes_are_listed_by_name_in_order(fixture: &dyn Fixture) {
    assert_eq!(fixture.source().list().unwrap(), []);
    for name in ["b", "a", "c-1", "B"] {
        fixture.make(name, 512, &[]);
    }
    assert_eq!(fixture.source().list().unwrap(), ["B", "a", "b", "c-1"].map(volume));
}

pub fn hard_names_work_everywhere(fixture: &dyn Fixture) {
    let source = fixture.source();
    let target = volume("target");
    for name in fixture.hard_names() {
        let name = volume(&name);
        let writer = source.create_volume(&name, 513, &VolumeMetadata::default()).unwrap();
        writer.write(0, &[5; 513]).unwrap();
        writer.flush().unwrap();
        drop(writer);
        assert_eq!(source.list().unwrap(), std::slice::from_ref(&name));
        assert_eq!(source.volume(&name).unwrap().name, name);
        let again = source.create_volume(&name, 1, &VolumeMetadata::default());
        assert!(matches!(again.err(), Some(SourceError::VolumeExists { .. })), "{name:?}");
        let snapshot = source.create_snapshot(&name, &snapshot_name("s"), InUse::Refuse).unwrap();
        assert_same(&read_all(&*snapshot).unwrap(), &[5; 513]);
        source.remove_snapshot(&name, snapshot.info()).unwrap();
        drop(snapshot);
        source.rename_volume(&name, &target).unwrap();
        source.rename_volume(&target, &name).unwrap();
        source.open_volume(&name).unwrap().zero(ByteRange::new(0, 513)).unwrap();
        source.remove_volume(&name).unwrap();
        assert_eq!(fixture.everything(), [""; 0], "{name:?}");
    }
}

pub fn impossible_names_are_refused_everywhere_and_leave_nothing(fixture: &dyn Fixture) {
    let source = fixture.source();
    fixture.make("v", 512, &[]);
    let before = fixture.everything();
    for name in fixture.impossible_names() {
        let name = volume(&name);
        let create = source.create_volume(&name, 1, &VolumeMetadata::default());
        let rename = source.rename_volume(&volume("v"), &name);
        for error in [create.err(), rename.err()] {
            assert!(matches!(error, Some(SourceError::InvalidName { .. })), "{name:?}: {error:?}");
        }
        assert!(source.volume(&name).is_err(), "{name:?}");
        assert_eq!(fixture.everything(), before);
    }
}

pub fn a_volume_is_described(fixture: &dyn Fixture) {
    fixture.make("v", 1_000_001, &[]);
    fixture.make("w", 512, &[]);
    let source = fixture.source();
    let info = source.volume(&volume("v")).unwrap();
    assert_eq!((info.name.as_str(), info.size_bytes, info.in_use), ("v", 1_000_001, false));
    assert_eq!(source.volume(&volume("v")).unwrap(), info);
    assert_ne!(source.volume(&volume("w")).unwrap().id, info.id);
    let missing = source.volume(&volume("missing"));
    assert!(matches!(missing.err(), Some(SourceError::VolumeNotFound { .. })));
    assert_eq!(source.name().as_str(), "here");
    assert!(["dir", "rbd"].contains(&source.kind()));
}
