//! SUBSCRIBE, SUBACK, UNSUBSCRIBE and UNSUBACK as packets, and as a Client keeps track of them: sections 3.8 to 3.11.

use mqtt_proto::{
    DecodeError, EncodeError, Filters, Packet, PacketId, PacketType, Properties, Property, PropertyId,
    Reasons, RetainHandling, SubAck, Subscribe, Subscription, SubscriptionOptions, Subscriptions, UnsubAck,
    Unsubscribe, Version, decode,
};

use crate::{VERSIONS, encoded, gives_up_in_turn};

const ID: [u8; 2] = [0x12, 0x34];

fn id() -> PacketId {
    PacketId::new(0x1234).expect("not 0")
}

/// A packet of this first byte: Packet Identifier, no properties, payload.
fn frame(version: Version, first: u8, payload: &[u8]) -> Vec<u8> {
    let mut body = ID.to_vec();
    if version == Version::V5 {
        body.push(0);
    }
    body.extend(payload);
    let mut frame = vec![first, body.len() as u8];
    frame.extend(body);
    frame
}

/// A Topic Filter as SUBSCRIBE and UNSUBSCRIBE carry it.
fn filter(text: &[u8]) -> Vec<u8> {
    let mut bytes = (text.len() as u16).to_be_bytes().to_vec();
    bytes.extend(text);
    bytes
}

fn subscribe(version: Version, text: &[u8], options: u8) -> Vec<u8> {
    frame(version, 0x82, &[&filter(text)[..], &[options]].concat())
}

fn unsubscribe(version: Version, text: &[u8]) -> Vec<u8> {
    frame(version, 0xA2, &filter(text))
}

