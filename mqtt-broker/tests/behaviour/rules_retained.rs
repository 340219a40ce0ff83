//! Retained messages (section 3.3.1.3), one rule a test.

use mqtt_proto::packet::{Packet, Properties, Property, Publish, RetainHandling, SubscriptionOptions};
use mqtt_proto::types::{Qos, ReasonCode, Version};

use crate::cluster::{ClientId, Cluster, publish};
use crate::seen::{VERSIONS, see};

/// Publishes with RETAIN set, at QoS 0.
fn retain(cluster: &mut Cluster, publisher: ClientId, topic: &str, payload: &[u8]) {
    let message = Publish { retain: true, ..publish(topic, payload, Qos::AtMostOnce, 0) };
    cluster.send(publisher, &Packet::Publish(message));
}

/// The payloads that a new subscriber gets for `filter`.
fn retained(cluster: &mut Cluster, version: Version, filter: &str) -> Vec<Vec<u8>> {
    let subscriber = cluster.connect(0, version, "looks");
    cluster.subscribe(subscriber, filter, Qos::AtMostOnce);
    let got = (0..cluster.pending(subscriber)).map(|_| see(cluster, subscriber).payload).collect();
    cluster.cut(subscriber);
    got
}

/// Runs `test` in every version, on one core and on several.
fn everywhere(test: impl Fn(&mut Cluster, Version)) {
    for version in VERSIONS {
        for cores in [1, 2, 8] {
            test(&mut Cluster::new(cores), version);
        }
    }
}

/// [MQTT-3.3.1-5] [MQTT-3.3.1-6 v3.1.1]
#[test]
fn a_new_subscriber_gets_the_message_that_was_retained() {
    everywhere(|cluster, version| {
        let publisher = cluster.connect(0, version, "publisher");
        retain(cluster, publisher, "a/b", b"one");
        retain(cluster, publisher, "b/b", b"two");
        retain(cluster, publisher, "c", b"three");
        assert_eq!(retained(cluster, version, "a/b"), [b"one"]);
        let mut both = retained(cluster, version, "+/b");
        both.sort();
        assert_eq!(both, [b"one", b"two"]);
    });
}

/// [MQTT-3.3.1-5]: one message a topic, the last one.
#[test]
fn a_retained_message_replaces_the_one_before() {
    everywhere(|cluster, version| {
        let publisher = cluster.connect(0, version, "publisher");
        retain(cluster, publisher, "a", b"1");
        retain(cluster, publisher, "a", b"2");
        assert_eq!(retained(cluster, version, "a"), [b"2"]);
    });
}

/// [MQTT-3.3.1-5 v3.1.1]
#[test]
fn a_message_is_retained_with_its_qos() {
    everywhere(|cluster, version| {
        let publisher = cluster.connect(0, version, "publisher");
        for (topic, qos) in [("0", Qos::AtMostOnce), ("1", Qos::AtLeastOnce), ("2", Qos::ExactlyOnce)] {
            let message = Publish { retain: true, ..publish(topic, b"x", qos, 1) };
            cluster.send(publisher, &Packet::Publish(message));
            let subscriber = cluster.connect(0, version, "subscriber");
            cluster.subscribe(subscriber, topic, Qos::ExactlyOnce);
            assert_eq!(see(cluster, subscriber).qos, qos);
        }
    });
}

/// [MQTT-3.3.1-7 v3.1.1]: what QoS 0 replaces is gone, though it was of a higher QoS.
#[test]
fn a_retained_message_of_qos_0_discards_one_of_qos_1() {
    everywhere(|cluster, version| {
        let publisher = cluster.connect(0, version, "publisher");
        let first = Publish { retain: true, ..publish("a", b"first", Qos::AtLeastOnce, 1) };
        cluster.send(publisher, &Packet::Publish(first));
        retain(cluster, publisher, "a", b"second");
        assert_eq!(retained(cluster, version, "a"), [b"second"]);
    });
}

