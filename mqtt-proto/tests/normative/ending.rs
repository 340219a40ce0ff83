//! PINGREQ, DISCONNECT and AUTH as packets, and how a Client ends: sections 3.12 to 3.15, 4.12 and 4.13.

use mqtt_proto::connection::{ConnectOptions, Event, Message, RequestError};
use mqtt_proto::{
    Auth, Client, Connect, DecodeError, Disconnect, EncodeError, Packet, PacketType, Properties, Property,
    PropertyId, ProtocolError, Qos, ReasonCode, Subscription, SubscriptionOptions, TopicName, Version,
    decode,
};

use crate::{VERSIONS, encoded, gives_up_in_turn};

fn disconnect<'a>(reason: ReasonCode, properties: &'a [Property<'a>]) -> Packet<'a> {
    Packet::Disconnect(Disconnect { reason, properties: Properties::new(properties) })
}

fn auth<'a>(reason: ReasonCode, properties: &'a [Property<'a>]) -> Packet<'a> {
    Packet::Auth(Auth { reason, properties: Properties::new(properties) })
}

/// A Client whose CONNECT has these properties and was answered by `connack`.
fn client(version: Version, properties: &[Property<'_>], connack: &[u8]) -> Client<Message> {
    let mut client = Client::default();
    let connect =
        Connect { keep_alive: 10, properties: Properties::new(properties), ..Connect::new(version, "c") };
    client.connect(&ConnectOptions::new(connect), 0).expect("closed");
    client.poll_transmit(&mut Vec::new());
    client.poll_event(&mut &connack[..], 0).expect("a good server");
    client
}

fn connected(version: Version) -> Client<Message> {
    client(version, &[], if version == Version::V5 { &[0x20, 3, 0, 0, 0] } else { &[0x20, 2, 0, 0] })
}

/// What the Client has to send.
fn sent(client: &mut Client<Message>) -> Vec<u8> {
    let mut wire = Vec::new();
    client.poll_transmit(&mut wire);
    wire
}

/// [MQTT-3.14.1-1]
#[test]
fn disconnect_has_no_flags() {
    for version in VERSIONS {
        let good = encoded(version, &disconnect(ReasonCode::SUCCESS, &[])).expect("valid");
        assert_eq!(good, [0xE0, 0]);
        for flags in 1..16 {
            let packet_type = PacketType::Disconnect;
            let refused = Err(DecodeError::ReservedFlags { packet_type, flags });
            assert_eq!(decode(version, &[0xE0 | flags, 0]), refused);
        }
    }
}

/// [MQTT-3.14.2-1]
#[test]
fn disconnect_has_its_own_reason_codes_alone() {
    let own = |code| match code {
        0x00 | 0x04 | 0x80..=0x83 | 0x87 | 0x89 | 0x8B | 0x8D..=0x90 | 0x93..=0xA2 => true,
        // Listed for DISCONNECT by section 2.4 alone.
        0x8C => true,
        _ => false,
    };
    for code in 0..=255 {
        let written = encoded(Version::V5, &disconnect(ReasonCode(code), &[]));
        assert_eq!(written.is_ok(), own(code), "{code:#x}");
        assert_eq!(decode(Version::V5, &[0xE0, 1, code]).is_ok(), own(code), "{code:#x}");
    }
}

/// Section 3.14 of 3.1.1: DISCONNECT has nothing behind its Fixed Header.
#[test]
fn before_5_disconnect_is_two_bytes() {
    for version in [Version::V3_1, Version::V3_1_1] {
        assert_eq!(encoded(version, &disconnect(ReasonCode::UNSPECIFIED_ERROR, &[])), Ok(vec![0xE0, 0]));
        assert_eq!(decode(version, &[0xE0, 1, 0]), Err(DecodeError::TrailingBytes(1)));
    }
}

/// Section 3.14.2.1: left out, the Reason Code is 0x00 and there are no properties.
#[test]
fn what_disconnect_and_auth_leave_out_is_success() {
    let success = disconnect(ReasonCode::NORMAL_DISCONNECTION, &[]);
    for short in [&[0xE0, 0][..], &[0xE0, 1, 0], &[0xE0, 2, 0, 0]] {
        assert_eq!(decode(Version::V5, short), Ok(success));
    }
    assert_eq!(decode(Version::V5, &[0xF0, 0]), Ok(auth(ReasonCode::SUCCESS, &[])));
}

/// [MQTT-3.15.1-1]
#[test]
fn auth_has_no_flags_and_exists_in_5_alone() {
    let list = [Property::AuthenticationMethod("m")];
    let good = encoded(Version::V5, &auth(ReasonCode::CONTINUE_AUTHENTICATION, &list)).expect("valid");
    assert_eq!(good[0], 0xF0);
    for flags in 1..16 {
        let mut bad = good.clone();
        bad[0] = 0xF0 | flags;
        let packet_type = PacketType::Auth;
        assert_eq!(decode(Version::V5, &bad), Err(DecodeError::ReservedFlags { packet_type, flags }));
    }
    assert!(decode(Version::V5, &good).is_ok());
    for version in [Version::V3_1, Version::V3_1_1] {
        assert_eq!(decode(version, &[0xF0, 0]), Err(DecodeError::ForbiddenPacketType(15)));
    }
}

/// [MQTT-3.15.2-1]
#[test]
fn auth_has_its_own_reason_codes_alone() {
    let list = [Property::AuthenticationMethod("m")];
    for code in 0..=255 {
        let own = matches!(code, 0x00 | 0x18 | 0x19);
        assert_eq!(encoded(Version::V5, &auth(ReasonCode(code), &list)).is_ok(), own, "{code:#x}");
        let read = [0xF0, 6, code, 4, 0x15, 0, 1, b'm'];
        assert_eq!(decode(Version::V5, &read).is_ok(), own, "{code:#x}");
    }
}

/// Section 3.15.2.2.2: it is a Protocol Error to leave it out.
#[test]
fn auth_names_its_method() {
    let continues = ReasonCode::CONTINUE_AUTHENTICATION;
    let error = DecodeError::MissingAuthenticationMethod;
    assert_eq!(error.reason_code(), ReasonCode::PROTOCOL_ERROR);
    let missing = Err(error);
    assert_eq!(decode(Version::V5, &[0xF0, 2, 0x18, 0]), missing);
    assert_eq!(decode(Version::V5, &[0xF0, 6, 0x18, 4, 0x16, 0, 1, 9]), missing);
    let written = encoded(Version::V5, &auth(continues, &[Property::AuthenticationData(b"9")]));
    assert_eq!(written, Err(EncodeError::MissingAuthenticationMethod));
    let twice = [0xF0, 10, 0x18, 8, 0x15, 0, 1, b'm', 0x15, 0, 1, b'm'];
    let duplicate = DecodeError::DuplicateProperty(PropertyId::AuthenticationMethod);
    assert_eq!(decode(Version::V5, &twice), Err(duplicate));
}

/// [MQTT-3.14.2-3] [MQTT-3.14.2-4]
#[test]
fn disconnect_gives_up_its_reason_string_and_user_properties_before_it_is_too_large() {
    let list = [
        Property::ServerReference("elsewhere"),
        Property::ReasonString("why"),
        Property::UserProperty("k", "v"),
    ];
    gives_up_in_turn([1, 2, 3].map(|count| disconnect(ReasonCode::SERVER_MOVED, &list[..count])));
}

/// [MQTT-3.15.2-2] [MQTT-3.15.2-3]
#[test]
fn auth_gives_up_its_reason_string_and_user_properties_before_it_is_too_large() {
    let list = [
        Property::AuthenticationMethod("m"),
        Property::ReasonString("why"),
        Property::UserProperty("k", "v"),
    ];
    gives_up_in_turn([1, 2, 3].map(|count| auth(ReasonCode::RE_AUTHENTICATE, &list[..count])));
}

/// [MQTT-3.14.4-1] [MQTT-3.14.4-2 v3.1.1]
#[test]
fn a_client_sends_nothing_after_its_disconnect() {
    for version in VERSIONS {
        let mut client = connected(version);
        client.disconnect(&Disconnect::new(ReasonCode::SUCCESS), 0).expect("connected");
        assert_eq!(sent(&mut client), [0xE0, 0]);
        let topic = TopicName::new("a").expect("a topic");
        let unsent = client.publish(Message::new(topic, Qos::AtMostOnce, b""), 0).expect_err("disconnected");
        assert_eq!(unsent.reason, RequestError::NotConnected);
        let wanted = [Subscription { filter: "a", options: SubscriptionOptions::default() }];
        let refused = client.subscribe(&wanted, Properties::EMPTY, 0);
        assert_eq!(refused, Err(RequestError::NotConnected));
        // No answer and no ping either.
        assert_eq!(client.poll_event(&mut &[0x32, 5, 0, 1, b'a', 0, 1][..], 0), Ok(None));
        assert_eq!(client.poll_timeout(), None);
        assert_eq!(sent(&mut client), b"");
    }
}

/// [MQTT-3.14.4-2] [MQTT-3.14.4-1 v3.1.1]
#[test]
fn a_client_closes_after_its_disconnect() {
    for version in VERSIONS {
        let mut client = connected(version);
        assert!(!client.is_closed());
        client.disconnect(&Disconnect::new(ReasonCode::SUCCESS), 0).expect("connected");
        assert!(client.is_closed());
    }
}

/// [MQTT-4.13.2-1]
#[test]
fn a_client_closes_when_the_server_says_an_error() {
    let mut refused = client(Version::V5, &[], &[0x20, 3, 0, 0x87, 0]);
    assert!(refused.is_closed());
    assert_eq!(sent(&mut refused), b"");
    let mut told = connected(Version::V5);
    let event = told.poll_event(&mut &[0xE0, 1, 0x8B][..], 0);
    assert!(matches!(event, Ok(Some(Event::Disconnected(_)))));
    assert!(told.is_closed());
    assert_eq!(sent(&mut told), b"");
}

/// [MQTT-4.8.0-1 v3.1.1] [MQTT-4.13.1-1]
#[test]
fn a_client_closes_when_the_server_breaks_the_protocol() {
    for version in VERSIONS {
        let mut client = connected(version);
        // A SUBACK that nobody asked for.
        let suback: &[u8] = if version == Version::V5 { &[0x90, 4, 0, 1, 0, 0] } else { &[0x90, 3, 0, 1, 0] };
        let error = client.poll_event(&mut &suback[..], 0);
        assert_eq!(error, Err(ProtocolError::AnswerMismatch(PacketType::SubAck)));
        assert!(client.is_closed());
    }
}

/// [MQTT-4.12.0-7]
#[test]
fn a_client_without_a_method_sends_no_auth() {
    let list = [Property::AuthenticationMethod("m")];
    let again = Auth { reason: ReasonCode::RE_AUTHENTICATE, properties: Properties::new(&list) };
    for version in VERSIONS {
        let mut client = connected(version);
        assert_eq!(client.authenticate(&again, 0), Err(RequestError::NoAuthenticationMethod));
        assert_eq!(sent(&mut client), b"");
    }
}

/// [MQTT-4.12.0-5] [MQTT-4.12.1-1]
#[test]
fn a_client_keeps_to_the_method_of_its_connect() {
    let [of_connect, other] = ["m", "n"].map(|method| [Property::AuthenticationMethod(method)]);
    let mut client = client(Version::V5, &of_connect, &[0x20, 7, 0, 0, 4, 0x15, 0, 1, b'm']);
    let mut ask = |list: &[Property<'_>]| {
        let (reason, properties) = (ReasonCode::RE_AUTHENTICATE, Properties::new(list));
        let asked = client.authenticate(&Auth { reason, properties }, 0);
        (asked, sent(&mut client))
    };
    assert_eq!(ask(&other), (Err(RequestError::AuthenticationMethod), vec![]));
    let missing = RequestError::Encode(EncodeError::MissingAuthenticationMethod);
    assert_eq!(ask(&[]), (Err(missing), vec![]));
    assert_eq!(ask(&of_connect), (Ok(()), vec![0xF0, 6, 0x19, 4, 0x15, 0, 1, b'm']));
}
