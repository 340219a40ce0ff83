//! Shared Subscriptions, statement by statement: section 4.8.2.

use mqtt_proto::packet::{Ack, Connect, Packet, Properties, Property, Publish, SubscriptionOptions};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, Version};

use crate::cluster::{ClientId, Cluster, connect, publish};

const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

/// QoS and Packet Identifier of the next PUBLISH that the Client got.
#[track_caller]
fn next_publish(cluster: &mut Cluster, client: ClientId) -> (Qos, Option<PacketId>) {
    cluster.expect(client, |packet| match packet {
        Packet::Publish(publish) => (publish.qos, publish.packet_id),
        other => panic!("{other:?}"),
    })
}

/// A member whose session is kept for `seconds`.
#[track_caller]
fn member(cluster: &mut Cluster, name: &str, seconds: u32) -> ClientId {
    let list = [Property::SessionExpiryInterval(seconds)];
    let properties = Properties::new(&list);
    cluster.connect_with(0, Connect { clean_start: false, properties, ..connect(Version::V5, name) }).0
}

/// The one of the two that got a message, and the other one.
#[track_caller]
fn who_got_it(cluster: &Cluster, members: [ClientId; 2]) -> (ClientId, ClientId) {
    let [first, second] = members;
    match members.map(|member| cluster.pending(member)) {
        [1, 0] => (first, second),
        [0, 1] => (second, first),
        other => panic!("{other:?} packets"),
    }
}

/// [MQTT-4.8.2-1] [MQTT-4.8.2-2]
#[test]
fn a_malformed_shared_filter_is_refused() {
    for version in VERSIONS {
        let mut cluster = Cluster::new(2);
        let client = cluster.connect(0, version, "c");
        let invalid = ReasonCode(if version == Version::V5 { 0x8F } else { 0x80 });
        for filter in ["$share//a", "$share/g", "$share/g/", "$share/+/a", "$share/g#/a"] {
            let options = SubscriptionOptions::default();
            let reason = cluster.subscribe_with(client, filter, options, Properties::EMPTY);
            assert_eq!(reason, invalid, "{filter}");
        }
        // It is `$share/` that makes it one.
        cluster.subscribe(client, "$Share/g/a", Qos::AtMostOnce);
        cluster.publish(client, "a", b"x");
        cluster.expect_nothing(client);
    }
}

/// [MQTT-4.8.2-3]
#[test]
fn each_member_gets_messages_with_its_own_qos() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let granted = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce];
        let members = granted.map(|qos| cluster.connect(0, Version::V5, &format!("member-{}", qos.bits())));
        for (member, qos) in members.into_iter().zip(granted) {
            cluster.subscribe(member, "$share/g/a", qos);
        }
        let publisher = cluster.connect(0, Version::V5, "publisher");
        for _ in 0..3 {
            cluster.publish_2(publisher, "a", b"x");
        }
        for (member, qos) in members.into_iter().zip(granted) {
            assert_eq!(next_publish(&mut cluster, member).0, qos);
            cluster.expect_nothing(member);
        }
    }
}

/// [MQTT-4.8.2-4]
#[test]
fn a_qos_2_message_is_completed_with_the_member_that_it_was_sent_to() {
    for cores in [1, 2, 8] {
        for received in [false, true] {
            let mut cluster = Cluster::new(cores);
            let members = ["one", "two"].map(|name| member(&mut cluster, name, 100));
            for member in members {
                cluster.subscribe(member, "$share/g/a", Qos::ExactlyOnce);
            }
            let publisher = cluster.connect(0, Version::V5, "publisher");
            cluster.publish_2(publisher, "a", b"x");
            let (chosen, other) = who_got_it(&cluster, members);
            let id = next_publish(&mut cluster, chosen).1.expect("QoS 2");
            if received {
                cluster.send(chosen, &Packet::PubRec(Ack::new(id, ReasonCode::SUCCESS)));
                cluster.take_frame(chosen);
            }
            cluster.cut(chosen);
            cluster.advance(1_000);
            cluster.expect_nothing(other);
            let name = if chosen == members[0] { "one" } else { "two" };
            let back = member(&mut cluster, name, 100);
            cluster.expect(back, |packet| match packet {
                Packet::Publish(publish) => assert!(!received && publish.packet_id == Some(id)),
                Packet::PubRel(ack) => assert!(received && ack.packet_id == id),
                other => panic!("{other:?}"),
            });
            cluster.expect_nothing(other);
        }
    }
}

/// [MQTT-4.8.2-5]
#[test]
fn a_qos_2_message_ends_with_the_session_that_it_was_sent_to() {
    for cores in [1, 2, 8] {
        for seconds in [0, 10] {
            let mut cluster = Cluster::new(cores);
            let members = ["one", "two"].map(|name| member(&mut cluster, name, seconds));
            for member in members {
                cluster.subscribe(member, "$share/g/a", Qos::ExactlyOnce);
            }
            let publisher = cluster.connect(0, Version::V5, "publisher");
            cluster.publish_2(publisher, "a", b"x");
            let (chosen, other) = who_got_it(&cluster, members);
            cluster.cut(chosen);
            cluster.advance(u64::from(seconds) * 1000);
            assert_eq!(cluster.total(|stats| stats.sessions), 2);
            cluster.expect_nothing(other);
        }
    }
}

