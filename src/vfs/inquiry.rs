//! A question that may take long to answer, as those to a source do. Whoever asks waits for no longer than a deadline, and
//! only the first one for that long: the question stays open meanwhile, and the last answer is given.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::sysio::clock;
use crate::types::Timestamp;

pub(super) struct Inquiry<T> {
    /// What is asked for, in the log.
    subject: String,
    ask: Box<dyn Fn() -> Result<T, String> + Send + Sync>,
    deadline: Duration,
    state: Mutex<State<T>>,
    answered: Condvar,
}

struct State<T> {
    answer: Option<T>,
    answered_at: Option<Instant>,
    /// When the last answered question was asked: what happened before is in the answer.
    holds_from: Option<Timestamp>,
    /// Since when a question is open: there is one at a time, however many ask it.
    asked_at: Option<Instant>,
    error: Option<String>,
    /// Since when there is one.
    failing_since: Option<Timestamp>,
}

/// How new an answer must be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) age_max: Duration,
    /// It was asked for after this.
    pub(super) after: Option<Timestamp>,
}

/// The last answer, and what was wrong if the question was asked in vain since.
pub(super) struct Known<T> {
    pub(super) answer: Option<T>,
    pub(super) error: Option<String>,
}

impl<T: Clone + Send + 'static> Inquiry<T> {
    pub(super) fn new(
        subject: String,
        deadline: Duration,
        ask: impl Fn() -> Result<T, String> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let state = State {
            answer: None,
            answered_at: None,
            holds_from: None,
            asked_at: None,
            error: None,
            failing_since: None,
        };
        let (state, answered) = (Mutex::new(state), Condvar::new());
        Arc::new(Self { subject, ask: Box::new(ask), deadline, state, answered })
    }

    /// Returns an answer that is new enough, or the last one when none comes before the deadline.
    pub(super) fn known(self: &Arc<Self>, wanted: Wanted) -> Known<T> {
        let mut state = self.lock();
        let mut is_asked = state.is_new_enough(wanted);
        while !is_asked {
            let asked_at = match state.asked_at {
                Some(asked_at) => asked_at,
                None => {
                    is_asked = true;
                    self.open(&mut state)
                }
            };
            while state.asked_at == Some(asked_at) {
                let left = self.deadline.saturating_sub(asked_at.elapsed());
                if left.is_zero() {
                    state.fail(&self.subject, self.too_late());
                    return state.known();
                }
                state = self.answered.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
            // Somebody else's question may have been asked too early for us.
            is_asked |= state.is_after(wanted.after);
        }
        state.known()
    }

    /// Has it asked if what is known is older than this, and does not wait for the answer.
    pub(super) fn renew(self: &Arc<Self>, age_max: Duration) {
        let mut state = self.lock();
        match state.asked_at {
            Some(asked_at) if asked_at.elapsed() >= self.deadline => {
                state.fail(&self.subject, self.too_late());
            }
            Some(_) => {}
            None if state.is_new_enough(Wanted { age_max, after: None }) => {}
            None => drop(self.open(&mut state)),
        }
    }

    fn too_late(&self) -> String {
        format!("no answer within {} s", self.deadline.as_secs_f32())
    }

    /// Returns what was wrong when it was asked last.
    pub(super) fn error(&self) -> Option<String> {
        self.lock().error.clone()
    }

    /// Returns since when it is asked in vain.
    pub(super) fn failing_since(&self) -> Option<Timestamp> {
        self.lock().failing_since
    }

    /// Has a thread ask; it may take as long as it likes.
    fn open(self: &Arc<Self>, state: &mut State<T>) -> Instant {
        let (asked_at, holds_from) = (Instant::now(), clock::now());
        state.asked_at = Some(asked_at);
        let inquiry = Arc::clone(self);
        let ask = move || {
            let answer = catch_unwind(AssertUnwindSafe(|| (inquiry.ask)()));
            let mut state = inquiry.lock();
            match answer {
                Ok(Ok(answer)) => state.succeed(&inquiry.subject, answer),
                Ok(Err(error)) => state.fail(&inquiry.subject, error),
                Err(_) => state.fail(&inquiry.subject, "asking met a fault in amberfs".to_owned()),
            }
            state.close(holds_from);
            inquiry.answered.notify_all();
        };
        if let Err(error) = std::thread::Builder::new().name("inquiry".to_owned()).spawn(ask) {
            state.fail(&self.subject, format!("no thread could be started: {error}"));
            state.close(holds_from);
        }
        asked_at
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone> State<T> {
    fn is_new_enough(&self, wanted: Wanted) -> bool {
        self.answered_at.is_some_and(|at| at.elapsed() < wanted.age_max) && self.is_after(wanted.after)
    }

    fn is_after(&self, time: Option<Timestamp>) -> bool {
        time.is_none() || self.holds_from > time
    }

    fn known(&self) -> Known<T> {
        Known { answer: self.answer.clone(), error: self.error.clone() }
    }

    fn succeed(&mut self, subject: &str, answer: T) {
        self.failing_since = None;
        if self.error.take().is_some() {
            tracing::info!(subject, "there is an answer again");
        }
        self.answer = Some(answer);
    }

    /// Keeps the last answer. Told once until there is an answer again.
    fn fail(&mut self, subject: &str, error: String) {
        if self.error.is_none() {
            tracing::warn!(subject, error, "there is no answer: what was known last is all there is");
        }
        self.failing_since = self.failing_since.or_else(|| Some(clock::now()));
        self.error = Some(error);
    }

    fn close(&mut self, holds_from: Timestamp) {
        self.answered_at = Some(Instant::now());
        self.holds_from = Some(holds_from);
        self.asked_at = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn counting() -> Arc<Inquiry<u64>> {
        let asked = AtomicU64::new(0);
        let ask = move || Ok(asked.fetch_add(1, Ordering::Relaxed) + 1);
        Inquiry::new("a count".to_owned(), Duration::from_secs(60), ask)
    }

    #[test]
    fn an_answer_is_kept_as_long_as_it_is_new_enough() {
        let inquiry = counting();
        let hour = Duration::from_secs(3600);
        let known = |age_max, after| inquiry.known(Wanted { age_max, after }).answer;
        assert_eq!([known(hour, None), known(hour, None)], [Some(1); 2]);
        assert_eq!(known(Duration::ZERO, None), Some(2));
        // What happened in this very moment may not be in the answer yet.
        let now = clock::now();
        assert_eq!(known(hour, Some(now)), Some(3));
        assert_eq!(known(hour, Some(Timestamp::from_micros(0))), Some(3));
        // A time that has not come yet is waited for by nobody.
        let future = Timestamp::from_micros(clock::now().as_micros() + 3_600_000_000);
        assert_eq!(known(hour, Some(future)), Some(4));
    }

    #[test]
    fn a_question_that_fails_leaves_the_last_answer_and_says_why() {
        let asked = AtomicU64::new(0);
        let ask = move || match asked.fetch_add(1, Ordering::Relaxed) {
            0 => Ok(7),
            1 => Err("no route".to_owned()),
            _ => Ok(8),
        };
        let inquiry = Inquiry::new("a number".to_owned(), Duration::from_secs(60), ask);
        let anew = Wanted { age_max: Duration::ZERO, after: None };
        let answers: Vec<_> = (0..3).map(|_| inquiry.known(anew)).map(|k| (k.answer, k.error)).collect();
        let failed = (Some(7), Some("no route".to_owned()));
        assert_eq!(answers, [(Some(7), None), failed, (Some(8), None)]);
    }
}
