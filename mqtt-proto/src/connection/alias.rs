//! Topic Aliases that we assign: topic to alias, the least recently used one re-assigned when all are taken.
//!
//! Slots form a list by use and chains by hash. Topics are chosen by strangers, so all of them may share one chain:
//! its length is bounded by the number of aliases, which the owner chooses.

use alloc::string::String;
use alloc::vec::Vec;

/// Marks the end of a list; also no alias, since aliases are at most 65,535 and slots begin with 0.
const NONE: u16 = u16::MAX;

/// The aliases in use on one Network Connection.
#[derive(Debug)]
pub(super) struct AliasTable {
    /// Slot n is alias n + 1.
    slots: Vec<Slot>,
    /// First slot by hash; a power of two of them, at least as many as slots.
    chains: Vec<u16>,
    newest: u16,
    oldest: u16,
    limit: u16,
}

#[derive(Debug)]
struct Slot {
    topic: String,
    hash: u32,
    /// Next in the chain of the same hash.
    next: u16,
    newer: u16,
    older: u16,
}

impl AliasTable {
    /// An empty table that hands out 1 to `limit`, which is not 0.
    pub(super) fn new(limit: u16) -> AliasTable {
        AliasTable { slots: Vec::new(), chains: Vec::new(), newest: NONE, oldest: NONE, limit }
    }

    /// The alias of `topic`, which becomes the most recently used.
    pub(super) fn find(&mut self, topic: &str) -> Option<u16> {
        if self.chains.is_empty() {
            return None;
        }
        let hash = hash(topic.as_bytes());
        let mut at = self.chains[self.chain_of(hash)];
        while at != NONE {
            let slot = &self.slots[usize::from(at)];
            if slot.hash == hash && slot.topic == topic {
                if self.newest != at {
                    self.unlink(at);
                    self.link_newest(at);
                }
                return Some(at + 1);
            }
            at = slot.next;
        }
        None
    }

    /// The alias that [`AliasTable::assign`] would give next: an unused one, else the least recently used.
    pub(super) fn candidate(&self) -> u16 {
        // 65,535 as a slot would be `NONE`: that alias is never handed out.
        match u16::try_from(self.slots.len()) {
            Ok(len) if len < self.limit.min(NONE - 1) => len + 1,
            _ => self.oldest + 1,
        }
    }

    /// Gives the candidate to `topic`, which has no alias yet.
    pub(super) fn assign(&mut self, topic: &str) {
        let at = self.candidate() - 1;
        let hash = hash(topic.as_bytes());
        if usize::from(at) == self.slots.len() {
            self.slots.push(Slot { topic: topic.into(), hash, next: NONE, newer: NONE, older: NONE });
            if self.chains.len() < self.slots.len() {
                self.rebuild_chains();
            } else {
                self.link_chain(at);
            }
        } else {
            self.unlink(at);
            self.unlink_chain(at);
            let slot = &mut self.slots[usize::from(at)];
            slot.topic.clear();
            slot.topic.push_str(topic);
            slot.hash = hash;
            self.link_chain(at);
        }
        self.link_newest(at);
    }

    fn chain_of(&self, hash: u32) -> usize {
        hash as usize & (self.chains.len() - 1)
    }

    fn link_chain(&mut self, at: u16) {
        let chain = self.chain_of(self.slots[usize::from(at)].hash);
        self.slots[usize::from(at)].next = core::mem::replace(&mut self.chains[chain], at);
    }

    fn unlink_chain(&mut self, at: u16) {
        let Slot { hash, next, .. } = self.slots[usize::from(at)];
        let chain = self.chain_of(hash);
        if self.chains[chain] == at {
            self.chains[chain] = next;
            return;
        }
        let mut before = self.chains[chain];
        while self.slots[usize::from(before)].next != at {
            before = self.slots[usize::from(before)].next;
        }
        self.slots[usize::from(before)].next = next;
    }

    fn rebuild_chains(&mut self) {
        self.chains.clear();
        self.chains.resize(self.slots.len().next_power_of_two().max(4), NONE);
        for at in 0..self.slots.len() {
            self.link_chain(at as u16);
        }
    }

