//! Flow control (sections 3.3.4, 4.9), Topic Aliases and Message Expiry (section 3.3.2.3), one rule a test.

use std::collections::BTreeMap;

use mqtt_proto::packet::{Ack, Connect, Packet, Properties, Property, Publish};
use mqtt_proto::types::{Qos, ReasonCode, TopicName, Version};

use crate::cluster::{ClientId, Cluster, connect, limits, publish};
use crate::seen::{VERSIONS, ok, raw_publish, see, see_id};

/// A 5.0 Client that announces these properties, with a session where it asks for one.
fn connect_5<'a>(cluster: &mut Cluster, name: &'a str, list: &'a [Property<'a>]) -> ClientId {
    let properties = Properties::new(list);
    cluster.connect_with(0, Connect { clean_start: false, properties, ..connect(Version::V5, name) }).0
}

/// A subscriber to "a" that takes `receive_maximum` messages at once, and `sent` messages published to it.
fn flooded(cores: u16, receive_maximum: u16, qos: Qos, sent: u8) -> (Cluster, ClientId) {
    let mut cluster = Cluster::new(cores);
    let list = [Property::ReceiveMaximum(receive_maximum)];
    let subscriber = connect_5(&mut cluster, "subscriber", &list);
    cluster.subscribe(subscriber, "a", Qos::ExactlyOnce);
    let publisher = cluster.connect(0, Version::V5, "publisher");
    for n in 0..sent {
        cluster.send(publisher, &Packet::Publish(publish("a", &[n], qos, u16::from(n) + 1)));
    }
    (cluster, subscriber)
}

/// [MQTT-4.9.0-1] [MQTT-3.3.4-9] [MQTT-4.9.0-2]: that many, at both QoS levels, and no more.
#[test]
fn as_many_messages_are_sent_unacknowledged_as_the_receive_maximum_says() {
    for cores in [1, 2, 8] {
        for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
            for receive_maximum in [1, 2, 5] {
                let (cluster, subscriber) = flooded(cores, receive_maximum, qos, 20);
                assert_eq!(cluster.pending(subscriber), usize::from(receive_maximum));
            }
        }
    }
}

/// Section 4.9: PUBACK, PUBCOMP and a PUBREC that refuses give one back; PUBREC alone does not.
#[test]
fn the_end_of_a_flow_and_nothing_else_lets_another_message_leave() {
    for cores in [1, 2] {
        let (mut cluster, subscriber) = flooded(cores, 1, Qos::AtLeastOnce, 2);
        let id = see_id(&mut cluster, subscriber);
        cluster.send(subscriber, &Packet::PubAck(ok(id)));
        assert_eq!(see(&mut cluster, subscriber).payload, [1]);

        let (mut cluster, subscriber) = flooded(cores, 1, Qos::ExactlyOnce, 3);
        let id = see_id(&mut cluster, subscriber);
        cluster.send(subscriber, &Packet::PubRec(ok(id)));
        cluster.expect(subscriber, |packet| assert_eq!(packet, &Packet::PubRel(ok(id))));
        cluster.expect_nothing(subscriber);
        cluster.send(subscriber, &Packet::PubComp(ok(id)));
        let id = see_id(&mut cluster, subscriber);
        cluster.send(subscriber, &Packet::PubRec(Ack::new(id, ReasonCode::UNSPECIFIED_ERROR)));
        assert_eq!(see(&mut cluster, subscriber).payload, [2]);
    }
}

/// Section 4.9: it begins anew with each connection, and counts what is sent again.
#[test]
fn messages_sent_again_count_against_the_receive_maximum_of_the_new_connection() {
    for cores in [1, 2] {
        let (mut cluster, first) = flooded(cores, 5, Qos::AtLeastOnce, 0);
        let keeps = [Property::SessionExpiryInterval(60), Property::ReceiveMaximum(5)];
        cluster.cut(first);
        let subscriber = connect_5(&mut cluster, "subscriber", &keeps);
        cluster.subscribe(subscriber, "a", Qos::AtLeastOnce);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        for n in 0..8u8 {
            cluster.publish_1(publisher, "a", &[n]);
        }
        assert_eq!(cluster.pending(subscriber), 5);
        cluster.cut(subscriber);
        let fewer = [Property::SessionExpiryInterval(60), Property::ReceiveMaximum(2)];
        let subscriber = connect_5(&mut cluster, "subscriber", &fewer);
        assert_eq!(cluster.pending(subscriber), 2);
    }
}

/// Section 3.3.4: QoS 0 needs no quota.
#[test]
fn qos_0_messages_do_not_count_against_the_receive_maximum() {
    let (cluster, subscriber) = flooded(1, 1, Qos::AtMostOnce, 20);
    assert_eq!(cluster.pending(subscriber), 20);
}

