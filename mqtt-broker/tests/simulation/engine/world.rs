//! The broker's cores with everything around them in virtual time: lanes, connections, late ports, clocks.
//!
//! Nothing here knows MQTT, but for one bit of CONNACK. All that happens is an event at a microsecond; events of one
//! moment happen in the order in which they were caused. Delays come from the scenario, drawn from streams of their
//! own a connection, lane and core.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;

use mqtt_broker::config::CoreId;
use mqtt_broker::ports::Reply;
use mqtt_broker::shard::{Action, ConnectionInfo, EnvelopeBatch, Now, Shard, ShardConfig, Stats};

use super::network::{Place, Wire};
use super::oracle::MessageId;
use super::ports::{Outstanding, ports};
use super::random::Random;
use super::scenario::{Net, Scenario};
use super::trace::Trace;

/// What those outside of the broker get to see.
#[derive(Debug)]
pub(crate) enum Notice {
    /// A CONNECT was accepted.
    Established(usize),
    /// The first bytes of the Server are a CONNACK with this Session Present flag, or something else.
    Answered(usize, Option<bool>),
    /// The broker ends the connection.
    Closed(usize),
    /// The broker learns that the connection is lost.
    Lost(usize),
    /// Bytes for the Client.
    Bytes(usize, Vec<u8>),
    /// The Client sees the end of the connection.
    End(usize),
    /// A moment that was asked for.
    Wake(usize),
    /// The next step is due.
    Step,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Turn(usize),
    Deadline(usize),
    Incoming(usize),
    Outgoing(usize),
    Sent(usize),
    Lost(usize),
    Arrive(usize),
    Lane(usize, usize),
    Reply(usize),
    Wake(usize),
    Step,
}

#[derive(Debug)]
struct Core {
    /// When its next turn is due, and when its next deadline.
    turn_at: Option<u64>,
    deadline_at: Option<u64>,
    stalled_until: u64,
    /// Up to where the store has said that it has committed.
    committed: u64,
    random: Random,
}

#[derive(Debug)]
struct Lane {
    batches: VecDeque<(u64, EnvelopeBatch)>,
    /// How much slower it is than the scenario says.
    factor: u64,
    stalled_until: u64,
    random: Random,
}

pub(crate) struct World {
    /// Microseconds since the start.
    pub(crate) now: u64,
    pub(crate) shards: Vec<Shard>,
    pub(crate) wires: Vec<Wire>,
    pub(crate) net: Net,
    pub(crate) trace: Trace,
    /// What the wall clock is off by, in milliseconds.
    pub(crate) wall_shift: i64,
    seed: u64,
    places: BTreeMap<(usize, u32, u32), usize>,
    cores: Vec<Core>,
    lanes: Vec<Lane>,
    replies: Vec<Option<Reply>>,
    outstanding: Outstanding,
    events: BinaryHeap<Reverse<(u64, u64, Event, bool)>>,
    caused: u64,
    /// Events under way that are not mere deadlines.
    work: usize,
    pub(crate) notices: VecDeque<Notice>,
    /// Calls of shards.
    pub(crate) calls: u64,
}

/// Monotonic milliseconds and wall clock at the start.
const START: Now = Now { millis: 1_000_000, wall_millis: 1_700_000_000_000 };

impl World {
    pub(crate) fn new(scenario: &Scenario, prints: bool) -> World {
        let limits = Arc::new(scenario.limits.clone());
        let outstanding = Outstanding::default();
        let count = usize::from(scenario.cores);
        let shard = |core: u16| {
            let config = ShardConfig {
                core: CoreId(core),
                cores: scenario.cores,
                limits: limits.clone(),
                hash_key: scenario.hash_key,
                seed: scenario.seed ^ u64::from(core),
            };
            Shard::new(config, ports(scenario, CoreId(core), &outstanding), START)
        };
        let stream = |kind, n: usize| Random::new(scenario.seed, &[kind, n as u64]);
        let core = |n| Core {
            turn_at: None,
            deadline_at: None,
            stalled_until: 0,
            committed: 0,
            random: stream(4, n),
        };
        let lane = |n| {
            let mut random = stream(5, n);
            let factor = if scenario.net.uneven_lanes { random.pick(&[0, 1, 1, 30]) } else { 1 };
            Lane { batches: VecDeque::new(), factor, stalled_until: 0, random }
        };
        let mut world = World {
            now: 0,
            shards: (0..scenario.cores).map(shard).collect(),
            wires: Vec::new(),
            net: scenario.net.clone(),
            trace: Trace::new(prints),
            wall_shift: 0,
            seed: scenario.seed,
            places: BTreeMap::new(),
            cores: (0..count).map(core).collect(),
            lanes: (0..count * count).map(lane).collect(),
            replies: Vec::new(),
            outstanding,
            events: BinaryHeap::new(),
            caused: 0,
            work: 0,
            notices: VecDeque::new(),
            calls: 0,
        };
        for core in 0..count {
            world.plan_deadline(core);
        }
        world
    }

