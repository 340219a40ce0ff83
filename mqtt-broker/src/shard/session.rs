//! Session state (section 4.1): what outlives a Network Connection. Lives on: the home core of its ClientID, always.

use std::collections::BTreeMap;

use ahash::RandomState;
use hashbrown::HashTable;
use mqtt_proto::packet::SubscriptionOptions;
use mqtt_proto::session::{Inbound, Outbound};
use mqtt_proto::types::{PacketId, Qos};

use super::client_id::ClientId;
use super::cold::Cold;
use super::envelope::{GroupRef, OfGroup};
use super::gathers::Gathers;
use super::queue::{Delivery, Queue};
use super::table::{Key, Table};
use super::whereabouts::Whereabouts;
use crate::message::Message;
use crate::router::FilterId;

pub(super) struct Session {
    pub(super) client_id: ClientId,
    /// With the connection of its Client, or the time at which it ends.
    whereabouts: Whereabouts,
    /// Its messages under way and those that wait, from the first on.
    flight: Option<Box<Flight>>,
    /// What few sessions have, or for a short time.
    aside: Option<Box<Aside>>,
    /// Seconds it outlives its connection; `u32::MAX`: for ever.
    pub(super) expiry_seconds: u32,
    /// The filters of its Non-shared Subscriptions.
    filters: FilterIds,
    /// QoS 1 and 2 messages that its Client takes at once.
    window: u16,
    /// The Packet Identifier that comes next while it has no flight: they go on, so that a Client never gets another
    /// message under the one of the last.
    next_id: PacketId,
}

/// No connection has this key: tables do not grow so large.
pub(super) const NOBODY: Key = Key { index: u32::MAX, generation: u32::MAX };

/// Messages of a session.
#[derive(Default)]
pub(super) struct Flight {
    /// The send window. What is in flight counts as delivered only when it is acknowledged.
    pub(super) outbound: Outbound<Delivery>,
    pub(super) inbound: Inbound,
    /// The store's position that the last message which its Client published and which was handed on waits for.
    pub(super) held_until: u64,
    /// Messages that wait for the Client, its send quota or its output buffer.
    pub(super) queue: Queue,
}

impl Flight {
    /// Whether messages wait, or what was sent on an earlier connection.
    pub(super) fn has_to_send(&self) -> bool {
        !self.queue.is_empty() || !self.outbound.can_start()
    }

    /// Whether there is nothing to be remembered once the connection has ended.
    fn is_over(&self) -> bool {
        self.outbound.in_flight() == 0 && self.inbound.is_over() && self.queue.is_empty()
    }
}

/// What a session does not have most of the time.
#[derive(Default)]
pub(super) struct Aside {
    pub(super) shared: Option<Box<Memberships>>,
    pub(super) will: Option<Box<Will>>,
    /// Retained messages still on their way to new subscriptions.
    pub(super) gathers: Option<Box<Gathers>>,
    /// The filters of its Non-shared Subscriptions in order, if there are several.
    #[expect(clippy::box_collection, reason = "few sessions have several")]
    filters: Option<Box<Vec<FilterId>>>,
    /// Messages that wait outside memory.
    cold: Option<Box<Cold>>,
}

/// Memberships in shared groups, by the whole filter, `$share/` included.
pub(super) type Memberships = BTreeMap<Box<str>, Membership>;

/// A membership in a shared group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Membership {
    /// The group, `None` until its owner core has answered.
    pub(super) group: Option<GroupRef>,
    pub(super) options: SubscriptionOptions,
    /// Subscription Identifier, 0 for none.
    pub(super) identifier: u32,
}

/// The filters of a session's Non-shared Subscriptions: one needs no memory of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum FilterIds {
    #[default]
    None,
    One(FilterId),
    /// In [`Aside`].
    Several,
}

