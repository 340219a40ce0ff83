//! One PUBLISH that a session got: does it match, is it intact, with the right QoS, flags and identifiers, in order,
//! and not once too often?

use mqtt_proto::packet::{Property, Publish};
use mqtt_proto::types::{Qos, Version};

use super::message::{Fate, Message, MessageId, parse_payload, properties_of};
use super::session::Subscription;
use super::{Check, Oracle, SessionId, Violation, ensure};

/// A PUBLISH as its receiver has it.
pub(crate) struct Arrival<'a> {
    pub(crate) session: SessionId,
    pub(crate) version: Version,
    pub(crate) publish: &'a Publish<'a>,
    /// Whether the Client has had it under this Packet Identifier before.
    pub(crate) known: bool,
}

impl Oracle {
    /// The message that has arrived; `None` for an empty one, which cannot tell who it is.
    pub(crate) fn arrived(&mut self, arrival: &Arrival<'_>, now: u64) -> Check<Option<MessageId>> {
        let Arrival { session, publish, .. } = *arrival;
        let topic = publish.topic.expect("the receiver resolves aliases").as_str();
        if topic.starts_with("$SYS/") {
            return Ok(None);
        }
        let Some((id, _)) = parse_payload(publish.payload) else {
            return self.empty_arrived(session, publish, topic, now);
        };
        let Some(message) = self.messages.get(id) else {
            return Err(Violation { rule: "intact", text: format!("message {id} was never published") });
        };
        ensure!(message.topic == topic, "intact", "{id} was published to {}, not {topic}", message.topic);
        ensure!(message.payload == publish.payload, "intact", "the payload of {id} is another");
        ensure!(message.tries > 0, "intact", "{id} was never sent");
        ensure!(!message.refused, "refused", "{id} was refused with an error and is delivered all the same");
        self.check_fate(id, now)?;
        if arrival.version == Version::V5 {
            self.check_properties(id, arrival, now)?;
        }
        if arrival.known {
            return Ok(Some(id));
        }
        self.check_match(id, arrival)?;
        self.check_count(id, arrival)?;
        if Self::is_single_publisher(topic) {
            self.sessions[session].values.insert(topic.to_owned(), (Some(id), now));
        }
        Ok(Some(id))
    }

    /// Topics that one Client publishes to, always with RETAIN.
    pub(crate) fn is_single_publisher(topic: &str) -> bool {
        topic.starts_with("r/")
    }

    fn empty_arrived(
        &mut self,
        session: SessionId,
        publish: &Publish<'_>,
        topic: &str,
        now: u64,
    ) -> Check<Option<MessageId>> {
        ensure!(publish.payload.is_empty(), "intact", "a payload on {topic} that nobody sent");
        let published =
            self.messages.iter().any(|message| message.empty && message.tries > 0 && message.topic == topic);
        ensure!(published, "intact", "nobody sent an empty payload to {topic}");
        let matches = |subscription: &Subscription| subscription.matches(topic);
        let state = &mut self.sessions[session];
        ensure!(state.subscriptions.iter().any(matches), "match", "{topic} does not match");
        if Self::is_single_publisher(topic) {
            state.values.insert(topic.to_owned(), (None, now));
        }
        Ok(None)
    }

    /// A Will comes when it is due and not before.
    fn check_fate(&self, id: MessageId, now: u64) -> Check {
        match self.messages[id].fate {
            Fate::Armed => Err(Violation {
                rule: "will",
                text: format!("Will {id} comes while its Client is connected"),
            }),
            Fate::Cancelled => {
                Err(Violation { rule: "will", text: format!("Will {id} comes though it was taken back") })
            }
            Fate::Pending(due) => {
                ensure!(now + self.slack >= due, "will", "Will {id} comes at {now}, it is due at {due}");
                Ok(())
            }
            Fate::Sent | Fate::Published | Fate::Maybe => Ok(()),
        }
    }

