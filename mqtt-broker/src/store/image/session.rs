//! One session as it is stored: what its records add up to.
//!
//! Invariant: of a session of which something said may be gone, what waits stays, whatever is told by its place alone: that may
//! be another's place. So a message may come twice, and none is gone that was read.

use std::collections::VecDeque;

use mqtt_proto::session::{Outbound, Phase, PubRec};
use mqtt_proto::types::{PacketId, Qos, ReasonCode};

use super::subscriptions::Subscriptions;
use crate::message::Message;
use crate::store::cold::{Chunk, Parked, Place};
use crate::store::record::Identifiers;

/// A session, with all it holds.
#[derive(Debug)]
pub struct Session {
    client_id: Box<str>,
    pub(super) presence: Presence,
    /// Records up to this one are in it already.
    pub(super) as_of: u64,
    pub(super) subscriptions: Subscriptions,
    waiting: VecDeque<Delivery>,
    flight: Option<Box<Flight>>,
    /// Messages that wait in chunks, before all others that wait.
    parked: Option<Box<Parked>>,
    pub(super) will: Option<Box<Will>>,
    pub(super) expiry_seconds: u32,
    pub(super) next_packet_id: PacketId,
    /// Something that was said of it may be gone: which message has which place is not certain.
    pub(super) is_unsure: bool,
}

/// Whether the session's Client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// Since the broker had been started so many times: its next start ends the connection.
    Connected(u32),
    /// Not since then.
    Away(u64),
}

impl Presence {
    /// Since when the Client has been away, if the broker was started at these times.
    pub(super) fn since(self, starts: &[u64]) -> Option<u64> {
        match self {
            Presence::Away(since) => Some(since),
            Presence::Connected(start) => starts.get(start as usize).copied(),
        }
    }
}

/// Messages under way: a session whose Client is away has mostly none.
#[derive(Debug, Default)]
struct Flight {
    window: Outbound<Delivery>,
    /// Packet Identifiers of QoS 2 messages whose PUBREL has not come, in ascending order.
    received: Vec<PacketId>,
    /// How many of those that wait were sent or parked, the first ones, if that was about these: they stay, as it is not certain.
    passed: usize,
}

/// A message for one session.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The message; it expires by wall time.
    pub message: Message,
    identifiers: IdentifierList,
    /// The QoS that it is delivered with: 1 or 2.
    pub qos: Qos,
    /// The RETAIN flag that it is delivered with.
    pub retain: bool,
}

/// Subscription Identifiers: one takes no memory of its own.
#[derive(Clone, Debug)]
enum IdentifierList {
    /// 0 for none.
    One(u32),
    Several(Box<[u32]>),
}

/// A Will as it is stored.
#[derive(Clone, Debug)]
pub struct Will {
    /// The message. Its expiry is told by `expiry_seconds`.
    pub message: Message,
    /// Will Delay Interval in seconds.
    pub delay_seconds: u32,
    /// Message Expiry Interval in seconds: runs from the publication on.
    pub expiry_seconds: Option<u32>,
}

impl Session {
    pub(super) fn new(client_id: &str, expiry_seconds: u32, presence: Presence) -> Session {
        Session {
            client_id: client_id.into(),
            presence,
            as_of: 0,
            subscriptions: Subscriptions::default(),
            waiting: VecDeque::new(),
            flight: None,
            parked: None,
            will: None,
            expiry_seconds,
            next_packet_id: PacketId::FIRST,
            is_unsure: false,
        }
    }

    /// Its ClientID.
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// Since when its Client has been away, as far as the session knows by itself: [`Image::away_since`] knows more,
    /// unless the image was taken apart.
    ///
    /// [`Image::away_since`]: super::Image::away_since
    pub fn away_since(&self) -> Option<u64> {
        self.presence.since(&[])
    }

    /// Session Expiry Interval in seconds; `u32::MAX`: never.
    pub fn expiry_seconds(&self) -> u32 {
        self.expiry_seconds
    }

    /// The Packet Identifier that its next message gets.
    pub fn next_packet_id(&self) -> PacketId {
        self.next_packet_id
    }

