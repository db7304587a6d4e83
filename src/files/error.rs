//! Why a file inside a backup was not read.

use std::io;
use std::time::Duration;

use super::path::FilePath;

/// Why a file inside a backup was not read. Each is about this one request; the next may do better.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("{path} is not in this file system")]
    NotFound { path: FilePath },
    #[error("{path}, or a name before it, is no folder; links inside a backup are not followed")]
    NotAFolder { path: FilePath },
    #[error("{path} is a folder")]
    IsAFolder { path: FilePath },
    #[error("{path} is no regular file: devices, pipes, sockets and links inside a backup are not opened")]
    NotAFile { path: FilePath },
    #[error("{path} is no link")]
    NotALink { path: FilePath },
    /// The file system contradicts itself; EIO.
    #[error("{path} cannot be read, because the file system is damaged there: {why}")]
    Damaged { path: FilePath, why: String },
    #[error(
        "the file system has something that cannot be read without mounting it: {why}; mount a scratch image"
    )]
    Unsupported { why: String },
    /// The image below could not be read.
    #[error("{path} cannot be read, because the image below cannot: {source}")]
    Device { path: FilePath, source: io::Error },
    /// The worker process ended or broke the rules; the next request starts a new one.
    #[error(
        "{path} cannot be read: the process that reads the file system {how}; it is damaged, or needs more memory"
    )]
    WorkerEnded { path: FilePath, how: String },
    #[error(
        "{path} cannot be read: it took longer than {} s; the file system may be damaged, or the machine busy",
        limit.as_secs()
    )]
    TimedOut { path: FilePath, limit: Duration },
    #[error(
        "the file system made its reader fail again and again, or take too long, and is left alone for {} s",
        wait.as_secs().max(1)
    )]
    TooManyFailures { wait: Duration },
    #[error("{why}; try again")]
    Busy { why: String },
    #[error("the process that reads file systems did not start: {0}")]
    Start(String),
}

impl FilesError {
    /// Says whether the request itself was in order, and the file system, the image or the worker failed: EIO.
    pub fn is_failure(&self) -> bool {
        match self {
            Self::NotFound { .. }
            | Self::NotAFolder { .. }
            | Self::IsAFolder { .. }
            | Self::NotAFile { .. }
            | Self::NotALink { .. }
            | Self::Unsupported { .. } => false,
            Self::Damaged { .. }
            | Self::Device { .. }
            | Self::WorkerEnded { .. }
            | Self::TimedOut { .. }
            | Self::TooManyFailures { .. }
            | Self::Busy { .. }
            | Self::Start(_) => true,
        }
    }
}
