//! A store that writes more slowly than Clients publish: whoever adds to it waits, and nobody else.

use mqtt_broker::config::Limits;
use mqtt_broker::shard::Action;
use mqtt_proto::packet::{Connect, Packet, Properties, Publish, Will};
use mqtt_proto::types::{Qos, ReasonCode, TopicName, Version};

use crate::cluster::{connect, limits, publish};
use crate::disk::Disk;
use crate::handing_on::{goes_away, keeps, name_on};

const BYTES_MAX: usize = 100_000;

fn little() -> Limits {
    limits(|limits| {
        limits.store_waiting_bytes_max = BYTES_MAX as u32;
        limits.lane_bytes_max = 65_536;
    })
}

#[test]
fn who_publishes_retained_messages_waits_for_the_store() {
    // At home on either core.
    for topic in ["a", "b", "c", "d"] {
        let (mut cluster, disk) = Disk::new(2, little());
        let listener = cluster.connect(1, Version::V5, "listener");
        cluster.subscribe(listener, "live", Qos::AtMostOnce);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        let other = cluster.connect(0, Version::V5, "other");
        disk.set_late(true);
        let mut payload = vec![7; 10_000];
        for number in 0..100 {
            payload[0] = number;
            let message = Publish { retain: true, ..publish(topic, &payload, Qos::AtMostOnce, 0) };
            cluster.send(publisher, &Packet::Publish(message));
        }
        assert!(cluster.is_paused(publisher));
        let waits = disk.waiting_bytes();
        assert!((BYTES_MAX..2 * BYTES_MAX).contains(&waits), "{waits} bytes wait");
        // What the store is not told of goes by, unless it needs a lane that is full.
        cluster.publish(other, "live", b"x");
        if !cluster.is_paused(other) {
            cluster.expect_message(listener, "live", b"x");
        }
        for _ in 0..50 {
            disk.commit(&mut cluster);
            assert!(disk.waiting_bytes() < 2 * BYTES_MAX);
        }
        assert!(!cluster.is_paused(publisher) && !cluster.is_paused(other));
        let late = cluster.connect(0, Version::V5, "late");
        cluster.subscribe(late, topic, Qos::AtMostOnce);
        assert_eq!(cluster.take(late).1[0], 99);
    }
}

#[test]
fn who_publishes_for_sessions_that_are_kept_waits_for_the_store() {
    for (core, qos) in
        [0, 1].into_iter().flat_map(|core| [(core, Qos::AtLeastOnce), (core, Qos::ExactlyOnce)])
    {
        let (mut cluster, disk) = Disk::new(2, little());
        let name = name_on(&mut cluster, core, "away");
        goes_away(&mut cluster, &name, "a");
        let publisher = name_on(&mut cluster, 0, "publisher");
        let publisher = cluster.connect(0, Version::V5, &publisher);
        disk.set_late(true);
        let payload = vec![7; 10_000];
        for id in 1..=100 {
            cluster.send(publisher, &Packet::Publish(publish("a", &payload, qos, id)));
        }
        assert!(cluster.is_paused(publisher));
        let waits = disk.waiting_bytes();
        assert!((BYTES_MAX..2 * BYTES_MAX).contains(&waits), "{waits} bytes wait");
        (0..50).for_each(|_| disk.commit(&mut cluster));
        assert!(!cluster.is_paused(publisher));
    }
}

/// What waits behind the answers is looked at again once for the commit, not once for each of them.
#[test]
fn a_publisher_that_is_owed_many_answers_is_taken_up_once_a_commit() {
    for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
        let (mut cluster, disk) = Disk::new(1, little());
        goes_away(&mut cluster, "away", "a");
        let publisher = cluster.resume(0, Version::V3_1_1, "publisher").0;
        let other = keeps(&mut cluster, "other");
        disk.set_late(true);
        for id in 1..=500 {
            cluster.send(publisher, &Packet::Publish(publish("a", &[7; 10], qos, id)));
        }
        assert!(!cluster.is_paused(publisher));
        let payload = vec![7; 2 * BYTES_MAX];
        cluster.send(other, &Packet::Publish(publish("a", &payload, Qos::AtLeastOnce, 1)));
        cluster.send(publisher, &Packet::Publish(publish("a", b"held", qos, 501)));
        assert!(cluster.is_paused(publisher));
        disk.commit_quietly(&mut cluster, 0);
        let mut pauses = 0;
        while let Some(action) = cluster.shards[0].poll_action() {
            pauses += usize::from(matches!(action, Action::PauseRead { .. }));
            cluster.act(0, action);
        }
        cluster.run();
        assert!(pauses <= 2, "{qos:?}: held again {pauses} times");
        assert!(!cluster.is_paused(publisher));
    }
}

/// Clients that come and go would add to it without being read.
#[test]
fn who_connects_with_a_will_is_refused_while_the_store_is_behind() {
    for (version, busy) in
        [(Version::V5, ReasonCode::SERVER_BUSY), (Version::V3_1_1, ReasonCode::SERVER_UNAVAILABLE)]
    {
        for core in [0, 1] {
            let (mut cluster, disk) = Disk::new(2, little());
            let name = name_on(&mut cluster, core, "with will");
            let payload = vec![7; 10_000];
            let topic = TopicName::new("will").expect("a topic");
            let properties = Properties::EMPTY;
            let will = Will { qos: Qos::AtLeastOnce, retain: false, topic, payload: &payload, properties };
            let with_will = Connect { will: Some(will), ..connect(version, &name) };
            disk.set_late(true);
            // Each takes the place of the one before.
            for _ in 0..100 {
                let client = cluster.open(0, version);
                cluster.send(client, &Packet::Connect(with_will));
            }
            let waits = disk.waiting_bytes();
            assert!((BYTES_MAX..2 * BYTES_MAX).contains(&waits), "{waits} bytes wait");
            assert_eq!(cluster.connect_reason(0, with_will), busy);
            disk.set_late(false);
            disk.commit(&mut cluster);
            cluster.connect_with(0, with_will);
        }
    }
}

#[test]
fn where_the_store_is_full_nobody_waits_for_it() {
    let (mut cluster, disk) = Disk::new(1, little());
    let publisher = cluster.connect(0, Version::V5, "publisher");
    disk.set_late(true);
    disk.set_full(true);
    cluster.look_at_stores();
    let payload = vec![7; 10_000];
    for _ in 0..100 {
        let message = Publish { retain: true, ..publish("a", &payload, Qos::AtMostOnce, 0) };
        cluster.send(publisher, &Packet::Publish(message));
    }
    assert!(!cluster.is_paused(publisher));
    assert_eq!(cluster.total(|stats| stats.dropped_retained_full), 100);
}
