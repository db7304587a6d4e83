//! The files inside a backup, read without root and without trust.
//!
//! A `FileTree` is the read-only view of the files of a file system on a device. The crates that read file systems are
//! not trusted with an image that anybody may have made: they run in a worker process (`reader`), one for each file system
//! that is open, which has a socket to the daemon and nothing else. `docs/files.md` says what is shown and what is not.

mod error;
mod metadata;
mod path;
mod process;
mod protocol;
mod reader;
mod tree;
mod trees;
mod turns;

pub use error::FilesError;
pub use metadata::{DeviceNumber, FileKind, FileMetadata, FileSystemKind, FileTime, FolderEntry};
pub use path::{FilePath, FilePathError, NAME_BYTES_MAX, PATH_BYTES_MAX};
pub use process::{READER_COMMAND, WorkerProcess};
pub use protocol::{Answer, Request};
pub use reader::run as run_reader;
pub use tree::FileTree;
pub use trees::{FileTrees, FileTreesOptions};
