//! All that is inside a disk: its partitions, what lies in each of them, and what lies in the logical volumes there.

use std::io;
use std::sync::Arc;

use super::identify::{Content, Kind, identify};
use super::lvm::{self, Mapped, Mapping, VolumeGroup};
use super::part::{PartName, Place};
use super::table::{Table, partitions};
use super::{ContentsError, group_json, table_json};
use crate::sysio::device::{ReadAt, Window};

/// In so many partitions LVM is looked for. A system has one or two; the metadata of each takes time to read.
const GROUPS_MAX: usize = 8;

/// So many logical volumes of a disk are looked into.
const LOGICAL_VOLUMES_MAX: usize = 1024;

/// LVM makes no longer names.
const NAME_BYTES_MAX: usize = 127;

/// A segment with one piece takes about so much memory.
const PIECE_BYTES: usize = 96;

/// What lies in a device; `None` when nothing is known of it.
pub type Identified = io::Result<Option<Content>>;

/// What was found in a disk.
pub struct DiskContents {
    pub table: Option<Table>,
    /// What lies in each partition, in the table's order; without a table, of the disk itself.
    found: Vec<Found>,
    size_bytes: u64,
}

struct Found {
    identified: Identified,
    group: Result<Option<Group>, ContentsError>,
}

/// A volume group whose metadata could be read.
pub(super) struct Group {
    pub(super) name: String,
    pub(super) uuid: String,
    /// Those that LVM shows, by name.
    pub(super) volumes: Vec<Volume>,
}

pub(super) struct Volume {
    pub(super) name: String,
    pub(super) uuid: String,
    pub(super) size_bytes: u64,
    /// Where it lies, or in one sentence why it cannot be shown.
    pub(super) mapping: Result<Arc<Mapping>, String>,
    pub(super) identified: Identified,
}

/// One part of a disk.
pub struct FoundPart<'a> {
    pub name: PartName,
    pub identified: &'a Identified,
}

impl FoundPart<'_> {
    /// Returns what lies in it, as far as it can be read.
    pub fn kind(&self) -> Option<Kind> {
        self.identified.as_ref().ok()?.as_ref().map(|content| content.kind)
    }
}

/// Looks into a disk.
///
/// What cannot be read or makes no sense in one partition does not keep the others from being shown.
///
/// # Errors
///
/// Those of [`partitions`], and the device's where there is no table.
pub fn look_into(disk: &dyn ReadAt) -> Result<DiskContents, ContentsError> {
    let table = partitions(disk)?;
    let size_bytes = disk.size_bytes();
    let windows = match &table {
        None => vec![Window::new(disk, 0, size_bytes)],
        Some(table) => table.partitions.iter().map(|partition| partition.window(disk)).collect(),
    };
    let mut left = Left { groups: GROUPS_MAX, logical_volumes: LOGICAL_VOLUMES_MAX };
    let mut found: Vec<Found> = windows.iter().map(|window| found(window, &mut left)).collect();
    let unreadable = found.pop_if(|one| table.is_none() && one.identified.is_err());
    if let Some(Found { identified: Err(error), .. }) = unreadable {
        return Err(error.into());
    }
    Ok(DiskContents { table, found, size_bytes })
}

/// How much is still looked at, so that a hostile disk takes no longer than others.
struct Left {
    groups: usize,
    logical_volumes: usize,
}

fn found(device: &dyn ReadAt, left: &mut Left) -> Found {
    let identified = identify(device);
    let is_lvm = matches!(&identified, Ok(Some(content)) if content.kind == Kind::LvmPhysicalVolume);
    let group = match (is_lvm, left.groups.checked_sub(1)) {
        (false, _) => Ok(None),
        (true, None) => {
            Err(ContentsError::lvm(format!("there are more than {GROUPS_MAX} physical volumes in the disk")))
        }
        (true, Some(groups)) => {
            left.groups = groups;
            lvm::volume_group(device).map(|group| group.map(|group| look_into_group(device, group, left)))
        }
    };
    Found { identified, group }
}

