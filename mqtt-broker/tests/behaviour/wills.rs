//! Will Messages: when they are published, when not, and what they carry (section 3.1.2.5).

use mqtt_proto::packet::{Connect, Disconnect, Packet, Properties, Property, SubscriptionOptions, Will};
use mqtt_proto::types::{Qos, ReasonCode, TopicName, Version};

use crate::cluster::{ClientId, Cluster, connect, limits};

const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

fn will<'a>(payload: &'a [u8], properties: &'a [Property<'a>]) -> Will<'a> {
    Will {
        topic: TopicName::new("will").expect("a topic"),
        payload,
        qos: Qos::AtLeastOnce,
        retain: false,
        properties: Properties::new(properties),
    }
}

/// Connects with a Will delayed by `delay` seconds and a session kept for `expiry` seconds.
#[track_caller]
fn with_will(cluster: &mut Cluster, delay: u32, expiry: u32, clean_start: bool) -> ClientId {
    let (delay, expiry) = ([Property::WillDelayInterval(delay)], [Property::SessionExpiryInterval(expiry)]);
    let will = Some(will(b"gone", &delay));
    let properties = Properties::new(&expiry);
    cluster.connect_with(0, Connect { will, clean_start, properties, ..connect(Version::V5, "c") }).0
}

fn watcher(cluster: &mut Cluster) -> ClientId {
    let watcher = cluster.connect(0, Version::V5, "watcher");
    cluster.subscribe(watcher, "will", Qos::ExactlyOnce);
    watcher
}

fn leave(cluster: &mut Cluster, client: ClientId, reason: ReasonCode) {
    cluster.send(client, &Packet::Disconnect(Disconnect::new(reason)));
    assert!(cluster.is_closed(client));
}

#[test]
fn a_will_is_published_on_every_end_but_a_normal_disconnect() {
    for cores in [1, 2, 8] {
        for version in VERSIONS {
            let mut cluster = Cluster::new(cores);
            let watcher = watcher(&mut cluster);
            let connect = Connect { will: Some(will(b"gone", &[])), keep_alive: 10, ..connect(version, "c") };

            // The connection breaks.
            let (client, _) = cluster.connect_with(0, connect);
            cluster.cut(client);
            cluster.expect_message(watcher, "will", b"gone");
            // Keep Alive.
            let (client, _) = cluster.connect_with(0, connect);
            cluster.advance(15_000);
            assert!(cluster.is_closed(client));
            cluster.expect_message(watcher, "will", b"gone");
            // The Client breaks the protocol.
            let (client, _) = cluster.connect_with(0, connect);
            cluster.send_bytes(client, &[0x00]);
            assert!(cluster.is_closed(client));
            cluster.expect_message(watcher, "will", b"gone");
            // Another connection takes over.
            let (first, _) = cluster.connect_with(0, connect);
            let (second, _) = cluster.connect_with(0, connect);
            assert!(cluster.is_closed(first));
            cluster.expect_message(watcher, "will", b"gone");
            // [MQTT-3.14.4-3]
            leave(&mut cluster, second, ReasonCode::NORMAL_DISCONNECTION);
            cluster.advance(1_000_000);
            cluster.expect_nothing(watcher);
        }
    }
}

#[test]
fn disconnect_with_will_message_or_an_error_publishes_it() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let watcher = watcher(&mut cluster);
        for reason in [ReasonCode::DISCONNECT_WITH_WILL_MESSAGE, ReasonCode::UNSPECIFIED_ERROR] {
            let client = with_will(&mut cluster, 0, 60, true);
            leave(&mut cluster, client, reason);
            cluster.expect_nothing(client);
            cluster.expect_message(watcher, "will", b"gone");
        }
        cluster.expect_nothing(watcher);
    }
}

