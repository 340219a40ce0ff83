//! What the broker owes: every message that it acknowledged to everybody who had subscribed before, in order, at QoS 2 once.

use std::collections::BTreeMap;

use mqtt_proto::types::{Qos, TopicFilter, TopicName};

use super::client::{Client, Wanted};
use crate::engine::Violation;

/// A message that a Client has published.
#[derive(Clone, Debug)]
pub(super) struct Published {
    pub(super) topic: String,
    pub(super) qos: Qos,
    pub(super) retain: bool,
    pub(super) is_acknowledged: bool,
}

#[derive(Default)]
pub(super) struct Judge {
    pub(super) messages: Vec<Published>,
    /// By Client and message: how often it was taken, and how often of that at QoS 2.
    taken: BTreeMap<(usize, usize), (u64, u64)>,
    /// By Client and topic: the message that was taken last for the first time.
    last: BTreeMap<(usize, String), usize>,
    /// Messages before this one were all settled in a quiet moment: they may not come again.
    settled: usize,
}

fn violation(rule: &'static str, text: String) -> Result<(), Violation> {
    Err(Violation { rule, text })
}

impl Judge {
    /// All that moved has come to rest, and all that was taken is acknowledged and on the disk.
    pub(super) fn settle(&mut self) {
        self.settled = self.messages.len();
    }

    /// The Client with this number takes a message at this QoS.
    pub(super) fn take(
        &mut self,
        client: usize,
        wants: &Client,
        message: usize,
        qos: Qos,
    ) -> Result<(), Violation> {
        let published = &self.messages[message];
        let (taken, exactly) = self.taken.entry((client, message)).or_default();
        *taken += 1;
        *exactly += u64::from(qos == Qos::ExactlyOnce);
        if message < self.settled && !published.retain {
            return violation("again", format!("client {client} gets {message} again, which was over"));
        }
        // One that was first delivered at QoS 1 may be lost in a crash, sent again, and delivered at QoS 2 by then.
        if *exactly > 1 {
            return violation("once", format!("client {client} gets {message} {exactly} times at QoS 2"));
        }
        if *taken > 1 {
            return Ok(());
        }
        let last = self.last.entry((client, published.topic.clone())).or_insert(message);
        // One that came before the subscription may be sent once more behind those that came later.
        let is_owed = |(filter, wanted): (&&str, &Wanted)| {
            wanted.owed_from.is_some_and(|from| from <= message) && matches(filter, &published.topic)
        };
        if message < *last && wants.wanted.iter().any(is_owed) {
            return violation("order", format!("client {client} gets {message} behind {last}"));
        }
        *last = message.max(*last);
        Ok(())
    }

    /// The newest message of a topic that a Client has taken.
    pub(super) fn newest(&self, client: usize, topic: &str) -> Option<usize> {
        self.last.get(&(client, topic.to_owned())).copied()
    }

    /// What is owed has come.
    pub(super) fn check(&self, clients: &[Client]) -> Result<(), Violation> {
        for (nth, client) in clients.iter().enumerate() {
            for (filter, wanted) in &client.wanted {
                let Some(from) = wanted.owed_from else { continue };
                for (at, message) in self.messages.iter().enumerate().skip(from) {
                    let owed = message.is_acknowledged && !message.retain && matches(filter, &message.topic);
                    if owed && !self.taken.contains_key(&(nth, at)) {
                        return violation("lost", format!("client {nth} never got {at}, {message:?}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// The retained message of a topic is not older than the last that was acknowledged.
    pub(super) fn check_retained(&self, topic: &str, found: Option<usize>) -> Result<(), Violation> {
        let of_topic = |message: &&(usize, &Published)| message.1.topic == topic;
        let numbered: Vec<_> = self.messages.iter().enumerate().collect();
        let last = numbered.iter().filter(of_topic).rfind(|(_, message)| message.is_acknowledged);
        match (last, found) {
            (Some((last, _)), found) if found.is_none_or(|found| found < *last) => {
                violation("retained", format!("{topic} has {found:?}, acknowledged was {last}"))
            }
            _ => Ok(()),
        }
    }
}

pub(super) fn matches(filter: &str, topic: &str) -> bool {
    let filter = TopicFilter::new(filter).expect("a filter");
    filter.matches(TopicName::new(topic).expect("a topic"))
}
