//! Shared Subscriptions (section 4.8), both ends.
//!
//! A group has one owner core, found by hash. The owner announces the group's filter as its own interest, so every
//! matching message reaches it; it binds each to one member that is online and has credit, or queues it, bounded.
//! The member's home core delivers and gives the credit back when the Client is done with the message. When the
//! Client goes away, its QoS 1 messages and what was not started go back to the owner and from there to another
//! member; QoS 2 already started stays with its session [MQTT-4.8.2-4] [MQTT-4.8.2-5].

use mqtt_proto::packet::SubscriptionOptions;
use mqtt_proto::types::{Qos, ShareName, SharedFilter, TopicFilter};

use super::barrier::Then;
use super::deliver::{How, Outgoing};
use super::envelope::{Envelope, GroupRef, OfGroup, SessionRef};
use super::group_messages::Waiting;
use super::queue::Delivery;
use super::session::Session;
use super::stats::DropReason;
use super::table::Key;
use super::{ConnectionId, Shard};
use crate::message::{Message, MessageRef};
use crate::ports::Commit;
use crate::router::{Chosen, GroupId, MemberId, Subscriber};

/// A SUBSCRIBE to a shared group, on its way to the owner and back.
#[derive(Debug)]
pub(super) struct Join {
    session: Key,
    connection: ConnectionId,
    serial: u32,
    text: Box<str>,
    options: SubscriptionOptions,
    identifier: u32,
}

/// A member that the owner has taken in, and who is to be told after a barrier.
#[derive(Debug)]
pub(super) struct Joined {
    member: SessionRef,
    token: u64,
    group: GroupRef,
    /// Its credit, unless it was a member before.
    credit: Option<u16>,
}

impl SessionRef {
    pub(super) fn member(self) -> MemberId {
        MemberId { core: self.core, key: self.index, generation: self.generation }
    }

    fn key(self) -> Key {
        Key { index: self.index, generation: self.generation }
    }
}

impl Shard {
    pub(super) fn own_session(&self, session: Key) -> SessionRef {
        SessionRef { core: self.core.0, index: session.index, generation: session.generation }
    }

    // The member's side.

    /// Notes that the session wants to join; [`Shard::send_joins`] follows.
    pub(super) fn join(
        &mut self,
        connection: Key,
        session: Key,
        serial: u32,
        text: &str,
        shared: SharedFilter<'_>,
        subscriber: Subscriber,
    ) {
        debug_assert!(shared.share_name.is_some());
        self.membership(session, text, subscriber);
        let token = self.token();
        let Subscriber { options, identifier, .. } = subscriber;
        let join =
            Join { session, connection: connection.into(), serial, text: text.into(), options, identifier };
        self.joins.insert(token, join);
        self.new_joins.push(token);
    }

    /// Asks the owners of the groups that the SUBSCRIBE at hand wants to join.
    pub(super) fn send_joins(&mut self) {
        for token in core::mem::take(&mut self.new_joins) {
            let Some(join) = self.joins.get(&token) else { continue };
            let (text, options, identifier) = (join.text.clone(), join.options, join.identifier);
            let shared = SharedFilter::new(&text).expect("checked with its SUBSCRIBE");
            let Some(share_name) = shared.share_name else { continue };
            let state = self.sessions.get(join.session);
            let (credit, persistent) =
                (state.map_or(0, Session::window), state.is_some_and(Session::is_persistent));
            let member = self.own_session(join.session);
            let owner = self.homes.of_group(share_name.as_str(), shared.filter.as_str());
            let envelope = Envelope::GroupJoin {
                token,
                share: share_name.as_str(),
                filter: shared.filter,
                member,
                options,
                identifier,
                credit,
                persistent,
            };
            if owner == self.core.0 {
                self.take_member(&envelope);
            } else {
                // It may have left the same group just before.
                self.lanes.send_behind(owner, None, &envelope, &mut None, Commit::Now);
            }
        }
    }

