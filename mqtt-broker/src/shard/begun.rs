//! QoS 2 messages of shared groups that sessions have begun [MQTT-4.8.2-4]: from then on a message is its session's, and the
//! group's core is done with it.
//!
//! Where that is this core, one log says both. Another core has the message in its own log; this one writes beside what the
//! session keeps that the message is begun, and at a start the logs are compared. The group's core hears of it when the
//! Client has taken the message over, or the session has ended. Until what it then writes is committed, this core tells each
//! of its snapshots what was begun.
//!
//! Invariant: what is remembered here the group's core has in its log, on the disk: it hands nothing over before that. There
//! is no more of it than the send windows of sessions have room for, and what is on its way to other cores and back.
//! Lives on: the home core of the sessions.

use std::collections::BTreeSet;
use std::ops::Bound;

use mqtt_proto::types::Qos;

use super::Shard;
use super::contract::Now;
use super::envelope::{Envelope, OfGroup, SessionRef};
use super::lanes::Noted;
use super::owned_groups::OwnedGroups;
use super::queue::Delivery;
use super::records::Records;
use super::session::Session;
use super::table::Key;
use crate::config::CoreId;
use crate::message::Spares;
use crate::ports::Commit;
use crate::store::record::Record;

/// What sessions of this core have begun.
#[derive(Debug)]
pub(super) struct Begun {
    core: CoreId,
    /// Messages of other cores' groups, by that core and their number there.
    of_others: BTreeSet<(u16, u64)>,
}

impl Begun {
    pub(super) fn new(core: CoreId) -> Begun {
        Begun { core, of_others: BTreeSet::new() }
    }

    pub(super) fn insert(&mut self, owner: u16, number: u64) {
        self.of_others.insert((owner, number));
    }

    pub(super) fn has(&self, of: OfGroup) -> bool {
        self.of_others.contains(&(of.group.owner, of.number))
    }

    /// The group's core knows for good.
    pub(super) fn forget(&mut self, owner: CoreId, number: u64) {
        self.of_others.remove(&(owner.0, number));
    }

    /// Those of this core's groups.
    pub(super) fn of(&self, owner: u16) -> impl Iterator<Item = u64> {
        self.of_others.range((owner, 0)..=(owner, u64::MAX)).map(|&(_, number)| number)
    }

    /// Those behind this one, in order.
    pub(super) fn behind(&self, last: (u16, u64)) -> impl Iterator<Item = (u16, u64)> {
        self.of_others.range((Bound::Excluded(last), Bound::Unbounded)).copied()
    }

    /// A session of this core begins to send this message at QoS 2, behind the record of that if the session `is_recorded`.
    pub(super) fn begin(
        &mut self,
        groups: &mut OwnedGroups,
        records: &mut Records,
        spares: &mut Spares,
        now: Now,
        of: OfGroup,
        is_recorded: bool,
    ) -> Commit {
        // What a session that ends with its connection has begun is nobody's after a crash, so it waits in its group again.
        if !of.is_kept || !is_recorded {
            return Commit::Now;
        }
        let owner = of.group.owner;
        if owner == self.core.0 {
            let Some(id) = groups.find(of.group) else { return Commit::Now };
            return groups.made_own(records, spares, now, id, of.number);
        }
        self.insert(owner, of.number);
        records.append(now, &Record::GroupBegun { core: owner, number: of.number })
    }
}

impl Shard {
    /// The session is done with what it was sent.
    pub(super) fn credit_sent(&mut self, delivery: &Delivery, session: Key) {
        match delivery.group() {
            Some(of) if delivery.qos == Qos::ExactlyOnce && self.begun.has(of) => {
                self.tell_done(of, session, Commit::Now);
            }
            of => self.credit(of, session),
        }
    }

    /// The group's core is told, once `commit` is there, that the session is done with what it has begun.
    fn tell_done(&mut self, message: OfGroup, session: Key, commit: Commit) {
        let envelope = Envelope::GroupDone { message, member: self.own_session(session) };
        let noted = Some(Noted::Begun(message.number));
        self.lanes.send_behind(message.group.owner, noted, &envelope, &mut None, commit);
    }

    /// The session ends, of which the store was told just now: nobody else gets what it has begun [MQTT-4.8.2-5].
    pub(super) fn end_begun(&mut self, session: Key) {
        let commit = self.known_of(session);
        let Some(flight) = self.sessions.get(session).and_then(Session::known_flight) else { return };
        let sent = flight.outbound.iter().filter_map(|(_, _, delivery)| delivery);
        let begun = sent.filter(|delivery| delivery.qos == Qos::ExactlyOnce).filter_map(Delivery::group);
        let begun: Vec<OfGroup> = begun.filter(|of| of.is_kept).collect();
        for of in begun {
            if self.begun.has(of) {
                self.tell_done(of, session, commit);
            } else {
                self.credit(Some(of), session);
            }
        }
    }

    /// A member's core says that a message which was begun is done with; when the store has that for good.
    pub(super) fn group_done(&mut self, message: OfGroup, member: SessionRef) -> Commit {
        if let Some(id) = self.groups.find(message.group) {
            if let Some(group) = self.groups.groups.get_mut(id) {
                group.add_credit(member.member(), 1);
            }
            let (records, spares) = (&mut self.records, &mut self.spares);
            self.groups.made_own(records, spares, self.now, id, message.number);
            self.drain_group(id);
        }
        // What has ended the group has told it before.
        self.records.all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_is_told_core_by_core_in_order() {
        let mut begun = Begun::new(CoreId(0));
        for (owner, number) in [(2, 7), (0, 9), (2, 3), (0, 9), (1, u64::MAX)] {
            begun.insert(owner, number);
        }
        let behind = |begun: &Begun, last| begun.behind(last).collect::<Vec<_>>();
        assert_eq!(behind(&begun, (0, 0)), [(0, 9), (1, u64::MAX), (2, 3), (2, 7)]);
        assert_eq!(behind(&begun, (1, u64::MAX)), [(2, 3), (2, 7)]);
        assert!(begun.of(2).eq([3, 7]) && begun.of(3).eq([]));
        begun.forget(CoreId(2), 3);
        begun.forget(CoreId(0), 8);
        assert_eq!(behind(&begun, (0, 0)), [(0, 9), (1, u64::MAX), (2, 7)]);
    }
}
