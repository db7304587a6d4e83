//! File systems in the states in which real ones are found.

use std::fs;
use std::path::Path;

use amberfs::sysio::device::ReadAt;
use amberfs::xfs::{self, Plan, Refused, XfsError};
use uuid::Uuid;

use super::overlay::Overlay;
use super::volume::{
    Mount, Volume, assert_mounts_beside, assert_repair_finds_nothing, copy_file, device, field, group_uuids,
    run, text,
};

/// Changes a copy of the volume, and holds it against the tools and the kernel; returns the plan and how many files there are.
fn assert_changes(volume: &Volume, groups: u32) -> (Plan, usize) {
    let (original, changed) = (volume.copy("original"), volume.copy("changed"));
    let new = Uuid::new_v4();
    let old = xfs::identify(&device(&changed)).unwrap().unwrap().uuid;
    let plan = xfs::change(&device(&changed), new).unwrap();
    assert_eq!((plan.old_uuid, plan.new_uuid, plan.finishes_earlier), (old, new, false));
    assert_eq!(group_uuids(&changed, groups), vec![new; groups as usize]);
    xfs::check(&device(&changed), new).unwrap();
    assert!(xfs::check(&device(&changed), old).is_err());
    assert_restores(&changed, &original, old);
    let files = assert_mounts_beside(&original, &changed);
    assert_repair_finds_nothing(&changed);
    // What was replayed and unmounted can be changed again.
    let again = xfs::change(&device(&changed), old).unwrap();
    assert!(!again.is_log_dirty);
    Mount::new(&changed, "");
    assert_repair_finds_nothing(&changed);
    (plan, files)
}

/// With the old UUID all is as it was, bit for bit.
fn assert_restores(changed: &Path, original: &Path, old: Uuid) {
    let restored = changed.with_extension("restored");
    copy_file(changed, &restored);
    xfs::change(&device(&restored), old).unwrap();
    run("cmp", &[text(&restored), text(original)]);
    fs::remove_file(restored).unwrap();
}

#[test]
fn a_clean_file_system_gets_a_new_uuid() {
    let volume = Volume::make(&[]);
    Mount::new(&volume.path, "").write_files("clean", 100);
    let (plan, files) = assert_changes(&volume, 4);
    assert!(!plan.is_log_dirty && plan.log_records > 0);
    assert!(files > 80);
}

#[test]
fn one_that_was_never_mounted_gets_a_new_uuid() {
    let (plan, _) = assert_changes(&Volume::make(&[]), 4);
    assert!(!plan.is_log_dirty);
    assert_eq!(plan.version, 5);
}

#[test]
fn what_is_in_the_log_only_is_replayed_under_the_new_uuid() {
    let volume = Volume::crashed(&[], "");
    {
        let stale = Mount::new(&volume.path, "ro,norecovery");
        assert!(stale.hashes().len() < 100, "the files are not in the log only");
    }
    let (plan, files) = assert_changes(&volume, 4);
    assert!(plan.is_log_dirty);
    assert!(files > 150, "{files}");
}

#[test]
fn a_frozen_snapshot_has_a_superblock_in_its_log() {
    let mut volume = Volume::make(&[]);
    let frozen = volume.folder.path().join("frozen");
    let mounted = Mount::new(&volume.path, "");
    mounted.write_files("frozen", 100);
    run("fsfreeze", &["-f", text(&mounted.at)]);
    copy_file(&volume.path, &frozen);
    run("fsfreeze", &["-u", text(&mounted.at)]);
    drop(mounted);
    volume.path = frozen;
    let (plan, files) = assert_changes(&volume, 4);
    assert!(plan.is_log_dirty);
    assert!(plan.logged_superblocks > 0);
    assert!(files > 80);
}

