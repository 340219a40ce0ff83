//! Retained messages: their expiry, their bounds, and new subscriptions that want many of them.

use std::collections::BTreeMap;

use mqtt_broker::config::Limits;
use mqtt_proto::packet::{
    Filters, Packet, Properties, Property, Publish, Subscribe, Subscription, SubscriptionOptions,
    Subscriptions, Unsubscribe,
};
use mqtt_proto::types::{PacketId, Qos, Version};

use crate::cluster::{ClientId, Cluster, Random, limits, publish};

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

/// Subscribes to all of `filters` with one packet, which is not answered while lanes are stalled.
fn subscribe_all(cluster: &mut Cluster, client: ClientId, filters: &[String]) {
    let options = SubscriptionOptions::new(Qos::AtMostOnce);
    let list: Vec<_> = filters.iter().map(|filter| Subscription { filter, options }).collect();
    let (packet_id, properties) = (PacketId::new(5).expect("not 0"), Properties::EMPTY);
    let subscriptions = Subscriptions::new(&list);
    cluster.send(client, &Packet::Subscribe(Subscribe { packet_id, properties, subscriptions }));
}

/// What the Client was sent: topics and payloads, sorted.
fn messages(cluster: &mut Cluster, client: ClientId) -> Vec<(String, Vec<u8>)> {
    let mut got = Vec::new();
    while let Some(message) = cluster.look(client, |packet| match packet {
        Packet::Publish(publish) => {
            publish.topic.map(|topic| (topic.as_str().to_owned(), publish.payload.to_vec()))
        }
        _ => None,
    }) {
        got.extend(message);
    }
    got.sort();
    got
}

#[test]
fn tens_of_thousands_of_subscriptions_get_their_retained_messages_one_after_another() {
    const SUBSCRIPTIONS: usize = 20_000;
    for cores in [1, 2] {
        let mut cluster = Cluster::new(cores);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        for n in (0..SUBSCRIPTIONS).step_by(100) {
            retain(&mut cluster, publisher, &format!("a/{n}"), n.to_string().as_bytes(), 0);
        }
        let subscriber = cluster.connect(0, Version::V5, "subscriber");
        cluster.lanes_stalled = true;
        let filters: Vec<String> = (0..SUBSCRIPTIONS).map(|n| format!("a/{n}")).collect();
        for some in filters.chunks(1000) {
            subscribe_all(&mut cluster, subscriber, some);
        }
        cluster.lanes_stalled = false;
        cluster.run();
        let mut expected: Vec<_> =
            (0..SUBSCRIPTIONS).step_by(100).map(|n| (format!("a/{n}"), n.to_string().into_bytes())).collect();
        expected.sort();
        assert_eq!(messages(&mut cluster, subscriber), expected);
    }
}

#[test]
fn the_last_value_that_a_subscriber_sees_is_the_last_published_whatever_overtakes_it() {
    for cores in [2, 4] {
        for seed in 0..200 {
            let few = |limits: &mut Limits| {
                limits.retained_slice_messages = 2;
                limits.gather_live_topics_max = 3;
            };
            let mut cluster = Cluster::with_limits(cores, limits(few));
            let publisher = cluster.connect(0, Version::V5, &format!("publisher-{seed}"));
            let topics: Vec<String> = (0..8).map(|n| format!("r/{n}")).collect();
            for topic in &topics {
                retain(&mut cluster, publisher, topic, b"1", 0);
            }
            let subscriber = cluster.connect(0, Version::V5, &format!("subscriber-{seed}"));
            cluster.random = Some(Random(seed));
            let options = SubscriptionOptions::new(Qos::AtMostOnce);
            let list = [Subscription { filter: "r/#", options }];
            let (packet_id, properties) = (PacketId::new(5).expect("not 0"), Properties::EMPTY);
            let subscriptions = Subscriptions::new(&list);
            cluster
                .submit(subscriber, &Packet::Subscribe(Subscribe { packet_id, properties, subscriptions }));
            for topic in &topics {
                for _ in 0..seed % 4 {
                    cluster.step();
                }
                let message = publish(topic, b"2", Qos::AtMostOnce, 0);
                cluster.submit(publisher, &Packet::Publish(Publish { retain: true, ..message }));
            }
            cluster.run();
            let mut last = BTreeMap::new();
            while let Some(message) = cluster.look(subscriber, |packet| match packet {
                Packet::Publish(publish) => {
                    publish.topic.map(|topic| (topic.as_str().to_owned(), publish.payload.to_vec()))
                }
                _ => None,
            }) {
                last.extend(message);
            }
            let expected = topics.into_iter().map(|topic| (topic, b"2".to_vec())).collect();
            assert_eq!(last, expected, "{cores} cores, seed {seed}");
        }
    }
}

