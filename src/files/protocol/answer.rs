//! What a worker answers. The daemon checks all of it: a worker that went wrong may say anything.

use super::TRANSFER_BYTES_MAX;
use super::codec::{Decoder, Encoder};
use crate::files::metadata::{DeviceNumber, FileKind, FileMetadata, FileTime, FolderEntry};
use crate::files::path::{NAME_BYTES_MAX, PATH_BYTES_MAX, is_name};

const OPENED: u8 = 48;
const REFUSED: u8 = 49;
const METADATA: u8 = 50;
const PAGE: u8 = 51;
const TARGET: u8 = 52;
const DATA: u8 = 53;

/// The most bytes of one page of a folder, and of the reason of a refusal.
const PAGE_BYTES_MAX: usize = 64 * 1024;
const REASON_BYTES_MAX: usize = 400;
/// Longer than every entry: a name and some numbers.
const ENTRY_BYTES_MAX: usize = NAME_BYTES_MAX + 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    NotFound,
    NotAFolder,
    IsAFolder,
    NotAFile,
    NotALink,
    Damaged,
    Unsupported,
    /// The device failed where it was needed; a failed read ahead is no reason.
    DeviceFailed,
}

/// Why a worker has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub kind: RefusalKind,
    /// For `Damaged` and `Unsupported`; printable.
    pub why: String,
}

impl Refusal {
    pub fn damaged(why: impl std::fmt::Display) -> Self {
        Self { kind: RefusalKind::Damaged, why: why.to_string() }
    }

    pub fn unsupported(why: impl std::fmt::Display) -> Self {
        Self { kind: RefusalKind::Unsupported, why: why.to_string() }
    }
}

impl From<RefusalKind> for Refusal {
    fn from(kind: RefusalKind) -> Self {
        Self { kind, why: String::new() }
    }
}

/// Some entries of a folder, in the order of the file system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    pub entries: Vec<FolderEntry>,
    /// Where the next page begins; none when there is none.
    pub next: Option<u64>,
    bytes: usize,
}

impl Page {
    /// Says whether there is room for another entry.
    pub fn has_room(&self) -> bool {
        self.bytes + 2 * ENTRY_BYTES_MAX <= PAGE_BYTES_MAX
    }

