//! Messages between cores that a crash may neither lose nor double: numbered by the core that hands them on, which keeps
//! each until all others have committed what they made of it.
//!
//! Such a message leaves only once the record of its number is committed here, so no core can have taken a number that this
//! one forgets. It waits for that in the lane, in order (`Lanes::send_behind`), and its publisher's next message that needs no
//! number waits with it, unread. The core that takes it tells its store of the number beside what it makes of the message.
//!
//! Invariants: the numbers of a lane only grow, so one number says what was taken of it; what has a number and is not yet
//! committed by all is in `pending`, in order. Lives on: each core.

use std::collections::{BTreeMap, VecDeque};

use mqtt_proto::types::Qos;

use super::deliver::Outgoing;
use super::envelope::Envelope;
use super::lanes::Noted;
use super::publish::Others;
use super::session::{Flight, Session};
use super::table::Key;
use super::{ConnectionId, Shard};
use crate::config::CoreId;
use crate::message::{Message, Spares};
use crate::ports::Commit;
use crate::router::CoreSet;
use crate::store::record::Record;

/// What this core hands on, and up to where it has taken what others do.
#[derive(Debug)]
pub(super) struct Handover {
    last_number: u64,
    /// By core: the last number that was taken of it.
    handled: Vec<u64>,
    pending: VecDeque<Pending>,
    /// What the messages in `pending` cost, and how much that may be before publishers wait.
    bytes: u64,
    bytes_max: u64,
    is_full: bool,
    /// The store's position that the last of it waits for.
    held_until: u64,
    /// What the last message of a session waited for when that ended, by a hash of its ClientID: whoever comes next under
    /// that name is behind it.
    ended: BTreeMap<u64, u64>,
    /// Answers that wait until all up to a number is taken.
    answers: VecDeque<(u64, ConnectionId, u32)>,
}

/// A message that other cores are to take.
#[derive(Debug)]
struct Pending {
    number: u64,
    /// None once all have taken it.
    message: Option<Message>,
    publisher: u32,
    /// Cores that have not committed it.
    waiting: CoreSet,
    /// Whose acknowledgement waits for that.
    answer: Option<(ConnectionId, u32)>,
}

/// What [`Handover::taken`] has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Others are yet to take it, or it is no message of [`Handover::push`].
    NotByAll,
    /// All have it. `frees`: those who waited for room may go on. `answer`: that of its publisher may leave.
    ByAll { frees: bool, answer: Option<(ConnectionId, u32)> },
}

impl Handover {
    pub(super) fn new(cores: u16, bytes_max: u32) -> Handover {
        Handover {
            last_number: 0,
            handled: vec![0; usize::from(cores)],
            pending: VecDeque::new(),
            bytes: 0,
            bytes_max: bytes_max.into(),
            is_full: false,
            held_until: 0,
            ended: BTreeMap::new(),
            answers: VecDeque::new(),
        }
    }

    /// Goes on behind a start: the highest number given, and the last ones taken of other cores.
    pub(super) fn restore(&mut self, last_number: u64, handled: impl Iterator<Item = (u16, u64)>) {
        self.last_number = last_number;
        for (core, number) in handled {
            if let Some(known) = self.handled.get_mut(usize::from(core)) {
                *known = number;
            }
        }
    }

    /// A number for what is kept for another core, higher than all before it.
    pub(super) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// The highest number given.
    pub(super) fn last_number(&self) -> u64 {
        self.last_number
    }

    /// Notes that what core `from` hands on under `number` is taken; `false` if it was taken before.
    pub(super) fn take(&mut self, from: CoreId, number: u64) -> bool {
        let handled = &mut self.handled[from.index()];
        let is_new = number > *handled;
        *handled = number.max(*handled);
        is_new
    }

    /// By core, the last number taken of it, where there is one.
    pub(super) fn handled(&self) -> impl Iterator<Item = (u16, u64)> {
        (0..).zip(self.handled.iter().copied()).filter(|&(_, number)| number > 0)
    }

    /// Keeps a message until the cores in `waiting` have committed it. Numbers come in order.
    pub(super) fn push(&mut self, number: u64, message: Message, publisher: u32, waiting: CoreSet) {
        debug_assert!(self.pending.back().is_none_or(|last| last.number < number), "in order");
        self.bytes += message.cost() as u64;
        self.is_full |= self.bytes > self.bytes_max;
        let message = Some(message);
        self.pending.push_back(Pending { number, message, publisher, waiting, answer: None });
    }