/// [MQTT-3.3.4-10] [MQTT-4.9.0-3]: SUBACK, PINGRESP, PUBACK and PUBREC leave, and what comes is handled.
#[test]
fn a_spent_receive_maximum_delays_no_other_packet() {
    for cores in [1, 2, 8] {
        let (mut cluster, subscriber) = flooded(cores, 1, Qos::ExactlyOnce, 5);
        let id = see_id(&mut cluster, subscriber);
        cluster.send(subscriber, &Packet::PingReq);
        cluster.expect(subscriber, |packet| assert_eq!(packet, &Packet::PingResp));
        cluster.subscribe(subscriber, "b", Qos::AtMostOnce);
        cluster.unsubscribe(subscriber, "b");
        cluster.publish_1(subscriber, "c", b"x");
        cluster.publish_2(subscriber, "c", b"x");
        cluster.send(subscriber, &Packet::PubRec(ok(id)));
        cluster.expect(subscriber, |packet| assert_eq!(packet, &Packet::PubRel(ok(id))));
        cluster.expect_nothing(subscriber);
    }
}

/// [MQTT-3.3.4-7]: a Client's rule; who breaks it is told so by 0x93.
#[test]
fn a_client_that_sends_more_than_the_receive_maximum_is_closed() {
    for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
        let mut cluster = Cluster::with_limits(1, limits(|limits| limits.receive_maximum = 2));
        let client = cluster.connect(0, Version::V5, "c");
        for n in 1..=2 {
            cluster.send(client, &Packet::Publish(publish("a", b"x", Qos::ExactlyOnce, n)));
            cluster.expect(client, |packet| assert!(matches!(packet, Packet::PubRec(_)), "{packet:?}"));
        }
        cluster.send(client, &Packet::Publish(publish("a", b"x", qos, 3)));
        cluster.expect_disconnect(client, ReasonCode::RECEIVE_MAXIMUM_EXCEEDED);
    }
}

/// A Client that may use ten Topic Aliases, and a subscriber to everything.
fn aliasing() -> (Cluster, ClientId, ClientId) {
    let mut cluster = Cluster::with_limits(1, limits(|limits| limits.topic_alias_maximum = 10));
    let subscriber = cluster.connect(0, Version::V5, "subscriber");
    cluster.subscribe(subscriber, "#", Qos::AtMostOnce);
    let client = cluster.connect(0, Version::V5, "c");
    (cluster, client, subscriber)
}

fn publish_alias(cluster: &mut Cluster, client: ClientId, topic: &str, alias: u16) {
    let [high, low] = alias.to_be_bytes();
    let bytes = raw_publish(Version::V5, 0x30, topic.as_bytes(), None, &[0x23, high, low], b"x");
    cluster.send_bytes(client, &bytes);
}

/// [MQTT-3.3.2-12]
#[test]
fn every_topic_alias_up_to_the_maximum_is_accepted() {
    let (mut cluster, client, subscriber) = aliasing();
    for alias in 1..=10 {
        publish_alias(&mut cluster, client, &format!("topic/{alias}"), alias);
        cluster.expect_message(subscriber, &format!("topic/{alias}"), b"x");
    }
    for alias in (1..=10).rev() {
        publish_alias(&mut cluster, client, "", alias);
        cluster.expect_message(subscriber, &format!("topic/{alias}"), b"x");
    }
}

/// Section 3.3.2.3.4: the last topic that came with an alias is the one it stands for.
#[test]
fn a_topic_alias_may_be_given_to_another_topic() {
    let (mut cluster, client, subscriber) = aliasing();
    for topic in ["first", "second"] {
        publish_alias(&mut cluster, client, topic, 4);
        cluster.expect_message(subscriber, topic, b"x");
        publish_alias(&mut cluster, client, "", 4);
        cluster.expect_message(subscriber, topic, b"x");
    }
}

/// [MQTT-3.3.2-8]
#[test]
fn topic_alias_0_closes_the_connection() {
    let (mut cluster, client, _) = aliasing();
    publish_alias(&mut cluster, client, "a", 0);
    cluster.expect_disconnect(client, ReasonCode::TOPIC_ALIAS_INVALID);
}

/// [MQTT-3.3.2-9]: a Client's rule.
#[test]
fn a_topic_alias_above_the_maximum_closes_the_connection() {
    for alias in [11, 65_535] {
        let (mut cluster, client, _) = aliasing();
        publish_alias(&mut cluster, client, "a", alias);
        cluster.expect_disconnect(client, ReasonCode::TOPIC_ALIAS_INVALID);
    }
}

