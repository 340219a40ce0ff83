//! A ClientID that connects again takes its session over, whatever the old connection was doing [MQTT-3.1.4-3].

use mqtt_proto::packet::{Ack, Connect, Packet, Properties, Property};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, Version};

use crate::cluster::{ClientId, Cluster, connect, limits, publish};

fn id(value: u16) -> PacketId {
    PacketId::new(value).expect("not 0")
}

/// Resumes its session; QoS 1 and 2 messages are not acknowledged by themselves.
fn resume(cluster: &mut Cluster, name: &str) -> (ClientId, bool) {
    cluster.resume(0, Version::V5, name)
}

/// The next packet has to be a PUBLISH: its DUP flag, Packet Identifier and payload.
#[track_caller]
fn published(cluster: &mut Cluster, client: ClientId) -> (bool, u16, Vec<u8>) {
    cluster.expect(client, |packet| match packet {
        Packet::Publish(publish) => {
            (publish.dup, publish.packet_id.map_or(0, PacketId::get), publish.payload.to_vec())
        }
        other => panic!("{other:?}"),
    })
}

#[test]
fn the_old_connection_is_told_and_the_session_goes_on_or_starts_anew() {
    for cores in [1, 2, 8] {
        for clean_start in [false, true] {
            let mut cluster = Cluster::new(cores);
            let (old, _) = resume(&mut cluster, "c");
            cluster.subscribe(old, "a", Qos::AtLeastOnce);
            // The new connection is accepted by another core and moves to the session's.
            let list = [Property::SessionExpiryInterval(60)];
            let properties = Properties::new(&list);
            let again = Connect { clean_start, properties, ..connect(Version::V5, "c") };
            let core = (cluster.core_of(old) + 1) % usize::from(cores);
            let (new, present) = cluster.connect_with(core, again);
            assert_eq!(present, !clean_start);
            cluster.expect_disconnect(old, ReasonCode::SESSION_TAKEN_OVER);
            let publisher = cluster.connect(0, Version::V5, "publisher");
            cluster.publish_1(publisher, "a", b"x");
            if !clean_start {
                cluster.expect_message(new, "a", b"x");
            }
            cluster.expect_nothing(new);
            assert_eq!(cluster.total(|stats| stats.takeovers), 1);
            assert_eq!(cluster.total(|stats| stats.clients_connected), 2);
        }
    }
}

#[test]
fn before_5_the_old_connection_is_just_closed() {
    for version in [Version::V3_1, Version::V3_1_1] {
        let mut cluster = Cluster::new(2);
        let (old, _) = cluster.resume(0, version, "c");
        let (new, _) = cluster.resume(1, version, "c");
        assert!(cluster.is_closed(old) && !cluster.is_closed(new));
        cluster.expect_nothing(old);
    }
}

#[test]
fn a_client_that_takes_over_from_itself_many_times_leaves_one_connection() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let clients: Vec<_> =
            (0..40).map(|n| cluster.resume(n % usize::from(cores), Version::V5, "c").0).collect();
        assert!(clients[..39].iter().all(|&client| cluster.is_closed(client)));
        assert_eq!(cluster.total(|stats| stats.connections), 1);
        assert_eq!(cluster.total(|stats| stats.sessions), 1);
    }
}

#[test]
fn taken_over_between_publish_and_pubrel_a_qos_2_message_is_routed_once() {
    for cores in [1, 2, 8] {
        for clean_start in [false, true] {
            let mut cluster = Cluster::new(cores);
            let subscriber = cluster.connect(0, Version::V5, "subscriber");
            cluster.subscribe(subscriber, "a", Qos::ExactlyOnce);
            let (old, _) = resume(&mut cluster, "publisher");
            let message = publish("a", b"x", Qos::ExactlyOnce, 5);
            cluster.send(old, &Packet::Publish(message));
            cluster.expect(old, |packet| assert!(matches!(packet, Packet::PubRec(_))));
            let new = match clean_start {
                true => cluster.connect(0, Version::V5, "publisher"),
                false => resume(&mut cluster, "publisher").0,
            };
            cluster.expect_disconnect(old, ReasonCode::SESSION_TAKEN_OVER);
            cluster.expect_message(subscriber, "a", b"x");
            // Sent again: known to the session that goes on, new to the one that starts.
            cluster.send(new, &Packet::Publish(mqtt_proto::packet::Publish { dup: true, ..message }));
            cluster.expect(new, |packet| match packet {
                Packet::PubRec(ack) => assert_eq!((ack.packet_id, ack.reason), (id(5), ReasonCode::SUCCESS)),
                other => panic!("{other:?}"),
            });
            if clean_start {
                cluster.expect_message(subscriber, "a", b"x");
            }
            cluster.expect_nothing(subscriber);
            cluster.send(new, &Packet::PubRel(Ack::new(id(5), ReasonCode::SUCCESS)));
            cluster.expect(new, |packet| match packet {
                Packet::PubComp(ack) => assert_eq!(ack.reason, ReasonCode::SUCCESS),
                other => panic!("{other:?}"),
            });
        }
    }
}

