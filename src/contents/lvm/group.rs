//! From the text of a group to its logical volumes: which of them lie on this physical volume, and how.

use std::collections::BTreeSet;

use super::mapped::{Mapping, Stripes};
use super::text::{Section, Value, start_of};

const SECTOR_BYTES: u64 = 512;

/// A page: LVM makes no smaller stripes.
const STRIPE_BYTES_MIN: u64 = 4096;

/// Extents may be as small as one sector of 512 bytes, but no volume has this many pieces.
const SEGMENTS_MAX: u64 = 65_536;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeGroup {
    pub name: String,
    pub uuid: String,
    /// Those that LVM shows, by name.
    pub logical_volumes: Vec<LogicalVolume>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogicalVolume {
    pub name: String,
    pub uuid: String,
    pub size_bytes: u64,
    /// Where its bytes are, or in one sentence why they cannot be shown.
    pub mapping: Result<Mapping, String>,
}

/// The physical volume that is looked at, as its group's text describes it.
struct PhysicalVolume<'a> {
    /// The text's word for it, such as `pv0`.
    key: &'a str,
    start: u64,
    extents: u64,
    extent_bytes: u64,
    /// What the device really has.
    size_bytes: u64,
}

pub(super) fn interpret(text: &Section, pv_uuid: &str, size_bytes: u64) -> Result<VolumeGroup, String> {
    let (name, group) = text.sections().next().ok_or("it describes no group")?;
    let extent_bytes = group.number("extent_size").and_then(bytes).filter(|bytes| *bytes > 0);
    let extent_bytes = extent_bytes.ok_or("the size of an extent is missing")?;
    let none = Section::default();
    let described = group.section("physical_volumes").unwrap_or(&none).sections();
    let (key, section) = described
        .into_iter()
        .find(|(_, section)| section.text("id") == Some(pv_uuid))
        .ok_or("it does not describe this physical volume")?;
    let start = section.number("pe_start").and_then(bytes).ok_or("the start of the extents is missing")?;
    let extents = section.number("pe_count").ok_or("the number of extents is missing")?;
    let pv = PhysicalVolume { key, start, extents, extent_bytes, size_bytes };
    let volumes = group.section("logical_volumes").unwrap_or(&none);
    let snapshot_stores = snapshot_stores(volumes);
    let logical_volumes = volumes
        .sections()
        .filter(|(name, section)| {
            // Snapshots are marked as hidden, and LVM lists them nevertheless.
            let is_listed = has_word(section.list("status"), "VISIBLE") || snapshot_stores.contains(name);
            is_listed && !is_snapshot_link(section)
        })
        .map(|(name, section)| pv.logical_volume(name, section, snapshot_stores.contains(name)))
        .collect();
    Ok(VolumeGroup {
        name: name.to_owned(),
        uuid: group.text("id").unwrap_or_default().to_owned(),
        logical_volumes,
    })
}

fn bytes(sectors: u64) -> Option<u64> {
    sectors.checked_mul(SECTOR_BYTES)
}

fn has_word(values: &[Value], word: &str) -> bool {
    values.iter().any(|value| matches!(value, Value::Text(text) if text == word))
}

/// Returns the volumes that hold what a snapshot keeps of its origin. They look like any other, but are no image of a disk.
fn snapshot_stores(volumes: &Section) -> BTreeSet<&str> {
    let segments = volumes.sections().flat_map(|(_, volume)| volume.sections());
    segments.filter_map(|(_, segment)| segment.text("cow_store")).collect()
}

/// Is it the hidden volume that ties a snapshot to its origin?
fn is_snapshot_link(volume: &Section) -> bool {
    volume.sections().any(|(_, segment)| segment.text("cow_store").is_some())
}

impl PhysicalVolume<'_> {
    fn logical_volume(&self, name: &str, section: &Section, is_snapshot: bool) -> LogicalVolume {
        let count = section.number("segment_count").unwrap_or(0);
        let segments: Vec<&Section> = (1..=count.min(SEGMENTS_MAX))
            .map_while(|number| section.section(&format!("segment{number}")))
            .collect();
        let extents =
            segments.iter().try_fold(0_u64, |sum, segment| sum.checked_add(segment.number("extent_count")?));
        let size_bytes = extents.and_then(|extents| extents.checked_mul(self.extent_bytes));
        let mapping = if is_snapshot {
            Err("it is a snapshot, which needs its origin".to_owned())
        } else if segments.is_empty() || segments.len() as u64 != count || size_bytes.is_none() {
            Err("its segments are not described".to_owned())
        } else {
            self.mapping(&segments)
        };
        LogicalVolume {
            name: name.to_owned(),
            uuid: section.text("id").unwrap_or_default().to_owned(),
            size_bytes: size_bytes.unwrap_or(0),
            mapping,
        }
    }

    fn mapping(&self, segments: &[&Section]) -> Result<Mapping, String> {
        let mut mapping = Mapping::default();
        for segment in segments {
            let kind = segment.text("type").unwrap_or("unknown");
            if kind != "striped" {
                return Err(format!(
                    "it has a segment of type {}; only linear and striped ones can be shown",
                    start_of(kind)
                ));
            }
            let start = segment.number("start_extent").and_then(|start| start.checked_mul(self.extent_bytes));
            if start != Some(mapping.size_bytes()) {
                return Err("its segments do not follow each other".to_owned());
            }
            mapping.push(self.stripes(segment)?);
        }
        Ok(mapping)
    }

    fn stripes(&self, segment: &Section) -> Result<Stripes, String> {
        let damaged = || "one of its segments is malformed".to_owned();
        let extents = segment.number("extent_count").filter(|count| *count > 0).ok_or_else(damaged)?;
        let places = segment.list("stripes").as_chunks::<2>().0;
        let count = places.len() as u64;
        if count == 0 || segment.number("stripe_count") != Some(count) || extents % count != 0 {
            return Err(damaged());
        }
        let length = extents.checked_mul(self.extent_bytes).ok_or_else(damaged)?;
        // What is in one piece has no size of a stripe.
        let stripe_bytes = match count {
            1 => length,
            _ => segment
                .number("stripe_size")
                .and_then(bytes)
                .filter(|size| *size >= STRIPE_BYTES_MIN)
                .ok_or_else(damaged)?,
        };
        if !(length / count).is_multiple_of(stripe_bytes) {
            return Err(damaged());
        }
        let starts = places.iter().map(|place| self.piece(place, extents / count));
        Ok(Stripes { length, stripe_bytes, starts: starts.collect::<Result<_, _>>()? })
    }

    /// Returns where on the device a piece of so many extents starts.
    fn piece(&self, place: &[Value; 2], extents: u64) -> Result<u64, String> {
        let [Value::Text(key), Value::Number(first)] = place else {
            return Err("one of its segments is malformed".to_owned());
        };
        if key != self.key {
            return Err(format!("a part of it lies on another physical volume, {}", start_of(key)));
        }
        let first = u64::try_from(*first).unwrap_or(u64::MAX);
        let end = first.checked_add(extents).filter(|end| *end <= self.extents);
        let end = end.and_then(|end| end.checked_mul(self.extent_bytes)?.checked_add(self.start));
        match end {
            Some(end) if end <= self.size_bytes => Ok(self.start + first * self.extent_bytes),
            _ => Err("a part of it lies beyond the end of its physical volume".to_owned()),
        }
    }
}
