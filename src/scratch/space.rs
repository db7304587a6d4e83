//! How much all scratch images together may hold.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) struct Space {
    bytes_max: u64,
    used: AtomicU64,
}

impl Space {
    pub(super) fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self { bytes_max, used: AtomicU64::new(0) })
    }

    /// Takes so many bytes; `StorageFull`, and nothing taken, when there are not so many left.
    pub(super) fn take(&self, bytes: u64) -> io::Result<()> {
        let taken = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
            used.checked_add(bytes).filter(|used| *used <= self.bytes_max)
        });
        match taken {
            Ok(_) => Ok(()),
            Err(used) => {
                let why = format!(
                    "the scratch images hold {used} of {} bytes (limits.scratch); remove one, or raise the limit",
                    self.bytes_max
                );
                Err(io::Error::new(io::ErrorKind::StorageFull, why))
            }
        }
    }

    /// Takes what is there already, were it more than the limit.
    pub(super) fn take_anyway(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::AcqRel);
    }

    pub(super) fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }
}
