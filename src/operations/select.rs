//! Which volume a user means: `SOURCE/NAME`, `NAME` when only one source has it, or a volume's id.

use std::sync::Arc;

use super::access::not_authorized;
use super::{Operations, Requester};
use crate::source::{Source, SourceError, VolumeInfo};
use crate::types::{Refusal, RefusalKind, SourceName, VolumeName};

/// A volume and where it lives.
pub struct VolumeSelection {
    pub source: Arc<dyn Source>,
    pub volume: VolumeInfo,
}

impl Operations {
    /// Finds the one volume of the requester's sources that `text` means.
    ///
    /// Who names the source means it: the others, which may be far away or out of reach, are asked only when it has
    /// no such volume.
    pub fn select_volume(&self, requester: &Requester, text: &str) -> Result<VolumeSelection, Refusal> {
        if let Some((source, name)) = self.qualified(text) {
            if !self.sees_source(requester, source.name()) {
                return Err(not_authorized(format!(
                    "source {} does not belong to a project of yours",
                    source.name()
                )));
            }
            match source.volume(&name) {
                Ok(volume) if self.may_use(requester, source.name(), &name) => {
                    return Ok(VolumeSelection { source: Arc::clone(source), volume });
                }
                Ok(_) => return Err(self.no_such_volume(requester, text)),
                Err(SourceError::VolumeNotFound { .. } | SourceError::InvalidName { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut found = Vec::new();
        let mut unavailable = None;
        if let Ok(name) = text.parse::<VolumeName>() {
            for source in self.sources_of(requester) {
                if !self.may_use(requester, source.name(), &name) {
                    continue;
                }
                match source.volume(&name) {
                    Ok(volume) => found.push(VolumeSelection { source: Arc::clone(source), volume }),
                    Err(SourceError::VolumeNotFound { .. } | SourceError::InvalidName { .. }) => {}
                    Err(error) => unavailable = unavailable.or(Some(error)),
                }
            }
        }
        if found.is_empty() {
            found = self.volumes_with_id(requester, text);
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
            // It may live in the source that cannot be asked now: that is not "not found". But who named a source
            // that answers got that source's answer.
            (None, _, Some(error)) if self.qualified(text).is_none() => Err(error.into()),
            (None, ..) => Err(self.no_such_volume(requester, text)),
        }
    }

    /// In a source that several projects share, a volume belongs to those that have backups of it.
    fn may_use(&self, requester: &Requester, source: &SourceName, volume: &VolumeName) -> bool {
        let backups = self.repository.catalog().of_volume(source, volume);
        backups.is_empty() || backups.iter().any(|record| requester.owns(&record.project))
    }

    /// Reads `SOURCE/NAME`.
    pub(super) fn qualified(&self, text: &str) -> Option<(&Arc<dyn Source>, VolumeName)> {
        self.sources.iter().find_map(|source| {
            let rest = text.strip_prefix(source.name().as_str())?.strip_prefix('/')?;
            Some((source, rest.parse().ok()?))
        })
    }

    /// Looks among the volumes that have backups only: no source can be asked for an id.
    fn volumes_with_id(&self, requester: &Requester, text: &str) -> Vec<VolumeSelection> {
        let mut names: Vec<_> = self
            .repository
            .catalog()
            .all()
            .iter()
            .filter(|record| record.volume_id.as_str() == text)
            .filter(|record| requester.owns(&record.project) && self.sees_source(requester, &record.source))
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

    fn no_such_volume(&self, requester: &Requester, text: &str) -> Refusal {
        let sources: Vec<_> =
            self.sources_of(requester).iter().map(|source| source.name().to_string()).collect();
        let sentence =
            format!("there is no volume {text:?} in {}; `amberfs volume list` shows all", sources.join(", "));
        Refusal::new(RefusalKind::VolumeNotFound, sentence)
    }
}
