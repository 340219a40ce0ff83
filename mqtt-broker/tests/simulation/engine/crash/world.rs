//! A run: the broker, its Clients and who judges, and what each step does to them.

use std::collections::BTreeMap;

use mqtt_broker::config::Limits;
use mqtt_proto::packet::Packet;
use mqtt_proto::types::Version;

use super::act::will_topic;
use super::client::{Client, Known};
use super::judge::Judge;
use super::plan::{Setting, Step, WAITING_MANY, What};
use super::wills::Wills;
use crate::engine::cluster::{Check, Cluster, Drive, Handle, Left, Peer, Rest, begin, violation};
use crate::engine::random::Random;

/// What the last Client reads when all is at rest.
const RETAINED: [&str; 2] = ["r/#", "w/#"];

/// Milliseconds after which a chunk that could not be read is read again.
const READ_AGAIN: u64 = 10_000;

/// What other cores still do when the log of one has failed.
const DYING_MAX: u64 = 20;

pub(super) struct World {
    pub(super) cluster: Cluster,
    /// The latest that the broker may think it is, by wall time: clocks may go back at a start.
    pub(super) latest: u64,
    /// The last one reads what is retained in quiet moments and does nothing else.
    pub(super) clients: Vec<Client>,
    pub(super) judge: Judge,
    pub(super) wills: Wills,
    /// A Client that is away and could come back does so once in so many times.
    pub(super) back_once_in: u64,
    /// Something may have been refused since all was quiet, in this life or an earlier one.
    pub(super) has_refused: bool,
    /// The store may have as much to write as it is to have at most.
    pub(super) may_be_behind: bool,
    /// What the last Client found retained, by topic.
    pub(super) found: BTreeMap<String, usize>,
    /// The broker ends of its own accord.
    pub(super) is_stopping: bool,
    /// All has come to rest just now, so nothing may be on its way between cores.
    pub(super) is_calm: bool,
}

impl Drive for World {
    fn cluster(&mut self) -> &mut Cluster {
        &mut self.cluster
    }

    fn clients(&self) -> usize {
        self.clients.len()
    }

    fn name(&self, nth: usize) -> (&str, Version) {
        (&self.clients[nth].name, self.clients[nth].party.version)
    }

    fn peer(&mut self, nth: usize) -> &mut Peer {
        &mut self.clients[nth].peer
    }

    fn connect(&mut self, nth: usize) {
        self.come(nth);
    }

    fn take(&mut self, nth: usize, packet: &Packet<'_>) -> Check {
        self.take_packet(nth, packet)
    }

    fn closed(&mut self, nth: usize) {
        self.link_ended(nth);
    }

    fn check_end(&mut self, nth: usize) -> Check {
        self.check_its_end(nth)
    }

    fn arrived_late(&mut self, nth: usize) {
        self.wills.doubt(nth);
        let client = &mut self.clients[nth];
        if client.away.is_some() {
            client.may_be_back(self.latest);
        }
        // The old CONNECT may have had Clean Start.
        if client.session == Known::There && client.peer.link.as_ref().is_some_and(|link| link.is_accepted) {
            client.session = Known::Unsure;
            return self.cut(nth);
        }
        // Whose session its CONNECT finds is not known: it comes once more, with Clean Start.
        if client.session == Known::Unsure && !client.clean {
            self.cut(nth);
        }
    }

    fn committed(&mut self) {
        if self.cluster.disks.iter().all(Handle::is_settled) {
            self.wills.on_disk();
            self.clients
                .iter_mut()
                .filter_map(|client| client.away.as_mut())
                .for_each(|away| away.is_on_disk = away.is_told);
        }
    }

    fn passed(&mut self, millis: u64) {
        self.latest += millis;
        self.publish_wills();
    }
}

