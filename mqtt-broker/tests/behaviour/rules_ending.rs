//! PINGREQ, DISCONNECT, what is left of a session, and errors: sections 3.12, 3.14, 4.1 and 4.13.

use mqtt_broker::ports::{
    Authenticate, AuthenticateRequest, Authentication, Decision, Identity, Ports, Ticket,
};
use mqtt_proto::packet::{Ack, Connect, Disconnect, Packet, Properties, Property, Will};
use mqtt_proto::types::{Qos, ReasonCode, TopicName, Version};

use crate::cluster::{ClientId, Cluster, connect, limits, publish};

const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

fn leave(cluster: &mut Cluster, client: ClientId, reason: ReasonCode) {
    cluster.send(client, &Packet::Disconnect(Disconnect::new(reason)));
}

/// Connects with a Will for the topic "will".
#[track_caller]
fn with_will(cluster: &mut Cluster, version: Version, name: &str) -> ClientId {
    let will = Some(Will {
        topic: TopicName::new("will").expect("a topic"),
        payload: b"gone",
        qos: Qos::AtMostOnce,
        retain: false,
        properties: Properties::EMPTY,
    });
    cluster.connect_with(0, Connect { will, ..connect(version, name) }).0
}

/// Connects with a session that outlives its connection by `seconds`; whether there was one.
#[track_caller]
fn kept_for(cluster: &mut Cluster, seconds: u32) -> (ClientId, bool) {
    let list = [Property::SessionExpiryInterval(seconds)];
    let properties = Properties::new(&list);
    cluster.connect_with(0, Connect { clean_start: false, properties, ..connect(Version::V5, "c") })
}

/// [MQTT-3.12.4-1]
#[test]
fn pingreq_is_answered_by_pingresp() {
    for cores in [1, 2, 8] {
        for version in VERSIONS {
            let mut cluster = Cluster::new(cores);
            let client = cluster.connect(0, version, "c");
            for _ in 0..3 {
                cluster.send(client, &Packet::PingReq);
                assert_eq!(cluster.take_frame(client), [0xD0, 0]);
                cluster.expect_nothing(client);
            }
        }
    }
}

/// [MQTT-3.14.0-1]
#[test]
fn who_is_not_let_in_is_sent_no_disconnect() {
    let refused = limits(|limits| limits.client_id_bytes_max = 23);
    // What it sends, and the first byte of the one packet that it gets.
    for (bytes, answer) in [
        (&b"\x10\x25\0\x04MQTT\x05\x02\0\0\0\0\x18a-name-that-is-too-long.."[..], Some(0x20)),
        (b"\x10\x0E\0\x04MQTT\x06\x02\0\0\0\0\x01c", Some(0x20)),
        (b"\x30\x04\0\x01a\0", None),
        (b"\x00\x00", None),
        (b"\x10\x0E\0\x04MQTT\x05\x03\0\0\0\0\x01c", None),
    ] {
        let mut cluster = Cluster::with_limits(1, refused.clone());
        let client = cluster.open(0, Version::V5);
        cluster.send_bytes(client, bytes);
        assert!(cluster.is_closed(client), "{bytes:x?}");
        if let Some(first) = answer {
            assert_eq!(cluster.take_frame(client)[0], first, "{bytes:x?}");
        }
        cluster.expect_nothing(client);
    }
}

/// [MQTT-3.14.1-1]
#[test]
fn reserved_bits_of_disconnect_are_a_fault() {
    for version in VERSIONS {
        for first in [0xE1, 0xE2, 0xE8] {
            let mut cluster = Cluster::new(1);
            let watcher = cluster.connect(0, Version::V5, "watcher");
            cluster.subscribe(watcher, "will", Qos::AtMostOnce);
            let client = with_will(&mut cluster, version, "c");
            cluster.send_bytes(client, &[first, 0]);
            if version == Version::V5 {
                cluster.expect_disconnect(client, ReasonCode::MALFORMED_PACKET);
            }
            assert!(cluster.is_closed(client));
            cluster.expect_message(watcher, "will", b"gone");
        }
    }
}

/// [MQTT-3.14.2-2]
#[test]
fn the_brokers_disconnect_has_no_session_expiry_interval() {
    let mut cluster = Cluster::new(1);
    let (client, _) = kept_for(&mut cluster, 100);
    let (other, present) = kept_for(&mut cluster, 50);
    assert!(present);
    cluster.send_bytes(other, &[0x00, 0]);
    for client in [client, other] {
        cluster.expect(client, |packet| match packet {
            Packet::Disconnect(disconnect) => {
                assert_eq!(disconnect.properties.session_expiry_interval(), None);
            }
            other => panic!("{other:?}"),
        });
    }
}

/// [MQTT-3.14.4-1]
#[test]
fn the_broker_sends_nothing_after_its_disconnect() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let client = cluster.connect(0, Version::V5, "c");
        cluster.subscribe(client, "a", Qos::AtMostOnce);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        // What follows the fault in the same bytes is not looked at any more.
        let mut bytes = vec![0x00, 0];
        bytes.extend(cluster.encoded(client, &Packet::PingReq));
        bytes.extend(cluster.encoded(client, &Packet::Publish(publish("a", b"x", Qos::AtLeastOnce, 1))));
        cluster.send_bytes(client, &bytes);
        cluster.publish(publisher, "a", b"x");
        cluster.expect_disconnect(client, ReasonCode::MALFORMED_PACKET);
        cluster.expect_nothing(client);
        assert_eq!(cluster.total(|stats| stats.messages_received), 1);
    }
}