    /// The owner has taken the session in, and every core knows of the group.
    pub(super) fn joined(&mut self, token: u64, group: GroupRef) {
        let Some(join) = self.joins.remove(&token) else { return };
        let state = self.sessions.get_mut(join.session);
        let connection = state.as_ref().and_then(|state| state.connection());
        let window = state.as_ref().map_or(0, |state| state.window());
        if !state.is_some_and(|state| state.joined(&join.text, group)) {
            // Unsubscribed, or ended, meanwhile; a Client that waits for its SUBACK gets it nevertheless [MQTT-3.8.4-1].
            self.leave_group(join.session, group);
            return self.pending_done(join.connection, join.serial);
        }
        if connection == Some(join.connection.into()) {
            return self.pending_done(join.connection, join.serial);
        }
        // The connection that asked is gone: the owner has its credit, not that of the next one.
        let credit = if connection.is_some() { window } else { 0 };
        self.tell_online(join.session, group, credit);
    }

    /// Tells the owner of a group, wherever it is.
    pub(super) fn tell_owner(&mut self, group: GroupRef, envelope: &Envelope<'_>) {
        if group.owner == self.core.0 {
            self.group_told(envelope);
        } else {
            self.lanes.send(group.owner, envelope, &mut None);
        }
    }

    /// Tells the owner of a group what leans on records of this core, on another one once `commit` is there; whether it waits
    /// for that.
    pub(super) fn tell_owner_behind(
        &mut self,
        group: GroupRef,
        envelope: &Envelope<'_>,
        commit: Commit,
    ) -> bool {
        if group.owner == self.core.0 {
            self.group_told(envelope);
            return false;
        }
        self.lanes.send_behind(group.owner, None, envelope, &mut None, commit)
    }

    /// The session's Client is connected: its groups may send.
    pub(super) fn groups_online(&mut self, session: Key) {
        let Some(state) = self.sessions.get(session) else { return };
        let window = state.window();
        let groups: Vec<GroupRef> = state.groups().collect();
        for group in groups {
            let Some(state) = self.sessions.get(session) else { return };
            let of_group = |message: Option<&Delivery>| message.is_some_and(|delivery| delivery.is_of(group));
            let sent = state.known_flight().into_iter().flat_map(|flight| flight.outbound.iter());
            let started = sent.filter(|(_, _, message)| of_group(*message)).count();
            let credit = usize::from(window).saturating_sub(started).max(1) as u16;
            self.tell_online(session, group, credit);
        }
    }

    /// Tells the owner of a group what it may send to the session. A group keeps nothing for one that ends with its connection:
    /// another core hears of that once it is on the disk.
    fn tell_online(&mut self, session: Key, group: GroupRef, credit: u16) {
        let persistent = self.sessions.get(session).is_some_and(Session::is_persistent);
        let commit = if persistent { Commit::Now } else { self.known_of(session) };
        let member = self.own_session(session);
        let envelope = Envelope::GroupOnline { group, member, credit, persistent };
        self.tell_owner_behind(group, &envelope, commit);
    }

    /// The session's Client is away: what it had not begun or not acknowledged goes to other members.
    pub(super) fn groups_offline(&mut self, session: Key) {
        let Some(state) = self.sessions.get(session) else { return };
        if state.memberships().is_none() && state.known_flight().is_none() {
            return;
        }
        let groups: Vec<GroupRef> = state.groups().collect();
        // What was started for a group that the session has left is its own [MQTT-3.10.4-3].
        let keeps_started = state.is_persistent();
        let member = self.own_session(session);
        for &group in &groups {
            // Behind what waits of the same session, and at once: what it gives back must not come again.
            if self.tell_owner_behind(group, &is_away(group, member), Commit::Now) {
                self.tell_owner(group, &is_away(group, member));
            }
        }
        self.give_back(session, |group| !keeps_started || groups.contains(&group));
    }

