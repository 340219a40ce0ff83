//! What a Client does about messages: sections 3.3, 4.3 to 4.6 and 4.9 of both standards.

use std::collections::BTreeSet;

use mqtt_proto::connection::{Client, ConnectOptions, Event, Message, ProtocolError, RequestError};
use mqtt_proto::{
    Connect, EncodeError, Packet, PacketId, Properties, Property, PropertyId, Publish, Qos, ReasonCode,
    Subscription, SubscriptionOptions, TopicName, Version, decode,
};

use crate::VERSIONS;

const BOTH: [Qos; 2] = [Qos::AtLeastOnce, Qos::ExactlyOnce];

/// A Client and the bytes that a Server would exchange with it.
struct Stage {
    client: Client<Message>,
    version: Version,
    /// Properties of the next CONNECT and CONNACK, as on the wire.
    connect: Vec<Property<'static>>,
    connack: Vec<u8>,
    manual: bool,
}

impl Stage {
    /// A Client that is connected and has a session.
    fn new(version: Version) -> Stage {
        let mut stage = Stage::unconnected(version);
        stage.connects(false);
        stage
    }

    fn unconnected(version: Version) -> Stage {
        Stage { client: Client::default(), version, connect: Vec::new(), connack: Vec::new(), manual: false }
    }

    /// Connects; the Server says whether it has the session. What the Client sends after CONNECT stays to be looked at.
    fn connects(&mut self, session_present: bool) {
        self.client.connection_lost();
        let connect = Connect {
            version: self.version,
            clean_start: false,
            keep_alive: 0,
            client_id: "c",
            properties: Properties::new(&self.connect),
            will: None,
            user_name: None,
            password: None,
        };
        let options = ConnectOptions { manual_acknowledgement: self.manual, ..ConnectOptions::new(connect) };
        self.client.connect(&options, 0).expect("it is closed");
        self.sent();
        let mut connack = vec![0x20, 2, u8::from(session_present && self.version != Version::V3_1), 0];
        if self.version == Version::V5 {
            connack[1] += 1 + self.connack.len() as u8;
            connack.push(self.connack.len() as u8);
            connack.extend(&self.connack);
        }
        self.hears(&connack);
    }

    /// The connection breaks and comes back, its session being kept.
    fn reconnects(&mut self) {
        self.connects(true);
    }

    /// The Client publishes to "a".
    fn publishes(&mut self, qos: Qos, payload: &[u8]) -> Option<PacketId> {
        self.client.publish(message(qos, payload), 0).expect("it is connected and has quota")
    }

    /// All that the Client sends now.
    fn sent(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.client.poll_transmit(&mut out);
        out
    }

    /// The payloads of the new messages in what the Server sends.
    fn hears(&mut self, mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        while let Some(event) = self.client.poll_event(&mut bytes, 0).expect("the Server does nothing wrong")
        {
            if let Event::Message(publish) = event {
                messages.push(publish.payload.to_vec());
            }
        }
        messages
    }

    /// A PUBLISH to "a" as on the wire.
    fn publish(&self, first: u8, id: Option<u16>, payload: &[u8]) -> Vec<u8> {
        let mut body = vec![0, 1, b'a'];
        body.extend(id.into_iter().flat_map(u16::to_be_bytes));
        if self.version == Version::V5 {
            body.push(0);
        }
        body.extend(payload);
        let mut bytes = vec![first, body.len() as u8];
        bytes.extend(body);
        bytes
    }
}

fn message(qos: Qos, payload: &[u8]) -> Message {
    Message::new(TopicName::new("a").expect("a topic"), qos, payload)
}

fn puback(id: u8) -> [u8; 4] {
    [0x40, 2, 0, id]
}

fn pubrec(id: u8) -> [u8; 4] {
    [0x50, 2, 0, id]
}

fn pubrel(id: u8) -> [u8; 4] {
    [0x62, 2, 0, id]
}

fn pubcomp(id: u8) -> [u8; 4] {
    [0x70, 2, 0, id]
}

fn everywhere(test: impl Fn(Stage)) {
    VERSIONS.into_iter().for_each(|version| test(Stage::new(version)));
}

