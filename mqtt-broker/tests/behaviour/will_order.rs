//! A Will comes behind what its Client published, and before what that publishes next, while either waits for the store.

use mqtt_broker::config::Limits;
use mqtt_proto::packet::{Connect, Packet, Properties, Property, Publish, Will};
use mqtt_proto::types::{Qos, TopicName, Version};

use crate::cluster::{ClientId, Cluster, connect, publish};
use crate::disk::Disk;
use crate::handing_on::name_on;

/// Topics whose retained messages are at home on either core of two.
const TOPICS: [&str; 4] = ["a", "b", "c", "d"];

/// The CONNECT of a Client whose Will says that it is gone.
fn opens(cluster: &mut Cluster, name: &str, topic: &str, qos: Qos, clean_start: bool) -> ClientId {
    let expiry = [Property::SessionExpiryInterval(3600)];
    let topic = TopicName::new(topic).expect("a topic");
    let will = Will { topic, payload: b"gone", qos, retain: true, properties: Properties::EMPTY };
    let client = cluster.open(0, Version::V5);
    let (will, properties) = (Some(will), Properties::new(&expiry));
    let connect = Connect { will, properties, clean_start, ..connect(Version::V5, name) };
    cluster.send(client, &Packet::Connect(connect));
    client
}

fn says(topic: &'static str, payload: &'static [u8], qos: Qos) -> Packet<'static> {
    Packet::Publish(Publish { retain: true, ..publish(topic, payload, qos, 1) })
}

/// A Client of the second core.
fn watches(cluster: &mut Cluster, topic: &str) -> ClientId {
    let name = name_on(cluster, 1, "watcher");
    let watcher = cluster.connect(0, Version::V5, &name);
    cluster.subscribe(watcher, topic, Qos::AtMostOnce);
    watcher
}

/// What is retained is what the last of these say.
fn is_last(cluster: &mut Cluster, watcher: ClientId, topic: &str, payloads: &[&[u8]]) {
    for payload in payloads {
        cluster.expect_message(watcher, topic, payload);
    }
    cluster.expect_nothing(watcher);
    cluster.cut(watcher);
    let watcher = watches(cluster, topic);
    cluster.expect_message(watcher, topic, payloads.last().expect("there are some"));
}

#[test]
fn a_will_comes_behind_what_its_client_published_at_qos_2() {
    for (topic, qos) in each() {
        let (mut cluster, disk) = Disk::new(2, Limits::default());
        let watcher = watches(&mut cluster, topic);
        let name = name_on(&mut cluster, 0, "lamp");
        let client = opens(&mut cluster, &name, topic, qos, true);
        disk.set_late(true);
        cluster.send(client, &says(topic, b"here", Qos::ExactlyOnce));
        cluster.cut(client);
        (0..4).for_each(|_| disk.commit(&mut cluster));
        is_last(&mut cluster, watcher, topic, &[b"here", b"gone"]);
    }
}

#[test]
fn what_a_client_publishes_on_a_new_connection_comes_behind_its_will() {
    for ((topic, qos), clean_start) in each().flat_map(|each| [(each, false), (each, true)]) {
        let (mut cluster, disk) = Disk::new(2, Limits::default());
        let watcher = watches(&mut cluster, topic);
        let name = name_on(&mut cluster, 0, "lamp");
        opens(&mut cluster, &name, topic, Qos::AtLeastOnce, true);
        disk.set_late(true);
        // It does not wait for CONNACK.
        let client = opens(&mut cluster, &name, topic, Qos::AtLeastOnce, clean_start);
        cluster.send(client, &says(topic, b"here", qos));
        (0..4).for_each(|_| disk.commit(&mut cluster));
        is_last(&mut cluster, watcher, topic, &[b"gone", b"here"]);
    }
}

fn each() -> impl Iterator<Item = (&'static str, Qos)> {
    let all = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce];
    TOPICS.into_iter().flat_map(move |topic| all.into_iter().map(move |qos| (topic, qos)))
}

/// The Client's Will says its name; it goes `delay` seconds behind it, or with the session after `expiry` seconds.
fn leaves(cluster: &mut Cluster, name: &str, delay: u32, expiry: u32) {
    let (delay, expiry) = ([Property::WillDelayInterval(delay)], [Property::SessionExpiryInterval(expiry)]);
    let (topic, properties) = (TopicName::new("left").expect("a topic"), Properties::new(&delay));
    let will = Will { topic, payload: name.as_bytes(), qos: Qos::AtMostOnce, retain: false, properties };
    let properties = Properties::new(&expiry);
    let connect = Connect { will: Some(will), properties, ..connect(Version::V5, name) };
    let (client, _) = cluster.connect_with(0, connect);
    cluster.cut(client);
}

/// After a long pause, or a start, very many are due at once.
#[test]
fn wills_that_are_due_at_once_are_published_in_slices_in_order_with_the_ends_of_sessions() {
    const WILLS: usize = 2_500;
    let mut cluster = Cluster::new(1);
    let watcher = cluster.connect(0, Version::V5, "watcher");
    cluster.subscribe(watcher, "left", Qos::AtMostOnce);
    leaves(&mut cluster, "last", 12, 3600);
    // Its Will goes with it, before the delay is over.
    leaves(&mut cluster, "ends", 3600, 11);
    leaves(&mut cluster, "ends first", 3600, 9);
    (0..WILLS).for_each(|n| leaves(&mut cluster, &format!("many {n}"), 10, 3600));
    cluster.now.millis += 60_000;
    cluster.now.wall_millis += 60_000;
    let mut turns = 0;
    while cluster.shards[0].poll_timeout().is_some_and(|at| at <= cluster.now.millis) {
        let before = cluster.total(|stats| stats.messages_matched);
        cluster.shards[0].handle_timeout(cluster.now);
        let published = cluster.total(|stats| stats.messages_matched) - before;
        assert!(published <= 1_030, "{published} in one turn");
        while let Some(action) = cluster.shards[0].poll_action() {
            cluster.act(0, action);
        }
        turns += 1;
        assert!(turns < 10, "it comes to an end");
    }
    let mut seen = Vec::new();
    while cluster.pending(watcher) > 0 {
        seen.push(cluster.take(watcher).1);
    }
    assert_eq!(seen.len(), WILLS + 3);
    assert_eq!(
        (&seen[0][..], &seen[WILLS + 1][..], &seen[WILLS + 2][..]),
        (&b"ends first"[..], &b"ends"[..], &b"last"[..])
    );
}