fn look_into_group(device: &dyn ReadAt, group: VolumeGroup, left: &mut Left) -> Group {
    let volumes = group.logical_volumes.into_iter().map(|volume| {
        let mapping = match (left.logical_volumes.checked_sub(1), name_problem(&volume.name)) {
            (None, _) => Err(format!("of a disk, {LOGICAL_VOLUMES_MAX} logical volumes are looked into")),
            (Some(_), Some(problem)) => Err(problem.to_owned()),
            (Some(_), None) => volume.mapping.map(Arc::new),
        };
        left.logical_volumes = left.logical_volumes.saturating_sub(1);
        let identified = match &mapping {
            Ok(mapping) => identify(&Mapped::new(device, Arc::clone(mapping))),
            Err(_) => Ok(None),
        };
        let (name, uuid, size_bytes) = (volume.name, volume.uuid, volume.size_bytes);
        Volume { name, uuid, size_bytes, mapping, identified }
    });
    Group { volumes: volumes.collect(), name: group.name, uuid: group.uuid }
}

/// Says why a logical volume cannot be a file of its name; LVM itself makes none with the first two.
fn name_problem(name: &str) -> Option<&'static str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "+_.-".contains(c);
    if name.len() > NAME_BYTES_MAX || !name.chars().all(is_plain) || [".", ".."].contains(&name) {
        return Some("its name is none that LVM gives");
    }
    // The tree has these beside the images.
    let is_taken = name == "table.json" || name.ends_with(".files");
    is_taken.then_some("a file of its name is something else in the tree")
}

impl Group {
    fn volume(&self, name: &str) -> Option<&Volume> {
        self.volumes.iter().find(|volume| volume.name == name)
    }

    fn weight_bytes(&self) -> usize {
        let weights = self.volumes.iter().map(|volume| {
            let mapping = volume.mapping.as_ref();
            let mapping = mapping.map_or_else(String::len, |mapping| mapping.piece_count() * PIECE_BYTES);
            size_of::<Volume>() + volume.name.len() + volume.uuid.len() + mapping
        });
        self.name.len() + self.uuid.len() + weights.sum::<usize>()
    }

    /// Those that can be shown.
    fn shown(&self) -> impl Iterator<Item = &Volume> {
        self.volumes.iter().filter(|volume| volume.mapping.is_ok())
    }
}

impl DiskContents {
    fn found(&self, partition: Option<u32>) -> Option<&Found> {
        let at = match (&self.table, partition) {
            (None, None) => 0,
            (Some(table), Some(number)) => {
                table.partitions.iter().position(|partition| partition.number == number)?
            }
            _ => return None,
        };
        self.found.get(at)
    }

    fn group(&self, partition: Option<u32>) -> Option<&Group> {
        self.found(partition)?.group.as_ref().ok()?.as_ref()
    }

