//! Answers that wait: for other cores, for the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mqtt_broker::config::Limits;
use mqtt_broker::ports::{Commit, Ports, Store};
use mqtt_broker::store::record::Record;
use mqtt_proto::packet::{
    Connect, Filters, Packet, Properties, Publish, Subscribe, Subscription, SubscriptionOptions,
    Subscriptions, Unsubscribe,
};
use mqtt_proto::types::{PacketId, Qos, Version};

use crate::cluster::{ClientId, Cluster, connect, publish};

/// A store that commits when it is told to.
struct Late(Arc<AtomicU64>);

impl Store for Late {
    fn append(&mut self, _: &Record<'_>) -> Commit {
        Commit::At(self.0.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

fn late(cores: u16) -> (Cluster, Vec<Arc<AtomicU64>>) {
    let appended: Vec<Arc<AtomicU64>> = (0..cores).map(|_| Arc::default()).collect();
    let cluster = Cluster::with(cores, Limits::default(), |core| Ports {
        store: Box::new(Late(appended[core.index()].clone())),
        ..Ports::allow_all()
    });
    (cluster, appended)
}

/// Commits all that was appended so far, on all cores.
fn commit(cluster: &mut Cluster, appended: &[Arc<AtomicU64>]) {
    for (shard, appended) in cluster.shards.iter_mut().zip(appended) {
        shard.store_committed(appended.load(Ordering::Relaxed), cluster.now);
    }
    cluster.run();
}

fn subscribe(cluster: &mut Cluster, client: ClientId, filter: &str) {
    let list = [Subscription { filter, options: SubscriptionOptions::new(Qos::AtLeastOnce) }];
    let packet_id = PacketId::new(1).expect("not 0");
    let (properties, subscriptions) = (Properties::EMPTY, Subscriptions::new(&list));
    cluster.send(client, &Packet::Subscribe(Subscribe { packet_id, properties, subscriptions }));
}

/// A Client whose session outlives its connection, and that has subscribed to `a`. Both answers wait for the store.
fn kept_subscriber(cluster: &mut Cluster, appended: &[Arc<AtomicU64>]) -> ClientId {
    let client = cluster.open(0, Version::V3_1_1);
    let kept = Connect { clean_start: false, ..connect(Version::V3_1_1, "subscriber") };
    cluster.send(client, &Packet::Connect(kept));
    cluster.expect_nothing(client);
    commit(cluster, appended);
    cluster.expect(client, |packet| assert!(matches!(packet, Packet::ConnAck(_)), "{packet:?}"));
    subscribe(cluster, client, "a");
    cluster.expect_nothing(client);
    commit(cluster, appended);
    cluster.expect(client, |packet| assert!(matches!(packet, Packet::SubAck(_)), "{packet:?}"));
    client
}

#[test]
fn suback_waits_until_every_core_knows_the_subscription() {
    for cores in [2, 8] {
        let mut cluster = Cluster::new(cores);
        let subscriber = cluster.connect(0, Version::V5, "subscriber");
        cluster.lanes_stalled = true;
        subscribe(&mut cluster, subscriber, "a");
        cluster.expect_nothing(subscriber);
        cluster.lanes_stalled = false;
        cluster.run();
        cluster.expect(subscriber, |packet| assert!(matches!(packet, Packet::SubAck(_)), "{packet:?}"));
    }
}

#[test]
fn puback_waits_until_the_subscribers_core_has_the_message() {
    let mut cluster = Cluster::new(8);
    let publisher = cluster.connect(0, Version::V5, "publisher");
    let clients: Vec<_> =
        (0..32).map(|n| cluster.connect(0, Version::V5, &format!("subscriber-{n}"))).collect();
    let elsewhere = |client: &ClientId| cluster.core_of(*client) != cluster.core_of(publisher);
    let subscriber = clients.into_iter().find(elsewhere).expect("some Client has another home");
    cluster.subscribe(subscriber, "a", Qos::AtLeastOnce);
    cluster.lanes_stalled = true;
    cluster.send(publisher, &Packet::Publish(publish("a", b"x", Qos::AtLeastOnce, 5)));
    // Nobody wants it, so nobody is waited for; but its PUBACK is the second [MQTT-4.6.0-2].
    cluster.send(publisher, &Packet::Publish(publish("b", b"x", Qos::AtLeastOnce, 6)));
    cluster.expect_nothing(publisher);
    cluster.lanes_stalled = false;
    cluster.run();
    for id in [5, 6] {
        cluster.expect(publisher, |packet| {
            let Packet::PubAck(ack) = packet else { panic!("{packet:?}") };
            assert_eq!(ack.packet_id.get(), id);
        });
    }
}

#[test]
fn a_repeated_qos_2_publish_is_answered_though_nothing_else_is_under_way() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let (publisher, _) = cluster.resume(0, Version::V5, "publisher");
        // Leaves envelopes on every lane that nobody asked an acknowledgement for.
        cluster.subscribe(publisher, "x", Qos::AtMostOnce);
        cluster.unsubscribe(publisher, "x");
        let first = publish("a", b"x", Qos::ExactlyOnce, 5);
        for dup in [false, true] {
            cluster.send(publisher, &Packet::Publish(Publish { dup, ..first }));
            cluster.expect(publisher, |packet| assert!(matches!(packet, Packet::PubRec(_)), "{packet:?}"));
        }
    }
}

#[test]
fn acknowledgements_wait_for_the_store_on_every_core() {
    for cores in [1, 2, 8] {
        let (mut cluster, appended) = late(cores);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        let client = kept_subscriber(&mut cluster, &appended);
        cluster.send(publisher, &Packet::Publish(publish("a", b"x", Qos::AtLeastOnce, 5)));
        cluster.expect_message(client, "a", b"x");
        cluster.expect_nothing(publisher);
        commit(&mut cluster, &appended);
        cluster.expect(publisher, |packet| assert!(matches!(packet, Packet::PubAck(_)), "{packet:?}"));
    }
}

#[test]
fn pubrec_and_unsuback_wait_for_the_store_on_every_core() {
    for cores in [1, 2, 8] {
        let (mut cluster, appended) = late(cores);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        let client = kept_subscriber(&mut cluster, &appended);
        let first = publish("a", b"x", Qos::ExactlyOnce, 5);
        for dup in [false, true] {
            cluster.send(publisher, &Packet::Publish(Publish { dup, ..first }));
            cluster.expect_nothing(publisher);
        }
        commit(&mut cluster, &appended);
        for _ in 0..2 {
            cluster.expect(publisher, |packet| assert!(matches!(packet, Packet::PubRec(_)), "{packet:?}"));
        }
        cluster.expect_message(client, "a", b"x");
        let (packet_id, properties) = (PacketId::new(9).expect("not 0"), Properties::EMPTY);
        let filters = ["a", "never"];
        let filters = Filters::new(&filters);
        cluster.send(client, &Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters }));
        // What needs no record waits all the same: answers leave in order.
        cluster.send(client, &Packet::Publish(publish("b", b"x", Qos::AtLeastOnce, 6)));
        cluster.expect_nothing(client);
        commit(&mut cluster, &appended);
        cluster.expect(client, |packet| assert!(matches!(packet, Packet::UnsubAck(_)), "{packet:?}"));
        cluster.expect(client, |packet| assert!(matches!(packet, Packet::PubAck(_)), "{packet:?}"));
    }
}
