//! Whose each part of the tree is. What belongs to a project is closed to everybody else.

use std::collections::HashMap;

use crate::catalog::{BackupRecord, Project};
use crate::types::{ProjectName, SourceName};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

impl Owner {
    pub const ROOT: Self = Self { uid: 0, gid: 0 };
}

/// Who owns a folder, and who else may look into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    One(Owner),
    /// Several projects share it: everybody may look into it.
    Everybody,
    /// Backups of several projects are in it: nobody's names are for the others.
    NobodyAlone,
}

pub struct Owners {
    pub operator: Owner,
    by_project: HashMap<ProjectName, Owner>,
    by_source: HashMap<SourceName, Holder>,
}

impl Owners {
    pub fn new(operator: Owner, projects: &[Project]) -> Self {
        let mut owners = Self { operator, by_project: HashMap::new(), by_source: HashMap::new() };
        for project in projects {
            let owner = Owner { uid: project.uid, gid: project.gid };
            owners.by_project.insert(project.name.clone(), owner);
            for source in &project.sources {
                let holder = owners.by_source.entry(source.clone()).or_insert(Holder::One(owner));
                if *holder != Holder::One(owner) {
                    *holder = Holder::Everybody;
                }
            }
        }
        owners
    }

    /// Returns a project's owner; one that is not configured any more belongs to root.
    pub fn project(&self, name: &ProjectName) -> Owner {
        self.by_project.get(name).copied().unwrap_or(Owner::ROOT)
    }

    pub fn project_named(&self, name: &str) -> Owner {
        name.parse().map_or(Owner::ROOT, |name| self.project(&name))
    }

    pub fn source(&self, name: &SourceName) -> Holder {
        self.by_source.get(name).copied().unwrap_or(Holder::NobodyAlone)
    }

    /// A volume is its backups' project's; without backups it is whose its source is.
    pub fn volume<'a>(
        &self,
        source: &SourceName,
        backups: impl IntoIterator<Item = &'a BackupRecord>,
    ) -> Holder {
        let mut owners = backups.into_iter().map(|record| self.project(&record.project));
        let Some(first) = owners.next() else { return self.source(source) };
        if owners.all(|owner| owner == first) { Holder::One(first) } else { Holder::NobodyAlone }
    }
}
