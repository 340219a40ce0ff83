//! What the router says it holds is what it holds: its own account against that of the allocator.

use mqtt_broker::router::{Interest, Retainable, Retained, Subscriber, Subscriptions};
use mqtt_proto::packet::SubscriptionOptions;
use mqtt_proto::types::{Qos, TopicFilter};

#[global_allocator]
static HEAP: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, usize::MAX);

fn filter(text: &str) -> TopicFilter<'_> {
    TopicFilter::new(text).expect("a filter")
}

/// Fails unless `says` is what was allocated since `before`, but for a fiftieth: the nodes of sets of free places are
/// counted by their entries alone. Nothing is printed meanwhile: what a test prints is kept on the heap.
#[track_caller]
fn check(what: &str, says: usize, before: usize) {
    let holds = HEAP.allocated() - before;
    assert!(says.abs_diff(holds) <= holds / 50 + 256, "{what} says {says} bytes and holds {holds}");
}

fn filters(count: usize) -> Vec<String> {
    // Texts short and long, of one level and of several, with few and with many beside them.
    let kinds: [fn(usize) -> String; 5] = [
        |n| format!("sensor/{n}"),
        |n| format!("building/{}/floor/{}/a-room-with-a-long-name/{n}", n % 10, n % 30),
        |n| format!("site/{n}/+/state"),
        |n| format!("{n}/#"),
        |n| format!("region/{}/+/device/{n}/+/#", n % 50),
    ];
    (0..count).map(|n| kinds[n % kinds.len()](n)).collect()
}

fn subscriptions(texts: &[String]) {
    let before = HEAP.allocated();
    let mut subscriptions = Subscriptions::new([1, 2, 3, 4]);
    let options = SubscriptionOptions::new(Qos::AtLeastOnce);
    for (n, text) in texts.iter().enumerate() {
        // One subscriber, a few, or so many that they have a table of their own.
        let count = [1, 1, 2, 5, 1, 1, 60][n % 7];
        for key in 0..count {
            subscriptions.insert(filter(text), Subscriber { key, options, identifier: 0 });
        }
    }
    check("subscriptions", subscriptions.memory(), before);
    for text in texts.iter().step_by(2) {
        let id = subscriptions.find(filter(text)).expect("it has a subscriber");
        for key in 1..60 {
            subscriptions.remove_id(id, key);
        }
    }
    check("subscriptions with a single subscriber", subscriptions.memory(), before);
    end_all(&mut subscriptions, &texts[..texts.len() * 3 / 4]);
    check("a quarter of the subscriptions", subscriptions.memory(), before);
    end_all(&mut subscriptions, texts);
    assert_eq!(subscriptions.memory(), 0);
    check("no subscriptions", 0, before);
}

fn end_all(subscriptions: &mut Subscriptions, texts: &[String]) {
    for text in texts {
        for key in 0..60 {
            subscriptions.remove(filter(text), key);
        }
    }
}

fn interest(texts: &[String]) {
    let before = HEAP.allocated();
    let mut interest = Interest::new([5, 6]);
    for (n, text) in texts.iter().enumerate() {
        (0..[1, 3][n % 2]).for_each(|core| interest.add(core, filter(text)));
    }
    check("interest", interest.memory(), before);
    for text in texts {
        (0..3).for_each(|core| interest.remove(core, filter(text)));
    }
    assert_eq!(interest.memory(), 0);
    check("no interest", 0, before);
}

struct Kept(&'static str);

impl Retainable for Kept {
    fn topic(&self) -> &str {
        self.0
    }
    fn cost(&self) -> usize {
        self.0.len()
    }
}

fn retained(topics: &[&'static str]) {
    let before = HEAP.allocated();
    let mut retained = Retained::new([1, 2, 3, 4]);
    for topic in topics {
        retained.set(Kept(topic));
    }
    check("retained messages", retained.memory(), before);
    for topic in topics.iter().step_by(2) {
        retained.remove(topic);
    }
    check("half of the retained messages", retained.memory(), before);
    retained.retain(|message| message.cost() % 2 == 0);
    check("some of the retained messages", retained.memory(), before);
    retained.retain(|_| false);
    assert_eq!((retained.memory(), retained.bytes()), (0, 0));
    check("no retained messages", 0, before);
}

/// All in one test: they share the heap they measure.
#[test]
fn the_router_holds_what_it_says_it_holds() {
    let texts = filters(5_000);
    subscriptions(&texts);
    interest(&texts);
    let topics: Vec<&'static str> = texts.iter().map(|text| &*text.clone().leak()).collect();
    retained(&topics);
    // Small ones as well, where a table or a page is most of it.
    for count in [1, 3, 40] {
        subscriptions(&texts[..count]);
        interest(&texts[..count]);
        retained(&topics[..count]);
    }
}
