//! What moves a run on: batches and connections arrive, writes are done, time passes, and Clients send and take bytes.

use mqtt_broker::config::CoreId;
use mqtt_broker::shard::{Action, ConnectionId, ConnectionInfo, Now, Shard};
use mqtt_proto::codec;
use mqtt_proto::packet::Packet;
use mqtt_proto::types::Version;

use super::disk::Left;
use super::peer::{Link, Peer};
use super::{Check, Cluster, violation};

/// Rounds after which whatever still moves goes round in circles.
const ROUNDS_MAX: usize = 20_000;

/// How long a rest goes on, and who takes part.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Everybody comes back, and full logs are made short.
    All,
    /// Those who are gone stay away.
    AsIs,
}

/// A run of one kind: a broker, Clients, and what they make of what happens.
pub(crate) trait Drive {
    fn cluster(&mut self) -> &mut Cluster;

    /// How many Clients there are.
    fn clients(&self) -> usize;

    /// Name and version of a Client.
    fn name(&self, nth: usize) -> (&str, Version);

    fn peer(&mut self, nth: usize) -> &mut Peer;

    /// A Client that has no connection opens one.
    fn connect(&mut self, nth: usize);

    /// A Client takes a packet.
    fn take(&mut self, nth: usize, packet: &Packet<'_>) -> Check;

    /// All is to come to rest: what a Client still wants it asks for.
    fn ask_for_all(&mut self, _nth: usize) {}

    /// The broker has ended a connection, and nothing that its Client sends arrives from now on.
    fn closed(&mut self, _nth: usize) {}

    /// A Client has read the end of its connection.
    fn check_end(&mut self, _nth: usize) -> Check {
        Ok(())
    }

    /// An old CONNECT of a Client has arrived, and goes at once.
    fn arrived_late(&mut self, _nth: usize) {}

    /// A write is done.
    fn committed(&mut self) {}

    /// Milliseconds have passed, and what was due has happened.
    fn passed(&mut self, _millis: u64) {}

    /// The connection of a Client, if it has one.
    fn link(&mut self, nth: usize) -> Option<&mut Link> {
        self.peer(nth).link.as_mut()
    }

    fn call<T>(&mut self, core: usize, use_it: impl FnOnce(&mut Shard, Now) -> T) -> T {
        let Cluster { shards, now, .. } = self.cluster();
        let result = use_it(&mut shards[core], *now);
        while let Some(action) = self.cluster().shards[core].poll_action() {
            self.act(core, action);
        }
        let Cluster { shards, lanes, disks, .. } = self.cluster();
        let cores = shards.len();
        for to in 0..cores {
            if let Some(batch) = shards[core].poll_envelopes(CoreId(to as u16)) {
                lanes[core * cores + to].push_back(batch);
            }
        }
        disks[core].go_on();
        self.cluster().remove_chunks(core);
        result
    }

    fn act(&mut self, core: usize, action: Action) {
        match action {
            Action::TransmitShared { id, pieces } => {
                self.act(core, Action::Transmit { id, buffer: pieces.into_vec() });
            }
            Action::Transmit { id, buffer } => {
                if let Some(link) = self.client_of(core, id).and_then(|nth| self.link(nth)) {
                    link.from_broker.extend_from_slice(&buffer);
                }
                let Cluster { shards, now, .. } = self.cluster();
                shards[core].transmit_done(id, buffer, *now);
            }
            Action::Close { id, last, .. } => {
                let Some(nth) = self.client_of(core, id) else { return };
                if let Some(link) = self.link(nth) {
                    link.from_broker.extend_from_slice(&last);
                    (link.id, link.is_closed) = (None, true);
                }
                self.closed(nth);
            }
            Action::Handoff { id, to, handed } => {
                let Some(nth) = self.client_of(core, id) else { return };
                let cluster = self.cluster();
                cluster.handovers += 1;
                let handover = cluster.handovers;
                cluster.moving.push((handover, nth, to.index(), handed));
                if let Some(link) = self.link(nth) {
                    (link.id, link.handover) = (None, handover);
                }
            }
            Action::PauseRead { id } => self.paused(core, id, true),
            Action::ResumeRead { id } => self.paused(core, id, false),
            Action::Established { .. } => {}
            other => panic!("an action that the simulation does not know: {other:?}"),
        }
    }

    fn paused(&mut self, core: usize, id: ConnectionId, is_paused: bool) {
        if let Some(link) = self.client_of(core, id).and_then(|nth| self.link(nth)) {
            link.is_paused = is_paused;
        }
    }

    /// Whose connection that is.
    fn client_of(&mut self, core: usize, id: ConnectionId) -> Option<usize> {
        let is_its = |link: &mut Link| (link.core, link.id) == (core, Some(id));
        (0..self.clients()).find(|&nth| self.link(nth).is_some_and(is_its))
    }

    /// A connection is opened, on any core.
    fn open(&mut self, nth: usize) {
        let cluster = self.cluster();
        let core = cluster.random.index(cluster.shards.len());
        let id = self.call(core, |shard, now| shard.connection_opened(ConnectionInfo::default(), now));
        let now = self.cluster().now;
        self.peer(nth).open(core, id.expect("there is room for all connections"), now);
    }

    /// A batch arrives; whether there was one.
    fn deliver(&mut self, lane: usize) -> bool {
        let cluster = self.cluster();
        let cores = cluster.shards.len();
        if cluster.is_dead(lane % cores) {
            return false;
        }
        let Some(batch) = cluster.lanes[lane].pop_front() else { return false };
        let from = CoreId((lane / cores) as u16);
        self.call(lane % cores, |shard, now| shard.handle_envelopes(from, batch, now));
        true
    }

    /// A write is done; whether there was one.
    fn written(&mut self, core: usize) -> bool {
        let cluster = self.cluster();
        if cluster.held == Some(core) {
            return false;
        }
        let Some(committed) = cluster.disks[core].written() else { return false };
        self.call(core, |shard, now| shard.store_committed(committed, now));
        self.committed();
        true
    }

    /// A chunk is written or read; whether there was something to do.
    fn serve(&mut self, core: usize) -> Check<bool> {
        let Some(tell) = self.cluster().serve_chunk(core)? else { return Ok(false) };
        self.call(core, tell);
        Ok(true)
    }

    /// Some of a snapshot is made. What it sets free the shard learns of.
    fn snapshot(&mut self, core: usize) {
        let Cluster { shards, disks, random, .. } = self.cluster();
        if disks[core].snapshot(&mut shards[core], random) {
            self.look_for_room(core);
        }
    }

    fn give_room(&mut self, core: usize) {
        self.cluster().disks[core].leave(Left::Plenty);
        // There is none before the segments are made that are asked for.
        self.look_for_room(core);
        self.look_for_room(core);
    }

    fn look_for_room(&mut self, core: usize) {
        let committed = self.cluster().disks[core].committed();
        self.call(core, |shard, now| shard.store_committed(committed, now));
    }

    /// A connection arrives on the core of its session; whether there was one.
    fn arrive(&mut self) -> bool {
        let Cluster { moving, random, shards, now, .. } = self.cluster();
        if moving.is_empty() {
            return false;
        }
        let (handover, nth, to, handed) = moving.swap_remove(random.index(moving.len()));
        let id = shards[to].connection_arrived(handed, *now).expect("there is room for all connections");
        let is_its = |link: &&mut Link| link.handover == handover && link.id.is_none() && !link.is_closed;
        match self.link(nth).filter(is_its) {
            Some(link) => {
                (link.core, link.id) = (to, Some(id));
                self.call(to, |_, _| ());
            }
            None => {
                // It may have ended a connection that its Client has opened meanwhile, and taken its Will away.
                if let Some(link) = self.link(nth) {
                    link.is_doubtful = true;
                }
                self.arrived_late(nth);
                self.call(to, |shard, now| shard.connection_closed(id, now));
            }
        }
        true
    }

    fn pass(&mut self, millis: u64) {
        let now = &mut self.cluster().now;
        (now.millis, now.wall_millis) = (now.millis + millis, now.wall_millis + millis);
        for core in 0..self.cluster().shards.len() {
            if self.cluster().is_due(core) {
                self.call(core, Shard::handle_timeout);
            }
        }
        self.passed(millis);
    }

    /// Some of what a Client has sent arrives; whether there was anything.
    fn feed(&mut self, nth: usize, bytes: usize) -> bool {
        let Some(link) = self.link(nth) else { return false };
        let Some(id) = link.id else { return false };
        let (core, some) = (link.core, link.next_input(bytes));
        if some.is_empty() || self.cluster().is_dead(core) {
            return false;
        }
        self.call(core, |shard, now| shard.handle_input(id, &some, now));
        true
    }

    /// A Client takes the next packet; whether there was one, or the end of its connection.
    fn read(&mut self, nth: usize, bytes: usize) -> Check<bool> {
        let Some(frame) = self.peer(nth).receive(bytes) else {
            let has_ended = self.link(nth).is_some_and(|link| link.is_closed && link.from_broker.is_empty());
            if has_ended {
                self.check_end(nth)?;
                self.peer(nth).link = None;
            }
            return Ok(has_ended);
        };
        let (_, version) = self.name(nth);
        let packet = codec::decode(version, &frame).expect("the broker sends packets");
        if self.cluster().prints {
            let said = format!("{} gets {packet:?}", self.name(nth).0);
            self.cluster().say(|| said);
        }
        self.take(nth, &packet)?;
        Ok(true)
    }

    /// All goes on for as long as anything moves.
    fn rest(&mut self, rest: Rest) -> Check {
        for _ in 0..ROUNDS_MAX {
            let mut moved = false;
            for nth in 0..self.clients() {
                if rest == Rest::All {
                    if self.link(nth).is_none() {
                        self.connect(nth);
                        moved = true;
                    }
                    self.ask_for_all(nth);
                }
                moved |= self.feed(nth, usize::MAX);
                while self.read(nth, usize::MAX)? {
                    moved = true;
                }
            }
            while self.arrive() {
                moved = true;
            }
            for lane in 0..self.cluster().lanes.len() {
                moved |= self.deliver(lane);
            }
            for core in 0..self.cluster().disks.len() {
                moved |= self.written(core);
                while self.serve(core)? {
                    moved = true;
                }
                if rest == Rest::All && self.cluster().disks[core].is_full() {
                    self.snapshot(core);
                    moved = true;
                }
            }
            let cluster = self.cluster();
            if (0..cluster.shards.len()).any(|core| cluster.is_due(core)) {
                self.pass(0);
                moved = true;
            }
            if !moved {
                return Ok(());
            }
        }
        violation("rest", "something always moves".to_owned())
    }
}
