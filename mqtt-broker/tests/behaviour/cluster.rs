//! A whole broker without I/O: N shards, their lanes, and Clients that are buffers of bytes.
//!
//! Nothing happens by itself: [`Cluster::run`] moves bytes and batches until all is quiet, [`Cluster::advance`] moves
//! time. Cores take turns in order, or as [`Cluster::random`] says: either way a run can be had again.

use std::collections::VecDeque;
use std::sync::Arc;

use mqtt_broker::config::{CoreId, Limits};
use mqtt_broker::ports::Ports;
use mqtt_broker::shard::{
    Action, ConnectionId, ConnectionInfo, EnvelopeBatch, Handed, Now, Shard, ShardConfig,
};
use mqtt_proto::codec::{self, Framer};
use mqtt_proto::packet::{
    Ack, Connect, Disconnect, Filters, Packet, Properties, Property, Publish, Subscribe, Subscription,
    SubscriptionOptions, Subscriptions, Unsubscribe,
};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, TopicName, Version};

/// Steps after which whatever is still under way goes round in circles.
const STEPS_MAX: usize = 10_000_000;

/// Names a Client of a [`Cluster`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientId(pub(crate) usize);

struct Client {
    version: Version,
    /// Core and connection, while it is connected.
    place: Option<(usize, ConnectionId)>,
    /// Bytes received and not yet cut into packets.
    inbox: Vec<u8>,
    framer: Framer,
    packets: VecDeque<Vec<u8>>,
    /// Whether it takes what is sent to it.
    reads: bool,
    /// What it has not taken: the buffers of outstanding sends.
    unread: Option<Vec<u8>>,
    paused: bool,
    closed: bool,
}

/// Pseudo-random numbers from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// One time in `n`.
    pub(crate) fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// N shards with their Clients.
pub(crate) struct Cluster {
    pub(crate) shards: Vec<Shard>,
    pub(crate) now: Now,
    clients: Vec<Client>,
    /// Batches on their way: (from, to, batch), in order.
    lanes: VecDeque<(usize, usize, EnvelopeBatch)>,
    /// Whether batches are held back.
    pub(crate) lanes_stalled: bool,
    /// Connections on their way: whose, where to. One whose Client has not taken what was sent to it stays.
    moving: VecDeque<(usize, CoreId, Box<Handed>)>,
    /// Whether they are held back.
    pub(crate) moving_stalled: bool,
    /// Whose turn it is; a lane's batches stay in order. `None`: all in turn.
    pub(crate) random: Option<Random>,
}

impl Cluster {
    pub(crate) fn new(cores: u16) -> Cluster {
        Cluster::with_limits(cores, Limits::default())
    }

    pub(crate) fn with_limits(cores: u16, limits: Limits) -> Cluster {
        Cluster::with(cores, limits, |_| Ports::allow_all())
    }

    pub(crate) fn with(cores: u16, mut limits: Limits, ports: impl Fn(CoreId) -> Ports) -> Cluster {
        limits.check().expect("limits of a test");
        // The tree changes by itself; tests that want it say so by 1.
        if limits.sys_interval_seconds == Limits::default().sys_interval_seconds {
            limits.sys_interval_seconds = 0;
        }
        let limits = Arc::new(limits);
        let now = Now { millis: 1_000_000, wall_millis: 1_700_000_000_000 };
        let shard = |core| {
            let limits = limits.clone();
            let config =
                ShardConfig { core: CoreId(core), cores, limits, hash_key: [3, 5], seed: u64::from(core) };
            Shard::new(config, ports(CoreId(core)), now)
        };
        let shards = (0..cores).map(shard).collect();
        Cluster {
            shards,
            now,
            clients: Vec::new(),
            lanes: VecDeque::new(),
            lanes_stalled: false,
            moving: VecDeque::new(),
            moving_stalled: false,
            random: None,
        }
    }