    /// Gives messages of shared groups back to their owners: those not started, and those of QoS 1.
    fn give_back(&mut self, session: Key, which: impl Fn(GroupRef) -> bool) {
        let Some(flight) = self.sessions.get_mut(session).and_then(Session::known_flight_mut) else { return };
        let goes = |delivery: &Delivery| delivery.group().is_some_and(|of| which(of.group));
        let mut back = flight.outbound.remove_unacknowledged(|delivery, _, _| goes(delivery));
        back.extend(self.take_queued(session, goes));
        self.return_all(back);
    }

    /// Takes messages off the session's queue. They still count as kept.
    pub(super) fn take_queued(&mut self, session: Key, which: impl Fn(&Delivery) -> bool) -> Vec<Delivery> {
        let Some(flight) = self.sessions.get_mut(session).and_then(Session::known_flight_mut) else {
            return Vec::new();
        };
        let taken = flight.queue.extract(which);
        self.stats.queue_bytes -= taken.iter().map(Delivery::cost).sum::<usize>() as u64;
        taken
    }

    pub(super) fn return_all(&mut self, back: Vec<Delivery>) {
        self.stats.messages_kept -= back.len() as u64;
        // The last goes first, so that the queue's front ends up in order.
        for delivery in back.into_iter().rev() {
            let Some(group) = delivery.group() else { continue };
            self.return_to_group(group, &delivery.message);
        }
        self.drain_due();
    }

    fn return_to_group(&mut self, of: OfGroup, message: &Message) {
        if of.group.owner == self.core.0 {
            self.taken_back(of, Outgoing::with_owned(message.as_ref(), Some(message)));
        } else {
            let envelope = Envelope::GroupReturn { of, message: message.as_ref() };
            self.lanes.send(of.group.owner, &envelope, &mut Some(message.clone()));
        }
    }

    /// The session is done with a message of a shared group, if it was one.
    pub(super) fn credit(&mut self, of: Option<OfGroup>, session: Key) {
        let Some(message) = of else { return };
        let member = self.own_session(session);
        self.tell_owner(message.group, &Envelope::GroupCredit { message, member });
    }

    /// The owner has bound a message to a session of this core.
    pub(super) fn group_delivers(
        &mut self,
        of: OfGroup,
        member: SessionRef,
        outgoing: &mut Outgoing<'_>,
        how: How<'_>,
    ) {
        let group = of.group;
        let key = member.key();
        let state = self.sessions.get(key);
        let connected = state.is_some_and(|session| session.connection().is_some());
        let is_member = state.is_some_and(|session| session.groups().any(|known| known == group));
        if connected && is_member {
            return self.deliver(key, outgoing, how);
        }
        // One that has left gets nothing from its UNSUBACK on [MQTT-3.10.4-2]; its owner hears of that first, as lanes are
        // in order. It may not know of one that is away: a SUBSCRIBE was not answered before its connection ended. Told
        // first, it does not choose the same member again.
        if !connected {
            self.tell_owner(group, &is_away(group, member));
        }
        let message = outgoing.keep(&mut self.spares);
        self.return_to_group(of, &message);
        self.drain_due();
    }

    // The owner's side.

    /// Takes a member in, making the group if it is the first.
    pub(super) fn take_member(&mut self, join: &Envelope<'_>) {
        let Envelope::GroupJoin { token, share, filter, member, options, identifier, credit, persistent } =
            *join
        else {
            return;
        };
        let share = ShareName::new(share).expect("checked with its SUBSCRIBE");
        let id = self.make_group(share, filter);
        let group = self.groups.groups.get_mut(id).expect("just made");
        let is_new = group.members().all(|known| known != member.member());
        group.join(member.member(), options, identifier);
        // From now on: what is published before the member is told waits for it.
        self.set_persistent(id, member, persistent);
        let credit = is_new.then_some(credit);
        let group = self.group_ref(id);
        self.after_barrier(Then::Joined(Joined { member, token, group, credit }));
    }

