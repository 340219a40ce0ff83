//! What the broker does with a CONNECT, well-formed or not: section 3.1 of both standards, statement by statement.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use mqtt_broker::config::Limits;
use mqtt_broker::ports::{
    Answer, Authenticate, AuthenticateRequest, Authentication, Decision, Identity, Ports, Ticket,
};
use mqtt_proto::packet::{Connect, Packet};
use mqtt_proto::types::{Qos, ReasonCode, Version};

use crate::cluster::{ClientId, Cluster, connect, limits, publish};

const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

const RESERVED: u8 = 0x01;
const CLEAN_START: u8 = 0x02;
const WILL: u8 = 0x04;
const WILL_RETAIN: u8 = 0x20;
const PASSWORD: u8 = 0x40;
const USER_NAME: u8 = 0x80;

/// A CONNECT with Clean Start and these flags, no properties, and a payload of length-prefixed fields.
fn frame(version: Version, flags: u8, fields: &[&[u8]]) -> Vec<u8> {
    let name = version.protocol_name();
    let mut body = vec![0, name.len() as u8];
    body.extend(name.bytes());
    body.extend([version.level(), CLEAN_START | flags, 0, 0]);
    if version == Version::V5 {
        body.push(0);
    }
    for (at, field) in fields.iter().enumerate() {
        // Will Properties stand behind the ClientID.
        if version == Version::V5 && flags & WILL != 0 && at == 1 {
            body.push(0);
        }
        body.extend([0, field.len() as u8]);
        body.extend(*field);
    }
    let mut frame = vec![0x10, body.len() as u8];
    frame.extend(body);
    frame
}

/// Whether the broker accepts this CONNECT; if not it closes, without a trace.
#[track_caller]
fn is_accepted(version: Version, bytes: &[u8]) -> bool {
    let mut cluster = Cluster::new(1);
    let client = cluster.open(0, version);
    cluster.send_bytes(client, bytes);
    if !cluster.is_closed(client) {
        cluster.expect(client, |packet| match packet {
            Packet::ConnAck(connack) => assert_eq!(connack.reason, ReasonCode::SUCCESS),
            other => panic!("{other:?}"),
        });
        return true;
    }
    assert_eq!(cluster.total(|stats| stats.connections + stats.sessions), 0);
    false
}

/// Whom the port let in: User Name and Password. "nobody" is refused.
type Seen = Rc<RefCell<Vec<(Option<String>, Option<Vec<u8>>)>>>;

struct Door(Seen);

impl Authenticate for Door {
    fn authenticate(&mut self, request: &AuthenticateRequest<'_>, _: Ticket) -> Decision<Authentication> {
        let user_name = request.user_name.map(str::to_owned);
        self.0.borrow_mut().push((user_name, request.password.map(<[u8]>::to_vec)));
        Decision::Now(match request.user_name {
            Some("nobody") => Authentication::Refuse(ReasonCode::BAD_USER_NAME_OR_PASSWORD),
            _ => Authentication::Accept(Identity::default()),
        })
    }
}

fn with_door() -> (Cluster, Seen) {
    let seen = Seen::default();
    let port = seen.clone();
    let ports = move |_| Ports { authenticate: Box::new(Door(port.clone())), ..Ports::allow_all() };
    (Cluster::with(1, Limits::default(), ports), seen)
}

/// Sends CONNECT; the Reason Code of the CONNACK.
#[track_caller]
fn ask(cluster: &mut Cluster, connect: Connect<'_>) -> (ClientId, ReasonCode) {
    let client = cluster.open(0, connect.version);
    cluster.send(client, &Packet::Connect(connect));
    let reason = cluster.expect(client, |packet| match packet {
        Packet::ConnAck(connack) => connack.reason,
        other => panic!("{other:?}"),
    });
    (client, reason)
}

/// [MQTT-3.1.2-1] [MQTT-3.1.2-1 v3.1.1]
#[test]
fn another_protocol_name_is_not_served() {
    for version in [Version::V3_1_1, Version::V5] {
        let good = frame(version, 0, &[b"c"]);
        assert!(is_accepted(version, &good));
        for name in [b"mqtt", b"MQTX"] {
            let mut other = good.clone();
            other[4..8].copy_from_slice(name);
            assert!(!is_accepted(version, &other));
        }
    }
}