impl World {
    pub(super) fn new(setting: &Setting, prints: bool) -> World {
        let mut limits = Limits::default();
        limits.sys_interval_seconds = 0;
        limits.session_expiry_max_seconds = u32::MAX;
        limits.session_expiry_v3_seconds = u32::MAX;
        limits.in_flight_max = setting.in_flight_max;
        limits.receive_maximum = setting.receive_maximum;
        limits.output_bytes_max = setting.output_bytes_max;
        limits.queue_memory_bytes_max = setting.queue_memory_bytes_max;
        limits.store_waiting_bytes_max = setting.store_waiting_bytes_max;
        let cluster = Cluster::new(Random::new(0, &[]), limits, setting.segments_max, prints)
            .with_chunks(setting.chunk_bytes);
        let parties = setting.parties.iter().enumerate();
        let mut world = World {
            latest: cluster.now.wall_millis,
            cluster,
            clients: parties.map(|(nth, party)| Client::new(nth, *party, setting.in_flight_max)).collect(),
            judge: Judge::default(),
            wills: Wills::default(),
            back_once_in: setting.back_once_in,
            has_refused: false,
            may_be_behind: setting.store_waiting_bytes_max < WAITING_MANY,
            found: BTreeMap::new(),
            is_stopping: false,
            is_calm: false,
        };
        world.cluster.set_reads_fail(true);
        begin(&mut world, setting.cores);
        world.pass(1);
        world
    }

    /// Takes these steps; how often the broker was killed.
    pub(super) fn run(mut self, steps: &[Step]) -> Check<u64> {
        for step in steps {
            self.cluster.random = Random::new(step.draw, &[]);
            self.is_calm &= step.what == What::Crash;
            self.step(step.what)?;
        }
        Ok(self.cluster.crashes)
    }

    fn step(&mut self, what: What) -> Check {
        let last = self.clients.len() - 1;
        match what {
            What::Deliver => {
                let lane = self.cluster.random.index(self.cluster.lanes.len());
                self.deliver(lane);
            }
            What::Written => {
                let core = self.cluster.random.index(self.cluster.disks.len());
                self.written(core);
            }
            What::Feed => {
                let (client, bytes) =
                    (self.cluster.random.index(last), self.cluster.random.pick(&[1, 10, 100_000]));
                self.feed(client, bytes);
            }
            What::Read => {
                let (client, bytes) =
                    (self.cluster.random.index(last), self.cluster.random.pick(&[1, 10, 100_000]));
                self.read(client, bytes)?;
            }
            What::Act => {
                let client = self.cluster.random.index(last);
                self.act_for(client);
            }
            What::Arrive => _ = self.arrive(),
            What::Chunk => {
                let core = self.cluster.random.index(self.cluster.shards.len());
                self.serve(core)?;
            }
            What::Pile => self.pile()?,
            What::Pass => {
                let millis = self.cluster.random.below(50);
                self.pass(millis);
            }
            What::PassLong => {
                let millis = self.cluster.random.pick(&[1_000, 6_000, 20_000, 60_000]);
                self.pass(millis);
            }
            What::Snapshot => {
                let core = self.cluster.random.index(self.cluster.disks.len());
                self.snapshot(core);
            }
            What::Fill => {
                let core = self.cluster.random.index(self.cluster.disks.len());
                let left = self.cluster.random.pick(&[Left::Little, Left::Nothing]);
                self.cluster.say(|| format!("** the disk of core {core} has room for: {left:?}"));
                self.cluster.disks[core].leave(left);
            }
            What::Room => (0..self.cluster.disks.len()).for_each(|core| self.give_room(core)),
            What::Refuse => self.refuse()?,
            What::Slow => self.slow()?,
            What::Fail => self.fail()?,
            What::Crash => self.crash(true)?,
            What::Stop => self.stop(true)?,
            What::Starts => self.starts()?,
            What::Calm => self.calm()?,
        }
        Ok(())
    }

