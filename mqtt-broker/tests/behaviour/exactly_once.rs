//! QoS 2 over any cut: whatever packet of the flow is the last that gets through, in either direction, a message is
//! delivered exactly once, under the Packet Identifier it had, and with DUP when it is sent again.

use std::collections::BTreeMap;

use mqtt_proto::packet::{Ack, Packet, Publish};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, Version};

use crate::cluster::{ClientId, Cluster, publish};

fn ok(id: PacketId) -> Ack<'static> {
    Ack::new(id, ReasonCode::SUCCESS)
}

/// What a conforming publisher has to send next for one message.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sending {
    Publish { dup: bool },
    PubRel,
    Done,
}

/// Sends what is due; the answer is looked at only if `hears`.
fn publisher_step(cluster: &mut Cluster, client: ClientId, state: Sending, hears: bool) -> Sending {
    let id = PacketId::new(40).expect("not 0");
    match state {
        Sending::Publish { dup } => {
            let message = Publish { dup, ..publish("a", b"once", Qos::ExactlyOnce, 40) };
            cluster.send(client, &Packet::Publish(message));
            if !hears {
                return Sending::Publish { dup: true };
            }
            cluster.expect(client, |packet| match packet {
                Packet::PubRec(ack) => assert_eq!((ack.packet_id, ack.reason), (id, ReasonCode::SUCCESS)),
                other => panic!("{other:?}"),
            });
            Sending::PubRel
        }
        Sending::PubRel => {
            cluster.send(client, &Packet::PubRel(ok(id)));
            if !hears {
                return Sending::PubRel;
            }
            cluster.expect(client, |packet| match packet {
                Packet::PubComp(ack) => assert_eq!(ack.packet_id, id),
                other => panic!("{other:?}"),
            });
            Sending::Done
        }
        Sending::Done => Sending::Done,
    }
}

#[test]
fn a_publisher_may_be_cut_off_before_or_after_each_answer() {
    // Bit n of `cuts`: the connection breaks with the answer to the n-th packet.
    for cores in [1, 2, 8] {
        for version in [Version::V3_1_1, Version::V5] {
            for cuts in 0..32u32 {
                let mut cluster = Cluster::new(cores);
                let subscriber = cluster.connect(0, version, "subscriber");
                cluster.subscribe(subscriber, "a", Qos::ExactlyOnce);
                let (mut publisher, _) = cluster.resume(0, version, "publisher");
                let mut state = Sending::Publish { dup: false };
                for step in 0.. {
                    if state == Sending::Done {
                        break;
                    }
                    let cut = cuts >> step & 1 == 1;
                    state = publisher_step(&mut cluster, publisher, state, !cut);
                    if cut {
                        cluster.cut(publisher);
                        publisher = cluster.resume(0, version, "publisher").0;
                    }
                }
                cluster.expect_message(subscriber, "a", b"once");
                cluster.expect_nothing(subscriber);
                // The identifier is free for the next message.
                for _ in 0..2 {
                    state = publisher_step(&mut cluster, publisher, Sending::Publish { dup: false }, true);
                    publisher_step(&mut cluster, publisher, state, true);
                    cluster.expect_message(subscriber, "a", b"once");
                }
                cluster.expect_nothing(subscriber);
            }
        }
    }
}

/// A conforming subscriber: what it has taken, and the identifiers that it must not take again.
#[derive(Default)]
struct Receiving {
    taken: Vec<Vec<u8>>,
    /// Payload by identifier between PUBREC and PUBREL.
    known: BTreeMap<u16, Vec<u8>>,
    /// What was sent under which identifier.
    seen: BTreeMap<u16, Vec<u8>>,
}

impl Receiving {
    /// Handles the next packet; its answer is sent only if `answers`. Whether there was one.
    fn step(&mut self, cluster: &mut Cluster, client: ClientId, answers: bool) -> bool {
        if cluster.pending(client) == 0 {
            return false;
        }
        let answer = cluster.expect(client, |packet| match packet {
            Packet::Publish(publish) => {
                assert_eq!(publish.qos, Qos::ExactlyOnce);
                let id = publish.packet_id.expect("QoS 2");
                let payload = publish.payload.to_vec();
                assert_eq!(publish.dup, self.seen.get(&id.get()) == Some(&payload), "{publish:?}");
                self.seen.insert(id.get(), payload.clone());
                if self.known.insert(id.get(), payload.clone()).is_none() {
                    self.taken.push(payload);
                }
                Packet::PubRec(ok(id))
            }
            Packet::PubRel(ack) => {
                self.known.remove(&ack.packet_id.get());
                Packet::PubComp(ok(ack.packet_id))
            }
            other => panic!("{other:?}"),
        });
        if answers {
            cluster.send(client, &answer);
        }
        true
    }

    /// What was sent and is lost with the connection comes with DUP next time.
    fn lose(&mut self, cluster: &mut Cluster, client: ClientId) {
        while cluster.pending(client) > 0 {
            cluster.expect(client, |packet| {
                if let Packet::Publish(publish) = packet {
                    let id = publish.packet_id.expect("QoS 2");
                    self.seen.insert(id.get(), publish.payload.to_vec());
                }
            });
        }
    }
}

