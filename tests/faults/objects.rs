//! The object store alone: what a whole operation, with its random names, meets too seldom.

use std::path::Path;

use amberfs::objects::{DirectoryStore, ObjectName, ObjectStore};
use amberfs::types::{BackupId, PackId};

use crate::support::faultfs::{Disk, Fault, FaultFs, StepKind, Survival};

fn store(folder: &Path) -> DirectoryStore {
    DirectoryStore::open(&folder.join("repository"))
}

fn founded() -> FaultFs {
    let fs = FaultFs::mount(Disk::new());
    DirectoryStore::create(&fs.path().join("repository")).unwrap();
    fs
}

fn put(fs: &FaultFs, name: ObjectName) -> Result<(), String> {
    let store = store(fs.path());
    let store: &dyn ObjectStore = &store;
    store.put(name, b"bytes").map_err(|error| error.to_string())
}

fn is_there(fs: &FaultFs, name: ObjectName) -> bool {
    let after = FaultFs::mount(fs.disk_after(Survival::SyncedOnly));
    store(after.path()).read_whole(name, 100).is_ok_and(|bytes| bytes == b"bytes")
}

/// Counts the steps of a put, and finds the one that makes the name of its new folder durable.
fn sync_of_the_folder_above(name: ObjectName) -> usize {
    let fs = founded();
    fs.arm(None);
    put(&fs, name).unwrap();
    let steps = fs.steps();
    let is_it = |what: &str| what == "sync folder /repository/packs/";
    steps.iter().position(|step| step.kind == StepKind::SyncFolder && is_it(&step.what)).unwrap()
}

#[test]
fn an_object_is_durable_also_in_a_folder_whose_making_failed_or_was_cut_before() {
    let name = ObjectName::Pack(PackId::random());
    let at = sync_of_the_folder_above(name);
    let fs = founded();
    fs.arm(Some((at, Fault::Eio)));
    let same = store(fs.path());
    let same: &dyn ObjectStore = &same;
    same.put(name, b"bytes").unwrap_err();
    same.put(name, b"bytes").unwrap();
    assert!(is_there(&fs, name), "the same process");
    let fs = founded();
    fs.arm(Some((at, Fault::Cut)));
    put(&fs, name).unwrap_err();
    let next = FaultFs::mount(fs.disk_after(Survival::Everything));
    put(&next, name).unwrap();
    assert!(is_there(&next, name), "the next process");
}

#[test]
fn an_object_that_could_not_be_replaced_is_the_old_one_for_the_next_process_too() {
    let name = ObjectName::Record(BackupId::random());
    for fault in [Fault::Eio, Fault::Enospc, Fault::SyncFailed, Fault::TornWrite] {
        for at in 0.. {
            let fs = founded();
            put(&fs, name).unwrap();
            fs.arm(Some((at, fault)));
            let replaced = store(fs.path()).replace(name, b"other");
            let wanted: &[u8] = if replaced.is_ok() { b"other" } else { b"bytes" };
            for survival in [Survival::Everything, Survival::SyncedOnly] {
                let after = FaultFs::mount(fs.disk_after(survival));
                let found = store(after.path()).read_whole(name, 100).unwrap();
                assert_eq!(found, wanted, "{fault:?} at {at}, {survival:?}: {:?}", fs.steps());
            }
            if fs.steps().len() <= at {
                break;
            }
        }
    }
}
