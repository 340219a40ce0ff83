//! A broker of two cores under three connections that do and send anything, breaking and returning, while ports, the
//! store, lanes and connections on their way between cores take as long as they like, and cores shut down.
//!
//! The shards check their invariants by themselves. What they send must be packets of the connection's version; every
//! message is accounted for; and when all Clients have left for good, nothing is left of them.

#[path = "../../mqtt-broker/tests/behaviour/cluster.rs"]
#[expect(dead_code, reason = "the tests of the broker use the rest")]
mod cluster;
#[path = "input.rs"]
mod input;
#[path = "late.rs"]
mod late;

use cluster::{ClientId, Cluster, limits, publish};
use input::Input;
use late::{Late, Question, answer};
use mqtt_broker::config::Limits;
use mqtt_broker::ports::Ticket;
use mqtt_broker::shard::Stats;
use mqtt_proto::packet::{
    Ack, Auth, Connect, Disconnect, Filters, Packet, Properties, Property, Publish, RetainHandling,
    Subscribe, Subscription, SubscriptionOptions, Subscriptions, Unsubscribe, Will,
};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, TopicName, Version};

const VERSIONS: [Version; 3] = [Version::V5, Version::V3_1_1, Version::V3_1];
const QOS: [Qos; 3] = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce];
const CLIENT_IDS: [&str; 4] = ["a", "b", "c", ""];
const TOPICS: [&str; 5] = ["a", "a/b", "c", "d/e/f", "$x"];
const FILTERS: [&str; 8] = ["a", "a/b", "#", "a/#", "+/b", "$share/g/a", "$share/g/#", "$share/h/+/+"];
const REASONS: [ReasonCode; 2] = [ReasonCode::SUCCESS, ReasonCode::UNSPECIFIED_ERROR];
const SECONDS: [u32; 4] = [0, 1, 5, u32::MAX];

const METHOD: Property<'static> = Property::AuthenticationMethod("m");
const CORES: usize = 2;

/// A connection, and the version in which it said CONNECT itself; `None` if its bytes were anything.
type Connection = (ClientId, Option<Version>);

struct Run {
    cluster: Cluster,
    late: Late,
    connections: [Option<Connection>; 3],
}

/// Takes `data` as operations.
pub fn run(data: &[u8]) {
    let late = Late::default();
    let ports = late.clone();
    let cluster = Cluster::with(CORES as u16, limits(tighten), move |core| ports.ports(core));
    let mut run = Run { cluster, late, connections: [None; 3] };
    let mut input = Input(data);
    while let Some(operation) = input.next() {
        match operation >> 6 {
            3 => run.disturb(operation, &mut input),
            at => run.operate(usize::from(at), operation, &mut input),
        }
        run.cluster.run();
        run.look();
        // A message of a shared group may wait between two cores until it is safe.
        if !run.cluster.lanes_stalled && !run.late.is_behind() {
            run.account();
        }
    }
    run.finish();
}

impl Run {
    /// A Client does something.
    fn operate(&mut self, at: usize, operation: u8, input: &mut Input<'_>) {
        let cluster = &mut self.cluster;
        match (operation & 15, self.connections[at]) {
            (0, _) => cluster.advance(u64::from(input.byte()) * 100),
            (1, _) => cluster.lanes_stalled ^= true,
            (2, Some((client, _))) => {
                cluster.cut(client);
                self.connections[at] = None;
            }
            (3, Some((client, _))) => cluster.set_reading(client, operation & 16 != 0),
            (_, None) => self.connections[at] = Some(open(cluster, operation, input)),
            (4 | 5, Some((client, _))) => cluster.send_bytes(client, input.bytes()),
            (_, Some((client, Some(version)))) => send(cluster, client, version, operation, input),
            (_, Some((client, None))) => cluster.send_bytes(client, input.bytes()),
        }
    }

    /// Something happens around the broker.
    fn disturb(&mut self, operation: u8, input: &mut Input<'_>) {
        let (core, choice) = (usize::from(operation >> 4) % CORES, operation >> 4 & 3);
        match operation & 15 {
            0..=2 => self.late.toggle(usize::from(operation & 15)),
            3..=6 => {
                let question = self.late.take(usize::from(choice));
                self.answer(question, input.byte());
            }
            7 => self.answer(self.late.last(), input.byte()),
            8 | 9 => self.commit(core, u64::from(input.byte())),
            10 => self.cluster.moving_stalled ^= true,
            11 => self.cluster.shards[core].shutdown(self.cluster.now),
            12 => self.cluster.advance(u64::from(input.byte()) * 1000),
            _ => {
                if let Some((client, Some(Version::V5))) = self.connections[usize::from(choice) % 3] {
                    send_extended(&mut self.cluster, client, operation, input);
                }
            }
        }
    }

    fn answer(&mut self, question: Option<(Ticket, Question)>, choice: u8) {
        let Some((ticket, question)) = question else { return };
        let core = ticket.core.index();
        self.cluster.shards[core].answer(ticket, answer(question, choice), self.cluster.now);
        self.cluster.run();
    }