fn subscribe_to<'a>(list: &'a [Subscription<'a>]) -> Packet<'a> {
    let (properties, subscriptions) = (Properties::EMPTY, Subscriptions::new(list));
    Packet::Subscribe(Subscribe { packet_id: id(), properties, subscriptions })
}

fn unsubscribe_from<'a>(list: &'a [&'a str]) -> Packet<'a> {
    let (properties, filters) = (Properties::EMPTY, Filters::new(list));
    Packet::Unsubscribe(Unsubscribe { packet_id: id(), properties, filters })
}

fn suback<'a>(properties: Properties<'a>, reasons: &'a [u8]) -> Packet<'a> {
    Packet::SubAck(SubAck { packet_id: id(), properties, reasons: Reasons(reasons) })
}

fn unsuback<'a>(properties: Properties<'a>, reasons: &'a [u8]) -> Packet<'a> {
    Packet::UnsubAck(UnsubAck { packet_id: id(), properties, reasons: Reasons(reasons) })
}

#[track_caller]
fn accepts(version: Version, packet: &[u8]) {
    assert!(decode(version, packet).is_ok(), "{version:?} {packet:x?}");
}

#[track_caller]
fn refuses(version: Version, packet: &[u8], why: DecodeError) {
    assert_eq!(decode(version, packet), Err(why), "{version:?} {packet:x?}");
}

/// A packet of this type is read with the flags 0010 alone where nothing is forgiven: 3.1 counts these packets as QoS 1
/// and lets DUP be set.
#[track_caller]
fn has_the_flags_0010(packet_type: PacketType, packet: &Packet<'_>) {
    for version in [Version::V3_1_1, Version::V5] {
        let good = encoded(version, packet).expect("valid");
        assert_eq!(good[0], (packet_type as u8) << 4 | 0b0010);
        accepts(version, &good);
        for flags in (0..16).filter(|flags| *flags != 0b0010) {
            let mut bad = good.clone();
            bad[0] = good[0] & 0xF0 | flags;
            refuses(version, &bad, DecodeError::ReservedFlags { packet_type, flags });
        }
    }
}

/// The Topic Filter of a packet is UTF-8.
#[track_caller]
fn has_a_filter_in_utf_8(packet: impl Fn(Version, &[u8]) -> Vec<u8>) {
    for version in VERSIONS {
        accepts(version, &packet(version, "ä/€/😀".as_bytes()));
        for text in [&b"a\xFF"[..], b"\xC3", b"\xED\xA0\x80"] {
            refuses(version, &packet(version, text), DecodeError::Utf8);
        }
    }
}

/// A packet of this first byte, and what encodes to it, has at least one Topic Filter.
#[track_caller]
fn has_a_filter(first: u8, without: &Packet<'_>) {
    for version in VERSIONS {
        refuses(version, &frame(version, first, &[]), DecodeError::EmptyPayload);
        assert_eq!(encoded(version, without), Err(EncodeError::EmptyPayload));
    }
}

/// Of all Reason Codes, exactly `own` are read and written in this answer, behind one that says success.
#[track_caller]
fn has_reasons(first: u8, answer: for<'a> fn(Properties<'a>, &'a [u8]) -> Packet<'a>, own: &[u8]) {
    for code in 0..=255 {
        let written = encoded(Version::V5, &answer(Properties::EMPTY, &[0, code]));
        let packet = frame(Version::V5, first, &[0, code]);
        assert_eq!(written.is_ok(), own.contains(&code), "{code:#x}");
        assert_eq!(decode(Version::V5, &packet).is_ok(), own.contains(&code), "{code:#x}");
    }
}

/// [MQTT-3.8.1-1]
#[test]
fn subscribe_has_the_flags_0010() {
    let list = [Subscription { filter: "a", options: SubscriptionOptions::default() }];
    has_the_flags_0010(PacketType::Subscribe, &subscribe_to(&list));
}

/// [MQTT-3.8.3-1]
#[test]
fn a_filter_of_subscribe_is_utf_8() {
    has_a_filter_in_utf_8(|version, text| subscribe(version, text, 0));
}

/// [MQTT-3.8.3-2] [MQTT-3.8.3-3 v3.1.1]
#[test]
fn subscribe_has_at_least_one_filter() {
    has_a_filter(0x82, &subscribe_to(&[]));
    for version in VERSIONS {
        // A filter without its options is none.
        refuses(version, &frame(version, 0x82, &filter(b"a")), DecodeError::Truncated);
    }
}

/// [MQTT-3.8.3-4]
#[test]
fn no_local_does_not_go_with_a_shared_subscription() {
    let no_local = SubscriptionOptions { no_local: true, ..SubscriptionOptions::default() };
    let wanted = |text, options: u8| subscribe(Version::V5, text, options);
    refuses(Version::V5, &wanted(b"$share/g/a", no_local.to_byte()), DecodeError::NoLocalOnShared);
    let list = [Subscription { filter: "$share/g/a", options: no_local }];
    assert_eq!(encoded(Version::V5, &subscribe_to(&list)), Err(EncodeError::NoLocalOnShared));
    accepts(Version::V5, &wanted(b"$share/g/a", 0));
    accepts(Version::V5, &wanted(b"$shared/g/a", no_local.to_byte()));
}

/// [MQTT-3.8.3-5]
#[test]
fn the_reserved_bits_of_the_subscription_options_are_0() {
    for bit in [0x40, 0x80] {
        let refused = DecodeError::ReservedSubscriptionOptions(bit);
        refuses(Version::V5, &subscribe(Version::V5, b"a", bit), refused);
    }
}

/// [MQTT-3.8.3-4 v3.1.1]
#[test]
fn before_5_the_options_are_a_qos_and_nothing_else() {
    for version in [Version::V3_1, Version::V3_1_1] {
        for options in 0..=2 {
            accepts(version, &subscribe(version, b"a", options));
        }
        for options in [3, 4, 8, 0x10, 0x20, 0x40, 0x80] {
            let refused = DecodeError::ReservedSubscriptionOptions(options);
            refuses(version, &subscribe(version, b"a", options), refused);
        }
    }
}

/// Section 3.8.3.1: each is a Protocol Error.
#[test]
fn neither_maximum_qos_nor_retain_handling_is_3() {
    for options in [3, 0x30] {
        let refused = DecodeError::SubscriptionOptions(options);
        refuses(Version::V5, &subscribe(Version::V5, b"a", options), refused);
    }
    for retain_handling in [RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::DoNotSend] {
        let options = SubscriptionOptions { retain_handling, ..SubscriptionOptions::default() };
        accepts(Version::V5, &subscribe(Version::V5, b"a", options.to_byte()));
    }
}

/// Section 3.8.2.1.2: 1 to 268,435,455, once.
#[test]
fn a_subscription_identifier_is_not_0_and_not_there_twice() {
    let with = |properties: &[u8]| {
        let body = [&ID[..], &[properties.len() as u8], properties, &[0, 1, b'a', 0]].concat();
        [&[0x82, body.len() as u8], &body[..]].concat()
    };
    let id = PropertyId::SubscriptionIdentifier;
    refuses(Version::V5, &with(&[0x0B, 0]), DecodeError::PropertyValue(id));
    refuses(Version::V5, &with(&[0x0B, 1, 0x0B, 1]), DecodeError::DuplicateProperty(id));
    for good in [&[0x0B, 1][..], &[0x0B, 0xFF, 0xFF, 0xFF, 0x7F]] {
        accepts(Version::V5, &with(good));
    }
}

/// [MQTT-3.9.3-2]
#[test]
fn suback_has_its_own_reason_codes_alone() {
    let own = [0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2];
    has_reasons(0x90, suback, &own);
}

/// [MQTT-3.9.3-2 v3.1.1]
#[test]
fn before_5_suback_has_four_codes() {
    for version in [Version::V3_1, Version::V3_1_1] {
        for code in 0..=255 {
            let read = frame(version, 0x90, &[0, code]);
            assert_eq!(decode(version, &read).is_ok(), matches!(code, 0..=2 | 0x80), "{code:#x}");
        }
        let written = encoded(version, &suback(Properties::EMPTY, &[2, 0x8F, 0x97, 0]));
        assert_eq!(written, Ok(frame(version, 0x90, &[2, 0x80, 0x80, 0])));
    }
}

/// [MQTT-3.10.1-1]
#[test]
fn unsubscribe_has_the_flags_0010() {
    has_the_flags_0010(PacketType::Unsubscribe, &unsubscribe_from(&["a"]));
}

/// [MQTT-3.10.3-1]
#[test]
fn a_filter_of_unsubscribe_is_utf_8() {
    has_a_filter_in_utf_8(unsubscribe);
}

/// [MQTT-3.10.3-2]
#[test]
fn unsubscribe_has_at_least_one_filter() {
    has_a_filter(0xA2, &unsubscribe_from(&[]));
}

/// [MQTT-3.11.3-2]
#[test]
fn unsuback_has_its_own_reason_codes_alone() {
    has_reasons(0xB0, unsuback, &[0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91]);
}

/// Section 3.11 of 3.1.1: UNSUBACK has no payload.
#[test]
fn before_5_unsuback_is_a_packet_identifier() {
    for version in [Version::V3_1, Version::V3_1_1] {
        assert_eq!(encoded(version, &unsuback(Properties::EMPTY, &[0])), Ok(frame(version, 0xB0, &[])));
        refuses(version, &frame(version, 0xB0, &[0]), DecodeError::TrailingBytes(1));
    }
}

const DIAGNOSTICS: [Property<'static>; 2] = [Property::ReasonString("why"), Property::UserProperty("k", "v")];

/// [MQTT-3.9.2-1] [MQTT-3.9.2-2]
#[test]
fn suback_gives_up_its_reason_string_and_user_properties_before_it_is_too_large() {
    gives_up_in_turn([0, 1, 2].map(|count| suback(Properties::new(&DIAGNOSTICS[..count]), &[1])));
}

/// [MQTT-3.11.2-1] [MQTT-3.11.2-2]
#[test]
fn unsuback_gives_up_its_reason_string_and_user_properties_before_it_is_too_large() {
    gives_up_in_turn([0, 1, 2].map(|count| unsuback(Properties::new(&DIAGNOSTICS[..count]), &[0])));
}