#[test]
fn taken_over_while_a_message_to_it_is_mid_qos_2_the_flow_goes_on_where_it_was() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let (old, _) = resume(&mut cluster, "subscriber");
        cluster.subscribe(old, "a", Qos::ExactlyOnce);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        for payload in [b"1", b"2"] {
            cluster.publish_2(publisher, "a", payload);
        }
        let (dup, first, _) = published(&mut cluster, old);
        let (_, second, _) = published(&mut cluster, old);
        assert!(!dup);
        cluster.send(old, &Packet::PubRec(Ack::new(id(first), ReasonCode::SUCCESS)));
        let (new, _) = resume(&mut cluster, "subscriber");
        // PUBREL for what was received [MQTT-4.3.3-6], PUBLISH with DUP for what may not have been [MQTT-4.4.0-1].
        cluster.expect(new, |packet| match packet {
            Packet::PubRel(ack) => assert_eq!(ack.packet_id, id(first)),
            other => panic!("{other:?}"),
        });
        assert_eq!(published(&mut cluster, new), (true, second, b"2".to_vec()));
        cluster.expect_nothing(new);
        // The old connection's late acknowledgement changes nothing.
        cluster.send(new, &Packet::PubComp(Ack::new(id(first), ReasonCode::SUCCESS)));
        cluster.send(new, &Packet::PubRec(Ack::new(id(second), ReasonCode::SUCCESS)));
        cluster.expect(new, |packet| assert!(matches!(packet, Packet::PubRel(_))));
        cluster.send(new, &Packet::PubComp(Ack::new(id(second), ReasonCode::SUCCESS)));
        assert_eq!(cluster.total(|stats| stats.messages_kept), 0);
        assert_eq!(cluster.total(|stats| stats.messages_delivered), 2);
    }
}

#[test]
fn taken_over_with_a_thousand_messages_in_flight_each_is_sent_again_in_order() {
    for cores in [1, 2, 8] {
        for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let mut cluster = Cluster::new(cores);
            let (old, _) = resume(&mut cluster, "subscriber");
            cluster.subscribe(old, "a", Qos::ExactlyOnce);
            let publisher = cluster.connect(0, Version::V5, "publisher");
            for n in 0..1500u16 {
                match qos {
                    Qos::ExactlyOnce => cluster.publish_2(publisher, "a", &n.to_be_bytes()),
                    _ => cluster.publish_1(publisher, "a", &n.to_be_bytes()),
                };
            }
            let first: Vec<_> = (0..1024).map(|_| published(&mut cluster, old)).collect();
            assert!(first.iter().all(|(dup, ..)| !dup));
            cluster.expect_nothing(old);
            let (new, present) = resume(&mut cluster, "subscriber");
            assert!(present);
            cluster.expect_disconnect(old, ReasonCode::SESSION_TAKEN_OVER);
            for (n, (_, packet_id, payload)) in first.into_iter().enumerate() {
                assert_eq!(published(&mut cluster, new), (true, packet_id, payload), "message {n}");
                match qos {
                    Qos::ExactlyOnce => {
                        cluster.send(new, &Packet::PubRec(Ack::new(id(packet_id), ReasonCode::SUCCESS)));
                    }
                    _ => cluster.send(new, &Packet::PubAck(Ack::new(id(packet_id), ReasonCode::SUCCESS))),
                }
            }
            let mut next = 1024u16;
            while cluster.pending(new) > 0 {
                let (release, payload) = cluster.expect(new, |packet| match packet {
                    Packet::PubRel(ack) => (Some(ack.packet_id), None),
                    Packet::Publish(publish) => {
                        assert!(!publish.dup);
                        (None, Some((publish.packet_id.expect("QoS 1 or 2"), publish.payload.to_vec())))
                    }
                    other => panic!("{other:?}"),
                });
                if let Some(release) = release {
                    cluster.send(new, &Packet::PubComp(Ack::new(release, ReasonCode::SUCCESS)));
                }
                if let Some((packet_id, payload)) = payload {
                    assert_eq!(payload, next.to_be_bytes());
                    next += 1;
                    let ack = Ack::new(packet_id, ReasonCode::SUCCESS);
                    cluster.send(
                        new,
                        &if qos == Qos::ExactlyOnce { Packet::PubRec(ack) } else { Packet::PubAck(ack) },
                    );
                }
            }
            assert_eq!(next, 1500);
            assert_eq!(cluster.total(|stats| stats.messages_kept), 0);
            assert_eq!(cluster.total(|stats| stats.messages_delivered), 1500);
        }
    }
}

