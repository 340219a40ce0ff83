//! Ports that decide: enhanced authentication, late answers, and the input that waits for them in order.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use mqtt_broker::config::Limits;
use mqtt_broker::ports::{
    Answer, Authenticate, AuthenticateRequest, Authentication, Authorize, AuthorizeRequest, Decision,
    Identity, Permission, Ports, Ticket,
};
use mqtt_proto::packet::{
    Auth, Connect, Disconnect, Packet, Properties, Property, Subscribe, Subscription, SubscriptionOptions,
    Subscriptions, Will,
};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, TopicName, Version};

use crate::cluster::{ClientId, Cluster, connect, limits, publish};

/// Questions that were put off: whose core, and what was asked.
type Asked = Rc<RefCell<VecDeque<(Ticket, String)>>>;

/// A method "count" that wants the numbers 1, 2 and 3 one after another; "as:NAME" gives another ClientID. Everything
/// else is accepted, later where the ClientID says so.
struct Toy(Asked);

impl Authenticate for Toy {
    fn authenticate(
        &mut self,
        request: &AuthenticateRequest<'_>,
        ticket: Ticket,
    ) -> Decision<Authentication> {
        if request.client_id.starts_with("later") {
            self.0
                .borrow_mut()
                .push_back((ticket, format!("connect {} {}", request.client_id, request.step)));
            return Decision::Later;
        }
        if let Some(name) = request.user_name.and_then(|name| name.strip_prefix("as:")) {
            let identity = Identity { client_id: Some(name.into()), name: None };
            return Decision::Now(Authentication::Accept(identity));
        }
        Decision::Now(match (request.method, request.step, request.data) {
            (None, ..) => Authentication::Accept(Identity::default()),
            (Some("count"), step @ 0..=1, Some(data)) if data == [step as u8 + 1] => {
                Authentication::Continue(vec![step as u8 + 1])
            }
            (Some("count"), 2, Some(b"other")) => {
                Authentication::Accept(Identity { client_id: Some("other".into()), name: None })
            }
            (Some("count"), 2, Some([3])) => {
                Authentication::AcceptWith(Identity::default(), b"done".to_vec())
            }
            (Some("count"), ..) => Authentication::Refuse(ReasonCode::NOT_AUTHORIZED),
            (Some(_), ..) => Authentication::Refuse(ReasonCode::BAD_AUTHENTICATION_METHOD),
        })
    }
}

impl Authorize for Toy {
    fn authorize(&mut self, request: &AuthorizeRequest<'_>, ticket: Ticket) -> Decision<Permission> {
        let (verb, name) = match request {
            AuthorizeRequest::Publish { topic, .. } => ("publish", topic.as_str()),
            AuthorizeRequest::Subscribe { filter, .. } => ("subscribe", *filter),
        };
        if name.starts_with("later") {
            self.0.borrow_mut().push_back((ticket, format!("{verb} {name}")));
            return Decision::Later;
        }
        Decision::Now(match name.starts_with("secret") {
            true => Permission::Deny(ReasonCode::NOT_AUTHORIZED),
            false => Permission::Allow,
        })
    }
}

fn cluster(cores: u16, limits: Limits) -> (Cluster, Asked) {
    let asked = Asked::default();
    let ports = asked.clone();
    let cluster = Cluster::with(cores, limits, move |_| Ports {
        authenticate: Box::new(Toy(ports.clone())),
        authorize: Box::new(Toy(ports.clone())),
        ..Ports::allow_all()
    });
    (cluster, asked)
}

/// The oldest question, which has to be `expected`.
#[track_caller]
fn question(asked: &Asked, expected: &str) -> Ticket {
    let (ticket, question) = asked.borrow_mut().pop_front().expect("a question");
    assert_eq!(question, expected);
    ticket
}

fn answer(cluster: &mut Cluster, ticket: Ticket, answer: Answer) {
    let now = cluster.now;
    cluster.shards[ticket.core.index()].answer(ticket, answer, now);
    cluster.run();
}

fn permit(cluster: &mut Cluster, ticket: Ticket) {
    answer(cluster, ticket, Answer::Permission(Permission::Allow));
}

