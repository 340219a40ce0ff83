//! A [`Client`] and what a Server may say to it, byte by byte: what is sent again and how, what is acknowledged when,
//! which answers fit.

use mqtt_proto::connection::{Client, ConnectOptions, Event, Message, Outgoing, ProtocolError, RequestError};
use mqtt_proto::session::{Phase, Session};
use mqtt_proto::{
    Connect, Packet, PacketId, PacketType, Properties, Publish, Qos, ReasonCode, Subscription,
    SubscriptionOptions, TopicName, Version, decode,
};

fn id(value: u16) -> PacketId {
    PacketId::new(value).expect("not 0")
}

fn options(version: Version, manual_acknowledgement: bool) -> ConnectOptions<'static> {
    let connect = Connect { clean_start: false, ..Connect::new(version, "c") };
    ConnectOptions { manual_acknowledgement, ..ConnectOptions::new(connect) }
}

/// Connects `client`; the Server has its session if `present`.
fn open<M: Outgoing>(client: &mut Client<M>, version: Version, manual: bool, present: bool) {
    client.connection_lost();
    client.connect(&options(version, manual), 0).expect("closed");
    let connack = [0x20, if version == Version::V5 { 3 } else { 2 }, present.into(), 0, 0];
    let connack = &connack[..2 + usize::from(connack[1])];
    assert!(matches!(client.poll_event(&mut &*connack, 0), Ok(Some(Event::Connected { .. }))));
    // CONNECT; what is behind it was sent again.
    client.poll_transmit(&mut Vec::new());
}

fn sent<M: Outgoing>(client: &mut Client<M>) -> Vec<u8> {
    let mut wire = Vec::new();
    client.poll_transmit(&mut wire);
    wire
}

fn connected(version: Version, manual: bool) -> Client<Message> {
    let mut client = Client::default();
    open(&mut client, version, manual, false);
    client
}

/// A message whose maker cares for nothing that the Client has to set itself.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Careless(Qos);

impl Outgoing for Careless {
    fn as_publish(&self) -> Publish<'_> {
        Publish {
            dup: true,
            qos: self.0,
            retain: false,
            topic: TopicName::new("a").ok(),
            packet_id: Some(id(77)),
            properties: Properties::EMPTY,
            payload: b"",
        }
    }
}

#[test]
fn dup_and_packet_identifier_are_the_clients_own() {
    for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
        let mut client = Client::new(Session::new());
        open(&mut client, version, false, false);
        for (qos, expected) in
            [(Qos::AtMostOnce, None), (Qos::AtLeastOnce, Some(id(1))), (Qos::ExactlyOnce, Some(id(2)))]
        {
            assert_eq!(client.publish(Careless(qos), 0), Ok(expected));
            let wire = sent(&mut client);
            let Ok(Packet::Publish(publish)) = decode(version, &wire) else { panic!("no PUBLISH: {wire:?}") };
            assert_eq!((publish.dup, publish.qos, publish.packet_id), (false, qos, expected));
        }
    }
}

/// [MQTT-3.3.1-1] [MQTT-4.4.0-1] [MQTT-4.6.0-1]
#[test]
fn what_is_sent_again_has_dup_and_comes_in_order() {
    for version in [Version::V3_1_1, Version::V5] {
        let mut client = Client::new(Session::new());
        open(&mut client, version, false, false);
        for qos in [Qos::ExactlyOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
            client.publish(Careless(qos), 0).expect("connected");
        }
        // PUBREC for the first.
        let received = client.poll_event(&mut &[0x50, 2, 0, 1][..], 0);
        assert_eq!(
            received,
            Ok(Some(Event::Received { packet_id: id(1), message: Some(Careless(Qos::ExactlyOnce)) }))
        );
        client.connection_lost();
        client.connect(&options(version, false), 0).expect("closed");
        client.poll_transmit(&mut Vec::new());
        let connack: &[u8] = if version == Version::V5 { &[0x20, 3, 1, 0, 0] } else { &[0x20, 2, 1, 0] };
        assert!(matches!(client.poll_event(&mut &*connack, 0), Ok(Some(Event::Connected { .. }))));
        let plain: &[u8] = if version == Version::V5 { &[0] } else { &[] };
        let len = 5 + plain.len() as u8;
        let mut expected = vec![0x62, 2, 0, 1];
        expected.extend([&[0x3A, len, 0, 1, b'a', 0, 2], plain].concat());
        expected.extend([&[0x3C, len, 0, 1, b'a', 0, 3], plain].concat());
        assert_eq!(sent(&mut client), expected);
    }
}

