//! Who asked for a topic, by the raw bytes of filters and topics.
//!
//! A filter with wildcards is kept under what stands before its first one, so that a topic is compared with few of them.
//! `a/#` is not found for `a` itself, which no load of mqtt-load needs.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::rc::Rc;

/// Nobody attacks this program: the fastest hash will do.
pub(crate) type Map<K, V> = HashMap<K, V, BuildHasherDefault<ahash::AHasher>>;

/// A filter with wildcards, and whose it is.
type Wild = (Rc<[u8]>, u32);

/// The filters of all sessions.
#[derive(Default)]
pub(crate) struct Table {
    exact: Map<Rc<[u8]>, Vec<u32>>,
    wild: Map<Box<[u8]>, Vec<Wild>>,
    /// Counts the changes: a route made before the last one may be wrong.
    pub(crate) generation: u64,
}

impl Table {
    /// Adds a filter of `session`; returns its text, to be given back to [`Table::remove`].
    pub(crate) fn insert(&mut self, filter: &[u8], session: u32) -> Rc<[u8]> {
        self.generation += 1;
        let text: Rc<[u8]> = filter.into();
        if let Some(prefix) = prefix(filter) {
            self.wild.entry(prefix.into()).or_default().push((text.clone(), session));
        } else {
            let sessions = self.exact.entry(text.clone()).or_insert_with(|| Vec::with_capacity(1));
            sessions.push(session);
        }
        text
    }

    /// Takes a filter of `session` out.
    pub(crate) fn remove(&mut self, filter: &[u8], session: u32) {
        self.generation += 1;
        if let Some(prefix) = prefix(filter) {
            let Some(filters) = self.wild.get_mut(prefix) else { return };
            filters.retain(|(text, at)| **text != *filter || *at != session);
            if filters.is_empty() {
                self.wild.remove(prefix);
            }
        } else {
            let Some(sessions) = self.exact.get_mut(filter) else { return };
            sessions.retain(|at| *at != session);
            if sessions.is_empty() {
                self.exact.remove(filter);
            }
        }
    }

    /// Makes `route` the sessions that asked for `topic`.
    pub(crate) fn route(&self, topic: &[u8], route: &mut Vec<u32>) {
        route.clear();
        if let Some(sessions) = self.exact.get(topic) {
            route.extend_from_slice(sessions);
        }
        if self.wild.is_empty() {
            return;
        }
        let ends = topic.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at + 1);
        for end in std::iter::once(0).chain(ends) {
            let filters = self.wild.get(&topic[..end]).map_or(&[][..], Vec::as_slice);
            route
                .extend(filters.iter().filter(|(text, _)| matches(text, topic)).map(|(_, session)| *session));
        }
    }
}

/// What stands before the first wildcard, if there is one.
pub(crate) fn prefix(filter: &[u8]) -> Option<&[u8]> {
    filter.iter().position(|byte| matches!(byte, b'+' | b'#')).map(|at| &filter[..at])
}

/// Whether `filter` matches `topic`, level by level.
pub(crate) fn matches(filter: &[u8], topic: &[u8]) -> bool {
    let mut levels = topic.split(|byte| *byte == b'/');
    for wanted in filter.split(|byte| *byte == b'/') {
        match (wanted, levels.next()) {
            (b"#", _) => return true,
            (b"+", Some(_)) => {}
            (wanted, level) if level == Some(wanted) => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}