/// A Will Message that is stored with the session [MQTT-3.1.2-7].
#[derive(Debug)]
pub(super) struct Will {
    pub(super) message: Message,
    /// Message Expiry Interval: runs from the publication on.
    pub(super) expiry_seconds: Option<u32>,
    pub(super) delay_seconds: u32,
    /// Monotonic milliseconds at which it is published; `None` while connected.
    pub(super) due_at: Option<u64>,
    /// Since when the Client has been away, by wall time; means nothing while connected.
    pub(super) away_since: u64,
}

impl Session {
    pub(super) fn new(client_id: &str, expiry_seconds: u32) -> Session {
        Session {
            client_id: client_id.into(),
            whereabouts: Whereabouts::NEW,
            flight: None,
            aside: None,
            expiry_seconds,
            filters: FilterIds::None,
            window: 0,
            next_id: PacketId::FIRST,
        }
    }

    /// One that outlived the process, with the messages in `flight`.
    pub(super) fn restored(
        client_id: &str,
        expiry_seconds: u32,
        next_id: PacketId,
        mut flight: Flight,
    ) -> Session {
        flight.outbound.go_on_at(next_id);
        let flight = Some(Box::new(flight));
        let mut session = Session { flight, ..Session::new(client_id, expiry_seconds) };
        session.whereabouts.record();
        session.rest(0);
        session
    }

    /// The connection of its Client, while it is there.
    pub(super) fn connection(&self) -> Option<Key> {
        self.whereabouts.connection()
    }

    /// A connection begins whose Client takes `window` messages of QoS 1 and 2 at once.
    pub(super) fn restart(&mut self, connection: Key, window: u16) {
        self.stop_parking();
        self.whereabouts.arrived(connection);
        self.window = window;
        if let Some(flight) = &mut self.flight {
            flight.outbound.restart(window);
            flight.inbound.restart();
        }
    }

    /// Its connection has ended; when it ends itself is not said yet.
    pub(super) fn disconnected(&mut self) {
        self.whereabouts.left(None);
    }

    /// Its Client is away, and it ends at this time in monotonic milliseconds.
    pub(super) fn set_end(&mut self, ends_at: u64) {
        self.whereabouts.left(Some(ends_at));
    }

    /// Whether its Client has left since this was asked last.
    pub(super) fn take_left(&mut self) -> bool {
        self.whereabouts.take_left()
    }

    /// Whether the store knows of it.
    pub(super) fn is_recorded(&self) -> bool {
        self.whereabouts.is_recorded()
    }

    /// The store is told of it.
    pub(super) fn record(&mut self) {
        self.whereabouts.record();
    }

    /// Its Client is away for now: what has nothing to remember gives its memory back. The store has `committed` as much.
    pub(super) fn rest(&mut self, committed: u64) {
        let is_over = |flight: &mut Box<Flight>| flight.is_over() && flight.held_until <= committed;
        if let Some(mut over) = self.flight.take_if(is_over) {
            self.next_id = over.outbound.peek_id().unwrap_or(PacketId::FIRST);
        }
        if let Some(flight) = &mut self.flight {
            flight.outbound.shrink();
            flight.queue.shrink();
        }
    }

    /// Its messages, with room for some.
    pub(super) fn flight(&mut self) -> &mut Flight {
        let (window, next_id) = (self.window, self.next_id);
        self.flight.get_or_insert_with(|| {
            let mut outbound = Outbound::beginning_at(next_id);
            outbound.restart(window);
            Box::new(Flight { outbound, ..Flight::default() })
        })
    }

    /// Its messages, if it has had any.
    pub(super) fn known_flight(&self) -> Option<&Flight> {
        self.flight.as_deref()
    }

    pub(super) fn known_flight_mut(&mut self) -> Option<&mut Flight> {
        self.flight.as_deref_mut()
    }

    /// Whether no message waits.
    pub(super) fn queue_is_empty(&self) -> bool {
        !self.is_cold() && self.flight.as_ref().is_none_or(|flight| flight.queue.is_empty())
    }

