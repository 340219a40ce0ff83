//! PUBLISH (section 3.3): its flags, its topic and its properties, one rule a test.

use mqtt_proto::packet::{Packet, Properties, Property, Publish, SubscriptionOptions};
use mqtt_proto::types::{Qos, ReasonCode, Version};

use crate::cluster::{ClientId, Cluster, publish};
use crate::seen::{VERSIONS, expect_fault, raw_publish, see};

/// A Client sends these bytes, for which its connection has to be closed.
#[track_caller]
fn ends_with(version: Version, bytes: &[u8], reason: ReasonCode) {
    let mut cluster = Cluster::new(1);
    let client = cluster.connect(0, version, "c");
    cluster.send_bytes(client, bytes);
    expect_fault(&mut cluster, client, version, reason);
}

/// A PUBLISH of QoS 0 with these properties, byte by byte, ends the connection.
#[track_caller]
fn properties_end_with(properties: &[u8], reason: ReasonCode) {
    ends_with(Version::V5, &raw_publish(Version::V5, 0x30, b"a", None, properties, b""), reason);
}

/// [MQTT-3.3.1-4]
#[test]
fn a_publish_with_both_qos_bits_closes_the_connection() {
    for version in VERSIONS {
        let bytes = raw_publish(version, 0x36, b"a", Some(1), &[], b"");
        ends_with(version, &bytes, ReasonCode::MALFORMED_PACKET);
    }
}

/// [MQTT-3.3.1-2]
#[test]
fn dup_at_qos_0_closes_the_connection() {
    for version in VERSIONS {
        let bytes = raw_publish(version, 0x38, b"a", None, &[], b"");
        ends_with(version, &bytes, ReasonCode::PROTOCOL_ERROR);
    }
}

/// [MQTT-3.3.2-1]: it is a UTF-8 Encoded String.
#[test]
fn a_topic_that_is_not_utf_8_closes_the_connection() {
    for version in VERSIONS {
        for topic in [&b"a\xC3"[..], b"\xED\xA0\x80", b"\xFF"] {
            let bytes = raw_publish(version, 0x30, topic, None, &[], b"");
            ends_with(version, &bytes, ReasonCode::MALFORMED_PACKET);
        }
    }
}

/// [MQTT-3.3.2-1]: it is present. In 5.0 a Topic Alias can stand for it; here none does.
#[test]
fn a_publish_without_a_topic_closes_the_connection() {
    for version in VERSIONS {
        ends_with(version, &raw_publish(version, 0x30, b"", None, &[], b"x"), ReasonCode::PROTOCOL_ERROR);
    }
}

/// [MQTT-3.3.2-2]
#[test]
fn a_topic_with_a_wildcard_closes_the_connection() {
    for version in VERSIONS {
        for topic in [&b"#"[..], b"+", b"a/#", b"a/+/b", b"a+", b"a#b"] {
            let bytes = raw_publish(version, 0x30, topic, None, &[], b"");
            ends_with(version, &bytes, ReasonCode::TOPIC_NAME_INVALID);
        }
    }
}

/// [MQTT-3.3.2-3]
#[test]
fn a_delivery_names_a_topic_that_the_filter_matches() {
    for version in VERSIONS {
        for cores in [1, 2] {
            let mut cluster = Cluster::new(cores);
            let subscriber = cluster.connect(0, version, "subscriber");
            cluster.subscribe(subscriber, "a/+/c", Qos::AtMostOnce);
            let publisher = cluster.connect(0, version, "publisher");
            for topic in ["a/b", "a/b/c", "a/b/c/d", "a//c", "b/b/c", "a/b/C"] {
                cluster.publish(publisher, topic, b"x");
            }
            assert_eq!(see(&mut cluster, subscriber).topic, "a/b/c");
            assert_eq!(see(&mut cluster, subscriber).topic, "a//c");
            cluster.expect_nothing(subscriber);
        }
    }
}

/// What two 5.0 subscribers on different cores get of a PUBLISH with these properties.
fn forwarded(list: &[Property<'_>], check: impl Fn(Properties<'_>)) {
    let mut cluster = Cluster::new(2);
    let subscribers: Vec<ClientId> =
        (0..8).map(|n| cluster.connect(0, Version::V5, &format!("subscriber-{n}"))).collect();
    for &subscriber in &subscribers {
        cluster.subscribe(subscriber, "a", Qos::AtMostOnce);
    }
    let publisher = cluster.connect(0, Version::V5, "publisher");
    let message = Publish { properties: Properties::new(list), ..publish("a", b"x", Qos::AtMostOnce, 0) };
    cluster.send(publisher, &Packet::Publish(message));
    for subscriber in subscribers {
        cluster.expect(subscriber, |packet| {
            let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
            check(publish.properties);
        });
    }
}

