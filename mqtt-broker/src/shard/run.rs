//! PUBLISH packets in a row that are alike: what was found out about the first holds for those behind it.
//!
//! A publisher mostly stays with its topic, and a busy one has many packets in one receive buffer. The first is handled
//! like any packet; those behind it that differ in payload and Packet Identifier alone need no checks, no route and, at
//! QoS 0, no copy of their own. Permission is asked for each.

use mqtt_proto::codec::Alike;
use mqtt_proto::connection::{Receiver, TooLarge};
use mqtt_proto::packet::{Ack, Packet, PacketType, Publish};
use mqtt_proto::types::{Qos, ReasonCode, Version};
use tracing::{debug, trace};

use super::Shard;
use super::connection::{Connection, Why};
use super::deliver::{Outgoing, SHARED_BYTES_MIN};
use super::envelope::{Batch, Envelope};
use super::frame::Received;
use super::input::Step;
use super::publish::{Routed, bounded_expiry};
use super::queue::Delivery;
use super::routes::Route;
use super::table::Key;
use crate::config::CoreId;
use crate::message::MessageRef;
use crate::ports::{AuthorizeRequest, Decision, Permission, Ticket};
use crate::router::{CoreSet, Matches, Subscriber};

/// Where a run ends.
pub(super) enum RunEnd {
    /// The next packet is for others to handle.
    Next,
    /// The next packet, of so many bytes, has to wait.
    Wait(Why, usize),
    /// The connection is closed.
    Gone,
}

/// What the packets of a run have in common.
#[derive(Clone, Copy)]
struct Run<'a> {
    alike: &'a Alike<'a>,
    version: Version,
    /// The publisher's session, if that is at home here.
    session: Option<Key>,
    /// What shared groups know the publisher by.
    publisher: u32,
    /// The core that it entered the broker on.
    from: CoreId,
}

/// Bytes of a run that are taken at once: what one core adds to the lane of another without looking.
const RUN_BYTES_MAX: usize = 64 * 1024;

impl Shard {
    /// Handles the packets in front of `input` that are like `packet`, the one before them, which was let through.
    #[inline(never)]
    pub(super) fn handle_run(
        &mut self,
        key: Key,
        receiver: &Receiver,
        packet: &[u8],
        input: &mut &[u8],
    ) -> RunEnd {
        let Some(live) = self.connections.get(key).and_then(|connection| connection.live()) else {
            return RunEnd::Next;
        };
        let (session, version) = (live.session, live.version());
        let Some(alike) = &Alike::to(packet, version) else {
            self.handle_acks(key, session, receiver, input);
            return RunEnd::Next;
        };
        let is_full = self.records.are_full() || self.records.are_behind() || self.budget.is_full_elsewhere();
        if receiver.poll_alike(alike, &mut &**input).is_none() || self.is_reserved(alike.topic()) || is_full {
            return RunEnd::Next;
        }
        let route = self.find_route(alike.topic());
        let mut end = RunEnd::Next;
        if route.cores.is_empty() || self.can_cross(alike.qos(), route.cores) {
            let publisher = self.publisher_hash(Some(session));
            let run = Run { alike, version, session: Some(session), publisher, from: self.core };
            let batch;
            (batch, end) = self.permitted(key, session, receiver, run, input);
            for core in route.cores.iter().filter(|_| batch.count > 0) {
                self.lanes.send(core, &Envelope::Run { batch, version, publisher }, &mut None);
            }
            if !self.take_run(key, run, batch, &route) {
                self.answers.clear();
                end = RunEnd::Gone;
            }
        }
        if let Some(matches) = self.routes.give_back(route) {
            self.matches = matches;
        }
        end
    }

    /// Whether a run may go to these cores whole.
    fn can_cross(&self, qos: Qos, cores: CoreSet) -> bool {
        // Which QoS 2 packets are messages is found out one by one, and those that expire are not sent as they came.
        qos != Qos::ExactlyOnce
            && self.limits.message_expiry_max_seconds == 0
            && self.lanes.congested().iter().all(|core| !cores.contains(core))
    }

