//! Which backup a user means: an id, a prefix of one, a name, or a volume's latest.

use std::sync::Arc;

use super::{BackupRecord, Catalog};
use crate::types::{Refusal, RefusalKind, SourceName, VolumeName};

/// A shorter text is not taken for the beginning of an id.
const PREFIX_LENGTH_MIN: usize = 8;
/// So many candidates are listed when a text is ambiguous.
const CANDIDATES_SHOWN: usize = 10;

impl Catalog {
    /// Finds the one backup that `text` means: an id, the beginning of one, a name, or `VOLUME@latest`.
    pub fn select(&self, text: &str) -> Result<Arc<BackupRecord>, Refusal> {
        if let Some(record) = text.parse().ok().and_then(|id| self.get(id)) {
            return Ok(record);
        }
        let all = self.all();
        let is_prefix = text.len() >= PREFIX_LENGTH_MIN;
        let mut matching: Vec<_> = all
            .iter()
            .filter(|record| {
                record.name.as_deref() == Some(text) || is_prefix && record.id.to_string().starts_with(text)
            })
            .collect();
        let latest = match text.strip_suffix("@latest") {
            Some(volume) if matching.is_empty() => self.latest_of(volume)?,
            _ => None,
        };
        matching.extend(latest.as_ref());
        match matching.as_slice() {
            [one] => Ok(Arc::clone(one)),
            [] => {
                let sentence = format!("there is no backup {text:?}; `amberfs backup list` shows all");
                Err(Refusal::new(RefusalKind::BackupNotFound, sentence))
            }
            several => {
                let ids = several.iter().map(|record| record.id.to_string());
                Err(ambiguous("backup", text, ids))
            }
        }
    }

    fn latest_of(&self, volume: &str) -> Result<Option<Arc<BackupRecord>>, Refusal> {
        let mut volumes = self.volumes_called(volume);
        match (volumes.pop(), volumes.is_empty()) {
            (Some((source, name)), true) => Ok(self.latest(&source, &name)),
            (Some(last), false) => {
                volumes.push(last);
                let names = volumes.iter().map(|(source, name)| format!("{source}/{name}"));
                Err(ambiguous("volume", volume, names))
            }
            (None, _) => Ok(None),
        }
    }

    /// Returns the volumes with backups that `SOURCE/NAME`, `NAME` or a volume id can mean, sorted.
    fn volumes_called(&self, text: &str) -> Vec<(SourceName, VolumeName)> {
        let mut volumes: Vec<_> = self
            .all()
            .iter()
            .filter(|record| {
                let rest = text.strip_prefix(record.source.as_str()).and_then(|rest| rest.strip_prefix('/'));
                rest == Some(record.volume_name.as_str())
                    || record.volume_name.as_str() == text
                    || record.volume_id.as_str() == text
            })
            .map(|record| (record.source.clone(), record.volume_name.clone()))
            .collect();
        volumes.sort();
        volumes.dedup();
        volumes
    }
}

/// A text that means several things, and which.
fn ambiguous(what: &str, text: &str, candidates: impl ExactSizeIterator<Item = String>) -> Refusal {
    let count = candidates.len();
    let mut shown: Vec<String> = candidates.take(CANDIDATES_SHOWN).collect();
    if count > shown.len() {
        shown.push(format!("and {} more", count - shown.len()));
    }
    let sentence = format!("{text:?} means more than one {what}: {}", shown.join(", "));
    Refusal::new(RefusalKind::AmbiguousName, sentence)
}
