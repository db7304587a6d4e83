//! Who may do what. A user commands what belongs to the projects of his uid; the operator everything.
//!
//! What is not the user's is not there for him: its names are not found. Only who knows a whole id is told that it is
//! somebody else's.

use std::sync::Arc;

use super::Operations;
use crate::catalog::{BackupRecord, Project};
use crate::source::Source;
use crate::types::{BackupId, ProjectName, Refusal, RefusalKind, SourceName};

/// Whoever gives a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requester {
    /// The projects that are his; `None` for the operator.
    projects: Option<Vec<ProjectName>>,
}

impl Requester {
    /// Root, and the user that the daemon runs as.
    pub const OPERATOR: Self = Self { projects: None };

    /// May he see and change what belongs to this project?
    pub fn owns(&self, project: &ProjectName) -> bool {
        self.projects.as_ref().is_none_or(|projects| projects.contains(project))
    }

    pub(super) fn is_operator(&self) -> bool {
        self.projects.is_none()
    }
}

impl Operations {
    /// Returns what the user with this uid may do.
    pub fn requester(&self, uid: u32) -> Requester {
        if uid == 0 || uid == rustix::process::geteuid().as_raw() {
            return Requester::OPERATOR;
        }
        let own = self.options.projects.iter().filter(|project| project.uid == uid);
        Requester { projects: Some(own.map(|project| project.name.clone()).collect()) }
    }

    /// Finds the one backup of the requester's projects that `text` means.
    pub(super) fn select_backup(
        &self,
        requester: &Requester,
        text: &str,
    ) -> Result<Arc<BackupRecord>, Refusal> {
        let catalog = self.repository.catalog();
        let by_id = text.parse::<BackupId>().ok().and_then(|id| catalog.get(id));
        if let Some(record) = by_id
            && !requester.owns(&record.project)
        {
            return Err(not_authorized(format!("backup {text} does not belong to a project of yours")));
        }
        catalog.select(text, |record| requester.owns(&record.project))
    }

    /// Returns the sources of which the requester may see and use the volumes.
    pub(super) fn sources_of(&self, requester: &Requester) -> Vec<&Arc<dyn Source>> {
        let visible = |source: &&Arc<dyn Source>| self.sees_source(requester, source.name());
        self.sources.iter().filter(visible).collect()
    }

    pub(super) fn sees_source(&self, requester: &Requester, source: &SourceName) -> bool {
        let own = |project: &&Project| requester.owns(&project.name);
        requester.is_operator()
            || self.options.projects.iter().filter(own).any(|project| project.sources.contains(source))
    }

    /// Returns the project that what the requester makes in a source belongs to: the first of his that has it.
    pub(super) fn project_of(&self, requester: &Requester, source: &SourceName) -> Result<&Project, Refusal> {
        let mut own = self.options.projects.iter().filter(|project| requester.owns(&project.name));
        own.find(|project| project.sources.contains(source)).ok_or_else(|| {
            let whose = if requester.is_operator() { "in the configuration" } else { "of yours" };
            not_authorized(format!("no project {whose} has the source {source}"))
        })
    }

    pub(super) fn project_named(&self, name: &ProjectName) -> Option<&Project> {
        self.options.projects.iter().find(|project| project.name == *name)
    }
}

pub(super) fn not_authorized(sentence: String) -> Refusal {
    Refusal::new(RefusalKind::NotAuthorized, sentence)
}
