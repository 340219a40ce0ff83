//! A 5.0 Client that publishes to groups, or is a member of some.

use std::collections::BTreeMap;

use mqtt_proto::packet::{
    Connect, Filters, Packet, Properties, Property, Subscribe, Subscription, SubscriptionOptions,
    Subscriptions, Unsubscribe,
};
use mqtt_proto::types::{PacketId, Qos, Version};

use crate::engine::cluster::Peer;
use crate::engine::random::Random;

pub(super) struct Client {
    pub(super) name: String,
    /// Whether its session outlives its connections.
    pub(super) is_kept: bool,
    /// Whether the broker has said that there is a session.
    pub(super) has_session: bool,
    /// It wants another session: it begins with Clean Start until it is told that it has one.
    pub(super) begins_anew: bool,
    /// The groups that it is to be in, and whether SUBACK has come.
    pub(super) groups: BTreeMap<usize, bool>,
    /// SUBSCRIBE without an answer.
    pub(super) asked: Vec<(PacketId, usize)>,
    /// UNSUBSCRIBE without an answer, which it does not wait for.
    pub(super) leaving: Vec<PacketId>,
    pub(super) peer: Peer,
}

impl Client {
    pub(super) fn new(name: String, is_kept: bool, in_flight_max: u16) -> Client {
        let (groups, asked, peer) = (BTreeMap::new(), Vec::new(), Peer::new(Version::V5, in_flight_max));
        Client {
            name,
            is_kept,
            has_session: false,
            begins_anew: false,
            groups,
            asked,
            leaving: Vec::new(),
            peer,
        }
    }

    /// An identifier that is not in use, if there is one.
    pub(super) fn free_id(&mut self) -> Option<PacketId> {
        let (asked, leaving) = (&self.asked, &self.leaving);
        self.peer.free_id(|id| leaving.contains(&id) || asked.iter().any(|(of, _)| *of == id))
    }

    /// Sends CONNECT over a connection that is new.
    pub(super) fn open(&mut self) {
        self.asked.clear();
        self.leaving.clear();
        if !self.is_kept {
            // Its session has ended with its last connection.
            self.peer.taken.clear();
            self.groups.values_mut().for_each(|is_member| *is_member = false);
        }
        let forever = [Property::SessionExpiryInterval(u32::MAX)];
        self.peer.send(&Packet::Connect(Connect {
            clean_start: !self.is_kept || self.begins_anew,
            properties: if self.is_kept { Properties::new(&forever) } else { Properties::EMPTY },
            ..Connect::new(Version::V5, &self.name)
        }));
    }

    /// It has another session, in no group and without anything under way.
    pub(super) fn has_begun_anew(&mut self) {
        self.begins_anew = false;
        self.peer.forget();
        self.groups.values_mut().for_each(|is_member| *is_member = false);
    }

    /// Leaves a group that it is in, for now.
    pub(super) fn unsubscribe(&mut self, filters: &[&str], random: &mut Random) {
        let joined: Vec<usize> =
            self.groups.iter().filter(|(_, is_member)| **is_member).map(|(group, _)| *group).collect();
        if joined.is_empty() || !self.peer.is_ready() {
            return;
        }
        let group = random.pick(&joined);
        let Some(packet_id) = self.free_id() else { return };
        self.groups.insert(group, false);
        self.leaving.push(packet_id);
        let list = [filters[group]];
        let (properties, filters) = (Properties::EMPTY, Filters::new(&list));
        self.peer.send(&Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters }));
    }

    /// Asks for the groups that it is to be in and was not let into. Their numbers come back with each message.
    pub(super) fn subscribe(&mut self, filters: &[&str], qos: Qos) {
        if !self.peer.is_ready() {
            return;
        }
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
            self.peer.send(&Packet::Subscribe(Subscribe { packet_id, properties, subscriptions }));
        }
    }
}