    /// A Network Connection accepted by `core`.
    pub(crate) fn open(&mut self, core: usize, version: Version) -> ClientId {
        let id = self.shards[core].connection_opened(ConnectionInfo::default(), self.now);
        self.clients.push(Client {
            version,
            place: id.map(|id| (core, id)),
            inbox: Vec::new(),
            framer: Framer::default(),
            packets: VecDeque::new(),
            reads: true,
            unread: None,
            paused: false,
            closed: id.is_none(),
        });
        ClientId(self.clients.len() - 1)
    }

    /// Sends raw bytes and runs until all is quiet.
    pub(crate) fn send_bytes(&mut self, client: ClientId, bytes: &[u8]) {
        if let Some((core, id)) = self.clients[client.0].place {
            self.shards[core].handle_input(id, bytes, self.now);
        } else if let Some((.., handed)) = self.moving.iter_mut().find(|(moving, ..)| *moving == client.0) {
            handed.push_input(bytes);
        }
        self.run();
    }

    /// Sends a packet and runs until all is quiet.
    pub(crate) fn send(&mut self, client: ClientId, packet: &Packet<'_>) {
        let bytes = self.encoded(client, packet);
        self.send_bytes(client, &bytes);
    }

    /// A packet in the Client's version.
    pub(crate) fn encoded(&self, client: ClientId, packet: &Packet<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        codec::encode(packet, self.clients[client.0].version, &mut bytes).expect("a packet of a test");
        bytes
    }

    /// The Network Connection breaks.
    pub(crate) fn cut(&mut self, client: ClientId) {
        self.drop_connection(client);
        self.run();
    }

    /// As [`Cluster::cut`], with the consequences left to [`Cluster::step`].
    pub(crate) fn drop_connection(&mut self, client: ClientId) {
        if let Some((core, id)) = self.clients[client.0].place.take() {
            self.shards[core].connection_closed(id, self.now);
        }
        self.clients[client.0].closed = true;
    }

    /// Whether the Client takes what it is sent.
    pub(crate) fn set_reading(&mut self, client: ClientId, reads: bool) {
        self.set_reading_quietly(client, reads);
        self.run();
    }

    /// As [`Cluster::set_reading`], with the consequences left to [`Cluster::step`].
    pub(crate) fn set_reading_quietly(&mut self, client: ClientId, reads: bool) {
        self.clients[client.0].reads = reads;
        if reads && let Some(buffer) = self.clients[client.0].unread.take() {
            self.arrive(client.0, &buffer);
            if let Some((core, id)) = self.clients[client.0].place {
                self.shards[core].transmit_done(id, buffer, self.now);
            }
        }
    }

    fn arrive(&mut self, client: usize, bytes: &[u8]) {
        let client = &mut self.clients[client];
        client.inbox.extend_from_slice(bytes);
        let inbox = core::mem::take(&mut client.inbox);
        let mut rest = &inbox[..];
        while let Some(frame) =
            client.framer.next_frame(&mut rest, u32::MAX).expect("the broker sends packets")
        {
            client.packets.push_back(frame.to_vec());
        }
    }

    /// Moves bytes and batches until all is quiet.
    pub(crate) fn run(&mut self) {
        let rest = (0..STEPS_MAX).find(|_| !self.step());
        assert!(rest.is_some(), "the cores come to rest within {STEPS_MAX} steps");
    }

