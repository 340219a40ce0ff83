//! One core's Non-shared Subscriptions: which subscribers a Topic Name concerns.
//!
//! Invariant: a filter is kept exactly as long as it has a subscriber. Lives on: each core, for its own sessions.

use mqtt_proto::packet::SubscriptionOptions;
use mqtt_proto::types::{TopicFilter, TopicName};

use super::filters::{FilterId, Filters};
use super::words::Words;

/// A subscriber of a filter, as kept and as found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscriber {
    /// The subscriber in its own table, opaque here.
    pub key: u32,
    /// The Subscription Options.
    pub options: SubscriptionOptions,
    /// The Subscription Identifier, 0 for none: that value is no identifier.
    pub identifier: u32,
}

/// What [`Subscriptions::insert`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inserted {
    /// The filter.
    pub filter: FilterId,
    /// The subscription of the same subscriber that this one replaced [MQTT-3.8.4-3].
    pub replaced: Option<Subscriber>,
    /// Whether the filter had no subscriber on this core: announce it.
    pub first_on_core: bool,
}

/// What [`Subscriptions::remove`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Whether the filter has no subscriber on this core any more: announce it. Its [`FilterId`] is void then.
    pub last_on_core: bool,
    /// What was kept.
    pub subscriber: Subscriber,
}

/// What [`Subscriptions::matches`] found. Reused from one publish to the next, it stops allocating.
#[derive(Clone, Debug, Default)]
pub struct Matches {
    /// The subscribers of the first matching filter, then those of the second, and so on.
    pub subscribers: Vec<Subscriber>,
    /// How many filters matched; with a single one no subscriber occurs twice.
    pub filters: usize,
}

impl Matches {
    /// The subscriptions of each session that gets the message, once they are sorted by session where several filters
    /// matched: those that overlap give one delivery (section 3.3.4).
    pub(crate) fn sessions(&self) -> impl Iterator<Item = &[Subscriber]> {
        self.subscribers.chunk_by(|a, b| self.filters > 1 && a.key == b.key)
    }

    /// Empties it for the next publish.
    pub fn clear(&mut self) {
        self.subscribers.clear();
        self.filters = 0;
    }
}

/// The subscriptions of one core: exact filters in a hash table, the others in a trie.
pub struct Subscriptions {
    filters: Filters<Subscribers>,
    len: usize,
    generation: u64,
    /// Heap bytes of all filters' lists.
    list_bytes: usize,
}

impl Subscriptions {
    /// No subscriptions; `seed` keys the hashes, so that no client can aim at collisions.
    pub fn new(seed: [u64; 4]) -> Subscriptions {
        Subscriptions { filters: Filters::new(seed), len: 0, generation: 0, list_bytes: 0 }
    }

    /// Subscribes `subscriber` to `filter`; a subscription of the same key to it is replaced [MQTT-3.8.4-3].
    pub fn insert(&mut self, filter: TopicFilter<'_>, subscriber: Subscriber) -> Inserted {
        self.generation += 1;
        let (id, first_on_core) = self.filters.intern(filter, || Subscribers::One(subscriber));
        let mut replaced = None;
        if !first_on_core {
            let subscribers = self.filters.get_mut(id).expect("it was just interned");
            self.list_bytes -= subscribers.memory();
            replaced = subscribers.insert(subscriber);
            self.list_bytes += subscribers.memory();
        }
        self.len += usize::from(replaced.is_none());
        Inserted { filter: id, replaced, first_on_core }
    }

    /// Ends the subscription of `key` to `filter`.
    pub fn remove(&mut self, filter: TopicFilter<'_>, key: u32) -> Option<Removed> {
        self.remove_id(self.filters.find(filter)?, key)
    }

    /// Ends the subscription of `key` to the filter `id`.
    pub fn remove_id(&mut self, id: FilterId, key: u32) -> Option<Removed> {
        let subscribers = self.filters.get_mut(id)?;
        let before = subscribers.memory();
        let (subscriber, last_on_core) = match subscribers {
            Subscribers::One(subscriber) if subscriber.key == key => (*subscriber, true),
            Subscribers::One(_) => return None,
            Subscribers::Many(list) => {
                let removed = list.remove(key)?;
                if let [last] = list.list[..] {
                    *subscribers = Subscribers::One(last);
                }
                (removed, false)
            }
        };
        self.list_bytes -= before;
        self.list_bytes += subscribers.memory();
        if last_on_core {
            self.filters.remove(id);
        }
        self.len -= 1;
        self.generation += 1;
        Some(Removed { last_on_core, subscriber })
    }

    /// The id of `filter` if it has a subscriber.
    pub fn find(&self, filter: TopicFilter<'_>) -> Option<FilterId> {
        self.filters.find(filter)
    }

