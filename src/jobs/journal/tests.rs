//! Tests of what the queue remembers over a restart, a kill and a loss.

use std::fs;
use std::io::Write;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::*;
use crate::jobs::{
    Event, EventObserver, JobControl, JobEnd, JobQueue, JobQueueOptions, JobState, JobSubject, Slot,
};
use crate::types::{Refusal, RefusalKind};

/// Notes each event as `NUMBER STATE`, or `NUMBER BYTES` for progress.
#[derive(Default)]
struct Seen(Mutex<Vec<String>>);

impl Seen {
    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl EventObserver for Seen {
    fn observe(&self, event: Event<'_>) {
        self.0.lock().unwrap().push(match event {
            Event::Job(report) => format!("{} {}", report.id, report.state),
            Event::Progress(progress) => format!("{} {}", progress.job, progress.bytes_done),
            Event::Backup(backup) => backup.status.to_owned(),
        });
    }
}

fn options() -> JobQueueOptions {
    JobQueueOptions { operations_max: 2, finished_kept: 5, finished_kept_seconds: 3600 }
}

fn open(folder: &Path) -> (JobQueue, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    (JobQueue::open(options(), folder, Arc::clone(&seen) as _), seen)
}

fn subject(backup: &str) -> JobSubject {
    JobSubject { backup: Some(backup.to_owned()), volume: Some("local/v".into()), project: "p".into() }
}

/// Runs a job to its end.
fn run(queue: &JobQueue, end: Result<(), JobEnd>) -> JobReport {
    let work = move |control: &JobControl| {
        control.set_total(10);
        control.add_done(7);
        end
    };
    let id = queue.submit("backup", subject("b"), Slot::Operation, work).unwrap();
    queue.wait(id).unwrap()
}

/// Submits a job that runs until it is let go; returns when it runs.
fn submit_gated(queue: &JobQueue, backup: &str) -> (JobId, Sender<()>) {
    let ((open, gate), (running, is_running)) = (channel::<()>(), channel());
    let work = move |control: &JobControl| {
        running.send(()).unwrap();
        let _opened_or_dropped = gate.recv();
        Ok(control.checkpoint()?)
    };
    let id = queue.submit("backup", subject(backup), Slot::Operation, work).unwrap();
    is_running.recv().unwrap();
    (id, open)
}

/// Leaves the files as a kill would: what a daemon does later is not in them.
fn killed(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    fs::copy(folder.join("jobs"), copy.path().join("jobs")).unwrap();
    copy
}

fn numbers(queue: &JobQueue) -> Vec<u64> {
    queue.reports().iter().map(|report| report.id.0).collect()
}

#[test]
fn ended_jobs_are_shown_after_a_restart_as_they_were_and_their_numbers_are_not_given_again() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = Refusal::new(RefusalKind::VolumeInUse, "open elsewhere: by\nsomebody");
    let (queue, _) = open(folder.path());
    let done = run(&queue, Ok(()));
    let failed = run(&queue, Err(JobEnd::Failed(refusal)));
    assert_eq!((done.bytes_done, done.bytes_total, failed.state), (7, 10, JobState::Failed));
    let shown: Vec<_> = queue.reports().iter().map(|report| serde_json::to_string(report).unwrap()).collect();
    drop(queue);
    // Twice: the journal that the first start wrote anew is read by the second.
    for _ in 0..2 {
        let (queue, _) = open(folder.path());
        let now: Vec<_> =
            queue.reports().iter().map(|report| serde_json::to_string(report).unwrap()).collect();
        assert_eq!(now, shown);
    }
    assert_eq!(run(&open(folder.path()).0, Ok(())).id, JobId(3));
}

#[test]
fn a_number_is_durable_when_it_is_told_and_outlives_the_report_of_its_job() {
    let folder = tempfile::tempdir().unwrap();
    let none_kept = JobQueueOptions { finished_kept: 0, ..options() };
    let queue = JobQueue::open(none_kept.clone(), folder.path(), Arc::new(Seen::default()));
    for _ in 0..5 {
        run_and_forget(&queue);
    }
    let (id, _gate) = submit_gated(&queue, "b");
    assert_eq!(id, JobId(6));
    let killed = killed(folder.path());
    let queue = JobQueue::open(none_kept.clone(), killed.path(), Arc::new(Seen::default()));
    queue.end_unresumed(|_| false);
    drop(queue);
    // Written anew, the journal holds the number alone.
    drop(JobQueue::open(none_kept.clone(), killed.path(), Arc::new(Seen::default())));
    let queue = JobQueue::open(none_kept, killed.path(), Arc::new(Seen::default()));
    assert_eq!(numbers(&queue), Vec::<u64>::new());
    assert_eq!(submit_gated(&queue, "b").0, JobId(7));
}