#[test]
fn a_delayed_will_waits_and_is_not_published_if_the_client_returns_in_time() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let watcher = watcher(&mut cluster);
        let client = with_will(&mut cluster, 10, 60, false);
        cluster.cut(client);
        cluster.advance(9_999);
        cluster.expect_nothing(watcher);
        cluster.advance(1);
        cluster.expect_message(watcher, "will", b"gone");
        // [MQTT-3.1.3-9]
        let client = with_will(&mut cluster, 10, 60, false);
        cluster.cut(client);
        cluster.advance(9_999);
        let (client, present) = cluster.resume(0, Version::V5, "c");
        assert!(present);
        cluster.advance(100_000);
        cluster.cut(client);
        cluster.advance(100_000);
        cluster.expect_nothing(watcher);
        // A takeover within the delay is a return as well.
        with_will(&mut cluster, 10, 60, false);
        let client = with_will(&mut cluster, 10, 60, false);
        cluster.advance(100_000);
        cluster.expect_nothing(watcher);
        // The delay starts anew with each end.
        cluster.cut(client);
        cluster.advance(10_000);
        cluster.expect_message(watcher, "will", b"gone");
    }
}

#[test]
fn the_end_of_the_session_publishes_a_will_before_its_delay() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let watcher = watcher(&mut cluster);
        // Session expiry.
        let client = with_will(&mut cluster, 100, 5, false);
        cluster.cut(client);
        cluster.advance(4_999);
        cluster.expect_nothing(watcher);
        cluster.advance(1);
        cluster.expect_message(watcher, "will", b"gone");
        // No session to keep.
        let client = with_will(&mut cluster, 100, 0, false);
        cluster.cut(client);
        cluster.expect_message(watcher, "will", b"gone");
        // Clean Start of the next connection.
        let client = with_will(&mut cluster, 100, 60, false);
        cluster.cut(client);
        cluster.expect_nothing(watcher);
        let client = cluster.connect(0, Version::V5, "c");
        cluster.expect_message(watcher, "will", b"gone");
        leave(&mut cluster, client, ReasonCode::NORMAL_DISCONNECTION);
        cluster.advance(1_000_000);
        cluster.expect_nothing(watcher);
    }
}

#[test]
fn the_delay_is_bounded_by_the_limits() {
    let mut cluster = Cluster::with_limits(1, limits(|limits| limits.will_delay_max_seconds = 3));
    let watcher = watcher(&mut cluster);
    let client = with_will(&mut cluster, 1000, 10_000, false);
    cluster.cut(client);
    cluster.advance(3_000);
    cluster.expect_message(watcher, "will", b"gone");
}

#[test]
fn a_will_carries_its_properties_in_order_and_its_expiry_runs_from_its_publication() {
    for cores in [1, 2] {
        let mut cluster = Cluster::new(cores);
        let watcher = watcher(&mut cluster);
        let list = [
            Property::WillDelayInterval(5),
            Property::UserProperty("b", "1"),
            Property::ContentType("text"),
            Property::MessageExpiryInterval(30),
            Property::CorrelationData(b"\0\xFF"),
            Property::UserProperty("a", "2"),
            Property::ResponseTopic("answers"),
            Property::PayloadFormatIndicator(1),
            Property::UserProperty("b", "3"),
        ];
        let expiry = [Property::SessionExpiryInterval(60)];
        let properties = Properties::new(&expiry);
        let with_will = Connect { will: Some(will(b"gone", &list)), properties, ..connect(Version::V5, "c") };
        let (client, _) = cluster.connect_with(0, with_will);
        cluster.cut(client);
        cluster.advance(5_000);
        cluster.expect(watcher, |packet| {
            let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
            let forwarded: Vec<_> = publish
                .properties
                .iter()
                .filter(|property| !matches!(property, Property::MessageExpiryInterval(_)))
                .collect();
            let expected = [list[1], list[2], list[4], list[5], list[6], list[7], list[8]];
            assert_eq!(forwarded, expected);
            assert_eq!(publish.properties.message_expiry_interval(), Some(30));
        });
    }
}

