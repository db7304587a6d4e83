//! The memory of everything in flight, over all jobs: leases of bytes, given in the order they were asked for.
//! The leases that are out never exceed the budget, but for a single one that alone is larger.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::control::{JobControl, Stop};
use super::metrics::{MEMORY, MEMORY_LIMIT};

/// How long a stop may go unnoticed by somebody who waits for memory.
const STOP_CHECKED_EVERY: Duration = Duration::from_millis(50);

/// A number of bytes that all jobs share. Clones are the same budget.
///
/// Whoever waits for a lease while holding another can wait for itself: take one lease for all that a step needs.
#[derive(Debug, Clone)]
pub struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bytes_max: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    bytes_out: u64,
    last_ticket: u64,
    /// Only the first is served: a large request is not starved by small ones behind it.
    line: VecDeque<u64>,
}

/// Some bytes of the budget, given back on drop.
#[derive(Debug)]
pub struct Lease {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Budget {
    pub fn new(bytes_max: u64) -> Self {
        MEMORY_LIMIT.set(bytes_max);
        let shared = Shared { bytes_max, state: Mutex::default(), changed: Condvar::new() };
        Self { shared: Arc::new(shared) }
    }

    pub fn bytes_max(&self) -> u64 {
        self.shared.bytes_max
    }

    pub fn bytes_out(&self) -> u64 {
        self.shared.lock().bytes_out
    }

    /// Waits until the bytes are free and everybody who asked before has been served.
    ///
    /// A request for more than the whole budget is granted when nothing else is out.
    pub fn acquire(&self, bytes: u64, control: &JobControl) -> Result<Lease, Stop> {
        let shared = &self.shared;
        let mut state = shared.lock();
        state.last_ticket += 1;
        let ticket = state.last_ticket;
        state.line.push_back(ticket);
        loop {
            let stopped = control.checkpoint();
            let fits = state.bytes_out == 0
                || state.bytes_out.checked_add(bytes).is_some_and(|sum| sum <= shared.bytes_max);
            let served = state.line.front() == Some(&ticket) && fits;
            if stopped.is_err() || served {
                state.line.retain(|waiting| *waiting != ticket);
                // The next in line may fit beside this one.
                shared.changed.notify_all();
                stopped?;
                state.bytes_out += bytes;
                MEMORY.take(bytes);
                return Ok(Lease { shared: Arc::clone(shared), bytes });
            }
            state = shared
                .changed
                .wait_timeout(state, STOP_CHECKED_EVERY)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Lease {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.bytes_out -= self.bytes;
        MEMORY.give_back(self.bytes);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    use super::*;

    fn wait_for_line(budget: &Budget, length: usize) {
        while budget.shared.lock().line.len() != length {
            thread::yield_now();
        }
    }

    #[test]
    fn the_leases_that_are_out_never_exceed_the_budget() {
        let (budget, control) = (Budget::new(100), JobControl::detached());
        let (out, most) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for thread_number in 0..8 {
                let (budget, control, out, most) = (&budget, &control, &out, &most);
                scope.spawn(move || {
                    for round in 0..200 {
                        let lease = budget.acquire(1 + (thread_number * 7 + round) % 60, control).unwrap();
                        most.fetch_max(
                            out.fetch_add(lease.bytes(), Ordering::SeqCst) + lease.bytes(),
                            Ordering::SeqCst,
                        );
                        out.fetch_sub(lease.bytes(), Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= 100);
        assert_eq!(budget.bytes_out(), 0);
    }

    #[test]
    fn a_request_larger_than_the_budget_is_granted_alone_and_not_starved_by_small_ones() {
        let (budget, control) = (Budget::new(10), JobControl::detached());
        let small = budget.acquire(5, &control).unwrap();
        let order = Mutex::new(Vec::new());
        thread::scope(|scope| {
            scope.spawn(|| {
                let _large = budget.acquire(1000, &control).unwrap();
                order.lock().unwrap().push("large");
            });
            wait_for_line(&budget, 1);
            scope.spawn(|| {
                let _late = budget.acquire(1, &control).unwrap();
                order.lock().unwrap().push("late");
            });
            // The late one would fit beside the small one, and waits behind the large one all the same.
            wait_for_line(&budget, 2);
            assert_eq!(budget.bytes_out(), 5);
            drop(small);
        });
        assert_eq!(*order.lock().unwrap(), ["large", "late"]);
    }

    #[test]
    fn a_stopped_job_leaves_the_line_and_takes_nothing() {
        let (budget, control) = (Budget::new(10), JobControl::detached());
        let all = budget.acquire(10, &control).unwrap();
        let stopped = JobControl::detached();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| budget.acquire(1, &stopped).map(|lease| lease.bytes()));
            wait_for_line(&budget, 1);
            stopped.stop(Stop::Cancelled);
            assert_eq!(waiter.join().unwrap(), Err(Stop::Cancelled));
        });
        assert_eq!(budget.bytes_out(), 10);
        drop(all);
        assert!(budget.acquire(10, &control).is_ok());
    }
}