    /// The subscription of `key` to the filter `id`.
    pub fn get(&self, id: FilterId, key: u32) -> Option<Subscriber> {
        match self.filters.get(id)? {
            Subscribers::One(subscriber) => (subscriber.key == key).then_some(*subscriber),
            Subscribers::Many(list) => list.position(key).map(|at| list.list[at]),
        }
    }

    /// The text of `id`.
    ///
    /// # Panics
    /// If the filter has no subscriber any more.
    pub fn filter_text(&self, id: FilterId) -> &str {
        self.filters.text(id).expect("a filter's id is used while it has a subscriber")
    }

    /// Appends every subscriber of every filter that matches `topic` to `out`.
    ///
    /// A subscriber with several matching filters occurs once for each; deciding what it gets is up to the caller
    /// [MQTT-3.3.4-2]. Without allocation once `out` has its room.
    pub fn matches(&self, topic: TopicName<'_>, out: &mut Matches) {
        self.filters.matches(topic, |subscribers| {
            out.filters += 1;
            match subscribers {
                Subscribers::One(subscriber) => out.subscribers.push(*subscriber),
                Subscribers::Many(list) => out.subscribers.extend_from_slice(&list.list),
            }
        });
    }

    /// How many subscriptions there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many different filters they have.
    pub fn filters(&self) -> usize {
        self.filters.len()
    }

    /// Heap bytes held, the texts of the filters included.
    pub fn memory(&self) -> usize {
        self.filters.memory() + self.list_bytes
    }

    /// Grows with each change: what was worked out under the same generation still holds.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The texts of all filters, in the order of their ids: to announce them to a core that is new.
    pub fn iter_filters(&self) -> impl Iterator<Item = &str> {
        self.filters.iter()
    }
}

/// The subscribers of one filter: almost always a single one, which needs no heap.
enum Subscribers {
    One(Subscriber),
    Many(Box<List>),
}

/// At least two subscribers, in no order of meaning.
struct List {
    list: Vec<Subscriber>,
    /// Hash of the key and place in `list` + 1; empty while the list is short enough to be searched.
    places: Words,
}

/// Lists up to this length are searched from the front.
const SEARCHED_MAX: usize = 32;

impl Subscribers {
    fn memory(&self) -> usize {
        match self {
            Subscribers::One(_) => 0,
            Subscribers::Many(list) => {
                size_of::<List>() + list.list.capacity() * size_of::<Subscriber>() + list.places.memory()
            }
        }
    }

    /// Adds `subscriber` or puts it in the place of the one with its key, which is the answer.
    fn insert(&mut self, subscriber: Subscriber) -> Option<Subscriber> {
        match self {
            Subscribers::One(known) if known.key == subscriber.key => {
                Some(std::mem::replace(known, subscriber))
            }
            Subscribers::One(first) => {
                let list = vec![*first, subscriber];
                *self = Subscribers::Many(Box::new(List { list, places: Words::default() }));
                None
            }
            Subscribers::Many(list) => match list.position(subscriber.key) {
                Some(at) => Some(std::mem::replace(&mut list.list[at], subscriber)),
                None => {
                    list.push(subscriber);
                    None
                }
            },
        }
    }
}

impl List {
    fn position(&self, key: u32) -> Option<usize> {
        if self.places.len() == 0 {
            return self.list.iter().position(|subscriber| subscriber.key == key);
        }
        self.places
            .with_hash(spread(key))
            .map(|word| word as u32 as usize - 1)
            .find(|&at| self.list[at].key == key)
    }

    fn push(&mut self, subscriber: Subscriber) {
        self.list.push(subscriber);
        if self.places.len() > 0 {
            self.places.insert(place(subscriber.key, self.list.len() - 1));
        } else if self.list.len() > SEARCHED_MAX {
            for (at, subscriber) in self.list.iter().enumerate() {
                self.places.insert(place(subscriber.key, at));
            }
        }
    }

    fn remove(&mut self, key: u32) -> Option<Subscriber> {
        let at = self.position(key)?;
        let removed = self.list.swap_remove(at);
        if self.places.len() > 0 {
            self.places.remove(place(key, at));
            if let Some(moved) = self.list.get(at) {
                self.places.replace(place(moved.key, self.list.len()), place(moved.key, at));
            }
            if self.list.len() <= SEARCHED_MAX / 2 {
                self.places = Words::default();
            }
        }
        if self.list.len() * 4 < self.list.capacity() {
            self.list.shrink_to(self.list.len() * 2);
        }
        Some(removed)
    }
}

/// Keys are given out by their owner, not by clients: spreading them needs no secret.
fn spread(key: u32) -> u32 {
    key.wrapping_mul(0x9E37_79B1)
}

fn place(key: u32, at: usize) -> u64 {
    u64::from(spread(key)) << 32 | (at as u64 + 1)
}
