//! UNSUBSCRIBE and UNSUBACK, statement by statement: sections 3.10 and 3.11.

use mqtt_proto::packet::{Ack, Connect, Filters, Packet, Properties, Property, Unsubscribe};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, Version};

use crate::cluster::{ClientId, Cluster, connect, publish};

const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

fn pair(cores: u16, version: Version) -> (Cluster, ClientId, ClientId) {
    let mut cluster = Cluster::new(cores);
    let subscriber = cluster.connect(0, version, "subscriber");
    let publisher = cluster.connect(0, version, "publisher");
    (cluster, subscriber, publisher)
}

/// One UNSUBSCRIBE from all of these; the identifier of its UNSUBACK, and the codes.
#[track_caller]
fn unsubscribe(cluster: &mut Cluster, client: ClientId, id: u16, filters: &[&str]) -> (u16, Vec<ReasonCode>) {
    let packet_id = PacketId::new(id).expect("not 0");
    let (properties, filters) = (Properties::EMPTY, Filters::new(filters));
    cluster.send(client, &Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters }));
    cluster.expect(client, |packet| match packet {
        Packet::UnsubAck(unsuback) => (unsuback.packet_id.get(), unsuback.reasons.iter().collect()),
        other => panic!("{other:?}"),
    })
}

/// The Packet Identifier of the next PUBLISH that the Client got, and whether it is sent again.
#[track_caller]
fn next_publish(cluster: &mut Cluster, client: ClientId) -> (PacketId, bool) {
    cluster.expect(client, |packet| match packet {
        Packet::Publish(publish) => (publish.packet_id.expect("QoS 1 or 2"), publish.dup),
        other => panic!("{other:?}"),
    })
}

/// [MQTT-3.10.1-1]
#[test]
fn wrong_flags_of_unsubscribe_close_the_connection() {
    for version in VERSIONS {
        for first in [0xA0, 0xA1, 0xA3, 0xA6] {
            let (mut cluster, client, _) = pair(1, version);
            let bytes: &[u8] = match version {
                Version::V5 => &[first, 6, 0, 1, 0, 0, 1, b'a'],
                _ => &[first, 5, 0, 1, 0, 1, b'a'],
            };
            cluster.send_bytes(client, bytes);
            if version == Version::V5 {
                cluster.expect_disconnect(client, ReasonCode::MALFORMED_PACKET);
            }
            assert!(cluster.is_closed(client), "{first:#x}");
            cluster.expect_nothing(client);
        }
    }
}

/// [MQTT-3.10.4-1]
#[test]
fn filters_are_compared_character_by_character() {
    for cores in [1, 2] {
        for version in VERSIONS {
            let (mut cluster, client, publisher) = pair(cores, version);
            let filters = ["a/+", "a/#", "b", "$share/g/c"];
            for filter in filters {
                cluster.subscribe(client, filter, Qos::AtMostOnce);
            }
            for other in ["a/b", "+/+", "#", "A/+", "a//+", "a/+/", "B", "b/", "b/#", "c", "$share/h/c"] {
                let (_, reasons) = unsubscribe(&mut cluster, client, 1, &[other]);
                let nothing = [ReasonCode::NO_SUBSCRIPTION_EXISTED];
                assert_eq!(reasons, if version == Version::V5 { &nothing[..] } else { &[] }, "{other}");
            }
            for topic in ["a/b", "b", "c"] {
                cluster.publish(publisher, topic, b"x");
                cluster.expect_message(client, topic, b"x");
            }
            // The two that overlap are two.
            unsubscribe(&mut cluster, client, 1, &["a/+"]);
            cluster.publish(publisher, "a/b", b"x");
            cluster.expect_message(client, "a/b", b"x");
            for (filter, topic) in [("a/#", "a/b"), ("b", "b"), ("$share/g/c", "c")] {
                let (_, reasons) = unsubscribe(&mut cluster, client, 1, &[filter]);
                assert_eq!(reasons, if version == Version::V5 { &[ReasonCode::SUCCESS][..] } else { &[] });
                cluster.publish(publisher, topic, b"x");
                cluster.expect_nothing(client);
            }
        }
    }
}

/// [MQTT-3.10.4-2]
#[test]
fn nothing_new_is_delivered_after_unsubscribe() {
    for cores in [1, 2, 8] {
        for version in VERSIONS {
            let (mut cluster, client, publisher) = pair(cores, version);
            for filter in ["a", "b/#"] {
                cluster.subscribe(client, filter, Qos::ExactlyOnce);
                unsubscribe(&mut cluster, client, 1, &[filter]);
            }
            for topic in ["a", "b", "b/c"] {
                cluster.publish(publisher, topic, b"0");
                cluster.publish_1(publisher, topic, b"1");
                cluster.publish_2(publisher, topic, b"2");
            }
            cluster.expect_nothing(client);
        }
    }
}

