//! Reading and writing of small PUBLISHes. Other people's codecs in the same harness: `benches/peers`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mqtt_proto::codec::{Framer, encode_publish};
use mqtt_proto::{Packet, Version, decode};

#[path = "shared/packets.rs"]
mod packets;

use packets::{COUNT, packed, payload, publish, topic};

const VERSIONS: [(&str, Version); 2] = [("3.1.1", Version::V3_1_1), ("5.0", Version::V5)];

fn read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read a PUBLISH of 64 bytes, 256 in 16 KiB");
    group.throughput(Throughput::Elements(COUNT as u64));
    for (name, version) in VERSIONS {
        let bytes = packed(version);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut framer = Framer::default();
                let mut input = black_box(&*bytes);
                let mut sum = 0;
                while let Ok(Some(frame)) = framer.next_frame(&mut input, 65_536) {
                    let Ok(Packet::Publish(publish)) = decode(version, frame) else { panic!("a PUBLISH") };
                    sum += black_box(publish).payload.len();
                }
                sum
            });
        });
    }
}

fn write(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("write a PUBLISH of 64 bytes, 256 to 16 KiB");
    group.throughput(Throughput::Elements(COUNT as u64));
    for (name, version) in VERSIONS {
        let parts: Vec<(String, Vec<u8>)> = (0..COUNT)
            .map(|number| {
                let topic = topic(number);
                let payload = payload(version, &topic);
                (topic, payload)
            })
            .collect();
        let packets: Vec<_> = parts.iter().map(|(topic, payload)| publish(topic, payload)).collect();
        let mut out = Vec::new();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                for packet in black_box(&packets) {
                    encode_publish(packet, version, &mut out).expect("valid");
                }
                out.len()
            });
        });
    }
}

criterion_group!(benches, read, write);
criterion_main!(benches);
