//! The command line: arguments, tables, progress bars.
//!
//! Except for `mount` and `repo`, which are handed to `daemon`, every command talks to the running daemon through
//! its mount only: it reads the tree and writes to `control/`. Nothing here decides what a command means.

mod arguments;
mod backup;
mod backup_change;
mod backup_list;
mod daemon_commands;
mod error;
mod fields;
mod file_reader;
mod files;
mod files_mount;
mod format;
mod gc;
mod job;
mod long_run;
mod mount_table;
mod mounted;
mod output;
mod progress;
mod prune;
mod quota;
mod record;
mod repo_check;
mod repo_rebuild;
mod resolve;
mod scratch;
mod umount;
mod verify;
mod volume;
mod wait;
mod xfs_uuid;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use arguments::{
    BackupCommand, Cli, FilesCommand, JobCommand, QuotaCommand, RecordCommand, RepoCommand, ScratchCommand,
    TopCommand, VolumeCommand,
};
use error::CliError;
use mounted::Mounted;

/// Runs the command in this process's arguments: 0 done, 1 refused or failed, 2 bad usage.
pub fn main() -> ExitCode {
    if let Some(status) = file_reader::run_if_asked() {
        return status;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output, errors elsewhere; a reader that went away is no failure.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::note(&error.with_causes());
            error.exit_code()
        }
    }
}

fn run(cli: Cli) -> Result<(), CliError> {
    let mounted = || Mounted::find(cli.mount.as_deref());
    match cli.command {
        TopCommand::Mount(args) => daemon_commands::mount(args),
        TopCommand::Umount(args) => {
            umount::run(args.directory.or(cli.mount).or_else(mounted::from_environment))
        }
        TopCommand::Repo(RepoCommand::Init(args)) => daemon_commands::repo_init(args),
        TopCommand::Repo(RepoCommand::Info(args)) => daemon_commands::repo_info(args),
        TopCommand::Repo(RepoCommand::Gc(args)) => gc::run(&mounted()?, args),
        TopCommand::Repo(RepoCommand::Check(args)) => repo_check::run(args),
        TopCommand::Repo(RepoCommand::Rebuild(args)) => repo_rebuild::run(args),
        TopCommand::Backup(command) => run_backup(&mounted()?, command),
        TopCommand::Quota(QuotaCommand::Show(args)) => quota::show(&mounted()?, &args),
        TopCommand::Volume(VolumeCommand::List(args)) => volume::list(&mounted()?, &args),
        TopCommand::Volume(VolumeCommand::Show(args)) => volume::show(&mounted()?, &args),
        TopCommand::Job(JobCommand::List(args)) => job::list(&mounted()?, &args),
        TopCommand::Job(JobCommand::Show(args)) => job::show(&mounted()?, &args),
        TopCommand::Job(JobCommand::Watch(args)) => job::watch(&mounted()?, &args),
        TopCommand::Job(JobCommand::Cancel(args)) => job::cancel(&mounted()?, args),
        TopCommand::Scratch(ScratchCommand::Create(args)) => scratch::create(&mounted()?, args),
        TopCommand::Scratch(ScratchCommand::List(args)) => scratch::list(&mounted()?, &args),
        TopCommand::Scratch(ScratchCommand::Delete(args)) => scratch::delete(&mounted()?, &args),
        TopCommand::Files(FilesCommand::Ls(args)) => files::list(&mounted()?, &args),
        TopCommand::Files(FilesCommand::Cat(args)) => files::cat(&mounted()?, &args),
        TopCommand::Files(FilesCommand::Cp(args)) => files::copy(&mounted()?, &args),
        TopCommand::Files(FilesCommand::Mount(args)) => files_mount::mount(&mounted()?, args),
        TopCommand::Files(FilesCommand::Umount(args)) => files_mount::umount(&args),
        TopCommand::XfsUuid(args) => xfs_uuid::run(mounted, args),
        TopCommand::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "amberfs", &mut script);
            output::print(&script)
        }
    }
}

fn run_backup(mounted: &Mounted, command: BackupCommand) -> Result<(), CliError> {
    match command {
        BackupCommand::Create(args) => backup::create(mounted, args),
        BackupCommand::List(args) => backup_list::run(mounted, &args),
        BackupCommand::Show(args) => backup::show(mounted, &args),
        BackupCommand::Set(args) => backup_change::set(mounted, args),
        BackupCommand::Unset(args) => backup_change::unset(mounted, args),
        BackupCommand::Restore(args) => backup::restore(mounted, args),
        BackupCommand::Delete(args) => backup_change::delete(mounted, args),
        BackupCommand::Flatten(args) => backup_change::flatten(mounted, args),
        BackupCommand::Verify(args) => verify::run(mounted, args),
        BackupCommand::Prune(args) => prune::run(mounted, &args),
        BackupCommand::Export(args) | BackupCommand::Record(RecordCommand::Export(args)) => {
            record::export(mounted, &args)
        }
        BackupCommand::Import(args) | BackupCommand::Record(RecordCommand::Import(args)) => {
            record::import(mounted, &args)
        }
        BackupCommand::ResetState(args) => backup_change::reset_state(mounted, args),
    }
}