    /// Messages that it keeps: those that wait, and those sent whose PUBACK or PUBREC has not come.
    pub(super) fn kept(&self) -> usize {
        let parked = self.cold().map_or(0, |cold| cold.parked.messages() as usize);
        parked
            + self.flight.as_ref().map_or(0, |flight| {
                let sent = flight.outbound.iter().filter(|(_, _, message)| message.is_some());
                flight.queue.len() + sent.count()
            })
    }

    /// What the messages that wait cost in memory.
    pub(super) fn queue_bytes(&self) -> usize {
        let loaded = self.cold().map_or(0, Cold::loaded_bytes);
        loaded + self.flight.as_ref().map_or(0, |flight| flight.queue.bytes())
    }

    /// How many messages wait, and what they cost: those that are parked as many bytes as they take there.
    pub(super) fn waiting(&self) -> (u64, u64) {
        let parked = self.cold().map_or((0, 0), |cold| (cold.parked.messages(), cold.parked.bytes()));
        let queue = self.flight.as_ref().map(|flight| &flight.queue);
        let (len, bytes) = queue.map_or((0, 0), |queue| (queue.len() as u64, queue.bytes() as u64));
        (parked.0 + len, parked.1 + bytes)
    }

    /// Whether messages wait outside memory, or are about to.
    #[inline]
    pub(super) fn is_cold(&self) -> bool {
        self.whereabouts.is_cold()
    }

    /// What is not in memory of its queue.
    pub(super) fn cold(&self) -> Option<&Cold> {
        self.aside.as_ref().filter(|_| self.is_cold())?.cold.as_deref()
    }

    pub(super) fn known_cold_mut(&mut self) -> Option<&mut Cold> {
        self.aside.as_mut()?.cold.as_deref_mut()
    }

    /// The same, to be added to.
    pub(super) fn cold_mut(&mut self) -> &mut Cold {
        self.whereabouts.set_cold(true);
        self.aside().cold.get_or_insert_default()
    }

    /// Messages of it have outlived the process outside memory.
    pub(super) fn set_cold(&mut self, cold: Cold) {
        *self.cold_mut() = cold;
    }

    /// All of its queue is in memory.
    pub(super) fn drop_cold(&mut self) {
        self.whereabouts.set_cold(false);
        if let Some(aside) = &mut self.aside {
            aside.cold = None;
        }
        self.tidy_aside();
    }

    /// A chunk that is being written while its Client is away does not count any more.
    pub(super) fn stop_parking(&mut self) {
        let is_away = self.connection().is_none();
        if self.is_cold() && is_away && self.known_cold_mut().is_some_and(Cold::stop) {
            self.drop_cold();
        }
    }

    /// QoS 1 and 2 messages that its Client takes at once.
    pub(super) fn window(&self) -> u16 {
        self.window
    }

    /// The Packet Identifier that its next message gets.
    pub(super) fn next_packet_id(&mut self) -> PacketId {
        match &mut self.flight {
            Some(flight) => flight.outbound.peek_id().unwrap_or(PacketId::FIRST),
            None => self.next_id,
        }
    }

    /// What few sessions have, if it has any of it.
    pub(super) fn known_aside_mut(&mut self) -> Option<&mut Aside> {
        self.aside.as_deref_mut()
    }

    /// What few sessions have, to be added to.
    pub(super) fn aside(&mut self) -> &mut Aside {
        self.aside.get_or_insert_default()
    }

    /// Gives back the memory for what few sessions have, if nothing is left of it.
    pub(super) fn tidy_aside(&mut self) {
        self.aside.take_if(|aside| {
            let Aside { shared, will, gathers, filters, cold } = &**aside;
            shared.is_none() && will.is_none() && gathers.is_none() && filters.is_none() && cold.is_none()
        });
    }

