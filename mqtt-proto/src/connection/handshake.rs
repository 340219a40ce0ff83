//! The door and the room behind it: [`Handshake`] until CONNACK, [`Connection`] from then on.
//!
//! A Server hands the bytes it received to [`Handshake::poll_packet`], judges the CONNECT and calls
//! [`Handshake::accept`]. A Client begins with [`Handshake::client`] and calls [`Handshake::established`] when
//! CONNACK has come. Either way the handshake is consumed: there is no connection that lacks its limits.

use alloc::vec::Vec;

use super::error::ProtocolError;
use super::keep_alive::{KeepAlive, Ping, PingAction};
use super::limits::{PeerLimits, carried};
use super::receiver::{Receiver, Role};
use super::sender::{Sender, TooLarge};
use crate::codec::{self, EncodeError};
use crate::packet::{Auth, ConnAck, Connect, Disconnect, Packet, PacketType};
use crate::types::{ReasonCode, Version};

/// A Network Connection until CONNACK. Times are milliseconds on any monotonic clock of the caller's.
#[derive(Debug)]
pub struct Handshake {
    receiver: Receiver,
    role: Role,
    /// When the awaited CONNECT or CONNACK is overdue.
    deadline: u64,
    /// Ours as a Client, the peer's as a Server, in seconds.
    keep_alive: u16,
    /// Milliseconds a Client waits for CONNACK, and for PINGRESP later.
    patience: u64,
    /// When a Client sent CONNECT.
    started: u64,
    /// From CONNECT or a successful CONNACK.
    peer: Option<PeerLimits>,
}

impl Handshake {
    /// A Server waits for CONNECT until `deadline`. `maximum_packet_size` is what it accepts, in bytes.
    pub fn server(maximum_packet_size: u32, deadline: u64) -> Handshake {
        Handshake {
            receiver: Receiver::new(Role::Server, maximum_packet_size),
            role: Role::Server,
            deadline,
            keep_alive: 0,
            patience: 0,
            started: 0,
            peer: None,
        }
    }

    /// A Client appends its CONNECT to `out` and waits for CONNACK for `patience` milliseconds. The limits that
    /// CONNECT announces are kept from now on.
    ///
    /// # Errors
    /// What makes `connect` impossible to encode; nothing is appended then.
    pub fn client(
        connect: &Connect<'_>,
        patience: u64,
        now: u64,
        out: &mut Vec<u8>,
    ) -> Result<Handshake, EncodeError> {
        codec::encode(&Packet::Connect(*connect), connect.version, out)?;
        let announced = PeerLimits::from_connect(connect);
        let mut receiver = Receiver::new(Role::Client, announced.maximum_packet_size);
        receiver.set_connect(connect);
        receiver.set_topic_alias_maximum(announced.topic_alias_maximum);
        Ok(Handshake {
            receiver,
            role: Role::Client,
            deadline: now.saturating_add(patience),
            keep_alive: connect.keep_alive,
            patience,
            started: now,
            peer: None,
        })
    }

