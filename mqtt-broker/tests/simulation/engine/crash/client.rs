//! A Client as the standard wants it: what it has to send again it sends again, in order, and a QoS 2 message it takes once.

use std::collections::{BTreeMap, VecDeque};

use mqtt_broker::shard::{ConnectionId, Now};
use mqtt_proto::codec::{self, Framer};
use mqtt_proto::packet::{Connect, Packet, Properties, Property, SubscriptionOptions, Will};
use mqtt_proto::types::{PacketId, Qos, TopicName, Version};

use super::plan::Party;

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
    /// It was begun on an earlier connection.
    pub(super) is_resent: bool,
}

/// A subscription.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    /// The first message that is owed to it, once SUBACK has come.
    pub(super) owed_from: Option<usize>,
    /// The options that SUBACK was about, for messages from the given one on; None while others are asked for.
    pub(super) granted: Option<(Options, usize)>,
}

/// Options of a subscription, with its identifier or 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) of: SubscriptionOptions,
    pub(super) identifier: u32,
}

/// A request that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ask {
    Subscribe(&'static str, Options),
    Unsubscribe(&'static str),
}

impl Ask {
    pub(super) fn filter(self) -> &'static str {
        match self {
            Ask::Subscribe(filter, _) | Ask::Unsubscribe(filter) => filter,
        }
    }
}

/// What is known of the session at the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// There is none.
    None,
    /// It was there when its connection ended.
    There,
    /// Another one may have begun of which the Client has not heard: it connects with Clean Start until it has.
    Unsure,
}

/// When a connection ended, in the broker's own wall time: no sooner and no later.
#[derive(Clone, Copy, Debug)]
pub(super) struct Away {
    pub(super) soonest: u64,
    pub(super) latest: u64,
    /// Whether the store knows for certain.
    pub(super) is_on_disk: bool,
}

/// What a Will is.
#[derive(Clone, Copy, Debug)]
pub(super) struct WillPlan {
    pub(super) message: usize,
    pub(super) qos: Qos,
    pub(super) delay: u32,
    pub(super) expiry: Option<u32>,
}

pub(super) struct Client {
    pub(super) name: String,
    pub(super) party: Party,
    pub(super) session: Known,
    pub(super) away: Option<Away>,
    pub(super) flows: VecDeque<Flow>,
    next_id: u16,
    pub(super) wanted: BTreeMap<&'static str, Wanted>,
    /// Subscriptions that ended, and the message before which all may still come that matched.
    pub(super) past: BTreeMap<&'static str, usize>,
    pub(super) asked: Vec<(PacketId, Ask)>,
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
    /// The CONNECT of an earlier connection has arrived late, and may have taken the session over.
    pub(super) is_doubtful: bool,
    pub(super) clean: bool,
    /// When CONNECT was sent, by wall time, and in the broker's present life.
    pub(super) since: u64,
    pub(super) since_millis: u64,
    /// The message of the Will that its CONNECT has.
    pub(super) will: Option<usize>,
    /// DISCONNECT, behind which the Client sends nothing; empty once it has arrived.
    pub(super) goodbye: Option<Vec<u8>>,
    pub(super) to_broker: Vec<u8>,
    pub(super) from_broker: Vec<u8>,
    framer: Framer,
}

impl Link {
    /// Whether its DISCONNECT has arrived.
    pub(super) fn has_said_goodbye(&self) -> bool {
        self.goodbye.as_ref().is_some_and(Vec::is_empty)
    }
}

/// Identifiers come round soon.
const IDS: u16 = 4;

impl Client {
    pub(super) fn new(nth: usize, party: Party) -> Client {
        Client {
            name: format!("{}-{nth}", if party.expiry == 0 { "guest" } else { "client" }),
            party,
            session: Known::None,
            away: None,
            flows: VecDeque::new(),
            next_id: 0,
            wanted: BTreeMap::new(),
            past: BTreeMap::new(),
            asked: Vec::new(),
            taken: BTreeMap::new(),
            link: None,
        }
    }

    /// Whether its session ends with its connection.
    pub(super) fn is_guest(&self) -> bool {
        self.party.expiry == 0
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

    /// Opens a connection and sends CONNECT, which ends the session that there may be if it is `clean`.
    pub(super) fn open(
        &mut self,
        core: usize,
        id: ConnectionId,
        clean: bool,
        will: Option<&WillPlan>,
        now: Now,
    ) {
        self.asked.clear();
        if clean || self.is_guest() {
            self.forget();
            self.session = Known::Unsure;
        }
        self.link = Some(Link {
            core,
            id: Some(id),
            is_closed: false,
            is_accepted: false,
            is_doubtful: false,
            clean,
            since: now.wall_millis,
            since_millis: now.millis,
            will: will.map(|will| will.message),
            goodbye: None,
            to_broker: Vec::new(),
            from_broker: Vec::new(),
            framer: Framer::default(),
        });
        let is_v5 = self.party.version == Version::V5;
        let expiry = [Property::SessionExpiryInterval(self.party.expiry)];
        let (topic, payload) = (format!("w/{}", self.name), will.map(|will| will.message.to_le_bytes()));
        let mut of_will = Vec::new();
        if let Some(will) = will.filter(|_| is_v5) {
            of_will.push(Property::WillDelayInterval(will.delay));
            of_will.extend(will.expiry.map(Property::MessageExpiryInterval));
        }
        let will = will.zip(payload.as_ref()).map(|(will, payload)| Will {
            topic: TopicName::new(&topic).expect("a topic"),
            payload,
            qos: will.qos,
            retain: false,
            properties: Properties::new(&of_will),
        });
        let name = self.name.clone();
        self.send(&Packet::Connect(Connect {
            clean_start: clean || !is_v5 && self.party.expiry == 0,
            properties: Properties::new(if is_v5 && self.party.expiry != 0 { &expiry } else { &[] }),
            will,
            ..Connect::new(self.party.version, &name)
        }));
    }

    /// Its CONNECT may have arrived, although it has heard nothing of that. If the session may have been over, there may be a
    /// new one, and the Client begins anew. `latest`: how late it may be for the broker.
    pub(super) fn may_be_back(&mut self, latest: u64) {
        let millis = u64::from(self.party.expiry) * 1000;
        let may_be_over = self.away.is_none_or(|away| latest.saturating_sub(away.soonest) >= millis);
        if self.party.expiry != u32::MAX && may_be_over {
            self.session = Known::Unsure;
        }
    }

    /// Its session is another one: what belonged to the old one is gone.
    pub(super) fn forget(&mut self) {
        self.session = Known::None;
        self.flows.clear();
        self.wanted.clear();
        self.past.clear();
        self.taken.clear();
    }

    pub(super) fn link_mut(&mut self) -> Option<&mut Link> {
        self.link.as_mut()
    }

    /// Whether it may send what it likes.
    pub(super) fn is_ready(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.is_accepted && link.goodbye.is_none())
    }

    pub(super) fn send(&mut self, packet: &Packet<'_>) {
        if let Some(link) = self.link.as_mut().filter(|link| link.goodbye.is_none()) {
            codec::encode(packet, self.party.version, &mut link.to_broker).expect("a Client's packet");
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
