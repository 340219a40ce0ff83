//! One core's state as a machine without I/O: inputs are bytes, envelopes of other cores, time and answers of ports;
//! outputs are bytes, batches for other cores and requests to the runtime.
//!
//! The caller's loop, one call at a time and never re-entered:
//! 1. feed what happened through the `handle_*` methods, [`Shard::connection_opened`] and its siblings;
//! 2. take every [`Action`] from [`Shard::poll_action`];
//! 3. take at most one batch for each other core from [`Shard::poll_envelopes`] and pass it to that core's
//!    [`Shard::handle_envelopes`], in order;
//! 4. wait for more, at most until [`Shard::poll_timeout`], and then call [`Shard::handle_timeout`].
//!
//! A panic is our bug. Whatever a peer sends ends in an answer or in the end of its own connection.

mod authenticate;
mod barrier;
mod begun;
mod budget;
mod client_id;
mod close;
mod cold;
mod cold_moves;
mod connect;
mod connection;
mod contract;
mod deliver;
mod envelope;
mod frame;
mod gates;
mod gather;
mod gathers;
mod group_messages;
mod handover;
mod homes;
mod input;
mod lanes;
mod leaving;
mod lifecycle;
mod owned_groups;
mod peers;
mod publish;
mod queue;
mod records;
mod restore;
mod retained;
mod routes;
mod run;
mod session;
mod shared;
mod snapshot;
mod stats;
mod subscribe;
mod sys;
mod table;
mod unreadable;
mod wheel;
mod whereabouts;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashMap;
use mqtt_proto::connection::{Receiver, Role};
use mqtt_proto::types::{PacketId, ReasonCode};

use crate::config::{CoreId, Limits};
use crate::message::{Message, Spares};
use crate::ports::{Answer, Authenticate, Authorize, Commit, Hooks, Permission, Ports, Ticket};
use crate::router::{CoreSet, GroupId, Interest, Matches, Retained, Subscriptions};

use barrier::Barrier;
use begun::Begun;
use budget::Budget;
use cold::Parking;
use cold_moves::Moves;
use connection::{Connection, Output, Peer, Why};
use frame::Frame;
use gates::Gates;
use gather::WaitingGather;
use handover::Handover;
use homes::Homes;
use input::Step;
use lanes::{Lanes, Waiter};
use owned_groups::OwnedGroups;
use records::Records;
use retained::Expiries;
use routes::Routes;
use session::Sessions;
use shared::Join;
use table::{Key, Table};
use wheel::Wheel;

pub use crate::pieces::Pieces;
pub use contract::{Action, ConnectionId, ConnectionInfo, Handed, Now, ShardConfig};
pub use envelope::EnvelopeBatch;
pub use homes::home_of;
pub use snapshot::SnapshotPosition;
pub use stats::{DropReason, Stats};

