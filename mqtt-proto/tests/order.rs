//! What may come when: every packet type in every state of a [`Receiver`], in each version and role, whole and byte by
//! byte.

use mqtt_proto::connection::{ProtocolError, Receiver, Role};
use mqtt_proto::{Connect, Packet, PacketType, Properties, Property, PropertyId, Version, decode, encode};

use PacketType as T;

const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

/// How far a connection has got.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    /// Nothing has come.
    Opened,
    /// CONNECT or a successful CONNACK has come.
    Established,
    /// DISCONNECT has come.
    Left,
    /// A CONNACK that refuses has come.
    Refused,
}

/// The standard's order of packets, read as the one who receives them.
fn expected(
    role: Role,
    version: Version,
    authenticates: bool,
    stage: Stage,
    packet: PacketType,
) -> Result<(), ProtocolError> {
    let either = [T::Publish, T::PubAck, T::PubRec, T::PubRel, T::PubComp];
    let unexpected = Err(ProtocolError::UnexpectedPacket(packet));
    match (stage, role) {
        (Stage::Left | Stage::Refused, _) => unexpected,
        (Stage::Opened | Stage::Established, _) if packet == T::Auth && authenticates => {
            // A Server reads CONNECT before anything else.
            if (stage, role) == (Stage::Opened, Role::Server) {
                Err(ProtocolError::ConnectExpected)
            } else {
                Ok(())
            }
        }
        (Stage::Opened, Role::Server) if packet == T::Connect => Ok(()),
        (Stage::Opened, Role::Server) => Err(ProtocolError::ConnectExpected),
        (Stage::Opened, Role::Client) if packet == T::ConnAck => Ok(()),
        (Stage::Opened, Role::Client) => Err(ProtocolError::ConnAckExpected),
        (Stage::Established, Role::Server) if packet == T::Connect => Err(ProtocolError::SecondConnect),
        (Stage::Established, Role::Server) => {
            let own = [T::Subscribe, T::Unsubscribe, T::PingReq, T::Disconnect];
            if either.contains(&packet) || own.contains(&packet) { Ok(()) } else { unexpected }
        }
        (Stage::Established, Role::Client) => {
            let own = [T::SubAck, T::UnsubAck, T::PingResp];
            let says_goodbye = packet == T::Disconnect && version == Version::V5;
            if either.contains(&packet) || own.contains(&packet) || says_goodbye {
                Ok(())
            } else {
                unexpected
            }
        }
    }
}

fn connect(version: Version, authenticates: bool) -> Vec<u8> {
    let method = [Property::AuthenticationMethod("m")];
    let connect = Connect {
        properties: if authenticates { Properties::new(&method) } else { Properties::EMPTY },
        ..Connect::new(version, "c")
    };
    let mut out = Vec::new();
    encode(&Packet::Connect(connect), version, &mut out).expect("valid");
    out
}

/// A packet of this type that has nothing wrong in itself.
fn packet(packet_type: PacketType, version: Version) -> Vec<u8> {
    let (older, newer): (&[u8], &[u8]) = match packet_type {
        T::Connect => return connect(version, false),
        T::ConnAck => (&[0x20, 2, 0, 0], &[0x20, 3, 0, 0, 0]),
        T::Publish => (&[0x30, 3, 0, 1, b'a'], &[0x30, 4, 0, 1, b'a', 0]),
        T::PubAck => (&[0x40, 2, 0, 1], &[0x40, 2, 0, 1]),
        T::PubRec => (&[0x50, 2, 0, 1], &[0x50, 2, 0, 1]),
        T::PubRel => (&[0x62, 2, 0, 1], &[0x62, 2, 0, 1]),
        T::PubComp => (&[0x70, 2, 0, 1], &[0x70, 2, 0, 1]),
        T::Subscribe => (&[0x82, 6, 0, 1, 0, 1, b'a', 0], &[0x82, 7, 0, 1, 0, 0, 1, b'a', 0]),
        T::SubAck => (&[0x90, 3, 0, 1, 0], &[0x90, 4, 0, 1, 0, 0]),
        T::Unsubscribe => (&[0xA2, 5, 0, 1, 0, 1, b'a'], &[0xA2, 6, 0, 1, 0, 0, 1, b'a']),
        T::UnsubAck => (&[0xB0, 2, 0, 1], &[0xB0, 4, 0, 1, 0, 0]),
        T::PingReq => (&[0xC0, 0], &[0xC0, 0]),
        T::PingResp => (&[0xD0, 0], &[0xD0, 0]),
        T::Disconnect => (&[0xE0, 0], &[0xE0, 0]),
        T::Auth => (&[0xF0, 0], &[0xF0, 6, 0x18, 4, 0x15, 0, 1, b'm']),
    };
    if version == Version::V5 { newer.into() } else { older.into() }
}

/// A receiver at this stage; `None` if it cannot be reached.
fn receiver(role: Role, version: Version, authenticates: bool, stage: Stage) -> Option<Receiver> {
    let mut receiver = Receiver::new(role, 1_000);
    if role == Role::Client {
        let sent = connect(version, authenticates);
        let Ok(Packet::Connect(connect)) = decode(version, &sent) else { panic!("no CONNECT") };
        receiver.set_connect(&connect);
    }
    let opening = match role {
        Role::Server => connect(version, authenticates),
        Role::Client => packet(T::ConnAck, version),
    };
    let refusal: &[u8] = if version == Version::V5 { &[0x20, 3, 0, 0x87, 0] } else { &[0x20, 2, 0, 5] };
    let steps: &[&[u8]] = match (stage, role) {
        (Stage::Opened, _) => &[],
        (Stage::Established, _) => &[&opening],
        (Stage::Left, Role::Client) if version != Version::V5 => return None,
        (Stage::Left, _) => &[&opening, &[0xE0, 0]],
        (Stage::Refused, Role::Server) => return None,
        (Stage::Refused, Role::Client) => &[refusal],
    };
    for step in steps {
        let mut input = *step;
        assert!(matches!(receiver.poll_packet(&mut input), Ok(Some(_))), "{step:02X?}");
    }
    Some(receiver)
}

