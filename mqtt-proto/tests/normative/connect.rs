//! CONNECT and CONNACK as bytes: sections 3.1 and 3.2 of both standards.

use mqtt_proto::connection::PeerLimits;
use mqtt_proto::{
    Ack, Auth, ConnAck, Connect, DecodeError, Disconnect, EncodeError, Packet, PacketId, Properties,
    Property, PropertyId, Publish, Qos, ReasonCode, Reasons, Sender, SubAck, TopicName, UnsubAck, Version,
    Will, decode, encode,
};

use crate::VERSIONS;

const WILL: u8 = 0x04;
const WILL_RETAIN: u8 = 0x20;
const PASSWORD: u8 = 0x40;
const USER_NAME: u8 = 0x80;

/// A CONNECT with these flags, no properties, and a payload of length-prefixed fields.
fn frame(version: Version, flags: u8, fields: &[&[u8]]) -> Vec<u8> {
    let name = version.protocol_name();
    let mut body = vec![0, name.len() as u8];
    body.extend(name.bytes());
    body.extend([version.level(), flags, 0, 0]);
    if version == Version::V5 {
        body.push(0);
    }
    for (at, field) in fields.iter().enumerate() {
        // Will Properties stand behind the ClientID.
        if version == Version::V5 && flags & WILL != 0 && at == 1 {
            body.push(0);
        }
        body.extend((field.len() as u16).to_be_bytes());
        body.extend(*field);
    }
    let mut frame = vec![0x10, body.len() as u8];
    frame.extend(body);
    frame
}

/// What is wrong with the CONNECT, if anything.
fn judged(version: Version, flags: u8, fields: &[&[u8]]) -> Result<(), DecodeError> {
    decode(version, &frame(version, flags, fields)).map(drop)
}

/// A 5.0 CONNECT with these bytes as its properties.
fn with_properties(properties: &[u8]) -> Result<(), DecodeError> {
    let mut frame = vec![0x10, properties.len() as u8 + 14, 0, 4, b'M', b'Q', b'T', b'T', 5, 0, 0, 0];
    frame.push(properties.len() as u8);
    frame.extend(properties);
    frame.extend([0, 1, b'c']);
    decode(Version::V5, &frame).map(drop)
}

fn connect(version: Version) -> Connect<'static> {
    Connect { clean_start: false, ..Connect::new(version, "c") }
}

/// [MQTT-3.1.2-1] [MQTT-3.1.2-1 v3.1.1]
#[test]
fn another_protocol_name_is_not_mqtt() {
    for (name, level) in [(&b"mqtt"[..], 5), (b"MQTX", 5), (b"MQT", 4), (b"MQTTT", 4), (b"", 4), (b"HTTP", 1)]
    {
        let mut body = vec![0, name.len() as u8];
        body.extend(name);
        body.extend([level, 2, 0, 0, 0, 0, 1, b'c']);
        let mut frame = vec![0x10, body.len() as u8];
        frame.extend(body);
        assert_eq!(decode(Version::V5, &frame), Err(DecodeError::ProtocolName), "{name:?}");
    }
}

/// [MQTT-3.1.2-3]
#[test]
fn the_reserved_connect_flag_is_0() {
    for version in [Version::V3_1_1, Version::V5] {
        assert_eq!(judged(version, 0x00, &[b"c"]), Ok(()));
        assert_eq!(judged(version, 0x01, &[b"c"]), Err(DecodeError::ReservedConnectFlag));
    }
}

/// [MQTT-3.1.2-9] [MQTT-3.1.2-9 v3.1.1]
#[test]
fn a_will_flag_without_the_fields_of_a_will_is_malformed() {
    for version in VERSIONS {
        assert_eq!(judged(version, WILL, &[b"c", b"topic", b"payload"]), Ok(()));
        assert_eq!(judged(version, WILL, &[b"c", b"topic"]), Err(DecodeError::Truncated));
        assert_eq!(judged(version, WILL, &[b"c"]), Err(DecodeError::Truncated));
    }
}

