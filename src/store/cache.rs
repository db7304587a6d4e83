//! A cache, bounded in bytes, that loads each value once however many readers want it, and holds no lock while
//! loading.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

/// Enough that the FUSE threads seldom meet at one lock.
const SHARD_COUNT: usize = 16;

/// How a cache did since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheStats {
    pub hits: u64,
    pub loads: u64,
    pub bytes: u64,
}

pub struct LoadingCache<K, V, E = super::StoreError> {
    shards: Vec<Mutex<Shard<K, V, E>>>,
    hasher: RandomState,
    shard_bytes_max: u64,
    weigh: fn(&V) -> u64,
    hits: AtomicU64,
    loads: AtomicU64,
}

struct Shard<K, V, E> {
    values: LruCache<K, V>,
    bytes: u64,
    loading: HashMap<K, Arc<Flight<V, E>>>,
}

/// One load that is under way, and those who wait for it.
struct Flight<V, E> {
    landed: Mutex<Option<Landing<V, E>>>,
    landing: Condvar,
}

#[derive(Clone)]
enum Landing<V, E> {
    Loaded(Result<V, Arc<E>>),
    /// The loader panicked: somebody else has to try.
    Abandoned,
}

impl<K: Hash + Eq + Copy, V: Clone, E> LoadingCache<K, V, E> {
    pub fn new(bytes_max: u64, weigh: fn(&V) -> u64) -> Self {
        let shard = || Shard { values: LruCache::unbounded(), bytes: 0, loading: HashMap::new() };
        Self {
            shards: (0..SHARD_COUNT).map(|_| Mutex::new(shard())).collect(),
            hasher: RandomState::new(),
            shard_bytes_max: bytes_max / SHARD_COUNT as u64,
            weigh,
            hits: AtomicU64::new(0),
            loads: AtomicU64::new(0),
        }
    }

    pub fn stats(&self) -> CacheStats {
        let bytes = self.shards.iter().map(|shard| lock(shard).bytes).sum();
        CacheStats {
            hits: self.hits.load(Ordering::Relaxed),
            loads: self.loads.load(Ordering::Relaxed),
            bytes,
        }
    }

    /// Returns the value of a key if it is there.
    pub fn get(&self, key: &K) -> Option<V> {
        let value = lock(self.shard(key)?).values.get(key).cloned();
        self.hits.fetch_add(u64::from(value.is_some()), Ordering::Relaxed);
        value
    }

    /// Returns the value of a key, from the cache, from a load that is under way, or by loading it. Errors are not
    /// kept: the next reader tries again.
    pub fn get_or_load(&self, key: K, load: impl FnOnce() -> Result<V, E>) -> Result<V, Arc<E>> {
        let Some(shard) = self.shard(&key) else { return load().map_err(Arc::new) };
        loop {
            let flight = {
                let mut shard = lock(shard);
                if let Some(value) = shard.values.get(&key) {
                    self.hits.fetch_add(1, Ordering::Relaxed);
                    return Ok(value.clone());
                }
                match shard.loading.get(&key) {
                    Some(flight) => Arc::clone(flight),
                    None => {
                        let flight = Arc::new(Flight { landed: Mutex::new(None), landing: Condvar::new() });
                        shard.loading.insert(key, Arc::clone(&flight));
                        drop(shard);
                        return self.load(key, flight, load);
                    }
                }
            };
            if let Landing::Loaded(result) = flight.wait() {
                self.hits.fetch_add(1, Ordering::Relaxed);
                return result;
            }
        }
    }

    fn load(
        &self,
        key: K,
        flight: Arc<Flight<V, E>>,
        load: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, Arc<E>> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        let mut pilot = Pilot { cache: self, key, flight, landing: Landing::Abandoned };
        let result = load().map_err(Arc::new);
        pilot.landing = Landing::Loaded(result.clone());
        result
    }

