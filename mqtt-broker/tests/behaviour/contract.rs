//! What the caller of a shard can rely on beside the packets: buffers, deadlines, and bounds that hold within a call.

use std::collections::BTreeSet;

use mqtt_broker::shard::{Action, ConnectionId, ConnectionInfo};
use mqtt_proto::packet::{Connect, Packet, Properties, Property, Publish, SubscriptionOptions};
use mqtt_proto::types::{Qos, Version};

use crate::cluster::{Cluster, connect, limits, publish};

/// Connects `count` Clients to core 0; the buffers of their CONNACKs, which are not given back.
fn connack_buffers(cluster: &mut Cluster, count: usize) -> Vec<Vec<u8>> {
    let now = cluster.now;
    let probe = cluster.open(0, Version::V3_1_1);
    let mut buffers = Vec::new();
    for n in 0..count {
        let bytes = cluster.encoded(probe, &Packet::Connect(connect(Version::V3_1_1, &format!("c{n}"))));
        let shard = &mut cluster.shards[0];
        let id = shard.connection_opened(ConnectionInfo::default(), now).expect("there is room");
        shard.handle_input(id, &bytes, now);
        while let Some(action) = shard.poll_action() {
            if let Action::Transmit { buffer, .. } = action {
                assert_eq!(buffer, [0x20, 2, 0, 0]);
                buffers.push(buffer);
            }
        }
    }
    buffers
}

#[test]
fn buffers_that_come_back_are_used_again_but_not_too_many_and_none_too_large() {
    let mut cluster = Cluster::new(1);
    let now = cluster.now;
    // To whom a buffer was sent does not matter, nor whether it is still there.
    let gone = ConnectionId { index: 7, generation: 0 };
    let largest: Vec<u8> = Vec::with_capacity(64 * 1024);
    let given = [largest.as_ptr()];
    cluster.shards[0].transmit_done(gone, largest, now);
    cluster.shards[0].transmit_done(gone, Vec::with_capacity(64 * 1024 + 1), now);
    let used = connack_buffers(&mut cluster, 2);
    assert_eq!(used[0].as_ptr(), given[0]);
    assert!(used[1].capacity() < 64 * 1024);

    let mut cluster = Cluster::new(1);
    let buffers: Vec<Vec<u8>> = (0..300).map(|_| Vec::with_capacity(64)).collect();
    let given: BTreeSet<*const u8> = buffers.iter().map(Vec::as_ptr).collect();
    // Those that are dropped must not be had again from the allocator under the same address.
    let _taken: Vec<Vec<u8>> = {
        buffers.into_iter().for_each(|buffer| cluster.shards[0].transmit_done(gone, buffer, now));
        (0..300).map(|_| Vec::with_capacity(64)).collect()
    };
    let used = connack_buffers(&mut cluster, 300);
    let again = used.iter().filter(|buffer| given.contains(&buffer.as_ptr())).count();
    assert_eq!(again, 256);
}

#[test]
fn a_deadline_far_ahead_is_kept_to_the_millisecond_without_waking_its_core_all_the_time() {
    let mut cluster = Cluster::new(1);
    let start = cluster.now.millis;
    let (client, _) = cluster.connect_with(0, Connect { keep_alive: u16::MAX, ..connect(Version::V5, "c") });
    let mut wakes = 0;
    while !cluster.is_closed(client) {
        cluster.now.millis = cluster.shards[0].poll_timeout().expect("it is not closed yet");
        let now = cluster.now;
        cluster.shards[0].handle_timeout(now);
        cluster.run();
        wakes += 1;
        assert!(wakes < 5_000, "{wakes} times within {} s", (cluster.now.millis - start) / 1000);
    }
    assert_eq!(cluster.now.millis - start, u64::from(u16::MAX) * 1500);
}

