//! Which manifests open images read. A manifest that is not wanted any more is removed when the last image that
//! reads it is closed: what is open stays readable.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::types::ManifestId;

/// What is done when a manifest is not read any more.
type WhenUnused = Box<dyn FnOnce() + Send>;

#[derive(Default)]
pub(super) struct ManifestUses {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    readers: HashMap<ManifestId, usize>,
    /// Being removed right now: nobody begins to read them any more.
    going: HashSet<ManifestId>,
    waiting: Vec<Waiting>,
}

struct Waiting {
    manifests: Vec<ManifestId>,
    action: WhenUnused,
}

/// The manifests of one open image; they are given back when it is dropped.
pub(super) struct ManifestUse {
    uses: Arc<ManifestUses>,
    manifests: Vec<ManifestId>,
}

impl ManifestUses {
    /// Keeps the manifests from being removed; `None` when one of them is going already.
    pub(super) fn begin(self: &Arc<Self>, manifests: Vec<ManifestId>) -> Option<ManifestUse> {
        let mut state = self.lock();
        if manifests.iter().any(|manifest| state.going.contains(manifest)) {
            return None;
        }
        for manifest in &manifests {
            *state.readers.entry(*manifest).or_default() += 1;
        }
        drop(state);
        Some(ManifestUse { uses: Arc::clone(self), manifests })
    }

    /// Runs `action` when none of the manifests is read any more: at once, or when the last image is closed.
    pub(super) fn when_unused(&self, manifests: Vec<ManifestId>, action: WhenUnused) {
        let mut state = self.lock();
        if manifests.iter().any(|manifest| state.readers.contains_key(manifest)) {
            state.waiting.push(Waiting { manifests, action });
            return;
        }
        state.going.extend(&manifests);
        drop(state);
        self.finish(Waiting { manifests, action });
    }

    fn finish(&self, Waiting { manifests, action }: Waiting) {
        action();
        let mut state = self.lock();
        state.going.retain(|manifest| !manifests.contains(manifest));
    }

    fn end(&self, manifests: &[ManifestId]) {
        let mut state = self.lock();
        for manifest in manifests {
            if let Some(readers) = state.readers.get_mut(manifest) {
                *readers -= 1;
                if *readers == 0 {
                    state.readers.remove(manifest);
                }
            }
        }
        let State { readers, waiting, going } = &mut *state;
        let is_unused =
            |waiting: &mut Waiting| !waiting.manifests.iter().any(|manifest| readers.contains_key(manifest));
        let due: Vec<Waiting> = waiting.extract_if(.., is_unused).collect();
        going.extend(due.iter().flat_map(|waiting| &waiting.manifests));
        drop(state);
        due.into_iter().for_each(|waiting| self.finish(waiting));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ManifestUse {
    fn drop(&mut self) {
        self.uses.end(&self.manifests);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn what_is_read_is_removed_when_the_last_reader_has_gone() {
        let uses = Arc::new(ManifestUses::default());
        let removed = Arc::new(AtomicUsize::new(0));
        let count = || {
            let removed = Arc::clone(&removed);
            Box::new(move || {
                removed.fetch_add(1, Ordering::Relaxed);
            }) as WhenUnused
        };
        let (one, other) = (ManifestId::random(), ManifestId::random());
        let first = uses.begin(vec![one, other]).unwrap();
        let second = uses.begin(vec![other]).unwrap();
        uses.when_unused(vec![ManifestId::random()], count());
        assert_eq!(removed.load(Ordering::Relaxed), 1, "nobody reads it");
        uses.when_unused(vec![one, other], count());
        drop(first);
        assert_eq!(removed.load(Ordering::Relaxed), 1, "one of the two is still read");
        drop(second);
        assert_eq!(removed.load(Ordering::Relaxed), 2);
        assert!(uses.lock().readers.is_empty());
    }
}
