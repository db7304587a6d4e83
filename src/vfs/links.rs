//! The names of a volume's backups in its folder. They are given in the order in which the backups were made, so
//! that a new backup never takes the name of an older one, and among those that a viewer sees: a backup that he does
//! not see does not show in the names of his own.

use std::collections::HashSet;
use std::sync::Arc;

use super::names;
use crate::catalog::BackupRecord;
use crate::types::BackupId;

/// The name of the link to the newest readable backup, which no backup can have.
pub const LATEST: &str = "latest";

/// Room for `~` and a whole id.
const SUFFIX_BYTES_MAX: usize = 37;

/// Returns each backup's link name: its own name, or its id when it has none; with `~` and the beginning of its id
/// behind it when an older backup, or `latest`, has that name.
pub fn link_names(mut records: Vec<Arc<BackupRecord>>) -> Vec<(String, BackupId)> {
    records.sort_by_key(|record| (record.created_at, record.id));
    let mut taken = HashSet::from([LATEST.to_owned()]);
    let mut links = Vec::with_capacity(records.len());
    for record in &records {
        let name = link_name(record, &taken);
        taken.insert(name.clone());
        links.push((name, record.id));
    }
    links
}

fn link_name(record: &BackupRecord, taken: &HashSet<String>) -> String {
    let own = record.name.as_deref().filter(|name| !name.is_empty());
    let own = own.map_or_else(|| record.id.to_string(), names::encode);
    if !taken.contains(&own) {
        return own;
    }
    let id = record.id.to_string();
    let own = record.name.as_deref().unwrap_or(&id);
    let start = names::encode_within(own, names::NAME_BYTES_MAX - SUFFIX_BYTES_MAX);
    let suffixes = [id.get(..8).unwrap_or_default(), &id];
    let mut names = suffixes.into_iter().map(|suffix| format!("{start}~{suffix}"));
    // No name that is written whole holds a `CUT`, and no other backup has this id.
    names.find(|name| !taken.contains(name)).unwrap_or_else(|| format!("{}{id}", names::CUT))
}
