//! The broker as the sender of QoS 0, 1 and 2 (sections 3.3.1, 4.3, 4.4, 4.6): identifiers, DUP, resending, order.

use std::collections::BTreeSet;

use mqtt_proto::packet::{Ack, Packet, Properties, Property, Publish};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, Version};

use crate::cluster::{ClientId, Cluster, limits, publish};
use crate::seen::{VERSIONS, ok, packet_id, see, see_id};

const BOTH: [Qos; 2] = [Qos::AtLeastOnce, Qos::ExactlyOnce];

/// A subscriber with a session, to the topic "a" at QoS 2, and a publisher.
struct Stage {
    cluster: Cluster,
    version: Version,
    subscriber: ClientId,
    publisher: ClientId,
}

fn stage(cores: u16, version: Version) -> Stage {
    let mut cluster = Cluster::new(cores);
    let (subscriber, _) = cluster.resume(0, version, "subscriber");
    cluster.subscribe(subscriber, "a", Qos::ExactlyOnce);
    let publisher = cluster.connect(0, version, "publisher");
    Stage { cluster, version, subscriber, publisher }
}

/// Runs `test` in every version, on one core and on several.
fn everywhere(test: impl Fn(Stage)) {
    for version in VERSIONS {
        for cores in [1, 2, 8] {
            test(stage(cores, version));
        }
    }
}

impl Stage {
    /// Somebody publishes to "a"; the answer is not looked at.
    fn publishes(&mut self, qos: Qos, payload: &[u8]) {
        let id = u16::from(payload[0]) + 1;
        self.cluster.send(self.publisher, &Packet::Publish(publish("a", payload, qos, id)));
        if qos == Qos::ExactlyOnce {
            self.cluster.send(self.publisher, &Packet::PubRel(ok(packet_id(id))));
        }
    }

    /// The subscriber's connection breaks, and it comes back.
    fn reconnects(&mut self) {
        self.cluster.cut(self.subscriber);
        self.subscriber = self.cluster.resume(0, self.version, "subscriber").0;
    }

    fn answers(&mut self, packet: &Packet<'_>) {
        self.cluster.send(self.subscriber, packet);
    }

    /// The subscriber gets a PUBREL: its Packet Identifier.
    #[track_caller]
    fn pubrel(&mut self) -> PacketId {
        self.cluster.expect(self.subscriber, |packet| match packet {
            Packet::PubRel(ack) => ack.packet_id,
            other => panic!("{other:?}"),
        })
    }

    #[track_caller]
    fn nothing(&mut self) {
        self.cluster.expect_nothing(self.subscriber);
    }
}

/// [MQTT-4.3.1-1] [MQTT-3.3.1-2]
#[test]
fn a_qos_0_message_is_sent_without_dup_and_without_identifier() {
    everywhere(|mut stage| {
        stage.publishes(Qos::AtMostOnce, b"x");
        let seen = see(&mut stage.cluster, stage.subscriber);
        assert_eq!((seen.qos, seen.dup, seen.packet_id), (Qos::AtMostOnce, false, None));
    });
}

/// [MQTT-4.3.2-1] [MQTT-4.3.3-1]: QoS 1 and 2 share one range of identifiers.
#[test]
fn messages_under_way_have_different_identifiers() {
    everywhere(|mut stage| {
        let mut used = BTreeSet::new();
        for n in 0..40u8 {
            stage.publishes(BOTH[usize::from(n) % 2], &[n]);
            let id = see_id(&mut stage.cluster, stage.subscriber);
            assert!(used.insert(id), "{id} is in use");
            // Every fourth is finished, so that some identifiers become free between those in use.
            if n % 4 == 0 {
                stage.answers(&Packet::PubAck(ok(id)));
                used.remove(&id);
            }
        }
    });
}

/// [MQTT-4.3.2-2] [MQTT-4.3.2-1 v3.1.1]
#[test]
fn a_qos_1_message_is_sent_first_without_dup() {
    everywhere(|mut stage| {
        stage.publishes(Qos::AtLeastOnce, b"x");
        let seen = see(&mut stage.cluster, stage.subscriber);
        assert_eq!((seen.qos, seen.dup), (Qos::AtLeastOnce, false));
        assert!(seen.packet_id.is_some());
    });
}

/// [MQTT-4.3.3-2] [MQTT-4.3.3-1 v3.1.1]
#[test]
fn a_qos_2_message_is_sent_first_without_dup() {
    everywhere(|mut stage| {
        stage.publishes(Qos::ExactlyOnce, b"x");
        let seen = see(&mut stage.cluster, stage.subscriber);
        assert_eq!((seen.qos, seen.dup), (Qos::ExactlyOnce, false));
        assert!(seen.packet_id.is_some());
    });
}

