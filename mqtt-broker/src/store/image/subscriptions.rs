//! The subscriptions of one session: a list while they are few, sorted once they are many.

use std::collections::{BTreeMap, btree_map};
use std::slice;

use mqtt_proto::packet::SubscriptionOptions;

/// A subscription, but for its Topic Filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// Its options.
    pub options: SubscriptionOptions,
    /// Its Subscription Identifier, 0 for none.
    pub identifier: u32,
}

/// Subscriptions by their whole Topic Filters, each of which occurs once.
#[derive(Debug)]
pub struct Subscriptions(Kept);

#[derive(Debug)]
enum Kept {
    Few(Vec<(Box<str>, Subscription)>),
    #[expect(clippy::box_collection, reason = "a session pays for a list; few have so many subscriptions")]
    Many(Box<BTreeMap<Box<str>, Subscription>>),
}

/// Lists up to this length are searched from one end to the other.
const FEW_MAX: usize = 64;

impl Default for Subscriptions {
    fn default() -> Subscriptions {
        Subscriptions(Kept::Few(Vec::new()))
    }
}

impl Subscriptions {
    /// How many there are.
    pub fn len(&self) -> usize {
        match &self.0 {
            Kept::Few(few) => few.len(),
            Kept::Many(many) => many.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Subscription)> {
        let (few, many): (slice::Iter<'_, _>, Option<btree_map::Iter<'_, _, _>>) = match &self.0 {
            Kept::Few(few) => (few.iter(), None),
            Kept::Many(many) => (Default::default(), Some(many.iter())),
        };
        let few = few.map(|(filter, subscription)| (&**filter, *subscription));
        few.chain(many.into_iter().flatten().map(|(filter, subscription)| (&**filter, *subscription)))
    }

    /// Makes or replaces one.
    pub(super) fn insert(&mut self, filter: &str, subscription: Subscription) {
        match &mut self.0 {
            Kept::Few(few) => {
                if let Some((_, known)) = few.iter_mut().find(|(known, _)| **known == *filter) {
                    *known = subscription;
                } else if few.len() < FEW_MAX {
                    if few.capacity() == 0 {
                        // Most sessions have one.
                        few.reserve_exact(1);
                    }
                    few.push((filter.into(), subscription));
                } else {
                    let mut many: BTreeMap<_, _> = few.drain(..).collect();
                    many.insert(filter.into(), subscription);
                    self.0 = Kept::Many(Box::new(many));
                }
            }
            Kept::Many(many) => match many.get_mut(filter) {
                Some(known) => *known = subscription,
                None => drop(many.insert(filter.into(), subscription)),
            },
        }
    }

    /// Ends one.
    pub(super) fn remove(&mut self, filter: &str) {
        match &mut self.0 {
            Kept::Few(few) => {
                if let Some(place) = few.iter().position(|(known, _)| **known == *filter) {
                    few.remove(place);
                }
            }
            Kept::Many(many) => drop(many.remove(filter)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_many_are_kept_alike() {
        let mut subscriptions = Subscriptions::default();
        let mut model = BTreeMap::new();
        for step in 0..2000u32 {
            // Growing past what is few, and shrinking again.
            let filter = format!("f/{}", step * 7919 % 151);
            if step % 5 == 4 || step > 1500 {
                subscriptions.remove(&filter);
                model.remove(&filter);
            } else {
                let subscription = Subscription { options: SubscriptionOptions::default(), identifier: step };
                subscriptions.insert(&filter, subscription);
                model.insert(filter, subscription);
            }
            assert_eq!(subscriptions.len(), model.len());
            let found: BTreeMap<_, _> = subscriptions
                .iter()
                .map(|(filter, subscription)| (filter.to_owned(), subscription))
                .collect();
            assert_eq!(found, model);
        }
        assert!(subscriptions.is_empty() && matches!(subscriptions.0, Kept::Many(_)));
    }
}