#[test]
fn taken_over_with_clean_start_nothing_of_the_old_session_is_left() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let (old, _) = resume(&mut cluster, "subscriber");
        cluster.subscribe(old, "a", Qos::AtLeastOnce);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        for n in 0..2000u16 {
            cluster.publish_1(publisher, "a", &n.to_be_bytes());
        }
        assert!(cluster.total(|stats| stats.queue_bytes) > 0);
        let new = cluster.connect(0, Version::V5, "subscriber");
        cluster.expect_nothing(new);
        assert_eq!(cluster.total(|stats| stats.messages_kept + stats.queue_bytes + stats.subscriptions), 0);
        assert_eq!(cluster.total(|stats| stats.dropped_session_ended), 2000);
        assert_eq!(cluster.publish_1(publisher, "a", b"x"), ReasonCode::NO_MATCHING_SUBSCRIBERS);
    }
}

#[test]
fn an_answer_that_was_on_its_way_does_not_reach_the_next_connection() {
    let mut cluster = Cluster::new(2);
    let far = (0..).map(|n| format!("far-{n}")).find(|name| {
        let client = cluster.connect(0, Version::V5, name);
        let is_far = cluster.core_of(client) == 1;
        if is_far {
            cluster.subscribe(client, "a", Qos::AtLeastOnce);
        } else {
            cluster.cut(client);
        }
        is_far
    });
    assert!(far.is_some());
    let near = (0..)
        .map(|n| format!("near-{n}"))
        .find(|name| {
            let (client, _) = resume(&mut cluster, name);
            cluster.core_of(client) == 0
        })
        .expect("some name is at home on core 0");
    let (old, _) = resume(&mut cluster, &near);
    cluster.lanes_stalled = true;
    cluster.send(old, &Packet::Publish(publish("a", b"1", Qos::AtLeastOnce, 7)));
    cluster.expect_nothing(old);
    let (new, _) = resume(&mut cluster, &near);
    cluster.lanes_stalled = false;
    cluster.run();
    cluster.expect_nothing(new);
    // It sends it again and gets its own answer, once.
    let again = mqtt_proto::packet::Publish { dup: true, ..publish("a", b"1", Qos::AtLeastOnce, 7) };
    cluster.send(new, &Packet::Publish(again));
    cluster.expect(new, |packet| assert!(matches!(packet, Packet::PubAck(_)), "{packet:?}"));
    cluster.expect_nothing(new);
}

#[test]
fn an_error_pubrec_that_was_not_sent_does_not_become_a_success_after_a_reconnect() {
    let mut limits = limits(|_| {});
    limits.payload_format_checked = true;
    let mut cluster = Cluster::with_limits(2, limits);
    for n in 0..8 {
        let client = cluster.connect(0, Version::V5, &format!("subscriber-{n}"));
        cluster.subscribe(client, "a", Qos::AtLeastOnce);
    }
    let (old, _) = resume(&mut cluster, "publisher");
    cluster.lanes_stalled = true;
    let list = [Property::PayloadFormatIndicator(1)];
    let invalid = mqtt_proto::packet::Publish {
        properties: Properties::new(&list),
        ..publish("a", b"\xFF", Qos::ExactlyOnce, 8)
    };
    cluster.send(old, &Packet::Publish(publish("a", b"1", Qos::AtLeastOnce, 7)));
    cluster.send(old, &Packet::Publish(invalid));
    cluster.expect_nothing(old);
    cluster.cut(old);
    cluster.lanes_stalled = false;
    cluster.run();
    let (new, present) = resume(&mut cluster, "publisher");
    assert!(present);
    cluster.send(new, &Packet::Publish(mqtt_proto::packet::Publish { dup: true, ..invalid }));
    cluster.expect(new, |packet| match packet {
        Packet::PubRec(ack) => assert_eq!(ack.reason, ReasonCode::PAYLOAD_FORMAT_INVALID),
        other => panic!("{other:?}"),
    });
}