    /// The group of this name and filter. If it is new, the other cores are told.
    pub(super) fn make_group(&mut self, share: ShareName<'_>, filter: TopicFilter<'_>) -> GroupId {
        if !self.groups.has_filter(filter.as_str()) && self.subscriptions.find(filter).is_none() {
            self.announce(filter, true);
        }
        self.groups.insert(share, filter, self.limits.shared_strategy)
    }

    /// Notes whether a member outlives its connection. With the first that does, the other cores hear that what they send for
    /// the group outlives a crash.
    fn set_persistent(&mut self, id: GroupId, member: SessionRef, persistent: bool) {
        let Some(group) = self.groups.groups.get_mut(id) else { return };
        let before = group.has_persistent();
        group.set_persistent(member.member(), persistent);
        if group.has_persistent() && !before && self.records.keep_anything() {
            let filter = self.groups.filter(id).to_owned();
            self.tell_kept(TopicFilter::new(&filter).expect("it was subscribed to"));
        }
    }

    fn group_ref(&mut self, id: GroupId) -> GroupRef {
        GroupRef { owner: self.core.0, index: id.index(), generation: self.groups.queue(id).generation }
    }

    /// Every core knows of the group: the member is told. What is bound to it comes behind that, so that it knows which
    /// group it is of.
    pub(super) fn tell_joined(&mut self, joined: Joined) {
        let Joined { member, token, group, credit } = joined;
        let id = self.groups.find(group);
        if let Some(credit) = credit
            && let Some(state) = id.and_then(|id| self.groups.groups.get_mut(id))
        {
            state.set_online(member.member(), credit);
        }
        if member.core == self.core.0 {
            self.joined(token, group);
        } else {
            self.lanes.send(member.core, &Envelope::GroupJoined { token, group }, &mut None);
        }
        if let Some(id) = id {
            self.drain_group(id);
        }
    }

    /// A member's home core tells something of it.
    pub(super) fn group_told(&mut self, envelope: &Envelope<'_>) {
        let (Envelope::GroupLeave { group, .. }
        | Envelope::GroupOnline { group, .. }
        | Envelope::GroupCredit { message: OfGroup { group, .. }, .. }) = *envelope
        else {
            return;
        };
        let Some(id) = self.groups.find(group) else { return };
        let state = self.groups.groups.get_mut(id).expect("just found");
        match *envelope {
            Envelope::GroupLeave { member, .. } => {
                state.leave(member.member());
                if state.is_empty() {
                    return self.end_group(id);
                }
            }
            Envelope::GroupOnline { member, credit: 0, .. } => state.set_offline(member.member()),
            Envelope::GroupOnline { member, credit, persistent, .. } => {
                state.set_online(member.member(), credit);
                self.set_persistent(id, member, persistent);
            }
            Envelope::GroupCredit { member, message } => {
                state.add_credit(member.member(), 1);
                let (records, spares) = (&mut self.records, &mut self.spares);
                self.groups.taken(records, spares, self.now, id, message.number);
            }
            _ => {}
        }
        self.drain_group(id);
    }

    /// Ends the groups whose messages outlived their members.
    pub(super) fn end_groups_without_members(&mut self) {
        let groups = self.groups.groups.iter();
        let empty: Vec<GroupId> = groups.filter(|(_, group)| group.is_empty()).map(|(id, _)| id).collect();
        empty.into_iter().for_each(|id| self.end_group(id));
    }

    fn end_group(&mut self, id: GroupId) {
        let filter = self.groups.filter(id).to_owned();
        let (dropped, bytes) = self.groups.remove(&mut self.records, self.now, id);
        let (dropped, bytes) = (dropped as u64, bytes as u64);
        self.stats.queue_bytes -= bytes;
        self.stats.messages_kept -= dropped;
        self.stats.dropped(DropReason::GroupQueueFull, dropped);
        let filter = TopicFilter::new(&filter).expect("it was subscribed to");
        if !self.groups.has_filter(filter.as_str()) && self.subscriptions.find(filter).is_none() {
            self.announce(filter, false);
        }
    }

