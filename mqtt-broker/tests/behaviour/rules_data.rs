//! Strings, lengths, flags, properties and Packet Identifiers as the broker sends and judges them: chapters 1 and 2 of
//! both standards, statement by statement.

use mqtt_proto::packet::{
    Ack, Filters, Packet, Properties, Subscribe, Subscription, Subscriptions, Unsubscribe,
};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, Version};

use crate::cluster::{ClientId, Cluster, publish};

const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

fn id(value: u16) -> PacketId {
    PacketId::new(value).expect("not 0")
}

/// The connection ends at these bytes; a 5.0 Client is told `reason`.
#[track_caller]
fn ends_at(version: Version, bytes: &[u8], reason: ReasonCode) {
    let mut cluster = Cluster::new(1);
    let client = cluster.connect(0, version, "c");
    cluster.send_bytes(client, bytes);
    assert!(cluster.is_closed(client), "{version:?} {bytes:x?}");
    if version == Version::V5 {
        cluster.expect_disconnect(client, reason);
    }
    cluster.expect_nothing(client);
}

/// A SUBSCRIBE to a filter of these bytes.
fn subscribe(version: Version, packet_id: u8, filter: &[u8]) -> Vec<u8> {
    let mut body = vec![0, packet_id];
    if version == Version::V5 {
        body.push(0);
    }
    body.extend([0, filter.len() as u8]);
    body.extend(filter);
    body.push(0);
    let mut frame = vec![0x82, body.len() as u8];
    frame.extend(body);
    frame
}

/// A QoS 0 PUBLISH without payload to a topic of these bytes.
fn publish_to(version: Version, topic: &[u8]) -> Vec<u8> {
    let mut body = vec![0, topic.len() as u8];
    body.extend(topic);
    if version == Version::V5 {
        body.push(0);
    }
    let mut frame = vec![0x30, body.len() as u8];
    frame.extend(body);
    frame
}

/// A 5.0 PUBLISH to "a" with these bytes as its properties.
fn publish_with(properties: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x30, properties.len() as u8 + 4, 0, 1, b'a', properties.len() as u8];
    frame.extend(properties);
    frame
}

/// [MQTT-1.5.4-1] [MQTT-1.5.3-1 v3.1.1]
#[test]
fn ill_formed_utf_8_closes_the_connection() {
    for version in VERSIONS {
        // A surrogate, a slash in two bytes, half a character.
        for bytes in [&b"\xED\xA0\x80"[..], b"\xC0\xAF", b"a\xC3"] {
            ends_at(version, &subscribe(version, 1, bytes), ReasonCode::MALFORMED_PACKET);
            ends_at(version, &publish_to(version, bytes), ReasonCode::MALFORMED_PACKET);
        }
    }
}

/// [MQTT-1.5.4-2] [MQTT-1.5.3-2 v3.1.1]
#[test]
fn a_null_character_closes_the_connection() {
    for version in VERSIONS {
        for bytes in [&b"\0"[..], b"a\0b"] {
            ends_at(version, &subscribe(version, 1, bytes), ReasonCode::MALFORMED_PACKET);
        }
    }
}

/// [MQTT-1.5.4-3] [MQTT-1.5.3-3 v3.1.1]
#[test]
fn a_byte_order_mark_is_part_of_a_string() {
    for version in VERSIONS {
        let mut cluster = Cluster::new(1);
        let client = cluster.connect(0, version, "c");
        cluster.subscribe(client, "\u{FEFF}a", Qos::AtMostOnce);
        cluster.publish(client, "a", b"without");
        cluster.publish(client, "\u{FEFF}a", b"with");
        cluster.expect_message(client, "\u{FEFF}a", b"with");
        cluster.expect_nothing(client);
    }
}