    fn commit(&mut self, core: usize, records: u64) {
        let position = self.late.commit(core, records);
        self.cluster.shards[core].store_committed(position, self.cluster.now);
        self.cluster.run();
    }

    /// Reads what came, and lets go of connections that ended.
    fn look(&mut self) {
        for connection in &mut self.connections {
            if let Some((client, version)) = *connection {
                while self.cluster.pending(client) > 0 {
                    match version {
                        Some(_) => self.cluster.expect(client, |_| ()),
                        None => drop(self.cluster.take_frame(client)),
                    }
                }
                if self.cluster.is_closed(client) {
                    *connection = None;
                }
            }
        }
    }

    /// Every message is delivered, kept or dropped; no session has two connections.
    fn account(&self) {
        let total = |counter: fn(&Stats) -> u64| self.cluster.total(counter);
        let ended = total(|stats| stats.messages_delivered) + total(Stats::dropped_total);
        assert_eq!(total(|stats| stats.messages_matched), ended + total(|stats| stats.messages_kept));
        assert!(total(|stats| stats.clients_connected) <= total(|stats| stats.sessions));
    }

    /// Everything that was held back comes, all Clients leave and all sessions end: nothing is left.
    fn finish(&mut self) {
        self.cluster.lanes_stalled = false;
        self.cluster.moving_stalled = false;
        self.late.hurry();
        self.cluster.run();
        while let Some(question) = self.late.take(0) {
            self.answer(Some(question), 0);
        }
        (0..CORES).for_each(|core| self.commit(core, u64::MAX));
        for (client, _) in self.connections.into_iter().flatten() {
            self.cluster.set_reading(client, true);
        }
        self.look();
        self.account();
        for (client, _) in self.connections.into_iter().flatten() {
            self.cluster.cut(client);
        }
        self.cluster.advance(120_000);
        self.account();
        let left = |stats: &Stats| {
            [
                stats.connections,
                stats.clients_connected,
                stats.sessions,
                stats.subscriptions,
                stats.shared_subscriptions,
                stats.messages_kept,
                stats.queue_bytes,
            ]
        };
        for shard in &self.cluster.shards {
            assert_eq!(left(shard.stats()), [0; 7], "{:?}", shard.stats());
        }
        // Nor does a core believe that another one wants something.
        let unmatched = self.cluster.total(|stats| stats.messages_unmatched);
        for core in 0..CORES {
            let client = self.cluster.connect(core, Version::V5, "last");
            TOPICS.iter().for_each(|topic| self.cluster.publish(client, topic, b"x"));
        }
        let expected = unmatched + (CORES * TOPICS.len()) as u64;
        assert_eq!(self.cluster.total(|stats| stats.messages_unmatched), expected);
    }
}

/// Bounds so low that a few operations reach them.
fn tighten(limits: &mut Limits) {
    limits.packet_bytes_max = 256;
    limits.receive_maximum = 2;
    limits.in_flight_max = 2;
    limits.subscriptions_per_session_max = 4;
    limits.queue_messages_max = 4;
    limits.queue_bytes_max = 1024;
    limits.output_bytes_max = 1024;
    limits.gather_live_topics_max = 1;
    limits.retained_messages_max = 3;
    limits.retained_slice_messages = 1;
    limits.group_queue_messages_max = 3;
    limits.sessions_max = 4;
    limits.topic_alias_maximum = 2;
    limits.outgoing_topic_aliases_max = 2;
    limits.session_expiry_max_seconds = 60;
    limits.pending_answers_max = 4;
}

fn open(cluster: &mut Cluster, operation: u8, input: &mut Input<'_>) -> Connection {
    let version = input.one_of(&VERSIONS);
    let client = cluster.open(usize::from(operation >> 4 & 1), version);
    if operation & 15 == 4 {
        cluster.send_bytes(client, input.bytes());
        return (client, None);
    }
    let said = [
        Property::SessionExpiryInterval(input.one_of(&SECONDS)),
        Property::TopicAliasMaximum(1),
        Property::ReceiveMaximum(1),
        Property::MaximumPacketSize(40),
        METHOD,
    ];
    let delay = [Property::WillDelayInterval(input.one_of(&SECONDS))];
    let v5 = version == Version::V5;
    let told = |list, all| Properties::new(if v5 { list } else { all });
    let will = (operation & 32 != 0).then(|| Will {
        topic: TopicName::new(input.one_of(&TOPICS)).expect("a topic"),
        payload: input.bytes(),
        qos: input.one_of(&QOS),
        retain: operation & 16 != 0,
        properties: told(&delay, &[]),
    });
    let client_id = input.one_of(&CLIENT_IDS);
    let choice = input.byte();
    // Enhanced authentication is all that such a Client says.
    let said = if operation & 15 == 15 { &said[4..] } else { &said[..usize::from(choice >> 3) % 5] };
    let connect = Connect {
        version,
        // 3.1 has no empty ClientID.
        clean_start: choice & 1 == 0,
        keep_alive: u16::from(choice >> 1 & 3),
        client_id: if version == Version::V3_1 && client_id.is_empty() { "a" } else { client_id },
        properties: told(said, &[]),
        will,
        user_name: None,
        password: None,
    };
    cluster.send(client, &Packet::Connect(connect));
    (client, Some(version))
}

