//! The digest of the other cores' interest: which cores a Topic Name concerns.
//!
//! Filters without a wildcard are kept as 48 bits of a keyed hash beside the core, eight bytes each; filters with one as
//! text in a trie. Two filters that share a hash make a core look interested that is not, which costs a batch entry and
//! never a delivery; a core that is interested is always found. Beside each stands whether a session that outlives a crash
//! has subscribed, and stays there as long as the interest. Lives on: each core, fed by the others' announcements.

use std::hash::Hasher;

use mqtt_proto::types::{TopicFilter, TopicName};
use siphasher::sip::SipHasher13;

use super::filters::Filters;
use super::words::Words;

/// A set of cores: numbers below [`CoreSet::CAPACITY`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CoreSet(u128);

impl CoreSet {
    /// No core.
    pub const EMPTY: CoreSet = CoreSet(0);
    /// How many cores a set can tell apart.
    pub const CAPACITY: u16 = 128;

    /// Adds `core`.
    ///
    /// # Panics
    /// If `core` is not below [`CoreSet::CAPACITY`]; the same for the other functions.
    pub fn insert(&mut self, core: u16) {
        self.0 |= bit(core);
    }

    /// Takes `core` out.
    pub fn remove(&mut self, core: u16) {
        self.0 &= !bit(core);
    }

    /// Whether `core` is in the set.
    pub fn contains(self, core: u16) -> bool {
        self.0 & bit(core) != 0
    }

    /// Whether no core is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many cores are in the set.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// The cores of either set.
    #[must_use]
    pub const fn union(self, other: CoreSet) -> CoreSet {
        CoreSet(self.0 | other.0)
    }

    /// The cores in ascending order.
    pub fn iter(self) -> impl Iterator<Item = u16> + Clone {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            if rest == 0 {
                return None;
            }
            let core = rest.trailing_zeros() as u16;
            rest &= rest - 1;
            Some(core)
        })
    }
}

impl FromIterator<u16> for CoreSet {
    fn from_iter<I: IntoIterator<Item = u16>>(cores: I) -> CoreSet {
        cores.into_iter().fold(CoreSet::EMPTY, |set, core| CoreSet(set.0 | bit(core)))
    }
}

impl std::fmt::Debug for CoreSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

fn bit(core: u16) -> u128 {
    assert!(core < CoreSet::CAPACITY, "core {core} of at most {}", CoreSet::CAPACITY);
    1 << core
}

/// Which other cores have subscriptions that may match a topic.
pub struct Interest {
    key: [u64; 2],
    /// 48 bits of hash, 7 of core, 1 that is set if it is kept, 8 of how many filters of that core have this hash.
    exact: Words,
    wildcard: Filters<Concerned>,
    len: usize,
    generation: u64,
}

const COUNT_MASK: u64 = (1 << 8) - 1;
const KEPT: u64 = 1 << 8;
const STATE_BITS: u32 = 9;
const STATE_MASK: u64 = (1 << STATE_BITS) - 1;
const HASH_SHIFT: u32 = 16;

/// The cores that a topic concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Concerned {
    /// Those with a subscription that matches.
    pub cores: CoreSet,
    /// Those of them where a session that outlives a crash has had one.
    pub kept: CoreSet,
}

impl Interest {
    /// No interest; `key` keys the hashes, so that no client can aim at collisions.
    pub fn new(key: [u64; 2]) -> Interest {
        let seed = [0, 1, 2, 3].map(|number| {
            let mut hasher = SipHasher13::new_with_keys(key[0], key[1]);
            hasher.write_u64(number);
            hasher.finish()
        });
        Interest { key, exact: Words::default(), wildcard: Filters::new(seed), len: 0, generation: 0 }
    }

