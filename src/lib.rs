//! amberfs: backups of block volumes that can be looked into.
//!
//! The layers stand here in reading order. Each may name only those above it; `tests/architecture.rs` checks
//! that, and `docs/architecture.md` says what each is for.

pub mod types;

pub mod sysio;

pub mod metrics;

pub mod jobs;

pub mod format;

pub mod objects;

pub mod index;

pub mod store;

pub mod catalog;

pub mod source;

pub mod image;

pub mod contents;

pub mod xfs;

pub mod files;

pub mod repository;

pub mod check;

pub mod scratch;

pub mod operations;

pub mod vfs;

pub mod control;

pub mod fuse;

pub mod daemon;

pub mod cli;
