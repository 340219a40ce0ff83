//! This core's end of the lanes to every other core: what waits to be sent, how far the others have got, and who
//! waits for that.
//!
//! Invariants: envelopes of one lane are handled in order, so one number acknowledges all before it. A core handles
//! its lanes whatever its own outgoing ones hold; only publishers wait, and only for lanes whose bytes are not yet
//! handled at the other end. Acknowledgements travel in the head of a batch and need no room. What leans on a record waits,
//! in order, until that is committed here; it counts as sent but for its number on the lane.

use std::collections::VecDeque;

use super::contract::ConnectionId;
use super::envelope::{Envelope, EnvelopeBatch, Writer};
use crate::config::CoreId;
use crate::message::Message;
use crate::ports::Commit;
use crate::router::CoreSet;

/// Somebody who waits until the other end has committed envelope `seq`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    pub(super) seq: u64,
    pub(super) connection: ConnectionId,
    /// Which pending answer of that connection.
    pub(super) serial: u32,
}

/// Envelopes that wait until records are committed here.
#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    large: Vec<Message>,
    /// One for each, in order.
    marks: VecDeque<Mark>,
}

/// What [`Lanes::poll_taken`] tells of an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Noted {
    /// What was handed on under this number is taken.
    HandedOn(u64),
    /// The core of a shared group knows for good that the message under this number is its member's.
    Begun(u64),
}

/// An envelope that waits.
#[derive(Debug)]
struct Mark {
    /// The store's position that it waits for.
    position: u64,
    noted: Option<Noted>,
    /// Its part of the bytes, and of the messages beside them.
    bytes: usize,
    large: usize,
}

#[derive(Debug, Default)]
struct Lane {
    // Outgoing.
    batch: EnvelopeBatch,
    held: Held,
    /// What is to be told once it is committed at the other end, by the number of the envelope on this lane.
    noted: VecDeque<(u64, Noted)>,
    sent: u64,
    sent_bytes: u64,
    handled: u64,
    handled_bytes: u64,
    committed: u64,
    waiters: VecDeque<Waiter>,
    // Incoming.
    seen: u64,
    seen_bytes: u64,
    told: u64,
    told_bytes: u64,
    told_committed: u64,
    /// Envelopes seen whose records are not committed yet: (number of the first, position in the store).
    uncommitted: VecDeque<(u64, u64)>,
    answer_owed: bool,
    /// Somebody waits for what has left already: the other end has to be asked even if nothing else is to be told.
    asks: bool,
}

impl Lane {
    fn committed_here(&self) -> u64 {
        self.uncommitted.front().map_or(self.seen, |&(first, _)| first - 1)
    }

    /// Sends what has waited for the commit of records that are committed now.
    fn let_go(&mut self, committed: u64, spare: &mut Vec<Vec<u8>>) {
        let (mut bytes, mut large) = (0, 0);
        while let Some(mark) = self.held.marks.pop_front_if(|mark| mark.position <= committed) {
            self.sent += 1;
            self.noted.extend(mark.noted.map(|noted| (self.sent, noted)));
            bytes += mark.bytes;
            large += mark.large;
        }
        if bytes == 0 {
            return;
        }
        take_buffer(&mut self.batch.bytes, spare);
        self.batch.bytes.extend_from_slice(&self.held.bytes[..bytes]);
        self.held.bytes.drain(..bytes);
        self.batch.large.extend(self.held.large.drain(..large));
        if self.held.bytes.is_empty() {
            keep_buffer(core::mem::take(&mut self.held.bytes), spare);
        }
    }
}

impl Held {
    fn check_invariants(&self, committed: u64) {
        debug_assert!(self.marks.front().is_none_or(|first| first.position > committed));
        debug_assert!(self.marks.iter().is_sorted_by_key(|mark| mark.position));
        let numbers = self.marks.iter().filter_map(|mark| match mark.noted {
            Some(Noted::HandedOn(number)) => Some(number),
            _ => None,
        });
        debug_assert!(numbers.is_sorted());
        debug_assert_eq!(self.bytes.len(), self.marks.iter().map(|mark| mark.bytes).sum::<usize>());
        debug_assert_eq!(self.large.len(), self.marks.iter().map(|mark| mark.large).sum::<usize>());
    }
}

