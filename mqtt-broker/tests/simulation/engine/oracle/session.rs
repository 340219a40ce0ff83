//! A session as its Client sees it: what it asked for and when that was answered, what it got.

use std::collections::BTreeMap;

use mqtt_proto::packet::{RetainHandling, SubscriptionOptions};
use mqtt_proto::types::{Qos, SharedFilter, TopicName};

use super::message::MessageId;
use super::{Message, Oracle, PartyId, SessionId};

#[derive(Clone, Debug, Default)]
pub(crate) struct Session {
    pub(crate) party: PartyId,
    pub(crate) subscriptions: Vec<Subscription>,
    pub(crate) received: BTreeMap<MessageId, Copies>,
    /// The last message of a publisher, topic, published and delivered QoS.
    pub(crate) last: BTreeMap<(PartyId, String, u8, u8), MessageId>,
    /// The last value seen of topics with one publisher, and when; `None`: it was removed.
    pub(crate) values: BTreeMap<String, (Option<MessageId>, u64)>,
    /// Smallest Maximum Packet Size of its connections.
    pub(crate) packet_bytes_min: Option<u32>,
}

/// How often a session got a message, retried deliveries left out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Copies {
    pub(crate) live: u32,
    /// With the RETAIN flag.
    pub(crate) retained: u32,
    /// With DUP and not known before.
    pub(crate) retried: u32,
    /// Those of all these that came at QoS 2.
    pub(crate) exact: u32,
    /// The smallest Message Expiry Interval it came with.
    pub(crate) expiry: Option<u32>,
}

#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    /// The whole filter.
    pub(crate) filter: String,
    pub(crate) options: SubscriptionOptions,
    /// 0 for none.
    pub(crate) identifier: u32,
    pub(crate) sent_at: u64,
    /// When its SUBACK came.
    pub(crate) acked_at: Option<u64>,
    /// When its end was asked for, by UNSUBSCRIBE or by a SUBSCRIBE that takes its place.
    pub(crate) end_sent_at: Option<u64>,
    /// When that was answered.
    pub(crate) ended_at: Option<u64>,
}

impl Subscription {
    pub(crate) fn is_shared(&self) -> bool {
        self.filter.starts_with("$share/")
    }

    pub(crate) fn matches(&self, topic: &str) -> bool {
        matches(&self.filter, topic)
    }

    /// Whether a message published in these microseconds may have met it; open ended if `until` is not known.
    pub(crate) fn may_meet(&self, from: u64, until: Option<u64>) -> bool {
        self.ended_at.is_none_or(|ended| ended >= from) && until.is_none_or(|until| until >= self.sent_at)
    }

    /// Whether every message published at `from` and acknowledged at `until` has met it. What happened in the same
    /// microsecond may have happened in any order.
    pub(crate) fn must_meet(&self, from: u64, until: u64) -> bool {
        let lasts = self.end_sent_at.is_none_or(|end| end > until);
        lasts && self.acked_at.is_some_and(|acked| acked < from)
    }
}

/// Whether the filter, shared or not, matches.
pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    let (Ok(filter), Ok(topic)) = (SharedFilter::new(filter), TopicName::new(topic)) else { return false };
    filter.filter.matches(topic)
}

impl Session {
    /// The session asks for a subscription, which takes the place of the one with the same filter.
    pub(crate) fn subscribe(
        &mut self,
        filter: &str,
        options: SubscriptionOptions,
        identifier: u32,
        now: u64,
    ) -> usize {
        self.end(filter, now);
        self.subscriptions.push(Subscription {
            filter: filter.to_owned(),
            options,
            identifier,
            sent_at: now,
            acked_at: None,
            end_sent_at: None,
            ended_at: None,
        });
        self.subscriptions.len() - 1
    }

    /// The session asks for the end of a subscription; those that it may have, and whether it certainly has one.
    pub(crate) fn end(&mut self, filter: &str, now: u64) -> (Vec<usize>, bool) {
        let (mut ended, mut certain) = (Vec::new(), false);
        for (at, subscription) in self.subscriptions.iter_mut().enumerate() {
            if subscription.filter == filter && subscription.ended_at.is_none() {
                certain |= subscription.acked_at.is_some() && subscription.end_sent_at.is_none();
                subscription.end_sent_at.get_or_insert(now);
                ended.push(at);
            }
        }
        (ended, certain)
    }

    /// The end of `subscriptions` is answered, or they were refused.
    pub(crate) fn ended(&mut self, subscriptions: &[usize], now: u64) {
        for &at in subscriptions {
            self.subscriptions[at].ended_at.get_or_insert(now);
            self.subscriptions[at].end_sent_at.get_or_insert(now);
        }
    }

    /// A SUBACK grants a subscription.
    pub(crate) fn granted(&mut self, at: usize, qos: Qos, now: u64) {
        let subscription = &mut self.subscriptions[at];
        subscription.acked_at = Some(now);
        subscription.options.qos = qos;
        let filter = subscription.filter.clone();
        // It has taken the place of those before.
        let before = |subscription: &&mut Subscription| {
            subscription.filter == filter && subscription.end_sent_at.is_some()
        };
        for old in self.subscriptions[..at].iter_mut().filter(before) {
            old.ended_at.get_or_insert(now);
        }
    }

    /// Requests for retained messages that match `topic`.
    pub(crate) fn gathers(&self, topic: &str) -> usize {
        let asks = |subscription: &&Subscription| {
            !subscription.is_shared()
                && subscription.options.retain_handling != RetainHandling::DoNotSend
                && subscription.matches(topic)
        };
        self.subscriptions.iter().filter(asks).count()
    }
}

impl Oracle {
    /// The subscriptions of the session that `message` may have met.
    pub(crate) fn may_have_met<'a>(
        &'a self,
        session: SessionId,
        message: &'a Message,
    ) -> impl Iterator<Item = &'a Subscription> {
        let party = self.sessions[session].party;
        // A first try may still be on its way when a later one is acknowledged.
        let until = message.acked_at.filter(|_| message.tries == 1);
        self.sessions[session].subscriptions.iter().filter(move |subscription| {
            !(subscription.options.no_local && message.publisher == party)
                // What waits in a group's queue may meet a member that comes later.
                && subscription.may_meet(message.sent_at, until.filter(|_| !subscription.is_shared()))
                && subscription.matches(&message.topic)
        })
    }
}
