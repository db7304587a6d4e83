//! Retention: which backups of one volume stay, which are flattened and which are deleted. Nothing is read or done
//! here.
//!
//! Each rule looks at all backups by itself, as in restic: what one rule keeps counts for the others too. A period (an
//! hour, a day, an ISO week, a month, a year, all UTC) counts only when it has a backup, so that the answer does not
//! depend on when it is asked for, and a volume that is not backed up any more loses nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use super::BackupStatus;
use crate::types::{BackupId, Timestamp};

const HOUR_MICROS: i64 = 3_600_000_000;
const DAY_MICROS: i64 = 24 * HOUR_MICROS;
/// 1970 began on a Thursday, weeks begin on Mondays.
const DAYS_BEFORE_1970_IN_ITS_WEEK: i64 = 3;

/// How many backups each rule keeps; a rule of 0 keeps none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// The newest ones, whatever their age.
    pub last: u32,
    /// The newest one of each of so many hours, and so on.
    pub hourly: u32,
    pub daily: u32,
    pub weekly: u32,
    pub monthly: u32,
    pub yearly: u32,
}

/// What is known of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionCandidate {
    pub id: BackupId,
    pub data_timestamp: Timestamp,
    /// The backup that it leans on.
    pub parent: Option<BackupId>,
    pub status: BackupStatus,
    pub protected: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetentionAction {
    Keep,
    /// It stays, and what it leans on goes.
    Flatten,
    Delete,
}

/// What is to be done with one backup, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionDecision {
    pub id: BackupId,
    pub action: RetentionAction,
    pub reason: RetentionReason,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetentionReason {
    /// All rules that keep it.
    Rules(Vec<RetentionRule>),
    Protected,
    /// Only an available backup is looked at.
    NotAvailable(BackupStatus),
    /// This backup leans on it, and is not available: it cannot be flattened.
    NeededBy(BackupId),
    NoRule,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RetentionRule {
    Last,
    Hourly,
    Daily,
    Weekly,
    Monthly,
    Yearly,
}

impl RetentionAction {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Flatten => "flatten",
            Self::Delete => "delete",
        }
    }
}

impl fmt::Display for RetentionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rules(rules) => {
                let names: Vec<&str> = rules.iter().map(|rule| rule.as_str()).collect();
                f.write_str(&names.join(", "))
            }
            Self::Protected => f.write_str("protected"),
            Self::NotAvailable(status) => status.fmt(f),
            Self::NeededBy(id) => write!(f, "{id} leans on it and cannot be flattened now"),
            Self::NoRule => f.write_str("no rule keeps it"),
        }
    }
}

impl RetentionRule {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Last => "last",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        }
    }

    /// Returns the number of the period that a time is in; `None` for the rule that does not know periods.
    fn period(self, time: Timestamp) -> Option<i64> {
        let days = time.as_micros().div_euclid(DAY_MICROS);
        match self {
            Self::Last => None,
            Self::Hourly => Some(time.as_micros().div_euclid(HOUR_MICROS)),
            Self::Daily => Some(days),
            Self::Weekly => Some((days + DAYS_BEFORE_1970_IN_ITS_WEEK).div_euclid(7)),
            Self::Monthly => {
                let date = date(time);
                Some(i64::from(date.year()) * 12 + i64::from(date.month()))
            }
            Self::Yearly => Some(i64::from(date(time).year())),
        }
    }
}

/// Returns the day in UTC; the last or first one of the calendar for a time beyond it.
fn date(time: Timestamp) -> jiff::civil::Date {
    let beyond = if time.as_micros() < 0 { jiff::civil::Date::MIN } else { jiff::civil::Date::MAX };
    jiff::Timestamp::from_microsecond(time.as_micros())
        .map_or(beyond, |time| jiff::tz::Offset::UTC.to_datetime(time).date())
}

