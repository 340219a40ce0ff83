//! An open-addressing table of 64-bit words that are placed by their upper half.
//!
//! The upper 32 bits of a word are a hash, the lower bits whatever the owner keeps with it; a word is never zero.
//! Several words may share a hash: the owner tells them apart. One probe is one cache line in the common case, and
//! because places follow the order of the hashes, growing is one pass over both tables instead of a shuffle.

use prefetch_index::prefetch_index;

/// A multiset of non-zero words, found by their upper 32 bits.
#[derive(Debug, Default)]
pub(super) struct Words {
    slots: Box<[u64]>,
    len: usize,
}

/// Tables up to this size may be completely full: they are scanned faster than hashed.
const FULL_MAX: usize = 8;

impl Words {
    /// How many words there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Heap bytes held.
    pub(super) fn memory(&self) -> usize {
        self.slots.len() * size_of::<u64>()
    }

    /// Every word whose upper half is `hash`.
    #[inline]
    pub(super) fn with_hash(&self, hash: u32) -> WithHash<'_> {
        let (wrapped, first) = self.slots.split_at(home(hash, self.slots.len()));
        WithHash { hash, ahead: first.iter(), wrapped }
    }

    /// Asks memory for the place where a search for `hash` begins, without waiting for it.
    #[inline]
    pub(super) fn prefetch(&self, hash: u32) {
        prefetch_index(&self.slots, home(hash, self.slots.len()));
    }

    /// Adds `word`, also when an equal one is there.
    pub(super) fn insert(&mut self, word: u64) {
        debug_assert_ne!(word, 0, "zero marks an empty slot");
        let capacity = self.slots.len();
        if self.len == capacity || (capacity > FULL_MAX && (self.len + 1) * 5 > capacity * 4) {
            self.rebuild(match capacity {
                0 => 2,
                1..=FULL_MAX => capacity * 2,
                _ => capacity + capacity / 2,
            });
        }
        self.place(word);
        self.len += 1;
    }

    /// Takes one word equal to `word` out; false if there is none.
    pub(super) fn remove(&mut self, word: u64) -> bool {
        let Some(at) = self.position(word) else { return false };
        self.vacate(at);
        self.len -= 1;
        if self.len == 0 {
            self.slots = Box::default();
        } else if self.len * 4 < self.slots.len() {
            self.rebuild((self.len * 2).max(2));
        }
        true
    }

    /// Puts `new` in the place of `old`, which has the same hash; false if `old` is not there.
    pub(super) fn replace(&mut self, old: u64, new: u64) -> bool {
        debug_assert_eq!(old >> 32, new >> 32, "a word keeps its place");
        debug_assert_ne!(new, 0, "zero marks an empty slot");
        let Some(at) = self.position(old) else { return false };
        self.slots[at] = new;
        true
    }

    fn position(&self, word: u64) -> Option<usize> {
        let capacity = self.slots.len();
        let mut at = home((word >> 32) as u32, capacity);
        for _ in 0..capacity {
            match self.slots[at] {
                0 => return None,
                found if found == word => return Some(at),
                _ => at = after(at, capacity),
            }
        }
        None
    }

    /// Writes `word` in the first free slot from its home on; the caller has made sure that there is one.
    fn place(&mut self, word: u64) {
        let capacity = self.slots.len();
        let mut at = home((word >> 32) as u32, capacity);
        while self.slots[at] != 0 {
            at = after(at, capacity);
        }
        self.slots[at] = word;
    }

    /// Empties slot `hole` and moves back those behind it that would no longer be found.
    fn vacate(&mut self, mut hole: usize) {
        let capacity = self.slots.len();
        let mut at = hole;
        for _ in 1..capacity {
            at = after(at, capacity);
            let word = self.slots[at];
            if word == 0 {
                break;
            }
            if distance(home((word >> 32) as u32, capacity), at, capacity) >= distance(hole, at, capacity) {
                self.slots[hole] = word;
                hole = at;
            }
        }
        self.slots[hole] = 0;
    }

    fn rebuild(&mut self, capacity: usize) {
        let old = std::mem::replace(&mut self.slots, vec![0; capacity].into_boxed_slice());
        for word in old.into_iter().filter(|&word| word != 0) {
            self.place(word);
        }
    }
}