/// [MQTT-1.5.5-1]
#[test]
fn a_length_in_more_bytes_than_it_needs_closes_the_connection() {
    for bytes in [
        &[0xC0, 0x80, 0x00][..],                               // Remaining Length
        &[0x30, 5, 0, 1, b'a', 0x80, 0x00],                    // Property Length
        &[0x82, 10, 0, 1, 3, 0x0B, 0x81, 0x00, 0, 1, b'a', 0], // Subscription Identifier
    ] {
        ends_at(Version::V5, bytes, ReasonCode::MALFORMED_PACKET);
    }
}

/// [MQTT-1.5.7-1]
#[test]
fn an_ill_formed_user_property_closes_the_connection() {
    for user_property in [[0x26, 0, 1, 0xFF, 0, 1, b'v'], [0x26, 0, 1, b'n', 0, 1, 0xFF]] {
        ends_at(Version::V5, &publish_with(&user_property), ReasonCode::MALFORMED_PACKET);
    }
}

/// [MQTT-2.1.3-1] [MQTT-2.2.2-1 v3.1.1] [MQTT-2.2.2-2 v3.1.1]
#[test]
fn reserved_flags_close_the_connection() {
    for version in VERSIONS {
        let mut subscribe = subscribe(version, 1, b"a");
        subscribe[0] = 0x80;
        for bytes in [&[0xC1, 0][..], &[0xE8, 0], &[0x41, 2, 0, 1], &[0x60, 2, 0, 1], &subscribe] {
            ends_at(version, bytes, ReasonCode::MALFORMED_PACKET);
        }
    }
}

/// [MQTT-2.2.1-2] [MQTT-2.3.1-5 v3.1.1]
#[test]
fn a_qos_0_message_is_sent_without_packet_identifier() {
    for version in VERSIONS {
        let mut cluster = Cluster::new(1);
        let subscriber = cluster.connect(0, version, "subscriber");
        let publisher = cluster.connect(0, version, "publisher");
        let body = if version == Version::V5 { &[0, 1, b'a', 0, b'x'][..] } else { &[0, 1, b'a', b'x'] };
        cluster.subscribe(subscriber, "a", Qos::AtMostOnce);
        // Whatever QoS it came with.
        cluster.publish(publisher, "a", b"x");
        cluster.publish_1(publisher, "a", b"x");
        cluster.publish_2(publisher, "a", b"x");
        for _ in 0..3 {
            let frame = cluster.take_frame(subscriber);
            assert_eq!((frame[0], &frame[2..]), (0x30, body));
        }
    }
}

/// [MQTT-2.2.2-1]
#[test]
fn no_properties_are_a_property_length_of_0() {
    ends_at(Version::V5, &[0x30, 3, 0, 1, b'a'], ReasonCode::MALFORMED_PACKET);
    let mut cluster = Cluster::new(1);
    let client = cluster.connect(0, Version::V5, "c");
    cluster.send_bytes(client, &subscribe(Version::V5, 7, b"a"));
    // The Property Length and a Reason Code.
    assert_eq!(cluster.take_frame(client)[4..], [0, 0]);
    cluster.send_bytes(client, &[0xA2, 6, 0, 8, 0, 0, 1, b'a']);
    assert_eq!(cluster.take_frame(client)[4..], [0, 0]);
}

/// [MQTT-2.2.1-3] [MQTT-2.3.1-1 v3.1.1]
#[test]
fn packet_identifier_0_closes_the_connection() {
    for version in VERSIONS {
        let zero = ReasonCode::PROTOCOL_ERROR;
        ends_at(version, &subscribe(version, 0, b"a"), zero);
        ends_at(version, &[0x32, 6, 0, 1, b'a', 0, 0, 0], zero);
        ends_at(version, &[0x34, 6, 0, 1, b'a', 0, 0, 0], zero);
        let unsubscribe = if version == Version::V5 {
            &[0xA2, 6, 0, 0, 0, 0, 1, b'a'][..]
        } else {
            &[0xA2, 5, 0, 0, 0, 1, b'a']
        };
        ends_at(version, unsubscribe, zero);
    }
}

