//! The label of a physical volume, in one of its first four sectors: its UUID, and where the metadata is.

use super::crc::crc;
use crate::contents::bytes::{has, le32, le64};

/// Sectors of 512 bytes in which a label may stand, whatever the size of the disk's.
pub const HEAD_BYTES: usize = 4 * SECTOR_BYTES;

const SECTOR_BYTES: usize = 512;

/// LVM makes one, or two when asked to.
const AREAS_MAX: usize = 2;

/// Letters of a UUID in each of its groups.
const UUID_GROUPS: [usize; 7] = [6, 4, 4, 4, 4, 4, 6];

pub struct Label {
    /// With hyphens, as LVM prints it.
    pub uuid: String,
    /// Start and length of each metadata area, in bytes.
    pub metadata_areas: Vec<(u64, u64)>,
}

/// Takes the first sectors of a device; those beyond `HEAD_BYTES` do not matter.
pub fn find(head: &[u8]) -> Option<Label> {
    head.chunks_exact(SECTOR_BYTES).take(4).find_map(label)
}

fn label(sector: &[u8]) -> Option<Label> {
    let is_label = has(sector, 0, b"LABELONE") && has(sector, 24, b"LVM2 001");
    if !is_label || crc(sector.get(20..)?) != le32(sector, 16)? {
        return None;
    }
    let header = sector.get(usize::try_from(le32(sector, 20)?).ok()?..)?;
    let uuid = with_hyphens(header.get(..32)?)?;
    // Behind the UUID and the size, two lists of places, each with a zero at its end: data, then metadata.
    let mut places = header.get(40..)?.chunks_exact(16).map(|place| (le64(place, 0), le64(place, 8)));
    places.by_ref().take_while(|(offset, _)| *offset != Some(0)).for_each(drop);
    let areas = places.map_while(|(offset, length)| Some((offset.filter(|offset| *offset != 0)?, length?)));
    Some(Label { uuid, metadata_areas: areas.take(AREAS_MAX).collect() })
}

fn with_hyphens(letters: &[u8]) -> Option<String> {
    let mut letters = std::str::from_utf8(letters).ok().filter(|letters| letters.is_ascii())?;
    let mut groups = Vec::new();
    for length in UUID_GROUPS {
        let (group, rest) = letters.split_at_checked(length)?;
        groups.push(group);
        letters = rest;
    }
    Some(groups.join("-"))
}