// The Client as a sender.

/// [MQTT-4.3.1-1] [MQTT-3.3.1-2]
#[test]
fn a_qos_0_message_has_neither_dup_nor_identifier() {
    everywhere(|mut stage| {
        assert_eq!(stage.publishes(Qos::AtMostOnce, b"x"), None);
        assert_eq!(stage.sent(), stage.publish(0x30, None, b"x"));
    });
}

/// [MQTT-4.3.2-2] [MQTT-4.3.2-1 v3.1.1]
#[test]
fn a_qos_1_message_is_sent_with_its_identifier_and_without_dup() {
    everywhere(|mut stage| {
        assert_eq!(stage.publishes(Qos::AtLeastOnce, b"x"), Some(PacketId::FIRST));
        assert_eq!(stage.sent(), stage.publish(0x32, Some(1), b"x"));
    });
}

/// [MQTT-4.3.3-2] [MQTT-4.3.3-1 v3.1.1]
#[test]
fn a_qos_2_message_is_sent_with_its_identifier_and_without_dup() {
    everywhere(|mut stage| {
        assert_eq!(stage.publishes(Qos::ExactlyOnce, b"x"), Some(PacketId::FIRST));
        assert_eq!(stage.sent(), stage.publish(0x34, Some(1), b"x"));
    });
}

/// [MQTT-4.3.2-1] [MQTT-4.3.3-1]
#[test]
fn messages_under_way_have_different_identifiers() {
    everywhere(|mut stage| {
        let mut used = BTreeSet::new();
        for n in 0..50 {
            let id = stage.publishes(BOTH[n % 2], b"x").expect("QoS 1 or 2");
            assert!(used.insert(id), "{id} is in use");
        }
    });
}

/// [MQTT-3.3.1-1]
#[test]
fn a_message_that_is_sent_again_has_dup() {
    for (qos, first) in [(Qos::AtLeastOnce, 0x3A), (Qos::ExactlyOnce, 0x3C)] {
        everywhere(|mut stage| {
            stage.publishes(qos, b"x");
            for _ in 0..2 {
                stage.reconnects();
                assert_eq!(stage.sent(), stage.publish(first, Some(1), b"x"));
            }
        });
    }
}

/// [MQTT-4.4.0-1]: each under the identifier that it had.
#[test]
fn what_was_not_acknowledged_is_sent_again_with_its_identifier() {
    everywhere(|mut stage| {
        for payload in [b"1", b"2", b"3"] {
            stage.publishes(Qos::AtLeastOnce, payload);
        }
        stage.hears(&puback(2));
        stage.reconnects();
        let expected = [stage.publish(0x3A, Some(1), b"1"), stage.publish(0x3A, Some(3), b"3")].concat();
        assert_eq!(stage.sent(), expected);
    });
}

/// [MQTT-4.4.0-1]: at no other time.
#[test]
fn nothing_is_sent_again_while_the_connection_stands() {
    everywhere(|mut stage| {
        stage.publishes(Qos::AtLeastOnce, b"1");
        stage.publishes(Qos::ExactlyOnce, b"2");
        stage.sent();
        stage.client.handle_timeout(3_600_000).expect("nothing is owed");
        stage.publishes(Qos::AtMostOnce, b"3");
        assert_eq!(stage.sent(), stage.publish(0x30, None, b"3"));
    });
}

/// [MQTT-4.3.2-3]: until its PUBACK, whatever else comes.
#[test]
fn a_qos_1_message_is_unacknowledged_until_its_puback() {
    everywhere(|mut stage| {
        stage.publishes(Qos::AtLeastOnce, b"x");
        stage.hears(&[puback(2), pubcomp(1)].concat());
        stage.reconnects();
        assert_eq!(stage.sent(), stage.publish(0x3A, Some(1), b"x"));
        stage.hears(&puback(1));
        stage.reconnects();
        assert_eq!(stage.sent(), b"");
    });
}