/// [MQTT-3.3.1-2] [MQTT-4.3.2-2]: the first time is without DUP, however long it was on the way.
#[test]
fn a_message_that_waited_for_its_client_is_sent_first_without_dup() {
    everywhere(|mut stage| {
        stage.cluster.cut(stage.subscriber);
        stage.publishes(Qos::AtLeastOnce, b"1");
        stage.publishes(Qos::ExactlyOnce, b"2");
        stage.subscriber = stage.cluster.resume(0, stage.version, "subscriber").0;
        for payload in [b"1", b"2"] {
            let seen = see(&mut stage.cluster, stage.subscriber);
            assert_eq!((&seen.payload[..], seen.dup), (&payload[..], false));
        }
    });
}

/// [MQTT-3.3.1-1]
#[test]
fn a_message_that_is_sent_again_has_dup() {
    for qos in BOTH {
        everywhere(|mut stage| {
            stage.publishes(qos, b"x");
            for _ in 0..2 {
                stage.reconnects();
                assert!(see(&mut stage.cluster, stage.subscriber).dup);
            }
        });
    }
}

/// [MQTT-3.3.1-3]
#[test]
fn the_dup_flag_that_a_message_came_with_says_nothing_of_its_deliveries() {
    for qos in BOTH {
        everywhere(|mut stage| {
            let message = Publish { dup: true, ..publish("a", b"x", qos, 9) };
            stage.cluster.send(stage.publisher, &Packet::Publish(message));
            assert!(!see(&mut stage.cluster, stage.subscriber).dup);
        });
    }
}

/// [MQTT-4.4.0-1]
#[test]
fn what_was_not_acknowledged_is_sent_again_with_its_identifier() {
    for qos in BOTH {
        everywhere(|mut stage| {
            for payload in [b"1", b"2", b"3"] {
                stage.publishes(qos, payload);
            }
            let first = [(); 3].map(|()| see_id(&mut stage.cluster, stage.subscriber));
            stage.reconnects();
            for (n, id) in (1..).zip(first) {
                let seen = see(&mut stage.cluster, stage.subscriber);
                assert_eq!((seen.packet_id, seen.qos), (Some(id), qos));
                assert_eq!(seen.payload, format!("{n}").as_bytes());
            }
            stage.nothing();
        });
    }
}

/// [MQTT-4.4.0-1] [MQTT-4.3.3-5]: and PUBREL too, until PUBCOMP has come.
#[test]
fn a_pubrel_without_pubcomp_is_sent_again_with_its_identifier() {
    everywhere(|mut stage| {
        stage.publishes(Qos::ExactlyOnce, b"x");
        let id = see_id(&mut stage.cluster, stage.subscriber);
        stage.answers(&Packet::PubRec(ok(id)));
        assert_eq!(stage.pubrel(), id);
        for _ in 0..2 {
            stage.reconnects();
            assert_eq!(stage.pubrel(), id);
        }
        stage.answers(&Packet::PubComp(ok(id)));
        stage.reconnects();
        stage.nothing();
    });
}

/// [MQTT-4.4.0-1]: at no other time, however long it takes.
#[test]
fn nothing_is_sent_again_while_the_connection_stands() {
    everywhere(|mut stage| {
        stage.publishes(Qos::AtLeastOnce, b"1");
        stage.publishes(Qos::ExactlyOnce, b"2");
        let id = [(); 2].map(|()| see_id(&mut stage.cluster, stage.subscriber))[1];
        stage.answers(&Packet::PubRec(ok(id)));
        stage.pubrel();
        stage.cluster.advance(3_600_000);
        stage.publishes(Qos::AtMostOnce, b"3");
        assert_eq!(see(&mut stage.cluster, stage.subscriber).payload, b"3");
        stage.nothing();
    });
}

/// [MQTT-4.3.2-3]: acknowledged it is by PUBACK, and by nothing else.
#[test]
fn a_qos_1_message_is_unacknowledged_until_its_puback() {
    everywhere(|mut stage| {
        stage.publishes(Qos::AtLeastOnce, b"x");
        let id = see_id(&mut stage.cluster, stage.subscriber);
        stage.answers(&Packet::PubComp(ok(id)));
        stage.answers(&Packet::PubAck(ok(id.next())));
        stage.reconnects();
        assert_eq!(see_id(&mut stage.cluster, stage.subscriber), id);
        stage.answers(&Packet::PubAck(ok(id)));
        stage.reconnects();
        stage.nothing();
    });
}

