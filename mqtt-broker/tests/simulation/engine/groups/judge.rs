//! What groups owe: every message that was acknowledged, to some member, at QoS 2 to one and once.

use std::collections::BTreeMap;

use mqtt_proto::types::{Qos, SharedFilter, TopicName};

use super::client::Client;
use crate::engine::cluster::{Check, Message, violation};

/// A message that a Client has published.
#[derive(Clone, Debug)]
pub(super) struct Published {
    pub(super) topic: String,
    pub(super) qos: Qos,
    pub(super) is_acknowledged: bool,
    /// The groups that had a member for good when it was published.
    owed: Vec<usize>,
}

impl Published {
    pub(super) fn to_send(&self) -> Message<'_> {
        Message { topic: &self.topic, qos: self.qos, retain: false, removes: false, expiry: None }
    }
}

pub(super) struct Judge {
    filters: Vec<&'static str>,
    /// By group: whether its first member is in, which never leaves.
    pub(super) is_founded: Vec<bool>,
    pub(super) messages: Vec<Published>,
    /// By group and message: how often it was taken.
    taken: BTreeMap<(usize, usize), u64>,
    /// By group, topic and the QoS that it was published with: the message that was taken last for the first time.
    last: BTreeMap<(usize, String, u8), usize>,
    /// Messages before this one were all settled in a quiet moment: they may not come again.
    settled: usize,
    /// From which QoS on what was sent may be a session's own.
    pub(super) own_from: Qos,
    /// By group: so many messages that were sessions' own may have gone with those that ended [MQTT-4.8.2-5].
    ended: BTreeMap<usize, usize>,
    /// Whether each group has one member, on its own core.
    pub(super) is_ordered: bool,
}

impl Judge {
    pub(super) fn new(filters: &[&'static str]) -> Judge {
        let (filters, is_founded) = (filters.to_vec(), vec![false; filters.len()]);
        Judge {
            filters,
            is_founded,
            messages: Vec::new(),
            taken: BTreeMap::new(),
            last: BTreeMap::new(),
            settled: 0,
            own_from: Qos::ExactlyOnce,
            ended: BTreeMap::new(),
            is_ordered: false,
        }
    }

    /// A message is published for the first time; its number.
    pub(super) fn publish(&mut self, topic: String, qos: Qos) -> usize {
        let is_owed = |&group: &usize| {
            let shared = SharedFilter::new(self.filters[group]).expect("a filter");
            self.is_founded[group] && shared.filter.matches(TopicName::new(&topic).expect("a topic"))
        };
        let owed = (0..self.filters.len()).filter(is_owed).collect();
        self.messages.push(Published { topic, qos, is_acknowledged: false, owed });
        self.messages.len() - 1
    }

    /// The session of a member of these groups may end, which has so many messages of its own at most.
    pub(super) fn may_end(&mut self, groups: &BTreeMap<usize, bool>, in_flight_max: u16) {
        for group in groups.keys() {
            *self.ended.entry(*group).or_default() += usize::from(in_flight_max);
        }
    }

    /// All that moved has come to rest, and all that was taken is acknowledged and on the disk.
    pub(super) fn settle(&mut self) {
        self.settled = self.messages.len();
    }

    /// A member of the group takes a message at this QoS.
    pub(super) fn take(&mut self, group: usize, message: usize, qos: Qos) -> Check {
        let count = self.taken.entry((group, message)).or_default();
        *count += 1;
        if message < self.settled {
            return violation("again", format!("group {group} gets {message} again, which was over"));
        }
        if *count > 1 {
            return match qos == Qos::ExactlyOnce {
                true => violation("once", format!("group {group} gets {message} {count} times at QoS 2")),
                false => Ok(()),
            };
        }
        let Published { topic, qos, owed, .. } = &self.messages[message];
        let last = self.last.entry((group, topic.clone(), qos.bits())).or_insert(message);
        // One from before the member was in may come behind later ones.
        if self.is_ordered && message < *last && owed.contains(&group) {
            return violation("order", format!("group {group} gets {message} behind {last}"));
        }
        *last = message.max(*last);
        Ok(())
    }

    /// What is owed has come, and nobody waits for an answer.
    pub(super) fn check(&self, clients: &[Client]) -> Check {
        if let Some(waits) = clients.iter().find(|client| !client.peer.flows.is_empty()) {
            return violation("answered", format!("{} waits for {:?}", waits.name, waits.peer.flows));
        }
        let mut gone = BTreeMap::new();
        for (number, message) in
            self.messages.iter().enumerate().filter(|(_, message)| message.is_acknowledged)
        {
            for group in &message.owed {
                if self.taken.contains_key(&(*group, number)) {
                    continue;
                }
                if message.qos >= self.own_from {
                    let gone: &mut usize = gone.entry(*group).or_default();
                    *gone += 1;
                    if *gone <= self.ended.get(group).copied().unwrap_or(0) {
                        continue;
                    }
                }
                return violation("lost", format!("group {group} never got {number}, {message:?}"));
            }
        }
        Ok(())
    }
}
