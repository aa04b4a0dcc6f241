//! Places: how many of something are open, by whom.
//!
//! INVARIANT: a place is taken for as long as it is held; who holds none is forgotten in time.

use std::{collections::HashMap, hash::Hash, sync::Arc};

/// The places of each holder.
#[derive(Debug)]
pub struct Places<K>(HashMap<K, Arc<()>>);

/// A place; given back by letting go of it.
#[derive(Debug)]
pub struct Place(#[expect(dead_code, reason = "held, never looked at")] Arc<()>);

/// Holders of nothing are forgotten once there are so many.
const FORGOTTEN: usize = 1024;

impl<K> Default for Places<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Places<K> {
    /// One more place; `None` for a holder of as many as may be.
    pub fn take(&mut self, holder: K, most: usize) -> Option<Place> {
        if self.0.len() >= FORGOTTEN {
            self.0.retain(|_, held| Arc::strong_count(held) > 1);
        }
        let held = self.0.entry(holder).or_default();
        // The entry itself holds one.
        (Arc::strong_count(held) <= most).then(|| Place(Arc::clone(held)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_has_so_many_and_gets_them_back() {
        let mut places = Places::default();
        let first = places.take("a", 2).unwrap();
        let _second = places.take("a", 2).unwrap();
        assert!(places.take("a", 2).is_none());
        assert!(places.take("b", 2).is_some(), "another one is not concerned");
        drop(first);
        assert!(places.take("a", 2).is_some());
    }

    #[test]
    fn who_left_is_forgotten_and_who_stayed_is_not() {
        let mut places = Places::default();
        let _held = places.take(0, 1).unwrap();
        for n in 1..5_000 {
            assert!(places.take(n, 1).is_some());
        }
        assert!(places.0.len() <= FORGOTTEN);
        assert!(places.take(0, 1).is_none());
    }
}