    /// Everybody is there and nothing is held up: all comes to rest, and what is owed has come.
    fn calm(&mut self) -> Check {
        self.cluster.say(|| "** calm".to_owned());
        for core in 0..self.cluster.disks.len() {
            if !self.cluster.disks[core].can_drain() || self.cluster.random.once_in(2) {
                self.give_room(core);
            }
        }
        let probe = self.clients.len() - 1;
        self.cluster.set_reads_fail(false);
        if self.cluster.shards.iter().any(|shard| shard.stats().sessions_unreadable > 0) {
            // Those who were refused are let in when it was read again.
            self.pass(READ_AGAIN);
        }
        self.rest(Rest::All)?;
        if let Some(client) =
            self.clients.iter().find(|client| !client.peer.flows.is_empty() || !client.asked.is_empty())
        {
            let text = format!("{} waits for {:?} and {:?}", client.name, client.peer.flows, client.asked);
            return violation("answered", text);
        }
        self.found.clear();
        RETAINED.iter().for_each(|filter| self.subscribe(probe, filter));
        self.rest(Rest::All)?;
        self.judge.check(&self.clients, self.latest)?;
        self.wills.check(&self.clients, &self.judge, self.latest)?;
        self.judge.has_refused |= self.has_refused || self.cluster.disks.iter().any(Handle::has_refused);
        for nth in 0..probe {
            let topic = format!("r/{nth}");
            let found = self.found.get(&topic).copied();
            self.judge.check_retained(&topic, found, (self.cluster.now.wall_millis, self.latest))?;
            let will = self.found.get(&will_topic(&self.clients[nth])).copied();
            self.wills.check_retained(nth, will, self.latest)?;
        }
        self.judge.settle();
        self.cut(probe);
        self.cluster.check_chunks()?;
        match self.cluster.disks.iter().find(|disk| disk.is_full()) {
            Some(_) => violation("room", "a disk stays full when all is drained".to_owned()),
            None => {
                self.cluster.disks.iter().for_each(Handle::forget_refusals);
                self.cluster.forget_unreadable();
                self.cluster.set_reads_fail(true);
                self.has_refused = false;
                self.is_calm = true;
                Ok(())
            }
        }
    }

    /// What a full store does not take is refused, at once and in the right way: nobody is left without an answer.
    fn refuse(&mut self) -> Check {
        if !self.cluster.disks.iter().any(Handle::is_full) {
            return Ok(());
        }
        self.cluster.say(|| "** what is refused is refused".to_owned());
        self.rest(Rest::AsIs)?;
        if self.cluster.disks.iter().any(Handle::is_stuck) {
            // The reserve is spent: what waits for a record of what is over waits for room.
            return Ok(());
        }
        match self.clients.iter().find(|client| client.peer.is_ready() && !client.peer.flows.is_empty()) {
            Some(client) => {
                let text = format!("{} is left with {:?} by a full store", client.name, client.peer.flows);
                violation("refused", text)
            }
            None => Ok(()),
        }
    }

    /// The disk of one core is silent: whoever needs nothing of it does not wait.
    fn slow(&mut self) -> Check {
        let held = self.cluster.random.index(self.cluster.disks.len());
        self.rest(Rest::AsIs)?;
        self.cluster.check_files()?;
        self.cluster.say(|| format!("** the disk of core {held} is silent"));
        self.cluster.held = Some(held);
        for _ in 0..self.cluster.random.below(12) {
            let client = self.cluster.random.index(self.clients.len() - 1);
            self.publish_something(client);
        }
        self.rest(Rest::AsIs)?;
        let waits = (0..self.clients.len()).find(|&nth| self.waits_in_vain(nth, held));
        if let Some(nth) = waits.filter(|_| !self.cluster.disks.iter().any(Handle::is_stuck)) {
            let client = &self.clients[nth];
            let text = format!("{} has to wait for core {held}, with {:?}", client.name, client.peer.flows);
            return violation("waits", text);
        }
        let millis = 1_000 + self.cluster.random.below(5_000);
        self.pass(millis);
        self.cluster.held = None;
        Ok(())
    }

    /// A write fails. The broker of that core ends at once, the others soon.
    fn fail(&mut self) -> Check {
        let core = self.cluster.random.index(self.cluster.disks.len());
        let Some(result) = self.cluster.disks[core].fail(&mut self.cluster.random) else { return Ok(()) };
        self.cluster.say(|| format!("** a write of core {core} fails: {result:?}"));
        if let Ok(committed) = result {
            // A broker that takes it for done goes on, and has to answer for it.
            self.call(core, |shard, now| shard.store_committed(committed, now));
            return Ok(());
        }
        (self.cluster.held, self.cluster.is_dying) = (Some(core), true);
        for _ in 0..self.cluster.random.below(DYING_MAX) {
            let (lane, client) = (
                self.cluster.random.index(self.cluster.lanes.len()),
                self.cluster.random.index(self.clients.len() - 1),
            );
            match self.cluster.random.below(4) {
                0 => _ = self.deliver(lane),
                1 => _ = self.feed(client, 1_000),
                2 => _ = self.read(client, 1_000)?,
                _ => {
                    let disk = self.cluster.random.index(self.cluster.disks.len());
                    self.written(disk);
                }
            }
        }
        (self.cluster.held, self.cluster.is_dying) = (None, false);
        self.crash(true)
    }
}
