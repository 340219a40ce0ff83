//! Retained messages (section 3.3.1.3), one rule a test.

use mqtt_proto::packet::{Packet, Properties, Property, Publish, RetainHandling, SubscriptionOptions};
use mqtt_proto::types::{Qos, ReasonCode, Version};

use crate::cluster::{ClientId, Cluster, publish};
use crate::seen::{Seen, VERSIONS, see};

/// A broker with one Client that publishes.
struct Stage {
    cluster: Cluster,
    version: Version,
    publisher: ClientId,
}

impl Stage {
    fn new(cores: u16, version: Version) -> Stage {
        let mut cluster = Cluster::new(cores);
        let publisher = cluster.connect(0, version, "publisher");
        Stage { cluster, version, publisher }
    }

    /// Publishes with RETAIN set, at QoS 0.
    fn retain(&mut self, topic: &str, payload: &[u8]) {
        self.send(publish(topic, payload, Qos::AtMostOnce, 0), true);
    }

    /// Publishes at QoS 0 with RETAIN 0.
    fn publish(&mut self, topic: &str, payload: &[u8]) {
        self.send(publish(topic, payload, Qos::AtMostOnce, 0), false);
    }

    fn send(&mut self, message: Publish<'_>, retain: bool) {
        self.cluster.send(self.publisher, &Packet::Publish(Publish { retain, ..message }));
    }

    /// A new subscriber.
    fn subscriber(&mut self, filter: &str, qos: Qos) -> ClientId {
        let subscriber = self.cluster.connect(0, self.version, "subscriber");
        self.cluster.subscribe(subscriber, filter, qos);
        subscriber
    }

    /// The next message that a Client got.
    #[track_caller]
    fn see(&mut self, client: ClientId) -> Seen {
        see(&mut self.cluster, client)
    }

    /// The payloads that a new subscriber gets for `filter`, sorted.
    fn retained(&mut self, filter: &str) -> Vec<Vec<u8>> {
        let subscriber = self.subscriber(filter, Qos::AtMostOnce);
        let mut got: Vec<_> =
            (0..self.cluster.pending(subscriber)).map(|_| self.see(subscriber).payload).collect();
        self.cluster.cut(subscriber);
        got.sort();
        got
    }
}

/// Runs `test` in every version, on one core and on several.
fn everywhere(test: impl Fn(&mut Stage)) {
    for version in VERSIONS {
        for cores in [1, 2, 8] {
            test(&mut Stage::new(cores, version));
        }
    }
}

/// [MQTT-3.3.1-5] [MQTT-3.3.1-6 v3.1.1]
#[test]
fn a_new_subscriber_gets_the_message_that_was_retained() {
    everywhere(|stage| {
        stage.retain("a/b", b"one");
        stage.retain("b/b", b"two");
        stage.retain("c", b"three");
        assert_eq!(stage.retained("a/b"), [b"one"]);
        assert_eq!(stage.retained("+/b"), [b"one", b"two"]);
    });
}

/// [MQTT-3.3.1-5]: one message a topic, the last one.
#[test]
fn a_retained_message_replaces_the_one_before() {
    everywhere(|stage| {
        stage.retain("a", b"1");
        stage.retain("a", b"2");
        assert_eq!(stage.retained("a"), [b"2"]);
    });
}

/// [MQTT-3.3.1-5 v3.1.1]
#[test]
fn a_message_is_retained_with_its_qos() {
    everywhere(|stage| {
        for (topic, qos) in [("0", Qos::AtMostOnce), ("1", Qos::AtLeastOnce), ("2", Qos::ExactlyOnce)] {
            stage.send(publish(topic, b"x", qos, 1), true);
            let subscriber = stage.subscriber(topic, Qos::ExactlyOnce);
            assert_eq!(stage.see(subscriber).qos, qos);
        }
    });
}

/// [MQTT-3.3.1-7 v3.1.1]: what QoS 0 replaces is gone, though it was of a higher QoS.
#[test]
fn a_retained_message_of_qos_0_discards_one_of_qos_1() {
    everywhere(|stage| {
        stage.send(publish("a", b"first", Qos::AtLeastOnce, 1), true);
        stage.retain("a", b"second");
        assert_eq!(stage.retained("a"), [b"second"]);
    });
}

/// [MQTT-3.3.1-6] [MQTT-3.3.1-10 v3.1.1]
#[test]
fn an_empty_retained_message_removes_what_was_retained() {
    everywhere(|stage| {
        stage.retain("a", b"x");
        stage.retain("b", b"y");
        stage.retain("a", b"");
        assert_eq!(stage.retained("a").len(), 0);
        assert_eq!(stage.retained("b"), [b"y"], "and nothing else");
    });
}

/// [MQTT-3.3.1-6]: those who subscribe get it as any other.
#[test]
fn an_empty_retained_message_is_delivered_to_those_who_subscribe() {
    everywhere(|stage| {
        let subscriber = stage.subscriber("a", Qos::AtMostOnce);
        stage.retain("a", b"");
        stage.cluster.expect_message(subscriber, "a", b"");
        stage.cluster.expect_nothing(subscriber);
    });
}

