//! Strings, integers, properties, Fixed Headers and Packet Identifiers: chapters 1 and 2 of both standards.

use mqtt_proto::{
    Ack, Connect, DecodeError, EncodeError, Packet, PacketId, PacketType, Properties, Property, PropertyId,
    Publish, Qos, ReasonCode, Reasons, SubAck, Subscribe, Subscription, Subscriptions, TopicName,
    Unsubscribe, Version, decode, encode,
};

use crate::{VERSIONS, publish_to};

/// A SUBSCRIBE to a filter of these bytes.
fn subscribe(version: Version, filter: &[u8]) -> Vec<u8> {
    let mut body = vec![0, 1];
    if version == Version::V5 {
        body.push(0);
    }
    body.extend((filter.len() as u16).to_be_bytes());
    body.extend(filter);
    body.push(0);
    let mut frame = vec![0x82, body.len() as u8];
    frame.extend(body);
    frame
}

fn encoded(packet: &Packet<'_>, version: Version) -> Vec<u8> {
    let mut out = Vec::new();
    encode(packet, version, &mut out).expect("a valid packet");
    out
}

fn id(value: u16) -> PacketId {
    PacketId::new(value).expect("not 0")
}

fn message<'a>(qos: Qos, packet_id: Option<PacketId>) -> Packet<'a> {
    let topic = Some(TopicName::new("a").expect("a topic"));
    let properties = Properties::EMPTY;
    Packet::Publish(Publish { dup: false, qos, retain: false, topic, packet_id, properties, payload: b"x" })
}

/// [MQTT-1.5.4-1] [MQTT-1.5.3-1 v3.1.1]
#[test]
fn ill_formed_utf_8_is_malformed() {
    let ill_formed: [&[u8]; 8] = [
        b"\x80",             // a continuation byte alone
        b"a\xC3",            // the beginning of a character
        b"\xC0\xAF",         // "/" in two bytes
        b"\xE0\x80\x80",     // more than one byte too long
        b"\xED\xA0\x80",     // U+D800
        b"\xED\xBF\xBF",     // U+DFFF
        b"\xF4\x90\x80\x80", // above U+10FFFF
        b"\xFF",
    ];
    for version in VERSIONS {
        for bytes in ill_formed {
            assert_eq!(decode(version, &subscribe(version, bytes)), Err(DecodeError::Utf8), "{bytes:x?}");
            assert_eq!(decode(version, &publish_to(version, bytes)), Err(DecodeError::Utf8), "{bytes:x?}");
        }
        for text in ["\u{D7FF}", "\u{E000}", "\u{10FFFF}", "\u{FFFE}", "\u{1}", "\u{7F}"] {
            assert!(decode(version, &subscribe(version, text.as_bytes())).is_ok(), "{text:?}");
            assert!(decode(version, &publish_to(version, text.as_bytes())).is_ok(), "{text:?}");
        }
    }
}

/// [MQTT-1.5.4-2] [MQTT-1.5.3-2 v3.1.1]
#[test]
fn a_null_character_is_malformed_and_not_sent() {
    for version in VERSIONS {
        for bytes in [&b"\0"[..], b"a\0", b"\0a", b"abcdefgh\0ijkl"] {
            let null = Err(DecodeError::NullCharacter);
            assert_eq!(decode(version, &subscribe(version, bytes)), null, "{bytes:x?}");
        }
        let filters = [Subscription { filter: "a\0", options: Default::default() }];
        let subscriptions = Subscriptions::new(&filters);
        let packet =
            Packet::Subscribe(Subscribe { packet_id: id(1), properties: Properties::EMPTY, subscriptions });
        assert_eq!(encode(&packet, version, &mut Vec::new()), Err(EncodeError::NullCharacter));
    }
}

/// [MQTT-1.5.4-3] [MQTT-1.5.3-3 v3.1.1]
#[test]
fn a_byte_order_mark_is_kept() {
    for version in VERSIONS {
        let frame = publish_to(version, b"\xEF\xBB\xBFa\xEF\xBB\xBF");
        let Ok(Packet::Publish(read)) = decode(version, &frame) else { panic!("refused") };
        assert_eq!(read.topic.map(TopicName::as_str), Some("\u{FEFF}a\u{FEFF}"));
        let frame = subscribe(version, b"\xEF\xBB\xBFa");
        let Ok(Packet::Subscribe(read)) = decode(version, &frame) else { panic!("refused") };
        assert_eq!(read.subscriptions.iter().next().map(|first| first.filter), Some("\u{FEFF}a"));
    }
}