fn accept(cluster: &mut Cluster, ticket: Ticket) {
    answer(cluster, ticket, Answer::Authentication(Authentication::Accept(Identity::default())));
}

fn auth(cluster: &mut Cluster, client: ClientId, reason: ReasonCode, method: &str, data: &[u8]) {
    let list = [Property::AuthenticationMethod(method), Property::AuthenticationData(data)];
    cluster.send(client, &Packet::Auth(Auth { reason, properties: Properties::new(&list) }));
}

#[track_caller]
fn expect_auth(cluster: &mut Cluster, client: ClientId, reason: ReasonCode, data: &[u8]) {
    cluster.expect(client, |packet| {
        let Packet::Auth(auth) = packet else { panic!("{packet:?}") };
        assert_eq!(auth.reason, reason);
        assert_eq!(auth.properties.authentication_method(), Some("count"));
        assert_eq!(auth.properties.authentication_data(), Some(data));
    });
}

#[track_caller]
fn expect_connack(cluster: &mut Cluster, client: ClientId, reason: ReasonCode) {
    cluster.expect(client, |packet| match packet {
        Packet::ConnAck(connack) => assert_eq!(connack.reason, reason),
        other => panic!("{other:?}"),
    });
    assert_eq!(cluster.is_closed(client), reason.is_error());
}

/// Authenticates in three steps.
#[track_caller]
fn count_in(cluster: &mut Cluster, name: &str) -> ClientId {
    let client = cluster.open(0, Version::V5);
    let list = [Property::AuthenticationMethod("count"), Property::AuthenticationData(&[1])];
    let asked = Connect { properties: Properties::new(&list), ..connect(Version::V5, name) };
    cluster.send(client, &Packet::Connect(asked));
    expect_auth(cluster, client, ReasonCode::CONTINUE_AUTHENTICATION, &[1]);
    auth(cluster, client, ReasonCode::CONTINUE_AUTHENTICATION, "count", &[2]);
    expect_auth(cluster, client, ReasonCode::CONTINUE_AUTHENTICATION, &[2]);
    auth(cluster, client, ReasonCode::CONTINUE_AUTHENTICATION, "count", &[3]);
    cluster.expect(client, |packet| {
        let Packet::ConnAck(connack) = packet else { panic!("{packet:?}") };
        assert_eq!(connack.reason, ReasonCode::SUCCESS);
        assert_eq!(connack.properties.authentication_method(), Some("count"));
        assert_eq!(connack.properties.authentication_data(), Some(&b"done"[..]));
    });
    client
}

#[test]
fn enhanced_authentication_goes_on_until_the_port_is_content() {
    for cores in [1, 2, 8] {
        let (mut cluster, _) = cluster(cores, limits(|_| {}));
        for n in 0..4 {
            let client = count_in(&mut cluster, &format!("c{n}"));
            cluster.subscribe(client, "a", Qos::AtLeastOnce);
        }
    }
}

#[test]
fn enhanced_authentication_is_refused_for_a_wrong_answer_method_or_packet() {
    for cores in [1, 2] {
        let (mut cluster, _) = cluster(cores, limits(|_| {}));
        let start = |cluster: &mut Cluster, method, data: &[u8]| {
            let client = cluster.open(0, Version::V5);
            let list = [Property::AuthenticationMethod(method), Property::AuthenticationData(data)];
            let asked = Connect { properties: Properties::new(&list), ..connect(Version::V5, "c") };
            cluster.send(client, &Packet::Connect(asked));
            client
        };
        let client = start(&mut cluster, "unknown", &[1]);
        expect_connack(&mut cluster, client, ReasonCode::BAD_AUTHENTICATION_METHOD);
        let client = start(&mut cluster, "count", &[9]);
        expect_connack(&mut cluster, client, ReasonCode::NOT_AUTHORIZED);
        for (step, reason) in [
            (Packet::PingReq, ReasonCode::PROTOCOL_ERROR),
            (Packet::Publish(publish("a", b"", Qos::AtMostOnce, 0)), ReasonCode::PROTOCOL_ERROR),
        ] {
            let client = start(&mut cluster, "count", &[1]);
            expect_auth(&mut cluster, client, ReasonCode::CONTINUE_AUTHENTICATION, &[1]);
            cluster.send(client, &step);
            expect_connack(&mut cluster, client, reason);
        }
        for (reason, method, data, expected) in [
            (ReasonCode::CONTINUE_AUTHENTICATION, "count", 7, ReasonCode::NOT_AUTHORIZED),
            (ReasonCode::CONTINUE_AUTHENTICATION, "other", 2, ReasonCode::BAD_AUTHENTICATION_METHOD),
            (ReasonCode::RE_AUTHENTICATE, "count", 2, ReasonCode::PROTOCOL_ERROR),
        ] {
            let client = start(&mut cluster, "count", &[1]);
            expect_auth(&mut cluster, client, ReasonCode::CONTINUE_AUTHENTICATION, &[1]);
            auth(&mut cluster, client, reason, method, &[data]);
            expect_connack(&mut cluster, client, expected);
        }
        assert_eq!(cluster.total(|stats| stats.connections + stats.sessions), 0);
    }
}

