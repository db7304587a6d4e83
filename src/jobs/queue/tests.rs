//! Tests of the queue: order, limits, cancelling, shutting down.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::*;
use crate::jobs::JobState;

fn queue(operations_max: usize) -> JobQueue {
    JobQueue::new(JobQueueOptions { operations_max, finished_kept: 100, finished_kept_seconds: 3600 })
}

fn subject() -> JobSubject {
    JobSubject { backup: None, volume: Some("local/v".into()), project: "default".into() }
}

/// Queues a job that runs until a checkpoint stops it, and waits until it runs.
fn submit_endless(queue: &JobQueue) -> JobId {
    let (running, is_running) = channel();
    let id = queue.submit("endless", subject(), Slot::Operation, move |control| {
        running.send(()).unwrap();
        loop {
            control.checkpoint()?;
            thread::yield_now();
        }
    });
    is_running.recv().unwrap();
    id.unwrap()
}

fn submit_gated(queue: &JobQueue) -> (JobId, Sender<()>) {
    let (open, gate): (Sender<()>, Receiver<()>) = channel();
    let id = queue.submit("gated", subject(), Slot::Operation, move |_| {
        let _opened_or_dropped = gate.recv();
        Ok(())
    });
    (id.unwrap(), open)
}

#[test]
fn operations_run_in_order_and_never_more_than_allowed() {
    let queue = queue(3);
    let seen = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let ids: Vec<_> = (0..40)
        .map(|_| {
            let seen = Arc::clone(&seen);
            let work = move |_: &JobControl| {
                let now = seen.0.fetch_add(1, Ordering::SeqCst) + 1;
                seen.1.fetch_max(now, Ordering::SeqCst);
                thread::yield_now();
                seen.0.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            };
            queue.submit("count", subject(), Slot::Operation, work).unwrap()
        })
        .collect();
    for id in &ids {
        assert_eq!(queue.wait(*id).unwrap().state, JobState::Done);
    }
    assert!((1..=3).contains(&seen.1.load(Ordering::SeqCst)));
    let reports = queue.reports();
    assert_eq!(reports.iter().map(|report| report.id).collect::<Vec<_>>(), ids);
    assert!(reports.is_sorted_by_key(|report| report.started_at));
}

#[test]
fn one_at_a_time_is_strictly_in_order_and_a_free_job_does_not_wait() {
    let queue = queue(1);
    let (first, open) = submit_gated(&queue);
    let order = Arc::new(Mutex::new(Vec::new()));
    let submit = |number, slot| {
        let order = Arc::clone(&order);
        let work = move |_: &JobControl| {
            order.lock().unwrap().push(number);
            Ok(())
        };
        queue.submit("note", subject(), slot, work).unwrap()
    };
    let (second, third) = (submit(2, Slot::Operation), submit(3, Slot::Operation));
    let free = submit(4, Slot::Free);
    assert_eq!(queue.wait(free).unwrap().state, JobState::Done);
    assert_eq!(queue.report(second).unwrap().state, JobState::Queued);
    assert_eq!(queue.report(first).unwrap().state, JobState::Running);
    drop(open);
    queue.wait(third).unwrap();
    assert_eq!(*order.lock().unwrap(), [4, 2, 3]);
}

#[test]
fn a_running_job_is_cancelled_at_its_checkpoint_and_its_slot_is_free_again() {
    let queue = queue(1);
    let id = submit_endless(&queue);
    queue.cancel(id).unwrap();
    let report = queue.wait(id).unwrap();
    assert_eq!((report.state, report.error), (JobState::Cancelled, None));
    assert!(report.started_at.is_some() && report.ended_at.is_some());
    assert_eq!(queue.cancel(id), Err(JobError::Ended { id, state: JobState::Cancelled }));
    let (next, open) = submit_gated(&queue);
    drop(open);
    assert_eq!(queue.wait(next).unwrap().state, JobState::Done);
}

#[test]
fn a_queued_job_is_cancelled_without_running_and_what_it_held_is_dropped_first() {
    let queue = queue(1);
    let (_first, open) = submit_gated(&queue);
    let (dropped, is_dropped) = channel::<()>();
    let work = move |_: &JobControl| {
        dropped.send(()).unwrap();
        Ok(())
    };
    let second = queue.submit("never", subject(), Slot::Operation, work).unwrap();
    queue.cancel(second).unwrap();
    let report = queue.wait(second).unwrap();
    assert_eq!((report.state, report.started_at), (JobState::Cancelled, None));
    assert!(is_dropped.recv().is_err());
    drop(open);
    assert_eq!(queue.cancel(JobId(77)), Err(JobError::NotFound { id: JobId(77) }));
}

