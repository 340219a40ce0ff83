//! What arrives of what was published: flags, QoS, properties, identifiers, expiry, and what the subscriber can take.

use mqtt_broker::config::Limits;
use mqtt_proto::packet::{
    Ack, Connect, Packet, Properties, Property, Publish, RetainHandling, SubscriptionOptions,
};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, Version};

use crate::cluster::{ClientId, Cluster, connect, limits, publish};

const ALL_QOS: [Qos; 3] = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce];

fn connect_5<'a>(cluster: &mut Cluster, name: &'a str, properties: &'a [Property<'a>]) -> ClientId {
    let properties = Properties::new(properties);
    cluster.connect_with(0, Connect { properties, clean_start: false, ..connect(Version::V5, name) }).0
}

#[test]
fn the_qos_of_a_delivery_is_the_lower_of_published_and_granted() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        for granted in ALL_QOS {
            let subscriber = cluster.connect(0, Version::V5, "subscriber");
            cluster.subscribe(subscriber, "a", granted);
            for published in ALL_QOS {
                let id = u16::from(granted.bits()) + 1;
                cluster.send(publisher, &Packet::Publish(publish("a", b"x", published, id)));
                cluster.expect(subscriber, |packet| match packet {
                    Packet::Publish(publish) => assert_eq!(publish.qos, published.min(granted)),
                    other => panic!("{other:?}"),
                });
            }
        }
    }
}

#[test]
fn properties_arrive_unaltered_and_in_order() {
    let list = [
        Property::UserProperty("z", "1"),
        Property::CorrelationData(b"\0\x01\xFF"),
        Property::UserProperty("a", "2"),
        Property::TopicAlias(3),
        Property::ResponseTopic("answers/ä"),
        Property::UserProperty("z", "1"),
        Property::MessageExpiryInterval(100),
        Property::PayloadFormatIndicator(0),
        Property::ContentType("application/x"),
        Property::UserProperty("", ""),
    ];
    let forwarded: Vec<_> = list
        .iter()
        .filter(|property| !matches!(property, Property::TopicAlias(_) | Property::MessageExpiryInterval(_)))
        .copied()
        .collect();
    for cores in [1, 2, 8] {
        for retain in [false, true] {
            for qos in ALL_QOS {
                let mut cluster = Cluster::new(cores);
                let subscriber = cluster.connect(0, Version::V5, "subscriber");
                let old = cluster.connect(0, Version::V3_1_1, "old");
                let publisher = cluster.connect(0, Version::V5, "publisher");
                let publish =
                    Publish { retain, properties: Properties::new(&list), ..publish("topic", b"x", qos, 1) };
                if retain {
                    cluster.send(publisher, &Packet::Publish(publish));
                }
                cluster.subscribe(subscriber, "topic", Qos::ExactlyOnce);
                cluster.subscribe(old, "topic", Qos::AtMostOnce);
                if !retain {
                    cluster.send(publisher, &Packet::Publish(publish));
                }
                cluster.expect(subscriber, |packet| {
                    let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
                    let others = |property: &Property<'_>| {
                        !matches!(property, Property::TopicAlias(_) | Property::MessageExpiryInterval(_))
                    };
                    let got: Vec<_> = publish.properties.iter().filter(others).collect();
                    assert_eq!(got, forwarded);
                    assert_eq!(publish.properties.message_expiry_interval(), Some(100));
                    assert_eq!(publish.properties.topic_alias(), None, "none was allowed");
                    assert_eq!(publish.retain, retain);
                });
                cluster.expect_message(old, "topic", b"x");
            }
        }
    }
}

