//! The broker as the receiver of QoS 1 and 2 (sections 4.3, 4.5): it answers, and it takes each message once.

use mqtt_proto::packet::{Packet, Properties, Property, Publish};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, Version};

use crate::cluster::{ClientId, Cluster, publish};
use crate::seen::{VERSIONS, expect_fault, ok, packet_id, see};

/// A publisher with a session and a subscriber to "a" that takes whatever comes.
struct Stage {
    cluster: Cluster,
    version: Version,
    publisher: ClientId,
    subscriber: ClientId,
}

fn stage(cores: u16, version: Version) -> Stage {
    let mut cluster = Cluster::new(cores);
    let subscriber = cluster.connect(0, version, "subscriber");
    cluster.subscribe(subscriber, "a", Qos::AtMostOnce);
    let (publisher, _) = cluster.resume(0, version, "publisher");
    Stage { cluster, version, publisher, subscriber }
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
    fn publishes(&mut self, qos: Qos, id: u16, dup: bool, payload: &[u8]) {
        let message = Publish { dup, ..publish("a", payload, qos, id) };
        self.cluster.send(self.publisher, &Packet::Publish(message));
    }

    fn releases(&mut self, id: u16) {
        self.cluster.send(self.publisher, &Packet::PubRel(ok(packet_id(id))));
    }

    /// The publisher gets a PUBACK and nothing else: its Packet Identifier.
    #[track_caller]
    fn puback(&mut self) -> PacketId {
        let id = self.cluster.expect(self.publisher, |packet| match packet {
            Packet::PubAck(ack) => ack.packet_id,
            other => panic!("{other:?}"),
        });
        self.cluster.expect_nothing(self.publisher);
        id
    }

    /// The publisher gets a PUBREC and nothing else: Packet Identifier and Reason Code.
    #[track_caller]
    fn pubrec(&mut self) -> (PacketId, ReasonCode) {
        let answer = self.cluster.expect(self.publisher, |packet| match packet {
            Packet::PubRec(ack) => (ack.packet_id, ack.reason),
            other => panic!("{other:?}"),
        });
        self.cluster.expect_nothing(self.publisher);
        answer
    }

    /// The publisher gets a PUBCOMP and nothing else: Packet Identifier and Reason Code.
    #[track_caller]
    fn pubcomp(&mut self) -> (PacketId, ReasonCode) {
        let answer = self.cluster.expect(self.publisher, |packet| match packet {
            Packet::PubComp(ack) => (ack.packet_id, ack.reason),
            other => panic!("{other:?}"),
        });
        self.cluster.expect_nothing(self.publisher);
        answer
    }

    /// The subscriber has got exactly these.
    #[track_caller]
    fn delivered(&mut self, payloads: &[&[u8]]) {
        for payload in payloads {
            assert_eq!(see(&mut self.cluster, self.subscriber).payload, *payload);
        }
        self.cluster.expect_nothing(self.subscriber);
    }

    /// The publisher's connection breaks, and it comes back.
    fn reconnects(&mut self) {
        self.cluster.cut(self.publisher);
        self.publisher = self.cluster.resume(0, self.version, "publisher").0;
    }
}

/// [MQTT-3.3.4-1]: QoS 0 asks for no answer.
#[test]
fn a_qos_0_message_is_not_answered() {
    everywhere(|mut stage| {
        stage.publishes(Qos::AtMostOnce, 0, false, b"x");
        stage.cluster.expect_nothing(stage.publisher);
        stage.delivered(&[b"x"]);
    });
}

/// [MQTT-3.3.4-1] [MQTT-4.3.2-4] [MQTT-4.3.2-2 v3.1.1]
#[test]
fn a_qos_1_message_is_answered_by_puback_with_its_identifier() {
    everywhere(|mut stage| {
        for id in [7, 65_535, 1] {
            stage.publishes(Qos::AtLeastOnce, id, false, b"x");
            assert_eq!(stage.puback(), packet_id(id));
        }
        stage.delivered(&[b"x", b"x", b"x"]);
    });
}

/// [MQTT-4.3.2-5]: DUP or not, after the PUBACK it is another message.
#[test]
fn after_puback_the_same_identifier_is_a_new_message() {
    everywhere(|mut stage| {
        for (dup, payload) in [(false, b"1"), (true, b"2"), (false, b"3")] {
            stage.publishes(Qos::AtLeastOnce, 7, dup, payload);
            stage.puback();
        }
        stage.delivered(&[b"1", b"2", b"3"]);
    });
}

/// [MQTT-3.3.4-1] [MQTT-4.3.3-8]: and the message is delivered without waiting for PUBREL.
#[test]
fn a_qos_2_message_is_answered_by_pubrec_with_its_identifier() {
    everywhere(|mut stage| {
        for id in [7, 65_535, 1] {
            stage.publishes(Qos::ExactlyOnce, id, false, b"x");
            assert_eq!(stage.pubrec(), (packet_id(id), ReasonCode::SUCCESS));
        }
        stage.delivered(&[b"x", b"x", b"x"]);
    });
}

/// [MQTT-4.3.3-10] [MQTT-4.3.3-2 v3.1.1]
#[test]
fn before_pubrel_the_same_identifier_is_the_same_message() {
    everywhere(|mut stage| {
        for dup in [false, true, true] {
            stage.publishes(Qos::ExactlyOnce, 7, dup, b"x");
            assert_eq!(stage.pubrec(), (packet_id(7), ReasonCode::SUCCESS));
        }
        stage.delivered(&[b"x"]);
    });
}

