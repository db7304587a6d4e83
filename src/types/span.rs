//! Lengths of time, read with a unit: `30d`, `12h`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const WEEK: u64 = 7 * DAY;

/// A length of time in whole seconds: `45s`, `30m`, `12h`, `7d`, `2w`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeSpan {
    seconds: u64,
}

impl TimeSpan {
    pub const fn to_duration(self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, unit) = match self.seconds {
            n if n >= DAY && n.is_multiple_of(DAY) => (n / DAY, "d"),
            n if n >= HOUR && n.is_multiple_of(HOUR) => (n / HOUR, "h"),
            n if n >= MINUTE && n.is_multiple_of(MINUTE) => (n / MINUTE, "m"),
            n => (n, "s"),
        };
        write!(f, "{number}{unit}")
    }
}

impl FromStr for TimeSpan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let error = || {
            format!(
                "{text:?} is not a length of time: write a whole number with s, m, h, d or w behind it, as in 30d"
            )
        };
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| error())?;
        let unit = match unit {
            "s" => 1,
            "m" => MINUTE,
            "h" => HOUR,
            "d" => DAY,
            "w" => WEEK,
            _ => return Err(error()),
        };
        let seconds = number.checked_mul(unit).filter(|seconds| *seconds > 0).ok_or_else(error)?;
        Ok(Self { seconds })
    }
}

impl TryFrom<String> for TimeSpan {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<TimeSpan> for String {
    fn from(span: TimeSpan) -> Self {
        span.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_a_unit_and_is_read_as_it_was_written() {
        for (text, seconds) in [("45s", 45), ("30m", 1800), ("12h", 43_200), ("30d", 2_592_000)] {
            let span: TimeSpan = text.parse().unwrap();
            assert_eq!((span.to_duration().as_secs(), span.to_string().as_str()), (seconds, text));
        }
        assert_eq!("2w".parse::<TimeSpan>().unwrap().to_string(), "14d");
        for bad in ["", "30", "d", "-1d", "0d", "1.5h", "1y", "99999999999999999999d", "9999999999999999999w"]
        {
            assert!(bad.parse::<TimeSpan>().is_err(), "{bad}");
        }
    }
}