    /// The answer `serial` of this connection waits until all have committed the message that was just pushed.
    pub(super) fn answer_when_taken(&mut self, connection: ConnectionId, serial: u32) {
        if let Some(last) = self.pending.back_mut() {
            last.answer = Some((connection, serial));
        }
    }

    /// The answer `serial` of this connection waits until nothing is pending any more that is now; whether it has to.
    pub(super) fn answer_behind_all(&mut self, connection: ConnectionId, serial: u32) -> bool {
        let Some(last) = self.pending.back() else { return false };
        self.answers.push_back((last.number, connection, serial));
        true
    }

    /// The next answer that [`Handover::answer_behind_all`] has put off until now.
    fn poll_answer(&mut self) -> Option<(ConnectionId, u32)> {
        let first = self.pending.front().map_or(u64::MAX, |first| first.number);
        self.answers
            .pop_front_if(|answer| answer.0 < first)
            .map(|(_, connection, serial)| (connection, serial))
    }

    /// The last of it waits for this position of the store.
    pub(super) fn hold_until(&mut self, position: u64) {
        self.held_until = position;
    }

    /// Whether any of it waits for a store that has committed up to here.
    #[inline]
    pub(super) fn holds(&self, committed: u64) -> bool {
        self.held_until > committed
    }

    /// The session of the Client with this hash has ended, whose last message waits for `position`.
    pub(super) fn session_ended(&mut self, client: u64, position: u64) {
        self.ended.insert(client, position);
    }

    /// The store has committed up to here.
    pub(super) fn store_committed(&mut self, committed: u64) {
        self.ended.retain(|_, position| *position > committed);
    }

    /// Whether publishers of such messages have to wait.
    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    /// `core` has committed `number`. A message that all have is not kept any more.
    pub(super) fn taken(&mut self, core: u16, number: u64, spares: &mut Spares) -> Taken {
        let Ok(place) = self.pending.binary_search_by_key(&number, |pending| pending.number) else {
            return Taken::NotByAll;
        };
        let pending = &mut self.pending[place];
        pending.waiting.remove(core);
        if !pending.waiting.is_empty() {
            return Taken::NotByAll;
        }
        let Some(message) = pending.message.take() else { return Taken::NotByAll };
        let answer = pending.answer;
        self.bytes -= message.cost() as u64;
        spares.take_back(message);
        while self.pending.pop_front_if(|first| first.message.is_none()).is_some() {}
        let frees = self.is_full && self.bytes <= self.bytes_max / 2;
        self.is_full &= !frees;
        Taken::ByAll { frees, answer }
    }

    /// The messages behind `number` that some core is yet to take, in order.
    pub(super) fn pending_behind(&self, number: u64) -> impl Iterator<Item = (u64, u32, &Message)> {
        let first = self.pending.partition_point(|pending| pending.number <= number);
        let behind = self.pending.range(first..);
        behind.filter_map(|pending| Some((pending.number, pending.publisher, pending.message.as_ref()?)))
    }

    pub(super) fn check_invariants(&self) {
        debug_assert!(self.pending.iter().is_sorted_by(|a, b| a.number < b.number));
        debug_assert!(self.pending.back().is_none_or(|last| last.number <= self.last_number));
        let costs = self.pending.iter().filter_map(|pending| Some(pending.message.as_ref()?.cost() as u64));
        debug_assert_eq!(self.bytes, costs.sum::<u64>());
    }
}

impl Shard {
    /// Whether a message that goes to other cores needs a number: one at QoS 2 whose publisher sends it again after a crash
    /// only if this core has not told its store that it came.
    pub(super) fn needs_number(&self, publisher: Key) -> bool {
        self.records.keep_anything() && self.sessions.get(publisher).is_some_and(Session::is_persistent)
    }

    /// Whether a Will that goes to other cores needs one: the store forgets it here when it is published.
    pub(super) fn numbers_will(&self, of: Key, qos: Qos) -> bool {
        let is_recorded = self.sessions.get(of).is_some_and(|session| session.is_recorded());
        self.records.keep_anything() && is_recorded && qos != Qos::AtMostOnce
    }

    /// Whether the publisher, or who had its ClientID before, has messages that are held until they are committed.
    pub(super) fn is_held(&self, publisher: Key) -> bool {
        let Some(session) = self.sessions.get(publisher) else { return false };
        let waits = |flight: &Flight| flight.held_until > self.gates.committed();
        session.known_flight().is_some_and(waits)
            || !self.handover.ended.is_empty()
                && self.handover.ended.contains_key(&self.homes.hash_of(session.client_id.as_bytes()))
    }

