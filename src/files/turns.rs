//! Who may ask next: one request at a time, and few that wait for one that takes long.
//!
//! Who waits holds a thread that other file systems need. While requests are answered as they should be, all wait their
//! short time; behind one that does not come to its end few do, and the others are told at once.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Those that wait however long it takes.
pub const WAITING_MAX: usize = 3;
/// A request that has taken as long takes long.
const LONG: Duration = Duration::from_secs(2);

#[derive(Default)]
pub struct Turns {
    state: Mutex<TurnsState>,
    /// A turn ended.
    ended: Condvar,
}

#[derive(Default)]
struct TurnsState {
    /// When the turn began that is being taken.
    since: Option<Instant>,
    waiting: usize,
}

/// The turn of one caller, until it is dropped.
pub struct Turn<'a>(&'a Turns);

impl Turns {
    /// Waits for a turn; none when enough others wait for one that takes long.
    pub fn take(&self) -> Option<Turn<'_>> {
        let mut state = self.lock();
        state.waiting += 1;
        while let Some(since) = state.since {
            let rest = LONG.saturating_sub(since.elapsed());
            if rest.is_zero() && state.waiting > WAITING_MAX {
                state.waiting -= 1;
                return None;
            }
            state = if rest.is_zero() {
                self.ended.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.ended.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0
            };
        }
        state.waiting -= 1;
        state.since = Some(Instant::now());
        Some(Turn(self))
    }

    fn lock(&self) -> MutexGuard<'_, TurnsState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.lock().since = None;
        // All: one that is woken may have found that it has waited too long.
        self.0.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    #[test]
    fn behind_a_turn_that_takes_long_three_wait_and_the_others_are_told() {
        let turns = Turns::default();
        let turn = turns.take().unwrap();
        thread::scope(|scope| {
            let (told, results) = channel();
            for _ in 0..8 {
                let (turns, told) = (&turns, told.clone());
                scope.spawn(move || told.send(turns.take().is_some()).unwrap());
            }
            for _ in 0..8 - WAITING_MAX {
                assert!(!results.recv().unwrap(), "told before the turn ends");
            }
            assert_eq!(turns.lock().waiting, WAITING_MAX);
            drop(turn);
            for _ in 0..WAITING_MAX {
                assert!(results.recv().unwrap(), "waited for");
            }
        });
        assert!(turns.take().is_some());
    }

    #[test]
    fn short_turns_are_waited_for_by_all() {
        let turns = Turns::default();
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        assert!(turns.take().is_some());
                    }
                });
            }
        });
    }
}
