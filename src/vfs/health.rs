//! Is all well, and if not, what is wrong, since when, and what to do about it: for the operator, in `status.json` and
//! as numbers in `metrics`. Docs: `docs/operations.md` has a section for each kind of problem.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::Vfs;
use super::inquiry::{Inquiry, Wanted};
use crate::catalog::{BackupRecord, BackupStatus};
use crate::jobs::{JobReport, JobState};
use crate::repository::Repository;
use crate::sysio::clock;
use crate::sysio::space::Space;
use crate::types::{GIB, Timestamp};

/// With less than one part in so many left, or less than a gibibyte, a disk is nearly full.
const FREE_PART_MIN: u64 = 20;
const FREE_BYTES_MIN: u64 = GIB;
/// With less than this, nothing can be stored.
const FREE_BYTES_NEEDED: u64 = 64 << 20;

/// So many are named of many that have the same problem.
const NAMED_MAX: usize = 5;

/// How old what is known of the repository's disk may be.
const SPACE_FRESH: Duration = Duration::from_secs(10);

/// How old what is known of the sources may be when somebody looks at the health: they are asked again then, and the next
/// one who looks has the answer.
const SOURCES_FRESH: Duration = Duration::from_secs(10);

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Health {
    Ok,
    /// Something does not work, or is about to; the rest goes on.
    Degraded,
    /// No backup can be made.
    Failed,
}

/// Something that is wrong.
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    pub(super) what: &'static str,
    pub(super) health: Health,
    since: Timestamp,
    why: String,
    #[serde(rename = "do")]
    remedy: String,
}

/// What can be wrong.
pub(super) const PROBLEMS: [&str; 9] = [
    REPOSITORY_UNREACHABLE,
    REPOSITORY_READ_ONLY,
    REPOSITORY_NEARLY_FULL,
    JOURNAL_UNWRITABLE,
    SOURCE_UNREACHABLE,
    RECORDS_UNREADABLE,
    CHUNKS_DAMAGED,
    JOBS_FAILED,
    BACKUPS_IN_ERROR,
];

const REPOSITORY_UNREACHABLE: &str = "repository_unreachable";
const REPOSITORY_READ_ONLY: &str = "repository_read_only";
const REPOSITORY_NEARLY_FULL: &str = "repository_nearly_full";
const JOURNAL_UNWRITABLE: &str = "journal_unwritable";
const SOURCE_UNREACHABLE: &str = "source_unreachable";
const RECORDS_UNREADABLE: &str = "records_unreadable";
const CHUNKS_DAMAGED: &str = "chunks_damaged";
const JOBS_FAILED: &str = "jobs_failed";
const BACKUPS_IN_ERROR: &str = "backups_in_error";

/// What has to be remembered from one look at the health to the next.
pub(super) struct HealthMemory {
    /// A file server that does not answer keeps nobody waiting.
    space: Arc<Inquiry<Space>>,
    /// When a problem was seen first of which nobody else knows since when it is there.
    seen: Mutex<HashMap<&'static str, Timestamp>>,
}

impl HealthMemory {
    pub(super) fn new(repository: &Arc<Repository>, deadline: Duration) -> Self {
        let repository = Arc::clone(repository);
        let ask = move || repository.space().map_err(|error| chain(&error));
        let space = Inquiry::new("the room on the repository's disk".to_owned(), deadline, ask);
        Self { space, seen: Mutex::default() }
    }

    /// Returns the room on the repository's disk, or why it is not known.
    pub(super) fn space(&self) -> Result<Space, String> {
        let known = self.space.known(Wanted { age_max: SPACE_FRESH, after: None });
        match (known.answer, known.error) {
            (Some(space), None) => Ok(space),
            (_, error) => Err(error.unwrap_or_default()),
        }
    }

    /// Returns since when something is so; forgets it when it is not.
    fn since(&self, what: &'static str, is_so: bool) -> Timestamp {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if is_so {
            return *seen.entry(what).or_insert_with(clock::now);
        }
        seen.remove(what);
        clock::now()
    }
}

impl Vfs {
    /// Returns everything that is wrong, the worst first.
    pub(super) fn problems(&self) -> Vec<Problem> {
        self.volumes.renew(SOURCES_FRESH);
        let mut problems: Vec<Problem> = Vec::new();
        problems.extend(self.repository_problem());
        problems.extend(self.journal_problem());
        problems.extend(self.read_only_problem());
        problems.extend(self.volumes.states().filter_map(|state| {
            let (error, since) = (state.error?, state.failing_since?);
            let remedy = format!(
                "see that the storage of source {} is up and lets this host in; backups and restores of its volumes fail until then, images stay readable",
                state.name
            );
            Some(degraded(SOURCE_UNREACHABLE, since, format!("source {}: {error}", state.name), remedy))
        }));
        problems.extend(self.records_problem());
        problems.extend(self.damage_problem());
        problems.extend(failed_jobs(self.jobs.reports()));
        problems.extend(backups_in_error(&self.repository.catalog().all()));
        problems.sort_by_key(|problem| std::cmp::Reverse(problem.health));
        problems
    }

