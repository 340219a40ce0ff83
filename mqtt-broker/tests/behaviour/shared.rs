//! Shared Subscriptions: members that come and go, queues, credit.

use mqtt_broker::config::Limits;
use mqtt_broker::router::Strategy;
use mqtt_proto::packet::{Ack, Connect, Filters, Packet, Properties, Property, Subscribe, Subscription};
use mqtt_proto::packet::{SubscriptionOptions, Subscriptions, Unsubscribe};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, Version};

use crate::cluster::{Cluster, Random, connect, limits, publish};

#[test]
fn a_long_queue_of_qos_0_messages_drains_at_one_acknowledgement() {
    let mut limits = Limits::default();
    limits.output_bytes_max = 1 << 30;
    let mut cluster = Cluster::with_limits(1, limits);
    let one = [Property::ReceiveMaximum(1)];
    let properties = Properties::new(&one);
    let (member, _) = cluster.connect_with(0, Connect { properties, ..connect(Version::V5, "member") });
    cluster.subscribe(member, "$share/g/a", Qos::AtLeastOnce);
    let publisher = cluster.connect(0, Version::V5, "publisher");
    cluster.publish_1(publisher, "a", b"first");
    for _ in 0..50_000 {
        cluster.publish(publisher, "a", b"x");
    }
    assert_eq!(cluster.pending(member), 1, "its credit is spent");
    cluster.expect_message(member, "a", b"first");
    assert_eq!(cluster.pending(member), 50_000);
}

#[test]
fn unsubscribe_behind_subscribe_gets_both_answers() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let member = cluster.connect(0, Version::V5, "member");
        for n in 0..8u16 {
            let filter = format!("$share/g/{n}");
            let list =
                [Subscription { filter: &filter, options: SubscriptionOptions::new(Qos::AtLeastOnce) }];
            let packet_id = PacketId::new(n + 1).expect("not 0");
            let (properties, subscriptions) = (Properties::EMPTY, Subscriptions::new(&list));
            let subscribe = Packet::Subscribe(Subscribe { packet_id, properties, subscriptions });
            let filters = [&*filter];
            let filters = Filters::new(&filters);
            let unsubscribe = Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters });
            let mut bytes = cluster.encoded(member, &subscribe);
            bytes.extend(cluster.encoded(member, &unsubscribe));
            cluster.send_bytes(member, &bytes);
            cluster.expect(member, |packet| assert!(matches!(packet, Packet::SubAck(_)), "{packet:?}"));
            cluster.expect(member, |packet| assert!(matches!(packet, Packet::UnsubAck(_)), "{packet:?}"));
            assert_eq!(cluster.publish_1(member, &n.to_string(), b""), ReasonCode::NO_MATCHING_SUBSCRIBERS);
        }
        assert_eq!(cluster.total(|stats| stats.shared_subscriptions), 0);
    }
}

#[test]
fn a_member_that_has_left_gets_nothing_more_though_the_owner_does_not_know_yet() {
    let mut anywhere = 0;
    for n in 0..64 {
        let mut cluster = Cluster::new(8);
        let stays = cluster.connect(0, Version::V5, &format!("stays-{n}"));
        let leaves = cluster.connect(0, Version::V5, &format!("leaves-{n}"));
        for member in [stays, leaves] {
            cluster.subscribe(member, "$share/g/a", Qos::AtLeastOnce);
        }
        let publisher = cluster.connect(0, Version::V5, "publisher");
        cluster.lanes_stalled = true;
        assert_eq!(cluster.unsubscribe(leaves, "$share/g/a"), ReasonCode::SUCCESS);
        for _ in 0..4 {
            cluster.publish(publisher, "a", b"x");
        }
        cluster.lanes_stalled = false;
        // Batches of different lanes are handled in any order.
        cluster.random = Some(Random(n));
        cluster.run();
        cluster.expect_nothing(leaves);
        assert_eq!(cluster.pending(stays), 4, "what was bound to the other goes to it");
        anywhere += usize::from(cluster.core_of(stays) != cluster.core_of(leaves));
    }
    assert!(anywhere > 0);
}

#[test]
fn a_member_that_leaves_and_joins_again_in_one_breath_is_a_member() {
    for n in 0..400 {
        let mut cluster = Cluster::new(if n % 2 == 0 { 2 } else { 8 });
        let member = cluster.connect(0, Version::V5, &format!("member-{n}"));
        let publisher = cluster.connect(0, Version::V5, "publisher");
        cluster.random = Some(Random(n));
        let mut random = Random(n);
        for id in 1..6 {
            let packet_id = PacketId::new(id).expect("not 0");
            let list =
                [Subscription { filter: "$share/g/a", options: SubscriptionOptions::new(Qos::AtLeastOnce) }];
            let (properties, subscriptions) = (Properties::EMPTY, Subscriptions::new(&list));
            let filters = ["$share/g/a"];
            let filters = Filters::new(&filters);
            // The first and the last are SUBSCRIBE.
            let packet = match id % 2 {
                1 => Packet::Subscribe(Subscribe { packet_id, properties, subscriptions }),
                _ => Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters }),
            };
            cluster.submit(member, &packet);
            for _ in 0..random.below(12) {
                cluster.submit(publisher, &Packet::Publish(publish("a", b"meanwhile", Qos::AtMostOnce, 0)));
                cluster.step();
            }
        }
        cluster.run();
        while cluster.look(member, |_| ()).is_some() {}
        cluster.publish(publisher, "a", b"last");
        cluster.expect_message(member, "a", b"last");
        assert_eq!(cluster.total(|stats| stats.messages_kept), 0, "run {n}");
    }
}