    /// Delivers the packets of a run that this core's Client `key` sent; whether its connection is still there.
    fn take_run(&mut self, key: Key, run: Run<'_>, batch: Batch<'_>, route: &Route) -> bool {
        if run.alike.qos() != Qos::AtMostOnce
            || self.limits.message_expiry_max_seconds != 0
            || !self.groups.is_empty()
        {
            return self.go_through(key, run, batch, route);
        }
        self.stats.packets_received += u64::from(batch.count);
        self.stats.messages_received += u64::from(batch.count);
        if route.matches.subscribers.is_empty() && route.cores.is_empty() {
            self.stats.messages_unmatched += u64::from(batch.count);
        }
        self.pass_on(run, batch, &route.matches);
        true
    }

    /// Delivers a run that entered the broker on core `from`; the store's position that it is committed at.
    pub(super) fn run_arrived(
        &mut self,
        from: CoreId,
        batch: Batch<'_>,
        version: Version,
        publisher: u32,
    ) -> Option<u64> {
        let alike = &Alike::to(batch.bytes, version).expect("a run has a packet at least");
        let run = Run { alike, version, session: None, publisher, from };
        let route = self.find_route(alike.topic());
        let mut commit = None;
        if alike.qos() == Qos::AtMostOnce && self.groups.is_empty() {
            self.pass_on(run, batch, &route.matches);
        } else {
            let mut rest = batch.bytes;
            if let [one] = &route.matches.subscribers[..]
                && self.groups.is_empty()
            {
                rest = self.start_whole(one, batch, run);
            }
            while let Some((publish, bytes)) = alike.split_first(version, &mut rest) {
                let mut outgoing = run.outgoing(&publish, bytes, None);
                self.deliver_to_all(&route.matches, &mut outgoing, None, from);
                self.route_to_groups(&mut outgoing);
                commit = commit.max(outgoing.commit);
            }
        }
        if let Some(matches) = self.routes.give_back(route) {
            self.matches = matches;
        }
        commit
    }

    /// Handles the acknowledgements in front of `input`.
    fn handle_acks(&mut self, key: Key, session: Key, receiver: &Receiver, input: &mut &[u8]) {
        while let Some((packet_type, packet_id)) = receiver.poll_plain_ack(input) {
            trace!(connection = key.index, packet = ?packet_type, "received");
            self.stats.packets_received += 1;
            let ack = Ack::new(packet_id, ReasonCode::SUCCESS);
            match packet_type {
                PacketType::PubAck => self.handle_puback(session, &ack),
                PacketType::PubRec => self.handle_pubrec(key, session, &ack),
                PacketType::PubRel => self.handle_pubrel(key, session, &ack),
                _ => self.handle_pubcomp(session, &ack),
            }
        }
    }