#[test]
fn a_failure_and_a_panic_make_the_job_failed_and_the_queue_goes_on() {
    let queue = queue(1);
    let refusal = Refusal::new(RefusalKind::VolumeInUse, "open elsewhere");
    let failing = refusal.clone();
    let failed = queue.submit("fail", subject(), Slot::Operation, |_| Err(JobEnd::Failed(failing))).unwrap();
    let panicking =
        queue.submit("panic", subject(), Slot::Operation, |_| panic!("a fault for a test")).unwrap();
    let last = queue.submit("last", subject(), Slot::Operation, |_| Ok(())).unwrap();
    assert_eq!(queue.wait(failed).unwrap().error, Some(refusal));
    let report = queue.wait(panicking).unwrap();
    assert_eq!(report.state, JobState::Failed);
    assert!(report.error.unwrap().to_string().contains("a fault for a test"));
    assert_eq!(queue.wait(last).unwrap().state, JobState::Done);
}

#[test]
fn shutdown_stops_the_running_starts_none_of_the_queued_and_takes_no_more() {
    let queue = queue(1);
    let running = submit_endless(&queue);
    let (queued, _open) = submit_gated(&queue);
    assert_eq!(queue.stop_all(Instant::now() + Duration::from_secs(60)), 0);
    for (id, started) in [(running, true), (queued, false)] {
        let report = queue.wait(id).unwrap();
        assert_eq!((report.state, report.started_at.is_some()), (JobState::Cancelled, started));
        assert!(report.error.unwrap().sentence.contains("shutting down"));
    }
    let refused = queue.submit("late", subject(), Slot::Free, |_| Ok(()));
    assert_eq!(refused, Err(JobError::ShuttingDown));
    // The journal keeps them for the next daemon.
    let (_, reports) = queue.shared.lock().holdings();
    assert!(reports.iter().all(|report| report.state == JobState::Queued && report.error.is_none()));
}

#[test]
fn shutdown_ends_at_its_deadline_when_a_job_does_not_listen() {
    let queue = queue(1);
    let (deaf, open) = submit_gated(&queue);
    assert_eq!(queue.stop_all(Instant::now() + Duration::from_millis(20)), 1);
    drop(open);
    assert_eq!(queue.wait(deaf).unwrap().state, JobState::Done);
}

#[test]
fn ended_jobs_are_forgotten_oldest_first() {
    let queue =
        JobQueue::new(JobQueueOptions { operations_max: 1, finished_kept: 2, finished_kept_seconds: 3600 });
    let ids: Vec<_> = (0..5)
        .map(|_| {
            let id = queue.submit("short", subject(), Slot::Operation, |_| Ok(())).unwrap();
            queue.wait(id).unwrap();
            id
        })
        .collect();
    assert_eq!(queue.reports().iter().map(|report| report.id).collect::<Vec<_>>(), ids[3..]);
    assert_eq!(queue.wait(ids[0]).unwrap_err(), JobError::NotFound { id: ids[0] });
    let none_kept =
        JobQueue::new(JobQueueOptions { operations_max: 1, finished_kept: 0, finished_kept_seconds: 0 });
    let (id, open) = submit_gated(&none_kept);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| none_kept.wait(id).map(|report| report.state));
        // A second waiter that polls: the job is still known while the first one waits for it.
        while none_kept.shared.lock().waiters(id) == 0 {
            thread::yield_now();
        }
        drop(open);
        assert_eq!(waiter.join().unwrap(), Ok(JobState::Done));
    });
    assert_eq!(none_kept.reports(), []);
}

#[test]
fn a_report_shows_progress_while_the_job_runs_and_the_mean_rate_afterwards() {
    let queue = queue(1);
    let (go_on, gate) = channel::<()>();
    let (counted, is_counted) = channel();
    let work = move |control: &JobControl| {
        control.set_total(1000);
        control.add_done(400);
        counted.send(()).unwrap();
        gate.recv().unwrap();
        control.add_done(600);
        Ok(())
    };
    let id = queue.submit("progress", subject(), Slot::Operation, work).unwrap();
    is_counted.recv().unwrap();
    let report = queue.report(id).unwrap();
    assert_eq!((report.bytes_done, report.bytes_total), (400, 1000));
    go_on.send(()).unwrap();
    let report = queue.wait(id).unwrap();
    assert_eq!(report.bytes_done, 1000);
    assert!(report.bytes_per_second > 0);
}