/// [MQTT-4.3.3-3]: until its PUBREC, whatever else comes.
#[test]
fn a_qos_2_message_is_unacknowledged_until_its_pubrec() {
    everywhere(|mut stage| {
        stage.publishes(Qos::ExactlyOnce, b"x");
        stage.hears(&[puback(1), pubcomp(1)].concat());
        stage.reconnects();
        assert_eq!(stage.sent(), stage.publish(0x3C, Some(1), b"x"));
    });
}

/// [MQTT-4.3.3-4] [MQTT-4.3.3-1 v3.1.1]
#[test]
fn pubrec_is_answered_by_pubrel_with_its_identifier() {
    everywhere(|mut stage| {
        stage.publishes(Qos::AtLeastOnce, b"1");
        stage.publishes(Qos::ExactlyOnce, b"2");
        stage.sent();
        stage.hears(&pubrec(2));
        assert_eq!(stage.sent(), pubrel(2));
    });
}

/// [MQTT-4.3.3-5] [MQTT-4.3.3-6] [MQTT-4.4.0-1]: PUBREL is sent again, and its PUBLISH is not.
#[test]
fn after_pubrec_only_pubrel_is_sent_again_and_that_until_pubcomp() {
    everywhere(|mut stage| {
        stage.publishes(Qos::ExactlyOnce, b"x");
        stage.hears(&pubrec(1));
        for _ in 0..2 {
            stage.reconnects();
            assert_eq!(stage.sent(), pubrel(1));
        }
        stage.hears(&pubcomp(1));
        stage.reconnects();
        assert_eq!(stage.sent(), b"");
    });
}

/// [MQTT-4.4.0-2] [MQTT-4.3.3-4]
#[test]
fn a_message_that_was_refused_is_neither_released_nor_sent_again() {
    let mut stage = Stage::new(Version::V5);
    stage.publishes(Qos::AtLeastOnce, b"1");
    stage.publishes(Qos::ExactlyOnce, b"2");
    stage.sent();
    stage.hears(&[0x40, 3, 0, 1, 0x97, 0x50, 3, 0, 2, 0x97]);
    assert_eq!(stage.sent(), b"");
    stage.reconnects();
    assert_eq!(stage.sent(), b"");
}

/// [MQTT-4.6.0-1]
#[test]
fn messages_are_sent_again_in_their_first_order() {
    everywhere(|mut stage| {
        let mut expected = Vec::new();
        for n in 0..10 {
            stage.publishes(BOTH[usize::from(n) % 2], &[n]);
            expected.extend(stage.publish(
                if n % 2 == 0 { 0x3A } else { 0x3C },
                Some(u16::from(n) + 1),
                &[n],
            ));
        }
        stage.reconnects();
        assert_eq!(stage.sent(), expected);
    });
}

/// [MQTT-4.6.0-4]
#[test]
fn pubrels_leave_in_the_order_of_their_pubrecs() {
    everywhere(|mut stage| {
        for _ in 0..3 {
            stage.publishes(Qos::ExactlyOnce, b"x");
        }
        stage.sent();
        stage.hears(&[pubrec(2), pubrec(3), pubrec(1)].concat());
        assert_eq!(stage.sent(), [pubrel(2), pubrel(3), pubrel(1)].concat());
    });
}

/// A Client whose Server announced a Receive Maximum of 2, with as many messages under way.
fn spent(qos: Qos) -> Stage {
    let mut stage = Stage::unconnected(Version::V5);
    stage.connack = vec![0x21, 0, 2];
    stage.connects(false);
    stage.publishes(qos, b"1");
    stage.publishes(qos, b"2");
    stage.sent();
    stage
}

/// [MQTT-3.3.4-7] [MQTT-4.9.0-1] [MQTT-4.9.0-2]
#[test]
fn no_more_messages_are_unacknowledged_than_the_receive_maximum_says() {
    for qos in BOTH {
        let mut stage = spent(qos);
        for more in BOTH {
            let unsent = stage.client.publish(message(more, b"3"), 0).expect_err("the quota is spent");
            assert_eq!(unsent.reason, RequestError::WindowFull);
        }
        assert_eq!(stage.sent(), b"");
    }
}

