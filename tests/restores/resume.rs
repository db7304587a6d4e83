//! Rule 13: a restore that was interrupted goes on where its durable progress ends, or ends without a trace.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use amberfs::catalog::{BackupRecord, BackupStatus, Quota, RestoreTarget};
use amberfs::jobs::JobState;
use amberfs::operations::{Requester, RestoreRequest, VolumeType};
use amberfs::types::{BackupId, GIB, MIB, RefusalKind};

use crate::support::bytes::pattern;
use crate::support::daemon::until;
use crate::support::engine::full;
use crate::{STEP, World, mark, over, restore};

/// Ten writes, five steps.
const SIZE: usize = 40 * MIB as usize;

/// Backs up a volume `v` and takes it away.
fn lost_volume(world: &World) -> (BackupId, Vec<u8>) {
    let bytes = pattern(1, SIZE);
    world.volume("v", &bytes);
    let id = world.engine().backup(full("v")).id;
    std::fs::remove_file(world.path("v")).unwrap();
    (id, bytes)
}

fn temporary(id: BackupId) -> String {
    format!("restore_backup_{id}.raw")
}

/// A restore that a stop or a crash interrupted is queued again by the next start, with its name and its quota kept, and
/// goes on where its progress was durable (every 256 MiB).
#[test]
fn a_stopped_restore_goes_on_where_its_durable_progress_ends() {
    let mut world = World::new();
    let (id, bytes) = lost_volume(&world);
    world.interrupted(&restore(id));
    assert_eq!(world.files(), [temporary(id)]);
    world.open(15, |_| {});
    assert_eq!(world.resumed(id).unwrap().state, JobState::Done);
    assert_eq!(world.bytes_written(), SIZE as u64 - 2 * STEP);
    assert_eq!(world.files(), ["v.raw"]);
    assert!(std::fs::read(world.path("v.raw")).unwrap() == bytes);
    world.assert_available(id);
}

#[test]
fn a_restore_can_be_stopped_again_and_again() {
    let mut world = World::new();
    let (id, bytes) = lost_volume(&world);
    world.interrupted(&restore(id));
    world.gates.writes.close_after(3);
    world.open(15, |_| {});
    world.gates.writes.wait_until_waiting(1);
    let stored = world.record(id).restore_target.clone().unwrap();
    assert_eq!((world.record(id).status, stored.durable_bytes), (BackupStatus::Restoring, 3 * STEP));
    world.stop();
    world.open(15, |_| {});
    assert_eq!(world.resumed(id).unwrap().state, JobState::Done);
    assert_eq!(world.bytes_written(), SIZE as u64 - 3 * STEP);
    assert!(std::fs::read(world.path("v.raw")).unwrap() == bytes);
}

#[test]
fn a_restore_that_was_only_queued_is_run_by_the_next_start() {
    let mut world = World::new();
    let (id, bytes) = lost_volume(&world);
    world.volume("w", &bytes);
    let other = world.engine().backup(full("w")).id;
    // Something has to be written.
    world.volume("w", &vec![7; bytes.len()]);
    world.stop();
    world.open(1, |_| {});
    world.gates.writes.close();
    world.accept(&over(other, "w"));
    let queued = world.accept(&RestoreRequest { name: Some("n".to_owned()), ..restore(id) });
    // It has marked its volume: this machine remembers no jobs here.
    world.gates.writes.wait_until_waiting(1);
    assert_eq!(world.record(id).status, BackupStatus::Restoring);
    assert_eq!(queued.volume.as_str(), "n");
    world.stop();
    world.open(1, |_| {});
    assert_eq!(world.resumed(id).unwrap().state, JobState::Done);
    assert_eq!(world.resumed(other).unwrap().state, JobState::Done);
    assert!(std::fs::read(world.path("n.raw")).unwrap() == bytes);
    assert_eq!(world.files(), ["n.raw", "w"]);
}

/// If the new volume of an interrupted restore is gone, or another one, the restore begins anew.
#[test]
fn a_temporary_volume_that_is_gone_or_another_one_is_made_anew() {
    for replaced in [false, true] {
        let mut world = World::new();
        let (id, bytes) = lost_volume(&world);
        world.interrupted(&restore(id));
        std::fs::remove_file(world.path(&temporary(id))).unwrap();
        if replaced {
            world.volume(&temporary(id), &vec![7; SIZE]);
        }
        world.open(15, |_| {});
        assert_eq!(world.resumed(id).unwrap().state, JobState::Done);
        assert_eq!(world.bytes_written(), SIZE as u64);
        assert!(std::fs::read(world.path("v.raw")).unwrap() == bytes);
        assert_eq!(world.files(), ["v.raw"]);
    }
}