    /// Gives a message to every group of this core that matches; whether any does.
    pub(super) fn route_to_groups(&mut self, outgoing: &mut Outgoing<'_>) -> bool {
        if self.groups.is_empty() {
            return false;
        }
        let mut matches = core::mem::take(&mut self.group_matches);
        matches.clear();
        self.groups.groups.matches(outgoing.message.topic, &mut matches);
        let any = !matches.is_empty();
        let publisher = u64::from(outgoing.publisher);
        for &id in &matches {
            self.stats.messages_matched += 1;
            self.give_to_group(id, outgoing, publisher);
        }
        self.group_matches = matches;
        any
    }

    /// Binds a message to a member, or queues it behind those that wait longer.
    fn give_to_group(&mut self, id: GroupId, outgoing: &mut Outgoing<'_>, publisher: u64) {
        let topic = self.homes.hash_of(outgoing.message.topic.as_bytes());
        let waits = !self.groups.queue(id).messages.is_empty();
        let number = self.handover.next_number();
        let Some(group) = self.groups.groups.get_mut(id) else { return };
        if waits || !group.is_ready() {
            return self.queue_for_group(id, outgoing, number);
        }
        let chosen = group.choose(publisher, topic).expect("a member was ready");
        // What is delivered at QoS 0 is over at once.
        let mut kept = None;
        if chosen.options.qos > Qos::AtMostOnce {
            kept = self.groups.record(&mut self.records, self.now, id, number, outgoing);
        }
        if kept.is_some() {
            let message = outgoing.keep(&mut self.spares);
            self.groups.queue(id).messages.bind(number, message);
        }
        self.bind(id, chosen, outgoing, (number, kept));
    }

    /// Queues a message that no member can take now.
    fn queue_for_group(&mut self, id: GroupId, outgoing: &mut Outgoing<'_>, number: u64) {
        let online = self.groups.groups.get(id).map_or(0, |group| group.online());
        if outgoing.message.qos == Qos::AtMostOnce && online == 0 {
            return self.stats.dropped(DropReason::Offline, 1);
        }
        let kept = self.groups.record(&mut self.records, self.now, id, number, outgoing);
        let message = outgoing.keep(&mut self.spares);
        self.wait_in_group(id, Waiting { number, kept, message });
    }

    /// A message waits in its group. The oldest are dropped for it if there is no room.
    fn wait_in_group(&mut self, id: GroupId, waiting: Waiting) {
        let (cost, limits) = (waiting.message.cost(), self.limits.clone());
        let full = self.memory_is_full(cost);
        let mut dropped = 0;
        let mut freed = 0;
        loop {
            let messages = &mut self.groups.queue(id).messages;
            let fits = !full
                && messages.len() < limits.group_queue_messages_max as usize
                && (messages.bytes() + cost) as u64 <= limits.group_queue_bytes_max;
            if fits || full && freed >= cost {
                break;
            }
            let Some(oldest) = messages.pop() else { break };
            freed += oldest.message.cost();
            dropped += 1;
            self.groups.dropped(&mut self.records, self.now, id, &oldest);
        }
        self.groups.queue(id).messages.wait(waiting);
        self.stats.queue_bytes = self.stats.queue_bytes + cost as u64 - freed as u64;
        self.stats.messages_kept = self.stats.messages_kept + 1 - dropped;
        self.stats.dropped(DropReason::GroupQueueFull, dropped);
    }

