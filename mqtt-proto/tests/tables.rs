//! The tables of the standard, written down a second time: which packet may carry which property (table 2-4) and which
//! Reason Code (sections 2.4 and 3.2 to 3.15), in both directions.

use mqtt_proto::{
    Ack, Auth, ConnAck, Connect, DecodeError, Disconnect, EncodeError, Filters, Packet, PacketId, PacketType,
    Properties, Property, PropertyId, Publish, Qos, ReasonCode, Reasons, SubAck, Subscribe, Subscription,
    SubscriptionOptions, Subscriptions, TopicName, UnsubAck, Unsubscribe, Version, Will, decode, encode,
    encoded_len,
};

const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

/// Where a property may be: the packets, and the Will Message as a part of CONNECT.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    In(PacketType),
    Will,
}

use PacketType as T;
use Place::{In, Will as InWill};

const PLACES: [Place; 14] = [
    In(T::Connect),
    InWill,
    In(T::ConnAck),
    In(T::Publish),
    In(T::PubAck),
    In(T::PubRec),
    In(T::PubRel),
    In(T::PubComp),
    In(T::Subscribe),
    In(T::SubAck),
    In(T::Unsubscribe),
    In(T::UnsubAck),
    In(T::Disconnect),
    In(T::Auth),
];

/// A property of one byte that is 0 or 1.
type Flag = fn(u8) -> Property<'static>;

/// Table 2-4, with values at the edges of what is allowed, and beyond.
fn table() -> Vec<(&'static [Place], Vec<Property<'static>>, Vec<Property<'static>>)> {
    use Property as P;
    const MESSAGE: &[Place] = &[In(T::Publish), InWill];
    const CONNACK: &[Place] = &[In(T::ConnAck)];
    const AUTHENTICATION: &[Place] = &[In(T::Connect), In(T::ConnAck), In(T::Auth)];
    const LIMITS: &[Place] = &[In(T::Connect), In(T::ConnAck)];
    let long: &'static str = Box::leak("x".repeat(65_535).into_boxed_str());
    let texts = ["", "é", long];
    let flags = |make: Flag| (vec![make(0), make(1)], vec![make(2), make(255)]);
    let mut rows = vec![
        (MESSAGE, vec![P::MessageExpiryInterval(0), P::MessageExpiryInterval(u32::MAX)], vec![]),
        (MESSAGE, texts.map(P::ContentType).to_vec(), vec![P::ContentType("\0")]),
        (MESSAGE, vec![P::ResponseTopic("a"), P::ResponseTopic(long)], vec![P::ResponseTopic("a/+")]),
        (MESSAGE, vec![P::CorrelationData(b""), P::CorrelationData(long.as_bytes())], vec![]),
        (
            &[In(T::Publish), In(T::Subscribe)],
            [1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 268_435_455]
                .map(P::SubscriptionIdentifier)
                .to_vec(),
            vec![P::SubscriptionIdentifier(0), P::SubscriptionIdentifier(268_435_456)],
        ),
        (
            &[In(T::Connect), In(T::ConnAck), In(T::Disconnect)],
            vec![P::SessionExpiryInterval(0), P::SessionExpiryInterval(u32::MAX)],
            vec![],
        ),
        (CONNACK, texts.map(P::AssignedClientIdentifier).to_vec(), vec![P::AssignedClientIdentifier("\0")]),
        (CONNACK, vec![P::ServerKeepAlive(0), P::ServerKeepAlive(u16::MAX)], vec![]),
        (AUTHENTICATION, texts.map(P::AuthenticationMethod).to_vec(), vec![P::AuthenticationMethod("\0")]),
        (AUTHENTICATION, vec![P::AuthenticationData(b"\0")], vec![]),
        (&[InWill], vec![P::WillDelayInterval(0), P::WillDelayInterval(u32::MAX)], vec![]),
        (CONNACK, texts.map(P::ResponseInformation).to_vec(), vec![P::ResponseInformation("\0")]),
        (
            &[In(T::ConnAck), In(T::Disconnect)],
            texts.map(P::ServerReference).to_vec(),
            vec![P::ServerReference("\0")],
        ),
        (
            &[
                In(T::ConnAck),
                In(T::PubAck),
                In(T::PubRec),
                In(T::PubRel),
                In(T::PubComp),
                In(T::SubAck),
                In(T::UnsubAck),
                In(T::Disconnect),
                In(T::Auth),
            ],
            texts.map(P::ReasonString).to_vec(),
            vec![P::ReasonString("\0")],
        ),
        (LIMITS, vec![P::ReceiveMaximum(1), P::ReceiveMaximum(u16::MAX)], vec![P::ReceiveMaximum(0)]),
        (LIMITS, vec![P::TopicAliasMaximum(0), P::TopicAliasMaximum(u16::MAX)], vec![]),
        (&[In(T::Publish)], vec![P::TopicAlias(1), P::TopicAlias(u16::MAX)], vec![P::TopicAlias(0)]),
        (
            &PLACES,
            vec![P::UserProperty("", ""), P::UserProperty("name", long), P::UserProperty(long, "value")],
            vec![P::UserProperty("\0", ""), P::UserProperty("", "\0")],
        ),
        (
            LIMITS,
            vec![P::MaximumPacketSize(1), P::MaximumPacketSize(u32::MAX)],
            vec![P::MaximumPacketSize(0)],
        ),
    ];
    let flagged: [(&[Place], Flag); 8] = [
        (MESSAGE, P::PayloadFormatIndicator),
        (&[In(T::Connect)], P::RequestProblemInformation),
        (&[In(T::Connect)], P::RequestResponseInformation),
        (CONNACK, P::MaximumQos),
        (CONNACK, P::RetainAvailable),
        (CONNACK, P::WildcardSubscriptionAvailable),
        (CONNACK, P::SubscriptionIdentifierAvailable),
        (CONNACK, P::SharedSubscriptionAvailable),
    ];
    rows.extend(flagged.map(|(places, make)| {
        let (right, wrong) = flags(make);
        (places, right, wrong)
    }));
    rows
}