/// [MQTT-3.3.1-6] [MQTT-3.3.1-10 v3.1.1]
#[test]
fn an_empty_retained_message_removes_what_was_retained() {
    everywhere(|cluster, version| {
        let publisher = cluster.connect(0, version, "publisher");
        retain(cluster, publisher, "a", b"x");
        retain(cluster, publisher, "b", b"y");
        retain(cluster, publisher, "a", b"");
        assert_eq!(retained(cluster, version, "a").len(), 0);
        assert_eq!(retained(cluster, version, "b"), [b"y"], "and nothing else");
    });
}

/// [MQTT-3.3.1-6]: those who subscribe get it as any other.
#[test]
fn an_empty_retained_message_is_delivered_to_those_who_subscribe() {
    everywhere(|cluster, version| {
        let subscriber = cluster.connect(0, version, "subscriber");
        cluster.subscribe(subscriber, "a", Qos::AtMostOnce);
        let publisher = cluster.connect(0, version, "publisher");
        retain(cluster, publisher, "a", b"");
        cluster.expect_message(subscriber, "a", b"");
        cluster.expect_nothing(subscriber);
    });
}

/// [MQTT-3.3.1-7] [MQTT-3.3.1-11 v3.1.1]
#[test]
fn an_empty_message_is_not_retained() {
    everywhere(|cluster, version| {
        let publisher = cluster.connect(0, version, "publisher");
        retain(cluster, publisher, "a", b"");
        assert_eq!(cluster.total(|stats| stats.retained_messages), 0);
        assert_eq!(retained(cluster, version, "a").len(), 0);
    });
}

/// [MQTT-3.3.1-8] [MQTT-3.3.1-12 v3.1.1]
#[test]
fn a_message_without_retain_is_not_retained() {
    everywhere(|cluster, version| {
        let publisher = cluster.connect(0, version, "publisher");
        cluster.publish(publisher, "a", b"x");
        assert_eq!(retained(cluster, version, "a").len(), 0);
    });
}

/// [MQTT-3.3.1-8] [MQTT-3.3.1-12 v3.1.1]: not even an empty one touches it.
#[test]
fn a_message_without_retain_leaves_the_retained_one_as_it_is() {
    everywhere(|cluster, version| {
        let publisher = cluster.connect(0, version, "publisher");
        retain(cluster, publisher, "a", b"kept");
        cluster.publish(publisher, "a", b"live");
        cluster.publish(publisher, "a", b"");
        assert_eq!(retained(cluster, version, "a"), [b"kept"]);
    });
}

/// What a 5.0 Client gets when it subscribes to "a" with this Retain Handling.
fn subscribed(cluster: &mut Cluster, client: ClientId, retain_handling: RetainHandling) -> usize {
    let options = SubscriptionOptions { retain_handling, ..SubscriptionOptions::new(Qos::AtMostOnce) };
    let reason = cluster.subscribe_with(client, "a", options, Properties::EMPTY);
    assert_eq!(reason, ReasonCode::GRANTED_QOS_0);
    let got = cluster.pending(client);
    (0..got).for_each(|_| cluster.expect_message(client, "a", b"x"));
    got
}

/// A 5.0 Client "c" that has retained `x` for the topic "a".
fn retaining(cores: u16) -> (Cluster, ClientId) {
    let mut cluster = Cluster::new(cores);
    let client = cluster.connect(0, Version::V5, "c");
    retain(&mut cluster, client, "a", b"x");
    (cluster, client)
}

/// [MQTT-3.3.1-9]: be the subscription new or not.
#[test]
fn retain_handling_0_sends_retained_messages_at_each_subscribe() {
    for cores in [1, 2] {
        let (mut cluster, client) = retaining(cores);
        assert_eq!(subscribed(&mut cluster, client, RetainHandling::Send), 1);
        assert_eq!(subscribed(&mut cluster, client, RetainHandling::Send), 1);
    }
}

