//! Messages that wait for one session, or are on their way to it.
//!
//! A queue takes as much memory as it has messages, in pieces of one size that other queues can use later, and one that
//! runs empty keeps a piece: a Client a little too slow for what it gets has its queue filled and emptied with every
//! message.

use std::collections::VecDeque;

use mqtt_proto::types::Qos;

use super::envelope::{GroupRef, OfGroup};
use crate::message::Message;

/// A message for one session.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) message: Message,
    rare: Option<Box<Rare>>,
    /// The Subscription Identifier if there is but one, else 0.
    identifier: u32,
    /// The lower of published and granted QoS.
    pub(super) qos: Qos,
    /// The RETAIN flag of this delivery.
    pub(super) retain: bool,
}

/// What few deliveries have.
#[derive(Debug)]
struct Rare {
    /// Subscription Identifiers, if there are several.
    identifiers: Box<[u32]>,
    group: Option<OfGroup>,
}

impl Delivery {
    /// Subscription Identifiers: one for each matching subscription that has one [MQTT-3.3.4-3].
    pub(super) fn new(
        message: Message,
        qos: Qos,
        retain: bool,
        identifiers: &[u32],
        group: Option<OfGroup>,
    ) -> Delivery {
        let (identifier, several) = match identifiers {
            [] => (0, identifiers),
            &[one] => (one, &[][..]),
            several => (0, several),
        };
        let rare = (group.is_some() || !several.is_empty())
            .then(|| Box::new(Rare { identifiers: several.into(), group }));
        Delivery { message, rare, identifier, qos, retain }
    }

    /// The same to be encoded, while the session holds this one. It does not know its group, which takes no part in that.
    pub(super) fn to_send(&self) -> Delivery {
        let Delivery { ref message, identifier, qos, retain, .. } = *self;
        match self.identifiers() {
            several @ [_, _, ..] => Delivery::new(message.clone(), qos, retain, several, None),
            _ => Delivery { message: message.clone(), rare: None, identifier, qos, retain },
        }
    }

    pub(super) fn identifiers(&self) -> &[u32] {
        match &self.rare {
            Some(rare) if !rare.identifiers.is_empty() => &rare.identifiers,
            _ if self.identifier == 0 => &[],
            _ => core::slice::from_ref(&self.identifier),
        }
    }

    /// Which message of a shared group it is. The group's owner wants to hear when the session is done with it.
    pub(super) fn group(&self) -> Option<OfGroup> {
        self.rare.as_ref()?.group
    }

    /// Whether it belongs to this shared group.
    pub(super) fn is_of(&self, group: GroupRef) -> bool {
        self.group().is_some_and(|of| of.group == group)
    }

    /// It is the session's own from now on, and no group's; whose it was.
    pub(super) fn make_own(&mut self) -> Option<OfGroup> {
        self.rare.as_mut()?.group.take()
    }

    /// What it costs beside its message.
    pub(super) const PLACE: usize = size_of::<Delivery>() - size_of::<Message>();

    pub(super) fn cost(&self) -> usize {
        self.message.cost() + Delivery::PLACE
    }
}

/// Messages of one piece.
const PIECE: usize = 64;

