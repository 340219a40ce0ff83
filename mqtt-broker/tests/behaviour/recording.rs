//! A store that commits later: what may not be sent before, and what need not wait.

use std::cell::RefCell;
use std::rc::Rc;

use mqtt_broker::config::Limits;
use mqtt_broker::ports::{Commit, Ports, Store};
use mqtt_broker::store::record::Record;
use mqtt_proto::packet::{
    Connect, Packet, Properties, Property, Publish, Subscribe, Subscription, SubscriptionOptions,
    Subscriptions,
};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, Version};

use crate::cluster::{ClientId, Cluster, connect, publish};

/// What was recorded on each core, by name. A core's position in its store is how many it recorded.
type Recorded = Rc<RefCell<Vec<Vec<&'static str>>>>;

/// A store that commits when it is told to.
struct Late(usize, Recorded);

impl Store for Late {
    fn append(&mut self, record: &Record<'_>) -> Commit {
        let name = match record {
            Record::Opened { .. } => "opened",
            Record::Closed { .. } => "closed",
            Record::Ended { .. } => "ended",
            Record::Time { .. } => "time",
            Record::Message { .. } => "message",
            Record::Subscribed { .. } => "subscribed",
            Record::Unsubscribed { .. } => "unsubscribed",
            Record::Enqueued { .. } => "enqueued",
            Record::Acknowledged { .. } => "acknowledged",
            Record::Retained => "retained",
            Record::RetainedRemoved { .. } => "retained removed",
            _ => "something else",
        };
        let recorded = &mut self.1.borrow_mut()[self.0];
        recorded.push(name);
        Commit::At(recorded.len() as u64)
    }
}

fn late(cores: u16) -> (Cluster, Recorded) {
    let recorded: Recorded = Rc::new(RefCell::new(vec![Vec::new(); usize::from(cores)]));
    let ports = recorded.clone();
    let cluster = Cluster::with(cores, Limits::default(), move |core| Ports {
        store: Box::new(Late(core.index(), ports.clone())),
        ..Ports::allow_all()
    });
    (cluster, recorded)
}

/// Commits all that was recorded so far, on all cores.
fn commit(cluster: &mut Cluster, recorded: &Recorded) {
    let positions: Vec<usize> = recorded.borrow().iter().map(Vec::len).collect();
    for (shard, position) in cluster.shards.iter_mut().zip(positions) {
        shard.store_committed(position as u64, cluster.now);
    }
    cluster.run();
}

/// What was recorded on any core, but for times and messages by themselves.
fn taken(recorded: &Recorded) -> Vec<&'static str> {
    let recorded = recorded.borrow();
    let names = recorded.iter().flatten().copied();
    names.filter(|name| !["time", "message"].contains(name)).collect()
}

fn kept(cluster: &mut Cluster, name: &str) -> ClientId {
    let client = cluster.open(0, Version::V5);
    let expiry = [Property::SessionExpiryInterval(60)];
    let properties = Properties::new(&expiry);
    cluster.send(client, &Packet::Connect(Connect { properties, ..connect(Version::V5, name) }));
    client
}

#[test]
fn a_connection_that_ends_before_its_session_is_committed_is_told_nothing() {
    for cores in [1, 2, 8] {
        let (mut cluster, recorded) = late(cores);
        let client = kept(&mut cluster, "c");
        // Its CONNACK waits, so nothing may be sent that a Client gets only after one [MQTT-3.14.0-1].
        let again = kept(&mut cluster, "c");
        assert!(cluster.is_closed(client));
        cluster.expect_nothing(client);
        commit(&mut cluster, &recorded);
        cluster.expect_nothing(client);
        cluster.expect(again, |packet| assert!(matches!(packet, Packet::ConnAck(_)), "{packet:?}"));
        // What is committed holds back nothing: the end is told, and what was written before it is sent.
        cluster.send_bytes(again, &[0xC0, 0, 0xC0, 0, 0x00]);
        for _ in 0..2 {
            cluster.expect(again, |packet| assert_eq!(packet, &Packet::PingResp));
        }
        cluster.expect_disconnect(again, ReasonCode::MALFORMED_PACKET);
    }
}