/// Iterates over the words with one hash.
pub(super) struct WithHash<'a> {
    hash: u32,
    ahead: std::slice::Iter<'a, u64>,
    /// The slots before its home, which come last.
    wrapped: &'a [u64],
}

impl Iterator for WithHash<'_> {
    type Item = u64;

    #[inline]
    fn next(&mut self) -> Option<u64> {
        loop {
            for &word in self.ahead.by_ref() {
                if word == 0 {
                    (self.ahead, self.wrapped) = ([].iter(), &[]);
                    return None;
                }
                if (word >> 32) as u32 == self.hash {
                    return Some(word);
                }
            }
            if self.wrapped.is_empty() {
                return None;
            }
            self.ahead = std::mem::take(&mut self.wrapped).iter();
        }
    }
}

/// The slot where the search for `hash` begins.
fn home(hash: u32, capacity: usize) -> usize {
    ((u64::from(hash) * capacity as u64) >> 32) as usize
}

fn after(at: usize, capacity: usize) -> usize {
    if at + 1 == capacity { 0 } else { at + 1 }
}

/// Steps forward from slot `from` to slot `to`.
fn distance(from: usize, to: usize, capacity: usize) -> usize {
    if to >= from { to - from } else { to + capacity - from }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_a_plain_list(
            operations in prop::collection::vec((any::<bool>(), 0u64..24, 1u64..4), 0..400),
            spread in prop::sample::select(vec![0u64, 1, 0x0A00_0000, 0xFFFF_FFFF]),
        ) {
            let mut words = Words::default();
            let mut model: Vec<u64> = Vec::new();
            for (insert, hash, low) in operations {
                let hash = hash.wrapping_mul(spread) & 0xFFFF_FFFF;
                let word = hash << 32 | low;
                if insert {
                    words.insert(word);
                    model.push(word);
                } else {
                    let at = model.iter().position(|&known| known == word);
                    prop_assert_eq!(words.remove(word), at.is_some());
                    at.map(|at| model.swap_remove(at));
                }
                let mut found: Vec<u64> = words.with_hash(hash as u32).collect();
                let mut expected: Vec<u64> = model.iter().copied().filter(|word| word >> 32 == hash).collect();
                found.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(found, expected);
                prop_assert_eq!(words.len(), model.len());
                let slots = words.slots.len();
                prop_assert!(slots <= 4 * words.len());
                prop_assert!(slots <= FULL_MAX || words.len() * 5 <= slots * 4, "a fifth stays free");
            }
            for word in model {
                prop_assert!(words.remove(word));
            }
            prop_assert_eq!(words.memory(), 0);
        }
    }

    /// What a search walks over is short while hashes are spread, and growing or shrinking is rare.
    #[test]
    fn words_lie_near_the_place_their_hash_gives_them() {
        let mut words = Words::default();
        let word = |number: u64| number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let (mut rebuilt, mut slots) = (0, 0);
        let mut check = |words: &Words| {
            let capacity = words.slots.len();
            rebuilt += usize::from(capacity != slots);
            slots = capacity;
            let full = words.slots.iter().enumerate().filter(|&(_, &word)| word != 0);
            let far = full.map(|(at, &word)| distance(home((word >> 32) as u32, capacity), at, capacity));
            far.max().unwrap_or(0)
        };
        for number in 0..5_000 {
            words.insert(word(number));
            assert!(number % 100 != 0 || check(&words) < 50);
        }
        for number in 0..5_000 {
            // One goes and comes back at any size: that alone must not rebuild the table each time.
            assert!(words.remove(word(number)));
            words.insert(word(number));
            assert!(words.remove(word(number)));
            assert!(number % 100 != 0 || check(&words) < 50);
        }
        assert_eq!(words.memory(), 0);
        assert!(rebuilt < 40, "{rebuilt} of 100 times the table had another size");
    }

    #[test]
    fn an_empty_table_finds_nothing() {
        let words = Words::default();
        assert_eq!(words.with_hash(0).count() + words.with_hash(u32::MAX).count(), 0);
        words.prefetch(u32::MAX);
    }
}
