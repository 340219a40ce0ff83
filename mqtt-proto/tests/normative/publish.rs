//! PUBLISH and its acknowledgements as bytes: sections 3.3 to 3.7 of both standards.

use mqtt_proto::connection::PeerLimits;
use mqtt_proto::{
    Ack, DecodeError, EncodeError, Packet, PacketId, PacketType, Properties, Property, PropertyId, Publish,
    Qos, ReasonCode, Sender, TopicError, TopicName, Version, decode, encode,
};

use crate::VERSIONS;

/// A PUBLISH byte by byte: `first` is the whole first byte, `properties` are left out before 5.0.
fn publish(version: Version, first: u8, topic: &[u8], id: Option<u16>, properties: &[u8]) -> Vec<u8> {
    let mut body = (topic.len() as u16).to_be_bytes().to_vec();
    body.extend(topic);
    body.extend(id.into_iter().flat_map(u16::to_be_bytes));
    if version == Version::V5 {
        body.push(properties.len() as u8);
        body.extend(properties);
    }
    let mut frame = vec![first, body.len() as u8];
    frame.extend(body);
    frame
}

/// A QoS 0 PUBLISH of 5.0 to the topic "a" with these properties, byte by byte.
fn with(properties: &[u8]) -> Vec<u8> {
    publish(Version::V5, 0x30, b"a", None, properties)
}