/// A session that was read back knows how far each delivery got and at which QoS.
#[test]
fn a_restored_session_is_sent_by_what_it_says() {
    let mut session = Session::new();
    assert!(session.outbound.restore(id(5), Phase::AwaitPubRec, Some(Careless(Qos::AtLeastOnce)), false));
    assert!(session.outbound.restore(id(6), Phase::AwaitPubComp, None, true));
    let mut client = Client::new(session);
    client.connect(&options(Version::V3_1_1, false), 0).expect("closed");
    client.poll_transmit(&mut Vec::new());
    assert!(client.poll_event(&mut &[0x20, 2, 1, 0][..], 0).is_ok());
    assert_eq!(sent(&mut client), [0x34, 5, 0, 1, b'a', 0, 5, 0x62, 2, 0, 6]);
}

/// QoS 2, "a", this identifier and DUP flag.
const fn exactly_once(packet_id: u8, dup: bool) -> [u8; 7] {
    [if dup { 0x3C } else { 0x34 }, 5, 0, 1, b'a', 0, packet_id]
}

/// The first one again.
const AGAIN: [u8; 7] = exactly_once(1, true);

#[test]
fn a_duplicate_is_acknowledged_in_its_turn_although_another_message_waits() {
    let mut client = connected(Version::V3_1, true);
    let event = |client: &mut Client<Message>, bytes: &[u8]| {
        matches!(client.poll_event(&mut &*bytes, 0), Ok(Some(Event::Message(_))))
    };
    assert!(event(&mut client, &exactly_once(1, false)));
    client.acknowledge(id(1), ReasonCode::SUCCESS, 0).expect("waits");
    assert_eq!(sent(&mut client), [0x50, 2, 0, 1]);
    assert!(event(&mut client, &exactly_once(2, false)));
    // The Server has not seen the PUBREC; 3.1 lets it try again at any time.
    let duplicate = client.poll_event(&mut &AGAIN[..], 0);
    assert_eq!(duplicate, Ok(Some(Event::Duplicate(id(1)))));
    assert!(sent(&mut client).is_empty(), "the second message comes first");
    client.acknowledge(id(2), ReasonCode::SUCCESS, 0).expect("waits");
    assert_eq!(sent(&mut client), [0x50, 2, 0, 2, 0x50, 2, 0, 1]);
}

#[test]
fn a_message_that_waits_for_the_application_is_acknowledged_once() {
    let mut client = connected(Version::V3_1, true);
    assert!(matches!(client.poll_event(&mut &exactly_once(1, false)[..], 0), Ok(Some(Event::Message(_)))));
    let duplicate = client.poll_event(&mut &AGAIN[..], 0);
    assert_eq!(duplicate, Ok(Some(Event::Duplicate(id(1)))));
    assert!(sent(&mut client).is_empty());
    client.acknowledge(id(1), ReasonCode::SUCCESS, 0).expect("waits");
    assert_eq!(sent(&mut client), [0x50, 2, 0, 1]);
}

/// A QoS 1 message has nothing to do with a QoS 2 message of the same identifier.
#[test]
fn a_message_of_the_other_qos_is_not_its_duplicate() {
    let mut client = connected(Version::V3_1, true);
    assert!(matches!(client.poll_event(&mut &exactly_once(1, false)[..], 0), Ok(Some(Event::Message(_)))));
    client.acknowledge(id(1), ReasonCode::SUCCESS, 0).expect("waits");
    assert_eq!(sent(&mut client), [0x50, 2, 0, 1]);
    let at_least_once = [0x32, 5, 0, 1, b'a', 0, 1];
    assert!(matches!(client.poll_event(&mut &at_least_once[..], 0), Ok(Some(Event::Message(_)))));
    let duplicate = client.poll_event(&mut &AGAIN[..], 0);
    assert_eq!(duplicate, Ok(Some(Event::Duplicate(id(1)))));
    client.acknowledge(id(1), ReasonCode::SUCCESS, 0).expect("waits");
    assert_eq!(sent(&mut client), [0x40, 2, 0, 1, 0x50, 2, 0, 1]);
}

