//! What `amberfs mount` and `amberfs repo` are asked for: values that are parsed, and not yet looked up.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::types::ByteSize;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    pub config: Option<PathBuf>,
    /// Directory of the repository; goes before the configuration's.
    pub repo: Option<PathBuf>,
    /// Directory of images, served as the source `local`.
    pub volumes: Option<PathBuf>,
    pub mountpoint: PathBuf,
    /// Detach when the mount is ready.
    pub daemon: bool,
    pub allow_other: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoInitOptions {
    pub config: Option<PathBuf>,
    pub repo: Option<PathBuf>,
    pub chunk_size: Option<ByteSize>,
    pub compression: Option<Compression>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoInfoOptions {
    pub config: Option<PathBuf>,
    pub repo: Option<PathBuf>,
}

/// How new chunks are compressed: `none` or `zstd:LEVEL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Zstd { level: i32 },
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Zstd { level } => write!(f, "zstd:{level}"),
        }
    }
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::None);
        }
        let level = text.strip_prefix("zstd:").and_then(|level| level.parse().ok());
        match level {
            // zstd's own range without the levels that cost speed only (negative) or gigabytes (above 19).
            Some(level @ 1..=19) => Ok(Self::Zstd { level }),
            _ => Err(format!("{text:?} is no compression: write none, or zstd:1 to zstd:19")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compression_is_none_or_a_level_of_zstd() {
        for text in ["none", "zstd:1", "zstd:3", "zstd:19"] {
            assert_eq!(text.parse::<Compression>().unwrap().to_string(), text);
        }
        for bad in ["", "zstd", "zstd:", "zstd:0", "zstd:20", "zstd:-1", "lz4"] {
            assert!(bad.parse::<Compression>().is_err(), "{bad}");
        }
    }
}