    /// The next packet. For a Server that is CONNECT; after it, AUTH and DISCONNECT only [MQTT-3.1.2-30], so leave
    /// the bytes behind CONNECT alone unless enhanced authentication asks for more. For a Client it is AUTH or
    /// CONNACK.
    ///
    /// # Errors
    /// What the peer did wrong.
    pub fn poll_packet<'a, 'input: 'a>(
        &'a mut self,
        input: &mut &'input [u8],
    ) -> Result<Option<Packet<'a>>, ProtocolError> {
        let authenticating = self.role == Role::Server && self.peer.is_some();
        let version = self.receiver.version().unwrap_or_default();
        let packet = self.receiver.poll_packet(input)?;
        match &packet {
            Some(Packet::Connect(connect)) => {
                self.keep_alive = connect.keep_alive;
                self.peer = Some(PeerLimits::from_connect(connect));
            }
            Some(Packet::ConnAck(connack)) if !connack.reason.is_error() => {
                self.peer = Some(PeerLimits::from_connack(connack, version));
            }
            Some(packet) if authenticating && !matches!(packet, Packet::Auth(_) | Packet::Disconnect(_)) => {
                return Err(ProtocolError::UnexpectedPacket(packet.packet_type()));
            }
            _ => {}
        }
        Ok(packet)
    }

    /// The peer's limits, once CONNECT or a successful CONNACK has come.
    pub const fn peer(&self) -> Option<&PeerLimits> {
        self.peer.as_ref()
    }

    /// When [`Handshake::handle_timeout`] is to be called.
    pub const fn poll_timeout(&self) -> u64 {
        self.deadline
    }

    /// # Errors
    /// [`ProtocolError::NotInTime`] at the deadline.
    pub fn handle_timeout(&self, now: u64) -> Result<(), ProtocolError> {
        let awaited = match self.role {
            Role::Client => PacketType::ConnAck,
            Role::Server => PacketType::Connect,
        };
        if now >= self.deadline { Err(ProtocolError::NotInTime(awaited)) } else { Ok(()) }
    }

    /// A Server accepts: appends `connack` to `out`. The limits that it announces (Topic Alias Maximum, Maximum
    /// Packet Size, Server Keep Alive) are kept from now on. At most `topic_alias_limit` aliases are assigned.
    ///
    /// # Errors
    /// [`TooLarge`] if the Client does not take a packet of this size.
    ///
    /// # Panics
    /// Before CONNECT, and for a `connack` that refuses: see [`Handshake::refuse`].
    pub fn accept(
        mut self,
        connack: &ConnAck<'_>,
        topic_alias_limit: u16,
        now: u64,
        out: &mut Vec<u8>,
    ) -> Result<Connection, TooLarge> {
        assert!(!connack.reason.is_error(), "an accepted CONNECT is answered with success");
        let peer = self.peer.expect("CONNECT has come");
        // Before 5.0 the Client is told nothing, so its own Keep Alive holds [MQTT-3.2.2-22].
        let properties = carried(connack.properties, peer.version);
        let mut sender = Sender::new(&peer, topic_alias_limit);
        sender.encode(&Packet::ConnAck(*connack), out)?;
        self.receiver.set_topic_alias_maximum(properties.topic_alias_maximum().unwrap_or(0));
        if let Some(size) = properties.maximum_packet_size() {
            self.receiver.set_maximum_packet_size(size);
        }
        let keep_alive = KeepAlive::new(properties.server_keep_alive().unwrap_or(self.keep_alive), now);
        let half = SendingHalf { sender, peer, alive: Alive::Server(keep_alive) };
        Ok(Connection { receiver: self.receiver, half })
    }

    /// A Server refuses: appends `connack` to `out` [MQTT-3.2.2-7]. The Network Connection is to be closed.
    pub fn refuse(self, connack: &ConnAck<'_>, out: &mut Vec<u8>) {
        let peer = self.peer.unwrap_or_else(|| PeerLimits::new(self.receiver.version().unwrap_or_default()));
        // A Client that takes not even this gets nothing.
        let _ = Sender::new(&peer, 0).encode(&Packet::ConnAck(*connack), out);
    }

    /// A side that authenticates appends AUTH to `out` [MQTT-4.12.0-2] [MQTT-4.12.0-3]. A Server leaves out what the
    /// Client did not ask for or has no room for, as [`Sender::encode`] does.
    ///
    /// # Errors
    /// What makes `auth` impossible to encode, or larger than the Client takes.
    pub fn authenticate(&self, auth: &Auth<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        // A Client does not know the Server's limits yet.
        let unknown = PeerLimits::new(self.receiver.version().unwrap_or_default());
        Sender::new(self.peer.as_ref().unwrap_or(&unknown), 0).try_encode(&Packet::Auth(*auth), out)
    }

    /// A Client goes on after a successful CONNACK; hands itself back if none has come.
    ///
    /// # Errors
    /// The handshake itself.
    pub fn established(self, topic_alias_limit: u16) -> Result<Connection, Handshake> {
        let (Role::Client, Some(peer)) = (self.role, self.peer) else { return Err(self) };
        let keep_alive = peer.server_keep_alive.unwrap_or(self.keep_alive);
        let sender = Sender::new(&peer, topic_alias_limit);
        let alive = Alive::Client(Ping::new(keep_alive, self.patience, self.started));
        Ok(Connection { receiver: self.receiver, half: SendingHalf { sender, peer, alive } })
    }
}

/// A Network Connection from CONNACK on.
#[derive(Debug)]
pub struct Connection {
    receiver: Receiver,
    half: SendingHalf,
}

/// All of a connection but its receiver, so that packets can be answered while they are looked at.
#[derive(Debug)]
pub(super) struct SendingHalf {
    sender: Sender,
    peer: PeerLimits,
    alive: Alive,
}

#[derive(Debug)]
enum Alive {
    Server(KeepAlive),
    Client(Ping),
}

impl SendingHalf {
    pub(super) const fn peer(&self) -> &PeerLimits {
        &self.peer
    }

