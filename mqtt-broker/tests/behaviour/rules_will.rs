//! The Will Message of a CONNECT: sections 3.1.2.5 to 3.1.2.7 and 3.1.3.2 of 5.0 and theirs of 3.1.1, statement by
//! statement.

use mqtt_proto::packet::{
    Connect, Disconnect, Packet, Properties, Property, Publish, SubscriptionOptions, Will,
};
use mqtt_proto::types::{Qos, ReasonCode, TopicName, Version};

use crate::cluster::{ClientId, Cluster, connect};

const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

fn will<'a>(properties: &'a [Property<'a>]) -> Will<'a> {
    Will {
        topic: TopicName::new("will").expect("a topic"),
        payload: b"gone",
        qos: Qos::AtMostOnce,
        retain: false,
        properties: Properties::new(properties),
    }
}

/// A broker with a subscriber to "will" that sees messages as they were published.
fn watched() -> (Cluster, ClientId) {
    let mut cluster = Cluster::new(1);
    let watcher = cluster.connect(0, Version::V5, "watcher");
    let options =
        SubscriptionOptions { retain_as_published: true, ..SubscriptionOptions::new(Qos::ExactlyOnce) };
    cluster.subscribe_with(watcher, "will", options, Properties::EMPTY);
    (cluster, watcher)
}

/// Connects as "c" with this Will, 5.0 with a session of an hour.
fn with_will(cluster: &mut Cluster, version: Version, will: Will<'_>) -> ClientId {
    let hour = [Property::SessionExpiryInterval(3600)];
    let properties = if version == Version::V5 { Properties::new(&hour) } else { Properties::EMPTY };
    let asked = Connect { clean_start: false, will: Some(will), properties, ..connect(version, "c") };
    cluster.connect_with(0, asked).0
}

/// The Client breaks the protocol, which ends its connection as a failure does.
fn fail(cluster: &mut Cluster, client: ClientId) {
    cluster.send_bytes(client, &[0x00, 0]);
    assert!(cluster.is_closed(client));
}

fn leave(cluster: &mut Cluster, client: ClientId, reason: ReasonCode) {
    cluster.send(client, &Packet::Disconnect(Disconnect::new(reason)));
    assert!(cluster.is_closed(client));
}

/// The next packet has to be a PUBLISH, passed to `look`.
#[track_caller]
fn published<T>(cluster: &mut Cluster, client: ClientId, look: impl FnOnce(&Publish<'_>) -> T) -> T {
    cluster.expect(client, |packet| match packet {
        Packet::Publish(publish) => look(publish),
        other => panic!("{other:?}"),
    })
}

/// [MQTT-3.1.2-7] [MQTT-3.1.2-8] [MQTT-3.1.2-8 v3.1.1]
#[test]
fn a_will_is_published_when_the_connection_is_lost() {
    for version in VERSIONS {
        let (mut cluster, watcher) = watched();
        let client = with_will(&mut cluster, version, will(&[]));
        cluster.expect_nothing(watcher);
        cluster.cut(client);
        cluster.expect_message(watcher, "will", b"gone");
    }
}

/// [MQTT-3.1.2-7]
#[test]
fn the_will_of_each_connect_is_stored_with_its_session() {
    for version in VERSIONS {
        let (mut cluster, watcher) = watched();
        let client = with_will(&mut cluster, version, will(&[]));
        leave(&mut cluster, client, ReasonCode::NORMAL_DISCONNECTION);
        // The session goes on, and another begins.
        let first = with_will(&mut cluster, version, Will { payload: b"first", ..will(&[]) });
        let other = Connect { will: Some(Will { payload: b"other", ..will(&[]) }), ..connect(version, "o") };
        let (other, _) = cluster.connect_with(0, other);
        fail(&mut cluster, first);
        cluster.expect_message(watcher, "will", b"first");
        fail(&mut cluster, other);
        cluster.expect_message(watcher, "will", b"other");
    }
}

/// [MQTT-3.1.2-8]
#[test]
fn a_will_is_published_when_its_delay_has_elapsed() {
    let (mut cluster, watcher) = watched();
    let client = with_will(&mut cluster, Version::V5, will(&[Property::WillDelayInterval(20)]));
    cluster.cut(client);
    cluster.advance(19_999);
    cluster.expect_nothing(watcher);
    cluster.advance(1);
    cluster.expect_message(watcher, "will", b"gone");
}

/// [MQTT-3.1.2-8]
#[test]
fn a_will_is_published_when_the_session_ends_before_its_delay() {
    let (mut cluster, watcher) = watched();
    let client = with_will(&mut cluster, Version::V5, will(&[Property::WillDelayInterval(5_000)]));
    cluster.cut(client);
    cluster.advance(3_599_999);
    cluster.expect_nothing(watcher);
    cluster.advance(1);
    cluster.expect_message(watcher, "will", b"gone");
}

/// [MQTT-3.1.2-10]
#[test]
fn a_normal_disconnect_removes_the_will() {
    for version in VERSIONS {
        let (mut cluster, watcher) = watched();
        let client = with_will(&mut cluster, version, will(&[]));
        leave(&mut cluster, client, ReasonCode::NORMAL_DISCONNECTION);
        cluster.expect_nothing(watcher);
        // Nor is it the Will of the session's next connection.
        let (client, _) = cluster.resume(0, version, "c");
        cluster.cut(client);
        cluster.expect_nothing(watcher);
    }
}

/// [MQTT-3.1.2-10]
#[test]
fn a_published_will_is_removed_from_the_session() {
    for version in VERSIONS {
        let (mut cluster, watcher) = watched();
        let client = with_will(&mut cluster, version, will(&[]));
        fail(&mut cluster, client);
        cluster.expect_message(watcher, "will", b"gone");
        // It is not published once more when the session ends.
        cluster.connect(0, version, "c");
        cluster.expect_nothing(watcher);
    }
}

/// [MQTT-3.1.2-12] [MQTT-3.1.2-14 v3.1.1]
#[test]
fn a_will_is_published_with_its_qos() {
    for version in VERSIONS {
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let (mut cluster, watcher) = watched();
            let client = with_will(&mut cluster, version, Will { qos, ..will(&[]) });
            fail(&mut cluster, client);
            assert_eq!(published(&mut cluster, watcher, |publish| publish.qos), qos);
        }
    }
}

/// [MQTT-3.1.2-12 v3.1.1]
#[test]
fn without_the_will_flag_nothing_is_published() {
    for version in VERSIONS {
        let (mut cluster, watcher) = watched();
        cluster.subscribe(watcher, "#", Qos::AtMostOnce);
        let (client, _) = cluster.resume(0, version, "c");
        cluster.cut(client);
        cluster.advance(100_000_000);
        cluster.expect_nothing(watcher);
    }
}

/// Whether a Will with this Will Retain is published as a retained message: forwarded so, and there later.
fn is_retained(version: Version, retain: bool) -> (bool, bool) {
    let (mut cluster, watcher) = watched();
    let client = with_will(&mut cluster, version, Will { retain, ..will(&[]) });
    fail(&mut cluster, client);
    let forwarded = published(&mut cluster, watcher, |publish| publish.retain);
    let later = cluster.connect(0, Version::V5, "later");
    cluster.subscribe(later, "will", Qos::AtMostOnce);
    (forwarded, cluster.pending(later) == 1)
}

/// [MQTT-3.1.2-14] [MQTT-3.1.2-16 v3.1.1]
#[test]
fn a_will_without_retain_is_not_kept() {
    for version in VERSIONS {
        assert_eq!(is_retained(version, false), (false, false));
    }
}

/// [MQTT-3.1.2-15] [MQTT-3.1.2-17 v3.1.1]
#[test]
fn a_will_with_retain_is_kept() {
    for version in VERSIONS {
        assert_eq!(is_retained(version, true), (true, true));
    }
}

/// [MQTT-3.1.3-9]
#[test]
fn a_will_is_not_sent_if_its_client_returns_within_the_delay() {
    let (mut cluster, watcher) = watched();
    let client = with_will(&mut cluster, Version::V5, will(&[Property::WillDelayInterval(20)]));
    fail(&mut cluster, client);
    cluster.advance(19_999);
    let (client, present) = cluster.resume(0, Version::V5, "c");
    assert!(present);
    cluster.advance(100_000);
    assert!(!cluster.is_closed(client));
    cluster.expect_nothing(watcher);
}

/// [MQTT-3.1.3-10]
#[test]
fn user_properties_of_a_will_keep_their_order() {
    let (mut cluster, watcher) = watched();
    let user = [("z", "1"), ("a", "2"), ("z", "1"), ("m", "")];
    let user = user.map(|(name, value)| Property::UserProperty(name, value));
    // With a property among them that is not forwarded.
    for delay in [None, Some(Property::WillDelayInterval(0))] {
        let list: Vec<_> = user[..2].iter().copied().chain(delay).chain(user[2..].iter().copied()).collect();
        let client = with_will(&mut cluster, Version::V5, will(&list));
        fail(&mut cluster, client);
        published(&mut cluster, watcher, |publish| {
            assert_eq!(publish.properties.iter().collect::<Vec<_>>(), user);
        });
    }
}

/// Section 3.1.3.2.2: without a Will Delay Interval there is no delay.
#[test]
fn a_will_delay_is_0_unless_it_is_given() {
    let (mut cluster, watcher) = watched();
    let client = with_will(&mut cluster, Version::V5, will(&[Property::ContentType("text")]));
    fail(&mut cluster, client);
    cluster.expect_message(watcher, "will", b"gone");
}

/// Sections 3.1.3.2.3 to 3.1.3.2.7: the Will's properties are those of its message, the delay is not.
#[test]
fn a_will_is_published_with_its_properties() {
    let (mut cluster, watcher) = watched();
    let list = [
        Property::PayloadFormatIndicator(1),
        Property::ContentType("text"),
        Property::ResponseTopic("answer"),
        Property::CorrelationData(b"\0\xFF"),
        Property::WillDelayInterval(1),
    ];
    let client = with_will(&mut cluster, Version::V5, will(&list));
    fail(&mut cluster, client);
    cluster.advance(1_000);
    published(&mut cluster, watcher, |publish| {
        assert_eq!(publish.properties.iter().collect::<Vec<_>>(), list[..4]);
    });
}

/// Section 3.1.3.2.4: the Will's Message Expiry Interval is sent when it is published, whatever its delay was.
#[test]
fn the_expiry_of_a_will_runs_from_its_publication() {
    let (mut cluster, watcher) = watched();
    let list = [Property::WillDelayInterval(60), Property::MessageExpiryInterval(30)];
    let client = with_will(&mut cluster, Version::V5, will(&list));
    fail(&mut cluster, client);
    cluster.advance(60_000);
    published(&mut cluster, watcher, |publish| {
        assert_eq!(publish.properties.message_expiry_interval(), Some(30));
    });
}

/// Section 3.14.2.1: a Client may leave and have its Will published all the same.
#[test]
fn disconnect_with_will_message_publishes_the_will() {
    let (mut cluster, watcher) = watched();
    let client = with_will(&mut cluster, Version::V5, will(&[]));
    leave(&mut cluster, client, ReasonCode::DISCONNECT_WITH_WILL_MESSAGE);
    cluster.expect_message(watcher, "will", b"gone");
}
