//! The retained messages of a new subscription: fetched from their home cores in slices, at the subscriber's pace.
//!
//! Invariants: one slice of a gathering is on its way at a time, and the next is asked for only when the subscriber
//! has taken the last; so `#` over a million topics costs a slice. A home core reads a message when it sends it. A
//! topic that was delivered live since the subscription was made is skipped: what the slice holds may be older. With
//! one publisher, the last value that a subscriber gets of a topic is therefore the last one published.
//! Lives on: the session's home core; the answering side on every core.

use ahash::RandomState;
use hashbrown::HashSet;
use mqtt_proto::types::{Qos, TopicFilter, TopicName};

use super::Shard;
use super::barrier::Then;
use super::deliver::{How, Outgoing};
use super::envelope::{Envelope, Numbers};
use super::table::Key;
use crate::config::CoreId;
use crate::message::Message;
use crate::router::FilterId;

/// Retained messages on their way to one subscription.
pub(super) struct Gather {
    /// Names this gathering, and its present attempt.
    pub(super) token: u64,
    pub(super) filter: FilterId,
    text: Box<str>,
    qos: Qos,
    identifier: u32,
    /// The home core that is being asked.
    source: u16,
    /// Topic behind which that core goes on; empty: from its first.
    after: String,
    marks: Marks,
    phase: Phase,
    /// The barrier before it, passed or not.
    barrier: u64,
    /// Topics delivered live, by hash, out of messages that their core sent behind its answer to the barrier. What it
    /// sent before that, a home core has handled before it answers: an older interest's message must not hide a newer
    /// retained one.
    live: HashSet<u64, RandomState>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not all cores know the subscription.
    Barrier,
    /// A slice may be asked for.
    Idle,
    /// A slice is on its way.
    Asked,
}

/// How far each core's lane to each core had got at a barrier.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    cores: usize,
    sent: Vec<u64>,
}

impl Marks {
    pub(super) fn new(cores: usize) -> Marks {
        Marks { cores, sent: vec![0; cores * cores] }
    }

    pub(super) fn set(&mut self, from: usize, sent: impl Iterator<Item = u64>) {
        let row = &mut self.sent[from * self.cores..][..self.cores];
        row.iter_mut().zip(sent).for_each(|(mark, sent)| *mark = sent);
    }

    /// Up to where `to` has to have handled each core's lane.
    fn until(&self, to: usize) -> impl Iterator<Item = u64> + '_ {
        (0..self.cores).map(move |from| self.sent[from * self.cores + to])
    }
}

