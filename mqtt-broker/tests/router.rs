//! The router against its definition: every answer must be that of `TopicFilter::matches` over a plain list.

use std::collections::{BTreeMap, BTreeSet};

use mqtt_broker::router::{
    CoreSet, GroupId, Groups, Interest, Matches, Retainable, Retained, Strategy as Choice, Subscriber,
    Subscriptions,
};
use mqtt_proto::packet::SubscriptionOptions;
use mqtt_proto::types::{Qos, SharedFilter, TopicFilter, TopicName};
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

/// Where the next slice goes on: further than the last one did, or the walk would never end.
fn further(after: Option<&str>, position: Option<&str>) -> String {
    let position = position.expect("an unfinished slice visits something");
    assert!(after.is_none_or(|after| in_levels(after) < in_levels(position)), "{after:?}, {position:?}");
    position.to_owned()
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
        let mut retained = Retained::new(SEED);
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
                after = Some(further(after.as_deref(), scan.position()));
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

    /// What changes between two slices does no harm: what stays is seen once, and nothing is seen that is not kept.
    #[test]
    fn a_scan_in_slices_bears_changes_between_them(
        sets in prop::collection::vec((topic(), 0usize..100), 0..200),
        changes in prop::collection::vec((topic(), any::<bool>()), 0..60),
        filter in filter(),
        budget in 1usize..8,
    ) {
        let mut retained = Retained::new(SEED);
        let mut model: BTreeMap<Vec<Vec<u8>>, Message> = BTreeMap::new();
        for (topic, cost) in sets {
            model.insert(in_levels(&topic), Message(topic.clone(), cost));
            retained.set(Message(topic, cost));
        }
        let filter = as_filter(&filter);
        let mut stays: BTreeMap<Vec<Vec<u8>>, Message> = model.clone();
        stays.retain(|_, message| filter.matches(as_topic(&message.0)));
        let mut seen = Vec::new();
        let mut after: Option<String> = None;
        let mut changes = changes.into_iter().zip(100..);
        loop {
            let mut scan = retained.scan(filter, after.as_deref()).with_budget(budget);
            for message in scan.by_ref() {
                prop_assert_eq!(model.get(&in_levels(&message.0)), Some(message));
                prop_assert!(filter.matches(as_topic(&message.0)));
                seen.push(in_levels(&message.0));
            }
            if scan.is_finished() {
                break;
            }
            after = Some(further(after.as_deref(), scan.position()));
            for ((topic, set), cost) in changes.by_ref().take(3) {
                if set {
                    let message = Message(topic.clone(), cost);
                    prop_assert_eq!(retained.set(message.clone()), model.insert(in_levels(&topic), message));
                } else {
                    prop_assert_eq!(retained.remove(&topic), model.remove(&in_levels(&topic)));
                    stays.remove(&in_levels(&topic));
                }
            }
        }
        prop_assert!(seen.is_sorted_by(|one, other| one < other), "in order, and none twice: {seen:?}");
        prop_assert!(stays.keys().all(|topic| seen.contains(topic)), "{seen:?} of {stays:?}");
    }

    #[test]
    fn groups_answer_as_the_definition(
        operations in prop::collection::vec((any::<bool>(), 0usize..4, filter()), 0..100),
        topics in prop::collection::vec(topic(), 10),
    ) {
        let mut groups = Groups::new(SEED);
        let mut model: BTreeMap<(String, String), GroupId> = BTreeMap::new();
        for (insert, name, text) in operations {
            let name = ["one", "two", "onetwo", "é"][name];
            let shared = format!("$share/{name}/{text}");
            let shared = SharedFilter::new(&shared).expect("a shared filter");
            let share_name = shared.share_name.expect("it begins with $share/");
            let known = model.get(&(name.to_owned(), text.clone())).copied();
            prop_assert_eq!(groups.find(share_name, shared.filter), known);
            if insert {
                let id = groups.insert(share_name, shared.filter, Choice::Sticky);
                prop_assert!(known.is_none_or(|known| known == id));
                prop_assert_eq!(groups.name(id), Some((name, &*text)));
                prop_assert_eq!(groups.get(id).map(|group| group.strategy()), Some(Choice::Sticky));
                model.insert((name.to_owned(), text), id);
            } else if let Some(id) = known {
                prop_assert!(groups.remove(id).is_some() && groups.get_mut(id).is_none());
                prop_assert!(groups.remove(id).is_none() && groups.name(id).is_none());
                model.remove(&(name.to_owned(), text.clone()));
                let left = model.keys().any(|(_, other)| *other == text);
                prop_assert_eq!(groups.has_filter(as_filter(&text)), left);
            }
            prop_assert_eq!((groups.len(), groups.is_empty()), (model.len(), model.is_empty()));
        }
        let mut ids: Vec<GroupId> = model.values().copied().collect();
        ids.sort_unstable();
        prop_assert!(groups.iter().map(|(id, _)| id).eq(ids));
        for topic in &topics {
            let mut found = Vec::new();
            groups.matches(as_topic(topic), &mut found);
            found.sort_unstable();
            let matching = model.iter().filter(|((_, text), _)| as_filter(text).matches(as_topic(topic)));
            let mut expected: Vec<GroupId> = matching.map(|(_, &id)| id).collect();
            expected.sort_unstable();
            prop_assert_eq!(found, expected, "topic {}", topic);
        }
    }
}

