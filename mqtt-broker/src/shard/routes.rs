//! What routing found out about topics that are published to again and again.
//!
//! Invariants: a route is used only while no subscription, here or elsewhere, has changed since it was made; their
//! number and the length of each are bounded, and a topic that comes once pushes none out. Lives on: each core.

use ahash::RandomState;

use crate::router::{Concerned, CoreSet, Matches};

/// Routes a core remembers.
const ROUTES_MAX: usize = 1024;

/// Longer topics, and those with more subscriptions, are worked out each time: what they cost lies elsewhere.
const TOPIC_BYTES_MAX: usize = 256;
const SUBSCRIBERS_MAX: usize = 32;

/// The routes of one core.
pub(super) struct Routes {
    /// By the hash of their topics; none until the first message.
    places: Vec<Place>,
    /// The place of the last topic that had one: messages to one topic come in bursts.
    last: usize,
    hasher: RandomState,
}

/// Where a route is kept. Of two topics that want it, it goes to the one that asks twice in a row.
#[derive(Default)]
struct Place {
    /// Empty if there is no route here.
    topic: Vec<u8>,
    /// Hash of the topic that was the last one to ask in vain.
    asked: u64,
    generation: u64,
    matches: Matches,
    concerned: Concerned,
}

/// Where the messages to a topic go.
pub(super) struct Route {
    /// The subscriptions of this core, those of one session side by side.
    pub(super) matches: Matches,
    /// The other cores with subscriptions.
    pub(super) cores: CoreSet,
    /// Those of them with one of a session that outlives a crash.
    pub(super) kept: CoreSet,
    /// Whence `matches` is lent, if it was remembered.
    place: Option<usize>,
}

impl Place {
    /// The route, if it is that of `topic` and of this generation.
    #[inline]
    fn lend(&mut self, topic: &[u8], generation: u64) -> Option<Route> {
        let is_it = self.generation == generation && self.topic == topic;
        is_it.then(|| Route::new(core::mem::take(&mut self.matches), self.concerned))
    }
}

impl Route {
    /// A route that was worked out.
    pub(super) fn new(matches: Matches, concerned: Concerned) -> Route {
        let Concerned { cores, kept } = concerned;
        Route { matches, cores, kept, place: None }
    }
}

impl Routes {
    pub(super) fn new(hasher: RandomState) -> Routes {
        Routes { places: Vec::new(), last: 0, hasher }
    }

    /// The route of `topic`, if one is remembered from the same generation; [`Routes::give_back`] has to follow.
    ///
    /// # Errors
    /// Whether the route is worth remembering once it has been worked out.
    pub(super) fn find(&mut self, topic: &[u8], generation: u64) -> Result<Route, bool> {
        if let Some(route) = self.places.get_mut(self.last).and_then(|place| place.lend(topic, generation)) {
            return Ok(Route { place: Some(self.last), ..route });
        }
        let (hash, index) = self.index(topic);
        let Some(place) = self.places.get_mut(index) else {
            self.places.resize_with(ROUTES_MAX, Place::default);
            return Err(false);
        };
        if let Some(route) = place.lend(topic, generation) {
            self.last = index;
            return Ok(Route { place: Some(index), ..route });
        }
        Err(core::mem::replace(&mut place.asked, hash) == hash && topic.len() <= TOPIC_BYTES_MAX)
    }

    /// Takes back what [`Routes::find`] lent; `None` if the route was not remembered, with its matches.
    pub(super) fn give_back(&mut self, route: Route) -> Option<Matches> {
        match route.place {
            Some(index) => {
                self.places[index].matches = route.matches;
                None
            }
            None => Some(route.matches),
        }
    }

    /// Remembers the route of a topic.
    pub(super) fn keep(&mut self, topic: &[u8], generation: u64, route: &Route) {
        if route.matches.subscribers.len() > SUBSCRIBERS_MAX {
            return;
        }
        let (_, index) = self.index(topic);
        let place = &mut self.places[index];
        place.topic.clear();
        place.topic.extend_from_slice(topic);
        place.generation = generation;
        place.matches.clone_from(&route.matches);
        place.concerned = Concerned { cores: route.cores, kept: route.kept };
    }

    fn index(&self, topic: &[u8]) -> (u64, usize) {
        let hash = self.hasher.hash_one(topic);
        (hash, hash as usize % ROUTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use mqtt_proto::packet::SubscriptionOptions;

    use super::*;
    use crate::router::Subscriber;

    fn route(subscribers: usize) -> Route {
        let subscriber = Subscriber { key: 1, options: SubscriptionOptions::default(), identifier: 0 };
        let matches = Matches { subscribers: vec![subscriber; subscribers], filters: 1 };
        Route::new(matches, Concerned { cores: CoreSet::from_iter([3]), kept: CoreSet::EMPTY })
    }

    fn routes() -> Routes {
        Routes::new(RandomState::with_seeds(1, 2, 3, 4))
    }

    /// Asks for a topic and keeps what the shard would have found; whether it was remembered.
    fn publish(routes: &mut Routes, topic: &str, generation: u64, subscribers: usize) -> bool {
        match routes.find(topic.as_bytes(), generation) {
            Ok(found) => {
                assert_eq!((found.matches.subscribers.len(), found.cores.len()), (subscribers, 1));
                assert!(routes.give_back(found).is_none());
                true
            }
            Err(worth) => {
                if worth {
                    routes.keep(topic.as_bytes(), generation, &route(subscribers));
                }
                false
            }
        }
    }

    #[test]
    fn a_topic_that_comes_again_is_remembered_until_a_subscription_changes() {
        let mut routes = routes();
        let seen: Vec<bool> = (0..5).map(|_| publish(&mut routes, "a/b", 7, 1)).collect();
        assert_eq!(seen, [false, false, false, true, true]);
        assert!(!publish(&mut routes, "a/b", 8, 2));
        assert!(publish(&mut routes, "a/b", 8, 2));
    }

    #[test]
    fn topics_that_come_once_push_none_out() {
        let mut routes = routes();
        (0..4).for_each(|_| {
            publish(&mut routes, "a/b", 7, 1);
        });
        for number in 0..10 * ROUTES_MAX {
            assert!(!publish(&mut routes, &format!("once/{number}"), 7, 1));
        }
        assert!(publish(&mut routes, "a/b", 7, 1));
    }

    #[test]
    fn long_topics_and_long_lists_are_not_kept() {
        let mut routes = routes();
        let long = "t".repeat(TOPIC_BYTES_MAX + 1);
        assert!((0..9).all(|_| !publish(&mut routes, &long, 7, 1)));
        assert!((0..9).all(|_| !publish(&mut routes, "many", 7, SUBSCRIBERS_MAX + 1)));
        let bytes: usize = routes.places.iter().map(|place| place.topic.capacity()).sum();
        assert_eq!(bytes, 0);
    }
}