    /// The session has ended: what it published last may wait still.
    pub(super) fn leave_held(&mut self, session: &Session) {
        if let Some(flight) = session.known_flight()
            && flight.held_until > self.gates.committed()
        {
            let client = self.homes.hash_of(session.client_id.as_bytes());
            self.handover.session_ended(client, flight.held_until);
        }
    }

    /// Sends a message that needs no number, behind what its publisher has published before and waits. Only a Will comes to
    /// that: a Client is not read meanwhile.
    #[cold]
    pub(super) fn send_behind(
        &mut self,
        outgoing: &mut Outgoing<'_>,
        publisher: Option<Key>,
        others: Others,
    ) {
        for core in others.cores.iter() {
            let envelope = others.envelope(core, None, outgoing);
            self.lanes.send_behind(core, None, &envelope, &mut outgoing.owned, Commit::Now);
        }
        if let Some(session) = publisher.and_then(|key| self.sessions.get_mut(key)) {
            session.flight().held_until = self.handover.held_until;
        }
    }

    /// Hands a message on under a number.
    #[cold]
    pub(super) fn hand_on(&mut self, outgoing: &mut Outgoing<'_>, publisher: Option<Key>, others: Others) {
        let number = self.handover.next_number();
        let commit = self.records.keep_outgoing(self.now, outgoing, &Record::HandOn { number });
        let message = outgoing.keep(&mut self.spares);
        self.handover.push(number, message, outgoing.publisher, others.cores);
        let noted = Some(Noted::HandedOn(number));
        for core in others.cores.iter() {
            let envelope = others.envelope(core, Some(number), outgoing);
            self.lanes.send_behind(core, noted, &envelope, &mut outgoing.owned, commit);
        }
        if let Commit::At(position) = commit {
            self.handover.hold_until(position);
            if let Some(session) = publisher.and_then(|key| self.sessions.get_mut(key)) {
                session.flight().held_until = position;
            }
        }
    }

    /// After a start: what others may not have taken is handed on once more, in order. Who is interested is not known any
    /// more, so all are asked; who has taken it drops it.
    pub(super) fn hand_on_again(&mut self) {
        let all: CoreSet = self.lanes.peers().collect();
        let Shard { handover, lanes, homes, .. } = self;
        for pending in &mut handover.pending {
            pending.waiting = all;
            let Some(message) = &pending.message else { continue };
            let (number, publisher, message) = (pending.number, pending.publisher, message.clone());
            let home = message.as_ref().retain.then(|| homes.of_topic(message.as_ref().topic));
            for core in all.iter() {
                let retain = home == Some(core);
                let envelope =
                    Envelope::HandOn { number, message: message.as_ref(), deliver: true, retain, publisher };
                let owned = &mut Some(message.clone());
                lanes.send_behind(core, Some(Noted::HandedOn(number)), &envelope, owned, Commit::Now);
            }
        }
    }

    /// Takes what core `from` hands on, unless it did before it crashed.
    pub(super) fn take_handed_on(
        &mut self,
        from: CoreId,
        number: u64,
        outgoing: &mut Outgoing<'_>,
        deliver: bool,
        retain: bool,
    ) {
        if !self.handover.take(from, number) {
            return;
        }
        if deliver {
            let route = self.find_route(outgoing.message.topic);
            self.route_here(outgoing, route, None, from);
        }
        if retain {
            self.retain(outgoing);
        }
        let commit = self.records.append(self.now, &Record::Handled { core: from.0, number });
        outgoing.wait_for(commit);
    }

    /// Core `from` has committed what it made of `number`.
    pub(super) fn taken_elsewhere(&mut self, from: CoreId, number: u64) {
        let Taken::ByAll { frees, answer } = self.handover.taken(from.0, number, &mut self.spares) else {
            return;
        };
        // Nobody waits for it: without it the message is handed on once more after a crash, and dropped.
        self.records.append_later(self.now, &Record::HandedOn { number });
        if let Some((connection, serial)) = answer {
            self.pending_done(connection, serial);
        }
        while let Some((connection, serial)) = self.handover.poll_answer() {
            self.pending_done(connection, serial);
        }
        if frees {
            self.go_on_in_lanes();
        }
    }
}
