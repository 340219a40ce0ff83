//! One Shared Subscription group at its owner core: who gets the next message.
//!
//! The group keeps no message. It knows its members, which of them are online, and how many messages each may still
//! take; [`Group::choose`] binds a message to one of them [MQTT-4.8.2-4]. Invariant: `ready` holds exactly the members
//! that are online and have credit. Lives on: the core that owns the group.

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
#[error("a strategy is one of round_robin, sticky, hash_client, hash_topic, least_in_flight")]
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

    /// `n` messages of those in flight to `id` are done, so that it takes as many again. Without effect while offline.
    pub fn add_credit(&mut self, id: MemberId, n: u16) {
        self.change(id, |member| {
            if member.online {
                member.credit = member.credit.saturating_add(n);
                member.in_flight = member.in_flight.saturating_sub(u32::from(n));
            }
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
