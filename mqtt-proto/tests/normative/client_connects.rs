//! What a Client does about CONNECT and CONNACK: sections 3.1 and 3.2 of both standards, and its Packet Identifiers.

use mqtt_proto::connection::{ConnectOptions, Event, Message, ProtocolError, RequestError};
use mqtt_proto::packet::{Disconnect, Subscription};
use mqtt_proto::{
    Client, Connect, Packet, PacketId, PacketType, Properties, Property, Qos, ReasonCode, Session, TopicName,
    Version, decode,
};

use crate::VERSIONS;

fn connect(version: Version, clean_start: bool) -> Connect<'static> {
    Connect { clean_start, keep_alive: 10, ..Connect::new(version, "c") }
}

/// A CONNACK that accepts, with these properties in 5.0.
fn connack(version: Version, session_present: bool, properties: &[u8]) -> Vec<u8> {
    let present = u8::from(session_present);
    if version != Version::V5 {
        return vec![0x20, 2, present, 0];
    }
    let len = properties.len() as u8;
    [&[0x20, len + 3, present, 0, len], properties].concat()
}

/// Connects at 0 and takes the CONNECT out; the CONNACK is still to come.
fn open(client: &mut Client<Message>, connect: Connect<'_>) {
    client.connect(&ConnectOptions::new(connect), 0).expect("closed");
    assert!(client.poll_transmit(&mut Vec::new()));
}

#[track_caller]
fn accepted(client: &mut Client<Message>, connack: &[u8]) -> Vec<Message> {
    let discarded = match client.poll_event(&mut &connack[..], 0) {
        Ok(Some(Event::Connected { discarded, .. })) => discarded,
        other => panic!("{other:?}"),
    };
    assert_eq!(client.poll_event(&mut &[][..], 0), Ok(None));
    discarded
}

/// A Client that was accepted with these properties of CONNACK.
fn connected(version: Version, properties: &[u8]) -> Client<Message> {
    let mut client = Client::default();
    open(&mut client, connect(version, true));
    accepted(&mut client, &connack(version, false, properties));
    client
}

fn message(qos: Qos) -> Message {
    Message::new(TopicName::new("topic").expect("a topic"), qos, b"payload")
}

/// What the Client sends now.
fn sent(client: &mut Client<Message>) -> Vec<u8> {
    let mut wire = Vec::new();
    client.poll_transmit(&mut wire);
    wire
}

/// The only packet that the Client sends now has to be a PUBLISH: its identifier and DUP flag, and its Topic Alias.
#[track_caller]
fn published(version: Version, wire: &[u8]) -> (Option<PacketId>, bool, Option<u16>) {
    let Ok(Packet::Publish(publish)) = decode(version, wire) else { panic!("{wire:x?}") };
    (publish.packet_id, publish.dup, publish.properties.topic_alias())
}

/// [MQTT-3.1.0-1]
#[test]
fn the_first_packet_of_a_client_is_connect() {
    for version in VERSIONS {
        let mut client: Client<Message> = Client::default();
        assert_eq!(client.publish(message(Qos::AtMostOnce), 0).map_err(|unsent| unsent.reason), {
            Err(RequestError::NotConnected)
        });
        client.connect(&ConnectOptions::new(connect(version, true)), 0).expect("closed");
        let wire = sent(&mut client);
        assert!(matches!(decode(version, &wire), Ok(Packet::Connect(_))));
    }
}

/// [MQTT-3.1.0-2 v3.1.1]
#[test]
fn a_client_sends_connect_once() {
    for version in VERSIONS {
        let options = ConnectOptions::new(connect(version, true));
        let mut client: Client<Message> = Client::default();
        open(&mut client, connect(version, true));
        assert_eq!(client.connect(&options, 0), Err(RequestError::AlreadyConnected));
        accepted(&mut client, &connack(version, false, &[]));
        assert_eq!(client.connect(&options, 0), Err(RequestError::AlreadyConnected));
        assert_eq!(sent(&mut client), b"");
    }
}

/// [MQTT-3.1.2-30]: with an Authentication Method, and without.
#[test]
fn before_connack_a_client_sends_nothing_but_auth() {
    let method = [Property::AuthenticationMethod("m")];
    for properties in [Properties::new(&method), Properties::EMPTY] {
        let mut client: Client<Message> = Client::default();
        open(&mut client, Connect { properties, ..connect(Version::V5, true) });
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let unsent = client.publish(message(qos), 0).expect_err("no CONNACK");
            assert_eq!(unsent.reason, RequestError::NotConnected);
        }
        let filters = [Subscription { filter: "a", options: Default::default() }];
        let subscribed = client.subscribe(&filters, Properties::EMPTY, 0);
        assert_eq!(subscribed, Err(RequestError::NotConnected));
        let unsubscribed = client.unsubscribe(&["a"], Properties::EMPTY, 0);
        assert_eq!(unsubscribed, Err(RequestError::NotConnected));
        assert_eq!(sent(&mut client), b"");
    }
}

