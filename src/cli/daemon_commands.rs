//! `amberfs mount` and `amberfs repo`: the commands that run in this process instead of talking to the daemon.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::error::CliError;
use super::format::OutputArgs;
use crate::daemon::{self, LogFormat, MountOptions, RepoInfoOptions, RepoInitOptions, RepositorySummary};
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

Environment:
  AMBERFS_LOG  what the log tells: error, warn, info, debug, amberfs::store=trace; without it, RUST_LOG

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

    /// How the log on standard error is written: text, or json with one object a line
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,

    /// Empty directory to mount on
    mountpoint: PathBuf,
}

/// Make a new repository
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  amberfs repo init --repo /srv/backups
  amberfs repo init --repo /srv/backups --chunk-size 256KiB")]
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

    #[command(flatten)]
    output: OutputArgs,
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
    let MountArgs { config, repo, volumes, daemon, allow_other, log_format, mountpoint } = args;
    daemon::mount(&MountOptions { config, repo, volumes, mountpoint, daemon, allow_other, log_format })?;
    Ok(())
}

pub fn repo_init(args: RepoInitArgs) -> Result<(), CliError> {
    let RepoInitArgs { config, repo, chunk_size, output } = args;
    let summary = daemon::repo_init(&RepoInitOptions { config, repo, chunk_size })?;
    output.print_object(&fields(&summary))
}

pub fn repo_info(args: RepoInfoArgs) -> Result<(), CliError> {
    let RepoInfoArgs { config, repo, output } = args;
    let summary = daemon::repo_info(&RepoInfoOptions { config, repo })?;
    output.print_object(&fields(&summary))
}

fn fields(summary: &RepositorySummary) -> Vec<(String, Value)> {
    let header = &summary.header;
    let features = |names: &[String]| json!(names.join(", "));
    let mut fields = vec![
        ("id".to_owned(), json!(header.id.to_string())),
        ("location".to_owned(), json!(summary.location)),
        ("created_at".to_owned(), json!(header.created_at.to_string())),
        ("chunk_size".to_owned(), json!(header.chunk_size.0)),
        ("features_compatible".to_owned(), features(&header.features_compatible)),
        ("features_read_only_compatible".to_owned(), features(&header.features_read_only_compatible)),
        ("features_incompatible".to_owned(), features(&header.features_incompatible)),
    ];
    for (kind, count, bytes) in &summary.objects {
        fields.push((kind.to_string(), json!(count)));
        fields.push((format!("{kind}_bytes"), json!(bytes)));
    }
    fields
}