    /// Its subscriptions, those in shared groups too.
    pub fn subscriptions(&self) -> &Subscriptions {
        &self.subscriptions
    }

    /// Its Will.
    pub fn will(&self) -> Option<&Will> {
        self.will.as_deref()
    }

    /// What is on its way to the Client, in the order of sending; without the message once PUBREC has come.
    pub fn under_way(&self) -> impl Iterator<Item = (PacketId, Phase, Option<&Delivery>)> {
        self.flight.iter().flat_map(|flight| flight.window.iter())
    }

    /// The chunks in which the first of those that wait are, if there are any.
    pub fn parked(&self) -> Option<&Parked> {
        self.parked.as_deref()
    }

    /// What waits to be sent, oldest first, but for what is parked.
    pub fn waiting(&self) -> impl ExactSizeIterator<Item = &Delivery> {
        self.waiting.iter()
    }

    /// The Packet Identifiers of QoS 2 messages from the Client whose PUBREL has not come, in ascending order.
    pub fn received(&self) -> &[PacketId] {
        self.flight.as_ref().map_or(&[], |flight| &flight.received)
    }

    fn flight(&mut self) -> &mut Flight {
        self.flight.get_or_insert_default()
    }

    /// A message waits, behind all others.
    pub(super) fn enqueue(&mut self, delivery: Delivery) {
        if self.waiting.capacity() == 0 {
            // Most sessions that have messages have one.
            self.waiting.reserve_exact(1);
        }
        self.waiting.push_back(delivery);
    }

    /// Something that was said of it may be gone, and what comes next is behind that. It may have been that PUBREL has come: the
    /// next message of the Client under the same Packet Identifier would be taken for the one that came before.
    pub(super) fn doubt(&mut self) {
        self.is_unsure = true;
        if let Some(flight) = &mut self.flight {
            flight.received = Vec::new();
        }
        self.tidy();
    }

    /// A message was sent.
    pub(super) fn start(&mut self, delivery: Delivery, packet_id: PacketId) {
        if self.is_unsure {
            // What had this Packet Identifier is over, though it may be gone who said so.
            self.finish(packet_id);
        }
        let phase = match delivery.qos {
            Qos::ExactlyOnce => Phase::AwaitPubRec,
            _ => Phase::AwaitPubAck,
        };
        self.flight().window.restore(packet_id, phase, Some(delivery), true);
    }

    /// The first message that waits was sent.
    pub(super) fn start_first(&mut self, packet_id: PacketId) {
        if self.is_unsure {
            let passed = self.pass(1);
            if let Some(first) = self.waiting.get(passed).cloned() {
                self.start(first, packet_id);
            }
            return;
        }
        if let Some(first) = self.waiting.pop_front() {
            self.tidy();
            self.start(first, packet_id);
        }
    }

    /// A message is taken out of those that wait.
    pub(super) fn drop_waiting(&mut self, place: u32) {
        if self.is_unsure {
            return;
        }
        self.waiting.remove(place as usize);
        self.tidy();
    }

    /// Drops the messages that wait and are due; `dropped` is told the place of each among those that are left then.
    pub(super) fn drop_expired(&mut self, now: u64, mut dropped: impl FnMut(&str, u32)) {
        let Session { waiting, client_id, .. } = self;
        let mut place = 0;
        waiting.retain(|delivery| {
            let expired = delivery.message.is_expired(now);
            match expired {
                true => dropped(client_id, place),
                false => place += 1,
            }
            !expired
        });
        self.tidy();
    }

    /// The first of those that wait are in this chunk. In a snapshot they are told nowhere else.
    pub(super) fn park(&mut self, chunk: Chunk) {
        if self.is_unsure {
            self.pass(chunk.messages as usize);
        } else {
            let parked = self.waiting.len().min(chunk.messages as usize);
            self.waiting.drain(..parked);
        }
        self.parked.get_or_insert_default().push(chunk);
        self.tidy();
    }

