//! The broker's cores, their disks and their Clients, and the row of events that a seed makes of them.

use std::collections::VecDeque;
use std::sync::Arc;

use mqtt_broker::config::{CoreId, Limits};
use mqtt_broker::ports::Ports;
use mqtt_broker::shard::{Action, ConnectionInfo, EnvelopeBatch, Handed, Now, Shard, ShardConfig, home_of};
use mqtt_broker::store::image::{self, Home, Image};
use mqtt_broker::store::log::Identity;
use mqtt_broker::store::log::Log;
use mqtt_broker::store::record::Record;
use mqtt_proto::codec;
use mqtt_proto::packet::{
    Ack, Packet, Properties, Publish, Subscribe, Subscription, SubscriptionOptions, Subscriptions,
};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, TopicName, Version};

use super::client::{Client, Flow, Phase, Wanted};
use super::disk::{Files, Handle};
use super::judge::{Judge, Published};
use crate::engine::Violation;
use crate::engine::random::Random;

const FILTERS: [&str; 5] = ["p/#", "p/0/+", "+/1/a", "p/1/a", "p/2/#"];
/// What the last Client reads when all is over.
const RETAINED: &str = "r/#";
const HASH_KEY: [u64; 2] = [11, 13];
const SEED: [u64; 4] = [5, 6, 7, 8];
/// Events after which whatever still moves goes round in circles.
const EVENTS_MAX: usize = 200_000;

type Check<T = ()> = Result<T, Violation>;

pub(super) struct World {
    random: Random,
    prints: bool,
    now: Now,
    limits: Arc<Limits>,
    /// Counts the starts that began on files of their own.
    stores: u8,
    shards: Vec<Shard>,
    disks: Vec<Handle>,
    /// By sender and receiver.
    lanes: Vec<VecDeque<EnvelopeBatch>>,
    /// Connections on their way to another core.
    moving: Vec<(usize, usize, Box<Handed>)>,
    /// The last one reads what is retained at the end and does nothing before.
    clients: Vec<Client>,
    judge: Judge,
    crashes: u64,
    /// All has come to rest, so nothing may be on its way between cores.
    is_calm: bool,
}

impl World {
    pub(super) fn new(seed: u64, prints: bool) -> World {
        let mut random = Random::new(seed, &[9]);
        let mut limits = Limits::default();
        limits.sys_interval_seconds = 0;
        limits.session_expiry_max_seconds = u32::MAX;
        limits.session_expiry_v3_seconds = u32::MAX;
        limits.in_flight_max = random.pick(&[1, 2, 100]);
        limits.output_bytes_max = random.pick(&[1024, 1 << 20]);
        limits.check().expect("limits in their ranges");
        let clients = 2 + random.index(3);
        let version = |random: &mut Random| random.pick(&[Version::V5, Version::V3_1_1]);
        let cores = random.pick(&[1, 2, 2, 3]);
        let mut world = World {
            prints,
            now: Now { millis: 1_000, wall_millis: 1_700_000_000_000 },
            limits: Arc::new(limits),
            stores: 0,
            shards: Vec::new(),
            disks: Vec::new(),
            lanes: Vec::new(),
            moving: Vec::new(),
            clients: (0..=clients).map(|nth| Client::new(nth, version(&mut random))).collect(),
            judge: Judge::default(),
            crashes: 0,
            is_calm: false,
            random,
        };
        world.start_on(cores, (0..cores).map(|_| Image::new(SEED)).collect());
        world
    }

    pub(super) fn run(mut self) -> Check<u64> {
        for _ in 0..2 + self.random.below(4) {
            for _ in 0..self.random.below(1_500) {
                self.event()?;
                if self.random.once_in(400) {
                    self.crash()?;
                }
            }
            self.calm()?;
            self.judge.check(&self.clients)?;
            self.judge.settle();
            if self.random.once_in(2) {
                self.is_calm = true;
                self.crash()?;
            }
        }
        self.calm()?;
        let probe = self.clients.len() - 1;
        self.subscribe(probe, RETAINED);
        self.calm()?;
        self.judge.check(&self.clients)?;
        for nth in 0..probe {
            let topic = format!("r/{nth}");
            self.judge.check_retained(&topic, self.judge.newest(probe, &topic))?;
        }
        Ok(self.crashes)
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.prints {
            println!("{:>8}  {}", self.now.millis, what());
        }
    }

