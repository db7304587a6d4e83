//! The repository header: which repository this is, what was chosen at `repo init`, and who may open it.

use serde::{Deserialize, Serialize};

use super::FormatError;
use super::document::{self, DocumentKind};
use crate::types::{ByteSize, KIB, MIB, RepositoryId, Timestamp};

const KIND: DocumentKind =
    DocumentKind { magic: "amberfs-repository", what: "repository header", version: 1 };

/// The default size of a chunk: incrementals cost half of what they do at 256 KiB, and a random read 0.1 ms.
pub const CHUNK_SIZE_DEFAULT: u64 = 64 * KIB;
const CHUNK_SIZE_MIN: u64 = 4 * KIB;
/// Bounds the memory of one decode, whoever wrote the repository.
pub const CHUNK_SIZE_MAX: u64 = 4 * MIB;

/// Fixed for the life of a repository, but for the features.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryHeader {
    pub id: RepositoryId,
    pub created_at: Timestamp,
    /// Chunks are at most this long; a power of two.
    pub chunk_size: ByteSize,
    /// Features that an older amberfs may pass over.
    pub features_compatible: Vec<String>,
    /// Features that an older amberfs may pass over as long as it only reads.
    pub features_read_only_compatible: Vec<String>,
    /// Features without which the repository cannot be understood.
    pub features_incompatible: Vec<String>,
}

/// May this amberfs write to a repository, as far as its format goes?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compatibility {
    ReadWrite,
    ReadOnly,
}

impl RepositoryHeader {
    pub fn new(id: RepositoryId, created_at: Timestamp, chunk_size: ByteSize) -> Result<Self, FormatError> {
        let header = Self {
            id,
            created_at,
            chunk_size,
            features_compatible: Vec::new(),
            features_read_only_compatible: Vec::new(),
            features_incompatible: Vec::new(),
        };
        header.check_chunk_size()?;
        Ok(header)
    }

    pub fn encode(&self) -> Result<String, FormatError> {
        document::encode(KIND, self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let header: Self = document::decode(KIND, bytes)?;
        header.check_chunk_size()?;
        Ok(header)
    }

    /// This amberfs has no features yet: any read-only compatible one means reading only, any incompatible one
    /// means not at all.
    pub fn compatibility(&self) -> Result<Compatibility, FormatError> {
        if !self.features_incompatible.is_empty() {
            return Err(FormatError::UnsupportedFeatures { features: self.features_incompatible.clone() });
        }
        if self.features_read_only_compatible.is_empty() {
            return Ok(Compatibility::ReadWrite);
        }
        Ok(Compatibility::ReadOnly)
    }

    fn check_chunk_size(&self) -> Result<(), FormatError> {
        let size = self.chunk_size.0;
        if size.is_power_of_two() && (CHUNK_SIZE_MIN..=CHUNK_SIZE_MAX).contains(&size) {
            return Ok(());
        }
        let why = format!("a chunk size of {size} bytes; a power of two from 4KiB to 4MiB is possible");
        Err(FormatError::malformed(KIND.what, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_say_who_may_open() {
        let id = RepositoryId::random();
        let mut header = RepositoryHeader::new(id, Timestamp::from_micros(0), ByteSize(64 * KIB)).unwrap();
        assert_eq!(header.compatibility(), Ok(Compatibility::ReadWrite));
        header.features_read_only_compatible.push("x".to_owned());
        assert_eq!(header.compatibility(), Ok(Compatibility::ReadOnly));
        header.features_incompatible.push("y".to_owned());
        assert!(header.compatibility().is_err());
        let decoded = RepositoryHeader::decode(header.encode().unwrap().as_bytes()).unwrap();
        assert_eq!(decoded, header);
    }

    #[test]
    fn odd_chunk_sizes_are_refused() {
        for size in [0, 1, 2048, 65_537, 8 * MIB] {
            let header =
                RepositoryHeader::new(RepositoryId::random(), Timestamp::from_micros(0), ByteSize(size));
            assert!(header.is_err(), "{size}");
        }
    }
}
