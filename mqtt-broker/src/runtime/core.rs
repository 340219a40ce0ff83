//! The turn of one core: everything that a core does, again and again.
//!
//! 1. enter the ring: submit, sleep if there is nothing to do;
//! 2. feed what the ring has to the shard;
//! 3. take what other cores and other threads want;
//! 4. fire timers;
//! 5. do what the shard asks for: one send a connection, one batch a core;
//! 6. write what the turn has to keep, if there is a store and no write is under way.
//!
//! Under load turns grow by themselves; when idle a message leaves at once.
//!
//! Nothing here knows glommio: the task that runs the turn lives in [`super::start`].

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};

use super::clock;
use super::connections::Connections;
use super::gather::{GATHER, Gathering};
use super::shared::{BrokerError, Command, CorePort, LaneItem, Shared};
use super::store::{Disk, Done};
use crate::config::{CoreId, Limits};
use crate::ports::Reply;
use crate::ring::{Ring, Wait};
use crate::shard::{Now, Shard};
use crate::transport::LayerFactory;

/// Items taken from one lane, and commands taken, in one turn: no source keeps the others waiting.
pub(super) const ITEMS_A_TURN: usize = 64;

/// How long a core that ends waits for its log, at least.
const LOG_END_MILLIS: u64 = 10_000;

/// Whether the core goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// There is another turn.
    Next,
    /// The core has nothing left to do, or must stop at once.
    Ended,
}

/// How far a graceful end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Serving,
    /// Waiting for the accept queues to be empty.
    Draining {
        until: u64,
    },
    /// The clients have been told; waiting for their connections to close.
    Flushing {
        until: u64,
    },
    /// The log gets its last commit; the shard is not asked any more.
    Ending {
        until: u64,
    },
}

/// One core.
pub(super) struct Core {
    id: CoreId,
    shared: Arc<Shared>,
    ring: Ring,
    connections: Connections,
    /// Layers of the broker's listeners, by the number a command gives.
    layers: Arc<[Option<LayerFactory>]>,
    /// Connections that wait for room in the lane to each core.
    backlog: Vec<VecDeque<LaneItem>>,
    /// Lanes that were full when this core had, or may have had, something for them.
    blocked: Vec<bool>,
    stage: Stage,
    disk: Option<Disk>,
    /// The cores do not know yet all that each was restored with, which comes before anybody connects.
    restoring: bool,
    shutdown_millis: u64,
    gathering: Gathering,
    /// Monotonic milliseconds of the last turn.
    turned_at: u64,
}

impl Core {
    pub(super) fn new(
        id: CoreId,
        shared: Arc<Shared>,
        ring: Ring,
        shard: Shard,
        seed: u64,
        layers: Arc<[Option<LayerFactory>]>,
        limits: &Limits,
    ) -> Core {
        Core {
            restoring: false,
            disk: None,
            id,
            backlog: shared.cores.iter().map(|_| VecDeque::new()).collect(),
            blocked: vec![false; shared.cores.len()],
            shared,
            ring,
            connections: Connections::new(shard, seed),
            layers,
            stage: Stage::Serving,
            shutdown_millis: u64::from(limits.shutdown_timeout_seconds) * 1000,
            gathering: Gathering::default(),
            turned_at: 0,
        }
    }

    /// With a log, and a shard that was restored: before this core listens it tells the others what it knows.
    pub(super) fn with_disk(self, disk: Disk) -> Core {
        Core { disk: Some(disk), restoring: true, ..self }
    }

