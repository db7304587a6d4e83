//! Holds unhurried jobs back: so many bytes a second for all of them together. Time is passed in to what reckons.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::control::{JobControl, Stop};

/// How long a stop may go unnoticed by somebody who is held back.
const STOP_CHECKED_EVERY: Duration = Duration::from_millis(50);

/// A rate that several jobs share. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Pace {
    reckoning: Option<Arc<Mutex<Reckoning>>>,
}

impl Pace {
    /// Without a limit nobody is held back.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        let reckoning = |rate| Arc::new(Mutex::new(Reckoning::new(rate, Instant::now())));
        Self { reckoning: bytes_per_second.map(reckoning) }
    }

    /// Waits for as long as so many bytes take at this rate, behind what others took before. Called when they have been
    /// read.
    pub fn take(&self, bytes: u64, control: &JobControl) -> Result<(), Stop> {
        control.checkpoint()?;
        let Some(reckoning) = &self.reckoning else { return Ok(()) };
        let due = reckoning.lock().unwrap_or_else(PoisonError::into_inner).take(bytes, Instant::now());
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(STOP_CHECKED_EVERY));
            control.checkpoint()?;
        }
    }
}

/// When the next byte may be read.
#[derive(Debug)]
struct Reckoning {
    bytes_per_second: u64,
    next: Instant,
}

impl Reckoning {
    fn new(bytes_per_second: u64, now: Instant) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), next: now }
    }

    /// Returns when so many bytes are through. What was not used while nobody read is not saved up.
    fn take(&mut self, bytes: u64, now: Instant) -> Instant {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let time = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let from = self.next.max(now);
        self.next = from.checked_add(time).unwrap_or(from);
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_who_share_a_pace_take_no_more_than_its_rate_together() {
        let start = Instant::now();
        let mut reckoning = Reckoning::new(1000, start);
        let mut now = start;
        for piece in [1, 10, 100, 1000, 5000, 2, 887] {
            now = reckoning.take(piece, now);
        }
        assert_eq!(now - start, Duration::from_secs(7), "7000 bytes at 1000 a second");
        // Two at once wait one behind the other.
        let one = reckoning.take(1000, now);
        let other = reckoning.take(1000, now);
        assert_eq!((one - now, other - now), (Duration::from_secs(1), Duration::from_secs(2)));
        // An hour in which nobody read does not make a burst.
        let later = other + Duration::from_secs(3600);
        assert_eq!(reckoning.take(1000, later) - later, Duration::from_secs(1));
    }

    #[test]
    fn who_is_held_back_stops_when_it_is_told_to() {
        let (pace, control) = (Pace::new(Some(1)), JobControl::detached());
        thread::scope(|scope| {
            let held = scope.spawn(|| pace.take(1 << 40, &control));
            control.stop(Stop::Cancelled);
            assert_eq!(held.join().unwrap(), Err(Stop::Cancelled));
        });
        assert_eq!(Pace::new(None).take(u64::MAX, &JobControl::detached()), Ok(()));
    }
}
