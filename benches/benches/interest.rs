//! What a core knows of the others' subscriptions, a million filters on eight cores: bytes, the cost of an announcement,
//! of a question, and how often the answer names a core too many.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mqtt_broker::message;
use mqtt_broker::router::Interest;
use mqtt_proto::types::{TopicFilter, TopicName};

// The format is nobody's but the shard's, so its source is measured here rather than opened to everybody.
#[path = "../../mqtt-broker/src/shard/envelope/mod.rs"]
#[expect(dead_code, unreachable_pub, reason = "only announcements are measured, and its tests run elsewhere")]
mod envelope;
#[path = "shared/filters.rs"]
#[expect(dead_code, reason = "shared with the bench of the router")]
mod filters;

use envelope::{Envelope, EnvelopeBatch, Writer};
use filters::{COUNT, filter, shuffled, topic};

/// The core that looks is the first of these; the others' filters are in its digest.
const CORES: u16 = 8;
/// Announcements of one turn travel together.
const BATCH: usize = 64;

/// The core with the subscription `number`, and its filter.
fn subscription(number: u32) -> (u16, String) {
    ((number % u32::from(CORES)) as u16, filter(number))
}

/// Says of each filter that it comes or goes, in batches, and what is read from them to the digest.
fn announce(
    batch: &mut EnvelopeBatch,
    interest: &mut Interest,
    filters: &[(u16, TopicFilter<'_>)],
    add: bool,
) {
    for filters in filters.chunks(BATCH) {
        batch.bytes.clear();
        for &(_, filter) in filters {
            let envelope = Envelope::Interest { filter, add };
            Writer { bytes: &mut batch.bytes, large: &mut batch.large }.write(&envelope, &mut None);
        }
        for ((envelope, _), (core, _)) in batch.envelopes().zip(filters) {
            match envelope {
                Envelope::Interest { filter, add: true } => interest.add(*core, filter),
                Envelope::Interest { filter, add: false } => interest.remove(*core, filter),
                _ => unreachable!("nothing else was written"),
            }
        }
    }
}

fn digest(criterion: &mut Criterion) {
    let mut all: Vec<(u16, String)> = shuffled().into_iter().map(subscription).collect();
    all.retain(|(core, _)| *core != 0);
    // A core says once that it has subscriptions to a filter, however many.
    let mut known = std::collections::HashSet::new();
    all.retain(|pair| known.insert(pair.clone()));
    drop(known);
    let filters: Vec<_> =
        all.iter().map(|(core, text)| (*core, TopicFilter::new(text).expect("a filter"))).collect();
    let mut batch = EnvelopeBatch::default();
    let mut interest = Interest::new([1, 2]);
    announce(&mut batch, &mut interest, &filters, true);
    println!(
        "digest: {} B a pair of core and filter, {} of them",
        interest.memory() / interest.len(),
        interest.len()
    );
    let absent = |number: u32| format!("{}/none", topic(number).replace("site", "town"));
    let wrong: usize = (0..COUNT)
        .map(|number| interest.cores(TopicName::new(&absent(number)).expect("a topic")).len())
        .sum();
    println!("cores named too many: {wrong} in {COUNT} topics that match nothing");

    let mut at = 0;
    let mut group = criterion.benchmark_group("announcements, 1M filters on 8 cores");
    group.throughput(Throughput::Elements(2 * BATCH as u64));
    group.bench_function("64 taken back and made", |bencher| {
        bencher.iter(|| {
            at = (at + BATCH) % (filters.len() - BATCH);
            let some = &filters[at..at + BATCH];
            announce(&mut batch, &mut interest, some, false);
            announce(&mut batch, &mut interest, some, true);
        });
    });
    group.finish();
    let topics: Vec<String> = shuffled().into_iter().map(topic).collect();
    criterion.bench_function("cores interested, 1M filters on 8 cores", |bencher| {
        bencher.iter(|| {
            at = (at + 1) % topics.len();
            black_box(interest.cores(TopicName::new(&topics[at]).expect("a topic")))
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = digest
}
criterion_main!(benches);