#[test]
fn a_restore_that_cannot_begin_anew_ends_and_leaves_nothing() {
    let standard = |options: &mut amberfs::operations::OperationsOptions| {
        options.volume_types.insert("standard".to_owned(), VolumeType::default());
    };
    let mut world = World::new();
    let (id, _) = lost_volume(&world);
    world.stop();
    world.open(15, standard);
    world.interrupted(&RestoreRequest { volume_type: Some("standard".to_owned()), ..restore(id) });
    std::fs::remove_file(world.path(&temporary(id))).unwrap();
    // The type has left the configuration.
    world.open(15, |_| {});
    let report = world.resumed(id).unwrap();
    assert_eq!(report.error.unwrap().kind, RefusalKind::VolumeTypeNotFound);
    assert_eq!(world.files(), [] as [&str; 0]);
    world.assert_available(id);
    world.engine().restore(restore(id));
}

#[test]
fn a_restore_that_was_given_up_or_that_an_older_amberfs_began_ends_and_its_volume_goes() {
    let more =
        r#","final_name":"v","any_name":true,"size_bytes":41943040,"instance":"x","durable_bytes":4096"#;
    for more in ["", &format!(r#"{more},"is_abandoned":true"#)] {
        let mut world = World::new();
        let (id, _) = lost_volume(&world);
        world.volume(&temporary(id), b"half");
        let text = format!(r#"{{"source":"local","volume":"restore_backup_{id}","is_new":true{more}}}"#);
        let target: RestoreTarget = serde_json::from_str(&text).unwrap();
        let catalog = world.engine().operations.repository().catalog();
        let interrupt = |record: &mut BackupRecord| {
            (record.status, record.restore_target) = (BackupStatus::Restoring, Some(target));
        };
        catalog.update(id, interrupt).unwrap();
        world.stop();
        world.open(15, |_| {});
        assert_eq!(world.resumed(id), None);
        until("the end of the restore", || {
            (world.record(id).status == BackupStatus::Available).then_some(())
        });
        assert_eq!(world.files(), [] as [&str; 0]);
        world.assert_available(id);
    }
}

#[test]
fn a_volume_that_had_got_its_name_already_is_not_restored_a_second_time() {
    for named in [false, true] {
        let mut world = World::new();
        let (id, bytes) = lost_volume(&world);
        let name = named.then(|| "n".to_owned());
        let request = RestoreRequest { name: name.clone(), ..restore(id) };
        let stored = {
            world.interrupted(&request);
            world.gates.writes.close();
            world.open(15, |_| {});
            world.gates.writes.wait_until_waiting(1);
            let stored = world.record(id).restore_target.clone();
            world.gates.writes.open();
            assert_eq!(world.resumed(id).unwrap().state, JobState::Done);
            stored
        };
        // As a crash between the volume's name and the record would have left it.
        let catalog = world.engine().operations.repository().catalog();
        catalog
            .update(id, |record| (record.status, record.restore_target) = (BackupStatus::Restoring, stored))
            .unwrap();
        world.stop();
        world.open(15, |_| {});
        assert_eq!(world.resumed(id).unwrap().state, JobState::Done);
        assert_eq!(world.bytes_written(), 0);
        let file = format!("{}.raw", name.unwrap_or("v".to_owned()));
        assert_eq!(world.files(), [file.as_str()]);
        assert!(std::fs::read(world.path(&file)).unwrap() == bytes);
        world.assert_available(id);
    }
}

/// In an existing volume, what an interrupted restore had written is compared, not trusted: somebody may have written
/// there meanwhile.
#[test]
fn what_was_durable_in_an_existing_volume_is_compared_and_not_trusted() {
    // So large that what was written already is the smaller part: the sample says not to compare.
    const SIZE: usize = 120 * MIB as usize;
    let mut world = World::new();
    let bytes = pattern(1, SIZE);
    world.volume("v", &bytes);
    let id = world.engine().backup(full("v")).id;
    world.volume("v", &pattern(2, SIZE + 10_000));
    world.interrupted(&over(id, "v"));
    assert_eq!(mark(&world.path("v")).unwrap(), b"incomplete");
    let file = OpenOptions::new().write(true).open(world.path("v")).unwrap();
    file.write_all_at(&[7; 100], MIB + 5).unwrap();
    drop(file);
    world.open(15, |_| {});
    assert_eq!(world.resumed(id).unwrap().state, JobState::Done);
    let left = SIZE as u64 - 2 * STEP;
    assert_eq!(world.bytes_written(), left + 4096, "the damaged block and all of the rest");
    let restored = std::fs::read(world.path("v")).unwrap();
    assert!(restored[..SIZE] == bytes && restored[SIZE..].iter().all(|byte| *byte == 0));
    assert_eq!(mark(&world.path("v")), None);
    world.assert_available(id);
}

#[test]
fn an_existing_volume_that_was_replaced_is_not_written_to() {
    let mut world = World::new();
    let bytes = pattern(1, SIZE);
    world.volume("v", &bytes);
    let id = world.engine().backup(full("v")).id;
    world.volume("v", &pattern(2, SIZE));
    world.interrupted(&over(id, "v"));
    std::fs::remove_file(world.path("v")).unwrap();
    world.volume("v", &vec![9; SIZE]);
    world.open(15, |_| {});
    let report = world.resumed(id).unwrap();
    assert_eq!((report.state, report.error.unwrap().kind), (JobState::Failed, RefusalKind::InvalidState));
    assert!(std::fs::read(world.path("v")).unwrap() == vec![9; SIZE]);
    world.assert_available(id);
}

#[test]
fn names_and_quotas_are_kept_for_a_restore_that_goes_on() {
    let mut world = World::new();
    let (id, bytes) = lost_volume(&world);
    world.volume("w", &bytes);
    let other = world.engine().backup(full("w")).id;
    let large = RestoreRequest { size_bytes: Some(3 * GIB), ..restore(id) };
    world.interrupted(&large);
    // Also before the volume is there again.
    std::fs::remove_file(world.path(&temporary(id))).unwrap();
    world.gates.writes.close();
    let quota = Quota { backups: -1, backup_gigabytes: -1, volumes: 3, gigabytes: 4 };
    world.open(15, |options| options.projects[0].quota = quota);
    let operations = &world.engine().operations;
    let refused = |name: Option<&str>| {
        let request = RestoreRequest { name: name.map(str::to_owned), ..restore(other) };
        operations.restore(&Requester::OPERATOR, &request).unwrap_err().kind
    };
    assert_eq!(refused(None), RefusalKind::VolumeSizeExceedsAvailableQuota);
    std::fs::remove_file(world.path("w")).unwrap();
    assert_eq!(refused(Some("v")), RefusalKind::InvalidState);
    let again = operations.restore(&Requester::OPERATOR, &restore(id)).unwrap_err();
    assert_eq!(again.kind, RefusalKind::InvalidState);
    world.gates.writes.open();
    assert_eq!(world.resumed(id).unwrap().state, JobState::Done);
    assert_eq!(std::fs::metadata(world.path("v.raw")).unwrap().len(), 3 * GIB);
}

#[test]
fn a_cancelled_restore_does_not_come_back() {
    let mut world = World::new();
    let (id, bytes) = lost_volume(&world);
    world.volume("w", &bytes);
    let other = world.engine().backup(full("w")).id;
    std::fs::remove_file(world.path("w")).unwrap();
    world.gates.writes.close_after(10);
    for id in [id, other] {
        world.accept(&restore(id));
    }
    world.gates.writes.wait_until_waiting(2);
    world.stop();
    assert_eq!(world.files().len(), 2);
    // One runs and the other is queued: both have a volume.
    world.gates.writes.close();
    world.open(1, |_| {});
    world.gates.writes.wait_until_waiting(1);
    let mut reports = world.engine().operations.jobs().reports();
    reports.sort_by_key(|report| report.state == JobState::Queued);
    assert_eq!(reports[1].state, JobState::Queued);
    world.cancel(reports[1].id);
    assert_eq!(world.wait(reports[1].id).state, JobState::Cancelled);
    world.cancel(reports[0].id);
    world.gates.writes.open();
    assert_eq!(world.wait(reports[0].id).state, JobState::Cancelled);
    until("both volumes to go", || world.files().is_empty().then_some(()));
    for id in [id, other] {
        until("the backup", || (world.record(id).status == BackupStatus::Available).then_some(()));
    }
    world.stop();
    world.open(15, |_| {});
    assert_eq!(world.engine().operations.jobs().reports(), []);
    for id in [id, other] {
        world.assert_available(id);
    }
    assert_eq!(world.engine().restore(restore(id)), "v");
}