#[test]
fn a_released_message_is_completed_and_an_unknown_one_too() {
    let mut client = connected(Version::V5, false);
    let publish = [0x34, 6, 0, 1, b'a', 0, 1, 0];
    assert!(matches!(client.poll_event(&mut &publish[..], 0), Ok(Some(Event::Message(_)))));
    assert_eq!(sent(&mut client), [0x50, 2, 0, 1]);
    for (event, answer) in [
        (Event::Released(id(1)), &[0x70, 2, 0, 1][..]),
        (Event::Stray(PacketType::PubRel, id(1)), &[0x70, 3, 0, 1, 0x92]),
    ] {
        assert_eq!(client.poll_event(&mut &[0x62, 2, 0, 1][..], 0), Ok(Some(event)));
        assert_eq!(sent(&mut client), answer);
    }
}

#[test]
fn acknowledgements_of_nothing_are_strays() {
    let mut client = connected(Version::V5, false);
    for (packet, packet_type, answer) in [
        ([0x40, 2, 0, 9], PacketType::PubAck, &[][..]),
        ([0x50, 2, 0, 9], PacketType::PubRec, &[0x62, 3, 0, 9, 0x92]),
        ([0x70, 2, 0, 9], PacketType::PubComp, &[]),
    ] {
        let stray = client.poll_event(&mut &packet[..], 0);
        assert_eq!(stray, Ok(Some(Event::Stray(packet_type, id(9)))));
        assert_eq!(sent(&mut client), answer);
    }
}

#[test]
fn a_refused_message_is_handed_back_and_frees_its_identifier() {
    let mut client = connected(Version::V5, false);
    let topic = TopicName::new("a").expect("a topic");
    for (qos, packet_type) in [(Qos::AtLeastOnce, 0x40), (Qos::ExactlyOnce, 0x50)] {
        let message = Message::new(topic, qos, b"x");
        let packet_id = client.publish(message.clone(), 0).expect("connected").expect("above QoS 0");
        sent(&mut client);
        let refused = [packet_type, 3, 0, packet_id.get() as u8, 0x97];
        let reason = ReasonCode::QUOTA_EXCEEDED;
        let event = client.poll_event(&mut &refused[..], 0);
        assert_eq!(event, Ok(Some(Event::Acknowledged { packet_id, reason, message })));
        assert!(sent(&mut client).is_empty(), "a refused message is not released");
        assert!(client.session().is_idle());
    }
}

/// [MQTT-3.8.4-6] [MQTT-3.11.3-1]
#[test]
fn an_answer_fits_its_request() {
    let options = SubscriptionOptions::new(Qos::AtMostOnce);
    let wanted = [Subscription { filter: "a", options }, Subscription { filter: "b", options }];
    let mismatch = |packet_type| Err(ProtocolError::AnswerMismatch(packet_type));
    let subscribed = |version| {
        let mut client = connected(version, false);
        assert_eq!(client.subscribe(&wanted, Properties::EMPTY, 0), Ok(id(1)));
        assert_eq!(client.unsubscribe(&["a", "b"], Properties::EMPTY, 0), Ok(id(2)));
        client
    };
    // One Reason Code for each filter, under the identifier of a request of this kind.
    for (version, wrong, packet_type) in [
        (Version::V3_1_1, &[0x90, 3, 0, 1, 0][..], PacketType::SubAck),
        (Version::V3_1_1, &[0x90, 5, 0, 1, 0, 0, 0], PacketType::SubAck),
        (Version::V3_1_1, &[0x90, 4, 0, 2, 0, 0], PacketType::SubAck),
        (Version::V3_1_1, &[0xB0, 2, 0, 1], PacketType::UnsubAck),
        (Version::V5, &[0x90, 4, 0, 1, 0, 0], PacketType::SubAck),
        (Version::V5, &[0xB0, 4, 0, 2, 0, 0], PacketType::UnsubAck),
        (Version::V5, &[0xB0, 6, 0, 2, 0, 0, 0, 0], PacketType::UnsubAck),
    ] {
        let mut client = subscribed(version);
        assert_eq!(client.poll_event(&mut &*wrong, 0), mismatch(packet_type), "{wrong:02X?}");
        assert!(client.is_closed());
    }
    for (version, suback, unsuback) in [
        (Version::V3_1_1, &[0x90, 4, 0, 1, 0, 0x80][..], &[0xB0, 2, 0, 2][..]),
        (Version::V5, &[0x90, 5, 0, 1, 0, 0, 0x80], &[0xB0, 5, 0, 2, 0, 0, 0x11]),
    ] {
        let mut client = subscribed(version);
        assert!(matches!(client.poll_event(&mut &*unsuback, 0), Ok(Some(Event::Unsubscribed(_)))));
        assert!(matches!(client.poll_event(&mut &*suback, 0), Ok(Some(Event::Subscribed(_)))));
        assert_eq!(client.poll_event(&mut &*suback, 0), mismatch(PacketType::SubAck), "answered already");
    }
}

