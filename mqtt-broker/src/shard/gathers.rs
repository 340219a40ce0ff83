//! What one session still has to be sent of retained messages: its gatherings, and what was delivered live meanwhile.
//!
//! A barrier is known by its token, and tokens grow: cores answer barriers in order, so whoever has answered one has
//! answered all before it, and how far the lanes had got at the last one passed holds for all gatherings behind it.
//! Invariant: `idle` and `asked` name gatherings that are there and whose own barrier is passed, or is the one that all
//! wait for. Every step takes logarithmic time, however many subscriptions a session makes. Lives on: the session's home
//! core.

use std::collections::{BTreeMap, BTreeSet};

use mqtt_proto::types::Qos;

use crate::router::FilterId;

/// Retained messages on their way to one subscription.
#[derive(Debug)]
pub(super) struct Gather {
    pub(super) filter: FilterId,
    pub(super) text: Box<str>,
    pub(super) qos: Qos,
    pub(super) identifier: u32,
    /// The home core that is being asked.
    pub(super) source: u16,
    /// Topic behind which that core goes on; empty: from its first.
    pub(super) after: String,
    /// The barrier that it waits for or has passed.
    pub(super) barrier: u64,
}

/// The gatherings of a session, by the token that each goes by at present.
#[derive(Debug, Default)]
pub(super) struct Gathers {
    by_token: BTreeMap<u64, Gather>,
    by_filter: BTreeMap<FilterId, u64>,
    /// Those for which a slice may be asked.
    idle: BTreeSet<u64>,
    /// The one whose slice is on its way.
    asked: Option<u64>,
    /// Topics delivered live, by hash, and the last barrier that their core had answered when it sent the message.
    /// What it sends before it answers a barrier, a home core has handled before it is asked behind that barrier: an
    /// older interest's message must not hide a newer retained one.
    live: BTreeMap<u64, u64>,
    /// The barrier that all wait for since `live` was emptied.
    floor: u64,
    /// The last barrier passed, and how far the lanes had got then.
    passed: u64,
    marks: Marks,
}

/// How far each core's lane to each core had got at a barrier.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    cores: usize,
    sent: Vec<u64>,
}

impl Marks {
    pub(super) fn new(cores: usize) -> Marks {
        Marks { cores, sent: vec![0; cores * cores] }
    }

    pub(super) fn set(&mut self, from: usize, sent: impl Iterator<Item = u64>) {
        let row = &mut self.sent[from * self.cores..][..self.cores];
        row.iter_mut().zip(sent).for_each(|(mark, sent)| *mark = sent);
    }

    /// Up to where `to` has to have handled each core's lane.
    pub(super) fn until(&self, to: usize) -> Vec<u64> {
        (0..self.cores).map(|from| self.sent[from * self.cores + to]).collect()
    }
}

impl Gathers {
    /// Adds a gathering; the token of the one for the same subscription that it takes the place of.
    pub(super) fn insert(&mut self, token: u64, gather: Gather) -> Option<u64> {
        let replaced = self.remove(gather.filter);
        self.by_filter.insert(gather.filter, token);
        self.by_token.insert(token, gather);
        replaced
    }

    /// Forgets the gathering for a subscription; its token.
    pub(super) fn remove(&mut self, filter: FilterId) -> Option<u64> {
        let token = self.by_filter.remove(&filter)?;
        self.by_token.remove(&token);
        self.idle.remove(&token);
        self.asked.take_if(|asked| *asked == token);
        Some(token)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_token.is_empty()
    }

    pub(super) fn get(&self, token: u64) -> Option<&Gather> {
        self.by_token.get(&token)
    }

