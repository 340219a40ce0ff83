//! One client of the soak: it comes, publishes, subscribes, and goes in one of three manners.

use std::io;
use std::rc::Rc;

use mqtt_proto::connection::{Client, ConnectOptions, Event, Outgoing};
use mqtt_proto::packet::Publish;
use mqtt_proto::{
    Connect, Disconnect, Properties, Property, Qos, ReasonCode, Subscription, SubscriptionOptions, TopicName,
    Version, Will,
};

use super::World;
use super::ledger::{Delivery, View};
use crate::load::net::{Link, Ready};
use crate::load::payload::{self, Header};

/// Clients of a group; those of one group publish to each other.
pub(super) const GROUP: u32 = 20;
/// The streams of a group: the client of the group that publishes it, and its QoS.
pub(super) const STREAMS: [(u32, Qos); 10] = [
    (0, Qos::AtMostOnce),
    (1, Qos::AtLeastOnce),
    (2, Qos::ExactlyOnce),
    (3, Qos::AtMostOnce),
    (3, Qos::AtLeastOnce),
    (3, Qos::ExactlyOnce),
    (17, Qos::AtLeastOnce),
    (18, Qos::ExactlyOnce),
    (19, Qos::AtLeastOnce),
    (1, Qos::AtLeastOnce),
];
/// The stream of a group whose messages are retained.
pub(super) const RETAINED: usize = 9;
/// Bytes of a payload.
pub(super) const PAYLOAD_LEN: usize = 64;
/// QoS 1 and 2 messages that one publisher has under way.
const IN_FLIGHT_MAX: usize = 50;
/// Seconds that sessions outlive their connections: more than anybody is away, less than for ever.
const SESSION_EXPIRY: u32 = 900;
/// Milliseconds that the broker may take to close after we did.
const CLOSE_PATIENCE: u64 = 5_000;

/// When a client that has retired comes back.
const NEVER: u64 = u64::MAX;

/// What a client is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Publishes, with a session that is resumed.
    Publisher,
    /// Subscribes to all streams of its group, with a session that is resumed.
    Subscriber,
    /// The same, with a new session each time, and to the retained topic.
    Guest,
    /// Member of the group's shared subscription, with a session that is resumed.
    Shared,
    /// Publisher and subscriber.
    Both,
    /// Always there; receives all Will Messages.
    Witness,
    /// Comes at the end and reads all retained messages.
    Reader,
}

impl Role {
    /// The role of the client with the number `slot` in its group.
    pub(super) const fn of_slot(slot: u32) -> Role {
        match slot {
            0..4 => Role::Publisher,
            4..10 => Role::Subscriber,
            10..14 => Role::Guest,
            14..17 => Role::Shared,
            _ => Role::Both,
        }
    }

    const fn is_persistent(self) -> bool {
        !matches!(self, Role::Guest | Role::Reader)
    }

    const fn comes_and_goes(self) -> bool {
        !matches!(self, Role::Witness | Role::Reader)
    }

    /// Whether it subscribes to the streams of its group for itself.
    const fn views(self) -> bool {
        matches!(self, Role::Subscriber | Role::Guest | Role::Both)
    }
}

/// Where a client is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not connected; comes back when its time has come.
    Away,
    /// CONNACK or SUBACK are still to come.
    Opening,
    /// Connected and subscribed.
    Here,
    /// Has said or shown that it ends; waits for the broker to close.
    Leaving,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Disconnect,
    /// The end of the stream without DISCONNECT: everything sent still arrives.
    HalfClose,
    /// A reset: whatever is under way in either direction is lost.
    Reset,
}

/// A message that a publisher keeps until it is acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    stream: u32,
    sequence: u64,
    topic: Rc<str>,
    qos: Qos,
    retain: bool,
    payload: Vec<u8>,
}

impl Outgoing for Draft {
    fn as_publish(&self) -> Publish<'_> {
        Publish {
            dup: false,
            qos: self.qos,
            retain: self.retain,
            topic: TopicName::new(&self.topic).ok(),
            packet_id: None,
            properties: Properties::EMPTY,
            payload: &self.payload,
        }
    }
}

