//! What can go wrong with chunks and manifests. Missing, damaged and failing are different variants.

use rustix::io::Errno;

use crate::format::FormatError;
use crate::index::IndexError;
use crate::objects::{ObjectError, ObjectName};
use crate::types::{ByteRange, ChunkId, ManifestId, PackId};

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("chunk {id} is in no pack of the repository")]
    ChunkMissing { id: ChunkId },

    #[error("chunk {id} in pack {pack} is damaged: {why}")]
    ChunkCorrupt { id: ChunkId, pack: PackId, why: String },

    /// Its chunks were counted on, and are not there to be counted on.
    #[error(
        "pack {pack} was found damaged while it was counted on; what is needed of it is stored again next time"
    )]
    PackDamaged { pack: PackId },

    #[error("manifest {id} is damaged: {why}")]
    ManifestCorrupt { id: ManifestId, why: String },

    /// A full backup's manifest covers the whole image: what it does not cover is lost, not zero.
    #[error("manifest {id} does not say what {range} are")]
    ManifestGap { id: ManifestId, range: ByteRange },

    #[error("object {name} is damaged")]
    Format {
        name: ObjectName,
        #[source]
        source: FormatError,
    },

    #[error(transparent)]
    Object(#[from] ObjectError),

    #[error(transparent)]
    Index(#[from] IndexError),

    #[error("{why}")]
    NoMemory { why: &'static str },

    /// Writing was given up after an error that was reported before.
    #[error("writing stopped after an earlier error")]
    Stopped,
}

impl StoreError {
    /// Is it what is stored that is not right? Otherwise this machine, or the way to the repository, fails, and nothing is
    /// said of what is stored.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::ChunkMissing { .. }
            | Self::ChunkCorrupt { .. }
            | Self::PackDamaged { .. }
            | Self::ManifestCorrupt { .. }
            | Self::ManifestGap { .. }
            | Self::Format { .. } => true,
            Self::Object(ObjectError::Io { source, .. }) => is_of_the_medium(&source.source),
            Self::Object(ObjectError::Folder { .. }) => false,
            Self::Object(_) => true,
            Self::Index(_) | Self::NoMemory { .. } | Self::Stopped => false,
        }
    }
}

/// What a disk or a file system says of a place that it cannot give back.
fn is_of_the_medium(error: &std::io::Error) -> bool {
    const OF_THE_MEDIUM: [Errno; 5] =
        [Errno::IO, Errno::BADMSG, Errno::UCLEAN, Errno::NODATA, Errno::REMOTEIO];
    Errno::from_io_error(error).is_some_and(|errno| OF_THE_MEDIUM.contains(&errno))
}
