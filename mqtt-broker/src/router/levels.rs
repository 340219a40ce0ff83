//! The levels of topics and filters: where they end, their hashes, and whether a filter's text matches a topic's.

use std::hash::{BuildHasher, Hasher};

use ahash::RandomState;

/// The level of `text` that begins at `at`.
pub(super) fn level(text: &[u8], at: usize) -> &[u8] {
    &text[at..level_end(text, at)]
}

/// Where the level of `text` that begins at `at` ends: before a `/` or at the end of the text. Eight bytes at a time.
#[inline]
pub(super) fn level_end(text: &[u8], at: usize) -> usize {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH_BITS: u64 = u64::from_ne_bytes([0x80; 8]);
    const SLASHES: u64 = u64::from_ne_bytes([b'/'; 8]);
    let (words, rest) = text[at..].as_chunks::<8>();
    let mut end = at;
    for word in words {
        let difference = u64::from_le_bytes(*word) ^ SLASHES;
        // The lowest bit that is set belongs to the first byte that is a slash.
        let found = difference.wrapping_sub(ONES) & !difference & HIGH_BITS;
        if found != 0 {
            return end + found.trailing_zeros() as usize / 8;
        }
        end += 8;
    }
    end + rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len())
}

/// What a level, or a whole text without a wildcard, is found by.
#[inline]
pub(super) fn hash(text: &[u8], hasher: &RandomState) -> u32 {
    // Not `hash_one`, which would put the length in front: `write` mixes it in already.
    let mut hasher = hasher.build_hasher();
    hasher.write(text);
    (hasher.finish() >> 32) as u32
}

/// Whether `filter` matches `topic`, the `$` rule left to the caller.
pub(super) fn matches(mut filter: &[u8], mut topic: &[u8]) -> bool {
    loop {
        let same = common_prefix(filter, topic);
        (filter, topic) = (&filter[same..], &topic[same..]);
        // No topic holds a wildcard: where the filter does, the two part.
        match filter {
            [] | b"/#" => return topic.is_empty(),
            [b'#', ..] => return true,
            [b'+', rest @ ..] => (filter, topic) = (rest, &topic[level_end(topic, 0)..]),
            _ => return false,
        }
    }
}

/// How many bytes `one` and `other` have in common at the front, eight at a time.
#[inline]
pub(super) fn common_prefix(one: &[u8], other: &[u8]) -> usize {
    let mut same = 0;
    for (one, other) in one.as_chunks::<8>().0.iter().zip(other.as_chunks::<8>().0) {
        let difference = u64::from_le_bytes(*one) ^ u64::from_le_bytes(*other);
        if difference != 0 {
            return same + difference.trailing_zeros() as usize / 8;
        }
        same += 8;
    }
    same + one[same..].iter().zip(&other[same..]).take_while(|(one, other)| one == other).count()
}

/// The levels of one topic, those at the front with where they end and their hash. Worked out beforehand, so that who
/// searches by them has nothing to do but to search.
pub(super) struct Levels<'a> {
    topic: &'a [u8],
    hasher: &'a RandomState,
    near: [(u32, u32); NEAR],
    known: usize,
}

const NEAR: usize = 12;

impl<'a> Levels<'a> {
    #[inline]
    pub(super) fn new(topic: &'a [u8], hasher: &'a RandomState) -> Levels<'a> {
        let mut levels = Levels { topic, hasher, near: [(0, 0); NEAR], known: 0 };
        let mut at = 0;
        while at <= topic.len() && levels.known < NEAR {
            let level = levels.look(at);
            levels.near[levels.known] = level;
            levels.known += 1;
            at = level.0 as usize + 1;
        }
        levels
    }

    /// End and hash of the level `depth`, which begins at `at`; `None` behind the last.
    #[inline]
    pub(super) fn get(&self, depth: usize, at: usize) -> Option<(u32, u32)> {
        match self.near[..self.known].get(depth) {
            Some(level) => Some(*level),
            None => (at <= self.topic.len()).then(|| self.look(at)),
        }
    }

    #[inline]
    fn look(&self, at: usize) -> (u32, u32) {
        let end = level_end(self.topic, at);
        (end as u32, hash(&self.topic[at..end], self.hasher))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mqtt_proto::types::{TopicFilter, TopicName};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn levels_end_where_splitting_says(text in "[ab/]{0,40}") {
            let mut at = 0;
            for expected in text.split('/') {
                prop_assert_eq!(level(text.as_bytes(), at), expected.as_bytes());
                at += expected.len() + 1;
            }
            prop_assert_eq!(at, text.len() + 1);
        }

        #[test]
        fn matching_is_that_of_the_definition(
            filter in "(\\+|[ab]{0,9})(/(\\+|[ab]{0,9})){0,4}(/#)?|#",
            topic in "[ab]{0,9}(/[ab]{0,9}){0,5}",
            follow in any::<bool>(),
        ) {
            // Half of the topics are made from their filter, or nearly none would match.
            let topic = if follow { filter.replace('+', &topic).replace('#', "b/a") } else { topic };
            prop_assume!(!filter.is_empty() && !topic.is_empty());
            let expected = TopicFilter::new(&filter).expect("a filter").matches(TopicName::new(&topic).expect("a topic"));
            prop_assert_eq!(matches(filter.as_bytes(), topic.as_bytes()), expected);
        }
    }
}