    fn check_properties(&mut self, id: MessageId, arrival: &Arrival<'_>, now: u64) -> Check {
        let message = &self.messages[id];
        let travels = |property: &Property<'_>| {
            !matches!(
                property,
                Property::TopicAlias(_)
                    | Property::MessageExpiryInterval(_)
                    | Property::SubscriptionIdentifier(_)
                    | Property::WillDelayInterval(_)
            )
        };
        let got: Vec<Property<'_>> = arrival.publish.properties.iter().filter(travels).collect();
        let sent = properties_of();
        let expected: &[Property<'_>] = if message.properties { &sent } else { &[] };
        ensure!(got == expected, "properties", "{id} came with {got:?}, not {expected:?}");

        let left = arrival.publish.properties.message_expiry_interval();
        let Some(asked) = message.expiry else {
            ensure!(left.is_none(), "expiry", "{id} never expires, {left:?} s are said to be left");
            return Ok(());
        };
        let Some(left) = left else {
            return Err(Violation {
                rule: "expiry",
                text: format!("the Message Expiry Interval of {id} is gone"),
            });
        };
        // What is left is rounded up; what was begun in time is completed whatever the time [MQTT-4.3.2-3].
        let begun = arrival.known || arrival.publish.dup;
        ensure!(left > 0 || begun, "expired", "{id} comes though it has expired");
        let before = self.sessions[arrival.session].received.get(&id).and_then(|copies| copies.expiry);
        let most = if arrival.known { before.unwrap_or(asked) } else { asked };
        ensure!(left <= most, "expiry", "{id} has {left} s left, it had {most} s before");
        // Resent messages begin anew; a Will begins when it is published.
        if message.fate == Fate::Sent && message.tries == 1 {
            let passed = now.saturating_sub(message.sent_at).div_ceil(1_000_000);
            let least = u64::from(asked).saturating_sub(passed + 1);
            ensure!(u64::from(left) >= least, "expiry", "{id} has {left} s left instead of {least} s");
        }
        Ok(())
    }

    /// What the message may have met, and what it must have met, has to explain QoS, flags and identifiers.
    fn check_match(&mut self, id: MessageId, arrival: &Arrival<'_>) -> Check {
        let Arrival { session, version, publish, .. } = *arrival;
        let message = &self.messages[id];
        let live: Vec<&Subscription> = self.may_have_met(session, message).collect();
        let retained_copy = publish.retain && message.retain;
        let asked =
            |subscription: &&Subscription| !subscription.is_shared() && subscription.matches(&message.topic);
        let possible: Vec<&Subscription> = match retained_copy {
            true => self.sessions[session]
                .subscriptions
                .iter()
                .filter(asked)
                .chain(live.iter().copied())
                .collect(),
            false => live.clone(),
        };
        ensure!(!possible.is_empty(), "match", "{id} on {} meets no subscription", message.topic);
        let granted = possible.iter().map(|subscription| subscription.options.qos).max().expect("not empty");
        let most = granted.min(message.qos);
        ensure!(publish.qos <= most, "qos", "{id} came at {:?}, {most:?} at most is right", publish.qos);
        let as_published =
            live.iter().any(|subscription| subscription.options.retain_as_published && message.retain);
        ensure!(
            !publish.retain
                || message.retain && (as_published || self.sessions[session].gathers(&message.topic) > 0),
            "retain",
            "{id} came with RETAIN"
        );
        let identifiers: Vec<u32> = publish.properties.subscription_identifiers().collect();
        for &identifier in &identifiers {
            let known = possible.iter().any(|subscription| subscription.identifier == identifier);
            ensure!(known, "identifier", "{id} came with identifier {identifier}");
        }
        self.check_stale(id, arrival, &possible)?;

        // One plain live delivery, and every subscription was there all the time: then all of it is determined.
        let stable = |subscription: &&Subscription| {
            !subscription.is_shared() && subscription.must_meet(message.sent_at, u64::MAX)
        };
        if publish.retain || !live.iter().all(stable) || live.is_empty() {
            return Ok(());
        }
        ensure!(publish.qos == most, "qos", "{id} came at {:?}, not {most:?}", publish.qos);
        ensure!(!as_published, "retain", "{id} came without RETAIN, though it is to be as published");
        if version == Version::V5 {
            let mut got = identifiers;
            let mut expected: Vec<u32> =
                live.iter().map(|subscription| subscription.identifier).filter(|&known| known != 0).collect();
            got.sort_unstable();
            expected.sort_unstable();
            ensure!(got == expected, "identifier", "{id} came with identifiers {got:?}, not {expected:?}");
        }
        self.exact += 1;
        Ok(())
    }

