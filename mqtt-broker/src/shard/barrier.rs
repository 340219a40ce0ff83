//! Waiting until every core knows something: the barrier behind SUBACK.
//!
//! Lanes are in order, so a core that answers a barrier has handled everything sent to it before, the announcement of
//! interest among it: a PUBLISH that it handles from then on is sent here. Its answer also says how far its lanes to
//! all cores had got, which bounds what it published before that: a retained home core that has handled as much has
//! every message that was not sent here. What waits in its lanes for the store was published before that as well, so its
//! answer waits until that has left.

use super::envelope::{Envelope, Numbers};
use super::gathers::Marks;
use super::shared::Joined;
use super::table::Key;
use super::{ConnectionId, Shard};
use crate::config::CoreId;
use crate::router::CoreSet;

/// A barrier under way.
#[derive(Debug)]
pub(super) struct Barrier {
    /// Cores that have not answered.
    waiting: CoreSet,
    marks: Marks,
    then: Then,
}

/// What follows a barrier.
#[derive(Debug)]
pub(super) enum Then {
    /// A SUBACK may leave, and the retained messages of its new subscriptions may be gathered.
    Subscribed { connection: ConnectionId, serial: u32, session: Key, gathers: Vec<u64> },
    /// The session's retained messages may be gathered on.
    Gather { session: Key },
    /// A member of a shared group may be told that it is one.
    Joined(Joined),
    /// Connections may be opened.
    Restored,
}

impl Shard {
    /// Whether anybody has to be waited for at all.
    pub(super) fn is_alone(&self) -> bool {
        self.homes.cores() == 1
    }

    /// Does `then` once every other core has handled all that it was sent up to now.
    pub(super) fn after_barrier(&mut self, then: Then) {
        let cores = usize::from(self.homes.cores());
        let mut marks = Marks::new(cores);
        marks.set(self.core.index(), self.lanes.sent().into_iter());
        let token = self.token();
        match &then {
            Then::Subscribed { session, gathers, .. } => {
                gathers.iter().for_each(|&gather| self.gather_behind(*session, gather, token));
            }
            Then::Gather { session } => self.restart_gathers(*session, token),
            Then::Joined(_) | Then::Restored => {}
        }
        if self.is_alone() {
            return self.barrier_passed(token, marks, then);
        }
        for core in self.lanes.peers() {
            self.lanes.send(core, &Envelope::Barrier { token }, &mut None);
        }
        let mut waiting: CoreSet = self.lanes.peers().collect();
        if let Some(position) = self.lanes.held_until() {
            waiting.insert(self.core.0);
            self.late_barriers.push_back((position, self.core, token));
        }
        self.barriers.insert(token, Barrier { waiting, marks, then });
    }

    /// Another core wants to know that this one has got to its barrier.
    pub(super) fn barrier_asked(&mut self, from: CoreId, token: u64) {
        match self.lanes.held_until() {
            Some(position) => self.late_barriers.push_back((position, from, token)),
            None => self.answer_barrier(from, token),
        }
    }

    /// Answers the barriers before which all that waited for the store has left by now.
    pub(super) fn answer_late_barriers(&mut self, committed: u64) {
        while let Some((_, from, token)) = self.late_barriers.pop_front_if(|late| late.0 <= committed) {
            self.answer_barrier(from, token);
        }
    }

    fn answer_barrier(&mut self, from: CoreId, token: u64) {
        let sent = self.lanes.sent();
        let sent = Numbers::List(&sent);
        match from == self.core {
            true => self.barrier_done(from, token, sent),
            false => drop(self.lanes.send(from.0, &Envelope::BarrierDone { token, sent }, &mut None)),
        }
    }

    /// Another core has got to a barrier of ours.
    pub(super) fn barrier_done(&mut self, from: CoreId, token: u64, sent: Numbers<'_>) {
        self.answered[from.index()] = token;
        let Some(barrier) = self.barriers.get_mut(&token) else { return };
        barrier.marks.set(from.index(), sent.iter());
        barrier.waiting.remove(from.0);
        if barrier.waiting.is_empty()
            && let Some(barrier) = self.barriers.remove(&token)
        {
            self.barrier_passed(token, barrier.marks, barrier.then);
        }
    }

    fn barrier_passed(&mut self, token: u64, marks: Marks, then: Then) {
        match then {
            Then::Subscribed { connection, serial, session, gathers } => {
                self.pending_done(connection, serial);
                self.begin_gathers(session, token, marks, &gathers);
            }
            Then::Gather { session } => self.begin_gathers(session, token, marks, &[]),
            Then::Joined(joined) => self.tell_joined(joined),
            Then::Restored => self.told_restored(),
        }
    }
}
