//! SUBSCRIBE and SUBACK, statement by statement: sections 3.8 and 3.9.

use mqtt_broker::config::Limits;
use mqtt_proto::packet::{
    Ack, Packet, Properties, Property, Publish, RetainHandling, Subscribe, Subscription, SubscriptionOptions,
    Subscriptions,
};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, Version};

use crate::cluster::{ClientId, Cluster, limits, publish};

const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];
const ALL_QOS: [Qos; 3] = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce];

/// One SUBSCRIBE to all of these; the identifier of its SUBACK, and the codes.
#[track_caller]
fn subscribe(
    cluster: &mut Cluster,
    client: ClientId,
    id: u16,
    filters: &[(&str, Qos)],
) -> (u16, Vec<ReasonCode>) {
    let list: Vec<_> = filters
        .iter()
        .map(|&(filter, qos)| Subscription { filter, options: SubscriptionOptions::new(qos) })
        .collect();
    let packet_id = PacketId::new(id).expect("not 0");
    let (properties, subscriptions) = (Properties::EMPTY, Subscriptions::new(&list));
    cluster.send(client, &Packet::Subscribe(Subscribe { packet_id, properties, subscriptions }));
    cluster.expect(client, |packet| match packet {
        Packet::SubAck(suback) => (suback.packet_id.get(), suback.reasons.iter().collect()),
        other => panic!("{other:?}"),
    })
}

/// The QoS of the next PUBLISH that the Client got.
#[track_caller]
fn qos_of_next(cluster: &mut Cluster, client: ClientId) -> Qos {
    cluster.expect(client, |packet| match packet {
        Packet::Publish(publish) => publish.qos,
        other => panic!("{other:?}"),
    })
}

/// Publishes at this QoS, with all its acknowledgements.
#[track_caller]
fn publish_at(cluster: &mut Cluster, client: ClientId, topic: &str, qos: Qos) {
    match qos {
        Qos::AtMostOnce => cluster.publish(client, topic, b"x"),
        Qos::AtLeastOnce => assert!(!cluster.publish_1(client, topic, b"x").is_error()),
        Qos::ExactlyOnce => assert!(!cluster.publish_2(client, topic, b"x").is_error()),
    }
}

/// Two Clients of this version.
fn pair(cores: u16, limits: Limits, version: Version) -> (Cluster, ClientId, ClientId) {
    let mut cluster = Cluster::with_limits(cores, limits);
    let subscriber = cluster.connect(0, version, "subscriber");
    let publisher = cluster.connect(0, version, "publisher");
    (cluster, subscriber, publisher)
}

/// [MQTT-3.8.1-1]
#[test]
fn wrong_flags_of_subscribe_close_the_connection() {
    for version in VERSIONS {
        for first in [0x80, 0x81, 0x83, 0x86] {
            let (mut cluster, client, _) = pair(1, limits(|_| {}), version);
            let good = [0x82, 6, 0, 1, 0, 1, b'a', 0];
            let properties = [0x82, 7, 0, 1, 0, 0, 1, b'a', 0];
            let mut bytes = if version == Version::V5 { properties.to_vec() } else { good.to_vec() };
            bytes[0] = first;
            cluster.send_bytes(client, &bytes);
            if version == Version::V5 {
                cluster.expect_disconnect(client, ReasonCode::MALFORMED_PACKET);
            }
            assert!(cluster.is_closed(client), "{first:#x}");
            cluster.expect_nothing(client);
        }
    }
}

/// [MQTT-3.8.4-1]
#[test]
fn subscribe_is_answered_by_one_suback() {
    for cores in [1, 2, 8] {
        for version in VERSIONS {
            let (mut cluster, client, _) = pair(cores, limits(|_| {}), version);
            for filter in ["a", "a/+/#", "$share/g/a", "a", "a#"] {
                subscribe(&mut cluster, client, 1, &[(filter, Qos::AtMostOnce)]);
                cluster.expect_nothing(client);
            }
        }
    }
}

/// [MQTT-3.8.4-2]
#[test]
fn suback_has_the_packet_identifier_of_its_subscribe() {
    for version in VERSIONS {
        let (mut cluster, client, _) = pair(2, limits(|_| {}), version);
        for id in [1, 2, 0x1234, u16::MAX, 1] {
            let (answered, _) = subscribe(&mut cluster, client, id, &[("a", Qos::AtMostOnce)]);
            assert_eq!(answered, id);
        }
    }
}

