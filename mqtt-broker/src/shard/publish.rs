//! PUBLISH from a Client: checked, routed, acknowledged.
//!
//! The acknowledgement leaves once every core that was sent the message has handled it and the store has committed
//! it, and after the acknowledgements of the PUBLISHes before it [MQTT-4.6.0-2].

use mqtt_proto::packet::{Ack, Packet, Publish};
use mqtt_proto::session::Arrival;
use mqtt_proto::types::{PacketId, Qos, ReasonCode, TopicName, Version};

use super::Shard;
use super::connection::{Connection, PendingAnswer, Why};
use super::deliver::{How, Outgoing};
use super::envelope::Envelope;
use super::frame::Received;
use super::input::Step;
use super::lanes::Waiter;
use super::routes::Route;
use super::session::Session;
use super::table::Key;
use crate::config::CoreId;
use crate::message::{MessageRef, forwarded_properties};
use crate::ports::{AuthorizeRequest, Commit, Decision, Permission, Ticket};
use crate::router::{Concerned, CoreSet, Matches, Strategy, Subscriber};
use crate::store::record::Record;

/// What topics that are the broker's own to publish begin with.
pub(super) const RESERVED: &str = "$SYS/";

/// What became of a routed message.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Routed {
    /// Whether any subscription matched, here or elsewhere.
    pub(super) matched: bool,
    /// Cores that were sent the message and whose answers its acknowledgement waits for.
    pub(super) cores: CoreSet,
    /// Position in the store that has to be committed first.
    pub(super) commit: Option<u64>,
    /// Which of what was handed on has to be taken first.
    pub(super) taken: Taken,
}

/// The other cores that a message goes to: those `interested` deliver it, and `home` retains it.
#[derive(Clone, Copy)]
pub(super) struct Others {
    pub(super) cores: CoreSet,
    pub(super) interested: CoreSet,
    pub(super) home: Option<u16>,
}

impl Others {
    /// What `core` is sent, under a number if the message has one.
    pub(super) fn envelope<'m>(
        &self,
        core: u16,
        number: Option<u64>,
        outgoing: &Outgoing<'m>,
    ) -> Envelope<'m> {
        let (deliver, retain) = (self.interested.contains(core), self.home == Some(core));
        let (message, publisher) = (outgoing.message, outgoing.publisher);
        match number {
            Some(number) => Envelope::HandOn { number, message, deliver, retain, publisher },
            None => Envelope::Publish { message, deliver, retain, publisher },
        }
    }
}

/// What of what was handed on to other cores has to be taken before an acknowledgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Taken {
    #[default]
    Nothing,
    Last,
    All,
}

/// The Message Expiry Interval in force for what the publisher asked: cut to `max` seconds unless that is 0.
pub(super) fn bounded_expiry(asked: Option<u32>, max: u32) -> Option<u32> {
    match (asked, max) {
        (asked, 0) => asked,
        (asked, max) => Some(asked.unwrap_or(max).min(max)),
    }
}