/// One core's part of the broker.
pub struct Shard {
    core: CoreId,
    limits: Arc<Limits>,
    homes: Homes,
    ports: Asked,
    records: Records,
    now: Now,
    started: Now,
    connections: Table<Connection>,
    sessions: Sessions,
    subscriptions: Subscriptions,
    interest: Interest,
    routes: Routes,
    groups: OwnedGroups,
    retained: Retained<Message>,
    /// How many of them are the `$SYS` tree's, and their bytes: they count neither in it nor for a bound.
    of_tree: (u64, u64),
    /// Those of them that expire.
    expiries: Expiries,
    lanes: Lanes,
    /// The timers of connections, by their index: connect timeout, Keep Alive or the patience for a decision.
    wheel: Wheel,
    /// Monotonic milliseconds of the next publication of the `$SYS` tree; `u64::MAX` for never.
    sys_at: u64,
    /// The timers of the sessions whose Clients are away, by their index: when they end. Unlike those of connections they
    /// are cancelled when they no longer count, as they may lie years ahead.
    ends: Wheel,
    /// Wills that are delayed, by the time at which they are published: they are few.
    wills: BTreeSet<(u64, Key)>,
    parking: Parking,
    moves: Moves,
    barriers: HashMap<u64, Barrier, RandomState>,
    /// The last barrier of ours that each core has answered.
    answered: Vec<u64>,
    /// Which session a gathering of retained messages, or a join of a shared group, belongs to.
    gathers: HashMap<u64, Key, RandomState>,
    /// Requests for retained messages that wait until this core has handled enough.
    waiting_gathers: Vec<WaitingGather>,
    /// Sessions whose gathering from this core goes on with the next turn.
    gathering: Vec<Key>,
    /// Joins of shared groups that their owners have not answered, and those not yet asked for.
    joins: HashMap<u64, Join, RandomState>,
    new_joins: Vec<u64>,
    next_token: u64,
    /// Counts the questions asked of ports.
    questions: u32,
    store_waiters: VecDeque<Waiter>,
    /// Connections whose output waits for the store.
    gates: Gates,
    /// Messages between cores that have numbers.
    handover: Handover,
    begun: Begun,
    /// Barriers that are answered once the store has got to a position: that, who asked, and under which token.
    late_barriers: VecDeque<(u64, CoreId, u64)>,
    /// The cores of which not everybody knows yet what was restored there, until there is none.
    restoring: Option<CoreSet>,
    /// Wall times of the starts that the store knew of, this one included.
    starts: Vec<u64>,
    /// Connections whose next packet waits for room in a lane.
    lane_blocked: Vec<Key>,
    /// Connections whose next packet waits for the store, or for answers: lest it overtake what went to other cores, or as the
    /// store has enough to write.
    order_blocked: Vec<Key>,
    actions: VecDeque<Action>,
    /// Connections with bytes to send.
    dirty: VecDeque<Key>,
    buffers: Vec<Vec<u8>>,
    /// Late answers to what the packet at hand asks, by their position in it.
    answers: Vec<(u16, Permission)>,
    /// Milliseconds that the packet at hand was held.
    waited: u64,
    /// The connection whose last input is being handled: its Client has gone.
    leaving: Option<(Key, u64)>,
    // Kept between calls for their memory alone.
    spares: Spares,
    frame: Frame,
    matches: Matches,
    group_matches: Vec<GroupId>,
    properties: Vec<u8>,
    packet_ids: Vec<PacketId>,
    /// When a slow subscriber is worth a line in the log again, in monotonic milliseconds.
    tell_slow_at: u64,
    due: Vec<u32>,
    stats: Stats,
    /// The last counters that the other cores told core 0.
    peer_stats: Vec<Stats>,
    /// What was published last below `$SYS`.
    sys_values: BTreeMap<Box<str>, Box<str>>,
    budget: Budget,
}

/// The ports but for the store, which is told by [`Records`].
struct Asked {
    authenticate: Box<dyn Authenticate>,
    authorize: Box<dyn Authorize>,
    hooks: Box<dyn Hooks>,
}

/// Send buffers kept for re-use a core, and the largest worth keeping.
const BUFFERS_MAX: usize = 256;
const BUFFER_BYTES_MAX: usize = 64 * 1024;

impl From<ConnectionId> for Key {
    fn from(id: ConnectionId) -> Key {
        Key { index: id.index, generation: id.generation }
    }
}

impl From<Key> for ConnectionId {
    fn from(key: Key) -> ConnectionId {
        ConnectionId { index: key.index, generation: key.generation }
    }
}

impl Shard {
    /// An empty core.
    ///
    /// # Panics
    /// If `config.core` is not below `config.cores`, or that is 0 or above [`CoreId::MAX`].
    pub fn new(config: ShardConfig, ports: Ports, now: Now) -> Shard {
        let ShardConfig { core, cores, limits, hash_key, seed } = config;
        assert!(core.0 < cores && usize::from(cores) <= CoreId::MAX, "core {core} of {cores}");
        let homes = Homes::new(core, cores, hash_key, seed);
        let Ports { authenticate, authorize, store, hooks } = ports;
        let seeds = |purpose: u64| [seed, hash_key[0], hash_key[1], purpose];
        let state = |purpose| {
            let [a, b, c, d] = seeds(purpose);
            RandomState::with_seeds(a, b, c, d)
        };
        Shard {
            core,
            homes,
            ports: Asked { authenticate, authorize, hooks },
            records: Records::new(store, limits.store_waiting_bytes_max),
            now,
            started: now,
            connections: Table::new(),
            sessions: Sessions::new(state(1)),
            subscriptions: Subscriptions::new(seeds(2)),
            interest: Interest::new(hash_key),
            routes: Routes::new(state(7)),
            groups: OwnedGroups::new(seeds(3)),
            retained: Retained::new(seeds(8)),
            of_tree: (0, 0),
            expiries: Expiries::default(),
            lanes: Lanes::new(core, cores, limits.lane_bytes_max),
            wheel: Wheel::new(now.millis),
            sys_at: if limits.sys_interval_seconds == 0 { u64::MAX } else { now.millis + 1000 },
            ends: Wheel::new(now.millis),
            wills: BTreeSet::new(),
            parking: Parking::new(state(10)),
            moves: Moves::new(state(11)),
            barriers: HashMap::with_hasher(state(4)),
            answered: vec![0; usize::from(cores)],
            gathers: HashMap::with_hasher(state(5)),
            waiting_gathers: Vec::new(),
            gathering: Vec::new(),
            joins: HashMap::with_hasher(state(6)),
            new_joins: Vec::new(),
            next_token: 0,
            questions: 0,
            store_waiters: VecDeque::new(),
            gates: Gates::new(state(9)),
            handover: Handover::new(cores, limits.lane_bytes_max),
            begun: Begun::new(config.core),
            late_barriers: VecDeque::new(),
            restoring: None,
            starts: Vec::new(),
            lane_blocked: Vec::new(),
            order_blocked: Vec::new(),
            actions: VecDeque::new(),
            dirty: VecDeque::new(),
            buffers: Vec::new(),
            answers: Vec::new(),
            waited: 0,
            leaving: None,
            spares: Spares::default(),
            frame: Frame::default(),
            matches: Matches::default(),
            group_matches: Vec::new(),
            properties: Vec::new(),
            packet_ids: Vec::new(),
            tell_slow_at: 0,
            due: Vec::new(),
            stats: Stats::default(),
            peer_stats: vec![Stats::default(); usize::from(cores)],
            sys_values: BTreeMap::new(),
            budget: Budget::new(core, cores, &limits),
            limits,
        }
    }

