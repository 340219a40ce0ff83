//! This core's state as the records of a snapshot, in slices between which the broker goes on.
//!
//! Invariant: what is told of a session, of a message of a shared group, or of a retained one, is told within one call, as it
//! is then. Retained messages come in the order of their topics, which is the order that is cheapest to put them back in.

use mqtt_proto::types::PacketId;

use super::Shard;
use super::connection::Connection;
use super::contract::Now;
use super::queue::Delivery;
use super::records::Records;
use super::retained::outlives;
use super::session::Session;
use super::table::Key;
use crate::message::{Message, MessageRef};
use crate::router::Retainable;
use crate::store::image::{SnapshotMessages, write_parked};
use crate::store::record::{Identifiers, Record};

/// How far a snapshot has got.
#[derive(Debug, Default)]
pub struct SnapshotPosition {
    stage: Stage,
    /// The messages that may be told again.
    messages: SnapshotMessages,
    /// The topic of the last retained message that was told.
    topic: String,
    /// The last that was told of what sessions have begun.
    begun: (u16, u64),
    /// The place of the shared group that is being told.
    group: usize,
    /// The number of the last message that was told, of those that other cores are yet to take and then of the group's.
    number: u64,
    /// The place of the next session.
    session: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Core,
    Begun,
    Pending,
    Groups,
    Retained,
    Sessions,
    Done,
}

/// What a record counts for beside its message.
const RECORD_BYTES: usize = 32;

/// Takes what a slice tells, and how much that is.
struct Slice<'s> {
    sink: &'s mut dyn FnMut(&Record<'_>),
    messages: &'s mut SnapshotMessages,
    records: &'s Records,
    now: Now,
    bytes: usize,
}

impl Slice<'_> {
    fn tell(&mut self, record: &Record<'_>) {
        self.bytes += RECORD_BYTES;
        (self.sink)(record);
    }

    /// Tells a message that the next record keeps: in full if it is the first time.
    fn message(&mut self, message: &Message) {
        let mut record = self.messages.record(message);
        if let Record::Message { message, .. } = &mut record {
            message.expires_at = message.expires_at.map(|at| self.records.wall_at(self.now, at));
            self.bytes += message.len();
        }
        self.tell(&record);
    }

    /// Tells messages of a group and moves `number` on to the last of them; whether those were all.
    ///
    /// Each stands for itself under its number, so that a group need not be told within one call.
    fn group<'m>(
        &mut self,
        group: &str,
        kept: impl Iterator<Item = (u64, &'m Message)>,
        bytes: usize,
        number: &mut u64,
    ) -> bool {
        for (next, message) in kept {
            self.message(message);
            self.tell(&Record::GroupQueued { group, number: next });
            *number = next;
            if self.bytes >= bytes {
                return false;
            }
        }
        // A look at a place costs something, whether or not there is a message.
        self.bytes += 1;
        true
    }

    fn pending(&mut self, number: u64, publisher: u32, message: &Message) {
        let message = message.as_ref();
        let expires_at = message.expires_at.map(|at| self.records.wall_at(self.now, at));
        let message = MessageRef { expires_at, ..message };
        self.bytes += message.len();
        self.tell(&Record::Message { message, publisher, shared: false });
        self.tell(&Record::HandOn { number });
    }

    fn delivery(&mut self, client_id: &str, delivery: &Delivery, packet_id: Option<PacketId>) {
        self.message(&delivery.message);
        let (qos, retain) = (delivery.qos, delivery.retain);
        let identifiers = Identifiers::new(delivery.identifiers());
        self.tell(&Record::Enqueued { client_id, qos, retain, identifiers, packet_id });
    }
}

