//! What a message costs in the shard alone, without sockets: `hot_path SHAPE MESSAGES` publishes so many messages, in
//! batches as they come from a busy socket or one by one, and takes everything that the shard wants to send.
//!
//! Meant to be run by a tool that counts instructions (`.ci/instructions`): the difference between two numbers of
//! messages is what these messages cost. Run by itself it prints nanoseconds a message. Every delivery is counted.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use mqtt_broker::config::{CoreId, Limits};
use mqtt_broker::ports::Ports;
use mqtt_broker::shard::{Action, ConnectionId, ConnectionInfo, Now, Shard, ShardConfig};
use mqtt_proto::codec;
use mqtt_proto::packet::{
    Ack, Connect, Packet, Properties, Publish, Subscribe, Subscription, SubscriptionOptions, Subscriptions,
};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, TopicName, Version};

/// Messages that one batch of input holds.
const WINDOW: usize = 64;

/// Which Clients there are and what they do.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    publishers: usize,
    /// Subscribers to each publisher's topic.
    subscribers: usize,
    /// One topic and one subscriber for all publishers.
    one_topic: bool,
    qos: Qos,
    version: Version,
    /// Each packet comes alone, with what others send between it and the next.
    apart: bool,
}

const SHAPES: [Shape; 9] = [
    pairs("pairs-qos0", Qos::AtMostOnce, Version::V3_1_1),
    pairs("pairs-qos0-v5", Qos::AtMostOnce, Version::V5),
    pairs("pairs-qos1", Qos::AtLeastOnce, Version::V3_1_1),
    pairs("pairs-qos2", Qos::ExactlyOnce, Version::V3_1_1),
    Shape { name: "fan-out", publishers: 1, subscribers: 100, ..pairs("", Qos::AtMostOnce, Version::V3_1_1) },
    Shape {
        name: "fan-out-qos1",
        subscribers: 100,
        publishers: 1,
        ..pairs("", Qos::AtLeastOnce, Version::V5)
    },
    Shape { name: "fan-in", publishers: 100, one_topic: true, ..pairs("", Qos::AtMostOnce, Version::V3_1_1) },
    Shape { apart: true, ..pairs("apart-qos0", Qos::AtMostOnce, Version::V3_1_1) },
    Shape { apart: true, ..pairs("apart-qos1", Qos::AtLeastOnce, Version::V3_1_1) },
];

const fn pairs(name: &'static str, qos: Qos, version: Version) -> Shape {
    Shape { name, publishers: 50, subscribers: 1, one_topic: false, qos, version, apart: false }
}

/// A shard with its Clients.
struct Bench {
    shard: Shard,
    now: Now,
    shape: Shape,
    publishers: Vec<ConnectionId>,
    /// What each publisher sends a batch at a time.
    input: Vec<Vec<u8>>,
    delivered: u64,
    /// Acknowledgements of what was delivered, per connection, to be fed in the next round.
    answers: Vec<(ConnectionId, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
}

impl Bench {
    fn new(shape: Shape) -> Bench {
        let mut limits = Limits::default();
        limits.sys_interval_seconds = 0;
        limits.check().expect("limits");
        let config =
            ShardConfig { core: CoreId(0), cores: 1, limits: Arc::new(limits), hash_key: [1, 2], seed: 3 };
        let now = Now { millis: 1_000_000, wall_millis: 1_700_000_000_000 };
        let shard = Shard::new(config, Ports::allow_all(), now);
        let mut bench = Bench {
            shard,
            now,
            shape,
            publishers: Vec::new(),
            input: Vec::new(),
            delivered: 0,
            answers: Vec::new(),
            spare: Vec::new(),
        };
        for publisher in 0..shape.publishers {
            let id = bench.connect(&format!("p{publisher}"));
            bench.publishers.push(id);
            let topic = bench.topic(publisher);
            bench.input.push(batch(&topic, shape));
        }
        let topics = if shape.one_topic { 1 } else { shape.publishers };
        for topic in 0..topics {
            for subscriber in 0..shape.subscribers {
                let id = bench.connect(&format!("s{topic}-{subscriber}"));
                let topic = bench.topic(topic);
                bench.subscribe(id, &topic);
            }
        }
        bench.take(false);
        bench.delivered = 0;
        bench
    }

    fn topic(&self, publisher: usize) -> String {
        format!("plant/line/{:03}/temperature", if self.shape.one_topic { 0 } else { publisher })
    }

    fn connect(&mut self, client_id: &str) -> ConnectionId {
        let id = self.shard.connection_opened(ConnectionInfo::default(), self.now).expect("room");
        let connect = Connect::new(self.shape.version, client_id);
        self.feed(id, &Packet::Connect(connect));
        id
    }

