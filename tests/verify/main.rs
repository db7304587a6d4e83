//! What a verification finds, what it says of a backup, and how it goes about it: nothing waits for it, and it is never in
//! vain.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a failed expectation is a failed test, and files are damaged on purpose"
)]

mod against_source;
mod findings;
#[path = "../damage/history.rs"]
#[allow(dead_code, reason = "shared with the tests of damage, which use all of it")]
mod history;
mod running;
mod salvage;
#[path = "../support/mod.rs"]
mod support;
mod work;