    /// A retained copy was the topic's last message at some moment since it was asked for.
    fn check_stale(&self, id: MessageId, arrival: &Arrival<'_>, possible: &[&Subscription]) -> Check {
        let message = &self.messages[id];
        let as_published = possible.iter().any(|subscription| subscription.options.retain_as_published);
        let Some(done) = message.acked_at.filter(|_| arrival.publish.retain && !as_published) else {
            return Ok(());
        };
        let replaced_before = |asked: u64| {
            self.messages.iter().any(|other| {
                other.retain
                    && other.fate == Fate::Sent
                    && other.topic == message.topic
                    && other.sent_at > done
                    && other.acked_at.is_some_and(|acked| acked < asked)
            })
        };
        let fresh = possible
            .iter()
            .any(|subscription| !subscription.is_shared() && !replaced_before(subscription.sent_at));
        ensure!(fresh, "retained", "{id} was replaced before {} was asked for", message.topic);
        Ok(())
    }

    fn check_count(&mut self, id: MessageId, arrival: &Arrival<'_>) -> Check {
        let Arrival { session, publish, .. } = *arrival;
        let message = self.messages[id].clone();
        let gathers = self.sessions[session].gathers(&message.topic) as u32;
        let (mut plain, mut groups) = (0, Vec::new());
        for subscription in self.may_have_met(session, &message) {
            match subscription.is_shared() {
                true if !groups.contains(&subscription.filter) => groups.push(subscription.filter.clone()),
                true => {}
                false => plain = 1,
            }
        }
        let disturbed = self.groups_disturbed;
        let state = &mut self.sessions[session];
        let first = !state.received.contains_key(&id);
        let copies = state.received.entry(id).or_default();
        copies.expiry = publish.properties.message_expiry_interval();
        match (publish.dup, publish.retain) {
            // What was first sent on a connection that broke is known from its copy alone.
            (true, _) => copies.retried += 1,
            (false, true) => copies.retained += 1,
            (false, false) => copies.live += 1,
        }
        copies.exact += u32::from(publish.qos == Qos::ExactlyOnce);
        let copies = *copies;
        let routed = if message.qos == Qos::AtLeastOnce { message.tries } else { 1 };
        // A group's message goes to another member when its own goes away; below QoS 2 both may have had it.
        let bounces = !groups.is_empty() && disturbed;
        let most = routed * (plain + groups.len() as u32) + if message.retain { gathers } else { 0 };
        let total = copies.live + copies.retained;
        ensure!(total <= most || bounces, "once", "{id} came {total} times, {most} times at most is right");
        // At QoS 2 not even DUP excuses a second copy: its Packet Identifier would have told.
        let exactly = publish.qos == Qos::ExactlyOnce && message.qos == Qos::ExactlyOnce;
        ensure!(
            !exactly || copies.exact <= most,
            "exactly once",
            "{id} came {total} times and {} with DUP",
            copies.retried
        );
        self.check_members(id, &message, exactly)?;
        self.check_order(id, &message, arrival, first && groups.is_empty())
    }

    /// A group's message goes to one member.
    fn check_members(&self, id: MessageId, message: &Message, exactly: bool) -> Check {
        if !message.topic.starts_with("s/") || !exactly && self.groups_disturbed {
            return Ok(());
        }
        let mut groups: Vec<&str> = Vec::new();
        let mut plain = 0;
        let mut total = 0;
        for (session, state) in self.sessions.iter().enumerate() {
            for subscription in self.may_have_met(session, message) {
                match subscription.is_shared() {
                    true if !groups.contains(&&*subscription.filter) => groups.push(&subscription.filter),
                    true => {}
                    false => plain += 1,
                }
            }
            let copies = state.received.get(&id).copied().unwrap_or_default();
            total += if self.groups_disturbed { copies.exact } else { copies.live };
        }
        let routed = if message.qos == Qos::AtLeastOnce { message.tries } else { 1 };
        let most = routed * (groups.len() as u32 + plain);
        ensure!(total <= most, "one member", "{id} reached {total} members, {most} at most are right");
        Ok(())
    }

    /// Messages of one publisher, topic and QoS come in the order in which they were published [MQTT-4.6.0-5].
    fn check_order(
        &mut self,
        id: MessageId,
        message: &Message,
        arrival: &Arrival<'_>,
        counts: bool,
    ) -> Check {
        let Arrival { session, publish, .. } = *arrival;
        if !counts || publish.retain || message.fate != Fate::Sent || message.tries > 1 {
            return Ok(());
        }
        let key = (message.publisher, message.topic.clone(), message.qos.bits(), publish.qos.bits());
        let last = self.sessions[session].last.entry(key).or_insert(id);
        ensure!(*last <= id, "order", "{id} on {} came behind {last}", message.topic);
        *last = id;
        Ok(())
    }
}
