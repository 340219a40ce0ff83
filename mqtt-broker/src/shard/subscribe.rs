//! SUBSCRIBE and UNSUBSCRIBE, and what the other cores are told about them.

use mqtt_proto::packet::{RetainHandling, Subscribe, Subscription, Unsubscribe};
use mqtt_proto::types::{Qos, ReasonCode, SharedFilter, TopicFilter};

use super::Shard;
use super::barrier::Then;
use super::connection::{PendingAnswer, Why};
use super::envelope::Envelope;
use super::input::Step;
use super::session::{Membership, Session};
use super::table::Key;
use crate::ports::{AuthorizeRequest, Commit, Decision, Event, Permission};
use crate::router::{Removed, Subscriber};
use crate::store::record::Record;

impl Shard {
    pub(super) fn handle_subscribe(&mut self, key: Key, subscribe: &Subscribe<'_>) -> Step {
        let identifier = subscribe.properties.subscription_identifiers().next();
        if identifier.is_some() && !self.limits.subscription_identifier_available {
            return self.fault(key, ReasonCode::SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED);
        }
        // First all questions, then all changes: a question may make the packet wait.
        let mut judged = Vec::new();
        for (nth, subscription) in subscribe.subscriptions.iter().enumerate() {
            match self.check_subscription(key, nth as u16, &subscription) {
                Ok(result) => judged.push(result),
                Err(why) => return Step::Again(why),
            }
        }
        let Some(live) = self.connections.get(key).and_then(|connection| connection.live()) else {
            return Step::Gone;
        };
        let session = live.session;
        let serial = self.next_serial(key);
        let (mut reasons, mut gathers) = (Vec::with_capacity(judged.len()), Vec::new());
        let (mut remaining, mut commit, mut changed) = (0, None, false);
        for (subscription, judged) in subscribe.subscriptions.iter().zip(judged) {
            let shared = match judged {
                Ok(shared) if self.has_room_for(session, &subscription, shared) => shared,
                Ok(_) => {
                    reasons.push(ReasonCode::QUOTA_EXCEEDED.0);
                    continue;
                }
                Err(reason) => {
                    reasons.push(reason.0);
                    continue;
                }
            };
            let mut options = subscription.options;
            options.qos = options.qos.min(self.limits.maximum_qos);
            reasons.push(options.qos.bits());
            changed = true;
            let subscriber = Subscriber { key: session.index, options, identifier: identifier.unwrap_or(0) };
            match shared.share_name {
                Some(_) => {
                    self.join(key, session, serial, subscription.filter, shared, subscriber);
                    remaining += 1;
                }
                None => gathers.extend(self.insert_subscription(session, shared.filter, subscriber)),
            }
            let Some(state) = self.sessions.get(session) else { continue };
            let (client_id, filter) = (&*state.client_id, subscription.filter);
            if state.is_persistent() {
                let identifier = subscriber.identifier;
                let record = Record::Subscribed { client_id, filter, options, identifier };
                if let Commit::At(position) = self.records.append(self.now, &record) {
                    commit = commit.max(Some(position));
                }
            }
            self.ports.hooks.on_event(&Event::Subscribed { client_id, filter });
        }
        if let Some(seq) = commit.filter(|&position| position > self.gates.committed()) {
            self.store_waiters.push_back(super::Waiter { seq, connection: key.into(), serial });
            remaining += 1;
        }
        // [MQTT-3.8.4-5]: one answer, whatever was asked for; not before every core knows the interest.
        let answer = PendingAnswer::SubAck(subscribe.packet_id, reasons.into());
        self.answer_when(key, answer, remaining + u16::from(changed));
        if changed {
            self.after_barrier(Then::Subscribed { connection: key.into(), serial, session, gathers });
        }
        self.send_joins();
        Step::Next
    }

