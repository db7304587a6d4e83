//! A change that is cut off at any write, with any of the sectors on the disk that were not synced, is finished by the next one.

use std::fs::File;
use std::os::unix::fs::FileExt;

use amberfs::xfs;
use uuid::Uuid;

use super::overlay::{Overlay, Sectors};
use super::volume::{
    Mount, Volume, assert_mounts_beside, assert_repair_finds_nothing, copy_file, device, run, text,
};

/// One with many records and many superblocks in its log: each label and each freeze logs one.
fn with_logged_superblocks(options: &[&str]) -> Volume {
    let mut volume = Volume::make(&[&["--unsupported", "-l", "size=8m"], options].concat());
    let crashed = volume.folder.path().join("crashed");
    let mounted = Mount::new(&volume.path, "");
    for round in 0..8 {
        mounted.write_files(&format!("round-{round}"), 12 + round);
        run("xfs_io", &["-c", &format!("label -s round{round}"), text(&mounted.at)]);
        run("fsfreeze", &["-f", text(&mounted.at)]);
        if round == 7 {
            copy_file(&volume.path, &crashed);
        }
        run("fsfreeze", &["-u", text(&mounted.at)]);
    }
    drop(mounted);
    volume.path = crashed;
    volume
}

/// Numbers that are the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn uninterrupted(volume: &Volume, new: Uuid) -> (Sectors, usize) {
    let overlay = Overlay::new(&volume.path);
    let plan = xfs::change(&overlay, new).unwrap();
    assert!(plan.logged_superblocks > 0 || plan.version == 4, "nothing that could be half written");
    (overlay.sectors(), overlay.writes())
}

/// Every write when there are few, some of them when there are many.
fn cuts(writes: usize) -> Vec<usize> {
    let step = (writes / 40).max(1);
    (0..writes).filter(|cut| cut % step == 0 || *cut < 4 || cut + 6 > writes).collect()
}

fn cut_off(volume: &Volume, cut: usize, new: Uuid, dice: &mut Dice) -> Overlay {
    let overlay = Overlay::new(&volume.path);
    overlay.fail_after(cut);
    let error = xfs::change(&overlay, new).unwrap_err();
    assert!(!error.is_refusal(), "{error}");
    let often = dice.roll() % 3 + 1;
    overlay.crash(|| dice.roll() % 4 < often);
    overlay
}

fn assert_finished_by_a_later_run(volume: &Volume) {
    let (new, other, old) =
        (Uuid::new_v4(), Uuid::new_v4(), xfs::identify(&device(&volume.path)).unwrap().unwrap().uuid);
    let (wanted, writes) = uninterrupted(volume, new);
    let (wanted_other, _) = uninterrupted(volume, other);
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for cut in cuts(writes) {
        let overlay = cut_off(volume, cut, new, &mut dice);
        let identity = xfs::identify(&overlay).unwrap().unwrap();
        assert!(
            identity.is_in_progress || overlay.sectors().is_empty() || overlay.sectors() == wanted,
            "a kernel would mount what write {cut} left"
        );
        // A second power failure, in the middle of the finishing.
        overlay.fail_after(dice.roll() as usize % writes);
        let _ = xfs::change(&overlay, new);
        overlay.crash(|| dice.roll().is_multiple_of(2));
        xfs::change(&overlay, new).unwrap();
        assert!(overlay.sectors() == wanted, "cut off at write {cut}");

        let overlay = cut_off(volume, cut, new, &mut dice);
        xfs::change(&overlay, other).unwrap();
        assert!(overlay.sectors() == wanted_other, "cut off at write {cut}, and then another UUID");

        let overlay = cut_off(volume, cut, new, &mut dice);
        xfs::change(&overlay, old).unwrap();
        assert!(overlay.sectors().is_empty(), "cut off at write {cut}, and then undone");
    }
}

#[test]
fn a_dirty_file_system() {
    assert_finished_by_a_later_run(&with_logged_superblocks(&[]));
}

#[test]
fn one_with_sectors_of_4096_bytes() {
    assert_finished_by_a_later_run(&with_logged_superblocks(&["-s", "size=4096"]));
}

#[test]
fn one_with_a_single_group_and_so_no_second_superblock() {
    assert_finished_by_a_later_run(&with_logged_superblocks(&["-d", "agcount=1"]));
}

#[test]
fn one_of_version_4() {
    assert_finished_by_a_later_run(&Volume::make(&["--unsupported", "-l", "size=6m", "-m", "crc=0"]));
}

#[test]
fn one_that_has_a_changed_uuid_already() {
    let volume = with_logged_superblocks(&[]);
    xfs::change(&device(&volume.path), Uuid::new_v4()).unwrap();
    assert_finished_by_a_later_run(&volume);
}

#[test]
fn no_kernel_mounts_it_in_between_and_all_is_there_behind() {
    let volume = with_logged_superblocks(&[]);
    let new = Uuid::new_v4();
    let (_, writes) = uninterrupted(&volume, new);
    let mut dice = Dice(7);
    for cut in [2, writes / 2, writes - 1] {
        let half = volume.copy("half");
        let file = File::options().write(true).open(&half).unwrap();
        for (at, bytes) in cut_off(&volume, cut, new, &mut dice).sectors() {
            file.write_all_at(&bytes, at).unwrap();
        }
        assert!(Mount::try_new(&half, "").is_err(), "mounted with half of a new UUID");
        assert!(xfs::plan(&device(&half), Uuid::new_v4()).unwrap().finishes_earlier);
        xfs::change(&device(&half), new).unwrap();
        let original = volume.copy("original");
        assert!(assert_mounts_beside(&original, &half) > 60);
        assert_repair_finds_nothing(&half);
    }
}