    /// Takes a slot out of the list by use.
    fn unlink(&mut self, at: u16) {
        let Slot { newer, older, .. } = self.slots[usize::from(at)];
        match newer {
            NONE => self.newest = older,
            newer => self.slots[usize::from(newer)].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.slots[usize::from(older)].newer = newer,
        }
    }

    fn link_newest(&mut self, at: u16) {
        let older = core::mem::replace(&mut self.newest, at);
        match older {
            NONE => self.oldest = at,
            older => self.slots[usize::from(older)].newer = at,
        }
        let slot = &mut self.slots[usize::from(at)];
        slot.older = older;
        slot.newer = NONE;
    }
}

/// Multiplies and folds eight bytes at a time.
fn hash(bytes: &[u8]) -> u32 {
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut state = bytes.len() as u64;
    let mut mix = |word: u64| {
        let product = (state ^ word).wrapping_mul(FACTOR);
        state = product ^ (product >> 29);
    };
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        mix(u64::from_le_bytes(chunk.try_into().expect("chunks of eight")));
    }
    let mut last = [0; 8];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    mix(u64::from_le_bytes(last));
    (state >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    fn put(table: &mut AliasTable, topic: &str) -> u16 {
        assert_eq!(table.find(topic), None);
        let alias = table.candidate();
        table.assign(topic);
        assert_eq!(table.find(topic), Some(alias));
        alias
    }

    #[test]
    fn the_least_recently_used_alias_is_reassigned() {
        let mut table = AliasTable::new(3);
        assert_eq!([put(&mut table, "a"), put(&mut table, "b"), put(&mut table, "c")], [1, 2, 3]);
        assert_eq!(table.find("a"), Some(1));
        assert_eq!(put(&mut table, "d"), 2);
        assert_eq!(table.find("b"), None);
        assert_eq!(put(&mut table, "b"), 3);
        assert_eq!(put(&mut table, "e"), 1);
        assert_eq!(put(&mut table, "f"), 2);
    }

    #[test]
    fn a_single_alias_moves_from_topic_to_topic() {
        let mut table = AliasTable::new(1);
        for topic in ["a", "b", "a", "c"] {
            assert_eq!(put(&mut table, topic), 1);
        }
    }

    /// Against a plain list ordered by use.
    #[test]
    fn the_table_agrees_with_a_list() {
        let mut table = AliasTable::new(50);
        let mut list: Vec<(String, u16)> = Vec::new();
        let mut random = 1u64;
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let topic = format!("home/room{}/temperature", (random >> 33) % 80);
            match list.iter().position(|(known, _)| *known == topic) {
                Some(at) => {
                    let entry = list.remove(at);
                    assert_eq!(table.find(&topic), Some(entry.1));
                    list.push(entry);
                }
                None => {
                    assert_eq!(table.find(&topic), None);
                    let alias = if list.len() < 50 { list.len() as u16 + 1 } else { list.remove(0).1 };
                    assert_eq!(table.candidate(), alias);
                    table.assign(&topic);
                    list.push((topic, alias));
                }
            }
        }
    }

    /// Chance alone would leave 377 of 1,024 chains empty and make the longest 6 or 7 long.
    #[test]
    fn topics_that_differ_little_fall_into_different_chains() {
        let kinds: [fn(u32) -> String; 3] = [
            |n| format!("home/room{n}/temperature"),
            |n| format!("{n:08}"),
            |n| format!("{}{}", "a".repeat(1 + n as usize / 26), char::from(b'a' + (n % 26) as u8)),
        ];
        for kind in kinds {
            let mut lengths = [0; 1_024];
            (0..1_024).for_each(|n| lengths[hash(kind(n).as_bytes()) as usize % 1_024] += 1);
            let empty = lengths.iter().filter(|&&len| len == 0).count();
            assert!(empty < 450, "{empty} chains are empty, {} is the first topic", kind(0));
            assert!(lengths.iter().all(|&len| len <= 12), "{} is the first topic", kind(0));
        }
    }

    #[test]
    fn the_whole_range_of_aliases_can_be_asked_for() {
        let mut table = AliasTable::new(u16::MAX);
        for n in 0..70_000 {
            put(&mut table, &format!("t{n}"));
        }
        assert_eq!(table.slots.len(), 65_534);
    }
}
