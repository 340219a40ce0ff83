//! A Network Connection under a list of operations: a Client whose Server says anything at any time, and packets
//! that one connection receives and another sends on. Whatever is sent, the other side has to accept.

#[path = "input.rs"]
mod input;

use input::Input;
use mqtt_proto::codec::{decode, encode};
use mqtt_proto::connection::{Client, ConnectOptions, Event, Message, PeerLimits, Receiver, Role, Sender};
use mqtt_proto::packet::{
    Ack, Auth, ConnAck, Connect, Disconnect, Packet, Properties, Property, Publish, Subscription,
    SubscriptionOptions,
};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, TopicName, Version};

const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];
const QOS: [Qos; 3] = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce];
const TOPICS: [&str; 4] = ["a", "topic/one", "topic/two", "topic/three"];
const REASONS: [ReasonCode; 2] = [ReasonCode::SUCCESS, ReasonCode::UNSPECIFIED_ERROR];
const ALIASES: u16 = 2;

/// Takes `data` as packets to pass on if its first byte is even, as operations of a Client if it is odd.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    if input.byte().is_multiple_of(2) { relay(&mut input) } else { operate(&mut input) }
}

/// Receives packets in one version and sends them to a peer of another one, with limits of its own.
fn relay(input: &mut Input<'_>) {
    let (version, peer_version) = (input.one_of(&VERSIONS), input.one_of(&VERSIONS));
    let maximum_packet_size = u32::from(input.byte()) + 2;
    let peer = PeerLimits {
        maximum_packet_size,
        topic_alias_maximum: ALIASES,
        request_problem_information: input.byte().is_multiple_of(2),
        ..PeerLimits::new(peer_version)
    };
    let mut sender = Sender::new(&peer, ALIASES);
    let mut receiver = server_side(peer_version, maximum_packet_size);
    let mut publisher = server_side(version, u32::MAX);
    let mut stream = input.0;
    while let Ok(Some(packet)) = publisher.poll_packet(&mut stream) {
        let Packet::Publish(publish) = packet else { continue };
        let mut out = Vec::new();
        if sender.encode_publish(&publish, &mut out).is_err() {
            assert!(out.is_empty());
            continue;
        }
        assert!(out.len() <= maximum_packet_size as usize);
        let mut bytes = &out[..];
        let Ok(Some(Packet::Publish(passed))) = receiver.poll_packet(&mut bytes) else {
            panic!("the peer refuses {publish:?}")
        };
        assert_eq!((passed.topic, passed.payload), (publish.topic, publish.payload));
        assert!(bytes.is_empty() && passed.qos == publish.qos);
    }
}

/// A Server that has read a CONNECT of this version.
fn server_side(version: Version, maximum_packet_size: u32) -> Receiver {
    let mut receiver = Receiver::new(Role::Server, u32::MAX);
    receiver.set_topic_alias_maximum(ALIASES);
    let mut bytes = Vec::new();
    encode(&Packet::Connect(connect(version, true, Properties::EMPTY)), version, &mut bytes).expect("valid");
    assert!(matches!(receiver.poll_packet(&mut &bytes[..]), Ok(Some(_))));
    receiver.set_maximum_packet_size(maximum_packet_size);
    receiver
}