/// Section 4.9: PUBACK, PUBCOMP and a PUBREC that refuses give one back; PUBREC alone does not.
#[test]
fn the_end_of_a_flow_and_nothing_else_gives_quota_back() {
    let mut stage = spent(Qos::AtLeastOnce);
    stage.hears(&puback(2));
    stage.publishes(Qos::AtLeastOnce, b"3");
    let mut stage = spent(Qos::ExactlyOnce);
    stage.hears(&pubrec(1));
    assert!(stage.client.publish(message(Qos::AtLeastOnce, b"3"), 0).is_err());
    stage.hears(&pubcomp(1));
    stage.publishes(Qos::AtLeastOnce, b"3");
    stage.hears(&[0x50, 3, 0, 2, 0x80]);
    stage.publishes(Qos::AtLeastOnce, b"4");
}

/// [MQTT-3.3.4-8] [MQTT-4.9.0-3]
#[test]
fn a_spent_quota_delays_no_other_packet() {
    let mut stage = spent(Qos::ExactlyOnce);
    stage.publishes(Qos::AtMostOnce, b"x");
    assert_eq!(stage.sent(), stage.publish(0x30, None, b"x"), "QoS 0 needs none");
    stage.hears(&pubrec(1));
    assert_eq!(stage.sent(), pubrel(1));
    let bytes = stage.publish(0x32, Some(9), b"x");
    assert_eq!(stage.hears(&bytes), [b"x"]);
    assert_eq!(stage.sent(), puback(9));
    let options = SubscriptionOptions::new(Qos::AtMostOnce);
    let wanted = [Subscription { filter: "b", options }];
    stage.client.subscribe(&wanted, Properties::EMPTY, 0).expect("a request needs no quota");
    stage.client.unsubscribe(&["b"], Properties::EMPTY, 0).expect("a request needs no quota");
    let bytes = stage.sent();
    assert_eq!((bytes[0], bytes[bytes.len() - 8]), (0x82, 0xA2));
}

// The Client as a receiver.

/// [MQTT-3.3.4-1] [MQTT-4.5.0-2] [MQTT-4.3.2-4] [MQTT-4.3.2-2 v3.1.1]
#[test]
fn a_qos_1_message_is_answered_by_puback_with_its_identifier() {
    everywhere(|mut stage| {
        let bytes = [stage.publish(0x30, None, b"0"), stage.publish(0x32, Some(7), b"1")].concat();
        assert_eq!(stage.hears(&bytes), [b"0", b"1"]);
        assert_eq!(stage.sent(), puback(7), "and QoS 0 by nothing");
    });
}

/// [MQTT-3.3.4-1] [MQTT-4.5.0-2] [MQTT-4.3.3-8]
#[test]
fn a_qos_2_message_is_answered_by_pubrec_with_its_identifier() {
    everywhere(|mut stage| {
        let bytes = stage.publish(0x34, Some(7), b"x");
        assert_eq!(stage.hears(&bytes), [b"x"]);
        assert_eq!(stage.sent(), pubrec(7));
    });
}

/// [MQTT-4.3.2-5]
#[test]
fn after_puback_the_same_identifier_is_a_new_message() {
    everywhere(|mut stage| {
        for first in [0x32, 0x3A] {
            let bytes = stage.publish(first, Some(7), b"x");
            assert_eq!(stage.hears(&bytes), [b"x"]);
            assert_eq!(stage.sent(), puback(7));
        }
    });
}

/// [MQTT-4.3.3-10] [MQTT-4.3.3-2 v3.1.1]: on this connection and on the next.
#[test]
fn before_pubrel_the_same_identifier_is_the_same_message() {
    everywhere(|mut stage| {
        let (first, again) = (stage.publish(0x34, Some(7), b"x"), stage.publish(0x3C, Some(7), b"x"));
        assert_eq!(stage.hears(&first), [b"x"]);
        assert_eq!(stage.hears(&again), [b""; 0]);
        assert_eq!(stage.sent(), [pubrec(7), pubrec(7)].concat());
        stage.reconnects();
        assert_eq!(stage.hears(&again), [b""; 0]);
        assert_eq!(stage.sent(), pubrec(7));
    });
}