    fn subscribe(&mut self, id: ConnectionId, topic: &str) {
        let options = SubscriptionOptions { qos: self.shape.qos, ..SubscriptionOptions::default() };
        let list = [Subscription { filter: topic, options }];
        let packet_id = PacketId::new(1).expect("not 0");
        self.feed(
            id,
            &Packet::Subscribe(Subscribe {
                packet_id,
                properties: Properties::EMPTY,
                subscriptions: Subscriptions::new(&list),
            }),
        );
    }

    fn feed(&mut self, id: ConnectionId, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        codec::encode(packet, self.shape.version, &mut bytes).expect("a packet");
        self.shard.handle_input(id, &bytes, self.now);
        self.take(false);
    }

    /// Publishes until `messages` have been published.
    fn run(&mut self, messages: usize) {
        let mut left = messages.div_ceil(WINDOW);
        while left > 0 {
            let publishers = self.publishers.len().min(left);
            let pieces = if self.shape.apart { WINDOW } else { 1 };
            for piece in 0..pieces {
                for (publisher, input) in self.publishers.iter().zip(&self.input).take(publishers) {
                    // All packets of a batch have the same length.
                    let len = input.len() / pieces;
                    self.shard.handle_input(*publisher, &input[piece * len..(piece + 1) * len], self.now);
                }
            }
            left -= publishers;
            self.take(true);
        }
    }

    /// Takes what the shard sends, and answers it, until it is quiet.
    fn take(&mut self, answers: bool) {
        loop {
            while let Some(action) = self.shard.poll_action() {
                if let Action::Transmit { id, buffer } = action {
                    if answers {
                        self.read(id, &buffer);
                    }
                    self.shard.transmit_done(id, buffer, self.now);
                }
            }
            let Some((id, answer)) = self.answers.pop() else { return };
            self.shard.handle_input(id, &answer, self.now);
            self.spare.push(answer);
        }
    }

    /// What a Client does with its bytes: counts what is delivered, and acknowledges.
    fn read(&mut self, id: ConnectionId, mut bytes: &[u8]) {
        let mut out = self.spare.pop().unwrap_or_default();
        out.clear();
        while let [first, len, rest @ ..] = bytes {
            // All packets here are shorter than 128 bytes: one byte of Remaining Length.
            let (body, rest) = rest.split_at(usize::from(*len));
            bytes = rest;
            let packet_id = |at: usize| PacketId::new(u16::from_be_bytes([body[at], body[at + 1]]));
            let mut answer = |packet: fn(Ack<'static>) -> Packet<'static>, packet_id: Option<PacketId>| {
                let ack = Ack::new(packet_id.expect("not 0"), ReasonCode::SUCCESS);
                codec::encode(&packet(ack), self.shape.version, &mut out).expect("an acknowledgement");
            };
            match first >> 4 {
                3 => {
                    self.delivered += 1;
                    let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
                    match first >> 1 & 3 {
                        0 => {}
                        1 => answer(Packet::PubAck, packet_id(2 + topic)),
                        _ => answer(Packet::PubRec, packet_id(2 + topic)),
                    }
                }
                5 => answer(Packet::PubRel, packet_id(0)),
                6 => answer(Packet::PubComp, packet_id(0)),
                _ => {}
            }
        }
        if out.is_empty() {
            self.spare.push(out);
        } else {
            self.answers.push((id, out));
        }
    }
}

/// One publisher's batch.
fn batch(topic: &str, shape: Shape) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in 1..=WINDOW {
        let publish = Publish {
            dup: false,
            qos: shape.qos,
            retain: false,
            topic: Some(TopicName::new(topic).expect("a topic")),
            packet_id: PacketId::new(number as u16).filter(|_| shape.qos != Qos::AtMostOnce),
            properties: Properties::EMPTY,
            payload: &[7; 64],
        };
        codec::encode_publish(&publish, shape.version, &mut bytes).expect("a message");
    }
    bytes
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [name, messages] = &arguments[..] else {
        for shape in SHAPES {
            measure(shape, 1_000_000);
        }
        return ExitCode::SUCCESS;
    };
    let Some(shape) = SHAPES.into_iter().find(|shape| shape.name == name) else {
        eprintln!("no shape {name}: {}", SHAPES.map(|shape| shape.name).join(" "));
        return ExitCode::FAILURE;
    };
    measure(shape, messages.parse().expect("a number of messages"));
    ExitCode::SUCCESS
}

#[expect(clippy::disallowed_methods, reason = "how long it took is told in real time")]
fn measure(shape: Shape, deliveries: usize) {
    let messages = deliveries / shape.subscribers;
    let mut bench = Bench::new(shape);
    let started = Instant::now();
    bench.run(messages);
    let nanos = started.elapsed().as_nanos() as f64;
    let expected = (messages.div_ceil(WINDOW) * WINDOW * shape.subscribers) as u64;
    assert_eq!(bench.delivered, expected, "every message reaches its subscribers");
    println!("{:<16} {expected} deliveries, {:.1} ns each", shape.name, nanos / expected as f64);
}