#[test]
fn what_a_leaving_member_did_not_acknowledge_goes_to_another() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let first = cluster.connect(0, Version::V5, "first");
        cluster.subscribe(first, "$share/g/a", Qos::AtLeastOnce);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        for n in 0..10u8 {
            cluster.publish_1(publisher, "a", &[n]);
        }
        let second = cluster.connect(0, Version::V5, "second");
        cluster.subscribe(second, "$share/g/a", Qos::AtLeastOnce);
        cluster.expect_nothing(second);
        cluster.cut(first);
        for n in 0..10u8 {
            cluster.expect_message(second, "a", &[n]);
        }
        cluster.expect_nothing(second);
    }
}

#[test]
fn qos_2_in_flight_stays_with_its_session() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let (first, _) = cluster.resume(0, Version::V5, "first");
        cluster.subscribe(first, "$share/g/a", Qos::ExactlyOnce);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        cluster.publish_2(publisher, "a", b"x");
        let (second, _) = cluster.resume(0, Version::V5, "second");
        cluster.subscribe(second, "$share/g/a", Qos::ExactlyOnce);
        cluster.cut(first);
        cluster.expect_nothing(second);
        let (first, present) = cluster.resume(0, Version::V5, "first");
        assert!(present);
        cluster.expect_message(first, "a", b"x");
    }
}

#[test]
fn a_refusing_puback_is_final_and_gives_the_credit_back() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let one = [Property::ReceiveMaximum(1)];
        let properties = Properties::new(&one);
        let (member, _) = cluster.connect_with(0, Connect { properties, ..connect(Version::V5, "member") });
        cluster.subscribe(member, "$share/g/a", Qos::AtLeastOnce);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        for n in 0..20u8 {
            cluster.publish_1(publisher, "a", &[n]);
        }
        for n in 0..20u8 {
            let id = cluster.expect(member, |packet| {
                let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
                assert_eq!(publish.payload, [n]);
                publish.packet_id.expect("QoS 1")
            });
            cluster.send(member, &Packet::PubAck(Ack::new(id, ReasonCode::UNSPECIFIED_ERROR)));
        }
        cluster.expect_nothing(member);
        assert_eq!(cluster.total(|stats| stats.dropped_refused), 20);
    }
}

#[test]
fn with_all_members_away_messages_wait_and_qos_0_is_dropped() {
    for cores in [1, 2, 8] {
        let mut limits = Limits::default();
        limits.group_queue_messages_max = 5;
        let mut cluster = Cluster::with_limits(cores, limits);
        let (member, _) = cluster.resume(0, Version::V5, "member");
        cluster.subscribe(member, "$share/g/a", Qos::AtLeastOnce);
        cluster.cut(member);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        for n in 0..8u8 {
            cluster.publish_1(publisher, "a", &[n]);
            cluster.publish(publisher, "a", b"lost");
        }
        assert_eq!(cluster.total(|stats| stats.dropped_offline), 8);
        assert_eq!(cluster.total(|stats| stats.dropped_group_queue_full), 3);
        let (member, _) = cluster.resume(0, Version::V5, "member");
        for n in 3..8u8 {
            cluster.expect_message(member, "a", &[n]);
        }
        cluster.expect_nothing(member);
    }
}

/// How many messages each of three members gets out of 30 of one publisher over three topics, none acknowledged.
fn shares(cores: u16, strategy: Strategy) -> Vec<Vec<String>> {
    let mut limits = Limits::default();
    limits.shared_strategy = strategy;
    let mut cluster = Cluster::with_limits(cores, limits);
    let members: Vec<_> = (0..3).map(|n| cluster.connect(0, Version::V5, &format!("member-{n}"))).collect();
    for &member in &members {
        cluster.subscribe(member, "$share/g/#", Qos::AtLeastOnce);
    }
    let publisher = cluster.connect(0, Version::V5, "publisher");
    for n in 0..30 {
        cluster.publish_1(publisher, &format!("topic/{}", n % 3), b"x");
    }
    let mut shares: Vec<Vec<String>> = Vec::new();
    for member in members {
        let mut topics = Vec::new();
        while let Some(topic) = cluster.look(member, |packet| match packet {
            Packet::Publish(publish) => publish.topic.map(|topic| topic.as_str().to_owned()),
            other => panic!("{other:?}"),
        }) {
            topics.extend(topic);
        }
        shares.push(topics);
    }
    assert_eq!(shares.iter().map(Vec::len).sum::<usize>(), 30, "each message has one member");
    shares
}

