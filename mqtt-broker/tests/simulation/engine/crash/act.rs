//! What Clients do: connect and leave, subscribe, publish; and who of them need not wait for a disk.

use mqtt_broker::store::image::Home;
use mqtt_proto::packet::{
    Filters, Packet, Properties, Property, RetainHandling, Subscribe, Subscription, SubscriptionOptions,
    Subscriptions, Unsubscribe,
};
use mqtt_proto::types::{PacketId, Qos, TopicName, Version};

use super::client::{Ask, Away, Client, Known, Options, WillPlan};
use super::judge::{Kind, Published, matches};
use super::world::World;
use crate::engine::cluster::{Drive, Flow, HASH_KEY, Handle, Link, home};

const FILTERS: [&str; 9] = ["p/#", "p/0/+", "+/1/a", "p/1/a", "p/2/#", "w/#", "w/#", "r/#", "+/1"];
const EXPIRIES: [u32; 3] = [1, 10, 3_000];

/// The topic of a Client's Wills.
pub(super) fn will_topic(client: &Client) -> String {
    format!("w/{}", client.name)
}

impl World {
    /// A Client does something of its own accord.
    pub(super) fn act_for(&mut self, nth: usize) {
        if self.clients[nth].peer.link.is_none() {
            if self.cluster.random.once_in(self.back_once_in) {
                self.come(nth);
            }
            return;
        }
        match self.cluster.random.below(40) {
            0 => self.cut(nth),
            1 => self.leave(nth),
            2..=7 => {
                let filter = self.cluster.random.pick(&FILTERS);
                self.subscribe(nth, filter);
            }
            8 | 9 => self.unsubscribe(nth),
            10..=14 => {
                let sets = self.cluster.random.percent(70);
                self.publish(nth, format!("r/{nth}"), Kind::Retained(sets));
            }
            _ => self.publish_something(nth),
        }
    }

    pub(super) fn publish_something(&mut self, nth: usize) {
        let topic = format!("p/{nth}/{}", self.cluster.random.pick(&["a", "b"]));
        self.publish(nth, topic, Kind::Plain);
    }

    pub(super) fn come(&mut self, nth: usize) {
        let is_probe = nth + 1 == self.clients.len();
        let party = self.clients[nth].party;
        let is_v5 = party.version == Version::V5;
        let is_kept = is_v5 && party.expiry != 0;
        let clean =
            is_kept && (self.clients[nth].session == Known::Unsure || self.cluster.random.once_in(20));
        let will = (party.has_will && !is_probe).then(|| self.new_will(nth));
        self.cluster.say(|| format!("{} connects, clean {clean}, with {will:?}", self.clients[nth].name));
        if clean {
            self.wills.forget(nth);
            self.wills.may_be_back(nth);
        }
        self.open(nth);
        self.clients[nth].open(clean, will.as_ref());
        if let Some(plan) = will {
            self.wills.brought(nth, plan, party.expiry, self.clients.len());
        }
    }

    fn new_will(&mut self, nth: usize) -> WillPlan {
        let is_v5 = self.clients[nth].party.version == Version::V5;
        let qos = self.cluster.random.pick(&[Qos::AtLeastOnce, Qos::ExactlyOnce]);
        let delay = if is_v5 { self.cluster.random.pick(&[0, 2, 20, 90]) } else { 0 };
        let expiry = self.new_expiry(nth);
        let retain = self.cluster.random.once_in(3);
        let (message, topic) = (self.judge.messages.len(), will_topic(&self.clients[nth]));
        let sent_at = self.cluster.now.wall_millis;
        self.judge.messages.push(Published::new(nth, topic, qos, Kind::Will, expiry, sent_at));
        WillPlan { message, qos, retain, delay, expiry }
    }

    /// A Message Expiry Interval, at times, for a Client that may have one.
    fn new_expiry(&mut self, nth: usize) -> Option<u32> {
        let is_v5 = self.clients[nth].party.version == Version::V5;
        let random = &mut self.cluster.random;
        (is_v5 && random.once_in(4)).then(|| random.pick(&EXPIRIES))
    }

