//! The counters: each counts what it says, once.

use std::collections::{BTreeMap, BTreeSet};

use mqtt_proto::packet::{Connect, Packet, Properties, Property, Publish, SubscriptionOptions};
use mqtt_proto::types::{Qos, ReasonCode, Version};

use crate::cluster::{Cluster, connect, limits, publish};

/// The counters of all cores that are not 0 but for bytes, which depend on how packets are written.
fn counters(cluster: &Cluster) -> BTreeMap<&'static str, u64> {
    let mut all = BTreeMap::new();
    for (name, value) in cluster.shards.iter().flat_map(|shard| shard.stats().iter()) {
        *all.entry(name).or_insert(0) += value;
    }
    all.retain(|name, value| *value != 0 && !name.starts_with("bytes/"));
    all
}

/// What `change` adds to each counter.
#[track_caller]
fn added(cluster: &mut Cluster, change: impl FnOnce(&mut Cluster)) -> Vec<(&'static str, i64)> {
    let before = counters(cluster);
    change(cluster);
    let after = counters(cluster);
    let names: BTreeSet<_> = before.keys().chain(after.keys()).copied().collect();
    let value = |all: &BTreeMap<&str, u64>, name| all.get(name).map_or(0, |&value| value as i64);
    names
        .into_iter()
        .map(|name| (name, value(&after, name) - value(&before, name)))
        .filter(|&(_, more)| more != 0)
        .collect()
}

#[test]
fn each_counter_counts_what_it_says_and_once() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::with_limits(cores, limits(|limits| limits.queue_messages_max = 2));
        let cluster = &mut cluster;
        let expiry = [Property::SessionExpiryInterval(60), Property::MaximumPacketSize(100)];
        let kept = Connect { properties: Properties::new(&expiry), ..connect(Version::V5, "subscriber") };
        let mut clients = Vec::new();
        let done = added(cluster, |cluster| {
            for connect in [kept, connect(Version::V3_1_1, "publisher")] {
                clients.push(cluster.connect_with(0, connect).0);
            }
        });
        let connected = [
            ("clients/connected", 2),
            ("connections/count", 2),
            ("connections/opened", 2),
            ("packets/received", 2),
            ("sessions/count", 2),
        ];
        assert_eq!(done, connected);
        let [subscriber, publisher] = clients[..] else { unreachable!("two were connected") };

        let done = added(cluster, |cluster| {
            cluster.subscribe(subscriber, "a", Qos::AtLeastOnce);
            cluster.subscribe(subscriber, "$share/g/b", Qos::AtLeastOnce);
            cluster.subscribe(subscriber, "$share/g/b", Qos::AtLeastOnce);
        });
        let expected =
            [("packets/received", 3), ("subscriptions/count", 1), ("subscriptions/shared/count", 1)];
        assert_eq!(done, expected);

        // QoS 0 is delivered when it is sent, QoS 1 when it is acknowledged.
        let delivered = [
            ("messages/delivered", 1),
            ("messages/matched", 1),
            ("messages/received", 1),
            ("messages/sent", 1),
            ("packets/received", 1),
        ];
        for topic in ["a", "b"] {
            assert_eq!(
                added(cluster, |cluster| cluster.publish(publisher, topic, b"x")),
                delivered,
                "{topic}"
            );
            cluster.expect_message(subscriber, topic, b"x");
            let done = added(cluster, |cluster| {
                cluster.publish_1(publisher, topic, b"x");
            });
            let sent = [
                ("messages/matched", 1),
                ("messages/received", 1),
                ("messages/sent", 1),
                ("messages/stored/count", 1),
                ("packets/received", 1),
            ];
            assert_eq!(done, sent, "{topic}");
            let done = added(cluster, |cluster| cluster.expect_message(subscriber, topic, b"x"));
            let acknowledged =
                [("messages/delivered", 1), ("messages/stored/count", -1), ("packets/received", 1)];
            assert_eq!(done, acknowledged, "{topic}");
        }

        let nobody = [("messages/received", 1), ("messages/unmatched", 1), ("packets/received", 1)];
        assert_eq!(added(cluster, |cluster| cluster.publish(publisher, "nobody", b"x")), nobody);
        let refused = [("messages/received", 1), ("messages/refused", 1), ("packets/received", 1)];
        assert_eq!(added(cluster, |cluster| cluster.publish(publisher, "$SYS/mine", b"x")), refused);

        for (topic, group) in [("a", false), ("b", true)] {
            let done = added(cluster, |cluster| cluster.publish(publisher, topic, &[0; 200]));
            let lost = [
                ("messages/dropped/too_large", 1),
                ("messages/matched", 1),
                ("messages/received", 1),
                ("packets/received", 1),
            ];
            assert_eq!(done, lost, "{topic}");
            let done = added(cluster, |cluster| {
                cluster.publish_1(publisher, topic, &[0; 200]);
            });
            assert_eq!(done, lost, "{topic}, group: {group}");
        }

        let done = added(cluster, |cluster| cluster.cut(subscriber));
        assert_eq!(done, [("clients/connected", -1), ("connections/count", -1)]);
        let done = added(cluster, |cluster| {
            cluster.publish(publisher, "a", b"x");
            for _ in 0..3 {
                cluster.publish_1(publisher, "a", b"x");
            }
        });
        let bytes = done.iter().find(|(name, _)| *name == "messages/stored/bytes").expect("two are queued").1;
        let queued = [
            ("messages/dropped/offline", 1),
            ("messages/dropped/queue_full", 1),
            ("messages/matched", 4),
            ("messages/received", 4),
            ("messages/stored/bytes", bytes),
            ("messages/stored/count", 2),
            ("packets/received", 4),
        ];
        assert_eq!(done, queued);
        let ended = added(cluster, |cluster| cluster.advance(60_000));
        let expected = [
            ("messages/dropped/session_ended", 2),
            ("messages/stored/bytes", -bytes),
            ("messages/stored/count", -2),
            ("sessions/count", -1),
            ("subscriptions/count", -1),
            ("subscriptions/shared/count", -1),
        ];
        assert_eq!(ended, expected);

        let done = added(cluster, |cluster| {
            let message = publish("kept", b"x", Qos::AtMostOnce, 0);
            cluster.send(publisher, &Packet::Publish(Publish { retain: true, ..message }));
        });
        let bytes =
            done.iter().find(|(name, _)| *name == "retained messages/bytes").expect("one is retained").1;
        let retained = [
            ("messages/received", 1),
            ("messages/unmatched", 1),
            ("packets/received", 1),
            ("retained messages/bytes", bytes),
            ("retained messages/count", 1),
        ];
        assert_eq!(done, retained);
    }
}

