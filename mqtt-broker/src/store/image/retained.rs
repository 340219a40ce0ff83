//! The retained messages of an image, by topic. They have no order: keeping one costs more than all the rest of reading
//! them, and only a broker that serves subscriptions needs it.

use ahash::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::message::Message;
use crate::router::Retainable;

/// One message a topic at most, each with the hash of its topic, so that a growing table need not look at messages.
pub(super) struct Retained {
    messages: HashTable<(u64, Message)>,
    hasher: RandomState,
}

impl Retained {
    pub(super) fn new(hasher: RandomState) -> Retained {
        Retained { messages: HashTable::new(), hasher }
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Message> {
        self.messages.iter().map(|(_, message)| message)
    }

    pub(super) fn into_messages(self) -> impl ExactSizeIterator<Item = Message> {
        self.messages.into_iter().map(|(_, message)| message)
    }

    pub(super) fn get(&self, topic: &str) -> Option<&Message> {
        let hash = self.hash(topic.as_bytes());
        self.messages.find(hash, |known| is_of(known, hash, topic.as_bytes())).map(|(_, message)| message)
    }

    /// Keeps `message`, with the RETAIN flag, in the place of the one of its topic.
    pub(super) fn set(&mut self, message: &Message) {
        let message = message.with(message.qos(), true);
        let hash = self.hash(message.topic_bytes());
        let is_its = |known: &(u64, Message)| is_of(known, hash, message.topic_bytes());
        match self.messages.entry(hash, is_its, |(hash, _)| *hash) {
            Entry::Occupied(mut known) => known.get_mut().1 = message,
            Entry::Vacant(place) => drop(place.insert((hash, message))),
        }
    }

    pub(super) fn remove(&mut self, topic: &str) {
        let hash = self.hash(topic.as_bytes());
        if let Ok(known) = self.messages.find_entry(hash, |known| is_of(known, hash, topic.as_bytes())) {
            known.remove();
        }
    }

    /// Removes the messages for which `keep` does not hold.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Message) -> bool) {
        self.messages.retain(|(_, message)| keep(message));
    }

    fn hash(&self, topic: &[u8]) -> u64 {
        self.hasher.hash_one(topic)
    }
}

fn is_of((known, message): &(u64, Message), hash: u64, topic: &[u8]) -> bool {
    *known == hash && message.topic_bytes() == topic
}