/// Gives `buffer` memory that another one has had, if it has none.
fn take_buffer(buffer: &mut Vec<u8>, spare: &mut Vec<Vec<u8>>) {
    if buffer.capacity() == 0
        && let Some(spare) = spare.pop()
    {
        *buffer = spare;
    }
}

/// Keeps the memory of a buffer for another one.
fn keep_buffer(mut buffer: Vec<u8>, spare: &mut Vec<Vec<u8>>) {
    if spare.len() < SPARE_MAX && (1..=SPARE_BYTES_MAX).contains(&buffer.capacity()) {
        buffer.clear();
        spare.push(buffer);
    }
}

/// The lanes of one core.
#[derive(Debug)]
pub(super) struct Lanes {
    own: usize,
    lanes: Vec<Lane>,
    bytes_max: u64,
    congested: CoreSet,
    /// Up to where this core's store has committed.
    committed: u64,
    /// Buffers of batches that were handled, for batches to come.
    spare: Vec<Vec<u8>>,
}

/// Spare buffers kept a core, and the largest worth keeping.
const SPARE_MAX: usize = 64;
const SPARE_BYTES_MAX: usize = 256 * 1024;

impl Lanes {
    pub(super) fn new(own: CoreId, cores: u16, bytes_max: u32) -> Lanes {
        Lanes {
            own: own.index(),
            lanes: (0..cores).map(|_| Lane::default()).collect(),
            bytes_max: bytes_max.into(),
            congested: CoreSet::default(),
            committed: 0,
            spare: Vec::new(),
        }
    }

    /// The other cores.
    pub(super) fn peers(&self) -> impl Iterator<Item = u16> + use<> {
        let own = self.own;
        (0..self.lanes.len()).filter(move |&core| core != own).map(|core| core as u16)
    }

    /// Appends `envelope` to the batch for `to`; its number on that lane.
    pub(super) fn send(&mut self, to: u16, envelope: &Envelope<'_>, owned: &mut Option<Message>) -> u64 {
        debug_assert_ne!(to as usize, self.own, "a core does not write to itself");
        let lane = &mut self.lanes[to as usize];
        let batch = &mut lane.batch;
        take_buffer(&mut batch.bytes, &mut self.spare);
        let (before, large) = (batch.bytes.len(), batch.large.len());
        Writer { bytes: &mut batch.bytes, large: &mut batch.large }.write(envelope, owned);
        let by_reference: usize = batch.large[large..].iter().map(Message::cost).sum();
        lane.sent += 1;
        lane.sent_bytes += (batch.bytes.len() - before + by_reference) as u64;
        if lane.sent_bytes - lane.handled_bytes > self.bytes_max {
            self.congested.insert(to);
        }
        lane.sent
    }

    /// Sends `envelope` once `commit` is there, and behind all that waits already; [`Lanes::poll_taken`] tells `noted` when
    /// `to` has committed what it makes of it. Whether it waits. The numbers of what is handed on come in order.
    pub(super) fn send_behind(
        &mut self,
        to: u16,
        noted: Option<Noted>,
        envelope: &Envelope<'_>,
        owned: &mut Option<Message>,
        commit: Commit,
    ) -> bool {
        let position = match commit {
            Commit::At(position) => position,
            Commit::Now => 0,
        };
        let lane = &self.lanes[to as usize];
        let position = lane.held.marks.back().map_or(position, |last| last.position.max(position));
        if position <= self.committed {
            self.send(to, envelope, owned);
            self.note(to, noted);
            return false;
        }
        let lane = &mut self.lanes[to as usize];
        let held = &mut lane.held;
        take_buffer(&mut held.bytes, &mut self.spare);
        let before = held.bytes.len();
        let large = held.large.len();
        Writer { bytes: &mut held.bytes, large: &mut held.large }.write(envelope, owned);
        let by_reference: usize = held.large[large..].iter().map(Message::cost).sum();
        let (bytes, large) = (held.bytes.len() - before, held.large.len() - large);
        held.marks.push_back(Mark { position, noted, bytes, large });
        lane.sent_bytes += (bytes + by_reference) as u64;
        if lane.sent_bytes - lane.handled_bytes > self.bytes_max {
            self.congested.insert(to);
        }
        true
    }

