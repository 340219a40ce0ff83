//! The state that records add up to: what a core keeps beyond the process.
//!
//! An [`Image`] starts empty and takes records in the order of the log, by [`Image::apply`]. With a snapshot it takes
//! the snapshot's records first, by [`Image::apply_snapshot`], and then the log from where the snapshot was begun.
//!
//! A snapshot is written piece by piece while the broker runs, each session at once. Therefore a session's records in the
//! log count only behind the one as of which the snapshot has it. Everything else has a name or a number of its own, and
//! its last record decides: that may be in a snapshot and come once more. What a snapshot does not have and the log does
//! not make has ended since: its records are passed over.
//!
//! Invariant: whatever the records and their order, the answer is an image or an error, never a panic.

mod apply;
mod deal;
mod expire;
mod group;
mod named;
mod session;
mod snapshot;
mod subscriptions;

use std::collections::{BTreeMap, VecDeque};

use ahash::RandomState;

use self::group::Groups;
use self::named::{HasName, Named};
use self::session::Presence;
use crate::message::Message;
use crate::router::Retainable;
use crate::store::cold::{Chunk, Parked};

pub use deal::Home;
pub use group::{Group, GroupMessage};
pub use session::{Delivery, Session, Will};
pub use snapshot::SnapshotMessages;
pub(crate) use snapshot::write_parked;
pub use subscriptions::{Subscription, Subscriptions};

/// The stored state of one core. All its times are wall time: milliseconds since the beginning of 1970.
pub struct Image {
    seed: [u64; 4],
    sessions: Named<Session>,
    retained: Named<Message>,
    groups: Groups,
    /// In the order of their numbers.
    pending: VecDeque<Pending>,
    /// By the core that hands on: the last number that was taken.
    handled: BTreeMap<u16, u64>,
    /// By the core of a shared group: the numbers of the messages that sessions of this core have begun, as they were told.
    begun: BTreeMap<u16, Vec<u64>>,
    last_number: u64,
    /// When the broker was started, each time that the log tells of.
    starts: Vec<u64>,
    /// The starts that mean nothing for a session any more, in order: they count for Wills.
    earlier_starts: Vec<u64>,
    last_time: u64,
    /// What the next records mean by "the message", and its publisher's hash.
    last: Option<(Message, u32)>,
    /// The messages of a snapshot that come more than once, while it is read.
    shared: Vec<Message>,
    /// The session that a snapshot told last.
    told: String,
    /// Something was not read: in a snapshot nobody knows how many shared messages.
    has_gap: bool,
    /// The same, right before the next record.
    is_behind_gap: bool,
    /// In a snapshot: no session was begun since.
    is_headless: bool,
}

/// A message that other cores are yet to take.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Its number at the core that hands it on.
    pub number: u64,
    /// The message; it expires by wall time.
    pub message: Message,
    /// A hash of the publisher's ClientID where shared groups go by Client, else 0.
    pub publisher: u32,
}

/// An image taken apart, for who goes on with it.
#[derive(Debug)]
pub struct Parts {
    /// When the broker was started, as far as that is known, in order. The last one is the present start.
    pub starts: Vec<u64>,
    /// All sessions.
    pub sessions: Vec<Session>,
    /// The retained messages, as a rule in the order in which a snapshot told them.
    pub retained: Vec<Message>,
    /// The shared groups that have messages, by their whole filters.
    pub groups: BTreeMap<Box<str>, Group>,
    /// The messages that other cores are yet to take, in the order in which they are handed on.
    pub pending: VecDeque<Pending>,
    /// By the core that hands on: the last number that was taken.
    pub handled: BTreeMap<u16, u64>,
    /// By the core of a shared group: the numbers of the messages that sessions of this core have begun.
    pub begun: BTreeMap<u16, Vec<u64>>,
    /// The highest number that this core has given to a message that it hands on or keeps for a group.
    pub last_number: u64,
}

/// A record that leans on another that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {seq} keeps a message, and there is none before it")]
pub struct MissingMessage {
    /// The record's number in the log; in a snapshot, as of which it holds.
    pub seq: u64,
}

impl HasName for Session {
    fn name(&self) -> &[u8] {
        self.client_id().as_bytes()
    }
}

