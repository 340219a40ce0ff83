//! A run: the broker's cores, their disks and their Clients, and what each step does to them.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use mqtt_broker::config::Limits;
use mqtt_broker::shard::{EnvelopeBatch, Handed, Now, Shard};
use mqtt_broker::store::image::Image;

use super::client::Client;
use super::cold::Chunks;
use super::disk::{Handle, Left};
use super::judge::{Judge, violation};
use super::plan::{Setting, Step, What};
use super::wills::Wills;
use crate::engine::Violation;
use crate::engine::random::Random;

/// What the last Client reads when all is at rest.
const RETAINED: &str = "r/#";
/// Rounds after which whatever still moves goes round in circles.
const ROUNDS_MAX: usize = 20_000;
/// What other cores still do when the log of one has failed.
const DYING_MAX: u64 = 20;

pub(super) type Check<T = ()> = Result<T, Violation>;

pub(super) struct World {
    /// Chance within the step at hand.
    pub(super) random: Random,
    pub(super) prints: bool,
    pub(super) now: Now,
    /// The latest that the broker may think it is, by wall time: clocks may go back at a start.
    pub(super) latest: u64,
    pub(super) limits: Arc<Limits>,
    pub(super) segments_max: u32,
    /// Counts the starts that began on files of their own.
    pub(super) stores: u8,
    pub(super) shards: Vec<Shard>,
    pub(super) disks: Vec<Handle>,
    pub(super) chunks: Rc<RefCell<Chunks>>,
    /// By sender and receiver.
    pub(super) lanes: Vec<VecDeque<EnvelopeBatch>>,
    /// Connections on their way to another core.
    pub(super) moving: Vec<(usize, usize, Box<Handed>)>,
    /// A core whose writes are not done, or which is dead.
    pub(super) held: Option<usize>,
    pub(super) is_dying: bool,
    /// The last one reads what is retained in quiet moments and does nothing else.
    pub(super) clients: Vec<Client>,
    pub(super) judge: Judge,
    pub(super) wills: Wills,
    /// Something may have been refused since all was quiet, in this life or an earlier one.
    pub(super) has_refused: bool,
    /// What the last Client found retained, by topic.
    pub(super) found: BTreeMap<String, usize>,
    pub(super) crashes: u64,
    /// All has come to rest just now, so nothing may be on its way between cores.
    pub(super) is_calm: bool,
}

/// How long a rest goes on, and who takes part.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// Everybody comes back, and full logs are made short.
    All,
    /// Those who are gone stay away.
    AsIs,
}

impl World {
    pub(super) fn new(setting: &Setting, prints: bool) -> World {
        let mut limits = Limits::default();
        limits.sys_interval_seconds = 0;
        limits.session_expiry_max_seconds = u32::MAX;
        limits.session_expiry_v3_seconds = u32::MAX;
        limits.in_flight_max = setting.in_flight_max;
        limits.output_bytes_max = setting.output_bytes_max;
        limits.queue_memory_bytes_max = setting.queue_memory_bytes_max;
        limits.check().expect("limits in their ranges");
        let now = Now { millis: 1_000, wall_millis: 1_700_000_000_000 };
        let cores = setting.cores;
        let mut world = World {
            random: Random::new(0, &[]),
            prints,
            now,
            latest: now.wall_millis,
            limits: Arc::new(limits),
            segments_max: setting.segments_max,
            stores: 0,
            shards: Vec::new(),
            disks: Vec::new(),
            chunks: Rc::new(RefCell::new(Chunks::new(setting.chunk_bytes))),
            lanes: Vec::new(),
            moving: Vec::new(),
            held: None,
            is_dying: false,
            clients: setting
                .parties
                .iter()
                .enumerate()
                .map(|(nth, party)| Client::new(nth, *party))
                .collect(),
            judge: Judge::default(),
            wills: Wills::default(),
            has_refused: false,
            found: BTreeMap::new(),
            crashes: 0,
            is_calm: false,
        };
        world.start_on(cores, (0..cores).map(|_| Image::new(super::restart::SEED)).collect());
        world
    }