/// [MQTT-3.3.2-4]: 0 is not the same as none.
#[test]
fn the_payload_format_indicator_is_forwarded() {
    for indicator in [0, 1] {
        forwarded(&[Property::PayloadFormatIndicator(indicator)], |got| {
            assert_eq!(got.payload_format_indicator(), Some(indicator));
        });
    }
    forwarded(&[], |got| assert_eq!(got.payload_format_indicator(), None));
}

/// [MQTT-3.3.2-15]
#[test]
fn the_response_topic_is_forwarded() {
    for topic in ["answers/ä", "$x//"] {
        forwarded(&[Property::ResponseTopic(topic)], |got| assert_eq!(got.response_topic(), Some(topic)));
    }
}

/// [MQTT-3.3.2-16]: whatever bytes they are, and none of them too.
#[test]
fn correlation_data_are_forwarded() {
    for data in [&b"\0\xFF#"[..], b""] {
        forwarded(&[Property::CorrelationData(data)], |got| assert_eq!(got.correlation_data(), Some(data)));
    }
}

/// [MQTT-3.3.2-17] [MQTT-3.3.2-18]
#[test]
fn user_properties_are_forwarded_in_their_order() {
    let pairs = [("z", "1"), ("a", ""), ("z", "1"), ("", "b"), ("z", "0")];
    let list = pairs.map(|(name, value)| Property::UserProperty(name, value));
    forwarded(&list, |got| assert!(got.iter().eq(list)));
}

/// [MQTT-3.3.2-20]
#[test]
fn the_content_type_is_forwarded() {
    forwarded(&[Property::ContentType("text/ö")], |got| assert_eq!(got.content_type(), Some("text/ö")));
}

/// [MQTT-3.3.2-13]
#[test]
fn a_response_topic_that_is_not_utf_8_closes_the_connection() {
    properties_end_with(&[0x08, 0, 2, 0xC3, 0x28], ReasonCode::MALFORMED_PACKET);
    properties_end_with(&[0x08, 0, 2, b'a', 0], ReasonCode::MALFORMED_PACKET);
}

/// [MQTT-3.3.2-14]
#[test]
fn a_response_topic_with_a_wildcard_closes_the_connection() {
    for wildcard in *b"+#" {
        properties_end_with(&[0x08, 0, 3, b'a', b'/', wildcard], ReasonCode::TOPIC_NAME_INVALID);
    }
}

/// [MQTT-3.3.2-19]
#[test]
fn a_content_type_that_is_not_utf_8_closes_the_connection() {
    properties_end_with(&[0x03, 0, 2, 0xC3, 0x28], ReasonCode::MALFORMED_PACKET);
    properties_end_with(&[0x03, 0, 2, b'a', 0], ReasonCode::MALFORMED_PACKET);
}

/// Sections 3.3.2.3.2 to 3.3.2.3.9: all but User Properties may be there once.
#[test]
fn a_property_that_is_there_twice_closes_the_connection() {
    for property in [
        &[0x01, 1][..],      // Payload Format Indicator
        &[0x02, 0, 0, 0, 9], // Message Expiry Interval
        &[0x03, 0, 1, b'a'], // Content Type
        &[0x08, 0, 1, b'a'], // Response Topic
        &[0x09, 0, 1, b'a'], // Correlation Data
        &[0x23, 0, 1],       // Topic Alias
    ] {
        properties_end_with(&[property, property].concat(), ReasonCode::PROTOCOL_ERROR);
    }
}

/// Section 3.3.2.3.2: it is 0 or 1.
#[test]
fn a_payload_format_indicator_of_2_closes_the_connection() {
    properties_end_with(&[0x01, 2], ReasonCode::PROTOCOL_ERROR);
}

/// [MQTT-3.3.4-6]
#[test]
fn a_subscription_identifier_of_a_client_closes_the_connection() {
    properties_end_with(&[0x0B, 1], ReasonCode::PROTOCOL_ERROR);
}

/// [MQTT-3.3.4-2] [MQTT-3.3.5-1 v3.1.1]
#[test]
fn overlapping_subscriptions_deliver_at_the_highest_qos_among_them() {
    for version in VERSIONS {
        for cores in [1, 2] {
            let mut cluster = Cluster::new(cores);
            let subscriber = cluster.connect(0, version, "subscriber");
            for (filter, qos) in
                [("a/#", Qos::AtMostOnce), ("a/b", Qos::ExactlyOnce), ("+/b", Qos::AtLeastOnce)]
            {
                cluster.subscribe(subscriber, filter, qos);
            }
            let publisher = cluster.connect(0, version, "publisher");
            cluster.send(publisher, &Packet::Publish(publish("a/b", b"x", Qos::ExactlyOnce, 1)));
            assert_eq!(see(&mut cluster, subscriber).qos, Qos::ExactlyOnce);
            cluster.send(publisher, &Packet::Publish(publish("c/b", b"x", Qos::ExactlyOnce, 2)));
            assert_eq!(see(&mut cluster, subscriber).qos, Qos::AtLeastOnce);
            cluster.expect_nothing(subscriber);
        }
    }
}

