//! What must hold after a fault, and after the start behind it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use amberfs::catalog::{BackupRecord, BackupStatus};
use amberfs::types::BackupId;

use crate::operations::{Change, Model, files};
use crate::support::engine::mark;
use crate::world::{Life, Told, World};

/// Longer than any recovery takes here, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is looked at.
pub struct Expected<'a> {
    pub model: &'a Model,
    pub changes: &'a [Change],
    pub told: &'a Told,
    /// The daemon was started since: nothing is left half done.
    pub restarted: bool,
}

/// What a user can see of the changes, one by one: it may not be taken back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    available: BTreeSet<BackupId>,
    new_backup: Option<BackupId>,
    happened: Vec<bool>,
}

/// Waits until what must hold does; a recovery may be under way.
pub fn settle(world: &World, life: &Life, expected: &Expected<'_>) -> Result<Seen, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match expected.look(world, life) {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            looked => return looked,
        }
    }
}

impl Seen {
    /// What was there stays, and what was gone stays gone.
    pub fn check_kept(&self, later: &Self) -> Result<(), String> {
        if self.available != later.available {
            return Err(format!("available were {:?}, and now {:?}", self.available, later.available));
        }
        match self.happened == later.happened {
            true => Ok(()),
            false => {
                Err(format!("of the changes were there {:?}, and now {:?}", self.happened, later.happened))
            }
        }
    }

    pub fn all_happened(&self) -> bool {
        self.happened.iter().all(|happened| *happened)
    }

    /// A backup that was taken since.
    pub fn add(&mut self, id: BackupId) {
        self.available.insert(id);
    }
}