#[test]
fn a_retained_will_stays_for_later_subscribers() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let retained = Will { retain: true, ..will(b"gone", &[]) };
        let (client, _) =
            cluster.connect_with(0, Connect { will: Some(retained), ..connect(Version::V3_1_1, "c") });
        cluster.cut(client);
        let watcher = watcher(&mut cluster);
        cluster.expect(watcher, |packet| {
            let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
            assert!(publish.retain);
            assert_eq!((publish.payload, publish.qos), (&b"gone"[..], Qos::AtLeastOnce));
        });
    }
}

#[test]
fn the_will_of_the_last_connect_counts() {
    let mut cluster = Cluster::new(2);
    let watcher = watcher(&mut cluster);
    let client = with_will(&mut cluster, 10, 60, false);
    cluster.cut(client);
    let list = [Property::SessionExpiryInterval(60)];
    let properties = Properties::new(&list);
    let other = Connect {
        clean_start: false,
        will: Some(will(b"other", &[])),
        properties,
        ..connect(Version::V5, "c")
    };
    let (client, _) = cluster.connect_with(0, other);
    cluster.cut(client);
    cluster.expect_message(watcher, "will", b"other");
    cluster.advance(100_000);
    cluster.expect_nothing(watcher);
}

#[test]
fn a_will_is_not_sent_back_to_its_own_session_that_wants_none_of_its_messages() {
    for cores in [1, 2] {
        let mut cluster = Cluster::new(cores);
        let client = with_will(&mut cluster, 0, 60, false);
        let options = SubscriptionOptions { no_local: true, ..SubscriptionOptions::new(Qos::AtLeastOnce) };
        cluster.subscribe_with(client, "will", options, Properties::EMPTY);
        cluster.cut(client);
        let (client, _) = cluster.resume(0, Version::V5, "c");
        cluster.expect_nothing(client);
    }
}

#[test]
fn a_will_that_cannot_be_published_refuses_its_connect() {
    let refused = |limits, will: Will<'_>, version| {
        let mut cluster = Cluster::with_limits(1, limits);
        let client = cluster.open(0, version);
        cluster.send(client, &Packet::Connect(Connect { will: Some(will), ..connect(version, "c") }));
        assert!(cluster.is_closed(client));
        cluster.expect(client, |packet| match packet {
            Packet::ConnAck(connack) => connack.reason,
            other => panic!("{other:?}"),
        })
    };
    let retained = Will { retain: true, ..will(b"", &[]) };
    let text = [Property::PayloadFormatIndicator(1)];
    let invalid = will(b"\xFF", &text);
    let own = Will { topic: TopicName::new("$SYS/broker").expect("a topic"), ..will(b"", &[]) };
    let deep = Will { topic: TopicName::new("a/b/c").expect("a topic"), ..will(b"", &[]) };
    for (limits, will, reason) in [
        (
            limits(|limits| limits.maximum_qos = Qos::AtMostOnce),
            will(b"", &[]),
            ReasonCode::QOS_NOT_SUPPORTED,
        ),
        (limits(|limits| limits.retain_available = false), retained, ReasonCode::RETAIN_NOT_SUPPORTED),
        (limits(|_| {}), invalid, ReasonCode::PAYLOAD_FORMAT_INVALID),
        (limits(|_| {}), own, ReasonCode::TOPIC_NAME_INVALID),
        (limits(|limits| limits.topic_levels_max = 2), deep, ReasonCode::TOPIC_NAME_INVALID),
    ] {
        assert_eq!(refused(limits, will, Version::V5), reason);
    }
    let old = refused(limits(|limits| limits.maximum_qos = Qos::AtMostOnce), will(b"", &[]), Version::V3_1_1);
    assert_eq!(old, ReasonCode::NOT_AUTHORIZED, "the nearest that 3.1.1 has");
}
