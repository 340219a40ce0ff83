//! What a Client may not send: each fault closes its connection with the right Reason Code and disturbs nobody else.

use mqtt_broker::config::Limits;
use mqtt_proto::packet::{Ack, Packet, Properties, Property, Publish, Subscribe, Subscriptions};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, TopicName, Version};

use crate::cluster::{ClientId, Cluster, connect, limits, publish};

/// A cluster with a 5.0 Client "c" and another pair that has to work in the end.
struct Stage {
    cluster: Cluster,
    client: ClientId,
    others: [ClientId; 2],
}

fn stage(cores: u16, limits: Limits) -> Stage {
    let mut cluster = Cluster::with_limits(cores, limits);
    let others = ["other-1", "other-2"].map(|name| cluster.connect(0, Version::V5, name));
    cluster.subscribe(others[0], "others", Qos::AtLeastOnce);
    let client = cluster.connect(0, Version::V5, "c");
    Stage { cluster, client, others }
}

impl Stage {
    #[track_caller]
    fn ends_with(mut self, reason: ReasonCode) {
        self.cluster.expect_disconnect(self.client, reason);
        self.cluster.expect_nothing(self.client);
        let [subscriber, publisher] = self.others;
        self.cluster.publish_1(publisher, "others", b"x");
        self.cluster.expect_message(subscriber, "others", b"x");
        assert_eq!(self.cluster.total(|stats| stats.connections), 2);
    }
}

#[test]
fn more_than_the_receive_maximum_is_0x93() {
    for cores in [1, 2, 8] {
        let mut stage = stage(cores, limits(|limits| limits.receive_maximum = 3));
        for n in 1..=3 {
            let publish = publish("a", b"x", Qos::ExactlyOnce, n);
            stage.cluster.send(stage.client, &Packet::Publish(publish));
            stage.cluster.expect(stage.client, |packet| assert!(matches!(packet, Packet::PubRec(_))));
        }
        // QoS 0 and what was received already do not count; a finished flow gives its place back.
        stage.cluster.publish(stage.client, "a", b"x");
        let release = Ack::new(PacketId::new(2).expect("not 0"), ReasonCode::SUCCESS);
        stage.cluster.send(stage.client, &Packet::PubRel(release));
        stage.cluster.expect(stage.client, |packet| assert!(matches!(packet, Packet::PubComp(_))));
        stage.cluster.publish_1(stage.client, "a", b"x");
        stage.cluster.publish_1(stage.client, "a", b"x");
        let fourth = publish("a", b"x", Qos::ExactlyOnce, 4);
        stage.cluster.send(stage.client, &Packet::Publish(fourth));
        stage.cluster.expect(stage.client, |packet| assert!(matches!(packet, Packet::PubRec(_))));
        let fifth = publish("a", b"x", Qos::AtLeastOnce, 5);
        stage.cluster.send(stage.client, &Packet::Publish(fifth));
        stage.ends_with(ReasonCode::RECEIVE_MAXIMUM_EXCEEDED);
    }
}

#[test]
fn a_3_1_1_client_knows_no_receive_maximum() {
    let mut cluster = Cluster::with_limits(1, limits(|limits| limits.receive_maximum = 3));
    let client = cluster.connect(0, Version::V3_1_1, "c");
    for n in 1..=100 {
        cluster.send(client, &Packet::Publish(publish("a", b"x", Qos::ExactlyOnce, n)));
        cluster.expect(client, |packet| assert!(matches!(packet, Packet::PubRec(_))));
    }
    assert!(!cluster.is_closed(client));
}

#[test]
fn a_wrong_topic_alias_is_0x94_or_a_protocol_error() {
    let alias = |topic: Option<&'static str>, alias: u16, expected: ReasonCode| {
        let mut stage = stage(1, limits(|limits| limits.topic_alias_maximum = 5));
        let list = [Property::TopicAlias(alias)];
        let topic = topic.map(|topic| TopicName::new(topic).expect("a topic"));
        let publish =
            Publish { topic, properties: Properties::new(&list), ..publish("a", b"", Qos::AtMostOnce, 0) };
        let mut bytes = Vec::new();
        // Alias 0 has to be written by hand.
        let wanted = if alias == 0 { [Property::TopicAlias(1)] } else { list };
        bytes.extend(stage.cluster.encoded(
            stage.client,
            &Packet::Publish(Publish { properties: Properties::new(&wanted), ..publish }),
        ));
        if alias == 0 {
            let at = bytes.len() - 1;
            bytes[at] = 0;
        }
        stage.cluster.send_bytes(stage.client, &bytes);
        stage.ends_with(expected);
    };
    alias(Some("a"), 0, ReasonCode::TOPIC_ALIAS_INVALID);
    alias(Some("a"), 6, ReasonCode::TOPIC_ALIAS_INVALID);
    alias(None, 5, ReasonCode::PROTOCOL_ERROR);
}