/// A generator of numbers for tests that are too large to shrink.
fn numbers(mut state: u64) -> impl FnMut(u64) -> u64 {
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    }
}

/// A level, the empty one and many a short one among them; a third of those of filters are `+`.
fn any_level(number: &mut impl FnMut(u64) -> u64, of_filter: bool) -> String {
    match number(if of_filter { 12 } else { 9 }) {
        0 => String::new(),
        1..4 => format!("n{}", number(200)),
        4..9 => ["a", "b", "c"][number(3) as usize].to_owned(),
        _ => "+".to_owned(),
    }
}

/// Ten thousand different filters of up to six levels.
fn many_filters(number: &mut impl FnMut(u64) -> u64) -> Vec<String> {
    let mut texts = BTreeSet::new();
    while texts.len() < 10_000 {
        let mut levels: Vec<String> = (0..=number(5)).map(|_| any_level(number, true)).collect();
        if number(7) == 0 {
            levels.push("#".to_owned());
        }
        texts.insert(levels.join("/"));
        texts.remove("");
    }
    texts.into_iter().collect()
}

/// A Topic Name that many of [`many_filters`] match.
fn any_topic(number: &mut impl FnMut(u64) -> u64) -> String {
    let levels: Vec<String> = (0..=number(6)).map(|_| any_level(number, false)).collect();
    Some(levels.join("/")).filter(|text| !text.is_empty()).unwrap_or_else(|| "/".to_owned())
}

#[test]
fn ten_thousand_filters_that_come_and_go_answer_as_the_definition() {
    let number = &mut numbers(7);
    let texts = many_filters(number);
    let mut subscriptions = Subscriptions::new(SEED);
    let mut live = vec![false; texts.len()];
    let mut found = Matches::default();
    for round in 0..10 {
        // All come first; then some of them go and come back.
        for at in 0..texts.len() {
            if round > 0 && number(3) > 0 {
                continue;
            }
            live[at] = !live[at];
            if live[at] {
                let inserted = subscriptions.insert(as_filter(&texts[at]), subscriber(at as u32, round));
                assert!(inserted.first_on_core && inserted.replaced.is_none());
            } else {
                let removed = subscriptions.remove(as_filter(&texts[at]), at as u32);
                assert!(removed.is_some_and(|removed| removed.last_on_core));
            }
        }
        assert_eq!(subscriptions.filters(), live.iter().filter(|&&live| live).count());
        for _ in 0..30 {
            let topic = any_topic(number);
            found.clear();
            subscriptions.matches(as_topic(&topic), &mut found);
            let expected: Vec<u32> = (0..texts.len())
                .filter(|&at| live[at] && as_filter(&texts[at]).matches(as_topic(&topic)))
                .map(|at| at as u32)
                .collect();
            let found: Vec<u32> = sorted(&found).into_iter().map(|(key, _)| key).collect();
            assert_eq!(found, expected, "{topic}");
        }
    }
    for at in (0..texts.len()).filter(|&at| live[at]) {
        assert!(subscriptions.remove(as_filter(&texts[at]), at as u32).is_some());
    }
    assert_eq!((subscriptions.len(), subscriptions.filters(), subscriptions.memory()), (0, 0, 0));
}

#[test]
fn interest_of_many_cores_in_ten_thousand_filters_that_come_and_go_misses_none() {
    let number = &mut numbers(11);
    let texts = many_filters(number);
    let mut interest = Interest::new([5, 6]);
    let mut model = vec![CoreSet::EMPTY; texts.len()];
    let mut generation = interest.generation();
    for round in 0..10 {
        for _ in 0..5_000 {
            let at = number(texts.len() as u64) as usize;
            // Few cores at first, so that both the first and the last core of a filter come and go often.
            let core = number([4, 128][round % 2]) as u16;
            if model[at].contains(core) {
                model[at].remove(core);
                interest.remove(core, as_filter(&texts[at]));
            } else {
                model[at].insert(core);
                interest.add(core, as_filter(&texts[at]));
            }
            assert!(interest.generation() > generation);
            generation = interest.generation();
        }
        assert_eq!(interest.len(), model.iter().map(|cores| cores.len()).sum::<usize>());
        for _ in 0..10 {
            let topic = any_topic(number);
            let matching = (0..texts.len()).filter(|&at| as_filter(&texts[at]).matches(as_topic(&topic)));
            let expected = matching.fold(CoreSet::EMPTY, |cores, at| cores.union(model[at]));
            let found = interest.cores(as_topic(&topic));
            assert!(expected.iter().all(|core| found.contains(core)), "{topic}: {found:?}, {expected:?}");
            assert_eq!(found, expected, "{topic}: no two of so few filters share 48 bits of a hash");
        }
    }
    for (text, cores) in texts.iter().zip(model) {
        cores.iter().for_each(|core| interest.remove(core, as_filter(text)));
    }
    assert_eq!((interest.len(), interest.memory()), (0, 0));
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