#[test]
fn a_client_may_authenticate_again_and_goes_on_meanwhile() {
    for cores in [1, 2] {
        let (mut cluster, _) = cluster(cores, limits(|_| {}));
        let client = count_in(&mut cluster, "c");
        cluster.subscribe(client, "a", Qos::AtMostOnce);
        for _ in 0..2 {
            auth(&mut cluster, client, ReasonCode::RE_AUTHENTICATE, "count", &[1]);
            expect_auth(&mut cluster, client, ReasonCode::CONTINUE_AUTHENTICATION, &[1]);
            cluster.publish(client, "a", b"x");
            cluster.expect_message(client, "a", b"x");
            auth(&mut cluster, client, ReasonCode::CONTINUE_AUTHENTICATION, "count", &[2]);
            expect_auth(&mut cluster, client, ReasonCode::CONTINUE_AUTHENTICATION, &[2]);
            auth(&mut cluster, client, ReasonCode::CONTINUE_AUTHENTICATION, "count", &[3]);
            expect_auth(&mut cluster, client, ReasonCode::SUCCESS, b"done");
        }
        // [MQTT-4.12.1-2]
        auth(&mut cluster, client, ReasonCode::RE_AUTHENTICATE, "count", &[9]);
        cluster.expect_disconnect(client, ReasonCode::NOT_AUTHORIZED);
        // Nobody becomes another on the way.
        let client = count_in(&mut cluster, "c");
        auth(&mut cluster, client, ReasonCode::RE_AUTHENTICATE, "count", &[1]);
        expect_auth(&mut cluster, client, ReasonCode::CONTINUE_AUTHENTICATION, &[1]);
        auth(&mut cluster, client, ReasonCode::CONTINUE_AUTHENTICATION, "count", &[2]);
        expect_auth(&mut cluster, client, ReasonCode::CONTINUE_AUTHENTICATION, &[2]);
        auth(&mut cluster, client, ReasonCode::CONTINUE_AUTHENTICATION, "count", b"other");
        cluster.expect_disconnect(client, ReasonCode::NOT_AUTHORIZED);
        // Without a method in CONNECT there is nothing to repeat.
        let client = cluster.connect(0, Version::V5, "plain");
        auth(&mut cluster, client, ReasonCode::RE_AUTHENTICATE, "count", &[1]);
        cluster.expect_disconnect(client, ReasonCode::PROTOCOL_ERROR);
        // A step that was not asked for.
        let client = count_in(&mut cluster, "c");
        auth(&mut cluster, client, ReasonCode::CONTINUE_AUTHENTICATION, "count", &[1]);
        cluster.expect_disconnect(client, ReasonCode::PROTOCOL_ERROR);
    }
}