    /// Monotonic milliseconds at which it ends, unless its Client is back before that.
    pub(super) fn ends_at(&self) -> Option<u64> {
        self.whereabouts.ends_at()
    }

    pub(super) fn will(&self) -> Option<&Will> {
        self.aside.as_ref()?.will.as_deref()
    }

    /// Stores a Will in the place of the one that there may be; whether there was one.
    pub(super) fn set_will(&mut self, will: Option<Box<Will>>) -> bool {
        match will {
            Some(will) => self.aside().will.replace(will).is_some(),
            None => self.take_will().is_some(),
        }
    }

    pub(super) fn take_will(&mut self) -> Option<Box<Will>> {
        let will = self.aside.as_mut()?.will.take();
        self.tidy_aside();
        will
    }

    pub(super) fn gathers(&self) -> Option<&Gathers> {
        self.aside.as_ref()?.gathers.as_deref()
    }

    pub(super) fn gathers_mut(&mut self) -> Option<&mut Gathers> {
        self.aside.as_mut()?.gathers.as_deref_mut()
    }

    /// Whether there is more to send than what is in its flight: retained messages, or what is parked.
    pub(super) fn has_more(&self) -> bool {
        self.is_cold() || self.gathers().is_some()
    }

    /// One that gathers nothing keeps no memory for it.
    pub(super) fn drop_empty_gathers(&mut self) {
        if let Some(aside) = &mut self.aside {
            aside.gathers.take_if(|gathers| gathers.is_empty());
        }
        self.tidy_aside();
    }

    /// The filters of its Non-shared Subscriptions, in order.
    pub(super) fn filters(&self) -> &[FilterId] {
        match &self.filters {
            FilterIds::None => &[],
            FilterIds::One(one) => core::slice::from_ref(one),
            FilterIds::Several => {
                self.aside.as_ref().and_then(|aside| aside.filters.as_ref()).map_or(&[], |several| several)
            }
        }
    }

    pub(super) fn has_filter(&self, filter: FilterId) -> bool {
        self.filters().binary_search(&filter).is_ok()
    }

    pub(super) fn add_filter(&mut self, filter: FilterId) {
        match self.filters {
            FilterIds::None => self.filters = FilterIds::One(filter),
            FilterIds::One(one) if one == filter => {}
            FilterIds::One(one) => {
                self.filters = FilterIds::Several;
                self.aside().filters = Some(Box::new(vec![one.min(filter), one.max(filter)]));
            }
            FilterIds::Several => {
                let several = self.aside().filters.get_or_insert_default();
                if let Err(place) = several.binary_search(&filter) {
                    several.insert(place, filter);
                }
            }
        }
    }

    /// Whether it was there.
    pub(super) fn remove_filter(&mut self, filter: FilterId) -> bool {
        let Ok(place) = self.filters().binary_search(&filter) else { return false };
        let several = self.aside.as_mut().and_then(|aside| aside.filters.as_mut());
        let Some(several) = several else {
            self.filters = FilterIds::None;
            return true;
        };
        several.remove(place);
        if let [one] = several[..] {
            self.take_filters();
            self.filters = FilterIds::One(one);
        } else if several.len() * 4 < several.capacity() {
            several.shrink_to(several.len() * 2);
        }
        true
    }

    /// Takes all of them away.
    pub(super) fn take_filters(&mut self) -> Vec<FilterId> {
        let one = core::mem::take(&mut self.filters);
        let several = self.aside.as_mut().and_then(|aside| aside.filters.take());
        self.tidy_aside();
        match (several, one) {
            (Some(several), _) => *several,
            (None, FilterIds::One(one)) => vec![one],
            (None, _) => Vec::new(),
        }
    }

    pub(super) fn memberships(&self) -> Option<&Memberships> {
        self.aside.as_ref()?.shared.as_deref()
    }

