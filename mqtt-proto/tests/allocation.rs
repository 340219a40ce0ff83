//! What a peer can make us allocate, counted at the allocator.
//!
//! Decoding costs nothing, whatever the bytes: a packet borrows from them, an error is a value. What waits for the rest
//! of its packet costs [`FRAMER_BYTES_MIN`] or twice the bytes that came, whatever length they announce. A connection
//! adds the Topic Aliases that we ourselves offered.

mod support;

use std::alloc::System;

use mqtt_proto::connection::{Receiver, Role};
use mqtt_proto::{
    Connect, Framer, Packet, Properties, Property, Publish, Qos, TopicName, Version, decode, encode,
    encoded_len,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use support::ingredients;

#[global_allocator]
static HEAP: cap::Cap<System> = cap::Cap::new(System, usize::MAX);

const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

/// The least that a [`Framer`] takes once it keeps anything.
const FRAMER_BYTES_MIN: usize = 8;

/// All Topic Aliases without their topics: a pointer and a length each, in a list that begins with four and doubles, and where that
/// list is.
const fn aliases_bytes_max(offered: u16) -> usize {
    let entries = 2 * offered as usize;
    size_of::<Vec<()>>() + 16 * if entries < 4 { 4 } else { entries }
}

/// All in one: tests that run beside each other would count each other's bytes.
#[test]
fn a_peer_makes_us_allocate_no_more_than_it_sent() {
    let mut runner = TestRunner::new(Config { cases: 200, failure_persistence: None, ..Config::default() });
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let bytes = prop::collection::vec(any::<u8>(), 0..100);
    let lengths = prop::collection::vec(prop_oneof![3 => 1usize..8, 1 => 8usize..400], 1..20);
    let strategy = (prop::collection::vec(ingredients(), 1..4), damage, bytes, lengths);
    let outcome = runner.run(&strategy, |(packets, damage, bytes, lengths)| {
        let mut frames: Vec<Vec<u8>> = packets.iter().filter_map(|packet| packet.encoded()).collect();
        frames.iter().for_each(|frame| decoding_and_encoding_allocate_nothing(frame));
        for (frame, (at, byte)) in frames.iter_mut().zip(&damage) {
            let at = at.index(frame.len());
            frame[at] = *byte;
        }
        frames.push(bytes);
        frames.iter().for_each(|frame| decoding_and_encoding_allocate_nothing(frame));
        // Large packets are many pieces and nothing new.
        let mut stream = frames.concat();
        stream.truncate(4_000);
        framing_is_bounded_by_what_came(&stream, &lengths);
        receiving_is_bounded_by_what_came(&stream, &lengths);
        Ok(())
    });
    outcome.expect("all bounds hold");
    announced_lengths_cost_nothing();
    topic_aliases_cost_what_we_offered();
}

/// Bytes that `act` allocates, given back or not. The least of a few runs, for the test runner's own threads allocate
/// now and then.
fn allocated_by(mut act: impl FnMut()) -> usize {
    let mut count = || {
        let before = HEAP.total_allocated();
        act();
        HEAP.total_allocated() - before
    };
    (0..5).map(|_| count()).find(|bytes| *bytes == 0).unwrap_or_else(count)
}

fn decoding_and_encoding_allocate_nothing(frame: &[u8]) {
    for version in VERSIONS {
        let mut decodes = false;
        let decoding = || decodes = decode(version, frame).is_ok();
        assert_eq!(allocated_by(decoding), 0, "decoding {frame:02X?}");
        let Ok(packet) = decode(version, frame) else { continue };
        assert!(decodes);
        let walk = || assert!(items(&packet) < 100_000);
        assert_eq!(allocated_by(walk), 0, "walking through {packet:?}");

        // Five bytes are written for the Fixed Header, however many stay.
        let len = encoded_len(&packet, version).expect("it was decoded");
        let mut out = Vec::with_capacity(len.max(5));
        let writing = || {
            out.clear();
            assert_eq!(encoded_len(&packet, version), Ok(len));
            encode(&packet, version, &mut out).expect("it was decoded");
        };
        assert_eq!(allocated_by(writing), 0, "encoding {packet:?}");
        assert_eq!(out.len(), len);
    }
}

/// Looks at all that a packet lists.
fn items(packet: &Packet<'_>) -> usize {
    let count = |properties: Properties<'_>| properties.iter().count();
    match packet {
        Packet::Connect(connect) => {
            count(connect.properties) + connect.will.map_or(0, |will| count(will.properties))
        }
        Packet::ConnAck(connack) => count(connack.properties),
        Packet::Publish(publish) => count(publish.properties),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            count(ack.properties)
        }
        Packet::Subscribe(subscribe) => count(subscribe.properties) + subscribe.subscriptions.iter().count(),
        Packet::SubAck(suback) => count(suback.properties) + suback.reasons.iter().count(),
        Packet::Unsubscribe(unsubscribe) => {
            count(unsubscribe.properties) + unsubscribe.filters.iter().count()
        }
        Packet::UnsubAck(unsuback) => count(unsuback.properties) + unsuback.reasons.iter().count(),
        Packet::Disconnect(disconnect) => count(disconnect.properties),
        Packet::Auth(auth) => count(auth.properties),
        Packet::PingReq | Packet::PingResp => 0,
    }
}

