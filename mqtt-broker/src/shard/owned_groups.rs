//! The shared groups that this core owns, with their messages, and what the store is told of those.
//!
//! A group with a member whose session outlives its connection keeps its QoS 1 and 2 messages in the store, from before a
//! member gets one until that is done with it: at PUBACK, at a drop, or once it is the member's own at QoS 2. Invariant:
//! what the store knows of and is not done with waits here or is remembered as a member's. Lives on: the owner core.

use mqtt_proto::types::{Qos, ShareName, TopicFilter, TopicName};

use super::contract::Now;
use super::deliver::Outgoing;
use super::envelope::GroupRef;
use super::group_messages::{GroupMessages, Waiting};
use super::records::Records;
use crate::message::{Message, Spares};
use crate::ports::Commit;
use crate::router::{GroupId, Groups, Strategy};
use crate::store::record::Record;

/// The groups of one core.
pub(super) struct OwnedGroups {
    pub(super) groups: Groups,
    queues: Vec<GroupQueue>,
    /// Groups whose queues may have something for a member, while one of them is being drained.
    pub(super) due: Vec<GroupId>,
    pub(super) draining: bool,
}

/// What is kept under the id of a group.
#[derive(Default)]
pub(super) struct GroupQueue {
    /// Tells the group from an earlier one under the same id.
    pub(super) generation: u32,
    /// The group's whole filter, `$share/` included.
    name: Box<str>,
    pub(super) messages: GroupMessages,
}

impl OwnedGroups {
    pub(super) fn new(seed: [u64; 4]) -> OwnedGroups {
        let groups = Groups::new(seed);
        OwnedGroups { groups, queues: Vec::new(), due: Vec::new(), draining: false }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Whether a group has this filter, so that this core's interest in it stays.
    pub(super) fn has_filter(&self, filter: &str) -> bool {
        TopicFilter::new(filter).is_ok_and(|filter| self.groups.has_filter(filter))
    }

    /// Whether a group keeps messages to this topic in the store.
    pub(super) fn keep(&self, topic: TopicName<'_>) -> bool {
        let mut matches = Vec::new();
        self.groups.matches(topic, &mut matches);
        matches.into_iter().any(|id| self.groups.get(id).is_some_and(|group| group.has_persistent()))
    }

    /// Messages and bytes that wait for members.
    pub(super) fn kept(&self) -> (usize, usize) {
        self.queues.iter().fold((0, 0), |(count, bytes), queue| {
            (count + queue.messages.len(), bytes + queue.messages.bytes())
        })
    }

    /// The group of `share` and `filter`, made if there is none.
    pub(super) fn insert(
        &mut self,
        share: ShareName<'_>,
        filter: TopicFilter<'_>,
        strategy: Strategy,
    ) -> GroupId {
        if let Some(known) = self.groups.find(share, filter) {
            return known;
        }
        let id = self.groups.insert(share, filter, strategy);
        self.queue(id).name = format!("$share/{}/{}", share.as_str(), filter.as_str()).into();
        id
    }

    /// The Topic Filter of a group, empty if there is none.
    pub(super) fn filter(&self, id: GroupId) -> &str {
        self.groups.name(id).map_or("", |(_, filter)| filter)
    }

    /// Forgets a group and all that waits in it; how many messages that were, and their bytes.
    pub(super) fn remove(&mut self, records: &mut Records, now: Now, id: GroupId) -> (usize, usize) {
        self.groups.remove(id);
        let queue = self.queue(id);
        queue.generation = queue.generation.wrapping_add(1);
        let (group, messages) = (core::mem::take(&mut queue.name), core::mem::take(&mut queue.messages));
        // What members have begun may be told as done with behind this.
        for (number, _) in messages.recorded_behind(0) {
            records.append(now, &Record::GroupTaken { group: &group, number });
        }
        (messages.len(), messages.bytes())
    }

    pub(super) fn queue(&mut self, id: GroupId) -> &mut GroupQueue {
        let index = id.index() as usize;
        if self.queues.len() <= index {
            self.queues.resize_with(index + 1, GroupQueue::default);
        }
        &mut self.queues[index]
    }

    /// Notes that the group's queue may have something for a member.
    pub(super) fn is_due(&mut self, id: GroupId) {
        if !self.due.contains(&id) {
            self.due.push(id);
        }
    }

    /// The group that `reference` names, unless it is gone.
    pub(super) fn find(&mut self, reference: GroupRef) -> Option<GroupId> {
        let id = GroupId::from_index(reference.index);
        (self.groups.get(id).is_some() && self.queue(id).generation == reference.generation).then_some(id)
    }

    /// Tells the store that the message is kept by the group, if it is to outlive the process; when the store has it then.
    pub(super) fn record(
        &self,
        records: &mut Records,
        now: Now,
        id: GroupId,
        number: u64,
        outgoing: &mut Outgoing<'_>,
    ) -> Option<Commit> {
        let keeps = outgoing.message.qos > Qos::AtMostOnce
            && records.keep_anything()
            && self.groups.get(id).is_some_and(|group| group.has_persistent());
        keeps.then(|| {
            let group = &*self.queues[id.index() as usize].name;
            records.keep_outgoing(now, outgoing, &Record::GroupQueued { group, number })
        })
    }

    /// A member is done with a message. Nobody waits for that: what is not told before a crash comes once more.
    pub(super) fn taken(
        &mut self,
        records: &mut Records,
        spares: &mut Spares,
        now: Now,
        id: GroupId,
        number: u64,
    ) {
        if let Some(group) = self.unbind(spares, id, number) {
            records.append_later(now, &Record::GroupTaken { group, number });
        }
    }

    /// A message is a member's own from now on, and told beside what that keeps.
    pub(super) fn made_own(
        &mut self,
        records: &mut Records,
        spares: &mut Spares,
        now: Now,
        id: GroupId,
        number: u64,
    ) -> Commit {
        match self.unbind(spares, id, number) {
            Some(group) => records.append(now, &Record::GroupTaken { group, number }),
            None => Commit::Now,
        }
    }

    /// Forgets a message that a member has; the group's name if the store was told of it.
    fn unbind(&mut self, spares: &mut Spares, id: GroupId, number: u64) -> Option<&str> {
        let queue = self.queue(id);
        spares.take_back(queue.messages.unbind(number)?);
        Some(&queue.name)
    }

    /// A message that waited, or is not to wait, is dropped.
    pub(super) fn dropped(&mut self, records: &mut Records, now: Now, id: GroupId, waiting: &Waiting) {
        if waiting.kept.is_some() {
            let group = &*self.queue(id).name;
            records.append_later(now, &Record::GroupTaken { group, number: waiting.number });
        }
    }

    /// A message that waited when the process ended.
    pub(super) fn put_back(&mut self, id: GroupId, number: u64, message: Message) {
        self.queue(id).messages.wait(Waiting { number, kept: Some(Commit::Now), message });
    }

    /// The name of the group at `index`, and what it keeps in the store behind `number`, in order. `None` behind the last
    /// group.
    pub(super) fn recorded_behind(
        &self,
        index: usize,
        number: u64,
    ) -> Option<(&str, impl Iterator<Item = (u64, &Message)>)> {
        let queue = self.queues.get(index)?;
        Some((&queue.name, queue.messages.recorded_behind(number)))
    }

    pub(super) fn check_invariants(&self) {
        self.queues.iter().for_each(|queue| queue.messages.check_invariants());
    }
}