#[test]
fn a_logged_label_and_a_logged_growth_are_replayed() {
    let mut volume = Volume::make(&["-d", "agcount=4,size=300m"]);
    fs::File::options().write(true).open(&volume.path).unwrap().set_len(500 << 20).unwrap();
    let crashed = volume.folder.path().join("grown");
    let mounted = Mount::new(&volume.path, "");
    mounted.write_files("before", 50);
    run("xfs_growfs", &["-d", text(&mounted.at)]);
    run("xfs_io", &["-c", "label -s grown", text(&mounted.at)]);
    mounted.write_files("behind", 50);
    run("sync", &["-f", text(&mounted.at)]);
    copy_file(&volume.path, &crashed);
    drop(mounted);
    // What a crash right behind the growth leaves: the first superblock still has the old size, and the log the new one.
    volume.path = crashed;
    let old_size = super::volume::field(&volume.path, "agcount");
    let (plan, files) = assert_changes(&volume, 7);
    assert_eq!((plan.groups, plan.is_log_dirty), (7, true), "{old_size} groups on the disk");
    assert!(plan.logged_superblocks >= 2);
    assert!(files > 80);
}

#[test]
fn a_log_whose_superblock_is_older_than_its_growth_is_changed_in_all_groups() {
    let mut volume = Volume::make(&["-d", "agcount=4,size=300m"]);
    fs::File::options().write(true).open(&volume.path).unwrap().set_len(500 << 20).unwrap();
    let crashed = volume.folder.path().join("grown");
    let before = super::volume::device(&volume.path);
    let mut superblock = [0; 512];
    before.read_exact_at(0, &mut superblock).unwrap();
    let mounted = Mount::new(&volume.path, "");
    mounted.write_files("before", 50);
    run("xfs_growfs", &["-d", text(&mounted.at)]);
    run("sync", &["-f", text(&mounted.at)]);
    copy_file(&volume.path, &crashed);
    drop(mounted);
    {
        use amberfs::sysio::device::WriteAt;
        let device = device(&crashed);
        device.write_all_at(0, &superblock).unwrap();
        device.sync().unwrap();
    }
    volume.path = crashed;
    assert_eq!(field(&volume.path, "agcount"), "4");
    let (plan, _) = assert_changes(&volume, 4);
    assert_eq!(plan.groups, 7);
    assert_eq!(group_uuids(&volume.folder.path().join("changed"), 7), vec![plan.old_uuid; 7]);
    // Where the growth does not fit any more, a mount could not replay it.
    fs::File::options().write(true).open(&volume.path).unwrap().set_len(300 << 20).unwrap();
    match xfs::plan(&device(&volume.path), Uuid::new_v4()) {
        Err(XfsError::Refused(Refused::LoggedGroups { groups: 7, room: 4, .. })) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn sectors_of_4096_bytes_and_many_groups() {
    let (plan, files) =
        assert_changes(&Volume::crashed(&["--unsupported", "-s", "size=4096", "-d", "agcount=16"], ""), 16);
    assert_eq!((plan.groups, plan.is_log_dirty), (16, true));
    assert!(files > 150);
}

#[test]
fn large_log_buffers_with_extended_headers() {
    let (plan, files) = assert_changes(&Volume::crashed(&["-l", "su=256k"], "logbsize=256k"), 4);
    assert!(plan.is_log_dirty);
    assert!(files > 150);
    assert_changes(&Volume::crashed(&[], "logbsize=256k"), 4);
}

#[test]
fn a_log_that_went_round() {
    let mut volume = Volume::make(&["--unsupported", "-l", "size=6m"]);
    let crashed = volume.folder.path().join("crashed");
    let mounted = Mount::new(&volume.path, "logbsize=64k");
    for round in 0..30 {
        mounted.write_files(&format!("round-{round}"), 300);
        run("xfs_io", &["-c", &format!("label -s round{round}"), text(&mounted.at)]);
        run("sync", &["-f", text(&mounted.at)]);
        fs::remove_dir_all(mounted.at.join(format!("round-{round}-0"))).unwrap();
    }
    run("sync", &["-f", text(&mounted.at)]);
    copy_file(&volume.path, &crashed);
    drop(mounted);
    volume.path = crashed;
    let (plan, files) = assert_changes(&volume, 4);
    assert!(plan.is_log_dirty && plan.log_records > 50);
    assert!(files > 3000);
}

#[test]
fn a_copy_taken_while_writers_are_at_it() {
    let volume = Volume::make(&["--unsupported", "-l", "size=16m"]);
    for round in 0..3 {
        let live = volume.copy("live");
        let copied =
            Volume { path: volume.folder.path().join("copied"), folder: tempfile::tempdir().unwrap() };
        {
            let mounted = Mount::new(&live, "");
            std::thread::scope(|scope| {
                let mounted = &mounted;
                let writers: Vec<_> = (0..3)
                    .map(|writer| {
                        scope.spawn(move || mounted.write_files(&format!("writer-{writer}-{round}"), 1500))
                    })
                    .collect();
                while !mounted.at.join(format!("writer-0-{round}-10")).exists() {
                    std::thread::yield_now();
                }
                run("sync", &["-f", text(&mounted.at)]);
                // A copy by a reflink-less cp is not one point in time; a frozen writeback is near enough for the log.
                run("fsfreeze", &["-f", text(&mounted.at)]);
                copy_file(&live, &copied.path);
                run("fsfreeze", &["-u", text(&mounted.at)]);
                writers.into_iter().for_each(|writer| writer.join().unwrap());
            });
        }
        assert_changes(&copied, 4);
    }
}

#[test]
fn version_4_has_its_uuid_in_the_superblocks_and_the_log_only() {
    let volume = Volume::make(&["-m", "crc=0"]);
    let (new, old) = (Uuid::new_v4(), xfs::identify(&device(&volume.path)).unwrap().unwrap().uuid);
    let original = volume.copy("original");
    let plan = xfs::change(&device(&volume.path), new).unwrap();
    assert_eq!((plan.version, plan.old_uuid), (4, old));
    assert_eq!(group_uuids(&volume.path, 4), vec![new; 4]);
    assert_repair_finds_nothing(&volume.path);
    xfs::change(&device(&volume.path), old).unwrap();
    run("cmp", &[text(&volume.path), text(&original)]);
}

#[test]
fn a_third_uuid_keeps_what_the_metadata_is_stamped_with() {
    let volume = Volume::crashed(&[], "");
    let first = xfs::identify(&device(&volume.path)).unwrap().unwrap().uuid;
    xfs::change(&device(&volume.path), Uuid::new_v4()).unwrap();
    assert_eq!(field(&volume.path, "meta_uuid"), first.to_string());
    let (plan, files) = assert_changes(&volume, 4);
    assert!(plan.is_log_dirty && files > 150);
}

#[test]
fn what_xfs_admin_changed_can_be_changed_again() {
    let volume = Volume::make(&[]);
    Mount::new(&volume.path, "").write_files("file", 50);
    run("xfs_admin", &["-U", "generate", text(&volume.path)]);
    assert_changes(&volume, 4);
}

#[test]
fn a_plan_of_an_image_is_written_to_its_copy() {
    let volume = Volume::crashed(&[], "");
    let copy = volume.copy("copy");
    let new = Uuid::new_v4();
    let plan = xfs::plan(&Overlay::new(&volume.path), new).unwrap();
    plan.apply(&device(&copy)).unwrap();
    xfs::check(&device(&copy), new).unwrap();
    assert!(plan.apply(&device(&copy)).unwrap_err().is_refusal(), "it is no copy any more");
    assert!(assert_mounts_beside(&volume.path, &copy) > 150);
}

#[test]
fn the_same_uuid_again_writes_nothing() {
    let volume = Volume::crashed(&[], "");
    let old = xfs::identify(&device(&volume.path)).unwrap().unwrap().uuid;
    let overlay = Overlay::new(&volume.path);
    assert!(xfs::change(&overlay, old).unwrap().is_empty());
    assert_eq!(overlay.writes(), 0);
}
