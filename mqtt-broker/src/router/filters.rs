//! Topic Filters, each kept once with a value: found by text and by the topics they match.
//!
//! Filters without a wildcard are found by the hash of their text, the others in a trie. The text is kept here and
//! nowhere else.

use ahash::RandomState;
use mqtt_proto::types::{TopicFilter, TopicName};

use super::levels::{self, Levels};
use super::slab::Slab;
use super::text::Text;
use super::trie::{Texts, Trie};
use super::words::Words;

/// An interned Topic Filter: stable while something is kept for that filter, reused afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilterId(pub(super) u32);

/// Topic Filters with a `V` each.
pub(super) struct Filters<V> {
    hasher: RandomState,
    entries: Slab<Entry<V>>,
    /// Hash of the text and index + 1 of the filters without a wildcard.
    exact: Words,
    wildcard: Trie,
    /// Heap bytes of all texts.
    text_bytes: usize,
}

struct Entry<V> {
    text: Text,
    value: V,
}

impl<V> Texts for Slab<Entry<V>> {
    fn text(&self, filter: FilterId) -> &[u8] {
        self.at(filter.0).text.as_bytes()
    }
}

impl<V> Filters<V> {
    pub(super) fn new(seed: [u64; 4]) -> Filters<V> {
        Filters {
            hasher: RandomState::with_seeds(seed[0], seed[1], seed[2], seed[3]),
            entries: Slab::new(),
            exact: Words::default(),
            wildcard: Trie::new(),
            text_bytes: 0,
        }
    }

    /// How many filters there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Heap bytes held, texts included, without what the values themselves hold.
    pub(super) fn memory(&self) -> usize {
        self.entries.memory() + self.exact.memory() + self.wildcard.memory() + self.text_bytes
    }

    pub(super) fn find(&self, filter: TopicFilter<'_>) -> Option<FilterId> {
        let text = filter.as_str().as_bytes();
        if filter.has_wildcard() {
            self.wildcard.find(text, &self.hasher, &self.entries)
        } else {
            self.find_exact(text)
        }
    }

    /// The id of `filter`, kept with `value()` from now on if it was not yet, which the answer's second half tells.
    pub(super) fn intern(&mut self, filter: TopicFilter<'_>, value: impl FnOnce() -> V) -> (FilterId, bool) {
        if let Some(id) = self.find(filter) {
            return (id, false);
        }
        let text = Text::new(filter.as_str().as_bytes());
        self.text_bytes += text.memory();
        let id = FilterId(self.entries.insert(Entry { text, value: value() }));
        if filter.has_wildcard() {
            self.wildcard.insert(id, &self.hasher, &self.entries);
        } else {
            self.exact.insert(self.exact_word(filter.as_str().as_bytes(), id));
        }
        (id, true)
    }

    /// Forgets the filter `id`; the answer is its value.
    pub(super) fn remove(&mut self, id: FilterId) -> Option<V> {
        let text = &self.entries.get(id.0)?.text;
        self.text_bytes -= text.memory();
        if text.as_bytes().iter().any(|&byte| byte == b'+' || byte == b'#') {
            self.wildcard.remove(id, &self.hasher, &self.entries);
        } else {
            let word = self.exact_word(text.as_bytes(), id);
            self.exact.remove(word);
        }
        self.entries.remove(id.0).map(|entry| entry.value)
    }

    /// The text of `id`, `None` if it is not in use.
    pub(super) fn text(&self, id: FilterId) -> Option<&str> {
        self.entries.get(id.0).map(|entry| entry.text.as_str())
    }

    pub(super) fn get(&self, id: FilterId) -> Option<&V> {
        self.entries.get(id.0).map(|entry| &entry.value)
    }

    pub(super) fn get_mut(&mut self, id: FilterId) -> Option<&mut V> {
        self.entries.get_mut(id.0).map(|entry| &mut entry.value)
    }

