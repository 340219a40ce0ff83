//! The send window: QoS 1 and 2 messages on their way to the peer.
//!
//! Invariants: entries lie in the order in which their PUBLISH was first sent; a Packet Identifier occurs in one
//! live entry at most; the entries sent on this Network Connection are those before the resend cursor, and new ones
//! are started only when nothing is left behind it, so resending keeps the order [MQTT-4.6.0-1] and the send quota
//! of section 4.9 is Receive Maximum less the live entries before the cursor. Lives on: the home core.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::types::{PacketId, Qos, ReasonCode};

/// What a message waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// QoS 1, PUBLISH sent: waits for PUBACK.
    AwaitPubAck,
    /// QoS 2, PUBLISH sent: waits for PUBREC.
    AwaitPubRec,
    /// QoS 2, PUBREL sent: waits for PUBCOMP; the message itself is no longer needed.
    AwaitPubComp,
}

impl Phase {
    /// The quality of service of a flow in this phase.
    pub const fn qos(self) -> Qos {
        match self {
            Phase::AwaitPubAck => Qos::AtLeastOnce,
            Phase::AwaitPubRec | Phase::AwaitPubComp => Qos::ExactlyOnce,
        }
    }
}

/// A packet to send again on a new Network Connection [MQTT-4.4.0-1].
#[derive(Debug, PartialEq, Eq)]
pub enum Resend<'a, M> {
    /// PUBLISH under its original Packet Identifier.
    Publish {
        /// The original Packet Identifier.
        packet_id: PacketId,
        /// The DUP flag: whether it was sent before [MQTT-3.3.1-1].
        dup: bool,
        /// The original QoS.
        qos: Qos,
        /// The message.
        message: &'a M,
    },
    /// PUBREL: its PUBREC has come on an earlier connection, so PUBLISH must not be sent again [MQTT-4.3.3-6].
    PubRel {
        /// The original Packet Identifier.
        packet_id: PacketId,
    },
}

/// What a PUBREC means.
#[derive(Debug, PartialEq, Eq)]
pub enum PubRec<M> {
    /// Send PUBREL [MQTT-4.3.3-4]. The message is no longer needed; `None` if the PUBREC came twice.
    Release(Option<M>),
    /// The peer refused the message: the flow is over, the Packet Identifier free [MQTT-4.4.0-2].
    Refused(M),
}

/// What became of a message that cannot be sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Discarded<M> {
    /// The flow is over, the Packet Identifier free.
    Done(M),
    /// An earlier connection carried the QoS 2 PUBLISH, the peer may hold its identifier: send PUBREL. Reusing the
    /// identifier without it would make the next message a duplicate.
    Release(M),
}

/// An acknowledgement whose Packet Identifier is not in use, or not in the phase that it acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no delivery under Packet Identifier {0} waits for this acknowledgement")]
pub struct UnknownPacketId(pub PacketId);

/// The sending half of a session.
#[derive(Clone, Debug)]
pub struct Outbound<M> {
    entries: VecDeque<Entry<M>>,
    /// Entries whose flow is under way; the others are tombstones.
    live: u32,
    /// Live entries at or behind `cursor`: to be sent again.
    unsent: u32,
    /// The first entry that this Network Connection has not carried; meaningful while `unsent > 0`.
    cursor: u32,
    receive_maximum: u16,
    next_id: PacketId,
    /// Identifiers ascend cyclically from that of the front, so binary search finds them.
    sorted: bool,
}

#[derive(Clone, Debug)]
struct Entry<M> {
    id: PacketId,
    /// `None`: a tombstone.
    phase: Option<Phase>,
    /// A PUBLISH was sent, be it on an earlier connection.
    sent: bool,
    /// Present until PUBACK or PUBREC.
    message: Option<M>,
}

/// Capacity above which an empty window gives its memory back by itself.
const KEPT_CAPACITY: usize = 64;

impl<M> Outbound<M> {
    /// An empty window, closed until [`Outbound::restart`]: the quota comes with a Network Connection.
    pub const fn new() -> Outbound<M> {
        Outbound::beginning_at(PacketId::FIRST)
    }

    /// An empty window whose first message gets the identifier `next_id`: one that was empty may be forgotten, and its
    /// identifiers gone on with [`Outbound::peek_id`].
    pub const fn beginning_at(next_id: PacketId) -> Outbound<M> {
        Outbound {
            entries: VecDeque::new(),
            live: 0,
            unsent: 0,
            cursor: 0,
            receive_maximum: 0,
            next_id,
            sorted: true,
        }
    }

