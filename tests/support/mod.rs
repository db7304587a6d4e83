//! What several test targets lean on. Each target uses a part of it.
#![allow(dead_code, reason = "every test target compiles all of this and uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation is a failed test"
)]

pub mod attach;
pub mod bytes;
#[cfg(feature = "rbd")]
pub mod ceph;
pub mod checked;
pub mod daemon;
pub mod damaged_pack;
pub mod engine;
pub mod faultfs;
pub mod file_system;
pub mod fio;
pub mod fsx;
pub mod gated;
pub mod guest;
pub mod hand_made;
pub mod tracking;
pub mod tree;
pub mod vfs_tree;
