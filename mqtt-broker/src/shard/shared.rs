//! Shared Subscriptions (section 4.8), both ends.
//!
//! A group has one owner core, found by hash. The owner announces the group's filter as its own interest, so every
//! matching message reaches it; it binds each to one member that is online and has credit, or queues it, bounded.
//! The member's home core delivers and gives the credit back when the Client is done with the message. When the
//! Client goes away, its QoS 1 messages and what was not started go back to the owner and from there to another
//! member; QoS 2 already started stays with its session [MQTT-4.8.2-4] [MQTT-4.8.2-5].

use std::collections::VecDeque;

use mqtt_proto::packet::SubscriptionOptions;
use mqtt_proto::types::{Qos, ShareName, SharedFilter, TopicFilter};

use super::barrier::Then;
use super::deliver::{How, Outgoing};
use super::envelope::{Envelope, GroupRef, SessionRef};
use super::queue::Delivery;
use super::session::Session;
use super::stats::DropReason;
use super::table::Key;
use super::{ConnectionId, Shard};
use crate::message::{Message, MessageRef};
use crate::router::{Chosen, GroupId, Groups, MemberId, Strategy, Subscriber};

/// The groups that this core owns, with the messages that no member can take now.
pub(super) struct OwnedGroups {
    groups: Groups,
    queues: Vec<GroupQueue>,
    /// Groups whose queues may have something for a member, while one of them is being drained.
    due: Vec<GroupId>,
    draining: bool,
}

#[derive(Default)]
struct GroupQueue {
    /// Tells the group from an earlier one under the same id.
    generation: u32,
    messages: VecDeque<Message>,
    bytes: usize,
}

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

impl OwnedGroups {
    pub(super) fn new(seed: [u64; 4]) -> OwnedGroups {
        OwnedGroups { groups: Groups::new(seed), queues: Vec::new(), due: Vec::new(), draining: false }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Whether a group has this filter, so that this core's interest in it stays.
    pub(super) fn has_filter(&self, filter: &str) -> bool {
        TopicFilter::new(filter).is_ok_and(|filter| self.groups.has_filter(filter))
    }

    /// Messages and bytes that wait for members.
    pub(super) fn kept(&self) -> (usize, usize) {
        self.queues
            .iter()
            .fold((0, 0), |(count, bytes), queue| (count + queue.messages.len(), bytes + queue.bytes))
    }

    fn queue(&mut self, id: GroupId) -> &mut GroupQueue {
        let index = id.index() as usize;
        if self.queues.len() <= index {
            self.queues.resize_with(index + 1, GroupQueue::default);
        }
        &mut self.queues[index]
    }

    /// Notes that the group's queue may have something for a member.
    fn is_due(&mut self, id: GroupId) {
        if !self.due.contains(&id) {
            self.due.push(id);
        }
    }

    /// The group that `reference` names, unless it is gone.
    fn find(&mut self, reference: GroupRef) -> Option<GroupId> {
        let id = GroupId::from_index(reference.index);
        (self.groups.get(id).is_some() && self.queue(id).generation == reference.generation).then_some(id)
    }
}

impl SessionRef {
    fn member(self) -> MemberId {
        MemberId { core: self.core, key: self.index, generation: self.generation }
    }