impl Shard {
    /// `from`: the session of the publisher and its version; `bytes`: the packet as it came.
    pub(super) fn handle_publish(
        &mut self,
        key: Key,
        from: (Key, Version),
        publish: &Publish<'_>,
        bytes: &[u8],
    ) -> Step {
        let topic = publish.topic.expect("the receiver resolves Topic Aliases");
        // [MQTT-3.2.2-11], [MQTT-3.2.2-14]
        if publish.qos > self.limits.maximum_qos {
            return self.fault(key, ReasonCode::QOS_NOT_SUPPORTED);
        }
        if publish.retain && !self.limits.retain_available {
            return self.fault(key, ReasonCode::RETAIN_NOT_SUPPORTED);
        }
        let levels_max = usize::from(self.limits.topic_levels_max);
        // One with fewer bytes has not so many levels.
        if topic.as_bytes().len() >= levels_max && topic.levels().count() > levels_max {
            return self.fault(key, ReasonCode::TOPIC_NAME_INVALID);
        }
        if self.lacks_room(topic, publish.retain, publish.qos) {
            return Step::Again(Why::Lane);
        }
        if self.would_overtake(key, from.0, topic, publish) {
            return Step::Again(Why::Order);
        }
        if self.records.are_behind() && self.is_kept_here(from.0, topic, publish) {
            return Step::Again(Why::Order);
        }
        let permission = match self.publish_permission(key, publish, topic) {
            Ok(permission) => permission,
            Err(why) => return Step::Again(why),
        };
        self.stats.messages_received += 1;

        let (session_key, version) = from;
        if let Some(packet_id) = publish.packet_id
            && let Some(step) = self.refuse_arrival(key, from, publish.qos, packet_id)
        {
            return step;
        }

        // Looking for one property after the other takes longer than all the rest of a small message.
        let (is_text, asked_expiry) = match publish.properties {
            none if none.is_empty() => (false, None),
            some => (some.payload_format_indicator() == Some(1), some.message_expiry_interval()),
        };
        let refused = match permission {
            Permission::Deny(reason) => Some(reason),
            Permission::Allow if self.is_reserved(topic) => Some(ReasonCode::NOT_AUTHORIZED),
            Permission::Allow
                if self.limits.payload_format_checked
                    && is_text
                    && core::str::from_utf8(publish.payload).is_err() =>
            {
                Some(ReasonCode::PAYLOAD_FORMAT_INVALID)
            }
            Permission::Allow
                if publish.packet_id.is_some()
                    && (self.records.lack_room(bytes.len()) || self.budget.is_full_elsewhere())
                    && self.needs_storage(session_key, topic, publish) =>
            {
                if version != Version::V5 {
                    // No acknowledgement of that Client's says no: it gets none and sends the message again, which has not
                    // come yet then.
                    if let (Some(session), Qos::ExactlyOnce, Some(packet_id)) =
                        (self.sessions.get_mut(session_key), publish.qos, publish.packet_id)
                    {
                        session.flight().inbound.pubrec_sent(packet_id, ReasonCode::QUOTA_EXCEEDED);
                    }
                    return self.fault(key, ReasonCode::QUOTA_EXCEEDED);
                }
                Some(ReasonCode::QUOTA_EXCEEDED)
            }
            Permission::Allow => None,
        };
        if let Some(reason) = refused {
            self.stats.messages_refused += 1;
            if let Some(packet_id) = publish.packet_id {
                self.acknowledge(key, publish.qos, packet_id, reason, Routed::default());
            }
            return Step::Next;
        }

        let expiry = bounded_expiry(asked_expiry, self.limits.message_expiry_max_seconds);
        // [MQTT-3.3.2-6]: it may have waited for its permission, or for a lane.
        let received_at = self.now.millis - self.waited;
        let mut scratch = core::mem::take(&mut self.properties);
        let message = MessageRef {
            topic,
            properties: forwarded_properties(publish.properties, &mut scratch),
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            expires_at: expiry.map(|seconds| received_at + u64::from(seconds) * 1000),
        };
        let mut outgoing = Outgoing::new(message);
        outgoing.received = Received::of(publish, bytes, version);
        let numbered = publish.qos == Qos::ExactlyOnce && self.needs_number(session_key);
        let mut routed = self.route(&mut outgoing, Some(session_key), numbered);
        self.properties = scratch;
        if let Some(packet_id) = publish.packet_id {
            let reason =
                if routed.matched { ReasonCode::SUCCESS } else { ReasonCode::NO_MATCHING_SUBSCRIBERS };
            if publish.qos == Qos::ExactlyOnce {
                self.record_received(session_key, packet_id, &mut routed);
            }
            self.acknowledge(key, publish.qos, packet_id, reason, routed);
        }
        Step::Next
    }

    /// A QoS 2 message was routed: sent again by its Client after a crash, it must not be again. What other cores are to make
    /// of it that outlives a crash is on its way under a number.
    pub(super) fn record_received(&mut self, session: Key, packet_id: PacketId, routed: &mut Routed) {
        let Some(session) = self.sessions.get(session).filter(|session| session.is_persistent()) else {
            return;
        };
        let record = Record::Received { client_id: &session.client_id, packet_id };
        if let Commit::At(position) = self.records.append(self.now, &record) {
            routed.commit = routed.commit.max(Some(position));
        }
    }