    pub(crate) fn clock(&self) -> Now {
        let passed = self.now / 1000;
        let wall = START.wall_millis + passed;
        Now { millis: START.millis + passed, wall_millis: wall.saturating_add_signed(self.wall_shift) }
    }

    /// Whether nothing moves: only deadlines are left.
    pub(crate) fn is_quiet(&self) -> bool {
        self.work == 0 && self.notices.is_empty()
    }

    pub(crate) fn total(&self) -> Stats {
        let mut total = Stats::default();
        self.shards.iter().for_each(|shard| total += shard.stats());
        total
    }

    /// Whether the store has committed what it was given of a message.
    pub(crate) fn is_stored(&self, message: MessageId) -> bool {
        let outside = self.outstanding.borrow();
        let mut records = outside.records.iter().filter(|(id, ..)| *id == message);
        records.all(|(_, core, position)| self.cores[*core].committed >= *position)
    }

    /// Does what comes next; false if nothing ever does, or only after `until`.
    pub(crate) fn step(&mut self, until: u64) -> bool {
        match self.events.peek() {
            Some(Reverse((at, ..))) if *at <= until.max(self.now) => {}
            _ => return false,
        }
        let Some(Reverse((at, _, event, work))) = self.events.pop() else { return false };
        self.work -= usize::from(work);
        self.now = self.now.max(at);
        if let Some(core) = self.core_of(&event)
            && self.cores[core].stalled_until > self.now
        {
            let at = self.cores[core].stalled_until;
            self.cause(at, event, work);
            return true;
        }
        match event {
            Event::Turn(core) => {
                self.cores[core].turn_at = None;
                self.turn(core);
            }
            Event::Deadline(core) => {
                self.cores[core].deadline_at = None;
                self.turn(core);
            }
            Event::Incoming(wire) => self.feed(wire),
            Event::Outgoing(wire) => self.client_reads(wire),
            Event::Sent(wire) => self.sent(wire),
            Event::Lost(wire) => self.lose(wire),
            Event::Arrive(wire) => self.arrive(wire),
            Event::Lane(from, to) => self.deliver(from, to),
            Event::Reply(nth) => self.reply(nth),
            Event::Wake(wire) => self.notices.push_back(Notice::Wake(wire)),
            Event::Step => self.notices.push_back(Notice::Step),
        }
        true
    }

    fn core_of(&self, event: &Event) -> Option<usize> {
        match event {
            Event::Turn(core) | Event::Deadline(core) | Event::Lane(_, core) => Some(*core),
            Event::Incoming(wire) | Event::Sent(wire) | Event::Lost(wire) | Event::Arrive(wire) => {
                match self.wires[*wire].place {
                    Place::On(core, _) | Place::Travelling { to: core, .. } => Some(core),
                    Place::Gone => None,
                }
            }
            _ => None,
        }
    }

    /// `work`: something moves then, it is not a mere deadline.
    fn cause(&mut self, at: u64, event: Event, work: bool) {
        self.caused += 1;
        self.work += usize::from(work);
        self.events.push(Reverse((at, self.caused, event, work)));
    }

    /// Asks to be woken; `work` as in [`World::is_quiet`].
    pub(crate) fn wake(&mut self, wire: usize, at: u64, work: bool) {
        self.cause(at, Event::Wake(wire), work);
    }

    pub(crate) fn next_step(&mut self, at: u64) {
        self.cause(at, Event::Step, false);
    }

    // The Clients' side.

