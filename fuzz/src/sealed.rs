//! Checksums that are right, over anything.

use sha2::{Digest, Sha256};

pub fn hexadecimal(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A document, as `format::document` describes it, with this text in it.
pub fn document(magic: &str, version: u32, json: &str) -> String {
    let digest = hexadecimal(&Sha256::digest(json.as_bytes()));
    format!("{magic} {version} {} {digest} {json}\n", json.len())
}
