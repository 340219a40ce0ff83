//! The broker's cores, their disks, publishers and members, and the row of events that a seed makes of them.

use std::collections::VecDeque;
use std::sync::Arc;

use mqtt_broker::config::{CoreId, Limits};
use mqtt_broker::ports::Ports;
use mqtt_broker::router::Strategy;
use mqtt_broker::shard::{Action, ConnectionInfo, EnvelopeBatch, Handed, Now, Shard, ShardConfig, home_of};
use mqtt_broker::store::image::{Home, Image};
use mqtt_proto::codec;
use mqtt_proto::packet::{Packet, Publish};
use mqtt_proto::types::{Qos, Version};

use super::client::{Client, Flow, ok};
use super::disk::{Disk, SEED};
use super::judge::Judge;
use crate::engine::Violation;
use crate::engine::random::Random;

const GROUPS: [&str; 3] = ["$share/g/p/#", "$share/h/p/#", "$share/g/p/0"];
const PUBLISHERS: usize = 2;
const HASH_KEY: [u64; 2] = [11, 13];
/// Events after which whatever still moves goes round in circles.
const EVENTS_MAX: usize = 100_000;

type Check<T = ()> = Result<T, Violation>;

pub(super) struct World {
    random: Random,
    prints: bool,
    now: Now,
    limits: Arc<Limits>,
    shards: Vec<Shard>,
    disks: Vec<Disk>,
    /// By sender and receiver.
    lanes: Vec<VecDeque<EnvelopeBatch>>,
    /// Connections on their way to another core.
    moving: Vec<(usize, usize, Box<Handed>)>,
    /// First the publishers, then the members. The first of these is in all groups and kept for ever.
    clients: Vec<Client>,
    /// With which QoS members subscribe.
    granted: Qos,
    judge: Judge,
    crashes: u64,
}

impl World {
    pub(super) fn new(seed: u64, prints: bool) -> World {
        let mut random = Random::new(seed, &[10]);
        let mut limits = Limits::default();
        limits.sys_interval_seconds = 0;
        limits.session_expiry_max_seconds = u32::MAX;
        limits.in_flight_max = random.pick(&[1, 2, 100]);
        limits.output_bytes_max = random.pick(&[1024, 1 << 20]);
        limits.shared_strategy = random.pick(&Strategy::ALL);
        limits.check().expect("limits in their ranges");
        let cores = random.pick(&[1, 1, 2, 3]);
        let granted = random.pick(&[Qos::AtLeastOnce, Qos::ExactlyOnce]);
        let members = 1 + random.index(4);
        let mut clients: Vec<_> =
            (0..PUBLISHERS).map(|nth| Client::new(format!("from-{nth}"), true)).collect();
        for nth in 0..members {
            // What was begun at QoS 2 for a session that ends goes to nobody [MQTT-4.8.2-5].
            let is_kept = nth == 0 || granted == Qos::ExactlyOnce || random.percent(60);
            let mut member = Client::new(format!("member-{nth}"), is_kept);
            let groups = (0..GROUPS.len()).filter(|_| nth == 0 || random.percent(60));
            member.groups = groups.map(|group| (group, false)).collect();
            clients.push(member);
        }
        let mut judge = Judge::new(&GROUPS);
        // The standard orders nothing for groups [MQTT-4.6.0-6]. What one core has for one member it orders nevertheless.
        judge.is_ordered = members == 1 && cores == 1;
        let mut world = World {
            prints,
            now: Now { millis: 1_000, wall_millis: 1_700_000_000_000 },
            limits: Arc::new(limits),
            shards: Vec::new(),
            disks: Vec::new(),
            lanes: Vec::new(),
            moving: Vec::new(),
            clients,
            granted,
            judge,
            crashes: 0,
            random,
        };
        world.start_on((0..cores).map(|_| Image::new(SEED)).collect());
        world
    }

    pub(super) fn run(mut self) -> Check<u64> {
        for _ in 0..2 + self.random.below(3) {
            for _ in 0..self.random.below(1_500) {
                self.event()?;
                if self.random.once_in(300) {
                    self.crash();
                }
            }
            self.calm()?;
            self.judge.check(&self.clients)?;
            self.judge.settle();
            if self.random.once_in(2) {
                self.crash();
            }
        }
        self.calm()?;
        self.judge.check(&self.clients)?;
        Ok(self.crashes)
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.prints {
            println!("{:>8}  {}", self.now.millis, what());
        }
    }