impl Retention {
    /// Would this delete everything?
    pub fn keeps_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Decides about each backup of one volume and project. The newest comes first in the answer, so that each comes
    /// before the one it leans on, whatever the order of the question.
    ///
    /// After the flattening and deleting is done, the same question has the answer to keep all.
    pub fn plan(&self, backups: &[RetentionCandidate]) -> Vec<RetentionDecision> {
        let mut newest_first: Vec<&RetentionCandidate> = backups.iter().collect();
        newest_first.sort_by_key(|backup| std::cmp::Reverse((backup.data_timestamp, backup.id)));
        let mut kept = self.kept_by_rules(&newest_first);
        keep_for_those_that_cannot_be_flattened(&newest_first, &mut kept);
        let stays: HashSet<BackupId> = kept.keys().copied().collect();
        // A parent that is not among these is not ours to delete.
        let going: HashSet<BackupId> =
            backups.iter().map(|backup| backup.id).filter(|id| !stays.contains(id)).collect();
        let mut decide = |backup: &&RetentionCandidate| {
            let leans_on_going = backup.parent.is_some_and(|parent| going.contains(&parent));
            let (action, reason) = match (kept.remove(&backup.id), leans_on_going) {
                (Some(reason), true) => (RetentionAction::Flatten, reason),
                (Some(reason), false) => (RetentionAction::Keep, reason),
                (None, _) => (RetentionAction::Delete, RetentionReason::NoRule),
            };
            RetentionDecision { id: backup.id, action, reason }
        };
        newest_first.iter().map(&mut decide).collect()
    }

    fn kept_by_rules(&self, newest_first: &[&RetentionCandidate]) -> HashMap<BackupId, RetentionReason> {
        let mut kept = HashMap::new();
        let mut considered: Vec<&RetentionCandidate> = Vec::new();
        for backup in newest_first {
            if backup.status != BackupStatus::Available {
                kept.insert(backup.id, RetentionReason::NotAvailable(backup.status));
            } else if backup.protected {
                kept.insert(backup.id, RetentionReason::Protected);
            } else {
                considered.push(backup);
            }
        }
        let mut rules: BTreeMap<BackupId, Vec<RetentionRule>> = BTreeMap::new();
        for (rule, count) in self.rules() {
            for backup in newest_of_periods(rule, count, &considered) {
                rules.entry(backup).or_default().push(rule);
            }
        }
        kept.extend(rules.into_iter().map(|(id, rules)| (id, RetentionReason::Rules(rules))));
        kept
    }

    fn rules(&self) -> [(RetentionRule, u32); 6] {
        [
            (RetentionRule::Last, self.last),
            (RetentionRule::Hourly, self.hourly),
            (RetentionRule::Daily, self.daily),
            (RetentionRule::Weekly, self.weekly),
            (RetentionRule::Monthly, self.monthly),
            (RetentionRule::Yearly, self.yearly),
        ]
    }
}

/// Returns the newest backup of each of the last `count` periods that have one.
fn newest_of_periods(rule: RetentionRule, count: u32, newest_first: &[&RetentionCandidate]) -> Vec<BackupId> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let mut previous = None;
    let mut newest = Vec::new();
    for backup in newest_first {
        if newest.len() >= count {
            break;
        }
        let period = rule.period(backup.data_timestamp);
        if period.is_none() || period != previous {
            newest.push(backup.id);
            previous = period;
        }
    }
    newest
}

/// Keeps all that a backup leans on which cannot be flattened because it is not available.
fn keep_for_those_that_cannot_be_flattened(
    newest_first: &[&RetentionCandidate],
    kept: &mut HashMap<BackupId, RetentionReason>,
) {
    let by_id: HashMap<BackupId, &RetentionCandidate> =
        newest_first.iter().map(|backup| (backup.id, *backup)).collect();
    let mut needed = HashSet::new();
    for backup in newest_first.iter().filter(|backup| backup.status != BackupStatus::Available) {
        let mut parent = backup.parent;
        while let Some(ancestor) = parent.and_then(|id| by_id.get(&id)) {
            // What is needed already has been followed to its end; a circle ends here too.
            if !needed.insert(ancestor.id) {
                break;
            }
            kept.entry(ancestor.id).or_insert(RetentionReason::NeededBy(backup.id));
            parent = ancestor.parent;
        }
    }
}

#[cfg(test)]
mod tests;
