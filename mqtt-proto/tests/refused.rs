//! What the encoder refuses, each by its error, in `encode` and `encoded_len` alike and without a byte written; and the
//! largest packets there are.

use mqtt_proto::{
    Auth, ConnAck, Connect, EncodeError, Filters, Packet, PacketId, PacketType, Properties, Property,
    Publish, Qos, ReasonCode, Reasons, SubAck, Subscribe, Subscription, SubscriptionOptions, Subscriptions,
    TopicName, UnsubAck, Unsubscribe, Version, encode, encode_publish, encoded_len,
};

const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

/// The largest Remaining Length.
const REMAINING_LENGTH_MAX: usize = 268_435_455;

fn publish(qos: Qos, packet_id: Option<PacketId>) -> Publish<'static> {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: TopicName::new("a").ok(),
        packet_id,
        properties: Properties::EMPTY,
        payload: b"",
    }
}

fn connect(version: Version) -> Connect<'static> {
    Connect::new(version, "c")
}

#[track_caller]
fn refused(packet: &Packet<'_>, version: Version, error: EncodeError) {
    let mut out = vec![7];
    assert_eq!(encode(packet, version, &mut out), Err(error), "{packet:?}");
    assert_eq!(out, [7], "nothing is appended");
    assert_eq!(encoded_len(packet, version), Err(error));
}

#[track_caller]
fn taken(packet: &Packet<'_>, version: Version) {
    let mut out = Vec::new();
    assert_eq!(encode(packet, version, &mut out), Ok(()), "{packet:?}");
    assert_eq!(encoded_len(packet, version), Ok(out.len()));
}

/// [MQTT-3.3.1-2] [MQTT-2.2.1-2]
#[test]
fn a_publish_has_dup_and_packet_identifier_above_qos_0_only() {
    let id = Some(PacketId::FIRST);
    for version in VERSIONS {
        let at_most_once = publish(Qos::AtMostOnce, None);
        taken(&Packet::Publish(at_most_once), version);
        refused(&Packet::Publish(Publish { dup: true, ..at_most_once }), version, EncodeError::DupAtQos0);
        refused(&Packet::Publish(publish(Qos::AtMostOnce, id)), version, EncodeError::PacketId);
        for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
            taken(&Packet::Publish(publish(qos, id)), version);
            taken(&Packet::Publish(Publish { dup: true, ..publish(qos, id) }), version);
            refused(&Packet::Publish(publish(qos, None)), version, EncodeError::PacketId);
        }
    }
}

#[test]
fn a_publish_has_a_topic_or_a_topic_alias() {
    let alias = [Property::TopicAlias(1)];
    let without = Publish { topic: None, ..publish(Qos::AtMostOnce, None) };
    let aliased = Publish { properties: Properties::new(&alias), ..without };
    taken(&Packet::Publish(aliased), Version::V5);
    for version in [Version::V3_1, Version::V3_1_1] {
        refused(&Packet::Publish(aliased), version, EncodeError::MissingTopic);
    }
    refused(&Packet::Publish(without), Version::V5, EncodeError::MissingTopic);
}

/// [MQTT-3.1.2-22 v3.1.1]
#[test]
fn a_password_needs_a_user_name_before_5() {
    for version in VERSIONS {
        let alone = Connect { password: Some(b"p"), ..connect(version) };
        let both = Connect { user_name: Some("u"), ..alone };
        taken(&Packet::Connect(both), version);
        taken(&Packet::Connect(Connect { password: None, ..both }), version);
        if version == Version::V5 {
            taken(&Packet::Connect(alone), version);
        } else {
            refused(&Packet::Connect(alone), version, EncodeError::PasswordWithoutUserName);
        }
    }
}

#[test]
fn authentication_data_needs_its_method() {
    let data = [Property::AuthenticationData(b"d")];
    let properties = Properties::new(&data);
    let missing = EncodeError::MissingAuthenticationMethod;
    refused(&Packet::Connect(Connect { properties, ..connect(Version::V5) }), Version::V5, missing);
    let reason = ReasonCode::CONTINUE_AUTHENTICATION;
    refused(&Packet::Auth(Auth { reason, properties }), Version::V5, missing);
    refused(&Packet::Auth(Auth { reason, properties: Properties::EMPTY }), Version::V5, missing);
    let reason = ReasonCode::SUCCESS;
    refused(&Packet::Auth(Auth { reason, properties }), Version::V5, missing);
    taken(&Packet::Auth(Auth { reason, properties: Properties::EMPTY }), Version::V5);
}

/// [MQTT-3.2.2-6]
#[test]
fn a_refusal_has_no_session() {
    for version in VERSIONS {
        for (session_present, reason) in [
            (true, ReasonCode::SUCCESS),
            (false, ReasonCode::NOT_AUTHORIZED),
            (true, ReasonCode::NOT_AUTHORIZED),
        ] {
            let connack = Packet::ConnAck(ConnAck { session_present, reason, properties: Properties::EMPTY });
            if session_present && reason.is_error() {
                refused(&connack, version, EncodeError::SessionPresentWithError);
            } else {
                taken(&connack, version);
            }
        }
    }
}

