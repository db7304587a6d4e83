//! A thin, safe binding over librbd: the only unsafe code of the project.
//!
//! The invariant: an [`Image`] keeps its [`Pool`], which is the connection, alive; and memory that librbd was given
//! belongs to librbd until it calls back, however long its caller waits.

#![expect(unsafe_code, reason = "librbd is a C library; everything unsafe about it ends in this folder")]

mod aio;
mod ffi;
mod holders;
mod image;
mod pool;

use std::ffi::{CString, c_int};

pub use aio::{Finished, Queue, Request};
pub use image::{Diff, DiffExtent, Image};
pub use pool::{ConnectFailure, CreateOptions, Pool};

pub const FEATURE_FAST_DIFF: u64 = 1 << 4;
pub const FEATURE_EXCLUSIVE_LOCK: u64 = 1 << 2;

/// A call into librbd that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    pub call: &'static str,
    /// Positive, as in `errno`.
    pub errno: i32,
}

/// Lists longer than this are taken for a broken answer: a pool of ten million images, or an image with as many
/// snapshots, is beyond what RBD can hold.
const LIST_LENGTH_MAX: usize = 10_000_000;

/// How often a list that grows while it is asked for is asked for again.
const LIST_TRIES: usize = 10;

fn check(call: &'static str, code: c_int) -> Result<c_int, Failure> {
    if code < 0 { Err(Failure { call, errno: code.saturating_neg() }) } else { Ok(code) }
}

fn c_string(call: &'static str, text: &str) -> Result<CString, Failure> {
    CString::new(text).map_err(|_| Failure { call, errno: libc::EINVAL })
}