/// [MQTT-3.3.1-7] [MQTT-3.3.1-11 v3.1.1]
#[test]
fn an_empty_message_is_not_retained() {
    everywhere(|stage| {
        stage.retain("a", b"");
        assert_eq!(stage.cluster.total(|stats| stats.retained_messages), 0);
        assert_eq!(stage.retained("a").len(), 0);
    });
}

/// [MQTT-3.3.1-8] [MQTT-3.3.1-12 v3.1.1]
#[test]
fn a_message_without_retain_is_not_retained() {
    everywhere(|stage| {
        stage.publish("a", b"x");
        assert_eq!(stage.retained("a").len(), 0);
    });
}

/// [MQTT-3.3.1-8] [MQTT-3.3.1-12 v3.1.1]: not even an empty one touches it.
#[test]
fn a_message_without_retain_leaves_the_retained_one_as_it_is() {
    everywhere(|stage| {
        stage.retain("a", b"kept");
        stage.publish("a", b"live");
        stage.publish("a", b"");
        assert_eq!(stage.retained("a"), [b"kept"]);
    });
}

/// How many messages a 5.0 Client gets at each of these SUBSCRIBEs, by their Retain Handling, to a topic with a retained
/// message; `None` is an UNSUBSCRIBE. The same on one core and on two.
fn got_at_each(requests: &[Option<RetainHandling>]) -> Vec<usize> {
    let [one, two] = [1, 2].map(|cores| {
        let mut stage = Stage::new(cores, Version::V5);
        stage.retain("a", b"x");
        let Stage { mut cluster, publisher: client, .. } = stage;
        let mut counts = Vec::new();
        for request in requests {
            let Some(retain_handling) = *request else {
                cluster.unsubscribe(client, "a");
                continue;
            };
            let options =
                SubscriptionOptions { retain_handling, ..SubscriptionOptions::new(Qos::AtMostOnce) };
            let reason = cluster.subscribe_with(client, "a", options, Properties::EMPTY);
            assert_eq!(reason, ReasonCode::GRANTED_QOS_0);
            counts.push(cluster.pending(client));
            (0..cluster.pending(client)).for_each(|_| cluster.expect_message(client, "a", b"x"));
        }
        counts
    });
    assert_eq!(one, two);
    one
}

/// [MQTT-3.3.1-9]: be the subscription new or not.
#[test]
fn retain_handling_0_sends_retained_messages_at_each_subscribe() {
    let send = Some(RetainHandling::Send);
    assert_eq!(got_at_each(&[send, send]), [1, 1]);
}

/// [MQTT-3.3.1-10]
#[test]
fn retain_handling_1_sends_retained_messages_for_a_new_subscription_only() {
    let if_new = Some(RetainHandling::SendIfNew);
    assert_eq!(got_at_each(&[if_new, if_new, None, if_new]), [1, 0, 1]);
}

/// [MQTT-3.3.1-11]
#[test]
fn retain_handling_2_sends_no_retained_messages() {
    assert_eq!(got_at_each(&[Some(RetainHandling::DoNotSend)]), [0]);
}

/// The RETAIN flags of deliveries, to a 5.0 subscriber, of messages published with RETAIN 0 and 1.
fn flags(retain_as_published: bool) -> [bool; 2] {
    let mut stage = Stage::new(2, Version::V5);
    let subscriber = stage.cluster.connect(0, Version::V5, "subscriber");
    let options = SubscriptionOptions { retain_as_published, ..SubscriptionOptions::new(Qos::AtMostOnce) };
    stage.cluster.subscribe_with(subscriber, "a", options, Properties::EMPTY);
    stage.publish("a", b"x");
    stage.retain("a", b"x");
    [stage.see(subscriber).retain, stage.see(subscriber).retain]
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
        let mut stage = Stage::new(2, version);
        let subscriber = stage.subscriber("a", Qos::AtMostOnce);
        stage.retain("a", b"x");
        assert!(!stage.see(subscriber).retain);
    }
}

/// [MQTT-3.3.1-8 v3.1.1]; section 3.3.1.3 of 5.0 says the same, whatever Retain As Published is.
#[test]
fn the_flag_of_a_message_sent_for_a_new_subscription_is_1() {
    everywhere(|stage| {
        stage.retain("a", b"x");
        let subscriber = stage.subscriber("a", Qos::AtMostOnce);
        assert!(stage.see(subscriber).retain);
    });
}

/// Section 3.3.1.3: retained messages are no part of a session.
#[test]
fn a_retained_message_outlives_its_publisher() {
    everywhere(|stage| {
        stage.retain("a", b"x");
        stage.cluster.cut(stage.publisher);
        assert_eq!(stage.cluster.total(|stats| stats.sessions), 0);
        assert_eq!(stage.retained("a"), [b"x"]);
    });
}

/// Section 3.3.1.3: one that has expired is as good as none.
#[test]
fn a_retained_message_is_not_sent_once_it_has_expired() {
    for cores in [1, 2, 8] {
        let mut stage = Stage::new(cores, Version::V5);
        let list = [Property::MessageExpiryInterval(10)];
        let properties = Properties::new(&list);
        stage.send(Publish { properties, ..publish("a", b"x", Qos::AtMostOnce, 0) }, true);
        stage.cluster.advance(9_000);
        assert_eq!(stage.retained("a"), [b"x"]);
        stage.cluster.advance(1_000);
        assert_eq!(stage.retained("a").len(), 0);
    }
}