/// [MQTT-4.3.3-3]: by PUBREC, and by nothing else.
#[test]
fn a_qos_2_message_is_unacknowledged_until_its_pubrec() {
    everywhere(|mut stage| {
        stage.publishes(Qos::ExactlyOnce, b"x");
        let id = see_id(&mut stage.cluster, stage.subscriber);
        stage.answers(&Packet::PubAck(ok(id)));
        stage.answers(&Packet::PubComp(ok(id)));
        stage.reconnects();
        assert_eq!(see_id(&mut stage.cluster, stage.subscriber), id);
    });
}

/// [MQTT-4.3.3-4] [MQTT-4.3.3-1 v3.1.1]
#[test]
fn pubrec_is_answered_by_pubrel_with_its_identifier() {
    everywhere(|mut stage| {
        stage.publishes(Qos::AtLeastOnce, b"1");
        stage.publishes(Qos::ExactlyOnce, b"2");
        see_id(&mut stage.cluster, stage.subscriber);
        let id = see_id(&mut stage.cluster, stage.subscriber);
        stage.answers(&Packet::PubRec(ok(id)));
        assert_eq!(stage.pubrel(), id);
        stage.nothing();
    });
}

/// [MQTT-4.3.3-4]: a Reason Code below 0x80 that is not success is no error.
#[test]
fn pubrec_that_tells_of_no_subscribers_is_answered_by_pubrel() {
    for cores in [1, 2] {
        let mut stage = stage(cores, Version::V5);
        stage.publishes(Qos::ExactlyOnce, b"x");
        let id = see_id(&mut stage.cluster, stage.subscriber);
        stage.answers(&Packet::PubRec(Ack::new(id, ReasonCode::NO_MATCHING_SUBSCRIBERS)));
        assert_eq!(stage.pubrel(), id);
    }
}

/// [MQTT-4.3.3-6]
#[test]
fn after_pubrel_the_message_itself_is_not_sent_again() {
    everywhere(|mut stage| {
        stage.publishes(Qos::ExactlyOnce, b"x");
        let id = see_id(&mut stage.cluster, stage.subscriber);
        stage.answers(&Packet::PubRec(ok(id)));
        stage.pubrel();
        stage.reconnects();
        while stage.cluster.pending(stage.subscriber) > 0 {
            stage.cluster.expect(stage.subscriber, |packet| {
                assert!(!matches!(packet, Packet::Publish(_)), "{packet:?}");
            });
        }
    });
}

/// Section 4.3.3: a PUBREC that comes twice, its PUBREL having been lost, gets a PUBREL each time.
#[test]
fn a_repeated_pubrec_is_answered_by_pubrel_again() {
    everywhere(|mut stage| {
        stage.publishes(Qos::ExactlyOnce, b"x");
        let id = see_id(&mut stage.cluster, stage.subscriber);
        for _ in 0..2 {
            stage.answers(&Packet::PubRec(ok(id)));
            assert_eq!(stage.pubrel(), id);
            stage.nothing();
        }
    });
}

/// Section 3.6.2.1: a PUBREC for nothing is answered by PUBREL 0x92.
#[test]
fn a_pubrec_for_nothing_is_answered_by_a_pubrel_that_says_so() {
    let mut stage = stage(1, Version::V5);
    stage.answers(&Packet::PubRec(ok(packet_id(5))));
    stage.cluster.expect(stage.subscriber, |packet| {
        let not_found = Ack::new(packet_id(5), ReasonCode::PACKET_IDENTIFIER_NOT_FOUND);
        assert_eq!(packet, &Packet::PubRel(not_found));
    });
}

/// [MQTT-4.3.3-7]: neither before nor after its connection was lost.
#[test]
fn a_qos_2_message_that_was_sent_does_not_expire() {
    for cores in [1, 2, 8] {
        let mut stage = stage(cores, Version::V5);
        let list = [Property::MessageExpiryInterval(10)];
        let message =
            Publish { properties: Properties::new(&list), ..publish("a", b"x", Qos::ExactlyOnce, 9) };
        stage.cluster.send(stage.publisher, &Packet::Publish(message));
        let id = see_id(&mut stage.cluster, stage.subscriber);
        stage.cluster.advance(60_000);
        stage.reconnects();
        assert_eq!(see_id(&mut stage.cluster, stage.subscriber), id);
        stage.answers(&Packet::PubRec(ok(id)));
        assert_eq!(stage.pubrel(), id);
    }
}

