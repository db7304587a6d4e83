//! Whose each part of the tree is. What belongs to a project is closed to everybody else.

use std::collections::HashMap;
use std::sync::Arc;

use crate::catalog::{BackupRecord, Project};
use crate::types::{ProjectName, SourceName};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

pub struct Owners {
    pub operator: Owner,
    by_project: HashMap<ProjectName, Owner>,
    by_source: HashMap<SourceName, Vec<Owner>>,
}

impl Owners {
    pub fn new(operator: Owner, projects: &[Project]) -> Self {
        let mut owners = Self { operator, by_project: HashMap::new(), by_source: HashMap::new() };
        for project in projects {
            let owner = Owner { uid: project.uid, gid: project.gid };
            owners.by_project.insert(project.name.clone(), owner);
            for source in &project.sources {
                let holders = owners.by_source.entry(source.clone()).or_default();
                if !holders.contains(&owner) {
                    holders.push(owner);
                }
            }
        }
        owners
    }

    /// Does anything belong to anybody but the operator?
    pub fn are_several(&self) -> bool {
        self.by_project.values().any(|owner| *owner != self.operator)
    }

    /// Returns a project's owner; one that is not configured any more belongs to the operator.
    pub fn project(&self, name: &ProjectName) -> Owner {
        self.by_project.get(name).copied().unwrap_or(self.operator)
    }

    pub fn project_named(&self, name: &str) -> Owner {
        name.parse().map_or(self.operator, |name| self.project(&name))
    }

    /// Returns the owners of the projects that have a source, each once; nobody when none is configured for it.
    pub fn source(&self, name: &SourceName) -> &[Owner] {
        self.by_source.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns the owners of these backups, each once.
    pub fn backups<'a>(&self, backups: impl IntoIterator<Item = &'a Arc<BackupRecord>>) -> Vec<Owner> {
        let mut owners = Vec::new();
        for record in backups {
            let owner = self.project(&record.project);
            if !owners.contains(&owner) {
                owners.push(owner);
            }
        }
        owners
    }
}