    pub(super) fn tokens(&self) -> impl Iterator<Item = u64> + '_ {
        self.by_token.keys().copied()
    }

    /// The gathering begins when `barrier` is passed.
    pub(super) fn wait(&mut self, token: u64, barrier: u64) {
        if let Some(gather) = self.by_token.get_mut(&token) {
            gather.barrier = barrier;
        }
    }

    /// `barrier` is passed; `begin` are those that waited for it.
    pub(super) fn barrier_passed(&mut self, barrier: u64, marks: Marks, begin: &[u64]) {
        debug_assert!(barrier > self.passed, "barriers are passed in order");
        (self.passed, self.marks) = (barrier, marks);
        self.idle.extend(begin.iter().filter(|token| self.by_token.contains_key(token)));
    }

    /// The gathering to ask the next slice for, and what has to be handled before its answer.
    pub(super) fn ask(&mut self) -> Option<(u64, &Gather, Vec<u64>)> {
        if self.asked.is_some() || self.passed < self.floor {
            return None;
        }
        let token = self.idle.pop_first()?;
        self.asked = Some(token);
        let gather = self.by_token.get(&token)?;
        Some((token, gather, self.marks.until(usize::from(gather.source))))
    }

    /// A slice has arrived that ended at `position`, or with the last topic of its core; whether the gathering is
    /// complete, which is forgotten then.
    pub(super) fn slice_taken(&mut self, token: u64, position: &str, done: bool, cores: u16) -> bool {
        self.asked.take_if(|asked| *asked == token);
        let Some(gather) = self.by_token.get_mut(&token) else { return false };
        gather.after.clear();
        if done {
            gather.source += 1;
        } else {
            gather.after.push_str(position);
        }
        if gather.source < cores {
            self.idle.insert(token);
            return false;
        }
        let filter = gather.filter;
        self.remove(filter);
        true
    }

    /// Notes a topic delivered live by a core that had answered all barriers up to `answered`; whether that is more
    /// than `max` topics.
    pub(super) fn note_live(&mut self, topic: u64, answered: u64, max: usize) -> bool {
        let first = self.by_token.first_key_value().map_or(0, |(_, gather)| gather.barrier);
        if answered < first.max(self.floor) {
            return false;
        }
        let known = self.live.entry(topic).or_insert(answered);
        *known = answered.max(*known);
        self.live.len() > max
    }

    /// Whether the topic was delivered live since the subscription of this gathering was known.
    pub(super) fn is_live(&self, token: u64, topic: u64) -> bool {
        let Some(gather) = self.by_token.get(&token) else { return false };
        self.live.get(&topic).is_some_and(|&answered| answered >= gather.barrier.max(self.floor))
    }

    /// All go on behind a new barrier: what was delivered live before it is known at the home cores by then, so what
    /// was remembered of it is forgotten. A slice on its way is not waited for any more: its gathering goes by `token`
    /// from now on. The token that it had.
    pub(super) fn restart(&mut self, barrier: u64, token: u64) -> Option<u64> {
        self.live.clear();
        self.floor = barrier;
        let old = self.asked.take()?;
        let mut gather = self.by_token.remove(&old)?;
        gather.barrier = barrier;
        self.by_filter.insert(gather.filter, token);
        self.by_token.insert(token, gather);
        self.idle.insert(token);
        Some(old)
    }

    pub(super) fn check_invariants(&self) {
        debug_assert_eq!(self.by_token.len(), self.by_filter.len());
        debug_assert!(self.by_filter.values().all(|token| self.by_token.contains_key(token)));
        let may_begin = |gather: &Gather| gather.barrier <= self.passed.max(self.floor);
        debug_assert!(
            self.idle.iter().chain(&self.asked).all(|&token| self.get(token).is_some_and(may_begin))
        );
        debug_assert!(self.asked.is_none_or(|token| !self.idle.contains(&token)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::Subscriptions;
    use mqtt_proto::packet::SubscriptionOptions;
    use mqtt_proto::types::TopicFilter;

    /// Gatherings for `count` filters, token and barrier counted from 1 in turn: 1 and 2, 3 and 4 and so on.
    fn gathers(count: usize) -> (Gathers, Vec<FilterId>) {
        let mut subscriptions = Subscriptions::new([1, 2, 3, 4]);
        let mut gathers = Gathers::default();
        let mut filters = Vec::new();
        for n in 0..count {
            let text = format!("a/{n}");
            let options = SubscriptionOptions::new(Qos::AtMostOnce);
            let subscriber = crate::router::Subscriber { key: 0, options, identifier: 0 };
            let filter = subscriptions.insert(TopicFilter::new(&text).expect("a filter"), subscriber).filter;
            let gather = Gather {
                filter,
                text: text.into(),
                qos: Qos::AtMostOnce,
                identifier: 0,
                source: 0,
                after: String::new(),
                barrier: 0,
            };
            gathers.insert(n as u64 * 2 + 1, gather);
            gathers.wait(n as u64 * 2 + 1, n as u64 * 2 + 2);
            filters.push(filter);
        }
        (gathers, filters)
    }

    fn asked(gathers: &mut Gathers) -> Option<u64> {
        let token = gathers.ask().map(|(token, ..)| token);
        gathers.check_invariants();
        token
    }

    #[test]
    fn one_slice_at_a_time_is_asked_for_and_only_behind_the_own_barrier() {
        let (mut gathers, _) = gathers(2);
        assert_eq!(asked(&mut gathers), None);
        gathers.barrier_passed(2, Marks::new(1), &[1]);
        assert_eq!(asked(&mut gathers), Some(1));
        gathers.barrier_passed(4, Marks::new(1), &[3]);
        assert_eq!(asked(&mut gathers), None, "one is on its way");
        assert!(!gathers.slice_taken(1, "a/0", false, 1));
        assert_eq!(asked(&mut gathers), Some(1));
        assert!(gathers.slice_taken(1, "", true, 1));
        assert_eq!(asked(&mut gathers), Some(3));
        assert!(gathers.slice_taken(3, "", true, 1));
        assert!(gathers.is_empty());
    }

    #[test]
    fn a_live_topic_counts_for_the_gatherings_whose_barrier_its_core_had_answered() {
        let (mut gathers, _) = gathers(2);
        assert!(!gathers.note_live(7, 1, 10));
        assert!(!gathers.is_live(1, 7), "sent before the first barrier was answered");
        assert!(!gathers.note_live(7, 3, 10));
        assert!(gathers.is_live(1, 7));
        assert!(!gathers.is_live(3, 7), "sent before the second was");
        assert!(!gathers.note_live(7, 4, 10));
        assert!(gathers.is_live(3, 7));
    }

    #[test]
    fn after_too_many_live_topics_all_wait_for_a_new_barrier_and_remember_nothing() {
        let (mut gathers, filters) = gathers(2);
        gathers.barrier_passed(2, Marks::new(1), &[1]);
        gathers.barrier_passed(4, Marks::new(1), &[3]);
        assert_eq!(asked(&mut gathers), Some(1));
        assert!(!gathers.note_live(7, 4, 1));
        assert!(gathers.note_live(8, 4, 1));
        assert_eq!(gathers.restart(5, 6), Some(1));
        assert!(!gathers.is_live(3, 7));
        assert!(!gathers.note_live(7, 4, 1), "known at the home cores behind the new barrier");
        assert!(!gathers.is_live(3, 7));
        assert_eq!(asked(&mut gathers), None);
        gathers.barrier_passed(5, Marks::new(1), &[]);
        assert_eq!(asked(&mut gathers), Some(3));
        // The slice that was on its way finds nobody.
        assert!(!gathers.slice_taken(1, "", true, 1));
        assert!(gathers.slice_taken(3, "", true, 1));
        assert_eq!(asked(&mut gathers), Some(6));
        assert_eq!(gathers.remove(filters[0]), Some(6));
        assert!(gathers.is_empty());
    }
}
