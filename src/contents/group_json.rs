//! The text of the `table.json` of a volume group.

use serde::Serialize;

use super::disk::{Group, Volume};

#[derive(Serialize)]
struct GroupDocument<'a> {
    name: &'a str,
    uuid: &'a str,
    logical_volumes: Vec<VolumeDocument<'a>>,
}

#[derive(Serialize)]
struct VolumeDocument<'a> {
    name: &'a str,
    uuid: &'a str,
    size_bytes: u64,
    file_system: Option<&'a str>,
    file_system_uuid: Option<&'a str>,
    file_system_label: Option<&'a str>,
    /// Why there is no image of it; null when there is one.
    unreadable: Option<&'a str>,
}

impl<'a> From<&'a Volume> for VolumeDocument<'a> {
    fn from(volume: &'a Volume) -> Self {
        let content = volume.identified.as_ref().ok().and_then(Option::as_ref);
        Self {
            name: &volume.name,
            uuid: &volume.uuid,
            size_bytes: volume.size_bytes,
            file_system: content.map(|content| content.kind.name()),
            file_system_uuid: content.and_then(|content| content.uuid.as_deref()),
            file_system_label: content.and_then(|content| content.label.as_deref()),
            unreadable: volume.mapping.as_ref().err().map(String::as_str),
        }
    }
}

pub(super) fn group_json(group: &Group) -> String {
    let document = GroupDocument {
        name: &group.name,
        uuid: &group.uuid,
        logical_volumes: group.volumes.iter().map(VolumeDocument::from).collect(),
    };
    // Strings and numbers always have a text.
    let mut text = serde_json::to_string_pretty(&document).unwrap_or_default();
    text.push('\n');
    text
}
