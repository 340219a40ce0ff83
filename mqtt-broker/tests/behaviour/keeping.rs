//! What is kept for whom, how much of it, and what becomes of what is not: queues of sessions and of shared groups.

use std::cell::Cell;
use std::rc::Rc;

use mqtt_broker::config::Limits;
use mqtt_broker::ports::{Commit, Ports, Store};
use mqtt_broker::store::record::Record;
use mqtt_proto::packet::{Connect, Packet, Properties, Property, Will};
use mqtt_proto::types::{Qos, ReasonCode, TopicName, Version};

use crate::answers::subscribe_to_many;
use crate::away::{goes_away, is_back};
use crate::cluster::{Cluster, connect, limits};

#[test]
fn qos_0_waits_for_a_client_that_is_away_only_where_that_is_asked_for() {
    for cores in [1, 2, 8] {
        for kept in [true, false] {
            let mut cluster = Cluster::with_limits(cores, limits(|limits| limits.queue_qos0_offline = kept));
            goes_away(&mut cluster, "subscriber", "a");
            let publisher = cluster.connect(0, Version::V5, "publisher");
            for n in 0..3u8 {
                cluster.publish(publisher, "a", &[0, n]);
                cluster.publish_1(publisher, "a", &[1, n]);
            }
            let all = (0..3u8).flat_map(|n| [[0, n], [1, n]]);
            is_back(&mut cluster, "subscriber", "a", all.filter(|[qos, _]| kept || *qos == 1));
            assert_eq!(cluster.total(|stats| stats.dropped_offline), if kept { 0 } else { 3 });
        }
    }
}

/// A queue that waits for its Client to read keeps QoS 0 in its place; the Client gone, that is dropped or kept as if it
/// had come later.
#[test]
fn qos_0_that_waits_in_a_queue_is_kept_or_dropped_when_its_client_leaves() {
    for kept in [true, false] {
        let change = |limits: &mut Limits| {
            limits.queue_qos0_offline = kept;
            limits.output_bytes_max = 4096;
        };
        let mut cluster = Cluster::with_limits(2, limits(change));
        let (subscriber, _) = cluster.resume(0, Version::V5, "subscriber");
        cluster.subscribe(subscriber, "a", Qos::AtLeastOnce);
        cluster.set_reading(subscriber, false);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        let large: Vec<_> = (0..6u8).map(|n| vec![n; 1500]).collect();
        for payload in &large {
            cluster.publish_1(publisher, "a", payload);
        }
        cluster.publish(publisher, "a", b"in its place");
        cluster.publish_1(publisher, "a", b"last");
        cluster.cut(subscriber);
        assert_eq!(cluster.total(|stats| stats.dropped_offline), if kept { 0 } else { 1 });
        let in_its_place = kept.then(|| b"in its place".to_vec());
        is_back(
            &mut cluster,
            "subscriber",
            "a",
            large.into_iter().chain(in_its_place).chain([b"last".to_vec()]),
        );
    }
}

#[test]
fn the_queue_of_a_shared_group_is_bounded_in_bytes_and_drops_the_oldest() {
    for cores in [1, 2, 8] {
        let bound = limits(|limits| limits.group_queue_bytes_max = 5_000);
        let mut cluster = Cluster::with_limits(cores, bound);
        goes_away(&mut cluster, "member", "$share/g/a");
        let publisher = cluster.connect(0, Version::V5, "publisher");
        for n in 0..10u8 {
            cluster.publish_1(publisher, "a", &[n; 1000]);
            let bytes = cluster.total(|stats| stats.queue_bytes);
            assert!(bytes <= 5_000, "{bytes} bytes of {n} messages");
        }
        assert_eq!(cluster.total(|stats| stats.dropped_group_queue_full), 6);
        is_back(&mut cluster, "member", "a", (6..10u8).map(|n| [n; 1000]));
        assert_eq!(cluster.total(|stats| stats.queue_bytes + stats.messages_kept), 0);
    }
}