#[test]
fn no_local_and_retain_as_published_hold_on_every_core() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let client = cluster.connect(0, Version::V5, "c");
        let other = cluster.connect(0, Version::V5, "other");
        let no_local = SubscriptionOptions { no_local: true, ..SubscriptionOptions::new(Qos::AtMostOnce) };
        let as_published =
            SubscriptionOptions { retain_as_published: true, ..SubscriptionOptions::new(Qos::AtMostOnce) };
        cluster.subscribe_with(client, "a", no_local, Properties::EMPTY);
        cluster.subscribe_with(other, "a", as_published, Properties::EMPTY);
        let retained = Publish { retain: true, ..publish("a", b"x", Qos::AtMostOnce, 0) };
        let flag = |cluster: &mut Cluster, client| {
            cluster.expect(client, |packet| match packet {
                Packet::Publish(publish) => publish.retain,
                other => panic!("{other:?}"),
            })
        };
        cluster.send(client, &Packet::Publish(retained));
        cluster.expect_nothing(client);
        assert!(flag(&mut cluster, other));
        cluster.send(other, &Packet::Publish(retained));
        assert!(!flag(&mut cluster, client));
        assert!(flag(&mut cluster, other), "one's own message");
        cluster.publish(client, "a", b"");
        assert!(!flag(&mut cluster, other));
        // An overlapping subscription without No Local delivers.
        cluster.subscribe_with(client, "+", as_published, Properties::EMPTY);
        assert!(flag(&mut cluster, client), "retained");
        cluster.send(client, &Packet::Publish(retained));
        assert!(flag(&mut cluster, client));
        cluster.expect_nothing(client);
    }
}

#[test]
fn retain_handling_says_when_retained_messages_are_sent() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let client = cluster.connect(0, Version::V5, "c");
        cluster.send(
            client,
            &Packet::Publish(Publish { retain: true, ..publish("a", b"x", Qos::AtMostOnce, 0) }),
        );
        let subscribe = |cluster: &mut Cluster, retain_handling| {
            let options =
                SubscriptionOptions { retain_handling, ..SubscriptionOptions::new(Qos::AtMostOnce) };
            cluster.subscribe_with(client, "a", options, Properties::EMPTY);
            let got = cluster.pending(client);
            for _ in 0..got {
                cluster.expect_message(client, "a", b"x");
            }
            got
        };
        assert_eq!(subscribe(&mut cluster, RetainHandling::DoNotSend), 0);
        assert_eq!(subscribe(&mut cluster, RetainHandling::SendIfNew), 0, "it exists");
        assert_eq!(subscribe(&mut cluster, RetainHandling::Send), 1);
        assert_eq!(subscribe(&mut cluster, RetainHandling::Send), 1);
        cluster.unsubscribe(client, "a");
        assert_eq!(subscribe(&mut cluster, RetainHandling::SendIfNew), 1);
        cluster.unsubscribe(client, "a");
        assert_eq!(subscribe(&mut cluster, RetainHandling::DoNotSend), 0);
    }
}

#[test]
fn every_matching_subscription_adds_its_identifier() {
    for cores in [1, 2, 8] {
        for count in [1, 3, 12] {
            let mut cluster = Cluster::new(cores);
            let client = cluster.connect(0, Version::V5, "c");
            let publisher = cluster.connect(0, Version::V5, "publisher");
            let topic = "l/".repeat(count) + "end";
            for n in 0..count {
                let filter = "l/".repeat(n) + "#";
                let list = [Property::SubscriptionIdentifier(268_435_455 - n as u32)];
                let options = SubscriptionOptions::new(Qos::AtLeastOnce);
                cluster.subscribe_with(client, &filter, options, Properties::new(&list));
            }
            // One more without an identifier.
            cluster.subscribe(client, &topic, Qos::AtLeastOnce);
            cluster.publish_1(publisher, &topic, b"x");
            let mut got: Vec<_> = cluster.expect(client, |packet| match packet {
                Packet::Publish(publish) => publish.properties.subscription_identifiers().collect(),
                other => panic!("{other:?}"),
            });
            got.sort_unstable();
            let expected: Vec<u32> = (0..count as u32).rev().map(|n| 268_435_455 - n).collect();
            assert_eq!(got, expected);
            cluster.expect_nothing(client);
            // A subscription made again has the identifier of its last SUBSCRIBE, or none.
            cluster.subscribe(client, "#", Qos::AtLeastOnce);
            cluster.publish_1(publisher, "other", b"x");
            cluster.expect(client, |packet| match packet {
                Packet::Publish(publish) => {
                    assert_eq!(publish.properties.subscription_identifiers().count(), 0);
                }
                other => panic!("{other:?}"),
            });
        }
    }
}