#[test]
fn an_identity_may_replace_the_client_id_and_decides_on_the_session() {
    for cores in [1, 2, 8] {
        let (mut cluster, _) = cluster(cores, limits(|_| {}));
        let expiry = [Property::SessionExpiryInterval(60)];
        let properties = Properties::new(&expiry);
        let asked = |name| Connect {
            user_name: Some("as:account"),
            clean_start: false,
            properties,
            ..connect(Version::V5, name)
        };
        let (first, present) = cluster.connect_with(0, asked("one"));
        assert!(!present);
        let (second, present) = cluster.connect_with(0, asked("two"));
        assert!(present);
        cluster.expect_disconnect(first, ReasonCode::SESSION_TAKEN_OVER);
        let (_, present) = cluster.resume(0, Version::V5, "account");
        assert!(present);
        cluster.expect_disconnect(second, ReasonCode::SESSION_TAKEN_OVER);
        // Nobody has the name that was sent: it is no way to throw anybody out.
        let victim = cluster.connect(0, Version::V5, "victim");
        cluster.connect_with(0, asked("victim"));
        assert!(!cluster.is_closed(victim));
    }
}

#[test]
fn input_behind_a_connect_that_waits_is_handled_in_order_after_it() {
    for cores in [1, 2, 8] {
        for version in [Version::V3_1_1, Version::V5] {
            let (mut cluster, asked) = cluster(cores, limits(|_| {}));
            let watcher = cluster.connect(0, Version::V5, "watcher");
            cluster.subscribe(watcher, "a", Qos::AtLeastOnce);
            for n in 0..4 {
                let client = cluster.open(0, version);
                let name = format!("later{n}");
                let mut bytes = cluster.encoded(client, &Packet::Connect(connect(version, &name)));
                for payload in [b"1", b"2", b"3"] {
                    let publish = publish("a", payload, Qos::AtLeastOnce, 1);
                    bytes.extend(cluster.encoded(client, &Packet::Publish(publish)));
                }
                let (now, later) = bytes.split_at(bytes.len() - 5);
                cluster.send_bytes(client, now);
                assert!(cluster.is_paused(client));
                cluster.send_bytes(client, later);
                cluster.expect_nothing(client);
                accept(&mut cluster, question(&asked, &format!("connect later{n} 0")));
                expect_connack(&mut cluster, client, ReasonCode::SUCCESS);
                assert!(!cluster.is_paused(client));
                for payload in [b"1", b"2", b"3"] {
                    cluster.expect(client, |packet| assert!(matches!(packet, Packet::PubAck(_))));
                    cluster.expect_message(watcher, "a", payload);
                }
            }
        }
    }
}

#[test]
fn a_connect_may_be_refused_late_or_never_decided() {
    let (mut cluster, asked) = cluster(2, limits(|limits| limits.connect_timeout_seconds = 5));
    let refused = cluster.open(0, Version::V3_1_1);
    cluster.send(refused, &Packet::Connect(connect(Version::V3_1_1, "later")));
    let ticket = question(&asked, "connect later 0");
    let refusal = Authentication::Refuse(ReasonCode::BAD_USER_NAME_OR_PASSWORD);
    answer(&mut cluster, ticket, Answer::Authentication(refusal));
    assert_eq!(cluster.take_frame(refused), [0x20, 2, 0, 4]);
    // The answer to a connection that is gone, or given twice, is nobody's.
    accept(&mut cluster, ticket);
    let silent = cluster.open(0, Version::V5);
    cluster.send(silent, &Packet::Connect(connect(Version::V5, "later")));
    let ticket = question(&asked, "connect later 0");
    cluster.advance(5_000);
    assert!(cluster.is_closed(silent));
    cluster.expect_nothing(silent);
    accept(&mut cluster, ticket);
    assert_eq!(cluster.total(|stats| stats.connections + stats.sessions), 0);
}