/// Sections 1.5.4 and 1.5.6 (5.0), 1.5.3 (3.1.1): two bytes of length.
#[test]
fn strings_and_binary_data_have_up_to_65_535_bytes() {
    let long = "x".repeat(65_536);
    for version in VERSIONS {
        for (len, fits) in [(65_535, true), (65_536, false)] {
            let written = |client_id, password| {
                let connect = Connect {
                    user_name: Some("n"),
                    password: Some(password),
                    ..Connect::new(version, client_id)
                };
                let mut out = Vec::new();
                encode(&Packet::Connect(connect), version, &mut out)
                    .map(|()| assert_eq!(decode(version, &out), Ok(Packet::Connect(connect))))
            };
            let expected = if fits { Ok(()) } else { Err(EncodeError::FieldTooLong) };
            assert_eq!(written(&long[..len], b""), expected);
            assert_eq!(written("c", &long.as_bytes()[..len]), expected);
        }
    }
}

/// [MQTT-1.5.5-1]
#[test]
fn a_length_in_more_bytes_than_it_needs_is_malformed() {
    for frame in [
        &[0xC0, 0x80, 0x00][..],                               // Remaining Length
        &[0x30, 5, 0, 1, b'a', 0x80, 0x00],                    // Property Length
        &[0x30, 7, 0, 1, b'a', 3, 0x81, 0x00, 0],              // a property's identifier
        &[0x82, 10, 0, 1, 3, 0x0B, 0x81, 0x00, 0, 1, b'a', 0], // Subscription Identifier
    ] {
        assert_eq!(decode(Version::V5, frame), Err(DecodeError::VariableByteInteger), "{frame:x?}");
    }
}

/// Section 2.2.3 of 3.1.1 does not ask for the shortest Remaining Length.
#[test]
fn before_5_a_remaining_length_may_be_padded() {
    for version in [Version::V3_1, Version::V3_1_1] {
        assert_eq!(decode(version, &[0xC0, 0x80, 0x00]), Ok(Packet::PingReq));
    }
}

/// [MQTT-1.5.5-1]
#[test]
fn lengths_are_written_in_as_few_bytes_as_they_need() {
    for (payload, header) in [
        (123, &[0x30, 0x7F][..]),
        (124, &[0x30, 0x80, 0x01]),
        (16_379, &[0x30, 0xFF, 0x7F]),
        (16_380, &[0x30, 0x80, 0x80, 0x01]),
    ] {
        let payload = vec![0; payload];
        let topic = Some(TopicName::new("a").expect("a topic"));
        let (qos, packet_id, properties) = (Qos::AtMostOnce, None, Properties::EMPTY);
        let publish =
            Publish { dup: false, qos, retain: false, topic, packet_id, properties, payload: &payload };
        let frame = encoded(&Packet::Publish(publish), Version::V5);
        assert_eq!(&frame[..header.len()], header);
        assert_eq!(frame[header.len()..header.len() + 3], [0, 1, b'a']);
    }
}

/// [MQTT-1.5.7-1]
#[test]
fn both_strings_of_a_user_property_are_checked() {
    let user = |name: &[u8], value: &[u8]| {
        let mut properties = vec![0x26, 0, name.len() as u8];
        properties.extend(name);
        properties.extend([0, value.len() as u8]);
        properties.extend(value);
        let mut frame = vec![0x30, properties.len() as u8 + 4, 0, 1, b'a', properties.len() as u8];
        frame.extend(properties);
        decode(Version::V5, &frame).map(drop)
    };
    assert_eq!(user(b"name", b"value"), Ok(()));
    assert_eq!(user(b"", b""), Ok(()));
    assert_eq!(user(b"\xFF", b"value"), Err(DecodeError::Utf8));
    assert_eq!(user(b"name", b"\xFF"), Err(DecodeError::Utf8));
}