fn message<'a>(list: &'a [Property<'a>]) -> Publish<'a> {
    Publish {
        dup: false,
        qos: Qos::AtMostOnce,
        retain: false,
        topic: Some(TopicName::new("a").expect("a topic")),
        packet_id: None,
        properties: Properties::new(list),
        payload: b"",
    }
}

fn encoded(packet: &Packet<'_>, version: Version) -> Result<Vec<u8>, EncodeError> {
    let mut out = Vec::new();
    encode(packet, version, &mut out).map(|()| out)
}

/// [MQTT-3.3.1-4]
#[test]
fn both_qos_bits_are_malformed() {
    for version in VERSIONS {
        for flags in [0b0110, 0b0111, 0b1110, 0b1111] {
            let bytes = publish(version, 0x30 | flags, b"a", Some(1), &[]);
            assert_eq!(decode(version, &bytes), Err(DecodeError::Qos));
        }
    }
}

/// [MQTT-3.3.1-2]
#[test]
fn dup_at_qos_0_is_neither_read_nor_written() {
    for version in VERSIONS {
        for retain in [0, 1] {
            let bytes = publish(version, 0x38 | retain, b"a", None, &[]);
            assert_eq!(decode(version, &bytes), Err(DecodeError::DupAtQos0));
        }
        let packet = Packet::Publish(Publish { dup: true, ..message(&[]) });
        assert_eq!(encoded(&packet, version), Err(EncodeError::DupAtQos0));
    }
}

/// [MQTT-3.3.2-1]
#[test]
fn the_topic_is_the_first_field() {
    for version in VERSIONS {
        let bytes = publish(version, 0x32, "ä/b".as_bytes(), Some(0x4142), &[]);
        let Ok(Packet::Publish(read)) = decode(version, &bytes) else {
            panic!("{:?}", decode(version, &bytes))
        };
        assert_eq!(read.topic.map(TopicName::as_str), Some("ä/b"));
        assert_eq!(encoded(&Packet::Publish(read), version), Ok(bytes));
    }
}

/// [MQTT-3.3.2-1]
#[test]
fn a_topic_that_is_not_utf_8_is_malformed() {
    for version in VERSIONS {
        for topic in [&b"\xC3"[..], b"a\xFF", b"\xED\xA0\x80"] {
            assert_eq!(decode(version, &publish(version, 0x30, topic, None, &[])), Err(DecodeError::Utf8));
        }
    }
}

/// [MQTT-3.3.2-1]: in 5.0 a Topic Alias may stand for it, and before nothing.
#[test]
fn a_topic_of_no_bytes_is_an_error() {
    for version in VERSIONS {
        let bytes = publish(version, 0x30, b"", None, &[]);
        assert_eq!(decode(version, &bytes), Err(DecodeError::MissingTopic));
        let packet = Packet::Publish(Publish { topic: None, ..message(&[]) });
        assert_eq!(encoded(&packet, version), Err(EncodeError::MissingTopic));
    }
    let aliased = publish(Version::V5, 0x30, b"", None, &[0x23, 0, 1]);
    assert!(decode(Version::V5, &aliased).is_ok());
}

/// [MQTT-3.3.2-2]: a [`TopicName`] has none, so none is ever sent.
#[test]
fn a_topic_with_a_wildcard_is_neither_read_nor_made() {
    for topic in ["#", "+", "a/#", "+/a", "a+", "#a"] {
        for version in VERSIONS {
            let bytes = publish(version, 0x30, topic.as_bytes(), None, &[]);
            assert_eq!(decode(version, &bytes), Err(DecodeError::Topic(TopicError::Wildcard)));
        }
        assert_eq!(TopicName::new(topic), Err(TopicError::Wildcard));
    }
}

/// [MQTT-3.3.2-8]
#[test]
fn topic_alias_0_is_neither_read_nor_written() {
    assert_eq!(decode(Version::V5, &with(&[0x23, 0, 0])), Err(DecodeError::TopicAliasZero));
    let zero = [Property::TopicAlias(0)];
    let error = EncodeError::PropertyValue(PropertyId::TopicAlias);
    assert_eq!(encoded(&Packet::Publish(message(&zero)), Version::V5), Err(error));
}

/// [MQTT-3.3.2-13]
#[test]
fn a_response_topic_that_is_not_utf_8_is_malformed() {
    assert_eq!(decode(Version::V5, &with(&[0x08, 0, 1, 0xFF])), Err(DecodeError::Utf8));
    assert_eq!(decode(Version::V5, &with(&[0x08, 0, 1, 0])), Err(DecodeError::NullCharacter));
}

/// [MQTT-3.3.2-14]
#[test]
fn a_response_topic_with_a_wildcard_is_neither_read_nor_written() {
    for topic in ["#", "+", "a/#"] {
        let mut properties = vec![0x08, 0, topic.len() as u8];
        properties.extend(topic.as_bytes());
        assert_eq!(decode(Version::V5, &with(&properties)), Err(DecodeError::Topic(TopicError::Wildcard)));
        let list = [Property::ResponseTopic(topic)];
        let error = EncodeError::Topic(TopicError::Wildcard);
        assert_eq!(encoded(&Packet::Publish(message(&list)), Version::V5), Err(error));
    }
}

/// [MQTT-3.3.2-19]
#[test]
fn a_content_type_that_is_not_utf_8_is_malformed() {
    assert_eq!(decode(Version::V5, &with(&[0x03, 0, 1, 0xFF])), Err(DecodeError::Utf8));
    assert_eq!(decode(Version::V5, &with(&[0x03, 0, 1, 0])), Err(DecodeError::NullCharacter));
}

/// Section 3.3.2.3.8: 1 to 268,435,455, as many as there are subscriptions.
#[test]
fn a_subscription_identifier_is_never_0() {
    let zero = DecodeError::PropertyValue(PropertyId::SubscriptionIdentifier);
    assert_eq!(decode(Version::V5, &with(&[0x0B, 0])), Err(zero));
    assert!(decode(Version::V5, &with(&[0x0B, 0xFF, 0xFF, 0xFF, 0x7F, 0x0B, 1, 0x0B, 1])).is_ok());
}

/// [MQTT-3.6.1-1]; 3.1 lets a PUBREL be sent again with DUP.
#[test]
fn pubrel_has_its_reserved_flags() {
    let pubrel = Packet::PubRel(Ack::new(PacketId::FIRST, ReasonCode::SUCCESS));
    for version in VERSIONS {
        for flags in 0..16 {
            let bytes = [0x60 | flags, 2, 0, 1];
            let read = decode(version, &bytes);
            if flags == 0b0010 || version == Version::V3_1 && flags == 0b1010 {
                assert_eq!(read, Ok(pubrel));
            } else {
                assert_eq!(read, Err(DecodeError::ReservedFlags { packet_type: PacketType::PubRel, flags }));
            }
        }
        assert_eq!(encoded(&pubrel, version), Ok(vec![0x62, 2, 0, 1]));
    }
}

/// An acknowledgement of this type.
fn ack<'a>(packet_type: PacketType, reason: ReasonCode, properties: Properties<'a>) -> Packet<'a> {
    let ack = Ack { packet_id: PacketId::FIRST, reason, properties };
    match packet_type {
        PacketType::PubAck => Packet::PubAck(ack),
        PacketType::PubRec => Packet::PubRec(ack),
        PacketType::PubRel => Packet::PubRel(ack),
        PacketType::PubComp => Packet::PubComp(ack),
        other => panic!("{other:?} acknowledges no message"),
    }
}