    /// What becomes of one filter, or why its packet has to wait. Changes nothing.
    fn check_subscription<'a>(
        &mut self,
        key: Key,
        nth: u16,
        subscription: &Subscription<'a>,
    ) -> Result<Result<SharedFilter<'a>, ReasonCode>, Why> {
        let limits = &self.limits;
        let Ok(shared) = SharedFilter::new(subscription.filter) else {
            return Ok(Err(ReasonCode::TOPIC_FILTER_INVALID));
        };
        let levels_max = usize::from(limits.topic_levels_max);
        // One with fewer bytes has not so many levels.
        if shared.filter.as_str().len() >= levels_max && shared.filter.levels().count() > levels_max {
            return Ok(Err(ReasonCode::TOPIC_FILTER_INVALID));
        }
        if shared.filter.has_wildcard() && !limits.wildcard_subscription_available {
            return Ok(Err(ReasonCode::WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED));
        }
        if shared.share_name.is_some() && !limits.shared_subscription_available {
            return Ok(Err(ReasonCode::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED));
        }
        let permission = match self.answers.iter().find(|(position, _)| *position == nth) {
            Some((_, permission)) => *permission,
            None => {
                let ticket = self.ticket(key);
                let Some(live) = self.connections.get(key).and_then(|connection| connection.live()) else {
                    return Ok(Err(ReasonCode::UNSPECIFIED_ERROR));
                };
                let Some(session) = self.sessions.get(live.session) else {
                    return Ok(Err(ReasonCode::UNSPECIFIED_ERROR));
                };
                let request = AuthorizeRequest::Subscribe {
                    client_id: &session.client_id,
                    identity: live.identity(),
                    filter: subscription.filter,
                    qos: subscription.options.qos,
                };
                match self.ports.authorize.authorize(&request, ticket) {
                    Decision::Now(permission) => permission,
                    Decision::Later => return Err(Why::Permission(ticket.serial, nth)),
                }
            }
        };
        match permission {
            Permission::Allow => Ok(Ok(shared)),
            Permission::Deny(reason) => Ok(Err(reason)),
        }
    }

    /// Whether the session may have this subscription beside those it has.
    fn has_room_for(&self, session: Key, subscription: &Subscription<'_>, shared: SharedFilter<'_>) -> bool {
        let Some(state) = self.sessions.get(session) else { return false };
        if state.is_persistent() && self.records.are_full() {
            return false;
        }
        if state.subscription_count() < self.limits.subscriptions_per_session_max as usize {
            return true;
        }
        match shared.share_name {
            Some(_) => state.is_member(subscription.filter),
            None => {
                let known = self.subscriptions.find(shared.filter);
                known.is_some_and(|known| state.has_filter(known))
            }
        }
    }

    /// Makes or replaces a Non-shared Subscription [MQTT-3.8.4-3]; the gathering of its retained messages, if any are
    /// wanted.
    fn insert_subscription(
        &mut self,
        session: Key,
        filter: TopicFilter<'_>,
        subscriber: Subscriber,
    ) -> Option<u64> {
        let inserted = self.subscriptions.insert(filter, subscriber);
        let is_new = inserted.replaced.is_none();
        if is_new && let Some(state) = self.sessions.get_mut(session) {
            state.add_filter(inserted.filter);
        }
        if inserted.first_on_core && !self.groups.has_filter(filter.as_str()) {
            self.announce(filter, true);
        }
        self.announce_kept(session, filter, subscriber.options.qos);
        let wanted = match subscriber.options.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => is_new,
            RetainHandling::DoNotSend => false,
        };
        let (qos, identifier) = (subscriber.options.qos, subscriber.identifier);
        let wanted = wanted && self.may_have_retained(filter);
        wanted.then(|| self.new_gather(session, inserted.filter, filter.as_str(), qos, identifier))
    }

    /// Whether there may be retained messages that match. Certain only for a core that is alone: another's may be on
    /// their way here.
    fn may_have_retained(&self, filter: TopicFilter<'_>) -> bool {
        match self.homes.cores() {
            1 if filter.has_wildcard() => !self.retained.is_empty(),
            1 => self.retained.get(filter.as_str()).is_some(),
            _ => true,
        }
    }

    /// Tells all other cores of this core's first subscription to `filter`, or of the loss of its last.
    pub(super) fn announce(&mut self, filter: TopicFilter<'_>, add: bool) {
        for core in self.lanes.peers() {
            self.lanes.send(core, &Envelope::Interest { filter, add }, &mut None);
        }
    }

    /// Tells them if a session that outlives a crash has subscribed to `filter` of which they know, at this QoS.
    pub(super) fn announce_kept(&mut self, session: Key, filter: TopicFilter<'_>, qos: Qos) {
        let is_kept = self.sessions.get(session).is_some_and(Session::is_persistent);
        if is_kept && qos != Qos::AtMostOnce && self.records.keep_anything() {
            self.tell_kept(filter);
        }
    }

    /// Tells them that what they send because of `filter` may outlive a crash here.
    pub(super) fn tell_kept(&mut self, filter: TopicFilter<'_>) {
        for core in self.lanes.peers() {
            self.lanes.send(core, &Envelope::Kept { filter }, &mut None);
        }
    }

    pub(super) fn handle_unsubscribe(&mut self, key: Key, unsubscribe: &Unsubscribe<'_>) {
        let Some(live) = self.connections.get(key).and_then(|connection| connection.live()) else { return };
        let session = live.session;
        let mut reasons = Vec::new();
        let mut commit = None;
        for text in unsubscribe.filters.iter() {
            let unsubscribed = self.unsubscribe(session, text);
            let existed = unsubscribed.is_some();
            reasons.push(if existed { ReasonCode::SUCCESS } else { ReasonCode::NO_SUBSCRIPTION_EXISTED }.0);
            if let Some(Commit::At(position)) = unsubscribed {
                commit = commit.max(Some(position));
            }
            if let Some(state) = self.sessions.get(session).filter(|_| existed) {
                let client_id = &*state.client_id;
                self.ports.hooks.on_event(&Event::Unsubscribed { client_id, filter: text });
            }
        }
        let mut remaining = 0;
        if let Some(seq) = commit.filter(|&position| position > self.gates.committed()) {
            let serial = self.next_serial(key);
            self.store_waiters.push_back(super::Waiter { seq, connection: key.into(), serial });
            remaining = 1;
        }
        // [MQTT-3.10.4-4]; no barrier: nothing new is promised.
        self.answer_when(key, PendingAnswer::UnsubAck(unsubscribe.packet_id, reasons.into()), remaining);
    }

    /// Ends one subscription, if it exists; when the store has that.
    fn unsubscribe(&mut self, session: Key, text: &str) -> Option<Commit> {
        let shared = SharedFilter::new(text).ok()?;
        let state = self.sessions.get_mut(session)?;
        if shared.share_name.is_some() {
            let group = state.leave(text)?;
            self.stats.shared_subscriptions -= 1;
            let commit = self.record_unsubscribed(session, text);
            self.end_membership(session, group);
            return Some(commit);
        }
        let filter = self.subscriptions.find(shared.filter)?;
        if !state.remove_filter(filter) {
            return None;
        }
        let removed = self.subscriptions.remove_id(filter, session.index);
        self.cancel_gather(session, filter);
        self.withdraw(shared.filter, removed);
        Some(self.record_unsubscribed(session, text))
    }

    fn record_unsubscribed(&mut self, session: Key, filter: &str) -> Commit {
        match self.sessions.get(session).filter(|state| state.is_persistent()) {
            Some(state) => {
                let record = Record::Unsubscribed { client_id: &state.client_id, filter };
                self.records.append(self.now, &record)
            }
            None => Commit::Now,
        }
    }

    /// Tells the other cores if the last subscription to `filter` is gone.
    fn withdraw(&mut self, filter: TopicFilter<'_>, removed: Option<Removed>) {
        if removed.is_some_and(|removed| removed.last_on_core) && !self.groups.has_filter(filter.as_str()) {
            self.announce(filter, false);
        }
    }

    /// Ends all subscriptions of a session that ends.
    pub(super) fn unsubscribe_all(&mut self, session: Key) {
        let Some(state) = self.sessions.get_mut(session) else { return };
        let filters = state.take_filters();
        let shared = state.leave_all();
        for filter in filters {
            let text = self.subscriptions.filter_text(filter).to_owned();
            let removed = self.subscriptions.remove_id(filter, session.index);
            self.withdraw(TopicFilter::new(&text).expect("it was subscribed to"), removed);
        }
        for Membership { group, .. } in shared.into_values() {
            self.stats.shared_subscriptions -= 1;
            self.end_membership(session, group);
        }
    }

    /// Makes or replaces the membership `text` of a session.
    pub(super) fn membership(&mut self, session: Key, text: &str, subscriber: Subscriber) {
        let Some(state) = self.sessions.get_mut(session) else { return };
        let is_new = state.join(text, subscriber.options, subscriber.identifier);
        self.stats.shared_subscriptions += u64::from(is_new);
    }
}