/// [MQTT-2.1.3-1] [MQTT-2.2.2-1 v3.1.1] [MQTT-2.2.2-2 v3.1.1]
#[test]
fn reserved_flags_are_malformed() {
    for version in [Version::V3_1_1, Version::V5] {
        for first in 0x10..=0xFF_u8 {
            let packet_type = PacketType::from_bits(first >> 4).expect("not 0");
            let listed = match packet_type {
                PacketType::PubRel | PacketType::Subscribe | PacketType::Unsubscribe => 2,
                PacketType::Publish => continue,
                _ => 0,
            };
            let flags = first & 0x0F;
            let refused = Err(DecodeError::ReservedFlags { packet_type, flags });
            // What follows is garbage for most types, but not for their flags.
            assert_eq!(decode(version, &[first, 0]) == refused, flags != listed, "{first:#04x}");
        }
    }
}

/// [MQTT-2.1.3-1] [MQTT-2.2.2-1 v3.1.1]
#[test]
fn reserved_flags_are_sent_as_listed() {
    let ack = Ack::new(id(1), ReasonCode::SUCCESS);
    let (packet_id, properties) = (id(1), Properties::EMPTY);
    let filters = [Subscription { filter: "a", options: Default::default() }];
    let subscriptions = Subscriptions::new(&filters);
    for version in VERSIONS {
        for (packet, first) in [
            (Packet::PubAck(ack), 0x40),
            (Packet::PubRec(ack), 0x50),
            (Packet::PubRel(ack), 0x62),
            (Packet::PubComp(ack), 0x70),
            (Packet::Subscribe(Subscribe { packet_id, properties, subscriptions }), 0x82),
            (Packet::SubAck(SubAck { packet_id, properties, reasons: Reasons(&[0]) }), 0x90),
            (Packet::PingReq, 0xC0),
            (Packet::PingResp, 0xD0),
        ] {
            assert_eq!(encoded(&packet, version)[0], first, "{packet:?}");
        }
    }
}

/// Sections 2.1.2 (5.0) and 2.2.1 (3.1.1): type 0 always, type 15 before AUTH existed.
#[test]
fn forbidden_packet_types_are_malformed() {
    for version in VERSIONS {
        assert_eq!(decode(version, &[0x00, 0]), Err(DecodeError::ForbiddenPacketType(0)));
    }
    for version in [Version::V3_1, Version::V3_1_1] {
        assert_eq!(decode(version, &[0xF0, 0]), Err(DecodeError::ForbiddenPacketType(15)));
    }
}

/// [MQTT-2.2.1-2] [MQTT-2.3.1-5 v3.1.1]
#[test]
fn a_qos_0_publish_has_no_packet_identifier() {
    for version in VERSIONS {
        let with = encode(&message(Qos::AtMostOnce, Some(id(1))), version, &mut Vec::new());
        assert_eq!(with, Err(EncodeError::PacketId));
        let frame = encoded(&message(Qos::AtMostOnce, None), version);
        let body = if version == Version::V5 { &[0, 1, b'a', 0, b'x'][..] } else { &[0, 1, b'a', b'x'] };
        assert_eq!(&frame[2..], body);
        // What stands behind the topic is payload.
        let Ok(Packet::Publish(read)) = decode(version, &frame) else { panic!("refused") };
        assert_eq!((read.packet_id, read.payload), (None, &b"x"[..]));
    }
}

/// [MQTT-2.2.1-3] [MQTT-2.2.1-4] [MQTT-2.3.1-1 v3.1.1]
#[test]
fn packet_identifier_0_is_an_error() {
    for version in VERSIONS {
        let unsubscribe = match version {
            Version::V5 => &[0xA2, 6, 0, 0, 0, 0, 1, b'a'][..],
            _ => &[0xA2, 5, 0, 0, 0, 1, b'a'],
        };
        let mut subscribe = subscribe(version, b"a");
        subscribe[3] = 0;
        for frame in [&[0x32, 5, 0, 1, b'a', 0, 0][..], &[0x34, 5, 0, 1, b'a', 0, 0], &subscribe, unsubscribe]
        {
            assert_eq!(decode(version, frame), Err(DecodeError::PacketIdZero), "{frame:x?}");
        }
        for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let without = encode(&message(qos, None), version, &mut Vec::new());
            assert_eq!(without, Err(EncodeError::PacketId), "QoS 1 and 2 need one");
        }
    }
}

