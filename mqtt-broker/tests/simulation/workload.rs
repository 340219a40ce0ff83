//! Clients that connect, break, subscribe, publish and acknowledge at random, while batches are under way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mqtt_broker::config::Limits;
use mqtt_proto::packet::{
    Ack, Connect, Filters, Packet, Properties, Property, Publish, Subscribe, Subscription,
    SubscriptionOptions, Subscriptions, Unsubscribe, Will,
};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, TopicName, Version};

use crate::cluster::{ClientId, Cluster, Random, connect, publish};
use crate::oracle::{Key, Oracle, Received, SessionId, matches, payload};

/// What a workload does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) steps: usize,
    pub(crate) shared: bool,
    pub(crate) retained: bool,
}

const PARTIES: usize = 6;
const QOS: [Qos; 3] = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce];

/// A Client over all of its connections.
#[derive(Default)]
struct Party {
    name: String,
    persistent: bool,
    connection: Option<ClientId>,
    /// Counts its sessions.
    session: u32,
    alive: bool,
    /// Filters that this session ever asked for.
    asked: BTreeSet<String>,
    /// Subscriptions whose SUBACK has come.
    granted: BTreeMap<String, Qos>,
    subscribing: BTreeMap<PacketId, (String, Qos)>,
    /// QoS 2 messages received and not released.
    held: BTreeSet<PacketId>,
    sent: VecDeque<Sent>,
    next_id: u16,
    reads: bool,
}

/// A message of ours without its last acknowledgement.
struct Sent {
    packet_id: PacketId,
    qos: Qos,
    released: bool,
    retain: bool,
    key: Key,
    payload: Vec<u8>,
}

pub(crate) struct Workload {
    cluster: Cluster,
    random: Random,
    plan: Plan,
    parties: Vec<Party>,
    sequences: BTreeMap<(usize, String), u32>,
    oracle: Oracle,
}

impl Workload {
    pub(crate) fn new(cores: u16, seed: u64, plan: Plan) -> Workload {
        let mut limits = Limits::default();
        limits.output_bytes_max = 4096;
        limits.in_flight_max = 4;
        limits.retained_slice_messages = 2;
        limits.retained_slice_bytes = 1024;
        limits.gather_live_topics_max = 2;
        limits.lane_bytes_max = 65_536;
        let mut cluster = Cluster::with_limits(cores, limits);
        cluster.random = Some(Random(seed));
        let party = |n| Party { name: format!("client-{n}"), persistent: n % 3 != 2, ..Party::default() };
        let parties = (0..PARTIES).map(party).collect();
        let random = Random(seed ^ 0xABCD);
        Workload { cluster, random, plan, parties, sequences: BTreeMap::new(), oracle: Oracle::default() }
    }

    pub(crate) fn run(mut self) {
        for _ in 0..self.plan.steps {
            let who = self.random.below(PARTIES);
            match self.random.below(20) {
                0 => self.connect(who, None),
                1 => self.cut(who),
                2 | 3 => self.subscribe(who),
                4 if self.random.once_in(3) => self.unsubscribe(who),
                5 => self.change_reading(who),
                6 if self.random.once_in(4) => self.cluster.advance(100),
                7..=12 => self.publish(who),
                13..=16 => self.serve(who, 5),
                _ => {}
            }
            if self.parties[who].connection.is_none() && self.random.once_in(2) {
                self.connect(who, None);
            }
            for _ in 0..self.random.below(6) {
                self.cluster.step();
            }
        }
        self.finish();
    }