    /// Takes what the cores have to say and moves one batch; whether there was anything.
    pub(crate) fn step(&mut self) -> bool {
        let mut any = false;
        while !self.moving_stalled && self.hand_over() {
            any = true;
        }
        for core in 0..self.shards.len() {
            while let Some(action) = self.shards[core].poll_action() {
                any = true;
                self.act(core, action);
            }
            for to in 0..self.shards.len() {
                // What is not taken now grows until it is, as for a core that is busy.
                let busy = |random: &mut Random| random.once_in(2);
                if !self.lanes.is_empty() && self.random.as_mut().is_some_and(busy) {
                    continue;
                }
                if let Some(batch) = self.shards[core].poll_envelopes(CoreId(to as u16)) {
                    any = true;
                    self.lanes.push_back((core, to, batch));
                }
            }
        }
        for shard in &mut self.shards {
            if shard.poll_timeout().is_some_and(|at| at <= self.now.millis) {
                any = true;
                shard.handle_timeout(self.now);
            }
        }
        if self.lanes_stalled || self.lanes.is_empty() {
            // What a core has put off to its next turn is due already.
            for shard in &mut self.shards {
                if !any && shard.poll_timeout().is_some_and(|at| at <= self.now.millis) {
                    any = true;
                    shard.handle_timeout(self.now);
                }
            }
            return any;
        }
        let chosen = self.random.as_mut().map_or(0, |random| random.below(self.lanes.len()));
        let lane = |(from, to, _): &(usize, usize, EnvelopeBatch)| (*from, *to);
        let wanted = lane(&self.lanes[chosen]);
        let first =
            self.lanes.iter().position(|batch| lane(batch) == wanted).expect("the chosen one at least");
        let (from, to, batch) = self.lanes.remove(first).expect("just found");
        self.shards[to].handle_envelopes(CoreId(from as u16), batch, self.now);
        true
    }

    /// Sends a packet and leaves its consequences to [`Cluster::step`].
    pub(crate) fn submit(&mut self, client: ClientId, packet: &Packet<'_>) {
        let bytes = self.encoded(client, packet);
        if let Some((core, id)) = self.clients[client.0].place {
            self.shards[core].handle_input(id, &bytes, self.now);
            while let Some(action) = self.shards[core].poll_action() {
                self.act(core, action);
            }
        }
    }

