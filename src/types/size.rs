//! Sizes in bytes, read with units and counted in GiB as OpenStack does.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// Returns the size in GiB, rounded up: a volume of one byte is a volume of 1 GiB in quotas and in `size`.
pub const fn gib_rounded_up(bytes: u64) -> u64 {
    bytes.div_ceil(GIB)
}

/// A size with a unit: `512MiB`, `64KiB`, `1GiB`, `4096`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ByteSize(pub u64);

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, unit) = match self.0 {
            n if n >= GIB && n.is_multiple_of(GIB) => (n / GIB, "GiB"),
            n if n >= MIB && n.is_multiple_of(MIB) => (n / MIB, "MiB"),
            n if n >= KIB && n.is_multiple_of(KIB) => (n / KIB, "KiB"),
            n => (n, ""),
        };
        write!(f, "{number}{unit}")
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let error =
            || format!("{text:?} is not a size: write a whole number with KiB, MiB, GiB, TiB or no unit");
        let number: u64 = number.parse().map_err(|_| error())?;
        let unit = match unit.trim() {
            "" | "B" => 1,
            "K" | "KiB" => KIB,
            "M" | "MiB" => MIB,
            "G" | "GiB" => GIB,
            "T" | "TiB" => GIB * 1024,
            _ => return Err(error()),
        };
        number.checked_mul(unit).map(Self).ok_or_else(error)
    }
}

impl TryFrom<String> for ByteSize {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ByteSize> for String {
    fn from(size: ByteSize) -> String {
        size.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_units() {
        assert_eq!("512MiB".parse(), Ok(ByteSize(512 * MIB)));
        assert_eq!("4096".parse(), Ok(ByteSize(4096)));
        assert_eq!(ByteSize(64 * KIB).to_string(), "64KiB");
        for bad in ["", "MiB", "1.5GiB", "-1", "99999999999999TiB"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_started_gib_counts_whole() {
        assert_eq!([0, 1, GIB, GIB + 1].map(gib_rounded_up), [0, 1, 1, 2]);
    }
}
