//! A message on its way to one session: sent at once, queued, or dropped for a reason that is counted.
//!
//! Invariants: messages leave in the order in which they came, so nothing overtakes a queue; at most the Client's
//! Receive Maximum is unacknowledged [MQTT-3.3.4-9]; the output of a Client that does not read stays within its
//! bound, and a full queue never stops a publisher. Lives on: the session's home core.

use mqtt_proto::connection::{Sender, TooLarge};
use mqtt_proto::packet::{Ack, Packet, Properties, Property, Publish};
use mqtt_proto::session::{Discarded, PubRec, Resend};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, Version};
use tracing::warn;

use super::Shard;
use super::connection::{Connection, State};
use super::envelope::OfGroup;
use super::frame::{Frame, Received};
use super::queue::Delivery;
use super::session::{Flight, Session};
use super::stats::DropReason;
use super::table::Key;
use crate::config::Overflow;
use crate::message::{Message, MessageRef, Spares};
use crate::ports::Commit;
use crate::store::record::{Identifiers, Record};

/// Payloads from here on are shared where the message is kept anyway or goes to several: below, copying costs less than
/// one more piece to send.
pub(super) const SHARED_BYTES_MIN: usize = 4 * 1024;

/// Slow subscribers are many at a time: one line a core in this time tells of all.
const TELL_SLOW_MILLIS: u64 = 10_000;

/// A message that is being routed: borrowed, and owned from the first moment that something keeps it.
pub(super) struct Outgoing<'a> {
    pub(super) message: MessageRef<'a>,
    pub(super) owned: Option<Message>,
    /// The last position in the store that its copies need.
    pub(super) commit: Option<u64>,
    /// Its number among the messages that the store was told, 0 for none.
    pub(super) told: u64,
    /// A hash of the publisher's ClientID where shared groups go by Client, else 0.
    pub(super) publisher: u32,
    /// The packet that brought it, if others can get its bytes.
    pub(super) received: Option<Received<'a>>,
    /// While it is delivered to more than one subscriber.
    pub(super) frame: Option<Frame>,
}