/// [MQTT-3.8.3-2] [MQTT-3.10.3-2]
#[test]
fn a_list_has_an_entry() {
    let (packet_id, properties) = (PacketId::FIRST, Properties::EMPTY);
    for version in VERSIONS {
        let subscribe = Subscribe { packet_id, properties, subscriptions: Subscriptions::new(&[]) };
        refused(&Packet::Subscribe(subscribe), version, EncodeError::EmptyPayload);
        let unsubscribe = Unsubscribe { packet_id, properties, filters: Filters::new(&[]) };
        refused(&Packet::Unsubscribe(unsubscribe), version, EncodeError::EmptyPayload);
        let suback = SubAck { packet_id, properties, reasons: Reasons(&[]) };
        refused(&Packet::SubAck(suback), version, EncodeError::EmptyPayload);
        let unsuback = Packet::UnsubAck(UnsubAck { packet_id, properties, reasons: Reasons(&[]) });
        if version == Version::V5 {
            refused(&unsuback, version, EncodeError::EmptyPayload);
        } else {
            taken(&unsuback, version);
        }
    }
}

/// [MQTT-3.8.3-4]
#[test]
fn a_shared_subscription_has_no_no_local() {
    for (filter, no_local) in [("$share/g/a", true), ("$share/g/a", false), ("$shared/a", true), ("a", true)]
    {
        let options = SubscriptionOptions { no_local, ..SubscriptionOptions::new(Qos::AtMostOnce) };
        let list = [Subscription { filter, options }];
        let packet = Packet::Subscribe(Subscribe {
            packet_id: PacketId::FIRST,
            properties: Properties::EMPTY,
            subscriptions: Subscriptions::new(&list),
        });
        if no_local && filter.starts_with("$share/") {
            refused(&packet, Version::V5, EncodeError::NoLocalOnShared);
        } else {
            taken(&packet, Version::V5);
        }
        // Only the QoS is said before 5.0.
        taken(&packet, Version::V3_1_1);
    }
}

/// [MQTT-1.5.4-2]
#[test]
fn strings_have_no_null_and_fields_have_an_end() {
    let long = "x".repeat(65_536);
    for version in VERSIONS {
        let plain = Connect { user_name: Some("u"), ..connect(version) };
        for (packet, error) in [
            (Connect { client_id: "a\0b", ..plain }, EncodeError::NullCharacter),
            (Connect { user_name: Some("\0"), ..plain }, EncodeError::NullCharacter),
            (Connect { client_id: &long, ..plain }, EncodeError::FieldTooLong),
            (Connect { user_name: Some(&long), ..plain }, EncodeError::FieldTooLong),
            (Connect { password: Some(long.as_bytes()), ..plain }, EncodeError::FieldTooLong),
        ] {
            refused(&Packet::Connect(packet), version, error);
        }
        taken(&Packet::Connect(Connect { client_id: &long[1..], ..plain }), version);
        taken(&Packet::Connect(Connect { password: Some(&long.as_bytes()[1..]), ..plain }), version);
        taken(&Packet::Connect(Connect { password: Some(b"a\0b"), ..plain }), version);
    }
}

/// Nothing of the payload is looked at: the pages of a zeroed vector need not even exist.
#[test]
fn a_publish_of_the_largest_remaining_length_is_the_largest() {
    let payload = vec![0; REMAINING_LENGTH_MAX];
    for (version, rest) in [(Version::V3_1_1, 2 + 1), (Version::V5, 2 + 1 + 1)] {
        let fitting = Publish { payload: &payload[rest..], ..publish(Qos::AtMostOnce, None) };
        let packet = Packet::Publish(fitting);
        assert_eq!(encoded_len(&packet, version), Ok(5 + REMAINING_LENGTH_MAX));
        let too_large = Publish { payload: &payload[rest - 1..], ..fitting };
        refused(&Packet::Publish(too_large), version, EncodeError::PacketTooLarge);
        let error = encode_publish(&too_large, version, &mut Vec::new());
        assert_eq!(error, Err(EncodeError::PacketTooLarge));
    }
}

#[test]
fn a_list_of_the_largest_remaining_length_is_the_largest() {
    let long = "x".repeat(65_535);
    let mut filters = vec![&*long; 4_095];
    // Packet Identifier, 4,095 filters of 65,537 bytes, the length of one more.
    let rest = REMAINING_LENGTH_MAX - 2 - 4_095 * 65_537 - 2;
    filters.push(&long[..rest]);
    let with = |filters: &[&str], packet_type| {
        let packet = Packet::Unsubscribe(Unsubscribe {
            packet_id: PacketId::FIRST,
            properties: Properties::EMPTY,
            filters: Filters::new(filters),
        });
        assert_eq!(packet.packet_type(), packet_type);
        encoded_len(&packet, Version::V3_1_1)
    };
    assert_eq!(with(&filters, PacketType::Unsubscribe), Ok(5 + REMAINING_LENGTH_MAX));
    filters[4_095] = &long[..rest + 1];
    assert_eq!(with(&filters, PacketType::Unsubscribe), Err(EncodeError::PacketTooLarge));
}

/// Their length alone passes what a Property Length can say.
#[test]
fn properties_of_more_than_a_packet_are_too_large() {
    let long = "x".repeat(65_535);
    let properties = vec![Property::UserProperty(&long, &long); 2_048];
    let publish = Publish { properties: Properties::new(&properties), ..publish(Qos::AtMostOnce, None) };
    refused(&Packet::Publish(publish), Version::V5, EncodeError::PacketTooLarge);
    let connect = Connect { properties: Properties::new(&properties), ..connect(Version::V5) };
    refused(&Packet::Connect(connect), Version::V5, EncodeError::PacketTooLarge);
}