/// Calls `look` with a packet that is valid but for its properties, which are at `place`, or for its `reason`.
fn with_packet<R>(
    place: Place,
    properties: Properties<'_>,
    reason: ReasonCode,
    look: impl FnOnce(&Packet<'_>) -> R,
) -> R {
    let packet_id = PacketId::FIRST;
    let ack = Ack { packet_id, reason, properties };
    let codes = [reason.0];
    let subscription = [Subscription { filter: "a", options: SubscriptionOptions::new(Qos::AtMostOnce) }];
    let topic = TopicName::new("a").expect("a topic");
    let (own, of_will) =
        if place == InWill { (Properties::EMPTY, properties) } else { (properties, Properties::EMPTY) };
    let will = Will { topic, payload: b"", qos: Qos::AtMostOnce, retain: false, properties: of_will };
    look(&match place {
        InWill | In(T::Connect) => Packet::Connect(Connect {
            properties: own,
            will: (place == InWill).then_some(will),
            ..Connect::new(Version::V5, "c")
        }),
        In(T::ConnAck) => Packet::ConnAck(ConnAck { session_present: false, reason, properties }),
        In(T::Publish) => Packet::Publish(Publish {
            dup: false,
            qos: Qos::AtMostOnce,
            retain: false,
            topic: Some(topic),
            packet_id: None,
            properties,
            payload: b"",
        }),
        In(T::PubAck) => Packet::PubAck(ack),
        In(T::PubRec) => Packet::PubRec(ack),
        In(T::PubRel) => Packet::PubRel(ack),
        In(T::PubComp) => Packet::PubComp(ack),
        In(T::Subscribe) => Packet::Subscribe(Subscribe {
            packet_id,
            properties,
            subscriptions: Subscriptions::new(&subscription),
        }),
        In(T::SubAck) => Packet::SubAck(SubAck { packet_id, properties, reasons: Reasons(&codes) }),
        In(T::Unsubscribe) => {
            Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters: Filters::new(&["a"]) })
        }
        In(T::UnsubAck) => Packet::UnsubAck(UnsubAck { packet_id, properties, reasons: Reasons(&codes) }),
        In(T::PingReq) => Packet::PingReq,
        In(T::PingResp) => Packet::PingResp,
        In(T::Disconnect) => Packet::Disconnect(Disconnect { reason, properties }),
        In(T::Auth) => Packet::Auth(Auth { reason, properties }),
    })
}