#[test]
fn topic_aliases_end_with_their_connection() {
    for cores in [1, 2] {
        let mut stage = stage(cores, limits(|_| {}));
        stage.cluster.subscribe(stage.others[0], "topic/#", Qos::AtMostOnce);
        let list = [Property::TopicAlias(64)];
        let named =
            Publish { properties: Properties::new(&list), ..publish("topic/1", b"x", Qos::AtMostOnce, 0) };
        let aliased = Publish { topic: None, ..named };
        stage.cluster.send(stage.client, &Packet::Publish(named));
        stage.cluster.send(stage.client, &Packet::Publish(aliased));
        stage.cluster.expect_message(stage.others[0], "topic/1", b"x");
        stage.cluster.expect_message(stage.others[0], "topic/1", b"x");
        stage.client = stage.cluster.connect(0, Version::V5, "c");
        stage.cluster.send(stage.client, &Packet::Publish(aliased));
        stage.ends_with(ReasonCode::PROTOCOL_ERROR);
    }
}

#[test]
fn a_packet_larger_than_allowed_is_0x95_as_soon_as_its_length_is_there() {
    for cores in [1, 2] {
        let small = limits(|limits| limits.packet_bytes_max = 200);
        let mut ok = stage(cores, small.clone());
        ok.cluster.publish_1(ok.client, "a", &[0; 200 - 2 - 1 - 3 - 2 - 1]);
        let mut large = stage(cores, small);
        large.cluster.send_bytes(large.client, &[0x30, 199, 1]);
        large.ends_with(ReasonCode::PACKET_TOO_LARGE);
    }
    let mut stage = stage(1, limits(|_| {}));
    stage.cluster.send_bytes(stage.client, &[0x30, 0xFF, 0xFF, 0xFF, 0x7F]);
    stage.ends_with(ReasonCode::PACKET_TOO_LARGE);
}

#[test]
fn malformed_packets_are_0x81_and_protocol_errors_0x82() {
    let malformed: [&[u8]; 10] = [
        &[0x00, 0],                               // forbidden type
        &[0xC1, 0],                               // reserved flags
        &[0x36, 5, 0, 1, b'a', 0, 1],             // QoS 3
        &[0x30, 0x80, 0x80, 0x80, 0x80, 0x01],    // Remaining Length of five bytes
        &[0x30, 4, 0, 9, b'a', 0],                // a topic beyond the end
        &[0x30, 5, 0, 2, 0xC3, 0x28, 0],          // not UTF-8
        &[0x30, 5, 0, 2, b'a', 0, 0],             // U+0000
        &[0x30, 6, 0, 1, b'a', 2, 0x7F, 0],       // unknown property
        &[0x82, 7, 0, 1, 0, 0, 1, b'a', 0xC0],    // reserved bits of the options
        &[0x30, 8, 0, 1, b'a', 4, 0x11, 0, 0, 0], // a property that does not belong here, cut short
    ];
    let errors: [&[u8]; 8] = [
        &[0x38, 4, 0, 1, b'a', 0],          // DUP at QoS 0
        &[0x32, 6, 0, 1, b'a', 0, 0, 0],    // Packet Identifier 0
        &[0x82, 3, 0, 1, 0],                // SUBSCRIBE for nothing
        &[0x82, 7, 0, 1, 0, 0, 1, b'a', 3], // Maximum QoS 3
        &[0x82, 16, 0, 1, 0, 0, 10, b'$', b's', b'h', b'a', b'r', b'e', b'/', b'g', b'/', b'a', 4], // No Local, shared
        &[0x20, 3, 0, 0, 0],                                                                        // CONNACK
        &[0xD0, 0],                            // PINGRESP
        &[0x30, 8, 0, 1, b'a', 4, 1, 0, 1, 0], // Payload Format Indicator twice
    ];
    for (packets, reason) in
        [(&malformed[..], ReasonCode::MALFORMED_PACKET), (&errors[..], ReasonCode::PROTOCOL_ERROR)]
    {
        for bytes in packets {
            for cores in [1, 2] {
                let mut stage = stage(cores, limits(|_| {}));
                stage.cluster.send_bytes(stage.client, bytes);
                assert!(stage.cluster.is_closed(stage.client), "{bytes:x?}");
                stage.ends_with(reason);
            }
        }
    }
}