/// [MQTT-3.1.2-3] [MQTT-3.1.2-3 v3.1.1]
#[test]
fn a_reserved_connect_flag_is_not_accepted() {
    for version in [Version::V3_1_1, Version::V5] {
        assert!(!is_accepted(version, &frame(version, RESERVED, &[b"c"])));
    }
}

/// [MQTT-3.1.2-9] [MQTT-3.1.2-9 v3.1.1]
#[test]
fn a_will_flag_without_topic_and_payload_is_not_accepted() {
    for version in VERSIONS {
        assert!(is_accepted(version, &frame(version, WILL, &[b"c", b"topic", b"payload"])));
        assert!(!is_accepted(version, &frame(version, WILL, &[b"c", b"topic"])));
        assert!(!is_accepted(version, &frame(version, WILL, &[b"c"])));
    }
}

/// [MQTT-3.1.2-11] [MQTT-3.1.2-11 v3.1.1] [MQTT-3.1.2-13 v3.1.1]
#[test]
fn a_will_qos_without_a_will_is_not_accepted() {
    for version in VERSIONS {
        assert!(!is_accepted(version, &frame(version, 1 << 3, &[b"c"])));
        assert!(!is_accepted(version, &frame(version, 2 << 3, &[b"c"])));
    }
}

/// [MQTT-3.1.2-13] [MQTT-3.1.2-11 v3.1.1] [MQTT-3.1.2-15 v3.1.1]
#[test]
fn a_will_retain_flag_without_a_will_is_not_accepted() {
    for version in VERSIONS {
        assert!(!is_accepted(version, &frame(version, WILL_RETAIN, &[b"c"])));
    }
}

/// [MQTT-3.1.2-12] [MQTT-3.1.2-14 v3.1.1]
#[test]
fn a_will_qos_of_3_is_not_accepted() {
    for version in VERSIONS {
        for (qos, accepted) in [(0, true), (1, true), (2, true), (3, false)] {
            let bytes = frame(version, WILL | qos << 3, &[b"c", b"topic", b""]);
            assert_eq!(is_accepted(version, &bytes), accepted, "{version:?} {qos}");
        }
    }
}

/// [MQTT-3.1.2-16] [MQTT-3.1.2-17] [MQTT-3.1.2-18 v3.1.1] [MQTT-3.1.2-19 v3.1.1]
#[test]
fn a_user_name_is_read_exactly_if_its_flag_is_set() {
    for version in [Version::V3_1_1, Version::V5] {
        let (mut cluster, seen) = with_door();
        for (flags, fields) in [(0, &[&b"c"[..]][..]), (USER_NAME, &[b"c", b"name"])] {
            let client = cluster.open(0, version);
            cluster.send_bytes(client, &frame(version, flags, fields));
        }
        assert_eq!(*seen.borrow(), [(None, None), (Some("name".to_owned()), None)]);
        assert!(!is_accepted(version, &frame(version, 0, &[b"c", b"name"])));
        assert!(!is_accepted(version, &frame(version, USER_NAME, &[b"c"])));
    }
}

/// [MQTT-3.1.2-18] [MQTT-3.1.2-19] [MQTT-3.1.2-20 v3.1.1] [MQTT-3.1.2-21 v3.1.1]
#[test]
fn a_password_is_read_exactly_if_its_flag_is_set() {
    for version in [Version::V3_1_1, Version::V5] {
        let (mut cluster, seen) = with_door();
        let client = cluster.open(0, version);
        cluster.send_bytes(client, &frame(version, USER_NAME | PASSWORD, &[b"c", b"n", b"\0\xFF"]));
        assert_eq!(*seen.borrow(), [(Some("n".to_owned()), Some(b"\0\xFF".to_vec()))]);
        assert!(!is_accepted(version, &frame(version, USER_NAME, &[b"c", b"n", b"password"])));
        assert!(!is_accepted(version, &frame(version, USER_NAME | PASSWORD, &[b"c", b"n"])));
    }
}