/// `stream` in pieces of these lengths, over and over.
fn pieces<'a>(mut stream: &'a [u8], lengths: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut lengths = lengths.iter().copied().cycle();
    std::iter::from_fn(move || {
        let len = lengths.next()?.min(stream.len());
        let (piece, rest) = stream.split_at(len);
        stream = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Checks that `held` bytes are at most `bound`; tolerates what others allocate, which does not last.
fn check(before: usize, bound: usize, what: &str) {
    let within = (0..1_000).any(|_| {
        let held = HEAP.allocated().saturating_sub(before);
        held <= bound || {
            std::thread::yield_now();
            false
        }
    });
    assert!(within, "{what}: {} bytes are held, {bound} are allowed", HEAP.allocated() - before);
}

/// What a framer may hold of so many bytes: them twice or eight, and where it keeps them.
fn framer_bytes_max(came: usize) -> usize {
    FRAMER_BYTES_MIN.max(2 * came) + size_of::<(Vec<u8>, bool)>()
}

fn framing_is_bounded_by_what_came(stream: &[u8], lengths: &[usize]) {
    let mut framer = Framer::default();
    let before = HEAP.allocated();
    let mut came = 0;
    for mut piece in pieces(stream, lengths) {
        loop {
            let available = piece.len();
            let next = framer.next_frame(&mut piece, u32::MAX).map(|frame| frame.map(<[u8]>::len));
            came += available - piece.len();
            check(before, framer_bytes_max(came), "framing");
            match next {
                // The next call gives the memory of this one back.
                Ok(Some(len)) => came -= len,
                Ok(None) if came > 0 => break,
                Ok(None) => {
                    check(before, 0, "between packets");
                    break;
                }
                Err(_) => return,
            }
        }
    }
}

fn receiving_is_bounded_by_what_came(stream: &[u8], lengths: &[usize]) {
    const ALIASES: u16 = 8;
    for version in VERSIONS {
        let mut receiver = Receiver::new(Role::Server, u32::MAX);
        let opening = connect(version);
        assert!(matches!(receiver.poll_packet(&mut &opening[..]), Ok(Some(_))));
        receiver.set_topic_alias_maximum(ALIASES);
        let before = HEAP.allocated();
        let mut came = 0;
        for mut piece in pieces(stream, lengths) {
            came += piece.len();
            while let Ok(Some(_)) = receiver.poll_packet(&mut piece) {}
            let bound = framer_bytes_max(came) + aliases_bytes_max(ALIASES);
            check(before, bound, "receiving");
        }
    }
}

fn connect(version: Version) -> Vec<u8> {
    let mut out = Vec::new();
    let connect = Connect::new(version, "c");
    encode(&Packet::Connect(connect), version, &mut out).expect("valid");
    out
}

/// 268,435,455 bytes are announced, a few come.
fn announced_lengths_cost_nothing() {
    let mut framer = Framer::default();
    let before = HEAP.allocated();
    let mut came = 0;
    for mut piece in [&[0x30, 0xFF, 0xFF][..], &[0xFF], &[0x7F, 0], &[0; 3], &[0; 500]] {
        came += piece.len();
        assert_eq!(framer.next_frame(&mut piece, u32::MAX), Ok(None));
        check(before, framer_bytes_max(came), "a large packet announced");
    }
}

/// The highest alias first, with the shortest topic.
fn topic_aliases_cost_what_we_offered() {
    for offered in [1, 10, 1_000, u16::MAX] {
        let mut receiver = Receiver::new(Role::Server, u32::MAX);
        let opening = connect(Version::V5);
        assert!(matches!(receiver.poll_packet(&mut &opening[..]), Ok(Some(_))));
        receiver.set_topic_alias_maximum(offered);
        let before = HEAP.allocated();
        let properties = [Property::TopicAlias(offered)];
        let publish = Publish {
            dup: false,
            qos: Qos::AtMostOnce,
            retain: false,
            topic: TopicName::new("t").ok(),
            packet_id: None,
            properties: Properties::new(&properties),
            payload: b"",
        };
        let mut wire = Vec::new();
        encode(&Packet::Publish(publish), Version::V5, &mut wire).expect("valid");
        assert!(matches!(receiver.poll_packet(&mut &wire[..]), Ok(Some(_))));
        let bound = wire.capacity() + 1 + aliases_bytes_max(offered);
        check(before, bound, "Topic Aliases");
    }
}
