//! Bytes that are not what they should be. Damaged and too new are different things.

/// Bytes that cannot be read as the format they should be in. The caller knows the object they are of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("this is not {wanted}: it does not start with its magic")]
    WrongMagic { wanted: &'static str },

    #[error(
        "this {what} is of version {found}, this amberfs reads up to {newest_known}; use a newer amberfs"
    )]
    UnsupportedVersion { what: &'static str, found: u32, newest_known: u32 },

    #[error(
        "this repository needs the features {features:?}, which this amberfs does not have; use a newer amberfs"
    )]
    UnsupportedFeatures { features: Vec<String> },

    #[error("the checksum of this {what} is wrong")]
    Checksum { what: &'static str },

    #[error("this {what} ends too early")]
    TooShort { what: &'static str },

    #[error("this {what} is malformed: {why}")]
    Malformed { what: &'static str, why: String },
}

impl FormatError {
    pub(super) fn malformed(what: &'static str, why: impl Into<String>) -> Self {
        Self::Malformed { what, why: why.into() }
    }
}
