//! What Clients send.

use mqtt_proto::codec;
use mqtt_proto::packet::{
    Ack, Connect, Disconnect, Filters, Packet, Properties, Property, Publish, Subscribe, Subscription,
    SubscriptionOptions, Subscriptions, Unsubscribe, Will,
};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, TopicName, Version};

use super::{Acknowledgement, Flows, Link, Request, Sent};
use crate::engine::oracle::{Goodbye, MessageId, NewMessage, properties_of};
use crate::engine::ports::DENIED;
use crate::engine::run::Run;
use crate::engine::schedule::{ConnectPlan, PublishPlan, Rudeness};

/// Messages that wait to be published, at most.
const TO_PUBLISH_MAX: usize = 60;

impl Run {
    /// Sends one packet of the link's version.
    pub(crate) fn send(&mut self, link: usize, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        codec::encode(packet, self.links[link].version, &mut bytes).expect("a Client's packet");
        self.world.trace.line(self.world.now, &self.name_of(link), || format!("-> {}", brief(packet)));
        self.send_bytes(link, &bytes);
    }

    fn send_bytes(&mut self, link: usize, bytes: &[u8]) {
        self.links[link].sent_at = self.world.now;
        self.world.send(link, bytes);
    }

    pub(crate) fn connect(&mut self, party: usize, plan: &ConnectPlan) {
        let version = self.scenario.parties[party].version;
        let now = self.world.now;
        let nth = self.parties[party].opened;
        self.parties[party].opened += 1;
        let core = usize::from(plan.core % self.scenario.cores);
        let link = self.world.open(party, nth, core);
        debug_assert_eq!(link, self.links.len(), "one link a connection");
        self.links.push(Link::new(party, version, plan.clone(), now));
        self.parties[party].current = Some(link);
        self.parties[party].holds = false;
        self.parties[party].silent = false;
        self.coverage.count("connects");

        let name = self.scenario.parties[party].name.clone();
        let will = plan.will.as_ref().map(|will| {
            let new = NewMessage {
                publisher: party,
                topic: &will.topic,
                qos: will.qos,
                retain: will.retain,
                empty: false,
                expiry: will.expiry.filter(|_| version == Version::V5),
                properties: false,
                bytes: 4,
                hops: 0,
                will: true,
            };
            let id = self.oracle.new_message(&new, now);
            (id, self.oracle.messages[id].payload.clone())
        });
        self.links[link].will = will.as_ref().map(|(id, _)| *id);
        let mut properties = vec![Property::SessionExpiryInterval(plan.expiry)];
        properties.extend(plan.receive_maximum.map(Property::ReceiveMaximum));
        properties.extend(plan.maximum_packet_size.map(Property::MaximumPacketSize));
        if plan.topic_alias_maximum > 0 {
            properties.push(Property::TopicAliasMaximum(plan.topic_alias_maximum));
        }
        let mut delay = Vec::new();
        if let Some(will) = &plan.will {
            delay.push(Property::WillDelayInterval(will.delay));
            delay.extend(will.expiry.map(Property::MessageExpiryInterval));
        }
        let of_version =
            |list| if version == Version::V5 { Properties::new(list) } else { Properties::EMPTY };
        let connect = Connect {
            clean_start: plan.clean_start,
            keep_alive: plan.keep_alive,
            properties: of_version(&properties),
            will: plan.will.as_ref().zip(will.as_ref()).map(|(plan, (_, payload))| Will {
                topic: TopicName::new(&plan.topic).expect("a topic"),
                payload,
                qos: plan.qos,
                retain: plan.retain,
                properties: of_version(&delay),
            }),
            ..Connect::new(version, &name)
        };
        self.send(link, &Packet::Connect(connect));
        if plan.hurries {
            // What is sent before CONNACK waits for it, wherever the connection is accepted.
            self.send(link, &Packet::PingReq);
            self.links[link].pings += 1;
        }
    }

    pub(crate) fn disconnect(&mut self, party: usize, with_will: bool, expiry: Option<u32>) {
        let Some(link) = self.open_link(party) else { return };
        let v5 = self.links[link].version == Version::V5;
        let (with_will, expiry) = (with_will && v5, expiry.filter(|_| v5));
        // A session that was to end with its connection cannot be kept by an afterthought.
        let expiry = expiry.filter(|expiry| *expiry == 0 || self.links[link].plan.expiry != 0);
        let list: Vec<Property<'_>> = expiry.map(Property::SessionExpiryInterval).into_iter().collect();
        let reason = match with_will {
            true => ReasonCode::DISCONNECT_WITH_WILL_MESSAGE,
            false => ReasonCode::NORMAL_DISCONNECTION,
        };
        self.send(link, &Packet::Disconnect(Disconnect { reason, properties: Properties::new(&list) }));
        self.links[link].goodbye = Some(Goodbye { with_will, expiry });
        self.links[link].is_open = false;
        self.coverage.count("disconnects");
    }