    /// A Network Connection was accepted on this core. `None`: there are too many, close it.
    pub fn connection_opened(&mut self, info: ConnectionInfo, now: Now) -> Option<ConnectionId> {
        self.now = now;
        let max = u64::from(self.limits.connections_max);
        if max != 0 && self.budget.connections() >= max {
            return None;
        }
        let key = self.insert_connection(info.peer.into());
        self.stats.connections_opened += 1;
        let deadline = now.millis + u64::from(self.limits.connect_timeout_seconds) * 1000;
        self.arm_connection(key, deadline);
        self.settle();
        Some(key.into())
    }

    /// Another core hands over a connection whose session is at home here. `None`: close it.
    #[expect(clippy::boxed_local, reason = "it travels boxed, as in `Action::Handoff`")]
    pub fn connection_arrived(&mut self, handed: Box<Handed>, now: Now) -> Option<ConnectionId> {
        self.now = now;
        let Handed { peer, connect, input, approved } = *handed;
        let key = self.insert_connection(peer);
        self.accept_handed(key, &connect, &input, approved);
        self.settle();
        Some(key.into())
    }

    fn insert_connection(&mut self, peer: Peer) -> Key {
        let mut receiver =
            Receiver::new(Role::Server, self.limits.connect_bytes_max.min(self.limits.packet_bytes_max));
        receiver.set_topic_alias_maximum(self.limits.topic_alias_maximum);
        self.stats.connections += 1;
        self.budget.own.connections += 1;
        self.connections.insert(Connection::new(peer, receiver))
    }

    /// Bytes came. All of them are taken; those of a connection that is gone are ignored.
    pub fn handle_input(&mut self, id: ConnectionId, input: &[u8], now: Now) {
        self.now = now;
        self.take_input(id.into(), input);
        self.settle();
    }

    /// The peer ended the Network Connection, or it broke. No action names it any more.
    pub fn connection_closed(&mut self, id: ConnectionId, now: Now) {
        self.now = now;
        self.lose(id.into());
        self.settle();
    }

    /// The buffer of an [`Action::Transmit`] was sent, or cannot be.
    pub fn transmit_done(&mut self, id: ConnectionId, buffer: Vec<u8>, now: Now) {
        self.now = now;
        self.recycle(buffer);
        if let Some(connection) =
            self.connections.get_mut(id.into()).filter(|connection| !connection.is_leaving())
        {
            connection.output.outstanding = 0;
            let session = connection.live().map(|live| live.session);
            if !connection.output.buffer.is_empty() {
                self.mark_dirty(id.into());
            }
            if let Some(session) = session {
                self.pump(session);
            }
        }
        self.settle();
    }

    /// Everything another core had to say.
    pub fn handle_envelopes(&mut self, from: CoreId, batch: EnvelopeBatch, now: Now) {
        self.now = now;
        self.take_batch(from, batch);
        self.settle();
    }

