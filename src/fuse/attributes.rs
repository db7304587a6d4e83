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
        // Of folders too: 1 is what those say that do not count the folders in them.
        nlink: 1,
        uid: attributes.owner.uid,
        gid: attributes.owner.gid,
        rdev: 0,
        blksize: attributes.block_bytes,
        flags: 0,
    }
}

pub(super) fn file_type(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::Folder => FileType::Directory,
        NodeKind::File => FileType::RegularFile,
        NodeKind::Link => FileType::Symlink,
    }
}
