//! Ids. A chunk's id is the SHA-256 of its plain bytes; everything else is named by a random UUID.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// A text that is no id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {wanted}")]
pub struct IdError {
    pub text: String,
    pub wanted: &'static str,
}

/// The address of a chunk: the SHA-256 of its plain bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId([u8; 32]);

impl ChunkId {
    /// Returns the id of these plain bytes.
    pub fn of(plain: &[u8]) -> Self {
        Self(Sha256::digest(plain).into())
    }

    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkId({self})")
    }
}

impl FromStr for ChunkId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = || IdError { text: text.to_owned(), wanted: "a SHA-256 in hexadecimal" };
        if text.len() != 64 || !text.is_ascii() {
            return Err(error());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| error())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| error())?;
        }
        Ok(Self(bytes))
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $wanted:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Uuid);

        impl $name {
            /// Returns a new random id.
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }

            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            /// Takes the hyphenated lower-case form only, so that one id has one name.
            fn from_str(text: &str) -> Result<Self, IdError> {
                match Uuid::try_parse(text) {
                    Ok(uuid) if uuid.hyphenated().to_string() == text => Ok(Self(uuid)),
                    _ => Err(IdError { text: text.to_owned(), wanted: $wanted }),
                }
            }
        }
    };
}

uuid_id!(
    /// Names a backup.
    BackupId,
    "a backup id"
);
uuid_id!(
    /// Names a pack of chunks.
    PackId,
    "a pack id"
);
uuid_id!(
    /// Names a manifest.
    ManifestId,
    "a manifest id"
);
uuid_id!(
    /// Names a repository, so that an index is never used with another one.
    RepositoryId,
    "a repository id"
);

uuid_id!(
    /// The id of a scratch image: two of the same name, one after the other, are not the same.
    ScratchId,
    "the id of a scratch image"
);

/// What a source calls a volume for as long as it exists: an RBD image id, or a UUID derived from a file's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VolumeId(String);

impl VolumeId {
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// Returns the id of a volume that has none of its own: the same for the same two names.
    pub fn derived(source: &str, volume: &str) -> Self {
        // A fixed random namespace, so that the ids cannot meet those of other programs.
        const NAMESPACE: Uuid = Uuid::from_u128(0x5b2e_6f0c_9a4d_4c8e_8d57_31a6_0be2_74f9);
        Self(Uuid::new_v5(&NAMESPACE, format!("{source}/{volume}").as_bytes()).to_string())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_id_is_the_sha256_of_the_plain_bytes() {
        // FIPS 180-4, the one-block message "abc".
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(ChunkId::of(b"abc").to_string(), expected);
        assert_eq!(expected.parse::<ChunkId>().unwrap(), ChunkId::of(b"abc"));
        assert!("ba78".parse::<ChunkId>().is_err());
    }

    #[test]
    fn an_id_has_one_spelling() {
        let id = BackupId::random();
        assert_eq!(id.to_string().parse::<BackupId>().unwrap(), id);
        assert!("9027E97A-0000-4000-8000-000000000000".parse::<BackupId>().is_err());
        assert!(id.to_string().replace('-', "").parse::<BackupId>().is_err());
    }
}