    /// A Client opens its `nth` connection to `core`.
    pub(crate) fn open(&mut self, party: usize, nth: u64, core: usize) -> usize {
        let random = Random::new(self.seed, &[6, party as u64, nth]);
        let id = self.call(core, |shard, now| shard.connection_opened(ConnectionInfo::default(), now));
        let wire = self.wires.len();
        let mut new = Wire::new(Place::Gone, random);
        match id {
            Some(id) => {
                new.place = Place::On(core, id);
                self.places.insert((core, id.index, id.generation), wire);
            }
            None => new.close(Vec::new()),
        }
        self.wires.push(new);
        self.pump(wire);
        wire
    }

    pub(crate) fn send(&mut self, wire: usize, bytes: &[u8]) {
        if !self.wires[wire].client_open {
            return;
        }
        let moments = self.wires[wire].send(bytes, self.now, &self.net);
        for at in moments {
            self.cause(at, Event::Incoming(wire), true);
        }
    }

    /// The Client's end breaks; the broker hears of it later.
    pub(crate) fn cut(&mut self, wire: usize) {
        if !self.wires[wire].client_open {
            return;
        }
        let now = self.now;
        self.wires[wire].cut(now);
        self.cause(now, Event::Incoming(wire), true);
        let at = now + self.wires[wire].random.below(4 * self.net.delay);
        self.cause(at, Event::Lost(wire), true);
        self.pump(wire);
    }

    pub(crate) fn set_reading(&mut self, wire: usize, reads: bool) {
        self.wires[wire].client_reads = reads;
        self.pump(wire);
    }

    // Faults.

    pub(crate) fn stall_lane(&mut self, from: u16, to: u16, micros: u64) {
        let lane = &mut self.lanes[usize::from(from) * self.cores.len() + usize::from(to)];
        lane.stalled_until = lane.stalled_until.max(self.now + micros);
    }

    pub(crate) fn stall_core(&mut self, core: u16, micros: u64) {
        let core = &mut self.cores[usize::from(core)];
        core.stalled_until = core.stalled_until.max(self.now + micros);
    }

    /// No fault lasts any longer.
    pub(crate) fn calm(&mut self) {
        self.net = self.net.calm();
    }

    // The broker's side.

    fn call<T>(&mut self, core: usize, use_it: impl FnOnce(&mut Shard, Now) -> T) -> T {
        let now = self.clock();
        let shard = &mut self.shards[core];
        self.calls += 1;
        let result = use_it(shard, now);
        let asked = core::mem::take(&mut self.outstanding.borrow_mut().replies);
        for (delay, reply) in asked {
            self.replies.push(Some(reply));
            self.cause(self.now + delay, Event::Reply(self.replies.len() - 1), true);
        }
        self.plan_turn(core);
        result
    }

    /// There may be something to do.
    fn plan_turn(&mut self, core: usize) {
        let state = &mut self.cores[core];
        if state.turn_at.is_none() {
            let at = self.now + state.random.below(self.net.turn);
            state.turn_at = Some(at);
            self.cause(at, Event::Turn(core), true);
        }
    }

    fn plan_deadline(&mut self, core: usize) {
        let Some(millis) = self.shards[core].poll_timeout() else { return };
        let at = (millis.saturating_sub(START.millis) * 1000).max(self.now);
        let state = &mut self.cores[core];
        if state.deadline_at.is_none_or(|planned| planned > at) {
            state.deadline_at = Some(at);
            self.cause(at, Event::Deadline(core), false);
        }
    }

    fn turn(&mut self, core: usize) {
        let now = self.clock();
        self.trace.mix(&[self.now, 1, core as u64]);
        // A turn looks at what has arrived before it looks at the clock.
        for wire in 0..self.wires.len() {
            if matches!(self.wires[wire].place, Place::On(on, _) if on == core) {
                self.feed(wire);
            }
        }
        if self.shards[core].poll_timeout().is_some_and(|at| at <= now.millis) {
            self.call(core, Shard::handle_timeout);
        }
        while let Some(action) = self.shards[core].poll_action() {
            self.act(core, action);
        }
        for wire in 0..self.wires.len() {
            let state = &mut self.wires[wire];
            let elsewhere = matches!(state.place, Place::On(on, _) if on != core);
            if !elsewhere && core::mem::take(&mut state.was_fed) && state.has_arrived() {
                self.cause(self.now, Event::Incoming(wire), true);
            }
        }
        // A busy core takes some of its batches later, when there is more in them.
        let busy = self.net.skips_lanes && self.cores[core].random.once_in(4);
        for to in 0..self.cores.len() {
            if busy && self.cores[core].random.once_in(2) {
                self.plan_turn(core);
            } else if let Some(batch) = self.shards[core].poll_envelopes(CoreId(to as u16)) {
                self.post(core, to, batch);
            }
        }
        match self.shards[core].poll_timeout().is_some_and(|at| at <= now.millis) {
            true => self.plan_turn(core),
            false => self.plan_deadline(core),
        }
    }

