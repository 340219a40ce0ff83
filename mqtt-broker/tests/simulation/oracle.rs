//! What has to hold of the messages that Clients get: matching, order, exactly once, nothing lost.
//!
//! Topics say which promise is looked at: `t/` order and loss, `s/` shared groups, `r/` retained values.

use std::collections::{BTreeMap, BTreeSet};

use mqtt_proto::types::{Qos, SharedFilter, TopicName};

/// A published message: who, where, its number among those.
pub(crate) type Key = (usize, String, u32);
/// A session: whose, and the how manieth of that Client.
pub(crate) type SessionId = (usize, u32);

/// A message as a Client gets it.
pub(crate) struct Received<'a> {
    pub(crate) session: SessionId,
    pub(crate) topic: &'a str,
    pub(crate) payload: &'a [u8],
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
}

#[derive(Default)]
pub(crate) struct Oracle {
    /// Deliveries that have to happen while the session lives.
    expected: BTreeSet<(SessionId, Key)>,
    /// Sessions of a group of which one has to get the message.
    expected_of_any: BTreeMap<Key, BTreeSet<SessionId>>,
    received: BTreeMap<(SessionId, Key), u32>,
    received_shared: BTreeMap<Key, u32>,
    /// Messages that their publishers sent again: at QoS 1 they may come twice.
    resent: BTreeSet<Key>,
    last: BTreeMap<(SessionId, usize, String, u8), u32>,
    published_last: BTreeMap<String, u32>,
    value_last: BTreeMap<(SessionId, String), u32>,
}

pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    let shared = SharedFilter::new(filter).expect("a filter of the workload");
    shared.filter.matches(TopicName::new(topic).expect("a topic of the workload"))
}

pub(crate) fn payload(key: &Key, qos: Qos, padding: usize) -> Vec<u8> {
    format!("{} {} {} {}", key.0, key.2, qos.bits(), ".".repeat(padding)).into_bytes()
}

fn parse(topic: &str, payload: &[u8]) -> Option<(Key, u8)> {
    let text = core::str::from_utf8(payload).ok()?;
    let mut parts = text.split(' ');
    let mut number = || parts.next()?.parse::<u32>().ok();
    let (publisher, sequence, qos) = (number()?, number()?, number()?);
    Some(((publisher as usize, topic.to_owned(), sequence), qos as u8))
}

impl Oracle {
    /// A message enters the broker while `subscribers` hold a subscription with at least QoS 1.
    pub(crate) fn published(&mut self, key: &Key, qos: Qos, subscribers: impl Iterator<Item = SessionId>) {
        if key.1.starts_with("r/") {
            self.published_last.insert(key.1.clone(), key.2);
        }
        match (qos, key.1.starts_with("s/")) {
            (Qos::AtLeastOnce, true) => {
                self.expected_of_any.insert(key.clone(), subscribers.collect());
            }
            (Qos::AtMostOnce, _) | (_, true) => {}
            (_, false) => self.expected.extend(subscribers.map(|session| (session, key.clone()))),
        }
    }

    pub(crate) fn resent(&mut self, key: &Key) {
        self.resent.insert(key.clone());
    }

    /// The session unsubscribes: nothing that it has not got is owed to it any more.
    pub(crate) fn released(&mut self, session: SessionId, filter: &str) {
        self.expected.retain(|(owed, _)| *owed != session);
        self.expected_of_any.values_mut().for_each(|sessions| {
            sessions.remove(&session);
        });
        self.value_last
            .retain(|(owed, topic), _| *owed != session || filter.is_empty() || !matches(filter, topic));
    }

    pub(crate) fn received(&mut self, got: &Received<'_>) {
        let Some((key, published)) = parse(got.topic, got.payload) else { return };
        let session = got.session;
        assert!(got.qos.bits() <= published, "{session:?} got {key:?} at {:?}", got.qos);
        if got.topic.starts_with("r/") {
            self.value_last.insert((session, got.topic.to_owned()), key.2);
        }
        if got.retain {
            return;
        }
        let times = self.received.entry((session, key.clone())).or_default();
        *times += u32::from(!got.dup);
        let resent = self.resent.contains(&key) && published == 1;
        // A message first sent on a connection that broke is known from its copy alone.
        assert!(*times <= 1 || resent, "{session:?} got {key:?} {times} times");
        if got.topic.starts_with("s/") {
            let times = self.received_shared.entry(key.clone()).or_default();
            *times += u32::from(!got.dup);
            assert!(*times <= 1 || published == 1, "{key:?} reached {times} members");
        } else if !got.dup && !resent {
            let last = self.last.entry((session, key.0, key.1.clone(), got.qos.bits())).or_default();
            assert!(key.2 > *last, "{session:?} got {key:?} behind {last}");
            *last = key.2;
        }
    }

    /// All is quiet and everybody has got everything: `living` are the sessions that were never ended.
    pub(crate) fn check(&self, living: &BTreeSet<SessionId>, retained: &BTreeSet<SessionId>) {
        for (session, key) in self.expected.iter().filter(|(session, _)| living.contains(session)) {
            let times = self.received.contains_key(&(*session, key.clone()));
            assert!(times, "{session:?} never got {key:?}");
        }
        for (key, members) in &self.expected_of_any {
            let lost = !self.received_shared.contains_key(key)
                && members.iter().any(|member| living.contains(member));
            assert!(!lost, "no member got {key:?}");
        }
        for session in retained {
            for (topic, last) in &self.published_last {
                let value = self.value_last.get(&(*session, topic.clone()));
                assert_eq!(value, Some(last), "the last value of {topic} for {session:?}");
            }
        }
    }
}