    /// [`Lanes::poll_taken`] tells `noted` when `to` has committed what it makes of the last envelope that was sent.
    pub(super) fn note(&mut self, to: u16, noted: impl IntoIterator<Item = Noted>) {
        let lane = &mut self.lanes[to as usize];
        let sent = lane.sent;
        lane.noted.extend(noted.into_iter().map(|noted| (sent, noted)));
    }

    /// The position in the store that all which waits now waits for, if anything does.
    pub(super) fn held_until(&self) -> Option<u64> {
        self.lanes.iter().filter_map(|lane| Some(lane.held.marks.back()?.position)).max()
    }

    /// The next that was to be told of what `to` has committed.
    pub(super) fn poll_taken(&mut self, to: CoreId) -> Option<Noted> {
        let lane = &mut self.lanes[to.index()];
        let committed = lane.committed;
        lane.noted.pop_front_if(|&mut (seq, _)| seq <= committed).map(|(_, noted)| noted)
    }

    /// How far each lane has got, this core's own entry 0.
    pub(super) fn sent(&self) -> Vec<u64> {
        self.lanes.iter().map(|lane| lane.sent).collect()
    }

    /// How far the lane from `core` was handled here.
    pub(super) fn seen(&self, core: usize) -> u64 {
        self.lanes[core].seen
    }

    /// Cores whose lanes hold more unhandled bytes than publishers may add to.
    pub(super) fn congested(&self) -> CoreSet {
        self.congested
    }

    /// Whether `waiter` has to wait for the lane to `core`; it is noted if so.
    pub(super) fn wait(&mut self, core: u16, waiter: Waiter) -> bool {
        let lane = &mut self.lanes[core as usize];
        if lane.committed >= waiter.seq {
            return false;
        }
        lane.waiters.push_back(waiter);
        lane.asks |= lane.batch.is_empty();
        true
    }

    /// The number of the last envelope to `core`.
    pub(super) fn last_sent(&self, core: u16) -> u64 {
        self.lanes[core as usize].sent
    }

    /// Takes note of the acknowledgements in the head of a batch from `from`; whether publishers may go on.
    pub(super) fn handle_head(&mut self, from: CoreId, batch: &EnvelopeBatch) -> bool {
        let lane = &mut self.lanes[from.index()];
        debug_assert!(
            batch.handled >= lane.handled && batch.handled <= lane.sent,
            "acknowledgements only grow"
        );
        lane.handled = batch.handled;
        lane.handled_bytes = batch.handled_bytes;
        lane.committed = batch.committed;
        lane.answer_owed |= batch.answer_wanted;
        // Half empty: else each acknowledgement would wake all publishers for one message each.
        if self.congested.contains(from.0) && lane.sent_bytes - lane.handled_bytes <= self.bytes_max / 2 {
            self.congested.remove(from.0);
            return true;
        }
        false
    }

    /// The next who waited for what `from` has committed by now.
    pub(super) fn poll_waiter(&mut self, from: CoreId) -> Option<Waiter> {
        let lane = &mut self.lanes[from.index()];
        let committed = lane.committed;
        lane.waiters.pop_front_if(|waiter| waiter.seq <= committed)
    }

