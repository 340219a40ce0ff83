//! CONNACK and what it announces: section 3.2 of both standards, statement by statement.

use mqtt_broker::config::Limits;
use mqtt_broker::ports::{
    Authenticate, AuthenticateRequest, Authentication, Decision, Identity, Ports, Ticket,
};
use mqtt_proto::packet::{Connect, Packet, Properties, Property, Publish, Will};
use mqtt_proto::types::{Qos, ReasonCode, TopicName, Version};

use crate::cluster::{ClientId, Cluster, connect, limits, publish};

const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

/// Refuses Clients with a Password of one byte, which is the Reason Code.
struct Refuse;

impl Authenticate for Refuse {
    fn authenticate(&mut self, request: &AuthenticateRequest<'_>, _: Ticket) -> Decision<Authentication> {
        Decision::Now(match request.password {
            Some(&[code]) => Authentication::Refuse(ReasonCode(code)),
            _ => Authentication::Accept(Identity::default()),
        })
    }
}

fn refusing() -> Cluster {
    Cluster::with(1, Limits::default(), |_| Ports { authenticate: Box::new(Refuse), ..Ports::allow_all() })
}

/// A CONNECT that [`Refuse`] refuses with this Reason Code.
fn refused(version: Version, code: &[u8]) -> Connect<'_> {
    Connect { clean_start: false, user_name: Some(""), password: Some(code), ..connect(version, "c") }
}

/// Sends CONNECT; the bytes of the CONNACK.
#[track_caller]
fn answer(cluster: &mut Cluster, connect: Connect<'_>) -> (ClientId, Vec<u8>) {
    let client = cluster.open(0, connect.version);
    cluster.send(client, &Packet::Connect(connect));
    let connack = cluster.take_frame(client);
    assert_eq!(connack[0], 0x20);
    (client, connack)
}

/// Connects with 5.0; the properties of the CONNACK passed to `look`.
#[track_caller]
fn told<T>(
    cluster: &mut Cluster,
    asked: Connect<'_>,
    look: impl FnOnce(Properties<'_>) -> T,
) -> (ClientId, T) {
    let client = cluster.open(0, Version::V5);
    cluster.send(client, &Packet::Connect(asked));
    let looked = cluster.expect(client, |packet| match packet {
        Packet::ConnAck(connack) if connack.reason == ReasonCode::SUCCESS => look(connack.properties),
        other => panic!("{other:?}"),
    });
    (client, looked)
}

fn will(qos: Qos, retain: bool) -> Will<'static> {
    let topic = TopicName::new("will").expect("a topic");
    Will { topic, payload: b"", qos, retain, properties: Properties::EMPTY }
}

/// [MQTT-3.2.0-1]
#[test]
fn connack_comes_before_everything_else() {
    for version in VERSIONS {
        let mut cluster = Cluster::new(1);
        let (client, _) = cluster.resume(0, version, "c");
        cluster.subscribe(client, "a", Qos::AtLeastOnce);
        cluster.cut(client);
        let publisher = cluster.connect(0, version, "publisher");
        cluster.publish_1(publisher, "a", b"waiting");
        // A message waits for the session, and a PINGREQ stands right behind the CONNECT.
        let client = cluster.open(0, version);
        let asked = Connect { clean_start: false, ..connect(version, "c") };
        let mut bytes = cluster.encoded(client, &Packet::Connect(asked));
        bytes.extend([0xC0, 0]);
        cluster.send_bytes(client, &bytes);
        assert_eq!(cluster.pending(client), 3);
        cluster.expect(client, |packet| assert!(matches!(packet, Packet::ConnAck(_)), "{packet:?}"));
    }
}

/// [MQTT-3.2.0-2]
#[test]
fn connack_is_sent_once() {
    for version in VERSIONS {
        let mut cluster = Cluster::new(1);
        let client = cluster.connect(0, version, "c");
        cluster.send(client, &Packet::PingReq);
        cluster.expect(client, |packet| assert_eq!(packet, &Packet::PingResp));
        // Not even for a second CONNECT.
        cluster.send(client, &Packet::Connect(connect(version, "c")));
        while let Some(packet) = cluster.look(client, |packet| packet.packet_type()) {
            assert_ne!(packet, mqtt_proto::PacketType::ConnAck);
        }
    }
}

