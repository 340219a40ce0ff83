//! What a message costs on its way to another core: written into a batch of envelopes and read from it.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mqtt_broker::message;
use mqtt_broker::message::MessageRef;
use mqtt_proto::types::{Qos, TopicName};

// The format is nobody's but the shard's, so its source is measured here rather than opened to everybody.
#[path = "../../mqtt-broker/src/shard/envelope/mod.rs"]
#[expect(dead_code, unreachable_pub, reason = "only messages are measured, and its tests run elsewhere")]
mod envelope;

use envelope::{Envelope, EnvelopeBatch, Writer};

const COUNT: usize = 64;

fn message<'a>(topic: &'a str, payload: &'a [u8]) -> MessageRef<'a> {
    MessageRef {
        topic: TopicName::new(topic).expect("a Topic Name"),
        properties: &[],
        payload,
        qos: Qos::AtLeastOnce,
        retain: false,
        expires_at: None,
    }
}

fn write(batch: &mut EnvelopeBatch, messages: &[MessageRef<'_>]) {
    batch.bytes.clear();
    for (publisher, &message) in (0..).zip(messages) {
        let envelope = Envelope::Publish { message, deliver: true, retain: false, publisher };
        Writer { bytes: &mut batch.bytes, large: &mut batch.large }.write(&envelope, &mut None);
    }
}

fn read(batch: &EnvelopeBatch) -> usize {
    let mut sum = 0;
    for envelope in batch.envelopes() {
        // Lent, as it is to the shard: moving it would cost as much as reading it.
        if let (Envelope::Publish { message, .. }, None) = black_box(&envelope) {
            sum += message.payload.len();
        }
    }
    sum
}

fn batch(criterion: &mut Criterion) {
    let topics: Vec<String> = (0..COUNT).map(|number| format!("plant/{number}/line/rpm")).collect();
    let messages: Vec<_> = topics.iter().map(|topic| message(topic, &[7; 40])).collect();
    let mut batch = EnvelopeBatch::default();
    let mut group = criterion.benchmark_group("a message of 60 bytes, 64 in a batch of envelopes");
    group.throughput(Throughput::Elements(COUNT as u64));
    group.bench_function("write", |bencher| {
        bencher.iter(|| {
            write(&mut batch, black_box(&messages));
            batch.bytes.len()
        });
    });
    write(&mut batch, &messages);
    group.bench_function("read", |bencher| bencher.iter(|| read(black_box(&batch))));
    group.bench_function("write and read", |bencher| {
        bencher.iter(|| {
            write(&mut batch, black_box(&messages));
            read(black_box(&batch))
        });
    });
}

criterion_group!(benches, batch);
criterion_main!(benches);
