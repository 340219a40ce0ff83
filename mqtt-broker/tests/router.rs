//! The router against its definition: every answer must be that of `TopicFilter::matches` over a plain list.

use std::collections::BTreeMap;

use mqtt_broker::router::{CoreSet, Interest, Matches, Retainable, Retained, Subscriber, Subscriptions};
use mqtt_proto::packet::SubscriptionOptions;
use mqtt_proto::types::{Qos, TopicFilter, TopicName};
use proptest::prelude::*;

const SEED: [u64; 4] = [1, 2, 3, 4];

/// Few and similar levels, the empty one among them, so that filters overlap and topics hit.
fn level() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec!["", "a", "b", "ab", "$SYS", "$", "é"]).prop_map(str::to_owned),
        1 => "[a-c !.-]{1,3}",
    ]
}

fn topic() -> impl Strategy<Value = String> {
    prop::collection::vec(level(), 1..6)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("not empty", |text| !text.is_empty())
}

fn filter() -> impl Strategy<Value = String> {
    let level = prop_oneof![3 => level(), 2 => Just("+".to_owned())];
    (prop::collection::vec(level, 0..6), any::<bool>())
        .prop_map(|(mut levels, multi)| {
            if multi || levels.is_empty() {
                levels.push("#".to_owned());
            }
            levels.join("/")
        })
        .prop_filter("not empty", |text| !text.is_empty())
}

fn as_filter(text: &str) -> TopicFilter<'_> {
    TopicFilter::new(text).expect("generated as a filter")
}

fn as_topic(text: &str) -> TopicName<'_> {
    TopicName::new(text).expect("generated as a topic")
}

fn subscriber(key: u32, identifier: u32) -> Subscriber {
    let qos = Qos::from_bits((identifier % 3) as u8).expect("below 3");
    Subscriber { key, options: SubscriptionOptions::new(qos), identifier }
}

fn sorted(matches: &Matches) -> Vec<(u32, u32)> {
    let mut found: Vec<(u32, u32)> =
        matches.subscribers.iter().map(|subscriber| (subscriber.key, subscriber.identifier)).collect();
    found.sort_unstable();
    found
}

#[derive(Clone, Debug)]
enum Operation {
    Insert(String, u32),
    Remove(String, u32),
}

fn operations(max: usize) -> impl Strategy<Value = Vec<Operation>> {
    let one = prop_oneof![
        2 => (filter(), 0u32..4).prop_map(|(filter, key)| Operation::Insert(filter, key)),
        1 => (filter(), 0u32..4).prop_map(|(filter, key)| Operation::Remove(filter, key)),
    ];
    prop::collection::vec(one, 0..max)
}

#[derive(Clone, Debug, PartialEq)]
struct Message(String, usize);

impl Retainable for Message {
    fn topic(&self) -> &str {
        &self.0
    }
    fn cost(&self) -> usize {
        self.1
    }
}

