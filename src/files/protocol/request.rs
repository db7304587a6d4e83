//! What the daemon asks a worker for, and what a worker needs for it.

use super::codec::{Decoder, Encoder};
use super::{TRANSFER_BYTES_MAX, frame};
use crate::files::metadata::FileSystemKind;
use crate::files::path::{FilePath, PATH_BYTES_MAX};

const OPEN: u8 = 16;
const METADATA: u8 = 17;
const LIST: u8 = 18;
const READ_LINK: u8 = 19;
const READ: u8 = 20;

/// What the daemon asks a worker for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Forget what was, and read this file system from now on. The device is not read yet.
    Open {
        kind: FileSystemKind,
        size_bytes: u64,
        cache_bytes: u64,
    },
    Metadata {
        path: FilePath,
    },
    /// Entries of a folder from a position on: 0, or what an entry said.
    List {
        path: FilePath,
        from: u64,
    },
    ReadLink {
        path: FilePath,
    },
    /// At most `TRANSFER_BYTES_MAX` bytes.
    Read {
        path: FilePath,
        offset: u64,
        length: usize,
    },
}

impl Request {
    pub fn encode(&self) -> (u8, Vec<u8>) {
        let mut out = Encoder::default();
        let kind = match self {
            Self::Open { kind, size_bytes, cache_bytes } => {
                out.u8(encode_kind(*kind)).u64(*size_bytes).u64(*cache_bytes);
                OPEN
            }
            Self::Metadata { path } => {
                out.bytes(path.as_bytes());
                METADATA
            }
            Self::List { path, from } => {
                out.bytes(path.as_bytes()).u64(*from);
                LIST
            }
            Self::ReadLink { path } => {
                out.bytes(path.as_bytes());
                READ_LINK
            }
            Self::Read { path, offset, length } => {
                let length = u32::try_from(*length).unwrap_or(u32::MAX);
                out.bytes(path.as_bytes()).u64(*offset).u32(length);
                READ
            }
        };
        (kind, out.into_bytes())
    }

    pub fn decode(kind: u8, bytes: &[u8]) -> Option<Self> {
        let mut from = Decoder::new(bytes);
        let request = match kind {
            OPEN => Self::Open {
                kind: decode_kind(from.u8()?)?,
                size_bytes: from.u64()?,
                cache_bytes: from.u64()?,
            },
            METADATA => Self::Metadata { path: path(&mut from)? },
            LIST => Self::List { path: path(&mut from)?, from: from.u64()? },
            READ_LINK => Self::ReadLink { path: path(&mut from)? },
            READ => Self::Read { path: path(&mut from)?, offset: from.u64()?, length: length(&mut from)? },
            _ => return None,
        };
        from.end()?;
        Some(request)
    }
}

/// Bytes of the device that a worker needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    pub offset: u64,
    /// At most `TRANSFER_BYTES_MAX`.
    pub length: usize,
}

impl Need {
    pub fn encode(self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.u64(self.offset).u32(u32::try_from(self.length).unwrap_or(u32::MAX));
        out.into_bytes()
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Decoder::new(bytes);
        let need = Self { offset: from.u64()?, length: length(&mut from)? };
        from.end()?;
        Some(need)
    }
}

fn path(from: &mut Decoder<'_>) -> Option<FilePath> {
    FilePath::new(from.bytes(PATH_BYTES_MAX)?).ok()
}

fn length(from: &mut Decoder<'_>) -> Option<usize> {
    usize::try_from(from.u32()?)
        .ok()
        .filter(|length| *length <= TRANSFER_BYTES_MAX.min(frame::FRAME_BYTES_MAX))
}

fn encode_kind(kind: FileSystemKind) -> u8 {
    match kind {
        FileSystemKind::Ext => 1,
        FileSystemKind::Xfs => 2,
        FileSystemKind::Fat => 3,
    }
}

fn decode_kind(code: u8) -> Option<FileSystemKind> {
    Some(match code {
        1 => FileSystemKind::Ext,
        2 => FileSystemKind::Xfs,
        3 => FileSystemKind::Fat,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_as_they_were_sent_and_others_are_refused() {
        let path = FilePath::new(b"a/\xff").unwrap();
        for request in [
            Request::Open { kind: FileSystemKind::Fat, size_bytes: 1 << 40, cache_bytes: 5 },
            Request::Metadata { path: FilePath::root() },
            Request::List { path: path.clone(), from: u64::MAX },
            Request::ReadLink { path: path.clone() },
            Request::Read { path, offset: 3, length: TRANSFER_BYTES_MAX },
        ] {
            let (kind, bytes) = request.encode();
            assert_eq!(Request::decode(kind, &bytes), Some(request));
            assert_eq!(Request::decode(kind, &[&bytes[..], b"x"].concat()), None, "more than a message");
            assert_eq!(Request::decode(kind, &bytes[..bytes.len() - 1]), None, "less than a message");
            assert_eq!(Request::decode(kind + 100, &bytes), None);
        }
        let need = Need { offset: 9, length: 4096 };
        assert_eq!(Need::decode(&need.encode()), Some(need));
        assert_eq!(Need::decode(&Need { offset: 0, length: TRANSFER_BYTES_MAX + 1 }.encode()), None);
    }
}