/// [MQTT-3.1.2-20] [MQTT-3.1.2-23 v3.1.1]
#[test]
fn a_client_that_sends_nothing_else_sends_pingreq() {
    for version in VERSIONS {
        let mut client = connected(version, &[]);
        assert_eq!(client.poll_timeout(), Some(10_000));
        client.publish(message(Qos::AtMostOnce), 4_000).expect("connected");
        sent(&mut client);
        assert_eq!(client.poll_timeout(), Some(14_000), "the PUBLISH counts");
        client.handle_timeout(14_000).expect("not late");
        assert_eq!(sent(&mut client), [0xC0, 0]);
    }
}

/// [MQTT-3.1.2-21] [MQTT-3.2.2-21]
#[test]
fn a_client_goes_by_the_server_keep_alive() {
    let client = connected(Version::V5, &[0x13, 0, 3]);
    assert_eq!(client.poll_timeout(), Some(3_000));
    assert_eq!(connected(Version::V5, &[0x13, 0, 0]).poll_timeout(), None, "0 turns it off");
}

/// [MQTT-3.1.2-4] [MQTT-3.1.2-6 v3.1.1]
#[test]
fn a_client_that_starts_clean_discards_its_session() {
    for version in VERSIONS {
        let mut client = connected(version, &[]);
        client.publish(message(Qos::AtLeastOnce), 0).expect("connected");
        client.connection_lost();
        open(&mut client, connect(version, true));
        let discarded = accepted(&mut client, &connack(version, false, &[]));
        assert_eq!(discarded, [message(Qos::AtLeastOnce)], "handed back to the application");
        assert_eq!(sent(&mut client), b"");
        assert!(client.session().is_idle());
    }
}

/// [MQTT-3.1.2-23] [MQTT-3.1.2-4 v3.1.1]
#[test]
fn a_client_keeps_its_session_between_connections() {
    for version in VERSIONS {
        let mut client = connected(version, &[]);
        client.publish(message(Qos::AtLeastOnce), 0).expect("connected");
        let (first, ..) = published(version, &sent(&mut client));
        client.connection_lost();
        assert!(!client.session().is_idle());
        open(&mut client, connect(version, false));
        assert_eq!(accepted(&mut client, &connack(version, version != Version::V3_1, &[])), []);
        assert_eq!(published(version, &sent(&mut client)), (first, true, None));
    }
}

/// [MQTT-2.3.1-3 v3.1.1]
#[test]
fn a_client_sends_a_message_again_under_its_packet_identifier() {
    for version in VERSIONS {
        let mut client = connected(version, &[]);
        for _ in 0..3 {
            client.publish(message(Qos::ExactlyOnce), 0).expect("connected");
        }
        let mut wire = sent(&mut client);
        let frame = wire.len() / 3;
        let ids: Vec<_> = wire.chunks(frame).map(|frame| published(version, frame).0).collect();
        // The second is released: PUBREL is what is sent again.
        client.poll_event(&mut &[0x50, 2, 0, 2][..], 0).expect("a PUBREC");
        client.connection_lost();
        open(&mut client, connect(version, false));
        accepted(&mut client, &connack(version, version != Version::V3_1, &[]));
        wire = sent(&mut client);
        assert_eq!(published(version, &wire[..frame]).0, ids[0]);
        assert_eq!(wire[frame..frame + 4], [0x62, 2, 0, 2]);
        assert_eq!(published(version, &wire[frame + 4..]).0, ids[2]);
    }
}

/// [MQTT-2.2.1-3] [MQTT-2.3.1-2 v3.1.1]
#[test]
fn a_client_gives_every_request_an_unused_packet_identifier() {
    for version in VERSIONS {
        let mut client = connected(version, &[]);
        let filters = [Subscription { filter: "a", options: Default::default() }];
        let mut used = vec![
            client.publish(message(Qos::AtLeastOnce), 0).expect("connected").expect("QoS 1"),
            client.subscribe(&filters, Properties::EMPTY, 0).expect("connected"),
            client.publish(message(Qos::ExactlyOnce), 0).expect("connected").expect("QoS 2"),
            client.unsubscribe(&["a"], Properties::EMPTY, 0).expect("connected"),
        ];
        // All other identifiers are used up and given back once around.
        for _ in 0..65_535 {
            let id = client.publish(message(Qos::AtLeastOnce), 0).expect("connected").expect("QoS 1");
            assert!(!used.contains(&id), "{id} is in use");
            sent(&mut client);
            let [high, low] = id.get().to_be_bytes();
            client.poll_event(&mut &[0x40, 2, high, low][..], 0).expect("a PUBACK");
        }
        used.sort_unstable();
        used.dedup();
        assert_eq!(used.len(), 4);
    }
}

