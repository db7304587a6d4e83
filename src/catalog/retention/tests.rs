//! What every policy holds to, over random volumes; and what the rules mean, in one example.

use proptest::prelude::{
    Just, ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest,
};
use std::collections::BTreeSet;

use super::*;

/// What may come between two backups: minutes to years, often on both sides of a period's end.
fn gap() -> impl Strategy<Value = i64> {
    let minute = 60_000_000_i64;
    prop_oneof![
        Just(0),
        1..90 * minute,
        HOUR_MICROS..30 * HOUR_MICROS,
        DAY_MICROS..20 * DAY_MICROS,
        30 * DAY_MICROS..500 * DAY_MICROS,
    ]
}

fn status() -> impl Strategy<Value = BackupStatus> {
    prop_oneof![
        12 => Just(BackupStatus::Available),
        1 => Just(BackupStatus::Creating),
        1 => Just(BackupStatus::Restoring),
        1 => Just(BackupStatus::Error),
        1 => Just(BackupStatus::Deleting),
    ]
}

/// Backups of one volume, each leaning on one of the three before it, or on none.
fn backups() -> impl Strategy<Value = Vec<RetentionCandidate>> {
    let one = (gap(), status(), proptest::bool::weighted(0.1), 0_usize..5, any::<u128>());
    proptest::collection::vec(one, 0..40).prop_map(|parts| {
        let mut time = 1_600_000_000_000_000;
        let mut backups: Vec<RetentionCandidate> = Vec::new();
        for (gap, status, protected, back, id) in parts {
            time += gap;
            let parent = back.checked_sub(1).and_then(|back| backups.iter().rev().nth(back));
            backups.push(RetentionCandidate {
                id: id_of(id),
                data_timestamp: Timestamp::from_micros(time),
                parent: parent.map(|parent| parent.id),
                status,
                protected,
            });
        }
        backups
    })
}

fn id_of(number: u128) -> BackupId {
    uuid::Uuid::from_u128(number).to_string().parse().unwrap()
}

fn retention() -> impl Strategy<Value = Retention> {
    let count = || prop_oneof![2 => Just(0_u32), 3 => 1_u32..6];
    (count(), count(), count(), count(), count(), count()).prop_map(
        |(last, hourly, daily, weekly, monthly, yearly)| Retention {
            last,
            hourly,
            daily,
            weekly,
            monthly,
            yearly,
        },
    )
}

/// The rules said in another way: the calendar's names of the periods, sorted, and the newest backup of each.
fn kept_by_definition(retention: &Retention, backups: &[RetentionCandidate]) -> BTreeSet<BackupId> {
    let considered = |b: &&RetentionCandidate| b.status == BackupStatus::Available && !b.protected;
    let considered: Vec<_> = backups.iter().filter(considered).collect();
    let mut kept = BTreeSet::new();
    let mut rule = |count: u32, name: &dyn Fn(&RetentionCandidate) -> String| {
        let mut periods: Vec<String> = considered.iter().map(|b| name(b)).collect();
        periods.sort();
        periods.dedup();
        for period in periods.iter().rev().take(count as usize) {
            let of_period = considered.iter().filter(|b| name(b) == *period);
            kept.extend(of_period.max_by_key(|b| (b.data_timestamp, b.id)).map(|b| b.id));
        }
    };
    let text = |b: &RetentionCandidate| b.data_timestamp.to_string();
    rule(retention.last, &|b| format!("{:020} {}", b.data_timestamp.as_micros(), b.id));
    rule(retention.hourly, &|b| text(b)[..13].to_owned());
    rule(retention.daily, &|b| text(b)[..10].to_owned());
    rule(retention.weekly, &|b| {
        let day: jiff::civil::Date = text(b)[..10].parse().unwrap();
        let week = day.iso_week_date();
        format!("{} {:02}", week.year(), week.week())
    });
    rule(retention.monthly, &|b| text(b)[..7].to_owned());
    rule(retention.yearly, &|b| text(b)[..4].to_owned());
    kept
}

