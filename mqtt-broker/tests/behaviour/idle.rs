//! Cores on which nothing happens, and the end of all.

use mqtt_proto::packet::{Connect, Packet, Properties, Property, Will};
use mqtt_proto::types::{Qos, ReasonCode, TopicName, Version};

use crate::cluster::{Cluster, connect};

#[test]
fn timers_fire_on_cores_on_which_nothing_happens() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let watcher = cluster.connect(0, Version::V5, "watcher");
        cluster.subscribe(watcher, "will/#", Qos::AtMostOnce);
        let will_delay = [Property::WillDelayInterval(5)];
        for n in 0..16 {
            let topic = format!("will/{n}");
            let expiry = [Property::SessionExpiryInterval(10)];
            let will = Will {
                topic: TopicName::new(&topic).expect("a topic"),
                payload: b"gone",
                qos: Qos::AtMostOnce,
                retain: false,
                properties: Properties::new(&will_delay),
            };
            let (properties, name) = (Properties::new(&expiry), format!("client-{n}"));
            let packet = Connect { properties, will: Some(will), ..connect(Version::V5, &name) };
            let (client, _) = cluster.connect_with(0, packet);
            cluster.cut(client);
        }
        cluster.advance(4_999);
        cluster.expect_nothing(watcher);
        cluster.advance(1);
        assert_eq!(cluster.pending(watcher), 16);
        cluster.advance(4_999);
        assert_eq!(cluster.total(|stats| stats.sessions), 17);
        cluster.advance(1);
        assert_eq!(cluster.total(|stats| stats.sessions), 1);
        // Nothing is left that would wake a core; the watcher has no Keep Alive.
        cluster.advance(600_000);
        assert!(cluster.shards.iter().all(|shard| shard.poll_timeout().is_none()));
    }
}

#[test]
fn a_shutdown_tells_everybody_and_publishes_no_will() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let (watcher, _) = cluster.resume(0, Version::V5, "watcher");
        cluster.subscribe(watcher, "will", Qos::AtLeastOnce);
        let old = cluster.connect(0, Version::V3_1_1, "old");
        let silent = cluster.open(0, Version::V5);
        let will = Will {
            topic: TopicName::new("will").expect("a topic"),
            payload: b"gone",
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: Properties::EMPTY,
        };
        let packet = Connect { will: Some(will), ..connect(Version::V5, "client") };
        let (client, _) = cluster.connect_with(0, packet);
        // A subscriber that does not read does not hold it up.
        cluster.set_reading(watcher, false);
        let now = cluster.now;
        cluster.shards.iter_mut().for_each(|shard| shard.shutdown(now));
        cluster.run();
        cluster.expect_disconnect(client, ReasonCode::SERVER_SHUTTING_DOWN);
        cluster.expect_disconnect(watcher, ReasonCode::SERVER_SHUTTING_DOWN);
        // Before 5.0 a Server sends no DISCONNECT, and never before CONNACK.
        for client in [old, silent] {
            cluster.expect_nothing(client);
            assert!(cluster.is_closed(client));
        }
        assert_eq!(cluster.total(|stats| stats.connections), 0);
        assert_eq!(cluster.total(|stats| stats.sessions), 1, "the watcher's, which would keep a Will");
        assert_eq!(cluster.total(|stats| stats.messages_matched), 0);
        let late = cluster.open(0, Version::V5);
        cluster.send(late, &Packet::PingReq);
        assert!(cluster.is_closed(late));
    }
}
