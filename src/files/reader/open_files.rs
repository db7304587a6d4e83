//! Files and folders that are read in order, kept between the requests.
//!
//! The crates go to a position by walking from the start of the file, so a place where a reader stands is worth keeping.
//! The kernel sends the reads of one file in any order when it reads ahead; several places are kept for each.

/// Places where readers stand, the least recently used one forgotten first.
pub struct Places<T> {
    places: Vec<Place<T>>,
    max: usize,
}

struct Place<T> {
    path: Vec<u8>,
    position: u64,
    value: T,
}

impl<T> Places<T> {
    pub fn new(max: usize) -> Self {
        Self { places: Vec::new(), max }
    }

    /// Takes what stands exactly there.
    pub fn take(&mut self, path: &[u8], position: u64) -> Option<T> {
        let found = self.places.iter().position(|place| place.position == position && place.path == path)?;
        Some(self.places.remove(found).value)
    }

    /// Returns the last place there or before, and where it is; it stays.
    pub fn nearest(&self, path: &[u8], position: u64) -> Option<(u64, &T)> {
        let places = self.places.iter().filter(|place| place.position <= position && place.path == path);
        let nearest = places.max_by_key(|place| place.position)?;
        Some((nearest.position, &nearest.value))
    }

    pub fn has(&self, path: &[u8], position: u64) -> bool {
        self.places.iter().any(|place| place.position == position && place.path == path)
    }

    pub fn put(&mut self, path: &[u8], position: u64, value: T) {
        if self.places.len() >= self.max {
            self.places.remove(0);
        }
        self.places.push(Place { path: path.to_vec(), position, value });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_found_again_and_the_oldest_is_forgotten() {
        let mut places = Places::new(2);
        places.put(b"a", 5, "a5");
        places.put(b"a", 9, "a9");
        places.put(b"b", 5, "b5");
        assert_eq!(places.take(b"a", 5), None, "forgotten");
        assert_eq!(places.take(b"a", 9), Some("a9"));
        assert_eq!(places.take(b"b", 4), None);
        assert_eq!(places.take(b"b", 5), Some("b5"));
        assert_eq!(places.take(b"b", 5), None);
    }

    #[test]
    fn the_nearest_place_before_a_position_stays_where_it_is() {
        let mut places = Places::new(3);
        places.put(b"a", 9, "a9");
        places.put(b"a", 5, "a5");
        places.put(b"b", 7, "b7");
        assert_eq!(places.nearest(b"a", 4), None);
        assert_eq!(places.nearest(b"a", 8), Some((5, &"a5")));
        assert_eq!(places.nearest(b"a", 20), Some((9, &"a9")));
        assert!(places.has(b"a", 9) && !places.has(b"a", 7));
    }
}