#[test]
fn before_5_a_fault_just_closes() {
    for version in [Version::V3_1, Version::V3_1_1] {
        for bytes in [&[0x00, 0][..], &[0x36, 5, 0, 1, b'a', 0, 1], &[0xF0, 0], &[0x82, 2, 0, 1]] {
            let mut cluster = Cluster::new(1);
            let client = cluster.connect(0, version, "c");
            cluster.send_bytes(client, bytes);
            assert!(cluster.is_closed(client), "{bytes:x?}");
            cluster.expect_nothing(client);
        }
    }
}

#[test]
fn a_bad_topic_name_is_0x90_and_a_reserved_one_is_not_authorized() {
    let mut wild = stage(2, limits(|_| {}));
    wild.cluster.send_bytes(wild.client, &[0x30, 6, 0, 3, b'a', b'/', b'#', 0]);
    wild.ends_with(ReasonCode::TOPIC_NAME_INVALID);
    let mut deep = stage(2, limits(|limits| limits.topic_levels_max = 3));
    deep.cluster.publish(deep.client, "a/b/c", b"");
    deep.cluster.publish(deep.client, "a/b/c/d", b"");
    deep.ends_with(ReasonCode::TOPIC_NAME_INVALID);
    let mut own = stage(2, limits(|_| {}));
    assert_eq!(own.cluster.publish_1(own.client, "$SYS/x", b""), ReasonCode::NOT_AUTHORIZED);
    assert_eq!(own.cluster.publish_2(own.client, "$SYS/x", b""), ReasonCode::NOT_AUTHORIZED);
    own.cluster.publish(own.client, "$SYS/x", b"");
    assert!(!own.cluster.is_closed(own.client));
    assert_eq!(own.cluster.total(|stats| stats.messages_refused), 3);
}

#[test]
fn a_bad_filter_is_refused_alone() {
    for (version, expected) in [
        (Version::V5, [0x8F, 0x8F, 0x8F, 0x8F, 0x8F, 0x00].map(ReasonCode)),
        (Version::V3_1_1, [0x80, 0x80, 0x80, 0x80, 0x80, 0x00].map(ReasonCode)),
    ] {
        let mut cluster = Cluster::new(2);
        let client = cluster.connect(0, version, "c");
        let list = ["a/#/b", "a+", "", "$share/g", "$share/+/a", "a/+"]
            .map(|filter| mqtt_proto::packet::Subscription { filter, options: Default::default() });
        cluster.send(
            client,
            &Packet::Subscribe(Subscribe {
                packet_id: PacketId::new(1).expect("not 0"),
                properties: Properties::EMPTY,
                subscriptions: Subscriptions::new(&list),
            }),
        );
        let reasons: Vec<_> = cluster.expect(client, |packet| match packet {
            Packet::SubAck(suback) => suback.reasons.iter().collect(),
            other => panic!("{other:?}"),
        });
        assert_eq!(reasons, expected);
        assert_eq!(cluster.total(|stats| stats.subscriptions), 1);
    }
}

#[test]
fn unsubscribing_from_nothing_is_0x11_and_publishing_to_nobody_0x10() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let client = cluster.connect(0, Version::V5, "c");
        assert_eq!(cluster.unsubscribe(client, "a"), ReasonCode::NO_SUBSCRIPTION_EXISTED);
        assert_eq!(cluster.unsubscribe(client, "a/#/b"), ReasonCode::NO_SUBSCRIPTION_EXISTED);
        cluster.subscribe(client, "a", Qos::AtLeastOnce);
        assert_eq!(cluster.publish_1(client, "b", b""), ReasonCode::NO_MATCHING_SUBSCRIBERS);
        assert_eq!(cluster.unsubscribe(client, "a"), ReasonCode::SUCCESS);
        assert_eq!(cluster.unsubscribe(client, "a"), ReasonCode::NO_SUBSCRIPTION_EXISTED);
        assert_eq!(cluster.publish_1(client, "a", b""), ReasonCode::NO_MATCHING_SUBSCRIBERS);
        assert_eq!(cluster.publish_2(client, "a", b""), ReasonCode::NO_MATCHING_SUBSCRIBERS);
    }
}

