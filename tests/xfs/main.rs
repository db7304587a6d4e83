//! UUIDs of XFS changed natively, held against what xfsprogs and the kernel make of it. Needs root, loop devices and xfsprogs.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation is a failed test"
)]

mod exclusive;
mod hostile;
mod interrupted;
mod overlay;
mod real;
mod refusals;
mod volume;
