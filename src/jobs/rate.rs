//! How fast a job goes just now: a few samples of its counter, bounded in number. Time is passed in.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What "just now" means: long enough to smooth a pack being synced, short enough to show a stall.
const WINDOW: Duration = Duration::from_secs(5);

/// A sample every quarter second is 20 in the window; one more stands before its start.
pub(super) const SAMPLE_EVERY: Duration = Duration::from_millis(250);
const SAMPLES_MAX: usize = 22;

#[derive(Debug)]
pub(super) struct RecentRate {
    samples: VecDeque<(Instant, u64)>,
}

impl RecentRate {
    pub(super) fn starting_at(now: Instant) -> Self {
        Self { samples: VecDeque::from([(now, 0)]) }
    }

    /// Notes the counter, unless it was noted a moment ago.
    pub(super) fn sample(&mut self, now: Instant, done: u64) {
        if self.samples.back().is_some_and(|(at, _)| now.saturating_duration_since(*at) < SAMPLE_EVERY) {
            return;
        }
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back((now, done));
    }

    /// Returns the bytes per second since the last sample that is older than the window, or since the start.
    pub(super) fn per_second(&self, now: Instant, done: u64) -> u64 {
        let before_window =
            self.samples.iter().rev().find(|(at, _)| now.saturating_duration_since(*at) >= WINDOW);
        let Some((since, done_then)) = before_window.or(self.samples.front()) else { return 0 };
        per_second(done.saturating_sub(*done_then), now.saturating_duration_since(*since))
    }
}

/// Returns a rate; that of no time at all is 0.
pub(super) fn per_second(bytes: u64, time: Duration) -> u64 {
    let micros = time.as_micros();
    if micros == 0 {
        return 0;
    }
    u64::try_from(u128::from(bytes) * 1_000_000 / micros).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_follows_the_recent_seconds_and_shows_a_stall() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut rate = RecentRate::starting_at(start);
        assert_eq!(rate.per_second(at(0), 0), 0);
        // 1000 bytes a second for a minute, then ten times as fast for ten seconds.
        let mut done = 0;
        for step in 1..=240 {
            done += 250;
            rate.sample(at(step * 250), done);
        }
        assert_eq!(rate.per_second(at(60_000), done), 1000);
        for step in 1..=40 {
            done += 2500;
            rate.sample(at(60_000 + step * 250), done);
        }
        assert_eq!(rate.per_second(at(70_000), done), 10_000);
        assert!(rate.samples.len() <= SAMPLES_MAX);
        assert_eq!(rate.per_second(at(80_000), done), 0);
    }
}