impl<'a> Outgoing<'a> {
    pub(super) fn new(message: MessageRef<'a>) -> Outgoing<'a> {
        Outgoing { message, owned: None, commit: None, told: 0, publisher: 0, received: None, frame: None }
    }

    pub(super) fn with_owned(message: MessageRef<'a>, owned: Option<&Message>) -> Outgoing<'a> {
        Outgoing { message, owned: owned.cloned(), ..Outgoing::new(message) }
    }

    pub(super) fn keep(&mut self, spares: &mut Spares) -> Message {
        let message = self.message;
        self.owned.get_or_insert_with(|| spares.message(&message)).clone()
    }

    pub(super) fn wait_for(&mut self, commit: Commit) {
        if let Commit::At(position) = commit {
            self.commit = self.commit.max(Some(position));
        }
    }
}

/// How a message is to be delivered to a session.
#[derive(Clone, Copy)]
pub(super) struct How<'i> {
    /// The lower of published and granted QoS.
    pub(super) qos: Qos,
    pub(super) retain: bool,
    pub(super) identifiers: &'i [u32],
    pub(super) group: Option<OfGroup>,
    /// A retained message for a new subscription: paced, so it waits where a live QoS 0 message would be dropped.
    pub(super) paced: bool,
}

impl Shard {
    /// Delivers to one session, now or later.
    pub(super) fn deliver(&mut self, key: Key, outgoing: &mut Outgoing<'_>, how: How<'_>) {
        if how.group.is_none() {
            self.stats.messages_matched += 1;
        }
        let Some(session) = self.sessions.get_mut(key) else {
            return self.stats.dropped(DropReason::SessionEnded, 1);
        };
        // On its way between cores its time may have passed [MQTT-3.3.2-5].
        if outgoing.message.is_expired(self.now.millis) {
            self.stats.dropped(DropReason::Expired, 1);
            return self.credit(how.group, key);
        }
        let online = session.connection().filter(|_| session.queue_is_empty());
        let connection = online.and_then(|connection| self.connections.get_mut(connection));
        let Some(Connection { state: State::Live(live), output, .. }) = connection else {
            return self.enqueue(key, outgoing, how);
        };
        if output.waiting() >= self.limits.output_bytes_max as usize {
            return self.enqueue(key, outgoing, how);
        }
        let mut packet_id = None;
        if how.qos != Qos::AtMostOnce {
            let outbound = &mut session.flight().outbound;
            if !outbound.can_start() {
                return self.enqueue(key, outgoing, how);
            }
            let started = outbound.start(how.qos, how.keep(outgoing.keep(&mut self.spares)));
            let started = started.expect("the window has room");
            packet_id = Some(started);
            self.stats.messages_kept += 1;
            if session.records_sent(how.qos, how.group) {
                let client_id = &session.client_id;
                let commit = self.records.enqueued(self.now, outgoing, client_id, &how, packet_id);
                if how.qos == Qos::ExactlyOnce
                    && let Some(online) = online
                {
                    // Sent again after a crash it has to have this Packet Identifier.
                    self.gates.close(online, output, commit);
                }
            }
            if how.qos == Qos::ExactlyOnce
                && let (Some(of), Some(online)) = (how.group, online)
            {
                let (groups, records, spares) = (&mut self.groups, &mut self.records, &mut self.spares);
                let commit = self.begun.begin(groups, records, spares, self.now, of, session.is_persistent());
                self.gates.close(online, output, commit);
            }
        }
        let How { qos, retain, identifiers, group, .. } = how;
        let part = Part { message: &outgoing.message, qos, retain, dup: false, packet_id, identifiers };
        if output.buffer.capacity() == 0 {
            output.buffer = self.buffers.pop().unwrap_or_default();
        }
        let (sender, now) = (&mut live.sender, self.now.millis);
        let alike = identifiers.is_empty() && !sender.uses_topic_aliases();
        let sent = if outgoing.message.payload.len() >= SHARED_BYTES_MIN {
            // A payload that has an allocation of its own, or is worth one, is not copied.
            let share = (outgoing.owned.is_some() || outgoing.frame.is_some()) && output.can_share();
            let ready = (outgoing.received.as_ref(), outgoing.frame.as_mut());
            let (sent, shared) = part.append_large(sender, now, ready, alike, share, &mut output.buffer);
            if shared {
                output.share(outgoing.keep(&mut self.spares));
            }
            sent
        } else {
            match (&outgoing.received, &mut outgoing.frame) {
                (Some(received), _) if alike && received.serves(&part, sender) => {
                    received.append(&part, sender, &mut output.buffer)
                }
                (_, Some(frame)) if alike => frame.append(&part, sender, now, &mut output.buffer),
                _ => part.encode(sender, now, &mut output.buffer),
            }
        };
        if !core::mem::replace(&mut output.dirty, true) {
            self.dirty.extend(online);
        }
        match (sent, packet_id) {
            (Ok(()), None) => {
                self.stats.messages_sent += 1;
                self.stats.messages_delivered += 1;
                self.credit(group, key);
            }
            (Ok(()), Some(_)) => self.stats.messages_sent += 1,
            (Err(TooLarge), None) => {
                self.stats.dropped(DropReason::TooLarge, 1);
                self.credit(group, key);
            }
            // [MQTT-3.1.2-25]
            (Err(TooLarge), Some(packet_id)) => self.discard(key, packet_id, false),
        }
    }

    /// Sends a QoS 0 message [MQTT-4.3.1-1].
    fn send_once(&mut self, key: Key, outgoing: &mut Outgoing<'_>, how: How<'_>) {
        let now = self.now.millis;
        let (message, identifiers) = (&outgoing.message, how.identifiers);
        let part =
            Part { message, qos: how.qos, retain: how.retain, dup: false, packet_id: None, identifiers };
        match self.with_output(key, |sender, out| part.encode(sender, now, out)) {
            Some(Ok(())) => {
                self.stats.messages_sent += 1;
                self.stats.messages_delivered += 1;
            }
            Some(Err(TooLarge)) => self.stats.dropped(DropReason::TooLarge, 1),
            None => self.stats.dropped(DropReason::Offline, 1),
        }
        self.credit(how.group, key);
    }

