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