    /// A Network Connection begins: the send quota is the peer's Receive Maximum [MQTT-4.9.0-1], and everything
    /// unacknowledged is to be sent again.
    pub fn restart(&mut self, receive_maximum: u16) {
        self.receive_maximum = receive_maximum;
        self.cursor = 0;
        self.unsent = self.live;
        self.compact();
        self.check_invariants();
    }

    /// The next packet to send again, in the original order [MQTT-4.4.0-1] [MQTT-4.6.0-1].
    ///
    /// `None` when there is none, or when the send quota does not allow another PUBLISH now: call again after an
    /// acknowledgement. A PUBREL is never held back by the quota [MQTT-3.3.4-8], but counts against it until its
    /// PUBCOMP, since the peer may still count its PUBLISH [MQTT-3.3.4-9].
    pub fn poll_resend(&mut self) -> Option<Resend<'_, M>> {
        if self.unsent == 0 {
            return None;
        }
        let at = (self.cursor as usize..self.entries.len())
            .find(|&at| self.entries[at].phase.is_some())
            .expect("unsent counts the live entries behind the cursor");
        let quota_left = self.sent_now() < u32::from(self.receive_maximum);
        let entry = &mut self.entries[at];
        let phase = entry.phase?;
        if phase != Phase::AwaitPubComp && !quota_left {
            return None;
        }
        self.cursor = at as u32 + 1;
        self.unsent -= 1;
        let packet_id = entry.id;
        match &entry.message {
            Some(message) => {
                let dup = core::mem::replace(&mut entry.sent, true);
                Some(Resend::Publish { packet_id, dup, qos: phase.qos(), message })
            }
            None => Some(Resend::PubRel { packet_id }),
        }
    }

    /// Whether a message may be started: resending is through, quota is left and so is an unused identifier.
    pub fn can_start(&self) -> bool {
        self.unsent == 0 && self.live < u32::from(self.receive_maximum)
    }

    /// Starts the delivery of `message` under an unused Packet Identifier [MQTT-2.2.1-3] [MQTT-2.2.1-4], or hands it
    /// back where [`Outbound::can_start`] says no [MQTT-4.9.0-2].
    ///
    /// # Errors
    /// The message itself.
    ///
    /// # Panics
    /// At QoS 0, which has no flow.
    pub fn start(&mut self, qos: Qos, message: M) -> Result<PacketId, M> {
        let phase = match qos {
            Qos::AtMostOnce => panic!("a QoS 0 message has no Packet Identifier"),
            Qos::AtLeastOnce => Phase::AwaitPubAck,
            Qos::ExactlyOnce => Phase::AwaitPubRec,
        };
        if !self.can_start() {
            return Err(message);
        }
        let id = self.take_unused_id();
        self.push(Entry { id, phase: Some(phase), sent: true, message: Some(message) });
        self.check_invariants();
        Ok(id)
    }

    /// A PUBACK arrived: the delivery is over whatever `reason` says [MQTT-4.4.0-2].
    ///
    /// # Errors
    /// [`UnknownPacketId`] if no QoS 1 delivery has this identifier.
    pub fn handle_puback(&mut self, id: PacketId, _reason: ReasonCode) -> Result<M, UnknownPacketId> {
        let at = self.find_in(id, Phase::AwaitPubAck)?;
        Ok(self.finish(at).expect("a QoS 1 entry holds its message"))
    }

    /// A PUBREC arrived: PUBREL is to be sent, or the peer refused the message.
    ///
    /// # Errors
    /// [`UnknownPacketId`] if no QoS 2 delivery has this identifier: PUBREL says 0x92 in 5.0.
    pub fn handle_pubrec(&mut self, id: PacketId, reason: ReasonCode) -> Result<PubRec<M>, UnknownPacketId> {
        let at = self.find(id).ok_or(UnknownPacketId(id))?;
        let entry = &mut self.entries[at];
        match entry.phase {
            Some(Phase::AwaitPubRec) if reason.is_error() => {
                Ok(PubRec::Refused(self.finish(at).expect("held until PUBREC")))
            }
            Some(Phase::AwaitPubRec) => {
                entry.phase = Some(Phase::AwaitPubComp);
                Ok(PubRec::Release(entry.message.take()))
            }
            Some(Phase::AwaitPubComp) => Ok(PubRec::Release(None)),
            Some(Phase::AwaitPubAck) | None => Err(UnknownPacketId(id)),
        }
    }

    /// A PUBCOMP arrived: the delivery is over.
    ///
    /// # Errors
    /// [`UnknownPacketId`] if no released QoS 2 delivery has this identifier.
    pub fn handle_pubcomp(&mut self, id: PacketId) -> Result<(), UnknownPacketId> {
        let at = self.find_in(id, Phase::AwaitPubComp)?;
        self.finish(at);
        Ok(())
    }

    /// The PUBLISH under `id` cannot be sent (it exceeds the peer's Maximum Packet Size): behaves as if it had been
    /// delivered [MQTT-3.1.2-25]. Call it right after [`Outbound::start`] or [`Outbound::poll_resend`].
    ///
    /// # Errors
    /// [`UnknownPacketId`] if no PUBLISH under this identifier waits for an acknowledgement.
    pub fn discard(&mut self, id: PacketId, resent: bool) -> Result<Discarded<M>, UnknownPacketId> {
        let at = self.find(id).ok_or(UnknownPacketId(id))?;
        let entry = &mut self.entries[at];
        match entry.phase {
            Some(Phase::AwaitPubRec) if resent => {
                entry.phase = Some(Phase::AwaitPubComp);
                Ok(Discarded::Release(entry.message.take().expect("held until PUBREC")))
            }
            Some(Phase::AwaitPubRec | Phase::AwaitPubAck) => {
                Ok(Discarded::Done(self.finish(at).expect("held until acknowledged")))
            }
            Some(Phase::AwaitPubComp) | None => Err(UnknownPacketId(id)),
        }
    }

    /// The identifier that the next message gets. SUBSCRIBE and UNSUBSCRIBE take theirs from the same range
    /// [MQTT-2.2.1-3]: use it for one and [`Outbound::skip_id`], or skip it because one still waits under it.
    ///
    /// `None` if all 65,535 are in use.
    pub fn peek_id(&mut self) -> Option<PacketId> {
        if self.live >= u32::from(u16::MAX) {
            return None;
        }
        let id = self.take_unused_id();
        self.next_id = id;
        Some(id)
    }

    /// Leaves out the identifier that [`Outbound::peek_id`] returned.
    pub fn skip_id(&mut self) {
        self.next_id = self.next_id.next();
    }

    /// Deliveries under way, including those in phase [`Phase::AwaitPubComp`].
    pub const fn in_flight(&self) -> usize {
        self.live as usize
    }

    /// Deliveries under way in the order in which they were started; the message is `None` once PUBREC has come.
    pub fn iter(&self) -> impl Iterator<Item = (PacketId, Phase, Option<&M>)> {
        self.entries.iter().filter_map(|entry| Some((entry.id, entry.phase?, entry.message.as_ref())))
    }

    /// The messages without an acknowledgement, in the order in which they were started, when the session ends.
    pub fn into_messages(self) -> impl Iterator<Item = M> {
        self.entries.into_iter().filter_map(|entry| entry.message)
    }

    /// The message under `id`, if its PUBLISH is unacknowledged.
    pub fn get_mut(&mut self, id: PacketId) -> Option<&mut M> {
        let at = self.find(id)?;
        self.entries[at].message.as_mut()
    }

    /// Takes out the QoS 1 messages for which `f` is true: a shared group gives them to another member. Their
    /// identifiers and quota are free again.
    pub fn remove_unacknowledged(&mut self, mut f: impl FnMut(&M, Qos, Phase) -> bool) -> Vec<M> {
        let mut removed = Vec::new();
        for (at, entry) in self.entries.iter_mut().enumerate() {
            let (Some(phase @ Phase::AwaitPubAck), Some(message)) = (entry.phase, &entry.message) else {
                continue;
            };
            if f(message, phase.qos(), phase) {
                entry.phase = None;
                removed.extend(entry.message.take());
                self.live -= 1;
                if self.unsent > 0 && at >= self.cursor as usize {
                    self.unsent -= 1;
                }
            }
        }
        self.compact();
        self.check_invariants();
        removed
    }

    /// Takes up a delivery read back from storage, behind those already there. `sent` says whether its PUBLISH may
    /// have left before, so that it gets the DUP flag. `message` is `None` exactly in [`Phase::AwaitPubComp`].
    ///
    /// To be called between [`Outbound::new`] and [`Outbound::restart`]; an identifier restored twice keeps its
    /// first delivery, and `false` is returned.
    pub fn restore(&mut self, id: PacketId, phase: Phase, message: Option<M>, sent: bool) -> bool {
        let consistent = message.is_none() == (phase == Phase::AwaitPubComp);
        if !consistent || self.find(id).is_some() {
            return false;
        }
        self.push(Entry { id, phase: Some(phase), sent, message });
        self.next_id = id.next();
        self.cursor = 0;
        self.unsent = self.live;
        self.check_invariants();
        true
    }

    /// The next message gets the identifier `next_id` or, if that is in use, one behind it: to be called once all deliveries
    /// are restored.
    pub const fn go_on_at(&mut self, next_id: PacketId) {
        self.next_id = next_id;
    }

    /// Gives back memory that the window does not need now; for a connection that went idle.
    pub fn shrink(&mut self) {
        self.compact();
        self.entries.shrink_to_fit();
    }

    /// Live entries that this Network Connection has carried: what the quota has been spent on.
    const fn sent_now(&self) -> u32 {
        self.live - self.unsent
    }

    fn push(&mut self, entry: Entry<M>) {
        self.sorted &= match (self.entries.front(), self.entries.back()) {
            (Some(front), Some(back)) => distance(front.id, back.id) < distance(front.id, entry.id),
            _ => true,
        };
        self.entries.push_back(entry);
        self.live += 1;
    }

    /// The next identifier in cyclic order that no live entry holds.
    fn take_unused_id(&mut self) -> PacketId {
        let mut id = self.next_id;
        while !self.certainly_unused(id) && self.find(id).is_some() {
            id = id.next();
        }
        self.next_id = id.next();
        id
    }

    /// Sorted entries end before `id`, as they nearly always do: no search is needed.
    fn certainly_unused(&self, id: PacketId) -> bool {
        match (self.entries.front(), self.entries.back()) {
            (Some(front), Some(back)) => self.sorted && distance(front.id, back.id) < distance(front.id, id),
            _ => true,
        }
    }

    fn find_in(&self, id: PacketId, phase: Phase) -> Result<usize, UnknownPacketId> {
        self.find(id).filter(|&at| self.entries[at].phase == Some(phase)).ok_or(UnknownPacketId(id))
    }

    /// The place of the live entry with this identifier. Acknowledgements mostly come in order, so the front is
    /// looked at first; in a window without gaps the distance from it is the place.
    fn find(&self, id: PacketId) -> Option<usize> {
        let is_live = |at: &usize| self.entries[*at].phase.is_some();
        let front = self.entries.front()?;
        if front.id == id {
            return Some(0).filter(is_live);
        }
        if !self.sorted {
            return self.entries.iter().position(|entry| entry.id == id && entry.phase.is_some());
        }
        let wanted = distance(front.id, id);
        if self.entries.get(wanted as usize).is_some_and(|entry| entry.id == id) {
            return Some(wanted as usize).filter(is_live);
        }
        let at = self.entries.binary_search_by_key(&wanted, |entry| distance(front.id, entry.id)).ok()?;
        Some(at).filter(is_live)
    }

    /// Ends the flow of the live entry at `at` and hands out its message.
    fn finish(&mut self, at: usize) -> Option<M> {
        let entry = &mut self.entries[at];
        entry.phase = None;
        let message = entry.message.take();
        self.live -= 1;
        if self.unsent > 0 && at >= self.cursor as usize {
            self.unsent -= 1;
        }
        if at == 0 {
            self.pop_tombstones();
        }
        if self.entries.len() > 2 * self.live as usize + 8 {
            self.compact();
        }
        self.check_invariants();
        message
    }

    /// Removes finished entries from the front.
    fn pop_tombstones(&mut self) {
        while self.entries.front().is_some_and(|entry| entry.phase.is_none()) {
            self.entries.pop_front();
            self.cursor = self.cursor.saturating_sub(1);
        }
        if self.entries.is_empty() && self.entries.capacity() > KEPT_CAPACITY {
            self.entries = VecDeque::new();
        }
        if !self.sorted {
            self.sorted = self.is_sorted();
        }
    }

    /// Removes all finished entries.
    fn compact(&mut self) {
        self.cursor = self.sent_now();
        if self.entries.len() != self.live as usize {
            self.entries.retain(|entry| entry.phase.is_some());
            self.sorted = self.is_sorted();
        }
    }

    fn is_sorted(&self) -> bool {
        let Some(front) = self.entries.front() else { return true };
        self.entries.iter().map(|entry| distance(front.id, entry.id)).is_sorted_by(|a, b| a < b)
    }

    /// Asserts, in debug builds, what this module promises.
    pub fn check_invariants(&self) {
        if !cfg!(debug_assertions) {
            return;
        }
        let live = || self.entries.iter().filter(|entry| entry.phase.is_some());
        debug_assert_eq!(live().count(), self.live as usize, "live counts");
        debug_assert!(self.entries.front().is_none_or(|front| front.phase.is_some()), "the front is live");
        debug_assert!(!self.sorted || self.is_sorted(), "sorted says the truth");
        let behind = self.entries.iter().skip(self.cursor as usize).filter(|entry| entry.phase.is_some());
        debug_assert!(self.unsent == 0 || behind.count() == self.unsent as usize, "unsent counts");
        debug_assert!(
            live().all(|entry| entry.message.is_none() == (entry.phase == Some(Phase::AwaitPubComp))),
            "a message is held until PUBACK or PUBREC"
        );
        if !self.sorted {
            let mut ids: Vec<PacketId> = live().map(|entry| entry.id).collect();
            ids.sort_unstable();
            debug_assert!(ids.is_sorted_by(|a, b| a < b), "identifiers are unique");
        }
    }
}

