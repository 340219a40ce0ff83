//! One Network Connection as the shard sees it: how far it has come, what waits to be sent, what waits to be read.
//!
//! Invariant: every answer that waits for another core or the store stands in `pending`, in the order of the packets
//! it answers, and dies with the connection. Lives on: the accepting core until CONNECT, then the home core.

use std::collections::VecDeque;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::Arc;

use mqtt_proto::connection::{KeepAlive, Receiver, Sender, TooLarge};
use mqtt_proto::packet::Packet;
use mqtt_proto::types::{PacketId, ReasonCode, Version};

use super::contract::Approved;
use super::table::Key;
use crate::message::Message;
use crate::pieces::{Pieces, Shared};
use crate::ports::{Identity, Permission};

pub(super) struct Connection {
    pub(super) receiver: Receiver,
    pub(super) state: State,
    pub(super) output: Output,
    /// Input that waits, while it waits.
    pub(super) held: Option<Box<Held>>,
    pub(super) pending: PendingAnswers,
}

/// The Client's address, in half the space that a [`SocketAddr`] takes.
#[derive(Clone, Debug)]
pub(super) enum Peer {
    /// A client inside the process.
    Inside,
    V4(SocketAddrV4),
    V6(Box<SocketAddrV6>),
}

impl From<Option<SocketAddr>> for Peer {
    fn from(address: Option<SocketAddr>) -> Peer {
        match address {
            None => Peer::Inside,
            Some(SocketAddr::V4(address)) => Peer::V4(address),
            Some(SocketAddr::V6(address)) => Peer::V6(Box::new(address)),
        }
    }
}

impl Peer {
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            Peer::Inside => None,
            Peer::V4(address) => Some((*address).into()),
            Peer::V6(address) => Some((**address).into()),
        }
    }
}

pub(super) enum State {
    /// No CONNECT yet.
    Opening(Peer),
    /// CONNECT is there, the decision about it is not.
    Deciding(Box<Deciding>),
    /// CONNECT is accepted.
    Live(Live),
}

/// A CONNECT that is being judged.
pub(super) struct Deciding {
    pub(super) peer: Peer,
    /// The CONNECT packet.
    pub(super) connect: Vec<u8>,
    pub(super) version: Version,
    pub(super) client_id: Arc<str>,
    pub(super) assigned: bool,
    /// AUTH packets so far.
    pub(super) step: u32,
    pub(super) method: Option<Box<str>>,
    /// Set once authentication is through and only the Will's permission is open.
    pub(super) approved: Option<Approved>,
}

/// An accepted connection.
pub(super) struct Live {
    /// Its session, which knows the ClientID and the Session Expiry Interval in force.
    pub(super) session: Key,
    pub(super) sender: Sender,
    /// Who the Client is, if the port has said anything about that.
    identity: Option<Box<Identity>>,
    /// Present if enhanced authentication is used.
    pub(super) enhanced: Option<Box<Enhanced>>,
    /// When bytes came last, or when reading began again after a pause of ours: the lower half of the milliseconds. It is
    /// looked at when the Keep Alive runs out, in 27 hours at most, and so before it comes round, in 49 days.
    last_received: u32,
    /// In seconds, 0 for none.
    keep_alive: u16,
}

/// What a Client that may authenticate again is asked with (section 4.12.1).
pub(super) struct Enhanced {
    /// Authentication Method.
    pub(super) method: Box<str>,
    pub(super) peer: Peer,
    /// Steps of a re-authentication that is under way.
    pub(super) step: Option<u32>,
}

impl Live {
    /// Of a Client whose CONNECT was accepted at `now`.
    pub(super) fn new(session: Key, sender: Sender, identity: Identity, keep_alive: u16, now: u64) -> Live {
        let last_received = now as u32;
        let mut live = Live { session, sender, identity: None, enhanced: None, last_received, keep_alive };
        live.set_identity(identity);
        live
    }

    pub(super) fn version(&self) -> Version {
        self.sender.version()
    }

    pub(super) fn identity(&self) -> &Identity {
        static UNKNOWN: Identity = Identity { client_id: None, name: None };
        self.identity.as_deref().unwrap_or(&UNKNOWN)
    }

    pub(super) fn set_identity(&mut self, identity: Identity) {
        self.identity = (identity != Identity::default()).then(|| Box::new(identity));
    }
}

/// Bytes on their way to the Client.
#[derive(Default)]
pub(super) struct Output {
    pub(super) buffer: Vec<u8>,
    /// Payloads that stand among the bytes of `buffer`.
    pub(super) shared: Option<Box<Shared>>,
    /// Bytes handed to the runtime and not yet sent.
    pub(super) outstanding: u32,
    /// Whether the connection stands in the shard's list of those with something to send.
    pub(super) dirty: bool,
    /// Some of it waits for the store, as the shard's gates say.
    pub(super) gated: bool,
}