    /// Calls `found` with the value of every filter that matches `topic`.
    ///
    /// The time goes into waiting for memory, so it is asked for what is needed as soon as that is known: for the place of
    /// the topic itself before the trie is searched, for all entries before one of them is compared with the topic.
    pub(super) fn matches<'a>(&'a self, topic: TopicName<'_>, mut found: impl FnMut(&'a V)) {
        let text = topic.as_bytes();
        let hash = levels::hash(text, &self.hasher);
        let levels = (!self.wildcard.is_empty()).then(|| Levels::new(text, &self.hasher));
        self.exact.prefetch(hash);
        let mut candidates = [FilterId(0); 16];
        let mut len = 0;
        let mut compare = |candidates: &[FilterId]| {
            for entry in candidates.iter().map(|id| self.entries.at(id.0)) {
                if levels::matches(entry.text.as_bytes(), text) {
                    found(&entry.value);
                }
            }
        };
        let mut candidate = |id: FilterId| {
            if len == candidates.len() {
                compare(&candidates);
                len = 0;
            }
            self.entries.prefetch(id.0);
            candidates[len] = id;
            len += 1;
        };
        if let Some(levels) = levels {
            self.wildcard.matches(&levels, topic.is_dollar(), &mut candidate);
        }
        self.with_hash(hash).for_each(candidate);
        compare(&candidates[..len]);
    }

    /// The texts of all filters, in the order of their ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(_, entry)| entry.text.as_str())
    }

    fn find_exact(&self, text: &[u8]) -> Option<FilterId> {
        self.with_hash(levels::hash(text, &self.hasher)).find(|&id| self.entries.text(id) == text)
    }

    /// The filters without a wildcard whose text has this hash: almost always a single one, or none.
    fn with_hash(&self, hash: u32) -> impl Iterator<Item = FilterId> + '_ {
        self.exact.with_hash(hash).map(|word| FilterId(word as u32 - 1))
    }

    fn exact_word(&self, text: &[u8], id: FilterId) -> u64 {
        u64::from(levels::hash(text, &self.hasher)) << 32 | u64::from(id.0 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::trie;
    use super::*;
    use std::collections::HashMap;

    const SEED: [u64; 4] = [1, 2, 3, 4];

    fn filter(text: &str) -> TopicFilter<'_> {
        TopicFilter::new(text).expect("a filter")
    }

    /// Two texts whose hashes agree in the 32 bits that are kept: among 300,000 there are about ten such pairs.
    fn colliding(hasher: &RandomState) -> (String, String) {
        let mut seen = HashMap::new();
        for number in 0..300_000 {
            let text = format!("l{number}");
            if let Some(other) = seen.insert(levels::hash(text.as_bytes(), hasher), text.clone()) {
                return (other, text);
            }
        }
        panic!("no collision under this seed: choose another");
    }

    #[test]
    fn filters_and_levels_with_colliding_hashes_are_told_apart() {
        let mut filters = Filters::new(SEED);
        let (one, other) = colliding(&filters.hasher);
        let empty = filters.memory();
        let endings = ["", "/+", "/+/x", "/#", "/b/+"];
        let texts: Vec<String> =
            [&one, &other].iter().flat_map(|level| endings.map(|end| format!("{level}{end}"))).collect();
        for order in [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [9, 3, 5, 1, 7, 0, 2, 8, 6, 4]] {
            for text in order.map(|at| &texts[at]) {
                assert!(filters.intern(filter(text), || text.clone()).1, "{text} is new");
            }
            for level in [&one, &other] {
                for (topic, count) in [("", 2), ("/b", 2), ("/b/x", 3), ("/b/y", 2), ("/c/x", 2), ("/c/y", 1)]
                {
                    let topic = format!("{level}{topic}");
                    let mut found = Vec::new();
                    filters
                        .matches(TopicName::new(&topic).expect("a topic"), |text| found.push(text.clone()));
                    assert!(found.iter().all(|text| text.starts_with(&**level)));
                    assert_eq!(found.len(), count, "{topic}: {found:?}");
                }
            }
            for text in order.map(|at| &texts[(at + 3) % 10]) {
                let id = filters.find(filter(text)).expect("it is in");
                assert_eq!(filters.remove(id).as_ref(), Some(text));
                assert_eq!(filters.find(filter(text)), None);
            }
            assert_eq!(filters.memory(), empty);
        }
    }

    #[test]
    fn deep_filters_need_no_stack() {
        let mut filters = Filters::new(SEED);
        let deep = "/".repeat(30_000);
        for end in ["a", "+", "#", "b/+"] {
            filters.intern(filter(&format!("{deep}{end}")), || ());
        }
        let topic = format!("{deep}a");
        let mut found = 0;
        filters.matches(TopicName::new(&topic).expect("a topic"), |()| found += 1);
        assert_eq!(found, 3);
        for end in ["a", "+", "#", "b/+"] {
            let id = filters.find(filter(&format!("{deep}{end}"))).expect("it is in");
            filters.remove(id);
        }
        assert_eq!(filters.memory(), 0);
    }

    /// Two levels for which the first two nodes of a trie look at the same place.
    fn sharing_a_place(hasher: &RandomState) -> (String, String) {
        let level = |number: u32| format!("l{number}");
        let place =
            |node: u32, number: u32| trie::place(node, levels::hash(level(number).as_bytes(), hasher));
        let first: HashMap<u32, u32> = (0..300_000).map(|number| (place(0, number), number)).collect();
        let shared = (0..300_000).find_map(|number| Some((*first.get(&place(1, number))?, number)));
        let (one, other) = shared.expect("no such pair under this seed: choose another");
        (level(one), level(other))
    }

    #[test]
    fn nodes_whose_edges_share_a_place_are_told_apart() {
        let empty = Filters::<String>::new(SEED).memory();
        for ends in [&["#"][..], &["#", "a/+"]] {
            let mut filters = Filters::new(SEED);
            let (one, other) = sharing_a_place(&filters.hasher);
            // The root is node 0, what `+` leads to node 1.
            let mut texts = vec!["+/z/#".to_owned()];
            texts.extend(ends.iter().map(|end| format!("+/{other}/{end}")));
            texts.extend(ends.iter().map(|end| format!("{one}/{one}/{end}")));
            for text in &texts {
                assert!(filters.intern(filter(text), || text.clone()).1);
            }
            for (first, second) in [(&one, &other), (&one, &one), (&other, &other), (&other, &one)] {
                let topic = format!("{first}/{second}/a/x");
                let topic = TopicName::new(&topic).expect("a topic");
                let mut found = Vec::new();
                filters.matches(topic, |text| found.push(text.clone()));
                let expected: Vec<&String> =
                    texts.iter().filter(|text| filter(text).matches(topic)).collect();
                assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{topic}");
            }
            for text in &texts {
                let id = filters.find(filter(text)).expect("it is in");
                assert_eq!(filters.remove(id).as_ref(), Some(text));
            }
            assert_eq!(filters.memory(), empty);
        }
    }

    /// Many nodes are reached at one level, more than there is room for without the heap.
    #[test]
    fn every_node_of_a_broad_level_is_visited() {
        let mut filters = Filters::new(SEED);
        for bits in 0..64 {
            let levels: Vec<&str> = (0..6).map(|level| ["a", "+"][bits >> level & 1]).collect();
            for end in ["#", "a/+", "b/+", "+"] {
                filters.intern(filter(&format!("{}/{end}", levels.join("/"))), || (bits, end));
            }
        }
        let mut found = Vec::new();
        filters.matches(TopicName::new("a/a/a/a/a/a/a/c").expect("a topic"), |&value| found.push(value));
        found.sort_unstable();
        let expected: Vec<_> = (0..64).flat_map(|bits| [(bits, "#"), (bits, "a/+")]).collect();
        assert_eq!(found, expected);
    }

    /// Every level of the topic parts the search in two, so that many nodes wait at once.
    #[test]
    fn every_branch_of_a_wide_search_is_followed() {
        let mut filters = Filters::new(SEED);
        for depth in 0..40 {
            let level = "a/".repeat(depth);
            filters.intern(filter(&format!("{level}+/#")), || depth);
            filters.intern(filter(&format!("{level}+/y")), || 1000);
        }
        let topic = ["a"; 40].join("/");
        let mut found = Vec::new();
        filters.matches(TopicName::new(&topic).expect("a topic"), |&depth| found.push(depth));
        found.sort_unstable();
        assert_eq!(found, (0..40).collect::<Vec<usize>>());
    }
}
