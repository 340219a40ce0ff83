//! PUBLISH packets in a row that are alike: what was found out about the first holds for those behind it.
//!
//! A publisher mostly stays with its topic, and a busy one has many packets in one receive buffer. The first is handled
//! like any packet; those behind it that differ in payload and Packet Identifier alone need no checks, no route and, at
//! QoS 0, no copy of their own. Permission is asked for each.

use mqtt_proto::codec::Alike;
use mqtt_proto::connection::Receiver;
use mqtt_proto::packet::{Ack, PacketType, Publish};
use mqtt_proto::types::{Qos, ReasonCode, Version};
use tracing::trace;

use super::Shard;
use super::connection::{Connection, State, Why};
use super::deliver::{Outgoing, SHARED_BYTES_MIN};
use super::frame::Received;
use super::input::Step;
use super::publish::{Routed, bounded_expiry};
use super::table::Key;
use crate::message::MessageRef;
use crate::ports::{AuthorizeRequest, Decision, Permission, Ticket};
use crate::router::{Matches, Subscriber};

/// Where a run ends.
pub(super) enum RunEnd {
    /// The next packet is for others to handle.
    Next,
    /// The next packet, of so many bytes, has to wait.
    Wait(Why, usize),
    /// The connection is closed.
    Gone,
}

/// Packets in a row that may be published and have not been delivered.
#[derive(Clone, Copy)]
struct Batch<'a> {
    bytes: &'a [u8],
    count: u64,
    /// Length of the longest.
    longest: usize,
}