/// The order of the standard's levels: a topic before everything below it.
fn in_levels(topic: &str) -> Vec<Vec<u8>> {
    topic.split('/').map(|level| level.as_bytes().to_vec()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn subscriptions_answer_as_the_definition(
        operations in operations(300),
        topics in prop::collection::vec(topic(), 20),
    ) {
        let mut subscriptions = Subscriptions::new(SEED);
        let start = subscriptions.memory();
        let mut model: BTreeMap<(String, u32), u32> = BTreeMap::new();
        for (number, operation) in operations.into_iter().enumerate() {
            let number = number as u32 + 1;
            match operation {
                Operation::Insert(text, key) => {
                    let first = !model.keys().any(|(known, _)| *known == text);
                    let inserted = subscriptions.insert(as_filter(&text), subscriber(key, number));
                    prop_assert_eq!(inserted.first_on_core, first);
                    prop_assert_eq!(subscriptions.filter_text(inserted.filter), &text);
                    prop_assert_eq!(subscriptions.find(as_filter(&text)), Some(inserted.filter));
                    let replaced = inserted.replaced.map(|subscriber| subscriber.identifier);
                    prop_assert_eq!(replaced, model.insert((text, key), number));
                }
                Operation::Remove(text, key) => {
                    let removed = subscriptions.remove(as_filter(&text), key);
                    let expected = model.remove(&(text.clone(), key));
                    prop_assert_eq!(removed.map(|removed| removed.subscriber.identifier), expected);
                    if let Some(removed) = removed {
                        let last = !model.keys().any(|(known, _)| *known == text);
                        prop_assert_eq!(removed.last_on_core, last);
                        prop_assert_eq!(subscriptions.find(as_filter(&text)).is_none(), last);
                    }
                }
            }
            prop_assert_eq!(subscriptions.len(), model.len());
        }
        let mut texts: Vec<&str> = model.keys().map(|(text, _)| text.as_str()).collect();
        texts.dedup();
        let mut kept: Vec<&str> = subscriptions.iter_filters().collect();
        kept.sort_unstable();
        prop_assert_eq!(&kept, &texts);
        prop_assert_eq!(subscriptions.filters(), texts.len());
        let mut found = Matches::default();
        for topic in &topics {
            found.clear();
            subscriptions.matches(as_topic(topic), &mut found);
            let mut expected: Vec<(u32, u32)> = model
                .iter()
                .filter(|((text, _), _)| as_filter(text).matches(as_topic(topic)))
                .map(|((_, key), &number)| (*key, number))
                .collect();
            expected.sort_unstable();
            prop_assert_eq!(sorted(&found), expected, "topic {}", topic);
            let filters = texts.iter().filter(|text| as_filter(text).matches(as_topic(topic))).count();
            prop_assert_eq!(found.filters, filters);
        }
        for (text, key) in model.into_keys() {
            prop_assert!(subscriptions.remove(as_filter(&text), key).is_some());
        }
        prop_assert_eq!(subscriptions.memory(), start);
    }

    #[test]
    fn interest_never_misses_a_core(
        operations in operations(200),
        topics in prop::collection::vec(topic(), 20),
    ) {
        let mut interest = Interest::new([5, 6]);
        let mut model: BTreeMap<(String, u16), ()> = BTreeMap::new();
        for operation in operations {
            match operation {
                Operation::Insert(text, core) => {
                    if model.insert((text.clone(), core as u16), ()).is_none() {
                        interest.add(core as u16, as_filter(&text));
                    }
                }
                Operation::Remove(text, core) => {
                    interest.remove(core as u16, as_filter(&text));
                    model.remove(&(text, core as u16));
                }
            }
        }
        prop_assert_eq!(interest.len(), model.len());
        for topic in &topics {
            let expected: CoreSet = model
                .keys()
                .filter(|(text, _)| as_filter(text).matches(as_topic(topic)))
                .map(|(_, core)| *core)
                .collect();
            prop_assert_eq!(interest.cores(as_topic(topic)), expected, "topic {}", topic);
        }
    }

    #[test]
    fn scans_answer_as_the_definition(
        sets in prop::collection::vec((topic(), 0usize..100), 0..400),
        removes in prop::collection::vec(topic(), 0..100),
        filters in prop::collection::vec(filter(), 20),
        budget in 1usize..5,
    ) {
        let mut retained = Retained::new();
        let mut model: BTreeMap<Vec<Vec<u8>>, Message> = BTreeMap::new();
        for (topic, cost) in sets {
            let message = Message(topic.clone(), cost);
            prop_assert_eq!(retained.set(message.clone()), model.insert(in_levels(&topic), message));
        }
        for topic in removes {
            prop_assert_eq!(retained.get(&topic), model.get(&in_levels(&topic)));
            prop_assert_eq!(retained.remove(&topic), model.remove(&in_levels(&topic)));
        }
        prop_assert!(retained.iter().eq(model.values()));
        for text in &filters {
            let filter = as_filter(text);
            let matching = model.values().filter(|message| filter.matches(as_topic(&message.0)));
            let expected: Vec<&Message> = matching.collect();
            prop_assert_eq!(&retained.scan(filter, None).collect::<Vec<_>>(), &expected, "filter {}", text);
            // In slices of few visits, going on by nothing but the position.
            let mut sliced = Vec::new();
            let mut after: Option<String> = None;
            loop {
                let mut scan = retained.scan(filter, after.as_deref()).with_budget(budget);
                sliced.extend(scan.by_ref());
                prop_assert!(scan.visited() <= budget);
                if scan.is_finished() {
                    break;
                }
                after = Some(scan.position().expect("an unfinished slice visits something").to_owned());
            }
            prop_assert_eq!(&sliced, &expected, "filter {}", text);
        }
        let bytes = |retained: &Retained<Message>| retained.iter().map(Retainable::cost).sum::<usize>();
        prop_assert_eq!(retained.bytes(), bytes(&retained));
        retained.retain(|message| message.1 % 2 == 0);
        prop_assert_eq!(retained.bytes(), bytes(&retained));
        prop_assert!(retained.iter().all(|message| message.1 % 2 == 0));
        prop_assert_eq!(retained.len(), model.values().filter(|message| message.1 % 2 == 0).count());
    }
}

/// A generator of numbers for tests that are too large to shrink.
fn numbers(mut state: u64) -> impl FnMut(u64) -> u64 {
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    }
}