#[test]
fn the_permission_of_a_will_may_come_late() {
    for cores in [1, 2, 8] {
        let (mut cluster, asked) = cluster(cores, limits(|_| {}));
        for (permission, reason) in [
            (Permission::Allow, ReasonCode::SUCCESS),
            (Permission::Deny(ReasonCode::NOT_AUTHORIZED), ReasonCode::NOT_AUTHORIZED),
        ] {
            for name in ["c", "later"] {
                let client = cluster.open(0, Version::V5);
                let will = Some(Will {
                    topic: TopicName::new("later/will").expect("a topic"),
                    payload: b"",
                    qos: Qos::AtMostOnce,
                    retain: false,
                    properties: Properties::EMPTY,
                });
                cluster.send(client, &Packet::Connect(Connect { will, ..connect(Version::V5, name) }));
                if name == "later" {
                    accept(&mut cluster, question(&asked, "connect later 0"));
                }
                cluster.send(client, &Packet::PingReq);
                cluster.expect_nothing(client);
                let ticket = question(&asked, "publish later/will");
                answer(&mut cluster, ticket, Answer::Permission(permission));
                expect_connack(&mut cluster, client, reason);
                if !reason.is_error() {
                    cluster.expect(client, |packet| assert_eq!(packet, &Packet::PingResp));
                }
            }
        }
    }
}

#[test]
fn a_publish_that_waits_keeps_its_place_and_is_counted_once() {
    for cores in [1, 2, 8] {
        let (mut cluster, asked) = cluster(cores, limits(|limits| limits.receive_maximum = 3));
        let watcher = cluster.connect(0, Version::V5, "watcher");
        cluster.subscribe(watcher, "#", Qos::ExactlyOnce);
        let client = cluster.connect(0, Version::V5, "c");
        let received = cluster.total(|stats| stats.packets_received);
        let mut bytes = Vec::new();
        let topics = ["a", "later/1", "b", "later/2", "secret", "c"];
        for (n, topic) in topics.iter().enumerate() {
            let publish = publish(topic, b"x", Qos::AtLeastOnce, n as u16 + 1);
            bytes.extend(cluster.encoded(client, &Packet::Publish(publish)));
        }
        cluster.send_bytes(client, &bytes);
        cluster.expect_message(watcher, "a", b"x");
        cluster.expect_nothing(watcher);
        permit(&mut cluster, question(&asked, "publish later/1"));
        cluster.expect_message(watcher, "later/1", b"x");
        cluster.expect_message(watcher, "b", b"x");
        cluster.expect_nothing(watcher);
        let ticket = question(&asked, "publish later/2");
        answer(&mut cluster, ticket, Answer::Permission(Permission::Deny(ReasonCode::QUOTA_EXCEEDED)));
        cluster.expect_message(watcher, "c", b"x");
        for expected in [
            ReasonCode::SUCCESS,
            ReasonCode::SUCCESS,
            ReasonCode::SUCCESS,
            ReasonCode::QUOTA_EXCEEDED,
            ReasonCode::NOT_AUTHORIZED,
            ReasonCode::SUCCESS,
        ] {
            cluster.expect(client, |packet| match packet {
                Packet::PubAck(ack) => assert_eq!(ack.reason, expected),
                other => panic!("{other:?}"),
            });
        }
        assert!(!cluster.is_paused(client));
        // Six PUBLISH packets and four PUBACKs of the watcher.
        assert_eq!(cluster.total(|stats| stats.packets_received), received + 10);
    }
}

/// [MQTT-3.3.2-6] [MQTT-3.3.2-5]: the time until its permission comes is time in the broker.
#[test]
fn a_publish_that_waits_for_its_permission_grows_older() {
    for cores in [1, 2, 8] {
        let (mut cluster, asked) = cluster(cores, limits(|limits| limits.decision_timeout_seconds = 60));
        let watcher = cluster.connect(0, Version::V5, "watcher");
        cluster.subscribe(watcher, "#", Qos::AtMostOnce);
        let client = cluster.connect(0, Version::V5, "c");
        let mut bytes = Vec::new();
        for (topic, expiry) in [("later/1", 30), ("later/2", 9)] {
            let list = [Property::MessageExpiryInterval(expiry)];
            let message = publish(topic, b"x", Qos::AtMostOnce, 0);
            let message = mqtt_proto::packet::Publish { properties: Properties::new(&list), ..message };
            bytes.extend(cluster.encoded(client, &Packet::Publish(message)));
        }
        cluster.send_bytes(client, &bytes);
        cluster.advance(12_000);
        permit(&mut cluster, question(&asked, "publish later/1"));
        cluster.expect(watcher, |packet| {
            let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
            assert_eq!(publish.properties.message_expiry_interval(), Some(18));
        });
        cluster.advance(10_000);
        permit(&mut cluster, question(&asked, "publish later/2"));
        cluster.expect_nothing(watcher);
    }
}

