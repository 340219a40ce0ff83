//! Session state (section 4.1): what outlives a Network Connection. Lives on: the home core of its ClientID, always.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashTable;
use mqtt_proto::session::{Inbound, Outbound};
use mqtt_proto::types::Qos;

use super::envelope::GroupRef;
use super::gathers::Gathers;
use super::table::{Key, Table};
use crate::message::Message;
use crate::router::FilterId;

pub(super) struct Session {
    pub(super) client_id: Arc<str>,
    pub(super) connection: Option<Key>,
    /// The send window. What is in flight counts as delivered only when it is acknowledged.
    pub(super) outbound: Outbound<Delivery>,
    pub(super) inbound: Inbound,
    /// Messages that wait for the Client, its send quota or its output buffer.
    pub(super) queue: Queue,
    pub(super) subscriptions: Vec<FilterId>,
    pub(super) shared: Option<Box<Memberships>>,
    /// Seconds it outlives its connection; `u32::MAX`: for ever.
    pub(super) expiry_seconds: u32,
    /// Whether the store knows of it.
    pub(super) recorded: bool,
    /// Monotonic milliseconds at which it ends; `u64::MAX` while connected or for ever.
    pub(super) ends_at: u64,
    /// QoS 1 and 2 messages that its Client takes at once.
    pub(super) window: u16,
    pub(super) will: Option<Box<Will>>,
    /// Retained messages still on their way to new subscriptions.
    pub(super) gathers: Option<Box<Gathers>>,
}

/// The messages that wait, oldest first. Most of the time none do: an empty queue is one pointer.
#[derive(Debug, Default)]
pub(super) struct Queue(Option<Box<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    deliveries: VecDeque<Delivery>,
    bytes: usize,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |waiting| waiting.deliveries.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// What the messages cost.
    pub(super) fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |waiting| waiting.bytes)
    }

    pub(super) fn front(&self) -> Option<&Delivery> {
        self.0.as_ref()?.deliveries.front()
    }

    pub(super) fn push(&mut self, delivery: Delivery) {
        let waiting = self.0.get_or_insert_default();
        waiting.bytes += delivery.cost();
        waiting.deliveries.push_back(delivery);
    }

    pub(super) fn pop(&mut self) -> Option<Delivery> {
        let waiting = self.0.as_deref_mut()?;
        let delivery = waiting.deliveries.pop_front()?;
        waiting.bytes -= delivery.cost();
        self.0.take_if(|waiting| waiting.deliveries.is_empty());
        Some(delivery)
    }

    /// Takes out the messages for which `which` is true, in order.
    pub(super) fn extract(&mut self, which: impl Fn(&Delivery) -> bool) -> Vec<Delivery> {
        let Some(waiting) = self.0.as_deref_mut() else { return Vec::new() };
        let mut taken = Vec::new();
        // Each goes round once: what stays keeps its order, and nothing is allocated for it.
        for _ in 0..waiting.deliveries.len() {
            let Some(delivery) = waiting.deliveries.pop_front() else { break };
            if which(&delivery) {
                waiting.bytes -= delivery.cost();
                taken.push(delivery);
            } else {
                waiting.deliveries.push_back(delivery);
            }
        }
        self.0.take_if(|waiting| waiting.deliveries.is_empty());
        taken
    }

    pub(super) fn check_invariants(&self) {
        let Some(waiting) = &self.0 else { return };
        debug_assert!(!waiting.deliveries.is_empty());
        debug_assert_eq!(waiting.bytes, waiting.deliveries.iter().map(Delivery::cost).sum::<usize>());
    }
}

/// Memberships in shared groups, by the whole filter, `$share/` included: the group, `None` until its owner core has
/// answered.
pub(super) type Memberships = BTreeMap<Box<str>, Option<GroupRef>>;

/// A message for one session.
#[derive(Clone, Debug)]
pub(super) struct Delivery {
    pub(super) message: Message,
    /// The lower of published and granted QoS.
    pub(super) qos: Qos,
    /// The RETAIN flag of this delivery.
    pub(super) retain: bool,
    pub(super) identifiers: Identifiers,
    /// The shared group it belongs to, whose owner wants its credit back.
    pub(super) group: Option<GroupRef>,
}

impl Delivery {
    pub(super) fn cost(&self) -> usize {
        self.message.cost() + size_of::<Delivery>() - size_of::<Message>()
    }
}

/// Subscription Identifiers of a delivery, one for each matching subscription that has one [MQTT-3.3.4-3].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Identifiers {
    #[default]
    None,
    One(u32),
    Many(Box<[u32]>),
}

impl Identifiers {
    pub(super) fn new(list: &[u32]) -> Identifiers {
        match list {
            [] => Identifiers::None,
            [one] => Identifiers::One(*one),
            many => Identifiers::Many(many.into()),
        }
    }