    /// Returns all parts that can be read: each partition, or the disk itself, followed by its logical volumes.
    pub fn parts(&self) -> Vec<FoundPart<'_>> {
        let mut parts = Vec::new();
        for (partition, found) in self.numbered() {
            let name = PartName { partition, logical_volume: None };
            parts.push(FoundPart { name, identified: &found.identified });
            let volumes = found.group.as_ref().ok().and_then(Option::as_ref).map(Group::shown);
            parts.extend(volumes.into_iter().flatten().map(|volume| {
                let name = PartName::logical_volume(partition, &volume.name);
                FoundPart { name, identified: &volume.identified }
            }));
        }
        parts
    }

    /// Returns where a part lies; `None` when there is none of this name, or it cannot be shown.
    pub fn place(&self, part: &PartName) -> Option<Place> {
        let (start, length) = match &self.table {
            _ if self.found(part.partition).is_none() => return None,
            None => (0, self.size_bytes),
            Some(table) => {
                let partition = table.partitions.iter().find(|one| Some(one.number) == part.partition)?;
                (partition.start, partition.length)
            }
        };
        let mapping = match &part.logical_volume {
            None => None,
            Some(name) => {
                let volume = self.group(part.partition)?.volume(name)?;
                Some(Arc::clone(volume.mapping.as_ref().ok()?))
            }
        };
        Some(Place { start, length, mapping })
    }

    /// Returns what lies in a part.
    pub fn content(&self, part: &PartName) -> Option<&Content> {
        let identified = match &part.logical_volume {
            None => &self.found(part.partition)?.identified,
            Some(name) => &self.group(part.partition)?.volume(name)?.identified,
        };
        identified.as_ref().ok()?.as_ref()
    }

    /// Returns the names of the logical volumes of a partition, or of the disk itself, that can be shown; `None` when
    /// there is no group there whose metadata can be read.
    pub fn logical_volumes(&self, partition: Option<u32>) -> Option<Vec<&str>> {
        Some(self.group(partition)?.shown().map(|volume| volume.name.as_str()).collect())
    }

    /// Finds a logical volume by its name, in a partition or, without one, in the whole disk.
    ///
    /// # Errors
    ///
    /// A sentence that says why there is none to be read, or in which partitions there is one.
    pub fn find_logical_volume(&self, partition: Option<u32>, name: &str) -> Result<PartName, String> {
        let mut parts = self.parts();
        parts.retain(|part| partition.is_none_or(|number| part.name.partition == Some(number)));
        let is_called = |part: &FoundPart<'_>| part.name.logical_volume.as_deref() == Some(name);
        let found: Vec<PartName> =
            parts.iter().filter(|part| is_called(part)).map(|part| part.name.clone()).collect();
        match found.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(self.why_not_found(partition, name)),
            several => {
                let numbers: Vec<_> = several
                    .iter()
                    .filter_map(|part| part.partition)
                    .map(|number| number.to_string())
                    .collect();
                let numbers = numbers.join(" and ");
                Err(format!("there is a logical volume {name} in each of partitions {numbers}: name one"))
            }
        }
    }

    fn why_not_found(&self, partition: Option<u32>, name: &str) -> String {
        let among = partition.map(|number| format!(" in partition {number}")).unwrap_or_default();
        let mut shown = Vec::new();
        for (number, found) in self.numbered() {
            if partition.is_some() && number != partition {
                continue;
            }
            match &found.group {
                Err(error) => {
                    return format!("{}: {error}", PartName { partition: number, logical_volume: None });
                }
                Ok(None) => {}
                Ok(Some(group)) => {
                    if let Some(Err(why)) = group.volume(name).map(|volume| &volume.mapping) {
                        return format!("logical volume {name} cannot be read: {why}");
                    }
                    shown.extend(group.shown().map(|volume| volume.name.as_str()));
                }
            }
        }
        match shown.is_empty() {
            true => format!("there is no logical volume{among} that can be read"),
            false => format!("there is no logical volume {name}{among}; there are {}", shown.join(", ")),
        }
    }

    /// Each partition, or the disk itself, with its number.
    fn numbered(&self) -> impl Iterator<Item = (Option<u32>, &Found)> {
        let at = |at: usize| self.table.as_ref()?.partitions.get(at).map(|partition| partition.number);
        self.found.iter().enumerate().map(move |(index, found)| (at(index), found))
    }

    /// One sentence for each thing that could not be read or makes no sense, for the log.
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = self.table.as_ref().map(|table| table.remarks.clone()).unwrap_or_default();
        for part in self.parts() {
            if let Err(error) = part.identified {
                remarks.push(format!("{}: what is in it cannot be told: {error}", part.name));
            }
        }
        for (partition, found) in self.numbered() {
            if let Err(error) = &found.group {
                remarks.push(format!("{}: {error}", PartName { partition, logical_volume: None }));
            }
        }
        remarks
    }

    /// Returns the text of the `table.json` of the partitions; `None` without a table.
    pub fn table_json(&self) -> Option<String> {
        let contents: Vec<_> =
            self.found.iter().map(|found| found.identified.as_ref().ok().cloned().flatten()).collect();
        Some(table_json::table_json(self.table.as_ref()?, &contents))
    }

    /// Returns the text of the `table.json` of the logical volumes of a partition, or of the disk itself.
    pub fn group_json(&self, partition: Option<u32>) -> Option<String> {
        self.group(partition).map(group_json::group_json)
    }

    /// About how much memory this takes beyond what any disk takes, in bytes.
    pub fn weight_bytes(&self) -> usize {
        let groups = self.found.iter().filter_map(|found| found.group.as_ref().ok()?.as_ref());
        groups.map(Group::weight_bytes).sum()
    }
}
