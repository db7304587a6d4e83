//! The operations that are cut. One more is a function that prepares it, says what it may change, and stands in a test at
//! the end of `cases.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use amberfs::catalog::BackupStatus;
use amberfs::operations::{
    BackupRequest, DeleteRequest, GcRequest, Operations, REWRITE_BELOW_PERCENT, Requester, RestoreRequest,
};
use amberfs::types::BackupId;

use crate::support::bytes::pattern;
use crate::support::engine::{full, incremental, over, restore};
use crate::world::{Answer, Life, World};

/// A volume has so many bytes: several chunks, and a part of one.
const LENGTH: usize = 150_000;

/// What there must be, as long as nothing else is said.
#[derive(Debug, Clone, Default)]
pub struct Model {
    pub backups: BTreeMap<BackupId, Vec<u8>>,
    pub volumes: BTreeMap<String, Vec<u8>>,
}

/// What an operation changes: all of it when it was told to be done, and else each or nothing of each.
#[derive(Debug, Clone)]
pub enum Change {
    /// One more backup, with these bytes.
    NewBackup(Vec<u8>),
    Gone(BackupId),
    /// One more volume, in this file.
    NewVolume(String, Vec<u8>),
    /// The same, and nobody said that it would be there.
    PerhapsVolume(String, Vec<u8>),
    /// A volume is written over. In between it is marked.
    Overwritten(String, Vec<u8>),
    /// An incremental backup is a full one.
    Flat(BackupId),
    /// A backup that there was before is there again.
    Back(BackupId, Vec<u8>),
    /// It has another state, from one to the other.
    Status(BackupId, BackupStatus, BackupStatus),
}

pub type Command = Arc<dyn Fn(&Arc<Operations>) -> Answer + Send + Sync>;

/// An operation that is ready to be run.
pub struct Plan {
    pub command: Command,
    pub changes: Vec<Change>,
    /// Set when the command was answered, of those that the next start goes on with in any case.
    pub accepted: Arc<AtomicBool>,
}

/// A world before the operation.
pub struct Preparing<'a> {
    pub world: &'a World,
    pub life: Life,
    pub model: Model,
}

impl Preparing<'_> {
    pub fn fill(&mut self, volume: &str, bytes: Vec<u8>) {
        self.world.fill(volume, &bytes);
        self.model.volumes.insert(volume.to_owned(), bytes);
    }

    /// Changes a few places of a volume.
    fn change(&mut self, volume: &str, seed: u64) {
        let mut bytes = self.model.volumes[volume].clone();
        for start in [100, 40_000, 149_000] {
            bytes[start..start + 700].copy_from_slice(&pattern(seed + start as u64, 700));
        }
        bytes[60_000..90_000].fill(0);
        self.fill(volume, bytes);
    }

    fn backup(&mut self, request: BackupRequest) -> BackupId {
        let bytes = self.model.volumes[&request.volume].clone();
        let id = self.life.backup(request).unwrap();
        self.model.backups.insert(id, bytes);
        id
    }

    /// A chain of three on volume `v`, oldest first.
    fn chain(&mut self) -> [BackupId; 3] {
        let first = self.backup(full("v"));
        self.change("v", 10);
        let second = self.backup(incremental("v"));
        self.change("v", 20);
        [first, second, self.backup(incremental("v"))]
    }

    fn bytes(&self, id: BackupId) -> Vec<u8> {
        self.model.backups[&id].clone()
    }

    /// What all operations begin with: a volume, and another one that shares bytes with it and has a backup.
    pub fn begin(&mut self) {
        let bytes = pattern(1, LENGTH);
        let mut shared = bytes[..LENGTH / 2].to_vec();
        shared.extend(pattern(2, LENGTH / 2));
        self.fill("w", shared);
        self.fill("v", bytes);
        self.backup(full("w"));
    }
}

fn plan(changes: Vec<Change>, command: impl Fn(&Arc<Operations>) -> Answer + Send + Sync + 'static) -> Plan {
    Plan { command: Arc::new(command), changes, accepted: Arc::default() }
}

