//! Paths of files inside a file system: bytes, relative to its root.

use std::fmt;

/// The most bytes of a path, as the kernel has it.
pub const PATH_BYTES_MAX: usize = 4096;
/// The most bytes of a name in a folder.
pub const NAME_BYTES_MAX: usize = 255;

/// Why bytes are no path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FilePathError {
    #[error("the path is longer than {PATH_BYTES_MAX} bytes")]
    TooLong,
    #[error("a name in the path is longer than {NAME_BYTES_MAX} bytes")]
    NameTooLong,
    #[error("the path has a NUL byte in it")]
    Nul,
    #[error("the path has a `..` in it: paths start at the root of the file system and go down only")]
    Parent,
}

/// A path below the root of a file system, without `.`, `..` and empty names. The root itself has no names.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct FilePath(Vec<u8>);

impl FilePath {
    pub fn root() -> Self {
        Self(Vec::new())
    }

    /// Takes names with slashes between them; slashes at the ends, double ones and `.` mean nothing.
    pub fn new(bytes: &[u8]) -> Result<Self, FilePathError> {
        if bytes.len() > PATH_BYTES_MAX {
            return Err(FilePathError::TooLong);
        }
        let mut path = Self::root();
        for name in bytes.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".") {
            path.push(name)?;
        }
        Ok(path)
    }

    /// Returns the path of an entry of this folder.
    pub fn join(&self, name: &[u8]) -> Result<Self, FilePathError> {
        let mut path = self.clone();
        path.push(name)?;
        Ok(path)
    }

    fn push(&mut self, name: &[u8]) -> Result<(), FilePathError> {
        if name.contains(&0) {
            return Err(FilePathError::Nul);
        }
        if name == b".." {
            return Err(FilePathError::Parent);
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(FilePathError::NameTooLong);
        }
        if self.0.len() + 1 + name.len() > PATH_BYTES_MAX {
            return Err(FilePathError::TooLong);
        }
        if !self.0.is_empty() {
            self.0.push(b'/');
        }
        self.0.extend_from_slice(name);
        Ok(())
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the folder that this is in and its name there; none for the root.
    pub fn split_last(&self) -> Option<(FilePath, &[u8])> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => {
                let (folder, name) = self.0.split_at(slash);
                (Self(folder.to_vec()), name.get(1..).unwrap_or_default())
            }
            None => (Self::root(), &self.0),
        })
    }

    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
    }
}

/// With a slash in front, and everything that is not printable ASCII escaped: names in an image are anybody's.
impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Says whether a name may be shown: one that is a path by itself, or no name at all, would lead elsewhere.
pub fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name != b"."
        && name != b".."
        && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_goes_down_from_the_root_only() {
        assert_eq!(FilePath::new(b"/a//b/./c/").unwrap().as_bytes(), b"a/b/c");
        assert!(FilePath::new(b"").unwrap().is_root());
        assert!(FilePath::new(b"/.").unwrap().is_root());
        assert_eq!(FilePath::new(b"a/../b"), Err(FilePathError::Parent));
        assert_eq!(FilePath::new(b"a\0b"), Err(FilePathError::Nul));
        assert_eq!(FilePath::new(&[b'a'; 256]), Err(FilePathError::NameTooLong));
        assert_eq!(FilePath::new(&b"a/".repeat(2049)), Err(FilePathError::TooLong));
        assert_eq!(FilePath::root().join(b"..").unwrap_err(), FilePathError::Parent);
    }

    #[test]
    fn a_path_is_split_and_joined_and_shown() {
        let path = FilePath::new(b"a/b").unwrap().join(b"c\n\xff").unwrap();
        let (folder, name) = path.split_last().unwrap();
        assert_eq!((folder.as_bytes(), name), (&b"a/b"[..], &b"c\n\xff"[..]));
        assert_eq!(path.names().collect::<Vec<_>>(), [&b"a"[..], b"b", b"c\n\xff"]);
        assert_eq!(path.to_string(), r"/a/b/c\n\xff");
        assert!(FilePath::root().split_last().is_none());
    }

    #[test]
    fn names_that_lead_elsewhere_are_not_shown() {
        for name in [&b""[..], b".", b"..", b"a/b", b"a\0", &[b'x'; 256]] {
            assert!(!is_name(name), "{}", name.escape_ascii());
        }
        assert!(is_name(b"...") && is_name(b"\xff\n"));
    }
}