    /// The store has committed every record up to this position.
    pub fn store_committed(&mut self, up_to: u64, now: Now) {
        self.now = now;
        self.open_gates(up_to);
        self.lanes.store_committed(up_to);
        self.handover.store_committed(up_to);
        self.answer_late_barriers(up_to);
        while let Some(waiter) = self.store_waiters.pop_front_if(|waiter| waiter.seq <= up_to) {
            self.pending_done(waiter.connection, waiter.serial);
        }
        self.records.look_for_room();
        let mut waiting = core::mem::take(&mut self.order_blocked);
        // Who was held again before its turn came is there more than once.
        waiting.sort_unstable();
        waiting.dedup();
        for key in waiting {
            if self.waits_for(key, Why::Order) {
                self.go_on(key, Step::Next);
            }
        }
        self.park_some();
        self.move_some();
        self.settle();
    }

    /// A port answers a question it had put off.
    pub fn answer(&mut self, ticket: Ticket, answer: Answer, now: Now) {
        self.now = now;
        self.take_answer(ticket, answer);
        self.settle();
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        let mut due = core::mem::take(&mut self.due);
        self.wheel.advance(now.millis, &mut due);
        for index in due.drain(..) {
            self.connection_due(index);
        }
        self.due = due;
        if self.sys_at <= now.millis {
            self.sys_due();
        }
        self.records.look_for_room();
        self.away_due();
        self.expire_retained();
        self.go_on_gathering();
        self.park_some();
        self.move_some();
        self.settle();
    }

    /// Ends every connection, 5.0 Clients being told that the Server shuts down. Wills are not published: their
    /// Clients did not go away.
    pub fn shutdown(&mut self, now: Now) {
        self.now = now;
        for key in self.connections.keys() {
            self.close(key, Some(ReasonCode::SERVER_SHUTTING_DOWN), false);
        }
        self.settle();
    }

