//! The receiving half of a Network Connection: frames, decodes, checks what may come when, resolves Topic Aliases.
//!
//! Invariant: a packet that is returned was allowed at this place, and a PUBLISH has its topic. Owns memory only
//! for a packet that is incomplete and for Topic Aliases in use. Lives on: the core that holds the socket.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::error::ProtocolError;
use super::limits::carried;
use crate::codec::{self, Alike, Framer};
use crate::packet::{Connect, Packet, PacketType, Property, Publish};
use crate::types::{PacketId, TopicName, Version};

/// Which side of the Network Connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// We open the connection and send CONNECT.
    Client,
    /// We accept the connection and answer with CONNACK.
    Server,
}

/// The largest packet that the format allows: a Fixed Header of 5 bytes and 268,435,455 more.
const FORMAT_MAXIMUM_PACKET_SIZE: u32 = 268_435_460;

/// What the peer may send now.
///
/// ```text
/// we serve:  AwaitConnect --CONNECT--> FromClient --DISCONNECT--> Ended
/// we asked:  AwaitConnAck --CONNACK--> FromServer --DISCONNECT--> Ended
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    AwaitConnect,
    FromClient,
    AwaitConnAck,
    FromServer,
    Ended,
}

/// What the two sides speak, by the CONNECT of whichever of them sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    /// CONNECT has not come.
    Unknown,
    Plain(Version),
    /// 5.0, and CONNECT names an Authentication Method: there may be AUTH [MQTT-4.12.0-6] [MQTT-4.12.0-7].
    WithAuth,
}

impl Dialect {
    fn of(connect: &Connect<'_>) -> Dialect {
        match carried(connect.properties, connect.version).authentication_method() {
            Some(_) => Dialect::WithAuth,
            None => Dialect::Plain(connect.version),
        }
    }

    const fn version(self) -> Option<Version> {
        match self {
            Dialect::Unknown => None,
            Dialect::Plain(version) => Some(version),
            Dialect::WithAuth => Some(Version::V5),
        }
    }
}

/// Topic by alias less one; empty where the alias stands for nothing. Most peers have none and pay for a pointer.
type Aliases = Option<Box<Vec<Box<str>>>>;

/// The receiving half of a Network Connection.
///
/// The default is a Server before CONNECT without a limit of its own; it allocates nothing.
#[derive(Debug)]
pub struct Receiver {
    framer: Framer,
    aliases: Aliases,
    maximum_packet_size: u32,
    topic_alias_maximum: u16,
    dialect: Dialect,
    state: State,
}

impl Default for Receiver {
    fn default() -> Receiver {
        Receiver::new(Role::Server, FORMAT_MAXIMUM_PACKET_SIZE)
    }
}

impl Receiver {
    /// The start of a Network Connection. `maximum_packet_size` is what we accept, in bytes.
    pub fn new(role: Role, maximum_packet_size: u32) -> Receiver {
        Receiver {
            framer: Framer::default(),
            aliases: None,
            maximum_packet_size,
            topic_alias_maximum: 0,
            dialect: Dialect::Unknown,
            state: match role {
                Role::Client => State::AwaitConnAck,
                Role::Server => State::AwaitConnect,
            },
        }
    }

    /// A Client tells the version of the CONNECT that it sends, one without an Authentication Method. A Server learns it
    /// by itself.
    pub const fn set_version(&mut self, version: Version) {
        self.dialect = Dialect::Plain(version);
    }

    /// A Client tells the CONNECT that it sends: its version, and whether the Server may send AUTH.
    pub fn set_connect(&mut self, connect: &Connect<'_>) {
        self.dialect = Dialect::of(connect);
    }

    /// The version, `None` before CONNECT.
    pub const fn version(&self) -> Option<Version> {
        self.dialect.version()
    }

    /// The Topic Alias Maximum that we announced to the peer; 0 if none.
    pub const fn set_topic_alias_maximum(&mut self, maximum: u16) {
        self.topic_alias_maximum = maximum;
    }

    /// The largest packet that we accept, in bytes, from the next packet on.
    pub const fn set_maximum_packet_size(&mut self, maximum_packet_size: u32) {
        self.maximum_packet_size = maximum_packet_size;
    }

