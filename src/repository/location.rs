//! Where a repository is: `dir:/var/lib/amberfs`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::RepositoryError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    Directory(PathBuf),
}

impl FromStr for Location {
    type Err = RepositoryError;

    fn from_str(url: &str) -> Result<Self, RepositoryError> {
        match url.strip_prefix("dir:") {
            Some(path) if path.starts_with('/') => Ok(Self::Directory(PathBuf::from(path))),
            _ => Err(RepositoryError::UnknownLocation { url: url.to_owned() }),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Directory(path) = self;
        write!(f, "dir:{}", path.display())
    }
}