/// [MQTT-4.3.3-10]: identifiers received belong to the session, not to the connection.
#[test]
fn before_pubrel_the_same_identifier_is_the_same_message_on_the_next_connection() {
    everywhere(|mut stage| {
        stage.publishes(Qos::ExactlyOnce, 7, false, b"x");
        stage.reconnects();
        stage.publishes(Qos::ExactlyOnce, 7, true, b"x");
        assert_eq!(stage.pubrec(), (packet_id(7), ReasonCode::SUCCESS));
        stage.delivered(&[b"x"]);
    });
}

/// [MQTT-4.3.3-11] [MQTT-4.3.3-2 v3.1.1]
#[test]
fn pubrel_is_answered_by_pubcomp_with_its_identifier() {
    everywhere(|mut stage| {
        stage.publishes(Qos::ExactlyOnce, 7, false, b"x");
        stage.pubrec();
        stage.releases(7);
        assert_eq!(stage.pubcomp(), (packet_id(7), ReasonCode::SUCCESS));
    });
}

/// [MQTT-4.3.3-11]: one whose identifier is not known too; 5.0 says so by 0x92.
#[test]
fn a_pubrel_that_releases_nothing_is_answered_by_pubcomp() {
    everywhere(|mut stage| {
        stage.releases(9);
        let (id, reason) = stage.pubcomp();
        assert_eq!(id, packet_id(9));
        if stage.version == Version::V5 {
            assert_eq!(reason, ReasonCode::PACKET_IDENTIFIER_NOT_FOUND);
        }
    });
}

/// [MQTT-4.3.3-12]
#[test]
fn after_pubcomp_the_same_identifier_is_a_new_message() {
    everywhere(|mut stage| {
        for payload in [b"1", b"2"] {
            stage.publishes(Qos::ExactlyOnce, 7, false, payload);
            stage.pubrec();
            stage.releases(7);
            stage.pubcomp();
        }
        stage.delivered(&[b"1", b"2"]);
    });
}

/// [MQTT-4.3.3-9]: a payload that is not the text it claims to be is refused.
#[test]
fn after_a_pubrec_with_an_error_the_same_identifier_is_a_new_message() {
    for cores in [1, 2, 8] {
        let mut stage = stage(cores, Version::V5);
        let list = [Property::PayloadFormatIndicator(1)];
        let refused =
            Publish { properties: Properties::new(&list), ..publish("a", b"\xFF", Qos::ExactlyOnce, 7) };
        stage.cluster.send(stage.publisher, &Packet::Publish(refused));
        assert_eq!(stage.pubrec(), (packet_id(7), ReasonCode::PAYLOAD_FORMAT_INVALID));
        stage.publishes(Qos::ExactlyOnce, 7, false, b"x");
        assert_eq!(stage.pubrec(), (packet_id(7), ReasonCode::SUCCESS));
        stage.delivered(&[b"x"]);
    }
}

/// [MQTT-4.3.3-13]
#[test]
fn the_flow_of_a_message_goes_on_after_its_expiry() {
    for cores in [1, 2, 8] {
        let mut stage = stage(cores, Version::V5);
        let list = [Property::MessageExpiryInterval(1)];
        let first = Publish { properties: Properties::new(&list), ..publish("a", b"x", Qos::ExactlyOnce, 7) };
        stage.cluster.send(stage.publisher, &Packet::Publish(first));
        assert_eq!(stage.pubrec(), (packet_id(7), ReasonCode::SUCCESS));
        stage.delivered(&[b"x"]);
        stage.cluster.advance(10_000);
        stage.cluster.send(stage.publisher, &Packet::Publish(Publish { dup: true, ..first }));
        assert_eq!(stage.pubrec(), (packet_id(7), ReasonCode::SUCCESS));
        stage.releases(7);
        assert_eq!(stage.pubcomp(), (packet_id(7), ReasonCode::SUCCESS));
        stage.delivered(&[]);
    }
}

/// [MQTT-3.6.1-1]
#[test]
fn a_pubrel_with_other_flags_closes_the_connection() {
    for version in VERSIONS {
        for flags in (0..16).filter(|&flags| flags != 0b0010) {
            let mut cluster = Cluster::new(1);
            let client = cluster.connect(0, version, "c");
            cluster.send_bytes(client, &[0x60 | flags, 2, 0, 1]);
            expect_fault(&mut cluster, client, version, ReasonCode::MALFORMED_PACKET);
        }
    }
}

/// [MQTT-4.5.0-1]: for Clients that are away, and for those that are there.
#[test]
fn an_accepted_message_is_added_to_every_session_that_subscribes() {
    for version in VERSIONS {
        for cores in [1, 2, 8] {
            let mut cluster = Cluster::new(cores);
            let names: Vec<String> = (0..6).map(|n| format!("subscriber-{n}")).collect();
            for name in &names {
                let (client, _) = cluster.resume(0, version, name);
                cluster.subscribe(client, "a", Qos::AtLeastOnce);
                if !name.ends_with('0') {
                    cluster.cut(client);
                }
            }
            let publisher = cluster.connect(0, version, "publisher");
            cluster.publish_1(publisher, "a", b"x");
            for name in &names {
                let (client, _) = cluster.resume(0, version, name);
                assert_eq!(see(&mut cluster, client).payload, b"x", "{name}");
                cluster.expect_nothing(client);
            }
        }
    }
}
