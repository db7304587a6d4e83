//! The operating system: durable files, locks, clocks, leases, holes. No word of the domain.

pub mod attribute;
pub mod holes;
pub mod lease;
pub mod open_file_lock;
pub mod reflink;
pub mod rename;
