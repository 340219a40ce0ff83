//! A 5.0 Client that publishes to groups, or is a member of some.

use std::collections::BTreeMap;

use mqtt_proto::packet::{
    Connect, Packet, Properties, Property, Subscribe, Subscription, SubscriptionOptions, Subscriptions,
};
use mqtt_proto::types::{PacketId, Qos, Version};

use crate::engine::cluster::Peer;

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
    pub(super) peer: Peer,
}

impl Client {
    pub(super) fn new(name: String, is_kept: bool, in_flight_max: u16) -> Client {
        let (groups, asked, peer) = (BTreeMap::new(), Vec::new(), Peer::new(Version::V5, in_flight_max));
        Client { name, is_kept, has_session: false, groups, asked, peer }
    }

    /// An identifier that is not in use, if there is one.
    pub(super) fn free_id(&mut self) -> Option<PacketId> {
        let asked = &self.asked;
        self.peer.free_id(|id| asked.iter().any(|(of, _)| *of == id))
    }

    /// Sends CONNECT over a connection that is new.
    pub(super) fn open(&mut self) {
        self.asked.clear();
        if !self.is_kept {
            // Its session has ended with its last connection.
            self.peer.taken.clear();
            self.groups.values_mut().for_each(|is_member| *is_member = false);
        }
        let forever = [Property::SessionExpiryInterval(u32::MAX)];
        self.peer.send(&Packet::Connect(Connect {
            clean_start: !self.is_kept,
            properties: if self.is_kept { Properties::new(&forever) } else { Properties::EMPTY },
            ..Connect::new(Version::V5, &self.name)
        }));
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