/// [MQTT-2.2.1-5] [MQTT-2.3.1-6 v3.1.1]
#[test]
fn a_client_acknowledges_under_the_packet_identifier_of_the_publish() {
    for version in VERSIONS {
        let mut client = connected(version, &[]);
        let publish = |first, id: u8| match version {
            Version::V5 => vec![first, 6, 0, 1, b'a', id, 7, 0],
            _ => vec![first, 5, 0, 1, b'a', id, 7],
        };
        for (packet, answer) in [
            (publish(0x32, 3), [0x40, 2, 3, 7]),
            (publish(0x34, 9), [0x50, 2, 9, 7]),
            (vec![0x62, 2, 9, 7], [0x70, 2, 9, 7]),
        ] {
            client.poll_event(&mut &packet[..], 0).expect("a good server");
            assert_eq!(sent(&mut client), answer);
        }
    }
}

/// [MQTT-2.2.1-6] [MQTT-2.3.1-7 v3.1.1]
#[test]
fn an_answer_under_another_packet_identifier_is_an_error() {
    let filters = [Subscription { filter: "a", options: Default::default() }];
    for version in VERSIONS {
        let answered = |difference: u8| {
            let mut client = connected(version, &[]);
            let id = client.subscribe(&filters, Properties::EMPTY, 0).expect("connected").get() as u8;
            let suback = match version {
                Version::V5 => vec![0x90, 4, 0, id + difference, 0, 0],
                _ => vec![0x90, 3, 0, id + difference, 0],
            };
            client.poll_event(&mut &suback[..], 0).map(|event| matches!(event, Some(Event::Subscribed(_))))
        };
        assert_eq!(answered(0), Ok(true));
        assert_eq!(answered(1), Err(ProtocolError::AnswerMismatch(PacketType::SubAck)));
    }
}

/// [MQTT-3.2.2-4]
#[test]
fn a_client_without_a_session_closes_when_one_is_present() {
    for version in [Version::V3_1_1, Version::V5] {
        for clean_start in [false, true] {
            let mut client: Client<Message> = Client::default();
            open(&mut client, connect(version, clean_start));
            let error = client.poll_event(&mut &connack(version, true, &[])[..], 0).expect_err("not ours");
            assert_eq!(error, ProtocolError::UnexpectedSession);
            assert!(client.is_closed());
        }
        // Trying again does not help, Clean Start does.
        let mut client: Client<Message> = Client::default();
        for _ in 0..2 {
            open(&mut client, connect(version, false));
            let error = client.poll_event(&mut &connack(version, true, &[])[..], 0).expect_err("not ours");
            assert_eq!(error, ProtocolError::UnexpectedSession);
            client.connection_lost();
        }
        open(&mut client, connect(version, true));
        accepted(&mut client, &connack(version, false, &[]));
        // A session that was given, or that a connection has made, may be present though nothing is under way in it.
        let mut client: Client<Message> = Client::new(Session::new());
        open(&mut client, connect(version, false));
        accepted(&mut client, &connack(version, true, &[]));
        let mut client: Client<Message> = Client::default();
        for present in [false, true] {
            open(&mut client, connect(version, false));
            accepted(&mut client, &connack(version, present, &[]));
            client.connection_lost();
        }
        // So may one whose CONNACK was lost.
        let mut client: Client<Message> = Client::default();
        open(&mut client, connect(version, false));
        client.connection_lost();
        open(&mut client, connect(version, false));
        accepted(&mut client, &connack(version, true, &[]));
    }
}

/// [MQTT-3.2.2-5]
#[test]
fn a_client_whose_session_the_server_has_lost_discards_it() {
    for version in [Version::V3_1_1, Version::V5] {
        let mut client = connected(version, &[]);
        client.publish(message(Qos::ExactlyOnce), 0).expect("connected");
        client.connection_lost();
        open(&mut client, connect(version, false));
        let discarded = accepted(&mut client, &connack(version, false, &[]));
        assert_eq!(discarded, [message(Qos::ExactlyOnce)]);
        assert_eq!(sent(&mut client), b"");
    }
}

