//! Bytes <-> values, and nothing else: every byte of the repository is made and read here.
//!
//! `docs/format.md` describes each format byte by byte; the two change in the same commit. Numbers are
//! little-endian. Decoders get bytes that anybody may have written: they check lengths before they allocate, and
//! answer with an error.

mod bytes;
pub mod codec;
pub mod damage;
pub mod document;
mod error;
pub mod header;
pub mod image_hash;
pub mod manifest;
pub mod pack;
pub mod record;

pub use error::FormatError;
