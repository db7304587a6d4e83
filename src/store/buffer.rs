//! The memory of decoded chunks, used again and again.
//!
//! Chunks are loaded by one thread and evicted by another all the time. Given back to the allocator, their memory
//! is cut up for small things, and the process grows to several times the cache's bytes.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

/// So many buffers lie idle: about one for each thread that loads.
const IDLE_MAX: usize = 16;

#[derive(Default)]
pub(super) struct BufferPool {
    idle: Mutex<Vec<Vec<u8>>>,
}

impl BufferPool {
    /// Returns so many bytes, of any value.
    pub(super) fn take(self: &Arc<Self>, length: usize) -> PooledBytes {
        let mut bytes = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        bytes.resize(length, 0);
        PooledBytes { bytes, pool: Arc::clone(self) }
    }
}

/// Bytes whose memory goes back to the pool.
pub struct PooledBytes {
    bytes: Vec<u8>,
    pool: Arc<BufferPool>,
}

impl PooledBytes {
    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// What it takes of memory, which may be more than it holds.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.bytes.capacity() as u64
    }
}

impl Deref for PooledBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for PooledBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

impl Drop for PooledBytes {
    fn drop(&mut self) {
        let mut idle = self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_and_little_of_it_lies_idle() {
        let pool = Arc::new(BufferPool::default());
        let first = pool.take(1000);
        let address = first.as_ptr();
        drop(first);
        let again = pool.take(500);
        assert_eq!((again.as_ptr(), again.len()), (address, 500));
        assert!(again.memory_bytes() >= 1000);
        let many: Vec<_> = (0..100).map(|_| pool.take(10)).collect();
        drop((many, again));
        assert_eq!(pool.idle.lock().unwrap().len(), IDLE_MAX);
    }
}
