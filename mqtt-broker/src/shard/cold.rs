//! Queues of Clients that are away, in chunks outside memory: parked when there is too much in memory, and read back, a
//! chunk at a time, when the Client returns.
//!
//! What is parked comes before all that waits in memory, chunk by chunk. A chunk stays the truth until the last of its
//! messages is over: what was read of it is a copy, which is dropped when the Client leaves again. So a session has no
//! more than one chunk in memory, however much waits for it.
//!
//! Invariants: while a chunk is being written its messages wait in memory, and whatever takes one of them makes the chunk
//! void; what is in memory of a chunk is all of it that is not over. Lives on: the session's home core.

use ahash::RandomState;
use hashbrown::HashMap;
use mqtt_proto::types::Qos;
use tracing::error;

use super::Shard;
use super::contract::Now;
use super::queue::{Delivery, Queue};
use super::session::Session;
use super::stats::DropReason;
use super::table::Key;
use super::unreadable::Unreadable;
use crate::message::MessageRef;
use crate::ports::Commit;
use crate::store::cold::{Chunk, ChunkWriter, Loaded, Parked};
use crate::store::record::{Identifiers, Record};

/// The second chunk of a session has at least this share of a full one, the third twice as much and so on: a session that
/// gets a message now and then would have a chunk for each.
const CHUNK_PART_MIN: usize = 64;

/// Bytes of chunks that are asked for in one call, and sessions that are looked at for it.
const SLICE_BYTES: usize = 1024 * 1024;
pub(super) const SLICE_SESSIONS: u32 = 1024;

/// Milliseconds for which nothing is parked once a chunk could not be written.
const RETRY_MILLIS: u64 = 10_000;

/// What of a session's queue is not in memory, or is about to be so.
#[derive(Default)]
pub(super) struct Cold {
    pub(super) parked: Parked,
    /// The first chunk, as far as it is not over, while its Client takes it.
    loaded: Option<Box<Queue>>,
    /// The ticket under which a chunk is being written, while its Client is away, or read; 0 for none.
    asked: u64,
}

impl Cold {
    /// That of a session that has outlived the process.
    pub(super) fn restored(parked: &Parked) -> Cold {
        Cold { parked: parked.clone(), ..Cold::default() }
    }

    /// What is in memory of it costs this.
    pub(super) fn loaded_bytes(&self) -> usize {
        self.loaded.as_ref().map_or(0, |loaded| loaded.bytes())
    }

    /// No answer is waited for any more; whether there is nothing else to it.
    pub(super) fn stop(&mut self) -> bool {
        self.asked = 0;
        self.parked.is_empty()
    }

    pub(super) fn check_invariants(&self) {
        let Some(loaded) = &self.loaded else { return };
        loaded.check_invariants();
        let left = self.parked.first().map_or(0, |first| first.messages - self.parked.taken());
        debug_assert!(loaded.is_empty() || loaded.len() == left as usize);
    }
}

/// What this core asks for and has asked for.
pub(super) struct Parking {
    /// Who has asked, by ticket.
    asked: HashMap<u64, Ask, RandomState>,
    /// The sessions whose first chunk cannot be read.
    pub(super) unreadable: HashMap<Key, Unreadable, RandomState>,
    /// What the messages cost whose chunks are being written.
    under_way: u64,
    /// The place of the session that is looked at next.
    hand: u32,
    /// Whether the hand has found something since it was at the first.
    found: bool,
    /// Whether it has more to look at.
    pub(super) goes_on: bool,
    /// The queues' bytes from which on it is worth to look again: with fewer nobody had anything to park.
    look_from: u64,
    /// Monotonic milliseconds from which on it may be tried again.
    retry_at: u64,
}

struct Ask {
    session: Key,
    what: What,
}

enum What {
    /// A chunk of so many messages, which cost so much in memory.
    Park {
        messages: u32,
        cost: u64,
    },
    Load(Chunk),
    /// Whether it can be read again, for a Client that is not let in.
    Look(Chunk),
}

impl Parking {
    pub(super) fn new(hasher: RandomState) -> Parking {
        Parking {
            asked: HashMap::with_hasher(hasher.clone()),
            unreadable: HashMap::with_hasher(hasher),
            under_way: 0,
            hand: 0,
            found: false,
            goes_on: false,
            look_from: 0,
            retry_at: 0,
        }
    }
}