    /// One turn.
    ///
    /// # Errors
    /// The ring or the log is broken: nothing may leave any more.
    pub(super) fn turn(&mut self) -> Result<Turn, BrokerError> {
        let wait = self.wait();
        if self.shared.has_failed() {
            return Ok(Turn::Ended);
        }
        let gathers = wait != Wait::No && self.gathering.sleeps(self.turned_at);
        let entered = self.ring.enter(wait, if gathers { GATHER } else { Duration::ZERO });
        self.port().bell.unpark();
        entered.map_err(|error| self.broken(&error))?;
        if self.shared.has_failed() {
            return Ok(Turn::Ended);
        }
        let now = clock::now();
        self.turned_at = now.millis;
        self.ring.handle_timeout(now.millis);
        let received = self.connections.handle_events(&mut self.ring, now);
        if let Some(disk) = &mut self.disk
            && let Some((pages, result)) = self.connections.take_written()
        {
            let committed = disk.written(pages, result)?;
            self.connections.shard.store_committed(committed, now);
        }
        if let Stage::Ending { until } = self.stage {
            return self.end_log(until, now);
        }
        let batches = self.handle_lanes(now);
        self.gathering.woke(received + batches);
        self.handle_commands(now);
        if let Some(committed) = self.disk.as_mut().and_then(Disk::take_room) {
            self.connections.shard.store_committed(committed, now);
        }
        self.connections.handle_looks(now);
        if self.connections.shard.poll_timeout().is_some_and(|at| at <= now.millis) {
            self.connections.shard.handle_timeout(now);
        }
        let ended = self.handle_end(now);
        self.connections.handle_actions(&mut self.ring, now);
        self.send_to_cores();
        if self.restoring && self.connections.shard.is_restored() {
            self.restoring = false;
            self.shared.core_settled();
        }
        let Some(disk) = &mut self.disk else { return Ok(if ended { Turn::Ended } else { Turn::Next }) };
        disk.turn(&mut self.ring, &mut self.connections.shard, now.millis)?;
        if ended {
            disk.end();
            let until = now.millis + LOG_END_MILLIS.max(self.shutdown_millis);
            self.stage = Stage::Ending { until };
            return self.end_log(until, now);
        }
        Ok(Turn::Next)
    }

    /// A turn of a core of which only the log is left.
    fn end_log(&mut self, until: u64, now: Now) -> Result<Turn, BrokerError> {
        let Some(disk) = &mut self.disk else { return Ok(Turn::Ended) };
        while let Some(command) = self.shared.core(self.id).inbox.pop() {
            if let Command::Store(done) = command {
                disk.handle_done(done, now.millis);
            }
        }
        disk.turn_to_end(&mut self.ring)?;
        if disk.is_ended() {
            return Ok(Turn::Ended);
        }
        if now.millis < until && !disk.is_stuck() {
            return Ok(Turn::Next);
        }
        warn!(core = %self.id, "the log could not be ended in order: the next start goes on as after a crash");
        Ok(Turn::Ended)
    }

    fn broken(&self, error: &io::Error) -> BrokerError {
        BrokerError::Ring { core: self.id, message: error.to_string() }
    }

    fn port(&self) -> &CorePort {
        self.shared.core(self.id)
    }

    /// How long this core may sleep. Says that it sleeps before it looks for the last time.
    fn wait(&mut self) -> Wait {
        if self.ring.has_events() || self.connections.has_looks() {
            return Wait::No;
        }
        // What the shard was restored with is still to be told.
        if self.restoring && self.turned_at == 0 {
            return Wait::No;
        }
        let stage = match self.stage {
            Stage::Serving => None,
            Stage::Draining { until } | Stage::Flushing { until } | Stage::Ending { until } => Some(until),
        };
        let disk = self.disk.as_ref().and_then(Disk::poll_timeout);
        let shard = match self.stage {
            Stage::Ending { .. } => None,
            _ => self.connections.shard.poll_timeout(),
        };
        let due = [shard, self.ring.poll_timeout(), disk, stage];
        let wait = match due.into_iter().flatten().min() {
            None => Wait::Forever,
            Some(at) => match at.saturating_sub(clock::now().millis) {
                0 => return Wait::No,
                millis => Wait::For(Duration::from_millis(millis)),
            },
        };
        let port = self.port();
        let ends = matches!(self.stage, Stage::Ending { .. });
        let idle = || {
            port.inbox.is_empty()
                && (ends || port.lanes.iter().all(|lane| lane.is_empty()))
                && self
                    .blocked
                    .iter()
                    .zip(&self.shared.cores)
                    .all(|(&blocked, core)| !blocked || !core.lanes[self.id.index()].has_room())
                && !self.shared.has_failed()
        };
        if port.bell.park(idle) { wait } else { Wait::No }
    }