    /// Sends a message to the chosen member: its number, and when the store has it if that was told.
    fn bind(
        &mut self,
        id: GroupId,
        chosen: Chosen,
        outgoing: &mut Outgoing<'_>,
        (number, kept): (u64, Option<Commit>),
    ) {
        let of = OfGroup { group: self.group_ref(id), number, is_kept: kept.is_some() };
        let member =
            SessionRef { core: chosen.id.core, index: chosen.id.key, generation: chosen.id.generation };
        // [MQTT-4.8.2-3]
        let qos = chosen.options.qos.min(outgoing.message.qos);
        let retain = chosen.options.retain_as_published && outgoing.message.retain;
        let identifier = chosen.identifier;
        if member.core == self.core.0 {
            let identifiers: &[u32] = if identifier == 0 { &[] } else { &[identifier] };
            let how = How { qos, retain, identifiers, group: Some(of), paced: false };
            return self.group_delivers(of, member, outgoing, how);
        }
        let message: MessageRef<'_> = outgoing.message;
        let envelope = Envelope::GroupDeliver { of, member, qos, retain, identifier, message };
        if qos != Qos::ExactlyOnce {
            self.lanes.send(member.core, &envelope, &mut outgoing.owned);
            return;
        }
        // The member's core may have begun only what this one knows of after a crash. What is not kept keeps its place.
        let commit = kept.unwrap_or(Commit::Now);
        self.lanes.send_behind(member.core, None, &envelope, &mut outgoing.owned, commit);
    }

    /// A member's core gives a message back. It waits in its old place until [`Shard::drain_due`], since those before it
    /// follow.
    pub(super) fn taken_back(&mut self, of: OfGroup, mut outgoing: Outgoing<'_>) {
        let Some(id) = self.groups.find(of.group) else {
            return self.stats.dropped(DropReason::GroupQueueFull, 1);
        };
        let number = of.number;
        let known = self.groups.queue(id).messages.unbind(number);
        let kept = known.is_some().then(|| self.records.all());
        let online = self.groups.groups.get(id).map_or(0, |group| group.online());
        if outgoing.message.qos == Qos::AtMostOnce && online == 0 {
            return self.stats.dropped(DropReason::Offline, 1);
        }
        let message = known.unwrap_or_else(|| outgoing.keep(&mut self.spares));
        self.wait_in_group(id, Waiting { number, kept, message });
        self.groups.is_due(id);
    }

    /// Binds queued messages as long as a member can take one. A member of this core may be done with a message at
    /// once and ask for the next: that is noted and done here, so that the depth of calls does not grow with the queue.
    pub(super) fn drain_group(&mut self, id: GroupId) {
        self.groups.is_due(id);
        self.drain_due();
    }

    /// Drains the groups that have something for their members.
    pub(super) fn drain_due(&mut self) {
        if core::mem::replace(&mut self.groups.draining, true) {
            return;
        }
        while let Some(id) = self.groups.due.pop() {
            self.drain_queue(id);
        }
        self.groups.draining = false;
    }

    fn drain_queue(&mut self, id: GroupId) {
        let now = self.now.millis;
        loop {
            let Some(group) = self.groups.groups.get_mut(id) else { return };
            if !group.is_ready() {
                return;
            }
            let Some(first) = self.groups.queue(id).messages.pop() else { return };
            self.stats.queue_bytes -= first.message.cost() as u64;
            self.stats.messages_kept -= 1;
            if first.message.is_expired(now) {
                self.groups.dropped(&mut self.records, self.now, id, &first);
                self.stats.dropped(DropReason::Expired, 1);
                continue;
            }
            let Waiting { number, kept, message } = first;
            let topic = self.homes.hash_of(message.as_ref().topic.as_bytes());
            let chosen = self.groups.groups.get_mut(id).and_then(|group| group.choose(0, topic));
            if kept.is_some() {
                self.groups.queue(id).messages.bind(number, message.clone());
            }
            let mut outgoing = Outgoing::with_owned(message.as_ref(), Some(&message));
            self.bind(id, chosen.expect("a member was ready"), &mut outgoing, (number, kept));
        }
    }
}

pub(super) fn is_away(group: GroupRef, member: SessionRef) -> Envelope<'static> {
    Envelope::GroupOnline { group, member, credit: 0, persistent: false }
}
