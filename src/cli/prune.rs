//! `amberfs backup prune`: carries a retention policy out, volume by volume, by the same commands as everybody.

use std::collections::{BTreeMap, HashMap, HashSet};

use clap::Args;
use serde_json::Value;

use super::backup_change::wait_for_deletes;
use super::error::CliError;
use super::fields::Fields;
use super::format::{List, OutputArgs};
use super::mounted::{Listing, Mounted};
use super::output::note;
use super::{resolve, wait};
use crate::catalog::{Retention, RetentionAction, RetentionCandidate, RetentionDecision};
use crate::control::{Command, DeleteArgs, FlattenArgs};
use crate::types::RefusalKind;

/// Deletes in one command: fewer than the ended jobs that a daemon keeps, so that all of them can be waited for.
const DELETES_AT_ONCE: usize = 500;

const HEADINGS: [&str; 6] = ["ID", "Name", "Volume", "Data Timestamp", "Action", "Reason"];

/// Delete the backups that no rule keeps
///
/// Volume by volume, and project by project. A rule keeps the newest backup of each of the last so many hours, days,
/// ISO weeks, months or years (UTC) that have one. As in restic, each rule looks at all backups by itself: what one
/// rule keeps counts for the others too. At least one rule must be given; 0 is none.
///
/// Only `available` backups are looked at. Protected ones never go and do not count. What stays and leans on a backup
/// that goes is flattened first. If it cannot be flattened now (it is being restored, say), all that it leans on stays
/// too. When a flatten fails, nothing of that volume is deleted.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs backup prune --keep-daily 7 --keep-weekly 4 --keep-monthly 12 --dry-run
  amberfs backup prune --volume rbd/myvol10 --keep-last 3
  amberfs backup prune --project web --keep-hourly 24 --keep-daily 30 --keep-yearly 5")]
pub struct BackupPruneArgs {
    /// Only backups of this volume: SOURCE/NAME, NAME or its id
    #[arg(long)]
    volume: Option<String>,

    /// Only backups of this project
    #[arg(long)]
    project: Option<String>,

    /// Keep the newest backups, whatever their age
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    keep_last: u32,

    /// Keep the newest backup of each of so many hours
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    keep_hourly: u32,

    /// Keep the newest backup of each of so many days
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    keep_daily: u32,

    /// Keep the newest backup of each of so many weeks, which begin on Monday
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    keep_weekly: u32,

    /// Keep the newest backup of each of so many months
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    keep_monthly: u32,

    /// Keep the newest backup of each of so many years
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    keep_yearly: u32,

    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    output: OutputArgs,
}

/// One backup, and what is done with it.
struct Row {
    backup: Fields,
    action: RetentionAction,
    outcome: Outcome,
    reason: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Nothing has been done yet.
    Open,
    Done,
    Failed,
}

impl Row {
    fn id(&self) -> &str {
        self.backup.text("id")
    }

    fn values(&self) -> Vec<Value> {
        let value = |name| self.backup.value(name).clone();
        let action = if self.outcome == Outcome::Failed { "failed" } else { self.action.as_str() };
        vec![
            value("id"),
            value("name"),
            Value::from(self.backup.volume()),
            value("data_timestamp"),
            Value::from(action),
            Value::from(self.reason.as_str()),
        ]
    }
}

pub fn run(mounted: &Mounted, args: &BackupPruneArgs) -> Result<(), CliError> {
    let retention = Retention {
        last: args.keep_last,
        hourly: args.keep_hourly,
        daily: args.keep_daily,
        weekly: args.keep_weekly,
        monthly: args.keep_monthly,
        yearly: args.keep_yearly,
    };
    if retention.keeps_nothing() {
        let sentence = "no rule keeps anything, so that all backups would go: give at least one of --keep-last, \
            --keep-hourly, --keep-daily, --keep-weekly, --keep-monthly, --keep-yearly";
        return Err(CliError::Usage(sentence.to_owned()));
    }
    let listing = mounted.backups()?;
    // Who cannot see all backups cannot say what leans on what.
    Listing::complete(listing.unreadable)?;
    let scratch = mounted.scratch_images()?;
    Listing::complete(scratch.unreadable)?;
    let viewed: HashSet<&str> = scratch.entries.iter().map(|image| image.text("backup")).collect();
    let mut rows = Vec::new();
    for backups in volumes(listing.entries, args)? {
        let mut volume = plan(&retention, backups, &viewed)?;
        if !args.dry_run {
            carry_out(mounted, &mut volume)?;
        }
        rows.append(&mut volume);
    }
    let values = rows.iter().map(Row::values).collect();
    args.output.print_list(List { headings: &HEADINGS, shown: HEADINGS.len(), rows: values })?;
    match rows.iter().filter(|row| row.outcome == Outcome::Failed).count() {
        0 => Ok(()),
        count => {
            let total = rows.iter().filter(|row| row.action != RetentionAction::Keep).count();
            Err(CliError::SomeFailed { count, total, what: "backups failed to be pruned" })
        }
    }
}

/// Returns the backups of each volume that is meant, volumes in the order of their names.
fn volumes(mut backups: Vec<Fields>, args: &BackupPruneArgs) -> Result<Vec<Vec<Fields>>, CliError> {
    backups.retain(|backup| {
        args.project.as_deref().is_none_or(|project| backup.text("project") == project)
            && args.volume.as_deref().is_none_or(|volume| backup.is_of_volume(volume))
    });
    let mut by_volume: BTreeMap<_, Vec<Fields>> = BTreeMap::new();
    for backup in backups {
        let project = backup.text("project").to_owned();
        // A volume that was removed and made again under its name is another one.
        let volume = (backup.volume(), project, backup.text("volume_id").to_owned());
        by_volume.entry(volume).or_default().push(backup);
    }
    if let Some(text) = &args.volume {
        let mut names: Vec<&str> = by_volume.keys().map(|(name, ..)| name.as_str()).collect();
        names.dedup();
        if names.is_empty() {
            let sentence = format!("there is no backup of a volume {text:?}: see amberfs volume list");
            return Err(CliError::refused(RefusalKind::VolumeNotFound, sentence));
        }
        resolve::only(text, "volumes", names, str::to_owned)?;
    }
    Ok(by_volume.into_values().collect())
}