    /// Takes what other cores have sent; how many items.
    fn handle_lanes(&mut self, now: Now) -> usize {
        let mut taken = 0;
        for from in 0..self.shared.cores.len() {
            let port = self.shared.core(self.id);
            let lane = &port.lanes[from];
            if lane.is_empty() {
                continue;
            }
            for _ in 0..ITEMS_A_TURN {
                match lane.pop() {
                    Some(LaneItem::Envelopes(batch)) => {
                        self.connections.shard.handle_envelopes(CoreId(from as u16), batch, now);
                    }
                    Some(LaneItem::Moved(moved)) => self.connections.arrive(&mut self.ring, *moved, now),
                    None => break,
                }
                taken += 1;
            }
            if lane.room_was_wanted() {
                self.shared.cores[from].bell.ring();
            }
        }
        taken
    }

    fn handle_commands(&mut self, now: Now) {
        for _ in 0..ITEMS_A_TURN {
            let Some(command) = self.port().inbox.pop() else { return };
            match command {
                Command::Listen(sockets) => {
                    for (socket, layer) in sockets {
                        self.connections.add_listener(self.layers[layer].clone());
                        self.ring.listen(socket);
                    }
                }
                Command::Shutdown => {
                    if self.stage == Stage::Serving {
                        debug!(core = %self.id, "shutting down");
                        self.ring.stop_accepting();
                        self.stage = Stage::Draining { until: now.millis + self.shutdown_millis };
                    }
                }
                // Whoever asked may have gone.
                Command::Stats(asker) => {
                    self.connections.shard.note_store();
                    let _ = asker.send((self.id, self.connections.shard.stats().clone()));
                }
                Command::Reply(Reply::Answer(ticket, answer)) => {
                    self.connections.shard.answer(ticket, answer, now);
                }
                Command::Reply(Reply::Committed(_, position)) => {
                    self.connections.shard.store_committed(position, now);
                }
                Command::Open(pipe) => self.connections.open_local(&mut self.ring, pipe, now),
                Command::Look(pipe) => {
                    let owner = pipe.core();
                    if owner == self.id {
                        self.connections.look(&pipe);
                    } else {
                        self.shared.core(owner).command(Command::Look(pipe));
                    }
                }
                Command::Store(Done::Cold(done)) => done.tell(&mut self.connections.shard, now),
                Command::Store(done) => {
                    if let Some(disk) = &mut self.disk {
                        disk.handle_done(done, now.millis);
                    }
                }
            }
        }
    }

    /// The end in stages: stop accepting, tell all clients, wait until they are gone, but not for ever.
    fn handle_end(&mut self, now: Now) -> bool {
        if let Stage::Draining { until } = self.stage
            && !self.ring.is_listening()
            && !self.ring.has_events()
        {
            self.connections.shard.shutdown(now);
            self.connections.handle_actions(&mut self.ring, now);
            self.stage = Stage::Flushing { until };
        }
        match self.stage {
            Stage::Serving | Stage::Ending { .. } => false,
            Stage::Draining { until } => now.millis >= until,
            Stage::Flushing { until } => {
                // Connections that were on their way between cores have arrived.
                if self.connections.shard.connections() > 0 {
                    self.connections.shard.shutdown(now);
                    self.connections.handle_actions(&mut self.ring, now);
                }
                now.millis >= until || (self.ring.sockets() == 0 && self.connections.locals() == 0)
            }
        }
    }

    /// Hands over what other cores are to get: connections, then the shard's envelopes. A full lane keeps both here.
    fn send_to_cores(&mut self) {
        for (to, item) in self.connections.take_departures() {
            self.backlog[to.index()].push_back(item);
        }
        for (to, core) in self.shared.cores.iter().enumerate() {
            if to == self.id.index() {
                continue;
            }
            let mut sent = false;
            while core.lanes[self.id.index()].has_room() {
                let item = self.backlog[to].pop_front().or_else(|| {
                    self.connections.shard.poll_envelopes(CoreId(to as u16)).map(LaneItem::Envelopes)
                });
                let Some(item) = item else { break };
                core.send(self.id, item);
                sent = true;
            }
            self.blocked[to] = !core.lanes[self.id.index()].has_room();
            if sent {
                core.bell.ring();
            }
        }
    }

    /// Submits what the last turn queued, before the thread does something else.
    ///
    /// # Errors
    /// The ring is broken.
    pub(super) fn flush(&mut self) -> Result<(), BrokerError> {
        if self.shared.has_failed() {
            return Ok(());
        }
        self.ring.enter(Wait::No, Duration::ZERO).map_err(|error| self.broken(&error))
    }
}
