//! Packets in one piece of input do what they do one by one, whatever they have in common.

use std::cell::RefCell;
use std::rc::Rc;

use mqtt_broker::config::Limits;
use mqtt_broker::ports::{
    Answer, Authorize, AuthorizeRequest, Commit, Decision, Permission, Ports, Store, Ticket,
};
use mqtt_broker::router::Strategy;
use mqtt_broker::store::record::Record;
use mqtt_proto::packet::{
    Ack, Connect, Packet, Properties, Property, Publish, Subscribe, Subscription, SubscriptionOptions,
    Subscriptions,
};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, TopicName, Version};

use crate::cluster::{ClientId, Cluster, Random, connect, limits, publish};

const QOS: [Qos; 3] = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce];
const VERSIONS: [Version; 2] = [Version::V3_1_1, Version::V5];

/// What the ports have been asked and told.
#[derive(Default)]
struct Asked {
    publishes: usize,
    later: Vec<(Ticket, Permission)>,
    recorded: u64,
}

/// Judges publishes by how many came before; some at once, some later.
struct Judge {
    asked: Rc<RefCell<Asked>>,
    /// Of so many publishes one is refused, and one is decided later. 0: none.
    refuses: usize,
    delays: usize,
}

impl Authorize for Judge {
    fn authorize(&mut self, request: &AuthorizeRequest<'_>, ticket: Ticket) -> Decision<Permission> {
        let AuthorizeRequest::Publish { .. } = request else { return Decision::Now(Permission::Allow) };
        let mut asked = self.asked.borrow_mut();
        asked.publishes += 1;
        let nth = |every: usize| every != 0 && asked.publishes.is_multiple_of(every);
        let permission = match nth(self.refuses) {
            true => Permission::Deny(ReasonCode::NOT_AUTHORIZED),
            false => Permission::Allow,
        };
        if nth(self.delays) {
            asked.later.push((ticket, permission));
            return Decision::Later;
        }
        Decision::Now(permission)
    }
}

/// Commits when it is told to, or has nothing to wait for.
struct Keeps {
    asked: Rc<RefCell<Asked>>,
    is_late: bool,
}

impl Store for Keeps {
    fn append(&mut self, _: &Record<'_>) -> Commit {
        let mut asked = self.asked.borrow_mut();
        asked.recorded += 1;
        if self.is_late { Commit::At(asked.recorded) } else { Commit::Now }
    }
}

/// A broker with a publisher, the first of `clients`, and subscribers.
struct World {
    cluster: Cluster,
    asked: Rc<RefCell<Asked>>,
    clients: Vec<ClientId>,
    versions: Vec<Version>,
    /// What each Client got, in bytes.
    got: Vec<Vec<Vec<u8>>>,
    /// How many packets each had got by then whenever the store was about to commit.
    early: Vec<usize>,
    next_id: PacketId,
}

impl World {
    fn new(random: &mut Random) -> World {
        let asked = Rc::new(RefCell::new(Asked::default()));
        let refuses = [0, 0, 5][random.below(3)];
        let delays = [0, 0, 7][random.below(3)];
        let is_late = random.once_in(3);
        let bounds = limits(|limits: &mut Limits| {
            limits.message_expiry_max_seconds = [0, 60][random.below(2)];
            limits.receive_maximum = [3, 100][random.below(2)];
            limits.pending_answers_max = [4, 1000][random.below(2)];
            limits.output_bytes_max = [1024, 100_000][random.below(2)];
            limits.queue_messages_max = [5, 1000][random.below(2)];
            limits.shared_strategy = [Strategy::RoundRobin, Strategy::HashClient][random.below(2)];
        });
        let judged = asked.clone();
        let cores = [1, 1, 2, 3][random.below(4)];
        let cluster = Cluster::with(cores, bounds, move |_| Ports {
            authorize: Box::new(Judge { asked: judged.clone(), refuses, delays }),
            store: Box::new(Keeps { asked: judged.clone(), is_late }),
            ..Ports::allow_all()
        });
        let (clients, versions, got) = (Vec::new(), Vec::new(), Vec::new());
        let mut world =
            World { cluster, asked, clients, versions, got, early: Vec::new(), next_id: PacketId::FIRST };
        for number in 0..2 + random.below(4) {
            world.add_client(number, random);
        }
        world
    }

