//! Retained messages: their expiry, their bounds, and new subscriptions that want many of them.

use mqtt_broker::config::Limits;
use mqtt_proto::packet::{Packet, Properties, Property, Publish};
use mqtt_proto::types::{Qos, Version};

use crate::cluster::{ClientId, Cluster, limits, publish};

/// Retains a message; `expiry` in seconds, 0 for none.
fn retain(cluster: &mut Cluster, publisher: ClientId, topic: &str, payload: &[u8], expiry: u32) {
    let list = [Property::MessageExpiryInterval(expiry)];
    let properties = if expiry == 0 { Properties::EMPTY } else { Properties::new(&list) };
    let message = publish(topic, payload, Qos::AtLeastOnce, 7);
    cluster.send(publisher, &Packet::Publish(Publish { retain: true, properties, ..message }));
    cluster.expect(publisher, |packet| assert!(matches!(packet, Packet::PubAck(_)), "{packet:?}"));
}

/// Messages and bytes retained.
fn kept(cluster: &Cluster) -> (u64, u64) {
    (cluster.total(|stats| stats.retained_messages), cluster.total(|stats| stats.retained_bytes))
}

#[test]
fn a_retained_message_that_expires_is_forgotten_though_nobody_asks_for_it() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        retain(&mut cluster, publisher, "stays", b"x", 0);
        let before = kept(&cluster);
        for n in 0..2000 {
            retain(&mut cluster, publisher, &format!("goes/{n}"), b"x", 10);
        }
        assert_eq!(kept(&cluster).0, 2001);
        cluster.advance(9_999);
        assert_eq!(kept(&cluster).0, 2001);
        cluster.advance(1);
        assert_eq!(kept(&cluster), before, "those that are due, and no other");
    }
}

#[test]
fn the_expiry_of_a_replaced_retained_message_does_not_touch_its_successor() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        retain(&mut cluster, publisher, "never", b"x", 10);
        retain(&mut cluster, publisher, "never", b"y", 0);
        retain(&mut cluster, publisher, "later", b"x", 10);
        retain(&mut cluster, publisher, "later", b"y", 20);
        retain(&mut cluster, publisher, "sooner", b"x", 20);
        retain(&mut cluster, publisher, "sooner", b"y", 10);
        retain(&mut cluster, publisher, "cleared", b"x", 10);
        retain(&mut cluster, publisher, "cleared", b"", 0);
        retain(&mut cluster, publisher, "cleared", b"z", 0);
        cluster.advance(10_000);
        let topics = |cluster: &mut Cluster, name: &str| {
            let subscriber = cluster.connect(0, Version::V5, name);
            cluster.subscribe(subscriber, "#", Qos::AtLeastOnce);
            let mut got: Vec<_> =
                (0..cluster.pending(subscriber)).map(|_| cluster.take(subscriber).0).collect();
            got.sort();
            got
        };
        assert_eq!(topics(&mut cluster, "first"), ["cleared", "later", "never"]);
        cluster.advance(10_000);
        assert_eq!(topics(&mut cluster, "second"), ["cleared", "never"]);
        assert_eq!(kept(&cluster).0, 2);
    }
}

#[test]
fn an_expired_retained_message_makes_room_for_another() {
    for cores in [1, 2] {
        let mut cluster =
            Cluster::with_limits(cores, limits(|limits: &mut Limits| limits.retained_messages_max = 1));
        let publisher = cluster.connect(0, Version::V5, "publisher");
        retain(&mut cluster, publisher, "first", b"x", 10);
        retain(&mut cluster, publisher, "second", b"x", 0);
        assert_eq!(cluster.total(|stats| stats.dropped_retained_full), 1);
        cluster.advance(10_000);
        retain(&mut cluster, publisher, "second", b"x", 0);
        assert_eq!(cluster.total(|stats| stats.dropped_retained_full), 1);
        assert_eq!(kept(&cluster).0, 1);
    }
}

#[test]
fn a_replacement_that_does_not_fit_leaves_nothing_stale_behind() {
    for cores in [1, 2, 8] {
        let bound = |limits: &mut Limits| limits.retained_bytes_max = 5_000;
        let mut cluster = Cluster::with_limits(cores, limits(bound));
        let publisher = cluster.connect(0, Version::V5, "publisher");
        retain(&mut cluster, publisher, "a", &[1; 2_000], 0);
        retain(&mut cluster, publisher, "b", &[1; 2_000], 0);
        // Not larger: fits whatever else there is.
        retain(&mut cluster, publisher, "a", &[2; 2_000], 0);
        assert_eq!(cluster.total(|stats| stats.dropped_retained_full), 0);
        retain(&mut cluster, publisher, "a", &[3; 3_500], 0);
        assert_eq!(cluster.total(|stats| stats.dropped_retained_full), 1);
        assert!(kept(&cluster).1 <= 5_000);
        let subscriber = cluster.connect(0, Version::V5, "subscriber");
        cluster.subscribe(subscriber, "+", Qos::AtLeastOnce);
        cluster.expect_message(subscriber, "b", &[1; 2_000]);
        cluster.expect_nothing(subscriber);
        // Room was made.
        retain(&mut cluster, publisher, "a", &[4; 2_500], 0);
        assert_eq!(kept(&cluster).0, 2);
    }
}