    /// Everybody who has a session comes back and takes all there is; then everything has to add up.
    fn finish(&mut self) {
        for who in 0..PARTIES {
            if self.parties[who].connection.is_none() && self.parties[who].alive {
                self.connect(who, Some(false));
            }
            if let Some(connection) = self.parties[who].connection {
                self.parties[who].reads = true;
                self.cluster.set_reading(connection, true);
            }
        }
        loop {
            self.cluster.run();
            let busy = |party: &Party| {
                party.connection.is_some_and(|connection| self.cluster.pending(connection) > 0)
            };
            let Some(who) = self.parties.iter().position(busy) else { break };
            self.serve(who, usize::MAX);
        }
        let alive = |(who, party): (usize, &Party)| party.alive.then_some((who, party.session));
        let living = self.parties.iter().enumerate().filter_map(alive).collect();
        let watches = |(who, party): (usize, &Party)| {
            (party.alive && party.granted.get("r/#").is_some_and(|qos| *qos > Qos::AtMostOnce))
                .then_some((who, party.session))
        };
        let retained = self.parties.iter().enumerate().filter_map(watches).collect();
        self.oracle.check(&living, &retained);
        for party in &self.parties {
            assert!(
                party.sent.is_empty() || party.connection.is_none(),
                "{} waits for an acknowledgement",
                party.name
            );
            assert!(
                party.subscribing.is_empty() || party.connection.is_none(),
                "{} waits for SUBACK",
                party.name
            );
        }
        let total = |counter: fn(&mqtt_broker::shard::Stats) -> u64| self.cluster.total(counter);
        let ended = total(|stats| stats.messages_delivered) + total(|stats| stats.dropped_total());
        assert_eq!(total(|stats| stats.messages_matched), ended + total(|stats| stats.messages_kept));
    }

    fn session(&self, who: usize) -> SessionId {
        (who, self.parties[who].session)
    }

    /// The party's connection, if the broker has not closed it and reads from it.
    fn connection(&mut self, who: usize) -> Option<ClientId> {
        let connection = self.parties[who].connection?;
        (!self.cluster.is_paused(connection)).then_some(connection)
    }

    fn connect(&mut self, who: usize, clean_start: Option<bool>) {
        let clean_start = clean_start.unwrap_or_else(|| self.random.once_in(5));
        if self.parties[who].connection.is_some_and(|connection| self.cluster.is_paused(connection)) {
            return;
        }
        let core = self.random.below(self.cluster.shards.len());
        let client = self.cluster.open(core, Version::V5);
        let party = &self.parties[who];
        let expiry = [Property::SessionExpiryInterval(3600)];
        let properties = if party.persistent { Properties::new(&expiry) } else { Properties::EMPTY };
        let will = self.random.once_in(2).then(|| Will {
            topic: TopicName::new("t/0").expect("a topic"),
            payload: b"will",
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: Properties::EMPTY,
        });
        let name = party.name.clone();
        // A session without persistence ends with its connection, also with one that is taken over.
        let expected = !clean_start && party.alive && party.persistent;
        let packet =
            Packet::Connect(Connect { clean_start, properties, will, ..connect(Version::V5, &name) });
        self.cluster.submit(client, &packet);
        let present = loop {
            let connack = self.cluster.look(client, |packet| match packet {
                Packet::ConnAck(connack) => connack.session_present,
                other => panic!("{other:?} before CONNACK"),
            });
            if let Some(present) = connack {
                break present;
            }
            assert!(self.cluster.step(), "a CONNACK comes");
        };
        assert_eq!(present, expected, "whether {name} has a session");
        let party = &mut self.parties[who];
        party.connection = Some(client);
        party.reads = true;
        party.alive = true;
        party.subscribing.clear();
        if !present {
            party.session += 1;
            party.asked.clear();
            party.granted.clear();
            party.held.clear();
            party.sent.clear();
            return;
        }
        for at in 0..self.parties[who].sent.len() {
            let sent = &self.parties[who].sent[at];
            if sent.released {
                let ack = Ack::new(sent.packet_id, ReasonCode::SUCCESS);
                self.cluster.submit(client, &Packet::PubRel(ack));
            } else {
                let first = publish(&sent.key.1, &sent.payload, sent.qos, sent.packet_id.get());
                self.cluster
                    .submit(client, &Packet::Publish(Publish { dup: true, retain: sent.retain, ..first }));
                self.oracle.resent(&sent.key);
            }
        }
    }

