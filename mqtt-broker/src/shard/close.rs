//! The end of a Network Connection, from either side, and refusals of CONNECT.

use mqtt_proto::codec::{self, Framer};
use mqtt_proto::packet::{ConnAck, Disconnect, Packet, Properties};
use mqtt_proto::types::{ReasonCode, Version};
use tracing::debug;

use super::Shard;
use super::connection::{Connection, Peer, PendingAnswer, State};
use super::contract::Action;
use super::input::Step;
use super::session::Session;
use super::table::Key;
use super::unreadable::UNREADABLE;
use crate::ports::Event;

impl Shard {
    /// Closes the connection; a 5.0 Client is told `tell` where there is something to tell. `will`: whether its Will
    /// is to be published.
    pub(super) fn close(&mut self, key: Key, tell: Option<ReasonCode>, will: bool) {
        self.close_for(key, tell, will, tell.unwrap_or(ReasonCode::UNSPECIFIED_ERROR));
    }

    /// As [`Shard::close`], with the `reason` that hooks are told.
    pub(super) fn close_for(&mut self, key: Key, tell: Option<ReasonCode>, will: bool, reason: ReasonCode) {
        if self.lost_at(key).is_some() {
            return self.forget_lost(key, will, reason);
        }
        let (free, lacks_connack) = (self.gates.free(key), self.gates.holds_connack(key));
        let Some(mut connection) = self.forget_connection(key) else { return };
        if connection.output.gated {
            // What waits is taken as never said.
            drop(connection.output.split_off(free, Vec::new()));
        }
        let mut last = connection.output.take_whole();
        match (&mut connection.state, tell) {
            // Only 5.0 Servers send DISCONNECT, and only after CONNACK [MQTT-3.14.0-1].
            (State::Live(live), Some(reason)) if live.version() == Version::V5 && !lacks_connack => {
                let disconnect = Packet::Disconnect(Disconnect::new(reason));
                if live.sender.encode(&disconnect, &mut last).is_err() {
                    debug!(connection = key.index, "a DISCONNECT larger than the peer accepts is left out");
                }
            }
            // Nothing of a CONNACK was said: it becomes a refusal.
            (State::Live(live), Some(UNREADABLE)) if lacks_connack => {
                self.stats.connects_refused += 1;
                encode_refusal(live.version(), UNREADABLE, &mut last);
            }
            (State::Deciding(deciding), Some(reason)) => {
                encode_refusal(deciding.version, reason, &mut last);
            }
            _ => {}
        }
        self.stats.bytes_sent += last.len() as u64;
        self.actions.push_back(Action::Close { id: key.into(), last, abort: false });
        self.leave(connection, will, reason, self.now.millis);
    }

    /// The Network Connection is gone already. What its Client had sent counts, also if it waits to be handled: the
    /// connection is forgotten once it was.
    pub(super) fn lose(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(key)
            && connection.live().is_some()
            && let Some(held) = &mut connection.held
        {
            held.lost_at = Some(self.now.millis);
            // As if a send were under way for ever.
            connection.output.outstanding = connection.output.outstanding.max(1);
            return;
        }
        self.forget_lost(key, true, ReasonCode::UNSPECIFIED_ERROR);
    }

    /// Whether the Client has gone, and what it had sent waits to be handled.
    pub(super) fn is_leaving(&self, key: Key) -> bool {
        self.connections.get(key).is_some_and(Connection::is_leaving)
    }

    /// When a connection was lost, if it was and what its Client had sent waits or is being handled.
    fn lost_at(&self, key: Key) -> Option<u64> {
        let waits = self.connections.get(key).and_then(|connection| connection.held.as_ref()?.lost_at);
        waits.or_else(|| self.leaving.filter(|&(leaving, _)| leaving == key).map(|(_, at)| at))
    }

    /// Forgets a connection that is gone, and has been since it was lost. `will` and `reason` count unless its Client took its
    /// leave.
    pub(super) fn forget_lost(&mut self, key: Key, will: bool, reason: ReasonCode) {
        let lost_at = self.lost_at(key).unwrap_or(self.now.millis);
        let (will, reason) = self.last_word(key).unwrap_or((will, reason));
        if let Some(connection) = self.forget_connection(key) {
            self.leave(connection, will, reason, lost_at);
        }
    }