/// [MQTT-4.8.2-6]
#[test]
fn a_message_that_a_member_refuses_goes_to_no_other() {
    for cores in [1, 2, 8] {
        for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let mut cluster = Cluster::new(cores);
            let members = ["one", "two"].map(|name| cluster.connect(0, Version::V5, name));
            for member in members {
                cluster.subscribe(member, "$share/g/a", qos);
            }
            let publisher = cluster.connect(0, Version::V5, "publisher");
            cluster.publish_2(publisher, "a", b"x");
            let (chosen, other) = who_got_it(&cluster, members);
            let id = next_publish(&mut cluster, chosen).1.expect("QoS 1 or 2");
            let refusal = Ack::new(id, ReasonCode::UNSPECIFIED_ERROR);
            cluster.send(
                chosen,
                &if qos == Qos::AtLeastOnce { Packet::PubAck(refusal) } else { Packet::PubRec(refusal) },
            );
            cluster.expect_nothing(chosen);
            cluster.cut(chosen);
            cluster.expect_nothing(other);
        }
    }
}

/// Section 4.8.2: a message goes to one of the members.
#[test]
fn a_message_goes_to_one_member() {
    for cores in [1, 2, 8] {
        for version in VERSIONS {
            let mut cluster = Cluster::new(cores);
            let members = ["one", "two", "three"].map(|name| cluster.connect(0, version, name));
            for member in members {
                cluster.subscribe(member, "$share/g/a/+", Qos::AtMostOnce);
            }
            let publisher = cluster.connect(0, version, "publisher");
            for n in 1..=9 {
                cluster.publish(publisher, "a/b", b"x");
                assert_eq!(members.iter().map(|&member| cluster.pending(member)).sum::<usize>(), n);
            }
        }
    }
}

/// Section 4.8.2: groups are told apart by ShareName and filter, and do not touch other subscriptions.
#[test]
fn each_group_and_each_plain_subscription_gets_its_copy() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let members = ["one", "two", "three"].map(|name| cluster.connect(0, Version::V5, name));
        for (member, filter) in members.into_iter().zip(["$share/g/a", "$share/h/a", "$share/g/+"]) {
            cluster.subscribe(member, filter, Qos::AtMostOnce);
        }
        let plain = cluster.connect(0, Version::V5, "plain");
        cluster.subscribe(plain, "a", Qos::AtMostOnce);
        // One Client may have both: they are two subscriptions.
        cluster.subscribe(plain, "$share/i/a", Qos::AtMostOnce);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        cluster.publish(publisher, "a", b"x");
        for member in members {
            cluster.expect_message(member, "a", b"x");
            cluster.expect_nothing(member);
        }
        cluster.expect_message(plain, "a", b"x");
        cluster.expect_message(plain, "a", b"x");
        cluster.expect_nothing(plain);
    }
}

/// Sections 3.3.1.3 and 4.8.2: nothing retained comes by a Shared Subscription.
#[test]
fn a_shared_subscription_gets_no_retained_messages() {
    for cores in [1, 2] {
        let mut cluster = Cluster::new(cores);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        let retained = Publish { retain: true, ..publish("a", b"kept", Qos::AtMostOnce, 0) };
        cluster.send(publisher, &Packet::Publish(retained));
        let member = cluster.connect(0, Version::V5, "member");
        cluster.subscribe(member, "$share/g/a", Qos::AtMostOnce);
        cluster.expect_nothing(member);
    }
}

/// Section 4.8.2: a member that joins again changes its own options, and stays one member.
#[test]
fn joining_a_group_again_replaces_the_members_options() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let member = cluster.connect(0, Version::V5, "member");
        let publisher = cluster.connect(0, Version::V5, "publisher");
        for qos in [Qos::ExactlyOnce, Qos::AtMostOnce] {
            cluster.subscribe(member, "$share/g/a", qos);
            cluster.publish_2(publisher, "a", b"x");
            assert_eq!(next_publish(&mut cluster, member).0, qos);
            cluster.expect_nothing(member);
        }
        cluster.unsubscribe(member, "$share/g/a");
        cluster.publish(publisher, "a", b"x");
        cluster.expect_nothing(member);
    }
}

/// Section 4.8.2: what a member did not acknowledge at QoS 1 may go to another when it leaves, and does.
#[test]
fn an_unacknowledged_qos_1_message_goes_to_another_member() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let members = ["one", "two"].map(|name| member(&mut cluster, name, 100));
        for member in members {
            cluster.subscribe(member, "$share/g/a", Qos::AtLeastOnce);
        }
        let publisher = cluster.connect(0, Version::V5, "publisher");
        cluster.publish_1(publisher, "a", b"x");
        let (chosen, other) = who_got_it(&cluster, members);
        cluster.expect_nothing(other);
        cluster.cut(chosen);
        cluster.expect_message(other, "a", b"x");
    }
}