    /// One thing that may happen now happens.
    fn event(&mut self) -> Check {
        let client = self.random.index(self.clients.len());
        let bytes = self.random.pick(&[1, 10, 100_000]);
        match self.random.below(14) {
            0 | 1 => {
                let lane = self.random.index(self.lanes.len());
                self.deliver(lane);
            }
            2 => {
                let core = self.random.index(self.disks.len());
                self.written(core);
            }
            3..=5 => drop(self.feed(client, bytes)),
            6..=8 => drop(self.read(client, bytes)?),
            9 | 10 => self.act_for(client),
            11 => self.pass(1),
            12 => {
                let core = self.random.index(self.disks.len());
                self.disks[core].snapshot(&mut self.shards[core], &mut self.random);
            }
            _ => self.arrive(),
        }
        Ok(())
    }

    /// A Client does something of its own accord.
    fn act_for(&mut self, nth: usize) {
        if self.clients[nth].link.is_none() {
            return self.connect(nth);
        }
        if self.random.once_in(12) {
            return self.cut(nth);
        }
        if nth >= PUBLISHERS {
            if self.clients[nth].is_ready() {
                self.clients[nth].subscribe(&GROUPS, self.granted);
            }
            return;
        }
        let qos = self.random.pick(&[Qos::AtLeastOnce, Qos::ExactlyOnce]);
        let client = &mut self.clients[nth];
        let Some(id) = Some(()).filter(|()| client.is_ready()).and_then(|()| client.free_id()) else {
            return;
        };
        let message = self.judge.publish(format!("p/{nth}"), qos);
        let flow = Flow { id, message, is_released: false };
        self.say(|| format!("from-{nth} publishes {message} at {qos:?}"));
        self.clients[nth].flows.push_back(flow);
        self.clients[nth].publish(flow, &self.judge.messages[message], false);
    }

