//! The operating system: durable files, locks, leases, holes, clocks, processes, groups. No word of the domain.

pub mod allocator;
pub mod atomic;
pub mod attribute;
pub mod clock;
pub mod descriptors;
pub mod device;
mod durable_sync_file_range;
mod error;
pub mod exclusive;
pub mod group;
pub mod holes;
pub mod lease;
pub mod lock;
pub mod open_file_lock;
pub mod patched;
pub mod process;
pub mod reflink;
pub mod rename;
pub mod service_manager;
pub mod space;

pub use error::PathError;
