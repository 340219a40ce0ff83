//! Clients whose messages wait in a chunk that cannot be read: each is refused until it can be, or until the session is given
//! up, and no other Client notices.
//!
//! Whether a chunk can be read is found out when it is wanted, so the Client is mostly connected by then; its connection is
//! closed. From then on its CONNECT is refused. The chunk stays where it is, and so does all behind it, since it could only
//! be sent out of order. A CONNECT that is refused has the chunk read again, once in a while: what the next one finds.
//! Clean Start ends the session and the chunk with it.
//!
//! Invariant: a session that is named here has no connection, and its first chunk is the one that cannot be read. Lives on:
//! the session's home core.

use mqtt_proto::types::ReasonCode;
use tracing::{error, info};

use super::Shard;
use super::session::Session;
use super::table::Key;
use crate::store::cold::{Chunk, Loaded, Place};

/// What the Client is told, in CONNACK or DISCONNECT: what it asks is right, and is not to be had from this Server. To try
/// again soon is of no use, as it would be where the Server is busy. Before 5.0 CONNACK says that the Server is unavailable.
pub(super) const UNREADABLE: ReasonCode = ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR;

/// Milliseconds before the chunk is read once more.
const LOOK_MILLIS: u64 = 10_000;

/// The first chunk of a session, which could not be read.
pub(super) struct Unreadable {
    place: Place,
    /// Monotonic milliseconds from which on it may be read again; `None` while it is.
    look_at: Option<u64>,
}

impl Shard {
    /// The first chunk of a session whose Client is connected cannot be read.
    pub(super) fn begin_to_refuse(&mut self, key: Key, chunk: Chunk, messages: u32, what: &str) {
        let Some(session) = self.sessions.get(key) else { return };
        let Some(connection) = session.connection() else { return };
        let client_id = &*session.client_id;
        error!(client_id, messages, "what waits for this Client cannot be read, and it is refused: {what}");
        let look_at = Some(self.now.millis + LOOK_MILLIS);
        self.parking.unreadable.insert(key, Unreadable { place: chunk.place(), look_at });
        // A connection that was never accepted leaves no Will behind.
        let will = !self.gates.holds_connack(connection);
        self.close(connection, Some(UNREADABLE), will);
    }

    /// Whether the session's Client is to be refused. The chunk is read again then, if it was not for a while.
    pub(super) fn is_refused(&mut self, key: Key) -> bool {
        let now = self.now.millis;
        let Some(known) = self.parking.unreadable.get_mut(&key) else { return false };
        if known.look_at.take_if(|at| *at <= now).is_some() {
            self.look(key);
        }
        true
    }

    /// What became of reading the chunk again.
    pub(super) fn finish_look(&mut self, key: Key, chunk: Chunk, loaded: &Loaded) {
        let known = self.parking.unreadable.get_mut(&key);
        let Some(known) = known.filter(|known| known.place == chunk.place()) else { return };
        if let Loaded::Unreadable(_) = loaded {
            known.look_at = Some(self.now.millis + LOOK_MILLIS);
            return;
        }
        self.parking.unreadable.remove(&key);
        if let Some(session) = self.sessions.get(key) {
            info!(client_id = &*session.client_id, "what waits for this Client can be read again");
        }
    }

    /// The session has ended, or lost chunks, or one of them is in another place.
    pub(super) fn review_unreadable(&mut self, key: Key) {
        let Some(known) = self.parking.unreadable.get(&key) else { return };
        if first_chunk(self.sessions.get(key)) != Some(known.place) {
            self.parking.unreadable.remove(&key);
        }
    }

    pub(super) fn check_unreadable(&self) {
        for (&key, known) in &self.parking.unreadable {
            let session = self.sessions.get(key);
            debug_assert!(session.is_some_and(|session| session.connection().is_none()));
            debug_assert_eq!(first_chunk(session), Some(known.place));
        }
    }
}

fn first_chunk(session: Option<&Session>) -> Option<Place> {
    session?.cold()?.parked.first().map(Chunk::place)
}