fn backup(request: BackupRequest) -> impl Fn(&Arc<Operations>) -> Answer {
    move |operations| Ok(vec![operations.backup(&Requester::OPERATOR, &request)?.job])
}

fn restored(request: RestoreRequest) -> impl Fn(&Arc<Operations>) -> Answer {
    move |operations| Ok(vec![operations.restore(&Requester::OPERATOR, &request)?.job])
}

fn delete_all(operations: &Arc<Operations>, ids: &[BackupId], force: bool, told: &AtomicBool) -> Answer {
    let request = |id: &BackupId| DeleteRequest { backup: id.to_string(), force };
    let requests: Vec<_> = ids.iter().map(request).collect();
    let accepted = operations.delete(&Requester::OPERATOR, &requests)?;
    told.store(true, Ordering::SeqCst);
    Ok(accepted.iter().map(|accepted| accepted.job).collect())
}

fn deleted(ids: Vec<BackupId>) -> Plan {
    let accepted = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&accepted);
    let changes = ids.iter().map(|id| Change::Gone(*id)).collect();
    Plan { accepted, ..plan(changes, move |operations| delete_all(operations, &ids, false, &told)) }
}

pub fn full_backup(preparing: &mut Preparing<'_>) -> Plan {
    plan(vec![Change::NewBackup(preparing.model.volumes["v"].clone())], backup(full("v")))
}

/// A backup whose index comes to the disk: by itself it does so twice a second, which no backup here takes.
pub fn backup_and_index(preparing: &mut Preparing<'_>) -> Plan {
    let backup = backup(full("v"));
    plan(vec![Change::NewBackup(preparing.model.volumes["v"].clone())], move |operations| {
        let jobs = backup(operations)?;
        let _ = operations.jobs().wait(jobs[0]);
        // It may fail: the next start has more to do then.
        let _ = operations.repository().store().flush_index();
        Ok(jobs)
    })
}

pub fn incremental_backup(preparing: &mut Preparing<'_>) -> Plan {
    preparing.backup(full("v"));
    preparing.change("v", 30);
    plan(vec![Change::NewBackup(preparing.model.volumes["v"].clone())], backup(incremental("v")))
}

pub fn restore_to_a_new_volume(preparing: &mut Preparing<'_>) -> Plan {
    let [_, _, newest] = preparing.chain();
    let request = RestoreRequest { name: Some("restored".to_owned()), ..restore(newest) };
    let change = Change::NewVolume("restored.raw".to_owned(), preparing.bytes(newest));
    plan(vec![change], restored(request))
}

pub fn restore_over_a_volume(preparing: &mut Preparing<'_>) -> Plan {
    let [_, older, _] = preparing.chain();
    // Most of it is right already, and it is longer.
    let mut bytes = preparing.model.volumes["v"].clone();
    bytes.extend(pattern(9, 20_000));
    preparing.fill("target", bytes);
    let mut wanted = preparing.bytes(older);
    wanted.resize(LENGTH + 20_000, 0);
    plan(vec![Change::Overwritten("target".to_owned(), wanted)], restored(over(older, "target")))
}

pub fn delete(preparing: &mut Preparing<'_>) -> Plan {
    let [_, _, newest] = preparing.chain();
    deleted(vec![newest])
}

pub fn delete_of_a_chain(preparing: &mut Preparing<'_>) -> Plan {
    deleted(preparing.chain().to_vec())
}

pub fn delete_while_restoring(preparing: &mut Preparing<'_>) -> Plan {
    let [_, _, newest] = preparing.chain();
    let accepted = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&accepted);
    let request = RestoreRequest { name: Some("restored".to_owned()), ..restore(newest) };
    let volume = Change::PerhapsVolume("restored.raw".to_owned(), preparing.bytes(newest));
    let changes = vec![Change::Gone(newest), volume];
    let command = move |operations: &Arc<Operations>| {
        // Whoever says the same again has the volume already, or the backup is not there any more.
        let _ = operations.restore(&Requester::OPERATOR, &request);
        delete_all(operations, &[newest], true, &told)
    };
    Plan { accepted, ..plan(changes, command) }
}

