//! One Shared Subscription group at its owner core: who gets the next message.
//!
//! The group keeps no message. It knows its members, which of them are online, and how many messages each may still
//! take; [`Group::choose`] binds a message to one of them. Invariant: `ready` holds exactly the members that are online
//! and have credit. Lives on: the core that owns the group.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use mqtt_proto::packet::SubscriptionOptions;

use super::slab::Slab;

/// How a group picks the member for a message. Whatever the way, only members that are online and have credit count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Strategy {
    /// The member whose last message is the longest ago.
    #[default]
    RoundRobin,
    /// One member as long as it is online; the others only while it has no credit.
    Sticky,
    /// By the publishing Client: its messages go to one member, as long as that can take them.
    HashClient,
    /// By the Topic Name: messages of one topic go to one member, as long as that can take them.
    HashTopic,
    /// The member with the fewest messages in flight.
    LeastInFlight,
}

/// A text that names no [`Strategy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected round_robin, sticky, hash_client, hash_topic or least_in_flight")]
pub struct UnknownStrategy;

impl Strategy {
    /// All of them.
    pub const ALL: [Strategy; 5] = [
        Strategy::RoundRobin,
        Strategy::Sticky,
        Strategy::HashClient,
        Strategy::HashTopic,
        Strategy::LeastInFlight,
    ];

    /// Its name in configuration files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Strategy::RoundRobin => "round_robin",
            Strategy::Sticky => "sticky",
            Strategy::HashClient => "hash_client",
            Strategy::HashTopic => "hash_topic",
            Strategy::LeastInFlight => "least_in_flight",
        }
    }
}

impl FromStr for Strategy {
    type Err = UnknownStrategy;
    fn from_str(text: &str) -> Result<Strategy, UnknownStrategy> {
        Strategy::ALL.into_iter().find(|strategy| strategy.as_str() == text).ok_or(UnknownStrategy)
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A member of a group: a session, wherever its home is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId {
    /// The session's home core.
    pub core: u16,
    /// The session in that core's table.
    pub key: u32,
    /// Tells the session from an earlier one under the same key.
    pub generation: u32,
}

/// The member that gets a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Who.
    pub id: MemberId,
    /// With which Subscription Options: the QoS is that of this member [MQTT-4.8.2-3].
    pub options: SubscriptionOptions,
    /// Its Subscription Identifier, 0 for none.
    pub identifier: u32,
}

struct Member {
    id: MemberId,
    options: SubscriptionOptions,
    identifier: u32,
    online: bool,
    persistent: bool,
    credit: u16,
    in_flight: u32,
    /// When it was last chosen, on the group's own counter; when it joined, if never.
    turn: u64,
}

/// A member's place among those that can take a message: the first is the next, but for hashing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    load: u32,
    turn: u64,
    slot: u32,
}

/// The members of one Shared Subscription.
pub struct Group {
    strategy: Strategy,
    members: Slab<Member>,
    slots: BTreeMap<MemberId, u32>,
    ready: BTreeSet<Rank>,
    /// The member that a sticky group keeps to.
    sticky: Option<u32>,
    turn: u64,
    online: usize,
    persistent: usize,
}

impl Group {
    /// A group without members.
    pub fn new(strategy: Strategy) -> Group {
        Group {
            strategy,
            members: Slab::new(),
            slots: BTreeMap::new(),
            ready: BTreeSet::new(),
            sticky: None,
            turn: 0,
            online: 0,
            persistent: 0,
        }
    }

    /// How it picks members.
    pub fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// Makes `id` a member, offline for now; of a member only options and identifier are replaced [MQTT-3.8.4-3].
    pub fn join(&mut self, id: MemberId, options: SubscriptionOptions, identifier: u32) {
        if let Some(&slot) = self.slots.get(&id) {
            let member = self.members.at_mut(slot);
            (member.options, member.identifier) = (options, identifier);
            return;
        }
        let slot = self.members.insert(Member {
            id,
            options,
            identifier,
            online: false,
            persistent: false,
            credit: 0,
            in_flight: 0,
            turn: self.turn,
        });
        self.turn += 1;
        self.slots.insert(id, slot);
    }

