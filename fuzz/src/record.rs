//! Backup records: a line with a checksum around JSON, and a catalog of records that lean on each other in any way.

use std::collections::HashSet;
use std::sync::Arc;

use amberfs::catalog::{BackupInfo, BackupRecord, BackupStatus, Catalog, DiffCheck, ManifestReference};
use amberfs::objects::{ObjectName, ObjectStore};
use amberfs::types::{BackupId, ManifestId, Timestamp, VolumeId, VolumeMetadata};

use super::input::Input;
use super::memory::MemoryStore;
use super::sealed;

const STATES: [BackupStatus; 6] = [
    BackupStatus::Creating,
    BackupStatus::Available,
    BackupStatus::Restoring,
    BackupStatus::Deleting,
    BackupStatus::Error,
    BackupStatus::ErrorDeleting,
];

pub fn look(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    match mode % 3 {
        0 => check(rest),
        1 => check(sealed::document("amberfs-record", 1, &String::from_utf8_lossy(rest)).as_bytes()),
        _ => catalog(&mut Input::new(rest)),
    }
}

fn check(bytes: &[u8]) {
    let Ok(record) = BackupRecord::decode(bytes) else { return };
    for name in [record.project.as_str(), record.source.as_str()] {
        assert!(
            !name.is_empty() && !name.starts_with('.') && !name.contains('/'),
            "{name:?} stands in paths"
        );
    }
    assert!(!record.volume_name.as_str().is_empty() && !record.volume_name.as_str().contains('\0'));
    let _ = record.data_timestamp.to_system_time();
    let info = BackupInfo::new(&record, false, "here").to_json();
    assert!(info.len() < 4 * bytes.len() + 4096, "{} bytes of fields", info.len());
    // Texts may take more room with other escapes than they came with.
    let Ok(text) = record.encode() else { return };
    assert_eq!(text.lines().count(), 1, "a record is a line of control/import");
    assert_eq!(BackupRecord::decode(text.as_bytes()).as_ref(), Ok(&record));
    let objects = MemoryStore::default();
    objects.insert(ObjectName::Record(record.id), bytes.to_vec());
    let catalog = Catalog::load(Arc::new(objects)).unwrap();
    assert_eq!(catalog.get(record.id).as_deref(), Some(&record));
    let _ = catalog.chain(record.id);
}

fn id(number: u64) -> BackupId {
    BackupId::from_bytes((u128::from(number) << 64 | 0x4000_8000_0000_0000_0000).to_be_bytes())
}

fn record(number: u64, input: &mut Input<'_>) -> BackupRecord {
    let time = |micros: u64| Timestamp::from_micros(micros as i64);
    let has_manifest = input.byte() < 200;
    BackupRecord {
        id: id(number),
        name: None,
        description: None,
        project: "default".parse().unwrap(),
        status: STATES[input.below(6) as usize],
        fail_reason: None,
        volume_id: VolumeId::new("id"),
        volume_name: ["a", "b"][input.below(2) as usize].parse().unwrap(),
        source: "local".parse().unwrap(),
        size_bytes: input.number(8),
        stored_bytes: 0,
        object_count: 0,
        availability_zone: None,
        // Others, itself, and one that is not there.
        parent_id: (input.byte() < 200).then(|| id(input.below(18))),
        snapshot_id: None,
        created_at: time(0),
        updated_at: time(0),
        data_timestamp: time(input.number(1)),
        properties: Default::default(),
        volume_metadata: VolumeMetadata::default(),
        image_sha256: None,
        last_verified_at: None,
        allocated_bytes: 0,
        manifest: has_manifest.then(|| ManifestReference {
            id: ManifestId::from_bytes([number as u8; 16]),
            length: 0,
            tail_sha256: String::new(),
        }),
        snapshot: None,
        restore_target: None,
        protected: false,
        retired_manifests: Vec::new(),
        diff_check: DiffCheck::default(),
        damage: None,
    }
}

fn catalog(input: &mut Input<'_>) {
    let objects = Arc::new(MemoryStore::default());
    let count = 1 + input.below(16);
    for number in 0..count {
        let record = record(number, input);
        objects.insert(ObjectName::Record(record.id), record.encode().unwrap().into_bytes());
    }
    let store: Arc<dyn ObjectStore> = objects;
    let catalog = Catalog::load(store).unwrap();
    let check = |catalog: &Catalog| {
        for record in catalog.all() {
            if let Ok(chain) = catalog.chain(record.id) {
                let ids: HashSet<ManifestId> = chain.iter().map(|manifest| manifest.id).collect();
                assert_eq!(ids.len(), chain.len(), "a manifest is in its own chain");
                assert_eq!(chain.first(), record.manifest.as_ref());
            }
            for dependent in catalog.dependents(record.id) {
                assert_eq!(dependent.parent_id, Some(record.id));
            }
            assert_eq!(catalog.has_dependents(record.id), !catalog.dependents(record.id).is_empty());
        }
        for (source, volume) in catalog.volumes() {
            let backups = catalog.of_volume(&source, &volume);
            assert!(!backups.is_empty());
            let latest = catalog.latest(&source, &volume);
            assert!(latest.is_none_or(|latest| latest.status.is_readable()));
        }
    };
    assert_eq!(catalog.count() as u64, count);
    check(&catalog);
    for number in 0..count {
        match input.byte() % 4 {
            0 => catalog.remove(id(number)).unwrap(),
            1 => {
                let state = STATES[input.below(6) as usize];
                catalog.update(id(number), |record| record.status = state).unwrap();
            }
            2 => {
                catalog.update(id(number), |record| record.parent_id = None).unwrap();
            }
            _ => catalog.hide(id(number)),
        }
    }
    check(&catalog);
}