#[test]
fn ten_thousand_filters_answer_as_the_definition() {
    let mut number = numbers(7);
    let mut level = |wild: bool| match number(if wild { 12 } else { 9 }) {
        0 => String::new(),
        1..4 => format!("n{}", number(200)),
        4..9 => ["a", "b", "c"][number(3) as usize].to_owned(),
        _ => "+".to_owned(),
    };
    let mut texts: Vec<String> = (0..10_000)
        .map(|at| {
            let mut levels: Vec<String> = (0..1 + at % 5).map(|_| level(true)).collect();
            if at % 7 == 0 {
                levels.push("#".to_owned());
            }
            levels.join("/")
        })
        .filter(|text| !text.is_empty())
        .collect();
    texts.sort_unstable();
    texts.dedup();
    let mut subscriptions = Subscriptions::new(SEED);
    for (key, text) in texts.iter().enumerate() {
        assert!(subscriptions.insert(as_filter(text), subscriber(key as u32, 0)).first_on_core);
    }
    let mut found = Matches::default();
    for at in 0..300 {
        let topic: Vec<String> = (0..1 + at % 6).map(|_| level(false)).collect();
        let topic = topic.join("/");
        let Ok(topic) = TopicName::new(&topic) else { continue };
        found.clear();
        subscriptions.matches(topic, &mut found);
        let expected: Vec<(u32, u32)> = (0..)
            .zip(&texts)
            .filter(|(_, text)| as_filter(text).matches(topic))
            .map(|(key, _)| (key, 0))
            .collect();
        assert_eq!(sorted(&found), expected, "{topic}");
    }
    for (key, text) in texts.iter().enumerate() {
        assert!(
            subscriptions.remove(as_filter(text), key as u32).is_some_and(|removed| removed.last_on_core)
        );
    }
    assert_eq!((subscriptions.len(), subscriptions.memory()), (0, 0));
}

#[test]
fn a_filter_with_many_subscribers_keeps_them_all_apart() {
    let mut subscriptions = Subscriptions::new(SEED);
    let filter = as_filter("news/#");
    for key in 0..5_000 {
        assert_eq!(subscriptions.insert(filter, subscriber(key, 1)).first_on_core, key == 0);
    }
    for key in (0..5_000).step_by(2) {
        assert!(subscriptions.insert(filter, subscriber(key, 2)).replaced.is_some());
    }
    let id = subscriptions.find(filter).expect("it has subscribers");
    let mut number = numbers(1);
    let mut left: Vec<u32> = (0..5_000).collect();
    while left.len() > 3 {
        let key = left.swap_remove(number(left.len() as u64) as usize);
        let removed = subscriptions.remove_id(id, key).expect("it is subscribed");
        assert_eq!(removed.subscriber, subscriber(key, if key.is_multiple_of(2) { 2 } else { 1 }));
        assert!(subscriptions.remove_id(id, key).is_none() && subscriptions.get(id, key).is_none());
        assert!(subscriptions.get(id, left[0]).is_some());
    }
    let mut found = Matches::default();
    subscriptions.matches(as_topic("news/today"), &mut found);
    left.sort_unstable();
    assert_eq!(sorted(&found).into_iter().map(|(key, _)| key).collect::<Vec<u32>>(), left);
    assert_eq!(found.filters, 1);
    for key in left {
        subscriptions.remove(filter, key);
    }
    assert_eq!((subscriptions.filters(), subscriptions.memory()), (0, 0));
}

#[test]
fn each_change_has_a_generation_and_nothing_else() {
    let mut subscriptions = Subscriptions::new(SEED);
    let before = subscriptions.generation();
    subscriptions.insert(as_filter("a"), subscriber(1, 1));
    let inserted = subscriptions.generation();
    assert!(inserted > before);
    assert_eq!(subscriptions.remove(as_filter("a"), 2), None);
    assert_eq!(subscriptions.remove(as_filter("b"), 1), None);
    assert_eq!(subscriptions.generation(), inserted);
    subscriptions.insert(as_filter("a"), subscriber(1, 2));
    let replaced = subscriptions.generation();
    assert!(replaced > inserted);
    subscriptions.remove(as_filter("a"), 1);
    assert!(subscriptions.generation() > replaced);
}