#[test]
fn what_is_retained_waits_for_the_store_at_its_home_unless_it_is_qos_0() {
    for cores in [1, 2, 8] {
        let (mut cluster, recorded) = late(cores);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        let retain = |cluster: &mut Cluster, topic: &str, payload: &[u8], qos| {
            let message = Publish { retain: true, ..publish(topic, payload, qos, 5) };
            cluster.send(publisher, &Packet::Publish(message));
        };
        for n in 0..8 {
            let topic = format!("t/{n}");
            retain(&mut cluster, &topic, b"x", Qos::AtLeastOnce);
            cluster.expect_nothing(publisher);
            commit(&mut cluster, &recorded);
            cluster.expect(publisher, |packet| assert!(matches!(packet, Packet::PubAck(_)), "{packet:?}"));
            // Taken away again: that waits as well.
            retain(&mut cluster, &topic, b"", Qos::AtLeastOnce);
            cluster.expect_nothing(publisher);
            commit(&mut cluster, &recorded);
            cluster.expect(publisher, |packet| assert!(matches!(packet, Packet::PubAck(_)), "{packet:?}"));
            // Where there is nothing to take away, there is nothing to wait for.
            retain(&mut cluster, &topic, b"", Qos::AtLeastOnce);
            cluster.expect(publisher, |packet| assert!(matches!(packet, Packet::PubAck(_)), "{packet:?}"));
        }
        assert_eq!(taken(&recorded).len(), 16);
        retain(&mut cluster, "t/0", b"x", Qos::AtMostOnce);
        assert_eq!(taken(&recorded).len(), 17);
        // Behind it, what needs no record is answered at once.
        cluster.send(publisher, &Packet::Publish(publish("t/0", b"x", Qos::AtLeastOnce, 6)));
        cluster.expect(publisher, |packet| assert!(matches!(packet, Packet::PubAck(_)), "{packet:?}"));
    }
}

#[test]
fn what_a_session_is_to_survive_is_recorded_once_and_nothing_of_others() {
    for cores in [1, 2, 8] {
        let (mut cluster, recorded) = late(cores);
        let passing = cluster.connect(0, Version::V5, "passing");
        cluster.subscribe(passing, "a", Qos::AtLeastOnce);
        cluster.unsubscribe(passing, "a");
        cluster.subscribe(passing, "a", Qos::AtLeastOnce);
        cluster.send(passing, &Packet::Publish(publish("a", b"x", Qos::AtLeastOnce, 5)));
        cluster.expect_message(passing, "a", b"x");
        cluster.cut(passing);
        assert_eq!(taken(&recorded), [""; 0]);
        let client = kept(&mut cluster, "c");
        commit(&mut cluster, &recorded);
        cluster.expect(client, |packet| assert!(matches!(packet, Packet::ConnAck(_)), "{packet:?}"));
        let list = ["a", "b/#"]
            .map(|filter| Subscription { filter, options: SubscriptionOptions::new(Qos::AtLeastOnce) });
        let packet_id = PacketId::new(1).expect("not 0");
        let properties = Properties::EMPTY;
        let subscriptions = Subscriptions::new(&list);
        let subscribe = Subscribe { packet_id, properties, subscriptions };
        cluster.send(client, &Packet::Subscribe(subscribe));
        commit(&mut cluster, &recorded);
        cluster.expect(client, |packet| assert!(matches!(packet, Packet::SubAck(_)), "{packet:?}"));
        let publisher = cluster.connect(0, Version::V5, "publisher");
        cluster.publish(publisher, "a", b"0");
        cluster.expect_message(client, "a", b"0");
        cluster.send(publisher, &Packet::Publish(publish("a", b"1", Qos::AtLeastOnce, 5)));
        cluster.expect_message(client, "a", b"1");
        let expected = ["opened", "subscribed", "subscribed", "enqueued", "acknowledged"];
        assert_eq!(taken(&recorded), expected, "all on the core of the session, QoS 0 not at all");
        cluster.cut(client);
        cluster.advance(60_000);
        assert_eq!(taken(&recorded)[5..], ["closed", "ended"]);
    }
}
