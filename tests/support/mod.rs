//! What integration tests share. Each test binary uses a part of it.

#![allow(dead_code, reason = "every test binary uses another part")]

#[cfg(feature = "rbd")]
pub mod ceph;