/// A request that this core cannot answer before it has handled more.
pub(super) struct WaitingGather {
    from: u16,
    token: u64,
    filter: Box<str>,
    after: String,
    until: Vec<u64>,
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
        let [a, b] = [self.homes.hash_of("gather"), token];
        let gather = Gather {
            token,
            filter,
            text: text.into(),
            qos,
            identifier,
            source: 0,
            after: String::new(),
            marks: Marks::default(),
            phase: Phase::Barrier,
            barrier: 0,
            live: HashSet::with_hasher(RandomState::with_seeds(a, b, a, b)),
        };
        if let Some(state) = self.sessions.get_mut(session) {
            // A subscription made anew starts its gathering anew.
            for old in state.gathers.extract_if(.., |old| old.filter == filter) {
                self.gathers.remove(&old.token);
            }
            state.gathers.push(gather);
            self.gathers.insert(token, session);
        }
        token
    }

    /// Forgets the gathering for a subscription that is ended.
    pub(super) fn cancel_gathers(&mut self, session: Key, filter: FilterId) {
        if let Some(state) = self.sessions.get_mut(session) {
            for old in state.gathers.extract_if(.., |old| old.filter == filter) {
                self.gathers.remove(&old.token);
            }
        }
    }

    /// The barrier is passed: the first slice may be asked for.
    pub(super) fn begin_gather(&mut self, session: Key, token: u64, marks: Marks) {
        if let Some(gather) = self.gather_mut(token) {
            gather.marks = marks;
            gather.phase = Phase::Idle;
            self.advance_gathers(session);
        }
    }

    fn gather_mut(&mut self, token: u64) -> Option<&mut Gather> {
        let session = *self.gathers.get(&token)?;
        self.sessions.get_mut(session)?.gathers.iter_mut().find(|gather| gather.token == token)
    }

    /// The gathering begins when `barrier` is passed.
    pub(super) fn gather_behind(&mut self, token: u64, barrier: u64) {
        if let Some(gather) = self.gather_mut(token) {
            gather.barrier = barrier;
        }
    }

    /// A message of `topic` from core `from` is delivered live: a slice on its way may hold an older one.
    pub(super) fn note_live(&mut self, session: Key, topic: TopicName<'_>, from: CoreId) {
        let Some(state) = self.sessions.get_mut(session).filter(|state| !state.gathers.is_empty()) else {
            return;
        };
        let hash = self.homes.hash_of(topic.as_str());
        let max = self.limits.gather_live_topics_max as usize;
        let mut again = Vec::new();
        for gather in &mut state.gathers {
            let waiting = self.barriers.get(&gather.barrier);
            if from != self.core && waiting.is_some_and(|barrier| !barrier.has_answered(from)) {
                continue;
            }
            gather.live.insert(hash);
            if gather.live.len() > max {
                again.push(gather.token);
            }
        }
        for token in again {
            self.restart_gather(session, token);
        }
    }

    /// Goes on behind a new barrier: all that was delivered live before it is then known at the home cores, so what
    /// was remembered of it can be forgotten. A slice on its way answers an earlier token and is ignored.
    fn restart_gather(&mut self, session: Key, old: u64) {
        let token = self.token();
        let Some(gather) = self.gather_mut(old) else { return };
        gather.token = token;
        gather.phase = Phase::Barrier;
        gather.live.clear();
        self.gathers.remove(&old);
        self.gathers.insert(token, session);
        self.after_barrier(Then::Gather { session, token });
    }

    /// Asks for the next slice if the subscriber has taken what it was sent.
    ///
    /// One slice of this core's own a call: what is left goes on with the next turn, so that a filter that matches
    /// little among much holds up nobody.
    pub(super) fn advance_gathers(&mut self, key: Key) {
        let Some(session) = self.sessions.get(key) else { return };
        if session.gathers.is_empty() || !session.queue.is_empty() {
            return;
        }
        let connection = session.connection.and_then(|connection| self.connections.get(connection));
        let low = self.limits.retained_slice_bytes as usize;
        if connection.is_none_or(|connection| connection.output.waiting() >= low) {
            return;
        }
        if session.gathers.iter().any(|gather| gather.phase == Phase::Asked) {
            return;
        }
        let Some(gather) = session.gathers.iter().find(|gather| gather.phase == Phase::Idle) else { return };
        let (token, source) = (gather.token, gather.source);
        let until: Vec<u64> = gather.marks.until(usize::from(source)).collect();
        let (text, after) = (gather.text.clone(), gather.after.clone());
        if let Some(gather) = self.gather_mut(token) {
            gather.phase = Phase::Asked;
        }
        if source == self.core.0 {
            self.gather_asked(CoreId(source), token, &text, &after, until);
        } else {
            let filter = TopicFilter::new(&text).expect("it was subscribed to");
            let until = Numbers::List(&until);
            self.lanes.send(source, &Envelope::Gather { token, filter, after: &after, until }, &mut None);
        }
    }

    /// The next turn of those who gather from this core itself.
    pub(super) fn go_on_gathering(&mut self) {
        for session in core::mem::take(&mut self.gathering) {
            self.advance_gathers(session);
        }
    }

    /// Somebody asks for a slice of this core's retained messages.
    pub(super) fn gather_asked(
        &mut self,
        from: CoreId,
        token: u64,
        filter: &str,
        after: &str,
        until: Vec<u64>,
    ) {
        let waiting =
            WaitingGather { from: from.0, token, filter: filter.into(), after: after.to_owned(), until };
        if self.has_handled(&waiting.until) {
            self.answer_gather(&waiting);
        } else {
            self.waiting_gathers.push(waiting);
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
        let hash = self.homes.hash_of(outgoing.message.topic.as_str());
        let Some(gather) = self.gather_mut(token) else { return };
        if gather.live.contains(&hash) || outgoing.message.is_expired(self.now.millis) {
            return;
        }
        let Some(gather) = self.gather_mut(token) else { return };
        let identifier = gather.identifier;
        let how = How {
            qos: gather.qos.min(outgoing.message.qos),
            // [MQTT-3.3.1-8 v3.1.1]
            retain: true,
            identifiers: if identifier == 0 { &[] } else { &[identifier] },
            group: None,
            paced: true,
        };
        if let Some(&session) = self.gathers.get(&token) {
            self.deliver(session, &mut outgoing, how);
        }
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
        let Some(gather) = self.gather_mut(token) else { return };
        gather.phase = Phase::Idle;
        gather.after.clear();
        if done {
            gather.source += 1;
        } else {
            gather.after.push_str(position);
        }
        if gather.source >= cores
            && let Some(session) = self.gathers.remove(&token)
            && let Some(state) = self.sessions.get_mut(session)
        {
            state.gathers.retain(|gather| gather.token != token);
            state.gathers.shrink_to_fit();
        }
    }
}
