//! A [`Client`] against a small server made of the same parts, over virtual time and links that split and cut the
//! byte stream anywhere: QoS 1 arrives at least once, QoS 2 exactly once, both in order.

use mqtt_proto::connection::{
    Client, ConnectOptions, Connection, Event, Handshake, Message, Outgoing, PeerLimits, ProtocolError,
    RequestError,
};
use mqtt_proto::session::{Arrival, PubRec, Resend, Session};
use mqtt_proto::{
    Ack, ConnAck, Connect, Disconnect, Packet, PacketId, PacketType, Properties, Property, Publish, Qos,
    ReasonCode, Reasons, SubAck, Subscription, SubscriptionOptions, TopicName, UnsubAck, Version,
};
use proptest::prelude::*;

/// A server for one client. It keeps the session and what arrived.
struct Server {
    door: Door,
    session: Option<Session<Message>>,
    receive_maximum: u16,
    arrived: Vec<(Qos, u32)>,
    transmit: Vec<u8>,
}

enum Door {
    Shut,
    Asked(Handshake),
    Open(Connection),
}

impl Server {
    fn new(receive_maximum: u16) -> Server {
        let (door, session) = (Door::Shut, None);
        Server { door, session, receive_maximum, arrived: Vec::new(), transmit: Vec::new() }
    }

    fn connection_opened(&mut self, now: u64) {
        self.door = Door::Asked(Handshake::server(1_000, now + 1_000));
        self.transmit.clear();
    }

    fn handle_input(&mut self, mut input: &[u8], now: u64) {
        if let Door::Asked(handshake) = &mut self.door {
            let Some(Packet::Connect(connect)) = handshake.poll_packet(&mut input).expect("a good client")
            else {
                return;
            };
            let peer = PeerLimits::from_connect(&connect);
            if connect.clean_start {
                self.session = None;
            }
            let session_present = self.session.is_some();
            self.session.get_or_insert_default().restart(peer.receive_maximum);
            let properties = [Property::ReceiveMaximum(self.receive_maximum), Property::TopicAliasMaximum(2)];
            let properties = Properties::new(&properties);
            let connack = ConnAck { session_present, reason: ReasonCode::SUCCESS, properties };
            let Door::Asked(handshake) = std::mem::replace(&mut self.door, Door::Shut) else {
                unreachable!()
            };
            let open = handshake.accept(&connack, 2, now, &mut self.transmit).expect("small");
            self.door = Door::Open(open);
            self.resend(now);
        }
        while self.handle_packet(&mut input, now) {}
    }

    fn handle_packet(&mut self, input: &mut &[u8], now: u64) -> bool {
        let Door::Open(connection) = &mut self.door else { return false };
        let session = self.session.as_mut().expect("made at CONNECT");
        let v5 = connection.version() == Version::V5;
        let limit = if v5 { self.receive_maximum } else { u16::MAX };
        let Some(packet) = connection.poll_packet(input, now).expect("a good client") else { return false };
        let ok = ReasonCode::SUCCESS;
        let properties = Properties::EMPTY;
        let reasons;
        let mut answer = None;
        match packet {
            Packet::Publish(publish) => {
                let number = number(&publish);
                let arrival = match publish.packet_id {
                    Some(id) => session.inbound.publish_received(publish.qos, id, limit).expect("the quota"),
                    None => Arrival::New,
                };
                if arrival == Arrival::New {
                    self.arrived.push((publish.qos, number));
                }
                answer = publish.packet_id.map(|id| match publish.qos {
                    Qos::AtLeastOnce => {
                        session.inbound.puback_sent();
                        Packet::PubAck(Ack::new(id, ok))
                    }
                    _ => {
                        session.inbound.pubrec_sent(id, ok);
                        Packet::PubRec(Ack::new(id, ok))
                    }
                });
            }
            Packet::PubRel(ack) => {
                session.inbound.pubrel_received(ack.packet_id);
                answer = Some(Packet::PubComp(Ack::new(ack.packet_id, ok)));
            }
            Packet::PubAck(ack) => {
                session.outbound.handle_puback(ack.packet_id, ack.reason).expect("known");
            }
            Packet::PubRec(ack) => {
                let released = session.outbound.handle_pubrec(ack.packet_id, ack.reason);
                assert!(matches!(released, Ok(PubRec::Release(_))));
                answer = Some(Packet::PubRel(Ack::new(ack.packet_id, ok)));
            }
            Packet::PubComp(ack) => session.outbound.handle_pubcomp(ack.packet_id).expect("known"),
            Packet::PingReq => answer = Some(Packet::PingResp),
            Packet::Subscribe(subscribe) => {
                reasons = vec![0; subscribe.subscriptions.iter().count()];
                let (packet_id, reasons) = (subscribe.packet_id, Reasons(&reasons));
                answer = Some(Packet::SubAck(SubAck { packet_id, properties, reasons }));
            }
            Packet::Unsubscribe(unsubscribe) => {
                reasons = vec![0; if v5 { unsubscribe.filters.iter().count() } else { 0 }];
                let (packet_id, reasons) = (unsubscribe.packet_id, Reasons(&reasons));
                answer = Some(Packet::UnsubAck(UnsubAck { packet_id, properties, reasons }));
            }
            Packet::Disconnect(_) => {
                self.door = Door::Shut;
                return false;
            }
            other => panic!("unexpected {other:?}"),
        }
        if let Some(answer) = answer {
            connection.encode(&answer, now, &mut self.transmit).expect("small");
        }
        self.resend(now);
        true
    }