    fn add_client(&mut self, number: usize, random: &mut Random) {
        let version = VERSIONS[random.below(2)];
        let mut list = Vec::new();
        if random.once_in(2) {
            list.push(Property::SessionExpiryInterval(60));
        }
        if random.once_in(3) {
            list.push(Property::ReceiveMaximum(1 + random.below(8) as u16));
        }
        if random.once_in(4) {
            list.push(Property::MaximumPacketSize(40));
        }
        if random.once_in(4) {
            list.push(Property::TopicAliasMaximum(3));
        }
        let name = format!("client {number}");
        let properties = if version == Version::V5 { Properties::new(&list) } else { Properties::EMPTY };
        let clean_start = random.once_in(2);
        let client = self.cluster.open(0, version);
        self.cluster
            .send(client, &Packet::Connect(Connect { properties, clean_start, ..connect(version, &name) }));
        self.clients.push(client);
        self.versions.push(version);
        self.got.push(Vec::new());
        let filters = ["run/topic", "run/+", "#", "run/other", "$SYS/#", "$share/g/run/topic"];
        for _ in 0..random.below(3) {
            let filter = filters[random.below(6)];
            let mut options = SubscriptionOptions::new(QOS[random.below(3)]);
            let mut identifier = Vec::new();
            if version == Version::V5 {
                let is_shared = filter.starts_with("$share");
                options.no_local = !is_shared && random.once_in(3);
                options.retain_as_published = random.once_in(3);
                if random.once_in(3) {
                    identifier.push(Property::SubscriptionIdentifier(7));
                }
            }
            let list = [Subscription { filter, options }];
            let (properties, subscriptions) = (Properties::new(&identifier), Subscriptions::new(&list));
            let packet_id = PacketId::new(999).expect("not 0");
            let subscribe = Packet::Subscribe(Subscribe { packet_id, properties, subscriptions });
            self.cluster.send(client, &subscribe);
        }
        if number > 0 && random.once_in(4) {
            self.cluster.set_reading(client, false);
        }
    }

    /// What the publisher sends next.
    fn publishes(&mut self, random: &mut Random) -> Vec<Vec<u8>> {
        let usual = QOS[random.below(3)];
        let usual_topic = if random.once_in(8) { "$SYS/no" } else { "run/topic" };
        let v5 = self.versions[0] == Version::V5;
        (0..random.below(20))
            .map(|number| {
                let qos = if random.once_in(8) { QOS[random.below(3)] } else { usual };
                let topic = if random.once_in(12) { "run/other" } else { usual_topic };
                let len = match random.below(12) {
                    0 => 200,
                    1 => 5000,
                    2 => 20_000,
                    _ => random.below(30),
                };
                let list = [Property::UserProperty("a", "b")];
                let properties =
                    if v5 && random.once_in(10) { Properties::new(&list) } else { Properties::EMPTY };
                let packet_id = (qos != Qos::AtMostOnce).then(|| {
                    // Some come again without DUP.
                    if !random.once_in(10) {
                        self.next_id = self.next_id.next();
                    }
                    self.next_id
                });
                let publish = Publish {
                    dup: packet_id.is_some() && random.once_in(10),
                    qos,
                    retain: random.once_in(10),
                    topic: TopicName::new(topic).ok(),
                    packet_id,
                    properties,
                    payload: &vec![number as u8; len],
                };
                self.cluster.encoded(self.clients[0], &Packet::Publish(publish))
            })
            .collect()
    }

