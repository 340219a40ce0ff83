//! One Network Connection as the shard sees it: how far it has come, what waits to be sent, what waits to be read.
//!
//! Invariant: every answer that waits for another core or the store stands in `pending`, in the order of the packets
//! it answers, and dies with the connection. Lives on: the accepting core until CONNECT, then the home core.

use std::collections::VecDeque;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::Arc;

use mqtt_proto::connection::{Receiver, Sender};
use mqtt_proto::types::{PacketId, ReasonCode, Version};

use super::contract::Approved;
use super::pieces::{Pieces, Shared};
use super::table::Key;
use crate::message::Message;
use crate::ports::{Identity, Permission};

pub(super) struct Connection {
    pub(super) peer: Peer,
    pub(super) receiver: Receiver,
    pub(super) state: State,
    pub(super) output: Output,
    /// Input that waits, while it waits.
    pub(super) held: Option<Box<Held>>,
    /// When something is to be done about its silence or its waiting; `u64::MAX` for never.
    pub(super) deadline: u64,
    /// When its timer fires, not after `deadline`; one that fires at another time is stale. `u64::MAX` for none.
    pub(super) timer_at: u64,
    /// When bytes came last, or when reading began again after a pause of ours.
    pub(super) last_received: u64,
    pub(super) pending: PendingAnswers,
    /// Serial number of the first entry of `pending`.
    pub(super) pending_first: u32,
    /// Counts the questions asked for this connection.
    pub(super) questions: u32,
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
    Opening,
    /// CONNECT is there, the decision about it is not.
    Deciding(Box<Deciding>),
    /// CONNECT is accepted.
    Live(Box<Live>),
}

/// A CONNECT that is being judged.
pub(super) struct Deciding {
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
    pub(super) session: Key,
    pub(super) client_id: Arc<str>,
    pub(super) sender: Sender,
    pub(super) identity: Identity,
    /// One and a half times the Keep Alive, 0 for none.
    pub(super) keep_alive_millis: u64,
    /// Authentication Method, if enhanced authentication is used.
    pub(super) method: Option<Box<str>>,
    /// Steps of a re-authentication that is under way.
    pub(super) re_authentication: Option<u32>,
    /// The Session Expiry Interval in force; DISCONNECT may change it [MQTT-3.14.2-2].
    pub(super) expiry_seconds: u32,
}

impl Live {
    pub(super) fn version(&self) -> Version {
        self.sender.version()
    }
}

/// Bytes on their way to the Client.
#[derive(Default)]
pub(super) struct Output {
    pub(super) buffer: Vec<u8>,
    /// Payloads that stand among the bytes of `buffer`.
    pub(super) shared: Option<Box<Shared>>,
    /// Bytes handed to the runtime and not yet sent.
    pub(super) outstanding: usize,
    /// Whether the connection stands in the shard's list of those with something to send.
    pub(super) dirty: bool,
    /// Nothing is sent before the store has committed up to here.
    pub(super) gate: u64,
}

impl Output {
    /// Bytes that wait, wherever.
    pub(super) fn waiting(&self) -> usize {
        self.buffer.len() + self.shared.as_ref().map_or(0, |shared| shared.bytes()) + self.outstanding
    }

    /// Appends the payload of `message`, whose head is in the buffer.
    #[cold]
    pub(super) fn share(&mut self, message: Message) {
        self.shared.get_or_insert_default().push(self.buffer.len(), message);
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
}

/// An answer that waits for other cores or the store.
pub(super) struct Pending {
    pub(super) answer: PendingAnswer,
    /// For how many it waits.
    pub(super) remaining: u16,
}

/// The answers that a connection is owed, oldest first: one pointer while there is none.
#[derive(Default)]
#[expect(clippy::box_collection, reason = "an idle connection pays for a pointer, not for an empty queue")]
pub(super) struct PendingAnswers(Option<Box<VecDeque<Pending>>>);

impl PendingAnswers {
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |answers| answers.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Pending> {
        self.0.iter().flat_map(|answers| answers.iter())
    }

    pub(super) fn get_mut(&mut self, position: usize) -> Option<&mut Pending> {
        self.0.as_mut()?.get_mut(position)
    }

    pub(super) fn push(&mut self, pending: Pending) {
        self.0.get_or_insert_default().push_back(pending);
    }

    /// The oldest, if it waits for nobody any more.
    pub(super) fn pop_done(&mut self) -> Option<Pending> {
        self.0.as_mut()?.pop_front_if(|pending| pending.remaining == 0)
    }

    /// Gives the memory back, if no answer is owed.
    pub(super) fn shrink(&mut self) {
        self.0.take_if(|answers| answers.is_empty());
    }
}

pub(super) enum PendingAnswer {
    PubAck(PacketId, ReasonCode),
    PubRec(PacketId, ReasonCode),
    SubAck(PacketId, Box<[u8]>),
    UnsubAck(PacketId, Box<[u8]>),
}

impl Connection {
    pub(super) fn new(peer: Peer, receiver: Receiver, now: u64) -> Connection {
        Connection {
            peer,
            receiver,
            state: State::Opening,
            output: Output::default(),
            held: None,
            deadline: u64::MAX,
            timer_at: u64::MAX,
            last_received: now,
            pending: PendingAnswers::default(),
            pending_first: 0,
            questions: 0,
        }
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

    /// Names the next question about it.
    pub(super) fn next_question(&mut self) -> u32 {
        self.questions = self.questions.wrapping_add(1);
        self.questions
    }

    /// When it has to be closed if nothing comes: the connect timeout is set once, the Keep Alive moves with input.
    pub(super) fn keep_alive_deadline(&self) -> Option<u64> {
        let live = self.live()?;
        (live.keep_alive_millis != 0 && self.held.is_none())
            .then(|| self.last_received + live.keep_alive_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_idle_connection_does_not_use_takes_a_pointer() {
        let connection = size_of::<Connection>();
        assert!(connection <= 200, "{connection} bytes");
        let live = size_of::<Live>();
        assert!(live <= 112, "{live} bytes");
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
