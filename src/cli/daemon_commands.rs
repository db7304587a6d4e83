//! `amberfs mount` and `amberfs repo`: the commands that run in this process instead of talking to the daemon.

use std::path::PathBuf;

use clap::Args;

use super::error::CliError;
use super::format::OutputArgs;
use crate::daemon::{Compression, MountOptions, RepoInfoOptions, RepoInitOptions};
use crate::types::ByteSize;

/// Mount the tree of backups and serve it
///
/// Serves until it is unmounted or told to end (SIGTERM). Without a configuration file, --repo and --volumes are
/// all that is needed: a repository in a directory, and a source called `local` over a directory of raw
/// images.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs mount /mnt/amberfs
  amberfs mount --config /etc/amberfs/test.toml --daemon /mnt/amberfs
  amberfs mount --repo /srv/backups --volumes /srv/volumes /mnt/amberfs

Files:
  /etc/amberfs/amberfs.toml  the configuration, where neither --config nor --repo is given")]
pub struct MountArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Directory of the repository
    #[arg(long, value_name = "DIR")]
    repo: Option<PathBuf>,

    /// Directory of raw images, served as the source `local`
    #[arg(long, value_name = "DIR")]
    volumes: Option<PathBuf>,

    /// Detach when the mount is ready
    #[arg(long)]
    daemon: bool,

    /// Let other users see the tree, each what its project may see
    #[arg(long)]
    allow_other: bool,

    /// Empty directory to mount on
    mountpoint: PathBuf,
}

/// Make a new repository
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs repo init --repo /srv/backups
  amberfs repo init --repo /srv/backups --chunk-size 256KiB --compression zstd:6")]
pub struct RepoInitArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Directory of the repository
    #[arg(long, value_name = "DIR")]
    repo: Option<PathBuf>,

    /// Largest chunk, for good: 64KiB, or 256KiB for a very large repository
    #[arg(long, value_name = "SIZE")]
    chunk_size: Option<ByteSize>,

    /// Compression of new chunks: none, or zstd:LEVEL
    #[arg(long)]
    compression: Option<Compression>,
}

/// Show what a repository is
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs repo info --repo /srv/backups
  amberfs repo info -f json")]
pub struct RepoInfoArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Directory of the repository
    #[arg(long, value_name = "DIR")]
    repo: Option<PathBuf>,

    #[command(flatten)]
    output: OutputArgs,
}

pub fn mount(args: MountArgs) -> Result<(), CliError> {
    let MountArgs { config, repo, volumes, daemon, allow_other, mountpoint } = args;
    no_daemon(&MountOptions { config, repo, volumes, mountpoint, daemon, allow_other })
}

pub fn repo_init(args: RepoInitArgs) -> Result<(), CliError> {
    let RepoInitArgs { config, repo, chunk_size, compression } = args;
    no_daemon(&RepoInitOptions { config, repo, chunk_size, compression })
}

pub fn repo_info(args: RepoInfoArgs) -> Result<(), CliError> {
    let RepoInfoArgs { config, repo, output } = args;
    no_daemon(&RepoInfoOptions { config, repo })?;
    output.print_object(&[])
}

/// Says that this build ends at the options: `daemon` is not there to be called.
fn no_daemon(options: &impl std::fmt::Debug) -> Result<(), CliError> {
    Err(CliError::Daemon(format!("this build of amberfs has no daemon: {options:?}")))
}
