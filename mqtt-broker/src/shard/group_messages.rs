//! The messages of one shared group at its owner core: those that wait for a member, and those that a member has and that
//! would wait again after a crash.
//!
//! Each has a number, higher than all before it, which is its place in the group: what comes back from a member waits where
//! it was. Invariants: both lists are in the order of their numbers, and no number is in both; only what the store was told
//! of is remembered while a member has it.

use std::collections::VecDeque;

use crate::message::Message;
use crate::ports::Commit;

/// A message that waits for a member.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) number: u64,
    /// When the store has it, if that was told.
    pub(super) kept: Option<Commit>,
    pub(super) message: Message,
}

/// A message that a member has.
#[derive(Debug)]
struct Bound {
    number: u64,
    /// None once it is done with.
    message: Option<Message>,
}

/// The messages of a group.
#[derive(Debug, Default)]
pub(super) struct GroupMessages {
    waiting: VecDeque<Waiting>,
    /// What those that wait cost.
    bytes: usize,
    bound: VecDeque<Bound>,
    /// Those of `bound` that are not done with.
    live: usize,
}

/// As many may be done with before the list of what members have is looked through for them.
const DONE_MAX: usize = 64;

impl GroupMessages {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What those that wait cost.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A message waits: behind those of lower numbers.
    pub(super) fn wait(&mut self, waiting: Waiting) {
        self.bytes += waiting.message.cost();
        match self.waiting.back() {
            Some(last) if last.number > waiting.number => {
                let place = self.waiting.partition_point(|other| other.number < waiting.number);
                self.waiting.insert(place, waiting);
            }
            _ => self.waiting.push_back(waiting),
        }
    }

    /// Takes out the one that has waited longest.
    pub(super) fn pop(&mut self) -> Option<Waiting> {
        let first = self.waiting.pop_front()?;
        self.bytes -= first.message.cost();
        Some(first)
    }

    /// A member gets a message that the store was told of.
    pub(super) fn bind(&mut self, number: u64, message: Message) {
        self.live += 1;
        let bound = Bound { number, message: Some(message) };
        match self.bound.back() {
            Some(last) if last.number >= number => match self.find(number) {
                Ok(place) => self.bound[place] = bound,
                Err(place) => self.bound.insert(place, bound),
            },
            _ => self.bound.push_back(bound),
        }
    }

    /// The member is done with a message, or gives it back; `None` if the store was not told of it.
    pub(super) fn unbind(&mut self, number: u64) -> Option<Message> {
        let place = self.find(number).ok()?;
        let message = self.bound[place].message.take()?;
        self.live -= 1;
        while self.bound.pop_front_if(|first| first.message.is_none()).is_some() {}
        // One that a member keeps for long does not keep the places of all behind it.
        if self.bound.len() > 2 * self.live + DONE_MAX {
            self.bound.retain(|bound| bound.message.is_some());
        }
        Some(message)
    }

    /// What the store was told of and is not done with behind `number`, in order.
    pub(super) fn recorded_behind(&self, number: u64) -> impl Iterator<Item = (u64, &Message)> {
        let first = self.bound.partition_point(|bound| bound.number <= number);
        let bound = self.bound.range(first..);
        let bound = bound.filter_map(|bound| Some((bound.number, bound.message.as_ref()?)));
        let first = self.waiting.partition_point(|waiting| waiting.number <= number);
        let waiting = self.waiting.range(first..).filter(|waiting| waiting.kept.is_some());
        let waiting = waiting.map(|waiting| (waiting.number, &waiting.message));
        let (mut bound, mut waiting) = (bound.peekable(), waiting.peekable());
        core::iter::from_fn(move || match (bound.peek(), waiting.peek()) {
            (Some((one, _)), Some((other, _))) if one > other => waiting.next(),
            (None, _) => waiting.next(),
            _ => bound.next(),
        })
    }

    fn find(&self, number: u64) -> Result<usize, usize> {
        self.bound.binary_search_by_key(&number, |bound| bound.number)
    }

