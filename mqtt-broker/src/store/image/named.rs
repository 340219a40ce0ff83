//! Sessions by their ClientIDs, retained messages by their topics: what is found by its name.
//!
//! Records about one thing come in rows, so what was looked for last is looked at first. What is put in stays in the order
//! in which it came, but for the places of what is removed: a snapshot that tells retained messages in the order of their
//! topics hands them on so.

use ahash::RandomState;
use hashbrown::HashTable;

/// Something with a name that does not change.
pub(super) trait HasName {
    fn name(&self) -> &[u8];
}

/// Things in a list without gaps, each under a name of its own: the last takes the place of one that is removed.
pub(super) struct Named<T> {
    list: Vec<T>,
    by_name: HashTable<Entry>,
    hasher: RandomState,
    last: usize,
}

/// Where a thing is, and enough of the hash of its name that a growing table need not look at the thing.
#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u32,
    place: u32,
}

impl Entry {
    /// Tables use both ends of a hash.
    fn spread(hash: u32) -> u64 {
        u64::from(hash) << 32 | u64::from(hash)
    }
}

impl<T: HasName> Named<T> {
    pub(super) fn new(hasher: RandomState) -> Named<T> {
        Named { list: Vec::new(), by_name: HashTable::new(), hasher, last: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, T> {
        self.list.iter()
    }

    pub(super) fn iter_mut(&mut self) -> std::slice::IterMut<'_, T> {
        self.list.iter_mut()
    }

    pub(super) fn into_list(self) -> Vec<T> {
        self.list
    }

    pub(super) fn get(&self, name: &str) -> Option<&T> {
        self.place(name.as_bytes()).map(|place| &self.list[place])
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut T> {
        let place = self.place(name.as_bytes())?;
        self.last = place;
        Some(&mut self.list[place])
    }

    /// Puts a thing in the place of the one of its name, or behind all others.
    pub(super) fn insert(&mut self, thing: T) -> &mut T {
        if let Some(place) = self.place(thing.name()) {
            self.list[place] = thing;
            return &mut self.list[place];
        }
        let hash = self.hash(thing.name());
        self.last = self.list.len();
        let entry = Entry { hash, place: self.last as u32 };
        self.by_name.insert_unique(Entry::spread(hash), entry, |entry| Entry::spread(entry.hash));
        self.list.push(thing);
        &mut self.list[self.last]
    }

    pub(super) fn remove(&mut self, name: &str) {
        if let Some(place) = self.place(name.as_bytes()) {
            self.remove_at(place);
        }
    }

    /// Removes the things for which `keep` does not hold.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&mut T) -> bool) {
        for place in (0..self.list.len()).rev() {
            if !keep(&mut self.list[place]) {
                self.remove_at(place);
            }
        }
    }

    fn remove_at(&mut self, place: usize) {
        let hash = self.hash(self.list[place].name());
        let is_it = |entry: &Entry| entry.place == place as u32;
        self.by_name.find_entry(Entry::spread(hash), is_it).expect("all are in the table").remove();
        let last = self.list.len() - 1;
        if place != last {
            let hash = self.hash(self.list[last].name());
            let is_last = |entry: &Entry| entry.place == last as u32;
            let moved = self.by_name.find_mut(Entry::spread(hash), is_last);
            moved.expect("all are in the table").place = place as u32;
        }
        self.list.swap_remove(place);
    }

    fn place(&self, name: &[u8]) -> Option<usize> {
        if self.list.get(self.last).is_some_and(|thing| thing.name() == name) {
            return Some(self.last);
        }
        let hash = self.hash(name);
        let is_it = |entry: &Entry| entry.hash == hash && self.list[entry.place as usize].name() == name;
        self.by_name.find(Entry::spread(hash), is_it).map(|entry| entry.place as usize)
    }

    fn hash(&self, name: &[u8]) -> u32 {
        self.hasher.hash_one(name) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing(String, u32);

    impl HasName for Thing {
        fn name(&self) -> &[u8] {
            self.0.as_bytes()
        }
    }

    fn check(things: &Named<Thing>, known: &std::collections::BTreeMap<String, u32>) {
        assert_eq!((things.len(), things.by_name.len()), (known.len(), known.len()));
        assert!(things.iter().all(|thing| known.get(&thing.0) == Some(&thing.1)));
    }

    #[test]
    fn things_are_found_whatever_others_are_removed() {
        let mut things = Named::new(RandomState::with_seeds(1, 2, 3, 4));
        let mut known = std::collections::BTreeMap::new();
        for step in 0..3000u32 {
            let name = format!("c{}", step * 7919 % 701);
            if step % 3 == 0 {
                things.remove(&name);
                known.remove(&name);
            } else {
                assert_eq!(things.insert(Thing(name.clone(), step)).1, step);
                known.insert(name.clone(), step);
            }
            things.remove("nobody");
            check(&things, &known);
            for probe in [&*name, "c0", "c1"] {
                assert_eq!(things.get(probe).map(|thing| thing.1), known.get(probe).copied());
                assert_eq!(things.get_mut(probe).map(|thing| thing.1), known.get(probe).copied());
            }
        }
        things.retain(|thing| thing.1 % 2 == 0);
        known.retain(|_, step| *step % 2 == 0);
        check(&things, &known);
        assert!(known.keys().all(|name| things.get(name).is_some()) && !known.is_empty());
    }

    #[test]
    fn names_with_colliding_hashes_are_told_apart() {
        let mut things = Named::new(RandomState::with_seeds(1, 2, 3, 4));
        let mut seen = std::collections::HashMap::with_hasher(things.hasher.clone());
        // Among 300,000 hashes of 32 bits there are about ten pairs.
        let (one, other) = (0..300_000)
            .find_map(|number| {
                let name = format!("c{number}");
                seen.insert(things.hash(name.as_bytes()), name.clone()).map(|other| (other, name))
            })
            .expect("a collision under this seed");
        things.insert(Thing(one.clone(), 1));
        assert!(things.get(&other).is_none());
        things.insert(Thing(other.clone(), 2));
        assert_eq!(things.get(&one).map(|thing| thing.1), Some(1));
        things.remove(&one);
        assert_eq!(things.get(&other).map(|thing| thing.1), Some(2));
    }
}