#[test]
fn a_connection_that_is_gone_leaves_no_timer_for_longer_than_two_minutes() {
    let mut cluster = Cluster::new(1);
    let (client, _) = cluster.connect_with(0, Connect { keep_alive: u16::MAX, ..connect(Version::V5, "c") });
    // Past the connect timeout, whose timer serves for the beginning.
    cluster.advance(300_000);
    assert!(cluster.shards[0].poll_timeout().is_some() && !cluster.is_closed(client));
    cluster.cut(client);
    cluster.advance(120_000);
    assert_eq!(cluster.shards[0].poll_timeout(), None);
}

/// A core that was held up, or a machine that slept, finds everything due at once.
#[test]
fn a_call_that_comes_late_does_all_that_is_due_in_the_order_of_its_deadlines() {
    let mut cluster = Cluster::new(1);
    let watcher = cluster.connect(0, Version::V5, "watcher");
    cluster.subscribe(watcher, "will/+", Qos::AtMostOnce);
    // Will delay, session expiry: the earlier of the two publishes the Will.
    for (name, delay, expiry) in [("d", 4, 9), ("a", 9, 1), ("c", 3, 9), ("b", 2, 2), ("e", 9, 5)] {
        let topic = format!("will/{name}");
        let (will, list) = ([Property::WillDelayInterval(delay)], [Property::SessionExpiryInterval(expiry)]);
        let will = mqtt_proto::packet::Will {
            topic: mqtt_proto::types::TopicName::new(&topic).expect("a topic"),
            payload: b"gone",
            qos: Qos::AtMostOnce,
            retain: false,
            properties: Properties::new(&will),
        };
        let properties = Properties::new(&list);
        let (client, _) =
            cluster.connect_with(0, Connect { properties, will: Some(will), ..connect(Version::V5, name) });
        cluster.cut(client);
    }
    let (stays, _) = cluster.resume(0, Version::V5, "stays");
    cluster.cut(stays);
    cluster.now.millis += 10_000;
    let now = cluster.now;
    cluster.shards[0].handle_timeout(now);
    cluster.run();
    for name in ["a", "b", "c", "d", "e"] {
        cluster.expect_message(watcher, &format!("will/{name}"), b"gone");
    }
    cluster.expect_nothing(watcher);
    assert_eq!(cluster.total(|stats| stats.sessions), 2, "the watcher's and one that stays for an hour");
}

#[test]
fn the_bounds_of_retained_messages_hold_within_one_call() {
    let flood = |cluster: &mut Cluster, count: usize| {
        let publisher = cluster.connect(0, Version::V5, "publisher");
        let mut bytes = Vec::new();
        for n in 0..count {
            let topic = format!("t/{n}");
            let message = publish(&topic, &[0; 1000], Qos::AtMostOnce, 0);
            bytes.extend(cluster.encoded(publisher, &Packet::Publish(Publish { retain: true, ..message })));
        }
        cluster.send_bytes(publisher, &bytes);
        (cluster.total(|stats| stats.retained_messages), cluster.total(|stats| stats.dropped_retained_full))
    };
    let mut few = Cluster::with_limits(1, limits(|limits| limits.retained_messages_max = 3));
    assert_eq!(flood(&mut few, 5), (3, 2));
    let mut small = Cluster::with_limits(1, limits(|limits| limits.retained_bytes_max = 5_000));
    assert_eq!(flood(&mut small, 7), (4, 3), "1000 bytes and what a message costs beside, four times");
    let mut memory = Cluster::with_limits(1, limits(|limits| limits.memory_bytes_max = 5_000));
    assert_eq!(flood(&mut memory, 7), (4, 3));
}