#[test]
fn a_publish_by_topic_alias_that_waits_is_not_too_large_for_that() {
    let (mut cluster, asked) = cluster(1, limits(|limits| limits.packet_bytes_max = 100));
    let client = cluster.connect(0, Version::V5, "c");
    let topic = format!("later/{}", "t".repeat(60));
    let alias = [Property::TopicAlias(1)];
    let first = mqtt_proto::packet::Publish {
        properties: Properties::new(&alias),
        ..publish(&topic, b"", Qos::AtMostOnce, 0)
    };
    cluster.send(client, &Packet::Publish(first));
    permit(&mut cluster, question(&asked, &format!("publish {topic}")));
    let payload = [0; 90];
    let second = mqtt_proto::packet::Publish { topic: None, payload: &payload, ..first };
    cluster.send(client, &Packet::Publish(second));
    permit(&mut cluster, question(&asked, &format!("publish {topic}")));
    cluster.send(client, &Packet::PingReq);
    cluster.expect(client, |packet| assert_eq!(packet, &Packet::PingResp));
}

#[test]
fn the_filters_of_a_subscribe_may_be_decided_one_by_one() {
    for cores in [1, 2, 8] {
        let (mut cluster, asked) = cluster(cores, limits(|_| {}));
        let client = cluster.connect(0, Version::V5, "c");
        let list = ["later/1", "secret", "later/2", "a", "later/#/x", "later/3"]
            .map(|filter| Subscription { filter, options: SubscriptionOptions::new(Qos::AtLeastOnce) });
        let subscribe = Subscribe {
            packet_id: PacketId::new(9).expect("not 0"),
            properties: Properties::EMPTY,
            subscriptions: Subscriptions::new(&list),
        };
        let mut bytes = cluster.encoded(client, &Packet::Subscribe(subscribe));
        bytes.extend(cluster.encoded(client, &Packet::PingReq));
        cluster.send_bytes(client, &bytes);
        permit(&mut cluster, question(&asked, "subscribe later/1"));
        let ticket = question(&asked, "subscribe later/2");
        answer(&mut cluster, ticket, Answer::Permission(Permission::Deny(ReasonCode::QUOTA_EXCEEDED)));
        cluster.expect_nothing(client);
        assert_eq!(cluster.total(|stats| stats.subscriptions), 0, "first all answers, then all changes");
        permit(&mut cluster, question(&asked, "subscribe later/3"));
        let mut reasons = Vec::new();
        for _ in 0..2 {
            cluster.expect(client, |packet| match packet {
                Packet::SubAck(suback) => reasons.extend(suback.reasons.iter()),
                other => assert_eq!(other, &Packet::PingResp),
            });
        }
        assert_eq!(reasons, [1, 0x87, 0x97, 1, 0x8F, 1].map(ReasonCode));
        cluster.send(client, &Packet::Publish(publish("later/3", b"x", Qos::AtLeastOnce, 1)));
        cluster.expect_nothing(client);
        permit(&mut cluster, question(&asked, "publish later/3"));
        assert_eq!(cluster.pending(client), 2, "the message and its PUBACK");
    }
}

#[test]
fn a_decision_that_does_not_come_ends_the_connection_and_its_answer_is_ignored() {
    for keep_alive in [0, 600] {
        let (mut cluster, asked) = cluster(1, limits(|limits| limits.decision_timeout_seconds = 5));
        let (client, _) = cluster.connect_with(0, Connect { keep_alive, ..connect(Version::V5, "c") });
        // Decided in time: the patience of this question does not end a later one.
        cluster.publish(client, "later", b"x");
        cluster.advance(4_000);
        permit(&mut cluster, question(&asked, "publish later"));
        cluster.publish(client, "later", b"x");
        cluster.advance(4_999);
        assert!(!cluster.is_closed(client));
        cluster.advance(1);
        cluster.expect_disconnect(client, ReasonCode::SERVER_BUSY);
        let ticket = question(&asked, "publish later");
        // Nor does an answer given to an earlier question of the same connection count.
        let again = cluster.connect(0, Version::V5, "again");
        cluster.publish(again, "later/1", b"x");
        let first = question(&asked, "publish later/1");
        permit(&mut cluster, first);
        cluster.publish(again, "later/2", b"x");
        permit(&mut cluster, first);
        assert!(cluster.is_paused(again));
        permit(&mut cluster, question(&asked, "publish later/2"));
        assert!(!cluster.is_paused(again));
        let next = cluster.connect(0, Version::V5, "c");
        cluster.publish(next, "later", b"x");
        permit(&mut cluster, ticket);
        assert!(cluster.is_paused(next), "the answer was not for this connection");
        permit(&mut cluster, question(&asked, "publish later"));
        assert!(!cluster.is_paused(next));
    }
}

