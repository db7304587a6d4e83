//! `status.json`: each thing that is wrong is told with since when, why and what to do, and is gone when it is put right.

use std::fs;

use rustix::io::Errno;
use serde_json::Value;

use super::Watched;
use super::support::daemon::until;

fn check(problem: &Value, health: &str) {
    assert_eq!(problem["health"], health, "{problem}");
    for field in ["since", "why", "do"] {
        assert!(problem[field].as_str().is_some_and(|text| text.len() > 10), "{field}: {problem}");
    }
}

#[test]
fn a_source_that_does_not_answer_is_named_until_it_does() {
    let watched = Watched::start();
    assert!(watched.problem("source_unreachable").is_none());
    let aside = watched.daemon.folder().join("aside");
    fs::rename(watched.volumes.path(), &aside).unwrap();
    // Nobody but who looks at the health asks for anything.
    let problem = until("the problem", || watched.problem("source_unreachable"));
    check(&problem, "degraded");
    assert!(problem["why"].as_str().unwrap().contains("source local"), "{problem}");
    assert_ne!(watched.status()["health"], "ok");
    assert_eq!(watched.metrics().value("amberfs_source_up{source=\"local\"}"), 0.0);
    assert_eq!(watched.problem("source_unreachable").unwrap()["since"], problem["since"]);
    fs::rename(&aside, watched.volumes.path()).unwrap();
    until("the end of the problem", || watched.problem("source_unreachable").is_none().then_some(()));
}

#[test]
fn a_repository_whose_disk_is_gone_is_a_failure() {
    let watched = Watched::start();
    let aside = watched.daemon.folder().join("aside");
    fs::rename(watched.repository(), &aside).unwrap();
    fs::create_dir(watched.repository()).unwrap();
    let problem = until("the problem", || watched.problem("repository_unreachable"));
    check(&problem, "failed");
    let status = watched.status();
    assert_eq!((&status["health"], &status["problems"][0]["what"]), (&"failed".into(), &problem["what"]));
    fs::remove_dir(watched.repository()).unwrap();
    fs::rename(&aside, watched.repository()).unwrap();
    until("the end of the problem", || watched.problem("repository_unreachable").is_none().then_some(()));
}

#[test]
fn a_second_daemon_and_an_unreadable_record_are_told() {
    let mut watched = Watched::start();
    watched.volume("v", 1, 1 << 20);
    let id = watched.daemon.backup("v");
    let mut second = watched.daemon.beside("", &Watched::sections(&watched.volumes));
    second.serve();
    let status = second.status();
    let problems = status["problems"].as_array().unwrap();
    let problem = problems.iter().find(|problem| problem["what"] == "repository_read_only").unwrap();
    check(problem, "degraded");
    assert!(watched.problem("repository_read_only").is_none(), "the first one writes");
    second.stop();

    watched.daemon.stop();
    fs::write(watched.repository().join("records").join(&id), "no record").unwrap();
    watched.daemon.serve();
    let problem = watched.problem("records_unreadable").unwrap();
    check(&problem, "degraded");
    assert!(problem["why"].as_str().unwrap().contains(&id), "{problem}");
    assert_eq!(watched.metrics().value("amberfs_records_unreadable"), 1.0);
}

#[test]
fn a_backup_in_error_is_told() {
    let watched = Watched::start();
    watched.volume("v", 1, 1 << 20);
    let id = watched.daemon.backup("v");
    watched.daemon.accepted("reset-state", &format!("{id} --state error\n"), "backup");
    let problem = watched.problem("backups_in_error").unwrap();
    check(&problem, "degraded");
    assert!(problem["why"].as_str().unwrap().contains(&id), "{problem}");
    watched.daemon.accepted("reset-state", &format!("{id} --state available\n"), "backup");
    assert!(watched.problem("backups_in_error").is_none());
}

#[test]
fn a_journal_that_cannot_be_written_is_a_failure_until_a_command_is_taken() {
    let mut watched = Watched::start();
    watched.volume("v", 1, 1 << 20);
    watched.daemon.stop();
    let journal = watched.repository().join("index-state/jobs");
    fs::remove_file(&journal).unwrap();
    fs::create_dir(&journal).unwrap();
    watched.daemon.serve();
    let problem = watched.problem("journal_unwritable").unwrap();
    check(&problem, "failed");
    assert_eq!(watched.status()["health"], "failed");
    watched.daemon.refused("backup", "v\n", Errno::IO, "Failed");
    assert_eq!(watched.problem("journal_unwritable").unwrap()["since"], problem["since"]);
    fs::remove_dir(&journal).unwrap();
    watched.daemon.backup("v");
    assert!(watched.problem("journal_unwritable").is_none());
}