    /// The shared groups that have taken it in.
    pub(super) fn groups(&self) -> impl Iterator<Item = GroupRef> {
        self.memberships()
            .into_iter()
            .flat_map(|shared| shared.values().filter_map(|membership| membership.group))
    }

    pub(super) fn is_member(&self, text: &str) -> bool {
        self.memberships().is_some_and(|shared| shared.contains_key(text))
    }

    /// Becomes a member of a shared group that has not answered yet, or one with other options; whether it was none.
    pub(super) fn join(&mut self, text: &str, options: SubscriptionOptions, identifier: u32) -> bool {
        let shared = self.aside().shared.get_or_insert_default();
        let group = shared.get(text).and_then(|known| known.group);
        shared.insert(text.into(), Membership { group, options, identifier }).is_none()
    }

    /// The group has taken it in; `false` if it is no member any more.
    pub(super) fn joined(&mut self, text: &str, group: GroupRef) -> bool {
        let shared = self.aside.as_mut().and_then(|aside| aside.shared.as_mut());
        let known = shared.and_then(|shared| shared.get_mut(text));
        known.map(|known| known.group = Some(group)).is_some()
    }

    /// Ends its membership `text`, if it has it.
    pub(super) fn leave(&mut self, text: &str) -> Option<Option<GroupRef>> {
        let aside = self.aside.as_mut()?;
        let membership = aside.shared.as_mut()?.remove(text)?;
        aside.shared.take_if(|shared| shared.is_empty());
        self.tidy_aside();
        Some(membership.group)
    }

    /// Ends all its memberships.
    pub(super) fn leave_all(&mut self) -> Memberships {
        let shared = self.aside.as_mut().and_then(|aside| aside.shared.take());
        self.tidy_aside();
        shared.map_or_else(Memberships::new, |shared| *shared)
    }

    /// Subscriptions of both kinds.
    pub(super) fn subscription_count(&self) -> usize {
        self.filters().len() + self.memberships().map_or(0, |shared| shared.len())
    }

    /// Whether its Client is back behind a start before which the session was to end with its connection: only the Will was
    /// left of it, which is taken away.
    pub(super) fn is_over(&mut self) -> bool {
        let is_over = self.connection().is_none() && !self.is_persistent();
        if is_over {
            self.take_will();
        }
        is_over
    }

    /// Whether the store is told of a message of this QoS that waits. The owner of a shared group keeps those of the group
    /// until they are started.
    pub(super) fn records_waiting(&self, qos: Qos, group: Option<OfGroup>) -> bool {
        self.is_persistent() && qos != Qos::AtMostOnce && group.is_none()
    }

    /// Whether the store is told of a message that is sent at this QoS, 1 or 2. One of a shared group is the session's own
    /// at QoS 2 [MQTT-4.8.2-4].
    #[inline]
    pub(super) fn records_sent(&self, qos: Qos, group: Option<OfGroup>) -> bool {
        self.is_persistent() && (group.is_none() || qos == Qos::ExactlyOnce)
    }

    /// Whether messages are kept for it while its Client is away.
    pub(super) fn is_persistent(&self) -> bool {
        self.expiry_seconds > 0
    }
}

/// The sessions at home on this core.
pub(super) struct Sessions {
    table: Table<Session>,
    /// Every session by the hash of its ClientID, which stands in the session itself.
    by_client_id: HashTable<u32>,
    hasher: RandomState,
}

impl Sessions {
    pub(super) fn new(hasher: RandomState) -> Sessions {
        Sessions { table: Table::new(), by_client_id: HashTable::new(), hasher }
    }