    /// Gives up the chunks for which `keeps` is false.
    pub(super) fn retain_parked(&mut self, keeps: &mut impl FnMut(&str, Chunk, u32) -> bool) {
        if let Some(parked) = &mut self.parked {
            parked.retain(|chunk, messages| keeps(&self.client_id, chunk, messages));
        }
        self.parked.take_if(|parked| parked.is_empty());
    }

    /// So many of those that are parked are over, or under way.
    pub(super) fn take_parked(&mut self, count: u32) {
        if self.is_unsure {
            return;
        }
        if let Some(parked) = &mut self.parked {
            parked.take(count.into(), |_| {});
        }
        self.parked.take_if(|parked| parked.is_empty());
    }

    /// The chunk that was in the one place is in the other.
    pub(super) fn move_parked(&mut self, from: Place, to: Place) {
        if let Some(parked) = &mut self.parked {
            parked.relocate(from, to);
        }
    }

    /// A delivery is over, in whatever phase it is.
    pub(super) fn finish(&mut self, packet_id: PacketId) {
        let Some(flight) = &mut self.flight else { return };
        let window = &mut flight.window;
        let _known = window.handle_puback(packet_id, ReasonCode::SUCCESS).is_ok()
            || window.handle_pubcomp(packet_id).is_ok()
            || window.handle_pubrec(packet_id, ReasonCode::UNSPECIFIED_ERROR).is_ok();
        self.tidy();
    }

    /// PUBREC has come. One of a delivery that is not known stands for it: a snapshot says no more of it.
    pub(super) fn release(&mut self, packet_id: PacketId) {
        match self.flight().window.handle_pubrec(packet_id, ReasonCode::SUCCESS) {
            Ok(PubRec::Release(_) | PubRec::Refused(_)) => {}
            Err(_) => {
                if self.is_unsure {
                    // Another message, of QoS 1, stands for the one that was sent, and waits as well.
                    self.finish(packet_id);
                }
                let _is_new = self.flight().window.restore(packet_id, Phase::AwaitPubComp, None, true);
            }
        }
    }

    /// A QoS 2 message has come.
    pub(super) fn receive(&mut self, packet_id: PacketId) {
        let received = &mut self.flight().received;
        if let Err(place) = received.binary_search(&packet_id) {
            received.insert(place, packet_id);
        }
    }

    /// PUBREL has come.
    pub(super) fn complete(&mut self, packet_id: PacketId) {
        let Some(flight) = &mut self.flight else { return };
        if let Ok(place) = flight.received.binary_search(&packet_id) {
            flight.received.remove(place);
        }
        self.tidy();
    }

    /// So many more of those that wait may not wait any more: how many before them.
    fn pass(&mut self, count: usize) -> usize {
        let (waiting, flight) = (self.waiting.len(), self.flight());
        let passed = flight.passed;
        flight.passed = passed.saturating_add(count).min(waiting);
        passed
    }

    /// Gives back the memory of messages if there is none.
    fn tidy(&mut self) {
        self.flight.take_if(|flight| {
            flight.window.in_flight() == 0 && flight.received.is_empty() && flight.passed == 0
        });
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
    }
}

impl Delivery {
    /// A delivery of `message` with this QoS, RETAIN flag and these Subscription Identifiers.
    pub fn new(message: Message, qos: Qos, retain: bool, identifiers: Identifiers<'_>) -> Delivery {
        let mut found = identifiers.iter();
        let identifiers = match (found.next(), found.next()) {
            (one, None) => IdentifierList::One(one.unwrap_or(0)),
            _ => IdentifierList::Several(identifiers.iter().collect()),
        };
        Delivery { message, identifiers, qos, retain }
    }

    /// Its Subscription Identifiers.
    pub fn identifiers(&self) -> &[u32] {
        match &self.identifiers {
            IdentifierList::One(0) => &[],
            IdentifierList::One(one) => core::slice::from_ref(one),
            IdentifierList::Several(several) => several,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A million sessions with a message each: every byte here is a megabyte.
    #[test]
    fn sessions_and_messages_are_small() {
        assert_eq!((size_of::<Session>(), size_of::<Delivery>()), (128, 40));
    }
}