    /// Everybody is there and nothing is held up: all comes to rest.
    fn calm(&mut self) -> Check {
        for _ in 0..EVENTS_MAX {
            let mut moved = false;
            for nth in 0..self.clients.len() {
                if self.clients[nth].link.is_none() {
                    self.connect(nth);
                    moved = true;
                }
                if self.clients[nth].is_ready() {
                    self.clients[nth].subscribe(&GROUPS, self.granted);
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
            }
            if self.shards.iter().any(|shard| shard.poll_timeout().is_some_and(|at| at <= self.now.millis)) {
                self.pass(0);
                moved = true;
            }
            if !moved {
                return Ok(());
            }
        }
        Err(Violation { rule: "rest", text: "something always moves".to_owned() })
    }

    // The broker.

    fn call<T>(&mut self, core: usize, use_it: impl FnOnce(&mut Shard, Now) -> T) -> T {
        let result = use_it(&mut self.shards[core], self.now);
        while let Some(action) = self.shards[core].poll_action() {
            self.act(core, action);
        }
        for to in 0..self.shards.len() {
            if let Some(batch) = self.shards[core].poll_envelopes(CoreId(to as u16)) {
                self.lanes[core * self.shards.len() + to].push_back(batch);
            }
        }
        self.disks[core].go_on();
        result
    }

    fn act(&mut self, core: usize, action: Action) {
        let (id, action) = match action {
            Action::TransmitShared { id, pieces } => {
                return self.act(core, Action::Transmit { id, buffer: pieces.into_vec() });
            }
            Action::Transmit { id, .. } | Action::Close { id, .. } | Action::Handoff { id, .. } => {
                (id, action)
            }
            _ => return,
        };
        let is_its = |client: &Client| {
            client.link.as_ref().is_some_and(|link| (link.core, link.id) == (core, Some(id)))
        };
        let nth = self.clients.iter().position(is_its);
        let link = nth.and_then(|nth| self.clients[nth].link.as_mut());
        match action {
            Action::Transmit { id, buffer } => {
                if let Some(link) = link {
                    link.from_broker.extend_from_slice(&buffer);
                }
                self.shards[core].transmit_done(id, buffer, self.now);
            }
            Action::Close { last, .. } => {
                if let Some(link) = link {
                    link.from_broker.extend_from_slice(&last);
                    (link.id, link.is_closed) = (None, true);
                }
            }
            Action::Handoff { to, handed, .. } => {
                if let (Some(link), Some(nth)) = (link, nth) {
                    link.id = None;
                    self.moving.push((nth, to.index(), handed));
                }
            }
            other => unreachable!("passed over before: {other:?}"),
        }
    }

    /// A batch arrives; whether there was one.
    fn deliver(&mut self, lane: usize) -> bool {
        let cores = self.shards.len();
        let Some(batch) = self.lanes[lane].pop_front() else { return false };
        let from = CoreId((lane / cores) as u16);
        self.call(lane % cores, |shard, now| shard.handle_envelopes(from, batch, now));
        true
    }

    /// A write is done; whether there was one.
    fn written(&mut self, core: usize) -> bool {
        let Some(committed) = self.disks[core].written() else { return false };
        self.call(core, |shard, now| shard.store_committed(committed, now));
        true
    }

    /// A connection arrives on the core of its session.
    fn arrive(&mut self) {
        if self.moving.is_empty() {
            return;
        }
        let at = self.random.index(self.moving.len());
        let (nth, to, handed) = self.moving.swap_remove(at);
        let id = self.shards[to].connection_arrived(handed, self.now).expect("there is room");
        match self.clients[nth].link.as_mut().filter(|link| link.id.is_none() && !link.is_closed) {
            Some(link) => {
                (link.core, link.id) = (to, Some(id));
                self.call(to, |_, _| ());
            }
            None => self.call(to, |shard, now| shard.connection_closed(id, now)),
        }
    }

    fn pass(&mut self, millis: u64) {
        self.now.millis += millis;
        self.now.wall_millis += millis;
        for core in 0..self.shards.len() {
            if self.shards[core].poll_timeout().is_some_and(|at| at <= self.now.millis) {
                self.call(core, Shard::handle_timeout);
            }
        }
    }

    // Crash and start.

    /// Power fails, and the broker starts on what is left, on as many cores or on others.
    fn crash(&mut self) {
        self.crashes += 1;
        let old = self.shards.len();
        self.shards.clear();
        self.clients.iter_mut().for_each(|client| client.link = None);
        self.moving.clear();
        self.disks.iter().for_each(|disk| disk.crash(&mut self.random));
        self.now = Now { millis: 1_000, wall_millis: self.now.wall_millis + self.random.below(5_000) };
        let cores = if self.random.once_in(3) { self.random.pick(&[1, 2, 3]) } else { old };
        self.say(|| format!("** crash {}, {old} cores, then {cores}", self.crashes));
        let mut images: Vec<Image> = self.disks.iter().map(Disk::read).collect();
        let disks = self.disks.clone();
        for (image, disk) in images.iter_mut().zip(&disks) {
            image.expire(self.now.wall_millis, |record| disk.note(record));
        }
        if cores != old {
            self.judge.is_ordered = false;
            let home = |what: Home<'_>, cores| home_of(HASH_KEY, cores, what);
            return self.start_on(Image::deal(images, cores as u16, SEED, home));
        }
        Image::settle(&mut images, |core, record| disks[usize::from(core)].note(record));
        self.start(images);
    }

    /// Starts on new disks that hold these images.
    fn start_on(&mut self, images: Vec<Image>) {
        self.disks = images.iter().map(Disk::of).collect();
        let images = self.disks.iter().map(Disk::read).collect();
        self.start(images);
    }

    fn start(&mut self, images: Vec<Image>) {
        let cores = images.len() as u16;
        self.lanes = (0..cores * cores).map(|_| VecDeque::new()).collect();
        let shard = |core: u16| {
            let store = Box::new(self.disks[usize::from(core)].clone());
            let (limits, seed) = (self.limits.clone(), u64::from(core));
            let config = ShardConfig { core: CoreId(core), cores, limits, hash_key: HASH_KEY, seed };
            Shard::new(config, Ports { store, ..Ports::allow_all() }, self.now)
        };
        self.shards = (0..cores).map(shard).collect();
        for (core, image) in images.into_iter().enumerate() {
            for (name, group) in image.groups() {
                let waiting = group.messages().map(|waiting| waiting.message.as_ref().payload[0]);
                let waiting: Vec<u8> = waiting.collect();
                self.say(|| format!("core {core}: {name} has {waiting:?}"));
            }
            self.call(core, |shard, now| shard.restore(image, now));
        }
        while !self.shards.iter().all(Shard::is_restored) {
            let lanes = 0..self.lanes.len();
            assert!(lanes.fold(false, |moved, lane| self.deliver(lane) | moved), "a start comes to an end");
        }
    }

    // The Clients.

    fn connect(&mut self, nth: usize) {
        let core = self.random.index(self.shards.len());
        let id = self.call(core, |shard, now| shard.connection_opened(ConnectionInfo::default(), now));
        self.say(|| format!("{} connects", self.clients[nth].name));
        self.clients[nth].open(core, id.expect("there is room for all connections"));
    }

    fn cut(&mut self, nth: usize) {
        self.say(|| format!("{} is cut", self.clients[nth].name));
        if let Some(link) = self.clients[nth].link.take()
            && let Some(id) = link.id
        {
            self.call(link.core, |shard, now| shard.connection_closed(id, now));
        }
    }

    /// Some of what a Client has sent arrives; whether there was anything.
    fn feed(&mut self, nth: usize, bytes: usize) -> bool {
        let Some(link) = &mut self.clients[nth].link else { return false };
        let Some(id) = link.id.filter(|_| !link.to_broker.is_empty()) else { return false };
        let some: Vec<u8> = link.to_broker.drain(..bytes.min(link.to_broker.len())).collect();
        let core = link.core;
        self.call(core, |shard, now| shard.handle_input(id, &some, now));
        true
    }

    /// A Client takes the next packet; whether there was one, or the end of its connection.
    fn read(&mut self, nth: usize, bytes: usize) -> Check<bool> {
        let Some(frame) = self.clients[nth].receive(bytes) else {
            let ended = self.clients[nth].link.take_if(|link| link.is_closed);
            return Ok(ended.is_some());
        };
        let packet = codec::decode(Version::V5, &frame).expect("the broker sends packets");
        self.say(|| format!("{} gets {packet:?}", self.clients[nth].name));
        self.take(nth, &packet)?;
        Ok(true)
    }

    fn take(&mut self, nth: usize, packet: &Packet<'_>) -> Check {
        let client = &mut self.clients[nth];
        match *packet {
            Packet::ConnAck(connack) => {
                if client.is_kept && client.has_session && !connack.session_present {
                    return Err(Violation {
                        rule: "session",
                        text: format!("that of {} is gone", client.name),
                    });
                }
                client.has_session = true;
                if let Some(link) = &mut client.link {
                    link.is_accepted = true;
                }
                for flow in client.flows.clone() {
                    match flow.is_released {
                        true => client.send(&Packet::PubRel(ok(flow.id))),
                        false => client.publish(flow, &self.judge.messages[flow.message], true),
                    }
                }
            }
            Packet::PubAck(ack) | Packet::PubRec(ack) => {
                let Some(at) = client.flows.iter().position(|flow| flow.id == ack.packet_id) else {
                    return Ok(());
                };
                self.judge.messages[client.flows[at].message].is_acknowledged = true;
                if let Packet::PubAck(_) = packet {
                    client.flows.remove(at);
                } else {
                    client.flows[at].is_released = true;
                    client.send(&Packet::PubRel(ok(ack.packet_id)));
                }
            }
            Packet::PubComp(ack) => client.flows.retain(|flow| flow.id != ack.packet_id),
            Packet::SubAck(suback) => {
                let Some(at) = client.asked.iter().position(|(id, _)| *id == suback.packet_id) else {
                    return Ok(());
                };
                let (_, group) = client.asked.remove(at);
                client.groups.insert(group, true);
                self.judge.is_founded[group] |= nth == PUBLISHERS;
            }
            Packet::Publish(publish) => return self.take_publish(nth, &publish),
            Packet::PubRel(ack) => {
                client.taken.remove(&ack.packet_id);
                client.send(&Packet::PubComp(ok(ack.packet_id)));
            }
            _ => {}
        }
        Ok(())
    }

    fn take_publish(&mut self, nth: usize, publish: &Publish<'_>) -> Check {
        let message = publish.payload.try_into().map(usize::from_le_bytes).expect("payloads are numbers");
        let group = publish.properties.subscription_identifiers().next().expect("each group has one");
        let (group, client) = (group as usize - 1, &mut self.clients[nth]);
        let id = publish.packet_id.expect("nothing is published at QoS 0");
        if publish.qos == Qos::AtLeastOnce {
            client.send(&Packet::PubAck(ok(id)));
            return self.judge.take(group, message, publish.qos);
        }
        client.send(&Packet::PubRec(ok(id)));
        match client.taken.insert(id, message) {
            None => self.judge.take(group, message, publish.qos),
            Some(known) if known == message && publish.dup => Ok(()),
            Some(known) => {
                let text = format!("{} has {known} under {id}, and gets {message}", client.name);
                Err(Violation { rule: "identifier", text })
            }
        }
    }
}
