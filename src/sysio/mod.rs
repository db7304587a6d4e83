//! The operating system: durable files, locks, clocks. No word of the domain.

pub mod atomic;
pub mod clock;
mod durable_sync_file_range;
mod error;
pub mod lock;

pub use error::PathError;
