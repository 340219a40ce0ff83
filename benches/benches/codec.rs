//! Reading and writing of small PUBLISHes. Other people's codecs in the same harness: `benches/peers`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mqtt_proto::codec::{Alike, Framer, encode_publish};
use mqtt_proto::packet::Connect;
use mqtt_proto::{Packet, Receiver, Version, decode, encode};

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

/// As the broker reads packets of one publisher that come in a row.
fn read_alike(criterion: &mut Criterion) {
    let mut group =
        criterion.benchmark_group("read a PUBLISH of 64 bytes like the one before, 256 in 16 KiB");
    group.throughput(Throughput::Elements(COUNT as u64));
    for (name, version) in VERSIONS {
        let (mut receiver, mut bytes) = (Receiver::default(), Vec::new());
        let connect = Connect::new(version, "c");
        encode(&Packet::Connect(connect), version, &mut bytes).expect("valid");
        assert!(matches!(receiver.poll_packet(&mut &bytes[..]), Ok(Some(_))));
        let topic = topic(0);
        let payload = payload(version, &topic);
        bytes.clear();
        encode_publish(&publish(&topic, &payload), version, &mut bytes).expect("valid");
        let alike = Alike::to(&bytes, version).expect("a plain PUBLISH");
        let bytes = bytes.repeat(COUNT);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut input = black_box(&*bytes);
                let mut sum = 0;
                while let Some((publish, _)) = receiver.poll_alike(&alike, &mut input) {
                    sum += black_box(publish).payload.len();
                }
                assert_eq!(sum, payload.len() * COUNT);
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

criterion_group!(benches, read, read_alike, write);
criterion_main!(benches);
