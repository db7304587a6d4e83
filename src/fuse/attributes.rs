//! The tree's attributes in the kernel's form.

use fuser::{FileAttr, FileType, INodeNo};

use crate::vfs::{Attributes, NodeKind};

pub(super) fn file_attributes(inode: u64, attributes: &Attributes) -> FileAttr {
    let time = attributes.time;
    FileAttr {
        ino: INodeNo(inode),
        size: attributes.size_bytes,
        blocks: attributes.blocks,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(attributes.kind),
        perm: attributes.mode,
        // Of folders of the tree too: 1 is what those say that do not count the folders in them.
        nlink: attributes.links,
        uid: attributes.owner.uid,
        gid: attributes.owner.gid,
        rdev: attributes.device.map_or(0, device_number),
        blksize: attributes.block_bytes,
        flags: 0,
    }
}

pub(super) fn file_type(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::Folder => FileType::Directory,
        NodeKind::File => FileType::RegularFile,
        NodeKind::Link => FileType::Symlink,
        NodeKind::Fifo => FileType::NamedPipe,
        NodeKind::Socket => FileType::Socket,
        NodeKind::CharDevice => FileType::CharDevice,
        NodeKind::BlockDevice => FileType::BlockDevice,
    }
}

/// A device's number as FUSE has it: twelve bits of the major number, twenty of the minor one.
fn device_number((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff & 0xf_ffff) << 12)
}