/// Its report may be forgotten before anybody has asked for it.
fn run_and_forget(queue: &JobQueue) {
    let (ran, has_run) = channel();
    let work = move |_: &JobControl| {
        ran.send(()).unwrap();
        Ok(())
    };
    queue.submit("backup", subject("b"), Slot::Operation, work).unwrap();
    has_run.recv().unwrap();
}

#[test]
fn what_a_killed_daemon_left_is_resumed_under_its_number_or_ended() {
    let folder = tempfile::tempdir().unwrap();
    let (queue, _) = open(folder.path());
    let gates = [submit_gated(&queue, "one"), submit_gated(&queue, "two")];
    // Nothing runs of these: two operations at once are all.
    for backup in ["three", "four"] {
        queue.submit("backup", subject(backup), Slot::Operation, |_| Ok(())).unwrap();
    }
    let killed = killed(folder.path());
    drop(gates);

    let (queue, seen) = open(killed.path());
    let left = queue.unfinished_before();
    assert_eq!(left.iter().map(|report| report.id.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert!(left.iter().all(|report| report.state == JobState::Queued));
    let resume = |kind, backup: &str| {
        queue.resume(kind, subject(backup), Slot::Operation, |control| Ok(control.checkpoint()?)).unwrap()
    };
    assert_eq!(resume("backup", "two"), JobId(2));
    assert_eq!(resume("restore", "one"), JobId(5), "a job of another kind is another job");
    assert_eq!(resume("backup", "unheard of"), JobId(6));
    // Cancelled before it is taken up again: it stops when it is.
    queue.cancel(JobId(4)).unwrap();
    assert_eq!(resume("backup", "four"), JobId(4));
    assert_eq!(queue.wait(JobId(4)).unwrap().state, JobState::Cancelled);
    for id in [2, 5, 6] {
        queue.wait(JobId(id)).unwrap();
    }
    queue.end_unresumed(|report| report.backup.as_deref() == Some("three"));
    let states: Vec<_> = queue.reports().into_iter().map(|report| (report.id.0, report.state)).collect();
    // Five ended jobs are kept: the first that ended is forgotten.
    let expected = [
        (1, JobState::Failed),
        (3, JobState::Done),
        (4, JobState::Cancelled),
        (5, JobState::Done),
        (6, JobState::Done),
    ];
    assert!(states.iter().all(|state| expected.contains(state) || state.0 == 2), "{states:?}");
    let error = queue.report(JobId(1)).unwrap().error.unwrap().to_string();
    assert_eq!(error, "Failed: the daemon ended while the job ran");
    assert_eq!(queue.unfinished_before(), []);
    let of_two: Vec<_> = seen.lines().into_iter().filter(|line| line.starts_with("2 ")).collect();
    assert_eq!(of_two, ["2 queued", "2 running", "2 done"]);
}

#[test]
fn what_an_ending_daemon_stopped_is_left_to_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let (queue, seen) = open(folder.path());
    let until_stopped = |control: &JobControl| loop {
        if let Err(stop) = control.checkpoint() {
            return Err(stop.into());
        }
        std::thread::yield_now();
    };
    let id = queue.submit("backup", subject("one"), Slot::Operation, until_stopped).unwrap();
    let (cancelled, gate_of_cancelled) = submit_gated(&queue, "two");
    queue.cancel(cancelled).unwrap();
    drop(gate_of_cancelled);
    queue.wait(cancelled).unwrap();
    assert_eq!(queue.stop_all(Instant::now() + Duration::from_secs(60)), 0);
    queue.end_unresumed(|_| false);
    assert!(!seen.lines().contains(&"1 cancelled".to_owned()), "a job that goes on has not ended");
    drop(queue);
    // Written anew in between, it stays unfinished.
    drop(open(folder.path()));
    let (queue, _) = open(folder.path());
    assert_eq!(queue.unfinished_before().iter().map(|report| report.id).collect::<Vec<_>>(), [id]);
    assert_eq!(queue.report(cancelled).unwrap().state, JobState::Cancelled);
    // Left jobs hinder nobody who ends the queue, and nobody waits for them in vain.
    assert_eq!(queue.stop_all(Instant::now() + Duration::from_secs(60)), 0);
    assert_eq!(queue.wait(id).unwrap().state, JobState::Cancelled);
    drop(queue);
    assert_eq!(open(folder.path()).0.unfinished_before().len(), 1);
}

#[test]
fn torn_and_damaged_lines_are_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let (queue, _) = open(folder.path());
    run(&queue, Ok(()));
    run(&queue, Ok(()));
    drop(queue);
    let path = folder.path().join("jobs");
    let good = fs::read(&path).unwrap();
    let last_line = good.iter().rev().skip(1).position(|byte| *byte == b'\n').unwrap() + 1;
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(
        b"{\"last_id\":99999999999999999999}\n{\"last_id\":18446744073709551615}\n\xff\xfe\n\n{}\n",
    )
    .unwrap();
    file.write_all(&[b'x'; 3 * LINE_BYTES_MAX]).unwrap();
    file.write_all(b"\n").unwrap();
    // A good line behind the damage counts, and one that breaks off does not.
    file.write_all(
        &String::from_utf8_lossy(&good[good.len() - last_line..])
            .replace("\"id\":2", "\"id\":7")
            .into_bytes(),
    )
    .unwrap();
    file.write_all(&good[good.len() - last_line..][..last_line / 2]).unwrap();
    let (queue, _) = open(folder.path());
    assert_eq!(numbers(&queue), [1, 2, 7]);
    assert_eq!(run(&queue, Ok(())).id, JobId(8));
}

