//! What the broker owes: every message that it acknowledged to everybody who had subscribed before, in order, at QoS 2 once,
//! as the subscription asks for it; and nothing to those who have not subscribed.

use std::collections::{BTreeMap, BTreeSet};

use mqtt_proto::types::{Qos, TopicFilter, TopicName};

use super::client::{Client, Wanted};
use crate::engine::cluster::{Check, Message, violation};

/// A message that a Client has published.
#[derive(Clone, Debug)]
pub(super) struct Published {
    pub(super) by: usize,
    pub(super) topic: String,
    pub(super) qos: Qos,
    pub(super) kind: Kind,
    /// Message Expiry Interval in seconds.
    pub(super) expiry: Option<u32>,
    /// Wall time before which nobody can have got it.
    pub(super) sent_at: u64,
    /// The latest that the broker may have thought it was at the acknowledgement, by wall time.
    pub(super) acknowledged_at: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    /// Retained; if not, the retained message of its topic is removed.
    Retained(bool),
    Will,
}

/// A message as it comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken<'a> {
    pub(super) message: usize,
    pub(super) qos: Qos,
    pub(super) identifiers: &'a [u32],
}

#[derive(Default)]
pub(super) struct Judge {
    pub(super) messages: Vec<Published>,
    /// By Client and message: how often it was taken.
    taken: BTreeMap<(usize, usize), u64>,
    /// By Client and message: what was taken at QoS 1, and may come once more whatever its QoS is then.
    taken_at_1: BTreeSet<(usize, usize)>,
    /// By Client and topic: the message that was taken last for the first time.
    last: BTreeMap<(usize, String), usize>,
    /// Messages before this one were all settled in a quiet moment: they may not come again.
    settled: usize,
}

impl Judge {
    /// All that moved has come to rest, and all that was taken is acknowledged and on the disk.
    pub(super) fn settle(&mut self) {
        self.settled = self.messages.len();
    }

    pub(super) fn has_taken(&self, client: usize, message: usize) -> bool {
        self.taken.contains_key(&(client, message))
    }

    /// The Client with this number takes a message that is no Will. `latest`: how late the broker may think it
    /// is. `unordered`: what came in order may have been refused, and have been sent again.
    pub(super) fn take(
        &mut self,
        nth: usize,
        client: &Client,
        taken: &Taken<'_>,
        (latest, unordered): (u64, bool),
    ) -> Check {
        self.check_invited(nth, client, taken.message)?;
        self.check_options(nth, client, taken)?;
        let &Taken { message, qos, .. } = taken;
        let published = &self.messages[message];
        let before = self.taken.entry((nth, message)).or_default();
        *before += 1;
        if qos == Qos::AtLeastOnce {
            self.taken_at_1.insert((nth, message));
        }
        if message < self.settled && published.kind == Kind::Plain {
            return violation("again", format!("{} gets {message} again, which was over", client.name));
        }
        if *before > 1 {
            let exact = !self.taken_at_1.contains(&(nth, message)) && !client.is_guest();
            return match exact {
                true => violation("once", format!("{} gets {message} {before} times at QoS 2", client.name)),
                false => Ok(()),
            };
        }
        let last = self.last.entry((nth, published.topic.clone())).or_insert(message);
        // One that came before the subscription may be sent once more behind those that came later.
        let is_owed = |(filter, wanted): (&&str, &Wanted)| {
            wanted.owed_from.is_some_and(|from| from <= message)
                && matches(filter, &published.topic)
                && (published.by != nth || wanted.leads_home(message))
        };
        if message < *last
            && !unordered
            && !published.may_be_expired(latest)
            && client.wanted.iter().any(is_owed)
        {
            return violation("order", format!("{} gets {message} behind {last}", client.name));
        }
        *last = message.max(*last);
        Ok(())
    }

    /// A Client takes a Will, which is judged elsewhere.
    pub(super) fn take_will(&mut self, nth: usize, client: &Client, message: usize) -> Check {
        self.check_invited(nth, client, message)?;
        *self.taken.entry((nth, message)).or_default() += 1;
        Ok(())
    }

    /// It has, or had, a subscription that leads to the message.
    fn check_invited(&self, nth: usize, client: &Client, message: usize) -> Check {
        let published = &self.messages[message];
        let wants = |(filter, wanted): (&&str, &Wanted)| {
            let left_out = published.by == nth
                && published.kind == Kind::Plain
                && wanted.granted.is_some_and(|(options, from)| options.of.no_local && from <= message);
            !left_out && matches(filter, &published.topic)
        };
        // When a Will is published is not known by its number.
        let wanted_it = |(filter, before): (&&str, &usize)| {
            (message < *before || published.kind == Kind::Will) && matches(filter, &published.topic)
        };
        match client.wanted.iter().any(wants) || client.past.iter().any(wanted_it) {
            true => Ok(()),
            false => violation("uninvited", format!("{} gets {message}, {published:?}", client.name)),
        }
    }