/// [MQTT-3.2.2-11]
#[test]
fn a_client_keeps_to_the_maximum_qos() {
    for (maximum, allowed) in [(0, 1), (1, 2)] {
        let mut client = connected(Version::V5, &[0x24, maximum]);
        for (number, qos) in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce].into_iter().enumerate() {
            let reason = client.publish(message(qos), 0).map_err(|unsent| unsent.reason).err();
            assert_eq!(reason, (number >= allowed).then_some(RequestError::QosNotSupported));
        }
    }
}

/// [MQTT-3.2.2-14]
#[test]
fn a_client_retains_nothing_where_that_is_not_available() {
    for available in [0, 1] {
        let mut client = connected(Version::V5, &[0x25, available]);
        let retained = client.publish(message(Qos::AtMostOnce).retained(), 0).map_err(|unsent| unsent.reason);
        assert_eq!(retained.err(), (available == 0).then_some(RequestError::RetainNotSupported));
        assert!(client.publish(message(Qos::AtMostOnce), 0).is_ok());
    }
}

/// [MQTT-3.2.2-15]
#[test]
fn a_client_sends_nothing_above_the_maximum_packet_size() {
    // 2 + 7 bytes of Fixed Header and topic, 2 of Packet Identifier, 1 of Property Length, 7 of payload.
    for (maximum, fits) in [(18, false), (19, true)] {
        let mut client = connected(Version::V5, &[0x27, 0, 0, 0, maximum]);
        assert_eq!(client.publish(message(Qos::AtLeastOnce), 0).is_ok(), fits);
        assert_eq!(sent(&mut client).len(), if fits { 19 } else { 0 });
        let filter = "f".repeat(12 + usize::from(fits));
        let filters = [Subscription { filter: &filter, options: Default::default() }];
        // 2 + 2 + 1 + 2 + 1 bytes and the filter.
        assert_eq!(
            client.subscribe(&filters, Properties::EMPTY, 0).is_ok(),
            filter.len() + 8 <= maximum.into()
        );
    }
}

/// [MQTT-3.2.2-17]
#[test]
fn a_client_uses_no_topic_alias_above_the_maximum() {
    let mut client = connected(Version::V5, &[0x22, 0, 2]);
    for number in 0..10 {
        let topic = format!("topic/{}", number % 5);
        let topic = TopicName::new(&topic).expect("a topic");
        client.publish(Message::new(topic, Qos::AtMostOnce, b""), 0).expect("connected");
        let (_, _, alias) = published(Version::V5, &sent(&mut client));
        assert!(alias.is_none_or(|alias| (1..=2).contains(&alias)), "{alias:?}");
    }
}

/// [MQTT-3.2.2-18]
#[test]
fn a_client_uses_no_topic_alias_unasked() {
    for properties in [&[][..], &[0x22, 0, 0]] {
        let mut client = connected(Version::V5, properties);
        for _ in 0..3 {
            client.publish(message(Qos::AtMostOnce), 0).expect("connected");
            assert_eq!(published(Version::V5, &sent(&mut client)).2, None);
        }
    }
}

/// [MQTT-3.2.0-1]
#[test]
fn a_client_takes_nothing_before_connack() {
    for version in VERSIONS {
        for early in [&[0xD0, 0][..], &[0x90, 3, 0, 1, 0], &[0x30, 4, 0, 1, b'a', 0], &[0xE0, 0]] {
            let mut client: Client<Message> = Client::default();
            open(&mut client, connect(version, true));
            let error = client.poll_event(&mut &early[..], 0).expect_err("no CONNACK");
            assert_eq!(error, ProtocolError::ConnAckExpected, "{early:x?}");
        }
    }
}

/// [MQTT-3.2.0-2]
#[test]
fn a_client_takes_one_connack() {
    for version in VERSIONS {
        let mut client = connected(version, &[]);
        let error = client.poll_event(&mut &connack(version, false, &[])[..], 0).expect_err("the second");
        assert_eq!(error, ProtocolError::UnexpectedPacket(PacketType::ConnAck));
    }
}

/// [MQTT-3.2.2-7] [MQTT-3.2.2-5 v3.1.1]
#[test]
fn a_client_that_is_refused_sends_no_more() {
    for version in VERSIONS {
        let mut client: Client<Message> = Client::default();
        open(&mut client, connect(version, true));
        let refusal = if version == Version::V5 { &[0x20, 3, 0, 0x87, 0][..] } else { &[0x20, 2, 0, 5] };
        let Ok(Some(Event::Refused(connack))) = client.poll_event(&mut &refusal[..], 0) else {
            panic!("no refusal")
        };
        assert_eq!(connack.reason, ReasonCode::NOT_AUTHORIZED);
        assert!(client.is_closed());
        let left = client.disconnect(&Disconnect::new(ReasonCode::SUCCESS), 0);
        assert_eq!(left, Err(RequestError::NotConnected));
    }
}