#[test]
fn while_a_decision_is_out_silence_is_not_the_clients() {
    let (mut cluster, asked) = cluster(1, limits(|limits| limits.decision_timeout_seconds = 60));
    let (client, _) = cluster.connect_with(0, Connect { keep_alive: 2, ..connect(Version::V5, "c") });
    cluster.publish(client, "later", b"x");
    cluster.advance(30_000);
    assert!(!cluster.is_closed(client));
    permit(&mut cluster, question(&asked, "publish later"));
    cluster.advance(2_999);
    assert!(!cluster.is_closed(client));
    cluster.advance(1);
    cluster.expect_disconnect(client, ReasonCode::KEEP_ALIVE_TIMEOUT);
}

#[test]
fn while_a_lane_is_full_silence_is_not_the_clients() {
    let mut cluster = Cluster::with_limits(2, limits(|limits| limits.lane_bytes_max = 65_536));
    for n in 0..8 {
        let subscriber = cluster.connect(0, Version::V5, &format!("s{n}"));
        cluster.subscribe(subscriber, "a", Qos::AtMostOnce);
    }
    let (client, _) = cluster.connect_with(0, Connect { keep_alive: 2, ..connect(Version::V5, "c") });
    cluster.lanes_stalled = true;
    for _ in 0..200 {
        cluster.publish(client, "a", &[0; 1000]);
    }
    assert!(cluster.is_paused(client));
    cluster.advance(30_000);
    assert!(!cluster.is_closed(client));
    cluster.lanes_stalled = false;
    cluster.run();
    assert!(!cluster.is_paused(client));
    cluster.advance(3_000);
    cluster.expect_disconnect(client, ReasonCode::KEEP_ALIVE_TIMEOUT);
}

#[test]
fn disconnect_behind_a_publish_that_waits_is_not_lost() {
    let (mut cluster, asked) = cluster(1, limits(|_| {}));
    let watcher = cluster.connect(0, Version::V5, "watcher");
    cluster.subscribe(watcher, "+", Qos::AtMostOnce);
    let client = cluster.connect(0, Version::V5, "c");
    let mut bytes = cluster.encoded(client, &Packet::Publish(publish("later", b"x", Qos::AtMostOnce, 0)));
    let normal = Disconnect::new(ReasonCode::NORMAL_DISCONNECTION);
    bytes.extend(cluster.encoded(client, &Packet::Disconnect(normal)));
    cluster.send_bytes(client, &bytes);
    assert!(!cluster.is_closed(client));
    permit(&mut cluster, question(&asked, "publish later"));
    assert!(cluster.is_closed(client));
    cluster.expect_message(watcher, "later", b"x");
}

/// Connects with a Will, publishes what waits for two permissions and what waits for none, ends with `last`, and is gone.
fn publishes_and_goes(cluster: &mut Cluster, last: Option<ReasonCode>) {
    let will = Will {
        topic: TopicName::new("will").expect("a topic"),
        payload: b"gone",
        qos: Qos::AtMostOnce,
        retain: false,
        properties: Properties::EMPTY,
    };
    let (client, _) = cluster.connect_with(0, Connect { will: Some(will), ..connect(Version::V5, "c") });
    let mut bytes = Vec::new();
    for (topic, qos) in [
        ("later", Qos::AtLeastOnce),
        ("now", Qos::AtMostOnce),
        ("now", Qos::AtMostOnce),
        ("later again", Qos::AtMostOnce),
        ("last", Qos::AtMostOnce),
    ] {
        bytes.extend(cluster.encoded(client, &Packet::Publish(publish(topic, b"x", qos, 1))));
    }
    if let Some(reason) = last {
        bytes.extend(cluster.encoded(client, &Packet::Disconnect(Disconnect::new(reason))));
    }
    cluster.send_bytes(client, &bytes);
    cluster.cut(client);
}