#[test]
fn bytes_are_counted_as_they_pass() {
    let mut cluster = Cluster::new(1);
    let total = |cluster: &Cluster| {
        (cluster.total(|stats| stats.bytes_received), cluster.total(|stats| stats.bytes_sent))
    };
    let client = cluster.open(0, Version::V3_1_1);
    let connect = cluster.encoded(client, &Packet::Connect(connect(Version::V3_1_1, "c")));
    cluster.send_bytes(client, &connect[..5]);
    cluster.send_bytes(client, &connect[5..]);
    assert_eq!(total(&cluster), (connect.len() as u64, 4), "CONNACK");
    cluster.send_bytes(client, &[0xC0, 0, 0xC0, 0]);
    assert_eq!(total(&cluster), (connect.len() as u64 + 4, 8), "two PINGRESP");
    cluster.send_bytes(client, &[0xC0, 0, 0xE0, 0]);
    assert_eq!(total(&cluster), (connect.len() as u64 + 8, 10), "the last bytes before the end count too");
}

#[test]
fn takeovers_and_refusals_are_counted() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::with_limits(cores, limits(|limits| limits.client_id_bytes_max = 23));
        cluster.connect(0, Version::V5, "c");
        let taken = added(&mut cluster, |cluster| {
            cluster.connect(usize::from(cores) - 1, Version::V5, "c");
        });
        assert_eq!(taken, [("connections/opened", 1), ("packets/received", 1), ("sessions/takeovers", 1)]);
        let refused = added(&mut cluster, |cluster| {
            let client = cluster.open(0, Version::V5);
            cluster.send(client, &Packet::Connect(connect(Version::V5, "a name of twenty-four byte")));
            assert!(cluster.is_closed(client));
        });
        assert_eq!(refused, [("connections/opened", 1), ("connects/refused", 1), ("packets/received", 1)]);
    }
}

/// A subscription that is refused changes no counter but that of packets.
#[test]
fn a_refused_subscription_counts_for_nothing() {
    let mut cluster = Cluster::with_limits(2, limits(|limits| limits.subscriptions_per_session_max = 1));
    let client = cluster.connect(0, Version::V5, "c");
    cluster.subscribe(client, "a", Qos::AtMostOnce);
    for filter in ["b", "$share/g/b", "b/#/c"] {
        let done = added(&mut cluster, |cluster| {
            let options = SubscriptionOptions::new(Qos::AtMostOnce);
            let reason = cluster.subscribe_with(client, filter, options, Properties::EMPTY);
            assert!(reason.is_error() && reason != ReasonCode::UNSPECIFIED_ERROR);
        });
        assert_eq!(done, [("packets/received", 1)], "{filter}");
    }
}