    fn land(&self, key: K, flight: &Flight<V, E>, landing: Landing<V, E>) {
        if let Some(shard) = self.shard(&key) {
            let mut shard = lock(shard);
            shard.loading.remove(&key);
            if let Landing::Loaded(Ok(value)) = &landing {
                self.keep(&mut shard, key, value.clone());
            }
        }
        *lock(&flight.landed) = Some(landing);
        flight.landing.notify_all();
    }

    fn keep(&self, shard: &mut Shard<K, V, E>, key: K, value: V) {
        let bytes = (self.weigh)(&value);
        if bytes > self.shard_bytes_max {
            return;
        }
        shard.bytes += bytes;
        if let Some((_, replaced)) = shard.values.push(key, value) {
            shard.bytes = shard.bytes.saturating_sub((self.weigh)(&replaced));
        }
        while shard.bytes > self.shard_bytes_max {
            let Some((_, evicted)) = shard.values.pop_lru() else { break };
            shard.bytes = shard.bytes.saturating_sub((self.weigh)(&evicted));
        }
    }

    fn shard(&self, key: &K) -> Option<&Mutex<Shard<K, V, E>>> {
        let number = self.hasher.hash_one(key) as usize % SHARD_COUNT;
        self.shards.get(number)
    }
}

/// Lands the flight whatever happens to the loader.
struct Pilot<'a, K: Hash + Eq + Copy, V: Clone, E> {
    cache: &'a LoadingCache<K, V, E>,
    key: K,
    flight: Arc<Flight<V, E>>,
    landing: Landing<V, E>,
}

impl<K: Hash + Eq + Copy, V: Clone, E> Drop for Pilot<'_, K, V, E> {
    fn drop(&mut self) {
        let landing = std::mem::replace(&mut self.landing, Landing::Abandoned);
        self.cache.land(self.key, &self.flight, landing);
    }
}

impl<V: Clone, E> Flight<V, E> {
    fn wait(&self) -> Landing<V, E> {
        let mut landed = lock(&self.landed);
        loop {
            match &*landed {
                Some(Landing::Loaded(result)) => return Landing::Loaded(result.clone()),
                Some(Landing::Abandoned) => return Landing::Abandoned,
                None => landed = self.landing.wait(landed).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    fn cache(bytes_max: u64) -> LoadingCache<u64, Arc<[u8]>, String> {
        LoadingCache::new(bytes_max, |value| value.len() as u64)
    }

    #[test]
    fn several_readers_cause_one_load() {
        let cache = cache(1 << 20);
        let barrier = Barrier::new(8);
        let loads = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    barrier.wait();
                    let value = cache.get_or_load(7, || {
                        loads.fetch_add(1, Ordering::SeqCst);
                        std::thread::yield_now();
                        Ok(vec![1, 2, 3].into())
                    });
                    assert_eq!(&*value.unwrap(), [1, 2, 3]);
                });
            }
        });
        assert_eq!(loads.into_inner(), 1);
    }

    #[test]
    fn the_bytes_stay_below_the_bound() {
        let cache = cache(16 * 1000);
        for key in 0..1000 {
            cache.get_or_load(key, || Ok(vec![0; 300].into())).unwrap();
            assert!(cache.stats().bytes <= 16_000);
        }
        assert!(cache.stats().bytes > 8000);
        cache.get_or_load(5000, || Ok(vec![0; 2000].into())).unwrap();
        assert!(cache.stats().bytes <= 16_000);
    }

    #[test]
    fn an_error_is_not_kept() {
        let cache = cache(1000);
        assert!(cache.get_or_load(1, || Err("no".to_owned())).is_err());
        assert!(cache.get_or_load(1, || Ok(vec![1].into())).is_ok());
    }

    #[test]
    fn a_panic_in_a_load_leaves_nobody_waiting() {
        let cache = cache(1000);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            cache.get_or_load(1, || panic!("a bug"))
        }));
        assert!(caught.is_err());
        assert!(cache.get_or_load(1, || Ok(vec![1].into())).is_ok());
    }
}