/// [MQTT-4.3.3-11] [MQTT-4.3.3-2 v3.1.1]: whether it releases anything or not.
#[test]
fn pubrel_is_answered_by_pubcomp_with_its_identifier() {
    everywhere(|mut stage| {
        let bytes = stage.publish(0x34, Some(7), b"x");
        stage.hears(&bytes);
        stage.sent();
        stage.hears(&pubrel(7));
        assert_eq!(stage.sent(), pubcomp(7));
        stage.hears(&pubrel(9));
        let told: &[u8] =
            if stage.version == Version::V5 { &[0x70, 3, 0, 9, 0x92] } else { &[0x70, 2, 0, 9] };
        assert_eq!(stage.sent(), told);
    });
}

/// [MQTT-4.3.3-12]
#[test]
fn after_pubcomp_the_same_identifier_is_a_new_message() {
    everywhere(|mut stage| {
        let bytes = stage.publish(0x34, Some(7), b"x");
        for _ in 0..2 {
            assert_eq!(stage.hears(&bytes), [b"x"]);
            stage.hears(&pubrel(7));
        }
    });
}

/// [MQTT-4.3.3-9]: the application refused it.
#[test]
fn after_a_pubrec_with_an_error_the_same_identifier_is_a_new_message() {
    let mut stage = Stage::unconnected(Version::V5);
    stage.manual = true;
    stage.connects(false);
    let bytes = stage.publish(0x34, Some(7), b"x");
    let id = PacketId::new(7).expect("not 0");
    for _ in 0..2 {
        assert_eq!(stage.hears(&bytes), [b"x"]);
        stage.client.acknowledge(id, ReasonCode::QUOTA_EXCEEDED, 0).expect("it waits");
        assert_eq!(stage.sent(), [0x50, 3, 0, 7, 0x97]);
    }
}

/// Messages 1, 2 and 3 of this QoS come, and the application acknowledges the last one first: what is sent then.
fn acknowledged_backwards(version: Version, first: u8) -> Vec<u8> {
    let mut stage = Stage::unconnected(version);
    stage.manual = true;
    stage.connects(false);
    let bytes = [1, 2, 3].map(|id| stage.publish(first, Some(id), b"x")).concat();
    stage.hears(&bytes);
    for id in [3, 2, 1] {
        assert_eq!(stage.sent(), b"", "not before the first");
        let id = PacketId::new(id).expect("not 0");
        stage.client.acknowledge(id, ReasonCode::SUCCESS, 0).expect("it waits");
    }
    stage.sent()
}

/// [MQTT-4.6.0-2]
#[test]
fn pubacks_leave_in_the_order_of_their_publishes() {
    for version in VERSIONS {
        assert_eq!(acknowledged_backwards(version, 0x32), [puback(1), puback(2), puback(3)].concat());
    }
}

/// [MQTT-4.6.0-3]
#[test]
fn pubrecs_leave_in_the_order_of_their_publishes() {
    for version in VERSIONS {
        assert_eq!(acknowledged_backwards(version, 0x34), [pubrec(1), pubrec(2), pubrec(3)].concat());
    }
}

/// [MQTT-3.3.4-9]: a Server's rule; one that breaks it is left.
#[test]
fn a_server_that_sends_more_than_the_receive_maximum_is_left() {
    let mut stage = Stage::unconnected(Version::V5);
    stage.manual = true;
    stage.connect = vec![Property::ReceiveMaximum(2)];
    stage.connects(false);
    let bytes = [1, 2].map(|id| stage.publish(0x32, Some(id), b"x")).concat();
    stage.hears(&bytes);
    let third = stage.publish(0x34, Some(3), b"x");
    let error = stage.client.poll_event(&mut &third[..], 0);
    assert_eq!(error, Err(ProtocolError::ReceiveMaximumExceeded { limit: 2 }));
    assert_eq!(stage.sent(), [0xE0, 1, 0x93]);
}

// Topic Aliases and Subscription Identifiers.