/// [MQTT-3.2.2-4]
#[test]
fn a_foreign_session_stays_foreign_until_the_client_begins_anew() {
    let mut client: Client<Message> = Client::default();
    let mut connect = |clean_start, present: bool| {
        client.connection_lost();
        let mut options = options(Version::V3_1_1, false);
        options.connect.clean_start = clean_start;
        client.connect(&options, 0).expect("closed");
        client.poll_event(&mut &[0x20, 2, present.into(), 0][..], 0).map(|event| event.is_some())
    };
    for _ in 0..2 {
        assert_eq!(connect(false, true), Err(ProtocolError::UnexpectedSession));
    }
    assert_eq!(connect(true, false), Ok(true));
    assert_eq!(connect(false, true), Ok(true), "that session is the Client's own");
}

/// [MQTT-3.2.2-4]
#[test]
fn a_refused_client_has_the_session_it_had_before() {
    let mut client: Client<Message> = Client::default();
    let mut connect = |present: bool, code| {
        client.connection_lost();
        client.connect(&options(Version::V3_1_1, false), 0).expect("closed");
        client.poll_event(&mut &[0x20, 2, present.into(), code][..], 0).map(|event| event.is_some())
    };
    assert_eq!(connect(false, 3), Ok(true));
    assert_eq!(connect(true, 0), Err(ProtocolError::UnexpectedSession), "no session was made for it");
    assert_eq!(connect(false, 0), Ok(true));
    assert_eq!(connect(false, 3), Ok(true));
    assert_eq!(connect(true, 0), Ok(true), "that session is still there");
}

#[test]
fn a_client_that_was_left_is_not_connected() {
    // DISCONNECT of the Server, and a packet that it must not send.
    for said in [&[0xE0, 0][..], &[0xC0, 0]] {
        let mut client = connected(Version::V5, false);
        assert!(client.is_connected() && client.peer().is_some() && !client.is_closed());
        let closing = client.poll_event(&mut &*said, 0).is_ok_and(|event| event.is_some());
        assert_eq!(closing, said[0] == 0xE0);
        assert!(!client.is_connected() && client.peer().is_none() && client.is_closed());
        let message = Message::new(TopicName::new("a").expect("a topic"), Qos::AtMostOnce, b"");
        assert_eq!(
            client.publish(message, 0).map_err(|unsent| unsent.reason),
            Err(RequestError::NotConnected)
        );
        assert_eq!(client.poll_timeout(), None);
    }
}

/// Whatever QoS the message has, and without a look at it.
#[test]
fn properties_fit_messages_of_any_qos() {
    let list = [mqtt_proto::Property::ContentType("text")];
    for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
        let message = Message::new(TopicName::new("a").expect("a topic"), qos, b"x");
        let message = message.with_properties(Properties::new(&list)).expect("a PUBLISH may carry it");
        assert_eq!(message.as_publish().qos, qos);
        assert_eq!(message.as_publish().properties.content_type(), Some("text"));
    }
}
