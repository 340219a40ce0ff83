//! CONNECT: what is refused and how, who gets which name, how long silence is borne, how long a session lives.

use std::cell::RefCell;
use std::rc::Rc;

use mqtt_broker::ports::{Commit, Ports, Store};
use mqtt_broker::store::record::Record;
use mqtt_proto::packet::{Connect, Disconnect, Packet, Properties, Property};
use mqtt_proto::types::{Qos, ReasonCode, Version};

use crate::cluster::{ClientId, Cluster, connect, limits};

const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

/// Sends CONNECT; Session Present and Reason Code of the CONNACK.
#[track_caller]
fn ask(cluster: &mut Cluster, connect: Connect<'_>) -> (ClientId, bool, ReasonCode) {
    let client = cluster.open(0, connect.version);
    cluster.send(client, &Packet::Connect(connect));
    let (present, reason) = cluster.expect(client, |packet| match packet {
        Packet::ConnAck(connack) => (connack.session_present, connack.reason),
        other => panic!("{other:?}"),
    });
    (client, present, reason)
}

/// The ClientID and Server Keep Alive of a successful CONNACK.
#[track_caller]
fn told(cluster: &mut Cluster, connect: Connect<'_>) -> (ClientId, Option<String>, Option<u16>, Option<u32>) {
    let client = cluster.open(0, connect.version);
    cluster.send(client, &Packet::Connect(connect));
    cluster.expect(client, |packet| {
        let Packet::ConnAck(connack) = packet else { panic!("{packet:?}") };
        assert_eq!(connack.reason, ReasonCode::SUCCESS);
        let (mut name, mut keep_alive, mut expiry) = (None, None, None);
        for property in connack.properties.iter() {
            match property {
                Property::AssignedClientIdentifier(assigned) => name = Some(assigned.to_owned()),
                Property::ServerKeepAlive(seconds) => keep_alive = Some(seconds),
                Property::SessionExpiryInterval(seconds) => expiry = Some(seconds),
                _ => {}
            }
        }
        (client, name, keep_alive, expiry)
    })
}

#[test]
fn a_second_connect_closes_the_connection() {
    for cores in [1, 2, 8] {
        for version in VERSIONS {
            let mut cluster = Cluster::new(cores);
            let client = cluster.connect(0, version, "c");
            cluster.send(client, &Packet::Connect(connect(version, "c")));
            if version == Version::V5 {
                cluster.expect_disconnect(client, ReasonCode::PROTOCOL_ERROR);
            }
            cluster.expect_nothing(client);
            assert!(cluster.is_closed(client));
            assert_eq!(cluster.total(|stats| stats.connections), 0);
        }
    }
}

#[test]
fn a_first_packet_other_than_connect_closes_without_an_answer() {
    let mut cluster = Cluster::new(1);
    for bytes in [&[0xC0, 0][..], &[0x30, 3, 0, 1, b'a'], &[0xE0, 0], &[0xF0, 0], &[0x00], b"GET / HTTP/1.1"]
    {
        let client = cluster.open(0, Version::V5);
        cluster.send_bytes(client, bytes);
        assert!(cluster.is_closed(client), "{bytes:?}");
        cluster.expect_nothing(client);
    }
}

#[test]
fn a_silent_socket_is_closed_after_the_connect_timeout_whatever_trickles_in() {
    let mut cluster = Cluster::with_limits(1, limits(|limits| limits.connect_timeout_seconds = 7));
    let (silent, slow) = (cluster.open(0, Version::V5), cluster.open(0, Version::V5));
    let bytes = cluster.encoded(slow, &Packet::Connect(connect(Version::V5, "slow")));
    for byte in &bytes[..6] {
        cluster.advance(1000);
        cluster.send_bytes(slow, &[*byte]);
    }
    assert!(!cluster.is_closed(silent) && !cluster.is_closed(slow));
    cluster.advance(1000);
    assert!(cluster.is_closed(silent) && cluster.is_closed(slow));
    cluster.expect_nothing(silent);
    cluster.expect_nothing(slow);
}