/// [MQTT-3.1.2-11] [MQTT-3.1.2-11 v3.1.1] [MQTT-3.1.2-13 v3.1.1]
#[test]
fn a_will_qos_needs_a_will() {
    for version in VERSIONS {
        for qos in [1, 2] {
            assert_eq!(judged(version, qos << 3, &[b"c"]), Err(DecodeError::WillFlags));
            assert_eq!(judged(version, WILL | qos << 3, &[b"c", b"topic", b""]), Ok(()));
        }
    }
}

/// [MQTT-3.1.2-13] [MQTT-3.1.2-11 v3.1.1] [MQTT-3.1.2-15 v3.1.1]
#[test]
fn a_will_retain_flag_needs_a_will() {
    for version in VERSIONS {
        assert_eq!(judged(version, WILL_RETAIN, &[b"c"]), Err(DecodeError::WillFlags));
        assert_eq!(judged(version, WILL | WILL_RETAIN, &[b"c", b"topic", b""]), Ok(()));
    }
}

/// [MQTT-3.1.2-11 v3.1.1]
#[test]
fn fields_of_a_will_need_the_will_flag() {
    for version in VERSIONS {
        assert_eq!(judged(version, 0, &[b"c", b"t", b"p"]), Err(DecodeError::TrailingBytes(6)));
    }
}

/// [MQTT-3.1.2-12] [MQTT-3.1.2-14 v3.1.1]
#[test]
fn a_will_has_qos_0_1_or_2() {
    for version in VERSIONS {
        for qos in 0..=2 {
            let frame = frame(version, WILL | qos << 3, &[b"c", b"topic", b""]);
            let Ok(Packet::Connect(connect)) = decode(version, &frame) else { panic!("refused") };
            assert_eq!(connect.will.map(|will| will.qos.bits()), Some(qos));
        }
        assert_eq!(judged(version, WILL | 3 << 3, &[b"c", b"topic", b""]), Err(DecodeError::Qos));
    }
}

/// [MQTT-3.1.2-16] [MQTT-3.1.2-17] [MQTT-3.1.2-18 v3.1.1] [MQTT-3.1.2-19 v3.1.1]
#[test]
fn a_user_name_is_there_exactly_if_its_flag_is_set() {
    for version in [Version::V3_1_1, Version::V5] {
        assert_eq!(judged(version, USER_NAME, &[b"c", b"name"]), Ok(()));
        assert_eq!(judged(version, USER_NAME, &[b"c"]), Err(DecodeError::Truncated));
        assert_eq!(judged(version, 0, &[b"c", b"name"]), Err(DecodeError::TrailingBytes(6)));
    }
}

/// [MQTT-3.1.2-18] [MQTT-3.1.2-19] [MQTT-3.1.2-20 v3.1.1] [MQTT-3.1.2-21 v3.1.1]
#[test]
fn a_password_is_there_exactly_if_its_flag_is_set() {
    for version in [Version::V3_1_1, Version::V5] {
        let both = USER_NAME | PASSWORD;
        assert_eq!(judged(version, both, &[b"c", b"name", b"password"]), Ok(()));
        assert_eq!(judged(version, both, &[b"c", b"name"]), Err(DecodeError::Truncated));
        let password_left = Err(DecodeError::TrailingBytes(10));
        assert_eq!(judged(version, USER_NAME, &[b"c", b"name", b"password"]), password_left);
    }
}

/// [MQTT-3.1.2-22 v3.1.1]; section 3.1.2.9 of 5.0 lets a Password stand alone.
#[test]
fn before_5_a_password_needs_a_user_name() {
    for version in VERSIONS {
        let alone = Connect { password: Some(b"password"), ..connect(version) };
        let sent = encode(&Packet::Connect(alone), version, &mut Vec::new());
        let read = judged(version, PASSWORD, &[b"c", b"password"]);
        if version == Version::V5 {
            assert_eq!((sent, read), (Ok(()), Ok(())));
        } else {
            assert_eq!(sent, Err(EncodeError::PasswordWithoutUserName));
            assert_eq!(read, Err(DecodeError::PasswordWithoutUserName));
        }
    }
}