    /// The next packet; its bytes are cut off `input`. `None` when all of `input` is used up, an incomplete packet
    /// being kept for the next call.
    ///
    /// A PUBLISH comes with its topic; the Topic Alias property that may have stood for it is still listed.
    ///
    /// # Errors
    /// What the peer did wrong. The connection is over then: send [`ProtocolError::reason_code`] and close.
    #[inline]
    pub fn poll_packet<'a, 'input: 'a>(
        &'a mut self,
        input: &mut &'input [u8],
    ) -> Result<Option<Packet<'a>>, ProtocolError> {
        self.check_first_byte(input)?;
        let Some(frame) = self.framer.next_frame(input, self.maximum_packet_size)? else { return Ok(None) };
        admit(self.state, self.dialect, packet_type(frame)?)?;
        let mut packet = codec::decode(self.dialect.version().unwrap_or_default(), frame)?;
        let known = (&mut self.aliases, self.topic_alias_maximum);
        note(&mut packet, known, &mut self.dialect, &mut self.state)?;
        Ok(Some(packet))
    }

    /// [`Receiver::poll_packet`] that lends the packet and the bytes it came as to `handle`, and gives what that returns:
    /// a packet is large, and moving it from hand to hand costs more than a small message does otherwise.
    ///
    /// # Errors
    /// As [`Receiver::poll_packet`].
    #[inline]
    pub fn poll_with<T>(
        &mut self,
        input: &mut &[u8],
        handle: impl FnOnce(&Packet<'_>, &[u8]) -> T,
    ) -> Result<Option<T>, ProtocolError> {
        self.check_first_byte(input)?;
        let Some(frame) = self.framer.next_frame(input, self.maximum_packet_size)? else { return Ok(None) };
        admit(self.state, self.dialect, packet_type(frame)?)?;
        match &mut codec::decode(self.dialect.version().unwrap_or_default(), frame) {
            Ok(packet) => {
                let known = (&mut self.aliases, self.topic_alias_maximum);
                note(packet, known, &mut self.dialect, &mut self.state)?;
                Ok(Some(handle(packet, frame)))
            }
            Err(error) => Err((*error).into()),
        }
    }

    /// The next packet with the bytes it came as, cut off `input`, if it is a PUBLISH that is `alike` to one this receiver
    /// has let through. `None` says nothing about what else may be there: ask [`Receiver::poll_packet`].
    #[inline(always)]
    pub fn poll_alike<'input>(
        &self,
        alike: &Alike<'_>,
        input: &mut &'input [u8],
    ) -> Option<(Publish<'input>, &'input [u8])> {
        let (State::FromClient | State::FromServer) = self.state else { return None };
        if self.framer.is_amid_packet() {
            return None;
        }
        let (publish, bytes) = alike.decode::<false>(self.dialect.version().unwrap_or_default(), input)?;
        if bytes.len() > self.maximum_packet_size as usize {
            return None;
        }
        *input = &input[bytes.len()..];
        Some((publish, bytes))
    }

    /// The next packet, cut off `input`, if it is a PUBACK, PUBREC, PUBREL or PUBCOMP of success without properties, which
    /// takes four bytes in every version. `None` says nothing about what else may be there: ask
    /// [`Receiver::poll_packet`].
    #[inline(always)]
    pub fn poll_plain_ack(&self, input: &mut &[u8]) -> Option<(PacketType, PacketId)> {
        let (State::FromClient | State::FromServer) = self.state else { return None };
        let (frame, rest) = input.split_first_chunk::<4>()?;
        let ack = codec::plain_ack(frame)
            .filter(|_| !self.framer.is_amid_packet() && self.maximum_packet_size >= 4)?;
        *input = rest;
        Some(ack)
    }

    /// Bytes kept of an incomplete packet.
    pub fn buffered_len(&self) -> usize {
        self.framer.buffered_len()
    }

    /// Takes the bytes of an incomplete packet out, to hand the connection over to another reader.
    pub fn take_buffered(&mut self) -> Vec<u8> {
        self.framer.take_buffered()
    }

    /// During the handshake a wrong packet fails with its first byte, before anything of it is kept.
    fn check_first_byte(&self, input: &[u8]) -> Result<(), ProtocolError> {
        if matches!(self.state, State::FromClient | State::FromServer) || self.framer.buffered_len() > 0 {
            return Ok(());
        }
        match input.first().and_then(|byte| PacketType::from_bits(byte >> 4)) {
            Some(packet_type) => admit(self.state, self.dialect, packet_type),
            None => Ok(()),
        }
    }
}

#[inline]
fn packet_type(frame: &[u8]) -> Result<PacketType, ProtocolError> {
    PacketType::from_bits(frame[0] >> 4).ok_or(codec::DecodeError::ForbiddenPacketType(0).into())
}