impl Shard {
    /// The chunk that was asked for under `ticket` is durable, or could not be written.
    pub fn chunk_parked(&mut self, ticket: u64, chunk: Option<Chunk>, now: Now) {
        self.now = now;
        let ask = self.parking.asked.remove(&ticket);
        if let Some(Ask { session, what: What::Park { messages, cost } }) = ask {
            self.parking.under_way -= cost;
            // It may have more, which the hand has gone past meanwhile.
            (self.parking.found, self.parking.look_from) = (true, 0);
            self.finish_parking(ticket, session, messages, chunk);
        }
        self.park_some();
        self.settle();
    }

    /// What became of reading the chunk that was asked for under `ticket`.
    pub fn chunk_loaded(&mut self, ticket: u64, loaded: Loaded, now: Now) {
        self.now = now;
        match self.parking.asked.remove(&ticket) {
            Some(Ask { session, what: What::Load(chunk) }) => {
                self.finish_loading(ticket, session, chunk, loaded);
            }
            Some(Ask { session, what: What::Look(chunk) }) => self.finish_look(session, chunk, &loaded),
            _ => {}
        }
        self.settle();
    }

    fn finish_parking(&mut self, ticket: u64, key: Key, messages: u32, chunk: Option<Chunk>) {
        let session = self.sessions.get_mut(key);
        let waits = |session: &&mut Session| session.cold().is_some_and(|cold| cold.asked == ticket);
        let session = session.filter(waits);
        let Some(chunk) = chunk else {
            self.parking.retry_at = self.now.millis + RETRY_MILLIS;
            return session.map_or((), Session::stop_parking);
        };
        let Some(session) = session else { return self.records.release(chunk, Commit::Now) };
        let (mut left, mut stay, mut cost) = (messages, Queue::default(), 0);
        if let Some(flight) = session.known_flight_mut() {
            while left > 0
                && let Some(delivery) = flight.queue.pop()
            {
                if delivery.qos != Qos::AtMostOnce && delivery.group().is_none() {
                    left -= 1;
                    cost += delivery.cost() as u64;
                } else {
                    stay.push(delivery);
                }
            }
            flight.queue.prepend(stay);
        }
        debug_assert_eq!(left, 0, "what takes one away makes the chunk void");
        self.stats.queue_bytes -= cost;
        self.stats.messages_parked += u64::from(messages);
        let cold = session.cold_mut();
        cold.asked = 0;
        cold.parked.push(chunk);
        session.rest(self.gates.committed());
        let client_id = &*session.client_id;
        self.records.append(self.now, &Record::Parked { client_id, chunk });
    }

    fn finish_loading(&mut self, ticket: u64, key: Key, chunk: Chunk, loaded: Loaded) {
        let (now, wall) = (self.now.millis, self.records.wall(self.now));
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(cold) = session.known_cold_mut().filter(|cold| cold.asked == ticket) else { return };
        cold.asked = 0;
        if cold.parked.first() != Some(chunk) {
            // A full queue has dropped all of it meanwhile, or it is in another place.
            return self.pump(key);
        }
        let taken = cold.parked.taken();
        let left = chunk.messages - taken;
        let messages = match loaded {
            Loaded::Messages(messages) => messages,
            Loaded::Unreadable(what) => return self.begin_to_refuse(key, chunk, left, &what),
            Loaded::Lost => {
                error!(
                    client_id = &*session.client_id,
                    messages = left,
                    "what waited for this Client is lost"
                );
                self.take_parked(key, left);
                self.stats.messages_kept -= u64::from(left);
                self.stats.dropped(DropReason::Lost, left.into());
                return self.pump(key);
            }
        };
        let mut loaded = Box::<Queue>::default();
        for stored in messages.iter().skip(taken as usize) {
            let message = match stored.message.expires_at() {
                None => stored.message.clone(),
                Some(at) => {
                    let expires_at = Some(now.saturating_add(at.saturating_sub(wall)));
                    MessageRef { expires_at, ..stored.message.as_ref() }.to_message()
                }
            };
            loaded.push(Delivery::new(message, stored.qos, stored.retain, stored.identifiers(), None));
        }
        self.stats.queue_bytes += loaded.bytes() as u64;
        cold.loaded = Some(loaded);
        self.pump(key);
    }