/// [MQTT-3.1.3-1] [MQTT-3.1.3-1 v3.1.1]
#[test]
fn the_fields_of_the_payload_come_in_order() {
    for version in VERSIONS {
        let will = Will {
            topic: TopicName::new("topic").expect("a topic"),
            payload: b"payload",
            qos: Qos::AtMostOnce,
            retain: false,
            properties: Properties::EMPTY,
        };
        let all = Connect {
            will: Some(will),
            user_name: Some("name"),
            password: Some(b"password"),
            ..connect(version)
        };
        let fields: [&[u8]; 5] = [b"c", b"topic", b"payload", b"name", b"password"];
        let expected = frame(version, WILL | USER_NAME | PASSWORD, &fields);
        let mut sent = Vec::new();
        encode(&Packet::Connect(all), version, &mut sent).expect("valid");
        assert_eq!(sent, expected);
        assert_eq!(decode(version, &expected), Ok(Packet::Connect(all)));
    }
}

/// [MQTT-3.1.3-3]
#[test]
fn a_connect_without_a_client_id_is_malformed() {
    for version in VERSIONS {
        assert_eq!(judged(version, 0, &[]), Err(DecodeError::Truncated));
        // The first field is the ClientID, whatever the flags promise.
        assert_eq!(judged(version, WILL, &[b"topic", b"payload"]), Err(DecodeError::Truncated));
    }
}

/// [MQTT-3.1.3-4]
#[test]
fn a_client_id_is_a_string() {
    for version in VERSIONS {
        assert_eq!(judged(version, 0, &["é".as_bytes()]), Ok(()));
        assert_eq!(judged(version, 0, &[b"\xE9"]), Err(DecodeError::Utf8));
    }
}

/// [MQTT-3.1.3-11] [MQTT-3.1.3-10 v3.1.1]
#[test]
fn a_will_topic_is_a_string() {
    for version in VERSIONS {
        assert_eq!(judged(version, WILL, &[b"c", "é".as_bytes(), b"\xFF"]), Ok(()), "any payload");
        assert_eq!(judged(version, WILL, &[b"c", b"\xE9", b""]), Err(DecodeError::Utf8));
    }
}

/// [MQTT-3.1.3-12] [MQTT-3.1.3-11 v3.1.1]
#[test]
fn a_user_name_is_a_string() {
    for version in VERSIONS {
        let both = USER_NAME | PASSWORD;
        assert_eq!(judged(version, both, &[b"c", "é".as_bytes(), b"\xFF\0"]), Ok(()), "any password");
        assert_eq!(judged(version, both, &[b"c", b"\xE9", b""]), Err(DecodeError::Utf8));
    }
}

/// Section 3.1.2.11.
#[test]
fn each_connect_property_is_there_once_at_most() {
    for (property, id) in [
        (&[0x11, 0, 0, 0, 1][..], PropertyId::SessionExpiryInterval),
        (&[0x21, 0, 1], PropertyId::ReceiveMaximum),
        (&[0x27, 0, 0, 1, 0], PropertyId::MaximumPacketSize),
        (&[0x22, 0, 1], PropertyId::TopicAliasMaximum),
        (&[0x19, 1], PropertyId::RequestResponseInformation),
        (&[0x17, 1], PropertyId::RequestProblemInformation),
        (&[0x15, 0, 1, b'm'], PropertyId::AuthenticationMethod),
    ] {
        assert_eq!(with_properties(property), Ok(()));
        assert_eq!(with_properties(&property.repeat(2)), Err(DecodeError::DuplicateProperty(id)));
    }
}