    /// Notes that `core` has its first subscription to `filter`: once for each filter, until it is removed.
    pub fn add(&mut self, core: u16, filter: TopicFilter<'_>) {
        let single = CoreSet::from_iter([core]);
        if filter.has_wildcard() {
            let (id, new) =
                self.wildcard.intern(filter, || Concerned { cores: single, kept: CoreSet::EMPTY });
            if !new {
                let Concerned { cores, .. } = self.wildcard.get_mut(id).expect("it was just interned");
                if cores.contains(core) {
                    return;
                }
                cores.insert(core);
            }
        } else {
            let owner = self.owner(core, filter.as_str());
            match self.counted(owner) {
                None => self.exact.insert(owner | 1),
                // A full count stays for ever: better an entry too many than a message too few.
                Some(word) if word & COUNT_MASK == COUNT_MASK => {}
                Some(word) => {
                    self.exact.replace(word, word + 1);
                }
            }
        }
        self.len += 1;
        self.generation += 1;
    }

    /// Notes that among the subscriptions of `core` to `filter`, which are known, is one of a session that outlives a crash.
    pub fn keep(&mut self, core: u16, filter: TopicFilter<'_>) {
        if filter.has_wildcard() {
            let Some(id) = self.wildcard.find(filter) else { return };
            let Concerned { cores, kept } = self.wildcard.get_mut(id).expect("it was just found");
            if !cores.contains(core) || kept.contains(core) {
                return;
            }
            kept.insert(core);
        } else {
            let word = self.counted(self.owner(core, filter.as_str()));
            let Some(word) = word.filter(|word| word & KEPT == 0) else { return };
            self.exact.replace(word, word | KEPT);
        }
        self.generation += 1;
    }

    /// Notes that `core` has no subscription to `filter` any more.
    pub fn remove(&mut self, core: u16, filter: TopicFilter<'_>) {
        if filter.has_wildcard() {
            let Some(id) = self.wildcard.find(filter) else { return };
            let Concerned { cores, kept } = self.wildcard.get_mut(id).expect("it was just found");
            if !cores.contains(core) {
                return;
            }
            cores.remove(core);
            kept.remove(core);
            if cores.is_empty() {
                self.wildcard.remove(id);
            }
        } else {
            let Some(word) = self.counted(self.owner(core, filter.as_str())) else { return };
            match word & COUNT_MASK {
                1 => {
                    self.exact.remove(word);
                }
                COUNT_MASK => {}
                _ => {
                    self.exact.replace(word, word - 1);
                }
            }
        }
        self.len -= 1;
        self.generation += 1;
    }

    /// The cores with a subscription that matches `topic`, and rarely one without.
    pub fn cores(&self, topic: TopicName<'_>) -> CoreSet {
        self.concerned(topic).cores
    }

    /// The same, and where it is kept.
    pub fn concerned(&self, topic: TopicName<'_>) -> Concerned {
        let hash = self.hash(topic.as_bytes());
        let place = (hash >> 32) as u32;
        self.exact.prefetch(place);
        let Concerned { mut cores, mut kept } = Concerned::default();
        self.wildcard.matches(topic, |found| {
            cores = cores.union(found.cores);
            kept = kept.union(found.kept);
        });
        let words = self.exact.with_hash(place).filter(|word| word >> HASH_SHIFT == hash >> HASH_SHIFT);
        for word in words {
            let core = (word >> STATE_BITS) as u16 % CoreSet::CAPACITY;
            cores.insert(core);
            if word & KEPT != 0 {
                kept.insert(core);
            }
        }
        Concerned { cores, kept }
    }

    /// How many pairs of core and filter there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no other core is interested in anything.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Heap bytes held.
    pub fn memory(&self) -> usize {
        self.exact.memory() + self.wildcard.memory()
    }

