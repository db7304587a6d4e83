//! The life cycle of backups through the mount, on real files and on a real Ceph cluster, organised by the points of
//! `docs/semantics.md`, "The life cycle". What stands above a test here is the paragraph there that it proves;
//! `tests/architecture.rs` checks that the words are the same.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a failed expectation is a failed test, and volumes are plain files"
)]

#[path = "../support/mod.rs"]
mod support;

mod deletes;
mod in_use;
mod incrementals;
mod projects;
mod quotas;
mod records;
mod recovery;
#[cfg(feature = "rbd")]
mod snapshots;
mod states;
mod world;