#[test]
fn a_full_memory_bounds_the_queue_of_a_shared_group_message_for_message() {
    for cores in [1, 2] {
        let bound = limits(|limits| limits.memory_bytes_max = 10_000);
        let mut cluster = Cluster::with_limits(cores, bound);
        goes_away(&mut cluster, "member", "$share/g/a");
        let publisher = cluster.connect(0, Version::V5, "publisher");
        for n in 0..30u8 {
            cluster.publish_1(publisher, "a", &[n; 1000]);
        }
        let kept = cluster.total(|stats| stats.messages_kept);
        assert!((7..=10).contains(&kept), "{kept} messages of 1 KB in 10 KB");
        assert_eq!(cluster.total(|stats| stats.dropped_group_queue_full), 30 - kept);
        is_back(&mut cluster, "member", "a", (30 - kept as u8..30).map(|n| [n; 1000]));
    }
}

fn will<'a>(payload: &'a [u8], qos: Qos, properties: &'a [Property<'a>]) -> Will<'a> {
    let topic = TopicName::new("will").expect("a topic");
    Will { topic, payload, qos, retain: false, properties: Properties::new(properties) }
}

/// Its own session ends with it, so nobody will ever come for it.
#[test]
fn a_will_to_the_session_that_ends_with_it_is_dropped_at_once() {
    for cores in [1, 2, 8] {
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let mut cluster = Cluster::new(cores);
            let will = Some(will(b"x", qos, &[]));
            let (client, _) = cluster.connect_with(0, Connect { will, ..connect(Version::V5, "c") });
            cluster.subscribe(client, "will", qos);
            cluster.cut(client);
            let total = |counter: fn(&mqtt_broker::shard::Stats) -> u64| cluster.total(counter);
            assert_eq!((total(|stats| stats.messages_matched), total(|stats| stats.dropped_offline)), (1, 1));
            assert_eq!(total(|stats| stats.sessions + stats.messages_kept + stats.queue_bytes), 0);
        }
    }
}

#[test]
fn a_will_has_to_be_text_only_where_it_says_so_and_that_is_checked() {
    for checked in [true, false] {
        for (indicator, payload, right) in [
            (None, &b"\xFF"[..], true),
            (Some(0), b"\xFF", true),
            (Some(1), "ä".as_bytes(), true),
            (Some(1), b"\xFF", false),
        ] {
            let mut cluster =
                Cluster::with_limits(1, limits(|limits| limits.payload_format_checked = checked));
            let list: Vec<_> = indicator.map(Property::PayloadFormatIndicator).into_iter().collect();
            let will = Some(will(payload, Qos::ExactlyOnce, &list));
            let reason = cluster.connect_reason(0, Connect { will, ..connect(Version::V5, "c") });
            let expected =
                if right || !checked { ReasonCode::SUCCESS } else { ReasonCode::PAYLOAD_FORMAT_INVALID };
            assert_eq!(reason, expected, "{indicator:?} {payload:?}");
        }
    }
}

/// A store that commits when it is told to.
struct Late(Rc<Cell<u64>>);

impl Store for Late {
    fn append(&mut self, record: &Record<'_>) -> Commit {
        if let Record::Time { .. } = record {
            return Commit::Now;
        }
        self.0.set(self.0.get() + 1);
        Commit::At(self.0.get())
    }
}

#[test]
fn a_client_that_is_owed_many_answers_is_read_from_again_when_half_of_them_are_given() {
    let recorded = Rc::new(Cell::new(0));
    let ports = recorded.clone();
    let mut cluster = Cluster::with(1, limits(|limits| limits.pending_answers_max = 8), move |_| Ports {
        store: Box::new(Late(ports.clone())),
        ..Ports::allow_all()
    });
    let client = cluster.open(0, Version::V3_1_1);
    let kept = Connect { clean_start: false, ..connect(Version::V3_1_1, "c") };
    cluster.send(client, &Packet::Connect(kept));
    let commit = |cluster: &mut Cluster, position| {
        let now = cluster.now;
        cluster.shards[0].store_committed(position, now);
        cluster.run();
    };
    commit(&mut cluster, 1);
    cluster.take_frame(client);
    subscribe_to_many(&mut cluster, client, 1..=30);
    // The record of CONNECT is the first, then one for each SUBSCRIBE that was taken.
    for (answered, taken) in [(0, 8), (1, 8), (3, 8), (4, 12), (7, 12), (8, 16), (30, 30)] {
        for position in 0..=answered {
            commit(&mut cluster, 1 + position);
        }
        assert_eq!(cluster.total(|stats| stats.subscriptions), taken, "{answered} answered");
        assert_eq!(cluster.is_paused(client), taken < 30);
    }
    assert_eq!((cluster.pending(client), recorded.get()), (30, 31));
}
