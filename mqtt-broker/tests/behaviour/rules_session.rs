//! What CONNECT asks of the broker for the session and the connection that it opens: Clean Start, Session Expiry, Keep
//! Alive and the limits of the Client (sections 3.1.2.4, 3.1.2.10 and 3.1.2.11), statement by statement.

use mqtt_proto::packet::{Connect, Packet, Properties, Property, Publish};
use mqtt_proto::types::{Qos, ReasonCode, Version};

use crate::cluster::{ClientId, Cluster, connect, publish};

const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

/// Connects as "c" with Clean Start and these properties.
fn with_properties(cluster: &mut Cluster, properties: &[Property<'_>]) -> ClientId {
    let properties = Properties::new(properties);
    cluster.connect_with(0, Connect { properties, ..connect(Version::V5, "c") }).0
}

/// A session "c" whose Client has gone, subscribed to "a".
fn left_session(cluster: &mut Cluster, version: Version) {
    let (client, _) = cluster.resume(0, version, "c");
    cluster.subscribe(client, "a", Qos::ExactlyOnce);
    cluster.cut(client);
}

/// Publishes to "a" and tells whether `client` gets it.
#[track_caller]
fn is_subscribed(cluster: &mut Cluster, client: ClientId) -> bool {
    let publisher = cluster.connect(0, Version::V5, "publisher");
    cluster.publish(publisher, "a", b"x");
    cluster.pending(client) == 1
}

/// The next packet has to be a PUBLISH: its size and its Topic Alias.
#[track_caller]
fn published(cluster: &mut Cluster, client: ClientId) -> (usize, Option<u16>) {
    let frame = cluster.take_frame(client);
    match mqtt_proto::decode(Version::V5, &frame) {
        Ok(Packet::Publish(publish)) => (frame.len(), publish.properties.topic_alias()),
        other => panic!("{other:?}"),
    }
}

/// [MQTT-3.1.2-4] [MQTT-3.1.2-6 v3.1.1]
#[test]
fn clean_start_discards_the_session_there_was() {
    for version in VERSIONS {
        let mut cluster = Cluster::new(1);
        left_session(&mut cluster, version);
        let publisher = cluster.connect(0, version, "publisher");
        cluster.publish_1(publisher, "a", b"kept for the old session");
        let client = cluster.connect(0, version, "c");
        cluster.expect_nothing(client);
        assert!(!is_subscribed(&mut cluster, client));
    }
}

/// [MQTT-3.1.4-4] [MQTT-3.1.4-3 v3.1.1]
#[test]
fn clean_start_counts_for_a_client_that_is_connected_too() {
    for (version, clean_start) in VERSIONS.into_iter().flat_map(|version| [(version, false), (version, true)])
    {
        let mut cluster = Cluster::new(1);
        let (old, _) = cluster.resume(0, version, "c");
        cluster.subscribe(old, "a", Qos::AtMostOnce);
        let client = match clean_start {
            true => cluster.connect(0, version, "c"),
            false => cluster.resume(0, version, "c").0,
        };
        assert_eq!(is_subscribed(&mut cluster, client), !clean_start);
    }
}

/// [MQTT-3.1.2-5] [MQTT-3.1.2-4 v3.1.1]
#[test]
fn without_clean_start_the_session_goes_on() {
    for version in VERSIONS {
        let mut cluster = Cluster::new(1);
        left_session(&mut cluster, version);
        let (client, _) = cluster.resume(0, version, "c");
        assert!(is_subscribed(&mut cluster, client));
    }
}

/// [MQTT-3.1.2-6] [MQTT-3.1.2-4 v3.1.1]
#[test]
fn without_clean_start_and_session_a_new_one_is_made() {
    for version in VERSIONS {
        let mut cluster = Cluster::new(1);
        left_session(&mut cluster, version);
        let (client, present) = cluster.resume(0, version, "another");
        assert!(!present);
        assert_eq!(cluster.total(|stats| stats.sessions), 2);
        assert!(!is_subscribed(&mut cluster, client));
    }
}

/// [MQTT-3.1.2-5 v3.1.1]
#[test]
fn qos_1_and_2_messages_are_kept_for_a_client_that_is_away() {
    for version in VERSIONS {
        let mut cluster = Cluster::new(1);
        left_session(&mut cluster, version);
        let publisher = cluster.connect(0, version, "publisher");
        cluster.publish_1(publisher, "a", b"1");
        cluster.publish_2(publisher, "a", b"2");
        let (client, _) = cluster.resume(0, version, "c");
        cluster.expect_message(client, "a", b"1");
        cluster.expect_message(client, "a", b"2");
        cluster.expect_nothing(client);
    }
}

/// [MQTT-3.1.2-6 v3.1.1]
#[test]
fn nothing_of_a_clean_session_is_used_again() {
    for version in VERSIONS {
        let mut cluster = Cluster::new(1);
        let client = cluster.connect(0, version, "c");
        cluster.subscribe(client, "a", Qos::AtLeastOnce);
        cluster.cut(client);
        let (client, present) = cluster.resume(0, version, "c");
        assert!(!present);
        assert!(!is_subscribed(&mut cluster, client));
    }
}

/// [MQTT-3.1.2-7 v3.1.1]
#[test]
fn retained_messages_outlive_the_session_that_published_them() {
    for version in VERSIONS {
        let mut cluster = Cluster::new(1);
        let client = cluster.connect(0, version, "c");
        let retained = Publish { retain: true, ..publish("a", b"x", Qos::AtMostOnce, 0) };
        cluster.send(client, &Packet::Publish(retained));
        cluster.cut(client);
        assert_eq!(cluster.total(|stats| stats.sessions), 0);
        let client = cluster.connect(0, version, "c");
        cluster.subscribe(client, "a", Qos::AtMostOnce);
        cluster.expect_message(client, "a", b"x");
    }
}

/// [MQTT-3.1.2-23]
#[test]
fn a_session_is_stored_for_its_expiry_interval() {
    let mut cluster = Cluster::new(1);
    for (away, stored) in [(9_999, true), (10_000, false)] {
        let client = with_properties(&mut cluster, &[Property::SessionExpiryInterval(10)]);
        cluster.subscribe(client, "a", Qos::AtLeastOnce);
        cluster.cut(client);
        cluster.advance(away);
        let (client, _) = cluster.resume(0, Version::V5, "c");
        assert_eq!(is_subscribed(&mut cluster, client), stored);
    }
}

/// Section 3.1.2.11.2: left out it is 0, and the session ends with its connection.
#[test]
fn a_session_expiry_interval_that_is_left_out_is_0() {
    for properties in [&[][..], &[Property::SessionExpiryInterval(0)]] {
        let mut cluster = Cluster::new(1);
        let client = with_properties(&mut cluster, properties);
        assert_eq!(cluster.total(|stats| stats.sessions), 1);
        cluster.cut(client);
        assert_eq!(cluster.total(|stats| stats.sessions), 0);
    }
}

/// Section 3.1.2.11.2: 0xFFFFFFFF is no interval, the session stays.
#[test]
fn the_largest_session_expiry_interval_never_ends() {
    let mut cluster = Cluster::new(1);
    let client = with_properties(&mut cluster, &[Property::SessionExpiryInterval(u32::MAX)]);
    cluster.cut(client);
    cluster.advance((u64::from(u32::MAX) + 10) * 1000);
    assert_eq!(cluster.total(|stats| stats.sessions), 1);
}

/// [MQTT-3.1.2-22] [MQTT-3.1.2-24 v3.1.1]
#[test]
fn a_silent_client_is_closed_after_one_and_a_half_keep_alives() {
    for version in VERSIONS {
        let mut cluster = Cluster::new(1);
        let (client, _) = cluster.connect_with(0, Connect { keep_alive: 7, ..connect(version, "c") });
        // Any packet counts.
        cluster.advance(10_499);
        cluster.publish(client, "a", b"");
        cluster.advance(10_499);
        assert!(!cluster.is_closed(client));
        cluster.advance(1);
        assert!(cluster.is_closed(client));
    }
}

/// Section 3.1.2.10: 0 turns the Keep Alive off.
#[test]
fn a_keep_alive_of_0_closes_nobody() {
    for version in VERSIONS {
        let mut cluster = Cluster::new(1);
        let client = cluster.connect(0, version, "c");
        cluster.advance(1_000_000_000);
        assert!(!cluster.is_closed(client));
    }
}

/// [MQTT-3.1.2-24]
#[test]
fn no_packet_above_the_maximum_packet_size_of_the_client_is_sent() {
    for maximum in [40, 41, 42] {
        let mut cluster = Cluster::new(1);
        let client = with_properties(&mut cluster, &[Property::MaximumPacketSize(maximum)]);
        cluster.subscribe(client, "a", Qos::AtMostOnce);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        // 2 + 3 + 1 bytes and the payload.
        for payload in [40 - 6, 41 - 6, 42 - 6] {
            cluster.publish(publisher, "a", &vec![0; payload]);
        }
        let sizes: Vec<_> = (0..cluster.pending(client)).map(|_| published(&mut cluster, client).0).collect();
        assert_eq!(sizes, [40, 41, 42][..maximum as usize - 39]);
    }
}

/// [MQTT-3.1.2-25]
#[test]
fn a_message_too_large_for_the_client_counts_as_sent() {
    let mut cluster = Cluster::new(1);
    let limits = [Property::MaximumPacketSize(40), Property::ReceiveMaximum(1)];
    let client = with_properties(&mut cluster, &limits);
    cluster.subscribe(client, "a", Qos::AtLeastOnce);
    let publisher = cluster.connect(0, Version::V5, "publisher");
    for _ in 0..3 {
        assert_eq!(cluster.publish_1(publisher, "a", &[0; 100]), ReasonCode::SUCCESS);
    }
    // It holds no place in the window of one message.
    cluster.publish_1(publisher, "a", b"small");
    cluster.expect_message(client, "a", b"small");
    cluster.expect_nothing(client);
    assert!(!cluster.is_closed(client));
}

/// [MQTT-3.1.2-26]
#[test]
fn no_topic_alias_above_the_maximum_of_the_client_is_sent() {
    let mut cluster = Cluster::new(1);
    let client = with_properties(&mut cluster, &[Property::TopicAliasMaximum(2)]);
    cluster.subscribe(client, "#", Qos::AtMostOnce);
    let publisher = cluster.connect(0, Version::V5, "publisher");
    let mut used = Vec::new();
    for n in 0..12 {
        cluster.publish(publisher, &format!("a/long/topic/{}", n % 4), b"");
        used.extend(published(&mut cluster, client).1);
    }
    assert!(used.iter().all(|alias| (1..=2).contains(alias)), "{used:?}");
}

/// [MQTT-3.1.2-27]
#[test]
fn no_topic_alias_is_sent_to_a_client_that_allows_none() {
    for properties in [&[][..], &[Property::TopicAliasMaximum(0)]] {
        let mut cluster = Cluster::new(1);
        let client = with_properties(&mut cluster, properties);
        cluster.subscribe(client, "a/long/topic", Qos::AtMostOnce);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        for _ in 0..3 {
            cluster.publish(publisher, "a/long/topic", b"");
            assert_eq!(published(&mut cluster, client).1, None);
        }
    }
}

/// However many sessions end at one time, none is resumed behind its time [MQTT-4.1.0-2].
#[test]
fn a_session_whose_time_is_over_is_not_resumed_although_its_timer_has_not_fired() {
    let mut cluster = Cluster::new(1);
    for (late, is_there) in [(3_599_000, true), (3_600_000, false)] {
        let (client, _) = cluster.resume(0, Version::V5, "c");
        cluster.cut(client);
        cluster.now.millis += late;
        cluster.now.wall_millis += late;
        let (client, present) = cluster.resume(0, Version::V5, "c");
        assert_eq!(present, is_there, "{late} milliseconds later");
        cluster.cut(client);
    }
}