/// One client.
pub(super) struct Actor {
    index: u32,
    pub(super) role: Role,
    pub(super) state: State,
    pub(super) client: Client<Draft>,
    link: Option<Link>,
    /// Connections so far; the Will Message carries the number.
    life: u64,
    /// When it comes or goes next, in milliseconds.
    pub(super) until: u64,
    /// One for each stream of its group, if it subscribes.
    pub(super) views: Vec<View>,
    /// Messages of the retained topic that were acknowledged when a guest subscribed.
    retained_floor: u64,
    /// The last one it has of that topic, on this connection.
    retained_seen: Option<u64>,
}

impl Actor {
    /// A client that comes at `until`.
    pub(super) fn new(index: u32, role: Role, until: u64) -> Actor {
        Actor {
            index,
            role,
            state: State::Away,
            client: Client::default(),
            link: None,
            life: 0,
            until,
            views: if role.views() { vec![View::default(); RETAINED] } else { Vec::new() },
            retained_floor: 0,
            retained_seen: None,
        }
    }

    const fn version(&self) -> Version {
        if self.index.is_multiple_of(2) { Version::V5 } else { Version::V3_1_1 }
    }

    const fn group(&self) -> u32 {
        self.index / GROUP
    }

    /// The number of the first stream of its group.
    const fn first_stream(&self) -> usize {
        self.group() as usize * STREAMS.len()
    }

    /// The streams it publishes, among those of its group.
    fn published(&self) -> impl Iterator<Item = usize> + use<> {
        let slot = self.index % GROUP;
        let publishes = matches!(self.role, Role::Publisher | Role::Both);
        (0..STREAMS.len()).filter(move |&place| publishes && STREAMS[place].0 == slot)
    }

    /// Opens a connection.
    pub(super) fn connect(&mut self, world: &mut World) -> io::Result<()> {
        self.life += 1;
        let client_id = format!("soak-{}-{}", world.run, self.index);
        let topic = format!("soak/{}/will/{}", world.run, self.index);
        let mut will = Vec::new();
        payload::write(
            Header { stream: self.index, sequence: self.life, sent_ns: 0 },
            PAYLOAD_LEN,
            &mut will,
        );
        let persistent = [
            Property::SessionExpiryInterval(SESSION_EXPIRY),
            Property::ReceiveMaximum(world.receive_maximum),
        ];
        let guest = [Property::ReceiveMaximum(100)];
        let is_v5 = self.version() == Version::V5;
        let properties = match (is_v5, self.role.is_persistent()) {
            (false, _) => Properties::EMPTY,
            (true, true) => Properties::new(&persistent),
            (true, false) => Properties::new(&guest),
        };
        let connect = Connect {
            clean_start: !self.role.is_persistent(),
            keep_alive: 30,
            properties,
            will: self.role.comes_and_goes().then_some(Will {
                topic: TopicName::new(&topic).map_err(io::Error::other)?,
                payload: &will,
                qos: Qos::AtLeastOnce,
                retain: false,
                properties: Properties::EMPTY,
            }),
            ..Connect::new(self.version(), &client_id)
        };
        self.client.connect(&ConnectOptions::new(connect), world.clock.ms()).map_err(io::Error::other)?;
        self.link = Some(world.net.connect(u64::from(self.index))?);
        self.state = State::Opening;
        self.transmit(world)
    }

    /// Handles what happened on its socket.
    pub(super) fn handle_ready(&mut self, world: &mut World, ready: Ready, buffer: &mut [u8]) {
        let ended = match self.move_bytes(world, ready, buffer) {
            Err(error) => Some(error.to_string()),
            Ok(()) => None,
        };
        match (ended, self.state) {
            (Some(_), State::Leaving) => self.gone(world),
            (Some(how), State::Opening | State::Here) => {
                let client = self.index;
                world.report.violation(format!("client {client}: the connection ended: {how}"));
                self.lost(world);
            }
            _ => {}
        }
    }