    /// Cuts the packets that may be published off `input`.
    fn permitted<'i>(
        &mut self,
        key: Key,
        session: Key,
        receiver: &Receiver,
        run: Run<'_>,
        input: &mut &'i [u8],
    ) -> (Batch<'i>, RunEnd) {
        let start = *input;
        let mut batch = Batch { bytes: &[], count: 0, longest: 0 };
        let (Some(connection), Some(session)) = (self.connections.get(key), self.sessions.get(session))
        else {
            return (batch, RunEnd::Gone);
        };
        let Some(live) = connection.live() else { return (batch, RunEnd::Gone) };
        let (client_id, identity) = (&*session.client_id, live.identity());
        let (topic, qos, retain) = (run.alike.topic(), run.alike.qos(), false);
        let request = AuthorizeRequest::Publish { client_id, identity, topic, qos, retain };
        let most = match qos {
            Qos::AtMostOnce => usize::MAX,
            // Each may be owed an answer that has to wait, and has to be within Receive Maximum.
            _ => {
                let owed = connection.pending.len();
                let unacknowledged =
                    session.known_flight().map_or(0, |flight| flight.inbound.unacknowledged());
                let room = self.receive_maximum(run.version).saturating_sub(unacknowledged);
                (self.limits.pending_answers_max as usize).saturating_sub(owed).min(room.into())
            }
        };
        let mut end = RunEnd::Next;
        while (batch.count as usize) < most && start.len() - input.len() < RUN_BYTES_MAX {
            let mut rest = *input;
            let Some((publish, bytes)) = receiver.poll_alike(run.alike, &mut rest) else { break };
            if publish.payload.len() >= SHARED_BYTES_MIN {
                break;
            }
            self.questions = self.questions.wrapping_add(1);
            let ticket = Ticket { core: self.core, connection: key.into(), serial: self.questions };
            match self.ports.authorize.authorize(&request, ticket) {
                Decision::Now(Permission::Allow) => {}
                Decision::Now(denied) => {
                    // Who handles the packet finds the answer.
                    self.answers.push((0, denied));
                    break;
                }
                Decision::Later => {
                    end = RunEnd::Wait(Why::Permission(ticket.serial, 0), bytes.len());
                    break;
                }
            }
            trace!(connection = key.index, bytes = bytes.len(), "received one more PUBLISH");
            *input = rest;
            batch.count += 1;
            batch.longest = batch.longest.max(bytes.len() as u32);
        }
        batch.bytes = &start[..start.len() - input.len()];
        (batch, end)
    }

    /// QoS 0: each subscriber gets all of them at once, as they came.
    fn pass_on(&mut self, run: Run<'_>, batch: Batch<'_>, matches: &Matches) {
        for same in matches.sessions() {
            if let [one] = same
                && self.append_whole(one, batch, run)
            {
                continue;
            }
            let mut rest = batch.bytes;
            while let Some((publish, bytes)) = run.alike.split_first(run.version, &mut rest) {
                let mut outgoing = run.outgoing(&publish, bytes, None);
                self.deliver_to(same, &mut outgoing, run.session, run.from);
            }
        }
    }

    /// Appends all of `batch` to the subscriber's output, if it gets just these bytes and has room for them.
    fn append_whole(&mut self, subscriber: &Subscriber, batch: Batch<'_>, run: Run<'_>) -> bool {
        let Some(key) = self.sessions.at(subscriber.key) else { return true };
        let Some(online) = self.takes_as_it_came(key, subscriber, batch, run) else { return false };
        let Some(Connection { output, .. }) = self.connections.get_mut(online) else { return false };
        if output.buffer.capacity() == 0 {
            output.buffer = self.buffers.pop().unwrap_or_default();
        }
        output.buffer.extend_from_slice(batch.bytes);
        if !core::mem::replace(&mut output.dirty, true) {
            self.dirty.push_back(online);
        }
        self.stats.messages_matched += u64::from(batch.count);
        self.stats.messages_sent += u64::from(batch.count);
        self.stats.messages_delivered += u64::from(batch.count);
        true
    }

    /// The subscriber's connection, if it gets packets of the QoS they came with as they came, and has room for all of
    /// `batch` now.
    fn takes_as_it_came(&self, key: Key, to: &Subscriber, batch: Batch<'_>, run: Run<'_>) -> Option<Key> {
        let session = self.sessions.get(key).filter(|session| session.queue_is_empty())?;
        let is_own = to.options.no_local && run.session == Some(key);
        let online = session.connection().filter(|_| to.identifier == 0 && !is_own)?;
        let connection = self.connections.get(online)?;
        let sender = &connection.live()?.sender;
        let is_fit = !sender.uses_topic_aliases()
            && sender.version().has_properties() == run.version.has_properties()
            && batch.longest <= sender.maximum_packet_size()
            && connection.output.waiting() + batch.bytes.len() <= self.limits.output_bytes_max as usize;
        is_fit.then_some(online)
    }

    /// Sends QoS 1 packets to the only subscriber there is, as far as that gets them as they came and its window has room;
    /// those that are left. The Packet Identifiers of those that were sent stand in `packet_ids`. What
    /// [`Shard::deliver`] looks up for each message is looked up once.
    fn start_whole<'b>(&mut self, to: &Subscriber, batch: Batch<'b>, run: Run<'_>) -> &'b [u8] {
        let mut rest = batch.bytes;
        self.packet_ids.clear();
        let qos = run.alike.qos();
        if qos != Qos::AtLeastOnce || to.options.qos < qos || self.limits.message_expiry_max_seconds != 0 {
            return rest;
        }
        let Some(key) = self.sessions.at(to.key) else { return rest };
        let Some(online) = self.takes_as_it_came(key, to, batch, run) else { return rest };
        // What is stored is stored one by one.
        let session = self.sessions.get_mut(key).filter(|session| !session.is_persistent());
        let (Some(session), Some(connection)) = (session, self.connections.get_mut(online)) else {
            return rest;
        };
        let (outbound, output) = (&mut session.flight().outbound, &mut connection.output);
        if output.buffer.capacity() == 0 {
            output.buffer = self.buffers.pop().unwrap_or_default();
        }
        while outbound.can_start()
            && let Some((publish, bytes)) = run.alike.split_first(run.version, &mut rest)
        {
            let outgoing = run.outgoing(&publish, bytes, None);
            let message = self.spares.message(&outgoing.message);
            let started = outbound.start(qos, Delivery::new(message, qos, false, &[], None));
            let packet_id = started.expect("the window has room");
            if let Some(received) = &outgoing.received {
                received.append_under(packet_id, &mut output.buffer);
            }
            self.packet_ids.extend(publish.packet_id);
        }
        let count = self.packet_ids.len() as u64;
        if count > 0 && !core::mem::replace(&mut output.dirty, true) {
            self.dirty.push_back(online);
        }
        self.stats.messages_matched += count;
        self.stats.messages_kept += count;
        self.stats.messages_sent += count;
        rest
    }

    /// [`Shard::start_whole`] for packets of this core's Client `key`, which are acknowledged at once; those that are left.
    fn start_and_acknowledge<'b>(
        &mut self,
        key: Key,
        to: &Subscriber,
        batch: Batch<'b>,
        run: Run<'_>,
    ) -> &'b [u8] {
        // What is acknowledged at once leaves no trace in the publisher's session.
        if !self.connections.get(key).is_some_and(|connection| connection.pending.is_empty()) {
            return batch.bytes;
        }
        let rest = self.start_whole(to, batch, run);
        self.stats.packets_received += self.packet_ids.len() as u64;
        self.stats.messages_received += self.packet_ids.len() as u64;
        let Some(connection) = self.connections.get_mut(key) else { return rest };
        for &packet_id in &self.packet_ids {
            let answer = Packet::PubAck(Ack::new(packet_id, ReasonCode::SUCCESS));
            match connection.append(&answer, &mut self.buffers) {
                Ok(true) => self.dirty.push_back(key),
                Ok(false) => {}
                Err(TooLarge) => debug!(connection = key.index, "a PUBACK is larger than the peer accepts"),
            }
        }
        rest
    }

    /// Any QoS, from this core's Client `key`: one after the other; whether the connection is still there.
    fn go_through(&mut self, key: Key, run: Run<'_>, batch: Batch<'_>, route: &Route) -> bool {
        let Some(session) = run.session else { return false };
        let mut rest = batch.bytes;
        if let [one] = &route.matches.subscribers[..]
            && route.cores.is_empty()
            && self.groups.is_empty()
        {
            rest = self.start_and_acknowledge(key, one, batch, run);
        }
        let expiry = bounded_expiry(None, self.limits.message_expiry_max_seconds);
        let expires_at = expiry.map(|seconds| self.now.millis + u64::from(seconds) * 1000);
        let cores = route.cores;
        while let Some((publish, bytes)) = run.alike.split_first(run.version, &mut rest) {
            self.stats.packets_received += 1;
            self.stats.messages_received += 1;
            if let Some(packet_id) = publish.packet_id {
                match self.refuse_arrival(key, (session, run.version), publish.qos, packet_id) {
                    None => {}
                    Some(Step::Next) => continue,
                    Some(_) => return false,
                }
            }
            let mut outgoing = run.outgoing(&publish, bytes, expires_at);
            self.deliver_to_all(&route.matches, &mut outgoing, run.session, run.from);
            let grouped = self.route_to_groups(&mut outgoing);
            let matched = grouped || !route.matches.subscribers.is_empty() || !cores.is_empty();
            self.stats.messages_unmatched += u64::from(!matched);
            if let Some(packet_id) = publish.packet_id {
                let reason = if matched { ReasonCode::SUCCESS } else { ReasonCode::NO_MATCHING_SUBSCRIBERS };
                let mut routed = Routed { matched, cores, commit: outgoing.commit, ..Routed::default() };
                if publish.qos == Qos::ExactlyOnce {
                    self.record_received(session, packet_id, &mut routed);
                }
                self.acknowledge(key, publish.qos, packet_id, reason, routed);
            }
        }
        true
    }
}

impl<'a> Run<'a> {
    /// One of its messages, which came as `bytes`.
    #[inline(always)]
    fn outgoing(&self, publish: &Publish<'a>, bytes: &'a [u8], expires_at: Option<u64>) -> Outgoing<'a> {
        let (topic, qos, payload) = (self.alike.topic(), publish.qos, publish.payload);
        let message = MessageRef { topic, properties: &[], payload, qos, retain: false, expires_at };
        let received = Some(Received::plain(publish, bytes, self.version));
        Outgoing { received, publisher: self.publisher, ..Outgoing::new(message) }
    }
}
