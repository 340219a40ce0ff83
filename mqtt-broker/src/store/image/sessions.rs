//! All sessions of an image by their ClientIDs.
//!
//! Records of one session come in rows, so the session that was looked for last is looked at first.

use ahash::RandomState;
use hashbrown::HashTable;

use super::session::Session;

/// Sessions in a list without gaps: the last takes the place of one that is removed.
pub(super) struct Sessions {
    list: Vec<Session>,
    by_client_id: HashTable<Entry>,
    hasher: RandomState,
    last: usize,
}

/// A session's place, and enough of the hash of its ClientID that a growing table need not look at the session.
#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u32,
    place: u32,
}

impl Entry {
    /// Tables use both ends of a hash.
    fn spread(hash: u32) -> u64 {
        u64::from(hash) << 32 | u64::from(hash)
    }
}

impl Sessions {
    pub(super) fn new(hasher: RandomState) -> Sessions {
        Sessions { list: Vec::new(), by_client_id: HashTable::new(), hasher, last: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Session> {
        self.list.iter()
    }

    pub(super) fn iter_mut(&mut self) -> std::slice::IterMut<'_, Session> {
        self.list.iter_mut()
    }

    pub(super) fn into_list(self) -> Vec<Session> {
        self.list
    }

    pub(super) fn get(&self, client_id: &str) -> Option<&Session> {
        self.place(client_id).map(|place| &self.list[place])
    }

    pub(super) fn get_mut(&mut self, client_id: &str) -> Option<&mut Session> {
        let place = self.place(client_id)?;
        self.last = place;
        Some(&mut self.list[place])
    }

    /// Takes in a session whose ClientID no other one has.
    pub(super) fn insert(&mut self, session: Session) -> &mut Session {
        debug_assert!(self.get(session.client_id()).is_none(), "one session a ClientID");
        let hash = self.hash(session.client_id());
        self.last = self.list.len();
        let entry = Entry { hash, place: self.last as u32 };
        self.by_client_id.insert_unique(Entry::spread(hash), entry, |entry| Entry::spread(entry.hash));
        self.list.push(session);
        &mut self.list[self.last]
    }

    pub(super) fn remove(&mut self, client_id: &str) {
        let Some(place) = self.place(client_id) else { return };
        let hash = self.hash(client_id);
        let is_it = |entry: &Entry| entry.place == place as u32;
        self.by_client_id.find_entry(Entry::spread(hash), is_it).expect("just found").remove();
        let last = self.list.len() - 1;
        if place != last {
            let hash = self.hash(self.list[last].client_id());
            let is_last = |entry: &Entry| entry.place == last as u32;
            let moved = self.by_client_id.find_mut(Entry::spread(hash), is_last);
            moved.expect("every session is in the table").place = place as u32;
        }
        self.list.swap_remove(place);
    }

    fn place(&self, client_id: &str) -> Option<usize> {
        if self.list.get(self.last).is_some_and(|session| session.client_id() == client_id) {
            return Some(self.last);
        }
        let hash = self.hash(client_id);
        let is_it =
            |entry: &Entry| entry.hash == hash && self.list[entry.place as usize].client_id() == client_id;
        self.by_client_id.find(Entry::spread(hash), is_it).map(|entry| entry.place as usize)
    }

    fn hash(&self, client_id: &str) -> u32 {
        self.hasher.hash_one(client_id) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::image::session::Presence;

    #[test]
    fn sessions_are_found_whatever_others_are_removed() {
        let mut sessions = Sessions::new(RandomState::with_seeds(1, 2, 3, 4));
        let mut known = std::collections::BTreeSet::new();
        for step in 0..3000u32 {
            let number = step * 7919 % 701;
            let client_id = format!("c{number}");
            if known.remove(&number) {
                sessions.remove(&client_id);
            } else {
                sessions.insert(Session::new(&client_id, number, Presence::Away(0)));
                known.insert(number);
            }
            sessions.remove("nobody");
            assert_eq!(sessions.len(), known.len());
            for probe in [number, (number + 1) % 701, 0] {
                let found = sessions.get_mut(&format!("c{probe}")).map(|session| session.expiry_seconds());
                assert_eq!(found, known.contains(&probe).then_some(probe));
            }
        }
    }
}