    /// The next packet that the Client got, if it got any, passed to `look`.
    pub(crate) fn look<T>(&mut self, client: ClientId, look: impl FnOnce(&Packet<'_>) -> T) -> Option<T> {
        let version = self.clients[client.0].version;
        let frame = self.clients[client.0].packets.pop_front()?;
        Some(look(&codec::decode(version, &frame).expect("the broker sends packets")))
    }

    fn find(&self, core: usize, id: ConnectionId) -> Option<usize> {
        self.clients.iter().position(|client| client.place == Some((core, id)))
    }

    /// The core that the Client is connected to, and the connection there.
    pub(crate) fn place(&self, client: ClientId) -> (usize, ConnectionId) {
        self.clients[client.0].place.expect("it is connected")
    }

    /// Does what a shard asks for.
    pub(crate) fn act(&mut self, core: usize, action: Action) {
        match action {
            Action::TransmitShared { id, pieces } => {
                self.act(core, Action::Transmit { id, buffer: pieces.into_vec() });
            }
            Action::Transmit { id, buffer } => {
                let client = self.find(core, id).expect("bytes for a connection that is there");
                if self.clients[client].reads {
                    self.arrive(client, &buffer);
                    self.shards[core].transmit_done(id, buffer, self.now);
                } else {
                    assert!(self.clients[client].unread.is_none(), "one send at a time");
                    self.clients[client].unread = Some(buffer);
                }
            }
            Action::Close { id, last, .. } => {
                let client = self.find(core, id).expect("a connection that is there");
                if let Some(unread) = self.clients[client].unread.take() {
                    self.arrive(client, &unread);
                }
                self.arrive(client, &last);
                self.clients[client].place = None;
                self.clients[client].closed = true;
            }
            Action::Handoff { id, to, handed } => {
                let client = self.find(core, id).expect("a connection that is there");
                self.clients[client].place = None;
                self.moving.push_back((client, to, handed));
                if !self.moving_stalled {
                    self.hand_over();
                }
            }
            Action::PauseRead { id } => {
                let client = self.find(core, id).expect("a connection that is there");
                self.clients[client].paused = true;
            }
            Action::ResumeRead { id } => {
                let client = self.find(core, id).expect("a connection that is there");
                self.clients[client].paused = false;
            }
            Action::Established { .. } => {}
            other => panic!("an action that this test does not know: {other:?}"),
        }
    }

    /// The next connection on its way arrives; whether there was one.
    fn hand_over(&mut self) -> bool {
        let ready = |(client, ..): &(usize, CoreId, Box<Handed>)| {
            self.clients[*client].closed || self.clients[*client].unread.is_none()
        };
        let Some(at) = self.moving.iter().position(ready) else { return false };
        let (client, to, handed) = self.moving.remove(at).expect("just found");
        let core = to.index();
        let place = self.shards[core].connection_arrived(handed, self.now).map(|id| (core, id));
        let broken = core::mem::replace(&mut self.clients[client].closed, place.is_none());
        self.clients[client].place = place;
        // Reading begins anew where it arrives.
        self.clients[client].paused = false;
        if broken {
            // It broke on the way, which is seen only now.
            while let Some(action) = self.shards[core].poll_action() {
                self.act(core, action);
            }
            self.drop_connection(ClientId(client));
        }
        true
    }

    /// Moves time, firing every deadline on the way.
    pub(crate) fn advance(&mut self, millis: u64) {
        let end = self.now.millis + millis;
        loop {
            let next = self.shards.iter().filter_map(Shard::poll_timeout).min().filter(|&at| at <= end);
            let at = next.unwrap_or(end);
            self.now.wall_millis += at - self.now.millis;
            self.now.millis = at;
            for shard in &mut self.shards {
                shard.handle_timeout(self.now);
            }
            self.run();
            if next.is_none() {
                return;
            }
        }
    }

    /// Every core hears from its store.
    pub(crate) fn look_at_stores(&mut self) {
        for shard in &mut self.shards {
            shard.store_committed(0, self.now);
        }
        self.run();
    }

    /// Whether the broker has closed the connection.
    pub(crate) fn is_closed(&self, client: ClientId) -> bool {
        self.clients[client.0].closed
    }

    /// Whether the broker does not read from the Client.
    pub(crate) fn is_paused(&self, client: ClientId) -> bool {
        self.clients[client.0].paused
    }

    /// The core that serves the Client.
    pub(crate) fn core_of(&self, client: ClientId) -> usize {
        self.clients[client.0].place.expect("connected").0
    }

    /// The next packet that the Client got, passed to `check`.
    #[track_caller]
    pub(crate) fn expect<T>(&mut self, client: ClientId, check: impl FnOnce(&Packet<'_>) -> T) -> T {
        let version = self.clients[client.0].version;
        let frame = self.clients[client.0].packets.pop_front().expect("the Client got a packet");
        check(&codec::decode(version, &frame).expect("the broker sends packets"))
    }

    /// The bytes of the next packet that the Client got.
    #[track_caller]
    pub(crate) fn take_frame(&mut self, client: ClientId) -> Vec<u8> {
        self.clients[client.0].packets.pop_front().expect("the Client got a packet")
    }

    /// Fails if the Client got anything more.
    #[track_caller]
    pub(crate) fn expect_nothing(&mut self, client: ClientId) {
        let version = self.clients[client.0].version;
        if let Some(frame) = self.clients[client.0].packets.pop_front() {
            panic!("the Client got {:?}", codec::decode(version, &frame));
        }
    }

    /// Packets that the Client got and has not looked at.
    pub(crate) fn pending(&self, client: ClientId) -> usize {
        self.clients[client.0].packets.len()
    }

    // What most tests say.

    /// Connects with Clean Start; the CONNACK is taken and says success.
    #[track_caller]
    pub(crate) fn connect(&mut self, core: usize, version: Version, client_id: &str) -> ClientId {
        self.connect_with(core, connect(version, client_id)).0
    }

    /// Connects as `connect` says; the CONNACK is taken and says success. Also whether a session was present.
    #[track_caller]
    pub(crate) fn connect_with(&mut self, core: usize, connect: Connect<'_>) -> (ClientId, bool) {
        let client = self.open(core, connect.version);
        self.send(client, &Packet::Connect(connect));
        let present = self.expect(client, |packet| {
            let Packet::ConnAck(connack) = packet else { panic!("{packet:?}") };
            assert_eq!(connack.reason, ReasonCode::SUCCESS);
            connack.session_present
        });
        (client, present)
    }

    /// Connects as `connect` says; the Reason Code of the CONNACK.
    #[track_caller]
    pub(crate) fn connect_reason(&mut self, core: usize, connect: Connect<'_>) -> ReasonCode {
        let client = self.open(core, connect.version);
        self.send(client, &Packet::Connect(connect));
        self.expect(client, |packet| match packet {
            Packet::ConnAck(connack) => connack.reason,
            other => panic!("{other:?}"),
        })
    }

    /// Connects and keeps its session for an hour; whether one was present.
    #[track_caller]
    pub(crate) fn resume(&mut self, core: usize, version: Version, client_id: &str) -> (ClientId, bool) {
        let expiry = [Property::SessionExpiryInterval(3600)];
        let properties = if version == Version::V5 { Properties::new(&expiry) } else { Properties::EMPTY };
        self.connect_with(core, Connect { clean_start: false, properties, ..connect(version, client_id) })
    }

    /// Subscribes; the SUBACK is taken and grants what was asked for.
    #[track_caller]
    pub(crate) fn subscribe(&mut self, client: ClientId, filter: &str, qos: Qos) {
        let reason = self.subscribe_with(client, filter, SubscriptionOptions::new(qos), Properties::EMPTY);
        assert_eq!(reason.0, qos.bits());
    }

    /// Subscribes; the Reason Code of the SUBACK.
    #[track_caller]
    pub(crate) fn subscribe_with(
        &mut self,
        client: ClientId,
        filter: &str,
        options: SubscriptionOptions,
        properties: Properties<'_>,
    ) -> ReasonCode {
        let list = [Subscription { filter, options }];
        let packet_id = PacketId::new(999).expect("not 0");
        let subscriptions = Subscriptions::new(&list);
        self.send(client, &Packet::Subscribe(Subscribe { packet_id, properties, subscriptions }));
        self.expect(client, |packet| {
            let Packet::SubAck(suback) = packet else { panic!("{packet:?}") };
            assert_eq!(suback.packet_id, packet_id);
            suback.reasons.iter().next().expect("one filter, one Reason Code")
        })
    }

    /// Unsubscribes; the Reason Code of the UNSUBACK (success before 5.0).
    #[track_caller]
    pub(crate) fn unsubscribe(&mut self, client: ClientId, filter: &str) -> ReasonCode {
        let packet_id = PacketId::new(998).expect("not 0");
        let (properties, filters) = (Properties::EMPTY, [filter]);
        let filters = Filters::new(&filters);
        self.send(client, &Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters }));
        self.expect(client, |packet| {
            let Packet::UnsubAck(unsuback) = packet else { panic!("{packet:?}") };
            unsuback.reasons.iter().next().unwrap_or(ReasonCode::SUCCESS)
        })
    }

