//! Names that users and sources give. Checked when made, so that no layer below meets an empty or broken one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A name that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} cannot be a {kind} name: {reason}")]
pub struct NameError {
    pub kind: &'static str,
    pub name: String,
    pub reason: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(name: String) -> Result<Self, NameError> {
                match $check(&name) {
                    Ok(()) => Ok(Self(name)),
                    Err(reason) => Err(NameError { kind: $kind, name, reason }),
                }
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::try_from(name.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

/// Names that stand in paths and configuration keys: short and plain.
fn plain(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("it is empty");
    }
    if name.len() > 64 {
        return Err("it is longer than 64 bytes");
    }
    if name.starts_with(['.', '-']) {
        return Err("it starts with a dot or a dash");
    }
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')) {
        return Err("only letters, digits, dots, dashes and underscores can stand in it");
    }
    Ok(())
}

/// Names that a source made: any text, as long as it is one.
fn foreign(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("it is empty");
    }
    if name.len() > 4096 {
        return Err("it is longer than 4096 bytes");
    }
    if name.contains('\0') {
        return Err("it holds a NUL byte");
    }
    Ok(())
}

name!(
    /// A source in the configuration.
    SourceName,
    "source",
    plain
);
name!(
    /// A project in the configuration.
    ProjectName,
    "project",
    plain
);
name!(
    /// A volume within its source.
    VolumeName,
    "volume",
    foreign
);
name!(
    /// A snapshot of one volume.
    SnapshotName,
    "snapshot",
    foreign
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_names_are_plain_and_volume_names_are_anything() {
        assert!("rbd-1".parse::<SourceName>().is_ok());
        for bad in ["", "a/b", ".a", "-a", "a b", "\u{fc}"] {
            assert!(bad.parse::<SourceName>().is_err(), "{bad:?}");
        }
        for good in ["-x", ".x", "a b", "\"quoted'", "\u{fc}\u{1f600}"] {
            assert_eq!(good.parse::<VolumeName>().unwrap().as_str(), good);
        }
        assert!("".parse::<VolumeName>().is_err());
        assert!("a\0".parse::<VolumeName>().is_err());
    }
}
