//! The broker's trie finds the filters that the definition of matching finds, also after some were removed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mqtt_broker::router::{Matches, Subscriber, Subscriptions};
use mqtt_proto::{SubscriptionOptions, TopicFilter, TopicName};

fuzz_target!(|lines: &str| {
    let mut lines = lines.lines();
    let Some(topic) = lines.next().and_then(|text| TopicName::new(text).ok()) else { return };
    let filters: Vec<TopicFilter<'_>> = lines.take(64).filter_map(|text| TopicFilter::new(text).ok()).collect();
    let mut subscriptions = Subscriptions::new([1, 2, 3, 4]);
    for (key, filter) in (0..).zip(&filters) {
        let subscriber = Subscriber { key, options: SubscriptionOptions::default(), identifier: 0 };
        subscriptions.insert(*filter, subscriber);
    }
    for (key, filter) in (0..).zip(&filters).step_by(3) {
        subscriptions.remove(*filter, key).expect("it was inserted");
    }
    let mut found = Matches::default();
    subscriptions.matches(topic, &mut found);
    let mut keys: Vec<u32> = found.subscribers.iter().map(|subscriber| subscriber.key).collect();
    keys.sort_unstable();
    let naive = (0..).zip(&filters).filter(|(key, filter)| key % 3 != 0 && filter.matches(topic));
    assert_eq!(keys, naive.map(|(key, _)| key).collect::<Vec<u32>>());
});
