//! Three codecs read and write the same PUBLISHes of 64 bytes, MQTT 3.1.1, 256 of them in 16 KiB.
//!
//! Each is used as its own broker or client uses it. The others' packets own their topic or share the buffer by
//! reference, ours borrow; what they are made from and dropped into is counted for nobody but for the drop of each packet.

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use mqtt_proto::codec::{Framer, encode_publish};
use mqtt_proto::{Packet, Version, decode};
use ntex_codec::{Decoder, Encoder};
use ntex_mqtt::v3::codec::{Codec, Decoded, Encoded};

#[path = "../../benches/shared/packets.rs"]
mod packets;

use packets::{COUNT, PACKET, packed, payload, publish, topic};

const VERSION: Version = Version::V3_1_1;

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(COUNT as u64));
    group
}

fn read(criterion: &mut Criterion) {
    let mut group = group(criterion, "read a PUBLISH of 64 bytes");
    let bytes = packed(VERSION);
    group.bench_function("mqtt-proto", |bencher| {
        bencher.iter(|| {
            let (mut framer, mut input, mut count) = (Framer::default(), black_box(&*bytes), 0);
            while let Ok(Some(frame)) = framer.next_frame(&mut input, 65_536) {
                let Ok(Packet::Publish(publish)) = decode(VERSION, frame) else { panic!("a PUBLISH") };
                black_box(publish);
                count += 1;
            }
            assert_eq!(count, COUNT);
        });
    });
    group.bench_function("rumqttc", |bencher| {
        let input = || bytes::BytesMut::from(&*bytes);
        let read = |mut input| {
            let mut count = 0;
            while let Ok(packet) = rumqttc::Packet::read(&mut input, 65_536) {
                black_box(packet);
                count += 1;
            }
            assert_eq!(count, COUNT);
            input
        };
        bencher.iter_batched(input, read, BatchSize::SmallInput);
    });
    group.bench_function("ntex-mqtt", |bencher| {
        let codec = Codec::new();
        let input = || ntex_bytes::BytesMut::from(&*bytes);
        let read = |mut input| {
            let mut count = 0;
            while let Ok(Some(Decoded::Publish(publish, payload, _))) = codec.decode(&mut input) {
                black_box((publish, payload));
                count += 1;
            }
            assert_eq!(count, COUNT);
            input
        };
        bencher.iter_batched(input, read, BatchSize::SmallInput);
    });
}

fn write(criterion: &mut Criterion) {
    let mut group = group(criterion, "write a PUBLISH of 64 bytes");
    let topics: Vec<String> = (0..COUNT).map(topic).collect();
    let payloads: Vec<Vec<u8>> = topics.iter().map(|topic| payload(VERSION, topic)).collect();
    let parts = || topics.iter().zip(&payloads);
    group.bench_function("mqtt-proto", |bencher| {
        let packets: Vec<_> = parts().map(|(topic, payload)| publish(topic, payload)).collect();
        let mut out = Vec::new();
        bencher.iter(|| {
            out.clear();
            for packet in black_box(&packets) {
                encode_publish(packet, VERSION, &mut out).expect("valid");
            }
            assert_eq!(out.len(), PACKET * COUNT);
        });
    });
    group.bench_function("rumqttc", |bencher| {
        let packets: Vec<_> = parts()
            .map(|(topic, payload)| rumqttc::Publish::new(topic, rumqttc::QoS::AtMostOnce, payload.clone()))
            .collect();
        let mut out = bytes::BytesMut::new();
        bencher.iter(|| {
            out.clear();
            for packet in black_box(&packets) {
                packet.write(&mut out).expect("valid");
            }
            assert_eq!(out.len(), PACKET * COUNT);
        });
    });
    group.bench_function("ntex-mqtt", |bencher| {
        let codec = Codec::new();
        let packets: Vec<_> = parts()
            .map(|(topic, payload)| {
                let publish = ntex_mqtt::v3::codec::Publish {
                    dup: false,
                    retain: false,
                    qos: ntex_mqtt::QoS::AtMostOnce,
                    topic: topic.as_str().into(),
                    packet_id: None,
                    payload_size: payload.len() as u32,
                };
                Encoded::Publish(publish, Some(payload.clone().into()))
            })
            .collect();
        let write = |packets: Vec<Encoded>| {
            let mut out = ntex_bytes::BytePages::default();
            for packet in packets {
                codec.encodev(packet, &mut out).expect("valid");
            }
            assert_eq!(out.len(), PACKET * COUNT);
            out
        };
        bencher.iter_batched(|| packets.clone(), write, BatchSize::SmallInput);
    });
}

criterion_group!(benches, read, write);
criterion_main!(benches);
