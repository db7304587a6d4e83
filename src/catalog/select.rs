//! Which backup a user means: an id, a prefix of one, a name, or a volume's latest.

use std::sync::Arc;

use super::{BackupRecord, Catalog};
use crate::types::{Refusal, RefusalKind};

/// A shorter text is not taken for the beginning of an id.
const PREFIX_LENGTH_MIN: usize = 8;
/// So many candidates are listed when a text is ambiguous.
const CANDIDATES_SHOWN: usize = 10;

impl Catalog {
    /// Finds the one visible backup that `text` means: an id, the beginning of one, a name, or `VOLUME@latest`.
    pub fn select(
        &self,
        text: &str,
        is_visible: impl Fn(&BackupRecord) -> bool,
    ) -> Result<Arc<BackupRecord>, Refusal> {
        if let Some(record) = text.parse().ok().and_then(|id| self.get(id)).filter(|one| is_visible(one)) {
            return Ok(record);
        }
        let mut all = self.all();
        all.retain(|record| is_visible(record));
        let is_prefix = text.len() >= PREFIX_LENGTH_MIN;
        let mut matching: Vec<_> = all
            .iter()
            .filter(|record| {
                record.name.as_deref() == Some(text) || is_prefix && record.id.to_string().starts_with(text)
            })
            .collect();
        let latest = match text.strip_suffix("@latest") {
            Some(volume) if matching.is_empty() => latest_of(&all, volume)?,
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
}

/// Finds the newest whole backup of the one volume that `text` means.
fn latest_of(all: &[Arc<BackupRecord>], text: &str) -> Result<Option<Arc<BackupRecord>>, Refusal> {
    let of_volume: Vec<_> = all.iter().filter(|record| is_called(record, text)).collect();
    let mut volumes: Vec<_> =
        of_volume.iter().map(|record| format!("{}/{}", record.source, record.volume_name)).collect();
    volumes.sort();
    volumes.dedup();
    if volumes.len() > 1 {
        return Err(ambiguous("volume", text, volumes.into_iter()));
    }
    let readable = of_volume.into_iter().filter(|record| record.is_whole());
    Ok(readable.max_by_key(|record| (record.data_timestamp, record.id)).cloned())
}

/// Can `SOURCE/NAME`, `NAME` or a volume id mean the volume of this backup?
fn is_called(record: &BackupRecord, text: &str) -> bool {
    let rest = text.strip_prefix(record.source.as_str()).and_then(|rest| rest.strip_prefix('/'));
    rest == Some(record.volume_name.as_str())
        || record.volume_name.as_str() == text
        || record.volume_id.as_str() == text
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