impl Expected<'_> {
    fn look(&self, world: &World, life: &Life) -> Result<Seen, String> {
        self.look_at_states(life)?;
        let mut seen = Seen::default();
        self.look_at_backups(life, &mut seen)?;
        self.look_at_changes(life, &mut seen)?;
        self.look_at_volumes(world, &mut seen)?;
        Ok(seen)
    }

    fn all(life: &Life) -> Vec<std::sync::Arc<BackupRecord>> {
        life.operations.repository().catalog().all()
    }

    /// Nothing is under way any more.
    fn look_at_states(&self, life: &Life) -> Result<(), String> {
        if let Some(job) = life.operations.jobs().reports().iter().find(|job| !job.state.has_ended()) {
            return Err(format!("a job has not ended: {job:?}"));
        }
        if !self.restarted {
            return Ok(());
        }
        let under_way = [BackupStatus::Creating, BackupStatus::Restoring, BackupStatus::Deleting];
        match Self::all(life).iter().find(|record| under_way.contains(&record.status)) {
            Some(record) => Err(format!("backup {} is still {}", record.id, record.status)),
            None => Ok(()),
        }
    }

    /// What there was is there and reads as it did, and nothing else is available but what the operation makes.
    fn look_at_backups(&self, life: &Life, seen: &mut Seen) -> Result<(), String> {
        for (id, bytes) in &self.model.backups {
            let may_be_unavailable = self.changes.iter().any(|change| match change {
                Change::Gone(gone) => gone == id,
                Change::Status(other, ..) => other == id,
                _ => false,
            });
            let record = life.operations.repository().catalog().get(*id);
            match record.filter(|record| record.status.is_readable()) {
                Some(_) => check_bytes(life, *id, bytes)?,
                None if may_be_unavailable => {}
                None => {
                    return Err(format!("backup {id} is not available any more: {:?}", status(life, *id)));
                }
            }
        }
        let readable: Vec<_> =
            Self::all(life).into_iter().filter(|record| record.status.is_readable()).collect();
        seen.available = readable.iter().map(|record| record.id).collect();
        for record in readable.iter().filter(|record| !self.model.backups.contains_key(&record.id)) {
            let bytes = self.changes.iter().find_map(|change| match change {
                Change::NewBackup(bytes) if seen.new_backup.is_none() => Some(bytes),
                Change::Back(id, bytes) if *id == record.id => Some(bytes),
                _ => None,
            });
            let Some(bytes) = bytes else { return Err(format!("backup {} is available", record.id)) };
            check_bytes(life, record.id, bytes)?;
            seen.new_backup.get_or_insert(record.id);
        }
        Ok(())
    }

    fn look_at_changes(&self, life: &Life, seen: &mut Seen) -> Result<(), String> {
        let catalog = life.operations.repository().catalog();
        for change in self.changes {
            let happened = match change {
                Change::NewBackup(_) => seen.new_backup.is_some(),
                Change::Gone(id) => match status(life, *id) {
                    None => true,
                    Some(BackupStatus::Available) => false,
                    // It may be deleted again.
                    Some(BackupStatus::ErrorDeleting) if *self.told != Told::Done => false,
                    Some(status) => return Err(format!("backup {id} is {status}")),
                },
                Change::Flat(id) => catalog.get(*id).is_some_and(|record| !record.is_incremental()),
                Change::Back(id, _) => seen.available.contains(id),
                Change::Status(id, from, to) => match status(life, *id) {
                    Some(status) if status == *from => false,
                    Some(status) if status == *to => true,
                    status => return Err(format!("backup {id} is {status:?}")),
                },
                Change::NewVolume(..) | Change::PerhapsVolume(..) | Change::Overwritten(..) => continue,
            };
            self.note(change, happened, seen)?;
        }
        Ok(())
    }

    fn look_at_volumes(&self, world: &World, seen: &mut Seen) -> Result<(), String> {
        let mut found = files(world);
        for (name, bytes) in &self.model.volumes {
            let is_overwritten = |change: &Change| matches!(change, Change::Overwritten(overwritten, _) if overwritten == name);
            if !self.changes.iter().any(is_overwritten) {
                check_volume(name, found.remove(name), bytes)?;
            }
        }
        for change in self.changes {
            match change {
                Change::NewVolume(name, bytes) => {
                    let there = found.remove(name);
                    let happened = there.is_some();
                    if happened {
                        check_volume(name, there, bytes)?;
                    }
                    self.note(change, happened, seen)?;
                }
                Change::PerhapsVolume(name, bytes) => {
                    if let Some(there) = found.remove(name) {
                        check_volume(name, Some(there), bytes)?;
                    }
                }
                Change::Overwritten(name, bytes) => {
                    let there = found.remove(name);
                    let is_marked = mark(&world.volumes().join(name)).is_some();
                    // Of one that failed nobody counts on the bytes, whatever they are.
                    let has_failed = matches!(self.told, Told::Failed(_));
                    let is_after = there.as_ref() == Some(bytes);
                    let happened = !is_marked && !has_failed && is_after;
                    let is_before = there.as_ref() == self.model.volumes.get(name);
                    if !is_marked && !is_after && !is_before {
                        return Err(format!("volume {name} is neither what it was nor what it is to be"));
                    }
                    if *self.told == Told::Done && is_marked {
                        return Err(format!("volume {name} is marked"));
                    }
                    self.note(change, happened, seen)?;
                }
                _ => {}
            }
        }
        match found.keys().next() {
            // What a fault kept from being removed is removed by the next start.
            Some(name) if self.restarted => Err(format!("file {name} is left among the volumes")),
            _ => Ok(()),
        }
    }

    fn note(&self, change: &Change, happened: bool, seen: &mut Seen) -> Result<(), String> {
        seen.happened.push(happened);
        match self.told {
            Told::Done | Told::Accepted if !happened => {
                Err(format!("it was told to be done, and {} is not", short(change)))
            }
            Told::Refused(_) if happened => Err(format!("it was refused, and {} is done", short(change))),
            _ => Ok(()),
        }
    }
}

fn short(change: &Change) -> String {
    format!("{change:?}").chars().take(60).collect()
}

fn status(life: &Life, id: BackupId) -> Option<BackupStatus> {
    life.operations.repository().catalog().get(id).map(|record| record.status)
}

fn check_volume(name: &str, found: Option<Vec<u8>>, bytes: &[u8]) -> Result<(), String> {
    match found {
        None => Err(format!("volume {name} is gone")),
        Some(found) if found != bytes => {
            Err(format!("volume {name} has other bytes: {}", first_difference(&found, bytes)))
        }
        Some(_) => Ok(()),
    }
}

fn check_bytes(life: &Life, id: BackupId, bytes: &[u8]) -> Result<(), String> {
    let read = || -> Result<Vec<u8>, String> {
        let image = life.operations.repository().image(id).map_err(|error| error.to_string())?;
        let mut found = vec![0xa5; usize::try_from(image.size_bytes()).unwrap()];
        let length = image.read(0, &mut found).map_err(|error| error.to_string())?;
        found.truncate(length);
        Ok(found)
    };
    match read() {
        Err(error) => Err(format!("backup {id} cannot be read: {error}")),
        Ok(found) if found != bytes => {
            Err(format!("backup {id} has other bytes: {}", first_difference(&found, bytes)))
        }
        Ok(_) => Ok(()),
    }
}

fn first_difference(found: &[u8], bytes: &[u8]) -> String {
    let at = found.iter().zip(bytes).position(|(found, wanted)| found != wanted);
    format!("{} bytes instead of {}, the first other one at {at:?}", found.len(), bytes.len())
}
