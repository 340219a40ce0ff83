//! AUTH and enhanced authentication, statement by statement: sections 3.15 and 4.12.

use mqtt_broker::ports::{
    Authenticate, AuthenticateRequest, Authentication, Decision, Identity, Ports, Ticket,
};
use mqtt_proto::packet::{Auth, Connect, Packet, Properties, Property};
use mqtt_proto::types::{Qos, ReasonCode, Version};

use crate::cluster::{ClientId, Cluster, connect, limits};

const CONTINUE: ReasonCode = ReasonCode::CONTINUE_AUTHENTICATION;
const AGAIN: ReasonCode = ReasonCode::RE_AUTHENTICATE;

/// The method "ask" asks once and lets in who answers "yes". Without a method, "asked" is asked nevertheless.
struct Ask;

impl Authenticate for Ask {
    fn authenticate(&mut self, request: &AuthenticateRequest<'_>, _: Ticket) -> Decision<Authentication> {
        Decision::Now(match (request.method, request.step, request.data) {
            (None, ..) if request.client_id == "asked" => Authentication::Continue(b"who?".to_vec()),
            (None, ..) => Authentication::Accept(Identity::default()),
            (Some("ask"), 0, Some(b"no")) => Authentication::Refuse(ReasonCode::NOT_AUTHORIZED),
            (Some("ask"), 0, Some(data)) if data.len() == 1 => {
                Authentication::Continue(vec![b'?'; usize::from(data[0])])
            }
            (Some("ask"), 0, _) => Authentication::Continue(b"who?".to_vec()),
            (Some("ask"), 1, Some(b"yes")) => {
                Authentication::AcceptWith(Identity::default(), b"welcome".to_vec())
            }
            (Some("ask"), ..) => Authentication::Refuse(ReasonCode::NOT_AUTHORIZED),
            (Some(_), ..) => Authentication::Refuse(ReasonCode::BAD_AUTHENTICATION_METHOD),
        })
    }
}

fn cluster(cores: u16) -> Cluster {
    let ports = |_| Ports { authenticate: Box::new(Ask), ..Ports::allow_all() };
    Cluster::with(cores, limits(|_| {}), ports)
}

