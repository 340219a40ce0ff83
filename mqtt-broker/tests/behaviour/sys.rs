//! The `$SYS` tree: what is there, for whom, and that it is the broker's own.

use mqtt_broker::config::Limits;
use mqtt_proto::packet::{Packet, Publish};
use mqtt_proto::types::{Qos, ReasonCode, Version};

use crate::cluster::{ClientId, Cluster, limits, publish};
use crate::disk::Disk;

fn with_tree(cores: u16) -> Cluster {
    Cluster::with_limits(cores, limits(|limits: &mut Limits| limits.sys_interval_seconds = 1))
}

/// What a new subscriber to `filter` is sent.
fn values(cluster: &mut Cluster, name: &str, filter: &str) -> Vec<(String, String)> {
    let subscriber = cluster.connect(0, Version::V5, name);
    cluster.subscribe(subscriber, filter, Qos::AtMostOnce);
    let values = taken(cluster, subscriber);
    cluster.cut(subscriber);
    values
}

fn taken(cluster: &mut Cluster, subscriber: ClientId) -> Vec<(String, String)> {
    let mut values = Vec::new();
    while cluster.pending(subscriber) > 0 {
        let (topic, payload) = cluster.take(subscriber);
        values.push((topic, String::from_utf8(payload).expect("a text")));
    }
    values
}

fn value(cluster: &mut Cluster, topic: &str) -> String {
    let values = values(cluster, "asks", topic);
    assert_eq!(values.len(), 1, "{topic}");
    values[0].1.clone()
}

#[test]
fn the_tree_tells_of_every_core_and_of_all_together() {
    for cores in [1, 2, 8] {
        let mut cluster = with_tree(cores);
        for n in 0..10 {
            let client = cluster.connect(0, Version::V5, &format!("client-{n}"));
            cluster.subscribe(client, "a", Qos::AtMostOnce);
        }
        // Core 0 tells what the others told it an interval before.
        cluster.advance(3_000);
        assert_eq!(value(&mut cluster, "$SYS/broker/clients/connected"), "10");
        assert_eq!(value(&mut cluster, "$SYS/broker/subscriptions/count"), "10");
        assert_eq!(value(&mut cluster, "$SYS/broker/cores"), cores.to_string());
        assert!(value(&mut cluster, "$SYS/broker/version").starts_with("mqttd "));
        assert_eq!(value(&mut cluster, "$SYS/broker/uptime"), "3");
        let of_cores = values(&mut cluster, "asks", "$SYS/broker/core/+/clients/connected");
        assert_eq!(of_cores.len(), usize::from(cores));
        let sum: u64 = of_cores.iter().map(|(_, count)| count.parse::<u64>().expect("a number")).sum();
        assert_eq!(sum, 10);
    }
}

#[test]
fn the_tree_goes_on_changing_and_repeats_nothing() {
    let mut cluster = with_tree(2);
    let subscriber = cluster.connect(0, Version::V5, "subscriber");
    cluster.advance(3_000);
    cluster.subscribe(subscriber, "$SYS/broker/+", Qos::AtMostOnce);
    taken(&mut cluster, subscriber);
    cluster.advance(2_000);
    let uptime = |seconds: u64| ("$SYS/broker/uptime".to_owned(), seconds.to_string());
    assert_eq!(taken(&mut cluster, subscriber), [uptime(4), uptime(5)]);
}

#[test]
fn a_filter_that_begins_with_a_wildcard_does_not_match_the_tree() {
    for cores in [1, 2, 8] {
        let mut cluster = with_tree(cores);
        let live = cluster.connect(0, Version::V5, "live");
        cluster.subscribe(live, "#", Qos::AtMostOnce);
        cluster.subscribe(live, "+/broker/uptime", Qos::AtMostOnce);
        cluster.advance(5_000);
        cluster.expect_nothing(live);
        assert_eq!(values(&mut cluster, "later", "#"), []);
        assert_eq!(values(&mut cluster, "later", "+/broker/uptime"), []);
        assert!(values(&mut cluster, "later", "$SYS/#").len() > 30);
    }
}

#[test]
fn the_tree_does_not_count_itself() {
    for cores in [1, 2, 8] {
        let few = limits(|limits| (limits.sys_interval_seconds, limits.retained_messages_max) = (1, 1));
        let mut cluster = Cluster::with_limits(cores, few);
        cluster.advance(5_000);
        for topic in ["retained messages/count", "retained messages/bytes", "messages/unmatched"] {
            assert_eq!(value(&mut cluster, &format!("$SYS/broker/{topic}")), "0", "{topic}");
        }
        // Nor does it take anybody's room.
        let client = cluster.connect(0, Version::V5, "client");
        let message = publish("a", b"kept", Qos::AtMostOnce, 0);
        cluster.send(client, &Packet::Publish(Publish { retain: true, ..message }));
        cluster.advance(3_000);
        for (topic, count) in [
            ("retained messages/count", "1"),
            ("messages/unmatched", "1"),
            ("messages/dropped/retained_full", "0"),
        ] {
            assert_eq!(value(&mut cluster, &format!("$SYS/broker/{topic}")), count, "{topic}");
        }
    }
}

#[test]
fn clients_may_not_publish_to_the_tree() {
    for cores in [1, 2, 8] {
        let mut cluster = with_tree(cores);
        cluster.advance(2_000);
        let client = cluster.connect(0, Version::V5, "client");
        assert_eq!(cluster.publish_1(client, "$SYS/broker/version", b"mine"), ReasonCode::NOT_AUTHORIZED);
        assert_eq!(cluster.publish_2(client, "$SYS/other", b"mine"), ReasonCode::NOT_AUTHORIZED);
        let retained = publish("$SYS/broker/version", b"", Qos::AtMostOnce, 0);
        cluster.send(client, &Packet::Publish(Publish { retain: true, ..retained }));
        assert!(value(&mut cluster, "$SYS/broker/version").starts_with("mqttd "));
        assert_eq!(values(&mut cluster, "asks", "$SYS/other"), []);
        assert_eq!(cluster.total(|stats| stats.messages_refused), 3);
    }
}

#[test]
fn the_tree_tells_of_the_store() {
    for cores in [1, 2, 8] {
        let every_second = limits(|limits: &mut Limits| limits.sys_interval_seconds = 1);
        let (mut cluster, disk) = Disk::new(cores, every_second);
        let (client, _) = cluster.resume(0, Version::V5, "kept");
        cluster.subscribe(client, "a", Qos::AtLeastOnce);
        cluster.advance(9_000);
        let records = disk.count(|_| true).to_string();
        assert_eq!(value(&mut cluster, "$SYS/broker/store/log/records"), records);
        assert_eq!(value(&mut cluster, "$SYS/broker/store/full"), "0");
        assert_eq!(value(&mut cluster, "$SYS/broker/store/snapshots/count"), cores.to_string());
        // Ages and durations are not added up.
        let longest = (10 + cores - 1).to_string();
        assert_eq!(value(&mut cluster, "$SYS/broker/store/snapshots/duration"), longest);
        let ages = values(&mut cluster, "asks", "$SYS/broker/core/+/store/snapshots/age");
        let oldest = ages.iter().map(|(_, age)| age.parse::<u64>().expect("a number")).max();
        let age = value(&mut cluster, "$SYS/broker/store/snapshots/age");
        assert_eq!(oldest.map(|oldest| oldest.to_string()), Some(age));
        disk.set_full(true);
        // A core looks at its timers, and core 0 knows of the others an interval later.
        cluster.advance(5_000);
        assert_eq!(value(&mut cluster, "$SYS/broker/store/full"), cores.to_string());
    }
}
