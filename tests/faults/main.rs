//! Every durable step of every operation, cut: by an error, a full disk, a torn write, a sync that fails, a kill, and
//! power cuts that leave what was synced, or more, or some of it.
//!
//! A case runs one operation on a file system that counts its steps (`support/faultfs`), lets one fault happen at one of
//! them, starts again from what survived, and looks at everything that a user was told or could see. `cases.rs` says
//! which cases there are, `operations.rs` has the operations, `check.rs` what must hold.
//!
//! `AMBERFS_FAULT_CASES=all` runs each fault at each step; a case that failed is run alone with the
//! `AMBERFS_FAULT_CASE` that it tells. With `--nocapture` each test says how many steps it cut.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a failed expectation is a failed test, and volumes are plain files"
)]

#[path = "../support/mod.rs"]
mod support;

mod cases;
mod check;
mod disk;
mod objects;
mod operations;
mod severed;
mod world;