/// What AUTH and Authentication Data need beside them.
fn company(place: Place, property: &Property<'_>) -> Vec<Property<'static>> {
    let method = match place {
        In(T::Auth) => property.id() != PropertyId::AuthenticationMethod,
        In(T::Connect) => property.id() == PropertyId::AuthenticationData,
        _ => false,
    };
    if method { vec![Property::AuthenticationMethod("m")] } else { Vec::new() }
}

/// The bytes of a packet with these properties at `place`, whatever the encoder thinks of them. They are put where a
/// User Property stood that no packet refuses.
fn forged(place: Place, properties: &[Property<'_>]) -> Vec<u8> {
    const PLACEHOLDER: Property<'static> = Property::UserProperty("placeholder", "");
    let wire = |properties: &[Property<'_>]| {
        let mut out = Vec::new();
        for property in properties {
            mqtt_proto::codec::encode_property(property, &mut out).expect("short enough");
        }
        out
    };
    let mut frame = Vec::new();
    with_packet(place, Properties::from_wire(&wire(&[PLACEHOLDER])), ReasonCode::SUCCESS, |packet| {
        // AUTH needs its method, which the forged properties bring along.
        let method = [Property::AuthenticationMethod("m")];
        if let Packet::Auth(auth) = packet {
            let auth = Auth { properties: auth.properties.with_list(&method), ..*auth };
            encode(&Packet::Auth(auth), Version::V5, &mut frame).expect("valid");
        } else {
            encode(packet, Version::V5, &mut frame).expect("valid");
        }
    });
    let mut placed = wire(&[PLACEHOLDER]);
    if place == In(T::Auth) {
        placed.extend(wire(&[Property::AuthenticationMethod("m")]));
    }
    let at = frame.windows(placed.len()).position(|bytes| bytes == placed).expect("it was encoded");
    let wanted = wire(properties);
    let mut body = frame[2..at - 1].to_vec();
    body.extend(variable_byte_integer(wanted.len()));
    body.extend_from_slice(&wanted);
    body.extend_from_slice(&frame[at + placed.len()..]);
    let mut forged = vec![frame[0]];
    forged.extend(variable_byte_integer(body.len()));
    forged.extend(body);
    forged
}

fn variable_byte_integer(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 127 {
        bytes.push((value % 128) as u8 | 128);
        value /= 128;
    }
    bytes.push(value as u8);
    bytes
}

#[test]
fn every_property_is_taken_and_sent_where_table_2_4_has_it_and_only_there() {
    let mut seen = Vec::new();
    for (places, values, _) in table() {
        seen.push(values[0].id());
        for (place, property) in
            PLACES.iter().flat_map(|place| values.iter().map(move |value| (*place, value)))
        {
            let mut list = company(place, property);
            list.push(*property);
            let refused = !places.contains(&place);
            let bytes = forged(place, &list);
            let decoded = decode(Version::V5, &bytes);
            with_packet(place, Properties::new(&list), ReasonCode::SUCCESS, |packet| {
                let mut out = Vec::new();
                let encoded = encode(packet, Version::V5, &mut out);
                if refused {
                    let id = property.id();
                    assert_eq!(decoded, Err(DecodeError::PropertyNotAllowed(id)), "{place:?}");
                    assert_eq!(encoded, Err(EncodeError::PropertyNotAllowed(id)), "{place:?}");
                    assert!(out.is_empty());
                } else {
                    assert_eq!((encoded, &out), (Ok(()), &bytes), "{place:?}");
                    assert_eq!(encoded_len(packet, Version::V5), Ok(out.len()));
                    assert_eq!(decoded, Ok(*packet));
                }
            });
        }
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 27, "every property of the standard");
}

#[test]
fn every_property_has_its_range_and_may_be_there_once() {
    for (places, values, wrong) in table() {
        for &place in places {
            let id = values[0].id();
            let before = company(place, &values[0]);
            for value in &wrong {
                let list: Vec<_> = before.iter().chain([value]).copied().collect();
                with_packet(place, Properties::new(&list), ReasonCode::SUCCESS, |packet| {
                    assert!(encode(packet, Version::V5, &mut Vec::new()).is_err(), "{value:?}");
                    assert!(encoded_len(packet, Version::V5).is_err(), "{value:?}");
                });
                // What the primitives of the format cannot say cannot be forged either.
                let unspeakable = matches!(value, Property::SubscriptionIdentifier(0x1000_0000..));
                if !unspeakable && mqtt_proto::codec::encode_property(value, &mut Vec::new()).is_ok() {
                    let error = decode(Version::V5, &forged(place, &list)).expect_err("out of its range");
                    assert!(error.reason_code().is_error());
                    assert_ne!(error, DecodeError::PropertyNotAllowed(id));
                }
            }

            let twice: Vec<_> = before.iter().chain([&values[0]; 2]).copied().collect();
            let repeatable = id == PropertyId::UserProperty
                || id == PropertyId::SubscriptionIdentifier && place == In(T::Publish);
            let decoded = decode(Version::V5, &forged(place, &twice)).err();
            assert_eq!(decoded, (!repeatable).then_some(DecodeError::DuplicateProperty(id)), "{place:?}");
            with_packet(place, Properties::new(&twice), ReasonCode::SUCCESS, |packet| {
                let encoded = encode(packet, Version::V5, &mut Vec::new()).err();
                assert_eq!(encoded, (!repeatable).then_some(EncodeError::DuplicateProperty(id)));
            });
        }
    }
}

/// All properties of a packet at once: their order and their lengths together survive.
#[test]
fn a_packet_with_all_of_its_properties_makes_the_round_trip() {
    for place in PLACES {
        let rows = table();
        let mut list: Vec<_> = rows
            .iter()
            .filter(|(places, ..)| places.contains(&place))
            .map(|(_, values, _)| *values.last().expect("values"))
            .collect();
        for _ in 0..2 {
            with_packet(place, Properties::new(&list), ReasonCode::SUCCESS, |packet| {
                let mut out = Vec::new();
                encode(packet, Version::V5, &mut out).expect("valid");
                assert_eq!(encoded_len(packet, Version::V5), Ok(out.len()));
                assert_eq!(decode(Version::V5, &out), Ok(*packet));
            });
            list.reverse();
        }
    }
}

/// The Reason Codes of each packet's own table.
fn codes(packet_type: PacketType) -> &'static [u8] {
    match packet_type {
        T::ConnAck => &[
            0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97,
            0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
        ],
        T::PubAck | T::PubRec => &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
        T::PubRel | T::PubComp => &[0x00, 0x92],
        T::SubAck => &[0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2],
        T::UnsubAck => &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91],
        // 0x8C by the table of section 2.4 alone.
        T::Disconnect => &[
            0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94,
            0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
        ],
        T::Auth => &[0x00, 0x18, 0x19],
        T::Connect | T::Publish | T::Subscribe | T::Unsubscribe | T::PingReq | T::PingResp => &[],
    }
}

