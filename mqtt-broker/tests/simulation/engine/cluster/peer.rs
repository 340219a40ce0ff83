//! A Client's side of a session and its connection: what it has to send again it sends again, in order, and a QoS 2 message it
//! takes once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mqtt_broker::shard::{ConnectionId, Now};
use mqtt_proto::codec::{self, Framer};
use mqtt_proto::packet::{Ack, Disconnect, Packet, PacketType, Properties, Property, Publish};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, TopicName, Version};

use super::{Check, violation};

/// What it has to hear of a message that it publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Publish,
    PubRel,
}

/// A message on its way to the broker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    pub(crate) id: PacketId,
    pub(crate) message: usize,
    pub(crate) phase: Phase,
    /// It was begun on an earlier connection.
    pub(crate) is_resent: bool,
}

/// What is sent of a message. Its payload is its number, or nothing if it removes what is retained.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) topic: &'a str,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    pub(crate) removes: bool,
    pub(crate) expiry: Option<u32>,
}

pub(crate) struct Peer {
    version: Version,
    /// QoS 1 and 2 messages that the broker may send without an acknowledgement.
    in_flight_max: u16,
    pub(crate) flows: VecDeque<Flow>,
    /// QoS 2 messages that it has taken and whose PUBREL has not come.
    pub(crate) taken: BTreeMap<PacketId, usize>,
    pub(crate) link: Option<Link>,
    next_id: u16,
}

/// A connection, with what is on its way in either direction.
pub(crate) struct Link {
    pub(crate) core: usize,
    /// None while it is on its way to another core, and once it is closed.
    pub(crate) id: Option<ConnectionId>,
    /// Which of all hand-overs is its own, if it was handed over.
    pub(super) handover: u64,
    pub(crate) is_closed: bool,
    pub(crate) is_accepted: bool,
    /// The CONNECT of an earlier connection has arrived late, and may have taken the session over.
    pub(crate) is_doubtful: bool,
    /// What has arrived waits to be handled, and would go on doing so behind the connection's end.
    pub(crate) is_paused: bool,
    /// When CONNECT was sent.
    pub(crate) since: Now,
    /// DISCONNECT, behind which the Client sends nothing; empty once it has arrived.
    pub(super) goodbye: Option<Vec<u8>>,
    pub(crate) to_broker: Vec<u8>,
    pub(super) from_broker: Vec<u8>,
    framer: Framer,
    /// Bytes that were sent, and those of them that have arrived.
    sent: u64,
    arrived: u64,
    /// Where acknowledgements end that free room for another message once they have arrived.
    freed: VecDeque<u64>,
    /// QoS 2 messages of this connection that are not over.
    under_way: BTreeSet<PacketId>,
}

impl Link {
    /// Whether its DISCONNECT has arrived.
    pub(crate) fn has_said_goodbye(&self) -> bool {
        self.goodbye.as_ref().is_some_and(Vec::is_empty)
    }

    /// What arrives next, `bytes` bytes at most.
    pub(super) fn next_input(&mut self, bytes: usize) -> Vec<u8> {
        let some: Vec<u8> = match self.goodbye.as_mut().filter(|_| self.to_broker.is_empty()) {
            // By itself, so that it is certain what the connection ended by.
            Some(goodbye) => std::mem::take(goodbye),
            None => self.to_broker.drain(..bytes.min(self.to_broker.len())).collect(),
        };
        self.arrived += some.len() as u64;
        some
    }

    /// A message came that takes room until it is over; how many there are now for the broker, which may have heard of fewer
    /// acknowledgements when it sent this one.
    fn takes_room(&mut self, id: PacketId, qos: Qos) -> usize {
        while self.freed.pop_front_if(|at| *at <= self.arrived).is_some() {}
        let others = self.freed.len() + self.under_way.len();
        if qos == Qos::ExactlyOnce {
            self.under_way.insert(id);
        }
        others + 1
    }
}

fn ok(id: PacketId) -> Ack<'static> {
    Ack::new(id, ReasonCode::SUCCESS)
}

/// What has no payload removes what is retained: nobody knows which message it is.
const REMOVAL: usize = usize::MAX;

/// Identifiers come round soon.
const IDS: u16 = 4;

impl Peer {
    pub(crate) fn new(version: Version, in_flight_max: u16) -> Peer {
        let (flows, taken) = (VecDeque::new(), BTreeMap::new());
        Peer { version, in_flight_max, flows, taken, link: None, next_id: 0 }
    }

    /// Its session is another one: what belonged to the old one is gone.
    pub(crate) fn forget(&mut self) {
        self.flows.clear();
        self.taken.clear();
    }

    /// An identifier that is not in use, if there is one. `is_asked`: whether a request waits for its answer under it.
    pub(crate) fn free_id(&mut self, is_asked: impl Fn(PacketId) -> bool) -> Option<PacketId> {
        (0..IDS).find_map(|_| {
            self.next_id = self.next_id % IDS + 1;
            let id = PacketId::new(self.next_id)?;
            let is_used = is_asked(id) || self.flows.iter().any(|flow| flow.id == id);
            (!is_used).then_some(id)
        })
    }

    pub(crate) fn open(&mut self, core: usize, id: ConnectionId, since: Now) {
        self.link = Some(Link {
            core,
            id: Some(id),
            handover: 0,
            is_closed: false,
            is_accepted: false,
            is_doubtful: false,
            is_paused: false,
            since,
            goodbye: None,
            to_broker: Vec::new(),
            from_broker: Vec::new(),
            framer: Framer::default(),
            sent: 0,
            arrived: 0,
            freed: VecDeque::new(),
            under_way: BTreeSet::new(),
        });
    }