/// What a 5.0 Client is told where nothing was configured: no more than differs from what it would take for granted.
#[test]
fn a_connack_tells_what_is_not_the_default_of_the_standard() {
    let told = |limits| {
        let mut cluster = Cluster::with_limits(1, limits);
        let client = cluster.open(0, Version::V5);
        cluster.send(client, &Packet::Connect(connect(Version::V5, "c")));
        cluster.expect(client, |packet| {
            let Packet::ConnAck(connack) = packet else { panic!("{packet:?}") };
            connack.properties.iter().map(|property| format!("{property:?}")).collect::<Vec<String>>()
        })
    };
    let all = limits(|limits| {
        limits.receive_maximum = u16::MAX;
        limits.packet_bytes_max = 4321;
        limits.topic_alias_maximum = 0;
    });
    assert_eq!(told(all), ["MaximumPacketSize(4321)"]);
    let less = limits(|limits| {
        limits.receive_maximum = u16::MAX - 1;
        limits.packet_bytes_max = 4321;
        limits.topic_alias_maximum = 1;
    });
    assert_eq!(told(less), ["ReceiveMaximum(65534)", "MaximumPacketSize(4321)", "TopicAliasMaximum(1)"]);
}

/// Publishes `payload` at QoS 1 to Clients with `filters`; how many bytes are copied for them, once all
/// have seen it.
fn bytes_copied(payload: &[u8], subscribers: &[(Version, Qos, Option<u32>)]) -> usize {
    let mut cluster = Cluster::new(1);
    let publisher = cluster.connect(0, Version::V3_1_1, "p");
    let mut clients = Vec::new();
    for (number, &(version, qos, identifier)) in subscribers.iter().enumerate() {
        let client = cluster.connect(0, version, &format!("s{number}"));
        let properties: Vec<_> = identifier.into_iter().map(Property::SubscriptionIdentifier).collect();
        let options = SubscriptionOptions::new(qos);
        cluster.subscribe_with(client, "t", options, Properties::new(&properties));
        clients.push(client);
    }
    clients.iter().for_each(|&client| cluster.set_reading(client, false));
    let bytes = cluster.encoded(publisher, &Packet::Publish(publish("t", payload, Qos::AtLeastOnce, 7)));
    let now = cluster.now;
    let (_, id) = cluster.place(publisher);
    cluster.shards[0].handle_input(id, &bytes, now);
    let mut copied = 0;
    let mut actions = Vec::new();
    while let Some(action) = cluster.shards[0].poll_action() {
        match &action {
            Action::Transmit { buffer, .. } => copied += buffer.len(),
            Action::TransmitShared { pieces, .. } => {
                assert!(pieces.iter().any(|piece| piece == payload));
                copied += pieces.len() - payload.len();
            }
            _ => {}
        }
        actions.push(action);
    }
    actions.into_iter().for_each(|action| cluster.act(0, action));
    for client in clients {
        cluster.set_reading(client, true);
        cluster.expect_message(client, "t", payload);
    }
    copied
}

#[test]
fn a_large_payload_is_shared_by_all_who_get_it_in_the_same_form() {
    let large = vec![7; 10_000];
    let alike = [(Version::V3_1_1, Qos::AtLeastOnce, None); 3];
    // Three heads and the PUBACK.
    assert_eq!(bytes_copied(&large, &alike), 3 * 8 + 4);
    // Other QoS, other versions: heads of their own, the payload is the same.
    let mixed = [
        (Version::V3_1_1, Qos::AtMostOnce, None),
        (Version::V5, Qos::AtLeastOnce, None),
        (Version::V3_1, Qos::ExactlyOnce, None),
        (Version::V5, Qos::AtMostOnce, None),
    ];
    assert!((30..200).contains(&bytes_copied(&large, &mixed)));
    // A Subscription Identifier makes a packet of its own.
    let identified = [(Version::V5, Qos::AtLeastOnce, Some(9)), (Version::V5, Qos::AtLeastOnce, None)];
    assert!((10_000..10_200).contains(&bytes_copied(&large, &identified)));
    // A small one is not worth it.
    assert!((3_000..3_200).contains(&bytes_copied(&large[..1_000], &alike)));
    // One that is sent once, to one, would be copied for nothing.
    assert!((10_000..10_200).contains(&bytes_copied(&large, &mixed[..1])));
}
