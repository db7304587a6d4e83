//! Why an amberfs cannot be mounted.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum FuseError {
    #[error("cannot use {path} as a mountpoint", path = .path.display())]
    Mountpoint {
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error("{path} is not a directory: an amberfs is mounted on an empty one", path = .path.display())]
    NotADirectory { path: PathBuf },

    #[error("{path} is not empty: an amberfs is mounted on an empty directory", path = .path.display())]
    NotEmpty { path: PathBuf },

    #[error("cannot detach what a dead daemon left mounted on {path}", path = .path.display())]
    Stale {
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error("cannot mount on {path}", path = .path.display())]
    Mount {
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error("cannot start the threads that serve the mount")]
    Threads {
        #[source]
        source: io::Error,
    },
}
