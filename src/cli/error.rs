//! Why a command did not do what it was asked for, and the exit status that says so.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::control::UnwritableWord;
use crate::daemon::DaemonError;
use crate::sysio::PathError;
use crate::types::{Refusal, RefusalKind, sentence};

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("{0}")]
    Usage(String),

    /// The daemon's answer, or what it would have answered.
    #[error("{name}: {sentence}")]
    Refused { name: String, sentence: String },

    #[error("the command cannot be sent")]
    Unwritable(#[from] UnwritableWord),

    #[error("job {job} {state}{}", .error.as_ref().map(|error| format!(": {error}")).unwrap_or_default())]
    JobEnded { job: String, state: &'static str, error: Option<String> },

    #[error("interrupted; the job goes on: amberfs job watch {job}")]
    Interrupted { job: String },

    #[error("no amberfs is mounted here: start one with `amberfs mount`, or name its mount with --mount DIR")]
    NoMount,

    #[error("{} amberfs mounts are here: choose one with --mount DIR: {}", .0.len(), paths(.0))]
    SeveralMounts(Vec<PathBuf>),

    #[error("{} is not an amberfs mount: it has no backups/", .0.display())]
    NotAMount(PathBuf),

    #[error("the daemon of {} is gone: `amberfs umount {}` clears what it left", .0.display(), .0.display())]
    DaemonGone(PathBuf),

    #[error("cannot {what} {}", .path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },

    #[error("{}: {what}", .path.display())]
    Unreadable { path: PathBuf, what: String },

    #[error("{count} of the entries could not be read; the first: {first}")]
    Incomplete { count: usize, first: Box<CliError> },

    /// Of several things, each of which has been said.
    #[error("{count} of {total} {what}.")]
    SomeFailed { count: usize, total: usize, what: &'static str },

    #[error("{backups} backups are hurt; {objects} objects of the repository are damaged or missing")]
    Damaged { backups: usize, objects: usize },

    #[error("the record is not exported")]
    Export(#[source] PathError),

    #[error("cannot write the output")]
    Output(#[source] io::Error),

    #[error("cannot unmount {}: {why}", .path.display())]
    Unmount { path: PathBuf, why: String },

    /// What the daemon's own commands (`mount`, `repo`) say.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
}

fn paths(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl CliError {
    pub fn refused(kind: RefusalKind, sentence: impl Into<String>) -> Self {
        Refusal::new(kind, sentence).into()
    }

    /// Returns the sentence and what caused it, in one line.
    pub fn with_causes(&self) -> String {
        format!("error: {}", sentence(self))
    }

    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(if matches!(self, Self::Usage(_)) { 2 } else { 1 })
    }
}

impl From<Refusal> for CliError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused { name: refusal.kind.name().to_owned(), sentence: refusal.sentence }
    }
}
