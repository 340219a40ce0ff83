//! The router with a million entries: what a match, an insertion, a scan and a choice cost, and bytes a subscription.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use mqtt_broker::router::{
    Group, Matches, MemberId, Retainable, Retained, Strategy, Subscriber, Subscriptions,
};
use mqtt_proto::packet::SubscriptionOptions;
use mqtt_proto::types::{Qos, TopicFilter, TopicName};

#[path = "shared/filters.rs"]
mod filters;

use filters::{COUNT, filter, scattered, shuffled, topic};

const OPTIONS: SubscriptionOptions = SubscriptionOptions::new(Qos::AtLeastOnce);

fn subscriptions() -> Subscriptions {
    let mut subscriptions = Subscriptions::new([1, 2, 3, 4]);
    for number in 0..COUNT {
        let text = filter(number);
        let filter = TopicFilter::new(&text).expect("a filter");
        subscriptions.insert(filter, Subscriber { key: number, options: OPTIONS, identifier: 0 });
    }
    subscriptions
}

fn subscribe(criterion: &mut Criterion) {
    let mut subscriptions = subscriptions();
    let text: usize = subscriptions.iter_filters().map(str::len).sum();
    println!(
        "subscriptions: {} B each beside {} B of text",
        (subscriptions.memory() - text) / subscriptions.len(),
        text / subscriptions.len()
    );
    let numbers = shuffled();
    let topics: Vec<String> = numbers.iter().copied().map(topic).collect();
    let mut matches = Matches::default();
    let mut at = 0;
    criterion.bench_function("match among 1M subscriptions", |bencher| {
        bencher.iter(|| {
            at = (at + 1) % topics.len();
            matches.clear();
            subscriptions.matches(TopicName::new(&topics[at]).expect("a topic"), &mut matches);
            black_box(matches.subscribers.len())
        });
    });
    let filters: Vec<String> = numbers.iter().copied().map(filter).collect();
    criterion.bench_function("remove and insert among 1M subscriptions", |bencher| {
        bencher.iter(|| {
            at = (at + 1) % filters.len();
            let filter = TopicFilter::new(&filters[at]).expect("a filter");
            let key = numbers[at];
            let removed = subscriptions.remove(filter, key).expect("it is subscribed");
            black_box(subscriptions.insert(filter, removed.subscriber).first_on_core)
        });
    });
    criterion.bench_function("insert 1M subscriptions", |bencher| {
        let filters: Vec<String> = (0..COUNT).map(filter).collect();
        bencher.iter_batched(
            || Subscriptions::new([1, 2, 3, 4]),
            |mut subscriptions| {
                for (key, text) in (0..).zip(&filters) {
                    let filter = TopicFilter::new(text).expect("a filter");
                    subscriptions.insert(filter, Subscriber { key, options: OPTIONS, identifier: 0 });
                }
                subscriptions
            },
            BatchSize::PerIteration,
        );
    });
}

struct Message(Box<str>);

impl Retainable for Message {
    fn topic(&self) -> &str {
        &self.0
    }
    fn cost(&self) -> usize {
        self.0.len()
    }
}

fn retained(criterion: &mut Criterion) {
    let mut retained = Retained::new([1, 2, 3, 4]);
    for at in 0..COUNT {
        // 10 sites of 10,000 devices with 10 values each.
        let number = scattered(at);
        let (site, device, value) = (number % 10, number / 100, number / 10 % 10);
        retained.set(Message(format!("site/{site}/device/{device}/value{value}").into()));
    }
    for (name, filter) in [
        ("all of one", "site/3/device/5555/+"),
        ("one of each of few", "site/+/device/5555/value3"),
        ("subtree", "site/3/device/5555/#"),
    ] {
        let filter = TopicFilter::new(filter).expect("a filter");
        assert_eq!(retained.scan(filter, None).count(), 10);
        criterion.bench_function(&format!("10 of 1M retained, {name}"), |bencher| {
            bencher.iter(|| retained.scan(filter, None).map(|message| message.0.len()).sum::<usize>());
        });
    }
    let mut at = 0;
    criterion.bench_function("replace one of 1M retained", |bencher| {
        bencher.iter(|| {
            at = (at + 1) % COUNT;
            let number = scattered(at);
            let (site, device, value) = (number % 10, number / 100, number / 10 % 10);
            let topic = format!("site/{site}/device/{device}/value{value}");
            retained.set(Message(topic.into())).is_some()
        });
    });
}

fn shared(criterion: &mut Criterion) {
    for strategy in Strategy::ALL {
        let mut group = Group::new(strategy);
        for key in 0..100 {
            let id = MemberId { core: 0, key, generation: 0 };
            group.join(id, OPTIONS, 0);
            group.set_online(id, 10);
        }
        let mut hash = 0u64;
        criterion.bench_function(&format!("choose one of 100, {strategy}"), |bencher| {
            bencher.iter(|| {
                hash = hash.wrapping_add(0x9E37_79B9_7F4A_7C15);
                let chosen = group.choose(hash, hash).expect("credit comes back at once");
                group.add_credit(chosen.id, 1);
                chosen.id.key
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = subscribe, retained, shared
}
criterion_main!(benches);