/// Sends a packet that is well formed, in its time or not.
fn send(cluster: &mut Cluster, client: ClientId, version: Version, operation: u8, input: &mut Input<'_>) {
    let packet_id = PacketId::new(u16::from(input.byte() % 4) + 1).expect("not 0");
    let ack =
        Ack::new(packet_id, if operation & 16 == 0 { ReasonCode::SUCCESS } else { input.one_of(&REASONS) });
    let properties = Properties::EMPTY;
    let packet = match operation & 15 {
        6 | 7 => {
            let (topic, qos, payload) = (input.one_of(&TOPICS), input.one_of(&QOS), input.bytes());
            let publish = publish(topic, payload, qos, packet_id.get());
            let dup = operation & 32 != 0 && qos != Qos::AtMostOnce;
            Packet::Publish(Publish { dup, retain: operation & 16 != 0, ..publish })
        }
        8 | 9 => {
            let choice = input.byte();
            let filter = input.one_of(&FILTERS);
            let handling = [RetainHandling::Send, RetainHandling::SendIfNew];
            let options = SubscriptionOptions {
                qos: QOS[usize::from(choice % 3)],
                no_local: choice & 16 != 0 && !filter.starts_with("$share"),
                retain_as_published: choice & 32 != 0,
                retain_handling: handling[usize::from(choice >> 6 & 1)],
            };
            let list = [Subscription { filter, options }];
            let subscriptions = Subscriptions::new(&list);
            return cluster
                .send(client, &Packet::Subscribe(Subscribe { packet_id, properties, subscriptions }));
        }
        10 => {
            let list = [input.one_of(&FILTERS)];
            let filters = Filters::new(&list);
            return cluster
                .send(client, &Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters }));
        }
        11 => Packet::PubAck(ack),
        12 => Packet::PubRec(ack),
        13 => Packet::PubComp(Ack::new(packet_id, ReasonCode::SUCCESS)),
        14 => Packet::PubRel(Ack::new(packet_id, ReasonCode::SUCCESS)),
        _ if operation & 32 == 0 => Packet::PingReq,
        _ if version == Version::V5 && operation & 16 != 0 => {
            let expiry = [Property::SessionExpiryInterval(input.one_of(&SECONDS))];
            let (reason, properties) = (ReasonCode::SUCCESS, Properties::new(&expiry));
            return cluster.send(client, &Packet::Disconnect(Disconnect { reason, properties }));
        }
        _ => Packet::Disconnect(Disconnect::new(ReasonCode::DISCONNECT_WITH_WILL_MESSAGE)),
    };
    cluster.send(client, &packet);
}

/// Sends a packet with what only 5.0 has.
fn send_extended(cluster: &mut Cluster, client: ClientId, operation: u8, input: &mut Input<'_>) {
    let packet_id = PacketId::new(u16::from(input.byte() % 4) + 1).expect("not 0");
    let choice = input.byte();
    match operation & 15 {
        13 => {
            let reasons = [ReasonCode::CONTINUE_AUTHENTICATION, ReasonCode::RE_AUTHENTICATE];
            let list = [METHOD, Property::AuthenticationData(input.bytes())];
            let auth = Auth { reason: reasons[usize::from(choice & 1)], properties: Properties::new(&list) };
            cluster.send(client, &Packet::Auth(auth));
        }
        14 => {
            let list = [
                Property::MessageExpiryInterval(input.one_of(&SECONDS)),
                Property::TopicAlias(u16::from(choice >> 2 & 1) + 1),
            ];
            let (topic, qos) = (input.one_of(&TOPICS), input.one_of(&QOS));
            let plain = publish(topic, input.bytes(), qos, packet_id.get());
            let properties = Properties::new(&list[..usize::from(choice & 3).min(2)]);
            // With an alias the topic may be left out, whether the alias stands for one or not.
            let topic = plain.topic.filter(|_| choice & 8 == 0 || properties.topic_alias().is_none());
            let retain = choice & 16 != 0;
            cluster.send(client, &Packet::Publish(Publish { retain, topic, properties, ..plain }));
        }
        _ => {
            let list = [0, 1, 2].map(|at| {
                let filter = FILTERS[(usize::from(choice) + at * 3) % FILTERS.len()];
                Subscription { filter, options: SubscriptionOptions::new(QOS[at]) }
            });
            let identifier = [Property::SubscriptionIdentifier(u32::from(choice) + 1)];
            let (properties, subscriptions) = (Properties::new(&identifier), Subscriptions::new(&list));
            cluster.send(client, &Packet::Subscribe(Subscribe { packet_id, properties, subscriptions }));
        }
    }
}
