//! How a chunk's bytes are stored: zstd, or as they are when that is no longer.
//!
//! The contexts are kept per thread: at 4 KiB a fresh one costs more than the compression itself.

use std::cell::RefCell;

use super::FormatError;

/// A level of zstd, or no compression at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Zstd { level: i32 },
}

impl std::str::FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("{text:?} is not a compression: write zstd:1 to zstd:19, or none");
        match text {
            "none" => Ok(Self::None),
            _ => {
                let level = text.strip_prefix("zstd:").and_then(|level| level.parse().ok());
                level
                    .filter(|level| (1..=19).contains(level))
                    .map(|level| Self::Zstd { level })
                    .ok_or_else(error)
            }
        }
    }
}

impl std::fmt::Display for Compression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Zstd { level } => write!(f, "zstd:{level}"),
        }
    }
}

/// How the stored bytes are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    Raw = 0,
    Zstd = 1,
}

impl Codec {
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Raw),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// What a zstd frame starts with.
pub const FRAME_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

struct Compressor {
    level: i32,
    zstd: zstd::bulk::Compressor<'static>,
}

thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Compresses into `stored`, which is cleared first, and returns how. Raw unless at least 3 % are saved: less is
/// not worth the time of every later read.
pub fn compress(compression: Compression, plain: &[u8], stored: &mut Vec<u8>) -> Codec {
    stored.clear();
    if let Compression::Zstd { level } = compression
        && compress_zstd(level, plain, stored).is_ok()
        && stored.len() + plain.len() / 32 < plain.len()
    {
        return Codec::Zstd;
    }
    stored.clear();
    stored.extend_from_slice(plain);
    Codec::Raw
}

fn compress_zstd(level: i32, plain: &[u8], stored: &mut Vec<u8>) -> std::io::Result<()> {
    COMPRESSOR.with_borrow_mut(|slot| {
        let compressor = match slot {
            Some(compressor) if compressor.level == level => compressor,
            _ => slot.insert(Compressor { level, zstd: zstd::bulk::Compressor::new(level)? }),
        };
        stored.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        compressor.zstd.compress_to_buffer(plain, stored).map(drop)
    })
}

/// Fills `plain` exactly from the stored bytes; an error when they do not give just that many bytes.
pub fn decompress(codec: Codec, stored: &[u8], plain: &mut [u8]) -> Result<(), FormatError> {
    let length = match codec {
        Codec::Raw if stored.len() == plain.len() => {
            plain.copy_from_slice(stored);
            stored.len()
        }
        Codec::Raw => stored.len(),
        Codec::Zstd => DECOMPRESSOR.with_borrow_mut(|slot| {
            let decompressor = match slot {
                Some(decompressor) => decompressor,
                None => slot.insert(zstd::bulk::Decompressor::new().map_err(undecodable)?),
            };
            // The destination's length is the bound: a bomb ends with "destination too small".
            decompressor.decompress_to_buffer(stored, plain).map_err(undecodable)
        })?,
    };
    if length != plain.len() {
        let why = format!("it holds {length} bytes, {} are expected", plain.len());
        return Err(FormatError::malformed("chunk", why));
    }
    Ok(())
}

/// Looks for a zstd frame at the start of these bytes, which anybody may have written: returns its length, and that
/// of what it decodes to. Only frames that say how much they hold, as ours do.
pub fn frame_at(bytes: &[u8]) -> Option<(usize, u64)> {
    bytes.starts_with(&FRAME_MAGIC).then_some(())?;
    let length = zstd::zstd_safe::find_frame_compressed_size(bytes).ok()?;
    let plain_length = zstd::zstd_safe::get_frame_content_size(bytes).ok().flatten()?;
    Some((length, plain_length))
}

fn undecodable(error: std::io::Error) -> FormatError {
    FormatError::malformed("chunk", format!("zstd: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZSTD: Compression = Compression::Zstd { level: 3 };

    #[test]
    fn what_does_not_shrink_is_stored_as_it_is() {
        let mut stored = Vec::new();
        let mut state = 1_u64;
        let noise: Vec<u8> = (0..65_536)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                state.to_le_bytes()[7]
            })
            .collect();
        assert_eq!(compress(ZSTD, &noise, &mut stored), Codec::Raw);
        assert_eq!(stored, noise);
        assert_eq!(compress(ZSTD, &[7; 65_536], &mut stored), Codec::Zstd);
        assert!(stored.len() < 100);
        let mut plain = vec![0; 65_536];
        decompress(Codec::Zstd, &stored, &mut plain).unwrap();
        assert_eq!(plain, [7; 65_536]);
    }

    #[test]
    fn a_frame_is_found_among_other_bytes() {
        let mut stored = Vec::new();
        compress(ZSTD, &[7; 1000], &mut stored);
        let length = stored.len();
        stored.extend_from_slice(&[0xa5; 100]);
        assert_eq!(frame_at(&stored), Some((length, 1000)));
        assert_eq!(frame_at(&stored[1..]), None);
        assert_eq!(frame_at(&stored[..length - 1]), None);
    }

    #[test]
    fn stored_bytes_of_another_length_are_refused() {
        let mut stored = Vec::new();
        compress(ZSTD, &[7; 1000], &mut stored);
        for length in [0, 999, 1001] {
            assert!(decompress(Codec::Zstd, &stored, &mut vec![0; length]).is_err(), "{length}");
        }
        assert!(decompress(Codec::Raw, &[1, 2], &mut [0; 3]).is_err());
        assert!(decompress(Codec::Zstd, b"no zstd frame", &mut [0; 3]).is_err());
    }
}
