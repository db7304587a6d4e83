//! Why the tree does not do what it is asked. `fuse/errno.rs` gives each variant its number.

use std::io;
use std::sync::Arc;

use crate::files::FilesError;
use crate::format::FormatError;
use crate::repository::RepositoryError;
use crate::store::StoreError;
use crate::types::{BackupId, RefusalKind};

#[derive(Debug, thiserror::Error)]
pub enum VfsError {
    #[error("there is nothing of this name")]
    NotFound,

    /// Of another project, and no more than that is told.
    #[error("it belongs to another project")]
    NotYours,

    #[error("it is not a folder")]
    NotAFolder,

    #[error("it is a folder")]
    IsAFolder,

    #[error("it is not a link")]
    NotALink,

    /// The kernel asks for an inode that it was never told of, or has forgotten.
    #[error("there is no inode {inode}")]
    UnknownInode { inode: u64 },

    #[error("there is no open file {handle} that can do this")]
    BadHandle { handle: u64 },

    /// This part of the tree is changed by nobody.
    #[error("it cannot be changed")]
    ReadOnly,

    /// SEEK_DATA or SEEK_HOLE from beyond the end, or SEEK_DATA from within the last hole.
    #[error("there is no data behind this offset")]
    NothingBehind,

    #[error("commands of more than {bytes_max} bytes are not taken")]
    CommandsTooLong { bytes_max: usize },

    /// The sentence is in the answer, where the reader finds it.
    #[error("the command is refused: {}", .kind.name())]
    Refused { kind: RefusalKind },

    #[error("the image of backup {id} cannot be opened")]
    Open {
        id: BackupId,
        #[source]
        source: RepositoryError,
    },

    #[error("the image of backup {id} cannot be read at byte {offset}")]
    Read {
        id: BackupId,
        offset: u64,
        #[source]
        source: Arc<StoreError>,
    },

    #[error("a part of an image cannot be read")]
    Part {
        #[source]
        source: io::Error,
    },

    /// A scratch image keeps the size of its backup, as a disk does.
    #[error("its size cannot be changed")]
    FixedSize,

    #[error("this is not done to it")]
    NotSupported,

    /// It is being copied or changed as a whole.
    #[error("it is in use")]
    InUse,

    #[error("the scratch images hold as much as they may")]
    Full,

    #[error("a scratch image cannot be read or written")]
    Scratch {
        #[source]
        source: io::Error,
    },

    /// A file inside a backup.
    #[error(transparent)]
    Inner(#[from] FilesError),

    /// A name or path that no file inside a backup can have.
    #[error("the name is too long")]
    NameTooLong,

    /// Devices, pipes and sockets inside a backup are shown and not opened.
    #[error("it is not to be opened")]
    NotOpened,

    #[error("the events cannot be read")]
    Events {
        #[source]
        source: io::Error,
    },

    #[error("the record of backup {id} cannot be written as text")]
    Record {
        id: BackupId,
        #[source]
        source: FormatError,
    },
}