    fn post(&mut self, from: usize, to: usize, batch: EnvelopeBatch) {
        let (now, delay) = (self.now, self.net.lane);
        let lane = &mut self.lanes[from * self.cores.len() + to];
        let before = lane.batches.back().map_or(0, |(at, _)| *at);
        let at = before.max(lane.stalled_until).max(now + lane.random.below(delay * lane.factor));
        lane.batches.push_back((at, batch));
        self.cause(at, Event::Lane(from, to), true);
    }

    fn deliver(&mut self, from: usize, to: usize) {
        let now = self.now;
        let lane = &mut self.lanes[from * self.cores.len() + to];
        let Some((_, batch)) = lane.batches.pop_front_if(|(at, _)| *at <= now) else { return };
        self.trace.mix(&[now, 2, from as u64, to as u64]);
        self.call(to, |shard, now| shard.handle_envelopes(CoreId(from as u16), batch, now));
    }

    fn reply(&mut self, nth: usize) {
        match self.replies[nth].take() {
            Some(Reply::Answer(ticket, answer)) => {
                self.call(ticket.core.index(), |shard, now| shard.answer(ticket, answer, now));
            }
            Some(Reply::Committed(core, position)) => {
                let committed = &mut self.cores[core.index()].committed;
                *committed = position.max(*committed);
                self.call(core.index(), |shard, now| shard.store_committed(position, now));
            }
            None => {}
        }
    }

    /// The broker is told that a send is complete, also where its connection is gone by now.
    fn sent(&mut self, wire: usize) {
        let state = &mut self.wires[wire];
        if let (Some(buffer), Place::On(core, id)) = (state.sent.take(), &state.place) {
            let (core, id) = (*core, *id);
            self.call(core, |shard, now| shard.transmit_done(id, buffer, now));
        }
    }

    /// What has arrived goes into the shard, if it reads.
    fn feed(&mut self, wire: usize) {
        let now = self.now;
        let state = &mut self.wires[wire];
        state.arrive(now);
        let Place::On(core, id) = state.place else { return };
        if !state.has_arrived() {
            return;
        }
        let is_read = match (state.established, state.paused) {
            (false, paused) => !paused && !core::mem::replace(&mut state.was_fed, true),
            // What was on its way when the broker paused still comes.
            (true, paused) => !paused || state.random.once_in(8),
        };
        if !is_read {
            return;
        }
        let bytes = state.take_arrived(now);
        self.trace.mix(&[now, 3, wire as u64]);
        self.trace.mix_bytes(&bytes);
        self.call(core, |shard, now| shard.handle_input(id, &bytes, now));
    }

    fn lose(&mut self, wire: usize) {
        match self.wires[wire].place {
            Place::On(core, id) => {
                // What the shard has said of it and was not asked for yet comes behind this notice.
                self.wires[wire].place = Place::Gone;
                self.notices.push_back(Notice::Lost(wire));
                self.call(core, |shard, now| shard.connection_closed(id, now));
            }
            // It is lost when it has arrived.
            Place::Travelling { .. } => self.cause(self.now + 1, Event::Lost(wire), true),
            Place::Gone => {}
        }
    }

    fn arrive(&mut self, wire: usize) {
        let place = core::mem::replace(&mut self.wires[wire].place, Place::Gone);
        let Place::Travelling { to, mut handed } = place else {
            unreachable!("a connection that arrives is on its way: {place:?}");
        };
        // Received on the way by whoever had it before.
        if self.wires[wire].random.once_in(2) {
            let bytes = self.wires[wire].take_arrived(self.now);
            handed.push_input(&bytes);
        }
        // Its shard may speak of it within the call.
        match self.call(to, |shard, now| shard.connection_arrived(handed, now)) {
            Some(id) => {
                self.wires[wire].place = Place::On(to, id);
                self.wires[wire].paused = false;
                self.places.insert((to, id.index, id.generation), wire);
                self.cause(self.now, Event::Incoming(wire), true);
            }
            None => {
                self.wires[wire].close(Vec::new());
                self.notices.push_back(Notice::Closed(wire));
                self.pump(wire);
            }
        }
    }

