//! The pipeline: one planning thread, several working threads, and the job itself, which assembles in order.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::assemble::Assembler;
use super::plan::{self, Span, Strategy};
use super::work::{Item, Worker};
use crate::jobs::{Budget, JobControl, JobEnd, Lease, Stop};
use crate::types::{Refusal, RefusalKind};

/// Spans between plan and assemble: keeps all threads busy while one span takes long.
const SPANS_UNDER_WAY_MAX: usize = 16;

/// A span on its way to a working thread.
struct Task {
    number: u64,
    span: Span,
    lease: Lease,
}

/// What came of it; the lease is given back when it is assembled.
struct TaskResult {
    number: u64,
    items: Result<Vec<Item>, Refusal>,
    bytes: u64,
    _lease: Lease,
}

/// Copies a snapshot into the assembler. The first error ends everything.
pub(super) fn copy(
    worker: &Worker<'_>,
    strategy: Strategy<'_>,
    assembler: &mut Assembler<'_>,
    budget: &Budget,
    control: &JobControl,
) -> Result<(), JobEnd> {
    let (tasks, task_receiver) = bounded::<Task>(SPANS_UNDER_WAY_MAX);
    let (results, result_receiver) = bounded::<TaskResult>(SPANS_UNDER_WAY_MAX);
    // One token for each span under way; taken by the plan, given back by the assembler.
    let (token_returns, tokens) = bounded::<()>(SPANS_UNDER_WAY_MAX);
    for _ in 0..SPANS_UNDER_WAY_MAX {
        // There is room for all of them.
        let _ = token_returns.try_send(());
    }
    thread::scope(|scope| {
        let planning_job = tracing::Span::current();
        let planning = scope.spawn(move || {
            let _entered = planning_job.enter();
            plan_spans(worker, strategy, budget, control, tasks, tokens)
        });
        for _ in 0..working_threads() {
            let (tasks, results) = (task_receiver.clone(), results.clone());
            let job = tracing::Span::current();
            scope.spawn(move || {
                let _entered = job.enter();
                work_spans(worker, control, &tasks, &results);
            });
        }
        // The threads hold the only other ends now: the loops end when they do.
        drop((task_receiver, results));
        let assembled = assemble_spans(assembler, control, result_receiver, &token_returns);
        drop(token_returns);
        let planned = planning.join().unwrap_or_else(|_| {
            Err(Refusal::new(RefusalKind::Failed, "a fault in the planning of the backup; the log has more")
                .into())
        });
        // A failed assembly makes the plan stop: it is the one to tell.
        assembled.and(planned)
    })
}

/// More than cores: some wait for the source while others compute.
fn working_threads() -> usize {
    thread::available_parallelism().map_or(2, NonZeroUsize::get) + 2
}

fn plan_spans(
    worker: &Worker<'_>,
    strategy: Strategy<'_>,
    budget: &Budget,
    control: &JobControl,
    tasks: Sender<Task>,
    tokens: Receiver<()>,
) -> Result<(), JobEnd> {
    let mut number = 0;
    plan::plan(worker.snapshot, worker.chunk_size, strategy, &mut |span| {
        let stopped = || JobEnd::Stopped(Stop::Shutdown);
        tokens.recv().map_err(|_| stopped())?;
        // The bytes as they are read, and as they are stored.
        let lease = budget.acquire(span.data_bytes * 2, control)?;
        tasks.send(Task { number, span, lease }).map_err(|_| stopped())?;
        number += 1;
        Ok(())
    })
}

fn work_spans(
    worker: &Worker<'_>,
    control: &JobControl,
    tasks: &Receiver<Task>,
    results: &Sender<TaskResult>,
) {
    let mut buffer = Vec::new();
    for Task { number, span, lease } in tasks {
        if control.checkpoint().is_err() {
            return;
        }
        let items = worker.run(&span, &mut buffer);
        let bytes = span.pieces.iter().map(|piece| piece.range.len()).sum();
        if results.send(TaskResult { number, items, bytes, _lease: lease }).is_err() {
            return;
        }
    }
}

fn assemble_spans(
    assembler: &mut Assembler<'_>,
    control: &JobControl,
    results: Receiver<TaskResult>,
    token_returns: &Sender<()>,
) -> Result<(), JobEnd> {
    let mut early: BTreeMap<u64, TaskResult> = BTreeMap::new();
    let mut next = 0;
    for result in &results {
        early.insert(result.number, result);
        while let Some(result) = early.remove(&next) {
            for item in result.items? {
                assembler.add(item).map_err(Refusal::from)?;
            }
            control.add_done(result.bytes);
            control.checkpoint()?;
            next += 1;
            let _ = token_returns.try_send(());
        }
    }
    control.checkpoint()?;
    Ok(())
}
