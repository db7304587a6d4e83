//! What damage costs: the ranges that are gone, with the right error, and nothing else. A later backup of the same
//! volume is whole again.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a failed expectation is a failed test, and files are damaged on purpose"
)]

mod history;
mod index;
mod manifests;
mod packs;
mod records;

#[path = "../support/mod.rs"]
mod support;
