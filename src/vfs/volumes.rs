//! Which volumes the sources have, as far as they answer. A source that hangs keeps nobody waiting for longer than
//! the deadline, and only the first one for that long: what was known last is shown until it answers again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::source::{Source, Sources};
use crate::types::{SourceName, VolumeName};

/// How old a listing may be, and how long a source may take to give a new one.
#[derive(Debug, Clone, Copy)]
pub struct ListingTimes {
    pub fresh: Duration,
    pub deadline: Duration,
}

impl Default for ListingTimes {
    fn default() -> Self {
        Self { fresh: Duration::from_secs(2), deadline: Duration::from_secs(5) }
    }
}

/// A name that is not in a fresh listing is looked for in a new one, but not more often than this.
const MISS_AGAIN_AFTER: Duration = Duration::from_millis(100);

pub struct VolumeListings {
    times: ListingTimes,
    listings: Vec<Arc<SourceListing>>,
}

struct SourceListing {
    source: Arc<dyn Source>,
    state: Mutex<State>,
    listed: Condvar,
}

#[derive(Default)]
struct State {
    names: Arc<[VolumeName]>,
    listed_at: Option<Instant>,
    /// Since when a listing is under way: there is one at a time, however many ask for it.
    asked_at: Option<Instant>,
    error: Option<String>,
}

impl VolumeListings {
    pub fn new(sources: &Sources, times: ListingTimes) -> Self {
        let listing = |source: &Arc<dyn Source>| {
            let state = Mutex::new(State::default());
            Arc::new(SourceListing { source: Arc::clone(source), state, listed: Condvar::new() })
        };
        Self { times, listings: sources.iter().map(listing).collect() }
    }

    /// Returns the names of the sources.
    pub fn sources(&self) -> impl Iterator<Item = &SourceName> {
        self.listings.iter().map(|listing| listing.source.name())
    }

    /// Returns each source's name, kind, and what was wrong when it was listed last.
    pub fn states(&self) -> impl Iterator<Item = (&SourceName, &'static str, Option<String>)> {
        self.listings.iter().map(|listing| {
            let error = listing.lock().error.clone();
            (listing.source.name(), listing.source.kind(), error)
        })
    }

    /// Returns the names of a source's volumes, sorted; none for a source that is not configured.
    pub fn names(&self, source: &SourceName) -> Arc<[VolumeName]> {
        self.names_at_most_old(source, self.times.fresh)
    }

    /// Says whether a source has a volume.
    pub fn contains(&self, source: &SourceName, volume: &VolumeName) -> bool {
        self.names(source).binary_search(volume).is_ok()
            || self.names_at_most_old(source, MISS_AGAIN_AFTER).binary_search(volume).is_ok()
    }

    fn names_at_most_old(&self, source: &SourceName, age_max: Duration) -> Arc<[VolumeName]> {
        let listing = self.listings.iter().find(|listing| listing.source.name() == source);
        listing.map(|listing| listing.names(age_max, self.times.deadline)).unwrap_or_default()
    }
}

impl SourceListing {
    fn names(self: &Arc<Self>, age_max: Duration, deadline: Duration) -> Arc<[VolumeName]> {
        let mut state = self.lock();
        if state.listed_at.is_some_and(|listed_at| listed_at.elapsed() < age_max) {
            return Arc::clone(&state.names);
        }
        let asked_at = match state.asked_at {
            Some(asked_at) => asked_at,
            None => self.ask(&mut state),
        };
        while state.asked_at == Some(asked_at) {
            let left = deadline.saturating_sub(asked_at.elapsed());
            if left.is_zero() {
                state.fail(self.source.name(), format!("no answer within {} s", deadline.as_secs_f32()));
                break;
            }
            state = self.listed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Arc::clone(&state.names)
    }

    /// Has a thread list the volumes; it may take as long as it likes.
    fn ask(self: &Arc<Self>, state: &mut State) -> Instant {
        let asked_at = Instant::now();
        state.asked_at = Some(asked_at);
        let listing = Arc::clone(self);
        let list = move || {
            let names = catch_unwind(AssertUnwindSafe(|| listing.source.list()));
            let mut state = listing.lock();
            match names {
                Ok(Ok(mut names)) => {
                    // The order is relied on for searching.
                    names.sort();
                    state.succeed(listing.source.name(), names);
                }
                Ok(Err(error)) => state.fail(listing.source.name(), error.to_string()),
                Err(_) => state.fail(listing.source.name(), "listing it met a fault in amberfs".to_owned()),
            }
            state.listed_at = Some(Instant::now());
            state.asked_at = None;
            listing.listed.notify_all();
        };
        let name = format!("list-{}", self.source.name());
        if let Err(error) = std::thread::Builder::new().name(name).spawn(list) {
            state.fail(self.source.name(), format!("no thread could be started: {error}"));
            state.asked_at = None;
        }
        asked_at
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn succeed(&mut self, source: &SourceName, names: Vec<VolumeName>) {
        if self.error.take().is_some() {
            tracing::info!(%source, "the source answers again");
        }
        self.names = names.into();
    }

    /// Keeps the names that were known. Told once until the source answers again.
    fn fail(&mut self, source: &SourceName, error: String) {
        if self.error.is_none() {
            tracing::warn!(%source, error, "the volumes of a source cannot be listed: what was known is shown");
        }
        self.error = Some(error);
    }
}