    /// Ends the membership of `id`; false if it was no member.
    pub fn leave(&mut self, id: MemberId) -> bool {
        if !self.slots.contains_key(&id) {
            return false;
        }
        self.set_persistent(id, false);
        self.set_offline(id);
        if let Some(slot) = self.slots.remove(&id) {
            self.members.remove(slot);
        }
        true
    }

    /// `id` is connected and takes up to `credit` messages; nothing is in flight to it on this connection.
    pub fn set_online(&mut self, id: MemberId, credit: u16) {
        self.change(id, |member| {
            member.online = true;
            member.credit = credit;
            member.in_flight = 0;
        });
    }

    /// `id` is not connected: it takes nothing, and what was in flight to it is not counted any more.
    pub fn set_offline(&mut self, id: MemberId) {
        self.change(id, |member| {
            member.online = false;
            member.credit = 0;
            member.in_flight = 0;
        });
        if self.sticky.is_some() && self.sticky == self.slots.get(&id).copied() {
            self.sticky = None;
        }
    }

    /// `n` messages of those in flight to `id` are done, so that it takes as many again.
    ///
    /// Late news of an ended connection does no harm: an offline member is not chosen, and [`Group::set_online`] starts
    /// its credit anew.
    pub fn add_credit(&mut self, id: MemberId, n: u16) {
        self.change(id, |member| {
            member.credit = member.credit.saturating_add(n);
            member.in_flight = member.in_flight.saturating_sub(u32::from(n));
        });
    }

    /// Whether the session of `id` outlives its connection.
    pub fn set_persistent(&mut self, id: MemberId, persistent: bool) {
        let Some(&slot) = self.slots.get(&id) else { return };
        let member = self.members.at_mut(slot);
        self.persistent -= usize::from(member.persistent);
        self.persistent += usize::from(persistent);
        member.persistent = persistent;
    }

    /// The member that gets the next message; takes one of its credits and counts the message as in flight.
    ///
    /// `None`: nobody can take it now. `client_hash` and `topic_hash` stand for the publishing Client and the Topic Name.
    /// Hashing is rendezvous hashing: when a member leaves, only what it got goes to others. It looks at every member
    /// that is ready, the other strategies at one.
    pub fn choose(&mut self, client_hash: u64, topic_hash: u64) -> Option<Chosen> {
        let slot = match self.strategy {
            Strategy::RoundRobin | Strategy::LeastInFlight => self.ready.first()?.slot,
            Strategy::Sticky => {
                let kept = self.sticky.filter(|&slot| self.members.at(slot).credit > 0);
                let slot = match kept {
                    Some(slot) => slot,
                    None => self.ready.first()?.slot,
                };
                self.sticky = self.sticky.or(Some(slot));
                slot
            }
            Strategy::HashClient => self.highest(client_hash)?,
            Strategy::HashTopic => self.highest(topic_hash)?,
        };
        let member = self.members.at_mut(slot);
        self.ready.remove(&rank(self.strategy, slot, member));
        member.credit -= 1;
        member.in_flight += 1;
        if matches!(self.strategy, Strategy::RoundRobin | Strategy::LeastInFlight) {
            member.turn = self.turn;
            self.turn += 1;
        }
        if member.credit > 0 {
            self.ready.insert(rank(self.strategy, slot, member));
        }
        Some(Chosen { id: member.id, options: member.options, identifier: member.identifier })
    }

    /// Whether it has no member.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// How many members it has.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// The members, in the order of their ids.
    pub fn members(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.slots.keys().copied()
    }

    /// How many members are online.
    pub fn online(&self) -> usize {
        self.online
    }

    /// Whether a member's session outlives its connection, so that messages are kept while nobody is online.
    pub fn has_persistent(&self) -> bool {
        self.persistent > 0
    }

    /// Whether `choose` would find a member now.
    pub fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// How many messages are in flight to `id`.
    pub fn in_flight(&self, id: MemberId) -> Option<u32> {
        self.slots.get(&id).map(|&slot| self.members.at(slot).in_flight)
    }