/// [MQTT-3.2.2-1]
#[test]
fn the_connect_acknowledge_flags_hold_session_present_and_nothing_else() {
    for version in [Version::V3_1_1, Version::V5] {
        let mut cluster = Cluster::new(1);
        let (client, _) = cluster.resume(0, version, "c");
        cluster.cut(client);
        let (_, connack) = answer(&mut cluster, Connect { clean_start: false, ..connect(version, "c") });
        assert_eq!(connack[2], 1);
        let (_, connack) = answer(&mut cluster, connect(version, "c"));
        assert_eq!(connack[2], 0);
    }
    // 3.1 has no such flag.
    let mut cluster = Cluster::new(1);
    let (client, _) = cluster.resume(0, Version::V3_1, "c");
    cluster.cut(client);
    let (_, connack) = answer(&mut cluster, Connect { clean_start: false, ..connect(Version::V3_1, "c") });
    assert_eq!(connack, [0x20, 2, 0, 0]);
}

/// [MQTT-3.2.2-2] [MQTT-3.2.2-1 v3.1.1]
#[test]
fn with_clean_start_no_session_is_present() {
    for version in [Version::V3_1_1, Version::V5] {
        let mut cluster = Cluster::new(1);
        let (client, _) = cluster.resume(0, version, "c");
        cluster.cut(client);
        let (_, connack) = answer(&mut cluster, connect(version, "c"));
        assert_eq!((connack[2] & 1, connack[3]), (0, 0));
    }
}

/// [MQTT-3.2.2-3] [MQTT-3.2.2-2 v3.1.1]
#[test]
fn a_session_that_is_stored_is_present() {
    for version in [Version::V3_1_1, Version::V5] {
        let mut cluster = Cluster::new(1);
        let (client, _) = cluster.resume(0, version, "c");
        cluster.cut(client);
        let (_, connack) = answer(&mut cluster, Connect { clean_start: false, ..connect(version, "c") });
        assert_eq!((connack[2] & 1, connack[3]), (1, 0));
    }
}

/// [MQTT-3.2.2-3] [MQTT-3.2.2-3 v3.1.1]
#[test]
fn a_session_that_is_not_stored_is_not_present() {
    for version in [Version::V3_1_1, Version::V5] {
        let mut cluster = Cluster::new(1);
        let (other, _) = cluster.resume(0, version, "another");
        cluster.cut(other);
        let (_, connack) = answer(&mut cluster, Connect { clean_start: false, ..connect(version, "c") });
        assert_eq!((connack[2] & 1, connack[3]), (0, 0));
    }
}

/// [MQTT-3.2.2-6] [MQTT-3.2.2-4 v3.1.1]
#[test]
fn a_refusal_says_that_no_session_is_present() {
    for version in [Version::V3_1_1, Version::V5] {
        let mut cluster = refusing();
        let (client, _) = cluster.resume(0, version, "c");
        cluster.cut(client);
        let (_, connack) = answer(&mut cluster, refused(version, &[0x87]));
        assert_eq!(connack[2] & 1, 0);
        assert_ne!(connack[3], 0);
    }
}

/// [MQTT-3.2.2-7] [MQTT-3.2.2-5 v3.1.1]
#[test]
fn a_refusal_closes_the_connection() {
    for version in VERSIONS {
        for code in [0x80, 0x85, 0x86, 0x87, 0x88, 0x8A, 0x97] {
            let mut cluster = refusing();
            let (client, _) = answer(&mut cluster, refused(version, &[code]));
            assert!(cluster.is_closed(client));
            cluster.expect_nothing(client);
        }
    }
}

/// [MQTT-3.2.2-8]
#[test]
fn a_refusal_has_one_of_the_codes_of_connack() {
    for (code, sent) in [(0x87, 0x87), (0x9D, 0x9D), (0x93, 0x80), (0x8E, 0x80), (0xFF, 0x80)] {
        let mut cluster = refusing();
        let (_, connack) = answer(&mut cluster, refused(Version::V5, &[code]));
        assert_eq!(connack[3], sent, "{code:#x}");
    }
    for (code, sent) in [(0x84, 1), (0x85, 2), (0x88, 3), (0x86, 4), (0x87, 5), (0x93, 5)] {
        let mut cluster = refusing();
        let (_, connack) = answer(&mut cluster, refused(Version::V3_1_1, &[code]));
        assert_eq!(connack, [0x20, 2, 0, sent], "{code:#x}");
    }
}

