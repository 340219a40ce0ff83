//! Connecting, subscribing, publishing, in every version and QoS, whatever cores are involved.

use mqtt_proto::packet::{Packet, Properties, Publish, SubscriptionOptions};
use mqtt_proto::types::{Qos, ReasonCode, Version};

use crate::cluster::{Cluster, publish};

const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];
const ALL_QOS: [Qos; 3] = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce];

#[test]
fn every_version_and_qos_reaches_every_other() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        for (n, (from, to)) in VERSIONS.iter().flat_map(|from| VERSIONS.map(|to| (*from, to))).enumerate() {
            for asked in ALL_QOS {
                let subscriber = cluster.connect(0, to, &format!("s{n}{}", asked.bits()));
                let publisher = cluster.connect(0, from, &format!("p{n}{}", asked.bits()));
                cluster.subscribe(subscriber, "a/+", asked);
                cluster.publish(publisher, "a/0", b"zero");
                cluster.publish_1(publisher, "a/1", b"one");
                cluster.publish_2(publisher, "a/2", b"two");
                for (sent, payload) in [(0, &b"zero"[..]), (1, b"one"), (2, b"two")] {
                    cluster.expect_message(subscriber, &format!("a/{sent}"), payload);
                }
                cluster.expect_nothing(subscriber);
                cluster.cut(subscriber);
                cluster.cut(publisher);
            }
        }
        assert_eq!(cluster.total(|stats| stats.sessions), 0);
        assert_eq!(cluster.total(|stats| stats.subscriptions), 0);
    }
}

#[test]
fn a_publish_after_suback_is_delivered_whatever_the_cores() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let publishers: Vec<_> =
            (0..8).map(|n| cluster.connect(0, Version::V5, &format!("publisher-{n}"))).collect();
        for n in 0..8 {
            let subscriber = cluster.connect(0, Version::V5, &format!("subscriber-{n}"));
            cluster.subscribe(subscriber, &format!("news/{n}"), Qos::AtLeastOnce);
            for &publisher in &publishers {
                assert_eq!(cluster.publish_1(publisher, &format!("news/{n}"), b"x"), ReasonCode::SUCCESS);
                cluster.expect_message(subscriber, &format!("news/{n}"), b"x");
            }
        }
    }
}

#[test]
fn puback_says_when_nobody_subscribed() {
    let mut cluster = Cluster::new(2);
    let publisher = cluster.connect(0, Version::V5, "publisher");
    assert_eq!(cluster.publish_1(publisher, "a", b""), ReasonCode::NO_MATCHING_SUBSCRIBERS);
    assert_eq!(cluster.publish_2(publisher, "a", b""), ReasonCode::NO_MATCHING_SUBSCRIBERS);
    let old = cluster.connect(0, Version::V3_1_1, "old");
    assert_eq!(cluster.publish_1(old, "a", b""), ReasonCode::SUCCESS);
}

#[test]
fn overlapping_filters_give_one_copy_with_the_highest_qos() {
    let mut cluster = Cluster::new(2);
    let subscriber = cluster.connect(0, Version::V5, "subscriber");
    cluster.subscribe(subscriber, "a/#", Qos::AtMostOnce);
    cluster.subscribe(subscriber, "a/b", Qos::ExactlyOnce);
    cluster.subscribe(subscriber, "+/b", Qos::AtLeastOnce);
    let publisher = cluster.connect(0, Version::V5, "publisher");
    cluster.publish_2(publisher, "a/b", b"x");
    cluster.expect(subscriber, |packet| {
        let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
        assert_eq!(publish.qos, Qos::ExactlyOnce);
    });
    cluster.expect_nothing(subscriber);
}

#[test]
fn an_offline_session_gets_its_messages_in_order() {
    for cores in [1, 2, 8] {
        for version in VERSIONS {
            let mut cluster = Cluster::new(cores);
            let (subscriber, present) = cluster.resume(0, version, "subscriber");
            assert!(!present);
            cluster.subscribe(subscriber, "a", Qos::ExactlyOnce);
            cluster.cut(subscriber);
            let publisher = cluster.connect(0, version, "publisher");
            for n in 0..20u8 {
                cluster.publish(publisher, "a", b"lost");
                cluster.publish_1(publisher, "a", &[n, 1]);
                cluster.publish_2(publisher, "a", &[n, 2]);
            }
            // 3.1 has no Session Present flag.
            let (subscriber, present) = cluster.resume(0, version, "subscriber");
            assert_eq!(present, version != Version::V3_1);
            for n in 0..20u8 {
                cluster.expect_message(subscriber, "a", &[n, 1]);
                cluster.expect_message(subscriber, "a", &[n, 2]);
            }
            cluster.expect_nothing(subscriber);
        }
    }
}

#[test]
fn retained_messages_reach_a_new_subscription_from_every_core() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        for n in 0..200u8 {
            let topic = format!("r/{n}");
            let payload = [n];
            let retained = Publish { retain: true, ..publish(&topic, &payload, Qos::AtLeastOnce, 5) };
            cluster.send(publisher, &Packet::Publish(retained));
        }
        let subscriber = cluster.connect(0, Version::V5, "subscriber");
        let options = SubscriptionOptions::new(Qos::AtLeastOnce);
        cluster.subscribe_with(subscriber, "r/+", options, Properties::EMPTY);
        let mut got: Vec<u8> = (0..200).map(|_| cluster.take(subscriber).1[0]).collect();
        got.sort_unstable();
        assert_eq!(got, (0..200).collect::<Vec<u8>>());
        cluster.expect_nothing(subscriber);
    }
}

#[test]
fn a_shared_group_gives_each_message_to_one_member() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let members: Vec<_> =
            (0..4).map(|n| cluster.connect(0, Version::V5, &format!("member-{n}"))).collect();
        for &member in &members {
            cluster.subscribe(member, "$share/group/job/+", Qos::AtLeastOnce);
        }
        let publisher = cluster.connect(0, Version::V5, "publisher");
        for n in 0..40u8 {
            assert_eq!(cluster.publish_1(publisher, "job/x", &[n]), ReasonCode::SUCCESS);
        }
        let mut got = Vec::new();
        for &member in &members {
            assert_eq!(cluster.pending(member), 10, "round robin is fair");
            for _ in 0..10 {
                got.push(cluster.take(member).1[0]);
            }
        }
        got.sort_unstable();
        assert_eq!(got, (0..40).collect::<Vec<u8>>());
    }
}
