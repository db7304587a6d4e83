//! New volumes that are larger than the backup, and names that are taken.

use std::os::unix::fs::MetadataExt;

use amberfs::catalog::Quota;
use amberfs::jobs::JobState;
use amberfs::operations::{Requester, RestoreRequest};
use amberfs::types::{GIB, MIB, Refusal, RefusalKind};

use crate::support::bytes::pattern;
use crate::support::engine::full;
use crate::{World, over, restore};

fn refused(world: &World, request: &RestoreRequest) -> Refusal {
    let operations = &world.engine().operations;
    let checked = operations.check_restore(&Requester::OPERATOR, request).unwrap_err();
    let refusal = operations.restore(&Requester::OPERATOR, request).unwrap_err();
    assert_eq!(checked, refusal);
    refusal
}

/// `--size SIZE` (`20GiB`, or bytes) makes a new volume larger than the backup: beyond the backup's end it reads zeros,
/// which are not written. Smaller than the backup is `VolumeTooSmall`; with `--to` an existing volume, `InvalidInput`.
#[test]
fn a_new_volume_may_be_larger_and_what_is_more_is_not_written() {
    let world = World::new();
    let bytes = pattern(1, 3_000_001);
    world.volume("v", &bytes);
    let id = world.engine().backup(full("v")).id;
    for (name, size) in [("same", 3_000_001), ("odd", 3_000_777), ("large", 20 * GIB)] {
        let request = RestoreRequest { name: Some(name.to_owned()), size_bytes: Some(size), ..restore(id) };
        world.engine().restore(request);
        let path = world.path(&format!("{name}.raw"));
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), size);
        assert!(metadata.blocks() * 512 < 4 * MIB);
        let mut start = vec![7; 3_000_777.min(usize::try_from(size).unwrap())];
        std::io::Read::read_exact(&mut std::fs::File::open(&path).unwrap(), &mut start).unwrap();
        assert!(start[..3_000_001] == bytes && start[3_000_001..].iter().all(|byte| *byte == 0));
    }
    assert_eq!(world.bytes_written(), 3 * 3_000_001);
    // A target that does not exist is a new volume.
    let request = RestoreRequest { to: Some("to".to_owned()), size_bytes: Some(4_000_000), ..restore(id) };
    world.engine().restore(request);
    assert_eq!(std::fs::metadata(world.path("to.raw")).unwrap().len(), 4_000_000);
}

/// `--size SIZE` (`20GiB`, or bytes) makes a new volume larger than the backup: beyond the backup's end it reads zeros,
/// which are not written. Smaller than the backup is `VolumeTooSmall`; with `--to` an existing volume, `InvalidInput`.
#[test]
fn a_size_that_is_too_small_or_of_an_existing_volume_is_refused() {
    let world = World::new();
    world.volume("v", &pattern(1, 10_000));
    let id = world.engine().backup(full("v")).id;
    let files = world.files();
    let refusal = refused(&world, &RestoreRequest { size_bytes: Some(9_999), ..restore(id) });
    assert_eq!(refusal.kind, RefusalKind::VolumeTooSmall);
    assert!(refusal.sentence.contains("9999") && refusal.sentence.contains("10000"), "{refusal}");
    for force in [false, true] {
        let refusal = refused(&world, &RestoreRequest { size_bytes: Some(20_000), force, ..over(id, "v") });
        assert_eq!(refusal.kind, RefusalKind::InvalidInput);
    }
    assert_eq!(world.files(), files);
    world.assert_available(id);
}

#[test]
fn the_quota_counts_the_larger_size() {
    let mut world = World::new();
    world.volume("v", &pattern(1, 10_000));
    let id = world.engine().backup(full("v")).id;
    world.stop();
    let quota = Quota { backups: -1, backup_gigabytes: -1, volumes: -1, gigabytes: 6 };
    world.open(15, |options| options.projects[0].quota = quota);
    let sized = |size| RestoreRequest { size_bytes: Some(size), ..restore(id) };
    let refusal = refused(&world, &sized(5 * GIB + 1));
    assert_eq!(refusal.kind, RefusalKind::VolumeSizeExceedsAvailableQuota);
    assert!(refusal.sentence.contains("Requested 6G, quota is 6G and 1G has been consumed"), "{refusal}");
    world.engine().restore(sized(5 * GIB));
    assert_eq!(refused(&world, &restore(id)).kind, RefusalKind::VolumeSizeExceedsAvailableQuota);
}

#[test]
fn whatever_has_the_temporary_name_gives_way() {
    let world = World::new();
    let bytes = pattern(1, 100_000);
    world.volume("v", &bytes);
    let id = world.engine().backup(full("v")).id;
    std::fs::remove_file(world.path("v")).unwrap();
    world.volume(&format!("restore_backup_{id}.raw"), &[7; 300_000]);
    assert_eq!(world.engine().restore(restore(id)), "v");
    assert!(std::fs::read(world.path("v.raw")).unwrap() == bytes);
    assert_eq!(world.files(), ["v.raw"]);
}

#[test]
fn one_name_is_given_to_one_of_two_restores() {
    let world = World::new();
    let bytes = pattern(1, 100_000);
    world.volume("v", &bytes);
    let [first, second] = [0; 2].map(|_| world.engine().backup(full("v")).id);
    std::fs::remove_file(world.path("v")).unwrap();
    world.gates.writes.close();
    let of_first = world.accept(&restore(first));
    let named = RestoreRequest { name: Some("v".to_owned()), ..restore(second) };
    assert_eq!(refused(&world, &named).kind, RefusalKind::InvalidState);
    // Who did not ask for the name gets another one.
    let of_second = world.accept(&restore(second));
    assert_eq!(of_first.volume.as_str(), "v");
    assert!(of_second.volume.as_str().starts_with("v-20"), "{}", of_second.volume);
    world.gates.writes.open();
    for accepted in [of_first, of_second] {
        assert_eq!(world.wait(accepted.job).state, JobState::Done);
        assert!(std::fs::read(world.path(&format!("{}.raw", accepted.volume))).unwrap() == bytes);
    }
}