    /// The next thing the runtime has to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        while let Some(key) = self.dirty.pop_front() {
            let Some(connection) = self.connections.get_mut(key) else { continue };
            let output = &mut connection.output;
            output.dirty = false;
            if output.outstanding != 0 || output.buffer.is_empty() {
                continue;
            }
            let id = key.into();
            if output.gated {
                let free = self.gates.free(key);
                if free == 0 {
                    continue;
                }
                self.gates.taken(key, free);
                let behind = output.split_off(free, self.buffers.pop().unwrap_or_default());
                let action = Self::transmit(id, output, &mut self.stats);
                (output.buffer, output.shared) = behind;
                return Some(action);
            }
            return Some(Self::transmit(id, output, &mut self.stats));
        }
        None
    }

    /// Sends all that waits in `output`.
    fn transmit(id: ConnectionId, output: &mut Output, stats: &mut Stats) -> Action {
        let action = match output.shared {
            None => Action::Transmit { id, buffer: core::mem::take(&mut output.buffer) },
            Some(_) => Action::TransmitShared { id, pieces: output.take() },
        };
        let bytes = match &action {
            Action::TransmitShared { pieces, .. } => pieces.len(),
            Action::Transmit { buffer, .. } => buffer.len(),
            _ => 0,
        };
        output.outstanding = u32::try_from(bytes).unwrap_or(u32::MAX);
        stats.bytes_sent += bytes as u64;
        action
    }

    /// What there is to tell core `to`.
    pub fn poll_envelopes(&mut self, to: CoreId) -> Option<EnvelopeBatch> {
        self.lanes.poll(to, self.records.are_behind())
    }

    /// Monotonic milliseconds of the next deadline.
    pub fn poll_timeout(&self) -> Option<u64> {
        if !self.gathering.is_empty() || self.parking.goes_on || self.moves.goes_on {
            return Some(self.now.millis);
        }
        let wills = self.wills.first().map(|&(deadline, _)| deadline);
        let away = [wills, self.ends.next()].map(|at| at.filter(|_| self.restoring.is_none()));
        let sys = (self.sys_at != u64::MAX).then_some(self.sys_at);
        [self.wheel.next(), self.expiries.next(), sys].into_iter().chain(away).flatten().min()
    }

    /// The counters of this core.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Network Connections on this core.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// What every call ends with.
    fn settle(&mut self) {
        self.stats.sessions = self.sessions.len() as u64;
        self.stats.sessions_unreadable = self.parking.unreadable.len() as u64;
        self.stats.subscriptions = self.subscriptions.len() as u64;
        self.stats.retained_messages = self.retained.len() as u64 - self.of_tree.0;
        self.stats.retained_bytes = self.retained.bytes() as u64 - self.of_tree.1;
        self.share_load();
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
    }

    fn check_invariants(&self) {
        self.lanes.check_invariants();
        self.handover.check_invariants();
        debug_assert_eq!(self.stats.connections, self.connections.len() as u64);
        debug_assert!(self.stats.clients_connected <= self.stats.connections);
        debug_assert!(self.expiries.len() <= self.retained.len());
        self.check_unreadable();
        // The rest walks over everything: only while that is little.
        if self.sessions.len() > 64 || self.gathers.len() > 256 {
            return;
        }
        self.groups.check_invariants();
        let ((mut kept, mut bytes), mut parked) = (self.groups.kept(), 0);
        for (key, session) in self.sessions.iter() {
            kept += session.kept();
            bytes += session.queue_bytes();
            if let Some(flight) = session.known_flight() {
                flight.queue.check_invariants();
            }
            if let Some(cold) = session.cold() {
                cold.check_invariants();
                parked += cold.parked.messages();
            }
            let connection = session.connection();
            let live =
                connection.and_then(|connection| self.connections.get(connection)).and_then(|c| c.live());
            debug_assert!(connection.is_none() || live.is_some_and(|live| live.session == key));
            if let Some(gathers) = session.gathers() {
                gathers.check_invariants();
                debug_assert!(gathers.tokens().all(|token| self.gathers.get(&token) == Some(&key)));
            }
        }
        debug_assert_eq!(self.stats.messages_kept, kept as u64);
        debug_assert_eq!(self.stats.queue_bytes, bytes as u64);
        debug_assert_eq!(self.stats.messages_parked, parked);
    }

    /// A token for a question to other cores.
    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    /// Notes that the connection has bytes to send.
    fn mark_dirty(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(key)
            && !connection.output.dirty
        {
            connection.output.dirty = true;
            self.dirty.push_back(key);
        }
    }

    /// An empty buffer, out of those that came back.
    fn buffer(&mut self) -> Vec<u8> {
        self.buffers.pop().unwrap_or_default()
    }

    fn recycle(&mut self, mut buffer: Vec<u8>) {
        if self.buffers.len() < BUFFERS_MAX && (1..=BUFFER_BYTES_MAX).contains(&buffer.capacity()) {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }

    /// The store's position of `commit` if it has not got there.
    fn ahead(&self, commit: Commit) -> Option<u64> {
        match commit {
            Commit::At(position) => Some(position).filter(|&position| position > self.gates.committed()),
            Commit::Now => None,
        }
    }

    /// What is sent to the connection from now on leaves once `commit` is there.
    fn close_gate(&mut self, key: Key, commit: Commit) {
        if let Some(connection) = self.connections.get_mut(key) {
            self.gates.close(key, &mut connection.output, commit);
        }
    }

    /// Lets go of what the store has committed.
    fn open_gates(&mut self, committed: u64) {
        let (connections, dirty) = (&mut self.connections, &mut self.dirty);
        self.gates.commit(committed, |key, all| {
            let Some(connection) = connections.get_mut(key) else { return };
            connection.output.gated = !all;
            if !core::mem::replace(&mut connection.output.dirty, true) {
                dirty.push_back(key);
            }
        });
    }

    /// Sets the connection's timer, or moves it.
    fn arm_connection(&mut self, key: Key, deadline: u64) {
        if self.connections.get(key).is_some() {
            self.wheel.set(key.index, deadline);
        }
    }

    fn connection_due(&mut self, index: u32) {
        // What was due before it may have ended it, or given it more time.
        let Some(key) = self.connections.at(index).filter(|_| !self.wheel.is_set(index)) else { return };
        let Some(connection) = self.connections.get(key) else { return };
        if connection.live().is_none() {
            // Connect timeout: whoever is silent, or never decided on, is not told anything.
            return self.close(key, None, false);
        }
        if let Some(held) = &connection.held
            && matches!(held.why, Why::Authentication(_) | Why::Permission(..))
        {
            return self.close(key, Some(ReasonCode::SERVER_BUSY), true);
        }
        match connection.keep_alive_deadline(self.now.millis) {
            // [MQTT-3.1.2-22]
            Some(at) if at <= self.now.millis => self.close(key, Some(ReasonCode::KEEP_ALIVE_TIMEOUT), true),
            Some(at) => self.arm_connection(key, at),
            // While we do not read, silence is not the Client's.
            None => {
                if let Some(patience) = connection.patience() {
                    self.arm_connection(key, self.now.millis + patience);
                }
            }
        }
    }
}

impl core::fmt::Debug for Shard {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Shard").field("core", &self.core).field("stats", &self.stats).finish_non_exhaustive()
    }
}