#[test]
fn each_packet_is_taken_where_it_may_come_and_refused_elsewhere() {
    let mut checked = 0;
    for role in [Role::Server, Role::Client] {
        for version in VERSIONS {
            for authenticates in [false, true] {
                if authenticates && version != Version::V5 {
                    continue;
                }
                for stage in [Stage::Opened, Stage::Established, Stage::Left, Stage::Refused] {
                    for packet_type in (1..=15).filter_map(PacketType::from_bits) {
                        let Some(mut whole) = receiver(role, version, authenticates, stage) else { continue };
                        let expected = expected(role, version, authenticates, stage, packet_type);
                        let bytes = packet(packet_type, version);
                        let taken = whole.poll_packet(&mut &bytes[..]);
                        let taken = taken
                            .map(|packet| assert_eq!(packet.map(|it| it.packet_type()), Some(packet_type)));
                        let context = (role, version, authenticates, stage, packet_type);
                        assert_eq!(taken, expected, "{context:?}");

                        let mut pieces =
                            receiver(role, version, authenticates, stage).expect("reached before");
                        assert_eq!(byte_by_byte(&mut pieces, &bytes, stage), expected, "{context:?}");
                        checked += 1;
                    }
                }
            }
        }
    }
    assert_eq!(checked, 15 * (4 * 3 + 2 * 3 + 2 * 4), "every type in every state");
}

/// Before the connection is established and after its end the first byte is enough, and nothing is kept.
fn byte_by_byte(receiver: &mut Receiver, bytes: &[u8], stage: Stage) -> Result<(), ProtocolError> {
    for (at, byte) in bytes.iter().enumerate() {
        match receiver.poll_packet(&mut std::slice::from_ref(byte)) {
            Ok(Some(_)) => {
                assert_eq!(at, bytes.len() - 1);
                return Ok(());
            }
            Ok(None) => assert_eq!(receiver.buffered_len(), at + 1),
            Err(error) => {
                if stage != Stage::Established {
                    assert_eq!((at, receiver.buffered_len()), (0, 0), "refused by its first byte");
                }
                return Err(error);
            }
        }
    }
    panic!("a whole packet is neither taken nor refused");
}

/// A connection is handed over between its pieces: what one reader kept, another begins with.
#[test]
fn an_incomplete_packet_can_be_handed_over() {
    let bytes = packet(T::Publish, Version::V5);
    for cut in 1..bytes.len() {
        let mut first = receiver(Role::Server, Version::V5, false, Stage::Established).expect("reached");
        assert!(matches!(first.poll_packet(&mut &bytes[..cut]), Ok(None)));
        assert_eq!(first.take_buffered(), &bytes[..cut]);
        assert_eq!(first.buffered_len(), 0);
        let mut second = receiver(Role::Server, Version::V5, false, Stage::Established).expect("reached");
        assert!(matches!(second.poll_packet(&mut &bytes[..cut]), Ok(None)));
        assert!(matches!(second.poll_packet(&mut &bytes[cut..]), Ok(Some(Packet::Publish(_)))));
    }
}

/// The limits of a receiver hold from the next packet on.
#[test]
fn a_receivers_maximum_packet_size_may_change_between_packets() {
    let bytes = packet(T::Publish, Version::V5);
    let mut receiver = receiver(Role::Server, Version::V5, false, Stage::Established).expect("reached");
    for (maximum, fits) in [(6, true), (5, false)] {
        receiver.set_maximum_packet_size(maximum);
        assert_eq!(receiver.poll_packet(&mut &bytes[..]).is_ok(), fits);
    }
}

/// Aliases of one packet do not outlive what replaces them, whatever else the packet carries.
#[test]
fn a_topic_alias_is_found_among_other_properties() {
    let mut receiver = receiver(Role::Server, Version::V5, false, Stage::Established).expect("reached");
    receiver.set_topic_alias_maximum(2);
    let alias = PropertyId::TopicAlias as u8;
    let indicator = PropertyId::PayloadFormatIndicator as u8;
    for (bytes, topic) in [
        (&[0x30, 9, 0, 1, b'a', 5, indicator, 1, alias, 0, 2][..], "a"),
        (&[0x30, 8, 0, 0, 5, alias, 0, 2, indicator, 0], "a"),
        (&[0x30, 7, 0, 1, b'b', 3, alias, 0, 1], "b"),
        (&[0x30, 6, 0, 0, 3, alias, 0, 2], "a"),
        (&[0x30, 6, 0, 0, 3, alias, 0, 1], "b"),
        (&[0x30, 4, 0, 1, b'c', 0], "c"),
        (&[0x30, 6, 0, 0, 3, alias, 0, 1], "b"),
    ] {
        let Ok(Some(Packet::Publish(publish))) = receiver.poll_packet(&mut &*bytes) else {
            panic!("{bytes:02X?} is refused")
        };
        assert_eq!(publish.topic.map(|topic| topic.as_str()), Some(topic));
    }
}