    /// Applies `change` to the member `id` and puts it where it belongs now.
    fn change(&mut self, id: MemberId, change: impl FnOnce(&mut Member)) {
        let Some(&slot) = self.slots.get(&id) else { return };
        let member = self.members.at_mut(slot);
        self.ready.remove(&rank(self.strategy, slot, member));
        self.online -= usize::from(member.online);
        change(member);
        self.online += usize::from(member.online);
        if member.online && member.credit > 0 {
            self.ready.insert(rank(self.strategy, slot, member));
        }
    }

    /// The ready member with the highest weight for `hash`.
    fn highest(&self, hash: u64) -> Option<u32> {
        let ready = self.ready.iter().map(|rank| rank.slot);
        ready.max_by_key(|&slot| (weight(self.members.at(slot).id, hash), slot))
    }
}

fn rank(strategy: Strategy, slot: u32, member: &Member) -> Rank {
    let load = if strategy == Strategy::LeastInFlight { member.in_flight } else { 0 };
    Rank { load, turn: member.turn, slot }
}

/// How much the member `id` is meant for `hash`: evenly spread over members and hashes.
fn weight(id: MemberId, hash: u64) -> u64 {
    let member = u64::from(id.key) << 32 | u64::from(id.generation ^ u32::from(id.core).rotate_left(16));
    mix(mix(member) ^ hash)
}