    fn resend(&mut self, now: u64) {
        let (Door::Open(connection), Some(session)) = (&mut self.door, &mut self.session) else { return };
        while let Some(resend) = session.outbound.poll_resend() {
            let packet = match resend {
                Resend::PubRel { packet_id } => Packet::PubRel(Ack::new(packet_id, ReasonCode::SUCCESS)),
                Resend::Publish { packet_id, dup, qos, message } => {
                    assert!(dup, "all of them were sent before");
                    let packet_id = Some(packet_id);
                    Packet::Publish(Publish { dup, qos, packet_id, ..message.as_publish() })
                }
            };
            connection.encode(&packet, now, &mut self.transmit).expect("small");
        }
        session.outbound.check_invariants();
        session.inbound.check_invariants();
    }

    /// Sends a message if the window allows.
    fn publish(&mut self, message: Message, now: u64) -> bool {
        let (Door::Open(connection), Some(session)) = (&mut self.door, &mut self.session) else {
            return false;
        };
        if !session.outbound.can_start() {
            return false;
        }
        let qos = message.as_publish().qos;
        let packet_id = session.outbound.start(qos, message.clone()).expect("can start");
        let publish = Publish { packet_id: Some(packet_id), ..message.as_publish() };
        connection.encode(&Packet::Publish(publish), now, &mut self.transmit).expect("small");
        true
    }
}

fn message(qos: Qos, number: u32) -> Message {
    let topic = format!("topic/{}", number % 5);
    Message::new(TopicName::new(&topic).expect("a topic"), qos, &number.to_be_bytes())
}

fn number(publish: &Publish<'_>) -> u32 {
    let number = u32::from_be_bytes(publish.payload.try_into().expect("a number"));
    let topic = format!("topic/{}", number % 5);
    assert_eq!(publish.topic.map(TopicName::as_str), Some(&*topic), "topic and payload belong together");
    number
}