/// [MQTT-3.10.4-3]
#[test]
fn a_delivery_that_has_begun_is_completed_after_unsubscribe() {
    for cores in [1, 2, 8] {
        for version in VERSIONS {
            let mut cluster = Cluster::new(cores);
            let (client, _) = cluster.resume(0, version, "subscriber");
            let publisher = cluster.connect(0, version, "publisher");
            cluster.subscribe(client, "a", Qos::ExactlyOnce);
            cluster.publish_1(publisher, "a", b"1");
            cluster.publish_2(publisher, "a", b"2");
            let (first, second) =
                (next_publish(&mut cluster, client).0, next_publish(&mut cluster, client).0);
            unsubscribe(&mut cluster, client, 9, &["a"]);
            // Both go on, over a lost connection too.
            cluster.cut(client);
            let (client, _) = cluster.resume(0, version, "subscriber");
            assert_eq!(next_publish(&mut cluster, client), (first, true));
            assert_eq!(next_publish(&mut cluster, client), (second, true));
            cluster.send(client, &Packet::PubAck(Ack::new(first, ReasonCode::SUCCESS)));
            cluster.send(client, &Packet::PubRec(Ack::new(second, ReasonCode::SUCCESS)));
            cluster.expect(client, |packet| assert!(matches!(packet, Packet::PubRel(_)), "{packet:?}"));
            cluster.send(client, &Packet::PubComp(Ack::new(second, ReasonCode::SUCCESS)));
            cluster.expect_nothing(client);
        }
    }
}

/// [MQTT-3.10.4-3] holds for messages of a shared group: they are the Client's once they were sent to it.
#[test]
fn a_delivery_of_a_shared_group_is_completed_after_unsubscribe() {
    for cores in [1, 2, 8] {
        for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let mut cluster = Cluster::new(cores);
            let (client, _) = cluster.resume(0, Version::V5, "subscriber");
            let publisher = cluster.connect(0, Version::V5, "publisher");
            cluster.subscribe(client, "$share/g/a", qos);
            cluster.send(publisher, &Packet::Publish(publish("a", b"x", qos, 7)));
            let (id, _) = next_publish(&mut cluster, client);
            unsubscribe(&mut cluster, client, 9, &["$share/g/a"]);
            cluster.cut(client);
            let (client, _) = cluster.resume(0, Version::V5, "subscriber");
            assert_eq!(next_publish(&mut cluster, client), (id, true), "{cores} cores, {qos:?}");
        }
    }
}

/// [MQTT-3.10.4-4] [MQTT-3.10.4-5 v3.1.1]
#[test]
fn unsubscribe_is_answered_even_if_it_ends_nothing() {
    for cores in [1, 2, 8] {
        for version in VERSIONS {
            let (mut cluster, client, _) = pair(cores, version);
            cluster.subscribe(client, "a", Qos::AtMostOnce);
            for filter in ["a", "a", "never", "not/#/valid"] {
                unsubscribe(&mut cluster, client, 1, &[filter]);
                cluster.expect_nothing(client);
            }
        }
    }
}

/// [MQTT-3.10.4-5] [MQTT-3.10.4-4 v3.1.1]
#[test]
fn unsuback_has_the_packet_identifier_of_its_unsubscribe() {
    for version in VERSIONS {
        let (mut cluster, client, _) = pair(2, version);
        for id in [1, 2, 0x1234, u16::MAX, 1] {
            cluster.subscribe(client, "a", Qos::AtMostOnce);
            assert_eq!(unsubscribe(&mut cluster, client, id, &["a"]).0, id);
        }
    }
}

/// [MQTT-3.10.4-6]
#[test]
fn many_filters_count_like_many_unsubscribes_with_one_answer() {
    for cores in [1, 2] {
        for version in VERSIONS {
            let (mut cluster, client, publisher) = pair(cores, version);
            for filter in ["a", "b/+", "c"] {
                cluster.subscribe(client, filter, Qos::AtMostOnce);
            }
            unsubscribe(&mut cluster, client, 1, &["a", "never", "b/+", "a"]);
            cluster.expect_nothing(client);
            for topic in ["a", "b/b"] {
                cluster.publish(publisher, topic, b"x");
                cluster.expect_nothing(client);
            }
            cluster.publish(publisher, "c", b"x");
            cluster.expect_message(client, "c", b"x");
        }
    }
}

/// [MQTT-3.11.3-1]
#[test]
fn unsuback_has_a_code_for_each_filter_in_their_order() {
    let (mut cluster, client, _) = pair(2, Version::V5);
    for filter in ["a", "b", "$share/g/c"] {
        cluster.subscribe(client, filter, Qos::AtMostOnce);
    }
    let filters = ["never", "b", "a", "a", "$share/g/c"];
    let (_, reasons) = unsubscribe(&mut cluster, client, 1, &filters);
    assert_eq!(reasons, [0x11, 0, 0, 0x11, 0].map(ReasonCode));
}

/// Section 3.10.4: what waits for the Client may still be delivered, and is.
#[test]
fn what_was_queued_before_unsubscribe_is_delivered() {
    for cores in [1, 2] {
        let mut cluster = Cluster::new(cores);
        let one = [Property::ReceiveMaximum(1)];
        let properties = Properties::new(&one);
        let (client, _) = cluster.connect_with(0, Connect { properties, ..connect(Version::V5, "c") });
        cluster.subscribe(client, "a", Qos::AtLeastOnce);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        for n in 0..3u8 {
            cluster.publish_1(publisher, "a", &[n]);
        }
        let first = next_publish(&mut cluster, client).0;
        unsubscribe(&mut cluster, client, 9, &["a"]);
        cluster.send(client, &Packet::PubAck(Ack::new(first, ReasonCode::SUCCESS)));
        for n in 1..3u8 {
            cluster.expect_message(client, "a", &[n]);
        }
        cluster.expect_nothing(client);
    }
}