/// Of all Reason Codes, exactly `codes` are read and written in this type.
#[track_caller]
fn has_reasons(packet_type: PacketType, first: u8, codes: &[u8]) {
    for code in 0..=255 {
        let packet = ack(packet_type, ReasonCode(code), Properties::EMPTY);
        let (read, written) =
            (decode(Version::V5, &[first, 3, 0, 1, code]).map(|_| ()), encoded(&packet, Version::V5));
        if codes.contains(&code) {
            assert_eq!(read, Ok(()), "{code:#x}");
            assert!(written.is_ok(), "{code:#x}");
        } else {
            assert_eq!(read, Err(DecodeError::ReasonCode(code)));
            assert_eq!(written, Err(EncodeError::ReasonCode(ReasonCode(code))));
        }
    }
}

const OF_A_RECEIVER: [u8; 9] = [0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];

/// [MQTT-3.4.2-1]
#[test]
fn puback_has_its_reason_codes_and_no_other() {
    has_reasons(PacketType::PubAck, 0x40, &OF_A_RECEIVER);
}

/// [MQTT-3.5.2-1]
#[test]
fn pubrec_has_its_reason_codes_and_no_other() {
    has_reasons(PacketType::PubRec, 0x50, &OF_A_RECEIVER);
}

/// [MQTT-3.6.2-1]
#[test]
fn pubrel_has_its_reason_codes_and_no_other() {
    has_reasons(PacketType::PubRel, 0x62, &[0x00, 0x92]);
}

/// [MQTT-3.7.2-1]
#[test]
fn pubcomp_has_its_reason_codes_and_no_other() {
    has_reasons(PacketType::PubComp, 0x70, &[0x00, 0x92]);
}

/// What is sent of a Reason String and a User Property to a peer that takes packets up to each size.
#[track_caller]
fn gives_way(packet_type: PacketType) {
    let (reason, user) = (Property::ReasonString("because"), Property::UserProperty("a", "b"));
    let list = [reason, user];
    let packet = ack(packet_type, ReasonCode::PACKET_IDENTIFIER_NOT_FOUND, Properties::new(&list));
    let packet = match packet_type {
        PacketType::PubAck | PacketType::PubRec => {
            ack(packet_type, ReasonCode::QUOTA_EXCEEDED, Properties::new(&list))
        }
        _ => packet,
    };
    let whole = encoded(&packet, Version::V5).expect("a valid packet").len() as u32;
    // A User Property of 7 bytes goes first, then the Reason String with the Property Length.
    for (size, kept) in [(whole, &list[..]), (whole - 1, &[reason]), (whole - 8, &[]), (5, &[])] {
        let limits = PeerLimits { maximum_packet_size: size, ..PeerLimits::new(Version::V5) };
        let mut out = Vec::new();
        Sender::new(&limits, 0).encode(&packet, &mut out).expect("small enough without them");
        assert!(out.len() <= size as usize);
        let sent = match decode(Version::V5, &out) {
            Ok(Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack)) => ack,
            other => panic!("{other:?}"),
        };
        assert!(sent.properties.iter().eq(kept.iter().copied()), "{size} of {whole} bytes: {sent:?}");
    }
}