/// [MQTT-3.2.2-9]
#[test]
fn a_maximum_qos_below_2_is_told() {
    for (qos, expected) in [(Qos::AtMostOnce, Some(0)), (Qos::AtLeastOnce, Some(1)), (Qos::ExactlyOnce, None)]
    {
        let mut cluster = Cluster::with_limits(1, limits(|limits| limits.maximum_qos = qos));
        let (_, maximum) =
            told(&mut cluster, connect(Version::V5, "c"), |properties| properties.maximum_qos());
        assert_eq!(maximum, expected);
    }
}

/// [MQTT-3.2.2-10]
#[test]
fn a_subscription_may_ask_for_more_than_the_maximum_qos() {
    for version in VERSIONS {
        let only_0 = limits(|limits| limits.maximum_qos = Qos::AtMostOnce);
        let mut cluster = Cluster::with_limits(1, only_0);
        let client = cluster.connect(0, version, "c");
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let options = mqtt_proto::packet::SubscriptionOptions::new(qos);
            let reason = cluster.subscribe_with(client, "a", options, Properties::EMPTY);
            assert_eq!(reason, ReasonCode::GRANTED_QOS_0);
        }
    }
}

/// [MQTT-3.2.2-12]
#[test]
fn a_will_qos_above_the_maximum_is_refused() {
    let up_to_1 = limits(|limits| limits.maximum_qos = Qos::AtLeastOnce);
    for (qos, code) in [(Qos::AtMostOnce, 0), (Qos::AtLeastOnce, 0), (Qos::ExactlyOnce, 0x9B)] {
        let mut cluster = Cluster::with_limits(1, up_to_1.clone());
        let asked = Connect { will: Some(will(qos, false)), ..connect(Version::V5, "c") };
        let (client, connack) = answer(&mut cluster, asked);
        assert_eq!((connack[3], cluster.is_closed(client)), (code, code != 0));
    }
}

/// [MQTT-3.2.2-13]
#[test]
fn a_retained_will_is_refused_where_retain_is_not_available() {
    let nothing_retained = limits(|limits| limits.retain_available = false);
    for (retain, code) in [(false, 0), (true, 0x9A)] {
        let mut cluster = Cluster::with_limits(1, nothing_retained.clone());
        let asked = Connect { will: Some(will(Qos::AtMostOnce, retain)), ..connect(Version::V5, "c") };
        let (client, connack) = answer(&mut cluster, asked);
        assert_eq!((connack[3], cluster.is_closed(client)), (code, code != 0));
    }
}

fn assigned(cluster: &mut Cluster) -> (ClientId, Option<String>) {
    told(cluster, connect(Version::V5, ""), |properties| {
        properties.iter().find_map(|property| match property {
            Property::AssignedClientIdentifier(name) => Some(name.to_owned()),
            _ => None,
        })
    })
}

/// [MQTT-3.1.3-7] [MQTT-3.2.2-16]
#[test]
fn a_client_without_a_client_id_is_told_its_own() {
    let mut cluster = Cluster::new(1);
    let (client, name) = assigned(&mut cluster);
    // It is the name of this connection: whoever else uses it takes over.
    cluster.connect(0, Version::V5, &name.expect("an Assigned Client Identifier"));
    cluster.expect_disconnect(client, ReasonCode::SESSION_TAKEN_OVER);
}

/// [MQTT-3.2.2-16]
#[test]
fn an_assigned_client_id_belongs_to_no_other_session() {
    // What another broker of the same seed would assign first is in use here.
    let (_, taken) = assigned(&mut Cluster::new(1));
    let taken = taken.expect("an Assigned Client Identifier");
    let mut cluster = Cluster::new(1);
    let (client, _) = cluster.resume(0, Version::V5, &taken);
    cluster.cut(client);
    let (_, first) = assigned(&mut cluster);
    let (_, second) = assigned(&mut cluster);
    assert!(first.is_some() && second.is_some());
    assert!(first != second && first.as_deref() != Some(&*taken) && second.as_deref() != Some(&*taken));
}

/// Section 3.2.2.3.7: who brings a ClientID is told none.
#[test]
fn a_client_with_a_client_id_is_told_none() {
    let mut cluster = Cluster::new(1);
    told(&mut cluster, connect(Version::V5, "c"), |properties| {
        let assigned = |property: &Property<'_>| matches!(property, Property::AssignedClientIdentifier(_));
        assert!(!properties.iter().any(|property| assigned(&property)));
    });
}