impl Output {
    /// Bytes that wait, wherever.
    pub(super) fn waiting(&self) -> usize {
        self.buffer.len()
            + self.shared.as_ref().map_or(0, |shared| shared.bytes())
            + self.outstanding as usize
    }

    /// Appends the payload of `message`, whose head is in the buffer.
    #[cold]
    pub(super) fn share(&mut self, message: Message) {
        let (bytes, range) = message.into_payload();
        self.shared.get_or_insert_default().push(self.buffer.len(), bytes, range);
    }

    /// Whether one more payload may be shared.
    #[cold]
    pub(super) fn can_share(&self) -> bool {
        self.shared.as_ref().is_none_or(|shared| shared.has_room())
    }

    /// [`Output::take`] in one buffer.
    pub(super) fn take_whole(&mut self) -> Vec<u8> {
        match self.shared {
            None => core::mem::take(&mut self.buffer),
            Some(_) => self.take().into_vec(),
        }
    }

    /// Takes out what is behind the first `at` bytes of the buffer; `spare`: an empty buffer for it.
    pub(super) fn split_off(&mut self, at: usize, mut spare: Vec<u8>) -> (Vec<u8>, Option<Box<Shared>>) {
        spare.extend_from_slice(&self.buffer[at..]);
        self.buffer.truncate(at);
        let behind = self.shared.as_mut().and_then(|shared| shared.split_off(at));
        self.shared.take_if(|shared| shared.bytes() == 0);
        (spare, behind.map(Box::new))
    }

    /// Takes everything that has not been handed to the runtime.
    pub(super) fn take(&mut self) -> Pieces {
        let shared = self.shared.take().map_or_else(Shared::default, |shared| *shared);
        Pieces::new(core::mem::take(&mut self.buffer), shared)
    }
}

/// Input that waits for a decision or a lane.
pub(super) struct Held {
    pub(super) input: Vec<u8>,
    /// Length of the packet that waits, at the front of `input`: bounded by Maximum Packet Size, it does not count
    /// for what may wait behind it.
    pub(super) packet_bytes: usize,
    pub(super) why: Why,
    /// Answers to the questions of the first packet in `input`, by their position in it.
    pub(super) answers: Vec<(u16, Permission)>,
    /// Monotonic milliseconds since when the first packet in `input` waits. Those behind it may have come later.
    pub(super) since: u64,
    /// The Client has gone behind it, then (monotonic milliseconds): what it had sent still counts, and nothing is said to it
    /// any more.
    pub(super) lost_at: Option<u64>,
}

/// What held input waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The decision about CONNECT or AUTH, asked under this serial.
    Authentication(u32),
    /// The permission for the `.1`th thing that the first held packet wants, asked under serial `.0`.
    Permission(u32, u16),
    /// Room in a lane.
    Lane,
    /// Answers that are owed and wait for other cores or the store.
    Answers,
    /// What went to other cores before it, which it must not overtake; or the store, which has enough to write.
    Order,
}

/// An answer that waits for other cores or the store.
pub(super) struct Pending {
    pub(super) answer: PendingAnswer,
    /// For how many it waits.
    pub(super) remaining: u16,
}

/// The answers that a connection is owed, oldest first: one pointer while there is none.
#[derive(Default)]
pub(super) struct PendingAnswers(Option<Box<Owed>>);

#[derive(Default)]
struct Owed {
    answers: VecDeque<Pending>,
    /// Serial number of the first. While there is none nobody refers to a serial, and they may begin anew.
    first: u32,
    /// How many of them are PUBACKs.
    pubacks: u32,
}