/// [MQTT-3.3.1-10]
#[test]
fn retain_handling_1_sends_retained_messages_for_a_new_subscription_only() {
    for cores in [1, 2] {
        let (mut cluster, client) = retaining(cores);
        assert_eq!(subscribed(&mut cluster, client, RetainHandling::SendIfNew), 1);
        assert_eq!(subscribed(&mut cluster, client, RetainHandling::SendIfNew), 0);
        cluster.unsubscribe(client, "a");
        assert_eq!(subscribed(&mut cluster, client, RetainHandling::SendIfNew), 1);
    }
}

/// [MQTT-3.3.1-11]
#[test]
fn retain_handling_2_sends_no_retained_messages() {
    for cores in [1, 2] {
        let (mut cluster, client) = retaining(cores);
        assert_eq!(subscribed(&mut cluster, client, RetainHandling::DoNotSend), 0);
    }
}

/// The RETAIN flags of deliveries, to a 5.0 subscriber, of messages published with RETAIN 0 and 1.
fn flags(retain_as_published: bool) -> [bool; 2] {
    let mut cluster = Cluster::new(2);
    let subscriber = cluster.connect(0, Version::V5, "subscriber");
    let options = SubscriptionOptions { retain_as_published, ..SubscriptionOptions::new(Qos::AtMostOnce) };
    cluster.subscribe_with(subscriber, "a", options, Properties::EMPTY);
    let publisher = cluster.connect(0, Version::V5, "publisher");
    cluster.publish(publisher, "a", b"x");
    retain(&mut cluster, publisher, "a", b"x");
    [see(&mut cluster, subscriber).retain, see(&mut cluster, subscriber).retain]
}

/// [MQTT-3.3.1-12]
#[test]
fn without_retain_as_published_the_flag_of_a_live_message_is_0() {
    assert_eq!(flags(false), [false, false]);
}

/// [MQTT-3.3.1-13]
#[test]
fn with_retain_as_published_the_flag_is_the_publishers() {
    assert_eq!(flags(true), [false, true]);
}

/// [MQTT-3.3.1-9 v3.1.1]
#[test]
fn before_5_the_flag_of_a_live_message_is_0() {
    for version in [Version::V3_1, Version::V3_1_1] {
        let mut cluster = Cluster::new(2);
        let subscriber = cluster.connect(0, version, "subscriber");
        cluster.subscribe(subscriber, "a", Qos::AtMostOnce);
        let publisher = cluster.connect(0, version, "publisher");
        retain(&mut cluster, publisher, "a", b"x");
        assert!(!see(&mut cluster, subscriber).retain);
    }
}

/// [MQTT-3.3.1-8 v3.1.1]; section 3.3.1.3 of 5.0 says the same, whatever Retain As Published is.
#[test]
fn the_flag_of_a_message_sent_for_a_new_subscription_is_1() {
    everywhere(|cluster, version| {
        let publisher = cluster.connect(0, version, "publisher");
        retain(cluster, publisher, "a", b"x");
        let subscriber = cluster.connect(0, version, "subscriber");
        cluster.subscribe(subscriber, "a", Qos::AtMostOnce);
        assert!(see(cluster, subscriber).retain);
    });
}

/// Section 3.3.1.3: retained messages are no part of a session.
#[test]
fn a_retained_message_outlives_its_publisher() {
    everywhere(|cluster, version| {
        let publisher = cluster.connect(0, version, "publisher");
        retain(cluster, publisher, "a", b"x");
        cluster.cut(publisher);
        assert_eq!(cluster.total(|stats| stats.sessions), 0);
        assert_eq!(retained(cluster, version, "a"), [b"x"]);
    });
}

/// Section 3.3.1.3: one that has expired is as good as none.
#[test]
fn a_retained_message_is_not_sent_once_it_has_expired() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        let list = [Property::MessageExpiryInterval(10)];
        let properties = Properties::new(&list);
        let message = Publish { retain: true, properties, ..publish("a", b"x", Qos::AtMostOnce, 0) };
        cluster.send(publisher, &Packet::Publish(message));
        cluster.advance(9_000);
        assert_eq!(retained(&mut cluster, Version::V5, "a"), [b"x"]);
        cluster.advance(1_000);
        assert_eq!(retained(&mut cluster, Version::V5, "a").len(), 0);
    }
}