fn connect(version: Version, clean_start: bool, properties: Properties<'_>) -> ConnectOptions<'_> {
    ConnectOptions::new(Connect { clean_start, keep_alive: 10, properties, ..Connect::new(version, "pair") })
}

/// Both sides and the bytes between them.
struct World {
    version: Version,
    manual: bool,
    client: Client<Message>,
    server: Server,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    arrived: Vec<(Qos, u32)>,
    /// Messages that the application has to acknowledge.
    unacknowledged: Vec<PacketId>,
    now: u64,
}

const CLIENT_LIMITS: [Property<'static>; 2] = [Property::ReceiveMaximum(3), Property::TopicAliasMaximum(3)];

impl World {
    fn new(version: Version, manual: bool) -> World {
        let mut world = World {
            version,
            manual,
            client: Client::default(),
            server: Server::new(4),
            to_server: Vec::new(),
            to_client: Vec::new(),
            arrived: Vec::new(),
            unacknowledged: Vec::new(),
            now: 0,
        };
        world.reconnect();
        world
    }

    fn settled(version: Version, manual: bool) -> World {
        let mut world = World::new(version, manual);
        world.settle();
        world
    }

    fn reconnect(&mut self) {
        self.client.connection_lost();
        self.to_server.clear();
        self.to_client.clear();
        self.unacknowledged.clear();
        let mut options = connect(self.version, false, Properties::new(&CLIENT_LIMITS));
        options.manual_acknowledgement = self.manual;
        self.client.connect(&options, self.now).expect("closed");
        self.server.connection_opened(self.now);
    }

    fn deliver_to_server(&mut self, count: usize) {
        self.client.poll_transmit(&mut self.to_server);
        let bytes: Vec<u8> = self.to_server.drain(..count.min(self.to_server.len())).collect();
        self.server.handle_input(&bytes, self.now);
    }

    fn deliver_to_client(&mut self, count: usize) {
        self.to_client.append(&mut self.server.transmit);
        let bytes: Vec<u8> = self.to_client.drain(..count.min(self.to_client.len())).collect();
        let mut input = &bytes[..];
        while let Some(event) = self.client.poll_event(&mut input, self.now).expect("a good server") {
            match event {
                Event::Message(publish) => {
                    let number = number(&publish);
                    if self.manual {
                        self.unacknowledged.extend(publish.packet_id);
                    }
                    self.arrived.push((publish.qos, number));
                }
                Event::Connected { discarded, .. } => {
                    assert!(discarded.is_empty(), "the server keeps sessions")
                }
                // The PUBCOMP before was lost.
                Event::Stray(PacketType::PubRel, _) => {}
                Event::Stray(packet_type, id) => panic!("stray {packet_type:?} {id}"),
                _ => {}
            }
        }
        self.client.session().outbound.check_invariants();
        self.client.session().inbound.check_invariants();
    }

    /// Delivers everything until nothing moves any more.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            for id in std::mem::take(&mut self.unacknowledged) {
                self.client.acknowledge(id, ReasonCode::SUCCESS, self.now).expect("waits");
            }
            self.deliver_to_server(usize::MAX);
            self.deliver_to_client(usize::MAX);
            let more = self.client.poll_transmit(&mut self.to_server);
            if !more && self.server.transmit.is_empty() && self.unacknowledged.is_empty() {
                return;
            }
        }
        panic!("the two never come to rest");
    }
}

#[derive(Clone, Debug)]
enum Step {
    ClientPublishes(Qos),
    ServerPublishes(Qos),
    ToServer(usize),
    ToClient(usize),
    Acknowledge(usize),
    Wait(u64),
    Cut,
}

fn step() -> impl Strategy<Value = Step> {
    let qos = || prop_oneof![Just(Qos::AtLeastOnce), Just(Qos::ExactlyOnce)];
    prop_oneof![
        4 => qos().prop_map(Step::ClientPublishes),
        4 => qos().prop_map(Step::ServerPublishes),
        6 => (1..60usize).prop_map(Step::ToServer),
        6 => (1..60usize).prop_map(Step::ToClient),
        2 => (0..4usize).prop_map(Step::Acknowledge),
        1 => (1..3_000u64).prop_map(Step::Wait),
        1 => Just(Step::Cut),
    ]
}

/// What was sent arrived: QoS 1 at least once, QoS 2 exactly once unless the application itself forgot it, and each
/// in the order of sending.
fn check(sent: &[(Qos, u32)], arrived: &[(Qos, u32)], exactly_once: bool) {
    let of = |list: &[(Qos, u32)], wanted: Qos| -> Vec<u32> {
        list.iter().filter(|(qos, _)| *qos == wanted).map(|(_, number)| *number).collect()
    };
    if exactly_once {
        assert_eq!(of(sent, Qos::ExactlyOnce), of(arrived, Qos::ExactlyOnce), "exactly once, in order");
    }
    for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
        let mut first = Vec::new();
        for number in of(arrived, qos) {
            if !first.contains(&number) {
                first.push(number);
            }
        }
        assert_eq!(of(sent, qos), first, "at least once, in order");
    }
}

