//! Which volumes the sources have, as far as they answer. A source that hangs keeps nobody waiting for longer than
//! the deadline, and only the first one for that long: what was known last is shown until it answers again.

use std::sync::Arc;
use std::time::Duration;

use super::inquiry::{Inquiry, Wanted};
use crate::source::{Source, Sources};
use crate::types::{SourceName, Timestamp, VolumeName};

/// How old what a source says may be, and how long it may take to say it anew.
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
    listings: Vec<SourceListing>,
}

pub(super) struct SourceState<'a> {
    pub(super) name: &'a SourceName,
    pub(super) kind: &'static str,
    /// What was wrong when it was listed last.
    pub(super) error: Option<String>,
    pub(super) failing_since: Option<Timestamp>,
}

struct SourceListing {
    name: SourceName,
    kind: &'static str,
    /// The names, sorted.
    names: Arc<Inquiry<Arc<[VolumeName]>>>,
}

impl VolumeListings {
    pub fn new(sources: &Sources, times: ListingTimes) -> Self {
        let listing = |source: &Arc<dyn Source>| {
            let (name, kind) = (source.name().clone(), source.kind());
            let source = Arc::clone(source);
            let list = move || {
                let mut names = source.list().map_err(|error| error.to_string())?;
                // The order is relied on for searching.
                names.sort();
                Ok(names.into())
            };
            let names = Inquiry::new(format!("the volumes of source {name}"), times.deadline, list);
            SourceListing { name, kind, names }
        };
        Self { times, listings: sources.iter().map(listing).collect() }
    }

    /// Returns the names of the sources.
    pub fn sources(&self) -> impl Iterator<Item = &SourceName> {
        self.listings.iter().map(|listing| &listing.name)
    }

    /// Returns what is known of each source.
    pub(super) fn states(&self) -> impl Iterator<Item = SourceState<'_>> {
        self.listings.iter().map(|listing| SourceState {
            name: &listing.name,
            kind: listing.kind,
            error: listing.names.error(),
            failing_since: listing.names.failing_since(),
        })
    }

    /// Has the sources asked again of which nothing so new is known, and waits for none of them.
    pub(super) fn renew(&self, age_max: Duration) {
        self.listings.iter().for_each(|listing| listing.names.renew(age_max));
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
        let listing = self.listings.iter().find(|listing| listing.name == *source);
        let wanted = Wanted { age_max, after: None };
        listing.and_then(|listing| listing.names.known(wanted).answer).unwrap_or_default()
    }
}
