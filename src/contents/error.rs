//! What can go wrong with a look inside. What cannot be read and what is nonsense are different things.

use std::io;

#[derive(Debug, thiserror::Error)]
pub enum ContentsError {
    #[error("the device cannot be read: {0}")]
    Io(#[from] io::Error),

    #[error("the {what} is malformed: {why}")]
    Malformed { what: &'static str, why: String },
}

impl ContentsError {
    pub(super) fn table(why: impl Into<String>) -> Self {
        Self::Malformed { what: "partition table", why: why.into() }
    }

    pub(super) fn lvm(why: impl Into<String>) -> Self {
        Self::Malformed { what: "LVM metadata", why: why.into() }
    }
}