    /// Counts one envelope of the batch at hand as handled. `commit` is the store's position its records end at.
    pub(super) fn handled_one(&mut self, from: CoreId, commit: Option<u64>) {
        let lane = &mut self.lanes[from.index()];
        lane.seen += 1;
        if let Some(position) = commit {
            lane.uncommitted.push_back((lane.seen, position));
        }
    }

    /// The batch is handled; its buffer is kept for one to come.
    pub(super) fn handled(&mut self, from: CoreId, batch: EnvelopeBatch) {
        let lane = &mut self.lanes[from.index()];
        debug_assert!(batch.is_empty() || batch.last == lane.seen, "each envelope is counted");
        lane.seen_bytes += batch.cost() as u64;
        lane.answer_owed |= lane.seen_bytes - lane.told_bytes > self.bytes_max / 4;
        keep_buffer(batch.bytes, &mut self.spare);
    }

    /// The store has committed up to `position`.
    pub(super) fn store_committed(&mut self, position: u64) {
        self.committed = self.committed.max(position);
        for lane in &mut self.lanes {
            lane.let_go(self.committed, &mut self.spare);
            while lane.uncommitted.pop_front_if(|&mut (_, at)| at <= position).is_some() {}
            lane.answer_owed |= lane.committed_here() > lane.told_committed;
        }
    }

    /// The batch for `to`, if there is anything to tell it. `withholds`: what was handled makes no room in its lane, as the
    /// store here has enough to write.
    pub(super) fn poll(&mut self, to: CoreId, withholds: bool) -> Option<EnvelopeBatch> {
        if to.index() == self.own {
            return None;
        }
        let lane = &mut self.lanes[to.index()];
        let committed = lane.committed_here();
        let handled_bytes = if withholds { lane.told_bytes } else { lane.seen_bytes };
        let news =
            lane.seen > lane.told || committed > lane.told_committed || handled_bytes > lane.told_bytes;
        if lane.batch.is_empty() && !lane.asks && !(lane.answer_owed && news) {
            return None;
        }
        lane.asks = false;
        let mut batch = core::mem::take(&mut lane.batch);
        batch.last = lane.sent;
        batch.handled = lane.seen;
        batch.handled_bytes = handled_bytes;
        batch.committed = committed;
        batch.answer_wanted = !lane.waiters.is_empty()
            || !lane.noted.is_empty()
            || lane.sent_bytes - lane.handled_bytes > self.bytes_max / 2;
        lane.told = lane.seen;
        lane.told_bytes = handled_bytes;
        lane.told_committed = committed;
        // What is not committed yet is still owed to those who wait for it.
        lane.answer_owed &= committed < lane.seen || handled_bytes < lane.seen_bytes;
        Some(batch)
    }