/// Puts the topic into a PUBLISH that names it by an alias, out of those `known` or up to that maximum, and notes what
/// the packet says of those that follow.
#[inline]
fn note<'a>(
    packet: &mut Packet<'a>,
    known: (&'a mut Aliases, u16),
    dialect: &mut Dialect,
    state: &mut State,
) -> Result<(), ProtocolError> {
    match packet {
        Packet::Publish(publish) if !publish.properties.is_empty() => {
            let from_client = *state != State::FromServer;
            resolve_topic(known.0, known.1, publish, from_client)?;
        }
        Packet::Connect(connect) => {
            *dialect = Dialect::of(connect);
            *state = State::FromClient;
        }
        Packet::ConnAck(connack) => {
            *state = if connack.reason.is_error() { State::Ended } else { State::FromServer };
        }
        Packet::Disconnect(_) => *state = State::Ended,
        _ => {}
    }
    Ok(())
}

/// Whether the peer may send this packet now.
#[inline]
fn admit(state: State, dialect: Dialect, packet_type: PacketType) -> Result<(), ProtocolError> {
    use PacketType as T;
    match (state, packet_type) {
        (State::AwaitConnect, T::Connect) => Ok(()),
        (State::AwaitConnect, _) => Err(ProtocolError::ConnectExpected),
        (State::FromClient | State::AwaitConnAck | State::FromServer, T::Auth)
            if dialect == Dialect::WithAuth =>
        {
            Ok(())
        }
        (State::FromClient, T::Connect) => Err(ProtocolError::SecondConnect),
        (State::FromClient, T::ConnAck | T::SubAck | T::UnsubAck | T::PingResp | T::Auth) => {
            Err(ProtocolError::UnexpectedPacket(packet_type))
        }
        (State::FromClient, _) => Ok(()),
        (State::AwaitConnAck, T::ConnAck) => Ok(()),
        (State::AwaitConnAck, _) => Err(ProtocolError::ConnAckExpected),
        (State::FromServer, T::Disconnect) if dialect.version().is_some_and(Version::has_properties) => {
            Ok(())
        }
        (
            State::FromServer,
            T::Connect | T::ConnAck | T::Subscribe | T::Unsubscribe | T::PingReq | T::Disconnect | T::Auth,
        ) => Err(ProtocolError::UnexpectedPacket(packet_type)),
        (State::FromServer, _) => Ok(()),
        (State::Ended, _) => Err(ProtocolError::UnexpectedPacket(packet_type)),
    }
}

