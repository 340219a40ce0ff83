//! The Shared Subscription groups that this core owns, by ShareName and filter.

use ahash::RandomState;
use mqtt_proto::types::{ShareName, TopicFilter, TopicName};

use super::filters::{FilterId, Filters};
use super::shared::{Group, Strategy};
use super::slab::Slab;
use super::words::Words;

/// A group of this core: stable until it is removed, reused afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(u32);

impl GroupId {
    /// Its place in a table of one entry a group.
    pub const fn index(self) -> u32 {
        self.0
    }

    /// The id with this index, of a group that may be gone.
    pub const fn from_index(index: u32) -> GroupId {
        GroupId(index)
    }
}

/// The groups of one core.
pub struct Groups {
    hasher: RandomState,
    entries: Slab<Entry>,
    /// Hash of ShareName and filter, and index + 1.
    named: Words,
    filters: Filters<Vec<GroupId>>,
}

struct Entry {
    share_name: Box<str>,
    filter: FilterId,
    group: Group,
}

impl Groups {
    /// No groups; `seed` keys the hashes, so that no client can aim at collisions.
    pub fn new(seed: [u64; 4]) -> Groups {
        Groups {
            hasher: RandomState::with_seeds(seed[0], seed[1], seed[2], seed[3]),
            entries: Slab::new(),
            named: Words::default(),
            filters: Filters::new(seed),
        }
    }

    /// The group of `share_name` and `filter`, made with `strategy` if there is none.
    pub fn insert(
        &mut self,
        share_name: ShareName<'_>,
        filter: TopicFilter<'_>,
        strategy: Strategy,
    ) -> GroupId {
        if let Some(known) = self.find(share_name, filter) {
            return known;
        }
        let (filter_id, _) = self.filters.intern(filter, Vec::new);
        let id = GroupId(self.entries.insert(Entry {
            share_name: share_name.as_str().into(),
            filter: filter_id,
            group: Group::new(strategy),
        }));
        self.filters.get_mut(filter_id).expect("it was just interned").push(id);
        self.named.insert(self.word(share_name.as_str(), filter.as_str(), id));
        id
    }

    /// The group of `share_name` and `filter`.
    pub fn find(&self, share_name: ShareName<'_>, filter: TopicFilter<'_>) -> Option<GroupId> {
        self.named
            .with_hash(self.hash(share_name.as_str(), filter.as_str()))
            .map(|word| GroupId(word as u32 - 1))
            .find(|&id| self.name(id) == Some((share_name.as_str(), filter.as_str())))
    }

    /// Whether any group has this filter.
    pub fn has_filter(&self, filter: TopicFilter<'_>) -> bool {
        self.filters.find(filter).is_some()
    }

    /// Forgets the group `id`; the answer is what it was.
    pub fn remove(&mut self, id: GroupId) -> Option<Group> {
        let (share_name, filter) = self.name(id)?;
        let word = self.word(share_name, filter, id);
        self.named.remove(word);
        let entry = self.entries.remove(id.0)?;
        let beside = self.filters.get_mut(entry.filter).expect("a group's filter is kept with it");
        beside.retain(|&other| other != id);
        if beside.is_empty() {
            self.filters.remove(entry.filter);
        }
        Some(entry.group)
    }

    /// The group `id`.
    pub fn get(&self, id: GroupId) -> Option<&Group> {
        self.entries.get(id.0).map(|entry| &entry.group)
    }

    /// The group `id`.
    pub fn get_mut(&mut self, id: GroupId) -> Option<&mut Group> {
        self.entries.get_mut(id.0).map(|entry| &mut entry.group)
    }

    /// ShareName and filter of the group `id`.
    pub fn name(&self, id: GroupId) -> Option<(&str, &str)> {
        let entry = self.entries.get(id.0)?;
        Some((&entry.share_name, self.filters.text(entry.filter)?))
    }

    /// Appends every group whose filter matches `topic` to `out`.
    pub fn matches(&self, topic: TopicName<'_>, out: &mut Vec<GroupId>) {
        self.filters.matches(topic, |groups| out.extend_from_slice(groups));
    }