    /// Who is due has had its Will published.
    pub(super) fn publish_wills(&mut self) {
        let now = (self.cluster.now.millis, self.cluster.now.wall_millis);
        self.wills.pass(now, &self.clients, &self.judge);
    }

    pub(super) fn cut(&mut self, nth: usize) {
        let Some(link) = self.clients[nth].peer.link.take() else { return };
        self.cluster.say(|| format!("{} is cut", self.clients[nth].name));
        if !link.is_closed {
            self.away_from(nth, &link);
        }
        if let Some(id) = link.id {
            self.call(link.core, |shard, now| shard.connection_closed(id, now));
        }
        self.publish_wills();
    }

    /// The broker has ended the connection.
    pub(super) fn link_ended(&mut self, nth: usize) {
        let Some(link) = self.clients[nth].peer.link.take() else { return };
        self.away_from(nth, &link);
        self.clients[nth].peer.link = Some(link);
        self.publish_wills();
    }

    /// Nothing that a Client sends over this connection arrives from now on.
    fn away_from(&mut self, nth: usize, link: &Link) {
        if !link.is_accepted && link.to_broker.is_empty() {
            self.clients[nth].may_be_back(self.latest);
            self.wills.may_be_back(nth);
        }
        let soonest = if link.is_accepted { self.cluster.now.wall_millis } else { link.since.wall_millis };
        let away = Away { soonest, latest: self.latest, is_told: !link.is_paused, is_on_disk: false };
        let known = self.clients[nth].away.get_or_insert(away);
        (known.latest, known.is_told, known.is_on_disk) = (self.latest, !link.is_paused, false);
        if !link.is_accepted {
            return;
        }
        let is_v5 = self.clients[nth].party.version == Version::V5;
        if link.has_said_goodbye() && !is_v5 && self.cluster.disks.iter().any(Handle::has_refused) {
            // A message before DISCONNECT that waited may have ended the connection by being refused.
            self.wills.doubt(nth);
        }
        if link.is_paused {
            // The broker may end, or go on, before what is waiting was handled, the DISCONNECT included.
            self.wills.doubt(nth);
        }
        let takes_leave = self.is_stopping || link.has_said_goodbye();
        self.wills.ended(nth, takes_leave, self.cluster.now.millis);
    }

    /// Takes its leave, so that it has no Will any more.
    fn leave(&mut self, nth: usize) {
        let client = &mut self.clients[nth];
        if !client.peer.is_ready() {
            return;
        }
        client.peer.leave();
        self.cluster.say(|| format!("{} leaves", client.name));
    }

    pub(super) fn subscribe(&mut self, nth: usize, filter: &'static str) {
        let is_v5 = self.clients[nth].party.version == Version::V5;
        let is_probe = nth + 1 == self.clients.len();
        let qos = self.cluster.random.pick(&[Qos::AtLeastOnce, Qos::ExactlyOnce, Qos::ExactlyOnce]);
        let mut options = Options { of: SubscriptionOptions::new(qos), identifier: 0 };
        if is_v5 && !is_probe {
            options.of.no_local = self.cluster.random.once_in(6);
            options.of.retain_as_published = self.cluster.random.once_in(2);
            options.of.retain_handling =
                self.cluster.random.pick(&[RetainHandling::Send, RetainHandling::DoNotSend]);
            options.identifier = self.cluster.random.pick(&[0, 0, 1, 300]);
        }
        let Some((client, packet_id)) = self.ask(nth, filter) else { return };
        client.asked.push((packet_id, Ask::Subscribe(filter, options)));
        client.wanted.entry(filter).or_default().granted = None;
        let list = [Subscription { filter, options: options.of }];
        let identifier = [Property::SubscriptionIdentifier(options.identifier)];
        let properties = Properties::new(if options.identifier == 0 { &[] } else { &identifier });
        let subscriptions = Subscriptions::new(&list);
        client.peer.send(&Packet::Subscribe(Subscribe { packet_id, properties, subscriptions }));
        self.cluster.say(|| format!("{} subscribes to {filter}: {options:?}", self.clients[nth].name));
    }

