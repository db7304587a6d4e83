//! How fast something may go: bytes a second, or as fast as it can.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ByteSize;

/// `100MiB` (a second), or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ByteRate(Option<u64>);

impl ByteRate {
    pub const UNLIMITED: Self = Self(None);

    pub const fn per_second(bytes: u64) -> Self {
        if bytes == 0 { Self(None) } else { Self(Some(bytes)) }
    }

    /// Returns the bytes per second; nothing when there is no limit.
    pub const fn limit(self) -> Option<u64> {
        self.0
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(bytes) => ByteSize(bytes).fmt(f),
            None => f.write_str("none"),
        }
    }
}

impl FromStr for ByteRate {
    type Err = String;

    /// 0 is no limit, too: nothing could ever run at that rate.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix("/s").unwrap_or(text);
        match number.trim() {
            "none" => Ok(Self::UNLIMITED),
            number => number.parse::<ByteSize>().map(|size| Self::per_second(size.0)).map_err(|_| {
                format!("{text:?} is not a rate: write bytes a second, as in 100MiB, or none for no limit")
            }),
        }
    }
}

impl TryFrom<String> for ByteRate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ByteRate> for String {
    fn from(rate: ByteRate) -> Self {
        rate.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_size_a_second_or_none() {
        assert_eq!("100MiB".parse(), Ok(ByteRate::per_second(100 << 20)));
        assert_eq!("4096/s".parse(), Ok(ByteRate::per_second(4096)));
        for text in ["none", "0"] {
            assert_eq!(text.parse(), Ok(ByteRate::UNLIMITED));
        }
        assert_eq!(ByteRate::UNLIMITED.to_string().parse(), Ok(ByteRate::UNLIMITED));
        assert!("fast".parse::<ByteRate>().is_err());
    }
}