#[test]
fn an_empty_client_id_gets_one_that_is_at_home_where_it_connects() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let mut names = Vec::new();
        for core in 0..usize::from(cores) {
            let client = cluster.open(core, Version::V5);
            cluster.send(client, &Packet::Connect(connect(Version::V5, "")));
            let name = cluster.expect(client, |packet| {
                let Packet::ConnAck(connack) = packet else { panic!("{packet:?}") };
                connack.properties.iter().find_map(|property| match property {
                    Property::AssignedClientIdentifier(name) => Some(name.to_owned()),
                    _ => None,
                })
            });
            assert_eq!(cluster.core_of(client), core, "no hand-off for a name of our own");
            names.push(name.expect("5.0 Clients are told [MQTT-3.1.3-7]"));
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), usize::from(cores), "all different");
        // The name works as any other: its session can be resumed under it.
        let properties = [Property::SessionExpiryInterval(60)];
        let asked = Connect { properties: Properties::new(&properties), ..connect(Version::V5, "") };
        let (client, name, ..) = told(&mut cluster, asked);
        cluster.cut(client);
        let (_, present) = cluster.resume(0, Version::V5, &name.expect("told"));
        assert!(present);
    }
}

#[test]
fn an_empty_client_id_before_5_needs_clean_session_and_in_3_1_is_never_right() {
    let mut cluster = Cluster::new(2);
    for (version, clean_start, expected) in [
        (Version::V3_1_1, true, ReasonCode::SUCCESS),
        (Version::V3_1_1, false, ReasonCode::CLIENT_IDENTIFIER_NOT_VALID),
        (Version::V3_1, true, ReasonCode::CLIENT_IDENTIFIER_NOT_VALID),
    ] {
        let (client, present, reason) = ask(&mut cluster, Connect { clean_start, ..connect(version, "") });
        assert_eq!((present, reason), (false, expected));
        assert_eq!(cluster.is_closed(client), reason.is_error());
    }
}

#[test]
fn a_refusal_before_5_is_return_code_2_on_the_wire() {
    let mut cluster = Cluster::new(1);
    let client = cluster.open(0, Version::V3_1_1);
    let refused = Connect { clean_start: false, ..connect(Version::V3_1_1, "") };
    let bytes = cluster.encoded(client, &Packet::Connect(refused));
    cluster.send_bytes(client, &bytes);
    assert_eq!(cluster.take_frame(client), [0x20, 2, 0, 2]);
}

