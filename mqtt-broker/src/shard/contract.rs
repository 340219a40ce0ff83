//! The words of the shard's contract: what names a connection, what time is, what the shard asks of the runtime.

use std::net::SocketAddr;
use std::sync::Arc;

use super::connection::Peer;
use crate::config::{CoreId, Limits};
use crate::pieces::Pieces;
use crate::ports::Identity;

/// Names a Network Connection on its core. The index is dense and re-used, the generation tells apart its users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId {
    /// Below the greatest number of connections this core ever had at once.
    pub index: u32,
    /// Grows each time the index is used again.
    pub generation: u32,
}

/// The time of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Now {
    /// Monotonic milliseconds, the same clock on all cores of a process.
    pub millis: u64,
    /// Milliseconds since the Unix epoch.
    pub wall_millis: u64,
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ConnectionInfo {
    /// The Client's address; `None` for a client inside the process.
    pub peer: Option<SocketAddr>,
    /// The listener's address.
    pub local: Option<SocketAddr>,
}

/// What a shard is made with.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Its core.
    pub core: CoreId,
    /// Number of cores of the broker, 1 to [`CoreId::MAX`].
    pub cores: u16,
    /// The bounds, the same on all cores.
    pub limits: Arc<Limits>,
    /// Random, secret and the same on all cores: it decides on which core a ClientID or topic is at home.
    pub hash_key: [u64; 2],
    /// Random, of this core alone: seeds its hash tables and the ClientIDs it assigns.
    pub seed: u64,
}

/// What the shard asks of the runtime, in order.
#[derive(Debug)]
#[non_exhaustive]
pub enum Action {
    /// Send these bytes. At most one is outstanding a connection; give the buffer back with
    /// [`Shard::transmit_done`](super::Shard::transmit_done).
    Transmit {
        /// Whose bytes.
        id: ConnectionId,
        /// The bytes.
        buffer: Vec<u8>,
    },
    /// As [`Action::Transmit`], with payloads that other connections or the session share. A runtime that sends from one
    /// buffer only takes [`Pieces::into_vec`].
    TransmitShared {
        /// Whose bytes.
        id: ConnectionId,
        /// The bytes. What [`Pieces::into_buffer`] makes of them is to be given back.
        pieces: Pieces,
    },
    /// The shard has forgotten this connection. Finish its outstanding send, send `last`, end the sending direction,
    /// discard what still comes for at most `close_timeout_seconds`, close.
    Close {
        /// Which.
        id: ConnectionId,
        /// Last bytes, a DISCONNECT often; may be empty.
        last: Vec<u8>,
        /// Close at once instead, without sending anything.
        abort: bool,
    },
    /// The shard has forgotten this connection: its session is at home on core `to`. Move the socket there and give
    /// that core's shard `handed`.
    Handoff {
        /// Which.
        id: ConnectionId,
        /// The home core.
        to: CoreId,
        /// What travels with the socket.
        handed: Box<Handed>,
    },
    /// CONNECT is done: this connection stays on this core.
    Established {
        /// Which.
        id: ConnectionId,
    },
    /// Stop reading; what was read already is still taken.
    PauseRead {
        /// Which.
        id: ConnectionId,
    },
    /// Read on.
    ResumeRead {
        /// Which.
        id: ConnectionId,
    },
}

/// An authenticated connection on its way to its home core.
#[derive(Debug)]
pub struct Handed {
    pub(super) peer: Peer,
    /// The CONNECT packet, and what came behind it.
    pub(super) connect: Vec<u8>,
    pub(super) input: Vec<u8>,
    pub(super) approved: Approved,
}

/// What authentication found out about a CONNECT.
#[derive(Clone, Debug)]
pub(super) struct Approved {
    /// The effective ClientID.
    pub(super) client_id: Arc<str>,
    /// Whether the Client has to be told its ClientID.
    pub(super) assigned: bool,
    pub(super) identity: Identity,
    /// Authentication Data for the CONNACK.
    pub(super) data: Option<Vec<u8>>,
}

impl Handed {
    /// Appends bytes that were received after the shard let go of the connection.
    pub fn push_input(&mut self, input: &[u8]) {
        self.input.extend_from_slice(input);
    }
}