    fn act(&mut self, core: usize, action: Action) {
        let find = |id: mqtt_broker::shard::ConnectionId| (core, id.index, id.generation);
        match action {
            Action::TransmitShared { id, pieces } => {
                self.act(core, Action::Transmit { id, buffer: pieces.into_vec() });
            }
            Action::Transmit { id, buffer } => {
                let Some(&wire) = self.places.get(&find(id)) else { return };
                self.trace.mix(&[self.now, 4, wire as u64]);
                self.trace.mix_bytes(&buffer);
                self.note_answer(wire, &buffer);
                self.wires[wire].transmit(buffer);
                self.pump(wire);
            }
            Action::Close { id, last, .. } => {
                let Some(&wire) = self.places.get(&find(id)) else { return };
                self.trace.mix(&[self.now, 5, wire as u64]);
                self.trace.mix_bytes(&last);
                self.note_answer(wire, &last);
                self.wires[wire].close(last);
                self.notices.push_back(Notice::Closed(wire));
                self.pump(wire);
            }
            Action::Handoff { id, to, handed } => {
                let Some(&wire) = self.places.get(&find(id)) else { return };
                let is_lost = matches!(self.wires[wire].place, Place::Gone);
                self.wires[wire].place = Place::Travelling { to: to.index(), handed };
                let delay = self.wires[wire].random.below(self.net.handoff);
                self.cause(self.now + delay, Event::Arrive(wire), true);
                if is_lost {
                    self.cause(self.now + delay, Event::Lost(wire), true);
                }
            }
            Action::Established { id } => {
                let Some(&wire) = self.places.get(&find(id)) else { return };
                self.wires[wire].established = true;
                self.notices.push_back(Notice::Established(wire));
            }
            Action::PauseRead { id } => {
                let Some(&wire) = self.places.get(&find(id)) else { return };
                self.wires[wire].paused = true;
            }
            Action::ResumeRead { id } => {
                let Some(&wire) = self.places.get(&find(id)) else { return };
                self.wires[wire].paused = false;
                self.cause(self.now, Event::Incoming(wire), true);
            }
            other => panic!("an action that the simulation does not know: {other:?}"),
        }
    }

    /// The first bytes of a connection are its CONNACK.
    fn note_answer(&mut self, wire: usize, bytes: &[u8]) {
        if self.wires[wire].answered || bytes.is_empty() {
            return;
        }
        self.wires[wire].answered = true;
        let body = bytes.iter().skip(1).position(|byte| byte & 0x80 == 0).map_or(0, |more| 2 + more);
        let flag = (bytes[0] == 0x20).then(|| bytes.get(body).is_some_and(|flags| flags & 1 == 1));
        self.notices.push_back(Notice::Answered(wire, flag));
    }

    /// Moves what the broker sends as far as there is room.
    fn pump(&mut self, wire: usize) {
        if self.wires[wire].pump(self.net.pipe_bytes) {
            let at = self.now + self.wires[wire].random.below(self.net.turn);
            self.cause(at, Event::Sent(wire), true);
        }
        let state = &mut self.wires[wire];
        if state.has_for_client() && state.client_reads && !state.outgoing_due {
            state.outgoing_due = true;
            let at = self.now + state.random.below(self.net.delay);
            self.cause(at, Event::Outgoing(wire), true);
        }
    }

    fn client_reads(&mut self, wire: usize) {
        let splits = self.net.splits;
        let state = &mut self.wires[wire];
        state.outgoing_due = false;
        if !state.client_open || !state.client_reads {
            return;
        }
        let bytes = state.read(splits);
        if !bytes.is_empty() {
            self.trace.mix(&[self.now, 6, wire as u64, bytes.len() as u64]);
            self.notices.push_back(Notice::Bytes(wire, bytes));
        } else if state.is_at_end() {
            state.client_open = false;
            self.notices.push_back(Notice::End(wire));
            return;
        }
        self.pump(wire);
    }
}
