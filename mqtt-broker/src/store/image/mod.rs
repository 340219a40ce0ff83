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

mod deal;
mod expire;
mod group;
mod named;
mod session;
mod snapshot;
mod subscriptions;

use std::collections::{BTreeMap, VecDeque};

use ahash::RandomState;
use mqtt_proto::types::PacketId;

use self::group::Groups;
use self::named::{HasName, Named};
use self::session::Presence;
use super::record::Record;
use crate::message::Message;
use crate::router::Retainable;

pub use deal::Home;
pub use group::{Bound, Group, GroupMessage};
pub use session::{Delivery, Session, Will};
pub use snapshot::SnapshotMessages;
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
    last_number: u64,
    /// When the broker was started, each time that the log tells of.
    starts: Vec<u64>,
    last_time: u64,
    /// What the next records mean by "the message", and its publisher's hash.
    last: Option<(Message, u32)>,
    /// The messages of a snapshot that come more than once, while it is read.
    shared: Vec<Message>,
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

/// Stands for the number of a snapshot's record: everything in it is to be taken.
const SNAPSHOT: u64 = u64::MAX;

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
            last_number: 0,
            starts: Vec::new(),
            last_time: 0,
            last: None,
            shared: Vec::new(),
        }
    }

    /// Takes the record `seq` of the log, behind all those before it. The first has number 1 or a higher one.
    ///
    /// # Errors
    /// [`MissingMessage`] if it keeps a message and none was told.
    pub fn apply(&mut self, seq: u64, record: &Record<'_>) -> Result<(), MissingMessage> {
        if !self.shared.is_empty() {
            self.shared = Vec::new();
        }
        self.take(seq, record)
    }

    /// Takes a record of a snapshot that holds as of `as_of`, before the log.
    ///
    /// # Errors
    /// [`MissingMessage`] if it keeps a message and none was told.
    pub fn apply_snapshot(&mut self, as_of: u64, record: &Record<'_>) -> Result<(), MissingMessage> {
        match *record {
            Record::Message { message, publisher, shared: true } => {
                let message = message.to_message();
                self.shared.push(message.clone());
                self.last = Some((message, publisher));
                Ok(())
            }
            Record::Again { number } => {
                let message = self.shared.get(number as usize).ok_or(MissingMessage { seq: as_of })?;
                self.last = Some((message.clone(), 0));
                Ok(())
            }
            Record::Opened { client_id, .. } => {
                // One that ended and came again while the snapshot was written is in it twice: the last time counts.
                self.sessions.remove(client_id);
                self.take(SNAPSHOT, record)?;
                if let Some(session) = self.sessions.get_mut(client_id) {
                    session.as_of = as_of;
                }
                Ok(())
            }
            _ => self.take(SNAPSHOT, record),
        }
        .map_err(|_| MissingMessage { seq: as_of })
    }

    fn take(&mut self, seq: u64, record: &Record<'_>) -> Result<(), MissingMessage> {
        match *record {
            Record::Started { at } => {
                self.starts.push(at);
                self.last_time = self.last_time.max(at);
            }
            Record::Time { at } => self.last_time = self.last_time.max(at),
            Record::Message { message, publisher, .. } => {
                self.last = Some((message.to_message(), publisher));
            }
            Record::Again { .. } => return Err(MissingMessage { seq }),
            Record::Opened { client_id, expiry_seconds, next_packet_id } => {
                self.open(seq, client_id, expiry_seconds, next_packet_id);
            }
            Record::Expiry { client_id, expiry_seconds } => {
                self.with(seq, client_id, |session| session.expiry_seconds = expiry_seconds);
            }
            Record::Closed { client_id, at } => {
                self.last_time = self.last_time.max(at);
                self.with(seq, client_id, |session| session.presence = Presence::Away(at));
            }
            Record::Ended { client_id } => {
                if self.session(seq, client_id).is_some() {
                    self.sessions.remove(client_id);
                }
            }
            Record::Subscribed { client_id, filter, options, identifier } => {
                let subscription = Subscription { options, identifier };
                self.with(seq, client_id, |session| session.subscriptions.insert(filter, subscription));
            }
            Record::Unsubscribed { client_id, filter } => {
                self.with(seq, client_id, |session| session.subscriptions.remove(filter));
            }
            Record::Enqueued { client_id, qos, retain, identifiers, packet_id } => {
                let message = self.message(seq)?.clone();
                self.with(seq, client_id, |session| {
                    let delivery = Delivery::new(message, qos, retain, identifiers);
                    match packet_id {
                        Some(packet_id) => {
                            session.start(delivery, packet_id);
                            go_on_behind(seq, session, packet_id);
                        }
                        None => session.enqueue(delivery),
                    }
                });
            }
            Record::Sent { client_id, packet_id } => {
                self.with(seq, client_id, |session| {
                    session.start_first(packet_id);
                    go_on_behind(seq, session, packet_id);
                });
            }
            Record::Dropped { client_id, place } => {
                self.with(seq, client_id, |session| session.drop_waiting(place));
            }
            Record::Acknowledged { client_id, packet_id } => {
                self.with(seq, client_id, |session| session.finish(packet_id));
            }
            Record::Released { client_id, packet_id } => {
                self.with(seq, client_id, |session| session.release(packet_id));
            }
            Record::Received { client_id, packet_id } => {
                self.with(seq, client_id, |session| session.receive(packet_id));
            }
            Record::Completed { client_id, packet_id } => {
                self.with(seq, client_id, |session| session.complete(packet_id));
            }
            Record::Will { client_id, delay_seconds, expiry_seconds } => {
                let message = self.message(seq)?.clone();
                self.with(seq, client_id, |session| {
                    session.will = Some(Box::new(Will { message, delay_seconds, expiry_seconds }));
                });
            }
            Record::WillRemoved { client_id } => self.with(seq, client_id, |session| session.will = None),
            Record::Retained => {
                let (message, _) = self.last.as_ref().ok_or(MissingMessage { seq })?;
                self.retained.insert(message.with(message.qos(), true));
            }
            Record::RetainedRemoved { topic } => self.retained.remove(topic),
            Record::HandOn { number } => self.hand_on(seq, number)?,
            Record::HandedOn { number } => {
                self.last_number = self.last_number.max(number);
                if let Ok(place) = self.pending.binary_search_by_key(&number, |pending| pending.number) {
                    self.pending.remove(place);
                }
            }
            Record::Handled { core, number } => {
                let handled = self.handled.entry(core).or_default();
                *handled = number.max(*handled);
            }
            Record::GroupQueued { group, number } => {
                let message = self.message(seq)?.clone();
                self.last_number = self.last_number.max(number);
                self.groups.queue(group, number, message);
            }
            Record::GroupBound { group, number, core, handed_as } => {
                self.last_number = self.last_number.max(handed_as);
                self.groups.bind(group, number, Some(Bound { core, handed_as }));
            }
            Record::GroupReturned { group, number } => self.groups.bind(group, number, None),
            Record::GroupTaken { group, number } => self.groups.take(group, number),
        }
        Ok(())
    }

    fn message(&self, seq: u64) -> Result<&Message, MissingMessage> {
        self.last.as_ref().map(|(message, _)| message).ok_or(MissingMessage { seq })
    }

    /// The session of this ClientID, if record `seq` is not in it already.
    fn session(&mut self, seq: u64, client_id: &str) -> Option<&mut Session> {
        self.sessions.get_mut(client_id).filter(|session| session.as_of < seq)
    }

    /// Changes a session by what record `seq` says, unless it is in it already.
    fn with(&mut self, seq: u64, client_id: &str, change: impl FnOnce(&mut Session)) {
        if let Some(session) = self.session(seq, client_id) {
            change(session);
        }
    }

    fn open(&mut self, seq: u64, client_id: &str, expiry_seconds: u32, next_packet_id: PacketId) {
        let presence = Presence::Connected(self.starts.len() as u32);
        let session = match self.sessions.get_mut(client_id) {
            Some(session) if session.as_of >= seq => return,
            Some(session) => session,
            None => self.sessions.insert(Session::new(client_id, expiry_seconds, presence)),
        };
        session.presence = presence;
        session.expiry_seconds = expiry_seconds;
        session.next_packet_id = next_packet_id;
    }

    fn hand_on(&mut self, seq: u64, number: u64) -> Result<(), MissingMessage> {
        let (message, publisher) = self.last.clone().ok_or(MissingMessage { seq })?;
        self.last_number = self.last_number.max(number);
        let pending = Pending { number, message, publisher };
        match self.pending.back() {
            Some(last) if last.number >= number => {
                match self.pending.binary_search_by_key(&number, |pending| pending.number) {
                    Ok(place) => self.pending[place] = pending,
                    Err(place) => self.pending.insert(place, pending),
                }
            }
            _ => self.pending.push_back(pending),
        }
        Ok(())
    }

    /// Takes it apart. Each session knows by itself then since when its Client has been away.
    pub fn into_parts(mut self) -> Parts {
        self.forget_starts();
        Parts {
            sessions: self.sessions.into_list(),
            retained: self.retained.into_list(),
            groups: self.groups.0,
            pending: self.pending,
            handled: self.handled,
            last_number: self.last_number,
        }
    }

    /// Tells each session what the starts meant for it.
    fn forget_starts(&mut self) {
        let starts = std::mem::take(&mut self.starts);
        for session in self.sessions.iter_mut() {
            session.presence = session.presence.since(&starts).map_or(Presence::Connected(0), Presence::Away);
        }
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

/// The Packet Identifiers go on behind one that was used. A snapshot tells where they go on.
fn go_on_behind(seq: u64, session: &mut Session, packet_id: PacketId) {
    if seq != SNAPSHOT {
        session.next_packet_id = packet_id.next();
    }
}