    fn key(self) -> Key {
        Key { index: self.index, generation: self.generation }
    }
}

impl Shard {
    fn own_session(&self, session: Key) -> SessionRef {
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
            let credit = self.sessions.get(join.session).map_or(0, Session::window);
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
            };
            if owner == self.core.0 {
                self.take_member(token, share_name, shared.filter, member, options, identifier, credit);
            } else {
                self.lanes.send(owner, &envelope, &mut None);
            }
        }
    }

    /// The owner has taken the session in, and every core knows of the group.
    pub(super) fn joined(&mut self, token: u64, group: GroupRef) {
        let Some(join) = self.joins.remove(&token) else { return };
        let member = self.own_session(join.session);
        let state = self.sessions.get_mut(join.session);
        let connection = state.as_ref().and_then(|state| state.connection());
        let window = state.as_ref().map_or(0, |state| state.window());
        if !state.is_some_and(|state| state.joined(&join.text, group)) {
            // Unsubscribed, or ended, meanwhile; a Client that waits for its SUBACK gets it nevertheless [MQTT-3.8.4-1].
            self.tell_owner(group, &Envelope::GroupLeave { group, member });
            return self.pending_done(join.connection, join.serial);
        }
        if connection == Some(join.connection.into()) {
            return self.pending_done(join.connection, join.serial);
        }
        // The connection that asked is gone: the owner has its credit, not that of the next one.
        let credit = if connection.is_some() { window } else { 0 };
        self.tell_owner(group, &Envelope::GroupOnline { group, member, credit });
    }

    /// Tells the owner of a group, wherever it is.
    fn tell_owner(&mut self, group: GroupRef, envelope: &Envelope<'_>) {
        if group.owner == self.core.0 {
            self.group_told(envelope);
        } else {
            self.lanes.send(group.owner, envelope, &mut None);
        }
    }

    /// The session's Client is connected: its groups may send.
    pub(super) fn groups_online(&mut self, session: Key) {
        let Some(state) = self.sessions.get(session) else { return };
        let window = state.window();
        let groups: Vec<GroupRef> = state.groups().collect();
        for group in groups {
            let Some(state) = self.sessions.get(session) else { return };
            let of_group =
                |message: Option<&Delivery>| message.is_some_and(|delivery| delivery.group() == Some(group));
            let sent = state.known_flight().into_iter().flat_map(|flight| flight.outbound.iter());
            let started = sent.filter(|(_, _, message)| of_group(*message)).count();
            let credit = usize::from(window).saturating_sub(started).max(1) as u16;
            let member = self.own_session(session);
            self.tell_owner(group, &Envelope::GroupOnline { group, member, credit });
        }
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
            self.tell_owner(group, &Envelope::GroupOnline { group, member, credit: 0 });
        }
        self.give_back(session, |group| !keeps_started || groups.contains(&group));
    }

    /// Gives messages of shared groups back to their owners: those not started, and those of QoS 1.
    fn give_back(&mut self, session: Key, which: impl Fn(GroupRef) -> bool) {
        let Some(flight) = self.sessions.get_mut(session).and_then(Session::known_flight_mut) else { return };
        let goes = |delivery: &Delivery| delivery.group().is_some_and(&which);
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

    fn return_all(&mut self, back: Vec<Delivery>) {
        self.stats.messages_kept -= back.len() as u64;
        // The last goes first, so that the queue's front ends up in order.
        for delivery in back.into_iter().rev() {
            let Some(group) = delivery.group() else { continue };
            self.return_to_group(group, &delivery.message);
        }
        self.drain_due();
    }

    fn return_to_group(&mut self, group: GroupRef, message: &Message) {
        if group.owner == self.core.0 {
            self.taken_back(group, Outgoing::with_owned(message.as_ref(), Some(message)));
        } else {
            let envelope = Envelope::GroupReturn { group, message: message.as_ref() };
            self.lanes.send(group.owner, &envelope, &mut Some(message.clone()));
        }
    }

    /// The session leaves a group.
    pub(super) fn end_membership(&mut self, session: Key, group: Option<GroupRef>) {
        let Some(group) = group else { return };
        let member = self.own_session(session);
        self.tell_owner(group, &Envelope::GroupLeave { group, member });
        // What has been started is completed [MQTT-3.10.4-3].
        let back = self.take_queued(session, |delivery| delivery.group() == Some(group));
        self.return_all(back);
    }

    /// The session is done with a message of `group`, if it was one.
    pub(super) fn credit(&mut self, group: Option<GroupRef>, session: Key) {
        let Some(group) = group else { return };
        let member = self.own_session(session);
        self.tell_owner(group, &Envelope::GroupCredit { group, member, count: 1 });
    }

    /// The owner has bound a message to a session of this core.
    pub(super) fn group_delivers(
        &mut self,
        group: GroupRef,
        member: SessionRef,
        outgoing: &mut Outgoing<'_>,
        how: How<'_>,
    ) {
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
            self.tell_owner(group, &Envelope::GroupOnline { group, member, credit: 0 });
        }
        let message = outgoing.keep(&mut self.spares);
        self.return_to_group(group, &message);
        self.drain_due();
    }

    // The owner's side.

    /// Takes a member in, making the group if it is the first.
    #[expect(clippy::too_many_arguments, reason = "the fields of one envelope")]
    pub(super) fn take_member(
        &mut self,
        token: u64,
        share: ShareName<'_>,
        filter: TopicFilter<'_>,
        member: SessionRef,
        options: SubscriptionOptions,
        identifier: u32,
        credit: u16,
    ) {
        let is_new_group = self.groups.groups.find(share, filter).is_none();
        if is_new_group
            && !self.groups.has_filter(filter.as_str())
            && self.subscriptions.find(filter).is_none()
        {
            self.announce(filter, true);
        }
        if is_new_group && self.records.keep_anything() {
            self.tell_kept(filter);
        }
        let strategy: Strategy = self.limits.shared_strategy;
        let id = self.groups.groups.insert(share, filter, strategy);
        let group = self.groups.groups.get_mut(id).expect("just inserted");
        let is_new = group.members().all(|known| known != member.member());
        group.join(member.member(), options, identifier);
        let credit = is_new.then_some(credit);
        let generation = self.groups.queue(id).generation;
        let group = GroupRef { owner: self.core.0, index: id.index(), generation };
        self.after_barrier(Then::Joined(Joined { member, token, group, credit }));
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
        | Envelope::GroupCredit { group, .. }) = *envelope
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
            Envelope::GroupOnline { member, credit, .. } => state.set_online(member.member(), credit),
            Envelope::GroupCredit { member, count, .. } => state.add_credit(member.member(), count),
            _ => {}
        }
        self.drain_group(id);
    }

    fn end_group(&mut self, id: GroupId) {
        let filter = self.groups.groups.name(id).map(|(_, filter)| filter.to_owned()).unwrap_or_default();
        self.groups.groups.remove(id);
        let queue = self.groups.queue(id);
        queue.generation = queue.generation.wrapping_add(1);
        let (dropped, bytes) = (queue.messages.len() as u64, queue.bytes as u64);
        (queue.messages, queue.bytes) = (VecDeque::new(), 0);
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
        let waiting = !self.groups.queue(id).messages.is_empty();
        let Some(group) = self.groups.groups.get_mut(id) else { return };
        if !waiting && let Some(chosen) = group.choose(publisher, topic) {
            return self.bind(id, chosen, outgoing);
        }
        self.queue_for_group(id, outgoing, false);
    }

    /// Queues a message that no member can take now: at the front if it was bound before.
    fn queue_for_group(&mut self, id: GroupId, outgoing: &mut Outgoing<'_>, front: bool) {
        let online = self.groups.groups.get(id).map_or(0, |group| group.online());
        if outgoing.message.qos == Qos::AtMostOnce && online == 0 {
            return self.stats.dropped(DropReason::Offline, 1);
        }
        let message = outgoing.keep(&mut self.spares);
        let (cost, limits) = (message.cost(), self.limits.clone());
        let full = self.memory_is_full(cost);
        let queue = self.groups.queue(id);
        let mut dropped = 0;
        let mut freed = 0;
        while !queue.messages.is_empty()
            && (full
                || queue.messages.len() >= limits.group_queue_messages_max as usize
                || (queue.bytes + cost) as u64 > limits.group_queue_bytes_max)
        {
            let Some(oldest) = queue.messages.pop_front() else { break };
            freed += oldest.cost();
            queue.bytes -= oldest.cost();
            dropped += 1;
            if full && freed >= cost {
                break;
            }
        }
        match front {
            true => queue.messages.push_front(message),
            false => queue.messages.push_back(message),
        }
        queue.bytes += cost;
        self.stats.queue_bytes = self.stats.queue_bytes + cost as u64 - freed as u64;
        self.stats.messages_kept = self.stats.messages_kept + 1 - dropped;
        self.stats.dropped(DropReason::GroupQueueFull, dropped);
    }

    /// Sends a message to the chosen member.
    fn bind(&mut self, id: GroupId, chosen: Chosen, outgoing: &mut Outgoing<'_>) {
        let group =
            GroupRef { owner: self.core.0, index: id.index(), generation: self.groups.queue(id).generation };
        let member =
            SessionRef { core: chosen.id.core, index: chosen.id.key, generation: chosen.id.generation };
        // [MQTT-4.8.2-3]
        let qos = chosen.options.qos.min(outgoing.message.qos);
        let retain = chosen.options.retain_as_published && outgoing.message.retain;
        let identifier = chosen.identifier;
        if member.core == self.core.0 {
            let identifiers: &[u32] = if identifier == 0 { &[] } else { &[identifier] };
            let how = How { qos, retain, identifiers, group: Some(group), paced: false };
            return self.group_delivers(group, member, outgoing, how);
        }
        let message: MessageRef<'_> = outgoing.message;
        let envelope = Envelope::GroupDeliver { group, member, qos, retain, identifier, message };
        self.lanes.send(member.core, &envelope, &mut outgoing.owned);
    }

    /// A member's core gives a message back. It waits in front until [`Shard::drain_due`], since those before it follow.
    pub(super) fn taken_back(&mut self, group: GroupRef, mut outgoing: Outgoing<'_>) {
        match self.groups.find(group) {
            Some(id) => {
                self.queue_for_group(id, &mut outgoing, true);
                self.groups.is_due(id);
            }
            None => self.stats.dropped(DropReason::GroupQueueFull, 1),
        }
    }

    /// Binds queued messages as long as a member can take one. A member of this core may be done with a message at
    /// once and ask for the next: that is noted and done here, so that the depth of calls does not grow with the queue.
    fn drain_group(&mut self, id: GroupId) {
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
            let queue = self.groups.queue(id);
            let Some(message) = queue.messages.pop_front() else { return };
            queue.bytes -= message.cost();
            self.stats.queue_bytes -= message.cost() as u64;
            self.stats.messages_kept -= 1;
            if message.is_expired(now) {
                self.stats.dropped(DropReason::Expired, 1);
                continue;
            }
            let topic = self.homes.hash_of(message.as_ref().topic.as_bytes());
            let chosen = self.groups.groups.get_mut(id).and_then(|group| group.choose(0, topic));
            let mut outgoing = Outgoing::with_owned(message.as_ref(), Some(&message));
            self.bind(id, chosen.expect("a member was ready"), &mut outgoing);
        }
    }
}