/// [MQTT-3.14.4-2]
#[test]
fn the_broker_closes_after_its_disconnect() {
    let mut cluster = Cluster::new(2);
    let client = cluster.connect(0, Version::V5, "c");
    let successor = cluster.connect(0, Version::V5, "c");
    cluster.expect_disconnect(client, ReasonCode::SESSION_TAKEN_OVER);
    assert_eq!(cluster.total(|stats| stats.connections), 1);
    cluster.send_bytes(successor, &[0x00, 0]);
    cluster.expect_disconnect(successor, ReasonCode::MALFORMED_PACKET);
    assert_eq!(cluster.total(|stats| stats.connections), 0);
}

/// [MQTT-3.14.4-3]
#[test]
fn a_normal_disconnect_takes_the_will_away() {
    for cores in [1, 2, 8] {
        for version in VERSIONS {
            let mut cluster = Cluster::new(cores);
            let watcher = cluster.connect(0, Version::V5, "watcher");
            cluster.subscribe(watcher, "will", Qos::AtMostOnce);
            let client = with_will(&mut cluster, version, "c");
            leave(&mut cluster, client, ReasonCode::NORMAL_DISCONNECTION);
            cluster.advance(1_000_000);
            cluster.expect_nothing(watcher);
        }
    }
}

/// Section 3.14.4: the Server closes if the Client has not, and takes nothing more from it.
#[test]
fn the_broker_closes_on_disconnect_and_reads_no_further() {
    for version in VERSIONS {
        let mut cluster = Cluster::new(2);
        let client = cluster.connect(0, version, "c");
        let mut bytes = cluster.encoded(client, &Packet::Disconnect(Disconnect::new(ReasonCode::SUCCESS)));
        bytes.extend(cluster.encoded(client, &Packet::PingReq));
        bytes.extend(cluster.encoded(client, &Packet::Publish(publish("a", b"x", Qos::AtLeastOnce, 1))));
        cluster.send_bytes(client, &bytes);
        assert!(cluster.is_closed(client));
        cluster.expect_nothing(client);
        assert_eq!(cluster.total(|stats| stats.messages_received), 0);
    }
}

/// Section 3.14.2.2.2: DISCONNECT may change the interval, but not from 0.
#[test]
fn disconnect_may_replace_the_session_expiry_interval() {
    for cores in [1, 2] {
        let mut cluster = Cluster::new(cores);
        let leave_with = |cluster: &mut Cluster, client, seconds| {
            let list = [Property::SessionExpiryInterval(seconds)];
            let (reason, properties) = (ReasonCode::SUCCESS, Properties::new(&list));
            cluster.send(client, &Packet::Disconnect(Disconnect { reason, properties }));
        };
        let (client, _) = kept_for(&mut cluster, 100);
        leave_with(&mut cluster, client, 10);
        cluster.advance(9_999);
        let (client, present) = kept_for(&mut cluster, 100);
        assert!(present);
        leave_with(&mut cluster, client, 10);
        cluster.advance(10_000);
        let (client, present) = kept_for(&mut cluster, 0);
        assert!(!present);
        leave_with(&mut cluster, client, 10);
        cluster.expect_disconnect(client, ReasonCode::PROTOCOL_ERROR);
    }
}

/// [MQTT-4.1.0-1]
#[test]
fn a_session_stays_as_long_as_its_connection_whatever_its_expiry() {
    for cores in [1, 2, 8] {
        for version in VERSIONS {
            let mut cluster = Cluster::new(cores);
            let client = match version {
                Version::V5 => kept_for(&mut cluster, 1).0,
                _ => cluster.connect(0, version, "c"),
            };
            let publisher = cluster.connect(0, version, "publisher");
            cluster.subscribe(client, "a", Qos::ExactlyOnce);
            cluster.publish_2(publisher, "a", b"first");
            let id = cluster.expect(client, |packet| match packet {
                Packet::Publish(publish) => publish.packet_id.expect("QoS 2"),
                other => panic!("{other:?}"),
            });
            cluster.advance(1_000_000);
            // Its subscription is there, and the flow goes on where it was.
            cluster.publish(publisher, "a", b"second");
            cluster.expect_message(client, "a", b"second");
            cluster.send(client, &Packet::PubRec(Ack::new(id, ReasonCode::SUCCESS)));
            cluster.expect(client, |packet| {
                assert_eq!(packet, &Packet::PubRel(Ack::new(id, ReasonCode::SUCCESS)));
            });
        }
    }
}