    fn cut(&mut self, who: usize) {
        let Some(connection) = self.connection(who) else { return };
        self.cluster.drop_connection(connection);
        let party = &mut self.parties[who];
        party.connection = None;
        party.alive &= party.persistent;
    }

    fn filter(&mut self) -> &'static str {
        let mut filters = vec!["t/0", "t/1", "t/+", "t/#"];
        if self.plan.shared {
            filters.extend(["$share/g/s/+", "$share/g/s/+"]);
        }
        if self.plan.retained {
            filters.extend(["r/#", "r/#"]);
        }
        filters[self.random.below(filters.len())]
    }

    fn packet_id(&mut self, who: usize) -> PacketId {
        loop {
            let party = &mut self.parties[who];
            party.next_id = party.next_id % 60_000 + 1;
            let packet_id = PacketId::new(party.next_id).expect("not 0");
            if party.sent.iter().all(|sent| sent.packet_id != packet_id) {
                return packet_id;
            }
        }
    }

    fn subscribe(&mut self, who: usize) {
        let Some(connection) = self.connection(who) else { return };
        let filter = self.filter();
        // One group with QoS 2 throughout, so that a message keeps the QoS it was published with.
        let qos = if filter.starts_with('$') { Qos::ExactlyOnce } else { QOS[self.random.below(3)] };
        let packet_id = self.packet_id(who);
        let party = &mut self.parties[who];
        party.asked.insert(filter.to_owned());
        party.granted.remove(filter);
        party.subscribing.retain(|_, (asked, _)| asked != filter);
        party.subscribing.insert(packet_id, (filter.to_owned(), qos));
        if qos == Qos::AtMostOnce {
            // What is under way from another core may already come at QoS 0.
            let session = self.session(who);
            self.oracle.released(session, "");
        }
        let list = [Subscription { filter, options: SubscriptionOptions::new(qos) }];
        let (properties, subscriptions) = (Properties::EMPTY, Subscriptions::new(&list));
        self.cluster
            .submit(connection, &Packet::Subscribe(Subscribe { packet_id, properties, subscriptions }));
    }

    fn unsubscribe(&mut self, who: usize) {
        let Some(connection) = self.connection(who) else { return };
        let filter = self.filter();
        let packet_id = self.packet_id(who);
        self.parties[who].granted.remove(filter);
        // One that is under way is ended as well.
        self.parties[who].subscribing.retain(|_, (asked, _)| asked != filter);
        let session = self.session(who);
        self.oracle.released(session, filter);
        let filters = [filter];
        let (properties, filters) = (Properties::EMPTY, Filters::new(&filters));
        self.cluster.submit(connection, &Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters }));
    }

    fn change_reading(&mut self, who: usize) {
        let Some(connection) = self.connection(who) else { return };
        let party = &mut self.parties[who];
        party.reads = !party.reads;
        self.cluster.set_reading_quietly(connection, self.parties[who].reads);
    }

    fn publish(&mut self, who: usize) {
        let Some(connection) = self.connection(who) else { return };
        if self.parties[who].sent.len() > 100 {
            return;
        }
        let mut topics = vec!["t/0".to_owned(), "t/1".to_owned(), "t/2".to_owned()];
        if self.plan.shared {
            topics.extend(["s/0".to_owned(), "s/1".to_owned()]);
        }
        if self.plan.retained {
            // One publisher a topic.
            topics.extend((0..4).map(|n| format!("r/{who}/{n}")));
        }
        let topic = topics.swap_remove(self.random.below(topics.len()));
        let retain = topic.starts_with("r/");
        let qos = if retain { Qos::AtLeastOnce } else { QOS[self.random.below(3)] };
        let sequence = self.sequences.entry((who, topic.clone())).or_default();
        *sequence += 1;
        let key = (who, topic, *sequence);
        let padding = if self.random.once_in(8) { self.random.below(5000) } else { 0 };
        let payload = payload(&key, qos, padding);
        let owed = |(who, party): (usize, &Party)| {
            let owed = party
                .granted
                .iter()
                .any(|(filter, granted)| *granted > Qos::AtMostOnce && matches(filter, &key.1));
            (owed && party.alive).then_some((who, party.session))
        };
        let subscribers: Vec<_> = self.parties.iter().enumerate().filter_map(owed).collect();
        self.oracle.published(&key, qos, subscribers.into_iter());
        let packet_id = self.packet_id(who);
        let first = publish(&key.1, &payload, qos, packet_id.get());
        self.cluster.submit(connection, &Packet::Publish(Publish { retain, ..first }));
        if qos != Qos::AtMostOnce {
            self.parties[who].sent.push_back(Sent { packet_id, qos, released: false, retain, key, payload });
        }
    }

    /// The Client looks at up to `most` packets that it has got.
    fn serve(&mut self, who: usize, most: usize) {
        for _ in 0..most {
            let Some(connection) = self.connection(who) else { return };
            let session = self.session(who);
            let Workload { cluster, parties, oracle, .. } = self;
            let party = &mut parties[who];
            let Some(answer) = cluster.look(connection, |packet| party.take(session, packet, oracle)) else {
                return;
            };
            if let Some(packet) = answer {
                cluster.submit(connection, &packet);
            }
            if self.cluster.is_closed(connection) {
                panic!("the broker closed the connection of {}", self.parties[who].name);
            }
        }
    }
}