/// What is there after a plan has been carried out.
fn after(plan: &[RetentionDecision], backups: &[RetentionCandidate]) -> Vec<RetentionCandidate> {
    let action = |id| plan.iter().find(|decision| decision.id == id).unwrap().action;
    let staying = backups.iter().filter(|backup| action(backup.id) != RetentionAction::Delete);
    let done = staying.map(|backup| {
        let flattened = action(backup.id) == RetentionAction::Flatten;
        RetentionCandidate { parent: backup.parent.filter(|_| !flattened), ..backup.clone() }
    });
    done.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_is_deleted_that_is_protected_or_needed_and_only_what_is_available_is_flattened(
        backups in backups(), retention in retention(),
    ) {
        let plan = retention.plan(&backups);
        prop_assert_eq!(plan.len(), backups.len());
        let after = after(&plan, &backups);
        for (decision, backup) in plan.iter().filter_map(|decision| {
            Some((decision, backups.iter().find(|backup| backup.id == decision.id)?))
        }) {
            match decision.action {
                RetentionAction::Keep => {}
                RetentionAction::Flatten => prop_assert_eq!(backup.status, BackupStatus::Available),
                RetentionAction::Delete => {
                    prop_assert!(!backup.protected && backup.status == BackupStatus::Available);
                }
            }
        }
        for backup in &after {
            let parent_is_there = |parent| after.iter().any(|other| other.id == parent);
            prop_assert!(backup.parent.is_none_or(parent_is_there), "{} has lost its parent", backup.id);
        }
    }

    #[test]
    fn what_the_rules_keep_is_kept_and_nothing_else_but_what_is_needed(
        backups in backups(), retention in retention(),
    ) {
        let by_definition = kept_by_definition(&retention, &backups);
        for decision in retention.plan(&backups) {
            match decision.reason {
                RetentionReason::Rules(_) => prop_assert!(by_definition.contains(&decision.id)),
                _ => prop_assert!(!by_definition.contains(&decision.id)),
            }
        }
    }

    #[test]
    fn a_second_run_does_nothing(backups in backups(), retention in retention()) {
        let after = after(&retention.plan(&backups), &backups);
        for decision in retention.plan(&after) {
            prop_assert_eq!(decision.action, RetentionAction::Keep);
        }
    }

    #[test]
    fn the_order_of_the_question_does_not_matter(
        (backups, shuffled) in backups().prop_flat_map(|backups| {
            (Just(backups.clone()), Just(backups).prop_shuffle())
        }),
        retention in retention(),
    ) {
        prop_assert_eq!(retention.plan(&backups), retention.plan(&shuffled));
    }
}

fn candidate(number: u128, time: &str, parent: Option<u128>) -> RetentionCandidate {
    RetentionCandidate {
        id: id_of(number),
        data_timestamp: time.parse().unwrap(),
        parent: parent.map(id_of),
        status: BackupStatus::Available,
        protected: false,
    }
}

/// Returns the numbers of the backups with what is done and why, newest first.
fn planned(retention: Retention, backups: &[RetentionCandidate]) -> Vec<String> {
    let plan = retention.plan(backups);
    let number = |id| (1..100).find(|number| id_of(*number) == id).unwrap();
    let line = |decision: &RetentionDecision| {
        format!("{} {} {}", number(decision.id), decision.action.as_str(), decision.reason)
    };
    plan.iter().map(line).collect()
}

#[test]
fn a_week_of_a_chain_is_aged_out_by_flattening_the_oldest_that_stays() {
    let backups = [
        candidate(1, "2026-11-15T02:00:00Z", None),
        candidate(2, "2026-11-16T02:00:00Z", Some(1)),
        candidate(3, "2026-11-17T02:00:00Z", Some(2)),
        candidate(4, "2026-11-17T14:00:00Z", Some(3)),
    ];
    let daily = Retention { daily: 2, ..Retention::default() };
    assert_eq!(
        planned(daily, &backups),
        ["4 flatten daily", "3 delete no rule keeps it", "2 flatten daily", "1 delete no rule keeps it"]
    );
    // Sunday the 15th ends a week.
    let weekly = Retention { last: 1, weekly: 2, ..Retention::default() };
    assert_eq!(planned(weekly, &backups)[0], "4 flatten last, weekly");
    assert_eq!(planned(weekly, &backups)[3], "1 keep weekly");
}

#[test]
fn what_a_backup_in_the_making_leans_on_stays_and_a_protected_one_is_flattened() {
    let mut backups = [
        candidate(1, "2026-11-15T02:00:00Z", None),
        candidate(2, "2026-11-16T02:00:00Z", Some(1)),
        candidate(3, "2026-11-17T02:00:00Z", Some(2)),
        candidate(4, "2026-11-18T02:00:00Z", Some(3)),
    ];
    let none = Retention::default();
    assert!(none.keeps_nothing());
    backups[2].protected = true;
    assert_eq!(
        planned(none, &backups),
        [
            "4 delete no rule keeps it",
            "3 flatten protected",
            "2 delete no rule keeps it",
            "1 delete no rule keeps it"
        ]
    );
    backups[2].protected = false;
    backups[2].status = BackupStatus::Restoring;
    let needed = format!("keep {} leans on it and cannot be flattened now", id_of(3));
    assert_eq!(
        planned(none, &backups),
        [
            "4 delete no rule keeps it",
            "3 keep restoring",
            format!("2 {needed}").as_str(),
            format!("1 {needed}").as_str()
        ]
    );
}