/// [MQTT-4.1.0-2]
#[test]
fn a_session_ends_when_its_expiry_has_passed_without_a_connection() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let publisher = cluster.connect(0, Version::V5, "publisher");
        let (client, _) = kept_for(&mut cluster, 10);
        cluster.subscribe(client, "a", Qos::AtLeastOnce);
        cluster.cut(client);
        cluster.advance(9_999);
        cluster.publish_1(publisher, "a", b"in time");
        cluster.advance(1);
        assert_eq!(cluster.publish_1(publisher, "a", b"late"), ReasonCode::NO_MATCHING_SUBSCRIBERS);
        let (client, present) = kept_for(&mut cluster, 10);
        assert!(!present);
        cluster.expect_nothing(client);
    }
}

/// [MQTT-4.1.0-2 v3.1.1]
#[test]
fn before_5_a_session_without_clean_session_is_stored() {
    for cores in [1, 2, 8] {
        for version in [Version::V3_1, Version::V3_1_1] {
            let mut cluster = Cluster::new(cores);
            let publisher = cluster.connect(0, version, "publisher");
            let (client, _) = cluster.resume(0, version, "c");
            cluster.subscribe(client, "a", Qos::AtLeastOnce);
            cluster.cut(client);
            cluster.advance(86_400_000);
            cluster.publish_1(publisher, "a", b"x");
            let (client, _) = cluster.resume(0, version, "c");
            cluster.expect_message(client, "a", b"x");
        }
    }
}

/// [MQTT-4.13.1-1]
#[test]
fn a_fault_of_5_closes_with_its_reason_code() {
    for (bytes, reason) in [
        (&[0x00, 0][..], ReasonCode::MALFORMED_PACKET),
        (&[0x62, 2, 0, 0], ReasonCode::PROTOCOL_ERROR),
        (&[0xD0, 0], ReasonCode::PROTOCOL_ERROR),
        (&[0x30, 4, 0, 1, b'#', 0], ReasonCode::TOPIC_NAME_INVALID),
    ] {
        let mut cluster = Cluster::new(2);
        let client = cluster.connect(0, Version::V5, "c");
        cluster.send_bytes(client, bytes);
        cluster.expect_disconnect(client, reason);
    }
}

/// [MQTT-4.8.0-1 v3.1.1]
#[test]
fn a_protocol_violation_before_5_closes_without_a_word() {
    for version in [Version::V3_1, Version::V3_1_1] {
        for bytes in [&[0x00, 0][..], &[0x62, 2, 0, 0], &[0xD0, 0], &[0x30, 3, 0, 1, b'#'], &[0xF0, 0]] {
            let mut cluster = Cluster::new(2);
            let client = cluster.connect(0, version, "c");
            cluster.send_bytes(client, bytes);
            assert!(cluster.is_closed(client), "{bytes:x?}");
            cluster.expect_nothing(client);
        }
    }
}

/// [MQTT-4.13.2-1]
#[test]
fn a_refused_connect_closes_the_connection() {
    let mut cluster = Cluster::with_limits(1, limits(|limits| limits.client_id_bytes_max = 23));
    for (version, code) in [(Version::V5, 0x85), (Version::V3_1_1, 2)] {
        let client = cluster.open(0, version);
        cluster.send(client, &Packet::Connect(connect(version, "a-name-that-is-too-long..")));
        assert_eq!(cluster.take_frame(client)[3], code);
        assert!(cluster.is_closed(client));
    }
    assert_eq!(cluster.total(|stats| stats.connections), 0);
}

/// A port that never decides.
struct Undecided;

impl Authenticate for Undecided {
    fn authenticate(&mut self, request: &AuthenticateRequest<'_>, _: Ticket) -> Decision<Authentication> {
        match request.client_id {
            "wait" => Decision::Later,
            _ => Decision::Now(Authentication::Accept(Identity::default())),
        }
    }
}

/// [MQTT-4.8.0-2 v3.1.1]
#[test]
fn a_transient_error_closes_the_connection_that_met_it() {
    let limits = limits(|limits| limits.held_input_bytes_max = 65_536);
    let ports = |_| Ports { authenticate: Box::new(Undecided), ..Ports::allow_all() };
    for version in VERSIONS {
        let mut cluster = Cluster::with(1, limits.clone(), ports);
        let other = cluster.connect(0, version, "other");
        let client = cluster.open(0, version);
        cluster.send(client, &Packet::Connect(connect(version, "wait")));
        // More than may wait for the answer that does not come.
        cluster.send_bytes(client, &[0; 65_536]);
        assert!(!cluster.is_closed(client));
        cluster.send_bytes(client, &[0]);
        assert!(cluster.is_closed(client));
        assert!(!cluster.is_closed(other));
    }
}

/// Section 4.13: only the connection that a fault came on is closed.
#[test]
fn a_fault_of_one_client_disturbs_no_other() {
    for cores in [1, 2] {
        let mut cluster = Cluster::new(cores);
        let others = ["one", "two"].map(|name| cluster.connect(0, Version::V5, name));
        cluster.subscribe(others[0], "a", Qos::AtLeastOnce);
        let client = cluster.connect(0, Version::V5, "c");
        cluster.send_bytes(client, &[0x00, 0]);
        cluster.publish_1(others[1], "a", b"x");
        cluster.expect_message(others[0], "a", b"x");
    }
}