#[test]
fn each_strategy_shares_out_in_its_own_way() {
    for cores in [1, 2, 8] {
        for strategy in [Strategy::RoundRobin, Strategy::LeastInFlight] {
            assert!(shares(cores, strategy).iter().all(|share| share.len() == 10), "{strategy}");
        }
        for strategy in [Strategy::Sticky, Strategy::HashClient] {
            let all = shares(cores, strategy).iter().filter(|share| share.len() == 30).count();
            assert_eq!(all, 1, "{strategy}: all of one publisher's to one member");
        }
        for n in 0..3 {
            let topic = format!("topic/{n}");
            let shares = shares(cores, Strategy::HashTopic);
            let members = shares.iter().filter(|share| share.contains(&topic)).count();
            assert_eq!(members, 1, "all of {topic} to one member");
        }
    }
}

#[test]
fn a_member_that_is_taken_over_goes_on_with_what_it_had_not_acknowledged() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let (old, _) = cluster.resume(0, Version::V5, "member");
        cluster.subscribe(old, "$share/g/a", Qos::AtLeastOnce);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        for n in 0..10u8 {
            cluster.publish_1(publisher, "a", &[n]);
        }
        for n in 0..3u8 {
            cluster.expect_message(old, "a", &[n]);
        }
        let (new, present) = cluster.resume(usize::from(cores) - 1, Version::V5, "member");
        assert!(present);
        while cluster.pending(old) > 1 {
            cluster.take_frame(old);
        }
        cluster.expect_disconnect(old, ReasonCode::SESSION_TAKEN_OVER);
        for n in 3..10u8 {
            cluster.expect_message(new, "a", &[n]);
        }
        cluster.publish_1(publisher, "a", b"more");
        cluster.expect_message(new, "a", b"more");
        cluster.expect_nothing(new);
        assert_eq!(cluster.total(|stats| stats.messages_kept), 0);
    }
}

#[test]
fn going_by_client_spreads_publishers_of_every_core_over_the_members() {
    for cores in [1, 2, 8] {
        let limits = limits(|limits| limits.shared_strategy = Strategy::HashClient);
        let mut cluster = Cluster::with_limits(cores, limits);
        let members: Vec<_> =
            (0..4).map(|n| cluster.connect(0, Version::V5, &format!("member-{n}"))).collect();
        for &member in &members {
            cluster.subscribe(member, "$share/g/a", Qos::AtLeastOnce);
        }
        for n in 0..32u8 {
            let publisher = cluster.connect(0, Version::V5, &format!("publisher-{n}"));
            for _ in 0..3 {
                cluster.publish_1(publisher, "a", &[n]);
            }
        }
        let mut busy = 0;
        for &member in &members {
            let mut got = [0; 32];
            while cluster.pending(member) > 0 {
                got[usize::from(cluster.take(member).1[0])] += 1;
            }
            assert!(
                got.iter().all(|&count| count == 0 || count == 3),
                "a publisher keeps its member: {got:?}"
            );
            busy += usize::from(got.iter().any(|&count| count > 0));
        }
        assert!(busy >= 3, "32 publishers share {busy} of 4 members");
    }
}

/// The new connection does not wait for what the one before it had asked. [MQTT-3.10.4-2]
#[test]
fn a_member_that_has_left_gets_nothing_more_though_it_waits_for_another_group() {
    let mut apart = 0;
    for n in 0..32 {
        let mut cluster = Cluster::new(8);
        let name = format!("member-{n}");
        let (before, _) = cluster.resume(0, Version::V5, &name);
        cluster.subscribe(before, "$share/g/a", Qos::AtLeastOnce);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        cluster.lanes_stalled = true;
        cluster.publish(publisher, "a", b"x");
        let list =
            [Subscription { filter: "$share/h/b", options: SubscriptionOptions::new(Qos::AtLeastOnce) }];
        let (packet_id, properties) = (PacketId::FIRST, Properties::EMPTY);
        let subscriptions = Subscriptions::new(&list);
        cluster.send(before, &Packet::Subscribe(Subscribe { packet_id, properties, subscriptions }));
        let (after, _) = cluster.resume(0, Version::V5, &name);
        let delivered = cluster.pending(before) > 1;
        assert_eq!(cluster.unsubscribe(after, "$share/g/a"), ReasonCode::SUCCESS);
        cluster.lanes_stalled = false;
        cluster.random = Some(Random(n));
        cluster.run();
        cluster.expect_nothing(after);
        apart += usize::from(!delivered);
    }
    assert!(apart > 0);
}