/// [MQTT-4.4.0-2]
#[test]
fn a_message_that_puback_refuses_is_not_sent_again() {
    for cores in [1, 2, 8] {
        let mut stage = stage(cores, Version::V5);
        stage.publishes(Qos::AtLeastOnce, b"x");
        let id = see_id(&mut stage.cluster, stage.subscriber);
        stage.answers(&Packet::PubAck(Ack::new(id, ReasonCode::QUOTA_EXCEEDED)));
        stage.reconnects();
        stage.nothing();
    }
}

/// [MQTT-4.4.0-2]: nor is there anything to release [MQTT-4.3.3-4].
#[test]
fn a_message_that_pubrec_refuses_is_neither_released_nor_sent_again() {
    for cores in [1, 2, 8] {
        let mut stage = stage(cores, Version::V5);
        stage.publishes(Qos::ExactlyOnce, b"x");
        let id = see_id(&mut stage.cluster, stage.subscriber);
        stage.answers(&Packet::PubRec(Ack::new(id, ReasonCode::QUOTA_EXCEEDED)));
        stage.nothing();
        stage.reconnects();
        stage.nothing();
    }
}

/// [MQTT-4.6.0-5] [MQTT-4.6.0-6 v3.1.1]: of each QoS, over whatever cores, whether they wait for the window or not.
#[test]
fn messages_of_one_client_to_a_topic_are_delivered_in_their_order() {
    for version in VERSIONS {
        for cores in [1, 2, 8] {
            for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
                let mut cluster = Cluster::with_limits(cores, limits(|limits| limits.in_flight_max = 4));
                let subscriber = cluster.connect(0, version, "subscriber");
                cluster.subscribe(subscriber, "a", Qos::ExactlyOnce);
                let publisher = cluster.connect(0, version, "publisher");
                for n in 0..30u8 {
                    cluster.send(publisher, &Packet::Publish(publish("a", &[n], qos, u16::from(n) + 1)));
                }
                for n in 0..30u8 {
                    cluster.expect_message(subscriber, "a", &[n]);
                }
            }
        }
    }
}

/// [MQTT-4.6.0-6] [MQTT-4.6.0-5 v3.1.1]: those that wait for their Client, whatever the topic is.
#[test]
fn messages_that_wait_keep_their_order_whatever_their_topic() {
    for version in VERSIONS {
        for cores in [1, 2, 8] {
            let mut cluster = Cluster::new(cores);
            let (subscriber, _) = cluster.resume(0, version, "subscriber");
            cluster.subscribe(subscriber, "#", Qos::ExactlyOnce);
            cluster.cut(subscriber);
            let publisher = cluster.connect(0, version, "publisher");
            let topics = ["a", "b/c", "/"];
            for n in 0..30u8 {
                cluster.publish_1(publisher, topics[usize::from(n) % 3], &[n]);
            }
            let (subscriber, _) = cluster.resume(0, version, "subscriber");
            for n in 0..30u8 {
                let seen = see(&mut cluster, subscriber);
                assert_eq!((&*seen.topic, &seen.payload[..]), (topics[usize::from(n) % 3], &[n][..]));
            }
        }
    }
}

/// [MQTT-4.6.0-1]: the Client's rule; resent, the broker's messages keep their order as well, whatever their QoS.
#[test]
fn messages_are_sent_again_in_their_first_order() {
    everywhere(|mut stage| {
        for n in 0..20u8 {
            stage.publishes(BOTH[usize::from(n) % 2], &[n]);
        }
        stage.reconnects();
        for n in 0..20u8 {
            assert_eq!(see(&mut stage.cluster, stage.subscriber).payload, [n]);
        }
    });
}

/// [MQTT-4.6.0-4]: the Client's rule, kept by the broker as a sender.
#[test]
fn pubrels_leave_in_the_order_of_their_pubrecs() {
    everywhere(|mut stage| {
        for payload in [b"1", b"2", b"3"] {
            stage.publishes(Qos::ExactlyOnce, payload);
        }
        let [first, second, third] = [(); 3].map(|()| see_id(&mut stage.cluster, stage.subscriber));
        let order = [second, third, first];
        let pubrecs = order.map(|id| stage.cluster.encoded(stage.subscriber, &Packet::PubRec(ok(id))));
        stage.cluster.send_bytes(stage.subscriber, &pubrecs.concat());
        assert_eq!([(); 3].map(|()| stage.pubrel()), order);
    });
}