/// [MQTT-3.8.4-3]
#[test]
fn subscribing_to_the_same_filter_again_replaces_the_subscription() {
    for cores in [1, 2, 8] {
        for version in VERSIONS {
            let (mut cluster, subscriber, publisher) = pair(cores, limits(|_| {}), version);
            for qos in [Qos::ExactlyOnce, Qos::AtMostOnce, Qos::AtLeastOnce] {
                cluster.subscribe(subscriber, "a", qos);
                publish_at(&mut cluster, publisher, "a", Qos::ExactlyOnce);
                assert_eq!(qos_of_next(&mut cluster, subscriber), qos);
                cluster.expect_nothing(subscriber);
            }
            // There is one subscription to end.
            cluster.unsubscribe(subscriber, "a");
            cluster.publish(publisher, "a", b"x");
            cluster.expect_nothing(subscriber);
        }
    }
}

/// [MQTT-3.8.4-4] [MQTT-3.8.4-3 v3.1.1]
#[test]
fn subscribing_again_sends_retained_messages_again() {
    for cores in [1, 2, 8] {
        for version in VERSIONS {
            let (mut cluster, subscriber, publisher) = pair(cores, limits(|_| {}), version);
            let retained = Publish { retain: true, ..publish("a", b"kept", Qos::AtMostOnce, 0) };
            cluster.send(publisher, &Packet::Publish(retained));
            for _ in 0..3 {
                cluster.subscribe(subscriber, "a", Qos::AtMostOnce);
                cluster.expect_message(subscriber, "a", b"kept");
                cluster.expect_nothing(subscriber);
            }
        }
    }
}

/// [MQTT-3.8.4-4] [MQTT-3.8.4-3 v3.1.1]
#[test]
fn no_message_is_lost_when_a_subscription_is_replaced() {
    for cores in [1, 2, 8] {
        for version in VERSIONS {
            let limits = limits(|limits| limits.in_flight_max = 1);
            let (mut cluster, subscriber, publisher) = pair(cores, limits, version);
            cluster.subscribe(subscriber, "a", Qos::AtLeastOnce);
            for n in 0..5u8 {
                cluster.publish_1(publisher, "a", &[n]);
            }
            // One is on its way, the others wait.
            let first = cluster.expect(subscriber, |packet| match packet {
                Packet::Publish(publish) => publish.packet_id.expect("QoS 1"),
                other => panic!("{other:?}"),
            });
            cluster.subscribe(subscriber, "a", Qos::AtLeastOnce);
            cluster.publish_1(publisher, "a", &[5]);
            cluster.send(subscriber, &Packet::PubAck(Ack::new(first, ReasonCode::SUCCESS)));
            for n in 1..6u8 {
                cluster.expect_message(subscriber, "a", &[n]);
            }
            cluster.expect_nothing(subscriber);
        }
    }
}

/// [MQTT-3.8.4-5] [MQTT-3.8.4-4 v3.1.1]
#[test]
fn many_filters_count_like_many_subscribes_with_one_answer() {
    for cores in [1, 2, 8] {
        for version in VERSIONS {
            let (mut cluster, subscriber, publisher) = pair(cores, limits(|_| {}), version);
            let filters = [("a", Qos::AtMostOnce), ("b", Qos::AtLeastOnce), ("a", Qos::ExactlyOnce)];
            subscribe(&mut cluster, subscriber, 1, &filters);
            cluster.expect_nothing(subscriber);
            for (topic, granted) in [("a", Qos::ExactlyOnce), ("b", Qos::AtLeastOnce)] {
                publish_at(&mut cluster, publisher, topic, Qos::ExactlyOnce);
                assert_eq!(qos_of_next(&mut cluster, subscriber), granted, "the last one to {topic} counts");
                cluster.expect_nothing(subscriber);
            }
        }
    }
}