fn plan(retention: &Retention, backups: Vec<Fields>, viewed: &HashSet<&str>) -> Result<Vec<Row>, CliError> {
    let has_none = |backup: &&Fields| *backup.value("has_dependent_backups") == false;
    let childless: HashSet<&str> = backups.iter().filter(has_none).map(|backup| backup.text("id")).collect();
    let candidates = backups.iter().map(|backup| candidate(backup, &childless, viewed));
    let plan = retention.plan(&candidates.collect::<Result<Vec<_>, _>>()?);
    let mut by_id: HashMap<String, Fields> =
        backups.into_iter().map(|backup| (backup.text("id").to_owned(), backup)).collect();
    let row = |decision: RetentionDecision| {
        let backup = by_id.remove(&decision.id.to_string())?;
        let reason = decision.reason.to_string();
        Some(Row { backup, action: decision.action, outcome: Outcome::Open, reason })
    };
    Ok(plan.into_iter().filter_map(row).collect())
}

fn candidate(
    backup: &Fields,
    childless: &HashSet<&str>,
    viewed: &HashSet<&str>,
) -> Result<RetentionCandidate, CliError> {
    let field = |name: &'static str| move || unreadable(backup, name);
    // A backup that failed names its parent, but holds nothing that leans on it.
    let parent = backup.value("parent_id").as_str().filter(|parent| !childless.contains(parent));
    Ok(RetentionCandidate {
        id: backup.text("id").parse().ok().ok_or_else(field("id"))?,
        data_timestamp: backup.text("data_timestamp").parse().ok().ok_or_else(field("data_timestamp"))?,
        parent: parent.map(|id| id.parse().ok().ok_or_else(field("parent_id"))).transpose()?,
        status: serde_json::from_value(backup.value("status").clone()).ok().ok_or_else(field("status"))?,
        // One that a scratch image is a view of cannot go either.
        protected: backup.value("protected").as_bool().ok_or_else(field("protected"))?
            || viewed.contains(backup.text("id")),
    })
}

fn unreadable(backup: &Fields, field: &str) -> CliError {
    let what = format!("{} is no {field} that this version of amberfs knows", backup.value(field));
    CliError::Unreadable { path: format!("backups/{}/info.json", backup.text("id")).into(), what }
}

/// Flattens and deletes what one volume's plan says. What fails is said at once and marked in the rows; an error is
/// only that the user does not want to wait any longer.
fn carry_out(mounted: &Mounted, rows: &mut [Row]) -> Result<(), CliError> {
    // The oldest first: the chains of the others are shorter then.
    for id in ids(rows, RetentionAction::Flatten).iter().rev() {
        let command = Command::Flatten(FlattenArgs { backup: id.clone() });
        match mounted.send_one(command).and_then(|accepted| wait::finish(mounted, &accepted, false)) {
            Ok(()) => settle(rows, |row| row.id() == id, Outcome::Done, None),
            Err(error @ CliError::Interrupted { .. }) => return Err(error),
            Err(error) => {
                note(&format!("{}; nothing of this volume is deleted", error.with_causes()));
                settle(rows, |row| row.id() == id, Outcome::Failed, Some("it could not be flattened"));
                let why = "a backup of its volume could not be flattened";
                settle(rows, |_| true, Outcome::Failed, Some(why));
                return Ok(());
            }
        }
    }
    // The newest first: what leans on others goes before them.
    for ids in ids(rows, RetentionAction::Delete).chunks(DELETES_AT_ONCE) {
        let failed: HashSet<String> = match delete(mounted, ids) {
            Ok(failed) => failed.into_iter().collect(),
            Err(error @ CliError::Interrupted { .. }) => return Err(error),
            Err(error) => {
                note(&error.with_causes());
                ids.iter().cloned().collect()
            }
        };
        let is_failed = |row: &Row| failed.contains(row.id());
        settle(rows, is_failed, Outcome::Failed, Some("it could not be deleted"));
        settle(rows, |row| ids.iter().any(|id| id == row.id()), Outcome::Done, None);
        if !failed.is_empty() {
            settle(rows, |_| true, Outcome::Failed, Some("others of its volume could not be deleted"));
            return Ok(());
        }
    }
    Ok(())
}

fn ids(rows: &[Row], action: RetentionAction) -> Vec<String> {
    rows.iter().filter(|row| row.action == action).map(|row| row.id().to_owned()).collect()
}

/// Sets what became of those of the rows that are still open and were to be changed.
fn settle(rows: &mut [Row], which: impl Fn(&Row) -> bool, outcome: Outcome, reason: Option<&str>) {
    let is_open = |row: &Row| row.outcome == Outcome::Open && row.action != RetentionAction::Keep;
    for row in rows.iter_mut().filter(|row| is_open(row) && which(row)) {
        row.outcome = outcome;
        if let Some(reason) = reason {
            row.reason = reason.to_owned();
        }
    }
}

fn delete(mounted: &Mounted, ids: &[String]) -> Result<Vec<String>, CliError> {
    let one = |id: &String| Command::Delete(DeleteArgs { backups: vec![id.clone()], force: false });
    let accepted = mounted.send(&ids.iter().map(one).collect::<Vec<_>>())?;
    wait_for_deletes(mounted, &accepted)
}
