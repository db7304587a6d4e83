//! What can go wrong with an object. Missing, cut short and failing are different things to those who repair.

use crate::sysio::PathError;

use super::ObjectName;

#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    #[error("the repository has no object {name}")]
    Missing { name: ObjectName },

    #[error("an object {name} exists already")]
    Exists { name: ObjectName },

    #[error("object {name} ends at byte {length}, byte {wanted_end} was asked for")]
    Truncated { name: ObjectName, length: u64, wanted_end: u64 },

    #[error("object {name} has {length} bytes, at most {length_max} are expected")]
    TooLong { name: ObjectName, length: u64, length_max: u64 },

    #[error("object {name}")]
    Io {
        name: ObjectName,
        #[source]
        source: PathError,
    },

    #[error("the repository's folder")]
    Folder {
        #[source]
        source: PathError,
    },
}
