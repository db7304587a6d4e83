//! The SHA-256 of a whole image, which can be interrupted: its state is a text.

use std::fmt;

use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest, Sha256};

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

#[derive(Clone)]
pub struct ImageHash(Sha256);

impl ImageHash {
    pub fn new() -> Self {
        Self(Sha256::new())
    }

    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn add_zeros(&mut self, mut count: u64) {
        while count > 0 {
            let now = usize::try_from(count).unwrap_or(usize::MAX).min(ZEROS.len());
            let (zeros, _) = ZEROS.split_at(now);
            self.0.update(zeros);
            count -= now as u64;
        }
    }

    /// Returns the digest in hexadecimal, as `sha256sum` prints it.
    pub fn finish(self) -> String {
        hexadecimal(&self.0.finalize())
    }

    /// Returns what [`resume`](Self::resume) goes on with.
    pub fn state(&self) -> String {
        hexadecimal(&self.0.serialize())
    }

    /// Goes on where another one was; `None` when the text is no such state.
    pub fn resume(state: &str) -> Option<Self> {
        let mut serialized = SerializedState::<Sha256>::default();
        if state.len() != serialized.len() * 2 || !state.is_ascii() {
            return None;
        }
        for (byte, pair) in serialized.iter_mut().zip(state.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Sha256::deserialize(&serialized).ok().map(Self)
    }
}

impl Default for ImageHash {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ImageHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ImageHash")
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_that_was_interrupted_anywhere_is_that_of_the_whole() {
        let mut bytes = b"amberfs".repeat(50);
        bytes.extend(vec![0; 200_000]);
        let whole = {
            let mut hash = ImageHash::new();
            hash.add(&bytes);
            hash.finish()
        };
        for cut in [0, 1, 63, 64, 65, 350] {
            let mut hash = ImageHash::new();
            hash.add(&bytes[..cut]);
            let mut resumed = ImageHash::resume(&hash.state()).unwrap();
            resumed.add(&bytes[cut..350]);
            resumed.add_zeros(200_000);
            assert_eq!(resumed.finish(), whole, "cut at {cut}");
        }
        assert!(ImageHash::resume("").is_none());
        assert!(ImageHash::resume(&"zz".repeat(105)).is_none());
    }
}
