//! The inodes that the kernel knows: a node is kept from its first lookup until the kernel forgets it, so memory
//! follows the kernel's cache and not the number of backups.
//!
//! A number is derived from its node. A listing can so name the inode of an entry that nobody looked up yet, and a
//! node that was forgotten has its old number when it comes back.

use std::collections::HashMap;
use std::collections::hash_map::{DefaultHasher, Entry};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::VfsError;
use super::node::Node;

pub const ROOT_INODE: u64 = 1;

pub struct InodeTable {
    known: Mutex<HashMap<u64, Known>>,
}

struct Known {
    node: Arc<Node>,
    lookups: u64,
}

impl InodeTable {
    pub fn new() -> Self {
        let root = Known { node: Arc::new(Node::Root), lookups: 1 };
        Self { known: Mutex::new(HashMap::from([(ROOT_INODE, root)])) }
    }

    pub fn node(&self, inode: u64) -> Result<Arc<Node>, VfsError> {
        let node = self.lock().get(&inode).map(|known| Arc::clone(&known.node));
        node.ok_or(VfsError::UnknownInode { inode })
    }

    /// Returns the number of a node, which the kernel is not told of.
    pub fn number(&self, node: &Node) -> u64 {
        find(&self.lock(), node)
    }

    /// Returns the number of a node for a reply that makes the kernel know it once more.
    pub fn remember(&self, node: Node) -> u64 {
        let mut known = self.lock();
        let inode = find(&known, &node);
        known.entry(inode).or_insert_with(|| Known { node: Arc::new(node), lookups: 0 }).lookups += 1;
        inode
    }

    /// Takes back that many lookups.
    pub fn forget(&self, inode: u64, lookups: u64) {
        if inode == ROOT_INODE {
            return;
        }
        if let Entry::Occupied(mut known) = self.lock().entry(inode) {
            let left = known.get().lookups.saturating_sub(lookups);
            known.get_mut().lookups = left;
            if left == 0 {
                known.remove();
            }
        }
    }

    pub fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the number a node has or would get.
fn find(known: &HashMap<u64, Known>, node: &Node) -> u64 {
    if *node == Node::Root {
        return ROOT_INODE;
    }
    let mut hasher = DefaultHasher::new();
    node.hash(&mut hasher);
    // 63 bits, as programs with signed numbers can take; 0 and the root's are left out.
    let mut inode = (hasher.finish() >> 1).max(ROOT_INODE + 1);
    // With a million nodes known, two share a number once in some ten million times: the next one is taken then.
    while known.get(&inode).is_some_and(|other| *other.node != *node) {
        inode += 1;
    }
    inode
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::BackupId;

    #[test]
    fn a_node_is_known_until_every_lookup_is_forgotten() {
        let inodes = InodeTable::new();
        let node = Node::Image(BackupId::random());
        let inode = inodes.number(&node);
        assert!(inodes.node(inode).is_err(), "to ask for the number is no lookup");
        assert_eq!([inodes.remember(node.clone()), inodes.remember(node.clone())], [inode, inode]);
        inodes.forget(inode, 1);
        assert_eq!(*inodes.node(inode).unwrap(), node);
        inodes.forget(inode, 5);
        assert!(inodes.node(inode).is_err());
        assert_eq!(inodes.remember(node), inode, "it comes back under its number");
    }

    #[test]
    fn the_root_is_never_forgotten() {
        let inodes = InodeTable::new();
        inodes.forget(ROOT_INODE, u64::MAX);
        assert_eq!(*inodes.node(ROOT_INODE).unwrap(), Node::Root);
        assert_eq!(inodes.remember(Node::Root), ROOT_INODE);
    }
}
