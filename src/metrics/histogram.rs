//! How long things took: how many took no longer than each of a few bounds, and how long all took together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// More bounds than this no histogram has.
const BOUNDS_MAX: usize = 12;

/// The upper bounds of a histogram's buckets, in seconds, ascending; at most twelve of them.
pub type Buckets = &'static [f64];

/// For requests, and for calls to a disk or another machine: 100 us to 10 s.
pub const LATENCY: Buckets = &[0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0];

#[derive(Debug)]
pub struct Histogram {
    bounds: Buckets,
    /// How many fell between each bound and the one before it; the last ones are beyond all.
    counts: [AtomicU64; BOUNDS_MAX + 1],
    sum_nanos: AtomicU64,
}

impl Histogram {
    pub const fn new(bounds: Buckets) -> Self {
        Self { bounds, counts: [const { AtomicU64::new(0) }; BOUNDS_MAX + 1], sum_nanos: AtomicU64::new(0) }
    }

    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = self.bounds.iter().take(BOUNDS_MAX).position(|bound| seconds <= *bound);
        if let Some(count) = self.counts.get(bucket.unwrap_or(BOUNDS_MAX)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Measures from now on, until what is returned is dropped.
    pub fn start(&'static self) -> Timer {
        Timer { histogram: self, started: Instant::now() }
    }

    /// Returns the bounds with how many were not beyond each, and how many there were in all.
    pub(super) fn cumulated(&self) -> (Vec<(f64, u64)>, u64) {
        let mut sum = 0;
        let mut below = |count: &AtomicU64| {
            sum += count.load(Ordering::Relaxed);
            sum
        };
        let bounds = self.bounds.iter().take(BOUNDS_MAX);
        let buckets = bounds.zip(&self.counts).map(|(bound, count)| (*bound, below(count))).collect();
        let all = self.counts.get(BOUNDS_MAX).map_or(0, &mut below);
        (buckets, all)
    }

    pub(super) fn sum_seconds(&self) -> f64 {
        Duration::from_nanos(self.sum_nanos.load(Ordering::Relaxed)).as_secs_f64()
    }
}

/// Something that is being measured.
#[derive(Debug)]
pub struct Timer {
    histogram: &'static Histogram,
    started: Instant,
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.histogram.observe(self.started.elapsed());
    }
}
