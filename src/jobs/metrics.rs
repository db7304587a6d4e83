//! What is counted of jobs, and of the memory that they share.

use std::time::Duration;

use super::report::JobReport;
use crate::metrics::{Buckets, ByLabels, Counter, Gauge, Histogram, Kind, MetricsText};

/// From a delete of a small backup to a backup of a huge volume, in seconds.
const DURATIONS: Buckets = &[0.1, 1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 10_800.0, 43_200.0, 86_400.0];

static ENDED: ByLabels<Counter, 2> = ByLabels::new(Counter::new);
static SECONDS: ByLabels<Histogram, 1> = ByLabels::new(|| Histogram::new(DURATIONS));

/// Bytes of the memory budget that are out.
pub(super) static MEMORY: Gauge = Gauge::new();
pub(super) static MEMORY_LIMIT: Gauge = Gauge::new();

/// Counts a job that has ended; how long it took, if it ran.
pub(super) fn count_end(report: &JobReport) {
    ENDED.with([&report.kind, &report.state.to_string()]).increment();
    let Some((started, ended)) = report.started_at.zip(report.ended_at) else { return };
    let micros = u64::try_from(ended.as_micros().saturating_sub(started.as_micros())).unwrap_or(0);
    SECONDS.with([&report.kind]).observe(Duration::from_micros(micros));
}

pub(super) fn write(text: &mut MetricsText) {
    let help = "Jobs that ended since the start of the daemon.";
    let mut ended = text.family("amberfs_jobs_ended_total", Kind::Counter, help);
    ENDED.for_each(|[kind, state], count| ended.sample(&[("kind", kind), ("state", state)], count.get()));
    let help = "Time from a job's start to its end, however it ended.";
    let mut seconds = text.family("amberfs_job_duration_seconds", Kind::Histogram, help);
    SECONDS.for_each(|[kind], histogram| seconds.histogram(&[("kind", kind)], histogram));
    let help = "Memory that jobs hold of limits.memory.";
    text.gauge("amberfs_memory_budget_used_bytes", help, MEMORY.get());
    text.gauge("amberfs_memory_budget_limit_bytes", "limits.memory.", MEMORY_LIMIT.get());
}