    /// Grows with each change: what was worked out under the same generation still holds.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    fn hash(&self, text: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.key[0], self.key[1]);
        hasher.write(text);
        hasher.finish()
    }

    /// Hash and core of a word, the rest left at 0.
    fn owner(&self, core: u16, text: &str) -> u64 {
        self.hash(text.as_bytes()) >> HASH_SHIFT << HASH_SHIFT | u64::from(core) << STATE_BITS
    }

    /// The word of `owner`, whole.
    fn counted(&self, owner: u64) -> Option<u64> {
        self.exact.with_hash((owner >> 32) as u32).find(|word| word & !STATE_MASK == owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> TopicFilter<'_> {
        TopicFilter::new(text).expect("a filter")
    }

    fn topic(text: &str) -> TopicName<'_> {
        TopicName::new(text).expect("a topic")
    }

    #[test]
    fn sets_hold_all_cores() {
        let mut set: CoreSet = [127, 0, 64].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<u16>>(), [0, 64, 127]);
        set.remove(64);
        set.insert(3);
        assert_eq!((set.len(), set.contains(64), set.contains(127)), (3, false, true));
        assert_eq!(format!("{set:?}"), "{0, 3, 127}");
    }

    #[test]
    fn interest_comes_and_goes_by_core() {
        let mut interest = Interest::new([1, 2]);
        let start = interest.memory();
        for core in [0, 5, 127] {
            interest.add(core, filter("a/b"));
        }
        interest.add(9, filter("a/+"));
        interest.add(9, filter("$SYS/#"));
        assert_eq!(interest.cores(topic("a/b")), [0, 5, 9, 127].into_iter().collect());
        assert_eq!(interest.cores(topic("a/c")), [9].into_iter().collect());
        interest.remove(5, filter("a/b"));
        interest.remove(5, filter("a/b"));
        assert_eq!(interest.cores(topic("a/b")), [0, 9, 127].into_iter().collect());
        assert_eq!((interest.len(), interest.is_empty()), (4, false));
        for (core, text) in [(0, "a/b"), (127, "a/b"), (9, "a/+"), (9, "$SYS/#")] {
            interest.remove(core, filter(text));
        }
        assert_eq!((interest.len(), interest.is_empty(), interest.memory()), (0, true, start));
    }

    #[test]
    fn what_is_kept_is_known_as_long_as_the_interest() {
        let mut interest = Interest::new([1, 2]);
        for text in ["a/b", "a/+"] {
            interest.keep(3, filter(text));
            assert_eq!(interest.concerned(topic("a/b")), Concerned::default(), "nobody is interested");
            for core in [3, 4] {
                interest.add(core, filter(text));
            }
            let generation = interest.generation();
            interest.keep(3, filter(text));
            assert_ne!(interest.generation(), generation);
            let found = interest.concerned(topic("a/b"));
            assert_eq!((found.cores, found.kept), ([3, 4].into_iter().collect(), [3].into_iter().collect()));
            // Told once more it is the same, and the other core's interest goes its own way.
            let generation = interest.generation();
            interest.keep(3, filter(text));
            assert_eq!(interest.generation(), generation);
            interest.remove(4, filter(text));
            assert!(interest.concerned(topic("a/b")).kept.contains(3));
            interest.remove(3, filter(text));
            interest.add(3, filter(text));
            assert_eq!(interest.concerned(topic("a/b")).kept, CoreSet::EMPTY);
            interest.remove(3, filter(text));
        }
        assert!(interest.is_empty());
    }

    /// Real collisions of 48 bits cannot be had in a test, so the same filter counts as two.
    #[test]
    fn a_colliding_filter_keeps_the_interest_of_the_other() {
        let mut interest = Interest::new([1, 2]);
        interest.add(3, filter("a/b"));
        interest.add(3, filter("a/b"));
        interest.remove(3, filter("a/b"));
        assert!(interest.cores(topic("a/b")).contains(3));
        interest.remove(3, filter("a/b"));
        assert!(interest.cores(topic("a/b")).is_empty());
    }

    #[test]
    fn a_full_count_is_never_taken_for_less() {
        let mut interest = Interest::new([1, 2]);
        for _ in 0..600 {
            interest.add(3, filter("a/b"));
        }
        for _ in 0..599 {
            interest.remove(3, filter("a/b"));
        }
        assert!(interest.cores(topic("a/b")).contains(3));
    }
}