/// [MQTT-3.2.2-22]
#[test]
fn the_keep_alive_of_the_client_holds_unless_another_is_told() {
    let mut cluster = Cluster::with_limits(1, limits(|limits| limits.keep_alive_max_seconds = 100));
    for (asked, in_force) in [(100, 100), (99, 99), (1, 1), (101, 100)] {
        let (client, server_keep_alive) =
            told(&mut cluster, Connect { keep_alive: asked, ..connect(Version::V5, "c") }, |properties| {
                properties.server_keep_alive()
            });
        assert_eq!(server_keep_alive, (asked != in_force).then_some(in_force));
        cluster.advance(u64::from(in_force) * 1500 - 1);
        assert!(!cluster.is_closed(client));
        cluster.advance(1);
        assert!(cluster.is_closed(client));
    }
}

/// [MQTT-3.1.2-28]
#[test]
fn no_response_information_is_returned() {
    let mut cluster = Cluster::new(1);
    for value in [0, 1] {
        let list = [Property::RequestResponseInformation(value)];
        let asked = Connect { properties: Properties::new(&list), ..connect(Version::V5, "c") };
        told(&mut cluster, asked, |properties| {
            let information = |property: &Property<'_>| matches!(property, Property::ResponseInformation(_));
            assert!(!properties.iter().any(|property| information(&property)));
        });
    }
}

/// Section 3.2.2.3.2: a Session Expiry Interval that is not the one asked for is told.
#[test]
fn a_session_expiry_interval_is_told_where_it_is_another() {
    let an_hour = limits(|limits| limits.session_expiry_max_seconds = 3600);
    let mut cluster = Cluster::with_limits(1, an_hour);
    for (asked, expected) in [(0, None), (3600, None), (3601, Some(3600)), (u32::MAX, Some(3600))] {
        let list = [Property::SessionExpiryInterval(asked)];
        let asked = Connect { properties: Properties::new(&list), ..connect(Version::V5, "c") };
        let (_, expiry) = told(&mut cluster, asked, |properties| properties.session_expiry_interval());
        assert_eq!(expiry, expected);
    }
}

/// Section 3.2.2.3: what is not limited is not mentioned.
#[test]
fn limits_are_told_where_they_are_not_the_default() {
    let mut cluster = Cluster::with_limits(1, limits(|limits| limits.receive_maximum = 7));
    let (_, receive_maximum) =
        told(&mut cluster, connect(Version::V5, "c"), |properties| properties.receive_maximum());
    assert_eq!(receive_maximum, Some(7));
    let mut cluster = Cluster::with_limits(1, limits(|limits| limits.receive_maximum = u16::MAX));
    let (_, receive_maximum) =
        told(&mut cluster, connect(Version::V5, "c"), |properties| properties.receive_maximum());
    assert_eq!(receive_maximum, None);
}

/// A Client of a broker with these limits, that sends this and is closed with this Reason Code.
#[track_caller]
fn ends_at(limits: Limits, packet: &Packet<'_>, reason: ReasonCode) {
    let mut cluster = Cluster::with_limits(1, limits);
    let client = cluster.connect(0, Version::V5, "c");
    cluster.send(client, packet);
    cluster.expect_disconnect(client, reason);
}

/// Section 3.2.2.3.4.
#[test]
fn a_publish_above_the_maximum_qos_is_0x9b() {
    let up_to_1 = limits(|limits| limits.maximum_qos = Qos::AtLeastOnce);
    let publish = publish("a", b"", Qos::ExactlyOnce, 1);
    ends_at(up_to_1, &Packet::Publish(publish), ReasonCode::QOS_NOT_SUPPORTED);
}

/// Section 3.2.2.3.5.
#[test]
fn a_retained_publish_where_retain_is_not_available_is_0x9a() {
    let nothing_retained = limits(|limits| limits.retain_available = false);
    let publish = Publish { retain: true, ..publish("a", b"", Qos::AtMostOnce, 1) };
    ends_at(nothing_retained, &Packet::Publish(publish), ReasonCode::RETAIN_NOT_SUPPORTED);
}

/// Section 3.2.2.3.6.
#[test]
fn a_packet_above_the_maximum_packet_size_is_0x95() {
    let small = limits(|limits| limits.packet_bytes_max = 100);
    let publish = publish("a", &[0; 95], Qos::AtMostOnce, 1);
    ends_at(small, &Packet::Publish(publish), ReasonCode::PACKET_TOO_LARGE);
}
