//! The file system that faults does what it says: otherwise all that is shown on it is shown of nothing.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;

use crate::support::faultfs::{Disk, Fault, FaultFs, StepKind, Survival};

fn after(fs: &FaultFs, survival: Survival) -> FaultFs {
    FaultFs::mount(fs.disk_after(survival))
}

fn text(fs: &FaultFs, name: &str) -> Option<String> {
    fs::read_to_string(fs.path().join(name)).ok()
}

#[test]
fn what_was_synced_survives_a_power_cut_and_nothing_else() {
    let fs = FaultFs::mount(Disk::new());
    let path = fs.path().join("file");
    let mut file = File::create(&path).unwrap();
    file.write_all(b"synced").unwrap();
    file.sync_all().unwrap();
    assert_eq!(text(&after(&fs, Survival::SyncedOnly), "file"), None, "its name was not synced");
    File::open(fs.path()).unwrap().sync_all().unwrap();
    file.write_all(b" and more").unwrap();
    fs::write(fs.path().join("other"), "other").unwrap();
    assert_eq!(text(&after(&fs, Survival::Everything), "file").unwrap(), "synced and more");
    let cut = after(&fs, Survival::SyncedOnly);
    assert_eq!(text(&cut, "file").unwrap(), "synced");
    assert_eq!(text(&cut, "other"), None);
    let names = after(&fs, Survival::NamesWithoutData { seed: 1 });
    assert!(text(&names, "file").unwrap().starts_with("synced"));
    let other = text(&names, "other").unwrap();
    assert!(other.bytes().all(|byte| byte == 0), "{other:?}");
}

#[test]
fn a_rename_is_durable_with_its_folder_and_never_leaves_two_names() {
    let fs = FaultFs::mount(Disk::new());
    for folder in ["tmp", "final"] {
        fs::create_dir(fs.path().join(folder)).unwrap();
        File::open(fs.path()).unwrap().sync_all().unwrap();
    }
    let mut file = File::create(fs.path().join("tmp/x")).unwrap();
    file.write_all(b"x").unwrap();
    file.sync_all().unwrap();
    File::open(fs.path().join("tmp")).unwrap().sync_all().unwrap();
    fs::rename(fs.path().join("tmp/x"), fs.path().join("final/y")).unwrap();
    let cut = after(&fs, Survival::SyncedOnly);
    assert_eq!((text(&cut, "tmp/x").as_deref(), text(&cut, "final/y")), (Some("x"), None));
    File::open(fs.path().join("final")).unwrap().sync_all().unwrap();
    let cut = after(&fs, Survival::SyncedOnly);
    assert_eq!((text(&cut, "tmp/x"), text(&cut, "final/y").as_deref()), (None, Some("x")));
}

#[test]
fn after_a_sync_that_failed_a_later_one_proves_nothing() {
    let fs = FaultFs::mount(Disk::new());
    let file = File::create(fs.path().join("file")).unwrap();
    File::open(fs.path()).unwrap().sync_all().unwrap();
    file.write_all_at(&[1; 4096], 0).unwrap();
    fs.arm(Some((0, Fault::SyncFailed)));
    assert!(file.sync_all().is_err());
    file.sync_all().unwrap();
    file.write_all_at(&[2; 4096], 4096).unwrap();
    file.sync_all().unwrap();
    assert_eq!(fs::read(fs.path().join("file")).unwrap()[0], 1, "the kernel shows it");
    let cut = after(&fs, Survival::SyncedOnly);
    let bytes = fs::read(cut.path().join("file")).unwrap();
    assert_eq!((bytes[0], bytes[4096]), (0, 2));
    // Written again, it is dirty again.
    file.write_all_at(&[1; 4096], 0).unwrap();
    file.sync_all().unwrap();
    assert_eq!(fs::read(after(&fs, Survival::SyncedOnly).path().join("file")).unwrap()[0], 1);
}

#[test]
fn steps_are_numbered_and_a_fault_happens_at_its_own() {
    let fs = FaultFs::mount(Disk::new());
    let path = fs.path().join("file");
    let run = |fault| {
        let _ = fs::remove_file(&path);
        fs.arm(fault);
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        file.write_all(b"12345678")?;
        file.sync_all()?;
        File::open(fs.path())?.sync_all()
    };
    run(None).unwrap();
    let kinds: Vec<_> = fs.steps().iter().map(|step| step.kind).collect();
    assert_eq!(kinds, [StepKind::Create, StepKind::Write, StepKind::Sync, StepKind::SyncFolder]);
    assert_eq!(run(Some((1, Fault::Enospc))).unwrap_err().raw_os_error(), Some(28));
    assert_eq!(text(&fs, "file").unwrap(), "");
    assert!(run(Some((1, Fault::TornWrite))).is_err());
    assert_eq!(text(&fs, "file").unwrap(), "1234");
    assert!(run(Some((3, Fault::Cut))).is_err());
    assert!(fs.is_cut() && fs::metadata(&path).is_err(), "nothing happens after the cut");
    assert_eq!(text(&after(&fs, Survival::Everything), "file").unwrap(), "12345678");
}
