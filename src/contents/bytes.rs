//! Fields at fixed places of structures that others wrote.

use std::io;

use crate::sysio::device::ReadAt;

/// Reads `length` bytes at `offset`, or fewer where the device ends before.
pub(super) fn read_up_to(device: &dyn ReadAt, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let available = device.size_bytes().saturating_sub(offset);
    let length = usize::try_from(available).map_or(length, |available| available.min(length));
    let mut bytes = vec![0; length];
    if length > 0 {
        device.read_exact_at(offset, &mut bytes)?;
    }
    Ok(bytes)
}

pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

pub(super) fn byte(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

pub(super) fn le16(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

pub(super) fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

pub(super) fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

pub(super) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

/// Does `wanted` stand at `at`?
pub(super) fn has(bytes: &[u8], at: usize, wanted: &[u8]) -> bool {
    bytes.get(at..).is_some_and(|rest| rest.starts_with(wanted))
}

/// Returns the text of a field that a zero or its end ends, without trailing white space. `None` when that is empty.
pub(super) fn text(bytes: &[u8], at: usize, length: usize) -> Option<String> {
    let field = bytes.get(at..at.checked_add(length)?)?;
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    trimmed(&String::from_utf8_lossy(field.get(..end)?))
}

/// As `text`, of 16-bit units, the lower byte first when `little_endian`.
pub(super) fn utf16(field: &[u8], little_endian: bool) -> Option<String> {
    let (units, _) = field.as_chunks::<2>();
    let units = units.iter().map(|unit| match little_endian {
        true => u16::from_le_bytes(*unit),
        false => u16::from_be_bytes(*unit),
    });
    let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    trimmed(&String::from_utf16_lossy(&units))
}

/// Returns a UUID as it is usually written; `None` for that of zeros, which stands for none.
pub(super) fn uuid(bytes: &[u8], at: usize) -> Option<String> {
    let uuid = uuid::Uuid::from_bytes(array(bytes, at)?);
    (!uuid.is_nil()).then(|| uuid.hyphenated().to_string())
}

fn trimmed(text: &str) -> Option<String> {
    let text = text.trim_end();
    (!text.is_empty()).then(|| text.to_owned())
}