    /// Takes what the Client `nth` got; what it answers.
    fn take(&mut self, nth: usize, random: &mut Random) -> Vec<Vec<u8>> {
        let mut answers = Vec::new();
        while self.cluster.pending(self.clients[nth]) > 0 {
            let frame = self.cluster.take_frame(self.clients[nth]);
            let packet = mqtt_proto::decode(self.versions[nth], &frame).expect("the broker sends packets");
            // Some refuse, so that not all answers are alike.
            let v5 = self.versions[nth] == Version::V5;
            let reason =
                if v5 && random.once_in(20) { ReasonCode::QUOTA_EXCEEDED } else { ReasonCode::SUCCESS };
            let answer = match packet {
                Packet::Publish(Publish { qos: Qos::AtLeastOnce, packet_id: Some(id), .. }) => {
                    Some(Packet::PubAck(Ack::new(id, reason)))
                }
                Packet::Publish(Publish { qos: Qos::ExactlyOnce, packet_id: Some(id), .. }) => {
                    Some(Packet::PubRec(Ack::new(id, reason)))
                }
                Packet::PubRec(ack) if !ack.reason.is_error() => {
                    Some(Packet::PubRel(Ack::new(ack.packet_id, ReasonCode::SUCCESS)))
                }
                Packet::PubRel(ack) => Some(Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::SUCCESS))),
                _ => None,
            };
            answers.extend(answer.map(|packet| self.cluster.encoded(self.clients[nth], &packet)));
            self.got[nth].push(frame);
        }
        answers
    }

    /// Sends the packets, all in one piece or one by one.
    fn send(&mut self, nth: usize, packets: &[Vec<u8>], in_one: bool) {
        let pieces = if in_one { vec![packets.concat()] } else { packets.to_vec() };
        for piece in pieces {
            if !self.cluster.is_closed(self.clients[nth]) {
                let (core, id) = self.cluster.place(self.clients[nth]);
                let now = self.cluster.now;
                self.cluster.shards[core].handle_input(id, &piece, now);
            }
        }
        self.cluster.run();
    }

    /// The store commits, and what was put off is decided.
    fn settle(&mut self) {
        let so_far = |(client, got): (&ClientId, &Vec<_>)| got.len() + self.cluster.pending(*client);
        self.early.extend(self.clients.iter().zip(&self.got).map(so_far));
        loop {
            let recorded = self.asked.borrow().recorded;
            let later = core::mem::take(&mut self.asked.borrow_mut().later);
            let now = self.cluster.now;
            for shard in &mut self.cluster.shards {
                shard.store_committed(recorded, now);
            }
            self.cluster.run();
            if later.is_empty() && recorded == self.asked.borrow().recorded {
                return;
            }
            for (ticket, permission) in later {
                let core = ticket.core.index();
                self.cluster.shards[core].answer(ticket, Answer::Permission(permission), now);
            }
            self.cluster.run();
        }
    }
}

/// What happens under this seed.
fn play(seed: u64, in_one: bool) -> World {
    let random = &mut Random(seed);
    let mut world = World::new(random);
    for _ in 0..6 {
        let packets = world.publishes(random);
        world.send(0, &packets, in_one);
        world.settle();
        for nth in 0..world.clients.len() {
            if random.once_in(6) {
                world.cluster.set_reading(world.clients[nth], true);
            }
            let answers = world.take(nth, random);
            world.send(nth, &answers, in_one);
            world.settle();
        }
    }
    for nth in 0..world.clients.len() {
        world.cluster.set_reading(world.clients[nth], true);
        world.take(nth, random);
    }
    world
}

