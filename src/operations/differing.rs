//! What of two buffers differs, at a fine grain.

use crate::types::ByteRange;

/// The grain: a page of a database, a block of a file system.
pub(super) const COMPARED_BLOCK: usize = 4096;

/// Returns the runs of blocks that differ, as ranges of the image.
pub(super) fn differing(block: ByteRange, new: &[u8], old: &[u8]) -> Vec<ByteRange> {
    let mut changes: Vec<ByteRange> = Vec::new();
    let mut start = block.start();
    for (new, old) in new.chunks(COMPARED_BLOCK).zip(old.chunks(COMPARED_BLOCK)) {
        let range = ByteRange::new(start, new.len() as u64);
        start = range.end();
        if new == old {
            continue;
        }
        match changes.last_mut() {
            Some(last) if last.end() == range.start() => {
                *last = ByteRange::between(last.start(), range.end())
            }
            _ => changes.push(range),
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_named() {
        let old = vec![0; 5 * 4096 + 100];
        let mut new = old.clone();
        let block = ByteRange::new(65_536, new.len() as u64);
        assert_eq!(differing(block, &new, &old), []);
        new[4096] = 1;
        new[8192] = 1;
        new[5 * 4096 + 99] = 1;
        let expected = [ByteRange::new(65_536 + 4096, 8192), ByteRange::new(65_536 + 5 * 4096, 100)];
        assert_eq!(differing(block, &new, &old), expected);
    }
}