#[test]
fn a_client_id_may_have_64_kib_and_may_be_limited() {
    let longest = "x".repeat(65_535);
    for cores in [1, 8] {
        let mut cluster = Cluster::new(cores);
        for version in VERSIONS {
            let (client, present) = cluster.resume(0, version, &longest);
            cluster.subscribe(client, "a", Qos::AtLeastOnce);
            assert_eq!(present, version == Version::V5 || version == Version::V3_1_1 && present);
            cluster.cut(client);
        }
    }
    let mut cluster = Cluster::with_limits(1, limits(|limits| limits.client_id_bytes_max = 100));
    let (_, _, reason) = ask(&mut cluster, connect(Version::V5, &longest[..100]));
    assert_eq!(reason, ReasonCode::SUCCESS);
    let (client, _, reason) = ask(&mut cluster, connect(Version::V5, &longest[..101]));
    assert_eq!(reason, ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
    assert!(cluster.is_closed(client));
}

#[test]
fn an_unsupported_level_is_answered_in_the_dialect_next_to_it() {
    for (level, expected) in [
        (6, &[0x20, 3, 0, 0x84, 0][..]),
        (0x7F, &[0x20, 3, 0, 0x84, 0]),
        (3, &[0x20, 2, 0, 1]),
        (0, &[0x20, 2, 0, 1]),
        // What some bridges ask for first: 3.1.1 with the top bit set.
        (0x84, &[0x20, 2, 0, 1]),
    ] {
        let mut cluster = Cluster::new(1);
        let client = cluster.open(0, Version::V5);
        cluster.send_bytes(client, &[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', level, 2, 0, 0, 0, 1, b'c']);
        assert_eq!(cluster.take_frame(client), expected, "level {level:#x}");
        assert!(cluster.is_closed(client));
    }
}

#[test]
fn the_connection_is_closed_one_and_a_half_keep_alives_after_the_last_byte() {
    for cores in [1, 2, 8] {
        for version in VERSIONS {
            let mut cluster = Cluster::new(cores);
            let (client, _) = cluster.connect_with(0, Connect { keep_alive: 10, ..connect(version, "c") });
            for _ in 0..3 {
                cluster.advance(14_999);
                cluster.send(client, &Packet::PingReq);
                cluster.expect(client, |packet| assert_eq!(packet, &Packet::PingResp));
            }
            cluster.advance(14_999);
            assert!(!cluster.is_closed(client));
            cluster.advance(1);
            assert!(cluster.is_closed(client));
            if version == Version::V5 {
                cluster.expect_disconnect(client, ReasonCode::KEEP_ALIVE_TIMEOUT);
            }
            cluster.expect_nothing(client);
        }
    }
}

#[test]
fn what_the_broker_sends_does_not_extend_the_keep_alive_and_zero_means_none() {
    let mut cluster = Cluster::new(2);
    let (client, _) = cluster.connect_with(0, Connect { keep_alive: 10, ..connect(Version::V5, "c") });
    cluster.subscribe(client, "a", Qos::AtMostOnce);
    let publisher = cluster.connect(0, Version::V5, "forever");
    cluster.advance(14_000);
    cluster.publish(publisher, "a", b"x");
    cluster.advance(1_000);
    assert!(cluster.is_closed(client));
    cluster.advance(1_000_000_000);
    assert!(!cluster.is_closed(publisher));
}

#[test]
fn a_longer_keep_alive_than_allowed_is_replaced_by_that_of_the_server() {
    let mut cluster = Cluster::with_limits(1, limits(|limits| limits.keep_alive_max_seconds = 60));
    for (asked, expected) in [(0, Some(60)), (61, Some(60)), (60, None), (1, None)] {
        let (client, _, keep_alive, _) =
            told(&mut cluster, Connect { keep_alive: asked, ..connect(Version::V5, "c") });
        assert_eq!(keep_alive, expected, "asked for {asked}");
        let in_force = u64::from(expected.unwrap_or(asked)) * 1500;
        cluster.advance(in_force - 1);
        assert!(!cluster.is_closed(client));
        cluster.advance(1);
        assert!(cluster.is_closed(client));
    }
    // Before 5.0 nobody can be told, so nothing is changed.
    let (old, _) = cluster.connect_with(0, Connect { keep_alive: 600, ..connect(Version::V3_1_1, "old") });
    cluster.advance(600_000);
    assert!(!cluster.is_closed(old));
}

#[test]
fn a_session_is_present_exactly_while_it_lives() {
    for cores in [1, 2, 8] {
        let mut cluster = Cluster::new(cores);
        let (client, present) = cluster.resume(0, Version::V5, "c");
        assert!(!present);
        cluster.subscribe(client, "a", Qos::AtLeastOnce);
        cluster.cut(client);
        cluster.advance(3_599_999);
        let (client, present) = cluster.resume(0, Version::V5, "c");
        assert!(present, "an hour begins when the connection ends");
        cluster.advance(7_200_000);
        cluster.cut(client);
        cluster.advance(3_600_000);
        assert_eq!(cluster.total(|stats| stats.sessions + stats.subscriptions), 0);
        let (client, present) = cluster.resume(0, Version::V5, "c");
        assert!(!present);
        cluster.cut(client);
        // Clean Start ends what is there [MQTT-3.1.2-4].
        let client = cluster.connect(0, Version::V5, "c");
        cluster.cut(client);
        assert_eq!(cluster.total(|stats| stats.sessions), 0, "no expiry: ends with its connection");
    }
}

#[test]
fn disconnect_may_change_the_session_expiry_but_not_from_zero() {
    for cores in [1, 2] {
        let mut cluster = Cluster::new(cores);
        let leave = |cluster: &mut Cluster, client, seconds| {
            let list = [Property::SessionExpiryInterval(seconds)];
            let properties = Properties::new(&list);
            let reason = ReasonCode::NORMAL_DISCONNECTION;
            cluster.send(client, &Packet::Disconnect(Disconnect { reason, properties }));
            assert!(cluster.is_closed(client));
        };
        let (client, _) = cluster.resume(0, Version::V5, "shorter");
        leave(&mut cluster, client, 10);
        cluster.expect_nothing(client);
        cluster.advance(10_000);
        assert!(!cluster.resume(0, Version::V5, "shorter").1);

        let (client, _) = cluster.resume(0, Version::V5, "longer");
        leave(&mut cluster, client, u32::MAX);
        cluster.advance(100_000_000_000);
        assert!(cluster.resume(0, Version::V5, "longer").1);

        let (client, _) = cluster.resume(0, Version::V5, "none");
        leave(&mut cluster, client, 0);
        assert!(!cluster.resume(0, Version::V5, "none").1);

        let client = cluster.connect(0, Version::V5, "from zero");
        leave(&mut cluster, client, 0);
        cluster.expect_nothing(client);
        let client = cluster.connect(0, Version::V5, "from zero");
        leave(&mut cluster, client, 1);
        cluster.expect_disconnect(client, ReasonCode::PROTOCOL_ERROR);
        assert!(!cluster.resume(0, Version::V5, "from zero").1);
    }
}

#[test]
fn a_client_that_comes_and_goes_leaves_no_deadline_behind() {
    for clean_start in [false, true] {
        let mut cluster = Cluster::new(1);
        for n in 0..10 {
            let expiry = [Property::SessionExpiryInterval(100_000_000 + n)];
            let properties = Properties::new(&expiry);
            let delay = [Property::WillDelayInterval(50_000_000 + n)];
            let will = mqtt_proto::packet::Will {
                topic: mqtt_proto::types::TopicName::new("will").expect("a topic"),
                payload: b"",
                qos: Qos::AtMostOnce,
                retain: false,
                properties: Properties::new(&delay),
            };
            let asked = Connect {
                clean_start,
                properties,
                keep_alive: u16::MAX,
                will: Some(will),
                ..connect(Version::V5, "c")
            };
            let (client, _) = cluster.connect_with(0, asked);
            cluster.cut(client);
        }
        // Far ahead a core may look earlier than it has to.
        let next = cluster.shards[0].poll_timeout();
        let last_will = cluster.now.millis + 50_000_009_000;
        assert!(next.is_some_and(|next| next > cluster.now.millis + 1_000_000_000 && next <= last_will));
        let client = cluster.connect(0, Version::V5, "c");
        cluster.cut(client);
        assert_eq!(cluster.shards[0].poll_timeout(), None);
    }
}

/// Writes down what it is told of sessions.
#[derive(Clone, Default)]
struct Notes(Rc<RefCell<Vec<String>>>);

impl Store for Notes {
    fn append(&mut self, record: &Record<'_>) -> Commit {
        match record {
            Record::Opened { expiry_seconds, .. } | Record::Expiry { expiry_seconds, .. } => {
                self.0.borrow_mut().push(format!("kept for {expiry_seconds}"));
            }
            Record::Ended { .. } => self.0.borrow_mut().push("ended".to_owned()),
            _ => {}
        }
        Commit::Now
    }
}

#[test]
fn the_store_is_told_of_every_session_that_is_kept_and_of_its_end() {
    let notes = Notes::default();
    let store = notes.clone();
    let ports = move |_| Ports { store: Box::new(store.clone()), ..Ports::allow_all() };
    let mut cluster = Cluster::with(1, limits(|_| {}), ports);
    let told = |expected: &[&str]| {
        assert_eq!(notes.0.borrow_mut().drain(..).collect::<Vec<_>>(), expected);
    };
    let leave = |cluster: &mut Cluster, client, seconds| {
        let list = [Property::SessionExpiryInterval(seconds)];
        let (reason, properties) = (ReasonCode::SUCCESS, Properties::new(&list));
        cluster.send(client, &Packet::Disconnect(Disconnect { reason, properties }));
    };
    let passing = cluster.connect(0, Version::V5, "c");
    cluster.cut(passing);
    told(&[]);
    let (client, _) = cluster.resume(0, Version::V5, "c");
    leave(&mut cluster, client, 7200);
    told(&["kept for 3600", "kept for 7200"]);
    let (client, _) = cluster.resume(0, Version::V5, "c");
    leave(&mut cluster, client, 0);
    told(&["kept for 3600", "ended"]);
    // Resumed by a Client that no longer wants it kept.
    let (client, _) = cluster.resume(0, Version::V5, "c");
    cluster.cut(client);
    let resumed = Connect { clean_start: false, ..connect(Version::V5, "c") };
    let (client, present) = cluster.connect_with(0, resumed);
    assert!(present);
    cluster.cut(client);
    told(&["kept for 3600", "kept for 0", "ended"]);
}

#[test]
fn a_longer_session_expiry_than_allowed_is_cut_and_told() {
    let limits = limits(|limits| {
        limits.session_expiry_max_seconds = 100;
        limits.session_expiry_v3_seconds = 200
    });
    let mut cluster = Cluster::with_limits(2, limits);
    for (asked, expected) in [(100, None), (101, Some(100)), (u32::MAX, Some(100))] {
        let list = [Property::SessionExpiryInterval(asked)];
        let connect = Connect { properties: Properties::new(&list), ..connect(Version::V5, "c") };
        let (client, _, _, expiry) = told(&mut cluster, connect);
        assert_eq!(expiry, expected);
        let longer = [Property::SessionExpiryInterval(1000)];
        let (reason, properties) = (ReasonCode::SUCCESS, Properties::new(&longer));
        cluster.send(client, &Packet::Disconnect(Disconnect { reason, properties }));
        cluster.advance(99_999);
        assert_eq!(cluster.total(|stats| stats.sessions), 1);
        cluster.advance(1);
        assert_eq!(cluster.total(|stats| stats.sessions), 0, "DISCONNECT cannot ask for more either");
    }
    for version in [Version::V3_1, Version::V3_1_1] {
        let (client, _) = cluster.resume(0, version, "old");
        cluster.cut(client);
        cluster.advance(99_999);
        assert_eq!(cluster.total(|stats| stats.sessions), 1);
        cluster.advance(1);
        assert_eq!(cluster.total(|stats| stats.sessions), 0);
    }
}

#[test]
fn a_full_broker_refuses_new_sessions_but_not_the_successor_of_one_it_has() {
    for cores in [1, 2] {
        let mut cluster = Cluster::with_limits(cores, limits(|limits| limits.sessions_max = 2));
        let (kept, _) = cluster.resume(0, Version::V5, "kept");
        cluster.connect(0, Version::V5, "clean");
        let (client, _, reason) = ask(&mut cluster, connect(Version::V5, "third"));
        assert_eq!(reason, ReasonCode::QUOTA_EXCEEDED);
        assert!(cluster.is_closed(client));
        // Both take their own place, whether the session ends with the old connection or by Clean Start.
        for name in ["clean", "kept", "clean"] {
            let (client, _, reason) = ask(&mut cluster, connect(Version::V5, name));
            assert_eq!(reason, ReasonCode::SUCCESS, "{name}");
            assert!(!cluster.is_closed(client));
        }
        cluster.expect_disconnect(kept, ReasonCode::SESSION_TAKEN_OVER);
    }
}

#[test]
fn a_connack_that_the_client_does_not_accept_closes_the_connection() {
    let mut cluster = Cluster::new(1);
    let list = [Property::MaximumPacketSize(10)];
    let client = cluster.open(0, Version::V5);
    let asked = Connect { properties: Properties::new(&list), ..connect(Version::V5, "c") };
    cluster.send(client, &Packet::Connect(asked));
    cluster.expect_nothing(client);
    assert!(cluster.is_closed(client), "it would wait for ever");
}

#[test]
fn input_may_come_byte_by_byte() {
    for cores in [1, 8] {
        for version in VERSIONS {
            let mut cluster = Cluster::new(cores);
            let client = cluster.open(0, version);
            let subscriber = cluster.connect(0, version, "subscriber");
            cluster.subscribe(subscriber, "a/b", Qos::AtMostOnce);
            let topic = mqtt_proto::types::TopicName::new("a/b").expect("a topic");
            let publish = crate::cluster::publish("a/b", b"payload", Qos::AtMostOnce, 0);
            let mut bytes = cluster.encoded(client, &Packet::Connect(connect(version, "c")));
            bytes.extend(cluster.encoded(client, &Packet::Publish(publish)));
            bytes.extend(cluster.encoded(client, &Packet::PingReq));
            for byte in bytes {
                cluster.send_bytes(client, &[byte]);
            }
            cluster.expect(client, |packet| assert!(matches!(packet, Packet::ConnAck(_))));
            cluster.expect(client, |packet| assert_eq!(packet, &Packet::PingResp));
            cluster.expect_message(subscriber, topic.as_str(), b"payload");
        }
    }
}

#[test]
fn a_connect_larger_than_its_bound_is_not_waited_for() {
    let mut cluster = Cluster::with_limits(2, limits(|limits| limits.connect_bytes_max = 1024));
    let client = cluster.open(0, Version::V5);
    // Its fixed header alone: 1,025 bytes in all.
    cluster.send_bytes(client, &[0x10, 0xFE, 0x07]);
    assert!(cluster.is_closed(client));
    // The bound is that of CONNECT: who is let in may send more, wherever its session is at home.
    for n in 0..8 {
        let client = cluster.connect(0, Version::V5, &format!("client-{n}"));
        cluster.publish_1(client, "a", &[0; 4096]);
    }
}
