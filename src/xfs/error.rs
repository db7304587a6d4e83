//! Why a UUID is not changed. Refused, unlike the rest, always means that not a byte was written.

use std::io;

use uuid::Uuid;

#[derive(Debug, thiserror::Error)]
pub enum XfsError {
    /// What it is instead (LUKS, LVM, another file system) is the caller's to find out.
    #[error("there is no XFS here: {why}")]
    NotXfs { why: &'static str },

    /// Nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refused),

    /// What was read back is not what it should be.
    #[error("the XFS does not check: {what}; run xfs-uuid again, and xfs_repair -n if that does not help")]
    Unsound { what: String },

    #[error("cannot {action} {length} bytes at offset {offset} of the device")]
    Io {
        action: &'static str,
        offset: u64,
        length: usize,
        #[source]
        source: io::Error,
    },
}

impl XfsError {
    /// Is it a "no" with a reason, with nothing changed, rather than a failure?
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::NotXfs { .. } | Self::Refused(_))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the nil UUID cannot be an XFS's: name another one")]
    NilUuid,

    #[error("the superblock is of version {found}, and only 4 and 5 are known")]
    UnsupportedVersion { found: u16 },

    #[error("the superblock at the start is damaged ({why}): run xfs_repair first")]
    Damaged { why: String },

    #[error(
        "the file system is {size_bytes} bytes long and its device only {device_bytes}: \
         it is cut off, find the whole of it"
    )]
    BeyondDevice { size_bytes: u64, device_bytes: u64 },

    #[error(
        "the file system was left in progress by another tool (mkfs.xfs, xfs_copy): \
         let that tool end, or run xfs_repair"
    )]
    InProgress,

    #[error("the file system is marked as needing repair: run xfs_repair first")]
    NeedsRepair,

    #[error("the log is on another device: mount the file system with both and use xfs_admin there")]
    ExternalLog,

    #[error("the file system has a realtime section, whose own UUIDs are not known here: use xfs_admin")]
    Realtime,

    #[error(
        "the superblock names {set} features {bits:#x}, which are not known here: use xfs_admin of a newer xfsprogs"
    )]
    UnknownFeatures { set: &'static str, bits: u32 },

    #[error("the superblock of allocation group {group} is damaged ({why}): run xfs_repair first")]
    GroupDamaged { group: u32, why: &'static str },

    #[error(
        "the superblock of allocation group {group} has the UUID {found}, and the first one {expected}: \
         run xfs_repair first"
    )]
    GroupUuid { group: u32, found: Uuid, expected: Uuid },

    #[error(
        "the log is torn at its block {block}, in the part that a mount would replay: \
         mount it (which may refuse too) or run xfs_repair -L, which loses what is in the log"
    )]
    TornLog { block: u64 },

    #[error(
        "the log holds a record of the file system {found} at its block {block}, in the part that a mount would replay: \
         run xfs_repair first"
    )]
    ForeignLog { found: Uuid, block: u64 },

    #[error(
        "the log was written in the byte order of another machine (format {format}): mount and unmount it there"
    )]
    LogByteOrder { format: u32 },

    #[error(
        "a superblock logged at block {block} of the log has an unknown UUID: mount and unmount the file system first"
    )]
    LoggedUuid { block: u64 },

    #[error(
        "a superblock logged at block {block} of the log names {groups} allocation groups, and the device has room for {room}: \
         find the whole of the device, or run xfs_repair first"
    )]
    LoggedGroups { block: u64, groups: u32, room: u32 },

    #[error("the log is too tangled ({what}): mount and unmount the file system first")]
    LogTangled { what: &'static str },

    #[error("the device has changed since the change of its UUID was planned: unmount it, and try again")]
    Changed,
}
