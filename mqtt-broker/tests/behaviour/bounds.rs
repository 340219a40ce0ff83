//! Bounds of the whole broker: what happens at them, and that nothing else does.

use mqtt_broker::config::{Limits, Overflow};
use mqtt_proto::packet::{Packet, Properties, SubscriptionOptions};
use mqtt_proto::types::{Qos, ReasonCode, Version};

use crate::cluster::{Cluster, connect, limits};

#[test]
fn a_full_memory_drops_one_message_for_one() {
    for cores in [1, 2] {
        let mut limits = Limits::default();
        limits.memory_bytes_max = 100_000;
        let mut cluster = Cluster::with_limits(cores, limits);
        let (subscriber, _) = cluster.resume(0, Version::V5, "subscriber");
        cluster.subscribe(subscriber, "a", Qos::AtLeastOnce);
        cluster.cut(subscriber);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        for _ in 0..200 {
            cluster.publish_1(publisher, "a", &[0; 1000]);
        }
        let kept = cluster.total(|stats| stats.messages_kept);
        assert!((80..100).contains(&kept), "{kept} messages of 1 KB in 100 KB");
        assert_eq!(cluster.total(|stats| stats.dropped_queue_full), 200 - kept);
        assert!(cluster.total(|stats| stats.queue_bytes) <= 100_000);
    }
}

#[test]
fn one_message_for_many_sessions_stays_within_the_memory() {
    let mut limits = Limits::default();
    limits.memory_bytes_max = 20_000;
    let mut cluster = Cluster::with_limits(1, limits);
    for n in 0..100 {
        let (subscriber, _) = cluster.resume(0, Version::V5, &format!("subscriber-{n}"));
        cluster.subscribe(subscriber, "a", Qos::AtLeastOnce);
        cluster.cut(subscriber);
    }
    let publisher = cluster.connect(0, Version::V5, "publisher");
    cluster.publish_1(publisher, "a", &[0; 1000]);
    assert!(cluster.total(|stats| stats.queue_bytes) <= 20_000);
    assert_eq!(cluster.total(|stats| stats.messages_kept + stats.dropped_queue_full), 100);
}

#[test]
fn at_sessions_max_a_clean_start_may_replace_its_own_session() {
    for cores in [1, 2] {
        let mut limits = Limits::default();
        limits.sessions_max = 3;
        let mut cluster = Cluster::with_limits(cores, limits);
        for n in 0..3 {
            cluster.connect(0, Version::V5, &format!("client-{n}"));
        }
        let fourth = cluster.open(0, Version::V5);
        cluster.send(fourth, &Packet::Connect(connect(Version::V5, "fourth")));
        cluster.expect(fourth, |packet| {
            let Packet::ConnAck(connack) = packet else { panic!("{packet:?}") };
            assert_eq!(connack.reason, ReasonCode::QUOTA_EXCEEDED);
        });
        cluster.connect(0, Version::V5, "client-1");
        assert_eq!(cluster.total(|stats| stats.sessions), 3);
    }
}

#[test]
fn a_connection_counts_as_accepted_once_whatever_its_home() {
    let mut cluster = Cluster::new(8);
    for n in 0..32 {
        cluster.connect(0, Version::V5, &format!("client-{n}"));
    }
    assert_eq!(cluster.total(|stats| stats.connections_opened), 32);
    assert_eq!(cluster.total(|stats| stats.connections), 32);
}

#[test]
fn a_client_that_never_reads_loses_qos_0_and_keeps_qos_1() {
    for cores in [1, 2] {
        let mut limits = Limits::default();
        limits.output_bytes_max = 10_000;
        let mut cluster = Cluster::with_limits(cores, limits);
        let subscriber = cluster.connect(0, Version::V5, "subscriber");
        cluster.subscribe(subscriber, "a/+", Qos::AtLeastOnce);
        cluster.set_reading(subscriber, false);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        for _ in 0..100 {
            cluster.publish(publisher, "a/0", &[0; 1000]);
        }
        let lost = cluster.total(|stats| stats.dropped_slow_consumer);
        assert!((80..=90).contains(&lost), "{lost} of 100 KB behind 10 KB of output");
        for n in 0..100u8 {
            cluster.publish_1(publisher, "a/1", &[n]);
        }
        cluster.set_reading(subscriber, true);
        for _ in lost..100 {
            cluster.expect_message(subscriber, "a/0", &[0; 1000]);
        }
        for n in 0..100u8 {
            cluster.expect_message(subscriber, "a/1", &[n]);
        }
        cluster.expect_nothing(subscriber);
    }
}