fn subscribe_as(cluster: &mut Cluster, client: ClientId, filter: &str, identifier: Option<u32>) {
    let list: Vec<_> = identifier.map(Property::SubscriptionIdentifier).into_iter().collect();
    let options = SubscriptionOptions::new(Qos::AtMostOnce);
    let reason = cluster.subscribe_with(client, filter, options, Properties::new(&list));
    assert_eq!(reason, ReasonCode::GRANTED_QOS_0);
}

/// The Subscription Identifiers of the next PUBLISH, in ascending order.
#[track_caller]
fn identifiers(cluster: &mut Cluster, client: ClientId) -> Vec<u32> {
    let mut got: Vec<u32> = cluster.expect(client, |packet| {
        let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
        publish.properties.subscription_identifiers().collect()
    });
    got.sort_unstable();
    got
}

/// [MQTT-3.3.4-3]
#[test]
fn a_delivery_carries_the_identifier_of_its_subscription() {
    for cores in [1, 2] {
        let mut cluster = Cluster::new(cores);
        let subscriber = cluster.connect(0, Version::V5, "subscriber");
        subscribe_as(&mut cluster, subscriber, "a", Some(268_435_455));
        subscribe_as(&mut cluster, subscriber, "b", None);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        cluster.publish(publisher, "a", b"x");
        cluster.publish(publisher, "b", b"x");
        assert_eq!(identifiers(&mut cluster, subscriber), [268_435_455]);
        assert_eq!(identifiers(&mut cluster, subscriber), []);
    }
}

/// [MQTT-3.3.4-4]
#[test]
fn a_single_copy_carries_the_identifiers_of_all_its_subscriptions() {
    for cores in [1, 2] {
        let mut cluster = Cluster::new(cores);
        let subscriber = cluster.connect(0, Version::V5, "subscriber");
        for (filter, identifier) in [("a/#", Some(1)), ("a/+", Some(2)), ("a/b", None), ("+/b", Some(2))] {
            subscribe_as(&mut cluster, subscriber, filter, identifier);
        }
        let publisher = cluster.connect(0, Version::V5, "publisher");
        cluster.publish(publisher, "a/b", b"x");
        assert_eq!(identifiers(&mut cluster, subscriber), [1, 2, 2]);
        cluster.expect_nothing(subscriber);
    }
}

/// [MQTT-3.3.4-5]: a Shared Subscription gives a copy of its own.
#[test]
fn each_of_several_copies_carries_the_identifier_of_its_own_subscription() {
    for cores in [1, 2] {
        let mut cluster = Cluster::new(cores);
        let subscriber = cluster.connect(0, Version::V5, "subscriber");
        subscribe_as(&mut cluster, subscriber, "a", Some(1));
        subscribe_as(&mut cluster, subscriber, "$share/g/a", Some(2));
        let publisher = cluster.connect(0, Version::V5, "publisher");
        cluster.publish(publisher, "a", b"x");
        let mut got = [identifiers(&mut cluster, subscriber), identifiers(&mut cluster, subscriber)];
        got.sort();
        assert_eq!(got, [[1], [2]]);
        cluster.expect_nothing(subscriber);
    }
}

/// [MQTT-3.3.5-2 v3.1.1]: below `$SYS/` nobody but the broker publishes.
#[test]
fn before_5_a_publish_that_is_not_authorized_is_acknowledged_and_goes_nowhere() {
    for version in [Version::V3_1, Version::V3_1_1] {
        let mut cluster = Cluster::new(1);
        let subscriber = cluster.connect(0, version, "subscriber");
        cluster.subscribe(subscriber, "$SYS/x", Qos::AtMostOnce);
        let publisher = cluster.connect(0, version, "publisher");
        cluster.publish_1(publisher, "$SYS/x", b"x");
        cluster.publish_2(publisher, "$SYS/x", b"x");
        cluster.expect_nothing(subscriber);
        assert!(!cluster.is_closed(publisher));
    }
}

/// Section 3.4.2.1: 0x10 where nobody subscribes, and success where somebody does, wherever.
#[test]
fn the_reason_code_tells_whether_anybody_subscribed() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        assert_eq!(cluster.publish_1(publisher, "a", b"x"), ReasonCode::NO_MATCHING_SUBSCRIBERS);
        assert_eq!(cluster.publish_2(publisher, "a", b"x"), ReasonCode::NO_MATCHING_SUBSCRIBERS);
        let subscriber = cluster.connect(0, Version::V5, "subscriber");
        cluster.subscribe(subscriber, "a", Qos::AtMostOnce);
        assert_eq!(cluster.publish_1(publisher, "a", b"x"), ReasonCode::SUCCESS);
        assert_eq!(cluster.publish_2(publisher, "a", b"x"), ReasonCode::SUCCESS);
    }
}