    fn repository_problem(&self) -> Option<Problem> {
        let location = self.repository.location();
        let space = self.health.space();
        let since = self.health.since(REPOSITORY_UNREACHABLE, space.is_err());
        let space = match space {
            Ok(space) => space,
            Err(error) => {
                let why = format!("the repository {location} cannot be looked at: {error}");
                let remedy = "see that its disk is mounted and answers".to_owned();
                let (what, health) = (REPOSITORY_UNREACHABLE, Health::Failed);
                return Some(Problem { what, health, since, why, remedy });
            }
        };
        let is_nearly_full = space.free < (space.total / FREE_PART_MIN).max(FREE_BYTES_MIN);
        let since = self.health.since(REPOSITORY_NEARLY_FULL, is_nearly_full);
        let why =
            format!("the disk of the repository {location} has {} of {} bytes left", space.free, space.total);
        let remedy = "enlarge it, or delete backups and run `amberfs repo gc`".to_owned();
        // A pack does not fit any more, and so no backup.
        let health = if space.free < FREE_BYTES_NEEDED { Health::Failed } else { Health::Degraded };
        is_nearly_full.then(|| Problem { health, ..degraded(REPOSITORY_NEARLY_FULL, since, why, remedy) })
    }

    fn journal_problem(&self) -> Option<Problem> {
        let failure = self.jobs.journal_failure()?;
        let why = format!("no job is taken, since its number cannot be kept: {}", failure.sentence);
        let folder = self.repository.state_folder().display();
        let remedy =
            format!("see that the disk of {folder} has room and can be written to; then try a command");
        Some(Problem { what: JOURNAL_UNWRITABLE, health: Health::Failed, since: failure.since, why, remedy })
    }

    fn read_only_problem(&self) -> Option<Problem> {
        let why = "the repository is open for reading only: another daemon writes to it, or it cannot be written to";
        let remedy = "end one of the two daemons, or see to the repository's permissions, and start this one again; leave it where reading is all that is wanted";
        self.repository
            .is_read_only()
            .then(|| degraded(REPOSITORY_READ_ONLY, self.started_at, why.to_owned(), remedy.to_owned()))
    }

    fn records_problem(&self) -> Option<Problem> {
        let unreadable = self.repository.catalog().unreadable();
        let why = format!("the records of these backups cannot be read: {}", named(unreadable.iter()));
        let remedy = "nothing is deleted meanwhile; stop the daemon, run `amberfs repo check --repair`, and start it again";
        (!unreadable.is_empty())
            .then(|| degraded(RECORDS_UNREADABLE, self.started_at, why, remedy.to_owned()))
    }

    /// What is known to be damaged in the packs.
    fn damage_problem(&self) -> Option<Problem> {
        let damage = self.repository.store().known_damage();
        let since = damage.iter().map(|place| place.found_at).min()?;
        let packs: BTreeSet<_> = damage.iter().map(|place| place.pack).collect();
        let why = format!("{} places are damaged in these packs: {}", damage.len(), named(packs.iter()));
        let remedy = "see to the repository's disk, run `amberfs backup verify --all`, and take full backups of the volumes concerned; or stop the daemon and run `amberfs repo check --repair`".to_owned();
        Some(degraded(CHUNKS_DAMAGED, since, why, remedy))
    }
}

/// The health that these problems amount to.
pub(super) fn health(problems: &[Problem]) -> Health {
    problems.iter().map(|problem| problem.health).max().unwrap_or(Health::Ok)
}

/// Jobs that failed, and that nobody has done since with success: one job for each kind and volume.
fn failed_jobs(reports: Vec<JobReport>) -> Option<Problem> {
    let mut last = BTreeMap::new();
    for report in reports {
        if matches!(report.state, JobState::Done | JobState::Failed) {
            let subject = report.volume.clone().or_else(|| report.backup.clone());
            last.insert((report.kind.clone(), subject), report);
        }
    }
    let failed: Vec<_> = last.into_values().filter(|report| report.state == JobState::Failed).collect();
    let since = failed.iter().filter_map(|report| report.ended_at).min()?;
    let jobs = failed.iter().map(|report| format!("{} ({})", report.id, report.kind));
    let why = format!("these jobs failed: {}", named(jobs));
    let remedy = "see `amberfs job show ID` for the reason, and give the command again".to_owned();
    Some(degraded(JOBS_FAILED, since, why, remedy))
}

fn backups_in_error(records: &[Arc<BackupRecord>]) -> Option<Problem> {
    let is_in_error = |record: &&Arc<BackupRecord>| {
        matches!(record.status, BackupStatus::Error | BackupStatus::ErrorDeleting)
    };
    let records: Vec<_> = records.iter().filter(is_in_error).collect();
    let since = records.iter().map(|record| record.updated_at).min()?;
    let why = format!("these backups are in error: {}", named(records.iter().map(|record| record.id)));
    let remedy =
        "see `fail_reason` in `amberfs backup show ID`; make another backup; those that are damaged may be mended (`amberfs repo check --repair`, then `amberfs backup verify`), delete the others".to_owned();
    Some(degraded(BACKUPS_IN_ERROR, since, why, remedy))
}

fn degraded(what: &'static str, since: Timestamp, why: String, remedy: String) -> Problem {
    Problem { what, health: Health::Degraded, since, why, remedy }
}

/// Names the first few.
fn named(all: impl ExactSizeIterator<Item = impl ToString>) -> String {
    let more = all.len().saturating_sub(NAMED_MAX);
    let named: Vec<_> = all.take(NAMED_MAX).map(|one| one.to_string()).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", named.join(", "))
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