/// [MQTT-3.4.2-2] [MQTT-3.4.2-3]
#[test]
fn reason_string_and_user_properties_do_not_make_puback_too_large() {
    gives_way(PacketType::PubAck);
}

/// [MQTT-3.5.2-2] [MQTT-3.5.2-3]
#[test]
fn reason_string_and_user_properties_do_not_make_pubrec_too_large() {
    gives_way(PacketType::PubRec);
}

/// [MQTT-3.6.2-2] [MQTT-3.6.2-3]
#[test]
fn reason_string_and_user_properties_do_not_make_pubrel_too_large() {
    gives_way(PacketType::PubRel);
}

/// [MQTT-3.7.2-2] [MQTT-3.7.2-3]
#[test]
fn reason_string_and_user_properties_do_not_make_pubcomp_too_large() {
    gives_way(PacketType::PubComp);
}

const ACKS: [(PacketType, u8); 4] = [
    (PacketType::PubAck, 0x40),
    (PacketType::PubRec, 0x50),
    (PacketType::PubRel, 0x62),
    (PacketType::PubComp, 0x70),
];

/// Sections 3.4.2.1, 3.5.2.1, 3.6.2.1 and 3.7.2.1: a Reason Code that is left out is success.
#[test]
fn an_acknowledgement_may_leave_out_that_it_succeeded() {
    for (packet_type, first) in ACKS {
        let success = ack(packet_type, ReasonCode::SUCCESS, Properties::EMPTY);
        for bytes in [&[first, 2, 0, 1][..], &[first, 3, 0, 1, 0], &[first, 4, 0, 1, 0, 0]] {
            assert_eq!(decode(Version::V5, bytes), Ok(success));
        }
        assert_eq!(encoded(&success, Version::V5), Ok(vec![first, 2, 0, 1]));
    }
}

/// Sections 3.4.2.2, 3.5.2.2, 3.6.2.2 and 3.7.2.2: a Reason String once, User Properties any number of times, no other.
#[test]
fn an_acknowledgement_has_its_properties_and_no_other() {
    let because = [0x1F, 0, 1, b'x'];
    let user = [0x26, 0, 0, 0, 0];
    for (_, first) in ACKS {
        let with = |properties: &[u8]| {
            let mut bytes = vec![first, properties.len() as u8 + 4, 0, 1, 0, properties.len() as u8];
            bytes.extend(properties);
            decode(Version::V5, &bytes).map(|_| ())
        };
        assert_eq!(with(&[&user[..], &because, &user].concat()), Ok(()));
        let twice = DecodeError::DuplicateProperty(PropertyId::ReasonString);
        assert_eq!(with(&[because, because].concat()), Err(twice));
        assert_eq!(
            with(&[0x01, 0]),
            Err(DecodeError::PropertyNotAllowed(PropertyId::PayloadFormatIndicator))
        );
    }
}

/// Sections 3.4.2, 3.5.2, 3.6.2 and 3.7.2 of 3.1.1: a Packet Identifier and nothing else.
#[test]
fn before_5_an_acknowledgement_is_its_packet_identifier() {
    for version in [Version::V3_1, Version::V3_1_1] {
        for (packet_type, first) in ACKS {
            let refused = ack(packet_type, ReasonCode(0x80), Properties::EMPTY);
            assert_eq!(encoded(&refused, version), Ok(vec![first, 2, 0, 1]));
            assert_eq!(decode(version, &[first, 3, 0, 1, 0]), Err(DecodeError::TrailingBytes(1)));
            assert_eq!(decode(version, &[first, 1, 0]), Err(DecodeError::Truncated));
        }
    }
}
