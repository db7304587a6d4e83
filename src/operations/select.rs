//! Which volume a user means: `SOURCE/NAME`, `NAME` when only one source has it, or a volume's id.

use std::sync::Arc;

use super::Operations;
use crate::source::{Source, SourceError, VolumeInfo};
use crate::types::{Refusal, RefusalKind, VolumeName};

/// A volume and where it lives.
pub struct VolumeSelection {
    pub source: Arc<dyn Source>,
    pub volume: VolumeInfo,
}

impl Operations {
    /// Finds the one volume that `text` means.
    pub fn select_volume(&self, text: &str) -> Result<VolumeSelection, Refusal> {
        let mut found = Vec::new();
        let mut unavailable = None;
        for (source, name) in self.readings(text) {
            match source.volume(&name) {
                Ok(volume) => found.push(VolumeSelection { source: Arc::clone(source), volume }),
                Err(SourceError::VolumeNotFound { .. } | SourceError::InvalidName { .. }) => {}
                Err(error) => unavailable = Some(error),
            }
        }
        if found.is_empty() {
            found = self.volumes_with_id(text);
        }
        match (found.pop(), found.is_empty(), unavailable) {
            (Some(volume), true, _) => Ok(volume),
            (Some(volume), false, _) => {
                found.push(volume);
                let names = found.iter().map(|one| format!("{}/{}", one.source.name(), one.volume.name));
                let sentence = format!(
                    "{text:?} means more than one volume: {}; write SOURCE/NAME",
                    names.collect::<Vec<_>>().join(", ")
                );
                Err(Refusal::new(RefusalKind::AmbiguousName, sentence))
            }
            // It may live in the source that cannot be asked now: that is not "not found".
            (None, _, Some(error)) => Err(error.into()),
            (None, _, None) => Err(self.no_such_volume(text)),
        }
    }

    /// Returns the places that a text can name: a name may hold slashes, so both readings are looked up.
    fn readings(&self, text: &str) -> Vec<(&Arc<dyn Source>, VolumeName)> {
        let whole = self.sources.iter().filter_map(|source| Some((source, text.parse().ok()?)));
        let qualified = self.sources.iter().filter_map(|source| {
            let rest = text.strip_prefix(source.name().as_str())?.strip_prefix('/')?;
            Some((source, rest.parse().ok()?))
        });
        qualified.chain(whole).collect()
    }

    /// Looks among the volumes that have backups only: no source can be asked for an id.
    fn volumes_with_id(&self, text: &str) -> Vec<VolumeSelection> {
        let mut names: Vec<_> = self
            .repository
            .catalog()
            .all()
            .iter()
            .filter(|record| record.volume_id.as_str() == text)
            .map(|record| (record.source.clone(), record.volume_name.clone()))
            .collect();
        names.sort();
        names.dedup();
        names
            .into_iter()
            .filter_map(|(source, name)| {
                let source = self.sources.get(&source)?;
                let volume = source.volume(&name).ok().filter(|volume| volume.id.as_str() == text)?;
                Some(VolumeSelection { source: Arc::clone(source), volume })
            })
            .collect()
    }

    fn no_such_volume(&self, text: &str) -> Refusal {
        let sources: Vec<_> = self.sources.iter().map(|source| source.name().to_string()).collect();
        let sentence =
            format!("there is no volume {text:?} in {}; `amberfs volume list` shows all", sources.join(", "));
        Refusal::new(RefusalKind::VolumeNotFound, sentence)
    }
}