    fn move_bytes(&mut self, world: &mut World, ready: Ready, buffer: &mut [u8]) -> io::Result<()> {
        let Some(link) = &mut self.link else { return Ok(()) };
        if ready.writable {
            link.flush(&world.net)?;
        }
        if !ready.readable {
            return Ok(());
        }
        let Some(len) = link.read(buffer)? else { return Ok(()) };
        if self.state == State::Leaving {
            return Ok(());
        }
        let mut input = &buffer[..len];
        while self.handle_event(world, &mut input)? {}
        self.transmit(world)
    }

    /// Handles the next packet of `input`; whether there was one.
    fn handle_event(&mut self, world: &mut World, input: &mut &[u8]) -> io::Result<bool> {
        let first = self.first_stream();
        let now = world.clock.ms();
        let Some(event) = self.client.poll_event(input, now).map_err(io::Error::other)? else {
            return Ok(false);
        };
        match event {
            Event::Connected { connack, discarded } => {
                let resumed = connack.session_present;
                if !discarded.is_empty() || (self.role.is_persistent() && self.life > 1 && !resumed) {
                    world.report.violation(format!("client {}: its session was lost", self.index));
                }
                if resumed {
                    self.begin_stay(world, Qos::AtMostOnce);
                } else {
                    self.subscribe(world)?;
                }
            }
            Event::Refused(connack) => {
                return Err(io::Error::other(format!("refused: {}", connack.reason)));
            }
            Event::Disconnected(disconnect) => {
                return Err(io::Error::other(format!("DISCONNECT: {}", disconnect.reason)));
            }
            Event::Subscribed(suback) => {
                if let Some(reason) = suback.reasons.iter().find(|reason| reason.is_error()) {
                    return Err(io::Error::other(format!("refused to subscribe: {reason}")));
                }
                self.begin_stay(world, Qos::ExactlyOnce);
            }
            Event::Message(publish) => {
                world.received += 1;
                // The Server may send messages before its SUBACK: what it left out until then is not missing.
                if self.state == State::Opening {
                    for (view, stream) in self.views.iter_mut().zip(&world.streams[first..]) {
                        view.exempt(stream);
                    }
                }
                if let Err(what) = judge(
                    self.role,
                    first,
                    &mut self.views,
                    &mut self.retained_seen,
                    self.retained_floor,
                    &publish,
                    world,
                ) {
                    world.report.violation(format!("client {} ({:?}): {what}", self.index, self.role));
                }
            }
            Event::Acknowledged { message, reason, .. } => {
                world.streams[message.stream as usize].answered(message.sequence, reason.is_error());
            }
            Event::Received { message: Some(message), .. } => {
                world.streams[message.stream as usize].answered(message.sequence, false);
            }
            Event::Stray(packet_type, packet_id) => {
                world.report.violation(format!("client {}: stray {packet_type:?} {packet_id}", self.index));
            }
            _ => {}
        }
        Ok(true)
    }

    /// Asks for the subscriptions of its role, or begins its stay if there is none.
    fn subscribe(&mut self, world: &mut World) -> io::Result<()> {
        let run = &world.run;
        let group = self.group();
        let streams = format!("soak/{run}/g/{group}/+");
        let filters = match self.role {
            Role::Publisher => Vec::new(),
            Role::Subscriber | Role::Both => vec![(streams, Qos::ExactlyOnce)],
            Role::Guest => {
                vec![(streams, Qos::ExactlyOnce), (format!("soak/{run}/r/{group}"), Qos::AtLeastOnce)]
            }
            Role::Shared => vec![(format!("$share/soak/{streams}"), Qos::ExactlyOnce)],
            Role::Witness => vec![(format!("soak/{run}/will/+"), Qos::AtLeastOnce)],
            Role::Reader => vec![(format!("soak/{run}/r/+"), Qos::AtLeastOnce)],
        };
        if filters.is_empty() {
            self.begin_stay(world, Qos::ExactlyOnce);
            return Ok(());
        }
        if self.role == Role::Guest {
            self.retained_floor = world.streams[self.first_stream() + RETAINED].acknowledged;
            self.retained_seen = None;
        }
        let subscriptions: Vec<_> = filters
            .iter()
            .map(|(filter, qos)| Subscription { filter, options: SubscriptionOptions::new(*qos) })
            .collect();
        self.client
            .subscribe(&subscriptions, Properties::EMPTY, world.clock.ms())
            .map_err(io::Error::other)?;
        Ok(())
    }