/// Who publishes a run, and what its packets have in common.
#[derive(Clone, Copy)]
struct Run<'a> {
    connection: Key,
    session: Key,
    version: Version,
    receiver: &'a Receiver,
    alike: &'a Alike<'a>,
}

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
        if receiver.poll_alike(alike, &mut &**input).is_none() || self.is_reserved(alike.topic()) {
            return RunEnd::Next;
        }
        let run = Run { connection: key, session, version, receiver, alike };
        let route = self.find_route(alike.topic());
        let mut end = RunEnd::Next;
        if route.cores.is_empty() && self.groups.is_empty() {
            let batch;
            (batch, end) = self.permitted(run, input);
            if alike.qos() == Qos::AtMostOnce && self.limits.message_expiry_max_seconds == 0 {
                self.pass_on(run, batch, &route.matches);
            } else if !self.go_through(run, batch, &route.matches) {
                self.answers.clear();
                end = RunEnd::Gone;
            }
        }
        if let Some(matches) = self.routes.give_back(route) {
            self.matches = matches;
        }
        end
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
    fn permitted<'i>(&mut self, run: Run<'_>, input: &mut &'i [u8]) -> (Batch<'i>, RunEnd) {
        let start = *input;
        let mut batch = Batch { bytes: &[], count: 0, longest: 0 };
        let (Some(connection), Some(session)) =
            (self.connections.get(run.connection), self.sessions.get(run.session))
        else {
            return (batch, RunEnd::Gone);
        };
        let Some(live) = connection.live() else { return (batch, RunEnd::Gone) };
        let (client_id, identity) = (&*session.client_id, live.identity());
        let (topic, qos, retain) = (run.alike.topic(), run.alike.qos(), false);
        let request = AuthorizeRequest::Publish { client_id, identity, topic, qos, retain };
        // Each may be owed an answer that has to wait.
        let most = match qos {
            Qos::AtMostOnce => usize::MAX,
            _ => (self.limits.pending_answers_max as usize).saturating_sub(connection.pending.len()),
        };
        let mut end = RunEnd::Next;
        while batch.count < most as u64 {
            let mut rest = *input;
            let Some((publish, bytes)) = run.receiver.poll_alike(run.alike, &mut rest) else { break };
            if publish.payload.len() >= SHARED_BYTES_MIN {
                break;
            }
            self.questions = self.questions.wrapping_add(1);
            let ticket =
                Ticket { core: self.core, connection: run.connection.into(), serial: self.questions };
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
            trace!(connection = run.connection.index, bytes = bytes.len(), "received one more PUBLISH");
            *input = rest;
            batch.count += 1;
            batch.longest = batch.longest.max(bytes.len());
        }
        batch.bytes = &start[..start.len() - input.len()];
        (batch, end)
    }

    /// QoS 0: each subscriber gets all of them at once, as they came.
    fn pass_on(&mut self, run: Run<'_>, batch: Batch<'_>, matches: &Matches) {
        self.stats.packets_received += batch.count;
        self.stats.messages_received += batch.count;
        if matches.subscribers.is_empty() {
            self.stats.messages_unmatched += batch.count;
        }
        for same in matches.sessions() {
            if let [one] = same
                && self.append_whole(one, batch, run)
            {
                continue;
            }
            let mut rest = batch.bytes;
            while let Some((publish, bytes)) = run.alike.split_first(run.version, &mut rest) {
                let mut outgoing = run.outgoing(&publish, bytes, None);
                self.deliver_to(same, &mut outgoing, Some(run.session), self.core);
            }
        }
    }

    /// Appends all of `batch` to the subscriber's output, if it gets just these bytes and has room for them.
    fn append_whole(&mut self, subscriber: &Subscriber, batch: Batch<'_>, run: Run<'_>) -> bool {
        let Some(key) = self.sessions.at(subscriber.key) else { return true };
        let Some(session) = self.sessions.get(key).filter(|session| session.queue_is_empty()) else {
            return false;
        };
        let is_own = subscriber.options.no_local && key == run.session;
        let Some(online) = session.connection().filter(|_| subscriber.identifier == 0 && !is_own) else {
            return false;
        };
        let Some(Connection { state: State::Live(live), output, .. }) = self.connections.get_mut(online)
        else {
            return false;
        };
        let sender = &live.sender;
        if sender.uses_topic_aliases()
            || sender.version().has_properties() != run.version.has_properties()
            || batch.longest > sender.maximum_packet_size() as usize
            || output.waiting() + batch.bytes.len() > self.limits.output_bytes_max as usize
        {
            return false;
        }
        if output.buffer.capacity() == 0 {
            output.buffer = self.buffers.pop().unwrap_or_default();
        }
        output.buffer.extend_from_slice(batch.bytes);
        if !core::mem::replace(&mut output.dirty, true) {
            self.dirty.push_back(online);
        }
        self.stats.messages_matched += batch.count;
        self.stats.messages_sent += batch.count;
        self.stats.messages_delivered += batch.count;
        true
    }

    /// Any QoS: one after the other; whether the connection is still there.
    fn go_through(&mut self, run: Run<'_>, batch: Batch<'_>, matches: &Matches) -> bool {
        let matched = !matches.subscribers.is_empty();
        let reason = if matched { ReasonCode::SUCCESS } else { ReasonCode::NO_MATCHING_SUBSCRIBERS };
        let expiry = bounded_expiry(None, self.limits.message_expiry_max_seconds);
        let expires_at = expiry.map(|seconds| self.now.millis + u64::from(seconds) * 1000);
        let mut rest = batch.bytes;
        while let Some((publish, bytes)) = run.alike.split_first(run.version, &mut rest) {
            self.stats.packets_received += 1;
            self.stats.messages_received += 1;
            if let Some(packet_id) = publish.packet_id {
                let from = (run.session, run.version);
                match self.refuse_arrival(run.connection, from, publish.qos, packet_id) {
                    None => {}
                    Some(Step::Next) => continue,
                    Some(_) => return false,
                }
            }
            let mut outgoing = run.outgoing(&publish, bytes, expires_at);
            self.deliver_to_all(matches, &mut outgoing, Some(run.session), self.core);
            self.stats.messages_unmatched += u64::from(!matched);
            if let Some(packet_id) = publish.packet_id {
                let routed = Routed { matched, commit: outgoing.commit, ..Routed::default() };
                self.acknowledge(run.connection, publish.qos, packet_id, reason, routed);
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
        let mut outgoing =
            Outgoing::new(MessageRef { topic, properties: &[], payload, qos, retain: false, expires_at });
        outgoing.received = Some(Received::plain(publish, bytes, self.version));
        outgoing
    }
}