impl PendingAnswers {
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |owed| owed.answers.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether QoS 1 messages wait for their acknowledgement.
    pub(super) fn has_pubacks(&self) -> bool {
        self.0.as_ref().is_some_and(|owed| owed.pubacks > 0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Pending> {
        self.0.iter().flat_map(|owed| owed.answers.iter())
    }

    /// The serial number that the next one will have.
    pub(super) fn next_serial(&self) -> u32 {
        self.0.as_ref().map_or(0, |owed| owed.first.wrapping_add(owed.answers.len() as u32))
    }

    pub(super) fn get_mut(&mut self, serial: u32) -> Option<&mut Pending> {
        let owed = self.0.as_mut()?;
        owed.answers.get_mut(serial.wrapping_sub(owed.first) as usize)
    }

    pub(super) fn push(&mut self, pending: Pending) {
        let owed = self.0.get_or_insert_default();
        owed.pubacks += u32::from(matches!(pending.answer, PendingAnswer::PubAck(..)));
        owed.answers.push_back(pending);
    }

    /// The oldest, if it waits for nobody any more.
    pub(super) fn pop_done(&mut self) -> Option<Pending> {
        let owed = self.0.as_mut()?;
        let done = owed.answers.pop_front_if(|pending| pending.remaining == 0)?;
        owed.first = owed.first.wrapping_add(1);
        owed.pubacks -= u32::from(matches!(done.answer, PendingAnswer::PubAck(..)));
        Some(done)
    }

    /// Gives the memory back, if no answer is owed.
    pub(super) fn shrink(&mut self) {
        self.0.take_if(|owed| owed.answers.is_empty());
    }
}

pub(super) enum PendingAnswer {
    PubAck(PacketId, ReasonCode),
    PubRec(PacketId, ReasonCode),
    SubAck(PacketId, Box<[u8]>),
    UnsubAck(PacketId, Box<[u8]>),
}

impl Connection {
    pub(super) fn new(peer: Peer, receiver: Receiver) -> Connection {
        Connection {
            receiver,
            state: State::Opening(peer),
            output: Output::default(),
            held: None,
            pending: PendingAnswers::default(),
        }
    }

    /// The Client's address, known until CONNECT is accepted, and on where it may be asked for again.
    pub(super) fn peer(&self) -> Option<&Peer> {
        match &self.state {
            State::Opening(peer) => Some(peer),
            State::Deciding(deciding) => Some(&deciding.peer),
            State::Live(live) => live.enhanced.as_ref().map(|enhanced| &enhanced.peer),
        }
    }

    /// Whether the answer that waits for the QoS 2 PUBLISH with this identifier is a refusal.
    pub(super) fn refuses(&self, packet_id: PacketId) -> bool {
        self.pending.iter().any(|pending| match pending.answer {
            PendingAnswer::PubRec(id, reason) => id == packet_id && reason.is_error(),
            _ => false,
        })
    }

    /// Whether the Client has gone, and what it had sent waits to be handled.
    pub(super) fn is_leaving(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.lost_at.is_some())
    }

    pub(super) fn live(&self) -> Option<&Live> {
        match &self.state {
            State::Live(live) => Some(live),
            _ => None,
        }
    }

    pub(super) fn live_mut(&mut self) -> Option<&mut Live> {
        match &mut self.state {
            State::Live(live) => Some(live),
            _ => None,
        }
    }

    /// Appends a packet to the output of an accepted connection; whether that is the first thing to be sent now. `spare`:
    /// buffers to take.
    #[inline]
    pub(super) fn append(&mut self, packet: &Packet<'_>, spare: &mut Vec<Vec<u8>>) -> Result<bool, TooLarge> {
        let Connection { state: State::Live(live), output, .. } = self else { return Ok(false) };
        if output.buffer.capacity() == 0 {
            output.buffer = spare.pop().unwrap_or_default();
        }
        live.sender.encode(packet, &mut output.buffer)?;
        Ok(!core::mem::replace(&mut output.dirty, true))
    }

    /// Bytes came at `now`, or are read again.
    pub(super) fn received(&mut self, now: u64) {
        if let State::Live(live) = &mut self.state {
            live.last_received = now as u32;
        }
    }

    /// How long it may be silent, in milliseconds.
    pub(super) fn patience(&self) -> Option<u64> {
        KeepAlive::patience(self.live()?.keep_alive)
    }

    /// When it has to be closed if nothing comes. The Keep Alive moves with input, unless that is not read.
    pub(super) fn keep_alive_deadline(&self, now: u64) -> Option<u64> {
        let patience = self.patience().filter(|_| self.held.is_none())?;
        let silent = (now as u32).wrapping_sub(self.live()?.last_received);
        Some(now - u64::from(silent) + patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_idle_connection_does_not_use_takes_a_pointer() {
        assert_eq!(size_of::<Live>(), 48);
        assert_eq!(size_of::<State>(), 48);
        assert_eq!(size_of::<Connection>(), 128);
    }

    #[test]
    fn silence_is_measured_across_the_end_of_the_lower_half_of_time() {
        let start = (1 << 32) - 1000;
        let receiver = Receiver::new(mqtt_proto::connection::Role::Server, 100);
        let mut connection = Connection::new(Peer::Inside, receiver);
        let limits = mqtt_proto::connection::PeerLimits::new(Version::V5);
        let (session, sender) = (Key { index: 0, generation: 0 }, Sender::new(&limits, 0));
        connection.state = State::Live(Live::new(session, sender, Identity::default(), 10, start));
        assert_eq!(connection.keep_alive_deadline(start + 14_999), Some(start + 15_000));
        connection.received(start + 2000);
        assert_eq!(connection.keep_alive_deadline(start + 17_000), Some(start + 17_000));
    }

    #[test]
    fn a_peer_keeps_its_address() {
        for text in ["127.0.0.1:1883", "[2001:db8::1]:8883"] {
            let address: SocketAddr = text.parse().expect("an address");
            assert_eq!(Peer::from(Some(address)).address(), Some(address));
        }
        assert_eq!(Peer::from(None).address(), None);
    }
}