    /// How many groups there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All groups, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (GroupId, &Group)> {
        self.entries.iter().map(|(index, entry)| (GroupId(index), &entry.group))
    }

    fn hash(&self, share_name: &str, filter: &str) -> u32 {
        (self.hasher.hash_one((share_name, filter)) >> 32) as u32
    }

    fn word(&self, share_name: &str, filter: &str, id: GroupId) -> u64 {
        u64::from(self.hash(share_name, filter)) << 32 | u64::from(id.0 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mqtt_proto::types::SharedFilter;

    fn parts(text: &str) -> (ShareName<'_>, TopicFilter<'_>) {
        let shared = SharedFilter::new(text).expect("a shared filter");
        (shared.share_name.expect("it begins with $share/"), shared.filter)
    }

    fn insert(groups: &mut Groups, text: &str) -> GroupId {
        let (share_name, filter) = parts(text);
        groups.insert(share_name, filter, Strategy::RoundRobin)
    }

    #[test]
    fn groups_are_told_apart_by_name_and_filter_and_found_by_topic() {
        let mut groups = Groups::new([1, 2, 3, 4]);
        let one = insert(&mut groups, "$share/one/a/+");
        let two = insert(&mut groups, "$share/two/a/+");
        let exact = insert(&mut groups, "$share/one/a/b");
        assert_eq!(insert(&mut groups, "$share/one/a/+"), one);
        assert_eq!(groups.name(two), Some(("two", "a/+")));
        let found = |groups: &Groups, topic| {
            let mut found = Vec::new();
            groups.matches(TopicName::new(topic).expect("a topic"), &mut found);
            found.sort_unstable();
            found
        };
        assert_eq!(found(&groups, "a/b"), [one, two, exact]);
        assert_eq!(found(&groups, "a/c"), [one, two]);
        assert!(groups.remove(one).is_some_and(|group| group.is_empty()));
        assert!(groups.remove(one).is_none());
        assert_eq!(found(&groups, "a/b"), [two, exact]);
        let (share_name, filter) = parts("$share/one/a/+");
        assert_eq!(groups.find(share_name, filter), None);
        assert_eq!(groups.iter().map(|(id, _)| id).collect::<Vec<GroupId>>(), [two, exact]);
        groups.remove(two);
        groups.remove(exact);
        assert!(groups.is_empty() && groups.filters.len() == 0 && groups.named.len() == 0);
    }

    /// ShareName and filter that are alike when joined are not the same group.
    #[test]
    fn the_border_between_name_and_filter_counts() {
        let mut groups = Groups::new([1, 2, 3, 4]);
        assert_ne!(insert(&mut groups, "$share/ab/c"), insert(&mut groups, "$share/a/bc"));
        assert_eq!(groups.len(), 2);
    }

    #[test]
    fn names_with_colliding_hashes_are_told_apart() {
        let mut groups = Groups::new([1, 2, 3, 4]);
        let mut seen = std::collections::HashMap::with_hasher(groups.hasher.clone());
        // Among 300,000 hashes of 32 bits there are about ten pairs.
        let (one, other) = (0..300_000)
            .find_map(|number| {
                let name = format!("g{number}");
                seen.insert(groups.hash(&name, "a"), name.clone()).map(|other| (other, name))
            })
            .expect("a collision under this seed");
        let [one, other] = [one, other].map(|name| insert(&mut groups, &format!("$share/{name}/a")));
        assert_ne!(one, other);
        assert!(groups.remove(one).is_some() && groups.get(other).is_some());
    }

    /// Nobody without the seed can make many groups share a hash, nor do a name and a filter that run together.
    #[test]
    fn the_hash_of_a_group_depends_on_its_name_its_filter_and_the_seed() {
        let (groups, others) = (Groups::new([1, 2, 3, 4]), Groups::new([1, 2, 3, 5]));
        let hash = groups.hash("ab", "c");
        let different = [groups.hash("a", "bc"), groups.hash("ab", "d"), others.hash("ab", "c")];
        assert!(different.iter().all(|&other| other != hash), "{hash}, {different:?}");
    }
}