#[test]
fn packets_in_one_piece_do_what_they_do_one_by_one() {
    for seed in 0..3000 {
        let (whole, single) = (play(seed, true), play(seed, false));
        for (nth, client) in whole.clients.iter().enumerate() {
            // Answers of other cores and their messages may pass each other.
            for messages in [true, false] {
                let of = |world: &World| {
                    let got = world.got[nth].iter().filter(|packet| (packet[0] >> 4 == 3) == messages);
                    got.cloned().collect::<Vec<_>>()
                };
                let (whole, single) = (of(&whole), of(&single));
                for (packet, (whole, single)) in whole.iter().zip(&single).enumerate() {
                    assert_eq!(whole, single, "seed {seed}, packet {packet} of what client {nth} got");
                }
                assert_eq!(whole.len(), single.len(), "seed {seed}, packets that client {nth} got");
            }
            let closed = whole.cluster.is_closed(*client);
            assert_eq!(closed, single.cluster.is_closed(*client), "seed {seed}, client {nth}");
        }
        // Nothing is sent too soon. What crosses in one piece is committed as one piece.
        let soon = whole.early.iter().zip(&single.early).any(|(whole, single)| whole > single);
        assert!(!soon, "seed {seed}, who got something when: {:?} {:?}", whole.early, single.early);
        // Packets behind one that breaks the protocol may have been judged already.
        if !whole.cluster.is_closed(whole.clients[0]) {
            assert_eq!(whole.asked.borrow().publishes, single.asked.borrow().publishes, "seed {seed}");
        }
        assert_eq!(whole.asked.borrow().recorded, single.asked.borrow().recorded, "seed {seed}");
        // Who is closed in the middle of a piece has sent all of it.
        let counters = |world: &World| {
            let all = world.cluster.shards.iter().flat_map(|shard| shard.stats().iter());
            all.filter(|(name, _)| *name != "bytes/received").collect::<Vec<_>>()
        };
        assert_eq!(counters(&whole), counters(&single), "seed {seed}");
    }
}

#[test]
fn a_run_does_not_reach_the_topics_of_the_broker() {
    let mut cluster = Cluster::with_limits(1, limits(|limits| limits.sys_interval_seconds = 2));
    let subscriber = cluster.connect(0, Version::V5, "subscriber");
    cluster.subscribe(subscriber, "$SYS/broker/uptime", Qos::AtMostOnce);
    // The broker has its route in mind.
    cluster.advance(20_000);
    let publisher = cluster.connect(0, Version::V5, "publisher");
    while cluster.pending(subscriber) > 0 {
        cluster.take(subscriber);
    }
    let publish =
        cluster.encoded(publisher, &Packet::Publish(publish("$SYS/broker/uptime", b"x", Qos::AtMostOnce, 0)));
    cluster.send_bytes(publisher, &publish.repeat(5));
    cluster.expect_nothing(subscriber);
}

#[test]
fn a_run_stops_at_a_lane_that_is_full() {
    let bounds = || limits(|limits| limits.lane_bytes_max = 65_536);
    // Sends `alone` packets and then five in one piece; how many the publisher's core took, none being handled elsewhere.
    let taken = |alone: usize| {
        let mut cluster = Cluster::with_limits(2, bounds());
        let mut clients = (0..).map(|n| cluster.connect(0, Version::V5, &format!("client {n}")));
        let publisher = clients.next().expect("endless");
        let others: Vec<ClientId> = clients.by_ref().take(8).collect();
        drop(clients);
        let core = cluster.core_of(publisher);
        let elsewhere = |client: &&ClientId| cluster.core_of(**client) != core;
        let subscriber = *others.iter().find(elsewhere).expect("one of them is at home elsewhere");
        cluster.subscribe(subscriber, "a/topic", Qos::AtMostOnce);
        let packet = Packet::Publish(publish("a/topic", &[7; 1000], Qos::AtMostOnce, 0));
        let packet = cluster.encoded(publisher, &packet);
        cluster.lanes_stalled = true;
        for _ in 0..alone {
            cluster.send_bytes(publisher, &packet);
        }
        let is_full = cluster.is_paused(publisher);
        cluster.send_bytes(publisher, &packet.repeat(5));
        let stats = cluster.shards[core].stats();
        let taken = stats.iter().find(|(name, _)| *name == "messages/received").map_or(0, |(_, value)| value);
        (is_full, taken as usize)
    };
    let full = (1..).find(|&alone| taken(alone).0).expect("a lane has a bound");
    // The packet before the one that found it full had filled it.
    assert_eq!(taken(full - 2).1, full - 1, "none behind the one that fills the lane");
    assert_eq!(taken(full - 10).1, full - 5, "all of them while it has room");
}