    pub(crate) fn subscribe(
        &mut self,
        party: usize,
        filters: &[(String, SubscriptionOptions)],
        identifier: Option<u32>,
    ) {
        let Some((link, session)) = self.ready(party) else { return };
        let now = self.world.now;
        let v5 = self.links[link].version == Version::V5;
        let packet_id = self.flows[session].unused_id(&self.links[link]);
        let mut list = Vec::new();
        let mut subscriptions = Vec::new();
        for (filter, options) in filters {
            let options = if v5 { *options } else { SubscriptionOptions::new(options.qos) };
            list.push(Subscription { filter, options });
            let identifier = identifier.filter(|_| v5).unwrap_or(0);
            subscriptions.push(self.oracle.sessions[session].subscribe(filter, options, identifier, now));
        }
        let said: Vec<Property<'_>> =
            identifier.filter(|_| v5).map(Property::SubscriptionIdentifier).into_iter().collect();
        let packet = Subscribe {
            packet_id,
            properties: Properties::new(&said),
            subscriptions: Subscriptions::new(&list),
        };
        self.send(link, &Packet::Subscribe(packet));
        let denied = filters.iter().map(|(filter, _)| filter.starts_with(DENIED)).collect();
        self.links[link].requests.push_back(Request::Subscribe { packet_id, subscriptions, denied });
        self.coverage.count("subscribes");
    }

    pub(crate) fn unsubscribe(&mut self, party: usize, filter: &str) {
        let Some((link, session)) = self.ready(party) else { return };
        let now = self.world.now;
        let packet_id = self.flows[session].unused_id(&self.links[link]);
        let (subscriptions, exists) = self.oracle.sessions[session].end(filter, now);
        self.oracle.groups_disturbed |= filter.starts_with("$share/");
        let filters = [filter];
        let properties = Properties::EMPTY;
        let packet = Unsubscribe { packet_id, properties, filters: Filters::new(&filters) };
        self.send(link, &Packet::Unsubscribe(packet));
        self.links[link].requests.push_back(Request::Unsubscribe { packet_id, subscriptions, exists });
        self.coverage.count("unsubscribes");
    }

    pub(crate) fn publish(&mut self, party: usize, plan: &PublishPlan) {
        if self.ready(party).is_none() {
            return;
        }
        for _ in 0..plan.count {
            if self.parties[party].to_publish.len() < TO_PUBLISH_MAX {
                self.parties[party].to_publish.push_back(plan.clone());
            }
        }
        self.publish_waiting(party);
    }

    /// Sends what waits, as far as the Server's Receive Maximum allows.
    pub(crate) fn publish_waiting(&mut self, party: usize) {
        while let Some((link, session)) = self.ready(party)
            && let Some(plan) = self.parties[party].to_publish.front()
        {
            let room = self.flows[session].sent.len() < usize::from(self.links[link].server.receive_maximum);
            if plan.qos != Qos::AtMostOnce && !room {
                return;
            }
            let plan = self.parties[party].to_publish.pop_front().expect("just seen");
            self.publish_one(party, link, session, &plan);
        }
    }

    fn publish_one(&mut self, party: usize, link: usize, session: usize, plan: &PublishPlan) {
        let v5 = self.links[link].version == Version::V5;
        let new = NewMessage {
            publisher: party,
            topic: &plan.topic,
            qos: plan.qos,
            retain: plan.retain,
            empty: plan.empty,
            expiry: plan.expiry.filter(|_| v5),
            properties: plan.properties && v5,
            bytes: plan.bytes,
            hops: plan.hops,
            will: false,
        };
        let message = self.oracle.new_message(&new, self.world.now);
        let packet_id = (plan.qos != Qos::AtMostOnce).then(|| {
            let packet_id = self.flows[session].unused_id(&self.links[link]);
            self.flows[session].sent.push_back(Sent { packet_id, message, released: false });
            packet_id
        });
        self.send_message(link, message, packet_id, false);
        self.coverage.count(match plan.qos {
            Qos::AtMostOnce => "published at QoS 0",
            Qos::AtLeastOnce => "published at QoS 1",
            Qos::ExactlyOnce => "published at QoS 2",
        });
    }

