//! Topic Filters against Topic Names: the tables of the router answer as [`TopicFilter::matches`] over a list.

use std::collections::BTreeMap;

use mqtt_broker::router::{Interest, Matches, Subscriber, Subscriptions};
use mqtt_proto::packet::SubscriptionOptions;
use mqtt_proto::types::{Qos, SharedFilter, TopicFilter, TopicName};

/// Takes `data` as lines: an operation and a subscriber in the first byte, a filter or a topic in the others.
pub fn run(data: &[u8]) {
    let (mut subscriptions, mut interest) = (Subscriptions::new([1, 2, 3, 4]), Interest::new([5, 6]));
    let mut model = BTreeMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        let Some((&operation, text)) = line.split_first() else { continue };
        let Ok(text) = std::str::from_utf8(text) else { continue };
        let key = u32::from(operation >> 2 & 3);
        if let Ok(shared) = SharedFilter::new(text) {
            let name = shared.share_name.map(|name| format!("$share/{}/", name.as_str())).unwrap_or_default();
            assert_eq!(text, format!("{name}{}", shared.filter.as_str()));
        }
        match (operation & 3, TopicFilter::new(text), TopicName::new(text)) {
            (0 | 1, Ok(filter), _) => {
                let options = SubscriptionOptions::new(Qos::AtMostOnce);
                let inserted = subscriptions.insert(filter, Subscriber { key, options, identifier: 0 });
                let new = model.insert((text, key), ()).is_none();
                assert_eq!(inserted.replaced.is_none(), new);
                if new {
                    interest.add(key as u16, filter);
                }
            }
            (2, Ok(filter), _) => {
                let known = model.remove(&(text, key)).is_some();
                assert_eq!(subscriptions.remove(filter, key).is_some(), known);
                interest.remove(key as u16, filter);
            }
            (3, _, Ok(topic)) => check(&subscriptions, &interest, &model, topic),
            _ => {}
        }
        assert_eq!((subscriptions.len(), interest.len()), (model.len(), model.len()));
    }
}

/// Asks both tables and the list about `topic`.
fn check(
    subscriptions: &Subscriptions,
    interest: &Interest,
    model: &BTreeMap<(&str, u32), ()>,
    topic: TopicName<'_>,
) {
    let matches = |text| TopicFilter::new(text).is_ok_and(|filter| filter.matches(topic));
    let mut expected: Vec<u32> =
        model.keys().filter(|(text, _)| matches(text)).map(|(_, key)| *key).collect();
    expected.sort_unstable();
    let mut found = Matches::default();
    subscriptions.matches(topic, &mut found);
    let mut keys: Vec<u32> = found.subscribers.iter().map(|subscriber| subscriber.key).collect();
    keys.sort_unstable();
    assert_eq!(keys, expected, "{topic}");
    let cores = interest.cores(topic);
    assert!(expected.iter().all(|key| cores.contains(*key as u16)), "{topic}");
}