pub fn flatten(preparing: &mut Preparing<'_>) -> Plan {
    let [_, middle, _] = preparing.chain();
    plan(vec![Change::Flat(middle)], move |operations| {
        Ok(vec![operations.flatten(&Requester::OPERATOR, &middle.to_string())?.job])
    })
}

/// One pack that nothing needs, one that is written again, and a manifest that a killed job left.
pub fn collect_garbage(preparing: &mut Preparing<'_>) -> Plan {
    preparing.fill("old", pattern(40, LENGTH));
    let old = preparing.backup(full("old"));
    let mut bytes = pattern(50, LENGTH);
    preparing.fill("shared", bytes.clone());
    let shared = preparing.backup(full("shared"));
    bytes[65_536..].copy_from_slice(&pattern(60, LENGTH - 65_536));
    preparing.fill("kept", bytes);
    let kept = preparing.backup(full("kept"));
    let jobs =
        delete_all(&preparing.life.operations, &[old, shared], false, &AtomicBool::new(false)).unwrap();
    for job in jobs {
        assert_eq!(preparing.life.operations.jobs().wait(job).unwrap().error, None);
    }
    preparing.model.backups.retain(|id, _| *id != old && *id != shared);
    let record = preparing.life.operations.repository().catalog().get(kept).unwrap();
    let manifests = preparing.world.fs.path().join("repository/manifests");
    let left = manifests.join(uuid::Uuid::new_v4().to_string());
    fs::copy(manifests.join(record.manifest.as_ref().unwrap().id.to_string()), left).unwrap();
    let request = GcRequest { dry_run: false, rewrite_below_percent: REWRITE_BELOW_PERCENT };
    plan(Vec::new(), move |operations| Ok(vec![operations.gc(&Requester::OPERATOR, request)?]))
}

pub fn import(preparing: &mut Preparing<'_>) -> Plan {
    let ids = preparing.chain();
    let catalog = preparing.life.operations.repository().catalog();
    let lost = &ids[1..];
    let records = lost.iter().map(|id| catalog.get(*id).unwrap().encode().unwrap().trim_end().to_owned());
    let records: Vec<String> = records.collect();
    // The records are lost, and with them what this process knows.
    for id in lost.iter().rev() {
        catalog.remove(*id).unwrap();
    }
    let back = |id: &BackupId| Change::Back(*id, preparing.bytes(*id));
    let changes = lost.iter().map(back).collect();
    preparing.model.backups.retain(|id, _| !lost.contains(id));
    plan(changes, move |operations| {
        operations.import(&Requester::OPERATOR, &records)?;
        Ok(Vec::new())
    })
}

fn reset(id: BackupId, from: BackupStatus, to: BackupStatus) -> Plan {
    plan(vec![Change::Status(id, from, to)], move |operations| {
        operations.reset_state(&Requester::OPERATOR, &id.to_string(), to)?;
        Ok(Vec::new())
    })
}

pub fn reset_to_error(preparing: &mut Preparing<'_>) -> Plan {
    let id = preparing.backup(full("v"));
    reset(id, BackupStatus::Available, BackupStatus::Error)
}

pub fn reset_to_available(preparing: &mut Preparing<'_>) -> Plan {
    let id = preparing.backup(full("v"));
    let operations = &preparing.life.operations;
    operations.reset_state(&Requester::OPERATOR, &id.to_string(), BackupStatus::Error).unwrap();
    reset(id, BackupStatus::Error, BackupStatus::Available)
}

/// Lists the files among the volumes.
pub fn files(world: &World) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(world.volumes()).unwrap().map(|entry| entry.unwrap());
    let file =
        |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
    entries.map(file).collect()
}
