//! Which blocks of the device a file of ext2, ext3 or ext4 is made of: a tree of extents, or pointers to blocks.

use std::io;

use super::bytes::{le16, le32};
use super::content::Run;
use crate::sysio::device::ReadAt;

const EXTENT_MAGIC: u16 = 0xf30a;
const EXTENT_DEPTH_MAX: u16 = 5;
const ENTRY_BYTES: usize = 12;
/// An extent that is longer than this is one that was never written, and that much shorter.
const WRITTEN_BLOCKS_MAX: u16 = 1 << 15;
/// Blocks that an inode names itself.
const DIRECT: u64 = 12;

/// What an inode says about its blocks.
pub struct BlockMap {
    pub block_bytes: u64,
    /// `i_block` of the inode.
    pub root: Vec<u8>,
    pub has_extents: bool,
}

impl BlockMap {
    /// Finds what is at a block of the file, up to where that ends or something else may begin.
    pub fn run_at(&self, device: &dyn ReadAt, block: u64) -> io::Result<Run> {
        if self.has_extents { self.by_extents(device, block) } else { self.by_pointers(device, block) }
    }

    fn read_block(&self, device: &dyn ReadAt, block: u64) -> io::Result<Vec<u8>> {
        let offset = block.checked_mul(self.block_bytes).ok_or(io::ErrorKind::InvalidData)?;
        let mut bytes = vec![0; usize::try_from(self.block_bytes).unwrap_or(0)];
        device.read_exact_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    fn by_extents(&self, device: &dyn ReadAt, block: u64) -> io::Result<Run> {
        let mut node = self.root.clone();
        let mut next_start = u64::MAX;
        for _ in 0..=EXTENT_DEPTH_MAX {
            if le16(&node, 0) != EXTENT_MAGIC {
                return Err(io::Error::other("a node of an extent tree is none"));
            }
            let (count, depth) = (usize::from(le16(&node, 2)), le16(&node, 6));
            let mut found = None;
            for entry in node.get(ENTRY_BYTES..).unwrap_or_default().chunks_exact(ENTRY_BYTES).take(count) {
                let start = u64::from(le32(entry, 0));
                if start > block {
                    next_start = next_start.min(start);
                    break;
                }
                found = Some((start, entry));
            }
            let hole = Run { start: None, blocks: next_start - block };
            let Some((start, entry)) = found else { return Ok(hole) };
            if depth == 0 {
                return Ok(run_of(start, entry, block).unwrap_or(hole));
            }
            let child = u64::from(le16(entry, 8)) << 32 | u64::from(le32(entry, 4));
            node = self.read_block(device, child)?;
        }
        Err(io::Error::other("an extent tree is too deep"))
    }

    fn by_pointers(&self, device: &dyn ReadAt, block: u64) -> io::Result<Run> {
        if block < DIRECT {
            return Ok(run_of_pointers(&self.root, block, DIRECT));
        }
        let fanout = self.block_bytes / 4;
        let (mut rest, mut covered) = (block - DIRECT, fanout);
        for level in 0..3 {
            if rest >= covered {
                rest -= covered;
                covered = covered.saturating_mul(fanout);
                continue;
            }
            let mut place = le32(&self.root, index(DIRECT + level));
            loop {
                if place == 0 {
                    return Ok(Run { start: None, blocks: covered - rest });
                }
                let pointers = self.read_block(device, u64::from(place))?;
                covered /= fanout;
                if covered == 1 {
                    return Ok(run_of_pointers(&pointers, rest, fanout));
                }
                place = le32(&pointers, index(rest / covered));
                rest %= covered;
            }
        }
        Err(io::Error::other("a file is longer than its pointers reach"))
    }
}

/// The part of an extent from a block on, if it reaches that far.
fn run_of(start: u64, entry: &[u8], block: u64) -> Option<Run> {
    let length = le16(entry, 4);
    let is_written = length <= WRITTEN_BLOCKS_MAX;
    let length = u64::from(if is_written { length } else { length - WRITTEN_BLOCKS_MAX });
    let within = block - start;
    let place = u64::from(le16(entry, 6)) << 32 | u64::from(le32(entry, 8));
    (within < length).then(|| Run { start: is_written.then_some(place + within), blocks: length - within })
}

/// Pointers from one on that follow each other, or are all zero.
fn run_of_pointers(pointers: &[u8], first: u64, end: u64) -> Run {
    let place = u64::from(le32(pointers, index(first)));
    let step = u64::from(place != 0);
    let same = (first + 1..end)
        .take_while(|number| {
            let expected = place + step * (number - first);
            u64::from(le32(pointers, index(*number))) == expected
        })
        .count();
    Run { start: (place != 0).then_some(place), blocks: 1 + same as u64 }
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX).saturating_mul(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Blocks(Vec<Vec<u8>>);

    impl ReadAt for Blocks {
        fn size_bytes(&self) -> u64 {
            self.0.len() as u64 * 1024
        }

        fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
            into.copy_from_slice(&self.0[usize::try_from(offset / 1024).unwrap()]);
            Ok(())
        }
    }