    /// It is subscribed from now on; of what was sent before, messages up to `excused` may be lost.
    fn begin_stay(&mut self, world: &mut World, excused: Qos) {
        self.state = State::Here;
        self.until = world.clock.ms() + world.random.between(5_000, 40_000);
        let first = self.first_stream();
        for (view, stream) in self.views.iter_mut().zip(&world.streams[first..]) {
            if stream.qos <= excused {
                view.exempt(stream);
            }
        }
    }

    /// Publishes on one of its streams; whether it could.
    pub(super) fn publish(&mut self, world: &mut World) -> io::Result<bool> {
        let choice = world.random.next() as usize;
        let streams: Vec<usize> = self.published().collect();
        if self.state != State::Here
            || streams.is_empty()
            || self.client.session().outbound.in_flight() >= IN_FLIGHT_MAX
        {
            return Ok(false);
        }
        let place = streams[choice % streams.len()];
        let id = self.first_stream() + place;
        let stream = &mut world.streams[id];
        let mut bytes = Vec::with_capacity(PAYLOAD_LEN);
        let header = Header { stream: id as u32, sequence: stream.sent, sent_ns: world.clock.ns() };
        payload::write(header, PAYLOAD_LEN, &mut bytes);
        let draft = Draft {
            stream: id as u32,
            sequence: stream.sent,
            topic: Rc::clone(&world.topics[id]),
            qos: stream.qos,
            retain: place == RETAINED,
            payload: bytes,
        };
        if self.client.publish(draft, world.clock.ms()).is_err() {
            return Ok(false);
        }
        stream.sent += 1;
        world.sent += 1;
        if self.transmit(world).is_err() {
            world.report.violation(format!("client {}: the connection broke while it published", self.index));
            self.lost(world);
        }
        Ok(true)
    }

