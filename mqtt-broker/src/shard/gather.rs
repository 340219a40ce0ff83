//! The retained messages of a new subscription: fetched from their home cores in slices, at the subscriber's pace.
//!
//! Invariants: one slice of a gathering is on its way at a time, and the next is asked for only when the subscriber
//! has taken the last; so `#` over a million topics costs a slice. A home core reads a message when it sends it. A
//! topic that was delivered live since the subscription was made is skipped: what the slice holds may be older. With
//! one publisher, the last value that a subscriber gets of a topic is therefore the last one published.
//! Lives on: the session's home core; the answering side on every core.

use mqtt_proto::types::{Qos, TopicFilter, TopicName};

use super::Shard;
use super::barrier::Then;
use super::deliver::{How, Outgoing};
use super::envelope::{Envelope, Numbers};
use super::gathers::{Gather, Gathers, Marks};
use super::session::Session;
use super::table::Key;
use crate::config::CoreId;
use crate::message::Message;
use crate::router::FilterId;

/// A request for a slice: this core may not answer it before it has handled more.
pub(super) struct WaitingGather {
    pub(super) from: u16,
    pub(super) token: u64,
    pub(super) filter: Box<str>,
    pub(super) after: String,
    /// Up to where each core's lane has to be handled first.
    pub(super) until: Vec<u64>,
}

/// Entries looked at for one slice, so that a filter that matches little does not hold up the core.
const VISITED_MAX: usize = 4096;

impl Shard {
    /// Notes a subscription whose retained messages are wanted. They are asked for after the barrier.
    pub(super) fn new_gather(
        &mut self,
        session: Key,
        filter: FilterId,
        text: &str,
        qos: Qos,
        identifier: u32,
    ) -> u64 {
        let token = self.token();
        let (text, source, after, barrier) = (text.into(), 0, String::new(), 0);
        let gather = Gather { filter, text, qos, identifier, source, after, barrier };
        if let Some(state) = self.sessions.get_mut(session) {
            // A subscription made anew starts its gathering anew.
            let replaced = state.aside().gathers.get_or_insert_default().insert(token, gather);
            if let Some(replaced) = replaced {
                self.gathers.remove(&replaced);
            }
            self.gathers.insert(token, session);
        }
        token
    }

    fn gathers_mut(&mut self, session: Key) -> Option<&mut Gathers> {
        self.sessions.get_mut(session)?.gathers_mut()
    }

    /// Forgets the gathering for a subscription that is ended.
    pub(super) fn cancel_gather(&mut self, session: Key, filter: FilterId) {
        let Some(token) = self.gathers_mut(session).and_then(|gathers| gathers.remove(filter)) else {
            return;
        };
        self.gathers.remove(&token);
        self.drop_empty_gathers(session);
    }

    /// A session that gathers nothing keeps no memory for it.
    fn drop_empty_gathers(&mut self, session: Key) {
        if let Some(state) = self.sessions.get_mut(session) {
            state.drop_empty_gathers();
        }
    }

    /// The gathering begins when `barrier` is passed.
    pub(super) fn gather_behind(&mut self, session: Key, token: u64, barrier: u64) {
        if let Some(gathers) = self.gathers_mut(session) {
            gathers.wait(token, barrier);
        }
    }

    /// A barrier of the session is passed: its next slice may be asked for, of those that `begin` too.
    pub(super) fn begin_gathers(&mut self, session: Key, barrier: u64, marks: Marks, begin: &[u64]) {
        if let Some(gathers) = self.gathers_mut(session) {
            gathers.barrier_passed(barrier, marks, begin);
            self.advance_gathers(session);
        }
    }

    /// A message with RETAIN for `topic` from core `from` is delivered live: a slice on its way may hold an older one.
    pub(super) fn note_live(&mut self, session: Key, topic: TopicName<'_>, from: CoreId) {
        let Some(gathers) = self.sessions.get_mut(session).and_then(Session::gathers_mut) else { return };
        let answered = if from == self.core { self.next_token } else { self.answered[from.index()] };
        let max = self.limits.gather_live_topics_max as usize;
        if gathers.note_live(self.homes.hash_of(topic.as_bytes()), answered, max) {
            self.after_barrier(Then::Gather { session });
        }
    }

    /// The session's gatherings go on behind `barrier`, which makes what they remember superfluous.
    pub(super) fn restart_gathers(&mut self, session: Key, barrier: u64) {
        let token = self.token();
        if let Some(old) = self.gathers_mut(session).and_then(|gathers| gathers.restart(barrier, token)) {
            self.gathers.remove(&old);
            self.gathers.insert(token, session);
        }
    }

