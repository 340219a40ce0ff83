//! SUBSCRIBE, SUBACK, UNSUBSCRIBE and UNSUBACK as packets, and as a Client keeps track of them: sections 3.8 to 3.11.

use mqtt_proto::connection::PeerLimits;
use mqtt_proto::{
    DecodeError, EncodeError, Filters, Packet, PacketId, PacketType, Properties, Property, PropertyId,
    Reasons, RetainHandling, Sender, SubAck, Subscribe, Subscription, SubscriptionOptions, Subscriptions,
    UnsubAck, Unsubscribe, Version, decode, encode,
};

use crate::VERSIONS;

/// The versions in which nothing is forgiven: 3.1 counts these packets as QoS 1 and lets DUP be set.
const STRICT: [Version; 2] = [Version::V3_1_1, Version::V5];

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

fn encoded(version: Version, packet: &Packet<'_>) -> Result<Vec<u8>, EncodeError> {
    let mut out = Vec::new();
    encode(packet, version, &mut out).map(|()| out)
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

/// [MQTT-3.8.1-1]
#[test]
fn subscribe_has_the_flags_0010() {
    for version in STRICT {
        let list = [Subscription { filter: "a", options: SubscriptionOptions::default() }];
        let good = encoded(version, &subscribe_to(&list)).expect("valid");
        assert_eq!(good[0], 0x82);
        for flags in (0..16).filter(|flags| *flags != 2) {
            let mut bad = good.clone();
            bad[0] = 0x80 | flags;
            let packet_type = PacketType::Subscribe;
            assert_eq!(decode(version, &bad), Err(DecodeError::ReservedFlags { packet_type, flags }));
        }
        assert!(decode(version, &good).is_ok());
    }
}

/// [MQTT-3.8.3-1]
#[test]
fn a_filter_of_subscribe_is_utf_8() {
    for version in VERSIONS {
        assert!(decode(version, &subscribe(version, "ä/€/😀".as_bytes(), 0)).is_ok());
        for text in [&b"a\xFF"[..], b"\xC3", b"\xED\xA0\x80"] {
            assert_eq!(decode(version, &subscribe(version, text, 0)), Err(DecodeError::Utf8), "{text:x?}");
        }
    }
}

/// [MQTT-3.8.3-2] [MQTT-3.8.3-3 v3.1.1]
#[test]
fn subscribe_has_at_least_one_filter() {
    for version in VERSIONS {
        assert_eq!(decode(version, &frame(version, 0x82, &[])), Err(DecodeError::EmptyPayload));
        assert_eq!(encoded(version, &subscribe_to(&[])), Err(EncodeError::EmptyPayload));
        // A filter without its options is none.
        assert_eq!(decode(version, &frame(version, 0x82, &filter(b"a"))), Err(DecodeError::Truncated));
    }
}

/// [MQTT-3.8.3-4]
#[test]
fn no_local_does_not_go_with_a_shared_subscription() {
    let no_local = SubscriptionOptions { no_local: true, ..SubscriptionOptions::default() };
    let shared = subscribe(Version::V5, b"$share/g/a", no_local.to_byte());
    assert_eq!(decode(Version::V5, &shared), Err(DecodeError::NoLocalOnShared));
    let list = [Subscription { filter: "$share/g/a", options: no_local }];
    assert_eq!(encoded(Version::V5, &subscribe_to(&list)), Err(EncodeError::NoLocalOnShared));
    assert!(decode(Version::V5, &subscribe(Version::V5, b"$share/g/a", 0)).is_ok());
    assert!(decode(Version::V5, &subscribe(Version::V5, b"$shared/g/a", no_local.to_byte())).is_ok());
}

/// [MQTT-3.8.3-5]
#[test]
fn the_reserved_bits_of_the_subscription_options_are_0() {
    for bit in [0x40, 0x80] {
        let refused = Err(DecodeError::ReservedSubscriptionOptions(bit));
        assert_eq!(decode(Version::V5, &subscribe(Version::V5, b"a", bit)), refused);
    }
}

/// [MQTT-3.8.3-4 v3.1.1]
#[test]
fn before_5_the_options_are_a_qos_and_nothing_else() {
    for version in [Version::V3_1, Version::V3_1_1] {
        for options in 0..=2 {
            assert!(decode(version, &subscribe(version, b"a", options)).is_ok());
        }
        for options in [3, 4, 8, 0x10, 0x20, 0x40, 0x80] {
            let refused = Err(DecodeError::ReservedSubscriptionOptions(options));
            assert_eq!(decode(version, &subscribe(version, b"a", options)), refused);
        }
    }
}

/// Section 3.8.3.1: each is a Protocol Error.
#[test]
fn neither_maximum_qos_nor_retain_handling_is_3() {
    for options in [3, 0x30] {
        let refused = Err(DecodeError::SubscriptionOptions(options));
        assert_eq!(decode(Version::V5, &subscribe(Version::V5, b"a", options)), refused);
    }
    for retain_handling in [RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::DoNotSend] {
        let options = SubscriptionOptions { retain_handling, ..SubscriptionOptions::default() };
        assert!(decode(Version::V5, &subscribe(Version::V5, b"a", options.to_byte())).is_ok());
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
    assert_eq!(decode(Version::V5, &with(&[0x0B, 0])), Err(DecodeError::PropertyValue(id)));
    assert_eq!(decode(Version::V5, &with(&[0x0B, 1, 0x0B, 1])), Err(DecodeError::DuplicateProperty(id)));
    for good in [&[0x0B, 1][..], &[0x0B, 0xFF, 0xFF, 0xFF, 0x7F]] {
        assert!(decode(Version::V5, &with(good)).is_ok());
    }
}

/// [MQTT-3.9.3-2]
#[test]
fn suback_has_its_own_reason_codes_alone() {
    let own = [0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2];
    for code in 0..=255 {
        let written = encoded(Version::V5, &suback(Properties::EMPTY, &[0, code]));
        let read = frame(Version::V5, 0x90, &[0, code]);
        assert_eq!(written.is_ok(), own.contains(&code), "{code:#x}");
        assert_eq!(decode(Version::V5, &read).is_ok(), own.contains(&code), "{code:#x}");
    }
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
    for version in STRICT {
        let good = encoded(version, &unsubscribe_from(&["a"])).expect("valid");
        assert_eq!(good[0], 0xA2);
        for flags in (0..16).filter(|flags| *flags != 2) {
            let mut bad = good.clone();
            bad[0] = 0xA0 | flags;
            let packet_type = PacketType::Unsubscribe;
            assert_eq!(decode(version, &bad), Err(DecodeError::ReservedFlags { packet_type, flags }));
        }
        assert!(decode(version, &good).is_ok());
    }
}

/// [MQTT-3.10.3-1]
#[test]
fn a_filter_of_unsubscribe_is_utf_8() {
    for version in VERSIONS {
        assert!(decode(version, &frame(version, 0xA2, &filter("ä/€/😀".as_bytes()))).is_ok());
        for text in [&b"a\xFF"[..], b"\xC3", b"\xED\xA0\x80"] {
            let refused = Err(DecodeError::Utf8);
            assert_eq!(decode(version, &frame(version, 0xA2, &filter(text))), refused, "{text:x?}");
        }
    }
}

/// [MQTT-3.10.3-2]
#[test]
fn unsubscribe_has_at_least_one_filter() {
    for version in VERSIONS {
        assert_eq!(decode(version, &frame(version, 0xA2, &[])), Err(DecodeError::EmptyPayload));
        assert_eq!(encoded(version, &unsubscribe_from(&[])), Err(EncodeError::EmptyPayload));
    }
}

/// [MQTT-3.11.3-2]
#[test]
fn unsuback_has_its_own_reason_codes_alone() {
    let own = [0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91];
    for code in 0..=255 {
        let written = encoded(Version::V5, &unsuback(Properties::EMPTY, &[0, code]));
        let read = frame(Version::V5, 0xB0, &[0, code]);
        assert_eq!(written.is_ok(), own.contains(&code), "{code:#x}");
        assert_eq!(decode(Version::V5, &read).is_ok(), own.contains(&code), "{code:#x}");
    }
}

/// Section 3.11 of 3.1.1: UNSUBACK has no payload.
#[test]
fn before_5_unsuback_is_a_packet_identifier() {
    for version in [Version::V3_1, Version::V3_1_1] {
        assert_eq!(encoded(version, &unsuback(Properties::EMPTY, &[0])), Ok(frame(version, 0xB0, &[])));
        let longer = frame(version, 0xB0, &[0]);
        assert_eq!(decode(version, &longer), Err(DecodeError::TrailingBytes(1)));
    }
}

/// What is sent of `packet`, in place of its Reason String and User Property, to a peer that takes `size` bytes.
fn sent_within(packet: &Packet<'_>, size: u32) -> Vec<u8> {
    let peer = PeerLimits { maximum_packet_size: size, ..PeerLimits::new(Version::V5) };
    let mut out = Vec::new();
    Sender::new(&peer, 0).encode(packet, &mut out).expect("the packet itself fits");
    out
}

const DIAGNOSTICS: [Property<'static>; 2] = [Property::ReasonString("why"), Property::UserProperty("k", "v")];

/// [MQTT-3.9.2-1] [MQTT-3.9.2-2]
#[test]
fn suback_gives_up_its_reason_string_and_user_properties_before_it_is_too_large() {
    let of = |properties| suback(Properties::new(properties), &[1]);
    let whole = encoded(Version::V5, &of(&DIAGNOSTICS)).expect("valid");
    let string_alone = encoded(Version::V5, &of(&DIAGNOSTICS[..1])).expect("valid");
    let bare = encoded(Version::V5, &of(&[])).expect("valid");
    let sent = |size: usize| sent_within(&of(&DIAGNOSTICS), size as u32);
    assert_eq!(sent(whole.len()), whole);
    assert_eq!(sent(whole.len() - 1), string_alone);
    assert_eq!(sent(string_alone.len() - 1), bare);
}

/// [MQTT-3.11.2-1] [MQTT-3.11.2-2]
#[test]
fn unsuback_gives_up_its_reason_string_and_user_properties_before_it_is_too_large() {
    let of = |properties| unsuback(Properties::new(properties), &[0]);
    let whole = encoded(Version::V5, &of(&DIAGNOSTICS)).expect("valid");
    let string_alone = encoded(Version::V5, &of(&DIAGNOSTICS[..1])).expect("valid");
    let bare = encoded(Version::V5, &of(&[])).expect("valid");
    let sent = |size: usize| sent_within(&of(&DIAGNOSTICS), size as u32);
    assert_eq!(sent(whole.len()), whole);
    assert_eq!(sent(whole.len() - 1), string_alone);
    assert_eq!(sent(string_alone.len() - 1), bare);
}