    fn node(depth: u16, entries: &[[u8; 12]]) -> Vec<u8> {
        let count = u16::try_from(entries.len()).unwrap();
        let mut bytes: Vec<u8> =
            [EXTENT_MAGIC, count, 4, depth, 0, 0].iter().flat_map(|n| n.to_le_bytes()).collect();
        entries.iter().for_each(|entry| bytes.extend(entry));
        bytes
    }

    fn extent(block: u32, length: u16, start: u32) -> [u8; 12] {
        let mut entry = [0; 12];
        entry[..4].copy_from_slice(&block.to_le_bytes());
        entry[4..6].copy_from_slice(&length.to_le_bytes());
        entry[8..].copy_from_slice(&start.to_le_bytes());
        entry
    }

    #[test]
    fn extents_end_where_they_do_and_unwritten_ones_are_holes() {
        let extents =
            [extent(2, 3, 100), extent(5, WRITTEN_BLOCKS_MAX + 2, 200), extent(9, WRITTEN_BLOCKS_MAX, 300)];
        let map = BlockMap { block_bytes: 1024, root: node(0, &extents), has_extents: true };
        let at = |block| map.run_at(&Blocks(Vec::new()), block).unwrap();
        assert_eq!(at(0), Run { start: None, blocks: 2 });
        assert_eq!(at(3), Run { start: Some(101), blocks: 2 });
        assert_eq!(at(6), Run { start: None, blocks: 1 }, "allocated and never written");
        assert_eq!(at(7), Run { start: None, blocks: 2 });
        assert_eq!(at(9), Run { start: Some(300), blocks: 1 << 15 });
    }

    #[test]
    fn a_hole_is_as_large_as_the_pointer_that_is_missing() {
        let pointers = |numbers: &[u32]| -> Vec<u8> {
            let mut bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            bytes.resize(1024, 0);
            bytes
        };
        let mut root = vec![0; 60];
        root[..8].copy_from_slice(&pointers(&[50, 51])[..8]);
        root[13 * 4] = 1;
        let device = Blocks(vec![Vec::new(), pointers(&[0, 2]), pointers(&[70, 71, 90])]);
        let map = BlockMap { block_bytes: 1024, root, has_extents: false };
        let at = |block| map.run_at(&device, block).unwrap();
        assert_eq!(at(0), Run { start: Some(50), blocks: 2 });
        assert_eq!(at(5), Run { start: None, blocks: 7 });
        assert_eq!(at(12), Run { start: None, blocks: 256 }, "no block of pointers");
        assert_eq!(at(12 + 256), Run { start: None, blocks: 256 }, "none below the double one");
        assert_eq!(at(12 + 512), Run { start: Some(70), blocks: 2 });
        assert_eq!(at(12 + 514), Run { start: Some(90), blocks: 1 });
        assert_eq!(at(12 + 515), Run { start: None, blocks: 253 });
        assert!(map.run_at(&device, u64::MAX).is_err());
    }

    #[test]
    fn a_tree_of_extents_that_leads_into_itself_ends() {
        let mut index = extent(0, 0, 0);
        index[4] = 0;
        let root = node(1, &[index]);
        let mut looped = root.clone();
        looped.resize(1024, 0);
        let map = BlockMap { block_bytes: 1024, root, has_extents: true };
        assert!(map.run_at(&Blocks(vec![looped]), 7).is_err());
    }
}