    /// Whether it may send what it likes.
    pub(crate) fn is_ready(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.is_accepted && link.goodbye.is_none())
    }

    pub(crate) fn send(&mut self, packet: &Packet<'_>) {
        if let Some(link) = self.link.as_mut().filter(|link| link.goodbye.is_none()) {
            let before = link.to_broker.len();
            codec::encode(packet, self.version, &mut link.to_broker).expect("a Client's packet");
            link.sent += (link.to_broker.len() - before) as u64;
        }
    }

    /// Sends the last packet about a message of the broker's.
    fn send_last(&mut self, packet: &Packet<'_>) {
        self.send(packet);
        if let Some(link) = &mut self.link {
            link.freed.push_back(link.sent);
        }
    }

    /// Takes its leave.
    pub(crate) fn leave(&mut self) {
        if let Some(link) = &mut self.link {
            let packet = Packet::Disconnect(Disconnect::new(ReasonCode::SUCCESS));
            let mut goodbye = Vec::new();
            codec::encode(&packet, self.version, &mut goodbye).expect("a Client's packet");
            link.goodbye = Some(goodbye);
        }
    }

    /// Begins to publish, under an identifier that is free.
    pub(crate) fn publish(&mut self, id: PacketId, message: usize, sent: Message<'_>) {
        let flow = Flow { id, message, phase: Phase::Publish, is_resent: false };
        self.flows.push_back(flow);
        self.send_publish(flow, sent);
    }

    fn send_publish(&mut self, Flow { id, message, is_resent, .. }: Flow, sent: Message<'_>) {
        let number = message.to_le_bytes();
        let expiry = sent.expiry.map(|seconds| [Property::MessageExpiryInterval(seconds)]);
        self.send(&Packet::Publish(Publish {
            dup: is_resent,
            qos: sent.qos,
            retain: sent.retain,
            topic: Some(TopicName::new(sent.topic).expect("a topic")),
            packet_id: Some(id),
            properties: Properties::new(expiry.as_ref().map_or(&[], |list| list)),
            payload: if sent.removes { &[] } else { &number },
        }));
    }

    /// Its session goes on: what is not acknowledged is sent again. `sent` says what each message is.
    pub(crate) fn resend<'a>(&mut self, sent: impl Fn(usize) -> Message<'a>) {
        self.flows.iter_mut().for_each(|flow| flow.is_resent = true);
        for flow in self.flows.clone() {
            match flow.phase {
                Phase::Publish => self.send_publish(flow, sent(flow.message)),
                Phase::PubRel => self.send(&Packet::PubRel(ok(flow.id))),
            }
        }
    }

    /// PUBACK or PUBREC; the message that it is for, if it is under way.
    pub(crate) fn acknowledged(&mut self, kind: PacketType, ack: &Ack<'_>) -> Option<usize> {
        let at = self.flows.iter().position(|flow| flow.id == ack.packet_id)?;
        let message = self.flows[at].message;
        if kind == PacketType::PubAck || ack.reason.is_error() {
            self.flows.remove(at);
        } else {
            self.flows[at].phase = Phase::PubRel;
            self.send(&Packet::PubRel(ok(ack.packet_id)));
        }
        Some(message)
    }

    /// PUBREL or PUBCOMP.
    pub(crate) fn completed(&mut self, kind: PacketType, id: PacketId) {
        if kind == PacketType::PubRel {
            self.taken.remove(&id);
            match self.link.as_mut().is_some_and(|link| link.under_way.remove(&id)) {
                true => self.send_last(&Packet::PubComp(ok(id))),
                false => self.send(&Packet::PubComp(ok(id))),
            }
        } else {
            self.flows.retain(|flow| flow.id != id);
        }
    }

    /// A message comes, and is acknowledged; its number if it is taken now. `name`: the Client's.
    pub(crate) fn take(&mut self, name: &str, publish: &Publish<'_>) -> Check<Option<usize>> {
        let message = match publish.payload {
            [] => REMOVAL,
            number => number.try_into().map(usize::from_le_bytes).expect("payloads are numbers"),
        };
        let id = publish.packet_id.expect("nothing is published at QoS 0");
        let room = self.link.as_mut().map_or(0, |link| link.takes_room(id, publish.qos));
        if room > self.in_flight_max.into() {
            let text = format!("{name} gets {message}, which is the {room}th of {}", self.in_flight_max);
            return violation("receive maximum", text);
        }
        if publish.qos == Qos::AtLeastOnce {
            self.send_last(&Packet::PubAck(ok(id)));
            return Ok(Some(message).filter(|&message| message != REMOVAL));
        }
        self.send(&Packet::PubRec(ok(id)));
        match self.taken.insert(id, message) {
            None => Ok(Some(message).filter(|&message| message != REMOVAL)),
            Some(known) if known == message && publish.dup => Ok(None),
            Some(known) => {
                let dup = publish.dup;
                violation(
                    "identifier",
                    format!("{name} has {known} under {id}, and gets {message}, DUP {dup}"),
                )
            }
        }
    }

    /// The next packet of the broker among the first `bytes` bytes that it has sent.
    pub(super) fn receive(&mut self, bytes: usize) -> Option<Vec<u8>> {
        let link = self.link.as_mut()?;
        let mut rest = &link.from_broker[..bytes.min(link.from_broker.len())];
        let before = rest.len();
        let frame = link.framer.next_frame(&mut rest, u32::MAX).expect("the broker sends packets");
        let frame = frame.map(<[u8]>::to_vec);
        let read = before - rest.len();
        link.from_broker.drain(..read);
        frame
    }
}