/// [MQTT-3.8.4-6] [MQTT-3.9.3-1] [MQTT-3.8.4-5 v3.1.1]
#[test]
fn suback_has_a_code_for_each_filter_in_their_order() {
    for version in VERSIONS {
        let (mut cluster, client, _) = pair(2, limits(|_| {}), version);
        let filters = [
            ("a", Qos::ExactlyOnce),
            ("a#", Qos::AtMostOnce),
            ("b", Qos::AtMostOnce),
            ("c/+", Qos::AtLeastOnce),
            ("b", Qos::ExactlyOnce),
        ];
        let failed = if version == Version::V5 { 0x8F } else { 0x80 };
        let (_, reasons) = subscribe(&mut cluster, client, 1, &filters);
        assert_eq!(reasons, [2, failed, 0, 1, 2].map(ReasonCode));
    }
}

/// [MQTT-3.8.4-7] [MQTT-3.8.4-6 v3.1.1]
#[test]
fn suback_tells_the_qos_that_is_granted() {
    for version in VERSIONS {
        for maximum in ALL_QOS {
            let limits = limits(|limits| limits.maximum_qos = maximum);
            let (mut cluster, subscriber, publisher) = pair(1, limits, version);
            for (asked, topic) in ALL_QOS.into_iter().zip(["a", "b", "c"]) {
                let (_, reasons) = subscribe(&mut cluster, subscriber, 1, &[(topic, asked)]);
                assert_eq!(reasons, [ReasonCode(asked.min(maximum).bits())]);
                publish_at(&mut cluster, publisher, topic, maximum);
                assert_eq!(qos_of_next(&mut cluster, subscriber), asked.min(maximum));
            }
        }
    }
}

/// [MQTT-3.8.4-8] [MQTT-3.8.4-6 v3.1.1]
#[test]
fn a_message_comes_with_the_lower_of_its_qos_and_the_granted_one() {
    for version in VERSIONS {
        let (mut cluster, subscriber, publisher) = pair(2, limits(|_| {}), version);
        for (granted, topic) in ALL_QOS.into_iter().zip(["a", "b", "c"]) {
            cluster.subscribe(subscriber, topic, granted);
            for published in ALL_QOS {
                publish_at(&mut cluster, publisher, topic, published);
                assert_eq!(qos_of_next(&mut cluster, subscriber), published.min(granted));
            }
        }
    }
}

/// [MQTT-3.8.3-2 v3.1.1]
#[test]
fn wildcards_that_are_not_supported_are_refused() {
    for version in VERSIONS {
        let limits = limits(|limits| limits.wildcard_subscription_available = false);
        let (mut cluster, client, publisher) = pair(1, limits, version);
        let refused = if version == Version::V5 { 0xA2 } else { 0x80 };
        for (filter, code) in [("#", refused), ("b/+", refused), ("b", 0)] {
            let (_, reasons) = subscribe(&mut cluster, client, 1, &[(filter, Qos::AtMostOnce)]);
            assert_eq!(reasons, [ReasonCode(code)]);
        }
        cluster.publish(publisher, "b/c", b"x");
        cluster.expect_nothing(client);
    }
}

/// [MQTT-3.8.3-3]
#[test]
fn a_client_that_wants_none_of_its_own_messages_gets_those_of_others() {
    for cores in [1, 2, 8] {
        let (mut cluster, client, other) = pair(cores, limits(|_| {}), Version::V5);
        let no_local = SubscriptionOptions { no_local: true, ..SubscriptionOptions::new(Qos::AtMostOnce) };
        cluster.subscribe_with(client, "a/#", no_local, Properties::EMPTY);
        cluster.publish(client, "a/b", b"own");
        cluster.expect_nothing(client);
        cluster.publish(other, "a/b", b"other");
        cluster.expect_message(client, "a/b", b"other");
        // It is a matter of the subscription, not of the Client.
        cluster.subscribe(client, "c", Qos::AtMostOnce);
        cluster.publish(client, "c", b"own");
        cluster.expect_message(client, "c", b"own");
    }
}

/// [MQTT-3.8.3-4]
#[test]
fn no_local_on_a_shared_subscription_ends_the_connection() {
    let (mut cluster, client, _) = pair(1, limits(|_| {}), Version::V5);
    let mut bytes = vec![0x82, 16, 0, 1, 0, 0, 10];
    bytes.extend(b"$share/g/a");
    bytes.push(0b100);
    cluster.send_bytes(client, &bytes);
    cluster.expect_disconnect(client, ReasonCode::PROTOCOL_ERROR);
}

