//! The envelope of small documents, the repository header and backup records: one line of text that a person can
//! read with `cat` and a program can check.
//!
//! `KIND VERSION LENGTH SHA256 JSON\n`, where LENGTH and SHA256 are those of the JSON's bytes.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::FormatError;
use super::bytes::sha256;

/// No document is longer: a bound for whoever reads one.
pub const LENGTH_MAX: u64 = 1 << 20;

/// What a kind of document is called in its first word, and its version.
#[derive(Debug, Clone, Copy)]
pub struct DocumentKind {
    pub magic: &'static str,
    pub what: &'static str,
    pub version: u32,
}

/// Returns the document as one line, the line feed included.
pub fn encode(kind: DocumentKind, value: &impl Serialize) -> Result<String, FormatError> {
    let json =
        serde_json::to_string(value).map_err(|error| FormatError::malformed(kind.what, error.to_string()))?;
    let line = format!("{} {} {} {} {json}\n", kind.magic, kind.version, json.len(), digest(&json));
    if line.len() as u64 > LENGTH_MAX {
        return Err(FormatError::malformed(kind.what, format!("it would be longer than {LENGTH_MAX} bytes")));
    }
    Ok(line)
}

/// Reads a document; whatever a newer version of the same format adds to it is passed over by serde.
pub fn decode<T: DeserializeOwned>(kind: DocumentKind, bytes: &[u8]) -> Result<T, FormatError> {
    let what = kind.what;
    let text = std::str::from_utf8(bytes).map_err(|_| FormatError::WrongMagic { wanted: what })?;
    let rest = text
        .strip_prefix(kind.magic)
        .and_then(|rest| rest.strip_prefix(' '))
        .ok_or(FormatError::WrongMagic { wanted: what })?;
    let (version, rest) = rest.split_once(' ').ok_or(FormatError::TooShort { what })?;
    let version: u32 =
        version.parse().map_err(|_| FormatError::malformed(what, "its version is not a number"))?;
    if version > kind.version {
        return Err(FormatError::UnsupportedVersion { what, found: version, newest_known: kind.version });
    }
    let (length, rest) = rest.split_once(' ').ok_or(FormatError::TooShort { what })?;
    let length: usize =
        length.parse().map_err(|_| FormatError::malformed(what, "its length is not a number"))?;
    let (expected, json) = rest.split_once(' ').ok_or(FormatError::TooShort { what })?;
    let json = json.strip_suffix('\n').unwrap_or(json);
    if json.len() < length {
        return Err(FormatError::TooShort { what });
    }
    if json.len() != length || digest(json) != expected {
        return Err(FormatError::Checksum { what });
    }
    serde_json::from_str(json).map_err(|error| FormatError::malformed(what, error.to_string()))
}

fn digest(json: &str) -> String {
    sha256(json.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: DocumentKind = DocumentKind { magic: "test-document", what: "test document", version: 2 };

    #[test]
    fn any_changed_byte_is_noticed() {
        let line = encode(KIND, &vec!["one", "two"]).unwrap();
        assert_eq!(decode::<Vec<String>>(KIND, line.as_bytes()).unwrap(), ["one", "two"]);
        for position in 0..line.len() - 1 {
            let mut bytes = line.clone().into_bytes();
            bytes[position] ^= 1;
            assert!(decode::<Vec<String>>(KIND, &bytes).is_err(), "byte {position}");
        }
        for length in 0..line.len() - 1 {
            assert!(decode::<Vec<String>>(KIND, &line.as_bytes()[..length]).is_err(), "length {length}");
        }
    }

    #[test]
    fn a_newer_version_is_not_guessed_at() {
        let line = encode(DocumentKind { version: 3, ..KIND }, &1).unwrap();
        let error = decode::<u32>(KIND, line.as_bytes()).unwrap_err();
        assert_eq!(
            error,
            FormatError::UnsupportedVersion { what: "test document", found: 3, newest_known: 2 }
        );
    }
}