    /// A packet was received.
    pub(super) fn received(&mut self, packet: &Packet<'_>, now: u64) {
        match (&mut self.alive, packet) {
            (Alive::Server(keep_alive), _) => keep_alive.packet_received(now),
            (Alive::Client(ping), Packet::PingResp) => ping.pingresp_received(),
            (Alive::Client(_), _) => {}
        }
    }

    /// Appends `packet` whose parts nobody has checked.
    pub(super) fn try_encode(
        &mut self,
        packet: &Packet<'_>,
        now: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        self.sender.try_encode(packet, out)?;
        self.sent(now);
        Ok(())
    }

    fn sent(&mut self, now: u64) {
        if let Alive::Client(ping) = &mut self.alive {
            ping.packet_sent(now);
        }
    }
}

impl Connection {
    /// The version that both sides speak.
    pub const fn version(&self) -> Version {
        self.half.peer.version
    }

    /// What the peer announced.
    pub const fn peer(&self) -> &PeerLimits {
        &self.half.peer
    }

    /// The next packet, received at `now`; its bytes are cut off `input`. `None` when all of it is used up.
    ///
    /// # Errors
    /// What the peer did wrong: see [`Connection::fail`].
    #[inline]
    pub fn poll_packet<'a, 'input: 'a>(
        &'a mut self,
        input: &mut &'input [u8],
        now: u64,
    ) -> Result<Option<Packet<'a>>, ProtocolError> {
        let packet = self.receiver.poll_packet(input)?;
        packet.iter().for_each(|packet| self.half.received(packet, now));
        Ok(packet)
    }

    /// Appends `packet`, to be sent at `now`, to `out`.
    ///
    /// # Errors
    /// As [`Sender::encode`].
    pub fn encode(&mut self, packet: &Packet<'_>, now: u64, out: &mut Vec<u8>) -> Result<(), TooLarge> {
        self.half.sender.encode(packet, out)?;
        self.half.sent(now);
        Ok(())
    }

    pub(super) const fn split(&mut self) -> (&mut Receiver, &mut SendingHalf) {
        (&mut self.receiver, &mut self.half)
    }

    /// When [`Connection::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<u64> {
        match &self.half.alive {
            Alive::Server(keep_alive) => keep_alive.poll_timeout(),
            Alive::Client(ping) => ping.poll_timeout(),
        }
    }

    /// Does what is due at `now`: a Client's PINGREQ is appended to `out`.
    ///
    /// # Errors
    /// [`ProtocolError::KeepAliveTimeout`] on a Server, [`ProtocolError::NotInTime`] on a Client.
    pub fn handle_timeout(&mut self, now: u64, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        match &mut self.half.alive {
            Alive::Server(keep_alive) if keep_alive.is_expired(now) => Err(ProtocolError::KeepAliveTimeout),
            Alive::Server(_) => Ok(()),
            Alive::Client(ping) => match ping.handle_timeout(now) {
                PingAction::Wait => Ok(()),
                PingAction::SendPingReq => {
                    // Two bytes; a Server that takes not even those is closed by its own Keep Alive.
                    let _ = self.half.sender.encode(&Packet::PingReq, out);
                    Ok(())
                }
                PingAction::Close => Err(ProtocolError::NotInTime(PacketType::PingResp)),
            },
        }
    }

    /// Ends the connection because of what the peer did: appends the DISCONNECT that says so, where the version has
    /// one from this side (section 4.13). Then close.
    pub fn fail(mut self, error: &ProtocolError, out: &mut Vec<u8>) {
        if self.version().has_properties() {
            self.put_disconnect(error.reason_code(), out);
        }
    }

    /// Ends the connection on our own account: appends DISCONNECT, which a Server has only in 5.0. Then close
    /// [MQTT-3.14.4-2].
    pub fn disconnect(mut self, reason: ReasonCode, out: &mut Vec<u8>) {
        if self.version().has_properties() || matches!(self.half.alive, Alive::Client(_)) {
            self.put_disconnect(reason, out);
        }
    }

    fn put_disconnect(&mut self, reason: ReasonCode, out: &mut Vec<u8>) {
        // Three bytes and no property: a peer that takes not even those is just closed.
        let _ = self.half.sender.encode(&Packet::Disconnect(Disconnect::new(reason)), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Properties, Property};

    fn connect<'a>(version: Version, properties: &'a [Property<'a>]) -> Connect<'a> {
        Connect { keep_alive: 10, properties: Properties::new(properties), ..Connect::new(version, "c") }
    }

    fn connack<'a>(reason: ReasonCode, properties: &'a [Property<'a>]) -> ConnAck<'a> {
        ConnAck { session_present: false, reason, properties: Properties::new(properties) }
    }

    /// Both sides of a connection that was opened at 0, with a Server Keep Alive of 4 s.
    fn opened(version: Version) -> (Connection, Connection) {
        let mut wire = Vec::new();
        let mut client = Handshake::client(&connect(version, &[]), 5_000, 0, &mut wire).expect("valid");
        let mut server = Handshake::server(1_000, 3_000);
        let mut input = &wire[..];
        assert!(matches!(server.poll_packet(&mut input), Ok(Some(Packet::Connect(_)))));
        let mut wire = Vec::new();
        let said = [Property::ServerKeepAlive(4)];
        let server = server.accept(&connack(ReasonCode::SUCCESS, &said), 0, 0, &mut wire).expect("small");
        let mut input = &wire[..];
        assert!(matches!(client.poll_packet(&mut input), Ok(Some(Packet::ConnAck(_)))));
        (client.established(0).expect("accepted"), server)
    }

    #[test]
    fn a_handshake_gives_way_to_a_connection() {
        for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
            let (client, server) = opened(version);
            assert_eq!((client.version(), server.version()), (version, version));
        }
    }

    #[test]
    fn both_sides_keep_the_servers_keep_alive() {
        let (mut client, mut server) = opened(Version::V5);
        assert_eq!((client.poll_timeout(), server.poll_timeout()), (Some(4_000), Some(6_000)));
        let mut wire = Vec::new();
        assert_eq!(client.handle_timeout(4_000, &mut wire), Ok(()));
        assert_eq!(wire, [0xC0, 0x00]);
        assert!(matches!(server.poll_packet(&mut &wire[..], 4_100), Ok(Some(Packet::PingReq))));
        assert_eq!(server.handle_timeout(10_099, &mut wire), Ok(()));
        assert_eq!(server.handle_timeout(10_100, &mut wire), Err(ProtocolError::KeepAliveTimeout));
        let late = Err(ProtocolError::NotInTime(PacketType::PingResp));
        assert_eq!(client.handle_timeout(9_000, &mut wire), late);
    }

    #[test]
    fn a_silent_peer_is_given_up() {
        let server = Handshake::server(1_000, 3_000);
        assert_eq!(server.handle_timeout(2_999), Ok(()));
        assert_eq!(server.handle_timeout(3_000), Err(ProtocolError::NotInTime(PacketType::Connect)));
        let client = Handshake::client(&connect(Version::V5, &[]), 5_000, 7, &mut Vec::new()).expect("valid");
        assert_eq!(client.poll_timeout(), 5_007);
        assert_eq!(client.handle_timeout(5_007), Err(ProtocolError::NotInTime(PacketType::ConnAck)));
        assert!(client.established(0).is_err(), "no CONNACK has come");
    }

    #[test]
    fn a_refused_client_has_no_connection() {
        let mut wire = Vec::new();
        let mut client =
            Handshake::client(&connect(Version::V3_1_1, &[]), 5_000, 0, &mut wire).expect("valid");
        let mut server = Handshake::server(1_000, 3_000);
        assert!(server.poll_packet(&mut &wire[..]).is_ok());
        let mut wire = Vec::new();
        server.refuse(&connack(ReasonCode::NOT_AUTHORIZED, &[]), &mut wire);
        assert_eq!(wire, [0x20, 2, 0, 5]);
        assert!(matches!(client.poll_packet(&mut &wire[..]), Ok(Some(Packet::ConnAck(_)))));
        assert!(client.established(0).is_err());
    }

    #[test]
    fn before_connack_only_auth_may_follow_connect() {
        let mut server = Handshake::server(1_000, 3_000);
        let mut wire = Vec::new();
        codec::encode(&Packet::Connect(connect(Version::V5, &[])), Version::V5, &mut wire).expect("valid");
        wire.extend([0xC0, 0x00]);
        let mut input = &wire[..];
        assert!(server.poll_packet(&mut input).is_ok());
        let unexpected = Err(ProtocolError::UnexpectedPacket(PacketType::PingReq));
        assert_eq!(server.poll_packet(&mut input), unexpected);
    }

    #[test]
    fn a_fault_is_told_only_where_the_version_can() {
        for (version, told) in [(Version::V5, &[0xE0, 1, 0x82][..]), (Version::V3_1_1, &[])] {
            let (_, server) = opened(version);
            let mut wire = Vec::new();
            server.fail(&ProtocolError::SecondConnect, &mut wire);
            assert_eq!(wire, told);
        }
        let (client, _) = opened(Version::V3_1_1);
        let mut wire = Vec::new();
        client.disconnect(ReasonCode::SUCCESS, &mut wire);
        assert_eq!(wire, [0xE0, 0]);
    }
}