    /// Whether a QoS 1 or 2 message would be kept by a store that is full, here or on another core.
    #[cold]
    fn needs_storage(&mut self, publisher: Key, topic: TopicName<'_>, publish: &Publish<'_>) -> bool {
        let home = CoreSet::from_iter(publish.retain.then(|| self.homes.of_topic(topic)));
        let route = self.find_route(topic);
        let elsewhere = self.budget.is_full_on(route.cores) || self.budget.is_full_on(home);
        if let Some(matches) = self.routes.give_back(route) {
            self.matches = matches;
        }
        elsewhere || self.records.are_full() && self.is_kept_here(publisher, topic, publish)
    }

    /// Whether the store of this core is told of a message.
    #[cold]
    fn is_kept_here(&mut self, publisher: Key, topic: TopicName<'_>, publish: &Publish<'_>) -> bool {
        let home = CoreSet::from_iter(publish.retain.then(|| self.homes.of_topic(topic)));
        if publish.qos == Qos::AtMostOnce || home.contains(self.core.0) {
            return home.contains(self.core.0);
        }
        let route = self.find_route(topic);
        let keeps = |subscriber: &Subscriber| {
            let session = self.sessions.at(subscriber.key).and_then(|key| self.sessions.get(key));
            subscriber.options.qos > Qos::AtMostOnce && session.is_some_and(Session::is_persistent)
        };
        let numbered = publish.qos == Qos::ExactlyOnce && self.needs_number(publisher);
        let here = numbered && !route.kept.union(home).is_empty()
            || route.matches.subscribers.iter().any(keeps)
            || self.groups.keep(topic);
        if let Some(matches) = self.routes.give_back(route) {
            self.matches = matches;
        }
        here
    }

    /// How many QoS 1 and 2 messages a Client may send without an acknowledgement.
    pub(super) fn receive_maximum(&self, version: Version) -> u16 {
        // Clients before 5.0 were not told ours.
        if version == Version::V5 { self.limits.receive_maximum } else { u16::MAX }
    }

    /// Notes the arrival of a QoS 1 or 2 message; what becomes of the connection if the message is not to be routed.
    #[inline]
    pub(super) fn refuse_arrival(
        &mut self,
        key: Key,
        (session, version): (Key, Version),
        qos: Qos,
        packet_id: PacketId,
    ) -> Option<Step> {
        let maximum = self.receive_maximum(version);
        let Some(session) = self.sessions.get_mut(session) else { return Some(Step::Gone) };
        match session.flight().inbound.publish_received(qos, packet_id, maximum) {
            Ok(Arrival::New) => None,
            // [MQTT-4.3.3-10]: acknowledged, not routed again; as late as the first time.
            Ok(Arrival::Duplicate) => {
                let mut all = CoreSet::default();
                self.lanes.peers().for_each(|core| all.insert(core));
                // What the first one waits for, it waits for even if its connection is gone.
                let commit = self.store_waiters.back().map(|waiter| waiter.seq);
                let routed = Routed { matched: true, cores: all, commit, taken: Taken::All };
                self.acknowledge(key, qos, packet_id, ReasonCode::SUCCESS, routed);
                Some(Step::Next)
            }
            Err(_) => Some(self.fault(key, ReasonCode::RECEIVE_MAXIMUM_EXCEEDED)),
        }
    }

    /// Topics below `$SYS/` are the broker's own to publish.
    pub(super) fn is_reserved(&self, topic: TopicName<'_>) -> bool {
        topic.as_str().starts_with(RESERVED)
    }

    /// Whether a lane that this message needs is full, or what is kept until other cores have committed it.
    fn lacks_room(&self, topic: TopicName<'_>, retain: bool, qos: Qos) -> bool {
        let congested = self.lanes.congested();
        if congested.is_empty() {
            return self.handover.is_full() && qos == Qos::ExactlyOnce;
        }
        let needs = self.interest.cores(topic);
        congested.iter().any(|core| needs.contains(core) || retain && self.homes.of_topic(topic) == core)
    }