    /// Sends a message for the first time or once more.
    fn send_message(&mut self, link: usize, message: MessageId, packet_id: Option<PacketId>, dup: bool) {
        let mut known = self.oracle.messages[message].clone();
        self.oracle.messages[message].tries += 1;
        let mut list: Vec<Property<'_>> = Vec::new();
        if known.properties {
            list.extend(properties_of());
        }
        // What was asked for may be more than what the broker grants: the oracle knows the latter.
        list.extend(
            known
                .expiry
                .filter(|_| self.links[link].version == Version::V5)
                .map(Property::MessageExpiryInterval),
        );
        let maximum = usize::from(self.links[link].server.topic_alias_maximum).min(2);
        let mut has_topic = true;
        if self.scenario.features.topic_aliases && maximum > 0 {
            let aliases = &mut self.links[link].aliases;
            match aliases.iter().position(|topic| *topic == known.topic) {
                Some(at) => {
                    has_topic = false;
                    list.push(Property::TopicAlias(at as u16 + 1));
                    self.coverage.count("aliases sent");
                }
                None => {
                    // A full table gives its aliases to other topics.
                    let at = if aliases.len() < maximum { aliases.len() } else { message % maximum };
                    match aliases.get_mut(at) {
                        Some(topic) => topic.clone_from(&known.topic),
                        None => aliases.push(known.topic.clone()),
                    }
                    list.push(Property::TopicAlias(at as u16 + 1));
                }
            }
        }
        let topic = core::mem::take(&mut known.topic);
        let publish = Publish {
            dup,
            qos: known.qos,
            retain: known.retain,
            topic: has_topic.then(|| TopicName::new(&topic).expect("a topic")),
            packet_id,
            properties: Properties::new(&list),
            payload: &known.payload,
        };
        self.send(link, &Packet::Publish(publish));
        if let Some(packet_id) = packet_id {
            self.links[link].requests.push_back(Request::Publish { qos: known.qos, packet_id });
        }
    }

    /// Sends again what is without its acknowledgement [MQTT-4.4.0-1].
    pub(crate) fn resend(&mut self, link: usize, session: usize) {
        for at in 0..self.flows[session].sent.len() {
            let Sent { packet_id, message, released } = self.flows[session].sent[at];
            if released {
                self.send(link, &Packet::PubRel(Ack::new(packet_id, ReasonCode::SUCCESS)));
                self.links[link].releases.push_back(packet_id);
            } else {
                self.coverage.count("resent by Clients");
                self.send_message(link, message, Some(packet_id), true);
            }
        }
    }

    /// Sends the acknowledgements that are due.
    pub(crate) fn acknowledge(&mut self, link: usize) {
        let party = self.links[link].party;
        if self.parties[party].holds || !self.links[link].is_open {
            return;
        }
        let Some(session) = self.links[link].session else { return };
        let now = self.world.now;
        while let Some((_, due)) = self.links[link].acknowledgements.pop_front_if(|(at, _)| *at <= now) {
            let packet = match due {
                Acknowledgement::Taken(packet_id, reason) => {
                    self.flows[session].unacknowledged.remove(&packet_id);
                    self.links[link].window.remove(&packet_id);
                    Packet::PubAck(Ack::new(packet_id, reason))
                }
                Acknowledgement::Received(packet_id, reason) => {
                    if reason.is_error() {
                        self.flows[session].unacknowledged.remove(&packet_id);
                        self.links[link].window.remove(&packet_id);
                    }
                    Packet::PubRec(Ack::new(packet_id, reason))
                }
                Acknowledgement::Completed(packet_id) => {
                    self.flows[session].unacknowledged.remove(&packet_id);
                    self.links[link].window.remove(&packet_id);
                    Packet::PubComp(Ack::new(packet_id, ReasonCode::SUCCESS))
                }
            };
            self.send(link, &packet);
        }
        if let Some((at, _)) = self.links[link].acknowledgements.front() {
            self.world.wake(link, *at, true);
        }
    }

    /// Sends PINGREQ when nothing else was sent for long.
    pub(crate) fn keep_alive(&mut self, link: usize) {
        let state = &self.links[link];
        if !state.is_open || state.keep_alive == 0 || self.parties[state.party].silent {
            return;
        }
        let patience = u64::from(state.keep_alive) * 700_000;
        let now = self.world.now;
        if now >= state.sent_at + patience {
            self.send(link, &Packet::PingReq);
            self.links[link].pings += 1;
            self.coverage.count("pings");
        }
        let at = self.links[link].sent_at + patience;
        if self.links[link].wakes_at <= now {
            self.links[link].wakes_at = at;
            self.world.wake(link, at, false);
        }
    }