/// Sections 3.1.2.11.3 and 3.1.2.11.4: 0 is a Protocol Error.
#[test]
fn receive_maximum_and_maximum_packet_size_are_not_0() {
    for (property, id) in [
        (&[0x21, 0, 0][..], PropertyId::ReceiveMaximum),
        (&[0x27, 0, 0, 0, 0], PropertyId::MaximumPacketSize),
    ] {
        let error = with_properties(property).expect_err("0");
        assert_eq!(error, DecodeError::PropertyValue(id));
        assert_eq!(error.reason_code(), ReasonCode::PROTOCOL_ERROR);
    }
}

/// Sections 3.1.2.11.6 and 3.1.2.11.7: any value but 0 and 1 is a Protocol Error.
#[test]
fn what_a_client_requests_is_0_or_1() {
    for (identifier, id) in
        [(0x19, PropertyId::RequestResponseInformation), (0x17, PropertyId::RequestProblemInformation)]
    {
        assert_eq!(with_properties(&[identifier, 0]), Ok(()));
        assert_eq!(with_properties(&[identifier, 1]), Ok(()));
        for value in [2, 255] {
            let error = with_properties(&[identifier, value]).expect_err("neither 0 nor 1");
            assert_eq!(error, DecodeError::PropertyValue(id));
            assert_eq!(error.reason_code(), ReasonCode::PROTOCOL_ERROR);
        }
    }
}

/// Section 3.1.2.11.10: Authentication Data without an Authentication Method is a Protocol Error.
#[test]
fn authentication_data_needs_a_method() {
    let error = with_properties(&[0x16, 0, 1, 7]).expect_err("no method");
    assert_eq!(error, DecodeError::MissingAuthenticationMethod);
    assert_eq!(error.reason_code(), ReasonCode::PROTOCOL_ERROR);
    assert_eq!(with_properties(&[0x15, 0, 1, b'm', 0x16, 0, 1, 7]), Ok(()));
}

/// [MQTT-3.1.2-29]
#[test]
fn problem_information_is_sent_where_it_may_be() {
    let list = [Property::ReasonString("why"), Property::UserProperty("name", "value")];
    let (properties, packet_id, reasons) = (Properties::new(&list), PacketId::FIRST, Reasons(&[0x80]));
    let ack = Ack { packet_id, reason: ReasonCode::SUCCESS, properties };
    let method = [Property::AuthenticationMethod("m"), list[0], list[1]];
    let publish = Publish {
        dup: false,
        qos: Qos::AtMostOnce,
        retain: false,
        topic: Some(TopicName::new("a").expect("a topic")),
        packet_id: None,
        properties: Properties::new(&list[1..]),
        payload: b"",
    };
    let reason = ReasonCode::UNSPECIFIED_ERROR;
    for (packet, unasked) in [
        (Packet::ConnAck(ConnAck { session_present: false, reason, properties }), true),
        (Packet::Publish(publish), true),
        (Packet::Disconnect(Disconnect { reason, properties }), true),
        (Packet::PubAck(ack), false),
        (Packet::PubRec(ack), false),
        (Packet::PubRel(ack), false),
        (Packet::PubComp(ack), false),
        (Packet::SubAck(SubAck { packet_id, properties, reasons }), false),
        (Packet::UnsubAck(UnsubAck { packet_id, properties, reasons }), false),
        (Packet::Auth(Auth { reason: ReasonCode::SUCCESS, properties: Properties::new(&method) }), false),
    ] {
        for request_problem_information in [false, true] {
            let limits = PeerLimits { request_problem_information, ..PeerLimits::new(Version::V5) };
            let mut sent = Vec::new();
            Sender::new(&limits, 0).encode(&packet, &mut sent).expect("small");
            let has_them = sent.windows(4).any(|bytes| bytes == b"name");
            assert_eq!(has_them, unasked || request_problem_information, "{packet:?}");
        }
    }
}