/// [MQTT-3.2.2-8] [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.6.2-1] [MQTT-3.7.2-1] [MQTT-3.9.3-2] [MQTT-3.11.3-2]
/// [MQTT-3.14.2-1] [MQTT-3.15.2-1]
#[test]
fn every_reason_code_is_taken_and_sent_in_its_packets_and_no_other() {
    let method = [Property::AuthenticationMethod("m")];
    for place in PLACES {
        let In(packet_type) = place else { continue };
        let allowed = codes(packet_type);
        if allowed.is_empty() {
            continue;
        }
        let properties = if packet_type == T::Auth { Properties::new(&method) } else { Properties::EMPTY };
        let mut frame = Vec::new();
        with_packet(place, properties, ReasonCode(*allowed.last().expect("codes")), |packet| {
            encode(packet, Version::V5, &mut frame).expect("valid");
        });
        let at = match packet_type {
            T::ConnAck => 3,
            T::Disconnect | T::Auth => 2,
            T::SubAck | T::UnsubAck => 5,
            _ => 4,
        };
        for code in 0..=255 {
            frame[at] = code;
            let decoded = decode(Version::V5, &frame).map(|_| ());
            let encoded = with_packet(place, properties, ReasonCode(code), |packet| {
                encode(packet, Version::V5, &mut Vec::new())
            });
            if allowed.contains(&code) {
                assert_eq!((decoded, encoded), (Ok(()), Ok(())), "{packet_type:?} with {code:#04x}");
            } else {
                assert_eq!(decoded, Err(DecodeError::ReasonCode(code)), "{packet_type:?}");
                assert_eq!(encoded, Err(EncodeError::ReasonCode(ReasonCode(code))), "{packet_type:?}");
            }
        }
    }
}

