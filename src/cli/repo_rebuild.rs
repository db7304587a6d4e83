//! `amberfs repo rebuild`: the records that are lost, from the manifests.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::error::CliError;
use super::format::{List, OutputArgs};
use super::long_run::LongRun;
use super::output::note;
use crate::daemon::{self, RepoRebuildOptions};

/// Write lost records of backups again
///
/// Each manifest carries the record that its backup had when it was made. Records that are there are not touched.
/// What was changed after a backup was made (its name and description, properties, the protection) is lost with its
/// record. No daemon may have the repository open.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs repo rebuild --dry-run
  amberfs repo rebuild --repo /srv/backups

Exit status:
  0  every backup of which there is a manifest has a record
  1  some were left out; the reasons are told")]
pub struct RepoRebuildArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Directory of the repository
    #[arg(long, value_name = "DIR")]
    repo: Option<PathBuf>,

    /// Show what would be written; a daemon may have the repository open
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    output: OutputArgs,
}

pub fn run(args: RepoRebuildArgs) -> Result<(), CliError> {
    let RepoRebuildArgs { config, repo, dry_run, output } = args;
    let options = RepoRebuildOptions { config, repo, dry_run };
    let run = LongRun::begin();
    let rebuilt = daemon::repo_rebuild(&options, &run.watch);
    drop(run);
    let report = rebuilt?;
    let rows = report.backups.iter().map(|backup| {
        let record = &backup.record;
        let result = match &backup.left_out {
            Some(_) => "left out",
            None if dry_run => "would be rebuilt",
            None => "rebuilt",
        };
        vec![
            json!(record.id.to_string()),
            json!(record.name),
            json!(format!("{}/{}", record.source, record.volume_name)),
            json!(record.data_timestamp.to_string()),
            json!(result),
            json!(backup.left_out),
        ]
    });
    output.print_list(List {
        headings: &["ID", "Name", "Volume", "Data Timestamp", "Result", "Why"],
        shown: 6,
        rows: rows.collect(),
    })?;
    for (path, why) in &report.unreadable {
        note(&format!("{path}: {why}"));
    }
    let left_out = report.backups.iter().filter(|backup| backup.left_out.is_some()).count();
    note(&format!(
        "{} records were there, {} {}, {left_out} left out",
        report.existing,
        report.backups.len() - left_out,
        if dry_run { "would be rebuilt" } else { "rebuilt" },
    ));
    let failed = left_out + report.unreadable.len();
    if failed > 0 {
        let total = report.backups.len() + report.unreadable.len();
        return Err(CliError::SomeFailed { count: failed, total, what: "backups could not be rebuilt" });
    }
    Ok(())
}
