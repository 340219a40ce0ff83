//! A Client that keeps its session for ever, as the standard wants it: what it has to send again it sends again, in order,
//! and a QoS 2 message it takes once.

use std::collections::{BTreeMap, VecDeque};

use mqtt_broker::shard::ConnectionId;
use mqtt_proto::codec::{self, Framer};
use mqtt_proto::packet::{Connect, Packet, Properties, Property};
use mqtt_proto::types::{PacketId, Version};

/// What it has to hear of a message that it publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Publish,
    PubRel,
}

/// A message on its way to the broker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    pub(super) id: PacketId,
    pub(super) message: usize,
    pub(super) phase: Phase,
}

/// A subscription.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// The first message that is owed to it, once SUBACK has come.
    pub(super) owed_from: Option<usize>,
}

pub(super) struct Client {
    pub(super) name: String,
    pub(super) version: Version,
    /// Whether the broker has said that there is a session.
    pub(super) has_session: bool,
    pub(super) flows: VecDeque<Flow>,
    next_id: u16,
    pub(super) wanted: BTreeMap<&'static str, Wanted>,
    /// SUBSCRIBE without an answer.
    pub(super) asked: Vec<(PacketId, &'static str)>,
    /// QoS 2 messages that it has taken and whose PUBREL has not come.
    pub(super) taken: BTreeMap<PacketId, usize>,
    pub(super) link: Option<Link>,
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
const IDS: u16 = 4;

impl Client {
    pub(super) fn new(nth: usize, version: Version) -> Client {
        Client {
            name: format!("client-{nth}"),
            version,
            has_session: false,
            flows: VecDeque::new(),
            next_id: 0,
            wanted: BTreeMap::new(),
            asked: Vec::new(),
            taken: BTreeMap::new(),
            link: None,
        }
    }

    /// An identifier that is not in use, if there is one.
    pub(super) fn free_id(&mut self) -> Option<PacketId> {
        (0..IDS).find_map(|_| {
            self.next_id = self.next_id % IDS + 1;
            let id = PacketId::new(self.next_id)?;
            let used =
                self.flows.iter().any(|flow| flow.id == id) || self.asked.iter().any(|(of, _)| *of == id);
            (!used).then_some(id)
        })
    }

    pub(super) fn open(&mut self, core: usize, id: ConnectionId) {
        let (to_broker, from_broker) = (Vec::new(), Vec::new());
        self.asked.clear();
        self.link = Some(Link {
            core,
            id: Some(id),
            is_closed: false,
            is_accepted: false,
            to_broker,
            from_broker,
            framer: Framer::default(),
        });
        let forever = [Property::SessionExpiryInterval(u32::MAX)];
        let of_version = if self.version == Version::V5 { &forever[..] } else { &[] };
        let name = self.name.clone();
        self.send(&Packet::Connect(Connect {
            version: self.version,
            clean_start: false,
            keep_alive: 0,
            client_id: &name,
            properties: Properties::new(of_version),
            will: None,
            user_name: None,
            password: None,
        }));
    }

    pub(super) fn link_mut(&mut self) -> Option<&mut Link> {
        self.link.as_mut()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.is_accepted)
    }

    pub(super) fn send(&mut self, packet: &Packet<'_>) {
        if let Some(link) = &mut self.link {
            codec::encode(packet, self.version, &mut link.to_broker).expect("a Client's packet");
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