    /// Breaks the protocol.
    pub(crate) fn be_rude(&mut self, party: usize, rudeness: Rudeness) {
        let Some(link) = self.open_link(party) else { return };
        let v5 = self.links[link].version == Version::V5;
        let too_large = self.scenario.limits.packet_bytes_max;
        let bytes: Vec<u8> = match rudeness {
            Rudeness::SecondConnect => vec![0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 1, b'x'],
            Rudeness::ReservedType => vec![0x00, 0],
            Rudeness::TooLarge => {
                let (mut left, mut bytes) = (too_large, vec![0x30]);
                while left > 0 {
                    bytes.push((left % 128) as u8 | if left > 127 { 0x80 } else { 0 });
                    left /= 128;
                }
                bytes
            }
            Rudeness::WildcardTopic => vec![0x30, 4, 0, 1, b'#', 0],
            Rudeness::Qos3 => vec![0x36, 6, 0, 1, b'a', 0, 1, 0],
            Rudeness::AliasTooHigh if v5 => vec![0x30, 7, 0, 1, b'a', 3, 0x23, 0xFF, 0xFF],
            Rudeness::AliasTooHigh | Rudeness::NoFilter if v5 => vec![0x82, 3, 0, 1, 0],
            Rudeness::AliasTooHigh | Rudeness::NoFilter => vec![0x82, 2, 0, 1],
            // Nothing wrong yet, only that it never ends: whoever comes next takes over from it.
            Rudeness::UnfinishedPacket => vec![0x30, 100, 0, 1, b'a'],
        };
        self.world.trace.line(self.world.now, &self.name_of(link), || format!("-> rude: {rudeness:?}"));
        self.send_bytes(link, &bytes);
        self.links[link].rude = rudeness != Rudeness::UnfinishedPacket;
        self.links[link].is_open = false;
        if rudeness == Rudeness::UnfinishedPacket {
            self.cut(party);
        }
        self.coverage.count("rude");
    }

    pub(crate) fn cut(&mut self, party: usize) {
        let Some(link) = self.parties[party].current else { return };
        if self.links[link].closed_at.is_none() && !self.links[link].has_ended {
            self.world.trace.line(self.world.now, &self.name_of(link), || "-- cut".to_owned());
            self.world.cut(link);
            self.links[link].has_ended = true;
            self.links[link].is_open = false;
            self.coverage.count("cuts");
        }
    }

    /// The party's connection, if it is open.
    pub(crate) fn open_link(&self, party: usize) -> Option<usize> {
        self.parties[party].current.filter(|&link| self.links[link].is_open)
    }

    /// The party's open connection and its session.
    pub(crate) fn ready(&self, party: usize) -> Option<(usize, usize)> {
        let link = self.open_link(party)?;
        Some((link, self.links[link].session?))
    }
}

impl Flows {
    /// A Packet Identifier that nothing of this session waits under.
    fn unused_id(&mut self, link: &Link) -> PacketId {
        loop {
            self.next_id = self.next_id % 2000 + 1;
            let id = PacketId::new(self.next_id).expect("not 0");
            let waits = link.requests.iter().any(|request| match request {
                Request::Publish { packet_id, .. }
                | Request::Subscribe { packet_id, .. }
                | Request::Unsubscribe { packet_id, .. } => *packet_id == id,
            });
            if !waits && self.sent.iter().all(|sent| sent.packet_id != id) {
                return id;
            }
        }
    }
}

/// A packet in few words.
pub(super) fn brief(packet: &Packet<'_>) -> String {
    let mut text = match packet {
        Packet::Publish(publish) => format!(
            "PUBLISH {} qos {}{}{} id {} {:?} {}",
            publish.topic.map_or("(alias)", |topic| topic.as_str()),
            publish.qos.bits(),
            if publish.retain { " retain" } else { "" },
            if publish.dup { " dup" } else { "" },
            publish.packet_id.map_or(0, |id| id.get()),
            publish.properties,
            String::from_utf8_lossy(publish.payload),
        ),
        other => format!("{other:?}"),
    };
    if text.len() > 230 {
        text.truncate(text.floor_char_boundary(230));
        text.push('…');
    }
    text
}