/// Section 3.3.2.3.4: a Protocol Error.
#[test]
fn a_topic_alias_that_stands_for_nothing_closes_the_connection() {
    let (mut cluster, client, _) = aliasing();
    publish_alias(&mut cluster, client, "a", 3);
    publish_alias(&mut cluster, client, "", 2);
    cluster.expect_disconnect(client, ReasonCode::PROTOCOL_ERROR);
}

/// [MQTT-3.3.2-7]: what a Client's alias stood for on its connection before, it does not stand for now.
#[test]
fn a_topic_alias_ends_with_its_connection() {
    for cores in [1, 2] {
        let mut cluster = Cluster::new(cores);
        let (client, _) = cluster.resume(0, Version::V5, "c");
        publish_alias(&mut cluster, client, "a", 3);
        cluster.cut(client);
        let (client, _) = cluster.resume(0, Version::V5, "c");
        publish_alias(&mut cluster, client, "", 3);
        cluster.expect_disconnect(client, ReasonCode::PROTOCOL_ERROR);
    }
}

/// Section 3.3.2.3.4: each direction has aliases of its own.
#[test]
fn a_topic_alias_of_a_client_is_not_passed_on() {
    let (mut cluster, client, subscriber) = aliasing();
    publish_alias(&mut cluster, client, "a", 3);
    publish_alias(&mut cluster, client, "", 3);
    for _ in 0..2 {
        cluster.expect(subscriber, |packet| {
            let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
            assert_eq!(publish.topic.map(TopicName::as_str), Some("a"));
            assert_eq!(publish.properties.topic_alias(), None);
        });
    }
}

/// [MQTT-3.3.2-11]: the aliases used for a Client that allows `maximum`, which has to understand them.
#[test]
fn no_topic_alias_above_the_clients_maximum_is_sent() {
    for maximum in [0, 1, 3] {
        let mut cluster = Cluster::with_limits(2, limits(|limits| limits.outgoing_topic_aliases_max = 8));
        let list = [Property::TopicAliasMaximum(maximum)];
        let subscriber = connect_5(&mut cluster, "subscriber", &list);
        cluster.subscribe(subscriber, "#", Qos::AtMostOnce);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        let mut known = BTreeMap::new();
        for n in 0..40 {
            let topic = format!("topic/{}", n * n % 7);
            cluster.publish(publisher, &topic, b"x");
            let (named, alias) = cluster.expect(subscriber, |packet| {
                let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
                (publish.topic.map(|topic| topic.to_string()), publish.properties.topic_alias())
            });
            assert!(alias.is_none_or(|alias| (1..=maximum).contains(&alias)), "{alias:?}");
            match (named, alias) {
                (Some(named), Some(alias)) => drop(known.insert(alias, named)),
                (Some(named), None) => assert_eq!(named, topic),
                (None, alias) => assert_eq!(known[&alias.expect("a topic or an alias")], topic),
            }
        }
        assert_eq!(known.len(), usize::from(maximum), "and all of them are used");
    }
}

/// Section 3.3.2.3.4: on a new connection the topic is named once more.
#[test]
fn the_aliases_the_broker_uses_end_with_their_connection() {
    for cores in [1, 2] {
        let mut cluster = Cluster::new(cores);
        let list = [Property::TopicAliasMaximum(5), Property::SessionExpiryInterval(60)];
        let mut subscriber = connect_5(&mut cluster, "subscriber", &list);
        cluster.subscribe(subscriber, "topic", Qos::AtMostOnce);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        for _ in 0..2 {
            for topic in ["topic", ""] {
                cluster.publish(publisher, "topic", b"x");
                assert_eq!(see(&mut cluster, subscriber).topic, topic);
            }
            cluster.cut(subscriber);
            subscriber = connect_5(&mut cluster, "subscriber", &list);
        }
    }
}

/// Publishes to "a" at QoS 1 with this expiry in seconds.
fn publish_expiring(cluster: &mut Cluster, publisher: ClientId, payload: &[u8], expiry: u32) {
    let list = [Property::MessageExpiryInterval(expiry)];
    let message =
        Publish { properties: Properties::new(&list), ..publish("a", payload, Qos::AtLeastOnce, 1) };
    cluster.send(publisher, &Packet::Publish(message));
}

/// The Message Expiry Interval of the next PUBLISH.
#[track_caller]
fn expiry(cluster: &mut Cluster, client: ClientId) -> Option<u32> {
    cluster.expect(client, |packet| {
        let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
        publish.properties.message_expiry_interval()
    })
}