/// A Client does what the bytes say; a Server reads what it sends.
fn operate(input: &mut Input<'_>) {
    let (mut client, mut now) = (Client::<Message>::default(), 0);
    let (mut version, mut server) = (Version::V5, Receiver::default());
    while let Some(operation) = input.next() {
        match operation % 13 {
            0 => {
                let wanted = input.one_of(&VERSIONS);
                let said = [Property::ReceiveMaximum(3), Property::AuthenticationMethod("m")];
                let said = if wanted == Version::V5 { &said[..] } else { &[] };
                let mut options =
                    ConnectOptions::new(connect(wanted, operation & 16 == 0, Properties::new(said)));
                options.topic_alias_limit = ALIASES;
                options.manual_acknowledgement = operation & 32 == 0;
                if client.connect(&options, now).is_ok() {
                    (version, server) = (wanted, Receiver::new(Role::Server, u32::MAX));
                    server.set_topic_alias_maximum(ALIASES);
                }
            }
            1 => receive(&mut client, input.bytes(), now),
            2..=5 => {
                let mut bytes = Vec::new();
                let packet = from_server(operation, input);
                if encode(&packet, version, &mut bytes).is_ok() {
                    receive(&mut client, &bytes, now);
                }
            }
            6 => {
                let topic = TopicName::new(input.one_of(&TOPICS)).expect("a topic");
                let message = Message::new(topic, input.one_of(&QOS), input.bytes());
                let _ = client.publish(if operation & 16 == 0 { message } else { message.retained() }, now);
            }
            7 => {
                let options = SubscriptionOptions::new(input.one_of(&QOS));
                let list = [Subscription { filter: input.one_of(&TOPICS), options }; 2];
                let _ =
                    client.subscribe(&list[..usize::from(operation >> 4 & 1) + 1], Properties::EMPTY, now);
            }
            8 => drop(client.unsubscribe(&[input.one_of(&TOPICS)], Properties::EMPTY, now)),
            9 => drop(client.acknowledge(packet_id(input), input.one_of(&REASONS), now)),
            10 if operation & 16 == 0 => {
                let auth = Auth { reason: ReasonCode::CONTINUE_AUTHENTICATION, properties: METHOD };
                let _ = client.authenticate(&auth, now);
            }
            10 => drop(client.disconnect(&Disconnect::new(ReasonCode::SUCCESS), now)),
            11 => {
                now += u64::from(input.byte()) * 100;
                let _ = client.handle_timeout(now);
            }
            _ => client.connection_lost(),
        }
        let mut out = Vec::new();
        client.poll_transmit(&mut out);
        let mut bytes = &out[..];
        while server.poll_packet(&mut bytes).expect("a Client sends what it may").is_some() {}
        assert_eq!(server.buffered_len(), 0, "a Client sends whole packets");
        client.session().outbound.check_invariants();
        client.session().inbound.check_invariants();
    }
}

const METHOD: Properties<'static> = Properties::new(&[Property::AuthenticationMethod("m")]);

fn connect<'a>(version: Version, clean_start: bool, properties: Properties<'a>) -> Connect<'a> {
    let (will, user_name, password) = (None, None, None);
    Connect { version, clean_start, keep_alive: 9, client_id: "c", properties, will, user_name, password }
}

fn packet_id(input: &mut Input<'_>) -> PacketId {
    PacketId::new(u16::from(input.byte() % 8) + 1).expect("not 0")
}

/// One of the packets that a Server may send at some time.
fn from_server<'a>(choice: u8, input: &mut Input<'a>) -> Packet<'a> {
    const LIMITS: [Property<'static>; 3] =
        [Property::ReceiveMaximum(2), Property::TopicAliasMaximum(9), Property::MaximumPacketSize(30)];
    let (session_present, reason) = (choice & 16 != 0, input.one_of(&REASONS));
    let ack = Ack::new(packet_id(input), reason);
    match choice >> 4 {
        0 | 1 => Packet::PubAck(ack),
        2 | 3 => Packet::PubRec(ack),
        4 => Packet::PubRel(ack),
        5 => Packet::PubComp(ack),
        6..=9 => {
            let qos = input.one_of(&QOS);
            Packet::Publish(Publish {
                dup: false,
                qos,
                retain: false,
                topic: TopicName::new(input.one_of(&TOPICS)).ok(),
                packet_id: (qos != Qos::AtMostOnce).then_some(ack.packet_id),
                properties: Properties::EMPTY,
                payload: input.bytes(),
            })
        }
        10 => Packet::PingResp,
        11 => Packet::Auth(Auth { reason: ReasonCode::CONTINUE_AUTHENTICATION, properties: METHOD }),
        _ => {
            let properties = Properties::new(&LIMITS[..usize::from(input.byte() % 4)]);
            let session_present = session_present && !reason.is_error();
            Packet::ConnAck(ConnAck { session_present, reason, properties })
        }
    }
}

/// The Client reads these bytes; a message that it gives out can be told to others.
fn receive(client: &mut Client<Message>, mut bytes: &[u8], now: u64) {
    while let Ok(Some(event)) = client.poll_event(&mut bytes, now) {
        if let Event::Message(publish) = event {
            assert!(publish.topic.is_some());
            let mut out = Vec::new();
            let plain = Publish { properties: Properties::EMPTY, ..publish };
            encode(&Packet::Publish(plain), Version::V5, &mut out).expect("it was decoded");
            assert_eq!(decode(Version::V5, &out), Ok(Packet::Publish(plain)));
        }
    }
}