/// [MQTT-2.2.2-1]
#[test]
fn no_properties_are_a_property_length_of_zero() {
    let (packet_id, properties) = (id(1), Properties::EMPTY);
    let suback = Packet::SubAck(SubAck { packet_id, properties, reasons: Reasons(&[0]) });
    assert_eq!(encoded(&suback, Version::V5), [0x90, 4, 0, 1, 0, 0]);
    assert_eq!(encoded(&message(Qos::AtMostOnce, None), Version::V5), [0x30, 5, 0, 1, b'a', 0, b'x']);
    let filters = mqtt_proto::Filters::new(&["a"]);
    let unsubscribe = Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters });
    assert_eq!(encoded(&unsubscribe, Version::V5), [0xA2, 6, 0, 1, 0, 0, 1, b'a']);
    // Left out, the Property Length is missing.
    assert_eq!(decode(Version::V5, &[0x30, 3, 0, 1, b'a']), Err(DecodeError::Truncated));
}

/// Section 2.2.2.2.
#[test]
fn an_unknown_property_is_malformed() {
    for unknown in [0x00, 0x04, 0x0A, 0x10, 0x2B, 0x7F] {
        let frame = [0x30, 6, 0, 1, b'a', 2, unknown, 0];
        assert_eq!(decode(Version::V5, &frame), Err(DecodeError::UnknownProperty(u32::from(unknown))));
    }
}

/// Section 2.2.2.2.
#[test]
fn a_property_of_another_packet_is_malformed() {
    let error = Err(DecodeError::PropertyNotAllowed(PropertyId::ReceiveMaximum));
    assert_eq!(decode(Version::V5, &[0x30, 7, 0, 1, b'a', 3, 0x21, 0, 1]), error);
    let error = Err(DecodeError::PropertyNotAllowed(PropertyId::TopicAlias));
    assert_eq!(decode(Version::V5, &[0x40, 7, 0, 1, 0, 3, 0x23, 0, 1]), error);
}

/// Section 2.2.2.2 and that of each property.
#[test]
fn a_property_that_may_be_there_once_is_a_protocol_error_the_second_time() {
    for (property, id) in [
        (&[0x01, 0][..], PropertyId::PayloadFormatIndicator),
        (&[0x02, 0, 0, 0, 1], PropertyId::MessageExpiryInterval),
        (&[0x03, 0, 0], PropertyId::ContentType),
        (&[0x08, 0, 1, b'a'], PropertyId::ResponseTopic),
        (&[0x09, 0, 0], PropertyId::CorrelationData),
        (&[0x23, 0, 1], PropertyId::TopicAlias),
    ] {
        let twice = property.repeat(2);
        let mut frame = vec![0x30, twice.len() as u8 + 4, 0, 1, b'a', twice.len() as u8];
        frame.extend(&twice);
        let error = decode(Version::V5, &frame).expect_err("twice");
        assert_eq!(error, DecodeError::DuplicateProperty(id));
        assert_eq!(error.reason_code(), ReasonCode::PROTOCOL_ERROR);
    }
}

/// Section 2.2.2.2: User Properties may be there more than once, the same name too, and keep their order.
#[test]
fn user_properties_may_repeat_and_keep_their_order() {
    let list = [("b", "1"), ("a", "2"), ("b", "1"), ("a", "")];
    let list = list.map(|(name, value)| Property::UserProperty(name, value));
    let Packet::Publish(publish) = message(Qos::AtMostOnce, None) else { unreachable!() };
    let publish = Publish { properties: Properties::new(&list), ..publish };
    let frame = encoded(&Packet::Publish(publish), Version::V5);
    let Ok(Packet::Publish(read)) = decode(Version::V5, &frame) else { panic!("refused") };
    assert_eq!(read.properties.iter().collect::<Vec<_>>(), list);
}
