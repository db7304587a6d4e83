//! Which backup or volume a user means. What is ambiguous is refused, with the candidates.

use super::error::CliError;
use super::fields::Fields;
use super::mounted::Mounted;
use crate::types::{BackupId, RefusalKind};

/// A shorter start of an id is too likely to name another backup tomorrow.
const PREFIX_LEN_MIN: usize = 8;

/// How many candidates an answer lists.
const CANDIDATES_MAX: usize = 10;

/// Finds a backup by its id, at least 8 characters of the id's start, its name, or `VOLUME@latest`.
pub fn backup(mounted: &Mounted, text: &str) -> Result<Fields, CliError> {
    if text.parse::<BackupId>().is_ok()
        && let Some(backup) = mounted.backup(text)?
    {
        return Ok(backup);
    }
    find_backup(&mounted.backups()?.entries, text).cloned()
}

/// Finds a backup among these.
pub fn find_backup<'a>(backups: &'a [Fields], text: &str) -> Result<&'a Fields, CliError> {
    let is_prefix = |id: &str| text.len() >= PREFIX_LEN_MIN && id.starts_with(text);
    let matching = |backup: &&Fields| backup.text("name") == text || is_prefix(backup.text("id"));
    let found: Vec<&Fields> = backups.iter().filter(matching).collect();
    if !found.is_empty() {
        return only(text, "backups", found, describe);
    }
    match text.strip_suffix("@latest") {
        Some(volume) => latest(backups, text, volume),
        None => Err(not_found(format!("there is no backup {text:?}: see amberfs backup list"))),
    }
}

fn latest<'a>(backups: &'a [Fields], text: &str, volume: &str) -> Result<&'a Fields, CliError> {
    let of_volume = |backup: &&Fields| backup.text("status") == "available" && backup.is_of_volume(volume);
    let mut newest: Vec<&Fields> = Vec::new();
    for backup in backups.iter().filter(of_volume) {
        match newest.iter_mut().find(|other| other.volume() == backup.volume()) {
            Some(other) if age(other) < age(backup) => *other = backup,
            Some(_) => {}
            None => newest.push(backup),
        }
    }
    if newest.is_empty() {
        return Err(not_found(format!("there is no available backup of volume {volume:?}")));
    }
    only(text, "volumes", newest, describe)
}

/// Orders backups of a volume by the time of their data.
fn age(backup: &Fields) -> (&str, &str) {
    (backup.text("data_timestamp"), backup.text("created_at"))
}

fn describe(backup: &Fields) -> String {
    let name = backup.value("name").as_str().unwrap_or("no name");
    format!("{} ({name} of {})", backup.text("id"), backup.volume())
}

fn not_found(sentence: String) -> CliError {
    CliError::refused(RefusalKind::BackupNotFound, sentence)
}

/// Returns the one candidate; several are ambiguous, and `candidates` must not be empty.
pub fn only<T>(
    text: &str,
    what: &str,
    candidates: Vec<T>,
    describe: impl Fn(T) -> String,
) -> Result<T, CliError> {
    let count = candidates.len();
    let mut candidates = candidates.into_iter();
    match candidates.next() {
        Some(candidate) if count == 1 => Ok(candidate),
        first => {
            let listed = first.into_iter().chain(candidates).take(CANDIDATES_MAX).map(describe);
            let mut sentence =
                format!("{text:?} names {count} {what}: {}", listed.collect::<Vec<_>>().join(", "));
            if count > CANDIDATES_MAX {
                sentence.push_str(", ...");
            }
            Err(CliError::refused(RefusalKind::AmbiguousName, sentence))
        }
    }
}