/// A session that subscribes to "a", its Client away, and a publisher.
fn away(cores: u16, version: Version) -> (Cluster, ClientId) {
    let mut cluster = Cluster::new(cores);
    let (subscriber, _) = cluster.resume(0, version, "subscriber");
    cluster.subscribe(subscriber, "a", Qos::AtLeastOnce);
    cluster.cut(subscriber);
    let publisher = cluster.connect(0, Version::V5, "publisher");
    (cluster, publisher)
}

/// [MQTT-3.3.2-5]: whatever version its subscriber speaks.
#[test]
fn a_message_that_expired_before_it_was_sent_is_not_sent() {
    for version in VERSIONS {
        for cores in [1, 2, 8] {
            let (mut cluster, publisher) = away(cores, version);
            publish_expiring(&mut cluster, publisher, b"short", 10);
            publish_expiring(&mut cluster, publisher, b"long", 11);
            cluster.advance(10_000);
            let (subscriber, _) = cluster.resume(0, version, "subscriber");
            assert_eq!(see(&mut cluster, subscriber).payload, b"long");
            cluster.expect_nothing(subscriber);
        }
    }
}

/// [MQTT-3.3.2-5]: waiting for the send quota is waiting too.
#[test]
fn a_message_that_expired_behind_a_full_window_is_not_sent() {
    for cores in [1, 2] {
        let (mut cluster, subscriber) = flooded(cores, 1, Qos::AtLeastOnce, 1);
        let publisher = cluster.connect(0, Version::V5, "other");
        publish_expiring(&mut cluster, publisher, b"short", 10);
        let id = see_id(&mut cluster, subscriber);
        cluster.advance(10_000);
        cluster.send(subscriber, &Packet::PubAck(ok(id)));
        cluster.expect_nothing(subscriber);
    }
}

/// [MQTT-3.3.2-5]: and so is being on the way from one core to another, to a Client or to a member of a shared group.
#[test]
fn a_message_that_expired_between_two_cores_is_not_sent() {
    for filter in ["a", "$share/g/a"] {
        let mut cluster = Cluster::new(8);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        let subscribers: Vec<_> =
            (0..32).map(|n| cluster.connect(0, Version::V5, &format!("subscriber-{n}"))).collect();
        let elsewhere = |client: &ClientId| cluster.core_of(*client) != cluster.core_of(publisher);
        let subscriber = subscribers.into_iter().find(elsewhere).expect("some Client has another home");
        cluster.subscribe(subscriber, filter, Qos::AtLeastOnce);
        cluster.lanes_stalled = true;
        publish_expiring(&mut cluster, publisher, b"short", 10);
        publish_expiring(&mut cluster, publisher, b"long", 20);
        cluster.advance(11_000);
        cluster.lanes_stalled = false;
        cluster.run();
        assert_eq!(see(&mut cluster, subscriber).payload, b"long");
        cluster.expect_nothing(subscriber);
        assert_eq!(cluster.total(|stats| stats.dropped_expired), 1);
    }
}

/// [MQTT-3.3.2-6]
#[test]
fn the_time_a_message_waited_is_taken_off_its_expiry() {
    for cores in [1, 2, 8] {
        let (mut cluster, publisher) = away(cores, Version::V5);
        publish_expiring(&mut cluster, publisher, b"x", 30);
        publish_expiring(&mut cluster, publisher, b"x", u32::MAX);
        cluster.advance(12_000);
        let (subscriber, _) = cluster.resume(0, Version::V5, "subscriber");
        assert_eq!(expiry(&mut cluster, subscriber), Some(18));
        assert_eq!(expiry(&mut cluster, subscriber), Some(u32::MAX - 12));
    }
}

/// Section 3.3.2.3.3: without one a message does not expire, and none is made up.
#[test]
fn a_message_without_expiry_waits_as_long_as_its_session() {
    for cores in [1, 2] {
        let (mut cluster, publisher) = away(cores, Version::V5);
        cluster.publish_1(publisher, "a", b"x");
        cluster.advance(3_599_000);
        let (subscriber, _) = cluster.resume(0, Version::V5, "subscriber");
        assert_eq!(expiry(&mut cluster, subscriber), None);
    }
}

/// Section 3.3.4: versions before 5.0 have no Receive Maximum that a Client could exceed.
#[test]
fn before_5_no_receive_maximum_is_enforced() {
    let mut cluster = Cluster::with_limits(1, limits(|limits| limits.receive_maximum = 2));
    let client = cluster.connect(0, Version::V3_1_1, "c");
    for n in 1..=10 {
        cluster.send(client, &Packet::Publish(publish("a", b"x", Qos::ExactlyOnce, n)));
        cluster.expect(client, |packet| assert!(matches!(packet, Packet::PubRec(_)), "{packet:?}"));
    }
}
