//! The retained messages that are at home on this core: set, replaced, removed by an empty payload or by their expiry.
//!
//! Invariant: every retained message that expires, and no other, stands in [`Expiries`]; so one that is due neither
//! takes memory nor counts, whether or not anybody asks for it. Lives on: the home core of each topic.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use mqtt_proto::types::Qos;

use super::Shard;
use super::deliver::Outgoing;
use super::publish::RESERVED;
use crate::message::Message;
use crate::ports::Commit;
use crate::router::Retainable;
use crate::store::record::Record;

/// Retained messages that expire, the one that is due first in front. They share their bytes with those retained.
#[derive(Debug, Default)]
pub(super) struct Expiries(BTreeSet<Expiring>);

/// A message in the order of expiry.
#[derive(Debug)]
struct Expiring(Message);

/// Messages removed in one turn, so that many which are due at once do not hold up the core.
const EXPIRED_MAX: usize = 1024;

impl Expiries {
    /// Monotonic milliseconds at which the first is due.
    pub(super) fn next(&self) -> Option<u64> {
        self.0.first().and_then(|first| first.0.expires_at())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes a message that expires.
    fn insert(&mut self, message: Message) {
        self.0.insert(Expiring(message));
    }

    fn remove(&mut self, message: &Message) {
        if message.expires_at().is_some() {
            self.0.remove(&Expiring(message.clone()));
        }
    }

    fn pop_due(&mut self, now: u64) -> Option<Message> {
        self.0.first().filter(|first| first.0.is_expired(now))?;
        self.0.pop_first().map(|first| first.0)
    }
}

impl Ord for Expiring {
    fn cmp(&self, other: &Expiring) -> Ordering {
        let when = |expiring: &Expiring| expiring.0.expires_at().unwrap_or(u64::MAX);
        when(self).cmp(&when(other)).then_with(|| self.0.topic().cmp(other.0.topic()))
    }
}

impl PartialOrd for Expiring {
    fn partial_cmp(&self, other: &Expiring) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Expiring {
    fn eq(&self, other: &Expiring) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Expiring {}

/// Whether the retained message of a topic is for the store. What the broker says of itself is not: it says it anew with
/// each start, and what it said before is no longer true.
pub(super) fn outlives(topic: &str) -> bool {
    !topic.starts_with(RESERVED)
}

impl Shard {
    /// Sets or removes the retained message of a topic that is at home here [MQTT-3.3.1-5] [MQTT-3.3.1-6].
    pub(super) fn retain(&mut self, outgoing: &mut Outgoing<'_>) {
        let topic = outgoing.message.topic.as_str();
        if outgoing.message.payload.is_empty() {
            let commit = self.remove_retained(topic);
            return outgoing.wait_for(commit);
        }
        if !self.has_room_to_retain(topic, outgoing.message.cost(), outgoing.message.qos) {
            self.stats.dropped_retained_full += 1;
            // Better none than one that is no longer true: a new subscription would take it for the last.
            let commit = self.remove_retained(topic);
            return outgoing.wait_for(commit);
        }
        if outlives(topic) {
            self.records.keep_outgoing(self.now, outgoing, &Record::Retained);
        }
        let message = outgoing.keep(&mut self.spares).with(outgoing.message.qos, true);
        self.set_retained(message);
    }

    /// Puts a retained message in the place of the one that its topic may have.
    pub(super) fn set_retained(&mut self, message: Message) {
        // What it replaces may have been due at the same moment, so the old one leaves first.
        let due = message.expires_at().map(|_| message.clone());
        let (is_of_tree, cost) = (!outlives(message.topic()), message.cost() as u64);
        let replaced = self.retained.set(message);
        if is_of_tree {
            // They are replaced, and never removed.
            self.of_tree.0 += u64::from(replaced.is_none());
            self.of_tree.1 += cost;
            self.of_tree.1 -= replaced.as_ref().map_or(0, Message::cost) as u64;
        }
        if let Some(replaced) = replaced {
            self.expiries.remove(&replaced);
            self.spares.take_back(replaced);
        }
        if let Some(due) = due {
            self.expiries.insert(due);
        }
        self.count_retained();
    }

    /// Whether a message of `cost` bytes may be retained for `topic`. One that is not larger than what it replaces
    /// always may.
    ///
    /// A full store is no reason to drop one of QoS 1 or 2: the core that it came in on has taken it, as it did not know yet,
    /// and its acknowledgement waits until there is room.
    fn has_room_to_retain(&self, topic: &str, cost: usize, qos: Qos) -> bool {
        if !outlives(topic) {
            // The tree has as many as there are counters.
            return true;
        }
        let replaced = self.retained.get(topic).map(Message::cost);
        let more = cost.saturating_sub(replaced.unwrap_or(0));
        let one_more = replaced.is_none();
        !(qos == Qos::AtMostOnce && self.records.lack_room(cost)
            || one_more && self.budget.retained_messages() >= u64::from(self.limits.retained_messages_max)
            || more > 0
                && (self.budget.retained_bytes() + more as u64 > self.limits.retained_bytes_max
                    || self.memory_is_full(more)))
    }

    /// Removes the retained message of `topic`, if there is one.
    fn remove_retained(&mut self, topic: &str) -> Commit {
        match self.forget_retained(topic) {
            true => self.records.append(self.now, &Record::RetainedRemoved { topic }),
            false => Commit::Now,
        }
    }

    /// Takes the retained message of `topic` out of memory; whether the store has to know.
    fn forget_retained(&mut self, topic: &str) -> bool {
        let Some(removed) = self.retained.remove(topic) else { return false };
        self.expiries.remove(&removed);
        self.count_retained();
        outlives(topic)
    }

    /// Removes the retained messages whose Message Expiry Interval is over [MQTT-3.3.2-5]. If more than a turn's share
    /// are due, the rest goes with the next.
    pub(super) fn expire_retained(&mut self) {
        for _ in 0..EXPIRED_MAX {
            let Some(due) = self.expiries.pop_due(self.now.millis) else { return };
            // Nobody waits for this record: after a restart the message is as expired as before.
            let topic = due.topic();
            if self.forget_retained(topic) {
                self.records.append_later(self.now, &Record::RetainedRemoved { topic });
            }
        }
    }

    /// Exact from one message to the next, not only from call to call.
    fn count_retained(&mut self) {
        self.budget.own.retained_messages = self.retained.len() as u64 - self.of_tree.0;
        self.budget.own.retained_bytes = self.retained.bytes() as u64 - self.of_tree.1;
    }
}