#[test]
fn what_is_switched_off_is_told_and_refused() {
    let off = limits(|limits| {
        limits.maximum_qos = Qos::AtLeastOnce;
        limits.retain_available = false;
        limits.wildcard_subscription_available = false;
        limits.shared_subscription_available = false;
        limits.subscription_identifier_available = false;
        limits.receive_maximum = 20;
        limits.packet_bytes_max = 1000;
        limits.topic_alias_maximum = 0;
    });
    let mut cluster = Cluster::with_limits(1, off.clone());
    let client = cluster.open(0, Version::V5);
    cluster.send(client, &Packet::Connect(connect(Version::V5, "c")));
    cluster.expect(client, |packet| {
        let Packet::ConnAck(connack) = packet else { panic!("{packet:?}") };
        let said: Vec<_> = connack.properties.iter().collect();
        let expected = [
            Property::ReceiveMaximum(20),
            Property::MaximumQos(1),
            Property::RetainAvailable(0),
            Property::MaximumPacketSize(1000),
            Property::WildcardSubscriptionAvailable(0),
            Property::SubscriptionIdentifierAvailable(0),
            Property::SharedSubscriptionAvailable(0),
        ];
        assert_eq!(said, expected);
    });
    let options = mqtt_proto::packet::SubscriptionOptions::new(Qos::ExactlyOnce);
    for (filter, reason) in [
        ("a", ReasonCode::GRANTED_QOS_1),
        ("a/+", ReasonCode::WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED),
        ("#", ReasonCode::WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED),
        ("$share/g/a", ReasonCode::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED),
    ] {
        assert_eq!(cluster.subscribe_with(client, filter, options, Properties::EMPTY), reason, "{filter}");
    }
    let refused = |change: fn(&mut Stage), reason| {
        let mut stage = stage(2, off.clone());
        change(&mut stage);
        stage.ends_with(reason);
    };
    refused(
        |stage| {
            let publish = publish("a", b"", Qos::ExactlyOnce, 1);
            stage.cluster.send(stage.client, &Packet::Publish(publish));
        },
        ReasonCode::QOS_NOT_SUPPORTED,
    );
    refused(
        |stage| {
            let publish = Publish { retain: true, ..publish("a", b"", Qos::AtMostOnce, 1) };
            stage.cluster.send(stage.client, &Packet::Publish(publish));
        },
        ReasonCode::RETAIN_NOT_SUPPORTED,
    );
    refused(
        |stage| {
            let list = [mqtt_proto::packet::Subscription { filter: "a", options: Default::default() }];
            let identifier = [Property::SubscriptionIdentifier(1)];
            let subscribe = Subscribe {
                packet_id: PacketId::new(1).expect("not 0"),
                properties: Properties::new(&identifier),
                subscriptions: Subscriptions::new(&list),
            };
            stage.cluster.send(stage.client, &Packet::Subscribe(subscribe));
        },
        ReasonCode::SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED,
    );
}

#[test]
fn a_payload_that_is_not_the_text_it_claims_to_be_is_0x99() {
    for (checked, expected) in
        [(true, ReasonCode::PAYLOAD_FORMAT_INVALID), (false, ReasonCode::NO_MATCHING_SUBSCRIBERS)]
    {
        let mut cluster = Cluster::with_limits(1, limits(|limits| limits.payload_format_checked = checked));
        let client = cluster.connect(0, Version::V5, "c");
        for (indicator, payload, expected) in [
            (0, &b"\xFF"[..], ReasonCode::NO_MATCHING_SUBSCRIBERS),
            (1, "ä".as_bytes(), ReasonCode::NO_MATCHING_SUBSCRIBERS),
            (1, b"\xFF", expected),
        ] {
            let list = [Property::PayloadFormatIndicator(indicator)];
            let properties = Properties::new(&list);
            let publish = Publish { properties, ..publish("a", payload, Qos::AtLeastOnce, 1) };
            cluster.send(client, &Packet::Publish(publish));
            cluster.expect(client, |packet| match packet {
                Packet::PubAck(ack) => assert_eq!(ack.reason, expected),
                other => panic!("{other:?}"),
            });
        }
    }
}
