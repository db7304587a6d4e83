//! Which volumes the sources have, as far as they answer. A source that hangs keeps nobody waiting for longer than
//! the deadline, and only the first one for that long: what was known last is shown until it answers again.

use std::sync::Arc;
use std::time::Duration;

use super::inquiry::{Inquiry, Wanted};
use crate::source::{Source, Sources};
use crate::types::{SourceName, VolumeName};

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

    /// Returns each source's name, kind, and what was wrong when it was listed last.
    pub fn states(&self) -> impl Iterator<Item = (&SourceName, &'static str, Option<String>)> {
        self.listings.iter().map(|listing| (&listing.name, listing.kind, listing.names.error()))
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
