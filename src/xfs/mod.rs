//! Changes the UUID of an XFS, clean or with a log to be replayed, on anything that can be read and written.
//!
//! `plan` reads and decides, `Plan::apply` writes, `check` reads back; `change` is the three of them. Nothing is written before
//! everything was found to be known: what a plan refuses stays as it was. The invariant on the disk is in `docs/xfs.md`:
//! between the first write and the last one the primary superblock says "in progress", so that no kernel mounts it, and carries
//! the mark (`stamp.rs`) by which a later run knows what to finish.
//!
//! Reads nothing of files and folders: they are stamped with `sb_meta_uuid`, which stays.

mod bytes;
mod change;
mod check;
mod error;
mod log;
mod plan;
mod stamp;
mod superblock;

pub use change::change;
pub use check::check;
pub use error::{Refused, XfsError};
pub use plan::{Plan, plan};
pub use superblock::{Identity, identify};
