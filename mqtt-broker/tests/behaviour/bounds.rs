//! Bounds of the whole broker: what happens at them, and that nothing else does.

use mqtt_broker::config::Overflow;
use mqtt_proto::packet::{Packet, Properties, SubscriptionOptions};
use mqtt_proto::types::{Qos, ReasonCode, Version};

use crate::away::{gets, goes_away, is_back};
use crate::cluster::{Cluster, connect, limits};

#[test]
fn a_full_memory_drops_one_message_for_one() {
    for cores in [1, 2] {
        let mut cluster = Cluster::with_limits(cores, limits(|limits| limits.memory_bytes_max = 100_000));
        goes_away(&mut cluster, "subscriber", "a");
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
    let mut cluster = Cluster::with_limits(1, limits(|limits| limits.memory_bytes_max = 20_000));
    for n in 0..100 {
        goes_away(&mut cluster, &format!("subscriber-{n}"), "a");
    }
    let publisher = cluster.connect(0, Version::V5, "publisher");
    cluster.publish_1(publisher, "a", &[0; 1000]);
    assert!(cluster.total(|stats| stats.queue_bytes) <= 20_000);
    assert_eq!(cluster.total(|stats| stats.messages_kept + stats.dropped_queue_full), 100);
}

#[test]
fn at_sessions_max_a_clean_start_may_replace_its_own_session() {
    for cores in [1, 2] {
        let mut cluster = Cluster::with_limits(cores, limits(|limits| limits.sessions_max = 3));
        for n in 0..3 {
            cluster.connect(0, Version::V5, &format!("client-{n}"));
        }
        let refused = cluster.connect_reason(0, connect(Version::V5, "fourth"));
        assert_eq!(refused, ReasonCode::QUOTA_EXCEEDED);
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
        let mut cluster = Cluster::with_limits(cores, limits(|limits| limits.output_bytes_max = 10_000));
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
        gets(&mut cluster, subscriber, "a/1", (0..100u8).map(|n| [n]));
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
        let bound = limits(|limits| limits.subscriptions_per_session_max = 4);
        let mut cluster = Cluster::with_limits(cores, bound);
        let (client, _) = cluster.resume(0, Version::V5, "client");
        for filter in ["a", "b/#", "$share/g/a", "$share/h/a"] {
            cluster.subscribe(client, filter, Qos::AtLeastOnce);
        }
        let is_refused = |cluster: &mut Cluster, client, filter| {
            let options = SubscriptionOptions::new(Qos::AtLeastOnce);
            let reason = cluster.subscribe_with(client, filter, options, Properties::EMPTY);
            reason == ReasonCode::QUOTA_EXCEEDED
        };
        assert!(is_refused(&mut cluster, client, "c"));
        assert!(is_refused(&mut cluster, client, "$share/i/a"));
        cluster.subscribe(client, "b/#", Qos::ExactlyOnce);
        cluster.subscribe(client, "$share/h/a", Qos::ExactlyOnce);
        // They belong to the session, not to its connection.
        cluster.cut(client);
        let (client, present) = cluster.resume(0, Version::V5, "client");
        assert!(present);
        assert!(is_refused(&mut cluster, client, "c"));
        assert_eq!(cluster.unsubscribe(client, "$share/g/a"), ReasonCode::SUCCESS);
        cluster.subscribe(client, "c", Qos::AtLeastOnce);
        assert_eq!(cluster.total(|stats| stats.subscriptions + stats.shared_subscriptions), 4);
    }
}

#[test]
fn a_full_queue_drops_the_oldest_or_the_newest() {
    for cores in [1, 2, 8] {
        for (overflow, kept) in [(Overflow::DropOldest, 7..10u8), (Overflow::DropNewest, 0..3)] {
            let bound = limits(|limits| {
                limits.queue_messages_max = 3;
                limits.queue_overflow = overflow;
            });
            let mut cluster = Cluster::with_limits(cores, bound);
            goes_away(&mut cluster, "subscriber", "a");
            let publisher = cluster.connect(0, Version::V5, "publisher");
            for n in 0..10u8 {
                assert_eq!(cluster.publish_1(publisher, "a", &[n]), ReasonCode::SUCCESS);
            }
            assert_eq!(cluster.total(|stats| stats.dropped_queue_full), 7);
            is_back(&mut cluster, "subscriber", "a", kept.map(|n| [n]));
        }
    }
}