/// [MQTT-3.1.2-22 v3.1.1]
#[test]
fn before_5_a_password_without_a_user_name_is_not_accepted() {
    for version in VERSIONS {
        let accepted = is_accepted(version, &frame(version, PASSWORD, &[b"c", b"password"]));
        assert_eq!(accepted, version == Version::V5, "{version:?}");
    }
}

/// [MQTT-3.1.3-1] [MQTT-3.1.3-1 v3.1.1]
#[test]
fn the_fields_of_the_payload_are_read_in_order() {
    for version in VERSIONS {
        let (mut cluster, seen) = with_door();
        let watcher = cluster.connect(0, version, "watcher");
        cluster.subscribe(watcher, "2", Qos::AtMostOnce);
        let client = cluster.open(0, version);
        let fields: [&[u8]; 5] = [b"1", b"2", b"3", b"4", b"5"];
        cluster.send_bytes(client, &frame(version, WILL | USER_NAME | PASSWORD, &fields));
        assert_eq!(seen.borrow().last(), Some(&(Some("4".to_owned()), Some(b"5".to_vec()))));
        // "1" is its name, so whoever comes under it takes over, which sends its Will "3" to "2".
        cluster.connect(0, version, "1");
        assert!(cluster.is_closed(client));
        cluster.expect_message(watcher, "2", b"3");
    }
}

/// [MQTT-3.1.3-2]
#[test]
fn each_client_id_has_a_session_of_its_own() {
    for version in VERSIONS {
        let mut cluster = Cluster::new(1);
        // Letters count as they are written.
        for name in ["a", "A", "a ", "aa"] {
            let (client, _) = cluster.resume(0, version, name);
            cluster.subscribe(client, name, Qos::AtLeastOnce);
            cluster.cut(client);
        }
        assert_eq!(cluster.total(|stats| stats.sessions), 4);
        let publisher = cluster.connect(0, version, "publisher");
        cluster.publish_1(publisher, "A", b"x");
        for name in ["a", "a ", "aa"] {
            let (client, _) = cluster.resume(0, version, name);
            cluster.expect_nothing(client);
        }
        let (client, _) = cluster.resume(0, version, "A");
        cluster.expect_message(client, "A", b"x");
    }
}

/// [MQTT-3.1.3-3]
#[test]
fn a_connect_without_a_client_id_is_not_accepted() {
    for version in VERSIONS {
        assert!(!is_accepted(version, &frame(version, 0, &[])));
    }
}

/// [MQTT-3.1.3-4]
#[test]
fn a_client_id_that_is_no_string_is_not_accepted() {
    for version in VERSIONS {
        assert!(is_accepted(version, &frame(version, 0, &["é".as_bytes()])));
        assert!(!is_accepted(version, &frame(version, 0, &[b"\xE9"])));
    }
}

/// [MQTT-3.1.3-11] [MQTT-3.1.3-10 v3.1.1]
#[test]
fn a_will_topic_that_is_no_string_is_not_accepted() {
    for version in VERSIONS {
        assert!(is_accepted(version, &frame(version, WILL, &[b"c", "é".as_bytes(), b"\xFF"])));
        assert!(!is_accepted(version, &frame(version, WILL, &[b"c", b"\xE9", b""])));
    }
}

/// [MQTT-3.1.3-12] [MQTT-3.1.3-11 v3.1.1]
#[test]
fn a_user_name_that_is_no_string_is_not_accepted() {
    for version in VERSIONS {
        assert!(is_accepted(version, &frame(version, USER_NAME, &[b"c", "é".as_bytes()])));
        assert!(!is_accepted(version, &frame(version, USER_NAME, &[b"c", b"\xE9"])));
    }
}

/// [MQTT-3.1.3-5]
#[test]
fn client_ids_of_1_to_23_letters_and_digits_are_allowed() {
    let all = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    for version in VERSIONS {
        let mut cluster = Cluster::new(1);
        for start in 0..all.len() {
            let len = (start % 23 + 1).min(all.len() - start);
            let (_, reason) = ask(&mut cluster, connect(version, &all[start..start + len]));
            assert_eq!(reason, ReasonCode::SUCCESS);
        }
        let (_, reason) = ask(&mut cluster, connect(version, &all[20..43]));
        assert_eq!(reason, ReasonCode::SUCCESS, "23 of them");
    }
}