#[test]
fn a_lost_journal_costs_the_numbers_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    run(&open(&state).0, Ok(()));
    fs::remove_dir_all(&state).unwrap();
    let (queue, _) = open(&state);
    assert_eq!(numbers(&queue), Vec::<u64>::new());
    assert_eq!(run(&queue, Ok(())).id, JobId(1));
    // Something else under its name: jobs are refused, and taken when it is out of the way.
    drop(queue);
    fs::remove_file(state.join("jobs")).unwrap();
    fs::create_dir(state.join("jobs")).unwrap();
    let (queue, seen) = open(&state);
    let refused = queue.submit("backup", subject("b"), Slot::Operation, |_| Ok(()));
    let sentence = refused.unwrap_err().to_string();
    assert!(sentence.contains("state/jobs"), "{sentence}");
    assert_eq!((numbers(&queue), seen.lines()), (Vec::new(), Vec::new()));
    fs::remove_dir(state.join("jobs")).unwrap();
    run(&queue, Ok(()));
    drop(queue);
    assert_eq!(numbers(&open(&state).0).len(), 1);
}

#[test]
fn the_journal_is_written_anew_before_it_is_several_times_what_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let (queue, _) = open(folder.path());
    let mut longest = 0;
    for _ in 0..600 {
        run(&queue, Ok(()));
        longest = longest.max(fs::metadata(folder.path().join("jobs")).unwrap().len());
    }
    assert!(longest > COMPACTED_FROM_BYTES / 2, "the journal is not written to: {longest}");
    assert!(longest < COMPACTED_FROM_BYTES + 1024, "{longest}");
    let before = numbers(&queue);
    drop(queue);
    assert_eq!(numbers(&open(folder.path()).0), before);
    assert!(fs::read_dir(folder.path().join("tmp")).unwrap().next().is_none());
}

#[test]
fn events_come_in_the_order_of_the_changes_with_progress_in_between() {
    let folder = tempfile::tempdir().unwrap();
    let (queue, seen) = open(folder.path());
    let told = Arc::clone(&seen);
    let work = move |control: &JobControl| {
        control.add_done(5);
        let patience = Instant::now() + Duration::from_secs(60);
        while told.lines().len() < 3 && Instant::now() < patience {
            std::thread::yield_now();
        }
        Ok(())
    };
    let id = queue.submit("backup", subject("b"), Slot::Operation, work).unwrap();
    queue.wait(id).unwrap();
    assert_eq!(seen.lines(), ["1 queued", "1 running", "1 5", "1 done"]);
}