    /// Parks queues of Clients that are away if there is too much of them in memory: some now, others when these are
    /// written.
    pub(super) fn park_some(&mut self) {
        self.parking.goes_on = false;
        let bytes_max = self.limits.queue_memory_bytes_max;
        if bytes_max == 0 || self.stats.queue_bytes <= bytes_max {
            return;
        }
        let is_too_soon = self.now.millis < self.parking.retry_at
            || self.stats.queue_bytes < self.parking.look_from
            || self.records.are_full();
        if is_too_soon || self.records.cold().is_none() {
            return;
        }
        let mut bytes = 0;
        for _ in 0..SLICE_SESSIONS {
            if bytes >= SLICE_BYTES
                || self.stats.queue_bytes.saturating_sub(self.parking.under_way) <= bytes_max
            {
                return;
            }
            if self.parking.hand >= self.sessions.end() {
                self.parking.hand = 0;
                if !core::mem::take(&mut self.parking.found) {
                    if self.parking.under_way == 0 {
                        self.parking.look_from = self.stats.queue_bytes + bytes_max / 8;
                    }
                    return;
                }
            }
            if let Some(key) = self.sessions.at(self.parking.hand) {
                bytes += self.park(key);
            }
            self.parking.hand += 1;
        }
        // What is written now goes on when it is.
        self.parking.goes_on = bytes == 0;
    }

    /// Has the front of a session's queue parked, if its Client is away and it is worth it; bytes of the chunk.
    fn park(&mut self, key: Key) -> usize {
        let Some(chunk_bytes) = self.records.cold().map(|port| port.chunk_bytes()) else { return 0 };
        let Some(session) = self.sessions.get_mut(key) else { return 0 };
        let (asked, chunks) = session.cold().map_or((0, 0), |cold| (cold.asked, cold.parked.chunks().len()));
        let least = match chunks {
            0 => 1,
            _ => ((chunk_bytes / CHUNK_PART_MIN) << (chunks - 1).min(16)).min(chunk_bytes),
        };
        let is_away = session.connection().is_none() && session.is_persistent();
        let Some(flight) = session.known_flight().filter(|_| is_away && asked == 0) else { return 0 };
        if flight.queue.bytes() < least {
            return 0;
        }
        if session.take_left() {
            // Its Client may be back soon: those are parked first who were away on the last round already.
            self.parking.found = true;
            return 0;
        }
        let Some(flight) = session.known_flight() else { return 0 };
        let client_id = &*session.client_id;
        let (mut writer, mut cost) = (ChunkWriter::default(), 0);
        for delivery in flight.queue.iter() {
            if writer.len() >= chunk_bytes {
                break;
            }
            let (qos, retain, packet_id) = (delivery.qos, delivery.retain, None);
            if !session.records_waiting(qos, delivery.group()) {
                continue;
            }
            let mut message = delivery.message.as_ref();
            message.expires_at = message.expires_at.map(|at| self.records.wall_at(self.now, at));
            let identifiers = Identifiers::new(delivery.identifiers());
            writer.append(
                &Record::Message { message, publisher: 0, shared: false },
                &Record::Enqueued { client_id, qos, retain, identifiers, packet_id },
            );
            cost += delivery.cost() as u64;
        }
        if writer.is_empty() {
            return 0;
        }
        let (messages, records) = writer.finish();
        let bytes = records.len();
        self.next_token += 1;
        let ticket = self.next_token;
        session.cold_mut().asked = ticket;
        self.parking.found = true;
        self.parking.under_way += cost;
        self.parking.asked.insert(ticket, Ask { session: key, what: What::Park { messages, cost } });
        if let Some(port) = self.records.cold() {
            port.park(ticket, messages, records);
        }
        bytes
    }