    /// One thing that may happen now happens.
    fn event(&mut self) -> Check {
        let last = self.clients.len() - 1;
        match self.random.below(14) {
            0 | 1 => {
                let lane = self.random.index(self.lanes.len());
                self.deliver(lane);
            }
            2 => {
                let core = self.random.index(self.disks.len());
                self.written(core);
            }
            3..=5 => {
                let (client, bytes) = (self.random.index(last), self.random.pick(&[1, 10, 100_000]));
                self.feed(client, bytes);
            }
            6..=8 => {
                let (client, bytes) = (self.random.index(last), self.random.pick(&[1, 10, 100_000]));
                self.read(client, bytes)?;
            }
            9 | 10 => {
                let client = self.random.index(last);
                self.act_for(client);
            }
            11 => {
                let millis = self.random.below(50);
                self.pass(millis);
            }
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
        let client = &self.clients[nth];
        if client.link.is_none() {
            return self.connect(nth);
        }
        match self.random.below(20) {
            0 => self.cut(nth),
            1..=3 => {
                let filter = self.random.pick(&FILTERS);
                self.subscribe(nth, filter);
            }
            4 | 5 => self.publish(nth, format!("r/{nth}"), Qos::AtLeastOnce, true),
            _ => {
                let topic = format!("p/{nth}/{}", self.random.pick(&["a", "b"]));
                let qos = self.random.pick(&[Qos::AtLeastOnce, Qos::ExactlyOnce]);
                self.publish(nth, topic, qos, false);
            }
        }
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
                let waits =
                    self.clients.iter().find(|client| !client.flows.is_empty() || !client.asked.is_empty());
                return match waits {
                    Some(client) => Err(Violation {
                        rule: "answered",
                        text: format!("{} waits for {:?} and {:?}", client.name, client.flows, client.asked),
                    }),
                    None => Ok(()),
                };
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
        let of = |id| {
            move |client: &Client| {
                client.link.as_ref().is_some_and(|link| (link.core, link.id) == (core, Some(id)))
            }
        };
        match action {
            Action::TransmitShared { id, pieces } => {
                self.act(core, Action::Transmit { id, buffer: pieces.into_vec() });
            }
            Action::Transmit { id, buffer } => {
                if let Some(link) =
                    self.clients.iter_mut().find(|client| of(id)(client)).and_then(Client::link_mut)
                {
                    link.from_broker.extend_from_slice(&buffer);
                }
                let now = self.now;
                self.shards[core].transmit_done(id, buffer, now);
            }
            Action::Close { id, last, .. } => {
                if let Some(link) =
                    self.clients.iter_mut().find(|client| of(id)(client)).and_then(Client::link_mut)
                {
                    link.from_broker.extend_from_slice(&last);
                    link.id = None;
                    link.is_closed = true;
                }
            }
            Action::Handoff { id, to, handed } => {
                let Some(nth) = self.clients.iter().position(|client| of(id)(client)) else { return };
                if let Some(link) = self.clients[nth].link_mut() {
                    link.id = None;
                }
                self.moving.push((nth, to.index(), handed));
            }
            Action::Established { .. } | Action::PauseRead { .. } | Action::ResumeRead { .. } => {}
            other => panic!("an action that the simulation does not know: {other:?}"),
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
        let id = self.shards[to].connection_arrived(handed, self.now);
        let id = id.expect("there is room for all connections");
        match self.clients[nth].link_mut().filter(|link| link.id.is_none() && !link.is_closed) {
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

    fn identity(&self, core: usize) -> Identity {
        Identity { store: [self.stores; 16], core: core as u16 }
    }

    /// Power fails, and the broker starts on what is left, on as many cores or on others.
    fn crash(&mut self) -> Check {
        self.crashes += 1;
        let (disks, old) = (std::mem::take(&mut self.disks), self.shards.len());
        self.shards.clear();
        self.clients.iter_mut().for_each(|client| client.link = None);
        self.moving.clear();
        let files: Vec<Files> = disks.into_iter().map(|disk| disk.crash(&mut self.random)).collect();
        let millis = self.random.below(5_000);
        self.now = Now { millis: 1_000, wall_millis: self.now.wall_millis + millis };
        let cores = if self.random.once_in(3) { self.random.pick(&[1, 2, 3]) } else { old as u16 };
        self.say(|| format!("** crash {}, {old} cores, then {cores}", self.crashes));
        let read = files.iter().enumerate().map(|(core, files)| files.read(self.identity(core), SEED));
        let (mut images, mut logs): (Vec<_>, Vec<_>) = read.unzip();
        let pending: usize = images.iter().map(|image: &Image| image.pending().len()).sum();
        if std::mem::take(&mut self.is_calm) && pending > 0 {
            let text = format!("{pending} messages are kept for cores that have taken them");
            return Err(Violation { rule: "pending", text });
        }
        if usize::from(cores) != old {
            self.stores += 1;
            images.iter_mut().for_each(|image| image.expire(self.now.wall_millis, |_| {}));
            let home = |what: Home<'_>, cores| home_of(HASH_KEY, cores, what);
            let dealt = Image::deal(images, cores, SEED, home);
            self.start_on(cores, dealt);
            return Ok(());
        }
        let note = |log: &mut Log, record: &Record<'_>| {
            log.append(record.kind(), |out| record.encode(out));
        };
        for (image, log) in images.iter_mut().zip(&mut logs) {
            image.expire(self.now.wall_millis, |record| note(log, record));
        }
        Image::settle(&mut images, |core, record| note(&mut logs[usize::from(core)], record));
        self.disks = files
            .into_iter()
            .zip(logs)
            .enumerate()
            .map(|(core, (files, log))| Handle::new(self.identity(core), files, log))
            .collect();
        self.start(images);
        Ok(())
    }

    /// Starts on new disks that hold these images.
    fn start_on(&mut self, cores: u16, images: Vec<Image>) {
        self.disks = (0..usize::from(cores))
            .map(|core| {
                let identity = self.identity(core);
                let files = Files::begin(identity, &images[core]);
                let (_, log) = files.read(identity, SEED);
                Handle::new(identity, files, log)
            })
            .collect();
        self.start(images);
    }

    /// What a core starts with.
    fn describe(&self, core: usize, image: &Image) {
        let number = |payload: &[u8]| payload.first().copied().unwrap_or_default();
        let of = |delivery: &image::Delivery| number(delivery.message.as_ref().payload);
        for session in image.sessions() {
            self.say(|| {
                let sent: Vec<_> =
                    session.under_way().map(|(id, _, sent)| (id.get(), sent.map(of))).collect();
                let waiting: Vec<_> = session.waiting().map(of).collect();
                let (name, received) = (session.client_id(), session.received());
                format!("core {core} has {name}: sent {sent:?}, waiting {waiting:?}, received {received:?}")
            });
        }
    }

    fn start(&mut self, images: Vec<Image>) {
        let cores = images.len() as u16;
        self.lanes = (0..cores * cores).map(|_| VecDeque::new()).collect();
        let shard = |core: u16| {
            let ports =
                Ports { store: Box::new(self.disks[usize::from(core)].clone()), ..Ports::allow_all() };
            let (limits, seed) = (self.limits.clone(), u64::from(core));
            let config = ShardConfig { core: CoreId(core), cores, limits, hash_key: HASH_KEY, seed };
            Shard::new(config, ports, self.now)
        };
        self.shards = (0..cores).map(shard).collect();
        for (core, image) in images.into_iter().enumerate() {
            self.describe(core, &image);
            self.call(core, |shard, now| shard.restore(image, now));
        }
        while !self.shards.iter().all(Shard::is_restored) {
            (0..self.lanes.len()).for_each(|lane| _ = self.deliver(lane));
        }
    }

    // The Clients.

    fn connect(&mut self, nth: usize) {
        let core = self.random.index(self.shards.len());
        let id = self.call(core, |shard, now| shard.connection_opened(ConnectionInfo::default(), now));
        self.say(|| format!("client-{nth} connects"));
        self.clients[nth].open(core, id.expect("there is room for all connections"));
    }

    fn cut(&mut self, nth: usize) {
        self.say(|| format!("client-{nth} is cut"));
        let Some(link) = self.clients[nth].link.take() else { return };
        if let Some(id) = link.id {
            self.call(link.core, |shard, now| shard.connection_closed(id, now));
        }
    }

    fn subscribe(&mut self, nth: usize, filter: &'static str) {
        let qos = self.random.pick(&[Qos::AtLeastOnce, Qos::ExactlyOnce, Qos::ExactlyOnce]);
        let client = &mut self.clients[nth];
        let Some(packet_id) = Some(()).filter(|()| client.is_ready()).and_then(|()| client.free_id()) else {
            return;
        };
        client.asked.push((packet_id, filter));
        client.wanted.entry(filter).or_insert(Wanted { owed_from: None });
        let list = [Subscription { filter, options: SubscriptionOptions::new(qos) }];
        let (properties, subscriptions) = (Properties::EMPTY, Subscriptions::new(&list));
        client.send(&Packet::Subscribe(Subscribe { packet_id, properties, subscriptions }));
    }

    fn publish(&mut self, nth: usize, topic: String, qos: Qos, retain: bool) {
        let client = &mut self.clients[nth];
        let Some(id) = Some(()).filter(|()| client.is_ready()).and_then(|()| client.free_id()) else {
            return;
        };
        let message = self.judge.messages.len();
        self.judge.messages.push(Published { topic, qos, retain, is_acknowledged: false });
        client.flows.push_back(Flow { id, message, phase: Phase::Publish });
        self.send_publish(nth, id, message, false);
    }

    fn send_publish(&mut self, nth: usize, id: PacketId, message: usize, dup: bool) {
        self.say(|| {
            format!("client-{nth} publishes {message} {:?}, DUP {dup}", self.judge.messages[message])
        });
        let Published { topic, qos, retain, .. } = &self.judge.messages[message];
        let payload = message.to_le_bytes();
        self.clients[nth].send(&Packet::Publish(Publish {
            dup,
            qos: *qos,
            retain: *retain,
            topic: Some(TopicName::new(topic).expect("a topic")),
            packet_id: Some(id),
            properties: Properties::EMPTY,
            payload: &payload,
        }));
    }

    /// Some of what a Client has sent arrives; whether there was anything.
    fn feed(&mut self, nth: usize, bytes: usize) -> bool {
        let Some(link) = self.clients[nth].link_mut() else { return false };
        let Some(id) = link.id.filter(|_| !link.to_broker.is_empty()) else { return false };
        let some: Vec<u8> = link.to_broker.drain(..bytes.min(link.to_broker.len())).collect();
        let core = link.core;
        self.call(core, |shard, now| shard.handle_input(id, &some, now));
        true
    }

    /// A Client takes the next packet; whether there was one, or the end of its connection.
    fn read(&mut self, nth: usize, bytes: usize) -> Check<bool> {
        let version = self.clients[nth].version;
        let Some(frame) = self.clients[nth].receive(bytes) else {
            let ended = self.clients[nth].link_mut().is_some_and(|link| link.is_closed);
            if ended {
                self.clients[nth].link = None;
            }
            return Ok(ended);
        };
        let packet = codec::decode(version, &frame).expect("the broker sends packets");
        self.say(|| format!("client-{nth} gets {:?}", packet));
        self.take(nth, &packet)?;
        Ok(true)
    }

    fn take(&mut self, nth: usize, packet: &Packet<'_>) -> Check {
        let client = &mut self.clients[nth];
        match *packet {
            Packet::ConnAck(connack) => {
                if client.has_session && !connack.session_present {
                    let text = format!("that of {} is gone", client.name);
                    return Err(Violation { rule: "session", text });
                }
                client.has_session = true;
                if let Some(link) = client.link_mut() {
                    link.is_accepted = true;
                }
                for Flow { id, message, phase } in client.flows.clone() {
                    match phase {
                        Phase::Publish => self.send_publish(nth, id, message, true),
                        Phase::PubRel => self.clients[nth].send(&Packet::PubRel(ok(id))),
                    }
                }
            }
            Packet::PubAck(ack) | Packet::PubRec(ack) => {
                let Some(at) = client.flows.iter().position(|flow| flow.id == ack.packet_id) else {
                    return Ok(());
                };
                let is_final = matches!(packet, Packet::PubAck(_)) || ack.reason.is_error();
                self.judge.messages[client.flows[at].message].is_acknowledged |= !ack.reason.is_error();
                if is_final {
                    client.flows.remove(at);
                } else {
                    client.flows[at].phase = Phase::PubRel;
                    client.send(&Packet::PubRel(ok(ack.packet_id)));
                }
            }
            Packet::PubComp(ack) => client.flows.retain(|flow| flow.id != ack.packet_id),
            Packet::SubAck(suback) => {
                let Some(at) = client.asked.iter().position(|(id, _)| *id == suback.packet_id) else {
                    return Ok(());
                };
                let (_, filter) = client.asked.remove(at);
                let is_granted = suback.reasons.iter().all(|reason| !reason.is_error());
                let wanted = client.wanted.get_mut(filter).expect("asked for");
                if is_granted {
                    wanted.owed_from.get_or_insert(self.judge.messages.len());
                }
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
        let number = publish.payload.try_into().map(usize::from_le_bytes);
        let message = number.expect("payloads are numbers");
        let client = &mut self.clients[nth];
        let id = publish.packet_id.expect("nothing is published at QoS 0");
        if publish.qos == Qos::AtLeastOnce {
            client.send(&Packet::PubAck(ok(id)));
            return self.judge.take(nth, &self.clients[nth], message, publish.qos);
        }
        client.send(&Packet::PubRec(ok(id)));
        match client.taken.insert(id, message) {
            None => self.judge.take(nth, &self.clients[nth], message, publish.qos),
            Some(known) if known == message && publish.dup => Ok(()),
            Some(known) => Err(Violation {
                rule: "identifier",
                text: format!("client-{nth} has {known} under {id}, and gets {message}, DUP {}", publish.dup),
            }),
        }
    }
}

fn ok(id: PacketId) -> Ack<'static> {
    Ack::new(id, ReasonCode::SUCCESS)
}
