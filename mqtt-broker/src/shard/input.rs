//! From bytes to packets to what they do; and input that has to wait.

use mqtt_proto::codec::{self, DecodeError};
use mqtt_proto::connection::{ProtocolError, TooLarge};
use mqtt_proto::packet::{Ack, Disconnect, Packet, Publish};
use mqtt_proto::types::{Qos, ReasonCode, Version};
use tracing::{debug, trace};

use super::connection::{Connection, Held, Peer, PendingAnswer, State, Why};
use super::contract::{Action, Approved, Handed};
use super::run::RunEnd;
use super::session::Session;
use super::table::Key;
use super::{ConnectionId, Shard};
use crate::ports::{Answer, Ticket};

/// What becomes of the connection after a packet.
pub(super) enum Step {
    /// The next packet.
    Next,
    /// This packet again once what it waits for is there; it has changed nothing.
    Again(Why),
    /// CONNECT or AUTH is being decided: what follows waits.
    Decide(Why),
    /// CONNECT is approved and its session at home elsewhere.
    Handoff(Box<(u16, Vec<u8>, Approved)>),
    /// The connection is closed.
    Gone,
}

impl Shard {
    pub(super) fn take_input(&mut self, key: Key, input: &[u8]) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        self.stats.bytes_received += input.len() as u64;
        connection.received(self.now.millis);
        if let Some(held) = &mut connection.held {
            if held.input.is_empty() {
                held.since = self.now.millis;
            }
            held.input.extend_from_slice(input);
            if held.input.len() - held.packet_bytes > self.limits.held_input_bytes_max as usize {
                self.close(key, Some(ReasonCode::QUOTA_EXCEEDED), true);
            }
            return;
        }
        self.process(key, input);
    }

    /// Handles every whole packet in `input`; what is left waits in the receiver or is held.
    pub(super) fn process(&mut self, key: Key, mut input: &[u8]) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        // Taken out, so that packets can be borrowed from it while other connections are written to.
        let mut receiver = core::mem::take(&mut connection.receiver);
        let mut let_in = connection.live().is_some();
        let mut may_owe = true;
        loop {
            if may_owe && !input.is_empty() && self.owes_too_much(key) {
                self.hold(key, input.to_vec(), 0, Why::Answers);
                break;
            }
            // The packet, if it has to wait.
            let mut held = Vec::new();
            let before = input;
            let is_whole = receiver.buffered_len() == 0;
            let handled = receiver.poll_with(&mut input, |packet, bytes| {
                trace!(connection = key.index, packet = ?packet.packet_type(), "received");
                let step = self.handle_packet(key, packet, bytes);
                may_owe = !matches!(packet, Packet::Publish(publish) if publish.qos == Qos::AtMostOnce);
                if let Step::Again(_) = step {
                    codec::encode(&as_received(*packet), self.version(key), &mut held)
                        .expect("a decoded packet can be encoded");
                } else {
                    self.stats.packets_received += 1;
                    self.answers.clear();
                    self.waited = 0;
                }
                step
            });
            let step = match handled {
                Ok(Some(handled)) => handled,
                Ok(None) => break,
                Err(error) => return self.protocol_error(key, error),
            };
            match step {
                Step::Next => {
                    // Who is let in may send more than a CONNECT holds.
                    let is_live = |connection: &Connection| connection.live().is_some();
                    if !let_in && self.connections.get(key).is_some_and(is_live) {
                        receiver.set_maximum_packet_size(self.limits.packet_bytes_max);
                        let_in = true;
                    }
                    if is_whole && !input.is_empty() {
                        let packet = &before[..before.len() - input.len()];
                        match self.handle_run(key, &receiver, packet, &mut input) {
                            RunEnd::Next => {}
                            RunEnd::Wait(why, packet_bytes) => {
                                self.hold(key, input.to_vec(), packet_bytes, why);
                                break;
                            }
                            RunEnd::Gone => return,
                        }
                    }
                }
                Step::Again(why) => {
                    let packet_bytes = held.len();
                    held.extend_from_slice(input);
                    self.hold(key, held, packet_bytes, why);
                    break;
                }
                Step::Decide(why) => {
                    self.hold(key, input.to_vec(), 0, why);
                    break;
                }
                Step::Handoff(handoff) => return self.hand_off(key, *handoff, input.to_vec()),
                Step::Gone => return,
            }
        }
        if let Some(connection) = self.connections.get_mut(key) {
            connection.receiver = receiver;
        }
    }

    /// The version of an accepted or deciding connection.
    pub(super) fn version(&self, key: Key) -> Version {
        match self.connections.get(key).map(|connection| &connection.state) {
            Some(State::Live(live)) => live.version(),
            Some(State::Deciding(deciding)) => deciding.version,
            _ => Version::default(),
        }
    }

    /// Whether so many answers wait for other cores or the store that no more packets are taken.
    fn owes_too_much(&self, key: Key) -> bool {
        let owed = self.connections.get(key).map_or(0, |connection| connection.pending.len());
        owed >= self.limits.pending_answers_max as usize
    }

    /// `packet_bytes`: length of the packet that `input` begins with, if that is what waits.
    fn hold(&mut self, key: Key, input: Vec<u8>, packet_bytes: usize, why: Why) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        // A packet that waits once more keeps the answers it has, and goes on waiting.
        let answers = core::mem::take(&mut self.answers);
        let since = self.now.millis - core::mem::take(&mut self.waited);
        let lost_at = self.leaving.filter(|&(leaving, _)| leaving == key).map(|(_, at)| at);
        connection.held = Some(Box::new(Held { input, packet_bytes, why, answers, since, lost_at }));
        if lost_at.is_none() {
            self.actions.push_back(Action::PauseRead { id: key.into() });
        }
        match why {
            Why::Lane => self.lane_blocked.push(key),
            // The answers go on with it, too.
            Why::Order => self.order_blocked.push(key),
            // The answers themselves go on with it.
            Why::Answers => {}
            Why::Authentication(_) | Why::Permission(..) => {
                let live = self.connections.get(key).is_some_and(|connection| connection.live().is_some());
                if live {
                    let patience = u64::from(self.limits.decision_timeout_seconds) * 1000;
                    self.arm_connection(key, self.now.millis + patience);
                }
            }
        }
    }

    /// What the connection waited for is there: its held input is handled, after what `step` says of the packet that
    /// was decided.
    pub(super) fn go_on(&mut self, key: Key, step: Step) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        match step {
            Step::Next => {
                let Some(mut held) = connection.held.take() else { return };
                connection.received(self.now.millis);
                let input = core::mem::take(&mut held.input);
                // The first packet asks again and finds its answers.
                self.answers = core::mem::take(&mut held.answers);
                self.waited = self.now.millis - held.since;
                self.leaving = held.lost_at.map(|at| (key, at));
                self.process(key, &input);
                self.waited = 0;
                if self.leaving.is_some() {
                    if !self.is_leaving(key) {
                        self.forget_lost(key, true, ReasonCode::UNSPECIFIED_ERROR);
                    }
                    self.leaving = None;
                    return;
                }
                let Some(connection) = self.connections.get_mut(key) else { return };
                if connection.held.is_none() {
                    let deadline = connection.keep_alive_deadline(self.now.millis);
                    self.actions.push_back(Action::ResumeRead { id: key.into() });
                    if let Some(deadline) = deadline {
                        self.arm_connection(key, deadline);
                    }
                }
            }
            Step::Again(why) | Step::Decide(why) => {
                if let Some(held) = &mut connection.held {
                    held.why = why;
                }
            }
            Step::Handoff(handoff) => {
                let input = connection.held.take().map(|held| held.input).unwrap_or_default();
                self.hand_off(key, *handoff, input);
            }
            Step::Gone => {}
        }
    }

    fn hand_off(&mut self, key: Key, handoff: (u16, Vec<u8>, Approved), input: Vec<u8>) {
        let (to, connect, approved) = handoff;
        let Some(connection) = self.forget_connection(key) else { return };
        let peer = connection.peer().cloned().unwrap_or(Peer::Inside);
        let handed = Box::new(Handed { peer, connect, input, approved });
        self.actions.push_back(Action::Handoff { id: key.into(), to: crate::config::CoreId(to), handed });
    }

    pub(super) fn take_answer(&mut self, ticket: Ticket, answer: Answer) {
        let key = Key::from(ticket.connection);
        let Some(held) = self.connections.get_mut(key).and_then(|connection| connection.held.as_mut()) else {
            return;
        };
        match (answer, held.why) {
            (Answer::Authentication(outcome), Why::Authentication(serial)) if serial == ticket.serial => {
                let step = self.authentication_decided(key, outcome);
                self.go_on(key, step);
            }
            (Answer::Permission(permission), Why::Permission(serial, nth)) if serial == ticket.serial => {
                held.answers.push((nth, permission));
                let step = self.permission_decided(key, permission);
                self.go_on(key, step);
            }
            // An answer to a question that nobody asks any more.
            _ => debug!(connection = key.index, "a late answer finds no question"),
        }
    }

    /// A name for a question of this connection.
    pub(super) fn ticket(&mut self, key: Key) -> Ticket {
        self.questions = self.questions.wrapping_add(1);
        Ticket { core: self.core, connection: ConnectionId::from(key), serial: self.questions }
    }

    /// `bytes`: the packet as it came.
    fn handle_packet(&mut self, key: Key, packet: &Packet<'_>, bytes: &[u8]) -> Step {
        let Some(connection) = self.connections.get_mut(key) else { return Step::Gone };
        let live = match &connection.state {
            State::Live(live) => live,
            State::Opening(_) => {
                return match packet {
                    Packet::Connect(connect) => self.handle_connect(key, connect),
                    // [MQTT-3.1.0-1]; the receiver lets nothing else through.
                    _ => self.fault(key, ReasonCode::PROTOCOL_ERROR),
                };
            }
            State::Deciding(_) => {
                // [MQTT-3.1.2-30]
                return match packet {
                    Packet::Auth(auth) => self.handle_auth(key, auth),
                    Packet::Disconnect(_) => {
                        self.close(key, None, false);
                        Step::Gone
                    }
                    _ => self.fault(key, ReasonCode::PROTOCOL_ERROR),
                };
            }
        };
        let (session, version) = (live.session, live.version());
        match packet {
            Packet::Publish(publish) => return self.handle_publish(key, (session, version), publish, bytes),
            Packet::PubAck(ack) => self.handle_puback(session, ack),
            Packet::PubRec(ack) => self.handle_pubrec(key, session, ack),
            Packet::PubRel(ack) => self.handle_pubrel(key, session, ack),
            Packet::PubComp(ack) => self.handle_pubcomp(session, ack),
            Packet::Subscribe(subscribe) => return self.handle_subscribe(key, subscribe),
            Packet::Unsubscribe(unsubscribe) => self.handle_unsubscribe(key, unsubscribe),
            // [MQTT-3.12.4-1]
            Packet::PingReq => self.send(key, &Packet::PingResp),
            Packet::Disconnect(disconnect) => return self.handle_disconnect(key, disconnect),
            Packet::Auth(auth) => return self.handle_auth(key, auth),
            Packet::Connect(_)
            | Packet::ConnAck(_)
            | Packet::SubAck(_)
            | Packet::UnsubAck(_)
            | Packet::PingResp => return self.fault(key, ReasonCode::PROTOCOL_ERROR),
        }
        Step::Next
    }

    /// The peer broke the protocol in a way the receiver saw.
    fn protocol_error(&mut self, key: Key, error: ProtocolError) {
        debug!(connection = key.index, %error, reason = %error.reason_code(), "closing: peer broke the protocol");
        if let ProtocolError::Decode(DecodeError::UnsupportedProtocolVersion { level }) = error {
            return self.refuse_level(key, level);
        }
        self.fault(key, error.reason_code());
    }

    /// Closes the connection for its peer's fault, telling a 5.0 Client so [MQTT-4.13.1-1].
    pub(super) fn fault(&mut self, key: Key, reason: ReasonCode) -> Step {
        self.close(key, Some(reason), true);
        Step::Gone
    }

    fn handle_disconnect(&mut self, key: Key, disconnect: &Disconnect<'_>) -> Step {
        match self.take_leave(key, disconnect) {
            Ok(will) => self.close_for(key, None, will, disconnect.reason),
            Err(reason) => return self.fault(key, reason),
        }
        Step::Gone
    }

    /// What DISCONNECT does to the session; whether its Will is to be published.
    ///
    /// # Errors
    /// It asks for what it cannot have.
    pub(super) fn take_leave(&mut self, key: Key, disconnect: &Disconnect<'_>) -> Result<bool, ReasonCode> {
        let live = self.connections.get(key).and_then(|connection| connection.live());
        if let (Some(expiry), Some(live)) = (disconnect.properties.session_expiry_interval(), live) {
            let session = live.session;
            let Some(state) = self.sessions.get_mut(session) else { return Ok(false) };
            // A session that was to end with its connection cannot be kept by an afterthought (section 3.14.2.2.2).
            if state.expiry_seconds == 0 && expiry != 0 {
                return Err(ReasonCode::PROTOCOL_ERROR);
            }
            let expiry = expiry.min(self.limits.session_expiry_max_seconds);
            state.expiry_seconds = expiry;
            // The end that 0 brings about is recorded as such.
            if expiry != 0 {
                self.record_expiry(session);
            }
        }
        // [MQTT-3.14.4-3]: only a normal disconnection takes the Will away.
        Ok(disconnect.reason != ReasonCode::NORMAL_DISCONNECTION)
    }

    /// Appends a packet to the connection's output. One that is larger than the peer accepts is left out
    /// [MQTT-3.1.2-24].
    pub(super) fn send(&mut self, key: Key, packet: &Packet<'_>) {
        if self.try_send(key, packet).is_err() {
            too_large(key, packet);
        }
    }

    /// As [`Shard::send`], saying whether the peer accepts the packet.
    pub(super) fn try_send(&mut self, key: Key, packet: &Packet<'_>) -> Result<(), TooLarge> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        if connection.append(packet, &mut self.buffers)? {
            self.dirty.push_back(key);
        }
        Ok(())
    }

    /// A buffer from the pool for a connection whose output has none.
    pub(super) fn spare_output(&mut self, key: Key) -> Option<Vec<u8>> {
        let connection = self.connections.get(key)?;
        (connection.output.buffer.capacity() == 0).then(|| self.buffer())
    }

    /// Sends `answer` once `remaining` others have said that it may, and after those before it.
    pub(super) fn answer_when(&mut self, key: Key, answer: PendingAnswer, remaining: u16) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if remaining == 0 && connection.pending.is_empty() {
            return self.send_answer(key, &answer);
        }
        connection.pending.push(super::connection::Pending { answer, remaining });
    }

    /// The serial that the next pending answer will have.
    pub(super) fn next_serial(&self, key: Key) -> u32 {
        self.connections.get(key).map_or(0, |connection| connection.pending.next_serial())
    }

    /// One of those that the pending answer waited for has said that it may leave.
    pub(super) fn pending_done(&mut self, id: ConnectionId, serial: u32) {
        let key = Key::from(id);
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Some(pending) = connection.pending.get_mut(serial) else {
            debug_assert!(false, "an answer waits until all have said that it may leave");
            return;
        };
        pending.remaining -= 1;
        let (mut subscribed, mut published) = (false, false);
        while let Some(connection) = self.connections.get_mut(key)
            && let Some(done) = connection.pending.pop_done()
        {
            subscribed |= matches!(done.answer, PendingAnswer::SubAck(..));
            published |= matches!(done.answer, PendingAnswer::PubAck(..));
            self.send_answer(key, &done.answer);
        }
        let half = self.limits.pending_answers_max as usize / 2;
        let Some(connection) = self.connections.get_mut(key) else { return };
        let goes_on = match connection.held.as_ref().map(|held| held.why) {
            Some(Why::Answers) => connection.pending.len() <= half,
            // What else it waits for, other answers say nothing of.
            Some(Why::Order) => published && !connection.pending.has_pubacks(),
            _ => false,
        };
        if goes_on {
            return self.go_on(key, Step::Next);
        }
        // Who subscribes once and then listens keeps no memory for answers.
        if subscribed {
            connection.pending.shrink();
        }
    }

    fn send_answer(&mut self, key: Key, answer: &PendingAnswer) {
        use mqtt_proto::packet::{Properties, Reasons, SubAck, UnsubAck};
        let properties = Properties::EMPTY;
        match *answer {
            PendingAnswer::PubAck(packet_id, reason) => {
                self.send_ack(key, Qos::AtLeastOnce, Ack::new(packet_id, reason));
            }
            PendingAnswer::PubRec(packet_id, reason) => {
                self.send_ack(key, Qos::ExactlyOnce, Ack::new(packet_id, reason));
            }
            PendingAnswer::SubAck(packet_id, ref reasons) => {
                self.send(key, &Packet::SubAck(SubAck { packet_id, properties, reasons: Reasons(reasons) }));
            }
            PendingAnswer::UnsubAck(packet_id, ref reasons) => {
                self.send(
                    key,
                    &Packet::UnsubAck(UnsubAck { packet_id, properties, reasons: Reasons(reasons) }),
                );
            }
        }
    }

    /// Sends PUBACK or PUBREC to an accepted connection.
    #[inline]
    pub(super) fn send_ack(&mut self, key: Key, qos: Qos, ack: Ack<'_>) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Some(session) = connection.live().map(|live| live.session) else { return };
        let flight = self.sessions.get_mut(session).and_then(Session::known_flight_mut);
        let packet = if qos == Qos::AtLeastOnce {
            if let Some(flight) = flight {
                flight.inbound.puback_sent();
            }
            Packet::PubAck(ack)
        } else {
            if let Some(flight) = flight {
                flight.inbound.pubrec_sent(ack.packet_id, ack.reason);
            }
            Packet::PubRec(ack)
        };
        match connection.append(&packet, &mut self.buffers) {
            Ok(true) => self.dirty.push_back(key),
            Ok(false) => {}
            Err(TooLarge) => too_large(key, &packet),
        }
    }
}

#[cold]
fn too_large(key: Key, packet: &Packet<'_>) {
    debug!(connection = key.index, packet = ?packet.packet_type(), "larger than the peer accepts");
}

/// A packet that waits, not larger than it was: the receiver has noted its Topic Alias, which stands for the topic.
fn as_received(packet: Packet<'_>) -> Packet<'_> {
    match packet {
        Packet::Publish(publish) if publish.properties.topic_alias().is_some() => {
            Packet::Publish(Publish { topic: None, ..publish })
        }
        packet => packet,
    }
}