    /// Whether this message could reach another core before others of its publisher: those that have a number and wait for
    /// the store; or, if it gets one itself, those of QoS 1 that other cores may lose in a crash which it outlives.
    #[inline]
    fn would_overtake(
        &mut self,
        key: Key,
        publisher: Key,
        topic: TopicName<'_>,
        publish: &Publish<'_>,
    ) -> bool {
        let owes = |connection: &Connection| connection.pending.has_pubacks();
        let owes = publish.qos == Qos::ExactlyOnce && self.connections.get(key).is_some_and(owes);
        (owes || self.handover.holds(self.gates.committed()))
            && self.has_to_wait(publisher, topic, publish, owes)
    }

    #[cold]
    fn has_to_wait(
        &mut self,
        publisher: Key,
        topic: TopicName<'_>,
        publish: &Publish<'_>,
        owes: bool,
    ) -> bool {
        let route = self.find_route(topic);
        let home = publish.retain.then(|| self.homes.of_topic(topic)).filter(|&home| home != self.core.0);
        let crosses = !route.cores.is_empty() || home.is_some();
        let is_kept = !route.kept.is_empty() || home.is_some();
        let is_numbered = is_kept && publish.qos == Qos::ExactlyOnce && self.needs_number(publisher);
        if let Some(matches) = self.routes.give_back(route) {
            self.matches = matches;
        }
        match is_numbered {
            true => owes,
            false => crosses && self.is_held(publisher),
        }
    }

    /// Asks for the permission to publish, unless it was given while the packet waited.
    fn publish_permission(
        &mut self,
        key: Key,
        publish: &Publish<'_>,
        topic: TopicName<'_>,
    ) -> Result<Permission, Why> {
        if let Some((_, permission)) = self.answers.first() {
            return Ok(*permission);
        }
        let refused = Permission::Deny(ReasonCode::UNSPECIFIED_ERROR);
        let Some(live) = self.connections.get(key).and_then(|connection| connection.live()) else {
            return Ok(refused);
        };
        self.questions = self.questions.wrapping_add(1);
        let serial = self.questions;
        let Some(session) = self.sessions.get(live.session) else { return Ok(refused) };
        let request = AuthorizeRequest::Publish {
            client_id: &session.client_id,
            identity: live.identity(),
            topic,
            qos: publish.qos,
            retain: publish.retain,
        };
        let ticket = Ticket { core: self.core, connection: key.into(), serial };
        match self.ports.authorize.authorize(&request, ticket) {
            Decision::Now(permission) => Ok(permission),
            Decision::Later => Err(Why::Permission(serial, 0)),
        }
    }

    /// Sends PUBACK or PUBREC, once those who got the message have it. `qos`: 1 or 2.
    pub(super) fn acknowledge(
        &mut self,
        key: Key,
        qos: Qos,
        packet_id: PacketId,
        reason: ReasonCode,
        routed: Routed,
    ) {
        let commit = routed.commit.filter(|&position| position > self.gates.committed());
        let is_first = |connection: &Connection| connection.pending.is_empty();
        let waits_for_none = routed.cores.is_empty() && routed.taken == Taken::Nothing;
        if waits_for_none && commit.is_none() && self.connections.get(key).is_some_and(is_first) {
            return self.send_ack(key, qos, Ack::new(packet_id, reason));
        }
        let answer = match qos {
            Qos::ExactlyOnce => PendingAnswer::PubRec(packet_id, reason),
            _ => PendingAnswer::PubAck(packet_id, reason),
        };
        let (connection, serial) = (key.into(), self.next_serial(key));
        let mut remaining = 0;
        for core in routed.cores.iter() {
            let waiter = Waiter { seq: self.lanes.last_sent(core), connection, serial };
            remaining += u16::from(self.lanes.wait(core, waiter));
        }
        if let Some(seq) = commit {
            self.store_waiters.push_back(Waiter { seq, connection, serial });
            remaining += 1;
        }
        match routed.taken {
            Taken::Nothing => {}
            Taken::Last => {
                self.handover.answer_when_taken(connection, serial);
                remaining += 1;
            }
            Taken::All => remaining += u16::from(self.handover.answer_behind_all(connection, serial)),
        }
        self.answer_when(key, answer, remaining);
    }