#[test]
fn a_message_that_expires_on_its_way_between_cores_is_not_delivered() {
    for filter in ["a", "$share/g/a"] {
        let mut cluster = Cluster::new(8);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        let subscribers: Vec<_> =
            (0..8).map(|n| cluster.connect(0, Version::V5, &format!("subscriber-{n}"))).collect();
        for &subscriber in &subscribers {
            cluster.subscribe(subscriber, filter, Qos::AtLeastOnce);
        }
        cluster.lanes_stalled = true;
        let list = [Property::MessageExpiryInterval(1)];
        for _ in 0..8 {
            let message = publish("a", b"x", Qos::AtMostOnce, 0);
            let properties = Properties::new(&list);
            cluster.send(publisher, &Packet::Publish(Publish { properties, ..message }));
        }
        let at_once: usize = subscribers.iter().map(|&subscriber| cluster.pending(subscriber)).sum();
        cluster.advance(1_000);
        cluster.lanes_stalled = false;
        cluster.run();
        let after: usize = subscribers.iter().map(|&subscriber| cluster.pending(subscriber)).sum();
        assert_eq!(after, at_once, "{filter}");
        let dropped = cluster.total(|stats| stats.dropped_expired);
        assert_eq!(cluster.total(|stats| stats.messages_matched), at_once as u64 + dropped, "{filter}");
        assert!(dropped > 0);
    }
}

#[test]
fn message_expiry_counts_down_while_a_message_waits_and_ends_it_when_due() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let (subscriber, _) = cluster.resume(0, Version::V5, "subscriber");
        cluster.subscribe(subscriber, "a", Qos::AtLeastOnce);
        cluster.cut(subscriber);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        for seconds in [10, 20, 30] {
            let list = [Property::MessageExpiryInterval(seconds)];
            let payload = [seconds as u8];
            let message =
                Publish { properties: Properties::new(&list), ..publish("a", &payload, Qos::AtLeastOnce, 1) };
            cluster.send(publisher, &Packet::Publish(message));
        }
        cluster.advance(12_500);
        let (subscriber, _) = cluster.resume(0, Version::V5, "subscriber");
        let next = |cluster: &mut Cluster, client| {
            cluster.expect(client, |packet| match packet {
                Packet::Publish(publish) => {
                    (publish.dup, publish.payload[0], publish.properties.message_expiry_interval())
                }
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(next(&mut cluster, subscriber), (false, 20, Some(8)));
        assert_eq!(next(&mut cluster, subscriber), (false, 30, Some(18)));
        assert_eq!(cluster.total(|stats| stats.dropped_expired), 1);
        // In flight it does not expire: the flow has to end [MQTT-3.3.2-5].
        cluster.cut(subscriber);
        cluster.advance(10_000);
        let (subscriber, _) = cluster.resume(0, Version::V5, "subscriber");
        assert_eq!(next(&mut cluster, subscriber), (true, 20, Some(0)));
        assert_eq!(next(&mut cluster, subscriber), (true, 30, Some(8)));
        cluster.expect_nothing(subscriber);
    }
}

#[test]
fn the_receive_maximum_of_the_client_is_honoured() {
    for cores in [1, 2, 8] {
        for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let mut cluster = Cluster::new(cores);
            let subscriber = connect_5(&mut cluster, "subscriber", &[Property::ReceiveMaximum(3)]);
            cluster.subscribe(subscriber, "a", Qos::ExactlyOnce);
            let publisher = cluster.connect(0, Version::V5, "publisher");
            for n in 0..20u8 {
                cluster.send(publisher, &Packet::Publish(publish("a", &[n], qos, u16::from(n) + 1)));
            }
            assert_eq!(cluster.pending(subscriber), 3);
            for n in 0..20u8 {
                cluster.expect_message(subscriber, "a", &[n]);
                assert!(cluster.pending(subscriber) <= 3);
            }
            cluster.expect_nothing(subscriber);
        }
    }
}