    /// Publishes at QoS 0.
    pub(crate) fn publish(&mut self, client: ClientId, topic: &str, payload: &[u8]) {
        self.send(client, &Packet::Publish(publish(topic, payload, Qos::AtMostOnce, 0)));
    }

    /// Publishes at QoS 1; the Reason Code of the PUBACK.
    #[track_caller]
    pub(crate) fn publish_1(&mut self, client: ClientId, topic: &str, payload: &[u8]) -> ReasonCode {
        self.send(client, &Packet::Publish(publish(topic, payload, Qos::AtLeastOnce, 77)));
        self.expect(client, |packet| match packet {
            Packet::PubAck(ack) => ack.reason,
            other => panic!("{other:?}"),
        })
    }

    /// Publishes at QoS 2, all four packets; the Reason Code of the PUBREC.
    #[track_caller]
    pub(crate) fn publish_2(&mut self, client: ClientId, topic: &str, payload: &[u8]) -> ReasonCode {
        self.send(client, &Packet::Publish(publish(topic, payload, Qos::ExactlyOnce, 78)));
        let (id, reason) = self.expect(client, |packet| match packet {
            Packet::PubRec(ack) => (ack.packet_id, ack.reason),
            other => panic!("{other:?}"),
        });
        if !reason.is_error() {
            self.send(client, &Packet::PubRel(Ack::new(id, ReasonCode::SUCCESS)));
            self.expect(client, |packet| assert!(matches!(packet, Packet::PubComp(_)), "{packet:?}"));
        }
        reason
    }

