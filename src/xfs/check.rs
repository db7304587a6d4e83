//! Reads back what a change should have left.

use uuid::Uuid;

use crate::sysio::device::ReadAt;

use super::error::XfsError;
use super::log::{Survey, Transition, survey};
use super::plan::Plan;
use super::stamp::Stamp;
use super::superblock::Superblock;

/// Checks that the XFS on `device` has this UUID everywhere: in every superblock, in every record of the log that a mount
/// looks at, and in the superblocks that are logged; and that the checksums over these are right.
pub fn check(device: &dyn ReadAt, uuid: Uuid) -> Result<(), XfsError> {
    checked(device, uuid).map(|_| ())
}

/// Checks, and that no record of the log was left behind with the old UUID.
pub(super) fn check_after(device: &dyn ReadAt, plan: &Plan) -> Result<(), XfsError> {
    let survey = checked(device, plan.new_uuid)?;
    if survey.foreign_records == plan.foreign_records {
        return Ok(());
    }
    Err(unsound(format!(
        "{} records of the log have other UUIDs, and {} had",
        survey.foreign_records, plan.foreign_records
    )))
}

fn checked(device: &dyn ReadAt, uuid: Uuid) -> Result<Survey, XfsError> {
    let superblock = Superblock::read(device).map_err(as_unsound)?;
    let stamp = Stamp::of(&superblock);
    if stamp.uuid != uuid.into_bytes() {
        return Err(unsound(format!("its UUID is {}, and not {uuid}", Uuid::from_bytes(stamp.uuid))));
    }
    if superblock.is_in_progress() {
        return Err(unsound("a change of its UUID is not finished".to_owned()));
    }
    let survey = survey(device, &superblock, Transition { old: stamp, new: stamp, is_unfinished: false })
        .map_err(as_unsound)?;
    if !survey.changes.is_empty() {
        return Err(unsound("a superblock in the log is of another state".to_owned()));
    }
    for group in 1..superblock.groups.max(survey.groups) {
        check_group(device, &superblock, &stamp, group)?;
    }
    Ok(survey)
}

fn check_group(
    device: &dyn ReadAt,
    superblock: &Superblock,
    stamp: &Stamp,
    group: u32,
) -> Result<(), XfsError> {
    match superblock.read_group(device, group)? {
        Ok(sector) => {
            let is_stamped = sector.iter().enumerate().all(|(at, byte)| stamp.stamped(at, *byte) == *byte);
            if is_stamped {
                return Ok(());
            }
            Err(unsound(format!("the superblock of group {group} has another UUID than the first one")))
        }
        // Groups that only the log knows of may not have been made yet.
        Err(_) if group >= superblock.groups => Ok(()),
        Err(why) => Err(unsound(format!("the superblock of group {group}: {why}"))),
    }
}

/// What would have been refused before a change is wrong behind it.
fn as_unsound(error: XfsError) -> XfsError {
    match error {
        XfsError::Refused(refused) => unsound(refused.to_string()),
        other => other,
    }
}

fn unsound(what: String) -> XfsError {
    XfsError::Unsound { what }
}