/// Section 3.8.3.1: Retain Handling 1.
#[test]
fn retained_messages_may_be_wanted_by_a_new_subscription_alone() {
    for cores in [1, 2] {
        let (mut cluster, client, publisher) = pair(cores, limits(|_| {}), Version::V5);
        let retained = Publish { retain: true, ..publish("a", b"kept", Qos::AtMostOnce, 0) };
        cluster.send(publisher, &Packet::Publish(retained));
        let options = SubscriptionOptions {
            retain_handling: RetainHandling::SendIfNew,
            ..SubscriptionOptions::new(Qos::AtMostOnce)
        };
        cluster.subscribe_with(client, "a", options, Properties::EMPTY);
        cluster.expect_message(client, "a", b"kept");
        cluster.subscribe_with(client, "a", options, Properties::EMPTY);
        cluster.expect_nothing(client);
    }
}

/// Section 3.8.3.1: Retain Handling 2.
#[test]
fn retained_messages_may_not_be_wanted() {
    for cores in [1, 2] {
        let (mut cluster, client, publisher) = pair(cores, limits(|_| {}), Version::V5);
        let retained = Publish { retain: true, ..publish("a", b"kept", Qos::AtMostOnce, 0) };
        cluster.send(publisher, &Packet::Publish(retained));
        let options = SubscriptionOptions {
            retain_handling: RetainHandling::DoNotSend,
            ..SubscriptionOptions::new(Qos::AtMostOnce)
        };
        cluster.subscribe_with(client, "a", options, Properties::EMPTY);
        cluster.expect_nothing(client);
    }
}

/// Section 3.8.4: what is published once SUBACK was received is delivered, whatever core it comes from.
#[test]
fn a_subscription_is_in_force_when_its_suback_comes() {
    for cores in [1, 2, 8] {
        let (mut cluster, subscriber, _) = pair(cores, limits(|_| {}), Version::V3_1_1);
        let others: Vec<_> =
            (0..8).map(|n| cluster.connect(0, Version::V3_1_1, &format!("other-{n}"))).collect();
        cluster.subscribe(subscriber, "a", Qos::AtMostOnce);
        for other in others {
            cluster.publish(other, "a", b"x");
            cluster.expect_message(subscriber, "a", b"x");
        }
    }
}

/// Section 3.8.4: of filters that overlap, the Client gets one copy with the highest QoS among them.
#[test]
fn overlapping_subscriptions_deliver_with_the_highest_qos() {
    for version in VERSIONS {
        let (mut cluster, subscriber, publisher) = pair(2, limits(|_| {}), version);
        for (filter, qos) in [
            ("a/#", Qos::AtMostOnce),
            ("a/b", Qos::AtLeastOnce),
            ("+/b", Qos::ExactlyOnce),
            ("#", Qos::AtMostOnce),
        ] {
            cluster.subscribe(subscriber, filter, qos);
        }
        publish_at(&mut cluster, publisher, "a/b", Qos::ExactlyOnce);
        assert_eq!(qos_of_next(&mut cluster, subscriber), Qos::ExactlyOnce);
        cluster.expect_nothing(subscriber);
    }
}

/// Section 3.8.2.1.2: the last SUBSCRIBE says the identifier of its subscriptions, or that they have none.
#[test]
fn a_subscription_has_the_identifier_of_its_last_subscribe() {
    for cores in [1, 2] {
        let (mut cluster, subscriber, publisher) = pair(cores, limits(|_| {}), Version::V5);
        for identifier in [Some(5), Some(268_435_455), None] {
            let list = identifier.map(Property::SubscriptionIdentifier);
            let properties = Properties::new(list.as_slice());
            cluster.subscribe_with(subscriber, "a", SubscriptionOptions::default(), properties);
            cluster.publish(publisher, "a", b"x");
            let got = cluster.expect(subscriber, |packet| match packet {
                Packet::Publish(publish) => publish.properties.subscription_identifiers().next(),
                other => panic!("{other:?}"),
            });
            assert_eq!(got, identifier);
        }
    }
}