    /// PUBREL from a publisher [MQTT-4.3.3-11].
    pub(super) fn handle_pubrel(&mut self, key: Key, session: Key, ack: &Ack<'_>) {
        let Some(session) = self.sessions.get_mut(session) else { return };
        let reason = match session.flight().inbound.pubrel_received(ack.packet_id) {
            true => {
                if session.is_persistent() {
                    let (client_id, packet_id) = (&*session.client_id, ack.packet_id);
                    let commit = self.records.append(self.now, &Record::Completed { client_id, packet_id });
                    // The Client uses the identifier for another message from then on.
                    self.close_gate(key, commit);
                }
                ReasonCode::SUCCESS
            }
            false => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
        };
        self.send(key, &Packet::PubComp(Ack::new(ack.packet_id, reason)));
    }

    /// Routes a message that entered the broker on this core: to its subscribers here, to the cores that have others,
    /// to the home of its retained message. `numbered`: other cores get it under a number if
    /// one of them makes something of it that outlives a crash.
    pub(super) fn route(
        &mut self,
        outgoing: &mut Outgoing<'_>,
        publisher: Option<Key>,
        numbered: bool,
    ) -> Routed {
        let topic = outgoing.message.topic;
        outgoing.publisher = self.publisher_hash(publisher);
        let route = self.find_route(topic);
        let (interested, mut keeping) = (route.cores, route.kept);
        let here = self.route_here(outgoing, route, publisher, self.core);
        let mut cores = interested;
        let home = outgoing.message.retain.then(|| self.homes.of_topic(topic));
        if let Some(home) = home {
            if home == self.core.0 {
                self.retain(outgoing);
            } else {
                cores.insert(home);
                keeping.insert(home);
            }
        }
        let others = Others { cores, interested, home };
        let matched = here || !interested.is_empty();
        self.stats.messages_unmatched += u64::from(!matched);
        if numbered && !keeping.is_empty() {
            self.hand_on(outgoing, publisher, others);
            return Routed { matched, cores: CoreSet::EMPTY, commit: outgoing.commit, taken: Taken::Last };
        }
        let holds = !cores.is_empty() && self.handover.holds(self.gates.committed());
        if holds && publisher.is_some_and(|publisher| self.is_held(publisher)) {
            self.send_behind(outgoing, publisher, others);
            return Routed { matched, cores, commit: outgoing.commit, taken: Taken::Nothing };
        }
        for core in cores.iter() {
            let envelope = others.envelope(core, None, outgoing);
            self.lanes.send(core, &envelope, &mut outgoing.owned);
        }
        Routed { matched, cores, commit: outgoing.commit, taken: Taken::Nothing }
    }

    /// What shared groups that go by Client know a publisher by, the same on every core.
    pub(super) fn publisher_hash(&self, publisher: Option<Key>) -> u32 {
        if self.limits.shared_strategy != Strategy::HashClient {
            return 0;
        }
        let session = publisher.and_then(|key| self.sessions.get(key));
        session.map_or(0, |session| self.homes.hash_of(session.client_id.as_bytes()) as u32)
    }

    /// Where the messages to `topic` go. [`Shard::route_here`] takes it back.
    #[inline]
    pub(super) fn find_route(&mut self, topic: TopicName<'_>) -> Route {
        // Both only ever grow: the sum is the same while neither has changed.
        let generation = self.subscriptions.generation() + self.interest.generation();
        let worth = match self.routes.find(topic.as_bytes(), generation) {
            Ok(route) => return route,
            Err(worth) => worth,
        };
        let mut matches = core::mem::take(&mut self.matches);
        matches.clear();
        self.subscriptions.matches(topic, &mut matches);
        if matches.filters > 1 {
            matches.subscribers.sort_unstable_by_key(|subscriber| (subscriber.key, subscriber.identifier));
        }
        let none = self.interest.is_empty();
        let mut concerned = if none { Concerned::default() } else { self.interest.concerned(topic) };
        concerned.cores.remove(self.core.0);
        let route = Route::new(matches, concerned);
        if worth {
            self.routes.keep(topic.as_bytes(), generation, &route);
        }
        route
    }