    /// Takes these steps; how often the broker was killed.
    pub(super) fn run(mut self, steps: &[Step]) -> Check<u64> {
        for step in steps {
            self.random = Random::new(step.draw, &[]);
            self.is_calm &= step.what == What::Crash;
            self.step(step.what)?;
        }
        Ok(self.crashes)
    }

    pub(super) fn say(&self, what: impl FnOnce() -> String) {
        if self.prints {
            println!("{:>8}  {}", self.now.millis, what());
        }
    }

    fn step(&mut self, what: What) -> Check {
        let last = self.clients.len() - 1;
        match what {
            What::Deliver => {
                let lane = self.random.index(self.lanes.len());
                self.deliver(lane);
            }
            What::Written => {
                let core = self.random.index(self.disks.len());
                self.written(core);
            }
            What::Feed => {
                let (client, bytes) = (self.random.index(last), self.random.pick(&[1, 10, 100_000]));
                self.feed(client, bytes);
            }
            What::Read => {
                let (client, bytes) = (self.random.index(last), self.random.pick(&[1, 10, 100_000]));
                self.read(client, bytes)?;
            }
            What::Act => {
                let client = self.random.index(last);
                self.act_for(client);
            }
            What::Arrive => self.arrive(),
            What::Chunk => {
                let core = self.random.index(self.shards.len());
                self.serve(core)?;
            }
            What::Pile => self.pile()?,
            What::Pass => {
                let millis = self.random.below(50);
                self.pass(millis);
            }
            What::PassLong => {
                let millis = self.random.pick(&[1_000, 6_000, 20_000, 60_000]);
                self.pass(millis);
            }
            What::Snapshot => {
                let core = self.random.index(self.disks.len());
                self.snapshot(core);
            }
            What::Fill => {
                let core = self.random.index(self.disks.len());
                let left = self.random.pick(&[Left::Little, Left::Nothing]);
                self.say(|| format!("** the disk of core {core} has room for: {left:?}"));
                self.disks[core].leave(left);
            }
            What::Room => (0..self.disks.len()).for_each(|core| self.give_room(core)),
            What::Refuse => self.refuse()?,
            What::Slow => self.slow()?,
            What::Fail => self.fail()?,
            What::Crash => self.crash()?,
            What::Calm => self.calm()?,
        }
        Ok(())
    }

    /// Everybody is there and nothing is held up: all comes to rest, and what is owed has come.
    fn calm(&mut self) -> Check {
        self.say(|| "** calm".to_owned());
        for core in 0..self.disks.len() {
            if !self.disks[core].can_drain() || self.random.once_in(2) {
                self.give_room(core);
            }
        }
        let probe = self.clients.len() - 1;
        self.rest(Rest::All)?;
        if let Some(client) =
            self.clients.iter().find(|client| !client.flows.is_empty() || !client.asked.is_empty())
        {
            let text = format!("{} waits for {:?} and {:?}", client.name, client.flows, client.asked);
            return violation("answered", text);
        }
        self.found.clear();
        self.subscribe(probe, RETAINED);
        self.rest(Rest::All)?;
        self.judge.check(&self.clients, self.latest)?;
        self.wills.check(&self.clients, &self.judge, self.latest)?;
        for nth in 0..probe {
            let topic = format!("r/{nth}");
            let found = self.found.get(&topic).copied();
            self.judge.check_retained(&topic, found, (self.now.wall_millis, self.latest))?;
        }
        self.judge.settle();
        self.cut(probe);
        self.check_chunks()?;
        match self.disks.iter().find(|disk| disk.is_full()) {
            Some(_) => violation("room", "a disk stays full when all is drained".to_owned()),
            None => {
                self.disks.iter().for_each(Handle::forget_refusals);
                self.has_refused = false;
                self.is_calm = true;
                Ok(())
            }
        }
    }