    /// Of a Client that went while what it had sent waited to be handled, and is not waited for any longer: whether its Will
    /// is to be published, and why, if the last of it is a DISCONNECT. What it published before that never came.
    fn last_word(&mut self, key: Key) -> Option<(bool, ReasonCode)> {
        let held = self.connections.get_mut(key)?.held.take()?;
        let version = self.version(key);
        let (mut framer, mut input, mut last) = (Framer::default(), &held.input[..], 0..0);
        while let Some(frame) = framer.next_frame(&mut input, self.limits.packet_bytes_max).ok()? {
            let end = held.input.len() - input.len();
            last = end - frame.len()..end;
        }
        let Packet::Disconnect(disconnect) = codec::decode(version, &held.input[last]).ok()? else {
            return None;
        };
        let will = self.take_leave(key, &disconnect).unwrap_or(true);
        Some((will, disconnect.reason))
    }

    /// Takes the connection out of the table.
    pub(super) fn forget_connection(&mut self, key: Key) -> Option<Connection> {
        let connection = self.connections.remove(key)?;
        self.wheel.cancel(key.index);
        if connection.output.gated {
            self.gates.forget(key);
        }
        self.stats.connections -= 1;
        self.budget.own.connections -= 1;
        Some(connection)
    }

    /// What the session has to do with the end of its connection, which was at `ended_at`.
    fn leave(&mut self, mut connection: Connection, will: bool, reason: ReasonCode, ended_at: u64) {
        let buffer = core::mem::take(&mut connection.output.buffer);
        self.recycle(buffer);
        if let State::Live(live) = &connection.state {
            let key = live.session;
            if let Some(flight) = self.sessions.get_mut(key).and_then(Session::known_flight_mut) {
                // A refusal that was not sent is none: sent again, the message is judged again.
                for pending in connection.pending.iter() {
                    if let PendingAnswer::PubRec(packet_id, reason) = pending.answer {
                        flight.inbound.pubrec_sent(packet_id, reason);
                    }
                }
            }
            self.stats.clients_connected -= 1;
            if let Some(session) = self.sessions.get(key) {
                let client_id = &*session.client_id;
                debug!(client_id, %reason, "disconnected");
                self.ports.hooks.on_event(&Event::Disconnected { client_id, reason });
            }
            self.detach(key, will, ended_at);
        }
    }

    /// Refuses a CONNECT [MQTT-3.2.2-7].
    pub(super) fn refuse(&mut self, key: Key, version: Version, reason: ReasonCode) -> Step {
        self.stats.connects_refused += 1;
        let Some(mut connection) = self.forget_connection(key) else { return Step::Gone };
        debug!(peer = ?connection.peer().and_then(Peer::address), %reason, "CONNECT refused");
        let mut last = connection.output.take_whole();
        encode_refusal(version, reason, &mut last);
        self.stats.bytes_sent += last.len() as u64;
        self.actions.push_back(Action::Close { id: key.into(), last, abort: false });
        Step::Gone
    }

    /// Refuses a Protocol Version that nobody here speaks, in the dialect nearest to it: a version from 5 on reads the
    /// CONNACK of 5.0 [MQTT-3.1.2-2], anything else that of 3.1.1 [MQTT-3.1.2-2 v3.1.1]. Some bridges set the top bit
    /// of the version they speak to see whether the Server knows them; refused in their dialect, they try without.
    pub(super) fn refuse_level(&mut self, key: Key, level: u8) {
        let version = if level & 0x7F >= Version::V5.level() { Version::V5 } else { Version::V3_1_1 };
        self.refuse(key, version, ReasonCode::UNSUPPORTED_PROTOCOL_VERSION);
    }
}

fn encode_refusal(version: Version, reason: ReasonCode, out: &mut Vec<u8>) {
    // A CONNACK has no code for a Server that shuts down.
    let reason = match reason {
        ReasonCode::SERVER_SHUTTING_DOWN => ReasonCode::SERVER_UNAVAILABLE,
        reason => reason,
    };
    // Session Present is 0 with an error [MQTT-3.2.2-6].
    let connack =
        |reason| Packet::ConnAck(ConnAck { session_present: false, reason, properties: Properties::EMPTY });
    if codec::encode(&connack(reason), version, out).is_err() {
        // Nor has it for what only other packets can do wrong.
        codec::encode(&connack(ReasonCode::UNSPECIFIED_ERROR), version, out)
            .expect("a CONNACK without properties can be encoded");
    }
}