    pub(super) fn insert(&mut self, session: Session) -> Key {
        debug_assert!(self.find(&session.client_id).is_none(), "one session a ClientID");
        let hash = self.hasher.hash_one(&*session.client_id);
        let key = self.table.insert(session);
        let Sessions { table, by_client_id, hasher } = self;
        let hash_of = |&index: &u32| hasher.hash_one(&*table.live(index).client_id);
        by_client_id.insert_unique(hash, key.index, hash_of);
        key
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Session> {
        let session = self.table.remove(key)?;
        let hash = self.hasher.hash_one(&*session.client_id);
        if let Ok(entry) = self.by_client_id.find_entry(hash, |known| *known == key.index) {
            entry.remove();
        }
        Some(session)
    }

    pub(super) fn find(&self, client_id: &str) -> Option<Key> {
        let is_its = |&index: &u32| *self.table.live(index).client_id == *client_id;
        let index = self.by_client_id.find(self.hasher.hash_one(client_id), is_its)?;
        self.table.at(*index)
    }

    pub(super) fn get(&self, key: Key) -> Option<&Session> {
        self.table.get(key)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Session> {
        self.table.get_mut(key)
    }

    /// The key of the live session at `index`, which subscription tables name it by.
    pub(super) fn at(&self, index: u32) -> Option<Key> {
        self.table.at(index)
    }

    /// An index that no session has, nor one above it.
    pub(super) fn end(&self) -> u32 {
        self.table.end()
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &Session)> {
        self.table.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mqtt_proto::types::{Qos, ReasonCode};

    #[test]
    fn what_a_session_may_never_use_takes_a_pointer() {
        assert_eq!(size_of::<Session>(), 64);
    }

    #[test]
    fn a_session_that_rests_goes_on_with_its_packet_identifiers() {
        let mut session = Session::new("c", 60);
        let key = Key { index: 0, generation: 0 };
        let message = crate::message::MessageRef {
            topic: mqtt_proto::types::TopicName::new("a").expect("a topic"),
            properties: &[],
            payload: &[],
            qos: Qos::AtLeastOnce,
            retain: false,
            expires_at: None,
        };
        for number in 1..=3 {
            session.restart(key, 1);
            let delivery = Delivery::new(message.to_message(), Qos::AtLeastOnce, false, &[], None);
            let id =
                session.flight().outbound.start(Qos::AtLeastOnce, delivery).expect("the window has room");
            assert_eq!(id.get(), number);
            session.disconnected();
            session.rest(0);
            assert!(session.flight.is_some(), "it waits for PUBACK");
            let acknowledged = session.flight().outbound.handle_puback(id, ReasonCode::SUCCESS);
            assert!(acknowledged.is_ok());
            session.rest(0);
            assert!(session.flight.is_none());
        }
    }

    #[test]
    fn filters_are_kept_in_order_and_once() {
        let filters = {
            let mut subscriptions = crate::router::Subscriptions::new([1, 2, 3, 4]);
            let options = mqtt_proto::packet::SubscriptionOptions::default();
            ["a", "b", "c", "d"].map(|filter| {
                let filter = mqtt_proto::types::TopicFilter::new(filter).expect("a filter");
                let subscriber = crate::router::Subscriber { key: 1, options, identifier: 0 };
                subscriptions.insert(filter, subscriber).filter
            })
        };
        let mut session = Session::new("c", 60);
        for at in [2, 0, 2, 3, 1, 0] {
            session.add_filter(filters[at]);
        }
        assert_eq!(session.filters(), filters);
        for (at, left) in [(1, 3), (1, 3), (0, 2), (3, 1)] {
            let known = session.has_filter(filters[at]);
            assert_eq!(session.remove_filter(filters[at]), known);
            assert_eq!(session.filters().len(), left);
        }
        assert_eq!(session.filters, FilterIds::One(filters[2]));
        assert!(session.aside.is_none(), "one takes no memory of its own");
        assert!(session.remove_filter(filters[2]) && !session.remove_filter(filters[2]));
        assert_eq!(session.filters, FilterIds::None);
        filters.iter().for_each(|&filter| session.add_filter(filter));
        assert_eq!(session.take_filters(), filters);
        assert!(session.filters().is_empty() && session.aside.is_none());
    }
}