    /// All goes on for as long as anything moves.
    pub(super) fn rest(&mut self, rest: Rest) -> Check {
        for _ in 0..ROUNDS_MAX {
            let mut moved = false;
            for nth in 0..self.clients.len() {
                if rest == Rest::All && self.clients[nth].link.is_none() {
                    self.connect(nth);
                    moved = true;
                }
                moved |= self.feed(nth, usize::MAX);
                while self.read(nth, usize::MAX)? {
                    moved = true;
                }
            }
            while !self.moving.is_empty() {
                self.arrive();
                moved = true;
            }
            for lane in 0..self.lanes.len() {
                moved |= self.deliver(lane);
            }
            for core in 0..self.disks.len() {
                moved |= self.written(core);
                while self.serve(core)? {
                    moved = true;
                }
                if rest == Rest::All && self.disks[core].is_full() {
                    self.snapshot(core);
                    moved = true;
                }
            }
            if self.shards.iter().any(|shard| shard.poll_timeout().is_some_and(|at| at <= self.now.millis)) {
                self.pass(0);
                moved = true;
            }
            if !moved {
                return Ok(());
            }
        }
        violation("rest", "something always moves".to_owned())
    }

    /// What a full store does not take is refused, at once and in the right way: nobody is left without an answer.
    fn refuse(&mut self) -> Check {
        if !self.disks.iter().any(Handle::is_full) {
            return Ok(());
        }
        self.say(|| "** what is refused is refused".to_owned());
        self.rest(Rest::AsIs)?;
        if self.disks.iter().any(Handle::is_stuck) {
            // The reserve is spent: what waits for a record of what is over waits for room.
            return Ok(());
        }
        match self.clients.iter().find(|client| client.is_ready() && !client.flows.is_empty()) {
            Some(client) => {
                let text = format!("{} is left with {:?} by a full store", client.name, client.flows);
                violation("refused", text)
            }
            None => Ok(()),
        }
    }

    /// The disk of one core is silent: whoever needs nothing of it does not wait.
    fn slow(&mut self) -> Check {
        let held = self.random.index(self.disks.len());
        self.rest(Rest::AsIs)?;
        self.check_files()?;
        self.say(|| format!("** the disk of core {held} is silent"));
        self.held = Some(held);
        for _ in 0..self.random.below(12) {
            let client = self.random.index(self.clients.len() - 1);
            self.publish_something(client);
        }
        self.rest(Rest::AsIs)?;
        let waits = (0..self.clients.len()).find(|&nth| self.waits_in_vain(nth, held));
        if let Some(nth) = waits.filter(|_| !self.disks.iter().any(Handle::is_stuck)) {
            let client = &self.clients[nth];
            let text = format!("{} has to wait for core {held}, with {:?}", client.name, client.flows);
            return violation("waits", text);
        }
        let millis = 1_000 + self.random.below(5_000);
        self.pass(millis);
        self.held = None;
        Ok(())
    }

    /// A write fails. The broker of that core ends at once, the others soon.
    fn fail(&mut self) -> Check {
        let core = self.random.index(self.disks.len());
        let Some(result) = self.disks[core].fail(&mut self.random) else { return Ok(()) };
        self.say(|| format!("** a write of core {core} fails: {result:?}"));
        if let Ok(committed) = result {
            // A broker that takes it for done goes on, and has to answer for it.
            self.call(core, |shard, now| shard.store_committed(committed, now));
            return Ok(());
        }
        (self.held, self.is_dying) = (Some(core), true);
        for _ in 0..self.random.below(DYING_MAX) {
            let (lane, client) =
                (self.random.index(self.lanes.len()), self.random.index(self.clients.len() - 1));
            match self.random.below(4) {
                0 => _ = self.deliver(lane),
                1 => _ = self.feed(client, 1_000),
                2 => _ = self.read(client, 1_000)?,
                _ => {
                    let disk = self.random.index(self.disks.len());
                    self.written(disk);
                }
            }
        }
        (self.held, self.is_dying) = (None, false);
        self.crash()
    }
}