impl Shard {
    /// Tells `sink` about `bytes` bytes of records of a snapshot, beginning at `position`, which is moved on; whether that
    /// was the last of them.
    ///
    /// All that is told in one call holds as of the last record that was appended before it.
    pub fn write_snapshot(
        &mut self,
        position: &mut SnapshotPosition,
        bytes: usize,
        sink: &mut dyn FnMut(&Record<'_>),
    ) -> bool {
        let SnapshotPosition { stage, messages, topic, begun, group, number, session } = position;
        let (records, now) = (&self.records, self.now);
        let grace = u64::from(self.limits.restart_grace_seconds) * 1000;
        let mut slice = Slice { sink, messages, records, now, bytes: 0 };
        if *stage == Stage::Core {
            slice.tell(&Record::Time { at: records.wall(now) });
            for &at in self.starts.iter().filter(|&&at| at + grace > records.wall(now)) {
                slice.tell(&Record::Started { at });
            }
            // It is behind what is pending below: the numbers have got as far as that.
            slice.tell(&Record::HandedOn { number: self.handover.last_number() });
            for (core, number) in self.handover.handled() {
                slice.tell(&Record::Handled { core, number });
            }
            *stage = Stage::Begun;
        }
        if *stage == Stage::Begun {
            let mut behind = self.begun.behind(*begun);
            *stage = loop {
                if slice.bytes >= bytes {
                    break Stage::Begun;
                }
                let Some((core, number)) = behind.next() else { break Stage::Pending };
                *begun = (core, number);
                slice.tell(&Record::GroupBegun { core, number });
            };
        }
        if *stage == Stage::Pending {
            let mut behind = self.handover.pending_behind(*number);
            *stage = loop {
                if slice.bytes >= bytes {
                    break Stage::Pending;
                }
                let Some((next, publisher, message)) = behind.next() else { break Stage::Groups };
                *number = next;
                slice.pending(next, publisher, message);
            };
            if *stage == Stage::Groups {
                *number = 0;
            }
        }
        while *stage == Stage::Groups && slice.bytes < bytes {
            let Some((name, kept)) = self.groups.recorded_behind(*group, *number) else {
                *stage = Stage::Retained;
                break;
            };
            if slice.group(name, kept, bytes, number) {
                (*group, *number) = (*group + 1, 0);
            }
        }
        if *stage == Stage::Retained {
            let mut last = None;
            let mut behind = self.retained.iter_behind(topic);
            *stage = loop {
                if slice.bytes >= bytes {
                    break Stage::Retained;
                }
                let Some(message) = behind.next() else { break Stage::Sessions };
                last = Some(message);
                if outlives(message.topic()) {
                    slice.message(message);
                    slice.tell(&Record::Retained);
                }
            };
            if let Some(last) = last {
                topic.clear();
                topic.push_str(last.topic());
            }
        }
        let (sessions, subscriptions) = (&mut self.sessions, &self.subscriptions);
        let connections = &self.connections;
        while *stage == Stage::Sessions && slice.bytes < bytes {
            if *session >= sessions.end() {
                *stage = Stage::Done;
                break;
            }
            // A look at a place costs something, whether or not there is a session.
            slice.bytes += 1;
            if let Some(key) = sessions.at(*session)
                && let Some(state) = sessions.get_mut(key)
                && state.is_recorded()
            {
                let connection = state.connection().and_then(|connection| connections.get(connection));
                tell_session(key, state, subscriptions, connection, &mut slice);
            }
            *session += 1;
        }
        *stage == Stage::Done
    }
}

fn tell_session(
    key: Key,
    session: &mut Session,
    subscriptions: &crate::router::Subscriptions,
    connection: Option<&Connection>,
    slice: &mut Slice<'_>,
) {
    let (expiry_seconds, next_packet_id) = (session.expiry_seconds, session.next_packet_id());
    let client_id = &*session.client_id;
    slice.tell(&Record::Opened { client_id, expiry_seconds, next_packet_id });
    if session.connection().is_none() {
        let at = away_since(session, slice);
        slice.tell(&Record::Closed { client_id, at });
    }
    if let Some(will) = session.will() {
        slice.message(&will.message);
        let (delay_seconds, expiry_seconds) = (will.delay_seconds, will.expiry_seconds);
        slice.tell(&Record::Will { client_id, delay_seconds, expiry_seconds });
    }
    if !session.is_persistent() {
        return;
    }
    for &id in session.filters() {
        let Some(subscriber) = subscriptions.get(id, key.index) else { continue };
        let (filter, options) = (subscriptions.filter_text(id), subscriber.options);
        let identifier = subscriber.identifier;
        slice.tell(&Record::Subscribed { client_id, filter, options, identifier });
    }
    for (filter, membership) in session.memberships().into_iter().flatten() {
        let (options, identifier) = (membership.options, membership.identifier);
        slice.tell(&Record::Subscribed { client_id, filter, options, identifier });
    }
    write_parked(client_id, session.cold().map(|cold| &cold.parked), |record| slice.tell(record));
    let Some(flight) = session.known_flight() else { return };
    // What is to be refused has not come: sent again behind a crash, it is judged again.
    let refused = |packet_id: &PacketId| connection.is_some_and(|connection| connection.refuses(*packet_id));
    for packet_id in flight.inbound.awaiting_pubrel().filter(|packet_id| !refused(packet_id)) {
        slice.tell(&Record::Received { client_id, packet_id });
    }
    for (packet_id, _, delivery) in flight.outbound.iter() {
        match delivery {
            Some(delivery) if session.records_sent(delivery.qos, delivery.group()) => {
                slice.delivery(client_id, delivery, Some(packet_id));
            }
            Some(_) => {}
            None => slice.tell(&Record::Released { client_id, packet_id }),
        }
    }
    for delivery in flight.queue.iter() {
        if session.records_waiting(delivery.qos, delivery.group()) {
            slice.delivery(client_id, delivery, None);
        }
    }
}

/// Since when the session's Client is away, by wall time. Of one that never ends that is of no account but for a Will.
fn away_since(session: &Session, slice: &Slice<'_>) -> u64 {
    if let Some(will) = session.will() {
        return will.away_since;
    }
    let end = session.ends_at().map(|at| (at, u64::from(session.expiry_seconds) * 1000));
    let (at, interval) = end.unwrap_or((slice.now.millis, 0));
    let wall = slice.records.wall(slice.now);
    (wall + at).saturating_sub(slice.now.millis + interval).min(wall)
}