    /// Sends a QoS 1 or 2 message for the first time. The caller has seen that the window has room.
    ///
    /// `was_parked`: it did not wait in memory, nor does the store know of it any more.
    pub(super) fn start(&mut self, key: Key, delivery: Delivery, was_parked: bool) {
        let now = self.now.millis;
        let Some(session) = self.sessions.get_mut(key) else { return };
        let (is_recorded, online) = (session.is_persistent(), session.connection());
        let (qos, group) = (delivery.qos, delivery.group());
        let outbound = &mut session.flight().outbound;
        let packet_id = outbound.start(qos, delivery).expect("the caller has seen that the window has room");
        let delivery = outbound.get_mut(packet_id).expect("just started").to_send();
        let message = delivery.message.as_ref();
        if session.records_sent(qos, group) {
            let client_id = &*session.client_id;
            let sent = Record::Sent { client_id, packet_id };
            let commit = match group {
                None if !was_parked && qos == Qos::ExactlyOnce => self.records.append(self.now, &sent),
                // If that is lost it is sent once more.
                None if !was_parked => {
                    self.records.append_later(self.now, &sent);
                    Commit::Now
                }
                // The first that the store hears of it, or once more.
                _ => {
                    let identifiers = Identifiers::new(delivery.identifiers());
                    let (retain, packet_id) = (delivery.retain, Some(packet_id));
                    let record = Record::Enqueued { client_id, qos, retain, identifiers, packet_id };
                    match qos {
                        Qos::ExactlyOnce => self.records.keep(self.now, &message, &record),
                        // If that is lost its chunk has it.
                        _ => self.records.keep_later(self.now, &message, &record),
                    }
                }
            };
            if let Some(online) = online.filter(|_| qos == Qos::ExactlyOnce) {
                self.close_gate(online, commit);
            }
        }
        if qos == Qos::ExactlyOnce
            && let Some(of) = group
        {
            let (groups, records, spares) = (&mut self.groups, &mut self.records, &mut self.spares);
            let commit = self.begun.begin(groups, records, spares, self.now, of, is_recorded);
            if let Some(online) = online {
                self.close_gate(online, commit);
            }
        }
        let part = Part::of(&delivery, &message, Some(packet_id), false);
        match self.with_output(key, |sender, out| part.encode(sender, now, out)) {
            Some(Ok(())) => self.stats.messages_sent += 1,
            // [MQTT-3.1.2-25]
            Some(Err(TooLarge)) => self.discard(key, packet_id, false),
            None => {}
        }
    }

    /// A PUBLISH in the window turns out to be larger than the Client accepts.
    fn discard(&mut self, key: Key, packet_id: PacketId, resent: bool) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let discarded =
            session.flight().outbound.discard(packet_id, resent).expect("it was about to be sent");
        let (Discarded::Done(delivery) | Discarded::Release(delivery)) = &discarded;
        self.stats.messages_kept -= 1;
        self.stats.dropped(DropReason::TooLarge, 1);
        let released = matches!(discarded, Discarded::Release(_));
        let records = session.records_sent(delivery.qos, delivery.group());
        self.credit_sent(delivery, key);
        if records {
            self.record_end(key, packet_id, released);
        }
        if released {
            self.send_to(key, &Packet::PubRel(Ack::new(packet_id, ReasonCode::SUCCESS)));
        }
    }

    /// Keeps the message for later, within the queue's bounds.
    fn enqueue(&mut self, key: Key, outgoing: &mut Outgoing<'_>, how: How<'_>) {
        let Some(session) = self.sessions.get(key) else { return };
        let online = session.connection().is_some();
        let dropped = match (how.qos, online) {
            (Qos::AtMostOnce, false) if !self.limits.queue_qos0_offline => Some(DropReason::Offline),
            // Behind a queue it keeps its place; without one it is the output that is full.
            (Qos::AtMostOnce, true) if session.queue_is_empty() && !how.paced => {
                Some(DropReason::SlowConsumer)
            }
            (_, false) if !session.is_persistent() => Some(DropReason::Offline),
            _ => None,
        };
        if let Some(reason) = dropped {
            self.stats.dropped(reason, 1);
            if reason == DropReason::SlowConsumer && self.now.millis >= self.tell_slow_at {
                self.tell_slow_at = self.now.millis + TELL_SLOW_MILLIS;
                warn!(
                    client_id = &*session.client_id,
                    "reads more slowly than others publish: QoS 0 messages for it are dropped (output_bytes_max)"
                );
            }
            return self.credit(how.group, key);
        }
        let cost = outgoing.keep(&mut self.spares).cost() + Delivery::PLACE;
        while self.queue_is_full(key, cost) {
            let overflow = self.limits.queue_overflow;
            let oldest = match overflow {
                Overflow::DropOldest if self.drop_oldest_parked(key, cost) => continue,
                Overflow::DropOldest => self.pop_queue(key),
                Overflow::DropNewest => None,
            };
            let Some(oldest) = oldest else {
                self.stats.dropped(DropReason::QueueFull, 1);
                return self.credit(how.group, key);
            };
            self.drop_first(key, &oldest, DropReason::QueueFull);
        }
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.records_waiting(how.qos, how.group) {
            self.records.enqueued(self.now, outgoing, &session.client_id, &how, None);
        }
        let delivery = how.keep(outgoing.keep(&mut self.spares));
        session.flight().queue.push(delivery);
        self.stats.queue_bytes += cost as u64;
        self.stats.messages_kept += 1;
    }

