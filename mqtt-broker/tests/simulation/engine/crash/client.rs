//! A Client: what it has asked for, and what it knows of its session at the broker.

use std::collections::BTreeMap;

use mqtt_proto::packet::{Connect, Packet, Properties, Property, SubscriptionOptions, Will};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, TopicName, Version};

use super::judge::matches;
use super::plan::Party;
use crate::engine::cluster::Peer;

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
    /// Whether the store was told as it happened.
    pub(super) is_told: bool,
    /// Whether the store knows for certain.
    pub(super) is_on_disk: bool,
}

/// What a Will is.
#[derive(Clone, Copy, Debug)]
pub(super) struct WillPlan {
    pub(super) message: usize,
    pub(super) qos: Qos,
    pub(super) retain: bool,
    pub(super) delay: u32,
    pub(super) expiry: Option<u32>,
}

pub(super) struct Client {
    pub(super) name: String,
    pub(super) party: Party,
    pub(super) session: Known,
    pub(super) away: Option<Away>,
    pub(super) wanted: BTreeMap<&'static str, Wanted>,
    /// Subscriptions that ended, and the message before which all may still come that matched.
    pub(super) past: BTreeMap<&'static str, usize>,
    /// How often it began anew or gave up a subscription.
    pub(super) changes: u32,
    pub(super) asked: Vec<(PacketId, Ask)>,
    /// Of the last connection: whether its CONNECT had Clean Start, and the message of the Will that it had.
    pub(super) clean: bool,
    pub(super) brought: Option<usize>,
    /// Why the broker ends its connection, if it has said so.
    pub(super) told: Option<ReasonCode>,
    pub(super) peer: Peer,
}

impl Client {
    pub(super) fn new(nth: usize, party: Party, in_flight_max: u16) -> Client {
        let in_flight_max = match party.version {
            Version::V5 => in_flight_max.min(party.receive_maximum),
            _ => in_flight_max,
        };
        Client {
            name: format!("{}-{nth}", if party.expiry == 0 { "guest" } else { "client" }),
            party,
            session: Known::None,
            away: None,
            wanted: BTreeMap::new(),
            past: BTreeMap::new(),
            changes: 0,
            asked: Vec::new(),
            clean: false,
            brought: None,
            told: None,
            peer: Peer::new(party.version, in_flight_max),
        }
    }

    /// Whether what comes live of a topic may have RETAIN set.
    pub(super) fn is_as_published(&self, topic: &str) -> bool {
        let to_it = self.wanted.iter().filter(|(filter, _)| matches(filter, topic));
        to_it.filter_map(|(_, wanted)| wanted.granted).any(|(options, _)| options.of.retain_as_published)
    }

    /// Whether its session ends with its connection.
    pub(super) fn is_guest(&self) -> bool {
        self.party.expiry == 0
    }

    /// An identifier that is not in use, if there is one.
    pub(super) fn free_id(&mut self) -> Option<PacketId> {
        let asked = &self.asked;
        self.peer.free_id(|id| asked.iter().any(|(of, _)| *of == id))
    }

    /// Sends CONNECT over a connection that is new, which ends the session that there may be if it is `clean`.
    pub(super) fn open(&mut self, clean: bool, will: Option<&WillPlan>) {
        self.asked.clear();
        if clean || self.is_guest() {
            self.forget();
            self.session = Known::Unsure;
        }
        (self.clean, self.brought) = (clean, will.map(|will| will.message));
        self.told = None;
        let is_v5 = self.party.version == Version::V5;
        let properties = [
            Property::ReceiveMaximum(self.party.receive_maximum),
            Property::SessionExpiryInterval(self.party.expiry),
        ];
        let (topic, payload) = (super::act::will_topic(self), will.map(|will| will.message.to_le_bytes()));
        let mut of_will = Vec::new();
        if let Some(will) = will.filter(|_| is_v5) {
            of_will.push(Property::WillDelayInterval(will.delay));
            of_will.extend(will.expiry.map(Property::MessageExpiryInterval));
        }
        let will = will.zip(payload.as_ref()).map(|(will, payload)| Will {
            topic: TopicName::new(&topic).expect("a topic"),
            payload,
            qos: will.qos,
            retain: will.retain,
            properties: Properties::new(&of_will),
        });
        self.peer.send(&Packet::Connect(Connect {
            clean_start: clean || !is_v5 && self.party.expiry == 0,
            properties: Properties::new(if is_v5 { &properties } else { &[] }),
            will,
            ..Connect::new(self.party.version, &self.name)
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
        self.wanted.clear();
        self.past.clear();
        self.changes += 1;
        self.peer.forget();
    }
}