#[test]
fn a_subscriber_may_be_cut_off_before_or_after_each_of_its_answers() {
    for cores in [1, 2, 8] {
        for version in [Version::V3_1_1, Version::V5] {
            for cuts in 0..64u32 {
                let mut cluster = Cluster::new(cores);
                let (mut subscriber, _) = cluster.resume(0, version, "subscriber");
                cluster.subscribe(subscriber, "a", Qos::ExactlyOnce);
                let publisher = cluster.connect(0, version, "publisher");
                let mut receiving = Receiving::default();
                for payload in [b"1", b"2"] {
                    cluster.publish_2(publisher, "a", payload);
                }
                for step in 0..40 {
                    let cut = step < 6 && cuts >> step & 1 == 1;
                    // Odd masks lose the answer too, the others only what comes after it.
                    let some = receiving.step(&mut cluster, subscriber, !cut || cuts & 32 == 0);
                    if cut {
                        receiving.lose(&mut cluster, subscriber);
                        cluster.cut(subscriber);
                        subscriber = cluster.resume(0, version, "subscriber").0;
                    } else if !some {
                        break;
                    }
                }
                assert_eq!(receiving.taken, [b"1", b"2"], "cuts {cuts:b}");
                assert!(receiving.known.is_empty());
                assert_eq!(cluster.total(|stats| stats.messages_kept), 0);
                assert_eq!(cluster.total(|stats| stats.messages_delivered), 2);
                cluster.publish_2(publisher, "a", b"3");
                while receiving.step(&mut cluster, subscriber, true) {}
                assert_eq!(receiving.taken, [b"1", b"2", b"3"]);
            }
        }
    }
}

#[test]
fn a_qos_1_message_is_sent_again_with_dup_and_its_identifier_until_it_is_acknowledged() {
    for cores in [1, 2, 8] {
        for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
            let mut cluster = Cluster::new(cores);
            let (mut subscriber, _) = cluster.resume(0, version, "subscriber");
            cluster.subscribe(subscriber, "a", Qos::AtLeastOnce);
            let publisher = cluster.connect(0, version, "publisher");
            cluster.publish_1(publisher, "a", b"x");
            let mut first = None;
            for round in 0..4 {
                let id = cluster.expect(subscriber, |packet| match packet {
                    Packet::Publish(publish) => {
                        assert_eq!(publish.dup, round > 0);
                        publish.packet_id.expect("QoS 1")
                    }
                    other => panic!("{other:?}"),
                });
                assert_eq!(*first.get_or_insert(id), id);
                cluster.expect_nothing(subscriber);
                if round == 3 {
                    cluster.send(subscriber, &Packet::PubAck(ok(id)));
                }
                cluster.cut(subscriber);
                subscriber = cluster.resume(0, version, "subscriber").0;
            }
            cluster.expect_nothing(subscriber);
        }
    }
}

#[test]
fn the_dup_flag_of_a_publisher_is_not_passed_on() {
    for cores in [1, 2] {
        let mut cluster = Cluster::new(cores);
        let subscriber = cluster.connect(0, Version::V5, "subscriber");
        cluster.subscribe(subscriber, "a", Qos::ExactlyOnce);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let message = Publish { dup: true, ..publish("a", b"x", qos, 9) };
            cluster.send(publisher, &Packet::Publish(message));
            // [MQTT-3.3.1-3]
            cluster.expect(subscriber, |packet| match packet {
                Packet::Publish(publish) => assert!(!publish.dup),
                other => panic!("{other:?}"),
            });
        }
    }
}

#[test]
fn acknowledgements_leave_in_the_order_of_their_publishes_whatever_core_is_slow() {
    for cores in [2, 8] {
        let mut cluster = Cluster::new(cores);
        for n in 0..16 {
            let subscriber = cluster.connect(0, Version::V5, &format!("s{n}"));
            cluster.subscribe(subscriber, &format!("topic/{n}"), Qos::ExactlyOnce);
        }
        let publisher = cluster.connect(0, Version::V5, "publisher");
        cluster.lanes_stalled = true;
        for n in 0..40u16 {
            let qos = if n % 3 == 0 { Qos::ExactlyOnce } else { Qos::AtLeastOnce };
            let topic = format!("topic/{}", n * 7 % 20);
            cluster.send(publisher, &Packet::Publish(publish(&topic, b"x", qos, n + 1)));
        }
        assert!(cluster.pending(publisher) < 40, "some wait for another core");
        cluster.lanes_stalled = false;
        cluster.run();
        for n in 0..40u16 {
            cluster.expect(publisher, |packet| match packet {
                Packet::PubAck(ack) if n % 3 != 0 => assert_eq!(ack.packet_id.get(), n + 1),
                Packet::PubRec(ack) if n % 3 == 0 => assert_eq!(ack.packet_id.get(), n + 1),
                other => panic!("{other:?} for {n}"),
            });
        }
    }
}

#[test]
fn an_unknown_packet_identifier_is_answered_and_changes_nothing() {
    let mut cluster = Cluster::new(1);
    let client = cluster.connect(0, Version::V5, "c");
    let id = PacketId::new(5).expect("not 0");
    cluster.send(client, &Packet::PubRel(ok(id)));
    cluster.expect(client, |packet| match packet {
        Packet::PubComp(ack) => assert_eq!(ack.reason, ReasonCode::PACKET_IDENTIFIER_NOT_FOUND),
        other => panic!("{other:?}"),
    });
    cluster.send(client, &Packet::PubRec(ok(id)));
    cluster.expect(client, |packet| match packet {
        Packet::PubRel(ack) => assert_eq!(ack.reason, ReasonCode::PACKET_IDENTIFIER_NOT_FOUND),
        other => panic!("{other:?}"),
    });
    for packet in [Packet::PubAck(ok(id)), Packet::PubComp(ok(id))] {
        cluster.send(client, &packet);
    }
    cluster.expect_nothing(client);
    assert!(!cluster.is_closed(client));
}