/// Learns or replaces the Topic Alias of a PUBLISH (section 3.3.2.3.4).
fn resolve_topic<'a>(
    aliases: &'a mut Aliases,
    maximum: u16,
    publish: &mut Publish<'a>,
    from_client: bool,
) -> Result<(), ProtocolError> {
    let mut alias = None;
    for property in publish.properties.iter() {
        match property {
            Property::TopicAlias(value) => alias = Some(value),
            Property::SubscriptionIdentifier(_) if from_client => {
                return Err(ProtocolError::SubscriptionIdentifierFromClient);
            }
            _ => {}
        }
    }
    let Some(alias) = alias else { return Ok(()) };
    if alias == 0 || alias > maximum {
        return Err(ProtocolError::TopicAliasInvalid { alias, maximum });
    }
    let at = usize::from(alias) - 1;
    match publish.topic {
        Some(topic) => {
            let aliases = aliases.get_or_insert_default();
            if aliases.len() <= at {
                aliases.resize(at + 1, Box::default());
            }
            if *aliases[at] != *topic.as_str() {
                aliases[at] = topic.as_str().into();
            }
        }
        None => {
            let topic = aliases.as_ref().and_then(|aliases| aliases.get(at));
            let topic = topic.and_then(|topic| TopicName::new(topic).ok());
            publish.topic = Some(topic.ok_or(ProtocolError::TopicAliasUnknown(alias))?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::DecodeError;
    use crate::packet::{Auth, ConnAck, Disconnect, Properties};
    use crate::types::{Qos, ReasonCode};

    fn connect(version: Version, properties: Properties<'_>) -> Packet<'_> {
        Packet::Connect(Connect { properties, ..Connect::new(version, "c") })
    }

    fn publish<'a>(topic: Option<&'a str>, properties: &'a [Property<'a>]) -> Packet<'a> {
        Packet::Publish(Publish {
            dup: false,
            qos: Qos::AtMostOnce,
            retain: false,
            topic: topic.map(|topic| TopicName::new(topic).expect("a topic")),
            packet_id: None,
            properties: Properties::new(properties),
            payload: b"",
        })
    }

    fn bytes(version: Version, packets: &[Packet<'_>]) -> Vec<u8> {
        let mut out = Vec::new();
        packets.iter().for_each(|packet| codec::encode(packet, version, &mut out).expect("valid"));
        out
    }

    /// Feeds the packets one by one; the error of the last one, the others being accepted.
    fn last_error(
        receiver: &mut Receiver,
        version: Version,
        packets: &[Packet<'_>],
    ) -> Option<ProtocolError> {
        let mut last = None;
        for packet in packets {
            assert_eq!(last, None, "an earlier packet was refused");
            let bytes = bytes(version, &[*packet]);
            let mut input = &bytes[..];
            last = receiver.poll_packet(&mut input).err();
        }
        last
    }

    fn server() -> Receiver {
        Receiver::new(Role::Server, 1_000)
    }

    fn client(version: Version) -> Receiver {
        let mut receiver = Receiver::new(Role::Client, 1_000);
        receiver.set_version(version);
        receiver
    }

    const CONNACK: Packet<'static> = Packet::ConnAck(ConnAck {
        session_present: false,
        reason: ReasonCode::SUCCESS,
        properties: Properties::EMPTY,
    });
    const DISCONNECT: Packet<'static> = Packet::Disconnect(Disconnect::new(ReasonCode::SUCCESS));

    #[test]
    fn the_first_packet_of_a_client_is_connect() {
        let mut receiver = server();
        assert_eq!(receiver.poll_packet(&mut &[0x30][..]), Err(ProtocolError::ConnectExpected));
        assert_eq!(receiver.buffered_len(), 0, "nothing of it is kept");
    }

    #[test]
    fn a_second_connect_is_an_error() {
        let connect = connect(Version::V3_1_1, Properties::EMPTY);
        let error = last_error(&mut server(), Version::V3_1_1, &[connect, connect]);
        assert_eq!(error, Some(ProtocolError::SecondConnect));
    }

    #[test]
    fn a_server_learns_the_version_from_connect() {
        for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
            let mut receiver = server();
            assert_eq!(receiver.version(), None);
            let bytes = bytes(version, &[connect(version, Properties::EMPTY), publish(Some("a"), &[])]);
            let mut input = &bytes[..];
            assert!(matches!(receiver.poll_packet(&mut input), Ok(Some(Packet::Connect(_)))));
            assert_eq!(receiver.version(), Some(version));
            assert!(matches!(receiver.poll_packet(&mut input), Ok(Some(Packet::Publish(_)))));
            assert!(matches!(receiver.poll_packet(&mut input), Ok(None)));
        }
    }

    #[test]
    fn each_side_sends_only_its_own_packets() {
        let connect = connect(Version::V5, Properties::EMPTY);
        for (packet, packet_type) in
            [(CONNACK, PacketType::ConnAck), (Packet::PingResp, PacketType::PingResp)]
        {
            let error = last_error(&mut server(), Version::V5, &[connect, packet]);
            assert_eq!(error, Some(ProtocolError::UnexpectedPacket(packet_type)));
        }
        for (packet, packet_type) in [
            (connect, PacketType::Connect),
            (CONNACK, PacketType::ConnAck),
            (Packet::PingReq, PacketType::PingReq),
        ] {
            let error = last_error(&mut client(Version::V5), Version::V5, &[CONNACK, packet]);
            assert_eq!(error, Some(ProtocolError::UnexpectedPacket(packet_type)));
        }
    }

    #[test]
    fn a_server_says_connack_first_and_disconnect_only_in_5() {
        let error = last_error(&mut client(Version::V5), Version::V5, &[Packet::PingResp]);
        assert_eq!(error, Some(ProtocolError::ConnAckExpected));
        let error = last_error(&mut client(Version::V3_1_1), Version::V3_1_1, &[CONNACK, DISCONNECT]);
        assert_eq!(error, Some(ProtocolError::UnexpectedPacket(PacketType::Disconnect)));
        assert_eq!(last_error(&mut client(Version::V5), Version::V5, &[CONNACK, DISCONNECT]), None);
    }

    #[test]
    fn nothing_follows_disconnect() {
        let connect = connect(Version::V5, Properties::EMPTY);
        let error = last_error(&mut server(), Version::V5, &[connect, DISCONNECT, Packet::PingReq]);
        assert_eq!(error, Some(ProtocolError::UnexpectedPacket(PacketType::PingReq)));
    }

    #[test]
    fn auth_needs_an_authentication_method_in_connect() {
        let method = [Property::AuthenticationMethod("m")];
        let auth = Packet::Auth(Auth {
            reason: ReasonCode::CONTINUE_AUTHENTICATION,
            properties: Properties::new(&method),
        });
        let with = connect(Version::V5, Properties::new(&method));
        assert_eq!(last_error(&mut server(), Version::V5, &[with, auth]), None);
        let without = connect(Version::V5, Properties::EMPTY);
        let error = last_error(&mut server(), Version::V5, &[without, auth]);
        assert_eq!(error, Some(ProtocolError::UnexpectedPacket(PacketType::Auth)));
    }

    #[test]
    fn topic_aliases_are_resolved_and_replaced() {
        let mut receiver = server();
        receiver.set_topic_alias_maximum(2);
        let two = [Property::TopicAlias(2)];
        let packets = [
            connect(Version::V5, Properties::EMPTY),
            publish(Some("a"), &two),
            publish(None, &two),
            publish(Some("b/c"), &two),
            publish(None, &two),
        ];
        let bytes = bytes(Version::V5, &packets);
        let mut input = &bytes[..];
        let mut topics = Vec::new();
        // A receiver lends its aliases: each packet is looked at before the next is asked for.
        while let Some(packet) = receiver.poll_packet(&mut input).expect("valid") {
            if let Packet::Publish(Publish { topic, .. }) = packet {
                topics.push(alloc::string::String::from(topic.expect("resolved").as_str()));
            }
        }
        assert_eq!(topics, ["a", "a", "b/c", "b/c"]);
    }

    #[test]
    fn a_wrong_topic_alias_is_refused() {
        let three = [Property::TopicAlias(3)];
        let one = [Property::TopicAlias(1)];
        for (maximum, packet, error) in [
            (2, publish(Some("a"), &three), ProtocolError::TopicAliasInvalid { alias: 3, maximum: 2 }),
            (0, publish(Some("a"), &one), ProtocolError::TopicAliasInvalid { alias: 1, maximum: 0 }),
            (2, publish(None, &one), ProtocolError::TopicAliasUnknown(1)),
        ] {
            let mut receiver = server();
            receiver.set_topic_alias_maximum(maximum);
            let connect = connect(Version::V5, Properties::EMPTY);
            assert_eq!(last_error(&mut receiver, Version::V5, &[connect, packet]), Some(error));
        }
    }

    #[test]
    fn only_a_server_sends_subscription_identifiers() {
        let identifier = [Property::SubscriptionIdentifier(7)];
        let packet = publish(Some("a"), &identifier);
        let connect = connect(Version::V5, Properties::EMPTY);
        let error = last_error(&mut server(), Version::V5, &[connect, packet]);
        assert_eq!(error, Some(ProtocolError::SubscriptionIdentifierFromClient));
        assert_eq!(last_error(&mut client(Version::V5), Version::V5, &[CONNACK, packet]), None);
    }

    #[test]
    fn a_packet_too_large_is_refused_before_it_comes() {
        let mut receiver = Receiver::new(Role::Server, 100);
        let error = receiver.poll_packet(&mut &[0x10, 99][..]).expect_err("101 bytes");
        assert_eq!(error, DecodeError::PacketTooLarge { size: 101, maximum: 100 }.into());
        assert_eq!(error.reason_code(), ReasonCode::PACKET_TOO_LARGE);
    }

    #[test]
    fn a_receiver_is_small() {
        assert!(size_of::<Receiver>() <= 64);
    }

    /// What a Server that has let `first` through finds alike in front of `next`.
    fn alike_behind(version: Version, first: &Packet<'_>, next: &[u8]) -> bool {
        let mut receiver = Receiver::new(Role::Server, 30_000);
        let connect = bytes(version, &[connect(version, Properties::EMPTY)]);
        assert!(matches!(receiver.poll_packet(&mut &connect[..]), Ok(Some(_))));
        let first = bytes(version, &[*first]);
        assert!(matches!(receiver.poll_packet(&mut &first[..]), Ok(Some(_))));
        let Some(alike) = Alike::to(&first, version) else { return false };
        let mut rest = next;
        let Some((publish, frame)) = receiver.poll_alike(&alike, &mut rest) else {
            assert_eq!(rest.len(), next.len(), "nothing is cut off");
            return false;
        };
        assert_eq!(next.len(), frame.len() + rest.len());
        let mut known = next;
        assert_eq!(alike.split_first(version, &mut known), Some((publish, frame)));
        assert_eq!(known, rest);
        let mut same = next;
        assert_eq!(receiver.poll_packet(&mut same), Ok(Some(Packet::Publish(publish))));
        assert_eq!(same, rest);
        true
    }

    #[test]
    fn what_is_alike_is_read_as_any_packet() {
        for version in [Version::V3_1_1, Version::V5] {
            for (qos, id) in [(Qos::AtMostOnce, None), (Qos::AtLeastOnce, PacketId::new(7))] {
                for len in [0, 1, 100, 115, 120, 125, 130, 16_000, 16_500] {
                    let payload = [3].repeat(len);
                    let first = Publish {
                        dup: id.is_some(),
                        qos,
                        retain: true,
                        topic: TopicName::new("a/topic").ok(),
                        packet_id: id,
                        properties: Properties::EMPTY,
                        payload: b"",
                    };
                    let packet_id = id.map(PacketId::next);
                    let plain = Publish { dup: false, retain: false, packet_id, payload: &payload, ..first };
                    let next = bytes(version, &[Packet::Publish(plain)]);
                    let first = &Packet::Publish(first);
                    assert_eq!(alike_behind(version, first, &next), len < 16_300, "{version:?} {len}");
                    assert_eq!(alike_behind(version, first, &[&next[..], &[0x30]].concat()), len < 16_300);
                    assert!(!alike_behind(version, first, &next[..next.len() - 1]));
                    let other = Publish { topic: TopicName::new("a/tropic").ok(), ..plain };
                    let list = [Property::ContentType("t")];
                    let with_properties = Publish { properties: Properties::new(&list), ..plain };
                    let others = [other, Publish { retain: true, ..plain }, with_properties];
                    for (nth, other) in others.iter().enumerate() {
                        let sees = alike_behind(version, first, &bytes(version, &[Packet::Publish(*other)]));
                        // Before 5.0 there are no properties to tell them apart.
                        assert_eq!(sees, nth == 2 && version != Version::V5 && len < 16_300);
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_is_alike_to_other_packets_nor_amid_one() {
        let publish = publish(Some("a/topic"), &[]);
        let next = bytes(Version::V5, &[publish]);
        assert!(!alike_behind(Version::V5, &Packet::PingReq, &next));
        let mut receiver = server();
        let connect = bytes(Version::V5, &[connect(Version::V5, Properties::EMPTY)]);
        assert!(matches!(receiver.poll_packet(&mut &connect[..]), Ok(Some(_))));
        let alike = Alike::to(&next, Version::V5).expect("a plain PUBLISH");
        assert!(matches!(receiver.poll_packet(&mut &next[..3]), Ok(None)));
        assert_eq!(receiver.poll_alike(&alike, &mut &next[..]), None);
        assert_eq!(receiver.poll_plain_ack(&mut &[0x40, 2, 0, 1][..]), None);
    }

    #[test]
    fn plain_acknowledgements_are_read_at_a_glance() {
        let mut receiver = server();
        assert_eq!(receiver.poll_plain_ack(&mut &[0x40, 2, 0, 1][..]), None, "CONNECT comes first");
        let connect = bytes(Version::V5, &[connect(Version::V5, Properties::EMPTY)]);
        assert!(matches!(receiver.poll_packet(&mut &connect[..]), Ok(Some(_))));
        let all = [(0x40, PacketType::PubAck), (0x50, PacketType::PubRec), (0x62, PacketType::PubRel)];
        for (first, packet_type) in all.into_iter().chain([(0x70, PacketType::PubComp)]) {
            let mut input = &[first, 2, 1, 2, 9][..];
            let id = PacketId::new(0x0102).expect("not 0");
            assert_eq!(receiver.poll_plain_ack(&mut input), Some((packet_type, id)));
            assert_eq!(input, [9]);
        }
        for other in
            [&[0x40, 2, 0, 0][..], &[0x40, 3, 0, 1, 0], &[0x60, 2, 0, 1], &[0x40, 2, 0], &[0x32, 2, 0, 1]]
        {
            let mut input = other;
            assert_eq!(receiver.poll_plain_ack(&mut input), None);
            assert_eq!(input, other);
        }
    }
}