fn watcher(cluster: &mut Cluster) -> ClientId {
    let watcher = cluster.connect(0, Version::V5, "watcher");
    cluster.subscribe(watcher, "+", Qos::AtMostOnce);
    watcher
}

#[test]
fn what_a_client_sent_before_it_went_counts_though_it_waits() {
    let (normal, with_will) = (ReasonCode::NORMAL_DISCONNECTION, ReasonCode::DISCONNECT_WITH_WILL_MESSAGE);
    for cores in [1, 2, 8] {
        for (last, published) in [(Some(normal), false), (Some(with_will), true), (None, true)] {
            let (mut cluster, asked) = cluster(cores, limits(|_| {}));
            let watcher = watcher(&mut cluster);
            publishes_and_goes(&mut cluster, last);
            cluster.expect_nothing(watcher);
            permit(&mut cluster, question(&asked, "publish later"));
            for topic in ["later", "now", "now"] {
                cluster.expect_message(watcher, topic, b"x");
            }
            cluster.expect_nothing(watcher);
            permit(&mut cluster, question(&asked, "publish later again"));
            for topic in ["later again", "last"] {
                cluster.expect_message(watcher, topic, b"x");
            }
            if published {
                cluster.expect_message(watcher, "will", b"gone");
            }
            cluster.expect_nothing(watcher);
            assert_eq!(cluster.total(|stats| stats.connections), 1, "only the watcher is there");
        }
    }
}

#[test]
fn what_waits_of_a_client_that_went_is_given_up_when_it_comes_back_or_after_a_while() {
    for comes_back in [false, true] {
        for (last, published) in [(Some(ReasonCode::NORMAL_DISCONNECTION), false), (None, true)] {
            let (mut cluster, asked) = cluster(1, limits(|_| {}));
            let watcher = watcher(&mut cluster);
            publishes_and_goes(&mut cluster, last);
            if comes_back {
                cluster.connect(0, Version::V5, "c");
            } else {
                cluster.advance(10_000);
            }
            if published {
                cluster.expect_message(watcher, "will", b"gone");
            }
            permit(&mut cluster, question(&asked, "publish later"));
            cluster.expect_nothing(watcher);
            let left = if comes_back { 2 } else { 1 };
            assert_eq!(cluster.total(|stats| stats.connections), left);
        }
    }
}

/// A session's time runs from the end of its connection on, not from when the last that it had sent was handled.
#[test]
fn a_session_is_away_since_its_connection_was_lost_though_something_waits() {
    for cores in [1, 2, 8] {
        let (mut cluster, asked) = cluster(cores, limits(|_| {}));
        let expiry = [Property::SessionExpiryInterval(5)];
        let connect = |clean_start| Connect {
            properties: Properties::new(&expiry),
            clean_start,
            ..connect(Version::V5, "c")
        };
        for comes_back_at_once in [true, false] {
            let (client, _) = cluster.connect_with(0, connect(true));
            cluster.send(client, &Packet::Publish(publish("later", b"x", Qos::AtMostOnce, 1)));
            cluster.cut(client);
            cluster.advance(4_999);
            assert_eq!(cluster.total(|stats| stats.sessions), 1);
            if comes_back_at_once {
                cluster.advance(1);
                let (client, present) = cluster.connect_with(0, connect(false));
                assert!(!present, "its time is over");
                cluster.cut(client);
                permit(&mut cluster, question(&asked, "publish later"));
            } else {
                permit(&mut cluster, question(&asked, "publish later"));
                cluster.advance(1);
                assert_eq!(cluster.total(|stats| stats.sessions), 0);
            }
        }
    }
}