    /// Adds an entry, unless its name would lead elsewhere: that is left out.
    pub fn add(&mut self, entry: FolderEntry) {
        if is_name(&entry.name) {
            self.bytes += ENTRY_BYTES_MAX;
            self.entries.push(entry);
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Opened,
    Refused(Refusal),
    Metadata(FileMetadata),
    Page(Page),
    Target(Vec<u8>),
    Data(Vec<u8>),
}

impl Answer {
    pub fn encode(self) -> (u8, Vec<u8>) {
        let mut out = Encoder::default();
        match self {
            Self::Opened => (OPENED, Vec::new()),
            Self::Target(target) => (TARGET, target),
            Self::Data(bytes) => (DATA, bytes),
            Self::Refused(refusal) => {
                let why: String = refusal.why.chars().take(REASON_BYTES_MAX).collect();
                out.u8(encode_refusal(refusal.kind)).bytes(why.escape_default().to_string().as_bytes());
                (REFUSED, out.into_bytes())
            }
            Self::Metadata(metadata) => {
                encode_metadata(&mut out, &metadata);
                (METADATA, out.into_bytes())
            }
            Self::Page(page) => {
                out.option(page.next, |out, next| {
                    out.u64(next);
                });
                for entry in page.entries {
                    out.bytes(&entry.name).u8(encode_kind(entry.kind)).u64(entry.next);
                    out.option(entry.number, |out, number| {
                        out.u64(number);
                    });
                }
                (PAGE, out.into_bytes())
            }
        }
    }

    pub fn decode(kind: u8, bytes: &[u8]) -> Option<Self> {
        let mut from = Decoder::new(bytes);
        let answer = match kind {
            OPENED => Self::Opened,
            TARGET => return (bytes.len() <= PATH_BYTES_MAX).then(|| Self::Target(bytes.to_vec())),
            DATA => return (bytes.len() <= TRANSFER_BYTES_MAX).then(|| Self::Data(bytes.to_vec())),
            REFUSED => Self::Refused(decode_refusal(&mut from)?),
            METADATA => Self::Metadata(decode_metadata(&mut from)?),
            PAGE => Self::Page(decode_page(&mut from)?),
            _ => return None,
        };
        from.end()?;
        Some(answer)
    }
}

fn decode_page(from: &mut Decoder<'_>) -> Option<Page> {
    let next = from.option(Decoder::u64)?;
    let mut page = Page { next, ..Page::default() };
    while from.end().is_none() {
        let name = from.bytes(NAME_BYTES_MAX).filter(|name| is_name(name))?.to_vec();
        let kind = decode_kind(from.u8()?)?;
        page.entries.push(FolderEntry { name, kind, next: from.u64()?, number: from.option(Decoder::u64)? });
    }
    Some(page)
}

fn encode_metadata(out: &mut Encoder, metadata: &FileMetadata) {
    let encode_u64 = |out: &mut Encoder, value: u64| {
        out.u64(value);
    };
    out.u8(encode_kind(metadata.kind)).u64(metadata.size_bytes);
    out.option(metadata.allocated_bytes, encode_u64);
    out.u16(metadata.mode).u32(metadata.uid).u32(metadata.gid);
    out.option(metadata.links, |out, links| {
        out.u32(links);
    });
    encode_time(out, metadata.modified);
    for time in [metadata.accessed, metadata.changed, metadata.created] {
        out.option(time, encode_time);
    }
    out.option(metadata.number, encode_u64);
    out.option(metadata.device, |out, device| {
        out.u32(device.major).u32(device.minor);
    });
}

fn decode_metadata(from: &mut Decoder<'_>) -> Option<FileMetadata> {
    Some(FileMetadata {
        kind: decode_kind(from.u8()?)?,
        size_bytes: from.u64()?,
        allocated_bytes: from.option(Decoder::u64)?,
        mode: from.u16().filter(|mode| *mode <= 0o7777)?,
        uid: from.u32()?,
        gid: from.u32()?,
        links: from.option(Decoder::u32)?,
        modified: decode_time(from)?,
        accessed: from.option(decode_time)?,
        changed: from.option(decode_time)?,
        created: from.option(decode_time)?,
        number: from.option(Decoder::u64)?,
        device: from.option(|from| Some(DeviceNumber { major: from.u32()?, minor: from.u32()? }))?,
    })
}

fn encode_time(out: &mut Encoder, time: FileTime) {
    out.i64(time.seconds).u32(time.nanoseconds);
}

fn decode_time(from: &mut Decoder<'_>) -> Option<FileTime> {
    let (seconds, nanoseconds) = (from.i64()?, from.u32()?);
    Some(FileTime { seconds, nanoseconds: nanoseconds.min(999_999_999) })
}

fn decode_refusal(from: &mut Decoder<'_>) -> Option<Refusal> {
    let kind = match from.u8()? {
        1 => RefusalKind::NotFound,
        2 => RefusalKind::NotAFolder,
        3 => RefusalKind::IsAFolder,
        4 => RefusalKind::NotAFile,
        5 => RefusalKind::NotALink,
        6 => RefusalKind::Damaged,
        7 => RefusalKind::Unsupported,
        8 => RefusalKind::DeviceFailed,
        _ => return None,
    };
    let why = String::from_utf8_lossy(from.bytes(usize::from(u16::MAX))?);
    // Once more, since the worker's own escaping proves nothing.
    let why = why.chars().filter(|c| !c.is_control()).take(2 * REASON_BYTES_MAX).collect();
    Some(Refusal { kind, why })
}

fn encode_refusal(kind: RefusalKind) -> u8 {
    match kind {
        RefusalKind::NotFound => 1,
        RefusalKind::NotAFolder => 2,
        RefusalKind::IsAFolder => 3,
        RefusalKind::NotAFile => 4,
        RefusalKind::NotALink => 5,
        RefusalKind::Damaged => 6,
        RefusalKind::Unsupported => 7,
        RefusalKind::DeviceFailed => 8,
    }
}

fn encode_kind(kind: FileKind) -> u8 {
    match kind {
        FileKind::File => 1,
        FileKind::Folder => 2,
        FileKind::Link => 3,
        FileKind::Fifo => 4,
        FileKind::Socket => 5,
        FileKind::CharDevice => 6,
        FileKind::BlockDevice => 7,
    }
}

fn decode_kind(code: u8) -> Option<FileKind> {
    Some(match code {
        1 => FileKind::File,
        2 => FileKind::Folder,
        3 => FileKind::Link,
        4 => FileKind::Fifo,
        5 => FileKind::Socket,
        6 => FileKind::CharDevice,
        7 => FileKind::BlockDevice,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> FileMetadata {
        let time = FileTime { seconds: -5, nanoseconds: 999_999_999 };
        FileMetadata {
            kind: FileKind::CharDevice,
            size_bytes: 1 << 60,
            allocated_bytes: None,
            mode: 0o7777,
            uid: u32::MAX,
            gid: 2,
            links: Some(3),
            modified: time,
            accessed: Some(time),
            changed: None,
            created: Some(time),
            number: Some(u64::MAX),
            device: Some(DeviceNumber { major: 1, minor: 2 }),
        }
    }

    #[test]
    fn answers_come_as_they_were_sent_and_others_are_refused() {
        let mut page = Page { next: Some(9), ..Page::default() };
        let entry =
            |name: &[u8]| FolderEntry { name: name.to_vec(), kind: FileKind::Link, number: Some(1), next: 9 };
        for name in [&b"a"[..], b"..", b"a/b", b"\xff", b""] {
            page.add(entry(name));
        }
        assert_eq!(page.entries.len(), 2, "names that lead elsewhere are left out");
        page.bytes = 0;
        for answer in [
            Answer::Opened,
            Answer::Refused(Refusal::damaged("a tree that is none")),
            Answer::Metadata(metadata()),
            Answer::Page(page),
            Answer::Target(b"../x".to_vec()),
            Answer::Data(vec![7; 70_000]),
        ] {
            let (kind, bytes) = answer.clone().encode();
            assert_eq!(Answer::decode(kind, &bytes), Some(answer));
        }
        let (kind, bytes) = Answer::Metadata(metadata()).encode();
        assert_eq!(Answer::decode(kind, &bytes[1..]), None);
        assert_eq!(Answer::decode(TARGET, &[b'a'; PATH_BYTES_MAX + 1]), None);
    }

    #[test]
    fn a_worker_cannot_name_a_path_or_write_to_a_terminal() {
        let page = Page {
            entries: vec![FolderEntry { name: b"a/b".to_vec(), kind: FileKind::File, number: None, next: 1 }],
            ..Page::default()
        };
        let (kind, bytes) = Answer::Page(page).encode();
        assert_eq!(Answer::decode(kind, &bytes), None);
        let mut out = Encoder::default();
        out.u8(6).bytes(b"\x1b[2Jgone\n");
        let Some(Answer::Refused(refusal)) = Answer::decode(REFUSED, &out.into_bytes()) else { panic!() };
        assert_eq!(refusal.why, "[2Jgone");
    }

    #[test]
    fn a_full_page_fits_a_frame() {
        let mut page = Page { next: Some(1), ..Page::default() };
        while page.has_room() {
            page.add(FolderEntry {
                name: vec![b'x'; NAME_BYTES_MAX],
                kind: FileKind::File,
                number: Some(1),
                next: 1,
            });
        }
        assert!(page.entries.len() > 100);
        assert!(Answer::Page(page).encode().1.len() <= PAGE_BYTES_MAX);
    }
}
