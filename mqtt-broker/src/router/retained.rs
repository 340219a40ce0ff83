//! Retained messages of the topics whose home is this core, and the scan that serves a new subscription.
//!
//! Topics are ordered with `/` below every other byte. So a topic is directly followed by everything below it, a filter
//! with wildcards is a walk that skips what cannot match, and a topic's text is all that is needed to go on later. One
//! topic alone is found by its hash: most messages take the place of another, which the order has nothing to do with.
//! Lives on: the home core of each topic.

use std::cmp::Ordering;

use ahash::RandomState;
use mqtt_proto::types::TopicFilter;

use super::levels::{self, common_prefix, level};
use super::ordered::{Ordered, Position};
use super::slab::Slab;
use super::words::Words;

/// What can be kept as the retained message of its topic.
pub trait Retainable {
    /// The Topic Name; it does not change while the message is kept.
    fn topic(&self) -> &str;
    /// Its bytes.
    fn topic_bytes(&self) -> &[u8] {
        self.topic().as_bytes()
    }
    /// The bytes that it counts for; they do not change while the message is kept.
    fn cost(&self) -> usize;
}

/// Retained messages by topic, at most one each [MQTT-3.3.1-5].
pub struct Retained<M> {
    hasher: RandomState,
    messages: Slab<M>,
    /// Hash of the topic and index + 1 of each message.
    by_topic: Words,
    /// The indices in the order of the topics.
    order: Ordered<u32>,
    /// Where the last new topic was put: the next is often near.
    last: Position,
    bytes: usize,
}

impl<M: Retainable> Retained<M> {
    /// No messages; `seed` keys the hashes, so that no client can aim at collisions.
    pub fn new(seed: [u64; 4]) -> Retained<M> {
        Retained {
            hasher: RandomState::with_seeds(seed[0], seed[1], seed[2], seed[3]),
            messages: Slab::new(),
            by_topic: Words::default(),
            order: Ordered::new(),
            last: Position::default(),
            bytes: 0,
        }
    }

    /// Keeps `message`; the answer is the one of the same topic that it replaces.
    pub fn set(&mut self, message: M) -> Option<M> {
        self.bytes += message.cost();
        let hash = levels::hash(message.topic_bytes(), &self.hasher);
        if let Some(index) = self.find(message.topic_bytes(), hash) {
            let replaced = std::mem::replace(self.messages.at_mut(index), message);
            self.bytes -= replaced.cost();
            return Some(replaced);
        }
        let position = {
            let topic = message.topic_bytes();
            let before = |&index: &u32| order(self.messages.at(index).topic_bytes(), topic).is_lt();
            self.order.find_near(self.last, before)
        };
        let index = self.messages.insert(message);
        self.by_topic.insert(word(hash, index));
        self.order.insert(position, index);
        self.last = position;
        None
    }

    /// Takes the message of `topic` out.
    pub fn remove(&mut self, topic: &str) -> Option<M> {
        let hash = levels::hash(topic.as_bytes(), &self.hasher);
        let index = self.find(topic.as_bytes(), hash)?;
        let position = self.lower_bound(topic.as_bytes());
        self.order.remove(position);
        self.by_topic.remove(word(hash, index));
        let removed = self.messages.remove(index)?;
        self.bytes -= removed.cost();
        Some(removed)
    }

    /// The message of `topic`.
    pub fn get(&self, topic: &str) -> Option<&M> {
        let topic = topic.as_bytes();
        self.find(topic, levels::hash(topic, &self.hasher)).map(|index| self.messages.at(index))
    }

    fn find(&self, topic: &[u8], hash: u32) -> Option<u32> {
        let indices = self.by_topic.with_hash(hash).map(|word| word as u32 - 1);
        indices.into_iter().find(|&index| self.messages.at(index).topic_bytes() == topic)
    }

    /// The messages whose topics match `filter` and lie behind the topic `after` (`None`: all), in order.
    pub fn scan<'a>(&'a self, filter: TopicFilter<'a>, after: Option<&str>) -> Scan<'a, M> {
        let text = filter.as_str().as_bytes();
        let prefix = literal_prefix(text);
        let mut next = self.lower_bound(prefix);
        if let Some(after) = after {
            let behind = |message: &M| order(message.topic_bytes(), after.as_bytes()).is_le();
            next = next.max(self.order.find(|&index| behind(self.messages.at(index))));
        }
        Scan {
            messages: &self.messages,
            order: &self.order,
            filter: text,
            next,
            last: None,
            visited: 0,
            budget: usize::MAX,
            finished: false,
            goal: Vec::new(),
        }
    }

    /// All messages in order, those of topics that begin with `$` too.
    pub fn iter(&self) -> impl Iterator<Item = &M> {
        self.order.iter().map(|&index| self.messages.at(index))
    }

    /// All messages whose topics lie behind `after`, in order; those of topics that begin with `$` too.
    pub fn iter_behind(&self, after: &str) -> impl Iterator<Item = &M> + use<'_, M> {
        let is_before = |&index: &u32| order(self.messages.at(index).topic_bytes(), after.as_bytes()).is_le();
        let mut next = self.order.find(is_before);
        std::iter::from_fn(move || {
            let &index = self.order.get(next)?;
            next = self.order.next(next);
            Some(self.messages.at(index))
        })
    }

    /// Keeps only the messages for which `keep` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&M) -> bool) {
        let Retained { hasher, messages, by_topic, order, bytes, .. } = self;
        order.retain(|&index| {
            let message = messages.at(index);
            let kept = keep(message);
            if !kept {
                *bytes -= message.cost();
                by_topic.remove(word(levels::hash(message.topic_bytes(), hasher), index));
                messages.remove(index);
            }
            kept
        });
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sum of all messages' costs.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Heap bytes held beside the messages' own.
    pub fn memory(&self) -> usize {
        self.messages.memory() + self.by_topic.memory() + self.order.memory()
    }

    /// The place of the first topic that is not before `text`.
    fn lower_bound(&self, text: &[u8]) -> Position {
        self.order.find(|&index| order(self.messages.at(index).topic_bytes(), text).is_lt())
    }
}