fn run(version: Version, manual: bool, steps: &[Step]) {
    let mut world = World::new(version, manual);
    let (mut by_client, mut by_server) = (Vec::new(), Vec::new());
    for (number, step) in (0..).zip(steps) {
        match *step {
            Step::ClientPublishes(qos) => match world.client.publish(message(qos, number), world.now) {
                Ok(_) => by_client.push((qos, number)),
                Err(unsent) => {
                    assert!(matches!(unsent.reason, RequestError::WindowFull | RequestError::NotConnected));
                }
            },
            Step::ServerPublishes(qos) => {
                if world.server.publish(message(qos, number), world.now) {
                    by_server.push((qos, number));
                }
            }
            Step::ToServer(count) => world.deliver_to_server(count),
            Step::ToClient(count) => world.deliver_to_client(count),
            Step::Acknowledge(at) => {
                if at < world.unacknowledged.len() {
                    let id = world.unacknowledged.remove(at);
                    world.client.acknowledge(id, ReasonCode::SUCCESS, world.now).expect("waits");
                }
            }
            Step::Wait(time) => {
                world.now += time;
                if world.client.handle_timeout(world.now).is_err() {
                    world.reconnect();
                }
            }
            Step::Cut => world.reconnect(),
        }
    }
    world.reconnect();
    world.settle();
    check(&by_client, &world.server.arrived, true);
    check(&by_server, &world.arrived, !manual);
    assert!(world.client.session().is_idle());
    assert!(world.server.session.as_ref().is_some_and(Session::is_idle));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_or_doubled_over_any_cut(
        steps in prop::collection::vec(step(), 1..150),
        version in prop_oneof![Just(Version::V3_1), Just(Version::V3_1_1), Just(Version::V5)],
    ) {
        run(version, false, &steps);
    }

    /// The application may see a message again that it had not acknowledged when the connection was cut.
    #[test]
    fn unacknowledged_messages_come_again(
        steps in prop::collection::vec(step(), 1..150),
        version in prop_oneof![Just(Version::V3_1_1), Just(Version::V5)],
    ) {
        run(version, true, &steps);
    }
}

#[test]
fn a_lost_session_hands_its_messages_back() {
    let mut world = World::settled(Version::V5, false);
    for number in 0..3 {
        world.client.publish(message(Qos::ExactlyOnce, number), 0).expect("quota");
    }
    world.server.session = None;
    world.reconnect();
    world.deliver_to_server(usize::MAX);
    let bytes = std::mem::take(&mut world.server.transmit);
    let mut input = &bytes[..];
    let Ok(Some(Event::Connected { discarded, .. })) = world.client.poll_event(&mut input, 0) else {
        panic!("no CONNACK");
    };
    assert_eq!(discarded, [0, 1, 2].map(|number| message(Qos::ExactlyOnce, number)));
}

#[test]
fn the_servers_receive_maximum_is_kept_and_an_acknowledgement_opens_the_window() {
    let mut world = World::new(Version::V5, false);
    let early = world.client.publish(message(Qos::AtLeastOnce, 0), 0).expect_err("no CONNACK yet");
    assert_eq!(early.reason, RequestError::NotConnected);
    world.settle();
    for number in 0..4 {
        assert!(world.client.publish(message(Qos::AtLeastOnce, number), 0).is_ok());
    }
    let fifth = message(Qos::AtLeastOnce, 4);
    let unsent = world.client.publish(fifth.clone(), 0).expect_err("4 is the Receive Maximum");
    assert_eq!((unsent.message, unsent.reason), (fifth, RequestError::WindowFull));
    assert!(world.client.publish(message(Qos::AtMostOnce, 4), 0).is_ok(), "QoS 0 needs no quota");
    world.settle();
    assert!(world.client.publish(message(Qos::AtLeastOnce, 5), 0).is_ok());
}

#[test]
fn requests_share_packet_identifiers_with_messages() {
    let mut world = World::settled(Version::V5, false);
    let options = SubscriptionOptions::new(Qos::AtLeastOnce);
    let wanted = [Subscription { filter: "a/#", options }, Subscription { filter: "b", options }];
    let first = world.client.publish(message(Qos::AtLeastOnce, 0), 0).expect("quota").expect("QoS 1");
    let second = world.client.subscribe(&wanted, Properties::EMPTY, 0).expect("connected");
    let third = world.client.unsubscribe(&["c"], Properties::EMPTY, 0).expect("connected");
    let fourth = world.client.publish(message(Qos::ExactlyOnce, 1), 0).expect("quota").expect("QoS 2");
    assert_eq!([first, second, third, fourth].map(PacketId::get), [1, 2, 3, 4]);
    world.deliver_to_server(usize::MAX);
    let bytes = std::mem::take(&mut world.server.transmit);
    let mut input = &bytes[..];
    let mut answered = Vec::new();
    while let Some(event) = world.client.poll_event(&mut input, 0).expect("a good server") {
        match event {
            Event::Subscribed(suback) => answered.push((suback.packet_id, suback.reasons.iter().len())),
            Event::Unsubscribed(unsuback) => {
                answered.push((unsuback.packet_id, unsuback.reasons.iter().len()))
            }
            _ => {}
        }
    }
    assert_eq!(answered, [(second, 2), (third, 1)]);
    let unasked = world.client.poll_event(&mut &[0x90, 4, 0, 2, 0, 0][..], 0);
    assert_eq!(unasked, Err(ProtocolError::AnswerMismatch(PacketType::SubAck)));
}

