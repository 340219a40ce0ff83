//! A 5.0 Client that publishes to groups, or is a member of some: it sends again what was not acknowledged, and takes a QoS 2
//! message once.

use std::collections::{BTreeMap, VecDeque};

use mqtt_broker::shard::ConnectionId;
use mqtt_proto::codec::{self, Framer};
use mqtt_proto::packet::{
    Ack, Connect, Packet, Properties, Property, Publish, Subscribe, Subscription, SubscriptionOptions,
    Subscriptions,
};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, TopicName, Version};

use super::judge::Published;

/// A message on its way to the broker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    pub(super) id: PacketId,
    pub(super) message: usize,
    /// PUBREC has come.
    pub(super) is_released: bool,
}

pub(super) struct Client {
    pub(super) name: String,
    /// Whether its session outlives its connections.
    pub(super) is_kept: bool,
    /// Whether the broker has said that there is a session.
    pub(super) has_session: bool,
    /// The groups that it is to be in, and whether SUBACK has come.
    pub(super) groups: BTreeMap<usize, bool>,
    /// SUBSCRIBE without an answer.
    pub(super) asked: Vec<(PacketId, usize)>,
    pub(super) flows: VecDeque<Flow>,
    /// QoS 2 messages that it has taken and whose PUBREL has not come.
    pub(super) taken: BTreeMap<PacketId, usize>,
    pub(super) link: Option<Link>,
    next_id: u16,
}

/// A connection, with what is on its way in either direction.
pub(super) struct Link {
    pub(super) core: usize,
    /// None while it is on its way to another core, and once it is closed.
    pub(super) id: Option<ConnectionId>,
    pub(super) is_closed: bool,
    pub(super) is_accepted: bool,
    pub(super) to_broker: Vec<u8>,
    pub(super) from_broker: Vec<u8>,
    framer: Framer,
}

/// Identifiers come round soon.
const IDS: u16 = 6;

pub(super) fn ok(id: PacketId) -> Ack<'static> {
    Ack::new(id, ReasonCode::SUCCESS)
}

impl Client {
    pub(super) fn new(name: String, is_kept: bool) -> Client {
        Client {
            name,
            is_kept,
            has_session: false,
            groups: BTreeMap::new(),
            asked: Vec::new(),
            flows: VecDeque::new(),
            taken: BTreeMap::new(),
            link: None,
            next_id: 0,
        }
    }

    /// An identifier that is not in use, if there is one.
    pub(super) fn free_id(&mut self) -> Option<PacketId> {
        (0..IDS).find_map(|_| {
            self.next_id = self.next_id % IDS + 1;
            let id = PacketId::new(self.next_id)?;
            let is_asked = self.asked.iter().any(|(asked, _)| *asked == id);
            (!is_asked && self.flows.iter().all(|flow| flow.id != id)).then_some(id)
        })
    }

    pub(super) fn open(&mut self, core: usize, id: ConnectionId) {
        self.asked.clear();
        if !self.is_kept {
            // Its session has ended with its last connection.
            self.taken.clear();
            self.groups.values_mut().for_each(|is_member| *is_member = false);
        }
        self.link = Some(Link {
            core,
            id: Some(id),
            is_closed: false,
            is_accepted: false,
            to_broker: Vec::new(),
            from_broker: Vec::new(),
            framer: Framer::default(),
        });
        let (name, forever) = (self.name.clone(), [Property::SessionExpiryInterval(u32::MAX)]);
        self.send(&Packet::Connect(Connect {
            clean_start: !self.is_kept,
            properties: if self.is_kept { Properties::new(&forever) } else { Properties::EMPTY },
            ..Connect::new(Version::V5, &name)
        }));
    }

    pub(super) fn is_ready(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.is_accepted)
    }

    pub(super) fn send(&mut self, packet: &Packet<'_>) {
        if let Some(link) = &mut self.link {
            codec::encode(packet, Version::V5, &mut link.to_broker).expect("a Client's packet");
        }
    }

    /// Asks for the groups that it is to be in and was not let into. Their numbers come back with each message.
    pub(super) fn subscribe(&mut self, filters: &[&str], qos: Qos) {
        let wanted = self.groups.iter().filter(|(_, is_member)| !**is_member).map(|(group, _)| *group);
        for group in wanted.collect::<Vec<_>>() {
            if self.asked.iter().any(|(_, asked)| *asked == group) {
                continue;
            }
            let Some(packet_id) = self.free_id() else { return };
            self.asked.push((packet_id, group));
            let list = [Subscription { filter: filters[group], options: SubscriptionOptions::new(qos) }];
            let identifier = [Property::SubscriptionIdentifier(group as u32 + 1)];
            let (properties, subscriptions) = (Properties::new(&identifier), Subscriptions::new(&list));
            self.send(&Packet::Subscribe(Subscribe { packet_id, properties, subscriptions }));
        }
    }

    pub(super) fn publish(&mut self, flow: Flow, published: &Published, dup: bool) {
        let payload = flow.message.to_le_bytes();
        self.send(&Packet::Publish(Publish {
            dup,
            qos: published.qos,
            retain: false,
            topic: Some(TopicName::new(&published.topic).expect("a topic")),
            packet_id: Some(flow.id),
            properties: Properties::EMPTY,
            payload: &payload,
        }));
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
