//! The text of `partitions/table.json`.

use serde::Serialize;

use super::identify::{Content, identify};
use super::table::{Table, TableKind};
use crate::sysio::device::ReadAt;

#[derive(Serialize)]
struct TableDocument<'a> {
    table: TableKind,
    uuid: Option<&'a str>,
    sector_bytes: u32,
    from_backup_header: bool,
    partitions: Vec<PartitionDocument<'a>>,
}

#[derive(Serialize)]
struct PartitionDocument<'a> {
    number: u32,
    #[serde(rename = "type")]
    type_id: &'a str,
    type_name: Option<&'a str>,
    name: Option<&'a str>,
    uuid: Option<&'a str>,
    bootable: bool,
    start_bytes: u64,
    length_bytes: u64,
    file_system: Option<&'a str>,
    file_system_uuid: Option<&'a str>,
    file_system_label: Option<&'a str>,
}

/// Says what lies in each partition of a table, in its order. Where the start of one cannot be read, nothing is known of that
/// one: the others are not to suffer.
pub fn identify_all(device: &dyn ReadAt, table: &Table) -> Vec<Option<Content>> {
    let found = table.partitions.iter().map(|partition| {
        let window = partition.window(device);
        identify(&window).unwrap_or_else(|error| {
            tracing::warn!(partition = partition.number, "what is in it cannot be told: {error}");
            None
        })
    });
    found.collect()
}

/// Returns the text of `table.json`. `contents` are those of the partitions, in their order.
pub fn table_json(table: &Table, contents: &[Option<Content>]) -> String {
    let contents = contents.iter().map(Option::as_ref).chain(std::iter::repeat(None));
    let partitions = table.partitions.iter().zip(contents).map(|(partition, content)| PartitionDocument {
        number: partition.number,
        type_id: &partition.type_id,
        type_name: partition.type_name,
        name: partition.name.as_deref(),
        uuid: partition.uuid.as_deref(),
        bootable: partition.is_bootable,
        start_bytes: partition.start,
        length_bytes: partition.length,
        file_system: content.map(|content| content.kind.name()),
        file_system_uuid: content.and_then(|content| content.uuid.as_deref()),
        file_system_label: content.and_then(|content| content.label.as_deref()),
    });
    let document = TableDocument {
        table: table.kind,
        uuid: table.uuid.as_deref(),
        sector_bytes: table.sector_bytes,
        from_backup_header: table.from_backup_header,
        partitions: partitions.collect(),
    };
    // Strings and numbers always have a text.
    let mut text = serde_json::to_string_pretty(&document).unwrap_or_default();
    text.push('\n');
    text
}
