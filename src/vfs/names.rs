//! Names of volumes and backups as file names, and back.
//!
//! A byte that a file name cannot hold, and every `%`, is written `%XX`; so are the dots of the names `.` and `..`. What would
//! be longer than 255 bytes is cut, and `%~` and 16 hexadecimal digits of the name's SHA-256 are put behind it. No
//! name that is written whole can hold `%~`, so two names never share a file name, and [`decode`] finds the name of
//! every file name that was not cut.

use crate::types::ChunkId;

/// What a file name can hold on Linux.
pub const NAME_BYTES_MAX: usize = 255;

/// Stands where a name was cut.
pub const CUT: &str = "%~";
const DIGEST_DIGITS: usize = 16;

/// Returns the file name of a name.
pub fn encode(name: &str) -> String {
    encode_within(name, NAME_BYTES_MAX)
}

/// Returns the file name of a name in at most `bytes_max` bytes, which are not less than 64.
pub fn encode_within(name: &str, bytes_max: usize) -> String {
    let whole = encode_whole(name);
    if whole.len() <= bytes_max {
        return whole;
    }
    let mut digest = ChunkId::of(name.as_bytes()).to_string();
    digest.truncate(DIGEST_DIGITS);
    let room = bytes_max.saturating_sub(CUT.len() + DIGEST_DIGITS);
    let mut end = (0..=room).rev().find(|end| whole.is_char_boundary(*end)).unwrap_or_default();
    // An escape is not cut in two.
    if let Some(escape) = whole.get(..end).and_then(|start| start.rfind('%'))
        && end - escape < 3
    {
        end = escape;
    }
    format!("{}{CUT}{digest}", whole.get(..end).unwrap_or_default())
}

fn encode_whole(name: &str) -> String {
    if name.chars().all(|c| c == '.') && name.len() <= 2 {
        return "%2E".repeat(name.len());
    }
    let mut encoded = String::with_capacity(name.len());
    for c in name.chars() {
        if !c.is_control() && !matches!(c, '/' | '%') {
            encoded.push(c);
            continue;
        }
        for byte in c.encode_utf8(&mut [0; 4]).bytes() {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Returns the name that [`encode`] writes as this file name; `None` when it is none or was cut.
pub fn decode(file_name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(file_name.len());
    let mut rest = file_name.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, behind) = after.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = behind;
    }
    let name = String::from_utf8(bytes).ok()?;
    // One name has one file name: `%41` is not another way to write `A`.
    (encode(&name) == file_name).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_name_can_hold_is_left_as_it_is() {
        for name in ["myvol10", "a b", "...", ".x", "-x", "\u{fc}\u{1f600}", "a~b", "\"'\\"] {
            assert_eq!(encode(name), name);
            assert_eq!(decode(name).as_deref(), Some(name));
        }
    }

    #[test]
    fn every_other_name_comes_back() {
        let pairs = [
            (".", "%2E"),
            ("..", "%2E%2E"),
            ("a/b", "a%2Fb"),
            ("100%", "100%25"),
            ("a\nb\t\u{7f}", "a%0Ab%09%7F"),
            ("\u{85}", "%C2%85"),
        ];
        for (name, file_name) in pairs {
            assert_eq!(encode(name), file_name);
            assert_eq!(decode(file_name).as_deref(), Some(name));
        }
        for no_file_name in ["%41", "%2f", "a%", "a%2", "a%zz", "a/b", "%+1", "%FF"] {
            assert_eq!(decode(no_file_name), None, "{no_file_name}");
        }
    }

    #[test]
    fn long_names_stay_different_and_within_the_limit() {
        let exact = "x".repeat(255);
        assert_eq!(encode(&exact), exact);
        let long =
            ["/".repeat(300), "/".repeat(301), "\u{1f600}".repeat(1000), "y".repeat(256), "y".repeat(257)];
        let mut encoded: Vec<String> = long.iter().map(|name| encode(name)).collect();
        for file_name in &encoded {
            assert!(file_name.len() <= 255 && file_name.len() > 240, "{file_name}");
            assert_eq!(decode(file_name), None);
            let start = file_name.split("%~").next().unwrap();
            assert!(start.chars().all(|c| c != '%') || start.ends_with("%2F"), "{start}");
        }
        // A name that reads like a cut one is another one.
        encoded.push(encode(&encoded[3].clone()));
        encoded.sort();
        encoded.dedup();
        assert_eq!(encoded.len(), 6);
    }
}
