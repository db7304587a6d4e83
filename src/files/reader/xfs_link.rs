//! The targets of XFS links that do not fit their inode.
//!
//! Read here and not by the crate: `rust-fs-xfs` 0.14.2 compares their headers with the UUID that users see, which is
//! another one than that of the headers as soon as somebody changed it, and refuses them.

use fs_xfs::Filesystem;
use fs_xfs::inode::Inode;

use super::bytes::{be32, be64};
use super::xfs::refusal;
use crate::files::protocol::Refusal;

/// The longest target that XFS stores.
const TARGET_BYTES_MAX: u64 = 1024;
/// In front of each extent of version 5, not of each block.
const HEADER_BYTES: usize = 56;
const MAGIC: u32 = 0x5853_4c4d;
const OFFSET_AT: usize = 4;
const BYTES_AT: usize = 8;
const OWNER_AT: usize = 32;

/// Reads the target of a link whose content is in extents, with the log over them: links are logged.
pub fn read_remote(file_system: &Filesystem, inode: &Inode, raw: &[u8]) -> Result<Vec<u8>, Refusal> {
    let superblock = file_system.superblock();
    if inode.size > TARGET_BYTES_MAX {
        return Err(Refusal::damaged("the target of a link is longer than XFS has any"));
    }
    let mut extents = file_system.data_extents(inode, raw).map_err(refusal)?;
    extents.sort_by_key(|extent| extent.startoff);
    let wanted = usize::try_from(inode.size).unwrap_or(0);
    let header_bytes = if superblock.is_v5() { HEADER_BYTES } else { 0 };
    let mut target = Vec::with_capacity(wanted);
    for extent in extents {
        let missing = wanted - target.len();
        if missing == 0 || extent.is_unwritten() {
            break;
        }
        // No more of a long extent than there can be of a target.
        let blocks_bytes = extent.blockcount.saturating_mul(superblock.blocksize.into());
        let length = usize::try_from(blocks_bytes).unwrap_or(usize::MAX).min(header_bytes + missing);
        let mut bytes = vec![0; length];
        let place = superblock.fsblock_offset(extent.startblock);
        file_system.device().read_at(place, &mut bytes).map_err(|error| refusal(error.into()))?;
        target.extend(if superblock.is_v5() { body(&bytes, inode.ino, target.len())? } else { &bytes });
    }
    if target.len() != wanted {
        return Err(Refusal::damaged("the target of a link is shorter than its inode says"));
    }
    Ok(target)
}

/// Returns what stands behind the header, if that is the one of this part of this link.
fn body(extent: &[u8], owner: u64, offset: usize) -> Result<&[u8], Refusal> {
    let is_right = be32(extent, 0) == MAGIC
        && be64(extent, OWNER_AT) == owner
        && usize::try_from(be32(extent, OFFSET_AT)).is_ok_and(|stands| stands == offset);
    let body = extent.get(HEADER_BYTES..).filter(|_| is_right);
    let body = body.ok_or_else(|| Refusal::damaged("the blocks of a link are not those of its target"))?;
    let held = usize::try_from(be32(extent, BYTES_AT)).unwrap_or(usize::MAX);
    Ok(body.get(..held).unwrap_or(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_says_whose_it_is_and_where_its_bytes_belong_and_how_many_they_are() {
        let mut extent = vec![0; HEADER_BYTES];
        extent[..4].copy_from_slice(&MAGIC.to_be_bytes());
        extent[OFFSET_AT + 2..OFFSET_AT + 4].copy_from_slice(&[1, 0]);
        extent[BYTES_AT + 3] = 3;
        extent[OWNER_AT + 7] = 131;
        extent.extend(b"abcdef");
        assert_eq!(body(&extent, 131, 256).unwrap(), b"abc");
        assert!(body(&extent, 132, 256).is_err(), "another link");
        assert!(body(&extent, 131, 0).is_err(), "another part");
        extent[BYTES_AT] = 0xff;
        assert_eq!(body(&extent, 131, 256).unwrap(), b"abcdef", "more than there is");
        extent[0] = 0;
        assert!(body(&extent, 131, 256).is_err(), "no link");
    }
}