#[test]
fn outgoing_topic_aliases_stay_within_what_the_client_allows() {
    for cores in [1, 2] {
        let mut cluster = Cluster::with_limits(cores, limits(|limits| limits.outgoing_topic_aliases_max = 4));
        let subscriber = connect_5(&mut cluster, "subscriber", &[Property::TopicAliasMaximum(2)]);
        cluster.subscribe(subscriber, "#", Qos::AtMostOnce);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        let mut known: [Option<String>; 3] = Default::default();
        for n in 0..60 {
            let topic = format!("topic/{}", [0, 1, 0, 2, 1][n % 5]);
            cluster.publish(publisher, &topic, b"x");
            cluster.expect(subscriber, |packet| {
                let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
                let alias = usize::from(publish.properties.topic_alias().expect("worth an alias"));
                if let Some(named) = publish.topic {
                    known[alias] = Some(named.to_string());
                }
                assert!((1..=2).contains(&alias));
                assert_eq!(known[alias].as_deref(), Some(&*topic));
            });
        }
    }
}

#[test]
fn what_is_too_large_for_the_client_is_dropped_and_counted() {
    for cores in [1, 2, 8] {
        for qos in ALL_QOS {
            let mut cluster = Cluster::new(cores);
            let large = [Property::SessionExpiryInterval(60), Property::MaximumPacketSize(2000)];
            let small = [Property::SessionExpiryInterval(60), Property::MaximumPacketSize(200)];
            let subscriber = connect_5(&mut cluster, "subscriber", &large);
            cluster.subscribe(subscriber, "a", qos);
            let publisher = cluster.connect(0, Version::V5, "publisher");
            for bytes in [100, 3000, 100] {
                cluster.publish_2(publisher, "a", &vec![0; bytes]);
            }
            for _ in 0..2 {
                let (_, payload) = cluster.take(subscriber);
                assert_eq!(payload.len(), 100);
            }
            cluster.expect_nothing(subscriber);
            assert_eq!(cluster.total(|stats| stats.dropped_too_large), 1);
            if qos == Qos::AtMostOnce {
                continue;
            }
            // In flight, and then too large for what the Client states anew: ended, not sent.
            cluster.publish_2(publisher, "a", &[0; 1000]);
            cluster.publish_2(publisher, "a", &[1; 100]);
            let first = cluster.expect(subscriber, |packet| match packet {
                Packet::Publish(publish) => publish.packet_id.expect("QoS 1 or 2"),
                other => panic!("{other:?}"),
            });
            cluster.cut(subscriber);
            let subscriber = connect_5(&mut cluster, "subscriber", &small);
            if qos == Qos::ExactlyOnce {
                // The Client may hold the identifier.
                cluster.expect(subscriber, |packet| match packet {
                    Packet::PubRel(ack) => assert_eq!(ack.packet_id, first),
                    other => panic!("{other:?}"),
                });
            }
            let (_, payload) = cluster.take(subscriber);
            assert_eq!(payload, [1; 100]);
            if qos == Qos::ExactlyOnce {
                cluster.send(subscriber, &Packet::PubComp(Ack::new(first, ReasonCode::SUCCESS)));
            }
            assert_eq!(cluster.total(|stats| stats.dropped_too_large), 2);
            assert_eq!(cluster.total(|stats| stats.messages_kept), 0);
        }
    }
}

#[test]
fn a_topic_may_have_64_kib() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let topic = format!("{}/end", "x".repeat(65_531));
        for version in [Version::V3_1_1, Version::V5] {
            let subscriber = cluster.connect(0, version, "subscriber");
            cluster.subscribe(subscriber, &topic, Qos::AtLeastOnce);
            let publisher = cluster.connect(0, version, "publisher");
            cluster.publish_1(publisher, &topic, b"x");
            cluster.expect_message(subscriber, &topic, b"x");
            cluster.cut(subscriber);
        }
    }
}