    /// Delivers a message that entered the broker on core `from` to the subscribers of this core; whether there are any.
    pub(super) fn route_here(
        &mut self,
        outgoing: &mut Outgoing<'_>,
        route: Route,
        publisher: Option<Key>,
        from: CoreId,
    ) -> bool {
        let any = !route.matches.subscribers.is_empty();
        self.deliver_to_all(&route.matches, outgoing, publisher, from);
        if let Some(matches) = self.routes.give_back(route) {
            self.matches = matches;
        }
        let groups = self.route_to_groups(outgoing);
        any || groups
    }

    /// Delivers to the subscribers of this core.
    #[inline(always)]
    pub(super) fn deliver_to_all(
        &mut self,
        matches: &Matches,
        outgoing: &mut Outgoing<'_>,
        publisher: Option<Key>,
        from: CoreId,
    ) {
        if matches.subscribers.len() > 1 {
            outgoing.frame = Some(core::mem::take(&mut self.frame));
        }
        for same in matches.sessions() {
            self.deliver_to(same, outgoing, publisher, from);
        }
        if let Some(frame) = outgoing.frame.take() {
            self.frame = frame.cleared();
        }
    }

    /// Delivers once to the session that all of `subscriptions` belong to.
    #[inline]
    pub(super) fn deliver_to(
        &mut self,
        subscriptions: &[Subscriber],
        outgoing: &mut Outgoing<'_>,
        publisher: Option<Key>,
        from: CoreId,
    ) {
        let Some(key) = self.sessions.at(subscriptions[0].key) else { return };
        if let [Subscriber { options, identifier, .. }] = subscriptions {
            if !(options.no_local && publisher == Some(key)) {
                let identifiers = core::slice::from_ref(identifier);
                let identifiers = if *identifier == 0 { &[] } else { identifiers };
                self.deliver_as(key, outgoing, options.qos, options.retain_as_published, identifiers, from);
            }
            return;
        }
        // [MQTT-3.8.3-3]
        let counts = |subscriber: &&Subscriber| !(subscriber.options.no_local && publisher == Some(key));
        let Some(granted) =
            subscriptions.iter().filter(counts).map(|subscriber| subscriber.options.qos).max()
        else {
            return;
        };
        let as_published =
            subscriptions.iter().filter(counts).any(|subscriber| subscriber.options.retain_as_published);
        let mut few = [0; 8];
        let many: Vec<u32>;
        let mut found =
            subscriptions.iter().filter(counts).map(|s| s.identifier).filter(|&identifier| identifier != 0);
        let identifiers = if subscriptions.len() <= few.len() {
            let mut len = 0;
            for identifier in found {
                few[len] = identifier;
                len += 1;
            }
            &few[..len]
        } else {
            many = found.by_ref().collect();
            &many
        };
        self.deliver_as(key, outgoing, granted, as_published, identifiers, from);
    }

    /// Delivers to a session whose subscriptions grant this QoS.
    #[inline(always)]
    fn deliver_as(
        &mut self,
        key: Key,
        outgoing: &mut Outgoing<'_>,
        granted: Qos,
        as_published: bool,
        identifiers: &[u32],
        from: CoreId,
    ) {
        // One without RETAIN leaves the topic's retained message as it is, which is then still wanted [MQTT-3.3.1-9].
        if outgoing.message.retain {
            self.note_live(key, outgoing.message.topic, from);
        }
        let how = How {
            qos: granted.min(outgoing.message.qos),
            // [MQTT-3.3.1-12], [MQTT-3.3.1-13]
            retain: as_published && outgoing.message.retain,
            identifiers,
            group: None,
            paced: false,
        };
        self.deliver(key, outgoing, how);
    }
}
