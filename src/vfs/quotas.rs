//! `quotas/PROJECT`: limits, and what is used of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::inquiry::{Inquiry, Wanted};
use super::volumes::ListingTimes;
use crate::catalog::{Project, Quota};
use crate::operations::{BackupUse, Operations, VolumeUse};
use crate::types::{ProjectName, Timestamp};

/// What is stored changes by jobs, after which it is counted again in any case, and by an import.
const STORED_FRESH: Duration = Duration::from_secs(10);

/// Counts what projects use, as it is counted when a command is checked.
pub trait UseCounter: Send + Sync {
    fn backup_use(&self, project: &Project) -> BackupUse;

    /// May block until the project's sources answer, or say why one does not.
    fn volume_use(&self, project: &Project) -> Result<VolumeUse, String>;

    /// Reads the manifests of all of the project's backups.
    fn stored_bytes(&self, project: &Project) -> Result<u64, String>;
}

impl UseCounter for Operations {
    fn backup_use(&self, project: &Project) -> BackupUse {
        self.backup_use(&project.name)
    }

    fn volume_use(&self, project: &Project) -> Result<VolumeUse, String> {
        self.volume_use(project).map_err(|refusal| refusal.to_string())
    }

    fn stored_bytes(&self, project: &Project) -> Result<u64, String> {
        self.stored_bytes(&project.name).map_err(|refusal| refusal.to_string())
    }
}

pub(super) struct Quotas {
    counter: Arc<dyn UseCounter>,
    fresh: Duration,
    projects: BTreeMap<ProjectName, QuotaOf>,
}

struct QuotaOf {
    project: Arc<Project>,
    volumes: Arc<Inquiry<VolumeUse>>,
    stored: Arc<Inquiry<u64>>,
}

impl Quotas {
    pub(super) fn new(projects: &[Project], counter: Arc<dyn UseCounter>, times: ListingTimes) -> Self {
        let quota_of = |project: &Project| {
            let project = Arc::new(project.clone());
            let (uses, counted) = (Arc::clone(&counter), Arc::clone(&project));
            let count = move || uses.volume_use(&counted);
            let subject = format!("the use of volumes by project {}", project.name);
            let volumes = Inquiry::new(subject, times.deadline, count);
            let (counter, counted) = (Arc::clone(&counter), Arc::clone(&project));
            let count = move || counter.stored_bytes(&counted);
            let subject = format!("what project {} stores", project.name);
            let stored = Inquiry::new(subject, times.deadline, count);
            (project.name.clone(), QuotaOf { project, volumes, stored })
        };
        Self { fresh: times.fresh, projects: projects.iter().map(quota_of).collect(), counter }
    }

    /// Returns the names of the projects, sorted.
    pub(super) fn projects(&self) -> impl Iterator<Item = &ProjectName> {
        self.projects.keys()
    }

    /// Returns the projects and their limits, sorted by name.
    pub(super) fn limits(&self) -> impl Iterator<Item = (&ProjectName, Quota)> {
        self.projects.iter().map(|(name, of)| (name, of.project.quota))
    }

    /// Returns what is used now. Of the volumes, what was counted lately, but after `changed_at`; nothing when a source
    /// does not answer. `None` for a project that is not configured.
    pub(super) fn report(&self, name: &ProjectName, changed_at: Option<Timestamp>) -> Option<QuotaReport> {
        let QuotaOf { project, volumes, stored } = self.projects.get(name)?;
        let backups = self.counter.backup_use(project);
        let known = volumes.known(Wanted { age_max: self.fresh, after: changed_at });
        let volumes = known.answer.filter(|_| known.error.is_none());
        let stored = stored.known(Wanted { age_max: STORED_FRESH, after: changed_at });
        let quota = project.quota;
        Some(QuotaReport {
            project: name.to_string(),
            backups: Use { limit: quota.backups, used: Some(backups.count) },
            backup_gigabytes: Use { limit: quota.backup_gigabytes, used: Some(backups.gigabytes) },
            volumes: Use { limit: quota.volumes, used: volumes.map(|volumes| volumes.count) },
            gigabytes: Use { limit: quota.gigabytes, used: volumes.map(|volumes| volumes.gigabytes) },
            stored_bytes: stored.answer.filter(|_| stored.error.is_none()),
        })
    }
}

#[derive(Serialize)]
pub(super) struct QuotaReport {
    project: String,
    backups: Use,
    backup_gigabytes: Use,
    volumes: Use,
    gigabytes: Use,
    /// `None` when it is not known.
    stored_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Use {
    /// -1: none.
    limit: i64,
    /// `None` when it is not known.
    used: Option<u64>,
}
