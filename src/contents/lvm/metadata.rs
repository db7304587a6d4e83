//! The metadata areas of a physical volume: each is a ring of texts, the header of which says where the valid one is.

use super::crc::crc;
use super::label::Label;
use crate::contents::ContentsError;
use crate::contents::bytes::{has, le32, le64, read_up_to};
use crate::sysio::device::ReadAt;

const HEADER_BYTES: u64 = 512;

const MAGIC: &[u8] = b" LVM2 x[5A%r0N*>";

/// A thousand logical volumes take half a megabyte, and areas are of one megabyte unless somebody asked for more.
const TEXT_BYTES_MAX: u64 = 4 << 20;

/// A flag of a text's place: the area is not in use.
const IGNORED: u32 = 1;

/// Returns the text of the first area that is whole. `None` when the physical volume is in no group.
pub(super) fn read(device: &dyn ReadAt, label: &Label) -> Result<Option<String>, ContentsError> {
    let mut why = "this physical volume carries none; look at another one of its group".to_owned();
    for (start, length) in &label.metadata_areas {
        match area(device, *start, *length)? {
            Ok(text) => return Ok(text),
            Err(reason) => why = reason.to_owned(),
        }
    }
    Err(ContentsError::lvm(why))
}

/// The inner error is what is wrong with this area; another one may be whole.
fn area(
    device: &dyn ReadAt,
    start: u64,
    length: u64,
) -> Result<Result<Option<String>, &'static str>, ContentsError> {
    let header = read_up_to(device, start, 512)?;
    let place = match text_place(&header, start, length) {
        Ok(Some(place)) => place,
        Ok(None) => return Ok(Ok(None)),
        Err(why) => return Ok(Err(why)),
    };
    // The ring goes on behind the header.
    let before_end = place.length.min(length.saturating_sub(place.offset));
    let mut text = read_up_to(device, start.saturating_add(place.offset), before_end as usize)?;
    let rest = place.length - before_end;
    text.extend(read_up_to(device, start.saturating_add(HEADER_BYTES), rest as usize)?);
    if text.len() as u64 != place.length || crc(&text) != place.checksum {
        return Ok(Err("the checksum of its text is wrong"));
    }
    while text.last() == Some(&0) {
        text.pop();
    }
    Ok(String::from_utf8(text).map(Some).map_err(|_| "its text is not UTF-8"))
}

/// Where a text stands in its area.
struct Place {
    offset: u64,
    length: u64,
    checksum: u32,
}

fn text_place(header: &[u8], start: u64, length: u64) -> Result<Option<Place>, &'static str> {
    let is_header = has(header, 4, MAGIC)
        && le32(header, 20) == Some(1)
        && le64(header, 24) == Some(start)
        && le64(header, 32) == Some(length);
    if !is_header || header.get(4..).map(crc) != le32(header, 0) {
        return Err("there is no valid header of an area");
    }
    let damaged = "the place of its text is not within the area";
    // The first place is that of the text in force; a second one is being written.
    let (offset, size) = (le64(header, 40).ok_or(damaged)?, le64(header, 48).ok_or(damaged)?);
    let (checksum, flags) = (le32(header, 56).ok_or(damaged)?, le32(header, 60).ok_or(damaged)?);
    if flags & IGNORED != 0 {
        return Err(
            "this physical volume carries a copy that is not in use; look at another one of its group",
        );
    }
    if offset == 0 {
        return Ok(None);
    }
    let is_within = (HEADER_BYTES..length).contains(&offset) && size <= length - HEADER_BYTES;
    if !is_within || size > TEXT_BYTES_MAX {
        return Err(damaged);
    }
    Ok(Some(Place { offset, length: size, checksum }))
}