    /// Asks for the next slice if the subscriber has taken what it was sent.
    ///
    /// One slice of this core's own a call: what is left goes on with the next turn, so that a filter that matches
    /// little among much holds up nobody.
    pub(super) fn advance_gathers(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let (connection, queue_is_empty) = (session.connection(), session.queue_is_empty());
        let Some(gathers) = session.gathers_mut().filter(|_| queue_is_empty) else { return };
        let connection = connection.and_then(|connection| self.connections.get(connection));
        let low = self.limits.retained_slice_bytes as usize;
        if connection.is_none_or(|connection| connection.output.waiting() >= low) {
            return;
        }
        let Some((token, gather, until)) = gathers.ask() else { return };
        let source = gather.source;
        if source == self.core.0 {
            let asked = WaitingGather {
                from: source,
                token,
                filter: gather.text.clone(),
                after: gather.after.clone(),
                until,
            };
            self.gather_asked(asked);
        } else {
            let filter = TopicFilter::new(&gather.text).expect("it was subscribed to");
            let until = Numbers::List(&until);
            let envelope = Envelope::Gather { token, filter, after: &gather.after, until };
            self.lanes.send(source, &envelope, &mut None);
        }
    }

    /// The next turn of those who gather from this core itself.
    pub(super) fn go_on_gathering(&mut self) {
        for session in core::mem::take(&mut self.gathering) {
            self.advance_gathers(session);
        }
    }

    /// Somebody asks for a slice of this core's retained messages.
    pub(super) fn gather_asked(&mut self, asked: WaitingGather) {
        if self.has_handled(&asked.until) {
            self.answer_gather(&asked);
        } else {
            self.waiting_gathers.push(asked);
        }
    }

    fn has_handled(&self, until: &[u64]) -> bool {
        let own = self.core.index();
        until.iter().enumerate().all(|(core, &seq)| core == own || self.lanes.seen(core) >= seq)
    }

    /// Answers the requests for which enough was handled by now.
    pub(super) fn answer_waiting_gathers(&mut self) {
        let mut index = 0;
        while index < self.waiting_gathers.len() {
            if self.has_handled(&self.waiting_gathers[index].until) {
                let waiting = self.waiting_gathers.swap_remove(index);
                self.answer_gather(&waiting);
            } else {
                index += 1;
            }
        }
    }

    fn answer_gather(&mut self, asked: &WaitingGather) {
        let filter = TopicFilter::new(&asked.filter).expect("it was subscribed to");
        let (mut messages, mut bytes) = (Vec::<Message>::new(), 0);
        let after = (!asked.after.is_empty()).then_some(&*asked.after);
        let mut scan = self.retained.scan(filter, after).with_budget(VISITED_MAX);
        let (most, bytes_max) =
            (self.limits.retained_slice_messages as usize, self.limits.retained_slice_bytes as usize);
        while messages.len() < most
            && bytes < bytes_max
            && let Some(message) = scan.next()
        {
            if !message.is_expired(self.now.millis) {
                bytes += message.cost();
                messages.push(message.clone());
            }
        }
        let done = scan.is_finished();
        let position = scan.position().unwrap_or_default().to_owned();
        if asked.from == self.core.0 {
            for message in &messages {
                self.retained_arrived(asked.token, Outgoing::with_owned(message.as_ref(), Some(message)));
            }
            if let Some(&session) = self.gathers.get(&asked.token) {
                self.gathering.push(session);
            }
            return self.slice_taken(asked.token, &position, done);
        }
        let slice =
            Envelope::Slice { token: asked.token, count: messages.len() as u32, position: &position, done };
        self.lanes.send(asked.from, &slice, &mut None);
        for message in messages {
            let envelope = Envelope::Retained { message: message.as_ref() };
            self.lanes.send(asked.from, &envelope, &mut Some(message.clone()));
        }
    }

    /// A retained message of a slice.
    pub(super) fn retained_arrived(&mut self, token: u64, mut outgoing: Outgoing<'_>) {
        let hash = self.homes.hash_of(outgoing.message.topic.as_bytes());
        let Some(&session) = self.gathers.get(&token) else { return };
        let Some(gathers) = self.sessions.get(session).and_then(Session::gathers) else {
            return;
        };
        if gathers.is_live(token, hash) || outgoing.message.is_expired(self.now.millis) {
            return;
        }
        let Some(gather) = gathers.get(token) else { return };
        let identifier = gather.identifier;
        let how = How {
            qos: gather.qos.min(outgoing.message.qos),
            // [MQTT-3.3.1-8 v3.1.1]
            retain: true,
            identifiers: if identifier == 0 { &[] } else { &[identifier] },
            group: None,
            paced: true,
        };
        self.deliver(session, &mut outgoing, how);
    }

    /// A slice of another core has arrived whole.
    pub(super) fn slice_arrived(&mut self, token: u64, position: &str, done: bool) {
        let session = self.gathers.get(&token).copied();
        self.slice_taken(token, position, done);
        if let Some(session) = session {
            self.advance_gathers(session);
        }
    }

    fn slice_taken(&mut self, token: u64, position: &str, done: bool) {
        let cores = self.homes.cores();
        let Some(&session) = self.gathers.get(&token) else { return };
        let complete = self
            .gathers_mut(session)
            .is_some_and(|gathers| gathers.slice_taken(token, position, done, cores));
        if complete {
            self.gathers.remove(&token);
            self.drop_empty_gathers(session);
        }
    }
}