    /// QoS and Subscription Identifiers are those of the subscriptions, where it is certain which there were.
    fn check_options(&self, nth: usize, client: &Client, taken: &Taken<'_>) -> Check {
        let published = &self.messages[taken.message];
        let to_it = |filter: &&&str| matches(filter, &published.topic);
        let had_more = client.past.keys().filter(to_it).any(|filter| client.past[filter] > taken.message);
        let mut granted = Vec::new();
        for filter in client.wanted.keys().filter(to_it) {
            match client.wanted[filter].granted.filter(|(_, from)| *from <= taken.message) {
                Some((options, _)) => granted.push(options),
                None => return Ok(()),
            }
        }
        granted.retain(|options| !(options.of.no_local && published.by == nth));
        let Some(most) = granted.iter().map(|options| options.of.qos).max().filter(|_| !had_more) else {
            return Ok(());
        };
        let mut asked: Vec<u32> =
            granted.iter().map(|options| options.identifier).filter(|&id| id != 0).collect();
        let mut came = taken.identifiers.to_vec();
        asked.sort_unstable();
        came.sort_unstable();
        if taken.qos != most.min(published.qos) || asked != came {
            let text = format!("{} gets {taken:?} by {granted:?}, {published:?}", client.name);
            return violation("options", text);
        }
        Ok(())
    }

    /// What is owed has come. `latest`: how late the broker may think it is.
    pub(super) fn check(&self, clients: &[Client], latest: u64) -> Check {
        for (nth, client) in clients.iter().enumerate().filter(|(_, client)| !client.is_guest()) {
            for (filter, wanted) in &client.wanted {
                let Some(from) = wanted.owed_from else { continue };
                for (at, message) in self.messages.iter().enumerate().skip(from) {
                    let is_own = message.by == nth;
                    let owed = message.acknowledged_at.is_some()
                        && message.kind == Kind::Plain
                        && matches(filter, &message.topic)
                        && (!is_own || wanted.leads_home(at))
                        && !message.may_be_expired(latest);
                    if owed && !self.has_taken(nth, at) {
                        return violation("lost", format!("{} never got {at}, {message:?}", client.name));
                    }
                }
            }
        }
        Ok(())
    }

    /// The retained message of a topic is the last that was acknowledged, or one of those sent behind it. `now` and
    /// `latest`: how late it is at least, and at most, for the broker.
    pub(super) fn check_retained(
        &self,
        topic: &str,
        found: Option<usize>,
        (now, latest): (u64, u64),
    ) -> Check {
        let of_topic = self.messages.iter().enumerate().filter(|(_, message)| message.topic == topic);
        let sent: Vec<(usize, &Published)> = of_topic.collect();
        let last = sent.iter().rposition(|(_, message)| message.acknowledged_at.is_some());
        let may_be = &sent[last.unwrap_or(0)..];
        let can_be_none = last.is_none()
            || may_be
                .iter()
                .any(|(_, message)| message.kind == Kind::Retained(false) || message.may_be_expired(latest));
        let is_right = match found {
            None => can_be_none,
            Some(found) => may_be.iter().any(|(at, message)| *at == found && !message.is_expired(now)),
        };
        match is_right {
            true => Ok(()),
            false => {
                violation("retained", format!("{topic} has {found:?}, which may be {may_be:?}, at {now}"))
            }
        }
    }
}

impl Wanted {
    /// Whether it certainly matches a message of the Client's own.
    fn leads_home(&self, message: usize) -> bool {
        self.granted.is_some_and(|(options, from)| !options.of.no_local && from <= message)
    }
}

impl Published {
    pub(super) fn to_send(&self) -> Message<'_> {
        Message {
            topic: &self.topic,
            qos: self.qos,
            retain: matches!(self.kind, Kind::Retained(_)),
            removes: self.kind == Kind::Retained(false),
            expiry: self.expiry,
        }
    }

    pub(super) fn may_be_expired(&self, latest: u64) -> bool {
        self.expiry.is_some_and(|seconds| latest >= self.sent_at + u64::from(seconds) * 1000)
    }

    fn is_expired(&self, now: u64) -> bool {
        let over = |at| self.expiry.is_some_and(|seconds| now > at + u64::from(seconds) * 1000);
        self.acknowledged_at.is_some_and(over)
    }
}

pub(super) fn matches(filter: &str, topic: &str) -> bool {
    let filter = TopicFilter::new(filter).expect("a filter");
    filter.matches(TopicName::new(topic).expect("a topic"))
}
