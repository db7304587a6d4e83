//! `amberfs backup verify`: reads and checks all of some backups.

use clap::Args;

use super::error::CliError;
use super::mounted::Mounted;
use super::output::note;
use super::wait::{self, LINE_SECONDS};
use crate::control::{Command, VerifyArgs};

/// Read and check all of some backups, and wait until that is done
///
/// Each chunk, manifest and record is read from the repository and checked. One that is damaged becomes an error, with
/// the byte ranges that cannot be read, until a later verification finds all of it right again. It reads at the rate of
/// the configuration (100MiB a second) and waits behind other verifications. Ctrl-C asks whether to cancel.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs backup verify monday tuesday
  amberfs backup verify --volume rbd/myvol10 --rate none
  amberfs backup verify --older-than 30d --no-wait
  amberfs backup verify myvol10@latest --against-source")]
pub struct BackupVerifyArgs {
    #[command(flatten)]
    command: VerifyArgs,

    /// Return as soon as the verifications are accepted
    #[arg(long)]
    no_wait: bool,
}

pub fn run(mounted: &Mounted, args: BackupVerifyArgs) -> Result<(), CliError> {
    let accepted = mounted.send_one(Command::Verify(args.command))?;
    let values = |wanted: &str| -> Vec<String> {
        accepted.pairs().filter(|(key, _)| *key == wanted).map(|(_, value)| value.to_owned()).collect()
    };
    let (backups, jobs) = (values("backup"), values("job"));
    if backups.is_empty() {
        note("no backup is to be verified");
        return Ok(());
    }
    if args.no_wait {
        jobs.iter().for_each(|job| note(&format!("job {job} is accepted: amberfs job watch {job}")));
        return Ok(());
    }
    let jobs: Vec<&str> = jobs.iter().map(String::as_str).collect();
    let ends = wait::until_all_done(mounted, &jobs, LINE_SECONDS)?;
    let failed: Vec<CliError> = ends.into_iter().filter_map(Result::err).collect();
    failed.iter().for_each(|error| note(&error.with_causes()));
    match failed.len() {
        0 => Ok(()),
        count => Err(CliError::SomeFailed { count, total: backups.len(), what: "backups did not verify" }),
    }
}