#[test]
fn a_pending_request_keeps_its_packet_identifier() {
    let mut world = World::settled(Version::V5, false);
    let options = SubscriptionOptions::new(Qos::AtMostOnce);
    let stuck = world.client.subscribe(&[Subscription { filter: "a", options }], Properties::EMPTY, 0);
    world.client.poll_transmit(&mut Vec::new());
    for number in 0..70_000 {
        let id = world.client.publish(message(Qos::AtLeastOnce, number), 0).expect("quota").expect("QoS 1");
        assert_ne!(Ok(id), stuck);
        let [high, low] = id.get().to_be_bytes();
        let puback = [0x40, 2, high, low];
        let acknowledged = world.client.poll_event(&mut &puback[..], 0);
        assert!(matches!(acknowledged, Ok(Some(Event::Acknowledged { .. }))));
        world.client.poll_transmit(&mut Vec::new());
    }
}

#[test]
fn acknowledgements_leave_in_the_order_of_arrival() {
    let mut world = World::settled(Version::V5, true);
    for number in 0..3 {
        assert!(world.server.publish(message(Qos::AtLeastOnce, number), 0));
    }
    world.deliver_to_client(usize::MAX);
    let [first, second, third] = world.unacknowledged[..] else { panic!("three messages") };
    let mut wire = Vec::new();
    world.client.acknowledge(third, ReasonCode::SUCCESS, 0).expect("waits");
    world.client.acknowledge(second, ReasonCode::QUOTA_EXCEEDED, 0).expect("waits");
    assert!(!world.client.poll_transmit(&mut wire), "the first is not acknowledged yet");
    world.client.acknowledge(first, ReasonCode::SUCCESS, 0).expect("waits");
    assert!(world.client.poll_transmit(&mut wire));
    assert_eq!(wire, [0x40, 2, 0, 1, 0x40, 3, 0, 2, 0x97, 0x40, 2, 0, 3]);
    let again = world.client.acknowledge(first, ReasonCode::SUCCESS, 0);
    assert_eq!(again, Err(RequestError::NothingToAcknowledge));
}

#[test]
fn a_client_tells_a_faulty_server_why_it_leaves() {
    let mut world = World::settled(Version::V5, false);
    let error = world.client.poll_event(&mut &[0x20, 3, 0, 0, 0][..], 0).expect_err("a second CONNACK");
    assert_eq!(error, ProtocolError::UnexpectedPacket(PacketType::ConnAck));
    assert!(world.client.is_closed());
    let mut wire = Vec::new();
    assert!(world.client.poll_transmit(&mut wire));
    assert_eq!(wire, [0xE0, 1, 0x82]);
    assert_eq!(world.client.poll_event(&mut &[0xD0, 0][..], 0), Ok(None));
}

#[test]
fn a_client_refuses_more_messages_than_it_allows() {
    let mut world = World::settled(Version::V5, true);
    for id in 1..=3 {
        let publish = [0x32, 6, 0, 1, b'a', 0, id, 0];
        assert!(world.client.poll_event(&mut &publish[..], 0).is_ok());
    }
    let error = world.client.poll_event(&mut &[0x32, 6, 0, 1, b'a', 0, 4, 0][..], 0);
    assert_eq!(error, Err(ProtocolError::ReceiveMaximumExceeded { limit: 3 }));
    let mut wire = Vec::new();
    world.client.poll_transmit(&mut wire);
    assert_eq!(wire, [0xE0, 1, 0x93]);
}

#[test]
fn a_session_that_was_not_asked_for_is_an_error() {
    let mut client: Client<Message> = Client::default();
    client.connect(&connect(Version::V5, true, Properties::EMPTY), 0).expect("closed");
    let error = client.poll_event(&mut &[0x20, 3, 1, 0, 0][..], 0);
    assert_eq!(error, Err(ProtocolError::UnexpectedSession));
}

#[test]
fn a_refused_client_is_closed() {
    let mut client: Client<Message> = Client::default();
    let options = connect(Version::V3_1_1, true, Properties::EMPTY);
    client.connect(&options, 0).expect("closed");
    assert_eq!(client.connect(&options, 0), Err(RequestError::AlreadyConnected));
    assert!(matches!(client.poll_event(&mut &[0x20, 2, 0, 5][..], 0), Ok(Some(Event::Refused(_)))));
    assert!(client.is_closed() && !client.is_connected());
    assert_eq!(client.connect(&options, 0), Ok(()));
}