    pub(super) fn check_invariants(&self) {
        for lane in &self.lanes {
            debug_assert!(lane.handled <= lane.sent && lane.committed <= lane.handled);
            debug_assert!(lane.waiters.iter().is_sorted_by_key(|waiter| waiter.seq));
            debug_assert!(lane.waiters.front().is_none_or(|waiter| waiter.seq > lane.committed));
            lane.held.check_invariants(self.committed);
            debug_assert!(lane.noted.iter().is_sorted_by_key(|&(seq, _)| seq));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::MessageRef;
    use mqtt_proto::types::{Qos, TopicName};

    const ONE: CoreId = CoreId(1);

    fn lanes(bytes_max: u32) -> Lanes {
        Lanes::new(CoreId(0), 2, bytes_max)
    }

    /// Sends core 1 an envelope of `bytes`; its number.
    fn send(lanes: &mut Lanes, bytes: usize) -> u64 {
        let before = lanes.lanes[1].sent_bytes;
        let payload = vec![0; bytes - 14];
        let message = MessageRef {
            topic: TopicName::new("a").expect("a topic"),
            properties: &[],
            payload: &payload,
            qos: Qos::AtMostOnce,
            retain: false,
            expires_at: None,
        };
        let envelope = Envelope::Publish { message, deliver: true, retain: false, publisher: 0 };
        let seq = lanes.send(1, &envelope, &mut None);
        assert_eq!(lanes.lanes[1].sent_bytes - before, bytes as u64, "14 bytes beside the payload");
        seq
    }

    /// A batch of core 1 with `count` envelopes of 100 bytes, the last of which has the number `last`.
    fn arrives(lanes: &mut Lanes, last: u64, count: u64, head: EnvelopeBatch, commit: Option<u64>) {
        let batch = EnvelopeBatch { bytes: vec![0; 100 * count as usize], last, ..head };
        lanes.handle_head(ONE, &batch);
        (0..count).for_each(|_| lanes.handled_one(ONE, commit));
        lanes.handled(ONE, batch);
        lanes.check_invariants();
    }

    /// Whether there is anything to tell core 1: whether it brings envelopes, what is handled and committed, and
    /// whether an answer is wanted.
    fn told(lanes: &mut Lanes) -> Option<(bool, u64, u64, bool)> {
        let batch = lanes.poll(ONE, false)?;
        Some((!batch.is_empty(), batch.handled, batch.committed, batch.answer_wanted))
    }

    #[test]
    fn a_lane_is_full_above_its_credit_and_free_when_half_of_it_is_handled() {
        let mut lanes = lanes(1000);
        for _ in 0..10 {
            send(&mut lanes, 100);
            assert!(lanes.congested().is_empty(), "the last byte of the credit may be used");
        }
        send(&mut lanes, 100);
        assert!(lanes.congested().contains(1));
        assert_eq!(told(&mut lanes), Some((true, 0, 0, true)));
        let head =
            |handled| EnvelopeBatch { handled, handled_bytes: handled * 100, ..EnvelopeBatch::default() };
        assert!(!lanes.handle_head(ONE, &head(5)), "six tenths are not handled");
        assert!(lanes.handle_head(ONE, &head(6)));
        assert!(lanes.congested().is_empty());
        assert!(!lanes.handle_head(ONE, &head(7)), "nobody waits any more");
        assert_eq!(told(&mut lanes), None);
    }

    #[test]
    fn an_answer_is_asked_for_while_more_than_half_of_the_credit_is_used() {
        let mut lanes = lanes(1000);
        send(&mut lanes, 500);
        assert_eq!(told(&mut lanes), Some((true, 0, 0, false)));
        send(&mut lanes, 100);
        assert_eq!(told(&mut lanes), Some((true, 0, 0, true)));
        let half = EnvelopeBatch { handled: 1, handled_bytes: 500, ..EnvelopeBatch::default() };
        lanes.handle_head(ONE, &half);
        send(&mut lanes, 100);
        assert_eq!(told(&mut lanes), Some((true, 0, 0, false)));
    }

    #[test]
    fn what_is_handled_is_told_alone_once_a_quarter_of_the_credit_is_owed() {
        let mut lanes = lanes(1000);
        arrives(&mut lanes, 2, 2, EnvelopeBatch::default(), None);
        assert_eq!(told(&mut lanes), None);
        arrives(&mut lanes, 3, 1, EnvelopeBatch::default(), None);
        assert_eq!(told(&mut lanes), Some((false, 3, 3, false)));
        // It counts from what was told last.
        arrives(&mut lanes, 5, 2, EnvelopeBatch::default(), None);
        assert_eq!(told(&mut lanes), None);
        // Beside something else it travels at any time.
        send(&mut lanes, 50);
        assert_eq!(told(&mut lanes), Some((true, 5, 5, false)));
        arrives(&mut lanes, 6, 1, EnvelopeBatch { answer_wanted: true, ..EnvelopeBatch::default() }, None);
        assert_eq!(told(&mut lanes), Some((false, 6, 6, false)));
        assert_eq!(told(&mut lanes), None);
    }

    #[test]
    fn who_waits_asks_and_is_found_when_the_other_end_has_committed() {
        let mut lanes = lanes(1000);
        let waiter =
            |seq| Waiter { seq, connection: ConnectionId { index: 1, generation: 2 }, serial: seq as u32 };
        let first = send(&mut lanes, 50);
        assert!(lanes.wait(1, waiter(first)));
        assert_eq!(told(&mut lanes), Some((true, 0, 0, true)));
        assert_eq!(told(&mut lanes), None, "asked once");
        let second = send(&mut lanes, 50);
        lanes.poll(ONE, false);
        // What it waits for has left before: it is asked for alone.
        assert!(lanes.wait(1, waiter(second)));
        assert_eq!(told(&mut lanes), Some((false, 0, 0, true)));
        let head = |committed| EnvelopeBatch { handled: 2, committed, ..EnvelopeBatch::default() };
        lanes.handle_head(ONE, &head(1));
        assert_eq!(lanes.poll_waiter(ONE).map(|waiter| waiter.serial), Some(1));
        assert!(lanes.poll_waiter(ONE).is_none(), "handled, and not committed");
        lanes.handle_head(ONE, &head(2));
        assert_eq!(lanes.poll_waiter(ONE).map(|waiter| waiter.serial), Some(2));
        assert!(!lanes.wait(1, waiter(second)), "it is there already");
        assert_eq!(told(&mut lanes), None);
    }

    #[test]
    fn what_the_store_has_not_committed_is_told_as_soon_as_it_has() {
        let mut lanes = lanes(100_000);
        arrives(&mut lanes, 1, 1, EnvelopeBatch::default(), Some(7));
        arrives(&mut lanes, 2, 1, EnvelopeBatch::default(), None);
        arrives(&mut lanes, 3, 1, EnvelopeBatch::default(), Some(9));
        send(&mut lanes, 50);
        assert_eq!(told(&mut lanes), Some((true, 3, 0, false)));
        lanes.store_committed(6);
        assert_eq!(told(&mut lanes), None);
        lanes.store_committed(8);
        assert_eq!(told(&mut lanes), Some((false, 3, 2, false)), "the second needs no record");
        lanes.store_committed(8);
        assert_eq!(told(&mut lanes), None);
        lanes.store_committed(9);
        assert_eq!(told(&mut lanes), Some((false, 3, 3, false)));
        lanes.store_committed(10);
        assert_eq!(told(&mut lanes), None);
        // So it is for one that was never asked to tell.
        let mut other = super::tests::lanes(100_000);
        arrives(&mut other, 1, 1, EnvelopeBatch::default(), Some(11));
        send(&mut other, 50);
        assert_eq!(told(&mut other), Some((true, 1, 0, false)));
        other.store_committed(11);
        assert_eq!(told(&mut other), Some((false, 1, 1, false)));
    }

    #[test]
    fn buffers_of_handled_batches_are_filled_again_and_not_kept_without_end() {
        let mut lanes = lanes(1_000_000);
        let bytes = Vec::with_capacity(SPARE_BYTES_MAX);
        let place = bytes.as_ptr();
        lanes.handled(ONE, EnvelopeBatch { bytes, ..EnvelopeBatch::default() });
        lanes.handled(
            ONE,
            EnvelopeBatch { bytes: Vec::with_capacity(SPARE_BYTES_MAX + 1), ..EnvelopeBatch::default() },
        );
        send(&mut lanes, 50);
        let batch = lanes.poll(ONE, false).expect("an envelope");
        assert_eq!((batch.bytes.as_ptr(), batch.bytes.len()), (place, 50), "the one that is not too large");
        for _ in 0..2 * SPARE_MAX {
            lanes.handled(ONE, EnvelopeBatch { bytes: Vec::with_capacity(8), ..EnvelopeBatch::default() });
        }
        lanes.handled(ONE, EnvelopeBatch::default());
        assert_eq!(lanes.spare.len(), SPARE_MAX);
    }
}
