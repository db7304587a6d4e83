//! `amberfs repo gc`.

use clap::Args;
use serde_json::Value;

use super::error::CliError;
use super::format::OutputArgs;
use super::mounted::Mounted;
use super::wait;
use crate::control::{Command, GcArgs};

/// Remove what no backup needs any more, and wait until that is done
///
/// Deleting a backup leaves its data, which others may share. This finds out what is needed, removes packs that
/// nothing needs, and writes those again in which little is. Backups, restores and open images go on meanwhile.
/// It needs room for 256 MiB, and can be cancelled at any time.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs repo gc --dry-run
  amberfs repo gc
  amberfs repo gc --rewrite-below 90 -f json")]
pub struct RepoGcArgs {
    #[command(flatten)]
    command: GcArgs,

    /// Return as soon as the collection is accepted
    #[arg(long)]
    no_wait: bool,

    #[command(flatten)]
    output: OutputArgs,
}

pub fn run(mounted: &Mounted, args: RepoGcArgs) -> Result<(), CliError> {
    let RepoGcArgs { command, no_wait, output } = args;
    let accepted = mounted.send_one(Command::Gc(command))?;
    wait::finish(mounted, &accepted, no_wait)?;
    if no_wait {
        return Ok(());
    }
    let job = mounted.job(accepted.value("job").unwrap_or_default())?;
    let Value::Object(report) = job.value("result").clone() else { return Ok(()) };
    output.print_object(&report.into_iter().collect::<Vec<_>>())
}