    fn queue_is_full(&self, key: Key, cost: usize) -> bool {
        let (len, bytes) = self.sessions.get(key).map_or((0, 0), Session::waiting);
        len >= u64::from(self.limits.queue_messages_max)
            || bytes + cost as u64 > self.limits.queue_bytes_max
            || self.memory_is_full(cost)
    }

    /// Takes the oldest message off the queue. It still counts as kept.
    fn pop_queue(&mut self, key: Key) -> Option<Delivery> {
        let session = self.sessions.get_mut(key)?;
        session.stop_parking();
        let delivery = session.known_flight_mut()?.queue.pop()?;
        self.stats.queue_bytes -= delivery.cost() as u64;
        Some(delivery)
    }

    /// The message that was the first of those that wait is not to be delivered after all.
    fn drop_first(&mut self, key: Key, delivery: &Delivery, reason: DropReason) {
        if let Some(session) = self.sessions.get(key)
            && session.records_waiting(delivery.qos, delivery.group())
        {
            let record = Record::Dropped { client_id: &session.client_id, place: 0 };
            self.records.append_later(self.now, &record);
        }
        self.stats.messages_kept -= 1;
        self.stats.dropped(reason, 1);
        self.credit(delivery.group(), key);
    }

    /// Sends what waits for this session, as far as its window and its output have room: first what was sent on an
    /// earlier connection [MQTT-4.4.0-1], then the queue.
    pub(super) fn pump(&mut self, key: Key) {
        let now = self.now.millis;
        let max = self.limits.output_bytes_max as usize;
        loop {
            let Some(session) = self.sessions.get_mut(key) else { return };
            let connection = session.connection().and_then(|connection| self.connections.get(connection));
            if connection.is_none_or(|connection| connection.output.waiting() >= max) {
                return;
            }
            let is_cold = session.is_cold();
            if is_cold && session.known_flight().is_none() {
                session.flight();
            }
            let Some(flight) = session.known_flight_mut() else { break };
            if let Some(resend) = flight.outbound.poll_resend() {
                match resend {
                    Resend::Publish { packet_id, dup, message, .. } => {
                        let delivery = message.to_send();
                        let message = delivery.message.as_ref();
                        let part = Part::of(&delivery, &message, Some(packet_id), dup);
                        if let Some(Err(TooLarge)) =
                            self.with_output(key, |sender, out| part.encode(sender, now, out))
                        {
                            self.discard(key, packet_id, true);
                        }
                    }
                    Resend::PubRel { packet_id } => {
                        self.send_to(key, &Packet::PubRel(Ack::new(packet_id, ReasonCode::SUCCESS)));
                    }
                }
                continue;
            }
            if is_cold {
                match self.pump_parked(key) {
                    true => continue,
                    false => return,
                }
            }
            let Some(first) = flight.queue.front() else { break };
            if first.message.is_expired(now) {
                if let Some(delivery) = self.pop_queue(key) {
                    self.drop_first(key, &delivery, DropReason::Expired);
                }
                continue;
            }
            if first.qos != Qos::AtMostOnce && !flight.outbound.can_start() {
                return;
            }
            let Some(delivery) = self.pop_queue(key) else { return };
            if delivery.qos == Qos::AtMostOnce {
                self.stats.messages_kept -= 1;
                let mut outgoing = Outgoing::new(delivery.message.as_ref());
                let how = How {
                    qos: delivery.qos,
                    retain: delivery.retain,
                    identifiers: delivery.identifiers(),
                    group: delivery.group(),
                    paced: false,
                };
                self.send_once(key, &mut outgoing, how);
                self.spares.take_back(delivery.message);
            } else {
                self.start(key, delivery, false);
            }
        }
        self.advance_gathers(key);
    }