impl HasName for Message {
    fn name(&self) -> &[u8] {
        self.topic_bytes()
    }
}

impl Image {
    /// Nothing; `seed` keys the hashes.
    pub fn new(seed: [u64; 4]) -> Image {
        let hasher = RandomState::with_seeds(seed[0], seed[1], seed[2], seed[3]);
        Image {
            seed,
            sessions: Named::new(hasher.clone()),
            retained: Named::new(hasher),
            groups: Groups::default(),
            pending: VecDeque::new(),
            handled: BTreeMap::new(),
            begun: BTreeMap::new(),
            last_number: 0,
            starts: Vec::new(),
            earlier_starts: Vec::new(),
            last_time: 0,
            last: None,
            shared: Vec::new(),
            told: String::new(),
            has_gap: false,
            is_behind_gap: false,
            is_headless: false,
        }
    }

    /// Takes it apart. Each session knows by itself then since when its Client has been away.
    pub fn into_parts(mut self) -> Parts {
        self.forget_starts();
        Parts {
            starts: self.earlier_starts,
            sessions: self.sessions.into_list(),
            retained: self.retained.into_list(),
            groups: self.groups.0,
            pending: self.pending,
            handled: self.handled,
            begun: self.begun,
            last_number: self.last_number,
        }
    }

    /// Tells each session what the starts meant for it.
    fn forget_starts(&mut self) {
        let starts = std::mem::take(&mut self.starts);
        for session in self.sessions.iter_mut() {
            session.presence = session.presence.since(&starts).map_or(Presence::Connected(0), Presence::Away);
        }
        self.earlier_starts.extend(starts);
    }

    /// When the broker was started, as far as that is known, in order.
    fn all_starts(&self) -> impl Iterator<Item = u64> {
        self.earlier_starts.iter().chain(&self.starts).copied()
    }

    /// How many sessions there are.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// All sessions, in no order that means anything.
    pub fn sessions(&self) -> impl ExactSizeIterator<Item = &Session> {
        self.sessions.iter()
    }

    /// The session of this ClientID.
    pub fn find_session(&self, client_id: &str) -> Option<&Session> {
        self.sessions.get(client_id)
    }

    /// The chunks of all sessions.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk> {
        self.sessions().filter_map(Session::parked).flat_map(Parked::chunks)
    }

    /// Gives up the chunks for which `keeps` is false; it is asked about each with the ClientID and how many messages still
    /// wait there.
    pub fn retain_parked(&mut self, mut keeps: impl FnMut(&str, Chunk, u32) -> bool) {
        self.sessions.iter_mut().for_each(|session| session.retain_parked(&mut keeps));
    }

    /// Since when the session's Client has been away; `None` if it was connected at the end of the log.
    pub fn away_since(&self, session: &Session) -> Option<u64> {
        session.presence.since(&self.starts)
    }

    /// The retained messages, as a rule in the order in which a snapshot told them.
    pub fn retained(&self) -> impl ExactSizeIterator<Item = &Message> {
        self.retained.iter()
    }

    /// The retained message of `topic`.
    pub fn find_retained(&self, topic: &str) -> Option<&Message> {
        self.retained.get(topic)
    }

    /// The shared groups that have messages, by their whole filters.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = (&str, &Group)> {
        self.groups.0.iter().map(|(name, group)| (&**name, group))
    }

    /// The messages that other cores are yet to take, in the order in which they are handed on.
    pub fn pending(&self) -> impl ExactSizeIterator<Item = &Pending> {
        self.pending.iter()
    }

    /// The last number that was taken of what `core` hands on; 0 for none.
    pub fn handled(&self, core: u16) -> u64 {
        self.handled.get(&core).copied().unwrap_or(0)
    }

    /// The numbers of the messages that sessions of this core have begun of shared groups of `core`, as they were told: one
    /// may be there twice, or be over.
    pub fn begun(&self, core: u16) -> &[u64] {
        self.begun.get(&core).map_or(&[], |numbers| numbers)
    }

    /// The highest number that this core has given to a message that it hands on or keeps for a group. New ones are
    /// higher.
    pub fn last_number(&self) -> u64 {
        self.last_number
    }

    /// The latest time that the records tell.
    pub fn last_time(&self) -> u64 {
        self.last_time
    }
}
