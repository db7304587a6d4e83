//! What can go wrong with chunks and manifests. Missing, damaged and failing are different variants.

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