    /// Sends the first of a session's parked messages, or asks for their chunk; whether there may be more to send now.
    pub(super) fn pump_parked(&mut self, key: Key) -> bool {
        let now = self.now.millis;
        let Some(session) = self.sessions.get_mut(key) else { return false };
        let can_start = session.flight().outbound.can_start();
        let Some(cold) = session.known_cold_mut() else { return true };
        let Some(first) = cold.loaded.as_ref().and_then(|loaded| loaded.front()) else {
            cold.loaded = None;
            match cold.parked.is_empty() {
                true => session.drop_cold(),
                false => self.load(key),
            }
            return !self.sessions.get(key).is_some_and(Session::is_cold);
        };
        if first.message.is_expired(now) {
            self.drop_parked(key, DropReason::Expired);
            return true;
        }
        if can_start && let Some(delivery) = self.take_parked(key, 1) {
            self.start(key, delivery, true);
        }
        can_start
    }

    /// Asks for the messages of the first chunk, unless they are on their way.
    fn load(&mut self, key: Key) {
        let Some(cold) = self.sessions.get_mut(key).and_then(Session::known_cold_mut) else { return };
        let Some(chunk) = cold.parked.first().filter(|_| cold.asked == 0) else { return };
        cold.asked = self.next_token + 1;
        self.ask_for(key, chunk, What::Load(chunk));
    }

    /// Asks whether the session's first chunk can be read, of which nothing is taken.
    pub(super) fn look(&mut self, key: Key) {
        let chunk = self.sessions.get(key).and_then(Session::cold).and_then(|cold| cold.parked.first());
        if let Some(chunk) = chunk {
            self.ask_for(key, chunk, What::Look(chunk));
        }
    }

    fn ask_for(&mut self, session: Key, chunk: Chunk, what: What) {
        self.next_token += 1;
        self.parking.asked.insert(self.next_token, Ask { session, what });
        if let Some(port) = self.records.cold() {
            port.load(self.next_token, chunk);
        }
    }

    /// So many parked messages are over or under way; the first of them, if it is in memory. They still count as kept.
    fn take_parked(&mut self, key: Key, count: u32) -> Option<Delivery> {
        let session = self.sessions.get_mut(key)?;
        let parked = &session.cold()?.parked;
        let ends_chunk = parked.first().is_some_and(|first| count >= first.messages - parked.taken());
        let taken = Record::Taken { client_id: &session.client_id, count };
        let mut commit = Commit::Now;
        match ends_chunk {
            true => commit = self.records.append(self.now, &taken),
            // If that is lost it waits in its chunk still, and is sent once more.
            false => self.records.append_later(self.now, &taken),
        }
        let cold = session.known_cold_mut()?;
        let records = &mut self.records;
        cold.parked.take(count.into(), |chunk| records.release(chunk, commit));
        self.stats.messages_parked -= u64::from(count);
        if ends_chunk {
            self.review_unreadable(key);
        }
        let cold = self.sessions.get_mut(key).and_then(Session::known_cold_mut)?;
        let delivery = cold.loaded.as_mut()?.pop()?;
        self.stats.queue_bytes -= delivery.cost() as u64;
        Some(delivery)
    }

    /// The first of the parked messages is not to be delivered.
    fn drop_parked(&mut self, key: Key, reason: DropReason) {
        self.take_parked(key, 1);
        self.stats.messages_kept -= 1;
        self.stats.dropped(reason, 1);
    }

    /// Makes room in a full queue by the oldest message if that is parked; not where it is memory that is full.
    pub(super) fn drop_oldest_parked(&mut self, key: Key, cost: usize) -> bool {
        let has_parked =
            self.sessions.get(key).and_then(Session::cold).is_some_and(|cold| !cold.parked.is_empty());
        let drops = has_parked && !self.memory_is_full(cost);
        if drops {
            self.drop_parked(key, DropReason::QueueFull);
        }
        drops
    }

    /// The session's Client is away: what was read for it is parked still.
    pub(super) fn unload(&mut self, key: Key) {
        let Some(cold) = self.sessions.get_mut(key).and_then(Session::known_cold_mut) else { return };
        self.stats.queue_bytes -= cold.loaded_bytes() as u64;
        cold.loaded = None;
        if let Some(session) = self.sessions.get_mut(key) {
            session.stop_parking();
        }
    }

    /// The session has ended, of which the store is told at `commit`.
    pub(super) fn release_parked(&mut self, session: &Session, commit: Commit) {
        let Some(cold) = session.cold() else { return };
        self.stats.messages_parked -= cold.parked.messages();
        cold.parked.chunks().for_each(|chunk| self.records.release(chunk, commit));
    }
}