/// The next packet has to be a PUBLISH: its Packet Identifier.
#[track_caller]
fn identifier(cluster: &mut Cluster, client: ClientId) -> PacketId {
    cluster.expect(client, |packet| match packet {
        Packet::Publish(publish) => publish.packet_id.expect("QoS 1 or 2"),
        other => panic!("{other:?}"),
    })
}

/// [MQTT-2.2.1-4] [MQTT-2.3.1-4 v3.1.1]
#[test]
fn no_two_messages_in_flight_have_the_same_packet_identifier() {
    for version in VERSIONS {
        let mut cluster = Cluster::new(1);
        let subscriber = cluster.connect(0, version, "subscriber");
        let publisher = cluster.connect(0, version, "publisher");
        cluster.subscribe(subscriber, "a", Qos::ExactlyOnce);
        let mut in_flight = Vec::new();
        for round in 0..10 {
            cluster.publish_1(publisher, "a", b"1");
            cluster.publish_2(publisher, "a", b"2");
            let (first, second) =
                (identifier(&mut cluster, subscriber), identifier(&mut cluster, subscriber));
            assert!(first != second && !in_flight.contains(&first) && !in_flight.contains(&second));
            // One flow ends, the other stays open: at PUBREC, or before it.
            cluster.send(subscriber, &Packet::PubAck(Ack::new(first, ReasonCode::SUCCESS)));
            if round % 2 == 0 {
                cluster.send(subscriber, &Packet::PubRec(Ack::new(second, ReasonCode::SUCCESS)));
                cluster.expect(subscriber, |packet| assert!(matches!(packet, Packet::PubRel(_))));
            }
            in_flight.push(second);
        }
    }
}

/// [MQTT-2.2.1-4] [MQTT-2.3.1-4 v3.1.1]
#[test]
fn a_packet_identifier_in_flight_is_passed_over_when_they_begin_again() {
    let mut cluster = Cluster::new(1);
    let subscriber = cluster.connect(0, Version::V3_1_1, "subscriber");
    let publisher = cluster.connect(0, Version::V3_1_1, "publisher");
    cluster.subscribe(subscriber, "a", Qos::AtLeastOnce);
    cluster.publish_1(publisher, "a", b"stays");
    let stays = identifier(&mut cluster, subscriber);
    for _ in 0..u16::MAX {
        cluster.publish_1(publisher, "a", b"goes");
        let goes = identifier(&mut cluster, subscriber);
        assert_ne!(goes, stays);
        cluster.send(subscriber, &Packet::PubAck(Ack::new(goes, ReasonCode::SUCCESS)));
    }
}

/// [MQTT-2.2.1-5] [MQTT-2.3.1-6 v3.1.1]
#[test]
fn acknowledgements_carry_the_packet_identifier_of_their_publish() {
    for version in VERSIONS {
        for value in [1, 0x1234, u16::MAX] {
            let mut cluster = Cluster::new(1);
            let client = cluster.connect(0, version, "c");
            cluster.send(client, &Packet::Publish(publish("a", b"", Qos::AtLeastOnce, value)));
            cluster.expect(client, |packet| {
                let Packet::PubAck(ack) = packet else { panic!("{packet:?}") };
                assert_eq!(ack.packet_id, id(value));
            });
            cluster.send(client, &Packet::Publish(publish("a", b"", Qos::ExactlyOnce, value)));
            cluster.expect(client, |packet| {
                let Packet::PubRec(ack) = packet else { panic!("{packet:?}") };
                assert_eq!(ack.packet_id, id(value));
            });
            cluster.send(client, &Packet::PubRel(Ack::new(id(value), ReasonCode::SUCCESS)));
            cluster.expect(client, |packet| {
                let Packet::PubComp(ack) = packet else { panic!("{packet:?}") };
                assert_eq!(ack.packet_id, id(value));
            });
        }
    }
}