/// [MQTT-3.1.3-6] [MQTT-3.1.3-6 v3.1.1]
#[test]
fn clients_without_a_client_id_do_not_take_over_from_each_other() {
    for version in [Version::V3_1_1, Version::V5] {
        let mut cluster = Cluster::new(1);
        let clients = [0; 3].map(|_| ask(&mut cluster, connect(version, "")));
        for (client, reason) in clients {
            assert_eq!(reason, ReasonCode::SUCCESS);
            assert!(!cluster.is_closed(client));
        }
        assert_eq!(cluster.total(|stats| stats.sessions), 3);
    }
}

/// [MQTT-3.1.3-8] [MQTT-3.1.3-9 v3.1.1]
#[test]
fn a_client_id_that_is_refused_is_told_and_closed() {
    for version in VERSIONS {
        let mut cluster = Cluster::with_limits(1, limits(|limits| limits.client_id_bytes_max = 23));
        let (client, reason) = ask(&mut cluster, connect(version, "012345678901234567890123"));
        assert_eq!(reason, ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
        assert!(cluster.is_closed(client));
    }
}

/// [MQTT-3.1.3-8 v3.1.1]
#[test]
fn an_empty_client_id_with_clean_session_0_is_refused_before_5() {
    for version in [Version::V3_1, Version::V3_1_1] {
        let mut cluster = Cluster::new(1);
        let client = cluster.open(0, version);
        let asked = Connect { clean_start: false, ..connect(version, "") };
        cluster.send(client, &Packet::Connect(asked));
        assert_eq!(cluster.take_frame(client), [0x20, 2, 0, 2]);
        assert!(cluster.is_closed(client));
    }
}

/// [MQTT-3.1.4-1] [MQTT-3.1.4-1 v3.1.1] [MQTT-3.2.2-6 v3.1.1]
#[test]
fn a_connect_that_breaks_the_format_is_closed_without_connack() {
    for version in VERSIONS {
        let good = frame(version, 0, &[b"c"]);
        // A byte too many, one too few, and a ClientID that runs over the end.
        let mut long = good.clone();
        long[1] += 1;
        long.push(0);
        let mut short = good[..good.len() - 1].to_vec();
        short[1] -= 1;
        let mut over = good.clone();
        over[good.len() - 2] = 9;
        for bytes in [long, short, over] {
            let mut cluster = Cluster::new(1);
            let client = cluster.open(0, version);
            cluster.send_bytes(client, &bytes);
            assert!(cluster.is_closed(client), "{bytes:x?}");
            cluster.expect_nothing(client);
        }
    }
}

/// [MQTT-3.1.4-2]
#[test]
fn who_is_not_let_in_is_closed() {
    for version in VERSIONS {
        let (mut cluster, _) = with_door();
        let asked = Connect { user_name: Some("nobody"), ..connect(version, "c") };
        let (client, reason) = ask(&mut cluster, asked);
        assert_eq!(reason, ReasonCode::BAD_USER_NAME_OR_PASSWORD);
        assert!(cluster.is_closed(client));
        assert_eq!(cluster.total(|stats| stats.sessions), 0);
    }
}

/// [MQTT-3.1.4-3] [MQTT-3.1.4-2 v3.1.1]
#[test]
fn a_second_client_under_a_client_id_ends_the_connection_of_the_first() {
    for version in VERSIONS {
        let mut cluster = Cluster::new(1);
        let first = cluster.connect(0, version, "c");
        let second = cluster.connect(0, version, "c");
        assert!(cluster.is_closed(first));
        if version == Version::V5 {
            cluster.expect_disconnect(first, ReasonCode::SESSION_TAKEN_OVER);
        }
        cluster.expect_nothing(first);
        assert!(!cluster.is_closed(second));
    }
}

/// Decides later.
struct Later(Rc<Cell<Option<Ticket>>>);

impl Authenticate for Later {
    fn authenticate(&mut self, _: &AuthenticateRequest<'_>, ticket: Ticket) -> Decision<Authentication> {
        self.0.set(Some(ticket));
        Decision::Later
    }
}

/// [MQTT-3.1.4-5] [MQTT-3.1.4-4 v3.1.1]
#[test]
fn an_accepted_connect_is_answered_with_success() {
    for version in VERSIONS {
        let mut cluster = Cluster::new(1);
        let (_, reason) = ask(&mut cluster, connect(version, "c"));
        assert_eq!(reason, ReasonCode::SUCCESS);
        // However late that is.
        let asked = Rc::new(Cell::new(None));
        let port = asked.clone();
        let ports = move |_| Ports { authenticate: Box::new(Later(port.clone())), ..Ports::allow_all() };
        let mut cluster = Cluster::with(1, Limits::default(), ports);
        let client = cluster.open(0, version);
        cluster.send(client, &Packet::Connect(connect(version, "c")));
        cluster.expect_nothing(client);
        let ticket = asked.take().expect("a question");
        let yes = Answer::Authentication(Authentication::Accept(Identity::default()));
        cluster.shards[0].answer(ticket, yes, cluster.now);
        cluster.run();
        let connack = cluster.take_frame(client);
        assert_eq!((connack[0], connack[3]), (0x20, 0));
    }
}

/// [MQTT-3.1.4-6] [MQTT-3.1.4-5 v3.1.1]
#[test]
fn what_follows_a_refused_connect_is_not_processed() {
    for version in VERSIONS {
        let (mut cluster, _) = with_door();
        let subscriber = cluster.connect(0, version, "subscriber");
        cluster.subscribe(subscriber, "a", Qos::AtMostOnce);
        let client = cluster.open(0, version);
        let refused = Connect { user_name: Some("nobody"), ..connect(version, "c") };
        let mut bytes = cluster.encoded(client, &Packet::Connect(refused));
        let message = Packet::Publish(publish("a", b"x", Qos::AtMostOnce, 0));
        bytes.extend(cluster.encoded(client, &message));
        cluster.send_bytes(client, &bytes);
        cluster.send(client, &message);
        cluster.expect_nothing(subscriber);
    }
}

/// Section 3.1.4: a Client need not wait for CONNACK.
#[test]
fn what_follows_an_accepted_connect_is_processed() {
    for version in VERSIONS {
        let mut cluster = Cluster::new(1);
        let client = cluster.open(0, version);
        let mut bytes = cluster.encoded(client, &Packet::Connect(connect(version, "c")));
        bytes.extend([0xC0, 0]);
        cluster.send_bytes(client, &bytes);
        cluster.expect(client, |packet| assert!(matches!(packet, Packet::ConnAck(_))));
        cluster.expect(client, |packet| assert_eq!(packet, &Packet::PingResp));
    }
}

/// Section 3.1.3.3: the Will Topic is a Topic Name.
#[test]
fn a_will_topic_with_a_wildcard_is_not_accepted() {
    for version in VERSIONS {
        for topic in [&b"a/#"[..], b"+", b""] {
            assert!(!is_accepted(version, &frame(version, WILL, &[b"c", topic, b""])), "{topic:?}");
        }
    }
}

/// Section 3.1.2.11: what may not be there, or not with this value.
#[test]
fn a_connect_with_a_wrong_property_is_not_accepted() {
    for properties in [
        &[0x21, 0, 0][..],             // Receive Maximum 0
        &[0x27, 0, 0, 0, 0],           // Maximum Packet Size 0
        &[0x19, 2],                    // Request Response Information 2
        &[0x17, 2],                    // Request Problem Information 2
        &[0x16, 0, 1, 7],              // Authentication Data without a method
        &[0x11, 0, 0, 0, 1].repeat(2), // Session Expiry Interval twice
        &[0x23, 0, 1],                 // Topic Alias
    ] {
        let mut bytes = vec![0x10, properties.len() as u8 + 14, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0];
        bytes.push(properties.len() as u8);
        bytes.extend(properties);
        bytes.extend([0, 1, b'c']);
        assert!(!is_accepted(Version::V5, &bytes), "{properties:x?}");
    }
}
