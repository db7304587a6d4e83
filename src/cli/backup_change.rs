//! `amberfs backup delete`, `set`, `unset`, `flatten` and `reset-state`.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::error::CliError;
use super::mounted::Mounted;
use super::output::note;
use super::wait::{self, LINE_SECONDS};
use crate::control::{self, Accepted, Command, DeleteArgs, NewState, ResetStateArgs, SetArgs};

/// Delete backups, and wait until that is done
///
/// All of them, or none when one of them cannot be: it is protected (`backup set --no-protect`), or other backups
/// lean on it that are not named (delete them too, or flatten them). They may be named in any order.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs backup delete monday
  amberfs backup delete monday tuesday 9027e97a
  amberfs backup delete --force half-made")]
pub struct BackupDeleteArgs {
    #[command(flatten)]
    command: DeleteArgs,

    /// Return as soon as the delete is accepted
    #[arg(long)]
    no_wait: bool,
}

/// Change a backup's name, description, properties, protection or state
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs backup set monday --name before-upgrade --property ticket=4711
  amberfs backup set before-upgrade --protect
  amberfs backup set monday --no-property --property kept=alone
  amberfs backup set monday --state error")]
pub struct BackupSetArgs {
    #[command(flatten)]
    command: SetArgs,

    /// Set the state too, after all else, as `backup reset-state` does
    #[arg(long, value_enum)]
    state: Option<NewState>,
}

/// Take properties of a backup away
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs backup unset monday --property ticket
  amberfs backup unset monday --property ticket --property owner")]
pub struct BackupUnsetArgs {
    /// Backup to change
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    backup: String,

    /// Property to take away (repeat for several)
    #[arg(long = "property", value_name = "KEY", required = true,
          value_parser = NonEmptyStringValueParser::new())]
    properties: Vec<String>,
}

/// Make an incremental backup a full one, and wait until that is done
///
/// It takes seconds: no data is read or copied, and the source is not asked. What it leaned on may be deleted then.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs backup flatten tuesday && amberfs backup delete monday")]
pub struct BackupFlattenArgs {
    #[command(flatten)]
    command: control::FlattenArgs,

    /// Return as soon as the flatten is accepted
    #[arg(long)]
    no_wait: bool,
}

/// Set a backup's state by hand
///
/// A restore of it is cancelled. `available` is refused when the backup's data is not all there.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs backup reset-state monday
  amberfs backup reset-state monday --state error")]
pub struct BackupResetStateArgs {
    #[command(flatten)]
    command: ResetStateArgs,
}

pub fn delete(mounted: &Mounted, args: BackupDeleteArgs) -> Result<(), CliError> {
    let force = args.command.force;
    // One line each, in one write: each has an answer of its own, and their order does not matter.
    let one = |backup| Command::Delete(DeleteArgs { backups: vec![backup], force });
    let commands: Vec<Command> = args.command.backups.into_iter().map(one).collect();
    let accepted = mounted.send(&commands)?;
    if args.no_wait {
        accepted.iter().for_each(wait::later);
        return Ok(());
    }
    let failed = wait_for_deletes(mounted, &accepted)?;
    match failed.len() {
        0 => Ok(()),
        count => Err(CliError::SomeFailed { count, total: accepted.len(), what: "backups failed to delete" }),
    }
}

/// Waits for deletes, says what went wrong, and returns the ids of the backups that are not deleted.
pub fn wait_for_deletes(mounted: &Mounted, accepted: &[Accepted]) -> Result<Vec<String>, CliError> {
    let jobs: Vec<&str> = accepted.iter().filter_map(|one| one.value("job")).collect();
    let ends = wait::until_all_done(mounted, &jobs, LINE_SECONDS)?;
    let mut failed = Vec::new();
    for (one, end) in accepted.iter().zip(ends) {
        let id = one.value("backup").unwrap_or_default();
        if let Err(error) = end {
            note(&format!("{}; backup {id} is not deleted", error.with_causes()));
            failed.push(id.to_owned());
        }
    }
    Ok(failed)
}

pub fn set(mounted: &Mounted, args: BackupSetArgs) -> Result<(), CliError> {
    let BackupSetArgs { command, state } = args;
    let backup = command.backup.clone();
    let changes_fields = command != SetArgs { backup: backup.clone(), ..SetArgs::default() };
    if !changes_fields && state.is_none() {
        let sentence = "there is nothing to set: see amberfs backup set --help";
        return Err(CliError::Usage(sentence.to_owned()));
    }
    // The id, since the name may be what is changed.
    let mut selected = backup;
    if changes_fields {
        let accepted = mounted.send_one(Command::Set(command))?;
        selected = accepted.value("backup").map_or(selected, str::to_owned);
    }
    if state.is_some() {
        let reset = ResetStateArgs { backup: selected, new_state: None, state };
        mounted.send_one(Command::ResetState(reset))?;
    }
    Ok(())
}

pub fn unset(mounted: &Mounted, args: BackupUnsetArgs) -> Result<(), CliError> {
    let command = SetArgs { backup: args.backup, removed_properties: args.properties, ..SetArgs::default() };
    mounted.send_one(Command::Set(command)).map(|_| ())
}

pub fn flatten(mounted: &Mounted, args: BackupFlattenArgs) -> Result<(), CliError> {
    let accepted = mounted.send_one(Command::Flatten(args.command))?;
    wait::finish(mounted, &accepted, args.no_wait)
}

pub fn reset_state(mounted: &Mounted, args: BackupResetStateArgs) -> Result<(), CliError> {
    mounted.send_one(Command::ResetState(args.command)).map(|_| ())
}