/// [MQTT-2.2.1-5] [MQTT-2.3.1-6 v3.1.1]
#[test]
fn a_pubrel_carries_the_packet_identifier_of_its_publish() {
    for version in VERSIONS {
        let mut cluster = Cluster::new(1);
        let client = cluster.connect(0, version, "c");
        let publisher = cluster.connect(0, version, "publisher");
        cluster.subscribe(client, "a", Qos::ExactlyOnce);
        for _ in 0..3 {
            cluster.publish_2(publisher, "a", b"");
        }
        let ids: Vec<_> = (0..3).map(|_| identifier(&mut cluster, client)).collect();
        for &id in ids.iter().rev() {
            cluster.send(client, &Packet::PubRec(Ack::new(id, ReasonCode::SUCCESS)));
            cluster.expect(client, |packet| {
                let Packet::PubRel(ack) = packet else { panic!("{packet:?}") };
                assert_eq!(ack.packet_id, id);
            });
        }
    }
}

/// [MQTT-2.2.1-6] [MQTT-2.3.1-7 v3.1.1]
#[test]
fn suback_and_unsuback_carry_the_packet_identifier_of_their_request() {
    for version in VERSIONS {
        let mut cluster = Cluster::new(1);
        let client = cluster.connect(0, version, "c");
        for packet_id in [3, 0x4321, u16::MAX].map(id) {
            let properties = Properties::EMPTY;
            let list = [Subscription { filter: "a", options: Default::default() }];
            let subscriptions = Subscriptions::new(&list);
            cluster.send(client, &Packet::Subscribe(Subscribe { packet_id, properties, subscriptions }));
            cluster.expect(client, |packet| {
                let Packet::SubAck(suback) = packet else { panic!("{packet:?}") };
                assert_eq!(suback.packet_id, packet_id);
            });
            let filters = Filters::new(&["a"]);
            cluster.send(client, &Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters }));
            cluster.expect(client, |packet| {
                let Packet::UnsubAck(unsuback) = packet else { panic!("{packet:?}") };
                assert_eq!(unsuback.packet_id, packet_id);
            });
        }
    }
}

/// [MQTT-2.3.1-3 v3.1.1] [MQTT-2.3.1-4 v3.1.1]
#[test]
fn a_message_is_sent_again_under_its_packet_identifier() {
    for version in VERSIONS {
        let mut cluster = Cluster::new(1);
        let (client, _) = cluster.resume(0, version, "c");
        let publisher = cluster.connect(0, version, "publisher");
        cluster.subscribe(client, "a", Qos::ExactlyOnce);
        cluster.publish_1(publisher, "a", b"1");
        cluster.publish_2(publisher, "a", b"2");
        let first = [identifier(&mut cluster, client), identifier(&mut cluster, client)];
        cluster.cut(client);
        let (client, _) = cluster.resume(0, version, "c");
        let again = [identifier(&mut cluster, client), identifier(&mut cluster, client)];
        assert_eq!(first, again);
    }
}

/// Sections 2.1.2 (5.0) and 2.2.1 (3.1.1).
#[test]
fn a_forbidden_packet_type_closes_the_connection() {
    for version in VERSIONS {
        ends_at(version, &[0x00, 0], ReasonCode::MALFORMED_PACKET);
    }
    ends_at(Version::V3_1_1, &[0xF0, 0], ReasonCode::MALFORMED_PACKET);
}

/// Section 2.2.2.2.
#[test]
fn a_property_that_does_not_belong_there_closes_the_connection() {
    // Unknown, then Receive Maximum in a PUBLISH.
    ends_at(Version::V5, &publish_with(&[0x7F, 0]), ReasonCode::MALFORMED_PACKET);
    ends_at(Version::V5, &publish_with(&[0x21, 0, 1]), ReasonCode::MALFORMED_PACKET);
}

/// Section 2.2.2.2: the second of a property that may be there once is a Protocol Error.
#[test]
fn a_property_that_is_there_twice_closes_the_connection() {
    ends_at(Version::V5, &publish_with(&[0x02, 0, 0, 0, 9].repeat(2)), ReasonCode::PROTOCOL_ERROR);
    ends_at(Version::V5, &publish_with(&[0x03, 0, 1, b't'].repeat(2)), ReasonCode::PROTOCOL_ERROR);
}