/// Sends a CONNECT with these properties.
fn open(cluster: &mut Cluster, name: &str, list: &[Property<'_>]) -> ClientId {
    let client = cluster.open(0, Version::V5);
    let asked = Connect { properties: Properties::new(list), ..connect(Version::V5, name) };
    cluster.send(client, &Packet::Connect(asked));
    client
}

/// Sends a CONNECT by the method "ask".
fn ask(cluster: &mut Cluster) -> ClientId {
    open(cluster, "c", &[Property::AuthenticationMethod("ask")])
}

fn auth(cluster: &mut Cluster, client: ClientId, reason: ReasonCode, method: &str, data: &[u8]) {
    let list = [Property::AuthenticationMethod(method), Property::AuthenticationData(data)];
    cluster.send(client, &Packet::Auth(Auth { reason, properties: Properties::new(&list) }));
}

/// The Client got AUTH; its Reason Code, and its method.
#[track_caller]
fn expect_auth(cluster: &mut Cluster, client: ClientId) -> (ReasonCode, Option<String>) {
    cluster.expect(client, |packet| match packet {
        Packet::Auth(auth) => (auth.reason, auth.properties.authentication_method().map(str::to_owned)),
        other => panic!("{other:?}"),
    })
}

/// The Client got CONNACK; its Reason Code, and its method.
#[track_caller]
fn expect_connack(cluster: &mut Cluster, client: ClientId) -> (ReasonCode, Option<String>) {
    cluster.expect(client, |packet| match packet {
        Packet::ConnAck(connack) => {
            (connack.reason, connack.properties.authentication_method().map(str::to_owned))
        }
        other => panic!("{other:?}"),
    })
}

/// A Client that was let in by the method "ask".
#[track_caller]
fn let_in(cluster: &mut Cluster) -> ClientId {
    let client = ask(cluster);
    expect_auth(cluster, client);
    auth(cluster, client, CONTINUE, "ask", b"yes");
    assert_eq!(expect_connack(cluster, client).0, ReasonCode::SUCCESS);
    client
}

/// [MQTT-3.15.1-1]
#[test]
fn wrong_flags_of_auth_close_the_connection() {
    for first in [0xF1, 0xF2, 0xF8] {
        let mut cluster = cluster(1);
        let client = let_in(&mut cluster);
        cluster.send_bytes(client, &[first, 8, 0x19, 6, 0x15, 0, 3, b'a', b's', b'k']);
        cluster.expect_disconnect(client, ReasonCode::MALFORMED_PACKET);
        cluster.expect_nothing(client);
    }
}

/// [MQTT-4.12.0-1]
#[test]
fn a_method_that_is_not_supported_is_refused() {
    for cores in [1, 2] {
        let mut cluster = cluster(cores);
        let client = open(&mut cluster, "c", &[Property::AuthenticationMethod("other")]);
        assert_eq!(expect_connack(&mut cluster, client).0, ReasonCode::BAD_AUTHENTICATION_METHOD);
        assert!(cluster.is_closed(client));
    }
}

/// [MQTT-4.12.0-2]
#[test]
fn the_broker_asks_on_with_continue_authentication() {
    for cores in [1, 2] {
        let mut cluster = cluster(cores);
        let client = ask(&mut cluster);
        assert_eq!(expect_auth(&mut cluster, client).0, CONTINUE);
        cluster.expect_nothing(client);
        auth(&mut cluster, client, CONTINUE, "ask", b"yes");
        assert_eq!(expect_connack(&mut cluster, client).0, ReasonCode::SUCCESS);
        auth(&mut cluster, client, AGAIN, "ask", b"");
        assert_eq!(expect_auth(&mut cluster, client).0, CONTINUE);
    }
}

/// [MQTT-4.12.0-3]
#[test]
fn a_client_that_is_asked_answers_with_continue_authentication() {
    for reason in [AGAIN, ReasonCode::SUCCESS] {
        let mut cluster = cluster(2);
        let client = ask(&mut cluster);
        expect_auth(&mut cluster, client);
        auth(&mut cluster, client, reason, "ask", b"yes");
        assert_eq!(expect_connack(&mut cluster, client).0, ReasonCode::PROTOCOL_ERROR);
        assert!(cluster.is_closed(client));
    }
}

/// [MQTT-4.12.0-4]
#[test]
fn a_refusal_at_any_step_closes_the_connection() {
    for cores in [1, 2] {
        let mut cluster = cluster(cores);
        let list = [Property::AuthenticationMethod("ask"), Property::AuthenticationData(b"no")];
        let at_once = open(&mut cluster, "c", &list);
        let later = ask(&mut cluster);
        expect_auth(&mut cluster, later);
        auth(&mut cluster, later, CONTINUE, "ask", b"perhaps");
        for client in [at_once, later] {
            assert_eq!(expect_connack(&mut cluster, client).0, ReasonCode::NOT_AUTHORIZED);
            cluster.expect_nothing(client);
            assert!(cluster.is_closed(client));
        }
    }
}

/// [MQTT-4.12.0-5]
#[test]
fn every_auth_and_the_connack_name_the_method_of_connect() {
    for cores in [1, 2, 8] {
        let mut cluster = cluster(cores);
        let client = ask(&mut cluster);
        let method = Some("ask".to_owned());
        assert_eq!(expect_auth(&mut cluster, client).1, method);
        auth(&mut cluster, client, CONTINUE, "ask", b"yes");
        assert_eq!(expect_connack(&mut cluster, client).1, method);
        auth(&mut cluster, client, AGAIN, "ask", b"");
        assert_eq!(expect_auth(&mut cluster, client).1, method);
        auth(&mut cluster, client, CONTINUE, "ask", b"yes");
        assert_eq!(expect_auth(&mut cluster, client), (ReasonCode::SUCCESS, method));
    }
}

/// [MQTT-4.12.0-5]
#[test]
fn an_auth_by_another_method_is_refused() {
    let mut cluster = cluster(2);
    let client = ask(&mut cluster);
    expect_auth(&mut cluster, client);
    auth(&mut cluster, client, CONTINUE, "other", b"yes");
    assert_eq!(expect_connack(&mut cluster, client).0, ReasonCode::BAD_AUTHENTICATION_METHOD);
    assert!(cluster.is_closed(client));
}

/// [MQTT-4.12.0-6]
#[test]
fn without_a_method_there_is_no_auth_and_none_in_connack() {
    for cores in [1, 2] {
        let mut cluster = cluster(cores);
        let plain = open(&mut cluster, "c", &[]);
        assert_eq!(expect_connack(&mut cluster, plain), (ReasonCode::SUCCESS, None));
        // The port has something to ask and cannot.
        let asked = open(&mut cluster, "asked", &[]);
        let (reason, method) = expect_connack(&mut cluster, asked);
        assert!(reason.is_error() && method.is_none());
        assert!(cluster.is_closed(asked));
    }
}

/// [MQTT-4.12.0-7]
#[test]
fn an_auth_without_a_method_in_connect_is_a_protocol_error() {
    for reason in [CONTINUE, AGAIN] {
        let mut cluster = cluster(2);
        let client = cluster.connect(0, Version::V5, "c");
        auth(&mut cluster, client, reason, "ask", b"yes");
        cluster.expect_disconnect(client, ReasonCode::PROTOCOL_ERROR);
    }
}

/// [MQTT-4.12.1-1]
#[test]
fn a_client_may_authenticate_again_by_the_same_method() {
    for cores in [1, 2] {
        let mut cluster = cluster(cores);
        let client = let_in(&mut cluster);
        cluster.subscribe(client, "a", Qos::AtMostOnce);
        for _ in 0..2 {
            auth(&mut cluster, client, AGAIN, "ask", b"");
            expect_auth(&mut cluster, client);
            // Other packets come and go meanwhile.
            cluster.publish(client, "a", b"x");
            cluster.expect_message(client, "a", b"x");
            auth(&mut cluster, client, CONTINUE, "ask", b"yes");
            assert_eq!(expect_auth(&mut cluster, client).0, ReasonCode::SUCCESS);
        }
        auth(&mut cluster, client, AGAIN, "other", b"");
        cluster.expect_disconnect(client, ReasonCode::BAD_AUTHENTICATION_METHOD);
    }
}

/// [MQTT-4.12.1-2]
#[test]
fn authenticating_again_in_vain_ends_the_connection() {
    for cores in [1, 2] {
        let mut cluster = cluster(cores);
        let client = let_in(&mut cluster);
        auth(&mut cluster, client, AGAIN, "ask", b"no");
        cluster.expect_disconnect(client, ReasonCode::NOT_AUTHORIZED);
        let client = let_in(&mut cluster);
        auth(&mut cluster, client, AGAIN, "ask", b"");
        expect_auth(&mut cluster, client);
        auth(&mut cluster, client, CONTINUE, "ask", b"perhaps");
        cluster.expect_disconnect(client, ReasonCode::NOT_AUTHORIZED);
    }
}

/// Section 4.12.1: the second exchange begins with 0x19, and one is under way at a time.
#[test]
fn a_step_that_was_not_asked_for_is_a_protocol_error() {
    let mut cluster = cluster(2);
    let client = let_in(&mut cluster);
    auth(&mut cluster, client, CONTINUE, "ask", b"yes");
    cluster.expect_disconnect(client, ReasonCode::PROTOCOL_ERROR);
    let client = let_in(&mut cluster);
    auth(&mut cluster, client, AGAIN, "ask", b"");
    expect_auth(&mut cluster, client);
    auth(&mut cluster, client, AGAIN, "ask", b"");
    cluster.expect_disconnect(client, ReasonCode::PROTOCOL_ERROR);
}

/// [MQTT-3.1.2-24] holds for AUTH: a question that the Client does not take cannot be asked.
#[test]
fn an_auth_that_is_too_large_for_the_client_ends_the_attempt() {
    for (question, fits) in [(80, true), (81, false)] {
        let mut cluster = cluster(2);
        // 2 bytes of Fixed Header, 2 of Reason Code and length, 6 for the method, 3 before the data.
        let size = Property::MaximumPacketSize(2 + 2 + 6 + 3 + 80);
        let data = [question];
        let list = [Property::AuthenticationMethod("ask"), size, Property::AuthenticationData(&data)];
        let client = open(&mut cluster, "c", &list);
        if !fits {
            assert_eq!(expect_connack(&mut cluster, client).0, ReasonCode::PACKET_TOO_LARGE);
            assert!(cluster.is_closed(client));
            continue;
        }
        expect_auth(&mut cluster, client);
        auth(&mut cluster, client, CONTINUE, "ask", b"yes");
        assert_eq!(expect_connack(&mut cluster, client).0, ReasonCode::SUCCESS);
        auth(&mut cluster, client, AGAIN, "ask", &[81]);
        cluster.expect_disconnect(client, ReasonCode::PACKET_TOO_LARGE);
        cluster.expect_nothing(client);
    }
}
