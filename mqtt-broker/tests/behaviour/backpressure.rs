//! Full lanes and full queues: who waits, who does not, and that everything goes on afterwards.

use mqtt_broker::config::Limits;
use mqtt_proto::packet::{Ack, Packet};
use mqtt_proto::types::{Qos, ReasonCode, Version};

use crate::cluster::{ClientId, Cluster, limits, publish};

const LANE: u32 = 65_536;

/// Two cores with small lanes.
fn narrow(change: impl FnOnce(&mut Limits)) -> Cluster {
    let mut limits = limits(|limits| limits.lane_bytes_max = LANE);
    change(&mut limits);
    Cluster::with_limits(2, limits)
}

/// A Client whose session is at home on `core`.
fn at(cluster: &mut Cluster, core: usize, name: &str) -> ClientId {
    for n in 0..64 {
        let client = cluster.connect(0, Version::V5, &format!("{name}-{n}"));
        if cluster.core_of(client) == core {
            return client;
        }
        cluster.cut(client);
    }
    panic!("no ClientID is at home on core {core}");
}

fn publish_0(cluster: &mut Cluster, client: ClientId, topic: &str, bytes: usize) {
    cluster.send(client, &Packet::Publish(publish(topic, &vec![0; bytes], Qos::AtMostOnce, 0)));
}

#[test]
fn a_full_lane_pauses_publishers_that_need_it_and_nobody_else() {
    let mut cluster = narrow(|_| ());
    let there = at(&mut cluster, 1, "there");
    let here = at(&mut cluster, 0, "here");
    cluster.subscribe(there, "there", Qos::AtMostOnce);
    cluster.subscribe(here, "here", Qos::AtMostOnce);
    let (publisher, other) = (at(&mut cluster, 0, "publisher"), at(&mut cluster, 0, "other"));
    cluster.lanes_stalled = true;
    for _ in 0..3 {
        publish_0(&mut cluster, publisher, "there", 30_000);
    }
    assert!(!cluster.is_paused(publisher), "a full lane stops only who adds to it");
    publish_0(&mut cluster, publisher, "there", 30_000);
    assert!(cluster.is_paused(publisher));
    // What waits behind it keeps its order.
    publish_0(&mut cluster, publisher, "here", 1);
    cluster.expect_nothing(here);
    publish_0(&mut cluster, other, "here", 2);
    assert!(!cluster.is_paused(other));
    cluster.expect_message(here, "here", &[0; 2]);
    // The subscriber is served whatever the lane out of its core holds.
    cluster.send(there, &Packet::PingReq);
    cluster.expect(there, |packet| assert!(matches!(packet, Packet::PingResp), "{packet:?}"));
    cluster.lanes_stalled = false;
    cluster.run();
    assert!(!cluster.is_paused(publisher));
    for _ in 0..4 {
        cluster.expect_message(there, "there", &[0; 30_000]);
    }
    cluster.expect_message(here, "here", &[0; 1]);
    cluster.expect_nothing(there);
}

#[test]
fn a_waiting_packet_does_not_count_for_what_may_wait_behind_it() {
    let mut cluster = narrow(|limits| limits.held_input_bytes_max = 65_536);
    let there = at(&mut cluster, 1, "there");
    cluster.subscribe(there, "there", Qos::AtMostOnce);
    let publisher = at(&mut cluster, 0, "publisher");
    cluster.lanes_stalled = true;
    publish_0(&mut cluster, publisher, "there", 100_000);
    publish_0(&mut cluster, publisher, "there", 200_000);
    assert!(cluster.is_paused(publisher));
    publish_0(&mut cluster, publisher, "there", 60_000);
    assert!(!cluster.is_closed(publisher), "60 KB wait behind a packet");
    publish_0(&mut cluster, publisher, "there", 6_000);
    cluster.expect_disconnect(publisher, ReasonCode::QUOTA_EXCEEDED);
}

#[test]
fn two_clients_that_feed_each_other_never_stop() {
    let mut cluster = narrow(|limits| {
        limits.output_bytes_max = 2048;
        limits.queue_messages_max = 10;
    });
    let clients = [at(&mut cluster, 0, "left"), at(&mut cluster, 1, "right")];
    // Each gets what the other publishes, and what a third one does, so that both queues and both lanes fill.
    for (client, filter) in clients.into_iter().zip(["right", "left"]) {
        cluster.subscribe(client, filter, Qos::AtLeastOnce);
        cluster.set_reading(client, false);
    }
    cluster.lanes_stalled = true;
    let mut id = 0;
    let mut sent = 0;
    for _ in 0..60 {
        for (client, topic) in clients.into_iter().zip(["left", "right"]) {
            if !cluster.is_paused(client) {
                id += 1;
                sent += 1;
                let message = publish(topic, &[0; 3000], Qos::AtLeastOnce, id);
                cluster.send(client, &Packet::Publish(message));
            }
        }
    }
    assert!(clients.iter().all(|&client| cluster.is_paused(client)), "both lanes are full");
    cluster.lanes_stalled = false;
    cluster.run();
    assert!(
        clients.iter().all(|&client| !cluster.is_paused(client)),
        "neither reads, and both are read from"
    );
    // With both queues full, publishing goes on: what is too much is dropped and counted.
    for _ in 0..50 {
        for (client, topic) in clients.into_iter().zip(["left", "right"]) {
            id += 1;
            sent += 1;
            let message = publish(topic, &[0; 3000], Qos::AtLeastOnce, id);
            cluster.send(client, &Packet::Publish(message));
            assert!(!cluster.is_paused(client));
        }
    }
    assert!(cluster.total(|stats| stats.dropped_queue_full) > 50);
    for client in clients {
        cluster.set_reading(client, true);
    }
    let acknowledged = |cluster: &mut Cluster, client| {
        let mut count = 0;
        while cluster.pending(client) > 0 {
            let id = cluster.expect(client, |packet| match packet {
                Packet::PubAck(_) => Err(()),
                Packet::Publish(publish) => Ok(publish.packet_id.expect("QoS 1")),
                other => panic!("{other:?}"),
            });
            match id {
                Ok(id) => cluster.send(client, &Packet::PubAck(Ack::new(id, ReasonCode::SUCCESS))),
                Err(()) => count += 1,
            }
        }
        count
    };
    let answered: u64 = clients.into_iter().map(|client| acknowledged(&mut cluster, client)).sum();
    assert_eq!(answered, sent, "each PUBLISH is acknowledged");
    let total = |counter: fn(&mqtt_broker::shard::Stats) -> u64| cluster.total(counter);
    assert_eq!(total(|stats| stats.messages_kept), 0);
    assert_eq!(
        total(|stats| stats.messages_matched),
        total(|stats| stats.messages_delivered) + total(|stats| stats.dropped_queue_full)
    );
}