    fn unsubscribe(&mut self, nth: usize) {
        let filters: Vec<&'static str> = self.clients[nth].wanted.keys().copied().collect();
        if filters.is_empty() {
            return;
        }
        let filter = self.cluster.random.pick(&filters);
        let Some((client, packet_id)) = self.ask(nth, filter) else { return };
        client.asked.push((packet_id, Ask::Unsubscribe(filter)));
        client.changes += 1;
        client.wanted.insert(filter, Default::default());
        let list = [filter];
        let filters = Filters::new(&list);
        client.peer.send(&Packet::Unsubscribe(Unsubscribe {
            packet_id,
            properties: Properties::EMPTY,
            filters,
        }));
        self.wills.forget(nth);
        self.cluster.say(|| format!("{} unsubscribes from {filter}", self.clients[nth].name));
    }

    /// A Client that may ask for something about a filter, and the identifier for it. It asks one thing at a time.
    fn ask(&mut self, nth: usize, filter: &str) -> Option<(&mut Client, PacketId)> {
        let client = &mut self.clients[nth];
        let is_asking = client.asked.iter().any(|(_, ask)| ask.filter() == filter);
        let id =
            Some(()).filter(|()| client.peer.is_ready() && !is_asking).and_then(|()| client.free_id())?;
        Some((client, id))
    }

    fn publish(&mut self, nth: usize, topic: String, kind: Kind) {
        let is_v5 = self.clients[nth].party.version == Version::V5;
        let qos = match kind {
            // One that is sent again at QoS 1 may be retained behind a later one at QoS 2.
            Kind::Retained(_) if nth.is_multiple_of(2) => Qos::AtLeastOnce,
            Kind::Retained(_) => Qos::ExactlyOnce,
            _ => self.cluster.random.pick(&[Qos::AtLeastOnce, Qos::ExactlyOnce]),
        };
        let expiry = self.new_expiry(nth);
        let client = &mut self.clients[nth];
        let flows_max = if is_v5 { self.cluster.limits.receive_maximum } else { u16::MAX };
        if !client.peer.is_ready() || client.peer.flows.len() >= flows_max.into() {
            return;
        }
        let Some(id) = client.free_id() else { return };
        let message = self.judge.messages.len();
        let sent_at = self.cluster.now.wall_millis;
        let published = Published::new(nth, topic, qos, kind, expiry, sent_at);
        self.cluster.say(|| format!("{} publishes {message} {published:?}", client.name));
        client.peer.publish(id, message, published.to_send());
        self.judge.messages.push(published);
    }

    /// Whether a Client waits for an answer although nothing that it needs is on the disk of core `held`.
    pub(super) fn waits_in_vain(&self, nth: usize, held: usize) -> bool {
        let client = &self.clients[nth];
        let cores = self.cluster.shards.len() as u16;
        let is_here = home(cores, &client.name) == held;
        // Answers leave in order, those of a kept session behind its records.
        if !client.peer.is_ready() || is_here && !client.is_guest() {
            return false;
        }
        let needs = |flow: &Flow| {
            let Published { topic, kind, .. } = &self.judge.messages[flow.message];
            let retained = Home::Retained(TopicName::new(topic).expect("a topic"));
            let is_retained = matches!(kind, Kind::Retained(_));
            let retains =
                is_retained && mqtt_broker::shard::home_of(HASH_KEY, cores, retained) as usize == held;
            // A core says how far it has committed all that it was sent, whoever it was for.
            let goes_there = self.clients.iter().any(|other| {
                let mut filters = other.wanted.keys().chain(other.past.keys());
                let is_unsure = other.session == Known::Unsure && !other.is_guest();
                home(cores, &other.name) == held
                    && !(is_here && other.is_guest())
                    && (filters.any(|filter| matches(filter, topic)) || is_unsure)
            });
            retains || goes_there
        };
        // What is sent again waits for whatever the first one waits for.
        let needs = |flow: &Flow| flow.is_resent || needs(flow);
        !client.peer.flows.is_empty() && !client.peer.flows.iter().any(needs)
    }
}
