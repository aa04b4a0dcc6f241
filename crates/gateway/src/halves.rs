//! A bounded map that forgets: two halves, of which the old one goes when the young one is full.

use std::{collections::HashMap, hash::Hash};

/// The latest entries: what is put or asked for stays, and what is not goes.
#[derive(Debug)]
pub(crate) struct Halves<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    half: usize,
}

impl<K: Eq + Hash, V> Halves<K, V> {
    /// With room for `half` entries in each half.
    pub(crate) fn new(half: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), half }
    }

    /// Looks at an entry, which stays no longer for it.
    pub(crate) fn peek(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// A copy of an entry, which stays.
    pub(crate) fn get(&mut self, key: &K) -> Option<V>
    where
        V: Clone,
    {
        if let Some(found) = self.young.get(key) {
            return Some(found.clone());
        }
        let (key, found) = self.old.remove_entry(key)?;
        self.put(key, found.clone());
        Some(found)
    }

    /// Keeps an entry, in place of the one before.
    pub(crate) fn put(&mut self, key: K, value: V) {
        if self.young.len() >= self.half {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    /// An entry, made if there is none, which stays.
    pub(crate) fn entry(&mut self, key: &K) -> &mut V
    where
        K: Clone,
        V: Default,
    {
        if !self.young.contains_key(key) {
            let known = self.old.remove(key).unwrap_or_default();
            self.put(key.clone(), known);
        }
        self.young.entry(key.clone()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stays_and_what_is_not_goes() {
        let mut halves = Halves::new(2);
        for key in 1..=3 {
            halves.put(key, key);
        }
        assert_eq!((halves.peek(&1).copied(), halves.get(&2)), (Some(1), Some(2)));
        halves.put(4, 4);
        assert_eq!((halves.get(&1), halves.get(&2), halves.get(&3)), (None, Some(2), Some(3)));
    }

    #[test]
    fn an_entry_of_the_old_half_is_carried_over() {
        let mut halves: Halves<u8, u8> = Halves::new(1);
        *halves.entry(&1) = 7;
        *halves.entry(&2) = 8;
        assert_eq!(*halves.entry(&1), 7);
        assert_eq!(halves.entry(&3), &0);
        assert_eq!((halves.peek(&1), halves.peek(&2)), (Some(&7), None));
    }
}