#[test]
fn connections_max_counts_the_connections_of_all_cores() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::with_limits(cores, limits(|limits| limits.connections_max = 10));
        let mut clients = Vec::new();
        for n in 0..10 {
            let client = cluster.open(n % usize::from(cores), Version::V5);
            cluster.send(client, &Packet::Connect(connect(Version::V5, &format!("client-{n}"))));
            assert!(!cluster.is_closed(client));
            clients.push(client);
        }
        for core in 0..usize::from(cores) {
            let refused = cluster.open(core, Version::V5);
            assert!(cluster.is_closed(refused), "one more on core {core}");
        }
        cluster.cut(clients[3]);
        for core in 0..usize::from(cores) {
            let accepted = cluster.open(core, Version::V5);
            assert!(!cluster.is_closed(accepted), "room on core {core}");
            cluster.cut(accepted);
        }
    }
}

#[test]
fn subscriptions_per_session_max_counts_both_kinds_and_not_replacements() {
    for cores in [1, 2, 8] {
        let change = |limits: &mut Limits| limits.subscriptions_per_session_max = 4;
        let mut cluster = Cluster::with_limits(cores, limits(change));
        let (client, _) = cluster.resume(0, Version::V5, "client");
        for filter in ["a", "b/#", "$share/g/a", "$share/h/a"] {
            cluster.subscribe(client, filter, Qos::AtLeastOnce);
        }
        let refused = |cluster: &mut Cluster, client, filter| {
            let options = SubscriptionOptions::new(Qos::AtLeastOnce);
            cluster.subscribe_with(client, filter, options, Properties::EMPTY)
        };
        assert_eq!(refused(&mut cluster, client, "c"), ReasonCode::QUOTA_EXCEEDED);
        assert_eq!(refused(&mut cluster, client, "$share/i/a"), ReasonCode::QUOTA_EXCEEDED);
        cluster.subscribe(client, "b/#", Qos::ExactlyOnce);
        cluster.subscribe(client, "$share/h/a", Qos::ExactlyOnce);
        // They belong to the session, not to its connection.
        cluster.cut(client);
        let (client, present) = cluster.resume(0, Version::V5, "client");
        assert!(present);
        assert_eq!(refused(&mut cluster, client, "c"), ReasonCode::QUOTA_EXCEEDED);
        assert_eq!(cluster.unsubscribe(client, "$share/g/a"), ReasonCode::SUCCESS);
        cluster.subscribe(client, "c", Qos::AtLeastOnce);
        assert_eq!(cluster.total(|stats| stats.subscriptions + stats.shared_subscriptions), 4);
    }
}

#[test]
fn a_full_queue_drops_the_oldest_or_the_newest() {
    for cores in [1, 2, 8] {
        for (overflow, kept) in [(Overflow::DropOldest, 7..10u8), (Overflow::DropNewest, 0..3)] {
            let change = |limits: &mut Limits| {
                limits.queue_messages_max = 3;
                limits.queue_overflow = overflow;
            };
            let mut cluster = Cluster::with_limits(cores, limits(change));
            let (subscriber, _) = cluster.resume(0, Version::V5, "subscriber");
            cluster.subscribe(subscriber, "a", Qos::AtLeastOnce);
            cluster.cut(subscriber);
            let publisher = cluster.connect(0, Version::V5, "publisher");
            for n in 0..10u8 {
                assert_eq!(cluster.publish_1(publisher, "a", &[n]), ReasonCode::SUCCESS);
            }
            assert_eq!(cluster.total(|stats| stats.dropped_queue_full), 7);
            let (subscriber, _) = cluster.resume(0, Version::V5, "subscriber");
            for n in kept {
                cluster.expect_message(subscriber, "a", &[n]);
            }
            cluster.expect_nothing(subscriber);
        }
    }
}
