//! `amberfs backup create`, `show` and `restore`.

use clap::Args;

use super::error::CliError;
use super::fields::BACKUP_FIELDS;
use super::format::OutputArgs;
use super::mounted::Mounted;
use super::wait;
use super::{output, resolve};
use crate::control::{self, Command};

/// Back up a volume, and wait until that is done
///
/// The backup is of the volume as it is at this moment, or of one of its snapshots; the volume can be
/// written to meanwhile. Ctrl-C asks whether to cancel.
///
/// A volume whose name starts with a dash is written behind --, or with its source: rbd/-name.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs backup create myvol10
  amberfs backup create rbd/myvol10 --name myvol10-incr1 --incremental --force
  amberfs backup create myvol10 --snapshot myvol10-snapshot1 --property ticket=4711
  amberfs backup create myvol10 --name before-upgrade --protect
  id=$(amberfs backup create myvol10 -f value -c id)")]
pub struct BackupCreateArgs {
    #[command(flatten)]
    command: control::BackupArgs,

    /// Return as soon as the backup is accepted
    #[arg(long)]
    no_wait: bool,

    #[command(flatten)]
    output: OutputArgs,
}

/// Show one backup
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs backup show tuesday
  amberfs backup show 9027e97a
  amberfs backup show rbd/myvol10@latest -f value -c id")]
pub struct BackupShowArgs {
    /// Backup: its id, 8 or more characters of the id's start, its name, or VOLUME@latest
    backup: String,

    #[command(flatten)]
    output: OutputArgs,
}

/// Restore a backup to a new or an existing volume, and wait until that is done
///
/// A new volume has its final name only when it is complete. An existing volume (--to) needs --force and
/// must not be in use: all of it is overwritten. Ctrl-C asks whether to cancel.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs backup restore tuesday
  amberfs backup restore tuesday --name myvol10-tuesday --source rbd --type standard
  amberfs backup restore myvol10@latest --to rbd/myvol-restored --force
  amberfs backup restore --force tuesday rbd/myvol-restored
  amberfs backup restore tuesday --skip-damaged --name what-is-left")]
pub struct BackupRestoreArgs {
    #[command(flatten)]
    command: control::RestoreArgs,

    /// Return as soon as the restore is accepted
    #[arg(long)]
    no_wait: bool,

    #[command(flatten)]
    output: OutputArgs,
}

pub fn create(mounted: &Mounted, args: BackupCreateArgs) -> Result<(), CliError> {
    let wants_incremental = args.command.incremental;
    let accepted = mounted.send_one(Command::Backup(args.command))?;
    if wants_incremental && accepted.value("is_incremental") == Some("false") {
        output::note("no earlier backup of this volume to lean on: a full backup is taken");
    }
    wait::finish(mounted, &accepted, args.no_wait)?;
    let id = accepted.value("backup").unwrap_or_default();
    args.output.print_object(&resolve::backup(mounted, id)?.ordered(&BACKUP_FIELDS))
}

pub fn show(mounted: &Mounted, args: &BackupShowArgs) -> Result<(), CliError> {
    let backup = resolve::backup(mounted, &args.backup)?;
    args.output.print_object(&backup.ordered(&BACKUP_FIELDS))
}

pub fn restore(mounted: &Mounted, args: BackupRestoreArgs) -> Result<(), CliError> {
    let BackupRestoreArgs { command, no_wait, output: shown } = args;
    let accepted = mounted.send_one(Command::Restore(command))?;
    wait::finish(mounted, &accepted, no_wait)?;
    let job = mounted.job(accepted.value("job").unwrap_or_default())?;
    if let Some(warning) = job.value("warning").as_str() {
        output::note(&format!("warning: {warning}"));
    }
    let fields = [("backup_id", "backup"), ("volume", "volume"), ("job", "id")];
    let fields = fields.map(|(shown, name)| (shown.to_owned(), job.value(name).clone()));
    let uuids = accepted.pairs().filter(|(key, _)| key.starts_with("xfs_uuid"));
    let uuids = uuids.map(|(key, uuid)| (key.to_owned(), uuid.into()));
    shown.print_object(&fields.into_iter().chain(uuids).collect::<Vec<_>>())
}