    /// [`Shard::pump`] after an acknowledgement: mostly there is nothing to be sent.
    fn pump_if_waiting(&mut self, key: Key) {
        let waits =
            |session: &Session| session.has_more() || session.known_flight().is_some_and(Flight::has_to_send);
        if self.sessions.get(key).is_some_and(waits) {
            self.pump(key);
        }
    }

    /// Runs `write` on the output of the session's connection, if it has one.
    fn with_output<T>(&mut self, key: Key, write: impl FnOnce(&mut Sender, &mut Vec<u8>) -> T) -> Option<T> {
        let connection = self.sessions.get(key)?.connection()?;
        let spare = self.spare_output(connection);
        let state = self.connections.get_mut(connection)?;
        if let Some(spare) = spare {
            state.output.buffer = spare;
        }
        let mut out = core::mem::take(&mut state.output.buffer);
        let result = state.live_mut().map(|live| write(&mut live.sender, &mut out));
        state.output.buffer = out;
        self.mark_dirty(connection);
        result
    }

    /// Sends a packet to the session's Client, if it is connected.
    fn send_to(&mut self, key: Key, packet: &Packet<'_>) {
        if let Some(connection) = self.sessions.get(key).and_then(Session::connection) {
            self.send(connection, packet);
        }
    }

    /// PUBACK from a subscriber. One that acknowledges nothing is ignored: it may answer what another member of a
    /// shared group got meanwhile.
    pub(super) fn handle_puback(&mut self, key: Key, ack: &Ack<'_>) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let (persistent, has_more) = (session.is_persistent(), session.has_more());
        let Some(flight) = session.known_flight_mut() else { return };
        if let Ok(delivery) = flight.outbound.handle_puback(ack.packet_id, ack.reason) {
            let waits = has_more || flight.has_to_send();
            if persistent && delivery.group().is_none() {
                // Nobody waits for this one: lost, it costs a delivery with DUP.
                self.record_end(key, ack.packet_id, false);
            }
            self.delivered(key, delivery, ack);
            if waits {
                self.pump(key);
            }
        }
    }

    /// PUBREC from a subscriber.
    pub(super) fn handle_pubrec(&mut self, connection: Key, key: Key, ack: &Ack<'_>) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let persistent = session.is_persistent();
        match session.flight().outbound.handle_pubrec(ack.packet_id, ack.reason) {
            Ok(PubRec::Release(message)) => {
                if let Some(delivery) = message {
                    if persistent {
                        self.record_end(key, ack.packet_id, true);
                    }
                    self.delivered(key, delivery, ack);
                }
                self.send(connection, &Packet::PubRel(Ack::new(ack.packet_id, ReasonCode::SUCCESS)));
            }
            // [MQTT-4.4.0-2]
            Ok(PubRec::Refused(delivery)) => {
                if persistent {
                    self.record_end(key, ack.packet_id, false);
                }
                self.delivered(key, delivery, ack);
                self.pump(key);
            }
            Err(_) if ack.reason.is_error() => {}
            Err(_) => {
                let reason = ReasonCode::PACKET_IDENTIFIER_NOT_FOUND;
                self.send(connection, &Packet::PubRel(Ack::new(ack.packet_id, reason)));
            }
        }
    }

    /// PUBCOMP from a subscriber.
    pub(super) fn handle_pubcomp(&mut self, key: Key, ack: &Ack<'_>) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let persistent = session.is_persistent();
        let Some(flight) = session.known_flight_mut() else { return };
        if flight.outbound.handle_pubcomp(ack.packet_id).is_ok() {
            if persistent {
                self.record_end(key, ack.packet_id, false);
            }
            self.pump_if_waiting(key);
        }
    }

