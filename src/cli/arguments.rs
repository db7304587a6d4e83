//! The tree of commands. What a command takes stands with the command, or in `control` when a control file takes
//! the same.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::{
    backup, backup_change, backup_list, daemon_commands, files, files_mount, gc, job, prune, quota, record,
    repo_check, repo_rebuild, scratch, verify, volume, xfs_uuid,
};

/// Backups of block volumes that can be looked into
///
/// amberfs keeps backups of block volumes (RBD images, or raw image files in a directory) in a deduplicated
/// repository, and shows every one of them as a file tree: whole images, partitions and the files in them.
///
/// `amberfs mount` runs the daemon. All other commands but `repo` talk to the running daemon through its mount, so
/// what they do can be done by hand as well: see the README in the mount.
#[derive(Debug, Parser)]
#[command(
    name = "amberfs",
    version,
    arg_required_else_help = true,
    after_long_help = "\
Examples:
  amberfs repo init --repo /srv/backups
  amberfs mount --daemon --repo /srv/backups --volumes /srv/volumes /mnt/amberfs
  amberfs backup create myvol10 --name monday
  amberfs backup create myvol10 --name tuesday --incremental --force
  amberfs backup list
  amberfs backup restore tuesday --name myvol10-again
  amberfs backup prune --keep-daily 7 --keep-weekly 4 --dry-run
  amberfs umount

Exit status:
  0  done
  1  refused or failed; the reason stands on standard error
  2  bad usage

Environment:
  AMBERFS_MOUNT  the mount to talk to, where --mount is not given"
)]
pub struct Cli {
    /// Mount of the daemon to talk to
    ///
    /// Without it: $AMBERFS_MOUNT, else the one amberfs mount there is.
    #[arg(long, value_name = "DIR", global = true)]
    pub mount: Option<PathBuf>,

    #[command(subcommand)]
    pub command: TopCommand,
}

#[derive(Debug, Subcommand)]
pub enum TopCommand {
    Mount(daemon_commands::MountArgs),
    Umount(UmountArgs),
    /// Make a repository, look at one, check it, repair it, clean it up
    #[command(subcommand)]
    Repo(RepoCommand),
    /// Take backups, list them, restore them, delete them
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Read the files inside backups, or mount them
    #[command(subcommand)]
    Files(FilesCommand),
    XfsUuid(xfs_uuid::XfsUuidCommand),
    /// Make writable views of backups, and throw them away
    #[command(subcommand)]
    Scratch(ScratchCommand),
    /// List the volumes that exist or have backups
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Show what projects may use, and what they use
    #[command(subcommand)]
    Quota(QuotaCommand),
    /// Follow and cancel running operations
    #[command(subcommand)]
    Job(JobCommand),
    /// Print a completion script for a shell
    ///
    /// Example: amberfs completions bash > /etc/bash_completion.d/amberfs
    Completions {
        shell: clap_complete::Shell,
    },
}

/// Unmount, which ends the daemon
///
/// Refused while a file in the mount is open. What was mounted by a user is unmounted with fusermount3.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs umount
  amberfs umount /mnt/amberfs")]
pub struct UmountArgs {
    /// The mount (default: $AMBERFS_MOUNT, else the one amberfs mount there is)
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum RepoCommand {
    Init(daemon_commands::RepoInitArgs),
    Info(daemon_commands::RepoInfoArgs),
    Gc(gc::RepoGcArgs),
    Check(repo_check::RepoCheckArgs),
    Rebuild(repo_rebuild::RepoRebuildArgs),
}

#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    Create(backup::BackupCreateArgs),
    List(backup_list::BackupListArgs),
    Show(backup::BackupShowArgs),
    Set(backup_change::BackupSetArgs),
    Unset(backup_change::BackupUnsetArgs),
    Restore(backup::BackupRestoreArgs),
    Delete(backup_change::BackupDeleteArgs),
    Flatten(backup_change::BackupFlattenArgs),
    Verify(verify::BackupVerifyArgs),
    Prune(prune::BackupPruneArgs),
    Export(record::BackupExportArgs),
    Import(record::BackupImportArgs),
    ResetState(backup_change::BackupResetStateArgs),
    /// The same as `backup export` and `backup import`, as OpenStack has it
    #[command(subcommand)]
    Record(RecordCommand),
}

#[derive(Debug, Subcommand)]
pub enum RecordCommand {
    Export(record::BackupExportArgs),
    Import(record::BackupImportArgs),
}

#[derive(Debug, Subcommand)]
pub enum QuotaCommand {
    Show(quota::QuotaShowArgs),
}

#[derive(Debug, Subcommand)]
pub enum FilesCommand {
    Ls(files::FilesListArgs),
    Cat(files::FilesCatArgs),
    Cp(files::FilesCopyArgs),
    Mount(files_mount::FilesMountArgs),
    Umount(files_mount::FilesUmountArgs),
}

#[derive(Debug, Subcommand)]
pub enum ScratchCommand {
    Create(scratch::ScratchCreateArgs),
    List(scratch::ScratchListArgs),
    Delete(scratch::ScratchDeleteArgs),
}

#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    List(volume::VolumeListArgs),
    Show(volume::VolumeShowArgs),
}

#[derive(Debug, Subcommand)]
pub enum JobCommand {
    List(job::JobListArgs),
    Show(job::JobShowArgs),
    Watch(job::JobWatchArgs),
    Cancel(job::JobCancelArgs),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_tree_of_commands_is_consistent() {
        Cli::command().debug_assert();
    }
}