#[test]
fn a_live_message_without_retain_does_not_stand_for_the_retained_one() {
    for cores in [1, 2, 8] {
        for seed in 0..20 {
            let mut cluster = Cluster::new(cores);
            let publisher = cluster.connect(0, Version::V5, "publisher");
            let subscriber = cluster.connect(0, Version::V5, "subscriber");
            retain(&mut cluster, publisher, "a", b"retained", 0);
            cluster.random = Some(Random(seed));
            let list = [Subscription { filter: "a", options: SubscriptionOptions::new(Qos::AtMostOnce) }];
            let (packet_id, properties) = (PacketId::new(5).expect("not 0"), Properties::EMPTY);
            let subscriptions = Subscriptions::new(&list);
            cluster
                .submit(subscriber, &Packet::Subscribe(Subscribe { packet_id, properties, subscriptions }));
            // At any moment of the gathering.
            for n in 0..40 {
                let payload = format!("live {n}");
                let message = publish("a", payload.as_bytes(), Qos::AtMostOnce, 0);
                cluster.submit(publisher, &Packet::Publish(message));
                cluster.step();
            }
            cluster.run();
            let got = messages(&mut cluster, subscriber);
            let times = got.iter().filter(|(_, payload)| payload == b"retained").count();
            assert_eq!(times, 1, "{cores} cores, seed {seed}");
        }
    }
}

#[test]
fn a_cancelled_gathering_does_not_hold_up_the_others() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        for n in 0..50 {
            retain(&mut cluster, publisher, &format!("{n}/a"), b"x", 0);
            retain(&mut cluster, publisher, &format!("{n}/b"), b"x", 0);
        }
        let subscriber = cluster.connect(0, Version::V5, "subscriber");
        // Whatever is on its way when the first subscription ends again, the second gets its messages.
        for steps in 0..40 {
            let filters = ["+/a".to_owned(), "+/b".to_owned()];
            let options = SubscriptionOptions::new(Qos::AtMostOnce);
            let list: Vec<_> = filters.iter().map(|filter| Subscription { filter, options }).collect();
            let (packet_id, properties) = (PacketId::new(5).expect("not 0"), Properties::EMPTY);
            let subscriptions = Subscriptions::new(&list);
            cluster
                .submit(subscriber, &Packet::Subscribe(Subscribe { packet_id, properties, subscriptions }));
            for _ in 0..steps {
                cluster.step();
            }
            let filters = ["+/a"];
            let filters = Filters::new(&filters);
            cluster.submit(subscriber, &Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters }));
            cluster.run();
            let got = messages(&mut cluster, subscriber);
            assert_eq!(got.iter().filter(|(topic, _)| topic.ends_with('b')).count(), 50, "{steps} steps");
        }
    }
}

#[test]
fn a_stalled_reader_of_a_hundred_thousand_retained_messages_costs_a_slice() {
    const TOPICS: usize = 100_000;
    for cores in [1, 2] {
        let mut cluster = Cluster::new(cores);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        for n in 0..TOPICS {
            let topic = format!("r/{n}");
            let message = publish(&topic, b"value", Qos::AtMostOnce, 0);
            cluster.submit(publisher, &Packet::Publish(Publish { retain: true, ..message }));
        }
        cluster.run();
        assert_eq!(kept(&cluster).0, TOPICS as u64);
        let other = cluster.connect(0, Version::V5, "other");
        cluster.subscribe(other, "live", Qos::AtLeastOnce);
        let stalled = cluster.connect(0, Version::V5, "stalled");
        cluster.set_reading(stalled, false);
        let before = cluster.total(|stats| stats.messages_sent);
        subscribe_all(&mut cluster, stalled, &["#".to_owned()]);
        // One slice of 64 KiB at most is on its way to it, and one more behind that.
        let sent = cluster.total(|stats| stats.messages_sent) - before;
        assert!((64..=64 * 1024 / 12 + 2 * 64).contains(&sent), "{sent} messages");
        assert_eq!(cluster.total(|stats| stats.queue_bytes), 0);
        for n in 0..100u8 {
            cluster.publish_1(publisher, "live", &[n]);
            cluster.expect_message(other, "live", &[n]);
        }
        cluster.set_reading(stalled, true);
        let mut got = messages(&mut cluster, stalled);
        got.retain(|(topic, _)| topic != "live");
        got.dedup();
        assert_eq!(got.len(), TOPICS);
    }
}
