//! Reads a file system, decides whether its UUID can be changed, and computes all that has to be written.

use uuid::Uuid;

use crate::sysio::device::ReadAt;

use super::bytes::uuid_at;
use super::error::{Refused, XfsError};
use super::log::{LogChanges, Transition, survey};
use super::stamp::{Stamp, unfinished};
use super::superblock::{Superblock, UUID_AT};

/// A change of a UUID, ready to be written to the device it was planned on, or to an exact copy of it.
#[derive(Debug)]
pub struct Plan {
    pub old_uuid: Uuid,
    /// What the file system has when the plan was applied. With `finishes_earlier` it may not be what was asked for:
    /// that is then another plan's.
    pub new_uuid: Uuid,
    /// An earlier change was cut off; this plan ends it.
    pub finishes_earlier: bool,
    /// 4 or 5.
    pub version: u16,
    /// Allocation groups, each with a superblock.
    pub groups: u32,
    /// Records in the log, most of which nobody needs any more.
    pub log_records: u64,
    /// Copies of the superblock in the log.
    pub logged_superblocks: u64,
    /// The log has something that the next mount replays.
    pub is_log_dirty: bool,
    pub(super) superblock: Superblock,
    pub(super) old: Stamp,
    pub(super) new: Stamp,
    pub(super) log: LogChanges,
    pub(super) foreign_records: u64,
}

impl Plan {
    /// The file system has that UUID, and nothing is left to be written.
    pub fn is_empty(&self) -> bool {
        self.old_uuid == self.new_uuid && !self.finishes_earlier
    }
}

/// Plans to give the XFS on `device` the UUID `new`, or to finish an earlier change that was cut off.
///
/// Only reads: the log once or twice, and the superblock of every group. Needs 1 MiB of memory, and 8 bytes for each record of the log.
pub fn plan(device: &dyn ReadAt, new: Uuid) -> Result<Plan, XfsError> {
    if new.is_nil() {
        return Err(Refused::NilUuid.into());
    }
    let superblock = Superblock::read(device)?;
    let earlier = unfinished(&superblock);
    if superblock.is_in_progress() && earlier.is_none() {
        return Err(Refused::InProgress.into());
    }
    let old = Stamp::of(&superblock);
    let new = earlier.unwrap_or(new);
    let transition =
        Transition { old, new: old.with_uuid(new.into_bytes()), is_unfinished: earlier.is_some() };
    let survey = survey(device, &superblock, transition)?;
    let groups = superblock.groups.max(survey.groups);
    check_groups(device, &superblock, &transition)?;
    Ok(Plan {
        old_uuid: Uuid::from_bytes(old.uuid),
        new_uuid: new,
        finishes_earlier: earlier.is_some(),
        version: superblock.version,
        groups,
        log_records: survey.records,
        logged_superblocks: survey.logged_superblocks,
        is_log_dirty: survey.is_dirty,
        old,
        new: transition.new,
        log: survey.changes,
        foreign_records: survey.foreign_records,
        superblock,
    })
}

fn check_groups(
    device: &dyn ReadAt,
    superblock: &Superblock,
    transition: &Transition,
) -> Result<(), XfsError> {
    for group in 1..superblock.groups {
        let sector =
            superblock.read_group(device, group)?.map_err(|why| Refused::GroupDamaged { group, why })?;
        let found = uuid_at(&sector, UUID_AT);
        if found != transition.old.uuid && !(transition.is_unfinished && found == transition.new.uuid) {
            let (found, expected) = (Uuid::from_bytes(found), Uuid::from_bytes(transition.old.uuid));
            return Err(Refused::GroupUuid { group, found, expected }.into());
        }
    }
    Ok(())
}
