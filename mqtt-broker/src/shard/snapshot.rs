//! This core's state as the records of a snapshot, in slices between which the broker goes on.
//!
//! Invariant: what is told of a session, or of a retained message, is told within one call, as it is then. Retained messages
//! come in the order of their topics, which is the order that is cheapest to put them back in.

use mqtt_proto::types::PacketId;

use super::Shard;
use super::contract::Now;
use super::queue::Delivery;
use super::records::Records;
use super::session::Session;
use super::table::Key;
use crate::message::Message;
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
    /// The place of the next session.
    session: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Core,
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
        let SnapshotPosition { stage, messages, topic, session } = position;
        let (records, now) = (&self.records, self.now);
        let mut slice = Slice { sink, messages, records, now, bytes: 0 };
        if *stage == Stage::Core {
            slice.tell(&Record::Time { at: records.wall(now) });
            *stage = Stage::Retained;
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
                slice.message(message);
                slice.tell(&Record::Retained);
            };
            if let Some(last) = last {
                topic.clear();
                topic.push_str(last.topic());
            }
        }
        let (sessions, subscriptions) = (&mut self.sessions, &self.subscriptions);
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
                tell_session(key, state, subscriptions, &mut slice);
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
    let told = |packet_id: &PacketId| !flight.untold.contains(packet_id);
    for packet_id in flight.inbound.awaiting_pubrel().filter(told) {
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
    let of = |at: u64, seconds: u32| (at, u64::from(seconds) * 1000);
    let will = session.will().and_then(|will| Some(of(will.due_at?, will.delay_seconds)));
    let end = session.ends_at().map(|at| of(at, session.expiry_seconds));
    let (at, interval) = will.or(end).unwrap_or((slice.now.millis, 0));
    let wall = slice.records.wall(slice.now);
    (wall + at).saturating_sub(slice.now.millis + interval).min(wall)
}