impl<M> Default for Outbound<M> {
    fn default() -> Outbound<M> {
        Outbound::new()
    }
}

/// How many steps `to` lies behind `from` in cyclic order.
const fn distance(from: PacketId, to: PacketId) -> u16 {
    to.get().wrapping_sub(from.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    const QOS_1: Qos = Qos::AtLeastOnce;
    const QOS_2: Qos = Qos::ExactlyOnce;
    const OK: ReasonCode = ReasonCode::SUCCESS;

    fn id(value: u16) -> PacketId {
        PacketId::new(value).expect("not zero")
    }

    fn open(receive_maximum: u16) -> Outbound<u32> {
        let mut outbound = Outbound::new();
        outbound.restart(receive_maximum);
        outbound
    }

    fn ids(outbound: &Outbound<u32>) -> Vec<u16> {
        outbound.iter().map(|(id, ..)| id.get()).collect()
    }

    #[test]
    fn nothing_starts_before_a_connection() {
        let mut outbound = Outbound::new();
        assert!(!outbound.can_start());
        assert_eq!(outbound.start(QOS_1, 9), Err(9));
    }

    #[test]
    fn the_receive_maximum_bounds_the_window() {
        let mut outbound = open(2);
        assert_eq!(outbound.start(QOS_1, 10), Ok(id(1)));
        assert_eq!(outbound.start(QOS_2, 20), Ok(id(2)));
        assert_eq!(outbound.start(QOS_1, 30), Err(30));
        assert_eq!(outbound.handle_pubrec(id(2), OK), Ok(PubRec::Release(Some(20))));
        assert!(!outbound.can_start(), "PUBREC gives no quota back");
        assert_eq!(outbound.handle_pubcomp(id(2)), Ok(()));
        assert_eq!(outbound.start(QOS_1, 30), Ok(id(3)));
        assert_eq!(outbound.handle_puback(id(1), ReasonCode::NOT_AUTHORIZED), Ok(10));
        assert_eq!(ids(&outbound), [3]);
    }

    #[test]
    fn an_acknowledgement_of_another_flow_is_unknown() {
        let mut outbound = open(10);
        let first = outbound.start(QOS_1, 1).expect("quota");
        let second = outbound.start(QOS_2, 2).expect("quota");
        assert!(outbound.handle_pubrec(first, OK).is_err());
        assert!(outbound.handle_puback(second, OK).is_err());
        assert!(outbound.handle_pubcomp(second).is_err(), "no PUBREL was sent");
        assert!(outbound.handle_puback(id(99), OK).is_err());
        assert_eq!(outbound.handle_pubrec(second, ReasonCode::QUOTA_EXCEEDED), Ok(PubRec::Refused(2)));
        assert!(outbound.handle_pubrec(second, OK).is_err());
        assert_eq!(outbound.in_flight(), 1);
    }

    #[test]
    fn a_repeated_pubrec_releases_again() {
        let mut outbound = open(10);
        let only = outbound.start(QOS_2, 2).expect("quota");
        assert_eq!(outbound.handle_pubrec(only, OK), Ok(PubRec::Release(Some(2))));
        assert_eq!(outbound.handle_pubrec(only, OK), Ok(PubRec::Release(None)));
    }

    #[test]
    fn resending_keeps_the_order_and_precedes_new_messages() {
        let mut outbound = open(10);
        for (qos, message) in [(QOS_1, 1), (QOS_2, 2), (QOS_2, 3), (QOS_1, 4)] {
            outbound.start(qos, message).expect("quota");
        }
        outbound.handle_pubrec(id(2), OK).expect("known");
        outbound.handle_puback(id(1), OK).expect("known");
        outbound.restart(10);
        assert_eq!(outbound.start(QOS_1, 5), Err(5), "resending comes first");
        assert_eq!(outbound.poll_resend(), Some(Resend::PubRel { packet_id: id(2) }));
        assert_eq!(
            outbound.poll_resend(),
            Some(Resend::Publish { packet_id: id(3), dup: true, qos: QOS_2, message: &3 })
        );
        assert_eq!(
            outbound.poll_resend(),
            Some(Resend::Publish { packet_id: id(4), dup: true, qos: QOS_1, message: &4 })
        );
        assert_eq!(outbound.poll_resend(), None);
        assert_eq!(outbound.start(QOS_1, 5), Ok(id(5)));
        assert_eq!(outbound.poll_resend(), None);
    }

    #[test]
    fn a_smaller_receive_maximum_paces_resending_but_not_pubrel() {
        let mut outbound = open(10);
        for message in 1..=4 {
            outbound.start(QOS_2, message).expect("quota");
        }
        outbound.handle_pubrec(id(2), OK).expect("known");
        outbound.restart(1);
        assert!(matches!(outbound.poll_resend(), Some(Resend::Publish { dup: true, message: 1, .. })));
        assert_eq!(outbound.poll_resend(), Some(Resend::PubRel { packet_id: id(2) }));
        assert_eq!(outbound.poll_resend(), None);
        assert!(!outbound.can_start());
        assert_eq!(outbound.handle_pubrec(id(1), ReasonCode::QUOTA_EXCEEDED), Ok(PubRec::Refused(1)));
        assert_eq!(outbound.poll_resend(), None, "the PUBREL still counts");
        outbound.handle_pubcomp(id(2)).expect("known");
        assert!(matches!(outbound.poll_resend(), Some(Resend::Publish { message: 3, .. })));
        assert_eq!(outbound.poll_resend(), None);
    }

    #[test]
    fn identifiers_are_not_reused_while_one_is_never_acknowledged() {
        let mut outbound = open(3);
        let stuck = outbound.start(QOS_1, 0).expect("quota");
        let mut previous = stuck;
        for message in 1..200_000 {
            let next = outbound.start(QOS_1, message).expect("quota");
            assert!(next != stuck && next != previous);
            assert_eq!(outbound.handle_puback(next, OK), Ok(message));
            previous = next;
        }
        assert_eq!(outbound.handle_puback(stuck, OK), Ok(0));
        assert_eq!(outbound.in_flight(), 0);
        assert!(outbound.sorted);
    }

    #[test]
    fn every_identifier_can_be_in_use() {
        let mut outbound = open(u16::MAX);
        // Filling 65,535 entries with invariant checks at each would be quadratic.
        for value in 1..=u16::MAX {
            outbound.push(Entry {
                id: id(value),
                phase: Some(Phase::AwaitPubAck),
                sent: true,
                message: Some(value.into()),
            });
        }
        outbound.check_invariants();
        assert_eq!(outbound.start(QOS_1, 0), Err(0));
        assert_eq!(outbound.handle_puback(id(500), OK), Ok(500));
        assert_eq!(outbound.start(QOS_1, 7), Ok(id(500)), "the only unused one");
        assert!(!outbound.sorted);
        assert_eq!(outbound.handle_puback(id(500), OK), Ok(7));
        assert_eq!(outbound.handle_puback(id(65_535), OK), Ok(65_535));
    }

    #[test]
    fn acknowledgements_in_any_order_leave_no_tombstones_behind() {
        let mut outbound = open(1_000);
        for message in 1..=1_000 {
            outbound.start(QOS_1, message).expect("quota");
        }
        for value in (2..=1_000).rev() {
            assert_eq!(outbound.handle_puback(id(value), OK), Ok(value.into()));
        }
        assert!(outbound.entries.len() <= 10);
        assert_eq!(outbound.handle_puback(id(1), OK), Ok(1));
        assert_eq!(outbound.entries.capacity(), 0, "a drained large window gives its memory back");
    }

    /// Closing them at each acknowledgement would take quadratic time.
    #[test]
    fn gaps_stay_until_they_outnumber_what_is_left() {
        let mut outbound = open(100);
        for message in 1..=100 {
            outbound.start(QOS_1, message).expect("quota");
        }
        for value in 2..=55 {
            outbound.handle_puback(id(value), OK).expect("in flight");
            assert_eq!(outbound.entries.len(), 100);
        }
        outbound.handle_puback(id(56), OK).expect("in flight");
        assert_eq!(outbound.entries.len(), 45, "100 is more than twice 45 and 8");
        assert!(outbound.sorted, "what is left is still searched by halves");
        assert_eq!(outbound.handle_puback(id(70), OK), Ok(70));
    }

    #[test]
    fn a_message_can_be_changed_until_it_is_acknowledged() {
        let mut outbound = open(10);
        outbound.start(QOS_1, 1).expect("quota");
        outbound.start(QOS_2, 2).expect("quota");
        *outbound.get_mut(id(2)).expect("unacknowledged") = 20;
        assert_eq!(outbound.get_mut(id(3)), None);
        assert_eq!(outbound.handle_pubrec(id(2), OK), Ok(PubRec::Release(Some(20))));
        assert_eq!(outbound.get_mut(id(2)), None, "PUBREC has come");
        assert_eq!(outbound.get_mut(id(1)), Some(&mut 1));
    }

    #[test]
    fn unacknowledged_qos_1_messages_can_be_taken_out() {
        let mut outbound = open(10);
        for (qos, message) in [(QOS_1, 1), (QOS_2, 2), (QOS_1, 3), (QOS_1, 4)] {
            outbound.start(qos, message).expect("quota");
        }
        assert_eq!(outbound.remove_unacknowledged(|message, _, _| *message != 3), [1, 4]);
        assert_eq!(ids(&outbound), [2, 3]);
        assert!(outbound.handle_puback(id(1), OK).is_err());
        outbound.restart(10);
        assert!(outbound.poll_resend().is_some());
        assert_eq!(outbound.remove_unacknowledged(|_, _, _| true), [3]);
        assert_eq!(outbound.poll_resend(), None);
        assert!(outbound.can_start());
    }

    #[test]
    fn a_discarded_message_frees_its_identifier_unless_the_peer_may_hold_it() {
        let mut outbound = open(10);
        let first = outbound.start(QOS_2, 1).expect("quota");
        assert_eq!(outbound.discard(first, false), Ok(Discarded::Done(1)));
        let second = outbound.start(QOS_2, 2).expect("quota");
        outbound.restart(10);
        assert!(outbound.poll_resend().is_some());
        assert_eq!(outbound.discard(second, true), Ok(Discarded::Release(2)));
        assert_eq!(outbound.handle_pubcomp(second), Ok(()));
    }

    #[test]
    fn a_restored_window_resends_and_goes_on_behind_its_identifiers() {
        let mut outbound = Outbound::new();
        assert!(outbound.restore(id(65_534), Phase::AwaitPubComp, None, true));
        assert!(outbound.restore(id(65_535), Phase::AwaitPubAck, Some(1), false));
        assert!(!outbound.restore(id(65_535), Phase::AwaitPubAck, Some(2), false));
        assert!(!outbound.restore(id(3), Phase::AwaitPubAck, None, false));
        outbound.restart(10);
        assert_eq!(outbound.poll_resend(), Some(Resend::PubRel { packet_id: id(65_534) }));
        assert!(matches!(outbound.poll_resend(), Some(Resend::Publish { dup: false, .. })));
        assert_eq!(outbound.poll_resend(), None);
        assert_eq!(outbound.start(QOS_1, 3), Ok(id(1)));
        assert!(outbound.sorted);
    }

    #[test]
    fn an_empty_window_is_small() {
        assert!(size_of::<Outbound<[u64; 8]>>() <= 64);
        assert_eq!(Outbound::<u32>::new().entries.capacity(), 0);
    }
}
