//! Metrics by the values of labels that are not known beforehand, a bounded number of them.
//!
//! Finding one takes a lock: whoever counts often keeps what he found.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Sources, kinds of jobs: what a configuration or the code names. Beyond, all are counted together as [`OTHER`], so
/// that nobody can fill the memory, here or in whatever keeps the series.
const VALUES_MAX: usize = 1000;

const OTHER: &str = "other";

pub struct ByLabels<T, const N: usize> {
    make: fn() -> T,
    metrics: Mutex<BTreeMap<[String; N], Arc<T>>>,
}

impl<T, const N: usize> ByLabels<T, N> {
    pub const fn new(make: fn() -> T) -> Self {
        Self { make, metrics: Mutex::new(BTreeMap::new()) }
    }

    /// Returns the metric with these values of the labels.
    pub fn with(&self, values: [&str; N]) -> Arc<T> {
        let mut metrics = self.lock();
        let mut values = values.map(str::to_owned);
        if metrics.len() >= VALUES_MAX && !metrics.contains_key(&values) {
            values = [const { OTHER }; N].map(str::to_owned);
        }
        Arc::clone(metrics.entry(values).or_insert_with(|| Arc::new((self.make)())))
    }

    pub fn for_each(&self, mut visit: impl FnMut([&str; N], &T)) {
        for (values, metric) in self.lock().iter() {
            visit(values.each_ref().map(String::as_str), metric);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<[String; N], Arc<T>>> {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
