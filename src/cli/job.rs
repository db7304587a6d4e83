//! `amberfs job list`, `show`, `watch` and `cancel`.

use clap::Args;
use serde_json::Value;

use super::error::CliError;
use super::fields::{Fields, JOB_FIELDS};
use super::format::{List, OutputArgs};
use super::mounted::{Listing, Mounted};
use super::progress::percent;
use super::wait;
use crate::control::{CancelArgs, Command};

const HEADINGS: [&str; 10] =
    ["ID", "Kind", "State", "Progress", "Volume", "Backup", "Queued At", "Started At", "Ended At", "Error"];

/// List running, waiting and recently finished jobs
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs job list
  amberfs job list -f json -c ID -c State")]
pub struct JobListArgs {
    #[command(flatten)]
    output: OutputArgs,
}

/// Show one job
#[derive(Debug, Args)]
pub struct JobShowArgs {
    /// Job: its id, as in amberfs job list
    job: String,

    #[command(flatten)]
    output: OutputArgs,
}

/// Follow a job until it ends
///
/// A progress bar on a terminal, lines elsewhere. Ctrl-C asks whether to cancel the job. The exit status is
/// 1 when the job failed or was cancelled.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs job watch 12
  amberfs job watch 12 --interval 60 2>>progress.log")]
pub struct JobWatchArgs {
    /// Job: its id, as in amberfs job list
    job: String,

    /// Seconds between two lines where there is no terminal
    #[arg(long, value_name = "SECONDS", default_value_t = wait::LINE_SECONDS,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    interval: u64,
}

/// Cancel jobs
///
/// All of them, or none when one of them cannot be. A cancelled backup leaves nothing behind, a cancelled
/// restore no volume under its final name.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs job cancel 12
  amberfs job cancel 12 13")]
pub struct JobCancelArgs {
    /// Jobs: their ids, as in amberfs job list
    #[arg(value_name = "JOB", required = true)]
    jobs: Vec<String>,
}

pub fn list(mounted: &Mounted, args: &JobListArgs) -> Result<(), CliError> {
    let mut listing = mounted.jobs()?;
    let number = |job: &Fields| job.number("id").or_else(|| job.text("id").parse().ok());
    listing.entries.sort_by_key(|job| (number(job), job.text("queued_at").to_owned()));
    let row = |job: &Fields| {
        let value = |name| job.value(name).clone();
        let progress = percent(job).map_or(Value::Null, |percent| Value::from(format!("{percent}%")));
        vec![
            value("id"),
            value("kind"),
            value("state"),
            progress,
            value("volume"),
            value("backup"),
            value("queued_at"),
            value("started_at"),
            value("ended_at"),
            value("error"),
        ]
    };
    let rows = listing.entries.iter().map(row).collect();
    args.output.print_list(List { headings: &HEADINGS, shown: HEADINGS.len(), rows })?;
    Listing::complete(listing.unreadable)
}

pub fn show(mounted: &Mounted, args: &JobShowArgs) -> Result<(), CliError> {
    args.output.print_object(&mounted.job(&args.job)?.ordered(&JOB_FIELDS))
}

pub fn watch(mounted: &Mounted, args: &JobWatchArgs) -> Result<(), CliError> {
    wait::until_done(mounted, &args.job, args.interval)
}

pub fn cancel(mounted: &Mounted, args: JobCancelArgs) -> Result<(), CliError> {
    let commands: Vec<Command> =
        args.jobs.into_iter().map(|job| Command::Cancel(CancelArgs { job })).collect();
    mounted.send(&commands).map(|_| ())
}