/// The messages that wait, oldest first.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// None is empty but the last, nor longer than [`PIECE`].
    pieces: VecDeque<VecDeque<Delivery>>,
    /// An empty piece for the next message that finds the last one full.
    spare: Option<VecDeque<Delivery>>,
    len: usize,
    bytes: usize,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What the messages cost.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn front(&self) -> Option<&Delivery> {
        self.pieces.front()?.front()
    }

    pub(super) fn push(&mut self, delivery: Delivery) {
        self.bytes += delivery.cost();
        self.len += 1;
        if let Some(last) = self.pieces.back_mut().filter(|last| last.len() < PIECE) {
            return last.push_back(delivery);
        }
        let mut piece = match self.spare.take() {
            Some(spare) => spare,
            // Few sessions have more than one or two messages waiting.
            None if self.pieces.is_empty() => VecDeque::new(),
            None => VecDeque::with_capacity(PIECE),
        };
        piece.push_back(delivery);
        self.pieces.push_back(piece);
    }

    pub(super) fn pop(&mut self) -> Option<Delivery> {
        let first = self.pieces.front_mut()?;
        let delivery = first.pop_front()?;
        if first.is_empty() && self.pieces.len() > 1 {
            self.spare = self.pieces.pop_front();
        }
        self.bytes -= delivery.cost();
        self.len -= 1;
        Some(delivery)
    }

    /// Puts older messages before its own.
    pub(super) fn prepend(&mut self, older: Queue) {
        self.len += older.len;
        self.bytes += older.bytes;
        for piece in older.pieces.into_iter().rev().filter(|piece| !piece.is_empty()) {
            self.pieces.push_front(piece);
        }
    }

    /// Those that wait, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Delivery> {
        self.pieces.iter().flatten()
    }

    /// Takes out the messages for which `which` is true, in order.
    pub(super) fn extract(&mut self, which: impl Fn(&Delivery) -> bool) -> Vec<Delivery> {
        let mut taken = Vec::new();
        // Each goes round once: what stays keeps its order.
        for _ in 0..self.len {
            let Some(delivery) = self.pop() else { break };
            if which(&delivery) {
                taken.push(delivery);
            } else {
                self.push(delivery);
            }
        }
        taken
    }

    /// Gives back memory that it does not need now.
    pub(super) fn shrink(&mut self) {
        self.spare = None;
        if self.is_empty() {
            self.pieces = VecDeque::new();
        }
    }

    pub(super) fn check_invariants(&self) {
        debug_assert_eq!(self.len, self.iter().count());
        debug_assert_eq!(self.bytes, self.iter().map(Delivery::cost).sum::<usize>());
        let last = self.pieces.len().saturating_sub(1);
        debug_assert!(self.pieces.iter().take(last).all(|piece| !piece.is_empty()));
        debug_assert!(self.pieces.iter().all(|piece| piece.len() <= PIECE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mqtt_proto::types::TopicName;

    fn message(payload: &[u8]) -> Message {
        let message = crate::message::MessageRef {
            topic: TopicName::new("a/b").expect("a topic"),
            properties: &[],
            payload,
            qos: Qos::AtMostOnce,
            retain: false,
            expires_at: None,
        };
        message.to_message()
    }

    fn delivery(payload: &[u8]) -> Delivery {
        Delivery::new(message(payload), Qos::AtMostOnce, false, &[], None)
    }

    /// What queues are bounded by is what they take: the message's bytes, its allocation and the place in the queue.
    #[test]
    fn a_queued_message_costs_its_bytes_and_its_place() {
        let delivery = || delivery(&[0; 100]);
        assert_eq!(size_of::<Delivery>(), 32);
        // Counts, head, topic and payload are 123 bytes, in an allocation of 128.
        let cost = delivery().cost();
        assert_eq!(cost, 128 + size_of::<Delivery>());
        let mut queue = Queue::default();
        queue.push(delivery());
        queue.push(delivery());
        assert_eq!((queue.len(), queue.bytes()), (2, 2 * cost));
        queue.pop();
        assert_eq!((queue.len(), queue.bytes()), (1, cost));
    }

    #[test]
    fn a_delivery_gives_back_what_it_was_made_with() {
        let group = GroupRef { owner: 1, index: 2, generation: 3 };
        let of = OfGroup { group, number: 4, is_kept: true };
        for identifiers in [&[][..], &[5], &[5, 6]] {
            for of in [None, Some(of)] {
                let mut delivery = Delivery::new(message(b""), Qos::AtLeastOnce, true, identifiers, of);
                assert_eq!((delivery.identifiers(), delivery.group()), (identifiers, of));
                assert_eq!(delivery.is_of(group), of.is_some());
                assert_eq!((delivery.qos, delivery.retain), (Qos::AtLeastOnce, true));
                let copy = delivery.to_send();
                assert_eq!((copy.identifiers(), copy.qos, copy.retain), (identifiers, delivery.qos, true));
                assert_eq!((delivery.make_own(), delivery.group()), (of, None));
                assert_eq!(delivery.identifiers(), identifiers);
            }
        }
    }

    #[test]
    fn messages_leave_in_the_order_in_which_they_came() {
        let mut queue = Queue::default();
        let number = |delivery: &Delivery| delivery.message.as_ref().payload[0];
        let (mut next_in, mut next_out) = (0, 0);
        // Growing and shrinking past several pieces, by steps that do not fit them.
        for (pushed, popped) in [(1, 1), (200, 150), (100, 90), (3, 60), (70, 73)] {
            for _ in 0..pushed {
                queue.push(delivery(&[next_in]));
                next_in = next_in.wrapping_add(1);
            }
            queue.check_invariants();
            for _ in 0..popped {
                assert_eq!(queue.front().map(number), Some(next_out));
                assert_eq!(queue.pop().as_ref().map(number), Some(next_out));
                next_out = next_out.wrapping_add(1);
            }
            queue.check_invariants();
        }
        assert!(queue.is_empty() && queue.pop().is_none());
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn some_are_taken_out_and_the_others_stay_in_order() {
        let mut queue = Queue::default();
        (0..200).for_each(|number| queue.push(delivery(&[number])));
        let number = |delivery: &Delivery| delivery.message.as_ref().payload[0];
        let odd = queue.extract(|delivery| number(delivery) % 2 == 1);
        queue.check_invariants();
        assert!(odd.iter().map(number).eq((0..200).filter(|number| number % 2 == 1)));
        let left: Vec<u8> = core::iter::from_fn(|| queue.pop()).map(|delivery| number(&delivery)).collect();
        assert!(left.into_iter().eq((0..200).filter(|number| number % 2 == 0)));
    }

    #[test]
    fn older_messages_come_first() {
        let number = |delivery: &Delivery| delivery.message.as_ref().payload[0];
        for (own, older) in [(0, 0), (0, 3), (3, 0), (100, 70), (1, 130)] {
            let mut queue = Queue::default();
            // One that ran empty keeps a piece.
            queue.push(delivery(&[0]));
            queue.pop();
            (older..older + own).for_each(|number| queue.push(delivery(&[number])));
            let mut before = Queue::default();
            (0..older).for_each(|number| before.push(delivery(&[number])));
            queue.prepend(before);
            queue.check_invariants();
            (0..3).for_each(|more| queue.push(delivery(&[own + older + more])));
            assert!(
                core::iter::from_fn(|| queue.pop()).map(|delivery| number(&delivery)).eq(0..own + older + 3)
            );
            queue.check_invariants();
        }
    }

    #[test]
    fn a_queue_that_rests_keeps_nothing_it_does_not_need() {
        let mut queue = Queue::default();
        (0..130).for_each(|number| queue.push(delivery(&[number])));
        while queue.pop().is_some() {}
        assert!(queue.spare.is_some() && !queue.pieces.is_empty());
        queue.shrink();
        assert!(queue.spare.is_none() && queue.pieces.capacity() == 0);
    }
}
