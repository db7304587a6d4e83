//! The guest fixture itself: a check that cannot fail would prove nothing in the tests that use it.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a failed expectation is a failed test"
)]

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use support::attach::{Loop, Mounted, run, text};
use support::bytes::pattern;
use support::file_system;
use support::guest::disk::uuid;
use support::guest::listing::{Fields, differences, list};
use support::guest::lvm::{GROUP, Volume, lvm_pair};
use support::guest::{BUSY, Disk, Guest, Kind, Layout, Moment, Partition, contents, fat_files};

/// A guest whose disk can be copied in an instant, as a snapshot is.
fn power_cut(layout: Layout, with: impl Fn(&Guest, &Moment, &Path, &Path)) {
    let folder = file_system::small_folder(file_system::Kind::Xfs, 4 << 30);
    let disk = Disk::make(layout);
    let (image, copy) = (folder.path().join("disk"), folder.path().join("copy"));
    let mut guest = Guest::on_file(&disk, &image);
    guest.start_writers();
    guest.pass_a_day();
    guest.pass_a_day();
    let moment = guest.sync_and_list();
    run("cp", &["--reflink=always", text(&image), text(&copy)]);
    with(&guest, &moment, &copy, folder.path());
    guest.stop();
}

fn check_every_partition(guest: &Guest, moment: &Moment, copy: &Path, work: &Path) {
    for partition in &guest.partitions {
        if partition.kind == Kind::Fat {
            guest.check(moment, &fat_files(copy, partition.range.offset, &work.join("efi")), partition);
            continue;
        }
        assert!(partition.is_dirty(copy, &work.join("look")), "the log of {} is clean", partition.label);
        // Nobody writes to /boot all the time, and what `sync -f` leaves of ext4 is in its place.
        if partition.label != "boot" {
            let stale = partition.mount_without_replay(copy, &work.join("look"));
            let said = complaint(guest, moment, stale.path(), partition);
            assert!(!said.is_empty(), "nothing of {} is in the log alone", partition.label);
        }
        let mounted = partition.mount_replayed(copy, &work.join("look"));
        guest.check_mounted(moment, mounted.path(), partition);
        drop(mounted);
        assert!(
            !partition.is_dirty(copy, &work.join("look")),
            "the log of {} is still dirty",
            partition.label
        );
    }
}

#[test]
fn a_guest_with_sectors_of_4096_bytes_that_loses_power_has_dirty_logs_and_everything_it_synced() {
    power_cut(Layout::Gpt4096, check_every_partition);
}

#[test]
fn a_guest_with_logical_partitions_that_loses_power_has_dirty_logs_and_everything_it_synced() {
    power_cut(Layout::Mbr, check_every_partition);
}

#[test]
fn a_guest_with_gpt_that_loses_power_has_everything_it_synced_and_whatever_is_then_missing_is_named() {
    power_cut(Layout::Gpt, |guest, moment, copy, work| {
        check_every_partition(guest, moment, copy, work);
        let mount = |label| guest.partition(label).mount_replayed(copy, &work.join(label));
        damaged_files_are_named(guest, moment, mount("root").path());
        lost_work_is_noticed(guest, moment, mount("home").path());
    });
}

/// Returns what a check that must fail says.
fn complaint(guest: &Guest, moment: &Moment, root: &Path, partition: &Partition) -> String {
    let check = catch_unwind(AssertUnwindSafe(|| guest.check(moment, root, partition)));
    check.unwrap_err().downcast_ref::<String>().cloned().unwrap()
}

fn damaged_files_are_named(guest: &Guest, moment: &Moment, root: &Path) {
    let partition = guest.partition("root");
    let says = |what: &str| {
        let said = complaint(guest, moment, root, partition);
        assert!(said.contains(what), "{said}");
    };
    let file = File::options().read(true).write(true).open(root.join("special/shapes/large")).unwrap();
    let mut before = [0];
    file.read_exact_at(&mut before, 12_345_678).unwrap();
    file.write_all_at(&[before[0] ^ 1], 12_345_678).unwrap();
    says("\"special/shapes/large\" was");
    file.write_all_at(&before, 12_345_678).unwrap();
    guest.check(moment, root, partition);
    fs::remove_file(root.join("special/odd/new\nline")).unwrap();
    says("\"special/odd/new\\nline\" is missing");
    contents::put(&root.join("special/odd/new\nline"), &pattern(2, 2000));
    guest.check(moment, root, partition);
    contents::put(&root.join("more"), b"");
    says("\"more\" was not there");
}

fn lost_work_is_noticed(guest: &Guest, moment: &Moment, root: &Path) {
    let partition = guest.partition("home");
    let repository = root.join(BUSY).join("repository");
    let head = contents::git(&repository, &["rev-parse", "HEAD"]);
    // Far enough back to be before the moment.
    let first = contents::git(&repository, &["rev-list", "--max-parents=0", "HEAD"]);
    contents::git(&repository, &["update-ref", "refs/heads/main", first.trim()]);
    assert!(complaint(guest, moment, root, partition).contains("were made"));
    contents::git(&repository, &["update-ref", "refs/heads/main", head.trim()]);
    guest.check(moment, root, partition);
    run("sqlite3", &[text(&root.join(BUSY).join("busy.db")), "delete from t where round > 1"]);
    assert!(complaint(guest, moment, root, partition).contains("were committed"));
}

fn lvm_volume(image: &Path, volume: &Volume, mountpoint: &Path) -> Mounted {
    let options = if volume.kind == Kind::Xfs { "rw,nouuid" } else { "rw" };
    Mounted::new(Loop::new(image, Some(volume.range)), mountpoint, options)
}

#[test]
fn two_lvm_guests_have_the_same_names_and_uuids_and_other_files() {
    let folder = tempfile::tempdir().unwrap();
    let [one, two] = lvm_pair(folder.path());
    for (first, second) in one.volumes.iter().zip(&two.volumes) {
        let uuid_of = |image: &Path, volume: &Volume| {
            let device = Loop::new(image, Some(volume.range));
            uuid(device.device())
        };
        assert_eq!(uuid_of(&one.image, first), uuid_of(&two.image, second));
        for (image, volume) in [(&one.image, first), (&two.image, second)] {
            let device = Loop::with(image, Some(volume.range), &["-r"]);
            let options = if volume.kind == Kind::Xfs { "ro,nouuid" } else { "ro" };
            let clean = Mounted::try_new(device, &folder.path().join("left"), options).is_ok();
            assert!(!clean, "the log of {} is clean", volume.name);
        }
        let (left, right) = (folder.path().join("left"), folder.path().join("right"));
        let (left, right) = (lvm_volume(&one.image, first, &left), lvm_volume(&two.image, second, &right));
        let (left, right) = (list(left.path()), list(right.path()));
        assert!(differences(&one.lists[first.name], &left, Fields::All).is_empty());
        assert!(differences(&two.lists[second.name], &right, Fields::All).is_empty());
        assert!(!differences(&left, &right, Fields::Shown).is_empty());
    }
    let device = Loop::new(&one.image, None);
    let said = run("blkid", &["-p", text(device.device())]);
    assert!(said.contains("PTTYPE=\"gpt\""), "{said}");
    let group = fs::read(&one.image).unwrap();
    let has = |text: &str| group[..4 << 20].windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has(GROUP) && has("LVM2 001"));
}