fn word(hash: u32, index: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(index + 1)
}

/// A walk over the messages that match a filter: an iterator that can stop anywhere.
///
/// To go on later, scan with the same filter behind [`Scan::position`]; what is set or removed meanwhile does no harm.
pub struct Scan<'a, M> {
    messages: &'a Slab<M>,
    order: &'a Ordered<u32>,
    filter: &'a [u8],
    next: Position,
    last: Option<&'a str>,
    visited: usize,
    budget: usize,
    finished: bool,
    /// The text that it skips to, here to be made without a new allocation each time.
    goal: Vec<u8>,
}

impl<'a, M: Retainable> Scan<'a, M> {
    /// The scan that ends for now once it has looked at `visits` messages, matching or not.
    #[must_use]
    pub fn with_budget(mut self, visits: usize) -> Scan<'a, M> {
        self.budget = visits;
        self
    }

    /// How many messages it has looked at; between two of them lies at most one search.
    pub fn visited(&self) -> usize {
        self.visited
    }

    /// The topic of the last message that it looked at, `None` if it has not looked at any: where to go on.
    pub fn position(&self) -> Option<&'a str> {
        self.last
    }

    /// Whether nothing more matches; otherwise its end was that of its budget.
    pub fn is_finished(&self) -> bool {
        self.finished
    }
}

impl<'a, M: Retainable> Iterator for Scan<'a, M> {
    type Item = &'a M;

    fn next(&mut self) -> Option<&'a M> {
        while !self.finished {
            let Some(message) = self.order.get(self.next).map(|&index| self.messages.at(index)) else {
                self.finished = true;
                break;
            };
            if self.visited == self.budget {
                break;
            }
            self.visited += 1;
            self.last = Some(message.topic());
            let step = step(self.filter, message.topic_bytes());
            self.next = self.order.next(self.next);
            match step {
                Step::Match => return Some(message),
                Step::Skip(pieces) => {
                    self.goal.clear();
                    pieces.into_iter().for_each(|piece| self.goal.extend_from_slice(piece));
                    let goal = &self.goal;
                    let before = |&index: &u32| order(self.messages.at(index).topic_bytes(), goal).is_lt();
                    self.next = self.order.seek(self.next, before);
                }
                Step::Finish => self.finished = true,
            }
        }
        None
    }
}

/// What a scan does after it has looked at a topic.
enum Step<'a> {
    Match,
    /// No match, nor is anything before the text of these pieces.
    Skip([&'a [u8]; 3]),
    /// No match, nor is anything behind.
    Finish,
}

/// Compares `topic` with `filter` level by level, and where they part tells where the next match can be at the earliest.
fn step<'a>(filter: &'a [u8], topic: &'a [u8]) -> Step<'a> {
    if topic[0] == b'$' && matches!(filter[0], b'+' | b'#') {
        // `%` comes directly after `$` [MQTT-4.7.2-1].
        return Step::Skip([b"%", b"", b""]);
    }
    let (mut at, mut topic_at) = (0, 0);
    // Where the last level that `+` stood for ends. U+0001 is the lowest character of a topic but for `/`: a prefix
    // followed by it lies behind everything below the prefix.
    let mut single = None;
    let skip = |single: Option<usize>| match single {
        Some(end) => Step::Skip([&topic[..end], b"\x01", b""]),
        None => Step::Finish,
    };
    while at <= filter.len() {
        let wanted = level(filter, at);
        if wanted == b"#" {
            return Step::Match;
        }
        if topic_at > topic.len() {
            return Step::Skip([topic, b"/", literal_prefix(&filter[at..])]);
        }
        let name = level(topic, topic_at);
        if wanted == b"+" {
            single = Some(topic_at + name.len());
        } else {
            match order(name, wanted) {
                // Up to the filter's next wildcard nothing else can match: all of that is skipped to at once.
                Ordering::Less => {
                    return Step::Skip([&topic[..topic_at], literal_prefix(&filter[at..]), b""]);
                }
                Ordering::Equal => {}
                Ordering::Greater => return skip(single),
            }
        }
        at += wanted.len() + 1;
        topic_at += name.len() + 1;
    }
    if topic_at > topic.len() { Step::Match } else { skip(single) }
}

/// The text that every match begins with.
fn literal_prefix(filter: &[u8]) -> &[u8] {
    match filter.iter().position(|&byte| byte == b'+' || byte == b'#') {
        // `a/#` matches `a` as well.
        Some(at) if filter[at] == b'#' => &filter[..at.saturating_sub(1)],
        Some(at) => &filter[..at],
        None => filter,
    }
}

/// The order of topics: by bytes, `/` below all others. No topic holds U+0000, whose place it takes.
pub(crate) fn order(one: &[u8], other: &[u8]) -> Ordering {
    let same = common_prefix(one, other);
    let rank = |text: &[u8]| text.get(same).map(|&byte| if byte == b'/' { 0 } else { byte });
    rank(one).cmp(&rank(other))
}