    pub(super) fn check_invariants(&self) {
        debug_assert!(self.waiting.iter().is_sorted_by(|a, b| a.number < b.number));
        debug_assert!(self.bound.iter().is_sorted_by(|a, b| a.number < b.number));
        let live = self.bound.iter().filter(|bound| bound.message.is_some());
        debug_assert_eq!(self.live, live.clone().count());
        let waits = |number| self.waiting.binary_search_by_key(&number, |waiting| waiting.number).is_ok();
        debug_assert!(!live.clone().any(|bound| waits(bound.number)), "a message waits or is with a member");
        let bytes: usize = self.waiting.iter().map(|waiting| waiting.message.cost()).sum();
        debug_assert_eq!(self.bytes, bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use mqtt_proto::types::{Qos, TopicName};
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
    use proptest::strategy::{Just, Strategy};

    fn message(number: u64) -> Message {
        let message = crate::message::MessageRef {
            topic: TopicName::new("a").expect("a topic"),
            properties: &[],
            payload: &number.to_le_bytes(),
            qos: Qos::AtLeastOnce,
            retain: false,
            expires_at: None,
        };
        message.to_message()
    }

    fn kept(recorded: bool) -> Option<Commit> {
        recorded.then_some(Commit::Now)
    }

    #[derive(Clone, Debug)]
    enum Step {
        Publish { waits: bool, recorded: bool },
        Bind,
        Done(prop::sample::Index),
        GiveBack(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (any::<bool>(), any::<bool>()).prop_map(|(waits, recorded)| Step::Publish { waits, recorded }),
            3 => Just(Step::Bind),
            2 => any::<prop::sample::Index>().prop_map(Step::Done),
            2 => any::<prop::sample::Index>().prop_map(Step::GiveBack),
        ]
    }

    fn pick(from: &BTreeMap<u64, bool>, index: prop::sample::Index) -> Option<(u64, bool)> {
        let all: Vec<_> = from.iter().map(|(&number, &recorded)| (number, recorded)).collect();
        (!all.is_empty()).then(|| *index.get(&all))
    }

    proptest! {
        /// By two maps from numbers to whether the store was told.
        #[test]
        fn messages_wait_in_order_and_are_remembered_until_they_are_done_with(
            steps in prop::collection::vec(step(), 0..400),
        ) {
            let mut messages = GroupMessages::default();
            let (mut waiting, mut bound) = (BTreeMap::new(), BTreeMap::new());
            for (number, step) in (1u64..).zip(steps) {
                match step {
                    Step::Publish { waits: true, recorded } => {
                        messages.wait(Waiting { number, kept: kept(recorded), message: message(number) });
                        waiting.insert(number, recorded);
                    }
                    Step::Publish { waits: false, recorded } => {
                        if recorded {
                            messages.bind(number, message(number));
                        }
                        bound.insert(number, recorded);
                    }
                    Step::Bind => {
                        let first = messages.pop();
                        let expected = waiting.pop_first();
                        prop_assert_eq!(first.as_ref().map(|first| (first.number, first.kept.is_some())), expected);
                        let Some(first) = first else { continue };
                        if first.kept.is_some() {
                            messages.bind(first.number, first.message);
                        }
                        bound.insert(first.number, first.kept.is_some());
                    }
                    Step::Done(index) => {
                        let Some((number, recorded)) = pick(&bound, index) else { continue };
                        bound.remove(&number);
                        prop_assert_eq!(messages.unbind(number).is_some(), recorded);
                        prop_assert!(messages.unbind(number).is_none());
                    }
                    Step::GiveBack(index) => {
                        let Some((number, recorded)) = pick(&bound, index) else { continue };
                        bound.remove(&number);
                        prop_assert_eq!(messages.unbind(number).is_some(), recorded);
                        messages.wait(Waiting { number, kept: kept(recorded), message: message(number) });
                        waiting.insert(number, recorded);
                    }
                }
                messages.check_invariants();
                prop_assert_eq!(messages.len(), waiting.len());
                let mut all = waiting.clone();
                all.extend(bound.clone());
                all.retain(|_, recorded| *recorded);
                let found = |behind| -> Vec<u64> {
                    let found = messages.recorded_behind(behind);
                    found.inspect(|(number, kept)| {
                        assert_eq!(kept.as_ref().payload, number.to_le_bytes());
                    }).map(|(number, _)| number).collect()
                };
                prop_assert!(all.keys().copied().eq(found(0)));
                prop_assert!(all.range(number / 2 + 1..).map(|(&number, _)| number).eq(found(number / 2)));
            }
        }
    }

    #[test]
    fn one_that_a_member_keeps_does_not_keep_the_places_of_those_behind_it() {
        let mut messages = GroupMessages::default();
        messages.bind(1, message(1));
        for number in 2..10_000 {
            messages.bind(number, message(number));
            assert!(messages.unbind(number).is_some());
            messages.check_invariants();
            assert!(messages.bound.len() <= DONE_MAX + 3);
        }
        assert!(messages.recorded_behind(0).map(|(number, _)| number).eq([1]));
    }
}