/// Topic and Topic Alias of each PUBLISH in `bytes`.
fn topics(mut bytes: &[u8]) -> Vec<(Option<String>, Option<u16>)> {
    let mut topics = Vec::new();
    while !bytes.is_empty() {
        let (frame, rest) = bytes.split_at(2 + usize::from(bytes[1]));
        bytes = rest;
        let Ok(Packet::Publish(Publish { topic, properties, .. })) = decode(Version::V5, frame) else {
            panic!("{frame:x?}")
        };
        topics.push((topic.map(|topic| topic.to_string()), properties.topic_alias()));
    }
    topics
}

fn publish_to(stage: &mut Stage, topic: &str) {
    let message = Message::new(TopicName::new(topic).expect("a topic"), Qos::AtMostOnce, b"x");
    stage.client.publish(message, 0).expect("connected");
}

/// [MQTT-3.3.2-9]
#[test]
fn no_topic_alias_above_the_servers_maximum_is_sent() {
    for maximum in [0, 1, 2] {
        let mut stage = Stage::unconnected(Version::V5);
        stage.connack = vec![0x22, 0, maximum];
        stage.connects(false);
        for n in 0..4 {
            publish_to(&mut stage, &format!("topic/{n}"));
        }
        let sent = topics(&stage.sent());
        assert_eq!(sent.len(), 4);
        assert!(sent.iter().all(|(_, alias)| alias.is_none_or(|alias| alias <= u16::from(maximum))));
        assert_eq!(sent.iter().any(|(_, alias)| alias.is_some()), maximum > 0);
    }
}

/// [MQTT-3.3.2-10]
#[test]
fn every_topic_alias_up_to_the_clients_maximum_is_accepted() {
    let mut stage = Stage::unconnected(Version::V5);
    stage.connect = vec![Property::TopicAliasMaximum(3)];
    stage.connects(false);
    for alias in 1..=3 {
        assert_eq!(stage.hears(&[0x30, 8, 0, 1, b'a', 3, 0x23, 0, alias, b'x']), [b"x"]);
    }
    for alias in 1..=3 {
        let mut input = &[0x30, 7, 0, 0, 3, 0x23, 0, alias, b'x'][..];
        let event = stage.client.poll_event(&mut input, 0);
        let Ok(Some(Event::Message(publish))) = event else { panic!("{event:?}") };
        assert_eq!(publish.topic.map(TopicName::as_str), Some("a"));
    }
}

/// [MQTT-3.3.2-7]: neither those that the Client uses nor those of the Server.
#[test]
fn topic_aliases_end_with_their_connection() {
    let mut stage = Stage::unconnected(Version::V5);
    stage.connect = vec![Property::TopicAliasMaximum(3)];
    stage.connack = vec![0x22, 0, 5];
    for session_present in [false, true] {
        stage.connects(session_present);
        publish_to(&mut stage, "topic");
        publish_to(&mut stage, "topic");
        assert_eq!(topics(&stage.sent()), [(Some("topic".to_owned()), Some(1)), (None, Some(1))]);
    }
    stage.hears(&[0x30, 7, 0, 1, b'a', 3, 0x23, 0, 2]);
    stage.reconnects();
    let unknown = stage.client.poll_event(&mut &[0x30, 6, 0, 0, 3, 0x23, 0, 2][..], 0);
    assert_eq!(unknown, Err(ProtocolError::TopicAliasUnknown(2)));
}

/// [MQTT-3.3.4-6]: a message that was received with one is not published with it.
#[test]
fn a_message_with_a_subscription_identifier_is_not_sent() {
    let mut stage = Stage::new(Version::V5);
    let list = [Property::SubscriptionIdentifier(1)];
    for qos in [Qos::AtMostOnce, Qos::AtLeastOnce] {
        let message =
            message(qos, b"x").with_properties(Properties::new(&list)).expect("a Server may send it");
        let unsent = stage.client.publish(message, 0).expect_err("a Client may not");
        let error = EncodeError::PropertyNotAllowed(PropertyId::SubscriptionIdentifier);
        assert_eq!(unsent.reason, RequestError::Encode(error));
    }
    assert_eq!(stage.sent(), b"");
}