    /// Does what is due: comes, goes (if `may_leave`), sends PINGREQ, gives up.
    pub(super) fn handle_timeout(&mut self, world: &mut World, may_leave: bool) -> io::Result<()> {
        let now = world.clock.ms();
        match self.state {
            State::Away if now >= self.until && self.role != Role::Reader => return self.connect(world),
            State::Leaving if now >= self.until => self.gone(world),
            State::Here if now >= self.until && may_leave && self.role.comes_and_goes() => {
                return self.leave(world);
            }
            State::Here | State::Opening if self.client.poll_timeout().is_some_and(|due| now >= due) => {
                let result = self.client.handle_timeout(now).map_err(io::Error::other);
                if let Err(error) = result.and_then(|()| self.transmit(world)) {
                    world.report.violation(format!("client {}: {error}", self.index));
                    self.lost(world);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn leave(&mut self, world: &mut World) -> io::Result<()> {
        let sends_qos_0 = self.published().any(|place| STREAMS[place].1 == Qos::AtMostOnce);
        let manner = match world.random.below(4) {
            0 | 1 => Manner::Disconnect,
            // A reset would lose QoS 0 messages that subscribers wait for.
            3 if !sends_qos_0 => Manner::Reset,
            _ => Manner::HalfClose,
        };
        let Some(link) = &mut self.link else { return Ok(()) };
        if manner == Manner::HalfClose && !link.is_flushed() {
            return Ok(());
        }
        if self.role == Role::Guest && self.retained_floor > 0 && self.retained_seen.is_none() {
            world.report.violation(format!("client {}: the retained message did not come", self.index));
        }
        match manner {
            Manner::Disconnect => {
                let disconnect = Disconnect::new(ReasonCode::SUCCESS);
                self.client.disconnect(&disconnect, world.clock.ms()).map_err(io::Error::other)?;
                self.client.poll_transmit(&mut link.out);
                // If this fails the broker has closed already, which is noticed when reading.
                let _ = link.flush(&world.net);
                world.left[0] += 1;
            }
            Manner::HalfClose => {
                link.shut_down_write()?;
                world.wills.due(self.index, self.life);
                world.left[1] += 1;
            }
            Manner::Reset => {
                link.reset_on_close()?;
                world.wills.due(self.index, self.life);
                world.left[2] += 1;
            }
        }
        self.end_connection(world);
        self.state = State::Leaving;
        self.until = world.clock.ms() + CLOSE_PATIENCE;
        if manner == Manner::Reset {
            self.gone(world);
        }
        Ok(())
    }

    /// The connection broke without our doing.
    fn lost(&mut self, world: &mut World) {
        world.wills.possible(self.index, self.life);
        self.end_connection(world);
        self.gone(world);
    }

    fn end_connection(&mut self, world: &mut World) {
        for (_, _, message) in self.client.session().outbound.iter() {
            if let Some(message) = message {
                world.streams[message.stream as usize].will_be_resent(message.sequence);
            }
        }
        self.client.connection_lost();
    }

    fn gone(&mut self, world: &mut World) {
        self.link = None;
        self.state = State::Away;
        if self.until != NEVER {
            self.until = world.clock.ms() + world.random.between(300, 8_000);
        }
    }

    /// Says DISCONNECT for good.
    pub(super) fn retire(&mut self, world: &mut World) -> io::Result<()> {
        if self.client.disconnect(&Disconnect::new(ReasonCode::SUCCESS), world.clock.ms()).is_ok() {
            self.transmit(world)?;
        }
        self.client.connection_lost();
        self.state = if self.link.is_some() { State::Leaving } else { State::Away };
        self.until = NEVER;
        Ok(())
    }

    fn transmit(&mut self, world: &World) -> io::Result<()> {
        let Some(link) = &mut self.link else { return Ok(()) };
        self.client.poll_transmit(&mut link.out);
        link.flush(&world.net)
    }
}

/// Judges a message that came to a client with this role, whose group's streams begin at `first`.
fn judge(
    role: Role,
    first: usize,
    views: &mut [View],
    retained_seen: &mut Option<u64>,
    retained_floor: u64,
    publish: &Publish<'_>,
    world: &mut World,
) -> Result<(), String> {
    let header = payload::read(publish.payload, PAYLOAD_LEN).ok_or("a payload arrived altered")?;
    let id = header.stream as usize;
    let sequence = header.sequence;
    if role == Role::Witness {
        return world.wills.published(header.stream, sequence, publish.dup);
    }
    let topic = world.topics.get(id).ok_or("a stream that does not exist")?;
    let at = |what: String| format!("{topic}: {what}");
    if publish.topic.is_none_or(|name| name.as_str() != &**topic) {
        return Err(at(format!("came as {:?}", publish.topic)));
    }
    let stream = &mut world.streams[id];
    if role == Role::Reader {
        world.retained_read.push(id);
        return if publish.retain && sequence + 1 == stream.sent {
            Ok(())
        } else {
            Err(at(format!("{sequence} is retained, {} were sent", stream.sent)))
        };
    }
    let place = id.checked_sub(first).filter(|place| *place < STREAMS.len()).ok_or("a stranger's message")?;
    if place == RETAINED {
        let last = retained_seen.replace(sequence);
        let is_old = match last {
            None => sequence + 1 < retained_floor,
            // The same one may come live and then once more as the retained message.
            Some(last) => sequence < last && !publish.dup && !stream.was_resent(sequence),
        };
        return if is_old {
            Err(at(format!("retained {sequence} after {last:?}, {retained_floor} known")))
        } else {
            Ok(())
        };
    }
    if role == Role::Shared {
        return stream.shared_delivery(sequence).map_err(at);
    }
    let view = views.get_mut(place).ok_or("not subscribed")?;
    if view.deliver(stream, sequence, publish.qos, publish.dup).map_err(at)? == Delivery::Duplicate {
        world.duplicates += 1;
    }
    Ok(())
}