    /// Records that a delivery is over, or `released`: that only its PUBCOMP is missing, in which case the PUBREL waits for
    /// the store, lest the PUBLISH be sent again behind it.
    fn record_end(&mut self, key: Key, packet_id: PacketId, released: bool) {
        let Some(session) = self.sessions.get(key) else { return };
        let (client_id, online) = (&*session.client_id, session.connection());
        if !released {
            return self.records.append_later(self.now, &Record::Acknowledged { client_id, packet_id });
        }
        let commit = self.records.append(self.now, &Record::Released { client_id, packet_id });
        if let Some(online) = online {
            self.close_gate(online, commit);
        }
    }

    /// The Client has taken over a message, or refused it for good.
    fn delivered(&mut self, key: Key, delivery: Delivery, ack: &Ack<'_>) {
        self.stats.messages_kept -= 1;
        match ack.reason.is_error() {
            true => self.stats.dropped(DropReason::Refused, 1),
            false => self.stats.messages_delivered += 1,
        }
        self.credit_sent(&delivery, key);
        self.spares.take_back(delivery.message);
    }
}

impl How<'_> {
    /// The message as it is kept.
    fn keep(self, message: Message) -> Delivery {
        let How { qos, retain, identifiers, group, .. } = self;
        Delivery::new(message, qos, retain, identifiers, group)
    }
}

/// One PUBLISH to a subscriber.
pub(super) struct Part<'a> {
    pub(super) message: &'a MessageRef<'a>,
    pub(super) qos: Qos,
    pub(super) retain: bool,
    pub(super) dup: bool,
    pub(super) packet_id: Option<PacketId>,
    pub(super) identifiers: &'a [u32],
}

impl<'a> Part<'a> {
    /// `message`: that of the delivery.
    fn of(
        delivery: &'a Delivery,
        message: &'a MessageRef<'a>,
        packet_id: Option<PacketId>,
        dup: bool,
    ) -> Part<'a> {
        let (qos, retain, identifiers) = (delivery.qos, delivery.retain, delivery.identifiers());
        Part { message, qos, retain, dup, packet_id, identifiers }
    }

    fn encode(&self, sender: &mut Sender, now: u64, out: &mut Vec<u8>) -> Result<(), TooLarge> {
        self.with_publish(sender.version(), now, |publish| sender.encode_publish(publish, out))
    }

    /// Appends the packet, without its payload if that may be shared and is; whether it is.
    #[cold]
    fn append_large(
        &self,
        sender: &mut Sender,
        now: u64,
        (received, frame): (Option<&Received<'_>>, Option<&mut Frame>),
        alike: bool,
        share: bool,
        out: &mut Vec<u8>,
    ) -> (Result<(), TooLarge>, bool) {
        let start = out.len();
        let sent = match (received, frame) {
            (Some(received), _) if alike && received.serves(self, sender) => {
                received.append_head(self, sender, share, out)
            }
            (_, Some(frame)) if alike => frame.append_head(self, sender, now, share, out),
            _ => {
                let sent = self.encode(sender, now, out);
                return (sent, false);
            }
        };
        (sent, share && out.len() > start)
    }

    /// Makes the packet, as it is for a Client of this version at this time.
    pub(super) fn with_publish<T>(
        &self,
        version: Version,
        now: u64,
        encode: impl FnOnce(&Publish<'_>) -> T,
    ) -> T {
        /// Identifiers that need no list of their own.
        const FEW: usize = 7;
        let mut few = [Property::SubscriptionIdentifier(0); FEW + 1];
        let many: Vec<Property<'_>>;
        let mut properties = Properties::EMPTY;
        if version == Version::V5 {
            let expiry = self.message.expiry_left(now).map(Property::MessageExpiryInterval);
            let identifiers =
                self.identifiers.iter().map(|&identifier| Property::SubscriptionIdentifier(identifier));
            let list = expiry.into_iter().chain(identifiers);
            let list = if self.identifiers.len() <= FEW {
                let mut len = 0;
                for property in list {
                    few[len] = property;
                    len += 1;
                }
                &few[..len]
            } else {
                many = list.collect();
                &many
            };
            properties = Properties::from_wire(self.message.properties).with_list(list);
        }
        let publish = Publish {
            dup: self.dup,
            qos: self.qos,
            retain: self.retain,
            topic: Some(self.message.topic),
            packet_id: self.packet_id,
            properties,
            payload: self.message.payload,
        };
        encode(&publish)
    }
}