/// [MQTT-3.2.2-1]
#[test]
fn reserved_connect_acknowledge_flags_are_0() {
    for version in [Version::V3_1_1, Version::V5] {
        let len = if version == Version::V5 { 3 } else { 2 };
        for flags in [2, 0x80, 0xFF] {
            let frame = &[0x20, len, flags, 0, 0][..usize::from(len) + 2];
            assert_eq!(decode(version, frame), Err(DecodeError::ReservedConnAckFlags), "{flags:#x}");
        }
        for session_present in [false, true] {
            let (reason, properties) = (ReasonCode::SUCCESS, Properties::EMPTY);
            let connack = Packet::ConnAck(ConnAck { session_present, reason, properties });
            let mut sent = Vec::new();
            encode(&connack, version, &mut sent).expect("valid");
            assert_eq!(sent[2], u8::from(session_present));
        }
    }
}

/// [MQTT-3.2.2-6] [MQTT-3.2.2-4 v3.1.1]
#[test]
fn a_refusal_with_session_present_is_not_sent_and_not_taken() {
    for version in [Version::V3_1_1, Version::V5] {
        let (reason, properties) = (ReasonCode::NOT_AUTHORIZED, Properties::EMPTY);
        let connack = Packet::ConnAck(ConnAck { session_present: true, reason, properties });
        let sent = encode(&connack, version, &mut Vec::new());
        assert_eq!(sent, Err(EncodeError::SessionPresentWithError));
        let frame = if version == Version::V5 { &[0x20, 3, 1, 0x87, 0][..] } else { &[0x20, 2, 1, 5] };
        assert_eq!(decode(version, frame), Err(DecodeError::SessionPresentWithError));
    }
}

/// [MQTT-3.2.2-8]; before 5.0 section 3.2.2.3 reserves the return codes above 5.
#[test]
fn a_connack_has_one_of_its_codes() {
    let listed = [
        0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99,
        0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
    ];
    for code in 0..=255 {
        let connack =
            ConnAck { session_present: false, reason: ReasonCode(code), properties: Properties::EMPTY };
        let sent = encode(&Packet::ConnAck(connack), Version::V5, &mut Vec::new());
        assert_eq!(sent.is_ok(), listed.contains(&code), "{code:#x}");
        assert_eq!(decode(Version::V5, &[0x20, 3, 0, code, 0]).is_ok(), listed.contains(&code), "{code:#x}");
        assert_eq!(decode(Version::V3_1_1, &[0x20, 2, 0, code]).is_ok(), code <= 5, "{code:#x}");
    }
}

/// The CONNACK that a Client which accepts packets of `maximum_packet_size` bytes gets of this one.
fn connack_for(maximum_packet_size: u32, properties: &[Property<'_>]) -> Vec<u8> {
    let limits = PeerLimits { maximum_packet_size, ..PeerLimits::new(Version::V5) };
    let (reason, properties) = (ReasonCode::SUCCESS, Properties::new(properties));
    let mut out = Vec::new();
    let connack = Packet::ConnAck(ConnAck { session_present: false, reason, properties });
    Sender::new(&limits, 0).encode(&connack, &mut out).expect("small without them");
    out
}

/// [MQTT-3.2.2-19]
#[test]
fn a_reason_string_does_not_make_a_connack_too_large() {
    let list = [Property::ServerKeepAlive(9), Property::ReasonString("abc")];
    assert_eq!(connack_for(14, &list).len(), 14);
    assert_eq!(connack_for(13, &list), [0x20, 6, 0, 0, 3, 0x13, 0, 9]);
}

/// [MQTT-3.2.2-20]
#[test]
fn user_properties_do_not_make_a_connack_too_large() {
    let list = [Property::ServerKeepAlive(9), Property::UserProperty("a", "b")];
    assert_eq!(connack_for(15, &list).len(), 15);
    assert_eq!(connack_for(14, &list), [0x20, 6, 0, 0, 3, 0x13, 0, 9]);
}