/// Before 5.0 there are six Connect Return codes and four of SUBACK; whatever 5.0 can say is said by one of them.
#[test]
fn older_versions_have_few_codes_and_find_one_for_each() {
    for version in [Version::V3_1, Version::V3_1_1] {
        for code in 0..=255 {
            let connack = decode(version, &[0x20, 2, 0, code]).is_ok();
            assert_eq!(connack, code <= 5, "CONNACK with {code:#04x}");
            let suback = decode(version, &[0x90, 3, 0, 1, code]).is_ok();
            assert_eq!(suback, code <= 2 || code == 0x80, "SUBACK with {code:#04x}");
        }
        let answers = [T::ConnAck, T::PubAck, T::PubRec, T::PubRel, T::PubComp, T::SubAck, T::UnsubAck];
        for packet_type in answers.into_iter().chain([T::Disconnect]) {
            for &code in codes(packet_type) {
                let mut out = Vec::new();
                with_packet(In(packet_type), Properties::EMPTY, ReasonCode(code), |packet| {
                    encode(packet, version, &mut out).expect("any code of 5.0 can be said");
                    assert_eq!(encoded_len(packet, version), Ok(out.len()));
                });
                let said = match decode(version, &out).expect("one of the version's own") {
                    Packet::ConnAck(connack) => connack.reason,
                    Packet::SubAck(suback) => suback.reasons.iter().next().expect("one"),
                    // An acknowledgement or a DISCONNECT without a code.
                    _ => ReasonCode(code),
                };
                assert_eq!(said.is_error(), code >= 0x80, "{packet_type:?} with {code:#04x}");
            }
        }
    }
}

/// What a version does not have is refused in both directions.
#[test]
fn auth_is_the_only_packet_that_older_versions_lack() {
    for version in VERSIONS {
        for place in PLACES.into_iter().chain([In(T::PingReq), In(T::PingResp)]) {
            let mut out = Vec::new();
            let encoded = with_packet(place, Properties::EMPTY, ReasonCode::SUCCESS, |packet| {
                encode(packet, version, &mut out)
            });
            if place == In(T::Auth) && version != Version::V5 {
                assert_eq!(encoded, Err(EncodeError::NotInVersion(T::Auth)));
                assert_eq!(decode(version, &[0xF0, 0]), Err(DecodeError::ForbiddenPacketType(15)));
            } else {
                assert_eq!(encoded, Ok(()), "{place:?}");
                assert!(decode(version, &out).is_ok(), "{place:?} in {version:?}");
            }
        }
    }
}