#[test]
fn pings_keep_the_connection_and_their_absence_ends_it() {
    let mut world = World::settled(Version::V3_1_1, false);
    assert_eq!(world.client.poll_timeout(), Some(10_000));
    world.now = 10_000;
    assert_eq!(world.client.handle_timeout(world.now), Ok(()));
    world.settle();
    assert_eq!(world.client.poll_timeout(), Some(20_000), "the answer came");
    assert_eq!(world.client.handle_timeout(20_000), Ok(()));
    assert_eq!(world.client.poll_timeout(), Some(30_000));
    let late = ProtocolError::NotInTime(PacketType::PingResp);
    assert_eq!(world.client.handle_timeout(30_000), Err(late));
    assert!(world.client.is_closed());
}

#[test]
fn disconnect_is_the_last_packet() {
    let mut world = World::settled(Version::V5, false);
    world.client.disconnect(&Disconnect::new(ReasonCode::SUCCESS), 0).expect("connected");
    assert!(world.client.is_closed());
    let unsent = world.client.publish(message(Qos::AtMostOnce, 0), 0).expect_err("disconnected");
    assert_eq!(unsent.reason, RequestError::NotConnected);
    world.deliver_to_server(usize::MAX);
    assert!(matches!(world.server.door, Door::Shut));
}

#[test]
fn what_the_server_rules_out_is_not_sent() {
    let mut client: Client<Message> = Client::default();
    client.connect(&connect(Version::V5, true, Properties::EMPTY), 0).expect("closed");
    // Maximum QoS 1, Retain Available 0, Maximum Packet Size 20.
    let connack = [0x20, 12, 0, 0, 9, 0x24, 1, 0x25, 0, 0x27, 0, 0, 0, 20];
    assert!(matches!(client.poll_event(&mut &connack[..], 0), Ok(Some(Event::Connected { .. }))));
    let mut refused = |message: Message| client.publish(message, 0).expect_err("ruled out").reason;
    assert_eq!(refused(message(Qos::ExactlyOnce, 0)), RequestError::QosNotSupported);
    assert_eq!(refused(message(Qos::AtMostOnce, 0).retained()), RequestError::RetainNotSupported);
    let topic = TopicName::new("a").expect("a topic");
    let large = Message::new(topic, Qos::AtLeastOnce, &[0; 13]);
    assert!(matches!(refused(large), RequestError::Encode(_)));
    let fits = Message::new(topic, Qos::AtLeastOnce, &[0; 12]);
    assert_eq!(client.publish(fits, 0).expect("20 bytes").map(PacketId::get), Some(1));
}

#[test]
fn properties_of_a_message_are_sent() {
    let mut client: Client<Message> = Client::default();
    client.connect(&connect(Version::V5, true, Properties::EMPTY), 0).expect("closed");
    let connack = [0x20, 6, 0, 0, 3, 0x22, 0, 5];
    assert!(client.poll_event(&mut &connack[..], 0).is_ok());
    client.poll_transmit(&mut Vec::new());
    let list = [Property::ContentType("text"), Property::UserProperty("a", "b")];
    let message = message(Qos::AtMostOnce, 7).with_properties(Properties::new(&list)).expect("valid");
    client.publish(message, 0).expect("connected");
    let mut wire = Vec::new();
    client.poll_transmit(&mut wire);
    let Ok(Packet::Publish(publish)) = mqtt_proto::decode(Version::V5, &wire) else { panic!("no PUBLISH") };
    let sent: Vec<_> = publish.properties.iter().collect();
    assert_eq!(sent, [list[0], list[1], Property::TopicAlias(1)]);
    assert!(
        Message::new(TopicName::new("a").expect("a topic"), Qos::AtMostOnce, b"")
            .with_properties(Properties::new(&[Property::ServerKeepAlive(1)]))
            .is_err()
    );
}

#[test]
fn an_unacknowledged_qos_2_message_is_new_when_it_comes_again() {
    let mut world = World::settled(Version::V5, true);
    assert!(world.server.publish(message(Qos::ExactlyOnce, 7), 0));
    world.deliver_to_client(usize::MAX);
    assert_eq!(world.arrived, [(Qos::ExactlyOnce, 7)]);
    // The application has not acknowledged it, so it may have lost it as well.
    world.reconnect();
    world.settle();
    assert_eq!(world.arrived, [(Qos::ExactlyOnce, 7); 2]);
    world.reconnect();
    world.settle();
    assert_eq!(world.arrived.len(), 2);
}