/// Spreads `value` over all 64 bits, each input bit over about half of them.
fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 32).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    let value = (value ^ value >> 32).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    value ^ value >> 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use mqtt_proto::types::Qos;
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
    use proptest::strategy::Strategy as _;

    const OPTIONS: SubscriptionOptions = SubscriptionOptions::new(Qos::AtLeastOnce);

    fn id(key: u32) -> MemberId {
        MemberId { core: (key % 3) as u16, key, generation: 1 }
    }

    fn group(strategy: Strategy, members: u32, credit: u16) -> Group {
        let mut group = Group::new(strategy);
        for key in 0..members {
            group.join(id(key), OPTIONS, key);
            group.set_online(id(key), credit);
        }
        group
    }

    fn chosen(group: &mut Group, hash: u64) -> Option<u32> {
        group.choose(hash, hash).map(|chosen| chosen.id.key)
    }

    #[test]
    fn names_are_read_as_written() {
        for strategy in Strategy::ALL {
            assert_eq!(strategy.to_string().parse(), Ok(strategy));
        }
        assert_eq!("random".parse::<Strategy>(), Err(UnknownStrategy));
    }

    #[test]
    fn round_robin_takes_turns_and_passes_over_who_cannot() {
        let mut group = group(Strategy::RoundRobin, 3, 100);
        let mut turns = |count: usize| -> Vec<u32> {
            (0..count).map(|_| chosen(&mut group, 0).expect("all are ready")).collect()
        };
        assert_eq!(turns(7), [0, 1, 2, 0, 1, 2, 0]);
        group.set_offline(id(1));
        assert_eq!((chosen(&mut group, 0), chosen(&mut group, 0)), (Some(2), Some(0)));
        group.set_online(id(1), 1);
        assert_eq!(chosen(&mut group, 0), Some(1));
        let rest: Vec<_> = (0..4).map(|_| chosen(&mut group, 0)).collect();
        assert_eq!(rest, [Some(2), Some(0), Some(2), Some(0)], "the credit of 1 is spent");
    }

    #[test]
    fn sticky_keeps_to_one_member_and_strands_nothing() {
        let mut group = group(Strategy::Sticky, 3, 2);
        assert_eq!((chosen(&mut group, 0), chosen(&mut group, 1)), (Some(0), Some(0)));
        assert_eq!(chosen(&mut group, 2), Some(1), "0 has no credit");
        group.add_credit(id(0), 1);
        group.set_offline(id(2));
        group.set_offline(id(7));
        assert_eq!(chosen(&mut group, 3), Some(0), "it is still the one, whoever else goes");
        group.set_online(id(2), 2);
        group.set_offline(id(0));
        assert_eq!(chosen(&mut group, 4), Some(1));
        group.set_online(id(0), 2);
        group.add_credit(id(1), 1);
        assert_eq!(chosen(&mut group, 5), Some(1), "now 1 is the one");
        assert!(group.leave(id(1)) && !group.leave(id(1)));
        assert_eq!(chosen(&mut group, 6), Some(0));
    }

    #[test]
    fn hashing_moves_only_the_share_of_who_leaves() {
        for strategy in [Strategy::HashClient, Strategy::HashTopic] {
            let mut group = group(strategy, 5, u16::MAX);
            let hash = |number: u64| number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let before: Vec<u32> =
                (0..1000).map(|number| chosen(&mut group, hash(number)).unwrap()).collect();
            for key in 0..5 {
                let share = before.iter().filter(|&&chosen| chosen == key).count();
                assert!((120..280).contains(&share), "{share} of 1000 for one of five");
            }
            group.leave(id(3));
            for (number, before) in before.into_iter().enumerate() {
                let now = chosen(&mut group, hash(number as u64)).unwrap();
                assert!(now == before || before == 3);
                assert_ne!(now, 3);
            }
        }
    }

    /// Sessions of the same key and generation on different cores, of different generations, of different keys: each
    /// third gets about a third.
    #[test]
    fn hashing_tells_members_apart_by_all_that_names_them() {
        let members: [fn(u32) -> MemberId; 3] = [
            |n| MemberId { core: n as u16, key: 7, generation: 3 },
            |n| MemberId { core: 1, key: n, generation: 3 },
            |n| MemberId { core: 1, key: 7, generation: n },
        ];
        for member in members {
            let mut group = Group::new(Strategy::HashTopic);
            for id in (0..3).map(member) {
                group.join(id, OPTIONS, 0);
                group.set_online(id, u16::MAX);
            }
            for number in 0..900u64 {
                group.choose(0, number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            }
            for id in (0..3).map(member) {
                let share = group.in_flight(id).expect("a member");
                assert!((220..380).contains(&share), "{share} of 900 for {id:?}");
            }
        }
    }

    #[test]
    fn the_strategy_picks_the_hash() {
        let mut by_client = group(Strategy::HashClient, 8, 1000);
        let mut by_topic = group(Strategy::HashTopic, 8, 1000);
        let mut clients = BTreeSet::new();
        let mut topics = BTreeSet::new();
        for number in 0..50 {
            clients.insert(by_client.choose(7, number).map(|chosen| chosen.id));
            topics.insert(by_topic.choose(number, 7).map(|chosen| chosen.id));
        }
        assert_eq!((clients.len(), topics.len()), (1, 1));
    }

    #[test]
    fn joining_again_replaces_the_options_alone() {
        let mut group = group(Strategy::RoundRobin, 1, 1);
        let options = SubscriptionOptions::new(Qos::AtMostOnce);
        group.join(id(0), options, 9);
        assert_eq!(group.choose(0, 0), Some(Chosen { id: id(0), options, identifier: 9 }));
        assert_eq!((group.len(), group.in_flight(id(0))), (1, Some(1)));
    }

    #[test]
    fn persistent_members_are_counted() {
        let mut group = group(Strategy::RoundRobin, 2, 1);
        assert!(!group.has_persistent());
        group.set_persistent(id(1), true);
        group.set_persistent(id(1), true);
        assert!(group.has_persistent());
        group.leave(id(1));
        assert!(!group.has_persistent() && !group.is_empty());
    }

    #[derive(Clone, Debug)]
    enum Operation {
        Join(u32),
        Leave(u32),
        Online(u32, u16),
        Offline(u32),
        Credit(u32, u16),
        Persistent(u32, bool),
        Choose(u64),
    }

    #[derive(Default)]
    struct Model {
        online: bool,
        persistent: bool,
        credit: u16,
        in_flight: u32,
        last: u64,
    }

    impl Model {
        fn is_ready(&self) -> bool {
            self.online && self.credit > 0
        }
    }

    fn operation() -> impl proptest::strategy::Strategy<Value = Operation> {
        let key = || 0u32..6;
        prop_oneof![
            2 => key().prop_map(Operation::Join),
            1 => key().prop_map(Operation::Leave),
            2 => (key(), 0u16..5).prop_map(|(key, credit)| Operation::Online(key, credit)),
            1 => key().prop_map(Operation::Offline),
            2 => (key(), 0u16..4).prop_map(|(key, credit)| Operation::Credit(key, credit)),
            1 => (key(), any::<bool>()).prop_map(|(key, is)| Operation::Persistent(key, is)),
            9 => (0u64..4).prop_map(Operation::Choose),
        ]
    }

    proptest! {
        #[test]
        fn a_group_answers_as_a_plain_list_of_its_members(
            strategy in prop::sample::select(Strategy::ALL.to_vec()),
            operations in prop::collection::vec(operation(), 0..120),
        ) {
            let mut group = Group::new(strategy);
            let mut model: BTreeMap<MemberId, Model> = BTreeMap::new();
            // The one that a sticky group keeps to; who was chosen for a hash among whom.
            let mut kept = None;
            let mut chosen_before: BTreeMap<(u64, Vec<MemberId>), MemberId> = BTreeMap::new();
            for (now, operation) in (1u64..).zip(operations) {
                match operation {
                    Operation::Join(key) => {
                        group.join(id(key), OPTIONS, key);
                        model.entry(id(key)).or_insert(Model { last: now, ..Model::default() });
                    }
                    Operation::Leave(key) => {
                        prop_assert_eq!(group.leave(id(key)), model.remove(&id(key)).is_some());
                        kept = kept.filter(|&kept| kept != id(key));
                    }
                    Operation::Online(key, credit) => {
                        group.set_online(id(key), credit);
                        if let Some(member) = model.get_mut(&id(key)) {
                            (member.online, member.credit, member.in_flight) = (true, credit, 0);
                        }
                    }
                    Operation::Offline(key) => {
                        group.set_offline(id(key));
                        if let Some(member) = model.get_mut(&id(key)) {
                            (member.online, member.credit, member.in_flight) = (false, 0, 0);
                        }
                        kept = kept.filter(|&kept| kept != id(key));
                    }
                    Operation::Credit(key, credit) => {
                        group.add_credit(id(key), credit);
                        if let Some(member) = model.get_mut(&id(key)).filter(|member| member.online) {
                            member.credit += credit;
                            member.in_flight = member.in_flight.saturating_sub(u32::from(credit));
                        }
                    }
                    Operation::Persistent(key, is) => {
                        group.set_persistent(id(key), is);
                        if let Some(member) = model.get_mut(&id(key)) {
                            member.persistent = is;
                        }
                    }
                    Operation::Choose(hash) => {
                        let ready = || model.values().filter(|member| member.is_ready());
                        let among: Vec<MemberId> =
                            model.iter().filter(|(_, member)| member.is_ready()).map(|(&id, _)| id).collect();
                        prop_assert_eq!(group.is_ready(), ready().next().is_some());
                        let least = ready().map(|member| member.in_flight).min();
                        let oldest = ready().map(|member| member.last).min();
                        let Some(chosen) = group.choose(hash, hash) else {
                            prop_assert_eq!(least, None);
                            continue;
                        };
                        let member = model.get_mut(&chosen.id).expect("a member");
                        prop_assert!(member.is_ready());
                        match strategy {
                            Strategy::LeastInFlight => prop_assert_eq!(Some(member.in_flight), least),
                            Strategy::RoundRobin => prop_assert_eq!(Some(member.last), oldest),
                            Strategy::Sticky => match kept.filter(|kept| among.contains(kept)) {
                                Some(kept) => prop_assert_eq!(chosen.id, kept),
                                None => kept = kept.or(Some(chosen.id)),
                            },
                            Strategy::HashClient | Strategy::HashTopic => {
                                let before = chosen_before.insert((hash, among), chosen.id);
                                prop_assert!(before.is_none_or(|before| before == chosen.id));
                            }
                        }
                        member.credit -= 1;
                        member.in_flight += 1;
                        member.last = now;
                    }
                }
                prop_assert_eq!((group.len(), group.is_empty()), (model.len(), model.is_empty()));
                prop_assert_eq!(group.has_persistent(), model.values().any(|member| member.persistent));
                prop_assert_eq!(group.online(), model.values().filter(|member| member.online).count());
                prop_assert!(group.members().eq(model.keys().copied()));
                for (id, member) in &model {
                    prop_assert_eq!(group.in_flight(*id), Some(member.in_flight));
                }
            }
        }
    }
}