impl Party {
    /// Takes a packet; the answer to it.
    fn take(
        &mut self,
        session: SessionId,
        packet: &Packet<'_>,
        oracle: &mut Oracle,
    ) -> Option<Packet<'static>> {
        let success = |packet_id| Ack::new(packet_id, ReasonCode::SUCCESS);
        match packet {
            Packet::Publish(publish) => {
                let topic = publish.topic.expect("no alias was allowed").as_str();
                assert!(self.asked.iter().any(|filter| matches(filter, topic)), "{topic} does not match");
                let known = publish.qos == Qos::ExactlyOnce
                    && !self.held.insert(publish.packet_id.expect("above QoS 0"));
                assert!(!known || publish.dup, "a Packet Identifier is used again");
                if !known {
                    let Publish { payload, qos, retain, dup, .. } = *publish;
                    oracle.received(&Received { session, topic, payload, qos, retain, dup });
                }
                let packet_id = publish.packet_id?;
                match publish.qos {
                    Qos::ExactlyOnce => Some(Packet::PubRec(success(packet_id))),
                    _ => Some(Packet::PubAck(success(packet_id))),
                }
            }
            Packet::PubRel(ack) => {
                self.held.remove(&ack.packet_id);
                Some(Packet::PubComp(success(ack.packet_id)))
            }
            // [MQTT-4.6.0-2]: acknowledged in the order of the PUBLISHes.
            Packet::PubAck(ack) => {
                let first =
                    self.sent.iter().position(|sent| sent.qos == Qos::AtLeastOnce).expect("one was sent");
                let sent = self.sent.remove(first).expect("just found");
                assert_eq!(sent.packet_id, ack.packet_id);
                None
            }
            Packet::PubRec(ack) => {
                let first = |sent: &&mut Sent| sent.qos == Qos::ExactlyOnce && !sent.released;
                let sent = self.sent.iter_mut().find(first).expect("one was sent");
                assert_eq!(sent.packet_id, ack.packet_id);
                sent.released = !ack.reason.is_error();
                Some(Packet::PubRel(success(ack.packet_id)))
            }
            Packet::PubComp(ack) => {
                self.sent.retain(|sent| sent.packet_id != ack.packet_id);
                None
            }
            Packet::SubAck(ack) => {
                if let Some((filter, qos)) = self.subscribing.remove(&ack.packet_id) {
                    self.granted.insert(filter, qos);
                }
                None
            }
            Packet::UnsubAck(_) => None,
            other => panic!("{other:?}"),
        }
    }
}
