//! What the shard tells its store: records, each message once for all that keep it in a row.
//!
//! Invariant: a record that keeps a message comes behind the [`Record::Message`] that tells it, with no other message
//! between. Lives on: each core.

use mqtt_proto::types::{PacketId, Qos};

use super::contract::Now;
use super::deliver::{How, Outgoing};
use crate::message::MessageRef;
use crate::ports::{Cold, Commit, Store, StoreStatus};
use crate::store::cold::Chunk;
use crate::store::record::{Identifiers, Record};

/// Wall time is told once in so many milliseconds at most.
const TIME_EVERY: u64 = 1000;

/// Ordinary records are refused once the store has not so many bytes left.
const ROOM_BYTES: usize = 64 * 1024;

/// The store of this core, and what it was told last.
pub(super) struct Records {
    store: Box<dyn Store>,
    /// Counts the messages that were told.
    messages: u64,
    /// The wall time that was told last.
    told: u64,
    /// What wall time lacked at the start of the latest time that the store knew.
    lacking: u64,
    /// Whether the store was full when it was asked last.
    full: bool,
    /// And had no room for what is over.
    stuck: bool,
    /// Whether more than so many bytes waited to be written, and not yet half of them were.
    behind: bool,
    waiting_max: u64,
    /// Whether anything outlives the process.
    keeps: bool,
    /// The position of the last record that somebody may wait for.
    last: u64,
}

impl Records {
    pub(super) fn new(store: Box<dyn Store>, waiting_max: u32) -> Records {
        let keeps = store.keeps();
        let waiting_max = waiting_max.into();
        Records {
            store,
            messages: 0,
            told: 0,
            lacking: 0,
            full: false,
            stuck: false,
            behind: false,
            waiting_max,
            keeps,
            last: 0,
        }
    }

    /// Whether anything that is told outlives the process.
    pub(super) fn keep_anything(&self) -> bool {
        self.keeps
    }

    /// Wall time as records tell it: it never goes back behind what the store knows.
    pub(super) fn wall(&self, now: Now) -> u64 {
        now.wall_millis + self.lacking
    }

    /// The wall time at the monotonic time `at`, which lies ahead, or behind for what is under way although its time is over.
    pub(super) fn wall_at(&self, now: Now, at: u64) -> u64 {
        self.wall(now).saturating_add(at).saturating_sub(now.millis)
    }

    /// The store knows of the time `last`.
    pub(super) fn begin_at(&mut self, last: u64, now: Now) {
        self.lacking = last.saturating_sub(now.wall_millis);
        self.told = last;
    }

    pub(super) fn append(&mut self, now: Now, record: &Record<'_>) -> Commit {
        self.tell_time(now);
        let commit = self.store.append(record);
        if let Commit::At(position) = commit {
            self.last = position;
        }
        self.look_for_room();
        commit
    }

    /// When all is there that was appended for somebody to wait for.
    pub(super) fn all(&self) -> Commit {
        Commit::At(self.last)
    }

    /// Appends a record that nobody waits for: it need not be on the disk soon.
    pub(super) fn append_later(&mut self, now: Now, record: &Record<'_>) {
        self.tell_time(now);
        self.store.append_later(record);
        self.look_for_room();
    }

    fn tell_time(&mut self, now: Now) {
        self.tell_time_after(now, TIME_EVERY);
    }

    /// Tells wall time unless it was told within so many milliseconds.
    fn tell_time_after(&mut self, now: Now, millis: u64) {
        let at = self.wall(now);
        if at >= self.told + millis {
            self.told = at;
            self.store.append_later(&Record::Time { at });
        }
    }

    /// What there is to say of the store.
    pub(super) fn status(&self) -> StoreStatus {
        self.store.status()
    }

    /// Where queues are kept outside memory.
    pub(super) fn cold(&mut self) -> Option<&mut dyn Cold> {
        self.store.cold()
    }

    /// Nobody needs the chunk once `commit` is there.
    pub(super) fn release(&mut self, chunk: Chunk, commit: Commit) {
        if let Some(cold) = self.store.cold() {
            cold.release(chunk, commit);
        }
    }

    /// Asks once more whether there is room, and how much waits.
    pub(super) fn look_for_room(&mut self) {
        self.full = !self.store.has_room(ROOM_BYTES);
        self.stuck = self.full && !self.store.has_reserve();
        // One that is full refuses, and then nobody has to wait.
        let most = if self.behind { self.waiting_max / 2 } else { self.waiting_max };
        self.behind = !self.full && (self.store.waiting_bytes() > most || self.store.is_short());
    }

    /// Whether so much waits to be written that whoever adds to it has to wait.
    #[inline]
    pub(super) fn are_behind(&self) -> bool {
        self.behind
    }

    /// Whether there is no room for ordinary records of no particular length.
    #[inline]
    pub(super) fn are_full(&self) -> bool {
        self.full
    }

    /// Whether there is no room for records of what is over either.
    pub(super) fn are_stuck(&self) -> bool {
        self.stuck
    }

    /// Whether there is no room for ordinary records of so many bytes.
    pub(super) fn lack_room(&self, bytes: usize) -> bool {
        self.full || bytes > ROOM_BYTES / 2 && !self.store.has_room(bytes + ROOM_BYTES)
    }

    /// Tells `message`, which expires by monotonic time; its number.
    fn tell(&mut self, now: Now, message: &MessageRef<'_>, publisher: u32) -> u64 {
        let expires_at = message.expires_at.map(|at| self.wall_at(now, at));
        if expires_at.is_some() {
            // A start takes time up from what was told if the clock is behind: no message may have more time left than it came
            // with [MQTT-3.3.2-6].
            self.tell_time_after(now, 1);
        }
        let message = MessageRef { expires_at, ..*message };
        self.append_later(now, &Record::Message { message, publisher, shared: false });
        self.messages += 1;
        self.messages
    }

    /// Appends a record that keeps `message`.
    pub(super) fn keep(&mut self, now: Now, message: &MessageRef<'_>, record: &Record<'_>) -> Commit {
        self.tell(now, message, 0);
        self.append(now, record)
    }

    /// Appends a record that keeps the message at hand, which is told unless it was told last. Nobody waits for one of
    /// QoS 0, which promises nothing.
    pub(super) fn keep_outgoing(
        &mut self,
        now: Now,
        outgoing: &mut Outgoing<'_>,
        record: &Record<'_>,
    ) -> Commit {
        if outgoing.told == 0 || outgoing.told != self.messages {
            outgoing.told = self.tell(now, &outgoing.message, outgoing.publisher);
        }
        if outgoing.message.qos == Qos::AtMostOnce {
            self.append_later(now, record);
            return Commit::Now;
        }
        let commit = self.append(now, record);
        outgoing.wait_for(commit);
        commit
    }

    /// Appends a record that keeps `message` and that nobody waits for.
    pub(super) fn keep_later(&mut self, now: Now, message: &MessageRef<'_>, record: &Record<'_>) -> Commit {
        self.tell(now, message, 0);
        self.append_later(now, record);
        Commit::Now
    }

    /// The message at hand is kept for a session: it waits, or was sent under `packet_id`.
    pub(super) fn enqueued(
        &mut self,
        now: Now,
        outgoing: &mut Outgoing<'_>,
        client_id: &str,
        how: &How<'_>,
        packet_id: Option<PacketId>,
    ) -> Commit {
        let identifiers = Identifiers::new(how.identifiers);
        let record = Record::Enqueued { client_id, qos: how.qos, retain: how.retain, identifiers, packet_id };
        self.keep_outgoing(now, outgoing, &record)
    }
}