    pub(super) fn as_slice(&self) -> &[u32] {
        match self {
            Identifiers::None => &[],
            Identifiers::One(one) => core::slice::from_ref(one),
            Identifiers::Many(many) => many,
        }
    }
}

/// A Will Message that is stored with the session [MQTT-3.1.2-7].
#[derive(Debug)]
pub(super) struct Will {
    pub(super) message: Message,
    /// Message Expiry Interval: runs from the publication on.
    pub(super) expiry_seconds: Option<u32>,
    pub(super) delay_seconds: u32,
    /// Monotonic milliseconds at which it is published; `u64::MAX` while connected.
    pub(super) due_at: u64,
}

impl Session {
    pub(super) fn new(client_id: Arc<str>, expiry_seconds: u32) -> Session {
        Session {
            client_id,
            connection: None,
            outbound: Outbound::new(),
            inbound: Inbound::new(),
            queue: Queue::default(),
            subscriptions: Vec::new(),
            shared: None,
            expiry_seconds,
            recorded: false,
            ends_at: u64::MAX,
            window: 0,
            will: None,
            gathers: None,
        }
    }

    /// The shared groups that have taken it in.
    pub(super) fn groups(&self) -> impl Iterator<Item = GroupRef> {
        self.shared.iter().flat_map(|shared| shared.values().copied().flatten())
    }

    pub(super) fn is_member(&self, text: &str) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.contains_key(text))
    }

    /// Subscriptions of both kinds.
    pub(super) fn subscription_count(&self) -> usize {
        self.subscriptions.len() + self.shared.as_ref().map_or(0, |shared| shared.len())
    }

    /// Whether messages are kept for it while its Client is away.
    pub(super) fn is_persistent(&self) -> bool {
        self.expiry_seconds > 0
    }
}

/// The sessions at home on this core.
pub(super) struct Sessions {
    table: Table<Session>,
    /// Every session by the hash of its ClientID, which stands in the session itself.
    by_client_id: HashTable<Key>,
    hasher: RandomState,
}

impl Sessions {
    pub(super) fn new(hasher: RandomState) -> Sessions {
        Sessions { table: Table::new(), by_client_id: HashTable::new(), hasher }
    }

    pub(super) fn insert(&mut self, session: Session) -> Key {
        debug_assert!(self.find(&session.client_id).is_none(), "one session a ClientID");
        let hash = self.hasher.hash_one(&*session.client_id);
        let key = self.table.insert(session);
        let Sessions { table, by_client_id, hasher } = self;
        let hash_of = |key: &Key| table.get(*key).map_or(0, |session| hasher.hash_one(&*session.client_id));
        by_client_id.insert_unique(hash, key, hash_of);
        key
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Session> {
        let session = self.table.remove(key)?;
        let hash = self.hasher.hash_one(&*session.client_id);
        if let Ok(entry) = self.by_client_id.find_entry(hash, |known| *known == key) {
            entry.remove();
        }
        Some(session)
    }

    pub(super) fn find(&self, client_id: &str) -> Option<Key> {
        let is_its = |key: &Key| self.table.get(*key).is_some_and(|session| *session.client_id == *client_id);
        self.by_client_id.find(self.hasher.hash_one(client_id), is_its).copied()
    }

    pub(super) fn get(&self, key: Key) -> Option<&Session> {
        self.table.get(key)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Session> {
        self.table.get_mut(key)
    }

    /// The key of the live session at `index`, which subscription tables name it by.
    pub(super) fn at(&self, index: u32) -> Option<Key> {
        self.table.at(index)
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &Session)> {
        self.table.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_session_may_never_use_takes_a_pointer() {
        let session = size_of::<Session>();
        assert!(session <= 192, "{session} bytes");
    }

    /// What queues are bounded by is what they take: the message's bytes, its allocation and the place in the queue.
    #[test]
    fn a_queued_message_costs_its_bytes_and_its_place() {
        let message = crate::message::MessageRef {
            topic: mqtt_proto::types::TopicName::new("a/b").expect("a topic"),
            properties: &[],
            payload: &[0; 100],
            qos: Qos::AtMostOnce,
            retain: false,
            expires_at: None,
        };
        let delivery = Delivery {
            message: message.to_message(),
            qos: Qos::AtMostOnce,
            retain: false,
            identifiers: Identifiers::None,
            group: None,
        };
        // Head, topic and payload are 121 bytes, in an allocation of 128 and its two counts.
        assert_eq!(delivery.cost(), 128 + 16 + size_of::<Delivery>());
        let mut queue = Queue::default();
        queue.push(delivery.clone());
        queue.push(delivery.clone());
        assert_eq!((queue.len(), queue.bytes()), (2, 2 * delivery.cost()));
        queue.pop();
        assert_eq!((queue.len(), queue.bytes()), (1, delivery.cost()));
    }
}