#[test]
fn messages_of_one_publisher_and_topic_keep_their_order_over_a_reconnect() {
    for cores in [1, 2, 8] {
        for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let mut cluster = Cluster::with_limits(cores, Limits::default());
            let list = [Property::SessionExpiryInterval(60), Property::ReceiveMaximum(7)];
            let mut subscriber = connect_5(&mut cluster, "subscriber", &list);
            cluster.subscribe(subscriber, "a", Qos::ExactlyOnce);
            let publisher = cluster.connect(0, Version::V5, "publisher");
            let mut got = Vec::<u8>::new();
            let mut open = Vec::<PacketId>::new();
            for n in 0..100u8 {
                cluster.send(publisher, &Packet::Publish(publish("a", &[n], qos, u16::from(n) + 1)));
                if n % 13 == 5 {
                    // What is on its way is lost with the connection.
                    cluster.cut(subscriber);
                    open.clear();
                    if n % 2 == 0 {
                        continue;
                    }
                    subscriber = connect_5(&mut cluster, "subscriber", &list);
                } else if cluster.is_closed(subscriber) {
                    subscriber = connect_5(&mut cluster, "subscriber", &list);
                }
                // Takes a few, answers fewer.
                for _ in 0..cluster.pending(subscriber).min(2) {
                    cluster.expect(subscriber, |packet| match packet {
                        Packet::Publish(publish) => {
                            open.push(publish.packet_id.expect("QoS 1 or 2"));
                            if !got.contains(&publish.payload[0]) {
                                got.push(publish.payload[0]);
                            }
                        }
                        Packet::PubRel(_) => {}
                        other => panic!("{other:?}"),
                    });
                }
                if n % 3 == 0 && !open.is_empty() {
                    let ack = Ack::new(open.remove(0), ReasonCode::SUCCESS);
                    let packet =
                        if qos == Qos::AtLeastOnce { Packet::PubAck(ack) } else { Packet::PubRec(ack) };
                    cluster.send(subscriber, &packet);
                    if qos == Qos::ExactlyOnce {
                        cluster.send(subscriber, &Packet::PubComp(ack));
                    }
                }
            }
            assert!(got.len() > 20);
            assert!(got.is_sorted(), "{got:?}");
        }
    }
}

#[test]
fn the_largest_packet_there_is_passes_where_the_limit_allows_it() {
    /// The greatest Remaining Length (section 1.5.5), less the topic `a`.
    const PAYLOAD: usize = 268_435_455 - 3;
    let mut cluster = Cluster::with_limits(1, limits(|limits| limits.packet_bytes_max = 268_435_460));
    let publisher = cluster.connect(0, Version::V3_1_1, "publisher");
    let subscriber = cluster.connect(0, Version::V3_1_1, "subscriber");
    cluster.subscribe(subscriber, "a", Qos::AtMostOnce);
    cluster.send_bytes(publisher, b"\x30\xFF\xFF\xFF\x7F\x00\x01a");
    let piece = vec![7; 1 << 20];
    for start in (0..PAYLOAD).step_by(piece.len()) {
        cluster.send_bytes(publisher, &piece[..piece.len().min(PAYLOAD - start)]);
    }
    cluster.expect(subscriber, |packet| {
        let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
        assert_eq!(publish.payload.len(), PAYLOAD);
        assert!(publish.payload.iter().all(|&byte| byte == 7));
    });
    // One byte more than the default allows is refused before it is there.
    let mut cluster = Cluster::new(1);
    let publisher = cluster.connect(0, Version::V5, "publisher");
    cluster.send_bytes(publisher, b"\x30\xFC\xFF\xFF\x03");
    cluster.expect_disconnect(publisher, ReasonCode::PACKET_TOO_LARGE);
}
