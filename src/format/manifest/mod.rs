//! A manifest: which chunk, or zeros, each byte of an image comes from. One per backup.
//!
//! ```text
//! head    16  magic "AMBRMANI", version u16, zeros
//! leaves   *  pages of at most EXTENTS_PER_LEAF extents, in image order
//! branches *  pages of at most REFERENCES_PER_BRANCH references to leaves, each behind the leaves it names
//! root     *  references to all branches
//! about    *  the backup's record as it was when the manifest was written: enough to bring it back
//! tail   160  lengths, places and checksums of root and about
//! ```
//!
//! Two levels of pages keep the root small (64 bytes for every 64 GiB of chunks of 64 KiB), so that opening a
//! huge image reads little and a lookup reads two pages. Each reference carries the SHA-256 of its page, and the
//! backup's record that of the tail: nothing in a manifest is believed unchecked.

mod page;
mod tree;

pub use page::{EXTENTS_PER_LEAF, Leaf, ManifestExtent, Target, decode_leaf, encode_leaf};
pub use tree::{
    PageReference, REFERENCES_PER_BRANCH, ROOT_LENGTH_MAX, TAIL_LENGTH, Tail, decode_branch,
    decode_references, encode_references,
};

use super::bytes::sha256;

pub const HEAD_LENGTH: u64 = 16;
const HEAD_MAGIC: &[u8; 8] = b"AMBRMANI";
const VERSION: u16 = 1;
const WHAT: &str = "manifest";

/// Returns the first bytes of a manifest.
pub fn encode_head() -> [u8; HEAD_LENGTH as usize] {
    let mut head = [0; HEAD_LENGTH as usize];
    let (magic, rest) = head.split_at_mut(8);
    magic.copy_from_slice(HEAD_MAGIC);
    let (version, _) = rest.split_at_mut(2);
    version.copy_from_slice(&VERSION.to_le_bytes());
    head
}

/// The checksum of a page, a root or a tail.
pub fn checksum(bytes: &[u8]) -> [u8; 32] {
    sha256(bytes)
}