    /// Takes a PUBLISH and acknowledges it as its QoS demands; topic and payload.
    #[track_caller]
    pub(crate) fn take(&mut self, client: ClientId) -> (String, Vec<u8>) {
        let (message, qos, id) = self.expect(client, |packet| {
            let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
            let topic = publish.topic.map_or(String::new(), |topic| topic.to_string());
            ((topic, publish.payload.to_vec()), publish.qos, publish.packet_id)
        });
        match (qos, id) {
            (Qos::AtLeastOnce, Some(id)) => {
                self.send(client, &Packet::PubAck(Ack::new(id, ReasonCode::SUCCESS)));
            }
            (Qos::ExactlyOnce, Some(id)) => {
                self.send(client, &Packet::PubRec(Ack::new(id, ReasonCode::SUCCESS)));
                let at = self.clients[client.0].packets.len() - 1;
                let frame = self.clients[client.0].packets.remove(at).expect("the answer to PUBREC");
                let packet =
                    codec::decode(self.clients[client.0].version, &frame).expect("the broker sends packets");
                assert!(matches!(packet, Packet::PubRel(_)), "{packet:?}");
                self.send(client, &Packet::PubComp(Ack::new(id, ReasonCode::SUCCESS)));
            }
            _ => {}
        }
        message
    }

    /// Takes a PUBLISH, which has to be this one.
    #[track_caller]
    pub(crate) fn expect_message(&mut self, client: ClientId, topic: &str, payload: &[u8]) {
        assert_eq!(self.take(client), (topic.to_owned(), payload.to_vec()));
    }

    /// The connection ends with a DISCONNECT of this Reason Code (5.0).
    #[track_caller]
    pub(crate) fn expect_disconnect(&mut self, client: ClientId, reason: ReasonCode) {
        self.expect(client, |packet| {
            assert_eq!(packet, &Packet::Disconnect(Disconnect::new(reason)));
        });
        assert!(self.is_closed(client));
    }

    /// The sum of a counter over all cores.
    pub(crate) fn total(&self, counter: impl Fn(&mqtt_broker::shard::Stats) -> u64) -> u64 {
        self.shards.iter().map(|shard| counter(shard.stats())).sum()
    }
}

/// The default limits with this change.
pub(crate) fn limits<T>(change: impl FnOnce(&mut Limits) -> T) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

/// A CONNECT with Clean Start and nothing else.
pub(crate) fn connect(version: Version, client_id: &str) -> Connect<'_> {
    Connect::new(version, client_id)
}

/// A PUBLISH without properties; `packet_id` counts at QoS 1 and 2.
pub(crate) fn publish<'a>(topic: &'a str, payload: &'a [u8], qos: Qos, packet_id: u16) -> Publish<'a> {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(TopicName::new(topic).expect("a topic")),
        packet_id: (qos != Qos::AtMostOnce).then(|| PacketId::new(packet_id).expect("not 0")),
        properties: Properties::EMPTY,
        payload,
    }
}
