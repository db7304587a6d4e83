//! What is done with hostile bytes, one module for each fuzz target: `look(bytes)` panics when a promise is broken.
//!
//! `fuzz_targets/` hands these functions to libFuzzer, and `tests/fuzz_corpus.rs` runs them over the corpus and over all
//! that was ever found. So nothing here needs a nightly compiler.
//!
//! What is under a checksum is never reached by bytes that were changed at random. So each target takes some of its bytes
//! as the contents of something whose checksums it makes right.

pub mod contents;
pub mod control;
pub mod header;
mod input;
pub mod manifest;
mod memory;
pub mod pack;
pub mod record;
mod sealed;
mod sectors;
pub mod xfs;

/// Runs one target by its name.
pub fn look(target: &str, data: &[u8]) {
    match target {
        "contents" => contents::look(data),
        "control" => control::look(data),
        "header" => header::look(data),
        "manifest" => manifest::look(data),
        "pack" => pack::look(data),
        "record" => record::look(data),
        "xfs" => xfs::look(data),
        _ => panic!("there is no fuzz target {target}"),
    }
}
