//! Which packs the garbage collector may take, beside jobs that count on packs and write new ones.
//!
//! A pack is pinned by each session that counts on a chunk in it or has written it, and condemned by the collector
//! before it goes. Whichever comes first holds: what is pinned cannot be condemned, and what is condemned is counted
//! on by nobody: its chunks are stored again.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::types::PackId;

#[derive(Default)]
pub(super) struct Collection {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How many sessions have each pack.
    pinned: HashMap<PackId, usize>,
    condemned: HashSet<PackId>,
    /// Removed by a collection: whoever has just looked at one must not count on it. Their ids never come again.
    removed: HashSet<PackId>,
    /// While a collection runs: packs of sessions that have ended since it began. Their manifests may be too new for
    /// it to have seen them.
    lingering: Option<HashSet<PackId>>,
}

/// The packs of one session; given back when it is dropped.
pub(super) struct Pins {
    collection: Arc<Collection>,
    packs: Mutex<HashSet<PackId>>,
}

impl Pins {
    /// Keeps the pack from being collected; `false` when it is going already.
    pub(super) fn pin(&self, pack: PackId) -> bool {
        let mut packs = self.packs.lock().unwrap_or_else(PoisonError::into_inner);
        if packs.contains(&pack) {
            return true;
        }
        let mut state = self.collection.lock();
        if state.condemned.contains(&pack) || state.removed.contains(&pack) {
            return false;
        }
        *state.pinned.entry(pack).or_default() += 1;
        packs.insert(pack)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let packs = std::mem::take(self.packs.get_mut().unwrap_or_else(PoisonError::into_inner));
        let mut state = self.collection.lock();
        for pack in &packs {
            if let Some(sessions) = state.pinned.get_mut(pack) {
                *sessions -= 1;
                if *sessions == 0 {
                    state.pinned.remove(pack);
                }
            }
        }
        if let Some(lingering) = &mut state.lingering {
            lingering.extend(packs);
        }
    }
}

impl Collection {
    pub(super) fn pins(self: &Arc<Self>) -> Pins {
        Pins { collection: Arc::clone(self), packs: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a collection; `None` when one is running. Packs that are listed from here on and not pinned are of
    /// sessions whose manifests are there to be listed, too, or of none.
    pub(super) fn begin(self: &Arc<Self>) -> Option<Collecting> {
        let mut state = self.lock();
        if state.lingering.is_some() {
            return None;
        }
        state.lingering = Some(HashSet::new());
        Some(Collecting { collection: Arc::clone(self) })
    }
}

/// A running collection; it ends when this is dropped.
pub(super) struct Collecting {
    collection: Arc<Collection>,
}

impl Collecting {
    /// From here on nobody counts on the pack any more; `false` when somebody does.
    pub(super) fn condemn(&self, pack: PackId) -> bool {
        let mut state = self.collection.lock();
        let is_lingering = state.lingering.as_ref().is_some_and(|lingering| lingering.contains(&pack));
        if is_lingering || state.pinned.contains_key(&pack) {
            return false;
        }
        state.condemned.insert(pack);
        true
    }

    /// The pack is about to be removed for good.
    pub(super) fn remove(&self, pack: PackId) {
        self.collection.lock().removed.insert(pack);
    }

    /// The pack stays after all.
    pub(super) fn pardon(&self, pack: PackId) {
        self.collection.lock().condemned.remove(&pack);
    }
}

impl Drop for Collecting {
    fn drop(&mut self) {
        let mut state = self.collection.lock();
        state.lingering = None;
        state.condemned.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_is_either_counted_on_or_collected() {
        let collection = Arc::new(Collection::default());
        let (one, other) = (PackId::random(), PackId::random());
        let pins = collection.pins();
        assert!(pins.pin(one));
        let collecting = collection.begin().unwrap();
        assert!(collection.begin().is_none(), "one at a time");
        assert!(!collecting.condemn(one));
        assert!(collecting.condemn(other));
        assert!(!pins.pin(other));
        drop(pins);
        assert!(!collecting.condemn(one), "its manifest may have come after the collector looked");
        collecting.pardon(other);
        assert!(collection.pins().pin(other));
        drop(collecting);
        let collecting = collection.begin().unwrap();
        assert!(collecting.condemn(one), "its session ended before this collection began");
        collecting.remove(one);
        drop(collecting);
        assert!(!collection.pins().pin(one), "it has gone");
    }
}
