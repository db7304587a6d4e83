//! What is known of a file inside a file system.

/// A family of file systems that files can be read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileSystemKind {
    /// ext2, ext3 and ext4.
    Ext,
    Xfs,
    /// FAT12, FAT16 and FAT32.
    Fat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    File,
    Folder,
    Link,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

/// A time as a file system has it, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileTime {
    /// Since 1970; negative before.
    pub seconds: i64,
    /// Below a thousand million.
    pub nanoseconds: u32,
}

/// The number of a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceNumber {
    pub major: u32,
    pub minor: u32,
}

/// What a file system says of a file. A field that its reader cannot tell is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMetadata {
    pub kind: FileKind,
    /// Of the content; of a link, of its target; of a folder, whatever the file system has there.
    pub size_bytes: u64,
    /// Bytes on the device.
    pub allocated_bytes: Option<u64>,
    /// The lower twelve bits, set-uid and set-gid and sticky as they are.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Names that this file has.
    pub links: Option<u32>,
    pub modified: FileTime,
    pub accessed: Option<FileTime>,
    pub changed: Option<FileTime>,
    pub created: Option<FileTime>,
    /// The inode's number.
    pub number: Option<u64>,
    /// Of a device node.
    pub device: Option<DeviceNumber>,
}

/// An entry of a folder. `.` and `..` are never among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderEntry {
    /// One to 255 bytes without NUL and slash.
    pub name: Vec<u8>,
    pub kind: FileKind,
    /// The inode's number.
    pub number: Option<u64>,
    /// Where a listing goes on behind this entry.
    pub next: u64,
}
